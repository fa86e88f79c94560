"""Values of parcel files' columns as text, whatever their type; read in the process of `ingest.parcels.reader`."""

from typing import TYPE_CHECKING, Final

from ingest.errors import ReadError

if TYPE_CHECKING:  # imported by `ingest.parcels.reader` after its limits are set
    import pyarrow as pa

MAX_TEXT: Final = 250
"""Characters of a text that are handed on: more than can be stored, so that the reader sees that it was longer."""


def as_text(column: "pa.Array", name: str) -> list[str | None]:
    """Return a column as trimmed text, blanks as None; numbers stored as floats or decimals lose a needless fraction.

    NUL in front marks what cannot be written exactly, so cannot be an id: floats of 2^53 and more, bytes that are no text.
    Raises ReadError for lists and other columns that hold no single value.
    """
    import pyarrow as pa

    kind = column.type
    if pa.types.is_nested(kind):
        what = "lists" if pa.types.is_list(kind) or pa.types.is_large_list(kind) else "several values"
        raise ReadError(f"column {name} holds {what} ({kind}), not one value for each parcel: name another column")
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
    elif isinstance(kind, pa.BaseExtensionType) and str(kind.extension_name) != "arrow.uuid":
        column = column.storage
    exact = 2**24 if pa.types.is_float32(column.type) else 2**11 if pa.types.is_float16(column.type) else 2**53
    try:
        values = column.to_pylist()
    except (UnicodeDecodeError, pa.ArrowInvalid):
        values = column.cast(pa.large_binary(), safe=False).to_pylist()
    return [_text(value, exact) for value in values]


def _text(value: object, exact: int) -> str | None:
    from decimal import Decimal

    match value:
        case None:
            return None
        case str():
            text = value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        case bytes():
            text = value.decode("utf-8", "replace")
            text = "\0" + text if "\N{REPLACEMENT CHARACTER}" in text else text
        case bool():
            text = str(value).lower()
        case float():
            return number(value, exact)
        case Decimal():
            text = f"{value.normalize():f}" if value.is_finite() else ""
        case _:
            text = str(value)
    return text.strip()[:MAX_TEXT] or None


def number(value: float, exact: int) -> str | None:
    if value != value:
        return None
    if abs(value) >= exact:
        return f"\0{value!r}"
    return str(int(value)) if value == int(value) else repr(value)
