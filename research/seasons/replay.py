"""Replays a recorded season through the whole chain and scores it on parcels that no model saw.

    history pass    the season (or that of another folder) is stored; models are trained from the store, one for each fold
    watched pass    the season is replayed day by day; the test parcels of fold k are collection NAME-fold-k, watched by
                    the models of the other folds, so every posterior scored was made in season, by the monitor

With another folder to train on there is one model and one collection.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from db import registry, season_results
from db.connect import engine
from db.parcels import Parcel
from db.seasons import Season
from models.ndvi.gap_filler import GapModel
from models.ndvi.queries import GapQueries, Series
from models.ndvi.training import GapTrainingConfig
from monitor.season_series import curve_series
from research.seasons import baselines
from research.seasons.recorded import classes_of, labels_frame
from research.seasons.replay_source import RecordedSeason, known_by
from research.seasons.scoreboard import Scores
from research.seasons.season_stream import Chain, DayDone, import_season, stream_season
from training import season_models, stored_season
from training.metrics import ClassScores, pooled, score_classes, score_ndvi
from training.stored_season import TrainingData

Report = Callable[[str, float | None], None]
"""What is being done, and the share of it that is done (None where it is not known)."""
SCORED_AREA_HA = 0.3
"""Parcels of the NDVI scores: smaller ones hold a handful of mixed pixels (data README)."""


@dataclass(frozen=True)
class ReplaySettings:
    """What a replay trains."""

    epochs: int | None = None
    seed: int = 0
    ndvi: GapTrainingConfig = field(default_factory=GapTrainingConfig)


@dataclass(frozen=True)
class _Part:
    """Parcels watched by one pair of models."""

    collection: str
    parcel_ids: frozenset[str]
    training_ids: frozenset[str] | None
    """Parcels its models may see; None: all of the other season."""


def replay(
    chain: Chain,
    season: RecordedSeason,
    train_on: RecordedSeason | None,
    settings: ReplaySettings,
    report: Report,
    on_day: DayDone,
) -> Scores:
    """Stream, train and score; see the module.

    Raises:
        SeasonDataError: the folder holds too little to score.
        NothingToLearn: the training season holds too little to train on.
    """
    began = perf_counter()
    past = train_on or season
    past_labels = labels_frame(past)
    labels = past_labels if train_on is None else labels_frame(season, classes_of(past_labels))
    report("storing the season to train on", None)
    stored, _ = import_season(chain, past, f"{past.collection}-history", known_by(past.starts_on - timedelta(days=1)))
    history = stream_season(
        chain, past, {f"{past.collection}-history": None}, is_watched=False, step_days=30, on_day=on_day
    )

    collection = f"{past.collection}-history"
    crops = _labelled(chain, stored, collection, past_labels)
    fields = _fields(chain, stored, collection, past_labels)
    parts = _parts(season, labels, train_on)
    radar = []
    for part in parts:
        watched, _ = import_season(
            chain, season, part.collection, known_by(season.starts_on - timedelta(days=1)), part.parcel_ids
        )
        report(f"training the models of {part.collection}", 0.0)
        curve = _train(chain, watched.season_key, part, crops, fields, past, settings, report)
        if part.training_ids is not None:
            radar.append(_score_radar(curve, fields, ~_usable(fields, part)))
    report("watching the season", None)
    replayed = stream_season(
        chain, season, {part.collection: part.parcel_ids for part in parts}, is_watched=True, on_day=on_day
    )

    report("scoring", None)
    classes = classes_of(past_labels)
    taught = None if train_on is None else past_labels
    if train_on is not None:  # the scored season is stored only now
        unseen = _fields(chain, watched, season.collection, labels)
        radar.append(_score_radar(curve, unseen, np.ones(len(unseen.parcels), bool)))
    ours = _score_posteriors(chain, watched, parts, season.scored_on, labels, taught, classes)
    forest = _score_forest(season, labels, train_on, past_labels, classes)
    ndvi = pd.concat(radar)
    sent = history.sent + replayed.sent
    return Scores(
        title=f"Replay of {season.collection}, season {season.name}",
        protocol=_protocol(season, train_on),
        classes={"parcelwatch": ours, "random forest": forest},
        ndvi={}
        if ndvi.empty
        else {
            "gap filling, radar alone, unseen parcels": score_ndvi(
                ndvi["observed"].to_numpy(), ndvi["predicted"].to_numpy(), ndvi["day"].tolist()
            )
        },
        facts={
            "observations sent": sent,
            "stored": history.stored + replayed.stored,
            "dead letters": history.dead_lettered + replayed.dead_lettered,
            "posteriors": replayed.work.posteriors,
            "NDVI days": replayed.work.ndvi_days,
            "alert events": replayed.work.alert_events,
            "seed": settings.seed,
            "seconds": round(perf_counter() - began),
        },
    )


def _labelled(chain: Chain, stored: Season, collection: str, labels: pd.DataFrame) -> TrainingData:
    """Return the labelled parcels of a stored season, for the classifier."""
    label = dict(zip(labels["parcel_id"], labels["label"], strict=True))
    with engine(chain.dsn).connect() as connection:
        return stored_season.load(
            connection, stored, collection, chain.clock.now, label_of=lambda p: label.get(p.source_id), min_parcels=1
        )


def _fields(chain: Chain, stored: Season, collection: str, labels: pd.DataFrame) -> TrainingData:
    """Return every labelled or large enough parcel of a stored season, for the NDVI curve."""
    label = dict(zip(labels["parcel_id"], labels["label"], strict=True))

    def is_field(parcel: Parcel) -> str | None:
        is_large = (parcel.area_ha or 0) >= SCORED_AREA_HA
        return label.get(parcel.source_id) or ("other" if is_large else None)

    with engine(chain.dsn).connect() as connection:
        return stored_season.load(
            connection, stored, collection, chain.clock.now, label_of=is_field, min_parcels=1, min_classes=1, pixels=0
        )


def _parts(season: RecordedSeason, labels: pd.DataFrame, train_on: RecordedSeason | None) -> list[_Part]:
    if train_on is not None:
        return [_Part(season.collection, frozenset(labels["parcel_id"]), None)]
    return [
        _Part(
            f"{season.collection}-fold-{fold}",
            frozenset(labels["parcel_id"][labels["fold"] == fold]),
            frozenset(labels["parcel_id"][labels["fold"] != fold]),
        )
        for fold in sorted(labels["fold"].unique())
    ]


def _train(
    chain: Chain,
    season_key: int,
    part: _Part,
    crops: TrainingData,
    fields: TrainingData,
    past: RecordedSeason,
    settings: ReplaySettings,
    report: Report,
) -> GapModel:
    """Train, register and activate the models of a part; return that of the curve."""
    usable = [_usable(data, part) for data in (crops, fields)]
    model = season_models.classifier(
        crops,
        evaluation_dates=past.scored_on,
        is_usable=usable[0],
        epochs=settings.epochs,
        seed=settings.seed,
        progress=lambda epoch, epochs, loss: report(f"crops of {part.collection}, loss {loss:.3f}", epoch / epochs),
    )
    updates = settings.ndvi.all_updates
    ndvi, ndvi_scores = season_models.ndvi(
        fields,
        is_usable=usable[1],
        config=settings.ndvi,
        progress=lambda update, loss: report(f"NDVI of {part.collection}, loss {loss:.4f}", update / updates),
    )
    now = chain.clock.now
    checkpoints = {
        "classifier": model.to_checkpoint(),
        "ndvi": season_models.ndvi_checkpoint(ndvi, ndvi_scores, season_models.about(fields)),
    }
    with tempfile.TemporaryDirectory() as folder, engine(chain.dsn).begin() as connection:
        for task, checkpoint in checkpoints.items():
            key = season_models.save(connection, task, checkpoint, Path(folder) / task, now)  # type: ignore[arg-type]
            registry.activate(connection, season_key, part.collection, key, now)
    return ndvi


def _usable(data: TrainingData, part: _Part) -> NDArray[np.bool_]:
    """Return (P,) parcels that the part's models may see."""
    return np.array([part.training_ids is None or p.source_id in part.training_ids for p in data.parcels])


def _score_radar(model: GapModel, fields: TrainingData, is_unseen: NDArray[np.bool_]) -> pd.DataFrame:
    """Return NDVI from radar alone at the clear views of unseen parcels: day, observed, predicted."""
    keys = np.array([p.parcel_key for p in fields.parcels], np.int64)
    sar, clear = curve_series(fields.s2, fields.s1, keys, fields.season.starts_on)
    clear = clear.cleaned()
    clear = clear.rows(is_unseen[clear.parcel])
    day = np.floor(clear.day).astype(np.int64)
    no_view = np.full((len(keys), 1), np.nan)
    order = np.argsort(clear.parcel, kind="stable")
    queries = GapQueries.at(Series(np.arange(len(keys)), no_view, no_view), clear.parcel[order], day[order])
    steps = model.steps(sar.cleaned(), len(keys))
    predicted = model.fill(steps, Series(np.arange(len(keys)), no_view, no_view), queries, "retrospective").ndvi
    dates = [fields.season.starts_on + timedelta(days=int(d)) for d in day[order]]
    return pd.DataFrame({"day": dates, "observed": clear.ndvi[order], "predicted": predicted})


def _score_posteriors(
    chain: Chain,
    season: Season,
    parts: list[_Part],
    dates: Sequence[date],
    labels: pd.DataFrame,
    training: pd.DataFrame | None,
    classes: tuple[str, ...],
) -> dict[date, ClassScores]:
    """Return scores of what the store knew at the end of each date."""
    scores = {}
    with engine(chain.dsn).connect() as connection:
        for day in dates:
            found = [
                season_results.posteriors(connection, season.season_key, part.collection, known_by(day))
                for part in parts
            ]
            frames = [pd.DataFrame(one.probabilities, one.source_ids, one.classes) for one in found if one.source_ids]
            # No posterior at all yet: every parcel is scored by the class frequencies.
            posteriors = pd.concat(frames) if frames else pd.DataFrame(columns=list(classes), dtype=float)
            known = posteriors[posteriors.index.isin(labels["parcel_id"])].reindex(
                columns=list(classes), fill_value=0.0
            )
            scores[day] = score_classes(pooled(labels, known, classes, training))
    return scores


def _score_forest(
    season: RecordedSeason,
    labels: pd.DataFrame,
    past: RecordedSeason | None,
    past_labels: pd.DataFrame,
    classes: tuple[str, ...],
) -> dict[date, ClassScores]:
    """Return the baseline's scores at the same dates, in the same folds."""
    observed = baselines.observations(season)
    taught = None if past is None else baselines.observations(past)
    scores = {}
    for nr, day in enumerate(season.scored_on):
        training = None if past is None or taught is None else (taught, past_labels, past.scored_on[nr])
        posteriors = baselines.forest(observed, labels, day, classes, training=training)
        scores[day] = score_classes(pooled(labels, posteriors, classes, None if past is None else past_labels))
    return scores


def _protocol(season: RecordedSeason, train_on: RecordedSeason | None) -> str:
    if train_on is not None:
        return f"Trained on {train_on.collection}, season {train_on.name}; every labelled parcel of {season.collection} scored."
    return (
        "Five spatially blocked folds of the folder: each parcel is watched in season by models that saw the other folds only; "
        "posteriors as stored at the end of each date, folds pooled. Random forest on the same folds and dates."
    )
