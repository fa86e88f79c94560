"""The plots of a run: how each fold learnt, and whether its posteriors are honest."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from models.classifier.fitting import Epoch
from training.cross_validation import CrossValidation
from training.metrics import Bin, reliability
from training.scores import RunScores

_COLUMNS = 3


def curves(parts: Mapping[str, Sequence[Epoch]]) -> bytes:
    """PNG: loss and validation scores of each model against the epoch, rounds one after the other."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, scores = figure.subplots(1, 2)
    for nr, (name, epochs) in enumerate(parts.items()):
        for round_ in sorted({one.round for one in epochs}):
            own = [(_at(one), one) for one in epochs if one.round == round_]
            label = name if round_ == 1 else None
            loss.plot([x for x, _ in own], [one.loss for _, one in own], color=_colour(nr), linewidth=1, label=label)
            known = [(x, one.miou, one.macro_f1) for x, one in own if one.miou is not None]
            x, miou, macro_f1 = zip(*known, strict=True) if known else ((), (), ())
            scores.plot(x, miou, color=_colour(nr), linewidth=1, marker=".")
            scores.plot(x, macro_f1, color=_colour(nr), linewidth=1, linestyle=":", marker=".")
    loss.set(xlabel="epoch", ylabel="training loss", yscale="log")
    for formatter in (loss.yaxis.set_major_formatter, loss.yaxis.set_minor_formatter):
        formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # 0.7, not 7 x 10^-1
    scores.set(xlabel="epoch", ylabel="validation score", xlim=loss.get_xlim(), ylim=(0, 1.03))
    for axis in (loss, scores):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    loss.legend(frameon=False, title="model")
    key = [Line2D([], [], color="black", linestyle=style) for style in ("-", ":")]
    scores.legend(key, ["mIoU", "macro-F1"], frameon=False, loc="lower right")
    return _png(figure)


def _at(epoch: Epoch) -> int:
    """Return an epoch's place on the axis: rounds, each with weights of its own, follow one another."""
    return (epoch.round - 1) * epoch.of + epoch.number


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


def confusions(scores: RunScores) -> bytes:
    """PNG: parcels by true crop and answer on the first and the last scored day; the shade is the share of the true crop."""
    days = scores.days if len(scores.days) == 1 else (scores.days[0], scores.days[-1])
    names = days[0].crops.classes
    side = max(3.4, 1.6 + 0.42 * len(names))
    figure = Figure(figsize=(side * len(days) + 0.8, side + 0.4), layout="constrained")
    axes = figure.subplots(1, len(days), squeeze=False, sharey=True).ravel()
    for axis, day in zip(axes, days, strict=True):
        counts = np.array(day.crops.confusion)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        shown = axis.imshow(share, vmin=0, vmax=1, cmap="Blues")
        for row, column in np.argwhere(counts):
            colour = "white" if share[row, column] > 0.5 else "black"
            text = f"{counts[row, column]}"
            axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=7.5)
        axis.set(title=f"as known on {day.name}, {counts.sum()} parcels", xlabel="answer")
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.title.set_fontsize(9)
    axes[0].set_ylabel("true crop")
    figure.colorbar(shown, ax=axes, label="share of the true crop")
    return _png(figure)


def _reliability(axis: Axes, name: str, bins: Sequence[Bin]) -> None:
    most = max(one.n for one in bins)
    axis.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--", alpha=0.5)
    x, y = [one.confidence for one in bins], [one.accuracy for one in bins]
    axis.plot(x, y, color=_colour(0), linewidth=1, alpha=0.6)
    axis.scatter(x, y, s=[8 + 120 * one.n / most for one in bins], color=_colour(0), alpha=0.7, linewidths=0)
    for one in bins:
        axis.annotate(
            f"{one.n:,}", (one.confidence, one.accuracy), (0, 7), textcoords="offset points", ha="center", fontsize=6
        )
    axis.set(xlim=(0, 1.03), ylim=(0, 1.09), xlabel="highest posterior", ylabel="share that is right")
    axis.set_title(f"{name}, {sum(one.n for one in bins):,} answers", fontsize=9)


def _colour(nr: int) -> str:
    return f"C{nr % 10}"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context({"savefig.dpi": 140}):
        figure.savefig(buffer, format="png")
    return buffer.getvalue()
