"""`parcelwatch scenes poll|watch|pull|subscribe|sources`: where scenes are found."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Event
from typing import Annotated

import typer

from db.connect import engine
from db.scene_sources import parcel_box
from db.sensors import Sensor
from devstack.addresses import resolve_dsn
from ingest.errors import IngestError
from ingest.imagery.sensors import IMAGERY
from ingest.scenes import polling, terminal
from ingest.scenes.catalogue import Box
from ingest.scenes.due_sources import Poll, keep_polling, poll_once
from ingest.scenes.folder import SETTLED, Watch
from ingest.scenes.polling import Outcome, rounded, source_name
from ingest.scenes.profiles import load_profile, shipped_profiles
from ingest.scenes.sources import DatabaseSources
from ingest.scenes.subscription import Credentials, Subscription
from ingest.scenes.subscription import subscribe as make_subscription
from ingest.scenes.terminal import AsJson, Prefix, ProfileOption, json_line, line, minute, now
from terminal.output import console, table

Every = Annotated[
    float | None,
    typer.Option(
        min=0.05, metavar="MINUTES", help="Minutes between polls, until SIGTERM or Ctrl-C; default: poll once."
    ),
]
BoundingBox = Annotated[str | None, typer.Option("--bbox", help="WEST,SOUTH,EAST,NORTH in degrees.")]
Region = Annotated[str | None, typer.Option(help="The box around this region's parcels; default: around all parcels.")]
Season = Annotated[str | None, typer.Option(help="Only parcels of this season count for the box.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the `scenes` group."""
    for command in (poll, watch, pull, subscribe, sources):
        app.command()(command)


def poll(  # the options of the command
    profile: Annotated[str, typer.Argument(help=f"{', '.join(shipped_profiles())}, or the path of a TOML file.")],
    bbox: BoundingBox = None,
    region: Region = None,
    season: Season = None,
    sensor: Annotated[list[str] | None, typer.Option(help="S1, S2; default: all that the profile has.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Earliest acquisition; default: as the last time, at first ten days."),
    ] = None,
    every: Every = None,
    topic_prefix: Prefix = None,
) -> None:
    """Ask a STAC API for scenes published since the last time, and put new ones on the scenes topic."""
    loaded, box = load_profile(profile), _box(bbox, region, season)
    sensors = [_sensor(name) for name in sensor or sorted(loaded.sensors)]
    for one in sensors:
        loaded.reading(one)
    earliest = since.replace(tzinfo=UTC) if since else None
    stop = terminal.begin()
    kept, http = DatabaseSources(engine(resolve_dsn())), terminal.session(loaded.name, stop)

    def poll_of(one: Sensor) -> Poll:
        def poll_source(at: datetime, next_at: datetime | None) -> None:
            _show(
                polling.poll(
                    loaded, one, box, earliest, at, http=http, publish=publisher.publish, sources=kept, next_at=next_at
                )
            )

        return poll_source

    with terminal.publisher(topic_prefix) as publisher:
        _poll_all({source_name(loaded, one, box): poll_of(one) for one in sensors}, kept, every, stop)


def watch(
    folder: Annotated[Path, typer.Argument(help="SAFE folders and zips, and STAC items (.json) beside their COGs.")],
    profile: ProfileOption = None,
    settled: Annotated[float, typer.Option(min=0, help="Seconds without a change that make a product whole.")] = (
        SETTLED.total_seconds()
    ),
    every: Every = None,
    topic_prefix: Prefix = None,
) -> None:
    """Put the scenes of a folder on the scenes topic, each once, when it is whole."""
    if not folder.is_dir():
        raise IngestError(f"{folder}: no such folder")
    watched = Watch(folder, load_profile(profile) if profile else None, timedelta(seconds=settled))
    stop, kept = terminal.begin(), DatabaseSources(engine(resolve_dsn()))
    terminal.name_places([str(folder)])

    def poll_source(at: datetime, next_at: datetime | None) -> None:
        found = watched.poll(at, partial(publisher.publish, or_mended=True))
        kept.succeeded(found.outcome, at, next_at)
        for why in found.new_rejections:
            line(f"  rejected: {why}")
        waits = f"; {found.waiting.count} not whole yet ({found.waiting.first})" if found.waiting.count else ""
        _show(found.outcome, waits)

    with terminal.publisher(topic_prefix) as publisher:
        _poll_all({watched.source: poll_source}, kept, every, stop)


def pull(
    subscription_id: Annotated[str, typer.Argument(help="As `scenes subscribe` printed it.")],
    profile: Annotated[str, typer.Option(help="Profile of the STAC catalogue that has the products' items.")] = (
        "copernicus"
    ),
    every: Every = None,
    topic_prefix: Prefix = None,
) -> None:
    """Read a pull subscription of the Copernicus Data Space, and acknowledge what is on the scenes topic.

    Token in PARCELWATCH_CDSE_TOKEN, or user and password in PARCELWATCH_CDSE_USER and PARCELWATCH_CDSE_PASSWORD.
    """
    stop = terminal.begin()
    kept, http = DatabaseSources(engine(resolve_dsn())), terminal.session("cdse", stop)
    credentials = Credentials(os.environ, http, now)
    subscription = Subscription(subscription_id, load_profile(profile), http, credentials)

    def poll_source(at: datetime, next_at: datetime | None) -> None:
        pulled = subscription.pull(at, publisher.publish)
        kept.succeeded(pulled.outcome, at, next_at)
        _show(pulled.outcome, f"; the queue waits: {pulled.waiting.first}" if pulled.waiting.count else "")

    with terminal.publisher(topic_prefix) as publisher:
        _poll_all({subscription.source: poll_source}, kept, every, stop)


def subscribe(bbox: BoundingBox = None, region: Region = None, season: Season = None) -> None:
    """Make a pull subscription to Sentinel-2 L2A at the Copernicus Data Space, and print its id (one may run at a time)."""
    box, http = _box(bbox, region, season), terminal.session("cdse", terminal.begin())
    typer.echo(make_subscription(http, Credentials(os.environ, http, now), box))


def sources(
    forget: Annotated[
        str | None, typer.Option(help="Take this source off the list: it is not polled any more.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the sources of scenes: how far each was polled, what was found, what failed, when the next poll is."""
    kept = DatabaseSources(engine(resolve_dsn()))
    if forget is not None:
        if not kept.forget(forget):
            raise IngestError(f"no source {forget!r}; see `scenes sources`")
        return
    found = kept.all()
    if as_json:
        for source in found:
            json_line(asdict(source))
        return
    if not found:
        console.print("no sources yet: `parcelwatch scenes poll`, `watch` or `pull` make them")
        return
    rows = [
        (one.source, minute(one.polled_to), minute(one.looked_at), f"{one.new_scenes:,}", minute(one.next_at))
        for one in found
    ]
    console.print(table(("source", "polled to", "last poll", "new", "next poll"), rows))
    for source in found:
        if source.rejected:
            line(f"{source.source}: {source.rejected} rejected at the last poll, as: {source.last_rejection}")
        if source.last_error:
            in_row = (
                f"{source.errors_in_row} failed polls in a row, the last" if source.errors_in_row else "last failure"
            )
            line(f"{source.source}: {in_row} {minute(source.last_error_at)}: {source.last_error}")


def _poll_all(polls: Mapping[str, Poll], kept: DatabaseSources, every: float | None, stop: Event) -> None:
    if every is not None:
        keep_polling(polls, kept, timedelta(minutes=every), stop, now, kept.find)
    elif poll_once(polls, kept, now):
        raise typer.Exit(1)


def _box(bbox: str | None, region: str | None, season: str | None) -> Box:
    """Return the box that was said, or the one around parcels, grown to tenths of a degree."""
    if bbox is not None:
        if region or season:
            raise IngestError("--bbox stands for itself: leave --region and --season out")
        return _parsed_box(bbox)
    with engine(resolve_dsn()).begin() as connection:
        found = parcel_box(connection, season, None, region)
    if found is None:
        raise IngestError("no parcels are stored there: import some (parcelwatch parcels import), or say --bbox")
    return rounded(found)


def _parsed_box(text: str) -> Box:
    try:
        west, south, east, north = (float(side) for side in text.split(","))
    except ValueError:
        raise IngestError(f"--bbox {text!r}: four numbers WEST,SOUTH,EAST,NORTH") from None
    if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
        raise IngestError(f"--bbox {text!r}: west before east within 180, south before north within 90 degrees")
    return west, south, east, north


def _sensor(name: str) -> Sensor:
    found = next((sensor for sensor in IMAGERY if sensor == name.upper()), None)
    if found is None:
        raise IngestError(f"--sensor {name!r}: {' or '.join(IMAGERY)}")
    return found


def _show(outcome: Outcome, more: str = "") -> None:
    rejected = f"; {outcome.rejected.count} rejected ({outcome.rejected.first})" if outcome.rejected.count else ""
    line(f"{outcome.source}: {outcome.new} new, {outcome.known} known{rejected}{more}")
