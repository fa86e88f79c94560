"""Our own gap filler behind the interface."""

import numpy as np

from models.ndvi.inputs import ClearSeries, Floats, Ints, SarSeries
from models.ndvi.queries import GapQueries, Series
from models.ndvi.training import PARTS, GapTrainingConfig, fit_gaps
from research.experiments.gaps.boosting import inner_fold
from research.experiments.gaps.filler import Mode, Views


class Ours:
    """`models.ndvi.training` with its defaults, or other choices."""

    name = "ours"

    def __init__(self, config: GapTrainingConfig | None = None) -> None:
        self.config = config

    def fit(self, sar: SarSeries, clear: ClearSeries, n_parcels: int, seed: int) -> None:
        """Members that leave out contiguous fifths of the parcels."""
        config = self.config or GapTrainingConfig(seed=seed)
        self.model, _ = fit_gaps(sar, clear, inner_fold(n_parcels, PARTS), config)

    def fill(self, sar: SarSeries, views: Views, parcel: Ints, day: Ints, mode: Mode) -> tuple[Floats, Floats]:
        """Return the curve's value and standard deviation of queries, as on a day without a view of its own."""
        steps = self.model.steps(sar, int(max(sar.parcel.max(initial=0), parcel.max(initial=0))) + 1)
        series = Series(parcel, views.day, views.ndvi)  # a series for each query: each has a gap of its own
        queries = GapQueries.at(series, np.arange(len(day)), day)
        known = np.maximum(day, steps.last_day) if mode == "retrospective" else day
        filled = self.model.fill(steps, series, queries, mode, known)
        return filled.ndvi, filled.sd
