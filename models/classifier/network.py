"""Crop classifier: pixel-set encoders, L-TAEs and decoders of any set of modalities, fused early, mid, late or at decision.

    early     decoder(summary(all channels at the dates of the first modality))
    mid       decoder(summary(embeddings of all modalities))                one attention over one sequence
    late      decoder([summary(embeddings of m) for m])
    decision  mean over the modalities m that were seen of decoder_m(summary(embeddings of m))
    summary = finish(fold(attend(embeddings)))

Source: Garnot, Landrieu and Chehata 2022; decoder 128 (late: 128 M) - 64 - 32 - K. A sequence that a parcel has no
        observation of is one learned vector, which training sees through the dropout of whole modalities.
Shapes: a Batch of P parcels to logits (P, K); embeddings (N, 128), attention logits (N, 16), values (N, 16, 16).
Units:  inputs standardised, days since the season's start.
Errors: ConfigError for what makes no network, or for streaming where nothing streams; StateModelError for a state of
        another model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor, nn

from models.classifier import attention_state, early_fusion
from models.classifier.attention_state import State
from models.classifier.ltae import ConfigError as ConfigError
from models.classifier.ltae import Ltae, LtaeConfig
from models.classifier.packed_series import Batch, Series
from models.classifier.pixel_set_encoder import LinearNorm, PixelSetEncoder

Fusion = Literal["late", "early", "mid", "decision"]


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
    """Pixels sampled from a set in training (published: 32)."""
    is_co_located: bool = False
    """Pixel s of its sets is pixel s of the first modality's, as in PASTIS-R: early fusion then pairs pixels, else it
    gives the mean of the set to each."""
    has_anomalies: bool = False
    """The network reads each channel a second time, as its departure from the mean of training parcels on that day of the
    season (models.climatology): + 0.03 of macro-F1 in June on the Dutch parcels (docs/LOG.md)."""

    @property
    def inputs(self) -> int:
        """Channels that the network reads."""
        return len(self.channels) * (2 if self.has_anomalies else 1)


@dataclass(frozen=True)
class ClassifierConfig:
    """Everything that shapes a classifier. Round trip: `from_json(config.to_json())`."""

    modalities: tuple[ModalityConfig, ...]
    classes: tuple[str, ...]
    geometry: int = 4
    pixel_widths: tuple[int, ...] = (32, 64)
    ltae: LtaeConfig = field(default_factory=LtaeConfig)
    decoder: tuple[int, ...] = (64, 32)
    fusion: Fusion = "late"
    """Of two modalities or more; one modality is the single-modality network whatever this says."""

    def __post_init__(self) -> None:
        names = [one.name for one in self.modalities]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"modalities need different names and at least one: {names}")
        if len(set(self.classes)) < len(self.classes) or len(self.classes) < 2:
            raise ConfigError(f"a classifier needs at least two different classes: {list(self.classes)}")
        if self.fusion not in get_args(Fusion):
            raise ConfigError(f"fusion is one of {', '.join(get_args(Fusion))}, not {self.fusion!r}")

    @property
    def names(self) -> tuple[str, ...]:
        """Return the modalities' names, in order."""
        return tuple(one.name for one in self.modalities)

    @property
    def scheme(self) -> Literal["single", "late", "early", "mid", "decision"]:
        """Return how modalities are fused, "single" where there is one."""
        return self.fusion if len(self.modalities) > 1 else "single"

    @property
    def sequences(self) -> tuple[str, ...]:
        """Return the sequences that have an attention, and a state, of their own: the modalities, or "early", or "mid"."""
        return (self.scheme,) if self.scheme in ("early", "mid") else self.names

    def members(self, sequence: str) -> tuple[str, ...]:
        """Return the modalities whose observations are folded into a sequence."""
        return (sequence,) if sequence in self.names else self.names

    @property
    def auxiliaries(self) -> tuple[str, ...]:
        """Return the modalities with a decoder of their own: all in late and decision fusion, none where they share a sequence."""
        return self.sequences if self.scheme in ("late", "decision") else ()

    @property
    def coupling(self) -> str | None:
        """Return what makes a date depend on others, so that no state can be updated through a season; None where nothing does."""
        if self.scheme == "early":
            return "early fusion interpolates between the dates of a whole season"
        return "its norm is taken over the dates of a whole season" if self.ltae.norm == "season" else None

    @property
    def is_streaming(self) -> bool:
        """Say whether states can be updated date by date: nothing of a date depends on another date."""
        return self.coupling is None

    def __str__(self) -> str:
        fused = "" if self.scheme == "single" else f" in {self.scheme} fusion"
        return f"{', '.join(self.names)}{fused}, {len(self.classes)} classes"

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> ClassifierConfig:
        """Return the configuration from what `to_json` gave, read back from JSON.

        Raises:
            ConfigError: it was written by another version of this software.
        """
        try:
            return cls._from_json(plain)
        except (KeyError, TypeError) as error:
            raise ConfigError(f"not a configuration of this version's classifier: {error}") from error

    @classmethod
    def _from_json(cls, plain: Mapping[str, Any]) -> ClassifierConfig:
        return cls(
            modalities=tuple(
                ModalityConfig(**{**one, "channels": tuple(one["channels"])}) for one in plain["modalities"]
            ),
            classes=tuple(plain["classes"]),
            geometry=plain["geometry"],
            pixel_widths=tuple(plain["pixel_widths"]),
            ltae=LtaeConfig(**plain["ltae"]),
            decoder=tuple(plain["decoder"]),
            fusion=plain["fusion"],
        )


class Output(NamedTuple):
    """The fused logits and, for the auxiliary losses, those of each modality on its own."""

    logits: Tensor
    """(P, K)."""
    auxiliary: dict[str, Tensor]
    """(P, K) for each modality; empty where modalities have no summary of their own (single, early, mid)."""
    is_seen: dict[str, Tensor]
    """(P,) bool for each modality: parcels with an observation of it."""


class Sequence(Protocol):
    """The attention over one sequence of embeddings, and the vector that stands for an empty one."""

    absent: nn.Parameter
    """(128,) the output of a sequence without an observation."""

    def fold(
        self, state: State, embeddings: Tensor, day: Tensor, parcel: Tensor, counts: Tensor, *, model: str
    ) -> State:
        """Return the state with those of N observations folded in that count (N,) bool."""
        ...

    def summarise(self, state: State, model: str) -> Tensor:
        """Return the output (P, 128)."""
        ...


class SequenceEncoder(nn.Module):
    """A `Sequence` as it is trained."""

    def __init__(self, config: LtaeConfig) -> None:
        super().__init__()
        self.ltae = Ltae(config)
        self.absent = nn.Parameter(torch.zeros(config.outputs))

    def fold(
        self, state: State, embeddings: Tensor, day: Tensor, parcel: Tensor, counts: Tensor, *, model: str
    ) -> State:
        """Return the state with those of N observations folded in that count (N,) bool."""
        logits, values = self.ltae.attend(embeddings, day, parcel)  # (N, 128) -> (N, 16), (N, 16, 16)
        logits = logits.masked_fill(~counts[:, None], -torch.inf)
        return attention_state.update(state, logits, values, parcel, model=model)

    def summarise(self, state: State, model: str) -> Tensor:
        """Return the output (P, 128); only parcels with an observation pass the attention's batch norm."""
        seen = state.is_seen
        summary = self.absent.expand(len(state), -1)  # (P, 128)
        return summary.index_put((torch.nonzero(seen)[:, 0],), self.ltae.summarise(state.take(seen), model=model))


def decoder(inputs: int, widths: tuple[int, ...], classes: int) -> nn.Sequential:
    """Return the classifier's head: linear + batch norm + ReLU for each width, then linear to the classes."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [LinearNorm(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))


class Parts(NamedTuple):
    """The parts of a network, trained or folded for inference."""

    pixel_encoders: Mapping[str, nn.Module]
    """By modality; "early": one over all channels."""
    sequences: Mapping[str, nn.Module]
    """`Sequence` modules by `ClassifierConfig.sequences`."""
    decoder: nn.Module | None
    """None in decision fusion, which has no decoder but those of its modalities."""
    auxiliary: Mapping[str, nn.Module]


class FusionNetwork(nn.Module):
    """A classifier composed of its parts: how observations become states, and states fused logits."""

    def __init__(self, config: ClassifierConfig, parts: Parts, model: str) -> None:
        super().__init__()
        self.config = config
        self.model = model
        """Id of these weights, stored with every state they make; empty while they are trained."""
        # Checkpoints name weights after these four: a rename makes stored models unreadable.
        self.pixel_encoders = nn.ModuleDict(dict(parts.pixel_encoders))
        self.sequences = nn.ModuleDict(dict(parts.sequences))
        self.decoder = parts.decoder
        self.auxiliary = nn.ModuleDict(dict(parts.auxiliary))

    def sequence(self, name: str) -> Sequence:
        """Return the encoder of a sequence, by its own name or that of a modality in it."""
        return self.sequences[name if name in self.sequences else self.config.scheme]  # type: ignore[return-value]

    def embed(self, modality: str, series: Series, geometry: Tensor) -> Tensor:
        """Return embeddings (N, 128) of observations, each by itself; geometry (P, G) of the batch."""
        of_parcel = geometry[series.parcel, : self.config.geometry]  # (P, G) -> (N, G)
        return self.pixel_encoders[modality](series.pixels, series.valid, of_parcel)  # type: ignore[no-any-return]

    def initial_states(
        self, parcels: int, device: torch.device | str = "cpu", known: Mapping[str, State] = MappingProxyType({})
    ) -> dict[str, State]:
        """Return the states of parcels without an observation, by sequence; those that are known as they are."""
        c = self.config.ltae
        unknown = [name for name in self.config.sequences if name not in known]
        empty = (attention_state.init(parcels, c.heads, c.value, model=self.model, device=device) for _ in unknown)
        return {**known, **dict(zip(unknown, empty, strict=True))}

    def encode(self, batch: Batch, states: Mapping[str, State] | None = None) -> dict[str, State]:
        """Return the states with the batch's observations folded in; sequences without any keep theirs.

        An observation without a valid pixel informs of nothing and leaves its parcel's state unchanged; only where the
        number of dates is pinned it counts, as in the published code.

        Raises:
            StateModelError: a state belongs to another model.
            ConfigError: an observation is of a modality that this model does not read, or states are given to a network
                that cannot stream.
        """
        if states and not self.config.is_streaming:
            raise ConfigError(f"this network cannot stream: {self.config.coupling}; give all observations at once")
        folded = self.initial_states(len(batch), batch.geometry.device, states or {})
        new: dict[str, list[tuple[Tensor, ...]]] = {}
        for name, series in self._inputs(batch).items():
            if len(series) == 0:
                continue
            some, counts = self._counting(series)
            embeddings = self.embed(name, some, batch.geometry)  # (N, C, S) -> (N, 128)
            of_sequence = new.setdefault(name if name in self.sequences else self.config.scheme, [])
            of_sequence.append((embeddings, some.day, some.parcel, counts))
        for name, parts in new.items():
            rows = parts[0] if len(parts) == 1 else [torch.cat(one) for one in zip(*parts, strict=True)]
            folded[name] = self.sequence(name).fold(folded[name], *rows, model=self.model)
        return folded

    def decode(self, states: Mapping[str, State]) -> Tensor:
        """Return the class logits (P, K) of parcels' states; a sequence without any state counts as never observed.

        Raises:
            ConfigError: there is no state at all, so no parcel either.
            StateModelError: a state belongs to another model.
        """
        if not states:
            raise ConfigError("no state to decode: `encode` or `initial_states` makes them")
        some = next(iter(states.values()))
        known = self.initial_states(len(some), some.m.device, states)
        summaries = self._summaries(known)
        return self._fused(summaries, self._alone(summaries) if self.decoder is None else {}, known)

    def forward(self, batch: Batch) -> Output:
        """Return the logits of whole seasons and those of each modality on its own."""
        states = self.encode(batch)
        summaries = self._summaries(states)
        alone = self._alone(summaries)
        seen = {one.name: batch.observed(one.name) for one in self.config.modalities}
        return Output(self._fused(summaries, alone, states), alone, seen)

    def _counting(self, series: Series) -> tuple[Series, Tensor]:
        """Return the observations to compute, and which of them count (N,) bool."""
        some = series if self.config.ltae.dates else series.informative()
        return some, torch.ones_like(some.day, dtype=torch.bool)

    def _inputs(self, batch: Batch) -> dict[str, Series]:
        """Return what each pixel-set encoder reads, in the order of the configuration."""
        modalities = self.config.modalities
        if unknown := sorted(set(batch.series) - {one.name for one in modalities}):
            raise ConfigError(f"this model reads {', '.join(one.name for one in modalities)}, not {unknown[0]!r}")
        given = {one.name: batch.series[one.name] for one in modalities if one.name in batch.series}
        if self.config.scheme != "early":
            return given
        first, *others = modalities
        if first.name not in given:
            return {}
        return {
            "early": early_fusion.concatenated(
                given[first.name], [(given.get(one.name), one.inputs, one.is_co_located) for one in others]
            )
        }

    def _summaries(self, states: Mapping[str, State]) -> dict[str, Tensor]:
        return {name: self.sequence(name).summarise(states[name], self.model) for name in self.config.sequences}

    def _alone(self, summaries: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the logits of each modality that has a decoder of its own."""
        return {name: self.auxiliary[name](summaries[name]) for name in self.config.auxiliaries}

    def _fused(
        self, summaries: Mapping[str, Tensor], alone: Mapping[str, Tensor], states: Mapping[str, State]
    ) -> Tensor:
        if self.decoder is not None:
            return self.decoder(torch.cat(list(summaries.values()), dim=1))  # type: ignore[no-any-return]
        seen = torch.stack([states[name].is_seen for name in alone])  # (M, P)
        weight = torch.where(seen.any(0), seen, True).float()[..., None]  # a parcel never seen: all, at their absence
        return (torch.stack(list(alone.values())) * weight).sum(0) / weight.sum(0)


class PseLtae(FusionNetwork):
    """The network as it is trained: `forward` trains it, `encode` and `decode` are the incremental path."""

    def __init__(self, config: ClassifierConfig, *, model: str = "") -> None:
        c, classes = config, len(config.classes)
        channels = {one.name: one.inputs for one in c.modalities}
        if c.scheme == "early":
            channels = {"early": sum(channels.values())}
        # The order is that of initialisation: a seed gives the same weights as long as it stays.
        parts = Parts(
            {name: PixelSetEncoder(n, c.pixel_widths, c.geometry, c.ltae.inputs) for name, n in channels.items()},
            {name: SequenceEncoder(c.ltae) for name in c.sequences},
            None if c.scheme == "decision" else decoder(c.ltae.outputs * len(c.sequences), c.decoder, classes),
            {name: decoder(c.ltae.outputs, c.decoder, classes) for name in c.auxiliaries},
        )
        super().__init__(config, parts, model)

    def attend(self, sequence: str, embeddings: Tensor, day: Tensor, parcel: Tensor) -> tuple[Tensor, Tensor]:
        """Return attention logits (N, 16) and values (N, 16, 16), each observation by itself if the network streams."""
        encoder = self.sequence(sequence)
        assert isinstance(encoder, SequenceEncoder)
        return encoder.ltae.attend(embeddings, day, parcel)
