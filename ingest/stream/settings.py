"""Settings of the ingest chain, from the environment (PARCELWATCH_INGEST_...), built once at the command line."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from db.sensors import SENSORS, Sensor


class KafkaSettings(BaseSettings):
    """How clients of the broker connect; every client of the project does it the same way."""

    model_config = SettingsConfigDict(env_prefix="PARCELWATCH_KAFKA_", frozen=True, extra="ignore")

    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """SSL: the connection is encrypted; SASL: clients say who they are."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """How a password is shown."""
    sasl_username: str | None = None
    """Who we are."""
    sasl_password: SecretStr | None = None
    """The user's password."""
    ca_file: Path | None = None
    """Certificates (PEM) that sign the broker's; None: those that the system trusts."""
    cert_file: Path | None = None
    """Our certificate (PEM), where the broker asks for one."""
    key_file: Path | None = None
    """The key (PEM) of our certificate."""
    key_password: SecretStr | None = None
    """The password of that key, if it has one."""
    check_hostname: bool = True
    """The broker's certificate must be for the name in its address."""


class IngestSettings(BaseSettings):
    """How messages are batched, validated and stored."""

    model_config = SettingsConfigDict(env_prefix="PARCELWATCH_INGEST_", frozen=True, extra="ignore")

    topic_prefix: str = "parcelwatch"
    """Topics are PREFIX.observations.s2, PREFIX.observations.s1 and PREFIX.dead-letters."""
    partitions: Annotated[int, Field(ge=1)] = 4
    """Partitions of an observations topic that has to be made (4: chosen so that four consumers can share a season)."""
    group_id: str | None = None
    """The consumer group on a Kafka cluster; None takes every partition by assignment (one consumer)."""

    member: str | None = None
    """A name that a member keeps when it is started again: within `session_seconds` it gets its partitions back at once."""
    session_seconds: Annotated[float, Field(ge=6, le=300)] = 10.0
    """How long a member of a group may be silent before others get its partitions (6: the least that Kafka allows)."""

    flush_messages: Annotated[int, Field(ge=1)] = 20_000
    """Messages that make a transaction."""
    flush_bytes: Annotated[int, Field(ge=1)] = 16 * 2**20
    """Message bytes that make a transaction: 12,000 observations with pixel sets, a fraction of a second to store."""
    flush_decoded_bytes: Annotated[int, Field(ge=1)] = 32 * 2**20
    """Decoded bytes that make a transaction: messages may be compressed (chosen so that a consumer stays under 1 GB)."""
    flush_seconds: Annotated[float, Field(gt=0)] = 1.0
    """Longest wait of a row for others."""

    producer_bytes: Annotated[int, Field(ge=10_000)] = 900_000
    """Largest message the producer makes; Kafka's own default limit is 1,048,588 bytes."""
    max_record_bytes: Annotated[int, Field(ge=1)] = 256 * 2**10
    """Largest JSON record: three times a full pixel set of max_pixel_bytes."""
    max_message_bytes: Annotated[int, Field(ge=1)] = 8 * 2**20
    """Largest Arrow batch, before and after decoding."""
    max_message_rows: Annotated[int, Field(ge=1)] = 50_000
    """Most rows of an Arrow batch: about what fits into max_message_bytes without pixel sets."""
    max_batch_bytes: Annotated[int, Field(ge=2**20)] = 32 * 2**20
    """Largest batch of records of a producer, decompressed (32 times the largest that Kafka takes compressed by default)."""
    max_pixel_bytes: Annotated[int, Field(ge=1)] = 81_920
    """Largest pixel set: 4,096 pixels of 10 bands, 41 ha at 10 m; larger parcels are sampled."""

    clock_tolerance_s: Annotated[float, Field(ge=0)] = 300.0
    """How far a sender's clock may run ahead (chosen as more than any clock kept by NTP shows)."""
    season_margin_days: Annotated[int, Field(ge=0)] = 45
    """How far outside of its season an observation may lie: models use a few passes from before its start."""

    reject_window_rows: Annotated[int, Field(ge=1)] = 5_000
    """The last rows among which bad ones are counted."""
    reject_minimum_rows: Annotated[int, Field(ge=1)] = 500
    """Fewer rows than these say nothing about a share."""
    reject_cap: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The share of bad rows above which the consumer stops."""
    accept_gap: bool = False
    """Go on where the broker has deleted records that were never consumed, or has a batch in an unknown codec: a dead letter then."""

    def topic(self, sensor: Sensor) -> str:
        """Return the topic of a sensor's observations."""
        return f"{self.topic_prefix}.observations.{sensor.lower()}"

    @property
    def observation_topics(self) -> tuple[str, ...]:
        """Topics the consumer reads; each takes any sensor's messages, the schema says which it is."""
        return tuple(self.topic(sensor) for sensor in SENSORS)

    @property
    def dead_letter_topic(self) -> str:
        """Topic of messages and rows that were rejected."""
        return f"{self.topic_prefix}.dead-letters"

    @property
    def clock_tolerance(self) -> timedelta:
        """How far a sender's clock may run ahead."""
        return timedelta(seconds=self.clock_tolerance_s)
