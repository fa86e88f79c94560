"""What the commands of `parcelwatch scenes` share: lines for people, the log, sessions with sources, the publisher."""

import json
import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from db import scenes as ledger
from db.connect import engine
from devstack.addresses import resolve_broker, resolve_dsn
from ingest.scenes.access import unsigned
from ingest.scenes.http_retries import Clock, Http, Patience
from ingest.scenes.places import Places, named
from ingest.scenes.publish import ScenePublisher
from ingest.scenes.settings import SceneSettings
from ingest.stream.settings import IngestSettings
from terminal.output import console, printable
from terminal.signals import stop_on_signals

Prefix = Annotated[str | None, typer.Option(help="First part of the topics' names.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
ProfileOption = Annotated[str | None, typer.Option(help="Profile that reads items; default: names that are known.")]


class Unsigned(logging.Formatter):
    """Lines without signatures, whoever wrote them: GDAL writes addresses in full."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(printable(one) for one in unsigned(super().format(record)).splitlines())


def begin() -> threading.Event:
    """Log to the terminal's error stream; return the event that signals set, which ends loops and waits."""
    handler = logging.StreamHandler()
    handler.setFormatter(Unsigned("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # publisher and worker say themselves when the broker is away
    logging.getLogger("rasterio").setLevel(logging.WARNING)  # what it logs below that, the scene's own line has too
    return stop_on_signals()


def session(source: str, stop: threading.Event) -> Http:
    """Return patient requests to a source."""
    return Http(source, Patience(), Clock(now, stop.wait, random.uniform))


def publisher(topic_prefix: str | None) -> ScenePublisher:
    """Return a publisher on the scenes topic."""
    return ScenePublisher(engine(resolve_dsn()), resolve_broker().bootstrap, ingest_settings(topic_prefix), now)


def places(settings: SceneSettings) -> Callable[[], Places]:
    """Return where files may be read from, asked anew each time: somebody may name a folder meanwhile."""

    def allowed() -> Places:
        with engine(resolve_dsn()).begin() as connection:
            return Places.of(ledger.named_places(connection), settings.folders, settings.hosts)

    return allowed


def name_places(given: Sequence[str]) -> None:
    """Keep the folders and hosts of paths and addresses that a person gave: workers may read from there."""
    with engine(resolve_dsn()).begin() as connection:
        ledger.name_places(connection, [named(one) for one in given], now())


def ingest_settings(topic_prefix: str | None) -> IngestSettings:
    """Return settings of the topics, from the environment where nothing else was said."""
    return IngestSettings(topic_prefix=topic_prefix) if topic_prefix else IngestSettings()


def line(text: str) -> None:
    """One line, as it is."""
    console.print(printable(text), markup=False, highlight=False, soft_wrap=True)


def json_line(facts: Mapping[str, Any]) -> None:
    """One JSON object on a line."""
    typer.echo(
        json.dumps({name: value.isoformat() if isinstance(value, datetime) else value for name, value in facts.items()})
    )


def minute(moment: datetime | None) -> str:
    """Return a time for people."""
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""


def now() -> datetime:
    """Return the time: only the command line may ask."""
    return datetime.now(UTC)
