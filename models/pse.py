"""Pixel-set encoder: the pixels of a parcel at one date to one embedding, whatever their number and order.

    z_p = MLP1(x_p)    e = MLP2([mean_p z ; sd_p z ; geometry])

Source: Garnot et al. 2020 (PSE), widths C-32-64 and 132-128 of Garnot, Landrieu and Chehata 2022; unbiased sd.
Shapes: pixels (N, C, S), valid (N, S), geometry (N, 4) to embeddings (N, 128); N parcel-dates, C channels, S pixels.
Units:  all standardised.
Errors: none: a parcel-date without a valid pixel has mean and sd 0, with one pixel sd 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

# Under the root of the variance, so that its gradient is finite at 0; the published code's constant.
VARIANCE_FLOOR = 1e-31
# Activations of a chunk, in numbers of float32: 2**16 are 256 KiB, which stays in a core's second-level cache.
CHUNK_NUMBERS = 2**16


class RowNorm(nn.BatchNorm1d):
    """Batch norm over the rows given (N, C), and nothing else; a single row is normalised by the running statistics."""

    def forward(self, rows: Tensor) -> Tensor:
        if self.training and rows.shape[0] < 2:
            return functional.batch_norm(
                rows, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(rows)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """The affine map (C,), (C,) that this norm is once trained."""
        assert self.running_mean is not None
        assert self.running_var is not None
        scale = self.weight / torch.sqrt(self.running_var + self.eps)
        return scale, self.bias - self.running_mean * scale


class LinearNorm(nn.Module):
    """A linear layer and a batch norm over rows (N, C)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.lin = nn.Linear(inputs, outputs)
        self.bn = RowNorm(outputs)

    def forward(self, rows: Tensor) -> Tensor:
        return self.bn(self.lin(rows))  # type: ignore[no-any-return]

    def folded(self) -> tuple[Tensor, Tensor]:
        """The weight (O, I) and bias (O,) of the one linear layer that both are once trained."""
        scale, shift = self.bn.scale_and_shift()
        return (self.lin.weight * scale[:, None]).detach(), (self.lin.bias * scale + shift).detach()


def masked_mean_sd_(z: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased sd (F, N) over the valid pixels of z (F, N, S), valid (N, S); 0 if undefined. Overwrites z."""
    weight = valid.to(z.dtype)
    count = weight.sum(-1)
    mean = z.mul_(weight).sum(-1) / count.clamp(min=1)
    # Two passes: the mean of squares less the squared mean loses the sd of pixels that are nearly equal.
    variance = z.sub_(mean[..., None]).mul_(weight).square_().sum(-1) / (count - 1).clamp(min=1)
    return mean, torch.sqrt(variance + VARIANCE_FLOOR)


def packed_mean_sd(z: Tensor, row: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Mean and unbiased sd (rows, F) over pixels z (M, F) that belong to `row` (M,); 0 where they are undefined."""
    count = torch.zeros(rows, device=z.device).index_add(0, row, torch.ones_like(row, dtype=z.dtype))[:, None]
    zeros = torch.zeros(rows, z.shape[1], device=z.device, dtype=z.dtype)
    mean = zeros.index_add(0, row, z) / count.clamp(min=1)
    variance = zeros.index_add(0, row, (z - mean[row]).square()) / (count - 1).clamp(min=1)
    return mean, torch.sqrt(variance + VARIANCE_FLOOR)


class PixelSetEncoder(nn.Module):
    """The trainable encoder. It packs the valid pixels, so that batch norm sees them alone."""

    def __init__(
        self, channels: int, widths: Sequence[int] = (32, 64), geometry: int = 4, embedding: int = 128
    ) -> None:
        super().__init__()
        sizes = [channels, *widths]
        self.mlp1 = nn.ModuleList(LinearNorm(a, b) for a, b in pairwise(sizes))
        self.mlp2 = LinearNorm(2 * sizes[-1] + geometry, embedding)

    def forward(self, pixels: Tensor, valid: Tensor, geometry: Tensor) -> Tensor:
        row = torch.nonzero(valid)[:, 0]  # (M,) parcel-date of each valid pixel
        z = pixels.transpose(1, 2)[valid]  # (M, C)
        for layer in self.mlp1:
            z = functional.relu(layer(z))
        mean, sd = packed_mean_sd(z, row, pixels.shape[0])
        return self.mlp2(torch.cat([mean, sd, geometry], dim=1))  # type: ignore[no-any-return]

    def folded(self) -> FoldedPixelSetEncoder:
        """The same function as this trained encoder, for inference only."""
        return FoldedPixelSetEncoder([*self.mlp1, self.mlp2])


class FoldedPixelSetEncoder(nn.Module):
    """The encoder for inference: batch norms folded into the linear layers, pixels last, chunks that stay in cache."""

    def __init__(self, layers: Sequence[LinearNorm]) -> None:
        super().__init__()
        self.depth = len(layers) - 1
        for index, layer in enumerate(layers):
            weight, bias = layer.folded()
            self.register_buffer(f"weight{index}", weight)
            self.register_buffer(f"bias{index}", bias)
        self.width = max(layer.lin.out_features for layer in layers[:-1])

    @torch.no_grad()
    def forward(self, pixels: Tensor, valid: Tensor, geometry: Tensor) -> Tensor:
        # A GPU has no such cache to stay in: there the whole is one chunk.
        rows = CHUNK_NUMBERS // (self.width * pixels.shape[2]) if pixels.device.type == "cpu" else len(pixels)
        statistics = [
            torch.cat(masked_mean_sd_(self._pixel_features(some), seen))
            for some, seen in zip(torch.split(pixels, max(rows, 1)), torch.split(valid, max(rows, 1)), strict=True)
        ]
        last = self.depth
        inputs = torch.cat([torch.cat(statistics, dim=1).t(), geometry], dim=1)
        return functional.linear(inputs, self.get_buffer(f"weight{last}"), self.get_buffer(f"bias{last}"))

    def _pixel_features(self, pixels: Tensor) -> Tensor:
        """MLP1 of a chunk, (n, C, S) to (F, n, S), as one matrix product a layer."""
        n, _, size = pixels.shape
        z = pixels.transpose(0, 1).flatten(1)  # (C, n * S)
        for index in range(self.depth):
            z = torch.addmm(self.get_buffer(f"bias{index}")[:, None], self.get_buffer(f"weight{index}"), z).relu_()
        return z.view(len(z), n, size)
