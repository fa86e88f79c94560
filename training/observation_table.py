"""A table of observations, a row for a parcel and a date, checked and packed as the networks take it.

    parcel_id                        any text or number
    date | observed_at               dates, times or ISO 8601 text; without a zone UTC
    B02 ... B12, NDVI, NDVI_SD, ...  means over the parcel's clear pixels; NaN where Sentinel-2 gave none
    VV, VH                           means over the parcel of power; NaN where Sentinel-1 gave none
    direction, relative_orbit        of Sentinel-1 (optional): ascending or descending; a number
    perimeter_m, area_ha, bbox_fill  of the parcel (optional)

A row may hold both sensors. Rows may come in any order.
Units:  reflectance 0..1; VV and VH in dB, or linear power where `units` is "linear".
Errors: TableError, one line: where, which column, what was found, what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from db.sensors import S2_BANDS
from db.series import DIRECTIONS
from models.classifier.normalisation import Observations
from models.ndvi.inputs import DB_RANGE
from monitor.features import geometry, season_days
from terminal.errors import UserError
from training.stored_season import S2_INDICES

RadarUnits = Literal["dB", "linear"]
Values = NDArray[np.float64]
REFLECTANCE_RANGE: Final = (-0.1, 2.0)
"""Limits of the message contract (ingest.stream.schemas): the offset of Sentinel-2 L2A lets it go below zero."""
YEARS: Final = (1970, 2100)
RADAR_MODALITIES: Final = dict(zip(DIRECTIONS, ("s1a", "s1d", "s1"), strict=True))
"""Of radar, by direction; "mixed" also stands for one that is not known."""
RADAR: Final = ("VV", "VH")
TIMES: Final = ("date", "observed_at")


class TableError(UserError, ValueError):
    """A table that cannot be used as it is; the message says what was found."""


@dataclass(frozen=True)
class ObservationTable:
    """Observations in physical units, in order of parcel and time."""

    parcel_ids: NDArray[np.object_]
    """(P,) as text, ascending."""
    frame: pd.DataFrame
    """parcel (index into `parcel_ids`), at (naive UTC), modality of radar, relative_orbit; channels as float64, radar in dB."""
    geometry: Values
    """(P, 4) perimeter m, area m2, perimeter / area, fill; NaN where unknown."""

    @property
    def first(self) -> date:
        """Return the day of the first observation."""
        return pd.Timestamp(self.frame["at"].min()).date()

    @property
    def last(self) -> date:
        """Return the day of the last observation."""
        return pd.Timestamp(self.frame["at"].max()).date()

    def rows(self, modality: str) -> pd.DataFrame:
        """Return the rows of a modality: s2, s1a, s1d or s1 (direction unknown)."""
        if modality == "s2":
            return self.frame[self.frame[self.optical].notna().any(axis=1)]
        if any(band not in self.frame for band in RADAR):
            return self.frame.iloc[:0]
        seen = self.frame[list(RADAR)].notna().all(axis=1)
        return self.frame[seen & (self.frame["modality"] == modality)]

    @property
    def optical(self) -> list[str]:
        """Return the channels of Sentinel-2 that the table has."""
        return [name for name in (*S2_BANDS, *S2_INDICES) if name in self.frame]

    def observations(self, modality: str, channels: Sequence[str], starts_on: date) -> Observations:
        """Return a modality's observations of these channels; raises TableError where a channel has no column."""
        rows = self.rows(modality)
        if missing := [name for name in channels if name not in rows and name != "VV-VH"]:
            raise TableError(f"no column {', '.join(missing)}: the model reads {', '.join(channels)} of {modality}")
        columns = [rows["VV"] - rows["VH"] if name == "VV-VH" else rows[name] for name in channels]
        values = np.stack([one.to_numpy(np.float32) for one in columns], axis=1)
        return Observations(
            values[:, :, None],
            season_days(rows["at"].to_numpy("M8[us]"), starts_on),
            rows["parcel"].to_numpy(np.int64),
            rows["relative_orbit"].to_numpy(np.int16),
        )


def checked(frame: pd.DataFrame, units: RadarUnits = "dB", where: str = "the table") -> ObservationTable:
    """Return a table of observations after checking its columns, dates and units.

    Args:
        frame: see the module; other columns do not matter.
        units: of VV and VH.
        where: begins the message of an error.
    """
    if isinstance(frame.index, pd.DatetimeIndex) and not set(TIMES) & set(frame.columns):
        frame = frame.assign(date=frame.index)
    if units not in ("dB", "linear"):
        raise TableError(f"{where}: units {units!r}; dB or linear is needed")
    time = next((name for name in TIMES if name in frame), None)
    if missing := [name for name, has in (("parcel_id", "parcel_id" in frame), ("date", time)) if not has]:
        raise TableError(f"{where}: no column {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}")
    if not len(frame):
        raise TableError(f"{where}: no rows")
    if empty := int(frame["parcel_id"].isna().sum()):
        raise TableError(f"{where}: parcel_id is empty in {empty} rows; fill or drop them")
    ids, parcel = np.unique(frame["parcel_id"].astype(str).to_numpy(object), return_inverse=True)
    channels = _channels(frame, units, where)
    plain = pd.DataFrame(
        {
            "parcel": parcel,
            "at": times(frame[str(time)], f"{where}, column {time}"),
            "modality": _modalities(frame, where),
            "relative_orbit": _orbits(frame, where),
            **channels,
        }
    )
    plain = plain.sort_values(["parcel", "at", "relative_orbit"], kind="stable", ignore_index=True)
    return ObservationTable(ids, plain, _geometry(frame, parcel, where))


def times(column: Any, where: str) -> NDArray[np.datetime64]:
    """Return dates, times or ISO 8601 text as naive UTC times (M8[us]); raises TableError for anything else."""
    series = pd.Series(column).reset_index(drop=True)
    if pd.api.types.is_numeric_dtype(series):
        raise TableError(f"{where}: numbers ({series.dtype}), not dates; write YYYY-MM-DD")
    is_text = series.dtype == object or pd.api.types.is_string_dtype(series)
    try:
        found = (
            pd.to_datetime(series.astype(str).where(series.notna()), utc=True, format="ISO8601")
            if is_text
            else (pd.to_datetime(series, utc=True))
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise TableError(f"{where}: no dates ({str(error).splitlines()[0]}); write YYYY-MM-DD") from error
    if empty := int(found.isna().sum()):
        raise TableError(f"{where}: {empty} rows without a date; fill or drop them")
    naive = found.dt.tz_convert(None)
    if len(naive) and not YEARS[0] < naive.min().year <= naive.max().year < YEARS[1]:
        raise TableError(
            f"{where}: dates from {naive.min():%Y-%m-%d} to {naive.max():%Y-%m-%d}; give those of a season"
        )
    return naive.to_numpy("M8[us]")


def reflectance(values: Values, where: str) -> Values:
    """Return reflectance 0..1 as it is; infinite values are missing. Raises TableError for other units."""
    values = np.where(np.isfinite(values), values, np.nan)
    return _within(values, REFLECTANCE_RANGE, where, "reflectance 0..1 is needed: multiply digital numbers by 0.0001")


def index(values: Values, where: str) -> Values:
    """Return a vegetation index as it is; infinite values are missing. Raises TableError beyond -1..1."""
    return _within(np.where(np.isfinite(values), values, np.nan), (-1.0, 1.0), where, "an index lies in -1..1")


def decibel(values: Values, units: RadarUnits, where: str) -> Values:
    """Return backscatter in dB; power of zero and infinite values are missing.

    Raises:
        TableError: the values are not in the stated units: dB of land is negative somewhere, power nowhere.
    """
    values = np.where(np.isfinite(values), values, np.nan)
    known = values[np.isfinite(values)]
    if units == "linear":
        if (known < 0).any():
            found = f"{where} lies between {known.min():.4g} and {known.max():.4g}"
            raise TableError(f'{found}; linear power is never negative: state units = "dB"')
        with np.errstate(divide="ignore", invalid="ignore"):
            values = np.where(values > 0, 10 * np.log10(values), np.nan)
    elif len(known) and known.min() >= 0:
        found = f"{where} lies between {known.min():.4g} and {known.max():.4g}"
        raise TableError(f'{found}, as linear power does; state units = "linear", or give dB')
    return _within(values, DB_RANGE, where, f"backscatter of land in dB is needed, {units} was stated")


def _within(values: Values, limits: tuple[float, float], where: str, needed: str) -> Values:
    """Return the values; raises TableError where any is beyond the limits (NaN is not)."""
    n = int(((values < limits[0]) | (values > limits[1])).sum())
    if n:
        low, high = np.nanmin(values), np.nanmax(values)
        raise TableError(
            f"{where} lies between {low:.4g} and {high:.4g}, {n} beyond {limits[0]:g}..{limits[1]:g}; {needed}"
        )
    return values


def _channels(frame: pd.DataFrame, units: RadarUnits, where: str) -> Mapping[str, Values]:
    found: dict[str, Values] = {}
    for name in (*S2_BANDS, *S2_INDICES, *RADAR):
        if name in frame:
            values, place = _numbers(frame[name], f"{where}, column {name}"), f"{where}: {name}"
            if name in RADAR:
                found[name] = decibel(values, units, place)
            else:
                found[name] = (reflectance if name in S2_BANDS else index)(values, place)
    if not found:
        raise TableError(
            f"{where}: no column of a sensor; Sentinel-2 has {', '.join((*S2_BANDS, *S2_INDICES))}, Sentinel-1 VV and VH"
        )
    if len(half := [name for name in RADAR if name in found]) == 1:
        raise TableError(f"{where}: {half[0]} without the other polarisation; give VV and VH, or neither")
    if not any(np.isfinite(values).any() for values in found.values()):
        raise TableError(f"{where}: every value of {', '.join(found)} is missing")
    return found


def _numbers(column: pd.Series, where: str) -> Values:
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        try:
            column = pd.to_numeric(column)
        except (ValueError, TypeError) as error:
            raise TableError(f"{where}: {str(error).splitlines()[0]}; numbers are needed") from error
    return column.to_numpy(np.float64, na_value=np.nan)


def _modalities(frame: pd.DataFrame, where: str) -> NDArray[np.object_]:
    if "direction" not in frame:
        return np.full(len(frame), RADAR_MODALITIES["mixed"], object)
    given = frame["direction"].astype(object).where(frame["direction"].notna(), "mixed").astype(str).str.lower()
    if wrong := sorted(set(given) - set(RADAR_MODALITIES)):
        raise TableError(f"{where}: direction {', '.join(wrong[:3])}; ascending, descending or empty is needed")
    return given.map(RADAR_MODALITIES).to_numpy(object)


def _orbits(frame: pd.DataFrame, where: str) -> NDArray[np.int64]:
    if "relative_orbit" not in frame:
        return np.zeros(len(frame), np.int64)
    orbit = np.nan_to_num(_numbers(frame["relative_orbit"], f"{where}, column relative_orbit"))
    if ((orbit < 0) | (orbit > 999) | (orbit % 1 != 0)).any():
        raise TableError(
            f"{where}: relative_orbit from {orbit.min():g} to {orbit.max():g}; whole numbers 1..175 are needed"
        )
    return orbit.astype(np.int64)


def _geometry(frame: pd.DataFrame, parcel: NDArray[np.int64], where: str) -> Values:
    n = int(parcel.max()) + 1
    columns = []
    for name in ("perimeter_m", "area_ha", "bbox_fill"):
        values = np.full(n, np.nan)
        if name in frame:
            values[parcel] = _numbers(frame[name], f"{where}, column {name}")
        columns.append(values.tolist())
    return geometry(*columns)
