"""When a departure may be red, through the chain: held at yellow, red later, yellow again under another policy; and a threshold chosen."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from monitor.errors import PolicyError
from monitor.policies.policy import read_policy
from tests.integration.test_policies import POLICY, VIEWS, lights, poll, run, season, store

__all__ = ["run", "season"]  # fixtures
Run = Callable[..., Any]
NOT_BEFORE = '\n[[red]]\nrule = "not_ploughed"\nnot_before = "06-15"\n'
THRESHOLD = f"""
[[red]]
rule = "not_ploughed"
above = 0.9
risk = 0.001
confidence = 0.9
n = 2400
source = "made"
source_sha256 = "{"0" * 64}"
chosen_on = 2025-11-29
"""


def events(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as connection:
        return [row[0] for row in connection.execute("select event from alert_events order by event_nr")]


def evidence(dsn: str) -> dict[str, Any]:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select evidence from findings where rule = 'not_ploughed' and departed_on is not null order by recorded_at desc"
        ).fetchone()
    assert row is not None
    return dict(row[0])


def test_a_departure_is_red_where_the_policy_lets_it_be(dsn: str, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "p.toml"

    def activate(version: int, more: str = "") -> None:
        file.write_text(POLICY.replace("version = 1", f"version = {version}") + more)
        run("policy", "activate", str(file), "--season", "2025", "--why", "agreed")

    activate(1, NOT_BEFORE)
    for day, ndvi in VIEWS:  # bare on 1 and on 16 May
        store(dsn, "ploughed", day, ndvi)
        store(dsn, "mown", day, max(ndvi, 0.4))
    poll(dsn, 136)
    assert lights(dsn, "not_ploughed")["ploughed"] == "yellow"
    assert evidence(dsn)["held_at_yellow"]["not_before"] == "2025-06-15"
    assert events(dsn) == ["opened"]
    store(dsn, "ploughed", 170, 0.2)
    poll(dsn, 171)
    assert lights(dsn, "not_ploughed")["ploughed"] == "red"
    assert "held_at_yellow" not in evidence(dsn)
    # Three views that agree are a confidence of 0.875.
    activate(2, THRESHOLD)
    poll(dsn, 172)
    assert lights(dsn, "not_ploughed")["ploughed"] == "yellow"
    tried = run(
        "policy", "try", str(file), "--season", "2025", "--every", "366", "--clock", "available", "--json"
    ).output
    last = [json.loads(line) for line in tried.splitlines()]
    (row,) = [
        one for one in last if (one["policy"], one["rule"], one["day"]) == ("tried", "not_ploughed", "2025-12-31")
    ]
    assert (row["lights"]["yellow"], row["lights"]["red"]) == (1, 0)
    activate(3)
    poll(dsn, 173)
    assert lights(dsn, "not_ploughed")["ploughed"] == "red"
    assert events(dsn) == ["opened", "confirmed", "changed", "confirmed"]
    choose(dsn, run, file)


def choose(dsn: str, run: Run, file: Path) -> None:
    """Choose a threshold on the parcels of the season, from a file and from a sample; promise no more than they can bear."""
    pytest.importorskip("mapie", reason="the extra `calibrate` is not installed")
    csv, before = file.with_name("truth.csv"), file.read_text()
    csv.write_text("source_id,verdict\nploughed,other departure\nmown,as_declared\nwheat,cannot_tell\n")
    words = ("policy", "calibrate", str(file), "--rule", "not_ploughed")
    with pytest.raises(PolicyError, match="2 parcels with a verdict, 2,302 needed"):
        run(*words, "--truth", str(csv))
    assert file.read_text() == before
    said = run(*words, "--truth", str(csv), "--risk", "0.4", "--confidence", "0.6").output
    assert "red from a confidence of 0.875 on" in said
    red = read_policy(file).red_of("not_ploughed")
    assert red is not None
    assert (red.above, red.n, red.source_sha256) == (0.875, 2, hashlib.sha256(csv.read_bytes()).hexdigest())
    csv.write_text("source_id,verdict\nploughed,as_declared\nmoon,as_declared\n")
    with pytest.raises(PolicyError, match="line 3: 'moon' is no parcel of test in 2025"):
        run(*words, "--truth", str(csv))
    assert run("quality", "sample", "--season", "2025", "--why", "yearly", "--size", "3").exit_code == 0
    with psycopg.connect(dsn) as connection:
        items = connection.execute(
            "select item, source_id from quality_items join parcels using (parcel_key)"
        ).fetchall()
    for item, name in items:
        verdict = "other_departure" if name == "ploughed" else "as_declared"
        run("quality", "review", "record", "1", str(item), "--verdict", verdict, "--why", "seen", "--by", "anna")
    out = file.with_name("out.toml")
    said = run(*words, "--from-quality", "--risk", "0.3", "--confidence", "0.5", "--out", str(out)).output
    assert "of 1 parcels with a verdict 1 are red there, 0 of them falsely" in said
    red = read_policy(out).red_of("not_ploughed")
    assert red is not None
    assert (red.above, red.source) == (0.875, "quality sample 1 of test, 2025")
