"""Profiles of catalogues: one small TOML file says where a STAC API is, what it calls things and how its files open."""

import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from db.sensors import Sensor
from ingest.errors import IngestError
from ingest.imagery.profile import Profile
from ingest.imagery.sensors import IMAGERY

PROFILES_FOLDER: Final = Path(__file__).parent / "profiles"
_NAMED: Final = tuple(field.name for field in fields(Profile) if field.name not in ("sensor", "assets", "fixed"))
"""Facts of a scene that catalogues name in different ways."""


class ProfileError(IngestError):
    """The profile says something wrong: its file and key; mend the file."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Access(_Part):
    """How a catalogue's files are opened."""

    kind: Literal["https", "sas", "s3"] = "https"
    token_api: str | None = None
    """sas: `{token_api}/ACCOUNT/CONTAINER` gives a token and its expiry."""
    key_variable: str | None = None
    """sas: variable of the environment that may hold a subscription key."""
    endpoint: str | None = None
    """s3: host (and port) of the object store; its keys are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."""
    secure: bool = True
    hosts: tuple[str, ...] = ()
    """Hosts of the files, beside the API's own: host, host:port or *.domain."""

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        needed = {"sas": "token_api", "s3": "endpoint"}.get(self.kind)
        if needed and not getattr(self, needed):
            raise ValueError(f"{needed} is needed where kind is {self.kind}")
        return self

    @field_validator("endpoint", "token_api")
    @classmethod
    def _without_end(cls, value: str | None) -> str | None:
        return value.rstrip("/") if value else value


class SensorNames(_Part):
    """A sensor's collections and the names in its items; what is left out is as the sensor's own profile has it."""

    collections: tuple[str, ...] = Field(min_length=1)
    names: Mapping[str, tuple[str, ...]] = {}
    """Properties by the fact they hold: product, observed_at, available_at, relative_orbit, ..."""
    assets: Mapping[str, tuple[str, ...]] = {}
    """Asset keys by band."""
    fixed: Mapping[str, str | int | float | bool] = {}
    """Properties that all items share and therefore leave out."""

    @field_validator("names")
    @classmethod
    def _known_facts(cls, value: Mapping[str, tuple[str, ...]]) -> Mapping[str, tuple[str, ...]]:
        if unknown := sorted(set(value) - set(_NAMED)):
            raise ValueError(f"{unknown[0]!r} is no fact of a scene; known: {', '.join(_NAMED)}")
        return value


class CatalogueProfile(_Part):
    """A catalogue, as its TOML file says."""

    name: str
    """What loads it again: the shipped file's name without .toml, or the whole path of the user's."""
    title: str
    api: str = Field(pattern=r"^https?://")
    """The STAC API's landing page."""
    page_size: Annotated[int, Field(ge=1, le=1000)] = 100
    pause_s: Annotated[float, Field(ge=0)] = 0.5
    """Between two requests."""
    published: str | None = None
    """The property that says when an item was published or changed; None: the API cannot be asked by it."""
    published_by: Literal["filter", "query"] = "filter"
    """The extension that takes a condition on it: filter (CQL2) or query."""
    overlap_hours: Annotated[float, Field(gt=0)] = 6.0
    """Asked again before the bookmark: an item is searchable some time after the moment that it says."""
    overlap_days: Annotated[float, Field(gt=0)] = 10.0
    """The same where items can be asked for by acquisition only: most scenes are published within a day, some after a
    week (chosen so; each day costs one more day of items that are known already)."""
    access: Access = Access()
    sensors: Mapping[Sensor, SensorNames] = Field(min_length=1)

    @field_validator("api")
    @classmethod
    def _without_end(cls, value: str) -> str:
        return value.rstrip("/")

    @property
    def overlap(self) -> timedelta:
        """How far before its bookmark a poll begins."""
        return timedelta(hours=self.overlap_hours) if self.published else timedelta(days=self.overlap_days)

    def reading(self, sensor: Sensor) -> Profile:
        """Return how items of the sensor are read. Raises ProfileError."""
        if sensor not in self.sensors:
            raise ProfileError(f"profile {self.name}: no [sensors.{sensor}]; it has {', '.join(sorted(self.sensors))}")
        known, names = IMAGERY[sensor].profile, self.sensors[sensor]
        facts: dict[str, Any] = dict(names.names)
        return replace(known, assets={**known.assets, **names.assets}, fixed=names.fixed, **facts)


def reading_of(profile: CatalogueProfile | None, sensor: Sensor) -> Profile:
    """Return how items of a sensor are read; without a profile by the names of the three large catalogues. Raises ProfileError."""
    return profile.reading(sensor) if profile else IMAGERY[sensor].profile


def shipped_profiles() -> dict[str, Path]:
    """Return the profiles that come with the project, by name."""
    return {path.stem: path for path in sorted(PROFILES_FOLDER.glob("*.toml"))}


def load_profile(name_or_path: str) -> CatalogueProfile:
    """Return a profile by its shipped name or the path of a TOML file. Raises ProfileError."""
    path = shipped_profiles().get(name_or_path)
    name, path = (name_or_path, path) if path else (str(Path(name_or_path).resolve()), Path(name_or_path))
    try:
        written: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        return CatalogueProfile.model_validate({"name": name, **written})
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(
            f"profile {name_or_path}: neither a readable TOML file nor one of {', '.join(shipped_profiles())}"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"profile {path}: not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ProfileError(f"profile {path}: {key}: {first['msg'].removeprefix('Value error, ')}") from error
