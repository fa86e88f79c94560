"""`parcelwatch monitor`: new observations into posteriors, curves and alerts."""

import logging
from datetime import UTC, datetime

import typer

from devstack.addresses import resolve_dsn
from monitor import schedule
from monitor.settings import MonitorSettings
from monitor.worker import Worker
from terminal.output import console

app = typer.Typer(no_args_is_help=True, help="Fold new observations into posteriors, curves and alerts.")


@app.command()
def run() -> None:
    """Work off pending observations until stopped (SIGTERM or Ctrl-C)."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    schedule.run(resolve_dsn(), MonitorSettings(), lambda: datetime.now(UTC))


@app.command()
def once() -> None:
    """Work off all that is pending, then stop."""
    counts = schedule.once(Worker(resolve_dsn(), MonitorSettings()), datetime.now(UTC))
    console.print(", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.__dict__.items()))
