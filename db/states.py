"""Cached states of parcels: what models go on from, one row for each sequence that a model reads.

A cache in an unlogged table: a crash empties it, and what is missing is made anew from the observations. States are written in the
transaction that removes the pending work that they have folded, so they hold what is known less what is pending.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import pyarrow as pa
import sqlalchemy as sa

from db.binary_copy import copy_into
from db.connect import driver
from db.series import Keys

OF_NO_MODEL: Final = 0
"""`model_key` of what depends on no model: the season's compact series."""
_COLUMNS: Final = ("parcel_key", "model_key", "modality", "n_folded", "observed_to", "state")


@dataclass(frozen=True, slots=True)
class StateRow:
    """A parcel's state in one sequence of a model: a cache, rebuilt from observations when it is missing."""

    parcel_key: int
    model_key: int
    modality: str
    n_folded: int
    """Observations in it."""
    observed_to: datetime
    """The newest of them."""
    state: bytes


def load(connection: sa.Connection, parcels: Keys, model_keys: Sequence[int]) -> list[StateRow]:
    """Return the states of parcels under some models."""
    rows = driver(connection).execute(
        f"select {', '.join(_COLUMNS)} from encoder_states where parcel_key = any(%s) and model_key = any(%s)".encode(),
        [parcels.tolist(), list(model_keys)],
        binary=True,
    )
    return [StateRow(*row) for row in rows]


def save(connection: sa.Connection, states: Sequence[StateRow]) -> None:
    """Write states, newer over older."""
    if not states:
        return
    kinds = (pa.int64(), pa.int32(), pa.string(), pa.int32(), pa.timestamp("us", "UTC"), pa.binary())
    rows = pa.table(
        {
            name: pa.array([getattr(one, name) for one in states], kind)
            for name, kind in zip(_COLUMNS, kinds, strict=True)
        }
    )
    connection.execute(
        sa.text("""create temp table if not exists incoming_states (like encoder_states) on commit delete rows;
                   truncate incoming_states""")
    )
    copy_into(connection, "incoming_states", _COLUMNS, rows)
    connection.execute(
        sa.text("""insert into encoder_states select * from incoming_states
                   on conflict (parcel_key, model_key, modality) do update
                   set n_folded = excluded.n_folded, observed_to = excluded.observed_to, state = excluded.state""")
    )
