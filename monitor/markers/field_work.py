"""Work on arable fields: emergence, harvest and tillage of P parcels, from one table of their clear views."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from monitor.alerts.neighbours import Days, Ints
from monitor.alerts.rules import ClearViews
from monitor.markers.crop_calendar import calendars
from monitor.markers.emergence import emergence
from monitor.markers.form import Marked, RadarViews
from monitor.markers.harvest import harvest
from monitor.markers.stand import Course, Stands, stands
from monitor.markers.tillage import tillage

NOT_ARABLE: Final = "the declared crop is not sown, harvested or tilled each year"
"""Why the markers do not apply to a parcel."""


@dataclass(frozen=True)
class FieldWork:
    """What the markers of arable land say of P parcels."""

    emergence: Marked
    harvest: Marked
    tillage: Marked
    course: Course
    """Of the clear views on which they rest."""
    stands: Stands


def field_work(
    views: ClearViews, radar: RadarViews, hcat_codes: Sequence[str | None], harvest_year: int, today: Days
) -> FieldWork:
    """Return emergence, harvest and tillage of P parcels.

    Args:
        views: clear views of the season.
        radar: passes; those of a parcel without a clear view say nothing.
        hcat_codes: (P,) of the declared crops, None where not known.
        harvest_year: the year in which the season's crops are harvested.
        today: (P,) the day until which each parcel is known, NaT where nothing is.
    """
    course, of = Course.of(views), calendars(hcat_codes, harvest_year)
    known_to = np.where(np.isnat(today), np.datetime64("0001-01-01"), today).astype("M8[D]").astype(np.int64)
    found = stands(course, of)
    left = harvest(course, of, found, known_to, radar)
    tilled = tillage(course, of, found, left_on(left), radar)
    return FieldWork(emergence(course, of, found), left, tilled, course, found)


def left_on(harvested: Marked) -> Ints:
    """Return (P,) the most likely day since 1970 of each harvest, far in the future where there is none."""
    day = np.full(len(harvested.status), 1 << 30)
    day[harvested.events.parcel] = harvested.events.best.astype("M8[D]").astype(np.int64)
    return day
