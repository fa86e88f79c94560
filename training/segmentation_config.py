"""The configuration of `models train segmentation | panoptic`: a TOML file read into checked, frozen values.

    [data]      where patches come from; the kinds are those of `training.sources.PATCHES`
    [model]     modalities, fusion, widths
    [training]  schedule, folds, device
    [run]       the folder that holds everything the run makes

The defaults are the published ones (Garnot, Landrieu and Chehata 2022, section 4.2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, ValidationError, model_validator

from models.segmentation.network import Fusion
from models.segmentation.utae import Norm, UtaeConfig
from training.config import RunSection, fault, tables
from training.errors import RunConfigError
from training.patches import FOLDS, PatchSource
from training.sources import PATCHES, Section, UnknownSource, class_of

Task = Literal["segmentation", "panoptic"]
LEARNING_RATE: Mapping[Task, float] = {"segmentation": 1e-3, "panoptic": 1e-2}
SCHEDULE: Mapping[Task, Literal["constant", "step"]] = {"segmentation": "constant", "panoptic": "step"}
"""Both as published."""


class ModelSection(Section):
    """The network."""

    modalities: tuple[str, ...] = ()
    """In this order; none: all that the source has."""
    fusion: Fusion = "late"
    norm: Norm = "season"
    """"season": as published; "date": each date by itself, so that a season can be folded date by date."""
    auxiliary: bool = True
    """A loss of 0.5 for each modality by itself, in training only; of late and decision fusion, not of panoptic segmentation."""
    temporal_dropout: bool = True
    """Dates left out in training: 0.4 of S2, 0.2 of each S1 orbit direction."""
    encoder: tuple[int, ...] = (64, 64, 64, 128)
    decoder: tuple[int, ...] = (32, 32, 64, 128)
    attention: Annotated[int, Field(ge=1)] = 256
    """Channels of all heads together."""
    heads: Annotated[int, Field(ge=1)] = 16

    def utae(self, classes: int) -> UtaeConfig:
        """Return the sizes of each U-TAE; raises ConfigError where they do not fit."""
        return UtaeConfig(
            1, classes, self.encoder, self.decoder, width=self.attention, heads=self.heads, norm=self.norm
        )

    @property
    def is_published(self) -> bool:
        """Say whether the widths are the published ones."""
        return self.model_dump(include=_WIDTHS) == ModelSection().model_dump(include=_WIDTHS)

    @model_validator(mode="after")
    def _fits_together(self) -> ModelSection:
        self.utae(2)
        return self


_WIDTHS = {"encoder", "decoder", "attention", "heads"}


class FittingSection(Section):
    """How it learns, and how it is validated."""

    epochs: Annotated[int, Field(ge=1)] = 100
    batch: Annotated[int, Field(ge=1)] = 4
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Without it as published: 1e-3; of panoptic segmentation 1e-2."""
    schedule: Literal["constant", "step", "cosine"] | None = None
    """"step": a tenth in the second half; "cosine": half a wave, to nearly 0. Without it as published (`SCHEDULE`)."""
    augment: bool = False
    """Patches are mirrored and turned by quarters, at random; not published."""
    validate_every: Annotated[int, Field(ge=1)] = 1
    seed: int = 0
    folds: tuple[int, ...] = FOLDS
    """Test folds to run; each is validated on the fold before it."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that read patches; 0: none but the training's."""
    precision: Literal["mixed", "float32"] = "mixed"
    """"mixed": bfloat16 where it is exact enough, on a GPU; on a CPU float32."""
    device: str = "cpu"

    @model_validator(mode="after")
    def _fits_together(self) -> FittingSection:
        if not self.folds or not set(self.folds) <= set(FOLDS) or len(set(self.folds)) < len(self.folds):
            raise ValueError(f"folds: different numbers from 1 to 5, at least one, not {list(self.folds)}")
        return self


class SegmentationRun(Section):
    """A whole run."""

    task: Task
    data: SerializeAsAny[PatchSource]
    model: ModelSection = ModelSection()
    training: FittingSection = FittingSection()
    run: RunSection

    @property
    def identity(self) -> dict[str, Any]:
        """Return what makes a run this run: neither where it is written nor what it runs on."""
        return self.model_dump(mode="json", exclude={"run": True, "training": {"device", "workers"}})

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, from 1."""
        first = self.training.learning_rate or LEARNING_RATE[self.task]
        schedule, share = self.training.schedule or SCHEDULE[self.task], (epoch - 1) / self.training.epochs
        if schedule == "cosine":
            return first * (1 + math.cos(math.pi * share)) / 2
        return first / 10 if schedule == "step" and epoch > self.training.epochs / 2 else first


def read(task: Task, path: Path, given: Mapping[str, Mapping[str, Any]] | None = None) -> SegmentationRun:
    """Return the configuration in a TOML file; values `given` by table and key count instead of the file's.

    Raises:
        RunConfigError: no such file, no TOML, an unknown key or a value that is not allowed.
    """
    return parse(task, tables(path, given), str(path))


def parse(task: Task, plain: Mapping[str, Any], where: str) -> SegmentationRun:
    """Return the configuration of plain values; `where` begins the message of an error.

    Raises:
        RunConfigError: an unknown key or kind, or a value that is not allowed.
    """
    table = plain.get("data")
    try:
        made: type[PatchSource] = class_of(table.get("kind") if isinstance(table, dict) else None, PATCHES)
    except UnknownSource as error:
        raise RunConfigError(f"{where}: [data] {error}") from error
    try:
        data = made.model_validate(table)
    except ValidationError as error:
        faults = [fault(one | {"loc": ("data", *one["loc"])}, made) for one in error.errors()]
        raise RunConfigError(f"{where}: " + "; ".join(faults)) from error
    try:
        return SegmentationRun.model_validate({**plain, "task": task, "data": data})
    except ValidationError as error:
        known: dict[str, type[Section]] = {"model": ModelSection, "training": FittingSection, "run": RunSection}
        faults = [
            fault(one, SegmentationRun if len(one["loc"]) == 1 else known[str(one["loc"][0])])
            if one["loc"]
            else str(one["msg"])
            for one in error.errors()
        ]
        raise RunConfigError(f"{where}: " + "; ".join(faults)) from error
