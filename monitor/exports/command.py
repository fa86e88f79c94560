"""`parcelwatch export`: the parcels of a season as a file."""

import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, get_args

import typer

from db import exports
from db.connect import engine
from db.exports import Selection
from devstack.addresses import resolve_dsn
from monitor.errors import NotFound
from monitor.exports.files import CHUNKS, Kind, write_geopackage
from monitor.exports.table import Export
from monitor.exports.table import export as table_of
from monitor.inspection import arguments
from monitor.inspection.arguments import TimeOption
from terminal.output import console, plain
from terminal.times import shown

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="its name ends with .gpkg, .parquet or .csv")],
    season: Annotated[str, typer.Option(help="season of the parcels", callback=arguments.storable)],
    collection: Annotated[str, typer.Option(help="collection of the parcels", callback=arguments.storable)],
    region: Annotated[str | None, typer.Option(help="only this region", callback=arguments.storable)] = None,
    as_known_at: TimeOption = None,
) -> None:
    """Write parcels with declaration, lights, likeliest crop and open alerts, all of one moment. An older file is replaced."""
    kind = next((one for one in KINDS if file.suffix.lower() == f".{one}"), None)
    if kind is None:
        raise typer.BadParameter(f"{plain(file.name)} ends with none of {', '.join(f'.{one}' for one in KINDS)}")
    if as_known_at is not None and as_known_at > datetime.now(UTC):
        raise typer.BadParameter(f"--as-known-at {shown(as_known_at)} lies ahead: nothing of it is known")
    selection, store = Selection(collection, season, region, as_known_at), engine(resolve_dsn())
    with store.begin() as connection:
        exports.settle(connection, as_known_at)
    unfinished = file.with_name(f".{file.name}.{secrets.token_hex(4)}.{kind}")
    try:
        with exports.unchanging(store).begin() as connection:
            made = table_of(connection, selection)
            _write(made, unfinished, kind)
        unfinished.replace(file)
    except OSError as error:
        raise NotFound(f"{arguments.storable(str(file))} cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    console.print(plain(f"{file}: parcels as known at {shown(made.known_at)}"), soft_wrap=True)


def _write(made: Export, path: Path, kind: Kind) -> None:
    if kind == "gpkg":
        write_geopackage(made, path)
        return
    with path.open("wb") as out:
        out.writelines(CHUNKS[kind](made))
