"""Scenes from STAC items, by a profile: which asset is which band, and which property says what.

What differs between sensors is in `sentinel1`, `sentinel2` and the table `sensors.IMAGERY`.

Source: stac-extensions raster 1.1 and 2.0, projection, sat, card4l.
"""

import re
from dataclasses import replace
from math import isfinite
from typing import Any, Final, cast, get_args

from ingest.imagery.checksums import from_multihash
from ingest.imagery.errors import SceneError
from ingest.imagery.profile import Item, ItemBand, Profile, first, needed, number, time, time_in_name
from ingest.imagery.scene import LONGEST_SIDE, Band, Direction, Grid, Radiometry, Scene
from ingest.imagery.sensors import IMAGERY

_CODE: Final = re.compile(r"[A-Za-z]{1,10}:\d{1,9}")


def scene_from_item(item: Item, profile: Profile, revision: int = 0) -> Scene:
    """Return the scene that an item describes. Raises SceneError: bad_metadata; a missing band is found when it is cut."""
    name = str(item.get("id", "?"))
    try:
        return _scene(item, profile, revision)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        shown = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise SceneError(name, "bad_metadata", f"item: {shown}; mend the item or its profile") from error


def lacks(item: Item, profile: Profile) -> list[str]:
    """Return all that an item must hold to be cut and does not, one phrase each; where none is missing, what is wrong."""
    sensor, properties = IMAGERY[profile.sensor], {**profile.fixed, **item["properties"]}
    name = " ".join(str(one) for one in (first(properties, profile.product), item["id"]) if one)
    stated = sensor.product.search(name)
    wanted = {"when it could be had": profile.available_at}
    if not stated:
        wanted |= {"the time": profile.observed_at, "the platform": ("platform",)}
    if not (stated and stated.groupdict().get("orbit")):
        wanted["the relative orbit"] = profile.relative_orbit
    wanted |= {meaning: getattr(profile, fact) for fact, meaning in sensor.must_know.items()}
    found = [f"{what} ({' or '.join(names)})" for what, names in wanted.items() if first(properties, names) is None]
    found += [f"asset {one}" for one in sensor.needed if not any(key in item["assets"] for key in profile.assets[one])]
    if not found:
        try:
            scene = scene_from_item(item, profile)
            if any(getattr(scene, fact) is None for fact in sensor.must_know):
                said = [name for fact in sensor.must_know for name in getattr(profile, fact)[:1]]
                found.append(f"{' and '.join(said)} with a known value")
        except SceneError as error:
            found.append(str(error).partition("item: ")[2] or str(error))
    return found


def _scene(item: Item, profile: Profile, revision: int) -> Scene:
    sensor, properties = IMAGERY[profile.sensor], {**profile.fixed, **item["properties"]}
    product = str(first(properties, profile.product) or item["id"])
    match = sensor.product.search(product) or sensor.product.search(item["id"])
    named = match.groupdict() if match else {}
    if named.get("start"):
        properties["datatake_start"] = time_in_name(named["start"])
    baseline = first(properties, profile.baseline) or _dotted(named.get("baseline"))
    made = first(properties, profile.processed_at) or time_in_name(named.get("made"))
    radiometry = str(first(properties, profile.radiometry) or "").lower()
    direction = str(first(properties, profile.direction) or "").lower()
    orbit = first(properties, profile.relative_orbit) or named.get("orbit")
    tile = first(properties, profile.tile) or named.get("tile")
    part = sensor.part(properties, profile)
    earlier = first(properties, profile.coherence_with)
    assets = {
        band: item["assets"][key]
        for band, keys in profile.assets.items()
        if (key := next((key for key in keys if key in item["assets"]), None))
    }
    platform = named.get("platform") or str(needed(properties, ("platform",))).upper().replace("SENTINEL-", "S")
    return Scene(
        sensor=profile.sensor,
        scene_id=product.removesuffix(".SAFE"),
        observed_at=time(needed(properties, profile.observed_at)),
        available_at=time(needed(properties, profile.available_at)),
        platform=platform,
        relative_orbit=int(orbit if orbit is not None else needed(properties, profile.relative_orbit)),
        bands={band: _band(band, asset, properties, profile, baseline) for band, asset in assets.items()},
        grid=_grid(next(iter(assets.values())), properties) if assets else None,
        direction=cast(Direction, direction) if direction in get_args(Direction) else None,
        radiometry=cast(Radiometry, radiometry) if radiometry in get_args(Radiometry) else None,
        datatake=named.get("datatake") or (named.get("start") and f"{platform}_{named['start']}"),
        coherence_with=time(earlier) if earlier else None,
        tile=str(tile).removeprefix("MGRS-") if tile else None,
        part=part,
        baseline=str(baseline) if baseline else None,
        processed_at=time(made) if made else None,
        revision=revision,
    )


def _band(name: str, asset: Item, properties: Item, profile: Profile, baseline: Any) -> Band:
    raster = {
        **(asset.get("bands") or [{}])[0],
        **{f"raster:{key}": value for key, value in (asset.get("raster:bands") or [{}])[0].items()},
        **asset,
    }
    checksum = from_multihash(first(asset, ("file:checksum", "checksum:multihash")))
    href, nodata = str(asset["href"]), number(raster.get("raster:nodata", raster.get("nodata")))
    scale, offset = number(raster.get("raster:scale")), number(raster.get("raster:offset"))
    if scale == 0 or not all(isfinite(one) for one in (scale, offset) if one is not None):
        raise ValueError(f"{name}: scale {scale} and offset {offset} give no values")
    said = ItemBand(name, href, asset, properties, baseline, scale, offset, nodata)
    return replace(IMAGERY[profile.sensor].band(said, profile), checksum=checksum)


def _grid(asset: Item, properties: Item) -> Grid | None:
    """Return the grid of an asset where the item gives it in full."""
    place = {**properties, **asset}
    code = place.get("proj:code") or (f"EPSG:{place['proj:epsg']}" if place.get("proj:epsg") else None)
    transform, shape = place.get("proj:transform"), place.get("proj:shape")
    if not (code and transform and shape):
        return None
    if not _CODE.fullmatch(str(code)):  # a file's path or an address would be opened
        raise ValueError(f"proj:code {code!r} is no code of an authority, as EPSG:32631")
    a, b, left, d, e, top = (float(value) for value in transform[:6])
    if not (isfinite(left) and isfinite(top) and a > 0 and all(0 < int(side) <= LONGEST_SIDE for side in shape[:2])):
        raise ValueError(f"proj:transform {transform} and proj:shape {shape} are no grid of pixels")
    return Grid(code, left, top, a, int(shape[1]), int(shape[0])) if (b, d, e) == (0, 0, -a) else None


def _dotted(baseline: str | None) -> str | None:
    return f"{baseline[:2]}.{baseline[2:]}" if baseline else None
