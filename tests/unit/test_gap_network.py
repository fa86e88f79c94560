"""The gap network: states that know one side of time only, that start where they should, and that can be gone on from."""

import numpy as np
import pytest
import torch
from torch import Tensor

from models.ndvi.network import GapConfig, GapNetwork

P, T, M = 3, 9, 5
STEPS, VIEWS = torch.tensor([9, 4, 0]), torch.tensor([5, 2, 0])


def network(is_causal: bool) -> GapNetwork:
    torch.manual_seed(1)
    config = GapConfig(is_causal, hidden=12, view_hidden=8, head=16, branch_channels=(4, 6), n_harmonics=2)
    made = GapNetwork(config).eval()
    torch.nn.init.normal_(made.head[-1].weight)  # type: ignore[arg-type]
    return made


def inputs(made: GapNetwork) -> tuple[Tensor, Tensor, Tensor]:
    """Steps, views, and the complete steps on each view's day."""
    random = torch.Generator().manual_seed(0)
    steps = torch.randn(P, T, 6 + made.config.n_season, generator=random)
    views = torch.randn(P, M, 3 + made.config.n_season, generator=random)
    return steps, views, torch.tensor([[1, 3, 5, 7, 9], [0, 2, 4, 4, 4], [0, 0, 0, 0, 0]])


@torch.no_grad()
def states(made: GapNetwork, steps: Tensor, views: Tensor, at: Tensor) -> tuple[Tensor | None, ...]:
    encoded = made.encode(steps, STEPS)
    return encoded.forward, encoded.backward, *made.decode(encoded, views, VIEWS, at, torch.arange(P))


def test_a_state_before_a_step_has_read_the_steps_before_it_and_no_other() -> None:
    made = network(is_causal=False)
    steps, views, at = inputs(made)
    forward, backward, *_ = states(made, steps, views, at)
    assert forward is not None
    assert backward is not None
    changed = steps.clone()
    changed[0, 4] += 1
    again = made.encode(changed, STEPS)
    assert torch.equal(again.forward[0, :5], forward[0, :5])
    assert not torch.isclose(again.forward[0, 5:], forward[0, 5:]).all(dim=1).any()
    assert again.backward is not None
    assert torch.equal(again.backward[0, 5:], backward[0, 5:])
    assert not torch.isclose(again.backward[0, :5], backward[0, :5]).all(dim=1).any()
    assert torch.equal(again.forward[1:], forward[1:])
    assert forward[:, 0].eq(0).all()


def test_backward_each_parcel_starts_at_its_own_end() -> None:
    made = network(is_causal=False)
    steps, views, at = inputs(made)
    want = states(made, steps, views, at)
    poisoned, poisoned_views = steps.clone(), views.clone()
    for p in range(P):
        poisoned[p, STEPS[p] :], poisoned_views[p, VIEWS[p] :] = torch.nan, torch.nan
    got = states(made, poisoned, poisoned_views, at)
    for p in range(P):
        for one, other, n in zip(got, want, (STEPS, STEPS, VIEWS, VIEWS), strict=True):
            assert one is not None
            assert other is not None
            assert torch.equal(one[p, : n[p] + 1], other[p, : n[p] + 1])
    assert got[1] is not None
    assert got[1][1, 4:].eq(0).all()  # nothing is read there
    assert got[1][2].eq(0).all()
    alone = made.encode(steps[1:2, :4], STEPS[1:2])
    assert alone.backward is not None
    assert want[1] is not None
    torch.testing.assert_close(alone.backward[0], want[1][1, :5])


def test_a_causal_network_reads_nothing_backward() -> None:
    made = network(is_causal=True)
    _, backward, _, views_backward = states(made, *inputs(made))
    assert backward is None
    assert views_backward is None
    assert len(made.encoders) == len(made.decoders) == 1


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_reading_goes_on_from_a_state(cut: int) -> None:
    made = network(is_causal=True)
    steps, *_ = inputs(made)
    with torch.no_grad():
        whole = made.encode(steps, STEPS).forward
        h, c = (one[0] for one in made.encoders[0](made.branched(steps[:, :cut]))[1])
        rest = made.encode(steps[:, cut:], STEPS - cut, torch.stack([h, c])).forward
    torch.testing.assert_close(rest, whole[:, cut:])


def test_an_untrained_network_is_the_kriging_alone() -> None:
    made = GapNetwork(GapConfig(is_causal=True, hidden=4, view_hidden=4, head=4, branch_channels=(2, 2))).eval()
    encoded = made.encode(torch.randn(2, 3, 6 + made.config.n_season), torch.tensor([3, 3]))
    row = torch.zeros(2, dtype=torch.int64)
    between = (torch.zeros(2, 2, 4), None)
    m, s = made(encoded, between, torch.randn(2, made.config.n_features), row, row, row, row, row)
    assert m.eq(0).all()
    np.testing.assert_allclose(s.exp().detach().numpy(), 0.1, atol=0.01)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden": 0},
        {"view_hidden": -1},
        {"head": 0},
        {"branch_channels": (0, 4)},
        {"branch_channels": (4,)},
        {"n_harmonics": -1},
        {"steps_back": 0},
        {"steps_ahead": -1},
        {"n_nearest": 0},
        {"dropout": 1.0},
    ],
)
def test_a_shape_that_is_none_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="gap filling"):
        GapConfig(is_causal=False, **wrong)  # type: ignore[arg-type]
