"""Floods among neighbours as the benchmark knows them: day by day, from rows that are replaced."""

from dataclasses import replace

import numpy as np
import pytest

from monitor.alerts.flooding import flooding, is_read
from monitor.alerts.neighbours import Ints
from monitor.alerts.rules import GREEN, NOT_VALID, RED, YELLOW, ClearViews
from monitor.markers.form import RadarViews
from research.bench.alerts.floods import LowLand
from research.bench.alerts.known import FAR, Rows
from tests import flooded_land as land

START = np.datetime64("2025-03-01")
FIELDS = land.fields()


def rows_of(is_low: land.IsLow) -> Rows:
    """Return passes that are known on the day after."""
    n = len(FIELDS)
    days = START + np.repeat([day for day, _ in land.PASSES], n)
    orbit = np.repeat([orbit for _, orbit in land.PASSES], n)
    values = np.concatenate([land.backscatter(is_low, day) for day, _ in land.PASSES])
    parcel = np.tile(np.arange(n), len(land.PASSES))
    order = np.lexsort((days, parcel))
    return Rows(parcel[order], days[order], orbit[order], values[order], days[order] + 1, np.full(len(days), FAR))


def verdicts(rows: Rows, until: np.datetime64) -> Ints:
    """Return what is found of each field without any clear view."""
    groups = [("r", one) for one in land.CROPS]
    group = np.array([land.CROPS.index(land.crop(x, y)) for x, y in FIELDS])
    everyone = np.ones(len(FIELDS), bool)
    known = LowLand(rows, land.SPACING_M * np.array(FIELDS), group, groups, everyone, np.arange(len(FIELDS)))
    for day in np.arange(START, until + 1):
        low = known.known(day)
    views = ClearViews(np.zeros(0, np.int64), np.zeros(0, "M8[D]"), np.zeros(0, np.float32), len(FIELDS))
    on = rows.on(until) & is_read(views, low)[rows.parcel]
    radar = RadarViews.of_backscatter(rows.parcel[on], rows.days[on], rows.orbit[on], *rows.values[on].T)
    return flooding(views, radar, low).found.verdict


IN_HOLLOW = np.array([land.hollow(x, y) for x, y in FIELDS])


def test_a_flooded_hollow_is_found_without_any_clear_view() -> None:
    found = verdicts(rows_of(land.hollow), START + 47)
    assert set(found[IN_HOLLOW].tolist()) <= {YELLOW, RED}
    assert (found[IN_HOLLOW] == RED).sum() >= 4
    assert set(found[~IN_HOLLOW].tolist()) == {NOT_VALID}


@pytest.mark.parametrize("is_low", [land.campaign, land.dry, land.one_farm, land.alone])
def test_seedbeds_dry_days_and_single_fields_are_no_flood(is_low: land.IsLow) -> None:
    assert set(verdicts(rows_of(is_low), START + 47).tolist()) == {NOT_VALID}


def test_a_flood_is_known_when_its_second_pass_is() -> None:
    rows = rows_of(land.hollow)
    second = [day for day, _ in land.PASSES if day >= land.FLOODED_FROM][1]
    assert GREEN not in verdicts(rows, START + second)
    assert verdicts(rows, START + second).max() == NOT_VALID
    assert verdicts(rows, START + second + 1).max() == YELLOW


def test_what_is_withdrawn_takes_the_flood_with_it() -> None:
    rows = rows_of(land.hollow)
    in_flood = (rows.days >= START + land.FLOODED_FROM) & (rows.days <= START + land.FLOODED_UNTIL)
    neighbours = np.flatnonzero(IN_HOLLOW)[1:]
    gone = in_flood & np.isin(rows.parcel, neighbours)
    withdrawn = replace(rows, known_until=np.where(gone, START + 45, FAR))
    assert verdicts(withdrawn, START + 44)[IN_HOLLOW].min() >= YELLOW
    assert set(verdicts(withdrawn, START + 47).tolist()) == {NOT_VALID}  # the first field, too: it is alone
