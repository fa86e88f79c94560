"""The rows of the experiments' tables: fusion schemes that a source allows, and the enhancements that a scheme can have.

Source: Garnot, Landrieu and Chehata 2022: early, mid, late and decision fusion; auxiliary supervision, temporal dropout.
Errors: ExperimentError for a scheme that the source has no modality for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.classifier.network import Fusion
from terminal.errors import UserError
from training.labelled import LabelledParcels

FOREST = "forest"


class ExperimentError(UserError, ValueError):
    """An experiment that cannot be run as asked. The caller stops and shows the message."""


@dataclass(frozen=True)
class Scheme:
    """A row of the tables: modalities and how they are fused."""

    name: str
    modalities: tuple[str, ...]
    fusion: Fusion = "late"


@dataclass(frozen=True)
class Enhancement:
    """Simple adjustments of the training procedure (Garnot, Landrieu and Chehata 2022)."""

    name: str
    is_auxiliary: bool
    has_temporal_dropout: bool


ENHANCEMENTS = (
    Enhancement("none", False, False),
    Enhancement("auxiliary", True, False),
    Enhancement("temporal dropout", False, True),
    Enhancement("both", True, True),
)


def schemes(data: LabelledParcels) -> tuple[Scheme, ...]:
    """Return every row that the data allow: each modality alone, the radar ones together, the four fusions; optical first."""
    names = sorted((one.name for one in data.modalities), key=lambda name: (name != "s2", name))
    radar = tuple(name for name in names if name != "s2")
    rows = [Scheme(name.upper(), (name,)) for name in names]
    if 1 < len(radar) < len(names):
        rows.append(Scheme("radar", radar))
    if len(names) > 1:
        rows += [Scheme(fusion, tuple(names), fusion) for fusion in ("early", "mid", "late", "decision")]
    return tuple(rows)


def chosen(data: LabelledParcels, names: Sequence[str]) -> tuple[Scheme, ...]:
    """Return the schemes of these names, in that order; all for none.

    Raises:
        ExperimentError: the data do not allow one.
    """
    known = {one.name: one for one in schemes(data)}
    if missing := [name for name in names if name not in known]:
        raise ExperimentError(f"{data.name} allows the schemes {', '.join(known)}, not {', '.join(missing)}")
    return tuple(known[name] for name in names) or tuple(known.values())


def rows(schemes: Sequence[Scheme], enhancements: Sequence[Enhancement]) -> list[tuple[Scheme, Enhancement]]:
    """Return every scheme with every enhancement that is defined for it.

    Auxiliary supervision needs a sequence of its own for each modality (late, decision); elsewhere it is left out, so
    that "both" is temporal dropout there.
    """
    found = []
    for scheme in schemes:
        can_have = len(scheme.modalities) > 1 and scheme.fusion in ("late", "decision")
        for one in enhancements:
            wanted = (one.is_auxiliary and can_have, one.has_temporal_dropout)
            found += [(scheme, own) for own in ENHANCEMENTS if (own.is_auxiliary, own.has_temporal_dropout) == wanted]
    return list(dict.fromkeys(found))
