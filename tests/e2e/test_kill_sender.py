"""Senders and receivers are killed at random moments, on a real clock: each alert arrives, under one key, and no key twice."""

import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from os import environ
from pathlib import Path

import pytest
import sqlalchemy as sa

from db.connect import engine
from db.subscriptions import Secrets
from devstack.process import free_port
from monitor.subscriptions.webhook import new_secret
from tests.receivers import kept, start
from tests.subscribed import add_parcels, open_alerts, subscribe

N_BATCHES, N_PER_BATCH, N_SENDERS = 15, 8, 3
PAUSE_S = 0.4
"""Of the receiver between keeping and answering, at most: senders and receiver are killed within it nearly each time."""
PATIENCE_S = 120.0
ROOT = Path(__file__).parents[2]
# The command by itself, as in the tests of the consumer: the start is the most of each life.
COMMAND = [sys.executable, "-c", "from monitor.subscriptions.delivery_commands import app; app()", "run"]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["http", "smtp"])
def test_each_alert_arrives_once_by_its_key_through_kills(
    dsn: str, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, port, chance = tmp_path / "received", free_port(None), random.Random(20260101)
    settings = {
        **environ,
        "PYTHONPATH": str(ROOT),
        "PARCELWATCH_DSN": dsn,
        "PARCELWATCH_DELIVERIES_SMTP_HOST": "127.0.0.1",
        "PARCELWATCH_DELIVERIES_SMTP_PORT": str(port),
        "PARCELWATCH_DELIVERIES_SMTP_SECURITY": "none",
        "PARCELWATCH_DELIVERIES_WEBHOOK_HOSTS": '["127.0.0.1"]',
        "PARCELWATCH_DELIVERIES_PRIVATE_NETWORKS": '["127.0.0.0/8"]',
        "PARCELWATCH_DELIVERIES_INTERVAL_S": "0.1",
        "PARCELWATCH_DELIVERIES_TIMEOUT_S": "1",
        "PARCELWATCH_DELIVERIES_LEASE_S": "3",
        "PARCELWATCH_DELIVERIES_RETRY_S": "0.2",
        "PARCELWATCH_DELIVERIES_LONGEST_WAIT_S": "1",
        "PARCELWATCH_DELIVERIES_GIVE_UP_AFTER": "1000",
    }
    with engine(dsn).begin() as connection:
        parcels = add_parcels(connection, N_BATCHES * N_PER_BATCH, step=0.003)  # near enough for one incident of losses
        channel = {"channel": "webhook"} if kind == "http" else {"channel": "email", "address": "anna@example.org"}
        secrets = Secrets(f"http://127.0.0.1:{port}/hook", new_secret()) if kind == "http" else Secrets()
        subscribe(connection, secrets, **channel)
        subscribe(connection, secrets, name="grouped", mode="grouped", within_s=1, **channel)
        subscribe(connection, secrets, name="losses", rules=("early_loss",), **channel)

    monkeypatch.setenv("RECEIVER_PAUSE_S", str(PAUSE_S))

    def sender() -> subprocess.Popen[bytes]:
        return subprocess.Popen(COMMAND, env=settings, stderr=subprocess.DEVNULL)

    senders, receiver = [sender() for _ in range(N_SENDERS)], start(kind, port, path)
    kills, written, next_kill, begun = {"sender": 0, "receiver": 0}, 0, 5, time.monotonic()
    try:
        while time.monotonic() - begun < PATIENCE_S and (written < N_BATCHES or unsent(dsn)):
            if written < N_BATCHES and unsent(dsn) < 3 * N_PER_BATCH:
                with engine(dsn).begin() as connection:
                    batch, now = parcels[written * N_PER_BATCH :][:N_PER_BATCH], datetime.now(UTC)
                    open_alerts(connection, batch, now)
                    open_alerts(connection, batch, now, rule="early_loss")
                written += 1
            if (
                written < N_BATCHES and len(kept(path)) >= next_kill
            ):  # messages flow: killed while starting they prove nothing
                next_kill = len(kept(path)) + chance.randint(4, 16)
                if kills["sender"] == 2 * kills["receiver"] + 2:
                    receiver.send_signal(signal.SIGKILL)
                    receiver.wait()
                    kills["receiver"] += 1
                    receiver = start(kind, port, path)
                else:
                    senders[0].send_signal(signal.SIGKILL)  # the one that lives longest: it is at work
                    senders.pop(0).wait()
                    kills["sender"] += 1
                    senders.append(sender())
            time.sleep(0.05)
    finally:
        for process in (*senders, receiver):
            process.kill()
            process.wait()
    assert unsent(dsn) == 0
    assert kills["sender"] >= 4
    assert kills["receiver"] >= 2
    expected = messages(dsn)
    print(f"{kind}: {len(expected)} messages, {len(kept(path))} receptions, {kills}")
    assert len(kept(path)) > len(expected)  # the kills left some without an answer, which came again
    received: dict[str, str] = {}
    for one in kept(path):  # by its key: what comes again is the same message, and counts once
        key = one["key"].strip("<>").partition("@")[0]
        content = one["text"] if kind == "smtp" else one["body"]
        assert received.setdefault(key, content) == content
    assert received.keys() == {key for _, key, _ in expected}
    for _, key, alerts in expected:
        assert all(str(alert) in received[key] for alert in alerts)
    folded, all_alerts = folded_alerts(dsn), set(range(1, 2 * N_BATCHES * N_PER_BATCH + 1))
    for subscription in {key for key, _, _ in expected}:
        alerts = [alert for one, _, found in expected if one == subscription for alert in found]
        alerts += folded.get(subscription, [])
        assert len(alerts) == len(set(alerts))
        assert set(alerts) in (all_alerts, losses(dsn))
    assert [len(alerts) > N_PER_BATCH for alerts in folded.values()] == [
        True,
        True,
    ]  # the losses, where they are immediate


def unsent(dsn: str) -> int:
    """Return the events that are not delivered yet."""
    with engine(dsn).begin() as connection:
        return int(
            connection.execute(
                sa.text("""select count(*) from outbox left join deliveries using (delivery_key)
                           where coalesce(state, 'pending') not in ('sent', 'folded')""")
            ).scalar_one()
        )


def messages(dsn: str) -> list[tuple[int, str, list[int]]]:
    """Return the messages: subscription, key, alerts."""
    with engine(dsn).begin() as connection:
        rows = connection.execute(
            sa.text("""select d.subscription_key, idempotency_key::text as key, array_agg(alert_key) as alerts
                       from outbox join deliveries d using (delivery_key) where state <> 'folded' group by 1, 2""")
        )
        return [(row.subscription_key, row.key, row.alerts) for row in rows]


def folded_alerts(dsn: str) -> dict[int, list[int]]:
    """Return the alerts that were folded into messages that were sent, by subscription."""
    with engine(dsn).begin() as connection:
        rows = connection.execute(
            sa.text("""select d.subscription_key, array_agg(alert_key) as alerts
                       from outbox join deliveries d using (delivery_key) join deliveries told on told.delivery_key = d.folded_into
                       where told.state = 'sent' group by 1""")
        )
        return {row.subscription_key: row.alerts for row in rows}


def losses(dsn: str) -> set[int]:
    """Return the alerts of losses."""
    with engine(dsn).begin() as connection:
        return set(connection.execute(sa.text("select alert_key from alerts where rule = 'early_loss'")).scalars())
