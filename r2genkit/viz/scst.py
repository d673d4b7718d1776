"""Figures of training by rewards: the spread of a gradient, two phases, what a reward moved."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from r2genkit.errors import KitError
from r2genkit.metrics.uncertainty import Difference
from r2genkit.viz.results import _finish

FIRST = "#4c4c4c"


def spread_figure(estimates: Mapping[str, np.ndarray], exact: float, name: str) -> Figure:
    """Estimates of one number of a gradient, a histogram per estimator, around the exact value.

    Args:
        estimates: ``[M]`` by name of the estimator.
        exact: what they estimate.
        name: of the number, for the axis.

    Raises:
        KitError: no estimator.
    """
    if not estimates:
        raise KitError("the figure got no estimates to show; give at least one estimator.")
    values = np.concatenate([np.asarray(each, dtype=float) for each in estimates.values()])
    bins = np.linspace(values.min(), values.max() + 1e-12, 41)
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(
            len(estimates), 1, figsize=(6.4, 1.3 * len(estimates) + 0.7), sharex=True, squeeze=False
        )
        for axis, (title, each) in zip(axes[:, 0], estimates.items()):
            axis.hist(each, bins=bins, color="#1f6fb2")
            axis.axvline(exact, color="#d1690e", lw=1.5)
            axis.set_title(f"{title}: SD {np.std(each):.3g}", fontsize=9, loc="left")
            axis.set_yticks([])
        axes[-1, 0].set_xlabel(name, fontsize=9)
        figure.tight_layout()
    return _finish(figure, False)


def read_steps(folder: Path) -> list[dict[str, float]]:
    """``steps.jsonl`` of a run's folder: what was logged every few minibatches.

    Raises:
        KitError: the run has no such file.
    """
    path = Path(folder) / "steps.jsonl"
    if not path.is_file():
        raise KitError(f"{path} does not exist: train with training.log_every set")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def smoothed(values: Sequence[float], width: int) -> np.ndarray:
    """Running mean over ``width`` values, fewer at the start: ``[M] -> [M]``."""
    sums = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def phases_figure(
    first: Sequence[Mapping],
    second: Mapping[str, Sequence[Mapping]],
    steps: Mapping[str, Sequence[Mapping]],
    *,
    loss: str,
    scores: Sequence[str],
    start: int,
    synthetic: bool,
) -> Figure:
    """Training in two phases: first on references, then on rewards.

    First panel: loss of the first phase per epoch. Second: reward earned while training in the
    second phase, as a multiple of what the first tenth of its steps earned, so that rewards of
    different scale share an axis. Then one panel per validation score through both phases.

    Args:
        first: history of the first phase.
        second: histories of the second phase by title; each starts from the same weights.
        steps: logged steps of the second phase by title.
        loss: part of the first phase's loss, e.g. "token_ce".
        scores: validation scores.
        start: epoch of the first phase whose weights the second began with.
        synthetic: whether to tag the figure as drawn from phantom images.

    Raises:
        KitError: no epoch ``start`` in the first phase.
    """
    by_epoch = {entry["epoch"]: entry for entry in first}
    if start not in by_epoch:
        raise KitError(f"the first phase has no epoch {start}: give the history of the run itself.")
    change = by_epoch[start]["step"]
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(
            1, 2 + len(scores), figsize=(2.9 * (2 + len(scores)), 3.2), squeeze=False
        )
        losses, rewards, *panels = axes[0]
        points = [(e["step"], e["train"][loss]) for e in first if loss in e["train"]]
        losses.plot(*zip(*points), marker="o", ms=3, color=FIRST)
        losses.axvline(change, color="0.6", lw=0.8, ls="--")
        losses.set_title(f"first phase: {loss}", fontsize=9)
        rewards.axhline(1.0, color="0.6", lw=0.8)
        for title, rows in steps.items():
            earned = [row["reward"] for row in rows]
            tenth = max(1, len(earned) // 10)
            level = np.mean(earned[:tenth])
            shown = smoothed(earned, tenth) / (level or 1.0)
            rewards.plot([row["step"] for row in rows], shown, label=title)
        rewards.set_title("second phase: reward, first tenth = 1", fontsize=9)
        for axis, score in zip(panels, scores):
            points = [
                (e["step"], e["validation"][score])
                for e in first
                if score in e.get("validation", {})
            ]
            axis.plot(*zip(*points), marker="o", ms=3, color=FIRST, label="cross-entropy")
            for title, history in second.items():
                points = [
                    (change + e["step"], e["validation"][score])
                    for e in history
                    if score in e.get("validation", {})
                ]
                axis.plot(*zip(*points), marker="o", ms=3, label=title)
            axis.axvline(change, color="0.6", lw=0.8, ls="--")
            axis.set_title(f"validation {score}", fontsize=9)
        for axis in axes[0]:
            axis.set_xlabel("minibatches", fontsize=8)
            axis.tick_params(labelsize=7)
        handles, labels = (panels or [rewards])[-1].get_legend_handles_labels()
        figure.tight_layout(rect=(0, 0, 1, 0.9))
        # Above the panels: within them there is a curve at every height.
        figure.legend(
            handles, labels, loc="upper center", ncols=len(labels), fontsize=8, frameon=False
        )
    return _finish(figure, synthetic)


def moved_by_reward_figure(
    differences: Mapping[str, Mapping[str, Difference]],
    metrics: Sequence[str],
    *,
    against: str,
    synthetic: bool,
) -> Figure:
    """What each reward moved: paired differences with intervals, a panel per metric.

    Args:
        differences: by run and metric.
        metrics: panels, in order.
        against: what the differences are taken to, for the axis.
        synthetic: whether to tag the figure as drawn from phantom images.

    Raises:
        KitError: no run, or a metric that a run lacks.
    """
    if not differences:
        raise KitError("the figure got no differences to show; give at least one run.")
    for title, found in differences.items():
        if missing := [name for name in metrics if name not in found]:
            raise KitError(f"{title} has no difference in {missing[0]}: choose other metrics.")
    places = np.arange(len(differences))[::-1]
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(
            1,
            len(metrics),
            figsize=(2.5 * len(metrics) + 2.0, 0.45 * len(differences) + 1.3),
            sharey=True,
            squeeze=False,
        )
        for axis, metric in zip(axes[0], metrics):
            axis.xaxis.set_major_locator(MaxNLocator(4))
            axis.axvline(0, color="0.4", lw=1)
            for place, found in zip(places, differences.values()):
                d = found[metric]
                color = "#8c8c8c" if d.low <= 0 <= d.high else "#1a9850" if d.low > 0 else "#d73027"
                axis.plot([d.low, d.high], [place, place], color=color, lw=2)
                axis.plot(d.value, place, "o", color=color, ms=6)
            axis.set_title(metric, fontsize=10)
            axis.tick_params(labelsize=8)
        axes[0, 0].set_yticks(places, list(differences), fontsize=9)
        axes[0, 0].set_ylim(-0.6, len(differences) - 0.4)
        figure.supxlabel(f"minus {against}, with 95 % interval", fontsize=9)
        figure.tight_layout()
    return _finish(figure, synthetic)
