"""The consumer: poll, decode and validate, store; each batch once, whatever dies in between.

    Source.poll ── messages ──► judge ── rows and rejections ──► Store.write ── one transaction ──► database
        ▲                                                            │
        └──────────── offsets, from the database ◄───────────────────┘

The offsets that a batch begins with are checked in its transaction, so a consumer that was believed dead cannot store a
batch a second time; after any trouble the consumer begins again from what is committed.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Final

import psycopg
import pyarrow as pa
import sqlalchemy as sa
from kafka import TopicPartition

from db import offsets
from db.connect import DatabaseUnavailable
from db.dead_letters import Letter
from db.offsets import Step
from ingest import dead_letters
from ingest.errors import BrokerUnavailable, DeliveryFailed, FencedOut, RecordsLost, StreamReplaced
from ingest.judge import Judged, Message, apart, judge_in_parts
from ingest.metrics import Counts, told
from ingest.producer import Sender
from ingest.settings import IngestSettings
from ingest.source import AFTER_A_LOSS, Source
from ingest.store import Store

log = logging.getLogger(__name__)

Clock = Callable[[], datetime]
_DATABASE: Final = (sa.exc.OperationalError, sa.exc.InterfaceError, psycopg.OperationalError, psycopg.InterfaceError)
_REFUSED: Final = (
    sa.exc.DataError, psycopg.DataError, psycopg.errors.CheckViolation, pa.ArrowException, ArithmeticError, ValueError,
)  # fmt: skip
"""What says of values, on their way into the database, that they cannot be; never that something is away."""

_POLL_S: Final = 0.25
"""Longest wait for messages, and so for a stop or for the age of a batch to be noticed."""
_IDLE_CHECK_S: Final = 5.0
"""How often a silent broker is asked whether it is there: kafka-python keeps silent about one that is away."""
_LONGEST_WAIT_S: Final = 30.0
_REPORT_S: Final = 60.0


def should_flush(n_messages: int, n_bytes: int, age_s: float, settings: IngestSettings) -> bool:
    """Says whether a batch is due: full by messages or bytes, or old enough."""
    if not n_messages:
        return False
    return n_messages >= settings.flush_messages or n_bytes >= settings.flush_bytes or age_s >= settings.flush_seconds


class Consumer:
    """Stores what the observation topics bring; one thread's, opened on first use, closed by `close`."""

    def __init__(self, engine: sa.Engine, bootstrap: str, settings: IngestSettings, now: Clock) -> None:
        """Connects to nothing yet.

        Args:
            engine: the database, migrated.
            bootstrap: host:port of the broker, several separated by commas.
            settings: how to batch and judge.
            now: the time, aware; rows are recorded at it and "future" is judged by it.
        """
        self._engine, self._bootstrap, self._settings, self._now = engine, bootstrap, settings, now
        self._store = Store(settings, self._publish)
        self._source: Source | None = None
        self._sender: Sender | None = None
        self._starts: dict[TopicPartition, int] = {}
        """Committed offsets: where the batch in hand begins."""
        self._batch: list[Message] = []
        self._batch_bytes, self._begun = 0, 0.0
        self.counts: Counts = Counter()

    def run(self, stop: threading.Event) -> Counts:
        """Consumes until `stop`, then commits the batch in hand; waits for a database or broker that goes away.

        Raises BrokerUnavailable or DatabaseUnavailable when one is away at the start, RecordsLost and TooManyRejected.
        """
        self._opened()
        trouble = _Trouble(stop)
        while not stop.is_set():
            try:
                self._consume(stop, trouble)
            except FencedOut as error:
                self.counts["fenced"] += 1
                log.warning("%s; beginning again from the database's offsets", str(error))
                stop.wait(1.0)
            except StreamReplaced as error:
                log.warning("%s; beginning with its new life", str(error))
            except DatabaseUnavailable as error:
                self.counts["database_waits"] += trouble.wait("database", error)
            except (BrokerUnavailable, DeliveryFailed) as error:
                self.counts["broker_waits"] += trouble.wait("broker", error)
        return self.counts

    def catch_up(self) -> Counts:
        """Consumes what the topics hold now, up to their ends at this moment, and returns what that was.

        Raises what `run` waits for; the next call begins again from what is committed.
        """
        before = self.counts.copy()
        try:
            source = self._opened()
            patience = time.monotonic() + _LONGEST_WAIT_S
            while not source.knows_ends() and time.monotonic() < patience:
                self._take_and_flush(source, _POLL_S)
            ends = source.ends()
            while any(position < ends[partition] for partition, position in source.positions().items()):
                self._take_and_flush(source, _POLL_S)
            while self._take_and_flush(source, 0.0):  # the rest of a batch that was fetched
                pass
            self._flush(source)
        except BaseException:
            self.close()
            raise
        return self.counts - before

    def close(self) -> None:
        """Lets go of the broker; a batch in hand is left to whoever consumes next."""
        source, self._source, sender, self._sender = self._source, None, self._sender, None
        self._batch, self._batch_bytes = [], 0
        if source:
            source.close()
        if sender:
            sender.close()

    def _consume(self, stop: threading.Event, trouble: "_Trouble") -> None:
        """Consumes until `stop`; whatever is raised, the source is closed and nothing is in hand."""
        checked = reported = time.monotonic()
        told_before = self.counts.copy()
        try:
            source = self._opened()
            while not stop.is_set():
                stored_before = self.counts["transactions"]
                self._take_and_flush(source, _POLL_S)
                now = time.monotonic()
                if not self._batch and now - checked >= _IDLE_CHECK_S:
                    source.verify()
                    checked = now
                if checked == now or self.counts["transactions"] > stored_before:
                    checked = now
                    trouble.over()
                if now - reported >= _REPORT_S:
                    log.info("last minute: %s", told(self.counts - told_before))
                    told_before, reported = self.counts.copy(), now
            self._flush(source)
        except BaseException:
            self.close()
            raise

    def _take_and_flush(self, source: Source, timeout_s: float) -> bool:
        """Polls once and stores the batch if it is due; False when no message came."""
        messages = source.poll(timeout_s)
        self._take(messages)
        if self._is_due():
            self._flush(source)
        return bool(messages)

    def _take(self, messages: Sequence[Message]) -> None:
        if messages and not self._batch:
            self._begun = time.monotonic()
        self._batch += messages
        self._batch_bytes += sum(len(message.value) for message in messages)

    def _is_due(self) -> bool:
        return should_flush(len(self._batch), self._batch_bytes, time.monotonic() - self._begun, self._settings)

    def _flush(self, source: Source) -> None:
        """Judges and stores the batch in hand, in several transactions where it is large once decoded."""
        now = self._now()
        for judged in judge_in_parts(self._batch, self._settings, now):
            self._store_part(source, judged, now)
        self._batch, self._batch_bytes = [], 0

    def _store_part(self, source: Source, judged: Judged, now: datetime) -> None:
        """Stores a part, without a message whose values the database refuses although they were judged good."""
        try:
            self._commit(source, judged, now)
        except _REFUSED as error:
            for part in apart(judged, error, self._settings, now):
                self._store_part(source, part, now)

    def _commit(self, source: Source, judged: Judged, now: datetime) -> None:
        after = {TopicPartition(message.topic, message.partition): message.offset + 1 for message in judged.messages}
        streams = {topic: life.stream for topic, life in source.lives.items()}
        steps = [
            Step(streams[tp.topic], tp.topic, tp.partition, self._starts[tp], end) for tp, end in sorted(after.items())
        ]
        source.verify()
        with _database_errors():
            self.counts += self._store.write(self._engine, judged, streams, steps, now)
        self.counts["messages"] += len(judged.messages)
        self._starts |= after

    def _opened(self) -> Source:
        if self._source is None:
            self._source = Source(self._bootstrap, self._settings, self._position)
            log.info("consuming %s", ", ".join(self._settings.observation_topics))
        return self._source

    def _position(self, source: Source, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Where partitions go on, from the database; what was in hand is dropped and comes again to its owner."""
        self._batch, self._batch_bytes = [], 0
        bounds = source.bounds(partitions)
        with _database_errors(), self._engine.begin() as connection:
            now, starts = self._now(), dict[TopicPartition, int]()
            for topic in {partition.topic for partition in partitions}:
                first = {tp.partition: bounds[tp][0] for tp in partitions if tp.topic == topic}
                found = offsets.begin(connection, source.lives[topic].stream, topic, first, now)
                starts |= {TopicPartition(topic, number): offset for number, offset in found.items()}
            for tp, start in starts.items():
                # A start beyond the told end is no proof of a loss (see Source.ends); poll says it if it is one.
                nearest = min(max(start, bounds[tp][0]), bounds[tp][1]) if self._settings.accept_gap else start
                if nearest < bounds[tp][0]:
                    raise RecordsLost(
                        f"{tp.topic}/{tp.partition}: offset {start} comes next and the broker has {bounds[tp][0]} and later: "
                        f"records were deleted unread; {AFTER_A_LOSS}"
                    )
                if nearest != start:
                    starts[tp] = nearest
                    offsets.move(connection, source.lives[tp.topic].stream, tp.topic, tp.partition, nearest, now)
        self._starts = starts
        return starts

    def _publish(self, letters: Sequence[Letter]) -> None:
        if letters:
            if self._sender is None:
                self._sender = Sender(self._bootstrap, self._settings.producer_bytes)
            dead_letters.publish(self._sender, self._settings.dead_letter_topic, letters, self._settings.producer_bytes)


class _Trouble:
    """Waits that grow while something is away, told once when it goes and once when it is back."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop, self._what, self._wait_s = stop, "", 1.0

    def wait(self, what: str, error: Exception) -> bool:
        """Waits before the next try; True if this is the first one of this trouble."""
        is_new = self._what != what
        if is_new:
            log.warning("waiting for the %s, offsets stay where they are: %s", what, str(error))  # not its frames
            self._what, self._wait_s = what, 1.0
        self._stop.wait(self._wait_s)
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
        return is_new

    def over(self) -> None:
        """Says that all is well again."""
        if self._what:
            log.warning("the %s is back", self._what)
            self._what = ""


@contextmanager
def _database_errors() -> Iterator[None]:
    """The database's going away, in whatever form, as DatabaseUnavailable in one line."""
    try:
        yield
    except _DATABASE as error:
        raise DatabaseUnavailable(str(error).strip().splitlines()[0]) from error
