"""The phantom bench: change one finding of a patient, and see what the report makes of it.

The same patient stands there twice: as the corpus has it, and with one finding moved, resized,
removed or added. Everything else about the patient is the same, so what changes in the report was
caused by the finding. This is what no collection of real films can show.

One :class:`BenchData` feeds a self-contained page (:func:`bench_html`, with the states that were
computed beforehand), a live widget (:func:`bench_widget`, where a kernel computes any other) and a
matplotlib figure (:func:`bench_figure`). What needs a model stands in
``r2genkit.experiments.bench``.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from r2genkit.errors import KitError
from r2genkit.viz.attention import upsample
from r2genkit.viz.widgets.bench_front import BODY, STYLE
from r2genkit.viz.widgets.host import FrontEnd, live, page_html
from r2genkit.viz.widgets.parts import (
    COLOURS,
    OPACITY,
    SIGNS,
    SYNTHETIC_NOTE,
    FindingMark,
    check_views,
    fading,
    map_payload,
    mark_findings,
    marks_payload,
    outline,
    peaks,
    top_of,
    views_payload,
)

FRONT = FrontEnd("bench", BODY, STYLE)
STATEMENTS = {
    "positive": "stated",
    "uncertain": "doubted",
    "negative": "denied",
    "absent": "not mentioned",
}
"""What a report says of a finding, by the labeler's polarity."""

OLD_COLOUR, NEW_COLOUR = "#ffb000", "#48c9ff"
SIZES = ("borderline", "mild", "moderate", "large", "severe")
"""Severities from least to most."""
_STRENGTH = ("absent", "negative", "uncertain", "positive")
_SIDES = {"left": ("left",), "right": ("right",), "bilateral": ("left", "right"), "midline": ()}


# --- what a report says of a finding ------------------------------------------------------------


@dataclass(frozen=True)
class Statement:
    """What a report says of one finding type.

    Attributes:
        polarity: "positive", "uncertain", "negative" or "absent": the strongest that any of its
            sentences has.
        words: positions of the words that decide it; none if absent.
        sentence: which sentence they stand in, from 0; -1 if absent.
        sides: sides said of it where it is stated, a part of ("left", "right").
        said: degrees and places said of it where it is stated, without the sides.
    """

    polarity: str
    words: tuple[int, ...] = ()
    sentence: int = -1
    sides: tuple[str, ...] = ()
    said: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """In words: "stated", "doubted", "denied" or "not mentioned"."""
        return STATEMENTS[self.polarity]


def sentence_numbers(words: Sequence[str]) -> list[int]:
    """The sentence of each word, from 0; a full stop belongs to the sentence that it ends."""
    number, numbers = 0, []
    for word in words:
        numbers.append(number)
        number += word == "."
    return numbers


def statement(words: Sequence[str], kind: str) -> Statement:
    """What a report says of a finding type, by the kit's labeler and attribute finder.

    Args:
        words: of a cleaned report, full stops apart.
        kind: finding type.
    """
    # Imported here: a finished page needs no labeler.
    from r2genkit.metrics.findings.attributes import default_attribute_finder
    from r2genkit.metrics.findings.labeler import outermost

    finder = default_attribute_finder()
    numbers = sentence_numbers(words)
    best = Statement("absent")
    sides: set[str] = set()
    said: dict[str, None] = {}
    for number in dict.fromkeys(numbers):
        own = [place for place, n in enumerate(numbers) if n == number and words[place] != "."]
        pieces, where = [], []  # the labeler opens hyphens
        for place in own:
            opened = words[place].replace("-", " ").split()
            pieces += opened
            where += [place] * len(opened)
        sentence = " ".join(pieces)
        for mention in outermost(finder.labeler.mentions_of_sentence(sentence)):
            if mention.finding != kind:
                continue
            if _STRENGTH.index(mention.polarity) > _STRENGTH.index(best.polarity):
                at = tuple(dict.fromkeys(where[i] for i in range(*mention.span)))
                best = Statement(mention.polarity, at, number)
        for found in finder.attributes_of_sentence(sentence):
            if found.finding != kind or found.polarity != "positive":
                continue
            if found.category == "location" and found.attribute in _SIDES:
                sides.update(_SIDES[found.attribute])
            elif found.category in ("degree", "location"):
                said[found.attribute] = None
    if best.polarity != "positive":
        return best
    return Statement(
        "positive", best.words, best.sentence, tuple(sorted(sides)), tuple(sorted(said))
    )


# --- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BenchKind:
    """A finding type that can stand on the bench.

    Attributes:
        name, title: type and plain name.
        sides: what may be chosen; places: by side; severities: None where there is one size.
        side, place, severity: what it has when it is added.
        uncoded: the severity that one without any is drawn as; "" if as none of them.
        tag: whether the model is told of it.
    """

    name: str
    title: str
    sides: tuple[str, ...]
    places: Mapping[str, tuple[str, ...]]
    severities: tuple[str | None, ...]
    side: str
    place: str
    severity: str | None
    uncoded: str = "moderate"
    tag: bool = True


@dataclass(frozen=True)
class BenchFinding:
    """A finding as it is drawn in one state.

    Attributes:
        key: names it in every state.
        kind, title: type and plain name.
        side, place, severity: as drawn; place "" and severity None where there is none.
        mask: where it is, bool ``[V, H, W]``; all False where it cannot be seen.
    """

    key: str
    kind: str
    title: str
    side: str
    place: str
    severity: str | None
    mask: np.ndarray

    @property
    def where(self) -> str:
        """Severity, side and place in a few words; "" where there is nothing to say."""
        parts = (self.severity, "" if self.side == "midline" else self.side, self.place)
        return " ".join(part for part in parts if part)


@dataclass(frozen=True)
class BenchState:
    """A patient with some findings, and what the model makes of the two films.

    Attributes:
        title: heading: what was changed.
        views: V grey images, uint8 ``[H, W]``.
        findings: what is drawn.
        words: T words of the report.
        attention: ``[T, V, h, w]`` in [0, 1]; 1 is the strongest patch of a word.
        tags: finding probability by type: the classifier's, and as the decoder is told it; empty
            for models that read no tags.
        sentences: ``[T]``, number of the sentence of each word, if the model looks once per
            sentence; else None.
        roads: the report if, against the first state, only the tags had changed, and if only the
            patches had; None in the first state and where a model reads no tags.
        marks: what the words name; read from them if left out.

    Raises:
        KitError: views, masks, words and maps that do not belong together.
    """

    title: str
    views: tuple[np.ndarray, ...]
    findings: tuple[BenchFinding, ...]
    words: tuple[str, ...]
    attention: np.ndarray
    tags: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    sentences: tuple[int, ...] | None = None
    roads: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    marks: tuple[FindingMark, ...] | None = None

    def __post_init__(self) -> None:
        where = f"state {self.title!r}"
        check_views(self.views, of=where)
        shape = list(np.shape(self.attention))
        if len(shape) != 4 or shape[:2] != [len(self.words), len(self.views)] or 0 in shape[1:]:
            raise KitError(
                f"the attention of {where} is {shape}; expected [T, V, h, w] with "
                f"T = {len(self.words)} words and V = {len(self.views)} views."
            )
        values = np.asarray(self.attention)
        if not np.all((values >= 0) & (values <= 1)):  # false for NaN, too
            raise KitError(f"the attention of {where} leaves the range 0 to 1; use normalised().")
        if self.sentences is not None and len(self.sentences) != len(self.words):
            raise KitError(
                f"{where} has {len(self.words)} words and {len(self.sentences)} sentence numbers."
            )
        keys = [finding.key for finding in self.findings]
        if len(set(keys)) < len(keys):
            raise KitError(f"two findings of {where} share a key: {', '.join(keys)}.")
        for finding in self.findings:
            if [one.shape for one in finding.mask] != [view.shape for view in self.views]:
                raise KitError(
                    f"the mask of {finding.title!r} in {where} is {list(np.shape(finding.mask))}; "
                    f"expected one of {[list(view.shape) for view in self.views]} each."
                )
        for kind, both in self.tags.items():
            if len(both) != 2 or not all(0 <= one <= 1 for one in both):
                raise KitError(f"the tag {kind!r} of {where} is {both}: two probabilities.")
        if self.marks is None:
            object.__setattr__(self, "marks", mark_findings(self.words))

    def finding(self, key: str) -> BenchFinding | None:
        """The finding of that key, or None where it is not drawn."""
        return next((one for one in self.findings if one.key == key), None)

    def drawn(self, kind: str) -> bool:
        """Whether a finding of that type is drawn."""
        return any(one.kind == kind for one in self.findings)


@dataclass(frozen=True)
class BenchData:
    """A patient on the bench.

    Attributes:
        title: heading of the page.
        states: the first one is the patient as the corpus has it; the others are variants that
            were computed beforehand.
        view_names: V names.
        focus: key of the finding that the variants are about.
        system: who writes the reports.
        systems: who else may write them where a kernel answers; ``system`` first. Empty: only one.
        kinds: what may be added, or chosen of what is there, by a kernel.
        called_at: tag probability from which the classifier says yes.
        synthetic: whether the images are rendered; the page then says so.
        notes: further sentences below the title.

    Raises:
        KitError: no state, states of different images, or a focus that no state draws.
    """

    title: str
    states: tuple[BenchState, ...]
    view_names: tuple[str, ...]
    focus: str
    system: str = "report"
    systems: tuple[str, ...] = ()
    kinds: tuple[BenchKind, ...] = ()
    called_at: float = 0.5
    synthetic: bool = True
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.states:
            raise KitError("there is no state to show: give at least the patient as it is.")
        shapes = {tuple(view.shape for view in state.views) for state in self.states}
        if len(shapes) > 1 or len(self.view_names) != len(self.states[0].views):
            raise KitError(
                "the states of a bench need the same views at the same size, with a name each."
            )
        if self.focus and not any(state.finding(self.focus) for state in self.states):
            raise KitError(f"no state draws the finding {self.focus!r} that the bench is about.")
        if len({state.title for state in self.states}) < len(self.states):
            raise KitError("two states of the bench have the same title: they would look alike.")
        if self.systems and self.systems[0] != self.system:
            raise KitError(
                f"the bench shows reports of {self.system!r}: name it first among its systems."
            )


# --- what followed ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Follow:
    """What became of one finding between two states.

    Attributes:
        key, kind, title: the finding.
        where: side, place and severity before and after; None where it is not drawn.
        should: whether a finding of its type is drawn, before and after: should it be stated?
        said: the report's statement before and after.
        tags: (classifier, as told) before and after; None without tags.
        inside: share of each word's attention inside the finding's old and its new place:
            before ``[T, 2]`` and after ``[T', 2]``; NaN where it has no such place.
        chance: what an even map would have there ``[2]``.
        roads: statement if only the tags had changed, and if only the patches had; or None.
        verdict: "followed" or "not followed" (the report said what had changed, or did not);
            "nothing to follow"; "lost" or "found" (drawn before and after, stated only once);
            "kept"; "unprovoked" (nothing about the finding was changed, its statement was).
        sentence: the verdict in words.
    """

    key: str
    kind: str
    title: str
    where: tuple[str | None, str | None]
    should: tuple[bool, bool]
    said: tuple[Statement, Statement]
    tags: tuple[tuple[float, float], tuple[float, float]] | None
    inside: tuple[np.ndarray, np.ndarray]
    chance: np.ndarray
    roads: tuple[Statement, Statement] | None
    verdict: str
    sentence: str

    def word_inside(self, after: bool, new: bool) -> float:
        """Mean share over the words that state the finding; NaN where there is none."""
        places = self.said[after].words
        values = self.inside[after][list(places), int(new)] if places else np.array([])
        return float(values.mean()) if values.size else float("nan")


def patch_cover(mask: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Share of each patch that a mask covers: bool ``[V, H, W]`` -> ``[V * rows * columns]``."""
    mask = np.asarray(mask, dtype=float)
    for axis, count in ((1, rows), (2, columns)):
        edges = np.linspace(0, mask.shape[axis], count + 1).round().astype(int)
        sums = np.add.reduceat(mask, edges[:-1], axis=axis)
        size = np.diff(edges).reshape([-1 if i == axis else 1 for i in range(3)])
        mask = sums / size
    return mask.ravel()


def _sides(state: BenchState, kind: str) -> tuple[str, ...]:
    """Sides on which findings of a type are drawn."""
    return tuple(
        sorted({side for one in state.findings if one.kind == kind for side in _SIDES[one.side]})
    )


def _judged(
    title: str,
    changed: bool,
    should: tuple[bool, bool],
    said: tuple[Statement, Statement],
    drawn: tuple[tuple[str, ...], tuple[str, ...]],
) -> tuple[str, str]:
    """Verdict and its sentence."""
    before, after = said
    stated = (before.polarity == "positive", after.polarity == "positive")
    if not changed:
        if before.polarity == after.polarity:
            return "kept", f"Nothing about {title} was changed, and it is {after.told} as before."
        return (
            "unprovoked",
            f"Nothing about {title} was changed, yet it was {before.told} and is now {after.told}.",
        )
    if should == (True, False):
        if not stated[0]:
            return (
                "nothing to follow",
                f"{title} is gone; it was {before.told} before, so there was nothing to take back.",
            )
        if stated[1]:
            return "not followed", f"{title} is gone, and the report still states it."
        return "followed", f"{title} is gone, and the report no longer states it ({after.told})."
    if should == (False, True):
        if stated[0]:
            return (
                "nothing to follow",
                f"{title} is new, but the report stated it before it was there.",
            )
        if stated[1]:
            return "followed", f"{title} is new, and the report now states it."
        return "not followed", f"{title} is new, and the report does not state it ({after.told})."
    if not all(stated):
        if stated[0] == stated[1]:
            return (
                "nothing to follow",
                f"{title} was changed; the report states it neither before nor after.",
            )
        if stated[1]:
            return "found", f"{title} is drawn before and after, and only now is it stated."
        return (
            "lost",
            f"{title} is still drawn, but the report no longer states it ({after.told}).",
        )
    if drawn[0] != drawn[1]:
        if not after.sides:
            return "not followed", f"{title} changed sides; the report names no side of it."
        named = " and ".join(after.sides)
        if after.sides == drawn[1] and before.sides != after.sides:
            return "followed", f"{title} changed sides, and the report now says {named}."
        if after.sides == drawn[1]:
            return (
                "nothing to follow",
                f"{title} changed sides; the report says {named}, as it did before.",
            )
        verb = "still says" if after.sides == before.sides else "says"
        return "not followed", f"{title} changed sides, and the report {verb} {named}."
    if (before.said, before.sides) != (after.said, after.sides):
        words = ", ".join((*after.said, *after.sides)) or "nothing"
        old = ", ".join((*before.said, *before.sides)) or "nothing"
        return (
            "kept",
            f"{title} was changed and is stated before and after; said of it: {old}, now {words}.",
        )
    return "kept", f"{title} was changed; it is stated before and after in the same way."


def follow(before: BenchState, after: BenchState, key: str) -> Follow:
    """What became of one finding between two states.

    Raises:
        KitError: neither state draws it.
    """
    # Imported here: the metrics bring torch with them, which a finished page does not need.
    from r2genkit.metrics.faithfulness import energy, energy_chance

    pair = before.finding(key), after.finding(key)
    known = pair[0] or pair[1]
    if known is None:
        raise KitError(f"neither {before.title!r} nor {after.title!r} draws the finding {key!r}.")
    kind = known.kind
    rows, columns = np.shape(before.attention)[2:]
    covers = [
        np.zeros(rows * columns * len(before.views))
        if one is None
        else patch_cover(one.mask, rows, columns)
        for one in pair
    ]
    inside = []
    for state in (before, after):
        flat = np.asarray(state.attention, dtype=float).reshape(len(state.words), len(covers[0]))
        each = [energy(flat, np.broadcast_to(cover, flat.shape)) for cover in covers]
        inside.append(np.stack(each, axis=1))
    said = statement(before.words, kind), statement(after.words, kind)
    should = before.drawn(kind), after.drawn(kind)
    drawn = _sides(before, kind), _sides(after, kind)
    described = [None if one is None else (one.side, one.place, one.severity) for one in pair]
    verdict, sentence = _judged(known.title, described[0] != described[1], should, said, drawn)
    tags = None
    if kind in before.tags and kind in after.tags:
        tags = tuple(before.tags[kind]), tuple(after.tags[kind])
    return Follow(
        key,
        kind,
        known.title,
        tuple(None if one is None else one.where for one in pair),
        should,
        said,
        tags,
        tuple(inside),
        np.array([float(energy_chance(cover)) for cover in covers]),
        None if after.roads is None else tuple(statement(words, kind) for words in after.roads),
        verdict,
        sentence[:1].upper() + sentence[1:],
    )


def partners(before: Sequence[str], after: Sequence[str]) -> tuple[list[int], list[int]]:
    """For each word of two reports its partner in the other one, or -1 where it has none.

    Words are partners where the longest common runs pair them (Python's ``difflib``).
    """
    there, back = [-1] * len(before), [-1] * len(after)
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for one, other, size in matcher.get_matching_blocks():
        for step in range(size):
            there[one + step], back[other + step] = other + step, one + step
    return there, back


# --- payload, page, widget ----------------------------------------------------------------------


def state_payload(state: BenchState, view_names: Sequence[str]) -> dict[str, Any]:
    """One state as plain JSON content."""
    # An empty report has no map: its place is taken by one that is zero.
    seen = state.attention if state.words else np.zeros((1, *np.shape(state.attention)[1:]))
    return {
        "title": state.title,
        "views": views_payload(state.views, view_names),
        "words": list(state.words),
        "sentences": None if state.sentences is None else list(state.sentences),
        "numbers": sentence_numbers(state.words),
        "marks": marks_payload(state.marks),
        "map": map_payload("attention", seen),
        "findings": [
            {
                "key": one.key,
                "kind": one.kind,
                "title": one.title,
                "side": one.side,
                "place": one.place,
                "severity": one.severity,
                "where": one.where,
                "paths": [outline(view) for view in one.mask],
                "tops": [top_of(view) for view in one.mask],
            }
            for one in state.findings
        ],
    }


def _plain(values: np.ndarray) -> list[Any]:
    """Numbers with four digits; None instead of NaN, which JSON does not have."""
    rounded = np.round(np.asarray(values, dtype=float), 4)
    return np.where(np.isfinite(rounded), rounded.astype(object), None).tolist()


def _said_payload(said: Statement) -> dict[str, Any]:
    return {
        "polarity": said.polarity,
        "told": said.told,
        "words": list(said.words),
        "sentence": said.sentence,
        "sides": list(said.sides),
        "said": list(said.said),
    }


def pair_payload(before: BenchState, after: BenchState) -> dict[str, Any]:
    """What became of every finding and every word between two states, as plain JSON content."""
    there, back = partners(before.words, after.words)
    keys = dict.fromkeys(one.key for state in (before, after) for one in state.findings)
    follows = []
    for key in keys:
        found = follow(before, after, key)
        follows.append(
            {
                "key": key,
                "kind": found.kind,
                "title": found.title,
                "where": list(found.where),
                "should": list(found.should),
                "said": [_said_payload(one) for one in found.said],
                "tags": None if found.tags is None else [list(_plain(one)) for one in found.tags],
                "inside": [_plain(one) for one in found.inside],
                "chance": _plain(found.chance),
                "roads": None if found.roads is None else [one.told for one in found.roads],
                "verdict": found.verdict,
                "sentence": found.sentence,
            }
        )
    return {
        "follows": follows,
        "partners": [there, back],
    }


def payload(data: BenchData) -> dict[str, Any]:
    """What the front end draws from, as plain JSON content."""
    first = data.states[0]
    return {
        "title": data.title,
        "synthetic": SYNTHETIC_NOTE if data.synthetic else "",
        "notes": list(data.notes),
        "opacity": OPACITY,
        "system": data.system,
        "systems": list(data.systems),
        "focus": data.focus,
        "called_at": data.called_at,
        "colours": [OLD_COLOUR, NEW_COLOUR],
        "kinds": [
            {
                "name": kind.name,
                "title": kind.title,
                "sides": list(kind.sides),
                "places": {side: list(places) for side, places in kind.places.items()},
                "severities": list(kind.severities),
                "start": {"side": kind.side, "place": kind.place, "severity": kind.severity},
                "uncoded": kind.uncoded,
                "tag": kind.tag,
            }
            for kind in data.kinds
        ],
        "states": [state_payload(state, data.view_names) for state in data.states],
        "pairs": [pair_payload(first, state) for state in data.states],
    }


def bench_html(data: BenchData) -> str:
    """One page with the states computed beforehand, to be opened by double click.

    Its content security policy lets only its own script and style run; nothing is loaded or sent.
    """
    texts = [(state.title, " ".join(state.words)) for state in data.states]
    return page_html(FRONT, payload(data), title=data.title, texts=texts)


def bench_widget(
    data: BenchData, answer: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None
) -> Any:
    """The bench as a live widget for notebooks.

    Args:
        data: the patient and the variants that are there at once.
        answer: draws and reads any other state (``r2genkit.experiments.bench.Bench.answer``).
            Without it the widget offers what the page offers.

    Raises:
        KitError: ``anywidget`` is not installed.
    """
    return live(FRONT, payload(data), answer)


# --- static twin --------------------------------------------------------------------------------


def _escaped(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib would start a formula


def main_states(data: BenchData) -> list[int]:
    """The states that say most: as it is; elsewhere; larger; gone. Those of them that are there."""
    first = data.states[0].finding(data.focus)
    own = [state.finding(data.focus) for state in data.states]
    if first is None:
        return list(range(min(len(own), 4)))
    sizes = [SIZES.index(one.severity) if one and one.severity in SIZES else -1 for one in own]
    elsewhere = next(
        (
            i
            for i, one in enumerate(own)
            if one and (one.side, one.place) != (first.side, first.place)
        ),
        None,
    )
    larger = int(np.argmax(sizes)) if max(sizes) > max(sizes[0], 0) else None
    gone = next((i for i, one in enumerate(own) if one is None), None)
    return [0, *(i for i in (elsewhere, larger, gone) if i is not None)]


def _excerpt(state: BenchState, said: Statement, width: int) -> tuple[list[str], list[str]]:
    """The finding's sentence, and the rest of the report, in lines."""
    numbers = sentence_numbers(state.words)
    own = [word for word, number in zip(state.words, numbers) if number == said.sentence]
    rest = [word for word, number in zip(state.words, numbers) if number != said.sentence]
    return textwrap.wrap(" ".join(own), width), textwrap.wrap(" ".join(rest), width + width // 4)


def bench_figure(data: BenchData, states: Sequence[int] | None = None) -> Figure:
    """The bench without a browser: a row per state, with both views, the report and the tag.

    Over the views lies the attention of the word that names the finding (the first of them), as on
    the page; outlined is where the finding is drawn in this row, dashed where it was at first.

    Args:
        data: as for the page.
        states: which ones, in this order; default: :func:`main_states`.

    Raises:
        KitError: a state that is not there, or nothing to follow.
    """
    chosen = main_states(data) if states is None else list(states)
    if not chosen or any(not 0 <= place < len(data.states) for place in chosen):
        raise KitError(
            f"the bench has states 0 to {len(data.states) - 1}; asked for {chosen or 'none'}."
        )
    if not data.focus:
        raise KitError("the bench is about no finding: name one with focus=.")
    first = data.states[0]
    wide, text_wide, bar_wide = 2.1, 4.7, 1.9
    views = len(data.view_names)
    tall = wide * max(view.shape[0] / view.shape[1] for view in first.views)
    across = 0.15 + views * (wide + 0.08) + 0.12 + text_wide + bar_wide + 0.85
    row, head = tall + 0.52, 0.62
    down = head + row * len(chosen) + 0.42
    figure = plt.figure(figsize=(across, down))
    colours = plt.get_cmap("viridis")

    def axis_at(left: float, top: float, width: float, height: float) -> Any:
        return figure.add_axes(
            (left / across, 1 - (top + height) / down, width / across, height / down)
        )

    def write(left: float, top: float, text: str, **style: Any) -> None:
        where = {"ha": "left", "va": "top", "fontsize": 8} | style
        figure.text(left / across, 1 - top / down, _escaped(text), **where)

    write(across / 2, 0.08, data.title, ha="center", fontsize=10.5)
    write(across / 2, 0.32, f"reports: {data.system}", ha="center", color="0.35")
    for line, place in enumerate(chosen):
        state = data.states[place]
        found = follow(first, state, data.focus)
        top = head + line * row + 0.26
        write(0.15, top - 0.06, state.title, va="bottom", fontsize=9, fontweight="bold")
        said = found.said[1]
        word = said.words[0] if said.words else None
        for view, name in enumerate(data.view_names):
            axis = axis_at(0.15 + view * (wide + 0.08), top, wide, tall)
            axis.set_axis_off()
            shown = state.views[view]
            axis.imshow(shown, cmap="gray", vmin=0, vmax=255, aspect="auto")
            if word is not None:
                heat = upsample(np.asarray(state.attention)[word, view], *shown.shape)
                share = OPACITY * float(fading(peaks(state.attention)[word]))
                axis.imshow(colours(heat), alpha=share * np.clip(heat, 0, 1) ** 0.5, aspect="auto")
            old, new = (one.finding(data.focus) for one in (first, state))
            moved = old is None or new is None or not np.array_equal(old.mask, new.mask)
            for one, colour, style in (
                (old if moved else None, OLD_COLOUR, "dashed"),
                (new, NEW_COLOUR, "solid"),
            ):
                if one is not None and one.mask[view].any():
                    axis.contour(
                        one.mask[view].astype(float), levels=[0.5], colors=[colour],
                        linewidths=1.1, linestyles=[style],
                    )  # fmt: skip
            if line == 0:
                axis.text(
                    0.02, 0.98, name, transform=axis.transAxes, va="top", fontsize=7.5,
                    color="white",
                )  # fmt: skip
        if word is not None:
            places = [("new" if moved else "its", 1, found.chance[1])]
            if moved:
                places.insert(0, ("old", 0, found.chance[0]))
            shares = [
                f"{found.inside[1][word, which]:.0%} in {name} place (even: {even:.0%})"
                for name, which, even in places
                if np.isfinite(even)
            ]
            under = f"“{state.words[word]}”: " + ", ".join(shares or ["no place to look at"])
        else:
            under = "the report has no word for it"
        write(0.15, top + tall + 0.04, under, fontsize=7, color="0.25")

        left = 0.15 + views * (wide + 0.08) + 0.12
        own, rest = _excerpt(state, said, 64)
        polarity = said.polarity
        colour = COLOURS.get(polarity, "0.35")
        sign = SIGNS.get(polarity, "")
        write(left, top, f"{found.title}: {said.told} {sign}".rstrip(), color=colour,
              fontweight="bold")  # fmt: skip
        at = top + 0.22
        if own:
            write(left, at, "\n".join(own), color=colour, fontsize=8.5)
            at += 0.165 * len(own) + 0.08
        told = textwrap.wrap(found.sentence if place else "As the corpus has the patient.", 92)[:2]
        if found.roads is not None:
            told.append(
                f"Had only the tags changed: {found.roads[0].told}. "
                f"Only the patches: {found.roads[1].told}."
            )
        room = max(1, int((top + tall - 0.13 * len(told) - 0.1 - at) / 0.125))
        if len(rest) > room:
            rest = [*rest[:room], "…"]
        write(left, at, "\n".join(rest), color="0.45", fontsize=7)
        write(left, top + tall - 0.145 * len(told) - 0.02, "\n".join(told), fontsize=7.5)
        _draw_tag(
            axis_at(left + text_wide + 0.35, top + 0.35 * tall, bar_wide - 0.35, 0.34 * tall),
            found, data.called_at, drawn=state.drawn(found.kind), heading=line == 0,
        )  # fmt: skip
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), colours),
        cax=axis_at(across - 0.55, head + 0.26, 0.09, tall),
    )
    bar.ax.tick_params(labelsize=6)
    bar.set_label("of the word's strongest patch", fontsize=6)
    handles = [
        Line2D([], [], color=OLD_COLOUR, linestyle="dashed", label="where it was at first"),
        Line2D([], [], color=NEW_COLOUR, label="where it is drawn in this row"),
    ]
    figure.legend(
        handles=handles, loc="lower left", ncols=2, fontsize=7, frameon=False, borderaxespad=0.2
    )
    if data.synthetic:
        write(across - 0.08, down - 0.18, "synthetic phantom images", ha="right", fontsize=7,
              color="0.4")  # fmt: skip
    plt.close(figure)  # the caller's alone: a notebook would show it a second time
    return figure


def _draw_tag(axis: Any, found: Follow, called_at: float, *, drawn: bool, heading: bool) -> None:
    """The finding's tag in this state, with the line from which it says yes."""
    should = "drawn: yes" if drawn else "drawn: no"
    if found.tags is None:
        axis.set_axis_off()
        axis.text(0, 0.5, f"{should}\nno tag of it", va="center", fontsize=7.5)
        return
    value, told = found.tags[1]
    axis.barh([0], [value], color="#1f3a5f" if value >= called_at else "#9fb3cc", height=0.6)
    axis.axvline(called_at, color="#b34700", linewidth=1, linestyle="dotted")
    axis.set_xlim(0, 1)
    axis.set_ylim(-0.8, 0.8)
    axis.set_yticks([])
    axis.set_xticks([0, called_at, 1], ["0", f"{called_at:g}", "1"], fontsize=6.5)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.set_title(
        ("tag probability\n" if heading else "") + f"{value:.2f}, told as {told:.2f}; {should}",
        fontsize=7.5, loc="left",
    )  # fmt: skip
