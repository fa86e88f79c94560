"""Observations in by COPY, once each: a staging table, then what is not there yet.

The natural key is (parcel, pass time, relative orbit, revision). A row whose key is stored with the same values is a
replay and changes nothing; one with other values is a conflict, which the caller must not lose.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from numpy.typing import NDArray

from db.binary_copy import copy_rows
from db.connect import driver
from db.keys import Scene, scene_keys
from db.pending import mark_newly_stored

Sensor = Literal["S1", "S2"]

_KEY: Final = ("parcel_key", "observed_at", "relative_orbit", "revision")
_VALUES: Final[Mapping[Sensor, tuple[str, ...]]] = {
    "S2": (
        "is_withdrawn", "n_clear", "available_at", "clear_fraction", "ndvi", "ndvi_sd", "nbr2", "bsi", "s2wi",
        "b02", "b03", "b04", "b05", "b06", "b07", "b08", "b8a", "b11", "b12",
    ),
    "S1": (
        "is_withdrawn", "n_pixels", "available_at", "direction", "radiometry", "vv", "vh", "vv_sd", "vh_sd",
        "coherence_vv", "coherence_vh", "coherence_with",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Conflict:
    """A row whose key is stored with other values."""

    row: int
    newest_revision: int
    """The highest revision stored of that parcel's pass."""


@dataclass(frozen=True, slots=True)
class Inserted:
    """What became of a batch of rows; those that are neither new nor conflicts were stored before."""

    new: int
    pending: int
    """New rows of monitorable parcels, marked for the monitor."""
    conflicts: tuple[Conflict, ...]


def insert(
    connection: sa.Connection, sensor: Sensor, rows: pa.Table, parcel_keys: NDArray[np.int64], recorded_at: datetime
) -> Inserted:  # fmt: skip
    """Stores the rows that are not there yet, with their pixel sets, their scenes' ledger and the monitor's work.

    Args:
        connection: the transaction everything belongs to.
        sensor: which observations.
        rows: columns of a message (docs/messages.md), valid.
        parcel_keys: (rows,) the parcel of each row.
        recorded_at: the time from which they are known.
    """
    if not rows.num_rows:
        return Inserted(0, 0, ())
    statements = _STATEMENTS[sensor]
    connection.execute(statements.stage)
    n_first = _copy(connection, sensor, statements.copy, rows, parcel_keys, recorded_at)
    new = connection.execute(statements.insert).rowcount
    pending = 0
    if new:
        connection.execute(statements.pixels)
        connection.execute(_LEDGER)
        pending = mark_newly_stored(connection, sensor, recorded_at)
    found = () if new == n_first == rows.num_rows else connection.execute(statements.conflicts)
    return Inserted(new, pending, tuple(Conflict(row, revision) for row, revision in found))


def _copy(
    connection: sa.Connection, sensor: Sensor, statement: bytes, rows: pa.Table, parcel_keys: NDArray[np.int64],
    recorded_at: datetime,
) -> int:  # fmt: skip
    """Copies the rows into the staging table; returns how many have a key that no earlier row has."""
    order, is_first = _sorted(rows, parcel_keys)
    rows, scenes = rows.take(pa.array(order)), _scenes(sensor, rows)
    keys = scene_keys(connection, scenes, recorded_at)
    names = rows["scene_id"].combine_chunks().dictionary_encode()
    scene_of_row = pa.array([keys[name] for name in names.dictionary.to_pylist()], pa.int64()).take(names.indices)
    columns = {name.lower(): rows[name].combine_chunks() for name in rows.column_names}
    columns |= {
        "ordinal": pa.array(order, pa.int32()), "is_first": pa.array(is_first), "parcel_key": pa.array(parcel_keys[order]),
        "scene_key": scene_of_row, "recorded_at": pa.repeat(pa.scalar(recorded_at, columns["observed_at"].type), len(order)),
    }  # fmt: skip
    with driver(connection).cursor() as cursor, cursor.copy(statement) as copy:
        for block in copy_rows([columns[name] for name in _staged(sensor)]):
            copy.write(block)
    return int(is_first.sum())


def _sorted(rows: pa.Table, parcel_keys: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Row numbers in key order (what the index likes), and which of them is the first of its key."""
    key = np.stack([
        rows["revision"].to_numpy().astype(np.int64), rows["relative_orbit"].to_numpy().astype(np.int64),
        pc.cast(rows["observed_at"], pa.int64()).to_numpy(), parcel_keys,
    ])  # fmt: skip
    order = np.lexsort(key)  # stable: the first of equal keys is the one that was sent first
    differs = np.any(np.diff(key[:, order], axis=1), axis=0)
    return order, np.r_[True, differs]


def _scenes(sensor: Sensor, rows: pa.Table) -> list[Scene]:
    """The scenes of a batch, each as its first row describes it."""
    _, first = np.unique(rows["scene_id"].combine_chunks().dictionary_encode().indices.to_numpy(), return_index=True)
    columns = ["scene_id", "platform", "relative_orbit", "observed_at", "available_at"]
    return [Scene(sensor=sensor, **row) for row in rows.select(columns).take(pa.array(first)).to_pylist()]


# The statements, once for each sensor -------------------------------------------------------------


def _staged(sensor: Sensor) -> tuple[str, ...]:
    return ("ordinal", "is_first", "pixels", *_stored(sensor))


def _stored(sensor: Sensor) -> tuple[str, ...]:
    return (*_KEY, "scene_key", "recorded_at", *_VALUES[sensor])


@dataclass(frozen=True, slots=True)
class _Statements:
    stage: sa.TextClause
    copy: bytes
    insert: sa.TextClause
    pixels: sa.TextClause
    conflicts: sa.TextClause


def _statements(sensor: Sensor) -> _Statements:
    table, incoming = f"{sensor.lower()}_observations", f"incoming_{sensor.lower()}"
    stored, key = ", ".join(_stored(sensor)), ", ".join(_KEY)
    compared = ("scene_key", *_VALUES[sensor])
    theirs, ours = (", ".join(f"{alias}.{name}" for name in compared) for alias in "io")
    return _Statements(
        stage=sa.text(f"""
            create temp table if not exists {incoming} on commit delete rows as
                select 0 as ordinal, false as is_first, ''::bytea as pixels, {table}.* from {table} with no data;
            create temp table if not exists newly_stored on commit delete rows as
                select {key}, scene_key from s2_observations with no data;
            truncate {incoming}, newly_stored"""),
        copy=f"copy {incoming} ({', '.join(_staged(sensor))}) from stdin (format binary)".encode(),
        insert=sa.text(f"""
            with stored as (
                insert into {table} ({stored}) select {stored} from {incoming} where is_first
                on conflict do nothing returning {key}, scene_key)
            insert into newly_stored select * from stored"""),
        pixels=sa.text(f"""
            insert into pixel_sets ({key}, sensor, pixels)
            select {key}, '{sensor}', pixels from {incoming} join newly_stored using ({key})
            where is_first and pixels is not null on conflict do nothing"""),
        conflicts=sa.text(f"""
            select ordinal, (select max(revision) from {table} r
                             where (r.parcel_key, r.observed_at, r.relative_orbit) = (i.parcel_key, i.observed_at, i.relative_orbit))
            from {incoming} i join {table} o using ({key})
            left join pixel_sets p on (p.parcel_key, p.observed_at, p.sensor, p.relative_orbit, p.revision)
                                    = (i.parcel_key, i.observed_at, '{sensor}', i.relative_orbit, i.revision)
            where ({theirs}) is distinct from ({ours}) or i.pixels is distinct from p.pixels
            order by ordinal"""),
    )  # fmt: skip


_STATEMENTS: Final[Mapping[Sensor, _Statements]] = {"S1": _statements("S1"), "S2": _statements("S2")}

# The ledger reconciles a scene: expected = stored + skipped. In key order, so that two writers cannot deadlock.
_LEDGER: Final = sa.text("""
    insert into scene_ledger (scene_key, outcome, parcels)
    select scene_key, 'stored', count(*) from newly_stored group by scene_key order by scene_key
    on conflict (scene_key, outcome) do update set parcels = scene_ledger.parcels + excluded.parcels""")
