"""Keys of seasons, parcels and scenes, by the names that messages call them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from db.seasons import Season
from db.sensors import Sensor


@dataclass(frozen=True, slots=True)
class Scene:
    """One pass, or slice of a pass, as its first observation describes it."""

    scene_id: str
    sensor: Sensor
    platform: str
    relative_orbit: int
    observed_at: datetime
    available_at: datetime


def seasons_named(connection: sa.Connection, names: Sequence[str]) -> dict[str, Season]:
    """Return the seasons of these names that are stored."""
    rows = connection.execute(
        sa.text("select season_key, name, starts_on, ends_on from seasons where name = any(:names)"),
        {"names": list(names)},
    )
    return {row.name: Season(*row) for row in rows}


def collections_with_parcels(connection: sa.Connection, season_key: int, names: Sequence[str]) -> set[str]:
    """Return which of these collections have a parcel in a season."""
    rows = connection.execute(
        sa.text("""select name from unnest(cast(:names as text[])) as asked(name) where exists (
                   select from parcels where collection = name and season_key = :season_key)"""),
        {"names": list(names), "season_key": season_key},
    )
    return set(rows.scalars())


def parcel_keys(
    connection: sa.Connection, collection: str, season_key: int, source_ids: Sequence[str]
) -> dict[str, int]:
    """Return keys of the parcels that exist, by the agency's own id."""
    rows = connection.execute(
        sa.text("""select source_id, parcel_key from parcels
                   where collection = :collection and season_key = :season_key and source_id = any(:ids)"""),
        {"collection": collection, "season_key": season_key, "ids": list(source_ids)},
    )
    return {row.source_id: row.parcel_key for row in rows}


def scene_keys(connection: sa.Connection, scenes: Sequence[Scene], recorded_at: datetime) -> dict[str, int]:
    """Return keys of scenes by their id; missing ones are stored, in the order of ids so that two writers cannot deadlock."""
    ids = {"ids": [scene.scene_id for scene in scenes]}
    known: dict[str, int] = {row.scene_id: row.scene_key for row in connection.execute(_KNOWN, ids)}
    fresh = sorted((scene for scene in scenes if scene.scene_id not in known), key=lambda scene: scene.scene_id)
    if fresh:
        connection.execute(
            sa.text("""
                insert into scenes (scene_id, sensor, platform, relative_orbit, observed_at, available_at, recorded_at)
                values (:scene_id, cast(:sensor as sensor), :platform, :relative_orbit, :observed_at, :available_at,
                        :recorded_at)
                on conflict (scene_id) do nothing"""),
            [
                {name: getattr(scene, name) for name in scene.__slots__} | {"recorded_at": recorded_at}
                for scene in fresh
            ],
        )
        known = {row.scene_id: row.scene_key for row in connection.execute(_KNOWN, ids)}
    return known


_KNOWN = sa.text("select scene_id, scene_key from scenes where scene_id = any(:ids)")
