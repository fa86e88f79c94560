"""Texts of parcel files made storable: ids exactly or not at all, others without what no screen should get."""

import re
from collections.abc import Sequence
from typing import Final

MAX_CHARACTERS: Final = 200
"""Chosen because keys of the database's indexes end at 2704 bytes, and the longest id seen has 40."""
UNSTORABLE: Final = f"control characters, no text, a float that is no exact number, or over {MAX_CHARACTERS} characters"
MAX_NAMED: Final = 60
"""Columns that a message lists."""
_UNWANTED: Final = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f"  # control characters
    "\\u061c\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff"  # invisible, or turning the writing direction
    "\\ufff9-\\uffff\\ud800-\\udfff]+"  # no characters; U+FFFD stands for bytes that were none
)


def id_part(text: str | None) -> tuple[str | None, bool]:
    """Return a part of an id, and whether it can be used as it is; what pads it is no part of it."""
    bare = (text or "").rstrip("\0 ").strip()
    return bare or None, len(bare) <= MAX_CHARACTERS and not _UNWANTED.search(bare)


def storable(text: str | None) -> tuple[str | None, bool]:
    """Return a text without unwanted characters, None if blank, and False in its place where it is too long to store."""
    bare = " ".join(_UNWANTED.sub(" ", text or "").split())
    return (bare or None, True) if len(bare) <= MAX_CHARACTERS else (None, False)


def listed(names: Sequence[str]) -> str:
    """Return names for a message, not more than people read."""
    shown = ", ".join(name if len(name) <= MAX_NAMED else name[:MAX_NAMED] + "..." for name in names[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown}, ... ({len(names)} in all)"
