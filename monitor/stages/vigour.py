"""Vigour beside that of the neighbours, and the parcel's own past: said once for each dekad that is over.

    known to   the dekads that were over, with the days in which their views come, before a parcel's newest clear view
    due        parcels of which more dekads are over, or whose neighbours' band differs in one, and those of which anything came late,
               was revised or is new: one number that the series carries says what was known of the band (monitor/markers/bands.py)

So what is said is a function of what is stored, whether the leader or a worker came first: the leader asks for parcels whose neighbours'
band moved, and for those that were seen behind the dekads that it comes to know (monitor/crop_progress.py).

Reads the batch's series, parcels and the stored progress of the crops. Adds to `marked` and to what the series carries.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from monitor.alerts.neighbours import Ints
from monitor.batch import BatchContext
from monitor.crop_progress import KnownGroups, KnownStands
from monitor.dekads import dekad_number, dekad_numbers
from monitor.markers.bands import greenest, n_over
from monitor.markers.crop_calendar import calendars
from monitor.markers.own_past import LEAST_SEASONS
from monitor.markers.vigour import DEKADS, vigour
from monitor.stages.own_past import compared
from monitor.stages.said import because, restate

REASONS: Final = because(
    {
        "vigour": "no crop is declared, or none that is farmed",
        "own_past": "crops rotate here: only grassland and permanent crops are compared with their past",
    },
    {
        "vigour": f"fewer than {DEKADS} dekads of growth in which the parcel and enough neighbours of its crop were seen",
        "own_past": f"fewer than {DEKADS} dekads that were also seen in {LEAST_SEASONS} past seasons under the same crop group",
    },
)
NOT_FARMED: Final = ("3305", "3306")
"""HCAT codes of what has no crop (as in `monitor.markers.crop_calendar.NOT_ARABLE`)."""


def mark(batch: BatchContext, known: KnownStands) -> None:
    """Find what vigour is said of parcels on which that may have changed."""
    some, n_known = _seen(batch)
    if not len(some):
        return
    groups, group = batch.neighbours(known)
    place = np.minimum(n_known, groups.bands.n_dekads)
    now = groups.bands.until[group[some], place]
    is_due = ~batch.is_in_order[some] | (batch.series.bands_seen[some] != now)
    due = some[is_due]
    if not len(due):
        return
    batch.series.bands_seen[due], batch.is_restated[due] = now[is_due], True
    codes = [batch.parcels.hcat_code[nr] for nr in due.tolist()]
    is_asked = np.array([batch.parcels.crop_code[nr] is not None for nr in due.tolist()], bool)
    is_asked &= np.array([not (code or "").startswith(NOT_FARMED) for code in codes], bool)
    green = _greenest(batch, due, groups)
    found = vigour(
        green, groups.bands, group[due], place[is_due], calendars(codes, batch.season.harvest_year), is_asked
    )
    restate(batch, due, [found, compared(batch, due, green, place[is_due])], REASONS)


def _seen(batch: BatchContext) -> tuple[Ints, Ints]:
    """Return places of parcels on which anything may have changed, and how many dekads were over before their newest view."""
    series, claim = batch.series, batch.claim
    may_differ = ~batch.is_in_order | claim.is_due("rules")
    may_differ[series.view_parcel[np.flatnonzero(series.is_new_view)]] = True
    some = np.flatnonzero(may_differ)
    begin, end = (np.searchsorted(series.view_parcel, some, side=side) for side in ("left", "right"))
    starts_on, has = batch.season.starts_on, end > begin
    newest = np.floor(np.where(has, np.append(series.views["day"], 0)[end - 1], 0)).astype("m8[D]")
    return some, np.where(has, n_over(np.datetime64(starts_on) + newest, dekad_number(starts_on)), 0)


def _greenest(batch: BatchContext, due: Ints, groups: KnownGroups) -> NDArray[np.float32]:
    """Return (P, K) the greenest view of each parcel and dekad."""
    rows, parcel = batch.series.views_of(due)
    first, last = batch.season.starts_on, batch.season.ends_on
    dekad_of = dekad_numbers(np.arange(np.datetime64(first), np.datetime64(last) + 1)) - dekad_number(first)
    dekad = dekad_of[np.clip(rows["day"].astype(np.int64), 0, len(dekad_of) - 1)]
    return greenest(parcel, dekad, rows["ndvi"], (len(due), groups.bands.n_dekads))
