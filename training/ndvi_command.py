"""`parcelwatch models train ndvi`: a stored season into a registered model, or a file's source (training.ndvi_source) into a folder.

Errors: RunConfigError for options that do not belong together; TrainingDataError for choices that a network does not have.
"""

from pathlib import Path
from typing import Annotated, Final

import typer

from terminal.output import console, plain
from terminal.stages import Stages
from training.devices import require_device, set_threads
from training.errors import RunConfigError

MODELS: Final = ("gap-filling", "mcnn-seq", "rnn", "cnn")
"""The product's gap filler, and the networks of the paper."""


def ndvi(
    season: Annotated[str | None, typer.Option(help="without a source: name of a stored season")] = None,
    collection: Annotated[str | None, typer.Option(help="without a source: collection of parcels")] = None,
    out: Annotated[Path, typer.Option(help="folder for the checkpoint")] = Path("reports/models"),
    model: Annotated[
        str, typer.Option(help="gap-filling (reconstructs curves), or of radar alone: mcnn-seq, rnn, cnn")
    ] = MODELS[0],
    config: Annotated[
        Path | None, typer.Option(help="TOML: n_updates, learning_rate ..., tables network and source")
    ] = None,
    min_area_ha: Annotated[float, typer.Option(min=0, help="without a source: leave smaller parcels out")] = 0.3,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
) -> None:
    """Train the model of the gap-free NDVI curve, or a network of the paper to compare; spatial blocks are held out.

    Of a stored season: the model is registered. With a table source in the file: of recorded parcels, a simulated season or the
    pixels of raster patches, into a folder.
    """
    if model not in MODELS:
        raise RunConfigError(f"--model {model}: one of {', '.join(MODELS)} is needed")
    require_device(device)
    if config is None and (season is None or collection is None):
        raise RunConfigError("name a stored season with --season and --collection, or a --config with a [source]")
    from models.ndvi.inputs import TrainingDataError
    from training import stored_training
    from training.ndvi_source import read_source, train
    from training.season_models import ndvi_choices, write

    set_threads()
    source, choices = (None, {}) if config is None else read_source(config)
    if source is None:
        if season is None or collection is None:
            raise RunConfigError("name a stored season with --season and --collection, or a --config with a [source]")
        asked = stored_training.Asked(season, collection, out, min_area_ha, seed, device)
        stored_training.train_ndvi(asked, model, config)
        return
    if season is not None or collection is not None:
        raise RunConfigError(f"give --season and --collection, or the [source] of {config}, not both")
    try:
        how = ndvi_choices(model, {"seed": seed} | choices)
    except (TypeError, ValueError) as error:
        raise TrainingDataError(f"{config}: {error}") from error
    with Stages(console).stage("training") as bar:
        bar.to(0.0, 1.0, "opening the source")
        data = source.open()
        found = train(data, how, lambda n, loss: bar.to(n, how.all_updates, f"loss {loss:.4f}"), device)
    write(found.checkpoint, out)
    scores = ", ".join(f"{name} {value:.4g}" for name, value in found.scores.items()) or "no held-out view"
    console.print(f"{data.series.n_parcels} {data.unit} of {plain(data.series.name)}: {scores}")
    console.print(f"model {found.checkpoint.model[:12]} written to {plain(out)}")
