"""Lightweight temporal attention in streaming form: the embeddings of a parcel's dates to one vector.

    h_t = W LayerNorm(e_t) + code(day_t)      [LayerNorm of h_t: optional]
    l_t = q . (K h_t) / sqrt(8)               x_t = the 16 slices of 16 channels of h_t
    o   = LayerNorm(MLP(sum_t softmax(l)_t x_t))

Source: Garnot and Landrieu 2020; sizes of Garnot, Landrieu and Chehata 2022. Left out on purpose: their LayerNorm over
        (256, T), which couples dates and pins T. Here every normalisation acts on one date, so that the sum streams.
Shapes: embeddings (N, 128), day (N,), logits (N, 16), values (N, 16, 16), output (P, 128).
Units:  day in days since the season's start.
Errors: StateModelError from models.streaming.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import streaming
from models.pse import RowNorm
from models.streaming import State


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
    date_norm: bool = False
    """A LayerNorm over the 256 channels of each date, in the place of the published one over (256, T)."""
    dropout: float = 0.2
    attention_dropout: float = 0.1

    @property
    def value(self) -> int:
        """Value channels of one head."""
        return self.width // self.heads


def positional_code(day: Tensor, channels: int, period: float) -> Tensor:
    """The code of days (N,) as (N, channels): day / period^(2 floor(i / 2) / channels), even i sine, odd i cosine."""
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


class StreamingLtae(nn.Module):
    """The encoder of one modality's dates; `attend` on what is new, `summarise` on the state."""

    def __init__(self, config: LtaeConfig) -> None:
        super().__init__()
        self.config = config
        self.norm_in = nn.LayerNorm(config.inputs)
        self.project = nn.Linear(config.inputs, config.width)
        self.norm_date = nn.LayerNorm(config.width) if config.date_norm else nn.Identity()
        self.attention = Attention(config.width, config.heads, config.key)
        self.mlp = AttentionMlp(config.width, config.outputs, config.dropout)

    def attend(self, embeddings: Tensor, day: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, H) and values (N, H, D) of N observations, each by itself."""
        c = self.config
        code = positional_code(day, c.value, c.period).repeat(1, c.heads)  # (N, D) to (N, H * D)
        dates = self.norm_date(self.project(self.norm_in(embeddings))) + code
        values = dates.view(-1, c.heads, c.value)
        if self.training and c.attention_dropout > 0:
            # Dropping a date's value in a head is dropping its attention weight there: no other code is needed.
            values = values * functional.dropout(values.new_ones(*values.shape[:2], 1), c.attention_dropout)
        return self.attention(dates), values

    def initial_state(self, parcels: int, *, model: str = "", device: torch.device | str = "cpu") -> State:
        """The state of parcels that nothing was observed of."""
        return streaming.init(parcels, self.config.heads, self.config.value, model=model, device=device)

    def summarise(self, state: State, *, model: str = "") -> Tensor:
        """The output (P, 128) of what the state has seen; meaningless where it has seen nothing."""
        return self.mlp(streaming.finish(state, model=model))  # type: ignore[no-any-return]


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
