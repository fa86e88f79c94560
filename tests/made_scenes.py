"""Scenes made for tests: products over small grids, with values that a test knows, and a whole chain to cut them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyproj
import rasterio
import shapely
import sqlalchemy as sa

from db.connect import engine
from db.found_scenes import LedgerRow, ledger
from db.parcel_import import ParcelRow, upsert_parcels
from db.scenes import name_places, named_places
from db.seasons import ensure_season
from db.sensors import S2_BANDS
from ingest.imagery.scene import Grid
from ingest.imagery.settings import ImagerySettings
from ingest.scenes.adding import scenes_at
from ingest.scenes.http_retries import Clock, Http, Patience
from ingest.scenes.opening import Opener
from ingest.scenes.places import Places, named
from ingest.scenes.publish import Published, ScenePublisher
from ingest.scenes.settings import SceneSettings
from ingest.scenes.worker import Settings, Worker
from ingest.stream.consumer import Consumer
from ingest.stream.settings import IngestSettings

GRID = Grid("EPSG:32631", 574_680.0, 5_622_440.0, 10.0, 64, 64)
START = datetime(2023, 5, 1, 10, 56, 21, tzinfo=UTC)
FACTOR = {**dict.fromkeys(S2_BANDS, 2), **dict.fromkeys(("B02", "B03", "B04", "B08"), 1), "SCL": 2}
Numbers = Mapping[str, np.ndarray]
Box = tuple[float, float, float, float]


def optical(seed: int, grid: Grid = GRID) -> dict[str, np.ndarray]:
    """Numbers of every band (baseline 04 and later: 1000 is nothing), all clear."""
    chance = np.random.default_rng(seed)
    made = {
        band: chance.integers(1200, 6000, (grid.height // factor, grid.width // factor)).astype(np.uint16)
        for band, factor in FACTOR.items()
    }
    made["SCL"] = np.full(made["SCL"].shape, 4, np.uint8)
    return made


def window(numbers: Numbers, rows: slice, columns: slice) -> dict[str, np.ndarray]:
    """A part of the numbers; even bounds, in pixels of 10 m."""
    return {
        band: values[
            slice(rows.start // (k := 64 // len(values)), rows.stop // k), columns.start // k : columns.stop // k
        ]
        for band, values in numbers.items()
    }


def blanked(numbers: Numbers, rows: slice) -> dict[str, np.ndarray]:
    """The numbers without data in some rows; even bounds, in pixels of 10 m."""
    made = {band: values.copy() for band, values in numbers.items()}
    for values in made.values():
        k = 64 // len(values)
        values[rows.start // k : rows.stop // k] = 0
    return made


def shifted(grid: Grid, rows: slice, columns: slice) -> Grid:
    """The grid of a window."""
    return Grid(
        grid.crs,
        grid.left + columns.start * 10,
        grid.top - rows.start * 10,
        10.0,
        columns.stop - columns.start,
        rows.stop - rows.start,
    )


def write(path: Path, values: np.ndarray, grid: Grid, **options: Any) -> str:
    """One band as a file over the grid."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = grid.pixel_m * grid.width / values.shape[1]
    with rasterio.open(
        path,
        "w",
        width=values.shape[1],
        height=values.shape[0],
        count=1,
        dtype=values.dtype,
        crs=grid.crs,
        transform=rasterio.Affine(size, 0, grid.left, 0, -size, grid.top),
        **{"driver": "GTiff", **options},
    ) as file:
        file.write(values, 1)
    return path.name


def s2_name(start: datetime, tile: str, baseline: str, made: datetime) -> str:
    """A product's name."""
    return f"S2A_MSIL2A_{start:%Y%m%dT%H%M%S}_N{baseline.replace('.', '')}_R051_T{tile}_{made:%Y%m%dT%H%M%S}"


def s2_item(
    folder: Path,
    numbers: Numbers,
    *,
    start: datetime = START,
    tile: str = "31UES",
    baseline: str = "05.09",
    made: datetime | None = None,
    strip: datetime | None = None,
    grid: Grid = GRID,
    **options: Any,
) -> Path:
    """A product as rasters with a STAC item; returns the item's path."""
    made = made or start + timedelta(hours=6)
    name = s2_name(start, tile, baseline, made)
    place = folder / name
    assets = {
        band: {"href": f"./{write(place / f'{band}.tif', values, grid, **options)}"} for band, values in numbers.items()
    }
    item = {
        "type": "Feature",
        "id": name,
        "links": [],
        "assets": assets,
        "properties": {
            "datetime": start.isoformat(),
            "created": made.isoformat(),
            "platform": "sentinel-2a",
            "s2:processing_baseline": baseline,
            "s2:generation_time": made.isoformat(),
        },
    }
    if strip:
        stamp = f"{made:%Y%m%dT%H%M%S}_S{strip:%Y%m%dT%H%M%S}"
        item["properties"]["s2:datastrip_id"] = f"S2A_OPER_MSI_L2A_DS_2APS_{stamp}_N{baseline}"  # type: ignore[index]
    path = place / "item.json"
    path.write_text(json.dumps(item))
    return path


def s1_item(
    folder: Path,
    numbers: Numbers,
    *,
    start: datetime,
    orbit: int = 48356,
    datatake: str = "05D0F5",
    grid: Grid = GRID,
    stored: Mapping[str, Any] = MappingProxyType({"unit": "linear"}),
    **options: Any,
) -> Path:
    """A slice (in linear power, if `stored` does not say else) as rasters with a STAC item; returns the item's path."""
    name = (
        f"S1A_IW_GRDH_1SDV_{start:%Y%m%dT%H%M%S}_{start + timedelta(seconds=25):%Y%m%dT%H%M%S}_{orbit:06d}_{datatake}"
    )
    place = folder / name
    assets = {
        band.lower(): {
            "href": write(place / f"{band}.tif", values, grid, **options),
            "raster:bands": [{"nodata": 0, **stored}],
        }
        for band, values in numbers.items()
    }
    item = {
        "type": "Feature",
        "id": name,
        "links": [],
        "assets": assets,
        "properties": {
            "datetime": start.isoformat(),
            "created": (start + timedelta(hours=3)).isoformat(),
            "platform": "sentinel-1a",
            "sat:orbit_state": "ascending",
            "sat:relative_orbit": 88,
            "card4l:measurement_type": "gamma0",
        },
    }
    path = place / "item.json"
    path.write_text(json.dumps(item))
    return path


def outline(box: Box, grid: Grid = GRID) -> bytes:
    """A box in pixels of the grid (left, top, right, bottom) as WKB in degrees."""
    to_degrees = pyproj.Transformer.from_crs(grid.crs, "EPSG:4326", always_xy=True)
    left, top, right, bottom = box
    metres = shapely.box(grid.left + left * 10, grid.top - bottom * 10, grid.left + right * 10, grid.top - top * 10)
    wkb: bytes = shapely.to_wkb(
        shapely.transform(metres, lambda xy: np.column_stack(to_degrees.transform(xy[:, 0], xy[:, 1])))
    )
    return wkb


def inside(box: Box, buffer: float = 0.5) -> np.ndarray:
    """(64, 64) pixels whose centre lies in the box less a buffer in pixels."""
    left, top, right, bottom = box
    y, x = np.mgrid[0:64, 0:64] + 0.5
    return np.asarray((x > left + buffer) & (x < right - buffer) & (y > top + buffer) & (y < bottom - buffer))


def full(values: np.ndarray) -> np.ndarray:
    """On 64 x 64 pixels, each repeated."""
    return np.kron(values, np.ones((64 // len(values),) * 2, values.dtype))


@dataclass
class Moving:
    """A clock that goes by itself and can be put forward."""

    begin: datetime = datetime(2024, 1, 1, tzinfo=UTC)
    started: float = field(default_factory=time.monotonic)

    def __call__(self) -> datetime:
        return self.begin + timedelta(seconds=time.monotonic() - self.started)

    def put_forward(self, by: timedelta) -> None:
        """Lets time pass."""
        self.begin += by


@dataclass
class World:
    """A database with a season's parcels, topics of its own, and all processes of the chain."""

    engine: sa.Engine
    bootstrap: str
    settings: Settings
    publisher: ScenePublisher
    consumer: Consumer
    now: Moving
    folders: Sequence[Path] = ()
    hosts: Sequence[str] = ()
    workers: list[Worker] = field(default_factory=list)

    def worker(self, **changes: object) -> Worker:
        """Another worker."""
        settings = Settings(
            self.settings.ingest,
            self.settings.scenes.model_copy(update=changes),
            self.settings.imagery,
            self.settings.index_folder,
        )
        opener = Opener({}, lambda source: Http(source, Patience(), _no_clock()), self.now, self.places)
        name = f"worker-{len(self.workers)}"
        self.workers.append(Worker(self.engine, self.bootstrap, settings, opener, name, self.now))
        return self.workers[-1]

    def places(self) -> Places:
        """Where files may be read from: what was added, and `folders`."""
        with self.engine.begin() as connection:
            return Places.of(named_places(connection), self.folders, self.hosts)

    def store_parcels(
        self,
        boxes: Mapping[str, Box] | Mapping[str, bytes],
        collection: str = "made-up",
        year: int = 2023,
        unmonitorable: Sequence[str] = (),
    ) -> None:
        """Stores parcels by id: boxes in pixels of GRID, or outlines in degrees."""
        rows = [
            ParcelRow(
                name,
                "r",
                shape if isinstance(shape, bytes) else outline(shape),
                1.0,
                400.0,
                0.9,
                "too small" if name in unmonitorable else None,
                None,
                None,
            )
            for name, shape in boxes.items()
        ]
        with self.engine.begin() as connection:
            season = ensure_season(connection, str(year), date(year, 1, 1), date(year, 12, 31))
            upsert_parcels(connection, collection, season, rows, self.now(), self.now())

    def add(self, *places: Path) -> Published:
        """`scenes add`."""
        with self.engine.begin() as connection:
            name_places(connection, [named(str(place)) for place in places], self.now())
        found = [scene for place in places for scene in scenes_at(str(place), None, _no_fetch, self.now())]
        return self.publisher.publish(found, or_mended=True)

    def the_scene(self) -> LedgerRow:
        """The only one of the ledger."""
        (row,) = self.ledger().values()
        return row

    def work(self) -> None:
        """A worker until nothing is left to do, then the consumer until all is stored."""
        worker = self.worker()
        worker.run(_never(), until_idle=True)
        worker.close()
        self.consumer.catch_up()

    def ledger(self) -> dict[str, LedgerRow]:
        """All scenes by id."""
        with self.engine.begin() as connection:
            return {row.scene_id: row for row in ledger(connection)}

    def rows(self, query: str) -> list[dict[str, Any]]:
        """What a query gives."""
        with self.engine.begin() as connection:
            return [dict(row._mapping) for row in connection.execute(sa.text(query))]

    def current(self, sensor: str = "s2", at: datetime | None = None) -> dict[str, dict[str, Any]]:
        """The newest observation of each parcel in a pass (None: in the only one), with its pixel set."""
        bounds = f"'{at}', '{at + timedelta(seconds=1)}'" if at else "'-infinity', 'infinity'"
        found = self.rows(f"""
            select source_id, o.*, s.scene_id, p.pixels from parcels
            cross join lateral {sensor}_known(parcel_key, {bounds}) o
            join scenes s using (scene_key) left join pixel_sets p
              on (p.parcel_key, p.observed_at, p.revision, p.sensor::text)
               = (o.parcel_key, o.observed_at, o.revision, upper('{sensor}'))""")
        assert len({row["source_id"] for row in found}) == len(found), "two observations in one pass"
        return {row["source_id"]: row for row in found}

    def close(self) -> None:
        """Lets go of everything."""
        for one in self.workers:
            one.close()
        self.consumer.close()
        self.publisher.close()


@contextmanager
def world(dsn: str, bootstrap: str, topic_prefix: str, folder: Path, **imagery: Any) -> Iterator[World]:
    """The chain on servers of the test."""
    now = Moving()
    ingest = IngestSettings(topic_prefix=topic_prefix, partitions=2)
    cutting = ImagerySettings(**{"sample_pixels": 4096, **imagery})
    settings = Settings(ingest, SceneSettings(), cutting, folder / "index")
    database = engine(dsn)
    made = World(
        database,
        bootstrap,
        settings,
        ScenePublisher(database, bootstrap, ingest, now),
        Consumer(database, bootstrap, ingest, now),
        now,
        folders=[folder],
    )
    try:
        yield made
    finally:
        made.close()


def check_optical(row: Mapping[str, Any], numbers: Numbers, mine: np.ndarray, offset: float = -0.1) -> None:
    """An observation against the numbers of the pixels that it must come from."""
    reflectance = {band: full(numbers[band])[mine].astype(float) / 10_000 + offset for band in S2_BANDS}
    assert row["n_clear"] == mine.sum()
    for band, values in reflectance.items():
        assert abs(row[band.lower()] - values.mean()) < 1e-6, band
    ndvi = (reflectance["B08"] - reflectance["B04"]) / (reflectance["B08"] + reflectance["B04"])
    assert abs(row["ndvi"] - ndvi.mean()) < 1e-5
    assert abs(row["ndvi_sd"] - ndvi.std()) < 1e-5
    pixels = np.frombuffer(row["pixels"], "<i2").reshape(10, -1)
    pixels = pixels[:, (pixels != -32768).all(axis=0)]
    truth = np.rint(np.array([reflectance[band] for band in S2_BANDS]) * 10_000).astype(int)
    assert np.array_equal(pixels[:, np.lexsort(pixels)], truth[:, np.lexsort(truth)])


def _no_clock() -> Clock:
    return Clock(lambda: datetime(2024, 1, 1, tzinfo=UTC), lambda _: False, lambda low, _: low)


def _no_fetch(address: str) -> Any:
    raise AssertionError(address)


def _never() -> threading.Event:
    return threading.Event()
