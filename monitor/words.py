"""Findings in a sentence, for people who decide on them."""

from collections.abc import Mapping
from typing import Any


def why(rule: str, evidence: Mapping[str, Any]) -> str:
    """What a finding rests on."""
    if "reason" in evidence:
        return str(evidence["reason"])
    if rule == "crop_mismatch":
        return (
            f"declared {evidence['declared']} has {evidence['probability_of_declared']:.0%}, "
            f"{evidence['most_likely']} {evidence['probability_of_most_likely']:.0%}, after {evidence['n_observations']} observations"
        )
    views = "; ".join(f"{day} NDVI {ndvi:.2f}" for day, ndvi in evidence.get("clear_views", []))
    if rule == "no_emergence":
        return f"{evidence['neighbours']} neighbours of the crop had emerged, due {evidence['emergence_due']}; {views or 'no view'}"
    if "lost_on" in evidence:
        share = evidence.get("standing_share_of_neighbours", 0)
        return f"canopy lost on {evidence['lost_on']} while {share:.0%} of {evidence['neighbours']} neighbours stood; {views}"
    return "nothing departs"
