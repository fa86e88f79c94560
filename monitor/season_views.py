"""The leader's memory of a season: clear views of the sampled parcels, and how their groups stood day by day when it last looked.

    scenes stored since ── the first day that they show ── sampled parcels' views from that day on ── days from then on anew

How a group stands on a day rests on views of VIEW_AGE_DAYS before it, so days before the first new view stay as they are. They are
all made anew where a group has more or fewer parcels than before: how many of them must be seen depends on that. The memory is a
cache: a leader that has none, or whose sample is another, reads the whole season once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from db import crop_progress
from db.connect import Connection
from db.crop_progress import ProgressRow, SampleVersion
from db.seasons import Season
from monitor.alerts.neighbours import VIEW_AGE_DAYS, Bools, Floats, Ints, by_day, n_days, stands_by_day
from monitor.alerts.settings import RuleSettings
from monitor.dekads import dekad_number, dekad_numbers, dekads_begin
from monitor.markers.bands import QUARTILES, bands, greenest, n_over

SAMPLE: Final = 200
"""Parcels sampled for each region and crop: a share is then known to 3.5 % (binomial standard error at 0.5)."""
_CELLS: Final = 2_000_000
"""Parcels times days that are computed at once: bounds the memory."""


@dataclass
class SeasonViews:
    """What a leader keeps of a season and collection."""

    season: Season
    version: SampleVersion
    parcel_keys: Ints
    """(S,) sampled parcels, sorted by group."""
    group: Ints
    """(S,) ascending places of their groups."""
    groups: list[tuple[int, str]]
    """(G) region key and declared crop."""
    n_stored: dict[int, int] = field(default_factory=dict)
    """Observations of each scene when the views were last read."""
    views: NDArray[np.void] = field(default_factory=lambda: np.zeros(0, crop_progress.VIEW))
    """(N,) place of the parcel, day of the season, NDVI."""
    changed_from: int = 0
    """First day of the season whose views are others than when the groups were last computed."""
    n: Ints = field(init=False)
    """(G,) parcels with a view, when last computed."""
    share: Floats = field(init=False)
    """(G, D) share with a canopy, likewise."""
    median: Floats = field(init=False)
    """(G, D) median of their last views, likewise."""
    band: Floats = field(init=False)
    """(3, G, K) band of the dekads that were over, likewise."""

    def __post_init__(self) -> None:
        self.n = np.zeros(len(self.groups), np.int64)
        self.share = self.median = np.zeros((len(self.groups), 0), np.float32)
        self.band = np.zeros((len(QUARTILES), len(self.groups), 0), np.float32)

    @classmethod
    def read(cls, connection: Connection, season: Season, collection: str, version: SampleVersion) -> "SeasonViews":
        """Return the sample of a season, with nothing of its views yet."""
        parcel_keys, region, crop = crop_progress.sample(connection, season.season_key, collection, SAMPLE)
        groups = sorted(set(zip(region, crop, strict=True)))
        place = {group: nr for nr, group in enumerate(groups)}
        group = np.array([place[one] for one in zip(region, crop, strict=True)], np.int64)
        order = np.lexsort((parcel_keys, group))
        return cls(season, version, parcel_keys[order], group[order], groups)

    def update(self, connection: Connection) -> int:
        """Read the views that may have changed; return how many Sentinel-2 observations of the season are stored."""
        # Counted before the views are read: what is stored in between counts as new next time. The other way round it could
        # be missed. All observations of a scene are of one time: the start of its datatake.
        scenes = crop_progress.scenes(connection, self.season.starts_on, self.season.ends_on)
        n_stored = dict(zip(scenes["scene_key"].tolist(), scenes["parcels"].tolist(), strict=True))
        is_new = np.array([self.n_stored.get(key) != n for key, n in n_stored.items()], bool)
        if is_new.any():
            starts_on, ends_on = self.season.starts_on, self.season.ends_on
            first = int((scenes["day"][is_new].min() - np.datetime64(starts_on)).astype(int))
            new = crop_progress.clear_views(connection, self.parcel_keys, starts_on, ends_on, first)
            self.views = np.concatenate([self.views[self.views["day"] < first], new])
            self.changed_from = min(self.changed_from, first)
            self.n_stored = n_stored
        return sum(n_stored.values())

    def progress(self, until: date, settings: RuleSettings) -> list[ProgressRow]:
        """Return how each group with a view stands on each day of the season until one, that included."""
        days = n_days(self.season.starts_on, until)
        is_viewed = np.zeros(len(self.parcel_keys), bool)
        is_viewed[self.views["parcel"]] = True
        n = np.bincount(self.group[is_viewed], minlength=len(self.groups))
        self.band = self._bands(until, settings)
        known = self.share.shape[1]
        first = max(0, min(self.changed_from, known)) if known <= days else 0
        share, median = (_extended(one[:, :first], days) for one in (self.share, self.median))
        for is_anew, begin in ((n != self.n, 0), (n == self.n, first)):
            for some in self._blocks(is_viewed & is_anew[self.group], days - begin):
                places = np.unique(self.group[some])
                share[places, begin:], median[places, begin:] = self._computed(some, begin, days, settings)
        self.n, self.share, self.median, self.changed_from = n, share, median, days
        return [
            ProgressRow(*self.groups[nr], int(n[nr]), self.season.starts_on, share[nr], median[nr], self.band[:, nr])
            for nr in np.flatnonzero(n).tolist()
        ]

    def _bands(self, until: date, settings: RuleSettings) -> Floats:
        """Return the bands of the dekads that are over on a day; those before the first view that is another are known."""
        starts_on = self.season.starts_on
        first, first_day = dekad_number(starts_on), np.datetime64(starts_on)
        n_dekads = int(n_over(np.array([until], "M8[D]"), first)[0])
        known = dekad_number(starts_on + timedelta(self.changed_from)) - first
        known = min(known, self.band.shape[2], n_dekads)
        begins = dekads_begin(np.array([first + known]))[0]
        views = self.views[self.views["day"] >= (begins - first_day).astype(np.int64)]
        dekad = dekad_numbers(first_day + views["day"].astype("m8[D]")) - first - known
        green = greenest(views["parcel"], dekad, views["ndvi"], (len(self.parcel_keys), n_dekads - known))
        anew = bands(green, self.group, len(self.groups), settings.neighbours_min)
        return np.concatenate([self.band[:, :, :known], anew], axis=2)

    def _blocks(self, keep: Bools, days: int) -> Iterator[Ints]:
        """Yield places of the parcels to keep, whole groups at a time."""
        places = np.flatnonzero(keep)
        most = max(1, _CELLS // max(days + VIEW_AGE_DAYS, 1))
        begins = np.flatnonzero(np.diff(self.group[places], prepend=-1))
        while len(begins):
            end = int(np.searchsorted(begins, begins[0] + most, side="right"))
            stop = begins[end] if end < len(begins) else len(places)
            yield places[begins[0] : stop]
            begins = begins[end:]

    def _computed(self, some: Ints, begin: int, days: int, settings: RuleSettings) -> tuple[Floats, Floats]:
        """Return share and median of some parcels' groups from day `begin` on."""
        oldest = max(0, begin - VIEW_AGE_DAYS)
        index = np.full(len(self.parcel_keys), -1)
        index[some] = np.arange(len(some))
        views = self.views[(index[self.views["parcel"]] >= 0) & (self.views["day"] >= oldest)]
        seen = by_day(index[views["parcel"]], views["day"] - oldest, views["ndvi"], len(some), days - oldest)
        _, group, n = np.unique(self.group[some], return_inverse=True, return_counts=True)
        return stands_by_day(seen, group, n, begin - oldest, settings)


def _extended(known: Floats, days: int) -> Floats:
    """Return (G, days) known days, NaN behind them."""
    extended = np.full((len(known), days), np.nan, np.float32)
    extended[:, : known.shape[1]] = known
    return extended


@dataclass
class LeaderMemory:
    """What a leader keeps of all seasons."""

    _kept: dict[tuple[int, str], SeasonViews] = field(default_factory=dict)

    def of(self, connection: Connection, season: Season, collection: str) -> SeasonViews:
        """Return what is kept of a season and collection; made anew where its parcels or its dates have changed."""
        version = crop_progress.sample_version(connection, season.season_key, collection)
        kept = self._kept.get((season.season_key, collection))
        if kept is None or (kept.version, kept.season) != (version, season):
            kept = self._kept[season.season_key, collection] = SeasonViews.read(connection, season, collection, version)
        return kept
