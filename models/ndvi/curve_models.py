"""Models of the daily curve by what a checkpoint says that it is: the trained gap filler, or the simple smoother.

Shapes, units: those of `models.ndvi.daily_curve`.
Errors: CheckpointError for a checkpoint of another kind.
"""

from collections.abc import Mapping

from models.checkpoint import Checkpoint
from models.ndvi import whittaker
from models.ndvi.cached_state import CachedState
from models.ndvi.daily_curve import CurveRows, reconstruct_curve
from models.ndvi.gap_filler import GapModel
from models.ndvi.inputs import ClearSeries, Ints, SarSeries
from models.ndvi.views import Mode
from models.ndvi.whittaker import Whittaker

CurveModel = GapModel | Whittaker


def curve_model_of(checkpoint: Checkpoint) -> CurveModel:
    """Return the model of a checkpoint; raises CheckpointError for a network that knows radar alone."""
    description = checkpoint.describe()
    if description.get("kind") == whittaker.KIND:
        return Whittaker.from_description(description)
    return GapModel.from_checkpoint(checkpoint)


def reconstruct(
    model: CurveModel,
    sar: SarSeries,
    clear: ClearSeries,
    first_day: Ints,
    known_day: Ints,
    cached: Mapping[Mode, CachedState] | None = None,
) -> CurveRows:
    """Return the rows of `reconstruct_curve`; the smoother reads no radar and has no states."""
    if isinstance(model, Whittaker):
        return model.reconstruct(clear, first_day, known_day)
    return reconstruct_curve(model, sar, clear, first_day, known_day, cached)
