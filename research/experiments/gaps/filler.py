"""What fills gaps in NDVI, as the harness sees it: learn from training parcels, then answer queries on others.

A query is a parcel and a day with the clear views that may be used for it. The harness takes out what is hidden, and in
causal mode all views after the day; SAR is shared by all queries, and what of it a causal answer may use (nothing after
the query's day) is the filler's own duty. A test perturbs the future to see that it is kept.
Shapes: Q queries; M views of a query, sorted by day, NaN after the last; SAR packed by parcel.
Units:  whole days since the season's start; NDVI dimensionless.
Errors: a filler answers every query with finite numbers: without any view and any SAR, with what the season says.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from models.ndvi.inputs import Bools, ClearSeries, Floats, Ints, SarSeries
from models.ndvi.views import Mode

__all__ = ["MODES", "Filler", "Mode", "Views"]

MODES: tuple[Mode, ...] = ("retrospective", "causal")


@dataclass(frozen=True)
class Views:
    """The clear views that each query may use."""

    day: Floats
    """(Q, M) whole days, ascending, NaN after the last."""
    ndvi: Floats
    """(Q, M)"""

    def rows(self, keep: Bools | Ints | slice) -> "Views":
        """Return the views of the chosen queries."""
        return Views(self.day[keep], self.ndvi[keep])

    def nearest_days(self, day: Ints) -> Floats:
        """Return days from each query to its nearest view (Q,), infinite where it has none."""
        away = np.abs(self.day - day[:, None])
        return np.asarray(np.where(np.isnan(away), np.inf, away).min(axis=1, initial=np.inf))


class Filler(Protocol):
    """A method that fills gaps. One object is fitted once and then answers queries of other parcels, any number of times."""

    name: str

    def fit(self, sar: SarSeries, clear: ClearSeries, n_parcels: int, seed: int) -> None:
        """Learn from the rows of the training parcels, cleaned.

        Parcels are numbered 0..n_parcels-1 along the map, those of one block side by side: contiguous ranges of numbers
        (`numpy.array_split`) are inner folds blocked in space.
        """

    def fill(self, sar: SarSeries, views: Views, parcel: Ints, day: Ints, mode: Mode) -> tuple[Floats, Floats]:
        """Return NDVI and its standard deviation, (Q,) each, of queries (parcel, day) on parcels that `fit` did not see.

        Args:
            sar: cleaned backscatter of all parcels asked for, the whole season.
            views: what clear views each query may use.
            parcel: (Q,) parcel of `sar`; numbers have nothing to do with those of `fit`.
            day: (Q,)
            mode: causal answers use nothing after their day.
        """
