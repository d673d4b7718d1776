"""Figures of encoders: what their patch features show, and what a learning rate does to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from r2genkit.errors import KitError
from r2genkit.experiments.pretraining import PretrainingRow
from r2genkit.experiments.rate_sweep import RateRow, rate
from r2genkit.viz.results import _finish

COLOURS = ("#1f6fb2", "#d1690e", "#2e8b57", "#8c4fa3")
NORMAL, ABNORMAL = "#8c8c8c", "#d1690e"


def components(features: np.ndarray, count: int) -> np.ndarray:
    """The first principal components of feature vectors, centred ``[N, D] -> [N, count]``.

    Each sign is chosen so that the largest value is positive: the same features give the same
    picture everywhere.

    Raises:
        KitError: fewer vectors or numbers than components.
    """
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or min(features.shape) < count:
        raise KitError(f"features {list(features.shape)} have no {count} principal components.")
    centred = features - features.mean(0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    scores = left[:, :count] * scale[:count]
    largest = scores[np.abs(scores).argmax(0), np.arange(count)]
    return scores * np.where(largest < 0, -1.0, 1.0)


def as_colours(maps: np.ndarray) -> np.ndarray:
    """Patch features as colours: three principal components of all patches as red, green, blue.

    Args:
        maps: ``[N, h, w, D]``.

    Returns:
        ``[N, h, w, 3]`` in 0..1; the 2nd and 98th percentile of each component are black and full
        colour, so that one strange patch does not grey out all others.
    """
    maps = np.asarray(maps)
    scores = components(maps.reshape(-1, maps.shape[-1]), 3)
    low, high = np.percentile(scores, [2, 98], axis=0)
    return np.clip((scores - low) / np.maximum(high - low, 1e-12), 0, 1).reshape(*maps.shape[:3], 3)


def patch_colour_figure(
    images: Sequence[np.ndarray],
    labels: Sequence[str],
    maps: Mapping[str, np.ndarray],
    *,
    synthetic: bool,
) -> Figure:
    """Radiographs on top, below them one line of colour maps per encoder.

    Patches of one colour have similar features *for that encoder*: colours of different lines have
    nothing to do with one another.

    Args:
        images: N grey images uint8 ``[H, W]``.
        labels: one per image.
        maps: patch features ``[N, h, w, D]`` by encoder.
        synthetic: whether to tag the figure as drawn from phantom images.

    Raises:
        KitError: an encoder with another number of images.
    """
    for name, value in maps.items():
        if len(value) != len(images):
            raise KitError(f"{name} has features of {len(value)} images, not of {len(images)}.")
    figure, axes = plt.subplots(
        1 + len(maps),
        len(images),
        figsize=(1.75 * len(images) + 0.4, 1.75 * (1 + len(maps)) + 0.5),
        squeeze=False,
    )
    for axis, image, label in zip(axes[0], images, labels):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255)
        axis.set_title(label, fontsize=7.5)
    for line, (name, value) in zip(axes[1:], maps.items()):
        for axis, colours in zip(line, as_colours(value)):
            axis.imshow(colours)
        height, width = value.shape[1:3]
        line[0].set_ylabel(f"{name}\n{height} x {width} patches", fontsize=8)
    axes[0, 0].set_ylabel("radiograph", fontsize=8)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.tight_layout()
    return _finish(figure, synthetic)


def separability_figure(
    features: Mapping[str, np.ndarray],
    abnormal: np.ndarray,
    scores: Mapping[str, float],
    *,
    synthetic: bool,
) -> Figure:
    """One panel per encoder: each study on the first two principal components of its features.

    Args:
        features: one vector per study ``[N, D]`` by encoder (the mean over its patches).
        abnormal: ``[N]`` bool.
        scores: AUROC of abnormal against normal by encoder, for the title.
        synthetic: whether to tag the figure as drawn from phantom images.
    """
    abnormal = np.asarray(abnormal, dtype=bool)
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(
            1, len(features), figsize=(3.7 * len(features), 3.5), squeeze=False
        )
        for axis, (name, value) in zip(axes[0], features.items()):
            x, y = components(value, 2).T
            for chosen, colour, label in (
                (~abnormal, NORMAL, "normal"),
                (abnormal, ABNORMAL, "abnormal"),
            ):
                axis.scatter(
                    x[chosen], y[chosen], s=11, lw=0, alpha=0.65, color=colour, label=label
                )
            axis.set_title(f"{name}: abnormal found with AUROC {scores[name]:.2f}", fontsize=9)
            axis.set_xlabel("first component", fontsize=8)
            axis.set_xticklabels([])
            axis.set_yticklabels([])
        axes[0, 0].set_ylabel("second component", fontsize=8)
        axes[0, -1].legend(fontsize=8)
        figure.tight_layout()
    return _finish(figure, synthetic)


def finding_auroc_figure(rows: Sequence[PretrainingRow], *, least: int = 10) -> Figure:
    """Test AUROC of each finding type and of their mean, one colour per classifier.

    Args:
        rows: classifiers of the same test studies.
        least: types with fewer positive test studies are left out.

    Raises:
        KitError: no row, or rows of different splits.
    """
    if len({row.split_fingerprint for row in rows}) != 1:
        raise KitError("a figure of AUROC needs rows of one and the same split.")
    kept = [
        name
        for name, value in rows[0].findings.items()
        if value.positives >= least and value.AUROC.value is not None and name != "macro"
    ]
    kept.sort(key=lambda name: rows[0].findings[name].AUROC.value)
    kept.append("macro")
    places = np.arange(len(kept))
    with sns.axes_style("whitegrid"):
        figure, axis = plt.subplots(figsize=(6.8, 0.3 * len(kept) + 1.3))
        for number, row in enumerate(rows):
            shift = 0.22 * (number - (len(rows) - 1) / 2)
            found = [(place, row.findings.get(name)) for place, name in zip(places, kept)]
            for place, value in found:
                if value is None or value.AUROC.value is None:
                    continue
                score = value.AUROC
                axis.plot(
                    [score.low, score.high], [place + shift] * 2, lw=1, color=COLOURS[number % 4]
                )
                axis.plot(
                    score.value,
                    place + shift,
                    "o",
                    ms=4,
                    color=COLOURS[number % 4],
                    label=row.encoder if place == places[-1] else None,
                )
        axis.axvline(0.5, color="0.4", lw=0.8, ls="--")
        labels = [
            "mean of all types" if n == "macro" else f"{n} ({rows[0].findings[n].positives})"
            for n in kept
        ]
        axis.set_yticks(places, labels, fontsize=8)
        axis.set_xlabel("test AUROC with 95 % interval; in brackets positive test studies")
        axis.xaxis.label.set_size(8)
        axis.legend(
            fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False
        )
        figure.tight_layout()
    return _finish(figure, rows[0].synthetic)


_PANELS = (
    ("loss", "validation loss", "lower is better"),
    ("distance", "relative distance of features", "0 = not moved"),
    ("cka", "CKA with the start", "1 = same relations"),
    ("recognised", "findings still recognised", "macro AUROC, old classifier"),
)


def rate_figure(rows: Sequence[RateRow]) -> Figure:
    """What the encoder's rate does after the last epoch: one panel per measure.

    One line per rate of everything else; the first place on the horizontal axis is rate 0, the
    encoder as it was. The dashed line is where all of them started.

    Raises:
        KitError: no row.
    """
    if not rows:
        raise KitError("there are no rates to draw: run r2genkit rates first.")
    encoder_rates = sorted({row.encoder_lr for row in rows})
    place = {value: number for number, value in enumerate(encoder_rates)}
    panels = [panel for panel in _PANELS if getattr(rows[0].last, panel[0]) is not None]
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(1, len(panels), figsize=(3.1 * len(panels), 3.1))
        for axis, (name, title, hint) in zip(axes, panels):
            for number, decoder_lr in enumerate(sorted({row.decoder_lr for row in rows})):
                line = sorted(
                    (place[row.encoder_lr], getattr(row.last, name), row.encoder_lr == decoder_lr)
                    for row in rows
                    if row.decoder_lr == decoder_lr
                )
                colour = COLOURS[number % 4]
                axis.plot(
                    [x for x, _, _ in line],
                    [y for _, y, _ in line],
                    "o-",
                    ms=4,
                    color=colour,
                    label=f"rest {rate(decoder_lr)}",
                )
                for x, y, equal in line:
                    if equal:
                        axis.plot(x, y, "o", ms=11, mfc="none", mec=colour)
            if name == "recognised":
                axis.axhline(rows[0].epochs[0].recognised, color="0.4", lw=0.9, ls="--")
                axis.axhline(0.5, color="0.4", lw=0.9, ls=":")
            _stretched(axis, name)
            axis.set_title(f"{title}\n({hint})", fontsize=9)
            axis.set_xticks(list(place.values()), [rate(value) for value in encoder_rates])
            axis.set_xlabel("rate of the encoder", fontsize=8)
            axis.tick_params(labelsize=8)
        axes[0].legend(fontsize=8)
        figure.tight_layout()
    return _finish(figure, rows[0].synthetic)


def _stretched(axis: Axes, name: str) -> None:
    """Features that run away would flatten every other line: logarithmic from 1 on."""
    if name == "distance" and axis.get_ylim()[1] > 20:
        axis.set_yscale("symlog", linthresh=1.0)
        axis.set_ylim(bottom=0)


def rate_course_figure(rows: Sequence[RateRow]) -> Figure:
    """The same measures epoch by epoch, one line per row.

    Raises:
        KitError: no row.
    """
    if not rows:
        raise KitError("there are no rates to draw: run r2genkit rates first.")
    panels = [panel for panel in _PANELS if getattr(rows[0].last, panel[0]) is not None]
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(1, len(panels), figsize=(3.1 * len(panels), 3.1))
        for axis, (name, title, _) in zip(axes, panels):
            for number, row in enumerate(rows):
                values = [getattr(entry, name) for entry in row.epochs]
                axis.plot(values, "o-", ms=3.5, color=COLOURS[number % 4], label=row.label)
            _stretched(axis, name)
            axis.set_title(title, fontsize=9)
            axis.set_xlabel("epoch (0: before training)", fontsize=8)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.tick_params(labelsize=8)
        axes[0].legend(fontsize=6.5)
        figure.tight_layout()
    return _finish(figure, rows[0].synthetic)
