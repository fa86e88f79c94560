"""The commands of the operating guide, one after the other, as a person types them; and what they say when it goes wrong."""

import json
import re
from pathlib import Path

import pytest

import parcelwatch
from terminal.output import console


class Terminal:
    """Runs commands in this process and keeps what they said."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd

    def __call__(self, command: str, fails: bool = False) -> str:
        """What a command says; it must end well, or in one line on stderr and a code that is not 0."""
        self._monkeypatch.setattr("sys.argv", ["parcelwatch", *command.split()])
        with pytest.raises(SystemExit) as ended:
            parcelwatch.main()
        said, complained = self._capfd.readouterr()
        assert bool(ended.value.code) is fails, complained
        assert "Traceback" not in complained
        if fails:
            assert len(complained.strip().splitlines()) == 1, complained
            return complained
        return re.sub(r"\s+", " ", said)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Terminal:
    monkeypatch.setattr(console, "width", 300)  # nothing wraps
    return Terminal(monkeypatch, capfd)


@pytest.fixture
def servers(empty_dsn: str, bootstrap: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("PARCELWATCH_DSN", empty_dsn),
        ("PARCELWATCH_BOOTSTRAP", bootstrap),
        ("PARCELWATCH_INGEST_TOPIC_PREFIX", topic_prefix),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "PARCELWATCH_DSN",
            "postgresql://user:s3c@ret@host/name",
            "the connection string of the database (PARCELWATCH_DSN)",
        ),
        (
            "PARCELWATCH_DSN",
            "postgresql//user:s3cret@host/name",
            "the connection string of the database (PARCELWATCH_DSN)",
        ),
        ("PARCELWATCH_INGEST_REJECT_CAP", "s3cret", "PARCELWATCH_INGEST_REJECT_CAP: Input should be a valid number"),
        ("PARCELWATCH_MONITOR_THREADS", "s3cret", "PARCELWATCH_MONITOR_THREADS: Input should be a valid integer"),
    ],
)
def test_a_mistake_in_a_variable_is_one_line_without_its_value(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv("PARCELWATCH_DSN", "postgresql://user@127.0.0.1:1/name")
    monkeypatch.setenv("PARCELWATCH_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv(variable, value)
    line = terminal("ingest run --until-end", fails=True)
    assert line.startswith(f"parcelwatch: {said}")
    assert not any(part in line for part in ("s3c", "ret@"))


def test_a_variable_that_nothing_reads_is_mentioned_once(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARCELWATCH_INGEST_REJECT_CAPS", "0.5")
    monkeypatch.setattr("sys.argv", ["parcelwatch", "--help"])
    with pytest.raises(SystemExit):
        parcelwatch.main()
    assert capfd.readouterr().err.splitlines() == [
        "parcelwatch: PARCELWATCH_INGEST_REJECT_CAPS is not known and changes nothing: "
        "PARCELWATCH_INGEST_REJECT_CAP is meant?"
    ]


@pytest.mark.usefixtures("servers")
def test_a_season_from_file_to_history(terminal: Terminal, tmp_path: Path) -> None:
    assert "run `parcelwatch db upgrade`" in terminal("status", fails=True)
    terminal("db upgrade")
    simulated = "--year 2024 --parcels 60 --seed 2"
    said = terminal(f"simulate {simulated}")
    assert (
        "parcels import reports/simulated/parcels-2024.geojson --collection simulated --season 2024 --starts-on" in said
    )
    assert re.search(
        r"(\d+) of \1 parcels are not stored in collection simulated",
        terminal(f"simulate {simulated} --send", fails=True),
    )
    where = "--collection simulated --season 2024"
    report = json.loads(
        terminal(
            f"parcels import reports/simulated/parcels-2024.geojson {where} --starts-on 2023-09-01 --ends-on 2024-10-31 --json"
        )
    )
    assert report["changed"]["new"] == report["found"]["parcels"] >= 60
    sent = re.search(r"([\d,]+) observations sent", terminal(f"simulate {simulated} --send"))
    assert sent is not None
    assert f"stored={sent[1].replace(',', '')}" in terminal("ingest run --until-end")
    assert "waits: no model is active" in terminal("status")

    said = terminal(f"models train classifier {where} --min-parcels 4 --epochs 2")
    model = re.search(r"model (\d+) \(", said)
    assert model is not None
    assert re.search(r"left out: \d+ parcels of \d+ crops with fewer than 4 parcels \(.*--min-parcels [123]", said)
    assert "training: done after" in said
    assert re.search(r"2024-10-30 \W+\d\.\d\d\W+\d\.\d\d\W+\d+", said)
    assert "crops" in terminal("models list")
    assert "will be rebuilt" in terminal(f"models activate {model[1]} {where}")
    counts = terminal("monitor once")
    assert re.search(r"[1-9]\d* posteriors", counts)
    assert re.search(r" 0 postponed", counts)
    assert "pending" not in terminal("status")

    parcels = json.loads(Path("reports/simulated/parcels-2024.geojson").read_text())["features"]
    largest = max(parcels, key=lambda one: abs(len(str(one["geometry"]))))["properties"]["parcel_id"]
    for one in [largest] + [p["properties"]["parcel_id"] for p in parcels]:
        rows = [json.loads(line) for line in terminal_lines(terminal, f"history {one} --json")]
        if any(row["kind"] == "posterior" for row in rows):
            break
    assert {"s1", "s2", "declaration", "posterior"} <= {row["kind"] for row in rows}
    shown = terminal(f"history {one}")
    assert "picture: reports/" in shown
    assert (tmp_path / "reports" / f"{one}.png").stat().st_size > 20_000
    before = [json.loads(line) for line in terminal_lines(terminal, f"history {one} --json --as-known-at 2020-01-01")]
    assert before == []
    terminal("alerts")


def terminal_lines(terminal: Terminal, command: str) -> list[str]:
    said = terminal(command).strip()
    return [part if part.startswith("{") else "{" + part for part in re.split(r"(?<=\}) (?=\{\"at\")", said) if part]


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("history nobody", "no parcel 'nobody' is stored"),
        ("models activate 7 --season 2024 --collection x", "no registered model answers to '7'"),
        ("models train classifier --season 2024 --collection x", "season '2024' is not stored"),
        ("parcels import missing.gpkg --collection x --season 2024", "missing.gpkg: no such file"),
        ("replay nl missing", "missing: no such folder"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(terminal: Terminal, command: str, says: str) -> None:
    terminal("db upgrade")
    assert says in terminal(command, fails=True)


def test_without_servers_it_says_what_to_do(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PARCELWATCH_DSN", raising=False)
    monkeypatch.setenv("PARCELWATCH_HOME", str(tmp_path))
    assert "start one with `parcelwatch stack up`" in terminal("status", fails=True)
    monkeypatch.setenv("PARCELWATCH_DSN", "postgresql://nobody@127.0.0.1:1/none")
    assert "database:" in terminal("status", fails=True)


def test_a_defect_of_ours_is_one_line_too(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> str:
        raise ZeroDivisionError("of ours")

    monkeypatch.setattr("monitor.inspection.status_command.resolve_dsn", broken)
    assert "unexpected ZeroDivisionError: of ours" in terminal("status", fails=True)
