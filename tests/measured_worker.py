"""A worker in a process of its own that says how much memory a batch takes: `python -m tests.measured_worker DSN PARCELS`.

Prints the megabytes by which the process was largest, above what it took before its first batch.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from monitor.settings import MonitorSettings
from monitor.worker import Worker

STATUS = Path("/proc/self/status")


def largest_mb() -> float:
    """Return how large this process was at most; that of its parent does not count, as in `ru_maxrss` it may."""
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def main() -> None:
    torch.set_num_threads(1)
    worker = Worker(sys.argv[1], MonitorSettings(batch=int(sys.argv[2])))
    before = largest_mb()
    counts = worker.batch(datetime(2025, 12, 2, tzinfo=UTC))
    assert counts is not None
    assert counts.parcels == int(sys.argv[2])
    print(largest_mb() - before)


if __name__ == "__main__":
    main()
