"""The pull subscription against a local service: acknowledged only after publishing, and the token is never shown."""

import logging
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from ingest.errors import BrokerUnavailable, IngestError
from ingest.scenes.http_retries import Clock, Http, Patience, SourceRefused, SourceUnavailable
from ingest.scenes.profiles import CatalogueProfile, load_profile
from ingest.scenes.publish import Published
from ingest.scenes.record import FoundScene
from ingest.scenes.subscription import PASSWORD, TOKEN, USER, Credentials, NoCredentials, Pull, Subscription, subscribe
from tests.stac_server import Answer, Asked, Fault, StacServer

NOW = datetime(2024, 5, 20, 12, tzinfo=UTC)
ID = "991c4730-cf6f-432a-9f6c-47be0230ff45"
SECRET = "eyJhbGciOi-a-token-that-nobody-may-see"


@dataclass
class Ledger:
    names: list[str] = field(default_factory=list)
    scenes: list[FoundScene] = field(default_factory=list)
    fails: bool = False

    def publish(self, found: Iterable[FoundScene]) -> Published:
        if self.fails:
            raise BrokerUnavailable("broker: away")
        given = list(found)
        new = [scene for scene in given if scene.scene_id not in self.names]
        self.scenes += new
        self.names += [scene.scene_id for scene in new]
        return Published(len(new), len(given) - len(new))


@dataclass
class Queue:
    """The service's queue: reading leaves it as it is, acknowledging one takes all up to it."""

    notifications: list[dict[str, Any]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=lambda: {SECRET})
    keeps: bool = False

    def serve(self, server: StacServer) -> None:
        server.routes[rf"GET /odata/Subscriptions\({ID}\)/Read"] = self.read
        server.routes[rf"POST /odata/Subscriptions\({ID}\)/Ack"] = self.acknowledge
        server.routes["GET /odata/Products.*"] = lambda asked: Answer(
            {"Name": name(7) + ".SAFE"} if asked.path.endswith("7)") else {"detail": "none"},
            200 if asked.path.endswith("7)") else 404,
        )

    def refusal(self, asked: Asked) -> Answer | None:
        given = asked.headers.get("Authorization", "")
        if given.removeprefix("Bearer ") in self.tokens:
            return None
        return Answer({"detail": f"token {given} has expired"}, 401)

    def read(self, asked: Asked) -> Answer:
        top = int(parse_qs(asked.query)["$top"][0])
        return self.refusal(asked) or Answer(self.notifications[:top])

    def acknowledge(self, asked: Asked) -> Answer:
        if refused := self.refusal(asked):
            return refused
        ack_id = asked.query.removeprefix("$ackid=")
        at = [one["AckId"] for one in self.notifications].index(ack_id)
        if not self.keeps:
            self.notifications = self.notifications[at + 1 :]
        return Answer({"AckMessagesNum": at + 1, "CurrentQueueLength": len(self.notifications)})


def name(number: int) -> str:
    return f"S2A_MSIL2A_20240519T105621_N0510_R094_T31UFU_{number:015d}"


def notification(number: int, at: datetime = NOW, **change: Any) -> dict[str, Any]:
    product = f"{change.pop('product', name(number))}.SAFE"
    return {
        "SubscriptionEvent": "created",
        "ProductId": f"00000000-0000-0000-0000-{number:012d}",
        "ProductName": product,
        "NotificationDate": at.isoformat(),
        "AckId": f"QWNr{number}==",
        "value": {"Name": product, "S3Path": f"/eodata/Sentinel-2/{product}"},
        **change,
    }


def item(number: int) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": name(number),
        "collection": "s2",
        "properties": {"datetime": "2024-05-19T10:56:21Z"},
        "assets": {"B02_10m": {"href": f"s3://eodata/{number}.jp2"}},
    }


@pytest.fixture
def server() -> Iterator[StacServer]:
    with StacServer() as started:
        yield started


@pytest.fixture
def queue(server: StacServer) -> Queue:
    queue = Queue()
    queue.serve(server)
    return queue


@pytest.fixture
def profile(server: StacServer, tmp_path: Path) -> CatalogueProfile:
    file = tmp_path / "p.toml"
    file.write_text(f'title = "t"\napi = "{server.api}"\n[sensors.S2]\ncollections = ["s2"]\n')
    return load_profile(str(file))


def http(lines: list[str] | None = None) -> Http:
    clock = Clock(lambda: NOW, lambda _: False, lambda low, _: low)
    return Http("cdse", Patience(tries=3), clock, (lines if lines is not None else []).append)


def subscription(server: StacServer, profile: CatalogueProfile, lines: list[str] | None = None) -> Subscription:
    session = http(lines)
    credentials = Credentials({TOKEN: SECRET}, session, lambda: NOW)
    return Subscription(ID, profile, session, credentials, f"{server.url}/odata")


def pull(server: StacServer, profile: CatalogueProfile, ledger: Ledger, now: datetime = NOW) -> Pull:
    return subscription(server, profile).pull(now, ledger.publish)


def test_queue_is_published_and_acknowledged(server: StacServer, queue: Queue, profile: CatalogueProfile) -> None:
    queue.notifications = [notification(number) for number in range(45)]
    server.add(*(item(number) for number in range(45)))
    ledger = Ledger()
    found = pull(server, profile, ledger)
    assert (found.outcome.new, found.left, found.waiting.count, queue.notifications) == (45, 0, 0, [])
    scene = ledger.scenes[0]
    assert (scene.scene_id, scene.kind, scene.source, scene.profile) == (name(0), "item", "cdse", profile.name)
    steps = [asked.path.rpartition("/")[2] for asked in server.asked if "Subscriptions" in asked.path]
    assert steps == ["Read", "Ack", "Read", "Ack", "Read", "Ack", "Read"]


def test_nothing_is_acknowledged_before_it_is_published(
    server: StacServer, queue: Queue, profile: CatalogueProfile
) -> None:
    queue.notifications = [notification(1)]
    server.add(item(1))
    ledger = Ledger(fails=True)
    with pytest.raises(BrokerUnavailable):
        pull(server, profile, ledger)
    assert len(queue.notifications) == 1
    ledger.fails = False
    assert pull(server, profile, ledger).outcome.new == 1
    assert queue.notifications == []


def test_acknowledgement_that_fails_comes_again_and_is_known(
    server: StacServer, queue: Queue, profile: CatalogueProfile
) -> None:
    queue.notifications = [notification(1)]
    server.add(item(1))
    ledger = Ledger()
    server.faults = [Fault(f"/odata/Subscriptions({ID})/Ack", status=503, times=3)]
    with pytest.raises(SourceUnavailable, match="503"):
        pull(server, profile, ledger)
    found = pull(server, profile, ledger)
    assert (found.outcome.new, found.outcome.known, queue.notifications) == (0, 1, [])


def test_product_that_the_catalogue_does_not_have_yet_waits(
    server: StacServer, queue: Queue, profile: CatalogueProfile
) -> None:
    queue.notifications = [notification(1), notification(2), notification(3)]
    server.add(item(1), item(3))
    ledger = Ledger()
    found = pull(server, profile, ledger)
    assert (found.outcome.new, found.waiting.first) == (1, f"{name(2)}: not in the STAC catalogue yet")
    assert [one["AckId"] for one in queue.notifications] == ["QWNr2==", "QWNr3=="]
    assert pull(server, profile, ledger).outcome.new == 0
    late = pull(server, profile, ledger, NOW + timedelta(days=2))
    assert (late.outcome.new, queue.notifications) == (2, [])
    assert [(scene.kind, scene.href[:5]) for scene in ledger.scenes[1:]] == [
        ("safe", "s3://"),
        ("item", server.api[:5]),
    ]


def test_after_three_days_the_name_is_asked_for(server: StacServer, queue: Queue, profile: CatalogueProfile) -> None:
    queue.notifications = [notification(7, value=None, ProductName=None), notification(8, value=None, ProductName=None)]
    server.add(item(7))
    ledger = Ledger()
    found = pull(server, profile, ledger)
    assert (ledger.names, found.outcome.rejected.count) == ([name(7)], 1)
    assert "does not have it any more" in (found.outcome.rejected.first or "")


def test_what_is_no_scene_of_ours_is_counted_and_acknowledged(
    server: StacServer, queue: Queue, profile: CatalogueProfile
) -> None:
    queue.notifications = [
        notification(1, product="S1A_IW_GRDH_1SDV_20240502T172441"),
        notification(2, product=name(2).replace("L2A", "L1C")),
        notification(3, SubscriptionEvent="deleted"),
        notification(4, value=None, ProductName=None, ProductId="x"),
    ]
    found = pull(server, profile, Ledger())
    assert (found.outcome.new, found.outcome.rejected.count, queue.notifications) == (0, 4, [])


def test_queue_that_does_not_move(server: StacServer, queue: Queue, profile: CatalogueProfile) -> None:
    queue.notifications, queue.keeps = [notification(1)], True
    server.add(item(1))
    with pytest.raises(SourceUnavailable, match="does not move"):
        pull(server, profile, Ledger())


def test_token_is_renewed_when_it_ends_and_when_it_is_refused(
    server: StacServer, queue: Queue, profile: CatalogueProfile
) -> None:
    issued: list[str] = []

    def issue(asked: Asked) -> Answer:
        form = parse_qs(asked.raw.decode())
        assert (form["grant_type"], form["username"], form["password"]) == (["password"], ["me"], ["pass word"])
        issued.append(f"{SECRET}-{len(issued)}")
        queue.tokens = {issued[-1]}
        return Answer({"access_token": issued[-1], "expires_in": 600})

    server.routes["POST /token"] = issue
    moment = NOW
    session = http()
    credentials = Credentials({USER: "me", PASSWORD: "pass word"}, session, lambda: moment, f"{server.url}/token")
    pulled = Subscription(ID, profile, session, credentials, f"{server.url}/odata")
    pulled.pull(moment, Ledger().publish)
    pulled.pull(moment, Ledger().publish)
    assert len(issued) == 1
    moment = NOW + timedelta(seconds=550)
    pulled.pull(moment, Ledger().publish)
    assert len(issued) == 2
    queue.tokens = {"another"}
    pulled.pull(moment, Ledger().publish)
    assert len(issued) == 3


def test_no_message_shows_a_secret(
    server: StacServer, queue: Queue, profile: CatalogueProfile, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even where the service sends it back to us."""
    lines: list[str] = []
    told: list[str] = []
    server.routes["POST /token"] = lambda asked: Answer({"error": f"bad form {asked.raw.decode()}"}, 401)
    echo = Answer({"detail": f"{'x' * 140} Bearer {SECRET} has expired"}, 500)
    with caplog.at_level(logging.DEBUG):
        for route, environment in (
            (None, {TOKEN: SECRET}),
            (echo, {TOKEN: SECRET}),
            (None, {USER: "me", PASSWORD: "pass word"}),
        ):
            queue.tokens = set()
            if route:
                server.routes[rf"GET /odata/Subscriptions\({ID}\)/Read"] = lambda _: echo
            session = http(lines)
            credentials = Credentials(environment, session, lambda: NOW, f"{server.url}/token")
            pulled = Subscription(ID, profile, session, credentials, f"{server.url}/odata")
            with pytest.raises((SourceRefused, SourceUnavailable)) as caught:
                pulled.pull(NOW, Ledger().publish)
            told += [
                str(caught.value),
                repr(pulled),
                repr(credentials),
                "".join(traceback.format_exception(caught.value)),
            ]
    everything = "\n".join([*lines, *told, caplog.text])
    assert SECRET not in everything
    assert SECRET[:12] not in everything
    assert "pass word" not in everything
    assert "pass+word" not in everything
    assert "***" in everything
    assert f"set {USER} and {PASSWORD} to have them renewed" in everything


def test_credentials_are_needed() -> None:
    for environment in ({}, {USER: "me"}, {TOKEN: ""}):
        with pytest.raises(NoCredentials, match=f"set {USER} and {PASSWORD}, or {TOKEN}"):
            Credentials(environment, http(), lambda: NOW)


def test_id_is_one(server: StacServer, profile: CatalogueProfile) -> None:
    session = http()
    with pytest.raises(IngestError, match="no subscription's id"):
        Subscription("1)/Ack", profile, session, Credentials({TOKEN: SECRET}, session, lambda: NOW), server.url)


def test_subscribing(server: StacServer) -> None:
    server.routes["POST /odata/Subscriptions"] = lambda _: Answer({"Id": ID, "Status": "running"}, 201)
    session = http()
    made = subscribe(
        session, Credentials({TOKEN: SECRET}, session, lambda: NOW), (4.0, 50.0, 4.5, 50.5), f"{server.url}/odata"
    )
    assert made == ID
    body = server.asked[-1].body
    assert (body["SubscriptionType"], body["SubscriptionEvent"], body["Status"]) == ("pull", ["created"], "running")
    assert "POLYGON((4 50,4.5 50,4.5 50.5,4 50.5,4 50))" in body["FilterParam"]
    assert server.asked[-1].headers["Authorization"] == f"Bearer {SECRET}"
