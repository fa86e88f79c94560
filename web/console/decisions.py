"""What people can decide on alerts, in the form of the console."""

from typing import Final

from db.access import Principal

DECISIONS: Final = (
    ("acknowledge", "Acknowledge", "someone works on it"),
    ("review", "Review", "it is being looked into"),
    ("request", "Request information", "the holder was asked, with a deadline"),
    ("dismiss", "Dismiss", "no work is needed, with the reason why"),
    ("confirm", "Confirm", "it is true: seen in the field, or answered so"),
    ("assign", "Assign", "to who is to work on it"),
    ("comment", "Comment", "added to the log"),
    ("close", "Close", "the same departure alerts nobody again"),
    ("reopen", "Open again", "what was dismissed, confirmed or closed"),
)
"""Decisions of the form: the API's word, ours, and what it means."""


def decisions_of(who: Principal) -> tuple[tuple[str, str, str], ...]:
    """Return the decisions that a person may record: readers none."""
    return () if who.role == "reader" else DECISIONS
