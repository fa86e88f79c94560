"""The quality report for people: what `monitor.quality.report` says, in tables and sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from monitor.inspection.listing import records
from monitor.quality.estimates import FEWEST
from monitor.quality.report import FIGURES, FOUND
from terminal.output import console, plain


def print_report(said: Mapping[str, Any]) -> None:
    """Print a report of samples and of decided alerts."""
    if not said["samples"]:
        console.print("no sample is drawn: `parcelwatch quality sample`")
    for sample in said["samples"]:
        _sample(sample)
    if said["alerts"]:
        console.print("Alerts that people decided on (selected, so they speak of themselves alone: not of all parcels)")
        console.print(records(_alerts(said["alerts"])))


def _sample(sample: Mapping[str, Any]) -> None:
    confidence = f"{100 * sample['confidence']:g} %"
    console.print(
        plain(
            f"sample {sample['sample_key']} of {sample['collection']}, season {sample['season']}, {sample['month']}: "
            f"{sample['n_decided']} of {sample['n_sampled']} sampled parcels decided, for {sample['n_parcels']} parcels; "
            f"shares with {confidence} intervals"
        ),
        soft_wrap=True,
    )
    for line in _remarks(sample):
        console.print(plain(line), soft_wrap=True)
    cells = sample["figures"]
    columns = {
        "rule": [plain(cell["rule"]) for cell in cells],
        "region": [plain(cell["region"] or "all") for cell in cells],
    }
    columns |= {
        name.replace("_", " "): [shown(cell[name]["of_parcels"]) for cell in cells]
        for name in (*FIGURES, *FOUND, "wrong_lights")
    }
    console.print(records(columns))
    of_area = {"rule": [plain(cell["rule"]) for cell in cells if cell["region"] is None]}
    for name in ("false_reds", "false_greens"):
        words = name.replace("_", " ")
        whole = [cell[name] for cell in cells if cell["region"] is None]
        of_area[f"{words}, of hectares"] = [shown(one["of_area"]) for one in whole]
        of_area[f"{words} per 1,000 parcels"] = [shown(one["per_1000_parcels"], 1, "") for one in whole]
    console.print(records(of_area))
    lift = sample["lift"]
    columns = {
        "inspections": [str(one["inspections"]) for one in lift],
        "found at random": [f"{100 * one['at_random']:.1f} %" for one in lift],
        "found by the list of alerts": [shown(one["found"]) for one in lift],
        "times as many": [shown(one["lift"], 1, "") for one in lift],
    }
    console.print(records(columns))


def _remarks(sample: Mapping[str, Any]) -> Sequence[str]:
    """Return what else is to be known of a sample's figures."""
    agreement, found = sample["agreement"], []
    if agreement["too_few"]:
        found.append(f"agreement of reviewers: {agreement['n']} parcels have two, {FEWEST} are needed")
    else:
        kappa = "not defined: all verdicts are the same" if agreement["kappa"] is None else f"{agreement['kappa']:.2f}"
        found.append(
            f"agreement of reviewers: {100 * agreement['agreed']:.0f} % of {agreement['n']} parcels, Cohen's kappa {kappa}"
        )
    if sample["n_cannot_tell"]:
        found.append(f"{sample['n_cannot_tell']} parcels could not be told; the others of their strata stand for them")
    if sample["disputed"]:
        items = ", ".join(map(str, sample["disputed"]))
        found.append(f"disputed, a third reviewer is needed: item {items}")
    if sample["n_not_represented"]:
        found.append(
            f"{sample['n_not_represented']} parcels have a light of which none was decided: no figure speaks of them"
        )
    return found


def shown(share: Mapping[str, Any], factor: float = 100, unit: str = " %") -> str:
    """Return a share with its interval, or that there are too few verdicts."""
    if share["too_few"]:
        return f"too few ({share['n']})"
    low, value, high = (factor * share[name] for name in ("low", "value", "high"))
    return f"{value:.1f}{unit} ({low:.1f} to {high:.1f})"


def _alerts(cells: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    return {
        "collection, season": [plain(f"{cell['collection']}, {cell['season']}") for cell in cells],
        "rule": [plain(cell["rule"]) for cell in cells],
        "region": [plain(cell["region"] or "all") for cell in cells],
        "month": [cell["month"] or "all" for cell in cells],
        "false reds": [shown(cell["false_reds"]) for cell in cells],
        "false yellows": [shown(cell["false_yellows"]) for cell in cells],
    }
