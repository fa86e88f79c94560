"""The rules: departures are dated, confirmed by a later view, and no evidence is never non-compliance."""

from datetime import date, timedelta

import numpy as np
import pytest

from monitor.rules import (
    ClearViews,
    Finding,
    Neighbours,
    Posterior,
    RuleSettings,
    crop_mismatch,
    early_loss,
    neighbours_of,
    no_emergence,
)

SETTINGS = RuleSettings()
START = date(2025, 1, 1)


def views(*pairs: tuple[int, float]) -> ClearViews:
    days = np.array([np.datetime64(START) + day for day, _ in pairs], "M8[D]")
    return ClearViews(days, np.array([ndvi for _, ndvi in pairs], np.float32))


def neighbours(emerged_on: int = 100, lost_on: int = 200, n: int = 20) -> Neighbours:
    day = np.arange(365)
    return Neighbours(n, START, (day >= emerged_on).astype(np.float32), (day >= lost_on).astype(np.float32))


def posterior(declared: float, other: float, day: int = 150, n: int = 40) -> Posterior:
    rest = 1 - declared - other
    return Posterior(("wheat", "maize", "beet"), np.array([declared, other, rest], np.float32), n, START + timedelta(days=day))


def test_mismatch_is_yellow_at_first_and_red_when_it_holds() -> None:
    first = crop_mismatch("wheat", posterior(0.01, 0.95, 150), None, SETTINGS)
    assert (first.colour, first.departed_on) == ("yellow", START + timedelta(days=150))
    soon = crop_mismatch("wheat", posterior(0.01, 0.95, 155), first, SETTINGS)
    assert soon.colour == "yellow"
    later = crop_mismatch("wheat", posterior(0.01, 0.95, 161), soon, SETTINGS)
    assert (later.colour, later.departed_on) == ("red", START + timedelta(days=150))
    assert later.evidence["most_likely"] == "maize"


def test_mismatch_that_does_not_hold_turns_green_and_forgets_its_date() -> None:
    first = crop_mismatch("wheat", posterior(0.01, 0.95, 150), None, SETTINGS)
    green = crop_mismatch("wheat", posterior(0.40, 0.55, 165), first, SETTINGS)
    assert (green.colour, green.departed_on) == ("green", None)
    again = crop_mismatch("wheat", posterior(0.01, 0.95, 170), green, SETTINGS)
    assert (again.colour, again.departed_on) == ("yellow", START + timedelta(days=170))


@pytest.mark.parametrize(
    ("declared", "belief", "outcome"),
    [
        (None, posterior(0.0, 1.0), "NOT_EXECUTED"),
        ("wheat", None, "NOT_EXECUTED"),
        ("vineyard", posterior(0.0, 1.0), "NOT_EXECUTED"),
        ("wheat", posterior(0.0, 1.0, n=19), "NOT_VALID"),
    ],
)
def test_mismatch_without_evidence_has_no_colour(declared: str | None, belief: Posterior | None, outcome: str) -> None:
    finding = crop_mismatch(declared, belief, None, SETTINGS)
    assert (finding.outcome, finding.colour) == (outcome, None)
    assert finding.evidence["reason"]


def test_bare_parcel_departs_only_after_the_neighbours_and_the_grace() -> None:
    bare = [(day, 0.2) for day in range(60, 141, 10)]
    early = no_emergence(views(*bare[:5]), neighbours(emerged_on=100), None, SETTINGS)  # until day 100, due on 114
    assert early.outcome == "NOT_VALID"
    first = no_emergence(views(*bare[:7]), neighbours(emerged_on=100), None, SETTINGS)  # until day 120
    assert (first.colour, first.departed_on) == ("yellow", START + timedelta(days=120))
    later = no_emergence(views(*bare), neighbours(emerged_on=100), first, SETTINGS)
    assert later.colour == "red"
    assert later.evidence["emergence_due"] == "2025-04-25"


def test_emerged_parcel_is_green_whatever_comes_after() -> None:
    found = no_emergence(views((80, 0.4), (90, 0.6), (130, 0.2), (150, 0.2)), neighbours(), None, SETTINGS)
    assert found.colour == "green"


def test_one_green_glimpse_before_the_due_date_is_no_emergence() -> None:
    found = no_emergence(views((80, 0.5), (130, 0.2), (150, 0.2)), neighbours(), None, SETTINGS)
    assert found.colour == "red"


def test_loss_is_early_only_while_the_neighbours_stand() -> None:
    lost = views((100, 0.7), (110, 0.8), (120, 0.8), (130, 0.2), (145, 0.18))
    early = early_loss(lost, neighbours(lost_on=200), None, SETTINGS)
    assert (early.colour, early.departed_on) == ("red", START + timedelta(days=130))
    harvested = early_loss(lost, neighbours(lost_on=125), None, SETTINGS)
    assert harvested.colour == "green"


def test_a_cloud_dip_is_not_a_loss() -> None:
    dip = views((100, 0.7), (110, 0.8), (120, 0.1), (130, 0.8))
    assert early_loss(dip, neighbours(), None, SETTINGS).colour == "green"


def test_a_single_low_view_is_only_yellow() -> None:
    found = early_loss(views((100, 0.7), (110, 0.8), (120, 0.1)), neighbours(), None, SETTINGS)
    assert found.colour == "yellow"


@pytest.mark.parametrize("rule", [no_emergence, early_loss])
def test_too_few_neighbours_is_not_executed(rule: object) -> None:
    assert callable(rule)
    found: Finding = rule(views((100, 0.1)), neighbours(n=3), None, SETTINGS)
    assert (found.outcome, found.colour) == ("NOT_EXECUTED", None)


def test_neighbours_shares_count_parcels_by_day() -> None:
    parcel = np.repeat([1, 2], 4)
    days = np.tile([np.datetime64(START) + d for d in (10, 20, 30, 40)], 2).astype("M8[D]")
    ndvi = np.array([0.6, 0.7, 0.7, 0.2, 0.1, 0.1, 0.4, 0.4], np.float32)
    shares = neighbours_of(parcel, days, ndvi, START, START + timedelta(days=59), SETTINGS)
    assert shares.n == 2
    assert shares.emerged_share[[19, 20, 39, 40]].tolist() == [0.0, 0.5, 0.5, 1.0]  # the second green view counts
    assert shares.lost_share[[39, 40, 59]].tolist() == [0.0, 0.5, 0.5]
