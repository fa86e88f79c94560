"""Regions the simulator can build: where they lie, their climate, soils, cloud, orbits and crops.

Two regions ship: the Flevoland lowlands (NL) and the Beauce-Berry plain of central France (FR). Climate figures are
rounded from the 1991-2020 normals of KNMI (Lelystad) and Meteo-France (Bourges, Orleans). Cloud is the chance that a
Sentinel-2 pass at 10:45 UTC finds cloud or cloud shadow: chosen because the Dutch data of 2023 have 41 clear dates in
about 135 passes, and 46 % of the French dekads are missing.

Relative orbits are real ones. Neighbouring Sentinel-1 orbits are 73 apart and 5 days later, Sentinel-2's 43 apart and
3 days later (175 orbits in 12 days, 143 in 10). The pass dates of S1 orbits 15, 37, 88, 110 and of S2 orbits 8 and 51
are those of the Dutch recordings of 2023; the French ones follow by these steps.
"""

from dataclasses import dataclass
from datetime import date, time
from typing import Literal

Direction = Literal["ascending", "descending"]


@dataclass(frozen=True)
class S2Orbit:
    """A Sentinel-2 relative orbit: one pass every 5 days with two satellites."""

    relative_orbit: int
    first_pass: date
    """A day of a pass; the others are multiples of 5 days away."""
    utc: time
    west: float = 0.0
    east: float = 1.0
    """Share of the region's width, from the west, between which the swath covers it."""


@dataclass(frozen=True)
class S1Orbit:
    """A Sentinel-1 relative orbit: one pass every 6 days with two satellites, 12 with one."""

    relative_orbit: int
    direction: Direction
    first_pass: date
    utc: time
    incidence_deg: float
    """Incidence angle at the centre of the region."""


@dataclass(frozen=True)
class Climate:
    """Daily temperature, rain and cloud in an average year."""

    mean_c: float
    amplitude_c: float
    wet_day_chance: tuple[float, float]
    """Chance of a wet day in January and in July."""
    wet_day_mm: tuple[float, float]
    cloud: tuple[float, ...]
    """Cloud fraction by month at the time of the Sentinel-2 pass, January first."""


@dataclass(frozen=True)
class Region:
    """A piece of country to simulate."""

    key: str
    prefix: str
    """Opens every parcel id of the region."""
    lon: float
    lat: float
    epsg: int
    climate: Climate
    soil_dry: tuple[float, ...]
    """Reflectance of dry bare soil in the ten bands."""
    field_ha: float
    """Median field area."""
    s2_orbits: tuple[S2Orbit, ...]
    s1_orbits: tuple[S1Orbit, ...]
    shares: dict[str, float]
    """Share of the parcels by crop key; sums to 1."""
    cover_crop_chance: float
    """Chance that an arable field is green over winter before a spring crop."""


LOWLANDS = Region(
    key="lowlands",
    prefix="NL",
    lon=5.62,
    lat=52.62,
    epsg=32631,
    # Monthly means 3.5 to 18 degrees; 830 mm a year on about 190 wet days.
    climate=Climate(
        mean_c=10.6,
        amplitude_c=7.4,
        wet_day_chance=(0.60, 0.46),
        wet_day_mm=(3.8, 5.0),
        cloud=(0.80, 0.76, 0.70, 0.63, 0.62, 0.62, 0.62, 0.60, 0.62, 0.70, 0.80, 0.83),
    ),
    # Dark marine clay: lower than the French medians below; gives NDVI 0.14, the Dutch mean of bare fields in May.
    soil_dry=(0.085, 0.110, 0.140, 0.153, 0.165, 0.175, 0.186, 0.196, 0.262, 0.222),
    field_ha=3.2,
    s2_orbits=(
        S2Orbit(8, date(2023, 1, 2), time(10, 40, 31), west=0.30),
        S2Orbit(51, date(2023, 1, 5), time(10, 50, 29)),
    ),
    # Incidence: chosen because bare Dutch fields are 2 to 3 dB brighter in VV in orbits 15 and 110 than in 88 and 37.
    s1_orbits=(
        S1Orbit(15, "ascending", date(2023, 1, 4), time(17, 16, 40), 35.0),
        S1Orbit(88, "ascending", date(2023, 1, 9), time(17, 24, 53), 43.0),
        S1Orbit(37, "descending", date(2023, 1, 6), time(5, 50, 12), 43.5),
        S1Orbit(110, "descending", date(2023, 1, 11), time(5, 58, 24), 35.5),
    ),
    # After the crop plan of Flevoland (CBS StatLine, arable area by crop), grass raised so that mowing can be studied.
    shares={
        "winter_wheat": 0.17,
        "winter_barley": 0.05,
        "winter_rapeseed": 0.04,
        "spring_barley": 0.06,
        "maize": 0.08,
        "sugar_beet": 0.12,
        "potato": 0.16,
        "onion": 0.10,
        "permanent_grass": 0.12,
        "temporary_grass": 0.07,
        "alfalfa": 0.03,
    },
    cover_crop_chance=0.6,
)

CENTRE = Region(
    key="centre",
    prefix="FR",
    lon=1.62,
    lat=47.35,
    epsg=32631,
    # Monthly means 4 to 20.5 degrees; 700 mm a year on about 160 wet days.
    climate=Climate(
        mean_c=12.1,
        amplitude_c=8.2,
        wet_day_chance=(0.52, 0.35),
        wet_day_mm=(3.8, 5.3),
        cloud=(0.80, 0.72, 0.63, 0.57, 0.55, 0.48, 0.42, 0.42, 0.46, 0.60, 0.75, 0.81),
    ),
    # Median of 363 French pixels with NDVI below 0.2 (2022-2024).
    soil_dry=(0.103, 0.144, 0.188, 0.214, 0.233, 0.250, 0.262, 0.272, 0.362, 0.307),
    field_ha=4.2,
    s2_orbits=(
        S2Orbit(51, date(2023, 1, 5), time(10, 51, 55), west=0.0, east=0.6),
        S2Orbit(94, date(2023, 1, 3), time(11, 1, 3)),
    ),
    s1_orbits=(
        S1Orbit(59, "ascending", date(2023, 1, 7), time(17, 48, 10), 37.0),
        S1Orbit(132, "ascending", date(2023, 1, 12), time(17, 56, 30), 44.0),
        S1Orbit(110, "descending", date(2023, 1, 11), time(6, 0, 5), 42.0),
        S1Orbit(8, "descending", date(2023, 1, 4), time(6, 8, 15), 34.0),
    ),
    # After Agreste, annual agricultural statistics of Centre-Val de Loire, root crops and vines raised to be learnable.
    shares={
        "winter_wheat": 0.24,
        "winter_barley": 0.11,
        "winter_rapeseed": 0.11,
        "spring_barley": 0.06,
        "maize": 0.10,
        "sugar_beet": 0.04,
        "potato": 0.03,
        "onion": 0.02,
        "sunflower": 0.08,
        "permanent_grass": 0.08,
        "temporary_grass": 0.05,
        "alfalfa": 0.04,
        "vineyard": 0.04,
    },
    cover_crop_chance=0.55,
)

REGIONS: dict[str, Region] = {region.key: region for region in (LOWLANDS, CENTRE)}
