"""The command line, groups of commands each imported when it is used; and the door for Python (`training.library`)."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pydantic
import typer
from pydantic_settings import SettingsError
from typer.core import TyperCommand, TyperGroup

from terminal.environment import setting_errors, unknown_variables
from terminal.errors import UserError
from terminal.output import printable

if TYPE_CHECKING:
    from training.library import daily_curve, load_model, parcel_history, posteriors
    from web.client import connect

__all__ = ["app", "connect", "daily_curve", "load_model", "main", "parcel_history", "posteriors"]
TRACE = "PARCELWATCH_TRACE"


class Place(NamedTuple):
    """Where a command or group is, and what it is for."""

    module: str
    name: str
    help: str


COMMANDS: Final = {
    "stack": Place("devstack.commands", "app", "Database and broker of one's own, without root or containers."),
    "db": Place("devstack.schema_commands", "app", "The schema of the store."),
    "parcels": Place("ingest.parcels.commands", "app", "Declared parcels from agencies' files."),
    "ingest": Place(
        "ingest.stream.commands", "app", "Observations from the stream into the database, each exactly once."
    ),
    "scenes": Place(
        "ingest.scenes.commands", "app", "Scenes from catalogues and folders, cut into observations of parcels."
    ),
    "chips": Place("ingest.scenes.chip_commands", "app", "Pictures of parcels, before and after a departure."),
    "delineate": Place(
        "ingest.delineation.command", "delineate", "Fields where nobody drew them, from the scenes of a season."
    ),
    "models": Place("training.commands", "app", "Train, list and activate models."),
    "monitor": Place("monitor.commands", "app", "Fold new observations into posteriors, curves and alerts."),
    "policy": Place(
        "monitor.policies.commands", "app", "What an agency asks of parcels: check, explain, try, put in force."
    ),
    "alerts": Place("monitor.inspection.alert_commands", "app", "What departs, and what people decide on it."),
    "subscriptions": Place("monitor.subscriptions.commands", "app", "Who receives which alerts, when and how."),
    "deliveries": Place(
        "monitor.subscriptions.delivery_commands",
        "app",
        "Send what subscriptions are to receive, and see what became of it.",
    ),
    "rounds": Place("monitor.rounds.commands", "app", "Lights published at dates, and what changed between them."),
    "quality": Place("monitor.quality.commands", "app", "Random samples, blind reviews, and what lights are worth."),
    "history": Place(
        "monitor.inspection.history_command", "history", "All that is known of a parcel, or was known at a time."
    ),
    "export": Place("monitor.exports.command", "export", "The parcels of a season as GeoPackage, GeoParquet or CSV."),
    "phenology": Place("monitor.inspection.phenology_command", "app", "A parcel's season, and what markers saw on it."),
    "status": Place("monitor.inspection.status_command", "status", "The state of the whole chain."),
    "access": Place("web.access_commands", "app", "People and their keys, and the regions that each sees."),
    "serve": Place("web.serve_command", "serve", "The API and the console, in a browser or by HTTP."),
    "demo": Place(
        "research.seasons.commands", "demo", "The whole chain on simulated seasons, measured, with a report."
    ),
    "replay": Place(
        "research.seasons.replay_commands", "replay_season", "A recorded season through the whole chain, scored."
    ),
    "simulate": Place(
        "research.seasons.replay_commands", "simulate", "A simulated season as files, or onto the stream."
    ),
    "evaluate": Place("training.evaluate_commands", "app", "Score what is found against what people recorded."),
    "experiments": Place("research.experiments.experiment_commands", "app", "The published experiments on any source."),
}
RESEARCH: Final = "research"
SETTINGS: Final = (
    "devstack.addresses",
    "ingest.imagery.settings",
    "ingest.scenes.settings",
    "ingest.stream.connection",
    "ingest.stream.settings",
    "monitor.settings",
    "monitor.subscriptions.settings",
    "web.settings",
)
"""Modules of the settings classes."""


def __getattr__(name: str) -> Any:
    """Return a function of the door for Python; the networks are imported only when one is used."""
    if name in __all__:
        return getattr(importlib.import_module("web.client" if name == "connect" else "training.library"), name)
    raise AttributeError(f"module 'parcelwatch' has no attribute {name!r}")


class LazyGroup(TyperGroup):
    """Commands that are listed without being imported, and imported when they are called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands.update({name: TyperCommand(name, help=place.help) for name, place in COMMANDS.items()})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that arguments name, imported, and its own arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else load(name), rest


def load(name: str) -> TyperCommand | TyperGroup:
    """Import a command or group. Raises UserError where it belongs to an extra that is not installed."""
    place = COMMANDS[name]
    try:
        found: Any = getattr(importlib.import_module(place.module), place.name)
    except ModuleNotFoundError as error:
        if not place.module.startswith(RESEARCH):
            raise
        raise UserError(
            f"`{name}` needs what is not installed here ({error.name}): pip install -e '.[research]' in the project's folder"
        ) from error
    command: Any
    if isinstance(found, typer.Typer):
        command = typer.main.get_group(found)
    else:
        alone = typer.Typer(add_completion=False)
        alone.command()(found)
        command = typer.main.get_command(alone)
    command.name = name
    if "db.connect" in sys.modules:
        from db.connect import name_process

        name_process(_command(sys.argv[1:]))
    if "torch" in sys.modules:
        from monitor.settings import MonitorSettings

        sys.modules["torch"].set_num_threads(MonitorSettings().threads)
    return command  # type: ignore[no-any-return]


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Watch every declared field of a region through a growing season.",
)


@app.callback()
def _all() -> None: ...


def main() -> None:
    """Run the command line; what can go wrong outside of the program ends in one line and exit code 1."""
    try:
        for line in _unknown_variables():
            typer.echo(f"parcelwatch: {printable(line)}", err=True)
        app()
    except UserError as error:
        _stop(str(error))
    except Exception as error:  # the last door: a defect of ours ends in a line that can be reported
        if (explained := _explained(error)) is not None:
            _stop(explained)
        if os.environ.get(TRACE):
            raise
        what = str(error).splitlines()[0] if str(error) else "no message"
        _stop(f"unexpected {type(error).__name__}: {what} (set {TRACE}=1 to see where)")


def _unknown_variables() -> list[str]:
    """Return a line for each variable that nothing reads; only then are all settings imported."""
    if not unknown_variables(os.environ):
        return []
    for module in SETTINGS:
        importlib.import_module(module)
    return unknown_variables(os.environ)


def _explained(error: Exception) -> str | None:
    """Return what an error of settings or of the database means in one line, None for any other."""
    if isinstance(error, pydantic.ValidationError | SettingsError):
        return setting_errors(error, os.environ)
    if "db.errors" not in sys.modules:
        return None
    from db import errors

    return errors.explained(error)


def _command(arguments: Sequence[str]) -> str:
    """Return the command that arguments name, without its own arguments."""
    is_group = bool(arguments) and arguments[0] in COMMANDS and COMMANDS[arguments[0]].name == "app"
    return " ".join(word for word in arguments[: 2 if is_group else 1] if not word.startswith("-"))


def _stop(line: str) -> None:
    typer.echo(f"parcelwatch: {printable(line)}", err=True)
    sys.exit(1)


if __name__ == "__main__":  # torchrun ... -m parcelwatch
    main()
