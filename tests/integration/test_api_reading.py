"""The reading half of the API: what each sees, in which form, as known when, how much at once, and what is refused."""

import csv
import io
import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.routing import APIRoute

from db.access import ROLES, Role
from tests.web_server import Api, api_on, take_as_long
from web.routes import features, operation, parcels, regions

SERIES = ("history", "s2", "s1", "ndvi", "posteriors", "phenology", "markers", "crop-band")
OF_ONE = ("/api/parcels/{}", "/api/collections/parcels/items/{}", *(f"/api/parcels/{{}}/{name}" for name in SERIES))
READING = (features.router, parcels.router, regions.router, operation.router)


@pytest.fixture
def dsn(filled_dsn: str) -> str:
    """A store with two regions."""
    return filled_dsn


@pytest.fixture
def api(dsn: str) -> Iterator[Api]:
    with api_on(dsn) as made:
        yield made


@pytest.fixture
def keys(dsn: str, api: Api) -> dict[str, int]:  # noqa: ARG001, filled by it
    """Keys of the parcels by their ids."""
    with psycopg.connect(dsn) as connection:
        return dict(connection.execute("select source_id, parcel_key from parcels").fetchall())


def test_every_route_of_one_parcel_is_tried_below() -> None:
    paths = {route.path for router in READING for route in router.routes if isinstance(route, APIRoute)}
    of_one = {path.format("{key}") for path in OF_ONE} - {"/api/collections/parcels/items/{key}"}
    assert of_one | {"/api/collections/{collection}/items/{id}"} == {
        path for path in paths if "{key}" in path or "{id}" in path
    }


def test_another_regions_parcel_is_answered_as_one_that_is_not(api: Api, keys: dict[str, int]) -> None:
    for path in OF_ONE:
        own, foreign, absent = (path.format(key) for key in (keys["north-1"], keys["south-1"], 999))
        assert api.get(own).status_code == 200, path
        assert api.get(foreign, "reader").status_code == 200, path
        answers = [api.get(foreign), api.get(absent)]
        assert [one.status_code for one in answers] == [404, 404], path
        bodies = [one.text.replace(str(keys["south-1"]), "?").replace("999", "?") for one in answers]
        assert bodies[0] == bodies[1]
        headers = [{k: v for k, v in one.headers.items() if k != "content-length"} for one in answers]
        assert headers[0] == headers[1]


def test_lists_hold_own_regions_alone(api: Api) -> None:
    for path in (
        "/api/collections/parcels/items",
        "/api/collections/alerts/items",
        "/api/collections/alerts/items?filter=region='south' or true",
        "/api/crop-areas?collection=nl&season=2025",
        "/api/regions",
        "/api/parcels?collection=nl&season=2025&source_id=south-1",
        "/api/crop-bands?collection=nl&season=2025&region=south&crop_code=1",
    ):
        answer = api.get(path)
        assert '"region":"south"' not in answer.text
        assert '"south-1"' not in answer.text
        assert '"south"]' not in answer.text
        assert answer.json().get("rows") != [] or "crop-bands" in path
        assert "south" in api.get(path, "reader").text or "crop-bands" in path
    one, none = (api.get(f"/api/parcels?collection=nl&season=2025&source_id={name}-1") for name in ("south", "nouth"))
    assert (one.status_code, one.text.replace("south", "nouth")) == (404, none.text)


def test_time_does_not_say_whether_another_regions_parcel_is_there(api: Api, keys: dict[str, int]) -> None:
    def ask(key: int) -> Callable[[], None]:
        def history() -> None:
            assert api.get(f"/api/parcels/{key}/history").status_code == 404

        return history

    assert take_as_long(ask(keys["south-1"]), ask(999))


def test_what_is_of_no_region_is_not_for_everybody(api: Api) -> None:
    for path, roles in (("/api/scenes", {"reader", "operator", "admin"}), ("/api/status", {"operator", "admin"})):
        statuses = {role: api.get(path, role).status_code for role in ROLES}
        assert statuses == {role: 200 if role in roles else 403 for role in ROLES}
    lines = api.get("/api/status", "operator").json()["lines"]
    assert {"part": "alerts", "what": "open, early_loss, red", "value": "2"} in lines


def test_nothing_is_read_without_a_key(api: Api) -> None:
    for router in READING:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            path = route.path.format(key=1, collection="parcels", id=1)
            assert api.client.get(path).status_code == 401, path


def test_every_format_has_the_same_rows(api: Api, keys: dict[str, int]) -> None:
    for name in SERIES:
        _require_the_same_rows(api, f"/api/parcels/{keys['north-1']}/{name}")


def _require_the_same_rows(api: Api, path: str) -> None:
    rows = api.get(path).json()["rows"]
    assert rows
    arrow_answer = api.get(path, headers={"Accept": "application/vnd.apache.arrow.stream"})
    arrow = pa.ipc.open_stream(arrow_answer.content).read_all()
    parquet = pq.read_table(io.BytesIO(api.get(f"{path}?format=parquet").content))
    assert arrow == parquet
    assert arrow.column_names == list(rows[0])
    plain = json.loads(json.dumps(arrow.to_pylist(), default=lambda at: at.isoformat().replace("+00:00", "Z")))
    parts = {key for row in rows for key, value in row.items() if isinstance(value, dict)}
    assert [{key: json.loads(one) if key in parts else one for key, one in row.items()} for row in plain] == rows
    text = api.get(path, headers={"Accept": "text/csv;q=0.9, application/xml"}).text
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [list(line) for line in lines] == [list(rows[0])] * len(rows)
    for line, row in zip(lines, rows, strict=True):
        for key, value in row.items():
            cell = line[key]
            if isinstance(value, dict | list | float | int):
                assert json.loads(cell) == value
            else:
                assert cell == ("" if value is None else value.replace("Z", "+00:00") if "T" in value else value)


def test_a_format_that_there_is_not_is_refused(api: Api, keys: dict[str, int]) -> None:
    path = f"/api/parcels/{keys['north-1']}/s2"
    assert api.get(path, headers={"Accept": "image/png, text/csv;q=0"}).status_code == 406
    assert "application/vnd.apache.parquet" in api.get(path, headers={"Accept": "image/png"}).json()["detail"]
    assert api.get(f"{path}?format=xml").status_code == 422
    for accept in ("*/*", "", "application/json", "text/html, */*;q=0.1", "x;q=y, */*"):
        kind = api.get(path, headers={"Accept": accept} if accept else {}).headers["content-type"]
        assert kind == "application/json"


def test_hostile_names_come_out_as_they_are(dsn: str, api: Api, keys: dict[str, int]) -> None:
    name = "<script>\"'alert(1)//\r\n,=1+1\u2028"
    with psycopg.connect(dsn) as connection:
        connection.execute("update parcels set source_id = %s where parcel_key = %s", [name, keys["north-1"]])
        connection.execute("update declarations set crop_name = %s", [name])
    found = api.get("/api/parcels", params={"collection": "nl", "season": "2025", "source_id": name})
    assert found.json()["source_id"] == found.json()["declared_crop"] == name
    assert found.headers["x-content-type-options"] == "nosniff"
    asked = {"op": "=", "args": [{"property": "declared_crop"}, name]}
    answer = api.get("/api/collections/parcels/items", params={"filter": json.dumps(asked), "filter-lang": "cql2-json"})
    assert [one["properties"]["source_id"] for one in answer.json()["features"]] == [name]
    history = api.get(f"/api/parcels/{keys['north-1']}/history?format=csv").text
    assert next(csv.DictReader(io.StringIO(history, newline="")))["crop"] == name


def test_as_known_at_shows_what_was_recorded_by_then(api: Api, keys: dict[str, int]) -> None:
    here = f"/api/parcels/{keys['north-1']}"
    before = {
        "history": "2025-05-01",
        "s2": "2025-05-01",
        "s1": "2025-05-01",
        "ndvi": "2025-06-01",
        "posteriors": "2025-05-31",
    }
    for name, day in before.items():
        known = api.get(f"{here}/{name}?as_known_at={day}").json()["rows"]
        assert [row for row in known if row["recorded_at"] > day] == []
        assert len(known) < len(api.get(f"{here}/{name}?as_known_at=2025-12-01").json()["rows"])
    assert api.get(f"{here}/s2?as_known_at=2025-12-01").json() == api.get(f"{here}/s2").json()
    for name in ("phenology", "markers"):
        statuses = {row["status"] for row in api.get(f"{here}/{name}?as_known_at=2025-09-01").json()["rows"]}
        assert "OK" not in statuses
    assert api.get(f"{here}?as_known_at=2025-02-01").json()["declared_crop"] is None
    assert api.get(f"{here}?as_known_at=2025-04-01").json()["declared_crop"] == "maize"
    assert api.get(f"{here}?as_known_at=2024-12-31").status_code == 404
    assert api.get("/api/crop-areas?collection=nl&season=2025&as_known_at=2025-05-01").json()["rows"] == []


WRONG_TIMES = [
    ("2199-01-01", "yet to come"),
    ("9999-12-31T23:59:59-14:00", "is no time"),
    ("0001-01-01", "is before 1900"),
    ("yesterday", "is no time: write 2025-06-01"),
    ("2025-13-01", "is no time"),
    ("1e9", "is no time"),
    ("", "is no time"),
    ("infinity", "is no time"),
    ("2025-06-01\0", "is no time"),
]


def test_times_are_checked(api: Api, keys: dict[str, int]) -> None:
    for text, why in WRONG_TIMES:
        answer = api.get(f"/api/parcels/{keys['north-1']}/history", params={"as_known_at": text})
        assert answer.status_code == 422
        assert why in answer.json()["detail"]
        assert "\n" not in answer.json()["detail"]


def test_pages_together_are_the_whole(dsn: str, api: Api, keys: dict[str, int]) -> None:
    with psycopg.connect(dsn) as connection:  # passes at the same moment stay together
        connection.execute(
            """insert into s1_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_pixels, available_at,
                                            recorded_at, scene_key, direction, radiometry, vv, vh)
               select parcel_key, at, orbit, 0, false, 50, at, '2025-07-02', scene_key, 'ascending', 'sigma0', 0.1, 0.01
               from parcels, scenes, generate_series('2025-07-01'::timestamptz, '2025-07-05', '1 day') at, generate_series(1, 2) orbit"""
        )
    for name in ("history", "s2", "s1", "ndvi", "posteriors"):
        whole = api.get(f"/api/parcels/{keys['north-1']}/{name}").json()["rows"]
        path = f"/api/parcels/{keys['north-1']}/{name}?limit=2"
        pages: list[list[Any]] = []
        while path and len(pages) < 50:
            answer = api.get(path)
            pages.append(answer.json()["rows"])
            path = next((link["href"] for link in answer.json()["links"] if link["rel"] == "next"), "")
            assert (f'<{path}>; rel="next"' == answer.headers.get("link")) is bool(path)
        assert list(itertools.chain(*pages)) == whole
        assert all(0 < len(one) <= 2 for one in pages)
        assert len(pages) > 1 or len(whole) <= 2
    refused = api.get(f"/api/parcels/{keys['north-1']}/s1?limit=1&from=2025-07-01")
    assert (refused.status_code, "greater limit" in refused.json()["detail"]) == (422, True)


def _all_features(api: Api, path: str, role: Role = "reader") -> list[Any]:
    found = []
    while path:
        answer = api.get(path, role)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert page["numberReturned"] == len(page["features"])
        found += page["features"]
        path = next((link["href"] for link in page["links"] if link["rel"] == "next"), "")
    return found


@pytest.fixture
def many(dsn: str, api: Api) -> Api:
    """A square of 30 x 30 parcels of 0.01 degrees from 6 E, 50 N on, of two crops."""
    with psycopg.connect(dsn) as connection:
        connection.execute(
            """insert into parcels (collection, season_key, source_id, region_key, geom, area_ha, recorded_at)
               select 'many', season_key, x || '/' || y, (select min(region_key) from regions),
                      ST_Multi(ST_MakeEnvelope(6 + x / 100.0, 50 + y / 100.0, 6.009 + x / 100.0, 50.009 + y / 100.0, 4326)),
                      x, '2025-01-01' from seasons, generate_series(0, 29) x, generate_series(0, 29) y"""
        )
        connection.execute(
            """insert into declarations (parcel_key, recorded_at, declared_at, crop_code, crop_name)
               select parcel_key, '2025-03-01', '2025-03-01', '7', case when area_ha < 10 then 'Rye' else 'oats' end
               from parcels where collection = 'many'"""
        )
        connection.execute(
            """insert into alerts (parcel_key, rule, state, colour, confidence, departed_on, opened_at)
               select parcel_key, 'early_loss', 'open', 'red', 0.9, '2025-05-20', '2025-06-01'::timestamptz + area_ha * interval '1 day'
               from parcels where collection = 'many' and source_id like '%/0'"""
        )
        connection.execute(
            """insert into alert_events (alert_key, recorded_at, event, colour, confidence, departed_on, evidence)
               select alert_key, opened_at, 'opened', 'red', 0.9, '2025-05-20', '{}' from alerts
               where alert_key not in (select alert_key from alert_events)"""
        )
    return api


PARCELS_ASKED = [
    ("filter=collection='many'", 900),
    ("filter=collection='many' and declared_crop='Rye'", 300),
    ("filter=casei(declared_crop)=casei('RYE')", 300),
    ("filter=declared_crop like 'R%25'", 300),
    ("filter=area_ha between 1 and 2 and collection='many'", 60),
    ("filter=not (area_ha > 0) ", 30),
    ("filter=source_id in ('1/1','2/2','x')", 2),
    ("filter=hcat_code is null", 902),
    ("filter=recorded_at > TIMESTAMP('2025-01-01T00:00:01Z')", 0),
    ("bbox=6,50,6.085,50.085", 81),
    ("bbox=6,50,0,6.085,50.085,100", 81),
    ("bbox=6.001,50.001,6.001,50.001", 1),
    ("bbox=170,-10,-170,10", 0),
    ("bbox=179,-90,5.5,90", 2),
    ("filter=s_intersects(geom, POLYGON((6.001 50.001, 6.005 50.001, 6.005 50.295, 6.001 50.001)))", 30),
    ("filter=s_within(geom, BBOX(6, 50, 6.1, 50.1))", 100),
    ("bbox=6,50,6.085,50.085&filter=area_ha=0", 9),
    ("datetime=2020-01-01", 902),
]
ALERTS_ASKED = [
    ("2025-06-05", 1),
    ("2025-06-05T00:00:00Z", 1),
    ("2025-06-05T01:00:00Z", 0),
    ("2025-06-05/2025-06-10", 6),
    ("2025-06-20T00:00:00Z/..", 11),
    ("../2025-06-01", 3),  # with those of the store's two parcels
    ("/2025-06-02", 4),
]


def test_features_are_found_by_place_time_and_condition(many: Api) -> None:
    for (asked, n), limit in itertools.product(PARCELS_ASKED, (1000, 113)):
        found = _all_features(many, f"/api/collections/parcels/items?{asked}&limit={limit}")
        assert (len({one["id"] for one in found}), len(found)) == (n, n), asked
    for asked, n in ALERTS_ASKED:
        assert len(_all_features(many, f"/api/collections/alerts/items?datetime={asked}&limit=2")) == n, asked
    # More than a page may hold is a page.
    assert (
        len(many.get("/api/collections/parcels/items?limit=99999999999999999999", "reader").json()["features"]) == 902
    )
    assert len(many.get("/api/collections/parcels/items", "reader").json()["features"]) == 100


def test_features_are_found_however_far_apart_their_keys_are(dsn: str, api: Api) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            """insert into parcels (parcel_key, collection, season_key, source_id, region_key, geom, area_ha, recorded_at)
               overriding system value select key, 'far', season_key, key, region_key, geom, 2, '2025-01-01'
               from parcels, unnest(array[100, 70000, 3000000000, 9000000000000000000]) key where source_id = 'north-1'"""
        )
    for limit in (1, 2, 3, 1000):
        found = _all_features(api, f"/api/collections/parcels/items?limit={limit}")
        assert [one["id"] for one in found][-4:] == [100, 70_000, 3_000_000_000, 9_000_000_000_000_000_000]
        assert len(found) == 6
    assert len(_all_features(api, "/api/collections/parcels/items?filter=collection='far'&limit=1")) == 4


WRONG_FEATURES = [
    "bbox=1,2,3",
    "bbox=1,2,3,x",
    "bbox=nan,2,3,4",
    "bbox=0,10,1,5",
    "bbox=0,0,500,1",
    "datetime=x",
    "datetime=../..",
    "datetime=2025-02-01/2025-01-01",
    "datetime=1/2/3",
    "limit=0",
    "limit=x",
    "after=-1",
    "after=99999999999999999999",
    "bboxx=1",
    "filter=pg_sleep(10)=1",
    "filter=",
    "filter=x%00",
    "filter=%ff",
    "filter-lang=sql",
    "filter-crs=EPSG:28992",
    "filter=" + "(" * 50,
    "filter=" + quote("not " * 500 + "true"),
]


def test_a_parameter_that_is_wrong_is_400(api: Api) -> None:
    for asked in WRONG_FEATURES:
        began = time.perf_counter()
        answer = api.get(f"/api/collections/parcels/items?{asked}")
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
        assert "\n" not in answer.json()["detail"]
        assert time.perf_counter() - began < 2


IMPOSSIBLE = [
    "/api/parcels/99999999999999999999",
    "/api/parcels/9223372036854775808/history",
    "/api/parcels/9223372036854775807",
    "/api/parcels/-1",
    "/api/parcels/0",
    "/api/parcels/1e3",
    "/api/parcels/%00",
    "/api/parcels/%ed%a0%80/s2",
    "/api/parcels/１",
    "/api/collections/parcels/items/99999999999999999999",
    "/api/collections/parcels/items/%00",
    "/api/collections/parcels/items/١",
    "/api/collections/parcels/items/-0",
    "/api/collections/%00",
    "/api/collections/x/items",
    "/api/parcels?collection=nl&season=2025&source_id=%00",
    "/api/parcels?collection=nl&season=2025&source_id=%ed%a0%80",
    "/api/parcels?collection=nl&season=2025&source_id=" + "x" * 201,
    "/api/parcels?collection=nl",
    "/api/regions?after=%00",
    "/api/scenes?after=99999999999999999999",
    "/api/crop-bands?collection=%00&season=1&region=1&crop_code=1",
    "/api/crop-areas?collection=nl&season=2025&after=%00",
    "/api/parcels/1/history?limit=10001",
    "/api/parcels/1/history?limits=1",
]


def test_what_cannot_be_is_refused(api: Api) -> None:
    for path in IMPOSSIBLE:
        answer = api.get(path, "reader")
        assert answer.status_code in (404, 422), answer.text
        assert answer.headers["content-type"] == "application/problem+json"


def test_addresses_are_those_that_the_one_who_asks_reaches(api: Api) -> None:
    for host in ("fields.example.org:8443", "[::1]:80"):
        links = api.get("/api", headers={"Host": host}).json()["links"]
        assert all(link["href"].startswith(f"http://{host}/api") for link in links)
        assert api.get(links[-1]["href"]).status_code == 200
    for host in ("[", "a b", "x/y?z", "\xe9"):
        answer = api.client.get(
            "/api",
            headers=[(b"host", host.encode("latin-1")), (b"authorization", f"Bearer {api.keys['reader']}".encode())],
        )
        assert answer.status_code < 500


def test_the_collections_describe_themselves(api: Api) -> None:
    for kind in api.get("/api/collections").json()["collections"]:
        hrefs = {link["rel"].rsplit("/", 1)[-1]: link["href"] for link in kind["links"]}
        schema = api.get(hrefs["queryables"])
        assert schema.headers["content-type"] == "application/schema+json"
        queryables = set(schema.json()["properties"])
        (feature, *_) = api.get(hrefs["items"]).json()["features"]
        assert queryables - {"geom"} == set(feature["properties"]) - {"evidence"}
        assert api.get(f"{hrefs['items']}/{feature['id']}").json()["geometry"] == feature["geometry"]
        for name in queryables:
            assert api.get(f"{hrefs['items']}?filter={name} is not null or {name} is null").status_code == 200
