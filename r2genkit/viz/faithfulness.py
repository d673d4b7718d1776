"""Figures of faithfulness: where maps point, and what a finding's words depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from r2genkit.errors import KitError
from r2genkit.experiments.faithfulness import MAPS, FaithfulnessRow, Measured
from r2genkit.images import render_view
from r2genkit.metrics.faithfulness import energy, energy_chance
from r2genkit.study import Study
from r2genkit.viz.attention import upsample
from r2genkit.viz.metrics import BLUE, DARK, GREEN, GREY, ORANGE, RED
from r2genkit.viz.private import bare, tagged
from r2genkit.viz.transformer import drawn_masks

_STYLE = {
    "attention": (BLUE, "o"),
    "rollout": (GREEN, "s"),
    "gradient": (ORANGE, "D"),
    "random": (GREY, "x"),
    "centre": (DARK, "+"),
}
_MEANING = {
    "pointing": "pointing game\n(heaviest patch shows the finding)",
    "energy": "energy\n(share of the map on the finding)",
    "deletion": "deletion\n(small is faithful)",
    "insertion": "insertion\n(large is faithful)",
}


def finding_maps_figure(
    found: Measured, studies: Mapping[str, Study], chosen: Sequence[int], *, grid: int
) -> Figure:
    """Maps of a few finding words on both views, with the outline of what the phantom drew.

    Args:
        found: maps of P units.
        studies: of the phantom, by id.
        chosen: which units, one row each.
        grid: patches per side of a view.

    Raises:
        KitError: no unit is chosen.
    """
    if not chosen:
        raise KitError("there is no finding word to draw: choose at least one")
    kinds = [kind for kind in MAPS if kind in found.maps and kind != "random"]
    figure, axes = plt.subplots(
        len(chosen),
        2 * len(kinds),
        figsize=(1.55 * 2 * len(kinds), 2.05 * len(chosen)),
        squeeze=False,
        layout="constrained",
    )
    for line, number in zip(axes, chosen):
        unit = found.units[number]
        study = studies[unit.study]
        side = max(64, 16 * grid)
        drawn = drawn_masks(study, side)[unit.finding]  # [V, side, side]
        present = found.present[number]
        even = float(energy_chance(unit.cover, present))
        for column, kind in enumerate(kinds):
            values = found.maps[kind][number]
            share = float(energy(values, unit.cover, present))
            both = values.reshape(2, grid, grid)
            top = both.max() or 1.0
            for place in range(2):
                axis = line[2 * column + place]
                axis.set_xticks([])
                axis.set_yticks([])
                for edge in axis.spines.values():
                    edge.set_visible(False)
                if place >= len(study.views):
                    continue
                pixels = render_view(study.views[place], side)
                axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
                heat = upsample(both[place] / top, side, side)
                axis.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.45)
                mask = drawn[place]
                if mask.any():
                    axis.contour(mask, levels=[0.5], colors="#7fffd4", linewidths=1.1)
            left = line[2 * column]
            left.set_title(
                f"{kind}: {share:.2f} ({even:.2f})", fontsize=8, loc="left", x=0.02, pad=3
            )
        line[0].set_ylabel(f"{_folded(unit.words, 18)}\n{unit.study}", fontsize=7)
    plt.close(figure)
    return tagged(figure, True)


def maps_figure(rows: Sequence[FaithfulnessRow]) -> Figure:
    """Scores of every kind of map, one line per model, with 95 % intervals over studies.

    Args:
        rows: of one seed per model; rows of whole models are left out.

    Raises:
        KitError: there is no map among the rows.
    """
    shown = [row for row in rows if row.map != "model"]
    if not shown:
        raise KitError("there is no map to draw: measure a run first (r2genkit faithfulness)")
    titles = list(dict.fromkeys(row.title for row in shown))
    figure, axes = plt.subplots(
        1,
        len(_MEANING),
        figsize=(3.1 * len(_MEANING) + 2, 0.75 * len(titles) + 1.9),
        sharey=True,
        layout="constrained",
    )
    for axis, (name, meaning) in zip(axes, _MEANING.items()):
        for row in shown:
            score = row.scores[name]
            colour, marker = _STYLE[row.map]
            at = titles.index(row.title) + 0.15 * (MAPS.index(row.map) - (len(MAPS) - 1) / 2)
            axis.plot([score.low, score.high], [at, at], color=colour, lw=1.5)
            axis.plot(score.value, at, marker, color=colour, ms=6, mew=1.6)
        axis.set_xlabel(meaning, fontsize=9)
        axis.set_yticks(range(len(titles)), [_folded(title) for title in titles], fontsize=8)
        bare(axis)
    axes[0].invert_yaxis()
    kinds = [kind for kind in MAPS if any(row.map == kind for row in shown)]
    handles = [
        Line2D([], [], color=_STYLE[kind][0], marker=_STYLE[kind][1], lw=1.5, label=kind)
        for kind in kinds
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=5, frameon=False, fontsize=9)
    plt.close(figure)
    return tagged(figure, shown[0].synthetic)


def _folded(title: str, width: int = 26) -> str:
    """A title on a few lines."""
    lines = [""]
    for word in title.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def depends_figure(rows: Sequence[FaithfulnessRow]) -> Figure:
    """Probability of finding words as written, without the image and without the tag, per model.

    Args:
        rows: of one seed per model; rows of maps are left out.

    Raises:
        KitError: there is no model among the rows.
    """
    shown = [row for row in rows if row.map == "model"]
    if not shown:
        raise KitError("there is no model to draw: measure a run first (r2genkit faithfulness)")
    names = {
        "probability": ("as written", BLUE),
        "without image": ("without the image", ORANGE),
        "without tag": ("without the finding's tag", RED),
    }
    height = 0.7 * len(shown) + 1.5
    figure, axis = plt.subplots(figsize=(8.5, height), layout="constrained")
    for place, row in enumerate(shown):
        for number, (name, (label, colour)) in enumerate(names.items()):
            score = row.scores[name]
            if score.value is None:
                continue
            at = place + 0.24 * (number - 1)
            axis.barh(at, score.value, 0.22, color=colour, label=label if place == 0 else None)
            axis.plot([score.low, score.high], [at, at], color=DARK, lw=1.2)
    axis.set_yticks(range(len(shown)), [_folded(row.title) for row in shown], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xlabel("probability of the finding's words (geometric mean per word)")
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    plt.close(figure)
    return tagged(figure, shown[0].synthetic)


def curves_figure(curves: Mapping[str, Mapping[str, np.ndarray]], *, synthetic: bool) -> Figure:
    """Mean probability of finding words while patches go (deletion) or come (insertion).

    Args:
        curves: "deletion" and "insertion", each by kind of map ``[P, K + 1]``.
        synthetic: whether the images are rendered.

    Raises:
        KitError: there is no curve.
    """
    if not any(len(by_map) for by_map in curves.values()):
        raise KitError("there is no curve to draw: measure some finding words first")
    figure, axes = plt.subplots(
        1, len(curves), figsize=(4.4 * len(curves), 3.4), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    ends = {"deletion": "share of patches taken away", "insertion": "share of patches given back"}
    for axis, (name, by_map) in zip(axes[0], curves.items()):
        for kind, values in by_map.items():
            mean = np.asarray(values).mean(0)
            colour, marker = _STYLE[kind]
            axis.plot(
                np.linspace(0, 1, len(mean)), mean, color=colour, marker=marker, ms=4, label=kind
            )
        axis.set_xlabel(ends[name])
        axis.set_title(name, fontsize=10)
        axis.grid(color="0.92")
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0][0].set_ylabel("probability of the words")
    axes[0][-1].legend(frameon=False, fontsize=8)
    plt.close(figure)
    return tagged(figure, synthetic)
