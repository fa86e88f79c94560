"""All revisions of observations: which of them was in force when, by the time at which each became known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from db import series
from db.connect import Connection
from db.sensors import Sensor
from db.series import numbered
from monitor.alerts.neighbours import Ints
from monitor.stages.parts import read_splits

Clock = Literal["recorded_at", "available_at"]
"""Which time of an observation says from when on it is known: once it was stored here, or once its product could be had."""
Time = np.datetime64
NOT_YET: Final = np.datetime64("9999-01-01", "us")
_AT_ONCE: Final = 4096
"""Parcels of which whole rows are in memory at once."""
_FIELDS: Final = ("parcel_key", "observed_at", "relative_orbit", "revision", "is_withdrawn", "available_at")
_VALUES: Final = {"S2": ("ndvi",), "S1": ("direction_nr", "vv", "vh")}
"""What rules and obligations read."""


@dataclass(frozen=True)
class Revisions:
    """Revisions of a sensor's observations of parcels, sorted by parcel, pass and revision."""

    rows: NDArray[np.void]
    known_at: NDArray[np.datetime64]
    replaced_at: NDArray[np.datetime64]
    """When a later revision of the same pass became known."""

    @classmethod
    def read(cls, connection: Connection, sensor: Sensor, keys: Ints, clock: Clock) -> "Revisions":
        """Read what is stored of parcels."""
        parts = []
        for at in range(0, max(len(keys), 1), _AT_ONCE):
            rows = series.every_revision(connection, sensor, keys[at : at + _AT_ONCE])
            parts.append((_narrow(rows, (*_FIELDS, *_VALUES[sensor])), rows[clock].copy()))
        return cls.of(*(np.concatenate(one) for one in zip(*parts, strict=True)))

    @classmethod
    def of(cls, rows: NDArray[np.void], known_at: NDArray[np.datetime64]) -> "Revisions":
        """Return revisions that are known from some times on."""
        replaced_at = np.full(len(rows), NOT_YET)
        passes = _narrow(rows, ("parcel_key", "observed_at", "relative_orbit"))
        # From the last on: what comes after each may itself be replaced by what became known before it.
        for nr in np.flatnonzero(passes[1:] == passes[:-1])[::-1].tolist():
            replaced_at[nr] = min(known_at[nr + 1], replaced_at[nr + 1])
        return cls(rows, known_at, replaced_at)

    def newest(self, until: Time) -> NDArray[np.void]:
        """Return the newest revision of each pass as known before a time, withdrawn ones too."""
        return self.rows[(self.known_at < until) & (self.replaced_at >= until)]

    def new(self, since: Time, until: Time) -> NDArray[np.void]:
        """Return what became known from one time to another, the latter not included."""
        return self.rows[(self.known_at >= since) & (self.known_at < until)]


def _narrow(rows: NDArray[np.void], names: Sequence[str]) -> NDArray[np.void]:
    """Return a copy of rows with some of their fields."""
    narrow = np.empty(len(rows), [(name, rows.dtype[name]) for name in names])
    for name in names:
        narrow[name] = rows[name]
    return narrow


@dataclass(frozen=True)
class Splits:
    """The splits of the pixel sets of observations that have one."""

    rows: NDArray[np.void]
    """(N,) observations, in order of parcel, pass and revision."""
    splits: NDArray[np.void]
    """(N,)"""

    @classmethod
    def read(cls, connection: Connection, rows: NDArray[np.void]) -> "Splits":
        """Read the sets of observations and split them."""
        seen = rows[np.isfinite(rows["ndvi"])]
        splits = read_splits(connection, seen)
        has = splits["n"] > 0
        return cls(seen[has], splits[has])

    def of(self, rows: NDArray[np.void]) -> NDArray[np.void]:
        """Return (M,) the splits of some observations, as of no set where they have none."""
        found = np.zeros(len(rows), self.splits.dtype)
        if not len(self.rows):
            return found
        parcels, times = (np.unique(self.rows[name]) for name in ("parcel_key", "observed_at"))
        some = np.flatnonzero(np.isin(rows["parcel_key"], parcels) & np.isin(rows["observed_at"], times))
        known, wanted = (numbered(one, parcels, times) for one in (self.rows, rows[some]))
        at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        is_same = known[at] == wanted
        found[some[is_same]] = self.splits[at[is_same]]
        return found
