"""Calibration of posteriors: one temperature, piecewise linear in the season's progress.

    p = softmax(logits / T(day))      day: that of the newest observation, 0 before the first

Source: Guo et al. 2017 (temperature scaling, expected calibration error); T depends on the day because a model that has
        seen little is over-confident by another factor than one that has seen the season.
Shapes: logits (M, K), day (M,), labels (M,); M parcel-dates.
Units:  days since the season's start; T without unit.
Errors: ValueError where there is nothing to fit on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from models.classifier.label_noise import as_labelled

# The temperature is kept within these: outside, the held-out set is too small to mean anything.
BOUNDS = (0.25, 8.0)
# Weight of (log T)^2 and of its squared change from knot to knot, in samples' cross entropy; chosen because one block of
# some eighty parcels may be all that is held out, and ten of them shall not bend T.
RIGIDITY = 10.0


@dataclass(frozen=True)
class Temperature:
    """T(day): linear between knots, constant outside. `Temperature()` changes nothing."""

    day: tuple[float, ...] = (0.0,)
    value: tuple[float, ...] = (1.0,)

    def at(self, day: NDArray[Any]) -> NDArray[np.float64]:
        """Return the temperature (M,) on days (M,)."""
        return np.asarray(np.interp(np.asarray(day, np.float64), self.day, self.value), np.float64)

    def probabilities(self, logits: NDArray[Any], day: NDArray[Any]) -> NDArray[np.float32]:
        """Calibrated probabilities (M, K) of logits (M, K) whose newest observations are of days (M,)."""
        scaled = np.asarray(logits, np.float64) / self.at(day)[:, None]
        power = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(power / power.sum(axis=1, keepdims=True), np.float32)

    def to_json(self) -> dict[str, Any]:
        """Return the knots as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Temperature:
        """Return the temperature from what `to_json` gave, read back from JSON."""
        return cls(tuple(plain["day"]), tuple(plain["value"]))


def fit_temperature(
    logits: NDArray[Any],
    day: NDArray[Any],
    labels: NDArray[Any],
    knots: Sequence[float],
    confusion: NDArray[np.float32] | None = None,
) -> Temperature:
    """Return the temperature that minimises the held-out cross entropy, shrunk a little to 1.

    Args:
        knots: days, ascending, at which T is free.
        confusion: (K, K) of labels of which some are wrong (models.classifier.label_noise): without it T would grow until
            the classifier is as unsure of the crop as of its label.

    Raises:
        ValueError: no sample or no knot.
    """
    if not len(labels) or not len(knots):
        raise ValueError("a temperature needs held-out samples and at least one knot")
    inside = torch.from_numpy(_interpolation(np.asarray(day, np.float64), np.asarray(knots, np.float64)))
    plain, target = torch.from_numpy(np.asarray(logits, np.float64)), torch.from_numpy(np.asarray(labels, np.int64))
    wrong = None if confusion is None else torch.from_numpy(np.asarray(confusion, np.float64))
    log_t = torch.zeros(len(knots), dtype=torch.float64, requires_grad=True)
    rigidity = RIGIDITY / len(labels)
    optimiser = torch.optim.LBFGS([log_t], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        stiff = log_t.square().mean() + log_t.diff().square().sum()
        scaled = plain / (inside @ log_t.exp())[:, None]
        loss = functional.cross_entropy(as_labelled(scaled, wrong), target) + rigidity * stiff
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    value = log_t.detach().exp().clamp(*BOUNDS)
    return Temperature(tuple(float(one) for one in knots), tuple(value.tolist()))


def _interpolation(day: NDArray[np.float64], knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the matrix (M, knots) of hat functions: its product with values at knots interpolates them at days."""
    return np.stack([np.interp(day, knots, hat) for hat in np.eye(len(knots))], axis=1)


def expected_calibration_error(probabilities: NDArray[Any], labels: NDArray[Any], bins: int = 15) -> float:
    """Return the mean gap of confidence and accuracy over equal bins of confidence, weighted by samples (15: Guo et al.)."""
    if not len(labels):
        raise ValueError("a calibration error needs samples")
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.abs(
        np.bincount(which, confidence, minlength=bins) - np.bincount(which, is_right.astype(float), minlength=bins)
    )
    return float(gap.sum() / len(labels))


def error_by_chance(
    probabilities: NDArray[Any], bins: int = 15, draws: int = 200, seed: int = 0
) -> tuple[float, float]:
    """Return the calibration error of answers that are right exactly as often as they say: mean and 95th percentile of draws.

    On few samples it is far from 0: an error means something where it is larger than this.
    """
    confidence = probabilities.max(axis=1)
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    expected, random = np.bincount(which, confidence, minlength=bins), np.random.default_rng(seed)
    gaps = [
        np.abs(np.bincount(which[random.random(len(which)) < confidence], minlength=bins) - expected).sum()
        for _ in range(draws)
    ]
    return float(np.mean(gaps) / len(which)), float(np.quantile(gaps, 0.95) / len(which))
