"""Series of the experiments' sources: pixels of raster patches against plain numpy, a small simulated season, training on both."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner, Result

import training.ndvi_source as train_source
from models.checkpoint import Checkpoint, unpack
from models.ndvi.gap_filler import GapModel
from models.ndvi.inputs import TrainingDataError
from models.ndvi.published.mcnn_seq import McnnSeqConfig
from models.ndvi.published.networks import NETWORKS
from models.ndvi.published.reconstruction import NdviTrainingConfig, SarToNdvi
from research.experiments.gaps.series import GapSeries
from research.experiments.ndvi import patches
from research.experiments.ndvi.patches import pixels
from research.experiments.ndvi.sources import Source, open_series
from research.experiments.schemes import ExperimentError
from research.seasons.replay_source import SeasonDataError
from training import ndvi_command
from training.errors import RunConfigError
from training.season_models import GAP_FILLING
from training.stored_training import Asked

SIZE, BEGIN = 8, datetime(2018, 11, 3, 10, 50, tzinfo=UTC)
S2_AT = [BEGIN + timedelta(days=20 * nr) for nr in range(12)]
S1_AT = [BEGIN + timedelta(days=12 * nr, hours=7) for nr in range(20)]
Variables = dict[str, np.ndarray]


@pytest.fixture
def variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Variables:
    """What a patch of 8 x 8 pixels holds: two fields of one crop, grass, and a strip without a label."""
    random = np.random.default_rng(0)
    crop = np.zeros((SIZE, SIZE), np.uint16)
    crop[:, :3], crop[:4, 4:], crop[5:, 4:] = 1110, 1110, 9120
    made: Variables = {
        "B04": random.integers(300, 900, (12, SIZE, SIZE)).astype(np.uint16),
        "B08": random.integers(1500, 4000, (12, SIZE, SIZE)).astype(np.uint16),
        "SCL": np.full((12, SIZE // 2, SIZE // 2), 4, np.uint8),
        "VV": random.integers(-150_000, -80_000, (20, SIZE // 2, SIZE // 2)).astype(np.int32),
        "VH": random.integers(-220_000, -150_000, (20, SIZE // 2, SIZE // 2)).astype(np.int32),
        "CT": crop[None],
        "LC": np.where(crop == 9120, 13, 11)[None],
    }
    made["SCL"][3, 0, 0] = 9  # cloud over pixels (0..1, 0..1)
    made["B04"][5, 2, 2] = 0  # no data
    made["VV"][7, 1, 1] = 0  # no data over pixels (2..3, 2..3)
    folder = tmp_path / "patch"
    folder.mkdir()
    for name in ("S2_L2A_10m_A.nc", "S2_L2A_20m_A.nc", "S1_GRD-ASCENDING_20m_A.nc", "OUTPUT_A.nc"):
        (folder / name).touch()
    at = {"VV": S1_AT, "VH": S1_AT, "CT": [], "LC": []}
    monkeypatch.setattr(patches, "variable", lambda _path, name: (made[name], at.get(name, S2_AT)))
    return made


def test_a_pixel_is_its_clear_ndvi_and_the_radar_cell_it_lies_in(variables: Variables, tmp_path: Path) -> None:
    series, starts_on = pixels(tmp_path / "patch", None, min_pixels=1)
    assert starts_on == date(2018, 1, 1)
    crop = variables["CT"][0]
    row, column = np.nonzero(crop)
    assert series.n_parcels == len(row)
    nir, red = variables["B08"].astype(float), variables["B04"].astype(float)
    ndvi, first = (nir - red) / (nir + red), (S2_AT[0].date() - starts_on).days
    for pixel in range(series.n_parcels):
        r, c = row[np.lexsort((column, row))][pixel], column[np.lexsort((column, row))][pixel]
        own = series.clear.rows(series.clear.parcel == pixel)
        clear = [nr for nr in range(12) if not (nr == 3 and r < 2 and c < 2) and not (nr == 5 and (r, c) == (2, 2))]
        assert own.day.tolist() == [first + 20 * nr for nr in clear]
        assert own.ndvi == pytest.approx(ndvi[clear, r, c])
        radar = series.sar.rows(series.sar.parcel == pixel)
        seen = [nr for nr in range(20) if not (nr == 7 and (r // 2, c // 2) == (1, 1))]
        assert sorted(radar.vv_db) == pytest.approx(sorted(variables["VV"][seen, r // 2, c // 2] * 1e-4))
        assert radar.is_ascending.all()


def test_fields_are_blocks_and_grass_is_named(variables: Variables, tmp_path: Path) -> None:
    series, _ = pixels(tmp_path / "patch", None, min_pixels=13)
    crop = variables["CT"][0]
    row, column = np.nonzero(crop)
    assert len(set(series.block)) == 3, "two fields of one crop are two blocks"
    left, right = column < 3, (column > 3) & (row < 4)
    assert len(set(series.block[left])) == len(set(series.block[right])) == 1
    assert set(series.block[left]) != set(series.block[right])
    assert all(len(set(series.fold[series.block == one])) == 1 for one in range(3))
    assert set(series.group) == {"crop 1110", ""}, "12 pixels of grass are too few to score"
    assert set(pixels(tmp_path / "patch", None, min_pixels=1)[0].group) == {"crop 1110", "grass 9120"}


def test_a_draw_of_pixels_repeats_and_depends_on_its_seed(variables: Variables, tmp_path: Path) -> None:
    del variables

    def drawn(seed: int) -> GapSeries:
        return pixels(tmp_path / "patch", 10, seed, min_pixels=1)[0]

    assert drawn(1).n_parcels == 10
    assert np.array_equal(drawn(1).clear.ndvi, drawn(1).clear.ndvi)
    assert not np.array_equal(drawn(1).clear.ndvi, drawn(2).clear.ndvi)


def test_a_folder_without_patches_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SeasonDataError, match="no patch"):
        pixels(tmp_path)
    (tmp_path / "S2_L2A_10m_A.nc").touch()
    with pytest.raises(SeasonDataError, match="no S2_L2A_20m"):
        pixels(tmp_path)
    (tmp_path / "S2_L2A_20m_A.nc").touch()
    with pytest.raises(SeasonDataError, match="B04 cannot be read"):
        pixels(tmp_path)


def test_series_that_five_folds_cannot_split_are_refused(
    variables: Variables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del variables
    monkeypatch.setenv("PARCELWATCH_DATA", str(tmp_path / "none"))
    with pytest.raises(ExperimentError, match="too few blocks"):
        open_series(Source("patches", tmp_path / "patch", pixels=None))
    with pytest.raises(ExperimentError, match="12 parcels of the simulator; at least 40"):
        open_series(Source("simulator", parcels=12))
    with pytest.raises(ExperimentError, match="name its folder"):
        open_series(Source("patches"))


def test_a_simulated_season_has_arable_crops_and_grass_over_a_calendar_year() -> None:
    data = open_series(Source("simulator", parcels=40))
    assert data.starts_on == date(2025, 1, 1)
    assert data.unit == "parcels"
    assert data.is_arable.any()
    assert data.is_grass.any()
    assert not (data.is_arable & data.is_grass).any()
    assert data.series.clear.day.min() < 90
    assert data.series.clear.day.max() > 270


# Training on a file's source


@pytest.fixture
def run(variables: Variables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    del variables
    monkeypatch.setattr("research.experiments.ndvi.sources._splittable", lambda found: found)
    monkeypatch.chdir(tmp_path)

    def invoke(text: str, *words: str) -> Result:
        path = tmp_path / "ndvi.toml"
        path.write_text(text)
        app = typer.Typer()
        app.command()(ndvi_command.ndvi)
        with torch.random.fork_rng():
            return CliRunner().invoke(app, ["--config", str(path), *words])

    return invoke


PATCHES = "\n[network]\nn_segments = 8\nhidden = 8\n[source]\nkind = 'patches'\nfolder = 'patch'\npixels = 0\n"
SMALL = f"n_updates = 2\nbatch_size = 8\nstep_days = 20{PATCHES}"


@pytest.mark.parametrize("model", ["mcnn-seq", "rnn"])
def test_a_network_is_trained_on_pixels_into_a_folder(run: Callable[..., Result], model: str) -> None:
    result = run(SMALL, "--model", model, "--out", "kept")
    assert result.exit_code == 0, (result.output, result.exception)
    kept = Checkpoint(Path("kept/weights.pt").read_bytes(), Path("kept/model.json").read_text())
    weights, plain = unpack(kept)
    assert plain["kind"] == model
    assert plain["about"]["unit"] == "pixels"
    assert plain["about"]["observed_from"] == "2018-11-03"
    assert plain["about"]["n_training"] + plain["about"]["n_validation"] == 52
    assert plain["about"]["n_validation"] > 0
    assert SarToNdvi.from_state(plain["config"], weights).config.network.n_segments == 8
    assert "52 pixels" in result.output


def test_the_gap_filler_is_trained_on_pixels_too(run: Callable[..., Result]) -> None:
    text = "n_updates = 1\nn_members = 1\nbatch_size = 4\n[source]\nkind = 'patches'\nfolder = 'patch'\npixels = 0\n"
    assert run(text, "--out", "kept").exit_code == 0
    kept = Checkpoint(Path("kept/weights.pt").read_bytes(), Path("kept/model.json").read_text())
    assert kept.describe()["kind"] == GAP_FILLING
    assert GapModel.from_checkpoint(kept).members


@pytest.mark.parametrize(
    ("text", "words", "error", "said"),
    [
        ("[source]\nkind = 'tiles'\n", (), RunConfigError, "one of nl, simulator, patches"),
        ("[source]\nkind = 'nl'\nfile = 'x'\n", (), RunConfigError, "no file"),
        ("[source\n", (), RunConfigError, "ndvi.toml"),
        ("source = 'nl'\n", (), RunConfigError, "[source] kind: one of nl"),
        ("n_updates = 2\n", (), RunConfigError, "--season and --collection"),
        (SMALL, ("--season", "2023", "--model", "rnn"), RunConfigError, "not both"),
        (SMALL, ("--model", "lstm"), RunConfigError, "lstm"),
        ("epochs = 2\n[source]\nkind = 'simulator'\n", (), TrainingDataError, "epochs"),
    ],
)
def test_a_file_that_cannot_be_trained_from_ends_in_one_line(
    run: Callable[..., Result], text: str, words: tuple[str, ...], error: type[Exception], said: str
) -> None:
    result = run(text, *words)
    assert isinstance(result.exception, error)
    assert said in str(result.exception)


def test_without_a_source_the_stored_season_is_trained_on(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list[object]()

    def train(asked: Asked, model: str, _: Path | None) -> None:
        given.extend([asked.season, asked.collection, asked.out, model])

    monkeypatch.setattr("training.stored_training.train_ndvi", train)
    assert run("n_updates = 2\n", "--season", "2023", "--collection", "nl", "--model", "cnn").exit_code == 0
    assert given[:2] == ["2023", "nl"]
    assert given[3] == "cnn"


def test_choices_of_a_file_are_those_of_the_network(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(SMALL)
    source, choices = train_source.read_source(path)
    assert source == Source("patches", Path("patch"), pixels=None)
    found = NdviTrainingConfig.chosen("mcnn-seq", choices)
    assert found.n_updates == 2
    assert found.network == McnnSeqConfig(n_segments=8, hidden=8, n_extra=2, is_aligned=True)


def test_the_models_that_can_be_named_are_those_that_can_be_trained() -> None:
    assert (GAP_FILLING, *NETWORKS) == ndvi_command.MODELS
