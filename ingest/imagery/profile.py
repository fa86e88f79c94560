"""How a catalogue writes its STAC items: the profile that names what it calls things, and readers of single fields."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from db.sensors import Sensor

Item = Mapping[str, Any]
"""A STAC item as JSON gives it, asset addresses absolute (and signed, where a catalogue wants that); or a part of one."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How a catalogue writes its items; of several names the first that is there counts."""

    sensor: Sensor
    assets: Mapping[str, tuple[str, ...]]
    """Asset keys by band."""
    product: tuple[str, ...] = ("s2:product_uri", "s1:product_uri")
    """Properties that may hold the product's name; else the item's id does."""
    observed_at: tuple[str, ...] = ("datatake_start", "start_datetime", "datetime")
    available_at: tuple[str, ...] = ("published", "created", "s2:generation_time", "processing:datetime", "updated")
    relative_orbit: tuple[str, ...] = ("sat:relative_orbit", "s1:orbit_number")
    baseline: tuple[str, ...] = ("s2:processing_baseline", "processing:version", "s1:processing_version")
    processed_at: tuple[str, ...] = ("s2:generation_time", "processing:datetime")
    datastrip: tuple[str, ...] = ("s2:datastrip_id",)
    tile: tuple[str, ...] = ("grid:code", "s2:mgrs_tile")
    direction: tuple[str, ...] = ("sat:orbit_state",)
    offset_applied: tuple[str, ...] = ("earthsearch:boa_offset_applied",)
    radiometry: tuple[str, ...] = ("card4l:measurement_type", "ceosard:measurement_type")
    unit: tuple[str, ...] = ("card4l:measurement_convention", "ceosard:measurement_convention")
    coherence_with: tuple[str, ...] = ("coherence:reference_datetime",)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Properties that the catalogue leaves out because all its items share them, for instance card4l:measurement_type."""


@dataclass(frozen=True, slots=True)
class ItemBand:
    """What an item says of one band."""

    name: str
    href: str
    asset: Item
    properties: Item
    """The item's, and those that the profile fixes."""
    baseline: Any
    """Processing baseline or version of the product, as the item or its name says it."""
    scale: float | None
    offset: float | None
    nodata: float | None


def first(properties: Item, names: Iterable[str]) -> Any:
    """Return the first property of some names that is there; None where none is."""
    return next((properties[name] for name in names if properties.get(name) is not None), None)


def needed(properties: Item, names: tuple[str, ...]) -> Any:
    """Return the first property of some names that is there. Raises ValueError where none is."""
    found = first(properties, names)
    if found is None:
        raise ValueError(f"no property of {', '.join(names)}")
    return found


def number(value: Any) -> float | None:
    """Return a value as a number; None where it is none."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def time(value: Any) -> datetime:
    """Return a time that a property says, UTC. Raises ValueError where its offset from UTC is missing."""
    moment = datetime.fromisoformat(str(value))
    if moment.tzinfo is None:
        raise ValueError(f"time {value!r} without its offset from UTC")
    return moment.astimezone(UTC)


def time_in_name(stamp: str | None) -> str | None:
    """Return a time in a name, 20230501T105621, as properties write it."""
    return datetime.strptime(stamp, "%Y%m%dT%H%M%S").replace(tzinfo=UTC).isoformat() if stamp else None
