"""Sources of labelled parcels: what a source is, and the kinds that the tables [data] and [source] of a file can name.

A kind is a name in one of the two lists below; its class is imported when a file names it. Kinds of `research` need the
extra of that name; what is read of a file is an instance of the class, and its `open` gives the data.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from models.ndvi.inputs import ClearSeries, SarSeries
from terminal.errors import UserError
from training.labelled import LabelledParcels

Progress = Callable[[int, int], None]
"""Called while a source is read, with (parts done, parts): a first reading of PASTIS-R takes minutes."""


class UnknownSource(UserError, ValueError):
    """A kind of source that is not known, or that is not installed; the message says which are."""


class Section(BaseModel):
    """A table of a run's file: frozen, and no key is accepted that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelledSource(Section, ABC):
    """The table [data] of a run: where labelled parcels come from. Each kind has fields of its own."""

    kind: str

    def require(self) -> None:
        """Raise UserError where the source's folder is not there; nothing is read."""

    @abstractmethod
    def open(self, progress: Progress | None = None) -> LabelledParcels:
        """Return the labelled parcels.

        Raises:
            UserError: a setting that only the data can show to be wrong, or a source that is not there or holds too little.
        """


class UnlabelledSeries(Protocol):
    """Radar and clear views of parcels or pixels, from which a curve is learned."""

    @property
    def name(self) -> str:
        """Of the source."""

    @property
    def n_parcels(self) -> int:
        """P"""

    @property
    def sar(self) -> SarSeries:
        """Cleaned."""

    @property
    def clear(self) -> ClearSeries:
        """Cleaned, days whole."""

    @property
    def group(self) -> NDArray[np.str_]:
        """Return (P,) crop group, empty where it is not known."""

    @property
    def block(self) -> NDArray[np.int64]:
        """Return (P,) spatial block, which must not be split."""

    @property
    def is_trained(self) -> NDArray[np.bool_]:
        """Return (P,) parcels that may be learned from."""


class NdviData(Protocol):
    """The series of a season, and what its days and rows mean."""

    @property
    def series(self) -> UnlabelledSeries:
        """Packed; days count from `starts_on`."""

    @property
    def starts_on(self) -> date:
        """Day 0."""

    @property
    def unit(self) -> str:
        """parcels or pixels"""


class NdviSource(Protocol):
    """The table [source] of a file for `models train ndvi`: a frozen dataclass with a field `kind`."""

    def open(self) -> NdviData:
        """Return the series; raises UserError where the source is not there or holds too little."""


class Place(NamedTuple):
    """The module and the name of a kind's class."""

    module: str
    name: str


LABELLED: Final = {
    "database": Place("training.database_source", "DatabaseData"),
    "pastis": Place("research.sources", "PastisData"),
    "pastis-pixelset": Place("research.sources", "PastisData"),
    "nl": Place("research.sources", "RecordedData"),
    "fr": Place("research.sources", "RecordedData"),
    "simulator": Place("research.sources", "SimulatorData"),
    "table": Place("training.table_source", "TableData"),
}
"""Kinds of the table [data]."""

PATCHES: Final = {
    "patches": Place("training.patch_images", "PatchFolder"),
    "pastis": Place("research.experiments.pastis_images", "PastisImages"),
}
"""Kinds of the table [data] for `models train segmentation` and `panoptic`."""

NDVI: Final = dict.fromkeys(("nl", "simulator", "patches"), Place("research.experiments.ndvi.sources", "Source"))
"""Kinds of the table [source]."""


def class_of(kind: object, kinds: Mapping[str, Place]) -> Any:
    """Import the class of a kind.

    Raises:
        UnknownSource: no such kind, or it belongs to an extra that is not installed.
    """
    place = kinds.get(kind) if isinstance(kind, str) else None
    given = "" if kind is None else f" = {kind!r}"
    if place is None:
        raise UnknownSource(f"kind{given}: one of {', '.join(kinds)} is needed")
    try:
        return getattr(importlib.import_module(place.module), place.name)
    except ModuleNotFoundError as error:
        if place.module.partition(".")[0] == "training":
            raise
        raise UnknownSource(
            f"kind{given} needs what is not installed here ({error.name}): pip install -e '.[research]' in the project's folder"
        ) from error


def open_source(data: LabelledSource, progress: Progress | None = None) -> LabelledParcels:
    """Return the labelled parcels of a source; see `LabelledSource.open`."""
    return data.open(progress)
