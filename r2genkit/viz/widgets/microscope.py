"""The memory microscope: which rows of a shared memory a word reads, and which patches read them.

R2GenCMN's words and patches read one trained matrix. One :class:`MicroscopeData` feeds a page
(:func:`microscope_html`), a live widget (:func:`microscope_widget`) and a matplotlib figure
(:func:`microscope_figure`); with a kernel the widget also takes slots away and writes again.

Every share of reading that a word and a patch have in common stands beside two others: what it
would be if the slots were shuffled among those that are read at all, and what the same word shares
with the *same place of other studies*. Only what exceeds the second speaks of this study.
"""

from __future__ import annotations

import base64
import difflib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from r2genkit.errors import KitError
from r2genkit.viz.widgets.host import FrontEnd, live, page_html
from r2genkit.viz.widgets.microscope_front import BODY, STYLE
from r2genkit.viz.widgets.parts import (
    OUTLINES,
    STEPS,
    SYNTHETIC_NOTE,
    FindingMark,
    check_marks,
    check_masks,
    check_views,
    marks_payload,
    masks_payload,
    quantised,
    views_payload,
)

FRONT = FrontEnd("microscope", BODY, STYLE)

BEGIN = "(begin)"
RARE = 0.05
"""A patch stands out if less than this share of other studies' patches in its place do as much."""
COVERED = 0.1
"""Share of a patch that a mask covers before the patch counts as showing the finding."""
CROP = 60  # pixels a side of a patch with its neighbours
PATCH, WORD, BOTH = "#1f6fb2", "#d1690e", "#1b1b1b"


# --- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Readings:
    """What readers took from the memory.

    Attributes:
        slots: ``[..., h, k]`` int, rows of the memory.
        weights: ``[..., h, k]`` float32; the k of a head sum to 1.

    Raises:
        KitError: other shapes, or weights that do not sum to 1.
    """

    slots: np.ndarray
    weights: np.ndarray

    def __post_init__(self) -> None:
        slots, weights = np.asarray(self.slots), np.asarray(self.weights, dtype=np.float32)
        if (
            slots.shape != weights.shape
            or slots.ndim < 2
            or not np.issubdtype(slots.dtype, np.integer)
        ):
            raise KitError(
                f"slots {list(slots.shape)} ({slots.dtype}) and weights {list(weights.shape)} of "
                "readings must both be [..., heads, k], slots as integers."
            )
        if not np.allclose(weights.sum(-1), 1, atol=1e-3) or not np.all(weights >= 0):
            raise KitError("the weights of a reading must be at least 0 and sum to 1 in each head.")
        object.__setattr__(self, "slots", slots)
        object.__setattr__(self, "weights", weights)

    def dense(self, count: int) -> np.ndarray:
        """Weight on each of ``count`` slots, ``[..., h, count]`` float32."""
        flat = np.zeros((self.slots[..., 0].size, count), dtype=np.float32)
        rows = np.arange(len(flat))[:, None]
        np.add.at(flat, (rows, self.slots.reshape(len(flat), -1)),
                  self.weights.reshape(len(flat), -1))  # fmt: skip
        return flat.reshape(*self.slots.shape[:-1], count)


@dataclass(frozen=True)
class Crop:
    """A patch of a training image, with its eight neighbours.

    Attributes:
        key: names the patch; equal keys are stored once.
        pixels: uint8 ``[H, W]``; the patch is the middle third.
        caption: study, and what the patch shows.
        covered: whether a finding covers the patch.
    """

    key: str
    pixels: np.ndarray
    caption: str
    covered: bool = False


@dataclass(frozen=True)
class SlotCard:
    """One slot in one head, as its readers in the training set show it.

    Attributes:
        words: (word, lift over its base rate), best first.
        crops: (patch, weight that it gives to the slot), best first.
    """

    words: tuple[tuple[str, float], ...] = ()
    crops: tuple[tuple[Crop, float], ...] = ()


@dataclass(frozen=True)
class SlotUse:
    """How the memory was read over the training set.

    Attributes:
        patches, words: share of that side's reading per head and slot ``[h, M]``; 0: never read.
        studies: how many were read.
        cards: by (head, slot).

    Raises:
        KitError: shapes that do not belong together, or a card of a slot that is not there.
    """

    patches: np.ndarray
    words: np.ndarray
    studies: int
    cards: Mapping[tuple[int, int], SlotCard] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("patches", "words"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.float64))
        if self.patches.ndim != 2 or self.patches.shape != self.words.shape:
            raise KitError(
                f"shares of patches {list(self.patches.shape)} and of words "
                f"{list(self.words.shape)} must both be [heads, slots]."
            )
        heads, count = self.patches.shape
        for head, slot in self.cards:
            if not (0 <= head < heads and 0 <= slot < count):
                raise KitError(
                    f"there is a card of head {head}, slot {slot}, and the memory has {heads} "
                    f"heads and {count} slots, counted from 0."
                )

    @property
    def read(self) -> np.ndarray:
        """Whether anything reads the slot in a head, ``[h, M]``."""
        return (self.patches > 0) | (self.words > 0)

    @property
    def dead(self) -> np.ndarray:
        """Slots that nothing reads in any head, ``[M]``."""
        return ~self.read.any(0)

    @property
    def order(self) -> np.ndarray:
        """Slots by their reading over both sides and all heads, most read first, ``[M]``."""
        return np.argsort(-(self.patches + self.words).sum(0), kind="stable")


@dataclass(frozen=True)
class Rewriting:
    """A report that was written while slots were missing.

    Attributes:
        about: which slots, in words.
        slots: they.
        words: of the report.
        findings: what its words name.
        held: share of this study's reading that the slots held: of its patches, of its words.
        probability: mean probability that the model without them gives to the words of the report
            that it wrote with them.
    """

    about: str
    slots: tuple[int, ...]
    words: tuple[str, ...]
    findings: tuple[FindingMark, ...]
    held: tuple[float, float]
    probability: float


@dataclass(frozen=True)
class Trial:
    """Slots taken away, and as many others for comparison.

    Attributes:
        rewriting: without the slots that were asked for.
        others: without as many others each.
        note: why there are no others, if there are none.
    """

    rewriting: Rewriting
    others: tuple[Rewriting, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class MicroscopeData:
    """One study under the microscope.

    Attributes:
        title: heading.
        system: who wrote the report.
        views: V grey images, uint8 ``[H, W]``.
        view_names: V names.
        grid: (rows, columns) of the patches of a view; S in all.
        words: T words of the report.
        word_reads: ``[T + 1, h, k]``: the begin mark, then what each word reads.
        patch_reads: ``[V, S, h, k]``.
        use: of the training set.
        elsewhere: ``[T + 1, h + 1, V, S]``: mean over other studies of what the word shares with
            the patch in the same place; first the mean of the heads, then each head.
        reached: ``[T + 1, h + 1, V, S]``: share of those patches that share at least as much with
            the word as the patch of this study.
        usual: ``[T + 1, h + 1, 2]``: how many patches stand out (``reached`` below ``RARE``), at
            least and at most, in 19 of 20 of the other studies.
        other_studies: how many they are.
        findings: what the words name.
        masks: bool ``[V, H, W]`` by finding: where the phantom drew what.
        probability: mean probability of the report's words, as written.
        trials: slots that were taken away beforehand.
        synthetic: whether the images are rendered.
        notes: further sentences below the title.

    Raises:
        KitError: parts that do not belong together.
    """

    title: str
    system: str
    views: tuple[np.ndarray, ...]
    view_names: tuple[str, ...]
    grid: tuple[int, int]
    words: tuple[str, ...]
    word_reads: Readings
    patch_reads: Readings
    use: SlotUse
    elsewhere: np.ndarray
    reached: np.ndarray
    usual: np.ndarray
    other_studies: int
    findings: tuple[FindingMark, ...] = ()
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    probability: float = float("nan")
    trials: tuple[Trial, ...] = ()
    synthetic: bool = False
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count, (rows, columns) = len(self.views), self.grid
        check_views(self.views, self.view_names)
        if not self.words:
            raise KitError("the report is empty: there is no word that reads the memory.")
        heads, slots = self.use.patches.shape
        read = self.word_reads.slots.shape
        if read[:-1] != (len(self.words) + 1, heads):
            raise KitError(
                f"words read {list(read)}; expected [{len(self.words) + 1}, {heads}, k]: the begin "
                f"mark and {len(self.words)} words, {heads} heads."
            )
        seen = self.patch_reads.slots.shape
        if seen != (count, rows * columns, *read[1:]):
            raise KitError(
                f"patches read {list(seen)}; expected "
                f"{[count, rows * columns, *read[1:]]}: views, patches, heads and slots read."
            )
        for readings in (self.word_reads, self.patch_reads):
            if readings.slots.min() < 0 or readings.slots.max() >= slots:
                raise KitError(f"a slot is read that the memory's {slots} slots do not have.")
        shape = (len(self.words) + 1, heads + 1, count, rows * columns)
        for name in ("elsewhere", "reached"):
            values = np.asarray(getattr(self, name))
            if values.shape != shape or not np.all((values >= 0) & (values <= 1 + 1e-6)):
                raise KitError(
                    f"{name} is {list(values.shape)}; expected {list(shape)} with values in 0 to 1."
                )
        if np.shape(self.usual) != (*shape[:2], 2):
            raise KitError(
                f"usual is {list(np.shape(self.usual))}; expected {[*shape[:2], 2]}: two bounds."
            )
        check_masks(self.masks, self.views)
        check_marks(self.findings, self.words)

    @property
    def readers(self) -> tuple[str, ...]:
        """The begin mark and the words: what reads, in the order of ``word_reads``."""
        return (BEGIN, *self.words)


# --- numbers --------------------------------------------------------------------------------------


def with_mean(values: np.ndarray) -> np.ndarray:
    """``[T, h, ...]`` with the mean over heads in front, ``[T, h + 1, ...]``."""
    return np.concatenate([values.mean(1, keepdims=True), values], axis=1)


def shared(words: Readings, patches: Readings, count: int) -> np.ndarray:
    """Share of reading that each word has in common with each patch, ``[T, h + 1, V, S]``.

    ``sum_i min(p_i, q_i)`` over the slots of a head (``experiments.slots.overlap``); first the mean
    of the heads, then each head.

    Args:
        words: ``[T, h, k]``; patches: ``[V, S, h, k]``.
        count: slots of the memory.
    """
    read = words.dense(count)  # [T, h, M]
    heads = read.shape[1]
    found = np.zeros((*read.shape[:2], *patches.slots.shape[:2]), dtype=np.float32)
    for head in range(heads):
        at = patches.slots[..., head, :]  # [V, S, k]: only these slots can be shared
        weights = patches.weights[..., head, :]
        found[:, head] = np.minimum(read[:, head][:, at], weights[None]).sum(-1)
    return with_mean(found)


def shuffled(words: Readings, patches: Readings, use: SlotUse) -> np.ndarray:
    """What :func:`shared` is on average if the word's slots are shuffled, ``[T, h + 1, V, S]``.

    Among the slots that somebody reads in that head over the training set: each of them gets each
    weight equally often, so the mean is ``sum_ij min(p_i, q_j) / L`` with L such slots.
    """
    live = np.maximum(use.read.sum(1), words.slots.shape[-1])  # [h]
    found = np.minimum(
        words.weights[:, :, None, None, :, None],
        np.moveaxis(patches.weights, 2, 0)[None, :, :, :, None, :],
    ).sum((-1, -2))  # [T, h, V, S]
    return with_mean(found / live[None, :, None, None])


def covered(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Patches that show what a mask covers, bool ``[V, S]``.

    The mask covers at least ``COVERED`` of the patch, or no patch of the view holds more of it.

    Args:
        mask: bool ``[V, H, W]``.
        grid: (rows, columns) of the patches.
    """
    rows, columns = grid
    found = []
    for view in mask:
        height, width = np.shape(view)
        down = np.arange(height) * rows // height
        right = np.arange(width) * columns // width
        total = np.zeros((rows, columns))
        np.add.at(total, (down[:, None], right[None, :]), view)
        size = np.bincount(down, minlength=rows)[:, None] * np.bincount(right, minlength=columns)
        part = total / np.maximum(size, 1)
        found.append(((part >= COVERED) | ((part == part.max()) & (part > 0))).ravel())
    return np.stack(found)


@dataclass(frozen=True)
class Meeting:
    """Numbers of every reader (row) in the mean of the heads and each head (column).

    Attributes:
        own: ``[T + 1, h + 1, V, S]``, :func:`shared`.
        chance: ``[T + 1, h + 1, V, S]``, :func:`shuffled`.
        rare: ``[T + 1, h + 1]``, patches beyond all but ``RARE`` of other studies' patches there.
        of_findings: by finding ``[T + 1, h + 1, 3]``: mean of ``own`` on the patches of its mask,
            mean there of other studies, mean of ``own`` on all other patches.
    """

    own: np.ndarray
    chance: np.ndarray
    rare: np.ndarray
    of_findings: Mapping[str, np.ndarray]


def meeting(data: MicroscopeData) -> Meeting:
    """What words and patches share, beside what they would share anyway."""
    own = shared(data.word_reads, data.patch_reads, data.use.patches.shape[1])
    chance = shuffled(data.word_reads, data.patch_reads, data.use)
    rare = (np.asarray(data.reached) < RARE).sum((2, 3))
    of_findings = {}
    for name, mask in data.masks.items():
        here = covered(mask, data.grid)
        if here.any() and not here.all():
            of_findings[name] = np.stack(
                [own[..., here].mean(-1), np.asarray(data.elsewhere)[..., here].mean(-1),
                 own[..., ~here].mean(-1)], axis=-1,
            )  # fmt: skip
    return Meeting(own, chance, rare, of_findings)


def changes(old: Sequence[str], new: Sequence[str]) -> tuple[list[bool], list[bool]]:
    """Which words of two reports are not in the other one, by the longest common stretches."""
    first, second = [True] * len(old), [True] * len(new)
    match = difflib.SequenceMatcher(None, list(old), list(new), autojunk=False)
    for block in match.get_matching_blocks():
        first[block.a : block.a + block.size] = [False] * block.size
        second[block.b : block.b + block.size] = [False] * block.size
    return first, second


def changed_share(old: Sequence[str], new: Sequence[str]) -> float:
    """Share of the words of both reports that :func:`changes` marks; 0 for two empty reports."""
    first, second = changes(old, new)
    marks = first + second
    return sum(marks) / len(marks) if marks else 0.0


def finding_changes(
    old: Sequence[FindingMark], new: Sequence[FindingMark]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(title, polarity) of findings that only the old report names, and only the new one."""
    before, after = (dict.fromkeys((m.title, m.polarity) for m in marks) for marks in (old, new))
    return [one for one in before if one not in after], [one for one in after if one not in before]


def trial_sentence(trial: Trial, words: Sequence[str]) -> str:
    """What a trial says, with the comparison in the same breath."""
    count = len(trial.rewriting.slots)
    own = changed_share(words, trial.rewriting.words)
    text = (
        f"Without {count} {'slot' if count == 1 else 'slots'} {own:.0%} of the words change "
        f"(the slots held {trial.rewriting.held[0]:.0%} of the reading of this study's patches and "
        f"{trial.rewriting.held[1]:.0%} of its words'). "
    )
    if not trial.others:
        return text + trial.note
    shares = [changed_share(words, other.words) for other in trial.others]
    told = ", ".join(f"{share:.0%}" for share in shares)
    kept = [sum(other.held) / 2 for other in trial.others]
    text += (
        f"Without as many others, which held {min(kept):.0%} to {max(kept):.0%} of both: {told}. "
    )
    if own == 0:
        return text + "Nothing hangs on these slots alone."
    if own > max(shares):
        return text + (
            "More than without any of these: more is lost with them, or they are read more."
            if sum(trial.rewriting.held) / 2 > max(kept)
            else "More than without any of these, though some were read as much."
        )
    return text + "No more than without others: these slots are not special."


# --- payload, page, widget ------------------------------------------------------------------------


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def _reads_payload(readings: Readings) -> dict[str, str]:
    """Slots and weights as little-endian 16-bit numbers; a weight of 1 is 65535."""
    weights = np.rint(readings.weights.astype(np.float64) * 65535)
    return {
        "slots": _packed(readings.slots.astype("<u2")),
        "weights": _packed(weights.clip(0, 65535).astype("<u2")),
    }


def _sheet(crops: Sequence[Crop]) -> dict[str, Any]:
    """All crops in one image, row by row, with their captions."""
    columns = max(1, int(np.ceil(np.sqrt(len(crops)))))
    rows = -(-len(crops) // columns)
    sheet = np.zeros((rows * CROP, columns * CROP), dtype=np.uint8)
    for number, crop in enumerate(crops):
        row, column = divmod(number, columns)
        image = Image.fromarray(np.ascontiguousarray(crop.pixels))
        if image.size != (CROP, CROP):
            image = image.resize((CROP, CROP), Image.Resampling.BOX)
        area = np.s_[row * CROP : (row + 1) * CROP, column * CROP : (column + 1) * CROP]
        sheet[area] = np.asarray(image)
    image = ""
    if crops:
        buffer = io.BytesIO()
        Image.fromarray(sheet).save(buffer, format="JPEG", quality=80)
        image = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return {
        "image": image,
        "size": CROP,
        "columns": columns,
        "captions": [crop.caption for crop in crops],
        "covered": [crop.covered for crop in crops],
    }


def _use_payload(use: SlotUse) -> dict[str, Any]:
    """Shares with the mean of the heads in front, and as heights of bars (root scale)."""
    sides = [with_mean(side[None])[0] for side in (use.patches, use.words)]  # [h + 1, M] each
    tops = [np.maximum(side.max(1, keepdims=True), 1e-12) for side in sides]
    levels = np.stack([quantised(np.sqrt(side / top)) for side, top in zip(sides, tops)])
    # A slot that is read a little has a bar, too.
    levels = np.where((np.stack(sides) > 0) & (levels == 0), np.uint8(1), levels)
    return {
        "patches": np.round(sides[0], 6).tolist(),
        "words": np.round(sides[1], 6).tolist(),
        "levels": _packed(levels),
        "order": use.order.tolist(),
        "dead": np.flatnonzero(use.dead).tolist(),
        "studies": use.studies,
    }


def _rewriting_payload(
    one: Rewriting, words: Sequence[str], findings: Sequence[FindingMark]
) -> dict[str, Any]:
    old, new = changes(words, one.words)
    lost, gained = finding_changes(findings, one.findings)
    return {
        "about": one.about,
        "slots": list(one.slots),
        "words": list(one.words),
        "findings": marks_payload(one.findings),
        "held": list(one.held),
        "probability": one.probability,
        "changed": changed_share(words, one.words),
        "old_changed": old,
        "new_changed": new,
        "lost": [list(pair) for pair in lost],
        "gained": [list(pair) for pair in gained],
    }


def trial_payload(
    trial: Trial, words: Sequence[str], findings: Sequence[FindingMark]
) -> dict[str, Any]:
    """What the front end shows of a trial, as plain JSON content.

    Args:
        trial: slots taken away.
        words, findings: of the report with the whole memory.
    """
    return {
        "sentence": trial_sentence(trial, words),
        "rewriting": _rewriting_payload(trial.rewriting, words, findings),
        "others": [_rewriting_payload(other, words, findings) for other in trial.others],
    }


def payload(data: MicroscopeData) -> dict[str, Any]:
    """What the front end draws from, as plain JSON content.

    Rows are ``(reader, layer)``: the begin mark and the words, each with the mean of the heads and
    then every head.
    """
    found = meeting(data)
    elsewhere, reached = np.asarray(data.elsewhere), np.asarray(data.reached)
    readers, layers = found.own.shape[:2]

    def rows(values: np.ndarray) -> np.ndarray:
        return values.reshape(readers * layers, -1)

    crops: dict[str, int] = {}
    kept: list[Crop] = []
    cards = {}
    for (head, slot), card in data.use.cards.items():
        shown = []
        for crop, weight in card.crops:
            if crop.key not in crops:
                crops[crop.key] = len(kept)
                kept.append(crop)
            shown.append([crops[crop.key], round(float(weight), 4)])
        words = [[word, round(float(lift), 2)] for word, lift in card.words]
        cards[f"{head}/{slot}"] = {"words": words, "crops": shown}
    means = np.stack([rows(each).mean(1) for each in (found.own, found.chance, elsewhere)], axis=1)
    return {
        "title": data.title,
        "synthetic": SYNTHETIC_NOTE if data.synthetic else "",
        "notes": list(data.notes),
        "system": data.system,
        "views": views_payload(data.views, data.view_names),
        "masks": masks_payload(data.masks),
        "grid": list(data.grid),
        "words": list(data.words),
        "readers": list(data.readers),
        "findings": marks_payload(data.findings),
        "heads": layers - 1,
        "k": data.word_reads.slots.shape[-1],
        "slots": data.use.patches.shape[1],
        "reads": {
            "words": _reads_payload(data.word_reads),
            "patches": _reads_payload(data.patch_reads),
        },
        "maps": {
            name: _packed(quantised(values))
            for name, values in (
                ("own", found.own.clip(0, 1)),
                ("elsewhere", elsewhere.clip(0, 1)),
                ("chance", found.chance.clip(0, 1)),
                ("reached", reached.clip(0, 1)),
            )
        },
        # One scale for a word's pictures, so that this study and others can be compared ...
        "top": rows(np.maximum(found.own, elsewhere)).max(1).clip(1 / STEPS).tolist(),
        "top_difference": rows(np.abs(found.own - elsewhere)).max(1).clip(1 / STEPS).tolist(),
        # ... and one of a layer for the shading of all words.
        "top_layer": found.own.max((0, 2, 3)).clip(1 / STEPS).tolist(),
        "means": np.round(means, 5).tolist(),
        "rare": RARE,
        "rare_patches": [np.flatnonzero(row < RARE).tolist() for row in rows(reached)],
        "usual": np.asarray(data.usual, dtype=int).reshape(-1, 2).tolist(),
        "of_findings": [
            {"name": name, "values": np.round(values.reshape(readers * layers, 3), 4).tolist()}
            for name, values in found.of_findings.items()
        ],
        "other_studies": data.other_studies,
        "use": _use_payload(data.use),
        "cards": cards,
        "sheet": _sheet(kept),
        "probability": data.probability,
        "trials": [trial_payload(trial, data.words, data.findings) for trial in data.trials],
    }


def microscope_html(data: MicroscopeData) -> str:
    """One page with everything inside (:func:`~.host.page_html`); it shows trials made beforehand,
    but cannot write again."""
    texts = [(data.system, " ".join(data.words))]
    return page_html(FRONT, payload(data), title=data.title, texts=texts)


def microscope_widget(
    data: MicroscopeData,
    answer: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
) -> Any:
    """The microscope as a live widget for notebooks, with the same front end as the page.

    Its trait ``told`` holds what was pinned or chosen last: word (0 is the begin mark) and patch or
    None, slot ``[head, slot]`` and the slots to take away.

    Args:
        data: as for the page.
        answer: takes slots away and writes again: ``MemoryBench.answer`` of
            ``experiments/microscope.py``. Without it, that part is switched off.

    Raises:
        KitError: ``anywidget`` is not installed.
    """
    return live(FRONT, payload(data), answer)


# --- static twin ----------------------------------------------------------------------------------


def starting_word(data: MicroscopeData) -> int:
    """Row of the first word of an affirmed finding, else of any finding, else of the report."""
    affirmed = [mark for mark in data.findings if mark.polarity == "positive"]
    marks = affirmed or list(data.findings)
    return marks[0].first + 1 if marks else 1


def microscope_figure(
    data: MicroscopeData, word: int | str | None = None, *, trials: Sequence[Trial] | None = None
) -> Figure:
    """The microscope without a browser.

    Above: which patches share slots with one word, in this study, in the same places of other
    studies, and the difference. Middle: the same for all words, mean over the patches, beside
    shuffled slots. Below: how the slots are read over the training set, with those of the word and
    of the patch that shares most with it; and how much of the report changes without slots.

    Args:
        data: as for the page.
        word: row (0 is the begin mark) or a word (its first place); default:
            :func:`starting_word`.
        trials: to show; default: those of the data.

    Raises:
        KitError: the report has no such word.
    """
    readers = data.readers
    if word is None:
        row = starting_word(data)
    elif isinstance(word, str):
        row = readers.index(word) if word in readers else -1
    else:
        row = int(word)
    if not 0 <= row < len(readers):
        raise KitError(f"the report has no word {word!r}: name one of {', '.join(readers)}.")
    trials = data.trials if trials is None else tuple(trials)
    found = meeting(data)
    wide = len(data.views) > 1
    heights = [2.9 if wide else 3.6, 2.3, 2.3, *([1.6] if trials else []), 0.14]
    figure = plt.figure(figsize=(11.4, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights)
    _draw_maps(parts[0], data, found, row)
    _draw_words(parts[1], data, found, row)
    _draw_use(parts[2], data, found, row)
    if trials:
        _draw_trials(parts[3], data, trials)
    if data.synthetic:
        parts[-1].text(0.995, 0.3, "synthetic phantom images", ha="right", fontsize=7, color="0.4")
    plt.close(figure)  # the caller's alone: a notebook would show it a second time
    return figure


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib would start a formula


def _outline(place: int) -> str:
    return OUTLINES[place % len(OUTLINES)]


def _draw_maps(part: Any, data: MicroscopeData, found: Meeting, row: int) -> None:
    """The word's patches in this study, in others, and the difference."""
    own, there = found.own[row, 0], np.asarray(data.elsewhere)[row, 0]  # [V, S]
    top = max(float(own.max()), float(there.max()), 1 / STEPS)
    far = max(float(np.abs(own - there).max()), 1 / STEPS)
    rows, columns = data.grid
    part.suptitle(
        _plain(f"{data.title}: reading that “{data.readers[row]}” and each patch have in common"),
        fontsize=10,
        x=0.01,
        ha="left",
    )
    titles = (
        f"this study: {own.mean():.1%} on average",
        f"same places, {data.other_studies} other studies: {there.mean():.1%}",
        f"difference; {(np.asarray(data.reached)[row, 0] < RARE).sum()} patches beyond "
        f"{1 - RARE:.0%} of others (usual: {data.usual[row][0][0]} to {data.usual[row][0][1]})",
    )
    pieces = part.subfigures(1, 3, squeeze=False)[0]
    for column, (values, title) in enumerate(zip((own, there, own - there), titles)):
        piece, bars = pieces[column], None
        piece.suptitle(title, fontsize=8)
        axes = piece.subplots(1, len(data.views), squeeze=False)[0]
        for view, image in enumerate(data.views):
            axis = axes[view]
            height, width = image.shape
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            axis.imshow(image, cmap="gray", vmin=0, vmax=255)
            heat = values[view].reshape(rows, columns)
            if column < 2:
                alpha = 0.7 * np.sqrt(heat.clip(0) / top)
                bars = axis.imshow(heat, cmap="viridis", vmin=0, vmax=top, alpha=alpha,
                                   extent=extent, interpolation="nearest")  # fmt: skip
            else:
                alpha = 0.8 * np.abs(heat) / far
                bars = axis.imshow(heat, cmap="PuOr_r", vmin=-far, vmax=far, alpha=alpha,
                                   extent=extent, interpolation="nearest")  # fmt: skip
                low = np.asarray(data.reached)[row, 0, view] < RARE
                down, right = np.divmod(np.flatnonzero(low), columns)
                axis.plot((right + 0.5) * width / columns - 0.5, (down + 0.5) * height / rows - 0.5,
                          "o", ms=3, mfc="white", mec="black", mew=0.6)  # fmt: skip
            for place, mask in enumerate(data.masks.values()):
                if np.any(mask[view]):
                    solid = np.asarray(mask[view], float)
                    axis.contour(solid, levels=[0.5], colors=_outline(place), linewidths=0.8)
            axis.set_axis_off()
            axis.set_title(data.view_names[view], fontsize=7, pad=2)
        bar = piece.colorbar(
            bars, ax=list(axes), orientation="horizontal", fraction=0.06, pad=0.02, aspect=40
        )
        bar.solids.set_alpha(1)
        bar.ax.tick_params(labelsize=6)
        bar.ax.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    if data.masks:
        handles = [
            plt.Line2D([], [], color=_outline(place), label=name)
            for place, name in enumerate(data.masks)
        ]
        part.legend(handles=handles, fontsize=7, loc="upper right", ncols=3, frameon=False)


def _draw_words(part: Any, data: MicroscopeData, found: Meeting, row: int) -> None:
    """All words: mean over patches, this study, others, shuffled."""
    axis = part.subplots()
    places = np.arange(len(data.readers))
    for values, style, label in (
        (found.own[:, 0], {"color": BOTH, "marker": "o", "ms": 3.5, "lw": 0}, "this study"),
        (np.asarray(data.elsewhere)[:, 0],
         {"color": WORD, "marker": "_", "ms": 8, "mew": 2, "lw": 0},
         f"same places, {data.other_studies} other studies"),
        (found.chance[:, 0], {"color": "#8c8c8c", "lw": 1.2, "ls": "--"}, "shuffled slots"),
    ):  # fmt: skip
        axis.plot(places, values.mean((1, 2)), label=label, **style)
    axis.set_ylim(bottom=0)
    axis.set_xlim(-0.7, len(places) - 0.3)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.set_xticks(places, [_plain(word) for word in data.readers], rotation=90, fontsize=7)
    axis.get_xticklabels()[row].set_fontweight("bold")
    axis.tick_params(axis="y", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_title("Reading that each word has in common with a patch, mean over all patches",
                   fontsize=9, loc="left")  # fmt: skip
    axis.legend(fontsize=7, ncols=3, loc="lower right", frameon=False, bbox_to_anchor=(1, 1.0))


def _draw_use(part: Any, data: MicroscopeData, found: Meeting, row: int) -> None:
    """All slots over the training set, and who of the two readers reads them."""
    axis = part.subplots()
    use, count = data.use, data.use.patches.shape[1]
    order = use.order
    live = order[~use.dead[order]]
    places = np.arange(len(live))
    up, down = use.patches.mean(0)[live], use.words.mean(0)[live]
    axis.bar(places, up, width=1, color=PATCH, label="patches read (up)")
    axis.bar(places, -down, width=1, color=WORD, label="words read (down)")
    best = np.unravel_index(found.own[row, 0].argmax(), found.own[row, 0].shape)
    word = data.word_reads.dense(count)[row].sum(0)[live] > 0
    patch = data.patch_reads.dense(count)[best].sum(0)[live] > 0
    high, low = 1.12 * up.max(initial=1e-9), -1.12 * down.max(initial=1e-9)
    axis.plot(places[patch & ~word], np.full((patch & ~word).sum(), high), "s", ms=2.6, mfc="none",
              mec=PATCH, mew=0.8, label="the patch that shares most reads")  # fmt: skip
    axis.plot(places[word & ~patch], np.full((word & ~patch).sum(), low), "v", ms=3, mfc="none",
              mec=WORD, mew=0.8, label=f"“{_plain(data.readers[row])}” reads")  # fmt: skip
    both = word & patch
    axis.plot(places[both], np.full(both.sum(), high), "d", ms=3.6, color=BOTH, label="both read")
    dead = count - len(live)
    if dead:
        edge = len(live) + max(2, round(0.01 * len(live)))
        axis.axvspan(edge, edge + max(6, round(0.12 * len(live))), facecolor="0.93", hatch="xx",
                     edgecolor="0.75", lw=0)  # fmt: skip
        axis.text(edge + max(6, round(0.12 * len(live))) / 2, 0, f"{dead} dead", fontsize=8,
                  ha="center", va="center", rotation=90, backgroundcolor="white")  # fmt: skip
    axis.axhline(0, color="black", lw=0.6)
    axis.set_xlim(-1, len(live) * (1.14 if dead else 1) + 1)
    axis.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0%}")
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_ylabel("share of the reading", fontsize=7)
    axis.set_title(
        f"{count} slots, most read first, over {use.studies:,} training studies",
        fontsize=9,
        loc="left",
    )
    axis.legend(fontsize=6.5, ncols=5, loc="lower right", frameon=False, bbox_to_anchor=(1, 1.0))


def _draw_trials(part: Any, data: MicroscopeData, trials: Sequence[Trial]) -> None:
    """Words changed without slots, beside as many others."""
    axes = part.subplots(1, len(trials), squeeze=False)[0]
    most = 0.02
    for axis, trial in zip(axes, trials):
        lines = [trial.rewriting, *trial.others]
        values = [changed_share(data.words, one.words) for one in lines]
        most = max(most, *values)
        places = np.arange(len(lines))
        axis.barh(places, values, color=[BOTH] + ["#b0b0b0"] * len(trial.others))
        names = [
            f"{one.about} ({one.held[0]:.0%} | {one.held[1]:.0%} of the reading)" for one in lines
        ]
        axis.set_yticks(places, [_plain(name) for name in names], fontsize=6.5)
        axis.invert_yaxis()
        for place, value in zip(places, values):
            axis.text(value, place, f" {value:.0%}", va="center", fontsize=7)
        axis.tick_params(axis="x", labelsize=7)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("words of the report changed", fontsize=7)
    for axis in axes:
        axis.set_xlim(0, 1.2 * most)
    part.suptitle("Without slots (in brackets: of the reading of this study's patches | words)",
                  fontsize=9, x=0.01, ha="left")  # fmt: skip
