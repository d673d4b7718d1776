"""What the cockpit of self-critical training shows of finished runs: draws, rewards, gradients.

See :mod:`r2genkit.viz.widgets.cockpit` for the cockpit itself, and :mod:`r2genkit.training.scst`
for what training does with the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from r2genkit.batches import Batch
from r2genkit.decoding import Decoded
from r2genkit.errors import KitError
from r2genkit.experiments.data import PreparedText
from r2genkit.experiments.minibatches import minibatches_of
from r2genkit.experiments.runner import RunResult
from r2genkit.experiments.trained import TrainedSystem
from r2genkit.experiments.wall import draw_queries, views_of_study
from r2genkit.metrics.cider_d import CiderD, pack, sentence_bleu
from r2genkit.metrics.findings import FindingLabeler
from r2genkit.metrics.nlg import bleu_counts, bleu_from_counts
from r2genkit.models.base import FlatModel, State
from r2genkit.text.vocabulary import Vocabulary
from r2genkit.training.rewards import FindingReward
from r2genkit.training.scst import (
    SelfCriticalConfig,
    draw,
    next_words,
    sampled_mask,
    training_mode,
)
from r2genkit.viz.scst import read_steps
from r2genkit.viz.widgets.cockpit import (
    CockpitData,
    CockpitDraw,
    CockpitReport,
    CockpitStudy,
    CockpitSystem,
    draw_payload,
)
from r2genkit.viz.widgets.parts import mark_findings

MOST = 24
"""Largest number of samples that the callback draws."""
_LOGGED = {
    "step": "step",
    "reward": "reward",
    "baseline": "baseline",
    "advantage_sd": "advantage SD",
    "entropy": "entropy",
    "distinct %": "distinct",
    "finding-F1": "finding-F1",
    "length": "length",
}


class StudyRewards:
    """The parts of the reward of any report of any study, each by itself.

    As :class:`r2genkit.training.rewards.Rewards` pays them, but the documents of CIDEr-D are the
    training reports, whoever the study is.

    Args:
        text: studies, split, references.
        vocabulary: of the models.
        config: sigma and the end mark of CIDEr-D.
        labeler: default: the kit's.
    """

    def __init__(
        self,
        text: PreparedText,
        vocabulary: Vocabulary,
        config: SelfCriticalConfig,
        labeler: FindingLabeler | None = None,
    ) -> None:
        self.text, self.vocabulary = text, vocabulary
        documents = [self._ids(text.references[study]) for study in text.split.train]
        self.cider = CiderD(documents, sigma=config.sigma, end=config.end_counts)
        self.findings = FindingReward(vocabulary, labeler)

    def _ids(self, report: str) -> list[int]:
        return [*map(self.vocabulary.id, report.split()), self.vocabulary.eos]

    def __call__(self, tokens: np.ndarray, study_id: str) -> dict[str, np.ndarray]:
        """Rewards of n reports of one study.

        Args:
            tokens: ``[n, T]`` words, then 0.
            study_id: of the split.

        Returns:
            "cider_d", "bleu4", "finding_f1" ``[n]`` and "finding_counts" ``[n, 3]``: stated
            rightly, wrongly, and not stated.
        """
        reference = [self._ids(self.text.references[study_id])] * len(tokens)
        found, wanted = pack(tokens), pack(reference)
        counts = self.findings.counts(
            self.findings.positives(found), self.findings.positives(wanted)
        )
        return {
            "cider_d": self.cider.score(tokens, self.cider.prepare(reference)),
            "bleu4": sentence_bleu(found, wanted),
            "finding_f1": self.findings.f1(counts),
            "finding_counts": counts,
        }


class _Tempered:
    """A model whose next-word distributions are flatter or sharper; what ``scst.draw`` needs."""

    def __init__(self, model: FlatModel, temperature: float) -> None:
        self.model, self.temperature = model, temperature

    def encode(self, batch: Batch) -> State:
        return self.model.encode(batch)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        log_probs, state = self.model.step(tokens, state)
        return (log_probs.float() / self.temperature).log_softmax(-1), state


class Sampler:
    """Draws reports with several finished runs, and pays them.

    Args:
        results: finished runs by key; all of one corpus and split, all writing flat reports.
        part: whose studies.

    Raises:
        KitError: no run, one that writes sentence by sentence, or runs of different splits or
            vocabularies.
    """

    def __init__(self, results: Mapping[str, RunResult], part: str = "validation") -> None:
        if not results:
            raise KitError("there is no run to draw with: give at least one.")
        self.results, self.part = dict(results), part
        self.systems: dict[str, TrainedSystem] = {}
        first = next(iter(self.results.values()))
        self.text = first.text()
        for result in self.results.values():
            if result.text().split.fingerprint != self.text.split.fingerprint:
                raise KitError(
                    f"{result.recipe.run} and {first.recipe.run} have different splits: compare "
                    "runs of one split."
                )
        for key, result in self.results.items():
            system = result.system()
            if not isinstance(system.model, FlatModel):
                raise KitError(
                    f"{result.recipe.run} writes sentence by sentence; choose runs that write flat "
                    "reports, such as 07_cmn and 10_scst_cider."
                )
            if len(system.vocabulary) != len(self.text.vocabulary):
                raise KitError(
                    f"{result.recipe.run} has another vocabulary than {first.recipe.run}: compare "
                    "runs with the same text rules."
                )
            self.systems[key] = system
        objectives = [
            result.recipe.objective.settings
            for result in self.results.values()
            if result.recipe.objective is not None
        ]
        self.config = SelfCriticalConfig.model_validate(objectives[-1] if objectives else {})
        self.rewards = StudyRewards(self.text, self.text.vocabulary, self.config, self.text.labeler)
        self._batches: dict[tuple[str, str], Batch] = {}

    def read(self, study_ids: Sequence[str]) -> None:
        """Make the minibatches of studies ready, as each run decodes them.

        Raises:
            KitError: a study is not of the part.
        """
        for key, result in self.results.items():
            wanted = [study for study in study_ids if (study, key) not in self._batches]
            if wanted:
                found = minibatches_of(result, self.systems[key], self.part, wanted)
                self._batches |= {(study, key): batch for study, batch in found.items()}

    def draw(
        self, study_id: str, key: str, *, samples: int = 10, temperature: float = 1.0, seed: int = 0
    ) -> CockpitDraw:
        """Reports of a study with all the cockpit shows of them.

        Args:
            study_id: of the part.
            key: of the run.
            samples: n, at least 2.
            temperature: divides the log-probabilities while drawing. Training draws at 1; the
                log-probabilities and gradients that are returned are those of the model itself.
            seed: of the draws.

        Raises:
            KitError: an unknown study or run, too few samples, or a temperature of 0 or below.
        """
        if key not in self.systems:
            raise KitError(f"there is no run {key!r} here: choose {', '.join(self.systems)}.")
        if samples < 2:
            raise KitError(
                f"{samples} samples have no baseline among themselves: draw two or more."
            )
        if not 0 < temperature < float("inf"):
            raise KitError(f"a temperature of {temperature} draws nothing: choose one above 0.")
        self.read([study_id])
        model, batch = self.systems[key].model, self._batches[study_id, key]
        config = self.config.model_copy(update={"samples": samples})
        never = (self.text.vocabulary.unk,)
        with training_mode(model, False):
            with torch.no_grad():
                source = model if temperature == 1 else _Tempered(model, temperature)
                drawn = draw(source, batch, config, never, seed=seed)
                best = draw(model, batch, config, never, seed=None)
            log_probs, gradients = score_gradients(model, batch, drawn, never)
            with torch.no_grad():
                words = next_words(model, batch, best.tokens, never)
                best_probs = words.gather(-1, best.tokens[0, :, :, None]).squeeze(-1)
        reports = self._reports(study_id, drawn, log_probs)
        (greedy,) = self._reports(study_id, best, best_probs)
        return CockpitDraw(
            temperature=float(temperature),
            seed=int(seed),
            samples=reports,
            greedy=greedy,
            gram=(gradients @ gradients.T).double().numpy(),
            diversity=sample_diversity([" ".join(report.words) for report in reports]),
        )

    def _reports(
        self, study_id: str, drawn: Decoded, log_probs: Tensor
    ) -> tuple[CockpitReport, ...]:
        """Reports of ``[1, n, T]`` tokens with their log-probabilities ``[n, T]``."""
        tokens = drawn.tokens[0].cpu().numpy()
        earned = self.rewards(tokens, study_id)
        counts = earned.pop("finding_counts")
        used = sampled_mask(drawn)[0].sum(1).long().tolist()
        reports = []
        for row, (length, kept) in enumerate(zip(drawn.lengths[0].tolist(), used)):
            words = tuple(self.text.vocabulary.decode(tokens[row, :length]).split())
            reports.append(
                CockpitReport(
                    words=words,
                    log_probs=tuple(log_probs[row, :kept].tolist()),
                    marks=mark_findings(words, self.text.labeler),
                    rewards={name: float(values[row]) for name, values in earned.items()},
                    counts=tuple(int(count) for count in counts[row]),
                )
            )
        return tuple(reports)

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The callback of the widget: draw again.

        Args:
            question: "study", "system", "samples", "temperature", "seed".

        Returns:
            "draw", as the front end shows it.

        Raises:
            KitError: a question that is not complete, or asks for what there is not.
        """
        try:
            study, key = str(question["study"]), str(question["system"])
            samples, seed = int(question["samples"]), int(question["seed"])
            temperature = float(question["temperature"])
        except (KeyError, TypeError, ValueError) as error:
            raise KitError(
                "the question lacks study, system, samples, seed or temperature, or one is no "
                "number: ask as the cockpit does."
            ) from error
        if samples > MOST or seed < 0:
            raise KitError(f"ask for at most {MOST} samples and a seed of 0 or above.")
        drawn = self.draw(study, key, samples=samples, temperature=temperature, seed=seed)
        return {"draw": draw_payload(drawn)}


def score_gradients(
    model: FlatModel, batch: Batch, drawn: Decoded, never: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of drawn reports, and the gradient of each report's sum.

    Args:
        model: left as it is.
        batch: one study.
        drawn: ``[1, n, T]``.
        never: ids that were never drawn.

    Returns:
        Log-probabilities ``[n, T]``, 0 behind the end mark, and gradients ``[n, P]`` with respect
        to all P weights that training moves.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    lengths = sampled_mask(drawn)[0].sum(1).long().tolist()  # words and end mark
    log_probs = torch.zeros(drawn.tokens.shape[1:])
    gradients = torch.zeros(len(lengths), sum(weight.numel() for weight in weights))
    with torch.enable_grad():
        for row, length in enumerate(lengths):
            tokens = drawn.tokens[:, row : row + 1, :length]  # [1, 1, T]
            words = next_words(model, batch, tokens, never)[0]  # [T, K]
            own = words.gather(-1, tokens[0, 0, :, None]).squeeze(-1)
            found = torch.autograd.grad(own.sum(), weights, allow_unused=True)
            log_probs[row, :length] = own.detach()
            gradients[row] = torch.cat(
                [
                    torch.zeros_like(weight).flatten() if grad is None else grad.flatten()
                    for weight, grad in zip(weights, found)
                ]
            )
    return log_probs, gradients


def sample_diversity(reports: Sequence[str]) -> dict[str, float]:
    """How different n reports of one study are, each a share in [0, 1].

    Returns:
        "distinct reports"; "self-overlap": BLEU-4 of every ordered pair of reports, counts pooled
        (1 where all are alike); "distinct 1-grams", "distinct 2-grams", "distinct 4-grams": of all
        n-grams of all reports, the share of different ones (Li et al. 2016).
    """
    pairs = [
        bleu_counts(one, other)
        for i, one in enumerate(reports)
        for j, other in enumerate(reports)
        if i != j
    ]
    total = np.sum(pairs, axis=0)
    found = {
        "distinct reports": len(set(reports)) / len(reports),
        "self-overlap": min(1.0, float(bleu_from_counts(total)[3])) if total[0] else 0.0,
    }
    for order in (1, 2, 4):
        grams = [
            tuple(words[start : start + order])
            for words in (report.split() for report in reports)
            for start in range(len(words) - order + 1)
        ]
        found[f"distinct {order}-grams"] = len(set(grams)) / len(grams) if grams else 0.0
    return found


def timeline_of(result: RunResult) -> dict[str, list[float]]:
    """What a run by reward logged every few minibatches, by name; empty for runs without a log."""
    if result.recipe.objective is None or not (result.folder / "steps.jsonl").is_file():
        return {}
    rows = read_steps(result.folder)
    found = {
        title: [float(row[name]) for row in rows]
        for name, title in _LOGGED.items()
        if rows and all(name in row for row in rows)
    }
    if "distinct" in found:
        found["distinct"] = [value / 100 for value in found["distinct"]]
    return found


def cockpit_data(
    sampler: Sampler,
    *,
    names: Mapping[str, str] | None = None,
    count: int = 4,
    samples: int = 10,
    seed: int | None = None,
) -> CockpitData:
    """The cockpit of several runs.

    Args:
        sampler: of the runs, the one before training by reward first.
        names: plain names by key; default the keys.
        count: studies, drawn by :func:`r2genkit.experiments.wall.draw_queries`.
        samples: reports per study and run.
        seed: of the choice of studies and of the draws; default that of the first run.

    Raises:
        KitError: see :class:`Sampler` and :meth:`Sampler.draw`.
    """
    first = next(iter(sampler.results.values()))
    seed = first.row.seed if seed is None else seed
    text = sampler.text
    chosen = draw_queries(text, count, seed, sampler.part)
    sampler.read([study for study, _ in chosen])
    systems, studies, draws = [], [], {}
    for key, result in sampler.results.items():
        objective, timeline = result.recipe.objective, timeline_of(result)
        about = f"{result.recipe.title}: trained on references only."
        weights: dict[str, float] = {}
        if objective is not None:
            config = SelfCriticalConfig.model_validate(objective.settings)
            weights = {name: float(value) for name, value in config.rewards.items()}
            baseline = config.baseline.replace("_", " ")
            about = (
                f"{result.recipe.title}: {config.samples} samples per study, baseline {baseline}; "
                f"weights of epoch {result.row.best_epoch}, by {result.row.selected_on}."
            )
        systems.append(
            CockpitSystem(
                key=key,
                name=(names or {}).get(key, key),
                about=about,
                weights=weights,
                timeline=timeline,
                width=max(1, len(timeline.get("step", ())) // 10),
            )
        )
    for study, stratum in chosen:
        views, view_names = views_of_study(first, text.studies[study])
        words = tuple(text.references[study].split())
        studies.append(
            CockpitStudy(
                study, stratum, views, view_names, words, mark_findings(words, text.labeler)
            )
        )
        for key in sampler.results:
            draws[study, key] = sampler.draw(study, key, samples=samples, seed=seed)
    told = "predicted findings" if sampler.part != "train" else "true findings, as in training"
    return CockpitData(
        title="What training by reward pushes up and down",
        systems=tuple(systems),
        studies=tuple(studies),
        draws=draws,
        group=sampler.config.samples if sampler.config.samples > 1 else 2,
        synthetic=text.synthetic,
        notes=(
            f"{count} {sampler.part} studies, drawn by seed {seed} in turn from those with none, "
            f"one, two, and three or more findings. Models with a finding classifier are told "
            f"{told}.",
        ),
    )
