"""Figures of notebook 02: what metrics count, what a constant earns, how wide intervals are.

Every function draws the numbers or texts it is given and returns the figure. Figures are not
registered with pyplot: a notebook shows the returned object once, and nothing stays open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from textwrap import shorten

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, ScalarFormatter

from r2genkit.errors import KitError
from r2genkit.metrics.findings import Agreement, Mention
from r2genkit.metrics.nlg import METRICS

PALETTE = sns.color_palette("colorblind")
BLUE, ORANGE, GREEN, RED = PALETTE[0], PALETTE[1], PALETTE[2], PALETTE[3]
GREY, DARK = "0.55", "0.25"
POLARITY_COLOURS = {"positive": RED, "uncertain": ORANGE, "negative": GREEN}
"""Colour of a mention; the polarity is always written out beside it as well."""


def _axes(width: float, height: float, columns: int = 1, **options) -> tuple[Figure, list[Axes]]:
    with sns.axes_style("whitegrid"):
        figure = Figure(figsize=(width, height), dpi=80, layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False, **options)
    for axis in axes.flat:
        axis.tick_params(labelsize=9)
        sns.despine(ax=axis, left=True)
    return figure, list(axes.flat)


def tag_synthetic(figure: Figure, synthetic: bool) -> Figure:
    """Say at the foot that the studies belong to the phantom, whose report text is real."""
    if synthetic:
        figure.supxlabel(
            "phantom corpus: synthetic images, real report text",
            fontsize=7,
            color="0.4",
            x=0.995,
            ha="right",
        )
    return figure


def clipped_matches(hypothesis: str, reference: str, order: int) -> list[bool]:
    """Which n-grams of the hypothesis BLEU counts, from left to right.

    An n-gram that the reference holds k times is counted at its first k places only (Papineni et
    al. 2002, section 2.1: clipping).

    Args:
        hypothesis, reference: tokens joined by spaces.
        order: n, from 1.

    Returns:
        One value per n-gram; empty when the hypothesis has fewer than n tokens.
    """
    words, target = hypothesis.split(), reference.split()
    left = Counter(tuple(target[i : i + order]) for i in range(len(target) - order + 1))
    found = []
    for start in range(len(words) - order + 1):
        gram = tuple(words[start : start + order])
        found.append(left[gram] > 0)
        left[gram] -= 1
    return found


def match_figure(hypothesis: str, reference: str) -> Figure:
    """The n-grams of a hypothesis, counted ones blue: one row per n, one bar per n-gram.

    Raises:
        KitError: the hypothesis has no token.
    """
    words = hypothesis.split()
    if not words:
        raise KitError("Nothing to draw: the hypothesis is empty; give at least one token.")
    figure, (axis,) = _axes(max(5.0, 0.62 * len(words) + 1.2), 2.6)
    names = []
    for order in range(1, 5):
        found = clipped_matches(hypothesis, reference, order)
        for start, counted in enumerate(found):
            # Overlapping n-grams of one order take turns in height, so that each can be seen.
            height = 0.8 / order
            low = order - 0.4 + height * (start % order)
            axis.barh(
                low,
                order - 0.1,
                height=0.85 * height,
                left=start - 0.45,
                align="edge",
                color=BLUE if counted else "0.85",
            )
        names.append(f"n = {order}: {sum(found)} of {len(found)}")
    axis.set_yticks(range(1, 5), names)
    axis.set_ylim(4.5, 0.5)
    axis.set_xticks(range(len(words)), words, rotation=30, ha="right")
    axis.set_xlim(-0.6, len(words) - 0.4)
    axis.grid(False)
    axis.set_title(f"reference: {reference}", fontsize=9, color=DARK, loc="left")
    return figure


def mentions_figure(mentions: Sequence[Mention]) -> Figure:
    """Sentences with the finding phrase underlined and the word that turned it boxed.

    Args:
        mentions: as ``FindingLabeler.explain`` gives; one line is drawn per mention.

    Raises:
        KitError: there is no mention.
    """
    if not mentions:
        raise KitError("Nothing to draw: the report mentions no finding; give another text.")
    longest = max(len(mention.sentence) for mention in mentions)
    figure = Figure(
        figsize=(0.08 * (longest + 30) + 0.3, 0.42 * len(mentions) + 0.3),
        dpi=80,
        layout="constrained",
    )
    axis = figure.subplots()
    axis.set(xlim=(0, longest + 30), ylim=(len(mentions) - 0.4, -0.6))
    axis.axis("off")
    font = {"family": "monospace", "fontsize": 9, "va": "center"}
    for row, mention in enumerate(mentions):
        colour = POLARITY_COLOURS[mention.polarity]
        words = mention.sentence.split()
        places = np.cumsum([0, *(len(word) + 1 for word in words)])
        first, last = mention.span
        trigger = mention.trigger_words()
        for number, (place, word) in enumerate(zip(places, words)):
            inside = first <= number < last
            axis.text(
                place,
                row,
                word,
                color=colour if inside else DARK,
                weight="bold" if inside else "normal",
                bbox={"boxstyle": "square,pad=0.12", "fc": "0.92", "ec": colour, "lw": 1}
                if number in trigger
                else None,
                **font,
            )
        axis.plot([places[first], places[last] - 1], [row + 0.3] * 2, color=colour, lw=2)
        axis.text(longest + 3, row, f"{mention.finding}: {mention.polarity}", color=colour, **font)
    return figure


def agreement_table(agreement: Agreement) -> pd.DataFrame:
    """Agreement of the labeler with the readers' codes, one row per finding type, commonest first.

    Returns:
        Columns support (studies with the code), labelled (studies that the labeler names),
        precision, recall and F1; NaN where there is nothing to divide by. Types that neither side
        ever names are left out.
    """
    found = agreement.table
    table = pd.DataFrame(
        {
            "support": found["coded"],
            "labelled": found["labelled"],
            "precision": found["tp"] / found["labelled"].where(found["labelled"] > 0),
            "recall": found["tp"] / found["coded"].where(found["coded"] > 0),
            "F1": found["f1"],
        }
    )
    table = table[table["support"] + table["labelled"] > 0]
    return table.sort_values("support", ascending=False, kind="stable")


def ladder_figure(steps: pd.DataFrame, *, full: Mapping[str, float], synthetic: bool) -> Figure:
    """BLEU-4 of one fixed report while it grows, sentence by sentence.

    Args:
        steps: one row per sentence in the order of adding; column "sentence", all other columns
            are scores to draw, named for the legend.
        full: value by score column that the full search reaches, drawn as a dashed line.
        synthetic: whether the studies belong to the phantom.

    Raises:
        KitError: there is no step, or no column "sentence".
    """
    if "sentence" not in steps.columns or not len(steps):
        raise KitError("Nothing to draw: give steps with a column 'sentence' and a score.")
    figure, (axis,) = _axes(10.5, 0.34 * len(steps) + 1.5)
    places = np.arange(len(steps))
    scores = [name for name in steps.columns if name != "sentence"]
    for name, colour, marker in zip(scores, (BLUE, ORANGE, GREEN), "osD"):
        axis.plot(steps[name], places, marker=marker, ms=5, color=colour, label=name)
        if name in full:
            label = f"{name}, full search"
            axis.axvline(full[name], color=colour, ls="--", lw=1, label=label)
    names = [shorten(text, 62, placeholder=" ...") for text in steps["sentence"]]
    axis.set_yticks(places, [f"{number}. {name}" for number, name in enumerate(names, start=1)])
    axis.set_ylim(len(steps) - 0.5, -0.5)
    axis.set_xlim(left=0)
    axis.set_xlabel("corpus BLEU-4 of the report so far")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return tag_synthetic(figure, synthetic)


def rules_figure(table: pd.DataFrame, metric: str, *, synthetic: bool) -> Figure:
    """The same hypotheses under different text rules: one line per rule, one marker per system.

    Args:
        table: index = rule, one column per system, values of the metric. The first rule is the
            one that the others are compared with.
        metric: name of the axis.
        synthetic: whether the studies belong to the phantom.

    Raises:
        KitError: the table is empty.
    """
    if table.empty:
        raise KitError("Nothing to draw: the table of text rules is empty.")
    figure, (axis,) = _axes(8.4, 0.4 * len(table) + 1.2)
    places = np.arange(len(table))
    for (system, values), colour, marker in zip(table.items(), (BLUE, ORANGE, GREEN), "osD"):
        axis.scatter(values, places, color=colour, marker=marker, s=36, label=system, zorder=3)
        axis.axvline(values.iloc[0], color=colour, ls="--", lw=1)
    axis.set_yticks(places, list(table.index))
    axis.set_ylim(len(table) - 0.5, -0.5)
    axis.set_xlim(left=0)
    axis.set_xlabel(f"{metric} (dashed: under the first rule)")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return tag_synthetic(figure, synthetic)


def width_figure(
    widths: pd.DataFrame, *, sizes: Mapping[str, int], gap: tuple[str, float], synthetic: bool
) -> Figure:
    """Half-width of the 95 % interval against the number of test studies.

    Args:
        widths: index = number of studies, one column per quantity, values > 0.
        sizes: test sets to mark, number of studies by name.
        gap: name and size of a difference to draw as a horizontal line.
        synthetic: whether the studies belong to the phantom.

    Raises:
        KitError: there is no width to draw.
    """
    if widths.empty:
        raise KitError("Nothing to draw: the table of interval widths is empty.")
    figure, (axis,) = _axes(7.6, 4.2)
    for (name, values), colour, marker in zip(widths.items(), (BLUE, ORANGE, GREEN), "osD"):
        axis.plot(values.index, values, color=colour, marker=marker, ms=4, label=name)
    axis.axhline(gap[1], color=RED, lw=1.4)
    axis.annotate(
        gap[0],
        (0.01, gap[1]),
        (0, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="bottom",
        fontsize=8,
        color=RED,
    )
    axis.set(xscale="log", yscale="log", xlabel="test studies", ylabel="half of the 95 % interval")
    for place in (axis.xaxis, axis.yaxis):
        place.set_major_formatter(ScalarFormatter())
        place.set_minor_formatter(NullFormatter())
    axis.set_xticks([20, 50, 100, 200, 500, 1000, 2000])
    axis.set_yticks([0.002, 0.005, 0.01, 0.02, 0.05])
    axis.minorticks_off()
    axis.set_ylim(bottom=min(0.0013, 0.7 * gap[1], 0.7 * float(widths.min(axis=None))))
    for name, number in sizes.items():
        axis.axvline(number, color=GREY, lw=0.8, ls=":")
        axis.text(
            number,
            0.015,
            f"{name} ({number})",
            transform=axis.get_xaxis_transform(),
            rotation=90,
            ha="right",
            va="bottom",
            fontsize=7.5,
            color=DARK,
        )
    axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2, frameon=False)
    return tag_synthetic(figure, synthetic)


_RECORDED = {  # value, low and high end of the 95 % interval of each metric
    "most frequent training report": [
        (0.2415, 0.2282, 0.2559),
        (0.1466, 0.1353, 0.1579),
        (0.1055, 0.0956, 0.1159),
        (0.081, 0.0714, 0.0902),
        (0.1195, 0.1139, 0.1248),
        (0.3122, 0.3005, 0.3227),
        (0.3441, 0.2429, 0.4475),
    ],
    "random training report": [
        (0.3693, 0.3574, 0.3812),
        (0.2081, 0.1979, 0.2183),
        (0.1298, 0.121, 0.1392),
        (0.0865, 0.0786, 0.0954),
        (0.1556, 0.1496, 0.1612),
        (0.2891, 0.2808, 0.2979),
        (0.1569, 0.1199, 0.2078),
    ],
    "best single training report": [
        (0.4345, 0.4242, 0.4441),
        (0.2985, 0.2897, 0.3072),
        (0.2131, 0.205, 0.2209),
        (0.1549, 0.1474, 0.1619),
        (0.223, 0.217, 0.2293),
        (0.3511, 0.3447, 0.3583),
        (0.1279, 0.1085, 0.1496),
    ],
    "constant template": [
        (0.4876, 0.4773, 0.4968),
        (0.3659, 0.3565, 0.3748),
        (0.2791, 0.27, 0.288),
        (0.2134, 0.2044, 0.2221),
        (0.2165, 0.2099, 0.2238),
        (0.3881, 0.3804, 0.3957),
        (0.4022, 0.3638, 0.4394),
    ],
    "memorisation oracle": [
        (0.6774, 0.6519, 0.7033),
        (0.6049, 0.5751, 0.6349),
        (0.5555, 0.5223, 0.5881),
        (0.5207, 0.486, 0.5557),
        (0.3407, 0.3204, 0.3619),
        (0.6569, 0.6306, 0.6847),
        (4.848, 4.4617, 5.2516),
    ],
}
RECORDED_BASELINES = pd.DataFrame(
    {
        name: {
            f"{metric}{end}": value
            for metric, row in zip(METRICS, rows)
            for end, value in zip(("", " low", " high"), row)
        }
        for name, rows in _RECORDED.items()
    }
).T
"""What the baselines score on the 590 test studies of R2Gen's released split under its own text
rule and cut references (seed 0, 1,000 resamples), for readers who do not hold its annotation.json.
With the file the notebook counts again, and a test compares."""


def published_figure(
    ours: pd.DataFrame, published: pd.DataFrame, metrics: Sequence[str] = ("BLEU-4", "METEOR")
) -> Figure:
    """Baselines beside published systems of the same protocol, one panel per metric.

    Args:
        ours: index = system, metric columns; optionally "BLEU-4 low" and "BLEU-4 high" (likewise
            for other metrics) with the ends of the interval.
        published: columns "system" and the metrics, numbers; NaN is left out.
        metrics: panels.

    Raises:
        KitError: a table is empty or lacks a metric.
    """
    for what, table in (("our scores", ours), ("published scores", published)):
        if table.empty:
            raise KitError(f"Nothing to draw: the table of {what} is empty.")
        if missing := [metric for metric in metrics if metric not in table.columns]:
            raise KitError(f"The table of {what} lacks the column {missing[0]!r}.")
    names = [*ours.index, *published["system"]]
    figure, axes = _axes(
        3.0 * len(metrics) + 3.2, 0.32 * len(names) + 1.2, len(metrics), sharey=True
    )
    for axis, metric in zip(axes, metrics):
        for place, (_, row) in enumerate(ours.iterrows()):
            axis.plot(row[metric], place, "o", color=BLUE, ms=5)
            low, high = row.get(f"{metric} low"), row.get(f"{metric} high")
            if low is not None and pd.notna(low):
                axis.plot([low, high], [place, place], color=BLUE, lw=1.5)
        start = len(ours)
        axis.plot(published[metric], range(start, len(names)), "D", mfc="white", color=ORANGE, ms=5)
        axis.axhline(start - 0.5, color=GREY, lw=0.8)
        axis.set_title(metric, fontsize=10)
        axis.set_xlim(0, 1.05 * axis.get_xlim()[1])
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    handles = [
        Line2D([], [], marker="o", ls="", color=BLUE, label="looks at no image"),
        Line2D([], [], marker="D", ls="", color=ORANGE, mfc="white", label="published"),
    ]
    axes[-1].legend(handles=handles, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
