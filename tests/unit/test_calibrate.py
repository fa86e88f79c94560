"""Calibration: a known temperature is found again at each part of the season, and the error falls."""

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from models.classifier.calibration import Temperature, error_by_chance, expected_calibration_error, fit_temperature

COUNT = 6000


def overconfident() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Logits that are 3 times too large on day 0 and right on day 200, with labels drawn from the truth."""
    random = np.random.default_rng(0)
    truth = random.normal(size=(COUNT, 4)) * 1.5
    probabilities = np.exp(truth) / np.exp(truth).sum(1, keepdims=True)
    labels = (probabilities.cumsum(1) > random.random((COUNT, 1))).argmax(1)
    day = random.uniform(0, 200, COUNT)
    return truth * (3 - 2 * day / 200)[:, None], day, labels


def test_a_known_temperature_is_found() -> None:
    temperature = fit_temperature(*overconfident(), knots=(0.0, 100.0, 200.0))
    np.testing.assert_allclose(temperature.value, [3, 2, 1], rtol=0.12)
    assert temperature.at(np.array([-50, 50, 900])) == pytest.approx(
        [temperature.value[0], sum(temperature.value[:2]) / 2, temperature.value[2]]
    )


def test_calibration_lowers_the_error_and_keeps_the_order() -> None:
    logits, day, labels = overconfident()
    before = Temperature().probabilities(logits, day)
    after = fit_temperature(logits, day, labels, (0.0, 200.0)).probabilities(logits, day)
    assert expected_calibration_error(before, labels) > 0.1
    assert expected_calibration_error(after, labels) < 0.03
    assert (before.argmax(1) == after.argmax(1)).all()
    np.testing.assert_allclose(after.sum(1), 1, atol=1e-5)


def test_separable_logits_stay_within_bounds() -> None:
    """Cross entropy alone would take T to 0; few samples move it little, many stop at the bound."""
    for count, low, high in ((30, 0.5, 1.0), (30_000, 0.25, 0.25)):
        labels = np.arange(count) % 3
        (value,) = fit_temperature(np.eye(3)[labels] * 2.0, np.zeros(count), labels, (0.0,)).value
        assert low <= value <= high


def test_expected_calibration_error_of_a_worked_example() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    labels = np.array([0, 1, 0, 0])  # 0.9 is right half of the time, 0.6 always
    assert expected_calibration_error(probabilities, labels) == pytest.approx((2 * 0.4 + 2 * 0.4) / 4)


def test_round_trip() -> None:
    temperature = Temperature((0.0, 100.0), (2.0, 1.5))
    assert Temperature.from_json(json.loads(json.dumps(temperature.to_json()))) == temperature


def test_nothing_to_fit_on_is_refused() -> None:
    with pytest.raises(ValueError, match="held-out samples"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0), np.zeros(0, int), (0.0,))
    with pytest.raises(ValueError, match="needs samples"):
        expected_calibration_error(np.zeros((0, 3)), np.zeros(0, int))


def test_honest_answers_have_the_error_of_chance_and_others_more() -> None:
    logits, day, labels = overconfident()
    honest = Temperature((0.0, 200.0), (3.0, 1.0)).probabilities(logits, day)
    mean, most = error_by_chance(honest)
    assert 0.5 * mean < expected_calibration_error(honest, labels) < most
    proud = Temperature().probabilities(logits, day)
    assert expected_calibration_error(proud, labels) > 3 * error_by_chance(proud)[1]


def test_chance_of_a_worked_example() -> None:
    """One answer of 0.5, right or wrong, is half off either way."""
    assert error_by_chance(np.array([[0.5, 0.5]])) == (0.5, 0.5)
