"""Rasters of a simulated season say what its messages say."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ingest.imagery.cut import extract
from ingest.imagery.index import build
from ingest.imagery.parcels import Parcels
from ingest.imagery.raster import grid_of
from ingest.imagery.sensors import IMAGERY
from ingest.imagery.settings import ImagerySettings
from ingest.imagery.stac import scene_from_item
from ingest.scenes.adding import scenes_at
from research.simulator import Season, SimulatorConfig, simulate_season
from research.simulator.rasters import write_scenes

SETTINGS = ImagerySettings()
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def season() -> Season:
    return simulate_season(SimulatorConfig(n_parcels=60, seed=3))


def large(season: Season, n: int) -> list[str]:
    """The largest parcels of the lowlands."""
    own = season.parcels[season.parcels["region"] == "lowlands"].to_crs(32631)
    return [str(one) for one in own.loc[own.area.sort_values(ascending=False).index[:n], "parcel_id"]]


@pytest.mark.parametrize("sensor", ["s2", "s1"])
def test_rasters_cut_to_what_the_messages_say(season: Season, sensor: str, tmp_path: Path) -> None:
    names = large(season, 2)
    of_parcel = season.parcels.set_index("parcel_id").loc[names]
    parcels = Parcels("c", "2025", names, [one.wkb for one in of_parcel.geometry], np.ones(2, np.bool_))
    compared = 0
    for acquisition in season.acquisitions():
        table, ids = acquisition.table, set(acquisition.table["parcel_id"].to_pylist())
        said = table["scene_id"][0].as_py()
        if acquisition.sensor != sensor or not set(names) <= ids or compared == 6:
            continue
        if table["is_withdrawn"][0].as_py() or (sensor == "s2" and not _all_clear(table, names)):
            continue
        (path,) = write_scenes(season, names, tmp_path, [said])
        (found,) = scenes_at(str(path), None, lambda address: pytest.fail(address), NOW)
        assert found.item is not None
        scene = scene_from_item(dict(found.item), IMAGERY[found.sensor].profile)
        assert (scene.scene_id, scene.observed_at) == (said, table["observed_at"][0].as_py())
        assert scene.relative_orbit == table["relative_orbit"][0].as_py()
        grid = grid_of(scene, "B02" if sensor == "s2" else "VV")
        index = build(parcels, grid, 5.0 if sensor == "s2" else 10.0, 8, 64)
        cut = extract(scene, grid, parcels, index, SETTINGS).table
        for name in names:
            mine, theirs = (_row(one, name) for one in (cut, table))
            for column in ("B04", "B08") if sensor == "s2" else ("VV", "VH"):
                assert mine[column] == pytest.approx(theirs[column], rel=0.12, abs=0.004), (said, name, column)
            if sensor == "s2":
                assert mine["NDVI"] == pytest.approx(theirs["NDVI"], abs=0.03)
        compared += 1
    assert compared == 6


def _all_clear(table: pa.Table, names: list[str]) -> bool:
    return all(_row(table, name)["clear_fraction"] > 0.99 for name in names)


def _row(table: pa.Table, name: str) -> dict[str, float]:
    (found,) = table.filter(pc.equal(table["parcel_id"], name)).to_pylist()
    return dict(found)
