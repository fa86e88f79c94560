"""Acquisitions are encoded some at a time: each once, in their order, whole parcels, never more than is asked for but by one."""

import numpy as np
import pytest

from monitor import acquisitions
from monitor.acquisitions import Acquisitions


@pytest.mark.parametrize("most", [1, 3, 5, 100])
def test_acquisitions_are_taken_by_whole_parcels(most: int) -> None:
    parcel = np.repeat([0, 2, 3, 7], [2, 4, 1, 3])
    some = list(Acquisitions(parcel, np.zeros(len(parcel), "M8[us]"), {}).of_whole_parcels(most))
    assert [nr for one in some for nr in range(one.start, one.stop)] == list(range(10))
    groups = [set(parcel[one]) for one in some]
    assert sum(map(len, groups)) == 4
    assert all(one.stop - one.start <= most or len(group) == 1 for one, group in zip(some, groups, strict=True))


def test_no_acquisitions_are_no_parts() -> None:
    nothing = Acquisitions(np.zeros(0, np.int64), np.zeros(0, "M8[us]"), {})
    assert list(nothing.of_whole_parcels(5)) == []


def test_large_pixel_sets_are_encoded_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acquisitions, "NUMBERS_AT_ONCE", 10)
    numbers = np.array([1] * 10 + [5, 5, 5, 50, 0, 3, 3, 3, 3])
    parts = list(acquisitions._parts(numbers, 100))
    assert parts == [(100, 110), (110, 112), (112, 113), (113, 114), (114, 117), (117, 119)]
