"""`parcelwatch demo`: the whole chain on simulated seasons, measured."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from monitor.quality.printed import print_report
from monitor.subscriptions.sender import Sent
from research.seasons import demo_console, report
from research.seasons.demo import demonstrate, servers
from research.seasons.demo_deliveries import Receiver
from research.seasons.demo_evidence import write_bundles
from research.seasons.demo_quality import reviewed
from research.seasons.outcome import DemoSettings, Outcome, peak_memory_mb, versions
from terminal.output import console, plain
from terminal.stages import Stages


def demo(
    parcels: Annotated[
        int, typer.Option(min=40, help="fields of the landscape, at least 20 a region")
    ] = DemoSettings.parcels,
    seed: Annotated[int, typer.Option(help="draws landscape, weather and events")] = DemoSettings.seed,
    quick: Annotated[bool, typer.Option("--quick", help="smaller and worse, for trying out")] = False,
    out: Annotated[Path, typer.Option(help="HTML file to write")] = Path("reports/demo.html"),
    is_served: Annotated[
        bool, typer.Option("--serve", help="then show the season in the console, until interrupted")
    ] = False,
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
        _say(outcome, quality, sent, receiver, bundles, out)
        if is_served:
            demo_console.serve(where.dsn)
    if not is_served:
        console.print("to decide on its alerts in a browser: `parcelwatch demo --serve`", soft_wrap=True)
    if not outcome.run.counted.is_complete:
        console.print("[red]not every observation that was sent is stored or accounted for[/]")
        raise typer.Exit(1)


def _say(
    outcome: Outcome, quality: Mapping[str, Any], sent: Sent, receiver: Receiver, bundles: Sequence[Path], out: Path
) -> None:
    """Print what was measured, and where the rest is."""
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
