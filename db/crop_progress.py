"""How the parcels of one region and declared crop stand: the clear views it is made of, and the stored result."""

from collections.abc import Iterable, Mapping, Sequence
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
    """How parcels of one region and declared crop stand by day of the season (monitor.alerts.neighbours.Neighbours)."""

    region_key: int
    crop_code: str
    n_parcels: int
    first_day: date
    standing_share: NDArray[np.float32]
    median_ndvi: NDArray[np.float32]


def clear_views(connection: sa.Connection, season_key: int, collection: str, sample: int) -> NDArray[np.void]:
    """Return the clear NDVI of up to `sample` parcels of each region and declared crop: region_key, parcel_key, day, ndvi.

    The sample is the same every day (by a hash of the key).
    """
    return fetch_columns(
        connection,
        """
        with declared as materialized (
            select parcels.parcel_key, region_key,
                   row_number() over (partition by region_key, crop_code order by hashint8(parcels.parcel_key)) as nr
            from parcels cross join lateral declaration_known(parcel_key)
            where season_key = %s and collection = %s and not_monitorable_reason is null)
        select region_key, v.parcel_key, (v.observed_at at time zone 'UTC')::date as day, v.ndvi
        from declared cross join lateral (
            select distinct on (observed_at, relative_orbit) parcel_key, observed_at, ndvi, is_withdrawn
            from s2_observations o where o.parcel_key = declared.parcel_key
            order by observed_at, relative_orbit, revision desc) v
        where nr <= %s and ndvi is not null and not is_withdrawn
        order by region_key, v.parcel_key, day""",
        [season_key, collection, sample],
        {"region_key": "smallint", "parcel_key": "bigint", "day": "date", "ndvi": "real"},
    )


def crop_of(connection: sa.Connection, parcel_keys: Iterable[int]) -> Mapping[int, str]:
    """Return the declared crop code of parcels."""
    rows = connection.execute(
        sa.text("select k, crop_code from unnest(cast(:keys as bigint[])) k cross join lateral declaration_known(k)"),
        {"keys": list(parcel_keys)},
    )
    return {row.k: row.crop_code for row in rows}


def with_another_crop_before(connection: sa.Connection, parcels: NDArray[np.int64]) -> frozenset[int]:
    """Return the parcels of which most lay under another declared crop last season, by lineage; where that is unknown, none."""
    rows = connection.execute(
        sa.text("""
            select k from unnest(cast(:keys as bigint[])) k
            cross join lateral declaration_known(k) here
            cross join lateral (
                select predecessor_key from parcel_lineage where parcel_key = k order by area_share desc limit 1) lineage
            cross join lateral declaration_known(predecessor_key) before
            where before.crop_code <> here.crop_code"""),
        {"keys": parcels.tolist()},
    )
    return frozenset(rows.scalars())


def save(
    connection: sa.Connection,
    season_key: int,
    collection: str,
    rows: Iterable[ProgressRow],
    n_observations: int,
    recorded_at: datetime,
) -> None:
    """Append the progress of regions and crops, with how many observations of the season were stored then."""
    values = [
        {
            "season_key": season_key,
            "collection": collection,
            "recorded_at": recorded_at,
            **row.__dict__,
            "standing_share": row.standing_share.tolist(),
            "median_ndvi": row.median_ndvi.tolist(),
            "n_observations": n_observations,
        }
        for row in rows
    ]
    if values:
        connection.execute(insert(crop_progress).on_conflict_do_nothing(), values)


def load(connection: sa.Connection, season_key: int, collection: str) -> dict[tuple[str, str], ProgressRow]:
    """Return the newest progress of each region and crop, by (region, crop code)."""
    # Group by group along the key: every day adds a row of each, and all but the newest are passed over unread.
    rows = connection.execute(
        sa.text("""
            with recursive groups as (
                (select region_key, crop_code from crop_progress
                 where (season_key, collection) = (:season_key, :collection) order by region_key, crop_code limit 1)
                union all
                select next.* from groups cross join lateral (
                    select region_key, crop_code from crop_progress
                    where (season_key, collection) = (:season_key, :collection)
                      and (region_key, crop_code) > (groups.region_key, groups.crop_code)
                    order by region_key, crop_code limit 1) next)
            select code, region_key, crop_code, n_parcels, first_day, standing_share, median_ndvi
            from groups join regions using (region_key) cross join lateral (
                select n_parcels, first_day, standing_share, median_ndvi from crop_progress of_group
                where (of_group.season_key, of_group.collection, of_group.region_key, of_group.crop_code)
                    = (:season_key, :collection, groups.region_key, groups.crop_code)
                order by recorded_at desc limit 1) newest"""),
        {"season_key": season_key, "collection": collection},
    )
    return {
        (row.code, row.crop_code): ProgressRow(
            row.region_key,
            row.crop_code,
            row.n_parcels,
            row.first_day,
            np.array(row.standing_share, np.float32),
            np.array(row.median_ndvi, np.float32),
        )
        for row in rows
    }


@dataclass(frozen=True)
class Version:
    """Which progress is the newest of a season and of the collection's season before."""

    recorded_at: datetime | None
    season_before: int | None
    before_recorded_at: datetime | None


def version(connection: sa.Connection, season_key: int, collection: str) -> Version:
    """Return which progress is the newest; as long as it is the same, `load` returns the same."""
    row = connection.execute(
        sa.text("""
            select (select max(recorded_at) from crop_progress
                    where (season_key, collection) = (:season_key, :collection)) as recorded_at,
                   earlier.season_key as season_before,
                   (select max(recorded_at) from crop_progress
                    where (season_key, collection) = (earlier.season_key, :collection)) as before_recorded_at
            from seasons here left join lateral (
                select season_key from seasons where starts_on < here.starts_on and exists (
                    select from parcels where parcels.season_key = seasons.season_key and collection = :collection)
                order by starts_on desc limit 1) earlier on true
            where here.season_key = :season_key"""),
        {"season_key": season_key, "collection": collection},
    ).one()
    return Version(*row)


@dataclass(frozen=True)
class LastComputed:
    """When and from how much the progress of a season was last computed."""

    recorded_at: datetime
    n_observations: int | None


def last_computed(connection: sa.Connection, season_key: int, collection: str) -> LastComputed | None:
    """Return when the progress of a season was last computed, None where it never was."""
    row = connection.execute(
        sa.text("""select recorded_at, n_observations from crop_progress
                   where (season_key, collection) = (:season_key, :collection) order by recorded_at desc limit 1"""),
        {"season_key": season_key, "collection": collection},
    ).first()
    return None if row is None else LastComputed(row.recorded_at, row.n_observations)


def count_observations(connection: sa.Connection, starts_on: date, ends_on: date) -> int:
    """Return how many Sentinel-2 observations of passes between two days are stored, of all collections, from the ledger."""
    n: int = connection.execute(
        sa.text("""select coalesce(sum(parcels), 0) from scene_ledger join scenes using (scene_key)
                   where outcome = 'stored' and sensor = 'S2'
                     and observed_at >= cast(:first as date) and observed_at < cast(:last as date) + 1"""),
        {"first": starts_on, "last": ends_on},
    ).scalar_one()
    return n


def parcels_of(
    connection: sa.Connection, season_key: int, collection: str, groups: Sequence[tuple[int, str]]
) -> list[int]:
    """Return the parcels of regions (keys) and declared crops."""
    rows = connection.execute(
        sa.text("""select parcels.parcel_key from parcels cross join lateral declaration_known(parcels.parcel_key) declared
                   join unnest(cast(:regions as smallint[]), cast(:crops as text[])) as g (region_key, crop_code)
                        on g.region_key = parcels.region_key and g.crop_code = declared.crop_code
                   where (season_key, collection) = (:season_key, :collection)"""),
        {
            "season_key": season_key,
            "collection": collection,
            "regions": [region for region, _ in groups],
            "crops": [crop for _, crop in groups],
        },
    )
    return list(rows.scalars())


def parcels_viewed(connection: sa.Connection, season_key: int, collection: str, first: date, last: date) -> list[int]:
    """Return the parcels with a clear Sentinel-2 view between two days (both included)."""
    rows = connection.execute(
        sa.text("""select distinct parcel_key from s2_observations join parcels using (parcel_key)
                   where observed_at >= cast(:first as date) and observed_at < cast(:last as date) + 1 and ndvi is not null
                     and (season_key, collection) = (:season_key, :collection)"""),
        {"season_key": season_key, "collection": collection, "first": first, "last": last},
    )
    return list(rows.scalars())
