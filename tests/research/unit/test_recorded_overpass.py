"""Pass times and directions against annotations of real products, and their blocked folds."""

from datetime import UTC, date, datetime, timedelta

import pytest

from research.seasons.overpass import direction, sentinel1_pass, sentinel1_platform, sentinel2_pass
from training.folds import blocked_folds


@pytest.mark.parametrize(
    ("orbit", "longitude", "latitude", "seen"),
    [
        (88, 5.0, 51.0, datetime(2018, 4, 5, 17, 24, 29, tzinfo=UTC)),  # S1A, absolute orbit 21335, the Netherlands
        (95, 11.5, 41.5, datetime(2015, 3, 5, 5, 19, 37, tzinfo=UTC)),  # S1A, absolute orbit 4892, Italy
    ],
)
def test_sentinel1_passes_when_real_products_start(
    orbit: int, longitude: float, latitude: float, seen: datetime
) -> None:
    computed = sentinel1_pass(seen.date(), orbit, longitude, latitude)
    assert abs(computed - seen) < timedelta(minutes=1)
    assert sentinel1_platform(seen.date(), orbit) == "S1A"


def test_the_other_satellite_is_six_days_away() -> None:
    assert sentinel1_platform(date(2018, 4, 11), 88) == "S1B"
    assert sentinel1_platform(date(2025, 8, 19), 88) == "S1C"  # 2018-04-11 + 224 cycles of 12 days


@pytest.mark.parametrize(
    ("orbit", "half"), [(15, "ascending"), (88, "ascending"), (37, "descending"), (110, "descending")]
)
def test_orbits_over_the_netherlands(orbit: int, half: str) -> None:
    assert direction(orbit, 5.7) == half


def test_sentinel2_passes_the_netherlands_before_eleven() -> None:
    assert abs(sentinel2_pass(date(2023, 6, 1), 5.7, 52.7) - datetime(2023, 6, 1, 10, 50, tzinfo=UTC)) < timedelta(
        minutes=10
    )


def test_folds_keep_blocks_whole_and_spread_each_class() -> None:
    blocks = [f"{nr // 4}" for nr in range(40)]  # ten blocks of four
    labels = ["wheat" if nr // 4 < 5 else "maize" for nr in range(40)]
    folds = blocked_folds(blocks, labels)
    for label in ("wheat", "maize"):
        counts = [sum(f == fold and one == label for f, one in zip(folds, labels, strict=True)) for fold in range(5)]
        assert counts == [4] * 5
    assert len({(block, fold) for block, fold in zip(blocks, folds, strict=True)}) == 10


def test_folds_do_not_depend_on_the_order_of_parcels() -> None:
    blocks, labels = ["a", "b", "c", "b", "a", "d"], ["x", "y", None, "x", "x", None]
    forwards = dict(zip(blocks, blocked_folds(blocks, labels), strict=True))
    backwards = dict(zip(blocks[::-1], blocked_folds(blocks[::-1], labels[::-1]), strict=True))
    assert forwards == backwards
