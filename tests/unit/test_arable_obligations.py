"""Obligations on harvest and tillage, on curves and passes worked out by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from db.parcels import DeclaredParcels
from monitor.alerts.evidence import why
from monitor.alerts.rules import GREEN, NOT_EXECUTED, NOT_VALID, RED, YELLOW, ClearViews, Decisions
from monitor.markers.form import RadarViews
from monitor.policies.known import Asked, Known
from monitor.policies.obligations import decide
from monitor.policies.policy import Obligation, Policy
from tests.unit.test_field_work import GRASS, MAIZE, NO_RADAR, RIPENS, WHEAT, Corners, passes, seen
from tests.unit.test_obligations import obligation

BY_MID_OCTOBER = obligation("harvested", "2025-09-01", "2025-10-15")
PLOUGHED = obligation("tilled", "2025-08-01", "2025-11-30")
REST = obligation("not_tilled", "2025-08-15", "2025-10-31")


def maize(harvested_on: str) -> Corners:
    """A curve of maize that is cut green on a day, and of bare stubble behind it."""
    cut = np.datetime64(harvested_on)
    return {
        "2024-09-01": 0.15, "2025-05-10": 0.15, "2025-07-10": 0.85, str(cut - 1): 0.75, str(cut): 0.16, "2025-12-31": 0.16,
    }  # fmt: skip


def decided(
    asks: Obligation, codes: Sequence[str], views: ClearViews, radar: RadarViews = NO_RADAR, today: str = "2025-12-31"
) -> Decisions:
    """Return what is decided of parcels as known at the end of a day."""
    n, last = len(codes), np.datetime64(today)
    shape = np.full(n, 100.0), np.full(n, 2.0), np.full(n, 0.9)
    of = Asked(DeclaredParcels(["r"] * n, ["1"] * n, list(codes), *shape), [str(nr) for nr in range(n)])
    known = Known(views.only(views.days <= last), radar.only(radar.days <= last), np.full(n, last), 2025)
    return next(decide(Policy(name="p", version=1, obligation=(asks,)), of, known))


def verdict(
    asks: Obligation, curve: Corners, today: str, radar: RadarViews = NO_RADAR, code: str = MAIZE, gap: str = ""
) -> int:
    """Return the verdict on one parcel, of which nothing is seen between two days of `gap`."""
    views = seen(curve)
    if gap:
        begin, end = (np.datetime64(day) for day in gap.split(" "))
        views = views.only((views.days < begin) | (views.days > end))
    return int(decided(asks, [code], views, radar, today).found.verdict[0])


@pytest.mark.parametrize(
    ("curve", "today", "expected"),
    [
        (maize("2025-09-20"), "2025-10-05", GREEN),
        (maize("2025-09-20"), "2025-09-10", NOT_VALID),  # there is time left
        (maize("2025-11-10"), "2025-10-15", NOT_VALID),  # the last day
        (maize("2025-11-10"), "2025-10-16", YELLOW),  # stands on the first view after it, 16 October
        (maize("2025-11-10"), "2025-10-25", YELLOW),  # seen so on 16 and 21 October
        (maize("2025-11-10"), "2025-10-26", RED),  # ten days after the first
        (maize("2025-11-10"), "2025-12-20", RED),  # harvested late
        (maize("2025-10-19"), "2025-12-20", YELLOW),  # late, but seen on one view alone
        (maize("2025-10-14"), "2025-12-20", GREEN),  # between views of 11 and 16 October: perhaps in time
        (maize("2025-08-25"), "2025-12-20", YELLOW),  # before the window, on clear views alone
        (maize("2025-08-30"), "2025-12-20", GREEN),  # between views of 27 August and 1 September: perhaps in it
        (maize("2025-07-20"), "2025-12-20", NOT_VALID),  # lost before its earliest harvest
        ({"2024-09-01": 0.15, "2025-12-31": 0.15}, "2025-12-20", NOT_VALID),  # never came up
    ],
)
def test_a_crop_is_harvested_in_a_window(curve: Corners, today: str, expected: int) -> None:
    assert verdict(BY_MID_OCTOBER, curve, today) == expected


def test_radar_makes_an_early_or_late_harvest_red() -> None:
    noise = np.random.default_rng(1).normal(0, 0.3, (2, len(passes({}).parcel)))
    for day in ("2025-08-25", "2025-10-19"):
        sharp = passes({day: (0, -3)})
        radar = RadarViews.of_backscatter(
            sharp.parcel, sharp.days, sharp.orbit, sharp.vv_db + noise[0], sharp.vh_db + noise[1]
        )
        assert verdict(BY_MID_OCTOBER, maize(day), "2025-12-20", radar) == RED


def test_green_behind_a_gap_can_be_another_crop() -> None:
    catch_crop = {**maize("2025-08-20"), "2025-08-25": 0.16, "2025-10-10": 0.6, "2025-12-31": 0.6}
    assert verdict(BY_MID_OCTOBER, catch_crop, "2025-12-20", gap="2025-08-18 2025-10-08") == YELLOW
    seen_bare_once = {**catch_crop, "2025-08-25": 0.16, "2025-09-05": 0.4, "2025-09-06": 0.6}
    by_september = obligation("harvested", "2025-05-01", "2025-09-15")
    assert verdict(by_september, seen_bare_once, "2025-12-20", gap="2025-08-23 2025-09-05") == YELLOW
    standing = maize("2025-11-10")
    assert verdict(BY_MID_OCTOBER, standing, "2025-12-20", gap="2025-09-01 2025-09-15") == RED
    early = obligation("harvested", "2025-05-01", "2025-08-01")
    assert verdict(early, standing, "2025-10-30", gap="2025-08-20 2025-09-20") == RED  # what was seen before stays
    assert verdict(early, standing, "2025-10-30", gap="2025-08-10 2025-09-20") == YELLOW
    assert verdict(BY_MID_OCTOBER, standing, "2025-11-05", gap="2025-10-02 2025-11-30") == NOT_VALID  # nothing seen


def test_a_crop_that_still_grows_departs_since_the_same_day() -> None:
    by_june = obligation("harvested", "2025-05-01", "2025-06-20")
    for today, expected in (("2025-06-23", YELLOW), ("2025-07-03", RED), ("2025-08-30", RED)):
        found = decided(by_june, [MAIZE], seen(maize("2025-09-20")), today=today).found
        assert (int(found.verdict[0]), str(found.departed_on[0])) == (expected, "2025-06-23")
    too_early = obligation("harvested", "2025-05-01", "2025-05-12")  # not yet up then: what rises later did not stand
    assert verdict(too_early, maize("2025-09-20"), "2025-08-30") == NOT_VALID


def test_a_day_of_grace_is_one_more_day() -> None:
    late = BY_MID_OCTOBER.model_copy(update={"grace_days": 5})
    assert verdict(late, maize("2025-10-19"), "2025-12-20") == GREEN  # between views of 16 and 21 October
    assert verdict(late, maize("2025-11-10"), "2025-10-20") == NOT_VALID


def test_a_ripe_crop_is_not_called_standing() -> None:
    """Cereals lose their green before they are threshed: stubble and ripe ears look alike."""
    by_july = obligation("harvested", "2025-06-01", "2025-07-20")
    assert verdict(by_july, RIPENS, "2025-12-20", code=WHEAT) == GREEN  # may have been threshed by then
    late = {**RIPENS, "2025-07-15": 0.8, "2025-08-10": 0.3, "2025-08-20": 0.15, "2025-07-24": 0.7, "2025-07-25": 0.7}
    assert verdict(by_july, late, "2025-12-20", code=WHEAT) == RED


VOLUNTEERS = {**RIPENS, "2025-08-15": 0.15, "2025-09-10": 0.45, "2025-09-22": 0.45, "2025-09-24": 0.15}
ROUGH = passes({"2025-10-14": (1.3, 1.9)})
COVER = {**RIPENS, "2025-07-26": 0.4, "2025-08-20": 0.6, "2025-12-31": 0.6}


@pytest.mark.parametrize(
    ("asks", "curve", "radar", "today", "expected"),
    [
        (PLOUGHED, VOLUNTEERS, ROUGH, "2025-12-20", GREEN),
        (PLOUGHED, RIPENS, passes({}), "2025-10-20", NOT_VALID),  # there is time left
        (PLOUGHED, RIPENS, passes({}), "2025-12-20", NOT_VALID),  # bare all the time: it may have been missed
        (PLOUGHED, COVER, passes({}), "2025-12-20", YELLOW),  # green throughout
        (REST, VOLUNTEERS, ROUGH, "2025-12-20", RED),  # both sensors saw it, from 20 September to 20 October
        (REST, VOLUNTEERS, passes({}), "2025-12-20", YELLOW),  # a cover was lost: frost and herbicides do that, too
        (REST, RIPENS, passes({"2025-09-20": (1.3, 1.9)}), "2025-12-20", YELLOW),  # radar alone
        (REST, RIPENS, passes({}), "2025-12-20", GREEN),
        (REST, RIPENS, passes({}), "2025-08-10", NOT_EXECUTED),  # before its window
        (REST, COVER, NO_RADAR, "2025-12-20", NOT_VALID),  # a radar that is not there saw nothing
    ],
)
def test_tillage_in_a_window(asks: Obligation, curve: Corners, radar: RadarViews, today: str, expected: int) -> None:
    assert verdict(asks, curve, today, radar, WHEAT) == expected


def test_nothing_is_asked_of_grass_and_each_parcel_is_decided_as_if_alone() -> None:
    curves, codes = [maize("2025-11-10"), maize("2025-09-20"), RIPENS], [MAIZE, GRASS, WHEAT]
    for asks in (BY_MID_OCTOBER, PLOUGHED, REST):
        together = decided(asks, codes, seen(*curves), passes({"2025-09-20": (1.3, 1.9)}, 3))
        assert together.found.verdict[1] == NOT_EXECUTED
        assert together.finding(1).evidence["asked"] is False
        for nr, curve in enumerate(curves):
            alone = decided(asks, [codes[nr]], seen(curve), passes({"2025-09-20": (1.3, 1.9)}))
            assert alone.found.verdict[0] == together.found.verdict[nr]
            assert dict(alone.finding(0).evidence) == dict(together.finding(nr).evidence)
            if alone.found.verdict[0] in (YELLOW, RED):
                assert alone.found.departed_on[0] == together.found.departed_on[nr]  # not NaT, which equals nothing


def test_findings_are_said_in_words() -> None:
    found = decided(BY_MID_OCTOBER, [MAIZE], seen(maize("2025-11-10"))).finding(0)
    assert str(found.departed_on) == "2025-10-16"
    said = why("it", found.evidence)
    assert "harvest (harvested is asked from 2025-09-01 to 2025-10-15): between 2025-11-05 and 2025-11-10" in said
    none = decided(BY_MID_OCTOBER, [MAIZE], seen(maize("2025-11-10")), today="2025-10-30").finding(0)
    assert "none seen; clear views: " in why("it", none.evidence)
