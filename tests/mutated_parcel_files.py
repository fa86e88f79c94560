"""Mutated parcel files: sound ones of each kind changed by structure and by bytes. Seeded, so repeatable."""

import json
import random
import sqlite3
import struct
import tempfile
import zipfile
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, Final

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

EAST, NORTH = 600_000.0, 5_700_000.0
_TEXTS: Final = (
    "",
    "\0",
    "A\0B",
    "[/red]",
    "\x1b[31m",
    "x" * 3_000,
    "\u202e",
    "../x",
    "$",
    "a" * 201,
    "NaN",
    "é" * 150,
    "'; drop table x",
)
_VALUES: Final[tuple[Any, ...]] = (
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    2**70,
    1.5,
    1e300,
    -1e300,
    1e-300,
    [],
    {},
    [[]],
    [[[]]],
    "x",
    "\0",
    {"type": "Point"},
    *_TEXTS,
)
_WORDS: Final = tuple(
    struct.pack(order + kind, value)
    for order in "<>"
    for kind, value in (
        ("I", 0),
        ("I", 1),
        ("I", 2**31 - 1),
        ("I", 2**32 - 1),
        ("I", 2**24),
        ("H", 65535),
        ("B", 255),
        ("q", -1),
        ("q", 2**62),
        ("d", float("nan")),
        ("d", float("inf")),
        ("d", 1e300),
    )
)
_SQL: Final = (
    "update f set geom = zeroblob(20)",
    "update f set geom = X'4750'",
    "update f set geom = 'text'",
    "update f set pid = zeroblob(3000)",
    "update f set pid = 1.5e300",
    "update f set crop = X'ff00ff'",
    "update gpkg_contents set data_type = 'x'",
    "drop table gpkg_spatial_ref_sys",
    "update gpkg_contents set srs_id = 99999",
    "update gpkg_geometry_columns set column_name = 'pid'",
    "delete from gpkg_geometry_columns",
    "update gpkg_geometry_columns set geometry_type_name = 'POINT'",
    "update gpkg_spatial_ref_sys set definition = 'PROJCS[\"x'",
    "update gpkg_geometry_columns set srs_id = -1",
    'alter table f rename column geom to "[/red]"',
    "create view v as select * from f",
    "insert into gpkg_contents (table_name, data_type, identifier) values ('nowhere', 'features', 'n')",
    "drop table f",
    "delete from f",
    "create view w as with recursive r(i) as (select 1 union all select i + 1 from r) select i from r",
    "update f set fid = -fid",
    "insert into gpkg_contents (table_name, data_type, identifier) values ('v', 'features', 'v')",
    "update f set pid = 'a'",
    "insert into f (pid, crop, geom) select pid || fid || 'x', crop, geom from f",
)


def frame(n: int = 30) -> gpd.GeoDataFrame:
    """Return fields of 100 m side by side in EPSG:32631."""
    boxes = [shapely.box(EAST + 100 * i, NORTH, EAST + 100 * i + 100, NORTH + 100) for i in range(n)]
    columns = {"pid": [f"p{i}" for i in range(n)], "crop": ["wheat"] * n, "nr": range(n), "ha": [1.25] * n}
    return gpd.GeoDataFrame(columns, geometry=boxes, crs="EPSG:32631")


@cache
def _sound(suffix: str) -> dict[str, bytes]:
    """Return the files of a sound parcel file by suffix: writing them anew would take most of the time."""
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / f"f{suffix}"
        if suffix == ".parquet":
            frame().to_parquet(path)
        elif suffix == ".geojson":
            path.write_text(frame().to_crs(4326).to_json(drop_id=True))
        else:
            frame().to_file(path, **({"layer": "f"} if suffix == ".gpkg" else {}))
        return {part.suffix: part.read_bytes() for part in Path(made).iterdir()}


def _write_sound(folder: Path, suffix: str) -> Path:
    for part, content in _sound(suffix).items():
        (folder / f"f{part}").write_bytes(content)
    return folder / f"f{suffix}"


def mutated_file(number: int, folder: Path, chance: random.Random) -> Path:
    """Write a mutated parcel file into an empty folder and return its path; one in ten is sound."""
    path = chance.choice((_gpkg, _shapefile, _geojson, _parquet))(folder, chance)
    if chance.random() < 0.6:
        victim = chance.choice(sorted(folder.iterdir())) if path.suffix == ".shp" else path
        victim.write_bytes(mutated_bytes(victim.read_bytes(), chance))
    if chance.random() < 0.25:
        path = _zipped(path, folder, chance)
    if chance.random() < 0.05 and path.exists():
        renamed = path.with_suffix(chance.choice((".gpkg", ".parquet", ".zip", ".geojson", ".shp", "")))
        path = path.rename(renamed)
    return path if path.exists() else folder / f"lost {number}"


def mutated_bytes(content: bytes, chance: random.Random) -> bytes:
    """Change bytes in one to four places: flipped, overwritten with extreme numbers, cut, doubled, zeroed."""
    made = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(max(1, len(made)))
        # Headers say the most: half of the changes fall there.
        at = at if chance.random() < 0.5 else min(at, chance.choice((16, 100, 200, 1_000, 4_096)))
        length = chance.choice((1, 4, 16, 300, 4_096))
        match chance.randrange(6):
            case 0:
                made[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                word = chance.choice(_WORDS)
                made[at : at + len(word)] = word
            case 2:
                del made[at:]
            case 3:
                del made[at : at + length]
            case 4:
                made[at:at] = made[at : at + length] * chance.choice((1, 3))
            case _:
                made[at : at + length] = bytes(min(length, len(made) - at))
    return bytes(made)


def _mutated_wkb(wkb: bytes, chance: random.Random) -> bytes:
    kind = chance.randrange(5)
    if kind == 0:
        return mutated_bytes(wkb, chance)
    if kind == 1:  # a code of another geometry, curves and unknown ones among them
        return (
            wkb[:1]
            + struct.pack(
                "<I", chance.choice((0, 1, 2, 4, 6, 7, 8, 9, 10, 11, 12, 15, 17, 1003, 3003, 2**31 + 3, 2**32 - 1))
            )
            + wkb[5:]
        )
    if kind == 2:  # collections in collections
        depth = chance.choice((5, 200, 20_000))
        return b"\x01\x07\0\0\0\x01\0\0\0" * depth + wkb
    if kind == 3:
        angle = np.linspace(0, 2 * np.pi * chance.choice((1, 3, 70)), chance.choice((5, 141, 3_001)))
        radius = np.where(np.arange(len(angle)) % 2, 2_000.0, chance.choice((1.0, 500.0, 1_999.0)))
        return bytes(
            shapely.to_wkb(shapely.Polygon(np.c_[EAST + radius * np.cos(angle), NORTH + radius * np.sin(angle)]))
        )
    return b""


def _gpkg(folder: Path, chance: random.Random) -> Path:
    path = _write_sound(folder, ".gpkg")
    with sqlite3.connect(path) as database:
        for (name,) in database.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            database.execute(f'drop trigger "{name}"')
        for _ in range(chance.choice((0, 0, 1, 2))):
            try:
                database.execute(chance.choice(_SQL))
            except sqlite3.Error:
                continue  # an earlier change has taken away what this one changes
        for _ in range(chance.choice((0, 1, 3))):
            fid = chance.randint(1, 30)
            found = database.execute("select name from sqlite_master where name = 'f'").fetchone()
            columns = {row[1] for row in database.execute("pragma table_info(f)")} if found else set()
            row = database.execute("select geom from f where fid = ?", [fid]).fetchone() if "geom" in columns else None
            if row and isinstance(row[0], bytes) and len(row[0]) > 40:
                database.execute(
                    "update f set geom = ? where fid = ?", [row[0][:40] + _mutated_wkb(row[0][40:], chance), fid]
                )
            if "pid" in columns:
                database.execute("update f set pid = ? where fid = ?", [chance.choice(_TEXTS), fid + 1])
    database.close()
    return path


def _shapefile(folder: Path, chance: random.Random) -> Path:
    _write_sound(folder, ".shp")
    if chance.random() < 0.3:
        chance.choice(sorted(folder.iterdir())).unlink()
    if chance.random() < 0.2:
        (folder / "f.prj").write_text(
            chance.choice(("", "PROJCS[", "EPSG:28992", "+init=x", 'LOCAL_CS["x"]', "http://127.0.0.1:9/x"))
        )
    return folder / "f.shp"


def _geojson(folder: Path, chance: random.Random) -> Path:
    path = folder / "f.geojson"
    document = json.loads(_sound(".geojson")[".geojson"])
    for _ in range(chance.choice((0, 1, 1, 3))):
        _change(document, chance)
    if chance.random() < 0.3:
        for feature in document.get("features") or [] if isinstance(document.get("features"), list) else []:
            if isinstance(feature, dict):
                feature["id"] = deepcopy(chance.choice((*_VALUES, chance.randrange(100))))
    text = json.dumps(document, ensure_ascii=chance.random() < 0.5)
    if chance.random() < 0.05:
        depth = chance.choice((100, 5_000, 200_000))
        text = text.replace('"wheat"', "[" * depth + "]" * depth, 1)
    if chance.random() < 0.1:
        text = text.replace('"wheat"', chance.choice(('"\\ud800"', "1e999", "NaN", "9" * 5_000, '"\\u0000"')), 2)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return path


def _change(document: dict[str, Any], chance: random.Random) -> None:
    """Replace, remove or double one value somewhere in a document."""
    where: Any = document
    while True:
        keys = list(where) if isinstance(where, dict) else list(range(len(where)))
        if not keys:
            return
        key = chance.choice(keys)
        inner = where[key]
        if isinstance(inner, dict | list) and inner and chance.random() < 0.85:
            where = inner
            continue
        match chance.randrange(4):
            case 0:
                del where[key]
            case 1 if isinstance(where, list):
                where.extend(deepcopy(inner) for _ in range(chance.choice((1, 50))))
            case 2 if isinstance(where, dict):
                where["crs"] = {
                    "type": chance.choice(("name", "link", "x")),
                    "properties": {"name": deepcopy(chance.choice(_VALUES)), "href": "x"},
                }
            case _:
                where[key] = deepcopy(chance.choice(_VALUES))
        return


def _parquet(folder: Path, chance: random.Random) -> Path:
    path = _write_sound(folder, ".parquet")
    table = pq.read_table(path)
    n = table.num_rows
    changes: tuple[Callable[[], pa.Array], ...] = (
        lambda: pa.array([chance.choice(_TEXTS) for _ in range(n)]),
        lambda: pa.array([chance.choice((2.0**60, 1.5, float("nan"), float("inf"), 7.0)) for _ in range(n)]),
        lambda: pa.array([["a", None]] * n),
        lambda: pa.array([{"a": 1}] * n),
        lambda: pa.array([b"\xff\0"] * n),
        lambda: pa.array([None] * n, pa.null()),
        lambda: pa.array(range(n), pa.timestamp("ns", "Europe/Paris")),
        lambda: pa.array(range(n), pa.duration("us")),
        lambda: pa.array([f"p{i}" for i in range(n)]).dictionary_encode(),
        lambda: pa.array([i.to_bytes(16) for i in range(n)], pa.uuid()),
    )
    for name in ("pid", "crop"):
        if chance.random() < 0.4:
            table = table.set_column(table.schema.get_field_index(name), name, chance.choice(changes)())
    if chance.random() < 0.4:
        wkb = [
            _mutated_wkb(value, chance) if chance.random() < 0.2 else value for value in table["geometry"].to_pylist()
        ]
        table = table.set_column(table.schema.get_field_index("geometry"), "geometry", pa.array(wkb, pa.binary()))
    metadata = dict(table.schema.metadata)
    if chance.random() < 0.4:
        geo = json.loads(metadata[b"geo"])
        _change(geo, chance)
        metadata[b"geo"] = json.dumps(geo).encode()
    pq.write_table(table.replace_schema_metadata(metadata), path, compression=chance.choice(("none", "snappy", "zstd")))
    return path


def _zipped(path: Path, folder: Path, chance: random.Random) -> Path:
    archive = folder / "z.zip"
    prefix = chance.choice(("", "a folder/", "../", "/", "x" * 200 + "/", "é\u202e/"))
    members = sorted(member for member in folder.iterdir() if member.stem == path.stem)
    with zipfile.ZipFile(
        archive, "w", chance.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA))
    ) as made:
        for member in members:
            made.write(member, prefix + member.name)
        if chance.random() < 0.2:
            made.writestr(chance.choice(("readme.txt", "other.gpkg", "__MACOSX/f.gpkg", "f.gpkg/x")), "x")
    if chance.random() < 0.4:
        archive.write_bytes(mutated_bytes(archive.read_bytes(), chance))
    return archive
