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
from typing import Any, Literal, NamedTuple, get_args

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
        """The modalities' names, in order."""
        return tuple(one.name for one in self.modalities)

    @property
    def scheme(self) -> Literal["single", "late", "early", "mid", "decision"]:
        """How modalities are fused, "single" where there is one."""
        return self.fusion if len(self.modalities) > 1 else "single"

    @property
    def sequences(self) -> tuple[str, ...]:
        """The sequences that have an attention, and a state, of their own: the modalities, or "early", or "mid"."""
        return (self.scheme,) if self.scheme in ("early", "mid") else self.names

    def members(self, sequence: str) -> tuple[str, ...]:
        """The modalities whose observations are folded into a sequence."""
        return (sequence,) if sequence in self.names else self.names

    @property
    def auxiliaries(self) -> tuple[str, ...]:
        """The modalities with a decoder of their own: all in late and decision fusion, none where they share a sequence."""
        return self.sequences if self.scheme in ("late", "decision") else ()

    @property
    def coupling(self) -> str | None:
        """What makes a date depend on others, so that no state can be updated through a season; None where nothing does."""
        if self.scheme == "early":
            return "early fusion interpolates between the dates of a whole season"
        return "its norm is taken over the dates of a whole season" if self.ltae.norm == "season" else None

    @property
    def is_streaming(self) -> bool:
        """Whether states can be updated date by date: nothing of a date depends on another date."""
        return self.coupling is None

    def __str__(self) -> str:
        fused = "" if self.scheme == "single" else f" in {self.scheme} fusion"
        return f"{', '.join(self.names)}{fused}, {len(self.classes)} classes"

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> ClassifierConfig:
        """The configuration from what `to_json` gave, read back from JSON.

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


class SequenceEncoder(nn.Module):
    """The attention over one sequence of embeddings, and the vector that stands for an empty one."""

    def __init__(self, config: LtaeConfig) -> None:
        super().__init__()
        self.ltae = Ltae(config)
        self.absent = nn.Parameter(torch.zeros(config.outputs))

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
    """The network. `forward` trains it; `embed`, `attend`, `encode`, `decode` are the incremental path.

    `pixel_encoders` are by modality ("early": one over all channels), `sequences` by `ClassifierConfig.sequences`.
    """

    def __init__(self, config: ClassifierConfig, *, model: str = "") -> None:
        super().__init__()
        self.config = c = config
        self.model = model
        """Id of these weights, stored with every state they make; empty while they are trained."""
        channels = {one.name: one.inputs for one in c.modalities}
        if c.scheme == "early":
            channels = {"early": sum(channels.values())}
        self.pixel_encoders = nn.ModuleDict(
            {name: PixelSetEncoder(n, c.pixel_widths, c.geometry, c.ltae.inputs) for name, n in channels.items()}
        )
        self.sequences = nn.ModuleDict({name: SequenceEncoder(c.ltae) for name in c.sequences})
        classes = len(c.classes)
        # Decision fusion has no decoder but those of its modalities.
        self.decoder = (
            None if c.scheme == "decision" else decoder(c.ltae.outputs * len(c.sequences), c.decoder, classes)
        )
        self.auxiliary = nn.ModuleDict({name: decoder(c.ltae.outputs, c.decoder, classes) for name in c.auxiliaries})

    def sequence(self, name: str) -> SequenceEncoder:
        """The encoder of a sequence, by its own name or that of a modality in it."""
        return self.sequences[name if name in self.sequences else self.config.scheme]  # type: ignore[return-value]

    def embed(self, modality: str, series: Series, geometry: Tensor) -> Tensor:
        """Embeddings (N, 128) of observations, each by itself; geometry (P, G) of the batch."""
        of_parcel = geometry[series.parcel, : self.config.geometry]
        return self.pixel_encoders[modality](series.pixels, series.valid, of_parcel)  # type: ignore[no-any-return]

    def attend(self, sequence: str, embeddings: Tensor, day: Tensor, parcel: Tensor) -> tuple[Tensor, Tensor]:
        """Attention logits (N, 16) and values (N, 16, 16) of observations, each by itself if the network streams."""
        return self.sequence(sequence).ltae.attend(embeddings, day, parcel)

    def initial_states(self, parcels: int, device: torch.device | str = "cpu") -> dict[str, State]:
        """The states of parcels that nothing was observed of, by sequence."""
        return {
            name: self.sequence(name).ltae.initial_state(parcels, model=self.model, device=device)
            for name in self.config.sequences
        }

    def encode(self, batch: Batch, states: Mapping[str, State] | None = None) -> dict[str, State]:
        """The states with the batch's observations folded in; sequences without any keep theirs.

        An observation without a valid pixel informs of nothing and leaves its parcel's state unchanged; only where the
        number of dates is pinned it counts, as in the published code.

        Raises:
            StateModelError: a state belongs to another model.
            ConfigError: an observation is of a modality that this model does not read, or states are given to a network
                that cannot stream.
        """
        if states and not self.config.is_streaming:
            raise ConfigError(f"this network cannot stream: {self.config.coupling}; give all observations at once")
        new: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {}
        for name, series in self._inputs(batch).items():
            some = series if self.config.ltae.dates else series.informative()
            rows = self.embed(name, some, batch.geometry), some.day, some.parcel
            new.setdefault(name if name in self.sequences else self.config.scheme, []).append(rows)
        folded = {**self.initial_states(len(batch), batch.geometry.device), **(states or {})}
        for name, parts in new.items():
            embeddings, day, parcel = (torch.cat(one) for one in zip(*parts, strict=True))
            logits, values = self.attend(name, embeddings, day, parcel)
            folded[name] = attention_state.update(folded[name], logits, values, parcel, model=self.model)
        return folded

    def decode(self, states: Mapping[str, State]) -> Tensor:
        """The class logits (P, K) of parcels' states; a sequence without any state counts as never observed.

        Raises:
            ConfigError: there is no state at all, so no parcel either.
            StateModelError: a state belongs to another model.
        """
        if not states:
            raise ConfigError("no state to decode: `encode` or `initial_states` makes them")
        some = next(iter(states.values()))
        known = {**self.initial_states(len(some), some.m.device), **states}
        summaries = self._summaries(known)
        return self._fused(summaries, self._alone(summaries) if self.decoder is None else {}, known)

    def forward(self, batch: Batch) -> Output:
        """The logits of whole seasons and those of each modality on its own."""
        states = self.encode(batch)
        summaries = self._summaries(states)
        alone = self._alone(summaries)
        seen = {one.name: batch.observed(one.name) for one in self.config.modalities}
        return Output(self._fused(summaries, alone, states), alone, seen)

    def folded(self) -> PseLtae:
        """The same trained function for inference: the same outputs to 1e-5, states of the same model."""
        from models.classifier.inference import InferenceNetwork  # which is made of this class

        return self if isinstance(self, InferenceNetwork) else InferenceNetwork(self)

    def _inputs(self, batch: Batch) -> dict[str, Series]:
        """What each pixel-set encoder reads, in the order of the configuration."""
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
        """The logits of each modality that has a decoder of its own."""
        return {name: self.auxiliary[name](summaries[name]) for name in self.config.auxiliaries}

    def _fused(
        self, summaries: Mapping[str, Tensor], alone: Mapping[str, Tensor], states: Mapping[str, State]
    ) -> Tensor:
        if self.decoder is not None:
            return self.decoder(torch.cat(list(summaries.values()), dim=1))  # type: ignore[no-any-return]
        seen = torch.stack([states[name].is_seen for name in alone])  # (M, P)
        weight = torch.where(seen.any(0), seen, True).float()[..., None]  # a parcel never seen: all, at their absence
        return (torch.stack(list(alone.values())) * weight).sum(0) / weight.sum(0)
