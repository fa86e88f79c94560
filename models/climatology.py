"""The mean signal of fields on a day of the season, learnt once and then frozen, so that departures from it stream.

    mean(g) = sum_d k(g - d) total_d / sum_d k(g - d) n_d        k Gaussian, g every 5 days, d days of training observations

Source: kernel regression, Nadaraya 1964, Watson 1964. Chosen because: a departure from the mean of the same acquisition
        separates crops as well, but needs all of its parcels at hand when one is observed; a frozen mean needs the day only.
Shapes: rows (M, C), days (M,) to means (G, C); C channels, G knots.
Units:  as observed; days since the season's start.
Errors: none: a knot far from any day takes the nearest days' mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STEP_D = 5.0
"""From knot to knot; chosen because the mean moves little in half of it, so that the nearest knot does."""
KERNEL_D = 8.0
"""Standard deviation of the kernel; chosen because it spans three passes of either sensor; no other width was tried."""
LEAST_SD = 1e-6
"""Below this spread a channel does not depart and only its mean is taken off."""


@dataclass(frozen=True)
class DaySums:
    """Counts, sums and sums of squares of each day, float64: what a climatology is merged from over chunks."""

    count: NDArray[np.float64]
    """(D,) of days 0 to D - 1; earlier observations count as day 0."""
    total: NDArray[np.float64]
    """(D, C)"""
    squares: NDArray[np.float64]
    """(D, C)"""

    @classmethod
    def of(cls, rows: NDArray[Any], day: NDArray[Any], last: float) -> Self:
        """Return the sums of rows (M, C) on days (M,), none later than `last`."""
        days, which = max(int(last), 0) + 1, np.maximum(day, 0).astype(np.int64)

        def summed(values: NDArray[Any]) -> NDArray[np.float64]:
            return np.stack([np.bincount(which, one, days) for one in values.T.astype(np.float64)], axis=1)

        return cls(
            np.bincount(which, minlength=days).astype(np.float64), summed(rows), summed(np.square(rows, dtype=float))
        )

    def __add__(self, other: DaySums) -> DaySums:
        """Both together."""
        return DaySums(self.count + other.count, self.total + other.total, self.squares + other.squares)


@dataclass(frozen=True)
class Climatology:
    """The mean of channels through the season, and the standard deviation of departures from it."""

    mean: tuple[tuple[float, ...], ...]
    """(G, C), at days 0, STEP_D, 2 STEP_D, ..."""
    sd: tuple[float, ...]
    """(C,)"""

    @classmethod
    def of(cls, sums: DaySums) -> Self:
        """Return the climatology of what was observed, on one day at least."""
        observed = np.flatnonzero(sums.count)
        count, total, squares = sums.count[observed, None], sums.total[observed], sums.squares[observed]
        knots = np.arange(int(np.ceil((len(sums.count) - 1) / STEP_D)) + 1) * STEP_D
        # The middle of each day, where its observations are on average.
        away = np.square((knots[:, None] - observed - 0.5) / KERNEL_D)
        # Beside the nearest day's weight: far from every day all weights would underflow.
        weight = np.exp(-0.5 * (away - away.min(axis=1, keepdims=True)))
        mean = (weight @ total) / (weight @ count)
        of_day = mean[nearest_knot(torch.from_numpy(observed + 0.5), len(knots)).numpy()]
        left = (squares - 2 * of_day * total + count * of_day**2).sum(0) / count.sum()
        sd = np.sqrt(np.maximum(left, 0.0))
        return cls(tuple(map(tuple, mean.tolist())), tuple(np.where(sd > LEAST_SD, sd, 1.0).tolist()))

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """Return the climatology from what `dataclasses.asdict` gave, read back from JSON."""
        return cls(tuple(map(tuple, plain["mean"])), tuple(plain["sd"]))


def nearest_knot(day: Tensor, knots: int) -> Tensor:
    """Return the knot (N,) of 0..knots - 1 that is nearest to each day (N,), the first or last one beyond them."""
    return (day / STEP_D).round().long().clamp(0, knots - 1)
