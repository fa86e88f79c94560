"""An alert's sentence: its day, whose probability, and what was seen."""

from datetime import date
from typing import Any

import pytest

from monitor.alerts.evidence import SENTENCES, as_of, detail, percent, why
from monitor.alerts.rules import RULES

MISMATCH = {
    "declared": "silage maize",
    "probability_of_declared": 0.004,
    "most_likely": "potato",
    "probability_of_most_likely": 0.98,
    "n_observations": 41,
    "observed_to": "2025-02-28",
}
VIEWS = [["2025-05-01", 0.21], ["2025-05-11", 0.2]]


@pytest.mark.parametrize(
    ("rule", "evidence", "sentence"),
    [
        (
            "crop_mismatch",
            MISMATCH,
            "as of 2025-02-28: probability of the declared silage maize under 1%, of potato 98%, after 41 observations",
        ),
        (
            "no_emergence",
            {"emergence_due": "2025-04-25", "neighbours": 12, "clear_views": VIEWS},
            "as of 2025-05-11: emergence was due 2025-04-25, as on 12 parcels of the same crop around; "
            "clear views: 2025-05-01 NDVI 0.21; 2025-05-11 NDVI 0.20",
        ),
        (
            "early_loss",
            {"lost_on": "2025-05-01", "neighbours": 9, "standing_share_of_neighbours": 0.95, "clear_views": VIEWS},
            "as of 2025-05-11: canopy lost on 2025-05-01 while 95% of the 9 parcels of the same crop around had one; "
            "clear views: 2025-05-01 NDVI 0.21; 2025-05-11 NDVI 0.20",
        ),
        (
            "no_emergence",
            {"emergence_due": "2025-04-25", "neighbours": 12, "clear_views": []},
            "emergence was due 2025-04-25, as on 12 parcels of the same crop around; clear views: none",
        ),
        ("early_loss", {"threshold_ndvi": 0.3, "neighbours": 9}, "nothing departs"),
        (
            "early_loss",
            {"lost_on": "2025-05-01", "neighbours": 9, "harvest_from": "2025-05-08", "clear_views": VIEWS},
            "as of 2025-05-11: canopy lost on 2025-05-01; the harvest of the same crop around began on 2025-05-08, "
            "by the day of the season before; clear views: 2025-05-01 NDVI 0.21; 2025-05-11 NDVI 0.20",
        ),
        ("crop_mismatch", {"reason": "nothing is declared"}, "nothing is declared"),
        ("a_rule_of_later", {}, "nothing departs"),
        ("a_rule_of_later", {"mown_on": "2025-06-01", "n_cuts": 2}, "mown on 2025-06-01; n cuts 2"),
    ],
)
def test_why(rule: str, evidence: dict[str, Any], sentence: str) -> None:
    assert why(rule, evidence) == sentence


def test_every_rule_has_a_sentence() -> None:
    assert set(SENTENCES) == set(RULES)


@pytest.mark.parametrize(
    ("evidence", "day"),
    [
        (MISMATCH, date(2025, 2, 28)),
        ({"lost_on": "2025-05-01", "clear_views": VIEWS}, date(2025, 5, 11)),
        ({"lost_on": "2025-05-01"}, date(2025, 5, 1)),
        ({"reason": "nothing"}, None),
    ],
)
def test_as_of_is_the_day_of_the_newest_observation(evidence: dict[str, Any], day: date | None) -> None:
    assert as_of(evidence) == day


@pytest.mark.parametrize(
    ("probability", "shown"),
    [(0.0, "0%"), (1e-9, "under 1%"), (0.01, "1%"), (0.5, "50%"), (0.9999, "over 99%"), (1.0, "100%")],
)
def test_only_certainties_are_shown_as_certain(probability: float, shown: str) -> None:
    assert percent(probability) == shown


def test_times_of_a_decision_are_said_in_utc_to_the_minute() -> None:
    assert detail("deadline", "2025-07-01T02:00:00+02:00") == "deadline 2025-07-01 00:00 UTC"
    assert detail("taken_at", "2025-06-20T14:05:09+00:00") == "taken at 2025-06-20 14:05 UTC"
    assert detail("assignee", "dora") == "assignee dora"
