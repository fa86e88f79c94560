"""What policies would say of field work on simulated seasons: lights beside the truth, every ten days and at the season's end.

    python -m research.bench.field_work_asked [--json] [--parcels 600] [--seasons 2023:41,2024:42,2025:43]

Asked of all crops alike: harvest by seven dates of the summer and autumn, tillage and none of it in four months. Scored are the fields of
`research.bench.field_work`. `reds` counts those that were red on any of the dates; so a red that was taken back counts.
"""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Final

import numpy as np
import pandas as pd
import typer

from db.parcels import DeclaredParcels
from monitor.alerts.neighbours import Bools
from monitor.alerts.rules import GREEN, NOT_VALID, RED, YELLOW
from monitor.policies.known import Asked, Known
from monitor.policies.obligations import decide
from monitor.policies.policy import Obligation, Policy
from research.bench.field_work import EVERY, series, true_events
from research.simulator.config import SimulatorConfig
from research.simulator.season import Season, simulate_season

BY: Final = ("07-15", "08-01", "08-15", "09-01", "09-15", "10-01", "10-15")
MONTHS: Final = (("03-01", "03-31"), ("04-01", "04-30"), ("08-01", "08-31"), ("09-01", "09-30"))
LATE_DAYS: Final = 15
NEAR_DAYS: Final = 20


def obligations(year: int) -> Policy:
    """Return the policy that is asked."""
    asked = [("harvested", f"{year}-01-15", f"{year}-{until}") for until in BY]
    asked += [(kind, f"{year}-{one}", f"{year}-{end}") for kind in ("tilled", "not_tilled") for one, end in MONTHS]
    content = [
        {"name": f"{kind}_{nr}", "kind": kind, "from": begin, "until": end}
        for nr, (kind, begin, end) in enumerate(asked)
    ]
    return Policy.model_validate({"name": "asked", "version": 1, "obligation": content})


def truth_of(season: Season, asked: Obligation) -> Iterator[tuple[str, Bools]]:
    """Yield in words what truly was, with the parcels (P,) of which it is true."""
    begin, until = np.datetime64(asked.begin), np.datetime64(asked.until)
    if asked.kind == "harvested":
        day = season.truth.parcels["harvest"].to_numpy("M8[D]")
        is_late = day > until + np.timedelta64(LATE_DAYS - 1, "D")
        yield "in time", day <= until
        yield f"up to {LATE_DAYS - 1} days late", (day > until) & ~is_late
        yield "later", is_late
        return
    parcel, days = true_events(season)["tillage"]
    tilled, near = np.zeros((2, len(season.truth.parcels)), bool)
    margin, dates = np.timedelta64(NEAR_DAYS, "D"), days.astype("M8[D]")
    tilled[parcel[(dates >= begin) & (dates <= until)]] = True
    near[parcel[(dates >= begin - margin) & (dates <= until + margin)]] = True
    yield "tilled", tilled
    yield f"tilled within {NEAR_DAYS} days", near & ~tilled
    yield "not tilled", ~near & ~tilled


def lights(season: Season) -> pd.DataFrame:
    """Return how many scored parcels have each light at the end, by kind and truth, and how many were ever red."""
    views, radar = series(season)
    codes, year, n = list(season.truth.parcels["declared"]), season.config.year, views.n_parcels
    shape = np.full(n, 100.0), np.full(n, 2.0), np.full(n, 0.9)  # no selection: any size will do
    of, policy = Asked(DeclaredParcels([""] * n, [""] * n, codes, *shape), [""] * n), obligations(year)
    was_red, last = {one.name: np.zeros(n, bool) for one in policy.obligation}, {}
    days = season.truth.days
    for today in [*days[120::EVERY], days[-1]]:
        seen, passed = views.only(views.days <= today), radar.only(radar.days <= today)
        for decisions in decide(policy, of, Known(seen, passed, np.full(n, today), year)):
            last[decisions.rule] = decisions.found.verdict
            was_red[decisions.rule] |= decisions.found.verdict == RED
    scored = np.isin(np.arange(n), true_events(season)["scored"][0])
    rows: list[dict[str, Any]] = []
    for one in policy.obligation:
        for truth, which in truth_of(season, one):
            some, verdict = scored & which, last[one.name]
            count = {
                name: int((verdict[some] == nr).sum())
                for name, nr in (("green", GREEN), ("yellow", YELLOW), ("red", RED), ("not valid", NOT_VALID))
            }
            rows.append(
                {"kind": one.kind, "truth": truth, "asked": int(some.sum()), **count}
                | {"reds": int(was_red[one.name][some].sum())}
            )
    return pd.DataFrame(rows).groupby(["kind", "truth"], sort=False).sum()


def main(
    parcels: Annotated[int, typer.Option(min=20, help="fields of each season")] = 600,
    seasons: Annotated[str, typer.Option(help="year:seed, separated by commas")] = "2023:41,2024:42,2025:43",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON only")] = False,
) -> None:
    """Print what obligations on field work would say of simulated seasons, beside their truth."""
    found = []
    for name in seasons.split(","):
        year, seed = map(int, name.split(":"))
        found.append(lights(simulate_season(SimulatorConfig(year=year, seed=seed, n_parcels=parcels, n_pixels=1))))
    table = pd.concat(found).groupby(level=[0, 1], sort=False).sum()
    typer.echo(json.dumps(table.reset_index().to_dict("records")) if as_json else table.to_string())


if __name__ == "__main__":
    typer.run(main)
