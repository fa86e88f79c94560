"""The daily state of every field: leaf area, residues, canopy water, radar levels, soil roughness, standing water.

Annual crops and vines follow their development (plan.py) through the curves of crops.py. Swards grow by

    dL/dt = r f(T) g(w) L (1 - L / Lmax) - decay,   f = clip((T - 4) / 12, 0, 1.2),   g from root-zone wetness

and lose leaf area to the mower or to grazing (logistic sward growth as in LINGRA, Schapendonk et al. 1998). What
grows before sowing and after harvest (cover crops, volunteers, weeds) is a second, nameless canopy, equal for all
crops so that it does not betray the coming one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from research.simulator.crops import CROPS, INDEX, STAGES
from research.simulator.events import Events
from research.simulator.plan import DRY_DAY_MM, NEVER, Plan
from research.simulator.weather import Weather

FloatArray = NDArray[np.float64]
Float32 = NDArray[np.float32]
IntArray = NDArray[np.int64]

FIELD_SPREAD = (
    0.26  # log-normal sd of leaf area between fields: gives the Dutch sd of NDVI, 0.04 (beet) to 0.09 (wheat)
)
COVER_VV_DB, COVER_VH_DB = -13.5, -19.0  # low leafy canopy, between the measured grass and the measured beet
# Dutch grass of 2023 in orbit 37: permanent -12 and -18, temporary -14 and -20; French alfalfa-like pulses -11 and -17.
SWARD_DB = {"permanent_grass": (-13.6, -19.0), "temporary_grass": (-14.4, -20.0), "alfalfa": (-12.3, -17.6)}


@dataclass(frozen=True)
class FieldStates:
    """State of every parcel on every day, each (P, T) float32."""

    lai: Float32
    """Green leaf area of the crop."""
    cover: Float32
    """Green leaf area of what is not the crop: cover crop, volunteers, weeds, grass between vines."""
    brown: Float32
    """Area of dead standing or lying plant parts."""
    flower: Float32
    """Share of the canopy hidden by yellow flowers."""
    water: Float32
    """Canopy water of the crop, kg/m2."""
    vv: Float32
    """Backscatter of the crop's canopy were it optically thick, dB at 38 degrees."""
    vh: Float32
    roughness: Float32
    """Soil roughness: -1 rolled seedbed, 0 average, 1 fresh ploughing."""
    flooded: Float32
    """Share of the field under standing water."""


@dataclass(frozen=True)
class Mowing:
    """One cut: row of the parcel and day."""

    row: int
    day: int


def grow(
    plan: Plan,
    events: Events,
    weather: dict[str, Weather],
    region: NDArray[np.str_],
    previous: IntArray,
    rng: np.random.Generator,
) -> tuple[FieldStates, list[Mowing]]:
    """Grow every field through the year; return the states and the cuts of the swards."""
    days, n = plan.days, len(plan.crop)
    shape = (n, len(days))
    lai, water, brown, flower = (np.zeros(shape) for _ in range(4))
    vv, vh = np.full(shape, COVER_VV_DB), np.full(shape, COVER_VH_DB)
    vigour = np.exp(rng.normal(0, FIELD_SPREAD, n))
    weeds = rng.gamma(2.0, 0.18, n)  # leaf area of weeds where nothing emerged
    end = np.minimum(plan.harvest, events.early_loss)
    for c in np.unique(plan.crop):
        crop, here = CROPS[c], np.flatnonzero(plan.crop == c)
        if crop.kind == "sward":
            continue
        s, v, rise = plan.stage[here], vigour[here, None], plan.rise[here]
        stands = (days[None, :] < end[here, None]) & (days[None, :] < events.no_emergence[here, None])
        # Killed haulm dries within about ten days.
        green = np.clip(1 - (days[None, :] - plan.kill[here, None]) / 10, 0, 1)
        leaf = np.interp(s, (0, *STAGES), (0, *crop.lai)) * rise * v * green
        lai[here] = leaf * stands
        water[here] = np.interp(s, (0, *STAGES), (0, *crop.water)) * rise * v**0.7 * (0.15 + 0.85 * green) * stands
        vv[here] = np.interp(s, STAGES, crop.vv)
        vh[here] = np.interp(s, STAGES, crop.vh)
        dead = np.maximum(np.interp(s, (3.6, 4.5, 5.0), (0, 0.25, 0.5)) * (crop.kind == "annual"), 0.5 * (1 - green))
        brown[here] = dead * max(crop.lai) * 0.7 * v * stands
        if crop.key == "winter_rapeseed":  # yellow from BBCH 61 to 69, three to four weeks (Ashourloo et al. 2019)
            flower[here] = np.interp(s, (2.2, 2.5, 2.8, 3.1), (0, 0.55, 0.55, 0)) * stands
        if crop.key == "sunflower":
            flower[here] = np.interp(s, (2.8, 3.1, 3.5), (0, 0.12, 0)) * stands
        if crop.kind == "vine":
            # The leaves of the year before fall in October and November.
            lai[here] += 0.85 * max(crop.lai) * v * np.interp(days, (-97, -50), (1, 0))
            water[here] += 0.9  # posts, wires and trunks: an echo all year
    cover = _cover(plan, events, weeds)
    swards, cuts = _swards(plan, events, weather, region, previous, vigour, rng)
    for row, sward in swards.items():
        crop = CROPS[plan.crop[row]]
        lai[row], brown[row], cover[row] = sward[0], sward[1], 0.0
        is_alfalfa = crop.key == "alfalfa"
        water[row] = (0.55 if is_alfalfa else 0.36) * sward[0]
        vv[row], vh[row] = SWARD_DB[crop.key]
    _stubble(plan, events, end, brown, days)
    flooded = _flood(events, days, lai, cover, water)
    rough = _roughness(plan, events, end, days)
    states = (lai, cover, brown, flower, water, vv, vh, rough, flooded)
    return FieldStates(*(a.astype(np.float32) for a in states)), cuts


def _cover(plan: Plan, events: Events, weeds: FloatArray) -> FloatArray:
    """Return leaf area (P, T) of all that grows on arable land and is not the crop."""
    t = plan.days[None, :]
    kinds = np.array([CROPS[c].kind for c in plan.crop])
    # Before: up in 45 days, thinner after frost, turned under at ploughing; the last crop itself until it is cut.
    before = np.clip((t - plan.previous_end[:, None] - 12) / 45, 0, 1) * np.clip(1 - (t + 60) / 260, 0.55, 1)
    before = before * plan.cover_lai[:, None] * np.clip(1 - (t - plan.plough[:, None]) / 5, 0, 1)
    standing = 2.2 * np.clip(1 - (t + 150) / 120, 0.2, 1) * (t < plan.previous_end[:, None])
    after = plan.after_lai[:, None] * np.clip((t - plan.after_from[:, None]) / 35, 0, 1)
    # Where nothing came up, weeds do; where a stand is lost, some too.
    failed = np.minimum(events.no_emergence, np.where(events.early_loss < NEVER, events.early_loss + 15, NEVER))
    wild = weeds[:, None] * np.clip((t - failed[:, None] - 15) / 60, 0, 1)
    cover: FloatArray = before + standing + after * (failed[:, None] == NEVER) + wild
    cover[kinds == "sward"] = 0
    vines = np.flatnonzero(kinds == "vine")
    # Between vines: grass in every row (0.9), in every second, or bare; thin in a dry summer.
    share = np.array([0.95, 0.55, 0.15])[(plan.cover_lai[vines] * 1e4).astype(int) % 3]
    cover[vines] = share[:, None] * np.interp(
        plan.days % 365, (0, 100, 150, 215, 270, 364), (0.9, 1.2, 1.2, 0.7, 0.9, 0.9)
    )
    return cover


def _stubble(plan: Plan, events: Events, end: IntArray, brown: FloatArray, days: IntArray) -> None:
    """Add straw and stubble after harvest, gone within weeks by weather and tillage."""
    t = days[None, :]
    leaves_straw = np.array(
        [{"sugar_beet": 0.2, "potato": 0.2, "onion": 0.2}.get(CROPS[c].key, 0.7) for c in plan.crop]
    )
    leaves_straw *= np.array([CROPS[c].kind == "annual" for c in plan.crop])
    for from_day in (end, plan.previous_end):
        since = t - from_day[:, None]
        brown += leaves_straw[:, None] * np.exp(-np.maximum(since, 0) / 22) * (since >= 0)
    turned = t - events.grassland_ploughed[:, None]
    brown += 0.3 * np.exp(-np.maximum(turned, 0) / 20) * (turned >= 0)


def _flood(events: Events, days: IntArray, *canopies: FloatArray) -> FloatArray:
    """Return share of each field under water (P, T); thins the canopies from the flood on."""
    t = days[None, :]
    inside = (t >= events.flood_from[:, None]) & (t <= events.flood_until[:, None])
    for canopy in canopies:
        canopy *= np.where(t >= events.flood_from[:, None], 0.55, 1.0)
    return np.where(inside, 0.85, 0.0)


def _roughness(plan: Plan, events: Events, end: IntArray, days: IntArray) -> FloatArray:
    """Return soil roughness (P, T): each tillage sets it, rain and time smooth it."""
    t = days[None, :]
    kinds = np.array([CROPS[c].kind for c in plan.crop])
    ridged = np.array([CROPS[c].is_ridged for c in plan.crop])
    is_lifted = np.array([CROPS[c].key in ("sugar_beet", "potato", "onion") for c in plan.crop])
    seedbed = np.where(ridged, 0.5, -0.9)
    rough = np.full((len(plan.crop), len(days)), 0.05)
    steps = (
        (plan.plough, np.full(len(kinds), 0.9), 0.2, 70.0),
        (plan.sowing - 1, seedbed, -0.1, 80.0),
        (end, np.where(is_lifted, 0.6, 0.0), 0.0, 30.0),  # lifting roots churns the soil
        (end + 18, np.full(len(kinds), 0.5), 0.1, 50.0),  # stubble is cultivated
    )
    for start, level, rest, tau in steps:
        since = t - start[:, None]
        rough = np.where(since >= 0, rest + (level[:, None] - rest) * np.exp(-np.maximum(since, 0) / tau), rough)
    rough[kinds == "sward"] = -0.15
    rough[kinds == "vine"] = 0.1
    since = t - events.grassland_ploughed[:, None]
    return np.where(since >= 0, 0.1 + 0.8 * np.exp(-np.maximum(since, 0) / 60), rough)


def _swards(
    plan: Plan,
    events: Events,
    weather: dict[str, Weather],
    region: NDArray[np.str_],
    previous: IntArray,
    vigour: FloatArray,
    rng: np.random.Generator,
) -> tuple[dict[int, tuple[FloatArray, FloatArray]], list[Mowing]]:
    """Return leaf area and dead area of each sward, by row, and its cuts."""
    grown: dict[int, tuple[FloatArray, FloatArray]] = {}
    cuts: list[Mowing] = []
    for r, air in weather.items():
        rows = np.flatnonzero((region == r) & np.array([CROPS[c].kind == "sward" for c in plan.crop]))
        if not len(rows):
            continue
        habit = _habits(plan.crop[rows], previous[rows], rng)
        habit["vigour"] = vigour[rows]
        lai, cut_days = _run_swards(air, habit, events, rows, rng)
        root = np.convolve(air.wetness, np.full(30, 1 / 30), mode="full")[: len(air.days)]
        dry = np.clip((0.38 - root) / 0.2, 0, 1)
        for i, row in enumerate(rows):
            grown[int(row)] = (lai[i], 0.25 + 0.6 * dry * (lai[i] > 0.1))
            cuts += [Mowing(int(row), int(day)) for day in cut_days[i]]
    return grown, cuts


def _habits(crop: IntArray, previous: IntArray, rng: np.random.Generator) -> dict[str, FloatArray]:
    """Return how each sward is used: cut level, cuts at most, grazing, and the day it was sown if it is new."""
    n = len(crop)
    is_permanent, is_alfalfa = crop == INDEX["permanent_grass"], crop == INDEX["alfalfa"]
    # Half of permanent grass is grazed (Sen4CAP L4B trials name grazing the main confusion of mowing detection).
    is_grazed = is_permanent & (rng.random(n) < 0.5)
    most = np.where(
        is_permanent, rng.integers(1, 4, n), np.where(is_alfalfa, rng.integers(3, 5, n), rng.integers(3, 6, n))
    )
    is_new = (crop != previous) & ~is_permanent
    sown = np.where(rng.random(n) < 0.6, rng.integers(-135, -110, n), rng.integers(80, 110, n))
    return {
        "rate": np.where(is_alfalfa, 0.115, np.where(is_permanent, 0.075, 0.10)) * np.exp(rng.normal(0, 0.15, n)),
        "top": np.where(is_alfalfa, 4.6, np.where(is_permanent, 4.2, 5.0)),
        "floor": np.where(is_alfalfa, 0.35, 0.9),
        "cut_at": np.where(is_alfalfa, 3.3, 3.1) * np.exp(rng.normal(0, 0.12, n)),
        "most": np.where(is_grazed, 1, most).astype(float),
        "earliest": np.where(is_permanent, rng.normal(140, 16, n), rng.normal(126, 9, n)),  # early to late May
        "graze": np.where(is_grazed, rng.uniform(0.03, 0.07, n), 0.0),
        "sown": np.where(is_new, sown, -NEVER).astype(float),
    }


def _run_swards(
    air: Weather, habit: dict[str, FloatArray], events: Events, rows: IntArray, rng: np.random.Generator
) -> tuple[FloatArray, list[list[int]]]:
    """Return steps the swards of a region through the days: leaf area (n, T) and the days of the cuts."""
    n = len(rows)
    lai, out = np.full(n, 1.6), np.empty((n, len(air.days)))
    done, waiting = np.zeros(n), np.full(n, -100.0)
    cuts: list[list[int]] = [[] for _ in range(n)]
    ploughed, reseeded = events.grassland_ploughed[rows], events.is_reseeded[rows]
    root = air.wetness[0]
    for k, day in enumerate(air.days):
        root += (air.wetness[k] - root) / 30
        warmth = float(np.clip((air.temperature[k] - 4) / 12, 0, 1.2))
        moisture = float(np.clip((root - 0.12) / 0.25, 0.1, 1))
        light = 0.35 + 0.65 * np.sin(np.pi * ((day + 10) % 365) / 365) ** 2  # day length
        growth = habit["rate"] * habit["vigour"] * warmth * moisture * light * 1.6 * lai * (1 - lai / habit["top"])
        decay = (0.012 if warmth < 0.1 else 0.004) * np.maximum(lai - habit["floor"], 0)
        is_grazing = 95 < day % 365 < 310
        lai = lai + growth - decay - is_grazing * habit["graze"] * np.maximum(lai - 1.2, 0)
        is_dry = air.rain[k] < DRY_DAY_MM
        ready = (lai > habit["cut_at"]) & (day > habit["earliest"]) & (day < 295) & (done < habit["most"])
        ready |= (
            (day > habit["earliest"] + 45) & (lai > 2.2) & (day - waiting > 55) & (done < habit["most"]) & (day < 285)
        )
        mown = ready & is_dry & (rng.random(n) < 0.22) & (habit["sown"] < day - 60) & (ploughed > day)
        lai = np.where(mown, rng.uniform(0.45, 0.85, n), lai)
        waiting, done = np.where(mown, day, waiting), done + mown
        for i in np.flatnonzero(mown):
            cuts[i].append(int(day))
        is_bare = (day < habit["sown"] + 12) & (habit["sown"] > -NEVER) & (day > habit["sown"] - 25)
        gone = (day >= ploughed) & ((day < ploughed + 35) | ~reseeded)
        lai = np.where(is_bare | gone, 0.06, np.maximum(lai, 0.08))
        out[:, k] = lai
    return out, cuts
