"""Every kind of bad row is told with its code and a sentence, and nothing else is touched."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db.dead_letters import WHOLE_MESSAGE
from ingest.stream.arrow_batches import decode_arrow
from ingest.stream.messages import encode_arrow, encode_json
from ingest.stream.row_checks import Fault, faults
from ingest.stream.schemas import CONTENT_TYPE_ARROW, CONTENT_TYPE_JSON, S1, S2, ObservationSchema
from ingest.stream.settings import IngestSettings
from ingest.stream.validation import Message, Validated, validate

NOW = datetime(2023, 6, 1, tzinfo=UTC)
SETTINGS = IngestSettings()

IDENTITY: dict[str, object] = {
    "collection": "nl",
    "season": "2023",
    "parcel_id": "17",
    "observed_at": datetime(2023, 5, 1, 10, 56, 21, tzinfo=UTC),
    "available_at": datetime(2023, 5, 1, 16, tzinfo=UTC),
    "scene_id": "X_1",
    "platform": "S2A",
    "relative_orbit": 51,
    "revision": 0,
    "is_withdrawn": False,
}
GOOD: dict[str, dict[str, object]] = {
    S2.id: IDENTITY | {"B02": 0.03, "NDVI": 0.5, "n_clear": 2, "clear_fraction": 1.0, "pixels": bytes(40)},
    S1.id: IDENTITY
    | {
        "direction": "ascending",
        "radiometry": "sigma0",
        "VV": 0.1,
        "VH": 0.02,
        "n_pixels": 9,
        "coherence_VV": 0.4,
        "coherence_with": datetime(2023, 4, 19, tzinfo=UTC),
    },
}


def table(schema: ObservationSchema, *changes: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist([GOOD[schema.id] | change for change in changes], schema=schema.arrow)


def found(schema: ObservationSchema, *changes: dict[str, object]) -> list[Fault]:
    return faults(schema, table(schema, *changes), NOW, SETTINGS.clock_tolerance, SETTINGS.max_pixel_bytes)


@pytest.mark.parametrize("schema", [S2, S1], ids=lambda schema: schema.name)
def test_good_rows_pass(schema: ObservationSchema) -> None:
    edges: list[dict[str, object]] = [
        {},
        {"observed_at": NOW, "available_at": NOW + SETTINGS.clock_tolerance},
        {"relative_orbit": 0},
        {"relative_orbit": 175},
        {"revision": 32767},
        {"is_withdrawn": True, "NDVI": None, "B02": None, "VV": None},
        {"pixels": None},
        {"available_at": IDENTITY["observed_at"]},
    ]
    known = [{name: value for name, value in edge.items() if name in schema.arrow.names} for edge in edges]
    assert found(schema, *known) == []


def bad_values(schema: ObservationSchema) -> list[tuple[str, object, str]]:
    """Every limited column just outside of its limits, and every float column not finite."""
    cases: list[tuple[str, object, str]] = []
    for name, limits in schema.limits.items():
        if pa.types.is_floating(schema.arrow.field(name).type):
            below, above = np.nextafter(
                np.array([limits.low, limits.high], np.float32), np.array([-np.inf, np.inf], np.float32)
            )
            cases += [(name, float(value), "out_of_range") for value in (below, above)]
            cases += [(name, value, "not_finite") for value in (float("nan"), float("inf"), float("-inf"))]
        else:
            cases.append((name, -1, "out_of_range"))
    return cases


BAD = [
    *((S2, *case) for case in bad_values(S2)),
    *((S1, *case) for case in bad_values(S1)),
    *((schema, name, None, "missing_value") for schema in (S1, S2) for name in schema.required),
    *(
        (schema, name, text, "bad_text")
        for schema in (S1, S2)
        for name in ("parcel_id", "scene_id", "platform", "season")
        for text in ("", "a\x00b", "line\nbreak", "x" * 201)
    ),
    (S1, "direction", "up", "unknown_choice"),
    (S1, "radiometry", "beta0", "unknown_choice"),
    (S2, "relative_orbit", 176, "out_of_range"),
    (S2, "observed_at", NOW + timedelta(seconds=301), "future_dated"),
    (S2, "observed_at", datetime(2014, 4, 2, tzinfo=UTC), "out_of_range"),
    (S2, "available_at", NOW + timedelta(days=2), "future_dated"),
    (S2, "available_at", datetime(2023, 5, 1, 10, tzinfo=UTC), "available_before_observed"),
    (S1, "coherence_with", IDENTITY["observed_at"], "out_of_range"),
    (S1, "coherence_with", datetime(1, 1, 1, tzinfo=UTC), "out_of_range"),
    (S2, "pixels", b"", "pixels_shape"),
    (S2, "pixels", bytes(39), "pixels_shape"),
    (S2, "pixels", bytes(4), "pixels_shape"),
    (S1, "pixels", bytes(6), "pixels_shape"),
    (S2, "pixels", bytes(SETTINGS.max_pixel_bytes + 20), "oversized"),
]


@pytest.mark.parametrize(
    ("schema", "name", "value", "code"), BAD, ids=lambda value: str(getattr(value, "sensor", value))[:20]
)
def test_a_bad_value_is_told_and_its_neighbours_pass(
    schema: ObservationSchema, name: str, value: object, code: str
) -> None:
    (fault,) = found(schema, {}, {name: value}, {})
    assert (fault.row, fault.code) == (1, code)
    assert name in fault.reason
    assert "\n" not in fault.reason
    assert len(fault.reason) < 300


@pytest.mark.parametrize("name", ["observed_at", "available_at"])
def test_the_time_that_numpy_takes_for_none_is_told(name: str) -> None:
    rows = table(S2, {}, {})
    column = pa.array([None, -(2**63)], rows.schema.field(name).type).fill_null(rows[name][0])
    rows = rows.set_column(rows.column_names.index(name), name, column)
    told = faults(S2, rows, NOW, SETTINGS.clock_tolerance, SETTINGS.max_pixel_bytes)
    assert [(fault.row, fault.code) for fault in told] in ([(1, "out_of_range")], [(1, "available_before_observed")])


def test_a_year_beyond_datetime_is_a_future() -> None:
    far = table(S2, {}).set_column(3, "observed_at", pa.array([2**62], S2.arrow.field("observed_at").type))
    (fault,) = faults(S2, far, NOW, SETTINGS.clock_tolerance, SETTINGS.max_pixel_bytes)
    assert fault.code == "future_dated"


@pytest.mark.parametrize(
    ("schema", "change"), [(S2, {"NDVI": None, "B02": None}), (S1, {"VV": None}), (S1, {"VH": None})]
)
def test_an_observation_without_values_is_told(schema: ObservationSchema, change: dict[str, object]) -> None:
    (fault,) = found(schema, change)
    assert fault.code == "missing_values"
    assert found(schema, change | {"is_withdrawn": True}) == []


@given(rows=st.lists(st.sampled_from([None, *(case for case in BAD if case[0] is S2)]), max_size=30))
@settings(deadline=None)
def test_each_bad_row_has_one_fault_and_each_good_one_none(rows: list[Any]) -> None:
    told = found(S2, *({} if case is None else {case[1]: case[2]} for case in rows)) if rows else []
    assert [fault.row for fault in told] == [row for row, case in enumerate(rows) if case is not None]
    assert [fault.code for fault in told] == [case[3] for case in rows if case is not None]


def message(value: bytes, content_type: str | None, offset: int = 0) -> Message:
    return Message("t", 0, offset, content_type, value)


def code_of(validated: Validated) -> str:
    (rejection,) = validated.rejections
    return rejection.code


@pytest.mark.parametrize(
    "case",
    [case for case in BAD if case[0] is S2 and case[1] != "pixels"],
    ids=lambda case: f"{case[1]}={case[2]!s:.9}",
)
def test_both_forms_are_judged_alike(case: tuple[ObservationSchema, str, object, str]) -> None:
    schema, name, value, code = case
    rows = table(schema, {name: value})
    as_batch = validate([message(encode_arrow(rows), CONTENT_TYPE_ARROW)], SETTINGS, NOW)
    record = json.loads(encode_json(schema, table(schema, {}).to_pylist())[0])
    record[name] = value.isoformat() if isinstance(value, datetime) else value
    as_record = validate([message(json.dumps(record).encode(), CONTENT_TYPE_JSON)], SETTINGS, NOW)
    assert code_of(as_batch) == code_of(as_record) == code


def test_a_bad_row_of_a_batch_leaves_a_letter_of_that_row_alone() -> None:
    rows = table(S2, {"parcel_id": "a"}, {"parcel_id": "b", "NDVI": 3.0}, {"parcel_id": "c"})
    validated = validate([message(encode_arrow(rows), CONTENT_TYPE_ARROW)], SETTINGS, NOW)
    assert validated.n_rows == 3
    assert validated.rows[0].table["parcel_id"].to_pylist() == ["a", "c"]
    (rejection,) = validated.rejections
    assert rejection.row == 1
    _, alone = decode_arrow(rejection.payload)
    assert alone["parcel_id"].to_pylist() == ["b"]


def test_rows_of_many_messages_know_where_they_came_from() -> None:
    batch = message(encode_arrow(table(S2, {}, {"NDVI": 3.0})), CONTENT_TYPE_ARROW, 5)
    records = [
        message(record, f"{CONTENT_TYPE_JSON}; charset=utf-8", 6 + number)
        for number, record in enumerate(encode_json(S2, table(S2, {}, {"NDVI": 4.0}).to_pylist()))
    ]
    other = message(encode_arrow(table(S1, {"VV": -1.0})), CONTENT_TYPE_ARROW.upper(), 8)
    validated = validate([batch, *records, other], SETTINGS, NOW)
    assert [rows.table.num_rows for rows in validated.rows] == [2, 0]
    assert [(each.message.offset, each.row) for each in validated.rejections] == [(5, 1), (7, WHOLE_MESSAGE), (8, 0)]
    assert validated.rejections[1].payload == records[1].value


@pytest.mark.parametrize(
    ("value", "content_type", "code"),
    [
        (b"{}", None, "unknown_content_type"),
        (b"{}", "text/plain", "unknown_content_type"),
        (b"x" * (SETTINGS.max_record_bytes + 1), CONTENT_TYPE_JSON, "oversized"),
        (b"x" * (SETTINGS.max_message_bytes + 1), CONTENT_TYPE_ARROW, "oversized"),
        (b"x", CONTENT_TYPE_ARROW, "malformed"),
        (b"", CONTENT_TYPE_ARROW, "malformed"),
    ],
)
def test_a_message_that_cannot_be_read_is_told(value: bytes, content_type: str | None, code: str) -> None:
    validated = validate([message(value, content_type)], SETTINGS, NOW)
    assert code_of(validated) == code
    assert (validated.n_rows, validated.rejections[0].row, validated.rejections[0].payload) == (1, WHOLE_MESSAGE, value)


def test_a_batch_that_is_small_only_when_compressed_is_oversized() -> None:
    changes: list[dict[str, object]] = [{"pixels": bytes(20_000)}] * 50
    rows = table(S2, *changes)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(rows)
    small = sink.getvalue().to_pybytes()
    assert len(small) < 100_000
    assert validate([message(small, CONTENT_TYPE_ARROW)], SETTINGS, NOW).rejections == ()
    tight = IngestSettings(max_message_bytes=500_000)
    assert code_of(validate([message(small, CONTENT_TYPE_ARROW)], tight, NOW)) == "oversized"
