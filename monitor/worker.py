"""One look at the news: claim parcels, fold what is new, draw NDVI, judge, save; all in one transaction.

If anything fails the transaction leaves nothing behind, and the parcels are tried again one by one, so that a single
poisoned parcel cannot hold up the others: it alone is postponed, with its error, for an operator to see.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import sqlalchemy as sa
import torch
from numpy.typing import NDArray

from db import beliefs, registry, work
from db.connect import engine
from db.parcels import Parcel, Season, load_parcels, previous_season, season_by_key
from db.progress import ProgressRow, with_another_crop_before
from db.progress import load as load_progress
from db.series import s1_series, s2_series
from db.work import Claim
from models.checkpoint import Checkpoint
from models.crop_model import CropModel
from models.gap_model import GapModel
from monitor import curves
from monitor.assess import assess
from monitor.features import geometry, split_modalities
from monitor.posteriors import Folded, fold
from monitor.progress import neighbours
from monitor.rules import Posterior
from monitor.seasonality import date_seasons
from monitor.settings import MonitorSettings
from monitor.train import curve_model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counts:
    """What a look at the news did."""

    parcels: int = 0
    observations: int = 0
    posteriors: int = 0
    ndvi_days: int = 0
    alert_events: int = 0
    postponed: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(self.__dict__.values(), other.__dict__.values(), strict=True)))


@dataclass
class Worker:
    """Works off pending parcels of every season that a model watches; keeps loaded models between looks."""

    dsn: str
    settings: MonitorSettings
    _classifiers: dict[int, CropModel] = field(default_factory=dict)
    _ndvi: dict[int, GapModel] = field(default_factory=dict)
    _last: datetime | None = None

    def look(self, now: datetime) -> Counts:
        """Works until no claimable news is left."""
        total = Counts()
        while True:
            counts = self._batch(self._moment(now))
            if counts is None:
                return total
            total += counts

    def _moment(self, now: datetime) -> datetime:
        """`now`, a microsecond later for each batch since: what is recorded twice of a parcel has an order."""
        self._last = max(now, self._last + timedelta(microseconds=1)) if self._last is not None else now
        return self._last

    def _batch(self, now: datetime) -> Counts | None:
        try:
            with engine(self.dsn).begin() as connection:
                claim = work.claim(connection, self.settings.batch, now)
                return None if claim is None else self._process(connection, claim, now)
        except sa.exc.OperationalError:
            raise  # the database went away: nothing was written, the caller waits
        except Exception:  # outermost loop of a batch: logged, counted, tried parcel by parcel
            log.exception("a batch failed; its parcels are tried one by one")
            return self._one_by_one(now)

    def _one_by_one(self, now: datetime) -> Counts:
        total = Counts()
        for _ in range(self.settings.batch):
            moment = self._moment(now)
            with engine(self.dsn).begin() as connection:
                claim = work.claim(connection, 1, moment)
                if claim is None:
                    break
                try:
                    with connection.begin_nested():
                        total += self._process(connection, claim, moment)
                except sa.exc.OperationalError:
                    raise
                except Exception as error:  # this parcel alone is postponed, the error is kept beside it
                    log.exception("parcel %s is postponed", claim.parcel_keys.tolist())
                    wait = timedelta(seconds=self.settings.retry_s) * 2 ** min(claim.attempts, 10)
                    work.postpone(connection, claim, now + wait, f"{type(error).__name__}: {error}")
                    total += Counts(postponed=len(claim.parcel_keys))
        return total

    def _process(self, connection: sa.Connection, claim: Claim, now: datetime) -> Counts:
        season = season_by_key(connection, claim.season_key)
        parcels = load_parcels(connection, season, claim.collection, now, claim.parcel_keys.tolist())
        s2, s1 = s2_series(connection, claim.parcel_keys, now), s1_series(connection, claim.parcel_keys, now)
        shape = geometry(*zip(*((p.perimeter_m, p.area_ha, p.bbox_fill) for p in parcels), strict=True))
        folded, model = self._classify(connection, claim, season, split_modalities(s2, s1), shape, now)
        n_days = self._draw_curves(connection, claim, season, s2, s1, now)
        if n_days:
            date_seasons(connection, claim, parcels, season, now)
        n_events = self._judge(connection, claim, season, parcels, s2, folded, model, now)
        work.done(connection, claim)
        return Counts(
            len(parcels), folded.n_folded if folded else 0, len(folded.rows) if folded else 0, n_days, n_events
        )

    def _classify(
        self, connection: sa.Connection, claim: Claim, season: Season, series: Mapping[str, NDArray[np.void]],
        shape: NDArray[np.float64], now: datetime,
    ) -> tuple[Folded | None, CropModel | None]:  # fmt: skip
        row = registry.active(connection, season.season_key, claim.collection, "classifier")
        if row is None:
            return None, None
        if row.model_key not in self._classifiers:
            checkpoint = Checkpoint(*registry.checkpoint(connection, row.model_key))
            dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[self.settings.precision]
            made = CropModel.from_checkpoint(checkpoint).for_inference(self.settings.device, dtype)
            self._classifiers[row.model_key] = made
        model = self._classifiers[row.model_key]
        folded = fold(connection, row.model_key, model, claim, series, shape, season.starts_on)
        beliefs.save_posteriors(connection, row.model_key, folded.rows, now)
        return folded, model

    def _draw_curves(
        self, connection: sa.Connection, claim: Claim, season: Season, s2: NDArray[np.void], s1: NDArray[np.void],
        now: datetime,
    ) -> int:  # fmt: skip
        row = registry.active(connection, season.season_key, claim.collection, "ndvi")
        if row is None:
            return 0
        if row.model_key not in self._ndvi:
            checkpoint = Checkpoint(*registry.checkpoint(connection, row.model_key))
            self._ndvi[row.model_key] = curve_model(checkpoint).to(self.settings.device)
        return curves.draw(connection, row.model_key, self._ndvi[row.model_key], claim, season, s2, s1, now)

    def _judge(
        self, connection: sa.Connection, claim: Claim, season: Season, parcels: list[Parcel], s2: NDArray[np.void],
        folded: Folded | None, model: CropModel | None, now: datetime,
    ) -> int:  # fmt: skip
        posteriors, declared = {}, {}
        if folded is not None and model is not None:
            class_of = model.about.get("class_of", {})
            declared = {p.parcel_key: class_of.get(p.crop_code) for p in parcels}
            posteriors = {
                row.parcel_key: Posterior(
                    model.config.classes, np.asarray(row.probabilities, np.float32),
                    sum(row.n_observations.values()), row.observed_to.date(),
                )
                for row in folded.rows
            }  # fmt: skip
        standing, before = self._progress(connection, season, claim.collection, now)
        rules = self.settings.rules
        near = {
            p.parcel_key: neighbours(standing, before, p.region, p.crop_code, season.starts_on, rules) for p in parcels
        }
        new_stands = with_another_crop_before(connection, claim.parcel_keys, now)
        return assess(connection, parcels, s2, posteriors, declared, near, new_stands, rules, now)

    def _progress(
        self, connection: sa.Connection, season: Season, collection: str, now: datetime
    ) -> tuple[Mapping[tuple[str, str], ProgressRow], Mapping[tuple[str, str], ProgressRow]]:
        """How the crops stand this season, and how they stood in the season before."""
        earlier = previous_season(connection, collection, season)
        before = {} if earlier is None else load_progress(connection, earlier.season_key, collection, now)
        return load_progress(connection, season.season_key, collection, now), before
