"""How often reports follow a finding that is changed: rates with intervals, a row per finding."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from r2genkit.errors import KitError

ROADS = {
    "tag": ("tag of the classifier", "#6b6b6b", "D"),
    "report": ("report", "#1f3a5f", "o"),
    "only tags": ("report, had only the tags changed", "#b34700", "<"),
    "only patches": ("report, had only the patches changed", "#0f8f6f", ">"),
}
SIDES = {
    "right before": ("right side before", "#6b6b6b", "<"),
    "right after": ("right side after", "#0f8f6f", ">"),
    "right twice": ("right both times", "#1f3a5f", "o"),
    "attention": ("more attention in the new place", "#b34700", "D"),
}
CHANGES = {"remove": "removed: no longer stated", "add": "added: now stated"}
_STEP = 0.17  # between the marks of one finding, in rows


def rates_figure(
    rates: pd.DataFrame,
    sides: pd.DataFrame | None = None,
    *,
    titles: Mapping[str, str] | None = None,
    synthetic: bool = True,
) -> Figure:
    """Share of trials that were followed, with 95 % intervals, a row per finding type.

    Args:
        rates: ``r2genkit.experiments.bench_follow.follow_rates``.
        sides: ``side_rates``; adds a panel of findings put on the other side.
        titles: plain names of the types; default: as in the tables.
        synthetic: whether the images are rendered; the figure then says so.

    Raises:
        KitError: there is nothing to draw.
    """
    if rates.empty:
        raise KitError("there are no rates to draw: let follow_trials change some findings first.")
    titles = {"all": "all of them"} | dict(titles or {})
    panels = [
        (title, rates[rates["change"] == change], ROADS)
        for change, title in CHANGES.items()
        if (rates["change"] == change).any()
    ]
    if sides is not None and not sides.empty:
        panels.append(("other side, stated before and after", sides, SIDES))
    most = max(len(own) for _, own, _ in panels)
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(1.2 + 3.5 * len(panels), 1.5 + 0.72 * most),
        squeeze=False,
        layout="constrained",
    )
    for axis, (title, own, marks) in zip(axes[0], panels):
        _panel(axis, title, own, marks, titles)
    done = set()
    for axis, (_, _, marks) in zip(axes[0], panels):
        if marks is ROADS and "roads" in done:
            continue
        done.add("roads" if marks is ROADS else "sides")
        axis.legend(
            loc="upper left", bbox_to_anchor=(0, -0.07), fontsize=7.5, frameon=False,
            handletextpad=0.4,
        )  # fmt: skip
    if synthetic:
        figure.text(0.5, 0.02, "synthetic phantom images", ha="center", fontsize=7, color="0.4")
    plt.close(figure)  # the caller's alone: a notebook would show it a second time
    return figure


def _panel(axis, title, rates, marks, titles) -> None:
    kinds = list(rates["kind"])
    offsets = (np.arange(len(marks)) - (len(marks) - 1) / 2) * _STEP
    for (column, (label, colour, marker)), offset in zip(marks.items(), offsets):
        for place, rate in enumerate(rates[column]):
            if not rate.of:
                continue
            low, high = rate.interval
            y = place + offset
            axis.plot([low, high], [y, y], color=colour, linewidth=1.2, alpha=0.75)
            axis.plot([rate.share], [y], marker=marker, color=colour, markersize=5, linestyle="")
        axis.plot([], [], marker=marker, color=colour, markersize=5, label=label)
    counted = "report" if "report" in rates.columns else "right twice"
    axis.set_yticks(
        range(len(kinds)),
        [f"{titles.get(kind, kind)}\n(n = {rate.of})" for kind, rate in zip(kinds, rates[counted])],
        fontsize=8,
    )
    for place in range(1, len(kinds)):
        axis.axhline(place - 0.5, color="0.88", linewidth=0.8)
    axis.set_ylim(len(kinds) - 0.5, -0.5)
    axis.set_xlim(-0.02, 1.02)
    axis.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"], fontsize=8)
    axis.grid(axis="x", color="0.9", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.set_title(title, fontsize=9.5, loc="left")
