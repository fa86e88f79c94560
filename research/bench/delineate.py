"""Fields of a tile: minutes, memory, and how well a watershed draws simulated and real fields.

python -m research.bench.delineate [tile | states | simulated | flanders DIR [--model FOLDER] [--picture FILE]] [--json]

tile         a synthetic tile, 10,980 x 10,980 pixels (--pixels), of warped fields of some 3 ha, six dates (--dates) of four bands made as
             they are read; by the watershed, by a local segmenter (--local), which leaves windows, borders, outlines and the file, or by a
             network of ten bands: --network FOLDER, or --widths 16,16,32 of a U-TAE with random weights
states       the same tile by a network: seconds of processor of a run over the dates but the last, of one over all that reads the states
             of the first, of one without states, and of the watershed that draws what a U-TAE gives crops to; bytes of the states
simulated    one region of a simulated season as scenes; known fields are those of the simulator
flanders     the recorded patch (research.bench.recorded_patch), by the watershed and a network
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import geopandas as gpd
import numpy as np
import rasterio
import torch
import typer
from numpy.typing import NDArray
from rasterio import features

from db.sensors import S2_BANDS
from ingest.delineation.files import Crops, batches, write
from ingest.delineation.networks import FieldNetwork, read
from ingest.delineation.season import FINE, SeasonScenes
from ingest.delineation.segmenting import NEAR_INFRARED, RED, NetworkSegmenter, by_watershed
from ingest.imagery.scene import Grid
from ingest.imagery.settings import ImagerySettings
from models.segmentation.delineation import Instances, Segmenter, Settings, Soft, Window, delineate
from models.segmentation.delineation_scores import Fit, fit
from models.segmentation.inference import folded
from models.segmentation.segmenters import Standardised
from models.segmentation.utae import Utae, UtaeConfig
from models.segmentation.watershed import Watershed
from research.bench import recorded_patch
from research.simulator import SimulatorConfig, simulate_season
from research.simulator.rasters import write_scenes
from research.simulator.regions import REGIONS

app = typer.Typer(add_completion=False)
DATES: Final = 6
SIDE: Final = 17
"""Pixels from field to field: 2.9 ha."""
NOISE: Final = 0.004
"""Reflectance."""
NOW = datetime(2024, 9, 30, tzinfo=UTC)
FIRST: Final = date(2024, 3, 1)
LIKE: Final = {**dict.fromkeys(("B05", "B11", "B12"), "B04"), **dict.fromkeys(("B06", "B07", "B8A"), "B08")}
Json = Annotated[bool, typer.Option("--json")]


class Tile:
    """A synthetic tile of fields whose borders wind by some pixels, made window by window from places alone."""

    def __init__(self, pixels: int, dates: int = DATES) -> None:
        chance = np.random.default_rng(0)
        self.pixels, self._across = pixels, pixels // SIDE + 3
        green = chance.uniform(0.1, 0.9, (dates, self._across**2)).astype(np.float32)
        self._red, self._nir = 0.15 - 0.12 * green, 0.18 + 0.3 * green
        self._noise = NOISE * chance.standard_normal((dates, len(FINE), 1024, 1024), np.float32)

    def field(self, window: Window) -> NDArray[np.int64]:
        """Return (h, w) the number of the field at each pixel."""
        rows, columns = np.arange(window.height) + window.row, np.arange(window.width) + window.column
        down = rows[:, None] + 5 * np.sin(columns / 23 + rows[:, None] / 90)
        right = columns + 5 * np.sin(rows[:, None] / 31 + columns / 70)
        number: NDArray[np.int64] = (down // SIDE + 1).astype(np.int64) * self._across + (right // SIDE + 1).astype(
            np.int64
        )
        return number

    def images(self, window: Window, dates: slice = slice(None)) -> NDArray[np.float32]:
        """Return (T, C, h, w)."""
        number = self.field(window)
        red, nir = self._red[dates, number], self._nir[dates, number]
        row, column = window.row % 512, window.column % 512
        made: NDArray[np.float32] = (
            np.stack([0.5 * red, 0.8 * red, red, nir], 1)
            + self._noise[dates, :, row : row + window.height, column : column + window.width]
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


@dataclass(frozen=True)
class Scenes:
    """A tile's first dates as a season's scenes, one in ten days."""

    tile: Tile
    dates: int

    @property
    def grid(self) -> Grid:
        """Where the tile lies."""
        return Grid("EPSG:32631", 499_980.0, 5_700_000.0, 10.0, self.tile.pixels, self.tile.pixels)

    @property
    def identities(self) -> tuple[str, ...]:
        """Return (T,)."""
        return tuple(f"{one}" for one in range(self.dates))

    def days(self, starts_on: date) -> NDArray[np.int64]:
        """Return (T,) days since a day."""
        return (FIRST - starts_on).days + 10 * np.arange(self.dates)

    def images(
        self,
        row: int,
        column: int,
        height: int,
        width: int,
        *,
        is_masked: bool = True,  # noqa: ARG002
        bands: Sequence[str] | None = None,
        scenes: slice = slice(None),
    ) -> NDArray[np.float32]:
        """Return (T, C, height, width) reflectance; bands that the tile has not are those that are most like them."""
        dates = slice(*scenes.indices(self.dates))
        made = self.tile.images(Window(row, column, height, width), dates)
        return made[:, [FINE.index(LIKE.get(one, one)) for one in bands or S2_BANDS]]


def _network(folder: Path | None, widths: str, statistics: Path | None) -> FieldNetwork:
    """Return the network in a folder, else a U-TAE of such widths, its weights drawn by chance."""
    if folder is not None:
        return read(folder, statistics)
    torch.manual_seed(0)
    levels = tuple(map(int, widths.split(",")))
    # As the published ratios: an attention of twice the coarsest level's channels, 8 of which are a head.
    config = UtaeConfig(len(S2_BANDS), 20, levels, levels, width=2 * levels[-1], heads=levels[-1] // 8, norm="date")
    same = np.full(len(S2_BANDS), 0.2, np.float32)
    names = tuple(map(str, range(config.classes)))
    return FieldNetwork(Standardised(folded(Utae(config)), same, same), widths, Crops(names), None)


Network = Annotated[Path | None, typer.Option(help="A network's folder, as `delineate --model`.")]
Widths = Annotated[str, typer.Option(help="Channels of the levels of a U-TAE with random weights.")]
Statistics = Annotated[Path | None, typer.Option(help="As of `delineate`.")]


@app.command()
def tile(
    pixels: Annotated[int, typer.Option(min=64)] = 10_980,
    window: int = 256,
    overlap: int = 64,
    dates: Annotated[int, typer.Option(min=1)] = DATES,
    local: Annotated[bool, typer.Option(help="A local segmenter in the watershed's place.")] = False,
    network: Network = None,
    widths: Widths = "",
    statistics: Statistics = None,
    as_json: Json = False,
) -> None:
    """Print minutes a tile and per 1,000 km2, the peak of memory, and the share of the segmenter alone."""
    made, watershed, spent = Tile(pixels, dates), Watershed(), [0.0]
    scenes, crops = Scenes(made, dates), Crops(())
    by: Callable[[Window], Instances | Soft] = lambda at: watershed(made.images(at), RED, NEAR_INFRARED)  # noqa: E731
    if local:
        by = made.interior
    elif network is not None or widths:
        applied = _network(network, widths, statistics)
        by, crops = NetworkSegmenter(applied, scenes, applied.day_0(FIRST)), applied.crops
    grid = scenes.grid

    def segment(at: Window) -> Instances | Soft:
        begin = time.perf_counter()
        found = by(at)
        spent[0] += time.perf_counter() - begin
        return found

    Path("/proc/self/clear_refs").write_text("5")  # what is held now is the peak from here on (Linux: proc(5))
    base_mb, begin, cpu = _peak_mb(), time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="parcelwatch-bench-") as folder:
        fields = delineate(pixels, pixels, segment, Settings(window, overlap))
        number = write(Path(folder) / "fields.parquet", batches(fields, grid, crops, NOW), grid.crs, "bench")
    took = time.perf_counter() - begin
    found = {
        "pixels": pixels,
        "fields": number,
        "fields_expected": round((pixels / SIDE) ** 2),
        "minutes": took / 60,
        "cpu_minutes": (time.process_time() - cpu) / 60,
        "minutes_per_1000_km2": took / 60 / (pixels * 0.01) ** 2 * 1000,
        "segmenter_share": spent[0] / took,
        "peak_memory_mb": _peak_mb(),
        "memory_before_mb": base_mb,
        "load_average": os.getloadavg()[0],
    }
    _shown(found, as_json)


@app.command()
def states(
    pixels: Annotated[int, typer.Option(min=64)] = 1024,
    window: int = 256,
    overlap: int = 64,
    dates: Annotated[int, typer.Option(min=2)] = 12,
    network: Network = None,
    widths: Widths = "16,16,32",
    statistics: Statistics = None,
    as_json: Json = False,
) -> None:
    """Print what kept states save when one date is added (seconds of processor), and what they take on disk."""
    made, applied = Tile(pixels, dates), _network(network, widths, statistics)
    took, scores = [], []

    def drawn(segment: Segmenter) -> NDArray[np.float64]:
        begin = time.process_time()
        fields = list(delineate(pixels, pixels, segment, Settings(window, overlap)))
        took.append(time.process_time() - begin)
        return np.concatenate([one.scores for one in fields])

    drawn(by_watershed(Scenes(made, dates)))
    with tempfile.TemporaryDirectory(prefix="parcelwatch-bench-") as folder:
        for number, kept in ((dates - 1, Path(folder)), (dates, Path(folder)), (dates, None)):
            scores.append(drawn(NetworkSegmenter(applied, Scenes(made, number), applied.day_0(FIRST), kept)))
        size = sum(one.stat().st_size for one in Path(folder).iterdir())
    found = {
        "dates": dates,
        "watershed_s": took[0],
        "first_s": took[1],
        "one_more_s": took[2],
        "without_states_s": took[3],
        "largest_difference": float(np.abs(scores[1] - scores[2]).max()),
        "gb_per_1000_km2": size / 1e9 / (pixels * 0.01) ** 2 * 1000,
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
            return watershed(images, RED, NEAR_INFRARED)

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
    drawn = {"watershed": watershed(images, RED, NEAR_INFRARED).labels}
    if model is not None:
        network = read(model)
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
