"""The published parcel classifier, PSE + L-TAE as printed: the anchor of correctness, and the peer in benchmarks.

    h = LayerNorm_(256, T)(W LayerNorm(e))    over the T dates of a padded season, then as in models.ltae

Source: Garnot, Landrieu and Chehata 2022, parcel-based part; parameters under the names of the published state dicts.
Shapes: pixels (B, T, C, S), mask (B, S), geometry (B, 4), positions (T,) to logits (B, K).
Units:  pixels and geometry standardised, positions in days.
Errors: ValueError for a state dict that is not this network's.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models import streaming
from models.classifier import decoder
from models.ltae import Attention, AttentionMlp, LtaeConfig, positional_code
from models.pse import PixelSetEncoder

# Published names that differ from ours, longest first; what the table does not name keeps its name.
NAMES = (
    ("spatial_encoder.mlp2.0.", "pse.mlp2.lin."),
    ("spatial_encoder.mlp2.1.", "pse.mlp2.bn."),
    ("spatial_encoder.", "pse."),
    ("temporal_encoder.inconv.0.", "project."),
    ("temporal_encoder.inconv.1.", "norm_dates."),
    ("temporal_encoder.inlayernorm.", "norm_in."),
    ("temporal_encoder.outlayernorm.", "mlp.norm_out."),
    ("temporal_encoder.attention_heads.Q", "attention.query"),
    ("temporal_encoder.attention_heads.fc1_k.", "attention.keys."),
    ("temporal_encoder.mlp.0.", "mlp.lin."),
    ("temporal_encoder.mlp.1.", "mlp.bn."),
    ("decoder.0.", "decoder.0.lin."),
    ("decoder.1.", "decoder.0.bn."),
    ("decoder.3.", "decoder.2.lin."),
    ("decoder.4.", "decoder.2.bn."),
    ("decoder.6.", "decoder.4."),
)
# A table of the positional code, computed here from the days; of no use to a season of other days.
POSITION_TABLE = "temporal_encoder.position_enc.weight"


class PublishedPseLtae(nn.Module):
    """The padded single-modality classifier. Its LayerNorm over (256, T) pins the number of dates and couples them."""

    def __init__(self, channels: int, dates: int, classes: int, ltae: LtaeConfig | None = None) -> None:
        super().__init__()
        self.config = c = ltae or LtaeConfig()
        self.pse: nn.Module = PixelSetEncoder(channels, embedding=c.inputs)
        self.norm_in = nn.LayerNorm(c.inputs)
        self.project = nn.Linear(c.inputs, c.width)
        self.norm_dates = nn.LayerNorm((c.width, dates))
        self.attention = Attention(c.width, c.heads, c.key)
        self.mlp = AttentionMlp(c.width, c.outputs, c.dropout)
        self.decoder = decoder(c.outputs, (64, 32), classes)

    def folded(self) -> PublishedPseLtae:
        """A copy for inference whose pixel-set encoder is folded: the same outputs to 1e-5."""
        network = copy.deepcopy(self).eval().requires_grad_(False)
        if isinstance(network.pse, PixelSetEncoder):
            network.pse = network.pse.folded()
        return network

    def embed(self, pixels: Tensor, mask: Tensor, geometry: Tensor) -> Tensor:
        """Embeddings (B, T, 128) of pixels (B, T, C, S), mask (B, S) or (B, T, S), geometry (B, 4)."""
        b, t, _, size = pixels.shape
        valid = (mask if mask.ndim == 3 else mask[:, None, :].expand(b, t, size)) > 0
        flat = self.pse(pixels.flatten(0, 1), valid.flatten(0, 1), geometry.repeat_interleave(t, dim=0))
        return flat.view(b, t, -1)  # type: ignore[no-any-return]

    def summarise(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """The temporal encoder's output (B, 128) of embeddings (B, T, 128) on days (T,)."""
        c, (b, t, _) = self.config, embeddings.shape
        dates = self.project(self.norm_in(embeddings)).transpose(1, 2)  # (B, 256, T)
        code = positional_code(positions.to(embeddings.dtype), c.value, c.period).repeat(1, c.heads)  # (T, 256)
        dates = (self.norm_dates(dates).transpose(1, 2) + code).flatten(0, 1)  # (B * T, 256)
        parcel = torch.arange(b, device=dates.device).repeat_interleave(t)
        state = streaming.init(b, c.heads, c.value, device=dates.device)
        state = streaming.update(state, self.attention(dates), dates.view(-1, c.heads, c.value), parcel)
        return self.mlp(streaming.finish(state))  # type: ignore[no-any-return]

    def forward(self, pixels: Tensor, mask: Tensor, geometry: Tensor, positions: Tensor) -> Tensor:
        return self.decoder(self.summarise(self.embed(pixels, mask, geometry), positions))  # type: ignore[no-any-return]


def renamed(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict under our names; the 1x1 convolution becomes the linear layer that it is."""
    ours = {}
    for name, tensor in published.items():
        if name == POSITION_TABLE:
            continue
        new = next((ours_ + name.removeprefix(theirs) for theirs, ours_ in NAMES if name.startswith(theirs)), name)
        ours[new] = tensor.squeeze(-1) if new == "project.weight" and tensor.ndim == 3 else tensor
    return ours


def load_published(published: Mapping[str, Tensor]) -> PublishedPseLtae:
    """The network of a published state dict, its sizes read from the weights, in evaluation mode.

    Raises:
        ValueError: a parameter is missing, too much, or of another shape.
    """
    ours = renamed(published)
    try:
        heads, key = ours["attention.query"].shape
        width, inputs = ours["project.weight"].shape
        outputs = ours["mlp.lin.weight"].shape[0]
        network = PublishedPseLtae(
            channels=ours["pse.mlp1.0.lin.weight"].shape[1],
            dates=ours["norm_dates.weight"].shape[1],
            classes=ours["decoder.4.bias"].shape[0],
            ltae=LtaeConfig(inputs=inputs, width=width, heads=heads, key=key, outputs=outputs),
        )
        network.load_state_dict(ours)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"not a published PSE + L-TAE state dict: {error}") from error
    return network.eval()
