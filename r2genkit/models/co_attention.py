"""Co-attention: each sentence attends to patches and to predicted findings.

Jing et al., "On the Automatic Generation of Medical Imaging Reports", ACL 2018. Differences from
the paper are marked below.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from r2genkit import processes
from r2genkit.batches import Batch
from r2genkit.errors import KitError
from r2genkit.models.attention import AdditiveAttention
from r2genkit.models.base import State, flatten_views
from r2genkit.models.hierarchical import HierarchicalConfig, HierarchicalModel, WordDecoder


class CoAttentionConfig(HierarchicalConfig):
    """Options of :class:`CoAttention`."""

    attention_size: int = Field(512, ge=1)
    """Width of both additive attentions."""
    top_tags: int = Field(10, ge=1)
    """M, how many of the most probable findings are embedded (the paper: 10)."""
    tags_in_words: bool = True
    """Also add all probabilities to every word vector (ours)."""
    doubly_stochastic: float = Field(1.0, ge=0.0)
    """Factor of the attention regulariser; 0 switches it off."""


class CoAttention(HierarchicalModel):
    """Visual and semantic attention, sentence LSTM, topic, stop, word LSTM (section 3).

    With patches v_n, embedded findings a_m and the sentence LSTM's state h_s:

    * ``alpha_v = softmax(w . tanh(W_v v_n + W_vh h_{s-1}))``, ``alpha_a`` likewise over a_m
    * ``ctx_s = W_fc [sum alpha_v v_n; sum alpha_a a_m]``, ``h_s = LSTM(ctx_s, h_{s-1})``
    * ``topic_s = tanh(W_h h_s + W_ctx ctx_s)``, the word LSTM's first input
    * ``p(stop_s) = sigmoid(w . tanh(W_1 h_{s-1} + W_2 h_s))`` (the paper's two-way softmax)

    Not as in the paper: the findings come from the kit's own finding classifier, trained
    beforehand, so there is no tag loss here; an embedded finding is multiplied by its probability
    (otherwise ten findings are read as present in every study); and see ``tags_in_words``.

    Traces, one row per sentence: "attention" ``[N, V, S]``, "tag_attention" ``[N, M]`` and
    "tags" ``[N, M]``, which findings it is over (columns of ``batch.tags``).
    """

    Config = CoAttentionConfig
    config: CoAttentionConfig

    def __init__(self, config: CoAttentionConfig, **sizes) -> None:
        super().__init__(config, **sizes)
        if not self.tag_count:
            raise KitError(
                "co-attention reads predicted findings; give the recipe a tags block, or use "
                "hier_rnn."
            )
        words, hidden, patch = config.embedding_size, config.hidden_size, self.feature_dim
        self.top = min(config.top_tags, self.tag_count)
        self.findings = nn.Embedding(self.tag_count, words)
        self.visual = AdditiveAttention(patch, hidden, config.attention_size)
        self.semantic = AdditiveAttention(words, hidden, config.attention_size)
        self.context = nn.Linear(patch + words, hidden)  # W_fc
        self.sentence = nn.LSTMCell(hidden, hidden)
        self.topic_hidden = nn.Linear(hidden, hidden)  # W_h
        self.topic_context = nn.Linear(hidden, hidden, bias=False)  # W_ctx
        self.stop_before = nn.Linear(hidden, hidden)  # W_1
        self.stop_after = nn.Linear(hidden, hidden, bias=False)  # W_2
        self.stop = nn.Linear(hidden, 1)
        self.words = WordDecoder(
            self.vocabulary_size,
            words,
            hidden,
            hidden,
            tag_count=self.tag_count if config.tags_in_words else 0,
            dropout=config.dropout,
            topic_as="input",
            topic_everywhere=config.topic_everywhere,
            checklist=config.checklist,
        )
        self.dropout = nn.Dropout(config.dropout)

    def encode(self, batch: Batch) -> State:
        """Patches, the most probable findings, the keys of both, and an empty memory."""
        patches, mask = flatten_views(self.patch_features(batch), batch.view_mask)
        probabilities, which = self.required_tags(batch).topk(self.top, -1)  # [B, M]
        findings = self.findings(which) * probabilities.unsqueeze(-1)  # [B, M, E]
        zero = patches.new_zeros(len(patches), self.config.hidden_size)
        fixed = {
            "patches": patches,
            "keys": self.visual.keys(patches),
            "mask": mask,
            "view_mask": batch.view_mask,
            "findings": findings,
            "finding_keys": self.semantic.keys(findings),
            "tags": which,
            **self.word_tags(batch),
        }
        return State(fixed, {"h": zero, "c": zero, "before": zero})

    def word_tags(self, batch: Batch) -> dict[str, Tensor]:
        """As in every hierarchical model, unless switched off."""
        return super().word_tags(batch) if self.config.tags_in_words else {}

    def plan(self, state: State) -> tuple[Tensor, State]:
        """Attend to patches and findings, move the sentence LSTM, form the topic."""
        before = state["h"]
        seen, alpha = self.visual(before, state["keys"], state["patches"], state["mask"])
        everything = torch.ones_like(state["tags"], dtype=torch.bool)
        found, beta = self.semantic(before, state["finding_keys"], state["findings"], everything)
        context = self.dropout(self.context(torch.cat([seen, found], -1)))
        h, c = self.sentence(context, (before, state["c"]))
        topic = (self.topic_hidden(h) + self.topic_context(context)).tanh()
        new = state.advance(h=h, c=c, before=before)
        if state.tracing:
            views = state["view_mask"].shape[1]
            new.trace = {
                "attention": alpha.unflatten(-1, (views, -1)),
                "tag_attention": beta,
                "tags": state["tags"],
            }
        return topic, new

    def read(self, vector: Tensor | None, state: State) -> tuple[Tensor, State]:
        """The stop control, from the sentence LSTM's state before and after."""
        joined = (self.stop_before(state["before"]) + self.stop_after(state["h"])).tanh()
        return self.stop(joined).squeeze(-1), state

    @property
    def needs_trace_in_loss(self) -> bool:
        """The regulariser reads both attentions."""
        return self.config.doubly_stochastic > 0

    def regularisers(self, batch: Batch, traces: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each patch and each finding should be read about once in total (section 3.5).

        ``lambda (sum_n (1 - sum_s alpha_v)^2 + sum_m (1 - sum_s alpha_a)^2)`` per report; divided
        by the number of word targets, as the word loss is a mean over them.
        """
        if not self.config.doubly_stochastic:
            return {}
        present = (batch.sentence_lengths > 0).float()  # [B, M]
        visual = (traces["attention"] * present[:, :, None, None]).sum(1)  # [B, V, S]
        semantic = (traces["tag_attention"] * present.unsqueeze(-1)).sum(1)
        penalty = ((1.0 - visual) ** 2 * batch.view_mask.unsqueeze(-1)).sum()
        penalty = penalty + ((1.0 - semantic) ** 2).sum()
        targets = processes.total(self._targets(batch)).clamp_min(1)
        return {"doubly_stochastic": self.config.doubly_stochastic * penalty / targets}
