"""Parts of a parcel: what the pixels of each clear view say of two parts that differ, and what that comes to over the season.

    split        the two groups, below and above a level, that maximise w (1 - w) (m2 - m1)^2         w: share of the lower group
    separation   that maximum over the variance of all pixels: 0.64 of one normal group, 0.75 of an even gradient, 1 of two sharp ones

Sets of pixels are samples: which pixel of one view is which of another is not known, so only distributions are compared. A share that
fell by `FALL_NDVI` between two views then has a lower bound, whichever pixels it was, and so has the share that did not:

    fell    >= F_after(x) - F_before(x + FALL_NDVI)        stayed >= F_before(x + FALL_NDVI) - F_after(x)        for each x

Source: split and separation, Otsu 1979 (his eta); bounds, Makarov 1981, as Fan and Park 2010 use them for effects of which only the
distributions before and after are known. Levels: Sen4CAP L4B and L4C.
Shapes: N views of P parcels, S pixels of a set.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from db.series import INVALID_PIXEL
from monitor.alerts.neighbours import Bools, Days, Ints
from monitor.markers.form import NOT_EXECUTED, NOT_VALID, OK, OPTICAL, Events, Floats, Marked
from monitor.markers.optical_cuts import (
    BACK,
    BARE_NDVI,
    CONFIRM_DAYS,
    INTERVAL_DAYS,
    SEASON,
    STAND_NDVI,
    STUBBLE_NDVI,
    UNCONFIRMED,
)

VERSION: Final = "1"
SPLIT: Final = np.dtype(
    [("n", "u1"), ("share", "u1"), ("low", "i1"), ("high", "i1"), ("separation", "u1"), ("bare", "u1")]
)
"""Of a view: clear pixels of its set (255: as many or more; 0: no set), share of the lower group, mean NDVI of both groups, separation,
share of the pixels below `BARE_NDVI`; all but the first in hundredths, so that a season's splits are a few hundred bytes."""

LEAST_PIXELS: Final = 8
"""Of a set from which a split is taken: of a parcel with fewer nothing is said at all (Sen4CAP L4A, L4C)."""
WHOLE: Final = 0.9
"""Share of the parcel's fullest set that a view shows at least (chosen: of 21 confirmed falls of a part in
two simulated seasons, where no part of a field is cut, 21 lay beside cloud or before a harvest)."""
FALL_NDVI: Final = 0.12
"""By which a cut falls (Sen4CAP L4B)."""
APART_NDVI: Final = 0.15
"""By which two parts differ: 10,000 cuts fell by so much in the mean (Sinergise's mowing marker); five times the spread within an even
field (0.02 to 0.05)."""
LIKELY: Final = 0.5
"""Confidence of a cut of a part that is said: at least as likely as not."""
LASTING_NDVI: Final = 0.20
"""By which parts differ that last: an uneven stand of rape differed by 0.16 through a simulated winter."""
SEPARATION: Final = 0.80
"""Above an even gradient (0.75)."""
LEAST_SHARE: Final = 0.10
"""Of a part: what is less is a border, a tree, the track of a sprayer (chosen)."""
PART_PIXELS: Final = 3
"""Of a set in a part at least: two of 16 are as often an edge (the Flemish patch)."""
LEAST_VIEWS: Final = 3
PERSIST_DAYS: Final = 20
"""Days between three views that show the same two parts: a cut part is green again within 20 (Sinergise)."""
SAME_SHARE: Final = 0.20
"""By which shares of the same parts differ between views: twice the binomial sd of a share of 20 pixels."""
PERSISTENT: Final = 0.5
"""Share of the views from the first to the third that show the parts: two crops may look alike for a while, a cloud that the mask missed
is gone on the next view."""
SEALED_DAYS: Final = 90
"""Days of growth through which a part without vegetation bears none."""
SEALED_VIEWS: Final = 5
SEALED_GAP_DAYS: Final = 45
"""Longest time between two of these views: no crop comes up, is cut and gone within it."""


@dataclass(frozen=True)
class PixelViews:
    """Clear views of P parcels with the split of their pixel sets, sorted by parcel and time."""

    parcel: Ints
    """(N,) place of the parcel among the P."""
    days: Days
    """(N,) datetime64[D]."""
    split: NDArray[np.void]
    """(N,) `SPLIT`."""
    n_parcels: int

    @cached_property
    def is_seen(self) -> Bools:
        """Return (N,) views with enough pixels, nearly all of the parcel's fullest set: beside a cloud the mask misses its rim."""
        n = self.split["n"]
        begins = np.flatnonzero(np.diff(self.parcel, prepend=-1))
        most = np.repeat(np.maximum.reduceat(n, begins), np.diff(begins, append=len(n))) if len(n) else n
        return np.asarray((n >= LEAST_PIXELS) & (n >= WHOLE * most))

    @cached_property
    def is_split(self) -> Bools:
        """Return (N,) views that show two parts."""
        return np.asarray(self.is_seen & (self.split["separation"] >= _hundredths(SEPARATION)) & self._differs())

    @cached_property
    def is_growing(self) -> Bools:
        """Return (N,) whether views lie in the months of growth."""
        if not len(self.days):
            return np.zeros(0, bool)
        day = self.days.astype("M8[D]").astype(np.int64)
        every = np.arange(day.min(), day.max() + 1).astype("M8[D]")  # far fewer than views
        of_year = (every - every.astype("M8[Y]")).astype(np.int64) + 1
        return np.asarray(((of_year >= SEASON[0]) & (of_year <= SEASON[1]))[day - day.min()])

    def _differs(self) -> Bools:
        """Return (N,) whether both groups are large enough and their NDVI lies far enough apart."""
        of = self.split
        share = of["share"].astype(np.int16)
        smaller, apart = np.minimum(share, 100 - share), of["high"].astype(np.int16) - of["low"]
        is_large = (smaller >= _hundredths(LEAST_SHARE)) & (smaller * of["n"] >= 100 * PART_PIXELS - 50)
        return np.asarray(is_large & (apart >= _hundredths(APART_NDVI)))

    def only(self, which: Bools | Ints) -> "PixelViews":
        """Return some of the views, of the same parcels."""
        return PixelViews(self.parcel[which], self.days[which], self.split[which], self.n_parcels)

    def count(self, which: Bools) -> Ints:
        """Return (P,) how many views of each parcel are under a mask (N,)."""
        return np.bincount(self.parcel[which], minlength=self.n_parcels)

    def of(self, parcel: int) -> "PixelViews":
        """Return the views of one parcel."""
        own = slice(*np.searchsorted(self.parcel, [parcel, parcel + 1]))
        return PixelViews(self.parcel[own] - parcel, self.days[own], self.split[own], 1)

    def shown(self, places: Ints) -> list[list[object]]:
        """Return some views as evidence shows them: day, share of the lower part, NDVI of both."""
        names = ("share", "low", "high")
        return [[str(self.days[i]), *(int(self.split[name][i]) / 100 for name in names)] for i in places]


def splits(red: NDArray[np.int16], nir: NDArray[np.int16]) -> NDArray[np.void]:
    """Return (N,) `SPLIT` of pixel sets (N, S) as they are stored; `INVALID_PIXEL` fills them up."""
    found = np.zeros(len(red), SPLIT)
    if not red.size:
        return found
    both = nir.astype(np.float32) + red
    is_seen = (red != INVALID_PIXEL) & (nir != INVALID_PIXEL) & (both > 0)
    # Sorted, so that a set's split does not depend on the order of its pixels, nor on what the set is filled up with.
    ndvi = np.where(is_seen, (nir.astype(np.float32) - red) / np.where(is_seen, both, 1), np.float32(np.inf))
    ndvi.sort(axis=1)
    n, ndvi = is_seen.sum(axis=1), np.where(np.isfinite(ndvi), ndvi, np.float32(0))
    below, k = np.cumsum(ndvi, axis=1, dtype=np.float64), np.arange(1, ndvi.shape[1] + 1)
    total, rest = below[:, -1:], np.maximum(n[:, None] - k, 1)
    of_all = np.maximum(n, 1)[:, None]
    between = np.where(k < n[:, None], k * rest * np.square(below / k - (total - below) / rest), -1.0)
    at, rows = between.argmax(axis=1), np.arange(len(n))
    spread = np.maximum(
        np.square(ndvi).sum(axis=1, dtype=np.float64) / of_all[:, 0] - np.square(total[:, 0] / of_all[:, 0]), 1e-9
    )
    found["n"] = np.minimum(n, 255)
    is_bare = (ndvi < BARE_NDVI) & (k <= n[:, None])
    values = {
        "share": (at + 1) / of_all[:, 0],
        "low": below[rows, at] / (at + 1),
        "high": (total[:, 0] - below[rows, at]) / rest[rows, at],
        "separation": np.clip(between[rows, at] / np.square(of_all[:, 0]) / spread, 0, 1),
        "bare": is_bare.sum(axis=1) / of_all[:, 0],
    }
    for name, value in values.items():
        found[name] = np.where(n > 1, np.rint(np.clip(value, -1, 1) * 100), 0)
    return found


def partly_cut(views: PixelViews) -> Marked:
    """Return cuts and tillage of a part of P parcels; the value is the share of the newest one, 0 where there was none."""
    seen = views.only(views.is_seen)
    first, fell, confidence = _partial_falls(seen)
    parcel = seen.parcel[first]
    begin, end = seen.days[first], seen.days[first + 1]
    events = Events(parcel, begin, end, begin + (end - begin) // 2, confidence, np.full(len(first), OPTICAL))
    n_seen = np.bincount(seen.parcel, minlength=views.n_parcels)
    has_sets = views.count(views.split["n"] > 0) > 0
    status = np.where(has_sets, np.where(n_seen >= LEAST_VIEWS, OK, NOT_VALID), NOT_EXECUTED)
    value, sure = np.where(status == OK, 0.0, np.nan), np.where(status == OK, 0.9, np.nan)
    value[parcel], sure[parcel] = fell, confidence  # of equal indices the last assignment stays: the newest
    value[status != OK] = sure[status != OK] = np.nan

    def evidence(nr: int) -> Mapping[str, Any]:
        own = np.flatnonzero(parcel == nr)
        low = seen.split["low"][first[own] + 1]
        kinds = np.where(low < _hundredths(BARE_NDVI), "tilled", "mown").tolist()
        shares = np.round(fell[own], 2).tolist()
        each = zip(events.of(nr), kinds, shares, strict=True)
        return {"parts": [event | {"kind": kind, "share": share} for event, kind, share in each]}

    return Marked("partly_cut", VERSION, status, value, sure, events, evidence)


def _partial_falls(seen: PixelViews) -> tuple[Ints, Floats, Floats]:
    """Return of the falls of a part (E,) the places of the views before, the share that fell and the confidence."""
    is_pair = (seen.parcel[1:] == seen.parcel[:-1]) & seen.is_split[1:]
    is_pair &= np.diff(seen.days).astype(np.int64) <= INTERVAL_DAYS
    first = np.flatnonzero(is_pair)
    share, low, high, separation = (seen.split[name] / 100 for name in ("share", "low", "high", "separation"))
    (w, low_before, high_before), (after, low_after, high_after) = (
        (share[at], low[at], high[at]) for at in (first, first + 1)
    )

    def before(level: Floats) -> Floats:
        """Return the share of the pixels that lay below a level."""
        return np.asarray(np.where(low_before < level, w, 0) + np.where(high_before < level, 1 - w, 0))

    # In hundredths, so that a fall of exactly `FALL_NDVI` is one however it is rounded.
    fell = after - before(np.round(low_after + FALL_NDVI, 2))
    stayed = before(np.round(high_after + FALL_NDVI, 2)) - after
    is_part = (
        (fell >= LEAST_SHARE) & (stayed >= LEAST_SHARE) & (high_before >= STAND_NDVI) & (low_after <= STUBBLE_NDVI)
    )
    is_part &= seen.is_growing[first]
    confidence = separation[first + 1] * _confirmed(seen, first, low, high)
    kept = is_part & (confidence >= LIKELY)
    return first[kept], fell[kept], confidence[kept]


def _confirmed(seen: PixelViews, first: Ints, low: Floats, high: Floats) -> Floats:
    """Return (E,) 1 where the next view shows the low part, too, down to 0 where it is back: hidden cloud."""
    last, following = first + 1, np.minimum(first + 2, len(seen.parcel) - 1)
    days = (seen.days[following] - seen.days[last]).astype(np.int64)
    is_near = (seen.parcel[following] == seen.parcel[first]) & (following > last) & (days <= CONFIRM_DAYS)
    share = seen.split["share"] / 100
    mean = share * low + (1 - share) * high
    after = np.where(seen.is_split[following], low[following], mean[following])
    stood = np.where(seen.is_split[first], high[first], mean[first])
    back = (after - low[last]) / np.maximum(stood - low[last], 0.01)
    lasting = np.clip((BACK[1] - back) / (BACK[1] - BACK[0]), 0, 1)
    # Where all of the parcel is low by then, the rest was cut, or a crop that ripens was under a cloud before.
    lasting = np.where(seen.is_split[following], lasting, np.minimum(lasting, UNCONFIRMED))
    return np.where(is_near, lasting, UNCONFIRMED)


@dataclass(frozen=True)
class Parts:
    """Two parts that P parcels have."""

    since: Days
    """(P,) first view that shows them, NaT where there are none."""
    share: Floats
    """(P,) of the smaller part, or of the one without vegetation."""
    n: Ints
    """(P,) views that say so."""

    @classmethod
    def none(cls, n_parcels: int) -> "Parts":
        """Return none of any parcel."""
        nothing = np.full(n_parcels, np.datetime64("NaT"), "M8[D]")
        return cls(nothing, np.full(n_parcels, np.nan), np.zeros(n_parcels, np.int64))


def two_parts(views: PixelViews) -> Parts:
    """Return parts that differ for long: two crops, or two uses.

    The same shares on three views each `PERSIST_DAYS` behind the one before, whichever part is the greener one, and on most views between.
    """
    found = Parts.none(views.n_parcels)
    places = np.flatnonzero(views.is_split)
    apart = views.split["high"][places].astype(np.int16) - views.split["low"][places]
    places = places[apart >= _hundredths(LASTING_NDVI)]
    day = views.days.astype("M8[D]").astype(np.int64)
    # Few parcels show any two parts on views so far apart: only these are looked at one by one (some 50 us each).
    parcel = views.parcel[places]
    axis = np.append(parcel * _APART + day[places], _FAR)
    third = np.arange(len(places))
    for _ in range(LEAST_VIEWS - 1):
        third = np.minimum(np.searchsorted(axis, axis[third] + PERSIST_DAYS), len(places))
    nth = np.cumsum(views.is_seen)[places]
    share = views.split["share"][places].astype(np.int64)
    for nr in np.unique(parcel[np.append(parcel, -1)[third] == parcel]).tolist():
        own = slice(*np.searchsorted(parcel, [nr, nr + 1]))
        same = _lasting(day[places[own]], np.minimum(share[own], 100 - share[own]), nth[own])
        if len(same):
            found.since[nr], found.n[nr] = views.days[places[own][same[0]]], len(same)
            found.share[nr] = np.median(np.minimum(share[own], 100 - share[own])[same]) / 100
    return found


def _lasting(day: Ints, smaller: Ints, nth: Ints) -> Ints:
    """Return the views of one parcel that show the first parts that last, none where there are none.

    Args:
        day: (V,) ascending, of the views that show two parts.
        smaller: (V,) share of the smaller one in hundredths.
        nth: (V,) the views' places among all that are seen.
    """
    at = np.arange(len(day))
    is_same = np.abs(smaller[:, None] - smaller) <= _hundredths(SAME_SHARE)  # (V, V) from each view, as the first, on
    is_same &= at >= at[:, None]
    last, is_there = at.copy(), np.ones(len(at), bool)
    for _ in range(LEAST_VIEWS - 1):
        is_later = is_same & (day >= day[last, None] + PERSIST_DAYS)
        last, is_there = is_later.argmax(axis=1), is_there & is_later.any(axis=1)
    n_same = np.cumsum(is_same, axis=1)[at, last]
    first = np.flatnonzero(is_there & (n_same >= PERSISTENT * (nth[last] - nth + 1)))
    return np.flatnonzero(is_same[first[0]]) if len(first) else first


def sealed(views: PixelViews) -> Parts:
    """Return parts without vegetation through the growth of the rest, to the newest view: built-up, sealed, water, or never sown.

    At least so many pixels are bare on each of these views; which ones is not known, so that two parts which are bare in turn pass
    for one where no view shows both green.
    """
    found, own = Parts.none(views.n_parcels), np.flatnonzero(views.is_seen & views.is_growing)
    if not len(own):
        return found
    parcel, day, bare = views.parcel[own], views.days[own].astype("M8[D]").astype(np.int64), views.split["bare"][own]
    is_bare = bare >= _hundredths(LEAST_SHARE)
    is_next = is_bare[1:] & is_bare[:-1] & (parcel[1:] == parcel[:-1]) & (np.diff(day) <= SEALED_GAP_DAYS)
    begin = np.flatnonzero(np.append(True, ~is_next))
    end = np.append(begin[1:], len(own))
    # Only a run that the newest view belongs to: what has turned green since bore no crop yet, and that is all.
    is_newest = np.append(parcel[1:] != parcel[:-1], True)[end - 1]
    n, least = end - begin, np.minimum.reduceat(bare, begin) / 100
    n_green = np.add.reduceat((views.split["high"][own] >= _hundredths(STAND_NDVI)).astype(np.int64), begin)
    is_sealed = is_newest & (n >= SEALED_VIEWS) & (day[end - 1] - day[begin] >= SEALED_DAYS)
    is_sealed &= (n_green >= LEAST_VIEWS) & (least <= 1 - LEAST_SHARE)
    which = parcel[begin[is_sealed]]
    found.since[which], found.share[which] = views.days[own[begin[is_sealed]]], least[is_sealed]
    found.n[which] = n[is_sealed]
    return found


_APART: Final = 1 << 20
"""Days between two parcels on the common axis: more than any series lasts."""
_FAR: Final = np.iinfo(np.int64).max >> 1


def _hundredths(value: float) -> int:
    return round(100 * value)
