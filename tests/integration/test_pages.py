"""The pages' own text does what it says."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import typer
from kafka import KafkaConsumer, KafkaProducer
from typer.core import TyperGroup
from typer.testing import CliRunner

from db.connect import engine
from parcelwatch import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SHORTER = {
    "models train classifier": ["--epochs", "8", "--min-parcels", "4"],
    "models train ndvi": ["--config", "ndvi.toml"],
}
"""What the tests add to commands of the pages, so that they end within seconds."""
UNBOUNDED = (
    "stack",
    "scenes",
    "monitor run",
    "serve",
    "replay",
    "experiments",
    "models verify",
    "models patches",
    "delineate",
)
"""Commands of the README that start servers, ask catalogues, never end, or take data that the tests have not: only parsed."""
RUN_FILE = """
[data]
kind = "simulator"
parcels = 80
[training]
epochs = 1
folds = [1, 2]
[run]
folder = "run"
"""


def test_what_the_messages_page_sends_is_stored(
    dsn: str, bootstrap: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _servers(monkeypatch, dsn, bootstrap, topic_prefix)
    page = (DOCS / "messages.md").read_text(encoding="utf-8")
    (parcel,) = set(re.findall(r'"parcel_id": "(\w+)"', page))
    _run(f"parcels import {_parcel(tmp_path, parcel)} --collection nl-brp --season 2023 --id-column gid")
    codes = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert ["from ingest" in code for code in codes] == [True, False]  # the library; none of ours
    for code in codes:
        assert "localhost:9092" in code
        here = code.replace("localhost:9092", bootstrap).replace(
            '"parcelwatch.observations', f'"{topic_prefix}.observations'
        )
        exec(compile(here, "messages.md", "exec"), {})  # the page is ours
    for example in re.findall(r"```json\n(.*?)```", page, re.DOTALL):
        _send(bootstrap, f"{topic_prefix}.observations.s2", example.encode())
    forms = _forms(bootstrap, f"{topic_prefix}.observations.s2", 6)
    assert sorted(forms) == [b"application/json"] * 4 + [b"application/vnd.apache.arrow.stream"] * 2
    _run("ingest run --until-end")
    with engine(dsn).connect() as connection:
        letters = sa.text("select reason_code, reason from dead_letters")
        assert connection.execute(letters).all() == []
        days = sa.text("select observed_at::date::text from s2_observations order by 1")
        assert list(connection.scalars(days)) == ["2023-05-01", "2023-05-11", "2023-05-16"]
        assert connection.scalar(sa.text("select count(*) from s1_observations")) == 1


def _parcel(folder: Path, source_id: str) -> Path:
    """Write a file of one parcel of 4 ha that a farmer declared as maize; return its path."""
    square = [[5.70, 52.70], [5.703, 52.70], [5.703, 52.702], [5.70, 52.702], [5.70, 52.70]]
    geometry = {"type": "Polygon", "coordinates": [square]}
    feature = {"type": "Feature", "properties": {"gid": source_id, "crop_name": "maize"}, "geometry": geometry}
    path = folder / "parcels.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


def _send(bootstrap: str, topic: str, value: bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    producer.send(topic, value=value, headers=[("content-type", b"application/json")]).get(10)
    producer.close()


def _forms(bootstrap: str, topic: str, n: int) -> list[bytes]:
    """Return the content types of a topic's first messages."""
    consumer = KafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=5_000
    )
    try:
        return [dict(one.headers)["content-type"] for one, _ in zip(consumer, range(n), strict=False)]
    finally:
        consumer.close()


def _servers(monkeypatch: pytest.MonkeyPatch, dsn: str, bootstrap: str, topic_prefix: str) -> None:
    monkeypatch.setenv("PARCELWATCH_DSN", dsn)
    monkeypatch.setenv("PARCELWATCH_BOOTSTRAP", bootstrap)
    monkeypatch.setenv("PARCELWATCH_INGEST_TOPIC_PREFIX", topic_prefix)


@pytest.mark.timeout(300)
def test_the_operating_page_goes_from_an_empty_store_to_alerts(
    dsn: str, bootstrap: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _servers(monkeypatch, dsn, bootstrap, topic_prefix)
    # A model of so few epochs is sure of nothing: at these limits it departs from declarations all the same.
    for name, value in {"DECLARED_BELOW": "0.5", "OTHER_ABOVE": "0.2", "CLOSED_ABOVE": "0.95"}.items():
        monkeypatch.setenv(f"PARCELWATCH_MONITOR_RULES__MISMATCH_{name}", value)
    monkeypatch.chdir(tmp_path)
    Path("ndvi.toml").write_text("n_members = 1\nn_updates = 30\n")
    said = {line: _run(line) for line in _season()}
    for line, text in said.items():
        if line.startswith("simulate") and "--send" in line:
            assert "import them" not in text  # they are imported
        elif line.startswith("simulate"):
            assert any(f"import them: parcelwatch {other}" in text.splitlines() for other in said), line  # it pastes
    assert "no open alerts" not in said["alerts --season 2025"]
    with engine(dsn).connect() as connection:
        assert connection.scalar(sa.text("select count(*) from dead_letters")) == 0
        assert connection.scalar(sa.text("select count(*) from posteriors")) > 0
        assert connection.scalar(sa.text("select count(*) from ndvi_daily")) > 0


@pytest.mark.timeout(300)
def test_the_readme_is_run_in_its_order(
    dsn: str, bootstrap: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _servers(monkeypatch, dsn, bootstrap, topic_prefix)
    monkeypatch.chdir(tmp_path)
    Path("ndvi.toml").write_text("n_members = 1\nn_updates = 3\n")
    Path("run.toml").write_text(RUN_FILE)
    said = dict[str, str]()
    for line in _commands(ROOT / "README.md"):
        if line.startswith(
            "parcels import FILE"
        ):  # the season, and the earlier one that the page says to import likewise
            _simulated(line, 2024)
            said[line] = _simulated(line, 2025)
        elif line.startswith("history PARCEL"):
            with engine(dsn).connect() as connection:
                parcel = connection.scalar(
                    sa.text("select min(source_id) from parcels join s2_observations using (parcel_key)")
                )
            said[line] = _run(line.replace("PARCEL", str(parcel)))
        elif not line.startswith(UNBOUNDED):
            short = {"ingest run": " --until-end", "models train classifier": " --epochs 1"}
            said[line] = _run(line + next((more for begin, more in short.items() if line.startswith(begin)), ""))
    assert len(said) == 11
    with engine(dsn).connect() as connection:
        active = sa.text("select models.task from model_activations join models using (model_key) order by 1")
        assert list(connection.scalars(active)) == ["classifier", "ndvi"]
        assert connection.scalar(sa.text("select count(*) from dead_letters")) == 0


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.stem)
def test_every_command_of_a_page_is_one(page: Path) -> None:
    for line in _commands(page):
        _parse(line)


def test_a_command_that_is_none_is_found() -> None:
    for line in ("experiments fusion --dta nl", "scenes pol earth-search", "ingest run --until-end 5"):
        with pytest.raises(typer.BadParameter.__mro__[1]):  # click's UsageError in typer's own copy
            _parse(line)


WITHOUT = {"LOG", "grafana", "map", "messages", "pastis", "replay", "settings", "sql", "web-alerts"}
"""Pages of which no block has a command of ours."""


def _commands(page: Path) -> list[str]:
    """Return the commands of a page's blocks, without the program's name, comments, `> FILE` and `&`."""
    lines = re.findall(r"^ *(?:\.venv/bin/)?parcelwatch ([a-z].*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    blocks = [re.split(r"\s+[#>]", line)[0].removesuffix(" &").strip() for line in lines]
    assert blocks or page.stem in WITHOUT, f"{page.stem}: no command"
    return blocks


def _parse(line: str) -> None:
    """Parse a command as the program does, without running it; raises what typer says of a wrong one."""
    command: Any = typer.main.get_command(app)  # typer's own copy of click has no public names
    name: str | None = "parcelwatch"
    context, arguments = None, shlex.split(line.replace(" DAY", " 2025-01-01"))
    while True:
        context = command.make_context(name, arguments, parent=context)
        arguments = [*context._protected_args, *context.args]
        if not isinstance(command, TyperGroup) or not arguments:  # `alerts` alone is a command, and a group
            return
        name, command, arguments = command.resolve_command(context, arguments)


def _simulated(line: str, year: int) -> str:
    """Store a small simulated season in the place of the file that the page's line imports; return what the import said."""
    collection = shlex.split(line)[shlex.split(line).index("--collection") + 1]
    made = _run(f"simulate --year {year} --collection {collection}")
    said = _run(
        next(one for one in made.splitlines() if one.startswith("import them: ")).removeprefix(
            "import them: parcelwatch "
        )
    )
    _run(f"simulate --year {year} --collection {collection} --send")
    return said


def _season() -> list[str]:
    """Return the commands of the page's season but the one that starts servers: the tests have some."""
    page = (DOCS / "operating.md").read_text(encoding="utf-8")
    block = page.split("## A season")[1].split("```")[1]
    lines = [line.removeprefix("parcelwatch ") for line in block.strip().splitlines()]
    assert lines[0] == "stack up"
    return lines[1:]


def _run(line: str) -> str:
    """Run one command of the page in this process and return what it printed."""
    begin, more = next(((begin, more) for begin, more in SHORTER.items() if line.startswith(begin)), ("", []))
    size = ["--parcels", "60"] if line.startswith("simulate") else []  # the last one given counts
    result = CliRunner().invoke(app, [*begin.split(), *more, *shlex.split(line.removeprefix(begin)), *size])
    assert result.exit_code == 0, f"{line}: {result.output[-2000:]} {result.exception!r}"
    return result.output
