"""What folders in the published forms of PASTIS-R share: classes, sensors, patches with folds and dates, statistics.

    metadata.geojson          a feature per patch: ID_PATCH, Fold 1..5, dates-S2, dates-S1A, dates-S1D as {"0": YYYYMMDD}
    NORM_{sensor}_patch.json  (patches), NORM_PARCEL_{sensor}_set.json (pixel sets): {"Fold_1": {"mean": [C], "std": [C]}}
    patches.json              not of PASTIS: {"classes": ["Background", ...], "starts_on": "YYYY-MM-DD", "channels": {"S2": ["B02", ...]}}

Source: Garnot, Landrieu and Chehata 2022; the loaders at https://github.com/VSainteuf/pastis-benchmark (code/dataloader.py,
        code/dataloader_pixelset.py), its README and documentation/label_names.json.
Units:  days since 2018-09-01, or the day that patches.json says; S2 digital numbers of the L2A product, reflectance x 10000; S1 dB.
Errors: PastisError, one line: which file, what, what to do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from db.sensors import S2_BANDS
from models.classifier.normalisation import ChannelStatistics, ModalityStatistics, Normaliser
from terminal.errors import UserError

STARTS_ON = date(2018, 9, 1)
"""Day 0, as in the published loaders."""
DAYS = range(-200, 600)
"""Days that the published loaders know; later or earlier ones are a fault of the file."""
CLASSES = (
    "Meadow",
    "Soft winter wheat",
    "Corn",
    "Winter barley",
    "Winter rapeseed",
    "Spring barley",
    "Sunflower",
    "Grapevine",
    "Beet",
    "Winter triticale",
    "Winter durum wheat",
    "Fruits, vegetables, flowers",
    "Potatoes",
    "Leguminous fodder",
    "Soybeans",
    "Orchard",
    "Mixed cereal",
    "Sorghum",
)
"""Labels 1 to 18; the parcel classification is over these."""
BACKGROUND, VOID = 0, 19
"""Not agricultural; a parcel that lies mostly outside its patch. Neither is trained or scored on."""
FOLDS = (1, 2, 3, 4, 5)
ABOUT = "patches.json"

INVALID = np.int16(-32768)
"""No data, in every packed pixel set of this software."""
THEIA_NO_DATA = -10_000
"""Of Theia's L2A reflectance, which PASTIS is made of (www.cesbio.ups-tlse.fr/multitemp/?page_id=8352)."""
NEEDED = "metadata.geojson and DATA_S2, DATA_S1A or DATA_S1D"


class PastisError(UserError, ValueError):
    """A folder that is no PASTIS-R, or part of it that cannot be used: file, what, what to do. Stop and show it."""


@dataclass(frozen=True)
class Sensor:
    """One of the three time series: where it lies, what it holds, how it is packed and trained on."""

    name: str
    """In names of files and keys: S2, S1A, S1D."""
    channels: tuple[str, ...]
    scale: float
    """Physical value of 1 in packed int16: reflectance 1e-4, dB 0.01 as in the message contract."""
    raw_per_unit: float
    """Packed value of 1 in the published arrays."""
    temporal_dropout: float
    """Published: 0.4 for S2, 0.2 for each S1 orbit direction."""

    @property
    def modality(self) -> str:
        """Return the name of the modality: s2, s1a, s1d."""
        return self.name.lower()

    @property
    def physical_per_unit(self) -> float:
        """Physical value of 1 in the published arrays."""
        return self.scale * self.raw_per_unit


_S1 = ("VV", "VH", "VV-VH")
SENSORS = (Sensor("S2", S2_BANDS, 1e-4, 1, 0.4), Sensor("S1A", _S1, 0.01, 100, 0.2), Sensor("S1D", _S1, 0.01, 100, 0.2))


@dataclass(frozen=True)
class Form:
    """What classes and days of a folder mean."""

    classes: tuple[str, ...] = ("Background", *CLASSES)
    """Background first, without void, which is the one after the last."""
    starts_on: date = STARTS_ON
    """Day 0."""

    @property
    def void(self) -> int:
        """Return the class of what is not scored."""
        return len(self.classes)


def form_of(folder: Path) -> Form:
    """Return what classes and days of a folder mean: as its patches.json says, without one as in PASTIS.

    Raises:
        PastisError: patches.json says something else, or other channels than those that are read.
    """
    path = folder / ABOUT
    if not path.is_file():
        return Form()
    plain = read_json(path)
    try:
        form = Form(tuple(map(str, plain["classes"])), date.fromisoformat(plain["starts_on"]))
        channels = {str(name): tuple(map(str, one)) for name, one in plain["channels"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PastisError(f"{path}: classes, starts_on and channels expected; cut the patches again") from error
    known = {one.name: one.channels for one in SENSORS}
    if other := [name for name, one in channels.items() if known.get(name) != one]:
        raise PastisError(
            f"{path}: {other[0]} of channels {', '.join(channels[other[0]])}; the order of PASTIS-R is read"
        )
    return form


@dataclass(frozen=True)
class Patch:
    """A patch as the metadata describes it."""

    id: int
    fold: int
    properties: Mapping[str, Any]
    starts_on: date = STARTS_ON

    def days(self, sensor: Sensor) -> NDArray[np.float32]:
        """Return (T,) days since day 0 of a sensor's dates, in the order of its array.

        Raises:
            PastisError: no dates, or not dates.
        """
        key = f"dates-{sensor.name}"
        stated = self.properties.get(key)
        try:
            if isinstance(stated, str):  # as GDAL hands nested objects on
                stated = json.loads(stated.replace("'", '"'))
            if isinstance(stated, Mapping):
                stated = [stated[name] for name in sorted(stated, key=int)]
            if not isinstance(stated, Sequence) or not stated:
                raise ValueError(f"it is {stated!r:.40}")
            days = [(_date(one) - self.starts_on).days for one in stated]
            if far := [day for day in days if day not in DAYS]:
                raise ValueError(f"a date is {far[0]} days from {self.starts_on}, which is no date of the season")
        except (ValueError, TypeError) as error:
            line = f'patch {self.id}: {key}: {error}; {{"0": YYYYMMDD, ...}} expected'
            raise PastisError(line) from error
        return np.array(days, np.float32)


def _date(value: object) -> date:
    digits = str(value).replace("-", "")
    if len(digits) != 8 or not digits.isdigit():
        raise ValueError(f"{value!r} is no date")
    return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))


def patches(folder: Path) -> tuple[Patch, ...]:
    """Return the patches that metadata.geojson lists, by id.

    Raises:
        PastisError: no such file, not a GeoJSON, or a patch without id or fold.
    """
    path, starts_on = folder / "metadata.geojson", form_of(folder).starts_on
    features = read_json(path).get("features")
    if not isinstance(features, list) or not features:
        raise PastisError(f"{path}: no features; a patch a feature is expected")
    found: dict[int, Patch] = {}
    for number, feature in enumerate(features):
        try:
            properties = feature["properties"]
            patch = Patch(int(properties["ID_PATCH"]), int(properties["Fold"]), properties, starts_on)
        except (KeyError, TypeError, ValueError) as error:
            raise PastisError(f"{path}: feature {number} has no ID_PATCH or no Fold; whole numbers expected") from error
        if patch.fold not in FOLDS:
            raise PastisError(f"{path}: patch {patch.id} is in fold {patch.fold}; the official folds are 1 to 5")
        if patch.id in found:
            raise PastisError(f"{path}: patch {patch.id} is there twice; a patch is one feature")
        found[patch.id] = patch
    return tuple(found[number] for number in sorted(found))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        PastisError: no such file, or no JSON object.
    """
    if not path.is_file():
        raise PastisError(f"{path}: no such file; a PASTIS-R folder holds {NEEDED}")
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also UnicodeDecodeError and JSONDecodeError
        raise PastisError(f"{path}: not JSON ({error}); download it again") from error
    if not isinstance(plain, dict):
        raise PastisError(f"{path}: a JSON object expected, not a {type(plain).__name__}")
    return plain


def sensors_in(folder: Path, wanted: Sequence[str] = ()) -> tuple[Sensor, ...]:
    """Return the sensors that a folder has data of, or those wanted (S2, S1A, S1D).

    Raises:
        PastisError: no such folder, no data, or not of a wanted sensor.
    """
    if not folder.is_dir():
        raise PastisError(f"{folder}: no such folder; give a PASTIS-R folder with {NEEDED}")
    known = {one.name: one for one in SENSORS}
    if unknown := [name for name in wanted if name not in known]:
        raise PastisError(f"no sensor {', '.join(unknown)}; PASTIS-R has {', '.join(known)}")
    there = [name for name in (wanted or known) if (folder / f"DATA_{name}").is_dir()]
    if absent := [f"DATA_{name}" for name in wanted if name not in there]:
        raise PastisError(f"{folder}: no folder {', '.join(absent)}; download PASTIS-R, or ask for {', '.join(there)}")
    if not there:
        raise PastisError(f"{folder}: no DATA_S2, DATA_S1A or DATA_S1D; give the folder that holds metadata.geojson")
    return tuple(known[name] for name in there)


def packed(values: NDArray[Any], sensor: Sensor, path: Path) -> NDArray[np.int16]:
    """Return published values of any numeric type as packed int16 of the sensor's scale; what is not finite is INVALID.

    Raises:
        PastisError: radar beyond what decibels can be.
    """
    if values.dtype == np.int16 and sensor.raw_per_unit == 1:
        raw = np.asarray(values, np.int16)
    else:
        scaled = np.asarray(values, np.float32) * np.float32(sensor.raw_per_unit)
        is_known = np.isfinite(scaled)
        largest = np.abs(scaled, where=is_known, out=np.zeros_like(scaled)).max(initial=0)
        if sensor.raw_per_unit != 1 and largest > -int(INVALID):
            raise PastisError(f"{path}: values up to {largest / sensor.raw_per_unit:.0f}; decibels expected")
        np.clip(np.rint(scaled, out=scaled), -32767, 32767, out=scaled)
        raw = np.where(is_known, scaled, np.float32(INVALID)).astype(np.int16)
    return np.where(raw == THEIA_NO_DATA, INVALID, raw) if sensor.name == "S2" else raw


def array(path: Path, shape: tuple[int | None, ...], meaning: str) -> NDArray[Any]:
    """Return an .npy file of numbers, mapped, not read; `shape` with None for any length.

    Raises:
        PastisError: no such file, not an array, or not of this shape.
    """
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r")
    except FileNotFoundError as error:
        raise PastisError(f"{path}: no such file") from error
    except (ValueError, OSError, EOFError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PastisError(f"{path}: not a whole .npy array ({reason})") from error
    fits = found.ndim == len(shape) and all(want in (None, have) for want, have in zip(shape, found.shape, strict=True))
    if not fits or found.dtype.kind not in "iuf":
        wanted = ", ".join("any" if one is None else str(one) for one in shape)
        raise PastisError(f"{path}: {found.dtype} {found.shape}; {meaning} expected: numbers ({wanted})")
    return found


def published_normaliser(folder: Path, folds: Sequence[int], geometry: NDArray[np.floating[Any]]) -> Normaliser:
    """Return the standardisation of the published code: the mean, over the training folds, of their means and of their sd.

    Geometry is standardised as in every model here, its logarithms by their own statistics over `geometry` (P, 4) of the
    training parcels: the published files have none.

    Raises:
        PastisError: no statistics in the folder, or not of a fold.
    """
    found = {}
    for sensor in SENSORS:
        names = (f"NORM_{sensor.name}_patch.json", f"NORM_PARCEL_{sensor.name}_set.json")
        if path := next((folder / name for name in names if (folder / name).is_file()), None):
            found[sensor.modality] = ModalityStatistics(_mean_of_folds(path, folds, sensor))
    if not found:
        raise PastisError(f"{folder}: no NORM_S2_patch.json or NORM_PARCEL_S2_set.json; download them again")
    return Normaliser(found, Normaliser.fit({}, geometry, np.ones(len(geometry), bool)).geometry)


def patch_statistics(folder: Path, folds: Sequence[int], sensor: Sensor) -> ChannelStatistics:
    """Return the published standardisation of a sensor's patches, in physical units.

    Raises:
        PastisError: no statistics in the folder, or not of a fold.
    """
    return _mean_of_folds(folder / f"NORM_{sensor.name}_patch.json", folds, sensor)


def _mean_of_folds(path: Path, folds: Sequence[int], sensor: Sensor) -> ChannelStatistics:
    plain = read_json(path)
    try:
        rows = np.array([[plain[f"Fold_{fold}"][what] for fold in folds] for what in ("mean", "std")], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        line = f'{path}: no statistics of folds {list(folds)}; {{"Fold_1": {{"mean": [...], "std": [...]}}}} expected'
        raise PastisError(line) from error
    if rows.shape != (2, len(folds), len(sensor.channels)) or not len(folds):
        raise PastisError(f"{path}: {rows.shape[2:]} channels of {len(folds)} folds; {len(sensor.channels)} expected")
    mean, sd = rows.mean(axis=1) * sensor.physical_per_unit
    return ChannelStatistics(tuple(mean.tolist()), tuple(sd.tolist()))
