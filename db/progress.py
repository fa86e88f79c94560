"""How the parcels of one region and declared crop stand: the clear views it is made of, and the stored result."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.dialects.postgresql import insert

from db.columns import fetch_columns
from db.tables import crop_progress


@dataclass(frozen=True)
class ProgressRow:
    """How parcels of one region and declared crop stand by day of the season (monitor.rules.Neighbours)."""

    region_key: int
    crop_code: str
    n_parcels: int
    first_day: date
    standing_share: NDArray[np.float32]
    median_ndvi: NDArray[np.float32]


def clear_views(
    connection: sa.Connection, season_key: int, collection: str, sample: int, now: datetime
) -> NDArray[np.void]:
    """Clear NDVI of up to `sample` parcels of each region and declared crop: fields region_key, parcel_key, day, ndvi.

    The sample is the same every day (by a hash of the key).
    """
    return fetch_columns(
        connection,
        """
        with declared as materialized (
            select parcels.parcel_key, region_key,
                   row_number() over (partition by region_key, crop_code order by hashint8(parcels.parcel_key)) as nr
            from parcels cross join lateral declaration_known(parcel_key, %s)
            where season_key = %s and collection = %s and not_monitorable_reason is null)
        select region_key, v.parcel_key, (v.observed_at at time zone 'UTC')::date as day, v.ndvi
        from declared cross join lateral (
            select distinct on (observed_at, relative_orbit) parcel_key, observed_at, ndvi, is_withdrawn
            from s2_observations o where o.parcel_key = declared.parcel_key and recorded_at <= %s
            order by observed_at, relative_orbit, revision desc) v
        where nr <= %s and ndvi is not null and not is_withdrawn
        order by region_key, v.parcel_key, day""",
        [now, season_key, collection, now, sample],
        {"region_key": "smallint", "parcel_key": "bigint", "day": "date", "ndvi": "real"},
    )


def crop_of(connection: sa.Connection, parcel_keys: Iterable[int], now: datetime) -> Mapping[int, str]:
    """The declared crop code of parcels as known at a time."""
    rows = connection.execute(
        sa.text(
            """select k, crop_code from unnest(cast(:keys as bigint[])) k cross join lateral declaration_known(k, :now)"""
        ),
        {"keys": list(parcel_keys), "now": now},
    )
    return {row.k: row.crop_code for row in rows}


def with_another_crop_before(connection: sa.Connection, parcels: NDArray[np.int64], now: datetime) -> frozenset[int]:
    """The parcels of which most lay under another declared crop last season, by lineage; where that is unknown, none."""
    rows = connection.execute(
        sa.text("""
            select k from unnest(cast(:keys as bigint[])) k
            cross join lateral declaration_known(k, :now) here
            cross join lateral (
                select predecessor_key from parcel_lineage where parcel_key = k order by area_share desc limit 1) lineage
            cross join lateral declaration_known(predecessor_key, :now) before
            where before.crop_code <> here.crop_code"""),
        {"keys": parcels.tolist(), "now": now},
    )
    return frozenset(rows.scalars())


def save(
    connection: sa.Connection, season_key: int, collection: str, rows: Iterable[ProgressRow], now: datetime
) -> None:
    """Appends the progress of regions and crops."""
    values = [
        {"season_key": season_key, "collection": collection, "recorded_at": now, **row.__dict__,
         "standing_share": row.standing_share.tolist(), "median_ndvi": row.median_ndvi.tolist()}
        for row in rows
    ]  # fmt: skip
    if values:
        connection.execute(insert(crop_progress).on_conflict_do_nothing(), values)


def load(
    connection: sa.Connection, season_key: int, collection: str, as_known_at: datetime
) -> dict[tuple[str, str], ProgressRow]:
    """The newest progress of each region and crop, by (region, crop code)."""
    rows = connection.execute(
        sa.text("""select distinct on (region_key, crop_code) code, region_key, crop_code, n_parcels, first_day,
                          standing_share, median_ndvi
                   from crop_progress join regions using (region_key)
                   where season_key = :season_key and collection = :collection and recorded_at <= :at
                   order by region_key, crop_code, recorded_at desc"""),
        {"season_key": season_key, "collection": collection, "at": as_known_at},
    )
    return {
        (row.code, row.crop_code): ProgressRow(
            row.region_key, row.crop_code, row.n_parcels, row.first_day,
            np.array(row.standing_share, np.float32), np.array(row.median_ndvi, np.float32),
        )
        for row in rows
    }  # fmt: skip


def last_recorded(connection: sa.Connection, season_key: int, collection: str) -> datetime | None:
    """When the progress of a season was last computed."""
    return connection.execute(
        sa.select(sa.func.max(crop_progress.c.recorded_at)).where(
            crop_progress.c.season_key == season_key, crop_progress.c.collection == collection
        )
    ).scalar()
