"""The published parcel classifier written as it is printed: the peer of the classifier's benchmarks, and nothing else.

Every layer acts on dense, padded tensors, pixels in the second place, batch norms unfolded, the whole season at each call.
Parameters have the published names, so a published state dict loads as it is.
Source: Garnot, Landrieu and Chehata 2022, parcel-based part (DESIGN section 7 restates it).
Shapes: pixels (B, T, C, S), mask (B, S), geometry (B, 4), positions (T,) to features (B, 128) or logits (B, K).
"""

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn

HEADS, KEY, WIDTH, OUTPUTS, VALUE = 16, 8, 256, 128, 16


class PixelLayer(nn.Module):
    """Linear, batch norm and ReLU, shared over pixels (N, S, C)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.lin, self.bn = nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs)

    def forward(self, z: Tensor) -> Tensor:
        z = self.lin(z).permute(0, 2, 1)  # (N, F, S)
        return torch.relu(self.bn(z)).permute(0, 2, 1)


class SpatialEncoder(nn.Module):
    """The pixel-set encoder."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp1 = nn.Sequential(*(PixelLayer(a, b) for a, b in pairwise((channels, 32, 64))))
        self.mlp2 = nn.Sequential(nn.Linear(2 * 64 + 4, OUTPUTS), nn.BatchNorm1d(OUTPUTS))

    def forward(self, pixels: Tensor, mask: Tensor, geometry: Tensor) -> Tensor:
        b, t, c, s = pixels.shape
        z = self.mlp1(pixels.reshape(b * t, c, s).permute(0, 2, 1)).permute(0, 2, 1)  # (B T, 64, S)
        weight = mask[:, None, :].expand(b, t, s).reshape(b * t, 1, s)
        count = weight.sum(-1)
        mean = (z * weight).sum(-1) / count
        variance = (((z - mean[..., None]) ** 2) * weight).sum(-1) / (count - 1).clamp(min=1)
        features = torch.cat([mean, torch.sqrt(variance + 1e-31), geometry.repeat_interleave(t, 0)], 1)
        return self.mlp2(features).view(b, t, OUTPUTS)  # type: ignore[no-any-return]


class AttentionHeads(nn.Module):
    """Learned queries and the linear map of the keys."""

    def __init__(self) -> None:
        super().__init__()
        self.Q, self.fc1_k = nn.Parameter(torch.randn(HEADS, KEY)), nn.Linear(WIDTH, HEADS * KEY)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        keys = self.fc1_k(x).view(b, t, HEADS, KEY)
        weights = torch.softmax(torch.einsum("hk,bthk->bht", self.Q, keys) / KEY**0.5, -1)
        return torch.einsum("bht,bthv->bhv", weights, x.view(b, t, HEADS, VALUE)).reshape(b, WIDTH)


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
        x = self.inconv(self.inlayernorm(embeddings).permute(0, 2, 1)).permute(0, 2, 1)  # (B, T, 256)
        i = torch.arange(VALUE)
        angle = positions[:, None] / 1000.0 ** (2 * (i // 2) / VALUE)
        code = torch.where(i % 2 == 0, torch.sin(angle), torch.cos(angle)).repeat(1, HEADS)  # (T, 256)
        return self.outlayernorm(self.mlp(self.attention_heads(x + code)))  # type: ignore[no-any-return]


class PublishedForm(nn.Module):
    """One modality: encoders and decoder."""

    def __init__(self, channels: int, dates: int, classes: int) -> None:
        super().__init__()
        self.spatial_encoder, self.temporal_encoder = SpatialEncoder(channels), TemporalEncoder(dates)
        self.decoder = decoder(OUTPUTS, classes)

    def features(self, pixels: Tensor, mask: Tensor, geometry: Tensor, positions: Tensor) -> Tensor:
        """The season as one vector (B, 128)."""
        return self.temporal_encoder(self.spatial_encoder(pixels, mask, geometry), positions)  # type: ignore[no-any-return]

    def forward(self, pixels: Tensor, mask: Tensor, geometry: Tensor, positions: Tensor) -> Tensor:
        return self.decoder(self.features(pixels, mask, geometry, positions))  # type: ignore[no-any-return]


def decoder(inputs: int, classes: int) -> nn.Sequential:
    """128 (late fusion: 384) - 64 - 32 - K."""
    layers: list[nn.Module] = []
    for a, b in pairwise((inputs, 64, 32)):
        layers += [nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, classes))


def trained_like(network: nn.Module, seed: int) -> nn.Module:
    """The network in evaluation mode with random batch-norm statistics, as if it had been trained."""
    random = torch.Generator().manual_seed(seed)
    state = OrderedDict(network.state_dict())
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            state[name] = 0.3 * torch.randn(tensor.shape, generator=random)
        elif name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(tensor.shape, generator=random)
    network.load_state_dict(state)
    return network.eval()
