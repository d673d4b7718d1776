"""Word vectors, with what a study shows added to them.

No paper reproduced here does that; it is what keeps small models from settling on one normal report
for every study.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from r2genkit.models.base import State

# exp(4 * -1.5): all words together strike off a few percent of a finding before anything is
# learned. The factor lets a word's strike grow from there to several units within one training.
START, STEEPNESS = -1.5, 4.0


class Checklist(nn.Module):
    """Which findings are still to be told: every word strikes some off (ours).

    A writer that reads the same list of findings at every word has to remember by itself what it
    has said; small ones forget half of a longer list. Wen et al., EMNLP 2015 ("Semantically
    Conditioned LSTM"), let a gate close dialogue acts one by one, and Kiddon et al., EMNLP 2016
    ("Neural Checklist Models"), keep a list of what was not yet used. Here the gate depends on the
    words alone, so that teacher forcing needs no loop:

    ``left_t = p * exp(-sum_{s <= t} c(w_s))``, ``c(w) = exp(4 C_w) >= 0``, one number per word
    and finding type.

    Args:
        vocabulary_size: K.
        tag_count: F, finding probabilities per study.
    """

    def __init__(self, vocabulary_size: int, tag_count: int) -> None:
        super().__init__()
        self.strikes = nn.Embedding(vocabulary_size, tag_count)  # C
        nn.init.constant_(self.strikes.weight, START)

    def spent(self, tokens: Tensor) -> Tensor:
        """``c(w)`` of each token ``[..., F]``; nothing for the mark 0 (begin, end, padding)."""
        return (STEEPNESS * self.strikes(tokens)).exp() * (tokens > 0).unsqueeze(-1)

    def forward(self, tokens: Tensor, tags: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """What has been told once each token has been read.

        Args:
            tokens: ``[N, T]``.
            tags: p, ``[N, F]``.
            told: ``[N, F]``, sum of strikes before the first of these tokens.

        Returns:
            ``p - left`` ``[N, T, F]``, and the sum of strikes behind the last token ``[N, F]``.
        """
        sums = told.unsqueeze(1) + self.spent(tokens).cumsum(1)
        return tags.unsqueeze(1) * -torch.expm1(-sums), sums[:, -1]


class WordEmbedding(nn.Module):
    """``factor * (E w + W p)``: word vectors with the study's findings added to each.

    With a checklist ``W left_t`` stands in the place of ``W p``.

    Args:
        vocabulary_size: K.
        size: length of a word vector.
        tag_count: F, finding probabilities per study; 0 = plain word vectors.
        checklist: see :class:`Checklist`; without effect if there are no tags.
        factor: on everything (``sqrt(D)`` in Transformers: Vaswani et al. 2017, section 3.4).
    """

    def __init__(
        self,
        vocabulary_size: int,
        size: int,
        tag_count: int,
        *,
        checklist: bool = False,
        factor: float = 1.0,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary_size, size)
        nn.init.uniform_(self.words.weight, -0.1, 0.1)
        self.tags = nn.Linear(tag_count, size, bias=False) if tag_count else None
        self.checklist = Checklist(vocabulary_size, tag_count) if tag_count and checklist else None
        self.factor = factor

    def project_tags(self, tags: Tensor | None) -> dict[str, Tensor]:
        """What the fixed part of a state keeps of the tags ``[N, F]``.

        ``{"tags": W p [N, size]}``, with a checklist also ``"listed"``: p itself; or nothing.
        """
        if self.tags is None:
            return {}
        projected = {"tags": self.factor * self.tags(tags)}
        return projected if self.checklist is None else {**projected, "listed": tags}

    def forward(self, tokens: Tensor, projected: Tensor | None) -> Tensor:
        """Vectors ``[N, size]`` of tokens ``[N]``, or ``[N, T, size]`` of ``[N, T]``."""
        vectors = self.words(tokens)
        if self.factor != 1.0:
            vectors = vectors * self.factor
        if projected is None:
            return vectors
        return vectors + (projected if tokens.ndim == 1 else projected.unsqueeze(1))

    def read(
        self, tokens: Tensor, state: State, added: str = "tags"
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """As ``forward``, told findings taken off again.

        Args:
            tokens: ``[N, T]``.
            state: with what ``project_tags`` gave in its fixed part.
            added: name of the fixed tensor ``[N, size]`` that is added to every word, if any.

        Returns:
            Vectors ``[N, T, size]`` and new moving tensors: "told" ``[N, F]`` with a checklist.
        """
        vectors = self(tokens, state.fixed.get(added))
        if self.checklist is None or "listed" not in state.fixed:
            return vectors, {}
        told = state.moving.get("told")
        told = torch.zeros_like(state["listed"]) if told is None else told
        gone, told = self.checklist(tokens, state["listed"], told)
        return vectors - self.factor * self.tags(gone), {"told": told}
