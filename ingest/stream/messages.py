"""The message contract: one observation as JSON, or a batch of them as an Arrow IPC stream (`ingest.stream.arrow_batches`).

`docs/messages.md` is the page for those who push messages; `ingest/stream/json_schemas.py` publishes the models.
"""

import io
import json
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, Final, Literal, get_args

import numpy as np
import pyarrow as pa
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from db.series import INVALID_PIXEL
from ingest.errors import MessageRejected, ReasonCode
from ingest.stream.schemas import S1, S2, SCHEMA_KEY, SCHEMAS, ObservationSchema

_Int16 = Annotated[int, Field(ge=-(2**15), lt=2**15)]
_Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
_Pixels = Annotated[
    # Checked where they are packed: pixel by pixel in the model takes three times as long as all the rest of a record.
    list[list[Any]],
    WithJsonSchema(
        {
            "type": "array",
            "items": {
                "type": "array",
                "items": {"anyOf": [{"type": "integer", "minimum": -(2**15), "maximum": 2**15 - 1}, {"type": "null"}]},
            },
        }
    ),
]


class _Record(BaseModel):
    """What every observation says of itself."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)

    n_bands: ClassVar[int]

    collection: str
    """The collection of parcels, as imported."""
    season: str
    """The season's name, as imported."""
    parcel_id: str
    """The agency's own id of the parcel within collection and season."""
    observed_at: AwareDatetime
    """When the satellite passed: the start of the datatake, with its offset from UTC."""
    available_at: AwareDatetime
    """When the product could be had; not before observed_at."""
    scene_id: str
    """The product or slice the values come from."""
    platform: str
    """The satellite: S1A, S2B, ..."""
    relative_orbit: _Int16
    """1..175; 0 for a composite of several orbits."""
    revision: _Int16 = 0
    """0 first; each reprocessing of the same pass is one higher."""
    is_withdrawn: bool = False
    """True takes the observation back: values may then be null."""

    @field_validator("pixels", mode="after", check_fields=False)
    @classmethod
    def _packed(cls, rows: list[list[Any]] | None) -> bytes | None:
        """Return rows of pixels as little-endian int16 in C order, null as the invalid pixel."""
        if rows is None:
            return None
        if len(rows) != cls.n_bands or len({len(row) for row in rows}) != 1:
            shown = f"{len(rows)} rows; send {cls.n_bands} rows, one per band, all of the same length"
            raise PydanticCustomError("pixels_shape", shown)
        flat = array("h")
        try:
            for row in rows:
                flat.extend(row if None not in row else [INVALID_PIXEL if value is None else value for value in row])
        except OverflowError:
            raise PydanticCustomError("out_of_range", "a value outside of -32768..32767; send int16") from None
        except TypeError:
            raise PydanticCustomError("malformed", "a value that is no whole number; send int16 or null") from None
        if sys.byteorder == "big":
            flat.byteswap()
        return flat.tobytes()


class S2Record(_Record):
    """One parcel in one Sentinel-2 pass: surface reflectance 0..1, indices, clear pixels."""

    n_bands = len(S2.pixel_bands)

    schema_: Literal["parcelwatch.s2/1"] = Field(alias="schema")
    B02: float | None = None
    B03: float | None = None
    B04: float | None = None
    B05: float | None = None
    B06: float | None = None
    B07: float | None = None
    B08: float | None = None
    B8A: float | None = None
    B11: float | None = None
    B12: float | None = None
    NDVI: float | None = None
    """Mean of the clear pixels' NDVI."""
    NDVI_SD: float | None = None
    """Standard deviation of the clear pixels' NDVI."""
    NBR2: float | None = None
    BSI: float | None = None
    S2WI: float | None = None
    n_clear: _Int32
    """Number of clear pixels the values come from."""
    clear_fraction: float | None = None
    """Clear pixels over all pixels of the parcel."""
    pixels: _Pixels | None = None
    """10 rows, B02 to B12 in the order above, of reflectance x 10000; null where a pixel is not clear."""


class S1Record(_Record):
    """One parcel in one Sentinel-1 pass: backscatter in linear power."""

    n_bands = len(S1.pixel_bands)

    schema_: Literal["parcelwatch.s1/1"] = Field(alias="schema")
    direction: Literal["ascending", "descending", "mixed"]
    """mixed: a composite of both."""
    radiometry: Literal["sigma0", "gamma0"]
    VV: float | None = None
    """Mean backscatter, linear power."""
    VH: float | None = None
    """Mean backscatter, linear power."""
    VV_SD: float | None = None
    VH_SD: float | None = None
    n_pixels: _Int32
    """Number of pixels the values come from."""
    coherence_VV: float | None = None  # noqa: N815
    coherence_VH: float | None = None  # noqa: N815
    coherence_with: AwareDatetime | None = None
    """The earlier pass the coherence is with."""
    pixels: _Pixels | None = None
    """2 rows, VV and VH, of dB x 100; null where a pixel is not valid."""


MODELS: Final[Mapping[str, type[_Record]]] = {S2.id: S2Record, S1.id: S1Record}
_ANY: Final[TypeAdapter[S2Record | S1Record]] = TypeAdapter(
    Annotated[S2Record | S1Record, Field(discriminator="schema_")]
)

# What pydantic calls an error, as the contract calls it; what is not listed is malformed.
_CODES: Final[Mapping[str, ReasonCode]] = {
    **{code: code for code in get_args(ReasonCode)},
    "greater_than_equal": "out_of_range",
    "less_than": "out_of_range",
    "literal_error": "unknown_choice",
    "int_parsing_size": "out_of_range",
}


def decode_json(value: bytes) -> tuple[ObservationSchema, dict[str, Any]]:
    """Return one JSON record as a row of its schema's columns; raises MessageRejected."""
    try:
        record = _ANY.validate_json(value)
    except ValidationError as error:
        raise _rejection(error.errors(include_url=False)[0]) from None
    return SCHEMAS[record.schema_], record.__dict__


def _rejection(error: ErrorDetails) -> MessageRejected:
    """Return the first error of a JSON record as the contract words it."""
    kind, place = error["type"], ".".join(str(part) for part in error["loc"][1:])
    if kind == "union_tag_not_found" or kind == "model_attributes_type":
        return MessageRejected(
            "unknown_schema", f"the record has no field 'schema'; this reader knows {', '.join(SCHEMAS)}"
        )
    if kind == "union_tag_invalid":
        return unknown_schema(str(error.get("ctx", {}).get("tag", "")))
    if kind == "extra_forbidden":
        return MessageRejected(
            "malformed", f"{place}: not a field of this schema; remove it or name the schema that has it"
        )
    if error["input"] is None and place and place.partition(".")[0] != "pixels":
        return MessageRejected("missing_value", f"{place}: null, and every record needs it")
    if kind == "missing":
        return MessageRejected("missing_value", f"{place}: not there, and every record needs it")
    if kind == "timezone_aware":
        return MessageRejected(
            "naive_timestamp", f"{place}: {error['input']!r} has no offset from UTC; send 2023-05-01T10:56:21Z"
        )
    message = error["msg"][0].lower() + error["msg"][1:]
    return MessageRejected(
        _CODES.get(kind, "malformed"), f"{place}: {message}" if place else f"not a JSON record: {message}"
    )


def unknown_schema(found: str) -> MessageRejected:
    """Return the rejection of a schema this reader does not know, or knows in another version."""
    known = ", ".join(SCHEMAS)
    if any(found.rpartition("/")[0] == schema.name for schema in SCHEMAS.values()):
        return MessageRejected(
            "unsupported_version", f"schema {found[:80]!r}: this reader knows {known}; send one of these"
        )
    return MessageRejected("unknown_schema", f"schema {found[:80]!r} is not known; this reader knows {known}")


def rows_to_table(schema: ObservationSchema, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return decoded JSON rows as a table of the schema's columns."""
    return pa.Table.from_pylist(list(rows), schema=schema.arrow)


def encode_arrow(table: pa.Table) -> bytes:
    """Return a table of one of the schemas as an Arrow IPC stream."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def encode_json(schema: ObservationSchema, rows: Iterable[Mapping[str, Any]]) -> list[bytes]:
    """Return rows of a schema's columns (as `Table.to_pylist` gives them) as JSON records, one each."""
    return [json.dumps(_plain(schema, row), separators=(",", ":"), allow_nan=False).encode() for row in rows]


def _plain(schema: ObservationSchema, row: Mapping[str, Any]) -> dict[str, Any]:
    record: dict[str, Any] = {"schema": schema.id}
    for name, value in row.items():
        if isinstance(value, datetime):
            record[name] = value.isoformat()
        elif name == "pixels" and value is not None:
            bands = np.frombuffer(value, "<i2").reshape(len(schema.pixel_bands), -1)
            record[name] = [[None if pixel == INVALID_PIXEL else pixel for pixel in band] for band in bands.tolist()]
        else:
            record[name] = value
    return record


def schema_of(table: pa.Table) -> ObservationSchema:
    """Return the schema a table says it has; raises MessageRejected."""
    found = (table.schema.metadata or {}).get(SCHEMA_KEY, b"").decode("utf-8", "replace")
    if found not in SCHEMAS:
        raise unknown_schema(found)
    return SCHEMAS[found]
