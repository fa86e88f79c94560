"""The small parcel files of `shared/cases` that once failed, each with its right value; skipped where they are not."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from db.connect import engine
from db.parcels import Parcel, load_parcels
from db.seasons import ensure_season
from ingest.parcels.columns import ParcelColumns
from ingest.parcels.declared import ImportOptions
from ingest.parcels.errors import ParcelFileError
from ingest.parcels.importer import ImportReport, import_parcels

CASES = Path(__file__).parents[3] / "shared" / "cases" / "parcels"
NOW = datetime(2024, 5, 1, tzinfo=UTC)
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"small inputs missing: {CASES}")

Import = Callable[..., ImportReport]
Stored = Callable[[], dict[str, Parcel]]


@pytest.fixture
def import_(dsn: str) -> Import:
    """Import a case under one collection and season."""

    def run(name: str, id_column: str = "pid", crs: str | None = None) -> ImportReport:
        options = ImportOptions(columns=ParcelColumns(id=(id_column,), crop_code="crop"), crs=crs)
        with engine(dsn).begin() as connection:
            season = ensure_season(connection, "2024", date(2024, 1, 1), date(2024, 12, 31))
            return import_parcels(connection, CASES / name, "c", season, options, NOW)

    return run


@pytest.fixture
def stored(dsn: str) -> Stored:
    """Return what is stored, by source id."""

    def read() -> dict[str, Parcel]:
        with engine(dsn).begin() as connection:
            return {parcel.source_id: parcel for parcel in load_parcels(connection, "2024")}

    return read


def test_own_keys(import_: Import, stored: Stored) -> None:
    import_("only_fid.gpkg", "id")
    assert [(key, parcel.crop_code) for key, parcel in stored().items()] == [
        ("1", "wheat"),
        ("2", "maize"),
        ("3", "beet"),
        ("4", "potato"),
    ]
    assert import_("integer_feature_id.geojson", "id").changed.new == 4
    assert {"7000", "7001", "7002", "7003"} <= set(stored())


def test_curves(import_: Import, stored: Stored) -> None:
    import_("curves.gpkg")
    areas = {name: parcel.area_ha for name, parcel in stored().items()}
    assert areas == pytest.approx({"square": 4, "pivot": 4.52, "headland": 4.295, "multisurface": 4}, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("nul_in_id.parquet", ["A0", "A1", "A2", "A3"]),
        ("decimal3_id.parquet", ["17", "18", "19", "20"]),
        ("uuid_id.parquet", [f"00000000-0000-0000-0000-{nr:012}" for nr in (1, 2, 3, 4)]),
        ("long_ids.shp", [f"280790001000000{nr}" for nr in (17, 18, 19, 21)]),
    ],
)
def test_ids(name: str, ids: list[str], import_: Import, stored: Stored) -> None:
    import_(name)
    assert list(stored()) == ids
    assert all(parcel.is_monitorable for parcel in stored().values())


def test_a_list(import_: Import) -> None:
    with pytest.raises(ParcelFileError, match="column crop holds lists"):
        import_("list_crop.parquet")


@pytest.mark.parametrize(
    ("name", "crs"),
    [
        ("undefined_cartesian.gpkg", "EPSG:32631"),
        ("local.shp", "EPSG:32631"),
        ("undefined_geographic.gpkg", "EPSG:32631"),
        ("broken.shp", "EPSG:32631"),
        ("rd_unknown_datum.shp", "EPSG:28992"),
    ],
)
def test_systems(name: str, crs: str, import_: Import) -> None:
    with pytest.raises(ParcelFileError, match=r"give it as in --crs EPSG:25832"):
        import_(name)
    report = import_(name, crs=crs)
    assert (report.found.parcels, report.found.not_monitorable) == (4, {})


def test_the_same_fields_by_either_file(import_: Import, stored: Stored) -> None:
    import_("rd_known.gpkg")
    before = stored()
    import_("rd_unknown_datum.shp", crs="EPSG:28992")
    for name, parcel in stored().items():
        assert (parcel.lon, parcel.lat) == pytest.approx((before[name].lon, before[name].lat), abs=1e-7)


def test_reordered_duplicates(import_: Import, stored: Stored) -> None:
    import_("first.gpkg")
    before = stored()
    report = import_("reordered.gpkg")
    assert report.changed.moved_away == ("D1", "D1#2")
    assert "2 parcels lie elsewhere" in report.remarks[0]
    assert stored() == before
