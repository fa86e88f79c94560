"""The pieces of the simulator: canopy, radar, weather, landscape, calendar."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from research.simulator import SimulatorConfig, optics, radar
from research.simulator.crops import BY_KEY, CROPS, INDEX, STAGES, day
from research.simulator.growth import FieldStates
from research.simulator.landscape import Landscape, build_landscape
from research.simulator.plan import NEVER, make_plan
from research.simulator.radar import FieldRadar
from research.simulator.randomness import smooth_field, stream
from research.simulator.regions import REGIONS
from research.simulator.schedule import products
from research.simulator.weather import simulate_weather

pytestmark = pytest.mark.unit


def states(n: int, **changed: float | np.ndarray) -> FieldStates:
    """States of n bare fields on one day, with some of them changed."""
    zero = dict.fromkeys(FieldStates.__dataclass_fields__, 0.0) | {"vv": -10.0, "vh": -16.0}
    return FieldStates(
        **{k: np.broadcast_to(np.float32(changed.get(k, v)), n).reshape(n, 1).copy() for k, v in zero.items()}
    )


def backscatter(fields: FieldStates, crop: str = "sugar_beet", wetness: float = 0.6, **how: float) -> np.ndarray:
    """Backscatter in dB (P, 2) of fields without deviations of their own."""
    n = len(fields.lai)
    zero = np.zeros(n, np.float32)
    still = FieldRadar(zero, np.zeros((n, 4), np.float32), zero + 34, zero)
    power = radar.field_backscatter(
        fields,
        0,
        np.full(n, INDEX[crop]),
        still,
        wetness,
        bool(how.get("frozen", False)),
        how.get("incidence", 38.0),
        how.get("look", 79.0),
    )
    return radar.decibel(power)


def ndvi_of(crop: str, lai: np.ndarray) -> np.ndarray:
    fields, n = states(len(lai), lai=lai), len(lai)
    soil = np.tile(np.array(REGIONS["lowlands"].soil_dry, np.float32), (n, 1))
    canopy, ground, area = optics.mixture(
        fields, 0, np.full(n, INDEX[crop]), np.ones((n, 10), np.float32), soil, np.full(n, 0.3, np.float32)
    )
    mean = optics.field_reflectance(canopy, ground, area, fields.flooded[:, 0])
    return optics.ndvi(mean[:, optics.RED], mean[:, optics.NIR])


def test_ndvi_rises_with_leaf_area_and_saturates() -> None:
    curve = ndvi_of("winter_wheat", np.linspace(0, 7, 15))
    assert 0.10 < curve[0] < 0.20
    assert np.all(np.diff(curve) > 0)
    assert 0.86 < curve[-1] < 0.95
    assert curve[6] - curve[4] > 10 * (curve[14] - curve[12])  # 2 to 3 against 6 to 7


def test_flood_takes_ndvi_below_zero() -> None:
    fields = states(1, lai=2.0, flooded=1.0)
    mean = optics.field_reflectance(
        np.full((1, 10), 0.3, np.float32), np.full((1, 10), 0.2, np.float32), fields.lai[:, 0], fields.flooded[:, 0]
    )
    assert optics.ndvi(mean[:, optics.RED], mean[:, optics.NIR])[0] < 0


def test_vh_rises_with_canopy_water_and_saturates() -> None:
    vh = backscatter(states(9, water=np.linspace(0, 8, 9), vh=-14.0, roughness=-0.9))[:, 1]
    assert np.all(np.diff(vh) > 0)
    assert vh[4] - vh[0] > 4
    assert vh[8] - vh[7] < 0.2


def test_vertical_stems_darken_vv() -> None:
    crop, at = BY_KEY["winter_wheat"], STAGES.index(3.0)
    bare, headed = backscatter(
        states(2, water=np.array([0.0, crop.water[at]]), vv=crop.vv[at], vh=crop.vh[at]), "winter_wheat"
    )
    assert headed[0] < bare[0] - 5


@pytest.mark.parametrize(("water", "least", "most"), [(0.0, 1.5, 3.5), (6.0, 0.2, 1.2)])
def test_steep_view_is_brighter_most_of_all_on_bare_soil(water: float, least: float, most: float) -> None:
    fields = states(1, water=water)
    gain = backscatter(fields, incidence=35.0)[0, 0] - backscatter(fields, incidence=43.0)[0, 0]
    assert least < gain < most


def test_wet_rough_and_frozen_soil() -> None:
    bare = states(1)
    assert backscatter(bare, wetness=1.0)[0, 0] - backscatter(bare, wetness=0.2)[0, 0] > 3
    assert backscatter(states(1, roughness=1.0))[0, 0] - backscatter(states(1, roughness=-0.9))[0, 0] > 3
    assert backscatter(bare, frozen=True)[0, 0] < backscatter(bare)[0, 0] - 2
    assert backscatter(states(1, flooded=1.0))[0, 0] < -18


def test_speckle_has_the_looks_of_grd() -> None:
    mean = np.full((40, 2), 0.1, np.float32)
    drawn = radar.speckled(mean, np.ones((40, 400), np.float32), stream(1, "speckle"))
    assert drawn.mean() == pytest.approx(0.1, rel=0.02)
    assert drawn.mean() ** 2 / drawn.var() == pytest.approx(radar.ENL, rel=0.05)


def test_smooth_field_is_standard_and_coherent() -> None:
    x: NDArray[np.float64] = np.random.default_rng(0).uniform(0, 2e6, (4000, 2))
    field = smooth_field(x, 5000.0, stream(3, "field"))
    near = smooth_field(np.array([x, x + np.array([500.0, 0.0])]), 5000.0, stream(3, "near"))
    assert abs(field.mean()) < 0.1
    assert field.std() == pytest.approx(1, abs=0.1)
    assert np.mean(near[0] * near[1]) > 0.9  # correlation 500 m apart, at variance 1


@pytest.mark.parametrize("key", REGIONS)
def test_weather_is_plausible_over_the_years(key: str) -> None:
    days = np.arange(0, 365)
    years = [simulate_weather(REGIONS[key], 1, year, days) for year in range(2000, 2020)]
    rain = np.array([w.rain.sum() for w in years])
    means = np.array([w.temperature.mean() for w in years])
    assert 550 < rain.mean() < 1000
    assert 9 < means.mean() < 14
    assert 0.4 < means.std() < 1.6
    july, january = (np.mean([w.temperature[a : a + 31].mean() for w in years]) for a in (181, 0))
    assert 16 < july < 22
    assert 1 < january < 6
    assert all(w.wetness.min() >= 0 and w.wetness.max() <= 1 for w in years)
    assert np.mean([w.wetness[:60].mean() - w.wetness[150:210].mean() for w in years]) > 0.15  # dry summers


@pytest.fixture(scope="module")
def landscape() -> Landscape:
    return build_landscape(4, 600, ("lowlands", "centre"), 2025)


def test_fields_look_like_fields(landscape: Landscape) -> None:
    parcels = landscape.parcels(2025)
    area_ha = parcels.to_crs(32631).area / 1e4
    assert parcels.crs == "EPSG:4326"
    assert parcels.geometry.is_valid.all()
    assert parcels.parcel_id.is_unique
    assert 1.5 < area_ha.median() < 4
    assert (area_ha < 0.3).any()
    assert area_ha.max() < 22  # the target is capped at 15 ha and a piece may exceed its target by 35 %
    joined = parcels.sjoin(parcels[["geometry"]], predicate="overlaps")
    assert len(joined) == 0
    for key, region in REGIONS.items():
        corner = parcels[parcels.region == key].bounds
        assert abs(corner.minx - region.lon).max() < 0.4
        assert abs(corner.miny - region.lat).max() < 0.3


def test_shares_hold_and_crops_rotate(landscape: Landscape) -> None:
    now, before = landscape.crop_of(2025), landscape.crop_of(2024)
    kind = np.array([crop.kind for crop in CROPS])
    permanent = np.isin(before, [INDEX["permanent_grass"], INDEX["vineyard"]])
    assert np.array_equal(now[permanent], before[permanent])
    arable = kind[before] == "annual"
    assert (now[arable] != before[arable]).mean() > 0.8
    beet = before == INDEX["sugar_beet"]
    assert not np.any(now[beet] == INDEX["sugar_beet"])
    lowlands = landscape.region == "lowlands"
    for key, share in REGIONS["lowlands"].shares.items():
        assert (now[lowlands] == INDEX[key]).mean() == pytest.approx(share, abs=0.09), key


def test_crops_are_clumped(landscape: Landscape) -> None:
    crop = landscape.crop_of(2015)
    x = np.array([(g.centroid.x, g.centroid.y) for g in landscape.geometry])
    gap = np.linalg.norm(x[:, None] - x[None], axis=2)
    same = crop[:, None] == crop[None]
    alike_region = landscape.region[:, None] == landscape.region[None]
    near, far = (gap > 0) & (gap < 800), (gap > 6000) & alike_region
    assert same[near].mean() > 1.25 * same[far].mean()


def test_ids_change_and_lineage_is_by_overlap(landscape: Landscape) -> None:
    old, new = landscape.parcels(2024), landscape.parcels(2025)
    assert set(old.parcel_id).isdisjoint(new.parcel_id)
    per_field = new.groupby("field").size()
    assert (per_field == 2).any()  # divided fields
    assert (per_field == 1).mean() > 0.9
    assert old.union_all().symmetric_difference(new.union_all()).area < 1e-6 * new.union_all().area


def test_no_landscape_before_its_first_year(landscape: Landscape) -> None:
    with pytest.raises(ValueError, match="no landscape for 2014"):
        landscape.crop_of(2014)
    with pytest.raises(ValueError, match="unknown region"):
        build_landscape(1, 100, ("atlantis",), 2025)
    with pytest.raises(ValueError, match="at least 20 each"):
        build_landscape(1, 30, ("lowlands", "centre"), 2025)


def test_days_are_read_from_dates() -> None:
    assert [day(101), day(301), day(1231), day(-1231), day(-1001)] == [0, 59, 364, -1, -92]


def test_a_warm_spring_brings_crops_forward() -> None:
    region, days = REGIONS["centre"], np.arange(-180, 304)
    crop = np.repeat([INDEX["winter_wheat"], INDEX["maize"]], 40)
    place = np.full(80, "centre")
    plain = simulate_weather(region, 1, 2025, days)
    warm = type(plain)(days, plain.temperature + 2, plain.normal, plain.rain, plain.wetness, plain.cloud)
    plans = [make_plan(crop, crop[::-1], place, {"centre": w}, stream(1, "plan")) for w in (plain, warm)]
    for rows in (slice(0, 40), slice(40, 80)):
        canopy = [np.array([days[np.argmax(p.stage[i] >= 3)] for i in range(80)])[rows] for p in plans]
        assert 4 < np.mean(canopy[0] - canopy[1]) < 25
    harvest = plans[0].harvest
    assert np.median(harvest[:40]) < np.median(harvest[40:]) - 30  # wheat before maize
    assert np.all(harvest < NEVER)


def test_products_are_late_lost_revised_and_withdrawn() -> None:
    config = SimulatorConfig(year=2025)
    made = products(REGIONS["lowlands"], 1, *config.span, 6, 5, lost=0.05)
    delay = np.array([(p.available_at - p.observed_at).total_seconds() / 86400 for p in made if not p.revision])
    assert made == sorted(made, key=lambda p: p.available_at)
    assert delay.min() > 0
    assert np.median(delay) < 0.6
    assert 0.005 < (delay > 2).mean() < 0.08
    for sensor in ("s1", "s2"):
        ours = [p for p in made if p.sensor == sensor]
        assert any(p.is_lost for p in ours)
        assert any(p.revision == 1 and p.is_withdrawn for p in ours)
        assert any(p.revision == 1 and not p.is_withdrawn for p in ours)
        first = {p.number: p for p in ours if p.revision == 0}
        assert all(p.available_at > first[p.number].available_at for p in ours if p.revision)
    per_orbit = {p.relative_orbit for p in made}
    assert per_orbit == {15, 88, 37, 110, 8, 51}
    dates = sorted(p.observed_at for p in made if p.relative_orbit == 37 and not p.revision)
    assert {(b - a).days for a, b in itertools.pairwise(dates)} == {6}


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"s1_every_d": 7}, "multiple of 6"),
        ({"s2_every_d": 0}, "multiple of 5"),
        ({"n_pixels": 0}, "at least 1"),
        ({"lost": 1.0}, r"in \[0, 1\)"),
        ({"event_rate": -1.0}, "not be negative"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SimulatorConfig(**wrong)  # type: ignore[arg-type]
