"""A U-TAE or a PaPs at rest: its configuration, its weights, and what is known of it.

Chosen because: as models.checkpoint, which names it by its content.
Shapes: any.
Units:  none.
Errors: CheckpointError for a checkpoint of another kind, or one that its configuration does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from models.checkpoint import Checkpoint, CheckpointError, pack, unpack
from models.segmentation.paps import Paps, PapsConfig
from models.segmentation.utae import Utae, UtaeConfig

KINDS: Mapping[type[Utae | Paps], str] = {Utae: "utae", Paps: "paps"}


def to_checkpoint(network: Utae | Paps, about: Mapping[str, Any]) -> Checkpoint:
    """Return the network at rest; `about`: JSON values kept with it, among them the names of its classes."""
    description = {"kind": KINDS[type(network)], "config": asdict(network.config), "about": dict(about)}
    return pack(network.state_dict(), description)


def from_checkpoint(checkpoint: Checkpoint) -> tuple[Utae | Paps, dict[str, Any]]:
    """Return the network of a checkpoint in evaluation mode, and what is known of it.

    Raises:
        CheckpointError: another kind of model, or weights that its configuration does not fit.
    """
    weights, plain = unpack(checkpoint)
    model = plain["model"]
    try:
        network: Utae | Paps
        if plain.get("kind") == KINDS[Utae]:
            network = Utae(_utae(plain["config"]))
        elif plain.get("kind") == KINDS[Paps]:
            network = Paps(PapsConfig(**{**plain["config"], "utae": _utae(plain["config"]["utae"])}))
        else:
            raise CheckpointError(f"model {model} is of kind {plain.get('kind')!r}, not a U-TAE or a PaPs")
        network.load_state_dict(weights)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the configuration of model {model} cannot be read: {error}") from error
    except RuntimeError as error:
        raise CheckpointError(f"weights of model {model} do not fit its configuration: {error}") from error
    return network.eval(), plain["about"]


def _utae(plain: Mapping[str, Any]) -> UtaeConfig:
    sizes: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in plain.items()}
    return UtaeConfig(**sizes)
