"""NDVI from SAR at any day: a trained network with the scales of its input.

    f_e(t) = linear between the outputs y_n at g_n of the window that ends on day e
    f(t)   = sum_e w_e(t) f_e(t) / sum_e w_e(t),   w_e(t) = distance of t to the nearer end of the window

`windows` sees nothing after its end and is what a causal answer uses; `retrospective` averages the windows that end
up to 90 days after a day. A window without any SAR has no answer.
Source: Zhao et al. 2020; the average over windows is ours, as the paper has one window a season.
Shapes: windows (B, T, 2) to outputs (B, N); daily reconstruction (P, D).
Units:  days since the season's start; NDVI dimensionless.
Errors: ValueError for a configuration that does not fit the network.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from models.ndvi.inputs import Bools, DailySar, Floats, Ints, OrbitScale, SarSeries, season_channels
from models.ndvi.published.inference import McnnInference
from models.ndvi.published.mcnn_seq import McnnSeq, McnnSeqConfig
from models.ndvi.published.networks import Network, NetworkConfig, build_network, network_config, network_name

N_DAY_CHANNELS = 2
"""Sine and cosine of the day of the season; with more harmonics a network knows single dates of its season."""
HOP_STEPS = 5
"""Steps between the windows that a retrospective reconstruction averages: each day lies in about six."""
SMOOTHING_DAYS = 90
"""How far a later acquisition reaches back (chosen because three windows then share a day)."""
INFERENCE_BATCH = 2048
"""Windows at once (chosen because more is no faster on a CPU and takes memory)."""
FOLDING_PAYS = 32
"""Windows from which on folding the network first saves more time than it costs: 3.6 ms of a core, against 0.3 ms a window."""


@dataclass(frozen=True)
class NdviTrainingConfig:
    """How the network is shaped and trained; the defaults fit one core-minute, `PAPER` is the published procedure."""

    network: NetworkConfig = field(default_factory=lambda: McnnSeqConfig(n_extra=N_DAY_CHANNELS, is_aligned=True))
    """`n_extra` 2 gives the encoder the day of season, `is_aligned` the decoder its own step (extensions: R2 of SAR alone
    0.72 to 0.75 and 0.80 to 0.83 in trials of equal training)."""
    step_days: int = 6
    """Days between steps: 31 steps are 186 days, a crop's season, at the repeat of two satellites."""
    n_updates: int = 600
    batch_size: int = 48
    learning_rate: float = 6e-3
    optimiser: Literal["rmsprop", "adam"] = "adam"
    has_schedule: bool = True
    """Whether the rate rises and falls once over the run (Smith and Topin 2019)."""
    loss: Literal["squared", "huber", "likelihood"] = "huber"
    teacher_forcing: float = 0.0
    """Share of windows whose decoder is fed with the observed NDVI where there is some."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what the network cannot be trained with."""
        if self.network.n_extra % 2:
            raise ValueError("NDVI training gives a network sines and cosines of the day of season: an even n_extra")
        if self.network.has_sd != (self.loss == "likelihood"):
            raise ValueError("a network with has_sd is trained by likelihood, and only it")
        if self.teacher_forcing > 0 and not isinstance(self.network, McnnSeqConfig):
            raise ValueError(
                "only mcnn-seq can be trained by teacher forcing: the others are not fed with their output"
            )
        if self.network.n_segments < 2:
            raise ValueError("NDVI training needs windows of at least 2 segments")

    @property
    def all_updates(self) -> int:
        """Updates of the whole training, for a progress bar."""
        return self.n_updates

    @property
    def output_days(self) -> int:
        """Days between two outputs of a window."""
        return self.network.stride * self.step_days

    @property
    def window_days(self) -> int:
        """Days from a window's first output to its last."""
        return (self.network.n_segments - 1) * self.output_days

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as JSON values."""
        return asdict(self) | {"model": network_name(self.network), "network": self.network.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "NdviTrainingConfig":
        """Return the configuration that `to_json` wrote; without a `model` it is of mcnn-seq."""
        values = dict(data)
        values["network"] = network_config(values.pop("model", "mcnn-seq"), data["network"])
        return cls(**values)

    @classmethod
    def chosen(cls, model: str = "mcnn-seq", choices: Mapping[str, Any] | None = None) -> "NdviTrainingConfig":
        """Return the defaults for a network by name, with a file's choices: fields of this class, those of `network` as an object.

        Every network gets the day of season unless the choices say otherwise. ValueError names what is unknown.
        """
        values = dict(choices or {})
        unknown = set(values) - {one.name for one in fields(cls)}
        if unknown:
            raise ValueError(f"NDVI training has no {sorted(unknown)}")
        network: dict[str, Any] = {"n_extra": N_DAY_CHANNELS} | ({"is_aligned": True} if model == "mcnn-seq" else {})
        values["network"] = network_config(model, json.dumps(network | dict(values.get("network", {}))))
        return cls(**values)


PAPER = NdviTrainingConfig(
    network=McnnSeqConfig(), batch_size=500, learning_rate=1e-3, optimiser="rmsprop", has_schedule=False, loss="squared"
)
"""The published procedure, but for windows and missing steps, which the paper does not have."""


@dataclass(frozen=True)
class Windows:
    """What the network says of windows, in the order they were asked for."""

    ndvi: Floats
    """(B, N)"""
    log_sd: Floats | None
    """(B, N), where the network was trained by likelihood."""
    is_valid: Bools
    """(B,) whether any SAR was in the window."""


@dataclass(frozen=True)
class SarToNdvi:
    """A trained network with the scales of its input."""

    network: Network
    config: NdviTrainingConfig
    scale: OrbitScale

    def daily(self, sar: SarSeries, n_parcels: int) -> DailySar:
        """Return the network's input for cleaned rows of SAR."""
        return DailySar.build(sar, self.scale, n_parcels)

    def windows(self, daily: DailySar, parcel: Ints, end_day: Ints) -> Windows:
        """Return the reconstruction of windows that end on the given days: nothing after them is seen."""
        device = self.network.head.bias.device
        n_out = self.config.network.n_outputs
        values, valid = [np.zeros((0, self.config.network.n_segments, n_out))], [np.zeros(0, dtype=bool)]
        self.network.eval()
        network: Callable[..., Tensor] = self.network
        if isinstance(self.network, McnnSeq) and len(parcel) >= FOLDING_PAYS:
            network = McnnInference(self.network)
        with torch.inference_mode():
            for start in range(0, len(parcel), INFERENCE_BATCH):
                rows = slice(start, start + INFERENCE_BATCH)
                x, is_present, extra = network_inputs(self.config, daily, parcel[rows], end_day[rows], device)
                y = network(x, is_present, extra)
                values.append(y.reshape(*y.shape[:2], n_out).double().cpu().numpy())
                valid.append(is_present.any(dim=1).cpu().numpy())
        y_all = np.concatenate(values)
        return Windows(y_all[..., 0], y_all[..., 1] if n_out == 2 else None, np.concatenate(valid))

    def retrospective(self, daily: DailySar, parcel: Ints, days: Ints) -> Floats:
        """NDVI (P, D) from the SAR of each day's window and `SMOOTHING_DAYS` after it.

        The windows end on fixed days of the season, or on the parcel's last acquisition where that comes first, so
        that the answer depends on the data alone and an acquisition moves no day more than `SMOOTHING_DAYS` before
        it. NaN where no window holds any SAR.
        """
        cfg = self.config
        n, hop = cfg.network.n_segments, HOP_STEPS * cfg.output_days
        last = daily.last_days()[parcel]
        first_anchor = int(days.min()) // hop * hop
        total, weight = np.zeros((len(parcel), len(days))), np.zeros((len(parcel), len(days)))
        for anchor in range(first_anchor, int(days.max()) + SMOOTHING_DAYS + hop + 1, hop):
            is_new = (anchor - hop < last) | (anchor == first_anchor)  # else the window of the last acquisition again
            rows = np.flatnonzero(is_new)
            end = np.minimum(anchor, last[rows])
            age = end[:, None] - days  # (P', D)
            in_reach = (age <= SMOOTHING_DAYS) & ((age >= 0) | (end == last[rows])[:, None])
            if not in_reach.any():
                continue
            out = self.windows(daily, parcel[rows], end)
            position = window_position(cfg, days, end[:, None])
            # An end of a window sees one side only and counts little, yet counts where no other window reaches.
            to_end = np.clip(np.minimum(position, n - 1 - position) / n, 0, None) + 0.02
            w = np.where(in_reach, to_end, 0.0) * out.is_valid[:, None]
            total[rows] += w * interpolate_steps(out.ndvi, position)
            weight[rows] += w
        return np.where(weight > 0, total / np.maximum(weight, 1e-9), np.nan)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what a checkpoint keeps: JSON values and the network's state dict."""
        return {"training": self.config.to_json(), "scale": self.scale.to_json()}, self.network.state_dict()

    @classmethod
    def from_state(cls, data: Mapping[str, Any], weights: Mapping[str, Tensor]) -> "SarToNdvi":
        """Return the model that `state` described."""
        config = NdviTrainingConfig.from_json(data["training"])
        network = build_network(config.network)
        network.load_state_dict(dict(weights))
        return cls(network.eval(), config, OrbitScale.from_json(data["scale"]))


def window_position(config: NdviTrainingConfig, days: Ints | Floats, end_day: Ints) -> Floats:
    """Return where days lie among a window's outputs: 0 on its first, N - 1 on its last."""
    return np.asarray(config.network.n_segments - 1 - (end_day - days) / config.output_days, dtype=np.float64)


def interpolate_steps(values: Floats, position: Floats) -> Floats:
    """Outputs (B, N) at positions (B, D) among them: linear between two, held beyond the ends."""
    at = np.clip(position, 0, values.shape[1] - 1)
    left = np.minimum(at.astype(np.int64), values.shape[1] - 2)
    share = at - left
    y0, y1 = np.take_along_axis(values, left, axis=1), np.take_along_axis(values, left + 1, axis=1)
    return np.asarray((1 - share) * y0 + share * y1)


def network_inputs(
    config: NdviTrainingConfig, daily: DailySar, parcel: Ints, end_day: Ints, device: torch.device
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Windows as the network takes them: sar (B, T, 2), present (B, T), extra channels (B, N, 2) or None."""
    x, is_present = daily.windows(parcel, end_day, config.network.n_steps, config.step_days)
    extra = None
    if config.network.n_extra:
        back = config.output_days * np.arange(config.network.n_segments - 1.0, -1.0, -1.0)
        extra = torch.as_tensor(
            season_channels(end_day[:, None] - back, config.network.n_extra // 2), dtype=torch.float32, device=device
        )
    sar = torch.as_tensor(x, dtype=torch.float32, device=device)
    return sar, torch.as_tensor(is_present, device=device), extra
