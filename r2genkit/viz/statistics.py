"""Figures of notebook 01: what the reports, their codes and the splits look like.

Every function takes plain counts (series, frames, mappings), draws them and returns the figure; it
counts nothing itself, so a figure cannot disagree with the table beside it. Figures are not
registered with pyplot: a notebook shows the returned object once, and nothing stays open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from r2genkit.errors import KitError

PALETTE = sns.color_palette("colorblind")
BLUE, ORANGE, GREEN, RED = PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[3]
GREY = "0.72"
DARK = "0.25"
_THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}")


def _axes(
    width: float, height: float, columns: int = 1, rows: int = 1, **options
) -> tuple[Figure, list[Axes]]:
    """A figure outside pyplot and its axes, row by row."""
    with sns.axes_style("whitegrid"):
        figure = Figure(figsize=(width, height), dpi=80, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:
        axis.tick_params(labelsize=9)
        sns.despine(ax=axis, left=True)
    return figure, list(axes.flat)


def _needs(data, what: str) -> None:
    if len(data) == 0:
        raise KitError(f"Nothing to draw: {what} is empty; give at least one entry.")


def _columns(frame: pd.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise KitError(
            f"The table to draw lacks the column {missing[0]!r}; it has {', '.join(frame.columns)}."
        )


def _name_bars(axis: Axes, numbers: Sequence[float], labels: Sequence[str]) -> None:
    """Write each horizontal bar's number behind its end."""
    room = max(numbers, default=0)
    for place, (number, label) in enumerate(zip(numbers, labels, strict=True)):
        axis.text(number + 0.01 * room, place, label, va="center", fontsize=8.5, color=DARK)
    axis.set_xlim(0, room * 1.17 or 1)


def _horizontal(axis: Axes, counts: pd.Series, colors, label: str) -> None:
    """Horizontal bars, first entry on top, each with its number."""
    places = np.arange(len(counts))
    axis.barh(places, counts.to_numpy(), color=colors, height=0.72)
    axis.set_yticks(places, [str(name) for name in counts.index])
    axis.set_ylim(len(counts) - 0.4, -0.6)
    axis.grid(False, axis="y")
    axis.set_xlabel(label)
    axis.xaxis.set_major_formatter(_THOUSANDS)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    _name_bars(axis, counts.to_list(), [f"{number:,}" for number in counts])


RECORDED_R2GEN = pd.DataFrame(
    {
        "part": ["train", "validation", "test"],
        "studies": [2069, 296, 590],
        "normal %": [33.0, 33.1, 52.0],
        "verbatim-in-train %": [100.0, 22.3, 46.9],
        "duplicate %": [21.7, 14.5, 42.5],
        "unique texts": [1724, 270, 394],
        "ten commonest %": [7.8, 9.8, 20.5],
        "median length": [34.0, 33.0, 30.0],
    }
).set_index("part")
"""What ``audit_split`` says of R2Gen's released IU X-Ray split, rounded to one decimal: for readers
who do not hold its annotation.json. With the file the notebook counts again."""


def _branch(name: str) -> str:
    """Which collection a step of the funnel belongs to."""
    return next((one for one in ("R2Gen", "2018 kit") if name.startswith(one)), "any")


def funnel_figure(table: pd.DataFrame) -> Figure:
    """How many reports fulfil each condition, coloured by who asks for it.

    Args:
        table: ``r2genkit.corpora.counts.funnel``: index = name of the set, columns ``definition``,
            ``reports`` and ``images used``.
    """
    _columns(table, ("definition", "reports", "images used"))
    _needs(table, "the funnel")
    color_of = {"any": GREY, "2018 kit": ORANGE, "R2Gen": BLUE}
    figure, (axis,) = _axes(10.2, 0.36 * len(table) + 1.2)
    names = [f"{name}: {said}" for name, said in table["definition"].items()]
    colors = [color_of[_branch(name)] for name in table.index]
    _horizontal(axis, pd.Series(table["reports"].to_list(), index=names), colors, "reports")
    for text, images in zip(axis.texts, table["images used"], strict=True):
        text.set_text(f"{text.get_text()}  ({images:,} images)")
    axis.set_xlim(0, 1.3 * table["reports"].max())
    axis.set_title("From the collection to the sets that models are trained on")
    return figure


def sections_figure(sections: pd.DataFrame, images: Mapping[int, int]) -> Figure:
    """Which sections reports have, and how many images.

    Args:
        sections: 2 x 2 counts; index: FINDINGS (absent, present), columns: IMPRESSION.
        images: number of reports by number of images.
    """
    _needs(images, "the number of images")
    figure, (left, right) = _axes(8.6, 3.4, columns=2)
    sns.heatmap(
        sections, annot=True, fmt=",d", cmap="Blues", cbar=False, ax=left, annot_kws={"size": 13},
        linewidths=2,
    )  # fmt: skip
    left.set_title("Reports by section")
    left.tick_params(axis="y", rotation=0)
    numbers = sorted(images)
    right.bar([str(n) for n in numbers], [images[n] for n in numbers], color=BLUE)
    for place, number in enumerate(numbers):
        right.text(place, images[number], f"{images[number]:,}", ha="center", va="bottom", size=8.5)
    right.grid(False, axis="x")
    right.margins(y=0.1)
    right.yaxis.set_major_formatter(_THOUSANDS)
    right.set(title="Images of a report", xlabel="images", ylabel="reports")
    return figure


def views_figure(tags: pd.Series, studies: pd.Series) -> Figure:
    """What the ViewPosition tag says of single images, and of studies with several images.

    Args:
        tags: number of images by tag value.
        studies: number of multi-image studies by what their tags say together.
    """
    _needs(tags, "the tag counts")
    _needs(studies, "the study counts")
    figure, (left, right) = _axes(9.4, 3.3, columns=2)
    _horizontal(left, tags, BLUE, "images")
    left.set_title("Tag of each image")
    _horizontal(right, studies, ORANGE, "studies")
    right.set_title("Studies with two or more images")
    return figure


def _share(counts: Mapping[int, int], low: int, high: int) -> float:
    total = sum(counts.values())
    return 100 * sum(n for value, n in counts.items() if low <= value <= high) / total


def sentences_figure(
    counts: Mapping[str, Mapping[int, int]], low: int = 4, high: int = 8, last: int = 16
) -> Figure:
    """Histogram of sentences per report, one panel per definition, the claimed range coloured.

    Args:
        counts: by definition, number of reports by number of sentences.
        low, high: the range whose share is claimed, both ends included.
        last: longer reports are pooled in the bar of this length ("16+").
    """
    _needs(counts, "the sentence counts")
    figure, axes = _axes(3.5 * len(counts) + 0.6, 3.4, columns=len(counts), sharey=True)
    for axis, (name, histogram) in zip(axes, counts.items(), strict=True):
        _needs(histogram, f"the histogram {name!r}")
        pooled = dict.fromkeys(range(1, last + 1), 0)
        for length, number in histogram.items():
            if length >= 1:
                pooled[min(length, last)] += number
        inside = [low <= length <= high for length in pooled]
        axis.bar(list(pooled), list(pooled.values()), color=[BLUE if i else GREY for i in inside])
        total, share = sum(histogram.values()), _share(histogram, low, high)
        axis.set_title(f"{name}\n{total:,} reports, {share:.1f} % with {low} to {high}", size=10)
        axis.set_xticks([1, *range(low, last, 4), last], ["1", *map(str, range(low, last, 4)),
                        f"{last}+"])  # fmt: skip
        axis.grid(False, axis="x")
        axis.set_xlabel("sentences")
    axes[0].set_ylabel("reports")
    axes[0].yaxis.set_major_formatter(_THOUSANDS)
    return figure


def vocabulary_figure(
    frequencies: Mapping[str, Sequence[int]], threshold: int = 3, up_to: int = 10
) -> Figure:
    """Word frequency against rank, and what a threshold costs.

    Args:
        frequencies: by text, how often each distinct word occurs (any order).
        threshold: a word seen fewer times becomes ``<unk>``; drawn as a line.
        up_to: largest threshold of the right panels.
    """
    _needs(frequencies, "the word frequencies")
    figure, (zipf, kept, lost) = _axes(10.4, 3.4, columns=3)
    steps = np.arange(1, up_to + 1)
    for color, (name, values) in zip(PALETTE, frequencies.items(), strict=False):
        counts = np.sort(np.asarray(values, dtype=np.int64))[::-1]
        _needs(counts, f"the frequencies of {name!r}")
        zipf.loglog(np.arange(1, len(counts) + 1), counts, color=color, lw=2, label=name)
        words = [int((counts >= step).sum()) for step in steps]
        tokens = [100 * counts[counts < step].sum() / counts.sum() for step in steps]
        kept.plot(steps, words, "o-", color=color, ms=4, label=name)
        lost.plot(steps, tokens, "o-", color=color, ms=4, label=name)
    zipf.axhline(threshold, color=RED, ls="--", lw=1)
    zipf.text(1, threshold * 1.15, f"seen {threshold} times", color=RED, fontsize=8.5)
    zipf.set(title="Frequency by rank", xlabel="rank of the word", ylabel="occurrences")
    for axis in (kept, lost):
        axis.axvline(threshold, color=RED, ls="--", lw=1)
        axis.set_xlabel("threshold (occurrences)")
        axis.set_ylim(bottom=0)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    kept.yaxis.set_major_formatter(_THOUSANDS)
    kept.set(title="Words kept", ylabel="words")
    lost.set(title="Price", ylabel="tokens that become <unk> (%)")
    kept.legend(fontsize=8)
    return figure


def lengths_figure(
    lengths: Mapping[str, Sequence[int]], cut: int = 58, longest: int = 130
) -> Figure:
    """Report lengths in tokens, and the share that a maximum length cuts.

    Args:
        lengths: tokens of each report, full stops included, by text.
        cut: number of words that fit (maximum length minus begin and end mark).
        longest: longer reports are pooled in the last bin.
    """
    _needs(lengths, "the lengths")
    figure, axes = _axes(4.6 * len(lengths), 3.3, columns=len(lengths), sharey=True)
    first = (cut + 0.5) % 5 - 5  # bins of five tokens, one edge exactly at the cut
    edges = np.arange(first, longest + 5, 5)
    for axis, (name, values) in zip(axes, lengths.items(), strict=True):
        numbers = np.asarray(values)
        _needs(numbers, f"the lengths of {name!r}")
        over = 100 * (numbers > cut).mean()
        heights, _ = np.histogram(np.minimum(numbers, edges[-2] + 0.5), bins=edges)
        colors = [ORANGE if left >= cut else BLUE for left in edges[:-1]]
        axis.bar(edges[:-1], heights, width=4.6, align="edge", color=colors)
        axis.axvline(cut + 0.5, color=RED, ls="--", lw=1)
        axis.set_title(f"{name}: median {np.median(numbers):.0f}, {over:.1f} % cut", size=10.5)
        axis.grid(False, axis="x")
        axis.set_xlabel(f"tokens (last bar: {edges[-2] + 0.5:.0f} and more)")
    axes[0].set_ylabel("reports")
    axes[0].text(cut + 2, axes[0].get_ylim()[1] * 0.9, f"{cut} words fit", color=RED, fontsize=8.5)
    return figure


def heads_figure(heads: pd.Series, drawn: Mapping[str, bool] | None = None) -> Figure:
    """The commonest MeSH heads.

    Args:
        heads: number of reports by head, commonest first.
        drawn: whether the head leads to a finding type; others are grey. Default: all coloured.
    """
    _needs(heads, "the list of heads")
    figure, (axis,) = _axes(8.2, 0.27 * len(heads) + 1.1)
    colors = [BLUE if drawn is None or drawn[head] else GREY for head in heads.index]
    _horizontal(axis, heads, colors, "reports")
    axis.set_title(f"The {len(heads)} commonest MeSH heads")
    return figure


def normality_figure(ratios: pd.Series, claim: float = 2.5) -> Figure:
    """Normal studies per abnormal study under several definitions, beside the claim.

    Args:
        ratios: normal / abnormal by definition.
        claim: the published ratio, drawn as a line.
    """
    _needs(ratios, "the list of ratios")
    figure, (axis,) = _axes(8.4, 0.42 * len(ratios) + 1.4)
    places = np.arange(len(ratios))
    axis.hlines(places, 0, ratios.to_numpy(), color=GREY, lw=2, zorder=1)
    axis.scatter(ratios.to_numpy(), places, color=BLUE, s=55, zorder=2)
    for place, ratio in zip(places, ratios, strict=True):
        axis.annotate(
            f"{ratio:.2f}", (ratio, place), xytext=(7, 0), textcoords="offset points",
            va="center", fontsize=9, color=DARK,
        )  # fmt: skip
    axis.axvline(claim, color=RED, ls="--", lw=1)
    axis.text(claim - 0.03, -0.75, f"claimed: {claim:g}", color=RED, fontsize=9, ha="right")
    axis.set_yticks(places, [str(name) for name in ratios.index])
    axis.set_ylim(len(ratios) - 0.5, -1.1)
    axis.set_xlim(0, 1.13 * max(claim, float(ratios.max())))
    axis.grid(False, axis="y")
    axis.set(title="Normal studies per abnormal study", xlabel="normal : abnormal")
    return figure


def redundancy_figure(texts: Mapping[str, Sequence[int]]) -> Figure:
    """How many reports the k commonest texts cover.

    Args:
        texts: by section, how many reports share each distinct text (any order).
    """
    _needs(texts, "the text counts")
    figure, (axis,) = _axes(7.2, 3.5)
    for color, (name, values) in zip(PALETTE, texts.items(), strict=False):
        counts = np.sort(np.asarray(values, dtype=np.int64))[::-1]
        _needs(counts, f"the text counts of {name!r}")
        covered = 100 * np.cumsum(counts) / counts.sum()
        unique = 100 * len(counts) / counts.sum()
        axis.semilogx(
            np.arange(1, len(counts) + 1), covered, lw=2, color=color,
            label=f"{name} ({unique:.0f} distinct texts per 100 reports)",
        )  # fmt: skip
    axis.set(
        title="The same words again",
        xlabel="commonest texts (logarithmic)",
        ylabel="reports covered (%)",
        ylim=(0, 102),
    )
    axis.legend(fontsize=8.5, loc="upper left")
    return figure


def splits_figure(audits: pd.DataFrame, measures: Sequence[str]) -> Figure:
    """Audited measures of every protocol and part, side by side.

    Args:
        audits: rows of ``audit_split`` with the columns ``protocol``, ``part``, ``source``
            ("counted" or "recorded") and the measures; missing values are left out.
        measures: columns to draw, one panel each.
    """
    _columns(audits, ("protocol", "part", "source", *measures))
    _needs(audits, "the audit")
    protocols = list(dict.fromkeys(audits["protocol"]))
    marks = {"train": ("o", BLUE), "validation": ("s", GREEN), "test": ("D", ORANGE)}
    figure, axes = _axes(
        3.3 * len(measures) + 1.6, 0.62 * len(protocols) + 1.7, columns=len(measures), sharey=True
    )
    for axis, measure in zip(axes, measures, strict=True):
        for row in audits.dropna(subset=[measure]).to_dict("records"):
            mark, color = marks[row["part"]]
            step = 0.2 * (list(marks).index(row["part"]) - 1)  # parts below one another
            axis.scatter(
                row[measure], protocols.index(row["protocol"]) + step, marker=mark, s=42, lw=1.6,
                facecolor=color if row["source"] == "counted" else "white", edgecolor=color,
                zorder=3,
            )  # fmt: skip
        axis.set_title(measure, size=10.5)
        largest = audits[measure].max()
        axis.set_xlim(-0.04 * largest, 1.08 * largest)
        axis.grid(False, axis="y")
        for edge in range(1, len(protocols)):
            axis.axhline(edge - 0.5, color="0.85", lw=0.8)
    axes[0].set_yticks(range(len(protocols)), protocols)
    axes[0].set_ylim(len(protocols) - 0.5, -0.5)
    handles = [
        axes[0].scatter([], [], marker=mark, s=60, lw=1.6, facecolor=color, edgecolor=color)
        for mark, color in marks.values()
    ]
    names = list(marks)
    if "recorded" in set(audits["source"]):
        handles.append(axes[0].scatter([], [], s=60, lw=1.6, facecolor="white", edgecolor=DARK))
        names.append("white: recorded, not counted here")
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def _whole_bins(values: np.ndarray, about: int = 20) -> np.ndarray:
    """Edges that give every bin the same number of possible values.

    Shares of a fixed number of studies are multiples of one step; bins of another width would hold
    now five, now six of them, and the histogram would look like a comb.
    """
    distinct = np.unique(values)
    if len(distinct) == 1:
        return np.array([distinct[0] - 0.5, distinct[0] + 0.5])
    step = np.diff(distinct).min()
    width = step * max(1, np.ceil((distinct[-1] - distinct[0]) / step / about))
    return np.arange(distinct[0] - step / 2, distinct[-1] + width, width)


def resplits_figure(draws: Mapping[str, Sequence[float]], released: Mapping[str, float]) -> Figure:
    """What random re-splits of the same studies give, and where the released split lies.

    Args:
        draws: by measure, its value on the test part of each random re-split.
        released: the released split's value by measure (same keys).
    """
    _needs(draws, "the re-splits")
    figure, axes = _axes(4.5 * len(draws), 3.1, columns=len(draws))
    for axis, (measure, values) in zip(axes, draws.items(), strict=True):
        numbers = np.asarray(values, dtype=float)
        _needs(numbers, f"the re-splits of {measure!r}")
        axis.hist(numbers, bins=_whole_bins(numbers), color=BLUE, edgecolor="white")
        axis.axvline(released[measure], color=RED, lw=2)
        axis.text(
            released[measure], axis.get_ylim()[1] * 0.95, f"released \n{released[measure]:.1f} ",
            color=RED, ha="right", va="top", fontsize=9,
        )  # fmt: skip
        axis.set_title(
            f"{len(numbers):,} random re-splits: {numbers.mean():.1f} on average", size=10
        )
        axis.grid(False, axis="x")
        axis.set(xlabel=f"{measure} of the test set", ylabel="re-splits")
    return figure


def coverage_figure(
    types: pd.Series, any_drawn: Sequence[float], all_drawn: Sequence[float]
) -> Figure:
    """Studies by finding type, and how much of the abnormal studies the first k types cover.

    Args:
        types: number of studies by finding type, most frequent first.
        any_drawn, all_drawn: share of abnormal studies (%) with at least one, and with every coded
            finding drawn, when the first 1, 2, ... types are.
    """
    _needs(types, "the list of types")
    figure, (left, right) = _axes(9.6, 0.19 * len(types) + 1.2, columns=2, width_ratios=(1.15, 1))
    _horizontal(left, types, BLUE, "studies")
    left.tick_params(axis="y", labelsize=8)
    left.set_title("Studies by finding type")
    steps = np.arange(1, len(any_drawn) + 1)
    right.plot(steps, any_drawn, color=BLUE, lw=2, label="at least one finding drawn")
    right.plot(steps, all_drawn, color=ORANGE, lw=2, label="every coded finding drawn")
    right.set(
        title="Abnormal studies covered",
        xlabel="finding types drawn, most frequent first",
        ylabel="abnormal studies (%)",
        ylim=(0, 102),
    )
    right.legend(fontsize=8.5, loc="lower right")
    return figure


def provenance_figure(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """What decided the side and the place of drawn findings, by finding type.

    Args:
        tables: one panel per entry ("side", "place"): rows = finding types, columns = "code",
            "sentence", "random", values = findings.
    """
    _needs(tables, "the provenance")
    rows = max(len(table) for table in tables.values())
    figure, axes = _axes(4.8 * len(tables), 0.26 * rows + 1.6, columns=len(tables))
    colors = {"code": BLUE, "sentence": GREEN, "random": ORANGE}
    for axis, (what, table) in zip(axes, tables.items(), strict=True):
        _columns(table, tuple(colors))
        _needs(table, f"the provenance of the {what}")
        share = 100 * table[list(colors)].div(table[list(colors)].sum(axis=1), axis=0)
        left = np.zeros(len(table))
        for origin, color in colors.items():
            widths = share[origin].to_numpy()
            axis.barh(np.arange(len(table)), widths, left=left, color=color, label=origin)
            left += widths
        axis.set_yticks(range(len(table)), [str(name) for name in table.index], fontsize=8.5)
        axis.set_ylim(len(table) - 0.4, -0.6)
        axis.set_xlim(0, 100)
        axis.grid(False, axis="y")
        axis.set(title=f"What decides the {what}", xlabel="findings (%)")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    return figure
