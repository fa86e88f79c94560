"""Observations and dated events of parcels in a neutral form (docs/events.md), checked.

    SERIES  Parquet  parcel_id, date, sensor, relative_orbit, ndvi (or B04 and B08), vv, vh, coherence_vv, coherence_vh
    EVENTS  CSV      parcel_id, date (or begin and end), kind

Units:  reflectance 0 to 1, vv and vh in dB, coherence 0 to 1.
Errors: EventTableError, one line: where, what was found, what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from monitor.alerts.rules import ClearViews
from monitor.markers.form import RadarViews
from training.errors import EventTableError
from training.observation_table import TableError, times

KINDS: Final = (
    "mowing",
    "grazing",
    "harvest",
    "tillage",
    "ploughing",
    "sowing",
    "emergence",
    "catch_crop",
    "flooding",
    "other",
)
"""What a dated event may be."""
RED: Final = 0.10
"""Red reflectance above which a view of grass is cloud or haze: between Sen2Cor's 0.07, surely clear, and 0.25, surely bright; stubble of
hay stays below."""
NIR: Final = 0.15
"""Near infrared below which it is in shadow: vegetated land reflects 0.2 and more."""
MOST_DAYS: Final = 3660
"""Days between the first and the last date: about ten years."""
ODD_SHARE: Final = 0.01
"""Share of values out of range up to which they are single bad observations, which count as not seen; with more the unit is another."""
RANGES: Final = {
    "ndvi": (-1.0, 1.0, "an index of -1 to 1"),
    "b04": (-0.1, 2.0, "reflectance of 0 to 1 (divide integers by 10,000)"),
    "b08": (-0.1, 2.0, "reflectance of 0 to 1 (divide integers by 10,000)"),
    "vv": (-60.0, 20.0, "dB"),
    "vh": (-60.0, 20.0, "dB"),
    "coherence_vv": (0.0, 1.0, "a share of 0 to 1"),
    "coherence_vh": (0.0, 1.0, "a share of 0 to 1"),
}


@dataclass(frozen=True)
class EventSeries:
    """Observations of P parcels."""

    parcel_ids: NDArray[np.object_]
    """(P,) as text, ascending."""
    views: ClearViews
    radar: RadarViews | None
    first: NDArray[np.datetime64]
    """(P,) days of the first and last observation."""
    last: NDArray[np.datetime64]


@dataclass(frozen=True)
class DatedEvents:
    """Events of one kind, each on a day of an interval."""

    parcel_ids: NDArray[np.object_]
    begin: NDArray[np.datetime64]
    end: NDArray[np.datetime64]


def read_series(path: Path) -> EventSeries:
    """Read observations. Raises EventTableError."""
    try:
        frame = pq.read_table(path).to_pandas()
    except FileNotFoundError as error:
        raise EventTableError(f"{path}: no such file") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise EventTableError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from error
    frame = _named(frame, path)
    has_ndvi = "ndvi" in frame or {"b04", "b08"} <= set(frame)
    if not has_ndvi and not set(RANGES) & set(frame):
        raise EventTableError(f"{path}: no column ndvi (or B04 and B08), vv, vh, coherence_vv or coherence_vh")
    values = {name: _numbers(frame, name, path) for name in RANGES}
    if pd.api.types.is_float_dtype(frame["parcel_id"]) and (frame["parcel_id"] % 1 == 0).all():
        frame["parcel_id"] = frame["parcel_id"].astype(
            "int64"
        )  # whole numbers that a missing one made floats somewhere
    ids, parcel = np.unique(frame["parcel_id"].astype(str).to_numpy(object), return_inverse=True)
    days = _days(frame["date"], f"{path}, column date")
    if (days.max() - days.min()).astype(int) > MOST_DAYS:
        raise EventTableError(f"{path}: dates from {days.min()} to {days.max()}; give at most ten years at once")
    first, last = np.full(len(ids), days.max()), np.full(len(ids), days.min())
    np.minimum.at(first, parcel, days)
    np.maximum.at(last, parcel, days)
    ndvi = _clear_ndvi(values)
    seen = np.isfinite(ndvi)
    views = ClearViews(parcel[seen], days[seen], ndvi[seen].astype(np.float32), len(ids))
    return EventSeries(ids, views, _radar(frame, values, parcel, days), first, last)


def read_events(path: Path, kind: str) -> DatedEvents:
    """Read the events of one kind. Raises EventTableError where the file is not as it should be, or `kind` is unknown."""
    _check_kind(kind, "--kind")
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except FileNotFoundError as error:
        raise EventTableError(f"{path}: no such file") from error
    except (ValueError, OSError) as error:  # pandas' parser and decoding errors are ValueErrors
        raise EventTableError(f"{path}: not a CSV file ({str(error).splitlines()[0]})") from error
    names = {str(name).strip().lower() for name in frame}
    has_interval = {"begin", "end"} <= names
    frame = _named(frame, path, ("begin", "end", "kind") if has_interval else ("date", "kind"))
    if has_interval and "date" in names:  # a row may have either
        frame = frame.assign(**{name: frame[name].where(frame[name] != "", frame["date"]) for name in ("begin", "end")})
    for nr, one in enumerate(frame["kind"]):
        _check_kind(one.strip().lower(), f"{path}, row {nr + 2}")
    of_kind = frame["kind"].str.strip().str.lower() == kind
    begin, end = ("begin", "end") if has_interval else ("date", "date")
    begins, ends = (_days(frame[name], f"{path}, column {name}") for name in (begin, end))
    if (begins > ends).any():
        raise EventTableError(f"{path}, row {int((begins > ends).argmax()) + 2}: ends before it begins")
    ids = frame["parcel_id"].str.strip().to_numpy(object)
    return DatedEvents(ids[of_kind], begins[of_kind], ends[of_kind])


def _named(frame: pd.DataFrame, path: Path, needed: tuple[str, ...] = ("date",)) -> pd.DataFrame:
    """Return a table with its columns' names in lower case; raises EventTableError where one is missing or there are no rows."""
    frame = frame.rename(columns={name: str(name).strip().lower() for name in frame})
    if "parcel_id" not in frame:
        frame = frame.rename(columns={"parcel": "parcel_id"})
    if missing := [name for name in ("parcel_id", *needed) if name not in frame]:
        raise EventTableError(f"{path}: no column {', '.join(missing)}; it has {', '.join(map(str, frame))}")
    if twice := sorted(set(frame.columns[frame.columns.duplicated()])):
        raise EventTableError(f"{path}: column {', '.join(twice)} is there twice")
    if not len(frame):
        raise EventTableError(f"{path}: no rows")
    if empty := int((frame["parcel_id"].isna() | (frame["parcel_id"].astype(str).str.strip() == "")).sum()):
        raise EventTableError(f"{path}: parcel_id is empty in {empty} rows; fill or drop them")
    return frame


def _check_kind(kind: str, where: str) -> None:
    if kind not in KINDS:
        raise EventTableError(f"{where}: unknown kind {kind!r}; known are {', '.join(KINDS)}")


def _days(column: Any, where: str) -> NDArray[np.datetime64]:
    """Return the days of dates; raises EventTableError where one is missing, no date or of no season that was observed."""
    try:
        return times(column, where).astype("M8[D]")
    except TableError as error:
        raise EventTableError(str(error)) from error


def _numbers(frame: pd.DataFrame, name: str, path: Path) -> NDArray[np.float64]:
    """Return a column, NaN where it is empty or there is none; raises EventTableError for text and for values out of range."""
    if name not in frame:
        return np.full(len(frame), np.nan)
    try:
        found = frame[name].to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise EventTableError(f"{path}: column {name} holds what is no number") from error
    found = np.where(np.isfinite(found), found, np.nan)
    low, high, unit = RANGES[name]
    odd = (found < low) | (found > high)
    if odd.sum() > ODD_SHARE * np.isfinite(found).sum():
        raise EventTableError(f"{path}: {name} {found[odd][0]:g} in row {int(odd.argmax()) + 1} is not {unit}")
    found = np.where(odd, np.nan, found)
    if name in ("vv", "vh") and np.isfinite(found).any() and np.nanmedian(found) > 0:
        raise EventTableError(f"{path}: {name} is above 0 on most rows, so it is linear power; give dB (10 log10)")
    return found


def _clear_ndvi(values: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return (N,) NDVI, NaN where there is none or the bands show cloud or shadow."""
    red, nir = values["b04"], values["b08"]
    total = np.where(red + nir > 0, red + nir, np.nan)
    ndvi = np.where(np.isfinite(values["ndvi"]), values["ndvi"], (nir - red) / total)
    return np.where((red > RED) | (nir < NIR), np.nan, ndvi)


def _radar(
    frame: pd.DataFrame, values: dict[str, NDArray[np.float64]], parcel: NDArray[np.int64], days: NDArray[np.datetime64]
) -> RadarViews | None:
    channels = [values[name] for name in ("vv", "vh", "coherence_vv", "coherence_vh")]
    seen = np.isfinite(channels).any(axis=0)
    if not seen.any():
        return None
    orbit = np.zeros(len(frame), np.int64)
    if "relative_orbit" in frame:
        orbit = pd.factorize(frame["relative_orbit"].astype("string"), sort=True, use_na_sentinel=False)[0]
    return RadarViews(parcel[seen], days[seen], orbit[seen], *(one[seen] for one in channels))
