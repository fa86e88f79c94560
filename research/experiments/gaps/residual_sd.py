"""A standard deviation for methods that have none of their own: residual quantiles by distance to the nearest view.

    sd(d) = q_0.95 { |y_i - m_i| : d_i about d } / 1.96        linear between the middles of the classes of d

Source: split conformal prediction with locally weighted classes (Lei et al. 2018); 1.96 sd then hold 95 %.
Units:  days; NDVI dimensionless.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from models.ndvi.inputs import Floats

EDGES_DAYS = (0.0, 4.0, 8.0, 13.0, 20.0, 28.0, 38.0, 60.0, np.inf)
"""Classes of the distance to the nearest view (chosen so that each gap's half lies inside a class of its own)."""
MIN_RESIDUALS = 60
"""Residuals a class needs (three of them then lie beyond the quantile)."""
Z_95 = 1.96


@dataclass(frozen=True)
class ResidualSd:
    """Standard deviation by distance to the nearest view."""

    days: Floats
    """(K,) middle of each class."""
    sd: Floats
    """(K,)"""

    @classmethod
    def fit(cls, nearest_days: Floats, residual: Floats) -> "ResidualSd":
        """Learn from residuals (Q,) of hidden views that the method did not learn from; queries without any view go last."""
        nearest = np.minimum(nearest_days, 1e3)
        days, sd = [], []
        for low, high in pairwise(EDGES_DAYS):
            inside = (nearest >= low) & (nearest < high)
            if inside.sum() >= MIN_RESIDUALS:
                days.append(float(np.median(nearest[inside])))
                sd.append(float(np.quantile(np.abs(residual[inside]), 0.95)) / Z_95)
        if not days:  # too few for classes: one for all
            return cls(np.zeros(1), np.full(1, max(float(np.quantile(np.abs(residual), 0.95)) / Z_95, 1e-3)))
        return cls(np.array(days), np.maximum(np.array(sd), 1e-3))

    def at(self, nearest_days: Floats) -> Floats:
        """Return the standard deviation (Q,) at distances (Q,)."""
        return np.interp(np.minimum(nearest_days, 1e3), self.days, self.sd)
