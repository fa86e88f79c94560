"""Fields of a tile: minutes, memory, and how well a watershed draws simulated and real fields.

python -m research.bench.delineate [tile | simulated | flanders DIR [--model FOLDER] [--picture FILE]] [--json]

tile         a synthetic tile, 10,980 x 10,980 pixels (--pixels), of warped fields of some 3 ha, six dates of four bands made as they are
             read; by the watershed, or by a local segmenter (--local), which leaves windows, borders, outlines and the file
simulated    one region of a simulated season as scenes; known fields are those of the simulator
flanders     the recorded patch (research.bench.recorded_patch), by the watershed and a network
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import geopandas as gpd
import numpy as np
import rasterio
import typer
from numpy.typing import NDArray
from rasterio import features

from db.sensors import S2_BANDS
from ingest.delineation import networks
from ingest.delineation.command import FINE
from ingest.delineation.files import Crops, batches, write
from ingest.delineation.season import SeasonScenes
from ingest.imagery.scene import Grid
from ingest.imagery.settings import ImagerySettings
from models.segmentation.delineation import Instances, Segmenter, Settings, Soft, Window, delineate
from models.segmentation.delineation_scores import Fit, fit
from models.segmentation.watershed import Watershed
from research.bench import recorded_patch
from research.simulator import SimulatorConfig, simulate_season
from research.simulator.rasters import write_scenes
from research.simulator.regions import REGIONS

app = typer.Typer(add_completion=False)
RED, NIR = FINE.index("B04"), FINE.index("B08")
DATES: Final = 6
SIDE: Final = 17
"""Pixels from field to field: 2.9 ha."""
NOISE: Final = 0.004
"""Reflectance."""
NOW = datetime(2024, 9, 30, tzinfo=UTC)
Json = Annotated[bool, typer.Option("--json")]


class Tile:
    """A synthetic tile of fields whose borders wind by some pixels, made window by window from places alone."""

    def __init__(self, pixels: int) -> None:
        chance = np.random.default_rng(0)
        self.pixels, self._across = pixels, pixels // SIDE + 3
        green = chance.uniform(0.1, 0.9, (DATES, self._across**2)).astype(np.float32)
        self._red, self._nir = 0.15 - 0.12 * green, 0.18 + 0.3 * green
        self._noise = NOISE * chance.standard_normal((DATES, len(FINE), 1024, 1024), np.float32)

    def field(self, window: Window) -> NDArray[np.int64]:
        """Return (h, w) the number of the field at each pixel."""
        rows, columns = np.arange(window.height) + window.row, np.arange(window.width) + window.column
        down = rows[:, None] + 5 * np.sin(columns / 23 + rows[:, None] / 90)
        right = columns + 5 * np.sin(rows[:, None] / 31 + columns / 70)
        number: NDArray[np.int64] = (down // SIDE + 1).astype(np.int64) * self._across + (right // SIDE + 1).astype(
            np.int64
        )
        return number

    def images(self, window: Window) -> NDArray[np.float32]:
        """Return (T, C, h, w)."""
        number = self.field(window)
        red, nir = self._red[:, number], self._nir[:, number]
        row, column = window.row % 512, window.column % 512
        made: NDArray[np.float32] = (
            np.stack([0.5 * red, 0.8 * red, red, nir], 1)
            + self._noise[:, :, row : row + window.height, column : column + window.width]
        )
        return made

    def interior(self, window: Window) -> Soft:
        """Return 1 within a field, 0 on its border."""
        number = self.field(Window(window.row - 1, window.column - 1, window.height + 2, window.width + 2))
        inner = np.ones(number.shape, bool)
        for axis in (0, 1):
            for step in (-1, 1):
                inner &= number == np.roll(number, step, axis)
        within = inner[1:-1, 1:-1].astype(np.float32)
        return Soft(within, within[None])


@app.command()
def tile(
    pixels: Annotated[int, typer.Option(min=64)] = 10_980,
    window: int = 256,
    overlap: int = 64,
    local: Annotated[bool, typer.Option(help="A local segmenter in the watershed's place.")] = False,
    as_json: Json = False,
) -> None:
    """Print minutes a tile and per 1,000 km2, the peak of memory, and the seconds of the segmenter alone."""
    made, watershed, spent = Tile(pixels), Watershed(), [0.0]
    grid = Grid("EPSG:32631", 499_980.0, 5_700_000.0, 10.0, pixels, pixels)

    def segment(at: Window) -> Instances | Soft:
        begin = time.perf_counter()
        found = made.interior(at) if local else watershed(made.images(at), RED, NIR)
        spent[0] += time.perf_counter() - begin
        return found

    Path("/proc/self/clear_refs").write_text("5")  # what is held now is the peak from here on (Linux: proc(5))
    base_mb, begin = _peak_mb(), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="parcelwatch-bench-") as folder:
        fields = delineate(pixels, pixels, segment, Settings(window, overlap))
        number = write(Path(folder) / "fields.parquet", batches(fields, grid, Crops(()), NOW), grid.crs, "bench")
    took = time.perf_counter() - begin
    found = {
        "pixels": pixels,
        "fields": number,
        "fields_expected": round((pixels / SIDE) ** 2),
        "minutes": took / 60,
        "minutes_per_1000_km2": took / 60 / (pixels * 0.01) ** 2 * 1000,
        "segmenter_share": spent[0] / took,
        "peak_memory_mb": _peak_mb(),
        "memory_before_mb": base_mb,
        "load_average": os.getloadavg()[0],
    }
    _shown(found, as_json)


@app.command()
def simulated(
    seed: int = 3,
    parcels: int = 200,
    near: Annotated[int, typer.Option(help="Parcels with imagery, those about the first one.")] = 60,
    scenes: int = 25,
    as_json: Json = False,
) -> None:
    """Print how a watershed draws the fields of a simulated season."""
    with simulated_scenes(seed, parcels, near, scenes) as (own, _, read):
        grid = read.grid
        seen = np.zeros((grid.height, grid.width), bool)
        watershed = Watershed()

        def segment(at: Window) -> Instances:
            images = read.images(*at)
            rows, columns = slice(at.row, at.row + at.height), slice(at.column, at.column + at.width)
            seen[rows, columns] = np.isfinite(images).any((0, 1))
            return watershed(images, RED, NIR)

        ours = _drawn((grid.height, grid.width), segment)
        n = len(read)
    shapes = zip(own.geometry, range(1, len(own) + 1), strict=True)
    known = features.rasterize(shapes, ours.shape, transform=rasterio.Affine(*grid.transform), dtype="int32")
    _shown(
        {"seed": seed, "scenes": n, "km2": float(seen.mean() * ours.size * 1e-4), **_scores(fit(ours, known, seen))},
        as_json,
    )


@contextmanager
def simulated_scenes(
    seed: int, parcels: int, near: int, scenes: int
) -> Iterator[tuple[gpd.GeoDataFrame, list[str], SeasonScenes]]:
    """Yield the parcels of a simulated region in metres, ids of those nearest to the first, and scenes around these."""
    region = "lowlands"
    season = simulate_season(SimulatorConfig(n_parcels=parcels, seed=seed))
    own = season.parcels[season.parcels["region"] == region].to_crs(REGIONS[region].epsg)
    middle = own.geometry.centroid
    ids = own["parcel_id"].to_numpy()[np.argsort(middle.distance(middle.iloc[0]).to_numpy())[:near]].tolist()
    products = [
        one.scene_id
        for one in season.products
        if (one.sensor, one.region) == ("s2", region) and not one.is_lost and not one.is_withdrawn
    ]
    with tempfile.TemporaryDirectory(prefix="parcelwatch-bench-") as folder:
        write_scenes(season, ids, Path(folder), products[:: max(1, len(products) // scenes)])
        with SeasonScenes([folder], FINE, ImagerySettings()) as read:
            yield own, ids, read


@app.command()
def flanders(
    folder: Path,
    alike: Annotated[
        float, typer.Option(help="Reflectance by which neighbours of one field may differ.")
    ] = Watershed.alike,
    model: Annotated[
        Path | None, typer.Option(help="A trained PaPs beside the watershed, as `delineate` takes it.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="A PNG of all of it.")] = None,
    as_json: Json = False,
) -> None:
    """Print how a watershed, and a network, draw the fields of the recorded patch in its last year."""
    patch = recorded_patch.read(folder)
    watershed, images = Watershed(alike=alike), patch.clear_images[:, [S2_BANDS.index(name) for name in FINE]]
    drawn = {"watershed": watershed(images, RED, NIR).labels}
    if model is not None:
        network = networks.read(model)
        first = network.day_0(patch.dates[0].date())
        days = np.array([(one.date() - first).days for one in patch.dates])
        drawn["PaPs"] = network.standardised(patch.images, days).labels
    found = {name: (fields, fit(fields, patch.known, patch.known > 0)) for name, fields in drawn.items()}
    if picture is not None:
        recorded_patch.picture(patch, found).savefig(picture, dpi=110)
    scores = {f"{name} {key}": value for name, (_, one) in found.items() for key, value in _scores(one).items()}
    _shown({"dates": len(patch.dates), **scores}, as_json)


def _drawn(shape: tuple[int, int], segment: Segmenter, settings: Settings | None = None) -> NDArray[np.int32]:
    """Return (H, W) the drawn fields, from their outlines."""
    outlines = [one for some in delineate(*shape, segment, settings) for one in some.geometry]
    pairs = zip(outlines, range(1, len(outlines) + 1), strict=True)
    return features.rasterize(pairs, shape, dtype="int32")  # type: ignore[no-any-return]


def _scores(found: Fit) -> dict[str, float]:
    return asdict(found)


def _peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def _shown(found: dict[str, Any], as_json: bool) -> None:
    show: Callable[[str], None] = typer.echo
    show(json.dumps(found) if as_json else "\n".join(f"{key:<24}{value:.6g}" for key, value in found.items()))


if __name__ == "__main__":
    app()
