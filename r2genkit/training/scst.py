"""Self-critical sequence training: learn from the reward of reports that the model itself wrote.

Rennie et al., "Self-critical Sequence Training for Image Captioning", CVPR 2017. A report w is
drawn from the model and earns a reward r(w); REINFORCE (Williams 1992) with a baseline b gives the
gradient of the expected reward (their equation 7)::

    grad E[r] = E[ (r(w) - b) grad log p(w) ]

Two baselines: the reward of the model's own greedy report ("greedy", the paper), or the mean reward
of the other reports drawn for the same study ("leave_one_out", Luo 2020, "A Better Variant of
Self-critical Sequence Training"). Neither depends on the report it is taken off, so neither changes
the expectation; both lower its variance.

As in the released self-critical.pytorch, the loss is ``-(r - b) log p(w_t)``, summed over words and
end mark and divided by their number in the minibatch: a mean over tokens, not over reports.

Where this differs from that code:

* It samples with dropout on and keeps the graph of every step. Here the reports are drawn without
  gradient by the cached decoder, then read once by teacher forcing, all words at a time. Both
  passes are in evaluation mode, so that the probability that is trained is exactly the one that was
  drawn from, and the policy is the model as it will be used. ``dropout: true`` gives the released
  way: the graph of the sampling itself, dropout and all; it needs more memory and time.
* ``<unk>`` is never drawn. Its logit is masked *before* the softmax, in both passes: the
  probabilities of the other words are renormalised and the gradient stays that of what is drawn. To
  merely skip it while drawing would train probabilities that nothing was drawn from.
* No n-gram is blocked and no end mark biased while drawing, for the same reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from r2genkit import processes, seeds
from r2genkit.batches import Batch
from r2genkit.decoding import Decoded, DecodingConfig, Writer
from r2genkit.errors import KitError
from r2genkit.metrics.findings import FindingLabeler
from r2genkit.metrics.findings.scores import f1_from_counts
from r2genkit.models.base import FlatModel, ReportModel, State
from r2genkit.models.transformer import TransformerReporter
from r2genkit.text.vocabulary import Vocabulary
from r2genkit.training.rewards import RewardName, Rewards


class SelfCriticalConfig(BaseModel):
    """Settings of self-critical training; an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    samples: int = Field(5, ge=1)
    """Reports drawn per study."""
    baseline: Literal["greedy", "leave_one_out"] = "leave_one_out"
    """What is taken off the reward: that of the greedy report, or the mean of the study's other
    draws (needs two)."""
    rewards: dict[RewardName, float] = Field(default_factory=lambda: {"cider_d": 1.0})
    """Weight of each reward."""
    sigma: float | None = Field(6.0, gt=0.0)
    """Width of CIDEr-D's Gaussian over the difference in length, in words; None = no penalty."""
    end_counts: bool = True
    """The end mark counts as a word of CIDEr-D (as released)."""
    max_length: int = Field(60, ge=1)
    """Largest number of words drawn."""
    cross_entropy: float = Field(0.0, ge=0.0)
    """Weight of the usual loss on the reference, added to the self-critical one."""
    dropout: bool = False
    """Draw and train with dropout on, as released; see the module."""

    @model_validator(mode="after")
    def _agree(self) -> SelfCriticalConfig:
        if self.baseline == "leave_one_out" and self.samples < 2:
            raise ValueError("baseline leave_one_out needs samples of at least 2")
        if not any(self.rewards.values()):
            raise ValueError("rewards must give a weight to at least one reward")
        return self


class SelfCritical:
    """The objective: called with a model and a minibatch, gives the parts of its loss.

    Args:
        settings: of :class:`SelfCriticalConfig`.
        vocabulary: of the model.
        references: tokenised report by training study id; what samples are rewarded by, and
            CIDEr-D's documents. In the order in which the report was written, also where the
            model learns its sentences in another.
        seed: the run's seed.
        labeler: for finding-F1; default: the kit's.

    Raises:
        KitError: wrong settings, or no references.
    """

    def __init__(
        self,
        settings: Mapping[str, Any] | None = None,
        *,
        vocabulary: Vocabulary,
        references: Mapping[str, str],
        seed: int = 0,
        labeler: FindingLabeler | None = None,
    ) -> None:
        try:
            self.config = SelfCriticalConfig.model_validate(dict(settings or {}))
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors()
            )
            raise KitError(f"settings of objective self_critical are wrong: {problems}.") from error
        self.vocabulary, self.seed = vocabulary, seed
        self.rewards = Rewards(
            self.config.rewards,
            references,
            vocabulary,
            sigma=self.config.sigma,
            end=self.config.end_counts,
            labeler=labeler,
        )

    def __call__(self, model: ReportModel, batch: Batch) -> dict[str, Tensor]:
        """One minibatch of B studies with n samples each.

        Returns:
            Scalars. "loss"; "self_critical" and, where it has a weight, "cross_entropy" (its parts,
            unweighted); of the samples: "reward" and its parts by name, "baseline" (all of them
            means), "advantage_sd", "entropy" (of the next word, in nats; not with dropout),
            "distinct %" (different texts among the samples of the minibatch), "finding-F1" (micro,
            of the minibatch) and "length" (words).

        Raises:
            KitError: a model that writes sentence by sentence, another vocabulary, or a study
                without reference.
        """
        self._check(model)
        config = self.config
        never = (self.vocabulary.unk,)
        with training_mode(model, config.dropout):
            if config.dropout:
                drawn = draw(model, batch, config, never, seed=self._draw_seed())
                log_probs, entropy = drawn.token_log_probs, None
            else:
                with torch.no_grad():
                    drawn = draw(model, batch, config, never, seed=self._draw_seed())
                words = next_words(model, batch, drawn.tokens, never)  # [B * n, T, K]
                chosen = drawn.tokens.flatten(0, 1).unsqueeze(-1)
                log_probs = words.gather(-1, chosen).squeeze(-1).unflatten(0, (len(batch), -1))
                with torch.no_grad():
                    entropy = torch.special.entr(words.detach().exp()).sum(-1)
                    entropy = entropy.unflatten(0, (len(batch), -1))
        mask = sampled_mask(drawn)
        earned = self._earned(drawn.tokens, batch)
        reward = torch.from_numpy(earned["reward"]).float().to(log_probs.device)  # [B, n]
        baseline = self._baseline(model, batch, reward, never)
        advantage = reward - baseline
        loss = policy_loss(log_probs, advantage, mask)
        parts = {"loss": loss, "self_critical": loss.detach()}
        if config.cross_entropy:
            supervised = model.loss(batch)["loss"]
            parts["loss"] = loss + config.cross_entropy * supervised
            parts["cross_entropy"] = supervised.detach()
        shown = {
            "reward": earned["reward"].mean(),
            "baseline": baseline.mean(),
            **{name: earned[name].mean() for name in self.rewards.weights},
            "advantage_sd": advantage.std(unbiased=False),
            "distinct %": 100.0
            * len(torch.unique(drawn.tokens.flatten(0, 1), dim=0))
            / reward.numel(),
            # A minibatch without any finding, stated or to be stated, has them all right.
            "finding-F1": np.nan_to_num(f1_from_counts(earned["finding_counts"].sum(0)), nan=1.0),
            "length": drawn.lengths.float().mean(),
        }
        if entropy is not None:
            shown["entropy"] = (entropy * mask).sum() / mask.sum()
        return parts | {
            name: torch.as_tensor(float(value), device=loss.device) for name, value in shown.items()
        }

    def _check(self, model: ReportModel) -> None:
        if not isinstance(model, FlatModel):
            raise KitError(
                f"self-critical training draws whole reports word by word, and "
                f"{type(model).__name__} writes sentence by sentence; choose a model that writes "
                "flat reports, or leave out the objective."
            )
        if len(self.vocabulary) != model.vocabulary_size:
            raise KitError(
                f"the vocabulary has {len(self.vocabulary)} ids and the model "
                f"{model.vocabulary_size}; use the vocabulary that the model was built for."
            )

    def _draw_seed(self) -> int:
        """A seed of this step: the loop gives every step a random state of its own."""
        step = int(torch.empty((), dtype=torch.int64).random_())
        return seeds.integer(self.seed, f"self-critical/{step}")

    def _earned(self, tokens: Tensor, batch: Batch) -> dict[str, np.ndarray]:
        """Rewards ``[B, n]`` (counts ``[B * n, 3]``) of reports ``[B, n, T]``."""
        count = tokens.shape[1]
        ids = [study for study in batch.study_ids for _ in range(count)]
        earned = self.rewards(tokens.flatten(0, 1), ids)
        counts = earned.pop("finding_counts")
        shaped = {name: value.reshape(-1, count) for name, value in earned.items()}
        return {**shaped, "finding_counts": counts}

    def _baseline(
        self, model: FlatModel, batch: Batch, reward: Tensor, never: tuple[int, ...]
    ) -> Tensor:
        """``[B, n]``, or ``[B, 1]`` for the greedy one."""
        if self.config.baseline == "leave_one_out":
            return leave_one_out(reward)
        with training_mode(model, False), torch.no_grad():  # the released code's greedy pass
            best = draw(model, batch, self.config, never, seed=None)
        earned = self._earned(best.tokens, batch)["reward"]
        return torch.from_numpy(earned).float().to(reward.device)


def leave_one_out(reward: Tensor) -> Tensor:
    """Mean reward of a study's other samples: ``[B, n] -> [B, n]`` (Luo 2020, section 3)."""
    return (reward.sum(1, keepdim=True) - reward) / (reward.shape[1] - 1)


def policy_loss(log_probs: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """``sum(-A log p * mask) / sum(mask)``: the mean over tokens of self-critical.pytorch.

    Args:
        log_probs: ``[B, n, T]`` of the words drawn, with gradient.
        advantage: ``[B, n]`` reward minus baseline; a constant.
        mask: ``[B, n, T]`` 1 on words and end mark.
    """
    weighted = advantage.detach().unsqueeze(-1) * log_probs * mask
    return -weighted.sum() / processes.total(mask).clamp_min(1e-8)


def sampled_mask(drawn: Decoded) -> Tensor:
    """1 where a word or the end mark was drawn, 0 behind it ``[B, n, T]``.

    A report cut at the largest length has no end mark; nothing behind it is trained.
    """
    places = torch.arange(drawn.tokens.shape[-1], device=drawn.tokens.device)
    return (places <= drawn.lengths.unsqueeze(-1)).float()


def draw(
    model: FlatModel,
    batch: Batch,
    config: SelfCriticalConfig,
    never: tuple[int, ...],
    *,
    seed: int | None,
) -> Decoded:
    """Reports of a minibatch from the model's own distribution without the words in ``never``.

    Args:
        model: leaves its mode and autograd as they are.
        batch: B studies.
        config: number and largest length of the samples.
        never: ids whose probability is 0, the others renormalised.
        seed: of the draws, one stream per study; None: the greedy report instead.
    """
    rules = DecodingConfig(
        method="greedy" if seed is None else "sample",
        samples=1 if seed is None else config.samples,
        max_length=config.max_length,
    )

    def step(tokens: Tensor, state: State) -> tuple[Tensor, State]:
        log_probs, state = model.step(tokens, state)
        return without(log_probs, never), state

    # A study that the loader drew twice into a minibatch gets draws of its own each time.
    names = tuple(f"{row}/{study}" for row, study in enumerate(batch.study_ids))
    return Writer(rules, seed=seed).texts(step, model.encode(batch), names)


def without(log_probs: Tensor, never: tuple[int, ...]) -> Tensor:
    """Log-probabilities ``[..., K]`` with some words impossible and the others renormalised."""
    if not never:
        return log_probs
    gone = torch.zeros(log_probs.shape[-1], dtype=torch.bool, device=log_probs.device)
    gone[list(never)] = True
    return log_probs.float().masked_fill(gone, -torch.inf).log_softmax(-1)


def next_words(model: FlatModel, batch: Batch, tokens: Tensor, never: tuple[int, ...]) -> Tensor:
    """Teacher forcing on sampled reports.

    Args:
        model: leaves its mode and autograd as they are.
        batch: B studies.
        tokens: ``[B, n, T]`` reports without begin mark.
        never: see :func:`without`.

    Returns:
        Log-probabilities ``[B * n, T, K]`` of the word at each place, given those before it.
    """
    count, texts = tokens.shape[1], tokens.flatten(0, 1)
    read = nn.functional.pad(texts, (1, 0))  # begin mark first
    if isinstance(model, TransformerReporter):
        # The images are encoded once per study, not once per sample.
        log_probs, _ = model.read(read[:, :-1], model.encode(batch).repeat(count))
        return without(log_probs, never)
    studies = batch.repeat(count)
    studies.tokens = read
    studies.lengths = (texts != 0).sum(1) + 2
    studies.token_weights = None
    return without(model.unroll(studies)[0], never)


@contextmanager
def training_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Every module in one mode; afterwards each has its own back. Gradients stay as they are."""
    modes = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
