"""A parcel beside its own past on the real tables: the past is read once, and what is said follows from what is stored."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

from db import crop_progress, observations, policies, recording
from db.connect import engine
from db.parcel_import import ParcelRow, link_lineage, upsert_parcels
from db.seasons import Season, ensure_season, season_by_name
from ingest.stream.schemas import S2
from monitor.policies.policy import Policy
from monitor.settings import MonitorSettings
from monitor.stages import own_past
from monitor.worker import Worker

GRASS, MAIZE = "3302000000", "3301090400"
NAMES = {"ploughed": GRASS, "in order": GRASS, "sound": GRASS, "arable": MAIZE, "young": GRASS, "moved": GRASS}
"""Of which `young` was maize until 2023, and but a half of `moved` lies on its predecessor."""
YEARS = range(2021, 2026)
DAYS = range(60, 300, 6)


def at(year: int, day: float) -> datetime:
    return datetime(year, 1, 1, 10, 30, tzinfo=UTC) + timedelta(days=day)


def ndvi(name: str, year: int, day: int) -> float:
    """Return meadows of 0.7 that differ a little from year to year; two are bare from the end of May 2025 on."""
    is_bare = name in ("ploughed", "in order", "moved", "arable") and year == 2025 and day >= 150
    return 0.2 if is_bare else 0.7 + 0.02 * np.sin(year) + 0.03 * np.cos(day / 20)


@pytest.fixture
def keys(dsn: str) -> Iterator[dict[tuple[str, int], int]]:
    """Five seasons of the same ground, all but the last of which are over; a policy watches the last."""
    with engine(dsn).begin() as connection:
        recording.take_the_callers_clock(connection)
        of = dict[tuple[str, int], int]()
        for year in YEARS:
            season = ensure_season(connection, str(year), date(year, 1, 1), date(year, 12, 31))
            codes = NAMES | ({"young": MAIZE} if year < 2024 else {})
            rows = [
                ParcelRow(name, "r", None, 2.0, 600.0, 0.9, None, code, "crop", code) for name, code in codes.items()
            ]
            upsert_parcels(connection, "test", season, rows, at(year, 0), at(year, 0))
            query = "select source_id, parcel_key from parcels where season_key = :key"
            for name, key in connection.execute(sa.text(query), {"key": season.season_key}).all():
                of[name, year] = key
                if year > 2021:
                    share = 0.5 if name == "moved" else 0.95
                    link = "insert into parcel_lineage values (:key, :before, :share)"
                    connection.execute(sa.text(link), {"key": key, "before": of[name, year - 1], "share": share})
        policy = Policy.model_validate(
            {"name": "p", "version": 1, "paid_alike": [{"name": "c", "classes": ["a", "b"]}]}
        )
        content = policy.name, policy.version, policy.hash, policy.content()
        policies.put_in_force(connection, season.season_key, "test", content, "test", "test", at(2025, 0))
    for year in YEARS[:-1]:
        for name in NAMES:
            store(dsn, of[name, year], name, year, list(DAYS), at(2025, 0))
    yield of
    engine(dsn).dispose()


def store(dsn: str, key: int, name: str, year: int, days: list[int], when: datetime) -> None:
    rows = [
        dict.fromkeys(S2.arrow.names)
        | {
            "collection": "test", "season": str(year), "parcel_id": name, "observed_at": at(year, day),
            "available_at": at(year, day), "scene_id": f"{year}-{day}", "platform": "S2A", "relative_orbit": 8,
            "revision": 0, "is_withdrawn": False, "NDVI": ndvi(name, year, day), "n_clear": 20,
        }
        for day in days
    ]  # fmt: skip
    with engine(dsn).begin() as connection:
        table = pa.Table.from_pylist(rows, schema=S2.arrow)
        observations.insert(connection, "S2", table, np.full(len(rows), key), when)


def rows(dsn: str, query: str, **values: Any) -> list[Any]:
    with engine(dsn).connect() as connection:
        return [tuple(one) for one in connection.execute(sa.text(query), values)]


def said(dsn: str) -> dict[str, Any]:
    query = "select source_id, status::text, value, day, confidence from latest_markers where marker = 'own_past'"
    return {one[0]: one[1:] for one in rows(dsn, query)}


def test_a_meadow_departs_from_its_past_which_is_read_once(
    dsn: str, keys: dict[tuple[str, int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    views = crop_progress.clear_views

    def counted(connection: Any, parcels: Any, *given: Any) -> Any:
        asked.extend(parcels.tolist())
        return views(connection, parcels, *given)

    monkeypatch.setattr(own_past, "clear_views", counted)
    worker = Worker(dsn, MonitorSettings(batch=2))
    for day in DAYS:
        store(dsn, keys["in order", 2025], "in order", 2025, [day], at(2025, day))
        worker.poll(at(2025, day))
    for name in NAMES.keys() - {"in order"}:
        store(dsn, keys[name, 2025], name, 2025, list(DAYS), at(2025, 310))
    worker.poll(at(2025, 310))
    found = said(dsn)
    assert found["ploughed"] == found["in order"]
    assert (found["ploughed"][0], found["ploughed"][2]) == ("OK", date(2025, 6, 1))
    assert found["ploughed"][1] >= 10
    assert found["sound"][:2] == ("OK", 0)
    assert {name: found[name][0] for name in ("arable", "young", "moved")} == {
        "arable": "NOT_EXECUTED", "young": "NOT_VALID", "moved": "NOT_VALID",
    }  # fmt: skip
    assert len(asked) == len(set(asked))
    past = {keys[name, year] for name in ("ploughed", "in order", "sound") for year in YEARS[:-1]}
    assert set(asked) == past | {keys["young", 2024]}
    known = "select value from markers_known(:key, :at) where marker = 'own_past'"
    of = keys["in order", 2025]
    assert rows(dsn, known, key=of, at=at(2025, 149)) == [(0,)]
    assert rows(dsn, known, key=of, at=at(2025, 200))[0][0] in (3, 4)


def test_a_new_lineage_takes_the_norms_away(dsn: str, keys: dict[tuple[str, int], int]) -> None:
    store(dsn, keys["sound", 2025], "sound", 2025, list(DAYS), at(2025, 310))
    Worker(dsn, MonitorSettings()).poll(at(2025, 310))
    count = "select count(*), min(n_seasons) from parcel_norms"
    assert rows(dsn, count) == [(1, 4)]
    with engine(dsn).begin() as connection:
        here, before = (season_by_name(connection, name) for name in ("2025", "2024"))
        assert isinstance(here, Season)
        link_lineage(connection, "test", here, before)
    assert rows(dsn, count) == [(0, None)]
