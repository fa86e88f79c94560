"""`parcelwatch scenes poll|watch|pull|subscribe|sources`: where scenes are found."""

import json
import logging
import os
import random
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from db.connect import engine
from db.scene_sources import SceneSource, parcel_box
from db.settings import resolve_broker, resolve_dsn
from ingest.commands import _stop_on_signals
from ingest.errors import BrokerUnavailable, DeliveryFailed, IngestError
from ingest.scenes import polling
from ingest.scenes.catalogue import Box
from ingest.scenes.folder import SETTLED, Watch
from ingest.scenes.looking import Look, keep_looking, look_once
from ingest.scenes.polling import Outcome, Publish, rounded, source_name
from ingest.scenes.profiles import load_profile, shipped_profiles
from ingest.scenes.publish import Published, ScenePublisher
from ingest.scenes.record import FoundScene
from ingest.scenes.retrying import Clock, Http, Patience
from ingest.scenes.sources import DatabaseSources
from ingest.scenes.subscription import Credentials, Subscription
from ingest.scenes.subscription import subscribe as make_subscription
from ingest.schemas import Sensor
from ingest.settings import IngestSettings

console = Console()

Every = Annotated[
    float | None, typer.Option(min=0.05, help="Minutes between looks, until SIGTERM or Ctrl-C; default: look once.")
]
Prefix = Annotated[str | None, typer.Option(help="First part of the topics' names.")]
BoundingBox = Annotated[str | None, typer.Option("--bbox", help="WEST,SOUTH,EAST,NORTH in degrees.")]
Region = Annotated[str | None, typer.Option(help="The box around this region's parcels; default: around all parcels.")]
Season = Annotated[str | None, typer.Option(help="Only parcels of this season count for the box.")]
ProfileOption = Annotated[str | None, typer.Option(help="Profile that reads items; default: names that are known.")]


def register(app: typer.Typer) -> None:
    """Adds the commands to the `scenes` group."""
    for command in (poll, watch, pull, subscribe, sources):
        app.command()(command)


def poll(
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
    """Asks a STAC API for scenes published since the last time, and puts new ones on the scenes topic."""
    loaded, box = load_profile(profile), _box(bbox, region, season)
    sensors = [_sensor(name) for name in sensor or sorted(loaded.sensors)]
    for one in sensors:
        loaded.reading(one)
    earliest = since.replace(tzinfo=UTC) if since else None
    stop = _begin()
    kept, http = DatabaseSources(engine(resolve_dsn())), _session(loaded.name, stop)

    def look_of(one: Sensor) -> Look:
        def look(now: datetime, next_at: datetime | None) -> None:
            _show(
                polling.poll(
                    loaded, one, box, earliest, now, http=http, publish=publish, sources=kept, next_at=next_at
                )
            )  # fmt: skip

        return look

    with _publisher(topic_prefix) as publish:
        _look({source_name(loaded, one, box): look_of(one) for one in sensors}, kept, every, stop)


def watch(
    folder: Annotated[Path, typer.Argument(help="SAFE folders and zips, and STAC items (.json) beside their COGs.")],
    profile: ProfileOption = None,
    settled: Annotated[float, typer.Option(min=0, help="Seconds without a change that make a product whole.")] = (
        SETTLED.total_seconds()
    ),
    every: Every = None,
    topic_prefix: Prefix = None,
) -> None:
    """Puts the scenes of a folder on the scenes topic, each once, when it is whole."""
    watched = Watch(folder, load_profile(profile) if profile else None, timedelta(seconds=settled))
    stop, kept = _begin(), DatabaseSources(engine(resolve_dsn()))

    def look(now: datetime, next_at: datetime | None) -> None:
        found = watched.look(now, publish)
        kept.succeeded(found.outcome, now, next_at)
        for told in found.told:
            _line(f"  rejected: {told}")
        waits = f"; {found.waiting.count} not whole yet ({found.waiting.first})" if found.waiting.count else ""
        _show(found.outcome, waits)

    with _publisher(topic_prefix) as publish:
        _look({watched.source: look}, kept, every, stop)


def pull(
    subscription_id: Annotated[str, typer.Argument(help="As `scenes subscribe` printed it.")],
    profile: Annotated[str, typer.Option(help="Profile of the STAC catalogue that has the products' items.")] = (
        "copernicus"
    ),
    every: Every = None,
    topic_prefix: Prefix = None,
) -> None:
    """Reads a pull subscription of the Copernicus Data Space, and acknowledges what is on the scenes topic.

    Token in PARCELWATCH_CDSE_TOKEN, or user and password in PARCELWATCH_CDSE_USER and PARCELWATCH_CDSE_PASSWORD.
    """
    stop = _begin()
    kept, http = DatabaseSources(engine(resolve_dsn())), _session("cdse", stop)
    credentials = Credentials(os.environ, http, _now)
    subscription = Subscription(subscription_id, load_profile(profile), http, credentials)

    def look(now: datetime, next_at: datetime | None) -> None:
        pulled = subscription.pull(now, publish)
        kept.succeeded(pulled.outcome, now, next_at)
        _show(pulled.outcome, f"; the queue waits: {pulled.waiting.first}" if pulled.waiting.count else "")

    with _publisher(topic_prefix) as publish:
        _look({subscription.source: look}, kept, every, stop)


def subscribe(bbox: BoundingBox = None, region: Region = None, season: Season = None) -> None:
    """Makes a pull subscription to Sentinel-2 L2A at the Copernicus Data Space, and prints its id (one may run at a time)."""
    box, http = _box(bbox, region, season), _session("cdse", _begin())
    typer.echo(make_subscription(http, Credentials(os.environ, http, _now), box))


def sources(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Lists where scenes are looked for: how far, what was found, what failed, when the next look is."""
    found = DatabaseSources(engine(resolve_dsn())).all()
    if as_json:
        for source in found:
            typer.echo(json.dumps(_plain(source)))
        return
    if not found:
        console.print("no sources yet: `parcelwatch scenes poll`, `watch` or `pull` make them")
        return
    table = Table("source", "polled to", "last look", "new", "next look")
    for source in found:
        table.add_row(
            escape(source.source), _minute(source.polled_to), _minute(source.looked_at), f"{source.new_scenes:,}",
            _minute(source.next_at),
        )  # fmt: skip
    console.print(table)
    for source in found:
        if source.rejected:
            _line(f"{source.source}: {source.rejected} rejected at the last look, as: {source.last_rejection}")
        if source.last_error:
            in_row = (
                f"{source.errors_in_row} failed looks in a row, the last" if source.errors_in_row else "last failure"
            )
            _line(f"{source.source}: {in_row} {_minute(source.last_error_at)}: {source.last_error}")


def _look(looks: Mapping[str, Look], kept: DatabaseSources, every: float | None, stop: threading.Event) -> None:
    if every is not None:
        keep_looking(looks, kept, timedelta(minutes=every), stop, _now, kept.find)
    elif look_once(looks, kept, _now):
        raise typer.Exit(1)


def _begin() -> threading.Event:
    """Lines about retries and failures go to the terminal's error stream; signals end waits."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # the publisher says itself when the broker is away
    return _stop_on_signals()


def _session(source: str, stop: threading.Event) -> Http:
    return Http(source, Patience(), Clock(_now, stop.wait, random.uniform))


@contextmanager
def _publisher(topic_prefix: str | None) -> Iterator[Publish]:
    """A publisher on the scenes topic that connects anew after a failure."""
    settings = IngestSettings(topic_prefix=topic_prefix) if topic_prefix else IngestSettings()
    with ScenePublisher(engine(resolve_dsn()), resolve_broker().bootstrap, settings, _now) as publisher:

        def publish(found: Iterable[FoundScene]) -> Published:
            try:
                return publisher.publish(found)
            except (BrokerUnavailable, DeliveryFailed):
                publisher.close()
                raise

        yield publish


def _box(bbox: str | None, region: str | None, season: str | None) -> Box:
    """The box that was said, or the one around parcels, grown to tenths of a degree."""
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
    known: Mapping[str, Sensor] = {"S1": "S1", "S2": "S2"}
    if name.upper() not in known:
        raise IngestError(f"--sensor {name!r}: S1 or S2")
    return known[name.upper()]


def _show(outcome: Outcome, more: str = "") -> None:
    rejected = f"; {outcome.rejected.count} rejected ({outcome.rejected.first})" if outcome.rejected.count else ""
    _line(f"{outcome.source}: {outcome.new} new, {outcome.known} known{rejected}{more}")


def _line(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _plain(source: SceneSource) -> dict[str, object]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(source).items()}


def _minute(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""


def _now() -> datetime:
    return datetime.now(UTC)
