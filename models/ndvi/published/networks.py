"""The networks from SAR to NDVI by name: the paper's, and the two it was compared with.

    rnn    h_n^1 = cell([segment n], h_(n-1)^1),  h_n^2 = cell(h_n^1, h_(n-1)^2),   y_n = w . h_n^2 + b
    cnn    y = W flatten(pool(relu(conv16(relu(conv32(series)))))) + b

All take and give what `McnnSeq.forward` does. Neither competitor is fed with its output, so neither can have a teacher. The paper
prints the sizes (two hidden layers of 100; 32 and 16 filters, one pooling, one dense layer); known to us are neither the cell nor the
width of the filters. The cell is the stronger reading, an LSTM, or a plain one (`cell` "tanh"); the filters are 3 wide.
Parameters at N = 31, L = 1: mcnn-seq 195,093, rnn 121,701 (plain 30,501), cnn 9,247.
Source: Zhao et al. 2020, comparison; Elman 1990 (plain cell).
Shapes: sar (B, T, 2); NDVI (B, N), or (B, N, 2) with its log standard deviation.
Units:  backscatter in dB, standardised per relative orbit by the caller; NDVI dimensionless.
Missing: the recurrent network keeps its state over a segment without SAR; the convolutional one reads the orbit's mean, 0.
Errors: ValueError for an impossible configuration, a series of another length, a teacher.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.ndvi.published.mcnn_seq import N_POLARISATIONS, Lstm, McnnSeq, McnnSeqConfig, WindowConfig


@dataclass(frozen=True)
class RnnConfig(WindowConfig):
    """The shape of the recurrent competitor."""

    hidden: int = 100
    n_layers: int = 2
    cell: Literal["lstm", "tanh"] = "lstm"

    def __post_init__(self) -> None:
        """Refuse a shape that no series fits."""
        super().__post_init__()
        if min(self.hidden, self.n_layers) < 1 or self.cell not in ("lstm", "tanh"):
            raise ValueError(f"RNN: sizes must be positive and the cell lstm or tanh, got {self}")


@dataclass(frozen=True)
class CnnConfig(WindowConfig):
    """The shape of the convolutional competitor."""

    filters: tuple[int, int] = (32, 16)
    kernel_size: int = 3
    """Odd, so that a filter reaches as far back as ahead."""

    def __post_init__(self) -> None:
        """Refuse a shape that no series fits."""
        super().__post_init__()
        if min(*self.filters) < 1 or self.kernel_size % 2 == 0 or self.n_steps < 2:
            raise ValueError(
                f"CNN: sizes must be positive, filters of odd width and windows of 2 steps or more, got {self}"
            )


class Plain(nn.Module):
    """A plain recurrent layer, stepped by its caller as an `Lstm` is; its cell stays as it is."""

    def __init__(self, n_in: int, hidden: int) -> None:
        super().__init__()
        self.input = nn.Linear(n_in, hidden)
        self.recurrent = nn.Linear(hidden, hidden, bias=False)
        nn.init.orthogonal_(self.recurrent.weight)

    def step(self, gates: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the state after one step, from the step's input (B, H) and the state before."""
        h, c = state
        return torch.tanh(gates + self.recurrent(h)), c


class Rnn(nn.Module):
    """Recurrent layers over the segments and a linear output at each."""

    def __init__(self, config: RnnConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or RnnConfig()
        kind = Lstm if config.cell == "lstm" else Plain
        n_in = N_POLARISATIONS * config.segment_length + config.n_extra
        self.layers = nn.ModuleList(kind(config.hidden if k else n_in, config.hidden) for k in range(config.n_layers))
        self.head = nn.Linear(config.hidden, config.n_outputs)

    def forward(
        self, sar: Tensor, is_present: Tensor | None = None, extra: Tensor | None = None, teacher: Tensor | None = None
    ) -> Tensor:
        """As `McnnSeq.forward`, without a teacher."""
        _refuse_teacher(teacher)
        self.config.check(sar, extra)
        sar, mask = self.config.masked(sar, is_present)
        x = self.config.segments(sar).flatten(2)  # (B, N, 2 L)
        x = x if extra is None else torch.cat([x, extra], dim=2)
        for layer in self.layers:
            assert isinstance(layer, Lstm | Plain)
            x = self._states(layer, x, mask)
        y: Tensor = self.head(x)
        return y if self.config.has_sd else y[..., 0]

    def _states(self, layer: Lstm | Plain, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the layer's states (B, N, H) over inputs (B, N, F)."""
        gates = layer.input(x)
        h = c = x.new_zeros(len(x), self.config.hidden)
        states = []
        for n in range(self.config.n_segments):
            new_h, new_c = layer.step(gates[:, n], (h, c))
            if mask is not None:
                new_h = torch.where(mask[:, n, None], new_h, h)
                new_c = torch.where(mask[:, n, None], new_c, c)
            h, c = new_h, new_c
            states.append(h)
        return torch.stack(states, dim=1)


class Cnn(nn.Module):
    """Two convolutions over the series, a pooling, and a dense layer that gives all values at once."""

    def __init__(self, config: CnnConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CnnConfig()
        first, second = config.filters
        self.conv1 = nn.Conv1d(N_POLARISATIONS, first, config.kernel_size, padding="same")
        self.conv2 = nn.Conv1d(first, second, config.kernel_size, padding="same")
        n_features = second * (config.n_steps // 2) + config.n_segments * config.n_extra
        self.head = nn.Linear(n_features, config.n_segments * config.n_outputs)

    def forward(
        self, sar: Tensor, is_present: Tensor | None = None, extra: Tensor | None = None, teacher: Tensor | None = None
    ) -> Tensor:
        """As `McnnSeq.forward`, without a teacher; extra channels go to the dense layer."""
        _refuse_teacher(teacher)
        self.config.check(sar, extra)
        sar, _ = self.config.masked(sar, is_present)
        x = torch.relu(self.conv1(sar.transpose(1, 2)))
        x = functional.max_pool1d(torch.relu(self.conv2(x)), 2).flatten(1)
        x = x if extra is None else torch.cat([x, extra.flatten(1)], dim=1)
        y: Tensor = self.head(x).view(len(sar), self.config.n_segments, self.config.n_outputs)
        return y if self.config.has_sd else y[..., 0]


def _refuse_teacher(teacher: Tensor | None) -> None:
    if teacher is not None:
        raise ValueError("only mcnn-seq is fed with its output: rnn and cnn take no teacher")


NetworkConfig = McnnSeqConfig | RnnConfig | CnnConfig
Network = McnnSeq | Rnn | Cnn

NETWORKS: Mapping[str, type[NetworkConfig]] = {"mcnn-seq": McnnSeqConfig, "rnn": RnnConfig, "cnn": CnnConfig}
"""The configuration of each network by the name it is chosen by."""


def build_network(config: NetworkConfig) -> Network:
    """Return a new network of a configuration."""
    if isinstance(config, RnnConfig):
        return Rnn(config)
    return Cnn(config) if isinstance(config, CnnConfig) else McnnSeq(config)


def network_name(config: NetworkConfig) -> str:
    """Return the name a configuration is chosen by."""
    return next(name for name, kind in NETWORKS.items() if type(config) is kind)


def network_config(name: str, text: str = "{}") -> NetworkConfig:
    """Return the configuration of a network by name and JSON; ValueError names what is unknown."""
    if name not in NETWORKS:
        raise ValueError(f"no network is called {name!r}: choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name].from_json(text)
