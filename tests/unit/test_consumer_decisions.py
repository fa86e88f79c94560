"""When a batch is due, and when bad rows are too many: decisions without a broker or a database."""

import pytest

from ingest.stream.consumer import should_flush
from ingest.stream.settings import IngestSettings
from ingest.stream.store import RejectWindow

SETTINGS = IngestSettings(
    flush_messages=100,
    flush_bytes=1_000,
    flush_seconds=2.0,
    reject_window_rows=1_000,
    reject_minimum_rows=100,
    reject_cap=0.5,
)


@pytest.mark.parametrize(
    ("n_messages", "n_bytes", "age_s", "is_due"),
    [
        (0, 0, 99.0, False),
        (1, 1, 1.9, False),
        (1, 1, 2.0, True),
        (99, 999, 0.0, False),
        (100, 1, 0.0, True),
        (1, 1_000, 0.0, True),
    ],
)
def test_a_batch_is_due_when_full_or_old(n_messages: int, n_bytes: int, age_s: float, is_due: bool) -> None:
    assert should_flush(n_messages, n_bytes, age_s, SETTINGS) is is_due


def test_few_rows_say_nothing() -> None:
    assert not RejectWindow(SETTINGS).exceeded_by(99, 99)


def test_a_share_at_the_cap_passes_and_one_above_does_not() -> None:
    assert not RejectWindow(SETTINGS).exceeded_by(100, 50)
    assert RejectWindow(SETTINGS).exceeded_by(100, 51)


def test_rows_before_count_within_the_window_only() -> None:
    window = RejectWindow(SETTINGS)
    window.add(900, 0)
    assert not window.exceeded_by(100, 100)
    for _ in range(10):
        window.add(100, 50)
    assert window.exceeded_by(100, 51)


def test_many_small_bad_messages_add_up() -> None:
    window = RejectWindow(SETTINGS)
    for _ in range(99):
        assert not window.exceeded_by(1, 1)
        window.add(1, 1)
    assert window.exceeded_by(1, 1)
