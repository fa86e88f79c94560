"""The curve of seasons that no NDVI model watches: the simple smoother, registered like a model when it is needed first."""

from datetime import datetime
from functools import cache

from db import registry
from db.connect import Connection
from models.checkpoint import Checkpoint
from models.ndvi.whittaker import Whittaker


def registered(connection: Connection, now: datetime) -> int:
    """Return the smoother's key in the registry, under which its days are stored."""
    checkpoint = _checkpoint()
    key = registry.key_of(connection, checkpoint.model)
    if key is not None:
        return key
    described = checkpoint.describe()
    return registry.register(
        connection,
        model_id=checkpoint.model,
        task="ndvi",
        config=described["config"],
        metrics={},
        trained_on={},
        description=checkpoint.description,
        weights=checkpoint.weights,
        now=now,
    )


@cache
def _checkpoint() -> Checkpoint:
    return Whittaker().checkpoint()
