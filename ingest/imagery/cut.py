"""Cutting a scene: bands read chunk by chunk in several threads, gathered, added up, returned as rows of the contract.

    chunk k + 1, k + 2   bands read and gathered by the threads (GDAL decodes without Python's lock)
    chunk k              sums and pixel sets, meanwhile

Every parcel that was asked for is accounted for: stored, or skipped for one reason.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ingest.imagery.errors import SceneError
from ingest.imagery.index import Chunk, ParcelIndex
from ingest.imagery.parcels import Parcels
from ingest.imagery.raster import Picks, Raster
from ingest.imagery.scene import Grid, Scene
from ingest.imagery.sensors import IMAGERY
from ingest.imagery.settings import ImagerySettings
from ingest.imagery.sums import Columns

Outcome = Literal["stored", "not_monitorable", "too_few_pixels", "outside", "no_data", "cloud"]
"""What became of a parcel; the first that holds, in this order after `stored`."""
OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)
Key = TypeVar("Key")
_AHEAD: Final = 2
"""Chunks read ahead of the one being added up: 11 bands x 2 MB each at most."""


@dataclass(frozen=True, slots=True)
class Extraction:
    """A scene's observations and what became of every parcel."""

    table: pa.Table = field(repr=False)
    """Rows of the sensor's schema, in the parcels' order."""
    outcome: NDArray[np.int8] = field(repr=False)
    """(P,) places in OUTCOMES."""
    share_inside: NDArray[np.float32] = field(repr=False)
    """(P,) share of each parcel's pixels on the grid: below 1 where the tile's edge cuts it, NaN without pixels."""
    share_seen: NDArray[np.float32] = field(repr=False)
    """(P,) share that the scene has data of: below 1 where the swath's edge cuts it too."""

    @property
    def rows(self) -> NDArray[np.intp]:
        """The parcel of each row of the table."""
        return np.flatnonzero(self.outcome == 0)

    @property
    def expected(self) -> int:
        """Parcels that were asked for."""
        return len(self.outcome)

    @property
    def stored(self) -> int:
        """Parcels with an observation."""
        return int(self.table.num_rows)

    @property
    def skipped(self) -> dict[str, int]:
        """Parcels without one, by reason; reasons with none are left out."""
        counts = np.bincount(self.outcome, minlength=len(OUTCOMES))[1:].tolist()
        return {reason: count for reason, count in zip(OUTCOMES[1:], counts, strict=True) if count}


def extract(scene: Scene, grid: Grid, parcels: Parcels, index: ParcelIndex, settings: ImagerySettings) -> Extraction:
    """Return the observations of `parcels` in a scene.

    Args:
        scene: what to cut.
        grid: the pixels that `index` was built on; the scene's own (`raster.grid_of`) or another of the same region.
        parcels: those that `index` was built of.
        index: which pixels are whose.
        settings: what counts as clear, how many threads.

    Raises SceneError (nothing is half done then), and ValueError where the index is of other parcels or another grid.
    """
    if len(index.n_pixels) != len(parcels) or index.size.tolist() != [grid.height, grid.width]:
        raise ValueError("the index was built of other parcels or on another grid")
    bands = bands_of(scene)
    if not index.n_chunks:
        raise SceneError(
            scene.scene_id,
            "no_parcels",
            f"none of {len(parcels)} parcels has enough pixels on its grid ({grid.crs}, "
            f"{grid.left:.0f} {grid.top:.0f}); import the region's parcels, or leave the scene out",
        )
    with ExitStack() as stack:
        rasters = {name: stack.enter_context(Raster(scene, name, scene.bands[name], grid)) for name in bands}
        nodata = {name: raster.nodata for name, raster in rasters.items()}
        sums = IMAGERY[scene.sensor].sums(scene, index, nodata, settings)
        for chunk, values in gathered(rasters, index, settings.threads):
            sums.add(chunk, values)
    outcome = outcomes(parcels, index, sums.n_seen, sums.n_valid, settings)
    rows = np.flatnonzero(outcome == 0)
    sums.check(rows)
    return Extraction(
        table_of(scene, parcels, rows, sums.columns(rows)),
        outcome,
        share(index, index.n_inside),
        share(index, sums.n_seen),
    )


def share(index: ParcelIndex, n: NDArray[np.integer]) -> NDArray[np.float32]:
    """Return (P,) n of each parcel's pixels as a share of them all, NaN where it has none."""
    of_all = np.full(len(n), np.nan, np.float32)
    np.divide(n, index.n_pixels, out=of_all, where=index.n_pixels > 0)
    return of_all


def bands_of(scene: Scene) -> tuple[str, ...]:
    """Return the bands to read; raises SceneError where one that must be there is missing."""
    sensor = IMAGERY[scene.sensor]
    if missing := [name for name in sensor.needed if name not in scene.bands]:
        raise SceneError(
            scene.scene_id, "missing_band", f"no {', '.join(missing)}; {scene.sensor} needs {', '.join(sensor.needed)}"
        )
    if any(getattr(scene, fact) is None for fact in sensor.must_know):
        facts = " and ".join(sensor.must_know)
        raise SceneError(scene.scene_id, "bad_metadata", f"{facts} must be known to store what {sensor.title} saw")
    return (*sensor.needed, *(name for name in sensor.optional if name in scene.bands))


def gathered(
    rasters: Mapping[Key, Raster], index: ParcelIndex, threads: int
) -> Iterator[tuple[Chunk, dict[Key, NDArray[Any]]]]:
    """Yield every chunk and (n,) numbers of each band at its pixels."""
    waiting: deque[tuple[Chunk, dict[Key, Future[NDArray[Any]]]]] = deque()
    pool = ThreadPoolExecutor(threads, "bands")
    try:
        for number in range(index.n_chunks):
            picks = Picks(index.chunk(number))
            coming = {name: pool.submit(raster.gather, picks) for name, raster in rasters.items()}
            waiting.append((picks.chunk, coming))
            if len(waiting) > _AHEAD:
                yield _arrived(*waiting.popleft())
        while waiting:
            yield _arrived(*waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _arrived(chunk: Chunk, coming: Mapping[Key, Future[NDArray[Any]]]) -> tuple[Chunk, dict[Key, NDArray[Any]]]:
    return chunk, {name: one.result() for name, one in coming.items()}


def outcomes(
    parcels: Parcels,
    index: ParcelIndex,
    n_seen: NDArray[np.int64],
    n_valid: NDArray[np.int64],
    settings: ImagerySettings,
) -> NDArray[np.int8]:
    """Return (P,) what becomes of parcels with so many pixels seen and valid, as places in OUTCOMES."""
    needed = np.maximum(np.ceil(settings.least_clear * index.n_pixels), 1)
    conditions: list[tuple[Outcome, NDArray[np.bool_]]] = [
        ("not_monitorable", ~parcels.is_monitorable),
        ("too_few_pixels", index.n_pixels < settings.least_pixels),
        ("outside", index.n_inside < settings.least_pixels),
        ("no_data", n_seen < needed),
        ("cloud", n_valid < needed),
    ]
    numbers = [OUTCOMES.index(reason) for reason, _ in conditions]
    return np.select([holds for _, holds in conditions], numbers, 0).astype(np.int8)


def table_of(scene: Scene, parcels: Parcels, rows: NDArray[np.intp], columns: Columns) -> pa.Table:
    """Return rows of the sensor's schema."""
    same = {
        "collection": parcels.collection,
        "season": parcels.season,
        "observed_at": scene.observed_at,
        "available_at": scene.available_at,
        "scene_id": scene.scene_id,
        "platform": scene.platform,
        "relative_orbit": scene.relative_orbit,
        "direction": scene.direction,
        "radiometry": scene.radiometry,
        "revision": scene.revision,
        "is_withdrawn": False,
        "coherence_with": scene.coherence_with,
    }
    columns["parcel_id"] = pa.array(parcels.ids, pa.string()).take(pa.array(rows))
    schema = IMAGERY[scene.sensor].schema.arrow
    arrays = []
    for one in schema:
        values = columns.get(one.name)
        if values is None:
            arrays.append(pa.repeat(pa.scalar(same.get(one.name), one.type), len(rows)))
        else:
            arrays.append(values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True).cast(one.type))
    return pa.Table.from_arrays(arrays, schema=schema)
