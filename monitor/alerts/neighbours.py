"""How the parcels of a region and declared crop stand: found from their clear views, and as arrays of many groups for the rules."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np
from numpy.typing import NDArray

from monitor.alerts.settings import RuleSettings

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Days = NDArray[np.datetime64]

VEGETATION_NDVI: Final = 0.35
"""Vegetation is present above it (Sen4CAP L4C)."""
VIEW_AGE_DAYS: Final = 30
"""A clear view older than that says nothing of a field's state today: a crop comes up or goes within a month."""


@dataclass(frozen=True)
class Neighbours:
    """How the parcels of one region and declared crop stand on each day of the season (the parcel itself included)."""

    n: int
    first_day: date
    standing_share: NDArray[np.float32]
    """(D,) share of parcels with a canopy; NaN where too few were seen in the last VIEW_AGE_DAYS."""
    median_ndvi: NDArray[np.float32]
    """(D,) median of their last clear views; NaN likewise."""
    harvest_from: date | None = None
    """When the harvest began in the season before, moved to this season; None where it is not known."""


def n_days(first: date, last: date) -> int:
    """Return how many days there are from the first to the last, both included."""
    return (last - first).days + 1


def by_day(parcel: Ints, day: Ints, ndvi: Floats, n_parcels: int, n_days: int) -> Floats:
    """Return (P, D) the NDVI of clear views (N,) by parcel and day, the greener one of two; NaN where there is none."""
    views, inside = np.full((n_parcels, n_days), np.nan, np.float32), (day >= 0) & (day < n_days)
    np.fmax.at(views, (parcel[inside], day[inside]), ndvi[inside])
    return views


def stands_by_day(views: Floats, group: Ints, n: Ints, first: int, settings: RuleSettings) -> tuple[Floats, Floats]:
    """Return the share of parcels with a canopy and the median of their last views, (G, D - first), from day `first` on.

    A parcel has a canopy on a day when the greener of its last two views, of at most VIEW_AGE_DAYS, shows vegetation: two,
    because the mask misses a cloud now and then.

    Args:
        views: (P, D) clear views by day, NaN where there is none; VIEW_AGE_DAYS before `first` are enough.
        group: (P,) ascending places of groups, each of the G at least once.
        n: (G,) parcels of each group.
        first: column of the first day wanted.
        settings: thresholds.
    """
    today = np.arange(views.shape[1], dtype=np.int32)
    newest = np.maximum.accumulate(np.where(np.isfinite(views), today, np.int32(-1)), axis=1)  # day of the last view
    # The view before the last: the last one as it stood the day before it.
    before = np.where(newest > 0, np.take_along_axis(newest, np.maximum(newest - 1, 0), axis=1), -1)

    def seen(day: NDArray[np.int32]) -> Floats:
        is_recent = (day >= 0) & (today[first:] - day <= VIEW_AGE_DAYS)
        return np.where(is_recent, np.take_along_axis(views, np.maximum(day, 0), axis=1), np.float32(np.nan))

    best = np.fmax(seen(newest[:, first:]), seen(before[:, first:]))  # NaN where a parcel was not seen lately
    begins = np.searchsorted(group, np.arange(len(n)))
    n_seen = np.add.reduceat(np.isfinite(best), begins, axis=0, dtype=np.int64)
    n_standing = np.add.reduceat(best > VEGETATION_NDVI, begins, axis=0, dtype=np.int64)
    enough = n_seen >= np.maximum(settings.neighbours_min, n / 2)[:, None]
    share = np.where(enough, n_standing / np.maximum(n_seen, 1), np.nan).astype(np.float32)
    ascending = _sorted_within(best, group)
    low, high = (
        np.take_along_axis(ascending, begins[:, None] + np.maximum(place, 0), axis=0)
        for place in ((n_seen - 1) // 2, np.minimum(n_seen // 2, n[:, None] - 1))
    )
    return share, np.where(enough, (low + high) / np.float32(2), np.float32(np.nan))


def _sorted_within(values: Floats, group: Ints) -> Floats:
    """Return the columns of values (P, D) sorted within each group of rows, NaN last."""
    order = np.argsort(values, axis=0, kind="stable")
    by_group = np.argsort(
        group.astype(np.int16)[order] if group.max(initial=0) < 2**15 else group[order], axis=0, kind="stable"
    )
    return np.take_along_axis(np.take_along_axis(values, order, axis=0), by_group, axis=0)


def harvest_day(standing_share: NDArray[np.float32], settings: RuleSettings, earliest: int = 0) -> int | None:
    """Return the day on which the harvest of a season that is over began; None where the crop stood to the end, or never.

    A time that ended before day `earliest` was of what stood before the crop, as a cover crop of the winter.

    The longest time that most fields stood ends with the harvest; it begins on the last day on which as many stood as in
    the middle of that time, less the share that may be lost early.
    Days without data count as crop while it lasts: cloud does not end a crop.
    """
    if (stand := longest_stand(standing_share, earliest)) is None:
        return None
    begin, end = stand
    share = standing_share[begin:end]
    if end > len(standing_share) - VIEW_AGE_DAYS or not np.isfinite(share).any():
        return None
    return begin + falls_on(share, settings)


def longest_stand(standing_share: Floats, until: int = 0) -> tuple[int, int] | None:
    """Return the first day of the longest time that most fields stood, and the day after it; None where they never did.

    Only times that last to day `until`, or longer, count.
    """
    stands = np.concatenate([[False], ~(standing_share < 0.5), [False]])
    begins, ends = np.flatnonzero(~stands[:-1] & stands[1:]), np.flatnonzero(stands[:-1] & ~stands[1:])
    begins, ends = begins[ends > until], ends[ends > until]
    if len(begins) == 0:
        return None
    longest = int(np.argmax(ends - begins))
    return int(begins[longest]), int(ends[longest])


def falls_on(share: Floats, settings: RuleSettings) -> int:
    """Return the day after the last on which as many stood as in the middle of a time, less the share that may be lost early."""
    whole = float(np.nanmedian(share)) - (1 - settings.standing_share)
    return int(np.flatnonzero(share >= whole)[-1]) + 1


@dataclass(frozen=True)
class CropStands:
    """How the parcels of G groups stand, a group being a region and declared crop; the last of them is the group of nobody.

    What a rule needs to know of a whole group is computed here, once for all its parcels. A parcel without a known group has the
    group -1: the last one, which has no parcels, days or dates.
    """

    n: Ints
    """(G,)"""
    first_day: Days
    """(G,)"""
    n_days: Ints
    """(G,) days known from the first."""
    standing_share: Floats
    """(G, D) as `Neighbours`, NaN from `n_days` on."""
    median_ndvi: Floats
    """(G, D) likewise."""
    harvest_from: Days
    """(G,) NaT where it is not known."""
    is_ever_bare: Bools
    """(G,) the group's fields lay bare on some day."""
    sown_on: Days
    """(G,) last day on which the group lay bare before it stood; NaT where it did not come up, or was never bare."""
    stands_on: Days
    """(G,) first day on which it stands after it lay bare; NaT likewise."""

    @classmethod
    def of(cls, groups: Sequence[Neighbours], settings: RuleSettings) -> "CropStands":
        """Return groups as arrays, in their order."""
        first_day = np.array([one.first_day for one in groups] + ["1970-01-01"], "M8[D]")
        n_days = np.array([len(one.standing_share) for one in groups] + [0])
        share, median = (
            _padded([getattr(one, name) for one in groups], int(n_days.max(initial=1)))
            for name in ("standing_share", "median_ndvi")
        )
        day = np.arange(share.shape[1])
        is_bare: Bools = np.asarray(share <= settings.seedbed_share)
        is_stand: Bools = np.asarray(share >= settings.standing_share)
        first_bare = np.where(is_bare.any(axis=1), is_bare.argmax(axis=1), len(day))
        is_up = is_stand & (day > first_bare[:, None])
        up, has_come_up = is_up.argmax(axis=1), is_up.any(axis=1)
        sown = len(day) - 1 - (is_bare & (day < up[:, None]))[:, ::-1].argmax(axis=1)
        return cls(
            np.array([one.n for one in groups] + [0]),
            first_day,
            n_days,
            share,
            median,
            np.array([one.harvest_from for one in groups] + [None], "M8[D]"),
            first_bare < len(day),
            np.where(has_come_up, first_day + sown, np.datetime64("NaT")),
            np.where(has_come_up, first_day + up, np.datetime64("NaT")),
        )

    def place(self, group: Ints, days: Days) -> Ints:
        """Return (N,) places of days (N,) in the arrays of groups (N,); days after the last known one take that."""
        place = (days - self.first_day[group]).astype("m8[D]").astype(np.int64)
        return np.clip(place, 0, self.n_days[group] - 1)

    @property
    def known_until(self) -> Days:
        """Return (G,) the day after the last known one."""
        until: Days = self.first_day + self.n_days
        return until


def _padded(rows: Sequence[Floats], n_days: int) -> Floats:
    """Return (G + 1, D): the rows, each filled up with NaN to the longest, and a row of NaN for the group of nobody."""
    padded = np.full((len(rows) + 1, max(n_days, 1)), np.nan, np.float32)
    for nr, row in enumerate(rows):
        padded[nr, : len(row)] = row
    return padded
