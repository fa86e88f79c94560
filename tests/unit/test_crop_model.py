"""A crop model at rest: every scheme and normalisation comes back from its checkpoint as it was."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.checkpoint import CheckpointError, pack, unpack
from models.classifier.calibration import Temperature
from models.classifier.crop_model import CropModel
from models.classifier.ltae import LtaeConfig, Norm
from models.classifier.network import ClassifierConfig, ConfigError, Fusion, ModalityConfig, PseLtae
from models.classifier.normalisation import ChannelStatistics, ModalityStatistics, Normaliser, Observations

MODALITIES = (ModalityConfig("s2", ("NDVI",)), ModalityConfig("s1a", ("VV", "VH"), is_per_orbit=True))
GEOMETRY = np.array([[400.0, 1e4, 0.04, 1.0], [800.0, 4e4, 0.02, 0.8]])


def crop_model(fusion: Fusion, norm: Norm) -> CropModel:
    torch.manual_seed(0)
    config = ClassifierConfig(MODALITIES, ("wheat", "beet", "grass"), ltae=LtaeConfig(norm=norm), fusion=fusion)
    statistics = {
        one.name: ModalityStatistics(ChannelStatistics((0.5,) * len(one.channels), (2.0,) * len(one.channels)))
        for one in MODALITIES
    }
    normaliser = Normaliser(statistics, ChannelStatistics((0.0,) * 4, (1.0,) * 4))
    return CropModel(PseLtae(config).eval(), normaliser, Temperature(), {}, {"season": "2023"})


def observations() -> dict[str, Observations]:
    random = np.random.default_rng(0)
    day, orbit = np.array([0, 50, 100], np.float32), np.array([15, 110, 15], np.int16)
    return {
        one.name: Observations(
            random.normal(size=(3, len(one.channels), 4)).astype(np.float32), day, np.array([0, 0, 1]), orbit
        )
        for one in MODALITIES
    }


@pytest.mark.parametrize("fusion", ["early", "mid", "late", "decision"])
@pytest.mark.parametrize("norm", ["none", "date", "season"])
def test_a_model_of_any_scheme_comes_back(fusion: Fusion, norm: Norm) -> None:
    model = crop_model(fusion, norm)
    checkpoint = model.to_checkpoint()
    assert json.loads(checkpoint.description)["config"]["fusion"] == fusion
    back = CropModel.from_checkpoint(checkpoint)
    assert back.config == model.config
    batch, day = model.batch(observations(), GEOMETRY), np.array([50.0, 100.0])
    expected = model.posteriors(model.encode(batch), day)
    np.testing.assert_allclose(expected.sum(1), 1, atol=1e-6)
    for one in (back, back.for_inference()):
        np.testing.assert_allclose(one.posteriors(one.encode(batch), day), expected, atol=1e-5)
        states = one.encode(batch.until(60))
        if one.config.is_streaming:
            news = replace(batch, series={name: s.take(s.day > 60) for name, s in batch.series.items()})
            np.testing.assert_allclose(one.posteriors(one.encode(news, states), day), expected, atol=1e-5)
        else:
            with pytest.raises(ConfigError, match="cannot stream"):
                one.encode(batch, states)


def test_a_checkpoint_of_another_version_is_named() -> None:
    weights, description = unpack(crop_model("late", "none").to_checkpoint())
    config = {name: one for name, one in description["config"].items() if name != "fusion"}
    with pytest.raises(CheckpointError, match=r"configuration of model .* cannot be read: .*'fusion'"):
        CropModel.from_checkpoint(pack(weights, {**description, "config": config}))


def test_a_configuration_reads_as_a_line() -> None:
    assert str(crop_model("mid", "none").config) == "s2, s1a in mid fusion, 3 classes"
    assert str(ClassifierConfig(MODALITIES[:1], ("a", "b"), fusion="mid")) == "s2, 2 classes"
