"""Crops that are paid alike count as one."""

import numpy as np

from monitor.alerts.rules import GREEN, Found, Posteriors, crop_mismatch
from monitor.alerts.settings import RuleSettings
from monitor.policies.paid_alike import summed, taken_together
from monitor.policies.policy import PaidAlike

CLASSES = ["wheat", "barley", "maize"]
CEREALS = PaidAlike(name="cereals", classes=("wheat", "barley"))


def decided(probabilities: list[float], declared: str, groups: list[PaidAlike]) -> tuple[int, str]:
    posteriors = Posteriors(CLASSES, np.array([probabilities]), np.array([50]), np.array(["2025-07-01"], "M8[D]"))
    names, of = taken_together(CLASSES, [declared], groups)
    decisions = crop_mismatch(of, summed(posteriors, names), Found.nothing(1), RuleSettings(mismatch_other_above=0.90))
    return int(decisions.found.verdict[0]), str(decisions.finding(0).evidence["most_likely"])


def test_no_alert_between_crops_that_are_paid_alike() -> None:
    assert decided([0.002, 0.99, 0.008], "wheat", []) == (3, "barley")
    assert decided([0.002, 0.99, 0.008], "wheat", [CEREALS]) == (GREEN, "cereals")


def test_two_that_are_paid_alike_are_sure_together() -> None:
    """Neither is sure for itself, but that it is no maize is."""
    assert decided([0.5, 0.496, 0.004], "maize", [])[0] == GREEN
    assert decided([0.5, 0.496, 0.004], "maize", [CEREALS]) == (3, "cereals")
