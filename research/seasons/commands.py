"""`parcelwatch demo`: the whole chain on simulated seasons, measured."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from monitor.quality.printed import print_report
from monitor.subscriptions.sender import Sent
from research.seasons import console_pictures, report
from research.seasons.console_pictures import NoPictures, Picture
from research.seasons.demo import demonstrate, servers
from research.seasons.demo_deliveries import Receiver
from research.seasons.demo_evidence import write_bundles
from research.seasons.demo_quality import reviewed
from research.seasons.outcome import DemoSettings, Outcome, peak_memory_mb, versions
from terminal.output import console, plain
from terminal.stages import Stages
from web.serve_command import serve, serve_to_visitor
from web.settings import WebSettings


def demo(
    parcels: Annotated[
        int, typer.Option(min=40, help="fields of the landscape, at least 20 a region")
    ] = DemoSettings.parcels,
    seed: Annotated[int, typer.Option(help="draws landscape, weather and events")] = DemoSettings.seed,
    quick: Annotated[bool, typer.Option("--quick", help="smaller and worse, for trying out")] = False,
    out: Annotated[Path, typer.Option(help="HTML file to write")] = Path("reports/demo.html"),
    is_served: Annotated[
        bool, typer.Option("--serve", help="then show the season in the console, as `serve --demo` does")
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
        with stages.stage("pictures of the console"):
            pictures = _pictures(where.dsn, bundles)
        with stages.stage("report"):
            report.write(outcome, versions(), peak_memory_mb(), out, pictures)
        _say(outcome, quality, sent, receiver, bundles, out)
        if isinstance(pictures, str):
            console.print(f"no pictures of the console in the report: {plain(pictures)}", soft_wrap=True)
        if is_served and not where.is_kept:
            serve_to_visitor(where.dsn, WebSettings())
    if where.is_kept and not is_served:
        console.print("\nTo look at its alerts in a browser, and decide on them: [bold]make console[/]", soft_wrap=True)
    if not outcome.run.counted.is_complete:
        console.print("[red]not every observation that was sent is stored or accounted for[/]")
        raise typer.Exit(1)
    if where.is_kept and is_served:
        serve(demo=True)


def _pictures(dsn: str, bundles: Sequence[Path]) -> list[Picture] | str:
    """Return pictures of the console, or why there are none; of the parcels, that of the first alert with pictures from above."""
    try:
        return console_pictures.taken(dsn, int(bundles[0].stem.removeprefix("alert-")) if bundles else None)
    except NoPictures as error:
        return str(error)


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
