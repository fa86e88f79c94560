"""Vector tiles and what goes with them: contents as known at a time, whose they are, and how they are found."""

import gzip
import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest
import shapely
from fastapi.testclient import TestClient
from psycopg.conninfo import make_conninfo

from db.connect import bounded_engine
from tests.filled_store import fill
from tests.mapped import features
from tests.web_server import bearer, take_as_long
from web.app import create_app
from web.settings import WebSettings

Store = psycopg.Connection[tuple[Any, ...]]
Get = Callable[..., Any]
HERE = "12/2104/1352"
"""The tile of the parcels of the filled store."""
ELSEWHERE = "12/2161/1352"
HOSTILE = "<img src=x onerror=alert(1)>'\"; drop table parcels --\u202e"


@pytest.fixture
def dsn(filled_dsn: str) -> str:
    """A store with two regions."""
    return filled_dsn


@pytest.fixture
def store(dsn: str) -> Iterator[Store]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("update recording set clock = 'database'")
        yield connection


@pytest.fixture
def app(dsn: str, store: Store) -> Iterator[TestClient]:  # noqa: ARG001, it is filled first
    made = bounded_engine(dsn, 4, 30.0)
    with TestClient(
        create_app(made, WebSettings(requests_per_minute=100_000)), raise_server_exceptions=False
    ) as opened:
        yield opened
    made.dispose()


@pytest.fixture
def reader(dsn: str, app: TestClient) -> Get:
    headers = bearer(dsn, "rita", "reader")
    return lambda path, **more: app.get(path, headers=headers | more.pop("headers", {}), **more)


@pytest.fixture
def inspector(dsn: str, app: TestClient) -> Get:
    """One who sees the north."""
    headers = bearer(dsn, "anna", "inspector", "north")
    return lambda path, **more: app.get(path, headers=headers | more.pop("headers", {}), **more)


@pytest.fixture(scope="module")
def shown(shared_dsn: str) -> Iterator[tuple[Get, Get]]:
    """The reader and the inspector of a store that does not change."""
    fill(shared_dsn)
    with psycopg.connect(shared_dsn) as connection:
        connection.execute("update recording set clock = 'database'")
    made = bounded_engine(shared_dsn, 4, 30.0)
    headers = bearer(shared_dsn, "rita", "reader"), bearer(shared_dsn, "anna", "inspector", "north")
    with TestClient(
        create_app(made, WebSettings(requests_per_minute=100_000)), raise_server_exceptions=False
    ) as opened:
        yield partial(opened.get, headers=headers[0]), partial(opened.get, headers=headers[1])
    made.dispose()


def test_a_tile_holds_parcels_with_light_and_crops(store: Store, reader: Get) -> None:
    answer = reader(f"/api/tiles/nl/2025/{HERE}.mvt")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/vnd.mapbox-vector-tile")
    assert answer.headers["cache-control"] == "private, max-age=60"
    found = features(answer.content, "parcels")
    assert [
        {key: one[key] for key in ("source_id", "light", "declared", "likeliest", "probability")} for one in found
    ] == [
        {"source_id": name, "light": "red", "declared": "maize", "likeliest": "corn", "probability": 0.75}
        for name in ("north-1", "south-1")
    ]
    outline = store.execute(
        """select ST_AsBinary(ST_AsMVTGeom(ST_Transform(geom, 3857), ST_TileEnvelope(12, 2104, 1352), 4096, 64)) from parcels limit 1"""
    ).fetchone()
    assert outline is not None
    drawn: Any = shapely.transform(shapely.from_wkb(outline[0]), lambda xy: [0, 4096] + xy * [1, -1])
    drawn = shapely.intersection(drawn, shapely.box(0, 0, 4096, 4096))  # GDAL leaves out what lies over the edge
    assert found[0]["geom"].symmetric_difference(drawn).area < 0.01 * drawn.area


@pytest.mark.parametrize(
    ("on", "light", "declared", "likeliest"),
    [
        ("2025-02-01", "not_executed", None, None),
        ("2025-05-31", "not_executed", "maize", None),
        ("2025-06-01", "red", "maize", "corn"),
    ],
)
def test_a_tile_is_as_known_on_a_day(
    shown: tuple[Get, Get], on: str, light: str, declared: str | None, likeliest: str | None
) -> None:
    """What is recorded on a day is known at its end."""
    reader, _ = shown
    (one, _) = features(reader(f"/api/tiles/nl/2025/{HERE}.mvt?on={on}").content, "parcels")
    assert (one["light"], one.get("declared"), one.get("likeliest")) == (light, declared, likeliest)
    counted = reader(f"/api/map/nl/2025?on={on}").json()
    assert counted["lights"] == {light: 2}
    assert counted["declared"] == [{"crop": declared, "parcels": 2}]
    assert counted["likeliest"] == [{"crop": likeliest, "parcels": 2}]


def test_lights_are_those_of_the_contract(store: Store, reader: Get) -> None:
    """Of several rules the largest, as everywhere: an alert that nobody dismissed keeps its light when its rule cannot decide."""
    store.execute(
        """insert into findings (parcel_key, rule, recorded_at, rule_version, outcome, colour, evidence)
           select parcel_key, rule, at::timestamptz, '4', outcome::outcome, colour::colour, '{}' from parcels,
           (values ('early_loss', '2025-07-01', 'NOT_VALID', null), ('mowing', '2025-07-01', 'OK', 'yellow'))
           v (rule, at, outcome, colour)"""
    )
    for on, expected in (("2025-06-30", "red"), ("2025-07-02", "red")):
        (one, _) = features(reader(f"/api/tiles/nl/2025/{HERE}.mvt?on={on}").content, "parcels")
        rows = store.execute("select max(light)::text from lights_known('nl', '2025', %s)", [f"{on} 23:59"]).fetchone()
        assert rows == (expected,) == (one["light"],)
    store.execute(
        """insert into alert_events (alert_key, recorded_at, event, colour, confidence, evidence)
           select alert_key, '2025-08-01', 'dismissed', 'red', 0.9, '{}' from alerts"""
    )
    store.execute("update alerts set state = 'dismissed'")
    (one, _) = features(reader(f"/api/tiles/nl/2025/{HERE}.mvt?on=2025-08-02").content, "parcels")
    assert one["light"] == "yellow"


def test_cells_count_what_is_far_away(shown: tuple[Get, Get]) -> None:
    reader, _ = shown
    for z in range(11):
        shift = 12 - z
        answer = reader(f"/api/tiles/nl/2025/{z}/{2104 >> shift}/{1352 >> shift}.mvt")
        (cell,) = features(answer.content, "cells")
        assert (cell["n"], cell["red"], cell["yellow"], cell["green"], cell["declared"], cell["likeliest"]) == (
            2,
            2,
            0,
            0,
            "maize",
            "corn",
        )
        assert cell["geom"].area == 64 * 64
    assert features(reader("/api/tiles/nl/2025/11/1052/676.mvt").content, "cells") == []


def test_cells_lie_where_their_parcels_do(store: Store, reader: Get) -> None:
    """The middle of the parcel is in the cell."""
    (cell,) = features(reader("/api/tiles/nl/2025/10/526/338.mvt").content, "cells")
    row = store.execute(
        """select (ST_X(m) - ST_XMin(t)) / (ST_XMax(t) - ST_XMin(t)) * 4096, (ST_Y(m) - ST_YMin(t)) / (ST_YMax(t) - ST_YMin(t)) * 4096
           from (select ST_Transform(ST_Centroid(ST_Envelope(geom)), 3857) as m from parcels limit 1) p, ST_TileEnvelope(10, 526, 338) t"""
    ).fetchone()
    assert row is not None
    assert cell["geom"].contains(shapely.Point(row))


def test_an_inspector_sees_the_regions_granted(shown: tuple[Get, Get]) -> None:
    _, inspector = shown
    for path in (HERE, "9/263/169"):
        answer = inspector(f"/api/tiles/nl/2025/{path}.mvt")
        assert b"south" not in answer.content
        (one,) = features(answer.content, "parcels") or features(answer.content, "cells")
        assert one.get("source_id", "north-1") == "north-1"
        assert one.get("n", 1) == 1
    counted = inspector("/api/map/nl/2025").json()
    assert (counted["parcels"], [one["region"] for one in counted["regions"]]) == (1, ["north"])
    assert [one["source_id"] for one in inspector("/api/map/nl/2025/parcels").json()["parcels"]] == ["north-1"]


def test_what_is_of_others_is_as_what_is_not_there(store: Store, inspector: Get) -> None:
    store.execute("update parcels set geom = ST_Translate(geom, 5, 0) where source_id = 'south-1'")
    store.execute(
        """insert into parcels (collection, season_key, source_id, region_key, geom, recorded_at)
           select 'theirs', season_key, 'x', region_key, geom, now() from parcels where source_id = 'south-1'"""
    )
    assert inspector(f"/api/tiles/nl/2025/{ELSEWHERE}.mvt").status_code == 204
    assert inspector("/api/tiles/nl/2025/0/0/0.mvt").status_code == 200
    for path in ("/api/tiles/{}/2025/0/0/0.mvt", "/api/map/{}/2025", "/api/map/{}/2025/parcels"):
        theirs, none = inspector(path.format("theirs")), inspector(path.format("none"))
        assert theirs.status_code == none.status_code
        assert theirs.text.replace("theirs", "none") == none.text


def test_an_area_or_id_of_others_finds_nothing(shown: tuple[Get, Get]) -> None:
    _, inspector = shown
    assert inspector("/api/map/nl/2025/parcels?source_id=south").json() == {"parcels": [], "next": None}


def test_a_tile_that_did_not_change_is_not_sent_again(store: Store, reader: Get, inspector: Get) -> None:
    path = f"/api/tiles/nl/2025/{HERE}.mvt"
    tag = reader(path).headers["etag"]
    again = reader(path, headers={"If-None-Match": f'W/"x", {tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert inspector(path).headers["etag"] != tag
    assert inspector(path, headers={"If-None-Match": tag}).status_code == 200
    store.execute("update parcels set geom = ST_Translate(geom, 0.001, 0) where source_id = 'south-1'")
    moved = reader(path, headers={"If-None-Match": tag})
    assert moved.status_code == 200
    assert len({one["geom"].wkt for one in features(moved.content, "parcels")}) == 2


def test_what_is_recorded_shows_when_the_states_are_old(dsn: str, store: Store, reader: Get) -> None:
    """At once after 10 minutes, or a minute where numbers are asked for; not at all where nothing was recorded since."""
    path = f"/api/tiles/nl/2025/{HERE}.mvt"
    with psycopg.connect(make_conninfo(dsn, dbname="postgres")) as elsewhere:
        elsewhere.execute(
            "select pg_advisory_xact_lock(20531, 7)"
        )  # as a writer of another database of the server has it
        tag = reader(path).headers["etag"]
    store.execute("update parcelwatch_map.snapshots set made_at = made_at - interval '1 hour'")
    assert reader(path).headers["etag"] == tag
    store.execute("begin")
    store.execute(
        """insert into declarations (parcel_key, recorded_at, declared_at, crop_code, crop_name)
           select parcel_key, recording_begins(now()), now(), '2', %s from parcels where source_id = 'north-1'""",
        [HOSTILE],
    )
    store.execute("commit")
    assert reader(path).headers["etag"] != tag
    assert {one["declared"] for one in features(reader(path).content, "parcels")} == {"maize", HOSTILE}
    assert reader("/api/map/nl/2025/parcels", params={"declared": HOSTILE}).json()["parcels"][0]["declared"] == HOSTILE


def test_a_region_that_changes_goes_from_the_map_of_the_other(store: Store, inspector: Get) -> None:
    assert inspector("/api/map/nl/2025").json()["parcels"] == 1
    store.execute("update parcels set region_key = (select region_key from regions where code = 'north')")
    assert inspector("/api/map/nl/2025").json()["parcels"] == 2
    store.execute(
        "update parcels set region_key = (select region_key from regions where code = 'south') where source_id = 'north-1'"
    )
    (one,) = features(inspector(f"/api/tiles/nl/2025/{HERE}.mvt").content, "parcels")
    assert one["source_id"] == "south-1"


@pytest.mark.parametrize(
    ("tile", "status"),
    [
        ("0/0/0", 200),
        ("0/1/0", 404),
        ("3/0/8", 404),
        ("22/0/4194303", 204),
        ("23/0/0", 422),
        ("-1/0/0", 422),
        ("1/-1/0", 422),
        ("9/99999999999999999999/0", 422),
        ("a/b/c", 422),
    ],
)  # fmt: skip
def test_tiles_that_there_are(shown: tuple[Get, Get], tile: str, status: int) -> None:
    reader, _ = shown
    assert reader(f"/api/tiles/nl/2025/{tile}.mvt").status_code == status


@pytest.mark.parametrize(
    ("query", "status", "found"),
    [
        ("bbox=5,52,5.002,52.001", 200, 2),
        ("bbox=5,52.009,5.0005,52.01", 200, 0),  # in the box of the triangle, not in it
        ("bbox=-180,-90,180,90", 200, 2),
        ("bbox=5,52,4,53", 422, None),
        ("bbox=nan,52,4,53", 422, None),
        ("bbox=1,2", 422, None),
        ('area={"type":"Polygon","coordinates":[[[5,52],[5.01,52],[5,52.01],[5,52]]]}', 200, 2),
        ('area={"type":"Polygon","coordinates":[[[5,52],[5.01,52.01],[5.01,52],[5,52.01],[5,52]]]}', 422, None),
        ("area=POINT(5 52)", 422, None),
        ("area=x&bbox=1,2,3,4", 422, None),
        ("light=red&declared=maize&likeliest=corn", 200, 2),
        ("light=green", 200, 0),
        ("light=blue", 422, None),
        ("source_id=sou", 200, 1),
        ("source_id=%25", 200, 0),
        ("source_id=%00", 422, None),
        ("limit=0", 422, None),
        ("limit=501", 422, None),
        ("on=2025-13-01", 422, None),
        ("on=9999-12-31", 200, 2),
        ("on=0001-01-01", 200, 2),
    ],
)
def test_parcels_of_the_map(shown: tuple[Get, Get], query: str, status: int, found: int | None) -> None:
    reader, _ = shown
    answer = reader(f"/api/map/nl/2025/parcels?{query}")
    assert answer.status_code == status, answer.text
    if found is not None:
        assert len(answer.json()["parcels"]) == found


def test_pages_of_parcels_follow_each_other(shown: tuple[Get, Get]) -> None:
    reader, _ = shown
    first = reader("/api/map/nl/2025/parcels?limit=1&light=red&on=2025-06-10").json()
    second = reader(first["next"]).json()
    assert [one["source_id"] for one in first["parcels"] + second["parcels"]] == ["north-1", "south-1"]
    assert second["next"] is None


@pytest.mark.usefixtures("store")
def test_tiles_count_a_tenth(dsn: str) -> None:
    made = bounded_engine(dsn, 2, 30.0)
    headers = bearer(dsn, "rita", "reader")
    with TestClient(create_app(made, WebSettings(requests_per_minute=3)), raise_server_exceptions=False) as client:
        statuses = [client.get(f"/api/tiles/nl/2025/{HERE}.mvt", headers=headers).status_code for _ in range(31)]
    made.dispose()
    assert statuses == [200] * 30 + [429]


N_PARCELS = 40_000


@pytest.fixture
def country(store: Store) -> Store:
    """Forty thousand more parcels in each of both regions: those of the north in the west, of the south in the east."""
    store.execute(
        """insert into parcels (collection, season_key, source_id, region_key, geom, recorded_at)
           select 'nl', season_key, code || '-' || nr + 1, region_key,
                  ST_Multi(ST_MakeEnvelope(lon, 52 + nr / 200 * 0.0025, lon + 0.003, 52.002 + nr / 200 * 0.0025, 4326)), '2025-01-01'
           from seasons, regions cross join generate_series(1, %s) nr
           cross join lateral (select case code when 'north' then 5 else 8 end + nr %% 200 * 0.004 as lon) l""",
        [N_PARCELS],
    )
    for table in ("parcels", "parcelwatch_map.shapes"):
        store.execute(f"analyze {table}".encode())
    return store


@pytest.mark.usefixtures("country")
def test_a_tile_is_found_by_place_and_region(dsn: str, inspector: Get, reader: Get) -> None:
    """A tile reads no outline but its own, and none of another region, so that how long it takes says nothing of it; it is sent small."""
    theirs, empty, own = "11/1070/675", "11/1150/675", "11/1053/675"
    sizes = {path: len(reader(f"/api/tiles/nl/2025/{path}.mvt").content) for path in (theirs, empty, own)}
    assert sizes[theirs] > 20_000 < sizes[own]
    assert sizes[empty] == 0
    packed = reader(f"/api/tiles/nl/2025/{own}.mvt", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["content-encoding"] == "gzip"
    assert len(gzip.compress(packed.content, 1)) < len(packed.content) / 2
    inspector("/api/map/nl/2025")
    plans: list[Any] = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.add_notice_handler(
            lambda said: plans.append(json.loads(str(said.message_primary).partition("plan:\n")[2]))
        )
        for setting in (
            "client_min_messages = log",
            "auto_explain.log_min_duration = 0",
            "auto_explain.log_nested_statements = on",
            "auto_explain.log_analyze = on",
            "auto_explain.log_format = json",
        ):
            if "client" in setting:
                connection.execute("load 'auto_explain'")
            connection.execute(f"set {setting}".encode())
        for path, most in ((theirs, 0), (empty, 0), (own, 2200)):
            plans.clear()
            with connection.transaction():
                connection.execute(
                    "select set_config('role', 'parcelwatch_inspector', true), set_config('parcelwatch.principal', 'anna', true)"
                )
                connection.execute(
                    "select parcelwatch.map_tile('nl', '2025', %s, %s, %s)", [int(one) for one in path.split("/")]
                )
            (plan,) = [one["Plan"] for one in plans if "ST_AsMVTGeom" in one["Query Text"]]
            (scan,) = [node for node in _nodes(plan) if node.get("Relation Name") == "shapes"]
            assert scan["Index Name"] == "shapes_place"
            read = (scan["Actual Rows"] + scan.get("Rows Removed by Filter", 0)) * scan["Actual Loops"]
            assert (read == 0) if most == 0 else 1500 < read <= most

    def ask(path: str) -> Callable[[], None]:
        def tile() -> None:
            assert inspector(f"/api/tiles/nl/2025/{path}.mvt").status_code == 204

        return tile

    assert take_as_long(ask(theirs), ask(empty))


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for inner in node.get("Plans", []):
        yield from _nodes(inner)


def test_a_dozen_times_are_kept(store: Store, reader: Get) -> None:
    for day in range(1, 15):
        reader(f"/api/map/nl/2025?on=2025-07-{day:02}")
    for table in ("snapshots", "states", "cells"):
        kept = store.execute(f"select count(*) from parcelwatch_map.{table}".encode()).fetchone()
        assert kept == (2 * 12,), table
