"""A trained memory for the microscope: one study's readings beside the training set's, and what is
written when slots are missing; the course of a relational memory for the recorder.

Nothing here changes a number of a result row. What is drawn stands in ``viz/widgets/microscope.py``
and ``viz/widgets/recorder.py``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from r2genkit.batches import Batch
from r2genkit.decoding import DecodingConfig, decode, evaluating
from r2genkit.errors import KitError
from r2genkit.experiments.data import PreparedImages, PreparedText, report_loader
from r2genkit.experiments.faithfulness import Material, Unit, study_score
from r2genkit.experiments.private_set import pixels_of, views_of
from r2genkit.experiments.results import Score
from r2genkit.experiments.runner import RunResult
from r2genkit.experiments.slots import (
    Reads,
    other_slots,
    read_slots,
    shares,
    top_words,
    usage,
)
from r2genkit.experiments.tagging import decoder_tags
from r2genkit.experiments.trained import TrainedSystem
from r2genkit.metrics.findings import default_labeler
from r2genkit.models.cmn import CMN
from r2genkit.models.r2gen import R2Gen
from r2genkit.seeds import numpy_rng
from r2genkit.study import Study
from r2genkit.text.vocabulary import Vocabulary
from r2genkit.viz.memory import patch_crop
from r2genkit.viz.transformer import (
    SUBLAYERS,
    constant_and_moving,
    drawn_masks,
    memory_rows,
    norm_changes,
)
from r2genkit.viz.widgets.microscope import (
    BEGIN,
    COVERED,
    CROP,
    RARE,
    Crop,
    MicroscopeData,
    Readings,
    Rewriting,
    SlotCard,
    SlotUse,
    Trial,
    covered,
    shared,
    trial_payload,
)
from r2genkit.viz.widgets.parts import mark_findings
from r2genkit.viz.widgets.recorder import Constant, RecorderData

DRAWS = 3  # sets of slots drawn for comparison, beside the one that is read alike
OTHER_UNITS = 20  # words of other findings that a finding's patches are compared with


# --- the training set -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """Readings of a training set, and what they say of every slot.

    Attributes:
        patches, words: of all training studies, with their reports.
        ids: the studies, in the order of ``Reads.study``.
        use: what the widget shows of them.
    """

    patches: Reads
    words: Reads
    ids: tuple[str, ...]
    use: SlotUse


def read_training(
    result: RunResult,
    system: TrainedSystem | None = None,
    *,
    text: PreparedText | None = None,
    images: PreparedImages | None = None,
    reads: tuple[Reads, Reads] | None = None,
    seed: int = 0,
) -> Record:
    """All training studies of a run read once more, with their reports.

    Half a minute on one CPU core for 2,700 studies at the lab's size.

    Args:
        result: a finished run of R2GenCMN.
        system, text, images: of that run, where they are loaded already.
        reads: :func:`~r2genkit.experiments.slots.read_slots` of its training set, if done already.
        seed: of the loader; the order is that of the split in any case.

    Raises:
        KitError: the run's model has no memory with slots.
    """
    system, text = system or result.system(), text or result.text()
    images = images or result.images()
    if reads is None:
        told = system.tags and decoder_tags(system.recipe.tags, system.tags, text, "train")
        loader = report_loader(
            system.recipe, text, images, "train", seed=seed, training=False, tags=told
        )
        reads = read_slots(system.model, loader)
    patches, words = reads
    ids = text.split.train
    crops = _Crops(text, images, ids, patches.per_view)
    return Record(patches, words, ids, slot_use(patches, words, text.vocabulary, crops))


class _Crops:
    """Patches of training images with their neighbours; what covers them is drawn on demand."""

    def __init__(
        self, text: PreparedText, images: PreparedImages, ids: Sequence[str], per_view: int
    ) -> None:
        self.studies = [text.studies[one] for one in ids]
        self.images, self.per_view, self.grid = images, per_view, math.isqrt(per_view)
        self.titles = default_labeler().titles
        self.covers: dict[int, dict[str, np.ndarray]] = {}

    def _names(self, study: int, place: int) -> list[str]:
        """Findings that cover the patch; empty off the phantom, where nobody knows the place."""
        if study not in self.covers:
            drawn = drawn_masks(self.studies[study], max(64, 16 * self.grid))
            grid = (self.grid, self.grid)
            self.covers[study] = {name: covered(mask, grid).ravel() for name, mask in drawn.items()}
        return [self.titles[name] for name, here in self.covers[study].items() if here[place]]

    def __call__(self, study: int, place: int) -> Crop:
        name, (view, patch) = self.studies[study].id, divmod(place, self.per_view)
        names = self._names(study, place)
        pixels = patch_crop(np.asarray(self.images.images[name][view]), patch, self.grid)
        small = Image.fromarray(np.ascontiguousarray(pixels)).resize(
            (CROP, CROP), Image.Resampling.BOX
        )
        return Crop(
            f"{name}/{view}/{patch}",
            np.asarray(small),
            ", ".join([name, *names[:2]]),
            bool(names),
        )


def best_patches(patches: Reads, number: int) -> dict[tuple[int, int], list[tuple[int, float]]]:
    """:func:`~r2genkit.experiments.slots.top_patches` of all slots at once.

    Args:
        patches: the readings.
        number: patches per slot, at most one of a study.

    Returns:
        By (head, slot) that is read: (reader, weight), best first.
    """
    found: dict[tuple[int, int], list[tuple[int, float]]] = {}
    heads, k = patches.slots.shape[1:]
    study = patches.study.numpy()
    for head in range(heads):
        slots = patches.slots[:, head].numpy().ravel()
        weights = patches.weights[:, head].numpy().ravel().astype(np.float64)
        # By slot, then by weight, best first; equal weights in the order of the readers.
        order = np.lexsort((-weights, slots))
        order = order[weights[order] > 0]
        starts = np.flatnonzero(np.diff(slots[order], prepend=-1))
        for first, end in zip(starts, [*starts[1:], len(order)]):
            chosen: list[tuple[int, float]] = []
            seen: set[int] = set()
            for place in order[first:end]:
                reader = int(place) // k
                if int(study[reader]) not in seen:
                    seen.add(int(study[reader]))
                    chosen.append((reader, float(weights[place])))
                if len(chosen) == number:
                    break
            found[head, int(slots[order[first]])] = chosen
    return found


def slot_use(
    patches: Reads, words: Reads, vocabulary: Vocabulary, crop: Any, *, number: int = 4
) -> SlotUse:
    """Usage and cards of all slots that are read.

    Args:
        patches, words: readings of the training set.
        vocabulary: of the words' tokens.
        crop: gives the :class:`Crop` of (study, place).
        number: patches and words per card at most; a word must read ten times to count.
    """
    by_patches, by_words = usage(patches)[0], usage(words)[0]  # [h, M]
    counts = torch.bincount(words.token, minlength=len(vocabulary))
    by_word = usage(words, words.token, len(vocabulary))
    nearest = best_patches(patches, number)
    crops: dict[tuple[int, int], Crop] = {}
    cards = {}
    for head, slot in ((by_patches + by_words) > 0).nonzero().tolist():
        shown = []
        for reader, weight in nearest.get((head, slot), []):
            at = int(patches.study[reader]), int(patches.place[reader])
            if at not in crops:
                crops[at] = crop(*at)
            shown.append((crops[at], weight))
        told = top_words(by_word, counts, head, slot, number)
        cards[head, slot] = SlotCard(
            tuple((vocabulary.word(t) if t else BEGIN, lift) for t, lift in told), tuple(shown)
        )
    return SlotUse(
        shares(by_patches).numpy(), shares(by_words).numpy(), int(patches.study.max()) + 1, cards
    )


# --- do words and patches of a finding meet? ------------------------------------------------------


@dataclass(frozen=True)
class Meetings:
    """What finding words share with the patches of their finding, beside two things it could be.

    Attributes:
        studies: id of each of U units.
        own: ``[U]``, reading in common with the patches that the finding covers, mean over words,
            patches and heads.
        elsewhere: ``[U]``, the same words with the same places of other studies.
        other_words: ``[U]``, the same patches with the words of other findings.
        other_studies: how many others.
    """

    studies: tuple[str, ...]
    own: np.ndarray
    elsewhere: np.ndarray
    other_words: np.ndarray
    other_studies: int

    def by_study(self, name: str) -> dict[str, tuple[float, float]]:
        """Mean of ``own`` and of "elsewhere" or "other_words" by study, over units with both."""
        pairs: dict[str, list[tuple[float, float]]] = {}
        for study, own, other in zip(self.studies, self.own, getattr(self, name)):
            if not math.isnan(other):
                pairs.setdefault(study, []).append((float(own), float(other)))
        return {study: tuple(np.mean(each, axis=0).tolist()) for study, each in pairs.items()}

    def gap(self, name: str, *, seed: int = 0) -> Score:
        """Mean over studies of ``own`` minus "elsewhere" or "other_words", with its interval."""
        return study_score(
            {study: own - other for study, (own, other) in self.by_study(name).items()}, seed=seed
        )

    def sentences(self, *, seed: int = 0) -> list[str]:
        """What was found, one sentence for each comparison; means over studies."""
        told = []
        for name, what in (
            ("elsewhere", f"these words and the same places of {self.other_studies} other studies"),
            ("other_words", "words of other findings and these patches"),
        ):
            pairs = self.by_study(name)
            if not pairs:
                continue
            own, other = np.mean(list(pairs.values()), axis=0)
            score = self.gap(name, seed=seed)
            verdict = "not distinguishable"
            if score.low > 0 or score.high < 0:
                verdict = "more" if score.low > 0 else "less"
            told.append(
                f"A finding's words and its patches have {own:.1%} of their reading in common, "
                f"{what} {other:.1%}: {verdict} ({100 * score.value:+.1f} points, 95 % interval "
                f"over {len(pairs)} studies [{100 * score.low:+.1f}, {100 * score.high:+.1f}])."
            )
        return told


def measure_meetings(
    model: CMN,
    material: Material,
    units: Sequence[Unit],
    record: Record,
    *,
    other_studies: int = 200,
    seed: int = 0,
) -> Meetings:
    """Whether finding words share more with the patches of their finding than they would anyway.

    Args:
        model: an R2GenCMN.
        material: test studies with the reports that the model wrote.
        units: finding words of these reports that the image bears out.
        record: of the training set.
        other_studies: training studies to compare with, drawn among those with all views.
        seed: of all draws.

    Raises:
        KitError: no unit.
    """
    if not units:
        raise KitError("there is no finding word to measure: the reports state nothing drawn.")
    count = record.patches.count
    others = _by_place(record, other_studies, seed)
    rng = numpy_rng(seed, "microscope/words")
    words: list[Tensor] = []  # of each unit ``[W, h, M]``
    patches: list[Tensor] = []  # that its finding covers, ``[P, h, M]``
    elsewhere: list[float] = []
    for unit in units:
        batch = material.batch([unit.row], model)
        with evaluating(model):
            read = model.unroll(batch, trace=True)[1]
            looked = model.patch_traces(batch)
        at = [place + 1 for place in unit.places]  # a word reads once it stands there
        words.append(_dense(read, at, count))
        here = np.flatnonzero((unit.cover >= COVERED) | (unit.cover == unit.cover.max()))
        flat = {name: looked[name].flatten(1, 2) for name in ("slots", "slot_weights")}
        patches.append(_dense(flat, here, count))
        there = {name: values[here].flatten(0, 1)[None] for name, values in others.items()}
        elsewhere.append(_common(words[-1], _dense(there, range(there["slots"].shape[1]), count)))
    other_words = []
    for unit, seen in zip(units, patches):
        free = [i for i, one in enumerate(units) if one.finding != unit.finding]
        drawn = rng.permutation(free)[:OTHER_UNITS]
        found = [_common(words[int(i)], seen) for i in drawn]
        other_words.append(float(np.mean(found)) if found else math.nan)
    own = [_common(said, seen) for said, seen in zip(words, patches)]
    return Meetings(
        tuple(unit.study for unit in units),
        np.array(own),
        np.array(elsewhere),
        np.array(other_words),
        others["slots"].shape[1],
    )


def _by_place(record: Record, number: int, seed: int) -> dict[str, Tensor]:
    """Readings of drawn training studies that have all views, ``[V * S, N, h, k]``."""
    patches = record.patches
    places = int(patches.place.max()) + 1
    whole = torch.bincount(patches.study, minlength=len(record.ids)) == places
    rng = numpy_rng(seed, "microscope/meetings")
    chosen = torch.from_numpy(rng.permutation(whole.nonzero().flatten().numpy())[:number])
    member = torch.zeros(len(record.ids), dtype=torch.bool)
    member[chosen] = True
    some = patches.select(member[patches.study])
    some = some.select((some.place * len(record.ids) + some.study).argsort())
    shape = (places, len(chosen), *some.slots.shape[1:])
    return {"slots": some.slots.view(shape), "slot_weights": some.weights.view(shape)}


def _dense(trace: Mapping[str, Tensor], rows: Iterable[int], count: int) -> Tensor:
    """Weights ``[R, h, M]`` of some readers of the first study."""
    slots, weights = trace["slots"][0][list(rows)], trace["slot_weights"][0][list(rows)]
    return torch.zeros(*slots.shape[:2], count).scatter_add_(-1, slots.long(), weights.float())


def _common(words: Tensor, patches: Tensor) -> float:
    """Mean over words ``[W, h, M]``, patches ``[P, h, M]`` and heads of what they share."""
    return float(torch.minimum(words[:, None], patches[None]).sum(-1).mean())


# --- one study ------------------------------------------------------------------------------------


def with_report(batch: Batch, tokens: Sequence[int]) -> Batch:
    """A minibatch of one study with a report ``tokens`` (no marks) that it should read."""
    ids = torch.tensor([[0, *tokens, 0]], device=batch.view_mask.device)
    return dataclasses.replace(
        batch, tokens=ids, lengths=torch.tensor([ids.shape[1]], device=ids.device)
    )


def read_report(model: CMN, batch: Batch, tokens: Sequence[int]) -> tuple[Readings, Readings]:
    """What begin mark and words read ``[T + 1, h, k]``, and the patches ``[V, S, h, k]``.

    A word reads once it stands there: what was read before word t was chosen is the reading of the
    word before it.

    Args:
        model: with its memory.
        batch: one study.
        tokens: T words.
    """
    with evaluating(model):
        looked = model.patch_traces(batch)
        read = model.unroll(with_report(batch, tokens), trace=True)[1]

    def readings(trace: Mapping[str, Tensor]) -> Readings:
        return Readings(
            trace["slots"][0].cpu().numpy(), trace["slot_weights"][0].float().cpu().numpy()
        )

    return readings(read), readings(looked)


def compare_elsewhere(
    words: Readings, own: np.ndarray, patches: Reads, studies: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What words share with the patches of other studies in the same places.

    Args:
        words: ``[T, h, k]``.
        own: ``[T, h + 1, V, S]``, :func:`~r2genkit.viz.widgets.microscope.shared`.
        patches: readings of many studies.
        studies: N of them to compare with, each with all the patches of ``own``.

    Returns:
        Mean over the studies, and share of them that reach ``own``, each ``[T, h + 1, V, S]``; and
        ``[T, h + 1, 2]``: how many patches of a study are beyond all but ``RARE`` of the others,
        the range of 19 in 20 of these studies, each held against the rest.

    Raises:
        KitError: fewer than two studies, or one without a patch in some place.
    """
    views, per_view = own.shape[2:]
    if len(studies) < 2:
        raise KitError(f"{len(studies)} other studies cannot be compared with: give two or more.")
    member = torch.zeros(int(patches.study.max()) + 1, dtype=torch.bool)
    member[list(studies)] = True
    some = patches.select(member[patches.study])
    read = torch.from_numpy(words.dense(patches.count))  # [T, h, M]
    heads = torch.arange(read.shape[1])[None, :, None]
    mean, reached = (np.zeros(own.shape, dtype=np.float32) for _ in range(2))
    beyond = torch.zeros(*own.shape[:2], len(studies))
    for view in range(views):
        for patch in range(per_view):
            there = some.select(some.place == view * per_view + patch)
            if len(there) != len(studies):
                raise KitError(
                    f"{len(there)} of {len(studies)} other studies have patch {patch} of view "
                    f"{view + 1}: compare with studies that have all views of this one."
                )
            there = there.select(there.study.argsort())
            weight = read[:, heads, there.slots.long()]  # [T, N, h, k]
            each = torch.minimum(weight, there.weights).sum(-1).transpose(1, 2)  # [T, h, N]
            each = torch.cat([each.mean(1, keepdim=True), each], 1)
            here = torch.from_numpy(own[:, :, view, patch])
            mean[:, :, view, patch] = each.mean(-1)
            # Sums in another order differ in the last digit.
            reached[:, :, view, patch] = (each >= here[..., None] - 1e-6).float().mean(-1)
            beyond += _reached_by_others(each) < RARE
    bounds = torch.tensor([0.025, 0.975])
    usual = torch.quantile(beyond, bounds, dim=-1, interpolation="nearest")
    return mean, reached, usual.permute(1, 2, 0).int().numpy()


def _reached_by_others(values: Tensor) -> Tensor:
    """For each of ``[..., N]`` the share of the N - 1 others that are at least as large."""
    ordered = values.sort(-1).values.contiguous()
    below = torch.searchsorted(ordered, (values - 1e-6).contiguous())  # smaller than each
    count = values.shape[-1]
    return (count - below - 1).float() / (count - 1)


def microscope_data(
    system: TrainedSystem,
    study: Study,
    record: Record,
    *,
    name: str,
    notes: Sequence[str] = (),
    other_studies: int = 200,
    seed: int = 0,
) -> MicroscopeData:
    """One study under the microscope.

    Args:
        system: with an R2GenCMN.
        study: with at least one image.
        record: of the system's own training set (:func:`read_training`).
        name: heading of the report.
        notes: sentences below the title.
        other_studies: training studies to compare with, drawn; never the study itself.
        seed: of that draw.

    Raises:
        KitError: a model without slots, no image, or an empty report.
    """
    bench = MemoryBench.of(system, study)
    seen = views_of(study)
    read, looked = bench.reads
    count = len(system.model.memory.matrix)
    own = shared(read, looked, count)
    free = [place for place, one in enumerate(record.ids) if one != study.id]
    # Of studies with all the views of this one, so that every place has a patch to compare with.
    views = torch.zeros(len(record.ids), dtype=torch.long)
    views.scatter_add_(0, record.patches.study, torch.ones_like(record.patches.study))
    free = [i for i in free if views[i] >= len(seen) * record.patches.per_view]
    rng = numpy_rng(seed, "microscope/others")
    chosen = rng.permutation(free)[:other_studies].tolist()
    elsewhere, reached, usual = compare_elsewhere(read, own, record.patches, chosen)
    titles = default_labeler().titles
    places = [study.views.index(view) for view in seen]
    drawn = drawn_masks(study, system.recipe.encoder.image_size)
    grid = math.isqrt(record.patches.per_view)
    return MicroscopeData(
        title=f"Memory microscope: study {study.id}",
        system=name,
        views=bench.views,
        view_names=tuple(
            view.projection if view.projection != "unknown" else f"view {number}"
            for number, view in enumerate(seen, 1)
        ),
        grid=(grid, grid),
        words=bench.words,
        word_reads=read,
        patch_reads=looked,
        use=record.use,
        elsewhere=elsewhere,
        reached=reached,
        usual=usual,
        other_studies=len(chosen),
        findings=mark_findings(bench.words),
        masks={titles[found]: mask[places] for found, mask in drawn.items() if mask[places].any()},
        probability=bench.probability,
        synthetic=system.synthetic,
        notes=tuple(notes),
    )


class MemoryBench:
    """Takes slots of a memory away and lets the model write again.

    Args:
        model: an R2GenCMN.
        batch: one study, with all that the model reads.
        decoding: how reports are written.
        vocabulary: of the words.
        views: grey images of the study, as the model sees them.

    Raises:
        KitError: the model has no such memory, or writes nothing about this study.

    Attributes:
        words: of the report with the whole memory.
        reads: what its words and the patches read (:func:`read_report`).
        probability: mean probability of these words.
    """

    def __init__(
        self,
        model: CMN,
        batch: Batch,
        decoding: DecodingConfig,
        vocabulary: Vocabulary,
        views: Sequence[np.ndarray] = (),
    ) -> None:
        if not isinstance(model, CMN):
            raise KitError(
                f"{type(model).__name__} has no memory with slots: put a run of 07_cmn under the "
                "microscope."
            )
        self.model, self.batch, self.vocabulary = model, batch, vocabulary
        # One text per study, whatever the recipe asks for.
        self.decoding = decoding.model_copy(update={"samples": 1})
        self.views = tuple(np.asarray(view) for view in views)
        self.tokens = self._write()
        self.words = self._words(self.tokens)
        if not self.words:
            raise KitError("the model writes an empty report about this study: take another one.")
        self.probability = self._probability()
        read, looked = read_report(model, batch, self.tokens)
        there = int(batch.view_mask[0].sum())
        looked = Readings(looked.slots[:there], looked.weights[:there])
        self.reads = (read, looked)
        count = len(model.memory.matrix)
        of_words, of_patches = (r.dense(count).reshape(-1, count).sum(0) for r in (read, looked))
        self.held = np.stack([of_patches / of_patches.sum(), of_words / of_words.sum()])  # [2, M]

    @classmethod
    def of(cls, system: TrainedSystem, study: Study) -> MemoryBench:
        """The bench of a trained system and a study."""
        pixels = pixels_of(study, system.recipe.encoder)
        return cls(
            system.model, system.batch(pixels), system.recipe.decoding, system.vocabulary, pixels
        )

    def _write(self) -> tuple[int, ...]:
        ((best, *_),) = decode(
            self.model, self.batch, self.decoding, vocabulary=self.vocabulary, seed=0
        )
        return best.tokens

    def _words(self, tokens: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.vocabulary.word(token) for token in tokens)

    def _probability(self) -> float:
        """Mean probability of the words of the whole memory's report, each after those before."""
        with evaluating(self.model):
            log_probs, _ = self.model.unroll(with_report(self.batch, self.tokens))
        wanted = torch.tensor(self.tokens, device=log_probs.device)
        return float(log_probs[0, torch.arange(len(wanted)), wanted].exp().mean())

    def without(self, slots: Sequence[int], about: str) -> Rewriting:
        """The report without these slots.

        Args:
            slots: rows of the memory.
            about: which ones, in words.

        Raises:
            KitError: no such slot, or too few would be left.
        """
        with self.model.memory.without(slots):
            words = self._words(self._write())
            probability = self._probability()
        gone = sorted(set(slots))
        held = self.held[:, gone].sum(1)
        return Rewriting(
            about,
            tuple(gone),
            words,
            mark_findings(words),
            (float(held[0]), float(held[1])),
            probability,
        )

    def trial(self, slots: Sequence[int], about: str = "", *, seed: int = 0) -> Trial:
        """The same beside as many other slots that this study reads: alike, and drawn.

        Args:
            slots: rows of the memory.
            about: which ones, in words; default: their number.
            seed: of the draws.

        Raises:
            KitError: no slot, no such slot, or too few would be left.
        """
        slots = sorted({int(slot) for slot in slots})
        if not slots:
            raise KitError("no slot is chosen: choose at least one to take away.")
        many = "1 slot" if len(slots) == 1 else f"{len(slots)} slots"
        rewriting = self.without(slots, about or many)
        weight = torch.from_numpy(self.held.sum(0))
        others = []
        try:
            alike = other_slots(slots, weight, alike=True, seed=seed)
            others.append(self.without(alike, "as many others, read alike"))
            for draw in range(DRAWS):
                drawn = other_slots(slots, weight, alike=False, seed=seed + draw)
                others.append(self.without(drawn, f"as many others, drawn ({draw + 1})"))
        except KitError as error:
            return Trial(rewriting, (), f"There is no comparison: {error}")
        return Trial(rewriting, tuple(others))

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """What the widget asks: ``{"without": [slot, ...]}`` -> the payload of a :class:`Trial`.

        Raises:
            KitError: another question, or slots that cannot be taken away.
        """
        slots = question.get("without")
        if not isinstance(slots, list) or not all(type(slot) is int for slot in slots):
            raise KitError(
                f"the microscope answers without=[slot, ...] with whole numbers, not {question!r}."
            )
        return trial_payload(self.trial(slots), self.words, mark_findings(self.words))

    def with_trials(
        self, data: MicroscopeData, *, count: int = 16, seed: int = 0
    ) -> MicroscopeData:
        """The data with two trials made beforehand, for hosts without a kernel.

        Without the ``count`` slots that the first affirmed finding's words read most (the first
        word's, if none is affirmed), and without the ``count`` that this study reads most.

        Args:
            data: of the same study.
            count: slots each.
            seed: of the draws for comparison.
        """
        marks = [mark for mark in data.findings if mark.polarity == "positive"]
        first, end = (marks[0].first, marks[0].end) if marks else (0, 1)
        read = data.word_reads.dense(self.held.shape[1])[first + 1 : end + 1].sum((0, 1))
        named = " ".join(data.words[first:end])
        trials = []
        for weight, about in (
            (
                read,
                f"slots that “{named}” reads most",
            ),
            (self.held.sum(0), "slots that this study reads most"),
        ):
            order = np.argsort(-weight, kind="stable")
            chosen = order[: min(count, int((weight > 0).sum()))].tolist()
            trials.append(self.trial(chosen, f"the {len(chosen)} {about}", seed=seed))
        return dataclasses.replace(data, trials=tuple(trials))


# --- a relational memory --------------------------------------------------------------------------


@contextmanager
def constant_norms(model: R2Gen, changes: Mapping[str, np.ndarray]) -> Iterator[None]:
    """While the block runs, every memory-driven layer norm gets one and the same change.

    Args:
        model: with memory-driven layer norms.
        changes: "scale" and "shift" ``[n, D]``, in the order of
            :func:`~r2genkit.viz.transformer.norm_changes`.
    """
    norms = [norm for layer in model.decoder.layers for norm in layer.norms]
    handles = []
    try:
        for name in ("scale", "shift"):
            for norm, change in zip(norms, changes[name], strict=True):
                part = getattr(norm, f"memory_to_{name}")
                handles.append(part.register_forward_hook(_always(torch.as_tensor(change))))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _always(change: Tensor) -> Callable[[Any, Any, Tensor], Tensor]:
    return lambda module, arguments, output: change.to(output).expand_as(output)


def recorder_data(
    system: TrainedSystem, study: Study, *, name: str, notes: Sequence[str] = ()
) -> RecorderData:
    """The course of R2Gen's memory over the report that it writes about a study.

    Args:
        system: with an R2Gen that has its memory.
        study: with at least one image.
        name: heading of the report.
        notes: sentences below the title.

    Raises:
        KitError: a model without relational memory, no image, or an empty report.
    """
    if getattr(getattr(system.model, "config", None), "variant", "base") == "base":
        raise KitError(
            f"{system.recipe.title} has no relational memory: record a run of 06_r2gen or 06_rm."
        )
    batch = system.batch(pixels_of(study, system.recipe.encoder))
    return dataclasses.replace(
        record_memory(system.model, batch, system.recipe.decoding, system.vocabulary),
        title=f"Memory recorder: study {study.id}",
        system=name,
        synthetic=system.synthetic,
        notes=tuple(notes),
    )


def record_memory(
    model: R2Gen, batch: Batch, decoding: DecodingConfig, vocabulary: Vocabulary
) -> RecorderData:
    """As :func:`recorder_data`, of one study as the model reads it.

    Args:
        model: R2Gen with its memory.
        batch: one study.
        decoding: how the report is written.
        vocabulary: of the words.

    Raises:
        KitError: the report is empty.
    """
    decoding = decoding.model_copy(update={"samples": 1})

    def write() -> tuple[int, ...]:
        ((best, *_),) = decode(model, batch, decoding, vocabulary=vocabulary, seed=0)
        return best.tokens

    tokens = write()
    words = tuple(vocabulary.word(token) for token in tokens)
    if not words:
        raise KitError("the model writes an empty report about this study: take another one.")

    def read() -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Probability of each word, and the traces of begin mark and words."""
        with evaluating(model):
            log_probs, trace = model.unroll(with_report(batch, tokens), trace=True)
        wanted = torch.tensor(tokens, device=log_probs.device)
        chosen = log_probs[0, torch.arange(len(tokens)), wanted].exp()
        return chosen.cpu().numpy(), {n: v[0].float().cpu().numpy() for n, v in trace.items()}

    probability, trace = read()
    course = memory_rows(trace)
    sublayers: tuple[str, ...] = ()
    moving, constant, held = {}, {}, None
    if model.conditions_norms:
        changes = norm_changes(model, trace["memory"])
        layers = model.config.decoder_layers
        sublayers = tuple(
            ("" if layers == 1 else f"{layer + 1}: ") + place
            for layer in range(layers)
            for place in SUBLAYERS
        )
        for title, part in (("gain", "scale"), ("bias", "shift")):
            constant[title], moving[title] = constant_and_moving(changes[part])
        with constant_norms(model, {part: change.mean(0) for part, change in changes.items()}):
            without, _ = read()
            other = tuple(vocabulary.word(token) for token in write())
        held = Constant(other, mark_findings(other), without)
    return RecorderData(
        title="Memory recorder",
        system=type(model).__name__,
        words=words,
        memory=trace["memory"],
        gates={"input": trace["input_gate"], "forget": trace["forget_gate"]},
        course={
            "change": course["change"],
            "length": np.linalg.norm(trace["memory"], axis=-1),
        },
        cosine=course["cosine"],
        probability=probability,
        sublayers=sublayers,
        moving=moving,
        constant=constant,
        held=held,
        findings=mark_findings(words),
    )
