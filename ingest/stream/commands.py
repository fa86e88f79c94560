"""`parcelwatch ingest`: the consumer, and what became of the messages that it could not store."""

import json
import logging
from datetime import UTC, datetime
from typing import Annotated, get_args

import typer

from db import dead_letters
from db.connect import engine
from devstack.addresses import resolve_broker, resolve_dsn
from ingest.errors import ReasonCode
from ingest.stream.consumer import Consumer
from ingest.stream.dead_letters import redrive as put_back
from ingest.stream.metrics import summary
from ingest.stream.producer import Sender
from ingest.stream.settings import IngestSettings
from terminal.output import console, plain
from terminal.signals import stop_on_signals

app = typer.Typer(no_args_is_help=True, help="Observations from the stream into the database, each exactly once.")


def _known_reason(code: str | None) -> str | None:
    if code is not None and code not in get_args(ReasonCode):
        raise typer.BadParameter(f"{code!r} is no reason code; known: {', '.join(get_args(ReasonCode))}")
    return code


Reason = Annotated[str | None, typer.Option(help="Only dead letters with this reason code.", callback=_known_reason)]


@app.command()
def run(
    group: Annotated[str | None, typer.Option(help="Consumer group; default: take every partition alone.")] = None,
    member: Annotated[
        str | None, typer.Option(help="A name in the group, kept over restarts: its partitions wait for it for 10 s.")
    ] = None,
    topic_prefix: Annotated[str | None, typer.Option(help="First part of the topics' names.")] = None,
    accept_gap: Annotated[
        bool, typer.Option(help="Go on behind records that the broker deleted unread or whose codec is unknown.")
    ] = False,
    until_end: Annotated[bool, typer.Option(help="Store what the topics hold now, then stop.")] = False,
) -> None:
    """Store observations until it is stopped (SIGTERM or Ctrl-C: the batch in hand is committed first).

    More settings in the environment: PARCELWATCH_INGEST_FLUSH_SECONDS, ..._REJECT_CAP and others.
    """
    given = {"group_id": group, "member": member, "topic_prefix": topic_prefix, "accept_gap": accept_gap or None}
    if until_end and group:
        raise typer.BadParameter("--until-end takes every partition alone: leave --group out")
    settings = IngestSettings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # the consumer says itself when the broker is away, once
    consumer = Consumer(engine(resolve_dsn()), resolve_broker().bootstrap, settings, lambda: datetime.now(UTC))
    try:
        counts = consumer.catch_up() if until_end else consumer.run(stop_on_signals())
    finally:
        consumer.close()
    console.print(f"ingest: {summary(counts)}")


@app.command("dead-letters")
def list_dead_letters(
    limit: Annotated[int, typer.Option(min=1, help="How many examples; with --json, dead letters, newest first.")] = 20,
    reason: Reason = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List what was rejected: how many wait for each reason, with examples."""
    with engine(resolve_dsn()).begin() as connection:
        if as_json:
            for stored in dead_letters.newest(connection, limit, reason):
                typer.echo(json.dumps(_plain(stored)))
            return
        found, counted = dead_letters.examples(connection, limit, reason), dead_letters.count_by_reason(connection)
    if not found:
        console.print("no dead letters" + (f" with reason {reason}" if reason else ""))
        return
    for code, (waiting, redriven) in counted.items():
        if reason in (None, code):
            console.print(f"{plain(code)}: {waiting} waiting, {redriven} sent again", soft_wrap=True)
        for one in (one for one in found if one.reason_code == code):
            source = _source(one.topic, one.partition, one.message_offset, one.row_in_message)
            console.print(
                f"  {one.waiting + one.redriven} x {plain(one.reason)}; newest: {plain(source)}, {one.recorded_at:%Y-%m-%d %H:%M} UTC",
                soft_wrap=True,
            )
    if any(waiting for waiting, _ in counted.values()):
        console.print("mend the cause, then `parcelwatch ingest redrive`; --json lists single dead letters")


@app.command()
def redrive(reason: Reason = None) -> None:
    """Put dead letters back on their topics, for instance after the parcels they name were imported."""
    database, broker = engine(resolve_dsn()), resolve_broker()
    sender = Sender(broker.bootstrap, IngestSettings().max_message_bytes)
    try:
        number = put_back(database, sender, reason, datetime.now(UTC))
    finally:
        sender.close()
    console.print(f"{number} dead letters are back on their topics; `parcelwatch ingest run` validates them anew")


def _plain(stored: dead_letters.StoredDeadLetter) -> dict[str, object]:
    dead_letter = stored.dead_letter
    return {
        "key": stored.dead_letter_key,
        "recorded_at": stored.recorded_at.isoformat(),
        "source": _source(
            dead_letter.topic, dead_letter.partition, dead_letter.message_offset, dead_letter.row_in_message
        ),
        "reason_code": dead_letter.reason_code,
        "reason": dead_letter.reason,
        "content_type": dead_letter.content_type,
        "bytes": len(dead_letter.payload),
        "repeats": dead_letter.repeats,
        "redriven_at": stored.redriven_at and stored.redriven_at.isoformat(),
    }


def _source(topic: str, partition: int, offset: int, row: int) -> str:
    return f"{topic}/{partition}/{offset}" + ("" if row == dead_letters.WHOLE_MESSAGE else f"[{row}]")
