"""Dead letters on their topic: what was rejected, with why in the headers, and the way back."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from db import dead_letters
from db.connect import Engine
from db.dead_letters import Letter, StoredLetter
from ingest.stream.producer import Sender
from ingest.stream.record_batches import REDRIVEN_FROM

_REDRIVEN_AT_ONCE: Final = 500
"""Letters in one transaction: their payloads are held in memory (8 MB at most each, a few kB as a rule)."""


def publish(sender: Sender, topic: str, letters: Sequence[Letter], max_bytes: int) -> None:
    """Puts letters on the dead-letter topic and waits until the broker has them; raises DeliveryFailed.

    After a crash a letter may come twice; its key (topic, partition, offset and row) says that it is the same one. A
    payload above `max_bytes` is cut to nothing here: the table `dead_letters` has it whole.
    """
    for letter in letters:
        is_whole = len(letter.payload) <= max_bytes
        sender.send(
            topic,
            letter.payload if is_whole else b"",
            [
                ("content-type", (letter.content_type or "application/octet-stream").encode("latin-1", "replace")),
                ("reason-code", letter.reason_code.encode()),
                ("reason", letter.reason.encode()),
                (
                    "source",
                    f"{letter.topic}/{letter.partition}/{letter.message_offset}/{letter.row_in_message}".encode(),
                ),
                ("payload", b"whole" if is_whole else b"in the table only"),
            ],
            key=f"{letter.stream}/{letter.partition}/{letter.message_offset}/{letter.row_in_message}".encode(),
        )
    if letters:
        sender.flush()


def redrive(engine: Engine, sender: Sender, reason_code: str | None, now: datetime) -> int:
    """Puts letters that wait now back on the topics they came from and marks them; returns how many.

    Those that a running consumer rejects meanwhile are new letters, which wait for the next redrive: each names the first
    letter that it repeats. Sent before marked: a crash between the two sends a letter again, which changes nothing,
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
                sender.send(stored.letter.topic, stored.letter.payload, _headers_of(stored))
            sender.flush()
            dead_letters.mark_redriven(connection, [stored.dead_letter_key for stored in waiting], now)
        sent, after = sent + len(waiting), waiting[-1].dead_letter_key


def _headers_of(stored: StoredLetter) -> list[tuple[str, bytes]]:
    first = stored.letter.repeats or stored.dead_letter_key
    headers = [(REDRIVEN_FROM, str(first).encode())]
    if stored.letter.content_type:
        headers.append(("content-type", stored.letter.content_type.encode("latin-1", "replace")))
    return headers
