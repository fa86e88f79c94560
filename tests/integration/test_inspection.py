"""What inspectors see and decide: lists of alerts, histories as known at a time, the state of the chain."""

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
import torch
from typer.testing import CliRunner

import parcelwatch
from db import alerts, registry
from db.connect import engine
from db.history import AlertFilter, known_alerts
from db.parcels import load_parcels
from db.seasons import season_by_name
from db.series import available_series, s1_series, s2_series
from db.status import live_processes
from models.classifier.crop_model import CropModel
from models.classifier.network import ClassifierConfig, ModalityConfig, PseLtae
from models.classifier.normalisation import Normaliser, Observations
from monitor.alerts.decisions import decide
from monitor.errors import NotFound
from monitor.inspection.posterior_course import posterior_course
from terminal.errors import UserError
from tests.alert_log import Alert, Logged, fold
from training.library import registered

ROOT = Path(__file__).parents[2]
OBSERVED = datetime(2025, 5, 1, 10, 30, tzinfo=UTC)
LOADED = datetime(2025, 11, 3, 8, 0, tzinfo=UTC)
DAY = timedelta(days=1)
HOSTILE = "a[/red]$x_{$\x1b[2J"
EVIDENCE = {
    "declared": HOSTILE,
    "probability_of_declared": 0.001,
    "most_likely": "[bold",
    "probability_of_most_likely": 0.97,
    "n_observations": 41,
    "observed_to": "2025-05-01",
}
OUTLINE = "MULTIPOLYGON(((5 52,5.01 52,5.01 52.01,5 52.01,5 52)))"


@pytest.fixture
def connection(dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[sa.Connection]:
    """A season with a parcel of a hostile name and one of a usual name; observations of May, loaded in November."""
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    monkeypatch.chdir(tmp_path)
    with engine(dsn).begin() as opened:
        for statement in (
            """insert into seasons (name, starts_on, ends_on)
               values ('2024', '2024-01-01', '2024-12-31'), ('2025', '2025-01-01', '2025-12-31')""",
            "insert into regions (code) values ('r')",
            """insert into parcels (collection, season_key, source_id, region_key, geom, area_ha, recorded_at)
               select 'nl', season_key, source_id, region_key, ST_GeomFromText(:outline, 4326), 4.5, :loaded
               from seasons, regions, unnest(array[:hostile, '10984', '../../x']) source_id where name = '2025'""",
            """insert into declarations (parcel_key, recorded_at, declared_at, crop_code, crop_name)
               select parcel_key, :loaded, '2025-04-01', '233', :hostile from parcels""",
            """insert into scenes (scene_id, sensor, platform, relative_orbit, observed_at, available_at, recorded_at)
               values ('s', 'S2', 'S2A', 8, :observed, :observed, :loaded)""",
            """insert into s2_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_clear, available_at,
                   recorded_at, scene_key, ndvi, b04, b08)
               select parcel_key, :observed + nr * interval '5 days', 8, 0, false, 50,
                      :observed + nr * interval '5 days' + interval '6 hours', :loaded, scene_key, 0.5 + nr * 0.05, 0.1, 0.3
               from parcels, scenes, generate_series(0, 3) nr where source_id <> '../../x'""",
            """insert into s1_observations (parcel_key, observed_at, relative_orbit, revision, is_withdrawn, n_pixels, available_at,
                   recorded_at, scene_key, direction, radiometry, vv, vh)
               select parcel_key, :observed + nr * interval '6 days', 88, 0, false, 50,
                      :observed + nr * interval '6 days' + interval '3 hours', :loaded, scene_key, 'ascending', 'sigma0', 0.1, 0.02
               from parcels, scenes, generate_series(0, 2) nr where source_id <> '../../x'""",
        ):
            opened.execute(
                sa.text(statement), {"loaded": LOADED, "observed": OBSERVED, "hostile": HOSTILE, "outline": OUTLINE}
            )
    with engine(dsn).connect() as opened:
        yield opened


def key_of(connection: sa.Connection, source_id: str) -> int:
    return int(
        connection.execute(
            sa.text("select parcel_key from parcels where source_id = :id"), {"id": source_id}
        ).scalar_one()
    )


@pytest.fixture
def alert(connection: sa.Connection) -> int:
    """An alert of the parcel with the hostile name, opened yellow on 4 November and confirmed red on the 24th."""
    key = int(
        connection.execute(
            sa.text("""insert into alerts (parcel_key, rule, state, colour, confidence, departed_on, opened_at, confirmed_at)
                       values (:parcel, 'crop_mismatch', 'open', 'red', 0.97, '2025-05-01', :opened, :confirmed) returning alert_key"""),
            {"parcel": key_of(connection, HOSTILE), "opened": LOADED + DAY, "confirmed": LOADED + 21 * DAY},
        ).scalar_one()
    )
    for event, colour, at in (("opened", "yellow", LOADED + DAY), ("confirmed", "red", LOADED + 21 * DAY)):
        add_event(connection, key, event, colour, at)
    connection.commit()
    return key


def add_event(connection: sa.Connection, key: int, event: str, colour: str, at: datetime) -> None:
    connection.execute(
        sa.text("""insert into alert_events (alert_key, recorded_at, event, colour, confidence, evidence)
                   values (:key, :at, :event, cast(:colour as colour), 0.97, cast(:evidence as jsonb))"""),
        {"key": key, "at": at, "event": event, "colour": colour, "evidence": json.dumps(EVIDENCE)},
    )


Run = Callable[..., Any]


@pytest.fixture
def run() -> Run:
    return lambda *words: CliRunner().invoke(parcelwatch.app, list(words), catch_exceptions=False)


def cells(output: str) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of the first table."""
    lines = [line for line in output.splitlines() if line[:1] in "┃│"]
    header, *rows = ([cell.strip() for cell in line.strip("┃│").replace("┃", "│").split("│")] for line in lines)
    return header, rows


@pytest.mark.usefixtures("alert")
def test_each_cell_stands_under_its_own_header(run: Run) -> None:
    header, (row,) = cells(run("alerts").output)
    listed = dict(zip(header, row, strict=True))
    assert listed["rule"] == "crop_mismatch"
    assert listed["colour"] == "red"
    assert listed["state"] == "open"
    assert listed["confidence"] == "0.97"
    assert (listed["departed"], listed["confirmed"]) == ("2025-05-01", "2025-11-24")
    assert listed["collection, season"] == "nl, 2025"


@pytest.mark.usefixtures("alert")
@pytest.mark.parametrize(
    "command", ["alerts", "history PARCEL", "history PARCEL --as-available-at 2025-06-01", "alerts --all"]
)
def test_text_from_outside_breaks_no_view(command: str, run: Run) -> None:
    output = run(*(HOSTILE if word == "PARCEL" else word for word in command.split())).output
    assert "a[/red]$x_{$" in output
    assert "\x1b" not in output


@pytest.mark.usefixtures("connection")
def test_a_parcels_figure_stays_in_its_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    assert "no observation of this parcel is stored" in run("history", "../../x").output
    run("history", HOSTILE)
    (figure,) = (tmp_path / "reports").iterdir()
    assert figure.suffix == ".png"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["reports"]


def test_a_parcel_that_cannot_be_monitored_says_so(connection: sa.Connection, run: Run) -> None:
    connection.execute(sa.text("update parcels set not_monitorable_reason = 'too_narrow' where source_id = '../../x'"))
    connection.commit()
    assert "is stored: it cannot be monitored (too_narrow); no picture" in run("history", "../../x").output


@pytest.mark.usefixtures("connection")
def test_what_was_not_recorded_by_then_is_said_and_not_drawn(run: Run, tmp_path: Path) -> None:
    output = run("history", "10984", "--as-known-at", "2025-06-01").output
    assert "no observation of this parcel was recorded by 2025-06-01 00:00 UTC" in output
    assert "the first was recorded 2025-11-03 08:00 UTC (observed 2025-05-01 to 2025-05-16)" in output
    assert "--as-available-at 2025-06-01T00:00" in output
    assert "NDVI" not in output
    assert not (tmp_path / "reports").exists()
    early = run("history", "10984", "--as-known-at", "2025-04-01").output
    assert "--as-available-at" not in early
    assert run("history", "10984", "--as-known-at", "2025-06-01", "--json").stdout == ""


@pytest.mark.usefixtures("connection")
def test_an_archive_is_seen_as_its_products_became_available(run: Run, tmp_path: Path) -> None:
    rows = [
        json.loads(line)
        for line in run("history", "10984", "--as-available-at", "2025-05-07 12:00", "--json").output.splitlines()
    ]
    assert [row["kind"] for row in rows] == ["parcel", "declaration", "s1", "s2", "s2"]
    late = run("history", "10984", "--as-available-at", "2025-05-07T16:00").output
    assert "there are no curves and alerts of that time" in late
    assert (tmp_path / "reports" / "10984.png").stat().st_size > 20_000
    assert "the first came 2025-05-01 13:30 UTC" in run("history", "10984", "--as-available-at", "2025-05-01").output


@pytest.mark.usefixtures("alert")
def test_json_has_outline_and_area(run: Run) -> None:
    listed = json.loads(run("alerts", "--json").output)
    assert (listed["area_ha"], listed["outline"]["type"]) == (4.5, "MultiPolygon")
    own = json.loads(run("history", HOSTILE, "--json").output.splitlines()[0])
    assert (own["kind"], own["detail"]["area_ha"], own["detail"]["outline"]["type"]) == ("parcel", 4.5, "MultiPolygon")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("alerts --season 1999", "season '1999' is not stored; stored: 2024, 2025"),
        ("alerts --season 2024", "no collection has parcels in season 2024; stored: nl in 2025"),
        ("alerts --collection xx", "collection 'xx' has no parcels; stored: nl in 2025"),
        ("history nobody", "no parcel 'nobody' is stored; stored: nl in 2025"),
        ("history \udcff", "no parcel '?' is stored"),
        ("history 10984 --season 1999", "season '1999' is not stored"),
        ("models activate 7 --season 2025 --collection nl", "no registered model answers to '7'"),
        ("alerts acknowledge 99", "alert 99 is not stored"),
    ],
)
@pytest.mark.usefixtures("connection")
def test_what_is_not_stored_is_an_error_that_says_what_is(command: str, says: str) -> None:
    with pytest.raises(UserError) as stopped:
        CliRunner().invoke(parcelwatch.app, command.split(), catch_exceptions=False)
    assert says in str(stopped.value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["alerts", "--rule", "kruemel"], "crop_mismatch"),
        (["alerts", "dismiss", "1"], "--reason"),
        (["alerts", "dismiss", "1", "--reason", "  "], "characters are needed"),
        (["alerts", "acknowledge", "0"], "'0' is no alert: a number, as 12, or I12 for an incident"),
        (["history", "10984", "--as-known-at", "2025-06-01", "--as-available-at", "2025-06-01"], "not both"),
    ],
)
@pytest.mark.usefixtures("connection")
def test_what_cannot_be_meant_is_refused(words: list[str], says: str, run: Run) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert says in done.output


def test_who_decided_when_and_why_is_kept(alert: int, connection: sa.Connection, run: Run) -> None:
    assert (
        f"acknowledged by anna: alert {alert}"
        in run("alerts", "acknowledge", str(alert), "--by", "anna", "--note", "on it [/x]").output
    )
    assert (
        f"dismissed by ben: alert {alert}"
        in run("alerts", "dismiss", str(alert), "--by", "ben", "--reason", "seen").output
    )
    (row,) = known_alerts(connection, AlertFilter())
    assert (row.state, row.decided_by, row.decision_reason, row.colour) == ("dismissed", "ben", "seen", "red")
    assert row.evidence["observed_to"] == "2025-05-01"
    events = connection.execute(
        sa.text(
            "select event, evidence -> 'decision' as decision from alert_events where evidence ? 'decision' order by recorded_at"
        )
    ).all()
    assert [tuple(one) for one in events] == [
        ("acknowledged", {"by": "anna", "reason": "on it [/x]"}),
        ("dismissed", {"by": "ben", "reason": "seen"}),
    ]
    listed = run("alerts").output
    assert "by ben: seen" in listed
    assert "dismissed: by ben, seen" in run("history", HOSTILE).output


def test_by_default_the_user_of_the_machine_decides(alert: int, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "carla")
    assert "acknowledged by carla" in run("alerts", "acknowledge", str(alert)).output


def test_a_dismissed_alert_stays_dismissed_while_its_departure_lasts(alert: int, connection: sa.Connection) -> None:
    later = LOADED + 30 * DAY
    decide(connection, alert, "dismissed", "seen", "ben", later)
    add_event(connection, alert, "changed", "yellow", later + DAY)
    (row,) = known_alerts(connection, AlertFilter())
    assert (row.state, row.colour, row.decided_by) == ("dismissed", "yellow", "ben")
    connection.execute(sa.text("update alerts set state = 'closed', closed_at = :at"), {"at": later + 2 * DAY})
    add_event(connection, alert, "closed", "green", later + 2 * DAY)
    assert known_alerts(connection, AlertFilter()) == []
    with pytest.raises(alerts.NoOpenAlert, match="was closed on 2025-12-05"):
        decide(connection, alert, "acknowledged", None, "ben", later + 3 * DAY)


def test_alerts_as_known_at_a_time(alert: int, connection: sa.Connection, run: Run) -> None:
    decided, closed = LOADED + 30 * DAY, LOADED + 40 * DAY
    decide(connection, alert, "acknowledged", "on it", "anna", decided)
    connection.execute(sa.text("update alerts set state = 'closed', closed_at = :at, colour = 'green'"), {"at": closed})
    add_event(connection, alert, "closed", "green", closed)
    connection.commit()
    for days, with_closed, expected in (
        (0, True, []),
        (2, False, [("open", "yellow", None)]),
        (25, False, [("open", "red", LOADED + 21 * DAY)]),
        (31, False, [("acknowledged", "red", LOADED + 21 * DAY)]),
        (41, False, []),
        (41, True, [("closed", "green", LOADED + 21 * DAY)]),
    ):
        found = known_alerts(connection, AlertFilter(with_closed=with_closed), LOADED + days * DAY)
        assert [(row.state, row.colour, row.confirmed_at) for row in found] == expected, days
    assert "no open alerts" in run("alerts").output
    assert "closed 2025-12-13" in run("alerts", "--all").output
    then = run("alerts", "--as-known-at", "2025-11-05 09:00").output
    assert "open alerts as known at 2025-11-05 09:00 UTC" in then
    assert "yellow" in then


def test_several_alerts_up_to_one_that_cannot_be_decided(alert: int, run: Run) -> None:
    with pytest.raises(UserError, match=f"alert 99 is not stored.*; dismissed before it: {alert}$"):
        run("alerts", "dismiss", "99", str(alert), "--reason", "seen")


def folded(connection: sa.Connection, key: int) -> Alert:
    """The alert that its log makes, by the pure state machine."""
    return fold(
        Logged("person" if "decision" in row.evidence else "monitor", row.event, row.colour)  # type: ignore[arg-type]
        for row in alerts.alert_log(connection, key)
    )


def stored(connection: sa.Connection, key: int) -> Alert:
    row = connection.execute(
        sa.text("select state::text, colour::text, confirmed_at, verified_at from alerts where alert_key = :key"),
        {"key": key},
    ).one()
    return Alert(row.state, row.colour, row.confirmed_at is not None, row.verified_at is not None)


def test_a_row_is_the_fold_of_its_log_after_every_decision(
    alert: int, connection: sa.Connection, run: Run, tmp_path: Path
) -> None:
    photo = tmp_path / "field.jpg"
    photo.write_bytes(b"seen")
    key = str(alert)
    for words, state in (
        (["acknowledge", key], "acknowledged"),
        (["assign", key, "--to", "dora"], "acknowledged"),
        (["review", key], "in_review"),
        (["request", key, "--why", "which crop?", "--until", "2999-12-01"], "information_requested"),
        (
            [
                "answer",
                key,
                "--why",
                "maize",
                "--photo",
                str(photo),
                "--taken-at",
                "2025-11-20",
                "--position",
                "5.1,52",
            ],
            "in_review",
        ),
        (["confirm", key, "--why", "seen"], "confirmed"),
        (["comment", key, "--why", "letter sent"], "confirmed"),
        (["reopen", key, "--why", "appeal"], "open"),
        (["close", key, "--why", "paid back"], "closed"),
        (["comment", key, "--why", "done"], "closed"),
        (["reopen", key, "--why", "mistake"], "open"),
        (["dismiss", key, "--why", "clover"], "dismissed"),
    ):
        done = run("alerts", *words, "--by", "anna")
        assert done.exit_code == 0, done.output
        connection.rollback()
        found = stored(connection, alert)
        assert (found.state, found) == (state, folded(connection, alert)), words
        (known,) = known_alerts(connection, AlertFilter(with_closed=True))
        assert known.state == state, words
    shown = json.loads(run("alerts", "show", key, "--json").output)
    (answer,) = [one["evidence"]["decision"] for one in shown["log"] if one["event"] == "answered"]
    assert answer == {
        "by": "anna",
        "reason": "maize",
        "answer": "photo",
        "file": "field.jpg",
        "sha256": hashlib.sha256(b"seen").hexdigest(),
        "taken_at": "2025-11-20T00:00:00+00:00",
        "position": [5.1, 52.0],
    }
    output = " ".join(run("alerts", "show", key).output.split())
    for said in (
        "opened by the monitor",
        "requested by anna: which crop? (deadline 2999-12-01 00:00 UTC)",
        "dismissed by anna: clover",
    ):
        assert said in output
    early = json.loads(run("alerts", "show", key, "--json", "--as-known-at", "2025-11-05").output)
    assert [one["event"] for one in early["log"]] == ["opened"]


@pytest.mark.parametrize(
    ("before", "words", "says"),
    [
        ([], ["answer", "--why", "x"], "is open: it can be answered only where it is information requested"),
        (["dismiss"], ["confirm", "--why", "x"], "is dismissed: it can be verified only where"),
        (["close"], ["dismiss", "--why", "x"], "was closed on .*: nothing is left to decide"),
        (["dismiss"], ["acknowledge", "--expect", "open"], "is dismissed by ben meanwhile, not open; see `alerts show"),
    ],
)
def test_a_decision_that_the_state_does_not_allow(
    alert: int, run: Run, before: list[str], words: list[str], says: str
) -> None:
    for command in before:
        run("alerts", command, str(alert), "--why", "y", "--by", "ben")
    with pytest.raises(UserError, match=says) as stopped:
        run("alerts", words[0], str(alert), *words[1:])
    assert len(str(stopped.value).splitlines()) == 1


def test_an_answer_is_not_due_in_the_past(alert: int, connection: sa.Connection, run: Run) -> None:
    refused = run("alerts", "request", str(alert), "--why", "which crop?", "--until", "2025-12-01")
    assert refused.exit_code == 2
    assert "2025-12-01 00:00 UTC is past" in " ".join(refused.output.split())
    assert stored(connection, alert).state == "open"


@pytest.mark.usefixtures("alert")
@pytest.mark.parametrize("position", ["5", "200,1", "nan,1", "a,b"])
def test_a_position_is_a_place_on_earth(position: str, run: Run) -> None:
    assert "no position" in run("alerts", "answer", "1", "--why", "x", "--position", position).output


@pytest.mark.parametrize(
    "statement",
    ["update alert_events set colour = 'green'", "delete from alert_events", "truncate alert_events cascade"],
)
@pytest.mark.usefixtures("alert")
def test_nothing_leaves_the_log(statement: str, connection: sa.Connection) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="the log of alerts is append-only"):
        connection.execute(sa.text(statement))


def test_of_two_who_decide_at_once_the_second_hears_of_the_first(alert: int, dsn: str) -> None:
    refused: list[str] = []

    def second() -> None:
        try:
            with engine(dsn).begin() as other:
                decide(other, alert, "verified", "seen", "ben", LOADED + 30 * DAY)
        except alerts.NoOpenAlert as error:
            refused.append(str(error))

    with engine(dsn).begin() as first, engine(dsn).connect() as watching:
        decide(first, alert, "acknowledged", None, "anna", LOADED + 30 * DAY)
        thread = threading.Thread(target=second)
        thread.start()
        waits = sa.text("select count(*) from pg_locks where not granted")
        for _ in range(200):
            if watching.execute(waits).scalar_one():
                break
            time.sleep(0.05)
        else:
            pytest.fail("the second did not wait for the first")
    thread.join(30)
    assert refused == [f"alert {alert} is acknowledged by anna meanwhile, not open; see `alerts show {alert}`"]
    with engine(dsn).connect() as after:
        assert stored(after, alert) == folded(after, alert)


def test_one_is_alive_for_a_parcel_and_rule(alert: int, connection: sa.Connection) -> None:
    decide(connection, alert, "closed", "seen", "anna", LOADED)
    connection.execute(
        sa.text("""insert into alerts (parcel_key, rule, state, colour, confidence, departed_on, opened_at)
                   select parcel_key, rule, 'open', colour, confidence, '2025-06-01', :at from alerts"""),
        {"at": LOADED},
    )
    with pytest.raises(
        alerts.NoOpenAlert, match=f"alert {alert} stays closed: alert .* is open for its parcel and rule"
    ):
        decide(connection, alert, "reopened", "again", "anna", LOADED)


def test_a_large_field_comes_before_a_surer_small_one(alert: int, connection: sa.Connection, run: Run) -> None:
    small = int(
        connection.execute(
            sa.text("""insert into alerts (parcel_key, rule, state, colour, confidence, departed_on, opened_at)
                       values (:parcel, 'crop_mismatch', 'open', 'red', 0.99, '2025-05-01', :at) returning alert_key"""),
            {"parcel": key_of(connection, "10984"), "at": LOADED},
        ).scalar_one()
    )
    connection.execute(sa.text("update parcels set area_ha = 0.3 where source_id = '10984'"))
    connection.execute(
        sa.text("""insert into alert_events (alert_key, recorded_at, event, colour, confidence, evidence)
                   values (:key, :at, 'opened', 'red', 0.99, cast(:evidence as jsonb))"""),
        {"key": small, "at": LOADED, "evidence": json.dumps(EVIDENCE)},
    )
    connection.commit()

    def listed(*words: str) -> list[int]:
        return [json.loads(line)["alert_key"] for line in run("alerts", "--json", *words).output.splitlines()]

    assert listed() == [alert, small]
    assert listed("--order", "sure") == [small, alert]


def test_lists_say_what_waits_for_what(connection: sa.Connection, run: Run) -> None:
    assert "waits: no model is active for it" in run("alerts").output
    connection.execute(
        sa.text("""insert into models (model_id, task, config, metrics, trained_on, description, weights, recorded_at)
                   values ('m', 'classifier', '{"classes": ["wheat"]}', '{}', '{}', '{}', '', now())""")
    )
    connection.execute(
        sa.text(
            "insert into model_activations select season_key, 'nl', 'classifier', now(), model_key from seasons, models where name = '2025'"
        )
    )
    connection.execute(
        sa.text("""insert into pending_work (season_key, collection, parcel_key, recorded_at, sensor)
                   select season_key, collection, parcel_key, :at, 'S2' from parcels"""),
        {"at": LOADED},
    )
    connection.commit()
    for output in (run("alerts").output, run("status").output):
        assert "no NDVI model is active: the daily curve is of the simple smoother, whittaker" in output
        assert (
            "3 parcels pending since 2025-11-03 08:00 UTC, and no monitor is live: `parcelwatch monitor run`" in output
        )
    assert "m since" in run("status").output
    connection.execute(sa.text("delete from pending_work"))
    connection.execute(
        sa.text(
            "insert into model_activations select season_key, 'nl', 'ndvi', now(), model_key from seasons, models where name = '2025'"
        )
    )
    connection.commit()
    assert run("alerts").output == "no open alerts\nnothing is pending: all that is stored was assessed\n"
    assert "nl in 2025" in run("models", "list").output


def test_a_key_is_a_key_even_where_an_id_begins_like_it(connection: sa.Connection, run: Run) -> None:
    keys = [
        registry.register(
            connection,
            model_id=one,
            task="classifier",
            config={"classes": ["a"]},
            metrics={},
            trained_on={},
            description="{}",
            weights=b"",
            now=LOADED,
        )
        for one in ("aaaa", "bbbb")
    ]
    connection.execute(
        sa.text("update models set model_id = model_key + 1 || 'aaa' where model_key = :key"), {"key": keys[0]}
    )
    assert registered(connection, str(keys[1])).model_id == "bbbb"
    assert registered(connection, "bb").model_key == keys[1]
    with pytest.raises(NotFound, match="no registered model answers to ''"):
        registered(connection, "")
    connection.commit()
    with pytest.raises(NotFound, match="collection 'zz' has no parcels in season 2025; stored: nl in 2025"):
        run("models", "activate", "bbbb", "--season", "2025", "--collection", "zz")


def test_status_knows_which_processes_live(dsn: str, connection: sa.Connection) -> None:
    script = """
import sys
import parcelwatch
from db.connect import connect, name_process
name_process(parcelwatch._command(sys.argv[2:]))
connection = connect(sys.argv[1])
print("connected", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", script, dsn, "monitor", "run", "--nonsense"]
    assert live_processes(connection) == {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        connection.rollback()  # within a transaction the server answers from what it saw first
        (name,) = live_processes(connection)["monitor run"]
        assert name.endswith(f":{process.pid}")
        process.communicate("")
    for _ in range(100):  # the server notices a closed connection a moment later
        connection.rollback()
        if not live_processes(connection):
            break
        time.sleep(0.1)
    assert live_processes(connection).get("monitor run") is None


def small_model() -> CropModel:
    torch.manual_seed(3)
    modalities = (
        ModalityConfig("s2", ("B04", "B08", "NDVI"), pixels=1),
        ModalityConfig("s1a", ("VV", "VH"), is_per_orbit=True, pixels=1),
    )
    network = PseLtae(ClassifierConfig(modalities, ("wheat", "maize", "grass"), fusion="late"))
    random = np.random.default_rng(0)
    known = {
        one.name: Observations(
            random.normal(0.4, 0.2, (60, len(one.channels), 1)).astype(np.float32),
            np.zeros(60, np.float32),
            np.zeros(60, np.int64),
            np.full(60, 88, np.int16),
        )
        for one in modalities
    }
    normaliser = Normaliser.fit(known, np.tile([[400.0, 1e4, 0.04, 0.9]], (1, 1)), np.array([True]), ["s1a"])
    return CropModel.from_checkpoint(CropModel(network.eval(), normaliser).to_checkpoint())


def test_a_course_is_what_the_model_says_after_each_pass(connection: sa.Connection) -> None:
    checkpoint = small_model().to_checkpoint()
    model_key = registry.register(
        connection,
        model_id=checkpoint.model,
        task="classifier",
        description=checkpoint.description,
        weights=checkpoint.weights,
        config={},
        metrics={},
        trained_on={},
        now=LOADED,
    )
    season = season_by_name(connection, "2025")
    key = key_of(connection, "10984")
    (parcel,) = load_parcels(connection, season, "nl", keys=[key])

    def course(s2: Any, s1: Any) -> list[list[float]]:
        rows = posterior_course(connection, parcel, model_key, season.starts_on, s2, s1)
        return [row.detail["probabilities"] for row in rows]

    keys = np.array([key], np.int64)
    s2, s1 = s2_series(connection, keys, LOADED), s1_series(connection, keys, LOADED)
    whole = course(s2, s1)
    passes = np.unique(np.concatenate([s2["observed_at"], s1["observed_at"]]))
    assert len(whole) == len(passes) == 6
    assert np.abs(np.diff(whole, axis=0)).max() > 1e-4  # else nothing is tested
    for nr, at in enumerate(passes):
        prefix = course(s2[s2["observed_at"] <= at], s1[s1["observed_at"] <= at])
        assert prefix[-1] == pytest.approx(whole[nr], abs=1e-5)
    available = available_series(connection, keys, OBSERVED + 5 * DAY + timedelta(hours=7))
    assert [len(one) for one in available] == [2, 1]
    assert course(*available)[-1] == pytest.approx(whole[1], abs=1e-5)
