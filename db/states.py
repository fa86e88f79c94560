"""Cached states of parcels: what models go on from, one row for each sequence that a model reads.

A cache in an unlogged table: a crash empties it, and what is missing is made anew from the observations. States are written in the
transaction that removes the pending work that they have folded, so they hold what is known less what is pending.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from numpy.typing import NDArray

from db.columns import EPOCH
from db.connect import driver
from db.series import Keys

OF_NO_MODEL: Final = 0
"""`model_key` of what depends on no model: the season's compact series."""
_HEAD: Final = np.dtype([("parcel_key", ">i8"), ("n_folded", ">i4"), ("observed_to", ">i8"), ("size", ">i4")])


@dataclass(frozen=True)
class States:
    """The states of N parcels in one sequence of a model."""

    model_key: int
    sequence: str
    parcel_key: Keys
    """(N,) ascending."""
    n_folded: NDArray[np.int64]
    """(N,) observations in each."""
    observed_to: NDArray[np.datetime64]
    """(N,) the newest of them."""
    state: pa.BinaryArray
    """(N,)"""

    def of_size(self, size: int) -> tuple[Keys, NDArray[np.uint8]]:
        """Return the parcels (K,) whose state has so many bytes, and these as numbers (K, size)."""
        _, offsets, data = self.state.buffers()
        starts = np.frombuffer(offsets, np.int32)[: len(self.state) + 1]
        fits = np.diff(starts) == size
        numbers = np.frombuffer(data or b"", np.uint8)
        if fits.all():
            return self.parcel_key, numbers[: len(fits) * size].reshape(-1, size)
        return self.parcel_key[fits], numbers[starts[:-1][fits][:, None] + np.arange(size)]


def of_numbers(numbers: NDArray[np.generic]) -> pa.BinaryArray:
    """Return the bytes of each row of an array (N, ...), as states are stored."""
    size = numbers[:1].nbytes if len(numbers) else 0
    offsets = np.arange(len(numbers) + 1, dtype=np.int32) * size
    return pa.Array.from_buffers(
        pa.binary(), len(numbers), [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(numbers).tobytes())]
    )


def load(connection: sa.Connection, parcels: Keys, model_keys: Sequence[int]) -> dict[tuple[int, str], States]:
    """Return the states of parcels (P,), ascending, under some models, by model key and sequence."""
    parts: dict[tuple[int, str], list[tuple[bytes, bytes]]] = {}
    for some in np.split(parcels, range(_PARCELS_AT_ONCE, len(parcels), _PARCELS_AT_ONCE)):
        rows = driver(connection).execute(
            # Sorted here and not by the server, which would sort whole rows.
            b"""select model_key, modality,
                       string_agg(int8send(parcel_key) || int4send(n_folded) || timestamptz_send(observed_to)
                                  || int4send(octet_length(state)), ''::bytea),
                       string_agg(state, ''::bytea)
                from encoder_states where parcel_key = any(%s) and model_key = any(%s)
                group by model_key, modality""",
            [some, np.array(model_keys)],
            prepare=False,
            binary=True,
        )
        for model_key, sequence, heads, state in rows:
            parts.setdefault((model_key, sequence), []).append((heads, state))
    return {
        key: _states(*key, np.frombuffer(b"".join(heads), _HEAD), b"".join(state))
        for key, (heads, state) in ((key, zip(*own, strict=True)) for key, own in parts.items())
    }


_PARCELS_AT_ONCE: Final = 256
"""The server copies a value five times before it is sent: some 300 kB stay in its cache (2048: 25 us a parcel, 256: 18)."""


def _states(model_key: int, sequence: str, head: NDArray[np.void], state: bytes) -> States:
    """Return states as they were read, by parcel."""
    parcel_key = head["parcel_key"].astype(np.int64)
    order = np.argsort(parcel_key, kind="stable")
    offsets = np.r_[0, np.cumsum(head["size"])].astype(np.int32)
    as_read = pa.Array.from_buffers(pa.binary(), len(head), [None, pa.py_buffer(offsets), pa.py_buffer(state)])
    return States(
        model_key,
        sequence,
        parcel_key[order],
        head["n_folded"][order].astype(np.int64),
        EPOCH + head["observed_to"][order].astype(np.int64).astype("m8[us]"),
        as_read if np.array_equal(order, np.arange(len(order))) else as_read.take(pa.array(order)),
    )


def save(connection: sa.Connection, states: Sequence[States]) -> None:
    """Write states, newer over older."""
    for one in states:
        if len(one.parcel_key) == 0:
            continue
        _, offsets, data = one.state.buffers()
        begin = np.frombuffer(offsets, np.int32)[: len(one.state) + 1].astype(np.int64)
        # All states are one parameter, of which the server cuts each: a third of the work of copying rows to a table of their own.
        driver(connection).execute(
            b"""insert into encoder_states (parcel_key, model_key, modality, n_folded, observed_to, state)
                select parcel_key, %s, %s, n_folded, observed_to, substring(%b::bytea, first::int + 1, size::int)
                from unnest(%s, %s, %s, %s, %s) as one (parcel_key, n_folded, observed_to, first, size)
                on conflict (parcel_key, model_key, modality) do update
                set n_folded = excluded.n_folded, observed_to = excluded.observed_to, state = excluded.state""",
            [
                one.model_key,
                one.sequence,
                memoryview(data or b""),
                one.parcel_key,
                one.n_folded,
                one.observed_to,
                begin[:-1],
                np.diff(begin),
            ],
            prepare=False,
        )
