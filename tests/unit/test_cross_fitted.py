"""Classifiers of several folds as one: each parcel is answered by the model of its fold, before and after a checkpoint."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.checkpoint import CheckpointError
from models.classifier.calibration import Temperature
from models.classifier.crop_model import CropModel
from models.classifier.cross_fitted import CrossFitted, FoldRule, cells, classifier_of
from models.classifier.network import ClassifierConfig, ModalityConfig, PseLtae
from models.classifier.normalisation import ChannelStatistics, ModalityStatistics, Normaliser, Observations
from terminal.errors import UserError
from training.activation import is_allowed
from training.classifier_command import classifier
from training.cross_fitting import CrossFit

PARCELS = 7
CONFIG = ClassifierConfig(
    (ModalityConfig("s2", ("NDVI",)), ModalityConfig("s1a", ("VV", "VH"), is_per_orbit=True)),
    ("wheat", "beet", "grass"),
)
RULE = FoldRule(1500.0, {(1, 2): 1, (3, 4): 2})
GEOMETRY = np.tile([400.0, 1e4, 0.04, 1.0], (PARCELS, 1))


def member(seed: int) -> CropModel:
    torch.manual_seed(seed)
    statistics = {
        one.name: ModalityStatistics(ChannelStatistics((0.5,) * len(one.channels), (2.0,) * len(one.channels)))
        for one in CONFIG.modalities
    }
    normaliser = Normaliser(statistics, ChannelStatistics((0.0,) * 4, (1.0,) * 4))
    return CropModel(PseLtae(CONFIG).eval(), normaliser, Temperature(value=(1.0 + seed,)))


def cross_fitted() -> CrossFitted:
    return CrossFitted.of([member(0), member(1)], RULE, {"accuracy": [0.5]}, {"season": "2025"})


def observations() -> dict[str, Observations]:
    random, parcel = np.random.default_rng(0), np.repeat(np.arange(1, PARCELS), 3)  # the first has none
    day = np.tile(np.array([10, 50, 100], np.float32), PARCELS - 1)
    return {
        one.name: Observations(
            random.normal(size=(len(parcel), len(one.channels), 2)).astype(np.float32),
            day,
            parcel,
            np.full(len(parcel), 15, np.int16),
        )
        for one in CONFIG.modalities
    }


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(1, 2), min_size=PARCELS, max_size=PARCELS))
def test_each_parcel_is_answered_by_the_model_of_its_fold(of_parcel: list[int]) -> None:
    fold, day, whole = np.array(of_parcel), np.full(PARCELS, 100.0), cross_fitted()
    batch = whole.batch(observations(), GEOMETRY)
    expected = [one.posteriors(one.encode(batch), day) for one in whole.members]
    back = classifier_of(whole.to_checkpoint())
    for model in (whole, back, back.for_inference()):
        states = model.encode(batch.until(60), fold=fold)
        later = replace(batch, series={name: one.take(one.day > 60) for name, one in batch.series.items()})
        got = model.posteriors(model.encode(later, states, fold), day, fold)
        for place, own in enumerate(fold.tolist()):
            np.testing.assert_allclose(got[place], expected[own - 1][place], atol=1e-5)


def test_a_checkpoint_of_several_carries_its_id_and_is_no_single_one() -> None:
    checkpoint = cross_fitted().to_checkpoint()
    back = classifier_of(checkpoint)
    assert isinstance(back, CrossFitted)
    assert back.rule == RULE
    assert {one.network.model for one in back.members} == {back.model} == {checkpoint.model}
    assert back.to_checkpoint() == checkpoint
    with pytest.raises(CheckpointError, match="is of kind 'pse-ltae-folds'"):
        CropModel.from_checkpoint(checkpoint)
    with pytest.raises(CheckpointError, match="is of kind 'pse-ltae', not"):
        CrossFitted.from_checkpoint(member(0).to_checkpoint())
    assert type(classifier_of(member(0).to_checkpoint())) is CropModel


def test_what_goes_with_a_running_season_alone_is_refused_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--activate-if goes with --cross-fit"):
        classifier(season="2025", collection="c", activate_if="accuracy>=0.8")
    with pytest.raises(UserError, match="--cross-fit is of a stored season"):
        classifier(config=tmp_path / "run.toml", cross_fit=5)


def test_the_network_for_inference_is_one_of_the_folded() -> None:
    folded = cross_fitted().for_inference()
    assert folded.network is folded.members[0].network


def test_nobody_is_answered_without_a_fold() -> None:
    whole = cross_fitted()
    with pytest.raises(ValueError, match="needs the folds"):
        whole.encode(whole.batch(observations(), GEOMETRY))
    empty = whole.network.initial_states(0)
    assert whole.posteriors(empty, np.zeros(0), np.zeros(0, np.int64)).shape == (0, 3)


def test_models_that_differ_are_not_one() -> None:
    other = replace(member(1), normaliser=Normaliser({}, ChannelStatistics((0.0,) * 4, (1.0,) * 4)))
    with pytest.raises(ValueError, match="share configuration"):
        CrossFitted.of([member(0), other], RULE, {}, {})


@given(st.floats(-179, 179), st.floats(-60, 70))
def test_a_parcel_is_in_the_fold_of_its_block(lon: float, lat: float) -> None:
    ((row, column),) = cells([lon], [lat], 1500.0).tolist()
    rule = FoldRule(1500.0, {(row, column): 4})
    assert rule.fold_of([lon, lon + 1], [lat, lat]).tolist()[0] == 4
    assert FoldRule.from_json(rule.to_json()) == rule
    assert rule.fold_of([lon], [lat + 0.1]).tolist() == [1]  # no model learnt from there


def test_a_training_that_was_stopped_goes_on_as_known_then(tmp_path: Path) -> None:
    now, root = datetime(2025, 6, 1, tzinfo=UTC), tmp_path / "run"
    how = CrossFit(5, 0.05, 3, 0)
    assert how.as_known_at(root, now, season="2025") == now
    (root / "fold-1").mkdir()
    later = now + timedelta(days=1)
    assert how.as_known_at(root, later, season="2025") == now
    assert (root / "fold-1").exists()
    assert replace(how, folds=4).as_known_at(root, later, season="2025") == later
    assert not (root / "fold-1").exists()  # of another training


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (None, False),
        ("accuracy>=0.8", True),
        (" macro_f1 >= 0.8 ", False),
        ("accuracy>=1", False),
        ("accuracy>=0", True),
    ],
)
def test_scores_of_the_last_day_allow_a_model_to_watch(rule: str | None, expected: bool) -> None:
    assert is_allowed(rule, {"accuracy": [0.1, 0.85], "macro_f1": [0.9, 0.7]}) is expected
    assert is_allowed(rule, {}) is False


@pytest.mark.parametrize("rule", ["", "accuracy", "accuracy>0.8", "recall>=0.8", "accuracy>=80", "accuracy>=0.8 or 1"])
def test_a_rule_that_cannot_be_read_is_one_line(rule: str) -> None:
    with pytest.raises(UserError, match=r"--activate-if .*: accuracy or macro_f1, >= and a number"):
        is_allowed(rule, {})
