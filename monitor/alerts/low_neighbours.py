"""Low passes among neighbours: what tells a flood from a seedbed, or from a dry and calm day, by radar alone.

    unusual     at most `USUAL_SHARE` of the region's parcels of the crop are low at the pass, of its parcels of all crops where fewer
                than `REGION_SEEN` of the crop were seen: a seedbed campaign or a drought takes a crop in the whole region
    around      the `NEAREST` parcels within `WITHIN_M` of a parcel, of any crop
    flooded     a pass that is low and unusual, as it is for `LOW_MIN` and `LOW_SHARE` at least of those that were seen around, which
                are of `CROPS_MIN` declared crops at least, its own counted

A flood of more than a tenth of a region's parcels is taken for the region's weather, and not found so.
Source: ours; constants chosen on simulated seasons that nothing is scored on and on 1,107 Dutch parcels without a flood (docs/LOG.md).
Shapes: P parcels, C of them of which neighbours are counted, G groups of region and declared crop, N passes.
"""

from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from monitor.alerts.neighbours import Bools, Days, Floats, Ints

NEAREST: Final = 12
WITHIN_M: Final = 1000.0
LOW_MIN: Final = 4
LOW_SHARE: Final = 0.35
"""Of the neighbours of a parcel at a flood's edge about half are flooded."""
CROPS_MIN: Final = 2
USUAL_SHARE: Final = 0.10
REGION_SEEN: Final = 20
UNDECLARED: Final = -1
"""As a crop: counts as low, and as no crop."""


@dataclass(frozen=True)
class LowNeighbours:
    """Low passes of parcels with what was seen around; arrays (N,)."""

    parcel: Ints
    """Place of the parcel, or its key."""
    days: Days
    orbit: Ints
    n_seen: Ints
    n_low: Ints
    """Low and unusual."""
    n_crops: Ints
    usual_share: Floats
    """Of the region's parcels of the same crop that were low, too."""

    @classmethod
    def none(cls) -> "LowNeighbours":
        """Return no passes."""
        ints, days = np.zeros(0, np.int64), np.zeros(0, "M8[D]")
        return cls(ints, days, ints, ints, ints, ints, np.zeros(0, np.float32))

    @property
    def share(self) -> Floats:
        """Return (N,) the share of those seen around that were low."""
        return np.asarray(self.n_low / np.maximum(self.n_seen, 1))

    @property
    def is_flooded(self) -> Bools:
        """Return (N,) at which passes the land around was flooded, too."""
        is_many = (self.n_low >= LOW_MIN) & (self.share >= LOW_SHARE)
        return np.asarray(is_many & (self.n_crops >= CROPS_MIN) & (self.usual_share <= USUAL_SHARE))

    def only(self, which: Ints | Bools) -> "LowNeighbours":
        """Return some of the passes."""
        return LowNeighbours(*(getattr(self, one.name)[which] for one in fields(self)))


def usual_shares(group: Ints, region: Ints, is_seen: Bools, is_low: Bools) -> Floats:
    """Return (G,) which share of each group's parcels, or of its region's, is usually low at a pass; NaN where none was seen.

    Args:
        group: (S,) groups of the parcels that were sampled.
        region: (G,) regions of the groups.
        is_seen: (S,) whether each was seen.
        is_low: (S,) whether each was low.
    """
    n_groups = len(region)
    seen, low = (np.bincount(group[one], minlength=n_groups) for one in (is_seen, is_seen & is_low))
    n_regions = int(region.max(initial=-1)) + 1
    around, low_around = (np.bincount(region, one, n_regions)[region] for one in (seen, low))
    is_few = seen < REGION_SEEN
    seen, low = np.where(is_few, around, seen), np.where(is_few, low_around, low)
    return np.where(seen > 0, low / np.maximum(seen, 1), np.nan)


def counted(around: Ints, own_crop: Ints, crop: Ints, is_seen: Bools, is_low: Bools) -> tuple[Ints, Ints, Ints]:
    """Return (C,) how many of the parcels around each were seen, how many were low, and of how many crops these are, its own counted.

    Args:
        around: (C, K) places among P parcels, -1 for none.
        own_crop: (C,) declared crops, `UNDECLARED` where nothing is.
        crop: (P,) likewise.
        is_seen: (P,) whether each was seen at the pass.
        is_low: (P,) whether each was low and unusual.
    """
    is_there = around >= 0
    seen, low = is_there & is_seen[around], is_there & (is_seen & is_low)[around]
    crops = np.column_stack([own_crop, np.where(low, crop[around], UNDECLARED)])
    crops.sort(axis=1)
    is_new = np.diff(crops, axis=1, prepend=UNDECLARED) != 0
    return seen.sum(axis=1), low.sum(axis=1), is_new.sum(axis=1)


def is_crowded(x_m: NDArray[np.floating[Any]], y_m: NDArray[np.floating[Any]]) -> Bools:
    """Return (C,) which of some places may have `LOW_MIN` others within `WITHIN_M`: there are so many in the cells around."""
    cells = np.floor(np.stack([x_m, y_m], axis=1) / WITHIN_M).astype(np.int64)
    cells -= cells.min(axis=0, initial=0)
    width = int(cells[:, 1].max(initial=0)) + 3
    key = (cells[:, 0] + 1) * width + cells[:, 1] + 1
    known, n = np.unique(key, return_counts=True)
    total = np.zeros(len(key), np.int64)
    for step in (-width - 1, -width, -width + 1, -1, 0, 1, width - 1, width, width + 1):
        place = np.minimum(np.searchsorted(known, key + step), max(len(known) - 1, 0))
        total += np.where(known[place] == key + step, n[place], 0) if len(known) else 0
    return np.asarray(total > LOW_MIN)
