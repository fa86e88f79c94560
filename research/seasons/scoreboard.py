"""The scores of a replayed season beside its baselines: tables for people, Markdown for the log, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from math import isfinite
from pathlib import Path
from typing import Any

from rich.table import Table

from terminal.output import table
from training.metrics import AlertScores, ClassScores, NdviScores, plain

LOG_TITLE = "# Log of experiments"


@dataclass(frozen=True)
class Scores:
    """What a replayed season scored, each figure with the method that made it."""

    title: str
    protocol: str
    """One sentence: what was trained on what, and what was scored."""
    classes: Mapping[str, Mapping[date, ClassScores]] = field(default_factory=dict)
    """Method -> date -> scores as known at that date."""
    ndvi: Mapping[str, NdviScores] = field(default_factory=dict)
    """Method -> scores."""
    alerts: AlertScores | None = None
    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    """What else a reader needs to repeat or check the run: observations sent and stored, epochs, seed, seconds."""

    def to_json(self) -> dict[str, Any]:
        """Return the scores as JSON values."""
        values: dict[str, Any] = plain(self)
        return values

    def markdown(self) -> str:
        """Return a section for the log: title, protocol, facts and the tables."""
        facts = "; ".join(f"{name} {_number(value)}" for name, value in self.facts.items())
        parts = [f"## {self.title}", self.protocol, facts and f"{facts}."]
        parts += [_markdown(head, rows) for head, rows in self._grids()]
        return "\n\n".join(part for part in parts if part)

    def tables(self) -> Iterator[Table]:
        """Yield the same tables for a terminal."""
        for head, rows in self._grids():
            names = [head[0], *(name.removeprefix("20") for name in head[1:])]  # 80 columns hold five dates so
            yield table(names, rows, self.title, right=names[1:])

    def _grids(self) -> Iterator[tuple[list[str], list[list[str]]]]:
        if self.classes:
            yield self._dates()
            yield self._crops()
        if self.ndvi:
            yield (
                ["NDVI", "n", "R2", "RMSE"],
                [[method, f"{one.n}", _number(one.r2), _number(one.rmse)] for method, one in self.ndvi.items()],
            )
        if self.alerts:
            yield _alert_grid(self.alerts)

    def _dates(self) -> tuple[list[str], list[list[str]]]:
        """Return Macro-F1 by date; in brackets over the parcels of which anything was known, where that differs."""
        days = sorted({day for by_date in self.classes.values() for day in by_date})
        rows = []
        for method, by_date in self.classes.items():
            rows.append([f"{method}: macro-F1", *(_f1(by_date.get(day)) for day in days)])
            rows.append(
                [f"{method}: accuracy", *(_number(by_date[day].accuracy) if day in by_date else "" for day in days)]
            )
            rows.append([f"{method}: ECE", *(_number(by_date[day].ece) if day in by_date else "" for day in days)])
        return ["as known on", *(day.isoformat() for day in days)], rows

    def _crops(self) -> tuple[list[str], list[list[str]]]:
        """Return F1 of each class at the last date."""
        last = {method: by_date[max(by_date)] for method, by_date in self.classes.items() if by_date}
        crops = sorted({crop for one in last.values() for crop in one.classes})
        return ["F1 at the last date", *crops], [
            [method, *(_number(one.f1.get(crop, float("nan"))) for crop in crops)] for method, one in last.items()
        ]


def write_json(path: Path, scores: Scores) -> None:
    """Write the scores as JSON; its folder must exist."""
    path.write_text(json.dumps(scores.to_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def append_log(path: Path, entry: str) -> None:
    """Add a section to the end of a log in Markdown; a log that is not there is begun."""
    is_new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log:
        log.write(f"{LOG_TITLE}\n\n{entry}\n" if is_new else f"\n{entry}\n")


def _alert_grid(alerts: AlertScores) -> tuple[list[str], list[list[str]]]:
    rows = [
        [kind, f"{one.events}", f"{one.found}", _number(one.found / one.events), _days(one.median_days)]
        for kind, one in alerts.per_kind.items()
    ]
    whole = f"all that a rule answers; {alerts.alerts} alerts, precision {_number(alerts.precision)}"
    found = round(alerts.recall * alerts.events) if alerts.events else 0
    rows.append([whole, f"{alerts.events}", f"{found}", _number(alerts.recall), _days(alerts.median_days)])
    return ["events", "n", "found", "recall", "median days to alert"], rows


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _f1(scores: ClassScores | None) -> str:
    if scores is None:
        return ""
    if scores.n_observed == scores.n:
        return _number(scores.macro_f1)
    return f"{_number(scores.macro_f1)} ({_number(scores.macro_f1_observed)})"


def _number(value: str | float) -> str:
    """Return three decimals; a dash for what could not be computed."""
    if isinstance(value, str | int):
        return f"{value}"
    return f"{value:.3f}" if isfinite(value) else "–"


def _days(value: float) -> str:
    return f"{value:g}" if isfinite(value) else "–"
