"""Files of the published code: networks and reference outputs, read and checked."""

import pickle
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from db.sensors import S2_BANDS
from models.classifier.crop_model import CropModel
from models.classifier.normalisation import ChannelStatistics, ModalityStatistics, Normaliser
from models.classifier.published import PublishedError, PublishedPseLtae

BANDS = {10: S2_BANDS, 3: ("VV", "VH", "VV-VH")}
"""Names of the channels by their number: Sentinel-2 and Sentinel-1 of PASTIS-R."""
PREFIX = "weights/"


def describe(network: PublishedPseLtae) -> str:
    """Return what a network is, in one line."""
    config = network.network.config
    parameters = sum(one.numel() for name, one in network.network.named_parameters() if not name.endswith("absent"))
    return (
        f"PSE + L-TAE, {len(config.modalities[0].channels)} channels, {config.ltae.dates} dates, "
        f"{len(config.classes)} classes, {parameters:,} parameters"
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
