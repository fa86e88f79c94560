"""What changed between two rounds: green lights that turned first, each with what was recorded in between."""

from collections.abc import Iterable
from typing import Final

from db.rounds import ChangeRow

SEVERITY: Final = ("not_executed", "green", "not_valid", "suppressed", "yellow", "red")
"""Lights in the order of the type `light`."""


def is_turned(change: ChangeRow) -> bool:
    """Return whether a light was green and is not any more."""
    return change.before == "green"


def in_order(changes: Iterable[ChangeRow]) -> list[ChangeRow]:
    """Return changes as they are to be read: parcels that were green and are not, then rules, the gravest first."""

    def place(change: ChangeRow) -> tuple[bool, bool, int, str, str]:
        is_parcels = change.parcel_before == "green" != change.parcel_after
        after = -1 if change.after is None else SEVERITY.index(change.after)
        return (not (is_turned(change) and is_parcels), not is_turned(change), -after, change.source_id, change.rule)

    return sorted(changes, key=place)


def causes(change: ChangeRow) -> list[str]:
    """Return what was recorded between two rounds that can have moved a light, in words.

    All that happened is listed, what leaves least doubt first: which of it decided follows from the evidence of the finding.
    """
    if change.before is None or change.after is None:
        return [f"not in the round {'before' if change.before is None else 'after'}"]
    said = [
        (change.is_rule_changed, "the rule or its thresholds changed"),
        (change.is_declared_anew, "another declaration"),
        (change.n_withdrawn > 0, f"{change.n_withdrawn} observations withdrawn"),
        (change.n_revised > 0, f"{change.n_revised} observations revised"),
        (change.is_decided, "a decision on its alert"),
        ("suppressed" in (change.before, change.after), "a window without alerts"),
        (change.is_model_new and change.rule == "crop_mismatch", "another model"),
        (change.n_new > 0, f"{change.n_new} new observations"),
    ]
    found = [words for is_so, words in said if is_so]
    return found or ["nothing of the parcel itself: its neighbours changed"]
