"""Exports: what is in the files, for whom, and that `parcels import` takes them again."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyogrio
import pytest
import shapely
from pyarrow import parquet
from typer.testing import CliRunner

import parcelwatch
from db import exports

RULE_LIGHTS = {"light_early_loss": "red", "light_flooding": "not_executed"}


@pytest.fixture
def dsn(filled_dsn: str) -> str:
    """A store with two regions."""
    return filled_dsn


@pytest.fixture
def store(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[psycopg.Connection[Any]]:
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def _run(*arguments: object) -> Any:
    return CliRunner().invoke(parcelwatch.app, [str(one) for one in arguments])


def _export(path: Path, *more: str) -> Path:
    done = _run("export", path, "--season", "2025", "--collection", "nl", *more)
    assert done.exit_code == 0, done.output + str(done.exception)
    return path


@pytest.mark.usefixtures("store")
def test_the_three_forms_say_the_same(tmp_path: Path) -> None:
    of_parquet = parquet.read_table(_export(tmp_path / "all.parquet"))
    rows = of_parquet.to_pylist()
    assert [row["id"] for row in rows] == ["north-1", "south-1"]
    first = rows[0]
    assert first | RULE_LIGHTS == first
    assert (first["light"], first["crop:name"], first["region"], first["metrics:area"]) == (
        "red",
        "maize",
        "north",
        20_000,
    )
    assert (first["likeliest_crop"], first["likeliest_crop_probability"], first["open_alerts"]) == ("corn", 0.75, 1)
    assert first["alerts"] == "1 early_loss red open since 2025-05-20"

    meta, layer = pyogrio.read_arrow(_export(tmp_path / "all.gpkg"))
    assert (meta["crs"], meta["geometry_type"]) == ("EPSG:4326", "MultiPolygon")
    plain = [name for name in of_parquet.column_names if not pa.types.is_timestamp(of_parquet.schema.field(name).type)]
    layer = layer.rename_columns(
        [name.replace(meta["geometry_name"] or "wkb_geometry", "geometry") for name in layer.column_names]
    )
    assert layer.select(plain).to_pylist() == of_parquet.select(plain).to_pylist()

    text = list(csv.DictReader(io.StringIO(_export(tmp_path / "all.csv").read_text(encoding="utf-8"))))
    assert list(text[0]) == of_parquet.column_names
    assert [(row["id"], row["light"], row["observed_to"]) for row in text] == [
        ("north-1", "red", "2025-05-31T00:00:00.000000Z"),
        ("south-1", "red", "2025-05-31T00:00:00.000000Z"),
    ]
    assert shapely.from_wkt(text[0]["geometry"]).equals(shapely.from_wkb(first["geometry"]))


@pytest.mark.usefixtures("store")
def test_the_parquet_file_says_what_it_is(tmp_path: Path) -> None:
    metadata = parquet.read_schema(_export(tmp_path / "all.parquet")).metadata
    geo, collection = json.loads(metadata[b"geo"]), json.loads(metadata[b"collection"])
    assert (geo["version"], geo["columns"]["geometry"]["encoding"]) == ("1.1.0", "WKB")
    assert "https://fiboa.org/specification/v0.3.0/schema.yaml" in collection["schemas"]["nl"]


@pytest.mark.parametrize("kind", ["parquet", "gpkg"])
def test_an_import_takes_an_export_again_and_changes_nothing(
    store: psycopg.Connection[Any], tmp_path: Path, kind: str
) -> None:
    store.execute(
        "update parcels set geom = ST_Multi(ST_Buffer(ST_Point(5 + parcel_key, 52, 4326)::geography, 80)::geometry)"
    )
    store.execute(
        "insert into declarations select parcel_key, '2025-04-01', '2025-04-01', '2', 'wheat', '3301010000' from parcels"
    )
    said = []
    for nr in range(2):  # the first measures outlines that no import has
        path = _export(tmp_path / f"{nr}.{kind}")
        done = _run("parcels", "import", path, "--season", "2025", "--collection", "nl", "--json")
        assert done.exit_code == 0, done.output
        said.append(json.loads(done.stdout))
    assert [one["recognised_as"] for one in said] == ["parcelwatch"] * 2
    assert [one["found"]["monitorable"] for one in said] == [2, 2]
    assert (said[1]["changed"]["unchanged"], said[0]["changed"]["declarations"]) == (2, 0)
    assert {row["region"] for row in parquet.read_table(_export(tmp_path / "last.parquet")).to_pylist()} == {
        "north",
        "south",
    }


def test_an_export_of_a_region_or_of_an_earlier_time(store: psycopg.Connection[Any], tmp_path: Path) -> None:
    north = parquet.read_table(_export(tmp_path / "a.parquet", "--region", "north"))
    assert north["id"].to_pylist() == ["north-1"]
    before = parquet.read_table(_export(tmp_path / "b.parquet", "--as-known-at", "2025-05-01")).to_pylist()[0]
    assert (
        before["light"],
        before["crop:name"],
        before["likeliest_crop"],
        before["alerts"],
        before["open_alerts"],
    ) == ("not_executed", "maize", None, None, 0)
    store.execute("update alerts set state = 'closed', closed_at = '2025-07-01' where parcel_key = 1")
    closed, open_ = (
        parquet.read_table(_export(tmp_path / "c.parquet", "--as-known-at", day))["open_alerts"][0].as_py()
        for day in ("2025-07-02", "2025-06-30")
    )
    assert (closed, open_) == (0, 1)


def test_lights_are_those_of_rounds(store: psycopg.Connection[Any], tmp_path: Path) -> None:
    """Of every outcome and alert's state; of a rule that is none of today's too."""
    for nr, (outcome, colour, evidence) in enumerate(
        [("NOT_VALID", None, "{}"), ("OK", "yellow", '{"suppressed": {"until": "2025-08-01"}}'), ("OK", "green", "{}")]
    ):
        store.execute(
            """insert into findings (parcel_key, rule, recorded_at, rule_version, outcome, colour, evidence)
               select parcel_key, (array['early_loss', 'flooding', 'of_before'])[%s], '2025-06-03', '3', %s, %s, %s from parcels""",
            [nr + 1, outcome, colour, evidence],
        )
    store.execute(
        """insert into alert_events (alert_key, recorded_at, event, colour, confidence, departed_on, evidence)
           select alert_key, '2025-06-04', 'dismissed', 'red', 0.9, '2025-05-20', '{}' from alerts where parcel_key = 2"""
    )
    expected = store.execute(
        "select parcel_key, rule, light::text from lights_known('nl', '2025') order by 1, 2"
    ).fetchall()
    rows = parquet.read_table(_export(tmp_path / "all.parquet")).to_pylist()
    found = [
        (nr, rule, row.get(f"light_{rule}") or dict([row["other_lights"].split(" ")])[rule])
        for nr, row in enumerate(rows, 1)
        for rule in ("early_loss", "flooding", "of_before")
    ]
    assert found == expected
    assert [row["light"] for row in rows] == ["red", "suppressed"]


def test_a_spreadsheet_takes_no_cell_for_a_formula(store: psycopg.Connection[Any], tmp_path: Path) -> None:
    store.execute("update declarations set crop_name = E'=cmd|x!A1,\"y\"\\n;@b', crop_code = '\t+1'")
    rows = list(csv.DictReader(io.StringIO(_export(tmp_path / "all.csv").read_text(encoding="utf-8"))))
    assert (rows[0]["crop:name"], rows[0]["crop:code"]) == ("'=cmd|x!A1,\"y\" ;'@b", " '+1")


@pytest.mark.usefixtures("store")
def test_what_cannot_be_exported_is_said_in_a_line_and_leaves_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "old.csv"
    kept.write_text("old")
    for name, more, said in (
        ("x.shp", (), "ends with none of .gpkg, .parquet, .csv"),
        ("old.csv", ("--region", "nowhere"), "no parcel of collection 'nl' in season '2025', region 'nowhere',"),
        ("old.csv", ("--as-known-at", "2020-01-01"), "is stored by 2020-01-01 00:00 UTC"),
        ("old.csv", ("--as-known-at", "2120-01-01"), "lies ahead"),
        ("none/x.csv", (), "cannot be written"),
        ("none/x.gpkg", (), "cannot be written"),
    ):
        done = _run("export", tmp_path / name, "--season", "2025", "--collection", "nl", *more)
        assert done.exit_code != 0
        assert said in " ".join((done.output + str(done.exception)).split())
    assert kept.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["old.csv"]


def test_all_pages_are_of_one_moment(
    store: psycopg.Connection[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decision, a new parcel and a new declaration between two pages are in none of them."""
    monkeypatch.setattr(exports, "PAGE", 1)
    of_pages = exports.pages

    def interrupted(*arguments: Any) -> Iterator[Any]:
        for page in of_pages(*arguments):
            yield page
            store.execute("update alerts set state = 'closed', closed_at = now()")
            store.execute("update parcels set source_id = 'z' where source_id = 'south-1'")

    monkeypatch.setattr(exports, "pages", interrupted)
    rows = parquet.read_table(_export(tmp_path / "all.parquet")).to_pylist()
    assert [(row["id"], row["open_alerts"]) for row in rows] == [("north-1", 1), ("south-1", 1)]
