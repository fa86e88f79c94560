"""Patches cut from a season's scenes with parcels as labels, written in the patch form of PASTIS-R.

    blocks of `block` x `block` patches, `gap` pixels apart; a block is of one fold      training.folds.blocked_folds
    .OUT.partial/cut.json       what is cut, and which patches each pass showed
    .OUT.partial/S2_{ID}.raw    a patch's images, a pass after the other; cut down to what cut.json says when it goes on
    OUT/                        the form, moved there when it is whole

Scenes are read one pass after the other, window by window, so that memory is that of one pass and of one patch's season, and each block
of a file is decoded once. Patches without a labelled parcel, or without an image of a sensor, are left out; so are dates that show
nothing of a patch. Clouds stay, as in PASTIS.
Units:  reflectance x 10000 int16, THEIA_NO_DATA where there is no value; VV, VH, VV-VH in dB float16, NaN where there is none.
Errors: PatchError for scenes and parcels that make no patches, or a folder that holds something else; SceneError of files.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ingest.delineation.passes import Pass, images
from ingest.imagery.scene import Grid
from training.errors import PatchError
from training.folds import N_FOLDS, blocked_folds
from training.patch_labels import Labels
from training.patch_metadata import BACKGROUND, DAYS, SENSORS, THEIA_NO_DATA, Form
from training.patch_writing import MadePatch, Setting, write
from training.run_folder import write as write_file

FIRST_ID: Final = 10_000
"""As the published ids."""
Progress = Callable[[int, int], None]
"""Called with (passes done, passes)."""


@dataclass(frozen=True)
class Cutting:
    """Which patches are cut."""

    side: int = 128
    """Pixels, as published."""
    block: int = 2
    """Patches of a block's side (chosen: 2.6 km, beyond which neighbouring fields are alike no more than others)."""
    gap: int = 32
    """Pixels between blocks (chosen: 320 m, the length of a field)."""
    is_undeclared_void: bool = False
    """Land of no parcel is void; else background, which is false where the file does not hold all parcels."""


@dataclass(frozen=True)
class Site:
    """Where a patch is cut."""

    number: int
    row: int
    column: int
    fold: int


@dataclass(frozen=True)
class Cut:
    """What was cut."""

    patches: int
    left_out: int
    """Patches with labelled parcels of which a sensor showed nothing."""
    folds: dict[int, int]
    """Patches of each."""
    parcels: dict[str, int]
    """Labelled, of each class."""
    passes: dict[str, int]
    """Of each sensor."""


def sites(grid: Grid, labels: Labels, cutting: Cutting) -> tuple[Site, ...]:
    """Return the patches that have a labelled parcel, row by row, blocks spread over five folds alike in their classes.

    Raises:
        PatchError: fewer blocks than folds.
    """
    found, blocks, classes = list[tuple[int, int, str]](), list[str](), list[str | None]()
    for down, row in _starts(grid.height, cutting):
        for across, column in _starts(grid.width, cutting):
            ids, target = labels.maps(row, column, cutting.side)
            is_labelled = (target != BACKGROUND) & (target != labels.void)
            if is_labelled.any():
                block = f"{down},{across}"
                found.append((row, column, block))
                _, first = np.unique(ids[is_labelled], return_index=True)
                classes += [labels.classes[one] for one in target[is_labelled][first]]
                blocks += [block] * len(first)
    if len(set(blocks)) < N_FOLDS:
        raise PatchError(
            f"{len(set(blocks))} blocks of patches with labelled parcels, {N_FOLDS} folds need one each: "
            "give a larger area, or a smaller --side or --block"
        )
    fold_of = dict(zip(blocks, blocked_folds(blocks, classes), strict=True))
    return tuple(Site(FIRST_ID + nr, row, column, fold_of[block] + 1) for nr, (row, column, block) in enumerate(found))


def _starts(length: int, cutting: Cutting) -> Iterator[tuple[int, int]]:
    """Yield block and first pixel of the patches along a side of the grid."""
    pitch = cutting.block * cutting.side + cutting.gap
    for start in range(0, length, pitch):
        for one in range(start, start + cutting.block * cutting.side, cutting.side):
            if one + cutting.side <= length:
                yield start // pitch, one


@dataclass(frozen=True)
class Source:
    """What patches are cut from."""

    passes: tuple[Pass, ...]
    grid: Grid
    labels: Labels
    starts_on: date
    """Day 0."""


def cut(out: Path, source: Source, cutting: Cutting = Cutting(), progress: Progress = lambda *_: None) -> Cut:
    """Cut patches into a folder that is not there, or go on with what was begun.

    Raises:
        PatchError: the folder is there, something else was begun, a scene is of another season, or nothing is left.
        SceneError: a file cannot be read.
    """
    if out.exists():
        raise PatchError(f"{out} is there: name another folder, or remove it")
    if not out.absolute().parent.is_dir():
        raise PatchError(f"{out.absolute().parent}: no such folder; make it first")
    for one in source.passes:
        if (days := (one.day - source.starts_on).days) not in DAYS:
            raise PatchError(f"{one.name} is {days} days from {source.starts_on}, day 0: give the scenes of one season")
    work = _Work.open(out.absolute().with_name(f".{out.name}.partial"), source, cutting)
    for done, one in enumerate(source.passes):
        work.add(one)
        progress(done + 1, len(source.passes))
    return work.finish(out)


@dataclass(frozen=True)
class _Work:
    """Patches that are not whole."""

    folder: Path
    source: Source
    cutting: Cutting
    sites: tuple[Site, ...]
    asked: dict[str, Any]
    seen: dict[str, dict[str, list[int]]]
    """Numbers of the patches that a pass shows something of, by sensor and pass."""

    @classmethod
    def open(cls, folder: Path, source: Source, cutting: Cutting) -> _Work:
        """Return the work of a folder, new or to go on with; raises PatchError where something else was begun there."""
        where, labels = sites(source.grid, source.labels, cutting), source.labels
        asked = {
            "passes": [one.name for one in source.passes],
            "starts_on": str(source.starts_on),
            "grid": asdict(source.grid),
            "classes": list(labels.classes),
            "parcels": hashlib.sha256(labels.number.tobytes() + labels.label.tobytes()).hexdigest(),
            "cutting": asdict(cutting),
            "sites": [list(asdict(one).values()) for one in where],
        }
        path, seen = folder / "cut.json", {}
        if path.exists():
            known = json.loads(path.read_text())
            if known["asked"] != asked:
                raise PatchError(
                    f"{folder} was begun with other scenes, parcels or settings: remove it, or name another folder"
                )
            seen = known["seen"]
        else:
            shutil.rmtree(folder, ignore_errors=True)
        return cls(folder, source, cutting, where, asked, seen)

    def add(self, of: Pass) -> None:
        """Add what a pass shows of the patches, unless that is done; raises SceneError."""
        sensor = _sensor(of)
        own = self.seen.setdefault(sensor, {})
        if of.name in own:
            return
        before, seen = Counter(number for one in own.values() for number in one), list[int]()
        self.folder.mkdir(exist_ok=True)
        with images(of, self.source.grid) as opened:
            for site in self.sites:
                values = opened.window(site.row, site.column, self.cutting.side)
                if np.isnan(values).all():
                    continue
                layer = _packed(values, sensor)
                with self._raw(sensor, site.number).open("ab") as file:
                    file.truncate(before[site.number] * layer.nbytes)  # what a killed process wrote of this pass
                    layer.tofile(file)
                seen.append(site.number)
        own[of.name] = seen
        write_file(self.folder / "cut.json", json.dumps({"asked": self.asked, "seen": self.seen}))

    def finish(self, out: Path) -> Cut:
        """Write the form, move it to its place and remove what was in the way; raises PatchError where no patch is left."""
        source, form = self.source, Form(self.source.labels.classes, self.source.starts_on)
        days = {one.name: (one.day - source.starts_on).days for one in source.passes}
        dates: dict[str, dict[int, list[int]]] = {}
        for sensor, of_pass in self.seen.items():
            if any(of_pass.values()):
                dates[sensor] = {site.number: [] for site in self.sites}
            for name, seen in of_pass.items():
                for number in seen:
                    dates[sensor][number].append(days[name])
        kept = [site for site in self.sites if all(of_site[site.number] for of_site in dates.values())]
        if len({site.fold for site in kept}) < N_FOLDS or not dates:
            raise PatchError(
                "not every fold has a patch that all sensors show: give more scenes, or those of one sensor"
            )
        parcels, tile = Counter[int](), source.passes[0].scenes[0].scene.tile
        setting = Setting(source.grid.crs, tile or "", form, {"cutting": asdict(self.cutting)})
        write(self.folder / "form", self._made(kept, dates, parcels), setting)
        (self.folder / "form").rename(out)
        shutil.rmtree(self.folder)
        return Cut(
            len(kept),
            len(self.sites) - len(kept),
            dict(sorted(Counter(site.fold for site in kept).items())),
            {name: parcels[nr] for nr, name in enumerate(form.classes) if nr != BACKGROUND},
            dict(Counter(_sensor(one) for one in source.passes)),
        )

    def _made(
        self, kept: Sequence[Site], dates: dict[str, dict[int, list[int]]], parcels: Counter[int]
    ) -> Iterator[MadePatch]:
        """Yield the patches, and count labelled parcels by class."""
        grid, side, labels = self.source.grid, self.cutting.side, self.source.labels
        for site in kept:
            ids, target = self._maps(site)
            is_labelled = (target != BACKGROUND) & (target != labels.void)
            parcels.update(target[is_labelled][np.unique(ids[is_labelled], return_index=True)[1]].tolist())
            raw = {sensor: _unpacked(self._raw(sensor, site.number), sensor, side) for sensor in dates}
            of_site = {sensor: np.array(dates[sensor][site.number], np.int64) for sensor in dates}
            corner = grid.left + site.column * grid.pixel_m, grid.top - (site.row + side) * grid.pixel_m
            yield MadePatch(site.number, site.fold, ids, target, of_site, raw, corner)

    def _maps(self, site: Site) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        labels = self.source.labels
        elsewhere = labels.void if self.cutting.is_undeclared_void else BACKGROUND
        return labels.maps(site.row, site.column, self.cutting.side, elsewhere=elsewhere)

    def _raw(self, sensor: str, number: int) -> Path:
        return self.folder / f"{sensor}_{number}.raw"


def _sensor(of: Pass) -> str:
    """Return the name of a pass's series in the form."""
    return "S2" if of.sensor == "S2" else {"ascending": "S1A", "descending": "S1D"}[str(of.direction)]


def _packed(values: NDArray[np.float32], sensor: str) -> NDArray[Any]:
    """Return what a pass shows of a window (C, H, W), as it is stored."""
    if sensor == "S2":
        numbers = np.clip(np.rint(values * 1e4), THEIA_NO_DATA + 1, np.iinfo(np.int16).max)
        return np.where(np.isnan(values), THEIA_NO_DATA, numbers).astype(np.int16)
    vv, vh = values
    return np.stack([vv, vh, vv - vh]).astype(np.float16)


def _unpacked(path: Path, sensor: str, side: int) -> NDArray[Any]:
    channels = {one.name: len(one.channels) for one in SENSORS}[sensor]
    return np.fromfile(path, np.int16 if sensor == "S2" else np.float16).reshape(-1, channels, side, side)
