"""What was read of a batch's observations, which of it is to be folded into the classifier's states, and its encoding.

Shapes: P claimed parcels; N rows of a modality, by parcel and time; G acquisitions, a parcel at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from db.pixel_sets import pixel_sets, pixel_sets_within
from db.series import pass_series
from models.classifier import attention_state
from models.classifier.attention_state import State
from models.classifier.crop_model import CropModel
from models.classifier.normalisation import Observations
from monitor.batch import BatchContext
from monitor.features import geometry, packed, sensor_of, split_modalities, splits_of

FAR: Final = np.datetime64("9999-01-01", "us")
ACQUISITIONS_AT_ONCE: Final = 2**13
"""Acquisitions whose states are kept together: 1.2 kB for each sequence, several copies."""
NUMBERS_AT_ONCE: Final = 2**22
"""Numbers of pixel sets that are encoded together, the largest set counted for each: some 100 MB of working arrays."""
BYTES_AT_ONCE: Final = 2**25
"""Pixel sets that are read together; where they are more, only those that are encoded together are."""

_PASS: Final = np.dtype([("parcel_key", "i8"), ("observed_at", "M8[us]"), ("relative_orbit", "i2")])
_ACQUISITION: Final = np.dtype([("parcel_key", "i8"), ("observed_to", "M8[us]")])


@dataclass(frozen=True)
class Known:
    """The observations that were read of a claim, current revisions, by modality."""

    parcel_keys: NDArray[np.int64]
    """(P,) those of the claim."""
    all: Mapping[str, NDArray[np.void]]
    is_new: Mapping[str, NDArray[np.bool_]]
    """(N,) of passes of which any revision is pending."""
    n_known: Mapping[str, NDArray[np.int64]]
    """(P,) observations known of each modality, pending ones and those not read included."""
    first_pending: NDArray[np.datetime64]
    """(P,) the first pass of which anything is pending, `FAR` where there is none."""

    @classmethod
    def of(cls, batch: BatchContext, names: Sequence[str]) -> "Known":
        """Return what was read of some modalities."""
        claim, series = batch.claim, split_modalities(batch.s2, batch.s1)
        first = np.full(len(claim.parcel_keys), FAR)
        pending = claim.observations
        np.minimum.at(first, np.searchsorted(claim.parcel_keys, pending["parcel_key"]), pending["observed_at"])
        of_pending = {is_s2: _pass_keys(pending[pending["is_s2"] == is_s2]) for is_s2 in (True, False)}
        return cls(
            claim.parcel_keys,
            {name: series[name] for name in names},
            {name: _is_pending(batch, series[name], of_pending[name == "s2"]) for name in names},
            {name: batch.series.count([name]) for name in names},
            first,
        )

    def place(self, rows: NDArray[np.void]) -> NDArray[np.int64]:
        """Return (N,) the place of each row's parcel in the claim."""
        return np.searchsorted(self.parcel_keys, rows["parcel_key"])

    def counted(self, rows: NDArray[np.void]) -> NDArray[np.int64]:
        """Return (P,) how many rows there are of each parcel."""
        return np.bincount(self.place(rows), minlength=len(self.parcel_keys))

    def before(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Return (P,) observations of modalities that are known and of whose pass nothing is pending."""
        counts = np.zeros(len(self.parcel_keys), np.int64)
        for name in names:
            counts += self.n_known[name] - self.counted(self.all[name][self.is_new[name]])
        return counts

    def replaced(self, batch: BatchContext) -> dict[str, NDArray[np.void]]:
        """Return what was current before, of the passes of which anything is pending, of parcels whose work is not in order."""
        claim = batch.claim
        late = claim.observations[np.isin(claim.observations["parcel_key"], claim.parcel_keys[~batch.is_in_order])]
        s2, s1 = (
            _newest(rows[~claim.is_among(rows, is_s2)])
            for rows, is_s2 in zip(pass_series(batch.connection, late), (True, False), strict=True)
        )
        return {name: rows for name, rows in split_modalities(s2, s1).items() if name in self.all}

    def since(self, first: NDArray[np.datetime64]) -> dict[str, NDArray[np.void]]:
        """Return the rows from a time of each parcel (P,) on."""
        return {name: rows[rows["observed_at"] >= first[self.place(rows)]] for name, rows in self.all.items()}

    def later(self, replaced: Mapping[str, NDArray[np.void]]) -> dict[str, NDArray[np.void]]:
        """Return what the states hold of the time from the first pending pass on."""
        since = self.since(self.first_pending)
        old = {
            name: rows[~np.isin(_pass_keys(rows), _pass_keys(self.all[name][self.is_new[name]]))]
            for name, rows in since.items()
        }
        joined = {name: np.concatenate([rows, replaced[name]]) for name, rows in old.items()}
        return {name: np.sort(rows, order=["parcel_key", "observed_at"]) for name, rows in joined.items()}

    def keys_before_pending(self) -> NDArray[np.void]:
        """Return parcel and time of the acquisitions that were read and lie before all that is pending of their parcel."""
        rows = [rows[rows["observed_at"] < self.first_pending[self.place(rows)]] for rows in self.all.values()]
        return np.concatenate([acquisition_keys(one["parcel_key"], one["observed_at"]) for one in rows])


@dataclass(frozen=True)
class Acquisitions:
    """What is folded, by parcel and time."""

    parcel: NDArray[np.int64]
    """(G,) ascending, the place in the claim."""
    time: NDArray[np.datetime64]
    """(G,) ascending for each parcel."""
    of_row: Mapping[str, NDArray[np.int64]]
    """By modality, the acquisition of each row."""

    @classmethod
    def of(cls, known: Known, rows: Mapping[str, NDArray[np.void]]) -> "Acquisitions":
        """Return the acquisitions of rows by modality."""
        parcel = np.concatenate([known.place(one) for one in rows.values()])
        time = np.concatenate([one["observed_at"] for one in rows.values()]).astype(np.int64)
        order = np.lexsort((time, parcel))
        parcel, time = parcel[order], time[order]
        is_first = (np.diff(parcel, prepend=-1) != 0) | (np.diff(time, prepend=-1) != 0)
        which = np.empty(len(order), np.int64)
        which[order] = np.cumsum(is_first) - 1
        bounds = np.cumsum([len(one) for one in rows.values()])[:-1]
        return cls(
            parcel[is_first], time[is_first].astype("M8[us]"), dict(zip(rows, np.split(which, bounds), strict=True))
        )

    @property
    def last(self) -> NDArray[np.int64]:
        """Return the last acquisition of each parcel that has one."""
        return np.flatnonzero(np.diff(self.parcel, append=-1) != 0)

    def of_whole_parcels(self, most: int) -> Iterator[slice]:
        """Yield acquisitions of some parcels at a time: as many parcels as have at most so many, or one."""
        begin, ends = 0, self.last + 1
        while begin < len(self.parcel):
            nth = int(np.searchsorted(ends, begin + most, side="right"))
            end = int(ends[max(nth - 1, int(np.searchsorted(ends, begin, side="right")))])
            yield slice(begin, end)
            begin = end


def folded(
    batch: BatchContext,
    model: CropModel,
    acquired: Acquisitions,
    rows: Mapping[str, NDArray[np.void]],
    start: Mapping[str, State],
) -> Iterator[tuple[slice, dict[str, State]]]:
    """Yield some parcels' acquisitions and the states after each, with all before it folded into `start` (P).

    A season of states is kept of some parcels at a time: of a batch it would be gigabytes.
    """
    for some in acquired.of_whole_parcels(ACQUISITIONS_AT_ONCE):
        parcel = acquired.parcel[some]
        of = torch.from_numpy(parcel).to(model.device)
        if (np.diff(parcel) != 0).all():  # one of each: it is folded as it is encoded
            begun = {name: state.take(of) for name, state in start.items()}
            yield some, _encoded(batch, model, acquired, rows, some, begun)
        else:
            each = _encoded(batch, model, acquired, rows, some, {})
            yield some, {name: attention_state.prefixes(start[name], state, of) for name, state in each.items()}


def _encoded(
    batch: BatchContext,
    model: CropModel,
    acquired: Acquisitions,
    rows: Mapping[str, NDArray[np.void]],
    some: slice,
    begun: Mapping[str, State],
) -> dict[str, State]:
    """Return the states of some acquisitions, each folded into its own (of `begun`, empty where there is none).

    Pixel sets are read and encoded in as many parts as their sizes ask for: a set may hold thousands of pixels.
    """
    mine = {name: np.flatnonzero((of >= some.start) & (of < some.stop)) for name, of in acquired.of_row.items()}
    sets: dict[str, pa.BinaryArray | None] = {}
    numbers = np.zeros(some.stop - some.start, np.int64)  # of the largest pixel set of each acquisition
    for one in model.config.modalities:
        if one.pixels > 1:
            sizes, sets[one.name] = pixel_sets_within(
                batch.connection, sensor_of(one.name), rows[one.name][mine[one.name]], BYTES_AT_ONCE
            )
            np.maximum.at(numbers, acquired.of_row[one.name][mine[one.name]] - some.start, sizes // 2)
    states = []
    for begin, end in _parts(numbers, some.start):
        observations: dict[str, Observations] = {}
        for one in model.config.modalities:
            of = acquired.of_row[one.name][mine[one.name]]
            part = np.flatnonzero((of >= begin) & (of < end))
            own, stored = rows[one.name][mine[one.name][part]], sets.get(one.name)
            if stored is not None:
                stored = stored.take(pa.array(part))
            elif one.name in sets:
                stored = pixel_sets(batch.connection, sensor_of(one.name), own)
            if stored is not None and sensor_of(one.name) == "S2":
                batch.splits.append((own, splits_of(stored)))  # while they are at hand
            observations[one.name] = packed(one, own, of[part] - begin, batch.season.starts_on, stored)
        shapes, parcel = batch.parcels, acquired.parcel[begin:end]
        shape = geometry(shapes.perimeter_m, shapes.area_ha, shapes.bbox_fill)[parcel]
        encoder_input = model.batch(observations, shape).to(model.device)
        mine_begun = {name: state.take(slice(begin - some.start, end - some.start)) for name, state in begun.items()}
        empty = model.network.initial_states(end - begin, model.device, mine_begun)
        states.append(model.encode(encoder_input, empty, batch.fold_of(parcel)))
    return {name: attention_state.concatenate([one[name] for one in states]) for name in states[0]}


def _parts(numbers: NDArray[np.int64], first: int) -> Iterator[tuple[int, int]]:
    """Yield begin and end of as many acquisitions as are encoded together, counted from `first`; `numbers` of their largest sets."""
    begin = largest = 0
    for nr, n in enumerate(numbers.tolist()):
        largest = max(largest, n)
        if nr > begin and largest * (nr + 1 - begin) > NUMBERS_AT_ONCE:
            yield first + begin, first + nr
            begin, largest = nr, n
    yield first + begin, first + len(numbers)


def acquisition_keys(parcel_key: NDArray[np.int64], time: NDArray[np.datetime64]) -> NDArray[np.void]:
    """Return (G,) parcel and time of acquisitions as one value that can be compared and sorted."""
    keys = np.empty(len(parcel_key), _ACQUISITION)
    keys["parcel_key"], keys["observed_to"] = parcel_key, time
    return keys


def _is_pending(batch: BatchContext, rows: NDArray[np.void], passes: NDArray[np.void]) -> NDArray[np.bool_]:
    """Return (N,) whether anything is pending of the pass of each row."""
    is_pending = batch.is_in_order[np.searchsorted(batch.claim.parcel_keys, rows["parcel_key"])]  # all that was read
    is_pending[~is_pending] = np.isin(_pass_keys(rows[~is_pending]), passes)
    return is_pending


def _pass_keys(rows: NDArray[np.void]) -> NDArray[np.void]:
    """Return (N,) parcel, time and orbit of rows as one value that can be compared."""
    keys = np.empty(len(rows), _PASS)
    for name in _PASS.names or ():
        keys[name] = rows[name]
    return keys


def _newest(rows: NDArray[np.void]) -> NDArray[np.void]:
    """Return the newest revision of each pass, none of a pass that is withdrawn by it; rows by parcel, pass and revision."""
    keys = _pass_keys(rows)
    is_newest = np.append(keys[1:] != keys[:-1], np.ones(min(len(rows), 1), bool))
    current: NDArray[np.void] = rows[is_newest & ~rows["is_withdrawn"]]
    return current
