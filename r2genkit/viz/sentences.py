"""Reports sentence by sentence: how many there are, where they end, where a model looks."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from r2genkit.batches import Batch
from r2genkit.decoding import evaluating
from r2genkit.errors import KitError
from r2genkit.models.hierarchical import HierarchicalModel
from r2genkit.study import Hypothesis
from r2genkit.text.sentences import split_sentences
from r2genkit.viz.attention import _stretch, check_views, upsample
from r2genkit.viz.results import MODEL, _finish

Decisions = tuple[np.ndarray, np.ndarray]
"""Probabilities of stopping ``[N, M]`` and what happened ``[N, M]``: 1 the report ends, 0 it goes
on, -1 nothing is decided there."""


def sentence_counts(reports: Iterable[str]) -> np.ndarray:
    """Sentences of each cleaned report ``[N]``."""
    return np.array([len(split_sentences(report)) for report in reports], dtype=int)


def repeated_percent(reports: Iterable[str]) -> float:
    """Sentences, of 100, that stand word by word earlier in the same report; NaN without any."""
    listed = [split_sentences(report) for report in reports]
    count = sum(map(len, listed))
    return 100 * (1 - sum(len(set(each)) for each in listed) / count) if count else math.nan


def sentence_rows(hypothesis: Hypothesis) -> tuple[list[str], dict[str, np.ndarray]]:
    """A traced report as sentences, and one row of every trace per sentence.

    Args:
        hypothesis: of a model that writes sentence by sentence, decoded with ``trace=True`` and a
            vocabulary. What such a model looks at is decided once per sentence.

    Returns:
        M sentences without full stops, and traces ``[M, ...]`` by name.

    Raises:
        KitError: the report has no trace of sentences.
    """
    if "sentence" not in hypothesis.trace:
        raise KitError(
            "this report has no trace of sentences; decode it with trace=True and a model that "
            "writes sentence by sentence."
        )
    numbers = np.asarray(hypothesis.trace["sentence"]).astype(int)
    words = np.array(hypothesis.text.split(), dtype=object)
    places, first = np.unique(numbers, return_index=True)
    sentences = [" ".join(w for w in words[numbers == place] if w != ".") for place in places]
    rows = {
        name: np.asarray(value)[first]
        for name, value in hypothesis.trace.items()
        if name != "sentence"
    }
    return sentences, rows


def stop_decisions(model: HierarchicalModel, loader: Iterable[Batch]) -> Decisions:
    """How probable the model finds it that each report ends where it does, and elsewhere.

    The model reads the sentences that the minibatches hold, reference or its own.

    Args:
        model: is evaluated where it is, without dropout and without gradients.
        loader: minibatches with sentences (``layout=model.layout``).

    Returns:
        Probabilities and decisions ``[N, M]``, M the most sentences that the model allows; NaN and
        -1 where nothing is decided.
    """
    most, parts = model.layout.sentences, []
    with evaluating(model):
        for batch in loader:
            odds = model.unroll(batch).stop  # [B, m]
            room = (0, most - odds.shape[1])
            stops = torch.nn.functional.pad(batch.stops, room, value=-1)
            chance = torch.nn.functional.pad(odds.float().sigmoid(), room)
            parts.append((chance.masked_fill(stops < 0, math.nan), stops))
    return tuple(torch.cat(column).numpy() for column in zip(*parts))


def stop_table(probabilities: np.ndarray, stops: np.ndarray) -> pd.DataFrame:
    """One line per sentence number at which some report may end or go on.

    Args:
        probabilities: ``[N, M]`` of stopping.
        stops: ``[N, M]``, 1 ends, 0 goes on, -1 undecided.

    Returns:
        Indexed by the sentence's number (1-based): "reports" that decide there, "share" of them
        that ends, "mean" probability of stopping, and its mean over reports that end ("ending")
        and that go on ("going on"); NaN where there are none.
    """

    def mean(place: int, wanted: np.ndarray) -> float:
        return float(probabilities[wanted, place].mean()) if wanted.any() else math.nan

    lines = {}
    for place in np.flatnonzero((stops >= 0).any(0)):
        column = stops[:, place]
        lines[place + 1] = {
            "reports": int((column >= 0).sum()),
            "share": float((column[column >= 0] == 1).mean()),
            "mean": mean(place, column >= 0),
            "ending": mean(place, column == 1),
            "going on": mean(place, column == 0),
        }
    columns = ["reports", "share", "mean", "ending", "going on"]
    table = pd.DataFrame.from_dict(lines, orient="index", columns=columns)
    return table.rename_axis("sentence")


def sentence_count_figure(
    reports: Mapping[str, Sequence[str]], *, synthetic: bool, limit: int | None = None
) -> Figure:
    """How many sentences reports have: share of reports per number, one colour per source.

    Args:
        reports: cleaned reports by source; the first one (the references) is drawn in grey.
        synthetic: whether to tag the figure as drawn from phantom images.
        limit: most sentences that the models may write, drawn as a line.
    """
    lines = [
        {"source": f"{source} (mean {counts.mean():.1f})", "sentences": int(count)}
        for source, texts in reports.items()
        for counts in [sentence_counts(texts)]
        for count in counts
    ]
    table = pd.DataFrame(lines)
    top = int(table["sentences"].max())
    shares = table.groupby("source", sort=False)["sentences"].value_counts(normalize=True).mul(100)
    names = list(dict.fromkeys(table["source"]))
    grid = pd.MultiIndex.from_product([names, range(top + 1)], names=["source", "sentences"])
    shown = shares.reindex(grid, fill_value=0.0).rename("percent").reset_index()
    colours = ["0.75", *sns.color_palette("deep", len(names) - 1)]
    with sns.axes_style("whitegrid"):
        figure, axis = plt.subplots(figsize=(7.2, 3.3))
        sns.barplot(
            shown, x="sentences", y="percent", hue="source", hue_order=names, palette=colours,
            saturation=1.0, ax=axis,
        )  # fmt: skip
        if limit is not None and limit <= top:
            axis.axvline(limit + 0.5, color="0.4", ls="--", lw=1)
        axis.set(xlabel="sentences in the report", ylabel="% of reports")
        axis.legend(fontsize=8, title=None)
        figure.tight_layout()
    return _finish(figure, synthetic)


def stop_figure(decisions: Mapping[str, Decisions], *, synthetic: bool, columns: int = 2) -> Figure:
    """The decision to stop after each sentence, one panel per source.

    Grey bars: share of the reports that end there, of those that come so far. Line: mean
    probability of stopping; on the bars' height it is calibrated. Full and empty points: the same
    over reports that end there and that go on; apart, the model tells them apart.

    Args:
        decisions: by panel title, from :func:`stop_decisions`.
        synthetic: whether to tag the figure as drawn from phantom images.
        columns: panels per row.
    """
    columns = min(columns, len(decisions))
    lines = math.ceil(len(decisions) / columns)
    size = (3.9 * columns + 0.4, 3.1 * lines + 0.4)
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(lines, columns, figsize=size, sharey=True, squeeze=False)
        for axis in axes.flatten()[len(decisions) :]:
            axis.set_axis_off()
        for axis, (title, (probabilities, stops)) in zip(axes.flatten(), decisions.items()):
            table = stop_table(probabilities, stops)
            places = table.index.to_numpy()
            axis.bar(places, table["share"], color="0.85", label="share that ends here")
            axis.plot(places, table["mean"], color=MODEL, lw=1.5, label="mean p(stop)")
            axis.scatter(
                places, table["ending"], color=MODEL, s=28, zorder=3, label="... where reports end"
            )
            axis.scatter(
                places, table["going on"], facecolor="white", edgecolor=MODEL, s=28, zorder=3,
                label="... where they go on",
            )  # fmt: skip
            axis.set_xticks(places, [f"{p}\n({n})" for p, n in table["reports"].items()])
            axis.tick_params(labelsize=8)
            axis.set_title(title, fontsize=10)
            axis.set_xlabel("after sentence (reports that come so far)", fontsize=9)
            axis.set_ylim(0, 1.02)
            axis.grid(axis="x", visible=False)
        for axis in axes[:, 0]:
            axis.set_ylabel("probability")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="upper center", ncol=4, fontsize=8, frameon=False)
        figure.tight_layout(rect=(0, 0.02, 1, 1 - 0.25 / size[1]))
    return _finish(figure, synthetic)


def sentence_attention_figure(
    images: np.ndarray,
    attention: np.ndarray,
    sentences: Sequence[str],
    *,
    notes: Sequence[str] | None = None,
    columns: int = 3,
    grid: tuple[int, int] | None = None,
    view_names: Sequence[str] | None = None,
    synthetic: bool = False,
) -> Figure:
    """Where the model looks for each sentence, as heat over all views.

    The heat is a patch's weight as a multiple of the uniform weight, one scale for all panels; a
    patch at or below the uniform weight stays clear. So a panel without heat is one whose sentence
    looks everywhere alike. Under a sentence stands the share of attention of each view.

    Args:
        images: ``[V, H, W]`` grey, any range; absent views at the end may be left out.
        attention: ``[M, V, S]``, rows summing to 1 (:func:`sentence_rows`).
        sentences: M texts.
        notes: M further remarks, e.g. the findings that were attended to.
        columns: panels per row.
        grid: (rows, columns) of the patches, S in all; default: square.
        view_names: V short names; default: frontal and lateral for two.
        synthetic: whether to tag the figure as drawn from phantom images.

    Raises:
        KitError: shapes that do not belong together, or no sentence.
    """
    images, attention = np.asarray(images, dtype=float), np.asarray(attention, dtype=float)
    rows, cols = _check(images, attention, sentences, notes, grid)
    views, height, width = images.shape
    attention = attention[:, :views]
    if view_names is None:
        view_names = (
            ("frontal", "lateral") if views == 2 else [f"view {v + 1}" for v in range(views)]
        )
    strength = attention * (views * rows * cols)  # 1 = uniform
    norm = Normalize(1.0, max(float(np.quantile(strength, 0.995)), 1.5), clip=True)
    colours = plt.get_cmap("inferno")
    backdrop = np.concatenate([_stretch(image) for image in images], axis=1)  # [H, V*W]

    captions = [" | ".join(view_names)]
    for place, sentence in enumerate(sentences):
        text = textwrap.fill(f"{place + 1}. {sentence or '(empty)'}", 42, max_lines=3)
        if views > 1:
            shares = zip(view_names, attention[place].sum(1))
            text += "\n" + " | ".join(f"{name} {share:.0%}" for name, share in shares)
        if notes is not None:
            text += "\n" + textwrap.fill(notes[place], 42, max_lines=2)
        captions.append(text.replace("$", r"\$"))  # matplotlib would start a formula
    columns = min(columns, len(captions))
    lines = math.ceil(len(captions) / columns)
    longest = max(caption.count("\n") + 1 for caption in captions)
    size = (1.5 * views * columns + 0.6, lines * (1.5 * height / width + 0.155 * longest + 0.15))
    figure = plt.figure(figsize=(size[0], size[1] + 0.25), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0.2 / size[1], 1, 1 - 0.3 / size[1]))  # room for a tag
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, caption in zip(axes, captions):
        axis.imshow(backdrop, cmap="gray", vmin=0, vmax=1)
        axis.set_title(caption, fontsize=8)
    for axis, weights in zip(axes[1:], strength):
        heat = np.concatenate(
            [upsample(view.reshape(rows, cols), height, width) for view in weights], axis=1
        )
        axis.imshow(colours(norm(heat)), alpha=0.75 * norm(heat).filled() ** 0.5)
    for axis in axes:
        axis.set_axis_off()
        for view in range(1, views):
            axis.axvline(view * width - 0.5, color="white", linewidth=0.6)
    bar = figure.colorbar(
        ScalarMappable(norm, colours), ax=list(axes), fraction=0.02, pad=0.01, aspect=40
    )
    bar.ax.tick_params(labelsize=6)
    bar.set_label("attention weight / uniform weight", fontsize=7)
    return _finish(figure, synthetic)


def _check(
    images: np.ndarray,
    attention: np.ndarray,
    sentences: Sequence[str],
    notes: Sequence[str] | None,
    grid: tuple[int, int] | None,
) -> tuple[int, int]:
    """The grid of patches, once everything fits together."""
    check_views(images, attention)
    if not len(sentences) or len(sentences) != len(attention):
        raise KitError(
            f"{len(sentences)} sentences for {len(attention)} rows of attention; pass what "
            "sentence_rows gives for a report that is not empty."
        )
    if notes is not None and len(notes) != len(sentences):
        raise KitError(f"{len(notes)} notes for {len(sentences)} sentences.")
    rows, cols = grid or (math.isqrt(attention.shape[2]),) * 2
    if rows * cols != attention.shape[2]:
        raise KitError(
            f"{attention.shape[2]} patches are no {rows} x {cols} grid; "
            "pass grid=(rows, columns) of the encoder."
        )
    return rows, cols
