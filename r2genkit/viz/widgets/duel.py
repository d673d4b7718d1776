"""The report duel: reports of several sources side by side, without names; the reader votes first.

One :class:`DuelData` feeds a self-contained page (:func:`duel_html`), a live widget
(:func:`duel_widget`) and two static figures (:func:`duel_figure`, :func:`duel_scores_figure`).
After each vote names, findings and scores are shown; beside the votes stand the corpus scores of
the studies judged so far. They are exact: corpus BLEU and finding-F1 depend on nothing but sums
over studies, and every report brings its own counts.

What readers said comes back as ballots (:mod:`r2genkit.viz.widgets.duel_votes`).
"""

from __future__ import annotations

import hashlib
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from scipy.stats import norm

from r2genkit.errors import KitError
from r2genkit.viz.widgets.duel_front import BODY, STYLE
from r2genkit.viz.widgets.duel_votes import FORMAT
from r2genkit.viz.widgets.host import FrontEnd, live, page_html
from r2genkit.viz.widgets.parts import (
    COLOURS,
    SIGNS,
    SYNTHETIC_NOTE,
    FindingMark,
    check_marks,
    check_views,
    marks_payload,
    views_payload,
)

METRICS = ("BLEU-4", "ROUGE-L", "CIDEr", "finding-F1")
"""Scores of a report; the first and the last are corpus values of summed counts, not means."""

FRONT = FrontEnd("duel", BODY, STYLE)


# --- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DuelSource:
    """Who wrote one of the reports of every study.

    Attributes:
        key: its name in ballots.
        title: its name for readers.
        about: one sentence.
        whole: score by metric over the whole test set.
        intervals: (low, high) by metric of the same.
    """

    key: str
    title: str
    about: str = ""
    whole: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class DuelReport:
    """One report and what it is worth.

    Attributes:
        words: T words.
        scores: of this report by metric; finding-F1 is NaN where neither report states a finding.
        bleu: the ten BLEU statistics (``r2genkit.metrics.nlg.bleu_counts``).
        hits: findings stated by report and reference, by the report alone, by the reference alone.
        findings: what the words name.

    Raises:
        KitError: a score, a count or a finding that does not fit.
    """

    words: tuple[str, ...]
    scores: Mapping[str, float]
    bleu: tuple[int, ...]
    hits: tuple[int, int, int]
    findings: tuple[FindingMark, ...] = ()

    def __post_init__(self) -> None:
        where = f"the report {' '.join(self.words)[:40]!r}"
        if missing := [name for name in METRICS if name not in self.scores]:
            raise KitError(f"{where} has no {missing[0]}: give a number for each of the metrics.")
        if unfit := [n for n in METRICS[:-1] if not math.isfinite(self.scores[n])]:
            raise KitError(f"{where} has no finite {unfit[0]}: only finding-F1 may be missing.")
        if len(self.bleu) != 10 or len(self.hits) != 3 or min(*self.bleu, *self.hits) < 0:
            raise KitError(f"{where} needs 10 BLEU counts and 3 finding counts, none negative.")
        check_marks(self.findings, self.words, where)


@dataclass(frozen=True)
class FindingLine:
    """One finding of a study, and what each report says about it.

    Attributes:
        title: plain name.
        said: polarity by source, "" where a report does not mention it.
        shown: whether the images show it; None where nobody knows.
    """

    title: str
    said: Mapping[str, str]
    shown: bool | None = None


@dataclass(frozen=True)
class DuelStudy:
    """One study with a report of every source.

    Attributes:
        id: of the study.
        views: V grey images, uint8 ``[H, W]``.
        view_names: V names.
        reports: by source.
        order: all sources, in the order in which their reports are shown.
        lines: findings that the images show or that a report affirms or doubts.
        shows: what the images show, a phrase each; None where nobody knows.
        abnormal: whether the study is abnormal.
    """

    id: str
    views: tuple[np.ndarray, ...]
    view_names: tuple[str, ...]
    reports: Mapping[str, DuelReport]
    order: tuple[str, ...]
    lines: tuple[FindingLine, ...] = ()
    shows: tuple[str, ...] | None = None
    abnormal: bool = False

    def __post_init__(self) -> None:
        check_views(self.views, self.view_names, f"study {self.id}")
        if sorted(self.order) != sorted(self.reports):
            raise KitError(f"the order of study {self.id} does not name each report once.")

    @property
    def cards(self) -> tuple[tuple[str, ...], ...]:
        """Sources by distinct text, in the order shown: equal words stand there once."""
        groups: dict[tuple[str, ...], list[str]] = {}
        for key in self.order:
            groups.setdefault(self.reports[key].words, []).append(key)
        return tuple(map(tuple, groups.values()))


@dataclass(frozen=True)
class DuelData:
    """A deck: studies to be judged one after another.

    Attributes:
        title: heading of the page.
        sources: two to nine, reference included.
        reference: key of the human reference.
        studies: in the order of judging.
        whole_studies: number of studies behind the sources' scores on the whole test set.
        told_by: who says what the images show, e.g. "drawn by the phantom".
        synthetic: whether the images are rendered; the page then says so.
        notes: further sentences below the title.

    Raises:
        KitError: sources, studies and reports that do not belong together.
    """

    title: str
    sources: tuple[DuelSource, ...]
    reference: str
    studies: tuple[DuelStudy, ...]
    whole_studies: int = 0
    told_by: str = "shown by the images"
    synthetic: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        keys = [source.key for source in self.sources]
        if not 2 <= len(keys) <= 9 or len(set(keys)) < len(keys):
            raise KitError(f"a duel needs 2 to 9 sources of different keys: {', '.join(keys)}.")
        if self.reference not in keys:
            raise KitError(f"the reference {self.reference!r} is no source: {', '.join(keys)}.")
        if not self.studies:
            raise KitError("there is no study to judge: give at least one.")
        ids = [study.id for study in self.studies]
        if len(set(ids)) < len(ids):
            raise KitError("a study stands in the deck twice: give each once.")
        for study in self.studies:
            if odd := sorted(set(study.reports) ^ set(keys)):
                raise KitError(
                    f"study {study.id} and the deck differ in source {odd[0]!r}: give a report of "
                    "every source."
                )
            if any(set(line.said) != set(keys) for line in study.lines):
                raise KitError(f"a finding of study {study.id} does not name every source.")

    @property
    def deck(self) -> str:
        """Sixteen hexadecimal digits over studies and reports: what a ballot is about."""
        content = [
            self.reference,
            [[source.key, source.title] for source in self.sources],
            [
                [study.id, [[key, study.reports[key].words] for key in sorted(study.reports)]]
                for study in self.studies
            ],
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def source(self, key: str) -> DuelSource:
        """The source of this key."""
        return next(source for source in self.sources if source.key == key)


def corpus_scores(reports: Sequence[DuelReport]) -> dict[str, float]:
    """Scores of one source over some studies, from the sums that its reports bring.

    BLEU-4 of summed n-gram counts and finding-F1 of summed hits are the corpus values over these
    very studies. ROUGE-L and CIDEr are means; CIDEr keeps the document frequencies of the set that
    the reports were scored in, as subsets do everywhere in the kit.

    Returns:
        By metric; finding-F1 is NaN where no report and no reference states a finding.

    Raises:
        KitError: no report.
    """
    if not reports:
        raise KitError("there is no report to score: give at least one.")
    # Imported here: metrics bring torch with them, which a finished page does not need.
    from r2genkit.metrics.findings.scores import f1_from_counts
    from r2genkit.metrics.nlg import bleu_from_counts

    bleu = np.sum([report.bleu for report in reports], axis=0)
    hits = np.sum([report.hits for report in reports], axis=0)
    return {
        "BLEU-4": float(bleu_from_counts(bleu)[3]),
        "ROUGE-L": float(np.mean([report.scores["ROUGE-L"] for report in reports])),
        "CIDEr": float(np.mean([report.scores["CIDEr"] for report in reports])),
        "finding-F1": float(f1_from_counts(hits)),
    }


def favourites(scores: Mapping[str, float]) -> dict[str, float]:
    """The vote of a metric: one for the highest score, shared evenly by all that have it.

    Scores are compared as they are shown, with three decimals: where no report has a 4-gram of the
    reference, BLEU-4 differs by what guards against dividing by zero, and prefers none of them.

    A missing score (finding-F1 where neither report states a finding) counts as 1: there was
    nothing to find, and nothing was made up.
    """
    shown = {k: 1.0 if math.isnan(value) else round(float(value), 3) for k, value in scores.items()}
    best = [key for key, value in shown.items() if value == max(shown.values())]
    return {key: 1 / len(best) if key in best else 0.0 for key in shown}


def metric_favourites(study: DuelStudy, reference: str) -> dict[str, dict[str, float]]:
    """Vote of each metric among the sources other than the reference, which it cannot judge."""
    return {
        metric: favourites(
            {key: one.scores[metric] for key, one in study.reports.items() if key != reference}
        )
        for metric in METRICS
    }


# --- payload, page, widget ----------------------------------------------------------------------


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def payload(data: DuelData) -> dict[str, Any]:
    """What the front end draws from, as plain JSON content."""
    return {
        "title": data.title,
        "synthetic": SYNTHETIC_NOTE if data.synthetic else "",
        "notes": list(data.notes),
        "format": FORMAT,
        "deck": data.deck,
        "metrics": list(METRICS),
        "reference": data.reference,
        "toldBy": data.told_by,
        "z": float(norm.ppf(0.975)),
        "whole": data.whole_studies,
        "sources": [
            {
                "key": source.key,
                "title": source.title,
                "about": source.about,
                "whole": {name: _number(source.whole.get(name, math.nan)) for name in METRICS},
            }
            for source in data.sources
        ],
        "studies": [_study_payload(study, data) for study in data.studies],
    }


def _study_payload(study: DuelStudy, data: DuelData) -> dict[str, Any]:
    cards = []
    for keys in study.cards:
        report = study.reports[keys[0]]
        cards.append(
            {
                "sources": list(keys),
                "words": list(report.words),
                "findings": marks_payload(report.findings),
                "scores": {name: _number(report.scores[name]) for name in METRICS},
                "bleu": [int(count) for count in report.bleu],
                "hits": [int(count) for count in report.hits],
            }
        )
    return {
        "id": study.id,
        "views": views_payload(study.views, study.view_names),
        "abnormal": bool(study.abnormal),
        "shows": None if study.shows is None else list(study.shows),
        "cards": cards,
        "favourites": metric_favourites(study, data.reference),
        "lines": [
            {
                "title": line.title,
                "shown": line.shown,
                "said": [line.said[keys[0]] for keys in study.cards],
            }
            for line in study.lines
        ],
    }


def duel_html(data: DuelData) -> str:
    """The duel as one page, to be opened by double click; it needs no network and no kernel.

    Votes stay in the page until the reader hands them in, as a file or as copied text.
    """
    texts = [
        (f"Study {number}, report {place}", " ".join(study.reports[keys[0]].words))
        for number, study in enumerate(data.studies, 1)
        for place, keys in enumerate(study.cards, 1)
    ]
    return page_html(FRONT, payload(data), title=data.title, texts=texts)


def duel_widget(data: DuelData) -> Any:
    """The duel as a live widget for notebooks, with the same front end as the page.

    Its trait ``told`` is the ballot so far, empty before the first vote; ``read_votes`` of
    ``duel_votes`` takes it.

    Raises:
        KitError: ``anywidget`` is not installed.
    """
    return live(FRONT, payload(data))


# --- static twins -------------------------------------------------------------------------------

_STYLES = {"positive": "-", "negative": "--", "uncertain": ":"}
_STRENGTH = ("negative", "uncertain", "positive")
_SHADES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999")
_MARKS = "osD^vPX*"


def _scores_line(report: DuelReport, is_reference: bool) -> str:
    hit, false, missed = report.hits
    if is_reference:
        return f"findings stated: {hit + missed}"
    numbers = ", ".join(
        f"{name} {'-' if math.isnan(report.scores[name]) else format(report.scores[name], '.3f')}"
        for name in METRICS
    )
    of = f"states {hit} of {hit + missed} findings" if hit + missed else "no finding to state"
    return f"{numbers}; {of}, invents {false}"


class _Writer:
    """Words on a figure, placed in inches from its upper left corner."""

    def __init__(self, width: float) -> None:
        self.width = width
        self.items: list[tuple[float, float, str, dict[str, Any]]] = []
        self.strokes: list[tuple[float, float, float, dict[str, Any]]] = []
        # Any figure measures: an inch of text is an inch of text.
        self._canvas = FigureCanvasAgg(Figure(dpi=100))

    def measure(self, text: str, size: float) -> float:
        """Width of a text in inches."""
        font = FontProperties(size=size)
        width, _, _ = self._canvas.get_renderer().get_text_width_height_descent(text, font, False)
        return width / 100

    def text(self, x: float, y: float, text: str, size: float = 8, **style: Any) -> None:
        """A line of text whose baseline is at y."""
        self.items.append((x, y, text, {"fontsize": size, **style}))

    def report(
        self, x: float, y: float, report: DuelReport, right: float, size: float = 8
    ) -> float:
        """A report with its findings marked, broken into lines; gives the height in inches."""
        space, line = self.measure("n n", size) - 2 * self.measure("n", size), size / 72 * 1.75
        across, down = x, y + line * 0.7
        for place, word in enumerate(report.words):
            marks = [mark for mark in report.findings if mark.first <= place < mark.end]
            ends = sorted({SIGNS[mark.polarity] for mark in marks if mark.end == place + 1})
            told = word + "".join(ends)
            wide = self.measure(told, size)
            if across + wide > right and across > x:
                across, down = x, down + line
            style = {}
            if marks:
                polarity = max((mark.polarity for mark in marks), key=_STRENGTH.index)
                style["color"] = COLOURS[polarity]
                self.strokes.append(
                    (across, across + wide, down + 0.035,
                     {"color": COLOURS[polarity], "ls": _STYLES[polarity], "lw": 1.2})
                )  # fmt: skip
            self.text(across, down, told, size, **style)
            across += wide + space
        if not report.words:
            self.text(x, down, "(empty report)", size, style="italic")
        return down - y + line * 0.3

    def draw(self, figure: Figure, height: float) -> None:
        """Everything, on a figure of this width and height in inches."""
        for x, y, text, style in self.items:
            figure.text(
                x / self.width, 1 - y / height, text, va="baseline", parse_math=False, **style
            )
        for left, right, y, style in self.strokes:
            figure.add_artist(
                Line2D([left / self.width, right / self.width], [1 - y / height] * 2, **style)
            )


def duel_figure(data: DuelData, limit: int = 3) -> Figure:
    """The first studies of the deck with every source's report, names and scores told.

    Args:
        data: as for the page.
        limit: how many studies.

    Raises:
        KitError: no study asked for.
    """
    if limit < 1:
        raise KitError(f"limit is {limit}: show at least one study.")
    width, left, side = 12.0, 3.6, 1.68  # inches; side of an image
    writer = _Writer(width)
    order = sorted(data.sources, key=lambda source: source.key != data.reference)
    writer.text(0.1, 0.22, textwrap.shorten(data.title, 120, placeholder=" ..."), 11)
    y = 0.4
    films: list[tuple[float, DuelStudy]] = []
    for study in data.studies[:limit]:
        top = y
        films.append((top + 0.15, study))
        kind = "abnormal" if study.abnormal else "normal"
        writer.text(0.1, top + 0.1, f"{study.id} ({kind})", 9, weight="bold")
        below = top + 0.15 + side + 0.2  # where the text under the images begins
        if study.shows is not None:
            told = f"{data.told_by}: {'; '.join(study.shows) or 'nothing'}"
            for line in textwrap.wrap(told, 50):
                writer.text(0.1, below, line, 8, color="0.25")
                below += 0.15
        y += 0.1
        for source in order:
            report = study.reports[source.key]
            title = textwrap.shorten(source.title, 100, placeholder=" ...")
            writer.text(left, y, title, 8.5, weight="bold")
            scores = _scores_line(report, source.key == data.reference)
            start = left + 1.12 * writer.measure(title, 8.5) + 0.15  # bold is wider than measured
            if start + writer.measure(scores, 7.5) > width - 0.1:
                start, y = left, y + 0.16
            writer.text(start, y, scores, 7.5, color="0.3")
            y += writer.report(left, y + 0.04, report, width - 0.1) + 0.22
        y = max(y, below) + 0.1
    writer.text(
        left, y, "findings: + affirmed, \N{MINUS SIGN} denied or stated normal, ? doubted", 7.5,
        color="0.3",
    )  # fmt: skip
    if data.synthetic:
        writer.text(0.1, y, "synthetic phantom images, real report text", 7.5, color="0.4")
    height = y + 0.1
    figure = plt.figure(figsize=(width, height))
    for top, study in films:
        for place, view in enumerate(study.views[:2]):
            corner = ((0.1 + (side + 0.04) * place) / width, 1 - (top + side) / height)
            axis = figure.add_axes((*corner, side / width, side / height))
            axis.imshow(view, cmap="gray", vmin=0, vmax=255)
            axis.set_axis_off()
    writer.draw(figure, height)
    plt.close(figure)  # the caller's alone: a notebook would show it a second time
    return figure


def deck_intervals(
    reports: Sequence[DuelReport], *, seed: int = 0, resamples: int = 1000
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap interval over studies of each corpus score of one source.

    Args:
        reports: of the studies, in the order of the deck; the same seed pairs sources.
        seed: names the resamples.
        resamples: how many.
    """
    from r2genkit.metrics.findings.scores import f1_from_counts
    from r2genkit.metrics.nlg import bleu_from_counts
    from r2genkit.metrics.uncertainty import percentile_interval, resample_weights

    weights = resample_weights(len(reports), resamples=resamples, seed=seed)  # [R, N]
    bleu = weights @ np.array([report.bleu for report in reports], dtype=np.float64)
    hits = weights @ np.array([report.hits for report in reports], dtype=np.float64)
    values = {"BLEU-4": bleu_from_counts(bleu)[:, 3], "finding-F1": f1_from_counts(hits)}
    for name in ("ROUGE-L", "CIDEr"):
        each = np.array([report.scores[name] for report in reports])
        values[name] = weights @ each / len(reports)
    return {name: percentile_interval(values[name]) for name in METRICS}


def duel_scores_figure(data: DuelData) -> Figure:
    """Corpus scores of every source over the deck, beside those of the whole test set.

    The reference is left out: metrics compare with it.
    """
    sources = [source for source in data.sources if source.key != data.reference]
    figure, axes = plt.subplots(
        1, len(METRICS), figsize=(2.5 * len(METRICS) + 1.6, 0.5 * len(sources) + 1.4),
        sharey=True, layout="constrained",
    )  # fmt: skip
    places = np.arange(len(sources))
    for axis, name in zip(axes, METRICS):
        for place, source in zip(places, sources):
            reports = [study.reports[source.key] for study in data.studies]
            value, (low, high) = corpus_scores(reports)[name], deck_intervals(reports)[name]
            axis.plot([low, high], [place - 0.14] * 2, color="#d55e00", lw=1.5, clip_on=False)
            axis.plot(value, place - 0.14, "D", color="#d55e00", mfc="white", ms=6, clip_on=False)
            if name in source.whole:
                axis.plot(
                    source.whole[name], place + 0.14, "o", color="#0072b2", ms=6, clip_on=False
                )
            if name in source.intervals:
                axis.plot(source.intervals[name], [place + 0.14] * 2, color="#0072b2", lw=1.5)
        axis.set_title(name, fontsize=10)
        axis.set_xlim(left=0)
        axis.grid(axis="x", color="0.9")
        axis.tick_params(labelsize=8)
        axis.set_axisbelow(True)
    axes[0].set_yticks(places, [_short(source.title) for source in sources], fontsize=9)
    axes[0].set_ylim(len(sources) - 0.5, -0.5)
    handles = [
        Line2D([], [], color="#d55e00", marker="D", mfc="white",
               label=f"these {len(data.studies)} studies"),
        Line2D([], [], color="#0072b2", marker="o", label=f"whole test set ({data.whole_studies})"),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    plt.close(figure)
    return _tagged(figure, data.synthetic)


def _short(title: str) -> str:
    return "\n".join(textwrap.wrap(title, 24))


def _tagged(figure: Figure, synthetic: bool) -> Figure:
    if synthetic:
        figure.text(
            0.995, 0.005, "synthetic images, real text", ha="right", va="bottom", fontsize=7,
            color="0.4",
        )  # fmt: skip
    return figure


def metric_votes_figure(votes: pd.DataFrame, blind: pd.DataFrame, *, synthetic: bool) -> Figure:
    """What each metric would vote for, and how often its favourite states no finding.

    Args:
        votes: columns "metric", "report of", "share", "low", "high": share of all studies.
        blind: columns "metric", "share", "low", "high": of the abnormal studies, the share in which
            the favourite states none of the findings of the reference.
        synthetic: whether the images are rendered.

    Raises:
        KitError: nothing to draw.
    """
    if votes.empty or blind.empty:
        raise KitError("there are no votes of metrics to draw: give at least one study.")
    metrics = list(dict.fromkeys(votes["metric"]))
    titles = list(dict.fromkeys(votes["report of"]))
    figure, (one, two) = plt.subplots(
        1, 2, figsize=(10.5, 0.55 * len(metrics) + 1.6), sharey=True, layout="constrained",
        width_ratios=(3, 2),
    )  # fmt: skip
    offsets = np.linspace(-0.24, 0.24, len(titles)) if len(titles) > 1 else [0.0]
    for title, shade, mark, offset in zip(titles, _SHADES, _MARKS, offsets):
        lines = votes[votes["report of"] == title].set_index("metric").loc[metrics]
        places = np.arange(len(metrics)) + offset
        one.hlines(places, lines["low"], lines["high"], color=shade, lw=1.5)
        one.plot(lines["share"], places, mark, color=shade, ms=6, label=title)
    lines = blind.set_index("metric").loc[metrics]
    two.hlines(np.arange(len(metrics)), lines["low"], lines["high"], color="0.25", lw=1.5)
    two.plot(lines["share"], np.arange(len(metrics)), "o", color="0.25", ms=6)
    for axis, text in (
        (one, "share of test studies in which it has the highest score"),
        (two, "abnormal studies: the favourite states\nno finding of the reference"),
    ):
        axis.set_title(text, fontsize=9)
        axis.set_xlim(-0.02, 1.02)
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=8)
    one.set_yticks(range(len(metrics)), [f"{name} votes" for name in metrics], fontsize=9)
    one.set_ylim(len(metrics) - 0.5, -0.5)
    figure.legend(loc="outside lower center", ncols=len(titles), fontsize=8, frameon=False)
    plt.close(figure)
    return _tagged(figure, synthetic)
