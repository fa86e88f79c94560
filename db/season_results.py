"""A whole season's results as known at a time, for scores and reports."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from db import recording
from db.columns import fetch_columns
from db.sensors import SENSORS


@dataclass(frozen=True)
class SeasonPosteriors:
    """The newest posterior of each parcel of a season."""

    source_ids: list[str]
    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    """(P, K)"""


@dataclass(frozen=True)
class RaisedAlertRow:
    """An alert of a season, open or closed."""

    source_id: str
    rule: str
    opened_at: datetime
    confirmed_at: datetime | None
    closed_at: datetime | None


def posteriors(connection: sa.Connection, season_key: int, collection: str, as_known_at: datetime) -> SeasonPosteriors:
    """Return posteriors of the model that is active; parcels without one are absent."""
    recording.settle(connection, as_known_at)
    rows = connection.execute(
        sa.text("""
            with watching as (
                select model_key from model_activations where (season_key, collection, task) = (:season_key, :collection, 'classifier')
                order by recorded_at desc limit 1)
            select source_id, probabilities, config -> 'classes' as classes
            from parcels cross join lateral (
                select probabilities, model_key from posteriors p
                where p.parcel_key = parcels.parcel_key and p.recorded_at <= :at and p.model_key = (table watching)
                order by recorded_at desc limit 1) newest
            join models using (model_key)
            where (season_key, collection) = (:season_key, :collection) order by source_id"""),
        {"season_key": season_key, "collection": collection, "at": as_known_at},
    ).all()
    classes = tuple(rows[0].classes) if rows else ()
    values = np.array([row.probabilities for row in rows], np.float32).reshape(len(rows), len(classes))
    return SeasonPosteriors([row.source_id for row in rows], classes, values)


def ndvi(connection: sa.Connection, season_key: int, collection: str, mode: str | None) -> NDArray[np.void]:
    """Return daily NDVI of a season: fields parcel_key, day, is_observed, ndvi, ndvi_sd.

    Args:
        mode: `causal` gives each day as it was first known, None as it is known now.
    """
    source = "daily_ndvi" if mode is None else "ndvi_daily where mode = 'causal'"
    return fetch_columns(
        connection,
        f"""select distinct on (parcel_key, day) parcel_key, day, origin = 'observed' as is_observed, ndvi, ndvi_sd
            from (select * from {source}) curve
            where parcel_key = any(array(select parcel_key from parcels where season_key = %s and collection = %s))
            order by parcel_key, day, recorded_at""",
        [season_key, collection],
        {"parcel_key": "bigint", "day": "date", "is_observed": "bool", "ndvi": "real", "ndvi_sd": "real"},
    )


def alerts(connection: sa.Connection, season_key: int, collection: str) -> list[RaisedAlertRow]:
    """Return every alert of a season."""
    rows = connection.execute(
        sa.text("""select source_id, rule, opened_at, confirmed_at, closed_at from alerts join parcels using (parcel_key)
                   where (season_key, collection) = (:season_key, :collection) order by opened_at, source_id"""),
        {"season_key": season_key, "collection": collection},
    )
    return [RaisedAlertRow(**row._mapping) for row in rows]


def count_observations(connection: sa.Connection, season_key: int, collection: str) -> int:
    """Return observations of a season as they lie in the tables, revisions counted apart."""
    counts = " + ".join(
        f"(select count(*) from {one.table} where parcel_key in (table own))" for one in SENSORS.values()
    )
    found: int = connection.execute(
        sa.text(f"""
            with own as materialized (select parcel_key from parcels where (season_key, collection) = (:season_key, :collection))
            select {counts}"""),
        {"season_key": season_key, "collection": collection},
    ).scalar_one()
    return found
