"""Which rows of a batch cannot be true, and why: whole columns at once, one mask per reason.

Pure: knows no database, so unknown parcels and seasons are found where keys are resolved. The first reason that
applies to a row is the one that is reported.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ingest.errors import ReasonCode
from ingest.stream.schemas import ObservationSchema

Mask = NDArray[np.bool_]

MAX_TEXT = 200
"""Longest identifier in characters: Copernicus product names have under 100 (chosen as twice that)."""
SENTINEL_1_LAUNCH = datetime(2014, 4, 3, tzinfo=UTC)
"""No observation is of an earlier pass, nor coherent with one; also keeps out times that are no times to numpy."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One bad row: where, the code, and a sentence that says what, where and what to do."""

    row: int
    code: ReasonCode
    reason: str


@dataclass(frozen=True, slots=True)
class _Check:
    code: ReasonCode
    bad: Mask
    sentence: Callable[[int], str]
    """The sentence for a row."""


def faults(
    schema: ObservationSchema, table: pa.Table, now: datetime, tolerance: timedelta, max_pixel_bytes: int
) -> list[Fault]:
    """Return the bad rows of a table of `schema`'s columns, each with its first reason, in row order.

    Args:
        schema: what the columns mean.
        table: decoded rows.
        now: the time that "future" is measured by.
        tolerance: how far another clock may run ahead of ours.
        max_pixel_bytes: longest pixel set.
    """
    taken = np.zeros(table.num_rows, np.bool_)
    found = []
    for check in _checks(schema, table, now + tolerance, max_pixel_bytes):
        for row in np.flatnonzero(check.bad & ~taken).tolist():
            found.append(Fault(row, check.code, check.sentence(row)))
        taken |= check.bad
    return sorted(found, key=lambda fault: fault.row)


def _checks(schema: ObservationSchema, table: pa.Table, latest: datetime, max_pixel_bytes: int) -> Iterator[_Check]:
    for name in schema.required:
        yield _missing(table, name)
    for field in schema.arrow:
        if field.type == pa.string():
            yield from _text(schema, table, field.name)
        elif pa.types.is_floating(field.type):
            yield from _numbers(schema, table, field.name)
        elif field.name in schema.limits:
            yield _limits(schema, field.name, _floats(table[field.name]))
    yield _values_there(schema, table)
    yield from _times(table, latest)
    yield from _pixels(schema, table, max_pixel_bytes)


def _missing(table: pa.Table, name: str) -> _Check:
    return _Check("missing_value", _mask(pc.is_null(table[name])), lambda _: f"{name}: null, and every row needs it")


def _text(schema: ObservationSchema, table: pa.Table, name: str) -> Iterator[_Check]:
    column = table[name].combine_chunks()
    if name in schema.choices:
        options = schema.choices[name]
        strange = _mask(pc.invert(pc.is_in(column, pa.array(options))))
        yield _Check(
            "unknown_choice",
            strange,
            lambda row: f"{name}: {column[row].as_py()!r:.60}; send one of {', '.join(options)}",
        )
        return
    length = pc.utf8_length(column)
    bad = pc.or_(pc.or_(pc.equal(length, 0), pc.greater(length, MAX_TEXT)), pc.match_substring_regex(column, r"\p{Cc}"))
    yield _Check(
        "bad_text",
        _mask(bad),
        lambda row: f"{name}: {column[row].as_py()!r:.60}; send 1 to {MAX_TEXT} characters without control characters",
    )


def _numbers(schema: ObservationSchema, table: pa.Table, name: str) -> Iterator[_Check]:
    values, there = _floats(table[name]), _mask(pc.is_valid(table[name]))
    yield _Check(
        "not_finite",
        there & ~np.isfinite(values),
        lambda row: f"{name}: {values[row]}; send null where there is no value",
    )
    yield _limits(schema, name, values)


def _limits(schema: ObservationSchema, name: str, values: NDArray[np.floating]) -> _Check:
    limits = schema.limits[name]
    bad = (values < limits.low) | (values > limits.high)  # NaN (no value) is neither
    unit, hint = f" {limits.unit}" if limits.unit else "", f"; {limits.hint}" if limits.hint else ""
    return _Check(
        "out_of_range",
        bad,
        lambda row: f"{name}: {values[row]:g} is not within {limits.low:g}..{limits.high:g}{unit}{hint}",
    )


def _values_there(schema: ObservationSchema, table: pa.Table) -> _Check:
    enough = np.zeros(table.num_rows, np.bool_)
    for group in schema.enough:
        enough |= np.logical_and.reduce([_mask(pc.is_valid(table[name])) for name in group])
    withdrawn = _mask(pc.fill_null(table["is_withdrawn"], False))
    wanted = " or ".join(" and ".join(group) for group in schema.enough)
    return _Check(
        "missing_values", ~enough & ~withdrawn, lambda _: f"no value; send {wanted}, or nothing where nothing was seen"
    )


def _times(table: pa.Table, latest: datetime) -> Iterator[_Check]:
    observed, available = table["observed_at"], table["available_at"]
    for name in ("observed_at", "available_at"):
        yield _future(table, name, latest)
    launch = pa.scalar(SENTINEL_1_LAUNCH, observed.type)
    yield _Check(
        "out_of_range",
        _mask(pc.less(observed, launch)),
        lambda row: f"observed_at: {_time(observed, row)} is before the first Sentinel ({SENTINEL_1_LAUNCH:%Y-%m-%d})",
    )
    yield _Check(
        "available_before_observed",
        _mask(pc.less(available, observed)),
        lambda row: (
            f"available_at {_time(available, row)} is before observed_at {_time(observed, row)}; were they exchanged?"
        ),
    )
    if "coherence_with" in table.column_names:
        earlier = table["coherence_with"]
        yield _Check(
            "out_of_range",
            _mask(pc.or_kleene(pc.greater_equal(earlier, observed), pc.less(earlier, launch))),
            lambda row: (
                f"coherence_with: {_time(earlier, row)} is not between {SENTINEL_1_LAUNCH:%Y-%m-%d} and observed_at"
            ),
        )


def _future(table: pa.Table, name: str, latest: datetime) -> _Check:
    column = table[name]
    return _Check(
        "future_dated",
        _mask(pc.greater(column, pa.scalar(latest, column.type))),
        lambda row: f"{name}: {_time(column, row)} lies in the future; check the sender's clock",
    )


def _pixels(schema: ObservationSchema, table: pa.Table, max_bytes: int) -> Iterator[_Check]:
    column, bands = table["pixels"], len(schema.pixel_bands)
    size = pc.fill_null(pc.binary_length(column), 2 * bands).to_numpy().astype(np.int64)
    most = max_bytes // (2 * bands)
    yield _Check(
        "pixels_shape",
        (size == 0) | (size % (2 * bands) != 0),
        lambda row: f"pixels: {size[row]} bytes; send int16 for {bands} bands and at least 1 pixel",
    )
    yield _Check(
        "oversized",
        size > max_bytes,
        lambda row: f"pixels: {size[row]} bytes, more than {max_bytes}; send a sample of at most {most} pixels",
    )


def _mask(values: pa.ChunkedArray | pa.Array) -> Mask:
    """Return a boolean column as numpy; unknown is not bad, another check reports the null."""
    mask: Mask = pc.fill_null(values, False).to_numpy(zero_copy_only=False).astype(np.bool_)
    return mask


def _floats(column: pa.ChunkedArray) -> NDArray[np.floating]:
    values: NDArray[np.floating] = column.to_numpy().astype(np.float64) if column.null_count else column.to_numpy()
    return values


def _time(column: pa.ChunkedArray, row: int) -> str:
    # Not as a datetime: Arrow's years go beyond Python's.
    return str(pc.cast(column.slice(row, 1), pa.string())[0].as_py())
