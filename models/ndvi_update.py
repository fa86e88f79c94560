"""The rows of a daily NDVI curve that new acquisitions inform, from one window of the network for each parcel.

    window ending on known_day   ->  f on the days first_day..known_day and on the clear views' days
    row of known_day             =   causal correction      (it knows nothing later)
    rows before it               =   retrospective correction with the views on both sides

A fixed-lag smoother: each acquisition costs one window (31 steps), whatever the length of the season, where averaging
windows over each day would cost a dozen.
Source: windows and corrections as in models.ndvi_curve; the fixed lag as in Rauch, Tung and Striebel's smoothers.
Shapes: P parcels; R = sum over parcels of known_day - first_day + 1 rows.
Units:  days since the season's start; NDVI dimensionless.
Errors: none for bad series; rows of which nothing is known have origin "prior".
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.ndvi_correction import Queries
from models.ndvi_curve import NdviModel, answer
from models.ndvi_inputs import Bools, ClearSeries, Floats, Ints, SarSeries
from models.ndvi_views import build_queries


@dataclass(frozen=True)
class CurveRows:
    """Rows of daily curves, ordered by parcel and day."""

    parcel: Ints
    """(R,)"""
    day: Ints
    """(R,)"""
    ndvi: Floats
    sd: Floats
    origin: NDArray[np.int8]
    """(R,) index into models.ndvi_curve.ORIGINS."""
    is_causal: Bools
    """(R,) whether nothing after the day informed the row."""


def update_curve(model: NdviModel, sar: SarSeries, clear: ClearSeries, first_day: Ints, known_day: Ints) -> CurveRows:
    """The rows from `first_day` to `known_day` of each parcel, as known on `known_day`.

    Args:
        model: of `fit_curve`.
        sar: backscatter of the 186 days to known_day; later rows are not looked at.
        clear: clear NDVI of the 331 days to known_day; later rows are not looked at.
        first_day: (P,) whole days; a parcel whose first day is after its known day has no row.
        known_day: (P,) whole days.
    """
    n_parcels = len(known_day)
    sar, clear = sar.cleaned(), clear.cleaned()
    sar = sar.rows(np.floor(sar.day) <= known_day[sar.parcel])
    clear = clear.rows(np.floor(clear.day) <= known_day[clear.parcel])
    daily, views = model.sar_to_ndvi.daily(sar, n_parcels), clear.padded(n_parcels)
    n_rows = np.maximum(known_day - first_day + 1, 0)
    parcel = np.repeat(np.arange(n_parcels), n_rows)
    day = np.arange(len(parcel)) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows) + first_day[parcel]
    queries = build_queries(model.sar_to_ndvi, model.prior, daily, views, parcel, day, end=known_day[parcel])
    is_causal = day == known_day[parcel]
    rows = CurveRows(parcel, day, np.zeros(len(day)), np.zeros(len(day)), np.zeros(len(day), np.int8), is_causal)
    for which, mode in ((is_causal, "causal"), (~is_causal, "retrospective")):
        if not which.any():
            continue
        part = answer(model, Queries(*(part[which] for part in vars(queries).values())), mode)  # type: ignore[arg-type]
        rows.ndvi[which], rows.sd[which], rows.origin[which] = part["ndvi"], part["sd"], part["origin"]
    return rows
