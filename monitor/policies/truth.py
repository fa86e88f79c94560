"""Held-out truth for the thresholds of a policy: a reviewed sample of the store, or verdicts in a file.

A sample knows how it was drawn, so each parcel stands for those of its stratum; of a file the parcels are taken as a simple random
sample of all. In a stratified sample only parcels that stood red count, or yellow where a policy held reds of the rule there: no other
can be a false red, and how many there are is known.
"""

import csv
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np

from db import policies
from db import quality as store
from db.connect import Connection
from db.quality import StoredSampleRow
from db.seasons import Season, season_by_name
from monitor.errors import NotFound, PolicyError
from monitor.policies.policy import Policy
from monitor.policies.risk import Truth
from monitor.quality import estimates
from monitor.quality.verdicts import CHOICES, UNDECIDED, departs, newest_of_each, settled

LARGEST: Final = 2**26
"""Bytes of a file of verdicts; chosen as a million lines."""


@dataclass(frozen=True)
class Held:
    """Held-out truth of a rule, and where it comes from."""

    truth: Truth
    source: str
    sha256: str
    """Of the file, or of the sample's verdicts as JSON."""


def of_sample(connection: Connection, sample: StoredSampleRow, rule: str) -> Held:
    """Return the truth of a reviewed sample, with what the rule said when it was drawn.

    Raises:
        NotFound: none of the parcels of a light that can be red has a verdict.
    """
    given = defaultdict[int, list[store.VerdictRow]](list)
    for one in store.verdicts(connection, sample.sample_key):
        given[one.item].append(one)
    verdict_of = {item: settled(list(newest_of_each(its).values())) for item, its in sorted(given.items())}
    strata = store.strata(connection, sample.sample_key)
    lights = _lights_of_reds(connection, sample, rule)
    counted = [one for one in strata if one.light in lights]
    place = {one.stratum_nr: nr for nr, one in enumerate(counted)}
    key_of = {one.item: one.parcel_key for one in store.form_rows(connection, sample.sample_key)}
    decided = [
        one
        for one in store.drawn(connection, sample.sample_key)
        if one.stratum_nr in place and verdict_of.get(one.item, "cannot_tell") not in UNDECIDED
    ]
    design = estimates.design(
        np.array([place[one.stratum_nr] for one in decided], np.int64),
        np.array([one.n_parcels for one in counted], np.int64),
        np.array([lights.index(one.light) for one in counted], np.int64),
    )
    if design.n_unseen:
        raise NotFound(
            f"sample {sample.sample_key}: of {design.n_unseen:,} parcels that stood {' or '.join(lights)}, none has a decided verdict; "
            "review them first: `parcelwatch quality review`"
        )
    keys = [key_of[one.item] for one in decided]
    red = store.red_confidences(connection, keys, rule, sample.as_known_at)
    truth = Truth(
        np.array([red.get(key, np.nan) for key in keys], np.float64),
        np.array([departs(verdict_of[one.item], rule) for one in decided], bool),
        design.weight,
        float(sum(one.n_parcels for one in strata)),
    )
    said = json.dumps([sample.sample_key, sorted(verdict_of.items())])
    source = f"quality sample {sample.sample_key} of {sample.collection}, {sample.season}"
    return Held(truth, source, hashlib.sha256(said.encode()).hexdigest())


def _lights_of_reds(connection: Connection, sample: StoredSampleRow, rule: str) -> tuple[str, ...]:
    """Return the lights that a parcel could have which the rule called red when a sample was drawn."""
    season = season_by_name(connection, sample.season)
    row = policies.in_force(connection, season.season_key, sample.collection, sample.as_known_at)
    is_held = row is not None and Policy.stored(row.content).red_of(rule) is not None
    return ("red", "yellow") if is_held else ("red",)


def of_file(
    connection: Connection, file: Path, season: Season, collection: str, rule: str, at: datetime | None
) -> Held:
    """Return the truth of a CSV of verdicts, with what the rule said of the parcels as known at a time (None: now).

    Raises:
        PolicyError: a line is wrong, or names no parcel of the collection in the season.
    """
    content = _content(file)
    lines = list(_verdicts(file, content))
    key_of = store.keys_of(connection, season.season_key, collection, [one for _, one, _ in lines])
    for line, source_id, _ in lines:
        if source_id not in key_of:
            raise PolicyError(f"{file}, line {line}: {source_id!r} is no parcel of {collection} in {season.name}")
    decided = [(key_of[source_id], verdict) for _, source_id, verdict in lines if verdict not in UNDECIDED]
    red = store.red_confidences(connection, [key for key, _ in decided], rule, at)
    truth = Truth(
        np.array([red.get(key, np.nan) for key, _ in decided], np.float64),
        np.array([departs(verdict, rule) for _, verdict in decided], bool),
        np.ones(len(decided)),
        len(decided),
    )
    return Held(truth, f"{file.name} of {collection}, {season.name}", hashlib.sha256(content).hexdigest())


def _content(file: Path) -> bytes:
    try:
        if file.stat().st_size > LARGEST:
            raise PolicyError(f"{file}: more than {LARGEST // 2**20} MiB; is it the right file?")
        return file.read_bytes()
    except OSError as error:
        raise PolicyError(f"{file}: {error.strerror or error}") from error


def _verdicts(file: Path, content: bytes) -> Iterator[tuple[int, str, str]]:
    """Yield the line, parcel and verdict of each line of a CSV; raises PolicyError."""
    try:
        rows = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        if missing := [name for name in ("source_id", "verdict") if name not in (rows.fieldnames or ())]:
            raise PolicyError(f"{file}, line 1: no column {', '.join(missing)}; source_id and verdict are needed")
        seen: dict[str, int] = {}
        for row in rows:
            source_id, verdict = (str(row[name] or "").strip() for name in ("source_id", "verdict"))
            verdict = verdict.lower().replace(" ", "_")
            if verdict not in CHOICES:
                raise PolicyError(
                    f"{file}, line {rows.line_num}: {verdict!r} is no verdict; known: {', '.join(CHOICES)}"
                )
            if (before := seen.setdefault(source_id, rows.line_num)) != rows.line_num:
                raise PolicyError(f"{file}, line {rows.line_num}: says of {source_id!r} again what line {before} does")
            yield rows.line_num, source_id, verdict
    except UnicodeDecodeError as error:
        raise PolicyError(f"{file}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except csv.Error as error:
        raise PolicyError(f"{file}: no CSV: {error}") from error
