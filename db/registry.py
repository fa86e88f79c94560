"""The model registry: weights, configuration, scores, and which model watches which collection and season."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from db import recording
from db.tables import model_activations, models

Task = Literal["classifier", "ndvi"]


@dataclass(frozen=True)
class ModelRow:
    """A registered model; `model_id` is the SHA-256 of its weights and configuration."""

    model_key: int
    model_id: str
    task: Task
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    trained_on: Mapping[str, Any]
    recorded_at: datetime


def register(  # one argument per column of a model
    connection: sa.Connection,
    *,
    model_id: str,
    task: Task,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    trained_on: Mapping[str, Any],
    description: str,
    weights: bytes,
    now: datetime,
) -> int:
    """Store a checkpoint and give its key; a model that is there already keeps its key.

    `description` is the checkpoint's own text, which its id was made of; the three mappings are parts of it for SQL.
    """
    statement = insert(models).values(
        model_id=model_id,
        task=task,
        config=config,
        metrics=metrics,
        trained_on=trained_on,
        description=description,
        weights=weights,
        recorded_at=recording.begin(connection, now),
    )
    connection.execute(statement.on_conflict_do_nothing(index_elements=["model_id"]))
    key: int = connection.execute(sa.select(models.c.model_key).where(models.c.model_id == model_id)).scalar_one()
    return key


def key_of(connection: sa.Connection, model_id: str) -> int | None:
    """Return the key of a model, None where it is not registered."""
    return connection.execute(sa.select(models.c.model_key).where(models.c.model_id == model_id)).scalar_one_or_none()


def checkpoint(connection: sa.Connection, model_key: int) -> tuple[bytes, str]:
    """Return the stored weights and description of a model."""
    row = connection.execute(
        sa.select(models.c.weights, models.c.description).where(models.c.model_key == model_key)
    ).one()
    return bytes(row.weights), row.description


def activate(connection: sa.Connection, season_key: int, collection: str, model_key: int, now: datetime) -> None:
    """Let a model watch a collection in a season from `now` on."""
    task = connection.execute(sa.select(models.c.task).where(models.c.model_key == model_key)).scalar_one()
    row = {
        "season_key": season_key,
        "collection": collection,
        "task": task,
        "recorded_at": recording.begin(connection, now),
    }
    statement = insert(model_activations).values(**row, model_key=model_key)
    # Two activations in one instant: the later call is meant.
    connection.execute(statement.on_conflict_do_update(index_elements=list(row), set_={"model_key": model_key}))


def active(connection: sa.Connection, season_key: int, collection: str, task: Task) -> ModelRow | None:
    """Return the model that watches a collection in a season, or None."""
    query = (
        _rows()
        .join(model_activations, model_activations.c.model_key == models.c.model_key)
        .where(
            model_activations.c.season_key == season_key,
            model_activations.c.collection == collection,
            model_activations.c.task == task,
        )
        .order_by(model_activations.c.recorded_at.desc())
        .limit(1)
    )
    row = connection.execute(query).first()
    return None if row is None else ModelRow(**row._mapping)


def activations(connection: sa.Connection, season_key: int, collection: str, task: Task) -> list[tuple[datetime, int]]:
    """Return when models began to watch a collection in a season, and their keys, in that order."""
    rows = connection.execute(
        sa.text("""select recorded_at, model_key from model_activations
                   where (season_key, collection, task) = (:season_key, :collection, :task) order by recorded_at"""),
        {"season_key": season_key, "collection": collection, "task": task},
    )
    return [(row.recorded_at, row.model_key) for row in rows]


def active_models(connection: sa.Connection) -> list[tuple[str, str, int]]:
    """Return (collection, season, model key) of every activation that holds."""
    rows = connection.execute(
        sa.text("""select distinct on (season_key, collection, task) collection, name, model_key
                   from model_activations join seasons using (season_key)
                   order by season_key, collection, task, recorded_at desc""")
    )
    return [(row.collection, row.name, row.model_key) for row in rows]


def all_models(connection: sa.Connection) -> Sequence[ModelRow]:
    """Return every registered model, newest first."""
    rows = connection.execute(_rows().order_by(models.c.recorded_at.desc(), models.c.model_key.desc()))
    return [ModelRow(**row._mapping) for row in rows]


def _rows() -> sa.Select[Any]:
    c = models.c
    return sa.select(c.model_key, c.model_id, c.task, c.config, c.metrics, c.trained_on, c.recorded_at).select_from(
        models
    )
