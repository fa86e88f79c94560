"""The networks of the paper's comparison behind one interface: sizes, literal recurrences, missing values, training by name."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.ndvi.inputs import ClearSeries, SarSeries
from models.ndvi.published.mcnn_seq import Lstm, McnnSeqConfig, count_parameters
from models.ndvi.published.networks import (
    NETWORKS,
    Cnn,
    CnnConfig,
    NetworkConfig,
    Plain,
    Rnn,
    RnnConfig,
    build_network,
    network_config,
    network_name,
)
from models.ndvi.published.reconstruction import PAPER, NdviTrainingConfig, SarToNdvi
from models.ndvi.published.training import train_ndvi

SMALL: list[NetworkConfig] = [
    McnnSeqConfig(n_segments=5, hidden=6, branch_channels=(9, 12), n_extra=2),
    RnnConfig(n_segments=5, hidden=6),
    RnnConfig(n_segments=4, segment_length=3, stride=2, hidden=5, n_extra=2, has_sd=True, cell="tanh"),
    CnnConfig(n_segments=5, filters=(4, 3)),
    CnnConfig(n_segments=4, segment_length=3, stride=2, filters=(4, 3), n_extra=2, has_sd=True, kernel_size=5),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def sample(config: NetworkConfig, n: int = 4) -> tuple[Tensor, Tensor, Tensor | None]:
    torch.manual_seed(2)
    sar, is_present = torch.randn(n, config.n_steps, 2), torch.rand(n, config.n_steps) > 0.3
    is_present[0], is_present[1] = True, False
    return sar, is_present, torch.randn(n, config.n_segments, config.n_extra) if config.n_extra else None


@pytest.mark.parametrize(
    ("config", "parameters"),
    [(McnnSeqConfig(), 195_093), (RnnConfig(), 121_701), (RnnConfig(cell="tanh"), 30_501), (CnnConfig(), 9_247)],
)
def test_paper_sizes_have_the_stated_parameters(config: NetworkConfig, parameters: int) -> None:
    assert count_parameters(build_network(config)) == parameters


@pytest.mark.parametrize("config", SMALL)
def test_one_interface(config: NetworkConfig) -> None:
    torch.manual_seed(0)
    network = build_network(config)
    sar, is_present, extra = sample(config)
    got = network(sar, is_present, extra)
    assert got.shape == ((4, config.n_segments, 2) if config.has_sd else (4, config.n_segments))
    assert got.isfinite().all()
    unseen = torch.where(is_present[..., None], sar, torch.nan)
    torch.testing.assert_close(network(unseen, is_present, extra), got, rtol=0, atol=0)
    for row in range(4):  # no effect of batch-mates
        mine = slice(row, row + 1)
        alone = network(sar[mine], is_present[mine], None if extra is None else extra[mine])
        torch.testing.assert_close(alone[0], got[row], rtol=0, atol=1e-6)
    assert not torch.allclose(network(sar + 1, is_present, extra)[0], got[0])
    with pytest.raises(ValueError, match=r"sar must be \(B, "):
        network(sar[:, 1:], None, extra)
    with pytest.raises(ValueError, match="extra channels"):
        network(sar, None, torch.zeros(4, config.n_segments, 1))


@pytest.mark.parametrize("config", SMALL)
def test_gradients_reach_every_parameter_and_none_is_nan(config: NetworkConfig) -> None:
    torch.manual_seed(0)
    network = build_network(config)
    network(*sample(config)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in network.parameters())


def test_recurrent_layers_are_pytorchs() -> None:
    config = RnnConfig(n_segments=6, hidden=7)
    torch.manual_seed(0)
    for cell, kind in (("lstm", torch.nn.LSTM), ("tanh", torch.nn.RNN)):
        ours = Rnn(replace(config, cell=cell))  # type: ignore[arg-type]
        theirs = kind(2, 7, num_layers=2, batch_first=True)
        with torch.no_grad():
            for k, layer in enumerate(ours.layers):
                assert isinstance(layer, Lstm | Plain)
                getattr(theirs, f"weight_ih_l{k}").copy_(layer.input.weight)
                getattr(theirs, f"weight_hh_l{k}").copy_(layer.recurrent.weight)
                getattr(theirs, f"bias_ih_l{k}").copy_(layer.input.bias)
                getattr(theirs, f"bias_hh_l{k}").zero_()
        sar = torch.randn(3, 6, 2)
        torch.testing.assert_close(ours(sar), ours.head(theirs(sar)[0])[..., 0], rtol=0, atol=1e-6)


def test_a_recurrent_output_knows_no_later_segment_and_a_missing_one_changes_nothing() -> None:
    network = Rnn(RnnConfig(n_segments=6, hidden=7))
    sar, is_present = torch.randn(2, 6, 2), torch.ones(2, 6, dtype=torch.bool)
    want = network(sar)
    later = sar.clone()
    later[:, 4] += 1
    torch.testing.assert_close(network(later)[:, :4], want[:, :4], rtol=0, atol=0)
    is_present[:, 4] = False
    got = network(sar, is_present)
    torch.testing.assert_close(got[:, 4], got[:, 3], rtol=0, atol=0)


def test_the_convolutional_network_is_as_printed() -> None:
    network = Cnn(CnnConfig(n_segments=7, filters=(3, 2)))
    sar = torch.randn(2, 7, 2)
    padded = torch.zeros(2, 9, 2)
    padded[:, 1:-1] = sar
    weight, bias = network.conv1.weight, network.conv1.bias
    assert bias is not None
    first = torch.stack(
        [(padded[:, t : t + 3].permute(0, 2, 1)[:, None] * weight).sum((2, 3)) + bias for t in range(7)], 2
    )
    second = torch.relu(network.conv2(torch.relu(first)))
    pooled = torch.stack(
        [second[..., 2 * t : 2 * t + 2].amax(2) for t in range(3)], 2
    )  # the seventh step has no partner
    torch.testing.assert_close(network(sar), network.head(pooled.flatten(1)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", [RnnConfig(), CnnConfig()])
def test_only_mcnn_seq_has_a_teacher(config: NetworkConfig) -> None:
    with pytest.raises(ValueError, match="no teacher"):
        build_network(config)(torch.zeros(1, 31, 2), teacher=torch.zeros(1, 31))
    with pytest.raises(ValueError, match="teacher forcing"):
        NdviTrainingConfig(network=config, teacher_forcing=0.5)


@pytest.mark.parametrize("config", SMALL)
def test_a_configuration_survives_its_name_and_json(config: NetworkConfig) -> None:
    assert network_config(network_name(config), config.to_json()) == config
    training = NdviTrainingConfig(network=config, loss="likelihood" if config.has_sd else "huber")
    assert NdviTrainingConfig.from_json(training.to_json()) == training


def test_a_training_without_a_model_is_of_mcnn_seq() -> None:
    old = PAPER.to_json()
    del old["model"]
    assert NdviTrainingConfig.from_json(old) == PAPER


def test_choices_of_a_file_meet_the_defaults_of_the_network() -> None:
    assert NdviTrainingConfig.chosen() == NdviTrainingConfig()
    assert NdviTrainingConfig.chosen("rnn").network == RnnConfig(n_extra=2)
    plain = {"n_segments": 31, "n_extra": 0, "is_aligned": False, "branch_channels": [31, 62]}
    paper = {"batch_size": 500, "learning_rate": 1e-3, "optimiser": "rmsprop", "has_schedule": False, "loss": "squared"}
    assert NdviTrainingConfig.chosen("mcnn-seq", paper | {"network": plain}) == PAPER
    with pytest.raises(ValueError, match="epochs"):
        NdviTrainingConfig.chosen("cnn", {"epochs": 3})
    with pytest.raises(ValueError, match="hidden"):
        NdviTrainingConfig.chosen("cnn", {"network": {"hidden": 3}})


def test_what_is_unknown_is_named() -> None:
    with pytest.raises(ValueError, match=r"'gru'.*mcnn-seq, rnn, cnn"):
        network_config("gru")
    with pytest.raises(ValueError, match="widht"):
        network_config("rnn", '{"widht": 3}')


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("rnn", '{"n_layers": 0}'),
        ("rnn", '{"cell": "gru"}'),
        ("cnn", '{"n_segments": 1}'),
        ("cnn", '{"kernel_size": 0}'),
    ],
)
def test_an_impossible_shape_is_refused(name: str, wrong: str) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        network_config(name, wrong)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_each_network_is_trained_stored_and_read_by_its_name(name: str) -> None:
    rng = np.random.default_rng(0)
    parcel, day = np.repeat(np.arange(24), 30), np.tile(6.0 * np.arange(30), 24)
    ndvi = 0.5 + 0.3 * np.sin(day / 25 + parcel)
    orbit = np.full(len(day), 15)
    sar = SarSeries(parcel, day, orbit, orbit > 0, -12 + 5 * ndvi, -22 + 8 * ndvi + rng.normal(0, 0.1, len(day)))
    config = NdviTrainingConfig(
        network=replace(network_config(name), n_segments=16, n_extra=2), n_updates=60, batch_size=24, learning_rate=1e-2
    )
    model, scores = train_ndvi(sar, ClearSeries(parcel, day, ndvi), 24, np.arange(24) % 4 == 0, config)
    assert scores is not None
    assert scores.r2 > 0.5
    again = SarToNdvi.from_state(*model.state())
    assert type(again.network) is type(build_network(config.network))
    parcels, days = np.arange(24), np.arange(30, 120)
    daily = model.daily(sar, 24)
    np.testing.assert_array_equal(again.retrospective(daily, parcels, days), model.retrospective(daily, parcels, days))
