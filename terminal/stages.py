"""The stages of a long run: shown to a person while they last, timed for the report."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console

from terminal.output import Steps, progress


@dataclass
class Stages:
    """Show a person what is being done and keep how long each stage took."""

    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[Steps]:
        """Yield the progress of one stage."""
        begun = time.monotonic()
        with progress(name, self.console) as steps:
            yield steps
        self.seconds[name] = time.monotonic() - begun
