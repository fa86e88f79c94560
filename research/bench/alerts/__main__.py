"""Alerts at scale: precision, recall, delay and false reds of the rules on simulated seasons, beside `nrt` and a random forest.

    python -m research.bench.alerts --json [--parcels 5000] [--years 3] [--cloudy] [--variants] [--model FOLDER]

`docs/simulator.md` says what is measured and which assumptions each rule leans on.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import torch
import typer
from rich.table import Table

from models.checkpoint import Checkpoint
from models.classifier.crop_model import CropModel
from monitor.alerts.settings import RuleSettings
from research.bench.alerts import figures
from research.bench.alerts.peers import ALL, KINDS, first_of_each, scored
from research.bench.alerts.posteriors import train
from research.bench.alerts.seasons import (
    BOUNDED,
    HAS_NRT,
    LOST_OPTICAL,
    SCORED,
    TAUGHT,
    TUNED,
    VARIANTS,
    VARIED_PARCELS,
    Peers,
    Scored,
    Simulated,
    config,
    say,
    score,
)
from research.simulator import SimulatorConfig, simulate_season
from terminal.output import console
from training.season_models import write

TAUGHT_PARCELS: Final = 1500
"""A classifier of as many learns in some minutes; more parcels taught it little more (docs/LOG.md)."""
KEYS: Final = (
    "precision",
    "recall",
    "f1",
    "peer_f1",
    "false_reds_per_1000",
    "median_days_to_alert",
    "lift_at_4_percent",
)


# More than six: the options of the command line.
def main(
    parcels: Annotated[int, typer.Option(min=40, help="parcels of each season")] = 5000,
    years: Annotated[int, typer.Option(min=1, max=len(SCORED), help="seasons scored")] = len(SCORED),
    cloudy: Annotated[
        bool, typer.Option("--cloudy", help="score seasons with 70 % of the optical dates lost too")
    ] = False,
    variants: Annotated[
        bool, typer.Option("--variants", help="vary the simulator's assumptions on the first season")
    ] = False,
    model: Annotated[
        Path | None, typer.Option(help="folder of the classifier: read if it is there, else written")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="of the classifier's training")] = 45,
    taught: Annotated[
        int, typer.Option(min=40, help="parcels that teach the classifier and the peers")
    ] = TAUGHT_PARCELS,
    workers: Annotated[int, typer.Option(min=1, help="seasons at once")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON only")] = False,
) -> None:
    """Score the rules' alerts on simulated seasons."""
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not HAS_NRT:
        say("nrt is not installed: its monitors are left out (pip install -e '.[research]')")
    classifier = _classifier(model, taught, epochs)
    say("the peers are taught")
    peers = Peers.tuned(Simulated.of(config(*TUNED, taught)), RuleSettings())
    jobs = {f"{year}, seed {seed}": (config(year, seed, parcels), 0.0) for year, seed in SCORED[:years]}
    overcast = {f"{name}, cloudy": (one, LOST_OPTICAL) for name, (one, _) in jobs.items() if cloudy}
    first = config(*SCORED[0], min(parcels, VARIED_PARCELS))
    varied = {name: (replace(first, **knobs), 0.0) for name, knobs in VARIANTS.items() if variants}  # type: ignore[arg-type]
    bounding = {"where red is bounded": (config(*BOUNDED, parcels), 0.0)}
    found = _all(bounding | jobs | overcast | varied, classifier, peers, workers)
    levels = figures.levels(found["where red is bounded"].judged)
    result = _figures([found[name] for name in jobs], levels)
    result |= {"parcels": parcels, "seasons": years, "f1_of_peers_where_chosen": peers.f1_where_chosen}
    result["red_from"] = {rule: level if np.isfinite(level) else None for rule, level in levels.items()}
    result["by_season"] = {name: _short(_figures([found[name]], levels)) for name in (*jobs, *overcast)}
    if cloudy:
        result["cloudy"] = _figures([found[name] for name in overcast], levels)
    if variants:
        result["variants"] = {name: _short(_figures([found[name]], levels)) for name in varied}
    if as_json:
        typer.echo(json.dumps(result, default=str))
        return
    console.print(_table(result))


def _all(
    jobs: Mapping[str, tuple[SimulatorConfig, float]], classifier: CropModel, peers: Peers, workers: int
) -> dict[str, Scored]:
    """Return all seasons, each scored in a process of its own."""
    context = get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,), max_tasks_per_child=1
    ) as pool:
        running = {name: pool.submit(score, one, classifier, peers, lost, name) for name, (one, lost) in jobs.items()}
        return {name: one.result() for name, one in running.items()}


def _figures(of: Sequence[Scored], levels: Mapping[str, float]) -> dict[str, Any]:
    """Return the figures of seasons; of reds alone, of those that `levels` allow, colours, each false red and miss by name."""
    judged = [one.judged for one in of]
    return _beside_peers(of, confirmed=False) | {
        "red": _beside_peers(of, confirmed=True),
        "red_bounded": _beside_peers(of, confirmed=True, levels=levels),
        "colours": figures.colours(judged),
        "false_reds": figures.false_reds(judged),
        "missed": figures.missed(judged),
    }


def _short(whole: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys alone, of all rules, of each and of reds."""
    own = {name: whole[name] for name in (*KEYS, "as_a_peer")}
    rules = {rule: {name: one[name] for name in KEYS} for rule, one in whole["rules"].items()}
    reds = {red: {name: whole[red][name] for name in KEYS} for red in ("red", "red_bounded")}
    return own | {"kinds": whole["kinds"], "rules": rules} | reds


def _beside_peers(
    of: Sequence[Scored], *, confirmed: bool, levels: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Return the figures of all rules together and of each, with the peers' and the highest F1 of these.

    `as_a_peer` is what the rules together would score as one more peer: one alert a parcel, the first, right if anything happened.
    """
    judged = [one.judged for one in of]
    whole, events = (
        figures.scores(judged, confirmed=confirmed, levels=levels),
        [event for one in judged for event in one.events],
    )
    n_parcels = sum(one.n_watched for one in judged)
    for what, kinds in KINDS.items():
        into = whole if what == ALL else whole["rules"][what]
        into["peers"] = {}
        for name in of[0].peers:
            own = scored(events, [alert for one in of for alert in one.peers[name][what]], kinds)
            into["peers"][name] = figures.figures(own, own, n_parcels)
        into["peer_f1"] = max((one["f1"] or 0.0 for one in into["peers"].values()), default=None)
    first = scored(
        events,
        first_of_each([one for each in judged for one in each.raised(confirmed=confirmed, levels=levels)]),
        KINDS[ALL],
    )
    return whole | {"as_a_peer": figures.figures(first, first, n_parcels)}


def _classifier(folder: Path | None, parcels: int, epochs: int) -> CropModel:
    if folder is not None and (folder / "model.json").exists():
        stored = Checkpoint((folder / "weights.pt").read_bytes(), (folder / "model.json").read_text())
        return CropModel.from_checkpoint(stored).for_inference()
    begun = time.monotonic()

    def report(epoch: int, of: int, loss: float) -> None:
        if epoch % 10 == 0 or epoch == of:
            say(f"the classifier is taught: epoch {epoch} of {of}, loss {loss:.2f}, {time.monotonic() - begun:.0f} s")

    checkpoint = train(simulate_season(config(*TAUGHT, parcels)), epochs, report).to_checkpoint()
    if folder is not None:
        write(checkpoint, folder)
    return CropModel.from_checkpoint(checkpoint).for_inference()


def _table(result: dict[str, Any]) -> Table:
    table = Table("rule", *KEYS)
    for name, one in {"all": result, **result["rules"]}.items():
        table.add_row(name, *(str(one.get(key)) for key in KEYS))
    return table


if __name__ == "__main__":
    typer.run(main)
