"""The table that is exported: columns, and batches of parcels as Arrow.

Columns that fiboa knows have its names (Vecorel 0.1.0, fiboa 0.3.0: `id`, `collection`, `geometry`, `metrics:area` in m2,
`metrics:perimeter` in m) and those of its extensions for crops (`crop:code`, `crop:name`, `hcat:code`); all others are ours.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import pyarrow as pa

from db import exports
from db.connect import Connection
from db.exports import ExportRow, Selection
from monitor.alerts.rules import RULES
from monitor.errors import NotFound
from terminal.times import shown

M2_PER_HA: Final = 10_000.0
NOTHING_FOUND: Final = "not_executed"
LONGEST_PAUSE_S: Final = 120.0
"""The longest that writing or sending a page may take (chosen: 5 MB by a line of 0.4 Mbit/s)."""
TIME: Final = pa.timestamp("us", "UTC")
GEOMETRY: Final = "geometry"


@dataclass(frozen=True)
class Export:
    """A table of parcels: its columns, and batches that can be read once."""

    selection: Selection
    known_at: datetime
    """As known when: the time asked for, else that of the state of the database."""
    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


def export(connection: Connection, selection: Selection) -> Export:
    """Return the table of what the one who asks may see, its first page read.

    Args:
        connection: unchanging (`db.exports.unchanging`), of a transaction that nothing was asked of yet, the time asked for settled.

    Raises:
        NotFound: there are no such parcels.
    """
    known_at = exports.begin(connection, LONGEST_PAUSE_S)
    rules = [*RULES, *(one for one in exports.obligations(connection, selection) if one not in RULES)]
    made, pages = schema(rules), exports.pages(connection, selection)
    if (first := next(pages, None)) is None:
        raise NotFound(_nothing(selection))
    return Export(selection, selection.as_known_at or known_at, made, _batches(made, selection, rules, first, pages))


def schema(rules: Iterable[str]) -> pa.Schema:
    """Return the columns, with the light of each rule."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("collection", pa.string(), nullable=False),
            ("season", pa.string()),
            ("region", pa.string()),
            ("crop:code", pa.string()),
            ("crop:name", pa.string()),
            ("hcat:code", pa.string()),
            ("declared_at", TIME),
            ("metrics:area", pa.float32()),
            ("metrics:perimeter", pa.float32()),
            ("not_monitorable_reason", pa.string()),
            ("light", pa.string()),
            *((_light(rule), pa.string()) for rule in rules),
            ("other_lights", pa.string()),
            ("likeliest_crop", pa.string()),
            ("likeliest_crop_probability", pa.float32()),
            ("observed_to", TIME),
            ("open_alerts", pa.int32()),
            ("alerts", pa.string()),
            (GEOMETRY, pa.binary()),
        ]
    )


def _light(rule: str) -> str:
    return f"light_{rule}"


def _batches(
    made: pa.Schema,
    selection: Selection,
    rules: Sequence[str],
    first: Sequence[ExportRow],
    pages: Iterator[Sequence[ExportRow]],
) -> Iterator[pa.RecordBatch]:
    yield _batch(made, selection, rules, first)
    del first
    for page in pages:
        yield _batch(made, selection, rules, page)


def _batch(made: pa.Schema, selection: Selection, rules: Sequence[str], page: Sequence[ExportRow]) -> pa.RecordBatch:
    rows = dict(zip(ExportRow._fields, zip(*page, strict=True), strict=True))
    columns: Mapping[str, Sequence[Any]] = {
        "id": rows["source_id"],
        "collection": [selection.collection] * len(page),
        "season": [selection.season] * len(page),
        "region": rows["region"],
        "crop:code": rows["declared_crop_code"],
        "crop:name": rows["declared_crop"],
        "hcat:code": rows["hcat_code"],
        "declared_at": rows["declared_at"],
        "metrics:area": [ha * M2_PER_HA if ha else None for ha in rows["area_ha"]],  # Vecorel: above zero
        "metrics:perimeter": [metres or None for metres in rows["perimeter_m"]],
        "not_monitorable_reason": rows["not_monitorable_reason"],
        "light": rows["light"],
        **{_light(rule): [one.get(rule, NOTHING_FOUND) for one in rows["lights"]] for rule in rules},
        "other_lights": [
            "; ".join(f"{rule} {light}" for rule, light in sorted(one.items()) if rule not in rules) or None
            for one in rows["lights"]
        ],
        "likeliest_crop": rows["likeliest_crop"],
        "likeliest_crop_probability": rows["probability"],
        "observed_to": rows["observed_to"],
        "open_alerts": [len(alerts) for alerts in rows["open_alerts"]],
        "alerts": ["; ".join(map(_alert, alerts)) or None for alerts in rows["open_alerts"]],
        GEOMETRY: rows["wkb"],
    }
    return pa.record_batch([pa.array(columns[field.name], field.type) for field in made], schema=made)


def _alert(alert: Mapping[str, Any]) -> str:
    return f"{alert['alert_key']} {alert['rule']} {alert['colour']} {alert['state']} since {alert['departed_on']}"


def _nothing(selection: Selection) -> str:
    region = f", region {selection.region!r}," if selection.region is not None else ""
    when = f" by {shown(selection.as_known_at)}" if selection.as_known_at else ""
    return (
        f"no parcel of collection {selection.collection!r} in season {selection.season!r}{region} is stored{when} that you "
        "may see: `parcelwatch parcels list --season` counts them"
    )
