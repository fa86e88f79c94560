"""Parcels, their seasons, declarations and lineage: whole collections in by COPY, frozen rows out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

import sqlalchemy as sa

from db import recording, work
from db.connect import driver
from terminal.errors import UserError

# A field keeps its borders within a few metres from year to year: shares below this are slivers between
# neighbours digitised twice, and say nothing about where a field came from (chosen because of that).
MIN_LINEAGE_SHARE: Final = 0.05


class UnknownSeason(UserError):
    """No season of that name is stored; the caller names another or stores it first."""


class SeasonDiffers(UserError):
    """The season is stored with other dates; the caller leaves the dates out or names another season."""


@dataclass(frozen=True, slots=True)
class Season:
    """A growing season from its first to its last day; model time counts days from the first."""

    season_key: int
    name: str
    starts_on: date
    ends_on: date


@dataclass(frozen=True, slots=True)
class Parcel:
    """A declared parcel as known at a time: centroid in degrees, crop fields None where nothing is declared."""

    parcel_key: int
    collection: str
    season: str
    source_id: str
    region: str
    area_ha: float | None
    perimeter_m: float | None
    bbox_fill: float | None
    lon: float | None
    lat: float | None
    not_monitorable_reason: str | None
    crop_code: str | None
    crop_name: str | None
    hcat_code: str | None

    @property
    def is_monitorable(self) -> bool:
        """Return whether the parcel can be observed from space."""
        return self.not_monitorable_reason is None


@dataclass(frozen=True, slots=True)
class ParcelRow:
    """A parcel to store: `wkb` a Polygon or MultiPolygon in EPSG:4326, `crop_code` None where nothing is declared."""

    source_id: str
    region: str
    wkb: bytes | None
    area_ha: float | None
    perimeter_m: float | None
    bbox_fill: float | None
    not_monitorable_reason: str | None
    crop_code: str | None
    crop_name: str | None
    hcat_code: str | None = None


@dataclass(frozen=True, slots=True)
class Upserted:
    """What storing a collection changed; `declarations` counts first and amended ones."""

    new: int
    unchanged: int
    amended_geometry: int
    reassessed: int
    """Same geometry, other region, measures or monitorability."""
    declarations: int
    amended_declarations: int
    missing: tuple[str, ...]
    """Source ids stored before and not among the rows; they stay."""
    moved_away: tuple[str, ...]
    """Source ids whose outline is not where the stored one is: nothing of them was stored."""


@dataclass(frozen=True, slots=True)
class ParcelCount:
    """How many parcels share a collection, region, declared crop and reason not to be monitorable, and their area."""

    collection: str
    region: str
    crop_name: str | None
    not_monitorable_reason: str | None
    parcels: int
    area_ha: float


def season_by_name(connection: sa.Connection, name: str) -> Season:
    """Return the stored season of that name; raises UnknownSeason."""
    row = connection.execute(
        sa.text("select season_key, name, starts_on, ends_on from seasons where name = :name"), {"name": name}
    ).one_or_none()
    if row is None:
        known = connection.execute(sa.text("select name from seasons order by starts_on")).scalars().all()
        raise UnknownSeason(f"season {name!r} is not stored; stored: {', '.join(known) or 'none'}")
    return Season(*row)


def season_by_key(connection: sa.Connection, season_key: int) -> Season:
    """Return the stored season of a key."""
    row = connection.execute(
        sa.text("select season_key, name, starts_on, ends_on from seasons where season_key = :key"), {"key": season_key}
    ).one()
    return Season(*row)


def ensure_season(connection: sa.Connection, name: str, starts_on: date, ends_on: date) -> Season:
    """Return the season of that name, stored if it was not; raises SeasonDiffers if it is stored with other dates."""
    connection.execute(
        sa.text("""
            insert into seasons (name, starts_on, ends_on) values (:name, :starts_on, :ends_on)
            on conflict (name) do nothing"""),
        {"name": name, "starts_on": starts_on, "ends_on": ends_on},
    )
    season = season_by_name(connection, name)
    if (season.starts_on, season.ends_on) != (starts_on, ends_on):
        stored = f"{season.starts_on} to {season.ends_on}"
        raise SeasonDiffers(
            f"season {name!r} is stored as {stored}, not {starts_on} to {ends_on}; leave the dates out, name another season, "
            f"or widen it for all collections: parcelwatch parcels season {name} --starts-on ... --ends-on ..."
        )
    return season


def widen_season(connection: sa.Connection, name: str, starts_on: date | None, ends_on: date | None) -> Season:
    """Move a season's first day earlier or its last day later, for all its collections; None leaves a day as it is.

    Raises UnknownSeason, and SeasonDiffers where the season would be narrower, or would begin on another day than the one
    that a model which watches it counts from.
    """
    season = season_by_name(connection, name)
    first, last = starts_on or season.starts_on, ends_on or season.ends_on
    if first > season.starts_on or last < season.ends_on:
        raise SeasonDiffers(
            f"season {name!r} is {season.starts_on} to {season.ends_on}: it can be widened, but not to {first} to {last}, "
            "because observations may be stored of every day of it"
        )
    is_watched = "select exists (select from model_activations where season_key = :season_key)"
    if (
        first < season.starts_on
        and connection.execute(sa.text(is_watched), {"season_key": season.season_key}).scalar_one()
    ):
        raise SeasonDiffers(
            f"season {name!r} is watched by a model that counts days from {season.starts_on}, so it cannot begin earlier; "
            "import the collection under a season of another name"
        )
    widened = Season(season.season_key, name, first, last)
    connection.execute(
        sa.text("update seasons set starts_on = :first, ends_on = :last where season_key = :season_key"),
        {"first": first, "last": last, "season_key": season.season_key},
    )
    return widened


def previous_season(connection: sa.Connection, collection: str, season: Season) -> Season | None:
    """Return the newest earlier season in which the collection has parcels."""
    row = connection.execute(
        sa.text("""
            select season_key, name, starts_on, ends_on from seasons
            where starts_on < :starts_on and exists (
                select from parcels where parcels.season_key = seasons.season_key and collection = :collection)
            order by starts_on desc limit 1"""),
        {"starts_on": season.starts_on, "collection": collection},
    ).one_or_none()
    return None if row is None else Season(*row)


def ensure_region(connection: sa.Connection, code: str) -> int:
    """Return the key of a region, stored if it was not."""
    where = {"code": code}
    connection.execute(sa.text("insert into regions (code) values (:code) on conflict (code) do nothing"), where)
    key: int = connection.execute(sa.text("select region_key from regions where code = :code"), where).scalar_one()
    return key


_STAGE: Final = """
create temp table staged_parcels (
    source_id text primary key, region text not null, wkb bytea, area_ha real, perimeter_m real, bbox_fill real,
    reason text, crop_code text, crop_name text, hcat_code text, moved_away boolean not null default false,
    geom geometry(MultiPolygon, 4326) generated always as (ST_Multi(ST_GeomFromWKB(wkb, 4326))) stored
) on commit drop"""

_COPY: Final = """
copy staged_parcels (source_id, region, wkb, area_ha, perimeter_m, bbox_fill, reason, crop_code, crop_name, hcat_code)
from stdin (format binary)"""

_COPY_TYPES: Final = ("text", "text", "bytea", "float4", "float4", "float4", "text", "text", "text", "text")

_REGIONS: Final = """
insert into regions (code)
select distinct region from staged_parcels where not exists (select from regions where code = region) order by region
on conflict (code) do nothing"""

# A field amended keeps a part of its place. One that has none of it is another field, and the observations stored under
# the id are not its own. A sliver between neighbours digitised twice is no part.
_MOVED_AWAY: Final = """
update staged_parcels staged set moved_away = true from parcels
where parcels.source_id = staged.source_id and collection = :collection and season_key = :season_key
  and parcels.geom <> staged.geom
  and case when parcels.geom && staged.geom
           then ST_Area(ST_Intersection(parcels.geom, staged.geom))
                < :min_share * least(ST_Area(parcels.geom), ST_Area(staged.geom))
           else true end
returning staged.source_id"""

_AMEND: Final = """
with changed as (
    select parcel_key, regions.region_key, staged.*, parcels.geom is distinct from staged.geom as is_moved
    from staged_parcels staged join regions on code = region join parcels using (source_id)
    where collection = :collection and season_key = :season_key and not moved_away
      and (parcels.geom, parcels.region_key, parcels.area_ha, parcels.perimeter_m, parcels.bbox_fill,
           not_monitorable_reason)
          is distinct from
          (staged.geom, regions.region_key, staged.area_ha, staged.perimeter_m, staged.bbox_fill, reason)
), amended as (
    update parcels set geom = changed.geom, region_key = changed.region_key, area_ha = changed.area_ha,
        perimeter_m = changed.perimeter_m, bbox_fill = changed.bbox_fill, not_monitorable_reason = reason,
        recorded_at = :recorded_at
    from changed where parcels.parcel_key = changed.parcel_key
)
select count(*) filter (where is_moved), count(*) filter (where not is_moved), coalesce(array_agg(parcel_key), '{}')
from changed"""

_INSERT: Final = """
insert into parcels (collection, season_key, source_id, region_key, geom, area_ha, perimeter_m, bbox_fill,
                     not_monitorable_reason, recorded_at)
select :collection, :season_key, source_id, region_key, geom, area_ha, perimeter_m, bbox_fill, reason, :recorded_at
from staged_parcels join regions on code = region order by source_id
on conflict (collection, season_key, source_id) do nothing"""

_DECLARE: Final = """
with due as (
    select parcel_key, staged.crop_code, staged.crop_name, staged.hcat_code, last.crop_code is not null as is_amended
    from staged_parcels staged join parcels using (source_id)
    left join lateral (
        select crop_code, crop_name, hcat_code from declarations
        where declarations.parcel_key = parcels.parcel_key order by recorded_at desc limit 1
    ) last on true
    where collection = :collection and season_key = :season_key and staged.crop_code is not null and not moved_away
      and (last.crop_code, last.crop_name, last.hcat_code)
          is distinct from (staged.crop_code, staged.crop_name, staged.hcat_code)
), declared as (
    insert into declarations (parcel_key, recorded_at, declared_at, crop_code, crop_name, hcat_code)
    select parcel_key, :recorded_at, :declared_at, crop_code, crop_name, hcat_code from due
)
select count(*), count(*) filter (where is_amended), coalesce(array_agg(parcel_key) filter (where is_amended), '{}')
from due"""

_MISSING: Final = """
select source_id from parcels
where collection = :collection and season_key = :season_key
  and not exists (select from staged_parcels staged where staged.source_id = parcels.source_id)
order by source_id"""


def upsert_parcels(
    connection: sa.Connection,
    collection: str,
    season: Season,
    rows: Iterable[ParcelRow],
    declared_at: datetime,
    now: datetime,
) -> Upserted:
    """Store the whole collection of a season; rows that are already there unchanged are left alone.

    Source ids must be unique among the rows. A changed declaration is added beside the old one; a changed
    geometry replaces the old one, because observations are bound to the parcel, not to its outline. What was found
    of an amended parcel is marked to be found anew.
    """
    connection.execute(sa.text("drop table if exists pg_temp.staged_parcels"))
    connection.execute(sa.text(_STAGE))
    n_rows = 0
    with driver(connection).cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(_COPY_TYPES)
        for row in rows:
            copy.write_row(
                (
                    row.source_id,
                    row.region,
                    row.wkb,
                    row.area_ha,
                    row.perimeter_m,
                    row.bbox_fill,
                    row.not_monitorable_reason,
                    row.crop_code,
                    row.crop_name,
                    row.hcat_code,
                )
            )
            n_rows += 1
    where = {"collection": collection, "season_key": season.season_key}
    clocks = {"recorded_at": recording.begin(connection, now), "declared_at": declared_at}
    connection.execute(sa.text("analyze staged_parcels"))
    connection.execute(sa.text(_REGIONS))
    away = connection.execute(sa.text(_MOVED_AWAY), {**where, "min_share": MIN_LINEAGE_SHARE}).scalars().all()
    moved, reassessed, amended_keys = connection.execute(sa.text(_AMEND), {**where, **clocks}).one()
    new = connection.execute(sa.text(_INSERT), {**where, **clocks}).rowcount
    declared, amended, redeclared_keys = connection.execute(sa.text(_DECLARE), {**where, **clocks}).one()
    # The outline is an input of the classifier, the declaration of its rule: both follow from the course of posteriors.
    work.mark(connection, sorted({*amended_keys, *redeclared_keys}), "classifier", now)
    missing = connection.execute(sa.text(_MISSING), where).scalars().all()
    return Upserted(
        new=new,
        unchanged=n_rows - new - moved - reassessed - len(away),
        amended_geometry=moved,
        reassessed=reassessed,
        declarations=declared,
        amended_declarations=amended,
        missing=tuple(missing),
        moved_away=tuple(sorted(away)),
    )


def link_lineage(
    connection: sa.Connection, collection: str, season: Season, earlier: Season, min_share: float = MIN_LINEAGE_SHARE
) -> int:
    """Link each parcel to the parcels of an earlier season below it; return the number of links.

    `area_share` is the share of the parcel's own area that lies on the predecessor; areas in square degrees,
    whose scale cancels within one parcel. Links made before are made anew.
    """
    where = {"collection": collection, "season_key": season.season_key, "earlier_key": earlier.season_key}
    connection.execute(
        sa.text("""
            delete from parcel_lineage using parcels
            where parcel_lineage.parcel_key = parcels.parcel_key
              and collection = :collection and season_key = :season_key"""),
        where,
    )
    connection.execute(sa.text("analyze parcels"))  # thousands of rows may be new: the join must know to use the index
    return connection.execute(
        sa.text("""
            insert into parcel_lineage (parcel_key, predecessor_key, area_share)
            select parcel_key, predecessor_key, area_share from (
                select here.parcel_key, before.parcel_key as predecessor_key,
                       case when here.geom = before.geom then 1
                            else least(1, ST_Area(ST_Intersection(here.geom, before.geom)) / ST_Area(here.geom))
                       end as area_share
                from parcels here join parcels before on before.geom && here.geom
                where here.collection = :collection and here.season_key = :season_key
                  and before.collection = :collection and before.season_key = :earlier_key
            ) shares where area_share >= :min_share"""),
        {**where, "min_share": min_share},
    ).rowcount


def load_parcels(
    connection: sa.Connection,
    season: str | Season,
    collection: str | None = None,
    as_known_at: datetime | None = None,
    keys: Sequence[int] | None = None,
) -> list[Parcel]:
    """Return parcels of a season in key order, each with the declaration recorded last by `as_known_at` (None: ever)."""
    rows = connection.execute(
        sa.text("""
            select parcel_key, collection, seasons.name, source_id, regions.code, area_ha, perimeter_m, bbox_fill,
                   ST_X(ST_Centroid(geom)), ST_Y(ST_Centroid(geom)), not_monitorable_reason,
                   declared.crop_code, declared.crop_name, declared.hcat_code
            from parcels join seasons using (season_key) join regions using (region_key)
            left join lateral (
                select crop_code, crop_name, hcat_code from declarations
                where declarations.parcel_key = parcels.parcel_key
                  and recorded_at <= coalesce(:as_known_at, 'infinity'::timestamptz)
                order by recorded_at desc limit 1
            ) declared on true
            where seasons.name = :season
              and (cast(:collection as text) is null or collection = :collection)
              and (cast(:keys as bigint[]) is null or parcel_key = any(:keys))
            order by parcel_key"""),
        {
            "season": season if isinstance(season, str) else season.name,
            "collection": collection,
            "as_known_at": as_known_at,
            "keys": None if keys is None else list(keys),
        },
    )
    return [Parcel(*row) for row in rows]


def geometry(connection: sa.Connection, keys: Sequence[int]) -> dict[int, bytes]:
    """Return WKB in EPSG:4326 of the parcels that have a geometry, by key."""
    rows = connection.execute(
        sa.text("select parcel_key, ST_AsBinary(geom) from parcels where parcel_key = any(:keys) and geom is not null"),
        {"keys": list(keys)},
    )
    return {key: bytes(wkb) for key, wkb in rows}


def count_parcels(connection: sa.Connection, season: Season, collection: str | None = None) -> list[ParcelCount]:
    """Return parcels of a season counted by collection, region, declared crop and reason not to be monitorable."""
    rows = connection.execute(
        sa.text("""
            select collection, regions.code, declared.crop_name, not_monitorable_reason, count(*),
                   coalesce(sum(area_ha), 0)
            from parcels join regions using (region_key)
            left join lateral declaration_known(parcels.parcel_key) declared on true
            where season_key = :season_key and (cast(:collection as text) is null or collection = :collection)
            group by 1, 2, 3, 4 order by 1, 2, 3, 4"""),
        {"season_key": season.season_key, "collection": collection},
    )
    return [ParcelCount(*row) for row in rows]
