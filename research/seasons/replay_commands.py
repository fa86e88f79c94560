"""`parcelwatch replay` and `parcelwatch simulate`: seasons for a person's own servers, or for servers of the moment."""

import os
import shlex
from dataclasses import replace
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from db.connect import engine
from db.parcels import load_parcels
from db.seasons import UnknownSeason, season_by_name
from devstack.addresses import resolve_broker, resolve_dsn
from ingest.stream.producer import ObservationProducer
from ingest.stream.settings import IngestSettings
from models.ndvi.training import GapTrainingConfig
from monitor.settings import MonitorSettings
from monitor.worker import Worker
from research.seasons.demo import servers
from research.seasons.recorded import open_season
from research.seasons.replay import ReplaySettings, replay
from research.seasons.replay_source import SeasonDataError
from research.seasons.scoreboard import append_log, write_json
from research.seasons.season_stream import Chain, Replayed, prepare
from research.simulator import Season, SimulatorConfig, simulate_season
from terminal.output import console, plain, progress
from terminal.stages import Stages


class RecordedKind(StrEnum):
    """Forms of recorded seasons."""

    NL = "nl"
    FR = "fr"


def replay_season(
    kind: Annotated[RecordedKind, typer.Argument(help="form of the folder")],
    folder: Annotated[Path, typer.Argument(help="folder with the recorded season")],
    train_on: Annotated[
        Path | None, typer.Option(help="train on this folder of the same form, score on the other")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the scores to this file")] = None,
    log: Annotated[Path | None, typer.Option(help="append the scores to this Markdown log (docs/LOG.md)")] = None,
    epochs: Annotated[int | None, typer.Option(help="passes over the season in training the classifier", min=1)] = None,
    ndvi_updates: Annotated[int | None, typer.Option(help="updates in training NDVI", min=1)] = None,
    seed: int = 0,
) -> None:
    """Stream a recorded season through Kafka, the store and the monitor, and score it on parcels no model saw."""
    if train_on is not None and train_on.resolve() == folder.resolve():
        raise SeasonDataError(
            f"{folder}: a score on what was trained on says nothing; give another folder, or leave out --train-on"
        )
    season, past = open_season(kind.value, folder), None if train_on is None else open_season(kind.value, train_on)
    ndvi = GapTrainingConfig(seed=seed)
    ndvi = ndvi if ndvi_updates is None else replace(ndvi, n_updates=ndvi_updates)
    stages = Stages(console)
    with servers(os.environ, stages) as where:
        console.print(f"servers: {plain(where.what)}")
        prepare(where.dsn)
        ingest = IngestSettings(topic_prefix=where.topic_prefix)
        chain = Chain(where.dsn, where.bootstrap, ingest, Worker(where.dsn, MonitorSettings()))
        with stages.stage("replay") as bar:

            def report(what: str, share: float | None) -> None:
                bar.to(share or 0.0, None if share is None else 1.0, what)

            def on_day(day: date, replayed: Replayed) -> None:
                share = (day - season.starts_on).days / max((season.ends_on - season.starts_on).days, 1)
                bar.to(share, 1.0, f"{day}: {replayed.stored:,} stored, {replayed.work.posteriors:,} posteriors")

            scores = replay(chain, season, past, ReplaySettings(epochs=epochs, seed=seed, ndvi=ndvi), report, on_day)
    for table in scores.tables():
        console.print(table)
    console.print(plain("; ".join(f"{name} {value}" for name, value in scores.facts.items())))
    if json_file is not None:
        write_json(json_file, scores)
        console.print(f"scores: {plain(json_file)}")
    if log is not None:
        append_log(log, scores.markdown())
        console.print(f"log: {plain(log)}")
    if scores.facts["observations sent"] != scores.facts["stored"]:
        console.print("[red]not every observation that was sent is stored[/]")
        raise typer.Exit(1)


def simulate(
    year: Annotated[int, typer.Option(help="harvest year")] = 2025,
    parcels: Annotated[int, typer.Option(min=40, help="fields of the landscape")] = 400,
    seed: Annotated[int, typer.Option(help="draws landscape, weather and events")] = 1,
    collection: Annotated[
        str, typer.Option(help="collection that the parcels are, or will be, imported as")
    ] = "simulated",
    out: Annotated[Path, typer.Option(help="folder for the parcel file and the truth")] = Path("reports/simulated"),
    send: Annotated[bool, typer.Option(help="send the observations to the broker; import the parcels first")] = False,
) -> None:
    """Simulate a season: its parcel file and truth to a folder, its observations to the broker."""
    season = simulate_season(SimulatorConfig(year=year, n_parcels=parcels, seed=seed, collection=collection))
    out.mkdir(parents=True, exist_ok=True)
    path, events = out / f"parcels-{season.name}.geojson", out / f"events-{season.name}.csv"
    season.parcels.to_file(path, driver="GeoJSON")
    season.truth.events.to_csv(events, index=False)
    importing = (
        f"parcelwatch parcels import {shlex.quote(str(path))} --collection {shlex.quote(collection)} --season {season.name} "
        f"--starts-on {season.starts_on} --ends-on {season.ends_on}"
    )
    typer.echo(f"{len(season.parcels)} parcels: {path}; injected events: {events}")
    if not send:
        typer.echo(f"import them: {importing}")  # never wrapped: it is pasted
        return
    _require_imported(season, importing)
    typer.echo(f"{_send(season):,} observations sent; `parcelwatch ingest run` stores them")


def _require_imported(season: Season, importing: str) -> None:
    """Raise SeasonDataError unless the store holds every parcel of a season: the others would become dead letters."""
    with engine(resolve_dsn()).connect() as connection:
        try:
            known = load_parcels(connection, season_by_name(connection, season.name), season.config.collection)
        except UnknownSeason:
            known = []
    missing = set(season.parcels["parcel_id"].astype(str)) - {one.source_id for one in known}
    if missing:
        raise SeasonDataError(
            f"{len(missing)} of {len(season.parcels)} parcels are not stored in collection {season.config.collection} of "
            f"season {season.name}, so nothing was sent; first run: {importing}"
        )


def _send(season: Season) -> int:
    """Send what a season has observed until now, since what lies in the future would be refused; return the rows."""
    n_rows = 0
    with ObservationProducer(resolve_broker().bootstrap, IngestSettings()) as producer, progress("sending") as steps:
        for acquisition in season.acquisitions(until=datetime.now(UTC)):
            producer.send(acquisition.table)
            n_rows += acquisition.table.num_rows
            steps.to(n_rows, what=f"{acquisition.available_at:%Y-%m-%d}: {n_rows:,} observations")
    return n_rows
