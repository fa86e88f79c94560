"""Kinds of parcel files that other tools stumble over: keys, numbers, systems, curves, texts, files within files."""

import json
import os
import sqlite3
import threading
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from uuid import UUID

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import sqlalchemy as sa

import ingest.parcels.opening
import ingest.parcels.reader_process
import parcelwatch
from db.connect import engine
from ingest.parcels.errors import ParcelFileError
from ingest.parcels.files import open_parcel_file, read_features

EAST, NORTH = 600_000.0, 5_700_000.0
WHERE = ("--collection", "c", "--season", "2024")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def parcels(dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `parcelwatch parcels ...`; returns exit code, output, error output."""
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["parcelwatch", "parcels", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as ended:
            parcelwatch.main()
        code = int(ended.value.code or 0)
        out, error = capsys.readouterr()
        assert "Traceback" not in out + error
        return code, out, error

    return run


def frame(n: int = 4, **columns: object) -> gpd.GeoDataFrame:
    """Return fields of 100 m side by side in EPSG:32631."""
    boxes = [shapely.box(EAST + 100 * i, NORTH, EAST + 100 * i + 100, NORTH + 100) for i in range(n)]
    return gpd.GeoDataFrame({"crop": ["wheat"] * n, **columns}, geometry=boxes, crs="EPSG:32631")


def stored(dsn: str) -> dict[str, str | None]:
    """Return the reason of each stored parcel by its source id."""
    with engine(dsn).begin() as connection:
        rows = connection.execute(sa.text("select source_id, not_monitorable_reason from parcels order by parcel_key"))
        return {row.source_id: row.not_monitorable_reason for row in rows}


def geoparquet(path: Path, ids: pa.Array, crops: pa.Array | None = None) -> Path:
    frame(len(ids)).to_parquet(path)
    table = pq.read_table(path).append_column("pid", ids)
    if crops is not None:
        table = table.set_column(table.schema.get_field_index("crop"), "crop", crops)
    pq.write_table(table, path)
    return path


def ids_of(path: Path, column: str = "pid") -> list[str | None]:
    return [text for batch in read_features(open_parcel_file(path), [column]) for text in batch.texts[column]]


# The layer's own key --------------------------------------------------------------------------


def geojson(path: Path, ids: list[object], properties: dict[str, object] | None = None) -> Path:
    features = [
        {
            "type": "Feature",
            "properties": {"crop": "wheat", **(properties or {})},
            "geometry": shapely.geometry.mapping(box),
        }
        | ({} if given is None else {"id": given})
        for given, box in zip(ids, frame(len(ids)).to_crs(4326).geometry, strict=True)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.mark.parametrize(
    ("ids", "read"),
    [
        ([7000, 7001], ["7000", "7001"]),
        (["a", "b"], ["a", "b"]),
        ([7, "a", 7.0, 2**70, -5], ["7", "a", "7", str(2**70), "-5"]),
        ([7, 7, None, True], ["7", "7", None, None]),  # GDAL numbers these anew
        ([1.5, 2], ["1.5", "2"]),
    ],
)
def test_feature_ids_of_geojson_are_read_whatever_their_type(
    ids: list[object], read: list[str | None], tmp_path: Path
) -> None:
    path = geojson(tmp_path / "f.geojson", ids)
    assert open_parcel_file(path).key == "id"
    assert ids_of(path, "id") == ids_of(path, "fid") == read


def test_a_property_called_id_goes_before_the_feature_id(tmp_path: Path) -> None:
    path = geojson(tmp_path / "f.geojson", [7000, 7001], {"id": "p"})
    assert (open_parcel_file(path).key, ids_of(path, "id"), ids_of(path, "fid")) == ("fid", ["p"] * 2, ["7000", "7001"])


def test_geojson_without_feature_ids_has_no_key(tmp_path: Path) -> None:
    file = open_parcel_file(geojson(tmp_path / "f.geojson", [None, None]))
    assert file.key is None
    with pytest.raises(ParcelFileError, match="no column fid"):
        list(read_features(file, ["fid"]))


@pytest.mark.parametrize("name", ["id", "OBJECTID"])
def test_a_geopackages_primary_key_can_be_the_id(name: str, parcels: Run, tmp_path: Path, dsn: str) -> None:
    path = tmp_path / "f.gpkg"
    frame(4, crop=["wheat", "maize", "wheat", "maize"]).to_file(path, FID=name)
    code, _, error = parcels("import", path, *WHERE, "--id-column", "crop")
    assert (code, error.count("\n")) == (1, 1) if (code := code) else False
    assert (
        f"2 of 4 parcels have no id of their own by crop, so they could not be watched; one of its own has --id-column {name}"
        in error
    )
    code, _, error = parcels("import", path, *WHERE, "--id-column", name, "--crop-code-column", "crop")
    assert (code, error) == (0, "")
    assert list(stored(dsn)) == ["1", "2", "3", "4"]
    assert ids_of(path, "fid") == ["1", "2", "3", "4"]


def test_an_id_that_is_not_unique_names_the_columns_that_are(parcels: Run, tmp_path: Path) -> None:
    path = tmp_path / "f.gpkg"
    frame(40, farm=[str(i // 2) for i in range(40)], nr=range(40), ha=[i + 0.5 for i in range(40)]).to_file(path)
    code, _, error = parcels("import", path, *WHERE, "--id-column", "farm")
    assert (code, "20 of 40 parcels have no id of their own by farm" in error) == (1, True)
    assert "has --id-column nr or fid" in error


# Values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "read"),
    [
        (pa.array([Decimal("17.000"), Decimal("17.500"), None]), ["17", "17.5", None]),
        (pa.array([UUID(int=1).bytes, UUID(int=2).bytes], pa.uuid()), [str(UUID(int=1)), str(UUID(int=2))]),
        (pa.array([17.0, 1.5, float("nan")]), ["17", "1.5", None]),
        (pa.array([2.0**53, 17.0]), ["\0" + "9007199254740992.0", "17"]),
        (pa.array(np.array([2**24, 5], np.float32)), ["\0" + "16777216.0", "5"]),
        (pa.array([b"ab", b"\xff"], pa.binary()), ["ab", "\0\N{REPLACEMENT CHARACTER}"]),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        (pa.array(["a", "a"]).dictionary_encode(), ["a", "a"]),
        (pa.array([2**63, 2**64 - 1], pa.uint64()), [str(2**63), str(2**64 - 1)]),
        (pa.array([None, None], pa.null()), [None, None]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array([" a ", "  "]), ["a", None]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_ids_of_every_type_are_read_as_they_are_written(ids: pa.Array, read: list[str | None], tmp_path: Path) -> None:
    assert ids_of(geoparquet(tmp_path / "f.parquet", ids)) == read


def test_a_list_is_called_a_list(parcels: Run, tmp_path: Path) -> None:
    path = geoparquet(tmp_path / "f.parquet", pa.array(["a", "b"]), pa.array([["wheat"], ["rye", "oats"]]))
    code, _, error = parcels("import", path, *WHERE, "--id-column", "pid", "--crop-code-column", "crop")
    assert (code, error.count("\n")) == (1, 1)
    assert "column crop holds lists" in error


def test_long_numbers_of_a_shapefile_keep_their_digits(tmp_path: Path) -> None:
    ids = [28079000100000017, 28079000100000018, 28079000100000019]
    frame(3, pid=np.array(ids)).to_file(tmp_path / "f.shp")
    assert ids_of(tmp_path / "f.shp") == [str(number) for number in ids]


def test_texts_are_made_storable_or_their_row_alone_is_refused(parcels: Run, tmp_path: Path, dsn: str) -> None:
    ids = ["A0\0\0", "A1", "x" * 10_000, "B\0C", "D\x1b[31m", "e\u202ef", "ok", "g"]
    crops = ["wh\0eat", "[/red]", "a", "b", "c", "d", "y" * 5_000, "z\x1b]0;x\x07"]
    good = [f"good {i}" for i in range(8)]
    path = geoparquet(tmp_path / "f.parquet", pa.array(ids + good), pa.array(crops + [None] * 8))
    code, out, error = parcels("import", path, *WHERE, "--id-column", "pid", "--crop-code-column", "crop")
    assert code == 0
    assert "5 parcels have an id, region or crop that cannot be stored" in error
    assert "row 3, 4, 5, 6, 7 of the file" in error
    refused = dict.fromkeys(("#1", "#2", "#3", "#4", "ok"), "unusable_text")
    assert stored(dsn) == {**dict.fromkeys(["A0", "A1", "g", *good]), **refused}
    with engine(dsn).begin() as connection:
        crops_stored = connection.execute(sa.text("select crop_code from declarations order by 1")).scalars().all()
    assert crops_stored == ["[/red]", "a", "b", "c", "d", "wh eat", "z ]0;x"]
    code, out, _ = parcels("list", "--season", "2024")
    assert (code, "[/red]" in out, "\x1b" in out) == (0, True, False)
    again = json.loads(parcels("import", path, *WHERE, "--id-column", "pid", "--crop-code-column", "crop", "--json")[1])
    assert again["changed"]["unchanged"] == 16


def test_names_are_not_cut_where_output_is_no_terminal(
    parcels: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "a declared crop whose name is longer than the eighty columns of a terminal that nobody looks at"
    path = tmp_path / "f.gpkg"
    frame(2, pid=["a", "b"], crop=[name] * 2).to_file(path)
    assert parcels("import", path, *WHERE, "--id-column", "pid", "--crop-name-column", "crop")[0] == 0
    assert name in parcels("list", "--season", "2024")[1]


def test_a_collection_needs_a_name_that_can_be_stored(parcels: Run, tmp_path: Path) -> None:
    path = tmp_path / "f.gpkg"
    frame(2, pid=["a", "b"]).to_file(path)
    code, _, error = parcels("import", path, "--collection", "x" * 5_000, "--season", "2024", "--id-column", "pid")
    assert (code, error.count("\n"), "--collection: give a name of 1 to 200" in error) == (1, 1, True)


def test_parcels_without_any_crop_are_remarked_on(parcels: Run, tmp_path: Path) -> None:
    path = tmp_path / "f.gpkg"
    frame(2, pid=["a", "b"]).to_file(path)
    code, _, error = parcels("import", path, *WHERE, "--id-column", "pid")
    assert code == 0
    assert "no parcel has a declared crop; name --crop-code-column or --crop-name-column. It has: crop, pid" in error


@pytest.mark.parametrize(
    ("columns", "ids"),
    [
        (
            {"id": [11, 12], "category": "Bouwland", "gewas": "Mais", "gewascode": 259, "jaar": 2024, "status": "D"},
            ["11", "12"],
        ),
        ({"category": "Bouwland", "gewas": "Mais", "gewascode": 259, "jaar": 2024, "status": "D"}, ["1", "2"]),
        ({"CAT_GEWASCATEGORIE": "Bouwland", "GWS_GEWASCODE": 259, "GWS_GEWAS": "Mais"}, ["1", "2"]),
    ],
)
@pytest.mark.parametrize("agency", [(), ("--agency", "nl_brp")])
def test_the_dutch_agencys_layouts(
    agency: tuple[str, ...], columns: dict[str, object], ids: list[str], parcels: Run, tmp_path: Path, dsn: str
) -> None:
    path = tmp_path / "brp.gpkg"
    frame(2, **columns).drop(columns="crop").to_file(path)
    code, _, error = parcels("import", path, *WHERE, *agency)
    assert (code, error) == (0, "")
    assert list(stored(dsn)) == ids
    with engine(dsn).begin() as connection:
        assert connection.execute(sa.text("select distinct crop_code, crop_name from declarations")).one() == (
            "259",
            "Mais",
        )


@pytest.mark.parametrize(
    ("changed", "options", "declared"),
    [
        (datetime(2024, 5, 15, 10, tzinfo=UTC), (), datetime(2024, 5, 15, 10, tzinfo=UTC)),
        (datetime(2026, 5, 15, 10, tzinfo=UTC), (), datetime(2024, 1, 1, tzinfo=UTC)),
        (
            datetime(2026, 5, 15, tzinfo=UTC),
            ("--declared-at", "2024-06-01 12:30"),
            datetime(2024, 6, 1, 12, 30, tzinfo=UTC),
        ),
        (
            datetime(2026, 5, 15, tzinfo=UTC),
            ("--declared-at", "2024-06-01T12:30+02:00"),
            datetime(2024, 6, 1, 10, 30, tzinfo=UTC),
        ),
    ],
)
def test_when_farmers_declared(
    changed: datetime, options: tuple[str, ...], declared: datetime, parcels: Run, tmp_path: Path, dsn: str
) -> None:
    path = tmp_path / "f.gpkg"
    frame(2, pid=["a", "b"]).to_file(path)
    os.utime(path, (changed.timestamp(),) * 2)
    code, out, _ = parcels(
        "import", path, *WHERE, "--id-column", "pid", "--crop-code-column", "crop", *options, "--json"
    )
    assert (code, json.loads(out)["declared_at"]) == (0, declared.isoformat())
    with engine(dsn).begin() as connection:
        assert connection.execute(sa.text("select distinct declared_at from declarations")).scalar_one() == declared


# Systems and outlines -------------------------------------------------------------------------

UNKNOWN_DATUM = (
    'PROJCS["x",GEOGCS["Bessel 1841",DATUM["unknown",SPHEROID["bessel",6377397.155,299.1528128]],PRIMEM["Greenwich",0],'
    'UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],'
    'PARAMETER["central_meridian",3],PARAMETER["scale_factor",0.9996],PARAMETER["false_easting",500000],'
    'PARAMETER["false_northing",0],UNIT["Meter",1]]'
)


@pytest.mark.parametrize(
    "prj",
    [
        'LOCAL_CS["Nonearth (m)",UNIT["Meter",1.0]]',
        'PROJCS["WGS_1984_UTM_Zone_31N",GEOGCS["GCS',
        "\0\xff garbage",
        UNKNOWN_DATUM,
    ],
    ids=["local", "broken", "garbage", "unknown datum"],
)
def test_a_system_that_cannot_be_used_counts_as_unsaid(prj: str, parcels: Run, tmp_path: Path, dsn: str) -> None:
    path = tmp_path / "f.shp"
    frame(2, pid=["a", "b"]).to_file(path)
    path.with_suffix(".prj").write_text(prj, encoding="latin-1")
    arguments = ("import", path, *WHERE, "--id-column", "pid")
    code, _, error = parcels(*arguments)
    assert (code, error.count("\n"), "give it as in --crs EPSG:25832" in error) == (1, 1, True)
    code, _, _ = parcels(*arguments, "--crs", "EPSG:32631")
    assert (code, stored(dsn)) == (0, {"a": None, "b": None})
    assert path.with_suffix(".prj").read_text(encoding="latin-1") == prj


@pytest.mark.parametrize("srs_id", [-1, 0])
def test_a_geopackage_of_undefined_system_needs_one(srs_id: int, parcels: Run, tmp_path: Path) -> None:
    path = tmp_path / "f.gpkg"
    frame(2, pid=["a", "b"]).to_file(path)
    with sqlite3.connect(path) as database:
        database.execute("update gpkg_geometry_columns set srs_id = ?", [srs_id])
        database.execute("update gpkg_contents set srs_id = ?", [srs_id])
    database.close()
    code, _, error = parcels("import", path, *WHERE, "--id-column", "pid")
    assert (code, error.count("\n"), "give it as in --crs" in error) == (1, 1, True)
    assert parcels("import", path, *WHERE, "--id-column", "pid", "--crs", "EPSG:32631")[0] == 0


@pytest.mark.parametrize(
    "epsg", [28992, 31370, 25832, 2056, 3067, 2154, 27700, 3035, 2180, 5514, 31287, 3301, 3006, 2100]
)
def test_the_usual_systems_need_no_ballpark_transformation(epsg: int, tmp_path: Path) -> None:
    frame(1, pid=["a"]).set_crs(epsg, allow_override=True).to_file(tmp_path / "f.gpkg")
    assert open_parcel_file(tmp_path / "f.gpkg").crs is not None


def test_curved_outlines_are_made_linear(parcels: Run, tmp_path: Path, dsn: str) -> None:
    path = tmp_path / "f.gpkg"
    frame(2, pid=["round", "square"]).to_file(path)
    circle = (
        "CURVEPOLYGON (CIRCULARSTRING (600000 5700100, 600100 5700000, 600200 5700100, 600100 5700200, 600000 5700100))"
    )
    header = b"GP\0\x01" + (32631).to_bytes(4, "little")
    with sqlite3.connect(path) as database:
        for trigger in database.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            database.execute(f'drop trigger "{trigger[0]}"')
        database.execute("update f set geom = ? where pid = 'round'", [header + curve_wkb(circle)])
    database.close()
    assert parcels("import", path, *WHERE, "--id-column", "pid")[0] == 0
    with engine(dsn).begin() as connection:
        areas = connection.execute(sa.text("select area_ha from parcels order by source_id")).scalars().all()
    assert areas == pytest.approx([np.pi, 1.0], rel=2e-3)


def curve_wkb(circle: str) -> bytes:
    """Return CURVEPOLYGON (CIRCULARSTRING (...)) as little-endian ISO WKB."""
    xy = np.array([point.split() for point in circle.split("(")[2].rstrip(")").split(",")], np.float64)
    ring = b"\x01" + (8).to_bytes(4, "little") + len(xy).to_bytes(4, "little") + xy.astype("<f8").tobytes()
    return b"\x01" + (10).to_bytes(4, "little") + (1).to_bytes(4, "little") + ring


# Files that would reach other files or addresses ----------------------------------------------

Make = Callable[[Path, str], Path]


def vrt(folder: Path, address: str) -> Path:
    path = folder / "f.gpkg"
    path.write_text(
        f"<OGRVRTDataSource><OGRVRTLayer name='x'><SrcDataSource>{address}</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>"
    )
    return path


def zipped_vrt(folder: Path, address: str) -> Path:
    with zipfile.ZipFile(folder / "f.zip", "w") as archive:
        archive.write(vrt(folder, address), "f.gpkg")
    return folder / "f.zip"


def pipeline(folder: Path, address: str) -> Path:
    text = {
        "type": "gdal_streamed_alg",
        "command_line": f"gdal vector pipeline ! read {address}",
        "gdal_version": "3120000",
    }
    (folder / "f.json").write_text(json.dumps(text))
    return folder / "f.json"


def linked_crs(folder: Path, address: str) -> Path:
    path = geojson(folder / "f.geojson", ["a", "b"])
    crs = {"type": "link", "properties": {"href": address, "type": "proj4"}}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, **json.loads(path.read_text())}))
    return path


def virtual_table(folder: Path, address: str) -> Path:
    return changed(folder, f"create virtual table more using VirtualOGR('{address}')")


def view_that_asks(folder: Path, address: str) -> Path:
    return changed(folder, f"create view more as select ogr_geocode('{address}') as geom")


def changed(folder: Path, statement: str) -> Path:
    path = folder / "f.gpkg"
    frame(2, pid=["a", "b"]).to_file(path)
    with sqlite3.connect(path) as database:
        database.execute("pragma writable_schema = on")
        name = "view" if "view" in statement else "table"
        database.execute("insert into sqlite_master values (?, 'more', 'more', 0, ?)", [name, statement])
        database.execute(
            "insert into gpkg_contents (table_name, data_type, identifier) values ('more', 'features', 'more')"
        )
    database.close()
    return path


def grid_of_a_file(folder: Path, address: str) -> Path:
    path = folder / "f.parquet"
    frame(2, pid=["a", "b"]).to_parquet(path)
    table = pq.read_table(path)
    geo = json.loads(table.schema.metadata[b"geo"])
    geo["columns"]["geometry"]["crs"] = f"+proj=longlat +ellps=bessel +nadgrids={address} +type=crs"
    pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), path)
    return path


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """A server that nobody should ask: its address, and the paths that it was asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/x", paths
        server.shutdown()


@pytest.mark.parametrize("where", ["an address", "a file"])
@pytest.mark.parametrize(
    "make",
    [vrt, zipped_vrt, pipeline, linked_crs, virtual_table, view_that_asks, grid_of_a_file],
    ids=lambda make: make.__name__,
)
def test_a_parcel_file_is_no_way_to_other_files(
    make: Make, where: str, asked: tuple[str, list[str]], parcels: Run, tmp_path: Path
) -> None:
    address, paths = asked
    secret = tmp_path / "secret.geojson"
    geojson(secret, ["secret-1", "secret-2"])
    path = make(tmp_path, address if where == "an address" else str(secret))
    code, out, error = parcels("import", path, *WHERE, "--id-column", "id")
    assert (code, error.count("\n"), paths) == (1, 1, [])
    assert "secret-1" not in out + error


@pytest.mark.parametrize(
    "name",
    [
        "/vsicurl/http://127.0.0.1:9/x.gpkg",
        "http://127.0.0.1:9/x.gpkg",
        '{"type":"Point","coordinates":[1,2]}',
        "<OGRVRTDataSource/>",
        "/vsizip//tmp/x.zip",
        "PG:host=127.0.0.1",
        "WFS:http://127.0.0.1:9/",
    ],
)
def test_a_name_that_is_no_file_is_none(name: str) -> None:
    with pytest.raises(ParcelFileError, match="no such file"):
        open_parcel_file(Path(name))


def test_an_archive_that_swells_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("f.geojson", "w", force_zip64=True) as member,
    ):
        for _ in range(30):
            member.write(b" " * (1 << 20))
    monkeypatch.setattr(ingest.parcels.opening, "MAX_UNPACKED", 10 << 20)
    with pytest.raises(ParcelFileError, match="unpacks to more than"):
        open_parcel_file(path)


def test_a_reader_that_says_nothing_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.gpkg"
    frame(2, pid=["a", "b"]).to_file(path)
    monkeypatch.setattr(ingest.parcels.reader_process, "MAX_SILENT_S", 0.01)
    with pytest.raises(ParcelFileError, match="it took more than"):
        open_parcel_file(path)


def test_one_spiky_outline_does_not_hold_up_the_others(parcels: Run, tmp_path: Path, dsn: str) -> None:
    angle = np.linspace(0, 2 * np.pi, 400_000, endpoint=False)
    radius = np.where(np.arange(400_000) % 2, 2000.0, 500.0)
    path = tmp_path / "f.gpkg"
    spiky = frame(3, pid=["a", "spiky", "long"])
    outlines = [
        shapely.Polygon(np.c_[EAST + 5000 + r * np.cos(a), NORTH + r * np.sin(a)])
        for r, a in ((radius, angle), (radius[:200_000], 2 * angle[:200_000]))
    ]
    spiky.geometry = [spiky.geometry[0], *outlines]
    spiky.to_file(path)
    code, _, error = parcels("import", path, *WHERE, "--id-column", "pid", "--crop-code-column", "crop")
    assert (code, error) == (0, "")
    assert stored(dsn)["a"] is None
    assert set(stored(dsn).values()) == {None, "invalid_geometry", "too_complex"}
