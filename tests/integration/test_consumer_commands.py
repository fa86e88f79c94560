"""`parcelwatch ingest` as a person sees it: lists, ways back, and one clear line when it cannot go on."""

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import get_args

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from db import dead_letters
from db.connect import engine
from db.parcel_import import ParcelRow, upsert_parcels
from db.seasons import ensure_season
from ingest.errors import ReasonCode, TooManyRejected
from ingest.stream.commands import app
from ingest.stream.producer import ObservationProducer
from ingest.stream.schemas import S2
from ingest.stream.settings import IngestSettings

NOW = datetime(2023, 1, 1, tzinfo=UTC)
ROW = {
    "collection": "nl",
    "season": "2023",
    "parcel_id": "0",
    "observed_at": datetime(2023, 5, 1, tzinfo=UTC),
    "available_at": datetime(2023, 5, 1, tzinfo=UTC),
    "scene_id": "X",
    "platform": "S2A",
    "relative_orbit": 51,
    "NDVI": 0.5,
    "n_clear": 9,
}


@pytest.fixture
def producer(dsn: str, bootstrap: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch) -> ObservationProducer:
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    monkeypatch.setenv("PARCELWATCH_BOOTSTRAP", bootstrap)
    monkeypatch.setenv("PARCELWATCH_INGEST_TOPIC_PREFIX", topic_prefix)
    return ObservationProducer(bootstrap, IngestSettings())


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_letters_are_listed_and_sent_again(dsn: str, producer: ObservationProducer) -> None:
    assert "no dead letters" in run("dead-letters")
    with producer:
        producer.send_records(S2, [ROW, ROW | {"parcel_id": "1", "season": "1999"}])
    assert "dead_letters=2" in run("run", "--until-end")
    listed = [json.loads(line) for line in run("dead-letters", "--json").splitlines()]
    assert [dead_letter["reason_code"] for dead_letter in listed] == ["unknown_season", "unknown_season"]
    assert "unknown_season: 2 waiting, 0 sent again" in run("dead-letters", "--limit", "1")
    with engine(dsn).begin() as connection:
        season = ensure_season(connection, "2023", date(2023, 1, 1), date(2023, 12, 31))
        upsert_parcels(connection, "nl", season, [ParcelRow("0", "r", None, 1.0, 1.0, 1.0, None, None, None)], NOW, NOW)
    assert "2 dead letters are back" in run("redrive", "--reason", "unknown_season")
    assert "stored=1" in run("run", "--until-end")
    assert "unknown_season: 1 waiting, 2 sent again" in run("dead-letters")
    with engine(dsn).begin() as connection:
        assert connection.execute(sa.text("select count(*) from s2_observations")).scalar_one() == 1


def test_equal_letters_are_one_line_and_break_no_view(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    reasons = ["season '1999' is not stored"] * 25 + [f"no parcel [/red]\x1b[2J {nr}" for nr in range(5)]
    codes = ["unknown_season"] * 25 + ["unknown_parcel"] * 5
    with engine(dsn).begin() as connection:
        dead_letters.add(
            connection,
            [
                dead_letters.DeadLetter("s", "t[/x]", 0, nr, dead_letters.WHOLE_MESSAGE, code, reason, None, b"")
                for nr, (code, reason) in enumerate(zip(codes, reasons, strict=True))
            ],
            NOW,
        )
    listed = run("dead-letters")
    assert "unknown_season: 25 waiting, 0 sent again" in listed
    assert listed.count("season '1999' is not stored") == 1
    assert "25 x season '1999' is not stored; newest: t[/x]/0/24, 2023-01-01 00:00 UTC" in listed
    assert listed.count("1 x no parcel [/red]") == 3  # a few wordings of a reason, the newest first
    assert "4; newest" in listed
    assert "\x1b" not in listed
    assert listed.index("unknown_season:") < listed.index("unknown_parcel:")
    assert "unknown_season" not in run("dead-letters", "--reason", "unknown_parcel")
    assert len(run("dead-letters", "--limit", "1").splitlines()) == 4
    assert len(run("dead-letters", "--json", "--limit", "7").splitlines()) == 7


def test_a_wrong_reason_is_told() -> None:
    done = CliRunner().invoke(app, ["redrive", "--reason", "nonsense"])
    assert done.exit_code == 2
    assert "nonsense" in done.output


def test_a_flood_ends_the_command_with_its_reason(producer: ObservationProducer) -> None:
    with producer:
        producer.send_records(S2, [ROW | {"parcel_id": str(nr)} for nr in range(600)])
    with pytest.raises(TooManyRejected, match=r"600 of 600 \(unknown_season 600\)"):
        CliRunner().invoke(app, ["run"], catch_exceptions=False)


def test_every_reason_is_explained_to_senders() -> None:
    page = (Path(__file__).parents[2] / "docs" / "messages.md").read_text()
    assert [code for code in get_args(ReasonCode) if f"`{code}`" not in page] == []
