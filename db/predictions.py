"""Predictions of the models, written and read in bulk: posteriors and daily NDVI."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from numpy.typing import NDArray

from db.binary_copy import copy_into
from db.columns import fetch_columns, to_utc
from db.connect import driver
from db.series import Keys

MODALITIES: Final = ("s2", "s1a", "s1d", "s1")
"""What observations are counted by: Sentinel-2, and Sentinel-1 ascending, descending, mixed."""


@dataclass(frozen=True)
class PosteriorRow:
    """Class probabilities of a parcel given what had been observed."""

    parcel_key: int
    observed_to: datetime
    n_observations: Mapping[str, int]
    """By modality: s2, s1a, s1d, s1."""
    probabilities: Sequence[float]


@dataclass(frozen=True)
class Posteriors:
    """Class probabilities of parcels after G acquisitions, sorted by parcel and acquisition."""

    parcel_key: Keys
    """(G,)"""
    observed_to: NDArray[np.datetime64]
    """(G,)"""
    n_observations: NDArray[np.int64]
    """(G, 4) by `MODALITIES`."""
    probabilities: NDArray[np.float32]
    """(G, C)"""

    def where(self, keep: NDArray[np.bool_]) -> "Posteriors":
        """Return those under a mask (G,)."""
        return Posteriors(**{f.name: getattr(self, f.name)[keep] for f in fields(self)})

    def take(self, rows: NDArray[np.intp]) -> "Posteriors":
        """Return some of them, by their numbers."""
        return Posteriors(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @classmethod
    def joined(cls, parts: Sequence["Posteriors"]) -> "Posteriors":
        """Return those of all parts in their order."""
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    @property
    def is_last(self) -> NDArray[np.bool_]:
        """Return (G,) whether each is its parcel's last."""
        return np.asarray(np.diff(self.parcel_key, append=-1) != 0)

    def rows(self) -> list[PosteriorRow]:
        """Return them one by one."""
        columns = (
            self.parcel_key.tolist(),
            self.observed_to,
            self.n_observations.tolist(),
            self.probabilities.tolist(),
        )
        return [
            PosteriorRow(key, to_utc(to), dict(zip(MODALITIES, n, strict=True)), probabilities)
            for key, to, n, probabilities in zip(*columns, strict=True)
        ]


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
        """select distinct on (parcel_key) parcel_key, observed_to, n_s2, n_s1a, n_s1d, n_s1, probabilities from posteriors
           where parcel_key = any(%s) and model_key = %s and recorded_at <= coalesce(%s, 'infinity'::timestamptz)
           order by parcel_key, recorded_at desc""",
        [parcels.tolist(), model_key, as_known_at],
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
        [parcels.tolist(), model_key],
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
    # Where one batch recorded both modes of a day, the retrospective one counts (the enum's order).
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
