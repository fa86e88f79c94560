"""Beginning a scene: its time, home tiles, revision and precedence, decided once and kept before anything is sent."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from db import scene_passes, scenes
from db.connect import Engine
from db.scene_passes import TileRow
from db.scenes import Claim
from ingest.imagery.errors import SceneError
from ingest.imagery.scene import Grid
from ingest.scenes.home_tiles import TAKEN_OVER_AFTER
from ingest.scenes.opening import Opened, Opener
from ingest.scenes.passes import Precedence, acquisition_of, datatake_of, precedence
from ingest.scenes.record import FoundScene


@dataclass(frozen=True, slots=True)
class Place:
    """What the ledger decided of a scene when it was begun."""

    observed_at: datetime
    """The pass's time, the same for all of its scenes."""
    tiles: Sequence[tuple[str, Grid]]
    """Tiles in the order of preference as home tiles."""
    revision: int
    precedence: Precedence


@dataclass(frozen=True, slots=True)
class Begun:
    """The scene may be cut."""

    place: Place
    beside: Sequence[Opened]
    """The other parts as cut now, as far as they can still be opened."""


@dataclass(frozen=True, slots=True)
class InTheWay:
    """A worker is at another version of the acquisition: later."""

    scene_id: str


@dataclass(frozen=True, slots=True)
class Superseded:
    """A processing of the same part is cut that is not older; the ledger says so."""

    by: str


def begin(
    engine: Engine, opener: Opener, held: Claim, opened: Opened, now: Callable[[], datetime]
) -> Begun | InTheWay | Superseded:
    """Decide what a scene is in its pass and keep it."""
    scene, datatake = opened.scene, datatake_of(opened.scene)
    with engine.begin() as connection:
        others = scene_passes.not_begun(connection, datatake, held.scene_id)
        waiting = [] if scene_passes.is_begun(connection, datatake) else others
    # The first of a datatake opens all that were found of it, so that neither the pass's time nor the home tiles of its
    # parcels follow from which is first.
    pass_ = [opened, *(one for record in waiting if (one := _tried(opener, record)) is not None)]
    with engine.begin() as connection:
        scene_passes.lock(connection)
        for one in pass_:
            if one.scene.tile:
                scene_passes.know_tile(connection, _row(one.scene.tile, one.grid))
        members = scene_passes.versions(connection, acquisition_of(scene), held.scene_id, now())
        found = precedence(scene, members)
        if found.busy:
            return InTheWay(found.busy)
        if found.superseded_by:
            why = f"the processing {found.superseded_by} is not older and is cut"
            scenes.supersede(connection, held, found.superseded_by, why, now())
            return Superseded(found.superseded_by)
        began_at = min(one.scene.observed_at for one in pass_)
        is_late = now() - FoundScene.from_record(held.record).found_at >= TAKEN_OVER_AFTER
        revision = scene_passes.begin(
            connection,
            held,
            datatake=datatake,
            acquisition=acquisition_of(scene),
            part=scene.part,
            baseline=scene.baseline,
            processed_at=scene.processed_at,
            newest_revision=found.newest_revision,
        )
        at, tiles = scene_passes.begin_pass(
            connection, datatake, began_at, is_late
        )  # this scene is in the ledger by now
    beside = [_tried(opener, member.record) for member in members if member.scene_id in found.beside]
    place = Place(at, [(tile.tile, _grid(tile)) for tile in tiles], revision, found)
    return Begun(place, [one for one in beside if one is not None])


def _tried(opener: Opener, record: Mapping[str, Any]) -> Opened | None:
    """Return another scene, None if it cannot be opened: its own claim will report that."""
    try:
        return opener.opened(FoundScene.from_record(record))
    except SceneError:
        return None


def _row(tile: str, grid: Grid) -> TileRow:
    return TileRow(tile, grid.crs, grid.left, grid.top, grid.pixel_m, grid.width, grid.height)


def _grid(row: TileRow) -> Grid:
    return Grid(row.crs, row.left_m, row.top_m, row.pixel_m, row.width, row.height)
