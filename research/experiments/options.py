"""Options of the experiments' commands: those that all of a group share, those that hold several values, and the task."""

import copy
import inspect
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any, get_type_hints

import typer

from research.experiments.schemes import ExperimentError


def names_in(text: str) -> tuple[str, ...]:
    """Return the names in an option, empty ones left out."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Return the whole numbers of an option; ExperimentError names the option."""
    try:
        return tuple(int(name) for name in names_in(text))
    except ValueError as error:
        raise ExperimentError(f"{option} {text}: whole numbers by commas, such as 0,1,2") from error


def with_common(asked: type, name: str, function: Callable[..., None]) -> Callable[..., None]:
    """Return the command of a function of what is asked: the options of `asked` come before its own."""
    common = list(inspect.signature(asked).parameters.values())[1:]
    own = list(inspect.signature(function).parameters.values())[1:]

    def command(**options: Any) -> None:
        given = {one.name: options.pop(one.name) for one in common if one.name in options}
        function(asked(name, **given), **options)

    made = asked.__init__  # type: ignore[misc]  # of the class itself: its hints are its options
    hints = {**get_type_hints(made, include_extras=True), **get_type_hints(function, include_extras=True)}
    parameters = [one.replace(annotation=hints[one.name]) for one in (*common, *own)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


class Task(StrEnum):
    """What networks answer."""

    CLASSIFICATION = "classification"
    SEGMENTATION = "segmentation"
    PANOPTIC = "panoptic"


Command = Callable[..., None]


def by_task(commands: Mapping[Task, Command]) -> Command:
    """Return one command of several that `with_common` made, one a task; options of one name are one option.

    The command that is chosen gets the options that were given, and has defaults of its own for the others. One that it does not know is
    an ExperimentError.
    """
    known = {
        task: {one.name: one for one in inspect.signature(own).parameters.values()} for task, own in commands.items()
    }

    def command(task: Task, **options: Any) -> None:
        if task not in known:
            raise ExperimentError(f"--task {task}: this is of {' and '.join(known)}")
        given = {name: one for name, one in options.items() if one is not None}
        if foreign := [name for name in given if name not in known[task]]:
            raise ExperimentError(f"--{foreign[0].replace('_', '-')} is not an option of --task {task}")
        commands[task](**given)

    help_ = "crops of parcels, crops of pixels, or fields with their crops"
    first = inspect.Parameter(
        "task", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=next(iter(known)), annotation=Annotated[Task, typer.Option(help=help_)]
    )  # fmt: skip
    names = dict.fromkeys(name for options in known.values() for name in options)
    of = [{task: one[name] for task, one in known.items() if name in one} for name in names]
    parameters = [first, *(_merged(one, is_of_all=len(one) == len(known)) for one in of)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def _merged(of: Mapping[Task, inspect.Parameter], *, is_of_all: bool) -> inspect.Parameter:
    """Return the option that these tasks have; without it each has its own default, which the help says."""
    first = next(iter(of.values()))
    kind, option = first.annotation.__origin__, copy.copy(first.annotation.__metadata__[0])
    defaults = {task: one.default for task, one in of.items() if one.default not in (None, False)}
    shown = [f"{task}: {one or 'all'}" for task, one in defaults.items()]
    option.show_default = str(first.default) if len(set(defaults.values())) == 1 else "; ".join(shown) or False
    if not is_of_all:
        option.help = f"{option.help} ({', '.join(of)})"
    return first.replace(annotation=Annotated[kind | None, option], default=None)
