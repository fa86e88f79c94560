"""A stored season as training data: labelled parcels, spatial blocks, observations of every modality that has any."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from db import recording
from db.connect import Connection
from db.parcels import Parcel, load_parcels
from db.pixel_sets import has_pixel_sets
from db.seasons import Season
from db.sensors import S2_BANDS
from db.series import s1_series, s2_series
from models.classifier.cross_fitted import cells
from models.classifier.network import ModalityConfig
from models.classifier.normalisation import Observations
from monitor.features import geometry, means, observations, sensor_of, split_modalities
from terminal.errors import UserError

S2_INDICES: Final = ("NDVI", "NDVI_SD", "NBR2", "BSI", "S2WI")
RADAR: Final = ("s1a", "s1d", "s1")
BLOCK_M: Final = 1500.0
"""Side of a spatial block: neighbouring fields share soil, weather and cloud, so they must not be split."""


class NothingToLearn(UserError):
    """The season holds too little to train on; the caller stops and shows what is missing."""


@dataclass(frozen=True)
class TrainingData:
    """Labelled parcels of a season with their observations in memory."""

    season: Season
    parcels: Sequence[Parcel]
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    """(P,) index into classes."""
    class_of: Mapping[str, str]
    """Class of each declared crop code that occurs."""
    blocks: NDArray[np.int64]
    """(P,) number of each parcel's spatial block."""
    modalities: tuple[ModalityConfig, ...]
    observations: Mapping[str, Observations]
    geometry: NDArray[np.float64]
    s2: NDArray[np.void]
    s1: NDArray[np.void]
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Labelled parcels of each class that had too few of them."""


def load(  # which parcels, as known when, and four options of which three have defaults
    connection: Connection,
    season: Season,
    collection: str,
    as_known_at: datetime,
    *,
    label_of: Callable[[Parcel], str | None],
    min_parcels: int = 12,
    min_classes: int = 2,
    pixels: int = 32,
) -> TrainingData:
    """Return the labelled, monitorable parcels of a season and what was observed of them.

    Args:
        label_of: the class of a parcel, None to leave it out.
        min_parcels: classes with fewer parcels are left out (12: two for each fold and one to spare).
        min_classes: classes that must be left.
        pixels: pixels drawn of each set in training, where pixel sets are stored; 0 leaves the networks' inputs out
            (a curve is learned from the rows).

    Raises:
        NothingToLearn: fewer than two classes or no observation.
    """
    recording.settle(connection, as_known_at)
    labelled = [
        (p, label)
        for p in load_parcels(connection, season, collection, as_known_at)
        if p.is_monitorable and (label := label_of(p)) is not None
    ]
    if not labelled:
        raise NothingToLearn(
            f"no parcel of collection {collection!r} in season {season.name} can be learned from: "
            "`parcelwatch status` lists what is stored"
        )
    counts = Counter(label for _, label in labelled)
    classes = tuple(sorted(name for name, n in counts.items() if n >= min_parcels))
    if len(classes) < min_classes:
        raise _too_few_classes(collection, season, len(classes), min_classes, min_parcels)
    parcels, names = zip(*((p, label) for p, label in labelled if label in classes), strict=True)
    keys = np.array([p.parcel_key for p in parcels], np.int64)
    s2, s1 = s2_series(connection, keys, as_known_at), s1_series(connection, keys, as_known_at)
    series = {name: rows for name, rows in split_modalities(s2, s1).items() if len(rows)}
    if not series:
        raise NothingToLearn(f"no observation of collection {collection} in season {season.name} is stored")
    has_sets = {name: pixels > 0 and has_pixel_sets(connection, sensor_of(name), rows) for name, rows in series.items()}
    modalities = tuple(modality(name, rows, pixels, has_sets[name]) for name, rows in series.items() if pixels)
    return TrainingData(
        season=season,
        parcels=parcels,
        classes=classes,
        labels=np.array([classes.index(name) for name in names], np.int64),
        class_of={p.crop_code: name for p, name in zip(parcels, names, strict=True) if p.crop_code is not None},
        blocks=blocks([p.lon or 0.0 for p in parcels], [p.lat or 0.0 for p in parcels]),
        modalities=modalities,
        observations={
            one.name: observations(connection, one, series[one.name], keys, season.starts_on) for one in modalities
        },
        geometry=geometry(*zip(*((p.perimeter_m, p.area_ha, p.bbox_fill) for p in parcels), strict=True)),
        s2=s2,
        s1=s1,
        left_out={name: n for name, n in counts.items() if n < min_parcels},
    )


def _too_few_classes(collection: str, season: Season, n: int, min_classes: int, min_parcels: int) -> NothingToLearn:
    return NothingToLearn(
        f"collection {collection} in season {season.name} has {n} crop(s) with {min_parcels} parcels or more; "
        f"{min_classes} are needed: import more parcels, or allow fewer with --min-parcels"
    )


def modality(name: str, rows: NDArray[np.void], pixels: int, has_sets: bool) -> ModalityConfig:
    """Return the channels that are there in nearly every row, and their anomalies; published temporal dropout 0.4 for S2, 0.2 for S1.

    Raises ValueError for a modality that is neither.
    """
    if name in RADAR:
        return ModalityConfig(
            name,
            ("VV", "VH", "VV-VH"),
            temporal_dropout=0.2,
            is_per_orbit=True,
            pixels=pixels if has_sets else 1,
            has_anomalies=True,
        )
    if name != "s2":
        raise ValueError(f"modality {name!r}: no channels are named for it in training.stored_season.modality")
    present = [c for c in S2_BANDS if np.isfinite(means(rows, [c])).mean() > 0.95]
    indices = [c for c in S2_INDICES if np.isfinite(means(rows, [c])).mean() > 0.95]
    return ModalityConfig(
        name,
        tuple(present or indices),
        temporal_dropout=0.4,
        pixels=pixels if has_sets and present else 1,
        has_anomalies=True,
    )


def blocks(lon: ArrayLike, lat: ArrayLike, side_m: float = BLOCK_M) -> NDArray[np.int64]:
    """Return (P,) numbers of square blocks of `side_m` around centroids in degrees (equirectangular: exact enough for a split)."""
    return np.unique(cells(lon, lat, side_m), axis=0, return_inverse=True)[1].ravel()


def hold_out(block_of: NDArray[np.int64], labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Return (P,) parcels of whole blocks, about `share` of them, held out for validation; of a few random choices the one
    whose class shares are nearest to those of all parcels."""
    random = np.random.default_rng(seed)
    n_blocks, all_shares = block_of.max() + 1, np.bincount(labels) / len(labels)
    best, best_error = np.zeros(len(labels), bool), np.inf
    for _ in range(50):
        order = random.permutation(n_blocks)
        sizes = np.cumsum(np.bincount(block_of, minlength=n_blocks)[order])
        chosen = order[: max(1, int(np.searchsorted(sizes, share * len(labels))))]
        held = np.isin(block_of, chosen)
        if not held.any() or held.all():
            continue
        shares = np.bincount(labels[held], minlength=len(all_shares)) / held.sum()
        error = float(np.abs(shares - all_shares).sum()) + abs(held.mean() - share)
        if error < best_error:
            best, best_error = held, error
    return best
