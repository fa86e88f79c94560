"""The command line: one Typer app composing the commands of the packages."""

import os
import sys
from collections.abc import Sequence

import psycopg
import pydantic
import sqlalchemy as sa
import torch
import typer
from pydantic_settings import SettingsError

import db.commands
import devstack.commands
import ingest.parcels.commands
import ingest.scenes.commands
import ingest.stream.commands
import monitor.commands
import monitor.inspection.alert_commands
import monitor.inspection.history_command
import research.experiments.experiment_commands
import research.seasons.commands
import research.seasons.replay_commands
import training.commands
import training.ndvi_commands
import training.published_commands
from db.connect import DatabaseUnavailable, InvalidAddress, name_process
from db.fresh import NoFreshDatabase
from db.parcels import SeasonDiffers, UnknownSeason
from devstack.errors import StackError
from ingest.errors import IngestError
from ingest.parcels.files import ParcelFileError
from models.checkpoint import CheckpointError
from models.classifier.network import ConfigError
from models.classifier.published import PublishedError
from models.ndvi.inputs import TrainingDataError
from monitor.errors import CannotWatch, NotFound
from monitor.settings import MonitorSettings
from research.experiments.pastis_metadata import PastisError
from research.experiments.schemes import ExperimentError
from research.seasons.playable import SeasonDataError
from terminal.environment import setting_errors, unknown_variables
from terminal.output import printable
from training.config import RunConfigError
from training.stored_season import NothingToLearn

TRACE = "PARCELWATCH_TRACE"
SHOWN = (
    DatabaseUnavailable,
    InvalidAddress,
    NoFreshDatabase,
    StackError,
    UnknownSeason,
    SeasonDiffers,
    IngestError,
    ParcelFileError,
    CheckpointError,
    ConfigError,
    NothingToLearn,
    NotFound,
    CannotWatch,
    SeasonDataError,
    TrainingDataError,
    RunConfigError,
    PastisError,
    PublishedError,
    ExperimentError,
)
"""Errors whose message is made for people: one line, no traceback."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Watch every declared field of a region through a growing season.",
)
app.add_typer(devstack.commands.app, name="stack")
app.add_typer(db.commands.app, name="db")
app.add_typer(ingest.parcels.commands.app, name="parcels")
app.add_typer(ingest.stream.commands.app, name="ingest")
app.add_typer(ingest.scenes.commands.app, name="scenes")
app.add_typer(monitor.commands.models, name="models")
monitor.commands.train_app.command("classifier")(training.commands.classifier)
monitor.commands.train_app.command("ndvi")(training.ndvi_commands.ndvi)
monitor.commands.models.command()(training.published_commands.import_published)
monitor.commands.models.command()(training.published_commands.verify)
app.add_typer(monitor.commands.monitor, name="monitor")
app.add_typer(research.experiments.experiment_commands.app, name="experiments")
app.command()(monitor.inspection.history_command.history)
app.add_typer(monitor.inspection.alert_commands.app, name="alerts")
app.command()(monitor.commands.status)
app.command()(research.seasons.commands.demo)
app.command("replay")(research.seasons.replay_commands.replay_season)
app.command()(research.seasons.replay_commands.simulate)


def main() -> None:
    """Runs the command line; what can go wrong outside of the program ends in one line and exit code 1."""
    for line in unknown_variables(os.environ):
        typer.echo(f"parcelwatch: {printable(line)}", err=True)
    try:
        name_process(_command(sys.argv[1:]))
        torch.set_num_threads(MonitorSettings().threads)
        app()
    except SHOWN as error:
        _stop(str(error))
    except (sa.exc.ProgrammingError, psycopg.errors.UndefinedTable) as error:
        if "does not exist" not in str(error):
            raise
        _stop("the database has no schema, or an old one: run `parcelwatch db upgrade`")
    except sa.exc.OperationalError as error:
        _stop(f"database: {str(error.orig).splitlines()[0]}")
    except (pydantic.ValidationError, SettingsError) as error:
        _stop(setting_errors(error, os.environ))
    except Exception as error:  # the last door: a defect of ours ends in a line that can be reported
        if os.environ.get(TRACE):
            raise
        _stop(
            f"unexpected {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'} (set {TRACE}=1 to see where)"
        )


def _command(arguments: Sequence[str]) -> str:
    """Return the command that arguments name, without its own arguments."""
    is_group = arguments[:1] != [] and arguments[0] in {group.name for group in app.registered_groups}
    return " ".join(word for word in arguments[: 2 if is_group else 1] if not word.startswith("-"))


def _stop(line: str) -> None:
    typer.echo(f"parcelwatch: {printable(line)}", err=True)
    sys.exit(1)


if __name__ == "__main__":  # torchrun ... -m parcelwatch
    main()
