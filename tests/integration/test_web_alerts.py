"""Alerts in the API: each sees their regions alone, decides in their own name, and takes back what nobody went on with."""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient

from tests.filled_store import hail_on
from tests.web_server import bearer, serving
from web.principals import CSRF_HEADER
from web.settings import WebSettings

Headers = dict[str, str]
Store = psycopg.Connection[tuple[Any, ...]]
HOSTILE = "<img src=x onerror=alert(1)>'; drop table alerts; --"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


@pytest.fixture
def dsn(filled_dsn: str) -> str:
    """A store with two regions."""
    return filled_dsn


@pytest.fixture
def store(dsn: str) -> Iterator[Store]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def client(dsn: str) -> Iterator[TestClient]:
    with (
        serving(dsn, WebSettings(requests_per_minute=10_000, photo_bytes=1000, body_bytes=20_000)) as app,
        TestClient(app, raise_server_exceptions=False) as opened,
    ):
        yield opened


@pytest.fixture
def anna(dsn: str) -> Headers:
    """Inspector of the north."""
    return bearer(dsn, "anna", "inspector", "north")


@pytest.fixture
def rita(dsn: str) -> Headers:
    """Reader of all."""
    return bearer(dsn, "rita", "reader")


@pytest.fixture
def otto(dsn: str) -> Headers:
    """Operator of all."""
    return bearer(dsn, "otto", "operator")


def alert_of(store: Store, parcel: str) -> int:
    row = store.execute(
        "select alert_key from alerts join parcels using (parcel_key) where source_id = %s order by 1", [parcel]
    ).fetchone()
    assert row is not None
    return int(row[0])


def log_of(store: Store, alert: int) -> list[tuple[str, str | None, str | None]]:
    return store.execute(
        """select event, evidence -> 'decision' ->> 'by', evidence -> 'decision' ->> 'reason' from alert_events
           where alert_key = %s order by event_nr""",
        [alert],
    ).fetchall()


def state_of(store: Store, alert: int) -> str:
    row = store.execute("select state::text from alerts where alert_key = %s", [alert]).fetchone()
    assert row is not None
    return str(row[0])


# What is seen -----------------------------------------------------------------------------------


def test_the_inbox_shows_the_alerts_of_ones_regions_and_counts_no_others(
    client: TestClient, anna: Headers, rita: Headers
) -> None:
    own = client.get("/api/alerts", headers=anna).json()
    assert (own["n"], [one["parcel"] for one in own["lines"]], own["next"]) == (1, ["north-1"], None)
    everything = client.get("/api/alerts", headers=rita).json()
    assert {one["parcel"] for one in everything["lines"]} == {"north-1", "south-1"}
    # As if the other region did not exist: the same answer as for one that there is not.
    other = client.get("/api/alerts?region=south", headers=anna)
    nowhere = client.get("/api/alerts?region=nowhere", headers=anna)
    assert other.json() == nowhere.json() == {"n": 0, "lines": [], "next": None}


def test_the_inbox_is_filtered(client: TestClient, rita: Headers) -> None:
    for query, n in (
        ("region=north", 1),
        ("rule=early_loss", 2),
        ("rule=flooding", 0),
        ("colour=red", 2),
        ("colour=yellow", 0),
        ("state=open", 2),
        ("state=dismissed", 0),
        ("state=closed", 0),
        ("season=2025&collection=nl", 2),
        ("season=2024", 0),
        ("as_known_at=2025-05-31T00:00:00Z", 0),
        ("as_known_at=2025-06-02", 2),
        ("order=sure&members=true&closed=true", 2),
    ):
        answer = client.get(f"/api/alerts?{query}", headers=rita)
        assert (answer.status_code, answer.json()["n"]) == (200, n), query


def test_pages_follow_each_other(client: TestClient, rita: Headers) -> None:
    first = client.get("/api/alerts?limit=1&order=sure", headers=rita).json()
    second = client.get(first["next"], headers=rita).json()
    assert second["next"] is None
    assert {one["parcel"] for one in first["lines"] + second["lines"]} == {"north-1", "south-1"}


def test_wrong_questions_are_answered_by_a_sentence(client: TestClient, rita: Headers) -> None:
    wrong = (
        "limit=0",
        "limit=501",
        "region=%00",
        "region=",
        "as_known_at=yesterday",
        "as_known_at=2120-01-01",
        "state=gone",
        "page=0",
    )
    for query in wrong:
        answer = client.get(f"/api/alerts?{query}", headers=rita)
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json"), query


def test_days_left_come_from_the_neighbours_in_ones_own_region(client: TestClient, store: Store, anna: Headers) -> None:
    before = client.get("/api/alerts?as_known_at=2025-07-01", headers=anna).json()
    store.execute(
        """update crop_progress set first_day = '2025-01-01', standing_share = array_fill(0.0::real, array[181])
           where region_key = (select region_key from regions where code = 'south')"""
    )
    assert client.get("/api/alerts?as_known_at=2025-07-01", headers=anna).json() == before


def test_an_alert_with_its_log_as_known_at_a_time(client: TestClient, store: Store, anna: Headers) -> None:
    key = alert_of(store, "north-1")
    decided = client.post(f"/api/alerts/{key}/decisions", headers=anna, json={"decision": "dismiss", "reason": HOSTILE})
    assert decided.status_code == 201
    now = client.get(f"/api/alerts/{key}", headers=anna)
    assert now.headers["content-type"] == "application/json"
    assert [(one["event"], one["by"], one["why"]) for one in now.json()["log"]][1:] == [("dismissed", "anna", HOSTILE)]
    assert (now.json()["state"], now.json()["decision_reason"]) == ("dismissed", HOSTILE)
    then = client.get(f"/api/alerts/{key}?as_known_at=2025-06-02", headers=anna).json()
    assert (then["state"], len(then["log"]), then["decided_by"]) == ("open", 1, None)
    assert client.get(f"/api/alerts/{key}?as_known_at=2025-05-01", headers=anna).status_code == 404


def test_an_alert_of_another_region_is_none(client: TestClient, store: Store, anna: Headers) -> None:
    foreign = alert_of(store, "south-1")
    for path in ("", "/chips", "/bundle.json", f"/photos/{'0' * 64}"):
        answers = [client.get(f"/api/alerts/{key}{path}", headers=anna) for key in (foreign, 999_999)]
        assert [one.status_code for one in answers] == [404, 404]
        assert answers[0].text.replace(str(foreign), "999999") == answers[1].text
        assert client.get(f"/api/alerts/{alert_of(store, 'north-1')}{path}", headers=anna).status_code == (
            404 if "photos" in path else 200
        )


@pytest.mark.parametrize("form", ["json", "html", "pdf", "zip"])
def test_the_evidence_is_a_file_and_text_of_others_is_text(
    client: TestClient, store: Store, anna: Headers, form: str
) -> None:
    key = alert_of(store, "north-1")
    hostile = {"decision": "comment", "reason": "<script>alert(1)</script>"}
    assert client.post(f"/api/alerts/{key}/decisions", headers=anna, json=hostile).status_code == 201
    answer = client.get(f"/api/alerts/{key}/bundle.{form}", headers=anna)
    assert answer.status_code == 200
    assert answer.headers["content-disposition"] == f'attachment; filename="alert-{key}.{form}"'
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    match form:
        case "json":
            assert answer.json()["alert"]["parcel"] == "north-1"
        case "html":
            assert "<script>alert" not in answer.text
            assert "&lt;script&gt;alert" in answer.text
        case "pdf":
            assert answer.content.startswith(b"%PDF")
        case "zip":
            assert "bundle.html" in zipfile.ZipFile(io.BytesIO(answer.content)).namelist()


# Decisions --------------------------------------------------------------------------------------


def test_a_decision_changes_the_store_and_the_log_says_who(
    client: TestClient, store: Store, anna: Headers, otto: Headers
) -> None:
    key = alert_of(store, "north-1")
    until = (datetime.now(UTC) + timedelta(days=14)).isoformat()
    steps: list[tuple[Headers, dict[str, Any], str]] = [
        (anna, {"decision": "acknowledge"}, "acknowledged"),
        (anna, {"decision": "assign", "to": "otto"}, "acknowledged"),
        (otto, {"decision": "review", "expected": "acknowledged"}, "in_review"),
        (otto, {"decision": "request", "reason": "a photo, please", "deadline": until}, "information_requested"),
        (otto, {"decision": "answer", "reason": "by telephone"}, "in_review"),
        (otto, {"decision": "confirm", "reason": "seen"}, "confirmed"),
        (otto, {"decision": "close", "reason": "done"}, "closed"),
        (anna, {"decision": "reopen", "reason": "not done"}, "open"),
        (anna, {"decision": "comment", "reason": "well"}, "open"),
    ]
    for who, given, state in steps:
        answer = client.post(f"/api/alerts/{key}/decisions", headers=who, json=given)
        assert (answer.status_code, answer.json()["decided"][0]["state"]) == (201, state)
        assert state_of(store, key) == state
    assert log_of(store, key)[1:] == [
        ("acknowledged", "anna", None),
        ("assigned", "anna", None),
        ("reviewed", "otto", None),
        ("requested", "otto", "a photo, please"),
        ("answered", "otto", "by telephone"),
        ("verified", "otto", "seen"),
        ("closed", "otto", "done"),
        ("reopened", "anna", "not done"),
        ("commented", "anna", "well"),
    ]


def test_what_is_no_decision_is_refused(client: TestClient, store: Store, anna: Headers) -> None:
    key = alert_of(store, "north-1")
    wrong: tuple[dict[str, Any], ...] = (
        {"decision": "dismiss"},
        {"decision": "dismiss", "reason": "  "},
        {"decision": "dismiss", "reason": "a\0b"},
        {"decision": "dismiss", "reason": "x" * 2001},
        {"decision": "request", "reason": "why"},
        {"decision": "request", "reason": "why", "deadline": "2025-01-01T00:00:00Z"},
        {"decision": "request", "reason": "why", "deadline": 4102444800},
        {"decision": "assign"},
        {"decision": "acknowledge", "to": "otto"},
        {"decision": "escalate", "reason": "why"},
        {"decision": "acknowledge", "expected": "gone"},
    )
    for given in wrong:
        assert client.post(f"/api/alerts/{key}/decisions", headers=anna, json=given).status_code == 422, given
        assert len(log_of(store, key)) == 1


def test_readers_decide_nothing_and_inspectors_nothing_elsewhere(
    client: TestClient, store: Store, anna: Headers, rita: Headers
) -> None:
    north, south = alert_of(store, "north-1"), alert_of(store, "south-1")
    given = {"decision": "acknowledge"}
    assert client.post(f"/api/alerts/{north}/decisions", headers=rita, json=given).status_code == 403
    for key in (south, 999_999):
        single = client.post(f"/api/alerts/{key}/decisions", headers=anna, json=given)
        bulk = client.post("/api/decisions", headers=anna, json=given | {"alerts": [north, key]})
        assert [one.status_code for one in (single, bulk)] == [404, 404]
        assert bulk.json()["detail"] == f"there is no alert {key}"
    answered = client.post(f"/api/alerts/{south}/answer", headers=anna, data={"note": "x"})
    assert answered.status_code == 404
    assert client.post("/api/incidents/I1/decisions", headers=anna, json=given).status_code == 404
    assert [len(log_of(store, key)) for key in (north, south)] == [1, 1]


def test_a_stale_state_is_a_conflict(client: TestClient, store: Store, anna: Headers, otto: Headers) -> None:
    key = alert_of(store, "north-1")
    dismiss = {"decision": "dismiss", "reason": "grazed", "expected": "open"}
    assert client.post(f"/api/alerts/{key}/decisions", headers=otto, json=dismiss).status_code == 201
    late = client.post(f"/api/alerts/{key}/decisions", headers=anna, json=dismiss)
    assert (late.status_code, late.headers["content-type"]) == (409, "application/problem+json")
    assert "dismissed by otto meanwhile" in late.json()["detail"]
    not_allowed = client.post(f"/api/alerts/{key}/decisions", headers=anna, json={"decision": "review"})
    assert not_allowed.status_code == 409
    assert len(log_of(store, key)) == 2


def test_a_decision_on_many_is_on_all_or_on_none_and_can_be_taken_back(
    client: TestClient, store: Store, otto: Headers, anna: Headers
) -> None:
    north, south = alert_of(store, "north-1"), alert_of(store, "south-1")
    client.post(f"/api/alerts/{south}/decisions", headers=otto, json={"decision": "acknowledge"})
    many = {"decision": "dismiss", "reason": "hail", "alerts": [north, south]}
    stale = client.post("/api/decisions", headers=otto, json=many | {"expected": "open"})
    assert stale.status_code == 409
    assert state_of(store, north) == "open"  # none, not the first half
    seen = {str(north): "open", str(south): "acknowledged"}
    done = client.post("/api/decisions", headers=otto, json=many | {"expected": seen})
    assert [one["state"] for one in done.json()["decided"]] == ["dismissed", "dismissed"]
    events = {"events": [one["event"] for one in done.json()["decided"]]}
    assert client.post("/api/decisions/undo", headers=anna, json=events).status_code == 404  # one is of the south
    undone = client.post("/api/decisions/undo", headers=otto, json=events)
    assert undone.status_code == 201
    assert (state_of(store, north), state_of(store, south)) == ("open", "acknowledged")
    assert [one[0] for one in log_of(store, south)] == ["opened", "acknowledged", "dismissed", "acknowledged"]
    again = client.post("/api/decisions/undo", headers=otto, json=events)
    assert (again.status_code, "has gone on since" in again.json()["detail"]) == (409, True)


def test_what_others_decided_or_leads_nowhere_is_not_taken_back(
    client: TestClient, store: Store, otto: Headers, anna: Headers
) -> None:
    key = alert_of(store, "north-1")
    first = client.post(f"/api/alerts/{key}/decisions", headers=otto, json={"decision": "acknowledge"}).json()
    events = {"events": [first["decided"][0]["event"]]}
    others = client.post("/api/decisions/undo", headers=anna, json=events)
    nowhere = client.post("/api/decisions/undo", headers=otto, json=events)
    assert (others.status_code, nowhere.status_code) == (409, 409)
    assert "nothing leads back to open" in nowhere.json()["detail"]
    until = (datetime.now(UTC) + timedelta(days=3)).isoformat()
    asked = {"decision": "request", "reason": "photo", "deadline": until}
    assert client.post(f"/api/alerts/{key}/decisions", headers=otto, json=asked).status_code == 201
    closed = client.post(
        f"/api/alerts/{key}/decisions", headers=otto, json={"decision": "close", "reason": "oops"}
    ).json()
    undone = client.post("/api/decisions/undo", headers=otto, json={"events": [closed["decided"][0]["event"]]})
    assert undone.json()["decided"][0]["state"] == "information_requested"  # with its deadline, by two events
    deadline = store.execute(
        "select evidence #>> '{decision,deadline}' from alert_events where alert_key = %s order by event_nr desc limit 1",
        [key],
    ).fetchone()
    assert deadline is not None
    assert datetime.fromisoformat(deadline[0]) == datetime.fromisoformat(until)


def test_a_request_that_comes_again_is_not_done_again(
    client: TestClient, store: Store, anna: Headers, otto: Headers
) -> None:
    key = alert_of(store, "north-1")
    path, given = f"/api/alerts/{key}/decisions", {"decision": "comment", "reason": "once"}
    answers = [client.post(path, headers=anna | {"Idempotency-Key": "k1"}, json=given) for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    other = client.post(path, headers=anna | {"Idempotency-Key": "k1"}, json=given | {"reason": "twice"})
    assert other.status_code == 409
    assert len(log_of(store, key)) == 2
    assert client.post(path, headers=otto | {"Idempotency-Key": "k1"}, json=given).status_code == 201  # each their own
    assert len(log_of(store, key)) == 3
    refused = anna | {"Idempotency-Key": "k2"}
    assert client.post(path, headers=refused, json={"decision": "reopen", "reason": "x"}).status_code == 409
    assert client.post(path, headers=refused, json=given).status_code == 201  # what was refused may be asked anew


def test_an_answer_keeps_its_photo_with_hash_time_and_position(client: TestClient, store: Store, anna: Headers) -> None:
    key = alert_of(store, "north-1")
    until = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    asked = {"decision": "request", "reason": "photo", "deadline": until}
    assert client.post(f"/api/alerts/{key}/decisions", headers=anna, json=asked).status_code == 201
    form = {"note": "my field", "taken_at": "2025-06-03T10:00:00Z", "longitude": "5.1", "latitude": "52.1"}

    def sent(content: bytes, name: str = "a.png", kind: str = "image/png", **more: str) -> Any:
        photo = {"photo": (name, content, kind)}
        return client.post(f"/api/alerts/{key}/answer", headers=anna, data=form | more, files=photo)

    assert sent(b"<svg onload=alert(1)>", "a.svg").status_code == 415
    assert sent(PNG + bytes(1000)).status_code == 413
    assert sent(PNG, longitude="181").status_code == 422
    assert sent(PNG, expected="open").status_code == 409
    answer = sent(PNG, "../../etc/<b>\n.png", "text/html")
    assert answer.status_code == 201
    digest = hashlib.sha256(PNG).hexdigest()
    log = client.get(f"/api/alerts/{key}", headers=anna).json()["log"]
    assert log[-1]["details"] == {
        "answer": "photo",
        "file": log[-1]["details"]["file"],
        "sha256": digest,
        "taken_at": "2025-06-03T10:00:00+00:00",
        "position": [5.1, 52.1],
    }
    assert "/" not in log[-1]["details"]["file"]
    photo = client.get(f"/api/alerts/{key}/photos/{digest}", headers=anna)
    assert (photo.content, photo.headers["content-type"]) == (PNG, "image/png")
    foreign = client.get(f"/api/alerts/{alert_of(store, 'south-1')}/photos/{digest}", headers=anna)
    assert foreign.status_code == 404
    stored = store.execute("select count(*) from answer_photos").fetchone()
    assert stored == (1,)  # nothing of what was refused


def test_huge_bodies_are_not_taken(client: TestClient, store: Store, anna: Headers) -> None:
    path = f"/api/alerts/{alert_of(store, 'north-1')}"
    said = client.post(f"{path}/decisions", headers=anna, content=b"x" * 30_000)
    in_parts = client.post(f"{path}/decisions", headers=anna, content=iter([b"x" * 15_000] * 2))
    photo = client.post(f"{path}/answer", headers=anna, data={"note": "x"}, files={"photo": ("a", bytes(100_000))})
    nobody = client.post(f"{path}/answer", data={"note": "x"}, files={"photo": ("a", bytes(70_000))})
    endless = client.get("/api/me", headers=anna | {"Content-Length": "9" * 5000})
    for answer in (said, in_parts, photo, nobody, endless):
        assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")
        assert "content-security-policy" in answer.headers


def test_with_a_sign_in_decisions_need_our_page(client: TestClient, store: Store, anna: Headers) -> None:
    key = alert_of(store, "north-1")
    token = client.post("/api/session", json={"key": anna["Authorization"].split()[1]}).json()["csrf_token"]
    given = {"decision": "acknowledge"}
    for path, body in ((f"/api/alerts/{key}/decisions", given), ("/api/decisions", given | {"alerts": [key]})):
        assert client.post(path, json=body).status_code == 403
    assert client.post(f"/api/alerts/{key}/answer", data={"note": "x"}).status_code == 403
    assert len(log_of(store, key)) == 1
    assert client.post(f"/api/alerts/{key}/decisions", json=given, headers={CSRF_HEADER: token}).status_code == 201
    assert log_of(store, key)[-1][1] == "anna"


# Incidents --------------------------------------------------------------------------------------


@pytest.fixture
def hail(dsn: str) -> None:
    hail_on(dsn)


@pytest.mark.usefixtures("hail")
def test_an_incident_is_one_line_of_what_one_sees_and_is_decided_on_as_such(
    client: TestClient, store: Store, anna: Headers, rita: Headers
) -> None:
    (whole,) = [one for one in client.get("/api/alerts", headers=rita).json()["lines"] if one["kind"] == "incident"]
    assert (len(whole["alerts"]), whole["n_parcels"]) == (24, 24)
    listed = client.get("/api/alerts", headers=anna).json()
    assert listed["n"] == 2
    (own,) = [one for one in listed["lines"] if one["kind"] == "incident"]
    assert (len(own["alerts"]), own["n_parcels"], own["n_red"], own["area_ha"]) == (12, 12, 12, 24)
    members = client.get(f"/api/incidents/{own['incident']}", headers=anna).json()
    assert {one["region"] for one in members["lines"]} == {"north"}
    assert len(members["lines"]) == 12
    south = min(set(whole["alerts"]) - set(own["alerts"]))
    answers = [client.get(f"/api/incidents/I{key}", headers=anna) for key in (south, 999_999)]
    assert [one.status_code for one in answers] == [404, 404]
    one_alert = client.get(f"/api/alerts/{own['alerts'][3]}", headers=anna).json()
    assert one_alert["incident"] == own["incident"]
    decided = client.post(
        f"/api/incidents/{own['incident']}/decisions", headers=anna, json={"decision": "dismiss", "reason": "hail"}
    )
    assert len(decided.json()["decided"]) == 12
    states = store.execute(
        """select code, state::text, count(*) from alerts join parcels using (parcel_key) join regions using (region_key)
           where source_id like '%-hail-%' group by 1, 2 order by 1"""
    ).fetchall()
    assert states == [("north", "dismissed", 12), ("south", "open", 12)]
    events = [one["event"] for one in decided.json()["decided"]]
    assert client.post("/api/decisions/undo", headers=anna, json={"events": events}).status_code == 201


# Chips ------------------------------------------------------------------------------------------


@pytest.fixture
def chips(store: Store) -> dict[str, int]:
    """A picture of each parcel, by its name; and one that there is not, of the north."""
    rows = store.execute(
        """insert into chips (parcel_key, scene_key, revision, composite, observed_at, recorded_at, cut_for, image, sha256, missing)
           select parcel_key, scene_key, 0, composite, observed_at, '2025-05-02', 'alert', image, sha256(image), missing
           from parcels, scenes, (values ('true_colour', convert_to('png', 'utf8'), null),
                                         ('false_colour', null, 'no raster is known')) v (composite, image, missing)
           where missing is null or source_id = 'north-1'
           returning parcel_key, composite, chip_key"""
    ).fetchall()
    names: dict[int, str] = dict(store.execute("select parcel_key, source_id from parcels").fetchall())
    return {f"{names[parcel]} {composite}": key for parcel, composite, key in rows}


def test_pictures_of_ones_parcels_by_key_with_a_tag(
    client: TestClient, store: Store, anna: Headers, chips: dict[str, int]
) -> None:
    listed = client.get(f"/api/alerts/{alert_of(store, 'north-1')}/chips", headers=anna).json()["chips"]
    assert {one["composite"]: (one["png"] is None, one["missing"]) for one in listed} == {
        "true_colour": (False, None),
        "false_colour": (True, "no raster is known"),
    }
    (url,) = [one["png"] for one in listed if one["png"]]
    answer = client.get(url, headers=anna)
    assert (answer.content, answer.headers["content-type"]) == (b"png", "image/png")
    tag = {"If-None-Match": answer.headers["etag"]}
    assert client.get(url, headers=anna | tag).status_code == 304
    missing = client.get(f"/api/chips/{chips['north-1 false_colour']}.png", headers=anna)
    assert (missing.status_code, missing.json()["detail"]) == (404, "no raster is known")
    foreign = chips["south-1 true_colour"]
    answers = [client.get(f"/api/chips/{key}.png", headers=anna) for key in (foreign, 999_999)]
    assert [one.status_code for one in answers] == [404, 404]
    assert answers[0].text.replace(str(foreign), "999999") == answers[1].text
    parcels: dict[str, int] = dict(store.execute("select source_id, parcel_key from parcels").fetchall())
    own, other = (client.get(f"/api/parcels/{parcels[name]}/chips", headers=anna) for name in ("north-1", "south-1"))
    assert (len(own.json()["chips"]), other.status_code) == (2, 404)
    store.execute("update chips set image = null, removed_at = '2025-09-01' where image is not null")
    gone = client.get(url, headers=anna)
    assert (gone.status_code, "2025-09-01" in gone.json()["detail"]) == (410, True)


# Quality ----------------------------------------------------------------------------------------


def test_a_blind_review_shows_what_was_observed_and_nothing_that_was_found(
    client: TestClient, store: Store, anna: Headers, rita: Headers
) -> None:
    row = store.execute(
        """with sample as (
               insert into quality_samples (season_key, collection, as_known_at, recorded_at, drawn_by, reason, seed, allocation, minimum,
                                            expected_wrong, confidence, second_share)
               select season_key, collection, as_known_at, recorded_at, drawn_by, reason, seed, allocation, minimum, expected_wrong,
                      confidence, second_share from quality_samples returning sample_key
           ), stratum as (insert into quality_strata select sample_key, 0, 'red', null, 2, 2, 4 from sample)
           insert into quality_items select sample_key, row_number() over (order by source_id), parcel_key, 0, 'maize', 'red', '{}', null, 1
           from sample, parcels returning sample_key"""
    ).fetchone()
    assert row is not None
    (key,) = row
    listed = client.get("/api/quality/samples", headers=anna).json()
    assert {one["sample"]: one["n_left"] for one in listed["samples"]}[key] == 1  # of two: the other is of the south
    item = client.get(f"/api/quality/samples/{key}/next", headers=anna)
    assert item.json()["parcel"] == "north-1"
    assert {one["kind"] for one in item.json()["observed"]} == {"s1", "s2", "ndvi"}
    assert not any(word in item.text for word in ('"red"', "early_loss", "corn", "0.9", "light"))
    given = {"item": item.json()["item"], "verdict": "lost", "reason": HOSTILE}
    path = f"/api/quality/samples/{key}/verdicts"
    assert client.post(path, headers=rita, json=given).status_code == 403
    for wrong in ({"reason": None}, {"verdict": "red"}, {"item": 2**40}):
        assert client.post(path, headers=anna, json=given | wrong).status_code == 422
    foreign, none = (client.post(path, headers=anna, json=given | {"item": nr}) for nr in (2, 999))
    assert (foreign.status_code, none.status_code) == (404, 404)
    assert client.post(path, headers=anna, json=given).json()["n_left"] == 0
    verdict = store.execute(
        "select verdict, reviewer, reason from quality_verdicts where sample_key = %s", [key]
    ).fetchall()
    assert verdict == [("lost", "anna", HOSTILE)]
    assert client.get(f"/api/quality/samples/{key}/next", headers=anna).status_code == 404
    assert client.get("/api/quality/report", headers=anna).status_code == 403
    report = client.get(f"/api/quality/report?sample={key}&budget=1", headers=rita)
    assert report.status_code == 200
    assert report.json()["samples"][0]["sample_key"] == key
    json.dumps(report.json(), allow_nan=False)
