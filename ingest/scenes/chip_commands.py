"""`parcelwatch chips`: pictures of parcels, cut from scenes with their observations or on demand."""

import json
import os
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from db import chips as store
from db import history
from db.chips import ChipRow, Departure, Source
from db.connect import Connection, engine
from devstack.addresses import resolve_dsn
from ingest.errors import IngestError
from ingest.imagery.settings import ImagerySettings
from ingest.scenes import chip_cutting, terminal
from ingest.scenes.opening import Opener
from ingest.scenes.settings import SceneSettings
from ingest.scenes.terminal import AsJson, line, minute, now
from terminal.output import console, table
from terminal.times import moment

app = typer.Typer(no_args_is_help=True, help="Pictures of parcels, before and after a departure.")

AlertArgument = Annotated[
    int | None, typer.Argument(metavar="[ALERT]", min=1, max=2**63 - 1, help="as `alerts` lists them")
]
ParcelOption = Annotated[str | None, typer.Option(help="the agency's own id of a parcel, instead of an alert")]
CollectionOption = Annotated[str | None, typer.Option(help="of the parcel, where several have its id")]
SeasonOption = Annotated[str | None, typer.Option(help="of the parcel, else the newest one")]
From = Annotated[
    datetime | None, typer.Option("--from", parser=moment, metavar="TIME", help="scenes from then on; UTC")
]
To = Annotated[datetime | None, typer.Option("--to", parser=moment, metavar="TIME", help="scenes before then; UTC")]


# More than six: the options of the command line.
@app.command()
def cut(
    alert: AlertArgument = None,
    parcel: ParcelOption = None,
    collection: CollectionOption = None,
    season: SeasonOption = None,
    first: From = None,
    last: To = None,
) -> None:
    """Cut pictures now, from scenes that can still be reached: before and after an alert's departure, or of all scenes of a time."""
    database, at = engine(resolve_dsn()), now()
    with database.begin() as connection:
        key, wanted = _wanted(connection, _Asked(alert, parcel, collection, season), first, last, at)
    if not wanted:
        raise IngestError(
            "no observation of the parcel is stored for that time, so there is no scene to cut a picture from"
        )
    n_cut = n_missing = 0
    for made in chip_cutting.cut_again(database, _opener(), {key: wanted}, "request", ImagerySettings(), at):
        for one in made.chips:
            said = f"missing: {one.missing}" if one.missing else f"{len(one.image or b''):,} bytes"
            line(f"{made.scene_id} {one.composite}: {said}")
            n_missing += one.missing is not None
            n_cut += one.missing is None
    if alert is not None and not n_missing:
        with database.begin() as connection:
            if (of := store.departure(connection, alert)) is not None:
                store.tried_pair(connection, of, at)
    line(f"{n_cut} pictures cut, {n_missing} missing")


@app.command()
def sampled(first: Annotated[datetime, typer.Option("--from", parser=moment, metavar="TIME", help="UTC")]) -> None:
    """Cut pictures of all sampled parcels, all alike, from scenes observed since a time; forms of reviews then show them too."""
    database = engine(resolve_dsn())
    with database.begin() as connection:
        keys = store.sampled(connection)
    if not keys:
        raise IngestError("no parcel is sampled; `parcelwatch quality sample` draws some")
    since, n_cut = chip_cutting.cut_sampled(database, _opener(), keys, first, ImagerySettings(), now())
    line(f"{n_cut} pictures cut of {len(keys)} parcels; of every scene since {minute(since)} UTC all have theirs")


@app.command("list")
def list_(
    alert: AlertArgument = None,
    parcel: ParcelOption = None,
    collection: CollectionOption = None,
    season: SeasonOption = None,
    limit: Annotated[int, typer.Option(min=1, help="at most so many, those cut last first")] = 50,
    as_json: AsJson = False,
) -> None:
    """List stored pictures: of an alert's parcel, of a parcel, or those cut last."""
    with engine(resolve_dsn()).begin() as connection:
        if alert is None and parcel is None:
            rows = store.newest(connection, limit)
        else:
            key = _parcel_key(connection, _Asked(alert, parcel, collection, season))
            rows = store.chips_of(connection, key, limit=limit)
    if as_json:
        for row in rows:
            typer.echo(json.dumps(_plain(row)))
        return
    if not rows:
        console.print("no pictures are stored")
        return
    cells = [
        (row.chip_key, row.source_id, minute(row.observed_at), row.scene_id, row.revision, row.composite, _state(row))
        for row in rows
    ]
    console.print(table(("chip", "parcel", "observed", "scene", "revision", "picture", "what"), cells))


@app.command()
def show(
    alert: AlertArgument = None,
    parcel: ParcelOption = None,
    collection: CollectionOption = None,
    season: SeasonOption = None,
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("reports/chips"),
) -> None:
    """Write the pictures of a parcel to a folder as PNG, and say what each shows; of one that is missing why."""
    with engine(resolve_dsn()).begin() as connection:
        rows = store.chips_of(connection, _parcel_key(connection, _Asked(alert, parcel, collection, season)))
    if not rows:
        raise IngestError("no pictures of this parcel are stored; `parcelwatch chips cut` cuts them")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for row in rows:
            if row.image is None:
                line(f"{minute(row.observed_at)} {row.composite}: {_state(row)}")
                continue
            path = out / f"{row.chip_key}-{row.observed_at:%Y-%m-%d}-{row.composite}.png"
            path.write_bytes(row.image)
            line(
                f"{path}: {minute(row.observed_at)} UTC, revision {row.revision} of {row.scene_id}; {row.stretch}; bar {row.bar_m} m"
            )
    except OSError as error:
        raise IngestError(f"{out} cannot be written: {error.strerror}") from error


@app.command()
def prune(days: Annotated[int | None, typer.Option(min=0, help="else PARCELWATCH_IMAGERY_CHIP_DAYS")] = None) -> None:
    """Remove pictures that are older and of which no alert is open; what was shown stays on record with its SHA-256."""
    kept = timedelta(days=ImagerySettings().chip_days if days is None else days)
    with engine(resolve_dsn()).begin() as connection:
        line(f"{store.prune(connection, now() - kept, now())} pictures removed")


def _opener() -> Opener:
    places = terminal.places(SceneSettings())
    return Opener(os.environ, lambda source: terminal.session(source, threading.Event()), now, places)


class _Asked:
    """Whose pictures are meant: an alert's parcel, or a parcel by its id."""

    def __init__(self, alert: int | None, parcel: str | None, collection: str | None, season: str | None) -> None:
        if (alert is None) == (parcel is None):
            raise IngestError("say whose: ALERT, or --parcel with the agency's own id")
        self.alert, self.parcel, self.collection, self.season = alert, _storable(parcel), collection, season


def _storable(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "replace").decode("utf-8")


def _alert(connection: Connection, key: int) -> Departure:
    found = store.departure(connection, key)
    if found is None:
        raise IngestError(f"alert {key} is not stored; `parcelwatch alerts --all` lists those that are")
    return found


def _parcel_key(connection: Connection, asked: _Asked) -> int:
    """Return the parcel that is meant. Raises IngestError."""
    if asked.alert is not None:
        return _alert(connection, asked.alert).parcel_key
    found = history.find_parcel(connection, str(asked.parcel), asked.collection, asked.season)
    if not found:
        raise IngestError(f"no parcel {asked.parcel!r} is stored in that collection and season")
    if len({one[1] for one in found if one[2] == found[0][2]}) > 1:
        raise IngestError(f"{asked.parcel!r} is in several collections: name one with --collection")
    return found[0][0]


def _wanted(
    connection: Connection, asked: _Asked, first: datetime | None, last: datetime | None, at: datetime
) -> tuple[int, Sequence[Source]]:
    """Return the parcel and the observations to show: of an alert before and after, else all of the time."""
    if asked.alert is not None and first is None and last is None:
        alert = _alert(connection, asked.alert)
        return alert.parcel_key, store.to_show(connection, alert)
    key, begin = _parcel_key(connection, asked), first or datetime(1970, 1, 1, tzinfo=UTC)
    return key, store.sources(connection, key, begin, last or at)


def _state(row: ChipRow) -> str:
    if row.missing is not None:
        return f"missing: {row.missing}"
    if row.removed_at is not None:
        return f"removed {row.removed_at:%Y-%m-%d} (retention)"
    return f"{row.size or 0:,} bytes"


def _plain(row: ChipRow) -> dict[str, Any]:
    names = (one for one in ChipRow.__dataclass_fields__ if one != "image")
    return {name: value.isoformat() if isinstance(value := getattr(row, name), datetime) else value for name in names}
