"""Options of the experiments' commands: those that all of a group share, and those that hold several values."""

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

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
        function(asked(name, **{one.name: options.pop(one.name) for one in common}), **options)

    made = asked.__init__  # type: ignore[misc]  # of the class itself: its hints are its options
    hints = {**get_type_hints(made, include_extras=True), **get_type_hints(function, include_extras=True)}
    parameters = [one.replace(annotation=hints[one.name]) for one in (*common, *own)]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command
