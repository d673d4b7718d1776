"""Does the report follow? One finding is changed in many patients, and what followed is counted.

A causal test that real films cannot give: between two readings of a patient nothing differs but the
finding (``r2genkit.experiments.bench``). Removed or added, the report should say so; put on the
other side, its side word should change, and the attention of the word should go along. Beside each
rate stands that of the finding classifier, whose tags the decoders read, and what the report would
have said had only the tags, or only the patches, been those of the changed patient.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from r2genkit.batches import Batch
from r2genkit.decoding import decode
from r2genkit.errors import KitError
from r2genkit.experiments.bench import (
    MOVABLE,
    OTHER_SIDE,
    BenchPatient,
    Item,
    bench_patient,
    choices,
    tags_of,
)
from r2genkit.experiments.private_set import _joined
from r2genkit.experiments.trained import TrainedSystem
from r2genkit.images import resize
from r2genkit.intervals import wilson
from r2genkit.metrics.faithfulness import energy
from r2genkit.metrics.findings import default_labeler
from r2genkit.seeds import numpy_rng
from r2genkit.study import Hypothesis, Study
from r2genkit.viz.widgets.bench import patch_cover, statement

KINDS = (*MOVABLE, "cardiomegaly")
"""Finding types of :func:`follow_trials`: frequent enough, and each in a place of its own."""

_AT_ONCE = 32  # patients per minibatch


@dataclass
class _Read:
    """What :func:`follow_trials` keeps of a patient that was read."""

    patient: BenchPatient
    batch: Batch
    tags: dict[str, tuple[float, float]]
    words: tuple[str, ...] = ()
    attention: np.ndarray | None = None  # [T, 2 * S]


def _together(batches: Sequence[Batch]) -> Batch:
    """Minibatches of one study each as one."""
    fields = {}
    for each in dataclasses.fields(Batch):
        values = [getattr(batch, each.name) for batch in batches]
        if isinstance(values[0], torch.Tensor):
            fields[each.name] = _joined(values)
    fields["study_ids"] = tuple(str(row) for row in range(len(batches)))
    return Batch(**{"images": None, "features": None, **fields})


def _decode_all(
    system: TrainedSystem, batches: Sequence[Batch], *, trace: bool
) -> list[Hypothesis]:
    found: list[Hypothesis] = []
    for start in range(0, len(batches), _AT_ONCE):
        rows = decode(
            system.model,
            _together(batches[start : start + _AT_ONCE]),
            system.recipe.decoding,
            vocabulary=system.vocabulary,
            seed=0,
            trace=trace,
        )
        found += [hypotheses[0] for hypotheses in rows]
    return found


@dataclass(frozen=True)
class _Trial:
    kind: str
    change: str
    study: str
    before: BenchPatient
    after: BenchPatient
    key: str


def _trials(studies: Sequence[Study], kinds: Sequence[str], limit: int, seed: int) -> list[_Trial]:
    """What is changed in whom; at most ``limit`` studies per type with it, and as many without."""
    found: list[_Trial] = []
    rng = numpy_rng(seed, "bench/studies")
    mixed = [studies[row] for row in rng.permutation(len(studies))]
    for kind in kinds:
        with_it, without_it = [], []
        for study in mixed:
            (with_it if any(f.name == kind for f in study.findings) else without_it).append(study)
        both = []
        for study in with_it:
            patient = bench_patient(study)
            keys = [item.key for item in patient.items if item.finding.name == kind]
            if len(keys) == 1:  # with two, one would stay
                both.append(("remove", study, patient, keys[0]))
        both = both[:limit]
        for study in without_it[:limit]:
            sides = [side for side in choices(kind).sides if side in OTHER_SIDE]
            draw = numpy_rng(seed, f"bench/side/{study.id}/{kind}").random()
            side = sides[int(draw * len(sides))] if sides else None
            patient = bench_patient(study).with_added(kind, side)
            both.append(("add", study, patient, patient.items[-1].key))
        for change, study, patient, key in both:
            without = patient.without(key)
            pair = (patient, without) if change == "remove" else (without, patient)
            found.append(_Trial(kind, change, study.id, *pair, key))
            if OTHER_SIDE.get(patient.item(key).finding.side) in choices(kind).sides:
                moved = patient.mirrored(key)
                found.append(_Trial(kind, "flip", study.id, patient, moved, key))
    return found


def follow_trials(
    system: TrainedSystem,
    studies: Sequence[Study],
    *,
    kinds: Sequence[str] = KINDS,
    limit: int = 16,
    seed: int = 0,
) -> pd.DataFrame:
    """Change one finding in many patients, and write down what followed.

    Three changes: ``remove`` (studies with one finding of the type), ``add`` (studies without any:
    moderate, at the most frequent place, on a side drawn by the study's own stream) and ``flip``
    (the finding of either, to the other side). Everything else about the patient stays.

    Args:
        system: a trained system that attends to patches.
        studies: of the phantom corpus.
        kinds: finding types.
        limit: at most so many studies with a type, and as many without it.
        seed: names the draws.

    Returns:
        One row per trial: "kind", "change", "study"; "called_before", "called_after" (the tag says
        yes; None without a tag); "stated_before", "stated_after", and "stated_tags",
        "stated_patches" if only these had changed (None where a model reads no tags);
        "side_before", "side_after" (whether the sides that the report says of the finding are
        those drawn; None where it is not stated); "others" (how many other finding types are stated
        now and were not, or the reverse), "others_called" (the same of tags); of flips that are
        stated before and after "old_before", "old_after", "new_before", "new_after": share of the
        attention of its words (their mean) in the old and the new place; else NaN.

    Raises:
        KitError: a study that is not of the phantom, a model without attention, or nothing to try.
    """
    trials = _trials(studies, kinds, limit, seed)
    if not trials:
        raise KitError("there is no study to change: give studies of the phantom and finding types")
    encoder = system.recipe.encoder
    size, packed = encoder.image_size, encoder.packed_size or encoder.image_size
    reads: dict[tuple[str, tuple[Item, ...]], _Read] = {}

    def at(study: str, patient: BenchPatient) -> _Read:
        return reads[study, patient.items]

    for trial in trials:
        for patient in (trial.before, trial.after):
            if (trial.study, patient.items) not in reads:
                films = [resize(film, (size, size)) for film in patient.films(packed)]
                batch = system.batch(films)
                reads[trial.study, patient.items] = _Read(patient, batch, tags_of(system, batch))
    every = list(reads.values())
    for read, hypothesis in zip(
        every, _decode_all(system, [one.batch for one in every], trace=True)
    ):
        if "attention" not in hypothesis.trace:
            raise KitError(f"{system.recipe.title} does not attend to patches: take another run")
        read.words = tuple(hypothesis.text.split())
        seen = np.asarray(hypothesis.trace["attention"], dtype=float)
        read.attention = seen.reshape(len(seen), seen.shape[1] * seen.shape[2])

    roads: dict[int, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    told = [i for i, trial in enumerate(trials) if trial.change != "flip"]
    if every[0].batch.tags is not None and every[0].batch.features is not None and told:
        crossed = []
        for i in told:
            before, after = (at(trials[i].study, p) for p in (trials[i].before, trials[i].after))
            crossed.append(dataclasses.replace(before.batch, tags=after.batch.tags))
            crossed.append(dataclasses.replace(after.batch, tags=before.batch.tags))
        texts = [tuple(one.text.split()) for one in _decode_all(system, crossed, trace=False)]
        roads = {i: (texts[2 * n], texts[2 * n + 1]) for n, i in enumerate(told)}
    return pd.DataFrame(
        [
            _outcome(
                trial,
                at(trial.study, trial.before),
                at(trial.study, trial.after),
                roads.get(i),
                system,
                size,
            )
            for i, trial in enumerate(trials)
        ]
    )


def _stated(words: Sequence[str]) -> frozenset[str]:
    found = default_labeler().label(" ".join(words))
    return frozenset(name for name, label in found.items() if label == "positive")


def _called(system: TrainedSystem, read: _Read) -> frozenset[str]:
    limit = 1.0 if system.recipe.tags is None else system.recipe.tags.called_at
    return frozenset(name for name, (own, _) in read.tags.items() if own >= limit)


def _outcome(
    trial: _Trial,
    before: _Read,
    after: _Read,
    roads: tuple[tuple[str, ...], tuple[str, ...]] | None,
    system: TrainedSystem,
    size: int,
) -> dict[str, Any]:
    kind, pair = trial.kind, (before, after)
    said = [statement(one.words, kind) for one in pair]
    called = [_called(system, one) for one in pair]
    row: dict[str, Any] = {"kind": kind, "change": trial.change, "study": trial.study}
    for name, one, tags, words in zip(("before", "after"), pair, called, said):
        row[f"called_{name}"] = kind in tags if kind in one.tags else None
        row[f"stated_{name}"] = words.polarity == "positive"
        drawn = {
            side
            for item in one.patient.items
            if item.finding.name == kind
            for side in ("left", "right")
            if item.finding.side in (side, "bilateral")
        }
        row[f"side_{name}"] = set(words.sides) == drawn if row[f"stated_{name}"] and drawn else None
    for name, place in (("tags", 0), ("patches", 1)):
        row[f"stated_{name}"] = (
            None if roads is None else statement(roads[place], kind).polarity == "positive"
        )
    row["others"] = len((_stated(before.words) ^ _stated(after.words)) - {kind, "other"})
    row["others_called"] = len((called[0] ^ called[1]) - {kind})
    row |= dict.fromkeys(("old_before", "old_after", "new_before", "new_after"), float("nan"))
    if trial.change == "flip" and row["stated_before"] and row["stated_after"]:
        grid = math.isqrt(before.attention.shape[1] // 2)
        for place, patient in (("old", trial.before), ("new", trial.after)):
            cover = patch_cover(patient.masks(size)[trial.key], grid, grid)
            for name, one, words in zip(("before", "after"), pair, said):
                seen = one.attention[list(words.words)]
                share = energy(seen, np.broadcast_to(cover, seen.shape))
                row[f"{place}_{name}"] = float(share.mean())
    return row


@dataclass(frozen=True)
class Rate:
    """A share with its counts and its 95 % interval.

    Attributes:
        count, of: so many out of so many.
    """

    count: int
    of: int

    @property
    def share(self) -> float:
        """NaN where there is nothing to count."""
        return self.count / self.of if self.of else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """By Wilson."""
        return wilson(self.count, self.of)

    def __str__(self) -> str:
        if not self.of:
            return "0/0"
        low, high = self.interval
        return f"{self.count}/{self.of} = {self.share:.0%} [{low:.0%}, {high:.0%}]"


def _rate(values: pd.Series | Sequence[Any]) -> Rate:
    known = [bool(value) for value in values if value is not None and value == value]
    return Rate(sum(known), len(known))


def _changed(values: pd.Series, was: bool) -> Rate:
    """How many of the known values are not as they were."""
    return _rate([None if value is None else bool(value) != was for value in values])


def follow_rates(trials: pd.DataFrame) -> pd.DataFrame:
    """How often tags and reports follow a finding that is removed or added.

    A removal is followed where the finding was stated before and no longer is, among those stated
    before; an addition where it was not stated before and now is, among those not stated before.
    For the columns of the two roads the same reports are counted, with only the tags or only the
    patches of the changed patient.

    Returns:
        One row per type and change, and one "all" per change: "kind", "change", "trials";
        :class:`Rate` "tag", "report", "only tags", "only patches"; "others": mean number of other
        finding types whose statement changed although they had not.
    """
    rows = []
    for change, was in (("remove", True), ("add", False)):
        every = trials[trials["change"] == change]
        for kind, own in [*every.groupby("kind", sort=False), ("all", every)]:
            if own.empty:
                continue
            asked = own[own["stated_before"] == was]
            called = own[[value is not None and value == was for value in own["called_before"]]]
            rows.append(
                {
                    "kind": kind,
                    "change": change,
                    "trials": len(own),
                    "tag": _changed(called["called_after"], was),
                    "report": _changed(asked["stated_after"], was),
                    "only tags": _changed(asked["stated_tags"], was),
                    "only patches": _changed(asked["stated_patches"], was),
                    "others": float(own["others"].mean()),
                }
            )
    return pd.DataFrame(rows)


def side_rates(trials: pd.DataFrame) -> pd.DataFrame:
    """Whether side words and attention follow a finding to the other side.

    Only flips whose finding the report states before and after. A report that says the same
    sides both times can be right before or after, never both times.

    Returns:
        One row per type and one "all": "kind", "trials" (all flips); :class:`Rate` "stated"
        (before and after), "right before", "right after", "right twice" (the sides said are those
        drawn), "attention" (the word's attention in the new place is greater after than before:
        half of the time if it does not follow); "old", "new": mean change of the share in the old
        and in the new place.
    """
    rows = []
    every = trials[trials["change"] == "flip"]
    for kind, own in [*every.groupby("kind", sort=False), ("all", every)]:
        if own.empty:
            continue
        both = own[own["stated_before"] & own["stated_after"]]
        seen = both.dropna(subset=["new_before", "new_after", "old_before", "old_after"])
        rows.append(
            {
                "kind": kind,
                "trials": len(own),
                "stated": _rate(own["stated_before"] & own["stated_after"]),
                "right before": _rate(both["side_before"]),
                "right after": _rate(both["side_after"]),
                "right twice": _rate(
                    [bool(a) and bool(b) for a, b in zip(both["side_before"], both["side_after"])]
                ),
                "attention": _rate(seen["new_after"] > seen["new_before"]),
                "old": float((seen["old_after"] - seen["old_before"]).mean()),
                "new": float((seen["new_after"] - seen["new_before"]).mean()),
            }
        )
    return pd.DataFrame(rows)


def rates_table(rates: pd.DataFrame) -> pd.DataFrame:
    """:func:`follow_rates` or :func:`side_rates` to be read: titles of types, texts for rates."""
    titles = default_labeler().titles
    told = rates.copy()
    told["kind"] = [titles.get(kind, kind) for kind in rates["kind"]]
    for column in told.columns:
        if column in ("old", "new"):
            told[column] = [
                f"{100 * value:+.1f} points" if np.isfinite(value) else ""
                for value in rates[column]
            ]
        elif column == "others":
            told[column] = [f"{value:.1f}" for value in rates[column]]
        else:
            told[column] = [str(value) for value in told[column]]
    return told.rename(
        columns={
            "kind": "finding",
            "tag": "tag follows",
            "report": "report follows",
            "only tags": "... if only tags change",
            "only patches": "... if only patches change",
            "others": "other findings restated",
            "stated": "stated twice",
            "attention": "more attention in the new place",
            "old": "share in the old place",
            "new": "share in the new place",
        }
    )
