"""How green the parcels of each region and declared crop are, dekad by dekad: the band in which most of them lie.

    x      greenest clear view of a sampled parcel in a dekad: hidden cloud only lowers NDVI
    band   lower quartile, median and upper quartile of x over the parcels of a group that were seen in the dekad

A dekad has a band once it is over and its views have come; views that come later move it. Bands are in whole hundredths, finer than the
noise of a view (0.03): so a parcel need be looked at anew only where one differs, and is wherever one does.
Source: quartiles as the robust summary of a group, Tukey 1977, Exploratory Data Analysis; parcels beside those of the same crop nearby as
in Mouret et al. 2021, Remote Sensing 13(5) 956.
Shapes: S sampled parcels, G groups, K dekads of the season, N views.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from monitor.alerts.neighbours import Days, Floats, Ints
from monitor.dekads import dekad_numbers

LATE_DAYS: Final = 3
"""Days after a dekad by which its views have come: all but one in twenty are stored within two days of the pass."""
QUARTILES: Final = (0.25, 0.5, 0.75)
_MIX: Final = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio (Knuth, The Art of Computer Programming 3, 6.4): spreads what it multiplies over all bits."""


def n_over(days: Days, first: int) -> Ints:
    """Return how many dekads from one on are over, their views there, on days (N,)."""
    by_then: Days = np.asarray(days.astype("M8[D]") - np.timedelta64(LATE_DAYS, "D"))
    return np.maximum(dekad_numbers(by_then) - first, 0)


def greenest(parcel: Ints, dekad: Ints, ndvi: Floats, shape: tuple[int, int]) -> Floats:
    """Return (P, K) the greenest of views (N,) in any order by parcel and dekad of the season, NaN where there is none."""
    table = np.full(shape, np.nan, np.float32)
    inside = (dekad >= 0) & (dekad < shape[1]) & np.isfinite(ndvi)
    np.fmax.at(table.reshape(-1), parcel[inside] * shape[1] + dekad[inside], ndvi[inside])
    return table


def bands(green: Floats, group: Ints, n_groups: int, least: int) -> Floats:
    """Return (3, G, K) the quartiles of each group and dekad in hundredths of NDVI, NaN of fewer than `least` parcels.

    Args:
        green: (S, K) greenest view of each sampled parcel and dekad.
        group: (S,) place of its group.
        n_groups: G.
        least: parcels seen in the dekad, with fewer of which nothing is said.
    """
    n_dekads = green.shape[1]
    place, dekad = np.nonzero(np.isfinite(green))
    # In whole ten-thousandths behind the number of the cell: one sort of integers, exact in any order.
    cell = group[place] * n_dekads + dekad
    key = np.sort(cell << 16 | np.rint(green[place, dekad].astype(np.float64) * 1e4).astype(np.int64) + 20_000)
    n = np.bincount(cell, minlength=n_groups * n_dekads)
    begin = np.cumsum(n) - n
    values = np.append((key & (1 << 16) - 1) - 20_000, 0)
    found = np.empty((len(QUARTILES), len(n)), np.float32)
    for nr, share in enumerate(QUARTILES):
        at = share * np.maximum(n - 1, 0)
        low = np.floor(at).astype(np.int64)
        below, above = (values[np.minimum(begin + one, len(key))] for one in (low, np.minimum(low + 1, n - 1)))
        found[nr] = np.rint((below + (at - low) * (above - below)) / 100) / 100
    found[:, n < max(least, 1)] = np.nan
    return found.reshape(len(QUARTILES), n_groups, n_dekads)


@dataclass(frozen=True)
class Bands:
    """Bands of G groups, the last of which is the group of nobody (-1), of which nothing is known."""

    first: int
    """Number of the dekad in which the season begins (`monitor.dekads.dekad_numbers`)."""
    quartiles: Floats
    """(3, G, K) lower quartile, median, upper quartile; NaN where not known."""
    until: NDArray[np.uint64]
    """(G, K + 1) one number for all that is known of the dekads before each; never 0."""

    @classmethod
    def of(cls, stored: Sequence[Floats], first: int, n_dekads: int) -> "Bands":
        """Return the stored bands of groups, each (3, dekads that it knows), in their order."""
        quartiles = np.full((len(QUARTILES), len(stored) + 1, n_dekads), np.nan, np.float32)
        for nr, one in enumerate(stored):
            known = min(one.shape[1], n_dekads)
            quartiles[:, nr, :known] = one[:, :known]
        whole = np.where(np.isfinite(quartiles), np.rint(quartiles * 100), 255).astype(np.int64).astype(np.uint64)
        until = np.ones((len(stored) + 1, n_dekads + 1), np.uint64)
        for dekad in range(n_dekads):
            mixed = until[:, dekad]
            for quartile in whole[:, :, dekad]:
                mixed = (mixed ^ quartile) * _MIX
                mixed ^= mixed >> np.uint64(32)
            until[:, dekad + 1] = np.maximum(mixed, 1)
        return cls(first, quartiles, until)

    @property
    def n_dekads(self) -> int:
        """Return K."""
        return int(self.quartiles.shape[2])
