"""The classifier for inference: the function of a trained PseLtae, folded, in pieces that stay in cache; batches sent ahead.

    dates  = norm(W' n(e) + b') + code(day)    W' = W diag(gamma), b' = W beta + b; n(e) = LayerNorm without gamma and beta
    logits = Q dates + c                       queries and keys are one matrix (16, 256)

Source: batch norms and affine maps fold into the linear layers beside them; the network is that of models.classifier.network.
Shapes: as models.classifier.network: a Batch of P parcels to states, states to logits (P, K).
Units:  as models.classifier.network.
Errors: as models.classifier.network.

On a GPU nothing waits for the device as long as the network streams: no size depends on a value that is there.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.classifier import attention_state
from models.classifier.attention_state import State, is_remote
from models.classifier.ltae import Ltae, SeasonNorm, positional_code
from models.classifier.network import FusionNetwork, Parts, PseLtae, SequenceEncoder
from models.classifier.packed_series import Batch, Series
from models.classifier.pixel_set_encoder import LinearNorm, PixelSetEncoder, linear

# Observations whose attention a CPU computes at once: 1024 x 256 float32 are 1 MiB, a core's second-level cache.
ROWS_AT_ONCE = 1024


class InferenceNetwork(FusionNetwork):
    """A trained network for inference: outputs the same to 1e-5 in float32, states of the same model, no gradients.

    With `dtype` bfloat16, meant for GPUs, the products over pixels are in it; attention, states and decoder stay float32.
    """

    def __init__(self, trained: PseLtae, dtype: torch.dtype = torch.float32) -> None:
        trained = copy.deepcopy(trained).eval()
        parts = Parts(
            {name: folded_pixels(one, dtype) for name, one in trained.pixel_encoders.items()},
            {name: folded_sequence(one) for name, one in trained.sequences.items()},
            None if trained.decoder is None else folded_decoder(trained.decoder),
            {name: folded_decoder(one) for name, one in trained.auxiliary.items()},
        )
        super().__init__(trained.config, parts, trained.model)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def encode(self, batch: Batch, states: Mapping[str, State] | None = None) -> dict[str, State]:
        """Return the states with the batch's observations folded in, as `FusionNetwork.encode`."""
        return super().encode(batch, states)

    def _counting(self, series: Series) -> tuple[Series, Tensor]:
        """Return the observations to compute, and which of them count (N,).

        One without a valid pixel counts only where the number of dates is pinned. A CPU leaves the others out; a GPU would
        have to say how many they are, so it computes them, to weigh nothing.
        """
        if self.config.ltae.dates:
            return series, torch.ones_like(series.day, dtype=torch.bool)
        some = series if is_remote(series.day) and self.config.is_streaming else series.informative()
        return some, some.valid.any(dim=1)


class FoldedSequence(nn.Module):
    """A `Sequence` for inference."""

    def __init__(self, trained: SequenceEncoder) -> None:
        super().__init__()
        self.ltae = FoldedLtae(trained.ltae)
        self.absent = trained.absent

    def fold(
        self, state: State, embeddings: Tensor, day: Tensor, parcel: Tensor, counts: Tensor, *, model: str
    ) -> State:
        """Return the state with observations folded in, those that count (N,) bool."""
        each = attention_state.dates_each(parcel, len(state))
        step = max(ROWS_AT_ONCE // each, 1) if each else max(len(state), 1)
        done = []
        for begin in range(0, max(len(state), 1), step):
            rows = slice(begin * each, (begin + step) * each) if each else slice(None)
            mine = parcel[rows] - begin
            logits, values = self.ltae.attend(embeddings[rows], day[rows], mine)
            logits = logits.masked_fill(~counts[rows, None], -torch.inf)
            done.append(
                attention_state.update(state.take(slice(begin, begin + step)), logits, values, mine, model=model)
            )
        return attention_state.concatenate(done)

    def summarise(self, state: State, model: str) -> Tensor:
        """Return the output (P, 128)."""
        return torch.where(state.is_seen[:, None], self.ltae.summarise(state, model=model), self.absent)


class FoldedLtae(nn.Module):
    """The attention for inference, its affine maps folded."""

    def __init__(self, trained: Ltae) -> None:
        super().__init__()
        self.config, self.norm, c = trained.config, trained.norm, trained.config
        before, project, attention, after = trained.norm_in, trained.project, trained.attention, trained.mlp
        self.eps = before.eps
        query = attention.query / math.sqrt(c.key)
        scale, shift = after.bn.scale_and_shift()
        for name, tensor in {
            "weight": project.weight * before.weight,
            "bias": project.weight @ before.bias + project.bias,
            "keys": torch.einsum("hk,hkw->hw", query, attention.keys.weight.view(c.heads, c.key, c.width)),
            "keys_bias": (query * attention.keys.bias.view(c.heads, c.key)).sum(1),
            "mlp_weight": after.lin.weight * scale[:, None],
            "mlp_bias": after.lin.bias * scale + shift,
        }.items():
            self.register_buffer(name, tensor.detach())
        self.norm_out = after.norm_out

    @torch.no_grad()
    def attend(self, embeddings: Tensor, day: Tensor, parcel: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, H) and values (N, H, D), as `Ltae.attend`."""
        c, buffer = self.config, self.get_buffer
        plain = functional.layer_norm(embeddings, (c.inputs,), eps=self.eps)
        dates = self._normed(linear(plain, buffer("weight"), buffer("bias")), parcel)
        values = dates.view(-1, c.heads, c.value)
        if is_remote(day):
            values += positional_code(day, c.value, c.period)[:, None]
        else:
            days, which = torch.unique(day, return_inverse=True)
            values += positional_code(days, c.value, c.period)[which][:, None]
        return linear(dates, buffer("keys"), buffer("keys_bias")), values

    @torch.no_grad()
    def summarise(self, state: State, *, model: str = "") -> Tensor:
        """Return the output (P, 128), as `Ltae.summarise`."""
        attended = attention_state.finish(state, model=model)
        hidden = linear(attended, self.get_buffer("mlp_weight"), self.get_buffer("mlp_bias"), relu=True)
        return self.norm_out(hidden)  # type: ignore[no-any-return]

    def _normed(self, dates: Tensor, parcel: Tensor) -> Tensor:
        """Return the norm of this network; seasons of equal length are one matrix each."""
        if not isinstance(self.norm, SeasonNorm):
            return self.norm(dates)  # type: ignore[no-any-return]
        parcels = int(parcel[-1]) + 1 if len(parcel) else 0
        each = attention_state.dates_each(parcel, parcels)
        if not each or self.norm.dates not in (None, each):
            return self.norm(dates, parcel)  # type: ignore[no-any-return]
        shape = (each, dates.shape[1])
        weight, bias = (one.t().expand(shape).contiguous() for one in (self.norm.weight, self.norm.bias))
        return functional.layer_norm(dates.view(-1, *shape), shape, weight, bias, self.norm.eps).flatten(0, 1)


def folded(network: FusionNetwork, dtype: torch.dtype = torch.float32) -> FusionNetwork:
    """Return the network for inference: itself where it is for inference already."""
    return InferenceNetwork(network, dtype) if isinstance(network, PseLtae) else network


def folded_pixels(trained: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a pixel-set encoder with its batch norms folded; another kind of encoder is as it is."""
    return trained.folded(dtype) if isinstance(trained, PixelSetEncoder) else trained


def folded_sequence(trained: nn.Module) -> FoldedSequence:
    """Return the attention over one sequence with its affine maps folded."""
    assert isinstance(trained, SequenceEncoder)
    return FoldedSequence(trained)


def folded_decoder(trained: nn.Module) -> nn.Sequential:
    """Return a decoder with its batch norms folded into its linear layers."""
    layers: list[nn.Module] = []
    for layer in trained.children():
        if isinstance(layer, LinearNorm):
            weight, bias = layer.folded()
            layer = nn.Linear(weight.shape[1], weight.shape[0])
            layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
        layers.append(layer)
    return nn.Sequential(*layers)


def sent_ahead(batches: Iterable[Batch], device: torch.device | str) -> Iterator[Batch]:
    """Yield the batches on a device. On a GPU the next is copied, from pinned memory on its own stream, while one is computed."""
    device = torch.device(device)
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    waiting: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            sent = each_tensor(batch, lambda one: one.pin_memory().to(device, non_blocking=True))
            coming = sent, stream.record_event()
        if waiting:
            yield _arrived(*waiting)
        waiting = coming
    if waiting:
        yield _arrived(*waiting)


def _arrived(batch: Batch, event: torch.cuda.Event) -> Batch:
    """Return a batch that the current stream may use: it waits for the copy, the host does not."""
    current = torch.cuda.current_stream(batch.geometry.device)
    current.wait_event(event)

    def used(one: Tensor) -> Tensor:
        one.record_stream(current)  # or the copying stream would take its memory back too early
        return one

    return each_tensor(batch, used)


def each_tensor(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """Return the batch with every tensor changed."""
    series = {
        name: Series(change(one.pixels), change(one.valid), change(one.day), change(one.parcel))
        for name, one in batch.series.items()
    }
    return Batch(series, change(batch.geometry))
