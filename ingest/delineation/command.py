"""`parcelwatch delineate`: the fields of a tile from the scenes of a season, as a file that `parcels import` takes."""

import json
import secrets
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from ingest.delineation.comparison import Known, lines, plain_values
from ingest.delineation.files import KINDS, Crops, batches, write
from ingest.delineation.season import NotDelineated, SeasonScenes
from ingest.imagery.settings import ImagerySettings
from terminal.output import console, plain

FINE = ("B02", "B03", "B04", "B08")
"""Bands of 10 m: those of the watershed."""
PIXEL_HA = 0.01


def delineate(
    scenes: Annotated[list[str], typer.Argument(help="Sentinel-2 scenes of one season, or folders of them.")],
    out: Annotated[Path, typer.Option(help="File to write: .gpkg or .parquet. An older one is replaced.")],
    model: Annotated[
        Path | None, typer.Option(help="Folder of a U-TAE or PaPs checkpoint. Default: a watershed, without crops.")
    ] = None,
    statistics: Annotated[
        Path | None, typer.Option(help="JSON with `mean` and `std` of each band (reflectance x 10,000), for --model.")
    ] = None,
    starts_on: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Day from which the model counts. Default: first scene."),
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
    if statistics is not None and model is None:
        raise typer.BadParameter("--statistics are of a --model")
    if overlap > window // 2:
        raise typer.BadParameter(f"--overlap is at most half of --window, {window // 2}")
    if not out.absolute().parent.is_dir():
        raise NotDelineated(f"{out}: no such folder; make it first")
    from db.sensors import S2_BANDS
    from models.segmentation.delineation import Settings
    from models.segmentation.delineation import delineate as drawn

    network = None if model is None else _network(model, statistics)
    settings = Settings(window, overlap, tolerance=tolerance, min_pixels=min_ha / PIXEL_HA)
    unfinished = out.with_name(f".{out.stem}.{secrets.token_hex(4)}{out.suffix.lower()}")
    try:
        with SeasonScenes(scenes, FINE if network is None else S2_BANDS, ImagerySettings()) as season:
            segmenter, crops = _segmenter(season, network, starts_on)
            grid = season.grid
            known = None if against is None else Known.read(against, grid)
            fields = drawn(grid.height, grid.width, segmenter, settings)
            rows = batches(fields, grid, crops, season.observed_to)
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
        said = {"fields": number, "scenes": len(season), "width": grid.width, "height": grid.height}
        typer.echo(json.dumps(said if fit is None else {**said, "against": plain_values(fit)}))
        return
    console.print(
        plain(f"{out}: {number} fields from {len(season)} scenes, {grid.width} x {grid.height} pixels"), soft_wrap=True
    )
    for what, value in () if fit is None else lines(fit):
        console.print(f"  {what:<36}{value:>8}")


def _network(folder: Path, statistics: Path | None) -> tuple[Any, tuple[str, ...]]:
    """Return a network with the statistics of its inputs, and the names of its classes."""
    import numpy as np

    from db.sensors import S2_BANDS
    from models.checkpoint import Checkpoint
    from models.segmentation.at_rest import from_checkpoint
    from models.segmentation.inference import folded
    from models.segmentation.segmenters import Standardised

    try:
        weights, description = (folder / "weights.pt").read_bytes(), (folder / "model.json").read_text("utf-8")
        said = None if statistics is None else json.loads(statistics.read_text("utf-8"))
    except OSError as error:
        raise NotDelineated(
            f"{error.filename}: {error.strerror}; --model is a folder of weights.pt and model.json"
        ) from error
    except ValueError as error:
        raise NotDelineated(f"{statistics or folder}: not JSON in UTF-8") from error
    network, about = from_checkpoint(Checkpoint(weights, description))
    said = about.get("statistics") if said is None else said
    try:
        mean, sd = (np.array((said or {})[name], np.float64) for name in ("mean", "std"))
    except (KeyError, TypeError, ValueError) as error:
        where = statistics or f"{folder}: the checkpoint has no statistics; give --statistics"
        raise NotDelineated(f"{where}: `mean` and `std`, a number for each of {len(S2_BANDS)} bands") from error
    made = Standardised(folded(network), mean, sd)
    if not made.channels == len(mean) == len(sd) == len(S2_BANDS) or not (np.isfinite(mean).all() and (sd > 0).all()):
        raise NotDelineated(
            f"{folder}: a network of {made.channels} channels with {len(mean)} means and {len(sd)} deviations; "
            f"it takes {len(S2_BANDS)} of Sentinel-2, deviations above 0"
        )
    return made, tuple(about.get("classes") or ())


def _segmenter(
    season: SeasonScenes, network: tuple[Any, tuple[str, ...]] | None, starts_on: datetime | None
) -> tuple[Any, Crops]:
    import numpy as np

    from models.segmentation.paps import Paps
    from models.segmentation.targets import VOID
    from models.segmentation.watershed import Watershed

    places = [season.bands.index(name) for name in FINE]
    red, nir = FINE.index("B04"), FINE.index("B08")
    if network is None:
        return lambda window: Watershed()(season.images(*window), red, nir), Crops(())
    standardised, names = network
    classes = (
        standardised.network.config.utae if isinstance(standardised.network, Paps) else standardised.network.config
    ).classes
    names = names if len(names) == classes else tuple(f"class {one}" for one in range(classes))
    days = season.days(starts_on.date() if starts_on else None)

    def by_network(window: Any) -> Any:
        images = season.images(*window, is_masked=False)
        is_seen = np.isfinite(images).any((1, 2, 3))
        if not is_seen.any():
            from models.segmentation.delineation import Instances

            return Instances(np.zeros(images.shape[2:], np.int64), np.zeros((0, classes)))
        drawn = None
        if not isinstance(standardised.network, Paps):
            drawn = Watershed()(season.images(*window)[:, places], red, nir)
        return standardised(np.nan_to_num(images[is_seen]) * 1e4, days[is_seen], drawn)

    return by_network, Crops(names, frozenset({0, VOID}))
