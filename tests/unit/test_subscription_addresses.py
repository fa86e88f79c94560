"""Which hosts webhooks may reach; what people may ask for."""

import contextlib
import socket
from datetime import time
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from db.subscriptions import Subscription
from monitor.subscriptions import asked, feeds, services, webhook
from monitor.subscriptions.addresses import is_allowed, resolved
from monitor.subscriptions.errors import InvalidSubscription, NotDelivered
from monitor.subscriptions.settings import DeliverySettings

PUBLIC = "93.184.216.34"


def settings(*hosts: str, private: tuple[str, ...] = (), **given: Any) -> DeliverySettings:
    return DeliverySettings(webhook_hosts=list(hosts), private_networks=[ip_network(one) for one in private], **given)


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let every name have these addresses."""
    found = [
        (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 443)) for one in addresses
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


@pytest.mark.parametrize(
    ("hosts", "host", "allowed"),
    [
        ((), "example.org", False),
        (("example.org",), "EXAMPLE.org.", True),
        (("example.org",), "a.example.org", False),
        (("example.org",), "badexample.org", False),
        (("*.example.org",), "a.b.example.org", True),
        (("*.example.org",), "example.org", False),
        (("*.example.org",), "badexample.org", False),
        (("*",), "anything.test", True),
    ],
)
def test_hosts_are_allowed_by_name(hosts: tuple[str, ...], host: str, allowed: bool) -> None:
    assert is_allowed(host, settings(*hosts)) == allowed


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "2002:a00:1::",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
    ],
)
def test_what_is_not_public_is_not_reached_whatever_the_name(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    resolve_to(monkeypatch, PUBLIC, address)  # one among public ones is enough
    with pytest.raises(NotDelivered, match="is not public"):
        resolved("hooks.example.org", 443, settings("*"), is_encrypted=True)


def test_a_public_address_is_reached_encrypted_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, PUBLIC, "2606:2800:220:1::1")
    assert resolved("hooks.example.org", 443, settings("*"), is_encrypted=True) == [PUBLIC, "2606:2800:220:1::1"]
    with pytest.raises(NotDelivered, match="or not encrypted"):
        resolved("hooks.example.org", 80, settings("*"), is_encrypted=False)


def test_a_network_that_is_configured_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "10.1.2.3")
    assert resolved("hooks.test", 80, settings("*", private=("10.1.0.0/16",)), is_encrypted=False) == ["10.1.2.3"]
    with pytest.raises(NotDelivered):
        resolved("hooks.test", 80, settings("*", private=("10.2.0.0/16",)), is_encrypted=False)


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([PUBLIC, "127.0.0.1", "127.0.0.1"])  # a name that changes as soon as it was checked
    asked_for: list[str] = []

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        address = host if host == PUBLIC else next(answers)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443))]

    def connect(_: socket.socket, address: tuple[str, int]) -> None:
        asked_for.append(address[0])
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", connect)
    with pytest.raises(OSError, match="no network here"):
        webhook._post(webhook.checked_url("https://rebinding.test/", settings("*")), b"", {}, settings("*"))
    assert asked_for == [PUBLIC]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hooks.example.org",
        "ftp://hooks.example.org/",
        "https://",
        "https://user:secret@hooks.example.org/",
        "https://hooks.example.org:99999/",
        "https://hooks.example.org/a b",
        "https://hooks.example.org/a\r\nX: y",
        "https://hooks.exämple.org/",
        "https://other.example/",
        "file:///etc/passwd",
        "https://[::1/",
    ],
)
def test_what_is_no_webhook_is_refused(url: str) -> None:
    with pytest.raises(InvalidSubscription):
        webhook.checked_url(url, settings("hooks.example.org"))


def test_what_may_be_secret_in_an_address_is_not_shown() -> None:
    parts = webhook.checked_url("https://hooks.example.org:8443/services/T0/SECRET?token=SECRET", settings("*"))
    assert webhook.shown(parts) == "https://hooks.example.org:8443/…"
    made = settings("*", apprise_services=["slack"])
    shown, secrets = asked.reached("apprise", "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", made)
    assert shown == "slack://…"
    assert "TIiaj" not in repr(secrets)


@pytest.mark.parametrize(
    "address", ["json://127.0.0.1/", "slack://", "nothing", "mailto://a:b@gmail.com", "slack://\n"]
)
def test_services_are_allowed_by_name(address: str) -> None:
    with pytest.raises(InvalidSubscription):
        services.checked_service(address, settings("*", apprise_services=["slack"]))


@pytest.mark.parametrize("name", ["", "../x", "/etc/passwd", "a/b", ".hidden", "a\x00", "a\n", "x" * 101])
def test_a_feeds_file_stays_in_its_folder(name: str) -> None:
    with pytest.raises(InvalidSubscription):
        feeds.checked_file(name)


def test_a_feeds_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        feeds.write("maize.atom", content, settings(folder=tmp_path / "feeds"))
    assert [(one.name, one.read_bytes()) for one in (tmp_path / "feeds").iterdir()] == [("maize.atom", b"two")]


SQUARE = "POLYGON((5 52,6 52,6 53,5 53,5 52))"
GEOJSON = '{"type": "Polygon", "coordinates": [[[5, 52], [6, 52], [6, 53], [5, 53], [5, 52]]]}'


@pytest.mark.parametrize(
    "text",
    [
        SQUARE,
        GEOJSON,
        f'{{"type": "Feature", "properties": {{}}, "geometry": {GEOJSON}}}',
        f'{{"type": "FeatureCollection", "features": [{{"type": "Feature", "properties": {{}}, "geometry": {GEOJSON}}}]}}',
        "POLYGON Z((5 52 1,6 52 1,6 53 1,5 53 1,5 52 1))",
    ],
)
def test_a_drawn_area_is_geojson_or_wkt(text: str) -> None:
    assert shapely.from_wkt(asked.area(text)).equals(shapely.from_wkt(SQUARE))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "{",
        "{é",
        "{\ud800",
        "[]",
        '{"type": "Polygon"}',
        '{"type": "Polygon", "coordinates": [[[1]]]}',
        '{"type": "FeatureCollection", "features": []}',
        '{"type": "Feature", "geometry": null, "properties": null}',
        "POINT(5 52)",
        "POLYGON EMPTY",
        "POLYGON((0 0,1 1,1 0,0 1,0 0))",
        "POLYGON((150000 400000,150001 400000,150001 400001,150000 400000))",
        "POLYGON((5 52,6 52,nan 53,5 52))",
    ],
)
def test_what_is_no_area_is_refused_in_a_line(text: str) -> None:
    with pytest.raises(InvalidSubscription) as refused:
        asked.area(text)
    assert len(str(refused.value).splitlines()) == 1


@given(
    st.text(max_size=30)
    | st.recursive(
        st.none() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    ).map(str)
)
def test_any_text_is_an_area_a_time_or_refused(text: str) -> None:
    for read in (asked.area, asked.time_of_day, asked.quiet_hours, asked.duration, asked.zone):
        with contextlib.suppress(InvalidSubscription):
            read(text)


def test_times_and_durations() -> None:
    assert asked.quiet_hours("22:00-6:30") == (time(22), time(6, 30))
    assert [asked.duration(one) for one in ("30s", "15m", "2h", "1d")] == [30, 900, 7200, 86400]
    assert [asked.in_words(one) for one in (0, 30, 900, 7200, 86400, 5400)] == ["0d", "30s", "15m", "2h", "1d", "90m"]
    for bad in ("1w", "m", "-1h", "1.5h", "400d", "٣h"):
        with pytest.raises(InvalidSubscription):
            asked.duration(bad)


@pytest.mark.parametrize("zone", ["", "Europe", "/etc/passwd", "../x", "Nowhere/Land", "a\x00b", "localtime/.."])
def test_what_is_no_zone_is_refused(zone: str) -> None:
    with pytest.raises(InvalidSubscription):
        asked.zone(zone)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"name": "x" * 81},
        {"events": ["exploded"]},
        {"colours": ["blue"]},
        {"rules": ["none"]},
        {"except_rules": ["none"]},
        {"min_confidence": 2.0},
        {"min_confidence": float("nan")},
        {"quiet_from": time(6), "quiet_to": time(6)},
        {"zone": "Mars"},
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    values: dict[str, Any] = {"name": "a", "channel": "email", "address": "a@b", "events": ["opened"]}
    asked.check(Subscription(**values))
    with pytest.raises(InvalidSubscription):
        asked.check(Subscription(**values | wrong))
