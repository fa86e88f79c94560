"""The plan of a year on every parcel: when it is sown, how it develops, when it is cut, and what was there before.

    progress(t) = Gn(t) + a (G(t) - Gn(t)) - Gn(m) - b (G(sown) - G(m)),   s(t) = piecewise linear in pace * progress

G and Gn are degree days of the year and of the average year, m the mean sowing day. Winter crops wait for day length
and cold: the year's anomaly counts for a = 0.55 and the own sowing date for b = 0.2 (Arvalis: three weeks of delay are
three days at flowering); spring crops have a = b = 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from research.simulator.crops import CROPS, Calendar
from research.simulator.regions import REGIONS
from research.simulator.weather import Weather

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

NEVER = 10_000
"""A day that does not come."""
WINTER_ANOMALY, WINTER_SOWING = 0.55, 0.2
PACE_SPREAD = 0.055  # varieties and soils: about 5 days either way at heading
KILLED_SHARE = 0.5  # lowland potatoes grown for seed, whose haulm is killed from 20 July (135 of 154 in the Dutch data)
TOO_WET, LONGEST_WAIT_D = 0.66, 20  # chosen because then about one spring in four delays sowing by a week or more
DRY_DAY_MM = 1.0  # nobody combines or mows on a day with more rain


@dataclass(frozen=True)
class Plan:
    """Days (from 1 January of the harvest year) and development of every parcel; NEVER where a day does not come."""

    days: IntArray
    """The days of the columns of `stage` and `rise`, (T,)."""
    crop: IntArray
    """Index into CROPS of what is really grown, (P,)."""
    sowing: IntArray
    emergence: IntArray
    harvest: IntArray
    kill: IntArray
    """Day the haulm is killed (potato)."""
    stage: FloatArray
    """Development stage, (P, T)."""
    rise: FloatArray
    """How far a stand has established since its own emergence, 0..1, (P, T)."""
    previous_end: IntArray
    """Day the previous crop left the field."""
    plough: IntArray
    """Day the cover crop, or what grew by itself, was turned under."""
    cover_lai: FloatArray
    """Leaf area the cover reaches, (P,)."""
    after_lai: FloatArray
    """Leaf area of what follows the harvest, (P,)."""
    after_from: IntArray


def next_dry_day(days: IntArray, wanted: FloatArray, weather: Weather) -> IntArray:
    """Return the first day with little rain on or after each wanted day, at most 12 days on."""
    is_dry = weather.rain < DRY_DAY_MM
    at = np.clip(np.round(wanted).astype(int) - days[0], 0, len(days) - 1)
    for _ in range(12):
        at = np.where(is_dry[at], at, np.minimum(at + 1, len(days) - 1))
    found: IntArray = days[at]
    return found


def make_plan(
    crop: IntArray, previous: IntArray, region: NDArray[np.str_], weather: dict[str, Weather], rng: np.random.Generator
) -> Plan:
    """Sample the plan of a year. Shapes: crop, previous (index into CROPS) and region (P,)."""
    n = len(crop)
    days = next(iter(weather.values())).days
    never = np.full(n, NEVER)
    sowing, emergence, harvest, kill = never.copy(), never.copy(), never.copy(), never.copy()
    stage, rise = np.zeros((n, len(days))), np.ones((n, len(days)))
    pace = np.clip(rng.normal(1, PACE_SPREAD, n), 0.85, 1.15)
    chance = rng.random((n, 6))
    for r in weather:
        for c in np.unique(crop[region == r]):
            here = np.flatnonzero((crop == c) & (region == r))
            if CROPS[c].kind == "sward":
                continue
            calendar = CROPS[c].calendar[r]
            early, late = calendar.sowing
            # Most farmers sow in the middle of the window: mean of two uniforms.
            sowing[here] = np.round(early + (late - early) * (chance[here, 0] + chance[here, 1]) / 2).astype(int)
            sowing[here] = _workable(days, sowing[here], weather[r])
            stage[here], rise[here] = _development(
                CROPS[c].base_c, calendar, sowing[here], pace[here], weather[r], CROPS[c].kind
            )
            emergence[here] = _first(days, rise[here] > 0)
            ripe = _first(days, stage[here] >= 5).astype(float)
            harvest[here] = _harvest(CROPS[c].key, calendar, ripe, days, chance[here], weather[r])
            if CROPS[c].key == "potato" and r == "lowlands":
                killed = np.where(chance[here, 2] < KILLED_SHARE, 200 + 30 * chance[here, 3], NEVER).astype(int)
                kill[here] = killed
                harvest[here] = np.where(killed < NEVER, np.maximum(killed + 18, harvest[here] - 14), harvest[here])
    around = _before_and_after(crop, previous, region, sowing, harvest, rng)
    return Plan(days, crop, sowing, emergence, harvest, kill, stage, rise, *around)


def _workable(days: IntArray, sowing: IntArray, weather: Weather) -> IntArray:
    """Return spring sowing put off while the soil is too wet to drive on (the Dutch beet of 2023: after 20 April)."""
    at = sowing - days[0]
    for _ in range(LONGEST_WAIT_D):
        at = np.where((sowing > 0) & (weather.wetness[np.clip(at, 0, len(days) - 1)] > TOO_WET), at + 1, at)
    workable: IntArray = days[0] + at
    return workable


def _development(
    base_c: float, calendar: Calendar, sowing: IntArray, pace: FloatArray, weather: Weather, kind: str
) -> tuple[FloatArray, FloatArray]:
    """Return stage and establishment (P, T) of parcels of one crop in one region."""
    days, actual, normal = weather.days, weather.degree_days(base_c), weather.normal_degree_days(base_c)
    mean_sowing = sum(calendar.sowing) / 2
    marks = [mean_sowing, calendar.emergence, calendar.fast_growth, calendar.full_canopy, calendar.senescence]
    thresholds = np.interp([*marks, calendar.ripe], days, normal) - np.interp(mean_sowing, days, normal)
    is_winter = mean_sowing < 0
    anomaly, memory = (WINTER_ANOMALY, WINTER_SOWING) if is_winter else (1.0, 1.0)
    # Anomalies count from sowing on, not from the first simulated day.
    surplus = (actual - np.interp(mean_sowing, days, actual)) - (normal - np.interp(mean_sowing, days, normal))
    run = normal - np.interp(mean_sowing, days, normal) + anomaly * surplus
    delay = memory * (np.interp(sowing, days, actual) - np.interp(mean_sowing, days, actual))
    progress = pace[:, None] * (run[None, :] - delay[:, None])
    stage = np.interp(progress, np.maximum.accumulate(thresholds + np.arange(6) * 1e-6), np.arange(6.0))
    since_sowing = actual[None, :] - np.interp(sowing, days, actual)[:, None]
    if kind == "vine":
        return stage, np.ones_like(stage)
    rise = np.clip((since_sowing - thresholds[1]) / 120.0, 0.0, 1.0)  # 120 degree days: the first two leaves
    return stage * (since_sowing > 0), rise


def _harvest(
    key: str, calendar: Calendar, ripe: FloatArray, days: IntArray, chance: FloatArray, weather: Weather
) -> IntArray:
    """Return harvest days (P,): grain some days after ripeness, roots and maize within a window, always when dry."""
    if key == "vineyard":
        return np.full(len(ripe), NEVER)
    early, late = calendar.harvest
    shift = np.clip(np.where(ripe < NEVER, ripe - calendar.ripe, 0.0), -20, 20)
    if key in ("maize", "sugar_beet", "potato"):
        wanted = early + (late - early) * (chance[:, 4] + chance[:, 5]) / 2 + 0.6 * shift
    else:
        wanted = calendar.ripe + shift + 1 + 12 * chance[:, 4] * chance[:, 5] ** 0.5
    return next_dry_day(days, wanted, weather)


def _before_and_after(
    crop: IntArray,
    previous: IntArray,
    region: NDArray[np.str_],
    sowing: IntArray,
    harvest: IntArray,
    rng: np.random.Generator,
) -> tuple[IntArray, IntArray, FloatArray, FloatArray, IntArray]:
    """Return what stood before sowing and what comes after harvest: the last five fields of Plan.

    The share of green winters and their spread follow the Dutch fields of later beet, onion and potato: January NDVI
    0.45 with a standard deviation of 0.22.
    """
    n = len(crop)
    late = np.array([CROPS[p].key in ("maize", "sugar_beet", "potato", "sunflower", "onion") for p in previous])
    previous_end = np.where(late, rng.integers(-120, -62, n), rng.integers(-172, -140, n))
    previous_end = np.minimum(previous_end, sowing - 6)
    is_spring = sowing > 0
    has_cover = rng.random(n) < np.array([REGIONS[r].cover_crop_chance for r in region]) * np.where(late, 0.6, 1.0)
    # Sown covers reach 1 to 2.5, volunteers and weeds 0.1 to 0.8.
    lai = np.where(has_cover & is_spring, rng.gamma(6, 0.3, n), rng.gamma(1.6, 0.18, n))
    is_ploughed_early = rng.random(n) < 0.45  # clay is ploughed before winter
    plough = np.where(is_ploughed_early, rng.integers(-58, -15, n), sowing - rng.integers(8, 50, n))
    plough = np.maximum(np.where(is_spring, np.minimum(plough, sowing - 6), sowing - rng.integers(2, 9, n)), -400)
    follows = rng.random(n)
    # After harvest: a catch crop or the next winter crop (half), volunteers (a quarter), bare (a quarter).
    after_lai = np.where(follows < 0.5, rng.gamma(6, 0.28, n), np.where(follows < 0.75, rng.gamma(2, 0.25, n), 0.05))
    after_from = np.where(harvest < NEVER, harvest + rng.integers(12, 50, n), NEVER)
    return previous_end, plough, lai, after_lai, after_from


def _first(days: IntArray, is_reached: BoolArray) -> IntArray:
    """Return the first day of each row (P, T) on which a state is reached, NEVER if it is not."""
    return np.where(is_reached.any(axis=1), days[np.argmax(is_reached, axis=1)], NEVER)
