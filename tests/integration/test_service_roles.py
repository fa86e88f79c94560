"""Services of the chain as logins of their own: each may do its work, and nothing that is another's."""

import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from db import policies, seasons
from db.connect import engine
from ingest.stream.consumer import Consumer
from monitor.policies.policy import Policy
from monitor.schedule import once
from monitor.settings import MonitorSettings
from monitor.subscriptions import sender
from monitor.subscriptions.settings import DeliverySettings
from monitor.worker import Worker
from tests.made_scenes import optical, s2_item, world
from tests.subscribed import add_parcels, open_alerts, subscribe

SERVICES = ("ingest", "monitor", "deliver", "scenes")
BOXES = {f"p{nr}": (2.2 + 15 * nr, 2.2, 14.2 + 15 * nr, 14.2) for nr in range(4)}
NOT_THEIRS = {
    "ingest": (
        "select from subscription_secrets",
        "select from alerts",
        "select from posteriors",
        "delete from s2_observations",
        "update s2_observations set ndvi = 0",
    ),
    "monitor": (
        "select from subscription_secrets",
        "insert into s2_observations (parcel_key) values (1)",
        "update consumed_offsets set next_offset = 0",
        "update alert_events set colour = 'green'",
        "insert into model_activations (season_key) values (1)",
        "update policies set content = '{}'",
        "update subscriptions set failures = 0",
    ),
    "deliver": (
        "update subscriptions set address = 'me@example.org'",
        "update subscription_secrets set address = 'me@example.org'",
        "update alerts set state = 'closed'",
        "insert into alert_events (alert_key) values (1)",
        "select from models",
        "select from s2_observations",
    ),
    "scenes": (
        "select from subscription_secrets",
        "insert into s2_observations (parcel_key) values (1)",
        "update alerts set state = 'closed'",
        "select from posteriors",
        "delete from chips",
    ),
}
NOBODYS = (
    "update parcels set area_ha = 1",
    "delete from parcels",
    "insert into parcels (collection) values ('x')",
    "update declarations set crop_code = 'x'",
    "select from parcelwatch_access.people",
    "select from parcelwatch_access.api_keys",
    "select from parcelwatch_access.identities",
    "select person from parcelwatch_access.sessions",
    "insert into rounds (name) values ('x')",
    "update recording set clock = 'caller'",
    "create table public.mine (x int)",
    "set role parcelwatch_contract",
)


@pytest.fixture
def logins(dsn: str) -> Iterator[dict[str, str]]:
    """Connection strings of a login of each service."""
    made, found = [], {}
    with psycopg.connect(dsn, autocommit=True) as owner:
        for service in SERVICES:
            name, password = f"test_{secrets.token_hex(6)}", secrets.token_hex(12)
            owner.execute(
                sql.SQL("create role {} login password {} in role {}").format(
                    sql.Identifier(name), sql.Literal(password), sql.Identifier(f"parcelwatch_{service}")
                )
            )
            made.append(name)
            found[service] = make_conninfo(dsn, user=name, password=password)
        yield found
        for login in found.values():
            engine(login).dispose()
        for name in made:
            owner.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def test_the_chain_runs_with_each_service_as_its_own_login(
    dsn: str, logins: dict[str, str], bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    """A scene is cut and stored, monitors draw curves of it, and an alert is delivered."""
    with world(dsn, bootstrap, topic_prefix, tmp_path) as chain:
        chain.store_parcels(BOXES)
        now = chain.now()
        with engine(dsn).begin() as connection:
            season = seasons.season_by_name(connection, "2023")
            asked = {"name": "p", "version": 1, "paid_alike": [{"name": "c", "classes": ["a", "b"]}]}
            policy = Policy.model_validate(asked)
            content = policy.name, policy.version, policy.hash, policy.content()
            policies.put_in_force(connection, season.season_key, "made-up", content, "ann", "why", now)
            subscribe(connection, name="feed", channel="atom", address="all.atom")
        chain.add(s2_item(tmp_path, optical(1)))
        cutting = replace(
            chain,
            engine=engine(logins["scenes"]),
            consumer=Consumer(engine(logins["ingest"]), bootstrap, chain.settings.ingest, chain.now),
            workers=[],
        )
        cutting.work()
        cutting.consumer.close()
        assert len(chain.current()) == len(BOXES)
        assert chain.the_scene().state == "cut"
    counts = once(Worker(logins["monitor"], MonitorSettings()), datetime(2023, 12, 1, tzinfo=UTC))
    assert (counts.parcels, counts.postponed) == (len(BOXES), 0)
    with psycopg.connect(dsn) as owner:
        keys = [key for (key,) in owner.execute("select parcel_key from parcels order by 1").fetchall()]
        assert owner.execute("select count(*) from pending_work").fetchone() == (0,)
        assert owner.execute("select count(distinct parcel_key) from ndvi_daily").fetchone() == (len(BOXES),)
    with engine(logins["monitor"]).begin() as connection:
        open_alerts(connection, keys)
    settings = DeliverySettings(folder=tmp_path / "feeds")
    assert sender.send_all(logins["deliver"], settings, lambda: datetime.now(UTC)).sent == len(BOXES)
    assert "crop_mismatch" in (tmp_path / "feeds" / "all.atom").read_text()


@pytest.mark.parametrize("service", SERVICES)
def test_each_service_is_refused_what_is_not_its_own(dsn: str, logins: dict[str, str], service: str) -> None:
    with engine(dsn).begin() as connection:
        open_alerts(connection, add_parcels(connection, 2))
    with psycopg.connect(logins[service], autocommit=True) as connection:
        for statement in (*NOT_THEIRS[service], *NOBODYS):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
        if service in ("ingest", "monitor"):  # which lock parcels
            assert len(connection.execute("select from parcels for share").fetchall()) == 2
            with pytest.raises(psycopg.Error):
                connection.execute("update parcels set parcel_key = default")
        assert connection.execute("select count(*) from parcels").fetchone() == (2,)
