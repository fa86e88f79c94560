"""The benchmarks' peer is the published form: dense, padded, unfolded, and the same numbers as ours."""

import pytest
import torch

from models.classifier.inference import folded
from models.classifier.published import load_published
from research.bench.encoder import packed
from research.experiments.published_form import PublishedForm, trained_like


@pytest.mark.parametrize(
    ("channels", "dates", "classes", "pixels", "parcels"), [(10, 24, 20, 32, 5), (3, 7, 4, 5, 2), (10, 61, 19, 64, 1)]
)
@pytest.mark.parametrize("same_mask", [True, False])
def test_peer_and_ours_agree(
    channels: int, dates: int, classes: int, pixels: int, parcels: int, same_mask: bool
) -> None:
    random = torch.Generator().manual_seed(1)
    peer = trained_like(PublishedForm(channels, dates, classes), 1)
    mask = (torch.rand(parcels, 1 if same_mask else dates, pixels, generator=random) < 0.7).float()
    mask[..., :1] = 1  # the published form has no answer to a set without a pixel
    geometry = torch.randn(parcels, 1, 4, generator=random).repeat(1, dates, 1)
    values = torch.randn(parcels, dates, channels, pixels, generator=random)
    inputs = values, mask.expand(parcels, dates, pixels), geometry, torch.linspace(0, 350, dates)
    ours = load_published(peer.state_dict())
    fast = folded(ours.network)
    with torch.no_grad():
        expected = peer(*inputs)
        torch.testing.assert_close(ours(*inputs), expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(fast.decode(fast.encode(packed(*inputs))), expected, atol=1e-5, rtol=0)


def test_a_mask_of_the_parcel_holds_for_all_dates() -> None:
    peer = trained_like(PublishedForm(3, 4, 5), 0)
    values, mask, geometry = torch.randn(2, 4, 3, 6), torch.ones(2, 6), torch.randn(2, 4)
    mask[0, 2:] = 0
    positions = torch.linspace(0, 100, 4)
    dense = mask[:, None].repeat(1, 4, 1), geometry[:, None].repeat(1, 4, 1)
    torch.testing.assert_close(peer(values, mask, geometry, positions), peer(values, *dense, positions))
