"""Injected events: what went otherwise than declared or planned, on which parcel and on which day.

Shares of the parcels a season at event_rate 1. They are chosen because a demonstration of 400 parcels then has
a handful of each, and reality about as few.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from research.simulator.crops import CROPS, INDEX
from research.simulator.plan import NEVER, Plan
from research.simulator.regions import REGIONS

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

SHARES = {
    "wrong_declaration": 0.03,
    "no_emergence": 0.02,
    "early_loss": 0.02,
    "grassland_ploughed": 0.04,  # of the grassland
    "flood": 0.01,
}

FLOOD_DAYS = (9, 24)  # standing water: one to three weeks


@dataclass(frozen=True)
class Events:
    """The events' days by parcel, NEVER where there is none."""

    declared: IntArray
    """Index into CROPS of the declared crop, (P,)."""
    no_emergence: IntArray
    early_loss: IntArray
    grassland_ploughed: IntArray
    is_reseeded: NDArray[np.bool_]
    """Whether ploughed grassland is sown to grass again."""
    flood_from: IntArray
    flood_until: IntArray


def declare(grown: IntArray, region: NDArray[np.str_], rate: float, rng: np.random.Generator) -> IntArray:
    """Return the declared crop of each parcel: the one grown, but for a few (SHARES, times `rate`)."""
    declared = grown.copy()
    wrong = rng.random(len(grown)) < SHARES["wrong_declaration"] * rate
    for i in np.flatnonzero(wrong):
        shares = REGIONS[str(region[i])].shares
        others = [key for key in shares if INDEX[key] != grown[i] and CROPS[INDEX[key]].kind != "vine"]
        weight = np.array([shares[key] for key in others])
        declared[i] = INDEX[others[int(rng.choice(len(others), p=weight / weight.sum()))]]
    return declared


def draw_events(
    plan: Plan, declared: IntArray, centre: FloatArray, region: NDArray[np.str_], rate: float, rng: np.random.Generator
) -> Events:
    """Sample the events of a season; a parcel has at most one beside a wrong declaration.

    Args:
        plan: the season as planned.
        declared: index of the declared crop, (P,).
        centre: UTM position of each parcel, (P, 2).
        region: region key of each parcel, (P,).
        rate: factor on SHARES.
        rng: randomness.
    """
    n = len(plan.crop)
    kind = np.array([CROPS[c].kind for c in plan.crop])
    is_free = declared == plan.crop
    u = rng.random((n, 4))
    no_emergence, early_loss, ploughed = np.full(n, NEVER), np.full(n, NEVER), np.full(n, NEVER)

    fails = is_free & (kind == "annual") & (u[:, 0] < SHARES["no_emergence"] * rate)
    no_emergence[fails] = plan.emergence[fails]
    is_free &= ~fails

    # A loss falls between fast growth and ripening, at least 25 days before harvest, or it would be a harvest.
    grows = (plan.stage > 2.3) & (plan.stage < 4.0)
    first = np.argmax(grows, axis=1)
    span = grows.sum(axis=1)
    loses = is_free & (kind == "annual") & (span > 15) & (u[:, 1] < SHARES["early_loss"] * rate)
    at = first + (0.15 + 0.8 * u[:, 2]) * span
    loss_day = plan.days[0] + np.round(at).astype(int)
    loses &= loss_day < plan.harvest - 25
    early_loss[loses] = loss_day[loses]
    is_free &= ~loses

    is_grass = np.isin(plan.crop, [INDEX["permanent_grass"], INDEX["temporary_grass"]])
    turns = is_free & is_grass & (u[:, 0] < SHARES["grassland_ploughed"] * rate)
    ploughed[turns] = np.round(70 + 170 * u[turns, 2]).astype(int)  # mid-March to the end of August
    is_free &= ~turns

    flood_from, flood_until = _floods(is_free, centre, region, rate, rng)
    return Events(declared, no_emergence, early_loss, ploughed, u[:, 3] < 0.5, flood_from, flood_until)


def _floods(
    is_free: NDArray[np.bool_], centre: FloatArray, region: NDArray[np.str_], rate: float, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Return one flood a region: the parcels nearest to a low point stand under water together."""
    start, end = np.full(len(is_free), NEVER), np.full(len(is_free), NEVER)
    for r in dict.fromkeys(region.tolist()):
        here = np.flatnonzero(region == r)
        count = int(np.ceil(SHARES["flood"] * rate * len(here)))
        low = centre[here[rng.integers(len(here))]]
        nearest = here[np.argsort(np.linalg.norm(centre[here] - low, axis=1), kind="stable")[:count]]
        first = int(rng.choice([rng.integers(-50, 60), rng.integers(120, 190)]))  # winter high water or a summer storm
        hit = nearest[is_free[nearest]]
        start[hit] = first + rng.integers(0, 3, len(hit))
        end[hit] = start[hit] + rng.integers(*FLOOD_DAYS, len(hit))
    return start, end
