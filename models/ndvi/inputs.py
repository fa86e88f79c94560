"""Windows of SAR and clear NDVI: irregular acquisitions of many relative orbits onto regular steps.

    z     = (dB - mean of its relative orbit) / sd of its relative orbit            per polarisation
    x_n   = mean of the z of days (g_n - step, g_n],  g_n = end - (N - 1 - n) step  present where there is one
    f(t)  = linear between the steps' values y_n at g_n

Source: Zhao et al. 2020 for step and window, 31 steps at the 6-day repeat of two satellites. Per relative orbit because
        orbits differ in incidence angle: raw backscatter of several is never averaged.
Shapes: packed rows (R,) with a parcel index 0..P-1; windows (B, T, 2), present (B, T).
Units:  days since the season's start; backscatter in dB; NDVI dimensionless.
Errors: ValueError for arrays of unequal length; rows that are not finite or out of range are dropped, not errors.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terminal.errors import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Checksums = NDArray[np.uint64]

DB_RANGE = (-60.0, 30.0)
"""Backscatter of any land surface; beyond it is a fill value (chosen because thermal noise ends near -35 dB)."""
DAYS_OF_YEAR = 365.25
"""Period of the day-of-season channels."""
MAX_Z = 6.0
"""Standardised backscatter beyond which it is taken for this (chosen because rain and ice reach 4 sd, artefacts 10)."""
NEVER = 10**6
"""A day that no acquisition has, later than any."""
_DAYS = 2**24
"""More days than any series spans."""
MIN_ROWS_OF_ORBIT = 50
"""Rows an orbit needs for statistics of its own (chosen because the sd's standard error is then 10 %)."""


class TrainingDataError(UserError, ValueError):
    """The series hold nothing to learn from; the caller stops and says which data are missing."""


@dataclass(frozen=True)
class SarSeries:
    """Backscatter of many parcels, packed: one row per parcel and acquisition, in any order."""

    parcel: Ints
    """(R,) index of the parcel, 0..P-1."""
    day: Floats
    """(R,) days since the season's start."""
    relative_orbit: Ints
    """(R,) relative orbit number."""
    is_ascending: Bools
    """(R,) direction, the fallback for an orbit that training did not see."""
    vv_db: Floats
    vh_db: Floats

    def __post_init__(self) -> None:
        """Refuse ragged rows."""
        _require_equal_lengths(self)

    def cleaned(self) -> "SarSeries":
        """Return the rows with finite, possible backscatter; of duplicates of one orbit and day the last."""
        keep = np.isfinite(self.day) & (self.parcel >= 0)
        for db in (self.vv_db, self.vh_db):
            keep &= np.nan_to_num(db, nan=np.inf) <= DB_RANGE[1]
            keep &= np.nan_to_num(db, nan=-np.inf) >= DB_RANGE[0]
        keep[keep] = _is_last(self.parcel[keep], np.floor(self.day[keep]), self.relative_orbit[keep])
        return self.rows(keep)

    def rows(self, keep: Bools) -> "SarSeries":
        """Return the chosen rows."""
        return SarSeries(
            self.parcel[keep],
            self.day[keep],
            self.relative_orbit[keep],
            self.is_ascending[keep],
            self.vv_db[keep],
            self.vh_db[keep],
        )


@dataclass(frozen=True)
class ClearSeries:
    """Clear NDVI of many parcels, packed: one row per parcel and clear acquisition, in any order."""

    parcel: Ints
    day: Floats
    ndvi: Floats

    def __post_init__(self) -> None:
        """Refuse ragged rows."""
        _require_equal_lengths(self)

    def cleaned(self) -> "ClearSeries":
        """Return the rows with a possible NDVI by parcel and day; of several on one day the last."""
        keep = np.isfinite(self.day) & (self.parcel >= 0) & (np.abs(np.nan_to_num(self.ndvi, nan=9.0)) <= 1.0)
        kept = self.rows(keep)
        # Parcel and whole day as one number: rows that come in order are sorted in one pass.
        whole = np.clip(np.floor(kept.day), -_DAYS // 2, _DAYS // 2 - 1).astype(np.int64)
        key = kept.parcel * _DAYS + whole
        order = np.argsort(key, kind="stable")
        return kept.rows(order[np.diff(key[order], append=np.iinfo(np.int64).max) != 0])

    def rows(self, keep: Bools | Ints) -> "ClearSeries":
        """Return the chosen rows."""
        return ClearSeries(self.parcel[keep], self.day[keep], self.ndvi[keep])

    def padded(self, n_parcels: int) -> tuple[Floats, Floats]:
        """Days and NDVI as (P, M), NaN after each parcel's last row; the rows must be cleaned."""
        counts = np.bincount(self.parcel, minlength=n_parcels)[:n_parcels]
        column = np.arange(len(self.parcel)) - np.repeat(np.cumsum(counts) - counts, counts)
        shape = (n_parcels, max(1, int(counts.max(initial=0))))
        days, ndvi = np.full(shape, np.nan), np.full(shape, np.nan)
        days[self.parcel, column], ndvi[self.parcel, column] = self.day, self.ndvi
        return days, ndvi


@dataclass(frozen=True)
class OrbitScale:
    """Mean and sd of VV and VH in dB per relative orbit, with fallbacks: the direction's, then all."""

    orbits: dict[int, tuple[float, float, float, float]]
    """Relative orbit to (mean VV, sd VV, mean VH, sd VH)."""
    ascending: tuple[float, float, float, float]
    descending: tuple[float, float, float, float]

    @classmethod
    def fit(cls, sar: SarSeries) -> "OrbitScale":
        """Return the scale of a training set; ValueError where it holds no SAR at all."""
        if len(sar.day) == 0:
            raise ValueError("no SAR rows to learn the orbits' scale from")
        orbits, sizes = np.unique(sar.relative_orbit, return_counts=True)
        every = _moments(sar, np.ones(len(sar.day), dtype=bool))
        up, down = (
            _moments(sar, side) if side.sum() >= MIN_ROWS_OF_ORBIT else every
            for side in (sar.is_ascending, ~sar.is_ascending)
        )
        own = {
            int(o): _moments(sar, sar.relative_orbit == o)
            for o, n in zip(orbits, sizes, strict=True)
            if n >= MIN_ROWS_OF_ORBIT
        }
        return cls(own, up, down)

    def apply(self, sar: SarSeries) -> Floats:
        """Standardised backscatter (R, 2), VV then VH."""
        numbers, inverse = np.unique(2 * sar.relative_orbit + sar.is_ascending, return_inverse=True)
        fallback = (self.descending, self.ascending)
        table = np.array([self.orbits.get(int(n) // 2, fallback[int(n) % 2]) for n in numbers]).reshape(-1, 4)
        scale = table[inverse]
        z: Floats = (np.stack([sar.vv_db, sar.vh_db], axis=1) - scale[:, 0::2]) / scale[:, 1::2]
        return np.clip(z, -MAX_Z, MAX_Z)

    def to_json(self) -> dict[str, Any]:
        """Return the scale as JSON values."""
        orbits = {str(o): list(scale) for o, scale in self.orbits.items()}
        return {"orbits": orbits, "ascending": list(self.ascending), "descending": list(self.descending)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "OrbitScale":
        """Return the scale that `to_json` wrote."""
        orbits = {int(o): _four(scale) for o, scale in data["orbits"].items()}
        return cls(orbits, _four(data["ascending"]), _four(data["descending"]))


@dataclass(frozen=True)
class DailySar:
    """Running sums of standardised backscatter by parcel and day, from which any window is two lookups a step.

    Kept of days on which any parcel was seen alone: a parcel is seen on few of a season's days, and then with its neighbours.
    """

    days: Ints
    """(D,) ascending days with an acquisition of any parcel."""
    before: Ints
    """(N + 1,) how many of these lie before each day from the first to the one after the last."""
    sums: Floats
    """(P, D + 1, S, 3) z of VV, z of VH and acquisitions over the first days, of S sides: both directions, or all as one."""
    checksum: Checksums
    """(P, D + 1) of the acquisitions over the first days."""

    @classmethod
    def build(cls, sar: SarSeries, scale: OrbitScale, n_parcels: int, by_direction: bool = False) -> "DailySar":
        """Return the sums of cleaned rows; without any row every window is empty."""
        z = scale.apply(sar)
        day = np.floor(sar.day).astype(np.int64)
        days = np.flatnonzero(np.bincount(day - day.min())) + day.min() if len(day) else np.zeros(1, np.int64)
        before = np.searchsorted(days, np.arange(days[0], days[-1] + 2))
        place = before[day - days[0]] + 1
        side = np.where(sar.is_ascending | (not by_direction), 0, 1)
        sums = np.zeros((n_parcels, len(days) + 1, 1 + by_direction, 3))
        checksum = np.zeros(sums.shape[:2], np.uint64)
        np.add.at(sums, (sar.parcel, place, side), np.column_stack([z, np.ones(len(day))]))
        np.add.at(checksum, (sar.parcel, place), checksums(day, side, *z.T))
        return cls(days, before, np.cumsum(sums, axis=1), np.cumsum(checksum, axis=1))

    @property
    def first_day(self) -> int:
        """Return the first day with an acquisition of any parcel; 0 where there is none."""
        return int(self.days[0])

    @property
    def last_day(self) -> int:
        """Return the last day with an acquisition of any parcel; the first where there is none."""
        return int(self.days[-1])

    def last_days(self) -> Ints:
        """Return the day of each parcel's last acquisition (P,), 0 where it has none."""
        count = self._counts
        place = (count == count[:, -1:]).argmax(axis=1)
        return np.asarray(np.where(count[:, -1] > 0, self.days[place - 1], 0))

    def first_days(self) -> Ints:
        """Return the day of each parcel's first acquisition (P,), `NEVER` where it has none."""
        count = self._counts
        place = (count > 0).argmax(axis=1)
        return np.asarray(np.where(count[:, -1] > 0, self.days[place - 1], NEVER))

    def is_near(self, parcel: Ints, first_day: Ints, last_day: Ints) -> Bools:
        """Say whether there is an acquisition from one day to another, both included (Q,)."""
        count = self._counts
        return np.asarray(count[parcel, self._place(last_day + 1)] > count[parcel, self._place(first_day)])

    def checksums(self, day: Ints) -> Checksums:
        """Return (P,) the checksum of each parcel's acquisitions before a day (P,)."""
        return np.asarray(self.checksum[np.arange(len(day)), self._place(day)])

    def windows(self, parcel: Ints, end_day: Ints, n_steps: int, step_days: int) -> tuple[Floats, Bools]:
        """Standardised windows (B, T, 2) of the first side and whether there is anything in a step (B, T): see `windows_by_side`."""
        z, is_present = self.windows_by_side(parcel, end_day, n_steps, step_days)
        return z[:, :, 0], is_present[:, :, 0]

    def windows_by_side(self, parcel: Ints, end_day: Ints, n_steps: int, step_days: int) -> tuple[Floats, Bools]:
        """Standardised windows (B, T, S, 2) that end on the given days, zero where not present (B, T, S)."""
        edges = end_day[:, None] - step_days * np.arange(n_steps, -1, -1)  # (B, T + 1) last day of each step
        n_parcels, n_days, *of_day = self.sums.shape
        # `take` by one index: a third of the time of two.
        rows = np.take(
            self.sums.reshape(n_parcels * n_days, *of_day), parcel[:, None] * n_days + self._place(edges + 1), axis=0
        )
        sums = rows[:, 1:] - rows[:, :-1]
        count = sums[..., 2]
        return sums[..., :2] / np.maximum(count, 1)[..., None], count > 0

    @cached_property
    def _counts(self) -> Floats:
        """Return (P, D + 1) acquisitions of all sides over the first days."""
        return np.asarray(self.sums[..., 2].sum(axis=2))

    def _place(self, day: Ints) -> Ints:
        """Return how many of `days` lie before days."""
        return np.asarray(self.before[np.clip(day - self.days[0], 0, len(self.before) - 1)])


def checksums(*columns: NDArray[Any]) -> Checksums:
    """Return a checksum of each row; those of several rows are added, in any order.

    Source: the finalizer of SplitMix64 (Steele, Lea and Flood 2014), once for each column.
    """
    mixed = np.zeros(np.broadcast_shapes(*(one.shape for one in columns)), np.uint64)
    for one in columns:
        mixed = mixed * _ODD + (one.astype(np.float64) + 0.0).view(np.uint64)  # -0 counts as 0
        for shift, factor in _MIXING:
            mixed = (mixed ^ (mixed >> shift)) * factor
    return mixed


_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIXING = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))


def season_channels(day: NDArray[Any], n_harmonics: int) -> Floats:
    """Sines and cosines of the day of the season (..., 2 n_harmonics): what the extensions know of the date."""
    # Many rows of few days: each day's sines once.
    distinct, place = np.unique(np.asarray(day, dtype=np.float64), return_inverse=True)
    angle = 2 * np.pi * distinct[:, None] / DAYS_OF_YEAR * np.arange(1, n_harmonics + 1)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)[place.reshape(np.shape(day))]


def _moments(sar: SarSeries, rows: Bools) -> tuple[float, float, float, float]:
    # A constant series (one parcel, a test) keeps a scale of 1 dB rather than dividing by zero.
    vv, vh = sar.vv_db[rows], sar.vh_db[rows]
    return float(vv.mean()), float(vv.std()) or 1.0, float(vh.mean()), float(vh.std()) or 1.0


def _four(values: Any) -> tuple[float, float, float, float]:
    a, b, c, d = (float(v) for v in values)
    return a, b, c, d


def _is_last(*keys: NDArray[Any]) -> Bools:
    """True on the last row of each distinct key."""
    order = np.lexsort(keys[::-1])  # stable: equal keys keep their order of arrival
    is_last = np.ones(len(order), dtype=bool)
    same_as_next = np.ones(max(len(order) - 1, 0), dtype=bool)
    for key in keys:
        same_as_next &= key[order][1:] == key[order][:-1]
    is_last[order[:-1][same_as_next]] = False
    return is_last


def _require_equal_lengths(series: object) -> None:
    lengths = {name: len(values) for name, values in vars(series).items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{type(series).__name__}: arrays differ in length, {lengths}")
