"""Files of the published code: networks and reference outputs, read and checked."""

import pickle
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from db.sensors import S2_BANDS
from models.checkpoint import Checkpoint
from models.classifier import published as parcels
from models.classifier.crop_model import CropModel
from models.classifier.normalisation import ChannelStatistics, ModalityStatistics, Normaliser
from models.classifier.published import PublishedPseLtae
from models.published_weights import PublishedError, kind_of
from models.segmentation import published as segmentation
from models.segmentation.at_rest import to_checkpoint
from models.segmentation.paps import Paps
from models.segmentation.utae import Utae, UtaeConfig

BANDS = {10: S2_BANDS, 3: ("VV", "VH", "VV-VH")}
"""Names of the channels by their number: Sentinel-2 and Sentinel-1 of PASTIS-R."""
PREFIX, OUTPUT = "weights/", "out/"
Network = PublishedPseLtae | Utae | Paps


@dataclass(frozen=True)
class Uses:
    """What an imported network can be used for."""

    is_classifier: bool
    """It classifies parcels, so that the store takes it."""
    restriction: str
    """A line that says what it cannot do; empty: nothing."""


def network_of(weights: Mapping[str, object], *, modality: str | None = None, classes: Sequence[str] = ()) -> Network:
    """Return the published network that weights are of, by their names.

    Raises:
        PublishedError: of none that is known, or they do not fit it, or there are more or fewer names of classes than it has.
    """
    kind = kind_of(weights)
    if kind == "parcels":
        channels = len(parcels.load_published(weights).network.config.modalities[0].channels)
        modality = modality or ("s1" if channels == len(BANDS[3]) else "s2")
        return parcels.load_published(weights, modality=modality, channels=BANDS.get(channels, ()), classes=classes)
    network = segmentation.load_utae(weights) if kind == "utae" else segmentation.load_paps(weights)
    number = _utae_config(network).classes
    if classes and len(classes) != number:
        raise PublishedError(f"{len(classes)} names are given, the weights have {number} of class")
    return network


def to_compare(network: Network, reference: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """Return the largest differences of each way in which a network is applied."""
    if isinstance(network, PublishedPseLtae):
        return {
            "plain": parcels.largest_differences(network, reference),
            "folded": parcels.largest_differences(network.folded(), reference),
        }
    return {"plain": segmentation.largest_differences(network, reference)}


def describe(network: Network) -> str:
    """Return what a network is, in one line."""
    if isinstance(network, PublishedPseLtae):
        config = network.network.config
        # The published network has no vector of absence.
        parameters = sum(one.numel() for name, one in network.network.named_parameters() if not name.endswith("absent"))
        return (
            f"PSE + L-TAE, {len(config.modalities[0].channels)} channels, {config.ltae.dates} dates, "
            f"{len(config.classes)} classes, {parameters:,} parameters"
        )
    utae = _utae_config(network)
    parameters = sum(one.numel() for one in network.parameters())
    name = "U-TAE" if isinstance(network, Utae) else "PaPs"
    return f"{name}, {utae.channels} channels, {utae.classes} classes, {parameters:,} parameters"


def at_rest(network: Network, file: str, classes: Sequence[str] = ()) -> tuple[Checkpoint, Uses]:
    """Return the checkpoint of a network that was read from a file, and what it can be used for."""
    if isinstance(network, PublishedPseLtae):
        coupling = network.network.config.coupling
        restriction = f"it classifies whole seasons and cannot be activated: {coupling}" if coupling else ""
        return model_of(network, file).to_checkpoint(), Uses(is_classifier=True, restriction=restriction)
    checkpoint = to_checkpoint(network, {"weights": f"published weights {file}", "classes": list(classes)})
    return checkpoint, Uses(
        is_classifier=False, restriction="it draws fields from images: no parcel is watched with it"
    )


def model_of(network: PublishedPseLtae, file: str) -> CropModel:
    """Return the network as a model at rest: inputs as they are, since the file does not say what standardised them."""
    modality = network.network.config.modalities[0]

    def as_it_is(size: int) -> ChannelStatistics:
        return ChannelStatistics((0.0,) * size, (1.0,) * size)

    normaliser = Normaliser({modality.name: ModalityStatistics(as_it_is(len(modality.channels)))}, as_it_is(4))
    about = {"season": f"published weights {file}", "observed_from": "unknown", "observed_to": "unknown"}
    return CropModel(network.network, normaliser, about=about)


def stored_weights(file: Path) -> dict[str, object]:
    """Return the weights in a file of torch.save or an .npz. Raises PublishedError."""
    if file.suffix == ".npz":
        return weights_of(arrays_of(file), file)
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise PublishedError(f"{file}: {error.strerror or error}") from error
    except (RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise PublishedError(
            f"{file}: not tensors as torch.save writes them (a pickled module is never read)"
        ) from error
    if not isinstance(stored, dict):
        raise PublishedError(f"{file}: no state dict but a {type(stored).__name__}")
    return stored


def weights_of(arrays: dict[str, Tensor], file: Path) -> dict[str, object]:
    """Return the weights among the arrays of a reference file. Raises PublishedError."""
    weights: dict[str, object] = {
        name.removeprefix(PREFIX): one for name, one in arrays.items() if name.startswith(PREFIX)
    }
    if not weights:
        raise PublishedError(f"{file}: it holds no {PREFIX}..., so it is no reference file of a published network")
    return weights


def reference_of(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return inputs and outputs among the arrays of a reference file."""
    return {name.removeprefix(OUTPUT): one for name, one in arrays.items() if not name.startswith(PREFIX)}


def arrays_of(file: Path) -> dict[str, Tensor]:
    """Return the arrays of an .npz; pickled ones are refused."""
    try:
        with file.open("rb") as opened:
            stored = np.load(opened, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise PublishedError(f"{file}: not an .npz but a single array")
            return {name: torch.from_numpy(stored[name]) for name in stored.files}
    except OSError as error:
        raise PublishedError(f"{file}: {error.strerror or error}") from error
    except PublishedError:
        raise
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error, pickle.UnpicklingError) as error:
        raise PublishedError(f"{file}: not an .npz of plain arrays (pickled objects are never read)") from error


def _utae_config(network: Utae | Paps) -> UtaeConfig:
    return network.config if isinstance(network, Utae) else network.config.utae
