"""MCNN-Seq: a sequence of SAR backscatter in, the sequence of NDVI it implies out.

    x_n^p   = flatten(pool(relu(conv62(relu(conv31(segment n of polarisation p))))))    p in VV, VH
    h_n     = LSTM([x_n^VV, x_n^VH], h_(n-1))                                            encoder
    a_nm    = softmax_m(v . tanh(W s_(n-1) + U h_m)),   c_n = sum_m a_nm h_m             additive attention
    s_n     = LSTM([y_(n-1), c_n], s_(n-1)),   y_n = w . s_n + b                         decoder

Source: Zhao et al. 2020 (MCNN-Seq); attention as in Bahdanau et al. 2015. One bias per LSTM gate and none in
the attention are what gives the paper's 195,093 parameters (N = 31, L = 1).
Shapes: sar (B, T, 2), T = (N - 1) stride + L; NDVI (B, N); B windows, N segments of L steps.
Units:  backscatter in dB, standardised per relative orbit by the caller; NDVI dimensionless.
Missing: a segment without SAR is masked, not filled: it leaves the encoder's state as it was and gets no
         attention; where a whole window is missing the context is zero and the answer means nothing.
Errors: ValueError for an impossible configuration or a series whose length is not T.
"""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

N_POLARISATIONS = 2
"""VV and VH, a branch each (Zhao et al. 2020, Fig. 3)."""


C = TypeVar("C", bound="WindowConfig")


@dataclass(frozen=True)
class WindowConfig:
    """The windows of a network from SAR to NDVI: N segments of L steps in, N values out; the defaults are the paper's."""

    n_segments: int = 31
    """N: segments in a window, and NDVI values out."""
    segment_length: int = 1
    """L: steps of a segment."""
    stride: int = 1
    """Steps between the starts of two segments."""
    n_extra: int = 0
    """Extra channels of a segment (extension: day of season, observed NDVI); 0 in the paper."""
    has_sd: bool = False
    """Whether a second output gives the log standard deviation, for training by likelihood (extension)."""

    def __post_init__(self) -> None:
        """Refuse a shape that no series fits."""
        if min(self.n_segments, self.segment_length, self.stride) < 1 or self.n_extra < 0:
            raise ValueError(f"windows of SAR: sizes must be positive, got {self}")

    @property
    def n_steps(self) -> int:
        """T: steps of the input series."""
        return (self.n_segments - 1) * self.stride + self.segment_length

    @property
    def n_outputs(self) -> int:
        """Values of an output: NDVI, and its log standard deviation where there is one."""
        return 2 if self.has_sd else 1

    def check(self, sar: Tensor, extra: Tensor | None) -> None:
        """ValueError where inputs do not have these shapes."""
        if sar.ndim != 3 or sar.shape[1:] != (self.n_steps, N_POLARISATIONS):
            raise ValueError(f"windows of SAR: sar must be (B, {self.n_steps}, 2), got {tuple(sar.shape)}")
        if (0 if extra is None else extra.shape[-1]) != self.n_extra:
            raise ValueError(f"windows of SAR: this network takes {self.n_extra} extra channels")

    def masked(self, sar: Tensor, is_present: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the series with zeros where nothing is present, and the segments present (B, N), None for all."""
        if is_present is None or bool(is_present.all()):
            return sar, None
        steps = is_present.unfold(1, self.segment_length, self.stride)  # (B, N, L)
        return torch.where(is_present[..., None], sar, 0.0), steps.any(dim=2)

    def segments(self, sar: Tensor) -> Tensor:
        """Return the segments (B, N, 2, L) of series (B, T, 2)."""
        return sar.unfold(1, self.segment_length, self.stride)

    def to_json(self) -> str:
        """Return the configuration as a JSON object."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls: type[C], text: str) -> C:
        """Return the configuration that `to_json` wrote; ValueError names a key it does not know."""
        data: dict[str, Any] = json.loads(text)
        unknown = set(data) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"{cls.__name__} has no {sorted(unknown)}")
        values: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in data.items()}
        return cls(**values)


@dataclass(frozen=True)
class McnnSeqConfig(WindowConfig):
    """The shape of an MCNN-Seq; the defaults are the paper's configuration."""

    kernel_size: int = 1
    """Width of both convolutions, at most L."""
    branch_channels: tuple[int, int] = (31, 62)
    """Filters of the two convolutions of a branch."""
    hidden: int = 100
    """Units of encoder, decoder and attention."""
    is_aligned: bool = False
    """Whether the decoder also gets the encoder's state of its own step (extension: learns in half the updates)."""

    def __post_init__(self) -> None:
        """Refuse a shape that no series fits."""
        super().__post_init__()
        if min(self.kernel_size, self.hidden, *self.branch_channels) < 1:
            raise ValueError(f"MCNN-Seq: sizes must be positive, got {self}")
        if self.kernel_size > self.segment_length:
            raise ValueError(f"MCNN-Seq: kernel_size {self.kernel_size} exceeds segment_length {self.segment_length}")


class Branch(nn.Module):
    """The convolutions of one polarisation: segments (B, N, L) to features (B, N, n_features)."""

    def __init__(self, config: McnnSeqConfig) -> None:
        super().__init__()
        first, second = config.branch_channels
        self.conv1 = nn.Conv1d(1, first, config.kernel_size)
        self.conv2 = nn.Conv1d(first, second, config.kernel_size)
        self.padding = ((config.kernel_size - 1) // 2, config.kernel_size // 2)  # the second keeps the length
        steps = config.segment_length - config.kernel_size + 1
        self.is_pooled = steps > 1  # the paper pools only where L > 1
        self.n_features = second * (steps // 2 if self.is_pooled else 1)

    def forward(self, segments: Tensor) -> Tensor:
        """Features of each segment, each on its own."""
        b, n, length = segments.shape
        x = torch.relu(self.conv1(segments.reshape(b * n, 1, length)))
        x = torch.relu(self.conv2(functional.pad(x, self.padding)))
        if self.is_pooled:
            x = functional.max_pool1d(x, 2)  # (B N, 62, L')
        features: Tensor = x.reshape(b, n, self.n_features)
        return features


class Lstm(nn.Module):
    """One LSTM layer with one bias per gate, stepped by its caller."""

    def __init__(self, n_in: int, hidden: int) -> None:
        super().__init__()
        self.input = nn.Linear(n_in, 4 * hidden)
        self.recurrent = nn.Linear(hidden, 4 * hidden, bias=False)
        nn.init.orthogonal_(self.recurrent.weight)
        nn.init.zeros_(self.input.bias)
        with torch.no_grad():
            self.input.bias[hidden : 2 * hidden] = 1.0  # remember at first (Jozefowicz et al. 2015)

    def step(self, gates: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the state after one step, from the step's input gates (B, 4 H) and the state (h, c) before."""
        h, c = state
        i, f, g, o = (gates + self.recurrent(h)).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class AdditiveAttention(nn.Module):
    """Bahdanau attention without biases; the encoder's half is computed once per window."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden, hidden, bias=False)
        self.key = nn.Linear(hidden, hidden, bias=False)
        self.score = nn.Linear(hidden, 1, bias=False)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Return the context (B, H) of one decoder state; keys and values (B, N, H), mask (B, N) true where present."""
        scores = self.score(torch.tanh(self.query(query)[:, None] + keys)).squeeze(2)  # (B, N)
        if mask is None:
            weights = torch.softmax(scores, dim=1)
        else:
            weights = torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=1)
            weights = torch.where(mask, weights, 0.0)  # a window with nothing present: 0, not NaN
        return torch.bmm(weights[:, None], values).squeeze(1)  # (B, 1, N) x (B, N, H) -> (B, H)


class McnnSeq(nn.Module):
    """The network of Zhao et al. 2020: windows of SAR to windows of NDVI."""

    def __init__(self, config: McnnSeqConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or McnnSeqConfig()
        branches = [Branch(config) for _ in range(N_POLARISATIONS)]
        n_features = sum(branch.n_features for branch in branches)
        self.branches = nn.ModuleList(branches)
        self.encoder = Lstm(n_features + config.n_extra, config.hidden)
        self.attention = AdditiveAttention(config.hidden)
        self.decoder = Lstm(1 + config.hidden * (2 if config.is_aligned else 1), config.hidden)
        self.head = nn.Linear(config.hidden, config.n_outputs)

    def forward(
        self, sar: Tensor, is_present: Tensor | None = None, extra: Tensor | None = None, teacher: Tensor | None = None
    ) -> Tensor:
        """NDVI (B, N), or (B, N, 2) with its log standard deviation where the configuration has one.

        Args:
            sar: (B, T, 2) standardised dB, VV then VH; what is not present may hold anything, NaN too.
            is_present: (B, T) true where there is SAR; None where all of it is there.
            extra: (B, N, n_extra) extra channels; required exactly where the configuration has them.
            teacher: (B, N) observed NDVI of the segments, NaN where none: fed to the next step in place of the network's own
                output (teacher forcing in training, known clear views in operation).
        """
        states, mask, last = self.encode(sar, is_present, extra)
        return self.decode(states, mask, last, teacher)

    def encode(
        self, sar: Tensor, is_present: Tensor | None = None, extra: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor]]:
        """Encoder states (B, N, H), the segments present (B, N) or None for all, and the last (h, c)."""
        self.config.check(sar, extra)
        sar, mask = self.config.masked(sar, is_present)
        gates = self.encoder.input(self.features(sar, extra))
        h = c = gates.new_zeros(len(sar), self.config.hidden)
        states = []
        for n in range(self.config.n_segments):
            new_h, new_c = self.encoder.step(gates[:, n], (h, c))
            if mask is not None:
                new_h = torch.where(mask[:, n, None], new_h, h)
                new_c = torch.where(mask[:, n, None], new_c, c)
            h, c = new_h, new_c
            states.append(h)
        return torch.stack(states, dim=1), mask, (h, c)

    def features(self, sar: Tensor, extra: Tensor | None) -> Tensor:
        """Return what the encoder is given of each segment (B, N, F): both branches, then the extra channels."""
        segments = self.config.segments(sar)
        features = [branch(segments[:, :, p]) for p, branch in enumerate(self.branches)]
        return torch.cat(features if extra is None else [*features, extra], dim=2)

    def decode(
        self, states: Tensor, mask: Tensor | None, last: tuple[Tensor, Tensor], teacher: Tensor | None = None
    ) -> Tensor:
        """NDVI of each segment, the decoder fed with its own previous output or the teacher's."""
        keys = self.attention.key(states)  # (B, N, H)
        h, c = last
        previous = states.new_zeros(len(states), 1)
        out = []
        for n in range(self.config.n_segments):
            parts = [previous, self.attention(h, keys, states, mask)]
            if self.config.is_aligned:
                parts.append(states[:, n])
            h, c = self.decoder.step(self.decoder.input(torch.cat(parts, dim=1)), (h, c))
            y = self.head(h)
            out.append(y)
            previous = y[:, :1]
            if teacher is not None:
                known = teacher[:, n, None]
                previous = torch.where(torch.isnan(known), previous, known)
        result = torch.stack(out, dim=1)  # (B, N, 1 or 2)
        return result if self.config.has_sd else result[..., 0]


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers of a network."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
