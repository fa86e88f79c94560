"""Crop classifier: pixel-set encoder and streaming L-TAE for each modality, late fusion, one decoder.

    state_m = fold(attend_m(embed_m(observations of m)))     logits = decoder([summary(state_m) for m])

Source: Garnot, Landrieu and Chehata 2022, late fusion; decoder 128 M - 64 - 32 - K. A modality that a parcel has no
        observation of is one learned vector, which training sees through the dropout of whole modalities.
Shapes: a Batch of P parcels to logits (P, K); embeddings (N, 128), attention logits (N, 16), values (N, 16, 16).
Units:  inputs standardised, days since the season's start.
Errors: ConfigError for a configuration that makes no network; StateModelError for a state of another model.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models import streaming
from models.ltae import LtaeConfig, StreamingLtae
from models.pse import LinearNorm, PixelSetEncoder
from models.series import Batch, Series
from models.streaming import State


class ConfigError(ValueError):
    """A configuration of which no network can be made. The caller stops and shows the message."""


@dataclass(frozen=True)
class ModalityConfig:
    """One modality: what its observations hold and how training treats them."""

    name: str
    channels: tuple[str, ...]
    temporal_dropout: float = 0.4
    """Share of dates left out in training: 0.4 for S2, 0.2 for each S1 orbit direction (published)."""
    is_per_orbit: bool = False
    """Each relative orbit is standardised on its own: orbits differ in incidence angle."""
    pixels: int = 32
    """Pixels of a set drawn in training (published: 32)."""


@dataclass(frozen=True)
class ClassifierConfig:
    """Everything that shapes a classifier. Round trip: `from_json(config.to_json())`."""

    modalities: tuple[ModalityConfig, ...]
    classes: tuple[str, ...]
    geometry: int = 4
    pixel_widths: tuple[int, ...] = (32, 64)
    ltae: LtaeConfig = field(default_factory=LtaeConfig)
    decoder: tuple[int, ...] = (64, 32)

    def __post_init__(self) -> None:
        names = [one.name for one in self.modalities]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"modalities need different names and at least one: {names}")
        if len(set(self.classes)) < len(self.classes) or len(self.classes) < 2:
            raise ConfigError(f"a classifier needs at least two different classes: {list(self.classes)}")
        if self.ltae.width % self.ltae.heads:
            raise ConfigError(f"the width {self.ltae.width} is not a multiple of {self.ltae.heads} heads")

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> ClassifierConfig:
        """The configuration from what `to_json` gave, read back from JSON."""
        return cls(
            modalities=tuple(
                ModalityConfig(**{**one, "channels": tuple(one["channels"])}) for one in plain["modalities"]
            ),
            classes=tuple(plain["classes"]),
            geometry=plain["geometry"],
            pixel_widths=tuple(plain["pixel_widths"]),
            ltae=LtaeConfig(**plain["ltae"]),
            decoder=tuple(plain["decoder"]),
        )


class Output(NamedTuple):
    """The logits of the fused decoder and, for the auxiliary losses, of each modality on its own."""

    logits: Tensor
    """(P, K)."""
    auxiliary: dict[str, Tensor]
    """(P, K) for each modality."""
    is_seen: dict[str, Tensor]
    """(P,) bool for each modality: parcels with an observation of it."""


class ModalityEncoder(nn.Module):
    """One modality's pixel-set encoder and attention, and the vector that stands for its absence."""

    def __init__(self, config: ClassifierConfig, modality: ModalityConfig) -> None:
        super().__init__()
        widths, inputs = config.pixel_widths, config.ltae.inputs
        self.pse: nn.Module = PixelSetEncoder(len(modality.channels), widths, config.geometry, inputs)
        self.ltae = StreamingLtae(config.ltae)
        self.absent = nn.Parameter(torch.zeros(config.ltae.outputs))

    def summarise(self, state: State, model: str) -> Tensor:
        """The output (P, 128); only parcels with an observation pass the attention's batch norm."""
        seen = state.is_seen
        summary = self.absent.expand(len(state), -1)
        return summary.index_put((torch.nonzero(seen)[:, 0],), self.ltae.summarise(state.take(seen), model=model))


def decoder(inputs: int, widths: tuple[int, ...], classes: int) -> nn.Sequential:
    """The classifier's head: linear + batch norm + ReLU for each width, then linear to the classes."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [LinearNorm(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


class PseLtae(nn.Module):
    """The network. `forward` trains it; `embed`, `attend`, `encode`, `decode` are the incremental path."""

    def __init__(self, config: ClassifierConfig, *, model: str = "") -> None:
        super().__init__()
        self.config = config
        self.model = model
        """Id of these weights, carried by every state they make; empty while they are trained."""
        self.encoders = nn.ModuleDict({one.name: ModalityEncoder(config, one) for one in config.modalities})
        outputs, classes = config.ltae.outputs, len(config.classes)
        self.decoder = decoder(outputs * len(config.modalities), config.decoder, classes)
        self.auxiliary = nn.ModuleDict({name: decoder(outputs, config.decoder, classes) for name in self.encoders})

    def encoder(self, modality: str) -> ModalityEncoder:
        """The encoder of a modality.

        Raises:
            ConfigError: this network has no such modality.
        """
        if modality not in self.encoders:
            raise ConfigError(f"this model reads {', '.join(self.encoders)}, not {modality!r}")
        return self.encoders[modality]  # type: ignore[return-value]

    def embed(self, modality: str, series: Series, geometry: Tensor) -> Tensor:
        """Embeddings (N, 128) of observations, each by itself; geometry (P, 4) of the batch."""
        return self.encoder(modality).pse(series.pixels, series.valid, geometry[series.parcel])  # type: ignore[no-any-return]

    def attend(self, modality: str, embeddings: Tensor, day: Tensor) -> tuple[Tensor, Tensor]:
        """Attention logits (N, 16) and values (N, 16, 16) of observations, each by itself."""
        return self.encoder(modality).ltae.attend(embeddings, day)

    def initial_states(self, parcels: int, device: torch.device | str = "cpu") -> dict[str, State]:
        """The states of parcels that nothing was observed of."""
        return {
            name: self.encoder(name).ltae.initial_state(parcels, model=self.model, device=device)
            for name in self.encoders
        }

    def encode(self, batch: Batch, states: Mapping[str, State] | None = None) -> dict[str, State]:
        """The states with the batch's observations folded in; modalities without news keep theirs.

        An observation without a valid pixel informs of nothing and leaves its parcel's state unchanged.

        Raises:
            StateModelError: a state belongs to another model.
            ConfigError: an observation is of a modality that this model does not read.
        """
        folded = {**self.initial_states(len(batch), batch.geometry.device), **(states or {})}
        for name, series in batch.series.items():
            seen = series.informative()
            logits, values = self.attend(name, self.embed(name, seen, batch.geometry), seen.day)
            folded[name] = streaming.update(folded[name], logits, values, seen.parcel, model=self.model)
        return folded

    def decode(self, states: Mapping[str, State]) -> Tensor:
        """The class logits (P, K) of parcels' states; a modality without any state counts as never observed.

        Raises:
            ConfigError: there is no state at all, so no parcel either.
            StateModelError: a state belongs to another model.
        """
        return self.decoder(torch.cat(list(self._summaries(states).values()), dim=1))  # type: ignore[no-any-return]

    def forward(self, batch: Batch) -> Output:
        """The logits of whole seasons and those of each modality on its own."""
        states = self.encode(batch)
        summaries = self._summaries(states)
        return Output(
            logits=self.decoder(torch.cat(list(summaries.values()), dim=1)),
            auxiliary={name: self.auxiliary[name](summary) for name, summary in summaries.items()},
            is_seen={name: states[name].is_seen for name in summaries},
        )

    def folded(self) -> PseLtae:
        """A copy for inference: pixel-set encoders folded, the same outputs to 1e-5, states of the same model."""
        network = copy.deepcopy(self).eval().requires_grad_(False)
        for name in network.encoders:
            encoder = network.encoder(name)
            if isinstance(encoder.pse, PixelSetEncoder):
                encoder.pse = encoder.pse.folded()
        return network

    def _summaries(self, states: Mapping[str, State]) -> dict[str, Tensor]:
        if not states:
            raise ConfigError("no state to decode: `encode` or `initial_states` makes them")
        some = next(iter(states.values()))
        known = {**self.initial_states(len(some), some.m.device), **states}
        return {name: self.encoder(name).summarise(known[name], self.model) for name in self.encoders}
