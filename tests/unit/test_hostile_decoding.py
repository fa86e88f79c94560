"""Messages made to break their reader: each becomes a rejection, costs little memory and leaves its neighbours alone."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from db.dead_letters import WHOLE_MESSAGE, DeadLetter
from ingest.stream import row_checks
from ingest.stream import validation as judging
from ingest.stream.arrow_batches import decode_arrow
from ingest.stream.ipc_size import stream_size
from ingest.stream.messages import encode_arrow, encode_json
from ingest.stream.schemas import CONTENT_TYPE_ARROW, CONTENT_TYPE_JSON, S2, SCHEMA_KEY
from ingest.stream.settings import IngestSettings
from ingest.stream.validation import Message, Validated, validate, validate_in_parts
from tests.observations import PASS, ROW

NOW = datetime(2023, 9, 1, tzinfo=UTC)
SETTINGS = IngestSettings()


def table(*changes: Mapping[str, object]) -> pa.Table:
    return pa.Table.from_pylist([ROW | dict(change) for change in changes], schema=S2.arrow)


def replaced(name: str, column: pa.Array | pa.ChunkedArray, rows: pa.Table | None = None) -> pa.Table:
    rows = table(*[{}] * len(column)) if rows is None else rows
    return rows.set_column(rows.column_names.index(name), name, column)


def stream(rows: pa.Table, compression: str | None = None, chunk_rows: int | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(rows, chunk_rows)
    return bytes(sink.getvalue())


def validated(*values: bytes, content_type: str | None = CONTENT_TYPE_ARROW) -> Validated:
    return validate(
        [Message("t", 0, offset, content_type, value) for offset, value in enumerate(values)], SETTINGS, NOW
    )


def told(of: Validated) -> list[tuple[int, str]]:
    return [(rejection.row, rejection.code) for rejection in of.rejections]


POOLS: list[pa.MemoryPool] = []
"""Kept to the end: a pool must outlive what was taken from it."""


@contextmanager
def arrow_memory(most: int) -> Iterator[None]:
    """Fails if Arrow held more than `most` bytes at any moment within."""
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    POOLS.append(pool)
    pa.set_memory_pool(pool)
    try:
        yield
        assert pool.max_memory() < most
    finally:
        pa.set_memory_pool(before)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "compressed pixels": lambda: stream(table({"pixels": bytes(64 * 2**20)}), "zstd"),
    "compressed pixels of many rows": lambda: stream(table(*[{"pixels": bytes(80_000)}] * 400), "lz4"),
    "a length that is a lie": lambda: with_a_lie(stream(table({"pixels": bytes(2_000)}), "zstd"), 2**40),
    "one long text in a dictionary": lambda: stream(
        replaced("scene_id", pa.DictionaryArray.from_arrays(pa.array([0] * 4_000, pa.int8()), ["x" * 1_000_000]))
    ),
    "one long text behind views": lambda: stream(replaced("scene_id", shared_views("x" * 1_000_000, 4_000))),
    "more rows than a batch may have": lambda: stream(
        pa.concat_tables([table({})] * 60_000).combine_chunks().select([*S2.required, "NDVI"]), "zstd"
    ),
    "a text column with runs": lambda: stream(
        replaced("scene_id", pa.RunEndEncodedArray.from_arrays(pa.array([2**31 - 1], pa.int32()), ["x"]).slice(0, 1))
    ),
}


def shared_views(text: str, n_rows: int) -> pa.Array:
    """Rows of string_view that all look at one text."""
    one = pa.array([text], pa.string_view())
    _, views, *data = one.buffers()
    return pa.Array.from_buffers(
        pa.string_view(), n_rows, [None, pa.py_buffer(views.to_pybytes()[:16] * n_rows), *data]
    )


def with_a_lie(message: bytes, claimed: int) -> bytes:
    """The message with another uncompressed length before the pixels."""
    place = message.rfind((2_000).to_bytes(8, "little"))  # in front of the last buffer; the metadata come before
    return message[:place] + claimed.to_bytes(8, "little") + message[place + 8 :]


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_a_small_message_that_becomes_a_large_one_is_refused_before_it_does(make: Callable[[], bytes]) -> None:
    message = make()
    assert len(message) < SETTINGS.max_message_bytes
    with arrow_memory(16 * 2**20):
        of = validated(message)
    assert of.rejections[0].row == WHOLE_MESSAGE
    assert of.rejections[0].code in ("oversized", "malformed")


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("n_rows", [0, 1, 3, 2_000])
def test_the_size_read_ahead_is_the_size_that_comes(compression: str | None, n_rows: int) -> None:
    rows = table(*({"pixels": bytes(20 * (nr % 40)) or None} for nr in range(n_rows)))
    rows = rows.set_column(0, "collection", rows["collection"].combine_chunks().dictionary_encode())
    size = stream_size(stream(rows, compression, 700))
    assert size.n_rows == n_rows
    # Each buffer of an uncompressed body is padded to 8 bytes, or to 64.
    n_buffers = 80 * (1 + n_rows // 700)
    assert abs(size.n_bytes - stream_size(stream(rows, None, 700)).n_bytes) <= 64 * n_buffers


@pytest.mark.parametrize(
    "rows",
    [
        replaced("NDVI", pa.array([0.5, 0.25])),
        replaced("parcel_id", pa.array(["0", "0"], pa.string_view())),
        replaced("parcel_id", pa.DictionaryArray.from_arrays(pa.array([0, 0]), pa.array(["0"], pa.string_view()))),
        replaced("parcel_id", pa.DictionaryArray.from_arrays(pa.array([0, 0]), pa.array(["0"], pa.large_string()))),
        replaced("observed_at", pa.array([PASS, PASS], pa.timestamp("ns", "Europe/Paris"))),
        replaced("observed_at", pa.array([PASS, PASS], pa.timestamp("s", "UTC")).dictionary_encode()),
        replaced("pixels", pa.array([bytes(20), None], pa.binary_view())),
    ],
    ids=lambda rows: str(rows.schema)[:0] or None,
)
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_other_widths_of_a_kind_are_read(rows: pa.Table, compression: str | None) -> None:
    of = validated(stream(rows, compression))
    assert of.rejections == ()
    assert of.rows[0].table["parcel_id"].to_pylist() == ["0", "0"]
    assert of.rows[0].table["observed_at"].to_pylist() == [PASS, PASS]


ns = pa.timestamp("ns", "UTC")
AT_NS = int(PASS.timestamp()) * 10**9


@pytest.mark.parametrize(
    ("name", "column", "code"),
    [
        ("observed_at", pa.array([AT_NS, AT_NS + 1, AT_NS], ns), "out_of_range"),
        ("available_at", pa.array([AT_NS, AT_NS + 1, AT_NS], ns), "out_of_range"),
        ("observed_at", pa.array([AT_NS // 10**9, 2**62, AT_NS // 10**9], pa.timestamp("s", "UTC")), "out_of_range"),
        ("relative_orbit", pa.array([51, 70_000, 51]), "out_of_range"),
        ("relative_orbit", pa.array([51, 2**63 + 51, 51], pa.uint64()), "out_of_range"),
        ("n_clear", pa.array([2, 2**40, 2]), "out_of_range"),
        ("n_clear", pa.array([2, 2**40, 2]).dictionary_encode(), "out_of_range"),
        ("NDVI", pa.array([0.5, 1e300, 0.5]), "not_finite"),
        ("parcel_id", pa.array([b"0", b"\xff", b"0"]).view(pa.string()), "bad_text"),
        (
            "scene_id",
            pa.DictionaryArray.from_arrays(pa.array([0, 1, 0]), pa.array([b"X", b"\xed\xa0\x80"]).view(pa.string())),
            "bad_text",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_one_rows_fault(name: str, column: pa.Array, code: str) -> None:
    rows = replaced(name, column, table({"B02": 0.1}, {"B02": 0.2}, {"B02": 0.3}))
    of = validated(encode_arrow(rows), encode_arrow(table({})))
    assert told(of) == [(1, code)]
    assert of.n_rows == 4
    assert of.rows[0].row_in_message.tolist() == [0, 2, 0]
    assert [round(value, 1) for value in of.rows[0].table["B02"].to_pylist()[:2]] == [0.1, 0.3]
    again = validated(of.rejections[0].payload)
    assert told(again) == [(0, code)], "the letter holds what was sent, and is rejected for the same reason"


def test_what_pyarrow_raises_for_strange_schemas_is_a_rejection() -> None:
    rows = table({}, {})
    not_utf8 = encode_arrow(replaced("observed_at", rows["observed_at"].cast(pa.timestamp("us", "Etc/UTC"))))
    strange = [
        not_utf8.replace(b"Etc/UTC", b"Etc/\xff\xfe\xfd"),
        encode_arrow(rows).replace(b"NDVI_SD", b"NDV\xff\xfe\xfdD"),
        encode_arrow(replaced("NDVI", pa.nulls(2))),
        encode_arrow(replaced("NDVI", pa.array([[0.5], [0.5]]))),
        encode_arrow(replaced("NDVI", pa.array([{"a": 1}, {"a": 2}]))),
        encode_arrow(rows.replace_schema_metadata({SCHEMA_KEY: b"\xff\x00"})),
        encode_arrow(rows.replace_schema_metadata({SCHEMA_KEY: b"x" * 10_000})),
        encode_arrow(rows.append_column("\0" * 1_000, pa.array([1, 2]))),
    ]
    of = validated(*strange)
    assert [rejection.row for rejection in of.rejections] == [WHOLE_MESSAGE] * len(strange)
    assert max(len(rejection.reason) for rejection in of.rejections) < 1_000


JSON = encode_json(S2, [table({}).to_pylist()[0]])[0]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (JSON.replace(b'"NDVI"', b'"ND\\u0000VI"'), "malformed"),
        (JSON.replace(b"0.5", b"NaN"), None),
        (JSON.replace(b"0.5", b"1e400"), "not_finite"),
        (JSON.replace(b"0.5", b"-Infinity"), "not_finite"),
        (JSON.replace(b":2,", b":" + b"9" * 5_000 + b","), None),
        (JSON.replace(b'"X"', b'"\\ud800"'), "malformed"),
        (JSON.replace(b'"X"', b'"\xed\xa0\x80"'), "malformed"),
        (JSON.replace(b'"pixels":null', b'"pixels":' + b"[" * 100_000), "malformed"),
        (JSON.replace(b'"pixels":null', b'"pixels":' + b"[" * 190 + b"]" * 190), None),
        (JSON.replace(b'"pixels":null', b'"pixels":[' + b",".join([b"[]"] * 80_000) + b"]"), "pixels_shape"),
        (JSON.replace(b'"pixels":null', b'"pixels":[' + b",".join([b"[1e400]"] * 10) + b"]"), None),
        (JSON.replace(b'"pixels":null', b'"pixels":[' + b",".join([b'["\\u0000"]'] * 10) + b"]"), None),
        (JSON.replace(b"2023-05-01T10:56:21+00:00", b"9999-12-31T23:59:59-14:00"), None),
        (b'{"schema":"parcelwatch.s2/1",' + b",".join(b'"%d":0' % nr for nr in range(20_000)) + b"}", None),
        (b'{"schema":"' + b"x" * 200_000 + b'"}', "unknown_schema"),
        (b'{"schema":{"a":[1]}}', None),
        (b"[" * 200_000, None),
        (b"", None),
        (b"\0", None),
        (b"null", None),
        (b"\xff\xfe{\0}\0", None),
        (b'"' * 7, None),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_strange_json_is_a_rejection_whose_letter_can_be_stored(value: bytes, code: str | None) -> None:
    of = validated(value, JSON, content_type=CONTENT_TYPE_JSON)
    assert [(rejection.message.offset, rejection.row) for rejection in of.rejections] == [(0, WHOLE_MESSAGE)]
    assert code is None or of.rejections[0].code == code
    dead_letter = DeadLetter("s", "t", 0, 0, -1, of.rejections[0].code, of.rejections[0].reason, "x", b"")
    assert len(dead_letter.reason) <= 500
    assert dead_letter.reason.isprintable()
    dead_letter.reason.encode()


def test_texts_of_letters_are_storable_whoever_wrote_them() -> None:
    dead_letter = DeadLetter(
        "s", "t", 0, 0, -1, "malformed", "a\0b\ud800c\nd\x1b[31m" + "e" * 10_000, "text/\0" + "x" * 970_000, b""
    )
    assert dead_letter.reason.startswith("a\\u0000b\\ud800c\\u000ad\\u001b[31meee")
    assert (len(dead_letter.reason), len(dead_letter.content_type or "")) == (500, 200)
    assert dead_letter.reason.endswith("...")
    json.dumps(dead_letter.reason).encode("ascii")


def test_the_one_that_nobody_thought_of_is_rejected_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    real = row_checks.faults

    def faults(*arguments: object) -> object:
        if "17" in arguments[1]["parcel_id"].to_pylist():  # type: ignore[index]
            raise RuntimeError("a\nfault \0 of ours")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(judging, "faults", faults)
    of = validated(*(encode_arrow(table({"parcel_id": str(nr)}, {"NDVI": 7.0})) for nr in range(40)))
    assert sorted((one.message.offset, one.row) for one in of.rejections) == sorted(
        [(17, WHOLE_MESSAGE), *((nr, 1) for nr in range(40) if nr != 17)]
    )
    assert [message.offset for message in of.messages] == list(range(40))
    assert of.n_rows == 79
    assert sorted(int(one) for rows in of.rows for one in rows.table["parcel_id"].to_pylist()) == [
        nr for nr in range(40) if nr != 17
    ]


@pytest.mark.parametrize(
    "error", [MemoryError(), RecursionError("deep"), KeyError("x"), OverflowError("big"), NotImplementedError()]
)
def test_whatever_a_reader_raises_is_a_rejection(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def raising(_: bytes) -> None:
        raise error

    monkeypatch.setattr(judging, "decode_json", raising)
    of = validated(JSON, content_type=CONTENT_TYPE_JSON)
    assert told(of) == [(WHOLE_MESSAGE, "malformed")]


def test_a_batch_is_judged_in_parts_that_fit_into_memory() -> None:
    small = stream(table(*[{"pixels": bytes(20_000)}] * 50), "zstd")  # 1 MB decoded
    assert len(small) < 20_000
    messages = [Message("t", nr % 3, nr // 3, CONTENT_TYPE_ARROW, small) for nr in range(40)]
    settings = IngestSettings(flush_decoded_bytes=5_000_000)
    with arrow_memory(25 * 2**20):
        sizes = []
        for part in validate_in_parts(messages, settings, NOW):
            sizes.append(len(part.messages))
            assert part.rows[0].table.num_rows == 50 * len(part.messages)
            assert part.messages == tuple(messages[sum(sizes[:-1]) : sum(sizes)])
    assert sum(sizes) == 40
    assert set(sizes[:-1]) == {5}
    assert list(validate_in_parts([], settings, NOW)) == []


def test_decode_arrow_tells_of_the_row() -> None:
    assert decode_arrow(encode_arrow(table({})))[1].num_rows == 1
