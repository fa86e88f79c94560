"""MCNN-Seq folded for inference: the same outputs, its constants multiplied out.

    W x_n   = sum_p A_p[k] z_p + B_p[k]                    L = 1: a branch is piecewise linear in its one input z_p, k its interval
    tanh u  = 2 (sigmoid(2 u) - 1/2)                       the factors folded into the weights; the states kept are h / 2 and 2 c
    a_n     = softmax_m(2 v . 1 / (1 + e^(-2 W s) e^(-2 U h_m)))       softmax takes no notice of a constant
    W_s s_(n-1) + W_y y_(n-1) = (W_s + W_y w^T) s_(n-1) + W_y b        the output fed back is linear in the state

The table has a row for each interval between the kinks of the rectifiers, about 100 for 31 and 62 filters, so that the convolutions and
the encoder's 124 inputs cost one lookup. Keys are computed once a window. Windows go through the whole network in chunks,
whose states stay near the core. Nothing is approximated: what remains is rounding.
Source: our derivation from `models.ndvi.published.mcnn_seq`; piecewise linearity as in Montufar et al. 2014.
Shapes: as `McnnSeq.forward`.
Units:  as there.
Errors: as there. A value that is not finite and not masked makes its own window NaN, and no other.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from models.ndvi.published.mcnn_seq import Branch, Lstm, McnnSeq

CHUNK = 256
"""Windows that a CPU takes through the network together (chosen because 128 and 512 were 10 to 20 % slower, 64 by 40 %)."""
DEVICE_CHUNK = 16_384
"""The same on another device, where starting a kernel costs more than its work (chosen for 1.5 GB of it; not measured)."""
MAX_EXPONENT = 80.0
"""Largest exponent of a product of exponentials in float32 (e^88 overflows)."""


class Product:
    """x W^T + b for a chunk of states x (B, K): W (F, K), b (F,).

    In float32 on a CPU oneDNN's kernel on weights laid out in advance, as PyTorch's own compiler emits it: twice as fast as the BLAS
    behind `addmm` on a core with 512-bit registers that the BLAS does not know, and with the sigmoid in the same pass.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        is_packed = weight.device.type == "cpu" and weight.dtype == torch.float32 and torch._C._has_mkldnn
        self._packed = torch.ops.mkldnn._linear_pointwise if is_packed else None
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, CHUNK) if is_packed else weight
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """Return the product."""
        return self._pointwise(x, "none") if self._packed else functional.linear(x, self._weight, self._bias)

    def sigmoid(self, x: Tensor) -> Tensor:
        """Its sigmoid."""
        return self._pointwise(x, "sigmoid") if self._packed else self(x).sigmoid_()

    def sigmoid_of_sum(self, x: Tensor, other: Tensor) -> Tensor:
        """Return the sigmoid of it and another (B, F)."""
        if self._packed is None:
            return self(x).add_(other).sigmoid_()
        total: Tensor = self._packed.binary(x, other, self._weight, self._bias, "add")
        return total.sigmoid_()

    def _pointwise(self, x: Tensor, function: str) -> Tensor:
        assert self._packed is not None
        y: Tensor = self._packed(x, self._weight, self._bias, function, [], "")
        return y


@dataclass(frozen=True)
class BranchTable:
    """What the encoder makes of a branch of one step: its gates linear in the input, by interval between kinks."""

    kinks: Tensor
    """(K - 1,) ascending."""
    slope: Tensor
    """(K, 4 H)"""
    offset: Tensor
    """(K, 4 H)"""

    @classmethod
    def of(cls, branch: Branch, weight: Tensor) -> "BranchTable":
        """Return the table of a branch in double precision whose features meet the encoder's columns `weight` (4 H, F)."""
        w1, w2 = branch.conv1.weight[:, 0, 0], branch.conv2.weight[:, :, 0]
        b1, b2 = branch.conv1.bias, branch.conv2.bias
        assert b1 is not None
        assert b2 is not None

        def second_layer(point: Tensor) -> tuple[Tensor, Tensor]:
            """Slope and offset (K, F) of the second layer, before its rectifier, around points (K,)."""
            is_on = (point[:, None] * w1 + b1 > 0).to(w1)
            return (is_on * w1) @ w2.T, (is_on * b1) @ w2.T + b2

        first = (-b1 / w1)[w1 != 0].sort().values
        slope, offset = second_layer(_between(first))
        zero = -offset / slope  # (K, F); not finite where a filter is flat
        end = first.new_full((1,), torch.inf)
        is_inside = (zero > torch.cat([-end, first])[:, None]) & (zero < torch.cat([first, end])[:, None])
        kinks = torch.cat([first, zero[is_inside]]).sort().values
        point = _between(kinks)
        slope, offset = second_layer(point)
        is_on = (point[:, None] * slope + offset > 0).to(w1)
        return cls(kinks, (is_on * slope) @ weight.T, (is_on * offset) @ weight.T)


def _between(kinks: Tensor) -> Tensor:
    """Return a point (K,) in each of the intervals that kinks (K - 1,) part."""
    if len(kinks) == 0:
        return kinks.new_zeros(1)
    return torch.cat([kinks[:1] - 1, (kinks[1:] + kinks[:-1]) / 2, kinks[-1:] + 1])


class InputGates:
    """The encoder's input gates (N, B, 4 H) of windows of SAR: by table where segments have one step, else by the network."""

    def __init__(self, model: McnnSeq) -> None:
        self._model, config, like = model, model.config, model.head.weight
        weight, bias, _ = _gates(model.encoder)
        self._weight, self._bias = weight.to(like), bias.to(like)
        self._kinks: list[Tensor] = []
        self._first_rows: list[tuple[int, int]] = []
        if config.segment_length > 1:
            return
        rows: list[Tensor] = []
        column = 0
        for branch in copy.deepcopy(model.branches).double():
            assert isinstance(branch, Branch)
            table = BranchTable.of(branch, weight[:, column : column + branch.n_features])
            begin, size = sum(len(one) for one in rows), len(table.slope)
            rows += [table.slope, table.offset if column else table.offset + bias]
            self._kinks.append(table.kinks.to(like))
            self._first_rows.append((begin, begin + size))
            column += branch.n_features
        self._rows = torch.cat(rows).to(like)
        self._extra = weight[:, column:].T.to(like)

    def __call__(self, sar: Tensor, extra: Tensor | None) -> Tensor:
        """Gates of sar (B, T, 2) without missing values and extra channels (B, N, n_extra)."""
        if not self._kinks:
            return functional.linear(self._model.features(sar, extra).transpose(0, 1), self._weight, self._bias)
        steps = sar[:, :: self._model.config.stride].permute(2, 1, 0).contiguous()  # (2, N, B)
        row, factor = [], []
        for z, kinks, (slope, offset) in zip(steps, self._kinks, self._first_rows, strict=True):
            interval = torch.bucketize(z, kinks)
            row += [interval + slope, interval + offset]
            factor += [z, torch.ones_like(z)]
        bags = torch.stack(row, dim=2).flatten(0, 1)  # (N B, 4)
        factors = torch.stack(factor, dim=2).flatten(0, 1)
        gates = functional.embedding_bag(bags, self._rows, mode="sum", per_sample_weights=factors)
        if extra is not None:
            gates.addmm_(extra.transpose(0, 1).flatten(0, 1), self._extra)
        return gates.view(*steps.shape[1:], -1)


class McnnInference:
    """A McnnSeq at its present weights, for inference only: `McnnInference(model)(sar)` is `model(sar)`."""

    def __init__(self, model: McnnSeq) -> None:
        model = copy.deepcopy(model).eval().requires_grad_(False)
        self.config = model.config
        self.input_gates = InputGates(model)
        # States are kept halved, so whatever meets them is doubled.
        _, _, recurrent = _gates(model.encoder)
        self._recurrent = Product((2 * recurrent).to(model.head.weight))
        self._prepare_attention(model)
        self._prepare_decoder(model)

    def _prepare_attention(self, model: McnnSeq) -> None:
        attention, like = model.attention, model.head.weight
        query, key = (-2 * 2 * one.weight.double() for one in (attention.query, attention.key))
        # |h| < 1 bounds the exponents; weights too large for it get the sigmoid of the sum, which cannot overflow.
        self._is_multiplied = sum(float(one.abs().sum(dim=1).max()) / 2 for one in (query, key)) < MAX_EXPONENT
        sign = 1 if self._is_multiplied else -1
        self._query, self._key = Product((sign * query).to(like)), Product((sign * key).to(like))
        self._score = 2 * attention.score.weight[0]
        self._one = like.new_ones(())

    def _prepare_decoder(self, model: McnnSeq) -> None:
        like, head = model.head.weight, model.head
        weight, bias, recurrent = _gates(model.decoder)
        fed, rest = weight[:, :1], weight[:, 1:]  # of the output fed back; of the context and the aligned state
        columns = torch.cat([recurrent + fed * head.weight[:1].double(), rest], dim=1)
        self._decoder = Product((2 * columns).to(like), (bias + fed[:, 0] * head.bias[0].double()).to(like))
        self._fed = fed[:, 0].to(like)
        self._head, self._head_bias = (2 * head.weight).T, head.bias

    @torch.inference_mode()
    def __call__(
        self, sar: Tensor, is_present: Tensor | None = None, extra: Tensor | None = None, teacher: Tensor | None = None
    ) -> Tensor:
        """As `McnnSeq.forward`."""
        self.config.check(sar, extra)
        size = CHUNK if sar.device.type == "cpu" else DEVICE_CHUNK
        out = [sar.new_zeros(0, self.config.n_segments, self.config.n_outputs)]
        for start in range(0, len(sar), size):
            here, present, more, known = (
                None if one is None else one[start : start + size] for one in (sar, is_present, extra, teacher)
            )
            assert here is not None
            filled, mask = self.config.masked(here, present)
            out.append(self._decode(*self._encode(self.input_gates(filled, more), mask), mask, known))
        result = torch.cat(out)
        return result if self.config.has_sd else result[..., 0]

    def _encode(self, gates: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Halved states (B, N, H), the last of them, and its doubled cell."""
        n_segments, b, _ = gates.shape
        h = c = gates.new_zeros(b, self.config.hidden)
        states = gates.new_empty(b, n_segments, self.config.hidden)
        for n in range(n_segments):
            new_h, new_c = _step(self._recurrent.sigmoid_of_sum(h, gates[n]), c)
            if mask is not None:
                new_h = torch.where(mask[:, n, None], new_h, h)
                new_c = torch.where(mask[:, n, None], new_c, c)
            h, c = new_h, new_c
            states[:, n] = h
        return states, h, c

    def _decode(self, states: Tensor, h: Tensor, c: Tensor, mask: Tensor | None, teacher: Tensor | None) -> Tensor:
        """Outputs (B, N, 1 or 2)."""
        b, n_segments, width = states.shape
        keys = self._key(states.view(-1, width)).view_as(states)
        keys = keys.exp_() if self._is_multiplied else keys
        work = torch.empty_like(keys)
        inputs = states.new_empty(b, (3 if self.config.is_aligned else 2) * width)  # state, context, aligned state
        inputs[:, :width] = h
        out = states.new_empty(n_segments, b, len(self._head_bias))
        # What is fed back beyond what the folded weights feed back: they give the first step an output there is not yet.
        beyond: Tensor | None = -torch.addmm(self._head_bias, h, self._head)[:, 0]
        for n in range(n_segments):
            weights = self._attention(h, keys, mask, work)
            inputs[:, width : 2 * width] = torch.bmm(weights[:, None], states)[:, 0]
            if self.config.is_aligned:
                inputs[:, 2 * width :] = states[:, n]
            h, c = _step(self._decoder_gates(inputs, beyond), c)
            inputs[:, :width] = h
            torch.addmm(self._head_bias, h, self._head, out=out[n])
            beyond = None
            if teacher is not None:
                known = teacher[:, n]
                beyond = torch.where(torch.isnan(known), 0.0, known - out[n, :, 0])
        return out.transpose(0, 1)

    def _decoder_gates(self, inputs: Tensor, beyond: Tensor | None) -> Tensor:
        """Sigmoids (B, 4 H) of the decoder's gates."""
        if beyond is None:
            return self._decoder.sigmoid(inputs)
        return self._decoder(inputs).addr_(beyond, self._fed).sigmoid_()

    def _attention(self, h: Tensor, keys: Tensor, mask: Tensor | None, work: Tensor) -> Tensor:
        """Weights (B, N) of the encoder's states; `work`, of the keys' shape (B, N, H), is overwritten."""
        query = self._query(h)[:, None]
        if self._is_multiplied:
            torch.addcmul(self._one, keys, query.exp_(), out=work).reciprocal_()
        else:
            torch.add(keys, query, out=work).sigmoid_()
        scores = torch.mv(work.view(-1, work.shape[2]), self._score).view(work.shape[:2])
        if mask is None:
            return torch.softmax(scores, dim=1)
        weights = torch.softmax(scores.masked_fill_(~mask, -torch.inf), dim=1)
        return torch.where(mask, weights, 0.0)  # a window with nothing present: 0, not NaN


def _step(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Return the state (h / 2, 2 c) after one step, from the sigmoids (B, 4 H) of its gates, which are used up."""
    i, f, g, o = gates.chunk(4, dim=1)
    c = torch.addcmul(f * c, i, g.sub_(0.5), value=4.0)
    return torch.sigmoid(c).sub_(0.5).mul_(o), c


def _gates(lstm: Lstm) -> tuple[Tensor, Tensor, Tensor]:
    """Input weights, bias and recurrent weights in double, the candidate's rows doubled for its sigmoid."""
    hidden = lstm.recurrent.in_features
    scale = lstm.input.bias.new_ones(4 * hidden, 1, dtype=torch.double)
    scale[2 * hidden : 3 * hidden] = 2
    weight, bias, recurrent = (one.double() for one in (lstm.input.weight, lstm.input.bias, lstm.recurrent.weight))
    return weight * scale, bias * scale[:, 0], recurrent * scale
