"""The published parcel classifier, PSE + L-TAE, read from its state dict: the anchor of correctness.

    weights under published names = a PseLtae of one modality whose norm over the season is pinned to T dates

Source: Garnot, Landrieu and Chehata 2022, parcel-based part; names and forms of the authors' public PSE and L-TAE code.
Shapes: pixels (B, T, C, S), mask (B, S) or (B, T, S), geometry (B, G) or (B, T, G), positions (T,) or (B, T) to
        embeddings (B, T, 128), temporal (B, 128), logits (B, K).
Units:  pixels and geometry standardised, positions in days.
Errors: PublishedError for a state dict that is not this network's, or tensors that do not fit it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from models.classifier.inference import folded
from models.classifier.ltae import LtaeConfig, positional_code
from models.classifier.network import ClassifierConfig, FusionNetwork, ModalityConfig, PseLtae
from models.published_weights import PublishedError, differences, expected_outputs, one_line, plain_state

# Published names to ours, of one pixel-set encoder, attention and decoder. Decoders follow by number.
NAMES = (
    ("spatial_encoder.mlp1.", "pse.mlp1."),
    ("spatial_encoder.mlp2.0.", "pse.mlp2.lin."),
    ("spatial_encoder.mlp2.1.", "pse.mlp2.bn."),
    ("temporal_encoder.inlayernorm.", "ltae.norm_in."),
    ("temporal_encoder.inconv.0.", "ltae.project."),
    ("temporal_encoder.inconv.1.", "ltae.norm."),
    ("temporal_encoder.attention_heads.Q", "ltae.attention.query"),
    ("temporal_encoder.attention_heads.fc1_k.", "ltae.attention.keys."),
    ("temporal_encoder.mlp.0.", "ltae.mlp.lin."),
    ("temporal_encoder.mlp.1.", "ltae.mlp.bn."),
    ("temporal_encoder.outlayernorm.", "ltae.mlp.norm_out."),
)
# The positional code of the training season's days, a buffer of the published module.
POSITION_TABLE = "temporal_encoder.position_enc.weight"
UNKNOWN = "not a state dict of the published PSE + L-TAE"
KNOWN = "spatial_encoder.mlp1 of any depth and mlp2 of one layer, temporal_encoder with inconv and mlp of one layer, decoder"
OUTPUTS = ("embeddings", "temporal", "logits")


class PublishedPseLtae(nn.Module):
    """A network of published weights, on the dense tensors of the published code."""

    def __init__(self, network: FusionNetwork, positions: Tensor | None = None) -> None:
        super().__init__()
        self.network = network
        self.modality = network.config.modalities[0].name
        self.positions = positions
        """(T,) days that the weights were trained on, where their position table is stored."""

    def folded(self) -> PublishedPseLtae:
        """Return the same weights as they are applied (models.classifier.inference): the same outputs to 1e-5."""
        return PublishedPseLtae(folded(self.network), self.positions)

    def embed(self, pixels: Tensor, mask: Tensor | None = None, geometry: Tensor | None = None) -> Tensor:
        """Embeddings (B, T, 128); no mask: all pixels are valid; no geometry where the weights read none."""
        b, t, _, size = pixels.shape
        mask = pixels.new_ones(b, size) if mask is None else mask
        geometry = pixels.new_zeros(b, 0) if geometry is None else geometry
        valid = (mask if mask.ndim == 3 else mask[:, None].expand(b, t, size)) > 0
        geometry = geometry if geometry.ndim == 3 else geometry[:, None].expand(b, t, -1)
        encoder = self.network.pixel_encoders[self.modality]
        return encoder(pixels.flatten(0, 1), valid.flatten(0, 1), geometry.flatten(0, 1)).view(b, t, -1)  # type: ignore[no-any-return]

    def summarise(self, embeddings: Tensor, positions: Tensor | None = None) -> Tensor:
        """Return the temporal encoder's output (B, 128); no positions: the days of the stored table."""
        positions = self.positions if positions is None else positions
        if positions is None:
            raise PublishedError("no positions are given, and the weights store no position table")
        b, t, _ = embeddings.shape
        sequence, model = self.network.sequence(self.modality), self.network.model
        parcel = torch.arange(b, device=embeddings.device).repeat_interleave(t)
        day = positions.to(embeddings.dtype).expand(b, t).flatten()
        state = self.network.initial_states(b, embeddings.device)[self.modality]
        counts = torch.ones_like(parcel, dtype=torch.bool)
        state = sequence.fold(state, embeddings.flatten(0, 1), day, parcel, counts, model=model)
        return sequence.summarise(state, model)

    def decode(self, temporal: Tensor) -> Tensor:
        """Logits (B, K) of the temporal encoder's output."""
        assert self.network.decoder is not None
        return self.network.decoder(temporal)  # type: ignore[no-any-return]

    def forward(
        self,
        pixels: Tensor,
        mask: Tensor | None = None,
        geometry: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        return self.decode(self.summarise(self.embed(pixels, mask, geometry), positions))


def load_published(
    published: Mapping[str, object], *, modality: str = "s2", channels: Sequence[str] = (), classes: Sequence[str] = ()
) -> PublishedPseLtae:
    """Return the network of a published state dict, its sizes read from the weights, in evaluation mode.

    Args:
        published: the state dict, or the dictionary of a training script that has it under `state_dict`; names may have
            the `module.` that DataParallel puts before them.
        channels: names of the channels, else numbered.
        classes: names of the classes, else numbered.

    Raises:
        PublishedError: a parameter is missing, too much, or of another shape.
    """
    state = plain_state(published)
    table = state.pop(POSITION_TABLE, None)
    ours = _renamed(state)
    try:
        config = _config(ours, modality, channels, classes)
        network = PseLtae(config)
        network.load_state_dict(_placed(ours, config))
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        raise PublishedError(f"{UNKNOWN}: {one_line(error)}") from error
    return PublishedPseLtae(network.eval(), None if table is None else _positions(table, config.ltae))


@torch.no_grad()
def largest_differences(network: PublishedPseLtae, reference: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the largest difference of each output that a reference holds: `embeddings`, `temporal`, `logits`; NaN stays NaN.

    Args:
        reference: inputs `pixels` and, where they are needed, `mask`, `geometry`, `positions`; outputs of the published code.

    Raises:
        PublishedError: an input is missing or of the wrong shape, or there is no output to compare with.
    """
    expected = expected_outputs(reference, OUTPUTS)
    inputs = _inputs(network.network.config, reference)
    embeddings = network.embed(inputs["pixels"], inputs.get("mask"), inputs.get("geometry"))
    got = {"embeddings": embeddings}
    if expected.keys() - got.keys():
        got["temporal"] = network.summarise(embeddings, inputs.get("positions"))
        got["logits"] = network.decode(got["temporal"])
    return differences(got, expected)


def _renamed(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters under our names, `pse.`, `ltae.` and `decoder.`; the 1x1 convolution becomes the linear layer it is.

    Raises:
        PublishedError: a name is not one of the published network's, or a part of it is missing.
    """
    for theirs, _ in NAMES:
        if not any(name.startswith(theirs) for name in published):
            raise PublishedError(f"{UNKNOWN}: it lacks {theirs}*")
    ours = {}
    last = max((int(found[1]) for name in published if (found := re.match(r"decoder\.(\d+)\.", name))), default=0)
    for name, tensor in published.items():
        new = next((mine + name.removeprefix(theirs) for theirs, mine in NAMES if name.startswith(theirs)), None)
        if new is None and (found := re.fullmatch(r"decoder\.(\d+)\.(\w+)", name)):
            # Published: linear, batch norm, ReLU for each width, then linear. Ours: the first two are one module.
            layer, part = divmod(int(found[1]), 3)
            new = f"decoder.{2 * layer}.{'' if int(found[1]) == last else ('lin.', 'bn.', '')[part]}{found[2]}"
        if new is None:
            raise PublishedError(f"{UNKNOWN}: it has {name!r}; known are {KNOWN}")
        ours[new] = tensor.squeeze(-1) if new == "ltae.project.weight" and tensor.ndim == 3 else tensor
    return ours


def _config(
    ours: Mapping[str, Tensor], modality: str, channels: Sequence[str], classes: Sequence[str]
) -> ClassifierConfig:
    """Return the sizes of the network, read from its parameters."""

    def widths(pattern: str) -> tuple[int, ...]:
        found = {int(m[1]): ours[name].shape[0] for name in ours if (m := re.fullmatch(pattern, name))}
        return tuple(found[layer] for layer in sorted(found))

    pixel_widths, decoder = widths(r"pse\.mlp1\.(\d+)\.lin\.weight"), widths(r"decoder\.(\d+)\.lin\.weight")
    heads, key = ours["ltae.attention.query"].shape
    width, inputs = ours["ltae.project.weight"].shape
    return ClassifierConfig(
        modalities=(ModalityConfig(modality, _names(channels, ours["pse.mlp1.0.lin.weight"].shape[1], "channel")),),
        classes=_names(classes, ours[f"decoder.{2 * len(decoder)}.bias"].shape[0], "class"),
        geometry=ours["pse.mlp2.lin.weight"].shape[1] - 2 * pixel_widths[-1],
        pixel_widths=pixel_widths,
        ltae=LtaeConfig(
            inputs=inputs,
            width=width,
            heads=heads,
            key=key,
            outputs=ours["ltae.mlp.lin.weight"].shape[0],
            norm="season",
            dates=ours["ltae.norm.weight"].shape[1],
        ),
        decoder=decoder,
    )


def _names(given: Sequence[str], number: int, what: str) -> tuple[str, ...]:
    if given and len(given) != number:
        raise PublishedError(f"{len(given)} names are given, the weights have {number} of {what}")
    return tuple(given) or tuple(f"{what} {index}" for index in range(number))


def _placed(ours: Mapping[str, Tensor], config: ClassifierConfig) -> dict[str, Tensor]:
    """Parameters where a PseLtae has them; the vector of absence, which the published network has not, is zero."""
    name = config.modalities[0].name
    places = {"pse": f"pixel_encoders.{name}", "ltae": f"sequences.{name}.ltae", "decoder": "decoder"}
    placed = {}
    for key, tensor in ours.items():
        part, rest = key.split(".", 1)
        placed[f"{places[part]}.{rest}"] = tensor
    return {**placed, f"sequences.{name}.absent": torch.zeros(config.ltae.outputs)}


def _positions(table: Tensor, config: LtaeConfig) -> Tensor | None:
    """Return the days (T,) that a position table (T, width), or (T + 1, width) from day 0 on, is the code of; None if longer.

    Raises:
        PublishedError: it is not the published code.
    """
    slow_first = range(config.value // 2 - 1, -1, -1)
    day = torch.zeros(len(table), dtype=torch.float64)
    for pair in slow_first:
        # Each pair knows the day but for whole turns; the slower one before it says how many.
        radius = config.period ** (2 * pair / config.value)
        turn = 2 * math.pi * radius
        angle = torch.atan2(table[:, 2 * pair].double(), table[:, 2 * pair + 1].double())
        within = radius * angle.remainder(2 * math.pi)
        day = within if pair == slow_first[0] else within + turn * ((day - within) / turn).round()
    day = torch.where((day - day.round()).abs() < 1e-3, day.round(), day)  # positions are whole days but for rounding
    code = positional_code(day, config.value, config.period).repeat(1, config.heads).to(table.dtype)
    if code.shape != table.shape or not torch.allclose(code, table, atol=1e-4):
        raise PublishedError(f"the position table is not the published code of period {config.period:g}")
    # A table of one row more starts at position 0, which the published code does not use.
    rows = {config.dates: slice(None), (config.dates or 0) + 1: slice(1, None)}
    return day[rows[len(day)]] if len(day) in rows else None


def _inputs(config: ClassifierConfig, reference: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the inputs that a reference holds, once their shapes are seen to fit."""
    if "pixels" not in reference or reference["pixels"].ndim != 4 or reference["pixels"].numel() == 0:
        raise PublishedError("no input `pixels` (B, T, C, S) of at least one parcel, date and pixel")
    b, t, _, s = reference["pixels"].shape
    dates, g = config.ltae.dates, config.geometry
    fitting: dict[str, list[tuple[int | None, ...]]] = {
        "pixels": [(b, dates, len(config.modalities[0].channels), s)],
        "mask": [(b, s), (b, t, s)],
        "geometry": [(b, g), (b, t, g)],
        "positions": [(t,), (b, t)],
    }
    if g and "geometry" not in reference:
        raise PublishedError(f"no input `geometry` (B, {g}), which these weights read")
    inputs = {name: reference[name].float() for name in fitting if name in reference}
    for name, one in inputs.items():
        if tuple(one.shape) not in fitting[name]:
            raise PublishedError(f"{name} is {tuple(one.shape)}, these weights take {fitting[name][0]}")
    if not g:
        inputs.pop("geometry", None)
    return inputs
