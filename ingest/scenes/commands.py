"""`parcelwatch scenes`: found, cut and reconciled; what finds them is in `find_commands`."""

import os
import re
import socket
import threading
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, cast

import typer

from db import found_scenes as ledger
from db.connect import Connection, engine
from db.found_scenes import LedgerRow
from db.scenes import STATES, State
from devstack.addresses import resolve_broker, resolve_dsn
from devstack.folders import cache_folder
from ingest.errors import IngestError
from ingest.imagery.settings import ImagerySettings
from ingest.scenes import find_commands, terminal
from ingest.scenes.adding import scenes_at
from ingest.scenes.home_tiles import TAKEN_OVER_AFTER
from ingest.scenes.opening import Opener
from ingest.scenes.profiles import load_profile
from ingest.scenes.settings import SceneSettings
from ingest.scenes.terminal import AsJson, Prefix, ProfileOption, json_line, line, minute, now
from ingest.scenes.worker import Settings, Worker
from terminal.output import console, table

app = typer.Typer(no_args_is_help=True, help="Scenes: found, cut into observations, and accounted for.")
find_commands.register(app)


def _known_state(name: str | None) -> str | None:
    if name is not None and name not in STATES:
        raise typer.BadParameter(f"{name!r} is no state; known: {', '.join(STATES)}")
    return name


@app.command()
def add(
    places: Annotated[
        list[str], typer.Argument(help="SAFE folders or zips, STAC items (file or URL), COG folders, folders of these.")
    ],
    profile: ProfileOption = None,
    topic_prefix: Prefix = None,
) -> None:
    """Put scenes on the scenes topic; of those that the ledger knows only the failed, to be read from here."""
    loaded = load_profile(profile) if profile else None
    found = [scene for place in places for scene in scenes_at(place, loaded, _fetched, now())]
    terminal.name_places(places)
    with terminal.publisher(topic_prefix) as publisher:
        published = publisher.publish(found, or_mended=True)
    line(f"{published.new} new, {published.known} known")


@app.command("list")
def list_(
    state: Annotated[str | None, typer.Option(help=f"{', '.join(STATES)}.", callback=_known_state)] = None,
    since: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Found since.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, those found last first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List scenes, how far each is and whether its parcels add up."""
    with engine(resolve_dsn()).begin() as connection:
        rows = ledger.ledger(
            connection, state=cast(State | None, state), since=since.replace(tzinfo=UTC) if since else None, limit=limit
        )
        counted = ledger.count_by_state(connection)
    if as_json:
        for row in rows:
            json_line(_plain(row))
        return
    if not rows:
        console.print("no scenes" if not state and not since else "no such scenes")
        return
    cells = [
        (
            row.scene_id,
            row.state,
            minute(acquired(row)),
            minute(row.found_at),
            _number(row.expected),
            _number(row.emitted),
            _number(row.stored if row.emitted is not None else None),
            _number(row.skipped),
            row.cause,
        )
        for row in rows
    ]
    console.print(
        table(("scene", "state", "acquired", "found", "expected", "emitted", "stored", "skipped", "why"), cells)
    )
    line(", ".join(f"{n} {name}" for name, n in counted.items()))


@app.command()
def show(scene_id: Annotated[str, typer.Argument(help="As `list` has it.")], as_json: AsJson = False) -> None:
    """Show what became of a scene, and of every parcel on it."""
    with engine(resolve_dsn()).begin() as connection:
        row = _the_row(connection, scene_id)
    if as_json:
        json_line(_plain(row))
        return
    facts = _facts(row)
    if row.expected is not None:
        taken_back = f" ({row.withdrawn} of them taken back)" if row.withdrawn else ""
        facts += [("parcels expected", _number(row.expected)), ("  emitted", f"{_number(row.emitted)}{taken_back}")]
        for reason, n in sorted(row.skipped_by.items(), key=lambda entry: -entry[1]):
            elsewhere = (row.homes or {}) if reason == "other_tile" else {}
            where = ", ".join(f"{tile} {its:,}" for tile, its in elsewhere.items())
            facts.append((f"  skipped: {reason}", f"{_number(n)}{f' ({where})' if where else ''}"))
        facts.append(("adds up", "yes" if row.adds_up else "NO: expected is not emitted + skipped; please report it"))
        facts.append(("in the store", _number(row.stored)))
    console.print(table(("scene", row.scene_id), facts))
    if row.expected is not None and not row.is_stored:
        line(f"{(row.emitted or 0) - row.stored} not stored yet: the consumer is behind, or see `ingest dead-letters`")


@app.command()
def retry(
    scene_ids: Annotated[list[str] | None, typer.Argument(help="Scenes in any state.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that failed.")] = False,
    empty: Annotated[
        bool, typer.Option("--empty", help="All that had no parcels, after parcels were imported.")
    ] = False,
    missing_tile: Annotated[
        bool,
        typer.Option("--missing-tile", help="All that left parcels to a tile whose product has not come within a day."),
    ] = False,
) -> None:
    """Let scenes be cut again; one that was cut emits the same again, and what changed since."""
    chosen: list[State] = [*(["failed"] if failed else []), *(["empty"] if empty else [])]  # type: ignore[list-item]
    if bool(scene_ids) == bool(chosen or missing_tile):
        raise IngestError("say which: SCENE_ID ..., or --failed, --empty, --missing-tile")
    with engine(resolve_dsn()).begin() as connection:
        for scene_id in scene_ids or ():
            row = _the_row(connection, scene_id)
            if row.state == "cutting" and row.lease_until and row.lease_until > now():
                raise IngestError(f"scene {scene_id}: {row.worker} is at it; wait for it, or stop that worker")
        due = ledger.retry(connection, scene_ids, STATES, now()) if scene_ids else []
        due += ledger.retry(connection, None, chosen, now()) if chosen else []
        if missing_tile:
            lacking = ledger.left_to_missing_tiles(connection, now() - TAKEN_OVER_AFTER)
            due += ledger.retry(connection, lacking, ["cut"], now())
        used = {scene_id: _the_row(connection, scene_id).record for scene_id in due}
    for scene_id, record in used.items():
        line(f"{scene_id}: {_read_from(record)}")
    line(f"{len(due)} scenes are due again")


@app.command()
def work(
    until_idle: Annotated[bool, typer.Option("--until-idle", help="Stop when nothing is left to do now.")] = False,
    group: Annotated[
        str | None, typer.Option(help="Consumer group; default: the ledger alone shares the work.")
    ] = None,
    topic_prefix: Prefix = None,
) -> None:
    """Cut scenes until it is stopped (SIGTERM or Ctrl-C: the scene in hand is finished first). Start as many as you like.

    More settings in the environment: PARCELWATCH_SCENES_LEASE_S, ..._TRIES, PARCELWATCH_IMAGERY_THREADS and others.
    """
    scenes = SceneSettings(group_id=group) if group else SceneSettings()
    folder = scenes.index_folder or cache_folder(os.environ, os.geteuid() == 0) / "index"
    stop = terminal.begin()
    settings = Settings(terminal.ingest_settings(topic_prefix), scenes, ImagerySettings(), folder)
    opener = Opener(os.environ, lambda source: terminal.session(source, stop), now, terminal.places(scenes))
    name = f"{socket.gethostname()}-{os.getpid()}"
    worker = Worker(engine(resolve_dsn()), resolve_broker().bootstrap, settings, opener, name, now)
    try:
        ends = worker.run(stop, until_idle)
    finally:
        worker.close()
    line(f"scenes: {', '.join(f'{n} {end}' for end, n in ends.items()) or 'none'}")


def acquired(row: LedgerRow) -> datetime | None:
    """Return when a scene was acquired, as its item or its name says; None where neither does."""
    said = ((row.record.get("item") or {}).get("properties") or {}).get("datetime")
    stamp = re.search(r"_(\d{8}T\d{6})_", f"{row.scene_id}_")
    try:
        return datetime.fromisoformat(str(said or (stamp and f"{stamp[1]}+00:00"))).astimezone(UTC)
    except ValueError:
        return None


def _read_from(record: Mapping[str, Any]) -> str:
    """Say which item or product a scene is read by, and whether its file says something else by now."""
    href = str(record["href"])
    if record["kind"] == "safe":
        return f"read from {href}"
    text = f"read by the item of {href} as found {record['found_at'][:16]}"
    if href.startswith("/"):
        try:
            loaded = load_profile(record["profile"]) if record["profile"] else None
            (now_there,) = scenes_at(href, loaded, _fetched, now())
            if now_there.item != record["item"]:
                text += "; the file was changed since: `scenes add` it to use it"
        except (IngestError, ValueError) as error:
            text += f"; the file cannot be used now: {error}"
    return text


def _the_row(connection: Connection, scene_id: str) -> LedgerRow:
    found = ledger.ledger(connection, scene_id=scene_id, limit=1)
    if not found:
        raise IngestError(f"scene {scene_id!r} is not in the ledger; see `scenes list`")
    return found[0]


def _facts(row: LedgerRow) -> list[tuple[str, str]]:
    """Return what is known of a scene, in the order in which it came to be known."""
    facts = [
        ("state", row.state),
        ("acquired", minute(acquired(row))),
        ("found", f"{minute(row.found_at)} by {row.record['source']}"),
        ("at", row.record["href"]),
        ("datatake", row.datatake),
        ("processing", f"{row.baseline} {minute(row.processed_at)}" if row.baseline else None),
        ("revision", row.revision),
        ("attempts", row.attempts),
        ("worker", row.worker),
        ("begun", minute(row.begun_at)),
        ("ended", minute(row.ended_at)),
        ("cause", row.cause),
        ("message", row.told),
        ("tried again", minute(row.next_try_at)),
        ("superseded by", row.superseded_by),
    ]
    return [(what, str(value)) for what, value in facts if value not in (None, "")]


def _plain(row: LedgerRow) -> dict[str, Any]:
    facts = asdict(row)
    record = facts.pop("record")
    return facts | {"source": record["source"], "href": record["href"], "acquired_at": acquired(row)}


def _fetched(address: str) -> Any:
    return terminal.session("item", threading.Event()).json("GET", address)


def _number(n: int | None) -> str:
    return "" if n is None else f"{n:,}"
