"""CNN-RNN and CNN-RNN with attention, read over two views.

* Show and Tell: Vinyals et al., "Show and Tell: A Neural Image Caption Generator", CVPR 2015.
* Show, Attend and Tell: Xu et al., ICML 2015, the soft ("deterministic") attention.

The first two papers caption one photograph with one sentence. Ours, where they happen: two views
per study, finding probabilities ("tags") as a further input, and the whole report as one sequence.
Sizes are those of the 2018 TensorFlow kit (512).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from r2genkit import processes
from r2genkit.batches import Batch
from r2genkit.models.attention import AdditiveAttention, DotAttention
from r2genkit.models.base import (
    FlatModel,
    ModelConfig,
    State,
    flatten_views,
    mean_patch,
    pooled_views,
    target_mask,
)
from r2genkit.models.embedding import WordEmbedding


class ShowTellConfig(ModelConfig):
    """Options of :class:`ShowTell`."""

    embedding_size: int = Field(512, ge=1)
    hidden_size: int = Field(512, ge=1)
    dropout: float = Field(0.5, ge=0.0, lt=1.0)
    """On LSTM inputs and outputs."""
    views: int = Field(2, ge=1)
    """View slots concatenated into the image vector; an absent view counts as zeros."""
    checklist: bool = False
    """Strike findings off the list once they have been told (ours)."""


class ShowTell(FlatModel):
    """Show and Tell: the image is the first "word" of the LSTM (eq. 10-12).

    ``x_{-1} = W_i v``; ``x_t = E w_t``; ``h_t = LSTM(x_t)``; ``p_{t+1} = softmax(W_o h_t)``.
    v is the concatenation of the pooled views (ours: the paper has one image).
    """

    Config = ShowTellConfig
    config: ShowTellConfig

    def __init__(self, config: ShowTellConfig, **sizes) -> None:
        super().__init__(config, **sizes)
        self.embedding = WordEmbedding(
            self.vocabulary_size,
            config.embedding_size,
            self.tag_count,
            checklist=config.checklist,
        )
        self.image = nn.Linear(config.views * self.feature_dim, config.embedding_size)  # W_i
        self.lstm = nn.LSTM(config.embedding_size, config.hidden_size, batch_first=True)
        self.output = nn.Linear(config.hidden_size, self.vocabulary_size)  # W_o
        self.dropout = nn.Dropout(config.dropout)

    def image_vector(self, batch: Batch) -> Tensor:
        """``W_i v``: ``[B, E]``, the mean patch of each view, views side by side."""
        features = self.patch_features(batch)
        return self.image(pooled_views(features, batch.view_mask, self.config.views))

    def initial(self, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """LSTM memory ``[1, B, H]`` before the image; None = zero."""
        return None

    def encode(self, batch: Batch) -> State:
        """The LSTM memory after it has read the image."""
        fixed = self.embedding.project_tags(self.required_tags(batch))
        first = self.image_vector(batch) + fixed.get("tags", 0.0)
        _, (h, c) = self.lstm(self.dropout(first).unsqueeze(1), self.initial(batch))
        return State(fixed, {"h": h[0], "c": c[0]})

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """One LSTM step on the word ``tokens [N]``."""
        words, told = self.embedding.read(tokens.unsqueeze(1), state)
        memory = (state["h"].unsqueeze(0), state["c"].unsqueeze(0))
        hidden, (h, c) = self.lstm(self.dropout(words), memory)
        logits = self.output(self.dropout(hidden[:, 0]))
        return logits.log_softmax(-1), state.advance(h=h[0], c=c[0], **told)

    def unroll(self, batch: Batch, *, trace: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """Image and words in one fused LSTM call; this model has no trace."""
        tags = self.embedding.project_tags(self.required_tags(batch))
        first = self.image_vector(batch) + tags.get("tags", 0.0)
        words, _ = self.embedding.read(batch.tokens[:, :-1], State({"first": first, **tags}))
        inputs = torch.cat([first.unsqueeze(1), words], 1)  # [B, T, E]
        hidden, _ = self.lstm(self.dropout(inputs), self.initial(batch))
        return self.output(self.dropout(hidden[:, 1:])).log_softmax(-1), {}


class ShowAttendTellConfig(ModelConfig):
    """Options of :class:`ShowAttendTell`."""

    embedding_size: int = Field(512, ge=1)
    hidden_size: int = Field(512, ge=1)
    attention_size: int = Field(512, ge=1)
    attention: Literal["soft", "post"] = "soft"
    """"soft" is the paper's: attend, then run the LSTM. "post" is ours, for laptops: run the LSTM
    over the whole text at once, then attend with every ``h_t``."""
    gate: bool = True
    """The scalar ``beta_t`` of section 4.2.1."""
    doubly_stochastic: float = Field(1.0, ge=0.0)
    """lambda of eq. 14; 0 switches the regulariser off."""
    checklist: bool = False
    """Strike findings off the list once they have been told (ours)."""
    dropout: float = Field(0.5, ge=0.0, lt=1.0)
    """On word vectors and before the output layer."""


class ShowAttendTell(FlatModel):
    """Show, Attend and Tell with soft attention over the patches of all views.

    With a_i the L = V*S patches and h, c the LSTM memory (section 3.1.2 and 4.2):

    * ``h_0 = tanh(W_h0 mean(a))``, ``c_0 = tanh(W_c0 mean(a))``
    * ``e_ti = w^T tanh(W_a a_i + W_h h_{t-1})``, ``alpha_t = softmax(e_t)`` (eq. 4-5)
    * ``beta_t = sigmoid(W_b h_{t-1})``, ``z_t = beta_t sum_i alpha_ti a_i`` (section 4.2.1)
    * ``h_t = LSTM([E w_{t-1}; z_t], h_{t-1})`` (eq. 1-3)
    * ``p_t = softmax(L_o (E w_{t-1} + L_h h_t + L_z z_t))`` (eq. 7; the authors' code wraps the
      bracket in tanh, the paper does not, neither do we)
    * loss ``= -log p + lambda sum_i (1 - sum_t alpha_ti)^2`` (eq. 14)

    The gated z_t enters both the LSTM and the output, as in the authors' code.

    With ``attention="post"`` (ours, in neither paper): ``h_t = LSTM([E w_{t-1}; W_v mean(a)],
    h_{t-1})`` for all t in one fused call, then scaled dot-product attention with query ``h_t``;
    gate and output as above with ``h_t`` for ``h_{t-1}``.

    Traces: "attention" ``[N, V, S]``, and "gate" ``[N]`` unless it is switched off.
    """

    Config = ShowAttendTellConfig
    config: ShowAttendTellConfig

    def __init__(self, config: ShowAttendTellConfig, **sizes) -> None:
        super().__init__(config, **sizes)
        words, hidden, patch = config.embedding_size, config.hidden_size, self.feature_dim
        self.embedding = WordEmbedding(
            self.vocabulary_size, words, self.tag_count, checklist=config.checklist
        )
        self.initial_h = nn.Linear(patch, hidden)  # W_h0
        self.initial_c = nn.Linear(patch, hidden)  # W_c0
        self.beta = nn.Linear(hidden, 1) if config.gate else None  # W_b
        if config.attention == "soft":
            self.attention = AdditiveAttention(patch, hidden, config.attention_size)
            # One LSTM cell, its three input matrices apart, so that the words of all steps are
            # multiplied at once. Gate order: input, forget, output, candidate.
            self.from_word = nn.Linear(words, 4 * hidden)
            self.from_hidden = nn.Linear(hidden, 4 * hidden, bias=False)
            self.from_context = nn.Linear(patch, 4 * hidden, bias=False)
            for layer in (self.from_word, self.from_hidden, self.from_context):
                nn.init.uniform_(layer.weight, -(hidden**-0.5), hidden**-0.5)
        else:
            self.attention = DotAttention(patch, hidden, config.attention_size)
            self.image = nn.Linear(patch, words)  # W_v
            self.lstm = nn.LSTM(2 * words, hidden, batch_first=True)
        self.hidden_to_output = nn.Linear(hidden, words, bias=False)  # L_h
        self.context_to_output = nn.Linear(patch, words, bias=False)  # L_z
        self.output = nn.Linear(words, self.vocabulary_size)  # L_o
        self.dropout = nn.Dropout(config.dropout)

    def encode(self, batch: Batch) -> State:
        """Patches, their keys, and the initial memory from the mean patch."""
        patches, mask = flatten_views(self.patch_features(batch), batch.view_mask)
        mean = mean_patch(patches, mask)  # [B, D]
        fixed = {
            "patches": patches,
            "keys": self.attention.keys(patches),
            "mask": mask,
            "view_mask": batch.view_mask,
            **self.embedding.project_tags(self.required_tags(batch)),
        }
        if self.config.attention == "post":
            fixed["image"] = self.image(mean)
        moving = {"h": self.initial_h(mean).tanh(), "c": self.initial_c(mean).tanh()}
        return State(fixed, moving)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """One word of either variant; see the class."""
        words, told = self.embedding.read(tokens.unsqueeze(1), state)
        words = self.dropout(words[:, 0])
        if self.config.attention == "soft":
            h, c, context, *seen = self._attend_then_move(
                self.from_word(words), state["h"], state["c"], state
            )
        else:
            memory = (state["h"].unsqueeze(0), state["c"].unsqueeze(0))
            inputs = torch.cat([words, state["image"]], -1).unsqueeze(1)
            hidden, (h, c) = self.lstm(inputs, memory)
            h, c = h[0], c[0]
            context, *seen = (x.squeeze(1) for x in self._attend_after(hidden, state))
        new = state.advance(h=h, c=c, **told)
        if state.tracing:
            new.trace = self._trace(state, *seen)
        return self._predict(words, h, context), new

    def unroll(self, batch: Batch, *, trace: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """ "soft": a loop over words around the least possible body; "post": no loop."""
        state = self.encode(batch)
        words = self.dropout(self.embedding.read(batch.tokens[:, :-1], state)[0])
        if self.config.attention == "soft":
            h, c, steps = state["h"], state["c"], []
            for from_word in self.from_word(words).unbind(1):
                h, c, *rest = self._attend_then_move(from_word, h, c, state)
                steps.append((h, *rest))
            hidden, context, *seen = (torch.stack(column, 1) for column in zip(*steps))
        else:
            image = state["image"].unsqueeze(1).expand(-1, words.shape[1], -1)
            memory = (state["h"].unsqueeze(0), state["c"].unsqueeze(0))
            hidden, _ = self.lstm(torch.cat([words, image], -1), memory)
            context, *seen = self._attend_after(hidden, state)
        traces = self._trace(state, *seen) if trace else {}
        return self._predict(words, hidden, context), traces

    def _attend_then_move(
        self, from_word: Tensor, h: Tensor, c: Tensor, state: State
    ) -> tuple[Tensor, ...]:
        """One step of the paper's decoder: new h, c, then z_t, alpha_t and beta_t if gated."""
        context, *seen = self._gated(
            h, *self.attention(h, state["keys"], state["patches"], state["mask"])
        )
        gates = from_word + self.from_hidden(h) + self.from_context(context)  # [N, 4H]
        size = h.shape[-1]
        i, f, o = gates[:, : 3 * size].sigmoid().chunk(3, -1)
        c = f * c + i * gates[:, 3 * size :].tanh()
        return o * c.tanh(), c, context, *seen

    def _attend_after(self, hidden: Tensor, state: State) -> tuple[Tensor, ...]:
        """The "post" variant for T steps: z ``[N, T, D]``, alpha ``[N, T, L]``, beta."""
        return self._gated(
            hidden, *self.attention(hidden, state["keys"], state["patches"], state["mask"])
        )

    def _gated(self, h: Tensor, context: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        if self.beta is None:
            return context, weights
        beta = self.beta(h).sigmoid()  # [..., 1]
        return beta * context, weights, beta.squeeze(-1)

    def _predict(self, words: Tensor, hidden: Tensor, context: Tensor) -> Tensor:
        """Deep output layer, eq. 7, for one step or for all at once."""
        mixed = words + self.hidden_to_output(hidden) + self.context_to_output(context)
        return self.output(self.dropout(mixed)).log_softmax(-1)

    @staticmethod
    def _trace(state: State, weights: Tensor, beta: Tensor | None = None) -> dict[str, Tensor]:
        trace = {"attention": weights.unflatten(-1, (state["view_mask"].shape[1], -1))}
        return trace if beta is None else {**trace, "gate": beta}

    @property
    def needs_trace_in_loss(self) -> bool:
        """The doubly stochastic term reads the attention."""
        return self.config.doubly_stochastic > 0

    def regularisers(self, batch: Batch, trace: dict[str, Tensor]) -> dict[str, Tensor]:
        """Doubly stochastic attention (eq. 14): each patch should be read about once in total.

        The paper adds ``lambda sum_i (1 - sum_t alpha_ti)^2`` to the summed ``-log p`` of a text.
        Our cross-entropy is a mean over tokens, so the term is divided by the same number of
        tokens; lambda then means what it means in the paper.
        """
        if not self.config.doubly_stochastic:
            return {}
        valid = target_mask(batch.lengths, batch.tokens.shape[1])  # [B, T-1]
        total = (trace["attention"] * valid[:, :, None, None]).sum(1)  # [B, V, S]
        penalty = ((1.0 - total) ** 2 * batch.view_mask.unsqueeze(-1)).sum()
        weight = self.config.doubly_stochastic / processes.total(valid).clamp_min(1)
        return {"doubly_stochastic": weight * penalty}
