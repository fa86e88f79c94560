"""The benchmarks' peer is the published form: dense, padded, unfolded, and the same numbers as ours."""

import pytest
import torch

from bench.published_form import PublishedForm, trained_like
from models.published import load_published


@pytest.mark.parametrize(
    ("channels", "dates", "classes", "pixels", "parcels"), [(10, 24, 20, 32, 5), (3, 7, 4, 5, 2), (10, 61, 19, 64, 1)]
)
def test_peer_and_ours_agree(channels: int, dates: int, classes: int, pixels: int, parcels: int) -> None:
    random = torch.Generator().manual_seed(1)
    peer = trained_like(PublishedForm(channels, dates, classes), 1)
    mask = (torch.rand(parcels, pixels, generator=random) < 0.7).float()
    mask[:, :2] = 1
    inputs = (
        torch.randn(parcels, dates, channels, pixels, generator=random), mask,
        torch.randn(parcels, 4, generator=random), torch.linspace(0, 350, dates),
    )  # fmt: skip
    with torch.no_grad():
        expected, ours = peer(*inputs), load_published(peer.state_dict())
        torch.testing.assert_close(ours(*inputs), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.folded()(*inputs), expected, atol=1e-5, rtol=0)
