"""The word scrubber: point at a word of a report, and both views light up where it came from.

One :class:`ScrubberData` feeds four things: a self-contained page (:func:`scrubber_html`), a live
widget (:func:`scrubber_widget`), a matplotlib figure (:func:`scrubber_figure`) and, through
:func:`payload`, anything else that can read JSON.

What a map shows is what a model *attended to* while it wrote a word. That is no proof that the word
depends on it; a sentence about such a proof belongs into ``numbers``, under the map that it is
about.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from r2genkit.errors import KitError
from r2genkit.study import Hypothesis
from r2genkit.viz.attention import choose_words, upsample
from r2genkit.viz.widgets.host import FrontEnd, live, page_html
from r2genkit.viz.widgets.parts import (
    COLOURS,
    OPACITY,
    OUTLINES,
    SIGNS,
    SYNTHETIC_NOTE,
    FindingMark,
    check_marks,
    check_masks,
    check_views,
    fading,
    map_payload,
    mark_findings,
    marks_payload,
    masks_payload,
    normalised,
    peaks,
    shares,
    views_payload,
)
from r2genkit.viz.widgets.scrubber_front import BODY, STYLE

if TYPE_CHECKING:  # its module loads the whole of the metrics
    from r2genkit.metrics.findings import FindingLabeler

FRONT = FrontEnd("scrubber", BODY, STYLE)
AVERAGE = "average"


# --- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScrubberReport:
    """One report with its maps.

    Attributes:
        title: heading, e.g. the system that wrote it.
        words: T words.
        maps: by name, ``[T, V, h, w]`` in [0, 1], float32; 1 is the strongest patch of a word
            (:func:`normalised`). The first one is shown at first. Names of the form "layer 2 head
            3" are laid out as a grid.
        about: what a map is, one sentence by name.
        numbers: a measured figure about a map, one sentence by name.
        sentences: ``[T]``, number of the sentence of each word, if the model looks once per
            sentence; else None.
        findings: what the words name.

    Raises:
        KitError: words, maps, sentences or findings that do not belong together.
    """

    title: str
    words: tuple[str, ...]
    maps: Mapping[str, np.ndarray]
    about: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, str] = field(default_factory=dict)
    sentences: tuple[int, ...] | None = None
    findings: tuple[FindingMark, ...] = ()

    def __post_init__(self) -> None:
        where = f"report {self.title!r}"
        if not self.maps:
            raise KitError(f"{where} has no map to show: give at least one.")
        for name, values in self.maps.items():
            shape = list(np.shape(values))
            if len(shape) != 4 or shape[0] != len(self.words) or 0 in shape[1:]:
                raise KitError(
                    f"map {name!r} of {where} is {shape}; expected [T, V, h, w] with "
                    f"T = {len(self.words)}, the number of its words."
                )
            if not np.all((np.asarray(values) >= 0) & (np.asarray(values) <= 1)):  # NaN, too
                raise KitError(
                    f"map {name!r} of {where} leaves the range 0 to 1; use normalised()."
                )
        if len({np.shape(values)[1] for values in self.maps.values()}) > 1:
            raise KitError(f"the maps of {where} are over different numbers of views.")
        for kind, texts in (("about", self.about), ("numbers", self.numbers)):
            if unknown := sorted(set(texts) - set(self.maps)):
                raise KitError(
                    f"{kind} of {where} names {unknown[0]!r}, which is no map of it: "
                    f"choose from {', '.join(self.maps)}."
                )
        if self.sentences is not None and len(self.sentences) != len(self.words):
            raise KitError(
                f"{where} has {len(self.words)} words and {len(self.sentences)} sentence numbers."
            )
        check_marks(self.findings, self.words, where)


@dataclass(frozen=True)
class ScrubberData:
    """Reports over the same views.

    Attributes:
        title: heading of the page.
        views: V grey images, uint8 ``[H, W]``.
        view_names: V names.
        reports: one, or several to compare.
        masks: bool ``[V, H, W]`` by finding, drawn as outlines: where the phantom drew what.
        synthetic: whether the images are rendered; the page then says so.
        notes: further sentences below the title.

    Raises:
        KitError: views, names, masks and maps that do not belong together.
    """

    title: str
    views: tuple[np.ndarray, ...]
    view_names: tuple[str, ...]
    reports: tuple[ScrubberReport, ...]
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    synthetic: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.views)
        check_views(self.views, self.view_names)
        if not self.reports:
            raise KitError("there is no report to show: give at least one.")
        for report in self.reports:
            over = np.shape(next(iter(report.maps.values())))[1]
            if over != count:
                raise KitError(
                    f"the maps of report {report.title!r} are over {over} views and there are "
                    f"{count} images."
                )
        check_masks(self.masks, self.views)


def _over_views(
    name: str, values: np.ndarray, words: int, views: int, grid: tuple[int, int] | None
) -> np.ndarray:
    """A trace ``[T, V, S]`` or a map ``[T, V, h, w]`` as ``[T, V, h, w]`` over the views shown."""
    values = np.asarray(values, dtype=np.float32)
    if values.ndim == 3 and values.shape[2]:
        rows, columns = grid or (math.isqrt(values.shape[2]),) * 2
        if rows * columns != values.shape[2]:
            raise KitError(
                f"{values.shape[2]} patches of {name!r} are no {rows} x {columns} grid; pass "
                "grid=(rows, columns) of the encoder."
            )
        values = values.reshape(*values.shape[:2], rows, columns)
    if (
        values.ndim != 4
        or len(values) != words
        or values.shape[1] < views
        or values[:, views:].any()  # on a view that is not there to show
    ):
        raise KitError(
            f"map {name!r} {list(values.shape)} does not fit {words} words and {views} views; "
            "pass the trace of the same report and all of its views."
        )
    return values[:, :views]


def scrubber_data(
    hypothesis: Hypothesis,
    views: Sequence[np.ndarray],
    *,
    title: str = "Where the model looks",
    system: str = "report",
    view_names: Sequence[str] | None = None,
    grid: tuple[int, int] | None = None,
    more_maps: Mapping[str, np.ndarray] | None = None,
    about: Mapping[str, str] | None = None,
    numbers: Mapping[str, str] | None = None,
    masks: Mapping[str, np.ndarray] | None = None,
    synthetic: bool = False,
    notes: Sequence[str] = (),
    labeler: FindingLabeler | None = None,
) -> ScrubberData:
    """Everything the scrubber shows, from a report that was decoded with its trace.

    The first map is "average", the model's own attention (of a Transformer: the mean over the heads
    of the last decoder layer). A Transformer adds "layer 1 head 1" and so on.

    Args:
        hypothesis: decoded with ``trace=True`` and a vocabulary.
        views: grey images uint8 ``[H, W]``; absent views at the end are left out.
        title: heading of the page.
        system: heading of the report.
        view_names: default: frontal and lateral for two.
        grid: (rows, columns) of the patches; default: square.
        more_maps: further maps by name, ``[T, V, S]`` or ``[T, V, h, w]``, none negative.
        about: what a map is, one sentence by name; sentences of the kit's own maps are there.
        numbers: a measured figure about a map, one sentence by name.
        masks: bool ``[V, H, W]`` by finding (``r2genkit.viz.transformer.drawn_masks``).
        synthetic: whether the images are rendered.
        notes: further sentences below the title.
        labeler: other rules than the kit's.

    Raises:
        KitError: the report is empty or has no trace of attention, or shapes that do not belong
            together.
    """
    trace, words = hypothesis.trace, tuple(hypothesis.text.split())
    if "attention" not in trace:
        raise KitError(
            f"the report of {hypothesis.study_id} has no trace of attention: decode it with "
            "trace=True and a model that attends."
        )
    if not words:
        raise KitError(f"the report of {hypothesis.study_id} is empty: there is no word to show.")
    views = tuple(np.asarray(view) for view in views)
    found: dict[str, np.ndarray] = {AVERAGE: trace["attention"]}
    told: dict[str, str] = {
        AVERAGE: "Attention over the patches of all views while the word is written."
    }
    heads = trace.get("cross_attention")
    if heads is not None:
        if np.ndim(heads) != 5:
            raise KitError(
                f"cross_attention is {list(np.shape(heads))}; expected [T, layers, heads, V, S]."
            )
        layers, count = heads.shape[1:3]
        which = "the one decoder layer" if layers == 1 else f"decoder layer {layers}, the last one"
        told[AVERAGE] = (
            "Attention over the patches of all views while the word is written: mean over the "
            f"{count} heads of {which}."
        )
        for layer in range(layers):
            for head in range(count):
                name = f"layer {layer + 1} head {head + 1}"
                found[name] = heads[:, layer, head]
                told[name] = f"Attention of head {head + 1} in decoder layer {layer + 1}."
    sentences = None
    if "sentence" in trace:
        sentences = tuple(int(number) for number in np.asarray(trace["sentence"]))
        told[AVERAGE] = (
            "Attention over the patches of all views: this model looks once per sentence, and all "
            "words of a sentence share a map."
        )
    found |= dict(more_maps or {})
    maps = {
        name: normalised(_over_views(name, values, len(words), len(views), grid))
        for name, values in found.items()
    }
    if view_names is None:
        view_names = (
            ("frontal", "lateral")
            if len(views) == 2
            else [f"view {number + 1}" for number in range(len(views))]
        )
    report = ScrubberReport(
        title=system,
        words=words,
        maps=maps,
        about=told | dict(about or {}),
        numbers=dict(numbers or {}),
        sentences=sentences,
        findings=mark_findings(words, labeler),
    )
    return ScrubberData(
        title=title,
        views=views,
        view_names=tuple(view_names),
        reports=(report,),
        masks=dict(masks or {}),
        synthetic=synthetic,
        notes=tuple(notes),
    )


def with_maps(
    data: ScrubberData,
    maps: Mapping[str, np.ndarray] | None = None,
    *,
    about: Mapping[str, str] | None = None,
    numbers: Mapping[str, str] | None = None,
    report: int = 0,
) -> ScrubberData:
    """The same with further maps, or further sentences under maps, of one report.

    Args:
        data: is left as it is.
        maps: ``[T, V, h, w]`` by name, none negative; normalised here.
        about: what a map is, by name.
        numbers: a measured figure about a map, by name ("Images swapped: ...").
        report: which one.

    Raises:
        KitError: no such report or map, or shapes that do not belong together.
    """
    if not 0 <= report < len(data.reports):
        raise KitError(f"there is no report {report}: the data hold {len(data.reports)}.")
    old = data.reports[report]
    new = {
        name: normalised(_over_views(name, values, len(old.words), len(data.views), None))
        for name, values in (maps or {}).items()
    }
    changed = replace(
        old,
        maps={**old.maps, **new},
        about={**old.about, **(about or {})},
        numbers={**old.numbers, **(numbers or {})},
    )
    reports = (*data.reports[:report], changed, *data.reports[report + 1 :])
    return replace(data, reports=reports)


def side_by_side(*parts: ScrubberData) -> ScrubberData:
    """Reports of several systems over the same views, to be shown above one another.

    Images, masks and title are those of the first; the others may have seen the same images at
    another size.

    Raises:
        KitError: nothing to compare, or other views.
    """
    if not parts:
        raise KitError("there is nothing to compare: give at least one report.")
    first = parts[0]
    for other in parts[1:]:
        if not _same_images(first.views, other.views):
            raise KitError(
                f"reports {first.reports[0].title!r} and {other.reports[0].title!r} are about "
                "different images: compare systems on one study."
            )
    return replace(
        first,
        reports=tuple(report for part in parts for report in part.reports),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        synthetic=any(part.synthetic for part in parts),
    )


def _same_images(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    """Equal up to what resizing on different ways does."""

    def small(view: np.ndarray) -> np.ndarray:
        image = Image.fromarray(np.ascontiguousarray(view))
        return np.asarray(image.resize((16, 16), Image.Resampling.BOX)).astype(float)

    return len(one) == len(other) and all(
        np.abs(small(a) - small(b)).mean() < 4 for a, b in zip(one, other)
    )


# --- payload, page, widget ----------------------------------------------------------------------


def payload(data: ScrubberData) -> dict[str, Any]:
    """What the front end draws from, as plain JSON content.

    Maps are base64 of uint8 ``[T, V, h, w]`` (:func:`quantised`), images are PNGs, masks are paths.
    """
    return {
        "title": data.title,
        "synthetic": SYNTHETIC_NOTE if data.synthetic else "",
        "notes": list(data.notes),
        "opacity": OPACITY,
        "views": views_payload(data.views, data.view_names),
        "masks": masks_payload(data.masks),
        "reports": [
            {
                "title": report.title,
                "words": list(report.words),
                "sentences": None if report.sentences is None else list(report.sentences),
                "findings": marks_payload(report.findings),
                "maps": [
                    map_payload(
                        name,
                        values,
                        about=report.about.get(name, ""),
                        number=report.numbers.get(name, ""),
                    )
                    for name, values in report.maps.items()
                ],
            }
            for report in data.reports
        ],
    }


def scrubber_html(data: ScrubberData) -> str:
    """One page with images, maps, style and script inside (:func:`~.host.page_html`)."""
    texts = [(report.title, " ".join(report.words)) for report in data.reports]
    return page_html(FRONT, payload(data), title=data.title, texts=texts)


def scrubber_widget(data: ScrubberData) -> Any:
    """The scrubber as a live widget for notebooks, with the same front end as the page.

    Its trait ``told`` is ``{"pinned": [report, word]}`` for the word that was pinned last, word -1
    when the pin is taken off; pointing at words does not reach the kernel.

    Raises:
        KitError: ``anywidget`` is not installed.
    """
    return live(FRONT, payload(data))


# --- static twin --------------------------------------------------------------------------------


def _chosen(report: ScrubberReport, words: Sequence[int | str] | None, limit: int) -> list[int]:
    """Positions of the words to show in a report; -1 for a word that it does not have."""
    if words is None:
        order = ("positive", "uncertain", "negative")
        marks = sorted(report.findings, key=lambda mark: order.index(mark.polarity))
        if marks:
            return sorted(list(dict.fromkeys(mark.first for mark in marks))[:limit])
        first = next(iter(report.maps.values()))
        flat = np.asarray(first, dtype=float).reshape(*first.shape[:2], -1)
        totals = flat.sum((1, 2), keepdims=True)
        return choose_words(flat / np.where(totals > 0, totals, 1), report.words, limit)
    places = []
    for word in words:
        if isinstance(word, str):
            places.append(report.words.index(word) if word in report.words else -1)
        else:
            places.append(int(word) if 0 <= word < len(report.words) else -1)
    return places


def scrubber_figure(
    data: ScrubberData,
    words: Sequence[int | str] | None = None,
    *,
    maps: Sequence[str] | None = None,
    limit: int = 5,
) -> Figure:
    """The scrubber without a browser: chosen words over all views, with the number below.

    One row per report and map; the first panel shows the images alone, with the outlines. Heat and
    opacity are those of the page: 1 is the strongest patch of a word, smoothed between patches.

    Args:
        data: as for the page.
        words: positions, or words (their first place in each report); default: the first words of
            findings, affirmed ones first; without findings, content words whose map differs most
            from the report's mean.
        maps: names of the maps to show; default: the first one of each report.
        limit: how many words when none are named.

    Raises:
        KitError: no such map, or none of the words is in any report.
    """
    lines: list[tuple[ScrubberReport, str, list[int]]] = []
    for report in data.reports:
        names = [next(iter(report.maps))] if maps is None else [m for m in maps if m in report.maps]
        lines += [(report, name, _chosen(report, words, limit)) for name in names]
    if not lines:
        known = ", ".join(dict.fromkeys(name for report in data.reports for name in report.maps))
        raise KitError(f"no report has a map called {', '.join(maps or ())}: choose from {known}.")
    if not any(place >= 0 for _, _, places in lines for place in places):
        raise KitError(f"none of the words {list(words or ())} is in any report.")
    height = max(view.shape[0] for view in data.views)
    backdrop = np.concatenate([_tall(view, height) for view in data.views], axis=1)
    edges = np.cumsum([0, *(_tall(view, height).shape[1] for view in data.views)])

    # Placed by hand, in inches: long sentences between rows of panels confuse automatic layouts.
    columns = 1 + max(len(places) for _, _, places in lines)
    wide = 2.5 * backdrop.shape[1] / (2 * height)
    panel = wide * height / backdrop.shape[1]
    across = columns * (wide + 0.1) + 0.75
    told = [
        textwrap.wrap(f"{one.title}: {name}. {one.numbers.get(name, '')}", int(15 * across))
        for one, name, _ in lines
    ]
    rows = [0.17 * len(text) + 0.3 + panel + 0.3 for text in told]
    down = 0.35 + sum(rows) + 0.3
    figure = plt.figure(figsize=(across, down))
    colours = plt.get_cmap("viridis")

    def axis_at(left: float, top: float, width: float, tall: float) -> Any:
        place = (left / across, 1 - (top + tall) / down, width / across, tall / down)
        return figure.add_axes(place)

    def write(left: float, top: float, text: str, **style: Any) -> None:
        where = {"ha": "left", "va": "top", "fontsize": 8} | style
        figure.text(left / across, 1 - top / down, _plain(text), **where)

    write(across / 2, 0.08, data.title, ha="center", fontsize=10)
    top = 0.35
    for (report, name, places), text, room in zip(lines, told, rows):
        write(0.1, top, "\n".join(text))
        first = top + 0.17 * len(text) + 0.3
        values = np.asarray(report.maps[name])
        high, share = peaks(values), shares(values)
        for column, place in enumerate([None, *places]):
            axis = axis_at(0.1 + column * (wide + 0.1), first, wide, panel)
            axis.set_axis_off()
            if place is not None and place < 0:
                axis.text(0.5, 0.5, "not written", ha="center", va="center", fontsize=8)
                continue
            axis.imshow(backdrop, cmap="gray", vmin=0, vmax=255, aspect="auto")
            for edge in edges[1:-1]:
                axis.axvline(edge - 0.5, color="white", linewidth=0.6)
            if place is None:
                axis.set_title(_plain(" | ".join(data.view_names)), fontsize=8, pad=4)
                _draw_outlines(axis, data, height)
                continue
            heat = np.concatenate(
                [
                    upsample(values[place, view], height, int(edges[view + 1] - edges[view]))
                    for view in range(len(data.views))
                ],
                axis=1,
            )
            opacity = OPACITY * float(fading(high[place]))
            axis.imshow(colours(heat), alpha=opacity * np.clip(heat, 0, 1) ** 0.5, aspect="auto")
            heading, style = _heading(report, place)
            axis.set_title(heading, fontsize=8, pad=4, **style)
            under = f"peak {high[place]:.1f} x even"
            if len(data.views) > 1:
                under += ", " + " | ".join(f"{part:.0%}" for part in share[place])
            axis.text(
                0.5, -0.04, under, transform=axis.transAxes, ha="center", va="top", fontsize=7
            )
        top += room
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), colours),
        cax=axis_at(across - 0.6, 0.35 + 0.17 * len(told[0]) + 0.3, 0.1, panel),
    )
    bar.ax.tick_params(labelsize=6)
    bar.set_label("of the word's strongest patch", fontsize=6)
    if data.masks:
        handles = [
            Line2D([], [], color=OUTLINES[place % len(OUTLINES)], label=name.replace("_", " "))
            for place, name in enumerate(data.masks)
        ]
        figure.legend(
            handles=handles, loc="lower left", ncols=min(6, len(handles)), fontsize=7,
            frameon=False, borderaxespad=0.2,
        )  # fmt: skip
    if data.synthetic:
        write(across - 0.05, down - 0.16, "synthetic phantom images", ha="right", fontsize=7,
              color="0.4")  # fmt: skip
    plt.close(figure)  # the caller's alone: a notebook would show it a second time
    return figure


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib would start a formula


def _heading(report: ScrubberReport, place: int) -> tuple[str, dict[str, str]]:
    """Number, word and sign of the finding it belongs to; its colour."""
    order = list(SIGNS)
    named = [mark for mark in report.findings if mark.first <= place < mark.end]
    text = f"{place + 1}. {report.words[place]}"
    if report.sentences is not None:
        text += f" (sentence {report.sentences[place] + 1})"
    if not named:
        return _plain(text), {}
    strongest = min(named, key=lambda mark: (0, 2, 1)[order.index(mark.polarity)])
    polarity = strongest.polarity
    return _plain(f"{text} {SIGNS[polarity]}"), {"color": COLOURS[polarity]}


def _tall(view: np.ndarray, height: int) -> np.ndarray:
    """A view at the height of the tallest one."""
    if view.shape[0] == height:
        return view
    width = max(1, round(view.shape[1] * height / view.shape[0]))
    return np.asarray(Image.fromarray(view).resize((width, height), Image.Resampling.BILINEAR))


def _draw_outlines(axis: Any, data: ScrubberData, height: int) -> None:
    """Masks as lines."""
    for place, mask in enumerate(data.masks.values()):
        whole = np.concatenate(
            [_tall(np.asarray(one, dtype=np.uint8) * 255, height) for one in mask], axis=1
        )
        colour = OUTLINES[place % len(OUTLINES)]
        axis.contour(whole, levels=[127.5], colors=[colour], linewidths=0.9)
