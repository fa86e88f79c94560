"""The plots of a run: how each fold learnt, and whether its posteriors are honest."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.classifier.fitting import Epoch
from training.cross_validation import CrossValidation
from training.metrics import Bin, reliability

_COLUMNS = 3


def curves(parts: Mapping[str, Sequence[Epoch]]) -> bytes:
    """PNG: loss and validation scores of each model against the epoch, rounds one after the other."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, scores = figure.subplots(1, 2)
    for nr, (name, epochs) in enumerate(parts.items()):
        at = [(one.round - 1) * one.of + one.number for one in epochs]
        loss.plot(at, [one.loss for one in epochs], color=_colour(nr), linewidth=1, label=name)
        known = [(x, one.miou, one.macro_f1) for x, one in zip(at, epochs, strict=True) if one.miou is not None]
        x, miou, macro_f1 = zip(*known, strict=True) if known else ((), (), ())
        scores.plot(x, miou, color=_colour(nr), linewidth=1, label=name)
        scores.plot(x, macro_f1, color=_colour(nr), linewidth=1, linestyle=":")
    loss.set(xlabel="epoch", ylabel="training loss", yscale="log")
    scores.set(xlabel="epoch", ylabel="validation mIoU (line), macro-F1 (dots)", ylim=(0, 1))
    loss.legend(frameon=False)
    return _png(figure)


def reliabilities(known: CrossValidation) -> bytes:
    """PNG: share that is right against confidence, over all scored days and at each."""
    pools = [known.pooled(nr) for nr in range(len(known.days))]
    panels = {"all days": reliability(pools)}
    panels |= {name: reliability([pool]) for name, pool in zip(known.day_names, pools, strict=True)}
    rows = -(-len(panels) // _COLUMNS)
    figure = Figure(figsize=(3.2 * _COLUMNS, 3.1 * rows), layout="constrained")
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axis, (name, bins) in zip(axes, panels.items(), strict=False):
        _reliability(axis, name, bins)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return _png(figure)


def _reliability(axis: Axes, name: str, bins: Sequence[Bin]) -> None:
    most = max(one.n for one in bins)
    axis.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--", alpha=0.5)
    x, y = [one.confidence for one in bins], [one.accuracy for one in bins]
    axis.plot(x, y, color=_colour(0), linewidth=1, alpha=0.6)
    axis.scatter(x, y, s=[8 + 120 * one.n / most for one in bins], color=_colour(0), alpha=0.7, linewidths=0)
    axis.set(title=name, xlim=(0, 1.03), ylim=(0, 1.05), xlabel="highest posterior", ylabel="share that is right")


def _colour(nr: int) -> str:
    return f"C{nr % 10}"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context({"savefig.dpi": 140}):
        figure.savefig(buffer, format="png")
    return buffer.getvalue()
