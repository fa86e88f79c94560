"""MCNN-Seq: the published size, a literal implementation beside it, and what missing steps may not do."""

import pytest
import torch
from torch import Tensor

from models.mcnn_seq import Branch, Lstm, McnnSeq, McnnSeqConfig, count_parameters

SHAPES = [
    McnnSeqConfig(n_segments=5, hidden=7, branch_channels=(3, 4)),
    McnnSeqConfig(n_segments=4, segment_length=5, stride=2, kernel_size=2, hidden=6, branch_channels=(3, 4)),
    McnnSeqConfig(n_segments=4, segment_length=3, stride=3, hidden=6, branch_channels=(2, 5), has_sd=True),
    McnnSeqConfig(n_segments=5, hidden=6, branch_channels=(3, 4), n_extra=2, is_aligned=True),
]


def seeded(config: McnnSeqConfig) -> McnnSeq:
    torch.manual_seed(1)
    return McnnSeq(config).double().eval()


def sample(config: McnnSeqConfig, n: int = 3) -> tuple[Tensor, Tensor, Tensor | None]:
    torch.manual_seed(2)
    sar = torch.randn(n, config.n_steps, 2, dtype=torch.float64)
    is_present = torch.rand(n, config.n_steps) > 0.3
    is_present[0] = True
    extra = torch.randn(n, config.n_segments, config.n_extra, dtype=torch.float64) if config.n_extra else None
    return sar, is_present, extra


def literal_lstm(lstm: Lstm, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step of one sample, gate by gate, as Hochreiter and Schmidhuber write it (with forget gate)."""
    k = len(h)
    gate = [
        lstm.input.weight[j * k : (j + 1) * k] @ x
        + lstm.recurrent.weight[j * k : (j + 1) * k] @ h
        + lstm.input.bias[j * k : (j + 1) * k]
        for j in range(4)
    ]
    c = torch.sigmoid(gate[1]) * c + torch.sigmoid(gate[0]) * torch.tanh(gate[2])
    return torch.sigmoid(gate[3]) * torch.tanh(c), c


def literal_features(model: McnnSeq, segment: Tensor) -> Tensor:
    """Both branches on one segment (L, 2), one position at a time; padding "same" of width k puts (k - 1) // 2 left."""
    out = []
    for p in range(2):
        branch = model.branches[p]
        assert isinstance(branch, Branch)
        conv1, conv2 = branch.conv1, branch.conv2
        assert conv1.bias is not None
        assert conv2.bias is not None
        k = model.config.kernel_size
        x = segment[:, p]
        first = [torch.relu(conv1.weight[:, 0] @ x[i : i + k] + conv1.bias) for i in range(len(x) - k + 1)]
        zero = torch.zeros_like(first[0])
        left = (k - 1) // 2
        padded = [zero] * left + first + [zero] * (k - 1 - left)
        second = [
            torch.relu(conv2.bias + torch.stack([conv2.weight[:, :, j] @ padded[i + j] for j in range(k)]).sum(dim=0))
            for i in range(len(first))
        ]
        if len(second) > 1:
            second = [torch.maximum(second[i], second[i + 1]) for i in range(0, len(second) - 1, 2)]
        out.append(torch.stack(second, dim=1).reshape(-1))
    return torch.cat(out)


def literal(model: McnnSeq, sar: Tensor, is_present: Tensor, extra: Tensor | None) -> Tensor:
    """The network for one sample (T, 2), step by step, with nothing shared between steps."""
    config = model.config
    h = c = torch.zeros(config.hidden, dtype=sar.dtype)
    states, there = [], []
    for n in range(config.n_segments):
        steps = slice(n * config.stride, n * config.stride + config.segment_length)
        there.append(bool(is_present[steps].any()))
        if there[-1]:
            x = literal_features(model, torch.where(is_present[steps, None], sar[steps], 0.0))
            h, c = literal_lstm(model.encoder, x if extra is None else torch.cat([x, extra[n]]), h, c)
        states.append(h)
    previous, out = torch.zeros(1, dtype=sar.dtype), []
    attention = model.attention
    for n in range(config.n_segments):
        scores = [
            (attention.score.weight @ torch.tanh(attention.query.weight @ h + attention.key.weight @ states[m])).exp()
            for m in range(config.n_segments)
        ]
        seen = [m for m in range(config.n_segments) if there[m]]
        context = torch.stack([scores[m] * states[m] for m in seen]).sum(dim=0) / torch.stack(
            [scores[m] for m in seen]
        ).sum(dim=0)
        parts = [previous, context] + ([states[n]] if config.is_aligned else [])
        h, c = literal_lstm(model.decoder, torch.cat(parts), h, c)
        y = model.head.weight @ h + model.head.bias
        previous = y[:1]
        out.append(y)
    result = torch.stack(out)
    return result if config.has_sd else result[:, 0]


def test_the_papers_configuration_has_the_papers_parameters() -> None:
    assert count_parameters(McnnSeq()) == 195_093


@pytest.mark.parametrize("config", SHAPES)
def test_equals_a_literal_step_by_step_implementation(config: McnnSeqConfig) -> None:
    model = seeded(config)
    sar, is_present, extra = sample(config)
    with torch.inference_mode():
        got = model(sar, is_present, extra)
        for b in range(len(sar)):
            want = literal(model, sar[b], is_present[b], None if extra is None else extra[b])
            torch.testing.assert_close(got[b], want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("config", SHAPES)
def test_what_a_missing_step_holds_is_never_seen(config: McnnSeqConfig) -> None:
    model = seeded(config)
    sar, is_present, extra = sample(config)
    with torch.inference_mode():
        want = model(sar, is_present, extra)
        got = model(torch.where(is_present[..., None], sar, torch.nan), is_present, extra)
        changed = model(sar + 1.0, is_present, extra)
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert not torch.allclose(changed, want)


def test_a_window_without_any_step_gives_finite_numbers() -> None:
    model = seeded(SHAPES[0])
    sar = torch.full((2, 5, 2), torch.nan, dtype=torch.float64)
    assert model(sar, torch.zeros(2, 5, dtype=torch.bool)).isfinite().all()


def test_a_sample_does_not_depend_on_the_rest_of_its_batch() -> None:
    config = SHAPES[3]
    model = seeded(config)
    sar, is_present, extra = sample(config)
    assert extra is not None
    with torch.inference_mode():
        alone = model(sar[:1], is_present[:1], extra[:1])  # nothing missing: the path without a mask
        torch.testing.assert_close(model(sar, is_present, extra)[:1], alone, rtol=0, atol=1e-12)


def test_a_teacher_moves_later_outputs_only() -> None:
    model = seeded(SHAPES[0])
    sar, _, _ = sample(SHAPES[0])
    teacher = torch.full((3, 5), torch.nan, dtype=torch.float64)
    with torch.inference_mode():
        free = model(sar)
        torch.testing.assert_close(model(sar, teacher=teacher), free, rtol=0, atol=0)
        teacher[:, 2] = 0.9
        taught = model(sar, teacher=teacher)
    torch.testing.assert_close(taught[:, :3], free[:, :3], rtol=0, atol=0)
    assert (taught[:, 3] != free[:, 3]).all()


def test_gradients_reach_every_parameter_and_none_is_nan() -> None:
    config = SHAPES[3]
    model = seeded(config).train()
    sar, is_present, extra = sample(config)
    is_present[1] = False
    model(sar, is_present, extra).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("config", [McnnSeqConfig(), *SHAPES])
def test_configuration_survives_json(config: McnnSeqConfig) -> None:
    assert McnnSeqConfig.from_json(config.to_json()) == config


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(ValueError, match="widht"):
        McnnSeqConfig.from_json('{"widht": 3}')


@pytest.mark.parametrize("wrong", ['{"n_segments": 0}', '{"stride": 0}', '{"kernel_size": 2}', '{"n_extra": -1}'])
def test_an_impossible_shape_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="MCNN-Seq"):
        McnnSeqConfig.from_json(wrong)


def test_a_series_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, 31, 2\)"):
        McnnSeq()(torch.zeros(1, 30, 2))
