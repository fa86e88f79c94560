"""Checkpoints: weights and a JSON description, as bytes, named by the hash of their content.

    model id = sha256(canonical JSON | name, type, shape and bytes of each tensor, by name)

Chosen because: a pickled module runs code on loading and breaks when a class moves; a content hash cannot lie.
Shapes: any.
Units:  none.
Errors: CheckpointError for weights or a description that are broken or do not belong together.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from terminal.errors import UserError


class CheckpointError(UserError, ValueError):
    """A checkpoint that cannot be used. The caller stops and shows the message."""


@dataclass(frozen=True)
class Checkpoint:
    """A model at rest: two buffers for two files or two columns, and the id that names them."""

    weights: bytes
    """A state dict as `torch.save` writes it; read with weights_only."""
    description: str
    """JSON: configuration, normalisation, scores, data range; `model` is the id."""

    @property
    def model(self) -> str:
        """Return the id: sha256 of the content, 64 hexadecimal digits."""
        return str(self.describe()["model"])

    def describe(self) -> dict[str, Any]:
        """Return the description as plain JSON values.

        Raises:
            CheckpointError: it is not a JSON object that names its model.
        """
        try:
            plain = json.loads(self.description)
        except ValueError as error:
            raise CheckpointError(f"the checkpoint's description is not JSON: {error}") from error
        if not isinstance(plain, dict) or "model" not in plain:
            raise CheckpointError("the checkpoint's description names no model")
        return plain


def pack(weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> Checkpoint:
    """Return the checkpoint of a state dict and its description (JSON values; `model` is added)."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    plain = {**description, "model": content_hash(state, description)}
    return Checkpoint(buffer.getvalue(), json.dumps(plain, sort_keys=True, allow_nan=False))


def unpack(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state dict and the description.

    Raises:
        CheckpointError: broken, or weights and description are of different models.
    """
    description = checkpoint.describe()
    try:
        state = torch.load(io.BytesIO(checkpoint.weights), map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"the weights of model {description['model']} cannot be read: {error}") from error
    if content_hash(state, description) != description["model"]:
        raise CheckpointError(f"weights and description are not those of model {description['model']}: one was changed")
    return state, description


def content_hash(weights: Mapping[str, Tensor], description: Mapping[str, Any]) -> str:
    """Return the id of weights and a description, whatever the description says its model is."""
    digest = hashlib.sha256()
    plain = {key: value for key, value in description.items() if key != "model"}
    # Through JSON once: keys that are numbers sort as the text that they become.
    plain = json.loads(json.dumps(plain, allow_nan=False))
    digest.update(json.dumps(plain, sort_keys=True).encode())
    for name in sorted(weights):
        array = weights[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
