"""The peer of `research.bench.mcnn_seq` is the paper's network with our weights, and the figures are of both at the same output."""

import random

import pytest
import torch

from models.ndvi.published.inference import McnnInference
from models.ndvi.published.mcnn_seq import McnnSeq, McnnSeqConfig
from research.bench.mcnn_seq import compare, in_batches, least_s
from research.bench.published_mcnn import PublishedMcnn


def any_shape(seed: int) -> McnnSeqConfig:
    """A small shape drawn at random."""
    draw = random.Random(seed)
    length = draw.randint(1, 6)
    return McnnSeqConfig(
        n_segments=draw.randint(1, 7),
        segment_length=length,
        stride=draw.randint(1, 5),
        kernel_size=draw.randint(1, length),
        branch_channels=(draw.randint(1, 6), draw.randint(1, 8)),
        hidden=draw.randint(1, 9),
    )


@pytest.mark.parametrize("is_batched", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_peer_network_and_folded_network_agree(seed: int, is_batched: bool) -> None:
    torch.manual_seed(seed)
    model = McnnSeq(any_shape(seed)).double().eval()
    sar = 2 * torch.randn(5, model.config.n_steps, 2, dtype=torch.float64)
    with torch.inference_mode():
        want = PublishedMcnn(model, is_batched)(sar)
        assert want.shape == (5, model.config.n_segments)
        torch.testing.assert_close(model(sar), want, rtol=0, atol=1e-12)
        torch.testing.assert_close(McnnInference(model)(sar), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("extension", [{"n_extra": 1}, {"is_aligned": True}, {"has_sd": True}])
def test_the_paper_has_no_extensions(extension: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="the paper's network has no"):
        PublishedMcnn(McnnSeq(McnnSeqConfig(**extension)))  # type: ignore[arg-type]


def test_figures_are_of_the_same_output() -> None:
    torch.manual_seed(0)
    model = McnnSeq(McnnSeqConfig(n_segments=3, hidden=8)).eval()
    with torch.inference_mode():
        got = compare(model, torch.randn(70, 3, 2), 1)
    assert {"speedup", "max_abs_diff", "windows_per_s"} <= set(got)
    assert 0 <= got["max_abs_diff"] < 1e-5
    assert got["literal_batch"] == 64  # the only size that 70 windows fill
    assert got["speedup"] == pytest.approx(got["windows_per_s"] / got["literal_windows_per_s"])


def test_batches_leave_no_window_out_and_times_are_of_turns() -> None:
    sizes: list[int] = []

    def network(part: torch.Tensor) -> torch.Tensor:
        sizes.append(len(part))
        return part

    series = torch.arange(7.0)
    assert in_batches(network, series, 3).tolist() == series.tolist()
    assert sizes == [3, 3, 1]
    order: list[str] = []
    seconds = least_s([lambda: order.append("ours"), lambda: order.append("peer")], 2, torch.device("cpu"))
    assert order == ["ours", "peer"] * 3  # one turn unmeasured
    assert min(seconds) >= 0
