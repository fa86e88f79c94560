"""Import of parcels into a real database: agencies' files, again, amended, from season to season."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
import sqlalchemy as sa

import parcelwatch
from db.connect import engine
from db.parcel_import import ensure_region
from db.parcels import count_parcels, declared_parcels, geometry, load_parcels
from db.seasons import (
    Season,
    SeasonDiffers,
    UnknownSeason,
    ensure_season,
    previous_season,
    season_by_name,
    widen_season,
)
from ingest.parcels.columns import load_agency
from ingest.parcels.declared import ImportOptions
from ingest.parcels.importer import ImportReport, import_parcels

MARCH, JUNE, JULY = (datetime(2023, month, 1, tzinfo=UTC) for month in (3, 6, 7))
EAST, NORTH = 600_000.0, 5_700_000.0
SIMULATOR = ImportOptions(columns=load_agency("simulator"))


@pytest.fixture
def connection(dsn: str) -> Iterator[sa.Connection]:
    with engine(dsn).begin() as opened:
        yield opened


@pytest.fixture
def season(connection: sa.Connection) -> Season:
    return ensure_season(connection, "2023", date(2023, 1, 1), date(2023, 12, 31))


def fields(columns: list[float], crops: list[str | None], ids: list[str] | None = None) -> gpd.GeoDataFrame:
    """Fields of 100 m x 100 m, `column` fields to the east of the first."""
    return gpd.GeoDataFrame(
        {
            "parcel_id": ids or [f"p{row}" for row in range(len(columns))],
            "region": ["north", "south"] * (len(columns) // 2) + ["north"] * (len(columns) % 2),
            "crop_code": crops,
            "crop_name": crops,
            "hcat_code": ["33010100"] * len(columns),
        },
        geometry=[shapely.box(EAST + 100 * c, NORTH, EAST + 100 * c + 100, NORTH + 100) for c in columns],
        crs="EPSG:32631",
    )


Store = Callable[..., ImportReport]


@pytest.fixture
def store(connection: sa.Connection, season: Season, tmp_path: Path) -> Store:
    def store_(frame: gpd.GeoDataFrame, recorded_at: datetime, season_: Season = season) -> ImportReport:
        path = tmp_path / f"{recorded_at:%m}-{season_.name}.gpkg"
        frame.to_file(path)
        return import_parcels(connection, path, "sim", season_, SIMULATOR, recorded_at)

    return store_


@pytest.mark.parametrize(
    ("file", "agency", "parcels", "reasons", "first"),
    [
        (
            "be_vlg_2023_gpkg.zip",
            "be_vlg",
            100,
            {"too_small": 23, "too_narrow": 4},
            ("487348814", "Za", "Sorghum", 2.0552),
        ),
        (
            "ch_nutzungsflaechen_2023.gpkg",
            "ch",
            100,
            {"too_small": 6, "too_narrow": 1},
            ("GE_2023_14917", "GE", "Sommergerste", 1.0291),
        ),
        (
            "fi_gsaa.gpkg",
            "fi",
            100,
            {"too_small": 11, "too_narrow": 2},
            ("0040000372-1", "lpis", "Luonnonhoitonurmi", 0.24),
        ),
        (
            "dk_2024_fiboa.parquet",
            "fiboa",
            100,
            {"duplicate_id": 7, "too_small": 7, "too_narrow": 1},
            ("25-0", "DK", "Permanent græs, normalt udbytte", 6.38),
        ),
    ],
)
def test_an_agencys_file(
    file: str,
    agency: str,
    parcels: int,
    reasons: dict[str, int],
    first: tuple[str, str, str, float],
    connection: sa.Connection,
    season: Season,
    data_dir: Callable[[str], Path],
) -> None:
    path = data_dir("parcels-lpis") / file
    report = import_parcels(connection, path, "lpis", season, ImportOptions(), MARCH)
    assert report.recognised_as == agency
    assert report.found.parcels == report.changed.new == parcels
    assert report.found.not_monitorable == reasons
    assert report.found.monitorable == parcels - sum(reasons.values())
    stored = load_parcels(connection, "2023", "lpis")
    source_id, region, crop, area_ha = first
    (parcel,) = [parcel for parcel in stored if parcel.source_id == source_id]
    assert (parcel.region, parcel.crop_name) == (region, crop)
    # The agency's own area: on its national grid, which stretches by up to 4 in 10,000, and rounded.
    assert parcel.area_ha == pytest.approx(area_ha, rel=1e-3, abs=0.011)
    again = import_parcels(connection, path, "lpis", season, ImportOptions(), JUNE)
    assert again.found == report.found
    assert again.changed.unchanged == parcels
    assert again.changed.declarations == 0


def test_the_dutch_parcels(connection: sa.Connection, season: Season, data_dir: Callable[[str], Path]) -> None:
    path = data_dir("nl-noordoostpolder-2023") / "parcels.geojson"
    report = import_parcels(connection, path, "nl-brp", season, ImportOptions(region="noordoostpolder"), MARCH)
    assert report.recognised_as == "nl_brp"
    assert report.found.parcels == report.changed.new == report.changed.declarations == 1236
    stored = load_parcels(connection, "2023")
    assert sum(parcel.area_ha is not None and parcel.area_ha >= 0.3 for parcel in stored) == 533
    assert {parcel.region for parcel in stored} == {"noordoostpolder"}
    assert all(5.6 < (parcel.lon or 0) < 5.8 and 52.6 < (parcel.lat or 0) < 52.8 for parcel in stored)


def test_the_same_file_again_changes_nothing(store: Store, connection: sa.Connection) -> None:
    frame = fields([0, 1, 2], ["wheat", "maize", None])
    first, again = store(frame, MARCH), store(frame, JUNE)
    assert (first.changed.new, first.changed.declarations, first.found.undeclared) == (3, 2, 1)
    assert (again.changed.new, again.changed.unchanged, again.changed.declarations) == (0, 3, 0)
    assert connection.execute(sa.text("select count(*), max(recorded_at) from parcels")).one() == (3, MARCH)


def test_an_amended_declaration_is_added_and_known_from_then_on(store: Store, connection: sa.Connection) -> None:
    store(fields([0, 1], ["wheat", "maize"]), MARCH)
    report = store(fields([0, 1], ["wheat", "beet"]), JUNE)
    assert (report.changed.declarations, report.changed.amended_declarations, report.changed.unchanged) == (1, 1, 2)
    crops = {
        at: [parcel.crop_code for parcel in load_parcels(connection, "2023", as_known_at=at)] for at in (MARCH, JUNE)
    }
    assert crops == {MARCH: ["wheat", "maize"], JUNE: ["wheat", "beet"]}
    assert [parcel.crop_code for parcel in load_parcels(connection, "2023")] == ["wheat", "beet"]
    before = load_parcels(connection, "2023", as_known_at=datetime(2023, 2, 1, tzinfo=UTC))
    assert [parcel.crop_code for parcel in before] == [None, None]


def test_columns_of_parcels_are_those_of_their_rows_in_the_order_that_is_asked(
    store: Store, connection: sa.Connection, season: Season
) -> None:
    store(fields([0, 1, 2], ["wheat", "oats", "maize"]), MARCH)
    store(fields([0, 1, 2], ["wheat", "beet", "maize"]), JUNE)
    connection.execute(sa.text("update parcels set perimeter_m = null where source_id = 'p0'"))
    connection.execute(
        sa.text(
            "delete from declarations using parcels p where declarations.parcel_key = p.parcel_key and source_id = 'p2'"
        )
    )
    rows = load_parcels(connection, season)[::-1]
    found = declared_parcels(connection, np.array([row.parcel_key for row in rows]))
    assert list(found.crop_code) == [row.crop_code for row in rows]
    assert found.crop_code[0] is None
    assert list(found.hcat_code) == [row.hcat_code for row in rows]
    assert list(found.region) == [row.region for row in rows]
    for name in ("perimeter_m", "area_ha", "bbox_fill"):
        given = [np.nan if (value := getattr(row, name)) is None else value for row in rows]
        np.testing.assert_array_equal(getattr(found, name), given)
    assert np.isnan(found.perimeter_m[2])


def test_an_amended_outline_replaces_the_old_one_and_is_told(store: Store, connection: sa.Connection) -> None:
    store(fields([0, 1], ["wheat", "maize"]), MARCH)
    report = store(fields([0, 1.6], ["wheat", "maize"]), JUNE)
    assert (report.changed.amended_geometry, report.changed.unchanged, report.changed.new) == (1, 1, 0)
    _, parcel = load_parcels(connection, "2023")
    moved = shapely.from_wkb(geometry(connection, [parcel.parcel_key])[parcel.parcel_key])
    assert shapely.get_x(shapely.centroid(moved)) == pytest.approx(parcel.lon)


def test_an_outline_that_leaves_its_place_is_another_field(store: Store, connection: sa.Connection) -> None:
    store(fields([0, 1, 5], ["wheat", "maize", "beet"]), MARCH)
    before = geometry(connection, [parcel.parcel_key for parcel in load_parcels(connection, "2023")])
    # p0 next to its place, p1 overlapping its place by a sliver as neighbours drawn twice do, p2 far away.
    report = store(fields([-1, 1.98, 9], ["oats", "oats", "oats"]), JUNE)
    assert report.changed.moved_away == ("p0", "p1", "p2")
    assert (report.changed.amended_geometry, report.changed.unchanged, report.changed.declarations) == (0, 0, 0)
    assert "3 parcels lie elsewhere than the parcel stored under their id" in report.remarks[0]
    after = load_parcels(connection, "2023")
    assert geometry(connection, [parcel.parcel_key for parcel in after]) == before
    assert [parcel.crop_code for parcel in after] == ["wheat", "maize", "beet"]
    assert store(fields([0, 1, 5], ["wheat", "maize", "beet"]), JULY).changed.unchanged == 3


def test_what_was_found_of_amended_parcels_is_found_anew(store: Store, connection: sa.Connection) -> None:
    store(fields([0, 1, 5], ["wheat", "maize", "beet"]), MARCH)
    assert connection.execute(sa.text("select count(*) from pending_work")).scalar_one() == 0
    store(fields([0.2, 1.2, 5], ["wheat", "maize", "oats"]), JUNE)
    marked = connection.execute(
        sa.text("select source_id, task from pending_work join parcels using (parcel_key) order by 1")
    ).all()
    assert [tuple(row) for row in marked] == [("p0", "classifier"), ("p1", "classifier"), ("p2", "classifier")]


def test_a_verdict_may_change_without_the_outline(store: Store, connection: sa.Connection) -> None:
    store(fields([0, 1], ["wheat", "maize"]), MARCH)
    report = store(fields([0, 1, 0.5], ["wheat", "maize", "beet"]), JUNE)
    assert report.found.not_monitorable == {"overlaps_other": 3}
    assert (report.changed.reassessed, report.changed.amended_geometry, report.changed.new) == (2, 0, 1)
    assert [parcel.is_monitorable for parcel in load_parcels(connection, "2023")] == [False] * 3


def test_parcels_missing_from_a_new_file_are_told_and_stay(store: Store, connection: sa.Connection) -> None:
    store(fields([0, 1], ["wheat", "maize"]), MARCH)
    assert store(fields([0], ["wheat"]), JUNE).changed.missing == ("p1",)
    assert len(load_parcels(connection, "2023")) == 2


def test_broken_parcels_are_kept_with_the_reason(store: Store, connection: sa.Connection) -> None:
    frame = fields([0, 1, 2, 3, 3, 5, 5.5], ["a"] * 7, ids=["a", "b", "c", "d", "e", "f", "f"])
    bow_tie = [(EAST + 100, NORTH), (EAST + 200, NORTH + 100), (EAST + 200, NORTH), (EAST + 100, NORTH + 100)]
    frame.loc[1, "geometry"] = shapely.Polygon(bow_tie)
    frame.loc[2, "geometry"] = None
    report = store(frame, MARCH)
    assert report.found.repaired == 1
    assert report.found.shared_ids == 1
    reasons = {parcel.source_id: parcel.not_monitorable_reason for parcel in load_parcels(connection, "2023")}
    assert reasons == {
        "a": None,
        "b": None,
        "c": "no_geometry",
        "d": None,
        "e": "duplicate_geometry",
        "f": "overlaps_other",
        "f#2": "duplicate_id",
    }
    assert sum(report.found.not_monitorable.values()) + report.found.monitorable == report.found.parcels == 7


def test_lineage_leads_to_the_fields_of_last_season(store: Store, connection: sa.Connection, season: Season) -> None:
    last = ensure_season(connection, "2022", date(2022, 1, 1), date(2022, 12, 31))
    assert store(fields([0, 1, 2], ["a"] * 3, ids=["x", "y", "z"]), MARCH, last).earlier_season is None
    # The first as it was, the second now over parts of y and z, the third new.
    report = store(fields([0, 1.75, 9], ["a"] * 3), JUNE)
    assert (report.earlier_season, report.lineage) == ("2022", 3)
    links = connection.execute(
        sa.text("""
            select here.source_id, before.source_id, round(area_share::numeric, 2)::float from parcel_lineage
            join parcels here using (parcel_key) join parcels before on before.parcel_key = predecessor_key
            order by 1, 2""")
    ).all()
    assert [tuple(link) for link in links] == [("p0", "x", 1.0), ("p1", "y", 0.25), ("p1", "z", 0.75)]
    assert store(fields([0, 1.75, 9], ["a"] * 3), JULY).lineage == 3
    assert previous_season(connection, "sim", season) == last
    assert previous_season(connection, "another", season) is None


def test_reads(store: Store, connection: sa.Connection, season: Season) -> None:
    store(fields([0, 1, 2], ["wheat", "wheat", "maize"]), MARCH)
    every = load_parcels(connection, season)
    assert [parcel.source_id for parcel in every] == ["p0", "p1", "p2"]
    assert load_parcels(connection, season, keys=[every[1].parcel_key]) == [every[1]]
    assert load_parcels(connection, season, "another") == []
    assert load_parcels(connection, season, keys=[]) == []
    counts = [(count.region, count.crop_name, count.parcels) for count in count_parcels(connection, season)]
    assert counts == [("north", "maize", 1), ("north", "wheat", 1), ("south", "wheat", 1)]
    assert ensure_region(connection, "north") == ensure_region(connection, "north")


def test_seasons_keep_their_dates(connection: sa.Connection, season: Season) -> None:
    assert (
        ensure_season(connection, "2023", season.starts_on, season.ends_on)
        == season
        == season_by_name(connection, "2023")
    )
    with pytest.raises(SeasonDiffers, match="stored as 2023-01-01 to 2023-12-31, not 2022-09-01 to 2023-08-31"):
        ensure_season(connection, "2023", date(2022, 9, 1), date(2023, 8, 31))
    with pytest.raises(UnknownSeason, match="'2031' is not stored; stored: 2023"):
        season_by_name(connection, "2031")


def test_a_season_is_widened_but_never_narrowed(connection: sa.Connection, season: Season) -> None:
    widened = widen_season(connection, "2023", date(2022, 9, 1), date(2024, 2, 1))
    assert (
        widened
        == season_by_name(connection, "2023")
        == Season(season.season_key, "2023", date(2022, 9, 1), date(2024, 2, 1))
    )
    assert widen_season(connection, "2023", None, None) == widened
    with pytest.raises(SeasonDiffers, match="it can be widened, but not to 2022-09-01 to 2023-12-31"):
        widen_season(connection, "2023", None, date(2023, 12, 31))
    connection.execute(
        sa.text("""
            with model as (insert into models (model_id, task, config, metrics, trained_on, description, weights, recorded_at)
                           values ('m', 'classifier', '{}', '{}', '{}', '', '', now()) returning model_key)
            insert into model_activations (season_key, collection, task, recorded_at, model_key)
            select :season_key, 'sim', 'classifier', now(), model_key from model"""),
        {"season_key": season.season_key},
    )
    with pytest.raises(SeasonDiffers, match="counts days from 2022-09-01, so it cannot begin earlier"):
        widen_season(connection, "2023", date(2022, 8, 1), None)
    assert widen_season(connection, "2023", None, date(2024, 3, 1)).ends_on == date(2024, 3, 1)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def parcels(dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `parcelwatch parcels ...`: exit code, output, error output."""
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["parcelwatch", "parcels", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as ended:
            parcelwatch.main()
        return ended.value.code or 0, *capsys.readouterr()  # type: ignore[return-value]

    return run


def test_import_and_list_from_the_command_line(parcels: Run, tmp_path: Path) -> None:
    path = tmp_path / "fields.geojson"
    fields([0, 1], ["wheat", "maize"]).to_crs(4326).to_file(path)
    where = ("--collection", "sim", "--season", "2024")
    code, out, _ = parcels("import", path, *where, "--json")
    assert code == 0
    report = json.loads(out)
    assert (report["recognised_as"], report["changed"]["new"], report["found"]["monitorable"]) == ("simulator", 2, 2)
    code, out, _ = parcels("import", path, *where)
    assert code == 0
    assert "unchanged" in out
    code, out, _ = parcels("list", "--season", "2024", "--json")
    assert json.loads(out)["declared crop"].keys() == {"wheat", "maize"}
    code, out, _ = parcels("list", "--season", "2024")
    assert (code, "maize" in out) == (0, True)


def test_columns_may_be_given_one_by_one(parcels: Run, tmp_path: Path) -> None:
    path = tmp_path / "fields.gpkg"
    frame = fields([0, 1], ["wheat", "maize"]).rename(columns={"parcel_id": "nr", "crop_name": "kultur"})
    frame.to_file(path)
    where = ("--collection", "c", "--season", "2024")
    code, _, error = parcels("import", path, *where)
    assert (code, error.count("\n")) == (1, 1)
    assert "of no known agency; say --agency or --id-column. It has: nr, region, crop_code, kultur, hcat_code" in error
    code, out, _ = parcels(
        "import",
        path,
        *where,
        "--id-column",
        "nr",
        "--crop-name-column",
        "kultur",
        "--region",
        "r",
        "--declared-at",
        "2024-05-15",
        "--json",
    )
    assert (code, json.loads(out)["changed"]["declarations"]) == (0, 2)


def test_a_database_without_schema_ends_with_one_line(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch, parcels: Run
) -> None:
    monkeypatch.setenv("PARCELWATCH_DSN", empty_dsn)
    code, _, error = parcels("list", "--season", "2024")
    assert (code, error.count("\n")) == (1, 1)
    assert "the database has no schema" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--id-column", "nr"], "no column nr; there are: parcel_id, region"),
        (["--agency", "atlantis"], "agency atlantis: neither a readable TOML file nor one of"),
        (["--layer", "x"], "no layer x; there are: fields"),
        (["--earlier-season", "1999"], "season '1999' is not stored"),
        (["--season", "winter"], "season 'winter' is new: say --starts-on and --ends-on"),
        (["--starts-on", "2024-01-01"], "--starts-on and --ends-on belong together"),
        (["--starts-on", "2024-01-01", "--ends-on", "2023-01-01"], "--ends-on must be after --starts-on"),
    ],
)
def test_a_wrong_option_ends_with_one_line(
    options: list[str], message: str, parcels: Run, dsn: str, tmp_path: Path
) -> None:
    path = tmp_path / "fields.gpkg"
    fields([0, 1], ["wheat", "maize"]).to_file(path)
    code, _, error = parcels("import", path, "--collection", "c", "--season", "2024", *options)
    assert (code, error.count("\n")) == (1, 1)
    assert message in error
    with engine(dsn).begin() as connection:  # nothing was written
        assert connection.execute(sa.text("select count(*) from parcels")).scalar_one() == 0


def test_a_file_that_hides_its_system_needs_one(parcels: Run, tmp_path: Path) -> None:
    path = tmp_path / "fields.shp"
    fields([0, 1], ["wheat", "maize"]).to_file(path)
    path.with_suffix(".prj").unlink()
    arguments = ("import", path, "--collection", "c", "--season", "2024", "--id-column", "parcel_id", "--json")
    code, _, error = parcels(*arguments)
    assert (code, "give it as in --crs EPSG:25832" in error) == (1, True)
    code, _, error = parcels(*arguments, "--crs", "EPSG:nowhere")
    assert (code, "--crs EPSG:nowhere: not a coordinate system" in error) == (1, True)
    code, out, _ = parcels(*arguments, "--crs", "EPSG:32631")
    assert (code, json.loads(out)["found"]["monitorable"]) == (0, 2)


def test_an_agency_file_with_a_slip_is_told(parcels: Run, tmp_path: Path) -> None:
    path = tmp_path / "fields.gpkg"
    fields([0], ["wheat"]).to_file(path)
    for text, message in (
        (
            'title = "x"\nid = ["parcel_id"]\ncrop = "crop_code"',
            "crop: Extra inputs are not permitted; keys: id, crop_code",
        ),
        ("title =", "not TOML"),
        ('title = "x"', "id: Field required"),
    ):
        (tmp_path / "agency.toml").write_text(text)
        code, _, error = parcels(
            "import", path, "--collection", "c", "--season", "2024", "--agency", tmp_path / "agency.toml"
        )
        assert (code, message in error) == (1, True), error
