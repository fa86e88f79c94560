"""What the consumer counts, by name."""

from collections import Counter
from typing import Literal

Metric = Literal[
    "messages",  # messages taken from the broker and stored or dead-lettered
    "rows",  # observations in them, bad ones included; an undecodable message is one row
    "stored",  # observations newly stored
    "replayed",  # observations that were stored before, with the same values
    "pending",  # observations marked for the monitor (newly stored, of monitorable parcels)
    "dead_letters",  # rows and messages rejected
    "transactions",  # batches committed
    "fenced",  # batches rolled back because another consumer moved the offsets
    "database_waits",  # times the database was away
    "broker_waits",  # times the broker was away
]

Counts = Counter[Metric]


def summary(counts: Counts) -> str:
    """Return counts as one line for a log."""
    return " ".join(f"{name}={number}" for name, number in counts.items() if number) or "nothing"
