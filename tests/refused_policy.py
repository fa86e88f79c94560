"""A policy that is wrong is refused in one line that names the line of the file."""

from pathlib import Path

import pytest

from monitor.errors import PolicyError
from monitor.policies.policy import read_policy


def assert_refused(file: Path, content: str, line: int, said: str) -> None:
    """Write a policy, and find it refused with its line and what is wrong there."""
    file.write_text(content)
    with pytest.raises(PolicyError) as caught:
        read_policy(file)
    assert f"line {line}: " in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
