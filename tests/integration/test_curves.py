"""Daily NDVI on the real tables: news inform the days they should and no others, and the past stays as it was known."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

from db import observations, registry
from db.connect import engine
from db.parcels import ParcelRow, Season, ensure_season, upsert_parcels
from ingest.schemas import S1, S2
from models.mcnn_seq import McnnSeqConfig
from models.ndvi_curve import NdviModel, fit_curve
from models.ndvi_inputs import ClearSeries, SarSeries
from models.ndvi_reconstruction import NdviTrainingConfig
from models.ndvi_training import train_ndvi
from monitor import train
from monitor.settings import MonitorSettings
from monitor.worker import Worker

START = date(2025, 1, 1)
KEYS = ("parcel_key", "day", "recorded_at", "mode", "origin", "ndvi")


WORKERS: dict[str, Worker] = {}
"""One worker for each test's database, as in operation: it keeps what it records of a parcel in order."""


def ndvi_on(day: float) -> float:
    return float(0.2 + 0.6 * np.exp(-(((day - 170) / 50) ** 2)))


@pytest.fixture(scope="module")
def model() -> NdviModel:
    """A model that learned a little: the tests are about which rows are written, not how good they are."""
    n = 24
    day = np.tile(np.arange(0, 360, 6.0), n)
    parcel = np.repeat(np.arange(n), 60)
    green = np.array([ndvi_on(d) for d in day])
    sar = SarSeries(parcel, day, np.full(len(day), 15), np.ones(len(day), bool), -12 + 4 * green, -20 + 6 * green)
    clear = ClearSeries(parcel, day + 1, np.array([ndvi_on(d + 1) for d in day]))
    held = np.arange(n) < 8
    config = NdviTrainingConfig(network=McnnSeqConfig(n_extra=2), n_updates=20)
    network, _ = train_ndvi(sar, clear, n, held, config)
    return fit_curve(network, sar, clear, n, held, n_updates=200)


@pytest.fixture
def season(dsn: str, model: NdviModel, tmp_path: object) -> tuple[str, Season, int]:
    now = datetime(2025, 1, 1, tzinfo=UTC)
    with engine(dsn).begin() as connection:
        stored = ensure_season(connection, "2025", START, date(2025, 12, 31))
        upsert_parcels(
            connection, "test", stored, [ParcelRow("p", "r", None, 1.0, 400.0, 0.9, None, "1", "wheat")], now, now
        )
        checkpoint = train.ndvi_checkpoint(model, {}, {})
        key = train.save(connection, "ndvi", checkpoint, tmp_path, now)  # type: ignore[arg-type]
        registry.activate(connection, stored.season_key, "test", key, now)
        parcel = connection.execute(sa.text("select parcel_key from parcels")).scalar_one()
    return dsn, stored, parcel


def arrive(
    dsn: str, parcel: int, sensor: str, day: int, recorded_on: int | None = None, value: float | None = None
) -> datetime:
    """One observation arrives and is worked off; returns when."""
    observed = datetime(2025, 1, 1, 10, tzinfo=UTC) + timedelta(days=day)
    now = datetime(2025, 1, 1, 23, tzinfo=UTC) + timedelta(days=day if recorded_on is None else recorded_on)
    schema = S2 if sensor == "S2" else S1
    row = dict.fromkeys(schema.arrow.names) | {
        "collection": "test", "season": "2025", "parcel_id": "p", "observed_at": observed, "available_at": observed,
        "scene_id": f"{sensor}-{day}", "platform": "X", "relative_orbit": 15, "revision": 0, "is_withdrawn": False,
    }  # fmt: skip
    ndvi = ndvi_on(day) if value is None else value
    if sensor == "S2":
        row |= {"NDVI": ndvi, "n_clear": 20}
    else:
        row |= {"VV": 10 ** ((-12 + 4 * ndvi) / 10), "VH": 10 ** ((-20 + 6 * ndvi) / 10), "n_pixels": 20,
                "radiometry": "sigma0", "direction": "ascending"}  # fmt: skip
    with engine(dsn).begin() as connection:
        table = pa.Table.from_pylist([row], schema=schema.arrow)
        observations.insert(connection, sensor, table, np.array([parcel]), now)  # type: ignore[arg-type]
    counts = WORKERS.setdefault(dsn, Worker(dsn, MonitorSettings())).look(now)
    assert counts.postponed == 0
    return now


def rows(dsn: str, at: datetime | None = None) -> dict[int, sa.Row[tuple[object, ...]]]:
    """The curve by day of season as recorded at one moment, or the newest."""
    with engine(dsn).connect() as connection:
        found = connection.execute(
            sa.text(
                "select * from ndvi_daily where cast(:at as timestamptz) is null or recorded_at = :at order by recorded_at"
            ),
            {"at": at},
        )
        return {(row.day - START).days: row for row in found}


def test_a_radar_pass_adds_the_days_since_and_touches_no_other(season: tuple[str, Season, int]) -> None:
    dsn, _, parcel = season
    for day in range(0, 60, 6):
        arrive(dsn, parcel, "S1", day)
    arrive(dsn, parcel, "S2", 55)
    now = arrive(dsn, parcel, "S1", 60)
    added = rows(dsn, now)
    assert sorted(added) == [56, 57, 58, 59, 60]
    assert {day: row.mode for day, row in added.items()}[60] == "causal"
    assert all(row.mode == "retrospective" for day, row in added.items() if day < 60)
    assert sorted(rows(dsn)) == list(range(61))  # gap-free


def test_a_clear_view_is_the_curve_and_redraws_back_to_two_views_before(season: tuple[str, Season, int]) -> None:
    dsn, _, parcel = season
    for day in range(0, 90, 6):
        arrive(dsn, parcel, "S1", day)
        if day in (24, 42, 66):
            arrive(dsn, parcel, "S2", day + 1)
    now = arrive(dsn, parcel, "S2", 89)
    redrawn = rows(dsn, now)
    assert (min(redrawn), max(redrawn)) == (44, 89)
    assert (redrawn[89].origin, redrawn[89].mode) == ("observed", "causal")
    assert redrawn[89].ndvi == pytest.approx(ndvi_on(89), abs=0.01)
    assert (redrawn[67].origin, redrawn[67].mode) == ("observed", "retrospective")
    assert redrawn[80].origin == "reconstructed"


def test_as_known_at_shows_the_curve_before_it_was_redrawn(season: tuple[str, Season, int]) -> None:
    dsn, _, parcel = season
    for day in (0, 6, 12, 18, 24):
        before = arrive(dsn, parcel, "S1", day)
    arrive(dsn, parcel, "S2", 27, value=0.9)
    with engine(dsn).connect() as connection:
        query = sa.text("select day, ndvi from ndvi_known(:parcel, '2025-01-01', '2025-12-31', :at) order by day")
        then = connection.execute(query, {"parcel": parcel, "at": before}).all()
        now = connection.execute(query, {"parcel": parcel, "at": datetime(2026, 1, 1, tzinfo=UTC)}).all()
    assert len(then) == 25
    assert len(now) == 28
    assert then[24].ndvi != now[24].ndvi  # the clear view of day 27 told something of day 24


def test_late_news_redraw_from_where_they_speak(season: tuple[str, Season, int]) -> None:
    dsn, _, parcel = season
    for day in range(0, 90, 6):
        arrive(dsn, parcel, "S1", day)
    for day in (20, 40, 60, 80):
        arrive(dsn, parcel, "S2", day, recorded_on=max(84, day))
    now = arrive(dsn, parcel, "S2", 50, recorded_on=86)
    redrawn = rows(dsn, now)
    assert (min(redrawn), max(redrawn)) == (21, 84)
    assert redrawn[50].origin == "observed"


def test_phenology_is_dated_once_the_season_shows_it(season: tuple[str, Season, int]) -> None:
    dsn, _, parcel = season
    for day in range(0, 300, 12):
        arrive(dsn, parcel, "S1", day)
        arrive(dsn, parcel, "S2", day + 2)
    with engine(dsn).connect() as connection:
        found = connection.execute(sa.text("select * from phenology order by recorded_at")).all()
    assert found[0].outcome == "NOT_VALID"
    assert found[0].reason
    last = found[-1]
    assert last.outcome == "OK"
    assert abs((last.pos - START).days - 170) < 12
    assert last.sos < last.pos < last.eos
    assert len(found) < 50  # a row only when something changed
