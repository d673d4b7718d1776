"""Inside a Transformer that writes: heads over patches, a memory over words, norms that it moves.

All functions take traces of one decoded report (``Hypothesis.trace``). Two clocks run in them: the
attention in row t belongs to the word that is *written* at step t, the memory in row t has just
*read* the word before it, the begin mark first (:func:`words_read`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from r2genkit.errors import KitError
from r2genkit.models.r2gen import R2Gen
from r2genkit.phantom import PROJECTIONS, PhantomView, finding_masks
from r2genkit.study import Study
from r2genkit.viz.attention import _stretch, check_views, upsample
from r2genkit.viz.phantom import COLOURS
from r2genkit.viz.results import _finish

BEGIN = "(begin)"
SUBLAYERS = ("self-attention", "attention to patches", "feed-forward")


def words_read(words: Sequence[str]) -> list[str]:
    """The word that the model reads before it writes each of T words: a begin mark, then T - 1."""
    return [BEGIN, *words[:-1]][: len(words)]


# --- attention over patches -----------------------------------------------------------------


def drawn_masks(study: Study, size: int) -> dict[str, np.ndarray]:
    """Where the phantom drew what, exactly.

    Args:
        study: of the phantom corpus; any other has no masks.
        size: pixels a side.

    Returns:
        bool ``[V, size, size]`` by finding type, views in the order of the study; several findings
        of a type share a mask, and what no view shows is left out. Empty for other corpora.
    """
    patients = {view.image.patient for view in study.views if isinstance(view.image, PhantomView)}
    if len(patients) != 1:
        return {}
    (patient,) = patients
    masks: dict[str, np.ndarray] = {}
    for (index, projection), mask in finding_masks(patient, size).items():
        whole = masks.setdefault(
            patient.findings[index].name, np.zeros((len(study.views), size, size), dtype=bool)
        )
        for place, view in enumerate(study.views):
            if view.projection == projection and projection in PROJECTIONS:
                whole[place] |= mask
    return {name: mask for name, mask in masks.items() if mask.any()}


def effective_patches(attention: np.ndarray) -> np.ndarray:
    """How many patches attention is spread over: ``exp(entropy)``, from 1 to V * S.

    Args:
        attention: ``[..., V, S]``, the last two summing to 1.

    Returns:
        ``[...]``.
    """
    flat = attention.reshape(*attention.shape[:-2], -1)
    logs = np.log(flat, out=np.zeros_like(flat, dtype=float), where=flat > 0)
    return np.exp(-(flat * logs).sum(-1))


def mask_strength(
    attention: np.ndarray, mask: np.ndarray, grid: tuple[int, int] | None = None
) -> np.ndarray:
    """Attention within a mask, as a multiple of what even attention would put there.

    Args:
        attention: ``[..., V, S]``, the last two summing to 1.
        mask: bool ``[V, H, W]``, not empty.
        grid: (rows, columns) of the patches, S in all; default: square.

    Returns:
        ``[...]``: 1 = no more than chance; a patch counts by the share of it that the mask covers.

    Raises:
        KitError: a mask that is empty or of other views, or a grid of another number of patches.
    """
    views, patches = attention.shape[-2:]
    if mask.ndim != 3 or mask.shape[0] != views or not mask.any():
        raise KitError(
            f"a mask {list(mask.shape)} does not fit attention over {views} views; "
            "expected [V, H, W] with something in it."
        )
    rows, columns = _grid(patches, grid)
    _, height, width = mask.shape
    share = np.zeros((views, rows, columns))
    down = np.arange(height) * rows // height
    right = np.arange(width) * columns // width
    for view in range(views):
        np.add.at(share[view], (down[:, None], right[None, :]), mask[view])
    share /= np.bincount(down, minlength=rows)[:, None] * np.bincount(right, minlength=columns)
    share = share.reshape(views, patches)
    return (attention * share).sum((-2, -1)) / share.mean()


def _grid(patches: int, grid: tuple[int, int] | None) -> tuple[int, int]:
    rows, columns = grid or (math.isqrt(patches),) * 2
    if rows * columns != patches:
        raise KitError(
            f"{patches} patches are no {rows} x {columns} grid; "
            "pass grid=(rows, columns) of the encoder."
        )
    return rows, columns


def _named_views(views: int) -> tuple[str, ...]:
    return ("frontal", "lateral") if views == 2 else tuple(f"view {v + 1}" for v in range(views))


def head_attention_figure(
    images: np.ndarray,
    attention: np.ndarray,
    words: Sequence[str],
    *,
    indices: Sequence[int],
    masks: Mapping[str, np.ndarray] | None = None,
    grid: tuple[int, int] | None = None,
    synthetic: bool = False,
) -> Figure:
    """Where each head of one layer looks for chosen words: a row per word, a column per head.

    The heat is a patch's weight as a multiple of the uniform weight, one scale for all panels; a
    patch at or below the uniform weight stays clear. The first column shows the mean over heads.

    Args:
        images: ``[V, H, W]`` grey, any range; absent views at the end may be left out.
        attention: ``[T, h, V, S]``, the last two summing to 1.
        words: T words of the report.
        indices: positions of the words to show.
        masks: bool ``[V, H, W]`` by finding, drawn as outlines (:func:`drawn_masks`).
        grid: (rows, columns) of the patches; default: square.
        synthetic: whether to tag the figure as drawn from phantom images.

    Raises:
        KitError: shapes that do not belong together, or no such word.
    """
    images, attention = np.asarray(images, dtype=float), np.asarray(attention, dtype=float)
    if attention.ndim != 4 or len(attention) != len(words):
        raise KitError(
            f"attention {list(attention.shape)} does not fit {len(words)} words; expected "
            "[T, heads, V, S] of one layer and the words of the same report."
        )
    check_views(images, attention.mean(1))
    indices = list(indices)
    if not indices or not all(0 <= i < len(words) for i in indices):
        raise KitError(
            f"indices must name at least one of the {len(words)} words by position; got {indices}."
        )
    views, height, width = images.shape
    rows, cols = _grid(attention.shape[-1], grid)
    chosen = attention[indices][:, :, :views]  # [n, h, V, S]
    panels = np.concatenate([chosen.mean(1, keepdims=True), chosen], axis=1)  # [n, 1 + h, V, S]
    strength = panels * (views * rows * cols)  # 1 = uniform
    norm = Normalize(1.0, max(float(np.quantile(strength, 0.995)), 1.5), clip=True)
    colours = plt.get_cmap("inferno")
    backdrop = np.concatenate([_stretch(image) for image in images], axis=1)  # [H, V*W]
    heads = [f"head {head + 1}" for head in range(attention.shape[1])]
    shared = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(masks or {})}

    size = (1.0 * views * panels.shape[1] + 1.4, len(indices) * 1.04 * height / width + 0.75)
    figure = plt.figure(figsize=size, layout="constrained")
    # Below the panels: names of the outlines, and the tag.
    figure.get_layout_engine().set(rect=(0, 0.28 / size[1], 1, 1 - 0.3 / size[1]))
    axes = figure.subplots(len(indices), panels.shape[1], squeeze=False)
    for line, index in enumerate(indices):
        for axis, weights in zip(axes[line], strength[line]):
            heat = np.concatenate(
                [upsample(view.reshape(rows, cols), height, width) for view in weights], axis=1
            )
            axis.imshow(backdrop, cmap="gray", vmin=0, vmax=1)
            axis.imshow(colours(norm(heat)), alpha=0.75 * norm(heat).filled() ** 0.5)
            for name, colour in shared.items():
                outline = np.concatenate(list(masks[name][:views]), axis=1).astype(float)
                axis.contour(outline, levels=[0.5], colors=[colour], linewidths=0.8)
            for view in range(1, views):
                axis.axvline(view * width - 0.5, color="white", linewidth=0.6)
            axis.set(xticks=[], yticks=[])
        word = words[index].replace("$", r"\$")  # matplotlib would start a formula
        axes[line, 0].set_ylabel(
            f"{index + 1}. {word}", fontsize=8, rotation=0, ha="right", va="center"
        )
    for axis, title in zip(axes[0], ["mean of the heads", *heads]):
        axis.set_title(f"{title}\n" + " | ".join(_named_views(views)), fontsize=7)
    bar = figure.colorbar(
        ScalarMappable(norm, colours), ax=list(axes.flatten()), fraction=0.02, pad=0.01, aspect=40
    )
    bar.ax.tick_params(labelsize=6)
    bar.set_label("attention weight / uniform weight", fontsize=7)
    if shared:
        handles = [Line2D([], [], color=colour, label=name) for name, colour in shared.items()]
        figure.legend(
            handles=handles, loc="lower left", ncols=len(handles), fontsize=7, frameon=False,
            title=None, borderaxespad=0.1,
        )  # fmt: skip
    return _finish(figure, synthetic)


# --- heat maps over words -------------------------------------------------------------------


def _heat_maps(
    maps: Sequence[tuple[str, np.ndarray, Sequence[str], dict]],
    columns: Sequence[str],
    below: str,
    synthetic: bool,
) -> Figure:
    """Heat maps ``[rows, T]`` above one another over the same T words, each with its own scale."""
    tallest = [max(len(names), 2) * 0.2 + 0.34 for _, _, names, _ in maps]
    width = max(0.155 * len(columns) + 3.2, 6.0)
    size = (width, sum(tallest) + 1.15)
    figure = plt.figure(figsize=size, layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0.16 / size[1], 1, 1 - 0.16 / size[1]))
    axes = figure.subplots(len(maps), 1, sharex=True, height_ratios=tallest, squeeze=False)[:, 0]
    for axis, (title, values, names, scale) in zip(axes, maps):
        sns.heatmap(
            values, ax=axis, xticklabels=False, yticklabels=list(names), linewidths=0.3,
            cbar_kws={"aspect": 8, "pad": 0.01, "shrink": 0.9}, **{"cmap": "viridis", **scale},
        )  # fmt: skip
        axis.set_title(title, fontsize=9, loc="left")
        axis.tick_params(labelsize=7, length=0, labelrotation=0)
        axis.collections[0].colorbar.ax.tick_params(labelsize=6)
    labels = [word.replace("$", r"\$") for word in columns]
    axes[-1].set_xticks(np.arange(len(columns)) + 0.5, labels, rotation=90, fontsize=7)
    axes[-1].set_xlabel(below, fontsize=8)
    return _finish(figure, synthetic)


def _has_rows(trace: Mapping[str, np.ndarray], name: str, words: Sequence[str]) -> np.ndarray:
    rows = trace.get(name)
    if rows is None or not len(words) or len(rows) != len(words):
        found = "none" if rows is None else str(len(rows))
        raise KitError(
            f'{found} rows of "{name}" for {len(words)} words; pass trace and words of one report '
            "that is not empty, decoded with trace=True by a model that has it."
        )
    return np.asarray(rows, dtype=float)


def head_summary_figure(
    trace: Mapping[str, np.ndarray], words: Sequence[str], *, synthetic: bool = False
) -> Figure:
    """Every head of every layer at every word: how wide it looks, and how much at the first view.

    Args:
        trace: with "cross_attention" ``[T, layers, h, V, S]``.
        words: the T words written.
        synthetic: whether to tag the figure as drawn from phantom images.

    Raises:
        KitError: no such trace, or of another length.
    """
    attention = _has_rows(trace, "cross_attention", words)
    layers, heads, views, patches = attention.shape[1:]
    names = [f"layer {i + 1}, head {j + 1}" for i in range(layers) for j in range(heads)]
    wide = effective_patches(attention).reshape(len(words), -1).T
    maps = [("patches in use (exp of the entropy)", wide, names, {"vmin": 1, "cmap": "viridis_r"})]
    if views > 1:
        first = attention[..., 0, :].sum(-1).reshape(len(words), -1).T
        title = f"share of attention on the {_named_views(views)[0]} view"
        maps.append((title, first, names, {"vmin": 0, "vmax": 1, "cmap": "coolwarm"}))
    return _heat_maps(maps, words, f"word written (of {patches} patches a view)", synthetic)


def memory_rows(trace: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the relational memory does at each of T words.

    Args:
        trace: with "memory", "input_gate", "forget_gate" ``[T, s, D]``.

    Returns:
        "input gate" and "forget gate": means over D, ``[T, s]``; "change": ``|m_t - m_t-1| /
        |m_t|`` of each slot ``[T, s]``, before the first word the memory's start; "cosine": between
        the slots of each pair ``[T, s (s - 1) / 2]``, in the order of ``itertools.combinations``.
    """
    memory = np.asarray(trace["memory"], dtype=float)
    _, slots, size = memory.shape
    before = np.concatenate([np.eye(slots, size)[None], memory[:-1]])
    length = np.linalg.norm(memory, axis=-1)
    change = np.linalg.norm(memory - before, axis=-1) / np.maximum(length, 1e-12)
    unit = memory / np.maximum(length, 1e-12)[..., None]
    pairs = list(itertools.combinations(range(slots), 2))
    cosines = [(unit[:, a] * unit[:, b]).sum(-1) for a, b in pairs]
    return {
        "input gate": np.asarray(trace["input_gate"], dtype=float).mean(-1),
        "forget gate": np.asarray(trace["forget_gate"], dtype=float).mean(-1),
        "change": change,
        "cosine": np.stack(cosines, 1) if pairs else np.zeros((len(memory), 0)),
    }


def memory_figure(
    trace: Mapping[str, np.ndarray], words: Sequence[str], *, synthetic: bool = False
) -> Figure:
    """Gates, change and likeness of the memory's slots over the words of a report.

    Args:
        trace: with "memory", "input_gate", "forget_gate" ``[T, s, D]``.
        words: the T words written; the columns show the words *read* (:func:`words_read`).
        synthetic: whether to tag the figure as drawn from phantom images.

    Raises:
        KitError: no such trace, or of another length.
    """
    slots = _has_rows(trace, "memory", words).shape[1]
    rows = memory_rows(trace)
    names = [f"slot {slot + 1}" for slot in range(slots)]
    pairs = [f"slots {a + 1}, {b + 1}" for a, b in itertools.combinations(range(slots), 2)]
    maps = [
        ("input gate (mean over its numbers)", rows["input gate"].T, names, {}),
        ("forget gate (1 = keeps everything)", rows["forget gate"].T, names, {}),
        ("change of a slot, share of its length", rows["change"].T, names, {"cmap": "magma"}),
    ]
    if pairs:
        scale = {"vmin": -1, "vmax": 1, "cmap": "coolwarm"}
        maps.append(("cosine between slots", rows["cosine"].T, pairs, scale))
    return _heat_maps(maps, words_read(words), "word read", synthetic)


# --- memory-driven layer norms --------------------------------------------------------------


@torch.no_grad()
def norm_changes(model: R2Gen, memory: np.ndarray) -> dict[str, np.ndarray]:
    """What a memory adds to scale and shift of each layer norm in the decoder.

    Args:
        model: with memory-driven layer norms.
        memory: trace "memory" ``[T, s, D]``.

    Returns:
        "scale" and "shift": ``[T, 3 * layers, D]``, sublayers in the order of the computation.

    Raises:
        KitError: the model has plain norms.
    """
    if not getattr(model, "conditions_norms", False):
        raise KitError(
            "this model's layer norms do not read a memory; take one with variant rm_mcln."
        )
    parameter = next(model.parameters())
    rows = torch.from_numpy(np.asarray(memory)).to(parameter).flatten(1)  # [T, s * D]
    norms = [norm for layer in model.decoder.layers for norm in layer.norms]
    return {
        "scale": torch.stack([norm.memory_to_scale(rows) for norm in norms], 1).cpu().numpy(),
        "shift": torch.stack([norm.memory_to_shift(rows) for norm in norms], 1).cpu().numpy(),
    }


def constant_and_moving(change: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A change as what every word gets and what is left for the single word.

    Args:
        change: ``[T, n, D]``.

    Returns:
        Root mean square over D of the mean over words ``[n]``, and of the rest ``[T, n]``. Without
        the second, constants in the norms would do the same as the memory.
    """
    mean = change.mean(0)
    rest = change - mean
    return np.sqrt((mean**2).mean(-1)), np.sqrt((rest**2).mean(-1))


def norm_change_figure(
    changes: Mapping[str, np.ndarray], words: Sequence[str], *, synthetic: bool = False
) -> Figure:
    """How far the memory moves each layer norm from word to word.

    Heat: root mean square, over the D numbers, of what the word at hand adds beyond the report's
    mean; that mean, which any constant could do, stands behind the name of the sublayer.

    Args:
        changes: "scale" and "shift" of :func:`norm_changes`.
        words: the T words written; the columns show the words *read*.
        synthetic: whether to tag the figure as drawn from phantom images.

    Raises:
        KitError: another number of words.
    """
    maps = []
    for name in ("scale", "shift"):
        constant, moving = constant_and_moving(_has_rows(changes, name, words))
        layers = len(constant) // len(SUBLAYERS)
        places = [
            ("" if layers == 1 else f"{layer + 1}: ") + place
            for layer in range(layers)
            for place in SUBLAYERS
        ]
        names = [f"{place} (constant {value:.2f})" for place, value in zip(places, constant)]
        title = f"{name}: what the single word changes"
        maps.append((title, moving.T, names, {"vmin": 0, "cmap": "magma"}))
    return _heat_maps(maps, words_read(words), "word read", synthetic)
