"""Vigour beside the neighbours' on the real tables: what is said follows from what is stored, whoever came first."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

from db import observations, policies, recording, work
from db.connect import engine
from db.parcel_import import ParcelRow, upsert_parcels
from db.seasons import ensure_season
from ingest.stream.schemas import S2
from monitor import schedule
from monitor.dekads import dekad_number, dekad_numbers
from monitor.markers.bands import Bands, bands, greenest, n_over
from monitor.markers.crop_calendar import calendars
from monitor.markers.vigour import vigour
from monitor.policies.policy import Policy
from monitor.settings import MonitorSettings
from monitor.worker import Worker

START = datetime(2025, 1, 1, 10, 30, tzinfo=UTC)
MAIZE = "3301090400"
NAMES = [f"p{nr:02}" for nr in range(14)]
THIN, SOUND = "p00", "p01"
Views = dict[str, list[tuple[int, float | None, int]]]
"""Day, NDVI (None: withdrawn) and revision."""


def on(day: float) -> datetime:
    return START + timedelta(days=day)


def curve(name: str, day: int) -> float:
    """Return the NDVI of maize; of THIN half of its growth is there."""
    full = float(np.interp(day, [0, 128, 190, 262], [0.15, 0.15, 0.85, 0.75]))
    own = 0.01 * (NAMES.index(name) % 5)
    return 0.15 + (full - 0.15) * (0.5 if name == THIN else 1) + own


@pytest.fixture
def keys(dsn: str) -> Iterator[dict[str, int]]:
    """A season that a policy watches."""
    with engine(dsn).begin() as connection:
        recording.take_the_callers_clock(connection)
        season = ensure_season(connection, "2025", date(2025, 1, 1), date(2025, 12, 31))
        rows = [ParcelRow(name, "r", None, 2.0, 600.0, 0.9, None, "1", "maize", MAIZE) for name in NAMES]
        upsert_parcels(connection, "test", season, rows, START, START)
        policy = Policy.model_validate(
            {"name": "p", "version": 1, "paid_alike": [{"name": "c", "classes": ["a", "b"]}]}
        )
        content = policy.name, policy.version, policy.hash, policy.content()
        policies.put_in_force(connection, season.season_key, "test", content, "test", "test", START)
        found = connection.execute(sa.text("select source_id, parcel_key from parcels")).all()
    yield {one.source_id: one.parcel_key for one in found}
    engine(dsn).dispose()


def store(dsn: str, keys: dict[str, int], views: Views, at: datetime) -> None:
    rows = [
        dict.fromkeys(S2.arrow.names)
        | {
            "collection": "test", "season": "2025", "parcel_id": name, "observed_at": on(day), "available_at": on(day),
            "scene_id": f"{day}-{revision}", "platform": "S2A", "relative_orbit": 8, "revision": revision,
            "is_withdrawn": ndvi is None, "NDVI": ndvi, "n_clear": 0 if ndvi is None else 20,
        }
        for name, some in views.items()
        for day, ndvi, revision in some
    ]  # fmt: skip
    names = [name for name, some in views.items() for _ in some]
    with engine(dsn).begin() as connection:
        of = np.array([keys[name] for name in names])
        observations.insert(connection, "S2", pa.Table.from_pylist(rows, schema=S2.arrow), of, at)


def rows(dsn: str, query: str, **values: Any) -> list[Any]:
    with engine(dsn).connect() as connection:
        return [tuple(one) for one in connection.execute(sa.text(query), values)]


def said(dsn: str) -> dict[str, tuple[Any, ...]]:
    query = "select source_id, status::text, value, day, confidence from latest_markers where marker = 'vigour'"
    return {one[0]: one[1:] for one in rows(dsn, query)}


def known(dsn: str, key: int, at: datetime) -> Any:
    query = "select status::text, value from markers_known(:key, :at) where marker = 'vigour'"
    return rows(dsn, query, key=key, at=at)


def from_all_that_is_stored(dsn: str) -> dict[str, Any]:
    """Return what the marker says of the views that are current, at once, without leader or worker."""
    views = rows(
        dsn,
        """select source_id, (observed_at at time zone 'UTC')::date, ndvi from parcels p cross join lateral (
               select distinct on (observed_at, relative_orbit) * from s2_observations
               where parcel_key = p.parcel_key order by observed_at, relative_orbit, revision desc) o
           where not is_withdrawn and ndvi is not null""",
    )
    parcel, first = np.array([NAMES.index(one[0]) for one in views]), dekad_number(date(2025, 1, 1))
    days = np.array([one[1] for one in views], "M8[D]")
    green = greenest(parcel, dekad_numbers(days) - first, np.array([one[2] for one in views], "f4"), (len(NAMES), 36))
    group = np.zeros(len(NAMES), np.int64)
    newest = np.array([days[parcel == nr].max() for nr in range(len(NAMES))])
    of, everyone = calendars([MAIZE] * len(NAMES), 2025), np.ones(len(NAMES), bool)
    found = vigour(
        green, Bands.of([bands(green, group, 1, 8)[:, 0]], first, 36), group, n_over(newest, first), of, everyone
    )
    begun = dict(zip(found.events.parcel.tolist(), found.events.begin.astype("M8[D]").tolist(), strict=True))
    return {
        name: ("OK", found.value[nr], begun.get(nr), pytest.approx(found.confidence[nr]))
        for nr, name in enumerate(NAMES)
    }


DAYS = range(60, 250, 4)


def arrivals(seed: int) -> dict[int, Views]:
    """Return what comes on each day: a third of the views late, some clouded at first, some withdrawn in the end."""
    chance, come = np.random.default_rng(seed), dict[int, Views]()

    def add(at: int, name: str, view: tuple[int, float | None, int]) -> None:
        come.setdefault(at, {}).setdefault(name, []).append(view)

    for day in DAYS:
        for name in NAMES:
            late = int(chance.choice([0, 0, 1, 2, 30]))
            if chance.random() < 0.15:
                add(day, name, (day, 0.12, 0))
                add(day + late + 20, name, (day, None if chance.random() < 0.3 else curve(name, day), 1))
            elif chance.random() < 0.9:
                add(day + late, name, (day, curve(name, day), 0))
    return dict(sorted(come.items()))


@pytest.mark.parametrize("order", ["leader first", "worker first", "leader now and then", "all at once"])
def test_the_same_is_said_whoever_comes_first(dsn: str, keys: dict[str, int], order: str) -> None:
    worker, chance = Worker(dsn, MonitorSettings(batch=3)), np.random.default_rng(1)
    for day, views in arrivals(5).items():
        now = on(day + 0.1)
        store(dsn, keys, views, now)
        if order == "all at once":
            continue
        if order == "leader first":
            schedule.lead(dsn, worker.settings, now, worker.memory)
        assert worker.poll(now).postponed == 0
        if order == "worker first" or (order == "leader now and then" and chance.random() < 0.1):
            schedule.lead(dsn, worker.settings, now, worker.memory)
    for last in (290.0, 290.2):
        worker.poll(on(last))
        schedule.lead(dsn, worker.settings, on(last + 0.1), worker.memory)
    worker.poll(on(291))
    found = said(dsn)
    assert found == from_all_that_is_stored(dsn)
    assert found[THIN][1] >= 3
    assert {one[1] for name, one in found.items() if name != THIN} == {0}


def test_a_parcel_is_below_once_the_views_of_its_neighbours_are_clear(dsn: str, keys: dict[str, int]) -> None:
    """Nothing of the parcel itself is new: that it lies below follows from the band alone."""
    worker = Worker(dsn, MonitorSettings())
    hazy: Views = {
        name: [(day, curve(name, day) if name == THIN or day < 150 else 0.5 * curve(name, day), 0) for day in DAYS]
        for name in NAMES
    }
    store(dsn, keys, hazy, on(255))
    for day in (255, 256):
        schedule.once(worker, on(day))
    assert said(dsn)[THIN][:2] == ("OK", 0)
    store(dsn, keys, {name: [(day, curve(name, day), 1) for day in DAYS if day >= 150] for name in NAMES[1:]}, on(257))
    worker.poll(on(257))
    assert said(dsn)[THIN][:2] == ("OK", 0)
    schedule.once(worker, on(258))
    assert said(dsn)[THIN][1] >= 3
    assert known(dsn, keys[THIN], on(257.5)) == [("OK", 0)]
    assert known(dsn, keys[THIN], on(259)) == [said(dsn)[THIN][:2]]
    (evidence,) = rows(
        dsn, "select evidence from latest_markers where marker = 'vigour' and source_id = :name", name=THIN
    )[0]
    assert all(one["ndvi"] < one["floor"] < one["median"] for one in evidence["dekads"])
    with engine(dsn).begin() as connection:
        work.mark(connection, [keys[THIN]], "rules", on(259))
    worker.poll(on(259))
    n_rows = "select count(*) from markers where marker = 'vigour' and parcel_key = :key"
    assert rows(dsn, n_rows, key=keys[THIN]) == [(2,)]  # what was said without a view is carried, too


def test_only_changes_are_appended_and_once_a_dekad(dsn: str, keys: dict[str, int]) -> None:
    worker = Worker(dsn, MonitorSettings())
    for day in DAYS:
        store(dsn, keys, {name: [(day, curve(name, day), 0)] for name in NAMES}, on(day))
        schedule.once(worker, on(day + 0.1))
        schedule.once(worker, on(day + 0.2))
    query = "select status::text, value from markers where marker = 'vigour' and parcel_key = :key order by recorded_at"
    sound, thin = (rows(dsn, query, key=keys[name]) for name in (SOUND, THIN))
    assert sound == [("NOT_VALID", None), ("OK", 0)]
    values = [value for status, value in thin if status == "OK"]
    assert values[-1] >= 4
    assert values == sorted(values)
    assert len(thin) <= len(values) + 1
