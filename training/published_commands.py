"""`parcelwatch models import-published` and `models verify`: weights of the published code, read and checked."""

import pickle
import zipfile
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from db.connect import engine
from db.errors import DatabaseUnavailable
from db.sensors import S2_BANDS
from devstack.addresses import resolve_dsn
from models.classifier.crop_model import CropModel
from models.classifier.normalisation import ChannelStatistics, ModalityStatistics, Normaliser
from models.classifier.published import PublishedError, PublishedPseLtae, largest_differences, load_published
from training import season_models

TOLERANCE = 1e-5
"""Largest difference of two float32 evaluations of one network; rounding alone is some 5e-6 in the reference file."""
BANDS = {10: S2_BANDS, 3: ("VV", "VH", "VV-VH")}
"""Names of the channels by their number: Sentinel-2 and Sentinel-1 of PASTIS-R."""
PREFIX = "weights/"


def import_published(
    file: Annotated[Path, typer.Argument(help=".pt, .pth or .pth.tar of the published code, or .npz with weights/...")],
    out: Annotated[Path, typer.Option(help="folder for the checkpoint")] = Path("reports/models"),
    register: Annotated[bool, typer.Option(help="register it where a database answers")] = True,
    modality: Annotated[str | None, typer.Option(help="s2, s1a, s1d or s1, else by the number of channels")] = None,
    classes: Annotated[str | None, typer.Option(help="names of the classes, separated by commas")] = None,
) -> None:
    """Read a published PSE + L-TAE into a checkpoint, its sizes taken from its weights."""
    weights = _stored_weights(file)
    channels = len(load_published(weights).network.config.modalities[0].channels)
    network = load_published(
        weights,
        modality=modality or ("s1" if channels == len(BANDS[3]) else "s2"),
        channels=BANDS.get(channels, ()),
        classes=tuple(classes.split(",")) if classes else (),
    )
    typer.echo(f"{file.name}: {describe(network)}")
    config = network.network.config
    checkpoint = _model(network, file.name).to_checkpoint()
    folder = out / checkpoint.model[:12]
    season_models.write(checkpoint, folder)
    typer.echo(
        f"checkpoint {checkpoint.model[:12]} in {folder}; inputs must be standardised: the file has no statistics"
    )
    if config.coupling:
        typer.echo(f"it classifies whole seasons and cannot be activated: {config.coupling}")
    if not register:
        return
    try:
        with engine(resolve_dsn()).begin() as connection:
            key = season_models.save(connection, "classifier", checkpoint, folder, datetime.now(UTC))
    except DatabaseUnavailable as error:
        typer.echo(f"not registered: {error}")
    else:
        typer.echo(f"registered as model {key}")


def verify(
    file: Annotated[Path, typer.Argument(help=".npz with weights/..., inputs and outputs of the published code")],
    tolerance: Annotated[float, typer.Option(help="largest difference allowed", min=0)] = TOLERANCE,
) -> None:
    """Check our network, plain and folded for inference, against outputs of the published code; exit code 1 beyond the tolerance."""
    arrays = _arrays(file)
    network = load_published(_weights_of(arrays, file))
    reference = {name: one for name, one in arrays.items() if not name.startswith(PREFIX)}
    plain, folded = largest_differences(network, reference), largest_differences(network.folded(), reference)
    typer.echo(f"{file.name}: {describe(network)}\n{'largest difference':<20}{'plain':>10}{'folded':>10}")
    for name in plain:
        typer.echo(f"{name:<20}{plain[name]:>10.1e}{folded[name]:>10.1e}")
    # Not `max(...) > tolerance`: NaN is beyond every tolerance.
    is_within = all(one <= tolerance for one in (*plain.values(), *folded.values()))
    typer.echo(f"{'at most' if is_within else 'NOT within'} {tolerance:g}")
    if not is_within:
        raise typer.Exit(1)


def describe(network: PublishedPseLtae) -> str:
    """Return what a network is, in one line."""
    config = network.network.config
    parameters = sum(one.numel() for name, one in network.network.named_parameters() if not name.endswith("absent"))
    return (
        f"PSE + L-TAE, {len(config.modalities[0].channels)} channels, {config.ltae.dates} dates, "
        f"{len(config.classes)} classes, {parameters:,} parameters"
    )


def _model(network: PublishedPseLtae, file: str) -> CropModel:
    """Return the network as a model at rest: inputs as they are, since the file does not say what standardised them."""
    modality = network.network.config.modalities[0]

    def as_it_is(size: int) -> ChannelStatistics:
        return ChannelStatistics((0.0,) * size, (1.0,) * size)

    normaliser = Normaliser({modality.name: ModalityStatistics(as_it_is(len(modality.channels)))}, as_it_is(4))
    about = {"season": f"published weights {file}", "observed_from": "unknown", "observed_to": "unknown"}
    return CropModel(network.network, normaliser, about=about)


def _stored_weights(file: Path) -> dict[str, object]:
    if file.suffix == ".npz":
        return _weights_of(_arrays(file), file)
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


def _weights_of(arrays: dict[str, Tensor], file: Path) -> dict[str, object]:
    weights: dict[str, object] = {
        name.removeprefix(PREFIX): one for name, one in arrays.items() if name.startswith(PREFIX)
    }
    if not weights:
        raise PublishedError(f"{file}: it holds no {PREFIX}..., so it is no reference file of a published network")
    return weights


def _arrays(file: Path) -> dict[str, Tensor]:
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
