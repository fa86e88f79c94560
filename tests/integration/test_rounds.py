"""Rounds: lights as known at a time, frozen by the database, provable by their hashes, compared with what moved them."""

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

import parcelwatch
from db import migrate, rounds
from db.connect import connect, drop_pooled, engine
from db.rounds import RoundRow
from db.seasons import season_by_name
from monitor.alerts.decisions import decide
from monitor.alerts.settings import RuleSettings
from monitor.errors import NotFound
from monitor.rounds.differences import causes, in_order
from monitor.rounds.publish import Order, publish, why_unproven
from tests.lights import DAY, START, add_alert, add_findings, add_parcels, add_view

CROPS = {"a": "maize", "b": "maize", "c": "wheat", "d": "wheat", '=e,\n"é': "wheat"}
HOSTILE = '=e,\n"é'
RULE, OTHER = "crop_mismatch", "early_loss"


@pytest.fixture
def store(dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[sa.Connection]:
    """Five parcels: a green, b red with an alert, c red once and undecidable since, d not valid, the last never found of."""
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    monkeypatch.chdir(tmp_path)
    with engine(dsn).begin() as opened:
        add_parcels(opened, CROPS)
        add_findings(opened, RULE, {"a": "green", "b": "red", "c": "yellow", "d": "not_valid"}, START + DAY)
        add_findings(opened, OTHER, {"a": "green", "b": "green", "c": "not_executed", "d": "green"}, START + DAY)
        add_alert(opened, "b", RULE, START + DAY)
        add_alert(opened, "c", RULE, START + DAY, "yellow")
        add_findings(opened, RULE, {"c": "not_executed"}, START + 2 * DAY)
    with engine(dsn).connect() as opened:
        yield opened


def published(connection: sa.Connection, name: str, days: int, **of: Any) -> RoundRow:
    """Publish a round as known so many days after the start; commit it."""
    order = Order(season_by_name(connection, "2025"), "nl", name, "anna", "because", START + days * DAY, **of)
    row = publish(connection, order, RuleSettings(), START + 100 * DAY)
    connection.commit()
    return row


def lights(connection: sa.Connection, key: int, column: str = "light") -> dict[tuple[str, str], str]:
    found = connection.execute(
        sa.text(f"select source_id, rule, {column} as one from published_lights where round_key = :key"), {"key": key}
    )
    return {(row.source_id, row.rule): row.one for row in found}


def test_a_round_holds_the_lights_as_known_at_its_time(store: sa.Connection) -> None:
    first, later = published(store, "first", 1), published(store, "later", 3)
    seen = lights(store, later.round_key)
    assert (seen["a", RULE], seen["b", RULE], seen["d", RULE]) == ("green", "red", "not_valid")
    assert seen["c", RULE] == "yellow", "an open alert whose rule cannot decide any more stays as it is"
    assert {one for (parcel, _), one in seen.items() if parcel == HOSTILE} == {"not_executed"}
    of_parcels = lights(store, later.round_key, "parcel_light")
    assert [of_parcels[parcel, RULE] for parcel in CROPS] == ["green", "red", "yellow", "not_valid", "not_executed"]
    assert lights(store, first.round_key, "alert_state")["b", RULE] == "open"
    assert first.n_parcels == later.n_parcels == len(CROPS)
    add_findings(store, RULE, {"a": "red"}, START + 4 * DAY)
    assert lights(store, later.round_key) == seen
    again = published(store, "again", 3)
    assert again.content_sha256 == later.content_sha256, "as known at a time is the same whenever it is asked"


def test_a_dismissed_alert_does_not_hold_a_light(store: sa.Connection) -> None:
    key = store.execute(sa.text("select alert_key from alerts where colour = 'yellow'")).scalar_one()
    decide(store, key, "dismissed", "clover", "anna", START + 3 * DAY)
    store.commit()
    row = published(store, "r", 4)
    assert lights(store, row.round_key)["c", RULE] == "not_executed"
    assert lights(store, row.round_key, "alert_state")["c", RULE] == "dismissed"


SUPPRESSED = {"suppressed": {"name": "drought", "from": "2025-04-15", "until": "2025-05-31"}}


def test_a_departure_in_a_window_without_alerts_is_a_light_of_its_own(store: sa.Connection) -> None:
    before = published(store, "before", 3)
    add_findings(store, RULE, {"a": "red", "d": "yellow"}, START + 4 * DAY, SUPPRESSED)
    add_findings(store, OTHER, {"b": "red"}, START + 4 * DAY, SUPPRESSED)
    row = published(store, "r", 5)
    seen, of_parcels = lights(store, row.round_key), lights(store, row.round_key, "parcel_light")
    assert (seen["a", RULE], seen["d", RULE], seen["b", OTHER]) == ("suppressed",) * 3
    assert [of_parcels[parcel, RULE] for parcel in "abd"] == ["suppressed", "red", "suppressed"], (
        "b is red by its alert"
    )
    states = lights(store, row.round_key, "alert_state")
    assert states["a", RULE] == "red, suppressed until 2025-05-31"
    assert states["d", RULE] == "yellow, suppressed until 2025-05-31"
    assert rounds.counts(store, row.round_key)[""] == {"red": 1, "yellow": 1, "suppressed": 2, "not_executed": 1}
    (turned, *_) = in_order(rounds.changes(store, before, row))
    assert (turned.source_id, turned.before, turned.after) == ("a", "green", "suppressed")
    assert causes(turned) == ["a window without alerts"]
    add_findings(store, RULE, {"a": "green"}, START + 6 * DAY)
    assert lights(store, published(store, "after", 7).round_key)["a", RULE] == "green"


def test_rounds_of_before_there_were_suppressed_lights_keep_their_hashes(empty_dsn: str) -> None:
    def check() -> None:
        with engine(empty_dsn).connect() as opened:
            assert [why_unproven(opened, one) for one in rounds.rounds(opened)] == [None]

    migrate.upgrade(empty_dsn, "0027")
    with engine(empty_dsn).begin() as opened:
        add_parcels(opened, CROPS)
        add_findings(opened, RULE, {"a": "red", "b": "not_valid"}, START + DAY)
    with engine(empty_dsn).connect() as opened:
        published(opened, "r", 3)
    for move in (migrate.upgrade, lambda dsn: migrate.downgrade(dsn, "0027"), migrate.upgrade):
        drop_pooled(empty_dsn)
        move(empty_dsn)
        check()
    with engine(empty_dsn).connect() as opened:
        add_findings(opened, RULE, {"a": "red"}, START + 4 * DAY, SUPPRESSED)
        assert published(opened, "s", 5).previous_sha256 == rounds.rounds(opened)[0].sha256
    with pytest.raises(Exception, match='invalid input value for enum light: "suppressed"'):
        migrate.downgrade(empty_dsn, "0027")  # what was published is not rewritten


CHANGES = [
    "update rounds set name = 'x'",
    "delete from rounds",
    "truncate rounds",
    "update round_lights set light = 'green'",
    "delete from round_lights",
    "truncate round_lights",
    "insert into round_lights select round_key, parcel_key + 1000, light, lights, rule_versions, found_at, alert_states from round_lights",
]


@pytest.mark.parametrize("statement", CHANGES)
def test_the_database_refuses_to_change_a_round(statement: str, store: sa.Connection, dsn: str) -> None:
    published(store, "r", 3)
    with connect(dsn) as other, pytest.raises(psycopg.errors.RestrictViolation, match=r"append-only|is published"):
        other.execute(statement.encode())


def test_a_round_that_was_changed_behind_the_triggers_is_found(store: sa.Connection, dsn: str) -> None:
    first, second = published(store, "first", 1), published(store, "second", 3)
    assert (first.previous_sha256, second.previous_sha256) == (None, first.sha256)
    (read, _) = rounds.rounds(store)
    assert read == first
    assert [why_unproven(store, one) for one in (first, second)] == [None, None]
    store.rollback()
    with connect(dsn) as other:  # as an administrator can
        other.execute("alter table round_lights disable trigger all")
        other.execute("update round_lights set lights[1] = 'green' where lights[1] = 'red' and round_key = 1")
        other.execute("alter table rounds disable trigger all")
        other.execute("update rounds set reason = 'another' where round_key = 2")
    first, second = rounds.rounds(store)
    assert "lights" in str(why_unproven(store, first))
    assert "says of itself" in str(why_unproven(store, second))
    shown = CliRunner().invoke(parcelwatch.app, ["rounds", "show", "first"])
    assert isinstance(shown.exception, NotFound)
    store.rollback()
    with connect(dsn) as other:
        other.execute("delete from rounds where round_key = 1")
        other.execute("update rounds set reason = 'because' where round_key = 2")
    (second,) = rounds.rounds(store)
    assert "before it" in str(why_unproven(store, second))


def test_what_cannot_be_published_says_why(store: sa.Connection) -> None:
    published(store, "r", 3)
    for name, days, why in (
        ("r", 3, "never changes"),
        ("7", 3, "cannot name"),
        ("x", 101, "lies ahead"),
        ("y", -1, "no parcel"),
    ):
        with pytest.raises(NotFound, match=why):
            published(store, name, days)
        store.rollback()
    assert [one.name for one in rounds.rounds(store)] == ["r"]


def test_rounds_published_at_once_are_one_chain(store: sa.Connection, dsn: str) -> None:
    def one(nr: int) -> None:
        with engine(dsn).connect() as own:
            published(own, f"round {'abcd'[nr]}", 3)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(4)))
    rows = rounds.rounds(store)
    assert len(rows) == 4
    assert [why_unproven(store, row) for row in rows] == [None] * 4
    assert [row.previous_sha256 for row in rows] == [None, *(row.sha256 for row in rows[:-1])]


def test_what_moved_each_light_is_said_and_green_that_turned_comes_first(store: sa.Connection) -> None:
    for parcel in "abcd":
        add_view(store, [parcel], START - DAY, START)
    early = {"thresholds": {"x": 1}}
    add_findings(store, OTHER, {"a": "green", "b": "green", "c": "red", "d": "green"}, START + 2 * DAY, early)
    one = published(store, "one", 3)
    add_view(store, ["a"], START + DAY, START + 4 * DAY)
    add_view(store, ["b"], START - DAY, START + 4 * DAY, revision=1)
    add_view(store, ["c"], START - DAY, START + 4 * DAY, revision=1, is_withdrawn=True)
    add_findings(store, OTHER, {"a": "yellow", "b": "red", "c": "not_valid"}, START + 5 * DAY, early)
    add_findings(store, OTHER, {"d": "not_valid"}, START + 5 * DAY, {"thresholds": {"x": 2}})
    add_findings(store, RULE, {"b": "green", "d": "green"}, START + 5 * DAY, version="2")
    add_parcels(store, {"f": "maize"}, START + 5 * DAY, "r2")
    add_findings(store, OTHER, {"f": "red"}, START + 5 * DAY)
    add_view(store, ["a"], START + 7 * DAY, START + 8 * DAY)  # recorded after the second round
    two = published(store, "two", 6)
    found = in_order(rounds.changes(store, one, two))
    assert [(it.source_id, it.rule, it.before, it.after) for it in found] == [
        ("a", OTHER, "green", "yellow"),  # the only parcel that was green as a whole
        ("b", OTHER, "green", "red"),
        ("d", OTHER, "green", "not_valid"),
        ("f", OTHER, None, "red"),
        ("c", OTHER, "red", "not_valid"),
        ("b", RULE, "red", "green"),
        ("d", RULE, "not_valid", "green"),
    ]
    said = {(it.source_id, it.rule): causes(it) for it in found}
    assert said["a", OTHER] == ["1 new observations"]
    assert said["b", OTHER] == ["1 observations revised"]
    assert said["c", OTHER] == ["1 observations withdrawn"]
    assert said["d", OTHER] == ["the rule or its thresholds changed"]
    assert said["b", RULE] == ["the rule or its thresholds changed", "1 observations revised"]
    assert said["d", RULE] == ["the rule or its thresholds changed"]
    assert said["f", OTHER] == ["not in the round before"]
    assert rounds.changes(store, two, two) == []


def test_neighbours_models_declarations_and_decisions_are_causes(store: sa.Connection) -> None:
    one = published(store, "one", 3)
    key = store.execute(sa.text("select alert_key from alerts where colour = 'yellow'")).scalar_one()
    decide(store, key, "dismissed", "clover", "anna", START + 4 * DAY)
    add_findings(store, OTHER, {"a": "yellow"}, START + 4 * DAY)
    two = published(store, "two", 5)
    said = {it.source_id: causes(it) for it in rounds.changes(store, one, two)}
    assert said == {"a": ["nothing of the parcel itself: its neighbours changed"], "c": ["a decision on its alert"]}
    for statement in (
        """insert into models (model_id, task, config, metrics, trained_on, description, weights, recorded_at)
           values ('m', 'classifier', '{}', '{}', '{}', '', '', now())""",
        "insert into model_activations select season_key, 'nl', 'classifier', '2025-05-07 00:00Z', model_key from seasons, models",
        """insert into declarations select parcel_key, '2025-05-07 00:00Z', '2025-05-07', 'w', 'wheat'
           from parcels where source_id = 'b'""",
    ):
        store.execute(sa.text(statement))
    add_findings(store, RULE, {"b": "green", "a": "red"}, START + 7 * DAY)
    three = published(store, "three", 8)
    said = {it.source_id: causes(it) for it in rounds.changes(store, two, three)}
    assert said == {"a": ["another model"], "b": ["another declaration", "another model"]}


Run = Callable[..., Any]


@pytest.fixture
def run() -> Run:
    return lambda *words: CliRunner().invoke(parcelwatch.app, list(words), catch_exceptions=False)


@pytest.mark.usefixtures("store")
def test_from_the_command_line(run: Run, tmp_path: Path, dsn: str) -> None:
    base = ("rounds", "publish", "--season", "2025", "--by", "anna", "--why", "monthly")
    assert run("rounds", "list").output.startswith("no round is published")
    first = run(*base, "--name", "may", "--as-known-at", "2025-05-04")
    assert "5 parcels" in first.output
    with engine(dsn).begin() as other:
        add_findings(other, OTHER, {"a": "red"}, START + 5 * DAY)
    second = run(*base, "--name", "june", "--as-known-at", "2025-05-10")
    assert "1 green lights of round 1 are not green any more: `rounds diff 1 2`" in second.output
    assert [json.loads(line)["name"] for line in run("rounds", "list", "--json").output.splitlines()] == ["may", "june"]
    shown = json.loads(run("rounds", "show", "june", "--json", "--csv", "june.csv").output)
    assert shown["is_proven"] is True
    assert shown["lights"][""] == {"red": 2, "yellow": 1, "not_valid": 1, "not_executed": 1}
    content = (tmp_path / "june.csv").read_bytes()
    assert hashlib.sha256(content).hexdigest() == shown["content_sha256"]
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    assert {row["parcel"]: row["parcel_light"] for row in rows} == {
        "a": "red", "b": "red", "c": "yellow", "d": "not_valid", HOSTILE: "not_executed"
    }  # fmt: skip
    (change,) = [json.loads(line) for line in run("rounds", "diff", "1", "june", "--json").output.splitlines()]
    assert (change["source_id"], change["before"], change["after"]) == ("a", "green", "red")
    assert "1 lights differ, 1 of them were green" in run("rounds", "diff", "may", "june").output
    for words, why in (
        (("show", "july"), "no round 'july'"),
        (("diff", "june", "may"), "is the earlier one"),
        (("show", "1", "--csv", "none/x.csv"), "cannot be written"),
    ):
        with pytest.raises(NotFound, match=why):
            run("rounds", *words)
