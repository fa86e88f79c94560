"""What a GeoPackage (an SQLite database) holds, read without running anything of it."""

import contextlib
import sqlite3
from dataclasses import dataclass
from urllib.parse import quote


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
