"""Store a season's parcels, declarations and lineage: whole collections in by COPY."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from db import recording, weekly_ndvi, work
from db.connect import driver
from db.seasons import Season

# A field keeps its borders within a few metres from year to year: shares below this are slivers between
# neighbours digitised twice, and say nothing about where a field came from (chosen because of that).
MIN_LINEAGE_SHARE: Final = 0.05


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
    n_rows = _stage(connection, rows)
    where = {"collection": collection, "season_key": season.season_key}
    clocks = {"recorded_at": recording.begin(connection, now), "declared_at": declared_at}
    connection.execute(sa.text(_REGIONS))
    away = connection.execute(sa.text(_MOVED_AWAY), {**where, "min_share": MIN_LINEAGE_SHARE}).scalars().all()
    moved, reassessed, amended_keys = connection.execute(sa.text(_AMEND), {**where, **clocks}).one()
    new = connection.execute(sa.text(_INSERT), {**where, **clocks}).rowcount
    declared, amended, redeclared_keys = connection.execute(sa.text(_DECLARE), {**where, **clocks}).one()
    # The outline is an input of the classifier, the declaration of its rule: both follow from the course of posteriors.
    work.mark(connection, sorted({*amended_keys, *redeclared_keys}), "classifier", now)
    if moved or reassessed or declared:
        weekly_ndvi.forget(connection, season.season_key)
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


def _stage(connection: sa.Connection, rows: Iterable[ParcelRow]) -> int:
    """Copy rows into a table that goes with the transaction, with what the planner must know of it; return their number."""
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
    connection.execute(sa.text("analyze staged_parcels"))
    return n_rows


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
    connection.execute(  # found by the lineage of before
        sa.text("""delete from parcel_norms using parcels where parcel_norms.parcel_key = parcels.parcel_key
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
