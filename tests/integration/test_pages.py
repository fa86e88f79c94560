"""The pages' own text does what it says."""

import re
from pathlib import Path

import pytest
from kafka import KafkaConsumer

DOCS = Path(__file__).parents[2] / "docs"


def test_the_messages_page_sends_what_it_shows(
    bootstrap: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARCELWATCH_INGEST_TOPIC_PREFIX", topic_prefix)
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "messages.md").read_text(encoding="utf-8"), re.DOTALL)
    assert "localhost:9092" in code
    exec(compile(code.replace("localhost:9092", bootstrap), "messages.md", "exec"), {})  # the page is ours
    consumer = KafkaConsumer(
        f"{topic_prefix}.observations.s2",
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        consumer_timeout_ms=5_000,
    )
    try:
        sent = [dict(one.headers)["content-type"] for one, _ in zip(consumer, range(2), strict=False)]
    finally:
        consumer.close()
    assert sorted(sent) == [b"application/json", b"application/vnd.apache.arrow.stream"]
