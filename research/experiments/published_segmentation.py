"""U-TAE and PaPs as printed: one candidate after another, dense, in any precision. What the networks are tested and timed against."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

EPS = 1e-5


@dataclass(frozen=True)
class Sizes:
    """Of a published network; small, but for the number of levels."""

    channels: int = 3
    classes: int = 5
    encoder: tuple[int, ...] = (8, 8, 16, 16)
    decoder: tuple[int, ...] = (8, 12, 8, 16)
    width: int = 16
    heads: int = 4
    key: int = 4
    head: tuple[int, ...] = (32,)
    shape: int = 16


def utae_state(sizes: Sizes, seed: int = 0) -> dict[str, Tensor]:
    """Return a U-TAE's state dict under published names, its norms as if trained."""
    state, draw = dict[str, Tensor](), _Draw(seed)
    e, d = sizes.encoder, sizes.decoder

    def block(name: str, widths: tuple[int, ...], kernel: int = 3, *, batch: bool = False) -> None:
        for nr, (a, b) in enumerate(pairwise(widths)):
            draw.layer(state, f"{name}.{3 * nr}", b, a, kernel, kernel)
            draw.norm(state, f"{name}.{3 * nr + 1}", b, batch=batch)

    block("in_conv.conv.conv", (sizes.channels, e[0], e[0]))
    for i in range(len(e) - 1):
        block(f"down_blocks.{i}.down.conv", (e[i], e[i]), 4)
        block(f"down_blocks.{i}.conv1.conv", (e[i], e[i + 1]))
        block(f"down_blocks.{i}.conv2.conv", (e[i + 1], e[i + 1]))
        at = len(e) - 1 - i
        block(f"up_blocks.{i}.skip_conv", (e[at - 1], e[at - 1]), 1, batch=True)
        draw.layer(state, f"up_blocks.{i}.up.0", d[at], d[at - 1], 4, 4, outputs=d[at - 1])
        draw.norm(state, f"up_blocks.{i}.up.1", d[at - 1], batch=True)
        block(f"up_blocks.{i}.conv1.conv", (d[at - 1] + e[at - 1], d[at - 1]), batch=True)
        block(f"up_blocks.{i}.conv2.conv", (d[at - 1], d[at - 1]), batch=True)
    draw.layer(state, "temporal_encoder.inconv", sizes.width, e[-1], 1)
    state["temporal_encoder.attention_heads.Q"] = draw(sizes.heads, sizes.key, sd=math.sqrt(2 / sizes.key))
    draw.layer(state, "temporal_encoder.attention_heads.fc1_k", sizes.heads * sizes.key, sizes.width)
    draw.norm(state, "temporal_encoder.in_norm", e[-1])
    draw.norm(state, "temporal_encoder.out_norm", e[-1])
    draw.layer(state, "temporal_encoder.mlp.0", e[-1], sizes.width)
    draw.norm(state, "temporal_encoder.mlp.1", e[-1], batch=True)
    block("out_conv.conv.conv", (d[0], *sizes.head, sizes.classes), batch=True)
    return state


def paps_state(sizes: Sizes, seed: int = 0, size_bias: float = 6.0) -> dict[str, Tensor]:
    """Return a PaPs's state dict under published names; boxes are some `size_bias` pixels high and wide."""
    state = {f"encoder.{name}": one for name, one in utae_state(sizes, seed).items()}
    draw, stack = _Draw(seed + 1), sum(sizes.decoder)
    for name in ("heatmap_conv.0.conv", "saliency_conv.conv"):
        draw.layer(state, f"{name}.0", 32, sizes.decoder[0], 3, 3)
        draw.norm(state, f"{name}.1", 32, batch=True)
        draw.layer(state, f"{name}.3", 1, 32, 3, 3)
        draw.norm(state, f"{name}.4", 1, batch=True)
    # Wide: the map is no constant, so that masks and confidences are on both sides of the thresholds.
    state["heatmap_conv.0.conv.4.weight"][:] = 2.0
    state["saliency_conv.conv.4.weight"][:] = 2.0
    for name in ("shape", "size", "class"):
        draw.layer(state, f"{name}_mlp.0", stack // 2, stack)
        draw.norm(state, f"{name}_mlp.1", stack // 2, batch=True)
    draw.layer(state, "shape_mlp.3", sizes.shape**2, stack // 2)
    draw.layer(state, "size_mlp.3", stack // 4, stack // 2)
    draw.norm(state, "size_mlp.4", stack // 4, batch=True)
    draw.layer(state, "size_mlp.6", 2, stack // 4)
    state["size_mlp.6.weight"] *= 2
    state["size_mlp.6.bias"] += size_bias
    draw.layer(state, "class_mlp.3", stack // 4, stack // 2)
    draw.layer(state, "class_mlp.4", sizes.classes, stack // 4)
    draw.layer(state, "mask_cnn.0", 16, 1, 3, 3)
    draw.norm(state, "mask_cnn.1", 16)
    draw.layer(state, "mask_cnn.3", 16, 16, 3, 3)
    draw.layer(state, "mask_cnn.5", 1, 16, 3, 3)
    state["mask_cnn.5.bias"] += 2.0
    return state


class _Draw:
    """Draws weights as if trained."""

    def __init__(self, seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, sd: float = 1.0) -> Tensor:
        return sd * torch.randn(*shape, generator=self.random)

    def layer(self, state: dict[str, Tensor], name: str, *shape: int, outputs: int | None = None) -> None:
        state[f"{name}.weight"] = self(*shape, sd=math.prod(shape[1:]) ** -0.5)
        state[f"{name}.bias"] = self(outputs or shape[0], sd=0.1)

    def norm(self, state: dict[str, Tensor], name: str, size: int, *, batch: bool = False) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = 1 + self(size, sd=0.1), self(size, sd=0.1)
        if batch:
            state[f"{name}.running_mean"] = self(size, sd=0.1)
            state[f"{name}.running_var"] = 0.5 + torch.rand(size, generator=self.random)
            state[f"{name}.num_batches_tracked"] = torch.tensor(7)


def utae_levels(state: dict[str, Tensor], images: Tensor, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Return the encoder's levels of dates (N, C, H, W), fine to coarse.

    The authors' code passes zeros of the same shapes through first, at each call, to learn the shapes of what comes out.
    """
    w, x = _Weights(state, dtype), images.to(dtype)
    for nr in (0, 3):
        x = w.convolution(f"in_conv.conv.conv.{nr}", x)
    levels = [x]
    while f"down_blocks.{len(levels) - 1}.down.conv.0.weight" in state:
        at = f"down_blocks.{len(levels) - 1}"
        x = w.convolution(f"{at}.down.conv.0", levels[-1], stride=2)
        x = w.convolution(f"{at}.conv1.conv.0", x)
        levels.append(x + w.convolution(f"{at}.conv2.conv.0", x))
    return levels


def utae_features(
    state: dict[str, Tensor], images: Tensor, positions: Tensor, dtype: torch.dtype
) -> tuple[list[Tensor], Tensor]:
    """Return the decoder's levels, coarse to fine, and the attention (heads, B, T, h, w), of dates that are all there."""
    w = _Weights(state, dtype)
    b, t = images.shape[:2]
    levels = utae_levels(state, images.flatten(0, 1), dtype)
    heads, key = state["temporal_encoder.attention_heads.Q"].shape
    c, height, width = levels[-1].shape[1:]
    series = levels[-1].view(b, t, c, height, width).permute(0, 3, 4, 2, 1).reshape(-1, c, t)  # of each pixel
    series = functional.group_norm(
        series, heads, w["temporal_encoder.in_norm.weight"], w["temporal_encoder.in_norm.bias"]
    )
    h = w.linear("temporal_encoder.inconv", series.transpose(1, 2))  # (pixels, T, width)
    d = h.shape[2] // heads
    # In float32 whatever the rest is in: its rounding is part of what the weights were trained with.
    turn = torch.pow(1000.0, 2 * (torch.arange(d).float() // 2) / d)
    angles = (positions.expand(b, t).flatten()[:, None].float() / turn).tolist()
    sines = [[(math.cos if i % 2 else math.sin)(angle) for i, angle in enumerate(one)] for one in angles]
    code = torch.tensor(sines, dtype=dtype).view(b, t, d).repeat(1, 1, heads)
    h = h + code.repeat_interleave(height * width, 0)
    keys = w.linear("temporal_encoder.attention_heads.fc1_k", h).view(-1, t, heads, key)
    attention, outputs = [], []
    for head in range(heads):
        weights = (keys[:, :, head] @ w["temporal_encoder.attention_heads.Q"][head] / math.sqrt(key)).softmax(1)
        outputs.append((weights[..., None] * h[..., head * d : (head + 1) * d]).sum(1))
        attention.append(weights.view(b, height, width, t).permute(0, 3, 1, 2))
    out = w.linear("temporal_encoder.mlp.0", torch.cat(outputs, 1))
    out = w.batch_norm("temporal_encoder.mlp.1", out).relu()
    out = functional.group_norm(out, heads, w["temporal_encoder.out_norm.weight"], w["temporal_encoder.out_norm.bias"])
    maps = [out.view(b, height, width, -1).permute(0, 3, 1, 2)]
    for i, level in enumerate(reversed(levels[:-1])):
        level = level.view(b, t, *level.shape[1:])
        groups = []
        for head, group in enumerate(level.chunk(heads, 2)):
            weights = functional.interpolate(
                attention[head], size=level.shape[-2:], mode="bilinear", align_corners=False
            )
            groups.append((weights[:, :, None] * group).sum(1))
        at = f"up_blocks.{i}"
        skipped = w.convolution(f"{at}.skip_conv.0", torch.cat(groups, 1), pad=0)
        up = functional.conv_transpose2d(maps[-1], w[f"{at}.up.0.weight"], w[f"{at}.up.0.bias"], 2, 1)
        x = w.convolution(f"{at}.conv1.conv.0", torch.cat([w.batch_norm(f"{at}.up.1", up).relu(), skipped], 1))
        maps.append(x + w.convolution(f"{at}.conv2.conv.0", x))
    return maps, torch.stack(attention)


def utae_outputs(
    state: dict[str, Tensor], images: Tensor, positions: Tensor, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Return logits and attention."""
    w = _Weights(state, dtype)
    maps, attention = utae_features(state, images, positions, dtype)
    x, nr = maps[-1], 0
    while f"out_conv.conv.conv.{nr}.weight" in state:
        x, nr = w.convolution(f"out_conv.conv.conv.{nr}", x), nr + 3
    return {"logits": x.float(), "attention": attention.float()}


def paps_outputs(  # its thresholds are the published ones
    state: dict[str, Tensor],
    images: Tensor,
    positions: Tensor,
    min_confidence: float = 0.2,
    *,
    mean_of_batch: bool = True,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Return the published outputs, and `masks`: the sum of each candidate's mask."""
    w = _Weights(state, dtype)
    encoder = {name.removeprefix("encoder."): one for name, one in state.items() if name.startswith("encoder.")}
    maps, _ = utae_features(encoder, images, positions, dtype)
    finest = maps[-1]
    b, _, height, width = finest.shape

    def of_one_channel(name: str) -> Tensor:
        return w.convolution(f"{name}.3", w.convolution(f"{name}.0", finest), relu=False)

    heatmap, saliency = of_one_channel("heatmap_conv.0.conv").sigmoid(), of_one_channel("saliency_conv.conv")
    centers = torch.zeros(b, height, width, dtype=torch.bool)
    for image in range(b):
        least = heatmap.mean() if mean_of_batch else heatmap[image].mean()
        for i in range(height):
            for j in range(width):
                around = heatmap[image, 0, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
                centers[image, i, j] = heatmap[image, 0, i, j] == around.max() and heatmap[image, 0, i, j] > least
    at = centers.nonzero().tolist()
    rows = torch.stack([
        torch.cat([one[image, :, i * one.shape[2] // height, j * one.shape[3] // width] for one in maps])
        for image, i, j in at
    ]) if at else finest.new_zeros(0, sum(one.shape[1] for one in maps))  # fmt: skip

    def hidden(name: str) -> Tensor:
        return w.batch_norm(f"{name}.1", w.linear(f"{name}.0", rows)).relu()

    size = w.linear("size_mlp.3", hidden("size_mlp"))
    size = functional.softplus(w.linear("size_mlp.6", w.batch_norm("size_mlp.4", size).relu()))
    semantic = w.linear("class_mlp.4", w.linear("class_mlp.3", hidden("class_mlp")))
    shapes = w.linear("shape_mlp.3", hidden("shape_mlp"))
    confidence = torch.stack([heatmap[image, 0, i, j] for image, i, j in at]) if at else size.new_zeros(0)
    boxes, masks = [], []
    for n, (image, i, j) in enumerate(at):
        h, v = (max(1, round(one)) for one in size[n].tolist())
        top, left = i - h // 2, j - v // 2
        side = math.isqrt(shapes.shape[1])
        shape = functional.interpolate(shapes[n].view(1, 1, side, side), size=(h, v), mode="bilinear")[0, 0]
        y0, x0, y1, x1 = max(0, top), max(0, left), min(height, top + h), min(width, left + v)
        x = shape[y0 - top : y1 - top, x0 - left : x1 - left] + saliency[image, 0, y0:y1, x0:x1]
        y = functional.conv2d(x[None, None], w["mask_cnn.0.weight"], w["mask_cnn.0.bias"], padding=1)
        y = functional.group_norm(y, 1, w["mask_cnn.1.weight"], w["mask_cnn.1.bias"]).relu()
        y = functional.conv2d(y, w["mask_cnn.3.weight"], w["mask_cnn.3.bias"], padding=1).relu()
        y = functional.conv2d(y, w["mask_cnn.5.weight"], w["mask_cnn.5.bias"], padding=1)[0, 0]
        boxes.append([x0, y0, x1, y1])
        masks.append(x.sigmoid() * y.sigmoid())
    instances = torch.zeros(b, height, width, dtype=torch.long)
    scores = torch.zeros(b, semantic.shape[1], height, width)
    for image in range(b):
        own = [n for n, one in enumerate(at) if one[0] == image]
        for rank, n in enumerate(sorted(own, key=lambda n: -float(confidence[n].float()))):
            if confidence[n] < min_confidence:
                break
            x0, y0, x1, y1 = boxes[n]
            mask = torch.zeros(height, width, dtype=torch.bool)
            mask[y0:y1, x0:x1] = masks[n] > 0.4
            free = mask & (instances[image] == 0)
            if mask.any() and free.sum() / mask.sum() > 0.5:
                instances[image][free] = rank + 1
                scores[image][:, free] = semantic[n].float()[:, None]
    return {
        "center_mask": centers,
        "saliency": saliency.float(),
        "heatmap": heatmap.float(),
        "semantic": semantic.float(),
        "size": size.float(),
        "confidence": confidence.float()[:, None],
        "centerness": confidence.float()[:, None],
        "instance_boxes": torch.tensor(boxes, dtype=torch.long).view(-1, 4),
        "pano_instance": instances.float(),
        "pano_semantic": scores,
        "masks": torch.stack([one.sum() for one in masks]).float() if masks else torch.zeros(0),
    }


class _Weights:
    """Weights of one precision, and the layers that take them."""

    def __init__(self, state: dict[str, Tensor], dtype: torch.dtype) -> None:
        self.state = {name: one.to(dtype) for name, one in state.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self.state[name]

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self[f"{name}.weight"].flatten(1).T + self[f"{name}.bias"]

    def batch_norm(self, name: str, x: Tensor) -> Tensor:
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        scale = self[f"{name}.weight"] / (self[f"{name}.running_var"] + EPS).sqrt()
        return (x - self[f"{name}.running_mean"].view(shape)) * scale.view(shape) + self[f"{name}.bias"].view(shape)

    def convolution(self, name: str, x: Tensor, *, stride: int = 1, pad: int = 1, relu: bool = True) -> Tensor:
        """Convolve, and apply the norm that is numbered after it: over 4 groups where it has no statistics of its own."""
        x = functional.pad(x, (pad,) * 4, mode="reflect") if pad else x
        x = functional.conv2d(x, self[f"{name}.weight"], self[f"{name}.bias"], stride)
        before, nr = name.rsplit(".", 1)
        norm = f"{before}.{int(nr) + 1}"
        if f"{norm}.running_var" in self.state:
            x = self.batch_norm(norm, x)
        else:
            x = functional.group_norm(x, 4, self[f"{norm}.weight"], self[f"{norm}.bias"])
        return x.relu() if relu else x
