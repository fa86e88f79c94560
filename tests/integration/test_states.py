"""Cached states come back parcel by parcel, whatever plan the database finds them by."""

from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

from db import states
from db.connect import engine
from db.parcel_import import ParcelRow, upsert_parcels
from db.seasons import ensure_season
from db.states import OF_NO_MODEL, States


@pytest.mark.parametrize("plan", ["select", "set local enable_hashagg = off"])
def test_states_are_ascending_by_parcel_in_every_sequence(dsn: str, plan: str) -> None:
    now, names = datetime(2025, 1, 1, tzinfo=UTC), ("a", "b", "series")
    with engine(dsn).begin() as connection:
        season = ensure_season(connection, "2025", date(2025, 1, 1), date(2025, 12, 31))
        rows = [ParcelRow(f"p{nr}", "r", None, 1.0, 400.0, 0.9, None, "1", "wheat") for nr in range(300)]
        upsert_parcels(connection, "test", season, rows, now, now)
        keys = np.sort(np.array(connection.execute(sa.text("select parcel_key from parcels")).scalars().all()))
        seen = np.full(len(keys), np.datetime64("2025-01-02", "us"))
        for some in np.array_split(np.random.default_rng(1).permutation(keys), 9):  # as batch after batch wrote them
            own = np.sort(some)
            named = {name: pa.array([f"{name}{key}".encode() for key in own]) for name in names}
            states.save(
                connection, [States(OF_NO_MODEL, name, own, own, seen[: len(own)], named[name]) for name in names]
            )
        connection.execute(sa.text("analyze encoder_states"))
        connection.execute(sa.text(plan))
        found = states.load(connection, keys, [OF_NO_MODEL])
    assert {name for _, name in found} == set(names)
    for (_, name), one in found.items():
        assert one.parcel_key.tolist() == one.n_folded.tolist() == keys.tolist()
        assert one.state.to_pylist() == [f"{name}{key}".encode() for key in keys.tolist()]
    engine(dsn).dispose()
