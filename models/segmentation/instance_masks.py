"""Masks of fields: a small shape laid over the saliency within a box, all candidates together.

    x = resize(shape, box) + saliency(box)        mask = sigmoid(x) sigmoid(cnn(x))

Chosen because: boxes differ in size, so that one pass a candidate is thousands of small ones. Candidates of like size share a padded pass
        instead, in which what lies outside of a box is zero before each convolution and left out of the norm: the same masks.
Source: Garnot and Landrieu 2021 (PaPs): the convolutions see one box with zeros around it.
Shapes: shapes (N, S, S), boxes (N, 4) as x0, y0, x1, y1 within the image, masks packed: (P,) pixels of all boxes.
Units:  pixels.
Errors: none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

# Pixels of a padded pass. On a CPU the fastest of 2**8 to 2**20 measured, 4 to 10 times as fast as one candidate a pass; on a GPU 16
# channels of it are 128 MiB.
CPU_PIXELS, GPU_PIXELS = 2**14, 2**21
LARGEST = 2**20
"""Pixels: a side beyond it is cut, as no image is that large."""
EPS = 1e-5


@dataclass(frozen=True)
class Boxes:
    """The boxes of N candidates."""

    start: Tensor
    """(N, 2) first row and column, which may lie outside of the image."""
    sides: Tensor
    """(N, 2) height and width, at least 1."""
    clipped: Tensor
    """(N, 4) x0, y0, x1, y1 of what lies in the image: at least the centre."""


@dataclass(frozen=True)
class Masks:
    """Masks of the pixels in boxes, packed."""

    value: Tensor
    """(P,) 0 to 1."""
    candidate: Tensor
    """(P,) whose mask it is."""
    pixel: Tensor
    """(P,) where, in images that follow each other row by row: (image x H + row) x W + column."""


def boxes(row: Tensor, column: Tensor, size: Tensor, height: int, width: int) -> Boxes:
    """Return the boxes around centres (N,) with sizes (N, 2), rounded, in images of H x W pixels."""
    sides = size.detach().round().clamp(1, LARGEST).long()
    start = torch.stack([row, column], 1) - sides // 2
    stop = start + sides
    y0, x0 = start.clamp(min=0).unbind(1)
    return Boxes(start, sides, torch.stack([x0, y0, stop[:, 1].clamp(max=width), stop[:, 0].clamp(max=height)], 1))


class MaskNetwork(nn.Module):
    """The convolutions over a mask, on boxes of one padded size."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1)
        self.norm = nn.GroupNorm(1, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv3 = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, images: Tensor, inside: Tensor) -> Tensor:
        """Return (n, 1, h, w) of images (n, 1, h, w) that are zero where `inside` (n, 1, h, w) is 0."""
        out = self.conv1(images)
        count = inside.sum((2, 3), keepdim=True) * out.shape[1]
        mean = (out * inside).sum((1, 2, 3), keepdim=True) / count
        centred = (out - mean) * inside
        variance = centred.square().sum((1, 2, 3), keepdim=True) / count
        scale, shift = (one.view(1, -1, 1, 1) for one in (self.norm.weight, self.norm.bias))
        out = functional.relu(centred * torch.rsqrt(variance + EPS) * scale + shift) * inside
        out = functional.relu(self.conv2(out)) * inside
        return self.conv3(out)  # type: ignore[no-any-return]


def masks(
    network: MaskNetwork,
    shapes: Tensor,
    saliency: Tensor,
    image: Tensor,
    found: Boxes,
    chosen: Tensor,
    above: float | None = None,
) -> Masks:
    """Return the masks of the chosen candidates.

    Args:
        shapes: (N, S, S) before the sigmoid.
        saliency: (B, 1, H, W).
        image: (N,) that of each candidate.
        chosen: (n,) candidates.
        above: only pixels of a larger value are returned; None: all of each box.
    """
    parts = [
        _pass(network, shapes, saliency, image, found, piece, above)
        for piece in _alike(found, chosen, GPU_PIXELS if saliency.is_cuda else CPU_PIXELS)
    ]
    if not parts:
        none = torch.zeros(0, dtype=torch.long, device=saliency.device)
        return Masks(saliency.new_zeros(0), none, none)
    return Masks(*(torch.cat(one) for one in zip(*parts, strict=True)))


def _alike(found: Boxes, chosen: Tensor, pixels: int) -> Iterator[Tensor]:
    """Yield candidates of like size, as many as fit into so many pixels, small ones first."""
    if len(chosen) == 0:
        return
    x0, y0, x1, y1 = found.clipped[chosen].unbind(1)
    # Within a factor of two on each side: half of a pass is padding on the average, at worst three quarters.
    power = torch.stack([y1 - y0, x1 - x0]).double().log2().ceil().long()
    kind, order = (power[0] * 64 + power[1]).sort(stable=True)
    kinds, counts = kind.unique_consecutive(return_counts=True)  # type: ignore[no-untyped-call]
    for one, members in zip(kinds.tolist(), chosen[order].split(counts.tolist()), strict=True):  # type: ignore[no-untyped-call]
        yield from members.split(max(1, pixels >> (one // 64 + one % 64)))


def _pass(
    network: MaskNetwork,
    shapes: Tensor,
    saliency: Tensor,
    image: Tensor,
    found: Boxes,
    piece: Tensor,
    above: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return value, candidate and pixel of the candidates of one padded pass."""
    height, width = saliency.shape[-2:]
    x0, y0, x1, y1 = found.clipped[piece].unbind(1)
    start, sides = found.start[piece], found.sides[piece]
    row = torch.arange(int((y1 - y0).max()), device=piece.device)
    column = torch.arange(int((x1 - x0).max()), device=piece.device)
    rows, columns = y0[:, None] + row, x0[:, None] + column  # (n, h), (n, w) in the image
    inside = (rows < y1[:, None])[:, :, None] & (columns < x1[:, None])[:, None]  # (n, h, w)
    pixel = (image[piece, None] * height + rows.clamp(max=height - 1))[:, :, None] * width
    pixel = pixel + columns.clamp(max=width - 1)[:, None]
    down = _resize(rows - start[:, :1], sides[:, 0], shapes)
    across = _resize(columns - start[:, 1:], sides[:, 1], shapes)
    x = down @ shapes[piece] @ across.transpose(1, 2) + saliency.flatten()[pixel]
    weight = inside[:, None].to(x.dtype)
    x = x[:, None] * weight
    value = (x.sigmoid() * network(x, weight).sigmoid())[:, 0]
    kept = inside if above is None else inside & (value > above)
    return value[kept], piece[:, None, None].expand_as(kept)[kept], pixel[kept]


def _resize(place: Tensor, side: Tensor, shapes: Tensor) -> Tensor:
    """Return (n, h, S): how much of each of S cells the places (n, h) of a side have, as in a bilinear resize without aligned corners."""
    cells = shapes.shape[-1]
    at = ((place + 0.5) * (cells / side.to(shapes.dtype))[:, None] - 0.5).clamp(0, cells - 1)
    return (1 - (at[..., None] - torch.arange(cells, device=at.device)).abs()).clamp(min=0)
