"""Drawn fields beside declared parcels, through the chain: a marker that newer fields supersede, and an alert that opens and closes."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import psycopg
import pyarrow as pa
import pyproj
import pytest
import shapely

from db.connect import engine
from db.parcel_import import ParcelRow, upsert_parcels
from db.seasons import season_by_name
from ingest.delineation.compare import NotCompared, Report, compare_fields
from ingest.delineation.files import SCHEMA, write
from models.segmentation.boundaries import Bounds
from tests.integration.test_delineate import scenes
from tests.integration.test_policies import POLICY, lights, on, poll, run, season
from tests.made_scenes import GRID, START

__all__ = ["run", "scenes", "season"]  # fixtures
Run = Callable[..., Any]
Box = tuple[float, float, float, float]
CRS, LEFT, TOP = "EPSG:32631", 500_000.0, 5_700_000.0
DECLARED: dict[str, Box] = {
    "apart": (0, 0, 400, 200),
    "east": (400, 0, 600, 200),
    "west": (600, 0, 800, 200),
    "as_declared": (0, 200, 200, 400),
    "unseen": (300, 300, 500, 500),
    "beyond": (700, 300, 900, 500),
}
EDGE = [(400, 0, 630, 200), (630, 0, 800, 200), (0, 200, 200, 400), (600, 500, 800, 600)]
FIRST = [(0, 0, 240, 200), (240, 0, 400, 200), *EDGE]
LATER = [(0, 0, 400, 200), *EDGE]


def placed(box: Box) -> Any:
    return shapely.transform(shapely.box(*box), lambda xy: xy + np.array([LEFT, TOP]))


def declare(dsn: str, declared: dict[str, Box], day: int) -> None:
    degrees = pyproj.Transformer.from_crs(CRS, 4326, always_xy=True)
    rows = []
    for name, box in declared.items():
        outline = shapely.transform(placed(box), lambda xy: np.stack(degrees.transform(*xy.T), axis=1))
        rows.append(ParcelRow(name, "r", outline.wkb, 4.0, 800.0, 1.0, None, "265", "grass"))
    with engine(dsn).begin() as connection:
        upsert_parcels(connection, "declared", season_by_name(connection, "2025"), rows, on(day), on(day))


def drawn(file: Path, boxes: Iterable[Box], day: int, confidence: float = 0.7) -> Path:
    rows = [
        {"id": str(nr), "geometry": shapely.multipolygons([placed(box)]).wkb, "delineation:confidence": confidence}
        | {"determination:datetime": on(day)}
        for nr, box in enumerate(boxes)
    ]
    write(file, [pa.RecordBatch.from_pylist(rows, SCHEMA)], CRS, "drawn")
    return file


def compared(dsn: str, file: Path, day: int) -> Report:
    with engine(dsn).begin() as connection:
        stored = season_by_name(connection, "2025")
        return compare_fields(connection, file, "declared", stored, Bounds(), on(day))


def rows(dsn: str, query: str, *values: Any) -> list[Any]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(query, values).fetchall()


def test_imagery_becomes_an_alert_of_two_fields_declared_as_one(
    dsn: str, run: Run, scenes: Path, tmp_path: Path
) -> None:
    """Sixteen fields of 160 m, of which the sixth and seventh are declared as one."""
    year = str(START.year)
    a, _, left, _, e, top = GRID.transform
    squares = {
        str(nr + 1): (
            left + a * 16 * (nr % 4),
            top + e * 16 * (nr // 4 + 1),
            left + a * 16 * (nr % 4 + 1),
            top + e * 16 * (nr // 4),
        )
        for nr in range(16)
    }
    first, second = squares.pop("6"), squares.pop("7")
    squares["6 and 7"] = (*first[:2], *second[2:])
    made = gpd.GeoDataFrame(
        {"id": list(squares)}, geometry=[shapely.box(*one) for one in squares.values()], crs=GRID.crs
    )
    made.to_file(tmp_path / "declared.gpkg")
    fields, policy = tmp_path / "fields.parquet", tmp_path / "p.toml"
    policy.write_text(POLICY.replace("2025", year))
    where = ("--collection", "declared", "--season", year)
    run("parcels", "import", str(tmp_path / "declared.gpkg"), *where, "--id-column", "id")
    run("policy", "activate", str(policy), "--season", year, "--collection", "declared", "--why", "spring")
    run("delineate", str(scenes), "--out", str(fields), "--window", "48", "--overlap", "16")
    said = json.loads(run("parcels", "compare", str(fields), *where, "--json").output)
    assert said["parcels"]["farmed_apart"] == 1
    poll(dsn, 700)
    (listed,) = map(json.loads, run("alerts", "--rule", "boundaries", "--json").output.splitlines())
    assert (listed["source_id"], listed["colour"]) == ("6 and 7", "yellow")
    assert "drawn as 2 fields" in " ".join(run("alerts", "show", str(listed["alert_key"])).output.split())


@pytest.fixture
def watched(dsn: str, run: Run, tmp_path: Path) -> str:
    """Return a store whose declared parcels are asked what a policy asks."""
    declare(dsn, DECLARED, 10)
    file = tmp_path / "p.toml"
    file.write_text(POLICY)
    run("policy", "activate", str(file), "--season", "2025", "--collection", "declared", "--why", "spring")
    poll(dsn, 20)
    return dsn


def test_fields_become_an_alert_and_newer_ones_supersede_them(watched: str, run: Run, tmp_path: Path) -> None:
    assert lights(watched, "boundaries") == {}, "nothing was compared"
    first = drawn(tmp_path / "first.parquet", FIRST, 95)
    kinds = {"farmed_apart": 1, "moved": 2, "as_declared": 1, "inconclusive": 1}
    assert compared(watched, first, 100) == Report(6, kinds, 5)
    assert compared(watched, first, 101) == Report(6, kinds, 0), "the same again says nothing new"
    poll(watched, 102)
    found = {"apart": "yellow", "east": "yellow", "west": "yellow", "as_declared": "green", "unseen": "NOT_VALID"}
    assert lights(watched, "boundaries") == found
    listed = [json.loads(line) for line in run("alerts", "--rule", "boundaries", "--json").output.splitlines()]
    assert {one["source_id"] for one in listed} == {"apart", "east", "west"}
    words = {one["source_id"]: " ".join(run("alerts", "show", str(one["alert_key"])).output.split()) for one in listed}
    assert "drawn as 2 fields: 4.8 ha (60%), confidence 70%; 3.2 ha (40%)" in words["apart"]
    assert "its field takes in 0.6 ha in the east, 30 m wide, of parcel west" in words["east"]
    assert "0.6 ha in the west, 30 m wide, lie in a field of parcel east" in words["west"]

    compared(watched, drawn(tmp_path / "later.gpkg", LATER, 150), 152)
    poll(watched, 153)
    assert lights(watched, "boundaries") == found | {"apart": "green"}
    closed = "select source_id, departed_on::text from alerts join parcels using (parcel_key) where closed_at is {} null order by 1"
    assert rows(watched, closed.format("not")) == [("apart", "2025-04-06")]
    assert rows(watched, closed.format("")) == [("east", "2025-04-06"), ("west", "2025-04-06")], (
        "since it was first drawn so"
    )
    known = """select value from parcels, markers_known(parcel_key, %s) where source_id = 'apart' and marker = 'boundaries'"""
    assert [rows(watched, known, on(day)) for day in (99, 110, 160)] == [[], [(pytest.approx(3.2),)], [(0.0,)]]
    tried = run(
        "policy",
        "try",
        str(tmp_path / "p.toml"),
        "--season",
        "2025",
        "--collection",
        "declared",
        "--every",
        "50",
        "--json",
    )
    lines = [one for one in map(json.loads, tried.output.splitlines()) if one.get("rule") == "boundaries"]
    by_policy = {
        policy: {one["day"]: one["lights"]["yellow"] for one in lines if one["policy"] == policy}
        for policy in ("tried", "in force")
    }
    assert by_policy["tried"].items() >= by_policy["in force"].items()
    assert {2, 3} <= set(by_policy["in force"].values())


def test_what_was_compared_with_another_outline_counts_no_more(watched: str, tmp_path: Path) -> None:
    compared(watched, drawn(tmp_path / "fields.parquet", FIRST, 95), 100)
    poll(watched, 102)
    declare(watched, {"east": (400, 0, 630, 200), "west": (630, 0, 800, 200)}, 110)
    poll(watched, 111)
    found = lights(watched, "boundaries")
    assert (found["east"], found["west"], found["apart"]) == ("NOT_VALID", "NOT_VALID", "yellow")
    compared(watched, drawn(tmp_path / "fields.parquet", FIRST, 95), 120)
    poll(watched, 121)
    assert lights(watched, "boundaries")["east"] == "green"
    assert rows(watched, "select count(*) from alerts where closed_at is null") == [(1,)]


@pytest.mark.usefixtures("watched")
def test_what_cannot_be_compared_is_said_in_one_line(run: Run, tmp_path: Path) -> None:
    command = ("parcels", "compare", "--season", "2025")
    file = drawn(tmp_path / "fields.parquet", FIRST, 95)
    said = json.loads(run(*command, str(file), "--collection", "declared", "--json").output)
    assert (said["fields"], said["changed"]) == (6, 5)
    assert "farmed apart" in run(*command, str(file), "--collection", "declared").output
    with pytest.raises(NotCompared, match="no parcel of test, season 2025, lies among its fields"):
        run(*command, str(file), "--collection", "test")
    with pytest.raises(NotCompared, match="fields of 2026-"):
        run(*command, str(drawn(file, FIRST, 500)), "--collection", "declared")
    degrees = tmp_path / "degrees.geojson"
    degrees.write_text(shapely.to_geojson(shapely.box(3, 51, 3.01, 51.01)))
    with pytest.raises(NotCompared, match="not in a system of metres"):
        run(*command, str(degrees), "--collection", "declared")
