"""Observations that come again are compared with what is stored by index, however much that is."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa

from db import observations
from db.connect import engine
from ingest.stream.schemas import S2
from tests.observations import NOW, PASS, ROW, season_of_parcels

N_PARCELS, N_PASSES, N_BYTES = 1_500, 60, 640


def replayed(first_pass: int, n_passes: int, n_rows: int) -> tuple[pa.Table, Any]:
    """Return rows of `season`, spread over some passes, and their parcels."""
    numbers = np.linspace(0, N_PARCELS * n_passes - 1, n_rows).astype(int)
    rows = [
        ROW | {"observed_at": at, "available_at": at, "n_clear": 9, "pixels": bytes(N_BYTES), "scene_id": f"{at:%j}"}
        for at in (PASS + timedelta(days=4 * (first_pass + int(number) // N_PARCELS)) for number in numbers)
    ]
    return pa.Table.from_pylist(rows, schema=S2.arrow), 1 + numbers % N_PARCELS


@pytest.fixture
def season(dsn: str) -> Iterator[sa.Connection]:
    """A season of many parcels, of which all is stored, in a transaction."""
    season_of_parcels(dsn, N_PARCELS)
    with engine(dsn).begin() as connection:
        given = {"pass": PASS, "n_parcels": N_PARCELS, "last": N_PASSES - 1, "n_bytes": N_BYTES}
        connection.execute(
            sa.text("""
            create temp table stored as
                select parcel_key, :pass + number * interval '4 days' as at, decode(repeat('00', :n_bytes), 'hex') as pixels
                from generate_series(1, :n_parcels) parcel_key, generate_series(0, :last) number"""),
            given,
        )
        connection.execute(
            sa.text("""
            insert into scenes (scene_id, sensor, platform, relative_orbit, observed_at, available_at, recorded_at)
                select distinct to_char(at at time zone 'UTC', 'FMDDD'), 'S2'::sensor, 'S2A', 51, at, at, at from stored;
            insert into s2_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_clear,
                                         available_at, recorded_at, scene_key, ndvi)
                select parcel_key, at, 51, 0, false, 9, at, at, scene_key, 0.5
                from stored join scenes on observed_at = at;
            insert into pixel_sets select parcel_key, at, 'S2', 51, 0, pixels from stored;
            analyze s2_observations, pixel_sets""")
        )
        yield connection


@pytest.mark.parametrize(("n_passes", "n_rows", "most_read"), [(3, 3_000, 2 * 12_000), (N_PASSES, 300, 2 * 300)])
def test_a_replay_reads_its_rows_by_index_or_those_of_its_days(
    season: sa.Connection, n_passes: int, n_rows: int, most_read: int
) -> None:
    asked: list[tuple[str, Any]] = []
    sa.event.listen(season, "before_cursor_execute", lambda _c, _cursor, text, given, *_: asked.append((text, given)))
    inserted = observations.insert(season, "S2", *replayed(N_PASSES - n_passes, n_passes, n_rows), NOW)
    assert (inserted.new, inserted.conflicts) == (0, ())
    n_read = 0
    for text, given in [one for one in asked if "from incoming" in one[0]]:
        plan = season.exec_driver_sql(f"explain (analyze, format json) {text}", given).scalar_one()
        for node in nodes((plan if isinstance(plan, list) else json.loads(plan))[0]["Plan"]):
            if node.get("Relation Name", "").startswith("_hyper"):
                n_read += (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    assert n_read <= most_read  # observations and pixel sets, of 90,000 each


def test_a_conflict_names_the_newest_revision_of_its_pass(season: sa.Connection) -> None:
    rows, keys = replayed(3, 40, 50)
    revised = rows.set_column(
        rows.column_names.index("revision"), S2.arrow.field("revision"), pa.array([4] * 50, pa.int16())
    )
    assert observations.insert(season, "S2", revised, keys, NOW).new == 50
    changed = rows.set_column(
        rows.column_names.index("NDVI"), S2.arrow.field("NDVI"), pa.array([0.25] * 50, pa.float32())
    )
    found = observations.insert(season, "S2", changed, keys, NOW).conflicts
    assert [(one.row, one.newest_revision) for one in found] == [(row, 4) for row in range(50)]


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", []):
        yield from nodes(inner)
