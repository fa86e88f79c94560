"""Training of the classifier: it learns what can be known, also early and without a modality, and repeats itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.classifier.crop_model import CropModel
from models.classifier.fitting import Session, _schedule
from models.classifier.ltae import LtaeConfig, Norm
from models.classifier.network import ClassifierConfig, Fusion, ModalityConfig
from models.classifier.normalisation import Observations
from models.classifier.scoring import logits_at, macro_f1, mean_iou, newest_days
from models.classifier.training import Inputs, TrainingConfig, train_calibrated, train_classifier

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


def test_mean_iou_of_a_worked_example() -> None:
    """Class 2 is neither true nor said: it does not count."""
    assert mean_iou(np.array([0, 0, 1, 3]), np.array([0, 1, 1, 3])) == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)


@pytest.mark.parametrize(("fusion", "norm"), [("early", "none"), ("late", "season"), ("mid", "season")])
def test_a_network_that_does_not_stream_is_asked_for_each_day_anew(fusion: Fusion, norm: Norm) -> None:
    config = replace(CONFIG, fusion=fusion, ltae=LtaeConfig(norm=norm))
    model = train_classifier(config, replace(TRAINING, epochs=1), landscape(), GEOMETRY, LABELS, *masks())
    batch = model.batch(landscape(), GEOMETRY)
    expected = [model.network(batch.until(day)).logits.detach().numpy() for day in DAYS]
    np.testing.assert_allclose(logits_at(model.network, batch, DAYS), expected, atol=1e-5)
    assert len(model.scores["miou"]) == 2


def test_cross_fitting_asks_every_parcel_once_and_teaches_all() -> None:
    """The temperature and the scores are of all parcels, each answered by the network that did not see it."""
    part = np.arange(PARCELS) // 3 % 3
    held_out, told = [part == one for one in range(3)], list[tuple[int, int]]()
    session = Session(on_epoch=lambda epoch, _: told.append((epoch.round, epoch.number)))
    inputs, everything = Inputs(landscape(), GEOMETRY, LABELS), np.ones(PARCELS, bool)
    training = replace(TRAINING, epochs=2)
    model = train_calibrated(CONFIG, training, inputs, everything, held_out, is_refitted=True, session=session)
    assert told == [(round_, epoch) for round_ in (1, 2, 3, 4) for epoch in (1, 2)]
    assert model.scores["parcels"] == PARCELS
    plain = train_classifier(CONFIG, training, landscape(), GEOMETRY, LABELS, everything, ~everything)
    for name, tensor in plain.network.state_dict().items():
        assert tensor.equal(model.network.state_dict()[name])
    with pytest.raises(ValueError, match="3 held-out sets without a refit"):
        train_calibrated(CONFIG, training, inputs, everything, held_out, is_refitted=False)


def test_stored_integers_teach_what_their_physical_values_teach() -> None:
    """int16 with a scale and a value for no data, mapped from a file or not, against float32 with NaN."""
    stored, physical = {}, {}
    for name, one in landscape().items():
        raw = np.round(one.pixels * 100).astype(np.int16)
        raw[::7, :, -1] = -32768
        stored[name] = replace(one, pixels=raw, scale=0.01, nodata=-32768)
        physical[name] = replace(one, pixels=stored[name].physical())
    few = replace(TRAINING, epochs=2)
    models = [train_classifier(CONFIG, few, each, GEOMETRY, LABELS, *masks()) for each in (stored, physical)]
    np.testing.assert_allclose(
        logits_at(models[0].network, models[0].batch(stored, GEOMETRY), DAYS),
        logits_at(models[1].network, models[1].batch(physical, GEOMETRY), DAYS),
        atol=2e-2,
    )


@pytest.mark.parametrize("steps", range(1, 12))
def test_a_learning_rate_rises_and_falls_in_any_number_of_steps(steps: int) -> None:
    optimiser = torch.optim.Adam([torch.zeros(1, requires_grad=True)], 1e-3)
    schedule = _schedule(optimiser, TrainingConfig((100.0,), epochs=1, learning_rate=1e-3), steps)
    rates = []
    for _ in range(steps):
        optimiser.step()
        rates.append(schedule.get_last_lr()[0])
        schedule.step()
    assert max(rates) == pytest.approx(1e-3, rel=0.05)  # the peak may lie between two steps
    assert steps < 3 or rates[0] < max(rates) > rates[-1]
