"""Training of the gap filler: clear views hidden in gaps, members that leave out different fields, sd calibrated on these.

Every update samples fields; each of their clear views is asked for with the views around it hidden: in a gap of 3 to 90 days, or all of
them. The loss is a Gaussian likelihood in which an error beyond 3 sd counts linearly, weighted by variance^beta (Seitzer et al.
2022: the plain likelihood neglects what it takes for noise).

What a season to come may have, and the one learned from has not: the season is moved by some days, views and steps are left out, a few
views are lowered as an unseen cloud would, and the retrospective network sees seasons that are not over.
Source: research.bench.gapfill, docs/LOG.md; beta-likelihood, Seitzer et al. 2022.
Shapes: P parcels; members K.
Units:  days; NDVI dimensionless.
Errors: TrainingDataError where there is no parcel with both radar and clear views, or nothing to hold out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from models.ndvi.gap_filler import SCALE_DAYS, GapModel, as_tensor, places
from models.ndvi.inputs import Bools, ClearSeries, Floats, Ints, OrbitScale, SarSeries, TrainingDataError
from models.ndvi.network import GapConfig, GapNetwork
from models.ndvi.queries import GapQueries, Series, StepGrid, Steps, answer_inputs, step_inputs, view_inputs
from models.ndvi.views import MODES, Mode, Prior, sd_of_views

GAPS_DAYS: Final = (3, 10, 20, 30, 60, 90)
"""Gaps hidden around views: those the model is validated on, and a view alone."""
PARTS: Final = 5
"""Parts of the fields, of which each member leaves out one."""
MIN_CALIBRATION: Final = 100
"""Hidden views a distance needs for a scale of its own (5 of them then lie beyond 1.96 sd)."""
MIN_CUT_STEPS: Final = 10
"""Steps of a season at least, where it is cut."""

OnUpdate = Callable[[int, float], None]


@dataclass(frozen=True)
class GapTrainingConfig:
    """How the networks are shaped and trained; the defaults take half a core-minute a member and mode for 400 fields."""

    network: GapConfig = field(default_factory=lambda: GapConfig(is_causal=False))
    """The shape; `is_causal` is set for each mode."""
    n_members: int = PARTS
    """Networks averaged: two had 2 % less error than one, five 3 to 4 % (docs/LOG.md)."""
    n_updates: int = 700
    """Of each member and mode: at 450 the error on unseen fields was 1 % higher, at 2,000 it had risen again by 5 %."""
    batch_size: int = 32
    """Fields an update."""
    learning_rate: float = 8e-3
    weight_decay: float = 3e-2
    beta: float = 0.5
    season_shift_days: float = 4.0
    """Sd of the shift of the season: what another year may be early or late, so that no date is learned by heart."""
    view_dropout: float = 0.15
    step_dropout: float = 0.1
    dip_share: float = 0.02
    """Views lowered by an unseen cloud: twice the share that the Dutch data hold."""
    none_share: float = 0.05
    """Queries for which all views are hidden."""
    cut_share: float = 0.5
    """Fields of an update whose season is not over (retrospective)."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if not 1 <= self.n_members <= PARTS or min(self.n_updates, self.batch_size) < 1:
            raise ValueError(f"gap filling: 1 to {PARTS} members and at least one update of one field, got {self}")

    @property
    def all_updates(self) -> int:
        """Updates of all members and both modes, for a progress bar."""
        return self.n_updates * self.n_members * len(MODES)

    @classmethod
    def chosen(cls, choices: Mapping[str, Any]) -> "GapTrainingConfig":
        """Return the defaults with a file's choices, those of `network` as an object; ValueError names what is unknown."""
        network = dict(choices.get("network", {}))
        unknown = set(choices) - {one.name for one in fields(cls)} | set(network) - {
            one.name for one in fields(GapConfig)
        }
        if unknown:
            raise ValueError(f"gap filling has no {', '.join(sorted(unknown))}")
        if "branch_channels" in network:
            network["branch_channels"] = tuple(network["branch_channels"])
        return cls(**{**choices, "network": replace(GapConfig(is_causal=False), **network)})


@dataclass(frozen=True)
class _Season:
    """What all members learn from."""

    steps: Steps
    grid: StepGrid
    x: Floats
    """(P, T, 6)"""
    near: Floats
    """(P, M, steps, 6) radar around each view, of the retrospective network."""
    views: Series
    """By parcel."""
    prior: Prior
    view_sd: float


@dataclass(frozen=True)
class GapScores:
    """Errors on fields that the answering member left out, views hidden in gaps."""

    rmse: dict[Mode, dict[int, float]]
    """By mode and days of the gap."""
    radar_alone_r2: float
    """Of the retrospective network without any view."""
    n_views: int
    """Clear views, each hidden once in a gap of each length and mode."""
    n_fields: int
    """Fields that they are of."""

    def flat(self) -> dict[str, float]:
        """Return the scores by name, for a registry."""
        return {"radar_alone_r2": self.radar_alone_r2} | {
            f"rmse_{mode}_{gap}": value for mode, by_gap in self.rmse.items() for gap, value in by_gap.items()
        }


def fit_gaps(
    sar: SarSeries,
    clear: ClearSeries,
    group: Ints,
    config: GapTrainingConfig | None = None,
    on_update: OnUpdate | None = None,
    device: str = "cpu",
) -> tuple[GapModel, GapScores]:
    """Return the gap filler of a season, and its scores on fields left out.

    Args:
        sar: backscatter, packed, parcels 0..P-1.
        clear: clear NDVI, packed.
        group: (P,) spatial block of each parcel: fields of one are left out together.
        config: how.
        on_update: called with (update, loss), updates counted over all members and modes.
        device: cpu or cuda.

    Raises:
        TrainingDataError: no parcel has both radar and a clear view.
    """
    config = config or GapTrainingConfig()
    sar, clear = sar.cleaned(), clear.cleaned()
    n_parcels = len(group)
    has_both = _has_both(sar, clear, n_parcels)
    scale = OrbitScale.fit(sar)
    season = _season(sar, clear, scale, n_parcels, config)
    part = _parts(group, has_both, config.seed)
    members: dict[Mode, tuple[GapNetwork, ...]] = {}
    sd_scale: dict[Mode, Floats] = {}
    scores: dict[Mode, dict[int, float]] = {}
    alone = float("nan")
    done, is_answered = 0, np.zeros(n_parcels, dtype=bool)
    for mode in MODES:
        networks, held = [], []
        for k in range(config.n_members):
            is_held = has_both & (part == k)
            learn = has_both & ~is_held if (has_both & ~is_held).any() else has_both
            seed = config.seed * PARTS + k
            shape = replace(config.network, is_causal=mode == "causal")
            networks.append(_fit(shape, config, season, np.flatnonzero(learn), seed, device, on_update, done))
            done += config.n_updates
            one = GapModel(
                {mode: (networks[-1],)}, scale, season.prior, season.view_sd, {mode: np.ones(len(SCALE_DAYS))}
            )
            asked = is_held if is_held.any() else learn
            is_answered |= asked
            held.append(_held_out(one, season, np.flatnonzero(asked), mode))
        members[mode] = tuple(networks)
        error, sd, nearest, gap, target = (np.concatenate(values) for values in zip(*held, strict=True))
        sd_scale[mode] = _calibrated(error, sd, nearest, season.view_sd)
        scores[mode] = {g: float(np.sqrt(np.mean(error[gap == g] ** 2))) for g in GAPS_DAYS}
        if mode == "retrospective":
            alone = _r2(target[gap == 0], error[gap == 0])
    measured = GapScores(scores, alone, int((gap == 0).sum()), int(is_answered.sum()))
    return GapModel(members, scale, season.prior, season.view_sd, sd_scale), measured


def _has_both(sar: SarSeries, clear: ClearSeries, n_parcels: int) -> Bools:
    """Return (P,) which parcels have radar and a clear view; raises TrainingDataError where none has."""
    has_both = np.zeros(n_parcels, dtype=bool)
    has_both[np.intersect1d(sar.parcel, clear.parcel)] = True
    if not has_both.any():
        raise TrainingDataError("no training parcel has both SAR and a clear NDVI: import observations of both sensors")
    return has_both


def _r2(target: Floats, error: Floats) -> float:
    """Return the share of the target's variance that is explained."""
    return 1 - float((error**2).sum() / max(((target - target.mean()) ** 2).sum(), 1e-9))


def _season(
    sar: SarSeries, clear: ClearSeries, scale: OrbitScale, n_parcels: int, config: GapTrainingConfig
) -> _Season:
    steps = Steps.build(sar, scale, n_parcels)
    parcels = np.arange(n_parcels)
    last = max(steps.last_day, int(clear.day.max()))
    grid = StepGrid.over(steps.first_days, np.full(n_parcels, last))
    x = steps.ending_on(parcels, grid.ends[:, -1], grid.n)
    day, ndvi = clear.padded(n_parcels)
    views = Series(parcels, np.floor(day), ndvi)
    row, column = np.nonzero(np.isfinite(views.day))
    shape = replace(config.network, is_causal=False)
    around = steps.near(row, views.day[row, column].astype(np.int64), shape)
    near = np.zeros((*views.day.shape, *around.shape[1:]), np.float32)
    near[row, column] = around
    return _Season(steps, grid, x, near, views, Prior.fit(clear), sd_of_views(clear))


def _parts(group: Ints, has_both: Bools, seed: int) -> Ints:
    """Return (P,) part 0..4 of each parcel: groups placed one by one, the largest first, where there are fewest fields."""
    names, inverse, counts = np.unique(group, return_inverse=True, return_counts=True)
    sizes = np.bincount(inverse.reshape(-1), weights=has_both, minlength=len(names))
    jitter = np.random.default_rng(seed).random(len(names))  # equal groups in any order
    filled, part_of = np.zeros(PARTS), np.zeros(len(names), np.int64)
    for one in np.lexsort((jitter, -sizes)):
        part_of[one] = int(filled.argmin())
        filled[part_of[one]] += sizes[one] + 1e-3 * counts[one]
    return np.asarray(part_of[inverse.reshape(-1)])


# More than six: one call fits one member; its shape, data, seed and place in the progress differ from call to call.
def _fit(
    shape: GapConfig,
    config: GapTrainingConfig,
    season: _Season,
    parcels: Ints,
    seed: int,
    device: str,
    on_update: OnUpdate | None,
    done: int,
) -> GapNetwork:
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = GapNetwork(shape).to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=config.n_updates + 1, pct_start=0.15
    )
    network.train()
    for update in range(config.n_updates):
        loss = _loss(network, config, season, rng.choice(parcels, config.batch_size), rng)
        if loss is None:
            continue
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)  # chosen because recurrent gradients can burst
        optimiser.step()
        schedule.step()
        if on_update is not None:
            on_update(done + update + 1, float(loss.detach()))
    return network.eval()


def _loss(
    network: GapNetwork, config: GapTrainingConfig, season: _Season, parcel: Ints, rng: np.random.Generator
) -> torch.Tensor | None:
    """Return the loss of views of some parcels, hidden in gaps, in a season as another year might have it; None without views."""
    # The order of the draws below is part of a seed's meaning: another order trains another model.
    shape, device = network.config, next(network.parameters()).device
    grid = StepGrid(season.grid.first[parcel], season.grid.n)
    shift = float(rng.normal(0, config.season_shift_days))
    everyone = np.arange(len(parcel))
    end = grid.ends[:, -1] if shape.is_causal else _cut(grid, config, rng)
    views = season.views.rows(parcel)
    row, column = np.nonzero(views.day <= end[:, None])  # NaN compares false
    if len(row) == 0:
        return None
    given = _spoiled(views, end, config, rng)
    near = season.near[parcel[row], column][:, : shape.n_near_steps]
    row, column, near = (np.concatenate([one, one]) for one in (row, column, near))  # each view in two gaps
    day = views.day[row, column].astype(np.int64)
    if not shape.is_causal:
        ends = day[:, None] + 6 * np.arange(1 - shape.steps_back, shape.steps_ahead + 1)
        near = np.where((ends <= end[row, None])[..., None], near, 0.0)
    half = _half_gaps(len(day), config, rng)
    order = np.argsort(row, kind="stable")
    queries = GapQueries.at(given, row[order], day[order], half[order])
    answers = answer_inputs(given, queries, near[order], season.prior, shape, shift)
    keep = rng.random((len(parcel), grid.n, 2)) >= config.step_dropout
    keep &= (grid.ends <= end[:, None])[..., None]
    x = season.x[parcel] * np.concatenate([keep, keep, keep], axis=2)
    encoded = network.encode(step_inputs(x, grid, shape, shift).to(device), _long(grid.begun(end), device))
    between = network.decode(
        encoded,
        view_inputs(given, season.prior, shape, shift).to(device),
        _long(given.n_views, device),
        _long(grid.complete(everyone[:, None], given.day), device),
        _long(everyone, device),
    )
    at = places(queries, grid, everyone, given.day.shape[1], device)
    m, s = network(encoded, between, as_tensor(answers.features, device), *at)
    base, free, target = (
        as_tensor(one, device) for one in (answers.base, answers.free, views.ndvi[row[order], column[order]])
    )
    return _likelihood(base + free * m - target, season.view_sd**2 + (free * s.exp()) ** 2, config.beta)


def _cut(grid: StepGrid, config: GapTrainingConfig, rng: np.random.Generator) -> Ints:
    """Return (P,) the last day given: the season's, or an earlier one where it is cut, as it is while it goes on."""
    end, n_parcels = grid.ends[:, -1], len(grid.first)
    if grid.n <= MIN_CUT_STEPS:
        return end
    cut = grid.ends[np.arange(n_parcels), rng.integers(MIN_CUT_STEPS, grid.n, n_parcels)]
    return np.where(rng.random(n_parcels) < config.cut_share, cut, end)


def _half_gaps(n: int, config: GapTrainingConfig, rng: np.random.Generator) -> Floats:
    """Return (N,) days around each view in which all views are hidden; a part of the views has no other at all."""
    half = rng.choice(np.array(GAPS_DAYS), n) * rng.uniform(0.4, 0.6, n)
    return np.where(rng.random(n) < config.none_share, 1e4, half)


def _likelihood(error: torch.Tensor, variance: torch.Tensor, beta: float) -> torch.Tensor:
    """Return the mean negative log likelihood of errors, weighted by their variance to the power beta."""
    z = error / variance.sqrt()
    # Beyond 3 sd an error counts linearly: a dip missed by the screening must not widen every gap.
    likelihood = torch.where(z.abs() < 3, z**2, 6 * z.abs() - 9) + variance.log()
    weight = (variance.detach() / 0.1**2) ** beta  # 0.1: an error's order
    return torch.mean(likelihood * weight)


def _spoiled(views: Series, end: Ints, config: GapTrainingConfig, rng: np.random.Generator) -> Series:
    """Return the views that are given: none after the end, some left out, a few lowered as by an unseen cloud."""
    rate = 2 * config.view_dropout * rng.random((len(end), 1))  # some fields have far fewer views than others
    given = (views.day <= end[:, None]) & (rng.random(views.day.shape) >= rate)
    day = np.where(given, views.day, np.nan)
    order = np.argsort(np.where(given, day, np.inf), axis=1, kind="stable")
    is_dip = rng.random(views.day.shape) < config.dip_share
    ndvi = np.where(is_dip, views.ndvi - rng.uniform(0.1, 0.5, views.day.shape) * (views.ndvi + 0.1), views.ndvi)
    return Series(np.arange(len(end)), np.take_along_axis(day, order, axis=1), np.take_along_axis(ndvi, order, axis=1))


def _held_out(model: GapModel, season: _Season, parcels: Ints, mode: Mode) -> tuple[Floats, ...]:
    """Error, sd, distance to the nearest view, gap and target of views of parcels that a member left out; gap 0: no view at all."""
    views = season.views.rows(parcels)
    row, column = np.nonzero(np.isfinite(views.day))
    day, target = views.day[row, column].astype(np.int64), views.ndvi[row, column]
    parts = []
    for gap in (*GAPS_DAYS, 0):
        queries = GapQueries.at(views, row, day, gap / 2 if gap else 1e4)
        filled = model.fill(season.steps, views, queries, mode)
        parts.append((filled.ndvi - target, filled.sd, filled.nearest, np.full(len(row), gap), target))
    return tuple(np.concatenate(values) for values in zip(*parts, strict=True))


def _calibrated(error: Floats, sd: Floats, nearest: Floats, view_sd: float) -> Floats:
    """Return the scale of sd by distance to the nearest view, so that 1.96 sd hold 95 % of the errors."""
    # The scale that each error would need for 1.96 sd to reach it; the view's own part of sd stays as it is.
    needed = np.sqrt(np.maximum((error / 1.96) ** 2 - view_sd**2, 0.0) / np.maximum(sd**2 - view_sd**2, 1e-9))
    edges = np.r_[-1.0, (np.array(SCALE_DAYS[1:]) + SCALE_DAYS[:-1]) / 2, np.inf]
    scale = np.ones(len(SCALE_DAYS))
    for i in range(len(SCALE_DAYS)):
        inside = (nearest > edges[i]) & (nearest <= edges[i + 1])
        part = needed[inside] if inside.sum() >= MIN_CALIBRATION else needed
        # 0.5: a handful of views must not make the curve twice as sure as the likelihood has it.
        scale[i] = max(float(np.quantile(part, 0.95)), 0.5)
    return scale


def _long(values: Ints, device: torch.device) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.int64, device=device)
