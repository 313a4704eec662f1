"""Plots: learning curve, confusion matrix, ROC, scores over epochs and levels; matplotlib is loaded when drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import auc, confusion_matrix, roc_curve

from pipeline.arrays import Ints
from pipeline.files.atomic_file import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_NAMED_CURVES = 6


class Curve(NamedTuple):
    """A share over levels: its mean, and half the width of its interval, 0 where unknown."""

    mean: Sequence[float]
    half: Sequence[float]


def draw_learning_curve(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss and validation score of each stage over its epochs."""
    stages = list(dict.fromkeys(record["stage"] for record in history))
    figure = _figure(6 * len(stages), 4)
    for column, stage in enumerate(stages, start=1):
        records = [record for record in history if record["stage"] == stage]
        epochs = [record["epoch"] for record in records]
        axes = figure.add_subplot(1, len(stages), column)
        axes.plot(epochs, [record["loss"] for record in records], label="training loss")
        axes.plot(epochs, [record["validation_loss"] for record in records], label="validation loss")
        if "accuracy" in records[0]:
            axes.plot(epochs, [record["score"] for record in records], label="validation macro-F1")
        axes.set(title=stage, xlabel="epoch", ylim=(0, None))
        axes.legend()
    _save(figure, path)


def draw_confusion(truth: Ints, predicted: Ints, classes: Sequence[str], title: str, path: Path) -> None:
    """Share of each true class (row) that was diagnosed as each class (column)."""
    counts = confusion_matrix(truth, predicted, labels=range(len(classes))).astype(float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = max(5.0, 0.42 * len(classes) + 2)
    figure = _figure(size, size)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=90)
    axes.set_yticks(ticks, classes)
    axes.set(title=title, xlabel="diagnosis", ylabel="truth")
    for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(
            column,
            row,
            f"{100 * shares[row, column]:.0f}",
            ha="center",
            va="center",
            fontsize=7,
            color=colour,
        )
    _save(figure, path)


def draw_roc(
    truth: Ints,
    probabilities: NDArray[np.floating[Any]],
    classes: Sequence[str],
    title: str,
    path: Path,
    *,
    normal: int | None = 0,
) -> None:
    """ROC of each class against the rest, and of "some fault against normal" if a class is normal.

    Probabilities are (N, C); few classes have a legend entry each, many are grey.
    """
    figure = _figure(7, 6)
    axes = figure.add_subplot()
    areas = []
    few = len(classes) <= _NAMED_CURVES
    for label, name in enumerate(classes):
        positive = truth == label
        if positive.any() and not positive.all():
            false_alarms, hits, _ = roc_curve(positive, probabilities[:, label])
            areas.append(auc(false_alarms, hits))
            if few:
                axes.plot(false_alarms, hits, label=f"{name}, AUC {areas[-1]:.4f}")
            else:
                axes.plot(false_alarms, hits, color="tab:grey", alpha=0.35, linewidth=0.8)
    if normal is not None:
        faulty = truth != normal
        if faulty.any() and not faulty.all():
            false_alarms, hits, _ = roc_curve(faulty, 1 - probabilities[:, normal])
            axes.plot(false_alarms, hits, color="tab:blue", label=f"any fault, AUC {auc(false_alarms, hits):.3f}")
    if areas and not few:
        axes.plot([], [], color="tab:grey", label=f"each class against the rest, mean AUC {np.mean(areas):.3f}")
    axes.set(title=title, xlabel="false alarm rate", ylabel="detection rate")
    axes.legend(loc="lower right")
    _save(figure, path)


def draw_epochs(curves: Mapping[str, Sequence[Sequence[float]]], title: str, measure: str, path: Path) -> None:
    """A score over training epochs: for each system its seeds in one colour, their mean in bold."""
    figure = _figure(8, 5)
    axes = figure.add_subplot()
    for index, (name, seeds) in enumerate(curves.items()):
        colour = f"C{index % 10}"
        for values in seeds:
            axes.plot(range(1, len(values) + 1), values, color=colour, alpha=0.3, linewidth=0.8)
        shortest = min(len(values) for values in seeds)
        mean = np.mean([values[:shortest] for values in seeds], axis=0)
        axes.plot(range(1, shortest + 1), mean, color=colour, linewidth=2, label=name)
    axes.set(title=title, xlabel="epoch", ylabel=measure)
    axes.legend()
    _save(figure, path)


def draw_levels(
    panels: Mapping[str, Mapping[str, Curve]], levels: Sequence[float], title: str, measure: str, path: Path
) -> None:
    """A share over the level of several corruptions, a panel each: one line per system, with its interval as a band."""
    columns = int(np.ceil(np.sqrt(len(panels))))
    rows = -(-len(panels) // columns)
    figure = _figure(4 * columns, 3 * rows + 0.8)
    panes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (name, curves) in zip(panes.flat, panels.items(), strict=False):
        for index, (system, curve) in enumerate(curves.items()):
            mean, half = np.array(curve.mean), np.array(curve.half)
            axes.plot(levels, mean, color=f"C{index % 10}", label=system)
            axes.fill_between(levels, mean - half, mean + half, color=f"C{index % 10}", alpha=0.2, linewidth=0)
        axes.set_title(name, fontsize="medium")
    for axes in panes.flat[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(title)
    # Intervals of few seeds reach beyond 0 and 1, and would flatten the lines.
    bottom, top = panes.flat[0].get_ylim()
    panes.flat[0].set_ylim(max(bottom, -0.02), min(top, 1.02))
    for axes in panes[-1]:
        axes.set_xlabel("level")
    figure.supylabel(measure)
    figure.legend(*panes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    # A figure without pyplot draws with the Agg canvas and has no global state.
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix.removeprefix(".") or "png", dpi=110)
