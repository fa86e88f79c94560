"""A rule of scores by which a model may watch a season at once, such as "accuracy>=0.8"."""

import re
from collections.abc import Mapping
from typing import Any, Final

from training.errors import RunConfigError

SCORES: Final = ("accuracy", "macro_f1")


def is_allowed(rule: str | None, scores: Mapping[str, Any]) -> bool:
    """Return whether scores as known on the last scored day allow a model to be activated; None never does.

    Raises:
        RunConfigError: the rule is not of that form.
    """
    if rule is None:
        return False
    found = re.fullmatch(rf"\s*({'|'.join(SCORES)})\s*>=\s*(0(?:\.\d+)?|1(?:\.0+)?)\s*", rule)
    if found is None:
        raise RunConfigError(f"--activate-if {rule!r}: {' or '.join(SCORES)}, >= and a number from 0 to 1 are needed")
    return bool(scores) and float(scores[found[1]][-1]) >= float(found[2])
