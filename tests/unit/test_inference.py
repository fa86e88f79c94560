"""The inference network: the trained network's numbers in every scheme and split, and a GPU path that never waits."""

from itertools import product
from typing import Literal, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.classifier import attention_state, inference, pixel_set_encoder
from models.classifier.inference import InferenceNetwork, sent_ahead
from models.classifier.ltae import LtaeConfig, Norm
from models.classifier.network import ClassifierConfig, ConfigError, Fusion, FusionNetwork, ModalityConfig, PseLtae
from models.classifier.packed_series import Batch, Series
from research.experiments.published_form import trained_like

MODALITIES = (ModalityConfig("s2", ("B04", "B08", "NDVI")), ModalityConfig("s1a", ("VV", "VH")))
PIXELS = 6


def network(fusion: Fusion = "late", norm: Norm = "none", dates: int | None = None) -> PseLtae:
    torch.manual_seed(0)
    config = ClassifierConfig(
        MODALITIES, ("wheat", "maize", "beet"), ltae=LtaeConfig(norm=norm, dates=dates), fusion=fusion
    )
    return trained_like(PseLtae(config, model="here"), 0)


def season(seed: int, parcels: int = 5, each: int | None = None) -> Batch:
    """Random seasons, ragged unless `each` says how many dates all have; some observations without a valid pixel."""
    random = torch.Generator().manual_seed(seed)
    series = {}
    for one in MODALITIES:
        counts = torch.full((parcels,), each) if each else torch.randint(0, 9, (parcels,), generator=random)
        n = int(counts.sum())
        valid = torch.rand(n, PIXELS, generator=random) < torch.rand(n, 1, generator=random)
        if each:
            valid[:, 0] = True
        series[one.name] = Series(
            torch.randn(n, len(one.channels), PIXELS, generator=random),
            valid,
            torch.randint(0, 300, (n,), generator=random).float(),
            torch.arange(parcels).repeat_interleave(counts),
        )
    return Batch(series, torch.randn(parcels, 4, generator=random))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def logits(of: FusionNetwork, batch: Batch) -> Tensor:
    with torch.no_grad():
        return of.decode(of.encode(batch))


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything takes the path of tensors on a GPU."""
    for module in (attention_state, pixel_set_encoder, inference):
        monkeypatch.setattr(module, "is_remote", lambda _: True)


@pytest.mark.parametrize(("fusion", "norm"), list(product(get_args(Fusion), get_args(Norm))))
@pytest.mark.parametrize("each", [None, 1, 7])
def test_outputs_are_the_trained_networks(fusion: Fusion, norm: Norm, each: int | None) -> None:
    trained, batch = network(fusion, norm), season(3, each=each)
    close(logits(InferenceNetwork(trained), batch), logits(trained, batch))


@pytest.mark.parametrize("rows", [1, 10, 1024])
def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(inference, "ROWS_AT_ONCE", rows)
    for norm, dates in (("none", None), ("season", None), ("season", 7)):
        trained = network(norm=norm, dates=dates)  # type: ignore[arg-type]
        batch = season(4, each=7)
        close(logits(InferenceNetwork(trained), batch), logits(trained, batch))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    parts=st.integers(1, 5),
    fusion=st.sampled_from(["late", "mid", "decision"]),
    norm=st.sampled_from(["none", "date"]),
)
def test_any_order_and_split_equals_the_trained_forward(
    seed: int, parts: int, fusion: Fusion, norm: Literal["none", "date"]
) -> None:
    trained, batch = network(fusion, norm), season(seed)
    fast = InferenceNetwork(trained)
    random = torch.Generator().manual_seed(seed)
    part = {name: torch.randint(parts, (len(one),), generator=random) for name, one in batch.series.items()}
    states = fast.initial_states(len(batch))
    for index in range(parts):
        news = {name: one.take(part[name] == index) for name, one in batch.series.items()}
        states = (fast if index % 2 else trained).encode(Batch(news, batch.geometry), states)
    close(fast.decode(states), logits(trained, batch))


def test_a_parcel_alone_or_among_padded_pixels_equals_itself_among_others() -> None:
    fast, batch = InferenceNetwork(network()), season(2)
    together = logits(fast, batch)
    for parcel in range(len(batch)):
        mine = {name: one.take(one.parcel == parcel) for name, one in batch.series.items()}
        padded = {
            name: Series(
                torch.cat([one.pixels, torch.full_like(one.pixels, 9)], dim=2),
                torch.cat([one.valid, torch.zeros_like(one.valid)], dim=1),
                one.day,
                torch.zeros_like(one.parcel),
            )
            for name, one in mine.items()
        }
        close(logits(fast, Batch(padded, batch.geometry[parcel : parcel + 1]))[0], together[parcel])


@pytest.mark.parametrize("valid_pixels", [0, 1])
def test_little_evidence_gives_a_finite_answer(valid_pixels: int) -> None:
    fast = InferenceNetwork(network())
    one = Series(torch.ones(1, 3, 2), (torch.arange(2) < valid_pixels)[None], torch.zeros(1), torch.zeros(1).long())
    states = fast.encode(Batch({"s2": one}, torch.zeros(2, 4)))
    assert states["s2"].is_seen.tolist() == [valid_pixels > 0, False]
    assert fast.decode(states).isfinite().all()
    assert fast.decode(fast.encode(Batch({}, torch.zeros(0, 4)))).shape == (0, 3)


def test_what_cannot_stream_refuses_states() -> None:
    for fusion, norm in (("early", "none"), ("late", "season")):
        fast = InferenceNetwork(network(fusion, norm))  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="cannot stream"):
            fast.encode(season(0), fast.initial_states(5))


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("fusion", get_args(Fusion))
@pytest.mark.parametrize("norm", get_args(Norm))
def test_the_gpu_path_gives_the_same_numbers(fusion: Fusion, norm: Norm) -> None:
    trained, batch = network(fusion, norm), season(6)
    assert not all(bool(one.valid.any(1).all()) for one in batch.series.values())  # masked, not left out
    close(logits(InferenceNetwork(trained), batch), logits(trained, batch))


@pytest.mark.parametrize("fusion", ["late", "mid", "decision"])
@pytest.mark.parametrize("norm", ["none", "date"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gpu_path_asks_the_device_for_no_value(fusion: Fusion, norm: Norm, dtype: torch.dtype) -> None:
    """Tensors on `meta` have no values: whatever would make the host wait for one (bool, item, nonzero) raises there."""
    fast = InferenceNetwork(network(fusion, norm), dtype).to("meta")
    batch = season(1).to("meta")
    with pytest.raises((RuntimeError, NotImplementedError)):
        batch.series["s2"].informative()  # it does raise
    states = fast.encode(batch, fast.initial_states(5, "meta"))
    assert fast.decode(states).shape == (5, 3)


def test_bfloat16_stays_near_and_states_stay_float32() -> None:
    trained, batch = network(), season(9, parcels=40)
    half = InferenceNetwork(trained, torch.bfloat16)
    assert all(one.v.dtype == torch.float32 for one in half.encode(batch).values())
    difference = (logits(half, batch).softmax(1) - logits(trained, batch).softmax(1)).abs().max()
    assert 0 < float(difference) < 0.02


def test_batches_sent_ahead_are_the_batches_in_order() -> None:
    batches = [season(seed) for seed in range(4)]
    sent = list(sent_ahead(iter(batches), "cpu"))
    assert [one.geometry.equal(other.geometry) for one, other in zip(sent, batches, strict=True)] == [True] * 4


def test_each_tensor_of_a_batch_is_changed() -> None:
    batch = season(0)
    moved = inference.each_tensor(batch, lambda one: one.to("meta"))
    assert moved.geometry.is_meta
    for name, one in moved.series.items():
        parts, expected = ((each.pixels, each.valid, each.day, each.parcel) for each in (one, batch.series[name]))
        assert all(part.is_meta for part in parts)
        assert [part.shape for part in parts] == [part.shape for part in expected]
