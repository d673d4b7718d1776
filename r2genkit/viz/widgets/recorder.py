"""The memory recorder: what R2Gen's relational memory does while a report is written.

One :class:`RecorderData` feeds a page (:func:`recorder_html`), a live widget
(:func:`recorder_widget`) and a matplotlib figure (:func:`recorder_figure`). Row r belongs to a word
that is *read*, the begin mark first; what the memory holds then serves the word that is written
next.

A memory that gave every word the same gain and bias would be a constant of the layer norms. So what
it changes is split into the mean over the report and the rest, and beside the report stands the one
that the model writes when only that mean is left.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from r2genkit.errors import KitError
from r2genkit.viz.widgets.host import FrontEnd, live, page_html
from r2genkit.viz.widgets.microscope import BEGIN, changed_share, changes
from r2genkit.viz.widgets.parts import SYNTHETIC_NOTE, FindingMark, marks_payload
from r2genkit.viz.widgets.recorder_front import BODY, STYLE

FRONT = FrontEnd("recorder", BODY, STYLE)
_SLOTS = ("#1f6fb2", "#d1690e", "#3f8f4f", "#7b52ab", "#8c6d1f", "#b0305c")
_MARKS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Constant:
    """What is written when each layer norm gets the report's mean change at every word.

    Attributes:
        words: of that report.
        findings: what they name.
        probability: ``[T]``, probability of each word of the report as it was written, after the
            words before it.
    """

    words: tuple[str, ...]
    findings: tuple[FindingMark, ...]
    probability: np.ndarray


@dataclass(frozen=True)
class RecorderData:
    """The course of a relational memory over one report.

    Attributes:
        title: heading.
        system: who wrote the report.
        words: T words.
        memory: ``[T + 1, s, D]``, after each word was read.
        gates: "input" and "forget", ``[T + 1, s, D]`` in [0, 1].
        course: by name ``[T + 1, s]``: "length" of a slot, and "change", how far a word has moved
            it as a multiple of that length.
        cosine: ``[T + 1, s (s - 1) / 2]`` between slots.
        probability: ``[T]`` of each word as it was written.
        sublayers: names of the layer norms that the memory sets, in order.
        moving: by "gain" and "bias" ``[T + 1, n]``: root mean square of what the word at hand adds
            beyond the mean over the report.
        constant: by the same names ``[n]``: root mean square of that mean.
        held: what is written with the mean alone; None where the memory sets no norms.
        findings: what the words name.
        synthetic: whether the model was trained on rendered images.
        notes: further sentences below the title.

    Raises:
        KitError: parts that do not belong together.
    """

    title: str
    system: str
    words: tuple[str, ...]
    memory: np.ndarray
    gates: Mapping[str, np.ndarray]
    course: Mapping[str, np.ndarray]
    cosine: np.ndarray
    probability: np.ndarray
    sublayers: tuple[str, ...] = ()
    moving: Mapping[str, np.ndarray] = field(default_factory=dict)
    constant: Mapping[str, np.ndarray] = field(default_factory=dict)
    held: Constant | None = None
    findings: tuple[FindingMark, ...] = ()
    synthetic: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.words:
            raise KitError("the report is empty: there is no word that the memory reads.")
        rows, count = len(self.words) + 1, len(self.sublayers)
        shape = np.shape(self.memory)
        if len(shape) != 3 or shape[0] != rows:
            raise KitError(
                f"memory is {list(shape)}; expected [{rows}, slots, size]: the begin mark and "
                f"{len(self.words)} words."
            )
        slots = shape[1]
        wanted: list[tuple[str, Any, tuple[int, ...]]] = [
            ("cosine", self.cosine, (rows, slots * (slots - 1) // 2)),
            ("probability", self.probability, (rows - 1,)),
        ]
        for name in ("input", "forget"):
            wanted.append((f"gate {name!r}", self.gates.get(name), shape))
        for name in ("change", "length"):
            wanted.append((f"course {name!r}", self.course.get(name), (rows, slots)))
        for name in ("gain", "bias") if count else ():
            wanted.append((f"moving {name!r}", self.moving.get(name), (rows, count)))
            wanted.append((f"constant {name!r}", self.constant.get(name), (count,)))
        if self.held is not None:
            wanted.append(("probability without", self.held.probability, (rows - 1,)))
        for name, values, expected in wanted:
            if np.shape(values) != expected or not np.all(np.isfinite(values)):
                raise KitError(
                    f"{name} is {list(np.shape(values))}; expected {list(expected)} without gaps."
                )

    @property
    def readers(self) -> tuple[str, ...]:
        """The begin mark and the words, in the order in which the memory reads them."""
        return (BEGIN, *self.words)


def spread(gate: np.ndarray) -> np.ndarray:
    """Mean, 10th and 90th percentile over the D numbers of a gate ``[T, s, D]``: ``[T, s, 3]``."""
    values = np.asarray(gate, dtype=np.float64)
    low, high = np.percentile(values, (10, 90), axis=-1)
    return np.stack([values.mean(-1), low, high], axis=-1)


def sentences(data: RecorderData) -> list[str]:
    """What the numbers say, each sentence with its numbers in it."""
    told = []
    slots = data.memory.shape[1]
    if data.cosine.shape[1]:
        low, high = float(data.cosine.min()), float(data.cosine.max())
        alike = " they hold nearly the same vector" if low > 0.9 else ""
        told.append(
            f"Cosine between its {slots} slots over the report: {low:.2f} to {high:.2f}"
            + (f";{alike}." if alike else ".")
        )
    means = {name: float(np.mean(gate)) for name, gate in data.gates.items()}
    # The first words fill a memory that starts empty of text; later ones show what it does then.
    later = data.course["change"][len(data.course["change"]) // 2 :]
    told.append(
        f"Mean gates: input {means['input']:.2f}, forget {means['forget']:.2f} (1 keeps all); in "
        f"the second half of the report a word moves a slot by {later.mean():.2f} of its length."
    )
    for name in data.constant:
        whole = float(np.sqrt(np.mean(np.square(data.constant[name]))))
        single = float(np.sqrt(np.mean(np.square(data.moving[name]))))
        told.append(
            f"Change to the {name} of the layer norms: {whole:.3f} is the same for every word, "
            f"{single:.3f} belongs to the word at hand (root mean squares)."
        )
    if data.held is not None:
        share = changed_share(data.words, data.held.words)
        told.append(
            f"With the first part alone, constants that the model has not been trained with, "
            f"{share:.0%} of the words change; the mean probability of the words as written goes "
            f"from {np.mean(data.probability):.3f} to {np.mean(data.held.probability):.3f}."
        )
    return told


# --- payload, page, widget ------------------------------------------------------------------------


def _row(name: str, values: np.ndarray, digits: int = 3) -> dict[str, Any]:
    return {"name": name, "values": np.round(np.asarray(values, float), digits).tolist()}


def payload(data: RecorderData) -> dict[str, Any]:
    """What the front end draws from, as plain JSON content.

    Groups of rows share a scale; each row has a number per word that was read. A probability stands
    at the word that was read before the word that it is about.
    """
    slots = range(data.memory.shape[1])
    spreads = {name: spread(gate) for name, gate in data.gates.items()}
    groups = [
        {
            "name": title,
            "about": about,
            "low": low,
            "high": high,
            "rows": [_row(f"slot {slot + 1}", values[:, slot]) for slot in slots],
        }
        for title, about, values, low, high in (
            ("input gate", "1: takes all that is new", spreads["input"][..., 0], 0.0, 1.0),
            ("forget gate", "1: keeps all that was there", spreads["forget"][..., 0], 0.0, 1.0),
            (
                "change",
                "by how much of its length a slot has moved",
                data.course["change"],
                0.0,
                None,
            ),
            ("length", "of a slot", data.course["length"], 0.0, None),
        )
    ]
    for name in data.moving:
        rows = [_row(place, data.moving[name][:, i], 4) for i, place in enumerate(data.sublayers)]
        about = "what the word adds to the mean over the report, root mean square"
        groups.append(
            {"name": f"layer-norm {name}", "about": about, "low": 0.0, "high": None, "rows": rows}
        )
    said = [_row("with the memory", [*data.probability, 0])]
    if data.held is not None:
        said.append(_row("with constants", [*data.held.probability, 0]))
    for row in said:
        row["values"][-1] = None  # nothing is written after the last word
    groups.append(
        {
            "name": "probability of the next word",
            "about": "of the report as it was written",
            "low": 0.0,
            "high": 1.0,
            "rows": said,
        }
    )
    for group in groups:
        if group["high"] is None:
            group["high"] = max(max(row["values"]) for row in group["rows"]) or 1.0
    top = max(float(np.abs(data.memory).max()), 1e-9)
    bars = (np.rint(127 * np.asarray(data.memory, float) / top) + 128).astype(np.uint8)
    held = None
    if data.held is not None:
        old, new = changes(data.words, data.held.words)
        held = {
            "words": list(data.held.words),
            "findings": marks_payload(data.held.findings),
            "old_changed": old,
            "new_changed": new,
            "changed": changed_share(data.words, data.held.words),
        }
    return {
        "title": data.title,
        "synthetic": SYNTHETIC_NOTE if data.synthetic else "",
        "notes": list(data.notes),
        "system": data.system,
        "readers": list(data.readers),
        "words": list(data.words),
        "findings": marks_payload(data.findings),
        "sentences": sentences(data),
        "groups": groups,
        "spreads": {name: np.round(values, 3).tolist() for name, values in spreads.items()},
        "slots": len(slots),
        "size": data.memory.shape[2],
        "top": top,
        "memory": base64.b64encode(bars.tobytes()).decode("ascii"),
        "sublayers": list(data.sublayers),
        "constant": {
            n: np.round(np.asarray(v, float), 4).tolist() for n, v in data.constant.items()
        },
        "moving": {n: np.round(np.asarray(v, float), 4).tolist() for n, v in data.moving.items()},
        "held": held,
    }


def recorder_html(data: RecorderData) -> str:
    """One page with everything inside (:func:`~.host.page_html`)."""
    texts = [(data.system, " ".join(data.words))]
    return page_html(FRONT, payload(data), title=data.title, texts=texts)


def recorder_widget(data: RecorderData) -> Any:
    """The recorder as a live widget for notebooks, with the same front end as the page.

    Its trait ``told`` holds the pinned word: ``{"word": row}``, 0 for the begin mark,
    None for none.

    Raises:
        KitError: ``anywidget`` is not installed.
    """
    return live(FRONT, payload(data))


# --- static twin ----------------------------------------------------------------------------------


def recorder_figure(data: RecorderData) -> Figure:
    """The recorder without a browser.

    From above: length and change of the slots; gates with the range of 80 % of their numbers; what
    is the same for all words and what belongs to the single one in every layer norm; probability of
    each word with the memory and with constants in its place.

    Args:
        data: as for the page.
    """
    rows = np.arange(len(data.readers))
    heights = [1.7, 1.9, *([1.9] if data.sublayers else []), 1.9]
    width = max(9.0, 0.19 * len(rows) + 2.5)
    figure, axes = plt.subplots(
        len(heights), 1, figsize=(width, sum(heights) + 1.2), height_ratios=heights,
        layout="constrained", sharex=True,
    )  # fmt: skip
    top, middle, *between, last = axes
    for slot in range(data.memory.shape[1]):
        style = {"color": _SLOTS[slot % 6], "marker": _MARKS[slot % 6], "ms": 2.5, "lw": 1}
        top.plot(rows, data.course["change"][:, slot], label=f"slot {slot + 1}", **style)
    for name, colour, dashes in (("input", _SLOTS[0], "-"), ("forget", _SLOTS[1], "--")):
        values = spread(data.gates[name])  # [T + 1, s, 3]
        middle.plot(rows, values[:, 0, 0], ls=dashes, color=colour, lw=1.2, label=f"{name}, slots")
        middle.plot(rows, values[:, 1:, 0], ls=dashes, color=colour, lw=1.2)
        middle.fill_between(rows, values[..., 1].min(1), values[..., 2].max(1), color=colour,
                            alpha=0.12, lw=0, label=f"{name}, 80 % of the numbers")  # fmt: skip
    top.set_title("How far a word moves a slot, as a multiple of the slot's length", fontsize=9,
                  loc="left")  # fmt: skip
    middle.set_title("Gates: mean over the numbers of each slot", fontsize=9, loc="left")
    middle.set_ylim(0, 1)
    for axis in between:
        for place, name in enumerate(data.sublayers):
            colour, mark = _SLOTS[place % 6], _MARKS[place % 6]
            axis.plot(rows, data.moving["gain"][:, place], color=colour, marker=mark, ms=2.5, lw=1,
                      label=f"{name}: the word")  # fmt: skip
            axis.axhline(data.constant["gain"][place], color=colour, ls="--", lw=1,
                         label=f"{name}: all words")  # fmt: skip
        axis.set_ylim(bottom=0)
        axis.set_title("Change to the gain of the layer norms, root mean square", fontsize=9,
                       loc="left")  # fmt: skip
    last.plot(rows[1:], data.probability, "o", ms=3.5, color="#1b1b1b", label="with the memory")
    if data.held is not None:
        last.plot(rows[1:], data.held.probability, "_", ms=8, mew=2, color="#d1690e",
                  label="with constants")  # fmt: skip
    last.set_ylim(0, 1.03)
    last.set_title("Probability of each word of the report when it was written", fontsize=9,
                   loc="left")  # fmt: skip
    labels = [word.replace("$", r"\$") for word in data.readers]
    last.set_xticks(rows, labels, rotation=90, fontsize=7)
    last.set_xlim(-0.6, len(rows) - 0.4)
    for axis in axes:
        axis.tick_params(axis="y", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=6.5, ncols=1, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    top.set_ylim(bottom=0)
    title = f"{data.title}: word read (below), what the memory does then"
    figure.suptitle(title.replace("$", r"\$"), fontsize=10, x=0.01, ha="left")
    if data.synthetic:
        figure.text(0.995, 0.002, "synthetic phantom images", ha="right", fontsize=7, color="0.4")
    plt.close(figure)  # the caller's alone: a notebook would show it a second time
    return figure
