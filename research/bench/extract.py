"""Parcels per second from a scene to observations, beside exactextract, rasterstats and the mere reading of the bands.

    python -m research.bench.extract [--json] [--parcels 10000 --parcels 50000] [--rounds 3] [--scattered] [--threads 2]

A synthetic Sentinel-2 tile, 10,980 x 10,980 pixels, ten bands at 10 and 20 m and SCL as tiled GeoTIFFs (deflate,
horizontal predictor, noise so that they are as large as real ones), made in a temporary folder. Fields lie 490 m apart,
as if 50,000 filled the tile; fewer fill a part of it, or with --scattered all of it. One run says: ours (reading, pixel
sets, ten means, indices, the Arrow table), the same windows only read, exactextract's and rasterstats' ten means of the
same inner outlines without a cloud mask; the references on as many parcels as given, by the parcel. The keys at the top are
those of the largest number of parcels.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import geopandas
import numpy as np
import pyproj
import rasterio
import shapely
import typer
from exactextract import exact_extract
from numpy.typing import NDArray
from rasterstats import zonal_stats

from db.sensors import S2_BANDS
from ingest.imagery.cut import extract
from ingest.imagery.index import ParcelIndex, load_or_build
from ingest.imagery.parcels import Parcels
from ingest.imagery.raster import Raster
from ingest.imagery.scene import SCL, Band, Grid, Scene
from ingest.imagery.settings import ImagerySettings

GRID = Grid("EPSG:32631", 499_980.0, 5_700_000.0, 10.0, 10_980, 10_980)
FINE = ("B02", "B03", "B04", "B08")
NOW = datetime(2024, 6, 1, 10, 50, tzinfo=UTC)
FULL_TILE = 50_000
NOISE = 40
"""Digital numbers: a 10 m band then takes 158 MB, as real ones of farmland do."""


def write_tile(folder: Path) -> Scene:
    """Return the tile's files: blocks of 300 m of one reflectance with noise, a tenth of them cloud in SCL."""
    chance = np.random.default_rng(0)
    noise = chance.normal(0, NOISE, (2048, 2048)).astype(np.int16).view(np.uint16)
    bands = {}
    for name in (*S2_BANDS, SCL):
        factor = 1 if name in FINE else 2
        size, block = GRID.width // factor, 30 // factor
        fields = chance.integers(300, 4_000, (size // block + 1,) * 2, dtype=np.uint16)
        if name == SCL:
            fields = np.where(chance.random(fields.shape) < 0.1, 8, 4).astype(np.uint8)
        values = fields.repeat(block, 0).repeat(block, 1)[:size, :size]
        for row in range(0, size if name != SCL else 0, 2048):
            for column in range(0, size, 2048):
                part = values[row : row + 2048, column : column + 2048]
                part += np.roll(noise, row * 7 + column, 1)[: part.shape[0], : part.shape[1]]
        path = folder / f"{name}.tif"
        metres = GRID.pixel_m * factor
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=size,
            height=size,
            count=1,
            dtype=values.dtype,
            crs=GRID.crs,
            nodata=0,
            transform=rasterio.Affine(metres, 0, GRID.left, 0, -metres, GRID.top),
            tiled=True,
            blockxsize=512,
            blockysize=512,
            compress="DEFLATE",
            predictor=2,
            zlevel=1,
            num_threads=2,
        ) as file:
            file.write(values, 1)
        unit: Any = "class" if name == SCL else "reflectance"
        bands[name] = Band(str(path), unit, 1.0 if name == SCL else 1e-4, 0.0, 0.0)
    return Scene("S2", "bench", NOW, NOW, "S2A", 51, bands, GRID)


def fields(number: int, is_scattered: bool) -> Parcels:
    """Return parcels of 0.3 to 20 ha, median 2 ha, turned at random, with twelve corners."""
    chance = np.random.default_rng(1)
    metres = GRID.width * GRID.pixel_m
    across = int(np.ceil(np.sqrt(number if is_scattered else max(FULL_TILE, number))))
    along = int(np.ceil(np.sqrt(number)))
    places = np.stack(np.meshgrid(np.arange(along), np.arange(along)), -1).reshape(-1, 2)[:number] + 0.5
    centre = np.array([GRID.left, GRID.top - metres]) + places * (metres / across)
    area = np.clip(chance.lognormal(np.log(2e4), 0.7, number), 3e3, 2e5)
    length = np.sqrt(area * chance.uniform(1, 3, number))
    around, turn = np.arange(12) * np.pi / 6, chance.uniform(0, np.pi, number)
    corner = np.stack([np.cos(around), np.sin(around)], -1)
    corner = np.sign(corner) * np.abs(corner) ** 0.3 / 2  # nearly a rectangle
    outline = corner * np.stack([length, area / length], -1)[:, None]
    turned = np.stack([np.cos(turn), -np.sin(turn), np.sin(turn), np.cos(turn)], -1).reshape(-1, 2, 2)
    polygons = shapely.polygons(np.einsum("nij,nkj->nki", turned, outline) + centre[:, None])
    to_degrees = pyproj.Transformer.from_crs(GRID.crs, "EPSG:4326", always_xy=True)
    degrees = shapely.transform(polygons, lambda xy: np.column_stack(to_degrees.transform(xy[:, 0], xy[:, 1])))
    ids = [f"{one:06d}" for one in range(number)]
    return Parcels("bench", "2024", ids, shapely.to_wkb(degrees).tolist(), np.ones(number, bool))


def timed(act: Callable[[], object]) -> tuple[float, float]:
    """Return seconds by the clock and of this process's cores that `act` takes."""
    clock, cores = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - clock, time.process_time() - cores


def read_only(scene: Scene, index: ParcelIndex, threads: int) -> None:
    """Read the windows that extraction reads, with as many threads."""
    with ExitStack() as stack, ThreadPoolExecutor(threads) as pool:
        rasters = [stack.enter_context(Raster(scene, name, band, GRID)) for name, band in scene.bands.items()]

        def read(number: int) -> None:
            chunk = index.chunk(number // len(rasters))
            rasters[number % len(rasters)].read(chunk.row, chunk.column, chunk.height, chunk.width)

        for _ in pool.map(read, range(index.n_chunks * len(rasters))):
            pass


def references(scene: Scene, inner: NDArray[np.object_], n_exact: int, n_stats: int) -> tuple[float, float, float]:
    """Return parcels per second of exactextract, by the clock and by its cores, and of rasterstats: ten means of the first ones."""
    hrefs = [scene.bands[name].href for name in S2_BANDS]
    frame = geopandas.GeoDataFrame(geometry=inner[:n_exact], crs=GRID.crs)
    frame = frame[~frame.geometry.is_empty]
    exact_s, exact_cores_s = timed(lambda: exact_extract(hrefs, frame, ["mean"]))
    few = list(inner[:n_stats])
    stats_s, _ = timed(lambda: [zonal_stats(few, href, stats=["mean"]) for href in hrefs])
    return len(frame) / exact_s, len(frame) / exact_cores_s, len(few) / stats_s


def peak_mb() -> float:
    """Return the most memory this process has held since it was last asked to forget."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def forget_peak() -> None:
    """Make what is held now the peak (Linux: proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(scene: Scene, parcels: Parcels, folder: Path, rounds: int, n_exact: int, threads: int) -> dict[str, float]:
    """Return all figures of one set of parcels; ours and reading take turns, so that a busy machine slows both."""
    settings = ImagerySettings(threads=threads)
    arguments = parcels, GRID, settings.s2_buffer_m, settings.least_pixels, settings.sample_pixels, folder / "indices"
    forget_peak()
    cold_s, _ = timed(lambda: load_or_build(*arguments))
    load_s, _ = timed(lambda: load_or_build(*arguments))
    index = load_or_build(*arguments)
    index_mb = peak_mb()
    forget_peak()
    ours, reading = [], []
    for _ in range(rounds):
        reading.append(timed(lambda: read_only(scene, index, threads)))
        ours.append(timed(lambda: extract(scene, GRID, parcels, index, settings)))
    our_s, our_cores_s = (median(column) for column in zip(*ours, strict=True))
    peak = peak_mb()
    inner = parcels.on_grid(GRID, settings.s2_buffer_m)
    corner, pixel = (GRID.left, GRID.top), (GRID.pixel_m, -GRID.pixel_m)
    inner = shapely.transform(inner, lambda xy: xy * pixel + corner)
    n_exact = min(n_exact, len(parcels))
    exact_per_s, exact_per_core_s, stats_per_s = references(scene, inner, n_exact, 40)
    return {
        "parcels": len(parcels),
        "parcels_per_s": len(parcels) / our_s,
        "extract_s": our_s,
        "parcels_per_core_s": len(parcels) / our_cores_s,
        "cold_index_s": cold_s,
        "warm_index_s": load_s,
        "index_peak_memory_mb": index_mb,
        "peak_memory_mb": peak,
        "read_bound_ratio": median(one[0] / other[0] for one, other in zip(ours, reading, strict=True)),
        "speedup_exactextract": len(parcels) / our_s / exact_per_s,
        "exactextract_parcels_per_s": exact_per_s,
        "exactextract_parcels_per_core_s": exact_per_core_s,
        "exactextract_parcels": n_exact,
        "speedup_rasterstats": len(parcels) / our_s / stats_per_s,
        "rasterstats_parcels_per_s": stats_per_s,
        "pixels": len(index.pixel),
        "chunks_read": index.n_chunks,
    }


def main(
    as_json: Annotated[bool, typer.Option("--json")] = False,
    parcels: Annotated[list[int], typer.Option(min=1)] = [10_000, 50_000],  # noqa: B006
    rounds: int = 3,
    exact_parcels: Annotated[int, typer.Option(help="Parcels for exactextract, scaled to all.")] = 10_000,
    threads: int = 2,
    scattered: bool = False,
) -> None:
    """Print parcels_per_s, cold_index_s, peak_memory_mb, speedup_exactextract, speedup_rasterstats, read_bound_ratio."""
    with tempfile.TemporaryDirectory(prefix="parcelwatch-bench-") as name:
        folder = Path(name)
        scene = write_tile(folder)
        runs = [
            measure(scene, fields(number, scattered), folder, rounds, exact_parcels, threads)
            for number in sorted(parcels)
        ]
    result = {**runs[-1], "load_average": os.getloadavg()[0], "runs": runs}
    if as_json:
        print(json.dumps(result))
        return
    for run in runs:
        print("\n".join(f"{key:<28}{value:.6g}" for key, value in run.items()), end="\n\n")


if __name__ == "__main__":
    typer.run(main)
