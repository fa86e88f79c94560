"""MCNN-Seq and its folded form: the published size, a literal implementation beside both, and what missing steps may not do."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.ndvi.published import inference
from models.ndvi.published.inference import BranchTable, McnnInference
from models.ndvi.published.mcnn_seq import Branch, Lstm, McnnSeq, McnnSeqConfig, count_parameters

SHAPES = [
    McnnSeqConfig(n_segments=5, hidden=7, branch_channels=(3, 4)),
    McnnSeqConfig(n_segments=4, segment_length=5, stride=2, kernel_size=2, hidden=6, branch_channels=(3, 4)),
    McnnSeqConfig(n_segments=4, segment_length=3, stride=3, hidden=6, branch_channels=(2, 5), has_sd=True),
    McnnSeqConfig(n_segments=5, hidden=6, branch_channels=(3, 4), n_extra=2, is_aligned=True),
    McnnSeqConfig(n_segments=4, stride=3, hidden=5, branch_channels=(6, 9), n_extra=1, has_sd=True, is_aligned=True),
    McnnSeqConfig(n_segments=3, segment_length=7, stride=4, kernel_size=3, hidden=5, branch_channels=(2, 3), n_extra=1),
]
FORMS = [lambda model: model, McnnInference]
"""The network itself, and folded."""
Form = Callable[[McnnSeq], Callable[..., Tensor]]


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


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("config", SHAPES)
def test_equals_a_literal_step_by_step_implementation(config: McnnSeqConfig, form: Form) -> None:
    model = seeded(config)
    sar, is_present, extra = sample(config)
    with torch.inference_mode():
        got = form(model)(sar, is_present, extra)
        for b in range(len(sar)):
            want = literal(model, sar[b], is_present[b], None if extra is None else extra[b])
            torch.testing.assert_close(got[b], want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("config", SHAPES)
def test_what_a_missing_step_holds_is_never_seen(config: McnnSeqConfig, form: Form) -> None:
    model = seeded(config)
    sar, is_present, extra = sample(config)
    with torch.inference_mode():
        network = form(model)
        want = network(sar, is_present, extra)
        got = network(torch.where(is_present[..., None], sar, torch.nan), is_present, extra)
        changed = network(sar + 1.0, is_present, extra)
    torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert not torch.allclose(changed, want)


@pytest.mark.parametrize("form", FORMS)
def test_a_window_without_any_step_gives_finite_numbers(form: Form) -> None:
    model = form(seeded(SHAPES[0]))
    sar = torch.full((2, 5, 2), torch.nan, dtype=torch.float64)
    assert model(sar, torch.zeros(2, 5, dtype=torch.bool)).isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_a_sample_does_not_depend_on_the_rest_of_its_batch(form: Form) -> None:
    config = SHAPES[3]
    model = form(seeded(config))
    sar, is_present, extra = sample(config)
    assert extra is not None
    with torch.inference_mode():
        alone = model(sar[:1], is_present[:1], extra[:1])  # nothing missing: the path without a mask
        torch.testing.assert_close(model(sar, is_present, extra)[:1], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_a_value_that_is_not_finite_stays_in_its_window(form: Form) -> None:
    model = form(seeded(SHAPES[0]))
    sar, _, _ = sample(SHAPES[0])
    with torch.inference_mode():
        want = model(sar)
        sar[1, 2, 0] = torch.nan
        got = model(sar)
    assert got[1].isnan().all()
    torch.testing.assert_close(got[[0, 2]], want[[0, 2]], rtol=0, atol=0)


@pytest.mark.parametrize("config", SHAPES)
def test_folded_takes_a_teacher_as_the_network_does(config: McnnSeqConfig) -> None:
    model = seeded(config)
    sar, is_present, extra = sample(config)
    teacher = torch.rand(len(sar), config.n_segments, dtype=torch.float64)
    teacher[0, 1:] = teacher[1, 0] = torch.nan
    with torch.inference_mode():
        got, want = (form(model)(sar, is_present, extra, teacher) for form in (McnnInference, lambda same: same))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 40.0])  # at 40 the exponents do not fit and the sum is taken
def test_folded_in_single_precision_and_in_chunks(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    model = McnnSeq(McnnSeqConfig(n_segments=9)).eval()
    with torch.no_grad():
        model.attention.query.weight *= scale
        model.attention.key.weight *= scale
    folded = McnnInference(model)
    assert folded._is_multiplied == (scale == 1)
    sar = 3 * torch.randn(11, 9, 2)
    with torch.inference_mode():
        want = model(sar)
        exact = McnnInference(model.double())(sar.double())
    monkeypatch.setattr(inference, "CHUNK", 4)
    for got in (folded(sar), exact.float()):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6 * scale)
    assert folded(sar[:0]).shape == (0, 9)


def test_folded_keeps_the_weights_it_was_made_of() -> None:
    model = seeded(SHAPES[1])
    sar, _, _ = sample(SHAPES[1])
    folded = McnnInference(model)
    before = folded(sar)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    torch.testing.assert_close(folded(sar), before, rtol=0, atol=0)


@pytest.mark.parametrize("edit", ["none", "flat input", "no filter on"])
def test_table_of_a_branch_is_the_branch(edit: str) -> None:
    torch.manual_seed(4)
    branch = Branch(McnnSeqConfig(branch_channels=(5, 9))).double().eval()
    with torch.no_grad():
        if edit == "flat input":
            branch.conv1.weight.zero_()
        if edit == "no filter on":
            branch.conv2.weight.zero_()
    weight = torch.randn(8, 9, dtype=torch.float64)
    with torch.inference_mode():
        table = BranchTable.of(branch, weight)
        # All over the line, at the kinks themselves, and far beyond them.
        z = torch.cat([torch.linspace(-8, 8, 997, dtype=torch.float64), table.kinks, torch.tensor([-1e3, 1e3])])
        k = torch.bucketize(z, table.kinks)
        want = branch(z[None, :, None])[0] @ weight.T
        torch.testing.assert_close(table.slope[k] * z[:, None] + table.offset[k], want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_a_teacher_moves_later_outputs_only(form: Form) -> None:
    model = form(seeded(SHAPES[0]))
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
    with pytest.raises(ValueError, match=r"sizes must be positive|exceeds segment_length"):
        McnnSeqConfig.from_json(wrong)


def test_a_series_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, 31, 2\)"):
        McnnSeq()(torch.zeros(1, 30, 2))
