"""Every fusion scheme in every normalisation: ragged seasons without any effect of padding or batch-mates, little evidence."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.classifier import early_fusion
from models.classifier.inference import InferenceNetwork
from models.classifier.ltae import LtaeConfig, Norm
from models.classifier.network import ClassifierConfig, ConfigError, Fusion, ModalityConfig, PseLtae
from models.classifier.packed_series import Batch, Series

MODALITIES = (
    ModalityConfig("s2", ("B02", "B04", "B08")),
    ModalityConfig("s1a", ("VV", "VH"), is_co_located=True),
    ModalityConfig("s1d", ("VV", "VH")),
)
FUSIONS: tuple[Fusion, ...] = ("early", "mid", "late", "decision")
NORMS: tuple[Norm, ...] = ("none", "date", "season")
PARCELS, PIXELS = 7, 5
SMALL = LtaeConfig(inputs=24, width=32, heads=4, key=4, outputs=20)


def config(fusion: Fusion, norm: Norm, modalities: tuple[ModalityConfig, ...] = MODALITIES) -> ClassifierConfig:
    return ClassifierConfig(
        modalities, ("a", "b", "c"), 4, (8, 12), replace(SMALL, norm=norm), decoder=(16,), fusion=fusion
    )


def series(parcel: Tensor, channels: int, random: torch.Generator, pixels: int = PIXELS) -> Series:
    """Random observations of the parcels given, a few of them without a valid pixel."""
    return Series(
        torch.randn(len(parcel), channels, pixels, generator=random),
        torch.rand(len(parcel), pixels, generator=random) < 0.6,
        torch.rand(len(parcel), generator=random) * 300,
        parcel,
    )


def season(seed: int) -> Batch:
    """Ragged seasons: parcel 0 without any observation, 1 without optical, 2 without radar ones, 3 with one date each."""
    random = torch.Generator().manual_seed(seed)
    of = {}
    for modality in MODALITIES:
        counts = torch.randint(2, 15, (PARCELS,), generator=random)
        counts[0], counts[3] = 0, 1
        counts[1 if modality.name == "s2" else 2] = 0
        of[modality.name] = series(torch.arange(PARCELS).repeat_interleave(counts), len(modality.channels), random)
    return Batch(of, torch.randn(PARCELS, 4, generator=random))


def trained(configuration: ClassifierConfig) -> PseLtae:
    """A network in evaluation mode whose batch norms have seen data, and whose absences are not zero."""
    torch.manual_seed(0)
    network = PseLtae(configuration)
    for seed in range(3):
        network(season(seed))
    for name in configuration.sequences:
        torch.nn.init.normal_(network.sequence(name).absent)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=list(itertools.product(FUSIONS, NORMS)), ids="-".join)
def network(request: pytest.FixtureRequest) -> PseLtae:
    return trained(config(*request.param))


def changed(batch: Batch, change: Callable[[Series], Series]) -> Batch:
    return Batch({name: change(one) for name, one in batch.series.items()}, batch.geometry)


def alone(batch: Batch, parcel: int) -> Batch:
    """One parcel of a batch as a batch."""
    mine = changed(batch, lambda one: one.take(one.parcel == parcel))
    return Batch(
        {name: replace(one, parcel=torch.zeros_like(one.parcel)) for name, one in mine.series.items()},
        batch.geometry[parcel : parcel + 1],
    )


def padded(one: Series) -> Series:
    """The same pixel sets with three invalid pixels more."""
    n, c, _ = one.pixels.shape
    return replace(
        one,
        pixels=torch.cat([one.pixels, torch.full((n, c, 3), 77.0)], 2),
        valid=torch.cat([one.valid, torch.zeros(n, 3, dtype=torch.bool)], 1),
    )


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_a_parcel_alone_is_as_among_others_and_as_padded(network: PseLtae) -> None:
    batch = season(11)
    together = network(batch).logits
    for parcel in range(PARCELS):
        close(network(alone(batch, parcel)).logits[0], together[parcel])
    close(network(changed(batch, padded)).logits, together)


def test_batch_mates_and_invalid_pixels_change_nothing(network: PseLtae) -> None:
    batch = season(11)
    together = network(batch).logits
    wild = changed(batch, lambda one: replace(one, pixels=one.pixels.where((one.parcel < 4)[:, None, None], 50.0)))
    close(network(wild).logits[:4], together[:4])
    blind = changed(batch, lambda one: replace(one, pixels=one.pixels.where(one.valid[:, None, :], -30.0)))
    close(network(blind).logits, together)


def test_observations_without_a_valid_pixel_are_as_none(network: PseLtae) -> None:
    batch = season(11)
    close(network(changed(batch, Series.informative)).logits, network(batch).logits)


def test_the_folded_network_gives_the_same(network: PseLtae) -> None:
    close(InferenceNetwork(network)(season(4)).logits, network(season(4)).logits)


@pytest.mark.parametrize("names", [(), ("s2",), ("s1a",), ("s1a", "s1d"), ("s2", "s1d"), ("s2", "s1a", "s1d")])
@pytest.mark.parametrize("valid_pixels", [0, 1])
def test_one_date_of_few_modalities_is_enough(network: PseLtae, names: tuple[str, ...], valid_pixels: int) -> None:
    batch = changed(season(5), lambda one: one.take(one.parcel == 3))
    batch = Batch({name: batch.series[name] for name in names}, batch.geometry)
    batch = changed(batch, lambda one: replace(one, valid=(torch.arange(PIXELS) < valid_pixels).expand_as(one.valid)))
    probabilities = network(batch).logits.softmax(1)
    assert probabilities.isfinite().all()
    close(probabilities.sum(1), torch.ones(PARCELS))


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("valid_pixels", [0, 1, PIXELS])
def test_gradients_of_little_evidence_are_finite(fusion: Fusion, norm: Norm, valid_pixels: int) -> None:
    torch.manual_seed(0)
    network = PseLtae(config(fusion, norm))
    for names in ((), ("s2",), ("s1d",), ("s2", "s1a", "s1d")):
        batch = season(6)
        batch = Batch({name: batch.series[name] for name in names}, batch.geometry)
        batch = changed(
            batch, lambda one: replace(one, valid=(torch.arange(PIXELS) < valid_pixels).expand_as(one.valid))
        )
        output = network(batch)
        (output.logits.sum() + sum(one.sum() for one in output.auxiliary.values())).backward()
        assert all(one.grad is None or one.grad.isfinite().all() for one in network.parameters())


def test_every_parameter_learns(network: PseLtae) -> None:
    learning = PseLtae(network.config)
    output = learning(season(7))
    (output.logits.square().sum() + sum(one.square().sum() for one in output.auxiliary.values())).backward()
    idle = {name for name, one in learning.named_parameters() if one.grad is None or not one.grad.any()}
    # The bias of what a batch norm follows, and that of the keys under a softmax, have no effect.
    assert not {name for name in idle if not name.endswith((".lin.bias", "attention.keys.bias"))}


def test_states_are_updated_where_dates_do_not_couple(network: PseLtae) -> None:
    batch = season(8)
    is_late = {name: one.day > 150 for name, one in batch.series.items()}
    late = Batch({name: one.take(is_late[name]) for name, one in batch.series.items()}, batch.geometry)
    states = network.encode(batch.until(150))
    assert tuple(states) == network.config.sequences
    if network.config.is_streaming:
        close(network.decode(network.encode(late, states)), network(batch).logits)
    else:
        with pytest.raises(ConfigError, match=r"this network cannot stream: .* whole season; give all"):
            network.encode(late, states)
        close(network.decode(network.encode(batch)), network(batch).logits)


@pytest.mark.parametrize(
    ("fusion", "sequences", "auxiliaries"),
    [
        ("early", ("early",), ()),
        ("mid", ("mid",), ()),
        ("late", ("s2", "s1a", "s1d"), ("s2", "s1a", "s1d")),
        ("decision", ("s2", "s1a", "s1d"), ("s2", "s1a", "s1d")),
    ],
)
def test_what_a_scheme_has(fusion: Fusion, sequences: tuple[str, ...], auxiliaries: tuple[str, ...]) -> None:
    network = PseLtae(config(fusion, "none"))
    output = network(season(1))
    assert tuple(network.initial_states(2)) == network.config.sequences == sequences
    assert tuple(output.auxiliary) == network.config.auxiliaries == auxiliaries
    assert output.is_seen["s2"].tolist()[:3] == [False, False, True]
    assert output.is_seen["s1a"].tolist()[:3] == [False, True, False]


@pytest.mark.parametrize("norm", NORMS)
def test_one_modality_is_one_network_whatever_the_fusion(norm: Norm) -> None:
    batch = Batch({"s2": season(2).series["s2"]}, season(2).geometry)
    logits, names = [], set()
    for fusion in FUSIONS:
        torch.manual_seed(0)
        one = PseLtae(config(fusion, norm, MODALITIES[:1])).eval()
        logits.append(one(batch).logits)
        names.add(tuple(one.state_dict()))
        assert one.config.is_streaming == (norm != "season")
    assert len(names) == 1
    assert all(one.equal(logits[0]) for one in logits)


@pytest.mark.parametrize("norm", NORMS)
def test_decision_is_the_mean_of_the_modalities_seen(norm: Norm) -> None:
    network = trained(config("decision", norm))
    output = network(season(3))
    each = output.auxiliary
    close(output.logits[0], torch.stack([one[0] for one in each.values()]).mean(0))
    close(output.logits[1], (each["s1a"][1] + each["s1d"][1]) / 2)
    close(output.logits[2], each["s2"][2])
    close(output.logits[3:], torch.stack([one[3:] for one in each.values()]).mean(0))


def test_mid_is_one_attention_over_the_embeddings_of_all() -> None:
    """The same observations as one sequence: a modality is known by its encoder alone."""
    network = trained(config("mid", "none"))
    batch = season(4)
    states = network.encode(batch)["mid"]
    s = torch.zeros_like(states.s)
    for name, one in batch.series.items():
        one = one.informative()
        logits, _ = network.attend("mid", network.embed(name, one, batch.geometry), one.day, one.parcel)
        s = s.index_add(0, one.parcel, torch.exp(logits))
    close(torch.log(s), torch.log(states.s) + states.m.nan_to_num(neginf=0))


def test_early_fusion_interpolates_holds_and_pairs_pixels() -> None:
    """Two optical parcels, radar by hand: before, between, at and after its dates; parcel 1 has none."""
    days = torch.tensor([5.0, 10.0, 15.0, 20.0, 99.0, 15.0])
    parcel = torch.tensor([0, 0, 0, 0, 0, 1])
    optical = Series(torch.ones(6, 1, 2), torch.ones(6, 2, dtype=torch.bool), days, parcel)
    radar = Series(
        torch.tensor([[[4.0, 8.0]], [[1.0, 3.0]], [[7.0, 9.0]]]),
        torch.tensor([[True, True], [True, True], [True, False]]),
        torch.tensor([20.0, 10.0, 30.0]),
        torch.tensor([0, 0, 0]),
    )
    fused = early_fusion.concatenated(optical, [(radar, 1, True), (radar, 1, False), (None, 2, False)])
    assert fused.pixels.shape == (6, 5, 2)
    assert fused.day.equal(days)
    assert fused.pixels[:, 0].eq(1).all()
    # The invalid pixel of day 30 is the mean of its set's valid ones, 7.
    close(fused.pixels[:, 1], torch.tensor([[1.0, 3.0], [1.0, 3.0], [2.5, 5.5], [4.0, 8.0], [7.0, 7.0], [0.0, 0.0]]))
    close(fused.pixels[:, 2], torch.tensor([2.0, 2.0, 4.0, 6.0, 7.0, 0.0])[:, None].expand(6, 2))
    assert fused.pixels[:, 3:].eq(0).all()


def test_early_fusion_of_many_parcels_is_that_of_each() -> None:
    """Against numpy.interp for each parcel, pixel and channel."""
    import numpy as np

    random = torch.Generator().manual_seed(0)
    optical = series(torch.arange(9).repeat_interleave(4), 2, random)
    radar = series(torch.arange(9).repeat_interleave(torch.tensor([0, 1, 2, 30, 0, 5, 3, 1, 0])), 2, random)
    radar = replace(radar, valid=torch.ones_like(radar.valid))
    got = early_fusion.interpolated(radar, 2, True, to=optical)
    for row in range(len(optical)):
        mine = radar.take(radar.parcel == optical.parcel[row])
        order = mine.day.argsort()
        for channel, pixel in itertools.product(range(2), range(PIXELS)):
            known = mine.pixels[order, channel, pixel].numpy()
            expected = np.interp(float(optical.day[row]), mine.day[order].numpy(), known) if len(known) else 0.0
            assert float(got[row, channel, pixel]) == pytest.approx(expected, abs=1e-5)


def test_early_fusion_refuses_co_located_sets_of_different_sizes() -> None:
    random = torch.Generator().manual_seed(0)
    optical, radar = series(torch.zeros(2).long(), 3, random), series(torch.zeros(2).long(), 2, random, pixels=4)
    batch = Batch({"s2": optical, "s1a": radar}, torch.zeros(1, 4))
    with pytest.raises(ConfigError, match="co-located sets have as many pixels: 5 and 4"):
        PseLtae(config("early", "none"))(batch)
    assert (
        PseLtae(config("early", "none"))(Batch({"s2": optical, "s1d": radar}, torch.zeros(1, 4)))
        .logits.isfinite()
        .all()
    )


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_configuration_comes_back(fusion: Fusion) -> None:
    import json

    whole = config(fusion, "season")
    assert ClassifierConfig.from_json(json.loads(json.dumps(whole.to_json()))) == whole
    with pytest.raises(ConfigError, match="not a configuration of this version's classifier"):
        ClassifierConfig.from_json({**whole.to_json(), "ltae": {"date_norm": True}})


def test_what_is_no_fusion_or_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match="fusion is one of late, early, mid, decision, not 'middle'"):
        ClassifierConfig(MODALITIES, ("a", "b"), fusion="middle")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="none, date, season, not 'layer'"):
        LtaeConfig(norm="layer")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="only the norm over a season pins"):
        LtaeConfig(norm="date", dates=24)
    with pytest.raises(ConfigError, match="the width 100 is not a multiple of 16 heads"):
        LtaeConfig(width=100)
