"""Scores of a cross-validation: worked figures, and a calibration error beside what chance gives."""

import json
from dataclasses import replace

import numpy as np
import pytest

from models.classifier.fitting import Epoch
from models.classifier.scoring import Predictions
from training.cross_validation import CrossValidation
from training.run_plots import curves, reliabilities
from training.scores import confusion_csv, markdown, score, to_json

TRUTH = np.array([0, 0, 0, 1, 1])
SAID = np.array([[0, 0, 1, 1, 1], [0, 0, 0, 1, 1]])
"""On two days; class 2 is neither true nor said."""


@pytest.fixture
def known() -> CrossValidation:
    probabilities = np.full((2, 5, 3), 0.1)
    np.put_along_axis(probabilities, SAID[..., None], 0.8, axis=2)
    nothing = Predictions(np.zeros((2, 5, 3), np.float32), np.zeros((2, 5)))
    observed = np.array([[True] * 4 + [False], [True] * 5])
    rows = np.arange(5)
    names = ("a", "b", "c"), (10.0, 20.0), ("early", "late")
    return CrossValidation(*names, rows, np.ones(5, int), TRUTH, nothing, probabilities, observed, {})


def test_worked_figures(known: CrossValidation) -> None:
    early, late = score(known).days
    assert early.iou["a"] == pytest.approx(2 / 3)
    assert early.iou["b"] == pytest.approx(2 / 3)
    assert np.isnan(early.iou["c"])
    assert early.miou == pytest.approx(2 / 3)
    assert early.crops.macro_f1 == pytest.approx(0.8)
    assert early.crops.accuracy == pytest.approx(0.8)
    assert early.crops.n_observed == 4
    assert early.crops.ece == pytest.approx(0.0)
    assert late.miou == 1.0
    assert late.crops.ece == pytest.approx(0.2)
    assert score(known).ece == pytest.approx(0.1)


def test_many_right_answers_said_to_be_doubtful_are_no_chance(known: CrossValidation) -> None:
    """800 answers of 0.8 that are all right: an error of 0.2, where chance gives about 0.011."""
    many = replace(
        known,
        truth=np.tile(TRUTH, 160),
        probabilities=np.tile(known.probabilities, (1, 160, 1)),
        is_observed=np.tile(known.is_observed, (1, 160)),
    )
    late = score(many).days[1]
    expected = np.sqrt(0.8 * 0.2 / 800) * np.sqrt(2 / np.pi)  # mean of the absolute value of a normal
    assert late.ece_by_chance == pytest.approx(expected, rel=0.2)
    assert late.ece_by_chance < late.ece_by_chance_95 < late.crops.ece


def test_tables_hold_the_figures(known: CrossValidation) -> None:
    text = markdown("title", score(known))
    assert "| mIoU | 0.667 | 1.000 |" in text
    assert "| c | - | - |" in text
    plain = json.loads(to_json(score(known)))
    assert plain["days"][0]["iou"]["c"] is None
    assert "10.0,early,a,b,1" in confusion_csv(score(known)).splitlines()


def test_plots_are_png(known: CrossValidation) -> None:
    epochs = [Epoch(1, 2, 0.5, 1e-3), Epoch(2, 2, 0.4, 1e-3, 0.5, 0.4)]
    for png in (reliabilities(known), curves({"fold-1": epochs, "final": epochs[:1]})):
        assert png.startswith(b"\x89PNG")
