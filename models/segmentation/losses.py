"""The losses of PaPs, each of weight 1.

    centre = -1/N sum of log m at centres, of (1 - m*)^4 log(1 - m) elsewhere
    size   = mean of |h - h*| / h* + |w - w*| / w*
    class  = cross entropy, without void
    shape  = cross entropy of the pixels in boxes

Source: Garnot and Landrieu 2021, section 3.3; CornerNet's loss with alpha 0 and beta 4 (Law and Deng 2018). Their public code takes a
        softmax of (1 - p, p) for the shape, p a probability already: "published", the default; "entropy" is the paper's.
        Mended: an image without a centre, a batch without a candidate or with void ones alone has a finite loss.
Shapes: B images, N candidates of a prediction that was made with zones (models.segmentation.paps).
Units:  none.
Errors: ConfigError for a form of the shape's loss that is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.classifier.ltae import ConfigError
from models.segmentation.paps import Prediction
from models.segmentation.targets import VOID, Targets

Shape = Literal["published", "entropy"]
BETA = 4
EPS = 1e-8


@dataclass(frozen=True)
class Truth:
    """The targets of B images (models.segmentation.targets)."""

    heatmap: Tensor
    """(B, H, W)."""
    instances: Tensor
    """(B, H, W)."""
    zones: Tensor
    """(B, H, W)."""
    sizes: Tensor
    """(B, H, W, 2)."""
    classes: Tensor
    """(B, H, W)."""

    def to(self, device: torch.device | str) -> Truth:
        """Return the same on a device."""
        return Truth(*(one.to(device) for one in (self.heatmap, self.instances, self.zones, self.sizes, self.classes)))


@dataclass(frozen=True)
class Losses:
    """The losses of a batch, scalars."""

    center: Tensor
    size: Tensor
    classes: Tensor
    shape: Tensor
    counts: Tensor
    """(4,) how many centres, candidates, candidates of a known class and pixels of masks they are means over."""

    @property
    def parts(self) -> Tensor:
        """Return them, (4,)."""
        return torch.stack([self.center, self.size, self.classes, self.shape])

    @property
    def total(self) -> Tensor:
        """Return their sum."""
        return self.parts.sum()


def truth(images: Sequence[Targets]) -> Truth:
    """Return the targets of images of one size as a batch."""
    return Truth(*(
        torch.from_numpy(np.stack([getattr(one, name) for one in images]))
        for name in ("heatmap", "instances", "zones", "sizes", "classes")
    ))  # fmt: skip


def losses(prediction: Prediction, of: Truth, void: int = VOID, shape: Shape = "published") -> Losses:
    """Return the losses of a prediction made with the zones of the truth.

    Args:
        void: the class that the loss of classes leaves out.
        shape: form of the shape's loss.

    Raises:
        ConfigError: no such form.
    """
    if shape not in get_args(Shape):
        raise ConfigError(f"the loss of shapes is one of {', '.join(get_args(Shape))}, not {shape!r}")
    image, row, column = prediction.at.unbind(1)
    size, label = of.sizes[image, row, column], of.classes[image, row, column]
    relative = (size - prediction.size).abs() / (size + EPS)
    is_known = label != void
    entropy = functional.cross_entropy(prediction.classes[is_known], label[is_known], reduction="sum")
    known = is_known.sum()
    pixels = len(prediction.masks.value)
    return Losses(
        center_loss(prediction.heatmap[:, 0], of.heatmap),
        relative.sum() / max(len(relative), 1),
        entropy / known.clamp(min=1),
        _shape_loss(prediction, of, of.zones[image, row, column], shape),
        torch.stack([(of.heatmap == 1).sum(), known.new_tensor(len(label)), known, known.new_tensor(pixels)]),
    )


def center_loss(heatmap: Tensor, target: Tensor) -> Tensor:
    """Return the loss of heat maps (B, H, W), whose centres are where the target (B, H, W) is 1."""
    is_center = target == 1
    of_centers = torch.log(heatmap + EPS) * is_center
    elsewhere = torch.log(1 - heatmap + EPS) * (1 - target) ** BETA
    return -(of_centers.sum() + elsewhere.sum()) / is_center.sum().clamp(min=1)


def _shape_loss(prediction: Prediction, of: Truth, field: Tensor, shape: Shape) -> Tensor:
    masks = prediction.masks
    is_field = of.instances.flatten()[masks.pixel] == field[masks.candidate]
    likelihood = torch.where(is_field, masks.value, 1 - masks.value)
    loss = functional.softplus(1 - 2 * likelihood) if shape == "published" else -torch.log(likelihood + EPS)
    return loss.sum() / max(len(loss), 1)
