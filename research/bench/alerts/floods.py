"""Low neighbours of a simulated season as known on a day: what workers find and the leader counts, from rows in memory.

A pass is counted anew on each day on which anything of it became known or was replaced.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from monitor.alerts.flooding import AMONG_DROP_DB, AMONG_WATER_DB, is_like_water, low_passes
from monitor.alerts.low_neighbours import NEAREST, USUAL_SHARE, WITHIN_M, LowNeighbours, counted, usual_shares
from monitor.alerts.neighbours import Bools, Ints
from monitor.markers.form import RadarViews
from research.bench.alerts.known import Rows


class LowLand:
    """Which passes were low among low neighbours, as known on days that are asked ascending.

    Args:
        radar: all that was observed.
        metres: (P, 2) places of the parcels.
        group: (P,) region and declared crop.
        groups: (G) regions and crops, by name.
        is_watched: (P,) parcels that can be monitored.
        sampled: (S,) those by which it is judged what is usual.
    """

    def __init__(
        self,
        radar: Rows,
        metres: NDArray[np.floating[Any]],
        group: Ints,
        groups: list[tuple[str, str]],
        is_watched: Bools,
        sampled: Ints,
    ) -> None:
        self._radar, self._group, self._is_watched, self._sampled = radar, group, is_watched, sampled
        regions, crops = (sorted({one[nr] for one in groups}) for nr in (0, 1))
        self._region = np.array([regions.index(one) for one, _ in groups])
        self._crop = np.array([crops.index(one) for _, one in groups])[group]
        self._near = _nearest(metres, is_watched)
        self._is_low = np.zeros(len(radar.parcel), bool)
        self._pass = np.unique(np.stack([radar.days.astype(np.int64), radar.orbit]), axis=1, return_inverse=True)[1]
        self._like_water = is_like_water(radar.values[:, 0], radar.values[:, 1], AMONG_WATER_DB)
        self._counted = dict[int, LowNeighbours]()

    def known(self, today: np.datetime64) -> LowNeighbours:
        """Return the flooded passes as known at the end of a day."""
        radar = self._radar
        is_moved, is_gone = (one == today for one in (radar.known_from, radar.known_until))
        self._find(np.unique(radar.parcel[is_gone | (is_moved & self._like_water)]), today)
        self._is_low[is_gone] = False
        for nr in np.unique(self._pass[is_moved | is_gone]).tolist():
            self._counted[nr] = self._count(np.flatnonzero((self._pass == nr) & radar.on(today)))
        parts = [one for one in self._counted.values() if len(one.parcel)] or [LowNeighbours.none()]
        return LowNeighbours(*(np.concatenate(columns) for columns in zip(*map(_columns, parts), strict=True)))

    def _find(self, parcels: Ints, today: np.datetime64) -> None:
        """Find the low passes of some parcels."""
        radar = self._radar
        rows = np.flatnonzero(np.isin(radar.parcel, parcels))
        self._is_low[rows] = False
        rows = rows[radar.on(today)[rows]]
        views = RadarViews.of_backscatter(
            radar.parcel[rows], radar.days[rows], radar.orbit[rows], *radar.values[rows].T
        )
        self._is_low[rows] = low_passes(views, AMONG_DROP_DB, AMONG_WATER_DB)

    def _count(self, rows: Ints) -> LowNeighbours:
        """Return the flooded parcels of one pass."""
        is_seen, is_low = (np.zeros(len(self._group), bool) for _ in range(2))
        low = rows[self._is_low[rows]]
        is_seen[self._radar.parcel[rows]], is_low[self._radar.parcel[low]] = True, True
        is_seen &= self._is_watched
        some = self._sampled
        usual = usual_shares(self._group[some], self._region, is_seen[some], is_low[some])[self._group]
        is_low &= is_seen & (usual <= USUAL_SHARE)
        low = low[is_low[self._radar.parcel[low]]]
        own = self._radar.parcel[low]
        n = counted(self._near[own], self._crop[own], self._crop, is_seen, is_low)
        found = LowNeighbours(own, self._radar.days[low], self._radar.orbit[low], *n, usual[own])
        return found.only(found.is_flooded)


def _columns(one: LowNeighbours) -> Iterator[NDArray[Any]]:
    return iter(vars(one).values())


def _nearest(metres: NDArray[np.floating[Any]], is_watched: Bools) -> Ints:
    """Return (P, NEAREST) places of the nearest parcels that are watched, -1 where there are not so many near."""
    places = np.flatnonzero(is_watched)
    distance, near = cKDTree(metres[places]).query(metres, k=min(NEAREST + 1, len(places)))
    near = np.where(distance <= WITHIN_M, places[near], -1)
    near[near == np.arange(len(metres))[:, None]] = -1
    near = np.take_along_axis(near, np.argsort(near < 0, axis=1, kind="stable"), axis=1)  # none go last
    return np.asarray(near[:, :NEAREST])
