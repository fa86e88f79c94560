"""Rows of the message contract from the frames of a recorded season: one Arrow table per acquisition."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ingest.stream.schemas import S1, S2
from research.seasons.replay_source import RecordedAcquisition, Sensor

SCHEMA_OF = {"S1": S1, "S2": S2}


def acquisition(
    sensor: Sensor,
    rows: pd.DataFrame,
    *,
    observed_at: datetime,
    available_at: datetime,
    scene: str,
    same: Mapping[str, Any],
    skipped: Mapping[str, int],
) -> RecordedAcquisition:
    """Return one acquisition from its parcels' values.

    Args:
        rows: parcel_id and any of the contract's columns, a row per parcel; NaN becomes null.
        scene: identifies pass and sensor within the collection.
        same: columns with one value for all rows: collection, season, platform, relative_orbit, ...
        skipped: parcels without a row, by reason; reasons with none are left out.
    """
    fixed = {
        **same,
        "observed_at": observed_at,
        "available_at": available_at,
        "scene_id": f"{same['collection']}/{sensor}/{scene}",
        "revision": 0,
        "is_withdrawn": False,
    }
    schema = SCHEMA_OF[sensor].arrow
    columns = [_column(field, rows, fixed) for field in schema]
    table = pa.Table.from_arrays(columns, schema=schema)
    return RecordedAcquisition(
        available_at, sensor, table, {reason: count for reason, count in skipped.items() if count}
    )


def in_order(passes: list[RecordedAcquisition]) -> tuple[RecordedAcquisition, ...]:
    """Return acquisitions in order of availability; of the same moment S1 first, else as given."""
    return tuple(sorted(passes, key=lambda one: (one.available_at, one.sensor)))


def _column(field: pa.Field, rows: pd.DataFrame, fixed: Mapping[str, Any]) -> pa.Array:
    if field.name in rows.columns:
        values = rows[field.name].to_numpy()
        if pa.types.is_integer(field.type):
            values = values.astype(np.int64)
        return pa.array(values, type=field.type, from_pandas=True)
    if field.name in fixed:
        return pa.repeat(pa.scalar(fixed[field.name], type=field.type), len(rows))
    return pa.nulls(len(rows), type=field.type)
