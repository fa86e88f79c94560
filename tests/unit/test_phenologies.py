"""Seasons of many parcels at once are dated as each is alone."""

from dataclasses import astuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.phenology import CROP, GRASS, REASONS, Phenologies, PhenologyConfig, PhenologyReason, phenologies

Dated = tuple[int, int, int]


def one_by_one(
    days: list[int], ndvi: list[float], sd: list[float], views: list[bool], config: PhenologyConfig, is_complete: bool
) -> tuple[Dated | None, Dated | None, Dated | None, PhenologyReason | None]:
    """Return SOS, POS, EOS and the reason of one parcel, day by day."""
    valid = [i for i in range(len(days)) if np.isfinite(ndvi[i]) and np.isfinite(sd[i])]
    days, ndvi, sd, views = ([given[i] for i in valid] for given in (days, ndvi, sd, views))  # type: ignore[assignment]
    if len(days) < config.min_days:
        return None, None, None, PhenologyReason.NO_CURVE
    if sum(views) < config.min_views:
        return None, None, None, PhenologyReason.FEW_VIEWS
    peak, top = max(ndvi), ndvi.index(max(ndvi))
    rise, fall = peak - min(ndvi[: top + 1]), peak - min(ndvi[top:])
    if max(rise, fall) < config.min_amplitude:
        return None, None, None, PhenologyReason.SMALL_AMPLITUDE
    if max(rise, fall) < 1.96 * float(np.median(sd)):
        return None, None, None, PhenologyReason.UNCERTAIN
    sos = pos = eos = None
    level = min(ndvi[: top + 1]) + config.share_up * rise
    if rise >= config.min_amplitude and any(value < level for value in ndvi[:top]):
        at = max(i for i in range(top) if ndvi[i] < level) + 1
        earliest = max([i + 1 for i in range(at) if ndvi[i] + sd[i] < level], default=0)
        latest = min([i for i in range(at, top + 1) if ndvi[i] - sd[i] >= level], default=top)
        sos = days[at], days[earliest], days[latest]
    level = peak - config.share_down * fall
    if fall >= config.min_amplitude and any(value < level for value in ndvi[top:]):
        last = min(i for i in range(top, len(days)) if ndvi[i] < level) - 1
        until = min([i - 1 for i in range(last + 1, len(days)) if ndvi[i] + sd[i] < level], default=len(days) - 1)
        since = max([i for i in range(top, last + 1) if ndvi[i] - sd[i] >= level], default=top)
        eos = days[last] + 1, days[since] + 1, days[until] + 1
    if is_complete or top < len(days) - 1:
        first = max([i + 1 for i in range(top) if ndvi[i] + sd[i] < peak], default=0)
        final = min([i - 1 for i in range(top + 1, len(days)) if ndvi[i] + sd[i] < peak], default=len(days) - 1)
        pos = days[top], days[first], days[final]
    return sos, pos, eos, None


def row(found: Phenologies, nr: int) -> tuple[Dated | None, ...]:
    dates = (one.one(nr) for one in (found.sos, found.pos, found.eos))
    return tuple(None if one is None else astuple(one) for one in dates)


def curves(
    random: np.random.Generator, n_parcels: int, n_days: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return NDVI, sd and views of seasons of all kinds: flat, noisy, with equal values, days that are missing, no end."""
    day, shape = np.arange(n_days), (n_parcels, 1)
    up, down = random.uniform(-40, n_days, shape), random.uniform(0, n_days + 60, shape)
    ndvi = 0.2 + random.uniform(0, 0.8, shape) * (1 / (1 + np.exp((up - day) / 8)) - 1 / (1 + np.exp((down - day) / 6)))
    ndvi += random.choice([0, 0.05, 0.2], shape) * random.normal(size=(n_parcels, n_days))
    ndvi = np.where(random.random(shape) < 0.5, ndvi.round(1), ndvi)
    sd = random.choice([0.01, 0.05, 0.2, 0.4], shape) * random.uniform(0.5, 1.5, (n_parcels, n_days))
    sd = np.where(random.random(shape) < 0.3, sd.round(1), sd)
    ndvi[random.random(ndvi.shape) < random.choice([0, 0, 0.1, 0.9], shape)] = np.nan
    ndvi[day >= random.integers(0, 2 * n_days, shape)] = np.nan
    return ndvi, sd, random.random(ndvi.shape) < random.choice([0.02, 0.1, 0.5], shape)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 90), st.booleans())
def test_many_seasons_are_dated_as_each_alone(seed: int, n_days: int, is_complete: bool) -> None:
    random, days = np.random.default_rng(seed), np.arange(n_days)
    ndvi, sd, views = curves(random, 40, n_days)
    kinds = [CROP, GRASS, PhenologyConfig(share_up=0.5, min_amplitude=0.05, min_views=1, min_days=2)]
    configs = [kinds[kind] for kind in random.integers(0, 3, 40)]
    found = phenologies(days, ndvi, sd, views, configs, is_complete)
    for nr, config in enumerate(configs):
        *dates, reason = one_by_one(
            days.tolist(), ndvi[nr].tolist(), sd[nr].tolist(), views[nr].tolist(), config, is_complete
        )
        assert row(found, nr) == tuple(dates)
        assert (None if found.reason[nr] < 0 else REASONS[found.reason[nr]]) == reason


def test_no_parcels_have_no_seasons() -> None:
    nothing = np.empty((0, 30))
    assert len(phenologies(np.arange(30), nothing, nothing, nothing > 0, []).reason) == 0
