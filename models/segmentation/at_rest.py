"""A network of pixels or of fields at rest: its configuration, its weights, and what is known of it.

    about    `classes`, names of all K; `void`, the one of no field; `starts_on`, day 0 of the season it was trained on;
             `units`; `statistics`, by modality {"mean": [C], "sd": [C]}

Chosen because: as models.checkpoint, which names it by its content. Published weights come without statistics and day 0.
Shapes: any.
Units:  statistics in those of the images before they are standardised: reflectance 0..1, dB.
Errors: CheckpointError for a checkpoint of another kind, or one that its configuration does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from models.checkpoint import Checkpoint, CheckpointError, pack, unpack
from models.segmentation.network import PanopticNetwork, SegmentationConfig, SegmentationNetwork
from models.segmentation.paps import Paps, PapsConfig
from models.segmentation.utae import Utae, UtaeConfig

Network = Utae | Paps | SegmentationNetwork | PanopticNetwork
KINDS: Mapping[type[Network], str] = {
    Utae: "utae",
    Paps: "paps",
    SegmentationNetwork: "segmentation",
    PanopticNetwork: "panoptic",
}


def to_checkpoint(network: Network, about: Mapping[str, Any]) -> Checkpoint:
    """Return the network at rest; `about`: JSON values kept with it."""
    config = asdict(network.config)
    if isinstance(network, PanopticNetwork):
        config["paps"] = {key: one for key, one in asdict(network.head.config).items() if key != "utae"}
    return pack(network.state_dict(), {"kind": KINDS[type(network)], "config": config, "about": dict(about)})


def from_checkpoint(checkpoint: Checkpoint) -> tuple[Network, dict[str, Any]]:
    """Return the network of a checkpoint in evaluation mode, and what is known of it.

    Raises:
        CheckpointError: another kind of model, or weights that its configuration does not fit.
    """
    weights, plain = unpack(checkpoint)
    model = plain["model"]
    try:
        network = _network(plain)
        network.load_state_dict(weights)
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the configuration of model {model} cannot be read: {error}") from error
    except RuntimeError as error:
        raise CheckpointError(f"weights of model {model} do not fit its configuration: {error}") from error
    return network.eval(), plain["about"]


def _network(plain: Mapping[str, Any]) -> Network:
    kind = plain.get("kind")
    if kind not in KINDS.values():
        raise CheckpointError(f"model {plain['model']} is of kind {kind!r}, not a network of pixels or of fields")
    config = plain["config"]
    if kind == KINDS[Utae]:
        return Utae(_utae(config))
    if kind == KINDS[Paps]:
        return Paps(PapsConfig(**{**config, "utae": _utae(config["utae"])}))
    read = SegmentationConfig.from_json(config)
    if kind == KINDS[SegmentationNetwork]:
        return SegmentationNetwork(read)
    return PanopticNetwork(read, PapsConfig(read.utae, **config["paps"]))


def _utae(plain: Mapping[str, Any]) -> UtaeConfig:
    sizes: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in plain.items()}
    return UtaeConfig(**sizes)
