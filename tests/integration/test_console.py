"""The console's pages: who may see them, what they say, and that nothing in them runs but our own scripts."""

import json
import re
from collections.abc import Iterator
from datetime import date
from html import unescape
from html.parser import HTMLParser
from urllib.parse import unquote

import psycopg
import pytest
from fastapi.testclient import TestClient

from db import access
from db.connect import bounded_engine
from tests.web_server import key_of, serving_as
from web.console import assets, health, rounds
from web.principals import CSRF_HEADER
from web.routes.alerts import Inbox, Incident
from web.routes.operation import StatusLine

HOSTILE = "\"><script>alert('x')</script><img src=x onerror=alert(1)>{{ 7 * 7 }}"


@pytest.fixture
def dsn(filled_dsn: str) -> str:
    """A store with two regions."""
    return filled_dsn


@pytest.fixture
def client(dsn: str) -> Iterator[TestClient]:
    """A client of the console, over a store with a parcel and an alert in each of two regions."""
    with serving_as(dsn) as app, TestClient(app, raise_server_exceptions=False, follow_redirects=False) as opened:
        yield opened


def sign_in(client: TestClient, key: str) -> None:
    """Sign in by the form."""
    assert client.post("/console/sign-in", data={"key": key}).status_code == 303


def parcel_keys(dsn: str) -> dict[str, int]:
    """Return the keys of the parcels by region."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("select code, parcel_key from parcels join regions using (region_key)")
        return {str(code): int(key) for code, key in rows}


class _Scripts(HTMLParser):
    """Collects what a page would run or style by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if (tag == "script" and not given.get("src")) or tag == "style":
            self.found.append(tag)
        self.found += [name for name in given if name.startswith("on") or name == "style"]
        self.addresses += [given[name] or "" for name in ("src", "href", "action") if name in given]


def test_who_is_not_signed_in_is_sent_there_and_back(dsn: str, client: TestClient) -> None:
    for path in ("/console/inbox?region=north", "/console/parcels", "/console/parcel/1"):
        answer = client.get(path)
        assert answer.status_code == 303
        assert (
            answer.headers["location"]
            == f"/console/sign-in?next={path.replace('/', '%2F').replace('?', '%3F').replace('=', '%3D')}"
        )
    page = client.get("/console/sign-in", params={"next": "/console/parcel/1"})
    assert 'name="back" value="/console/parcel/1"' in page.text
    given = {"key": key_of(dsn, "anna", "inspector", "north"), "back": "/console/parcel/1"}
    assert client.post("/console/sign-in", data=given).headers["location"] == "/console/parcel/1"
    assert client.get("/console/sign-in").headers["location"] == "/console/inbox"


def test_nobody_is_led_elsewhere_by_a_sign_in(dsn: str, client: TestClient) -> None:
    key = key_of(dsn, "anna", "reader")
    for back in ("https://elsewhere.example/", "//elsewhere.example/", "/console/\\elsewhere", "/api/me", ""):
        client.cookies.clear()
        answer = client.post("/console/sign-in", data={"key": key, "back": back})
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/inbox")


def test_a_wrong_key_is_said_in_the_form(client: TestClient) -> None:
    for key in ("wrong", "pw_0_0", "pw_\0_0", HOSTILE):
        answer = client.post("/console/sign-in", data={"key": key})
        assert answer.status_code == 401
        assert "This key is not valid" in answer.text
        assert "set-cookie" not in answer.headers


def test_forms_of_other_sites_sign_nobody_in_or_out(dsn: str, client: TestClient) -> None:
    key = key_of(dsn, "anna", "reader")
    elsewhere = {"Origin": "http://elsewhere.example"}
    assert client.post("/console/sign-in", data={"key": key}, headers=elsewhere).status_code == 403
    sign_in(client, key)
    assert client.post("/console/sign-out", data={"csrf": "é"}).status_code == 403
    assert client.get("/console/parcels").status_code == 200
    token = re.search('name="csrf-token" content="([0-9a-f]+)"', client.get("/console/parcels").text)
    assert token is not None
    assert client.post("/console/sign-out", data={"csrf": token[1]}, headers=elsewhere).status_code == 403
    assert client.post("/console/sign-out", data={"csrf": token[1]}).headers["location"] == "/console/sign-in"
    assert client.get("/console/parcels").status_code == 303


def _publish(connection: psycopg.Connection, name: str, day: str, light: str) -> None:
    """Publish another round of the season, with one light for all parcels and rules."""
    connection.execute(
        """insert into round_lights select (select max(round_key) + 1 from rounds), parcel_key, %(light)s, array[%(light)s::light],
                  array['3'], array[timestamptz '2025-06-01'], array['open'] from parcels""",
        {"light": light},
    )
    connection.execute(
        """insert into rounds (round_key, season_key, collection, name, as_known_at, recorded_at, published_by, reason, rules, rule_version,
                               settings, settings_sha256, n_parcels, content_sha256, sha256)
           select max(round_key) + 1, max(season_key), 'nl', %(name)s, %(day)s, %(day)s, 'ann', 'monthly', array['early_loss'], '3', '{}',
                  'x', 2, 'x', %(name)s from rounds""",
        {"name": name, "day": day},
    )


def test_hostile_names_are_text_and_nothing_inline_runs(dsn: str, client: TestClient) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("update parcels set source_id = %s where source_id = 'north-1'", [HOSTILE])
        connection.execute("update declarations set crop_name = %s", [HOSTILE])
        connection.execute(
            """insert into alert_events (alert_key, recorded_at, event, colour, confidence, departed_on, evidence)
               select alert_key, '2025-06-02', 'changed', 'red', 0.9, '2025-05-20', jsonb_build_object('reason', %s::text) from alerts""",
            [HOSTILE],
        )
        connection.execute("update regions set code = code || %s", [HOSTILE])
        connection.execute("update models set config = jsonb_build_object('classes', array['corn', %s])", [HOSTILE])
        _publish(connection, "July", "2025-07-02", "green")
        _publish(connection, HOSTILE, "2025-08-02", "red")
        connection.execute("update dead_letters set reason_code = %s", [HOSTILE])
    signed_out = client.get("/console/sign-in", params={"next": HOSTILE})
    sign_in(client, key_of(dsn, HOSTILE, "operator"))
    key = min(parcel_keys(dsn).values())
    paths = (
        "inbox",
        f"parcel/{key}",
        "quality",
        "quality/1",
        "parcels?id=nothing",
        f"parcel/{key + 99}",
        "parcel/x",
        "inbox?colour=blue",
        "season",
        "season?on=x",
        "rounds",
        "rounds?earlier=June&later=July",
        "health",
    )
    pages = [
        signed_out,
        *(client.get(f"/console/{path}") for path in paths),
        client.get("/console/parcels", params={"id": HOSTILE + "x"}),
    ]
    for page in pages:
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "script-src 'self'" in page.headers["content-security-policy"]
        scripts = _Scripts()
        scripts.feed(page.text)
        assert scripts.found == []
        assert all(one.startswith(("/", "?", "#")) for one in scripts.addresses), scripts.addresses
        assert "<img src=x" not in page.text
        assert "49" not in re.findall(r"onerror=alert\(1\)&gt;(.{0,12})", page.text)
    for page in (*pages[1:3], pages[9], *pages[11:14]):
        assert page.status_code == 200
        assert "&lt;script&gt;alert" in page.text


def test_an_inspector_finds_no_parcel_of_another_region(dsn: str, client: TestClient) -> None:
    sign_in(client, key_of(dsn, "anna", "inspector", "north"))
    keys = parcel_keys(dsn)
    assert (
        client.get("/console/parcels", params={"id": "north-1"}).headers["location"]
        == f"/console/parcel/{keys['north']}"
    )
    absent = client.get("/console/parcels", params={"id": "absent"})
    foreign = client.get("/console/parcels", params={"id": "south-1"})
    assert foreign.text.replace("south-1", "absent") == absent.text
    with psycopg.connect(dsn) as connection:
        connection.execute("""insert into chips (parcel_key, scene_key, revision, composite, observed_at, recorded_at, cut_for, image,
                                                 sha256)
                              select parcel_key, scene_key, 0, 'radar', '2025-05-01', '2025-05-02', 'alert', '\\x89', sha256('x')
                              from parcels, scenes""")
        chips: dict[int, int] = dict(connection.execute("select parcel_key, chip_key from chips").fetchall())
    for path in ("/console/parcel/{}", "/console/data/parcel/{}", "/console/data/parcel/{}/pictures/{chip}"):
        chip = chips[keys["south"]]
        own = client.get(path.format(keys["north"], chip=chips[keys["north"]]))
        there, nowhere = (client.get(path.format(key, chip=chip)) for key in (keys["south"], 99999))
        assert (own.status_code, there.status_code, nowhere.status_code) == (200, 404, 404)
        assert there.text.replace(f"parcel {keys['south']} ", "parcel 99999 ") == nowhere.text
    mixed = f"/console/data/parcel/{keys['north']}/pictures/{chips[keys['south']]}"
    assert client.get(mixed).status_code == 404
    client.cookies.clear()
    assert client.get(f"/console/data/parcel/{keys['north']}").status_code == 401


def test_the_figures_of_a_parcel_are_those_known_by_then(dsn: str, client: TestClient) -> None:
    sign_in(client, key_of(dsn, "anna", "inspector", "north"))
    address = f"/console/data/parcel/{parcel_keys(dsn)['north']}"
    now = client.get(address).json()
    assert now["s2"] == {"at": ["2025-05-01T10:30:00Z"], "ndvi": [0.6], "clear": [None]}
    assert (now["s1"]["vv"], now["s1"]["vh"], now["s1"]["orbit"]) == ([-10.0], [-20.0], ["88 ascending"])
    assert now["ndvi"] == {"day": ["2025-06-01", "2025-06-02"], "ndvi": [0.5, 0.6], "sd": [0.03, 0.03]}
    assert now["posteriors"]["classes"] == ["corn", "wheat"]
    assert now["posteriors"]["probabilities"] == [[0.75, 0.25]]
    assert now["parcel"]["declared_class"] == "corn"
    assert [one["measure"] for one in now["phenology"]][:3] == ["sos", "pos", "eos"]
    assert [one["marker"] for one in now["markers"]] == ["harvest"]
    (alert,) = now["alerts"]
    assert (alert["rule"], alert["title"], alert["state"], alert["colour"], alert["departed_on"]) == (
        "early_loss", "the crop was lost early", "open", "red", "2025-05-20",
    )  # fmt: skip
    assert now["recorded"]["last"] == "2025-06-02T00:00:00Z"
    earlier = client.get(address, params={"as_known_at": "2025-05-31T00:00:00Z"}).json()
    assert earlier["s2"]["ndvi"] == [0.6]
    assert (earlier["ndvi"]["day"], earlier["posteriors"]["at"], earlier["alerts"], earlier["markers"]) == (
        [],
        [],
        [],
        [],
    )
    before = client.get(address, params={"as_known_at": "2025-01-02T00:00:00Z"}).json()
    assert (before["recorded"], before["parcel"]["declared"]) == (None, None)
    assert client.get(address, params={"as_known_at": "2025-05-31"}).status_code == 422


def test_assets_are_kept_by_browsers_under_an_address_of_their_content(client: TestClient) -> None:
    for name in assets.contents():
        answer = client.get(assets.url(name))
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "uPlot" in client.get(assets.url("uplot.js")).text
    for path in (
        f"/console/assets/{assets.version()}/absent.js",
        "/console/assets/0/console.css",
        f"/console/assets/{assets.version()}/..%2fpages.py",
    ):
        assert client.get(path).status_code == 404


def test_scripts_import_what_there_is() -> None:
    for name, content in assets.contents().items():
        for imported in re.findall(r'from "\./([^"]+)"', content.decode()) if name.endswith(".js") else ():
            assert imported in assets.contents(), f"{name} imports {imported}"


def test_the_inbox_lists_what_one_may_see_and_counts_it(dsn: str, client: TestClient) -> None:
    sign_in(client, key_of(dsn, "anna", "inspector", "north"))
    page = client.get("/console/inbox").text
    assert "1 to look at" in page
    assert "north-1" in page
    assert "south" not in page
    assert '<option value="north">north (1)</option>' in page
    assert (
        "north-1"
        in client.get(
            "/console/inbox", params={"rule": "early_loss", "region": "north", "colour": "red", "state": "open"}
        ).text
    )
    assert "No alert is as asked" in client.get("/console/inbox", params={"region": "south"}).text
    assert client.get("/console/inbox", params={"page": "0"}).status_code == 422


def test_a_decision_of_the_form_is_seen_in_the_inbox(dsn: str, client: TestClient) -> None:
    sign_in(client, key_of(dsn, "anna", "inspector", "north"))
    page = client.get("/console/inbox").text
    token, alert = re.search('csrf-token" content="(\\w+)"', page), re.search('data-keys="(\\d+)"', page)
    assert token
    assert alert
    given = {"alerts": [int(alert[1])], "decision": "request", "reason": "a photo", "deadline": "2199-01-31T23:59:59Z"}
    assert client.post("/api/decisions", json=given).status_code == 403
    own = {CSRF_HEADER: token[1], "Origin": "http://testserver"}
    assert client.post("/api/decisions", json=given, headers=own).status_code == 201
    page = client.get("/console/inbox").text
    assert "information requested by anna" in page
    assert "2199-01-31 23:59 UTC" in page
    assert "anna wrote: a photo" in page
    assert ">1 to look at<" in page
    given = {"alerts": [int(alert[1])], "decision": "dismiss", "reason": "as declared"}
    assert client.post("/api/decisions", json=given, headers=own).status_code == 201
    assert ">1 dismissed<" in client.get("/console/inbox").text
    sign_in(client, key_of(dsn, "otto", "operator"))
    assert ">1 to look at, 1 dismissed<" in client.get("/console/inbox").text
    assert ">1 to look at<" in client.get("/console/inbox?region=south").text


def test_a_regional_incident_is_one_line(dsn: str, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    incident = Incident(
        incident="I7",
        collection="nl",
        season="2025",
        rule="early_loss",
        week=date(2025, 6, 16),
        departed_from=date(2025, 6, 17),
        departed_to=date(2025, 6, 19),
        alerts=[7, 9],
        n_parcels=5,
        n_red=1,
        area_ha=12.0,
        longitude=5.0,
        latitude=52.0,
        crops=["maize", HOSTILE],
        why="regional incident",
        expected_ha=3.0,
        days_left=-3,
    )
    monkeypatch.setattr("web.console.inbox.api.alerts", lambda *_, **__: Inbox(n=1, lines=[incident], next=None))
    sign_in(client, key_of(dsn, "otto", "operator"))
    page = client.get("/console/inbox").text
    assert 'data-keys="7,9"' in page
    assert "Regional incident I7: the crop was lost early, 2 alerts, 1 red" in page
    assert "gone since 3 days" in page
    assert "<img src=x" not in page


def test_a_reader_has_no_form_to_decide(dsn: str, client: TestClient) -> None:
    sign_in(client, key_of(dsn, "rita", "reader"))
    assert client.get("/console/quality/1").status_code == 403
    for path in ("inbox", f"parcel/{parcel_keys(dsn)['north']}", "quality"):
        page = client.get(f"/console/{path}").text
        assert "<dialog" not in page
        assert 'class="decide"' not in page


def test_subscriptions_are_ones_own_and_said_in_words(dsn: str, client: TestClient) -> None:
    area = {"type": "Polygon", "coordinates": [[[4.9, 51.9], [5.2, 51.9], [5.2, 52.2], [4.9, 51.9]]]}
    full = {
        "name": HOSTILE[:60],
        "channel": "email",
        "to": "anna@example.org",
        "mode": "weekly",
        "weekday": "friday",
        "quiet": "22:00-06:00",
        "min_interval": "2h",
        "rules": ["early_loss"],
        "except_crops": ["maize"],
        "colours": ["red"],
        "min_confidence": 0.75,
        "area": area,
        "events": ["closed"],
    }
    keys = {name: key_of(dsn, name, "inspector", "north") for name in ("anna", "bert")}
    for name, given in (("anna", full), ("bert", {"name": "bert's", "channel": "email", "to": "bert@example.org"})):
        headers = {"Authorization": f"Bearer {keys[name]}"}
        assert client.post("/api/subscriptions", headers=headers, json=given).status_code == 201
    sign_in(client, keys["anna"])
    page = client.get("/console/subscriptions").text
    scripts = _Scripts()
    scripts.feed(page)
    assert scripts.found == []
    assert "bert" not in page
    said = unescape(re.sub(r"<[^>]+>", " ", page))
    for words in (
        HOSTILE[:60],
        "e-mail to anna@example.org",
        "on Fridays at 07:00 (UTC), not from 22:00 to 06:00, at least 2h apart",
        "the crop was lost early",
        "all but maize",
        "75% sure",
        "closed",
        "drawn: show it on the map",
    ):
        assert words in said
    (link,) = [one for one in scripts.addresses if one.startswith("/console/map#area=")]
    assert json.loads(unquote(link.partition("=")[2]))["type"] == "MultiPolygon"
    with psycopg.connect(dsn) as connection:
        connection.execute("update subscriptions set suspended_at = now(), suspended_because = '550 no such user'")
    assert "550 no such user" in client.get("/console/subscriptions").text


def test_a_database_that_is_away_is_said_in_a_page(dsn: str, client: TestClient) -> None:
    sign_in(client, key_of(dsn, "rita", "reader"))
    client.app.state.gate.engine = bounded_engine("postgresql://nobody@127.0.0.1:1/x", 1, 1.0)  # type: ignore[attr-defined]
    answer = client.get("/console/inbox")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    assert "the database cannot be reached now" in answer.text


def test_health_is_for_operators_and_led_to_for_them_alone(dsn: str, client: TestClient) -> None:
    for role in access.ROLES:
        client.cookies.clear()
        sign_in(client, key_of(dsn, role, role, "north"))
        pages = {name: client.get(f"/console/{name}") for name in ("season", "rounds", "health")}
        is_operator = role in ("operator", "admin")
        assert [page.status_code for page in pages.values()] == [200, 200, 200 if is_operator else 403]
        assert ('href="/console/health"' in pages["season"].text) == is_operator
        assert ("dead letters" in pages["health"].text) == is_operator


def test_health_says_what_to_do(dsn: str, client: TestClient) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "update scenes set observed_at = now() - interval '5 days', available_at = now() - interval '3 days', recorded_at = now()"
        )
    sign_in(client, key_of(dsn, "otto", "operator"))
    page = client.get("/console/health").text
    assert re.search(
        r'>S2</th><td class="at">[^<]*UTC</td><td class="n at">5 days</td><td class="n at">3 days</td>', page
    )
    does = "<td>1 waiting: <code>parcelwatch ingest dead-letters</code></td><td>.*<code>parcelwatch ingest redrive"
    assert re.search(f"dead letters: unknown_parcel</th>{does}", page)
    assert "Start <code>parcelwatch monitor run</code>." in page
    assert "open, early_loss, red" in page


def test_advice_is_for_what_waits_or_failed_alone() -> None:
    said = {
        ("scenes", "failed: unreadable", "3"): "scenes retry",
        ("scenes", "stored", "3"): None,
        ("scenes", "pictures of alerts: given up", "2 alerts"): "Mend",
        ("deliveries", "suspended: anna", "410"): "subscriptions change",
        ("monitor", "2025 / nl", "no classifier is active: `parcelwatch models activate`"): "Run the command",
        ("monitor", "2025 / nl", "3 parcels pending: the monitor is at work on them"): "Nothing",
        ("processes", "monitor run", "host:1"): None,
        ("models", "classifier of 2025 / nl", "m"): None,
    }
    for (part, what, value), words in said.items():
        found = health.advice(StatusLine(part=part, what=what, value=value))
        assert found is None if words is None else words in (found or ""), what


def test_the_season_is_as_known_on_a_day_and_of_ones_own_regions(dsn: str, client: TestClient) -> None:
    sign_in(client, key_of(dsn, "anna", "inspector", "north"))
    page = client.get("/console/season").text
    assert "south" not in page
    assert "Seen 2025-12-18 to 2025-12-31" in page
    # Two hectares, corn with probability 0.75: 1.5 ha expected, with a standard deviation of 2 sqrt(0.75 * 0.25).
    assert re.search(r'>corn</th><td class="n">1.5</td><td class="n">0.0 to 3.2</td><td class="n">2.0</td>', page)
    june = client.get("/console/season", params={"on": "2025-06-02"}).text
    assert "Seen 2025-05-20 to 2025-06-02" in june
    row = (
        r'<th scope="row">north</th><td class="n">1</td><td class="n">{}</td><td class="n">{}</td><td class="n">{}</td>'
    )
    assert re.search(row.format(1, 1, 1), june)
    assert re.search(row.format(1, 0, 1), page)
    may = client.get("/console/season", params={"on": "2025-05-20"}).text
    assert re.search(row.format(0, 0, 0), may)
    assert "corn" not in may
    assert client.get("/console/season", params={"on": ""}).text == page
    assert (
        client.get("/console/season", params={"on": "0001-01-01"}).status_code == 200
    )  # nothing lies two weeks before
    assert client.get("/console/season", params={"season": "1999"}).status_code == 404


def test_rounds_count_and_compare_what_one_may_see(dsn: str, client: TestClient) -> None:
    with psycopg.connect(dsn) as connection:
        _publish(connection, "July", "2025-07-02", "green")
        _publish(connection, "August", "2025-08-02", "yellow")
    sign_in(client, key_of(dsn, "anna", "inspector", "north"))
    page = client.get("/console/rounds").text
    assert re.findall(r'<th scope="row">(\w+)</th><td class="at">2025', page) == ["August", "July", "June"]
    assert re.search(r'>June</th><td class="at">2025-06-02 00:00 UTC</td>' + _numbers(1, 0, 0, 0, 0, 0), page)
    assert re.search(r'>July</th><td class="at">2025-07-02 00:00 UTC</td>' + _numbers(0, 0, 0, 0, 1, 0), page)
    changed = client.get("/console/rounds", params={"earlier": "August", "later": "July"}).text
    assert "From July to August: 1 light differs, 1 of them was green" in changed
    assert "north-1" in changed
    assert "south" not in changed
    same = client.get("/console/rounds", params={"earlier": "July", "later": "July"}).text
    assert "0 lights differ" in same
    before = client.get("/console/rounds", params={"published_before": "2025-07-02T00:00:00Z"}).text
    assert re.findall(r'<th scope="row">(\w+)</th><td class="at">2025', before) == ["June"]
    assert client.get("/console/rounds", params={"earlier": "May", "later": "July"}).status_code == 404
    client.cookies.clear()
    sign_in(client, key_of(dsn, "nora", "inspector"))
    assert "June" not in client.get("/console/rounds").text


def test_rounds_are_shown_page_by_page(dsn: str, client: TestClient) -> None:
    with psycopg.connect(dsn) as connection:
        for day in range(1, rounds.MOST_ROUNDS + 1):
            _publish(connection, f"r{day}", f"2025-07-{day:02}", "green")
    sign_in(client, key_of(dsn, "rita", "reader"))
    page = client.get("/console/rounds").text
    assert "June" not in page
    older = re.search(r'rel="next" href="(\?[^"]+)"', page)
    assert older is not None
    assert re.findall(r'<th scope="row">(\w+)</th>', client.get(f"/console/rounds{unescape(older[1])}").text) == [
        "June"
    ]


def _numbers(*numbers: int) -> str:
    return "".join(f'<td class="n">{n}</td>' for n in numbers)
