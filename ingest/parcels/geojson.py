"""GeoJSON beside GDAL: the ids of features of any type, and the coordinate system that a file names."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ingest.errors import ReadError
from ingest.parcels.crs import usable_crs
from ingest.parcels.values import MAX_TEXT, number


def geojson_crs(source: str, read: str | None) -> tuple[str | None, str | None]:
    """Return the system that a GeoJSON file names (where it names none, the one that GDAL has read) or its fault.

    GDAL takes a name that it does not know for longitude and latitude, and would fetch one given as an address.
    """
    import mmap

    with Path(source).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for found in re.finditer(rb'"crs"\s*:\s*(?=\{)', content):
            text = content[found.end() : found.end() + 4096].decode(errors="replace")
            try:
                given = json.JSONDecoder().raw_decode(text)[0]
                name = given["properties"]["name"] if given["type"] == "name" else None
            except (ValueError, KeyError, TypeError):
                continue
            if name is None:
                return None, "its coordinate system is given as an address, which is not fetched"
            return usable_crs(str(name))
    return read, None


def features_of(source: str) -> Iterator[dict[str, Any]]:
    """Yield the features of a GeoJSON file one by one; raises ReadError where it is not well-formed."""
    decoder, chunk = json.JSONDecoder(), 1 << 20
    with Path(source).open(encoding="utf-8-sig", errors="replace") as file:
        text = file.read(chunk)
        while not (opening := re.search(r'"features"\s*:\s*\[', text)):
            more = file.read(chunk)
            if not more:
                return
            text += more
        text = text[opening.end() :]
        at = 0
        while True:
            while at < len(text) and text[at] in " \t\r\n,":
                at += 1
            if at < len(text) and text[at] == "]":
                return
            try:
                feature, at = decoder.raw_decode(text, at)
            except ValueError as error:
                # What is left is at least doubled: a long feature is taken apart a bounded number of times.
                more = file.read(max(chunk, len(text) - at))
                if not more:
                    raise ReadError(f"damaged: {error}") from error
                text, at = text[at:] + more, 0
                continue
            yield feature if isinstance(feature, dict) else {}


def first_feature(source: str) -> dict[str, Any]:
    return next(features_of(source), {})


def has_ids(source: str) -> bool:
    return first_feature(source).get("id") is not None


def feature_id(given: object) -> str | None:
    """Return a GeoJSON feature's id as text: a number without a needless fraction."""
    if given is None or isinstance(given, bool | dict | list):
        return None
    if isinstance(given, float):
        return number(given, 2**53)
    return str(given)[:MAX_TEXT]
