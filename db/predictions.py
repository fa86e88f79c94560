"""Predictions of the models, written and read in bulk: posteriors and daily NDVI."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any, Final, Self

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from numpy.typing import NDArray

from db.binary_copy import append, copy_into
from db.columns import Kind, fetch_columns, no_rows
from db.connect import driver
from db.series import Keys

MODALITIES: Final = ("s2", "s1a", "s1d", "s1")
"""What observations are counted by: Sentinel-2, and Sentinel-1 ascending, descending, mixed."""

COURSES_AT_ONCE: Final = 2000
"""Parcels of which courses are read at once: some 100 MB of a season with twelve classes."""


@dataclass(frozen=True)
class _Columns:
    """Rows as columns of one length."""

    def where(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Self:
        """Return some of the rows, by a mask or by their numbers."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the rows of all parts in their order."""
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})


@dataclass(frozen=True)
class PosteriorRow:
    """Class probabilities of a parcel given what had been observed."""

    parcel_key: int
    observed_to: datetime
    n_observations: Mapping[str, int]
    """By modality: s2, s1a, s1d, s1."""
    probabilities: Sequence[float]


@dataclass(frozen=True)
class Posteriors(_Columns):
    """Class probabilities of parcels after G acquisitions, sorted by parcel and acquisition."""

    parcel_key: Keys
    """(G,)"""
    observed_to: NDArray[np.datetime64]
    """(G,)"""
    n_observations: NDArray[np.int64]
    """(G, 4) by `MODALITIES`."""
    probabilities: NDArray[np.float32]
    """(G, C)"""

    @property
    def is_last(self) -> NDArray[np.bool_]:
        """Return (G,) whether each is its parcel's last."""
        return np.asarray(np.diff(self.parcel_key, append=-1) != 0)


def save_posteriors(connection: sa.Connection, model_key: int, rows: Posteriors, recorded_at: datetime) -> None:
    """Append posteriors.

    The newest by `recorded_at` is the one in force: the last of each parcel is recorded at that time, those before it at
    the microseconds before.
    """
    n = len(rows.parcel_key)
    if n == 0:
        return
    last = np.searchsorted(rows.parcel_key, rows.parcel_key, side="right") - 1
    at = np.datetime64(recorded_at.replace(tzinfo=None), "us") - (last - np.arange(n)).astype("m8[us]")
    probabilities = pa.FixedSizeListArray.from_arrays(
        rows.probabilities.astype(np.float32).ravel(), rows.probabilities.shape[1]
    )
    table = pa.table(
        {
            "parcel_key": pa.array(rows.parcel_key),
            "recorded_at": pa.array(at, pa.timestamp("us", "UTC")),
            "observed_to": pa.array(rows.observed_to, pa.timestamp("us", "UTC")),
            "model_key": pa.repeat(pa.scalar(model_key, pa.int32()), n),
            **{
                f"n_{name}": pa.array(rows.n_observations[:, nr].astype(np.int16)) for nr, name in enumerate(MODALITIES)
            },
            "probabilities": probabilities,
        }
    )
    # Appended, never replaced: an answer as known at an earlier time needs the course that was in force then.
    copy_into(connection, "posteriors", table.column_names, table)


def latest_posteriors(
    connection: sa.Connection, parcels: Keys, model_key: int, as_known_at: datetime | None
) -> list[PosteriorRow]:
    """Return the newest posterior of each parcel as known at a settled time (None: now); parcels without one are absent."""
    rows = driver(connection).execute(
        """select newest.* from unnest(%s::bigint[]) key cross join lateral (
               select parcel_key, observed_to, n_s2, n_s1a, n_s1d, n_s1, probabilities from posteriors
               where parcel_key = key and model_key = %s and recorded_at <= coalesce(%s, 'infinity'::timestamptz)
               order by recorded_at desc limit 1) newest
           order by parcel_key""",
        [parcels, model_key, as_known_at],
        binary=True,
    )
    return [
        PosteriorRow(key, to, dict(zip(MODALITIES, counts, strict=True)), probabilities)
        for key, to, *counts, probabilities in rows
    ]


def courses(
    connection: sa.Connection, parcels: Keys, model_key: int, n_classes: int
) -> tuple[Posteriors, NDArray[np.bool_]]:
    """Return the newest posterior of each parcel and newest observation as known now, and (G,) which is in force."""
    # In force is what was recorded last, not what was observed last: a course made anew after a withdrawal may be shorter.
    rows = fetch_columns(
        connection,
        """select distinct on (parcel_key, observed_to) parcel_key, observed_to, n_s2, n_s1a, n_s1d, n_s1, probabilities,
                  recorded_at = max(recorded_at) over (partition by parcel_key) as is_in_force
           from posteriors where parcel_key = any(%s) and model_key = %s
           order by parcel_key, observed_to, recorded_at desc""",
        [parcels, model_key],
        {
            "parcel_key": "bigint",
            "observed_to": "time",
            **dict.fromkeys((f"n_{name}" for name in MODALITIES), "smallint"),
            "probabilities": n_classes,
            "is_in_force": "bool",
        },
    )
    counts = np.stack([rows[f"n_{name}"] for name in MODALITIES], axis=1).astype(np.int64)
    return Posteriors(rows["parcel_key"], rows["observed_to"], counts, rows["probabilities"]), rows["is_in_force"]


def every_posterior(connection: sa.Connection, parcels: Keys, model_key: int, n_classes: int) -> NDArray[np.void]:
    """Return all posteriors of a model on parcels, restated ones too, sorted by parcel, acquisition and when they were recorded.

    Fields: parcel_key, observed_to, recorded_at, n_observations, probabilities.
    """
    query = """select parcel_key, observed_to, recorded_at, n_s2 + n_s1a + n_s1d + n_s1 as n_observations, probabilities
               from posteriors where parcel_key = any(%s) and model_key = %s order by parcel_key, observed_to, recorded_at"""
    columns: dict[str, Kind | int] = {
        "parcel_key": "bigint",
        "observed_to": "time",
        "recorded_at": "time",
        "n_observations": "int",
        "probabilities": n_classes,
    }
    some = [parcels[first : first + COURSES_AT_ONCE] for first in range(0, len(parcels), COURSES_AT_ONCE)]
    return np.concatenate(
        [no_rows(columns), *(fetch_columns(connection, query, [keys, model_key], columns) for keys in some)]
    )


_DAYS: Final = 31
"""Entries of a month's arrays: day d is entry d - 1, and bit d - 1 of a bitmap."""
_PARCELS_AT_ONCE: Final = 1000
"""A year of them is 7 MB, one value of the server's; larger ones take longer a byte (5000: 115 us a parcel, 1000: 85)."""
_PARCELS: Final = 2**48
"""More than any key of a parcel."""
_BITS: Final = np.left_shift(1, np.arange(_DAYS), dtype=np.int32)


@dataclass(frozen=True)
class NdviRows(_Columns):
    """Days of NDVI curves, as columns (N,)."""

    parcel_key: NDArray[np.int64]
    day: NDArray[np.datetime64]
    is_causal: NDArray[np.bool_]
    is_observed: NDArray[np.bool_]
    ndvi: NDArray[np.floating[Any]]
    ndvi_sd: NDArray[np.floating[Any]]


@dataclass(frozen=True)
class DailyCurves:
    """NDVI curves of P parcels on D consecutive days."""

    parcel_key: Keys
    """(P,) ascending."""
    first_day: np.datetime64
    ndvi: NDArray[np.float32]
    """(P, D) NaN on days that have no value."""
    ndvi_sd: NDArray[np.float32]
    """(P, D)"""
    is_causal: NDArray[np.bool_]
    """(P, D)"""
    is_observed: NDArray[np.bool_]
    """(P, D)"""

    @classmethod
    def empty(cls, parcels: Keys, first_day: np.datetime64, n_days: int) -> "DailyCurves":
        """Return curves without a value."""
        values = np.full((2, len(parcels), n_days), np.nan, np.float32)
        flags = np.zeros((2, len(parcels), n_days), bool)
        return cls(parcels, first_day, values[0], values[1], flags[0], flags[1])

    def rows(self, rows: NdviRows) -> NdviRows:
        """Return the same days as they are here, with NaN where nothing is."""
        at = self._at(rows)
        values = (getattr(self, name)[at] for name in VALUES)
        return NdviRows(rows.parcel_key, rows.day, **dict(zip(VALUES, values, strict=True)))

    def put(self, rows: NdviRows) -> None:
        """Take over days."""
        at = self._at(rows)
        for name in VALUES:
            getattr(self, name)[at] = getattr(rows, name)

    def last_days(self) -> NDArray[np.datetime64]:
        """Return (P,) the last day that has a value; NaT where none has."""
        has = np.isfinite(self.ndvi)
        nr = has.shape[1] - 1 - np.argmax(has[:, ::-1], axis=1)
        return np.where(has.any(axis=1), self.first_day + nr, np.datetime64("NaT", "D"))

    def _at(self, rows: NdviRows) -> tuple[Keys, Keys]:
        return np.searchsorted(self.parcel_key, rows.parcel_key), (rows.day - self.first_day).astype(np.int64)


VALUES: Final = ("is_causal", "is_observed", "ndvi", "ndvi_sd")
"""What is known of a day."""


def save_ndvi(connection: sa.Connection, rows: NdviRows, curves: DailyCurves, model_key: int, now: datetime) -> None:
    """Append a version of each month of which days are given.

    Args:
        rows: the days that are given.
        curves: of the rows' parcels, with these days and all that is stored of their months.
    """
    if len(rows.day) == 0:
        return
    parcel, month, place = _months_of(rows)
    changed = np.zeros((len(parcel), _DAYS), bool)
    changed[place] = True
    begin = (month.astype("M8[D]") - curves.first_day).astype(np.int64)
    n_days = ((month + 1).astype("M8[D]") - month.astype("M8[D]")).astype(np.int64)
    day = begin[:, None] + np.arange(_DAYS)
    is_in = (day >= 0) & (day < curves.ndvi.shape[1]) & (np.arange(_DAYS) < n_days[:, None])
    at = np.searchsorted(curves.parcel_key, parcel)[:, None], np.where(is_in, day, 0)
    columns = {
        "month": pa.array(month.astype("M8[D]"), pa.date32()),
        "model_key": pa.repeat(pa.scalar(model_key, pa.int32()), len(parcel)),
        "changed": _bitmaps(changed),
        "is_causal": _bitmaps(curves.is_causal[at] & is_in),
        "is_observed": _bitmaps(curves.is_observed[at] & is_in),
        "ndvi": _days(np.where(is_in, curves.ndvi[at], np.float32(np.nan))),
        "ndvi_sd": _days(np.where(is_in, curves.ndvi_sd[at], np.float32(np.nan))),
    }
    append(connection, "ndvi_months", parcel, columns, now)


def daily_curves(connection: sa.Connection, parcels: Keys, first: date, n_days: int) -> DailyCurves:
    """Return the curves of parcels (P,), ascending, on days from `first` on as known now."""
    days = np.datetime64(first) + np.arange(n_days)
    of_month = days.astype("M8[M]")
    months = np.unique(of_month)
    column = (of_month - months[0]).astype(np.int64) * _DAYS + (days - of_month.astype("M8[D]")).astype(np.int64)
    parts = [
        _newest_months(connection, np.tile(some, len(months)), np.repeat(months, len(some)))
        for some in np.split(parcels, range(_PARCELS_AT_ONCE, len(parcels), _PARCELS_AT_ONCE))
    ]

    def joined(name: str) -> NDArray[Any]:
        cubes = [part[name].reshape(len(months), -1, _DAYS).swapaxes(0, 1) for part in parts]  # (P, months, 31)
        return np.concatenate([cube.reshape(len(cube), -1)[:, column] for cube in cubes])

    return DailyCurves(parcels, days[0], **{name: joined(name) for name in VALUES})


def _months_of(rows: NdviRows) -> tuple[Keys, NDArray[np.datetime64], tuple[Keys, Keys]]:
    """Return parcel and month (V,) of the months that rows (N,) touch, by month and parcel, and each row's place (version, day)."""
    of_row = rows.day.astype("M8[M]")
    touched, version = np.unique(_order(rows.parcel_key, of_row), return_inverse=True)
    day = (rows.day.astype("M8[D]") - of_row.astype("M8[D]")).astype(np.int64)
    return touched % _PARCELS, (touched // _PARCELS).astype("M8[M]"), (version, day)


def _order(parcel: Keys, month: NDArray[np.datetime64]) -> Keys:
    """Return numbers (N,) in the order of month and parcel."""
    return month.astype(np.int64) * _PARCELS + parcel


def _newest_months(connection: sa.Connection, parcel: Keys, month: NDArray[np.datetime64]) -> dict[str, NDArray[Any]]:
    """Return the newest version (V, 31) of months of parcels, (V,) each, by month and parcel; a day beyond a month's end has no value."""
    newest: dict[str, NDArray[Any]] = {
        name: np.zeros((len(parcel), _DAYS), bool)
        if name.startswith("is_")
        else np.full((len(parcel), _DAYS), np.nan, np.float32)
        for name in VALUES
    }
    if len(parcel) == 0:
        return newest
    begin = np.flatnonzero(np.diff(month.astype(np.int64), prepend=-1))
    # Each month is a constant of a query of its own: the planner looks into its chunk only, and the index ends at the newest.
    query = " union all ".join(
        [
            """select newest.* from unnest(%s) key cross join lateral (
                select parcel_key, month, is_causal, is_observed, ndvi, ndvi_sd from ndvi_months
                where parcel_key = key and month = %s order by recorded_at desc limit 1) newest"""
        ]
        * len(begin)
    )
    asked = zip(np.split(parcel, begin[1:]), month[begin].astype("M8[D]").tolist(), strict=True)
    rows = fetch_columns(
        connection,
        query,
        [value for one in asked for value in one],
        {
            "parcel_key": "bigint",
            "month": "date",
            "is_causal": "int",
            "is_observed": "int",
            "ndvi": _DAYS,
            "ndvi_sd": _DAYS,
        },
    )
    place = np.searchsorted(_order(parcel, month), _order(rows["parcel_key"], rows["month"].astype("M8[M]")))
    for name, values in newest.items():
        values[place] = rows[name][:, None] & _BITS != 0 if name.startswith("is_") else rows[name]
    return newest


def _days(values: NDArray[np.float32]) -> pa.Array:
    """Return the values of months (V, 31) as arrays."""
    return pa.FixedSizeListArray.from_arrays(values.ravel(), _DAYS)


def _bitmaps(days: NDArray[np.bool_]) -> pa.Array:
    """Return (V, 31) as one integer each."""
    return pa.array((days * _BITS).sum(axis=1, dtype=np.int32))
