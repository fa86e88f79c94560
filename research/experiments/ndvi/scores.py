"""How well NDVI is reconstructed: R2, RMSE and bias, overall, per date and per crop, and whether two models differ.

    R2        = 1 - sum (y - f)^2 / sum (y - mean y)^2        the mean is that of the observed values scored
    RMSE      = sqrt mean (y - f)^2
    bias      = mean (f - y)
    R2 shape  = 1 - sum (y - f + bias)^2 / sum (y - mean y)^2  what R2 would be if the date as a whole were not off

Parcels of all folds are pooled: each is answered once, by the model that did not see it.
Source: Zhao et al. 2020, Tables 3 and 4; their eq. 15 is no RMSE as printed, this one is.
Units:  NDVI.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.ndvi.inputs import Bools, Floats, Ints
from models.ndvi.published.training import r2
from research.experiments.ndvi.runs import Answer
from research.experiments.ndvi.sources import ScoredSeries
from research.experiments.ndvi.splits import Split

N_RESAMPLES = 1000
"""Of the bootstrap (chosen because its 95 % bounds then repeat to a tenth of their width)."""
AIM_R2 = 0.7
"""R2 that no date should fall below: that of the paper's weakest dates."""


class Score(NamedTuple):
    """The figures of one set of views, a row of the CSV."""

    split: str
    model: str
    parcels: str
    """arable, grass, or a crop."""
    at: str
    """season, or a date YYYY-MM-DD; of clouds with what was held back."""
    day: float
    """Of the season; NaN for the season."""
    seed: int
    n: int
    observed: float
    """Mean of the observed values."""
    r2: float
    rmse: float
    bias: float
    r2_shape: float


@dataclass(frozen=True)
class Views:
    """Clear views of held-back parcels beside what a model says of them."""

    parcel: Ints
    day: Ints
    observed: Floats
    predicted: Floats

    def of(self, keep: Bools) -> Views:
        """Return the chosen rows."""
        return Views(self.parcel[keep], self.day[keep], self.observed[keep], self.predicted[keep])

    def score(self, split: str, model: str, parcels: str, at: str, day: float, seed: int) -> Score:
        """Return the figures of all of them."""
        error = self.predicted - self.observed
        bias = float(error.mean())
        return Score(
            split,
            model,
            parcels,
            at,
            day,
            seed,
            len(error),
            float(self.observed.mean()),
            r2(self.observed, self.predicted),
            float(np.sqrt(np.mean(error**2))),
            bias,
            r2(self.observed, self.predicted - bias),
        )


def pooled(data: ScoredSeries, answers: Iterable[Answer]) -> Views:
    """Return the clear views of all answered parcels; views that no SAR is near are left out."""
    found = []
    day = np.floor(data.series.clear.day).astype(np.int64)
    for answer in answers:
        rows = np.isin(data.series.clear.parcel, answer.parcel)
        parcel, own = data.series.clear.parcel[rows], day[rows]
        found.append(Views(parcel, own, data.series.clear.ndvi[rows], answer.at(parcel, own)))
    every = joined(found)
    return every.of(np.isfinite(every.predicted))


def joined(parts: Sequence[Views]) -> Views:
    """Return all rows of several."""
    names = ("parcel", "day", "observed", "predicted")
    return Views(*(np.concatenate([getattr(one, name) for one in parts]) for name in names))


def by_date(
    data: ScoredSeries, views: Views, split: Split, model: str, parcels: str, seed: int, min_views: int
) -> list[Score]:
    """Return the figures of each date with enough views, in order."""
    days, counts = np.unique(views.day, return_counts=True)
    return [
        views.of(views.day == day).score(split, model, parcels, data.on(day).isoformat(), float(day), seed)
        for day in days[counts >= min_views]
    ]


@dataclass(frozen=True)
class Difference:
    """R2 of one model less that of another on the same views, with its 95 % interval."""

    value: float
    low: float
    high: float

    def text(self) -> str:
        """ "+0.021 [+0.008, +0.035]"."""
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def difference(a: Views, b: Views, unit: NDArray[np.int64], seed: int = 0) -> Difference:
    """Return R2 of `a` less R2 of `b`, the bounds by resampling units (parcels, or their blocks) with replacement.

    Args:
        unit: (P,) unit of every parcel: views of one stand or fall together.
    """
    if not (np.array_equal(a.parcel, b.parcel) and np.array_equal(a.day, b.day)):
        raise ValueError("two models are compared on the same views")
    number = np.unique(unit[a.parcel], return_inverse=True)[1].ravel()
    y = a.observed
    columns = (np.ones(len(y)), y, y**2, (y - a.predicted) ** 2, (y - b.predicted) ** 2)
    sums = np.stack([np.bincount(number, weights=one) for one in columns], axis=1)  # (U, 5)
    n_units = len(sums)
    weights = np.random.default_rng(seed).multinomial(n_units, np.full(n_units, 1 / n_units), N_RESAMPLES)
    low, high = np.nanpercentile(_gain(weights.astype(np.float64) @ sums), [2.5, 97.5])
    return Difference(float(_gain(sums.sum(axis=0))), float(low), float(high))


def _gain(sums: Floats) -> Floats:
    n, y, y2, a, b = np.moveaxis(sums, -1, 0)
    spread = y2 - y**2 / n
    return np.asarray((b - a) / np.where(spread > 0, spread, np.nan))


def over_seeds(scores: Sequence[Score], metric: str) -> dict[tuple[str, str, str, str], tuple[float, float]]:
    """Return mean and standard deviation (NaN for one seed) of a figure by (split, parcels, at, model)."""
    values: dict[tuple[str, str, str, str], list[float]] = {}
    for one in scores:
        values.setdefault((one.split, one.parcels, one.at, one.model), []).append(getattr(one, metric))
    return {key: _mean_sd(own) for key, own in values.items()}


def below(scores: Sequence[Score], aim: float = AIM_R2) -> list[Score]:
    """Return the dates whose R2 is under the aim."""
    return [one for one in scores if one.r2 < aim]


def _mean_sd(own: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(own)), float(np.std(own, ddof=1)) if len(own) > 1 else float("nan")
