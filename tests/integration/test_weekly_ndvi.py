"""Regional NDVI by week: what is rolled up is what a plain query of the observations says, whatever came late, again or from whom."""

import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import hypothesis.strategies as st
import numpy as np
import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings

from db import observations, weekly_ndvi
from db.connect import Connection, engine
from db.parcel_import import ParcelRow, upsert_parcels
from db.seasons import Season, ensure_season
from ingest.stream.schemas import S2
from monitor.schedule import roll_up_weeks

MONDAY = date(2025, 6, 2)
N_PARCELS = 12
FIRST_IMPORT = datetime(2025, 1, 1, tzinfo=UTC)
ROLLED = """select region, declared_crop_code, week, n_parcels, n_observations, mean_ndvi, sd_ndvi, p10_ndvi, median_ndvi, p90_ndvi
            from parcelwatch.weekly_ndvi"""
PLAIN = """
select r.code, d.crop_code, date_trunc('week', o.observed_at, 'UTC')::date, count(distinct parcel_key), count(*), avg(ndvi::float8),
       stddev_samp(ndvi::float8), percentile_cont(0.1) within group (order by ndvi), percentile_cont(0.5) within group (order by ndvi),
       percentile_cont(0.9) within group (order by ndvi)
from (select distinct on (parcel_key, observed_at, relative_orbit) * from s2_observations
      order by parcel_key, observed_at, relative_orbit, revision desc) o
join parcels using (parcel_key) join regions r using (region_key)
left join (select distinct on (parcel_key) * from declarations order by parcel_key, recorded_at desc) d using (parcel_key)
where not is_withdrawn and ndvi is not null group by 1, 2, 3"""
Views = Sequence[tuple[int, int, int, int, float | None]]
"""Parcel, day after the Monday, orbit, revision, NDVI (None: withdrawn)."""


@pytest.fixture
def season(dsn: str) -> Iterator[Season]:
    with engine(dsn).begin() as connection:
        stored = ensure_season(connection, "2025", date(2025, 1, 1), date(2025, 12, 31))
        declare(connection, stored, 3, FIRST_IMPORT)
    yield stored
    engine(dsn).dispose()


def declare(connection: Connection, season: Season, n_crops: int, now: datetime, regions: int = 2) -> None:
    """Import the parcels, the last of them without a declaration."""
    rows = [
        ParcelRow(f"p{nr}", f"r{nr % regions}", None, 1.0, 400.0, 0.9, None, *crop)
        for nr in range(N_PARCELS)
        for crop in [(None, None) if nr == N_PARCELS - 1 else (str(nr % n_crops), "a crop")]
    ]
    upsert_parcels(connection, "nl", season, rows, now, now)


def arrive(connection: Connection, views: Views, scene: str = "") -> None:
    """Store views as a consumer does."""
    keys = connection.execute(sa.text("select parcel_key from parcels order by parcel_key")).scalars().all()
    rows = [
        dict.fromkeys(S2.arrow.names)
        | {
            "collection": "nl",
            "season": "2025",
            "parcel_id": f"p{parcel}",
            "observed_at": (at := datetime(2025, 6, 2, 10, orbit, tzinfo=UTC) + timedelta(days=day)),
            "available_at": at,
            "scene_id": f"{day}-{orbit}-{revision}{scene}",
            "platform": "S2A",
            "relative_orbit": orbit,
            "revision": revision,
            "is_withdrawn": ndvi is None,
            "NDVI": ndvi,
            "n_clear": 0 if ndvi is None else 20,
        }
        for parcel, day, orbit, revision, ndvi in views
    ]
    of_parcel = np.array([keys[parcel] for parcel, *_ in views])
    observations.insert(connection, "S2", pa.Table.from_pylist(rows, schema=S2.arrow), of_parcel, FIRST_IMPORT)


def by_group(connection: Connection, query: str) -> dict[Any, Any]:
    """Return the figures of each region, crop and week; -1 where there is no standard deviation."""
    rows = connection.execute(sa.text(query)).all()
    return {tuple(row[:3]): [-1 if one is None else one for one in row[3:]] for row in rows}


def assert_alike(rolled: dict[Any, Any], plain: dict[Any, Any], n_groups: int = 0) -> None:
    assert rolled.keys() == plain.keys()
    assert len(rolled) >= n_groups
    for group, figures in plain.items():
        assert rolled[group] == pytest.approx(figures, abs=1e-6), group


def assert_exact(connection: Connection, n_groups: int = 0) -> None:
    assert_alike(by_group(connection, ROLLED), by_group(connection, PLAIN), n_groups)


def roll_up_all(connection: Connection) -> list[date]:
    """Roll up what has changed, however soon after the last time."""
    connection.execute(sa.text("update ndvi_weeks set took_s = 0"))
    weeks = weekly_ndvi.due(connection)[::-1]
    assert all(weekly_ndvi.roll_up(connection, week) for week in weeks)
    return weeks


@pytest.mark.usefixtures("season")
def test_late_revised_and_withdrawn_views(dsn: str) -> None:
    everybody = range(N_PARCELS)
    with engine(dsn).connect() as connection:
        for views, weeks in (
            ([(nr, day, 8, 0, 0.3 + nr / 40 + day / 90) for nr in everybody for day in (0, 5, 8)], [0, 7]),
            ([], []),
            ([(nr, 3, 51, 0, 0.5) for nr in everybody], [0]),  # late
            ([(nr, 5, 8, 1, 0.9) for nr in (0, 1)], [0]),  # revised
            ([(nr, 8, 8, 1, None) for nr in everybody], [7]),  # all of a week withdrawn
            ([(2, 8, 8, 2, 0.7), (3, 0, 8, 2, 0.1)], [0, 7]),  # back again; a revision before the one below
            ([(3, 0, 8, 1, 0.8)], [0]),
            ([(0, 6, 8, 0, 0.2), (0, 7, 8, 0, 0.2)], [0, 7]),  # Sunday and Monday
        ):
            if views:
                arrive(connection, views)
            assert roll_up_all(connection) == [MONDAY + timedelta(days=day) for day in weeks]
            assert_exact(connection, 6)


CHANCE = st.tuples(
    st.integers(0, N_PARCELS - 1),
    st.sampled_from([0, 6, 7, 20]),
    st.sampled_from([8, 51]),
    st.integers(0, 2),
    st.one_of(st.none(), st.integers(-10, 90).map(lambda value: value / 100)),
)


@pytest.mark.usefixtures("season")
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(CHANCE, min_size=1, max_size=8, unique_by=lambda view: view[:4]), max_size=5))
def test_any_order_of_views(dsn: str, batches: list[Views]) -> None:
    with engine(dsn).connect() as connection:
        for views in batches:
            arrive(connection, views)
            roll_up_all(connection)
            assert_exact(connection)
        connection.rollback()


def test_other_declarations_and_regions(dsn: str, season: Season) -> None:
    """An import that changes them has the season's weeks rolled up anew; one that changes nothing does not."""
    with engine(dsn).connect() as connection:
        arrive(connection, [(nr, day, 8, 0, nr / 20) for nr in range(N_PARCELS) for day in (0, 9)])
        assert len(roll_up_all(connection)) == 2
        declare(connection, season, 3, FIRST_IMPORT + timedelta(days=1))
        assert roll_up_all(connection) == []
        declare(connection, season, 4, FIRST_IMPORT + timedelta(days=2))
        assert len(roll_up_all(connection)) == 2
        assert_exact(connection, 8)
        declare(connection, season, 4, FIRST_IMPORT + timedelta(days=3), regions=3)
        assert len(roll_up_all(connection)) == 2
        assert_exact(connection, 8)


def test_what_is_stored_meanwhile_is_not_forgotten(dsn: str, season: Season) -> None:
    """Neither views of a transaction that commits after the week was rolled up, nor an import."""
    with engine(dsn).begin() as first:
        arrive(first, [(nr, 0, 8, 0, 0.4) for nr in range(N_PARCELS)])
    with engine(dsn).connect() as consumer, engine(dsn).connect() as leader:
        arrive(consumer, [(0, 1, 8, 0, 0.8)])
        assert roll_up_all(leader) == [MONDAY]
        leader.commit()
        consumer.commit()
        assert roll_up_all(leader) == [MONDAY]
        leader.commit()
        assert_exact(leader)
        declare(consumer, season, 4, FIRST_IMPORT + timedelta(days=1))
        assert not weekly_ndvi.roll_up(leader, MONDAY)  # it does not wait for the import
        leader.rollback()
        consumer.commit()
        assert roll_up_all(leader) == [MONDAY]
        assert_exact(leader)


@pytest.mark.usefixtures("season")
def test_several_consumers_and_leaders_at_once(dsn: str) -> None:
    raised: list[Exception] = []

    def attempt(act: Any) -> None:
        try:
            act()
        except (sa.exc.SQLAlchemyError, psycopg.Error, AssertionError) as error:
            raised.append(error)

    def consume(nr: int) -> None:
        for day in range(0, 20, 2):
            with engine(dsn).begin() as connection:
                arrive(connection, [(parcel, day, 8, nr, 0.1 * nr + day / 50) for parcel in range(nr, N_PARCELS)])

    def lead() -> None:
        for _ in range(15):
            roll_up_weeks(dsn)

    threads = [threading.Thread(target=attempt, args=[lambda nr=nr: consume(nr)]) for nr in range(3)]
    threads += [threading.Thread(target=attempt, args=[lead]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == []
    with engine(dsn).begin() as connection:
        roll_up_all(connection)
        assert_exact(connection, 9)


@pytest.mark.usefixtures("season")
def test_a_dear_week_is_not_rolled_up_again_at_once(dsn: str) -> None:
    with engine(dsn).connect() as connection:
        arrive(connection, [(0, 0, 8, 0, 0.4)])
        roll_up_all(connection)
        arrive(connection, [(1, 0, 8, 0, 0.4), (1, 8, 8, 0, 0.4)])
        connection.execute(sa.text("update ndvi_weeks set took_s = 1"))
        assert weekly_ndvi.due(connection) == [MONDAY + timedelta(days=7)]
        connection.execute(sa.text("update ndvi_weeks set recorded_at = recorded_at - interval '501 seconds'"))
        assert weekly_ndvi.due(connection) == [MONDAY + timedelta(days=7), MONDAY]


def test_as_known_at_a_time(dsn: str, season: Season) -> None:
    """Later views, revisions and declarations are not in it; now it is what is rolled up."""
    with engine(dsn).connect() as connection:
        arrive(connection, [(nr, 0, 8, 0, 0.4) for nr in range(N_PARCELS)])
        connection.execute(sa.text("update s2_observations set recorded_at = '2025-06-03'"))
        before = by_group(connection, PLAIN)
        connection.commit()
        arrive(connection, [(nr, 0, 8, 1, 0.6) for nr in range(N_PARCELS)] + [(0, 2, 8, 0, 0.3)])
        connection.execute(
            sa.text("update s2_observations set recorded_at = '2025-06-07' where recorded_at < '2025-06-02'")
        )
        declare(connection, season, 4, datetime(2025, 6, 8, tzinfo=UTC))
        known = "select region, declared_crop_code, week, n_parcels, n_observations, mean_ndvi, sd_ndvi, p10_ndvi, median_ndvi, p90_ndvi"
        ask = f"{known} from parcelwatch.weekly_ndvi_known('nl', '2025', '2025-06-04', '2025-06-05'"
        connection.commit()
        assert_alike(by_group(connection, f"{ask}, '2025-06-05')"), before, 6)
        roll_up_all(connection)
        assert_alike(by_group(connection, f"{ask})"), by_group(connection, ROLLED), 4)
        assert by_group(connection, f"{known} from parcelwatch.weekly_ndvi_known('nl', '2025', '2025-06-09')") == {}
        of_season = by_group(connection, f"{known} from parcelwatch.weekly_ndvi_known('nl', '2025')")
        assert_alike(of_season, by_group(connection, PLAIN), 4)
        assert by_group(connection, f"{known} from parcelwatch.weekly_ndvi_known('nl', '1999')") == {}


@pytest.mark.usefixtures("season")
def test_a_store_that_is_new_to_it_is_rolled_up_bit_by_bit(dsn: str) -> None:
    with engine(dsn).begin() as connection:
        arrive(connection, [(0, day, 8, 0, 0.4) for day in (0, 7, 14)])
    assert [roll_up_weeks(dsn, at_most_s=-1), roll_up_weeks(dsn)] == [0, 3]
