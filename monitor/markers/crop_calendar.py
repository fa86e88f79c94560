"""What is known of a crop before it is seen: when it comes up, is greenest and leaves the field, from its HCAT code.

Dates are of mid-latitudes of the northern half of the Earth, and wide: they say which of several rises and falls of a year is the declared
crop's, not when it happened.
Source: JRC-MARS European crop calendars, widened by a month; codes: HCAT3 (EuroCrops, Schneider et al. 2023).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Final

import numpy as np

from monitor.alerts.neighbours import Bools, Days, Ints


@dataclass(frozen=True)
class CropTime:
    """Dates as month and day (301 is 1 March), negative in the year before the harvest; lags in days."""

    name: str
    codes: tuple[str, ...]
    """How its HCAT codes begin; with a "*" for each digit that does not matter."""
    emerges_from: int
    peaks: tuple[int, int]
    leaves_from: int
    """The earliest harvest."""
    lag: tuple[int, int, int] = (0, 0, 0)
    """Days from the end of green to the harvest: least, most likely, most. 0: cut or lifted green."""

    def harvest_from(self, year: int) -> date:
        """Return the earliest day of the harvest in a year."""
        return date.fromisoformat(_date(year, self.leaves_from))


_RIPE: Final = (1, 8, 21)
"""A crop that ripens standing is threshed about a week after it lost its green (median of tuning seasons 8 days, a tenth later than 14)."""
_KILLED: Final = (7, 24, 50)
"""Haulm of potatoes is killed, or dies, three weeks and more before they are lifted (medians of the tuning seasons: 18 to 34 days)."""
_WINTER: Final = -1116
"""The last beets and grain maize are in by mid November (Cosun; JRC-MARS)."""
_DRIED: Final = (4, 12, 30)
"""Tops of onions fall over and dry before they are lifted (medians of the tuning seasons: 9 to 21 days)."""
CROPS: Final = (
    CropTime("winter cereals", ("330101**01",), -901, (301, 710), 525, _RIPE),
    CropTime("spring cereals", ("330101**02",), 215, (415, 731), 625, _RIPE),
    CropTime("grain maize", ("33010106",), 415, (620, 930), 815, _RIPE),
    CropTime("cereals", ("330101",), -901, (301, 731), 525, _RIPE),
    CropTime("spring rape", ("3301060402",), 315, (515, 731), 701, _RIPE),
    CropTime("rape", ("33010604",), -801, (301, 630), 601, _RIPE),
    CropTime("sunflower", ("33010605",), 401, (601, 831), 801, _RIPE),
    CropTime("silage maize", ("33010904",), 415, (620, 930), 815),
    CropTime("potatoes", ("330103",), 401, (525, 831), 701, _KILLED),
    CropTime("beets", ("330129",), 315, (601, 1015), 820),
    CropTime("bulbs", ("330122",), 301, (515, 831), 701, _DRIED),
)
OTHER: Final = CropTime("other", (), -901, (401, 915), 525)
"""Of a crop that is not among these, or not known: green until it is cut, unless its fall is slow."""
NOT_ARABLE: Final = ("3302", "3303", "33010901", "33010903", "3305", "3306")
"""Codes of grass, permanent crops, leys and clover, and of what is not farmed: neither sown, harvested nor tilled each year."""


@dataclass(frozen=True)
class Calendars:
    """Of P parcels, dates (P,)."""

    is_arable: Bools
    emerges_from: Days
    peaks_from: Days
    peaks_until: Days
    leaves_from: Days
    lag: Ints
    """(P, 3)"""
    winter_from: np.datetime64
    """From then on nothing of the season before is harvested any more."""
    is_known: Bools
    """(P,) whether the crop is in the table."""


def calendars(hcat_codes: Sequence[str | None], harvest_year: int) -> Calendars:
    """Return the calendars of declared crops in the year of their harvest."""
    codes = {code: nr for nr, code in enumerate(dict.fromkeys(hcat_codes))}
    own = np.array([codes[code] for code in hcat_codes], np.int64)
    place = np.array([_place(code or "") for code in codes], np.int64)[own]
    every = (*CROPS, OTHER)

    def dates(values: Sequence[int]) -> Days:
        return np.array([_date(harvest_year, one) for one in values], "M8[D]")[place]

    return Calendars(
        np.array([not (code or "").startswith(NOT_ARABLE) for code in codes], bool)[own],
        dates([one.emerges_from for one in every]),
        dates([one.peaks[0] for one in every]),
        dates([one.peaks[1] for one in every]),
        dates([one.leaves_from for one in every]),
        np.array([one.lag for one in every], np.int64)[place],
        np.datetime64(_date(harvest_year, _WINTER)),
        place < len(CROPS),
    )


@cache
def _place(code: str) -> int:
    for nr, one in enumerate(CROPS):
        if any(_begins(code, with_) for with_ in one.codes):
            return nr
    return len(CROPS)


def _begins(code: str, with_: str) -> bool:
    return len(code) >= len(with_) and all(wanted in ("*", digit) for digit, wanted in zip(code, with_, strict=False))


def _date(year: int, of: int) -> str:
    return f"{year if of > 0 else year - 1}-{abs(of) // 100:02}-{abs(of) % 100:02}"
