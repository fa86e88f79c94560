"""Daily NDVI of parcels: which days new observations inform, and their rows.

    row of day d = what is said of d with everything observed up to the day c(d) that last informs it:
        c(d) = the second clear view on or after d      (two, because it may show that the first was a residual cloud dip)
             = the first, where there is no second      (neither more than REACH_D days later: a view says nothing so far back)
             = the first observation on or after d      where there is no clear view

    a radar pass, in order         the days since the last row
    a clear view, in order         also the days back to the two clear views before it, as revisions
    late, revised or withdrawn     the days from two clear views before it, each with its own c(d)

So the newest row of each day is a function of what is known, however the observations came and whenever a worker polled.
Nothing else is rewritten, and what the networks have read before these days is stored with them (models.ndvi.state_updates): the
work for an acquisition does not grow with the season. A stored state is a cache: one that is missing, of another model or
no longer what is known is made anew, and the rows are the same. Where no NDVI model is active the rows are those of the simple
smoother (models/ndvi/whittaker.py), which reads the views around the days asked for and keeps no state.

Reads the batch's observations and gap filler, stored states and curves. Adds `curve`, the days that changed, and `curves` with them; these
days are stored by `save`, see db/predictions.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from db import predictions
from db.predictions import DailyCurves, NdviRows
from db.states import States, of_numbers
from models.ndvi import curve_models
from models.ndvi.cached_state import CachedState, from_array, size_of, to_array
from models.ndvi.daily_curve import ORIGINS
from models.ndvi.gap_filler import GapModel
from models.ndvi.inputs import ClearSeries, SarSeries
from models.ndvi.state_updates import begin
from models.ndvi.views import MODES, Mode
from monitor import season_curves
from monitor.batch import BatchContext
from monitor.features import season_days

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Packed = TypeVar("Packed", SarSeries, ClearSeries)

SEQUENCE: Final[Mapping[Mode, str]] = {mode: f"ndvi {mode}" for mode in MODES}
"""Under which the networks' states are stored, beside those of the classifier's modalities."""
REACH_D: Final = 120
"""A clear view informs no day further back: the reach of a view in the curve's own model."""
VIEWS_BACK: Final = 2
NOTHING: Final = 10**6
"""A first day after every season: nothing to reconstruct."""
SAME: Final = 2e-6
"""NDVI values that differ by less are the same: the order of float32 sums changes them by 1e-7."""


def reconstruct(batch: BatchContext) -> None:
    """Find the days of the curves that new observations inform and that are not stored like that.

    Adds the networks' states, which are a cache, to those that are to be stored, and leaves the days to `save`.
    """
    connection, claim, season = batch.connection, batch.claim, batch.season
    keys, model = claim.parcel_keys, batch.curve_model.model
    sar, clear = batch.series.sar(), batch.series.clear()
    observed = _observed(batch)
    is_asked = (observed.oldest_new < NOTHING) | claim.is_due("ndvi")
    last_day = int(observed.all.day.max(initial=0))
    batch.curves = curves = season_curves.stored(connection, season, keys[is_asked], batch.states, last_day)
    first = _first_informed(batch, observed, curves)
    before = _cached_states(batch, model) if isinstance(model, GapModel) else {}
    cached, parts = before, [_NO_ROWS]
    for step in _steps(first, observed):
        some_sar, some_clear = _of(sar, step.parcel, len(keys)), _of(clear, step.parcel, len(keys))
        states = {mode: one.rows(step.parcel) for mode, one in cached.items()}
        rows = curve_models.reconstruct(model, some_sar, some_clear, step.begin, step.known, states)
        cached = {mode: one.put(step.parcel, rows.cached[mode]) for mode, one in cached.items()}  # a smoother has none
        # Rows of which nothing is known but the season are no statement about the parcel: they are not stored.
        kept = np.flatnonzero((rows.origin != ORIGINS.index("prior")) & (rows.day <= step.end[rows.parcel]))
        day, is_observed = rows.day[kept], rows.origin[kept] == ORIGINS.index("observed")
        parts.append(
            NdviRows(
                keys[step.parcel[rows.parcel[kept]]],
                np.datetime64(season.starts_on) + day,
                rows.is_causal[kept],
                is_observed,
                rows.ndvi[kept],
                rows.sd[kept],
            )
        )
    if len(parts) > 1:
        batch.new_states += _new_states(batch, batch.curve_model.key, before, cached)
    # A row is stored again only if its value differs: an unchanged day keeps the time at which it first became known.
    informed = NdviRows.joined(parts)
    batch.curve = informed.where(_is_changed(informed, curves.rows(informed)))
    curves.put(batch.curve)
    batch.new_states.append(season_curves.carried(curves, np.unique(batch.curve.parcel_key)))


def save(batch: BatchContext) -> None:
    """Store the days of the curves that changed."""
    if batch.curve is None or batch.curves is None or batch.recorded_at is None:
        return
    predictions.save_ndvi(batch.connection, batch.curve, batch.curves, batch.curve_model.key, batch.recorded_at)


_NO_ROWS: Final = NdviRows(
    np.empty(0, np.int64), np.empty(0, "M8[D]"), np.empty(0, bool), np.empty(0, bool), np.empty(0), np.empty(0)
)


def _of(series: Packed, parcels: Ints, n_parcels: int) -> Packed:
    """Return the rows of some parcels, whose indices become places in `parcels`."""
    place = np.full(n_parcels, -1)
    place[parcels] = np.arange(len(parcels))
    some = series.rows(place[series.parcel] >= 0)
    return replace(some, parcel=place[some.parcel])


def _is_changed(rows: NdviRows, stored: NdviRows) -> Bools:
    """Return (R,) whether rows are not stored with the same values."""
    is_same = (stored.is_causal == rows.is_causal) & (stored.is_observed == rows.is_observed)
    is_same &= (abs(stored.ndvi - rows.ndvi) <= SAME) & (abs(stored.ndvi_sd - rows.ndvi_sd) <= SAME)
    return np.asarray(~is_same)


def _cached_states(batch: BatchContext, model: GapModel) -> dict[Mode, CachedState]:
    """Return the cached states, empty where none is stored."""
    keys, cached = batch.claim.parcel_keys, {}
    for mode in MODES:
        cached[mode] = begin(model, mode, len(keys))
        if (stored := batch.states.get((batch.curve_model.key, SEQUENCE[mode]))) is not None:
            key, numbers = stored.of_size(size_of(cached[mode]))
            cached[mode] = from_array(numbers, np.searchsorted(keys, key), cached[mode])
    return cached


def _new_states(
    batch: BatchContext, model_key: int, before: Mapping[Mode, CachedState], after: Mapping[Mode, CachedState]
) -> list[States]:
    """Return the states that have read something, of parcels that anything is known of."""
    midnight, keys, series = np.datetime64(batch.season.starts_on, "us"), batch.claim.parcel_keys, batch.series
    rows: list[States] = []
    for mode, one in after.items():
        old, n_read = before[mode], np.zeros(len(one.day), np.int64)
        for parcel, day in ((series.pass_parcel, series.passes["day"]), (series.view_parcel, series.views["day"])):
            n_read += np.bincount(parcel[day < one.day[parcel] + 1], minlength=len(n_read))
        is_new = (one.steps_sum != old.steps_sum) | (one.views_sum != old.views_sum)
        some = np.flatnonzero(is_new & (n_read > 0))
        until = midnight + (one.day[some] + 1).astype("m8[D]")
        numbers = of_numbers(to_array(one.rows(some)))
        rows.append(States(model_key, SEQUENCE[mode], keys[some], n_read[some], until, numbers))
    return rows


@dataclass(frozen=True)
class _Days:
    """Days of parcels, each parcel's ascending and different, as one array."""

    parcel: Ints
    """(N,)"""
    day: Ints
    """(N,)"""
    begin: Ints
    """(P + 1,) where each parcel's begin."""
    key: Ints
    """(N,) parcel and day as one number, ascending."""

    @classmethod
    def of(cls, parcel: Ints, day: Ints, n_parcels: int) -> "_Days":
        """Return the different days of rows in any order."""
        key = np.sort(_day_key(parcel, day))
        key = key[np.diff(key, prepend=-1) != 0]
        parcel, day = key // _SPAN, key % _SPAN - _SPAN // 2
        return cls(parcel, day, np.searchsorted(parcel, np.arange(n_parcels + 1)), key)

    def at_or_after(self, parcel: Ints, day: Ints) -> Ints:
        """Return the place of the first day of a parcel that is not before another."""
        return np.searchsorted(self.key, _day_key(parcel, day))

    def take(self, place: Ints, parcel: Ints) -> Ints:
        """Return the days at places, `NOTHING` where a place is not one of the parcel's."""
        is_own = (place >= self.begin[parcel]) & (place < self.begin[parcel + 1])
        return np.where(is_own, np.append(self.day, NOTHING)[np.clip(place, 0, len(self.day))], NOTHING)


_SPAN: Final = 2**24
"""More days than there are between any two, `NOTHING` included."""


def _day_key(parcel: Ints, day: Ints) -> Ints:
    return np.asarray(parcel * _SPAN + day + _SPAN // 2)


@dataclass(frozen=True)
class _Observed:
    """The days on which the claimed parcels were observed."""

    views: _Days
    """Days of clear views."""
    all: _Days
    """Days of clear views and radar."""
    newest_before: Ints
    """(P,) the newest day that is not pending; -`NOTHING` where there is none."""
    oldest_new: Ints
    """(P,) the oldest day of which pending rows say something, `NOTHING` where they say nothing (all cloud)."""
    has_new_view: Bools
    """(P,) whether a clear view is pending, or a revision that may have made or unmade one."""


def _observed(batch: BatchContext) -> _Observed:
    claim, series, n = batch.claim, batch.series, len(batch.claim.parcel_keys)
    of_view, of_sar = (np.floor(rows["day"]).astype(np.int64) for rows in (series.views, series.passes))
    newest_before, oldest_new, has_new_view = np.full(n, -NOTHING), np.full(n, NOTHING), np.zeros(n, bool)
    for parcel, day, is_new in (
        (series.view_parcel, of_view, series.is_new_view),
        (series.pass_parcel, of_sar, series.is_new_pass),
    ):
        np.maximum.at(newest_before, parcel[~is_new], day[~is_new])
        np.minimum.at(oldest_new, parcel[is_new], day[is_new])
    has_new_view[series.view_parcel[series.is_new_view]] = True
    # What a revision or a withdrawal replaced informed rows too, and is in no series any more.
    revised = claim.observations[claim.observations["revision"] > 0]
    index = np.searchsorted(claim.parcel_keys, revised["parcel_key"])
    of_revised = np.floor(season_days(revised["observed_at"], batch.season.starts_on)).astype(np.int64)
    np.minimum.at(oldest_new, index, of_revised)
    has_new_view[index] = True
    parcels, days = np.concatenate([series.view_parcel, series.pass_parcel]), np.concatenate([of_view, of_sar])
    views = _Days.of(series.view_parcel, of_view, n)
    return _Observed(views, _Days.of(parcels, days, n), newest_before, oldest_new, has_new_view)


def _first_informed(batch: BatchContext, observed: _Observed, curves: DailyCurves) -> Ints:
    """Return (P,) the first day whose row may change, `NOTHING` for none."""
    claim, parcel = batch.claim, np.arange(len(batch.claim.parcel_keys))
    oldest, views = observed.oldest_new, observed.views
    last_row, last_days = np.full(len(parcel), NOTHING), curves.last_days()
    has_rows = ~np.isnat(last_days)
    of_curve = np.searchsorted(claim.parcel_keys, curves.parcel_key[has_rows])
    last_row[of_curve] = (last_days[has_rows] - curves.first_day).astype(np.int64)
    is_late, has_new = oldest <= observed.newest_before, oldest < NOTHING
    start = np.maximum(observed.all.take(observed.all.begin[:-1], parcel), 0)  # `NOTHING` where nothing was observed
    back = views.take(views.at_or_after(parcel, oldest) - VIEWS_BACK, parcel)
    back = np.where(back < NOTHING, back + 1, start)
    redrawn = np.maximum(np.minimum(last_row + 1, np.maximum(back, oldest - REACH_D)), start)
    first = np.where(is_late | observed.has_new_view, redrawn, last_row + 1)
    first = np.where((last_row < NOTHING) & has_new, first, NOTHING)
    return np.where(claim.is_due("ndvi") | ((last_row == NOTHING) & has_new), start, first)


@dataclass(frozen=True)
class _Step:
    """Days of some parcels that were last informed on one day of each."""

    parcel: Ints
    """(Q,) place in the claim."""
    begin: Ints
    end: Ints
    known: Ints
    """(Q,) first and last day, and the day that informs them; nothing observed after it counts."""


def _steps(first: Ints, observed: _Observed) -> Iterator[_Step]:
    """Yield the days from `first` (P,) on, what is informed earlier before what is informed later (c of the module's docstring)."""
    places = np.arange(len(first))
    last = observed.all.take(observed.all.begin[1:] - 1, places)
    n_days = np.where(last < NOTHING, np.maximum(last - first + 1, 0), 0)
    parcel = np.repeat(places, n_days)
    day = np.arange(len(parcel)) - np.repeat(np.cumsum(n_days) - n_days, n_days) + first[parcel]
    known = observed.all.take(observed.all.at_or_after(parcel, day), parcel)
    nth = observed.views.at_or_after(parcel, day)
    for place in (nth, nth + 1):
        view = observed.views.take(place, parcel)
        known = np.where(view - day <= REACH_D, view, known)
    is_first = (np.diff(parcel, prepend=-1) != 0) | (np.diff(known, prepend=-1) != 0)
    begins = np.flatnonzero(is_first)
    ends = np.append(begins[1:], len(day)) - 1
    of_run = parcel[begins]
    rank = np.arange(len(begins)) - np.searchsorted(of_run, of_run)
    for nth_run in range(int(rank.max(initial=-1)) + 1):
        some = rank == nth_run
        yield _Step(of_run[some], day[begins[some]], day[ends[some]], known[begins[some]])
