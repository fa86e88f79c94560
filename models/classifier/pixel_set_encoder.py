"""Pixel-set encoder: the pixels of a parcel at one date to one embedding, whatever their number and order.

    z_p = MLP1(x_p)    e = MLP2([mean_p z ; sd_p z ; geometry])

Source: Garnot et al. 2020 (PSE), widths C-32-64 and 132-128 of Garnot, Landrieu and Chehata 2022; unbiased sd.
Shapes: pixels (N, C, S), valid (N, S), geometry (N, 4) to embeddings (N, 128); N parcel-dates, C channels, S pixels.
Units:  all standardised.
Errors: none: a parcel-date without a valid pixel has mean and sd 0, with one pixel sd 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.classifier.attention_state import is_remote

# Under the root of the variance, so that its gradient is finite at 0; the published code's constant.
VARIANCE_FLOOR = 1e-31
# Widest activations of a chunk, in float32 numbers. On a CPU the fastest of 2**16 to 2**21 measured: larger ones leave the
# cache, smaller ones pay more for calls. On a GPU the memory for temporaries: 3 times 512 MiB.
CPU_CHUNK, GPU_CHUNK = 2**20, 2**27
# Share of valid pixels from which on leaving the others out costs more than it saves (measured).
LEAST_DENSE = 0.4
# PyTorch takes MKL for float32, which does not use AVX-512 on other vendors' processors; oneDNN, in the same wheel, does: twice
# the speed on AMD. Its fixed cost outweighs that below about a million multiplications (measured).
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")  # type: ignore[no-untyped-call]
LEAST_ONEDNN = 2**20


class RowNorm(nn.BatchNorm1d):
    """Batch norm over the rows given (N, C), and nothing else; a single row is normalised by the running statistics."""

    def forward(self, rows: Tensor) -> Tensor:
        if self.training and rows.shape[0] < 2:
            return functional.batch_norm(
                rows, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(rows)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return the affine map (C,), (C,) that this norm is once trained."""
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
        """Return the weight (O, I) and bias (O,) of the one linear layer that both are once trained."""
        scale, shift = self.bn.scale_and_shift()
        return (self.lin.weight * scale[:, None]).detach(), (self.lin.bias * scale + shift).detach()


def linear(rows: Tensor, weight: Tensor, bias: Tensor, *, relu: bool = False) -> Tensor:
    """Return the linear layer of inference, rows (M, I) to (M, O), with ReLU in the same pass; it has no gradient."""
    is_large = len(rows) * weight.numel() >= LEAST_ONEDNN
    if HAS_ONEDNN and is_large and rows.dtype == torch.float32 and not is_remote(rows):
        kind = "relu" if relu else "none"
        return torch.ops.mkldnn._linear_pointwise(rows, weight, bias, kind, [], "")  # type: ignore[no-any-return]
    out = functional.linear(rows, weight, bias)
    return out.relu_() if relu else out


def masked_moments_(z: Tensor, weight: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared deviations (n, F) over pixels z (n, S, F) of weight 1, not 0. Overwrites z.

    Args:
        weight: (n, S) of 0 and 1.
        count: (n, 1), their number, at least 1.
    """
    weight = weight[:, None]  # (n, 1, S): a sum over pixels is a matrix product, so that the mask costs no pass
    mean = torch.bmm(weight, z).div_(count[..., None])
    # Two passes: the mean of squares less the squared mean loses the sd of pixels that are nearly equal.
    torch.ops.aten.mse_loss.out(z, mean.expand_as(z), 0, out=z)  # (z - mean)^2 in one pass
    return mean[:, 0], torch.bmm(weight, z)[:, 0]


def packed_mean_sd(z: Tensor, row: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Mean and unbiased sd (rows, F) over pixels z (M, F) that belong to `row` (M,); 0 where they are undefined."""
    count = z.new_zeros(rows).index_add(0, row, torch.ones_like(row, dtype=z.dtype))[:, None]
    zeros = z.new_zeros(rows, z.shape[1])
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

    def folded(self, dtype: torch.dtype = torch.float32) -> FoldedPixelSetEncoder:
        """Return the same function as this trained encoder, for inference only."""
        return FoldedPixelSetEncoder([*self.mlp1, self.mlp2], dtype)


class FoldedPixelSetEncoder(nn.Module):
    """The encoder for inference: batch norms folded, chunks that stay in cache, no work for pixels that are not there.

    In bfloat16 the matrix products over pixels are; statistics and MLP2 stay float32.
    """

    def __init__(self, layers: Sequence[LinearNorm], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.depth = len(layers) - 1
        for index, layer in enumerate(layers):
            weight, bias = (one.to(dtype if index < self.depth else one.dtype) for one in layer.folded())
            self.register_buffer(f"weight{index}", weight)
            self.register_buffer(f"bias{index}", bias)

    @torch.no_grad()
    def forward(self, pixels: Tensor, valid: Tensor, geometry: Tensor) -> Tensor:
        *pixel_layers, (last, bias) = (
            (self.get_buffer(f"weight{index}"), self.get_buffer(f"bias{index}")) for index in range(self.depth + 1)
        )
        width, dtype = len(pixel_layers[-1][1]), pixel_layers[0][0].dtype
        weight = valid.to(geometry.dtype)
        count = weight.sum(1, keepdim=True)
        inputs = geometry.new_empty(len(pixels), last.shape[1])  # [mean; sd; geometry]
        inputs[:, 2 * width :] = geometry
        mean, spread = inputs[:, :width], inputs[:, width : 2 * width]
        for rows, some, seen in chunks(pixels, weight, count, width):
            z = some.flatten(0, 1).to(dtype)
            for of_layer in pixel_layers:
                z = linear(z, *of_layer, relu=True)
            z = z.view(*some.shape[:2], width).float()
            mean[rows], spread[rows] = masked_moments_(z, seen, count[rows].clamp(min=1))
        spread.div_((count - 1).clamp(min=1)).add_(VARIANCE_FLOOR).sqrt_()
        return linear(inputs, last, bias)


def chunks(
    pixels: Tensor, weight: Tensor, count: Tensor, width: int
) -> Iterator[tuple[slice | Tensor, Tensor, Tensor]]:
    """Some rows at a time, each row once: which, their pixels (n, k, C) channels last, and the weight of these (n, k).

    k is S; on a CPU, where most pixels are invalid (clouds, small parcels beside large ones), it is the number of valid
    ones, rows of a similar number together. A GPU would have to wait for these numbers: there the work on invalid pixels
    is the cheaper one.

    Args:
        pixels: (N, C, S).
        weight: (N, S) of 0 and 1.
        count: (N, 1), number of valid pixels.
        width: number of features that a pixel will have.
    """
    n, _, size = pixels.shape
    at_once = (GPU_CHUNK if is_remote(pixels) else CPU_CHUNK) // width
    by_pixel = pixels.transpose(1, 2)
    if is_remote(pixels) or float(count.sum()) >= LEAST_DENSE * weight.numel():
        step = max(at_once // max(size, 1), 1)
        for begin in range(0, n, step):
            rows = slice(begin, begin + step)
            yield rows, by_pixel[rows].contiguous(), weight[rows]
        return
    counts, order = count[:, 0].long().sort(descending=True)
    found = torch.nonzero(weight[order])[:, 1]  # valid pixels, row after row
    before, place = counts.cumsum(0) - counts, torch.arange(size)
    begin = 0
    while begin < n:
        most = max(int(counts[begin]), 1)
        part = slice(begin, begin + max(at_once // most, 1))
        # Where a row has fewer, places of the next row's pixels stand in: any do, their weight is 0.
        index = (before[part, None] + place[:most]).clamp(max=max(len(found) - 1, 0))
        index = found[index] if len(found) else index * 0
        yield order[part], by_pixel[order[part, None], index], (place[:most] < counts[part, None]).to(weight.dtype)
        begin = part.stop
