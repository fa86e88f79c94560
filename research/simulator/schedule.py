"""When satellites pass, when their products can be had, and what happens to them on the way.

Sentinel-2 L2A and Sentinel-1 GRD products appear within hours to a day of sensing (the missions' timeliness goal is
24 h); a few are late by days. Some are lost, a few are published again after reprocessing, and a few are withdrawn:
at least one a region, sensor and season of the last two kinds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Literal

import numpy as np

from research.simulator.randomness import stream
from research.simulator.regions import Region, S1Orbit, S2Orbit

Sensor = Literal["s1", "s2"]

LATE_CHANCE = 0.03  # products that come days after the pass; every data hub has them
REVISED_SHARE, WITHDRAWN_SHARE = 0.02, 0.004  # chosen because a season then has a few of each


@dataclass(frozen=True, order=True)
class Product:
    """One published product: an acquisition over one region, or a revision of it."""

    available_at: datetime
    observed_at: datetime
    region: str
    sensor: Sensor
    platform: str
    relative_orbit: int
    revision: int = 0
    is_withdrawn: bool = False
    is_lost: bool = False
    number: int = 0
    """Names the random numbers of the acquisition: the same for all its revisions."""

    @property
    def scene_id(self) -> str:
        """Name in the manner of the mission's product names."""
        sensed = f"{self.observed_at:%Y%m%dT%H%M%S}"
        if self.sensor == "s2":
            return (
                f"{self.platform}_MSIL2A_{sensed}_N05{11 + self.revision:02d}_R{self.relative_orbit:03d}_{self.region}"
            )
        return f"{self.platform}_IW_GRDH_1SDV_{sensed}_{self.relative_orbit:03d}_{self.region}_{self.revision:02d}"


def products(
    region: Region, seed: int, starts_on: date, ends_on: date, s1_every_d: int, s2_every_d: int, lost: float
) -> list[Product]:
    """Return all products of a region and season in the order of availability, lost ones included.

    Args:
        region: the region.
        seed: names the random stream.
        starts_on: first day.
        ends_on: last day.
        s1_every_d: days between passes of an S1 orbit: 6 (two satellites), 12, or a multiple of 6.
        s2_every_d: days between passes of an S2 orbit: 5 (two satellites), 10, or a multiple of 5.
        lost: chance that an acquisition is lost.
    """
    rng = stream(seed, "products", region.key, starts_on.year)
    made: list[Product] = []
    for orbits in (region.s2_orbits, region.s1_orbits):
        passes = [p for o in orbits for p in _passes(region.key, o, starts_on, ends_on, s1_every_d, s2_every_d)]
        is_lost = rng.random(len(passes)) < lost
        kept = rng.permutation(np.flatnonzero(~is_lost))
        n_withdrawn, n_revised = (max(1, round(share * len(passes))) for share in (WITHDRAWN_SHARE, REVISED_SHARE))
        withdrawn, revised = set(kept[:n_withdrawn]), set(kept[n_withdrawn : n_withdrawn + n_revised])
        for i, planned in enumerate(passes):
            delay = _delay(planned.sensor, rng)
            first = replace(
                planned, available_at=_later(planned.observed_at, delay), number=i, is_lost=bool(is_lost[i])
            )
            made.append(first)
            if i in withdrawn or i in revised:
                again = _later(first.available_at, 24 * rng.uniform(5, 25))
                made.append(replace(first, available_at=again, revision=1, is_withdrawn=i in withdrawn))
    return sorted(made)


def _passes(
    region: str, orbit: S2Orbit | S1Orbit, starts_on: date, ends_on: date, s1_every_d: int, s2_every_d: int
) -> Iterator[Product]:
    is_s2 = isinstance(orbit, S2Orbit)
    base, every = (5, s2_every_d) if is_s2 else (6, s1_every_d)
    first = starts_on + timedelta(days=(orbit.first_pass - starts_on).days % every)
    for k in range(((ends_on - first).days // every) + 1):
        on = first + timedelta(days=k * every)
        turn = ((on - orbit.first_pass).days // base) % 2
        platform = ("S2A", "S2B")[turn] if is_s2 else ("S1A", "S1C")[turn]
        at = datetime.combine(on, orbit.utc, tzinfo=UTC)
        sensor: Sensor = "s2" if is_s2 else "s1"
        yield Product(at, at, region, sensor, platform, orbit.relative_orbit)


def _delay(sensor: Sensor, rng: np.random.Generator) -> float:
    """Return hours from sensing to availability: some hours, for a few products days."""
    hours = float(rng.lognormal(np.log(9.0 if sensor == "s2" else 7.0), 0.5))
    late = rng.random(2)
    return hours + 24 * (2 + 6 * float(late[1])) * bool(late[0] < LATE_CHANCE)


def _later(at: datetime, hours: float) -> datetime:
    return (at + timedelta(hours=float(hours))).replace(microsecond=0)
