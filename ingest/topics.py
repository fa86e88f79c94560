"""Topics: made where they are missing, and told apart from earlier ones of the same name."""

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from kafka import TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic, OffsetSpec
from kafka.errors import KafkaError, TopicAlreadyExistsError

from ingest.errors import BrokerUnavailable, StreamReplaced

_CONNECT_MS = 5_000
"""Longest wait for a broker: one that is up answers in milliseconds, one that is away is tried again by the caller."""


@dataclass(frozen=True, slots=True)
class Life:
    """One life of a topic: its id, which a topic made anew under the same name does not share, and its size."""

    stream: str
    n_partitions: int


@contextmanager
def broker_errors(doing: str) -> Iterator[None]:
    """Kafka's errors as BrokerUnavailable, in one line."""
    try:
        yield
    except (KafkaError, OSError) as error:
        told = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise BrokerUnavailable(f"broker: {doing}: {told}; is it up? (parcelwatch stack status)") from error


def require_broker(bootstrap: str) -> None:
    """Raises BrokerUnavailable unless one of the addresses accepts a connection.

    Asked before each client is made: kafka-python's clients try an address that refuses them for seconds, and leave
    their sockets open.
    """
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_MS / 1000).close()
        except (OSError, ValueError) as error:
            told = error
        else:
            return
    raise BrokerUnavailable(f"broker: no answer at {bootstrap}: {told}; is it up? (parcelwatch stack status)")


class Topics:
    """The broker as an administrator sees it, on a connection of its own (a consumer's waits for long polls)."""

    def __init__(self, bootstrap: str) -> None:
        require_broker(bootstrap)
        with broker_errors(f"no answer at {bootstrap}"):
            self._admin = KafkaAdminClient(
                bootstrap_servers=bootstrap.split(","),
                bootstrap_timeout_ms=_CONNECT_MS,
                request_timeout_ms=2 * _CONNECT_MS,
            )

    def ensure(self, partitions: Mapping[str, int]) -> None:
        """Makes the topics that are missing, each with its number of partitions."""
        with broker_errors("topics could not be made"):
            for topic in sorted(set(partitions) - set(self._admin.list_topics())):
                try:
                    self._admin.create_topics([NewTopic(topic, partitions[topic], -1)])
                except TopicAlreadyExistsError:  # another process made it meanwhile
                    continue
            self._admin.wait_for_topics(list(partitions))

    def lives(self, topics: Sequence[str]) -> dict[str, Life]:
        """Each topic's present life; raises StreamReplaced where one is gone."""
        with broker_errors("topics could not be described"):
            described = self._admin.describe_topics(list(topics))
            found = {topic["name"]: topic for topic in described if not topic["error_code"]}
            if missing := sorted(set(topics) - set(found)):
                raise StreamReplaced(
                    f"topic {missing[0]} is gone from the broker (an in-memory broker forgets its topics)"
                )
            return {
                name: Life(self._identity(topic["topic_id"]), len(topic["partitions"])) for name, topic in found.items()
            }

    def _identity(self, topic_id: object) -> str:
        """The topic's id; brokers before Kafka 2.8 have none, and their cluster's id stands for it."""
        return (
            str(topic_id) if topic_id and UUID(str(topic_id)).int else str(self._admin.describe_cluster()["cluster_id"])
        )

    def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """The first offset of each partition, and the one after its last."""
        with broker_errors("offsets could not be had"):
            first = self._admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.EARLIEST))
            after = self._admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
        return {partition: (first[partition].offset, after[partition].offset) for partition in partitions}

    def close(self) -> None:
        """Lets go of the connection."""
        self._admin.close()
