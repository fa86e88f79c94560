"""Mutated messages: valid ones changed by structure and by bytes, with headers of every kind. Seeded, so repeatable."""

import json
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

import pyarrow as pa

from ingest.stream.messages import encode_json
from ingest.stream.schemas import CONTENT_TYPE_ARROW, CONTENT_TYPE_JSON, S1, S2, SCHEMA_KEY, ObservationSchema
from tests.raw_headers import NULL, RawKey

N_PARCELS: Final = 50
PASS: Final = datetime(2023, 5, 1, tzinfo=UTC)
_LARGEST: Final = 1_000_000
"""What Kafka takes of a message by default is a little more."""
Headers = list[tuple[str, bytes]]

_IDENTITY: Final[Mapping[str, object]] = {
    "collection": "nl",
    "season": "2023",
    "relative_orbit": 51,
    "revision": 0,
    "is_withdrawn": False,
}
_VALUES: Final[Mapping[str, Mapping[str, object]]] = {
    S2.id: {"platform": "S2A", "scene_id": "X", "NDVI": 0.5, "B04": 0.1, "n_clear": 9, "clear_fraction": 1.0},
    S1.id: {
        "platform": "S1A",
        "scene_id": "Y",
        "direction": "ascending",
        "radiometry": "sigma0",
        "VV": 0.1,
        "VH": 0.02,
        "n_pixels": 9,
    },
}
_JSON_VALUES: Final = (
    b"NaN",
    b"Infinity",
    b"1e400",
    b"-1e400",
    b"1e-400",
    b"-0.0",
    b"1e300",
    b"null",
    b"true",
    b"{}",
    b"[]",
    b'""',
    b"0",
    b"-1",
    b"70000",
    b"9223372036854775808",
    b"9" * 400,
    b"9" * 5_000,
    b'"\\u0000"',
    b'"a\\u0000b"',
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'"\xff\xfe"',
    b'"\xed\xa0\x80"',
    b'"' + b"x" * 3_000 + b'"',
    b'"\\u001b[31m"',
    b'"[/red]"',
    b'"\\u202e"',
    b'"$$"',
    b'"../x"',
    b'"0001-01-01T00:00:00+14:00"',
    b'"9999-12-31T23:59:59-14:00"',
    b'"2023-05-01T10:00:00"',
    b'"2023-02-30T10:00:00Z"',
    b'"1e400"',
    b"[" * 300 + b"]" * 300,
    b'{"a":' * 300 + b"1" + b"}" * 300,
    b"[" + b"[0]," * 9 + b"[0]]",
    b"[[1],[null]]",
    b'[["a"],[1e400]]',
    b"[" + b",".join([b"[]"] * 5_000) + b"]",
    b"[[40000],[0]]",
    b"1.5",
    b"'",
    b"0x10",
    b"// ",
    b'"parcelwatch.s1/1"',
    b'"parcelwatch.s2/2"',
)
_NAMES: Final = (
    "",
    "\0",
    "ND\0VI",
    "ndvi",
    "NDVI ",
    "schema",
    "parcel_id",
    "x" * 2_000,
    "[/red]",
    "\x1b[31m",
    "\ud800",
    "__class__",
    "pixels",
)
_INTEGERS: Final = tuple(
    value.to_bytes(8, "little", signed=True)
    for value in (-1, -(2**63), 2**63 - 1, 2**31, 2**31 - 1, -(2**31), 0, 1, 2**16, 2**40, 255, 7, 8, 64)
)
_ZONES: Final = ("UTC", "Europe/Paris", "+14:00", "no/where", "", "\0", "x" * 500)


def message(number: int, chance: random.Random) -> tuple[bytes, Headers]:
    """A message and its headers: two in ten are valid, the others are changed in one way or several."""
    schema = chance.choice((S1, S2))
    kind = chance.random()
    if kind < 0.45:
        fields = json_fields(schema, number)
        if chance.random() < 0.5:
            _change_fields(fields, chance)
        value, content_type = b"{" + b",".join(name + b":" + text for name, text in fields) + b"}", CONTENT_TYPE_JSON
    else:
        change = chance.choice(_ARROW_CHANGES)
        value, content_type = change(arrow_table(schema, number, chance.randint(1, 5)), chance), CONTENT_TYPE_ARROW
    for _ in range(chance.choice((0, 0, 1, 1, 4))):
        value = chance.choice(_BYTE_CHANGES)(value, chance)
    headers = _headers(content_type, chance)
    return value[: _LARGEST - sum(len(content) for _, content in headers)], headers


def json_fields(schema: ObservationSchema, number: int) -> list[tuple[bytes, bytes]]:
    """A valid JSON record as names and values, both as text."""
    record = json.loads(encode_json(schema, arrow_table(schema, number, 1).to_pylist())[0])
    return [(json.dumps(name).encode(), json.dumps(value).encode()) for name, value in record.items()]


def arrow_table(schema: ObservationSchema, number: int, n_rows: int) -> pa.Table:
    """Valid rows that no other number has."""
    passed = PASS + timedelta(seconds=number)
    rows = [
        {
            **_IDENTITY,
            **_VALUES[schema.id],
            "observed_at": passed,
            "available_at": passed,
            "parcel_id": str((number + row) % N_PARCELS),
            "pixels": bytes(40) if row % 2 else None,
        }
        for row in range(n_rows)
    ]
    return pa.Table.from_pylist(rows, schema=schema.arrow)


def _change_fields(fields: list[tuple[bytes, bytes]], chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 5))):
        place = chance.randrange(len(fields))
        name, value = fields[place]
        change = chance.random()
        if change < 0.6:
            fields[place] = name, chance.choice(_JSON_VALUES)
        elif change < 0.8:
            fields[place] = json.dumps(chance.choice(_NAMES)).encode(), value
        elif change < 0.9:
            fields.append((json.dumps(chance.choice(_NAMES)).encode(), chance.choice(_JSON_VALUES)))
        elif len(fields) > 1:
            del fields[place]


def _stream(table: pa.Table, chance: random.Random) -> bytes:
    options = pa.ipc.IpcWriteOptions(
        compression=chance.choice((None, None, "lz4", "zstd")), emit_dictionary_deltas=chance.random() < 0.5
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table, chance.choice((None, 1, 2)))
    return bytes(sink.getvalue())


def _another_type(table: pa.Table, chance: random.Random) -> bytes:
    """One column in another type, of its kind or not, with values that fit or do not."""
    n = table.num_rows
    makes: tuple[Callable[[], pa.Array], ...] = (
        lambda: pa.array([chance.choice((0, 2**40, -1, 2**63 - 1)) for _ in range(n)]),
        lambda: pa.array([chance.choice((0.5, 1e300, float("nan"), float("inf"))) for _ in range(n)]),
        lambda: pa.array(
            [chance.choice((0, 1, 2**62, 1_682_900_000 * 10**9 + 1)) for _ in range(n)],
            pa.timestamp(chance.choice(("s", "ms", "us", "ns")), chance.choice(_ZONES)),
        ),
        lambda: pa.array([chance.choice(("0", "", "\0", "x" * 300, "é" * 200)) for _ in range(n)], pa.string_view()),
        lambda: pa.array([chance.choice((b"0", b"\xff", b"\xed\xa0\x80")) for _ in range(n)]).view(pa.string()),
        lambda: pa.array([chance.choice(("0", None)) for _ in range(n)]).dictionary_encode(),
        lambda: pa.DictionaryArray.from_arrays(pa.array([0] * n), pa.array(["0"], pa.string_view())),
        lambda: pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int8()), pa.array(["x" * 200_000])),
        lambda: pa.array(
            [chance.choice((b"", b"x", bytes(20), bytes(100_000), None)) for _ in range(n)], pa.binary_view()
        ),
        lambda: pa.array([[1]] * n),
        lambda: pa.array([{"a": 1}] * n),
        lambda: pa.nulls(n),
        lambda: pa.array([True] * n),
        lambda: pa.RunEndEncodedArray.from_arrays(pa.array([n], pa.int32()), ["0"]),
    )
    place = chance.randrange(table.num_columns)
    return _stream(table.set_column(place, table.column_names[place], chance.choice(makes)()), chance)


def _same_type(table: pa.Table, chance: random.Random) -> bytes:
    """One column with other values of its own type, or null."""
    place = chance.randrange(table.num_columns)
    kind = table.schema.field(place).type
    any_values: tuple[Any, ...] = (None,)
    if pa.types.is_string(kind):
        any_values = (None, "", "\0", "x" * 5_000, "\x1b", "2024", "be", "[/red]", "\u202e", "99")
    elif pa.types.is_integer(kind):
        any_values = (None, -1, 0, 176, 2**15 - 1, -(2**15))
    elif pa.types.is_floating(kind):
        any_values = (None, float("nan"), float("-inf"), 1e30, -5.0, 1e-30)
    elif pa.types.is_timestamp(kind):
        any_values = (None, -(2**63), 2**63 - 1, 0, 1_500_000_000_000_000, -210_000_000_000_000_000)
    elif pa.types.is_binary(kind):
        any_values = (None, b"", b"x", bytes(39), bytes(90_000), b"\xff" * 20)
    values = [chance.choice(any_values) for _ in range(table.num_rows)]
    return _stream(table.set_column(place, table.schema.field(place).name, pa.array(values, kind)), chance)


def _other_columns(table: pa.Table, chance: random.Random) -> bytes:
    """Columns dropped, added, renamed, repeated; another schema's name."""
    change = chance.randrange(4)
    if change == 0:
        return _stream(table.drop_columns([chance.choice(table.column_names)]), chance)
    if change == 1:
        name = chance.choice((*table.column_names, "x" * 5_000, "\0", ""))
        return _stream(table.append_column(name, pa.nulls(table.num_rows)), chance)
    if change == 2:
        names = [chance.choice((name,) * 20 + ("", "\0", "NDVI")) for name in table.column_names]
        return _stream(table.rename_columns(names), chance)
    named = chance.choice(
        (b"parcelwatch.s2/1", b"parcelwatch.s1/1", b"parcelwatch.s2/9", b"\xff\0", b"x" * 50_000, b"")
    )
    return _stream(table.replace_schema_metadata({SCHEMA_KEY: named}), chance)


def _bomb(_: pa.Table, chance: random.Random) -> bytes:
    """Few bytes that claim to be many, once decoded."""
    return chance.choice((_zeros, _many_rows, _long_text))()


@cache
def _zeros() -> bytes:
    table = arrow_table(S2, 0, 1)
    table = table.set_column(table.num_columns - 1, "pixels", pa.array([bytes(48 * 2**20)]))
    return _stream(table, _Compressed())


@cache
def _many_rows() -> bytes:
    return _stream(pa.concat_tables([arrow_table(S2, 0, 1)] * 60_000).combine_chunks(), _Compressed())


@cache
def _long_text() -> bytes:
    n = 20_000
    table = pa.concat_tables([arrow_table(S2, 0, 1)] * n).combine_chunks()
    text = pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int8()), pa.array(["x" * 500_000]))
    return _stream(table.set_column(table.column_names.index("scene_id"), "scene_id", text), _Compressed())


class _Compressed(random.Random):
    """No chance: the strongest compression, one batch."""

    def choice(self, seq: Any) -> Any:
        return "zstd" if "zstd" in seq else seq[0]


def _words(value: bytes, chance: random.Random) -> bytes:
    """Some words of the first part, where the metadata are, become lengths and offsets that are none."""
    changed = bytearray(value)
    for _ in range(chance.randint(1, 3)):
        place = 4 * chance.randrange(max(1, min(len(changed), 6_000) // 4))
        width = chance.choice((1, 2, 4, 8))
        changed[place : place + width] = chance.choice(_INTEGERS)[:width]
    return bytes(changed)


def _flips(value: bytes, chance: random.Random) -> bytes:
    changed = bytearray(value)
    for _ in range(chance.randint(1, 8) if changed else 0):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def _cut(value: bytes, chance: random.Random) -> bytes:
    start, end = sorted(chance.randrange(len(value) + 1) for _ in range(2))
    return chance.choice((value[:end], value[:start] + value[end:], value[:end] + value[start:], value[start:] + value))


_ARROW_CHANGES: Final = (_stream, _stream, _another_type, _another_type, _same_type, _same_type, _other_columns) * 8 + (
    _bomb,
)
_BYTE_CHANGES: Final = (_words, _flips, _cut)


def _headers(content_type: str, chance: random.Random) -> Headers:
    usual = ("content-type", content_type.encode())
    if chance.random() < 0.85:
        return [usual]
    return chance.choice(
        (
            [],
            [("content-type", NULL)],
            [("content-type", b"")],
            [("content-type", usual[1] + b"\0")],
            [("content-type", b"\xff\xfe")],
            [("content-type", b"x" * chance.choice((300, 100_000, 970_000)))],
            [("Content-Type", usual[1].upper() + b"; charset=x")],
            [usual, (RawKey("\xff\xfe"), b"1")],
            [(RawKey("\xed\xa0\x80"), NULL), usual],
            [("", b""), usual],
            [("\0", b"\0"), usual],
            [usual, ("redriven-from", chance.choice((b"1", b"-1", b"9" * 30, b"\xff", NULL)))],
            [usual] * 500,
            [("content-type", NULL), usual],
        )
    )
