"""Where a model looks while it writes: one small panel per word, all views side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from r2genkit.errors import KitError

# Words that name nothing one could look at; panels for them only cost room.
FUNCTION_WORDS = frozenset(
    {
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "been",
        "by",
        "for",
        "from",
        "has",
        "have",
        "in",
        "is",
        "it",
        "of",
        "on",
        "or",
        "that",
        "the",
        "there",
        "these",
        "this",
        "to",
        "was",
        "were",
        "which",
        "with",
        "within",
        "without",
        "<unk>",
        "xxxx",
    }
)


def upsample(attention: np.ndarray, height: int, width: int) -> np.ndarray:
    """Patch weights as an image, bilinear between patch centres, edges extended.

    Args:
        attention: ``[rows, columns]`` weights of the patches.
        height: of the image.
        width: of the image.

    Returns:
        ``[height, width]``; values stay within the range of the input.
    """

    def mix(size: int, target: int) -> np.ndarray:  # [target, size], rows sum to 1
        centre = (np.arange(target) + 0.5) * size / target - 0.5
        centre = centre.clip(0, size - 1)
        low = np.minimum(centre.astype(int), max(size - 2, 0))
        share = centre - low
        matrix = np.zeros((target, size))
        matrix[np.arange(target), low] += 1 - share
        matrix[np.arange(target), np.minimum(low + 1, size - 1)] += share
        return matrix

    rows, columns = attention.shape
    return mix(rows, height) @ attention @ mix(columns, width).T


def attention_change(attention: np.ndarray) -> np.ndarray:
    """How far each word's attention lies from the mean attention of its report, ``[T]`` in [0, 1].

    Total variation distance: the share of attention that would have to move. A model that looks
    at the same place for every word gets 0 throughout.

    Args:
        attention: ``[T, V, S]``, each word summing to 1.
    """
    flat = attention.reshape(len(attention), -1)
    return np.abs(flat - flat.mean(0)).sum(1) / 2


def choose_words(attention: np.ndarray, words: Sequence[str], limit: int) -> list[int]:
    """Positions of at most ``limit`` content words, those with the largest attention change.

    Punctuation, numbers and function words are left out, unless there is nothing else.

    Args:
        attention: ``[T, V, S]``.
        words: T words.
        limit: number of positions wanted.

    Returns:
        Positions in reading order.
    """
    change = attention_change(attention)
    content = np.array([any(c.isalpha() for c in w) and w not in FUNCTION_WORDS for w in words])
    places = np.flatnonzero(content) if content.any() else np.arange(len(words))
    order = places[np.argsort(-change[places], kind="stable")]
    return sorted(order[:limit].tolist())


def attention_figure(
    images: np.ndarray,
    attention: np.ndarray,
    words: Sequence[str],
    *,
    indices: Sequence[int] | None = None,
    max_words: int = 29,
    columns: int = 6,
    grid: tuple[int, int] | None = None,
    view_names: Sequence[str] | None = None,
    gate: np.ndarray | None = None,
    title: str | None = None,
    alpha: float = 0.55,
) -> Figure:
    """The attention of chosen words as heat over all views.

    All panels share one colour scale, so a strong panel is strong in fact; its top is the 99.5th
    percentile of what is shown. Under a word stands its number and, with several views, the share
    of attention that each view gets.

    Args:
        images: ``[V, H, W]`` grey, any range (0 = black); an absent view may be all zero. Absent
            views at the end may be left out.
        attention: ``[T, V, S]`` patch weights of every word.
        words: T words of the report.
        indices: positions to show; default: content words by largest attention change.
        max_words: how many at most when ``indices`` is not given; 29 and the images make 5 rows.
        columns: panels per row.
        grid: (rows, columns) of the patches, S in all; default: square.
        view_names: V short names; default: "view 1", ... ("frontal", "lateral" for two).
        gate: ``[T]`` in [0, 1], shown as "gate" if given (Show, Attend and Tell's beta).
        title: above the figure.
        alpha: opacity of the heat where it is strongest; weak attention lets the image through.

    Raises:
        KitError: shapes that do not belong together.
    """
    images, attention = np.asarray(images, dtype=float), np.asarray(attention, dtype=float)
    _check(images, attention, words, gate)
    views, height, width = images.shape
    attention = attention[:, :views]
    rows, cols = grid or (math.isqrt(attention.shape[2]),) * 2
    if rows * cols != attention.shape[2]:
        raise KitError(
            f"{attention.shape[2]} patches are no {rows} x {cols} grid; "
            "pass grid=(rows, columns) of the encoder."
        )
    if indices is None:
        indices = choose_words(attention, words, max_words)
    indices = list(indices)
    if not indices or not all(-len(words) <= i < len(words) for i in indices):
        raise KitError(
            f"indices must name at least one of the {len(words)} words by position; got {indices}."
        )
    if view_names is None:
        view_names = (
            ("frontal", "lateral") if views == 2 else [f"view {v + 1}" for v in range(views)]
        )

    shown = attention[indices]
    norm = Normalize(0.0, max(float(np.quantile(shown, 0.995)), 1e-12))
    colours = plt.get_cmap("inferno")
    backdrop = np.concatenate([_stretch(image) for image in images], axis=1)  # [H, V*W]

    panels = len(indices) + 1  # the first shows the images alone
    columns = min(columns, panels)
    lines = math.ceil(panels / columns)
    panel_width = 1.0 * views + 0.1
    panel_height = panel_width * height / (views * width) + 0.36
    head = 0.35 if title else 0.05
    figure = plt.figure(
        figsize=(columns * panel_width + 0.55, lines * panel_height + head), layout="constrained"
    )
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis in axes:
        axis.set_axis_off()
    axes[0].imshow(backdrop, cmap="gray", vmin=0, vmax=1)
    axes[0].set_title(" | ".join(view_names), fontsize=7)
    for axis, index in zip(axes[1:], indices):
        heat = np.concatenate(
            [upsample(view.reshape(rows, cols), height, width) for view in attention[index]], axis=1
        )
        axis.imshow(backdrop, cmap="gray", vmin=0, vmax=1)
        axis.imshow(colours(norm(heat)), alpha=alpha * np.clip(norm(heat).filled(), 0, 1) ** 0.5)
        for view in range(1, views):
            axis.axvline(view * width - 0.5, color="white", linewidth=0.6)
        axis.set_title(_caption(index % len(words), words, attention, gate), fontsize=7)
    bar = figure.colorbar(
        ScalarMappable(norm, colours), ax=list(axes), fraction=0.015, pad=0.01, aspect=40
    )
    bar.ax.tick_params(labelsize=6)
    bar.set_label("attention weight of a patch", fontsize=7)
    if title:
        figure.suptitle(title, fontsize=9)
    plt.close(figure)  # the caller's alone: a notebook would show it a second time
    return figure


def _caption(
    index: int, words: Sequence[str], attention: np.ndarray, gate: np.ndarray | None
) -> str:
    """Word and position; below it the share of each view and the gate."""
    details = []
    if attention.shape[1] > 1:
        shares = attention[index].sum(1)
        details.append(" | ".join(f"{share:.0%}" for share in shares))
    if gate is not None:
        details.append(f"gate {gate[index]:.2f}")
    word = words[index].replace("$", r"\$")  # matplotlib would start a formula
    return f"{index + 1}. {word}" + ("\n" + ", ".join(details) if details else "")


def _stretch(image: np.ndarray) -> np.ndarray:
    """An image in 0..1; one of a single value becomes black."""
    low, high = image.min(), image.max()
    return (image - low) / (high - low) if high > low else np.zeros_like(image)


def check_views(images: np.ndarray, attention: np.ndarray) -> None:
    """Whether attention ``[rows, V, S]`` can be drawn over images ``[V, H, W]``.

    Raises:
        KitError: another number of axes or of views.
    """
    if (
        images.ndim != 3
        or attention.ndim != 3
        or images.shape[0] > attention.shape[1]
        or attention[:, images.shape[0] :].any()  # attention on a view that is not there to show
    ):
        raise KitError(
            f"images {list(images.shape)} and attention {list(attention.shape)} do not belong "
            "together; expected [V, H, W] and [rows, V, S] with the same V."
        )


def _check(
    images: np.ndarray, attention: np.ndarray, words: Sequence[str], gate: np.ndarray | None
) -> None:
    check_views(images, attention)
    if len(words) != len(attention) or (gate is not None and len(gate) != len(words)):
        raise KitError(
            f"{len(words)} words for {len(attention)} rows of attention (or of the gate); "
            "pass the words of the hypothesis that the trace belongs to."
        )
