"""Daily NDVI on the real tables: news inform the days they should and no others, and the past stays as it was known."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Literal

import numpy as np
import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa

from db import observations, phenology, predictions, registry, work
from db.connect import engine
from db.parcel_import import ParcelRow, upsert_parcels
from db.phenology import SeasonDates
from db.predictions import DailyCurves
from db.seasons import Season, ensure_season, season_by_name
from db.states import OF_NO_MODEL, load
from ingest.stream.schemas import S1, S2, ObservationSchema
from models.double_logistic import PARAMETERS
from models.ndvi.cached_state import HEAD
from models.ndvi.daily_curve import SETTLED_DAYS
from models.ndvi.gap_filler import GapModel
from models.ndvi.inputs import ClearSeries, SarSeries
from models.ndvi.network import GapConfig
from models.ndvi.training import GapTrainingConfig, fit_gaps
from models.season_metrics import METRICS
from monitor import season_curves, simple_curve
from monitor.settings import MonitorSettings
from monitor.worker import Worker
from training import season_models

START = date(2025, 1, 1)
WORKERS: dict[str, Worker] = {}
"""One worker for each test's database, as in operation: it keeps what it records of a parcel in order."""


def ndvi_on(day: float) -> float:
    return float(0.2 + 0.6 * np.exp(-(((day - 170) / 50) ** 2)))


@pytest.fixture(scope="module")
def model() -> GapModel:
    """A model that learned a little: the tests are about which rows are written, not how good they are."""
    n = 24
    day = np.tile(np.arange(0, 360, 6.0), n)
    parcel = np.repeat(np.arange(n), 60)
    green = np.array([ndvi_on(d) for d in day])
    sar = SarSeries(parcel, day, np.full(len(day), 15), np.ones(len(day), bool), -12 + 4 * green, -20 + 6 * green)
    clear = ClearSeries(parcel, day + 1, np.array([ndvi_on(d + 1) for d in day]))
    network = GapConfig(is_causal=False, hidden=12, view_hidden=8, head=16, branch_channels=(4, 6), n_harmonics=2)
    config = GapTrainingConfig(network=network, n_members=2, n_updates=40)
    return fit_gaps(sar, clear, np.arange(n) // 2, config)[0]


@pytest.fixture
def season(dsn: str, model: GapModel, tmp_path: object) -> tuple[str, Season, int]:
    now = datetime(2025, 1, 1, tzinfo=UTC)
    with engine(dsn).begin() as connection:
        stored = ensure_season(connection, "2025", START, date(2025, 12, 31))
        wheat = [ParcelRow(name, "r", None, 1.0, 400.0, 0.9, None, "1", "wheat") for name in ("p", "q")]
        upsert_parcels(connection, "test", stored, wheat, now, now)
        checkpoint = season_models.ndvi_checkpoint(model, {}, {})
        key = season_models.save(connection, "ndvi", checkpoint, tmp_path, now)  # type: ignore[arg-type]
        registry.activate(connection, stored.season_key, "test", key, now)
        parcel = connection.execute(sa.text("select parcel_key from parcels where source_id = 'p'")).scalar_one()
    return dsn, stored, parcel


@dataclass(frozen=True)
class Arrival:
    """An observation as it arrives."""

    sensor: Literal["S1", "S2"]
    day: int
    value: float
    revision: int = 0
    is_withdrawn: bool = False


def arrive(
    dsn: str,
    parcel: int,
    sensor: Literal["S1", "S2"],
    day: int,
    recorded_on: int | None = None,
    value: float | None = None,
) -> datetime:
    """One observation arrives and is worked off; returns when."""
    now = datetime(2025, 1, 1, 23, tzinfo=UTC) + timedelta(days=day if recorded_on is None else recorded_on)
    store(dsn, [parcel], [Arrival(sensor, day, ndvi_on(day) if value is None else value)], now)
    counts = WORKERS.setdefault(dsn, Worker(dsn, MonitorSettings())).poll(now)
    assert counts.postponed == 0
    return now


def store(dsn: str, parcels: list[int], many: list[Arrival], now: datetime) -> None:
    """Observations of each parcel, as the consumer writes them."""
    with engine(dsn).begin() as connection:
        for schema, own in ((S1, [a for a in many if a.sensor == "S1"]), (S2, [a for a in many if a.sensor == "S2"])):
            table = pa.Table.from_pylist([record(schema, a) for a in own], schema=schema.arrow)
            for parcel in parcels:
                if own:
                    observations.insert(connection, own[0].sensor, table, np.full(len(own), parcel), now)


def record(schema: ObservationSchema, a: Arrival) -> dict[str, object]:
    observed = datetime(2025, 1, 1, 10, tzinfo=UTC) + timedelta(days=a.day)
    row = dict.fromkeys(schema.arrow.names) | {
        "collection": "test",
        "season": "2025",
        "parcel_id": "p",
        "observed_at": observed,
        "available_at": observed,
        "scene_id": f"{a.sensor}-{a.day}-{a.revision}",
        "platform": "X",
        "relative_orbit": 15,
        "revision": a.revision,
        "is_withdrawn": a.is_withdrawn,
    }
    if a.sensor == "S2":
        return row | {"NDVI": None if a.is_withdrawn else a.value, "n_clear": 0 if a.is_withdrawn else 20}
    row |= {"n_pixels": 20, "radiometry": "sigma0", "direction": "ascending"}
    if not a.is_withdrawn:
        row |= {"VV": 10 ** ((-12 + 4 * a.value) / 10), "VH": 10 ** ((-20 + 6 * a.value) / 10)}
    return row


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
    assert 21 <= min(redrawn) <= 40  # from two views before, less what is stored like that already
    assert 60 <= max(redrawn) <= 84
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


def test_a_curve_goes_on_after_the_seasons_end(season: tuple[str, Season, int]) -> None:
    dsn, _, parcel = season
    for day in (340, 352, 364, 376, 388, 405):
        arrive(dsn, parcel, "S2", day)
    assert max(rows(dsn)) == 405
    assert dated(dsn, parcel)


def random_arrivals(seed: int) -> list[list[Arrival]]:
    """What comes between one poll and the next: mostly in time, some of it late, revised, withdrawn, or under a cloud."""
    rng = np.random.default_rng(seed)
    polls: list[list[Arrival]] = [[] for _ in range(40)]
    for day in range(0, 240, 3):
        sensor: Literal["S1", "S2"] = "S1" if day % 6 == 0 else "S2"
        if rng.random() < 0.4 and sensor == "S2":
            continue  # all cloud
        cloud = 0.4 if rng.random() < 0.1 else 0.0
        late = int(rng.choice([0, 0, 0, 0, 2, 9]))
        value = ndvi_on(day) + float(rng.normal(0, 0.02))
        polls[min(day // 6 + late, 39)].append(Arrival(sensor, day, value - cloud * (sensor == "S2")))
        if rng.random() < 0.1:
            again = min(day // 6 + late + int(rng.integers(1, 12)), 39)
            polls[again].append(Arrival(sensor, day, value - 0.1, 1, bool(rng.random() < 0.3)))
    return polls


def drawn(dsn: str, parcel: int) -> list[sa.Row[tuple[object, ...]]]:
    with engine(dsn).connect() as connection:
        query = sa.text(
            """select recorded_at, day, mode, origin, ndvi, ndvi_sd from ndvi_daily where parcel_key = :parcel
               order by recorded_at, day"""
        )
        return list(connection.execute(query, {"parcel": parcel}))


def states(dsn: str) -> dict[tuple[int, str], bytes]:
    with engine(dsn).connect() as connection:
        found = connection.execute(
            sa.text("select parcel_key, modality, state from encoder_states where modality like 'ndvi %'")
        )
        return {(row.parcel_key, row.modality): bytes(row.state) for row in found}


@pytest.mark.parametrize("seed", [0, 1])
def test_rows_drawn_from_stored_states_are_those_of_reading_everything_each_time(
    season: tuple[str, Season, int], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Late, revised, withdrawn, under clouds, with a poll that dies at its end: q, whose states are dropped, is p's twin."""
    dsn, _, p = season
    with engine(dsn).connect() as connection:
        q = connection.execute(sa.text("select parcel_key from parcels where source_id = 'q'")).scalar_one()
    worker = Worker(dsn, MonitorSettings())
    for look, many in enumerate(random_arrivals(seed)):
        now = datetime(2025, 1, 1, 23, tzinfo=UTC) + timedelta(days=6 * look + 5)
        store(dsn, [p, q], many, now)
        before = states(dsn)
        with engine(dsn).begin() as connection:
            connection.execute(sa.text("delete from encoder_states where parcel_key = :q"), {"q": q})
        if look % 9 == 4 and many:
            with monkeypatch.context() as patch:
                patch.setattr(predictions, "save_ndvi", dies)
                with pytest.raises(sa.exc.OperationalError):
                    worker.poll(now)
            kept = {key: state for key, state in before.items() if key[0] == p}
            assert {key: state for key, state in states(dsn).items() if key[0] == p} == kept
        assert worker.poll(now).postponed == 0
    mine, twin = drawn(dsn, p), drawn(dsn, q)
    assert len(mine) > 240
    assert [row[:4] for row in mine] == [row[:4] for row in twin]
    np.testing.assert_allclose([row[4:] for row in mine], [row[4:] for row in twin], atol=1e-5)
    assert {row.mode for row in mine} == {"causal", "retrospective"}
    assert {key for key, _ in states(dsn)} == {p, q}
    dates = dated(dsn, p)
    assert len(dates) > 2
    assert dates == dated(dsn, q)  # those of q are of curves that were read from their months
    carried, stored = curves(dsn, is_carried=True), curves(dsn, is_carried=False)
    for name in ("ndvi", "ndvi_sd", "is_observed"):
        np.testing.assert_array_equal(getattr(carried, name), getattr(stored, name))


def dated(dsn: str, parcel: int) -> list[sa.Row[tuple[object, ...]]]:
    with engine(dsn).connect() as connection:
        query = (
            "select recorded_at, outcome, reason, sos, pos, eos from phenology where parcel_key = :parcel order by 1"
        )
        return list(connection.execute(sa.text(query), {"parcel": parcel}))


def curves(dsn: str, *, is_carried: bool) -> DailyCurves:
    """The curves of all parcels as they are carried, or of their months."""
    with engine(dsn).connect() as connection:
        keys = np.array(connection.execute(sa.text("select parcel_key from parcels order by 1")).scalars().all())
        known = load(connection, keys, [OF_NO_MODEL]) if is_carried else {}
        assert not is_carried or known[OF_NO_MODEL, season_curves.CURVE].parcel_key.tolist() == keys.tolist()
        with pytest.MonkeyPatch.context() as patch:
            if is_carried:
                patch.setattr(predictions, "daily_curves", dies)
            return season_curves.stored(connection, season_by_name(connection, "2025"), keys, known)


@pytest.mark.parametrize("broken", [b"", b"broken", b"x" * (4 + 64 * 33 // 4)])
def test_a_carried_curve_of_another_size_is_read_from_its_months(
    season: tuple[str, Season, int], broken: bytes
) -> None:
    dsn, stored, parcel = season
    for day in range(0, 60, 12):
        arrive(dsn, parcel, "S2", day)
    with engine(dsn).begin() as connection:
        of_all = sa.text("select parcel_key from parcels order by 1")
        keys = np.array(connection.execute(of_all).scalars().all())
        expected = season_curves.stored(connection, stored, keys, {})
        connection.execute(sa.text("update encoder_states set state = :broken"), {"broken": broken})
        found = season_curves.stored(connection, stored, keys, load(connection, keys, [OF_NO_MODEL]))
    np.testing.assert_array_equal(found.ndvi, expected.ndvi)
    assert np.isfinite(found.ndvi).any()


def dies(*_: object) -> None:
    raise sa.exc.OperationalError("insert", None, psycopg.OperationalError("the worker was killed"))


def test_the_next_rows_go_on_from_the_stored_states(season: tuple[str, Season, int]) -> None:
    dsn, _, p = season
    for day in range(0, 102, 6):
        arrive(dsn, p, "S1", day)
        if day % 12 == 0:
            arrive(dsn, p, "S2", day + 1)
    stored = states(dsn)
    assert set(stored) == {(p, "ndvi causal"), (p, "ndvi retrospective")}
    with engine(dsn).connect() as connection:
        one = connection.execute(sa.text("select * from encoder_states where modality = 'ndvi causal'")).one()
    last = 96 - SETTLED_DAYS  # the day after which nothing new was read: of the last pass
    assert one.observed_to <= datetime(2025, 1, 1, tzinfo=UTC) + timedelta(days=last + 1)
    assert one.n_folded == last // 6 + 1 + (last - 1) // 12 + 1
    # Numbers that were tampered with show in the next row; a state that cannot be read does not.
    causal = stored[p, "ndvi causal"]
    tampered = (
        causal[: HEAD.itemsize] + (np.frombuffer(causal, "<f4", offset=HEAD.itemsize) + 50).astype("<f4").tobytes()
    )
    values = [next_causal(dsn, p, state) for state in (None, tampered, b"broken", causal)]
    assert values[0] == pytest.approx(values[3], abs=1e-5) == values[2]
    assert abs(values[1] - values[0]) > 1e-4


def next_causal(dsn: str, parcel: int, state: bytes | None) -> float:
    """The causal row of the next pass, looked at from a state and then undone."""
    now = datetime(2025, 1, 1, 23, tzinfo=UTC) + timedelta(days=104)
    with engine(dsn).connect() as connection, connection.begin() as transaction:
        table = pa.Table.from_pylist([record(S1, Arrival("S1", 104, ndvi_on(104)))], schema=S1.arrow)
        observations.insert(connection, "S1", table, np.array([parcel]), now)
        change = "delete from encoder_states" if state is None else "update encoder_states set state = :state"
        given = {} if state is None else {"state": state}
        connection.execute(sa.text(f"{change} where modality = 'ndvi causal'"), given)
        claim = work.claim(connection, 10, now)
        assert claim is not None
        Worker(dsn, MonitorSettings())._process(connection, claim, now)
        found = connection.execute(
            sa.text("select ndvi from ndvi_daily where mode = 'causal' and recorded_at = :now"), {"now": now}
        )
        value = float(found.scalar_one())
        transaction.rollback()
    return value


def measures(dsn: str, parcel: int, at: datetime | None = None) -> dict[str, sa.Row[tuple[object, ...]]]:
    """The phenology by thresholds as SQL shows it, as known at a time or now."""
    with engine(dsn).connect() as connection:
        query = sa.text("select * from phenology_known(:parcel, :at) where method = 'threshold'")
        found = connection.execute(query, {"parcel": parcel, "at": at or datetime(2100, 1, 1, tzinfo=UTC)}).all()
    assert [row.measure for row in found] == list(METRICS)
    return {row.measure: row for row in found}


def test_measures_are_known_as_far_as_the_season_is_and_restated(season: tuple[str, Season, int]) -> None:
    dsn, _, parcel = season
    seen = {}
    for day in range(0, 396, 12):
        seen[day] = arrive(dsn, parcel, "S2", day, value=ndvi_on(day))
    growing, over = measures(dsn, parcel, seen[144]), measures(dsn, parcel)
    assert growing["sos"].status == "OK"
    assert growing["eos"].status == growing["large_integral"].status == "not certain yet: the season runs"
    assert {row.status for row in over.values()} == {"OK"}
    last = dated(dsn, parcel)[-1]
    for name in ("sos", "pos", "eos"):
        assert abs((over[name].day - getattr(last, name)).days) <= 2
        assert over[name].sd > 0
    assert over["length"].value == pytest.approx(over["eos"].value - over["sos"].value, abs=0.01)
    assert over["n_cycles"].value == 1
    assert measures(dsn, parcel, seen[144]) == growing  # what was known stays known
    n = len(dated(dsn, parcel))
    arrive(dsn, parcel, "S1", 400)  # beyond the season's end: it changes nothing
    assert len(dated(dsn, parcel)) == n


def test_a_season_that_is_over_has_a_double_logistic(season: tuple[str, Season, int]) -> None:
    dsn, _, parcel = season
    query = sa.text("select measure, value, sd, status from phenology_known(:parcel) where method = 'logistic'")
    for day in range(0, 396, 12):
        arrive(dsn, parcel, "S2", day, value=ndvi_on(day))
        if day == 300:
            with engine(dsn).connect() as connection:
                assert not connection.execute(query, {"parcel": parcel}).all()
    with engine(dsn).connect() as connection:
        found = {row.measure: row for row in connection.execute(query, {"parcel": parcel})}
    assert list(found) == list(PARAMETERS)
    assert {row.status for row in found.values()} == {"OK"}
    assert found["greening_day"].value < 170 < found["senescence_day"].value
    assert all(row.sd > 0 for row in found.values())


def test_each_parcel_gets_its_own_numbers(season: tuple[str, Season, int]) -> None:
    dsn, _, _ = season
    with engine(dsn).begin() as connection:
        keys = np.array(connection.execute(sa.text("select parcel_key from parcels order by 1")).scalars().all())
        days = np.array(["2025-04-01", "NaT"], "M8[D]")
        numbers = np.arange(2.0 * len(METRICS)).reshape(2, -1)
        numbers[1, 3] = np.nan
        rows = SeasonDates(keys, [None, "no"], days, days, days, False, numbers, numbers / 10, None, None)
        phenology.save(connection, rows, datetime(2025, 5, 1, tzinfo=UTC))
        found = phenology.latest(connection, keys, START, ["yes", "no"], len(METRICS))
    np.testing.assert_array_equal(found["measures"], numbers)
    np.testing.assert_allclose(found["measures_sd"], numbers / 10, rtol=1e-6)
    assert found["reason_nr"].tolist() == [-1, 1]
    assert found["sos"].tolist() == [90, -1]
    assert [row.status for row in measures(dsn, int(keys[1])).values()].count("no") == 1


def test_the_simple_curve_is_replaced_when_a_gap_model_is_activated(season: tuple[str, Season, int]) -> None:
    dsn, stored, parcel = season
    with engine(dsn).begin() as connection:
        gaps = registry.active(connection, stored.season_key, "test", "ndvi")
        assert gaps is not None
        simple = simple_curve.registered(connection, datetime(2025, 1, 1, tzinfo=UTC))
        assert simple_curve.registered(connection, datetime(2025, 1, 1, tzinfo=UTC)) == simple
        registry.activate(connection, stored.season_key, "test", simple, datetime(2025, 1, 2, tzinfo=UTC))
    for day in (20, 40, 44):
        arrive(dsn, parcel, "S2", day)
    now = arrive(dsn, parcel, "S1", 50)
    before = rows(dsn)
    assert sorted(before) == list(range(20, 51))
    assert {row.model_key for row in before.values()} == {simple}
    assert before[30].ndvi_sd > 2 * before[40].ndvi_sd
    assert (before[50].mode, before[40].origin) == ("causal", "observed")
    with engine(dsn).begin() as connection:
        registry.activate(connection, stored.season_key, "test", gaps.model_key, now)
        work.mark_season(connection, stored.season_key, "test", "ndvi", now)
    WORKERS[dsn].poll(now + timedelta(hours=1))
    after = rows(dsn)
    assert sorted(after) == sorted(before)
    assert {row.model_key for row in after.values()} == {gaps.model_key}
