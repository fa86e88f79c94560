"""Observations in, once each: straight by COPY where all are new, through a staging table where some are stored.

Tables: s1_observations, s2_observations, pixel_sets, pending_work (`db.pending`), scenes (`db.keys`), scene_ledger.

The natural key is (parcel, pass time, relative orbit, revision). A row whose key is stored with the same values is a
replay and changes nothing; one with other values is a conflict, which the caller must not lose. COPY is three times as
fast as staging and fails as a whole on the first stored key, so it is tried first, under a savepoint.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from numpy.typing import NDArray

from db.binary_copy import copy_into
from db.keys import Scene, scene_keys
from db.pending import mark_new
from db.sensors import SENSORS, Sensor

# A correction is a row of its own under the next revision, never an update: what was known at an earlier time stays
# askable, and a message that comes again finds its key taken.
KEY: Final = ("parcel_key", "observed_at", "relative_orbit", "revision")


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
) -> Inserted:
    """Store the rows that are not there yet, with their pixel sets, their scenes' ledger and the monitor's work.

    Args:
        connection: the transaction everything belongs to.
        sensor: which observations.
        rows: columns of a message (docs/messages.md), valid.
        parcel_keys: (rows,) the parcel of each row.
        recorded_at: the time from which they are known.
    """
    if not rows.num_rows:
        return Inserted(0, 0, ())
    batch = _batch(connection, sensor, rows, parcel_keys, recorded_at)
    is_straight = bool(pc.all(batch["is_first"]).as_py()) and _copied_straight(connection, sensor, batch)
    new = batch if is_straight else _insert_missing(connection, sensor, batch)
    pending = 0
    # Pixels, ledger and pending marks are of the new rows alone and of this transaction: a replay counts nothing twice, and a
    # worker's snapshot has an observation with its mark or neither.
    if new.num_rows:
        columns = (*KEY, "sensor", "pixels")
        copy_into(connection, "pixel_sets", columns, new.select(columns).drop_null())
        _count_stored(connection, new["scene_key"].to_numpy())
        pending = mark_new(connection, new)
    conflicts = () if is_straight else _conflicts(connection, sensor, batch["observed_at"])
    return Inserted(new.num_rows, pending, conflicts)


def _batch(
    connection: sa.Connection, sensor: Sensor, rows: pa.Table, parcel_keys: NDArray[np.int64], recorded_at: datetime
) -> pa.Table:
    """Return the rows under the store's names, in the order of the index, with their scenes' keys.

    `ordinal` is the row's place among `rows`; `is_first` is true but where an earlier row has the same key.
    """
    keys = scene_keys(connection, _scenes(sensor, rows), recorded_at)
    names = rows["scene_id"].combine_chunks().dictionary_encode()
    scene_of_row = pa.array([keys[name] for name in names.dictionary.to_pylist()], pa.int64()).take(names.indices)
    order, is_first = _sorted(rows, parcel_keys)
    batch = rows.rename_columns([name.lower() for name in rows.column_names])
    batch = batch.append_column("parcel_key", pa.array(parcel_keys)).append_column("scene_key", scene_of_row)
    batch = batch.take(pa.array(order))
    recorded = pa.repeat(pa.scalar(recorded_at, pa.timestamp("us", "UTC")), len(order))
    for name, column in (
        ("ordinal", pa.array(order, pa.int32())),
        ("is_first", pa.array(is_first)),
        ("recorded_at", recorded),
        ("sensor", pa.repeat(sensor, len(order))),
    ):
        batch = batch.append_column(name, column)
    return batch


def _sorted(rows: pa.Table, parcel_keys: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return row numbers in key order, and which of them is the first of its key."""
    key = np.stack(
        [
            rows["revision"].to_numpy().astype(np.int64),
            rows["relative_orbit"].to_numpy().astype(np.int64),
            pc.cast(rows["observed_at"], pa.int64()).to_numpy(),
            parcel_keys,
        ]
    )
    # One order for all writers: of two that store the same keys one waits for the other, and never both.
    order = np.lexsort(key)  # stable: the first of equal keys is the one that was sent first
    differs = np.any(np.diff(key[:, order], axis=1), axis=0)
    return order, np.r_[True, differs]


def _scenes(sensor: Sensor, rows: pa.Table) -> list[Scene]:
    """Return the scenes of a batch, each as its first row describes it."""
    _, first = np.unique(rows["scene_id"].combine_chunks().dictionary_encode().indices.to_numpy(), return_index=True)
    columns = ["scene_id", "platform", "relative_orbit", "observed_at", "available_at"]
    return [Scene(sensor=sensor, **row) for row in rows.select(columns).take(pa.array(first)).to_pylist()]


def _copied_straight(connection: sa.Connection, sensor: Sensor, batch: pa.Table) -> bool:
    """Copy the batch; False, and nothing is copied, when any of its keys is stored already."""
    try:
        with connection.begin_nested():
            copy_into(connection, SENSORS[sensor].table, (*KEY, "recorded_at", *SENSORS[sensor].values), batch)
    except psycopg.errors.UniqueViolation:
        return False
    return True


def _insert_missing(connection: sa.Connection, sensor: Sensor, batch: pa.Table) -> pa.Table:
    """Store the rows whose keys are not stored, by way of the table `incoming`, and return them."""
    table, key = SENSORS[sensor].table, ", ".join(KEY)
    stored = ", ".join((*KEY, "recorded_at", *SENSORS[sensor].values))
    connection.execute(
        sa.text(f"""
        drop table if exists pg_temp.incoming, pg_temp.newly_stored;
        create temp table incoming on commit drop as
            select 0 as ordinal, false as is_first, ''::bytea as pixels, {stored} from {table} with no data;
        create temp table newly_stored on commit drop as select {key} from {table} with no data""")
    )
    staged = ("ordinal", "is_first", "pixels", *KEY, "recorded_at", *SENSORS[sensor].values)
    copy_into(connection, "incoming", staged, batch)
    # Without statistics it is taken for several times as many rows, for which the planner reads all that is stored.
    connection.execute(sa.text(f"analyze incoming ({key})"))
    connection.execute(
        sa.text(f"""
        with stored as (
            insert into {table} ({stored}) select {stored} from incoming where is_first
            on conflict do nothing returning {key})
        insert into newly_stored select * from stored""")
    )
    # What another transaction stored meanwhile is not among them: that one marks and counts it.
    new = connection.execute(sa.text(f"select ordinal from incoming join newly_stored using ({key}) where is_first"))
    return batch.filter(pc.is_in(batch["ordinal"], pa.array(new.scalars().all(), pa.int32())))


def _conflicts(connection: sa.Connection, sensor: Sensor, observed_at: pa.ChunkedArray) -> tuple[Conflict, ...]:
    """Return rows of `incoming` that differ from what is stored under their key, once their batch's new rows are stored."""
    table, values = SENSORS[sensor].table, SENSORS[sensor].values
    theirs, ours = (", ".join(f"{alias}.{name}" for name in values) for alias in "io")
    # Bounds that the planner knows leave out the chunks of other times: each chunk that stays is searched for every row.
    within = "between cast(:min as timestamptz) and cast(:max as timestamptz)"
    found = connection.execute(
        sa.text(f"""
        select ordinal, (select max(revision) from {table} r
                         where (r.parcel_key, r.observed_at, r.relative_orbit)
                             = (i.parcel_key, i.observed_at, i.relative_orbit) and r.observed_at {within})
        from incoming i join {table} o on ({", ".join(f"o.{name}" for name in KEY)})
                                        = ({", ".join(f"i.{name}" for name in KEY)}) and o.observed_at {within}
        left join pixel_sets p on (p.parcel_key, p.observed_at, p.sensor, p.relative_orbit, p.revision)
                                = (i.parcel_key, i.observed_at, '{sensor}', i.relative_orbit, i.revision)
                                  and p.observed_at {within}
        where ({theirs}) is distinct from ({ours}) or i.pixels is distinct from p.pixels
        order by ordinal"""),
        pc.min_max(observed_at).as_py(),
    )
    return tuple(Conflict(row, revision) for row, revision in found)


def _count_stored(connection: sa.Connection, scenes: NDArray[np.int64]) -> None:
    """Add to the ledger that reconciles each scene, in key order, so that two writers cannot deadlock."""
    keys, counts = np.unique(scenes, return_counts=True)
    connection.execute(
        sa.text("""
            insert into scene_ledger (scene_key, outcome, parcels) values (:scene_key, 'stored', :parcels)
            on conflict (scene_key, outcome) do update set parcels = scene_ledger.parcels + excluded.parcels"""),
        [{"scene_key": key, "parcels": count} for key, count in zip(keys.tolist(), counts.tolist(), strict=True)],
    )
