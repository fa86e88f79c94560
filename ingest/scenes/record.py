"""A found scene as a record of the scenes topic: where it is, not what is in it.

The worker opens the product: one that is broken is then marked in the ledger with its reason, not lost when it was found.
"""

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from db.sensors import Sensor
from ingest.errors import MessageRejected

SCHEMA: Final = "parcelwatch.scene/1"
CONTENT_TYPE: Final = "application/json"
MAX_BYTES: Final = 2**20
"""Largest record: ten times the largest item of the catalogues (100 kB), and Kafka's own default limit."""
Kind = Literal["safe", "item"]

_S2_PRODUCT: Final = re.compile(
    r"(?P<platform>S2[A-D])_MSIL\w\w_(?P<start>\d{8}T\d{6})_.*?_T(?P<tile>\d\d[A-Z]{3})(?:_|$)"
)
_S2_SHORT: Final = re.compile(r"(?P<platform>S2[A-D])_T?(?P<tile>\d\d[A-Z]{3})_(?P<start>\d{8})(?:T\d{6})?_")
"""Ids of Earth Search: S2A_31UFS_20230501_0_L2A."""
_S1_PRODUCT: Final = re.compile(
    r"(?P<platform>S1[A-D])_\w+?_(?P<start>\d{8}T\d{6})_\d{8}T\d{6}_(?P<orbit>\d{6})_(?P<datatake>[0-9A-F]{6})"
)


def _without_control(text: str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise ValueError("control characters; mend the record")
    return text


def _storable(item: dict[str, Any] | None) -> dict[str, Any] | None:
    """Refuse what JSON in a database cannot hold, although a JSON reader lets it through."""
    waiting: list[Any] = [item]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += (*value.keys(), *value.values())
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and "\0" in value:
            raise ValueError("a text or name with NUL; mend the item")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError("a number that is NaN or infinite; leave it out")
        elif isinstance(value, int) and not -(2**63) <= value < 2**64:
            raise ValueError("a whole number of more than 64 bits; leave it out")
    return item


def _of_our_times(time: datetime) -> datetime:
    # Years at the ends of Python's calendar leave it in another time zone, and then cannot be read back.
    if not 1970 < time.year < 9000:
        raise ValueError("a year that cannot be; mend the clock")
    return time


_Text = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_without_control)]
_Address = Annotated[str, Field(min_length=1, max_length=4_096), AfterValidator(_without_control)]


class _Message(BaseModel):
    """The record as JSON has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_: Literal["parcelwatch.scene/1"] = Field(alias="schema")
    scene_id: _Text
    sensor: Sensor
    source: _Text
    kind: Kind
    href: _Address
    item: Annotated[dict[str, Any] | None, AfterValidator(_storable)] = None
    profile: _Address | None = None
    found_at: Annotated[AwareDatetime, AfterValidator(_of_our_times)]


@dataclass(frozen=True, slots=True)
class FoundScene:
    """A product that somebody found, and how to open it."""

    scene_id: str
    """Product name (SAFE name without .SAFE), or the STAC item's id where it names no product."""
    sensor: Sensor
    source: str
    """Who found it: "add", "folder:NAME", "stac:PROFILE", "cdse"."""
    kind: Kind
    href: str
    """Path or address of the SAFE folder or zip, or of the item's JSON."""
    item: Mapping[str, Any] | None = field(repr=False)
    """The STAC item, addresses of its assets absolute but not signed; only for kind "item"."""
    profile: str | None
    """Name of the profile that reads the item; None: the sensor's default."""
    found_at: datetime

    def __post_init__(self) -> None:
        if self.found_at.tzinfo is None:
            raise ValueError(f"scene {self.scene_id}: found_at without its offset from UTC")
        if (self.kind == "item") != (self.item is not None):
            raise ValueError(f"scene {self.scene_id}: kind {self.kind} {'with' if self.item else 'without'} an item")

    def to_json(self) -> bytes:
        """Return the record of the topic."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)} | {
            "found_at": self.found_at.isoformat()
        }
        return json.dumps({"schema": SCHEMA, **plain}, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def from_json(cls, value: bytes) -> "FoundScene":
        """Return the scene that a record of the topic describes; raises MessageRejected."""
        if len(value) > MAX_BYTES:
            raise MessageRejected("oversized", f"the record has {len(value)} bytes, more than {MAX_BYTES}")
        try:
            return cls.from_record(_Message.model_validate_json(value).model_dump(by_alias=True))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            if place == "schema":
                raise MessageRejected("unknown_schema", f"schema: this reader knows {SCHEMA}") from None
            raise MessageRejected("malformed", f"{place or 'not a JSON record'}: {first['msg']}") from None
        except ValueError as error:
            raise MessageRejected("malformed", str(error)) from None

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "FoundScene":
        """Return the scene that the ledger keeps, as `to_json` wrote it."""
        message = _Message.model_validate(record)
        return cls(**{field.name: getattr(message, field.name) for field in fields(cls)})


def pass_key(scene_id: str) -> str:
    """Return what all processings of a scene share: satellite, day and tile of Sentinel-2, the datatake of Sentinel-1.

    The key of the topic, so that they lie in one partition; a name that says none of it is its own key.
    """
    if found := _S2_PRODUCT.search(scene_id) or _S2_SHORT.search(scene_id):
        return f"{found['platform']}_{found['start'][:8]}_T{found['tile']}"
    if found := _S1_PRODUCT.search(scene_id):
        return f"{found['platform']}_{found['orbit']}_{found['datatake']}"
    return scene_id


def datatake_named(scene_id: str) -> str | None:
    """Return the datatake that a product's name states, as opened scenes call it (`ingest.scenes.passes`); None: it does not."""
    if found := _S2_PRODUCT.search(scene_id):
        return f"{found['platform']}_{found['start']}"
    if found := _S1_PRODUCT.search(scene_id):
        return f"{found['platform']}_{found['datatake']}"
    return None
