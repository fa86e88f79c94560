"""A simulated season: parcels, truth, and the acquisitions in the order in which their products could be had."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import NamedTuple

import geopandas as gpd
import numpy as np
import pyarrow as pa

from research.simulator.config import SimulatorConfig
from research.simulator.crops import CROPS, INDEX
from research.simulator.events import declare, draw_events
from research.simulator.fields import Fields, build_fields, draw_appearance
from research.simulator.growth import FieldStates, grow
from research.simulator.landscape import build_landscape, declared_file
from research.simulator.observe import observe_s1, observe_s2
from research.simulator.plan import make_plan
from research.simulator.randomness import stream
from research.simulator.regions import REGIONS, Region, S1Orbit, S2Orbit
from research.simulator.schedule import Product, Sensor, products
from research.simulator.tables import Heading
from research.simulator.truth import Truth, daily_ndvi, make_truth
from research.simulator.weather import Weather, simulate_weather

WARM_UP_D = 60
"""Days simulated before the season so that soil and swards have forgotten their start."""


class Acquisition(NamedTuple):
    """One product over one region: when it could be had, its sensor ("s1", "s2") and its observations."""

    available_at: datetime
    sensor: Sensor
    table: pa.Table


@dataclass(frozen=True)
class LedgerEntry:
    """Where the parcels of one product went: expected = emitted + the sum of skipped."""

    scene_id: str
    sensor: Sensor
    region: str
    observed_at: datetime
    revision: int
    expected: int
    emitted: int
    skipped: dict[str, int]
    """Number by reason: not_monitorable, outside_swath, too_narrow, cloud, lost."""


@dataclass(frozen=True)
class Season:
    """A season to replay; made by simulate_season."""

    config: SimulatorConfig
    parcels: gpd.GeoDataFrame
    """As declared: parcel_id, region, crop_code, crop_name, hcat_code, geometry (EPSG:4326)."""
    truth: Truth
    weather: dict[str, Weather]
    states: FieldStates
    """Daily states of all parcels over the season, (P, T)."""
    fields: dict[str, Fields]
    products: tuple[Product, ...]
    """Every product, lost ones too, in the order of availability."""
    ledger: list[LedgerEntry]
    """One entry for each product drawn from `acquisitions` so far in its newest run."""

    @property
    def name(self) -> str:
        """Return the season's name: its harvest year."""
        return self.config.season

    @property
    def starts_on(self) -> date:
        """First day; model time counts from it."""
        return self.config.span[0]

    @property
    def ends_on(self) -> date:
        """Last day."""
        return self.config.span[1]

    def acquisitions(self, since: datetime | None = None, until: datetime | None = None) -> Iterator[Acquisition]:
        """Yield observations in the order of availability, one item an acquisition, region and revision.

        Products without any observation (lost, overcast) yield nothing, but are in the ledger, which starts anew.
        Each item depends on the config and the product alone, so a part of a season equals that part of the whole.

        Args:
            since: leave out what was available before (aware).
            until: leave out what was available at or after (aware).
        """
        self.ledger.clear()
        for product in self.products:
            if (since and product.available_at < since) or (until and product.available_at >= until):
                continue
            observed = self._observe(product)
            if observed is not None and observed.num_rows:
                yield Acquisition(product.available_at, product.sensor, observed)

    def _observe(self, product: Product) -> pa.Table | None:
        fields, config = self.fields[product.region], self.config
        expected = len(fields.parcel_id)
        observed: pa.Table | None = None
        skipped = {"lost": expected}
        if not product.is_lost:
            t = (product.observed_at.date() - self.starts_on).days
            heading = Heading(config.collection, self.name, product)
            orbit = orbit_of(REGIONS[product.region], product)
            if isinstance(orbit, S2Orbit):
                observed, skipped = observe_s2(fields, orbit, t, heading, config)
            else:
                observed, skipped = observe_s1(fields, orbit, t, heading, config)
        emitted = observed.num_rows if observed is not None else 0
        self.ledger.append(
            LedgerEntry(
                product.scene_id,
                product.sensor,
                product.region,
                product.observed_at,
                product.revision,
                expected,
                emitted,
                {reason: count for reason, count in skipped.items() if count},
            )
        )
        return observed


def orbit_of(region: Region, product: Product) -> S2Orbit | S1Orbit:
    """Return the orbit that a product of a region was seen from."""
    orbits = region.s2_orbits if product.sensor == "s2" else region.s1_orbits
    return next(orbit for orbit in orbits if orbit.relative_orbit == product.relative_orbit)


def simulate_season(config: SimulatorConfig) -> Season:
    """Simulate a season: the fields and their truth at once, the acquisitions when they are asked for.

    Raises:
        ValueError: regions or sizes that cannot be built.
    """
    starts, ends = ((day - date(config.year, 1, 1)).days for day in config.span)
    days = np.arange(starts - WARM_UP_D, ends + 1)
    farmed = build_landscape(config.seed, config.n_parcels, config.regions, config.year).parcels(config.year)
    parcel_id, region = farmed["parcel_id"].to_numpy(str), farmed["region"].to_numpy(str)
    grown, previous = (np.array([INDEX[key] for key in farmed[name]]) for name in ("crop_key", "previous_key"))
    rows = {r: np.flatnonzero(region == r) for r in config.regions}
    outlines = {r: list(farmed.iloc[rows[r]].to_crs(REGIONS[r].epsg).geometry) for r in config.regions}
    centre = np.empty((len(farmed), 2))
    for r in config.regions:
        centre[rows[r]] = [(outline.centroid.x, outline.centroid.y) for outline in outlines[r]]

    weather = {r: simulate_weather(REGIONS[r], config.seed, config.year, days) for r in config.regions}
    rng = stream(config.seed, "season", config.year)
    plan = make_plan(grown, previous, region, weather, rng)
    declared = declare(grown, region, config.event_rate, rng)
    events = draw_events(plan, declared, centre, region, config.event_rate, rng)
    states, cuts = grow(plan, events, weather, region, previous, rng)

    states = FieldStates(*(getattr(states, name)[:, WARM_UP_D:] for name in FieldStates.__dataclass_fields__))
    weather = {r: w.after(WARM_UP_D) for r, w in weather.items()}
    middle = np.array([centre[rows[r], 0].mean() for r in region])
    appearance = draw_appearance(region, farmed["field"].to_numpy(int), (centre[:, 0] - middle) / 1000, config)
    fields = {
        r: build_fields(rows[r], outlines[r], parcel_id, grown, states, appearance, weather[r], config)
        for r in config.regions
    }
    is_monitorable = np.zeros(len(farmed), dtype=bool)
    for r in config.regions:
        is_monitorable[rows[r]] = fields[r].is_monitorable
    wetness = np.stack([weather[r].wetness for r in region]).astype(np.float32)
    ndvi = daily_ndvi(states, grown, appearance.traits, appearance.soil, wetness)
    return Season(
        config=config,
        parcels=declared_file(farmed, [CROPS[c].key for c in declared]),
        truth=make_truth(parcel_id, region, is_monitorable, plan, events, cuts, ndvi, days[WARM_UP_D:], config.year),
        weather=weather,
        states=states,
        fields=fields,
        products=tuple(_all_products(config)),
        ledger=[],
    )


def _all_products(config: SimulatorConfig) -> list[Product]:
    made: list[Product] = []
    for r in config.regions:
        region = REGIONS[r]
        kept = {
            orbit.relative_orbit
            for direction in ("ascending", "descending")
            for orbit in [o for o in region.s1_orbits if o.direction == direction][: config.s1_orbits]
        }
        planned = products(region, config.seed, *config.span, config.s1_every_d, config.s2_every_d, config.lost)
        made += [p for p in planned if p.sensor == "s2" or p.relative_orbit in kept]
    return sorted(made)
