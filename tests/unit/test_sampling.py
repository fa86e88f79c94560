"""Training batches: what is drawn is the parcels' own, standardised after the drawing, and prepared ahead in order."""

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.classifier.network import ModalityConfig
from models.classifier.normalisation import Normaliser, Observations
from models.classifier.sampling import PackedParcels, Thinning, ahead, sample

PARCELS = 20
MODALITIES = (ModalityConfig("s2", ("a", "b"), 0.4, pixels=3), ModalityConfig("s1a", ("VV",), 0.2, True, pixels=1))
WHOLE = Thinning(modality_dropout=0.0, whole_season=1.0, season_shift=0.0)
GEOMETRY = np.tile([400.0, 1e4, 0.04, 0.9], (PARCELS, 1))


def observations(nodata: int | None = -32768) -> dict[str, Observations]:
    """Stored integers: the hundreds are the parcel, the units the date; every third date shows two of five pixels."""

    def modality(dates: int, channels: int, size: int) -> Observations:
        parcel = np.repeat(np.arange(PARCELS), dates)
        date = np.tile(np.arange(dates), PARCELS)
        raw = np.broadcast_to((100 * parcel + date)[:, None, None], (len(parcel), channels, size)).astype(np.int16)
        if nodata is not None and size > 2:
            raw[date % 3 == 0, :, 2:] = nodata
        orbit = np.zeros(len(parcel), np.int16)
        return Observations(raw, date.astype(np.float32), parcel, orbit, scale=0.01, nodata=nodata)

    return {"s2": modality(9, 2, 5), "s1a": modality(6, 1, 1)}


@pytest.fixture
def normaliser() -> Normaliser:
    return Normaliser.fit(observations(), GEOMETRY, np.ones(PARCELS, bool))


@pytest.fixture
def parcels(normaliser: Normaliser) -> PackedParcels:
    return PackedParcels.of(normaliser, observations(), GEOMETRY)


def test_a_drawn_batch_keeps_what_it_promises(parcels: PackedParcels) -> None:
    random, some = torch.Generator().manual_seed(0), torch.tensor([7, 3, 15])
    for _ in range(30):
        drawn = sample(parcels, some, MODALITIES, Thinning(modality_dropout=0.9), random)
        assert drawn.series["s2"].pixels.shape[1:] == (2, 3)
        dates = sum(torch.bincount(one.parcel, minlength=3) for one in drawn.series.values())
        assert (torch.as_tensor(dates) > 0).all()
        for one in drawn.series.values():
            assert (one.parcel.diff() >= 0).all()
            assert bool(one.valid.any(1).all())
            assert (one.pixels.masked_select(~one.valid[:, None]) == 0).all()


def test_valid_pixels_are_drawn_first_and_are_the_parcels_own(normaliser: Normaliser, parcels: PackedParcels) -> None:
    some = torch.tensor([7, 3])
    whole = tuple(ModalityConfig(one.name, one.channels, 0.0, pixels=one.pixels) for one in MODALITIES)
    drawn = sample(parcels, some, whole, WHOLE, torch.Generator().manual_seed(0)).series["s2"]
    assert drawn.valid.sum(1).tolist() == [2, 3, 3] * 6  # two are valid of every third date's five
    statistics = normaliser.modalities["s2"].overall
    value = drawn.pixels[:, 0, :] * statistics.sd[0] + statistics.mean[0]
    expected = some[drawn.parcel] + drawn.day / 100
    torch.testing.assert_close(value[drawn.valid], expected[:, None].expand(-1, 3)[drawn.valid], atol=1e-3, rtol=0)


def test_co_located_sets_are_drawn_at_the_same_places_on_all_dates_of_all_modalities() -> None:
    """The stored value is the place."""

    def modality(dates: int) -> Observations:
        parcel = np.repeat(np.arange(PARCELS), dates)
        raw = np.broadcast_to(np.arange(8), (len(parcel), 1, 8)).astype(np.int16)
        day = np.tile(np.arange(dates, dtype=np.float32), PARCELS)
        return Observations(raw, day, parcel, np.zeros(len(parcel), np.int16), scale=1.0, nodata=-1)

    observed = {"s2": modality(5), "s1a": modality(3)}
    pairs = tuple(ModalityConfig(name, ("x",), 0.0, pixels=3, is_co_located=name == "s1a") for name in observed)
    known = Normaliser.fit(observed, GEOMETRY, np.ones(PARCELS, bool))
    packed = PackedParcels.of(known, observed, GEOMETRY)
    drawn = sample(packed, torch.arange(PARCELS), pairs, WHOLE, torch.Generator().manual_seed(1)).series
    first = drawn["s2"].pixels[::5, 0]  # (P, 3)
    for one in drawn.values():
        torch.testing.assert_close(one.pixels[:, 0], first[one.parcel])
    assert (first != first[0]).any()


def test_a_subset_is_what_the_whole_holds_of_it(normaliser: Normaliser, parcels: PackedParcels) -> None:
    batch, taken = normaliser.batch(observations(), GEOMETRY), parcels.take(torch.tensor([7, 3]))
    for name, one in batch.series.items():
        assert taken.series[name].pixels.equal(torch.cat([one.pixels[one.parcel == 7], one.pixels[one.parcel == 3]]))
        assert torch.bincount(taken.series[name].parcel).tolist() == [int((one.parcel == 7).sum())] * 2


def test_a_season_is_moved_as_a_whole_and_its_anomalies_are_those_of_the_moved_days() -> None:
    observed = observations()
    known = Normaliser.fit(observed, GEOMETRY, np.ones(PARCELS, bool), (), list(observed))
    packed = PackedParcels.of(known, observed, GEOMETRY)
    whole = tuple(ModalityConfig(one.name, one.channels, 0.0, pixels=5, has_anomalies=True) for one in MODALITIES)
    moved = Thinning(0.0, 1.0, season_shift=4.0)
    drawn = sample(packed, torch.arange(PARCELS), whole, moved, torch.Generator().manual_seed(0)).series
    later = drawn["s2"].day.view(PARCELS, -1)[:, 0]
    assert later.std() > 2
    for name, one in drawn.items():
        day = torch.from_numpy(observed[name].day)
        torch.testing.assert_close(one.day, day + later[one.parcel])
        asked = replace(observed[name], day=one.day.numpy())
        assert known.series(name, asked).pixels.equal(one.pixels)
        assert not known.series(name, observed[name]).pixels.equal(one.pixels)


def test_a_cut_season_is_its_beginning_in_every_modality(parcels: PackedParcels) -> None:
    whole = tuple(ModalityConfig(one.name, one.channels, 0.0) for one in MODALITIES)
    drawn = sample(
        parcels, torch.arange(PARCELS), whole, Thinning(0.0, 0.0, season_shift=0.0), torch.Generator().manual_seed(0)
    )
    s2, s1 = (torch.bincount(drawn.series[name].parcel, minlength=PARCELS) for name in ("s2", "s1a"))
    assert s1.equal(s2.clamp(max=6))  # days 0 to 8 and 0 to 5, cut at one day
    assert len(set(s2.tolist())) > 4
    days = torch.cat([torch.arange(int(count)) for count in s2])
    assert drawn.series["s2"].day.equal(days.float())


def test_what_is_prepared_ahead_comes_in_order_and_its_error_is_raised() -> None:
    assert list(ahead(iter(range(20)))) == list(range(20))

    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    prepared = ahead(broken())
    assert next(prepared) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(prepared)


def test_the_next_one_is_prepared_while_the_current_one_is_used() -> None:
    made: list[int] = []

    def slow() -> Iterator[int]:
        for item in range(5):
            made.append(item)
            yield item

    prepared = ahead(slow(), depth=2)
    next(prepared)
    deadline = time.monotonic() + 10
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == [0, 1, 2]
