"""The report of a demonstration: one HTML file that needs nothing else, and the table for the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from math import isfinite
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.table import Table

from research.seasons import plots
from research.seasons.console_pictures import Picture
from research.seasons.evaluate import LIGHTS
from research.seasons.outcome import GROWN_NAME, Outcome
from training.metrics import AlertScores, ClassScores, reliability

KIND_ORDER: Final = ("wrong_declaration", "no_emergence", "early_loss", "flood", "grassland_ploughed", "mowing")
REGION_NAMES: Final = {"lowlands": "Lowlands", "centre": "Centre"}


def write(
    outcome: Outcome,
    versions: Mapping[str, str],
    memory_mb: float,
    path: Path,
    pictures: Sequence[Picture] | str = "none were taken",
) -> None:
    """Write the report; its folder is made. Pictures: of the console, or why there are none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(outcome, versions, memory_mb, pictures), encoding="utf-8")


def render(
    outcome: Outcome,
    versions: Mapping[str, str],
    memory_mb: float,
    pictures: Sequence[Picture] | str = "none were taken",
) -> str:
    """Return the report as HTML."""
    environment = Environment(
        loader=PackageLoader("research.seasons", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "share": share,
        "words": lambda name: str(name).replace("_", " "),
        "thousands": "{:,}".format,
    }
    return environment.get_template("report.html").render(
        o=outcome,
        versions=versions,
        memory_mb=memory_mb,
        dates=outcome.run.settings.scored_on,
        maps=list(_maps(outcome)),
        crop_legend=_crop_legend(outcome),
        light_colours=plots.LIGHT_COLOURS,
        accuracy=Markup(_accuracy(outcome)),
        reliability=Markup(_reliability(outcome)),
        confusion=_confusion(outcome),
        kinds=list(_kinds(outcome)),
        examples=list(_examples(outcome)),
        n_watched=sum(p.is_monitorable for p in outcome.watched.parcels),
        reasons=_reasons(outcome),
        light_shares=_light_shares(outcome.lights),
        final=_final(outcome, "network"),
        pictures=pictures if isinstance(pictures, str) else _by_page(pictures),
    )


def summary(outcome: Outcome) -> Table:
    """Return the figures for the terminal."""
    table = Table(
        "what",
        "figure",
        title=f"season {outcome.run.season.name}, watched from {outcome.run.watched_from}",
        show_lines=False,
    )
    c = outcome.run.counted
    table.add_row("observations in / stored / in the tables", f"{c.sent:,} / {c.stored:,} / {c.in_tables:,}")
    table.add_row("dead letters, parcels postponed", f"{c.dead_lettered}, {c.postponed}", end_section=True)
    for method, by_date in outcome.classes.items():
        figures = ", ".join(f"{day:%d %b} {one.accuracy:.3f} / {one.macro_f1:.3f}" for day, one in by_date.items())
        table.add_row(
            f"{method}: accuracy / macro-F1 as known on",
            figures
            if method != "declared crop"
            else f"{_final(outcome, method).accuracy:.3f} / {_final(outcome, method).macro_f1:.3f}",
        )
    table.add_section()
    for one in outcome.curves:
        inside = "" if one.inside_95 is None else f", inside 95 % {one.inside_95:.0%}"
        table.add_row(
            f"NDVI without a clear view: {one.method}",
            f"RMSE {one.rmse:.3f}, bias {one.bias:+.3f}, R2 {one.r2:.2f}{inside} (n {one.n:,})",
        )
    table.add_section()
    for name, scores in (("opened", outcome.alerts.opened), ("confirmed", outcome.alerts.confirmed)):
        table.add_row(f"alerts {name}", _alert_line(scores))
    for kind, opened, confirmed in _kinds(outcome):
        days = number(opened.median_days, 0), number(confirmed.median_days, 0)
        if kind != "mowing":
            found = f"{opened.events} events, {opened.found} with an alert (median {days[0]} days), "
            table.add_row(f"  {kind.replace('_', ' ')}", found + f"{confirmed.found} confirmed ({days[1]} days)")
    troubled = (share(outcome.alerts.on_troubled(confirmed=one)) for one in (False, True))
    table.add_row("  on a parcel with any event", "{} of those opened, {} of those confirmed".format(*troubled))
    table.add_row(
        "light at the end",
        ", ".join(f"{name} {text}" for name, text in _light_shares(outcome.lights).items()),
        end_section=True,
    )
    table.add_row("seconds", ", ".join(f"{name} {one:.0f}" for name, one in outcome.run.seconds.items()))
    return table


def number(value: float | None, digits: int = 3) -> str:
    """Return a figure, or a dash where there is none."""
    return "–" if value is None or not isfinite(value) else f"{value:.{digits}f}"


def share(value: float | None) -> str:
    """Return a share in percent, or a dash."""
    return "–" if value is None or not isfinite(value) else f"{value:.0%}"


def _alert_line(scores: AlertScores) -> str:
    days = f", median {scores.median_days:.0f} days after the event" if isfinite(scores.median_days) else ""
    return f"{scores.alerts}: precision {number(scores.precision, 2)}, recall {number(scores.recall, 2)} of {scores.events} events{days}"


def _final(outcome: Outcome, method: str) -> ClassScores:
    return outcome.classes[method][max(outcome.classes[method])]


def _light_shares(lights: Mapping[str, int]) -> dict[str, str]:
    """Return shares of the assessed parcels by colour; counts of the others."""
    assessed = sum(lights[name] for name in LIGHTS[:3])
    return {
        name: f"{lights[name] / max(assessed, 1):.1%}" if name in LIGHTS[:3] else f"{lights[name]} parcels"
        for name in LIGHTS
    }


def _by_page(pictures: Sequence[Picture]) -> dict[str, dict[str, str]]:
    """Return the pictures' addresses by page, then screen."""
    found: dict[str, dict[str, str]] = {}
    for one in pictures:
        found.setdefault(one.page, {})[one.screen] = one.address
    return found


def _maps(outcome: Outcome) -> Iterator[tuple[str, Markup, Markup]]:
    """Yield (region, crops, lights) for each region."""
    parcels = outcome.run.season.parcels
    colour_of = _crop_legend(outcome)
    for region in parcels["region"].unique():
        own = parcels[parcels["region"] == region]
        crops = [colour_of[name] for name in own["crop_name"]]
        lights = [plots.LIGHT_COLOURS[outcome.watched.lights[one]] for one in own["parcel_id"]]
        yield (
            REGION_NAMES.get(region, region),
            Markup(plots.field_map(own, crops)),
            Markup(plots.field_map(own, lights)),
        )


def _crop_legend(outcome: Outcome) -> dict[str, str]:
    return plots.crop_colours(sorted(outcome.run.season.parcels["crop_name"].unique()))


def _accuracy(outcome: Outcome) -> str:
    days = dict(sorted({**outcome.over_season, **outcome.classes["network"]}.items()))
    forest = outcome.classes.get("random forest", {})
    return plots.accuracy_over_season(
        days, outcome.run.settings.scored_on, forest, _final(outcome, "declared crop").accuracy
    )


def _reliability(outcome: Outcome) -> str:
    pools = list(outcome.pools.values())
    return plots.reliability_plot({"all four dates": reliability(pools), "end of season": reliability(pools[-1:])})


def _confusion(outcome: Outcome) -> dict[str, Any]:
    """Return the confusion at the end of the season: classes that occur, and rows of (count, share of the row)."""
    last = _final(outcome, "network")
    counts = np.array(last.confusion)
    order = [i for i in range(len(last.classes)) if counts[i].sum() or counts[:, i].sum()]
    rows = [
        (
            last.classes[i],
            [(int(counts[i, j]), float(counts[i, j] / max(counts[i].sum(), 1)), i == j) for j in order],
            last.f1[last.classes[i]],
        )
        for i in order
    ]
    return {"classes": [last.classes[i] for i in order], "rows": rows}


def _kinds(outcome: Outcome) -> Iterator[tuple[str, Any, Any]]:
    """Yield (kind, as opened, as confirmed) for each kind of event that occurs."""
    opened, confirmed = outcome.alerts.opened.per_kind, outcome.alerts.confirmed.per_kind
    for kind in KIND_ORDER:
        if kind in opened:
            yield kind, opened[kind], confirmed[kind]


def _reasons(outcome: Outcome) -> dict[str, int]:
    """Return parcels that are not monitorable, by reason."""
    reasons = [p.not_monitorable_reason for p in outcome.watched.parcels if p.not_monitorable_reason is not None]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def _examples(outcome: Outcome) -> Iterator[dict[str, Any]]:
    truth = outcome.run.season.truth
    row_of = {parcel: i for i, parcel in enumerate(truth.parcels["parcel_id"])}
    parcel_of = {one.source_id: one for one in outcome.watched.parcels}
    for example, rows in outcome.examples:
        events = truth.events[truth.events["parcel_id"] == example.parcel_id]
        parcel, true = parcel_of[example.parcel_id], truth.parcels.iloc[row_of[example.parcel_id]]
        plot = plots.parcel_plot(rows, truth.days, truth.ndvi[row_of[example.parcel_id]], _dated(events))
        yield {
            "example": example,
            "plot": Markup(plot),
            "declared": parcel.crop_name,
            "grown": GROWN_NAME[true["grown"]],
            "area_ha": parcel.area_ha,
            "region": REGION_NAMES.get(parcel.region, parcel.region),
        }


def _dated(events: pd.DataFrame) -> Sequence[tuple[date, str]]:
    return [(pd.Timestamp(str(one.day)).date(), str(one.kind).replace("_", " ")) for one in events.itertuples()]
