"""Training of the classifier: it learns what can be known, also early and without a modality, and repeats itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.classifier import ClassifierConfig, ModalityConfig
from models.classifier_training import (
    TrainingConfig,
    logits_at,
    macro_f1,
    newest_days,
    train_classifier,
)
from models.crop_model import CropModel
from models.normalise import Normaliser, Observations
from models.sampling import PackedParcels, Thinning, draw

PARCELS, DAYS = 60, (100.0, 200.0)
CONFIG = ClassifierConfig(
    (ModalityConfig("s2", ("NDVI",), 0.4, pixels=3), ModalityConfig("s1a", ("VV", "VH"), 0.2, True)),
    ("early", "late", "bare"),
)
TRAINING = TrainingConfig(DAYS, epochs=25, batch=23, validate_every=10)
LABELS = np.arange(PARCELS) % 3
GEOMETRY = np.tile([400.0, 1e4, 0.04, 0.9], (PARCELS, 1))


def landscape() -> dict[str, Observations]:
    """Three crops: green from day 50, green from day 120, never; radar follows the green, offset by orbit."""
    random = np.random.default_rng(0)

    def modality(dates: int, channels: int, size: int) -> Observations:
        parcel = np.repeat(np.arange(PARCELS), dates)
        day = np.tile(np.linspace(0, 200, dates), PARCELS)
        orbit = np.tile(np.resize([15, 88], dates), PARCELS)
        green = day > np.array([50, 120, 999])[LABELS[parcel]]
        level = green + np.where(orbit == 15, 5.0, 0.0) * (channels == 2)
        pixels = level[:, None, None] + 0.2 * random.normal(size=(len(parcel), channels, size))
        return Observations(pixels.astype(np.float32), day.astype(np.float32), parcel, orbit.astype(np.int16))

    return {"s2": modality(12, 1, 5), "s1a": modality(16, 2, 1)}


def masks() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    fold = np.arange(PARCELS) // 3 % 4
    return fold > 0, fold == 0


@pytest.fixture(scope="module")
def trained() -> CropModel:
    return train_classifier(CONFIG, TRAINING, landscape(), GEOMETRY, LABELS, *masks())


def test_it_learns_and_scores_what_can_be_known(trained: CropModel) -> None:
    early, late = trained.scores["macro_f1"]
    assert late > 0.95
    assert early < 0.8  # the late crop and the bare soil cannot be told apart by day 100
    assert trained.scores["parcels"] == 15
    assert trained.temperature.day == DAYS
    assert not trained.network.training


def test_it_answers_without_a_modality(trained: CropModel) -> None:
    for missing in ("s2", "s1a"):
        batch = trained.batch({name: one for name, one in landscape().items() if name != missing}, GEOMETRY)
        assert macro_f1(LABELS, logits_at(trained.network, batch, DAYS)[1].argmax(1)) > 0.85


def test_the_same_seed_gives_the_same_model_and_another_seed_another(trained: CropModel) -> None:
    again = train_classifier(CONFIG, TRAINING, landscape(), GEOMETRY, LABELS, *masks())
    other = train_classifier(CONFIG, replace(TRAINING, seed=1), landscape(), GEOMETRY, LABELS, *masks())
    assert again.to_checkpoint().model == trained.to_checkpoint().model != other.to_checkpoint().model


def test_parcels_outside_the_masks_are_not_looked_at() -> None:
    training, validation = masks()
    training[-1] = False
    observations, geometry, labels = landscape(), GEOMETRY.copy(), LABELS.copy()
    first = train_classifier(CONFIG, TRAINING, observations, geometry, labels, training, validation)
    for one in observations.values():
        one.pixels[one.parcel == PARCELS - 1] = 1e3
    geometry[-1], labels[-1] = 1e6, 99
    second = train_classifier(CONFIG, TRAINING, observations, geometry, labels, training, validation)
    assert first.to_checkpoint().model == second.to_checkpoint().model


def test_progress_is_told_and_no_validation_is_no_calibration() -> None:
    told: list[tuple[int, int, float]] = []
    training, _ = masks()
    model = train_classifier(
        CONFIG,
        replace(TRAINING, epochs=3),
        landscape(),
        GEOMETRY,
        LABELS,
        training,
        np.zeros(PARCELS, bool),
        progress=lambda *one: told.append(one),
    )
    assert [one[:2] for one in told] == [(1, 3), (2, 3), (3, 3)]
    assert model.scores == {}
    assert model.temperature.value == (1.0,)


def test_logits_at_a_day_are_those_of_what_was_known_then(trained: CropModel) -> None:
    batch = trained.batch(landscape(), GEOMETRY)
    for day, logits in zip(DAYS, logits_at(trained.network, batch, DAYS), strict=True):
        with torch.no_grad():
            expected = trained.network(batch.until(day)).logits.numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert newest_days(batch, (-1.0, 100.0)).max(1).tolist() == [0.0, 93.33333587646484]


def test_a_drawn_batch_keeps_what_it_promises() -> None:
    observations = landscape()
    batch = Normaliser.fit(observations, GEOMETRY, np.ones(PARCELS, bool)).batch(observations, GEOMETRY)
    parcels, random = PackedParcels.of(batch), torch.Generator().manual_seed(0)
    some = torch.tensor([7, 3, 50])
    for _ in range(30):
        drawn = draw(parcels, some, CONFIG.modalities, Thinning(modality_dropout=0.9), random)
        assert drawn.series["s2"].pixels.shape[2] == 3
        dates = sum(torch.bincount(one.parcel, minlength=3) for one in drawn.series.values())
        assert (torch.as_tensor(dates) > 0).all()
        for one in drawn.series.values():
            assert (one.parcel.diff() >= 0).all()
            assert bool(one.valid.all())


def test_a_subset_of_packed_parcels_is_theirs() -> None:
    observations = landscape()
    batch = Normaliser.fit(observations, GEOMETRY, np.ones(PARCELS, bool)).batch(observations, GEOMETRY)
    taken = PackedParcels.of(batch).take(torch.tensor([7, 3]))
    for name, one in batch.series.items():
        expected = torch.cat([one.pixels[one.parcel == 7], one.pixels[one.parcel == 3]])
        assert taken.series[name].pixels.equal(expected)
        assert torch.bincount(taken.series[name].parcel).tolist() == [len(expected) // 2] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [("overlap", "overlap"), ("one class", "two classes"), ("label", "labels go from 0 to 9, the model has 3")],
)
def test_what_leaves_nothing_to_learn_is_refused(change: str, message: str) -> None:
    training, validation = masks()
    labels = LABELS.copy()
    if change == "overlap":
        validation = training
    if change == "one class":
        training, validation = labels == 0, labels == 9
    if change == "label":
        labels[np.flatnonzero(training)[0]] = 9
    with pytest.raises(ValueError, match=message):
        train_classifier(CONFIG, TRAINING, landscape(), GEOMETRY, labels, training, validation)


def test_macro_f1_of_a_worked_example() -> None:
    assert macro_f1(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])) == pytest.approx((2 / 3 + 4 / 5) / 2)
