"""Topics: made where they are missing, and distinguished from earlier ones of the same name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from kafka import TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic, OffsetSpec
from kafka.errors import AuthorizationError, KafkaTimeoutError, TopicAlreadyExistsError, UnsupportedVersionError
from kafka.protocol.consumer import IsolationLevel

from ingest.errors import BrokerRefuses, StreamReplaced
from ingest.stream.connection import CONNECT_MS, broker_errors, client_options, connecting


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it is now: its generation and its size."""

    generation: str
    """The topic's id, which a topic made anew under the same name does not share; `stream` in the database."""
    n_partitions: int


class Topics:
    """The broker as an administrator sees it, on a connection of its own (a consumer's waits for long polls)."""

    def __init__(self, bootstrap: str) -> None:
        with connecting(bootstrap):
            self._admin = KafkaAdminClient(**client_options(bootstrap), request_timeout_ms=2 * CONNECT_MS)

    def ensure(self, partitions: Mapping[str, int]) -> None:
        """Make the topics that are missing, each with its number of partitions."""
        with broker_errors("topics could not be made"):
            for topic in sorted(set(partitions) - set(self._admin.list_topics())):
                try:
                    self._admin.create_topics([NewTopic(topic, partitions[topic], -1)])
                except TopicAlreadyExistsError:  # another process made it meanwhile, or we may not see it
                    continue
                except AuthorizationError as error:
                    raise BrokerRefuses(
                        f"broker: topic {topic} is missing or may not be seen, and may not be made: grant this user "
                        "Describe on it (and Read or Write), or Create, or make it first"
                    ) from error
            try:
                self._admin.wait_for_topics(list(partitions))
            except KafkaTimeoutError:
                if hidden := sorted(set(partitions) - set(self._admin.list_topics())):
                    raise BrokerRefuses(
                        f"broker: topic {hidden[0]} may not be seen: grant this user Describe on it (and Read or Write)"
                    ) from None
                raise

    def describe(self, topics: Sequence[str]) -> dict[str, Topic]:
        """Return each topic as it is now; raises StreamReplaced where one is gone."""
        with broker_errors("topics could not be described"):
            described = self._admin.describe_topics(list(topics))
            found = {topic["name"]: topic for topic in described if not topic["error_code"]}
            if missing := sorted(set(topics) - set(found)):
                raise StreamReplaced(
                    f"topic {missing[0]} is gone from the broker (an in-memory broker forgets its topics)"
                )
            return {
                name: Topic(self._identity(topic["topic_id"]), len(topic["partitions"]))
                for name, topic in found.items()
            }

    def _identity(self, topic_id: object) -> str:
        """Return the topic's id; brokers before Kafka 2.8 have none, and their cluster's id stands for it."""
        return (
            str(topic_id) if topic_id and UUID(str(topic_id)).int else str(self._admin.describe_cluster()["cluster_id"])
        )

    def bounds(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
        """Return the first offset of each partition, and its last stable offset: the one after the last that may be read.

        Records of transactions that are open lie behind it.
        """
        with broker_errors("offsets could not be had"):
            first = self._admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.EARLIEST))
            latest = dict.fromkeys(partitions, OffsetSpec.LATEST)
            try:
                after = self._admin.list_partition_offsets(latest, IsolationLevel.READ_COMMITTED)
            except UnsupportedVersionError:  # a broker before Kafka 0.11 has no transactions
                after = self._admin.list_partition_offsets(latest)
        return {partition: (first[partition].offset, after[partition].offset) for partition in partitions}

    def close(self) -> None:
        """Let go of the connection."""
        self._admin.close()
