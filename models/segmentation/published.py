"""The published U-TAE and PaPs, read from their state dicts.

    weights under published names = a Utae whose norm is over the dates of a season, or a Paps on one

Source: Garnot and Landrieu 2021; names and forms of the authors' public code.
Shapes: images (B, T, C, H, W), positions (T,) or (B, T) to logits (B, K, H, W), attention (heads, B, T, H/8, W/8), or to those of OUTPUTS.
        A date that is zero everywhere is padding, as in the published code; unlike there it weighs nothing in the norm.
Units:  images standardised, positions in days.
Errors: PublishedError for a state dict that is not this network's, or tensors that do not fit it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from models.published_weights import (
    Names,
    PublishedError,
    differences,
    expected_outputs,
    one_line,
    plain_state,
    renamed,
)
from models.segmentation.paps import Paps, PapsConfig, Prediction, panoptic
from models.segmentation.utae import Utae, UtaeConfig

Network = Utae | Paps
OUTPUTS: Mapping[type[Network], tuple[str, ...]] = {
    Utae: ("logits", "attention"),
    Paps: (
        "center_mask", "saliency", "heatmap", "semantic", "size", "confidence", "centerness", "instance_boxes", "pano_instance",
        "pano_semantic",
    ),
}  # fmt: skip

PARTS = ("conv", "norm")
# Published layers are numbered with the activations between them: convolution, norm, ReLU.
UTAE: Names = (
    (r"in_conv\.conv\.conv\.(\d+)\.", lambda m: f"first.{_layer(m[1])}."),
    (r"out_conv\.conv\.conv\.(\d+)\.", lambda m: f"head.{_layer(m[1])}."),
    (r"down_blocks\.(\d+)\.(down|conv1|conv2)\.conv\.([01])\.", lambda m: f"downs.{m[1]}.{m[2]}.{PARTS[int(m[3])]}."),
    (r"up_blocks\.(\d+)\.skip_conv\.([01])\.", lambda m: f"ups.{m[1]}.skip.{PARTS[int(m[2])]}."),
    (r"up_blocks\.(\d+)\.up\.([01])\.", lambda m: f"ups.{m[1]}.{('up', 'norm')[int(m[2])]}."),
    (r"up_blocks\.(\d+)\.(conv1|conv2)\.conv\.([01])\.", lambda m: f"ups.{m[1]}.{m[2]}.{PARTS[int(m[3])]}."),
    (r"temporal_encoder\.inconv\.", lambda _: "temporal.project."),
    (r"temporal_encoder\.in_norm\.", lambda _: "temporal.norm_in."),
    (r"temporal_encoder\.out_norm\.", lambda _: "temporal.norm_out."),
    (r"temporal_encoder\.attention_heads\.Q$", lambda _: "temporal.attention.query"),
    (r"temporal_encoder\.attention_heads\.fc1_k\.", lambda _: "temporal.attention.keys."),
    (r"temporal_encoder\.mlp\.0\.", lambda _: "temporal.mlp.lin."),
    (r"temporal_encoder\.mlp\.1\.", lambda _: "temporal.mlp.bn."),
)
PAPS: Names = (
    (r"encoder\.", lambda _: "encoder."),
    (r"heatmap_conv\.0\.conv\.(\d+)\.", lambda m: f"head.heat.{_layer(m[1])}."),
    (r"saliency_conv\.conv\.(\d+)\.", lambda m: f"head.saliency.{_layer(m[1])}."),
    *(
        (rf"{theirs}_mlp\.{layer}\.", lambda _, place=f"head.{ours}.{place}.": place)
        for theirs, ours, places in (
            ("shape", "shape", {0: "0.lin", 1: "0.bn", 3: "2"}),
            ("size", "size", {0: "0.lin", 1: "0.bn", 3: "2.lin", 4: "2.bn", 6: "4"}),
            ("class", "classes", {0: "0.lin", 1: "0.bn", 3: "2", 4: "3"}),
        )
        for layer, place in places.items()
    ),
    *(
        (rf"mask_cnn\.{layer}\.", lambda _, place=f"head.mask.{place}.": place)
        for layer, place in {0: "conv1", 1: "norm", 3: "conv2", 5: "conv3"}.items()
    ),
)
MIN_CONFIDENCE = "min_confidence"
"""A buffer of the published module."""


def load_utae(published: Mapping[str, object]) -> Utae:
    """Return the U-TAE of a published state dict, its sizes read from the weights, in evaluation mode.

    Args:
        published: the state dict, or the dictionary of a training script that has it under `state_dict`; names may have
            the `module.` that DataParallel puts before them.

    Raises:
        PublishedError: a parameter is missing, too much, or of another shape.
    """
    unknown = "not a state dict of the published U-TAE"
    ours = _utae_names(plain_state(published), unknown)
    try:
        network = Utae(_utae_config(ours))
        network.load_state_dict(ours)
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise PublishedError(f"{unknown}: {one_line(error)}") from error
    return network.eval()


def load_paps(published: Mapping[str, object]) -> Paps:
    """Return the PaPs of a published state dict, as `load_utae`; the mean of its heat maps is over the batch, as published.

    The published U-TAE inside of it has convolutions for logits that PaPs does not use: they are left out.

    Raises:
        PublishedError: a parameter is missing, too much, or of another shape.
    """
    unknown = "not a state dict of the published PaPs"
    state = plain_state(published)
    confidence = state.pop(MIN_CONFIDENCE, None)
    ours = renamed(state, PAPS, unknown)
    inner = {name.removeprefix("encoder."): one for name, one in ours.items() if name.startswith("encoder.")}
    encoder = _utae_names(inner, unknown)
    placed = {name: one for name, one in ours.items() if not name.startswith("encoder.")}
    placed |= {f"encoder.{name}": one for name, one in encoder.items() if not name.startswith("head.")}
    try:
        utae = replace(_utae_config(encoder), classes=ours["head.classes.3.weight"].shape[0])
        config = PapsConfig(utae, shape=math.isqrt(ours["head.shape.2.weight"].shape[0]), mean="batch")
        if confidence is not None:
            config = replace(config, min_confidence=float(confidence.double()))
        network = Paps(config)
        network.load_state_dict(placed)
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise PublishedError(f"{unknown}: {one_line(error)}") from error
    return network.eval()


@torch.inference_mode()
def largest_differences(network: Network, reference: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the largest difference of each output that a reference holds (OUTPUTS); NaN stays NaN, integers differ by 1 or more.

    Args:
        reference: inputs `images` and `positions`, of PaPs also `min_confidence` where it is not that of the weights; outputs of the
            published code.

    Raises:
        PublishedError: an input is missing or of the wrong shape, or there is no output to compare with.
    """
    expected = expected_outputs(reference, OUTPUTS[type(network)])
    images, positions = _inputs(network, reference)
    valid = (images != 0).flatten(2).any(2)
    if isinstance(network, Utae):
        levels, attention = network.features_and_attention(images, positions, valid)
        return differences({"logits": network.head(levels[-1]), "attention": attention}, expected)
    if MIN_CONFIDENCE in reference:
        network = _as_confident(network, float(reference[MIN_CONFIDENCE]))
    return differences(paps_outputs(network(images, positions, valid), network.config), expected)


def paps_outputs(prediction: Prediction, config: PapsConfig) -> dict[str, Tensor]:
    """Return a prediction under the published names."""
    chosen = panoptic(prediction, config)
    return {
        "center_mask": prediction.centers,
        "saliency": prediction.saliency,
        "heatmap": prediction.heatmap,
        "semantic": prediction.classes,
        "size": prediction.size,
        "confidence": prediction.confidence[:, None],
        "centerness": prediction.confidence[:, None],
        "instance_boxes": prediction.boxes,
        "pano_instance": chosen.instances,
        "pano_semantic": chosen.class_scores(prediction),
    }


def _as_confident(network: Paps, min_confidence: float) -> Paps:
    other = Paps(replace(network.config, min_confidence=min_confidence))
    other.load_state_dict(network.state_dict())
    return other.eval()


def _layer(number: str) -> str:
    """Return layer and part of a published number; one that is of an activation comes out as a name that no layer has."""
    layer, part = divmod(int(number), 3)
    return f"{layer}.{(*PARTS, 'none')[part]}"


def _utae_names(published: Mapping[str, Tensor], unknown: str) -> dict[str, Tensor]:
    """Return parameters of a U-TAE under our names; the 1x1 convolution becomes the linear layer it is."""
    ours = renamed(published, UTAE, unknown)
    project = ours.get("temporal.project.weight")
    if project is not None and project.ndim == 3:
        ours["temporal.project.weight"] = project.squeeze(-1)
    return ours


def _utae_config(ours: Mapping[str, Tensor]) -> UtaeConfig:
    """Return the sizes of a U-TAE, read from its parameters."""
    downs = len({name.split(".")[1] for name in ours if name.startswith("downs.")})
    head = [ours[f"head.{nr}.conv.weight"].shape[0] for nr in range(len(_numbers(ours, "head")))]
    heads, key = ours["temporal.attention.query"].shape
    encoder = [ours["first.0.conv.weight"].shape[0]]
    encoder += [ours[f"downs.{nr}.conv1.conv.weight"].shape[0] for nr in range(downs)]
    decoder = [ours[f"ups.{nr}.conv1.conv.weight"].shape[0] for nr in range(downs)]
    return UtaeConfig(
        channels=ours["first.0.conv.weight"].shape[1],
        classes=head[-1],
        encoder=tuple(encoder),
        decoder=(*reversed(decoder), encoder[-1]),
        width=ours["temporal.project.weight"].shape[0],
        heads=heads,
        key=key,
        norm="season",
        head=tuple(head[:-1]),
    )


def _numbers(ours: Mapping[str, Tensor], part: str) -> set[str]:
    return {m[1] for name in ours if (m := re.match(rf"{part}\.(\d+)\.", name))}


def _inputs(network: Network, reference: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return images and positions (B, T) of a reference, once their shapes are seen to fit."""
    config = network.config if isinstance(network, Utae) else network.config.utae
    images = reference.get("images")
    if images is None or images.ndim != 5 or images.numel() == 0:
        raise PublishedError("no input `images` (B, T, C, H, W) of at least one series, date and pixel")
    b, t, c, h, w = images.shape
    if c != config.channels:
        raise PublishedError(f"images have {c} channels, these weights take {config.channels}")
    if h % config.stride or w % config.stride or min(h, w) < 2 * config.stride:
        raise PublishedError(
            f"images are {h} x {w}, these weights take multiples of {config.stride} from {2 * config.stride} on"
        )
    positions = reference.get("positions")
    if positions is None or tuple(positions.shape) not in ((t,), (b, t)):
        found = "" if positions is None else f": it is {tuple(positions.shape)}"
        raise PublishedError(f"no input `positions` of {t} dates or {(b, t)}{found}")
    return images.float(), positions.float().expand(b, t)
