"""Markers of field work on the real tables: the same rows however observations come together, appended only where one changed."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

import parcelwatch
from db import observations, phenology, policies, recording
from db.connect import engine
from db.parcel_import import ParcelRow, upsert_parcels
from db.phenology import SeasonDates
from db.seasons import ensure_season
from ingest.stream.schemas import S1, S2
from models.season_metrics import METRICS
from monitor.policies.policy import Policy
from monitor.settings import MonitorSettings
from monitor.worker import Worker

START = datetime(2025, 1, 1, 10, 30, tzinfo=UTC)
PARCELS = {"at once": "3301090400", "in order": "3301090400", "late": "3301090400", "grass": "3302000000"}
"""Maize, and what is not arable land."""
HARVEST = 262
Seen = tuple[int, float | None, int]
"""Day, NDVI (None: withdrawn; NaN: a pass of radar) and revision."""


def curve(day: int) -> float:
    """Return the NDVI of maize that comes up in May and is cut green on 19 September."""
    return 0.16 if day >= HARVEST else float(np.interp(day, [0, 128, 190, HARVEST], [0.15, 0.15, 0.85, 0.75]))


SEEN: list[Seen] = [
    *((day, curve(day), 0) for day in range(40, 330, 5)),
    *((day, float("nan"), 0) for day in range(42, 330, 12)),
    (170, 0.1, 0),
    (170, curve(170), 1),  # a cloud that was seen later
    (301, 0.9, 0),
    (301, None, 1),
]


def on(day: float) -> datetime:
    return START + timedelta(days=day)


@pytest.fixture
def keys(dsn: str) -> Iterator[dict[str, int]]:
    """A season that a policy watches."""
    with engine(dsn).begin() as connection:
        recording.take_the_callers_clock(connection)
        season = ensure_season(connection, "2025", date(2025, 1, 1), date(2025, 12, 31))
        rows = [ParcelRow(name, "r", None, 2.0, 600.0, 0.9, None, "1", "crop", code) for name, code in PARCELS.items()]
        upsert_parcels(connection, "test", season, rows, START, START)
        policy = Policy.model_validate(
            {"name": "p", "version": 1, "paid_alike": [{"name": "c", "classes": ["a", "b"]}]}
        )
        content = policy.name, policy.version, policy.hash, policy.content()
        policies.put_in_force(connection, season.season_key, "test", content, "test", "test", START)
        found = connection.execute(sa.text("select source_id, parcel_key from parcels")).all()
    yield {one.source_id: one.parcel_key for one in found}
    engine(dsn).dispose()


def store(dsn: str, key: int, many: list[Seen], at: datetime) -> None:
    with engine(dsn).begin() as connection:
        for sensor, schema in (("S2", S2), ("S1", S1)):
            rows = [row(sensor, one) for one in many if (one[1] != one[1]) == (sensor == "S1")]
            if rows:
                table = pa.Table.from_pylist([dict.fromkeys(schema.arrow.names) | one for one in rows], schema.arrow)
                observations.insert(connection, sensor, table, np.full(len(rows), key), at)  # type: ignore[arg-type]


def row(sensor: str, seen: Seen) -> dict[str, Any]:
    day, ndvi, revision = seen
    common = {
        "collection": "test", "season": "2025", "parcel_id": "p", "observed_at": on(day), "available_at": on(day),
        "scene_id": f"{sensor}-{day}-{revision}", "platform": "X1A", "relative_orbit": 8, "revision": revision,
        "is_withdrawn": ndvi is None,
    }  # fmt: skip
    if sensor == "S1":
        return common | {"VV": 0.1, "VH": 0.02, "n_pixels": 20, "radiometry": "gamma0", "direction": "ascending"}
    return common | {"NDVI": ndvi, "n_clear": 0 if ndvi is None else 20}


def rows(dsn: str, query: str, **values: Any) -> list[Any]:
    with engine(dsn).connect() as connection:
        return [tuple(one) for one in connection.execute(sa.text(query), values)]


def newest(dsn: str, name: str) -> list[Any]:
    query = "select marker, status::text, value, day, confidence from latest_markers where source_id = :name order by 1"
    return rows(dsn, query, name=name)


def test_the_same_is_said_however_observations_come_together(dsn: str, keys: dict[str, int]) -> None:
    chance = random.Random(7)
    late = sorted(SEEN, key=lambda one: (one[0] + chance.choice([0, 0, 0, 40]), one[2]))
    worker = Worker(dsn, MonitorSettings(batch=2))
    for nr, one in enumerate(sorted(SEEN, key=lambda one: (one[0], one[2]))):
        now = on(one[0] + nr / 1000)
        for name, seen in (("in order", one), ("late", late[nr])):
            store(dsn, keys[name], [seen], now)
        assert worker.poll(now).postponed == 0
    now = on(350)
    for name in ("at once", "grass"):
        store(dsn, keys[name], SEEN, now)
    worker.poll(now)
    said = newest(dsn, "at once")
    assert newest(dsn, "in order") == newest(dsn, "late") == said
    days = {marker: day for marker, _, value, day, _ in said if value == 1}
    assert abs((days["emergence"] - on(128).date()).days) <= 10
    assert abs((days["harvest"] - on(HARVEST).date()).days) <= 5
    assert {status for marker, status, *_ in newest(dsn, "grass") if marker in days} == {"NOT_EXECUTED"}


def test_only_changes_are_appended_and_what_was_known_stays(dsn: str, keys: dict[str, int]) -> None:
    worker = Worker(dsn, MonitorSettings())
    for day, ndvi, _ in SEEN[:58]:
        store(dsn, keys["in order"], [(day, ndvi, 0)], on(day))
        worker.poll(on(day))
    told = rows(
        dsn, "select status::text, value, day, confidence from markers where marker = 'harvest' order by recorded_at"
    )
    assert (told[0][:2], told[-1][:2]) == (("NOT_VALID", None), ("OK", 1))
    assert len(told) <= 5
    assert all(one != other for one, other in pairwise(told))
    known = "select value from markers_known(:key, :at) where marker = 'harvest'"
    before, after = (rows(dsn, known, key=keys["in order"], at=on(day)) for day in (HARVEST, HARVEST + 40))
    assert (before, after) == ([(0,)], [(1,)])
    (evidence,) = rows(dsn, "select evidence from latest_markers where marker = 'harvest'")[0]
    assert evidence["events"][0]["begin"] <= str(on(HARVEST).date()) <= evidence["events"][0]["end"]


def test_people_read_measures_and_field_work_as_known_at_a_time(
    dsn: str, keys: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    monkeypatch.setenv("COLUMNS", "200")

    def shown(*words: str) -> str:
        return CliRunner().invoke(parcelwatch.app, ["phenology", "show", *words], catch_exceptions=False).output

    assert "no season was measured yet" in shown("grass")
    assert "no field work was looked for yet" in shown("grass")
    for name in ("in order", "grass"):
        store(dsn, keys[name], SEEN, on(350))
    Worker(dsn, MonitorSettings()).poll(on(350))
    values, sds = np.full((1, len(METRICS)), np.nan), np.full((1, len(METRICS)), np.nan)
    values[0, :4], sds[0, :4] = (130, 190, 261.2, 131.2), (3.5, 2, 1.25, 4)
    sos, pos, eos = (np.array([START.date() + timedelta(day)], "M8[D]") for day in (130, 190, 261))
    with engine(dsn).begin() as connection:
        found = SeasonDates(np.array([keys["in order"]]), [None], sos, pos, eos, True, values, sds, None, None)
        phenology.save(connection, found, on(360))
    (end,) = (line for line in shown("in order").splitlines() if "eos" in line)
    assert [word for word in end.split() if word not in "│┃"] == [
        "eos",
        "threshold",
        "2025-09-19",
        "1.25",
        "2025-12-27",
        "OK",
    ]
    rows = [json.loads(line) for line in shown("in order", "--json").splitlines()]
    said = {one["measure"]: (one["value"], one["sd"], one["status"]) for one in rows if one["kind"] == "measure"}
    assert said["sos"] == (130, 3.5, "OK")
    assert said["base"] == (None, None, "the curve does not show it")
    marked = {one["marker"]: (one["status"], one["evidence"]) for one in rows if one["kind"] == "marker"}
    alone = marked.pop("vigour")
    assert marked.pop("own_past")[0] == "NOT_EXECUTED"
    assert {marker: status for marker, (status, _) in marked.items()} == dict.fromkeys(
        ("emergence", "harvest", "tillage"), "OK"
    )
    assert alone[0] == "NOT_VALID"
    assert "enough neighbours" in alone[1]["reason"]
    assert "between 2025-09-" in shown("in order")
    assert "not sown, harvested or tilled each year" in shown("grass")
    between = shown("in order", "--as-known-at", str(on(355).date()))
    assert "as known at 2025-12-22" in between
    assert "2025-12-27" not in between
    assert "between 2025-09-" in between
    before = shown("in order", "--as-known-at", str(on(340).date()))
    assert "no season was measured by then" in before
    assert "no field work was looked for by then" in before
