"""`parcelwatch demo`: the whole chain on simulated seasons, measured."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from monitor.quality.printed import print_report
from research.seasons import report
from research.seasons.demo import demonstrate, servers
from research.seasons.demo_deliveries import Receiver
from research.seasons.demo_evidence import write_bundles
from research.seasons.demo_quality import reviewed
from research.seasons.outcome import DemoSettings, peak_memory_mb, versions
from terminal.output import console, plain
from terminal.stages import Stages


def demo(
    parcels: Annotated[
        int, typer.Option(min=40, help="fields of the landscape, at least 20 a region")
    ] = DemoSettings.parcels,
    seed: Annotated[int, typer.Option(help="draws landscape, weather and events")] = DemoSettings.seed,
    quick: Annotated[bool, typer.Option("--quick", help="smaller and worse, for trying out")] = False,
    out: Annotated[Path, typer.Option(help="HTML file to write")] = Path("reports/demo.html"),
) -> None:
    """Simulate two seasons, learn from the first, stream and watch the second, and measure against the truth."""
    settings = replace(DemoSettings(), parcels=parcels, seed=seed)
    settings = settings.quick() if quick else settings
    stages = Stages(console)
    with servers(os.environ, stages) as where, Receiver() as receiver:
        outcome = demonstrate(where, settings, stages, out.parent / "models", receiver.subscribe)
        with stages.stage("deliveries"):
            sent = receiver.deliver(where.dsn)
        with stages.stage("quality"):
            quality = reviewed(where.dsn, outcome)
        with stages.stage("evidence"):
            bundles = write_bundles(where.dsn, outcome.run.season, out.parent / "evidence")
    with stages.stage("report"):
        report.write(outcome, versions(), peak_memory_mb(), out)
    console.print(report.summary(outcome))
    print_report(quality)
    console.print(f"report: {plain(out.resolve())}")
    twice = sum(n > 1 for n in receiver.messages.values())
    console.print(
        f"a subscription to red alerts: {sent.sent} messages sent, {len(receiver.messages)} received, {twice} twice, "
        f"{receiver.refused + sent.failed} refused or failed"
    )
    for path in bundles:
        console.print(f"evidence of an alert, with pictures: {plain(path.resolve())}")
    if not outcome.run.counted.is_complete:
        console.print("[red]not every observation that was sent is stored or accounted for[/]")
        raise typer.Exit(1)
