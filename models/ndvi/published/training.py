"""Training of a network from SAR to NDVI on clear views, and the scores of what it learned.

    loss = mean over the clear views (t, y) inside a window of l(f(t), y),   f linear between the window's outputs
    l    = squared error (the paper), Huber, or Gaussian log likelihood

Windows end on random days of the season, so that one network serves every current day; what lies before the first
acquisition is masked. Only days with a clear view enter the loss. Huber's bound keeps the 1 % of views that hold
residual cloud from pulling f down.
Source: Zhao et al. 2020 (RMSprop 1e-3, batch 500, squared error); Huber 1964. Eq. 15 of the paper is no RMSE: the
        scores here are true ones, R2 about the mean of the observed values.
Shapes: windows (B, T, 2); clear views padded (P, M).
Units:  days since the season's start; NDVI dimensionless.
Errors: TrainingDataError where nothing can be learned (no SAR, no clear view).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.ndvi.inputs import Bools, ClearSeries, DailySar, Floats, Ints, OrbitScale, SarSeries, TrainingDataError
from models.ndvi.published.networks import Network, build_network
from models.ndvi.published.reconstruction import NdviTrainingConfig, SarToNdvi, network_inputs, window_position

HUBER_DELTA = 0.15
"""NDVI beyond which an error counts linearly: twice the error of a good fit, below the depth of a cloud dip."""
MIN_WINDOW_DAYS = 30
"""Shortest stretch of SAR that a training window ends on (chosen because an answer from less is hardly asked for)."""
MIN_VIEWS_OF_DAY = 20
"""Clear views a day needs for an R2 of its own (chosen because below it a few fields decide)."""


@dataclass(frozen=True)
class NdviScores:
    """How well NDVI is reconstructed from SAR alone on parcels that training did not see."""

    r2: float
    rmse: float
    n: int
    """Clear views scored."""
    r2_by_day: dict[int, float]
    """R2 over the parcels of each day with at least 20 clear views."""


# More than six: the two series and their split are the data, and each is an array of its own.
def train_ndvi(
    sar: SarSeries,
    clear: ClearSeries,
    n_parcels: int,
    is_validation: Bools,
    config: NdviTrainingConfig | None = None,
    on_update: Callable[[int, float], None] | None = None,
    device: str = "cpu",
) -> tuple[SarToNdvi, NdviScores | None]:
    """Return a network trained on the parcels that are not validation, and its scores on those that are.

    Args:
        sar: backscatter of all parcels of one season; rows that cannot be are dropped.
        clear: clear NDVI of the same parcels.
        n_parcels: P; every parcel index is below it.
        is_validation: (P,) parcels kept out of training, best by spatial blocks.
        config: defaults to `NdviTrainingConfig()`.
        on_update: called with (updates done, mean loss of the last) after each update.
        device: of the network during training and after it.

    Returns:
        The model, and None for the scores where no validation parcel has a clear view within reach of SAR.

    Raises:
        TrainingDataError: no training parcel has both SAR and a clear view.
    """
    config = config or NdviTrainingConfig()
    sar, clear = sar.cleaned(), clear.cleaned()
    training_sar = sar.rows(~is_validation[sar.parcel])
    has_both = np.zeros(n_parcels, dtype=bool)
    has_both[np.intersect1d(training_sar.parcel, clear.parcel)] = True
    if not has_both.any():
        raise TrainingDataError("no training parcel has both SAR and a clear NDVI: import observations of both sensors")
    scale = OrbitScale.fit(training_sar)
    daily = DailySar.build(sar, scale, n_parcels)
    torch.manual_seed(config.seed)
    network = build_network(config.network).to(device)
    _fit(network, config, daily, clear.padded(n_parcels), np.flatnonzero(has_both), on_update)
    model = SarToNdvi(network.eval(), config, scale)
    return model, score_reconstruction(model, daily, clear, is_validation)


def _fit(
    network: Network,
    config: NdviTrainingConfig,
    daily: DailySar,
    clear: tuple[Floats, Floats],
    parcels: Ints,
    on_update: Callable[[int, float], None] | None,
) -> None:
    rng = np.random.default_rng(config.seed)
    kind = torch.optim.RMSprop if config.optimiser == "rmsprop" else torch.optim.Adam
    optimiser = kind(network.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, config.learning_rate, total_steps=config.n_updates + 1, pct_start=0.15
    )
    with torch.no_grad():
        network.head.bias[:: config.network.n_outputs] = float(
            np.nanmean(clear[1][parcels])
        )  # start from the mean NDVI, not from zero
    network.train()
    first_end = min(daily.first_day + MIN_WINDOW_DAYS, daily.last_day)
    for update in range(config.n_updates):
        parcel = rng.choice(parcels, config.batch_size)
        end = rng.integers(first_end, daily.last_day + 1, config.batch_size)
        loss = _window_loss(network, config, daily, clear, parcel, end, rng)
        if loss is None:
            continue
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)  # chosen because recurrent gradients can burst
        optimiser.step()
        if config.has_schedule:
            schedule.step()
        if on_update is not None:
            on_update(update + 1, float(loss.detach()))


# More than six: called once, from the loop above, with what that loop holds.
def _window_loss(
    network: Network,
    config: NdviTrainingConfig,
    daily: DailySar,
    clear: tuple[Floats, Floats],
    parcel: Ints,
    end: Ints,
    rng: np.random.Generator,
) -> Tensor | None:
    """Mean loss at the clear views inside the windows; None where there is no such view."""
    device = network.head.bias.device
    n = config.network.n_segments
    days, ndvi = clear[0][parcel], clear[1][parcel]
    position = window_position(config, days, end[:, None])
    row, column = np.nonzero((position >= 0) & (position <= n - 1))  # NaN padding compares false
    if len(row) == 0:
        return None
    at = position[row, column]
    teacher = None
    if config.teacher_forcing > 0:
        known = np.full((len(parcel), n), np.nan)
        known[row, np.rint(at).astype(np.int64)] = ndvi[row, column]
        known[rng.random(len(parcel)) >= config.teacher_forcing] = np.nan
        teacher = torch.as_tensor(known, dtype=torch.float32, device=device)
    y = network(*network_inputs(config, daily, parcel, end, device), teacher)
    y = y if config.network.has_sd else y[..., None]  # (B, N, 1 or 2)
    left = np.minimum(at.astype(np.int64), n - 2)
    share = torch.as_tensor(at - left, dtype=torch.float32, device=device)[:, None]
    f = (1 - share) * y[row, left] + share * y[row, left + 1]  # (V, 1 or 2) at the exact days of the V views
    target = torch.as_tensor(ndvi[row, column], dtype=torch.float32, device=device)
    if config.loss == "squared":
        return functional.mse_loss(f[:, 0], target)
    if config.loss == "huber":
        return functional.huber_loss(f[:, 0], target, delta=HUBER_DELTA)
    return functional.gaussian_nll_loss(f[:, 0], target, (2 * f[:, 1]).exp(), eps=1e-4)


def score_reconstruction(model: SarToNdvi, daily: DailySar, clear: ClearSeries, is_scored: Bools) -> NdviScores | None:
    """Return scores of the retrospective reconstruction from SAR alone at the clear views of the chosen parcels."""
    parcels = np.flatnonzero(is_scored)
    view = clear.rows(is_scored[clear.parcel])
    if len(view.day) == 0:
        return None
    day = np.floor(view.day).astype(np.int64)
    days = np.arange(day.min(), day.max() + 1)
    f = model.retrospective(daily, parcels, days)
    row = np.searchsorted(parcels, view.parcel)
    keep = np.isfinite(f[row, day - days[0]])
    y, f_at, day = view.ndvi[keep], f[row, day - days[0]][keep], day[keep]
    if len(y) == 0:
        return None
    by_day = {int(d): r2(y[day == d], f_at[day == d]) for d in np.unique(day) if (day == d).sum() >= MIN_VIEWS_OF_DAY}
    return NdviScores(r2(y, f_at), float(np.sqrt(np.mean((y - f_at) ** 2))), len(y), by_day)


def r2(observed: Floats, predicted: Floats) -> float:
    """Coefficient of determination about the mean of the observed values; NaN where they do not vary."""
    spread = float(((observed - observed.mean()) ** 2).sum())
    return 1 - float(((observed - predicted) ** 2).sum()) / spread if spread > 0 else float("nan")
