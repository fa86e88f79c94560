"""Playable seasons in memory: the newest revisions, the true crops, folds that split no block."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from research.experiments.season_source import labelled, simulated
from research.seasons.outcome import GROWN_NAME
from research.simulator import Acquisition, Season, SimulatorConfig, simulate_season
from training.labelled import LabelledParcels

CONFIG = SimulatorConfig(n_parcels=60, n_pixels=4, s1_every_d=12, s1_orbits=1, lost=0.0)


@pytest.fixture(scope="module")
def season() -> Season:
    return simulate_season(CONFIG)


@pytest.fixture(scope="module")
def data(season: Season) -> LabelledParcels:
    return simulated(season, min_parcels=5)


def test_labels_are_the_true_crops(season: Season, data: LabelledParcels) -> None:
    truth = season.truth.parcels
    names = truth["grown"].map(GROWN_NAME).to_numpy()
    assert (names[data.is_labelled] == np.array(data.classes)[data.labels[data.is_labelled]]).all()
    assert (truth["declared"] != truth["grown"]).any()  # so that the test can tell
    assert not data.is_labelled[~truth["is_monitorable"]].any()
    assert np.bincount(data.labels[data.is_labelled]).min() >= 5


def test_folds_split_no_block(data: LabelledParcels) -> None:
    assert set(data.fold.tolist()) == {1, 2, 3, 4, 5}
    for block in np.unique(data.block):
        assert len(set(data.fold[data.block == block].tolist())) == 1


def test_observations_are_packed_as_the_networks_take_them(data: LabelledParcels) -> None:
    assert [one.name for one in data.modalities] == ["s2", "s1a", "s1d"]
    assert [len(one.channels) for one in data.modalities] == [10, 3, 3]
    for one in data.observations.values():
        assert (np.diff(one.parcel) >= 0).all()
        assert one.pixels.shape[2] == 4
        same = np.diff(one.parcel) == 0
        assert (np.diff(one.day)[same] >= 0).all()
    assert data.scored_on[-1] == (season_end := (CONFIG.span[1] - CONFIG.span[0]).days + 1)
    assert max(one.day.max() for one in data.observations.values()) < season_end


class Revised:
    """A season of two parcels: one S2 pass, revised later, and one that is withdrawn."""

    def __init__(self, season: Season) -> None:
        self.name, self.starts_on, self.ends_on = season.name, season.starts_on, season.ends_on
        first = next(one for one in season.acquisitions() if one.sensor == "s2" and one.table.num_rows > 1)
        ids = first.table["parcel_id"].to_pylist()[:2]
        self.parcels = season.parcels[season.parcels["parcel_id"].isin(ids)]
        frame = first.table.slice(0, 2)
        newer = self._changed(frame, revision=1, B02=[0.5, 0.5], pixels=[None, None])
        self.passes = [
            replace_table(first, table)
            for table in (frame, newer, self._changed(newer.slice(0, 1), revision=2, is_withdrawn=[True]))
        ]

    def acquisitions(self) -> list[Acquisition]:
        return self.passes

    @staticmethod
    def _changed(table: pa.Table, revision: int, **columns: list[object]) -> pa.Table:
        for name, values in {**columns, "revision": [revision] * table.num_rows}.items():
            field = table.schema.field(name)
            table = table.set_column(table.schema.get_field_index(name), field, pa.array(values, field.type))
        return table


def replace_table(one: Acquisition, table: pa.Table) -> Acquisition:
    return one._replace(table=table)


def test_of_revisions_the_newest_counts_and_a_withdrawn_one_is_gone(season: Season) -> None:
    revised = Revised(season)
    ids = revised.parcels["parcel_id"].tolist()
    labels = pd.DataFrame({"parcel_id": ids, "label": ["a", "b"], "block": ["x", "y"], "fold": [0, 1]})
    s2 = labelled("revised", revised, labels, [season.ends_on]).observations["s2"]  # type: ignore[arg-type]
    kept = revised.passes[0].table["parcel_id"].to_pylist()[1]
    assert s2.parcel.tolist() == [ids.index(kept)]
    assert s2.pixels[0, 0, 0] == pytest.approx(0.5)


def test_the_same_season_gives_the_same_parcels(season: Season, data: LabelledParcels) -> None:
    again = simulated(replace(season), min_parcels=5)
    for name, one in data.observations.items():
        np.testing.assert_array_equal(one.pixels, again.observations[name].pixels)
