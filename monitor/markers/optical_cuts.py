"""Cuts as clear views show them: a fall between two views that neither the decline before nor after explains.

    whole  = (v_i - v_j) + g (gap - 5) / 2                           g: NDVI a day that the sward grows behind it, 0.02 at most;
                                                                     gap: days between v_j and the view before it
    excess = whole - (t_j - t_i) max(0, d_before, d_after)           d: NDVI a day lost over the 12 or 25 days beside, the lesser;
                                                                     0 where the sward grows back at once
    c      = 1 / (1 + exp(-1.7 (excess - 0.10) / (sqrt(2) s)))       s: noise of the parcel's views

A cut falls from a stand to stubble within days and stays low; what is seen late has grown back in part, for half of the gap in the mean.
Senescence, drought and grazing decline before and after, too; hay ripens before its cut, but what only ripens does not grow back. Hidden
cloud is gone on the next view; after a harvest or the plough nothing green is left. Falls are taken between neighbouring views and over 3,
6 and 10 days, because a field is mown in parts, swaths dry, and where views are dense no two neighbours show the whole.
Source: fall, levels and interval of Sen4CAP L4B; residual from an undisturbed course as Schwieder et al. 2022 and Watzig et al. 2023.
Shapes: (F,) falls of all parcels.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from monitor.alerts.neighbours import VEGETATION_NDVI, Bools, Ints
from monitor.markers.clear_views import OrderedViews, noise
from monitor.markers.form import Floats

STAND_NDVI: Final = 0.5
"""A cut falls from above it (Sen4CAP L4B)."""
STUBBLE_NDVI: Final = 0.75
"""A cut falls to below it (Sen4CAP L4B)."""
FALL_NDVI: Final = 0.10
"""Excess at which a fall is as likely a cut as not: Sen4CAP L4B asks for a fall of 0.12, before the decline beside it is taken off;
10,000 events fell by 0.15 in the mean (Sinergise's mowing marker)."""
INTERVAL_DAYS: Final = 30
"""Days between two views over which a fall is dated (Sen4CAP L4B); longer gaps count in proportion less."""
SEASON: Final = (73, 305)
"""Days of the year from whose views a fall counts, mid March to October (Schwieder et al. 2022): before and after, snow, cold and a low sun
make falls."""
SPANS: Final = (0, 3, 6, 10)
"""Days over which falls are taken; 0 stands for the next view, however late."""
BESIDE_DAYS: Final = (12, 25)
"""Days over which the decline before and after is taken: less than the 3 weeks between two cuts at their closest, and about as long."""
GROWS_BACK: Final = 0.005
"""NDVI a day of a sward that grows back: 0.06 in 12 days, twice the noise of a view, and a third of what Sinergise's meadows do."""
GROWN_BACK_MOST: Final = 0.02
"""NDVI a day that counts as grown back in a gap: falls of 0.15 to 0.4 are back after about 20 days (Sinergise)."""
STUBBLE_DAYS: Final = 5
"""Days after a cut in which nothing grows back yet: a revisit. Without it a hundredth of the events more is false (docs/LOG.md)."""
LEAST_SPAN: Final = 8
"""Days between two views that a decline needs: over fewer, noise is steeper than senescence."""
MOST_SPAN: Final = 40
"""And at most: over more, a decline is an average of seasons."""
CONFIRM_DAYS: Final = 12
"""A fall is confirmed by the next clear view of so many days (Sen4CAP L4B: the next clear image; two revisits)."""
BACK: Final = (0.7, 0.95)
"""Share of a fall that is back on that view: below the first it was a cut, above the second hidden cloud."""
REGROWN_A_DAY: Final = 0.025
"""Share of a fall by which these grow with each day from the sixth on: half of a sward that takes 20 days to grow back (Sinergise)."""
UNCONFIRMED: Final = 0.75
"""Factor on the confidence of a fall whose low is a single view: on about one view in a hundred the mask missed a cloud, one in five to ten
falls between cuts."""
BARE_NDVI: Final = 0.25
"""Stubble of grass stays above it, bare soil below (chosen between soil, 0.1 to 0.2, and the lowest stubble of hay meadows, 0.4)."""
LOST_DAYS: Final = 30
"""Stubble of grass is green again by then: what has no vegetation from 8 days on was harvested or ploughed."""


@dataclass(frozen=True)
class Falls:
    """Falls of NDVI between two clear views each."""

    parcel: Ints
    begin: Ints
    """(F,) days since 1970: of the last view before."""
    end: Ints
    """(F,) of the first view after."""
    fall: Floats
    """(F,) NDVI."""
    confidence: Floats
    """(F,) that it is a cut."""


def falls(views: OrderedViews, sd: Floats | None = None) -> Falls:
    """Return the falls that may be cuts; of the parcels' noise `sd` (P,) if it is known."""
    if not len(views.day):
        nothing, none = np.zeros(0, np.int64), np.zeros(0)
        return Falls(nothing, nothing, nothing, none, none)
    sd = noise(views) if sd is None else sd
    first, last = _pairs(views)
    v, t, parcel = views.ndvi, views.day, views.parcel[first]
    fall, gap = v[first] - v[last], t[last] - t[first]
    before, after = _decline(views, first, -1), _decline(views, last, 1)
    decline = np.where(after <= -GROWS_BACK, 0, np.maximum(0, np.maximum(before, after)))
    # The day of the cut is not known within the gap before the low view: half of it in the mean.
    hidden = np.maximum(0, t[last] - t[last - 1] - STUBBLE_DAYS)
    whole = fall + np.clip(-after, 0, GROWN_BACK_MOST) * hidden / 2
    z = (whole - gap * decline - FALL_NDVI) / (np.sqrt(2) * sd[parcel])
    confidence = 1 / (1 + np.exp(-1.7 * np.clip(z, -20, 20)))
    confidence *= np.minimum(1, INTERVAL_DAYS / gap) * _confirmed(views, last, whole)
    day = t[first].astype("M8[D]")
    of_year = (day - day.astype("M8[Y]")).astype(np.int64) + 1
    possible = (of_year >= SEASON[0]) & (of_year <= SEASON[1]) & ~_is_lost(views, last)
    return Falls(parcel, t[first], t[last], fall, np.where(possible, confidence, 0.0))


def _pairs(views: OrderedViews) -> tuple[Ints, Ints]:
    """Return places (F,) of views before and after that bound a fall from a stand to stubble, over each of the spans."""
    every = np.arange(len(views.day) - 1)
    every = every[(views.parcel[1:] == views.parcel[:-1]) & (views.ndvi[:-1] >= STAND_NDVI)]
    ends = [every + 1 if span == 0 else views.at_or_before(every, span) for span in SPANS]
    first, last = np.tile(every, len(SPANS)), np.concatenate(ends)
    is_new = np.concatenate(
        [ends[0] > every, *(ends[nr] > np.maximum(every + 1, ends[nr - 1]) for nr in range(1, len(SPANS)))]
    )
    fall = views.ndvi[first] - views.ndvi[last]
    chosen = is_new & (fall > FALL_NDVI / 4) & (views.ndvi[last] <= STUBBLE_NDVI)
    return first[chosen], last[chosen]


def _decline(views: OrderedViews, at: Ints, side: int) -> Floats:
    """Return (F,) the NDVI a day lost before (-1) or after (1) some views, the least of the spans; 0 where none is seen.

    A span ends at the view nearest to it that is at least 8 days away; where none is within it, at the next one further off.
    """
    found = np.full(len(at), np.inf)
    for days in BESIDE_DAYS:
        other = views.at_or_after(at, days) if side < 0 else views.at_or_before(at, days)
        further = np.clip(other + side, 0, len(views.day) - 1)
        is_near = np.abs(views.day[other] - views.day[at]) < LEAST_SPAN
        other = np.where(is_near & (views.parcel[further] == views.parcel[at]), further, other)
        span = np.abs(views.day[other] - views.day[at])
        lost = side * (views.ndvi[at] - views.ndvi[other]) / np.maximum(span, 1)
        found = np.where((span >= LEAST_SPAN) & (span <= MOST_SPAN), np.minimum(found, lost), found)
    return np.where(np.isfinite(found), found, 0.0)


def _confirmed(views: OrderedViews, last: Ints, whole: Floats) -> Floats:
    """Return (F,) 1 where the views behind whole falls (F,) are low, too, down to 0 where they are back: hidden cloud."""
    following = np.minimum(last + 1, len(views.day) - 1)
    is_seen = (views.parcel[following] == views.parcel[last]) & (following > last)
    days = np.where(is_seen, views.day[following] - views.day[last], CONFIRM_DAYS + 1)
    back = (views.ndvi[following] - views.ndvi[last]) / whole
    lenient = np.maximum(0, days - 6) * REGROWN_A_DAY
    factor = np.clip((BACK[1] + lenient - back) / (BACK[1] - BACK[0]), 0, 1)
    return np.where(days <= CONFIRM_DAYS, factor, UNCONFIRMED)


def _is_lost(views: OrderedViews, last: Ints) -> Bools:
    """Return (F,) whether a fall ends on bare soil, or nothing is green on the views 8 to 30 days later, or on the first behind them."""
    later = [views.at_or_before(last, days) for days in (*BESIDE_DAYS, LOST_DAYS)]
    behind = np.minimum(later[-1] + 1, len(views.day) - 1)
    is_none = views.day[later[-1]] - views.day[last] < LEAST_SPAN
    later.append(np.where(is_none & (views.parcel[behind] == views.parcel[last]), behind, last))
    seen = [np.where(views.day[one] - views.day[last] >= LEAST_SPAN, views.ndvi[one], -1.0) for one in later]
    greenest = np.max(seen, axis=0)
    return np.asarray((views.ndvi[last] < BARE_NDVI) | ((greenest >= 0) & (greenest < VEGETATION_NDVI)))
