"""Decoded blocks that windows share: the raster's own pixels, each block read once, no more kept than said."""

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ingest.imagery.blocks import Blocks

SIZE = 700, 900
PIXELS = np.random.default_rng(1).integers(0, 2**16, SIZE).astype(np.uint16)


class Counted:
    """Reads a part of the pixels and counts how often each is read."""

    def __init__(self) -> None:
        self.reads: Counter[tuple[int, int, int, int]] = Counter()

    def __call__(self, top: int, left: int, bottom: int, right: int) -> NDArray[Any]:
        self.reads[top, left, bottom, right] += 1
        return PIXELS[top:bottom, left:right].copy()


@given(
    block=st.tuples(st.sampled_from([1, 64, 128, 200, 512, 1024]), st.sampled_from([128, 256, 512, 900])),
    windows=st.lists(st.tuples(st.integers(0, 699), st.integers(0, 899), st.integers(1, 500)), max_size=20),
)
def test_a_window_of_shared_blocks_holds_the_rasters_own_pixels(
    block: tuple[int, int], windows: list[tuple[int, int, int]]
) -> None:
    read = Counted()
    shared = Blocks(read, block, SIZE)
    for top, left, side in windows:
        bottom, right = min(top + side, SIZE[0]), min(left + side, SIZE[1])
        assert np.array_equal(shared.read(top, left, bottom, right), PIXELS[top:bottom, left:right])
    if block[0] >= 128:
        assert set(read.reads.values()) <= {1}, "none twice"


def test_of_blocks_that_no_window_touches_none_is_read() -> None:
    read = Counted()
    shared = Blocks(read, (256, 256), SIZE)
    shared.read(300, 300, 340, 340)
    shared.read(310, 520, 350, 560)
    assert list(read.reads) == [(256, 256, 512, 512), (256, 512, 512, 768)]


def test_of_strips_only_the_windows_rows_are_read() -> None:
    read = Counted()
    Blocks(read, (1, 900), SIZE).read(300, 300, 340, 340)
    assert list(read.reads) == [(300, 300, 340, 340)]


def test_no_more_is_kept_than_said() -> None:
    read = Counted()
    shared = Blocks(read, (128, 128), SIZE, 3 * 128 * 128 * 2)
    for left in (0, 128, 256, 384, 384, 256, 0):
        shared.read(0, left, 10, left + 10)
    assert read.reads[0, 384, 128, 512] == read.reads[0, 256, 128, 384] == 1, "those used last are kept"
    assert read.reads[0, 0, 128, 128] == 2
    whole = shared.read(0, 0, 700, 900)
    assert np.array_equal(whole, PIXELS), "a window larger than what is kept is whole all the same"
