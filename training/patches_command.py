"""`parcelwatch models patches`: patches for networks of pixels and of fields, from a season's scenes and declared parcels."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from terminal.output import console, plain
from training.errors import PatchError


def patches(  # the options of the command
    scenes: Annotated[
        list[str],
        typer.Argument(help="Sentinel-2 and, if wanted, Sentinel-1 scenes of one season, or folders of them."),
    ],
    parcels: Annotated[Path, typer.Option(help="Declared parcels with crops, a file as `parcels import` takes it.")],
    out: Annotated[Path, typer.Option(help="Folder to write, which must not be there.")],
    side: Annotated[int, typer.Option(min=16, help="Pixels of a patch's side, a multiple of 8.")] = 128,
    block: Annotated[int, typer.Option(min=1, help="Patches of a block's side; a block is of one fold.")] = 2,
    gap: Annotated[int, typer.Option(min=0, help="Pixels between blocks.")] = 32,
    classes: Annotated[
        Path | None, typer.Option(help="TOML file: [classes], then names of classes with lists of crops.")
    ] = None,
    min_parcels: Annotated[
        int, typer.Option(min=1, help="Without --classes: crops with fewer parcels have no class.")
    ] = 12,
    undeclared_void: Annotated[
        bool, typer.Option("--undeclared-void", help="Land of no parcel is void. Default: background.")
    ] = False,
    starts_on: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Day 0. Default: the first scene of Sentinel-2.")
    ] = None,
    agency: Annotated[str | None, typer.Option(help="As for `parcels import`, like those below.")] = None,
    id_column: Annotated[list[str] | None, typer.Option()] = None,
    crop_code_column: Annotated[str | None, typer.Option()] = None,
    crop_name_column: Annotated[str | None, typer.Option()] = None,
    crs: Annotated[str | None, typer.Option()] = None,
    layer: Annotated[str | None, typer.Option()] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Report as JSON.")] = False,
) -> None:
    """Cut patches of a season's images with crops and fields, for `models train segmentation | panoptic`; one that was stopped goes on."""
    if side % 8:
        raise typer.BadParameter("--side is a multiple of 8, by which the networks divide it")
    from ingest.delineation.passes import passes
    from ingest.delineation.season import grid_over
    from ingest.parcels.columns import load_agency
    from ingest.parcels.declared import ImportOptions
    from training.patch_cutting import Cutting, Source, cut
    from training.patch_labels import read_classes, read_labels

    given = {"id": tuple(id_column or ()), "crop_code": crop_code_column, "crop_name": crop_name_column}
    options = ImportOptions(
        load_agency(agency) if agency else None, {name: one for name, one in given.items() if one}, crs=crs, layer=layer
    )
    class_of = None if classes is None else read_classes(classes)
    optical = passes(scenes, "S2")
    if not optical:
        raise PatchError(f"{', '.join(scenes)}: no scene of Sentinel-2, on whose grid patches are cut")
    grid = grid_over([one for of in optical for one in of.scenes])
    labels = read_labels(parcels, grid, options, class_of, min_parcels)
    day = starts_on.date() if starts_on else optical[0].day
    source = Source((*optical, *passes(scenes, "S1")), grid, labels, day)
    made = cut(out, source, Cutting(side, block, gap, undeclared_void))
    if as_json:
        typer.echo(json.dumps(vars(made)))
        return
    counts = ", ".join(f"{name} {n}" for name, n in made.parcels.items())
    folds = " ".join(str(n) for n in made.folds.values())
    seen = ", ".join(f"{n} of {name}" for name, n in made.passes.items())
    left_out = f"; {made.left_out} left out, of which a sensor shows nothing" if made.left_out else ""
    console.print(plain(f"{out}: {made.patches} patches in folds of {folds}, passes: {seen}{left_out}"), soft_wrap=True)
    console.print(plain(f"labelled parcels: {counts}"), soft_wrap=True)
