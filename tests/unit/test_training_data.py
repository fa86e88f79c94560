"""Spatial blocks and the split by them."""

import numpy as np
import pytest

from db.parcels import Parcel
from monitor.training_data import blocks, hold_out


def parcel(lon: float, lat: float) -> Parcel:
    return Parcel(1, "c", "2025", "p", "r", 1.0, 400.0, 0.9, lon, lat, None, "1", "wheat", None)


def test_near_parcels_share_a_block_and_far_ones_do_not() -> None:
    near, far = [parcel(5.7000, 52.7000), parcel(5.7010, 52.7005)], [parcel(5.80, 52.70), parcel(2.0, 47.0)]
    got = blocks(near + far)
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
