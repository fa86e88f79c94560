"""`parcelwatch evaluate`: scores against truth that people recorded.

Arguments are checked before anything heavy is imported or read.
"""

from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from monitor.alerts.settings import RuleSettings
from terminal.errors import UserError
from training.devices import set_threads
from training.errors import EvaluationError, EventTableError
from training.event_kinds import MARKERS, TOLERANCE_DAYS

EPOCHS: Final = 30

app = typer.Typer(no_args_is_help=True, help="Score what is found against what people recorded.")
convert = typer.Typer(no_args_is_help=True, help="Write recorded data in the form that `evaluate events` reads.")
app.add_typer(convert, name="convert")


class Kind(StrEnum):
    """Forms of recorded folders."""

    NL = "nl"
    FR = "fr"


@app.command()
def events(
    series: Annotated[
        Path, typer.Argument(help="Parquet of observations, a row for a parcel and a date (docs/events.md)")
    ],
    events: Annotated[Path, typer.Argument(help="CSV of dated events: parcel_id, date (or begin and end), kind")],
    kind: Annotated[str, typer.Option(help="of the events that are scored: mowing or grazing")] = "mowing",
    tolerance_days: Annotated[
        int, typer.Option(min=0, max=60, help="days at which two events are the same")
    ] = TOLERANCE_DAYS,
    as_json: Annotated[bool, typer.Option("--json", help="print the scores as JSON")] = False,
) -> None:
    """Find dated events in a series and score them against recorded ones: precision, recall, F1, error in days."""
    if kind not in MARKERS:
        raise EventTableError(f"--kind {kind}: no marker finds it; one of {', '.join(MARKERS)}")
    for file in (series, events):
        if not file.exists():
            raise EventTableError(f"{file}: no such file")
    from training.event_evaluation import report

    report(series, events, kind, tolerance_days, as_json=as_json)


@app.command()
def declarations(  # the options of a command
    folder: Annotated[Path, typer.Argument(help="recorded season, or its name in PARCELWATCH_DATA (docs/replay.md)")],
    train_on: Annotated[
        Path | None, typer.Option(help="another folder of the form, as last season, whose truth a model is taught")
    ] = None,
    kind: Annotated[Kind, typer.Option(help="form of the folders")] = Kind.NL,
    swap: Annotated[float, typer.Option(min=0.001, max=0.5, help="share of declarations that are swapped")] = 0.05,
    expect_wrong: Annotated[
        float, typer.Option(min=0, max=0.5, help="share of wrong declarations that training allows for; 0: none")
    ] = 0.05,
    seed: Annotated[int, typer.Option(min=0, help="draws the swaps, and begins the training")] = 1,
    seeds: Annotated[int, typer.Option(min=1, max=100, help="so many seeds, from --seed on")] = 1,
    on: Annotated[list[str] | None, typer.Option(help="dates at whose end it is asked, YYYY-MM-DD")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="passes over the season in each training")] = EPOCHS,
    as_json: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Swap some declared crops, train on them as the season stands at several dates, and score crop_mismatch.

    No parcel is judged by a model that learnt from its own block. Beside it: a model of last season's truth (--train-on), or,
    without one, models of the other blocks' truth over the whole season, which no agency has in its first.
    """
    if train_on is not None and train_on.resolve() == folder.resolve():
        raise EvaluationError(f"{train_on}: the season that is scored cannot be its own past; name another folder")
    days = tuple(_day(one) for one in on or ())
    from training.declaration_evaluation import Asked, report

    set_threads()
    asked = Asked(swap, expect_wrong, days, epochs, RuleSettings())
    report(folder, train_on, kind.value, asked, range(seed, seed + seeds), as_json=as_json)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise EvaluationError(f"--on: {error}; YYYY-MM-DD is needed") from error


@convert.command("jrc-cbm")
def jrc_cbm(
    folder: Annotated[Path, typer.Argument(help="folder with tsdir/ and gtdir/FOIinfo.csv")],
    out: Annotated[Path, typer.Argument(help="folder for series.parquet and events.csv")],
) -> None:
    """Convert the grassland parcels of the JRC's signal analysis for mowing (SALMS)."""
    if not (truth := folder / "gtdir" / "FOIinfo.csv").exists():
        raise EventTableError(f"{truth}: no such file")
    from training.jrc_cbm import convert_jrc_cbm

    try:
        n_rows, n_events = convert_jrc_cbm(folder, out)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror or error}") from error
    typer.echo(f"{out / 'series.parquet'}: {n_rows} rows; {out / 'events.csv'}: {n_events} events")
