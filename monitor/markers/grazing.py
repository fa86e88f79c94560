"""Grazing: a stand that is lost little by little, over weeks, and grows back; no single step makes the most of it.

    fall = v_i - v_j over 20 to 60 days        step = max (v_k - v_k+1) between        grazed where step < fall / 2, and no cut lies in it
    c    = 1 / (1 + exp(-1.7 (fall - 0.08) / (sqrt(2) s)))

A cut takes the stand within days: an episode with one is mowing. Senescence and drought fall little by little, too; what does not grow
back within 45 days counts half. Animals that keep a sward short from spring on leave nothing to see: no episode is not "not grazed".
Source: grazing as the main confusion of mowing detection, Sen4CAP L4B and Reinermann et al. 2022; numbers as said beside them.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from monitor.alerts.neighbours import Bools, Ints
from monitor.alerts.rules import ClearViews
from monitor.markers.clear_views import OrderedViews, noise, ordered, thinned, without_leaks
from monitor.markers.form import NOT_EXECUTED, NOT_VALID, OK, OPTICAL, Events, Floats, Marked, RadarViews
from monitor.markers.mowing import mowing

VERSION: Final = "1"
SPANS: Final = (20, 30, 45, 60)
"""Days a herd needs for a field: rotations of 3 weeks to the whole of a summer month or two (chosen)."""
FALL_NDVI: Final = 0.08
"""Fall at which grazing is as likely as not: less than a cut's 0.10, as some is left and grows on."""
STEP_SHARE: Final = 0.5
"""Share of the fall that one step between two views may make: with more it is a cut."""
LEAST_VIEWS: Final = 4
"""Views of an episode, its ends included: with fewer a slope is not distinguished from a step."""
SEASON: Final = (100, 290)
"""Days of the year on which animals are out: mid April to mid October."""
GREEN_NDVI: Final = 0.4
"""A grazed sward stays above it: animals do not eat it bare (between vegetation at 0.35 and a stand at 0.5)."""
REGROWN: Final = (45, 0.04)
"""Days within which a grazed sward grows back by so much NDVI, twice the noise of a view."""
USES: Final = ("unknown", "unmanaged", "grazed", "mown", "mown and grazed")
"""How grass is used, as `grassland_use` returns it."""
GROWN_NDVI: Final = 0.75
"""A sward that nobody takes grows above what stubble shows (Sen4CAP L4B), and then dies back by `FALL_NDVI` without growing again."""
SURE: Final = 0.8
"""Confidence that nothing was cut from which a sward is unmanaged: watched for four fifths of the season, at least."""
_WIDEST: Final = 30
"""Views between the ends of an episode that are compared, at most: one every second day."""


def grazing(
    views: ClearViews, radar: RadarViews | None = None, applies: Bools | None = None, cuts: Marked | None = None
) -> Marked:
    """Return the episodes of grazing of P parcels; the value is their number.

    Args:
        views: clear views.
        radar: of the cuts, where `cuts` is None.
        applies: (P,) which parcels are grass; None for all.
        cuts: what `mowing` found on the same views; None lets it be found.
    """
    cuts = mowing(views, radar, applies) if cuts is None else cuts
    seen = without_leaks(thinned(ordered(views.parcel, views.days, views.ndvi, views.n_parcels)))
    n_views = np.bincount(seen.parcel, minlength=views.n_parcels)
    status = np.where(n_views >= 2 * LEAST_VIEWS, OK, NOT_VALID)
    if applies is not None:
        status[~applies] = NOT_EXECUTED
    first, last = _episodes(seen)
    confidence = (
        _confidence(seen, first, last) * ~_has_cut(seen, first, last, cuts.events) * (status == OK)[seen.parcel[first]]
    )
    events = _apart(seen, first, last, confidence)
    number = np.bincount(events.parcel, minlength=views.n_parcels).astype(np.float64)
    best = np.zeros(views.n_parcels)
    np.maximum.at(best, seen.parcel[first], confidence)
    value, certain = (np.where(status == OK, one, np.nan) for one in (number, np.where(number > 0, best, 1 - best)))

    def evidence(parcel: int) -> Mapping[str, Any]:
        return {
            "clear_views": int(n_views[parcel]),
            "episodes": events.of(parcel),
            "cuts": cuts.events.of(parcel),
            "thresholds": {"fall_ndvi": FALL_NDVI, "step_share": STEP_SHARE},
        }

    return Marked("grazing", VERSION, status, value, certain, events, evidence)


def _episodes(views: OrderedViews) -> tuple[Ints, Ints]:
    """Return places (F,) of the first and last views of gradual falls."""
    every = np.arange(len(views.day))
    lasts = [views.at_or_before(every, span) for span in SPANS]
    first, last = np.tile(every, len(SPANS)), np.concatenate(lasts) if len(every) else every
    fall = views.ndvi[first] - views.ndvi[last]
    day = views.day.astype("M8[D]")
    of_year = (day - day.astype("M8[Y]")).astype(np.int64) + 1
    chosen = (last - first >= LEAST_VIEWS - 1) & (last - first <= _WIDEST) & (fall >= FALL_NDVI / 2)
    chosen &= (views.ndvi[last] >= GREEN_NDVI) & (of_year[first] >= SEASON[0]) & (of_year[last] <= SEASON[1])
    chosen &= views.day[last] - views.day[first] >= SPANS[0] // 2
    first, last = first[chosen], last[chosen]
    step = np.zeros(len(first))
    for nr in range(_WIDEST):
        at = np.minimum(first + nr, last - 1)
        step = np.maximum(step, views.ndvi[at] - views.ndvi[at + 1])
    gradual = step < STEP_SHARE * fall[chosen]
    return first[gradual], last[gradual]


def _confidence(views: OrderedViews, first: Ints, last: Ints) -> Floats:
    sd = noise(views)[views.parcel[first]]
    z = (views.ndvi[first] - views.ndvi[last] - FALL_NDVI) / (np.sqrt(2) * sd)
    days, least = REGROWN
    end, highest = views.at_or_before(last, days), views.ndvi[last].copy()
    for nr in range(1, _WIDEST + 1):
        highest = np.maximum(highest, views.ndvi[np.minimum(last + nr, end)])
    return np.asarray(
        np.where(highest - views.ndvi[last] >= least, 1.0, 0.5) / (1 + np.exp(-1.7 * np.clip(z, -20, 20)))
    )


def _has_cut(views: OrderedViews, first: Ints, last: Ints, cuts: Events) -> Bools:
    """Return (F,) whether a cut lies in an episode or reaches into it."""
    apart = 1 << 20
    mine, ends = views.parcel[first] * apart, np.sort(cuts.parcel * apart + cuts.end.astype(np.int64))
    begins = np.sort(cuts.parcel * apart + cuts.begin.astype(np.int64))
    # Cuts that end behind the episode's begin, less those that begin behind its end.
    reaching = np.searchsorted(begins, mine + views.day[last]) - np.searchsorted(
        ends, mine + views.day[first], side="right"
    )
    return np.asarray(reaching > 0)


def _apart(views: OrderedViews, first: Ints, last: Ints, confidence: Floats) -> Events:
    """Return the episodes of at least 0.5, the most confident first and none that overlaps one before it; then in order of time."""
    likely = np.flatnonzero(confidence >= 0.5)
    rank = confidence * (1 - 1e-3 * (views.day[last] - views.day[first]))  # of two that show the same loss the shorter
    order = likely[np.lexsort((views.day[first[likely]], -rank[likely], views.parcel[first[likely]]))]
    kept, taken = list[int](), dict[int, list[tuple[int, int]]]()
    for nr in order:
        since, until = int(views.day[first[nr]]), int(views.day[last[nr]])
        mine = taken.setdefault(int(views.parcel[first[nr]]), [])
        if all(until <= one or since >= other for one, other in mine):
            mine.append((since, until))
            kept.append(int(nr))
    found = np.array(kept, np.int64)
    begin, end = views.day[first[found]], views.day[last[found]]
    days = [one.astype("M8[D]") for one in (begin, end, (begin + end) // 2)]
    optical = np.full(len(found), OPTICAL)
    every = Events(views.parcel[first[found]], days[0], days[1], days[2], confidence[found], optical)
    return every.only(np.lexsort((begin, every.parcel)))


def grassland_use(views: ClearViews, mown: Marked, grazed: Marked) -> Ints:
    """Return (P,) the use of grass as places in `USES`.

    Unmanaged is what grew up and died back once, watched by both markers; a sward that stays short, or was hardly seen, is unknown: animals
    that keep it short leave nothing to see.
    """
    seen = without_leaks(thinned(ordered(views.parcel, views.days, views.ndvi, views.n_parcels)))
    is_mown, is_grazed = mown.value > 0, grazed.value > 0  # NaN is neither
    use = np.where(is_mown, np.where(is_grazed, 4, 3), np.where(is_grazed, 2, 0))
    is_watched = (mown.confidence >= SURE) & (grazed.status == OK)
    return np.where((use == 0) & is_watched & _dies_back_once(seen), 1, use)


def _dies_back_once(views: OrderedViews) -> Bools:
    """Return (P,) whether NDVI rises to a grown sward and then falls for good: it never rises again by more than noise."""
    n = np.bincount(views.parcel, minlength=views.n_parcels)
    column = np.arange(len(views.parcel)) - (np.cumsum(n) - n)[views.parcel]
    ndvi = np.full((views.n_parcels, int(n.max(initial=0)) + 1), np.nan)
    ndvi[views.parcel, column] = views.ndvi
    peak = np.nan_to_num(ndvi, nan=-1).argmax(axis=1)
    behind = np.where(np.arange(ndvi.shape[1]) >= peak[:, None], ndvi, np.nan)
    top, lowest = behind[np.arange(len(n)), peak], np.fmin.accumulate(behind, axis=1)
    rise = np.nan_to_num(behind - lowest).max(axis=1, initial=0)
    fallen = np.nan_to_num(top - lowest[:, -1])
    return np.asarray((top >= GROWN_NDVI) & (fallen >= FALL_NDVI) & (rise <= 2 * REGROWN[1]))
