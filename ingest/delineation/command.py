"""`parcelwatch delineate`: the fields of a tile from the scenes of a season, as a file that `parcels import` takes."""

import json
import secrets
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from ingest.delineation.comparison import Known, lines, plain_values
from ingest.delineation.files import KINDS, Crops, batches, write
from ingest.delineation.season import FINE, NotDelineated, SeasonScenes
from ingest.imagery.settings import ImagerySettings
from terminal.output import console, plain

PIXEL_HA = 0.01


def delineate(
    scenes: Annotated[list[str], typer.Argument(help="Sentinel-2 scenes of one season, or folders of them.")],
    out: Annotated[Path, typer.Option(help="File to write: .gpkg or .parquet. An older one is replaced.")],
    model: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a training or of a U-TAE or PaPs checkpoint. Default: a watershed, without crops."
        ),
    ] = None,
    statistics: Annotated[
        Path | None,
        typer.Option(
            help="JSON with `mean` and `std` of each band (reflectance x 10,000), for a --model that has none."
        ),
    ] = None,
    starts_on: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            help="Day from which the model counts. Default: as in its training, else the first scene.",
        ),
    ] = None,
    states: Annotated[
        Path | None,
        typer.Option(
            help="Folder that keeps what --model has seen of each window: with a scene more, that one alone is encoded."
        ),
    ] = None,
    window: Annotated[int, typer.Option(min=32, help="Pixels of a window's side.")] = 256,
    overlap: Annotated[int, typer.Option(min=2, help="Pixels that windows share.")] = 64,
    tolerance: Annotated[float, typer.Option(min=0, help="Corners below its square are cut, in pixels.")] = 1.5,
    min_ha: Annotated[float, typer.Option(min=0, help="Area of the smallest field.")] = 0.25,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Known parcels, a file as `parcels import` takes it: how well the fields fit them is reported."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Draw the fields of a tile; memory is that of a stripe of it, however large it is."""
    if out.suffix.lower() not in KINDS:
        raise typer.BadParameter(f"--out {plain(out.name)} ends with none of {', '.join(KINDS)}")
    for name, given in (("--statistics", statistics), ("--states", states)):
        if given is not None and model is None:
            raise typer.BadParameter(f"{name} are of a --model")
    if overlap > window // 2:
        raise typer.BadParameter(f"--overlap is at most half of --window, {window // 2}")
    if not out.absolute().parent.is_dir():
        raise NotDelineated(f"{out}: no such folder; make it first")
    from db.sensors import S2_BANDS
    from ingest.delineation.networks import read
    from ingest.delineation.segmenting import NetworkSegmenter, by_watershed
    from models.segmentation.delineation import Segmenter, Settings
    from models.segmentation.delineation import delineate as drawn

    network = None if model is None else read(model, statistics)
    settings = Settings(window, overlap, tolerance=tolerance, min_pixels=min_ha / PIXEL_HA)
    unfinished = out.with_name(f".{out.stem}.{secrets.token_hex(4)}{out.suffix.lower()}")
    try:
        with SeasonScenes(scenes, FINE if network is None else S2_BANDS, ImagerySettings()) as season:
            segmenter: Segmenter = by_watershed(season)
            if network is not None:
                day_0 = starts_on.date() if starts_on else network.day_0(season.observed_from.date())
                segmenter = NetworkSegmenter(network, season, day_0, states)
            grid = season.grid
            known = None if against is None else Known.read(against, grid)
            fields = drawn(grid.height, grid.width, segmenter, settings)
            rows = batches(fields, grid, network.crops if network else Crops(()), season.observed_to)
            number = write(unfinished, rows, grid.crs, out.stem)
        if not number:
            raise NotDelineated("no field was found: give more clear dates, or a smaller --min-ha")
        unfinished.replace(out)
    except OSError as error:
        raise NotDelineated(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    fit = None if known is None else known.fit(out)
    if as_json:
        found: dict[str, Any] = {"fields": number, "scenes": len(season), "width": grid.width, "height": grid.height}
        if isinstance(segmenter, NetworkSegmenter):
            found["encoded"] = segmenter.encoded
        if fit is not None:
            found["against"] = plain_values(fit)
        typer.echo(json.dumps(found))
        return
    console.print(
        plain(f"{out}: {number} fields from {len(season)} scenes, {grid.width} x {grid.height} pixels"), soft_wrap=True
    )
    for what, value in () if fit is None else lines(fit):
        console.print(f"  {what:<36}{value:>8}")
