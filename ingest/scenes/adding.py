"""Scenes that a person names: a SAFE folder or zip, a STAC item's file or address, a folder of COGs with its item."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from ingest.imagery.bounded import LARGEST_JSON, parsed_json, read_file
from ingest.scenes.folder import zipped_product
from ingest.scenes.items import NotAScene, scene_of_file, scene_of_safe
from ingest.scenes.profiles import CatalogueProfile
from ingest.scenes.record import FoundScene

SOURCE: Final = "add"


def scenes_at(
    place: str, profile: CatalogueProfile | None, fetch: Callable[[str], Any], found_at: datetime
) -> list[FoundScene]:
    """Return the scenes at a path or address; whether they can be read shows when they are cut. Raises NotAScene.

    Args:
        place: a path, or the address of an item. In a folder scenes may lie side by side, or each in a folder of its own.
        profile: reads items; None: by the names that the three large catalogues use.
        fetch: an address's parsed JSON.
        found_at: the time.
    """

    def of_item(item: Any, where: str) -> FoundScene:
        if not _is_item(item):
            raise NotAScene(f"{where}: not a STAC item")
        return scene_of_file(item, where, profile, SOURCE, found_at)

    if "://" in place and not place.startswith("file://"):
        return [of_item(fetch(place), place)]
    path = Path(place.removeprefix("file://")).absolute()
    if not path.exists():
        raise NotAScene(f"{place}: no such file or folder")
    if path.suffix == ".json":
        return [of_item(_parsed(path), str(path))]
    if path.suffix in (".SAFE", ".zip"):
        return [_of_safe(path, found_at)]
    inner = sorted(path.iterdir()) if path.is_dir() else []
    found: list[FoundScene] = []
    for folder in [path, *(one for one in inner if one.is_dir() and one.suffix != ".SAFE")]:
        found += [_of_safe(one, found_at) for one in sorted([*folder.glob("*.SAFE"), *folder.glob("*.zip")])]
        items = [(item, parsed) for item in sorted(folder.glob("*.json")) if _is_item(parsed := _parsed(item))]
        found += [of_item(parsed, str(item)) for item, parsed in items]
    if not found:
        raise NotAScene(f"{place}: neither a SAFE folder or zip, nor a STAC item (.json), nor a folder that holds one")
    return found


def _of_safe(path: Path, found_at: datetime) -> FoundScene:
    name = path.stem if path.suffix == ".SAFE" else zipped_product(path)
    if name is None:
        raise NotAScene(f"{path}: no SAFE folder in the zip")
    return scene_of_safe(path, name, SOURCE, found_at)


def _is_item(parsed: Any) -> bool:
    return isinstance(parsed, dict) and isinstance(parsed.get("id"), str) and "assets" in parsed


def _parsed(path: Path) -> Any:
    try:
        return parsed_json(read_file(path, LARGEST_JSON))
    except (OSError, ValueError) as error:
        shown = (error.strerror if isinstance(error, OSError) else f"not JSON: {error}") or ""
        raise NotAScene(f"{path}: {shown[:200]}") from error
