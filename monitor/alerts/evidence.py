"""Findings in a sentence, for people who decide on them."""

from collections.abc import Mapping
from datetime import date
from typing import Any, Final

RULES: Final = ("crop_mismatch", "no_emergence", "early_loss")
"""Rules that have a sentence in `_said`."""
DECISIONS: Final = ("acknowledged", "dismissed")
"""Events of an alert that a person made."""


def why(rule: str, evidence: Mapping[str, Any]) -> str:
    """Return what a finding rests on, with the day of the last observation in it ("as of")."""
    if "reason" in evidence:
        return str(evidence["reason"])
    day = as_of(evidence)
    said = _said(rule, evidence)
    return f"as of {day}: {said}" if day and said else said or "nothing departs"


def as_of(evidence: Mapping[str, Any]) -> date | None:
    """Return the day of the newest observation in a finding's evidence; None where it names none."""
    views = evidence.get("clear_views") or []
    day = evidence.get("observed_to") or (views[-1][0] if views else evidence.get("lost_on"))
    return None if day is None else date.fromisoformat(str(day))


def percent(probability: float) -> str:
    """Return a probability in percent, never rounded to the certainties 0 and 100."""
    if 0 < probability < 0.01:
        return "under 1%"
    if 0.99 < probability < 1:
        return "over 99%"
    return f"{probability:.0%}"


def _said(rule: str, evidence: Mapping[str, Any]) -> str:
    if rule == "crop_mismatch" and "declared" in evidence:
        return (
            f"probability of the declared {evidence['declared']} {percent(evidence['probability_of_declared'])}, "
            f"of {evidence['most_likely']} {percent(evidence['probability_of_most_likely'])}, "
            f"after {evidence['n_observations']} observations"
        )
    views = "; ".join(f"{day} NDVI {ndvi:.2f}" for day, ndvi in evidence.get("clear_views", []))
    if rule == "no_emergence" and "emergence_due" in evidence:
        return (
            f"emergence was due {evidence['emergence_due']}, as on {evidence['neighbours']} parcels of the same crop around; "
            f"clear views: {views or 'none'}"
        )
    if "lost_on" in evidence:
        share = evidence.get("standing_share_of_neighbours", 0)
        return (
            f"canopy lost on {evidence['lost_on']} while {percent(share)} of the {evidence['neighbours']} parcels of the same "
            f"crop around had one; clear views: {views or 'none'}"
        )
    if rule not in RULES:  # a rule without a sentence here: its evidence as it is, never "nothing departs"
        return "; ".join(f"{name.replace('_', ' ')} {value}" for name, value in evidence.items())
    return ""
