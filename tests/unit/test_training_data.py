"""Spatial blocks, the split by them, and the training that uses it."""

from datetime import date

import numpy as np
import pytest

from db.parcels import Parcel
from db.seasons import Season
from models.classifier.network import ModalityConfig
from models.classifier.normalisation import Observations
from training import season_models
from training.stored_season import TrainingData, blocks, hold_out, modality


def test_near_parcels_share_a_block_and_far_ones_do_not() -> None:
    got = blocks([5.7000, 5.7010, 5.80, 2.0], [52.7000, 52.7005, 52.70, 47.0])
    assert got[0] == got[1]
    assert len(set(got.tolist())) == 3


@pytest.mark.parametrize("seed", range(5))
def test_whole_blocks_are_held_out(seed: int) -> None:
    random = np.random.default_rng(seed)
    block, labels = random.integers(0, 30, 400), random.integers(0, 5, 400)
    held = hold_out(block, labels, 0.2, seed)
    assert not set(block[held]) & set(block[~held])
    assert 0.1 < held.mean() < 0.3


def test_the_split_is_the_same_every_time() -> None:
    block, labels = np.arange(100) // 5, np.arange(100) % 3
    assert np.array_equal(hold_out(block, labels, 0.2, 1), hold_out(block, labels, 0.2, 1))


@pytest.mark.parametrize("name", ["s1a", "s1d", "s1"])
def test_a_modality_of_radar_reads_both_polarisations_and_their_ratio(name: str) -> None:
    assert modality(name, np.zeros(0, "V1"), 8, has_sets=False).channels == ("VV", "VH", "VV-VH")


@pytest.mark.parametrize("name", ["l8", "S2", "s3"])
def test_a_modality_whose_channels_nobody_named_is_not_taken_for_radar(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.*no channels"):
        modality(name, np.zeros(0, "V1"), 8, has_sets=False)


def season_of_two_crops() -> TrainingData:
    """Forty parcels in twenty blocks, told apart by VV."""
    label, parcel = np.arange(40) % 2, np.repeat(np.arange(40), 3)
    pixels = (-10.0 - 3 * label[parcel] + 0.1 * np.arange(len(parcel)) % 1)[:, None, None].astype(np.float32)
    day = np.tile([50.0, 100.0, 150.0], 40).astype(np.float32)
    times = np.array([("2025-03-01",)], [("observed_at", "M8[us]")])
    parcels = [
        Parcel(i, "c", "2025", str(i), "r", 1.0, 400.0, 0.9, 5.0, 52.0, None, "1", "wheat", None) for i in range(40)
    ]
    return TrainingData(
        Season(1, "2025", date(2025, 1, 1), date(2025, 12, 31)),
        parcels,
        ("wheat", "beet"),
        label,
        {"1": "wheat"},
        np.arange(40) // 2,
        (ModalityConfig("s1a", ("VV",), 0.2, True, 1),),
        {"s1a": Observations(pixels, day, parcel, np.ones(len(parcel), np.int16))},
        np.tile([400.0, 1e4, 0.04, 0.9], (40, 1)),
        times,
        times,
    )


def test_the_product_trains_without_some_blocks_and_then_once_more_with_them() -> None:
    told: list[tuple[int, int]] = []
    data, usable = season_of_two_crops(), np.arange(40) < 36
    model = season_models.classifier(
        data,
        evaluation_dates=(date(2025, 4, 30),),
        is_usable=usable,
        epochs=3,
        progress=lambda epoch, of, _: told.append((epoch, of)),
    )
    assert told == [(epoch, 6) for epoch in range(1, 7)]
    assert model.temperature.day == (120.0,)
    assert model.about["n_training"] == 36
    assert model.scores["parcels"] == model.about["n_validation"] > 0
    once = season_models.classifier(data, is_usable=usable, epochs=3, is_refitted=False)
    assert once.about["n_training"] == 36 - model.about["n_validation"]
    assert once.scores["days"] == [127.0, 182.0, 237.0, 291.0, 364.0]  # 35 % to all of 364 days
