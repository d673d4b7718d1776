"""What several interactive figures show: images, maps over patches, outlines, findings in a report.

Everything here turns numbers into plain JSON content for the helpers of ``front.py``.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from r2genkit.errors import KitError

if TYPE_CHECKING:  # its module loads the whole of the metrics
    from r2genkit.metrics.findings import FindingLabeler

STEPS = 255
"""Maps travel in bytes: a value is off by at most ``0.5 / STEPS`` of the word's strongest patch."""

SYNTHETIC_NOTE = (
    "The images are synthetic: phantom radiographs rendered by the kit. Nothing here says "
    "anything about a real patient."
)
OPACITY = 0.65
# As in ``viz.findings``, which brings the labeler and with it all metrics.
SIGNS = {"positive": "+", "negative": "\N{MINUS SIGN}", "uncertain": "?"}
COLOURS = {"positive": "#b34700", "negative": "#0b63a0", "uncertain": "#8a6500"}
"""Text colours of polarities; those of the front ends."""
OUTLINES = ("#ff7f6b", "#17d6d3", "#ffd23f", "#9be564", "#cbb2ff", "#ff9fc4")
_HEAD = re.compile(r"layer (\d+) head (\d+)")


@dataclass(frozen=True)
class FindingMark:
    """A finding that words of a report name.

    Attributes:
        first, end: first and one-past-last word.
        title: plain name of the finding.
        polarity: "positive", "negative" or "uncertain".
        trigger: words that deny or doubt it.
    """

    first: int
    end: int
    title: str
    polarity: str
    trigger: tuple[int, ...] = ()


def check_views(
    views: Sequence[np.ndarray], names: Sequence[str] | None = None, of: str = ""
) -> None:
    """Grey images with a name each.

    Args:
        views: at least one, uint8 ``[H, W]``.
        names: their names, if they have any.
        of: what they belong to, for the sentence: "study CXR1".

    Raises:
        KitError: other arrays, or another number of names.
    """
    for number, view in enumerate(views, 1):
        if not isinstance(view, np.ndarray) or view.ndim != 2 or view.dtype != np.uint8:
            told = f"view {number}{f' of {of}' if of else ''}"
            raise KitError(f"{told} is no grey image: expected uint8 [H, W].")
    if not views or (names is not None and len(names) != len(views)):
        told = f"{len(names or ())} names for {len(views)} views"
        raise KitError(f"{f'{of} has ' if of else ''}{told}: give at least one view, named.")


def check_masks(masks: Mapping[str, np.ndarray], views: Sequence[np.ndarray]) -> None:
    """Masks bool ``[V, H, W]`` that cover the views.

    Raises:
        KitError: a mask of another shape.
    """
    shapes = [view.shape for view in views]
    for name, mask in masks.items():
        if len(mask) != len(views) or [np.shape(one) for one in mask] != shapes:
            raise KitError(
                f"mask {name!r} {list(np.shape(mask))} does not cover the views "
                f"{[list(shape) for shape in shapes]}."
            )


def check_marks(marks: Sequence[FindingMark], words: Sequence[str], of: str = "the report") -> None:
    """Findings that lie within the words.

    Raises:
        KitError: one that does not, or an unknown polarity.
    """
    for mark in marks:
        if not 0 <= mark.first < mark.end <= len(words) or mark.polarity not in SIGNS:
            raise KitError(
                f"finding {mark.title!r} ({mark.polarity}) at words {mark.first} to {mark.end} "
                f"does not fit the {len(words)} words of {of}."
            )


def normalised(values: np.ndarray) -> np.ndarray:
    """Each word's map divided by its largest value over all views.

    Args:
        values: ``[T, V, h, w]``, none negative.

    Returns:
        float32 ``[T, V, h, w]`` in [0, 1]; a word whose map is all zero stays so.

    Raises:
        KitError: negative or missing values.
    """
    values = np.asarray(values, dtype=np.float32)
    if not np.all(values >= 0):  # false for NaN, too
        raise KitError("a map holds negative or missing values: only strengths from 0 up show.")
    top = values.reshape(len(values), -1).max(1, initial=0)
    return values / np.where(top > 0, top, 1)[:, None, None, None]


def peaks(values: np.ndarray) -> np.ndarray:
    """How far the strongest patch of each word stands out, as a multiple of the mean patch ``[T]``.

    1 = even: the model looks everywhere alike. 0 for a word without any map.
    """
    flat = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    mean = flat.mean(1)
    return np.divide(flat.max(1), mean, out=np.zeros_like(mean), where=mean > 0)


def fading(peak: np.ndarray) -> np.ndarray:
    """How much of a map is drawn: none of an even look (peak 1), all from a peak of 2 on.

    A look that is spread evenly names no place, and its map, divided by its own maximum, would
    shine everywhere.
    """
    return np.clip(np.asarray(peak) - 1, 0, 1)


def shares(values: np.ndarray) -> np.ndarray:
    """Share of each view in a word's map ``[T, V]``; 0 for a word without any map."""
    each = np.asarray(values, dtype=np.float64).sum((2, 3))
    total = each.sum(1, keepdims=True)
    return np.divide(each, total, out=np.zeros_like(each), where=total > 0)


def mark_findings(
    words: Sequence[str], labeler: FindingLabeler | None = None
) -> tuple[FindingMark, ...]:
    """What the words of a report name, as the kit's labeler reads it.

    Args:
        words: of a cleaned report (lower case, full stops apart), as decoding gives them.
        labeler: other rules than the kit's.
    """
    # Imported here: the labeler brings all metrics with it, which a finished page does not need.
    from r2genkit.metrics.findings import default_labeler
    from r2genkit.metrics.findings.labeler import outermost

    labeler = labeler or default_labeler()
    marks: list[FindingMark] = []
    sentence: list[int] = []  # word of each piece; the labeler opens hyphens
    pieces: list[str] = []
    for place, word in enumerate([*words, "."]):
        if word != ".":
            opened = word.replace("-", " ").split()
            pieces += opened
            sentence += [place] * len(opened)
            continue
        for mention in outermost(labeler.mentions_of_sentence(" ".join(pieces))):
            first, end = mention.span
            trigger = sorted({sentence[piece] for piece in mention.trigger_words()})
            marks.append(
                FindingMark(
                    sentence[first],
                    sentence[end - 1] + 1,
                    labeler.titles[mention.finding],
                    mention.polarity,
                    tuple(trigger),
                )
            )
        sentence, pieces = [], []
    return tuple(marks)


def quantised(values: np.ndarray) -> np.ndarray:
    """Maps in [0, 1] as uint8, rounded to the nearest of ``STEPS`` + 1 levels."""
    return np.rint(np.asarray(values, dtype=np.float64) * STEPS).astype(np.uint8)


def outline(mask: np.ndarray) -> str:
    """The edges of a bool mask ``[H, W]`` as the path of an SVG, in pixels."""
    padded = np.pad(np.asarray(mask, dtype=bool), 1)
    across = padded[1:, 1:-1] != padded[:-1, 1:-1]  # [H + 1, W]: edges above each row
    down = (padded[1:-1, 1:] != padded[1:-1, :-1]).T  # [W + 1, H]: edges left of each column
    parts = [f"M{start} {y}h{length}" for y, start, length in _runs(across)]
    parts += [f"M{x} {start}v{length}" for x, start, length in _runs(down)]
    return "".join(parts)


def _runs(edges: np.ndarray) -> list[tuple[int, int, int]]:
    """(row, start, length) of each run of True in a row."""
    change = np.diff(np.pad(edges.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(change == 1)
    _, ends = np.nonzero(change == -1)
    return list(zip(rows.tolist(), starts.tolist(), (ends - starts).tolist()))


def top_of(mask: np.ndarray) -> list[int]:
    """A highest point (x, y) of a mask; [0, 0] of an empty one."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return [0, 0]
    return [int(np.median(columns[rows == rows[0]])), int(rows[0])]


def png(pixels: np.ndarray) -> str:
    """A grey uint8 ``[H, W]`` or coloured ``[H, W, 3]`` image as a data URL."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def map_payload(
    name: str, values: np.ndarray, *, about: str = "", number: str = ""
) -> dict[str, Any]:
    """A map ``[T, V, h, w]`` in [0, 1] as the front end's ``paint`` reads it.

    Args:
        name: heading; names of the form "layer 2 head 3" say their place in a grid of heads.
        values: 1 is the strongest patch of a word (:func:`normalised`).
        about: what the map is, one sentence.
        number: a measured figure about it, one sentence.
    """
    values = np.asarray(values)
    head = _HEAD.fullmatch(name)
    return {
        "name": name,
        "about": about,
        "number": number,
        "head": [int(place) for place in head.groups()] if head else None,
        "views": values.shape[1],
        "grid": list(values.shape[2:]),
        "bytes": base64.b64encode(quantised(values).tobytes()).decode("ascii"),
        # Of the maps before rounding; each number as the page prints it, and a digit more.
        "peaks": [round(float(peak), 3) for peak in peaks(values)],
        "shares": [[round(float(share), 4) for share in row] for row in shares(values)],
    }


def views_payload(views: Sequence[np.ndarray], names: Sequence[str]) -> list[dict[str, Any]]:
    """Grey images uint8 ``[H, W]`` with their names, as the front end's ``filmsOf`` reads them."""
    return [
        {"name": name, "image": png(view), "height": view.shape[0], "width": view.shape[1]}
        for name, view in zip(names, views)
    ]


def masks_payload(masks: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Masks bool ``[V, H, W]`` by name as outlines, for the front end's ``drawOutlines``."""
    return [
        {
            "name": name,
            "colour": OUTLINES[place % len(OUTLINES)],
            "paths": [outline(one) for one in mask],
            "tops": [top_of(one) for one in mask],
        }
        for place, (name, mask) in enumerate(masks.items())
    ]


def marks_payload(marks: Sequence[FindingMark]) -> list[dict[str, Any]]:
    """Findings of a report, for the front end's ``wordSpans`` and ``reportText``."""
    return [asdict(mark) | {"trigger": list(mark.trigger)} for mark in marks]
