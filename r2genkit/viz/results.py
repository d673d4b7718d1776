"""Figures of result rows and training histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from r2genkit.experiments.results import ResultRow
from r2genkit.experiments.tables import by_run, group_rows

BASELINE, MODEL = "#8c8c8c", "#1f6fb2"


def _finish(figure: Figure, synthetic: bool) -> Figure:
    """Say what is synthetic; hand the figure over, so that a notebook shows it once."""
    plt.close(figure)
    if synthetic:
        figure.text(
            0.995,
            0.002,
            "synthetic phantom images",
            ha="right",
            va="bottom",
            fontsize=7,
            color="0.4",
        )
    return figure


def _one_group(rows: Sequence[ResultRow]) -> list[ResultRow]:
    groups = group_rows(rows)
    if len(groups) != 1:
        raise ValueError(f"rows of {len(groups)} tables cannot share a figure")
    return sorted(rows, key=lambda row: (row.order, row.run, row.seed))


def score_figure(
    rows: Sequence[ResultRow], metrics: Sequence[str] = ("BLEU-4", "CIDEr", "finding-F1")
) -> Figure:
    """One panel per metric, one line per run: value and 95 % interval, baselines in grey.

    Where several seeds have been run, point and interval are means over seeds, as in the tables,
    and each seed is a small stroke.
    """
    runs = by_run(_one_group(rows))
    places = np.arange(len(runs))[::-1]
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(
            1, len(metrics), figsize=(3.2 * len(metrics) + 2.2, 0.36 * len(runs) + 1.3), sharey=True
        )
        for axis, metric in zip(np.atleast_1d(axes), metrics):
            for place, (_, group) in zip(places, runs):
                scores = [row.metrics[metric] for row in group]
                if any(score.value is None for score in scores):
                    axis.text(0, place, "not run", va="center", fontsize=8, color="0.4")
                    continue
                value = np.mean([score.value for score in scores])
                low, high = (
                    np.mean([score.value if end is None else end for score, end in pairs])
                    for pairs in ([(s, s.low) for s in scores], [(s, s.high) for s in scores])
                )
                color = MODEL if group[0].kind == "model" else BASELINE
                axis.errorbar(
                    value,
                    place,
                    xerr=[[max(value - low, 0)], [max(high - value, 0)]],
                    fmt="o",
                    ms=5,
                    capsize=3,
                    color=color,
                )
                if len(scores) > 1:
                    values = [score.value for score in scores]
                    axis.plot(values, [place] * len(values), "|", ms=11, mew=1, color=color)
            axis.set_title(metric, fontsize=10)
            axis.set_xlim(left=min(0, axis.get_xlim()[0]))
            axis.tick_params(labelsize=8)
        titles = [group[0].title for _, group in runs]
        np.atleast_1d(axes)[0].set_yticks(places, titles, fontsize=9)
        figure.tight_layout()
    return _finish(figure, rows[0].synthetic)


def image_use_figure(rows: Sequence[ResultRow], metric: str = "finding-F1") -> Figure:
    """How far each model's score falls when every study gets another study's images.

    A model that writes the same report for all studies loses nothing; one that reads the image
    loses almost everything. Several seeds of a run give their mean.
    """
    runs = by_run([row for row in _one_group(rows) if row.swap])
    places = np.arange(len(runs))[::-1]
    with sns.axes_style("whitegrid"):
        figure, axis = plt.subplots(figsize=(7.2, 0.5 * max(len(runs), 1) + 1.4))
        for place, (_, group) in zip(places, runs):
            own = np.mean([row.metrics[metric].value for row in group])
            swapped = np.mean([row.swap[metric].value for row in group])
            axis.plot([swapped, own], [place, place], color="0.75", lw=2, zorder=1)
            axis.scatter(own, place, color=MODEL, zorder=2, label="own images")
            axis.scatter(
                swapped, place, facecolor="white", edgecolor=MODEL, zorder=2, label="swapped images"
            )
        axis.set_yticks(places, [group[0].title for _, group in runs], fontsize=9)
        axis.set_ylim(-0.6, len(runs) - 0.4)
        axis.set_xlim(left=-0.01)
        axis.set_xlabel(metric)
        if runs:
            handles, labels = axis.get_legend_handles_labels()
            # Above the axis: inside, there is a row of points at every height.
            axis.legend(
                handles[:2],
                labels[:2],
                fontsize=8,
                loc="lower center",
                bbox_to_anchor=(0.5, 1.0),
                ncols=2,
                frameon=False,
            )
        figure.tight_layout()
    return _finish(figure, rows[0].synthetic)


def history_figure(
    histories: Mapping[str, Sequence[Mapping]], keys: Sequence[str], *, synthetic: bool
) -> Figure:
    """One panel per key, one line per run, over epochs.

    Args:
        histories: history entries (as ``RunResult.history``) by run title.
        keys: which entries to draw, e.g. "train/loss", "validation/finding-F1".
        synthetic: whether to tag the figure as drawn from phantom images.
    """
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(1, len(keys), figsize=(3.6 * len(keys), 3.0))
        for axis, key in zip(np.atleast_1d(axes), keys):
            for title, history in histories.items():
                group, name = key.split("/", 1)
                points = [
                    (entry["epoch"], entry[group][name])
                    for entry in history
                    if name in entry.get(group, {})
                ]
                if points:
                    axis.plot(*zip(*points), marker="o", ms=3, label=title)
            axis.set_title(key, fontsize=10)
            axis.set_xlabel("epoch")
            axis.tick_params(labelsize=8)
        np.atleast_1d(axes)[-1].legend(fontsize=8)
        figure.tight_layout()
    return _finish(figure, synthetic)
