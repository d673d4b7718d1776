"""The retrieval wall: a study, the training studies most like it, and what they do to its report.

One :class:`WallData` feeds a self-contained page (:func:`wall_html`), a live widget
(:func:`wall_widget`) and a matplotlib figure (:func:`wall_figure`). What needs a model is in
``r2genkit.experiments.wall``.
"""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from r2genkit.errors import KitError
from r2genkit.viz.widgets.host import FrontEnd, live, page_html
from r2genkit.viz.widgets.parts import (
    SYNTHETIC_NOTE,
    FindingMark,
    check_marks,
    check_views,
    marks_payload,
    views_payload,
)
from r2genkit.viz.widgets.wall_front import BODY, STYLE

FRONT = FrontEnd("wall", BODY, STYLE)
SHARED, MISSING, EXTRA = "shared", "missing", "extra"
SIGNS = {SHARED: "\N{CHECK MARK}", MISSING: "\N{WHITE CIRCLE}", EXTRA: "\N{MULTIPLICATION X}"}
COLOURS = {SHARED: "#0b63a0", MISSING: "#5a5a5a", EXTRA: "#b34700"}
EMPTY = ""
"""In place of a study: nobody sits on this seat."""
_COPIED = "#ffe9a0"


# --- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WallStudy:
    """A training study that can hang on the wall.

    Attributes:
        id: its id.
        views: small grey images uint8 ``[h, w]``.
        words: its report.
        marks: what the words name.
        findings: titles of its true findings.
    """

    id: str
    views: tuple[np.ndarray, ...]
    words: tuple[str, ...]
    marks: tuple[FindingMark, ...]
    findings: tuple[str, ...]


@dataclass(frozen=True)
class Hit:
    """A training study found for a query: its id and their likeness, a cosine."""

    study: str
    likeness: float


@dataclass(frozen=True)
class WallSentence:
    """A sentence of a written report.

    Attributes:
        first, end: first and one-past-last word; a full stop belongs to it.
        holders: studies of the wall whose report has it word for word.
        reports: number of training reports that have it.
    """

    first: int
    end: int
    holders: tuple[str, ...]
    reports: int


@dataclass(frozen=True)
class WallReport:
    """What a model wrote.

    Attributes:
        words: of the report.
        marks: what the words name.
        finding_f1: against the findings that the reference states; None where neither states one.
        bleu4: against the reference, in [0, 1].
        sentences: in order.
    """

    words: tuple[str, ...]
    marks: tuple[FindingMark, ...]
    finding_f1: float | None
    bleu4: float
    sentences: tuple[WallSentence, ...]


@dataclass(frozen=True)
class WallQuery:
    """A study and all that was found and written for it.

    Attributes:
        id: of the study.
        stratum: the part of the draw it stands for ("two findings").
        views: grey images uint8 ``[H, W]``.
        view_names: their names.
        words, marks: its reference report and what it names.
        findings: titles of its true findings.
        predicted: titles of the findings that the classifier calls.
        walls: by key of an order, the training studies found, best first.
        copies: by study, finding-F1 (None as above) and BLEU-4 of its report against the reference.
        reports: different texts that the model wrote for it.
        written: by the studies given to the model, one per seat (``EMPTY``: nobody), the number of
            the report that it wrote.
        given: what the model is given of its own accord.
    """

    id: str
    stratum: str
    views: tuple[np.ndarray, ...]
    view_names: tuple[str, ...]
    words: tuple[str, ...]
    marks: tuple[FindingMark, ...]
    findings: tuple[str, ...]
    predicted: tuple[str, ...]
    walls: Mapping[str, tuple[Hit, ...]]
    copies: Mapping[str, tuple[float | None, float]]
    reports: tuple[WallReport, ...]
    written: Mapping[tuple[str, ...], int]
    given: tuple[str, ...]

    @property
    def empty(self) -> tuple[str, ...]:
        """All seats empty."""
        return (EMPTY,) * len(self.given)

    def report(self, given: Sequence[str]) -> WallReport:
        """What the model wrote with these studies on its seats.

        Raises:
            KitError: that was not written in advance.
        """
        try:
            return self.reports[self.written[tuple(given)]]
        except KeyError:
            raise KitError(
                f"no report of {self.id} was written in advance with neighbours "
                f"{', '.join(one or 'nobody' for one in given)}: ask the model."
            ) from None


@dataclass(frozen=True)
class Order:
    """A way to compare studies: its key, its name, and one sentence that says what it compares."""

    key: str
    name: str
    about: str


@dataclass(frozen=True)
class WallData:
    """Queries with their walls.

    Attributes:
        title: heading of the page.
        system: the model that reads the neighbours.
        orders: ways to compare, in the order shown.
        own: key of the order whose first studies the model is given.
        studies: training studies by id.
        queries: at least one.
        synthetic: whether the images are rendered; the page then says so.
        notes: further sentences below the title.

    Raises:
        KitError: parts that do not belong together.
    """

    title: str
    system: str
    orders: tuple[Order, ...]
    own: str
    studies: Mapping[str, WallStudy]
    queries: tuple[WallQuery, ...]
    synthetic: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        keys = [order.key for order in self.orders]
        if self.own not in keys or len(set(keys)) < len(keys):
            raise KitError(
                f"the orders of the wall are {', '.join(keys) or 'none'}: give each once, and "
                f"{self.own!r}, by which the model is given its neighbours, among them."
            )
        if not self.queries:
            raise KitError("the wall has no query: give at least one study.")
        seats = {len(query.given) for query in self.queries}
        if len(seats) > 1:
            raise KitError("the queries of the wall have different numbers of seats; give one.")
        for name, study in self.studies.items():
            check_views(study.views, of=f"training study {name}")
            check_marks(study.marks, study.words, f"training study {name}")
        for query in self.queries:
            self._check(query)

    def _check(self, query: WallQuery) -> None:
        where = f"query {query.id}"
        check_views(query.views, of=where)
        check_marks(query.marks, query.words, where)
        if len(query.view_names) != len(query.views):
            raise KitError(f"{where} has {len(query.views)} views and another number of names.")
        absent = [order.key for order in self.orders if not query.walls.get(order.key)]
        if absent:
            raise KitError(f"{where} has nothing on its wall {absent[0]!r}: search it first.")
        hung = {hit.study for hits in query.walls.values() for hit in hits}
        seated = {one for given in query.written for one in given} - {EMPTY}
        unknown = sorted((hung | seated) - set(self.studies))
        if unknown:
            raise KitError(f"{where} names study {unknown[0]}, which the wall does not hold.")
        for study in sorted(hung | seated):
            _check_scores(*query.copies.get(study, (None, float("nan"))), f"{study} for {where}")
        for given in (query.given, query.empty):
            if given not in query.written:
                raise KitError(
                    f"{where} lacks the report written with "
                    f"{'its own neighbours' if given != query.empty else 'no neighbour'}."
                )
        if any(len(given) != len(query.given) for given in query.written):
            raise KitError(f"{where} has reports for different numbers of seats.")
        if any(not 0 <= number < len(query.reports) for number in query.written.values()):
            raise KitError(f"{where} names a report that it does not hold.")
        for report in query.reports:
            check_marks(report.marks, report.words, where)
            _check_scores(report.finding_f1, report.bleu4, f"a report of {where}")
            ends = [0, *(sentence.end for sentence in report.sentences)]
            starts = [*(sentence.first for sentence in report.sentences), len(report.words)]
            if ends != starts or any(s.first >= s.end for s in report.sentences):
                raise KitError(f"sentences of a report of {where} do not cover its words.")


def _check_scores(finding_f1: float | None, bleu4: float, where: str) -> None:
    f1 = 0.0 if finding_f1 is None else finding_f1
    if not (0 <= f1 <= 1 and 0 <= bleu4 <= 1 + 1e-9):  # false for NaN, too
        raise KitError(f"scores of {where} are {finding_f1} and {bleu4}: expected shares in 0..1.")


def relations(wanted: Sequence[str], shown: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Findings that a neighbour shares with the query, that it is missing, and that it has extra.

    Args:
        wanted: findings of the query.
        shown: findings of the neighbour.

    Returns:
        Titles in the order given, by ``SHARED``, ``MISSING`` and ``EXTRA``.
    """
    return {
        SHARED: tuple(title for title in wanted if title in shown),
        MISSING: tuple(title for title in wanted if title not in shown),
        EXTRA: tuple(title for title in shown if title not in wanted),
    }


def relation_counts(wanted: Sequence[str], shown: Sequence[str]) -> str:
    """The three numbers with their signs, as a tile bears them."""
    found = relations(wanted, shown)
    return " ".join(f"{SIGNS[kind]}{len(titles)}" for kind, titles in found.items())


def copied(report: WallReport, given: Sequence[str]) -> list[tuple[int, ...]]:
    """For each sentence of a report the seats (from 0) whose report has it word for word."""
    return [
        tuple(seat for seat, study in enumerate(given) if study and study in sentence.holders)
        for sentence in report.sentences
    ]


def copy_counts(query: WallQuery, given: Sequence[str] | None = None) -> dict[str, int]:
    """How much of a report stands in what the model was given, and how much of that means little.

    Args:
        query: with its reports.
        given: studies on the seats; default: the model's own neighbours.

    Returns:
        "sentences" of the report; of these "copied": they stand word for word in a report given;
        of these "anyway": the model writes them with empty seats, too.

    Raises:
        KitError: no report was written in advance with these studies.
    """
    given = query.given if given is None else tuple(given)
    report, bare = query.report(given), query.report(query.empty)
    alone = {bare.words[sentence.first : sentence.end] for sentence in bare.sentences}
    hit = [
        report.words[sentence.first : sentence.end]
        for sentence, seats in zip(report.sentences, copied(report, given))
        if seats
    ]
    return {
        "sentences": len(report.sentences),
        "copied": len(hit),
        "anyway": sum(words in alone for words in hit),
    }


def copy_sentence(query: WallQuery) -> str:
    """What :func:`copy_counts` and the reports written in advance say, in words."""
    counts = copy_counts(query)
    told = (
        f"{counts['copied']} of {_plural(counts['sentences'], 'sentence')} "
        f"stand{'s' * (counts['copied'] == 1)} word for word in a report on a seat"
    )
    if counts["copied"]:
        told += f"; the model writes {counts['anyway']} of these with empty seats, too"
    return (
        f"{told}. With {_plural(len(query.written), 'choice')} of neighbours tried in advance it "
        f"wrote {_plural(len(query.reports), 'different report')}."
    )


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def mean_findings(
    data: WallData, key: str, k: int, query: WallQuery | None = None
) -> dict[str, float]:
    """Shared, missing and extra findings per neighbour, mean over queries and their first k.

    Args:
        data: the wall.
        key: of an order.
        k: neighbours per query.
        query: this one alone.

    Raises:
        KitError: no such order.
    """
    if key not in {order.key for order in data.orders}:
        raise KitError(
            f"the wall has no order {key!r}: choose {', '.join(o.key for o in data.orders)}."
        )
    lines = [
        [
            len(titles)
            for titles in relations(one.findings, data.studies[hit.study].findings).values()
        ]
        for one in (data.queries if query is None else (query,))
        for hit in one.walls[key][:k]
    ]
    return dict(zip((SHARED, MISSING, EXTRA), np.mean(lines, axis=0).tolist()))


# --- payload, page, widget ----------------------------------------------------------------------


def _thumbnail(pixels: np.ndarray) -> str:
    """A grey image as a data URL; JPEG, since a wall has hundreds."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def report_payload(report: WallReport) -> dict[str, Any]:
    """A written report as plain JSON."""
    return {
        "words": list(report.words),
        "marks": marks_payload(report.marks),
        "f1": None if report.finding_f1 is None else round(report.finding_f1, 4),
        "bleu4": round(report.bleu4, 4),
        "sentences": [
            {"first": s.first, "end": s.end, "holders": list(s.holders), "reports": s.reports}
            for s in report.sentences
        ],
    }


def _query_payload(data: WallData, query: WallQuery) -> dict[str, Any]:
    hung = dict.fromkeys(hit.study for hits in query.walls.values() for hit in hits)
    hung |= dict.fromkeys(one for given in query.written for one in given if one)
    pool = list(hung)
    place = {study: number for number, study in enumerate(pool)} | {EMPTY: -1}
    return {
        "id": query.id,
        "stratum": query.stratum,
        "views": views_payload(query.views, query.view_names),
        "words": list(query.words),
        "marks": marks_payload(query.marks),
        "findings": list(query.findings),
        "predicted": list(query.predicted),
        "walls": {
            key: [{"study": hit.study, "likeness": round(hit.likeness, 4)} for hit in hits]
            for key, hits in query.walls.items()
        },
        "neighbours": {
            study: {
                "f1": None if query.copies[study][0] is None else round(query.copies[study][0], 4),
                "bleu4": round(query.copies[study][1], 4),
                **{
                    kind: list(titles)
                    for kind, titles in relations(
                        query.findings, data.studies[study].findings
                    ).items()
                },
            }
            for study in pool
        },
        "reports": [report_payload(report) for report in query.reports],
        # Seats as numbers of the pool, -1 for nobody: a short key for many combinations.
        "pool": pool,
        "written": {
            ",".join(str(place[one]) for one in given): number
            for given, number in query.written.items()
        },
        "given": [place[one] for one in query.given],
        "choices": len(query.written),
        "different": len(query.reports),
    }


def payload(data: WallData) -> dict[str, Any]:
    """What the front end draws from, as plain JSON content."""
    return {
        "title": data.title,
        "synthetic": SYNTHETIC_NOTE if data.synthetic else "",
        "notes": list(data.notes),
        "system": data.system,
        "orders": [{"key": o.key, "name": o.name, "about": o.about} for o in data.orders],
        "own": data.own,
        "signs": SIGNS,
        "studies": {
            name: {
                "views": [_thumbnail(view) for view in study.views],
                "words": list(study.words),
                "marks": marks_payload(study.marks),
                "findings": list(study.findings),
            }
            for name, study in data.studies.items()
        },
        "queries": [_query_payload(data, query) for query in data.queries],
    }


def wall_html(data: WallData) -> str:
    """One page with everything inside, to be opened by double click.

    It has the reports that were written in advance; others need the kernel, and so the widget.
    """
    texts = []
    for query in data.queries:
        texts.append((f"{query.id}: reference", " ".join(query.words)))
        for name, given in (("with", query.given), ("without", query.empty)):
            report = query.report(given)
            texts.append((f"{query.id}: written {name} neighbours", " ".join(report.words)))
    return page_html(FRONT, payload(data), title=data.title, texts=texts)


def wall_widget(
    data: WallData, answer: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None
) -> Any:
    """The wall as a live widget for notebooks.

    Its trait ``told`` says which query, order and study the reader looks at.

    Args:
        data: as for the page.
        answer: :meth:`r2genkit.experiments.wall.NeighbourWriter.answer` writes reports with any
            neighbours; without it only those written in advance can be seen.

    Raises:
        KitError: ``anywidget`` is not installed.
    """
    return live(FRONT, payload(data), answer)


# --- static twin --------------------------------------------------------------------------------


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib would start a formula


def _lines(
    words: Sequence[str], colours: Sequence[str], copied_words: Sequence[str], width: int
) -> list[list[tuple[str, str, str]]]:
    """Words with their colour and what stands behind them, cut into lines of ``width`` letters."""
    lines: list[list[tuple[str, str, str]]] = [[]]
    used = 0
    for word, colour, sign in zip(words, colours, copied_words):
        if used and used + len(word) + 1 > width:
            lines.append([])
            used = 0
        lines[-1].append((word, colour, sign))
        used += len(word) + 1
    return lines


def _word_colours(
    words: Sequence[str], marks: Sequence[FindingMark], related: Mapping[str, Sequence[str]]
) -> tuple[list[str], list[str]]:
    """Colour of each word, and the sign behind the last word of an affirmed finding."""
    colours, signs = ["#1b1b1b"] * len(words), [""] * len(words)
    for mark in marks:
        if mark.polarity != "positive":
            continue
        kind = next((kind for kind, titles in related.items() if mark.title in titles), None)
        if kind is None:
            continue
        for place in range(mark.first, mark.end):
            colours[place] = COLOURS[kind]
        if SIGNS[kind] not in signs[mark.end - 1]:
            signs[mark.end - 1] += SIGNS[kind]
    return colours, signs


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _texts(
    data: WallData, one: WallQuery
) -> list[tuple[str, tuple[list[str], list[str], list[str]]]]:
    """Heading of each report; its words with their signs, their colours, and their grounds."""
    shared = relations(one.findings, one.findings)
    colours, signs = _word_colours(one.words, one.marks, shared)
    words = [f"{word}{sign}" for word, sign in zip(one.words, signs)]
    found = [("Reference", (words, colours, [""] * len(words)))]
    seated = sum(map(bool, one.given))
    for title, given in (
        (f"Written with {seated} neighbours", one.given),
        ("Written with empty seats", one.empty),
    ):
        report = one.report(given)
        stated = [mark.title for mark in report.marks if mark.polarity == "positive"]
        colours, signs = _word_colours(report.words, report.marks, relations(one.findings, stated))
        ground = [""] * len(report.words)
        for sentence, seats in zip(report.sentences, copied(report, given)):
            if seats:
                ground[sentence.first : sentence.end] = [_COPIED] * (sentence.end - sentence.first)
                signs[sentence.end - 1] += f"[{','.join(str(seat + 1) for seat in seats)}]"
        words = [f"{word}{sign}" for word, sign in zip(report.words, signs)]
        heading = f"{title}: finding-F1 {_score(report.finding_f1)}, BLEU-4 {report.bleu4:.2f}"
        found.append((heading, (words, colours, ground)))
    return found


def wall_figure(data: WallData, query: int = 0, *, tiles: int = 5) -> Figure:
    """The wall without a browser: one line of tiles per order, then the three reports.

    A tile bears likeness, the numbers of shared, missing and extra findings, and finding-F1 of its
    report, copied. Sentences that stand word for word in a report on a seat of the model have a
    ground of colour and, in brackets, those seats.

    Args:
        data: as for the page.
        query: number of the query.
        tiles: per order.

    Raises:
        KitError: no such query, or no tile.
    """
    if not 0 <= query < len(data.queries):
        raise KitError(f"there is no query {query}: the wall has {len(data.queries)}.")
    if tiles < 1:
        raise KitError(f"{tiles} tiles per line show nothing: ask for at least one.")
    one = data.queries[query]
    size, gap, head, left = 1.02, 0.12, 0.62, 4.75  # inches
    across = left + tiles * (size + gap) + 0.05
    row, side, step = size + 0.58, 1.5, 0.165
    letter = 0.66 * 7 / 72  # of the fixed-width font at 7 points, with room for whole pixels
    width = int((left - 0.35) / letter)
    texts = [(heading, _lines(*parts, width)) for heading, parts in _texts(data, one)]
    told = [
        *textwrap.wrap(f"true findings: {', '.join(one.findings) or 'none'}", 78),
        *textwrap.wrap(f"predicted: {', '.join(one.predicted) or 'none'}", 78),
    ]
    ending = textwrap.wrap(
        f"{copy_sentence(one)} (Ground of colour: such a sentence, with the seats in brackets.)", 78
    )
    lines = len(told) + len(ending) + sum(len(some) + 1.9 for _, some in texts)
    down = head + max(len(data.orders) * row, side + 0.4 + step * lines) + 0.25
    figure = plt.figure(figsize=(across, down))

    def write(x: float, y: float, text: str, **style: Any) -> None:
        where = {"ha": "left", "va": "top", "fontsize": 7.5} | style
        figure.text(x / across, 1 - y / down, _plain(text), **where)

    def picture(pixels: np.ndarray, x: float, y: float, side: float) -> None:
        axis = figure.add_axes((x / across, 1 - (y + side) / down, side / across, side / down))
        axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
        axis.set_axis_off()

    write(0.1, 0.08, f"{data.title}: {one.id} ({one.stratum})", fontsize=10)
    write(
        0.1, 0.33,
        f"Words: {SIGNS[SHARED]} true of the query, {SIGNS[EXTRA]} not.",
        color="0.3",
    )  # fmt: skip
    write(
        left, 0.33,
        f"Tiles: findings {SIGNS[SHARED]} shared, {SIGNS[MISSING]} missing and {SIGNS[EXTRA]} "
        "extra in the neighbour; F1: its report, copied.",
        color="0.3",
    )  # fmt: skip
    for number, view in enumerate(one.views[:2]):
        picture(view, 0.1 + number * (side + 0.06), head, side)
    top = head + side + 0.08
    for line in told:
        write(0.1, top, line)
        top += step
    for heading, some in texts:
        top += 0.7 * step
        write(0.1, top, heading, fontsize=8, fontweight="bold")
        top += 1.2 * step
        for line in some:
            used = 0
            for word, colour, ground in line:
                box = {"facecolor": ground, "edgecolor": "none", "pad": 1} if ground else None
                write(0.12 + used * letter, top, word, color=colour, bbox=box,
                      family="monospace", fontsize=7)  # fmt: skip
                used += len(word) + 1
            top += step
    top += 0.7 * step
    for line in ending:
        write(0.1, top, line)
        top += step
    for number, order in enumerate(data.orders):
        top = head + number * row
        name = order.name + (" (given to the model)" if order.key == data.own else "")
        write(left, top, name, fontsize=8, fontweight="bold")
        for column, hit in enumerate(one.walls[order.key][:tiles]):
            x = left + column * (size + gap)
            study = data.studies[hit.study]
            picture(study.views[0], x, top + 0.17, size)
            related = relations(one.findings, study.findings)
            for offset, (kind, titles) in enumerate(related.items()):
                write(x + 0.32 * offset, top + 0.18 + size, f"{SIGNS[kind]}{len(titles)}",
                      color=COLOURS[kind])  # fmt: skip
            f1 = one.copies[hit.study][0]
            write(x, top + 0.31 + size, f"cos {hit.likeness:.2f}, F1 {_score(f1)}",
                  fontsize=6.5, color="0.3")  # fmt: skip
    if data.synthetic:
        write(across - 0.05, down - 0.14, "synthetic phantom images", ha="right", fontsize=6.5,
              color="0.4")  # fmt: skip
    plt.close(figure)  # the caller's alone: a notebook would show it a second time
    return figure
