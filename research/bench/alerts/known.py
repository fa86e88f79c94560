"""A simulated season as rows that became known on a day and were replaced on another: what was known on any day is a mask.

Shapes: P parcels in the order of the season's truth; N clear views and M passes, sorted by parcel and time.
Units:  NDVI dimensionless, backscatter dB, days datetime64[D]; known at the end of a day is what was available by then.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from monitor.alerts.neighbours import Bools, Days, Ints
from monitor.alerts.rules import ClearViews
from monitor.markers.form import RadarViews
from research.simulator import Acquisition, Season
from research.simulator.randomness import stream

FAR: Final = np.datetime64("9999-01-01", "D")
_KEY: Final = ["parcel", "observed_at", "relative_orbit"]
"""What makes rows revisions of one observation."""


@dataclass(frozen=True)
class Rows:
    """Observations of one sensor; columns (N,)."""

    parcel: Ints
    days: Days
    orbit: Ints
    values: NDArray[np.float64]
    """(N, 1) NDVI or (N, 2) VV and VH."""
    known_from: Days
    known_until: Days
    """The day on which a revision replaced or withdrew it, `FAR` where none did."""

    def on(self, today: np.datetime64) -> Bools:
        """Return (N,) which rows are current at the end of a day."""
        return np.asarray((self.known_from <= today) & (self.known_until > today))

    @classmethod
    def of(cls, parts: list[pd.DataFrame], names: list[str]) -> "Rows":
        """Return the rows of tables as they arrived; rows without a value are left out, withdrawals too."""
        frame = pd.concat(parts, ignore_index=True).sort_values([*_KEY, "revision"], ignore_index=True)
        is_replaced = (frame[_KEY].to_numpy(object)[1:] == frame[_KEY].to_numpy(object)[:-1]).all(axis=1)
        known_from = frame["available_at"].to_numpy("M8[D]")
        known_until = np.append(np.where(is_replaced, known_from[1:], FAR), FAR)
        keep = ~frame["is_withdrawn"].to_numpy(bool) & np.isfinite(frame[names].to_numpy(np.float64)).all(axis=1)
        return cls(
            frame["parcel"].to_numpy(np.int64)[keep],
            frame["observed_at"].to_numpy("M8[D]")[keep],
            frame["relative_orbit"].to_numpy(np.int64)[keep],
            frame[names].to_numpy(np.float64)[keep],
            known_from[keep],
            known_until[keep],
        )


@dataclass(frozen=True)
class Series:
    """What was observed of a season's parcels."""

    n_parcels: int
    optical: Rows
    radar: Rows

    def views(self, today: np.datetime64) -> ClearViews:
        """Return the clear views as known at the end of a day."""
        known, rows = self.optical.on(today), self.optical
        ndvi = rows.values[known, 0].astype(np.float32)
        return ClearViews.greenest(rows.parcel[known], rows.days[known], ndvi, self.n_parcels)

    def passes(self, today: np.datetime64, of: Bools) -> RadarViews:
        """Return the passes of some parcels (P,) as known at the end of a day."""
        rows = self.radar
        some = np.flatnonzero(of[rows.parcel])
        some = some[(rows.known_from[some] <= today) & (rows.known_until[some] > today)]
        vv, vh = rows.values[some].T
        return RadarViews.of_backscatter(rows.parcel[some], rows.days[some], rows.orbit[some], vv, vh)


def without_optical_dates(season: Season, share: float) -> Season:
    """Return the season with a share of its optical dates lost, all passes of a date together."""
    dates = sorted({one.observed_at.date() for one in season.products if one.sensor == "s2"})
    random = stream(season.config.seed, "cloudy", season.config.year)
    lost = {dates[nr] for nr in random.choice(len(dates), round(share * len(dates)), replace=False)}
    kept = tuple(one for one in season.products if one.sensor != "s2" or one.observed_at.date() not in lost)
    return replace(season, products=kept)


def optical_only(season: Season) -> Season:
    """Return the season without radar."""
    return replace(season, products=tuple(one for one in season.products if one.sensor == "s2"))


Arrived = Callable[[Acquisition, Ints], None]
"""Called with each acquisition in order of availability and the parcels of its rows."""


def observe(season: Season, arrived: Arrived = lambda _acquisition, _parcels: None) -> Series:
    """Return the series of a season, whose acquisitions are drawn once."""
    place, parts = pd.Index(season.truth.parcels["parcel_id"]), dict[str, list[pd.DataFrame]](s1=[], s2=[])
    for one in season.acquisitions():
        parcels = place.get_indexer(pd.Index(one.table["parcel_id"].to_numpy()))
        arrived(one, parcels)
        parts[one.sensor].append(_frame(one, parcels))
    optical = Rows.of(parts["s2"], ["NDVI"])
    return Series(len(place), optical, Rows.of(parts["s1"], ["VV", "VH"]) if parts["s1"] else _none(optical))


def _frame(one: Acquisition, parcels: Ints) -> pd.DataFrame:
    columns: dict[str, Any] = {"parcel": parcels}
    for name in ("observed_at", "relative_orbit", "revision", "available_at", "is_withdrawn"):
        columns[name] = _plain(one.table[name])
    if one.sensor == "s2":
        return pd.DataFrame(columns | {"NDVI": one.table["NDVI"].to_numpy()})
    with np.errstate(divide="ignore", invalid="ignore"):
        return pd.DataFrame(columns | {name: 10 * np.log10(one.table[name].to_numpy()) for name in ("VV", "VH")})


def _plain(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return a column as numpy, times without their zone (UTC)."""
    return np.asarray(column.cast(pa.timestamp("us")) if pa.types.is_timestamp(column.type) else column)


def _none(like: Rows) -> Rows:
    """Return no passes."""
    kept = {name: getattr(like, name)[:0] for name in ("parcel", "days", "orbit", "known_from", "known_until")}
    return Rows(values=np.zeros((0, 2)), **kept)


def arrival_days(*rows: Rows) -> Iterator[date]:
    """Yield the days on which something became known or was replaced, ascending."""
    days = np.unique(np.concatenate([day for one in rows for day in (one.known_from, one.known_until)]))
    yield from days[days < FAR].astype(object)
