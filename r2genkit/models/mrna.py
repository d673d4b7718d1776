"""MRNA: each sentence follows from the image and from the sentence before it.

Xue et al., "Multimodal Recurrent Model with Attention for Automated Radiology Report Generation",
MICCAI 2018, with its stacked-convolution sentence encoder; sizes are those of the 2018 TensorFlow
kit. The 2018 kit releases a variant without visual attention and without a stop; differences from
paper and kit are marked below.

The kit also reports a better model "based on MRNA, but improved" that it does not release and does
not describe: **its recipe is unknown**. The options ``memory``, ``tag_topic`` and ``self_feeding``
are this package's own answer to it and have no claim to be that model.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from r2genkit.batches import Batch
from r2genkit.models.attention import AdditiveAttention
from r2genkit.models.base import State, flatten_views, pooled_views
from r2genkit.models.hierarchical import (
    HierarchicalConfig,
    HierarchicalModel,
    Unrolled,
    WordDecoder,
)


class MRNAConfig(HierarchicalConfig):
    """Options of :class:`MRNA`."""

    attention_size: int = Field(512, ge=1)
    """Width of the additive attention over patches."""
    channels: int = Field(1024, ge=1)
    """Channels of each of the three convolutions of the sentence encoder."""
    memory: Literal["previous", "all"] = "previous"
    """"previous" is the paper's: the next sentence follows from the one before. "all" (ours): it
    also attends to every sentence written so far and knows how many there are."""
    tag_topic: bool = False
    """The findings enter the topic of each sentence and the decision to stop (ours)."""
    self_feeding: float = Field(0.0, ge=0.0, le=1.0)
    """Share of sentences that, in training, are followed up in the model's own words instead of
    the reference's (ours; scheduled sampling of whole sentences)."""


class SentenceEncoder(nn.Module):
    """Three stacked convolutions of width 3 over the words, each max-pooled over time.

    ``s = [max_t x_1; max_t x_2; max_t x_3]``, ``x_k = conv_k(x_{k-1})``, linear as in the 2018 kit.
    Ours: s is normalised, so that image and sentence weigh alike in what follows; the convolutions
    keep the length, since valid ones would leave nothing of sentences below seven words; and
    padding is kept out of convolution and maximum, where the 2018 kit encodes whatever follows the
    end mark.
    """

    def __init__(self, embedding_size: int, channels: int) -> None:
        super().__init__()
        sizes = (embedding_size, channels, channels, channels)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, 3, padding=1) for before, after in pairwise(sizes)
        )
        self.size = 3 * channels
        self.normalise = nn.LayerNorm(self.size)

    def forward(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Sentence vectors ``[N, 3 C]`` of word vectors ``[N, W, E]``.

        Args:
            mask: ``[N, W]`` bool, True on words; a sentence without words becomes zero.
        """
        keep = mask.unsqueeze(1)  # [N, 1, W]
        hidden, pooled = vectors.transpose(1, 2) * keep, []
        for convolution in self.convolutions:
            hidden = convolution(hidden) * keep
            pooled.append(hidden.masked_fill(~keep, -math.inf).amax(-1))
        # A sentence without words has a maximum of -inf.
        empty = ~mask.any(-1, keepdim=True)
        return self.normalise(torch.cat(pooled, -1).masked_fill(empty, 0.0)).masked_fill(empty, 0.0)


class MRNA(HierarchicalModel):
    """First sentence from the image; each further one from the image, read by way of the last.

    With v the pooled views, V their patches and s the vector of the sentence before:

    * first sentence: topic ``tanh(W v)`` (the impression, where the target begins with it)
    * ``a = w . tanh(W_v V + W_s s)``, ``v_att = sum softmax(a)_i V_i``
    * further sentences: topic ``tanh(W [v_att; s])``
    * ``h_0, c_0 = tanh(W' topic)`` of the word LSTM, shared by all sentences

    Not as in the paper: one word LSTM for the first and the further sentences (as in the kit), and
    ``p(stop) = sigmoid(w . tanh(W [v; s]))`` after each sentence (the paper stops at an empty
    sentence, the kit never). The kit has one initial layer per sentence number; here there is one
    for the first and one for all others. Ours: tags are added to every word vector.

    With ``memory="all"`` (ours) the topic also gets ``r``, attention over all sentence vectors so
    far with query s, and a vector for the sentence's number, which the stop gets, too.

    Trace, one row per sentence: "attention" ``[N, V, S]`` (the first sentence reads the mean of
    all present patches, so its row is uniform); "memory" ``[N, M]`` with ``memory="all"``, weights
    of the sentences before.
    """

    Config = MRNAConfig
    config: MRNAConfig

    def __init__(self, config: MRNAConfig, **sizes) -> None:
        super().__init__(config, **sizes)
        words, hidden, patch = config.embedding_size, config.hidden_size, self.feature_dim
        image = config.views * patch
        self.words = WordDecoder(
            self.vocabulary_size,
            words,
            hidden,
            hidden,
            tag_count=self.tag_count,
            dropout=config.dropout,
            topic_everywhere=config.topic_everywhere,
            checklist=config.checklist,
        )
        self.encoder_of_sentences = SentenceEncoder(words, config.channels)
        sentence = self.encoder_of_sentences.size
        self.attention = AdditiveAttention(patch, sentence, config.attention_size)
        tags = self.tag_count if config.tag_topic else 0
        self.first = nn.Linear(image + tags, hidden)
        further = patch + sentence + tags
        judged = image + sentence + tags
        if config.memory == "all":
            self.recall = AdditiveAttention(sentence, sentence, config.attention_size)
            self.number = nn.Embedding(config.sentences, hidden)
            further += sentence
            judged += hidden
        self.further = nn.Linear(further, hidden)
        self._start_quietly()
        self.judge = nn.Linear(judged, hidden)
        self.stop = nn.Linear(hidden, 1)
        self.dropout = nn.Dropout(config.dropout)

    @torch.no_grad()
    def _start_quietly(self) -> None:
        """Small topics at first, so that the word LSTM learns to write before it is told what."""
        self.first.weight *= 0.1
        self.further.weight *= 0.1
        if self.config.memory == "all":
            self.number.weight *= 0.1

    def encode(self, batch: Batch) -> State:
        """Patches, keys and the image vector; no sentence has been written."""
        features = self.patch_features(batch)
        patches, mask = flatten_views(features, batch.view_mask)
        tags = self.required_tags(batch)
        fixed = {
            "patches": patches,
            "keys": self.attention.keys(patches),
            "mask": mask,
            "view_mask": batch.view_mask,
            "image": pooled_views(features, batch.view_mask, self.config.views),
            **self.word_tags(batch),
        }
        if self.config.tag_topic and tags is not None:
            fixed["tags"] = tags
        size, count = self.encoder_of_sentences.size, len(patches)
        moving = {
            "sentence": patches.new_zeros(count, size),
            "written": torch.zeros(count, dtype=torch.long, device=patches.device),
        }
        if self.config.memory == "all":
            moving["memory"] = patches.new_zeros(count, self.config.sentences, size)
            moving["memory_keys"] = self.recall.keys(moving["memory"])
        return State(fixed, moving)

    def _with_tags(self, state: State, *parts: Tensor) -> Tensor:
        """The parts side by side, dropped out, with the findings where they are asked for."""
        joined = self.dropout(torch.cat(parts, -1))
        return torch.cat([joined, state["tags"]], -1) if "tags" in state.fixed else joined

    def plan(self, state: State) -> tuple[Tensor, State]:
        """The topic of the first sentence, or of a further one."""
        written, sentence = state["written"], state["sentence"]
        seen, alpha = self.attention(sentence, state["keys"], state["patches"], state["mask"])
        parts = [seen, sentence]
        trace = {}
        if self.config.memory == "all":
            places = torch.arange(self.config.sentences, device=written.device)
            # The first sentence has nothing to recall; it reads place 0, which is zero.
            told = places < written.clamp_min(1).unsqueeze(1)
            recalled, weights = self.recall(sentence, state["memory_keys"], state["memory"], told)
            parts.append(recalled)
            trace["memory"] = weights * (written > 0).unsqueeze(1)
        first = self.first(self._with_tags(state, state["image"]))
        further = self.further(self._with_tags(state, *parts))
        begun = (written > 0).unsqueeze(1)
        topic = torch.where(begun, further, first)
        if self.config.memory == "all":
            topic = topic + self.number(written)
        new = state.advance()
        if state.tracing:
            uniform = state["mask"] / state["mask"].sum(1, keepdim=True).clamp_min(1)
            alpha = torch.where(begun, alpha, uniform)
            views = state["view_mask"].shape[1]
            new.trace = {"attention": alpha.unflatten(-1, (views, -1)), **trace}
        return topic.tanh(), new

    def sentence_vectors(self, tokens: Tensor) -> Tensor:
        """Sentence encoder over plain word vectors (no tags added).

        Ours: it reads word vectors without training them. Its gradient is several times that of
        the words' own and would keep them from settling in the first epochs.
        """
        vectors = self.words.embedding.words(tokens).detach()
        return self.encoder_of_sentences(vectors, tokens > 0)

    def read(self, vector: Tensor, state: State) -> tuple[Tensor, State]:
        """Keep the sentence's vector and decide whether it was the last."""
        written = state["written"]
        parts, moving = [state["image"], vector], {}
        if self.config.memory == "all":
            parts.append(self.number(written))
            place = nn.functional.one_hot(written, self.config.sentences).unsqueeze(-1).bool()
            moving["memory"] = torch.where(place, vector.unsqueeze(1), state["memory"])
            keys = self.recall.keys(vector).unsqueeze(1)
            moving["memory_keys"] = torch.where(place, keys, state["memory_keys"])
        odds = self.stop(self.judge(self._with_tags(state, *parts)).tanh()).squeeze(-1)
        return odds, state.advance(sentence=vector, written=written + 1, **moving)

    def unroll(self, batch: Batch, *, trace: bool = False) -> Unrolled:
        """Teacher forcing; with ``self_feeding``, on some sentences in the model's own words.

        In training the model first writes every sentence by its best guess at each reference word,
        all at once (two passes, after Mihaylova & Martins 2019, who do so for Transformers). A
        share of the sentences then has these words for the sentence encoder; the word LSTM goes on
        reading the reference. Nobody tells the model that what it reads is its own.
        """
        given = batch.sentences[:, :, 1:]
        if not (self.training and self.config.self_feeding):
            return self._unroll(batch, self._vectors(given), trace)
        with torch.no_grad():
            first = self._unroll(batch, self._vectors(given), False)
            own = first.log_probs().argmax(-1)  # [B, M, W]
            own = own * (own != 0).cumprod(-1)  # nothing behind the end mark
        share = torch.rand(own.shape[:2], device=own.device) < self.config.self_feeding
        share = share & (batch.sentence_lengths > 0) & (own[..., 0] > 0)
        words = torch.where(share.unsqueeze(-1), own, given)
        return self._unroll(batch, self._vectors(words), trace)
