"""Checkpoints: round trip, an id of the content, and refusal of what was changed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.checkpoint import Checkpoint, CheckpointError, content_hash, pack, unpack
from models.classifier.attention_state import StateModelError
from models.classifier.calibration import Temperature
from models.classifier.crop_model import CropModel
from models.classifier.network import ClassifierConfig, ModalityConfig, PseLtae
from models.classifier.normalisation import ChannelStatistics, ModalityStatistics, Normaliser, Observations

WEIGHTS = {"b": torch.arange(6.0).view(2, 3).t(), "a": torch.tensor(3)}
GEOMETRY = np.array([[400.0, 1e4, 0.04, 1.0], [800.0, 4e4, 0.02, 0.8]])


def crop_model() -> CropModel:
    """A small model with statistics of three orbits, whose numbers sort otherwise as text."""
    torch.manual_seed(0)
    one = ChannelStatistics((0.0, 1.0), (1.0, 2.0))
    return CropModel(
        PseLtae(ClassifierConfig((ModalityConfig("s1a", ("VV", "VH"), 0.2, True),), ("a", "b"))).eval(),
        Normaliser(
            {"s1a": ModalityStatistics(one, {15: one, 88: one, 110: one})}, ChannelStatistics((0.0,) * 4, (1.0,) * 4)
        ),
        Temperature((0.0, 100.0), (2.0, 1.5)),
        {"macro_f1": [0.5]},
        {"season": "2023"},
    )


def observations() -> dict[str, Observations]:
    pixels = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)
    day, orbit = np.array([0, 50, 100], np.float32), np.array([15, 110, 15], np.int16)
    return {"s1a": Observations(pixels, day, np.array([0, 0, 1]), orbit)}


def test_weights_and_description_come_back() -> None:
    checkpoint = pack(WEIGHTS, {"kind": "x", "orbits": {15: 1, 110: 2}})
    state, description = unpack(checkpoint)
    assert state.keys() == WEIGHTS.keys()
    assert all(state[name].equal(WEIGHTS[name]) for name in state)
    assert description == {"kind": "x", "orbits": {"15": 1, "110": 2}, "model": checkpoint.model}


def test_the_id_is_of_the_content() -> None:
    first = pack(WEIGHTS, {"kind": "x"}).model
    assert len(first) == 64
    assert pack(dict(reversed(WEIGHTS.items())), {"kind": "x", "model": "whatever"}).model == first
    assert pack({**WEIGHTS, "a": torch.tensor(4)}, {"kind": "x"}).model != first
    assert pack({**WEIGHTS, "b": WEIGHTS["b"].reshape(2, 3)}, {"kind": "x"}).model != first
    assert pack(WEIGHTS, {"kind": "y"}).model != first
    assert content_hash(WEIGHTS, {"kind": "x"}) == first


def test_what_was_changed_is_refused() -> None:
    checkpoint, other = pack(WEIGHTS, {"kind": "x"}), pack({"a": torch.zeros(1)}, {"kind": "x"})
    for broken, message in (
        (replace(checkpoint, description=other.description), "one was changed"),
        (replace(checkpoint, description=checkpoint.description.replace('"x"', '"y"')), "one was changed"),
        (replace(checkpoint, weights=checkpoint.weights[:-40]), "cannot be read"),
        (replace(checkpoint, weights=b""), "cannot be read"),
        (replace(checkpoint, description="{"), "not JSON"),
        (replace(checkpoint, description="[]"), "names no model"),
    ):
        with pytest.raises(CheckpointError, match=message):
            unpack(broken)


def test_a_pickled_module_is_refused() -> None:
    import io

    buffer = io.BytesIO()
    torch.save(torch.nn.Linear(1, 1), buffer)
    with pytest.raises(CheckpointError, match="cannot be read"):
        unpack(Checkpoint(buffer.getvalue(), '{"model": "x"}'))


def test_a_crop_model_comes_back_whole() -> None:
    model = crop_model()
    checkpoint = model.to_checkpoint()
    back = CropModel.from_checkpoint(checkpoint)
    assert back.model == checkpoint.model
    assert (back.config, back.normaliser, back.temperature) == (model.config, model.normaliser, model.temperature)
    assert (back.scores, back.about) == (model.scores, model.about)
    day = np.array([50.0, 100.0])
    batch = model.batch(observations(), GEOMETRY)
    expected = model.posteriors(model.encode(batch), day)
    for one in (back, back.for_inference()):
        np.testing.assert_allclose(one.posteriors(one.encode(batch), day), expected, atol=1e-6)
    assert back.to_checkpoint().model == checkpoint.model
    with pytest.raises(StateModelError):
        back.posteriors(model.encode(batch), day)


def test_a_crop_model_that_cannot_be_stored_or_is_another_kind_is_refused() -> None:
    model = crop_model()
    with pytest.raises(CheckpointError, match="folded"):
        model.for_inference().to_checkpoint()
    weights, description = unpack(model.to_checkpoint())
    with pytest.raises(CheckpointError, match="of kind 'mcnn', not 'pse-ltae'"):
        CropModel.from_checkpoint(pack(weights, {**description, "kind": "mcnn"}))
    weights.pop("decoder.4.bias")
    with pytest.raises(CheckpointError, match="do not fit"):
        CropModel.from_checkpoint(pack(weights, description))
