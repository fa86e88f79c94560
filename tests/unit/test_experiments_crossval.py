"""Cross-validation: nobody is answered by a model that saw it, and nothing of a test fold reaches its model."""

from dataclasses import replace

import numpy as np
import pytest

from models.classifier.network import Fusion, ModalityConfig
from models.classifier.normalisation import Observations
from training.config import ModelConfig, TrainingSection
from training.cross_validation import answer, cross_validate, split, train_fold
from training.errors import RunConfigError
from training.labelled import NO_LABEL, LabelledParcels

PARCELS = 80
SMALL = ModelConfig(pixel_widths=(4,), decoder=(8,))
QUICK = TrainingSection(epochs=2, batch=16, validate_every=1, folds=(1, 2, 3, 4, 5))


@pytest.fixture(scope="module")
def data() -> LabelledParcels:
    """Two crops told apart by a level; the first parcel has no observation, the last no label."""
    random, label = np.random.default_rng(0), np.arange(PARCELS) % 2

    def modality(dates: int, channels: int) -> Observations:
        parcel = np.repeat(np.arange(1, PARCELS), dates)
        pixels = random.normal(size=(len(parcel), channels, 2)) + 3 * label[parcel][:, None, None]
        day = np.tile(np.linspace(0, 100, dates), PARCELS - 1).astype(np.float32)
        return Observations(pixels.astype(np.float32), day, parcel, np.ones(len(parcel), np.int16))

    labels = label.copy()
    labels[-1] = NO_LABEL
    block = np.arange(PARCELS) // 4
    return LabelledParcels(
        "made up",
        {"s2": modality(5, 2), "s1a": modality(4, 1)},
        np.tile([400.0, 1e4, 0.04, 0.9], (PARCELS, 1)),
        labels,
        ("low", "high"),
        (ModalityConfig("s2", ("a", "b")), ModalityConfig("s1a", ("VV",), 0.2, True, 1)),
        block % 5 + 1,
        block,
        (50.0, 100.0),
        ("middle", "end"),
    )


def test_every_labelled_parcel_is_answered_once_by_another_folds_model(data: LabelledParcels) -> None:
    known = cross_validate(data, SMALL, QUICK)
    assert sorted(known.parcel.tolist()) == np.flatnonzero(data.is_labelled).tolist()
    assert (known.fold == data.fold[known.parcel]).all()
    assert (known.truth == data.labels[known.parcel]).all()
    assert known.probabilities.shape == (2, PARCELS - 1, 2)
    np.testing.assert_allclose(known.probabilities.sum(2), 1, atol=1e-5)
    assert set(known.models) == {1, 2, 3, 4, 5}
    assert known.pooled(1).is_observed.sum() == PARCELS - 2


def test_what_was_never_observed_has_the_frequencies_of_what_was_learnt_from(data: LabelledParcels) -> None:
    known = cross_validate(data, SMALL, QUICK.model_copy(update={"folds": (1,)}))
    usable, _ = split(data, QUICK, 1)
    (row,) = np.flatnonzero(known.parcel == 0)
    expected = np.bincount(data.labels[usable]) / usable.sum()
    np.testing.assert_allclose(known.probabilities[:, row], [expected] * 2)
    assert not known.is_observed[:, row].any()


@pytest.mark.parametrize("fold", [1, 4])
@pytest.mark.parametrize("how", [{"validation": "fold"}, {"inner_folds": 1}, {"inner_folds": 3}])
def test_splits_keep_the_test_fold_and_blocks_apart(data: LabelledParcels, fold: int, how: dict[str, object]) -> None:
    training = TrainingSection.model_validate({**QUICK.model_dump(), **how})
    usable, held_out = split(data, training, fold)
    assert not usable[data.fold == fold].any()
    assert usable.sum() == (data.is_labelled & (data.fold != fold)).sum()
    for one in held_out:
        assert not (one & ~usable).any()
        assert not set(data.block[one]) & set(data.block[usable & ~one])
    if how.get("inner_folds") == 3:
        assert (np.sum(held_out, axis=0) == usable).all()
    if "validation" in how:
        assert set(data.fold[held_out[0]].tolist()) == {(fold - 2) % 5 + 1}


def test_nothing_of_the_test_fold_reaches_its_model(data: LabelledParcels) -> None:
    is_test = data.fold == 2
    changed = {
        name: replace(one, pixels=np.where(is_test[one.parcel][:, None, None], np.float32(1e3), one.pixels))
        for name, one in data.observations.items()
    }
    other = replace(
        data,
        observations=changed,
        labels=np.where(is_test & data.is_labelled, 0, data.labels),
        geometry=np.where(is_test[:, None], 1e6, data.geometry),
    )
    training = TrainingSection.model_validate({**QUICK.model_dump(), "validation": "fold"})
    one, two = (train_fold(each, SMALL, training, 2).to_checkpoint().model for each in (data, other))
    assert one == two
    assert one != train_fold(data, SMALL, training, 3).to_checkpoint().model


@pytest.mark.parametrize("fusion", ["early", "mid", "decision"])
@pytest.mark.parametrize("normalisation", ["streaming-date", "published"])
def test_every_scheme_is_trained_and_answers(data: LabelledParcels, fusion: Fusion, normalisation: str) -> None:
    asked = {"fusion": fusion, "normalisation": normalisation, "auxiliary": False, "temporal_dropout": False}
    model = ModelConfig.model_validate({**SMALL.model_dump(), **asked})
    known = cross_validate(data, model, QUICK.model_copy(update={"folds": (3,), "epochs": 1}))
    assert np.isfinite(known.probabilities).all()
    config = known.models[3].config
    assert config.fusion == fusion
    assert [one.temporal_dropout for one in config.modalities] == [0.0, 0.0]


def test_modalities_are_chosen_and_a_wrong_one_is_named(data: LabelledParcels) -> None:
    model = SMALL.model_copy(update={"modalities": ("s1a",)})
    trained = train_fold(data, model, QUICK, 1)
    assert [one.name for one in trained.config.modalities] == ["s1a"]
    assert answer(trained, data, model, QUICK, 1, days=[10.0]).probabilities.shape[0] == 1
    with pytest.raises(RunConfigError, match=r"\[model\] modalities: made up has no modality s3, only s2, s1a"):
        train_fold(data, SMALL.model_copy(update={"modalities": ("s3",)}), QUICK, 1)


def test_a_fold_without_parcels_is_said(data: LabelledParcels) -> None:
    none = replace(data, fold=np.ones_like(data.fold))
    with pytest.raises(RunConfigError, match="made up, test fold 1: a classifier needs training parcels"):
        cross_validate(none, SMALL, QUICK)
