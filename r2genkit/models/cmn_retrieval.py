"""R2GenCMN that also reads retrieved reports.

The course report of 2025 ("001") shows the idea in one line: the K most similar reports are
embedded, mapped to the length of a patch feature (2,048) and put behind the patches, ``[B, 49, D]
++ [B, K, D]``. With two views that is ``[B, V*S + K, D]``. Everything else here is ours, since
nothing else is published:

* a report becomes a vector by the mean of its own token embeddings (options: an LSTM, a Transformer
  layer); they are not the decoder's, which are trained to predict;
* ``Linear -> LayerNorm`` bring it to length and scale of a patch feature, and one vector for all
  reports, the type embedding, tells them from patches;
* they stand **behind** the patches, whose positions 0 ... V*S - 1 are those of R2GenCMN; the k-th
  neighbour has position V*S + k - 1, so the model can know its rank. V is the number of views that
  the model was built for: where a minibatch has fewer slots, absent views fill them;
* a neighbour that is not there is masked like an absent view.

From there on a report is treated as a patch: projected, answered by the memory, encoded, attended.
With K = 0 this is R2GenCMN, number for number.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from r2genkit.batches import Batch
from r2genkit.errors import KitError
from r2genkit.models.base import State
from r2genkit.models.cmn import CMN, CMNConfig


class CMNRetrievalConfig(CMNConfig):
    """Options of :class:`CMNRetrieval` beside those of R2GenCMN."""

    views: int = Field(2, ge=1)
    """V, views that stand before the reports."""
    report_encoder: Literal["mean", "lstm", "transformer"] = "mean"
    """How the words of a retrieved report become one vector."""
    report_size: int = Field(128, ge=2)
    """Length of its word vectors."""
    report_dropout: float = Field(0.1, ge=0.0, lt=1.0)
    """On its word vectors."""

    @model_validator(mode="after")
    def _heads_fit(self) -> CMNRetrievalConfig:
        if self.report_encoder == "transformer" and self.report_size % self.heads:
            raise ValueError(
                f"report_size {self.report_size} must be a multiple of heads {self.heads}"
            )
        return self


class ReportEncoder(nn.Module):
    """Token ids of K reports per study -> K vectors of the length of a patch feature.

    Args:
        config: of the model.
        vocabulary_size: number of ids.
        feature_dim: C, length of a patch feature (projected, if the model projects it).
    """

    def __init__(self, config: CMNRetrievalConfig, vocabulary_size: int, feature_dim: int) -> None:
        super().__init__()
        size = config.report_size
        self.kind = config.report_encoder
        self.words = nn.Embedding(vocabulary_size, size)
        self.dropout = nn.Dropout(config.report_dropout)
        self.body: nn.Module | None = None
        if self.kind == "lstm":
            self.body = nn.LSTM(size, size, batch_first=True)
        elif self.kind == "transformer":
            self.body = nn.TransformerEncoderLayer(
                size, config.heads, size, config.report_dropout, batch_first=True, norm_first=True
            )
        self.project = nn.Linear(size, feature_dim)
        # No shift: the type embedding is one.
        self.norm = nn.LayerNorm(feature_dim, bias=False)
        self.type_embedding = nn.Parameter(torch.randn(feature_dim) / math.sqrt(feature_dim))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Read K reports per study.

        Args:
            tokens: ``[B, K, L]`` int64, begin mark first, padded with 0.

        Returns:
            Vectors ``[B, K, C]``, zero where there is no report, and their mask ``[B, K]`` bool.
        """
        # An empty report and none at all look alike: there is nothing to read in either.
        flat = tokens.flatten(0, 1)[:, 1:]  # [B*K, L-1]
        word = flat > 0
        present = word.any(1)
        x = self.dropout(self.words(flat))
        count = word.sum(1)
        if self.kind == "lstm":
            states, _ = self.body(x)
            last = (count - 1).clamp_min(0)[:, None, None].expand(-1, 1, states.shape[-1])
            vectors = states.gather(1, last).squeeze(1)
        else:
            if self.kind == "transformer":
                # A row without any word must keep one key, or its weights are 0 / 0.
                hidden = ~word & present[:, None]
                x = self.body(x, src_key_padding_mask=hidden)
            vectors = (x * word.unsqueeze(-1)).sum(1) / count.clamp_min(1).unsqueeze(-1)
        vectors = self.norm(self.project(vectors)) + self.type_embedding
        vectors = vectors * present.unsqueeze(-1)
        shape = tokens.shape[:2]
        return vectors.unflatten(0, shape), present.unflatten(0, shape)


class CMNRetrieval(CMN):
    """R2GenCMN with the reports of ``batch.neighbours [B, K, L]`` behind the patches.

    Traces: those of :class:`~r2genkit.models.cmn.CMN`, over patches only, and with K above 0

    * "neighbours" ``[N, K]``: what neighbours get of the last decoder layer's attention, mean over
      heads; with "attention" it sums to 1;
    * "further_attention" ``[N, layers, h, K]``: the same of every decoder layer and head.
    """

    Config = CMNRetrievalConfig
    config: CMNRetrievalConfig

    def __init__(self, config: CMNRetrievalConfig, **sizes) -> None:
        super().__init__(config, **sizes)
        # Made last: the weights of R2GenCMN are drawn as if there were no retrieval.
        length = config.patch_projection or self.feature_dim
        self.reports = ReportEncoder(config, self.vocabulary_size, length)

    def visual_tokens(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Patches and, behind them, reports ``[B, V*S + K, C]``, and which are there.

        Raises:
            KitError: nothing was retrieved for this minibatch, or it has too many views.
        """
        if batch.neighbours is None:
            raise KitError(
                "the model reads retrieved reports and this minibatch has none; fill "
                "batch.neighbours (K = 0 is a tensor of shape [B, 0, L])."
            )
        if not batch.neighbours.shape[1]:
            return super().visual_tokens(batch)
        features, views = self.patch_features(batch), self.config.views
        absent = views - features.shape[1]
        if absent < 0:
            raise KitError(
                f"studies with {features.shape[1]} views do not fit a model built for {views}; set "
                f"its option views to {features.shape[1]}."
            )
        padded = dataclasses.replace(
            batch,
            features=nn.functional.pad(features, (0, 0, 0, 0, 0, absent)),
            view_mask=nn.functional.pad(batch.view_mask, (0, absent)),
        )
        patches, mask = super().visual_tokens(padded)
        vectors, present = self.reports(batch.neighbours)
        return torch.cat([patches, vectors], 1), torch.cat([mask, present], 1)

    def encode(self, batch: Batch) -> State:
        """As in the base class; the state also knows what stands behind the patches."""
        state = super().encode(batch)
        mask, count = state.fixed["mask"], batch.neighbours.shape[1]
        behind = mask.shape[1] - count
        state.fixed["neighbour_mask"] = mask[:, behind:]
        # Patches of slots that the minibatch does not have stand between the two.
        used = behind * batch.view_mask.shape[1] // self.config.views if count else behind
        state.fixed["further_mask"] = mask[:, used:]
        return state

    def further_tokens(self, state: State) -> int:
        """Patches of slots that the minibatch does not have, and K reports."""
        return state["further_mask"].shape[1]

    def read(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """As in the base class, with the share of neighbours as a trace."""
        log_probs, state = super().read(tokens, state)
        if "further_attention" in state.trace:
            count = state["neighbour_mask"].shape[1]
            further = state.trace["further_attention"][..., -count:]
            state.trace["further_attention"] = further
            state.trace["neighbours"] = further[:, :, -1].mean(2)
        return log_probs, state

    @torch.no_grad()
    def patch_traces(self, batch: Batch) -> dict[str, Tensor]:
        """As R2GenCMN, over patches only.

        Also "patch_neighbours" ``[B, layers, h, V*S, K]``: what encoder layers read of reports.
        """
        traces = super().patch_traces(batch)
        seen, own = traces["patch_attention"], traces["slots"].shape[1] * traces["slots"].shape[2]
        behind = seen.shape[-1] - batch.neighbours.shape[1]
        traces["patch_attention"] = seen[..., :own, :own]
        traces["patch_neighbours"] = seen[..., :own, behind:]
        return traces
