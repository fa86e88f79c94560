"""The pages' own text does what it says."""

import json
import re
import shlex
from pathlib import Path

import pytest
import sqlalchemy as sa
from kafka import KafkaConsumer, KafkaProducer
from typer.testing import CliRunner

from db.connect import engine
from parcelwatch import app

DOCS = Path(__file__).parents[2] / "docs"
SHORTER = {
    "models train classifier": ["--epochs", "8", "--min-parcels", "4"],
    "models train ndvi": ["--config", "ndvi.toml"],
}
"""What the test adds to commands of the operating page, so that they end within seconds."""


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
        if line.startswith("simulate") and "--send" not in line:
            assert any(f"import them: parcelwatch {other}" in text.splitlines() for other in said), line  # it pastes
    assert "no open alerts" not in said["alerts --season 2025"]
    with engine(dsn).connect() as connection:
        assert connection.scalar(sa.text("select count(*) from dead_letters")) == 0
        assert connection.scalar(sa.text("select count(*) from posteriors")) > 0
        assert connection.scalar(sa.text("select count(*) from ndvi_daily")) > 0


def _season() -> list[str]:
    """Return the commands of the page's season but the one that starts servers: the tests have some."""
    page = (DOCS / "operating.md").read_text(encoding="utf-8")
    block = page.split("## A season")[1].split("```")[1]
    lines = [line.removeprefix("parcelwatch ") for line in block.strip().splitlines()]
    assert lines[0] == "stack up"
    return lines[1:]


def _run(line: str) -> str:
    """Run one command of the page in this process and return what it printed."""
    more = next((added for begin, added in SHORTER.items() if line.startswith(begin)), [])
    size = ["--parcels", "60"] if line.startswith("simulate") else []  # the last one given counts
    result = CliRunner().invoke(app, [*shlex.split(line), *more, *size])
    assert result.exit_code == 0, f"{line}: {result.output[-2000:]} {result.exception!r}"
    return result.output
