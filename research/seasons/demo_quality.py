"""The quality report of the demonstration: a random sample of its parcels, reviewed by two who know the truth and err at times."""

from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any, Final

import pandas as pd

from db import quality as store
from db.connect import engine
from monitor.quality import report, review, samples
from research.seasons.outcome import COLLECTION, Outcome
from research.seasons.truth_review import verdicts
from training.metrics import Event

MISTAKES: Final = 0.03
"""Share of wrong verdicts of either reviewer; chosen so that their agreement is not complete."""
REVIEWERS: Final = ("first reviewer", "second reviewer")


def reviewed(dsn: str, outcome: Outcome) -> Mapping[str, Any]:
    """Draw a sample of the watched season as known at its end, review it, and return what `quality report --json` says."""
    run, season = outcome.run, outcome.run.now
    at = datetime.combine(season.ends_on + timedelta(days=1), time(), UTC)
    happened = [
        Event(str(one.parcel_id), str(one.kind), pd.Timestamp(str(one.day)).date())
        for one in run.season.truth.events.itertuples()
    ]
    with engine(dsn).begin() as connection:
        order = samples.Order(
            season=season,
            collection=COLLECTION,
            by="the demonstration",
            why="what its lights are worth",
            seed=str(run.settings.seed),
            as_known_at=at,
            allocation="neyman",
            second_share=0.2,
        )
        key = samples.draw(connection, order, at).sample_key
        rows = store.form_rows(connection, key)
        for nr, reviewer in enumerate(REVIEWERS):
            own = [row for row in rows if row.n_reviewers > nr]
            said = verdicts(own, happened, season.ends_on, reviewer, MISTAKES, seed=nr)
            store.record_verdicts(connection, key, said, at)
        sample = report.of_sample(
            review.the_sample(connection, key),
            store.strata(connection, key),
            store.drawn(connection, key),
            store.verdicts(connection, key),
            [],
        )
    return {"samples": [sample], "alerts": []}
