"""Many losses in one place and week are one incident; the same number scattered, in other weeks or of other rules is none."""

import json
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

import parcelwatch
from db.connect import engine
from db.incidents import incidents
from monitor.alerts.decisions import decide
from monitor.alerts.incidents import INCIDENT
from monitor.alerts.undo import undo
from monitor.errors import NotFound
from tests.lights import DAY, START, add_parcels

SIDE = 60
"""Fields in a row and in a column, 100 m apart."""
MONDAY = date(2025, 6, 2)


def at(x: int, y: int) -> str:
    return f"{x}/{y}"


@pytest.fixture
def connection(dsn: str, monkeypatch: pytest.MonkeyPatch) -> sa.Connection:
    """Six by six kilometres of fields at 52 degrees north, of three crops."""
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    fields = [(x, y) for x in range(SIDE) for y in range(SIDE)]
    opened = engine(dsn).connect()
    add_parcels(opened, {at(x, y): ("maize", "wheat", "beet")[(x + y) % 3] for x, y in fields})
    opened.execute(
        sa.text("""update parcels set geom = ST_Multi(ST_MakeEnvelope(5 + x * 0.00146, 52 + y * 0.0009, 5.0014 + x * 0.00146,
                                                               52.00088 + y * 0.0009, 4326))
                   from (select parcel_key as key, split_part(source_id, '/', 1)::int as x, split_part(source_id, '/', 2)::int as y
                         from parcels) place where key = parcel_key""")
    )
    opened.commit()
    return opened


def lose(connection: sa.Connection, ids: list[str], rule: str = "early_loss", days: int = 1) -> None:
    """Open alerts of parcels, departed in the first days after a Monday."""
    connection.execute(
        sa.text("""with made as (
                       insert into alerts (parcel_key, rule, state, colour, confidence, departed_on, opened_at)
                       select parcel_key, :rule, 'open', 'red', 0.9, :departed, :at from parcels where source_id = any(:ids)
                       returning alert_key, departed_on)
                   insert into alert_events (alert_key, recorded_at, event, colour, confidence, departed_on, evidence)
                   select alert_key, :at, 'opened', 'red', 0.9, departed_on, '{}' from made"""),
        {"rule": rule, "ids": ids, "departed": MONDAY + timedelta(days), "at": START + 60 * DAY},
    )
    connection.commit()


def scattered(rng: np.random.Generator, share: float) -> list[str]:
    return [at(x, y) for x in range(SIDE) for y in range(SIDE) if rng.random() < share]


def test_hail_is_one_incident_among_losses_by_chance(connection: sa.Connection) -> None:
    """A swath of 1 by 4 km in which half of the fields are lost, where one in two hundred is lost anywhere."""
    rng = np.random.default_rng(3)
    hail = {at(x, y) for x in range(25, 35) for y in range(10, 50) if rng.random() < 0.5}
    lose(connection, sorted(hail | set(scattered(rng, 0.005))))
    (found,) = incidents(connection, INCIDENT)
    hit = set(
        connection.execute(
            sa.text("select source_id from alerts join parcels using (parcel_key) where alert_key = any(:keys)"),
            {"keys": list(found.alert_keys)},
        ).scalars()
    )
    assert len(hail & hit) > 0.95 * len(hail)
    assert len(hit - hail) < 0.05 * len(hit)
    assert found.n_alerts == len(hit)
    assert 400 <= found.n_parcels < 650
    assert (found.rule, found.week, sorted(found.crops)) == ("early_loss", MONDAY, ["beet", "maize", "wheat"])
    assert (found.longitude, found.latitude) == pytest.approx((5 + 30 * 0.00146, 52 + 30 * 0.0009), abs=0.002)
    assert incidents(connection, INCIDENT, as_known_at=START) == []
    assert incidents(connection, INCIDENT, season="2024") == []


@pytest.mark.parametrize("share", [0.005, 0.02, 0.1])
def test_losses_by_chance_are_no_incident(share: float, connection: sa.Connection) -> None:
    lose(connection, scattered(np.random.default_rng(5), share))
    assert incidents(connection, INCIDENT) == []


def test_a_flood_along_a_river_is_one_incident(connection: sa.Connection) -> None:
    """A bend whose hull holds far more fields than were flooded: those inside of the bend do not speak against it."""
    lose(connection, [at(x, y) for x in range(SIDE) for y in range(SIDE) if 24 <= np.hypot(x - 30, y - 10) < 28])
    (found,) = incidents(connection, INCIDENT)
    assert found.n_alerts > 300


CLOSE = [at(x, y) for x in range(5) for y in range(4)]


def test_other_weeks_and_rules_are_no_incident(connection: sa.Connection) -> None:
    lose(connection, CLOSE[:9])
    lose(connection, CLOSE[9:], days=8)
    assert [found.n_alerts for found in incidents(connection, INCIDENT)] == [11]
    lose(connection, CLOSE, "crop_mismatch")
    assert len(incidents(connection, INCIDENT)) == 1


def test_what_was_dismissed_or_closed_does_not_count(connection: sa.Connection) -> None:
    lose(connection, CLOSE)
    (found,) = incidents(connection, INCIDENT)
    for event, keys in (("dismissed", found.alert_keys[:6]), ("closed", found.alert_keys[6:11])):
        connection.execute(
            sa.text("""with moved as (
                           update alerts set state = cast(:event as alert_state),
                                             closed_at = case when :event = 'closed' then cast(:at as timestamptz) end
                           where alert_key = any(:keys) returning alert_key)
                       insert into alert_events (alert_key, recorded_at, event, colour, confidence, evidence)
                       select alert_key, :at, :event, 'red', 0.9, '{}' from moved"""),
            {"at": START + 61 * DAY, "event": event, "keys": list(keys)},
        )
    connection.commit()
    assert incidents(connection, INCIDENT) == []
    assert len(incidents(connection, INCIDENT, as_known_at=START + 60 * DAY)) == 1


Run = Callable[..., Any]


def test_from_the_command_line(connection: sa.Connection) -> None:
    def run(*words: str) -> Any:
        return CliRunner().invoke(parcelwatch.app, ["alerts", *words], catch_exceptions=False)

    assert "no regional incident" in run("incidents").output
    lose(connection, CLOSE)
    lose(connection, ["40/40"])
    (said,) = [json.loads(line) for line in run("incidents", "--json").output.splitlines()]
    name, members = said["incident"], said["alert_keys"]
    assert said["n_alerts"] == len(members) == 20
    assert name == f"I{min(members)}"
    assert "20 of 20 parcels" in run("incidents").output
    assert f"part of the regional incident {name}" in run("show", str(members[3])).output
    assert "part of" not in run("show", str(max(members) + 1)).output


def test_an_incident_is_one_line_of_the_inbox(connection: sa.Connection) -> None:
    def listed(*words: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in run("--json", *words).output.splitlines()]

    def run(*words: str) -> Any:
        return CliRunner().invoke(parcelwatch.app, ["alerts", *words], catch_exceptions=False)

    lose(connection, CLOSE)
    lose(connection, ["40/40"])
    lose(connection, ["0/0"], "crop_mismatch")
    first, *others = listed()
    assert (first["n_alerts"], first["n_red"], first["rule"]) == (20, 20, "early_loss")
    assert first["expected_ha"] == pytest.approx(20 * 2 * 0.9)
    assert {one["rule"] for one in others} == {"early_loss", "crop_mismatch"}
    assert len(others) == 2
    assert [one["alert_key"] for one in listed("--rule", "crop_mismatch")] == [others[1]["alert_key"]]
    assert len(listed("--members")) == 22
    assert not any("incident" in one for one in listed("--members"))
    assert (
        f"{first['incident']}: 20 of 20 parcels, 40 ha, around 52.002 N 5.004 E"
        in run("show", first["incident"]).output
    )
    members = json.loads(run("show", first["incident"], "--json").output)["alerts"]
    assert sorted(one["alert_key"] for one in members) == first["alert_keys"]
    assert "regional incident: 20 of 20 parcels, 40 ha" in " ".join(run().output.split())
    assert listed("--order", "sure")[0]["incident"] == first["incident"]


@pytest.mark.parametrize("asked", ["I0", "0", "12x", "J3", "9" * 30, ""])
def test_what_is_no_alert_is_said(asked: str, connection: sa.Connection) -> None:
    said = CliRunner().invoke(parcelwatch.app, ["alerts", "show", asked])
    assert said.exit_code == 2
    assert "is no alert" in said.output
    assert connection is not None


def decided(connection: sa.Connection) -> dict[int, str]:
    """Return the states of alerts by key, and check that each is what its log says."""
    connection.commit()
    rows = connection.execute(
        sa.text("""select alert_key, a.state::text, k.state::text as logged from alerts a
                   join alerts_recorded_by('infinity') k using (alert_key)""")
    ).all()
    assert all(row.state == row.logged for row in rows)
    return {row.alert_key: row.state for row in rows}


def test_the_alerts_of_an_incident_are_decided_together(connection: sa.Connection) -> None:
    def run(*words: str) -> str:
        return CliRunner().invoke(parcelwatch.app, ["alerts", *words], catch_exceptions=False).output

    lose(connection, CLOSE)
    lose(connection, ["40/40"])
    (found,) = incidents(connection, INCIDENT)
    keys, alone = list(found.alert_keys), max(found.alert_keys) + 1
    said = run("acknowledge", found.name.lower(), str(keys[1]), str(alone), "--why", "hail", "--by", "anna")
    assert said.startswith(f"acknowledged by anna: alert {found.name} (20 alerts: {keys[0]}, {keys[1]}, ")
    assert said.rstrip().endswith(f"{keys[-1]}), {alone}")
    assert decided(connection) == dict.fromkeys([*keys, alone], "acknowledged")
    n_events = connection.execute(
        sa.text("select count(*) from alert_events where event = 'acknowledged'")
    ).scalar_one()
    assert n_events == 21, "the one that is named twice is decided once"
    times = (
        "select count(distinct recorded_at) from alert_events where event = 'acknowledged' and alert_key = any(:keys)"
    )
    assert connection.execute(sa.text(times), {"keys": keys}).scalar_one() == 1, "they become known together"
    run("dismiss", f"I{keys[7]}", "--why", "paid by the insurer")
    assert decided(connection) == {**dict.fromkeys(keys, "dismissed"), alone: "acknowledged"}
    with pytest.raises(NotFound, match=f"there is no incident I{keys[0]} now; .* decided on by their numbers"):
        run("reopen", found.name, "--why", "appeal")

    connection.commit()
    last = "select alert_key, max(event_nr) from alert_events where alert_key = any(:keys) group by alert_key"
    dismissed = {row.alert_key: row.max for row in connection.execute(sa.text(last), {"keys": keys})}
    by = connection.execute(
        sa.text("select evidence #>> '{decision,by}' from alert_events where event_nr = :nr"),
        {"nr": dismissed[keys[0]]},
    ).scalar_one()
    asked: list[str] = []
    sa.event.listen(connection, "before_cursor_execute", lambda _c, _cursor, text, *_: asked.append(text))
    undo(connection, dismissed, by, START + 61 * DAY)
    assert decided(connection) == dict.fromkeys([*keys, alone], "acknowledged")
    assert len(asked) < 15, "all alerts together, whatever their number"
    connection.commit()


def test_of_an_incident_all_alerts_are_decided_or_none(connection: sa.Connection) -> None:
    lose(connection, CLOSE)
    (found,) = incidents(connection, INCIDENT)
    decide(connection, found.alert_keys[5], "verified", "seen", "ben", START + 62 * DAY)
    before = decided(connection)
    said = f"none of the 20 alerts of {found.name} is acknowledged: alert {found.alert_keys[5]} is confirmed: it can be"
    with pytest.raises(NotFound, match=said):
        CliRunner().invoke(parcelwatch.app, ["alerts", "acknowledge", found.name], catch_exceptions=False)
    with pytest.raises(NotFound, match="is confirmed by ben meanwhile, not open"):
        CliRunner().invoke(
            parcelwatch.app, ["alerts", "close", found.name, "--why", "x", "--expect", "open"], catch_exceptions=False
        )
    assert decided(connection) == before


def test_an_incident_that_is_none(connection: sa.Connection) -> None:
    lose(connection, CLOSE[:3])
    with pytest.raises(NotFound, match="there is no incident I1; `parcelwatch alerts incidents` lists"):
        CliRunner().invoke(parcelwatch.app, ["alerts", "show", "I1"], catch_exceptions=False)
