"""Lightweight temporal attention: the embeddings of a parcel's dates to one vector.

    h_t = norm(W LayerNorm(e_t)) + code(day_t)
    l_t = q . (K h_t) / sqrt(8)               x_t = the 16 slices of 16 channels of h_t
    o   = LayerNorm(MLP(sum_t softmax(l)_t x_t))

Source: Garnot and Landrieu 2020; sizes of Garnot, Landrieu and Chehata 2022. Their norm is a LayerNorm over (256, T), which
        couples dates and pins T: "season". "none" and "date" act on one date at a time, so that the sum over dates streams.
Shapes: embeddings (N, 128), day and parcel (N,), logits (N, 16), values (N, 16, 16), output (P, 128).
Units:  day in days since the season's start.
Errors: ConfigError for sizes that do not fit or a season of another length than pinned; StateModelError from streaming.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.classifier import attention_state
from models.classifier.attention_state import State
from models.classifier.pixel_set_encoder import RowNorm
from terminal.errors import UserError

Norm = Literal["none", "date", "season"]


class ConfigError(UserError, ValueError):
    """A network that cannot be made, or is asked for what it cannot do. The caller stops and shows the message."""


@dataclass(frozen=True)
class LtaeConfig:
    """Sizes of the attention; defaults are the published ones."""

    inputs: int = 128
    width: int = 256
    """d_model: heads x value channels."""
    heads: int = 16
    key: int = 8
    outputs: int = 128
    period: float = 1000.0
    """Longest period of the positional code, in days."""
    norm: Norm = "none"
    """A LayerNorm over the 256 channels of a date, or over those of all dates of a parcel (published), or none."""
    dates: int | None = None
    """Number of dates that the affine map of the season's norm is pinned to, as in published weights; None: any."""
    dropout: float = 0.2
    attention_dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ConfigError(f"the width {self.width} is not a multiple of {self.heads} heads")
        if self.norm not in get_args(Norm):
            raise ConfigError(f"the norm of the attention is one of {', '.join(get_args(Norm))}, not {self.norm!r}")
        if self.dates is not None and (self.norm != "season" or self.dates < 1):
            raise ConfigError(f"only the norm over a season pins a number of dates, not {self.norm!r} {self.dates}")

    @property
    def value(self) -> int:
        """Value channels of one head."""
        return self.width // self.heads


def positional_code(day: Tensor, channels: int, period: float) -> Tensor:
    """Return the code of days (N,) as (N, channels): day / period^(2 floor(i / 2) / channels), even i sine, odd i cosine."""
    pair = torch.arange(0, channels, 2, device=day.device, dtype=torch.float64)
    # In float64: day 290 in float32 is already 6e-6 off the published table.
    angle = day[:, None].double() / period ** (pair / channels)  # (N, channels / 2)
    return torch.stack([angle.sin(), angle.cos()], dim=2).flatten(1).to(day.dtype)


class Attention(nn.Module):
    """One learned query a head, and keys: the logits of dates (N, width) as (N, heads)."""

    def __init__(self, width: int, heads: int, key: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(heads, key) * math.sqrt(2.0 / key))  # the published initialisation
        self.keys = nn.Linear(width, heads * key)
        nn.init.normal_(self.keys.weight, std=math.sqrt(2.0 / key))

    def forward(self, dates: Tensor) -> Tensor:
        # The query is constant, so that query and keys are one matrix (heads, width): 8 times fewer products.
        heads, key = self.query.shape
        scale = 1.0 / math.sqrt(key)
        weight = torch.einsum("hk,hkw->hw", self.query, self.keys.weight.view(heads, key, -1))
        bias = (self.query * self.keys.bias.view(heads, key)).sum(1)
        return functional.linear(dates, weight * scale, bias * scale)


class SeasonNorm(nn.Module):
    """The published LayerNorm over the channels of all dates of a parcel, on packed dates: no padding, no batch-mates."""

    def __init__(self, width: int, dates: int | None, eps: float = 1e-5) -> None:
        super().__init__()
        self.dates, self.eps = dates, eps
        shape = (width,) if dates is None else (width, dates)
        self.weight, self.bias = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))

    def forward(self, dates: Tensor, parcel: Tensor) -> Tensor:
        """Dates (N, width) of parcels (N,), normalised; with pinned dates, a parcel's rows are its dates in order.

        Raises:
            ConfigError: a parcel has another number of dates than pinned.
        """
        if len(parcel) == 0:
            return dates
        count = torch.bincount(parcel)
        zeros = dates.new_zeros(len(count))
        # Two passes: the mean of squares less the squared mean loses float32's digits.
        centred = dates - (zeros.index_add(0, parcel, dates.mean(1)) / count.clamp(min=1))[parcel, None]
        variance = zeros.index_add(0, parcel, centred.square().mean(1)) / count.clamp(min=1)
        scaled = centred * torch.rsqrt(variance + self.eps)[parcel, None]
        if self.dates is None:
            return scaled * self.weight + self.bias
        if wrong := sorted(set(count[count > 0].tolist()) - {self.dates}):
            raise ConfigError(f"these weights are pinned to seasons of {self.dates} dates, a parcel has {wrong[0]}")
        rank = torch.empty_like(parcel)  # 0..T-1, the place of each row among its parcel's
        rank[parcel.argsort(stable=True)] = torch.arange(len(parcel), device=parcel.device) % self.dates
        return scaled * self.weight.t()[rank] + self.bias.t()[rank]


class Ltae(nn.Module):
    """The encoder of one sequence of dates; `attend` on what is new, `summarise` on the state."""

    def __init__(self, config: LtaeConfig) -> None:
        super().__init__()
        self.config = config
        self.norm_in = nn.LayerNorm(config.inputs)
        self.project = nn.Linear(config.inputs, config.width)
        self.norm: nn.Module = nn.LayerNorm(config.width) if config.norm == "date" else nn.Identity()
        if config.norm == "season":
            self.norm = SeasonNorm(config.width, config.dates)
        self.attention = Attention(config.width, config.heads, config.key)
        self.mlp = AttentionMlp(config.width, config.outputs, config.dropout)

    def attend(self, embeddings: Tensor, day: Tensor, parcel: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, H) and values (N, H, D) of N observations, each by itself unless the norm is over the season.

        Raises:
            ConfigError: a parcel has another number of dates than the norm is pinned to.
        """
        c = self.config
        dates = self.project(self.norm_in(embeddings))
        dates = self.norm(dates, parcel) if c.norm == "season" else self.norm(dates)
        dates = dates + positional_code(day, c.value, c.period).repeat(1, c.heads)  # (N, D) to (N, H * D)
        values = dates.view(-1, c.heads, c.value)
        if self.training and c.attention_dropout > 0:
            # Dropping a date's value in a head is dropping its attention weight there: no other code is needed.
            values = values * functional.dropout(values.new_ones(*values.shape[:2], 1), c.attention_dropout)
        return self.attention(dates), values

    def initial_state(self, parcels: int, *, model: str = "", device: torch.device | str = "cpu") -> State:
        """Return the state of parcels that nothing was observed of."""
        return attention_state.init(parcels, self.config.heads, self.config.value, model=model, device=device)

    def summarise(self, state: State, *, model: str = "") -> Tensor:
        """Return the output (P, 128) of what the state has seen; meaningless where it has seen nothing."""
        return self.mlp(attention_state.finish(state, model=model))  # type: ignore[no-any-return]


class AttentionMlp(nn.Module):
    """What follows the attention, on (P, 256): linear, batch norm, ReLU, dropout, LayerNorm."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.lin = nn.Linear(inputs, outputs)
        self.bn = RowNorm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.norm_out = nn.LayerNorm(outputs)

    def forward(self, attended: Tensor) -> Tensor:
        return self.norm_out(self.dropout(functional.relu(self.bn(self.lin(attended)))))  # type: ignore[no-any-return]
