"""What is measured of a watched season, on seasons small enough to check by hand."""

from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pytest

from db.history import HistoryRow
from db.parcels import Parcel
from db.season_results import RaisedAlertRow
from db.seasons import Season
from research.seasons import curve_scores, evaluate
from research.seasons.evaluate import Watched
from training.metrics import reliability

DAYS = np.arange("2025-03-01", "2025-03-06", dtype="M8[D]")
CURVE = [("parcel_key", "i8"), ("day", "M8[D]"), ("is_observed", "?"), ("ndvi", "f4"), ("ndvi_sd", "f4")]
VIEWS = [("parcel_key", "i8"), ("observed_at", "M8[us]"), ("ndvi", "f4")]


def parcel(key: int, name: str, reason: str | None = None) -> Parcel:
    return Parcel(key, "demo", "2025", name, "here", 2.0, 600.0, 0.8, 5.0, 52.0, reason, "1", "winter wheat", None)


def alert(
    name: str, rule: str, opened: date, confirmed: date | None = None, closed: date | None = None
) -> RaisedAlertRow:
    later = [None if day is None else noon(day) for day in (confirmed, closed)]
    return RaisedAlertRow(name, rule, noon(opened), *later)


def noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


def evidence(rule: str, event: str, day: date, ndvi: float) -> HistoryRow:
    detail = {
        "rule": rule,
        "event": event,
        "neighbours": 9,
        "emergence_due": "2025-03-01",
        "clear_views": [[str(day), ndvi]],
    }
    at = noon(day)
    return HistoryRow(at, "alert", at, None, None, None, None, None, None, None, None, detail)


def watched(**changes: object) -> Watched:
    known: dict[str, object] = {
        "season": Season(1, "2025", date(2024, 9, 1), date(2025, 10, 31)),
        "parcels": [parcel(1, "a"), parcel(2, "b"), parcel(3, "small", "too_small")],
        "causal": np.empty(0, CURVE),
        "final": np.empty(0, CURVE),
        "views": np.empty(0, VIEWS),
        "alerts": [],
        "histories": {},
        "lights": {"a": "green", "b": "red", "small": "not monitorable"},
    }
    return Watched(**(known | changes))  # type: ignore[arg-type]


def test_last_values_know_nothing_of_the_future_and_lines_do() -> None:
    seen = np.array([[np.nan, 0.2, np.nan, np.nan, 0.8]])
    np.testing.assert_allclose(curve_scores.last_values(seen), [[np.nan, 0.2, 0.2, 0.2, 0.8]])
    np.testing.assert_allclose(curve_scores.straight_lines(seen), [[np.nan, 0.2, 0.4, 0.6, 0.8]])


def test_ndvi_is_scored_without_the_days_that_were_seen_and_beside_a_peer_on_the_same_days() -> None:
    views = np.array([(1, "2025-03-01T10:30", 0.2), (1, "2025-03-05T10:30", 0.6)], VIEWS)
    rows = [(1, str(day), False, 0.5, 0.05) for day in DAYS]  # true is 0.5: right everywhere
    scores = curve_scores.curves(
        watched(views=views, final=np.array(rows, CURVE)), DAYS, {"a": np.full(5, 0.5, np.float32)}
    )
    assert [one.method for one in scores] == ["as known at the end", "line between clear views"]
    ours, line = scores
    assert ours.n == line.n == 3  # 2, 3 and 4 March
    assert ours.rmse == pytest.approx(0, abs=1e-6)
    assert ours.bias == pytest.approx(0, abs=1e-6)
    assert ours.inside_95 == 1.0
    assert line.rmse == pytest.approx(
        np.sqrt((0.2**2 + 0.1**2 + 0.0**2) / 3), abs=1e-6
    )  # 0.3, 0.4, 0.5 where 0.5 is true
    assert line.bias == pytest.approx(-0.1, abs=1e-6)
    assert line.inside_95 is None


def test_a_true_value_outside_of_the_interval_counts_against_it() -> None:
    views = np.array([(1, "2025-03-01T10:30", 0.2), (1, "2025-03-05T10:30", 0.6)], VIEWS)
    rows = [(1, "2025-03-02", False, 0.5, 0.05), (1, "2025-03-03", False, 0.7, 0.05)]
    ours = curve_scores.curves(
        watched(views=views, final=np.array(rows, CURVE)), DAYS, {"a": np.full(5, 0.5, np.float32)}
    )[0]
    assert (ours.n, ours.inside_95) == (2, 0.5)


def test_alerts_are_judged_by_kind_time_and_parcel() -> None:
    events = pd.DataFrame(
        [
            ("a", "no_emergence", "2025-04-01"),
            ("b", "mowing", "2025-05-01"),
            ("b", "early_loss", "2025-06-01"),
            ("small", "flood", "2025-06-01"),
        ],
        columns=["parcel_id", "kind", "day"],
    )
    raised = [
        alert("a", "no_emergence", date(2025, 4, 11), date(2025, 4, 21)),
        alert("a", "early_loss", date(2025, 5, 1)),  # something happened, but not this
        alert(
            "b", "early_loss", date(2025, 5, 5), None, date(2025, 5, 9)
        ),  # mowing is no reason, and the loss came later
    ]
    histories = {
        "a": [
            evidence("no_emergence", "opened", date(2025, 4, 11), 0.2),
            evidence("no_emergence", "confirmed", date(2025, 4, 21), 0.1),
        ],
        "b": [],
    }
    grown = {"a": "winter wheat", "b": "winter wheat"}
    found = evaluate.alerts(watched(alerts=raised, histories=histories), events, grown)
    assert (found.opened.alerts, found.opened.recall) == (3, 0.5)
    assert found.opened.precision == pytest.approx(1 / 3)
    assert (found.confirmed.alerts, found.confirmed.precision) == (1, 1.0)
    assert found.opened.per_kind["no_emergence"].median_days == 10
    assert found.confirmed.per_kind["no_emergence"].median_days == 20
    assert [case.verdict for case in found.cases] == ["right", "other event", "false"]
    assert "2025-04-21 NDVI 0.10" in found.cases[0].why  # the evidence of the confirmation, not of the opening
    assert [(one.parcel_id, one.kind) for one in found.missed] == [("b", "early_loss")]
    assert found.unobserved_events == 1


def test_a_wrong_declaration_explains_an_alert_of_another_rule_even_before_the_true_crop_is_sown() -> None:
    events = pd.DataFrame([("a", "wrong_declaration", "2025-04-20")], columns=["parcel_id", "kind", "day"])
    raised = [alert("a", "early_loss", date(2025, 3, 5), date(2025, 3, 20)), alert("b", "early_loss", date(2025, 3, 5))]
    known = watched(alerts=raised, histories={"a": [], "b": []})
    found = evaluate.alerts(known, events, {"a": "sugar beet", "b": "winter wheat"})
    assert [case.verdict for case in found.cases] == ["other event", "false"]
    assert found.opened.precision == 0.0
    assert found.on_troubled(confirmed=False) == 0.5
    assert found.on_troubled(confirmed=True) == 1.0


def test_a_crop_that_was_never_taught_counts_as_an_error() -> None:
    labels = pd.DataFrame({"parcel_id": ["a", "b"], "label": ["wheat", "grapes"], "fold": [0, 0]})
    taught = pd.DataFrame({"parcel_id": ["x", "y"], "label": ["wheat", "grass"]})
    posteriors = pd.DataFrame([[0.9, 0.1], [0.3, 0.7]], index=["a", "b"], columns=["wheat", "grass"])
    pool = evaluate.crops(labels, posteriors, taught, ("grapes", "grass", "wheat"))
    assert pool.probabilities.argmax(1).tolist() == [2, 1]
    assert pool.truth.tolist() == [2, 0]


def test_the_declaration_as_a_classifier_is_sure_of_what_is_declared() -> None:
    known = evaluate.declared_as_posteriors({"a": "wheat", "b": "grass"}, ("grass", "wheat"))
    assert known.loc[["a"]].to_numpy().tolist() == [[0.0, 1.0]]
    assert known.loc[["b"]].to_numpy().tolist() == [[1.0, 0.0]]


def test_reliability_bins_hold_every_posterior_once() -> None:
    labels = pd.DataFrame({"parcel_id": list("abcd"), "label": ["x", "x", "y", "y"], "fold": 0})
    posteriors = pd.DataFrame(
        [[0.95, 0.05], [0.93, 0.07], [0.91, 0.09], [0.4, 0.6]], index=list("abcd"), columns=["x", "y"]
    )
    bins = reliability([evaluate.crops(labels, posteriors, labels, ("x", "y"))])
    assert [one.n for one in bins] == [1, 3]
    assert [one.accuracy for one in bins] == pytest.approx([1.0, 2 / 3])
    assert bins[1].confidence == pytest.approx(0.93)


@pytest.mark.parametrize(
    ("is_monitorable", "colours", "expected"),
    [
        (True, ["green", "red", "yellow"], "red"),
        (True, ["green", "yellow"], "yellow"),
        (True, [], "not assessed"),
        (False, ["red"], "not monitorable"),
    ],
)
def test_the_light_is_the_worst_colour_of_a_parcel_that_can_be_judged(
    is_monitorable: bool, colours: list[str], expected: str
) -> None:
    assert evaluate.light(is_monitorable, colours) == expected


def test_lights_are_counted_whole() -> None:
    assert evaluate.lights(watched()) == {"green": 1, "yellow": 0, "red": 1, "not assessed": 0, "not monitorable": 1}
