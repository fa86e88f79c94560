"""Scores against figures worked out by hand and by scikit-learn."""

import io
import json
import math
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, r2_score

from research.seasons.scoreboard import Scores, append_log, write_json
from training.metrics import Event, Pooled, Raised, pooled, score_alerts, score_classes, score_ndvi

CLASSES = ("maize", "oats", "wheat")
LABELS = pd.DataFrame(
    {
        "parcel_id": ["a", "b", "c", "d", "e"],
        "label": ["maize", "wheat", "wheat", None, "maize"],
        "fold": [0, 0, 1, 1, 1],
    }
)
POSTERIORS = pd.DataFrame([[0.8, 0.0, 0.2], [0.4, 0.0, 0.6], [0.5, 0.3, 0.2]], index=["a", "b", "c"], columns=CLASSES)


def test_scores_equal_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    truth, probabilities = rng.integers(0, 3, 200), rng.dirichlet(np.ones(3), 200)
    scores = score_classes(Pooled(truth, probabilities, np.ones(200, bool), CLASSES))
    said = probabilities.argmax(axis=1)
    assert scores.macro_f1 == pytest.approx(f1_score(truth, said, average="macro"))
    assert scores.accuracy == pytest.approx(accuracy_score(truth, said))
    assert np.array_equal(scores.confusion, confusion_matrix(truth, said))


def test_an_unobserved_parcel_counts_with_the_frequencies_of_the_other_folds() -> None:
    pool = pooled(LABELS, POSTERIORS, CLASSES)
    assert pool.is_observed.tolist() == [True, True, True, False]
    assert pool.probabilities[3].tolist() == [0.5, 0.0, 0.5]  # fold 0 holds one maize, one wheat
    scores = score_classes(pool)
    assert (scores.n, scores.n_observed) == (4, 3)
    assert scores.accuracy == pytest.approx(3 / 4)
    assert scores.accuracy_observed == pytest.approx(2 / 3)
    assert math.isnan(scores.f1["oats"])  # not in the truth: not in the mean either
    assert scores.macro_f1 == pytest.approx((2 * 2 / 5 + 2 * 1 / 3) / 2)


def test_training_elsewhere_gives_the_frequencies() -> None:
    elsewhere = pd.DataFrame({"parcel_id": ["x", "y"], "label": ["wheat", "wheat"], "fold": [0, 1]})
    assert pooled(LABELS, POSTERIORS, CLASSES, training=elsewhere).probabilities[3].tolist() == [0.0, 0.0, 1.0]


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ValueError, match="labels wheat are none of the model's classes"):
        pooled(LABELS, POSTERIORS, ("maize", "oats"))
    with pytest.raises(ValueError, match="posteriors are not finite"):
        pooled(LABELS, POSTERIORS.replace(0.8, math.nan), CLASSES)
    with pytest.raises(ValueError, match="no labelled parcel"):
        score_classes(pooled(LABELS.assign(label=None), POSTERIORS, CLASSES))


def test_ndvi_scores_overall_and_by_day() -> None:
    observed, predicted = np.array([0.2, 0.4, 0.6, 0.8]), np.array([0.3, 0.3, 0.6, 0.8])
    days = [date(2023, 5, 2), date(2023, 5, 2), date(2023, 5, 1), date(2023, 5, 1)]
    scores = score_ndvi(observed, predicted, days)
    assert scores.r2 == pytest.approx(r2_score(observed, predicted))
    assert scores.rmse == pytest.approx(math.sqrt(0.02 / 4))
    assert list(scores.per_day) == [date(2023, 5, 1), date(2023, 5, 2)]
    assert scores.per_day[date(2023, 5, 2)].r2 == pytest.approx(0.0)
    assert scores.per_day[date(2023, 5, 1)].rmse == 0


def test_one_value_of_a_day_has_no_r2() -> None:
    assert math.isnan(score_ndvi(np.array([0.5]), np.array([0.4]), [date(2023, 5, 1)]).r2)


def test_ndvi_that_was_not_predicted_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        score_ndvi(np.array([0.5]), np.array([math.nan]), [date(2023, 5, 1)])


def test_alerts_are_explained_by_events_of_their_parcel_kind_and_past() -> None:
    events = [
        Event("a", "no_emergence", date(2023, 5, 1)),
        Event("b", "early_loss", date(2023, 6, 1)),
        Event("c", "mowing", date(2023, 6, 1)),
    ]
    alerts = [
        Raised("a", "no_emergence", date(2023, 5, 21)),
        Raised("a", "no_emergence", date(2023, 5, 11)),
        Raised("b", "early_loss", date(2023, 5, 30)),  # before it happened
        Raised("c", "early_loss", date(2023, 6, 9)),  # mowing is none of its kinds
    ]
    scores = score_alerts(events, alerts, {"no_emergence": {"no_emergence"}, "early_loss": {"early_loss", "flood"}})
    assert (scores.precision, scores.recall, scores.median_days) == (0.5, 0.5, 10.0)
    assert scores.events == 2
    assert scores.per_kind["mowing"].found == 0
    assert scores.false_alerts == {"early_loss": 2}


def test_no_alerts_have_no_precision() -> None:
    scores = score_alerts([Event("a", "flood", date(2023, 5, 1))], [], {"loss": ["flood"]})
    assert math.isnan(scores.precision)
    assert scores.recall == 0.0


def board() -> Scores:
    classes = {"forest": {date(2023, 6, 15): score_classes(pooled(LABELS, POSTERIORS, CLASSES))}}
    ndvi = {"linear": score_ndvi(np.array([0.5]), np.array([0.4]), [date(2023, 5, 1)])}
    alerts = score_alerts(
        [Event("a", "flood", date(2023, 5, 1))], [Raised("a", "loss", date(2023, 5, 9))], {"loss": ["flood"]}
    )
    return Scores("A season", "Five folds.", classes, ndvi, alerts, facts={"parcels": 5})


def test_the_json_form_has_no_numbers_that_json_lacks(tmp_path: Path) -> None:
    write_json(tmp_path / "scores.json", board())
    read = json.loads((tmp_path / "scores.json").read_text())
    assert read["classes"]["forest"]["2023-06-15"]["f1"]["oats"] is None
    assert read["ndvi"]["linear"]["per_day"]["2023-05-01"] == {"n": 1, "r2": None, "rmse": pytest.approx(0.1)}
    assert read["alerts"]["per_kind"]["flood"] == {"events": 1, "found": 1, "median_days": 8.0}


def test_the_log_grows_by_sections(tmp_path: Path) -> None:
    log = tmp_path / "docs" / "LOG.md"
    append_log(log, board().markdown())
    append_log(log, "## Another")
    text = log.read_text()
    assert text.startswith(
        "# Log of experiments\n\n## A season\n\nFive folds.\n\nparcels 5.\n\n| as known on | 2023-06-15 |"
    )
    assert "| forest: macro-F1 | 0.733 (0.667) |" in text
    assert "| linear | 1 | – | 0.100 |" in text
    assert "| flood | 1 | 1 | 1.000 | 8 |" in text
    assert text.endswith("\n\n## Another\n")


def test_people_get_the_same_figures() -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    for table in board().tables():
        console.print(table)
    assert "0.733 (0.667)" in console.export_text()
