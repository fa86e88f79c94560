"""What a GeoPackage (an SQLite database) holds, read without running anything of it."""

import contextlib
import re
import sqlite3
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from ingest.errors import ReadError

ACTIVE_SQL: Final = re.compile(r"(?<!gpkg_)\b(?:ogr|gdal)_|\bgeocode", re.IGNORECASE)
"""Functions by which GDAL's SQL reaches other files and addresses."""


@dataclass(frozen=True, slots=True)
class Schema:
    """The objects of a GeoPackage as (type, name, SQL), and the names of its layers."""

    objects: list[tuple[str, str, str]]
    layers: frozenset[str]


def read_schema(path: str) -> Schema:
    """Return what a GeoPackage holds; raises sqlite3.Error where it is none, or damaged."""
    with contextlib.closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as database:
        database.execute("pragma trusted_schema = off")
        objects = database.execute("select type, name, coalesce(sql, '') from sqlite_master").fetchall()
        layers = frozenset(name for (name,) in database.execute("select table_name from gpkg_contents"))
    return Schema(objects, layers)


def refuse_active_schema(source: str) -> None:
    """Refuse a GeoPackage whose tables are programs: virtual tables, views as layers, SQL that reaches outside.

    Raises ReadError, also where it is no database.
    """
    try:
        schema = read_schema(source)
    except sqlite3.Error as error:
        raise ReadError(f"not a readable parcel file: {error}") from error
    for kind, name, sql in schema.objects:
        is_module = re.match(r"\s*create\s+virtual\s+table\b", sql, re.IGNORECASE)
        if is_module and not re.search(r"\busing\s+[\"\[`]?rtree\b", sql, re.IGNORECASE):
            raise ReadError(f"its table {name} is a virtual table, which could read other files; export it as a table")
        if kind == "view" and (name in schema.layers or str(name).lower().startswith(("gpkg_", "sqlite_"))):
            raise ReadError(f"its layer {name} is a view; export it as a table")
        if ACTIVE_SQL.search(sql):
            raise ReadError(f"its {kind} {name} calls functions that could read other files")
