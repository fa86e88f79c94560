"""A policy: what is asked of which parcels, when, and how it is seen; a TOML file read into checked, frozen values.

    name, version, title     what it is called; a version that was in force is never changed
    [[obligation]]           one thing that is asked: its kind (see `monitor.policies.obligations`), dates, thresholds
    [obligation.parcels]     of which parcels: crops, regions, area, a list of parcels
    [[paid_alike]]           crops between which payment does not differ: no alert where one is taken for another
    [[suppress]]             windows in which a departure gives no alert: a derogation, a storm, holidays
    [[red]]                  when departures of a rule may be red: a confidence with a bound on false reds, a day

Its hash is that of its content as JSON with sorted keys, the listed parcels included: a stored policy needs no file.
Errors: PolicyError, one line with the file, the line, what is wrong there and what is allowed.
"""

import csv
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from monitor.alerts.rules import RULES
from monitor.errors import PolicyError
from monitor.policies.lines import line_of

Kind = Literal[
    "covered", "cover_days", "established_by", "not_ploughed", "mown", "not_mown", "harvested", "tilled", "not_tilled"
]
WITHOUT_NDVI: Final[frozenset[Kind]] = frozenset({"mown", "not_mown", "harvested", "tilled", "not_tilled"})
"""Seen by markers, which have their own levels."""
LONGEST_FILE: Final = 50_000_000
"""Bytes of a policy or of a list of parcels; chosen because ten million source ids are 100 MB and no scheme has as many."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Selection(_Section):
    """Of which parcels something is asked; what is left out selects all."""

    crops: tuple[str, ...] = ()
    """Declared crops: HCAT codes or the beginning of some ("hcat:3302"), or the agency's own codes ("code:265")."""
    except_crops: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    except_regions: tuple[str, ...] = ()
    min_area_ha: Annotated[float, Field(ge=0)] = 0.0
    listed_in: str | None = None
    """A CSV file beside the policy with a column source_id: the parcels that are in the scheme."""
    source_ids: tuple[str, ...] | None = None
    """What `listed_in` lists; read from it."""

    @field_validator("crops", "except_crops")
    @classmethod
    def _are_codes(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        for code in codes:
            if not re.fullmatch(r"hcat:\d{2,10}|code:.+", code):
                raise ValueError(f'{code!r} is no crop: write "hcat:3302" (and all codes that begin so) or "code:265"')
        return codes


class Obligation(_Section):
    """One thing that is asked of parcels; findings and alerts carry its name as their rule."""

    name: str
    kind: Kind
    title: str = ""
    """In words, for who reads the alert."""
    source: str = ""
    """Where it is laid down."""
    begin: date = Field(alias="from")
    until: date
    """The last day of the window, or the deadline."""
    days: Annotated[int, Field(ge=1, le=366)] = 56
    """Of `cover_days`: days of cover in one stretch (56: eight weeks of a catch crop, Sen4CAP L4C)."""
    grace_days: Annotated[int, Field(ge=0, le=120)] = 0
    """Days after a deadline before anything departs."""
    ndvi: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Level that counts as vegetation, or below which soil counts as bare; None: that of the kind."""
    green_from: date | None = None
    """Of `not_ploughed`: a stand must have been seen green on or after this day too; None: whenever."""
    confirm_days: Annotated[int, Field(ge=1, le=120)] = 10
    """A departure is red once an observation so much later shows the same."""
    parcels: Selection = Selection()

    @field_validator("name")
    @classmethod
    def _is_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("a name is 1 to 40 of a-z, 0-9 and _, and begins with a letter")
        return name

    @model_validator(mode="after")
    def _is_in_order(self) -> "Obligation":
        if self.until < self.begin:
            raise ValueError(f"ends on {self.until}, before it begins on {self.begin}")
        if self.ndvi is not None and self.kind in WITHOUT_NDVI:
            raise ValueError(f"ndvi is no threshold of {self.kind}; leave it out")
        if self.green_from is not None and (self.kind != "not_ploughed" or self.green_from > self.until):
            raise ValueError("green_from is of not_ploughed, and no later than until")
        if self.kind == "cover_days" and (self.until - self.begin).days + 1 < self.days:
            raise ValueError(f"{self.days} days of cover do not fit between {self.begin} and {self.until}")
        return self


class PaidAlike(_Section):
    """Crops between which payment does not differ."""

    name: str
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    """Classes of the classifier."""


class Suppression(_Section):
    """A window: a departure whose own date lies in it gives no alert, whenever it becomes known."""

    name: str
    reason: Annotated[str, Field(min_length=1, max_length=2000)]
    """Why, as people read it: a derogation after a drought, a storm, holidays."""
    rules: tuple[str, ...] = ()
    """Rules, or obligations of this policy; all where none is named."""
    begin: date = Field(alias="from")
    until: date
    """The last day."""
    parcels: Selection = Selection()

    @model_validator(mode="after")
    def _is_in_order(self) -> "Suppression":
        if not self.reason.strip():
            raise ValueError("a reason is needed")
        if self.until < self.begin:
            raise ValueError(f"ends on {self.until}, before it begins on {self.begin}")
        return self


class Red(_Section):
    """When departures of a rule may be red; below, or before, they are yellow."""

    rule: str
    """A rule, or an obligation of this policy."""
    above: Annotated[float, Field(ge=0, le=1)] | None = None
    """The stated confidence of a finding from which on it may be red."""
    risk: Annotated[float, Field(gt=0, lt=1)] | None = None
    """At most this share of all parcels is falsely red ..."""
    confidence: Annotated[float, Field(gt=0, lt=1)] | None = None
    """... with this probability over the draw of the truth."""
    n: Annotated[int, Field(ge=1)] | None = None
    """Verdicts that this rests on."""
    source: str | None = None
    """Of the verdicts."""
    source_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    chosen_on: date | None = None
    not_before: str | None = None
    """No red as of an earlier day of the season, as MM-DD."""

    @field_validator("not_before")
    @classmethod
    def _is_day(cls, day: str | None) -> str | None:
        try:  # of a year without a 29 February: every season has the day
            if day is not None and date.fromisoformat(f"2025-{day}").strftime("%m-%d") != day:
                raise ValueError
        except ValueError:
            raise ValueError(f'{day!r} is no day of every year: write month and day as "05-15"') from None
        return day

    @model_validator(mode="after")
    def _has_its_guarantee(self) -> "Red":
        belongs = ("above", "risk", "confidence", "n", "source", "source_sha256", "chosen_on")
        missing = [name for name in belongs if getattr(self, name) is None]
        if missing and len(missing) < len(belongs):
            raise ValueError(
                f"{', '.join(missing)} missing: a threshold stands with its guarantee, "
                "as `parcelwatch policy calibrate` writes both"
            )
        if missing and self.not_before is None:
            raise ValueError("says nothing: not_before is needed, or what `parcelwatch policy calibrate` writes")
        return self


class Policy(_Section):
    """What an agency asks in a season."""

    name: str
    version: Annotated[int, Field(ge=1)]
    title: str = ""
    paid_alike: tuple[PaidAlike, ...] = ()
    obligation: tuple[Obligation, ...] = ()
    suppress: tuple[Suppression, ...] = ()
    red: tuple[Red, ...] = ()

    @model_validator(mode="after")
    def _is_unambiguous(self) -> "Policy":
        names = [one.name for one in self.obligation]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two obligations are called {sorted(twice)[0]}")
        classes = [name for group in self.paid_alike for name in group.classes]
        if twice := {name for name in classes if classes.count(name) > 1}:
            raise ValueError(f"{sorted(twice)[0]!r} is in two groups that are paid alike")
        windows = [one.name for one in self.suppress]
        if twice := {name for name in windows if windows.count(name) > 1}:
            raise ValueError(f"two windows are called {sorted(twice)[0]}")
        rules = [one.rule for one in self.red]
        if twice := {name for name in rules if rules.count(name) > 1}:
            raise ValueError(f"two tables [[red]] are of {sorted(twice)[0]}")
        if not (self.obligation or self.paid_alike or self.suppress or self.red):
            raise ValueError(
                "asks nothing: an [[obligation]] or [[paid_alike]] is needed, or a [[suppress]] or [[red]]"
            )
        return self

    def content(self) -> str:
        """Return it as JSON with sorted keys: what is stored and hashed."""
        content = self.model_dump(mode="json", by_alias=True)
        # Policies that were in force before there were these keep their hash.
        for table in ("suppress", "red"):
            if not content[table]:
                del content[table]
        for one in content["obligation"]:
            if one["green_from"] is None:
                del one["green_from"]
        return json.dumps(content, sort_keys=True, ensure_ascii=False)

    @cached_property
    def hash(self) -> str:
        """Return the SHA-256 of the content, in hexadecimal."""
        return hashlib.sha256(self.content().encode()).hexdigest()

    @property
    def cited(self) -> dict[str, Any]:
        """Return how evidence names it."""
        return {"policy": self.name, "policy_version": self.version, "policy_sha256": self.hash}

    def red_of(self, rule: str) -> Red | None:
        """Return when departures of a rule may be red; None where nothing is said of it."""
        return next((one for one in self.red if one.rule == rule), None)

    @classmethod
    def stored(cls, content: str) -> "Policy":
        """Return the policy that `content` returned."""
        return cls.model_validate_json(content)


def read_policy(file: Path) -> Policy:
    """Read and check a policy; raises PolicyError."""
    return checked(file, _text(file))


def checked(file: Path, text: str) -> Policy:
    """Return the policy that the text of a file is; raises PolicyError."""
    try:
        plain = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{file}: not TOML: {error}") from error
    for table in ("obligation", "suppress"):
        sections = plain.get(table)
        for nr, section in enumerate(sections if isinstance(sections, list) else []):
            _list_parcels(file, text, (table, nr), section)
    try:
        policy = Policy.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        line, where = line_of(text, first["loc"]), _where(plain, first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise PolicyError(f"{file}, line {line}: {_said(where, first)}{more}") from error
    _require_rules(file, text, policy)
    return policy


def _require_rules(file: Path, text: str, policy: Policy) -> None:
    """Raise PolicyError where a window or a threshold names a rule that there is not."""
    known = [*RULES, *(one.name for one in policy.obligation)]
    named = [(("suppress", nr, "rules"), f"{one.name} rules", one.rules) for nr, one in enumerate(policy.suppress)]
    named += [(("red", nr, "rule"), f"{nr + 1} rule", (one.rule,)) for nr, one in enumerate(policy.red)]
    for place, where, rules in named:
        for rule in rules:
            if rule not in known:
                raise PolicyError(
                    f"{file}, line {line_of(text, place)}: {place[0]} {where}: {rule!r} is no rule and no obligation "
                    f"of this policy; known: {', '.join(known)}"
                )


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > LONGEST_FILE:
            raise PolicyError(f"{file}: more than {LONGEST_FILE // 1_000_000} MB; is it the right file?")
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise PolicyError(f"{file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise PolicyError(f"{file}: not UTF-8 (byte {error.start}); save it as UTF-8") from error


def _list_parcels(file: Path, text: str, place: tuple[str, int], section: Any) -> None:
    """Put the listed parcels of an obligation or a window in the place of the file's name."""
    parcels = section.get("parcels") if isinstance(section, dict) else None
    if not isinstance(parcels, dict) or not isinstance(parcels.get("listed_in"), str):
        return
    line, listed = line_of(text, (*place, "parcels", "listed_in")), file.parent / parcels["listed_in"]
    try:
        rows = csv.DictReader(_text(listed).splitlines())
        if "source_id" not in (rows.fieldnames or ()):
            raise PolicyError(f"{listed} has no column source_id; its columns: {', '.join(rows.fieldnames or ())}")
        parcels["source_ids"] = sorted({row["source_id"] for row in rows if row["source_id"]})
    except (PolicyError, csv.Error) as error:
        raise PolicyError(f"{file}, line {line}: {error}") from error


def _where(plain: Mapping[str, Any], place: tuple[str | int, ...]) -> str:
    """Return a place as a person calls it: an obligation by its name, else by its number from 1."""
    if len(place) < 2 or not isinstance(place[1], int):
        return ".".join(str(part) for part in place)
    table = plain[str(place[0])][place[1]]
    name = table.get("name") if isinstance(table, dict) else None
    return " ".join([str(place[0]), str(name or place[1] + 1), ".".join(str(part) for part in place[2:])]).strip()


def _said(where: str, error: Mapping[str, Any]) -> str:
    if error["type"] == "missing":
        return f"{where} is missing"
    if error["type"] == "extra_forbidden":
        return f"{where}: there is no such key"
    said = str(error["msg"]).removeprefix("Value error, ")
    given = error.get("input")
    shown = (
        f", not {given!r}" if isinstance(given, str | int | float) and "Value error" not in str(error["msg"]) else ""
    )
    return f"{where}: {said}{shown}" if where else f"the policy {said}"
