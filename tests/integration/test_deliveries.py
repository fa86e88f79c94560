"""Messages to real receivers: what arrives, what is tried again, what ends; and the commands that show it."""

import json
import shutil
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import icalendar
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from standardwebhooks import Webhook
from typer.testing import CliRunner, Result

import parcelwatch
from db import deliveries, subscriptions
from db.connect import engine
from db.deliveries import DeliveryRow
from db.subscriptions import Secrets
from monitor.alerts.decisions import decide
from monitor.subscriptions import sender, services
from monitor.subscriptions.settings import DeliverySettings
from monitor.subscriptions.webhook import new_secret
from terminal.errors import UserError
from tests.receivers import kept, running
from tests.subscribed import NOW, add_parcels, open_alerts, subscribe


@pytest.fixture(scope="module")
def received(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int, Path]]:
    """Ports of a mail server and of a receiver of webhooks, and the file of what both accepted."""
    path = tmp_path_factory.mktemp("received") / "records"
    with running("smtp", path) as smtp, running("http", path) as http:
        yield smtp, http, path


@pytest.fixture
def asked(received: tuple[int, int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DeliverySettings:
    """Settings that reach these receivers; nothing was received yet."""
    received[2].write_text("")
    for name, value in {
        "SMTP_HOST": "127.0.0.1",
        "SMTP_PORT": received[0],
        "SMTP_SECURITY": "none",
        "SENDER": "parcelwatch@agency.example",
        "WEBHOOK_HOSTS": '["127.0.0.1", "localhost"]',
        "PRIVATE_NETWORKS": '["127.0.0.0/8", "::1/128"]',
        "FOLDER": tmp_path / "feeds",
        "TIMEOUT_S": 2,
        "GIVE_UP_AFTER": 3,
        "APPRISE_SERVICES": '["json"]',
    }.items():
        monkeypatch.setenv(f"PARCELWATCH_DELIVERIES_{name}", str(value))
    return DeliverySettings()


@pytest.fixture
def with_alerts(dsn: str, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Four parcels, the first with a hostile name; no alert yet."""
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    with engine(dsn).begin() as connection:
        return add_parcels(connection, 4, {0: "<b>x</b>\r\nBcc: all@example.org"})


def hook(received: tuple[int, int, Path], path: str = "hook") -> Secrets:
    return Secrets(f"http://127.0.0.1:{received[1]}/{path}", new_secret())


def rows(dsn: str) -> list[DeliveryRow]:
    with engine(dsn).begin() as connection:
        return deliveries.listed(connection, None, None, 100)


def send(dsn: str, asked: DeliverySettings, now: datetime) -> sender.Sent:
    return sender.pass_once(dsn, asked, lambda: now)


def test_an_email_arrives_in_both_forms(
    dsn: str, asked: DeliverySettings, received: tuple[int, int, Path], with_alerts: list[int]
) -> None:
    with engine(dsn).begin() as connection:
        subscribe(connection)
        open_alerts(connection, with_alerts[:1], colour="red")
    assert send(dsn, asked, NOW) == sender.Sent(1, 1, 0)
    (mail,) = kept(received[2])
    (row,) = rows(dsn)
    assert mail["key"] == f"<{row.idempotency_key}@agency.example>"
    assert mail["to"] == ["anna@example.org"]
    assert (
        mail["subject"]
        == "Parcelwatch, all: alert 1 opened by the monitor: crop_mismatch, red, parcel <b>x</b>  Bcc: all@example.org"
    )
    assert "Bcc" not in mail["headers"]
    assert "declared    Maize" in mail["text"]
    assert "&lt;b&gt;x&lt;/b&gt;" in mail["html"]
    assert "<b>" not in mail["html"]


def test_a_webhook_is_signed_so_that_the_library_of_receivers_agrees(
    dsn: str, asked: DeliverySettings, received: tuple[int, int, Path], with_alerts: list[int]
) -> None:
    secrets = hook(received)
    with engine(dsn).begin() as connection:
        subscribe(connection, secrets, channel="webhook")
        open_alerts(connection, with_alerts)
    assert sender.pass_once(dsn, asked, lambda: datetime.now(UTC)) == sender.Sent(4, 4, 0)
    assert secrets.signing is not None
    for one in kept(received[2]):
        made = Webhook(secrets.signing).verify(one["body"], one["headers"])
        assert one["headers"]["content-type"].startswith("application/cloudevents+json")
        assert (made["id"], made["specversion"]) == (one["key"], "1.0")
    assert sorted(json.loads(one["body"])["data"]["events"][0]["alert"] for one in kept(received[2])) == [1, 2, 3, 4]
    assert {one["key"] for one in kept(received[2])} == {str(row.idempotency_key) for row in rows(dsn)}


def test_a_receiver_that_is_away_is_tried_until_it_is_dead_and_then_by_hand(
    dsn: str, asked: DeliverySettings, received: tuple[int, int, Path], with_alerts: list[int]
) -> None:
    with engine(dsn).begin() as connection:
        key = subscribe(connection, hook(received, "503"), channel="webhook")
        open_alerts(connection, with_alerts[:1])
    now = NOW
    for attempt in (1, 2, 3):
        assert send(dsn, asked, now).failed == 1
        (row,) = rows(dsn)
        assert (row.attempts, row.state) == (attempt, "dead" if attempt == 3 else "pending")
        assert row.last_error == "the receiver answered 503"
        assert send(dsn, asked, now) == sender.Sent()  # it waits
        now = row.next_try_at
    assert send(dsn, asked, now + timedelta(days=9)) == sender.Sent()
    with engine(dsn).begin() as connection:
        connection.execute(
            sa.text("update subscription_secrets set address = :url where subscription_key = :key"),
            {"url": hook(received).address, "key": key},
        )
    assert "dead: all" in called("status").output
    assert "1 are tried again" in called("deliveries", "retry", "--all").output
    assert send(dsn, asked, datetime.now(UTC)).sent == 1
    (one,) = kept(received[2])
    assert one["key"] == str(row.idempotency_key)  # the key of the first attempt


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("302", "the receiver answered 302, a redirect, which is not followed"),
        ("400", "the receiver answered 400"),
        ("500", "the receiver answered 500"),
    ],
)
def test_any_other_answer_is_a_failure(
    dsn: str, asked: DeliverySettings, received: tuple[int, int, Path], with_alerts: list[int], path: str, error: str
) -> None:
    with engine(dsn).begin() as connection:
        subscribe(connection, hook(received, path), channel="webhook")
        open_alerts(connection, with_alerts[:1])
    send(dsn, asked, NOW)
    assert [(row.state, row.last_error) for row in rows(dsn)] == [("pending", error)]
    assert kept(received[2]) == []


def test_a_receiver_is_left_alone_for_as_long_as_it_asks(
    dsn: str, asked: DeliverySettings, received: tuple[int, int, Path], with_alerts: list[int]
) -> None:
    with engine(dsn).begin() as connection:
        subscribe(connection, hook(received, "429"), channel="webhook")
        open_alerts(connection, with_alerts[:1])
    send(dsn, asked, NOW)
    assert rows(dsn)[0].next_try_at == NOW + timedelta(hours=1)


@pytest.mark.parametrize("channel", ["webhook", "email"])
def test_an_address_that_is_refused_for_good_suspends_its_subscription_until_it_is_changed(
    dsn: str, asked: DeliverySettings, received: tuple[int, int, Path], with_alerts: list[int], channel: str
) -> None:
    is_hook = channel == "webhook"
    with engine(dsn).begin() as connection:
        secrets = hook(received, "410") if is_hook else Secrets()
        subscribe(connection, secrets, channel=channel, address="gone@refused.test")
        open_alerts(connection, with_alerts[:2])
    assert send(dsn, asked, NOW) == sender.Sent(2, 0, 1)  # the second is not tried
    assert [row.state for row in rows(dsn)] == ["suspended", "suspended"]
    said = called("subscriptions", "list").output
    assert "suspended 2025-06-01" in said
    assert "suspended: all" in called("status").output
    assert ("410" if is_hook else "550 5.1.1 no such user") in " ".join(said.split())
    with engine(dsn).begin() as connection:
        open_alerts(connection, with_alerts[2:3])
    assert send(dsn, asked, NOW + timedelta(days=1)) == sender.Sent()
    to = hook(received).address if is_hook else "anna@example.org"
    called("subscriptions", "change", "all", "--to", str(to))
    assert send(dsn, asked, datetime.now(UTC)).sent == 3
    assert len(kept(received[2])) == 3


@pytest.mark.parametrize("address", ["anna@busy.test", "anna@policy.test"])
def test_a_mail_server_that_refuses_us_or_is_busy_suspends_nobody(
    dsn: str, asked: DeliverySettings, with_alerts: list[int], address: str
) -> None:
    with engine(dsn).begin() as connection:
        subscribe(connection, address=address)
        open_alerts(connection, with_alerts[:1])
    send(dsn, asked, NOW)
    assert [row.state for row in rows(dsn)] == ["pending"]


def test_a_receiver_that_is_away_does_not_hold_up_the_others(
    dsn: str, asked: DeliverySettings, received: tuple[int, int, Path], with_alerts: list[int]
) -> None:
    with engine(dsn).begin() as connection:
        away = subscribe(connection, hook(received, "503"), channel="webhook", name="away")
        open_alerts(connection, with_alerts)
        sender.form(dsn, asked, NOW)
        subscribe(connection, hook(received), channel="webhook", name="there")
        open_alerts(connection, with_alerts[:2], rule="early_loss")
    now, tries = NOW, []
    for _ in range(240):  # an hour
        done = send(dsn, asked, now)
        tries.append((done.sent, done.failed))
        now += timedelta(seconds=15)
    assert tries[0] == (2, 1)  # those of the other at once, of this one a single attempt
    assert 5 <= sum(failed for _, failed in tries) <= 10  # not six times as many as for one message
    assert {row.attempts for row in rows(dsn) if row.subscription == "away"} <= {1, 2, 3}
    with engine(dsn).begin() as connection:
        connection.execute(
            sa.text("update subscription_secrets set address = :url where subscription_key = :key"),
            {"url": hook(received).address, "key": away},
        )
    for _ in range(60):
        send(dsn, asked, now)
        now += timedelta(seconds=15)
    assert {row.state for row in rows(dsn)} <= {"sent", "dead"}
    assert [row.attempts for row in rows(dsn) if row.state == "dead"] == [3] * sum(
        row.state == "dead" for row in rows(dsn)
    )


def test_a_message_that_senders_die_of_is_given_up(
    dsn: str, asked: DeliverySettings, received: tuple[int, int, Path], with_alerts: list[int]
) -> None:
    with engine(dsn).begin() as connection:
        key = subscribe(connection)
        open_alerts(connection, with_alerts[:1])
    sender.form(dsn, asked, NOW)
    for _ in range(3):  # as often as it may be tried
        with engine(dsn).begin() as connection:
            assert deliveries.claim(connection, key, NOW, NOW) is not None
    assert send(dsn, asked, NOW).failed == 1
    assert [row.state for row in rows(dsn)] == ["dead"]
    assert kept(received[2]) == []


def test_what_was_sent_is_removed_after_its_days_and_what_is_dead_stays_until_somebody_decides(
    dsn: str, asked: DeliverySettings, received: tuple[int, int, Path], with_alerts: list[int]
) -> None:
    with engine(dsn).begin() as connection:
        subscribe(connection, hook(received, "503"), channel="webhook", name="away")
        subscribe(connection, name="there")
        open_alerts(connection, with_alerts[:1])
    once = asked.model_copy(update={"give_up_after": 1, "keep_days": 30})
    assert send(dsn, once, NOW) == sender.Sent(2, 1, 1)
    send(dsn, once, NOW + timedelta(days=30))
    assert sorted(row.state for row in rows(dsn)) == ["dead", "sent"], "a day has not passed"
    send(dsn, once, NOW + timedelta(days=30, seconds=1))
    assert [(row.subscription, row.state, row.events) for row in rows(dsn)] == [("away", "dead", 1)]
    send(dsn, once, NOW + timedelta(days=3000))
    (dead,) = rows(dsn)
    assert "1 are discarded" in called("deliveries", "discard", str(dead.idempotency_key), "--by", "anna").output
    assert "1 are tried again" not in called("deliveries", "retry", "--all").output
    (discarded,) = rows(dsn)
    assert (discarded.state, discarded.last_error) == ("discarded", "discarded by anna: the receiver answered 503")
    send(dsn, once, datetime.now(UTC) + timedelta(days=31))
    assert rows(dsn) == []
    with engine(dsn).begin() as connection:
        left = connection.execute(sa.text("select count(*) from outbox")).scalar_one()
        logged = connection.execute(sa.text("select count(*) from alert_events")).scalar_one()
    assert (left, logged) == (0, 1)


def test_finished_deliveries_are_removed_by_index_in_bounded_parts(dsn: str, with_alerts: list[int]) -> None:
    with engine(dsn).begin() as connection:
        key = subscribe(connection)
        open_alerts(connection, with_alerts)
        connection.execute(
            sa.text("""with made as (
                           insert into deliveries (idempotency_key, subscription_key, state, formed_at, next_try_at, ended_at)
                           select gen_random_uuid(), :key, case when nr % 50 = 0 then 'dead' else 'sent' end, at, at, at
                           from generate_series(1, 20000) nr,
                                lateral (select timestamptz '2025-01-01' + nr * interval '1 min') t (at)
                           returning delivery_key)
                       update outbox set delivery_key = (select min(delivery_key) from made)"""),
            {"key": key},
        )
        connection.execute(sa.text("analyze deliveries"))
        before = {"before": datetime(2025, 1, 2, tzinfo=UTC)}
        plan = connection.execute(sa.text(f"explain {deliveries._REMOVE_FINISHED}"), before | {"limit": 100}).scalars()
        assert "deliveries_finished" in "\n".join(plan)
        removed: list[int] = []
        while not removed or removed[-1]:
            removed.append(deliveries.remove_finished(connection, limit=1000, **before))
        assert removed == [1000, 411, 0]  # of 1,439 minutes every fiftieth is dead
        assert connection.execute(sa.text("select count(*) from outbox")).scalar_one() == 0


class Dripping(socketserver.BaseRequestHandler):
    """Answers a byte at a time, without end; or with more than anyone wants."""

    def handle(self) -> None:
        content = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 10**8 if self.server.is_large else b""  # type: ignore[attr-defined]
        try:
            self.request.recv(65536)
            self.request.sendall(content)
            for byte in b"HTTP/1.1 200 OK\r\nX-Y: " + b"z" * 1000:
                self.request.sendall(bytes([byte]))
                time.sleep(0.2)
        except OSError:
            pass


@contextmanager
def dripping(is_large: bool) -> Iterator[int]:
    """Run such a receiver within the context; yields its port."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Dripping) as server:
        server.daemon_threads, server.is_large = True, is_large  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize("is_large", [False, True])
def test_an_answer_is_read_for_so_long_and_so_far(
    dsn: str, asked: DeliverySettings, with_alerts: list[int], is_large: bool
) -> None:
    with dripping(is_large) as port, engine(dsn).begin() as connection:
        subscribe(connection, Secrets(f"http://127.0.0.1:{port}/", new_secret()), channel="webhook")
        open_alerts(connection, with_alerts[:1])
        connection.commit()
        begun = time.monotonic()
        send(dsn, asked, NOW)
        assert time.monotonic() - begun < 10
    (row,) = rows(dsn)
    assert (row.state, row.last_error) == (
        ("sent", None) if is_large else ("pending", "TimeoutError: no complete answer within 2 s")
    )


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is missing: TLS is not tested")
    folder = tmp_path_factory.mktemp("certificate")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    made = [*command.split(), "-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run(made, check=True, capture_output=True)
    return folder / "certificate.pem", folder / "key.pem"


def test_a_webhook_over_tls_is_for_the_name_though_the_connection_goes_to_an_address(
    dsn: str, asked: DeliverySettings, with_alerts: list[int], certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    with running("http", tmp_path / "records", *certificate) as port, engine(dsn).connect() as connection:
        for host in ("localhost", "127.0.0.1"):  # the certificate is not for the address
            subscribe(connection, Secrets(f"https://{host}:{port}/hook", new_secret()), channel="webhook", name=host)
        open_alerts(connection, with_alerts[:1])
        connection.commit()
        assert send(dsn, asked.model_copy(update={"ca_file": certificate[0]}), NOW) == sender.Sent(2, 1, 1)
        assert len(kept(tmp_path / "records")) == 1
        open_alerts(connection, with_alerts[1:2])
        connection.commit()
        send(dsn, asked, NOW)  # nobody vouches for the certificate
    errors = {row.subscription: row.last_error for row in rows(dsn) if row.state == "pending"}
    assert "CERTIFICATE_VERIFY_FAILED" in str(errors["localhost"])
    assert "IP address mismatch" in str(errors["127.0.0.1"])


def test_a_mail_server_is_spoken_to_over_tls_with_a_login(
    dsn: str, asked: DeliverySettings, with_alerts: list[int], certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    with running("smtp", tmp_path / "records", *certificate) as port, engine(dsn).connect() as connection:
        subscribe(connection)
        open_alerts(connection, with_alerts[:1])
        connection.commit()
        login = {"smtp_user": "parcelwatch", "smtp_password": SecretStr("secret")}
        server = {"smtp_host": "localhost", "smtp_port": port, "smtp_security": "starttls"}
        secured = asked.model_copy(update=server | login | {"ca_file": certificate[0], "give_up_after": 99})
        for wrong, error in (
            ({"ca_file": None}, "CERTIFICATE_VERIFY_FAILED"),
            ({"smtp_host": "127.0.0.1"}, "IP address mismatch"),
            ({"smtp_password": SecretStr("wrong")}, "535"),
            ({"smtp_security": "none", "smtp_user": None}, "530"),
        ):
            connection.execute(sa.text("update deliveries set next_try_at = :now"), {"now": NOW})
            connection.execute(sa.text("update subscriptions set not_before = null"))
            connection.commit()
            send(dsn, secured.model_copy(update=wrong), NOW)
            assert error in str(rows(dsn)[0].last_error)
            assert rows(dsn)[0].state == "pending"
        assert send(dsn, secured, rows(dsn)[0].next_try_at).sent == 1
    assert len(kept(tmp_path / "records")) == 1


def test_a_name_that_leads_to_this_machine_is_not_followed(
    dsn: str, asked: DeliverySettings, received: tuple[int, int, Path], with_alerts: list[int]
) -> None:
    with engine(dsn).begin() as connection:
        subscribe(connection, Secrets(f"http://localhost:{received[1]}/hook", new_secret()), channel="webhook")
        open_alerts(connection, with_alerts[:1])
    closed = asked.model_copy(update={"private_networks": []})
    send(dsn, closed, NOW)
    assert "which is not public" in str(rows(dsn)[0].last_error)
    assert kept(received[2]) == []
    (row,) = rows(dsn)
    assert send(dsn, asked, row.next_try_at).sent == 1


def test_a_digest_is_one_message_in_parts_that_a_mailbox_takes(
    dsn: str, asked: DeliverySettings, received: tuple[int, int, Path], with_alerts: list[int]
) -> None:
    with engine(dsn).begin() as connection:
        subscribe(connection, mode="daily", zone="Europe/Amsterdam")
        open_alerts(connection, with_alerts)
    small = asked.model_copy(update={"message_events": 3})
    assert send(dsn, small, NOW + timedelta(hours=16)) == sender.Sent()
    assert send(dsn, small, datetime(2025, 6, 2, 5, tzinfo=UTC)) == sender.Sent(2, 2, 0)
    assert min(mail["subject"] for mail in kept(received[2])) == "Parcelwatch, all: 3 alerts (3 yellow)"


def test_all_is_sent_however_much_it_is(
    dsn: str, asked: DeliverySettings, received: tuple[int, int, Path], with_alerts: list[int]
) -> None:
    with engine(dsn).begin() as connection:
        subscribe(connection, hook(received), channel="webhook")
        for nr in range(sender.ROUNDS // 2):
            open_alerts(connection, with_alerts, rule=f"rule {nr}")
    assert send(dsn, asked, NOW).sent == sender.ROUNDS
    assert sender.send_all(dsn, asked, lambda: NOW).sent == sender.ROUNDS
    assert len({one["key"] for one in kept(received[2])}) == 2 * sender.ROUNDS


def test_what_nobody_foresaw_stops_no_other_message(
    dsn: str, asked: DeliverySettings, with_alerts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine(dsn).begin() as connection:
        subscribe(connection, channel="apprise", name="broken")
        subscribe(connection)
        open_alerts(connection, with_alerts[:1])
    monkeypatch.setattr(services, "send", lambda *_: 1 / 0)
    assert send(dsn, asked, NOW) == sender.Sent(2, 1, 1)
    assert {row.last_error for row in rows(dsn)} == {None, "ZeroDivisionError: division by zero"}


def test_apprise_reaches_a_service(
    dsn: str, asked: DeliverySettings, received: tuple[int, int, Path], with_alerts: list[int]
) -> None:
    with engine(dsn).begin() as connection:
        subscribe(connection, Secrets(f"json://127.0.0.1:{received[1]}/hook"), channel="apprise", address="json://…")
        open_alerts(connection, with_alerts[1:2])
    assert send(dsn, asked, NOW).sent == 1
    (one,) = kept(received[2])
    assert (
        json.loads(one["body"])["title"]
        == "Parcelwatch, all: alert 1 opened by the monitor: crop_mismatch, yellow, parcel parcel-1"
    )
    with engine(dsn).begin() as connection:
        open_alerts(connection, with_alerts[2:3])
    send(dsn, asked.model_copy(update={"private_networks": []}), NOW)
    assert "which is not public" in str(rows(dsn)[0].last_error)


def test_feeds_hold_what_was_delivered_and_calendars_what_is_due(
    dsn: str, asked: DeliverySettings, with_alerts: list[int], tmp_path: Path
) -> None:
    with engine(dsn).begin() as connection:
        subscribe(connection, name="feed", channel="atom", address="all.atom")
        subscribe(connection, name="due", channel="icalendar", address="due.ics", events=["requested", "answered"])
        first, second = open_alerts(connection, with_alerts[:2])
        decide(
            connection, first, "requested", "soon", "anna", NOW, details={"deadline": "tomorrow"}
        )  # no time: left out
        for alert in (first, second):
            decide(
                connection,
                alert,
                "requested",
                "a photo",
                "anna",
                NOW,
                details={"deadline": "2025-07-01T10:00:00+00:00"},
            )
        decide(connection, second, "answered", "grazed", "anna", NOW)
    called("subscriptions", "change", "feed", "--min-interval", "1h")  # a feed may be slow, too
    assert send(dsn, asked, NOW).failed == 0
    feed = ElementTree.parse(tmp_path / "feeds" / "all.atom").getroot()
    assert len(feed.findall("{http://www.w3.org/2005/Atom}entry")) == 2
    entries = icalendar.Calendar.from_ical((tmp_path / "feeds" / "due.ics").read_bytes()).walk("VEVENT")
    assert [str(entry["STATUS"]) for entry in entries] == ["CONFIRMED", "CANCELLED"]
    assert entries[0].decoded("DTSTART") == datetime(2025, 7, 1, 10, tzinfo=UTC)
    before = (tmp_path / "feeds" / "all.atom").read_bytes()
    called("subscriptions", "test", "feed")
    assert (tmp_path / "feeds" / "all.atom").read_bytes() == before


# The commands.


def called(*arguments: str) -> Result:
    """Return what a command printed; an error of ours is raised."""
    result = CliRunner().invoke(parcelwatch.app, list(arguments))
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.usefixtures("asked")
def test_a_subscription_from_adding_to_removing(
    dsn: str, received: tuple[int, int, Path], with_alerts: list[int], tmp_path: Path
) -> None:
    (tmp_path / "area.json").write_text(
        '{"type": "Polygon", "coordinates": [[[5, 52], [5.02, 52], [5.02, 53], [5, 53], [5, 52]]]}'
    )
    url = f"http://127.0.0.1:{received[1]}/hook?token=TOKEN"
    options = [
        "--crop",
        "MAIZE",
        "--area",
        str(tmp_path / "area.json"),
        "--except-region",
        "r1",
        "--min-confidence",
        "0.5",
    ]
    when = ["--when", "grouped", "--within", "15m", "--quiet", "22:00-06:00", "--zone", "Europe/Amsterdam"]
    added = called(
        "subscriptions", "add", "maize", "--channel", "webhook", "--to", url, *options, *when, "--by", "anna"
    ).output
    assert "no stored parcel" not in added
    unknown = called("subscriptions", "change", "maize", "--crop", "mais", "--crop", "Maize", "--region", "NL32").output
    assert "has the region 'NL32' yet" in unknown
    assert "has the crop 'mais' yet: `parcelwatch parcels list`" in unknown
    assert unknown.count("no stored parcel") == 2
    called("subscriptions", "change", "maize", "--crop", "maize", "--any", "region")
    secret = added.split("shown this once: ")[1].strip()
    assert secret.startswith("whsec_")
    with engine(dsn).begin() as connection:
        open_alerts(connection, with_alerts)
    for command in (["list"], ["show", "maize"], ["list", "--json"], ["show", "maize", "--json"]):
        shown = called("subscriptions", *command).output
        assert "maize" in shown
        assert "TOKEN" not in shown
        assert secret not in shown
    preview = json.loads(called("deliveries", "preview", "maize").output)
    assert [event["alert"] for event in preview["data"]["events"]] == [1]
    called("subscriptions", "test", "maize")
    assert Webhook(secret).verify(kept(received[2])[0]["body"], kept(received[2])[0]["headers"])["data"]["events"]
    waits = "no deliveries; events wait: `parcelwatch deliveries run` sends each as it becomes due"
    assert called("deliveries", "list").output.strip() == waits
    assert called("deliveries", "list", "--subscription", "maize").output.strip() == waits
    for other in (["--subscription", "wheat"], ["--state", "dead"]):
        assert called("deliveries", "list", *other).output.strip() == "no deliveries"
    called(
        "subscriptions", "change", "maize", "--when", "immediate", "--any", "quiet", "--any", "crop", "--rename", "all"
    )
    assert "1 formed, 1 sent, 0 failed" in called("deliveries", "run", "--once").output
    (row,) = [json.loads(line) for line in called("deliveries", "list", "--json").output.splitlines()]
    assert (row["state"], row["events"], row["subscription"]) == ("sent", 1, "all")
    with engine(dsn).begin() as connection:
        (found,) = subscriptions.stored(connection)
        assert (found.asked.crops, found.asked.quiet_from, found.asked.except_regions) == (None, None, ["r1"])
        assert subscriptions.secrets_of(connection, found.subscription_key).signing == secret
    called("subscriptions", "remove", "all")
    assert "no subscriptions" in called("subscriptions", "list").output
    assert "sent" in called("deliveries", "list").output
    with engine(dsn).begin() as connection:
        assert connection.execute(sa.text("select count(*) from subscription_secrets")).scalar_one() == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["subscriptions", "add", "a", "--channel", "pigeon", "--to", "x"], "'pigeon' is no channel"),
        (["subscriptions", "add", "a", "--channel", "email", "--to", "x"], "an e-mail address is NAME@HOST"),
        (["subscriptions", "add", "a", "--channel", "webhook", "--to", "https://other.example/"], "is not allowed"),
        (
            ["subscriptions", "add", "a", "--channel", "email", "--to", "a@b", "--rule", "x"],
            "is none of rules: crop_mismatch",
        ),
        (["subscriptions", "add", "a", "--channel", "email", "--to", "a@b", "--colour", "x"], "is none of colours"),
        (["subscriptions", "add", "a", "--channel", "email", "--to", "a@b", "--when", "x"], "is no --when"),
        (["subscriptions", "add", "a", "--channel", "email", "--to", "a@b", "--day", "x"], "is no day of the week"),
        (["subscriptions", "add", "a", "--channel", "email", "--to", "a@b", "--area", "/none"], "cannot be read"),
        (["subscriptions", "add", "a\nb", "--channel", "email", "--to", "a@b"], "printable characters"),
        (["subscriptions", "show", "none"], "there is no subscription 'none'"),
        (["subscriptions", "change", "none"], "there is no subscription 'none'"),
        (["subscriptions", "remove", "none"], "there is no subscription 'none'"),
        (["subscriptions", "test", "none"], "there is no subscription 'none'"),
        (["deliveries", "preview", "none"], "there is no subscription 'none'"),
    ],
)
@pytest.mark.usefixtures("asked", "with_alerts")
def test_what_cannot_be_is_said_in_a_line(arguments: list[str], line: str) -> None:
    with pytest.raises(UserError) as refused:
        called(*arguments)
    assert line in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.usefixtures("asked", "with_alerts")
def test_a_name_is_taken_once() -> None:
    add = ["subscriptions", "add", "--channel", "email", "--to", "a@b"]
    called(*add, "one")
    called(*add, "two")
    for again in ([*add, "one"], ["subscriptions", "change", "two", "--rename", "one"]):
        with pytest.raises(UserError, match="there is a subscription 'one' already"):
            called(*again)


@pytest.mark.usefixtures("asked", "with_alerts")
def test_a_lease_outlasts_an_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARCELWATCH_DELIVERIES_LEASE_S", "5")
    with pytest.raises(UserError, match="at least three times"):
        called("deliveries", "run", "--once")


@pytest.mark.usefixtures("asked", "with_alerts")
def test_obligations_of_policies_are_rules(dsn: str) -> None:
    add = [
        "subscriptions",
        "add",
        "a",
        "--channel",
        "email",
        "--to",
        "a@b",
        "--rule",
        "mown_by_july",
        "--scheme",
        "grassland",
    ]
    with pytest.raises(UserError, match="is none of rules"):
        called(*add)
    with engine(dsn).begin() as connection:
        connection.execute(
            sa.text("""insert into policies (season_key, collection, name, version, hash, content, decided_by, reason, recorded_at)
                       select season_key, 'nl', 'grassland', 1, repeat('0', 64), '{"obligation": [{"name": "mown_by_july"}]}',
                              'anna', 'in force', now() from seasons""")
        )
    called(*add)
