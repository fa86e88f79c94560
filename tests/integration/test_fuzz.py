"""Whatever is asked of the web server is answered: as OpenAPI describes, and in bytes that nothing describes.

A few requests of each route here; `make fuzz` makes more (PARCELWATCH_TEST_EXAMPLES).
"""

import copy
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlsplit

import psycopg
import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.filled_store import hail_on
from tests.web_server import bearer, serving
from web.console import pages
from web.routes import ROUTERS
from web.settings import WebSettings

EXAMPLES: Final = int(os.environ.get("PARCELWATCH_TEST_EXAMPLES", "2"))
"""Requests of each kind to each route."""
ENDLESS: Final = "/api/events"
PNG: Final = b"\x89PNG\r\n\x1a\n" + bytes(100)
SETTINGS: Final = WebSettings(
    requests_per_minute=10**9, photo_bytes=1000, body_bytes=200_000, events_interval_s=0.05, heartbeat_s=0.05
)
ASKED: Final = settings(
    max_examples=EXAMPLES, phases=[Phase.generate, Phase.shrink], database=None, suppress_health_check=list(HealthCheck)
)
HEADER: Final = "a\r\nX-Injected: 1"
MORE: Final = rb"""
insert into chips (parcel_key, scene_key, revision, composite, observed_at, recorded_at, cut_for, image, sha256, missing, removed_at)
select parcel_key, scene_key, 0, composite, observed_at, '2025-05-02', 'alert', image, sha256(kept), missing, removed_at
from parcels, scenes, (values ('true_colour', 'png'::bytea, 'png'::bytea, null, null),
                              ('false_colour', null, null, 'no raster is known', null),
                              ('radar', null, 'png', null, timestamptz '2025-09-01')) v (composite, image, kept, missing, removed_at);
insert into parcels (collection, season_key, source_id, region_key, geom, area_ha, recorded_at)
select e'a\r\nX-Injected: 1', season_key, '<script>x</script>', region_key, geom, area_ha, recorded_at
from parcels where source_id = 'north-1';
"""
"""Pictures, and a parcel with hostile names."""


@dataclass
class Server:
    """A server with something of everything, how to ask it, and names of what is stored."""

    app: FastAPI
    headers: Mapping[str, str]
    stored: Mapping[str, str]
    """By the name of the parameter that asks for it."""
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    """By the beginning of the path, and status."""

    def count(self, path: str, status: int) -> None:
        """Count an answer."""
        self.answers["/".join(path.split("/")[:3]), status] += 1


@pytest.fixture
def server(filled_dsn: str) -> Iterator[Server]:
    hail_on(filled_dsn)
    headers = bearer(filled_dsn, "ada", "admin")
    with serving(filled_dsn, SETTINGS) as app, TestClient(app, headers=headers) as client:
        with psycopg.connect(filled_dsn, autocommit=True) as owner:
            owner.execute(MORE)
            row = owner.execute(
                """select parcel_key, alert_key, (select min(chip_key) from chips), (select max(sample_key) from quality_samples)
                   from parcels join alerts using (parcel_key) where source_id = 'north-1'"""
            ).fetchone()
        assert row is not None
        incident = next(one for one in client.get("/api/alerts").json()["lines"] if one["kind"] == "incident")
        asked = {"decision": "request", "reason": "when?", "deadline": "2199-01-01"}
        to = {"name": "mine", "channel": "email", "to": "anna@example.org"}
        made = [
            client.post(f"/api/alerts/{row[1]}/decisions", json=asked),
            client.post(f"/api/alerts/{row[1]}/answer", data={"note": "here"}, files={"photo": ("a.png", PNG)}),
            client.post("/api/subscriptions", json=to),
        ]
        assert [one.status_code for one in made] == [201, 201, 201]
        stored = dict(
            zip(("parcel", "alert", "chip", "sample"), map(str, row), strict=True),
            collection="nl",
            season="2025",
            region="north",
            crop_code="1",
            source_id="north-1",
            incident=incident["incident"],
            sha256=hashlib.sha256(PNG).hexdigest(),
            subscription=str(made[2].json()["subscription"]),
            z="11",
            x="1052",
            y="676",
            kind="csv",
            form="html",
            earlier="June",
            later="June",
        )
        stored |= {"key": stored["parcel"], "id": stored["parcel"], "chip_key": stored["chip"]}
        yield Server(app, headers, stored)


CHECKS: Final = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def test_whatever_openapi_allows_is_answered_without_a_defect(server: Server) -> None:
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", server.app)

    def ask(case: Any) -> None:
        bound = {"timeout": 0.3} if case.path == ENDLESS else {}
        answer = case.call_and_validate(headers=dict(server.headers), checks=CHECKS, **bound)
        server.count(case.path, answer.status_code)

    for found in schema.get_all_operations():
        one = found.ok()  # type: ignore[union-attr]  # what cannot be read has none, and fails here
        names = {name: server.stored[name] for name in re.findall(r"{(\w+)}", one.path) if name in server.stored}
        names |= {"collection": "parcels"} if "/collections/" in one.path else {}
        if one.method == "delete":  # what others ask for stays
            names = {}
        for strategy in (
            one.as_strategy(),
            one.as_strategy(GenerationMode.NEGATIVE),
            one.as_strategy(path_parameters=names),
        ):
            ASKED(given(case=strategy)(ask))()
    assert {"/api/tiles", "/api/exports", "/api/events", "/api/chips"} <= {path for path, _ in server.answers}
    print(*sorted(server.answers.items()), sep="\n")


# Bytes ------------------------------------------------------------------------------------------

MARK: Final = "<script>x</script>"
WORDS: Final = """
null true [] {} ../../etc/passwd ..\\.. %s%n 0 -1 1.5 1e5 1_000 0x10 22 30 2147483648 9223372036854775807 9223372036854775808
\u0661 \u202e \U0001f600
NaN infinity -infinity 1e999 epoch now 0000-01-01 0001-01-01 9999-12-31 2025-02-30 2025-06-01T25:00 2025-06-01T10:00+99:99
0001-01-01T00:00:00+14:00 9999-12-31T23:59:59.999999-14:00 2025-06-01/.. ../9999-12-31 0001-01-01/9999-12-31 -9999999999/9999999999
-180,-90,180,90 nan,nan,nan,nan inf,0,1,1 0,0,1e-300,1e-300
"""
LINES: Final = """
{{ 7 * 7 }}
POLYGON EMPTY
POLYGON((0 0, 1 1, 0 1, 1 0, 0 0))
POLYGON((0 0, 0 0, 0 0, 0 0))
POLYGON((nan nan, 1 1, 0 1, nan nan))
POLYGON((1e308 0, -1e308 1, 0 1e308, 1e308 0))
{"type": "Polygon", "coordinates": []}
{"type": "Polygon", "coordinates": [[[null, 0], [1, 1], [0, 1], [0, 0]]]}
source_id = 'x' and
source_id = '\0'
1 = 1
area_ha < 1e999
area_ha = 1 / 0
pg_sleep(9) = 1
recorded_at > timestamp('0000-01-01T00:00:00Z')
s_intersects(geom, point(1e400 0))
s_intersects(geom, polygon((0 0, 1 1, 0 1, 1 0, 0 0)))
"""
LONG: Final = ("[" * 1500, "(" * 1500, "not " * 500, '{"a":' * 500, "A" * 3000, "9" * 5000, "-" + "9" * 400)
ODD: Final = ("", " ", " 1 ", "\0", "a\0b", "a\nb", HEADER, MARK, f'">{MARK}', f"'{MARK}")
HOSTILE: Final = (
    *(one.encode() for one in (*WORDS.split(), *LINES.strip().split("\n"), *LONG, *ODD)),
    *(b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\xaf", b"\xb2"),
)
"""Values in place of a parameter, a field or a header."""
IN_JSON: Final = (
    *rb"""
"\ud800" "\u0000" "\r\nX-Injected:1" "" NaN -Infinity 1e999 -1 null [null] {} [] [1,1,1] "0000-01-01"
{"1":"open","99999999999999999999":"open"}
"9999-12-31T23:59:59.999999-14:00" "0001-01-01T00:00:00+14:00" {"type":"Polygon","coordinates":[[[1e308,0],[1,NaN],[0,1],[1e308,0]]]}
""".split(),
    *(b'"\xff"', b"9" * 5000, b"[" * 100_000, b'{"a":' * 30_000),
)
HEADERS: Final = [
    "accept",
    "accept-encoding",
    "authorization",
    "content-length",
    "content-type",
    "cookie",
    "host",
    "idempotency-key",
    "if-none-match",
    "origin",
    "range",
]
VALUES: Final = st.sampled_from(HOSTILE) | st.binary(max_size=20)
JSONS: Final = st.sampled_from(IN_JSON) | st.builds(lambda text: text.replace(b'"', b"").join((b'"', b'"')), VALUES)


@dataclass(frozen=True)
class Route:
    """A route as OpenAPI describes it, those of the console too."""

    path: str
    method: str
    asked: Sequence[str]
    """Parameters after the question mark."""
    fields: Sequence[str]
    """Of its body."""
    body: str
    """The media type of its body; empty where it has none."""


def _routes(app: FastAPI) -> list[Route]:
    routes = [copy.copy(one) for router in (*ROUTERS, *pages.ROUTERS) for one in router.routes]
    for route in routes:
        route.include_in_schema = True  # type: ignore[attr-defined]
    described = get_openapi(title=app.title, version=app.version, routes=routes)
    found = []
    for path, methods in described["paths"].items():
        for method, one in methods.items():
            asked = [its["name"] for its in one.get("parameters", ()) if its["in"] == "query"]
            bodies = one.get("requestBody", {}).get("content", {})
            body = next(iter(bodies), "")
            name = bodies[body]["schema"]["$ref"].rpartition("/")[2] if body else ""
            fields = list(described["components"]["schemas"][name]["properties"]) if body else []
            found.append(Route(path, method, asked, fields, body))
    return found


@st.composite
def _request(draw: st.DrawFn, route: Route, stored: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of a request in which some of what can be given is hostile."""

    def value(name: str) -> bytes:
        return stored[name].encode() if name in stored and draw(st.booleans()) else draw(VALUES)

    def some(names: Sequence[str], most: int = 3) -> list[str]:
        return draw(st.lists(st.sampled_from(names), max_size=most, unique=True)) if names else []

    path = re.sub(r"{(\w+)}", lambda name: quote(value(name[1]), safe=""), route.path)
    asked = [*some(route.asked), *(name for name in route.asked if name in stored and draw(st.booleans()))]
    asked += ["misspelt"] if draw(st.integers(0, 9)) == 0 else []
    query = "&".join(f"{quote(name)}={quote(value(name), safe='')}" for name in asked)
    headers = {name.encode(): re.sub(rb"[\0\r\n]", b"", draw(VALUES)) for name in some(HEADERS, 1)}
    made: dict[str, Any] = {"method": route.method.upper(), "url": f"{path}?{query}", "headers": headers}
    if route.body == "application/json":
        content = b", ".join(b'"%s": %s' % (name.encode(), draw(JSONS)) for name in some(route.fields))
        made["content"] = draw(st.just(b"{%s}" % content) | JSONS)
    elif route.body == "multipart/form-data":
        parts = [
            b'--x\r\nContent-Disposition: form-data; name="%s"' % name.encode()
            + (b'; filename="%s"' % value("") if name == "photo" else b"")
            + b"\r\n\r\n%s\r\n" % value(name)
            for name in some(route.fields, 6)
        ]
        made["content"] = b"".join(parts) + draw(st.sampled_from((b"--x--\r\n", b"", b"--x")))
    elif route.body:
        made["content"] = "&".join(f"{name}={quote(value(name), safe='')}" for name in some(route.fields)).encode()
    if route.body:
        boundary = "; boundary=x" if route.body == "multipart/form-data" else ""
        made["headers"] = {b"content-type": (route.body + boundary).encode()} | headers
    return made


# A file that is cut off within a form is closed by the collector: Starlette has it in no list by then.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <function SpooledTemporaryFile")
def test_hostile_bytes_are_answered_without_a_defect_and_change_no_page(server: Server) -> None:
    with TestClient(server.app, raise_server_exceptions=False, follow_redirects=False) as client:

        def ask(route: Route, request: dict[str, Any]) -> None:
            headers = {b"authorization": server.headers["Authorization"].encode()} | request["headers"]
            answer = client.request(**request | {"headers": list(headers.items())})
            server.count(route.path, answer.status_code)
            assert answer.status_code < 500
            assert "x-injected" not in answer.headers
            kind = answer.headers.get("content-type", "")
            assert not kind.startswith("text/html") or MARK not in answer.text
            assert kind == "application/problem+json" or answer.status_code < 400 or not route.path.startswith("/api")
            if b"host" not in headers:
                assert urlsplit(answer.headers.get("location", "")).hostname in (None, "testserver")

        hostile = {"headers": {}, "method": "GET", "url": f"/api/exports/{quote(HEADER, safe='')}/2025.csv"}
        ask(Route("/api/exports", "get", (), (), ""), hostile)
        assert server.answers["/api/exports", 200] == 1  # a name that is stored goes into a header
        for route in _routes(server.app):
            if route.path != ENDLESS:
                ASKED(given(st.just(route), _request(route, server.stored))(ask))()
    print(*sorted(server.answers.items()), sep="\n")
