"""How scenes of one pass relate: pure decisions, from what products say of themselves.

versions    of one acquisition: all granules of a tile, or all slices, of one datatake, in whatever processing
part        one granule or slice of an acquisition; processings of one part replace each other, parts add up
processing  newer by baseline, then by the time it was made
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

from ingest.imagery.scene import Scene
from ingest.imagery.sensors import IMAGERY

SAME_PART: Final = timedelta(seconds=5)
"""Starts of one part in two processings may differ by a second or two; those of two parts lie a slice (25 s) or a
ground station's pass apart (chosen between the two)."""


SAME_TIME: Final = timedelta(seconds=1)
"""The time of one processing is written with and without fractions."""


class Processing(Protocol):
    """What distinguishes processings of one part."""

    @property
    def part(self) -> datetime | None: ...
    @property
    def baseline(self) -> str | None: ...
    @property
    def processed_at(self) -> datetime | None: ...


class Known(Processing, Protocol):
    """Another version of the acquisition, as the ledger has it."""

    @property
    def scene_id(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def revision(self) -> int | None: ...
    @property
    def is_held(self) -> bool: ...
    @property
    def is_in_store(self) -> bool: ...


def datatake_of(scene: Scene) -> str:
    """Return the datatake's name with its satellite; of a product that says none, satellite and time."""
    if scene.datatake is None:
        return f"{scene.platform}_{scene.observed_at:%Y%m%dT%H%M%S}"
    return scene.datatake if scene.datatake.startswith(scene.platform) else f"{scene.platform}_{scene.datatake}"


def acquisition_of(scene: Scene) -> str:
    """Return what all granules of a tile, or slices, of one datatake share."""
    return f"{datatake_of(scene)}_T{scene.tile}" if IMAGERY[scene.sensor].is_tiled else datatake_of(scene)


def is_same_part(one: Processing, other: Processing) -> bool:
    """Return whether two versions of an acquisition show the same part; so too where one does not say what it shows."""
    if one.part is None or other.part is None:
        return True
    return abs(one.part - other.part) <= SAME_PART


def is_newer(one: Processing, other: Processing) -> bool:
    """Return whether a processing was made after another: by baseline where both have one, then by time."""
    mine, theirs = _numbers(one.baseline), _numbers(other.baseline)
    if mine and theirs and mine != theirs:
        return mine > theirs
    if one.processed_at is None or other.processed_at is None:
        return False
    return one.processed_at - other.processed_at >= SAME_TIME


def _numbers(baseline: str | None) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", baseline or ""))


@dataclass(frozen=True, slots=True)
class Precedence:
    """The precedence of a scene among the versions of its acquisition."""

    busy: str | None
    """One that a worker is at: wait for it."""
    superseded_by: str | None
    """A processing of the same part that is cut and not older."""
    replaces: tuple[str, ...]
    """Older processings of the same part."""
    beside: tuple[str, ...]
    """Other parts as cut now."""
    newest_revision: int | None
    """The highest of the others."""
    is_revision: bool
    """Every parcel must be emitted anew, for an older processing of the part, or another part that did not end, may have
    emitted it."""
    is_in_store: bool
    """The store has all that the others emitted: what it does not have was not emitted."""


def precedence(mine: Processing, others: Sequence[Known]) -> Precedence:
    """Return the precedence of a scene among the other versions of its acquisition."""
    begun = [one for one in others if one.revision is not None]
    same = [one for one in others if is_same_part(mine, one)]
    rest = [one for one in others if one not in same]
    return Precedence(
        busy=next((one.scene_id for one in others if one.is_held), None),
        superseded_by=next((one.scene_id for one in same if one.state == "cut" and not is_newer(mine, one)), None),
        replaces=tuple(one.scene_id for one in same if is_newer(mine, one)),
        beside=tuple(one.scene_id for one in rest if one.state == "cut"),
        newest_revision=max((one.revision for one in begun if one.revision is not None), default=None),
        is_revision=any(one in same or one.state not in ("cut", "superseded") for one in begun),
        is_in_store=all(one.is_in_store for one in begun),
    )
