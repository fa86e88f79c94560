"""A trained crop classifier with all that inference needs: network, standardisation, calibration, origin.

    posterior = softmax(decode(states) / T(day of the newest observation))

Chosen because: a network without its statistics and its temperature is no model; they are stored and loaded together.
Shapes: P parcels, K classes: posteriors (P, K).
Units:  observations physical (models.classifier.normalisation.Observations), days since the season's start.
Errors: CheckpointError for a checkpoint of another kind; StateModelError for states of another model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from models.checkpoint import Checkpoint, CheckpointError, pack, unpack
from models.classifier.attention_state import State
from models.classifier.calibration import Temperature
from models.classifier.inference import InferenceNetwork, folded
from models.classifier.network import ClassifierConfig, ConfigError, FusionNetwork, PseLtae
from models.classifier.normalisation import Normaliser, Observations
from models.classifier.packed_series import Batch

KIND = "pse-ltae"


@dataclass(frozen=True)
class CropModel:
    """A crop classifier as it is trained, stored and applied. Its network is in evaluation mode."""

    network: FusionNetwork
    normaliser: Normaliser
    temperature: Temperature = field(default_factory=Temperature)
    scores: Mapping[str, Any] = field(default_factory=dict)
    """Scores on held-out parcels, JSON values."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What the caller wants kept with the model: season, region, data range; JSON values."""

    @property
    def config(self) -> ClassifierConfig:
        """Return the network's configuration."""
        return self.network.config

    @property
    def model(self) -> str:
        """Return the id that is stored with this model's states; empty before it was a checkpoint."""
        return self.network.model

    def batch(self, observations: Mapping[str, Observations], geometry: NDArray[np.floating[Any]]) -> Batch:
        """Parcels in physical units as the network takes them."""
        return self.normaliser.batch(observations, geometry)

    def fold_of(self, lon: ArrayLike, lat: ArrayLike) -> NDArray[np.int64] | None:  # noqa: ARG002 (all are answered alike)
        """Return (P,) which of several models answers parcels with these centroids, None where there is one."""
        return None

    @torch.no_grad()
    def encode(
        self,
        batch: Batch,
        states: Mapping[str, State] | None = None,
        fold: NDArray[np.int64] | None = None,  # noqa: ARG002
    ) -> dict[str, State]:
        """Return the parcels' states with the batch's observations folded in.

        Args:
            fold: (P,) that of each parcel, which counts where there are several models (`fold_of`).

        Raises:
            ConfigError: states are given to a network that cannot stream (`config.is_streaming`).
        """
        return self.network.encode(batch, states)

    @torch.no_grad()
    def posteriors(
        self,
        states: Mapping[str, State],
        newest_day: NDArray[Any],
        fold: NDArray[np.int64] | None = None,  # noqa: ARG002
    ) -> NDArray[np.float32]:
        """Calibrated class probabilities (P, K); newest_day (P,): that of each parcel's newest observation, fold as `encode`."""
        return self.temperature.probabilities(self.network.decode(states).cpu().numpy(), newest_day)

    @property
    def device(self) -> torch.device:
        """Return where the network runs: batches and states must be there."""
        return next(self.network.parameters()).device

    def for_inference(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> CropModel:
        """Return the same model folded, on a device: the same posteriors, faster; in bfloat16 (GPUs) nearly the same."""
        return replace(self, network=folded(self.network, dtype).to(device))

    def to_checkpoint(self) -> Checkpoint:
        """Return the model at rest; its id is the checkpoint's `model`.

        Raises:
            CheckpointError: the network is folded, so its trained weights are gone.
        """
        if isinstance(self.network, InferenceNetwork):
            raise CheckpointError("a folded network cannot be stored: store the model it was folded from")
        description = {
            "kind": KIND,
            "config": self.config.to_json(),
            "normaliser": self.normaliser.to_json(),
            "temperature": self.temperature.to_json(),
            "scores": dict(self.scores),
            "about": dict(self.about),
        }
        return pack(self.network.state_dict(), description)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> CropModel:
        """Return the model of a checkpoint, its network carrying the checkpoint's id.

        Raises:
            CheckpointError: another kind of model, or weights that its configuration does not fit.
        """
        weights, plain = unpack(checkpoint)
        if plain.get("kind") != KIND:
            raise CheckpointError(f"model {plain['model']} is of kind {plain.get('kind')!r}, not {KIND!r}")
        try:
            network = PseLtae(ClassifierConfig.from_json(plain["config"]), model=plain["model"])
            network.load_state_dict(weights)
        except ConfigError as error:
            raise CheckpointError(f"the configuration of model {plain['model']} cannot be read: {error}") from error
        except RuntimeError as error:
            raise CheckpointError(f"weights of model {plain['model']} do not fit its configuration: {error}") from error
        return cls(
            network.eval(),
            Normaliser.from_json(plain["normaliser"]),
            Temperature.from_json(plain["temperature"]),
            plain["scores"],
            plain["about"],
        )
