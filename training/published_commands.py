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
    register: Annotated[bool, typer.Option(help="register a classifier of parcels where a database answers")] = True,
    modality: Annotated[str | None, typer.Option(help="s2, s1a, s1d or s1, else by the number of channels")] = None,
    classes: Annotated[str | None, typer.Option(help="names of the classes, separated by commas")] = None,
) -> None:
    """Read a published PSE + L-TAE, U-TAE or PaPs into a checkpoint, its sizes taken from its weights."""
    from training import season_models
    from training.published_files import at_rest, describe, network_of, stored_weights

    names = tuple(classes.split(",")) if classes else ()
    network = network_of(stored_weights(file), modality=modality, classes=names)
    typer.echo(f"{file.name}: {describe(network)}")
    checkpoint, uses = at_rest(network, file.name, classes=names)
    folder = out / checkpoint.model[:12]
    season_models.write(checkpoint, folder)
    typer.echo(
        f"checkpoint {checkpoint.model[:12]} in {folder}; inputs must be standardised: the file has no statistics"
    )
    if uses.restriction:
        typer.echo(uses.restriction)
    if not register or not uses.is_classifier:
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
    """Check our network against outputs of the published code; exit code 1 beyond the tolerance.

    Which of the published networks it is, a PSE + L-TAE, a U-TAE or a PaPs, the names of its weights say. The first is checked plain
    and folded for inference.
    """
    from training.published_files import arrays_of, describe, network_of, reference_of, to_compare, weights_of

    arrays = arrays_of(file)
    network = network_of(weights_of(arrays, file))
    found = to_compare(network, reference_of(arrays))
    typer.echo(f"{file.name}: {describe(network)}\n{'largest difference':<20}" + "".join(f"{one:>10}" for one in found))
    for name in next(iter(found.values())):
        typer.echo(f"{name:<20}" + "".join(f"{one[name]:>10.1e}" for one in found.values()))
    # Not `max(...) > tolerance`: NaN is beyond every tolerance.
    is_within = all(one <= tolerance for differences in found.values() for one in differences.values())
    typer.echo(f"{'at most' if is_within else 'NOT within'} {tolerance:g}")
    if not is_within:
        raise typer.Exit(1)
