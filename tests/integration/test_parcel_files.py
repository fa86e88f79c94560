"""Parcel files of every kind, sound and broken, without a database."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely

from ingest.parcels.errors import ParcelFileError
from ingest.parcels.files import open_parcel_file, read_features

FIELDS = gpd.GeoDataFrame(
    {"id": [7.0, 8.0, 9.0], "crop": ["Wheat ", "", None], "year": [2023, 2023, 2023]},
    geometry=[shapely.box(6, 51, 6.01, 51.01), shapely.box(7, 51, 7.01, 51.01), None],
    crs="EPSG:4326",
)

Writer = Callable[[Path], Path]


def gpkg(folder: Path) -> Path:
    FIELDS.to_file(folder / "fields.gpkg", layer="fields")
    return folder / "fields.gpkg"


def geojson(folder: Path) -> Path:
    FIELDS.to_file(folder / "fields.geojson")
    return folder / "fields.geojson"


def geoparquet(folder: Path) -> Path:
    FIELDS.to_parquet(folder / "fields.parquet")
    return folder / "fields.parquet"


def zipped_gpkg(folder: Path) -> Path:
    return zipped(folder / "gpkg.zip", [gpkg(folder)])


def zipped_shapefile(folder: Path) -> Path:
    FIELDS.to_file(folder / "fields.shp")
    return zipped(folder / "shp.zip", sorted(folder.glob("fields.*")))


def zipped(archive: Path, members: list[Path]) -> Path:
    with zipfile.ZipFile(archive, "w") as file:
        for member in members:
            file.write(member, f"a folder/{member.name}")
    return archive


@pytest.mark.parametrize("write", [gpkg, geojson, geoparquet, zipped_gpkg, zipped_shapefile])
def test_every_format_gives_the_same_features(write: Writer, tmp_path: Path) -> None:
    file = open_parcel_file(write(tmp_path))
    assert file.n_parcels == 3
    assert file.crs is not None
    assert file.crs.is_geographic
    batches = list(read_features(file, ["id", "crop", "year"], batch_size=2))
    texts = {column: [text for batch in batches for text in batch.texts[column]] for column in ("id", "crop", "year")}
    assert texts == {"id": ["7", "8", "9"], "crop": ["Wheat", None, None], "year": ["2023"] * 3}
    outlines = [wkb for batch in batches for wkb in batch.wkb]
    assert [wkb is not None for wkb in outlines] == [True, True, False]
    assert shapely.equals(shapely.from_wkb(outlines[1]), FIELDS.geometry[1])


def test_real_identifiers_keep_their_digits(tmp_path: Path) -> None:
    frame = FIELDS.assign(id=[1645633793.0, 1.5, 9007199254740991.0])
    frame.to_file(tmp_path / "f.gpkg")
    (batch,) = read_features(open_parcel_file(tmp_path / "f.gpkg"), ["id"])
    assert batch.texts["id"][1] == "1.5"
    whole = FIELDS.assign(id=[1645633793.0, 2.0, 9007199254740991.0])
    whole.to_file(tmp_path / "w.gpkg")
    (batch,) = read_features(open_parcel_file(tmp_path / "w.gpkg"), ["id"])
    assert batch.texts["id"] == ["1645633793", "2", "9007199254740991"]


def test_geoparquet_without_crs_is_lonlat_and_null_is_unknown(tmp_path: Path) -> None:
    table = pq.read_table(geoparquet(tmp_path))
    geo = json.loads(table.schema.metadata[b"geo"])
    for given, is_known in (("absent", True), ("null", False)):
        described = geo["columns"]["geometry"]
        described.pop("crs", None)
        if given == "null":
            described["crs"] = None
        pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), tmp_path / f"{given}.parquet")
        assert (open_parcel_file(tmp_path / f"{given}.parquet").crs is not None) == is_known


def test_an_unknown_column_is_told_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ParcelFileError, match=r"no column kultur; there are: id, crop, year"):
        list(read_features(open_parcel_file(gpkg(tmp_path)), ["id", "kultur"]))


def test_of_several_layers_one_must_be_chosen(tmp_path: Path) -> None:
    path = gpkg(tmp_path)
    FIELDS.to_file(path, layer="blocks")
    with pytest.raises(ParcelFileError, match=r"2 layers with geometry \(fields, blocks\); choose one with --layer"):
        open_parcel_file(path)
    assert open_parcel_file(path, "blocks").n_parcels == 3
    with pytest.raises(ParcelFileError, match="no layer parcels; there are: fields, blocks"):
        open_parcel_file(path, "parcels")


def write_text(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def plain_parquet(folder: Path) -> Path:
    pq.write_table(pa.table({"id": [1]}), folder / "plain.parquet")
    return folder / "plain.parquet"


def empty_gpkg(folder: Path) -> Path:
    FIELDS.iloc[:0].to_file(folder / "empty.gpkg")
    return folder / "empty.gpkg"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: folder / "nowhere.gpkg", "no such file"),
        (lambda folder: folder, "no such file"),
        (lambda folder: write_text(folder / "f.gpkg", "not a database"), "not a readable parcel file"),
        (lambda folder: write_text(folder / "f.geojson", '{"type": "FeatureCollection", "feat'), "not a readable"),
        (lambda folder: write_text(folder / "f.zip", "not a zip"), "not a zip archive"),
        (lambda folder: write_text(folder / "f.parquet", "not parquet"), "not a readable parquet file"),
        (
            lambda folder: zipped(folder / "f.zip", [write_text(folder / "readme.txt", "")]),
            "must hold one .* found none",
        ),
        (plain_parquet, "no GeoParquet metadata"),
        (empty_gpkg, "holds no parcels"),
    ],
)
def test_a_broken_file_ends_with_one_clear_line(write: Writer, message: str, tmp_path: Path) -> None:
    with pytest.raises(ParcelFileError, match=message) as raised:
        open_parcel_file(write(tmp_path))
    assert "\n" not in str(raised.value)


def test_damage_found_on_the_way_is_told(tmp_path: Path) -> None:
    path = geoparquet(tmp_path)
    damaged = bytearray(path.read_bytes())
    damaged[4:60] = bytes(56)  # the first pages; the footer stays
    path.write_bytes(damaged)
    with pytest.raises(ParcelFileError, match="damaged"):
        list(read_features(open_parcel_file(path), ["id", "crop", "year"]))
