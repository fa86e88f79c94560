"""A place among the broker's consumers: partitions taken by assignment or as a member of a group, offsets from the database."""

from collections.abc import Sequence
from contextlib import suppress

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from db.connect import DatabaseUnavailable
from ingest.errors import IngestError
from ingest.topics import Topics


class Member(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python is untyped
    """What every reader of a topic shares: it goes on where `_seek` says, and says goodbye."""

    _kafka: KafkaConsumer
    _topics: Topics
    _failure: IngestError | DatabaseUnavailable | None = None
    """What went wrong when partitions were assigned: the next poll raises it."""

    def _seek(self, partitions: list[TopicPartition]) -> None:
        """Moves partitions to where the database says."""
        raise NotImplementedError

    def close(self) -> None:
        """Leaves the group and lets go of both connections."""
        for close in (lambda: self._kafka.close(autocommit=False, timeout_ms=1_000), self._topics.close):
            with suppress(KafkaError, OSError):  # a broker that is away needs no goodbye
                close()

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        """Continues the group's partitions where the database says (called within poll)."""
        try:
            self._seek(list(assigned))
        except (IngestError, DatabaseUnavailable) as error:  # kafka-python would only log it: poll raises it
            self._failure = error

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        """Nothing: what is in hand is fenced, a batch by its offsets, a scene by its lease."""
