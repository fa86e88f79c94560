"""Rows as JSON, CSV, Arrow stream or Parquet: one description of a row gives OpenAPI, columns and types of all four."""

import csv
import dataclasses
import io
import json
import types
import typing
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final, Generic, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import HTTPException, Request, Response
from pydantic import BaseModel, Field

from web.parameters import Link, Parameters

Format = Literal["json", "csv", "arrow", "parquet"]
MEDIA_TYPES: Final[Mapping[Format, str]] = {
    "json": "application/json",
    "csv": "text/csv",
    "arrow": "application/vnd.apache.arrow.stream",
    "parquet": "application/vnd.apache.parquet",
}
RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "the rows; a next page, where there is one, in the header Link too",
        "content": {media: {} for form, media in MEDIA_TYPES.items() if form != "json"},
    }
}
"""For routes that answer with rows."""
Row = TypeVar("Row")


class Rows(BaseModel, Generic[Row]):
    """Rows, and where the next page of them is."""

    rows: list[Row]
    links: list[Link]


class Formatted(Parameters):
    """In which format rows are asked for."""

    format: Format | None = Field(None, description="else by the header Accept")


def format_of(request: Request, asked: Format | None) -> Format:
    """Return the format that is asked for, by `?format=`, else by the header Accept; raises 406 for others."""
    if asked is not None:
        return asked
    accepted: list[tuple[float, str]] = []
    for one in request.headers.get("accept", "*/*").split(","):
        media, *parameters = (part.strip().lower() for part in one.split(";"))
        quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        accepted.append((float(quality) if quality.replace(".", "", 1).isdecimal() else 0.0, media))
    by_media = {media: form for form, media in MEDIA_TYPES.items()}
    anything: dict[str, Format] = {"*/*": "json", "application/*": "json", "text/*": "csv"}
    for weight, media in sorted(accepted, key=lambda one: -one[0]):
        if weight > 0 and (found := by_media.get(media) or anything.get(media)):
            return found
    raise HTTPException(406, f"there is {', '.join(MEDIA_TYPES.values())}; or ?format={', '.join(MEDIA_TYPES)}")


def answer(form: Format, kind: type[Any], rows: Sequence[Any], next_page: str | None = None) -> Response:
    """Return rows of a dataclass in a format.

    Args:
        form: which.
        kind: the class of the rows.
        rows: all of one page.
        next_page: address of the next.
    """
    links = [] if next_page is None else [Link(href=next_page, rel="next", type=MEDIA_TYPES[form], title="next page")]
    headers = {"vary": "accept"} | ({} if next_page is None else {"link": f'<{next_page}>; rel="next"'})
    if form == "json":
        content = Rows[kind].model_construct(rows=list(rows), links=links).model_dump_json().encode()  # type: ignore[valid-type]
    elif form == "csv":
        content = _csv(kind, rows)
    else:
        content = _arrow(_table(kind, rows)) if form == "arrow" else _parquet(_table(kind, rows))
    return Response(content, media_type=MEDIA_TYPES[form], headers=headers)


def schema(kind: type[Any]) -> pa.Schema:
    """Return a row's columns in Arrow: times in UTC to the microsecond, what has parts as JSON in text."""
    hints = typing.get_type_hints(kind)
    return pa.schema([pa.field(one.name, _type(hints[one.name])) for one in dataclasses.fields(kind)])


def _type(hint: Any) -> pa.DataType:
    if typing.get_origin(hint) is types.UnionType:  # with None
        hint = next(one for one in typing.get_args(hint) if one is not types.NoneType)
    if typing.get_origin(hint) is list:
        return pa.list_(_type(typing.get_args(hint)[0]))
    plain = {
        bool: pa.bool_(),
        int: pa.int64(),
        float: pa.float64(),
        date: pa.date32(),
        datetime: pa.timestamp("us", "UTC"),
    }
    return plain.get(hint, pa.string())


def _table(kind: type[Any], rows: Sequence[Any]) -> pa.Table:
    its = schema(kind)
    columns = [[_flat(getattr(row, name)) for row in rows] for name in its.names]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, its, strict=True)], schema=its)


def _csv(kind: type[Any], rows: Sequence[Any]) -> bytes:
    names = schema(kind).names
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(names)
    for row in rows:
        cells = (_flat(getattr(row, name)) for name in names)
        writer.writerow(
            json.dumps(one) if isinstance(one, list) else one.isoformat() if isinstance(one, date) else one
            for one in cells
        )
    return out.getvalue().encode()


def _flat(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, Mapping) else value


def _arrow(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return bytes(sink.getvalue())
