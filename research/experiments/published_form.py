"""The published parcel classifier as its authors' code lays it out: the reference of the classifier's benchmarks, nothing else.

Neither tuned nor handicapped: the same layers in the same order on the same layouts. Dense, padded tensors; channels moved
last for each linear layer over pixels and back for its batch norm, unfolded; the mean taken once for itself and once more for
the standard deviation; keys and values laid out head by head. Parameters have the published names.
Source: Garnot, Landrieu and Chehata 2022, parcel-based part, and the layout of the authors' public PSE and L-TAE modules.
Shapes: pixels (B, T, C, S), mask (B, T, S), geometry (B, T, 4), positions (T,) to features (B, 128) or logits (B, K); a mask
        (B, S) and a geometry (B, 4) hold for all dates.
"""

from collections import OrderedDict
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

M = TypeVar("M", bound=nn.Module)

HEADS, KEY, WIDTH, OUTPUTS, VALUE = 16, 8, 256, 128, 16


class PixelLayer(nn.Module):
    """Linear, batch norm and ReLU, shared over pixels (N, C, S)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.lin, self.bn = nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs)

    def forward(self, z: Tensor) -> Tensor:
        z = self.lin(z.permute(0, 2, 1)).permute(0, 2, 1)  # (N, F, S)
        return torch.relu(self.bn(z))


def masked_mean(z: Tensor, mask: Tensor) -> Tensor:
    """Return mean (N, F) over pixels z (N, F, S) where the mask (N, S) is 1."""
    return ((z.permute(1, 0, 2) * mask).sum(-1) / mask.sum(-1)).permute(1, 0)


def masked_sd(z: Tensor, mask: Tensor) -> Tensor:
    """Return unbiased standard deviation (N, F) over the same; one pixel counts as two."""
    deviation = (z.permute(2, 0, 1) - masked_mean(z, mask)).permute(2, 1, 0) * mask  # (F, N, S)
    count = mask.sum(-1)
    count = torch.where(count == 1, 2, count)
    return torch.sqrt((deviation**2).sum(-1) / (count - 1) + 1e-31).permute(1, 0)


class SpatialEncoder(nn.Module):
    """The pixel-set encoder."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp1 = nn.Sequential(*(PixelLayer(a, b) for a, b in pairwise((channels, 32, 64))))
        self.mlp2 = nn.Sequential(nn.Linear(2 * 64 + 4, OUTPUTS), nn.BatchNorm1d(OUTPUTS))

    def forward(self, pixels: Tensor, mask: Tensor, geometry: Tensor) -> Tensor:
        b, t = pixels.shape[:2]
        mask, geometry = (one if one.ndim == 3 else one[:, None].expand(b, t, -1) for one in (mask, geometry))
        z, mask = self.mlp1(pixels.flatten(0, 1)), mask.flatten(0, 1)
        features = torch.cat([masked_mean(z, mask), masked_sd(z, mask)], 1)
        return self.mlp2(torch.cat([features, geometry.flatten(0, 1)], 1)).view(b, t, OUTPUTS)  # type: ignore[no-any-return]


class AttentionHeads(nn.Module):
    """Learned queries, the linear map of the keys, and values that are slices of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.Q, self.fc1_k = nn.Parameter(torch.randn(HEADS, KEY)), nn.Linear(WIDTH, HEADS * KEY)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        query = self.Q[:, None].repeat(1, b, 1).view(HEADS * b, 1, KEY)
        keys = self.fc1_k(x).view(b, t, HEADS, KEY).permute(2, 0, 1, 3).reshape(HEADS * b, t, KEY)
        values = torch.stack(torch.split(x, VALUE, dim=-1)).view(HEADS * b, t, VALUE)
        weights = torch.softmax(torch.matmul(query, keys.transpose(1, 2)) / KEY**0.5, 2)
        attended = torch.matmul(weights, values).view(HEADS, b, VALUE)
        return attended.permute(1, 0, 2).reshape(b, WIDTH)


class TemporalEncoder(nn.Module):
    """The L-TAE of the parcel classifier, with its LayerNorm over (channels, dates)."""

    def __init__(self, dates: int) -> None:
        super().__init__()
        self.inlayernorm = nn.LayerNorm(OUTPUTS)
        self.inconv = nn.Sequential(nn.Conv1d(OUTPUTS, WIDTH, 1), nn.LayerNorm((WIDTH, dates)))
        self.attention_heads = AttentionHeads()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, OUTPUTS), nn.BatchNorm1d(OUTPUTS), nn.ReLU())
        self.outlayernorm = nn.LayerNorm(OUTPUTS)

    def forward(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        b, t, _ = embeddings.shape
        x = self.inconv(self.inlayernorm(embeddings).permute(0, 2, 1)).permute(0, 2, 1)  # (B, T, 256)
        i = torch.arange(VALUE, device=x.device)
        angle = positions[:, None] / 1000.0 ** (2 * (i // 2) / VALUE)
        table = torch.where(i % 2 == 0, torch.sin(angle), torch.cos(angle)).repeat(1, HEADS)  # (T, 256)
        x = x + functional.embedding(torch.arange(t, device=x.device).expand(b, t), table)
        return self.outlayernorm(self.mlp(self.attention_heads(x)))  # type: ignore[no-any-return]


class PublishedForm(nn.Module):
    """One modality: encoders and decoder."""

    def __init__(self, channels: int, dates: int, classes: int) -> None:
        super().__init__()
        self.spatial_encoder, self.temporal_encoder = SpatialEncoder(channels), TemporalEncoder(dates)
        self.decoder = decoder(OUTPUTS, classes)

    def features(self, pixels: Tensor, mask: Tensor, geometry: Tensor, positions: Tensor) -> Tensor:
        """Return the season as one vector (B, 128)."""
        return self.temporal_encoder(self.spatial_encoder(pixels, mask, geometry), positions)  # type: ignore[no-any-return]

    def forward(self, pixels: Tensor, mask: Tensor, geometry: Tensor, positions: Tensor) -> Tensor:
        return self.decoder(self.features(pixels, mask, geometry, positions))  # type: ignore[no-any-return]


def decoder(inputs: int, classes: int) -> nn.Sequential:
    """Return 128 (late fusion: 384) - 64 - 32 - K."""
    layers: list[nn.Module] = []
    for a, b in pairwise((inputs, 64, 32)):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, classes))


def trained_like(network: M, seed: int) -> M:
    """Return the network in evaluation mode, its norms (and all else that starts as zeros or ones) random, as if trained."""
    random = torch.Generator().manual_seed(seed)
    state = OrderedDict(network.state_dict())
    for name, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=random)
        if name.endswith("running_var"):
            state[name] = 0.5 + noise.abs()
        elif tensor.is_floating_point() and tensor.unique().tolist() in ([0.0], [1.0]):
            state[name] = tensor + 0.3 * noise
    network.load_state_dict(state)
    return network.eval()
