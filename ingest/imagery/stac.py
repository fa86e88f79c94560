"""Scenes from STAC items, by a profile: which asset is which band, and which property says what.

What the three large catalogues do differently, and the default profiles allow for:

                        Earth Search v1             Planetary Computer      Copernicus Data Space
    assets              blue, rededge1, scl         B02, B05, SCL           B02_10m, B05_20m, SCL_20m
    scale and offset    raster:bands                not said                raster:scale, raster:offset or in bands
    offset in the data  earthsearch:boa_offset_applied  no                  no
    baseline            s2:processing_baseline      s2:processing_baseline  processing:version

Reflectance offset, in this order: 0 where a property says that it was applied to the data, or where the baseline is before
04.00 (such products have none, whatever the item says); what the item says; -0.1 from baseline 04.00 on.

Source: stac-extensions raster 1.1 and 2.0, projection, sat, card4l; Element84/earth-search issues 24, 66 and 71 (items that
contradict their data exist: `optical` refuses scenes with negative reflectance).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final, cast, get_args

from db.sensors import Sensor
from ingest.imagery.checksums import from_multihash
from ingest.imagery.errors import SceneError
from ingest.imagery.scene import SCL, Band, Direction, Grid, Radiometry, Scene, Unit

Item = Mapping[str, Any]
"""A STAC item as JSON gives it, asset addresses absolute (and signed, where a catalogue wants that)."""

QUANTIFICATION: Final = 10_000.0
ADD_OFFSET: Final = -1_000.0
"""BOA_ADD_OFFSET of every band of every product from baseline 04.00 on."""
OFFSET_SINCE: Final = 4.0
_S2_NAME: Final = re.compile(
    r"(?P<platform>S2[A-D])_MSIL2A_(?P<start>\d{8}T\d{6})(_N(?P<baseline>\d{4}))?_R(?P<orbit>\d{3})"
    r"(_T(?P<tile>\w{5})_(?P<made>\d{8}T\d{6}))?"
)
"""Of a Sentinel-2 product: its name holds datatake start, baseline and orbit (Planetary Computer's ids lack N....)."""
_DATASTRIP: Final = re.compile(r"_S(\d{8}T\d{6})")
"""Of S2A_OPER_MSI_L2A_DS_2APS_20230501T170300_S20230501T105623_N05.09: its start."""
_S1_NAME: Final = re.compile(
    r"(?P<platform>S1[A-D])_\w+?_(?P<start>\d{8}T\d{6})_\d{8}T\d{6}_\d{6}_(?P<datatake>[0-9A-F]{6})"
)


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


S2_PROFILE: Final = Profile(
    "S2",
    {
        "B02": ("B02", "blue", "B02_10m"),
        "B03": ("B03", "green", "B03_10m"),
        "B04": ("B04", "red", "B04_10m"),
        "B05": ("B05", "rededge1", "B05_20m"),
        "B06": ("B06", "rededge2", "B06_20m"),
        "B07": ("B07", "rededge3", "B07_20m"),
        "B08": ("B08", "nir", "B08_10m"),
        "B8A": ("B8A", "nir08", "B8A_20m"),
        "B11": ("B11", "swir16", "B11_20m"),
        "B12": ("B12", "swir22", "B12_20m"),
        SCL: (SCL, "scl", "SCL_20m"),
    },
)
S1_PROFILE: Final = Profile(
    "S1", {"VV": ("VV", "vv"), "VH": ("VH", "vh"), "coherence_VV": ("coherence_VV",), "coherence_VH": ("coherence_VH",)}
)
_CODE: Final = re.compile(r"[A-Za-z]{1,10}:\d{1,9}")
LONGEST_SIDE: Final = 2**17
"""Pixels of a raster's side (chosen as ten tiles of Sentinel-2)."""
_UNITS: Final[Mapping[str, Unit]] = {
    "linear power": "linear",
    "linear": "linear",
    "power": "linear",
    "linear amplitude": "amplitude",
    "amplitude": "amplitude",
    "db": "dB",
    "decibel": "dB",
    "logarithmic": "dB",
}


def scene_from_item(item: Item, profile: Profile, revision: int = 0) -> Scene:
    """Return the scene that an item describes. Raises SceneError: bad_metadata; a missing band is found when it is cut."""
    name = str(item.get("id", "?"))
    try:
        return _scene(item, profile, revision)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        shown = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise SceneError(name, "bad_metadata", f"item: {shown}; mend the item or its profile") from error


def lacks(item: Item, profile: Profile, bands: Iterable[str]) -> list[str]:
    """Return all that an item must hold to be cut and does not, one phrase each; where none is missing, what is wrong."""
    properties = {**profile.fixed, **item["properties"]}
    name = " ".join(str(one) for one in (_first(properties, profile.product), item["id"]) if one)
    stated = (_S2_NAME if profile.sensor == "S2" else _S1_NAME).search(name)
    wanted = {"when it could be had": profile.available_at}
    if not stated:
        wanted |= {"the time": profile.observed_at, "the platform": ("platform",)}
    if not stated or profile.sensor == "S1":
        wanted["the relative orbit"] = profile.relative_orbit
    if profile.sensor == "S1":
        wanted |= {"ascending or descending": profile.direction, "sigma0 or gamma0": profile.radiometry}
    found = [f"{what} ({' or '.join(names)})" for what, names in wanted.items() if _first(properties, names) is None]
    found += [f"asset {band}" for band in bands if not any(key in item["assets"] for key in profile.assets[band])]
    if not found:
        try:
            scene = scene_from_item(item, profile)
            if profile.sensor == "S1" and not (scene.direction and scene.radiometry):
                found.append(f"{' and '.join([*profile.direction[:1], *profile.radiometry[:1]])} with a known value")
        except SceneError as error:
            found.append(str(error).partition("item: ")[2] or str(error))
    return found


def _scene(item: Item, profile: Profile, revision: int) -> Scene:
    properties = {**profile.fixed, **item["properties"]}
    product = str(_first(properties, profile.product) or item["id"])
    pattern = _S2_NAME if profile.sensor == "S2" else _S1_NAME
    named = (pattern.search(product) or pattern.search(item["id"]) or re.match("", "")).groupdict()  # type: ignore[union-attr]
    if named.get("start"):
        properties["datatake_start"] = _aware(named["start"])
    baseline = _first(properties, profile.baseline) or _dotted(named.get("baseline"))
    made = _first(properties, profile.processed_at) or _aware(named.get("made"))
    radiometry = str(_first(properties, profile.radiometry) or "").lower()
    direction = str(_first(properties, profile.direction) or "").lower()
    orbit = _first(properties, profile.relative_orbit) or named.get("orbit")
    tile = _first(properties, profile.tile) or named.get("tile")
    strip = _DATASTRIP.search(str(_first(properties, profile.datastrip) or ""))
    part = _time(_aware(strip[1])) if strip else None
    earlier = _first(properties, profile.coherence_with)
    assets = {
        band: item["assets"][key]
        for band, keys in profile.assets.items()
        if (key := next((key for key in keys if key in item["assets"]), None))
    }
    observed_at = _time(_needed(properties, profile.observed_at))
    platform = named.get("platform") or str(_needed(properties, ("platform",))).upper().replace("SENTINEL-", "S")
    return Scene(
        sensor=profile.sensor,
        scene_id=product.removesuffix(".SAFE"),
        observed_at=observed_at,
        available_at=_time(_needed(properties, profile.available_at)),
        platform=platform,
        relative_orbit=int(orbit if orbit is not None else _needed(properties, profile.relative_orbit)),
        bands={band: _band(band, asset, properties, profile, baseline) for band, asset in assets.items()},
        grid=_grid(next(iter(assets.values())), properties) if assets else None,
        direction=cast(Direction, direction) if direction in get_args(Direction) else None,
        radiometry=cast(Radiometry, radiometry) if radiometry in get_args(Radiometry) else None,
        datatake=named.get("datatake") or (named.get("start") and f"{platform}_{named['start']}"),
        coherence_with=_time(earlier) if earlier else None,
        tile=str(tile).removeprefix("MGRS-") if tile else None,
        part=observed_at if profile.sensor == "S1" else part,
        baseline=str(baseline) if baseline else None,
        processed_at=_time(made) if made else None,
        revision=revision,
    )


def _band(name: str, asset: Item, properties: Item, profile: Profile, baseline: Any) -> Band:
    raster = {
        **(asset.get("bands") or [{}])[0],
        **{f"raster:{key}": value for key, value in (asset.get("raster:bands") or [{}])[0].items()},
        **asset,
    }
    checksum = from_multihash(_first(asset, ("file:checksum", "checksum:multihash")))
    href, nodata = str(asset["href"]), _number(raster.get("raster:nodata", raster.get("nodata")))
    scale, offset = _number(raster.get("raster:scale")), _number(raster.get("raster:offset"))
    if scale == 0 or not all(isfinite(one) for one in (scale, offset) if one is not None):
        raise ValueError(f"{name}: scale {scale} and offset {offset} give no values")
    if name == SCL:
        return Band(href, "class", nodata=0.0, checksum=checksum)
    if name.startswith("coherence"):
        return Band(href, "coherence", scale or 1.0, offset or 0.0, nodata, checksum)
    if profile.sensor == "S1":
        unit = _unit(name, asset, properties, profile)
        return Band(href, unit, scale or 1.0, offset or 0.0, nodata, checksum)
    offset = _offset(offset, properties, profile, baseline)
    return Band(href, "reflectance", scale or 1 / QUANTIFICATION, offset, 0.0, checksum)


def _unit(name: str, asset: Item, properties: Item, profile: Profile) -> Unit:
    """Return the unit of backscatter as the nearest place says it: the band, the asset, then the item. Raises ValueError.

    STAC 1.1 calls it `unit` in `bands`, the asset and the item; the raster extension 1.1 in `raster:bands`, 2.0 `raster:unit`.
    """
    places = [*(asset.get("raster:bands") or [])[:1], *(asset.get("bands") or [])[:1], asset]
    stated = next((found for place in places if (found := _first(place, ("raster:unit", "unit")))), None)
    stated = stated or _needed(properties, (*profile.unit, "raster:unit", "unit"))
    unit = _UNITS.get(str(stated).strip().lower())
    if unit is None:
        raise ValueError(f"{name}: unit of backscatter {stated!r} is not known; known: {', '.join(_UNITS)}")
    return unit


def _offset(stated: float | None, properties: Item, profile: Profile, baseline: Any) -> float:
    """Return the offset of reflectance; a baseline that is no number (a provider's own) is ignored."""
    version = _number(baseline)
    if _first(properties, profile.offset_applied) is True or (version is not None and version < OFFSET_SINCE):
        return 0.0
    if stated is not None:
        return stated
    if version is None:
        raise ValueError("neither an offset nor a processing baseline is given, so reflectance cannot be known")
    return ADD_OFFSET / QUANTIFICATION


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


def _first(properties: Item, names: Iterable[str]) -> Any:
    return next((properties[name] for name in names if properties.get(name) is not None), None)


def _needed(properties: Item, names: tuple[str, ...]) -> Any:
    found = _first(properties, names)
    if found is None:
        raise ValueError(f"no property of {', '.join(names)}")
    return found


def _aware(stamp: str | None) -> str | None:
    """Return a time in a name, 20230501T105621, as properties write it."""
    return datetime.strptime(stamp, "%Y%m%dT%H%M%S").replace(tzinfo=UTC).isoformat() if stamp else None


def _dotted(baseline: str | None) -> str | None:
    return f"{baseline[:2]}.{baseline[2:]}" if baseline else None


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def _time(value: Any) -> datetime:
    moment = datetime.fromisoformat(str(value))
    if moment.tzinfo is None:
        raise ValueError(f"time {value!r} without its offset from UTC")
    return moment.astimezone(UTC)
