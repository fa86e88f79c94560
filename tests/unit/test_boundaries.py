"""Declared parcels beside drawn fields, by hand: what is farmed apart, what moved, what says nothing; and the rule on it."""

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pytest
import shapely

from db.markers import MarkerRow
from models.segmentation.boundaries import Bounds, Compared, DrawnFields, compare, width
from monitor.alerts.boundaries import MOST, boundaries
from monitor.alerts.evidence import why
from monitor.alerts.rules import GREEN, NOT_VALID, UNKNOWN, YELLOW, Found


def box(west: float, south: float, east: float, north: float) -> Any:
    return shapely.box(west, south, east, north)


def said(
    parcels: list[Any], fields: list[Any], confidence: float | list[float] = 0.8, crop: Any = None
) -> list[Compared]:
    sure = np.broadcast_to(np.array(confidence, float), len(fields))
    drawn = DrawnFields(np.array(fields, object), sure, crop or [None] * len(fields))
    return compare(np.array(parcels, object), drawn)


A, B = box(0, 0, 200, 200), box(200, 0, 400, 200)
"""Two neighbours of 4 ha."""


def test_fields_as_declared_say_nothing_within_the_tolerance() -> None:
    for off in (0, 10, 19, -19):  # the edge between them, in metres
        found = said([A, B], [box(0, 0, 200 + off, 200), box(200 + off, 0, 400, 200)])
        assert [one.kind for one in found] == ["as_declared"] * 2, off
        assert [one.hectares for one in found] == [0, 0]


def test_two_fields_on_one_parcel_are_farmed_apart() -> None:
    (found,) = said([box(0, 0, 400, 200)], [box(0, 0, 240, 200), box(240, 0, 400, 200)], [0.3, 0.7])
    assert (found.kind, found.hectares, found.confidence) == ("farmed_apart", 3.2, 0.7)
    assert [one["share"] for one in found.evidence["parts"]] == [0.6, 0.4]
    (crops,) = said([box(0, 0, 400, 200)], [A, B], 0.7, ["wheat", "beet"])
    assert crops.confidence == pytest.approx(0.85)
    assert [one["crop"] for one in crops.evidence["parts"]] == ["wheat", "beet"]


@pytest.mark.parametrize(
    ("fields", "confidence"),
    [
        ([box(0, 0, 400, 180), box(0, 180, 400, 200)], 0.8),  # a headland
        ([box(0, 0, 330, 200), box(330, 0, 400, 200)], 0.8),  # 18 % of it
        ([A, B], 0.3),  # neither is sure to differ from the other
        ([A, box(200, 0, 400, 90)], 0.8),  # not much more than half of it is explained
        ([A, box(200, 0, 600, 200)], 0.8),  # half of the other field lies elsewhere
    ],
)
def test_what_does_not_divide_a_parcel(fields: list[Any], confidence: float) -> None:
    assert said([box(0, 0, 400, 200)], fields, confidence)[0].kind != "farmed_apart"


def test_an_edge_that_moved_is_told_on_both_sides_of_it() -> None:
    first, second = said([A, B], [box(0, 0, 230, 200), box(230, 0, 400, 200)])
    assert (first.kind, second.kind) == ("moved", "moved")
    assert (first.hectares, second.hectares) == (0.6, 0.6)
    assert first.evidence["regions"] == [
        {"how": "takes_neighbour", "area_ha": 0.6, "by_m": 30, "where": "east", "neighbour": "1"}
    ]
    assert second.evidence["regions"] == [
        {"how": "in_neighbour", "area_ha": 0.6, "by_m": 30, "where": "west", "neighbour": "0"}
    ]


def test_land_of_nobody_is_taken_in_or_given_up() -> None:
    (found,) = said([A], [box(0, 0, 200, 240)])
    assert found.evidence["regions"] == [{"how": "takes_undeclared", "area_ha": 0.8, "by_m": 40, "where": "north"}]
    (found,) = said([A], [box(0, 40, 200, 200), box(0, -300, 200, 40)])
    assert found.evidence["regions"] == [{"how": "in_undeclared", "area_ha": 0.8, "by_m": 40, "where": "south"}]


@pytest.mark.parametrize(
    ("fields", "confidence", "reason"),
    [
        ([], 0.8, "no field was drawn"),
        ([box(500, 0, 700, 200)], 0.8, "no field was drawn"),
        ([box(-100, 0, 400, 200)], 0.8, "no drawn field"),  # both parcels drawn as one
        ([box(200, 0, 260, 200), box(260, 0, 320, 60)], 0.8, "no drawn field"),
        ([box(0, 0, 230, 200), box(230, 0, 400, 200)], 0.3, "not drawn surely"),
    ],
)
def test_what_does_not_fit_is_inconclusive(fields: list[Any], confidence: float, reason: str) -> None:
    other = said([A, B], fields, confidence)[1]
    assert (other.kind, other.hectares) == ("inconclusive", None)
    assert reason in other.evidence["reason"]


def test_a_neighbour_that_fits_no_field_is_no_witness() -> None:
    """Of a field that reaches over the edge nothing is known where the other side is not drawn: both may be one field."""
    found = said([A, B], [box(0, 0, 230, 200)])
    assert found[0].kind == "as_declared"


def test_parcels_are_compared_alike_alone_and_among_others() -> None:
    far = [shapely.transform(one, lambda xy: xy + np.array([5000, 0])) for one in (A, B)]
    fields = [box(0, 0, 230, 200), box(230, 0, 400, 200), *far]
    drawn = DrawnFields(np.array(fields, object), np.full(4, 0.8), [None] * 4)
    parcels = np.array([*far, A, B], object)
    every = compare(parcels, drawn)
    assert compare(parcels, drawn, of=np.array([2])) == [every[2]]
    assert [one.kind for one in every] == ["as_declared", "as_declared", "moved", "moved"]
    assert [one.kind for one in compare(parcels, drawn, Bounds(tolerance_m=31))] == ["as_declared"] * 4


def test_widths() -> None:
    assert width(box(0, 0, 30, 200)) == pytest.approx(30)
    assert width(shapely.Point(0, 0).buffer(10)) == pytest.approx(np.sqrt(np.pi) * 10, rel=0.01)


NOW = datetime(2025, 7, 1, tzinfo=UTC)


def row(value: float | None, evidence: dict[str, Any], day: date | None = None) -> MarkerRow:
    status = "NOT_VALID" if value is None else "OK"
    return MarkerRow("boundaries", status, value, day, None if value is None else 0.5, evidence, "1", NOW)


def test_the_rule_is_yellow_at_most_and_keeps_its_day() -> None:
    parts = {
        "kind": "farmed_apart",
        "observed_to": "2025-06-20",
        "parts": [{"area_ha": 2.0, "share": 0.5, "confidence": 0.5}] * 2,
    }
    rows = [
        row(2.0, parts, date(2025, 6, 20)),
        row(0.0, {"kind": "as_declared"}),
        row(None, {"reason": "no field was drawn on it"}),
        row(2.0, parts, date(2025, 6, 20)),
    ]
    nothing = Found.nothing(4)
    decisions = boundaries(rows, np.array([False, False, False, True]), nothing)
    assert decisions.found.verdict.tolist() == [YELLOW, GREEN, NOT_VALID, NOT_VALID]
    first = decisions.finding(0)
    assert (first.confidence, first.departed_on) == (MOST * 0.5, date(2025, 6, 20))
    assert why("boundaries", first.evidence) == (
        "as of 2025-06-20: drawn as 2 fields: 2.0 ha (50%), confidence 50%; 2.0 ha (50%), confidence 50%"
    )
    assert "amended" in decisions.finding(3).evidence["reason"]
    before = Found(
        np.array([YELLOW, UNKNOWN, UNKNOWN, UNKNOWN]), np.array(["2025-05-01", "NaT", "NaT", "NaT"], "M8[D]")
    )
    assert boundaries(rows, np.zeros(4, bool), before).found.departed_on[0] == np.datetime64("2025-05-01")


def test_the_words_of_an_edge() -> None:
    taken = {"how": "takes_neighbour", "area_ha": 0.6, "by_m": 30, "where": "east", "neighbour": "NL-7"}
    given = {"how": "in_undeclared", "area_ha": 0.4, "by_m": 25, "where": "south"}
    assert why("boundaries", {"kind": "moved", "regions": [taken, given]}) == (
        "its field takes in 0.6 ha in the east, 30 m wide, of parcel NL-7; "
        "0.4 ha in the south, 25 m wide, lie in a field of land that nobody declares"
    )
