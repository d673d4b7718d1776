"""Figures of a memory that patches and words share: who reads what, and what it looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

from r2genkit.errors import KitError
from r2genkit.viz.results import _finish

PATCH, WORD, CHANCE = "#1f6fb2", "#d1690e", "#8c8c8c"


def usage_figure(
    patches: np.ndarray, words: np.ndarray, *, heads: int = 4, synthetic: bool
) -> Figure:
    """How evenly the slots are read, above; which slots both sides read, below.

    Args:
        patches: share of the patches' reading per head and slot, ``[h, M]``; 0: never read.
        words: the same of the words.
        heads: at most so many, the first ones.
        synthetic: whether to tag the figure as drawn from phantom images.

    Raises:
        KitError: different shapes.
    """
    patches, words = np.asarray(patches), np.asarray(words)
    if patches.shape != words.shape or patches.ndim != 2:
        raise KitError(
            f"shares of patches {list(patches.shape)} and of words {list(words.shape)} must both "
            "be [heads, slots]."
        )
    heads, slots = min(heads, len(patches)), patches.shape[1]
    # Slots that are never read have no place on a logarithmic axis: they stand on its edge.
    positive = np.concatenate([side[side > 0] for side in (patches, words)])
    floor = positive.min(initial=1.0) / 3
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(
            2, heads, figsize=(2.7 * heads + 0.5, 5.2), squeeze=False, sharex="row", sharey="row"
        )
        for head in range(heads):
            above, below = axes[:, head]
            for side, name, colour in ((patches, "patches", PATCH), (words, "words", WORD)):
                ordered = np.sort(side[head])[::-1]
                read = ordered > 0
                dead = slots - read.sum()
                label = f"{name}: {dead} never read"
                above.plot(np.arange(1, read.sum() + 1), ordered[read], color=colour, label=label)
            above.axhline(1 / slots, color=CHANCE, lw=0.8, ls="--")
            above.set_title(f"head {head + 1}", fontsize=9)
            above.set_xlabel("slots, most read first", fontsize=8)
            above.legend(fontsize=6.5, loc="lower left")
            at = [np.maximum(side[head], floor) for side in (patches, words)]
            below.scatter(*at, s=6, alpha=0.5, color="#4c4c4c", linewidths=0)
            below.plot([floor, 1], [floor, 1], color=CHANCE, lw=0.8, ls="--")
            common = np.minimum(patches[head], words[head]).sum()
            below.set_title(f"{common:.0%} of the reading in common", fontsize=8)
            below.set_xlabel("share of the patches' reading", fontsize=8)
        axes[0, 0].set(yscale="log")
        axes[1, 0].set(xscale="log", yscale="log")
        axes[0, 0].set_ylabel("share of the reading", fontsize=8)
        axes[1, 0].set_ylabel("share of the words' reading", fontsize=8)
        for axis in axes.flatten():
            axis.tick_params(labelsize=7)
        figure.tight_layout()
    return _finish(figure, synthetic)


@dataclass(frozen=True)
class SlotCard:
    """One slot in one head, as its readers show it.

    Attributes:
        title: which slot; may have two lines.
        words: (word, lift over the base rate), best first.
        crops: (pixels ``[H, W]``, caption, whether a finding covers the patch), best first; the
            patch is the middle third.
    """

    title: str
    words: Sequence[tuple[str, float]]
    crops: Sequence[tuple[np.ndarray, str, bool]]


def slot_figure(cards: Sequence[SlotCard], *, synthetic: bool) -> Figure:
    """One line per slot: words that read it above their rate, patches that read it most.

    Args:
        cards: the slots.
        synthetic: whether to tag the figure as drawn from phantom images.

    Raises:
        KitError: no card.
    """
    if not cards:
        raise KitError("the figure got no slot to show; give at least one.")
    crops = max(1, *(len(card.crops) for card in cards))
    longest = max(1, *(len(card.words) for card in cards))
    top = max([2.0, *(lift for card in cards for _, lift in card.words)])
    figure = plt.figure(figsize=(3.4 + 1.25 * crops, 1.8 * len(cards) + 0.3), layout="constrained")
    axes = figure.subplots(len(cards), 1 + crops, squeeze=False, width_ratios=[2.2, *[1] * crops])
    for line, card in zip(axes, cards):
        bars, *panels = line
        lifts = [lift for _, lift in card.words]
        bars.barh(range(len(lifts)), lifts, color=WORD, height=0.7)
        bars.set_yticks(range(len(lifts)), [word for word, _ in card.words], fontsize=7)
        bars.set_ylim(longest - 0.4, -0.6)
        bars.set_xscale("log")
        bars.set_xlim(1, top * 1.25)
        ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100) if tick <= top * 1.25]
        bars.set_xticks(ticks, [str(tick) for tick in ticks])
        bars.xaxis.set_minor_formatter(NullFormatter())
        bars.tick_params(axis="x", labelsize=6)
        for place, lift in enumerate(lifts):
            bars.text(lift * 1.03, place, f"{lift:.1f}", va="center", fontsize=6)
        bars.set_title(card.title, fontsize=7, loc="left")
        sns.despine(ax=bars)
        if not lifts:
            bars.text(0.5, 0.5, "no word above its rate", transform=bars.transAxes,
                      ha="center", fontsize=7)  # fmt: skip
        for axis in panels:
            axis.set_axis_off()
        for axis, (pixels, caption, hit) in zip(panels, card.crops):
            height, width = pixels.shape
            axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
            axis.add_patch(
                Rectangle(
                    (width / 3 - 0.5, height / 3 - 0.5),
                    width / 3,
                    height / 3,
                    fill=False,
                    edgecolor="#ffd166" if hit else "white",
                    lw=1.6 if hit else 0.8,
                )
            )
            axis.set_title(caption, fontsize=6)
    axes[-1, 0].set_xlabel("lift over the base rate", fontsize=7)
    return _finish(figure, synthetic)


def patch_crop(image: np.ndarray, patch: int, grid: int) -> np.ndarray:
    """A patch with its eight neighbours, black beyond the border.

    Args:
        image: ``[H, W]``.
        patch: number in its view, row by row.
        grid: patches per side.

    Returns:
        ``[3 H / grid, 3 W / grid]``.
    """
    high, wide = (side // grid for side in image.shape)
    row, column = divmod(patch, grid)
    framed = np.pad(image, ((high, high), (wide, wide)))
    return framed[row * high : (row + 3) * high, column * wide : (column + 3) * wide]


def moved_figure(
    names: Sequence[str],
    own: np.ndarray,
    others: np.ndarray,
    *,
    counts: Sequence[int],
    synthetic: bool,
) -> Figure:
    """How far a finding moves what its patches read, beside the same in studies without it.

    Args:
        names: F findings.
        own: share of the reading moved, ``[F]``.
        others: the same with the places of other studies' masks, ``[draws, F]``.
        counts: patches per finding.
        synthetic: whether to tag the figure as drawn from phantom images.
    """
    order = np.argsort(own - others.mean(0))
    places = np.arange(len(names))
    with sns.axes_style("whitegrid"):
        figure, axis = plt.subplots(figsize=(6.6, 0.24 * len(names) + 1.3))
        low, high = others.min(0)[order], others.max(0)[order]
        axis.hlines(places, low, high, color=CHANCE, lw=5, alpha=0.6,
                    label="same places in other studies (range)")  # fmt: skip
        axis.plot(own[order], places, "o", color=PATCH, ms=5, label="patches of the finding")
        labels = [f"{names[i]} ({counts[i]})" for i in order]
        axis.set_yticks(places, labels, fontsize=8)
        axis.set_xlim(left=0)
        axis.set_xlabel("share of the reading moved away from what the place explains", fontsize=8)
        axis.tick_params(axis="x", labelsize=8)
        axis.legend(fontsize=7, loc="lower right")
        figure.tight_layout()
    return _finish(figure, synthetic)


def alignment_figure(cosines: np.ndarray, names: Sequence[str], *, synthetic: bool) -> Figure:
    """Do patches (rows) and words (columns) of a finding move towards the same slots?

    Args:
        cosines: ``[F, F]`` in [-1, 1].
        names: F findings.
        synthetic: whether to tag the figure as drawn from phantom images.
    """
    limit = max(float(np.abs(cosines).max()), 1e-6)
    side = 0.3 * len(names) + 2.2
    figure, axis = plt.subplots(figsize=(side + 0.6, side), layout="constrained")
    sns.heatmap(cosines, ax=axis, cmap="RdBu_r", vmin=-limit, vmax=limit, square=True,
                xticklabels=names, yticklabels=names,
                cbar_kws={"label": "cosine", "shrink": 0.7})  # fmt: skip
    for place in range(len(names)):
        axis.add_patch(Rectangle((place, place), 1, 1, fill=False, edgecolor="black", lw=0.9))
    axis.set_xlabel("words of", fontsize=8)
    axis.set_ylabel("patches of", fontsize=8)
    axis.tick_params(labelsize=7)
    return _finish(figure, synthetic)
