"""Pictures of parcels: with a scene that is being cut, and from scenes that were cut before, while they can be reached."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
from shapely.geometry.base import BaseGeometry

from db import chips, parcels
from db.chips import NO_RASTER, CutFor, NewChip, Source
from db.connect import Engine
from db.keys import Scene as StoredScene
from ingest.errors import IngestError
from ingest.imagery.chips import BANDS, OF_SENSOR, Chip, NoChip, draw, frame
from ingest.imagery.errors import SceneError
from ingest.imagery.index import CHUNK
from ingest.imagery.parcels import Parcels
from ingest.imagery.raster import Raster
from ingest.imagery.settings import ImagerySettings
from ingest.scenes.access import unsigned
from ingest.scenes.cutting import CutScene
from ingest.scenes.opening import Opened, Opener
from ingest.scenes.record import FoundScene

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """A parcel to cut a picture of."""

    parcel_key: int
    revision: int
    """Of its observation from the scene."""
    cut_for: CutFor
    outline: bytes | None
    """WKB in degrees."""


@dataclass(frozen=True, slots=True)
class CutChips:
    """What was cut from a scene, or why there is no picture."""

    scene_id: str
    chips: Sequence[NewChip]
    passing: str | None = None
    """Why the scene could not be read, where trying again later may help."""


def of_cut_scene(engine: Engine, opened: Opened, result: CutScene, settings: ImagerySettings) -> list[NewChip]:
    """Return pictures of the parcels that a scene being cut emits and that stand yellow or red, or are sampled."""
    if result.table is None or not settings.chips:
        return []
    is_gone = result.table["is_withdrawn"].to_pylist()
    revision = dict(zip(result.parcel_keys, result.table["revision"].to_pylist(), strict=True))
    seen = [key for key, gone in zip(result.parcel_keys, is_gone, strict=True) if not gone]
    with engine.begin() as connection:
        wanted = chips.parcels_to_cut(connection, seen)
        outlines = parcels.geometry(connection, list(wanted))
    asked = [Asked(key, revision[key], why, outlines.get(key)) for key, why in sorted(wanted.items())]
    try:
        return cut_chips(opened, asked, settings)
    except SceneError as error:  # the observations are what counts: they are sent all the same
        log.warning("no pictures: %s", unsigned(str(error)))
        return _without(asked, opened, unsigned(str(error)))


def cut_chips(opened: Opened, asked: Sequence[Asked], settings: ImagerySettings) -> list[NewChip]:
    """Return a picture of each parcel in each composite of the scene's sensor, or why there is none.

    Raises SceneError where the scene cannot be read.
    """
    if not asked:
        return []
    scene, grid = opened.scene, opened.grid
    names = BANDS[scene.sensor]
    if missing := [name for name in names if name not in scene.bands]:
        raise SceneError(scene.scene_id, "missing_band", f"no {', '.join(missing)}")
    of = Parcels("", "", [""] * len(asked), [one.outline for one in asked], np.ones(len(asked), np.bool_))
    outlines: list[BaseGeometry | None] = of.on_grid(grid, 0.0).tolist()
    made: list[NewChip] = []
    with ExitStack() as stack:
        rasters = {}
        for name in names:
            # Its checksum was compared when the scene's parcels were cut; of a scene read again only windows are read.
            band = replace(scene.bands[name], checksum=None)
            rasters[name] = stack.enter_context(Raster(scene, name, band, grid))
        bands = {name: (scene.bands[name], rasters[name].nodata) for name in names}
        for place in _in_order(outlines):
            one, outline = asked[place], outlines[place]
            try:
                at = frame(outline, grid, settings)
                assert outline is not None
                values = {name: raster.window(at.row, at.column, at.side, at.step) for name, raster in rasters.items()}
                for composite in OF_SENSOR[scene.sensor]:
                    made.append(_row(one, draw(composite, values, bands, outline, at, grid)))
            except NoChip as error:
                made += _without([one], opened, str(error))
            except SceneError:
                raise
            except Exception as error:  # a shape that nobody foresaw: the other parcels and the observations count
                log.warning("parcel %d, scene %s: no picture", one.parcel_key, scene.scene_id, exc_info=error)
                made += _without([one], opened, f"it could not be drawn ({type(error).__name__})")
    return made


def _row(asked: Asked, chip: Chip) -> NewChip:
    return NewChip(
        asked.parcel_key,
        asked.revision,
        chip.composite,
        asked.cut_for,
        image=chip.image,
        sha256=chip.sha256,
        crs=chip.crs,
        left_m=chip.left_m,
        top_m=chip.top_m,
        pixel_m=chip.pixel_m,
        width=chip.width,
        bar_m=chip.bar_m,
        stretch=chip.stretch,
    )


def _in_order(outlines: Sequence[BaseGeometry | None]) -> list[int]:
    """Return the parcels from left to right in one row of blocks after the other, so that none is decoded twice."""
    corner = [(0.0, 0.0) if one is None or one.is_empty else (one.bounds[1], one.bounds[0]) for one in outlines]
    return sorted(range(len(outlines)), key=lambda place: (corner[place][0] // CHUNK, corner[place][1]))


def _without(asked: Iterable[Asked], opened: Opened, why: str) -> list[NewChip]:
    return [
        NewChip(one.parcel_key, one.revision, composite, one.cut_for, missing=why)
        for one in asked
        for composite in OF_SENSOR[opened.scene.sensor]
    ]


def cut_again(
    engine: Engine,
    opener: Opener,
    wanted: Mapping[int, Sequence[Source]],
    cut_for: CutFor,
    settings: ImagerySettings,
    now: datetime,
) -> Iterator[CutChips]:
    """Cut and store pictures of parcels from scenes that the ledger knows; yield what came of each scene.

    Args:
        engine: the database.
        opener: opens scenes, where they may be read.
        wanted: by parcel, the observations to show.
        cut_for: what for.
        settings: how.
        now: the time.
    """
    by_scene: dict[int, tuple[Source, list[tuple[int, int]]]] = {}
    for key, found in wanted.items():
        for one in found:
            by_scene.setdefault(one.scene_key, (one, []))[1].append((key, one.revision))
    with engine.begin() as connection:
        outlines = parcels.geometry(connection, list(wanted))
    for source, whose in sorted(by_scene.values(), key=lambda one: (one[0].observed_at, one[0].scene_key)):
        asked = [Asked(key, revision, cut_for, outlines.get(key)) for key, revision in whose]
        made, passing = _from_ledger(opener, source, asked, settings)
        if source.record is not None:  # of a scene that is not known nothing is stored: it may be added later
            at = source.observed_at
            scene = StoredScene(source.scene_id, source.sensor, "", source.relative_orbit, at, at)  # type: ignore[arg-type]
            with engine.begin() as connection:
                chips.store(connection, scene, made, now)
        yield CutChips(source.scene_id, made, passing)


def _from_ledger(
    opener: Opener, source: Source, asked: Sequence[Asked], settings: ImagerySettings
) -> tuple[list[NewChip], str | None]:
    """Return the pictures of a scene, and why there are none where trying again later may help."""
    why, may_pass = NO_RASTER, False
    if source.record is not None:
        try:
            found = FoundScene.from_record(source.record)
            with opener.reading(found):
                return cut_chips(opener.opened(found), asked, settings), None
        except (IngestError, ValueError) as error:
            why = unsigned(str(error).splitlines()[0])
            may_pass = error.may_pass if isinstance(error, SceneError) else isinstance(error, IngestError)
    made = [
        NewChip(one.parcel_key, one.revision, composite, one.cut_for, missing=why)
        for one in asked
        for composite in OF_SENSOR[source.sensor]  # type: ignore[index]
    ]
    return made, why if may_pass else None


def cut_sampled(
    engine: Engine, opener: Opener, keys: Sequence[int], first: datetime, settings: ImagerySettings, now: datetime
) -> tuple[datetime, int]:
    """Cut pictures of sampled parcels from scenes observed since `first`; return since when they are whole, and how many.

    They are whole after the last scene that could not be read. What lies before is of no use to a review that is blind: there,
    parcels with an alert alone may have pictures.
    """
    known: dict[int, Source] = {}
    with engine.begin() as connection:
        # One of each scene's records is held: they are the same for all of its parcels.
        wanted = {
            key: [
                replace(one, record=known.setdefault(one.scene_key, one).record)
                for one in chips.sources(connection, key, first, now)
            ]
            for key in keys
        }
    observed_at = {one.scene_id: one.observed_at for one in known.values()}
    since, n_cut = first, 0
    for cut in cut_again(engine, opener, wanted, "sample", settings, now):
        n = sum(one.image is not None for one in cut.chips)
        n_cut += n
        if not n:
            since = max(since, observed_at[cut.scene_id] + timedelta(microseconds=1))
            log.warning("scene %s: no pictures: %s", cut.scene_id, cut.chips[0].missing)
    with engine.begin() as connection:
        chips.sampled_since(connection, keys, since)
    return since, n_cut


def catch_up(
    engine: Engine,
    opener: Opener,
    settings: ImagerySettings,
    wait: Callable[[int], timedelta | None],
    now: datetime,
    limit: int,
) -> int:
    """Cut pictures from before and after of alerts that have none yet; return of how many alerts that was tried.

    Args:
        engine: the database.
        opener: opens scenes, where they may be read.
        settings: how.
        wait: from the attempts that failed for a passing reason, how long until the next; None: no more by itself.
        now: the time.
        limit: alerts at once.
    """
    wanted: dict[int, list[Source]] = defaultdict(list)
    with engine.begin() as connection:
        due = chips.alerts_without_pair(connection, now, limit)
        for alert in due:
            done = {(one.scene_key, one.revision) for one in wanted[alert.parcel_key]}
            if alert.attempts:  # only what failed is read again
                done |= chips.pictured(connection, alert.parcel_key)
            found = [one for one in chips.to_show(connection, alert) if one.record is not None]
            wanted[alert.parcel_key] += [one for one in found if (one.scene_key, one.revision) not in done]
    failed: dict[int, str] = {}
    for cut in cut_again(engine, opener, wanted, "alert", settings, now):
        n_missing = sum(one.missing is not None for one in cut.chips)
        log.info("scene %s: %d pictures from before or after, %d missing", cut.scene_id, len(cut.chips), n_missing)
        if cut.passing is not None:
            failed |= dict.fromkeys((one.parcel_key for one in cut.chips), cut.passing)
    with engine.begin() as connection:
        for alert in due:
            error = failed.get(alert.parcel_key)
            pause = None if error is None else wait(alert.attempts + 1)
            chips.tried_pair(connection, alert, now, error, None if pause is None else now + pause)
    return len(due)
