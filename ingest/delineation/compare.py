"""Declared parcels of a season beside fields drawn from its imagery, block by block; what that says is stored as a marker.

    block    a square of the fields' system: it decides of the parcels whose middle lies in it, beside all that lies around

Parcels that are not wholly within the box of the fields may go on beyond what was drawn: of them nothing is said. A row is added where
a parcel's comparison says something else than the last one, and the parcel is marked for the rules of the monitor.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from db import markers, recording, work
from db.connect import Connection
from db.markers import MarkerRows
from db.parcels import Outlines, outlines_within
from db.seasons import Season
from ingest.errors import IngestError
from ingest.parcels.files import ParcelFile, open_parcel_file, read_features
from models.segmentation.boundaries import VERSION, Bounds, Compared, DrawnFields, compare

MARKER: Final = "boundaries"
BLOCK_M: Final = 8_000.0
AROUND_M: Final = 2_000.0
"""Ground around a block (chosen: a field and the parcels next to it)."""
COLUMNS: Final = ("delineation:confidence", "determination:datetime", "crop:name")


class NotCompared(IngestError):
    """Fields that cannot be compared with parcels; the message says why, and what to do."""


@dataclass(frozen=True)
class Report:
    """What a comparison found."""

    fields: int
    parcels: dict[str, int]
    """By kind."""
    changed: int
    """Of which it says something else than before."""


@dataclass(frozen=True)
class _Drawn:
    fields: DrawnFields
    tree: shapely.STRtree
    crs: pyproj.CRS
    observed_to: date

    @property
    def box(self) -> Any:
        """Return what was drawn, as a box; a metre more, as degrees are rounded."""
        return shapely.buffer(shapely.box(*shapely.total_bounds(self.fields.outline)), 1.0, join_style="mitre")


def compare_fields(
    connection: Connection, path: Path, collection: str, season: Season, bounds: Bounds, now: datetime
) -> Report:
    """Compare a file of `delineate` with the parcels of a collection, and store what differs from the last comparison.

    Raises:
        NotCompared, ParcelFileError: the file is none of drawn fields of this season, or no parcel lies among them.
    """
    drawn = _read(path, season)
    found: dict[int, Compared] = {}
    for block in _blocks(drawn.box):
        found |= _of_block(connection, drawn, block, collection, season, bounds)
    if not found:
        raise NotCompared(
            f"{path}: no parcel of {collection}, season {season.name}, lies among its fields; import the parcels first"
        )
    changed = _save(connection, found, drawn.observed_to, bounds, now)
    return Report(len(drawn.fields.outline), dict(Counter(one.kind for one in found.values())), changed)


def _read(path: Path, season: Season) -> _Drawn:
    """Return drawn fields of a season, in metres."""
    file = open_parcel_file(path)
    crs = _metres(file)
    wkb, confidence, crop, ends = [], [], [], set()
    for batch in read_features(file, COLUMNS):
        texts = (batch.texts[name] for name in COLUMNS)
        for one, sure, end, name in zip(batch.wkb, *texts, strict=True):
            if one and sure and end:
                wkb.append(one)
                confidence.append(float(sure))
                ends.add(end)
                crop.append(name or None)
    try:
        days = {datetime.fromisoformat(one.replace("/", "-")).date() for one in ends}
        outline = shapely.from_wkb(np.array(wkb, object))
    except (ValueError, shapely.errors.GEOSException) as error:
        raise NotCompared(f"{path}: damaged ({error}); draw the fields anew") from error
    if not days:
        raise NotCompared(
            f"{path}: no field has an outline, a confidence and a time; give a file of `parcelwatch delineate`"
        )
    if not season.starts_on <= max(days) <= season.ends_on:
        raise NotCompared(
            f"{path}: fields of {max(days)}, season {season.name} is {season.starts_on} to {season.ends_on}; give fields of that season"
        )
    outline = _valid(outline)
    return _Drawn(DrawnFields(outline, np.array(confidence), crop), shapely.STRtree(outline), crs, max(days))


def _metres(file: ParcelFile) -> pyproj.CRS:
    if file.crs is None or not file.crs.is_projected or file.crs.axis_info[0].unit_name != "metre":
        raise NotCompared(
            f"{file.path}: not in a system of metres; give a file of `parcelwatch delineate` as it was written"
        )
    return file.crs


def _blocks(box: Any) -> Iterator[Any]:
    west, south, east, north = box.bounds
    for x, y in product(np.arange(west, east, BLOCK_M), np.arange(south, north, BLOCK_M)):
        yield shapely.box(x, y, x + BLOCK_M, y + BLOCK_M)


def _of_block(
    connection: Connection, drawn: _Drawn, block: Any, collection: str, season: Season, bounds: Bounds
) -> dict[int, Compared]:
    """Return what is said of the parcels of a block, by key; those that cannot be monitored are neighbours alone."""
    around = shapely.box(*shapely.buffer(block, AROUND_M, join_style="mitre").bounds)
    degrees = pyproj.Transformer.from_crs(drawn.crs, 4326, always_xy=True)
    parcels = outlines_within(connection, season, collection, degrees.transform_bounds(*around.bounds))
    outline = _outlines(parcels, drawn.crs)
    west, south, east, north = shapely.bounds(outline).reshape(-1, 4).T
    x, y = (west + east) / 2, (south + north) / 2
    left, bottom, right, top = block.bounds
    is_own = (x >= left) & (x < right) & (y >= bottom) & (y < top)
    is_own &= parcels.is_monitorable & shapely.within(outline, drawn.box)
    own = np.flatnonzero(is_own)
    if not len(own):
        return {}
    near = np.sort(drawn.tree.query(around))
    some = DrawnFields(
        drawn.fields.outline[near], drawn.fields.confidence[near], [drawn.fields.crop[nr] for nr in near.tolist()]
    )
    said = compare(outline, some, bounds, own, parcels.source_id)
    return dict(zip(parcels.parcel_key[own].tolist(), said, strict=True))


def _outlines(parcels: Outlines, crs: pyproj.CRS) -> NDArray[np.object_]:
    metres = pyproj.Transformer.from_crs(4326, crs, always_xy=True)
    outline = shapely.from_wkb(np.array(parcels.wkb, object))
    return _valid(shapely.transform(outline, lambda xy: np.stack(metres.transform(*xy.T), axis=1)))


def _valid(outline: NDArray[np.object_]) -> NDArray[np.object_]:
    is_broken = ~shapely.is_valid(outline)
    outline[is_broken] = shapely.buffer(outline[is_broken], 0)
    return outline


def _save(connection: Connection, found: dict[int, Compared], observed_to: date, bounds: Bounds, now: datetime) -> int:
    """Append what is said of parcels where it is not what was said last, and mark them; return how many."""
    keys = np.array(sorted(found), np.int64)
    newest = {key: row.evidence for key, row in markers.every(connection, keys, MARKER)}
    evidence = {
        key: {
            "kind": one.kind,
            "observed_to": str(observed_to),
            **one.evidence,
            **({} if one.hectares is None else {"thresholds": bounds.thresholds}),
        }
        for key, one in found.items()
    }
    keys = keys[[newest.get(key) != json.loads(json.dumps(evidence[key])) for key in keys.tolist()]]
    said = [found[key] for key in keys.tolist()]
    rows = MarkerRows(
        keys,
        [MARKER] * len(keys),
        [VERSION] * len(keys),
        ["NOT_VALID" if one.hectares is None else "OK" for one in said],
        np.array([one.hectares for one in said], np.float64),
        np.array([observed_to if one.hectares else None for one in said], "M8[D]"),
        np.array([None if one.hectares is None else one.confidence for one in said], np.float64),
        [json.dumps(evidence[key]) for key in keys.tolist()],
    )
    recorded_at = recording.begin(connection, now)
    markers.save(connection, rows, recorded_at)
    work.mark(connection, keys.tolist(), "rules", recorded_at)
    return len(keys)
