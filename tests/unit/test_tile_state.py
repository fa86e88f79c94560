"""A season folded date by date gives what the whole season gives, in any order; folded networks give what they were made of."""

import pytest
import torch
from torch import Tensor

from models.classifier.ltae import ConfigError
from models.segmentation import tile_state
from models.segmentation.inference import folded
from models.segmentation.paps import Paps, PapsConfig
from models.segmentation.utae import Utae, UtaeConfig


def network(**config: object) -> Utae:
    """Return a small network whose batch norms are as if trained."""
    torch.manual_seed(1)
    made = Utae(UtaeConfig(3, 5, encoder=(8, 8, 16), decoder=(8, 8, 16), width=16, heads=4, **config)).eval()  # type: ignore[arg-type]
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return made


def season(dates: int = 7) -> tuple[Tensor, Tensor]:
    """Return two series of 20 x 28 pixels, whose coarse pixels end inside, and their days."""
    random = torch.Generator().manual_seed(2)
    return torch.randn(2, dates, 3, 20, 28, generator=random) * 3, torch.randint(0, 300, (2, dates), generator=random)


@torch.inference_mode()
def test_a_season_folded_in_any_order_is_the_season() -> None:
    net, (images, day) = network(), season()
    whole = net(images, day)
    state = tile_state.initial(net, 2, 20, 28)
    for some in ([3, 1], [0, 2, 6], [5, 4]):
        state = tile_state.fold(net, state, images[:, some], day[:, some])
    assert float(whole.abs().max()) > 0.1
    assert torch.allclose(tile_state.logits(net, state), whole, atol=1e-6)


@torch.inference_mode()
def test_a_date_more_changes_the_answer() -> None:
    net, (images, day) = network(), season()
    before = tile_state.fold(net, tile_state.initial(net, 2, 20, 28), images[:, :6], day[:, :6])
    after = tile_state.fold(net, before, images[:, 6:], day[:, 6:])
    assert not torch.allclose(tile_state.logits(net, before), tile_state.logits(net, after), atol=1e-3)
    # The state before is not written into: a late date is folded into it again after a crash.
    assert torch.equal(
        tile_state.logits(net, after), tile_state.logits(net, tile_state.fold(net, before, images[:, 6:], day[:, 6:]))
    )


def test_a_norm_over_the_season_or_an_odd_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="norm of this network is taken over the dates of a whole season"):
        tile_state.initial(network(norm="season"), 1, 16, 16)
    with pytest.raises(ConfigError, match="18 x 16 pixels are no multiple of 4"):
        tile_state.initial(network(), 1, 18, 16)


@torch.inference_mode()
def test_a_folded_network_gives_the_same() -> None:
    net, (images, day) = network(), season()
    assert torch.allclose(folded(net)(images, day), net(images, day), atol=1e-5)
    assert net.training is False
    assert any(isinstance(one, torch.nn.BatchNorm2d) for one in net.modules())  # it itself is as it was


def test_dates_encoded_in_parts_give_what_they_give_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    net, (images, day) = network(norm="season"), season()
    valid = torch.ones(2, 7, dtype=torch.bool)
    valid[0, 2:5] = False
    at_once = net(images, day, valid).detach()
    monkeypatch.setattr("models.segmentation.utae.CPU_CHUNK", 3 * 8 * 20 * 28)
    with torch.inference_mode():
        assert torch.allclose(net(images, day, valid), at_once, atol=1e-6)


@torch.inference_mode()
def test_a_folded_paps_gives_the_same() -> None:
    torch.manual_seed(3)
    net = Paps(PapsConfig(UtaeConfig(3, 5, encoder=(8, 8, 16), decoder=(8, 8, 16), width=16, heads=4))).eval()
    images, day = season()
    ours, plain = folded(net)(images, day), net(images, day)
    assert torch.allclose(ours.heatmap, plain.heatmap, atol=1e-5)
    assert torch.allclose(ours.saliency, plain.saliency, atol=1e-5)
