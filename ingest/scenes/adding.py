"""Scenes that a person names: a SAFE folder or zip, a STAC item's file or address, a folder of COGs with its item."""

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from ingest.errors import IngestError
from ingest.imagery.stac import S1_PROFILE, S2_PROFILE
from ingest.scenes.items import NotAScene, scene_of_item, sensor_of
from ingest.scenes.profiles import CatalogueProfile
from ingest.scenes.record import FoundScene

SOURCE = "add"


class CannotAdd(IngestError):
    """Nothing at that place is a scene: name another."""


def scenes_at(
    place: str, profile: CatalogueProfile | None, fetch: Callable[[str], Any], found_at: datetime
) -> list[FoundScene]:
    """The scenes at a path or address; whether they can be read is judged when they are cut. Raises CannotAdd.

    Args:
        place: a path, or the address of an item.
        profile: reads items; None: by the names that the three large catalogues use.
        fetch: an address's parsed JSON.
        found_at: the time.
    """
    if "://" in place and not place.startswith("file://"):
        return [_of_item(fetch(place), place, profile, found_at)]
    path = Path(place.removeprefix("file://")).absolute()
    if not path.exists():
        raise CannotAdd(f"{place}: no such file or folder")
    if path.suffix == ".json":
        return [_of_item(_parsed(path), str(path), profile, found_at)]
    if path.suffix in (".SAFE", ".zip"):
        return [_of_safe(path, found_at)]
    if path.is_dir():
        items = [(item, parsed) for item in sorted(path.glob("*.json")) if _is_item(parsed := _parsed(item))]
        products = [_of_safe(one, found_at) for one in sorted([*path.glob("*.SAFE"), *path.glob("*.zip")])]
        if items or products:
            return [*products, *(_of_item(parsed, str(item), profile, found_at) for item, parsed in items)]
    raise CannotAdd(f"{place}: neither a SAFE folder or zip, nor a STAC item (.json), nor a folder that holds one")


def _of_safe(path: Path, found_at: datetime) -> FoundScene:
    name = path.name.removesuffix(".zip").removesuffix(".SAFE")
    sensor = sensor_of(name)
    if sensor is None:
        raise CannotAdd(f"{path}: its name says neither Sentinel-1 nor Sentinel-2")
    return FoundScene(name, sensor, SOURCE, "safe", str(path), None, None, found_at)


def _of_item(item: Any, place: str, profile: CatalogueProfile | None, found_at: datetime) -> FoundScene:
    if not _is_item(item):
        raise CannotAdd(f"{place}: not a STAC item")
    properties = item.get("properties") or {}
    sensor = sensor_of(properties.get("platform"), properties.get("constellation"), item.get("id"))
    if sensor is None:
        raise CannotAdd(f"{place}: neither platform nor id says Sentinel-1 or Sentinel-2")
    known = S1_PROFILE if sensor == "S1" else S2_PROFILE
    local = {**item, "links": []} if "://" not in place else item
    try:
        return scene_of_item(
            local, sensor, profile.reading(sensor) if profile else known, source=SOURCE,
            profile=profile.name if profile else None, place=place, found_at=found_at,
        )  # fmt: skip
    except NotAScene as error:
        raise CannotAdd(f"{place}: {error}") from error


def _is_item(parsed: Any) -> bool:
    return isinstance(parsed, dict) and isinstance(parsed.get("id"), str) and "assets" in parsed


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CannotAdd(f"{path}: not JSON: {str(error)[:200]}") from error
