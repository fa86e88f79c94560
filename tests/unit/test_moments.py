"""Times as people write them."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import typer

from terminal.times import moment, shown


@pytest.fixture
def in_madrid(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Madrid")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-28 09:03",
        "2026-11-28T09:03",
        "2026-11-28T09:03:00",
        "2026-11-28 09:03:00.000",
        "2026-11-28T09:03Z",
        "2026-11-28T10:03+01:00",
        "2026-11-28 09:03 UTC",
        "20261128T0903",
        "2026-11-28 09:03:00+00",
        " 2026-11-28T0903 ",
    ],
)
def test_usual_forms_of_iso_8601(text: str) -> None:
    assert moment(text) == datetime(2026, 11, 28, 9, 3, tzinfo=UTC)


@pytest.mark.usefixtures("in_madrid")
def test_without_an_offset_it_is_utc_whatever_the_machine_says() -> None:
    assert moment("2026-07-01") == datetime(2026, 7, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["yesterday", "", "2026", "28/11/2026", "2026-02-30", "0001-01-01T00:00+14:00", "[/red]"]
)
def test_what_is_no_time_is_said_with_examples(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is no time: write 2025-06-01"):
        moment(text)


@pytest.mark.usefixtures("in_madrid")
def test_local_time_is_shown_beside_utc_where_it_differs() -> None:
    assert shown(datetime(2026, 7, 1, 22, 30, tzinfo=UTC)) == "2026-07-01 22:30 UTC (2026-07-02 00:30 CEST here)"


def test_local_time_is_not_repeated_where_it_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert shown(datetime(2026, 7, 1, 22, 30, tzinfo=UTC)) == "2026-07-01 22:30 UTC"
