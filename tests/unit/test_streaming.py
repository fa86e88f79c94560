"""The online softmax: equal to the plain one in any order and split; states that refuse another model."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.classifier import attention_state
from models.classifier.attention_state import State, StateModelError

PARCELS, HEADS, WIDTH = 4, 3, 5


def observations(seed: int, count: int, spread: float) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, values and parcels of `count` observations; the last parcel is never observed."""
    random = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, HEADS, generator=random) * spread,
        torch.randn(count, HEADS, WIDTH, generator=random),
        torch.randint(PARCELS - 1, (count,), generator=random),
    )


def plain_attention(logits: Tensor, values: Tensor, parcel: Tensor) -> Tensor:
    """The softmax-weighted mean, a parcel at a time, in float64."""
    output = torch.zeros(PARCELS, HEADS, WIDTH, dtype=torch.float64)
    for index in set(parcel.tolist()):
        mine = parcel == index
        output[index] = (logits[mine].double().softmax(0)[..., None] * values[mine].double()).sum(0)
    return output.flatten(1).float()


def close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 60),
    spread=st.sampled_from([0.1, 3.0, 40.0]),
    cuts=st.lists(st.integers(0, 60), max_size=6),
)
def test_any_order_and_split_equals_the_plain_softmax(seed: int, count: int, spread: float, cuts: list[int]) -> None:
    logits, values, parcel = observations(seed, count, spread)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    state = attention_state.init(PARCELS, HEADS, WIDTH)
    edges = sorted({0, count, *(min(cut, count) for cut in cuts)})
    for start, stop in pairwise(edges):
        rows = order[start:stop]
        state = attention_state.update(state, logits[rows], values[rows], parcel[rows])
    assert close(attention_state.finish(state), plain_attention(logits, values, parcel))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 40), cut=st.integers(0, 40))
def test_merged_states_equal_one_state(seed: int, count: int, cut: int) -> None:
    logits, values, parcel = observations(seed, count, 5.0)
    parts = [attention_state.init(PARCELS, HEADS, WIDTH)] * 2
    for index, rows in enumerate((slice(0, cut), slice(cut, None))):
        parts[index] = attention_state.update(parts[index], logits[rows], values[rows], parcel[rows])
    expected = plain_attention(logits, values, parcel)
    assert close(attention_state.finish(attention_state.merge(*parts)), expected)
    assert close(attention_state.finish(attention_state.merge(*parts[::-1])), expected)


@pytest.mark.parametrize("each", [1, 4])
@pytest.mark.parametrize("spread", [1.0, 40.0])
def test_as_many_observations_of_every_parcel_are_folded_as_any_others(
    monkeypatch: pytest.MonkeyPatch, each: int, spread: float
) -> None:
    """Parcels with the same number of observations, in order, take a shorter way: to the same state."""
    logits, values, _ = observations(7, PARCELS * each, spread)
    parcel = torch.arange(PARCELS).repeat_interleave(each)
    before = attention_state.update(attention_state.init(PARCELS, HEADS, WIDTH), *observations(8, 9, spread))
    assert attention_state.dates_each(parcel, PARCELS) == each
    short = attention_state.update(before, logits, values, parcel)
    monkeypatch.setattr(attention_state, "dates_each", lambda *_: 0)
    long = attention_state.update(before, logits, values, parcel)
    assert short.m.equal(long.m)
    assert close(attention_state.finish(short), attention_state.finish(long))


def test_parcels_are_not_taken_for_equal_if_they_are_not() -> None:
    for parcel, parcels in (([0, 0, 1], 2), ([1, 0], 2), ([0, 0], 2), ([], 2), ([0, 1, 0, 1], 2), ([0, 1], 0)):
        assert attention_state.dates_each(torch.tensor(parcel, dtype=torch.int64), parcels) == 0


def test_an_observation_of_no_weight_changes_nothing() -> None:
    logits, values, parcel = observations(2, 12, 1.0)
    state = attention_state.update(attention_state.init(PARCELS, HEADS, WIDTH), logits, values, parcel)
    nothing = torch.full((PARCELS, HEADS), -torch.inf)
    for rows in (torch.arange(PARCELS), torch.tensor([3, 1, 1, 0])):  # each parcel once, and any
        after = attention_state.update(state, nothing, torch.randn(PARCELS, HEADS, WIDTH), rows)
        assert after.m.equal(state.m)
        assert after.v.equal(state.v)
        assert after.is_seen.tolist() == state.is_seen.tolist()


def test_a_parcel_without_observations_is_zeros_and_not_seen() -> None:
    logits, values, parcel = observations(0, 20, 1.0)
    state = attention_state.update(attention_state.init(PARCELS, HEADS, WIDTH), logits, values, parcel)
    assert state.is_seen.tolist() == [True, True, True, False]
    assert attention_state.finish(state)[-1].eq(0).all()
    both = attention_state.merge(
        attention_state.init(PARCELS, HEADS, WIDTH), attention_state.init(PARCELS, HEADS, WIDTH)
    )
    assert not both.is_seen.any()
    assert attention_state.finish(both).eq(0).all()


def test_gradients_are_those_of_the_plain_softmax() -> None:
    logits, values, parcel = observations(3, 25, 2.0)
    leaf = logits.clone().requires_grad_()
    state = attention_state.update(attention_state.init(PARCELS, HEADS, WIDTH), leaf, values, parcel)
    (got,) = torch.autograd.grad(attention_state.finish(state).square().sum(), leaf)
    (expected,) = torch.autograd.grad(plain_attention(leaf, values, parcel).square().sum(), leaf)
    assert close(got, expected)


def test_stored_states_come_back_bit_by_bit() -> None:
    state = attention_state.init(2, 16, 16, model="a")
    state = attention_state.update(
        state, torch.randn(3, 16), torch.randn(3, 16, 16), torch.tensor([1, 1, 1]), model="a"
    )
    stored = attention_state.to_array(state)
    assert [one.nbytes for one in stored] == [288 * 4] * 2
    back = attention_state.from_array(stored, 16, 16, model="a")
    assert back.m.equal(state.m)
    assert back.s.equal(state.s)
    assert back.v.equal(state.v)
    assert back.model == "a"
    assert attention_state.from_array(stored[:0], 16, 16).m.shape == (0, 16)
    with pytest.raises(ValueError, match="has 1152 bytes"):
        attention_state.from_array(stored[:1, :-1], 16, 16)


def test_a_state_refuses_another_model() -> None:
    one, other = (attention_state.init(1, 1, 1, model=name) for name in ("one", "other"))
    with pytest.raises(StateModelError, match="'one', not to 'other'"):
        attention_state.merge(one, other)
    with pytest.raises(StateModelError, match="rebuild it"):
        attention_state.update(
            one, torch.zeros(1, 1), torch.zeros(1, 1, 1), torch.zeros(1, dtype=torch.int64), model="other"
        )
    with pytest.raises(StateModelError):
        attention_state.finish(one, model="other")
    with pytest.raises(StateModelError):
        attention_state.concatenate([one, other])


def test_states_are_cut_and_joined_by_parcel() -> None:
    logits, values, parcel = observations(1, 20, 1.0)
    state = attention_state.update(attention_state.init(PARCELS, HEADS, WIDTH), logits, values, parcel)
    joined: State = attention_state.concatenate([state.take(torch.tensor([0, 1])), state.take(torch.tensor([2, 3]))])
    assert attention_state.finish(joined).equal(attention_state.finish(state))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), sharpness=st.floats(0.1, 8.0))
def test_what_is_taken_out_leaves_the_rest(seed: int, sharpness: float) -> None:
    """As long as 3 % of the weights are left, the rest's mean is right to 1e-5."""
    random = torch.Generator().manual_seed(seed)
    logits, values = sharpness * torch.randn(40, 4, generator=random), torch.randn(40, 4, 8, generator=random)
    parcel, is_out = torch.arange(40) // 8, torch.arange(40) % 8 >= 6
    nothing = attention_state.init(5, 4, 8)
    whole, part, rest = (
        attention_state.update(nothing, logits[rows], values[rows], parcel[rows])
        for rows in (is_out | ~is_out, is_out, ~is_out)
    )
    reduced, left = attention_state.take_out(whole, part)
    enough = left >= 0.03
    got, want = attention_state.finish(reduced)[enough], attention_state.finish(rest)[enough]
    assert torch.allclose(got, want, atol=1e-5)
    again = attention_state.finish(attention_state.merge(reduced, part))
    assert torch.allclose(again, attention_state.finish(whole), atol=1e-6)
    unseen, all_left = attention_state.take_out(nothing, nothing)
    assert not unseen.is_seen.any()
    assert (all_left == 1).all()
