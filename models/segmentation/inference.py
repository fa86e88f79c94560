"""The networks as they are applied: batch norms folded into the convolutions before them, channels last in memory.

    norm(conv(x)) = conv'(x)        conv' = scale * conv, shifted

Chosen because: convolutions of a CPU read channels last without laying them out anew: 1.1 times as fast (docs/LOG.md); the encoder's
        group norms depend on the image and stay.
Source: none; the same outputs up to rounding.
Shapes: those of the network.
Units:  those of the network.
Errors: none.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.segmentation.utae import Convolution, Up

Network = TypeVar("Network", bound=nn.Module)


def folded(network: Network) -> Network:
    """Return a copy of a trained network for inference: it gives the same and cannot be trained."""
    made = deepcopy(network).eval()
    for module in made.modules():
        if isinstance(module, Convolution) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv, module.norm = fuse_conv_bn_eval(module.conv, module.norm), nn.Identity()
        elif isinstance(module, Up):
            module.up = fuse_conv_bn_eval(module.up, module.norm, transpose=True)
            module.norm = nn.Identity()  # type: ignore[assignment]
    return made.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
