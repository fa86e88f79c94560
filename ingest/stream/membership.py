"""A place among the broker's consumers: partitions taken by assignment or as a member of a group, offsets from the database."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from queue import SimpleQueue

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from db.errors import DatabaseUnavailable
from ingest.errors import IngestError
from ingest.stream.topics import Topics


class Member(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python is untyped
    """What every reader of a topic shares: it goes on where `_seek` says, and says goodbye.

    kafka-python calls the listener on a thread of its own, at times between two polls. It therefore only seeks and
    notes what happened; the reader takes the notes (`moves`) after a poll, before that poll's messages.
    """

    _kafka: KafkaConsumer
    _topics: Topics
    _failure: IngestError | DatabaseUnavailable | None = None
    """What went wrong when partitions were assigned: the next poll raises it."""

    def __init__(self) -> None:
        self._moves: SimpleQueue[Mapping[TopicPartition, int | None]] = SimpleQueue()

    def _seek(self, partitions: list[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Move partitions to where the database says, and return the offsets."""
        raise NotImplementedError

    def moves(self) -> list[Mapping[TopicPartition, int | None]]:
        """Return what was assigned (an offset) and taken away (None) since the last call, oldest first."""
        return [self._moves.get() for _ in range(self._moves.qsize())]

    def close(self) -> None:
        """Leave the group and let go of both connections."""
        for close in (lambda: self._kafka.close(autocommit=False, timeout_ms=1_000), self._topics.close):
            with suppress(KafkaError, OSError):  # a broker that is away needs no goodbye
                close()

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """Continue the group's partitions where the database says."""
        try:
            self._moves.put(dict(self._seek(list(assigned))))
        except (IngestError, DatabaseUnavailable) as error:  # kafka-python would only log it: poll raises it
            self._failure = error

    # Offsets are the database's, not the group's: a member that lost a partition unnoticed cannot commit, because the
    # new owner moved the offset that its batch begins with.
    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Note what belongs to others now: what is in hand of it comes again to its new owner."""
        self._moves.put(dict.fromkeys(revoked))

    def on_partitions_lost(self, lost: Sequence[TopicPartition]) -> None:
        """Do the same for what others may have had for some time; their offsets fence out what is in hand."""
        self._moves.put(dict.fromkeys(lost))
