"""What an evidence bundle needs beside a parcel's history: versions and names as known at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import sqlalchemy as sa

from db import recording


@dataclass(frozen=True, slots=True)
class AlertParcel:
    """Whose alert it is, and the season."""

    parcel_key: int
    collection: str
    season_key: int
    starts_on: date
    ends_on: date


@dataclass(frozen=True, slots=True)
class KnownFinding:
    """The newest finding of a rule on a parcel."""

    rule_version: str
    outcome: str
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class NamedScene:
    """A scene that an observation came from."""

    scene_key: int
    scene_id: str
    platform: str
    available_at: datetime


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A model that something was computed with; `model_id` is the SHA-256 of its weights and configuration."""

    model_key: int
    model_id: str
    task: str


def alert_parcel(connection: sa.Connection, alert_key: int) -> AlertParcel | None:
    """Return whose alert it is; None where there is none with that key."""
    row = connection.execute(
        sa.text("""select parcel_key, collection, season_key, starts_on, ends_on from alerts join parcels using (parcel_key)
                   join seasons using (season_key) where alert_key = :key"""),
        {"key": alert_key},
    ).one_or_none()
    return None if row is None else AlertParcel(**row._mapping)


def finding_known(connection: sa.Connection, parcel_key: int, rule: str, at: datetime) -> KnownFinding | None:
    """Return the newest finding of a rule on a parcel as known at a time; None where there was none."""
    recording.settle(connection, at)
    row = connection.execute(
        sa.text("""select rule_version, outcome::text, recorded_at from findings
                   where (parcel_key, rule) = (:parcel, :rule) and recorded_at <= :at order by recorded_at desc limit 1"""),
        {"parcel": parcel_key, "rule": rule, "at": at},
    ).one_or_none()
    return None if row is None else KnownFinding(**row._mapping)


def named_scenes(connection: sa.Connection, keys: Sequence[int]) -> dict[int, NamedScene]:
    """Return scenes by key."""
    rows = connection.execute(
        sa.text("select scene_key, scene_id, platform, available_at from scenes where scene_key = any(:keys)"),
        {"keys": list(keys)},
    )
    return {row.scene_key: NamedScene(**row._mapping) for row in rows}


def named_models(connection: sa.Connection, keys: Sequence[int]) -> list[NamedModel]:
    """Return models, ordered by task and id."""
    rows = connection.execute(
        sa.text(
            """select model_key, model_id, task from models where model_key = any(:keys) order by task, model_id"""
        ),
        {"keys": list(keys)},
    )
    found: list[Any] = [row._mapping for row in rows]
    return [NamedModel(**one) for one in found]
