"""Weather of a region and harvest year: temperature, rain, soil wetness and cloud.

    T(t) = mean - amplitude cos(2 pi (t - 20) / 365.25) + year + slow(t) + fast(t)       [degC]
    w(t) = w(t-1) + min(rain, room) / D - ET(t) w(t-1) / D - 0.3 max(w(t-1) - 0.65, 0)  [0..1], D = 35 mm

Year anomaly N(0, 0.7), slow AR(45 days) of 1.1 degC, fast AR(4 days) of 2.6 degC: chosen because monthly means of
North-West Europe vary by 1.5 degC from year to year and daily ones by 3.5 around them. Rain is a two-state Markov chain
with gamma amounts (Richardson 1981). Soil wetness is a bucket of the topmost layer, the one C-band sees.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from research.simulator.randomness import autoregressive, stream
from research.simulator.regions import Region

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

BUCKET_MM = 35.0  # plant-free top 10 cm between wilting and saturation
FIELD_CAPACITY, DRAINAGE = 0.65, 0.30  # water above field capacity leaves the top soil within about three days
RAIN_MEMORY = 0.28  # chance added to a wet day after a wet day; wet spells of 3 days on average


@dataclass(frozen=True)
class Weather:
    """One region's weather, day by day."""

    days: IntArray
    """Days from 1 January of the harvest year, (T,)."""
    temperature: FloatArray
    normal: FloatArray
    """Temperature of the average year."""
    rain: FloatArray
    wetness: FloatArray
    """Top-soil wetness 0..1."""
    cloud: FloatArray
    """Expected cloud fraction at the time of the Sentinel-2 pass."""

    def degree_days(self, base_c: float) -> FloatArray:
        """Return degree days above a base, summed from the first day, (T,)."""
        return np.cumsum(np.maximum(self.temperature - base_c, 0.0))

    def normal_degree_days(self, base_c: float) -> FloatArray:
        """Return the same in the average year."""
        # The mean of max(T - base, 0) over a day-to-day spread of 3 degC (softplus), so winters count as they do in
        # a real year.
        return np.cumsum(1.6 * np.log1p(np.exp((self.normal - base_c) / 1.6)))

    def after(self, n: int) -> "Weather":
        """Return the same weather without its first n days."""
        return Weather(*(getattr(self, name)[n:] for name in self.__dataclass_fields__))


def simulate_weather(region: Region, seed: int, year: int, days: IntArray) -> Weather:
    """Return the weather of a harvest year: the same for the same seed, region and year, whatever else is simulated."""
    rng = stream(seed, "weather", region.key, year)
    n = len(days)
    climate = region.climate
    phase = 2 * np.pi * (days - 20) / 365.25
    normal = climate.mean_c - climate.amplitude_c * np.cos(phase)
    temperature = normal + rng.normal(0, 0.7) + 1.1 * autoregressive(n, 45, rng) + 2.6 * autoregressive(n, 4, rng)
    winterness = 0.5 + 0.5 * np.cos(phase)
    chance = climate.wet_day_chance[1] + (climate.wet_day_chance[0] - climate.wet_day_chance[1]) * winterness
    chance = np.clip(chance + 0.06 * autoregressive(n, 40, rng), 0.05, 0.9)  # dry and wet spells of weeks
    amount = climate.wet_day_mm[1] + (climate.wet_day_mm[0] - climate.wet_day_mm[1]) * winterness
    uniform, gamma = rng.random(n), rng.gamma(0.75, 1 / 0.75, n)
    rain = np.zeros(n)
    wetness = np.empty(n)
    was_wet, level = False, 0.6
    evaporation = np.maximum(0.3, 2.6 - 2.3 * np.cos(phase)) * np.clip(0.55 + temperature / 40, 0.3, 1.3)  # mm/day
    for i in range(n):
        was_wet = bool(uniform[i] < chance[i] + RAIN_MEMORY * (was_wet - chance[i]))
        rain[i] = gamma[i] * amount[i] if was_wet else 0.0
        level = min(1.0, level + rain[i] / BUCKET_MM)
        level -= evaporation[i] * level / BUCKET_MM
        level -= DRAINAGE * max(level - FIELD_CAPACITY, 0.0)
        wetness[i] = level
    month = ((days % 365.25) / 365.25 * 12).astype(int) % 12
    cloud = np.clip(np.array(climate.cloud)[month] + np.where(rain > 0.2, 0.14, -0.12), 0.05, 0.97)
    return Weather(days, temperature, normal, rain, wetness, cloud)
