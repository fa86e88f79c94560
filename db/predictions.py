"""Predictions of the models, written and read in bulk: posteriors and daily NDVI."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from numpy.typing import NDArray

from db.binary_copy import copy_into
from db.columns import fetch_columns
from db.connect import driver
from db.series import Keys


@dataclass(frozen=True)
class PosteriorRow:
    """Class probabilities of a parcel given what had been observed."""

    parcel_key: int
    observed_to: datetime
    n_observations: Mapping[str, int]
    """By modality: s2, s1a, s1d, s1."""
    probabilities: Sequence[float]


def save_posteriors(
    connection: sa.Connection, model_key: int, courses: Mapping[int, Sequence[PosteriorRow]], recorded_at: datetime
) -> None:
    """Append the posteriors of parcels, each parcel's in the order of its acquisitions.

    The newest by `recorded_at` is the one in force: the last of each parcel is recorded at that time, those before it at
    the microseconds before.
    """
    with (
        driver(connection).cursor() as cursor,
        cursor.copy(
            "copy posteriors (parcel_key, recorded_at, observed_to, model_key, n_s2, n_s1a, n_s1d, n_s1, probabilities) from stdin"
        ) as copy,
    ):
        for course in courses.values():
            for back, r in zip(range(len(course) - 1, -1, -1), course, strict=True):
                at = recorded_at - timedelta(microseconds=back)
                counts = (r.n_observations.get(name, 0) for name in ("s2", "s1a", "s1d", "s1"))
                copy.write_row((r.parcel_key, at, r.observed_to, model_key, *counts, list(map(float, r.probabilities))))


def latest_posteriors(
    connection: sa.Connection, parcels: Keys, model_key: int, as_known_at: datetime | None
) -> list[PosteriorRow]:
    """Return the newest posterior of each parcel as known at a settled time (None: now); parcels without one are absent."""
    return _posteriors(connection, "parcel_key", parcels, model_key, as_known_at)


def courses(connection: sa.Connection, parcels: Keys, model_key: int) -> list[PosteriorRow]:
    """Return the newest posterior of each parcel and newest observation: one for each acquisition, as known now."""
    return _posteriors(connection, "parcel_key, observed_to", parcels, model_key, None)


def _posteriors(
    connection: sa.Connection, one_per: str, parcels: Keys, model_key: int, as_known_at: datetime | None
) -> list[PosteriorRow]:
    rows = driver(connection).execute(
        f"""select distinct on ({one_per}) parcel_key, observed_to, n_s2, n_s1a, n_s1d, n_s1, probabilities from posteriors
            where parcel_key = any(%s) and model_key = %s and recorded_at <= coalesce(%s, 'infinity'::timestamptz)
            order by {one_per}, recorded_at desc""".encode(),
        [parcels.tolist(), model_key, as_known_at],
        binary=True,
    )
    return [
        PosteriorRow(key, to, {"s2": s2, "s1a": s1a, "s1d": s1d, "s1": s1}, probabilities)
        for key, to, s2, s1a, s1d, s1, probabilities in rows
    ]


@dataclass(frozen=True)
class NdviRows:
    """Days of NDVI curves, as columns (N,)."""

    parcel_key: NDArray[np.int64]
    day: NDArray[np.datetime64]
    is_causal: NDArray[np.bool_]
    is_observed: NDArray[np.bool_]
    ndvi: NDArray[np.floating[Any]]
    ndvi_sd: NDArray[np.floating[Any]]

    @classmethod
    def joined(cls, parts: Sequence["NdviRows"]) -> "NdviRows":
        """Return the rows of all parts in their order."""
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def where(self, keep: NDArray[np.bool_]) -> "NdviRows":
        """Return the rows under a mask (N,)."""
        return NdviRows(**{f.name: getattr(self, f.name)[keep] for f in fields(self)})


def save_ndvi(connection: sa.Connection, rows: NdviRows, model_key: int, now: datetime) -> None:
    """Append days of NDVI curves."""
    n = len(rows.day)
    table = pa.table(
        {
            "parcel_key": pa.array(rows.parcel_key),
            "day": pa.array(rows.day.astype("M8[D]"), pa.date32()),
            "mode": pa.array(np.where(rows.is_causal, "causal", "retrospective")),
            "origin": pa.array(np.where(rows.is_observed, "observed", "reconstructed")),
            "recorded_at": pa.repeat(pa.scalar(now, pa.timestamp("us", "UTC")), n),
            "ndvi": pa.array(rows.ndvi.astype(np.float32)),
            "ndvi_sd": pa.array(rows.ndvi_sd.astype(np.float32)),
            "model_key": pa.repeat(pa.scalar(model_key, pa.int32()), n),
        }
    )
    copy_into(connection, "ndvi_daily", table.column_names, table)


def ndvi_curves(connection: sa.Connection, parcels: Keys, first: date, last: date) -> NDArray[np.void]:
    """Return the daily NDVI of parcels from `first` to `last` (both included) as known now, by parcel and day.

    Fields parcel_key, day, is_causal, is_observed, ndvi, ndvi_sd.
    """
    return fetch_columns(
        connection,
        """select distinct on (parcel_key, day) parcel_key, day, mode = 'causal' as is_causal, origin = 'observed' as is_observed,
                  ndvi, ndvi_sd
           from ndvi_daily where parcel_key = any(%s) and day between %s and %s
           order by parcel_key, day, recorded_at desc, mode desc""",
        [parcels.tolist(), first, last],
        {
            "parcel_key": "bigint",
            "day": "date",
            "is_causal": "bool",
            "is_observed": "bool",
            "ndvi": "real",
            "ndvi_sd": "real",
        },
    )


@dataclass(frozen=True)
class DailyCurves:
    """NDVI curves of P parcels on D consecutive days, each (P, D)."""

    ndvi: NDArray[np.float32]
    """NaN on days that have no row."""
    ndvi_sd: NDArray[np.float32]
    is_causal: NDArray[np.bool_]
    is_observed: NDArray[np.bool_]


def daily_curves(connection: sa.Connection, parcels: Keys, first: date, last: date) -> DailyCurves:
    """Return the curves of parcels (P,), ascending, from `first` to `last` (both included) as known now."""
    rows = ndvi_curves(connection, parcels, first, last)
    shape = (len(parcels), (last - first).days + 1)
    place = np.searchsorted(parcels, rows["parcel_key"]), (rows["day"] - np.datetime64(first)).astype(np.int64)
    curves = DailyCurves(
        np.full(shape, np.nan, np.float32),
        np.full(shape, np.nan, np.float32),
        np.zeros(shape, bool),
        np.zeros(shape, bool),
    )
    for name in ("ndvi", "ndvi_sd", "is_causal", "is_observed"):
        getattr(curves, name)[place] = rows[name]
    return curves


def last_days(connection: sa.Connection, parcels: Keys) -> dict[int, date]:
    """Return the last day that has an NDVI row, of parcels that have any."""
    rows = connection.execute(
        sa.text("""select k, newest.day from unnest(cast(:keys as bigint[])) k cross join lateral (
                       select day from ndvi_daily where parcel_key = k order by day desc limit 1) newest"""),
        {"keys": parcels.tolist()},
    )
    return {row.k: row.day for row in rows}
