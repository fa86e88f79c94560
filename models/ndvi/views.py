"""Clear views as a whole: the season of all fields, and how far one view may be off.

Source: kernel regression; sd of one view as in docs/LOG.md.
Shapes: knots of the season; packed views (R,).
Units:  days since the season's start; NDVI dimensionless.
Errors: none.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from models.ndvi.inputs import ClearSeries, Floats

Mode = Literal["causal", "retrospective"]
MODES: tuple[Mode, ...] = ("causal", "retrospective")
"""The information a day's value rests on: views and radar up to the day, or all that was known when it was reconstructed."""

VIEW_SD_RANGE = (0.01, 0.05)
"""Where the sd of one clear view's NDVI lies for a parcel mean (chosen around S2 inter-calibration of 0.02)."""


@dataclass(frozen=True)
class Prior:
    """Mean and sd of NDVI over all fields of the training season by day: what is known of a field never seen."""

    day: Floats
    mean: Floats
    sd: Floats

    @classmethod
    def fit(cls, clear: ClearSeries) -> "Prior":
        """Kernel means (sd 10 days) every 10 days; 0.5 +- 0.3, any land at any time, where there is no view."""
        if len(clear.day) == 0:
            return cls(np.zeros(1), np.full(1, 0.5), np.full(1, 0.3))
        knots = np.arange(clear.day.min(), clear.day.max() + 10, 10.0)
        total, mean, square = (np.zeros(len(knots)) for _ in range(3))
        for k, knot in enumerate(knots):
            w = np.exp(-0.5 * ((knot - clear.day) / 10.0) ** 2) + 1e-9  # 1e-9: the season's mean far from all views
            total[k], mean[k], square[k] = w.sum(), w @ clear.ndvi, w @ clear.ndvi**2
        mean = mean / total
        return cls(knots, mean, np.sqrt(np.maximum(square / total - mean**2, 0.1**2)))  # never narrower than 0.1

    def at(self, day: Floats) -> Floats:
        """Return the mean on days."""
        return np.interp(day, self.day, self.mean)

    def sd_at(self, day: Floats) -> Floats:
        """Return the sd on days."""
        return np.interp(day, self.day, self.sd)


def sd_of_views(clear: ClearSeries) -> float:
    """Sd of one view, from views of a field at most 3 days apart; cleaned rows, robust against dips."""
    is_pair = (np.diff(clear.parcel) == 0) & (np.diff(clear.day) <= 3)
    change = np.abs(np.diff(clear.ndvi)[is_pair])
    if len(change) == 0:
        return VIEW_SD_RANGE[1]
    # 1.4826: sd of a normal from its median absolute deviation; sqrt 2: two views differ.
    return float(np.clip(1.4826 * np.median(change) / np.sqrt(2), *VIEW_SD_RANGE))
