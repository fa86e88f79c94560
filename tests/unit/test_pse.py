"""The pixel-set encoder: masked statistics, batch norm over valid pixels, and its folded form."""

import pytest
import torch
from torch import Tensor

from models.classifier import pixel_set_encoder
from models.classifier.pixel_set_encoder import FoldedPixelSetEncoder, PixelSetEncoder, RowNorm, linear, packed_mean_sd

CHANNELS = 6


def trained_encoder() -> PixelSetEncoder:
    """An encoder whose batch norms have seen data, in evaluation mode."""
    torch.manual_seed(0)
    encoder = PixelSetEncoder(CHANNELS)
    for _ in range(3):
        encoder(torch.randn(50, CHANNELS, 9) * 2 + 1, torch.rand(50, 9) < 0.7, torch.randn(50, 4))
    return encoder.eval()


def pixel_sets(count: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(count + size)
    valid = torch.rand(count, size, generator=random) < 0.6
    return torch.randn(count, CHANNELS, size, generator=random), valid, torch.randn(count, 4, generator=random)


@pytest.mark.parametrize("kept", [0, 1, 2, 7])
def test_mean_and_sd_are_those_of_the_valid_pixels(kept: int) -> None:
    z = torch.randn(1, 3, 7)
    valid = torch.arange(7)[None] < kept
    mean = z[:, :, :kept].mean(2) if kept else torch.zeros(1, 3)
    sd = z[:, :, :kept].std(2) if kept > 1 else torch.zeros(1, 3)
    got = packed_mean_sd(z.transpose(1, 2)[valid], torch.nonzero(valid)[:, 0], 1)
    torch.testing.assert_close(got[0], mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(got[1], sd, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dense", [0.0, 1.1], ids=["masked", "packed"])
@pytest.mark.parametrize("chunk", [2**8, 2**20], ids=["small chunks", "one chunk"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 1.0])
def test_folded_equals_unfolded_whatever_is_valid(
    monkeypatch: pytest.MonkeyPatch, dense: float, chunk: int, share: float
) -> None:
    monkeypatch.setattr(pixel_set_encoder, "LEAST_DENSE", dense)
    monkeypatch.setattr(pixel_set_encoder, "CPU_CHUNK", chunk)
    encoder = trained_encoder()
    pixels, valid, geometry = pixel_sets(37, 11)
    valid = torch.rand(37, 11) < share
    valid[3], valid[5, 1:] = False, False
    expected = encoder(pixels, valid, geometry)
    torch.testing.assert_close(encoder.folded()(pixels, valid, geometry), expected, atol=1e-5, rtol=0)


def test_equal_pixels_have_no_spread() -> None:
    """The sd of nearly equal pixels is the one thing that a mean of squares less a squared mean gets wrong."""
    encoder = trained_encoder()
    pixels = 3 + 1e-3 * torch.randn(5, CHANNELS, 64)
    valid, geometry = torch.ones(5, 64, dtype=torch.bool), torch.zeros(5, 4)
    expected = encoder.double()(pixels.double(), valid, geometry.double()).float()  # exact enough
    torch.testing.assert_close(encoder.float().folded()(pixels, valid, geometry), expected, atol=1e-5, rtol=0)


def test_bfloat16_products_cost_digits_and_no_more() -> None:
    encoder = trained_encoder()
    sets = pixel_sets(200, 32)
    difference = (encoder.folded(torch.bfloat16)(*sets) - encoder(*sets)).abs().detach()
    assert encoder.folded(torch.bfloat16)(*sets).dtype == torch.float32
    assert 1e-5 < float(difference.max()) < 0.05


@pytest.mark.parametrize("rows", [0, 3, 5000])
@pytest.mark.parametrize("has_onednn", [pixel_set_encoder.HAS_ONEDNN, False])
def test_linear_is_linear(monkeypatch: pytest.MonkeyPatch, rows: int, has_onednn: bool) -> None:
    monkeypatch.setattr(pixel_set_encoder, "HAS_ONEDNN", has_onednn)
    x, weight, bias = torch.randn(rows, 17), torch.randn(33, 17), torch.randn(33)
    torch.testing.assert_close(linear(x, weight, bias), x @ weight.t() + bias, atol=1e-5, rtol=0)
    torch.testing.assert_close(linear(x, weight, bias, relu=True), (x @ weight.t() + bias).relu(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 1), (40, 16), (300, 64)])
def test_folded_equals_unfolded(count: int, size: int) -> None:
    encoder = trained_encoder()
    pixels, valid, geometry = pixel_sets(count, size)
    valid[0] = False
    folded = encoder.folded()
    assert isinstance(folded, FoldedPixelSetEncoder)
    torch.testing.assert_close(folded(pixels, valid, geometry), encoder(pixels, valid, geometry), atol=1e-5, rtol=0)


def test_folded_takes_no_observation() -> None:
    encoder = trained_encoder()
    pixels, valid, geometry = torch.zeros(0, CHANNELS, 4), torch.zeros(0, 4, dtype=torch.bool), torch.zeros(0, 4)
    assert encoder.folded()(pixels, valid, geometry).shape == encoder(pixels, valid, geometry).shape == (0, 128)


def test_invalid_pixels_change_nothing() -> None:
    encoder = trained_encoder().train()
    pixels, valid, geometry = pixel_sets(20, 8)
    other = torch.where(valid[:, None, :], pixels, 1e6)
    first = encoder(pixels, valid, geometry)
    assert first.equal(encoder(other, valid, geometry))
    running = {name: one for name, one in encoder.named_buffers() if name.endswith("running_var")}
    assert len(running) == 3
    assert all(one.max() < 100 for one in running.values())  # a masked 1e6 never reached them


def test_order_of_pixels_changes_nothing() -> None:
    encoder = trained_encoder()
    pixels, valid, geometry = pixel_sets(20, 8)
    order = torch.randperm(8)
    torch.testing.assert_close(
        encoder(pixels[:, :, order], valid[:, order], geometry), encoder(pixels, valid, geometry), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("valid", [[[False, False]], [[True, False]], [[True, True]]])
def test_few_pixels_give_finite_embeddings_and_gradients(valid: list[list[bool]]) -> None:
    encoder = trained_encoder().train()
    pixels = torch.ones(1, CHANNELS, 2, requires_grad=True)  # equal pixels: sd 0, where the root has no slope
    embedding = encoder(pixels, torch.tensor(valid), torch.zeros(1, 4))
    embedding.sum().backward()
    assert embedding.isfinite().all()
    assert pixels.grad is not None
    assert pixels.grad.isfinite().all()


def test_a_single_row_is_normalised_by_running_statistics() -> None:
    norm = RowNorm(3)
    row = torch.randn(1, 3)
    torch.testing.assert_close(norm.train()(row), norm.eval()(row))
