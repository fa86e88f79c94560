"""How the parcels of one region and declared crop stand: the clear views it is made of, and the stored result."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from db.columns import fetch_columns, real_array

BAND: Final = ("lower_ndvi", "middle_ndvi", "upper_ndvi")
"""Columns of the band: quartiles."""


@dataclass(frozen=True)
class ProgressRow:
    """How parcels of one region and declared crop stand by day of the season (monitor.alerts.neighbours.Neighbours)."""

    region_key: int
    crop_code: str
    n_parcels: int
    first_day: date
    standing_share: NDArray[np.float32]
    median_ndvi: NDArray[np.float32]
    band: NDArray[np.float32] = field(default_factory=lambda: np.zeros((len(BAND), 0), np.float32))
    """(3, K) `BAND` by dekad of the season, as far as it is known (monitor.markers.bands)."""


VIEW: Final = np.dtype([("parcel", "i8"), ("day", "i8"), ("ndvi", "f4")])
"""A clear view: place of its parcel among those asked for, day since the season's first, NDVI."""


@dataclass(frozen=True)
class SampleVersion:
    """What the sample of a season rests on: as long as it is the same, so is the sample."""

    parcels_recorded_at: datetime | None
    declarations_recorded_at: datetime | None
    newest_parcel: int | None


def sample_version(connection: sa.Connection, season_key: int, collection: str) -> SampleVersion:
    """Return what the sample of a season rests on now, by three probes."""
    row = connection.execute(
        sa.text("""select (select max(recorded_at) from parcels where (season_key, collection) = (:season_key, :collection)),
                          (select max(recorded_at) from declarations), (select max(parcel_key) from parcels)"""),
        {"season_key": season_key, "collection": collection},
    ).one()
    return SampleVersion(*row)


def sample(
    connection: sa.Connection, season_key: int, collection: str, most: int
) -> tuple[NDArray[np.int64], list[int], list[str]]:
    """Return keys of up to `most` parcels of each region and declared crop, with region keys and crop codes.

    The sample is the same every day (by a hash of the key).
    """
    rows = connection.execute(
        sa.text("""
            select parcel_key, region_key, crop_code from (
                select parcels.parcel_key, region_key, crop_code,
                       row_number() over (partition by region_key, crop_code order by hashint8(parcels.parcel_key)) as nr
                from parcels cross join lateral declaration_known(parcel_key)
                where season_key = :season_key and collection = :collection and not_monitorable_reason is null) declared
            where nr <= :most"""),
        {"season_key": season_key, "collection": collection, "most": most},
    ).all()
    keys = np.array([row.parcel_key for row in rows], np.int64)
    return keys, [row.region_key for row in rows], [row.crop_code for row in rows]


def scenes(connection: sa.Connection, starts_on: date, ends_on: date) -> NDArray[np.void]:
    """Return Sentinel-2 scenes of passes between two days, of all collections: scene_key, day, and parcels stored, from the ledger."""
    return fetch_columns(
        connection,
        """select scene_key, (observed_at at time zone 'UTC')::date as day, parcels from scene_ledger join scenes using (scene_key)
           where outcome = 'stored' and sensor = 'S2' and observed_at >= %s::date and observed_at < %s::date + 1""",
        [starts_on, ends_on],
        {"scene_key": "bigint", "day": "date", "parcels": "bigint"},
    )


CLEAR_VIEWS: Final = """
select wanted.nr - 1 as parcel, (v.observed_at at time zone 'UTC')::date - %s::date as day, v.ndvi
from unnest(%s::bigint[]) with ordinality as wanted (key, nr) cross join lateral (
    select distinct on (observed_at, relative_orbit) observed_at, ndvi, is_withdrawn
    from s2_observations o where o.parcel_key = wanted.key
      and observed_at >= %s::timestamptz and observed_at < %s::timestamptz
    order by observed_at, relative_orbit, revision desc) v
where ndvi is not null and not is_withdrawn"""


def clear_views(
    connection: sa.Connection, parcels: NDArray[np.int64], starts_on: date, ends_on: date, first: int
) -> NDArray[np.void]:
    """Return the season's clear views of parcels from its day `first` on, as `VIEW`."""
    rows = fetch_columns(
        connection,
        CLEAR_VIEWS,
        [starts_on, parcels, starts_on + timedelta(days=first), ends_on + timedelta(days=1)],
        {"parcel": "bigint", "day": "int", "ndvi": "real"},
    )
    views = np.empty(len(rows), VIEW)
    for name in VIEW.names or ():
        views[name] = rows[name]
    return views


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
        {"keys": parcels},
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
    import pyarrow as pa  # only who writes needs it

    from db.binary_copy import copy_into

    rows = list(rows)
    connection.execute(
        sa.text("""create temp table if not exists incoming_progress (like crop_progress) on commit delete rows;
                   truncate incoming_progress""")
    )
    for n_days, n_dekads in {(len(row.standing_share), row.band.shape[1]) for row in rows}:
        same = [row for row in rows if (len(row.standing_share), row.band.shape[1]) == (n_days, n_dekads)]
        table = pa.table(
            {
                "season_key": pa.repeat(pa.scalar(season_key, pa.int16()), len(same)),
                "collection": pa.repeat(collection, len(same)),
                "region_key": pa.array([row.region_key for row in same], pa.int16()),
                "crop_code": pa.array([row.crop_code for row in same]),
                "recorded_at": pa.repeat(pa.scalar(recorded_at, pa.timestamp("us", "UTC")), len(same)),
                "n_parcels": pa.array([row.n_parcels for row in same], pa.int32()),
                "first_day": pa.array([row.first_day for row in same]),
                **{
                    name: _lists([getattr(row, name) for row in same], n_days)
                    for name in ("standing_share", "median_ndvi")
                },
                "n_observations": pa.repeat(pa.scalar(n_observations, pa.int64()), len(same)),
                **{
                    name: _lists([row.band[nr] for row in same], n_dekads)
                    for nr, name in enumerate(BAND if n_dekads else ())
                },
            }
        )
        copy_into(connection, "incoming_progress", table.column_names, table)
    # In a replay, whose clock may stand still, the first of an instant stays.
    connection.execute(sa.text("insert into crop_progress select * from incoming_progress on conflict do nothing"))


def _lists(values: Sequence[NDArray[np.float32]], length: int) -> Any:
    """Return lists of equal length as the column that COPY takes."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(np.concatenate(values).astype(np.float32), length)


def load(
    connection: sa.Connection, season_key: int, collection: str, as_known_at: datetime | None = None
) -> dict[tuple[str, str], ProgressRow]:
    """Return the newest progress of each region and crop as known at a time (None: now), by (region, crop code)."""
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
            select code, region_key, crop_code, n_parcels, first_day, array_send(standing_share) as standing_share,
                   array_send(median_ndvi) as median_ndvi, array_send(lower_ndvi) as lower_ndvi,
                   array_send(middle_ndvi) as middle_ndvi, array_send(upper_ndvi) as upper_ndvi
            from groups join regions using (region_key) cross join lateral (
                select n_parcels, first_day, standing_share, median_ndvi, lower_ndvi, middle_ndvi, upper_ndvi
                from crop_progress of_group
                where (of_group.season_key, of_group.collection, of_group.region_key, of_group.crop_code)
                    = (:season_key, :collection, groups.region_key, groups.crop_code)
                  and recorded_at <= coalesce(:at, timestamptz 'infinity')
                order by recorded_at desc limit 1) newest""").bindparams(
            sa.bindparam("at", type_=sa.TIMESTAMP(timezone=True))
        ),
        {"season_key": season_key, "collection": collection, "at": as_known_at},
    )
    return {
        (row.code, row.crop_code): ProgressRow(
            row.region_key,
            row.crop_code,
            row.n_parcels,
            row.first_day,
            _reals(row.standing_share),
            _reals(row.median_ndvi),
            np.stack([_reals(getattr(row, name)) for name in BAND]),
        )
        for row in rows
    }


def _reals(sent: bytes | None) -> NDArray[np.float32]:
    """Return a real[] as the server sends it; nothing of null."""
    if sent is None:
        return np.zeros(0, np.float32)
    head, element = real_array(0).itemsize, real_array(1).itemsize - real_array(0).itemsize
    sent_values = np.frombuffer(sent, real_array((len(sent) - head) // element))["elements"]["value"]
    return np.asarray(sent_values[0], np.float32)


@dataclass(frozen=True)
class Version:
    """Which progress is the newest of a season and of the collection's season before."""

    recorded_at: datetime | None
    n_observations: int | None
    """From how many it was computed: in a replay, whose clock may stand still, the time does not tell two apart."""
    season_before: int | None
    before_recorded_at: datetime | None


def version(connection: sa.Connection, season_key: int, collection: str) -> Version:
    """Return which progress is the newest; as long as it is the same, `load` returns the same."""
    row = connection.execute(
        sa.text("""
            select newest.recorded_at, newest.n_observations, earlier.season_key as season_before,
                   (select max(recorded_at) from crop_progress
                    where (season_key, collection) = (earlier.season_key, :collection)) as before_recorded_at
            from seasons here left join lateral (
                select season_key from seasons where starts_on < here.starts_on and exists (
                    select from parcels where parcels.season_key = seasons.season_key and collection = :collection)
                order by starts_on desc limit 1) earlier on true
            left join lateral (
                select recorded_at, n_observations from crop_progress
                where (season_key, collection) = (:season_key, :collection)
                order by recorded_at desc, n_observations desc limit 1) newest on true
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
                   where (season_key, collection) = (:season_key, :collection)
                   order by recorded_at desc, n_observations limit 1"""),
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
    # By index: the regions' parcels, and the newest declaration of each. `is true` keeps the planner from joining each of them
    # with all groups of its region: the group is looked up in a hash.
    rows = connection.execute(
        sa.text("""select parcels.parcel_key from parcels cross join lateral declaration_known(parcels.parcel_key) declared
                   where (season_key, collection) = (:season_key, :collection)
                     and region_key = any(cast(:regions as smallint[]))
                     and ((region_key, declared.crop_code) in (
                         select * from unnest(cast(:regions as smallint[]), cast(:crops as text[])))) is true"""),
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
    # Times, not dates: the planner knows the chunks and how many rows they have of these days, which lie together in them.
    midnight = time(tzinfo=UTC)
    rows = connection.execute(
        sa.text("""select distinct parcel_key from s2_observations join parcels using (parcel_key)
                   where observed_at >= :begin and observed_at < :end and ndvi is not null
                     and (season_key, collection) = (:season_key, :collection)"""),
        {
            "season_key": season_key,
            "collection": collection,
            "begin": datetime.combine(first, midnight),
            "end": datetime.combine(last + timedelta(days=1), midnight),
        },
    )
    return list(rows.scalars())
