"""`parcelwatch models import-published` and `models verify`: weights of the published code, read and checked."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from db.connect import engine
from db.errors import DatabaseUnavailable
from devstack.addresses import resolve_dsn

TOLERANCE = 1e-5
"""Largest difference of two float32 evaluations of one network; rounding alone is some 5e-6 in the reference file."""


def import_published(
    file: Annotated[Path, typer.Argument(help=".pt, .pth or .pth.tar of the published code, or .npz with weights/...")],
    out: Annotated[Path, typer.Option(help="folder for the checkpoint")] = Path("reports/models"),
    register: Annotated[bool, typer.Option(help="register it where a database answers")] = True,
    modality: Annotated[str | None, typer.Option(help="s2, s1a, s1d or s1, else by the number of channels")] = None,
    classes: Annotated[str | None, typer.Option(help="names of the classes, separated by commas")] = None,
) -> None:
    """Read a published PSE + L-TAE into a checkpoint, its sizes taken from its weights."""
    from models.classifier.published import load_published
    from training import season_models
    from training.published_files import BANDS, describe, model_of, stored_weights

    weights = stored_weights(file)
    channels = len(load_published(weights).network.config.modalities[0].channels)
    network = load_published(
        weights,
        modality=modality or ("s1" if channels == len(BANDS[3]) else "s2"),
        channels=BANDS.get(channels, ()),
        classes=tuple(classes.split(",")) if classes else (),
    )
    typer.echo(f"{file.name}: {describe(network)}")
    config = network.network.config
    checkpoint = model_of(network, file.name).to_checkpoint()
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
    from models.classifier.published import largest_differences, load_published
    from training.published_files import PREFIX, arrays_of, describe, weights_of

    arrays = arrays_of(file)
    network = load_published(weights_of(arrays, file))
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
