"""The variables of the environment that settings come from: which are known, and which one an error is about."""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pydantic
from pydantic_settings import BaseSettings, SettingsError

PREFIX: Final = "PARCELWATCH_"
OTHERS: Final = (
    "PARCELWATCH_HOME",
    "PARCELWATCH_CACHE",
    "PARCELWATCH_DATA",
    "PARCELWATCH_DEBIAN_MIRROR",
    "PARCELWATCH_TRACE",
    "PARCELWATCH_CDSE_USER",
    "PARCELWATCH_CDSE_PASSWORD",
    "PARCELWATCH_CDSE_TOKEN",
    "PARCELWATCH_DB_PASSWORD",
    "PARCELWATCH_DB_PORT",
    "PARCELWATCH_BROKER_PORT",
    "PARCELWATCH_REFERENCE",
)
"""Variables that are read where they are needed, and those of docker-compose.yml and of the tests."""
OTHER_PREFIXES: Final = ("PARCELWATCH_TEST_", "PARCELWATCH_FUZZ", "PARCELWATCH_BOTH_SIDES_")
"""Of variables that only tests read."""


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a line for each variable that bears the project's prefix and that nothing reads: most are mistyped.

    Settings classes count once their module is imported.
    """
    known = sorted({*OTHERS, *_variables()})
    lines = []
    for name in sorted(environ):
        if (
            name.upper().startswith(PREFIX)
            and name.upper() not in known
            and not name.upper().startswith(OTHER_PREFIXES)
        ):
            close = difflib.get_close_matches(name.upper(), known, 1, 0.8)
            lines.append(f"{name} is not known and changes nothing" + (f": {close[0]} is meant?" if close else ""))
    return lines


def setting_errors(error: pydantic.ValidationError | SettingsError, environ: Mapping[str, str]) -> str:
    """Return what is wrong with settings in one line that names the variables, never their values."""
    set_here = {name.upper() for name in environ}
    if isinstance(error, SettingsError):  # a list or table that is no JSON; names the field alone
        field = re.search(r'field "(\w+)"', str(error))
        names = [one for one in _variables() if field and one.endswith(f"_{field[1].upper()}") and one in set_here]
        return f'{" or ".join(names) or "a setting"}: JSON is needed, such as [4, 5] or {{"name": 1}}'
    made = {one.__name__: one for one in _classes()}.get(error.title)
    parts = []
    for one in error.errors(include_url=False, include_input=False):
        place = [str(part) for part in one["loc"]]
        variable = "" if made is None else _variable(made, place)
        parts.append(f"{variable if variable in set_here else '.'.join([error.title, *place])}: {one['msg']}")
    return "; ".join(parts)


def _classes() -> Iterator[type[BaseSettings]]:
    """Yield the settings classes of the project that are imported."""
    for one in BaseSettings.__subclasses__():
        if str(one.model_config.get("env_prefix", "")).startswith(PREFIX):
            yield one


def _variables() -> Iterator[str]:
    """Yield the variables of all settings."""
    for one in _classes():
        for name, field in one.model_fields.items():
            yield _variable(one, [name])
            nested: Any = field.annotation
            if dataclasses.is_dataclass(nested) and one.model_config.get("env_nested_delimiter"):
                yield from (_variable(one, [name, inner.name]) for inner in dataclasses.fields(nested))


def _variable(settings: type[BaseSettings], place: list[str]) -> str:
    """Return the variable of a field; items of a list are in the variable of the list."""
    delimiter = settings.model_config.get("env_nested_delimiter")
    names = place if delimiter else place[:1]
    return f"{settings.model_config.get('env_prefix', '')}{(delimiter or '').join(names)}".upper()
