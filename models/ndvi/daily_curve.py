"""The gap-free daily NDVI of parcels: clear views, and between them what radar and the views around say.

    value(t) = v_i                       on a day with a clear view that is no dip     origin "observed"
             = gap filler(t)             else (models.ndvi.gap_filler)                       origin "reconstructed"
             = prior(t)                  without radar around and without any view     origin "prior"

A curve is reconstructed as known on a day. The row of that day is causal: nothing after it informed it. Earlier rows are
retrospective, and revised when new observations inform them. A residual cloud dip is a view far below both neighbours and
below what the gap filler predicts without it, with recovery within weeks; it is not followed. Until the recovery is seen it
cannot be distinguished from a harvest: the rows since follow it with a standard deviation that covers both readings.
Source: decisions 4 and 9; dips, Chen et al. 2004 (a sudden fall of NDVI that recovers is cloud).
Shapes: P parcels; R = sum over parcels of known_day - first_day + 1 rows.
Units:  days since the season's start (whole days); NDVI dimensionless.
Errors: none for bad series (NaN, infinite, duplicates, disorder, nothing at all): the prior with its wide sd answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from models.ndvi.cached_state import CachedState
from models.ndvi.gap_filler import GapModel
from models.ndvi.inputs import NEVER, Bools, ClearSeries, Floats, Ints, SarSeries
from models.ndvi.queries import STEP_DAYS, GapQueries, Series, Steps
from models.ndvi.state_updates import advance, holding
from models.ndvi.views import MODES, Mode

_Rows = TypeVar("_Rows", SarSeries, ClearSeries)

Origin = Literal["observed", "reconstructed", "prior"]
ORIGINS: tuple[Origin, ...] = ("observed", "reconstructed", "prior")
OBSERVED, RECONSTRUCTED, PRIOR = range(3)
Z_95 = 1.96
"""So many sd hold 95 % of a normal."""

SAR_REACH_DAYS = 18
"""SAR farther from a day than this says nothing of it (chosen as 1.5 repeats of one satellite)."""
VIEW_REACH_DAYS = 120
"""Views farther from a day than this say nothing of it (chosen as six ranges of the kriging)."""
DIP_DEPTH = 0.12
"""NDVI a dip lies below both neighbours (the drop that Sen4CAP takes for a mowing)."""
DIP_BELOW_FILLED = 0.10
"""NDVI a dip lies below what is predicted without it: one error of a good reconstruction."""
DIP_RECOVERY_DAYS = 25
"""Days between a dip's neighbours at most: regrowth after a cut takes longer (Sen4CAP: at most 30)."""
DOUBT_DAYS = 20.0
"""Days over which the doubt about a fall that nothing has confirmed fades: the range of the kriging."""
SETTLED_DAYS = 6
"""A kept state lies so far behind the newest day at least: most passes that come out of order come within a step."""
BEHIND_DAYS = 60
"""... and at most: in a winter without views a pass costs ten steps, and the view that ends it one reading of the season."""


@dataclass(frozen=True)
class CurveRows:
    """Rows of daily curves, ordered by parcel and day."""

    parcel: Ints
    """(R,)"""
    day: Ints
    """(R,)"""
    ndvi: Floats
    """(R,) finite everywhere; a row of origin "prior" says nothing of the parcel itself."""
    sd: Floats
    """(R,) predictive standard deviation of a clear view on the day."""
    origin: NDArray[np.int8]
    """(R,) index into `ORIGINS`."""
    is_causal: Bools
    """(R,) whether nothing after the day informed the row."""
    cached: Mapping[Mode, CachedState]
    """The states of the parcels as the next curve may go on from; nothing where none were given."""


def reconstruct_curve(
    model: GapModel,
    sar: SarSeries,
    clear: ClearSeries,
    first_day: Ints,
    known_day: Ints,
    cached: Mapping[Mode, CachedState] | None = None,
) -> CurveRows:
    """Return the rows from `first_day` to `known_day` of each parcel, as known on `known_day`.

    Args:
        model: of `fit_gaps`.
        sar: backscatter of the season and of the time before it; rows after the known day are not read.
        clear: clear NDVI of the season; rows after the known day are not read.
        first_day: (P,) whole days; a parcel whose first day is after its known day has no row.
        known_day: (P,) whole days.
        cached: states of the parcels of both modes, from `begin` or an earlier curve: what they hold is not read again.
    """
    steps = model.steps(_known(sar, known_day), len(known_day))
    series = _without_dips(model, steps, known_series(clear, known_day), known_day)
    parcel, days = days_of(first_day, known_day)
    is_causal = days == known_day[parcel]
    queries = GapQueries.at(series, parcel, days)
    value, sd, nearest = np.zeros(len(days)), np.zeros(len(days)), np.zeros(len(days))
    kept: dict[Mode, CachedState] = {}
    for mode in MODES:
        first = known_day if mode == "causal" else first_day
        if cached is not None:
            held = holding(cached[mode], steps, series, known_day)
            # Not beyond the first day asked for: of that a later state knows nothing.
            until = np.minimum(_kept_until(mode, series, known_day), first)
            kept[mode] = advance(model, mode, held, steps, series, until)
        rows = np.flatnonzero(is_causal == (mode == "causal"))
        filled = _filled(model, steps, series, queries.rows(rows), mode, known_day, kept.get(mode), first)
        value[rows], sd[rows], nearest[rows] = filled
    ahead = np.minimum(days + SAR_REACH_DAYS - 1, known_day[parcel])
    has_sar = steps.is_near(parcel, days - SAR_REACH_DAYS + 1, ahead)
    is_prior = ~has_sar & (nearest > VIEW_REACH_DAYS)
    sd = np.hypot(sd, _doubt(model, steps, series, queries, known_day, kept.get("causal")) / Z_95)
    day_of_season = days.astype(np.float64)
    value = np.where(is_prior, model.prior.at(day_of_season), value)
    sd = np.where(is_prior, model.prior.sd_at(day_of_season), sd)
    return CurveRows(parcel, days, value, sd, origins(is_prior, nearest), is_causal, kept)


def known_series(clear: ClearSeries, known_day: Ints) -> Series:
    """Return the views of parcels known on a day of each (P,), on whole days, bad ones left out."""
    day, ndvi = _known(clear, known_day).padded(len(known_day))
    return Series(np.arange(len(known_day)), np.floor(day), ndvi)


def _known(rows: _Rows, known_day: Ints) -> _Rows:
    """Return the rows known on a day of each parcel (P,), bad ones left out."""
    cleaned = rows.cleaned()
    known = np.append(known_day, -NEVER)  # of a parcel that is not asked for nothing is known
    return cleaned.rows(np.floor(cleaned.day) <= known[np.minimum(cleaned.parcel, len(known_day))])


def days_of(first_day: Ints, known_day: Ints) -> tuple[Ints, Ints]:
    """Return parcel and day (R,) of the rows from the first day (P,) to the last (P,) of each parcel."""
    n_rows = np.maximum(known_day - first_day + 1, 0)
    parcel = np.repeat(np.arange(len(known_day)), n_rows)
    return parcel, np.arange(len(parcel)) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows) + first_day[parcel]


def origins(is_prior: Bools, nearest: Floats) -> NDArray[np.int8]:
    """Return the origin of rows (R,), given the days to the nearest view."""
    return np.where(is_prior, PRIOR, np.where(nearest == 0, OBSERVED, RECONSTRUCTED)).astype(np.int8)


# Eight parameters: those of `GapModel.fill`, and the day that a state must not lie beyond.
def _filled(
    model: GapModel,
    steps: Steps,
    series: Series,
    queries: GapQueries,
    mode: Mode,
    known_day: Ints,
    cached: CachedState | None,
    first: Ints,
) -> tuple[Floats, Floats, Floats]:
    """NDVI, sd and nearest view of queries, of the parcels whose state lies before their first query (P,) from it."""
    value, sd, nearest = (np.zeros(len(queries.day)) for _ in range(3))
    is_cached = np.zeros(len(first), bool) if cached is None else cached.day <= first
    for state, some in ((cached, is_cached[queries.series]), (None, ~is_cached[queries.series])):
        filled = model.fill(steps, series, queries.rows(some), mode, known_day, state)
        value[some], sd[some], nearest[some] = filled.ndvi, filled.sd, filled.nearest
    return value, sd, nearest


def _without_dips(model: GapModel, steps: Steps, series: Series, known_day: Ints) -> Series:
    """Return the series less the views that are residual cloud."""
    day, ndvi = series.day, series.ndvi
    row, column = np.nonzero(suspects(series))
    if len(row) == 0:
        return series
    # Each is compared with the weeks around it alone: the same work in any season, and later observations do not change the result.
    on, networks = day[row, column].astype(np.int64), model.members["retrospective"]
    until = on + DIP_RECOVERY_DAYS
    around = Series(row, np.where(day[row] <= until[:, None], day[row], np.nan), ndvi[row])
    unread = replace(CachedState.nothing(networks, len(row)), day=on - STEP_DAYS * networks[0].config.steps_back)
    queries = GapQueries(np.arange(len(row)), on, column, column + 1)
    predicted = model.fill(steps, around, queries, "retrospective", np.minimum(until, known_day[row]), unread).ndvi
    is_dip = np.zeros(day.shape, dtype=bool)
    is_dip[row, column] = ndvi[row, column] < predicted - DIP_BELOW_FILLED
    return without(series, is_dip)


def suspects(series: Series) -> Bools:
    """Return (S, M) which views lie far below both neighbours, with recovery within weeks."""
    day, ndvi = series.day, series.ndvi
    suspect = np.zeros(day.shape, dtype=bool)
    before, at, after = slice(None, -2), slice(1, -1), slice(2, None)
    if day.shape[1] >= 3:
        suspect[:, at] = (day[:, after] - day[:, before] <= DIP_RECOVERY_DAYS) & (
            ndvi[:, at] < np.minimum(ndvi[:, before], ndvi[:, after]) - DIP_DEPTH
        )  # NaN compares false
    return suspect


def without(series: Series, is_out: Bools) -> Series:
    """Return the series less some views (S, M)."""
    if not is_out.any():
        return series
    kept = np.where(is_out, np.nan, series.day)
    order = np.argsort(np.nan_to_num(kept, nan=np.inf), axis=1, kind="stable")
    return replace(
        series,
        day=np.take_along_axis(kept, order, axis=1),
        ndvi=np.take_along_axis(np.where(is_out, np.nan, series.ndvi), order, axis=1),
    )


def _kept_until(mode: Mode, series: Series, known_day: Ints) -> Ints:
    """Return (P,) the day to which a state is kept: before all that the next observation in order may ask for.

    That redraws the curve from the second newest view on; what is causal begins on the newest day, or before a fall (`_doubt`).
    """
    n = series.n_views
    behind = np.where(fell(series), 1, 0) if mode == "causal" else np.minimum(n, 2)
    view = np.take_along_axis(series.day, np.maximum(n - behind, 0)[:, None] % series.day.shape[1], axis=1)[:, 0]
    before = np.where(behind > 0, np.nan_to_num(view) - 1, NEVER).astype(np.int64)
    return np.clip(before, known_day - BEHIND_DAYS, known_day - SETTLED_DAYS)


def fell(series: Series) -> Bools:
    """Return (S,) whether the newest view lies so far below the one before that it may be a dip."""
    row, last = np.arange(len(series.parcel)), np.maximum(series.n_views - 1, 1) % series.day.shape[1]
    return np.asarray(series.ndvi[row, last - 1] - series.ndvi[row, last] > DIP_DEPTH)  # NaN compares false


def _doubt(
    model: GapModel, steps: Steps, series: Series, queries: GapQueries, known_day: Ints, cached: CachedState | None
) -> Floats:
    """Return (Q,) how far the newest view fell below what was predicted before it, where no later view has confirmed it; else 0."""
    n = series.n_views
    row = np.flatnonzero(fell(series))
    last = n[row] - 1
    drop, since = np.zeros(len(n)), np.zeros(len(n), np.int64)
    since[row] = series.day[row, last]
    asked = GapQueries(row, since[row], last, np.full(len(row), series.day.shape[1]))
    # since - 1: a state that has read this view cannot say what was expected before it.
    predicted, *_ = _filled(model, steps, series, asked, "causal", known_day, cached, since - 1)
    drop[row] = predicted - series.ndvi[row, last]
    return fading(drop[queries.series], queries.day - since[queries.series])


def fading(below: Floats, age: Ints | Floats) -> Floats:
    """Return (R,) the doubt about a fall that was so far below what was expected and is so many days old."""
    is_doubt = (below > DIP_BELOW_FILLED) & (age >= 0)
    return np.where(is_doubt, below * np.exp(-np.maximum(age, 0) / DOUBT_DAYS), 0.0)
