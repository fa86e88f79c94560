"""What analysts read, on a real server: revisions, withdrawals and every kind of row, as known at a time."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from db import predictions, tables
from db.connect import engine
from db.predictions import NdviRows

DAY = timedelta(days=1)
OBSERVED = datetime(2023, 5, 1, 10, 30, tzinfo=UTC)


@pytest.fixture
def connection(dsn: str) -> Iterator[sa.Connection]:
    with engine(dsn).begin() as opened:
        yield opened


@pytest.fixture
def revised(connection: sa.Connection) -> int:
    """A parcel with a pass stored on 1 May, corrected on 5 May and withdrawn on 9 May, and another of 3 May."""
    key: int = connection.execute(
        sa.text("""
            with season as (
                insert into seasons (name, starts_on, ends_on) values ('2023', '2023-01-01', '2023-12-31') returning *
            ),
            region as (insert into regions (code) values ('r') returning *)
            insert into parcels (collection, season_key, source_id, region_key, recorded_at)
            select 'c', season_key, 'p', region_key, '2023-01-01' from season, region returning parcel_key""")
    ).scalar_one()
    for at, orbit, revision, recorded_at, withdrawn, ndvi in (
        (OBSERVED, 8, 0, OBSERVED, False, 0.5),
        (OBSERVED, 8, 1, OBSERVED + 4 * DAY, False, 0.6),
        (OBSERVED, 8, 2, OBSERVED + 8 * DAY, True, None),
        (OBSERVED + 2 * DAY, 51, 0, OBSERVED + 2 * DAY, False, 0.7),
    ):
        connection.execute(
            sa.insert(tables.s2_observations),
            {
                "parcel_key": key,
                "observed_at": at,
                "relative_orbit": orbit,
                "revision": revision,
                "is_withdrawn": withdrawn,
                "n_clear": 9,
                "available_at": at,
                "recorded_at": recorded_at,
                "scene_key": 1,
                "ndvi": ndvi,
            },
        )
    return key


@pytest.mark.parametrize(
    ("days", "known"),
    [(-1, []), (0, [0.5]), (3, [0.5, 0.7]), (4, [0.6, 0.7]), (7.99, [0.6, 0.7]), (8, [0.7]), (None, [0.7])],
)
def test_observations_as_known_at(
    days: float | None, known: list[float], revised: int, connection: sa.Connection
) -> None:
    at = "infinity" if days is None else (OBSERVED + days * DAY).isoformat()
    rows = connection.execute(
        sa.text("select ndvi from s2_known(:parcel, '2023-01-01', '2024-01-01', :at) order by observed_at"),
        {"parcel": revised, "at": at},
    ).scalars()
    assert list(rows) == pytest.approx(known)


def test_the_end_of_a_range_is_not_in_it(revised: int, connection: sa.Connection) -> None:
    query = sa.text("select count(*) from s2_known(:parcel, :first, :last, :at)")
    where = {"parcel": revised, "at": OBSERVED + 4 * DAY}
    assert connection.execute(query, {**where, "first": OBSERVED, "last": OBSERVED + 2 * DAY}).scalar_one() == 1
    assert connection.execute(query, {**where, "first": OBSERVED + DAY, "last": OBSERVED + 3 * DAY}).scalar_one() == 1


def curve(parcel: int, first: date, ndvi: list[float], is_causal: bool = True) -> NdviRows:
    """Reconstructed NDVI of consecutive days."""
    n = len(ndvi)
    days = np.datetime64(first) + np.arange(n)
    return NdviRows(np.full(n, parcel), days, np.full(n, is_causal), np.zeros(n, bool), np.array(ndvi), np.full(n, 0.1))


def save_ndvi(connection: sa.Connection, rows: NdviRows, now: datetime) -> None:
    """Store days of curves of model 1."""
    curves = predictions.daily_curves(connection, np.unique(rows.parcel_key), date(2023, 1, 1), 366)
    curves.put(rows)
    predictions.save_ndvi(connection, rows, curves, 1, now)


def test_ndvi_and_declarations_as_known_at(revised: int, connection: sa.Connection) -> None:
    for is_causal, recorded_at, ndvi in ((True, OBSERVED, 0.4), (False, OBSERVED + 9 * DAY, 0.45)):
        one_day = curve(revised, OBSERVED.date(), [ndvi], is_causal)
        save_ndvi(connection, one_day, recorded_at)
    for crop, recorded_at in (("wheat", OBSERVED), ("maize", OBSERVED + 9 * DAY)):
        connection.execute(
            sa.insert(tables.declarations),
            {
                "parcel_key": revised,
                "recorded_at": recorded_at,
                "declared_at": recorded_at,
                "crop_code": "1",
                "crop_name": crop,
            },
        )
    for days, ndvi_, crop_ in ((-1, None, None), (0, 0.4, "wheat"), (8, 0.4, "wheat"), (9, 0.45, "maize")):
        where = {"parcel": revised, "at": OBSERVED + days * DAY}
        known = connection.execute(
            sa.text("select ndvi from ndvi_known(:parcel, '2023-01-01', '2024-01-01', :at)"), where
        ).scalar()
        assert known == pytest.approx(ndvi_)
        crop_known = connection.execute(
            sa.text("select crop_name from declaration_known(:parcel, :at)"), where
        ).scalar()
        assert crop_known == crop_


def test_a_version_of_a_month_keeps_the_days_that_did_not_change(revised: int, connection: sa.Connection) -> None:
    parcels, first = np.array([revised, revised + 1]), date(2023, 4, 28)
    assert np.isnat(predictions.daily_curves(connection, parcels, first, 9).last_days()).all()
    save_ndvi(connection, curve(revised, date(2023, 4, 29), [0.1, 0.2, 0.3, 0.4]), OBSERVED)
    save_ndvi(connection, curve(revised, date(2023, 5, 2), [0.5, 0.6], is_causal=False), OBSERVED + DAY)
    found = predictions.daily_curves(connection, parcels, first, 9)
    nan = float("nan")
    np.testing.assert_allclose(found.ndvi, [[nan, 0.1, 0.2, 0.3, 0.5, 0.6, nan, nan, nan], [nan] * 9])
    np.testing.assert_allclose(found.ndvi_sd, np.where(np.isnan(found.ndvi), nan, 0.1))
    assert found.is_causal.tolist() == [[False, True, True, True, *[False] * 5], [False] * 9]
    assert found.last_days().astype(str).tolist() == ["2023-05-03", "NaT"]
    stored = found.rows(curve(revised, date(2023, 5, 1), [9, 9, 9, 9]))
    np.testing.assert_allclose(stored.ndvi, [0.3, 0.5, 0.6, nan])
    days = connection.execute(sa.text("select day, recorded_at from ndvi_daily order by recorded_at, day")).all()
    assert [row.day.day for row in days] == [29, 30, 1, 2, 2, 3]  # unchanged days are not said again
    assert [row.recorded_at for row in days] == [OBSERVED] * 4 + [OBSERVED + DAY] * 2


@pytest.fixture
def storied(revised: int, connection: sa.Connection) -> int:
    """The revised parcel with a row of every kind."""
    at = OBSERVED + 2 * DAY
    where = {"parcel": revised, "at": at}
    for statement in (
        """insert into s1_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_pixels,
               available_at, recorded_at, scene_key, direction, radiometry, vv, vh)
           values (:parcel, :at, 88, 0, false, 50, :at, :at, 1, 'ascending', 'sigma0', 0.1, 0)""",
        """insert into models (model_id, task, config, metrics, trained_on, description, weights, recorded_at)
           values ('m', 'classifier', '{"classes": ["wheat", "maize"]}', '{}', '{}', '{}', '', :at)""",
        """insert into posteriors (parcel_key, recorded_at, observed_to, model_key, n_s2, n_s1a, n_s1d, n_s1,
               probabilities)
           select :parcel, :at, :at, model_key, 1, 0, 0, 0, array[0.25, 0.75] from models""",
        """insert into declarations (parcel_key, recorded_at, declared_at, crop_code, crop_name)
           values (:parcel, :at, :at, '1', 'wheat')""",
        """insert into alerts (parcel_key, rule, state, colour, confidence, departed_on, opened_at)
           values (:parcel, 'crop_mismatch', 'open', 'red', 0.9, '2023-05-01', :at)""",
        """insert into alert_events (alert_key, recorded_at, event, colour, confidence, evidence)
           select alert_key, :at, 'opened', 'yellow', 0.8, '{"seen": 7}' from alerts""",
    ):
        connection.execute(sa.text(statement), where)
    save_ndvi(connection, curve(revised, at.date(), [0.5]), at)
    return revised


def history(connection: sa.Connection, parcel: int, at: datetime) -> dict[str, list[sa.Row[Any]]]:
    kinds: dict[str, list[sa.Row[Any]]] = {}
    query = sa.text("select * from parcel_history(:parcel, as_known_at => :at)")
    for row in connection.execute(query, {"parcel": parcel, "at": at}):
        kinds.setdefault(row.kind, []).append(row)
    return kinds


def test_a_parcels_history_has_every_kind(storied: int, connection: sa.Connection) -> None:
    found = history(connection, storied, OBSERVED + 5 * DAY)
    assert {kind: len(rows) for kind, rows in found.items()} == {
        "s2": 2,
        "s1": 1,
        "ndvi": 1,
        "posterior": 1,
        "declaration": 1,
        "alert": 1,
    }
    assert found["s2"][0].detail["revision"] == 1
    (radar,) = found["s1"]
    assert radar.vv_db == pytest.approx(-10)
    assert radar.vh_db is None  # no power has no logarithm
    (posterior,) = found["posterior"]
    assert (posterior.crop, posterior.probability) == ("maize", pytest.approx(0.75))
    assert found["declaration"][0].crop == "wheat"
    (alert,) = found["alert"]
    assert (alert.detail["rule"], alert.detail["seen"], alert.probability) == ("crop_mismatch", 7, pytest.approx(0.8))
    assert found["ndvi"][0].at == datetime(2023, 5, 3, tzinfo=UTC)


def test_a_parcels_history_never_sees_the_future(storied: int, connection: sa.Connection) -> None:
    assert history(connection, storied, OBSERVED - DAY) == {}
    for days in (0, 1, 2, 5, 9):
        at = OBSERVED + days * DAY
        assert all(row.recorded_at <= at for rows in history(connection, storied, at).values() for row in rows)


def test_views_of_what_is_current(storied: int, connection: sa.Connection) -> None:
    latest = connection.execute(sa.text("select * from latest_posteriors")).one()
    assert (latest.parcel_key, latest.most_likely_crop, latest.declared_crop) == (storied, "maize", "wheat")
    alert = connection.execute(sa.text("select * from open_alerts")).one()
    assert (alert.source_id, alert.region, alert.season, alert.declared_crop) == ("p", "r", "2023", "wheat")
    assert alert.evidence == {"seen": 7}
    connection.execute(sa.text("update alerts set state = 'closed', closed_at = now()"))
    assert connection.execute(sa.text("select * from open_alerts")).all() == []
    assert connection.execute(sa.text("select parcel_key_of('c', '2023', 'p')")).scalar_one() == storied


@pytest.mark.parametrize(
    "statement",
    [
        "insert into seasons (name, starts_on, ends_on) values ('x', '2023-05-01', '2023-05-01')",
        "insert into s2_observations select * from s2_observations",
        "insert into findings values (:parcel, 'r', now(), '1', 'OK', null, 1, null, '{}')",
        "insert into findings values (:parcel, 'r', now(), '1', 'NOT_VALID', 'red', 1, null, '{}')",
        "insert into alerts (parcel_key, rule, state, colour, confidence, departed_on, opened_at) "
        "select parcel_key, rule, 'open', colour, confidence, departed_on, opened_at from alerts",
        "update alerts set state = 'closed'",
        "insert into parcel_lineage values (:parcel, :parcel, 0)",
    ],
)
def test_what_must_never_be_is_refused(statement: str, storied: int, connection: sa.Connection) -> None:
    with pytest.raises(sa.exc.IntegrityError), connection.begin_nested():
        connection.execute(sa.text(statement), {"parcel": storied})
