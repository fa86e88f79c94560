"""The Dutch form of a recorded season: what is in a pass, what is labelled, and how bad folders end."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pytest
import shapely

from ingest.stream.row_checks import faults
from ingest.stream.schemas import S1, S2
from research.seasons import nl
from research.seasons.recorded import labels_frame, open_season
from research.seasons.replay_source import SeasonDataError

EAST, NORTH = 180_000.0, 520_000.0  # a place in the Noordoostpolder, EPSG:28992
SCHEMA = {"S1": S1, "S2": S2}


def write_season(folder: Path) -> Path:
    """Three fields in two blocks: potatoes (1 ha), a strip of onions (0.1 ha), winter wheat (1 ha, never seen)."""
    folder.mkdir()
    outlines = [
        shapely.box(EAST + 10, NORTH + 10, EAST + 110, NORTH + 110),
        shapely.box(EAST + 200, NORTH, EAST + 210, NORTH + 100),
        shapely.box(EAST + 3010, NORTH, EAST + 3110, NORTH + 100),
    ]
    names = ["Aardappelen, consumptie", "Uien, gele zaai-", "Tarwe, winter-"]
    frame = gpd.GeoDataFrame(
        {"gid": [1, 2, 3], "crop_code": [2014, 262, 233], "crop_name": names}, geometry=outlines, crs="EPSG:28992"
    )
    frame.to_crs("EPSG:4326").to_file(folder / "parcels.geojson", driver="GeoJSON")
    pd.DataFrame(
        {
            "gid": [1, 2, 1],
            "date": [date(2023, 1, 4), date(2023, 1, 4), date(2023, 1, 6)],
            "orbit": [15, 15, 37],
            "VV": [-10.0, -20.0, -10.0],
            "VH": [-20.0, -30.0, -20.0],
        }
    ).to_parquet(folder / "s1_backscatter.parquet")
    nan = float("nan")
    pd.DataFrame(
        {
            "gid": [1, 2],
            "date": [date(2023, 6, 1)] * 2,
            "NDVI": [0.5, nan],
            "NDVI_SD": [nan, nan],
            "NBR": [0.2, nan],
            "BSI": [-0.1, nan],
            "S2WI": [0.1, nan],
        }
    ).to_parquet(folder / "s2_indices.parquet")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_season(tmp_path / "nl-somewhere-2023")


def rewrite(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_parquet(path)).to_parquet(path)


def test_passes_hold_linear_power_and_only_clear_parcels(folder: Path) -> None:
    season = nl.read(folder)
    evening, morning, clear = season.acquisitions()
    assert (season.name, season.starts_on, season.ends_on) == ("2023", date(2023, 1, 1), date(2023, 12, 31))
    first = evening.table.to_pylist()[0]
    assert (first["parcel_id"], first["direction"], first["relative_orbit"], first["platform"]) == (
        "1",
        "ascending",
        15,
        "S1A",
    )
    assert first["VV"] == pytest.approx(0.1)
    assert first["VH"] == pytest.approx(0.01)
    assert morning.table["direction"].to_pylist() == ["descending"]
    assert dict(evening.skipped) == {"no_data": 1}
    assert clear.table["parcel_id"].to_pylist() == ["1"]
    assert dict(clear.skipped) == {"cloud": 1, "no_data": 1}
    row = clear.table.to_pylist()[0]
    assert row["NBR2"] == pytest.approx(0.2)
    assert row["NDVI_SD"] is None
    assert row["B04"] is None
    assert row["n_clear"] == 100
    assert all(one.table.schema.equals(SCHEMA[one.sensor].arrow) for one in season.passes)


def test_labels_leave_out_small_parcels_and_other_crops(folder: Path) -> None:
    labels = nl.read(folder).labels
    assert labels["label"].tolist() == ["aardappel", None, "tarwe winter"]
    assert labels["block"].tolist() == ["120,346", "120,346", "122,346"]


def test_a_crop_is_in_a_group_by_a_word_of_its_name() -> None:
    assert nl.crop_group("Grasland, blijvend") == "grasland"
    assert nl.crop_group("Tarwe, zomer-") is None


@pytest.mark.parametrize("name", ["parcels.geojson", "s1_backscatter.parquet", "s2_indices.parquet"])
def test_a_missing_or_broken_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"not what it should be")
    with pytest.raises(SeasonDataError, match=rf"{name}: not a .*write it again"):
        nl.read(folder)
    (folder / name).unlink()
    with pytest.raises(SeasonDataError, match=rf"{name}: no such file; a folder of this kind holds parcels.geojson"):
        nl.read(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="VH"), "no column VH; it has gid, date, orbit, VV"),
        (lambda frame: frame.assign(VV="low"), "column VV holds .*, not numbers"),
        (lambda frame: frame.assign(date="soon"), "column date holds no dates .*; write YYYY-MM-DD"),
        (lambda frame: frame.assign(date=20230104), "column date holds no dates"),
        (lambda frame: frame.assign(date=pd.NaT), "column date has 3 rows without a date"),
        (lambda frame: frame.iloc[:0], "no rows"),
        (lambda frame: frame.assign(gid=frame["gid"] + 1000), "no gid is that of a parcel"),
    ],
)
def test_wrong_columns_end_in_one_line(
    folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    rewrite(folder / "s1_backscatter.parquet", change)
    with pytest.raises(SeasonDataError, match=message) as caught:
        nl.read(folder)
    assert "\n" not in str(caught.value)


def test_parcels_need_their_properties(folder: Path) -> None:
    parcels = gpd.read_file(folder / "parcels.geojson")
    parcels.assign(gid=7).to_file(folder / "parcels.geojson", driver="GeoJSON")
    with pytest.raises(SeasonDataError, match="gid 7 is there twice"):
        nl.read(folder)
    parcels.drop(columns="crop_name").to_file(folder / "parcels.geojson", driver="GeoJSON")
    with pytest.raises(SeasonDataError, match="no property crop_name"):
        nl.read(folder)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(SeasonDataError, match=r"no such folder; give a folder with parcels\.geojson"):
        open_season("nl", tmp_path / "nowhere")


def test_the_real_season(data_dir: Callable[[str], Path]) -> None:
    season = open_season("nl", data_dir("nl-noordoostpolder-2023"))
    labels = labels_frame(season)
    counts = labels["label"].value_counts()
    assert counts.sum() == 427
    assert counts["aardappel"] == 161
    assert len(counts) == 7
    assert len(season.parcels) == 1236
    by_block = labels.groupby("block")["fold"].nunique()
    assert (by_block == 1).all()
    assert set(labels["fold"]) == set(range(5))
    directions = {
        (row["relative_orbit"], row["direction"])
        for one in season.passes
        if one.sensor == "S1"
        for row in one.table.slice(0, 1).to_pylist()
    }
    # the data's page: 15 and 88 ascending, 37 and 110 descending
    assert directions == {(15, "ascending"), (88, "ascending"), (37, "descending"), (110, "descending")}
    rows = {sensor: sum(one.table.num_rows for one in season.passes if one.sensor == sensor) for sensor in ("S1", "S2")}
    assert rows == {"S1": 120_048, "S2": 45_913}
    assert all(one.table.num_rows + sum(one.skipped.values()) == 1236 for one in season.passes)
    times = [one.available_at for one in season.acquisitions()]
    assert times == sorted(times)
    now = datetime(2024, 6, 1, tzinfo=UTC)
    assert not [
        one for one in season.passes if faults(SCHEMA[one.sensor], one.table, now, now - now, max_pixel_bytes=10_000)
    ]
