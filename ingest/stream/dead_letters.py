"""Dead letters on their topic: what was rejected, with why in the headers, and the way back."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from db import dead_letters
from db.connect import Engine
from db.dead_letters import DeadLetter, StoredDeadLetter
from ingest.stream.producer import Sender
from ingest.stream.record_batches import REDRIVEN_FROM

_REDRIVEN_AT_ONCE: Final = 500
"""Dead letters in one transaction: their payloads are held in memory (8 MB at most each, a few kB as a rule)."""


def publish(sender: Sender, topic: str, rejected: Sequence[DeadLetter], max_bytes: int) -> None:
    """Put dead letters on their topic and wait until the broker has them; raises DeliveryFailed.

    After a crash one may come twice; its key (topic, partition, offset and row) shows that it is the same one. A
    payload above `max_bytes` is cut to nothing here: the table `dead_letters` has it whole.
    """
    for dead_letter in rejected:
        is_whole = len(dead_letter.payload) <= max_bytes
        sender.send(
            topic,
            dead_letter.payload if is_whole else b"",
            [
                ("content-type", (dead_letter.content_type or "application/octet-stream").encode("latin-1", "replace")),
                ("reason-code", dead_letter.reason_code.encode()),
                ("reason", dead_letter.reason.encode()),
                (
                    "source",
                    f"{dead_letter.topic}/{dead_letter.partition}/{dead_letter.message_offset}/{dead_letter.row_in_message}".encode(),
                ),
                ("payload", b"whole" if is_whole else b"in the table only"),
            ],
            key=f"{dead_letter.stream}/{dead_letter.partition}/{dead_letter.message_offset}/{dead_letter.row_in_message}".encode(),
        )
    if rejected:
        sender.flush()


def redrive(engine: Engine, sender: Sender, reason_code: str | None, now: datetime) -> int:
    """Put dead letters that wait now back on the topics they came from and mark them; return how many.

    Those that a running consumer rejects meanwhile are new dead letters, which wait for the next redrive: each names the
    first one that it repeats. Sent before marked: a crash between the two sends one again, which changes nothing,
    because a stored observation has its natural key. Raises DeliveryFailed.
    """
    sent = after = 0
    with engine.begin() as connection:
        newest = dead_letters.newest_key(connection)
    while True:
        with engine.begin() as connection:
            waiting = dead_letters.lock_waiting(connection, _REDRIVEN_AT_ONCE, reason_code, after, newest)
            if not waiting:
                return sent
            for stored in waiting:
                sender.send(stored.dead_letter.topic, stored.dead_letter.payload, _headers_of(stored))
            sender.flush()
            dead_letters.mark_redriven(connection, [stored.dead_letter_key for stored in waiting], now)
        sent, after = sent + len(waiting), waiting[-1].dead_letter_key


def _headers_of(stored: StoredDeadLetter) -> list[tuple[str, bytes]]:
    first = stored.dead_letter.repeats or stored.dead_letter_key
    headers = [(REDRIVEN_FROM, str(first).encode())]
    if stored.dead_letter.content_type:
        headers.append(("content-type", stored.dead_letter.content_type.encode("latin-1", "replace")))
    return headers
