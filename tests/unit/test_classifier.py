"""The classifier: streaming equals the full forward, batch-mates do not matter, little evidence is finite."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.classifier import attention_state
from models.classifier.attention_state import State, StateModelError
from models.classifier.inference import InferenceNetwork
from models.classifier.ltae import LtaeConfig
from models.classifier.network import ClassifierConfig, ConfigError, ModalityConfig, PseLtae
from models.classifier.packed_series import Batch, Series

MODALITIES = (
    ModalityConfig("s2", ("B02", "B03", "B04", "B08"), 0.4),
    ModalityConfig("s1a", ("VV", "VH"), 0.2, is_per_orbit=True),
    ModalityConfig("s1d", ("VV", "VH"), 0.2, is_per_orbit=True),
)
CONFIG = ClassifierConfig(MODALITIES, ("wheat", "beet", "grass"))
TOLERANCE = 1e-5


def season(seed: int, parcels: int, pixels: int = 6) -> Batch:
    """Ragged seasons: parcel 0 has no observation at all, parcel 1 no S2, the others 1 to 20 dates a modality."""
    random = torch.Generator().manual_seed(seed)
    series = {}
    for modality in MODALITIES:
        counts = torch.randint(1, 21, (parcels,), generator=random)
        counts[0] = 0
        if modality.name == "s2" and parcels > 1:
            counts[1] = 0
        parcel = torch.repeat_interleave(torch.arange(parcels), counts)
        shape = (len(parcel), len(modality.channels), pixels)
        series[modality.name] = Series(
            torch.randn(shape, generator=random),
            torch.rand(len(parcel), pixels, generator=random) < 0.7,
            torch.rand(len(parcel), generator=random) * 300,
            parcel,
        )
    return Batch(series, torch.randn(parcels, 4, generator=random))


@pytest.fixture(scope="module", params=["none", "date"])
def network(request: pytest.FixtureRequest) -> PseLtae:
    """A network whose batch norms have seen data, in evaluation mode, named "here"."""
    torch.manual_seed(0)
    config = ClassifierConfig(MODALITIES, CONFIG.classes, ltae=LtaeConfig(norm=request.param))
    network = PseLtae(config, model="here")
    for seed in range(3):
        network(season(seed, 30))
    return network.eval().requires_grad_(False)


def alone(batch: Batch, parcel: int) -> Batch:
    """One parcel of a batch as a batch."""
    series = {}
    for name, one in batch.series.items():
        mine = one.take(one.parcel == parcel)
        series[name] = Series(mine.pixels, mine.valid, mine.day, torch.zeros_like(mine.parcel))
    return Batch(series, batch.geometry[parcel : parcel + 1])


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=TOLERANCE, rtol=0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), parts=st.integers(1, 6))
def test_streaming_in_any_order_and_split_equals_forward(network: PseLtae, seed: int, parts: int) -> None:
    batch = season(seed, 5)
    random = torch.Generator().manual_seed(seed)
    part = {name: torch.randint(parts, (len(one),), generator=random) for name, one in batch.series.items()}
    states: dict[str, State] = {}
    for index in range(parts):
        news = {name: one.take(part[name] == index) for name, one in batch.series.items()}
        states = network.encode(Batch(news, batch.geometry), states)
    close(network.decode(states), network(batch).logits)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), day=st.floats(0, 300))
def test_merged_states_equal_forward(network: PseLtae, seed: int, day: float) -> None:
    batch = season(seed, 4)
    early = network.encode(batch.until(day))
    late = network.encode(Batch({n: one.take(one.day > day) for n, one in batch.series.items()}, batch.geometry))
    close(
        network.decode({name: attention_state.merge(early[name], late[name]) for name in early}), network(batch).logits
    )


def test_the_folded_network_continues_states_of_the_unfolded_one(network: PseLtae) -> None:
    batch, fast = season(1, 6), InferenceNetwork(network)
    close(fast(batch).logits, network(batch).logits)
    states = network.encode(batch.until(150))
    late = Batch({name: one.take(one.day > 150) for name, one in batch.series.items()}, batch.geometry)
    close(fast.decode(fast.encode(late, states)), network(batch).logits)


def test_a_parcel_alone_equals_itself_among_others(network: PseLtae) -> None:
    batch = season(2, 6)
    together = network(batch).logits
    for parcel in range(6):
        close(network(alone(batch, parcel)).logits[0], together[parcel])


def test_batch_mates_change_nothing(network: PseLtae) -> None:
    batch = season(2, 6)
    wild = Batch(
        {
            n: Series(one.pixels.where((one.parcel < 3)[:, None, None], 50.0), one.valid, one.day, one.parcel)
            for n, one in batch.series.items()
        },
        batch.geometry,
    )
    close(network(wild).logits[:3], network(batch).logits[:3])


def test_an_observation_without_a_valid_pixel_leaves_the_state_unchanged(network: PseLtae) -> None:
    batch = season(2, 4)
    states = network.encode(batch)
    blind = {
        name: Series(one.pixels, torch.zeros_like(one.valid), one.day, one.parcel) for name, one in batch.series.items()
    }
    after = network.encode(Batch(blind, batch.geometry), states)
    assert all(after[name].v.equal(states[name].v) and after[name].s.equal(states[name].s) for name in states)


def test_stored_states_continue(network: PseLtae) -> None:
    batch = season(5, 4)
    stored = {name: attention_state.to_array(one) for name, one in network.encode(batch.until(100)).items()}
    states = {name: attention_state.from_array(one, 16, 16, model="here") for name, one in stored.items()}
    late = Batch({name: one.take(one.day > 100) for name, one in batch.series.items()}, batch.geometry)
    close(network.decode(network.encode(late, states)), network(batch).logits)


@pytest.mark.parametrize("valid_pixels", [0, 1])
@pytest.mark.parametrize("modalities", [(), ("s2",), ("s1a",), ("s2", "s1d")])
def test_little_evidence_gives_a_finite_answer(
    network: PseLtae, modalities: tuple[str, ...], valid_pixels: int
) -> None:
    """One date, one pixel or none, modalities missing: finite, also in training mode and backwards."""
    series = {
        one.name: Series(
            torch.randn(1, len(one.channels), 3),
            torch.arange(3)[None] < valid_pixels,
            torch.ones(1),
            torch.zeros(1).long(),
        )
        for one in MODALITIES
        if one.name in modalities
    }
    batch = Batch(series, torch.zeros(1, 4))
    assert network(batch).logits.isfinite().all()
    trained = PseLtae(CONFIG)
    two = Batch({n: Series(s.pixels, s.valid, s.day, s.parcel) for n, s in series.items()}, torch.zeros(2, 4))
    trained(two).logits.sum().backward()
    assert all(one.grad is None or one.grad.isfinite().all() for one in trained.parameters())


def test_an_absent_modality_has_its_own_vector(network: PseLtae) -> None:
    """What was never observed enters the decoder as the learned vector, not as an attention over nothing."""
    batch = season(3, 4)
    states = network.encode(batch)
    before = network.decode(states)
    with torch.no_grad():
        network.sequence("s2").absent.add_(1.0)
    after = network.decode(states)
    with torch.no_grad():
        network.sequence("s2").absent.sub_(1.0)
    is_absent = ~states["s2"].is_seen
    assert is_absent.tolist() == [True, True, False, False]
    assert (before != after).any(1).equal(is_absent)


def test_states_of_another_model_are_refused(network: PseLtae) -> None:
    other = PseLtae(network.config, model="there").eval()
    states = other.encode(season(0, 3))
    with pytest.raises(StateModelError, match="'there', not to 'here'"):
        network.encode(season(0, 3), states)
    with pytest.raises(StateModelError):
        network.decode(states)


def test_a_modality_without_a_state_was_never_observed(network: PseLtae) -> None:
    batch = season(0, 3)
    radar = Batch({name: one for name, one in batch.series.items() if name != "s2"}, batch.geometry)
    states = network.encode(radar)
    expected = network.decode(states)
    del states["s2"]
    assert network.decode(states).equal(expected)
    with pytest.raises(ConfigError, match="no state to decode"):
        network.decode({})


def test_an_unknown_modality_is_refused(network: PseLtae) -> None:
    batch = season(0, 3)
    with pytest.raises(ConfigError, match="reads s2, s1a, s1d, not 's1'"):
        network.encode(Batch({"s1": batch.series["s1a"]}, batch.geometry))


def test_configuration_round_trip() -> None:
    import json

    assert ClassifierConfig.from_json(json.loads(json.dumps(CONFIG.to_json()))) == CONFIG


@pytest.mark.parametrize(
    ("modalities", "classes", "message"),
    [
        ((), ("a", "b"), "at least one"),
        (MODALITIES[:1] * 2, ("a", "b"), "different names"),
        (MODALITIES, ("a",), "two"),
    ],
)
def test_a_configuration_of_no_network_is_refused(
    modalities: tuple[ModalityConfig, ...], classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        ClassifierConfig(modalities, classes)


def test_any_single_modality_makes_a_network() -> None:
    batch = season(0, 3)
    for modality in MODALITIES:
        network = PseLtae(ClassifierConfig((modality,), ("a", "b"))).eval()
        assert network(Batch({modality.name: batch.series[modality.name]}, batch.geometry)).logits.shape == (3, 2)


def test_a_series_of_mismatched_shapes_is_refused() -> None:
    with pytest.raises(ValueError, match="a series needs"):
        Series(torch.zeros(3, 2, 4), torch.zeros(3, 5, dtype=torch.bool), torch.zeros(3), torch.zeros(3).long())
