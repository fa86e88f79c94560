"""What the scenes of one pass must agree on: its time, home tiles, and which processing of which part counts.

All of it is decided under one lock that is held for milliseconds, so it does not matter who cuts what when.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from db.columns import fetch_columns
from db.scenes import Claim, shows
from db.sensors import SENSORS, Sensor


@dataclass(frozen=True, slots=True)
class TileRow:
    """The 10 m grid of a tile, upper left corner and size in pixels."""

    tile: str
    crs: str
    left_m: float
    top_m: float
    pixel_m: float
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Version:
    """Another version of the same acquisition."""

    scene_id: str
    state: str
    record: Mapping[str, Any]
    part: datetime | None
    baseline: str | None
    processed_at: datetime | None
    revision: int | None
    is_held: bool
    """A worker is at it."""
    is_in_store: bool
    """The store has all observations that it emitted."""


def lock(connection: sa.Connection) -> None:
    """Wait until no other transaction decides anything of a pass."""
    # First in its transaction, before any row of found_scenes is locked: in the other order two workers could wait for each other.
    connection.execute(sa.text("select pg_advisory_xact_lock(hashtext('parcelwatch.scenes'))"))


def know_tile(connection: sa.Connection, tile: TileRow) -> None:
    """Keep the grid of a tile that was never seen before; under `lock`."""
    connection.execute(
        sa.text("""insert into scene_tiles (tile, crs, left_m, top_m, pixel_m, width, height)
                   values (:tile, :crs, :left_m, :top_m, :pixel_m, :width, :height) on conflict (tile) do nothing"""),
        {name: getattr(tile, name) for name in tile.__slots__},
    )


def is_begun(connection: sa.Connection, datatake: str) -> bool:
    """Return whether any scene of the datatake was begun."""
    found = connection.execute(
        sa.text("select exists (select from scene_passes where datatake = :datatake)"), {"datatake": datatake}
    )
    return bool(found.scalar_one())


def not_begun(connection: sa.Connection, datatake: str, but: str) -> list[Mapping[str, Any]]:
    """Return records of the datatake's other scenes, by their names, that were not begun."""
    rows = connection.execute(
        sa.text("""select record from found_scenes
                   where datatake = :datatake and scene_id <> :but and family is null order by scene_id"""),
        {"datatake": datatake, "but": but},
    )
    return list(rows.scalars())


def begin_pass(
    connection: sa.Connection, datatake: str, observed_at: datetime, only_shown: bool
) -> tuple[datetime, list[TileRow]]:
    """Return the datatake's pass time, and tiles in the order in which they are preferred as home tiles; under `lock`.

    Tiles known when the pass was begun come first, by name; then those seen later, as they came.

    Args:
        only_shown: leave tiles out of which this datatake has no product.
    """
    # Decided once, by whoever begins first: with another time or other home tiles for a later scene, a parcel would have two
    # observations of one pass.
    connection.execute(
        sa.text("""insert into scene_passes (datatake, observed_at, known_tiles)
                   select :datatake, :observed_at, coalesce(max(tile_key), 0) from scene_tiles
                   on conflict (datatake) do nothing"""),
        {"datatake": datatake, "observed_at": observed_at},
    )
    at, known = connection.execute(
        sa.text("select observed_at, known_tiles from scene_passes where datatake = :datatake"), {"datatake": datatake}
    ).one()
    rows = connection.execute(
        sa.text(f"""select tile, crs, left_m, top_m, pixel_m, width, height from scene_tiles
                    where not :only_shown or {shows("tile", ":datatake")} order by greatest(tile_key, :known), tile"""),
        {"known": known, "only_shown": only_shown, "datatake": datatake},
    )
    return at, [TileRow(*row) for row in rows]


def versions(connection: sa.Connection, name: str, but: str, now: datetime) -> list[Version]:
    """Return the other versions of an acquisition that were ever opened; under `lock`."""
    rows = connection.execute(
        sa.text("""
            select scene_id, state::text, record, part, baseline, processed_at, revision,
                   coalesce(state = 'cutting' and lease_until > :now, false) as is_held,
                   coalesce((select is_stored from scene_reconciliation r where r.scene_id = f.scene_id), false)
                       as is_in_store
            from found_scenes f where family = :name and scene_id <> :but order by scene_id"""),
        {"name": name, "but": but, "now": now},
    )
    return [Version(**row._mapping) for row in rows]


def begin(  # one argument per column that a scene's product gives
    connection: sa.Connection,
    held: Claim,
    *,
    datatake: str,
    acquisition: str,
    part: datetime | None,
    baseline: str | None,
    processed_at: datetime | None,
    newest_revision: int | None,
) -> int:
    """Keep what the scene turned out to be; return its revision: the one it had, if no other version began since.

    Args:
        newest_revision: the highest of the others' revisions; None where none began.
    """
    # Never lower: another version may have emitted every revision below, and an observation's key is taken for good.
    revision: int = connection.execute(
        sa.text("""
            update found_scenes set datatake = :datatake, family = :family, part = :part, baseline = :baseline,
                processed_at = :processed_at,
                revision = case when revision > coalesce(:newest, -1) then revision else coalesce(:newest, -1) + 1 end
            where scene_id = :scene_id returning revision"""),
        {
            "datatake": datatake,
            "family": acquisition,
            "part": part,
            "baseline": baseline,
            "processed_at": processed_at,
            "newest": newest_revision,
            "scene_id": held.scene_id,
        },
    ).scalar_one()
    return revision


_KNOWN_REVISIONS: Final = """
    select distinct on (o.parcel_key) o.parcel_key, revision, is_withdrawn, scene_id = any(%s) as is_own_part
    from {table} o join scenes using (scene_key) join parcels using (parcel_key)
    where o.parcel_key = any(%s) and o.observed_at = %s and o.relative_orbit = %s
      and (scene_id <> %s or parcels.recorded_at > o.recorded_at)
    order by o.parcel_key, revision desc"""


@dataclass(frozen=True, slots=True)
class ScenePass:
    """A scene and the pass that its observations are of."""

    scene_id: str
    sensor: Sensor
    observed_at: datetime
    relative_orbit: int


def known_revisions(
    connection: sa.Connection, of: ScenePass, parcel_keys: Sequence[int], own_part: Sequence[str]
) -> NDArray[np.void]:
    """Return the newest revisions in a pass that other scenes emitted, or the scene itself before a parcel was amended.

    The scene must not repeat them under the same key.

    Fields parcel_key, revision, is_withdrawn, is_own_part (it, or one of the scenes in `own_part`, emitted it).
    """
    return fetch_columns(
        connection,
        _KNOWN_REVISIONS.format(table=SENSORS[of.sensor].table),
        [[of.scene_id, *own_part], list(parcel_keys), of.observed_at, of.relative_orbit, of.scene_id],
        {"parcel_key": "bigint", "revision": "smallint", "is_withdrawn": "bool", "is_own_part": "bool"},
    )


_OWN: Final = """
    select * from (
        select distinct on (o.parcel_key) o.*, p.pixels, scene_id from {table} o
        join scenes using (scene_key) left join pixel_sets p
          on (p.parcel_key, p.observed_at, p.sensor, p.relative_orbit, p.revision)
           = (o.parcel_key, o.observed_at, '{sensor}', o.relative_orbit, o.revision)
        where o.parcel_key = any(:keys) and o.observed_at = :at and o.relative_orbit = :orbit
        order by o.parcel_key, o.revision desc) newest
    where scene_id = :scene_id"""


def own(connection: sa.Connection, of: ScenePass, parcel_keys: Sequence[int]) -> dict[int, Mapping[str, Any]]:
    """Return by parcel the observations of a pass whose newest revision is the scene's own, with their pixel sets."""
    rows = connection.execute(
        sa.text(_OWN.format(table=SENSORS[of.sensor].table, sensor=of.sensor)),
        {"keys": list(parcel_keys), "at": of.observed_at, "orbit": of.relative_orbit, "scene_id": of.scene_id},
    )
    return {row.parcel_key: dict(row._mapping) for row in rows}


@dataclass(frozen=True, slots=True)
class ParcelToCut:
    """A parcel on a scene's grid."""

    parcel_key: int
    collection: str
    season: str
    source_id: str
    wkb: bytes
    is_monitorable: bool


def parcels_on(connection: sa.Connection, outline: bytes, observed_at: datetime, margin_days: int) -> list[ParcelToCut]:
    """Return parcels of any collection that touch an outline (WKB, EPSG:4326), of seasons that hold the day or nearly do."""
    rows = connection.execute(
        sa.text("""
            select parcel_key, collection, seasons.name, source_id, ST_AsBinary(geom) as wkb, not_monitorable_reason is null
            from parcels join seasons using (season_key)
            where ST_Intersects(geom, ST_GeomFromWKB(:outline, 4326))
              and starts_on - cast(:margin as integer) <= :day and ends_on + cast(:margin as integer) >= :day
            order by parcel_key"""),
        {"outline": outline, "day": observed_at.date(), "margin": margin_days},
    )
    return [ParcelToCut(*row) for row in rows]
