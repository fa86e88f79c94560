"""The two forms of a message decode to the same table, and what breaks the contract is told in its words."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from db.series import INVALID_PIXEL
from ingest.errors import MessageRejected
from ingest.stream.arrow_batches import decode_arrow
from ingest.stream.json_schemas import json_schema
from ingest.stream.messages import decode_json, encode_arrow, encode_json, rows_to_table
from ingest.stream.producer import ObservationProducer, batches, filled
from ingest.stream.schemas import CONTENT_TYPE_ARROW, S1, S2, SCHEMA_KEY, SCHEMAS, ObservationSchema
from ingest.stream.settings import IngestSettings
from ingest.stream.validation import Message, validate

PUBLISHED = Path(__file__).parents[2] / "docs" / "schemas"


def values(field: pa.Field, schema: ObservationSchema) -> st.SearchStrategy[object]:
    """Any value that a column can hold, in or out of its limits."""
    kind = field.type
    if field.name in schema.choices:
        one: st.SearchStrategy[object] = st.sampled_from(schema.choices[field.name])
    elif pa.types.is_integer(kind):
        one = st.integers(-(2 ** (kind.bit_width - 1)), 2 ** (kind.bit_width - 1) - 1)
    elif pa.types.is_floating(kind):
        one = st.floats(width=32, allow_nan=False, allow_infinity=False)
    elif pa.types.is_timestamp(kind):
        offsets = st.integers(-14, 14).map(lambda hours: timezone(timedelta(hours=hours)))
        one = st.datetimes(datetime(1900, 1, 2), datetime(2199, 1, 1), timezones=offsets)  # noqa: DTZ001
    elif pa.types.is_boolean(kind):
        one = st.booleans()
    elif pa.types.is_string(kind):
        one = st.text(st.characters(exclude_categories=["Cs"]))
    else:
        bands = len(schema.pixel_bands)
        sets = st.integers(1, 5).flatmap(
            lambda n: st.lists(st.integers(-(2**15), 2**15 - 1), min_size=n * bands, max_size=n * bands)
        )
        one = sets.map(lambda flat: np.array(flat, "<i2").tobytes())
    return one if not field.nullable else st.none() | one


def rows(schema: ObservationSchema) -> st.SearchStrategy[list[dict[str, object]]]:
    """Rows of a schema's columns."""
    return st.lists(
        st.fixed_dictionaries({field.name: values(field, schema) for field in schema.arrow}), min_size=1, max_size=4
    )


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=lambda schema: schema.name)
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_json_and_arrow_decode_to_the_same_table(schema: ObservationSchema, data: st.DataObject) -> None:
    table = pa.Table.from_pylist(data.draw(rows(schema)), schema=schema.arrow)

    from_arrow_schema, from_arrow = decode_arrow(encode_arrow(table))
    decoded = [decode_json(record) for record in encode_json(schema, table.to_pylist())]
    from_json = rows_to_table(schema, [record for _, record in decoded])

    assert from_arrow_schema is schema
    assert all(found is schema for found, _ in decoded)
    assert from_arrow.schema == schema.arrow
    assert from_arrow.equals(table)
    assert from_json.equals(table)


def s2_record(**changes: object) -> dict[str, object]:
    """A small valid record; a change to `...` leaves the field out."""
    record = {
        "schema": "parcelwatch.s2/1",
        "collection": "nl",
        "season": "2023",
        "parcel_id": "17",
        "observed_at": "2023-05-01T10:56:21Z",
        "available_at": "2023-05-01T16:00:00+02:00",
        "scene_id": "S2A_1",
        "platform": "S2A",
        "relative_orbit": 51,
        "NDVI": 0.5,
        "n_clear": 12,
        "clear_fraction": 1,
    } | changes
    return {name: value for name, value in record.items() if value is not ...}


def encoded(record: object) -> bytes:
    return json.dumps(record).encode()


def test_offsets_from_utc_are_instants() -> None:
    schema, row = decode_json(encoded(s2_record()))
    table = rows_to_table(schema, [row])
    assert table["available_at"][0].as_py() == datetime(2023, 5, 1, 14, tzinfo=UTC)


def test_left_out_fields_have_their_defaults() -> None:
    _, row = decode_json(encoded(s2_record()))
    assert (row["revision"], row["is_withdrawn"], row["B02"], row["pixels"]) == (0, False, None, None)


def test_pixels_are_packed_by_band_with_null_as_invalid() -> None:
    _, row = decode_json(encoded(s2_record(pixels=[[band, None] for band in range(10)])))
    pixels = np.frombuffer(row["pixels"], "<i2").reshape(10, 2)
    assert pixels[:, 0].tolist() == list(range(10))
    assert (pixels[:, 1] == INVALID_PIXEL).all()


@pytest.mark.parametrize(
    ("message", "code", "told"),
    [
        (b"", "malformed", "not a JSON record"),
        (b"\xff\xfe", "malformed", "not a JSON record"),
        (b'{"schema": "parcelwatch.s2/1"', "malformed", "not a JSON record"),
        (b"[]", "malformed", "not a JSON record"),
        (b"17", "malformed", "not a JSON record"),
        (b"null", "malformed", "not a JSON record"),
        (b"{}", "unknown_schema", "no field 'schema'"),
        (encoded(s2_record(schema="copernicus.s2/1")), "unknown_schema", "copernicus.s2/1"),
        (encoded(s2_record(schema="parcelwatch.s2/2")), "unsupported_version", "this reader knows parcelwatch.s2/1"),
        (encoded(s2_record(schema=2)), "unknown_schema", "2"),
        (encoded(s2_record(parcel_id=...)), "missing_value", "parcel_id: not there"),
        (encoded(s2_record(parcel_id=None)), "missing_value", "parcel_id: null"),
        (encoded(s2_record(parcel_id=17)), "malformed", "parcel_id: "),
        (
            encoded(s2_record(observed_at="2023-05-01T10:56:21")),
            "naive_timestamp",
            "observed_at: .* no offset from UTC",
        ),
        (encoded(s2_record(observed_at="1 May")), "malformed", "observed_at: "),
        (encoded(s2_record(observed_at=1682938581)), "malformed", "observed_at: "),
        (encoded(s2_record(relative_orbit=40_000)), "out_of_range", "relative_orbit: "),
        (encoded(s2_record(relative_orbit=10**30)), "out_of_range", "relative_orbit: "),
        (encoded(s2_record(relative_orbit="51")), "malformed", "relative_orbit: "),
        (encoded(s2_record(NDVI="0.5")), "malformed", "NDVI: "),
        (encoded(s2_record(ndvi=0.5)), "malformed", "ndvi: not a field"),
        (encoded(s2_record(pixels=[[1, 2]] * 9)), "pixels_shape", "9 rows; send 10 rows"),
        (encoded(s2_record(pixels=[[1]] * 9 + [[1, 2]])), "pixels_shape", "same length"),
        (encoded(s2_record(pixels=[[40_000]] * 10)), "out_of_range", "pixels: .* -32768..32767"),
        (encoded(s2_record(pixels=[["x"]] * 10)), "malformed", "pixels: .*no whole number"),
    ],
)
def test_bad_json_is_told_of(message: bytes, code: str, told: str) -> None:
    with pytest.raises(MessageRejected, match=told) as caught:
        decode_json(message)
    assert caught.value.code == code
    assert "\n" not in caught.value.reason


def test_an_unknown_direction_is_told_of() -> None:
    record = {
        "schema": "parcelwatch.s1/1",
        "collection": "nl",
        "season": "2023",
        "parcel_id": "17",
        "observed_at": "2023-05-01T10:56:21Z",
        "available_at": "2023-05-01T16:00:00Z",
        "scene_id": "S1A_1",
        "platform": "S1A",
        "relative_orbit": 15,
        "direction": "up",
        "radiometry": "sigma0",
        "VV": 0.1,
        "VH": 0.02,
        "n_pixels": 9,
    }
    with pytest.raises(MessageRejected, match=r"direction: .*ascending") as caught:
        decode_json(encoded(record))
    assert caught.value.code == "unknown_choice"


def one_row(schema: ObservationSchema = S2) -> pa.Table:
    _, row = decode_json(encoded(s2_record()))
    return rows_to_table(schema, [row])


def replaced(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


@pytest.mark.parametrize(
    ("table", "code", "told"),
    [
        (one_row().replace_schema_metadata({}), "unknown_schema", "is not known"),
        (one_row().replace_schema_metadata({SCHEMA_KEY: b"parcelwatch.s2/9"}), "unsupported_version", "s2/9"),
        (one_row().drop_columns(["parcel_id"]), "missing_value", "parcel_id: column not there"),
        (one_row().append_column("ndwi", pa.array([0.1])), "malformed", "'ndwi'"),
        (one_row().append_column("NDVI", pa.array([0.1])), "malformed", "there twice"),
        (replaced(one_row(), "NDVI", pa.array(["0.5"])), "malformed", "NDVI: type string, not float"),
        (replaced(one_row(), "relative_orbit", pa.array([70_000])), "out_of_range", "relative_orbit: "),
        (replaced(one_row(), "observed_at", pa.array([datetime(2023, 5, 1)])), "naive_timestamp", "observed_at"),  # noqa: DTZ001
    ],
)
def test_bad_arrow_is_told_of(table: pa.Table, code: str, told: str) -> None:
    with pytest.raises(MessageRejected, match=told) as caught:
        decode_arrow(encode_arrow(table))
    assert caught.value.code == code


def test_arrow_columns_may_be_wider_and_in_another_order() -> None:
    table = one_row()
    wider = replaced(table, "NDVI", table["NDVI"].cast(pa.float64()))
    wider = replaced(wider, "n_clear", wider["n_clear"].cast(pa.int64()))
    wider = replaced(wider, "observed_at", wider["observed_at"].cast(pa.timestamp("ns", "Europe/Paris")))
    wider = replaced(wider, "parcel_id", wider["parcel_id"].dictionary_encode())
    wider = wider.select(wider.column_names[::-1]).drop_columns(["pixels", "B02"])
    _, decoded = decode_arrow(encode_arrow(wider))
    assert decoded.equals(table)


@given(data=st.data())
@settings(deadline=None, max_examples=300)
def test_damaged_arrow_is_rejected_and_nothing_worse(data: st.DataObject) -> None:
    message = bytearray(encode_arrow(pa.concat_tables([one_row()] * 3)))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(message[: data.draw(st.integers(0, len(message)))])
    validated = validate(
        [Message("t", 0, 0, CONTENT_TYPE_ARROW, damaged)], IngestSettings(), datetime(2023, 6, 1, tzinfo=UTC)
    )
    assert validated.n_rows == len(validated.rejections) + sum(rows.table.num_rows for rows in validated.rows)
    assert all(rows.table.schema == rows.schema.arrow for rows in validated.rows)


@given(sizes=st.lists(st.integers(0, 4_000), min_size=1, max_size=30), max_bytes=st.integers(5_000, 40_000))
@settings(deadline=None)
def test_batches_keep_every_row_within_the_limit(sizes: list[int], max_bytes: int) -> None:
    table = pa.concat_tables([one_row()] * len(sizes)).combine_chunks()
    table = replaced(table, "parcel_id", pa.array([str(row) for row in range(len(sizes))]))
    table = replaced(table, "pixels", pa.array([bytes(size) for size in sizes], pa.binary()))
    messages = list(batches(table, max_bytes))
    decoded = [decode_arrow(message)[1] for message in messages]
    assert pa.concat_tables(decoded).equals(table.cast(S2.arrow))
    assert all(len(message) <= max_bytes or part.num_rows == 1 for message, part in zip(messages, decoded, strict=True))


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=lambda schema: schema.name)
def test_published_schemas_are_those_of_the_models(schema: ObservationSchema) -> None:
    published = json.loads((PUBLISHED / f"{schema.name}.{schema.version}.json").read_text())
    assert published == json_schema(schema), "run `python -m ingest.stream.json_schemas docs/schemas`"
    assert set(published["properties"]) == {"schema", *schema.arrow.names}
    assert set(published["required"]) == {"schema", *schema.required} - {"revision", "is_withdrawn"}
    assert published["properties"]["relative_orbit"]["maximum"] == 175


def test_schemas_say_in_arrow_who_they_are() -> None:
    assert {schema.arrow.metadata[SCHEMA_KEY].decode() for schema in (S1, S2)} == set(SCHEMAS)


WHEN = datetime(2023, 5, 1, tzinfo=UTC)
ROW = {
    "collection": "nl-brp",
    "season": "2023",
    "parcel_id": "1",
    "observed_at": WHEN,
    "available_at": WHEN,
    "scene_id": "s",
    "platform": "S2A",
    "relative_orbit": 94,
    "NDVI": 0.5,
    "n_clear": 9,
}


@pytest.mark.parametrize("given", [{}, {"revision": None, "is_withdrawn": None}])
def test_what_json_may_leave_out_is_filled_before_arrow_is_sent(given: dict[str, None]) -> None:
    schema = S2.arrow if given else pa.schema([S2.arrow.field(name) for name in ROW], metadata=S2.arrow.metadata)
    table = filled(pa.Table.from_pylist([ROW | given, ROW | given], schema=schema), S2)
    sent, decoded = decode_arrow(encode_arrow(table), 10)[:2]
    assert sent is S2
    assert decoded["revision"].to_pylist() == [0, 0]
    assert decoded["is_withdrawn"].to_pylist() == [False, False]


def test_a_column_of_nulls_without_a_type_is_filled() -> None:
    table = pa.Table.from_pylist([ROW | {"revision": None}]).replace_schema_metadata(S2.arrow.metadata)
    assert filled(table, S2)["revision"].to_pylist() == [0]


@pytest.mark.parametrize("change", [{"n_clear": None}, {"scene_id": None}])
def test_an_arrow_table_without_a_required_value_is_refused_in_one_line(change: dict[str, None]) -> None:
    (name,) = change
    table = pa.Table.from_pylist([ROW, ROW | change], schema=S2.arrow)
    with pytest.raises(MessageRejected, match=f"^column {name}: null in 1 of 2 rows, and every row needs it"):
        filled(table, S2)
    with pytest.raises(MessageRejected, match=f"^column {name}: not there"):
        filled(table.drop_columns([name]), S2)


class Kept(ObservationProducer):
    """A producer whose messages go nowhere."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []
        self._settings, self._sender = IngestSettings(), self  # type: ignore[assignment]

    def send(self, *message: Any, **_: Any) -> None:  # type: ignore[override]
        """Keep a message: topic, value, headers."""
        self.sent.append(message)


def test_records_may_leave_out_or_null_what_has_a_default() -> None:
    producer = Kept()
    assert producer.send_records(S2, [ROW, ROW | {"revision": None, "is_withdrawn": None, "B02": None}]) == 2
    assert [decode_json(value)[1]["revision"] for _, value, _ in producer.sent] == [0, 0]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"n_clear": None}, "missing_value"),
        ({"observed_at": datetime(2023, 5, 1)}, "naive_timestamp"),  # noqa: DTZ001
        ({"ndvi": 0.5}, "malformed"),
        ({"NDVI": float("nan")}, "malformed"),
        ({"observed_at": WHEN.date()}, "malformed"),
        ({"pixels": b"\0" * 7}, "malformed"),
    ],
)
def test_a_record_that_cannot_be_read_is_refused_before_any_is_sent(change: dict[str, object], code: str) -> None:
    producer = Kept()
    with pytest.raises(MessageRejected, match=r"^row 1: [^\n]+; nothing was sent$") as refused:
        producer.send_records(S2, [ROW, ROW | change])
    assert refused.value.code == code
    assert producer.sent == []
