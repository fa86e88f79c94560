"""The gap-free daily NDVI of parcels: clear views, and between them SAR corrected by the views around.

    value(t) = v_i                       on a day with a clear view that is no dip     origin "observed"
             = correction(f, views)(t)   else (models.ndvi_correction)                 origin "reconstructed"
             = prior(t)                  without SAR around and without any view       origin "prior"

Causal: the row of day t knows SAR and views up to t, as if asked that evening. Retrospective: everything up to
`known_day`. A residual cloud dip is a view far below both neighbours and below what SAR says, with recovery within
weeks; it is not followed. Until the recovery is seen it cannot be told from a harvest: the row follows it with a
standard deviation that covers both readings.
Source: DESIGN sections 3, 6 and 7; dips in models.ndvi_views.
Shapes: rows (P, D); P parcels, D days. Cost: one window of the network per parcel and causal day, one per parcel and
        30 retrospective days, whatever the length of the season.
Units:  days since the season's start (whole days); NDVI dimensionless.
Errors: none for bad series (NaN, duplicates, disorder, nothing at all): the prior with its wide sd answers.
        TrainingDataError where `fit_curve` has nothing to learn from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.ndvi_correction import FIT_UPDATES, Correction, Queries, correction_inputs, fit_correction
from models.ndvi_inputs import Bools, ClearSeries, Floats, Ints, SarSeries
from models.ndvi_reconstruction import SarToNdvi
from models.ndvi_training import TrainingDataError
from models.ndvi_views import Mode, Prior, build_queries

MODES: tuple[Mode, ...] = ("causal", "retrospective")
Origin = Literal["observed", "reconstructed", "prior"]
ORIGINS: tuple[Origin, ...] = ("observed", "reconstructed", "prior")
OBSERVED, RECONSTRUCTED, PRIOR = range(3)

VIEW_SD_RANGE = (0.01, 0.05)
"""Where the sd of one clear view's NDVI lies for a parcel mean (chosen around S2 inter-calibration of 0.02)."""
GAPS_DAYS = (0, 10, 20, 30, 60, 90)
"""Gaps hidden around views when the correction is learned; the gaps it is judged by, and none."""
MAX_LAG_DAYS = 60
"""Days after a query that the lagged half of the retrospective learning knows: a running season knows no more."""
NONE_SHARE = 0.05
"""Share of learning queries without any view, and of those without SAR, so that both answers are learned."""
MAX_LEARNED_VIEWS = 12_000
"""Clear views the corrections learn from, so that a large region takes no longer (chosen as 300 fields' season)."""
CHUNK_CELLS = 4_000_000
"""Queries times views at once: about 300 MB of working arrays."""


@dataclass(frozen=True)
class NdviModel:
    """All that turns a parcel's series into its daily NDVI: network, corrections of both modes, prior."""

    sar_to_ndvi: SarToNdvi
    prior: Prior
    causal: Correction
    retrospective: Correction
    view_sd: float
    """Sd of one clear view."""

    def correction(self, mode: Mode) -> Correction:
        """The correction of a mode."""
        return self.causal if mode == "causal" else self.retrospective

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What a checkpoint keeps: JSON values and one flat state dict."""
        data, weights = self.sar_to_ndvi.state()
        prior = {name: values.tolist() for name, values in vars(self.prior).items()}
        flat = {f"network.{name}": w for name, w in weights.items()}
        for mode in MODES:
            flat |= {f"{mode}.{name}": w for name, w in getattr(self, mode).state_dict().items()}
        return data | {"prior": prior, "view_sd": self.view_sd}, flat

    @classmethod
    def from_state(cls, data: Mapping[str, Any], weights: Mapping[str, Tensor]) -> "NdviModel":
        """The model that `state` described."""

        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(f"{name}."): w for key, w in weights.items() if key.startswith(f"{name}.")}

        causal, retrospective = Correction(is_causal=True), Correction(is_causal=False)
        causal.load_state_dict(part("causal"))
        retrospective.load_state_dict(part("retrospective"))
        prior = Prior(**{name: np.array(values, dtype=np.float64) for name, values in data["prior"].items()})
        network = SarToNdvi.from_state(data, part("network"))
        return cls(network, prior, causal.eval(), retrospective.eval(), float(data["view_sd"]))


@dataclass(frozen=True)
class DailyCurve:
    """NDVI of parcels day by day."""

    days: Ints
    """(D,) days since the season's start."""
    ndvi: Floats
    """(P, D), finite everywhere; a row of origin "prior" says nothing of the parcel itself."""
    sd: Floats
    """(P, D) predictive standard deviation of a clear view on the day."""
    origin: NDArray[np.int8]
    """(P, D) index into `ORIGINS`."""
    has_sar: Bools
    """(P, D) whether SAR near the day was used."""
    n_views: Ints
    """(P, D) clear views used, of at most four; 0 with SAR alone."""
    mode: Mode


def daily_curve(
    model: NdviModel,
    sar: SarSeries,
    clear: ClearSeries,
    n_parcels: int,
    days: Ints,
    mode: Mode,
    known_day: int,
) -> DailyCurve:
    """The curve of parcels on the given days, from what was known at the end of `known_day`.

    Args:
        model: of `fit_curve`.
        sar: backscatter, packed; a causal day needs the 186 days before it, a retrospective one also those after.
        clear: clear NDVI, packed; two views before the first day and two after the last are enough.
        n_parcels: P, the parcels' indices are 0..P-1; a parcel may have no row.
        days: (D,) whole days, increasing.
        mode: causal rows know only what each day knew; retrospective ones what `known_day` knew.
        known_day: rows observed after it are not looked at.
    """
    sar, clear = sar.cleaned(), clear.cleaned()
    sar = sar.rows((sar.day < known_day + 1) & (sar.parcel < n_parcels))
    clear = clear.rows((clear.day < known_day + 1) & (clear.parcel < n_parcels))
    daily = model.sar_to_ndvi.daily(sar, n_parcels)
    views = clear.padded(n_parcels)
    shape = (n_parcels, len(days))
    curve = DailyCurve(
        days,
        ndvi=np.zeros(shape),
        sd=np.zeros(shape),
        origin=np.zeros(shape, dtype=np.int8),
        has_sar=np.zeros(shape, dtype=bool),
        n_views=np.zeros(shape, dtype=np.int64),
        mode=mode,
    )
    step = max(1, CHUNK_CELLS // max(1, len(days) * views[0].shape[1]))
    for start in range(0, n_parcels if len(days) else 0, step):
        rows = np.arange(start, min(start + step, n_parcels))
        parcel, day = np.repeat(rows, len(days)), np.tile(days, len(rows))
        end = day if mode == "causal" else None
        queries = build_queries(model.sar_to_ndvi, model.prior, daily, views, parcel, day, end)
        for name, values in answer(model, queries, mode).items():
            getattr(curve, name)[rows] = values.reshape(len(rows), len(days))
    return curve


def answer(model: NdviModel, queries: Queries, mode: Mode) -> dict[str, NDArray[Any]]:
    """The rows of queries by name: the correction, then views on the day, then the prior where nothing is known."""
    inputs = correction_inputs(queries, is_causal=mode == "causal")
    value, sd = model.correction(mode).correct(inputs, model.view_sd)
    is_observed = inputs.nearest == 0
    value = np.where(is_observed, inputs.base, value)
    # Whoever knows the season alone is wrong by the prior's sd: knowing more is never worse.
    sd = np.hypot(np.minimum(sd, model.prior.sd_at(queries.day)), inputs.unconfirmed_drop / 1.96)
    is_prior = ~queries.has_sar & (inputs.n_views == 0)
    origin = np.where(is_prior, PRIOR, np.where(is_observed, OBSERVED, RECONSTRUCTED)).astype(np.int8)
    return {
        "ndvi": np.where(is_prior, model.prior.at(queries.day), value),
        "sd": np.where(is_prior, model.prior.sd_at(queries.day), sd),
        "origin": origin,
        "has_sar": queries.has_sar,
        "n_views": inputs.n_views.astype(np.int64),
    }


def fit_curve(
    sar_to_ndvi: SarToNdvi,
    sar: SarSeries,
    clear: ClearSeries,
    n_parcels: int,
    is_held_out: Bools,
    seed: int = 0,
    n_updates: int = FIT_UPDATES,
) -> NdviModel:
    """The model of a trained network: its corrections learned from views hidden in gaps.

    Args:
        sar_to_ndvi: the trained network.
        sar: backscatter of the season, packed.
        clear: clear NDVI of the season, packed.
        n_parcels: P.
        is_held_out: (P,) parcels the network did not see; they calibrate the sd, as errors on seen ones look too small.
        seed: of the sampling and the fit.
        n_updates: of the fit of each mode's correction; 4000 take some 8 s.

    Raises:
        TrainingDataError: there is no clear view.
    """
    sar, clear = sar.cleaned(), clear.cleaned()
    if len(clear.day) == 0:
        raise TrainingDataError("no clear NDVI to learn the curve from: import S2 observations")
    prior, view_sd = Prior.fit(clear), sd_of_views(clear)
    daily, views = sar_to_ndvi.daily(sar, n_parcels), clear.padded(n_parcels)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(clear.day))[:MAX_LEARNED_VIEWS])
    parcel, day = clear.parcel[chosen], np.floor(clear.day[chosen]).astype(np.int64)
    ndvi = clear.ndvi[chosen]
    smoothed = build_queries(sar_to_ndvi, prior, daily, views, parcel, day, None)
    windowed = build_queries(sar_to_ndvi, prior, daily, views, parcel, day, day)
    lag = rng.integers(0, MAX_LAG_DAYS, len(day))
    lagged = build_queries(sar_to_ndvi, prior, daily, views, parcel, day, day + lag)
    is_held = is_held_out[parcel]
    # A dip teaches nothing, yet the sd is calibrated on all that passes for a clear view.
    is_used = (smoothed.view_day == day[:, None]).any(axis=1) | is_held

    def learn(sources: list[Queries], is_causal: bool) -> Correction:
        parts = [_hide(queries.rows(is_used), gap, prior, rng) for queries in sources for gap in GAPS_DAYS]
        queries = Queries(*(np.concatenate([getattr(q, name) for q in parts]) for name in vars(smoothed)))
        inputs = correction_inputs(queries, is_causal)
        target, held = np.tile(ndvi[is_used], len(parts)), np.tile(is_held[is_used], len(parts))
        return fit_correction(inputs, target, held, is_causal, view_sd, seed, n_updates)

    return NdviModel(sar_to_ndvi, prior, learn([windowed], True), learn([smoothed, lagged], False), view_sd)


def _hide(queries: Queries, gap: int, prior: Prior, rng: np.random.Generator) -> Queries:
    """Queries on views' own days with the views around them hidden, a few without any view or any SAR."""
    n = len(queries.day)
    half = rng.uniform(0.8, 1.2, n) * gap / 2
    hidden = np.abs(queries.view_day - queries.day[:, None]) <= half[:, None]
    hidden |= (rng.random(n) < NONE_SHARE)[:, None]
    no_sar = rng.random(n) < NONE_SHARE
    return Queries(
        queries.day,
        np.where(no_sar, prior.at(queries.day), queries.f),
        queries.has_sar & ~no_sar,
        np.where(hidden, np.nan, queries.view_day),
        queries.view_ndvi,
        np.where(no_sar[:, None], prior.at(np.nan_to_num(queries.view_day)), queries.view_f),
        np.where(no_sar[:, None, None], 0.0, queries.near_sar),
    )


def sd_of_views(clear: ClearSeries) -> float:
    """Sd of one view, from views of a field at most 3 days apart; cleaned rows, robust against dips."""
    is_pair = (np.diff(clear.parcel) == 0) & (np.diff(clear.day) <= 3)
    change = np.abs(np.diff(clear.ndvi)[is_pair])
    if len(change) == 0:
        return VIEW_SD_RANGE[1]
    # 1.4826: sd of a normal from its median absolute deviation; sqrt 2: two views differ.
    return float(np.clip(1.4826 * np.median(change) / np.sqrt(2), *VIEW_SD_RANGE))
