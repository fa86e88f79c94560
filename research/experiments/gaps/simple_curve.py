"""The product's simple curve behind the interface."""

import numpy as np

from models.ndvi.inputs import ClearSeries, Floats, Ints, SarSeries
from models.ndvi.queries import Series
from models.ndvi.whittaker import Whittaker
from research.experiments.gaps.filler import Mode, Views


class SimpleCurve:
    """`models.ndvi.whittaker` with its constants: it learns nothing."""

    name = "simple"

    def fit(self, sar: SarSeries, clear: ClearSeries, n_parcels: int, seed: int) -> None:
        """Learn nothing."""

    def fill(
        self,
        sar: SarSeries,  # noqa: ARG002
        views: Views,
        parcel: Ints,
        day: Ints,
        mode: Mode,  # noqa: ARG002
    ) -> tuple[Floats, Floats]:
        """Return the curve's value and standard deviation of queries."""
        value, sd, _ = Whittaker().fill(Series(parcel, views.day, views.ndvi), np.arange(len(day)), day)
        return value, sd
