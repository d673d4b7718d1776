"""Hier-RNN: a sentence LSTM that plans, a word LSTM that writes.

Krause et al., "A Hierarchical Approach for Generating Descriptive Image Paragraphs", CVPR 2017, as
the 2018 TensorFlow kit adapts it to two radiographs. Differences from either are marked below.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from r2genkit.batches import Batch
from r2genkit.models.base import State, pooled_views
from r2genkit.models.hierarchical import HierarchicalConfig, HierarchicalModel, WordDecoder


class HierRNNConfig(HierarchicalConfig):
    """Options of :class:`HierRNN`."""


class HierRNN(HierarchicalModel):
    """Sentence LSTM over the image vector, with stop control, and word LSTM.

    With v the pooled views side by side (the kit; Krause et al. max-pool 50 regions):

    * ``h_0, c_0 = tanh(W v)``, ``s_i = LSTM(v, s_{i-1})`` for sentence i (the kit)
    * ``p(stop_i) = sigmoid(w . s_i)`` (Krause et al. section 4.2; the kit has no stop and always
      writes eight sentences, some of them empty)
    * ``h_0', c_0' = tanh(W' s_i)`` of the word LSTM (the kit; Krause et al. feed a topic vector
      as the first word)

    Ours: the sentence LSTM reads ``[v; tags]``, and tags are added to every word vector.
    """

    Config = HierRNNConfig
    config: HierRNNConfig

    def __init__(self, config: HierRNNConfig, **sizes) -> None:
        super().__init__(config, **sizes)
        image, hidden = config.views * self.feature_dim, config.hidden_size
        self.initial_h = nn.Linear(image, hidden)
        self.initial_c = nn.Linear(image, hidden)
        self.sentence = nn.LSTMCell(image + self.tag_count, hidden)
        self.stop = nn.Linear(hidden, 1)
        self.words = WordDecoder(
            self.vocabulary_size,
            config.embedding_size,
            hidden,
            hidden,
            tag_count=self.tag_count,
            dropout=config.dropout,
            topic_everywhere=config.topic_everywhere,
            checklist=config.checklist,
        )
        self.dropout = nn.Dropout(config.dropout)

    def encode(self, batch: Batch) -> State:
        """The image vector and the sentence LSTM's memory before the first sentence."""
        features = self.patch_features(batch)
        pooled = self.dropout(pooled_views(features, batch.view_mask, self.config.views))
        tags = self.required_tags(batch)
        image = pooled if tags is None else torch.cat([pooled, tags], -1)
        moving = {"h": self.initial_h(pooled).tanh(), "c": self.initial_c(pooled).tanh()}
        return State({"image": image, **self.word_tags(batch)}, moving)

    def plan(self, state: State) -> tuple[Tensor, State]:
        """One step of the sentence LSTM; its output is the topic."""
        h, c = self.sentence(state["image"], (state["h"], state["c"]))
        return h, state.advance(h=h, c=c)

    def read(self, vector: Tensor | None, state: State) -> tuple[Tensor, State]:
        """The stop control; the words of the sentence are not read."""
        return self.stop(state["h"]).squeeze(-1), state
