"""The French form of a recorded season: composites known when their dekad is over, units, labels, bad folders."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from ingest.stream.row_checks import faults
from ingest.stream.schemas import S1, S2
from research.seasons import fr
from research.seasons.recorded import classes_of, labels_frame, open_season
from research.seasons.replay_source import SeasonDataError

SCHEMA = {"S1": S1, "S2": S2}


def write_season(folder: Path, samples: int = 2) -> Path:
    """Samples in one dekad of February: the first clear, the others cloudy; the last without Sentinel-1."""
    folder.mkdir()
    names = [f"sample {nr}" for nr in range(samples)]
    frame = pd.DataFrame({"sample_id": names, "timestamp": pd.Timestamp(2024, 2, 21)})
    for nr, column in enumerate(fr.S2_COLUMNS):
        frame[column] = [1000 + 100 * nr] + [fr.NO_DATA] * (samples - 1)
    for column in fr.S1_COLUMNS:
        frame[column] = [3000] * (samples - 1) + [fr.NO_DATA]
    frame = frame.assign(lon=[0.1 + 0.2 * nr for nr in range(samples)], lat=47.9, ewoc_code=[11, 12] * (samples // 2))
    frame.to_parquet(folder / "dekads.parquet")
    legends = {"BROAD": {"11": "cereals", "12": "grass"}, fr.LEGEND: {"11": "wheat", "12": "ignore"}}
    (folder / "class_mappings.json").write_text(json.dumps(legends))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_season(tmp_path / "fr-somewhere-2024")


def test_a_composite_is_known_at_the_end_of_its_dekad(folder: Path) -> None:
    season = fr.read(folder)
    radar, optical = season.acquisitions()
    over = datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)
    assert (radar.available_at, optical.available_at) == (over, over)
    assert radar.table["observed_at"].to_pylist() == [over]
    assert (season.starts_on, season.ends_on, season.name) == (date(2024, 2, 21), date(2024, 2, 29), "2024-02_2024-02")
    assert dict(radar.skipped) == {"no_data": 1}
    assert dict(optical.skipped) == {"cloud": 1}


@pytest.mark.parametrize(
    ("first", "last"), [((2023, 2, 1), (2023, 2, 10)), ((2023, 12, 21), (2023, 12, 31)), ((2023, 2, 21), (2023, 2, 28))]
)
def test_a_dekad_ends_on_the_10th_20th_or_last_day(first: tuple[int, int, int], last: tuple[int, int, int]) -> None:
    assert fr.last_day(date(*first)) == date(*last)


def test_values_are_reflectance_and_linear_power(folder: Path) -> None:
    radar, optical = (one.table.to_pylist()[0] for one in fr.read(folder).acquisitions())
    # 20 log10(3000) - 83 = -13.457 dB
    assert radar["VV"] == pytest.approx(10**-1.34576, rel=1e-4)
    assert radar["direction"] == "mixed"
    assert optical["B04"] == pytest.approx(0.12)
    assert optical["B08"] == pytest.approx(0.16)
    assert optical["B8A"] is None
    assert optical["NDVI"] == pytest.approx(0.04 / 0.28, abs=1e-6)


def test_parcels_are_pixels_and_are_named_by_the_best_legend(folder: Path) -> None:
    season = fr.read(folder)
    assert season.parcels["crop_name"].tolist() == ["wheat", "grass"]
    assert season.labels["label"].tolist() == ["wheat", None]
    assert season.parcels.to_crs("EPSG:2154").area.tolist() == pytest.approx([100.0, 100.0], rel=1e-6)


def test_too_few_samples_of_every_class_cannot_be_scored(folder: Path) -> None:
    with pytest.raises(SeasonDataError, match="0 crop classes with at least 12 parcels"):
        labels_frame(fr.read(folder))


@pytest.mark.parametrize("text", ["{", "[]", '{"BROAD": {}}'])
def test_mappings_without_the_legend(folder: Path, text: str) -> None:
    (folder / "class_mappings.json").write_text(text)
    with pytest.raises(SeasonDataError, match=r"class_mappings\.json: (not JSON|no legend CROPTYPE_INSEASON_FRANCE)"):
        fr.read(folder)


def test_a_missing_band_is_named(folder: Path) -> None:
    path = folder / "dekads.parquet"
    pd.read_parquet(path).drop(columns="S2-L2A-B11").to_parquet(path)
    with pytest.raises(SeasonDataError, match="no column S2-L2A-B11"):
        fr.read(folder)


def test_the_real_season(data_dir: Callable[[str], Path]) -> None:
    season = open_season("fr", data_dir("fr-worldcereal-2023"))
    labels = labels_frame(season)
    assert len(season.parcels) == 299
    assert season.starts_on == date(2022, 9, 1)
    assert season.ends_on == date(2024, 1, 31)
    assert classes_of(labels) == ("grapes", "grasslands", "maize", "soy_soybeans", "sunflower", "wheat")
    assert labels["label"].value_counts().min() == 12
    assert (labels.groupby("block")["fold"].nunique() == 1).all()
    for one in season.passes:
        assert one.table.num_rows + sum(one.skipped.values()) == 299
        assert (
            faults(SCHEMA[one.sensor], one.table, season.passes[-1].available_at, timedelta(0), max_pixel_bytes=10_000)
            == []
        )
