"""The outbox: filled with the alert, of what the filter passes; formed and claimed once; by index however much was delivered."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import shapely
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from db import deliveries, subscriptions
from db.connect import engine
from monitor.alerts.decisions import decide
from monitor.subscriptions import sender
from monitor.subscriptions.settings import DeliverySettings
from tests.subscribed import CROPS, NOW, add_parcels, open_alerts, subscribe

SQUARE = "MULTIPOLYGON(((5.012 51,5.031 51,5.031 53,5.012 53,5.012 51)))"
"""Touches parcels 1 (up to 5.015), 2 and 3."""


@pytest.fixture
def connection(dsn: str) -> Iterator[sa.Connection]:
    with engine(dsn).connect() as opened:
        yield opened


def outbox(connection: sa.Connection) -> list[tuple[int, int]]:
    """Return subscription and alert of what is in the outbox, in order."""
    rows = connection.execute(sa.text("select subscription_key, alert_key from outbox order by 1, event_nr"))
    return [(row.subscription_key, row.alert_key) for row in rows]


PARCELS = [
    {
        "region": f"r{nr % 3}",
        "crop": {CROPS[nr % 3].lower(), f"c{nr % 3}"},
        "square": shapely.box(5 + nr * 0.01, 52, 5.005 + nr * 0.01, 52.005),
    }
    for nr in range(6)
]
SCHEMES = (None, "grassland.toml", "crops.toml")
ALERTS = st.fixed_dictionaries(
    {
        "parcel": st.integers(0, 5),
        "rule": st.sampled_from(["crop_mismatch", "early_loss"]),
        "colour": st.sampled_from(["green", "yellow", "red"]),
        "confidence": st.sampled_from([0.25, 0.5, 0.75]),
        "scheme": st.sampled_from(SCHEMES),
    }
)


def some(values: Sequence[str]) -> st.SearchStrategy[list[str] | None]:
    return st.none() | st.lists(st.sampled_from(values), min_size=1, max_size=2)


REGIONS, CROP_NAMES = ("r0", "r1", "nowhere"), ("MAIZE", "c1", "Winter wheat", "hops")
AREAS = st.sampled_from([None, SQUARE])
FILTERS = st.fixed_dictionaries(
    {
        "regions": some(REGIONS),
        "crops": some(CROP_NAMES),
        "schemes": some(["grassland.toml", "x"]),
        "rules": some(["crop_mismatch", "early_loss"]),
        "colours": some(["yellow", "red"]),
        "min_confidence": st.sampled_from([None, 0.5, 0.6]),
        "area": AREAS,
        "except_regions": some(REGIONS),
        "except_crops": some(CROP_NAMES),
        "except_schemes": some(["grassland.toml", "x"]),
        "except_rules": some(["crop_mismatch"]),
        "except_area": AREAS,
    }
)


def passes(wanted: dict[str, Any], alert: dict[str, Any]) -> bool:
    """Return whether a filter passes an alert, said in the plainest way: what the database is compared with."""
    parcel = PARCELS[alert["parcel"]]

    def has(values: list[str] | None, own: set[str | None], default: bool) -> bool:
        return default if values is None else bool({one.lower() for one in values} & own)

    def touches(area: str | None, default: bool) -> bool:
        return default if area is None else bool(shapely.from_wkt(area).intersects(parcel["square"]))

    own = {
        "regions": {parcel["region"]},
        "crops": parcel["crop"],
        "schemes": {alert["scheme"]},
        "rules": {alert["rule"]},
    }
    return (
        all(has(wanted[name], values, True) for name, values in own.items())
        and not any(has(wanted[f"except_{name}"], values, False) for name, values in own.items())
        and has(wanted["colours"], {alert["colour"]}, True)
        and alert["confidence"] >= (wanted["min_confidence"] or 0)
        and touches(wanted["area"], True)
        and not touches(wanted["except_area"], False)
    )


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    wanted=st.lists(FILTERS, min_size=1, max_size=4),
    found=st.lists(ALERTS, min_size=1, max_size=6, unique_by=lambda one: (one["parcel"], one["rule"])),
)
def test_the_outbox_holds_what_the_filter_passes(
    connection: sa.Connection, wanted: list[dict[str, Any]], found: list[dict[str, Any]]
) -> None:
    with connection.begin() as transaction:
        parcels = add_parcels(connection, 6)
        keys = [subscribe(connection, name=str(nr), **one) for nr, one in enumerate(wanted)]
        alerts = []
        for one in found:
            evidence = {"reason": "x"} | ({"policy": one["scheme"]} if one["scheme"] else {})
            alerts += open_alerts(
                connection,
                [parcels[one["parcel"]]],
                colour=one["colour"],
                rule=one["rule"],
                confidence=one["confidence"],
                evidence=evidence,
            )
        expected = {
            (key, alert)
            for key, filter_ in zip(keys, wanted, strict=True)
            for alert, one in zip(alerts, found, strict=True)
            if passes(filter_, one)
        }
        assert set(outbox(connection)) == expected
        transaction.rollback()


def test_the_outbox_is_of_the_alerts_own_transaction(connection: sa.Connection) -> None:
    with connection.begin():
        parcels = add_parcels(connection, 2)
        subscribe(connection)
    with connection.begin() as transaction:
        open_alerts(connection, parcels)
        assert len(outbox(connection)) == 2
        transaction.rollback()
    with connection.begin():
        assert outbox(connection) == []


def test_what_people_decide_is_sent_to_who_asked_for_it(connection: sa.Connection) -> None:
    with connection.begin():
        (parcel,) = add_parcels(connection, 1)
        every = subscribe(connection, events=["opened", "dismissed", "commented"])
        subscribe(connection, name="closed", events=["closed"])
        (alert,) = open_alerts(connection, [parcel])
        decide(connection, alert, "acknowledged", None, "anna", NOW)
        decide(connection, alert, "dismissed", "seen on the road", "anna", NOW)
        decide(connection, alert, "commented", "no maize here", "bert", NOW)
        assert outbox(connection) == [(every, alert)] * 3
        assert [event.event for event in deliveries.waiting_events(connection, every, 9)] == [
            "opened",
            "dismissed",
            "commented",
        ]


def test_the_monitor_waits_for_no_sender_and_begins_anew_where_a_subscription_changed(dsn: str) -> None:
    with engine(dsn).begin() as connection:
        parcels = add_parcels(connection, 3)
        key = subscribe(connection)
        open_alerts(connection, parcels[:1])
    with engine(dsn).connect().execution_options(isolation_level="REPEATABLE READ") as monitor:
        assert len(outbox(monitor)) == 1  # its snapshot
        with engine(dsn).begin() as other:
            assert deliveries.lock_subscription(other, key)
            open_alerts(monitor, parcels[1:2])  # while a sender forms messages
        sender.form(dsn, DeliverySettings(), NOW)
        open_alerts(monitor, parcels[2:])  # and after it did
        monitor.commit()
        assert len(outbox(monitor)) == 3
        with engine(dsn).begin() as other:
            subscriptions.suspend(other, key, "410", NOW)
            (found,) = subscriptions.stored(other)
            subscriptions.change(other, key, replace(found.asked, name="new"), subscriptions.Secrets())
        open_alerts(monitor, parcels[:1], rule="early_loss")
        monitor.commit()
        assert len(outbox(monitor)) == 4


def test_what_ended_receives_nothing_and_what_is_suspended_later(connection: sa.Connection) -> None:
    with connection.begin():
        parcels = add_parcels(connection, 2)
        ended, suspended = subscribe(connection, name="a"), subscribe(connection, name="b")
        open_alerts(connection, parcels[:1])
        subscriptions.end(connection, ended, NOW)
        subscriptions.suspend(connection, suspended, "550 no such user", NOW)
        open_alerts(connection, parcels[1:])
        assert [key for key, _ in outbox(connection)] == [suspended] * 2
        assert deliveries.waiting(connection) == []
        (found,) = subscriptions.stored(connection)
        subscriptions.change(connection, suspended, found.asked, subscriptions.Secrets())
        assert [key for key, _ in deliveries.waiting(connection)] == [suspended]
        subscribe(connection, name="a")  # the name is free again


def test_senders_at_once_form_each_event_once_and_claim_each_message_once(dsn: str) -> None:
    with engine(dsn).begin() as connection:
        parcels = add_parcels(connection, 300)
        for name in "abc":
            subscribe(connection, name=name)
        open_alerts(connection, parcels)
    asked = DeliverySettings(message_events=7)
    claimed: list[int] = []

    def work(_: int) -> None:
        for _turn in range(3):
            sender.form(dsn, asked, NOW)
        while True:
            with engine(dsn).begin() as connection:
                keys = deliveries.due(connection, NOW)
                held = [deliveries.claim(connection, key, NOW + timedelta(seconds=90), NOW) for key in keys]
            claimed.extend(one.delivery_key for one in held if one is not None)
            if not keys:
                return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    while sender.form(dsn, asked, NOW):  # full messages are formed so many at once
        work(0)
    with engine(dsn).begin() as connection:
        n_messages = connection.execute(sa.text("select count(*) from deliveries")).scalar_one()
        assert n_messages == 900
        assert connection.execute(sa.text("select count(*) from outbox where delivery_key is null")).scalar_one() == 0
    assert sorted(claimed) == sorted(set(claimed))
    assert len(claimed) == n_messages


def test_a_dead_senders_message_is_anyones_when_its_lease_ends(connection: sa.Connection, dsn: str) -> None:
    with connection.begin():
        key = subscribe(connection)
        open_alerts(connection, add_parcels(connection, 1))
    sender.form(dsn, DeliverySettings(), NOW)
    lease = NOW + timedelta(seconds=90)
    with connection.begin():
        first = deliveries.claim(connection, key, lease, NOW)
        assert first is not None
        assert deliveries.claim(connection, key, lease, lease - timedelta(seconds=1)) is None
        second = deliveries.claim(connection, key, lease + timedelta(seconds=90), lease)
        assert second is not None
        assert (second.idempotency_key, second.attempts) == (first.idempotency_key, 2)
        deliveries.failed(connection, first, "too late", NOW, NOW)  # says nothing of what is another's by now
        assert deliveries.listed(connection, None, None, 9)[0].last_error is None
        deliveries.sent(connection, first, NOW)  # but what arrived arrived
        deliveries.failed(connection, second, "no answer", NOW, NOW)
        assert [(row.state, row.last_error) for row in deliveries.listed(connection, None, None, 9)] == [("sent", None)]


def test_waits_double_up_to_a_limit_and_differ() -> None:
    import uuid

    asked = DeliverySettings(retry_s=30, longest_wait_s=14400)
    keys = [uuid.UUID(int=nr) for nr in range(200)]

    def wait(key: uuid.UUID, attempts: int) -> float:
        held = deliveries.Held(1, key, 1, NOW, attempts)
        assert sender.wait_after(held, asked) == sender.wait_after(held, asked)
        return sender.wait_after(held, asked).total_seconds()

    for attempts, longest in ((1, 30), (2, 60), (5, 480), (10, 14400), (30, 14400), (30000, 14400)):
        waits = [wait(key, attempts) for key in keys]
        assert 0.75 * longest <= min(waits) < 0.8 * longest
        assert 0.95 * longest < max(waits) <= longest
    total = sum(wait(keys[0], attempts) for attempts in range(1, asked.give_up_after))
    assert total > 63 * 3600  # a weekend
    held = deliveries.Held(1, keys[0], 1, NOW, 1)
    assert sender.wait_after(held, asked, timedelta(hours=1)) == timedelta(hours=1)
    assert sender.wait_after(held, asked, timedelta(days=9)) == timedelta(hours=4)


LARGE = 200_000


@pytest.fixture
def large(connection: sa.Connection) -> sa.Connection:
    """200,000 delivered events of ten subscriptions in 20,000 messages; few wait."""
    connection.begin()
    parcels = add_parcels(connection, 40)
    keys = [subscribe(connection, name=str(nr)) for nr in range(10)]
    (alert,) = open_alerts(connection, parcels[:1])
    connection.execute(sa.text("delete from outbox"))
    for statement in (
        """insert into alert_events (alert_key, recorded_at, event, colour, confidence, evidence)
           select :alert, '2025-05-01', 'commented', 'red', 0.9, '{}' from generate_series(1, :n / 10)""",
        """insert into deliveries (idempotency_key, subscription_key, state, formed_at, next_try_at, ended_at)
           select gen_random_uuid(), (cast(:keys as bigint[]))[1 + nr % 10], 'sent', '2025-05-01', '2025-05-01', '2025-05-01'
           from generate_series(1, :n / 10) nr""",
        """insert into outbox (subscription_key, event_nr, alert_key, recorded_at, delivery_key)
           select s.key, event_nr, alert_key, recorded_at, first + (event_nr * 10 + nr) / 10 % (:n / 10)
           from (select min(delivery_key) as first from deliveries) d
           cross join unnest(cast(:keys as bigint[])) with ordinality as s (key, nr)
           cross join alert_events where event = 'commented'""",
    ):
        connection.execute(sa.text(statement), {"alert": alert, "n": LARGE, "keys": keys})
    open_alerts(connection, parcels[1:3])
    connection.execute(
        sa.text("""insert into deliveries (idempotency_key, subscription_key, formed_at, next_try_at)
                   values (gen_random_uuid(), :key, now(), '2025-05-01')"""),
        {"key": keys[0]},
    )
    connection.commit()
    connection.execution_options(isolation_level="AUTOCOMMIT")
    connection.execute(sa.text("vacuum analyze outbox, deliveries, alert_events"))
    return connection


def plan_of(connection: sa.Connection, statement: str, parameters: dict[str, Any]) -> tuple[set[str], int]:
    """Return the relations that a statement reads from end to end, and the blocks that it touches."""
    (plan,) = connection.execute(
        sa.text(f"explain (analyze, buffers, format json) {statement}"), parameters
    ).scalar_one()
    scans: set[str] = set()

    def walk(node: dict[str, Any]) -> None:
        if node["Node Type"] == "Seq Scan":
            scans.add(node["Relation Name"])
        for inner in node.get("Plans", ()):
            walk(inner)

    walk(plan["Plan"])
    return scans, plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]


def test_what_was_delivered_costs_a_sender_nothing(large: sa.Connection) -> None:
    assert large.execute(sa.text("select count(*) from outbox")).scalar_one() == LARGE + 20
    key = deliveries.waiting(large)[0][0]
    hot: dict[str, dict[str, Any]] = {
        deliveries._WAITING: {},
        deliveries._DUE: {"now": NOW},
        deliveries._CLAIM: {"key": key, "now": NOW, "lease_until": NOW},
        deliveries._WAITING_OF: {"key": key, "limit": 5000},
        deliveries._LAST_FORMED: {"key": key},
        deliveries._EVENTS_OF: {"key": 1},
    }
    for statement, parameters in hot.items():
        scans, blocks = plan_of(large, statement, parameters)
        assert scans <= {"subscriptions"}, statement  # ten rows
        assert blocks < 120, statement
