"""The door for Python: a folder becomes a model, arrays and tables its answers, and wrong inputs one line."""

import importlib
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import parcelwatch
from models.checkpoint import CheckpointError
from models.classifier.crop_model import CropModel
from models.classifier.cross_fitted import CrossFitted, FoldRule
from models.classifier.fitting import Session
from models.ndvi.inputs import ClearSeries, SarSeries
from models.ndvi.training import GapTrainingConfig, fit_gaps
from models.ndvi.whittaker import Whittaker
from terminal.errors import UserError
from training.config import ModelConfig, TrainingSection
from training.cross_validation import cross_validate, train_final
from training.library import LoadedModel, daily_curve, load_model, posteriors
from training.observation_table import TableError
from training.season_models import conventions, ndvi_checkpoint, write
from training.table_source import TableOptions

N, DATES = 30, pd.date_range("2024-03-01", periods=6, freq="20D")


def observations(year: int = 2024) -> pd.DataFrame:
    """Thirty parcels of two crops that one band tells apart."""
    random, dates = np.random.default_rng(0), pd.date_range(f"{year}-03-01", periods=6, freq="20D")
    frame = pd.DataFrame(
        [(f"p{parcel:02}", day) for parcel in range(N) for day in dates], columns=["parcel_id", "date"]
    )
    number = frame["parcel_id"].str[1:].astype(int)
    return frame.assign(
        label=np.where(number % 2, "wheat", "maize"),
        B04=0.1 + 0.2 * (number % 2) + random.normal(0, 0.01, len(frame)),
        B08=0.4,
        VV=-12.0 + random.normal(0, 1, len(frame)),
        VH=-18.0 + random.normal(0, 1, len(frame)),
        direction="ascending",
    )


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a classifier of that table."""
    folder = tmp_path_factory.mktemp("classifier")
    model = ModelConfig(pixel_widths=(8,), decoder=(16,), anomalies=False)
    training = TrainingSection(epochs=20, batch=16, whole_season=1.0)
    with torch.random.fork_rng():
        data = TableOptions(min_parcels=5).labelled(observations())
        known = cross_validate(data, model, training.model_copy(update={"folds": (1,)}))
        final = train_final(data, model, training, known, Session(torch.device("cpu")))
    write(replace(final, about=conventions(data.starts_on)).to_checkpoint(), folder)
    return folder


@pytest.fixture(scope="module")
def curves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of curves that has hardly learnt."""
    folder, random = tmp_path_factory.mktemp("curves"), np.random.default_rng(0)
    parcel, day = np.repeat(np.arange(40), 30), np.tile(np.arange(30) * 6.0, 40)
    n = len(day)
    sar = SarSeries(parcel, day, np.full(n, 37), np.ones(n, bool), random.normal(-12, 1, n), random.normal(-18, 1, n))
    clear = ClearSeries(parcel, day, 0.5 + 0.3 * np.sin(day / 60) + random.normal(0, 0.02, n))
    with torch.random.fork_rng():
        config = GapTrainingConfig.chosen({"n_updates": 1, "n_members": 1, "batch_size": 4})
        model, _ = fit_gaps(sar, clear, np.arange(40), config)
    write(ndvi_checkpoint(model, {}, conventions(date(2025, 1, 1))), folder)
    return folder


@pytest.fixture(scope="module")
def crops(classifier: Path) -> LoadedModel:
    return load_model(classifier)


@pytest.fixture(scope="module")
def filler(curves: Path) -> LoadedModel:
    return load_model(str(curves))


def test_the_door_is_opened_from_the_package_and_imports_nothing_before() -> None:
    for name in ("load_model", "posteriors", "daily_curve", "parcel_history"):
        assert getattr(parcelwatch, name) is getattr(importlib.import_module("training.library"), name)
    with pytest.raises(AttributeError, match="posterior"):
        _ = parcelwatch.posterior


def test_a_model_states_its_classes_channels_units_and_day_0(crops: LoadedModel, filler: LoadedModel) -> None:
    assert crops.classes == ("maize", "wheat")
    assert crops.channels == {"s2": ("B04", "B08"), "s1a": ("VV", "VH")}
    assert (crops.starts_on, filler.starts_on) == (date(2024, 1, 1), date(2025, 1, 1))
    assert "reflectance 0..1" in crops.about["units"]["s2"]
    assert "dB" in crops.about["units"]["s1"]


def test_a_table_is_answered_by_parcel(crops: LoadedModel) -> None:
    found = posteriors(crops, observations())
    assert found.shape == (N, 2)
    assert found.sum(axis=1).to_numpy() == pytest.approx(1)
    assert [found.idxmax(axis=1)[f"p{one:02}"] for one in range(N)] == ["maize", "wheat"] * (N // 2)


def test_the_same_season_of_another_year_in_any_order_is_answered_alike(crops: LoadedModel) -> None:
    found = posteriors(crops, observations())
    for frame in (observations().iloc[::-1], observations().assign(date=observations()["date"].astype(str))):
        np.testing.assert_allclose(posteriors(crops, frame), found, atol=1e-6)
    moved = observations(2023).assign(date=lambda one: one["date"].dt.tz_localize("UTC"))
    moved["date"] += pd.Timedelta(days=1)  # 2024 has a 29 February
    np.testing.assert_allclose(posteriors(crops, moved), found, atol=1e-6)


def test_linear_power_is_answered_as_its_decibel(crops: LoadedModel) -> None:
    frame = observations()
    power = frame.assign(VV=10 ** (frame["VV"] / 10), VH=10 ** (frame["VH"] / 10))
    np.testing.assert_allclose(posteriors(crops, power, units="linear"), posteriors(crops, frame), atol=1e-4)


def test_arrays_are_answered_as_the_table_is(crops: LoadedModel) -> None:
    frame = observations()
    found = posteriors(crops, frame).to_numpy()
    s2, s1 = (frame[list(names)].to_numpy().reshape(N, 6, 2) for names in crops.channels.values())
    np.testing.assert_allclose(posteriors(crops, {"s2": (DATES, s2), "s1a": (DATES, s1)}), found, atol=1e-6)
    one = posteriors(crops, {"s2": (DATES[::-1], s2[0, ::-1]), "s1a": (DATES.date, s1[0])})
    np.testing.assert_allclose(one, found[0], atol=1e-6)
    gone = s2.copy()
    gone[1] = np.nan
    alone = posteriors(crops, {"s2": (DATES, gone)})
    assert np.isnan(alone[1]).all()
    assert np.isfinite(alone[0]).all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda one: one.assign(B04=one["B04"] * 10_000), "B04 lies between .*0.0001"),
        (lambda one: one.assign(VV=10 ** (one["VV"] / 10)), "as linear power does"),
        (lambda one: one.drop(columns="B08"), "no column B08: the model reads B04, B08 of s2"),
        (lambda one: one.drop(columns="direction"), "without a direction"),
        (
            lambda one: one[["parcel_id", "date", "VV", "VH"]].assign(direction="descending"),
            "none of what the model reads",
        ),
        (lambda one: one.drop(columns="date"), "no column date"),
    ],
)
def test_a_table_that_cannot_be_answered_is_one_line(
    crops: LoadedModel, change: Callable[[pd.DataFrame], pd.DataFrame], reason: str
) -> None:
    with pytest.raises(TableError, match=reason) as caught:
        posteriors(crops, change(observations()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({}, "arrays of nothing; the model reads s2, s1a"),
        ({"s3": (DATES, np.zeros((6, 2)))}, "arrays of s3"),
        ({"s2": (DATES, np.zeros((6, 3)))}, r"shape \(6, 3\); \(6, 2\) or \(P, 6, 2\) is needed: dates, then B04, B08"),
        ({"s2": (DATES[:2], np.zeros((6, 2)))}, r"shape \(6, 2\)"),
        ({"s2": (np.arange(6), np.zeros((6, 2)))}, "numbers .*, not dates"),
        ({"s2": (DATES, np.full((6, 2), np.nan))}, "missing"),
        ({"s2": (DATES, [["a", "b"]] * 6)}, "numbers are needed"),
        ({"s2": (DATES, np.zeros((2, 6, 2))), "s1a": (DATES, -np.ones((6, 2)))}, "arrays of 1 and 2 parcels"),
    ],
)
def test_arrays_that_cannot_be_answered_are_one_line(
    crops: LoadedModel, arrays: dict[str, tuple[object, object]], reason: str
) -> None:
    with pytest.raises(TableError, match=reason):
        posteriors(crops, arrays)  # type: ignore[arg-type]


def series() -> pd.Series:
    return pd.Series(0.5 + 0.3 * np.sin(np.arange(10) / 3), pd.date_range("2025-03-01", periods=10, freq="13D"))


def passes() -> pd.DataFrame:
    dates = pd.date_range("2025-02-20", periods=15, freq="10D")
    return pd.DataFrame({"VV": -11.0, "VH": -17.0, "relative_orbit": 37, "direction": "descending"}, index=dates)


def test_a_curve_has_every_day_and_keeps_the_views(filler: LoadedModel) -> None:
    curve = daily_curve(filler, series(), passes())
    assert list(curve.index) == list(pd.date_range("2025-02-20", "2025-07-10"))
    at = curve.loc[series().index]
    assert set(at["origin"]) == {"observed"}
    assert at["ndvi"].to_numpy() == pytest.approx(series().to_numpy())
    assert np.isfinite(curve[["ndvi", "sd"]]).all(axis=None)
    assert set(daily_curve(filler, series())["origin"]) <= {"observed", "reconstructed", "prior"}


def test_the_forms_of_a_series_give_one_curve(filler: LoadedModel) -> None:
    plain, dates = daily_curve(filler, series(), passes()), pd.DatetimeIndex(series().index)
    power = passes().assign(VV=10**-1.1, VH=10**-1.7)
    for curve in (
        daily_curve(filler, series().iloc[::-1], passes().iloc[::-1]),
        daily_curve(filler, (dates.strftime("%Y-%m-%d").tolist(), series().tolist()), passes()),
        daily_curve(filler, series().reindex(dates.union([dates[0] + pd.Timedelta(days=3)])), passes()),
        daily_curve(filler, series(), passes().reset_index(names="date")),
        daily_curve(filler, series(), power, units="linear"),
        daily_curve(filler, series(), passes(), starts_on="2025-01-01"),
    ):
        pd.testing.assert_frame_equal(curve, plain, atol=1e-5)


@pytest.mark.parametrize(
    ("ndvi", "radar", "reason"),
    [
        (series() * 10_000, None, "ndvi lies between"),
        (pd.Series([0.5, 0.6]), None, "numbers .*, not dates"),
        (series() * np.nan, None, "nothing to reconstruct a curve from"),
        ((["2025-03-01"], [0.5, 0.6]), None, "one value a date is needed"),
        (series(), passes().assign(VV=0.1), "as linear power does"),
        (series(), passes().drop(columns="VH"), "without the other polarisation"),
        (series(), passes().reset_index(drop=True), "no column date"),
    ],
)
def test_a_series_without_a_curve_is_one_line(
    filler: LoadedModel, ndvi: pd.Series, radar: pd.DataFrame, reason: str
) -> None:
    with pytest.raises(TableError, match=reason):
        daily_curve(filler, ndvi, radar)


def test_models_are_not_mistaken_for_each_other(crops: LoadedModel, filler: LoadedModel) -> None:
    with pytest.raises(TableError, match="need a classifier"):
        posteriors(filler, observations())
    with pytest.raises(TableError, match="needs a model of"):
        daily_curve(crops, series())


def test_a_model_of_an_earlier_version_is_read_and_asks_for_its_day_0(crops: LoadedModel, tmp_path: Path) -> None:
    assert isinstance(crops.model, CropModel)
    write(replace(crops.model, about={}).to_checkpoint(), tmp_path)
    old = load_model(tmp_path)
    assert old.starts_on is None
    with pytest.raises(TableError, match=r"states no day 0 .*: give starts_on"):
        posteriors(old, observations())
    found = posteriors(old, observations(), starts_on="2024-01-01")
    np.testing.assert_allclose(found, posteriors(crops, observations()), atol=1e-6)


@pytest.mark.parametrize("name", ["nowhere/at-all", "."])
def test_a_folder_without_a_model_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no model") as caught:
        load_model(name)
    assert isinstance(caught.value, UserError)


def test_a_cross_fitted_classifier_is_refused_in_one_line(crops: LoadedModel, tmp_path: Path) -> None:
    assert isinstance(crops.model, CropModel)
    write(CrossFitted.of([crops.model, crops.model], FoldRule(1500.0, {}), {}, {}).to_checkpoint(), tmp_path)
    with pytest.raises(
        CheckpointError, match="is cross-fitted: which of its networks answers depends on where"
    ) as error:
        load_model(tmp_path)
    assert "\n" not in str(error.value)


def test_the_simple_curve_is_a_model_of_curves(tmp_path: Path) -> None:
    write(Whittaker().checkpoint(), tmp_path)
    simple = load_model(tmp_path)
    assert (simple.classes, simple.channels, simple.starts_on) == ((), {}, None)
    curve = daily_curve(simple, (["2025-05-01", "2025-05-21"], [0.4, 0.8]), starts_on="2025-01-01")
    assert curve["ndvi"].iloc[[0, 10, 20]].tolist() == [0.4, pytest.approx(0.6, abs=0.01), 0.8]
    assert curve["sd"].iloc[10] > 2 * curve["sd"].iloc[0]
