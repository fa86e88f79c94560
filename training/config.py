"""The configuration of a training run: a TOML file read into checked, frozen values.

    [data]      where labelled parcels come from; the kinds are those of `training.sources`
    [model]     which network: modalities, fusion, normalisation, enhancements
    [training]  how it learns, and how it is cross-validated
    [run]       the folder that holds everything the run makes

The defaults are the product's; `docs/training.md` has the published ones.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, model_validator

from models.classifier.network import Fusion
from training.errors import RunConfigError
from training.labelled import LabelledParcels
from training.sources import LABELLED, LabelledSource, Progress, Section, UnknownSource, class_of

Normalisation = Literal["streaming", "streaming-date", "published"]


class ModelConfig(Section):
    """The network."""

    modalities: tuple[str, ...] = ()
    """In this order; none: all that the source has."""
    fusion: Fusion = "late"
    normalisation: Normalisation = "streaming"
    """"published" couples a parcel's dates (LayerNorm over channels and dates) and cannot stream."""
    anomalies: bool = True
    """Departures from the day's mean as further channels, where the source asks for them (all but PASTIS-R do) and the
    normalisation streams."""
    auxiliary: bool = True
    """A loss of 0.5 for each modality on its own, in training only."""
    temporal_dropout: bool = True
    """Dates left out in training: 0.4 of S2, 0.2 of each S1 orbit direction."""
    pixels: Annotated[int, Field(ge=1)] = 32
    """Pixels of a set drawn in training, at most (published)."""
    pixel_widths: tuple[int, ...] = (32, 64)
    embedding: Annotated[int, Field(ge=1)] = 128
    """Numbers that an observation becomes, and a season (published)."""
    attention: Annotated[int, Field(ge=32, multiple_of=32)] = 256
    """Channels of the 16 heads together (published)."""
    decoder: tuple[int, ...] = (64, 32)


class TrainingSection(Section):
    """How it learns, and how it is validated. The published run: see `docs/training.md`."""

    epochs: Annotated[int, Field(ge=1)] = 100
    batch: Annotated[int, Field(ge=2)] = 64
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    balance: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Class weights are count^-balance."""
    wrong_labels: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the labels that are expected to be wrong: loss and temperature allow for so many (docs/first-season.md)."""
    modality_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    whole_season: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Share of training seasons that are not cut at a random day; 1: none is cut (published)."""
    season_shift: Annotated[float, Field(ge=0)] = 3.0
    """Standard deviation of the days by which training seasons are moved (published: 0)."""
    select_by: Literal["macro_f1", "miou"] = "macro_f1"
    validate_every: Annotated[int, Field(ge=1)] = 5
    seed: int = 0
    folds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Test folds to run."""
    validation: Literal["fold", "blocks"] = "blocks"
    """"fold": the fold before the test fold, as published; "blocks": a fifth of the other folds, in whole blocks."""
    inner_folds: Annotated[int, Field(ge=1)] = 1
    """With blocks: how many such fifths are held out in turn; the temperature is fitted on all of them together."""
    refit: bool = True
    """After validation once more with the validation parcels, for as many epochs."""
    final: bool = False
    """At the end one model of all folds, its temperature fitted on the logits of the cross-validation."""
    device: str = "cpu"

    @model_validator(mode="after")
    def _fits_together(self) -> TrainingSection:
        if not self.folds or not set(self.folds) <= set(range(1, 6)) or len(set(self.folds)) < len(self.folds):
            raise ValueError(f"folds: different numbers from 1 to 5, at least one, not {list(self.folds)}")
        if self.inner_folds > 1 and self.validation == "fold":
            raise ValueError('inner_folds: more than one needs validation = "blocks"')
        if self.inner_folds > 1 and not self.refit:
            raise ValueError("refit: without it there is one model for each of the inner folds, and none for the test")
        if self.final and len(self.folds) < 5:
            raise ValueError("final: its temperature needs the logits of all five folds")
        return self


class RunSection(Section):
    """Where everything goes."""

    folder: Path


class RunConfig(Section):
    """A whole run."""

    data: SerializeAsAny[LabelledSource]
    model: ModelConfig = ModelConfig()
    training: TrainingSection = TrainingSection()
    run: RunSection

    @property
    def identity(self) -> dict[str, Any]:
        """Return what makes a run this run: neither where it is written nor what it runs on."""
        return self.model_dump(mode="json", exclude={"run": True, "training": {"device"}})


def read(path: Path, given: Mapping[str, Mapping[str, Any]] | None = None) -> RunConfig:
    """Return the configuration in a TOML file; relative paths in it are relative to the working folder.

    Args:
        given: values by table and key that count instead of the file's, which may then lack them; None gives nothing.

    Raises:
        RunConfigError: no such file, no TOML, an unknown key or a value that is not allowed.
    """
    return parse(tables(path, given), str(path))


def tables(path: Path, given: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Return the tables of a TOML file, with values that count instead of the file's; None gives nothing.

    Raises:
        RunConfigError: no such file, or no TOML.
    """
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunConfigError(f"{path}: no such file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunConfigError(f"{path}: not TOML ({error})") from error
    for name, values in (given or {}).items():
        own = {key: value for key, value in values.items() if value is not None}
        if own and isinstance(plain.get(name, {}), dict):  # a value where a table must be is an error of the file
            plain[name] = plain.get(name, {}) | own
    return plain


def parse(plain: Mapping[str, Any], where: str) -> RunConfig:
    """Return the configuration of plain values; `where` begins the message of an error.

    Raises:
        RunConfigError: an unknown key or kind, or a value that is not allowed.
    """
    faults = list[str]()
    data = _source(plain["data"], faults) if "data" in plain else None
    try:
        # A table [data] that cannot be used is reported once: the others are checked beside a source that stands for it.
        found = RunConfig.model_validate({**plain, **({"data": data or _Unusable()} if "data" in plain else {})})
    except ValidationError as error:
        faults += [
            fault(one, RunConfig if len(one["loc"]) == 1 else _SECTIONS[str(one["loc"][0])]) for one in error.errors()
        ]
    if faults:
        raise RunConfigError(f"{where}: " + "; ".join(faults))
    return found


class _Unusable(LabelledSource):
    kind: str = ""

    def open(self, progress: Progress | None = None) -> LabelledParcels:
        raise NotImplementedError


def _source(table: Any, faults: list[str]) -> LabelledSource | None:
    """Return the source of a table [data], None where `faults` got what is wrong with it."""
    try:
        made: type[LabelledSource] = class_of(table.get("kind") if isinstance(table, dict) else None, LABELLED)
        return made.model_validate(table)
    except UnknownSource as error:
        faults.append(f"[data] {error}")
    except ValidationError as error:
        faults += [fault(one | {"loc": ("data", *one["loc"])}, made) for one in error.errors()]
    return None


def to_toml(config: RunConfig) -> str:
    """Return the configuration as TOML with every default written out; `parse` reads it back."""
    tables = config.model_dump(mode="json", exclude_none=True)
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in table.items())
        for name, table in tables.items()
    )


_SECTIONS: dict[str, type[Section]] = {"model": ModelConfig, "training": TrainingSection, "run": RunSection}


def fault(error: Any, known: type[BaseModel]) -> str:
    """Return one error in a line: [table] key: what, and what is allowed; `known` has the keys that may stand there."""
    table, *rest = (str(part) for part in error["loc"])
    where = f"[{table}]" + (f" {rest[-1]}" if rest else "")
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown; known are {', '.join(known.model_fields)}"
    if error["type"] == "missing":
        return f"{where}: missing"
    reason = error["msg"].removeprefix("Value error, ")
    reason = reason[0].lower() + reason[1:]
    return f"[{table}] {reason}" if error["type"] == "value_error" else f"{where} = {error['input']!r}: {reason}"
