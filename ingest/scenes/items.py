"""STAC items and SAFE products as found scenes: checked as far as a record needs it; the rest is checked when they are cut."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urljoin, urlsplit

from db.sensors import Sensor
from ingest.errors import IngestError
from ingest.imagery.profile import Profile
from ingest.imagery.sensors import IMAGERY
from ingest.imagery.stac import lacks
from ingest.scenes.access import unsigned
from ingest.scenes.profiles import CatalogueProfile, reading_of
from ingest.scenes.record import FoundScene

_LONGEST_NAME: Final = 200
"""As the record allows."""
_LARGEST: Final = 500_000
"""Bytes of an item: half of a message of the topic, several times what catalogues write."""
_DEEPEST: Final = 64
"""Levels of nesting in an item: catalogues have some ten, databases and parsers take hundreds."""
_SENSORS: Final = " or ".join(one.title for one in IMAGERY.values())


class NotAScene(IngestError):
    """What was found cannot become a record: it is counted and reported, the rest goes on."""


def scene_of_item(  # the item, how to read it, and four facts of where it was found
    item: object, sensor: Sensor, reading: Profile, *, source: str, profile: str | None, place: str, found_at: datetime
) -> FoundScene:
    """Return the found scene of an item that was read at `place` (its address or path). Raises NotAScene."""
    if not isinstance(item, Mapping) or not isinstance(item.get("id"), str) or not item["id"].strip():
        raise NotAScene("not a STAC item: no id")
    name, properties, assets = item["id"], item.get("properties"), item.get("assets")
    if not isinstance(properties, Mapping):
        raise NotAScene(f"{name}: no properties")
    _require_time(name, properties)
    if not isinstance(assets, Mapping) or not assets:
        raise NotAScene(f"{name}: no assets")
    known = {key for keys in reading.assets.values() for key in keys}
    if broken := sorted(key for key in known & set(assets) if not _has_href(assets[key])):
        raise NotAScene(f"{name}: asset {broken[0]} has no href")
    if not known & set(assets):
        raise NotAScene(f"{name}: none of its assets is a band ({', '.join(sorted(map(str, assets)))[:120]})")
    home = _home(item) or place
    scene_id = product_name(item, reading)
    if len(scene_id) > _LONGEST_NAME or not scene_id.isprintable():
        raise NotAScene(f"{scene_id[:80]!r}: no name of a product")
    _require_storable(name, item)
    return FoundScene(
        scene_id=scene_id,
        sensor=sensor,
        source=source,
        kind="item",
        href=unsigned(home),
        item={**item, "assets": {key: _absolute(asset, home) for key, asset in assets.items()}},
        profile=profile,
        found_at=found_at,
    )


def scene_of_file(
    item: Mapping[str, Any], place: str, profile: CatalogueProfile | None, source: str, found_at: datetime
) -> FoundScene:
    """Return the found scene of an item in a file or at an address, whichever sensor's it is. Raises NotAScene."""
    said = item.get("properties")
    properties: Mapping[str, Any] = said if isinstance(said, Mapping) else {}
    sensor = sensor_of(properties.get("platform"), properties.get("constellation"), item.get("id"))
    if sensor is None:
        raise NotAScene(f"{place}: neither platform nor id says {_SENSORS}")
    if profile and sensor not in profile.sensors:
        raise NotAScene(f"{item.get('id')}: profile {profile.name} has no [sensors.{sensor}]")
    if "://" not in place:  # its assets lie beside it, wherever it was published first
        item = {**item, "links": []}
    reading = reading_of(profile, sensor)
    found = scene_of_item(
        item, sensor, reading, source=source, profile=profile.name if profile else None, place=place, found_at=found_at
    )
    if lacking := lacks(found.item or {}, reading):
        raise NotAScene(f"{found.scene_id}: it lacks {'; '.join(lacking)}")
    return found


def scene_of_safe(path: Path, name: str, source: str, found_at: datetime) -> FoundScene:
    """Return the found scene of a SAFE folder or zip. Raises NotAScene."""
    if (sensor := sensor_of(name)) is None:
        raise NotAScene(f"{path.name}: no product of {_SENSORS}")
    imagery = IMAGERY[sensor]
    if imagery.read_safe is None:
        raise NotAScene(
            f"{path.name}: {imagery.title} SAFE lies on no map: give terrain-corrected COGs with a STAC item"
        )
    if imagery.level not in name:
        raise NotAScene(f"{path.name}: not level 2A, whose reflectance is that of the ground")
    return FoundScene(name, sensor, source, "safe", str(path), None, None, found_at)


def product_name(item: Mapping[str, Any], reading: Profile) -> str:
    """Return the product's name, the same in whatever catalogue: what the item says of it, else the item's id."""
    said = next((item["properties"][name] for name in reading.product if item["properties"].get(name)), None)
    return str(said or item["id"]).removesuffix(".SAFE")


def sensor_of(*names: object) -> Sensor | None:
    """Return the sensor that the first meaningful of some names (platform, constellation, product) speaks of."""
    said = (name for name in names if isinstance(name, str))
    return next((sensor for name in said for sensor, one in IMAGERY.items() if one.platform.match(name)), None)


def _require_time(name: str, properties: Mapping[str, Any]) -> None:
    said = properties.get("datetime") or properties.get("start_datetime")
    try:
        moment = datetime.fromisoformat(said)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise NotAScene(f"{name}: datetime {said!r} is no time") from error
    if moment.tzinfo is None:
        raise NotAScene(f"{name}: datetime {said!r} without its offset from UTC")


def _require_storable(name: str, item: Mapping[str, Any]) -> None:
    if _depth(item) > _DEEPEST:
        raise NotAScene(f"{name}: nested more than {_DEEPEST} levels deep")
    try:
        text = json.dumps(item, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise NotAScene(f"{name}: holds a number that JSON does not have (NaN or infinity)") from error
    if "\\u0000" in text or (not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)):
        raise NotAScene(f"{name}: holds a character that no database stores")
    if len(text) > _LARGEST:
        raise NotAScene(f"{name}: {len(text):,} bytes are too many for a message")


def _depth(value: object) -> int:
    """Return levels of nesting, counted without recursion."""
    depth, level = 0, [value]
    while level and depth <= _DEEPEST:
        depth += 1
        level = [
            inner
            for one in level
            if isinstance(one, (Mapping, list))
            for inner in (one.values() if isinstance(one, Mapping) else one)
        ]
    return depth


def _has_href(asset: object) -> bool:
    return isinstance(asset, Mapping) and isinstance(asset.get("href"), str) and bool(asset["href"])


def _home(item: Mapping[str, Any]) -> str | None:
    """Return the item's own address, where it names an absolute one."""
    links = item.get("links")
    for link in links if isinstance(links, list) else []:
        if isinstance(link, Mapping) and link.get("rel") == "self" and "://" in str(link.get("href")):
            return str(link["href"])
    return None


def _absolute(asset: object, home: str) -> object:
    if not (isinstance(asset, Mapping) and _has_href(asset)):
        return asset
    return {**asset, "href": absolute(asset["href"], home)}


def absolute(href: str, home: str) -> str:
    """Return an asset's address or path, which may be written relative to its item's."""
    if href.startswith("file://"):
        return unquote(urlsplit(href).path)
    if "://" in href or href.startswith("/vsi"):
        return href
    return urljoin(home, href) if "://" in home else str(Path(home).parent / href)
