"""Do the maps of a trained model mean something? Faithfulness of finding words on the phantom.

Unit of measurement: the words of a finding that a report states and the phantom drew. For each,
every kind of map is asked whether it is where the finding is, and whether the word depends on what
it shows (``r2genkit.metrics.faithfulness``):

``attention``
    what the model read for the word: the last layer's mean over heads (Transformers), or the
    attention of its sentence (hierarchical models).
``rollout``
    the same followed down through the layers over patches, half attention and half residual
    (Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers"). Transformers only; the
    layers over words are not followed, since a word's map is asked for and not a report's.
``gradient``
    attention times its positive gradient with respect to the word's log-probability, averaged over
    heads (after Chefer et al. 2021, "Generic Attention-model Explainability", eq. 5). Ours: summed
    over layers and over all steps, since a word also depends on what was read for the words before
    it. It is the only one of the three that knows which word is written.
``random``, ``centre``
    maps without knowledge.

Taken away means: replaced by the mean patch feature of training studies. Tags stay as they were
told, so a word that comes from a tag alone does not fall; ``without tag`` and ``without image`` say
how far the word's probability falls where either is missing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from r2genkit.batches import Batch, collate
from r2genkit.decoding import decode_all
from r2genkit.errors import KitError
from r2genkit.experiments.data import PreparedImages, PreparedText, report_loader
from r2genkit.experiments.environment import code_hash, git_revision
from r2genkit.experiments.lines import read_complete
from r2genkit.experiments.results import Difference, Score, replace_line
from r2genkit.experiments.runner import RunResult
from r2genkit.experiments.tables import cell, number
from r2genkit.experiments.tagging import decoder_tags
from r2genkit.experiments.trained import TrainedSystem
from r2genkit.metrics.faithfulness import (
    centre_map,
    curve_area,
    energy,
    energy_chance,
    entropy,
    pointing,
    pointing_chance,
    ranks,
    steps_of,
    study_means,
    unchanged_share,
)
from r2genkit.metrics.findings import default_labeler
from r2genkit.metrics.uncertainty import ABOVE, BELOW, SAME, percentile_interval, resample_weights
from r2genkit.models.attention import AdditiveAttention, DotAttention
from r2genkit.models.base import FlatModel, ReportModel
from r2genkit.models.hierarchical import HierarchicalModel
from r2genkit.models.transformer import TransformerReporter
from r2genkit.paths import results_dir
from r2genkit.phantom import PhantomView, finding_masks
from r2genkit.seeds import integer, numpy_rng
from r2genkit.study import Study

MAPS = ("attention", "rollout", "gradient", "random", "centre")
STEPS = 7
_CHUNK = 48  # finding words per minibatch
_MEAN_OF = 200  # training studies that the mean patch feature is made of


@dataclass(frozen=True)
class Unit:
    """The words of one finding that a report states and the image shows.

    Attributes:
        study: id; row: its place among the studies read.
        finding: type; words: what the report says.
        places: positions of these words in the report, from 0.
        sentence: which of the report's sentences; within: positions in it.
        cover: share of each patch that the drawn finding covers ``[V * S]``.
    """

    study: str
    row: int
    finding: str
    words: str
    places: tuple[int, ...]
    sentence: int
    within: tuple[int, ...]
    cover: np.ndarray


def patch_cover(study: Study, finding: str, grid: int) -> np.ndarray:
    """Share of each patch that the study's findings of a type cover, ``[V * S]`` in [0, 1].

    Raises:
        KitError: the study is not of the phantom, so nobody knows where a finding is.
    """
    views = [view.image for view in study.views][:2]
    if not views or not all(isinstance(image, PhantomView) for image in views):
        raise KitError(
            f"study {study.id} is not of the phantom: only there it is known which patch shows a "
            "finding."
        )
    side = max(16, -(-64 // grid))  # mask pixels per patch; the phantom draws 64 at least
    masks = finding_masks(views[0].patient, side * grid)
    cover = np.zeros((2, grid, grid))
    for index, own in enumerate(study.findings):
        if own.name != finding:
            continue
        for place, image in enumerate(views):
            mask = masks[index, image.projection]
            part = mask.reshape(grid, side, grid, side).mean((1, 3))
            cover[place] = np.maximum(cover[place], part)
    return cover.ravel()


def sentences_of(report: str) -> list[list[int]]:
    """Positions of the words of each sentence of a tokenised report, full stops left out."""
    found: list[list[int]] = [[]]
    for place, word in enumerate(report.split()):
        if word == ".":
            found.append([])
        else:
            found[-1].append(place)
    return [places for places in found if places]


def find_units(
    reports: Mapping[str, str], studies: Mapping[str, Study], *, grid: int, limit: int | None = None
) -> list[Unit]:
    """Finding words of reports that the image bears out, in the order of the reports.

    Args:
        reports: generated, by study id.
        studies: at least these.
        grid: patches per side of a view.
        limit: at most so many studies with a unit; None = all.

    Raises:
        KitError: a study with a matching finding is not of the phantom.
    """
    labeler, units, used = default_labeler(), [], 0
    for row, (study_id, report) in enumerate(reports.items()):
        study, words = studies[study_id], report.split()
        drawn = {finding.name for finding in study.findings}
        seen: dict[str, np.ndarray] = {}
        before = len(units)
        for number_, places in enumerate(sentences_of(report)):
            own = [words[place] for place in places]
            for mention in labeler.mentions_of_sentence(" ".join(own)):
                if mention.polarity != "positive" or mention.finding not in drawn:
                    continue
                if mention.finding not in seen:
                    seen[mention.finding] = patch_cover(study, mention.finding, grid)
                cover = seen[mention.finding]
                if not cover.any():
                    continue  # drawn, but hidden behind something or outside of the film
                same = mention.sentence.split() == own
                within = tuple(range(*mention.span)) if same else tuple(range(len(own)))
                at = tuple(places[i] for i in within)
                said = " ".join(words[place] for place in at)
                units.append(Unit(study_id, row, mention.finding, said, at, number_, within, cover))
        used += len(units) > before
        if limit is not None and used == limit:
            break
    return units


# --- reading the model --------------------------------------------------------------------------


@dataclass
class Material:
    """Studies as a model sees them, with the reports to explain.

    Attributes:
        study_ids: N.
        features: ``[N, V, S, D]``; mask: ``[N, V]``; tags: ``[N, F]``; neighbours: ``[N, K, L]``.
        tokens: ids of the reports.
        types: names of the F tags.
        mean: ``[D]``, what a patch that is taken away is replaced by.
    """

    study_ids: tuple[str, ...]
    features: Tensor
    mask: Tensor
    tags: Tensor | None
    neighbours: Tensor | None
    tokens: list[list[int]]
    types: tuple[str, ...]
    mean: Tensor

    @property
    def present(self) -> Tensor:
        """Which patches are there: ``[N, V * S]`` bool."""
        return self.mask.repeat_interleave(self.features.shape[2], dim=1)

    def batch(self, rows: Sequence[int], model: ReportModel, **changes: Tensor | None) -> Batch:
        """A minibatch of studies, repeats allowed; ``changes`` replace features or tags."""
        index = torch.as_tensor(rows)

        def take(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[index]

        given = {"features": take(self.features), "tags": take(self.tags), **changes}
        return collate(
            [self.study_ids[row] for row in rows],
            self.mask[index],
            tokens=[self.tokens[row] for row in rows],
            neighbours=take(self.neighbours),
            layout=model.layout,
            **given,
        )


def read_material(
    system: TrainedSystem,
    text: PreparedText,
    images: PreparedImages,
    reports: Mapping[str, str],
    *,
    part: str = "test",
    seed: int = 0,
) -> Material:
    """The studies of one part with reports to explain.

    Raises:
        KitError: the model reads images and no patch features.
    """
    recipe = system.recipe
    if images.features is None:
        raise KitError(
            f"{recipe.title} trains its encoder: faithfulness needs a recipe on frozen patch "
            "features."
        )
    told = decoder_tags(recipe.tags, system.tags, text, part) if system.tags else None
    ids = text.part(part)
    near = system.retriever.neighbours(ids) if system.retriever is not None else None
    loader = report_loader(
        recipe, text, images, part, seed=seed, training=False, tags=told, neighbours=near
    )
    batches = list(loader)
    place = {study_id: row for row, study_id in enumerate(s for b in batches for s in b.study_ids)}
    rows = torch.tensor([place[study_id] for study_id in reports])

    def joined(name: str) -> Tensor | None:
        values = [getattr(batch, name) for batch in batches]
        return None if values[0] is None else torch.cat(values)[rows]

    rng = numpy_rng(seed, "faithfulness/mean")
    train = text.part("train")
    drawn = [train[i] for i in rng.permutation(len(train))[:_MEAN_OF]]
    where = {study_id: row for row, study_id in enumerate(images.features.study_ids)}
    at = np.array([where[study_id] for study_id in drawn])
    known = images.features.gather(at)[torch.from_numpy(images.features.view_mask[at])]
    vocabulary = system.vocabulary
    return Material(
        tuple(reports),
        joined("features"),
        joined("view_mask"),
        joined("tags"),
        joined("neighbours"),
        [vocabulary.encode(report, len(report.split()) + 2) for report in reports.values()],
        tuple(system.tags.types) if system.tags else (),
        known.mean((0, 1)),
    )


def word_scores(
    model: ReportModel, batch: Batch, units: Sequence[Unit], *, trace: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Log-probability of each unit's words, by teacher forcing, and the attention it read with.

    Args:
        model: in evaluation mode.
        batch: row p belongs to unit p.
        units: P of them.
        trace: also return the maps.

    Returns:
        Mean log-probability per word ``[P]`` and attention ``[P, V * S]`` (the mean over the
        words; a hierarchical model's is that of the sentence), or None.

    Raises:
        KitError: a unit lies beyond what the model's layout keeps of a report.
    """
    scores, maps = [], []
    if isinstance(model, FlatModel):
        log_probs, traces = model.unroll(batch, trace=trace)
        targets = batch.tokens[:, 1:]
        for row, unit in enumerate(units):
            at = list(unit.places)
            scores.append(log_probs[row, at, targets[row, at]].mean())
            if trace:
                maps.append(traces["attention"][row, at].mean(0).flatten())
    elif isinstance(model, HierarchicalModel):
        unrolled = model.unroll(batch, trace=trace)
        log_probs, targets = unrolled.log_probs(), batch.sentences[:, :, 1:]
        for row, unit in enumerate(units):
            if unit.sentence >= targets.shape[1] or max(unit.within) >= targets.shape[2]:
                raise KitError(
                    f"study {unit.study}: sentence {unit.sentence + 1} is beyond what the model's "
                    "layout keeps of a report."
                )
            at = list(unit.within)
            words = targets[row, unit.sentence, at]
            scores.append(log_probs[row, unit.sentence, at, words].mean())
            if trace:
                maps.append(unrolled.traces["attention"][row, unit.sentence].flatten())
    else:
        raise KitError(f"{type(model).__name__} has no words to score one by one.")
    return torch.stack(scores), torch.stack(maps) if maps else None


@contextmanager
def _watched(model: ReportModel, patches: int) -> Iterator[list[Callable[[], Tensor]]]:
    """Collect, during one forward pass, how to get "attention times gradient" after the backward.

    Each entry gives ``[P, V * S]`` for one place that reads patches. Nothing in the models knows of
    it: the fused product of a Transformer has no attention weights to take a gradient of, so the
    gradient of the heads' output is taken, times the values that were read
    (``dL/dA_ts = dL/do_t . v_s``).
    """
    found: list[Callable[[], Tensor]] = []
    hooks = []

    def weights_of(_module: nn.Module, _given: tuple, result: tuple[Tensor, Tensor]) -> None:
        weights = result[1]
        if weights.shape[-1] != patches:
            return  # it reads findings or sentences
        weights.retain_grad()

        def product() -> Tensor:
            if weights.grad is None:
                return weights.detach().new_zeros(len(weights), patches)
            value = (weights.detach() * weights.grad).clamp_min(0)
            return value.sum(1) if value.dim() == 3 else value

        found.append(product)

    for module in model.modules():
        if isinstance(module, AdditiveAttention | DotAttention):
            hooks.append(module.register_forward_hook(weights_of))
    if isinstance(model, TransformerReporter):
        for layer in model.decoder.layers:
            hooks += _watch_heads(layer.cross_attention, patches, found)
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _watch_heads(attention: nn.Module, patches: int, found: list) -> list:
    """Hooks on one multi-head attention over patches."""
    kept: dict[str, Tensor] = {}

    def given(_module: nn.Module, arguments: tuple, keywords: dict) -> None:
        kept["x"], kept["keys"], kept["values"] = (value.detach() for value in arguments[:3])
        kept["mask"] = keywords["mask"]

    def heads(_module: nn.Module, arguments: tuple) -> None:
        (output,) = arguments
        output.retain_grad()
        x, keys, values, mask = (kept[name] for name in ("x", "keys", "values", "mask"))

        def product() -> Tensor:
            queries = attention.split(attention.query(x))  # [P, h, T, d]
            scores = queries @ keys.transpose(-1, -2) / keys.shape[-1] ** 0.5
            weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)  # [P, h, T, L]
            moved = attention.split(output.grad) @ values.transpose(-1, -2)
            return (weights * moved).clamp_min(0).mean(1).sum(1)[:, :patches]

        found.append(product)

    return [
        attention.register_forward_pre_hook(given, with_kwargs=True),
        attention.output.register_forward_pre_hook(heads),
    ]


def gradient_maps(model: ReportModel, batch: Batch, units: Sequence[Unit]) -> Tensor:
    """Attention times its positive gradient, ``[P, V * S]``; see the module.

    Rows of a minibatch do not touch each other, so one backward pass serves all units.

    Raises:
        KitError: the model has no attention over patches.
    """
    patches = batch.features.shape[1] * batch.features.shape[2]
    leaf = batch.features.clone().requires_grad_(True)
    with torch.enable_grad(), _watched(model, patches) as found:
        scores, _ = word_scores(model, dataclasses.replace(batch, features=leaf), units)
        if not found:
            raise KitError(f"{type(model).__name__} has no attention over patches.")
        scores.sum().backward()
        with torch.no_grad():
            total = torch.stack([product() for product in found]).sum(0)
    model.zero_grad(set_to_none=True)
    return total


def rollout_maps(model: TransformerReporter, batch: Batch, attention: Tensor) -> Tensor:
    """Attention followed down to the patches below the patch encoder, ``[P, V * S]``.

    Args:
        model: a Transformer.
        batch: row p belongs to map p.
        attention: ``[P, V * S]`` over the patch encoder's outputs.
    """
    layers = model.patch_traces(batch)["patch_attention"].mean(2)  # [P, layers, L, L]
    patches = attention.shape[1]
    flow = attention.clone()
    for number_ in reversed(range(layers.shape[1])):
        seen = layers[:, number_, :patches, :patches]
        flow = 0.5 * flow + 0.5 * torch.bmm(flow.unsqueeze(1), seen).squeeze(1)
    return flow


# --- measuring ----------------------------------------------------------------------------------


@dataclass
class Measured:
    """Maps and curves of all units of one run.

    Attributes:
        units: P.
        present: ``[P, V * S]`` bool.
        maps: by kind ``[P, V * S]``, not negative, 0 where absent.
        deletion, insertion: by kind ``[P, K + 1]``, geometric mean probability per word.
        probability: ``[P]`` as written; without_image, without_tag: ``[P]``, the tag's being NaN
            where the model has no tag of the finding.
    """

    units: list[Unit]
    present: np.ndarray
    maps: dict[str, np.ndarray]
    deletion: dict[str, np.ndarray]
    insertion: dict[str, np.ndarray]
    probability: np.ndarray
    without_image: np.ndarray
    without_tag: np.ndarray


def measure_units(
    model: ReportModel,
    material: Material,
    units: Sequence[Unit],
    *,
    steps: int = STEPS,
    seed: int = 0,
) -> Measured:
    """Maps, deletion and insertion curves of every unit.

    Args:
        model: put into evaluation mode.
        material: studies and reports that the units come from.
        units: from :func:`find_units`.
        steps: parts in which patches are taken away.
        seed: names the random maps.

    Raises:
        KitError: there is no unit, or the model has no attention over patches.
    """
    if not units:
        raise KitError(
            "no report states a finding that the phantom drew: there is no map to measure."
        )
    model.eval()
    parts = []
    for start in range(0, len(units), _CHUNK):
        chunk = list(units[start : start + _CHUNK])
        parts.append(_measure_chunk(model, material, chunk, steps, seed, start))
    joined: dict = {"units": list(units)}
    for field in dataclasses.fields(Measured)[1:]:
        values = [getattr(part, field.name) for part in parts]
        joined[field.name] = (
            {kind: np.concatenate([value[kind] for value in values]) for kind in values[0]}
            if isinstance(values[0], dict)
            else np.concatenate(values)
        )
    return Measured(**joined)


def _measure_chunk(
    model: ReportModel, material: Material, units: list[Unit], steps: int, seed: int, start: int
) -> Measured:
    rows = [unit.row for unit in units]
    batch = material.batch(rows, model)
    present = material.present[rows]
    with torch.no_grad():
        scores, attention = word_scores(model, batch, units, trace=True)
    maps = {"attention": attention * present}
    if isinstance(model, TransformerReporter):
        maps["rollout"] = rollout_maps(model, batch, attention) * present
    maps["gradient"] = gradient_maps(model, batch, units) * present
    rng = numpy_rng(seed, f"faithfulness/random/{start}")
    maps["random"] = torch.from_numpy(rng.random(tuple(present.shape))) * present
    views, patches = material.features.shape[1:3]
    middle = torch.from_numpy(centre_map(round(patches**0.5), views))
    maps["centre"] = middle.expand(len(units), -1) * present
    found = {kind: value.double().numpy() for kind, value in maps.items()}

    @torch.no_grad()
    def probability(keep: np.ndarray) -> np.ndarray:
        """Of the words with only the patches in ``keep [P, V * S]``."""
        kept = torch.from_numpy(keep).view(len(units), views, patches, 1)
        features = torch.where(kept, batch.features, material.mean)
        features = features * batch.view_mask[:, :, None, None]
        changed, _ = word_scores(model, dataclasses.replace(batch, features=features), units)
        return changed.exp().numpy()

    there = present.numpy()
    counts = np.stack([steps_of(int(row.sum()), steps) for row in there])  # [P, K + 1]
    full = scores.exp().numpy()
    empty = probability(np.zeros_like(there))
    deletion, insertion = {}, {}
    for kind, value in found.items():
        place = ranks(value, there)
        inner = counts[:, 1:-1].T
        gone = [probability(there & (place >= count[:, None])) for count in inner]
        given = [probability(there & (place < count[:, None])) for count in inner]
        deletion[kind] = np.stack([full, *gone, empty], 1)
        insertion[kind] = np.stack([empty, *given, full], 1)
    return Measured(
        units,
        there,
        found,
        deletion,
        insertion,
        full,
        empty,
        _without_tag(model, material, batch, units),
    )


@torch.no_grad()
def _without_tag(
    model: ReportModel, material: Material, batch: Batch, units: list[Unit]
) -> np.ndarray:
    """Probability of the words where the finding's tag says no, ``[P]``."""
    if batch.tags is None:
        return np.full(len(units), np.nan)
    column = {name: place for place, name in enumerate(material.types)}
    tags, known = batch.tags.clone(), np.zeros(len(units), bool)
    for row, unit in enumerate(units):
        if unit.finding in column:
            tags[row, column[unit.finding]] = 0.0
            known[row] = True
    scores, _ = word_scores(model, dataclasses.replace(batch, tags=tags), units)
    return np.where(known, scores.exp().numpy(), np.nan)


def swap_test(
    system: TrainedSystem, material: Material, reports: Mapping[str, str], *, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Share of words that stay when a study gets another's images, or its tags, or both.

    Greedy or as the recipe decodes; partners are the studies themselves in a seeded order, moved on
    by one. Retrieved reports go with the images.

    Returns:
        "image", "tags", "both": share by study id.
    """
    order = numpy_rng(seed, "faithfulness/swap").permutation(len(material.study_ids))
    partner = np.empty_like(order)
    partner[order] = np.roll(order, 1)
    rows = list(range(len(partner)))
    other = torch.from_numpy(partner)
    kinds = {"image": ("features", "mask", "neighbours"), "tags": ("tags",)}
    kinds["both"] = (*kinds["image"], *kinds["tags"])
    found = {}
    for kind, names in kinds.items():
        if kind == "tags" and material.tags is None:
            continue
        changes = {
            name: value[other] for name in names if (value := getattr(material, name)) is not None
        }
        changed = dataclasses.replace(material, **changes)
        batches = (
            changed.batch(rows[start : start + _CHUNK], system.model)
            for start in range(0, len(rows), _CHUNK)
        )
        config, vocabulary = system.recipe.decoding, system.vocabulary
        written = decode_all(system.model, batches, config, vocabulary=vocabulary, seed=seed)
        found[kind] = unchanged_share(
            reports, {one: hypothesis.text for one, hypothesis in written.items()}
        )
    return found


# --- rows ---------------------------------------------------------------------------------------

KEY = ("run", "map", "corpus", "protocol", "profile", "seed")
_ORDER = ("profile", "protocol", "order", "run", "seed", "place")
WHERE = ("pointing", "energy", "entropy", "deletion", "insertion")
"""Scores of a map."""
WHOLE = (
    "probability",
    "without image",
    "without tag",
    "unchanged, other image",
    "unchanged, other tags",
    "unchanged, both",
)
"""Scores of a model, whatever the map."""


class FaithfulnessRow(BaseModel):
    """One kind of map of one trained run, or (``map = "model"``) what no map decides.

    Attributes:
        place: order within the run.
        units: finding words measured; studies: those they come from.
        scores: by name, with 95 % intervals over studies.
        recipe_hash, code_hash, split_fingerprint: of the run.
        digest: of everything that decides the numbers: weights, reports, settings and code.
        against: paired difference to what knows nothing: the chance of the same findings
            (pointing, energy) or the random order (deletion, insertion).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    title: str
    order: int
    map: str
    place: int
    corpus: str
    synthetic: bool
    protocol: str
    profile: Literal["smoke", "lab", "paper"]
    seed: int
    units: int = Field(ge=1)
    studies: int = Field(ge=1)
    recipe_hash: str
    code_hash: str
    split_fingerprint: str
    digest: str = Field(pattern=r"^[0-9a-f]{16}$")
    scores: dict[str, Score]
    against: dict[str, Difference] = Field(default_factory=dict)
    command: str
    git_revision: str
    date: str


def study_score(by_study: Mapping[str, float], *, seed: int, resamples: int = 1000) -> Score:
    """Mean over studies with its 95 % bootstrap interval."""
    values = np.array(list(by_study.values()))
    if not len(values):
        return Score(value=None, reason="no study has a value")
    weights = resample_weights(len(values), resamples=resamples, seed=seed)
    low, high = percentile_interval(weights @ values / len(values))
    return Score(value=float(values.mean()), low=low, high=high)


def _paired(
    ours: Mapping[str, float], theirs: Mapping[str, float], *, seed: int, resamples: int
) -> Difference | None:
    shared = [one for one in ours if one in theirs]
    if not shared:
        return None
    gap = {one: ours[one] - theirs[one] for one in shared}
    score = study_score(gap, seed=seed, resamples=resamples)
    verdict = ABOVE if score.low > 0 else BELOW if score.high < 0 else SAME
    return Difference(value=score.value, low=score.low, high=score.high, verdict=verdict)


def measure_run(
    result: RunResult,
    *,
    limit: int | None = 120,
    steps: int = STEPS,
    fresh: bool = False,
) -> list[FaithfulnessRow]:
    """Measure the maps of a trained run on the test studies of the phantom, or read what is kept.

    Args:
        result: a finished training run of a model with attention.
        limit: studies whose finding words are measured, and with which the swap test is made.
        steps: parts in which patches are taken away.
        fresh: measure again what has been measured.

    Raises:
        KitError: not of the phantom, no attention, or no finding word that the image bears out.
    """
    recipe, row = result.recipe, result.row
    if recipe.data.corpus != "phantom":
        raise KitError(
            f"{row.title} was trained on {recipe.data.corpus}: only the phantom knows where a "
            "finding is."
        )
    digest = _digest(result, limit, steps)
    if not fresh:
        kept = [
            one
            for one in read_faithfulness_rows(row.profile, corpus=row.corpus)
            if (one.run, one.seed, one.digest) == (row.run, row.seed, digest)
        ]
        if kept:
            return kept
    text, system, images = result.text(), result.system(), result.images()
    material = read_material(system, text, images, result.hypotheses, seed=row.seed)
    grid = round(material.features.shape[2] ** 0.5)
    units = find_units(result.hypotheses, text.studies, grid=grid, limit=limit)
    found = measure_units(system.model, material, units, steps=steps, seed=row.seed)
    few = tuple(result.hypotheses)[: limit or len(result.hypotheses)]
    part = _first(material, len(few))
    swapped = swap_test(system, part, {one: result.hypotheses[one] for one in few}, seed=row.seed)
    rows = _rows(result, found, swapped, digest)
    path = _file(row.profile, row.corpus)
    for one in rows:
        replace_line(path, one.model_dump(mode="json"), key=KEY, order=_ORDER)
    return rows


def _digest(result: RunResult, limit: int | None, steps: int) -> str:
    row = result.row
    decides = [row.recipe_hash, row.code_hash, row.split_fingerprint, code_hash(__name__)]
    content = json.dumps([decides, row.seed, limit, steps, result.hypotheses], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _first(material: Material, count: int) -> Material:
    changes = {
        name: value[:count]
        for name in ("study_ids", "features", "mask", "tags", "neighbours", "tokens")
        if (value := getattr(material, name)) is not None
    }
    return dataclasses.replace(material, **changes)


def map_scores(found: Measured, kind: str) -> dict[str, np.ndarray]:
    """Scores of one kind of map, ``[P]`` by name."""
    cover = np.stack([unit.cover for unit in found.units])
    values, present = found.maps[kind], found.present
    return {
        "pointing": pointing(values, cover, present),
        "energy": energy(values, cover, present),
        "entropy": entropy(values, present),
        "deletion": curve_area(found.deletion[kind]),
        "insertion": curve_area(found.insertion[kind]),
    }


def _rows(
    result: RunResult, found: Measured, swapped: dict[str, dict[str, float]], digest: str
) -> list[FaithfulnessRow]:
    row = result.row
    studies = [unit.study for unit in found.units]
    cover = np.stack([unit.cover for unit in found.units])
    resamples = max(1, result.recipe.scoring.bootstrap)
    draws = {"seed": integer(row.seed, "faithfulness"), "resamples": resamples}

    def means(values: np.ndarray) -> dict[str, float]:
        return study_means(list(values), studies)

    chance = {
        "pointing": means(pointing_chance(cover, found.present)),
        "energy": means(energy_chance(cover, found.present)),
    }
    blind = {name: means(map_scores(found, "random")[name]) for name in ("deletion", "insertion")}
    shared = {
        "run": row.run,
        "title": row.title,
        "order": row.order,
        "corpus": row.corpus,
        "synthetic": row.synthetic,
        "protocol": row.protocol,
        "profile": row.profile,
        "seed": row.seed,
        "units": len(studies),
        "studies": len(set(studies)),
        "recipe_hash": row.recipe_hash,
        "code_hash": row.code_hash,
        "split_fingerprint": row.split_fingerprint,
        "digest": digest,
        "command": f"r2genkit faithfulness {row.run} --profile {row.profile} --seed {row.seed}",
        "git_revision": git_revision(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    rows = []
    for place, kind in enumerate(kind for kind in MAPS if kind in found.maps):
        own = {name: means(values) for name, values in map_scores(found, kind).items()}
        against = {
            name: _paired(own[name], other, **draws)
            for name, other in {**chance, **blind}.items()
            if kind != "random" or name in chance
        }
        rows.append(
            FaithfulnessRow(
                map=kind,
                place=place,
                scores={name: study_score(values, **draws) for name, values in own.items()},
                against={name: d for name, d in against.items() if d is not None},
                **shared,
            )
        )
    whole = {
        "probability": means(found.probability),
        "without image": means(found.without_image),
        "without tag": means(found.without_tag),
        **{
            name: {one: value for one, value in by_study.items() if np.isfinite(value)}
            for name, by_study in {
                "unchanged, other image": swapped.get("image", {}),
                "unchanged, other tags": swapped.get("tags", {}),
                "unchanged, both": swapped.get("both", {}),
            }.items()
        },
    }
    scores = {name: study_score(values, **draws) for name, values in whole.items()}
    rows.append(FaithfulnessRow(map="model", place=len(MAPS), scores=scores, **shared))
    return rows


def _file(profile: str, corpus: str) -> Path:
    return results_dir(profile) / "faithfulness" / f"{corpus}.jsonl"


def read_faithfulness_rows(
    profile: str = "lab", *, corpus: str = "phantom"
) -> list[FaithfulnessRow]:
    """All rows of a profile, by model, seed and map.

    A row that is not complete is left out with a warning that names it.

    Raises:
        KitError: a line is not JSON.
    """
    rows = read_complete(
        _file(profile, corpus),
        FaithfulnessRow,
        profile,
        again=lambda row: f"the maps of {row.get('run')} are measured",
    )
    return sorted(rows, key=lambda row: (row.order, row.run, row.seed, row.place))


_SIGN = {ABOVE: " ↑", BELOW: " ↓", SAME: ""}


def maps_table(rows: Sequence[FaithfulnessRow]) -> pd.DataFrame:
    """One line per model and map; ↑ and ↓: above or below what knows nothing, paired, 95 %.

    Pointing and energy are compared with the chance of the same findings, deletion and insertion
    with the random order. Deletion: smaller is more faithful. First seed of each model.
    """
    lines, first = [], {}
    for row in rows:
        first.setdefault(row.run, row.seed)
        if row.map == "model" or row.seed != first[row.run]:
            continue
        line = {"system": row.title, "map": row.map, "findings": str(row.units)}
        for name in WHERE:
            sign = _SIGN[row.against[name].verdict] if name in row.against else ""
            line[name] = cell([row.scores[name]]) + sign
        lines.append(line)
    return pd.DataFrame(lines)


def models_table(rows: Sequence[FaithfulnessRow]) -> pd.DataFrame:
    """One line per model: what its finding words depend on. First seed of each."""
    lines, first = [], {}
    for row in rows:
        first.setdefault(row.run, row.seed)
        if row.map != "model" or row.seed != first[row.run]:
            continue
        line = {"system": row.title, "findings": str(row.units)}
        lines.append(line | {name: cell([row.scores[name]]) for name in WHOLE})
    return pd.DataFrame(lines)


def sentence_of(row: FaithfulnessRow) -> str:
    """The numbers of a map in one sentence, to stand under its picture."""
    told = [
        f"{name} {number(row.scores[name].value)}"
        + (f" (chance {number(row.scores[name].value - row.against[name].value)})"
           if name in ("pointing", "energy") and name in row.against else "")
        for name in ("pointing", "energy")
    ]  # fmt: skip
    told += [
        f"{name} {number(row.scores[name].value)}"
        + (f" (random order {number(row.scores[name].value - row.against[name].value)})"
           if name in row.against else "")
        for name in ("deletion", "insertion")
    ]  # fmt: skip
    return (
        f"{row.title}, {row.map}, over {row.units} finding words of {row.studies} test studies: "
        + ", ".join(told)
        + "."
    )
