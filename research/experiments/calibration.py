"""Scores of posteriors as the experiments' tables hold them.

The calibration error stands beside the one that a perfectly calibrated model would show on so few parcels by chance.
Source: Guo et al. 2017 (calibration error).
Shapes: truth (P,), probabilities (P, K).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.classifier.calibration import error_by_chance
from models.classifier.scoring import iou
from research.experiments.tables import Best
from training.metrics import Pooled, score_classes

Floats = NDArray[np.float64]
MEASURES: Final[Mapping[str, Best | None]] = {
    "macro-F1": "largest",
    "accuracy": "largest",
    "mIoU": "largest",
    "ECE": "smallest",
    "ECE by chance": None,
}
"""The figures of a date, and which value of each is best."""


def measured(truth: NDArray[np.int64], probabilities: Floats) -> dict[str, float]:
    """Return the figures MEASURES of one date."""
    scores = score_classes(pool(truth, probabilities))
    miou = float(np.nanmean(iou(np.array(scores.confusion))))
    figures = scores.macro_f1, scores.accuracy, miou, scores.ece, error_by_chance(probabilities)[0]
    return dict(zip(MEASURES, figures, strict=True))


def pool(truth: NDArray[np.int64], probabilities: Floats) -> Pooled:
    """Return posteriors as `training.metrics` takes them, classes by number."""
    names = tuple(str(one) for one in range(probabilities.shape[1]))
    return Pooled(truth, probabilities, np.ones(len(truth), bool), names)
