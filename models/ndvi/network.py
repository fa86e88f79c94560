"""MCNN-Seq conditioned on clear views: NDVI and its standard deviation at any day, from radar and what the clouds let through.

    x_n   = [branch_VV(z_n), branch_VH(z_n), presence_n, season_n]      a step of 6 days, both directions side by side
    h_n   = LSTM(x_n, h_(n-1))                                          encoder over the steps
    s_i   = LSTM([r_i, v_i, time since view i-1, season_i, h_(n(i))], s_(i-1))      decoder over the clear views v_i
    m, s  = MLP([query's features, h_(n(t)), s_(i(t))])                 answer at day t, n(t) and i(t) the newest before it
    value = base(t) + free(t) m,     sd^2 = view_sd^2 + (free(t) e^s scale)^2

What differs from Zhao et al. 2020: the decoder is fed with observed NDVI and steps from view to view, not from output to
output, so that its state answers any day until the next view; ascending and descending passes are channels of the branches,
each orbit standardised on its own; the attention over steps is replaced by the encoder's state at the day asked for. A
retrospective network has a second encoder and decoder that run backward in time. `base` and `free` are of simple kriging
between the nearest views (`models.ndvi.queries`): the network learns what kriging misses, and cannot stray from a view.
Causal: h and s of a day depend on the past alone, and one more step or view is one more LSTM step from the recurrent state.
Source: Zhao et al. 2020 (branches, encoder, decoder); the rest is ours, figures in docs/LOG.md.
Shapes: P parcels of T steps; S series of M views (a parcel's, or a part of them); Q queries.
Units:  backscatter standardised per relative orbit; NDVI dimensionless; time in days, scaled by the queries.
Errors: ValueError for a shape that is none; inputs are made by `models.ndvi.queries`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

N_STEP_CHANNELS = 6
"""Of a step: VV and VH of ascending passes, of descending ones, and whether there is either."""
VV, VH, PRESENCE = slice(0, 2), slice(2, 4), slice(4, None)
"""Channels of a step that go to each branch, and to neither (presence and season)."""
N_VIEW_CHANNELS = 3
"""Of a view: residual to the seasonal prior, NDVI, time since the view before."""
N_VIEW_FEATURES = 6
"""Of each of a query's nearest views."""


@dataclass(frozen=True)
class GapConfig:
    """The shape of the network; the defaults are the paper's sizes where it has them."""

    is_causal: bool
    n_harmonics: int = 12
    """Harmonics of the day of the season: with 24 the season learned from is known better, another one worse; 4 the
    other way round (docs/LOG.md)."""
    branch_channels: tuple[int, int] = (31, 62)
    hidden: int = 100
    """Units of the encoder."""
    view_hidden: int = 64
    """Units of the decoder over views."""
    head: int = 128
    dropout: float = 0.1
    steps_back: int = 8
    steps_ahead: int = 4
    """Steps of radar around the day itself that the head sees unencoded; a causal one sees none ahead."""
    n_nearest: int = 3
    """Views on each side whose age and value the head sees."""

    def __post_init__(self) -> None:
        """Refuse what is no network."""
        sizes = (*self.branch_channels, self.hidden, self.view_hidden, self.head, self.steps_back, self.n_nearest)
        if len(self.branch_channels) != 2 or min(sizes) < 1 or min(self.n_harmonics, self.steps_ahead) < 0:
            raise ValueError(f"gap filling: a size below 1, or not two channels of branches, in {self}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"gap filling: dropout {self.dropout} is no share of 0 to 1")

    @property
    def n_season(self) -> int:
        """Channels of the day of the season."""
        return 2 * self.n_harmonics

    @property
    def n_near_steps(self) -> int:
        """Steps around a query."""
        return self.steps_back + (0 if self.is_causal else self.steps_ahead)

    @property
    def n_features(self) -> int:
        """Features of a query: free share, season, nearest views of each side, radar around."""
        sides = 1 if self.is_causal else 2
        return 1 + self.n_season + sides * self.n_nearest * N_VIEW_FEATURES + self.n_near_steps * N_STEP_CHANNELS


@dataclass(frozen=True)
class Encoded:
    """Encoder states of parcels, before step n at index n; a causal network has no backward ones."""

    forward: Tensor
    """(P, T + 1, hidden)"""
    backward: Tensor | None
    """(P, T + 1, hidden) states after the steps n, n + 1, ... of the season, read backward."""


class GapNetwork(nn.Module):
    """Encoder over radar steps, decoder over views, head over queries."""

    def __init__(self, config: GapConfig) -> None:
        super().__init__()
        self.config = config
        first, second = config.branch_channels
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Linear(2, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU()) for _ in (VV, VH)
        )
        n_step = 2 * second + 2 + config.n_season
        n_view = N_VIEW_CHANNELS + config.n_season + config.hidden
        directions = 1 if config.is_causal else 2
        self.encoders = nn.ModuleList(nn.LSTM(n_step, config.hidden, batch_first=True) for _ in range(directions))
        self.decoders = nn.ModuleList(nn.LSTM(n_view, config.view_hidden, batch_first=True) for _ in range(directions))
        n_in = config.n_features + directions * (config.hidden + config.view_hidden)
        self.head = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(n_in, config.head),
            nn.SiLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.head, config.head),
            nn.SiLU(),
            nn.Linear(config.head, 2),
        )
        last = self.head[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.tensor([0.0, -2.3]))  # the kriging alone, its sd 0.1, at first

    def branched(self, steps: Tensor) -> Tensor:
        """Return what the encoder reads of steps (P, T, 6 + season)."""
        branches = [self.branches[0](steps[..., VV]), self.branches[1](steps[..., VH])]
        return torch.cat([*branches, steps[..., PRESENCE]], dim=2)

    def encode(self, steps: Tensor, n_steps: Tensor, start: Tensor | None = None, n_back: int | None = None) -> Encoded:
        """Return the states of parcels.

        Args:
            steps: (P, T, 6 + season) what is known of each step.
            n_steps: (P,) steps that have begun: the backward encoder starts at the last of them.
            start: (2, P, hidden) h and c of steps read before; None: there are none.
            n_back: how many of the last steps the backward encoder reads; None: all, to the first.
        """
        x = self.branched(steps)
        forward = _before(self.encoders[0], x, start)
        if self.config.is_causal:
            return Encoded(forward, None)
        return Encoded(forward, _from(self.encoders[1], x, n_steps, n_back))

    def decode(
        self,
        encoded: Encoded,
        views: Tensor,
        n_views: Tensor,
        step: Tensor,
        parcel: Tensor,
        start: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """States between the views of series: before view i at index i, and from view i on, read backward.

        Args:
            encoded: of the parcels.
            views: (S, M, 3 + season), anything after a series' last view.
            n_views: (S,)
            step: (S, M) complete steps on the view's day.
            parcel: (S,) of `encoded`.
            start: (2, S, view_hidden) h and c of views read before; None: there are none.
        """
        x = torch.cat([views, encoded.forward[parcel[:, None], step]], dim=2)
        forward = _before(self.decoders[0], x, start)
        if encoded.backward is None:
            return forward, None
        x = torch.cat([views, encoded.backward[parcel[:, None], step]], dim=2)
        return forward, _from(self.decoders[1], x, n_views)

    # More than six: both encoded series, the features, and the five index columns of `gap_filler.places`.
    def forward(
        self,
        encoded: Encoded,
        between: tuple[Tensor, Tensor | None],
        features: Tensor,
        parcel: Tensor,
        step: Tensor,
        series: Tensor,
        n_before: Tensor,
        first_after: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """m and s of queries (Q,) each; s kept where an NDVI can have it (0.007 to 1).

        Args:
            encoded: of the parcels.
            between: states between views.
            features: (Q, n_features).
            parcel: (Q,)
            step: (Q,) complete steps on the day.
            series: (Q,)
            n_before: (Q,) views of the series before the day that may be used.
            first_after: (Q,) the first view after the day that may be used, M where there is none.
        """
        states = [(encoded.forward, (parcel, step)), (between[0], (series, n_before))]
        if encoded.backward is not None and between[1] is not None:
            states += [(encoded.backward, (parcel, step)), (between[1], (series, first_after))]
        out = self._head_of(features, states)
        return out[:, 0], out[:, 1].clamp(-5.0, 0.0)

    def _head_of(self, features: Tensor, states: Sequence[tuple[Tensor, tuple[Tensor, Tensor]]]) -> Tensor:
        """Return the head's answer (Q, 2) to features and the states (A, B, H) that queries index."""
        if self.training:  # dropout draws for each query
            drawn: Tensor = self.head(torch.cat([features, *(state[at] for state, at in states)], dim=1))
            return drawn
        # The days of a step share its state, those between two views theirs: its part of the first layer is computed once.
        first, *rest = (layer for layer in self.head.children() if not isinstance(layer, nn.Dropout))
        assert isinstance(first, nn.Linear)
        sizes = [features.shape[1], *(state.shape[2] for state, _ in states)]
        of_features, *of_states = torch.split(first.weight, sizes, dim=1)
        x = nn.functional.linear(features, of_features, first.bias)
        for (state, at), weight in zip(states, of_states, strict=True):
            is_shared = state.shape[0] * state.shape[1] < len(features)
            x += (state @ weight.T)[at] if is_shared else state[at] @ weight.T
        for layer in rest:
            x = layer(x)
        return x


def _before(layer: nn.Module, x: Tensor, start: Tensor | None) -> Tensor:
    """States (B, N + 1, H) before each input and after the last: zero before the first, or what was read before."""
    if start is None:
        states = layer(x)[0]
        return torch.cat([torch.zeros_like(states[:, :1]), states], dim=1)
    h, c = start.contiguous()
    return torch.cat([h[:, None], layer(x, (h[None], c[None]))[0]], dim=1)


def _from(layer: nn.Module, x: Tensor, n: Tensor, n_back: int | None = None) -> Tensor:
    """States (B, N + 1, H) after reading the inputs i.. of each row backward from its n-th; zero from there on.

    With `n_back` those of the last so many inputs alone; those before are zero too.
    """
    length = x.shape[1]
    n_back = length if n_back is None else min(max(n_back, 1), length)
    back = n[:, None] - 1 - torch.arange(length, device=x.device)
    order = back.clamp(min=0)[..., None]
    states = layer(torch.gather(x, 1, order[:, :n_back].expand(-1, -1, x.shape[2])))[0]
    states = torch.gather(states, 1, order.clamp(max=n_back - 1).expand(-1, -1, states.shape[2]))  # reversed again
    states = torch.where(((back >= 0) & (back < n_back))[..., None], states, 0.0)
    return torch.cat([states, torch.zeros_like(states[:, :1])], dim=1)
