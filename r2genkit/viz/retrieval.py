"""Figures of retrieval: how good neighbours are, what they say, and what becomes of it."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from r2genkit.errors import KitError
from r2genkit.metrics.findings import POSITIVE, FindingLabeler
from r2genkit.study import Hypothesis
from r2genkit.text.sentences import split_sentences
from r2genkit.viz.results import _finish

RIGHT, WRONG, NEUTRAL = "#1a7f37", "#c0392b", "#4c4c4c"
KINDS = {"image": "#8c8c8c", "findings": "#1f6fb2", "both": "#d1690e", "any report": "#c9b18f"}
INDEX = {"full index": "#1f6fb2", "finding taken out": "#c0392b", "empty index": "#8c8c8c"}


def quality_figure(table: pd.DataFrame, *, synthetic: bool) -> Figure:
    """Agreement of neighbours with the study against K, one line per query.

    Args:
        table: columns ``query``, ``K``, ``F1`` (all K neighbours as answers) and ``any`` (share of
            the study's findings that at least one of K has).
        synthetic: whether to tag the figure as drawn from phantom images.

    Raises:
        KitError: a column is missing or the table is empty.
    """
    missing = {"query", "K", "F1", "any"} - set(table.columns)
    if missing or table.empty:
        raise KitError(
            f"the table of retrieval quality lacks {', '.join(sorted(missing)) or 'rows'}."
        )
    labels = {
        "F1": "finding-F1 of the neighbours",
        "any": "findings that at least one neighbour has",
    }
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(1, 2, figsize=(9.0, 3.4))
        for axis, (column, label) in zip(axes, labels.items()):
            for query, lines in table.groupby("query", sort=False):
                axis.plot(
                    lines["K"],
                    lines[column],
                    marker="o",
                    ms=4,
                    color=KINDS.get(query),
                    label=query,
                )
            axis.set_xlabel("K, reports per study", fontsize=9)
            axis.set_title(label, fontsize=10)
            axis.set_ylim(0, 1 if column == "any" else None)
            axis.set_xticks(sorted(set(table["K"])))
            axis.tick_params(labelsize=8)
        # Between the lines of good queries and those of poor ones.
        axes[0].legend(fontsize=8, title="compared by", title_fontsize=8, loc=(0.62, 0.5))
        figure.tight_layout()
    return _finish(figure, synthetic)


@dataclass(frozen=True)
class Retrieved:
    """One study with the reports retrieved for it.

    Attributes:
        views: its images, uint8 ``[H, W]`` each.
        title: above the images.
        findings: finding types that it truly has.
        reports: (title, cleaned text) of its reference and of each retrieved report.
    """

    views: Sequence[np.ndarray]
    title: str
    findings: Collection[str]
    reports: Sequence[tuple[str, str]]


def coloured_sentences(
    report: str, findings: Collection[str], labeler: FindingLabeler
) -> list[tuple[str, str]]:
    """Sentences of a report and a colour each.

    Green where it states only findings of the study, red where it states one that the study does
    not have, grey where it states none.
    """
    sentences = split_sentences(report)
    if not sentences:
        return []
    matrix = labeler.label_matrix(sentences) == POSITIVE
    coloured = []
    for sentence, row in zip(sentences, matrix):
        stated = {labeler.findings[column] for column in np.flatnonzero(row)}
        colour = NEUTRAL if not stated else RIGHT if stated <= set(findings) else WRONG
        coloured.append((sentence, colour))
    return coloured


def gallery_figure(
    cards: Sequence[Retrieved], labeler: FindingLabeler, *, width: int = 46, synthetic: bool
) -> Figure:
    """One line per study: its images, its reference, and the reports retrieved for it.

    Args:
        cards: the studies.
        labeler: finds what sentences state.
        width: characters per line of text.
        synthetic: whether to tag the figure as drawn from phantom images.

    Raises:
        KitError: no card, or a card without image.
    """
    if not cards or any(not len(card.views) for card in cards):
        raise KitError("the gallery got no study, or one without image; give at least one of each.")
    columns = max(len(card.reports) for card in cards)
    views = max(len(card.views) for card in cards)
    blocks = []
    for card in cards:
        columns_of = []
        for _, report in card.reports:
            lines: list[tuple[str, str]] = []
            for sentence, colour in coloured_sentences(report, card.findings, labeler):
                lines += [(line, colour) for line in textwrap.wrap(sentence + ".", width)]
            columns_of.append(lines)
        blocks.append(columns_of)
    step = 0.155  # inches per line of text
    heights = [max(1.9, step * (max(map(len, block)) + 2.5)) for block in blocks]
    figure = plt.figure(figsize=(1.75 * views + 0.066 * width * columns, sum(heights) + 0.2))
    grid = figure.add_gridspec(
        len(cards),
        views + columns,
        height_ratios=heights,
        width_ratios=[1.75] * views + [0.066 * width] * columns,
        left=0.005,
        right=0.995,
        top=0.985,
        bottom=0.02,
        wspace=0.03,
        hspace=0.06,
    )
    for line, (card, block, height) in enumerate(zip(cards, blocks, heights)):
        for slot in range(views):
            axis = figure.add_subplot(grid[line, slot])
            axis.axis("off")
            if slot < len(card.views):
                axis.imshow(card.views[slot], cmap="gray", vmin=0, vmax=255)
                axis.set_anchor("N")
            if slot == 0:
                axis.set_title(card.title, fontsize=7, loc="left")
        for column, ((title, _), lines) in enumerate(zip(card.reports, block)):
            axis = figure.add_subplot(grid[line, views + column])
            axis.axis("off")
            axis.set(xlim=(0, 1), ylim=(height, 0))
            axis.text(0.03, step, title, fontsize=7.5, fontweight="bold", va="center")
            for number, (words, colour) in enumerate(lines):
                place = step * (number + 2.2)
                axis.text(0.03, place, words, fontsize=7, color=colour, va="center")
    return _finish(figure, synthetic)


@dataclass(frozen=True)
class Shares:
    """Attention to neighbours, mean over words.

    Attributes:
        ranks: share of each of K neighbours ``[K]``.
        chance: share of one neighbour if all that was there were read alike.
        words: (word, share of all neighbours), largest first.
        stating: share over words of sentences that state a finding (NaN if there are none).
        others: over all other words (NaN if there are none).
    """

    ranks: np.ndarray
    chance: float
    words: list[tuple[str, float]]
    stating: float
    others: float


def neighbour_shares(
    hypotheses: Sequence[Hypothesis], labeler: FindingLabeler, *, least: int = 10, most: int = 12
) -> Shares:
    """Shares of the last layer's attention that neighbours get while reports are written.

    Args:
        hypotheses: decoded with traces by a model with retrieval.
        labeler: finds what sentences state.
        least: how often a word must have been written to be listed.
        most: words listed.

    Raises:
        KitError: no hypothesis has a trace of neighbours.
    """
    traced = [h for h in hypotheses if "neighbours" in h.trace and len(h.tokens)]
    if not traced:
        raise KitError("no report has a trace of neighbours; decode with trace=True and K above 0.")
    ranks, alike, by_word = [], [], {}
    groups: dict[bool, list[float]] = {True: [], False: []}
    for hypothesis in traced:
        share = np.asarray(hypothesis.trace["neighbours"], dtype=float)  # [T, K]
        patches = np.asarray(hypothesis.trace["attention"], dtype=float)
        read = (patches.reshape(len(patches), -1) > 0).any(0).sum() + (share > 0).any(0).sum()
        alike.append(1 / read)
        ranks.append(share)
        words, total = hypothesis.text.split(), share.sum(1)
        number = np.cumsum([0, *(word == "." for word in words[:-1])])
        sentences = [
            " ".join(word for word, n in zip(words, number) if n == s and word != ".")
            for s in range(number[-1] + 1)
        ]
        stated = (labeler.label_matrix(sentences) == POSITIVE).any(1)
        for word, value, sentence in zip(words, total, number):
            by_word.setdefault(word, []).append(value)
            groups[bool(stated[sentence])].append(value)
    listed = [(word, float(np.mean(v))) for word, v in by_word.items() if len(v) >= least]
    listed.sort(key=lambda pair: (-pair[1], pair[0]))
    means = {key: float(np.mean(v)) if v else float("nan") for key, v in groups.items()}
    return Shares(
        ranks=np.concatenate(ranks).mean(0),
        chance=float(np.mean(alike)),
        words=listed[:most],
        stating=means[True],
        others=means[False],
    )


def share_figure(shares: Shares, *, synthetic: bool) -> Figure:
    """How much of the attention goes to neighbours, by rank and by word.

    Args:
        shares: from :func:`neighbour_shares`.
        synthetic: whether to tag the figure as drawn from phantom images.
    """
    ranks, chance, words = shares.ranks, shares.chance, shares.words
    with sns.axes_style("whitegrid"):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.4), width_ratios=[1, 1.4])
        left.bar(np.arange(1, len(ranks) + 1), 100 * np.asarray(ranks), color=KINDS["findings"])
        left.axhline(100 * chance, color=KINDS["image"], ls="--", lw=1)
        left.text(
            len(ranks) + 0.45, 100 * chance, "all read alike", fontsize=7, ha="right", va="bottom"
        )
        left.set_xticks(np.arange(1, len(ranks) + 1))
        left.set_xlabel("neighbour", fontsize=9)
        left.set_ylabel("share of the attention, %", fontsize=9)
        left.set_title(
            f"sentences with a finding {shares.stating:.1%}, others {shares.others:.1%}", fontsize=9
        )
        names, values = zip(*words) if words else ((), ())
        places = np.arange(len(names))[::-1]
        right.barh(places, 100 * np.asarray(values), color=KINDS["both"])
        right.set_yticks(places, names, fontsize=8)
        right.axvline(100 * chance * len(ranks), color=KINDS["image"], ls="--", lw=1)
        right.set_xlabel("share of all neighbours while the word is written, %", fontsize=9)
        for axis in (left, right):
            axis.tick_params(labelsize=8)
        figure.tight_layout()
    return _finish(figure, synthetic)


def shift_figure(table: pd.DataFrame, *, synthetic: bool) -> Figure:
    """Recall of each finding with the full index, without the finding, and without any report.

    Args:
        table: from :func:`r2genkit.experiments.base_shift.base_shift`.
        synthetic: whether to tag the figure as drawn from phantom images.

    Raises:
        KitError: the table is empty.
    """
    if table.empty:
        raise KitError("the table of the base shift holds no finding; give at least one.")
    findings = list(dict.fromkeys(table["finding"]))
    kinds = list(dict.fromkeys(table["reports"]))
    with sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(
            1,
            len(kinds),
            figsize=(4.3 * len(kinds) + 1.4, 0.62 * len(findings) + 1.5),
            sharey=True,
            squeeze=False,
        )
        for axis, kind in zip(axes[0], kinds):
            part = table[table["reports"] == kind]
            for offset, (index, colour) in zip((0.2, 0.0, -0.2), INDEX.items()):
                lines = part[part["index"] == index]
                if lines.empty:
                    continue
                places = [len(findings) - 1 - findings.index(f) + offset for f in lines["finding"]]
                axis.errorbar(
                    lines["recall"],
                    places,
                    xerr=[lines["recall"] - lines["low"], lines["high"] - lines["recall"]],
                    fmt="o",
                    ms=4.5,
                    capsize=2.5,
                    lw=1,
                    color=colour,
                    label=index,
                )
            axis.set_title(f"{kind} reports", fontsize=10)
            axis.set_xlabel("recall of the finding", fontsize=9)
            axis.set_xlim(-0.03, 1.03)
            axis.tick_params(labelsize=8)
        studies = table.drop_duplicates("finding").set_index("finding")["studies"]
        names = [f"{finding} ({studies[finding]})" for finding in findings[::-1]]
        axes[0, 0].set_yticks(np.arange(len(findings)), names, fontsize=9)
        axes[0, -1].legend(fontsize=7.5, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
        figure.tight_layout()
    return _finish(figure, synthetic)
