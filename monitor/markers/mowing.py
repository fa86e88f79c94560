"""Mowing: cuts of grass seen by clear views, by coherence and by backscatter, fused into dated events.

    c(d) = 1 - (1 - c_optical(d)) (1 - w(d) c_radar(d))        an event is a peak of c(d) of at least 0.5

Clear views say most; coherence rises when a stand no longer moves in the wind; backscatter only supports. Radar alone says at most 0.5
(Sen4CAP L4B), and counts (w) only where clear views leave a gap in which a cut may have grown back, or where they fall, too.
Between sensors the confidences count as independent: Sen4CAP's 1 - 1 / sum(1 / (1 - c)) is the same for two of 0.5, but lets a sensor
that saw nothing raise the other.
Shapes: (P, D) days from the first view of the batch; (E,) events.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from monitor.alerts.neighbours import Bools, Ints
from monitor.alerts.rules import ClearViews
from monitor.markers.clear_views import OrderedViews, noise, ordered, thinned, without_leaks
from monitor.markers.form import (
    BACKSCATTER,
    COHERENCE,
    NOT_EXECUTED,
    NOT_VALID,
    OK,
    OPTICAL,
    Events,
    Floats,
    Marked,
    RadarViews,
)
from monitor.markers.optical_cuts import SEASON, STAND_NDVI, Falls, falls
from monitor.markers.radar_cuts import PAIR_DAYS, RADAR_MOST, RadarCuts, nothing, radar_cuts

VERSION: Final = "2"
"""Stored with the events; raised when the marker decides otherwise on the same views."""
CONFIDENCE: Final = 0.5
"""An event is at least as likely as not."""
GAP_DAYS: Final = (10, 25)
"""Gaps between clear views at which radar alone begins to count and counts in full: a cut is seen for about 20 days (Sinergise)."""
RADAR_SEASON: Final = (105, 273)
"""Days of the year on which radar alone may find a cut, mid April to September: then coherence rises over all short grass."""
APART_DAYS: Final = 15
"""Two events are at least so far apart (the clear width of Schwieder et al. 2022)."""
MOST_EVENTS: Final = 9
"""In 365 days."""
WATCHED: Final = 0.5
"""Share of the season's days that views or coherence must watch: with less, no event says nothing. Chosen: half."""
LEAST_DAYS: Final = 60
"""Days that are watched at least, or their share counts of so many: two months show a cut and what grows back."""
SUPPORT: Final = 0.02
"""Confidence above which a sensor is said to have seen an event."""
RADAR_DAYS: Final = 6
"""Days around an event of radar alone between which it lies: passes of an orbit are 6 or 12 days apart."""
_BLOCK: Final = 256
"""Parcels at once, so that their days stay in the processor's cache."""


@dataclass(frozen=True)
class _Grid:
    """What is known of P parcels on D days."""

    optical: Floats
    fall: Ints
    """(P, D) place of the fall that the optical confidence is of, -1 for none."""
    before: Ints
    """(P, D) column of the last clear view before a day, and of the first from it on; far outside where there is none."""
    after: Ints
    radar: RadarCuts
    may_stand: Bools
    """(P, D) whether the last clear view, if any, shows a stand, and the day is one on which radar alone may find a cut."""

    @property
    def fused(self) -> Floats:
        """Return (P, D) the confidence that grass was cut on a day."""
        gap = self.after - self.before
        radar = np.minimum(1 - (1 - self.radar.coherence) * (1 - self.radar.backscatter), RADAR_MOST)
        low, full = GAP_DAYS
        weight = np.clip(np.maximum((gap - low) / (full - low) * self.may_stand, self.optical / 0.1), 0, 1)
        return np.asarray(1 - (1 - self.optical) * (1 - weight * radar))


def mowing(views: ClearViews, radar: RadarViews | None = None, applies: Bools | None = None) -> Marked:
    """Return the cuts of P parcels; the value is their number.

    Args:
        views: clear views.
        radar: None where there is none.
        applies: (P,) which parcels are grass; None for all.
    """
    n_parcels = views.n_parcels
    seen = without_leaks(thinned(ordered(views.parcel, views.days, views.ndvi, n_parcels)))
    radar = _sorted(radar)
    first, n_days = _span(seen, radar)
    status, watched, best = np.full(n_parcels, NOT_VALID), np.zeros(n_parcels), np.zeros(n_parcels)
    found = list[Events]()
    for begin in range(0, n_parcels, _BLOCK):
        block = slice(begin, min(begin + _BLOCK, n_parcels))
        grid, fall = _grid(_views_of(seen, block), _radar_of(radar, block), first, n_days)
        fused = grid.fused
        watched[block] = _watched(grid, first)
        best[block] = fused.max(axis=1, initial=0)
        found.append(_events(grid, fused, fall, first, block.start))
    status[watched >= WATCHED] = OK
    if applies is not None:
        status[~applies] = NOT_EXECUTED
    events, is_ok = _joined(found), status == OK
    events = events.only(is_ok[events.parcel])
    number = np.bincount(events.parcel, minlength=n_parcels).astype(np.float64)
    confidence = np.where(number > 0, best, watched * (1 - best))
    n_views = np.bincount(seen.parcel, minlength=n_parcels)

    def evidence(parcel: int) -> Mapping[str, Any]:
        return {
            "clear_views": int(n_views[parcel]),
            "watched_share": round(float(watched[parcel]), 3),
            "events": events.of(parcel),
            "thresholds": {"confidence": CONFIDENCE, "watched_share": WATCHED},
        }

    value, confidence = (np.where(is_ok, one, np.nan) for one in (number, confidence))
    return Marked("mowing", VERSION, status, value, confidence, events, evidence)


def _sorted(radar: RadarViews | None) -> RadarViews | None:
    if radar is None or not len(radar.parcel):
        return None
    if np.isnat(radar.days).any():
        return _sorted(radar.only(~np.isnat(radar.days)))
    is_sorted = (radar.parcel[1:] >= radar.parcel[:-1]).all()
    return radar if is_sorted else radar.only(np.argsort(radar.parcel, kind="stable"))


def _span(views: OrderedViews, radar: RadarViews | None) -> tuple[int, int]:
    """Return the first day of the grid, since 1970, and the number of its days: a pair of passes also covers the days between."""
    days = views.day if radar is None else np.concatenate([views.day, radar.days.astype("M8[D]").astype(np.int64)])
    if not len(days):
        return 0, 1
    first = int(days.min()) - PAIR_DAYS
    return first, int(days.max()) - first + 1


def _views_of(views: OrderedViews, block: slice) -> OrderedViews:
    first, end = np.searchsorted(views.parcel, [block.start, block.stop])
    return OrderedViews(
        views.parcel[first:end] - block.start, views.day[first:end], views.ndvi[first:end], block.stop - block.start
    )


def _radar_of(radar: RadarViews | None, block: slice) -> RadarViews | None:
    if radar is None:
        return None
    first, end = np.searchsorted(radar.parcel, [block.start, block.stop])
    mine = radar.only(slice(first, end))
    return replace(mine, parcel=mine.parcel - block.start)


def _grid(views: OrderedViews, radar: RadarViews | None, first: int, n_days: int) -> tuple[_Grid, Falls]:
    """Return what is known of a block of parcels, and the falls that it points to."""
    shape = (views.n_parcels, n_days)
    fall = falls(views, noise(views))
    optical, which = _by_day(fall, first, shape)
    seen = nothing(shape) if radar is None else radar_cuts(radar, first, shape)
    before, after, may_stand = _between(views, first, shape)
    return _Grid(optical, which, before, after, seen, may_stand), fall


def _by_day(fall: Falls, first: int, shape: tuple[int, int]) -> tuple[Floats, Ints]:
    """Return (P, D) the highest confidence of the falls over each day, and their places, -1 for none."""
    n = np.where(fall.confidence > 0.02, fall.end - fall.begin, 0)
    place = np.repeat(np.arange(len(n)), n)
    nr = np.arange(len(place)) - np.repeat(np.cumsum(n) - n, n)  # 0 on the day after the last view before
    # Of equal confidences the shorter fall wins, and of its days the middle one.
    off = np.abs(nr - (n[place] - 1) / 2)
    shown = fall.confidence[place] * (1 - 1e-3 * n[place] - 1e-4 * off)
    cell = fall.parcel[place] * shape[1] + fall.begin[place] + 1 + nr - first
    order = np.argsort(shown, kind="stable")
    optical, which = np.zeros(shape[0] * shape[1]), np.full(shape[0] * shape[1], -1)
    optical[cell[order]], which[cell[order]] = shown[order], place[order]  # of equal cells the last assignment stays
    return optical.reshape(shape), which.reshape(shape)


def _between(views: OrderedViews, first: int, shape: tuple[int, int]) -> tuple[Ints, Ints, Bools]:
    """Return (P, D) the columns of the last view before a day and of the first from it on, and where radar alone may find a cut."""
    n_days = shape[1]
    column, far = np.arange(n_days), 10**6
    nr = np.full(shape, -1)
    nr[views.parcel, views.day - first] = np.arange(len(views.day))
    seen = nr >= 0
    before, last = np.full(shape, -far), np.full(shape, -1)
    before[:, 1:] = np.maximum.accumulate(np.where(seen, column, -far), axis=1)[:, :-1]
    last[:, 1:] = np.maximum.accumulate(nr, axis=1)[:, :-1]
    after = np.minimum.accumulate(np.where(seen, column, far)[:, ::-1], axis=1)[:, ::-1]
    stands = np.append(views.ndvi >= STAND_NDVI, True)[last]
    of_year = _of_year(first, n_days)
    return before, after, stands & (of_year >= RADAR_SEASON[0]) & (of_year <= RADAR_SEASON[1])


def _of_year(first: int, n_days: int) -> Ints:
    """Return (D,) the days of the year."""
    day = (np.arange(n_days) + first).astype("M8[D]")
    return np.asarray((day - day.astype("M8[Y]")).astype(np.int64) + 1)


def _watched(grid: _Grid, first: int) -> Floats:
    """Return (P,) the share of the season's days that views or coherence watch, from a parcel's first such day to its last."""
    of_year = _of_year(first, grid.after.shape[1])
    sees = (grid.after - grid.before <= 2 * GAP_DAYS[1]) | grid.radar.is_watched
    in_season = (of_year >= SEASON[0]) & (of_year <= SEASON[1])
    since, until = (np.logical_or.accumulate(one, axis=1) for one in (sees, sees[:, ::-1]))
    of = in_season & since & until[:, ::-1]
    return np.asarray((sees & of).sum(axis=1) / np.maximum(of.sum(axis=1), LEAST_DAYS))


def _events(grid: _Grid, fused: Floats, fall: Falls, first: int, offset: int) -> Events:
    """Return the peaks of the fused confidence, the highest first, each clearing the days around it."""
    left, day = fused + 1e-9 * np.clip(grid.radar.rise, 0, 100), np.arange(fused.shape[1])
    rows, found, confidence = np.arange(len(left)), list[tuple[Ints, ...]](), list[Floats]()
    for _ in range(MOST_EVENTS * (1 + len(day) // 365)):
        at = left[rows].argmax(axis=1)
        best = fused[rows, at]
        is_event = (best >= CONFIDENCE - 1e-9) & (left[rows, at] > 0)
        rows, at, best = rows[is_event], at[is_event], best[is_event]
        if not len(rows):
            break
        begin, end, by_fall = _interval(grid, fall, rows, at, first)
        by_coherence, by_backscatter = (of[rows, at] > SUPPORT for of in (grid.radar.coherence, grid.radar.backscatter))
        seen_by = OPTICAL * by_fall + COHERENCE * by_coherence + BACKSCATTER * by_backscatter
        found.append((rows + offset, begin + first, end + first, at + first, seen_by))
        confidence.append(best)
        # Radar alone finds one cut in a gap, for a rise stays for weeks: it clears the whole of it.
        reach = np.where(
            by_fall, APART_DAYS, np.where(grid.after[rows, at] - grid.before[rows, at] > len(day), 30, len(day))
        )
        low = np.where(by_fall, np.minimum(begin + 1, at - reach), np.maximum(grid.before[rows, at] + 1, at - reach))
        high = np.where(by_fall, np.maximum(end, at + reach), np.minimum(grid.after[rows, at], at + reach))
        left[rows] = np.where((day >= low[:, None]) & (day <= high[:, None]), 0, left[rows])
    columns = zip(*found, strict=True) if found else [[]] * 5
    parcel, begin, end, at, seen_by = (np.concatenate([np.zeros(0, np.int64), *one]) for one in columns)
    days = [one.astype("M8[D]") for one in (begin, end, at)]
    every = Events(parcel, days[0], days[1], days[2], np.concatenate([np.zeros(0), *confidence]), seen_by)
    return every.only(np.lexsort((at, parcel)))


def _interval(grid: _Grid, fall: Falls, rows: Ints, at: Ints, first: int) -> tuple[Ints, Ints, Bools]:
    """Return (E,) the columns between which each event lies, and whether a fall bounds it rather than passes of radar."""
    place = grid.fall[rows, at]
    by_fall = grid.optical[rows, at] > SUPPORT
    begin, end = (np.append(one, 0)[place] - first for one in (fall.begin, fall.end))
    return (
        np.where(by_fall, begin, np.maximum(at - RADAR_DAYS, grid.before[rows, at])),
        np.where(by_fall, end, np.minimum(at + RADAR_DAYS, grid.after[rows, at])),
        by_fall,
    )


def _joined(found: list[Events]) -> Events:
    """Return the events of all blocks."""
    nothing, day = np.zeros(0, np.int64), np.zeros(0, "M8[D]")
    found = [Events(nothing, day, day, day, np.zeros(0), nothing), *found]
    return Events(
        np.concatenate([one.parcel for one in found]),
        np.concatenate([one.begin for one in found]),
        np.concatenate([one.end for one in found]),
        np.concatenate([one.best for one in found]),
        np.concatenate([one.confidence for one in found]),
        np.concatenate([one.seen_by for one in found]),
    )
