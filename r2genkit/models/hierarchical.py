"""Reports sentence by sentence: what the hierarchical models share.

A sentence level plans ("what is the next sentence about, and is it the last?"), a word level writes
each sentence. A subclass of :class:`HierarchicalModel` gives the sentence level in four parts:

* ``encode(batch)``: the state before the first sentence;
* ``plan(state)``: the topic of the next sentence, a vector, and where the model looks for it;
* ``sentence_vectors(tokens)``: what it keeps of a sentence once written, or None;
* ``read(vector, state)``: takes note of that sentence and says whether the report ends with it.

For training, the word level sees all sentences of all studies in one fused LSTM call; only the
sentence level, a handful of steps, runs one after the other. The same parts write new reports
(``Writer.reports`` in :mod:`r2genkit.decoding`), and a test proves for every model that a written
report has the log-probability which ``score`` gives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from r2genkit import processes
from r2genkit.batches import Batch, SentenceLayout
from r2genkit.errors import KitError
from r2genkit.models.base import (
    ModelConfig,
    ReportModel,
    State,
    target_mask,
    token_cross_entropy,
)
from r2genkit.models.embedding import WordEmbedding

if TYPE_CHECKING:
    from r2genkit.decoding import Decoded, Writer


class HierarchicalConfig(ModelConfig):
    """Options that every hierarchical model has; sizes are those of the 2018 kit."""

    embedding_size: int = Field(512, ge=1)
    hidden_size: int = Field(512, ge=1)
    """Of the sentence LSTM (where there is one) and of the word LSTM."""
    sentences: int = Field(8, ge=1)
    """Most sentences of a report; further ones are not learned."""
    words: int = Field(50, ge=2)
    """Most words of a sentence; further ones are not learned."""
    stop_weight: float = Field(5.0, ge=0.0)
    """Factor on the stop loss beside a word loss of factor 1 (Krause et al. 2017: 5)."""
    topic_everywhere: bool = False
    """Also add the topic, projected, to every word vector of its sentence (ours): the sentence
    level then learns from every word at once, not only through the start of the word LSTM."""
    checklist: bool = False
    """Strike findings off the list once they have been told, in whichever sentence (ours)."""
    dropout: float = Field(0.3, ge=0.0, lt=1.0)
    """On word vectors, topics and before the output layer."""
    views: int = Field(2, ge=1)
    """View slots concatenated into the image vector; an absent view counts as zeros."""


class WordDecoder(nn.Module):
    """LSTM that writes one sentence about a topic: ``p(w_t | w_<t, topic)``.

    Args:
        vocabulary_size: K.
        embedding_size: E, length of a word vector.
        hidden_size: H, LSTM units.
        topic_size: P, length of a topic.
        tag_count: F, finding probabilities added to every word vector; 0 = none.
        dropout: on word vectors, topics and before the output layer.
        topic_as: "state" = ``h_0, c_0 = tanh(W topic)`` (the 2018 kit); "input" = the topic is the
            first input, before the begin mark (Krause et al. 2017, Jing et al. 2018).
        topic_everywhere: also add ``W topic`` to every word vector (ours).
        checklist: strike told findings off (ours).
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_size: int,
        hidden_size: int,
        topic_size: int,
        *,
        tag_count: int = 0,
        dropout: float = 0.0,
        topic_as: Literal["state", "input"] = "state",
        topic_everywhere: bool = False,
        checklist: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = WordEmbedding(
            vocabulary_size, embedding_size, tag_count, checklist=checklist
        )
        self.topic_as = topic_as
        if topic_as == "state":
            self.initial_h = nn.Linear(topic_size, hidden_size)
            self.initial_c = nn.Linear(topic_size, hidden_size)
        else:
            self.first = nn.Linear(topic_size, embedding_size)
        self.always = None
        if topic_everywhere:
            self.always = nn.Linear(topic_size, embedding_size, bias=False)
            # About as large as word vectors at first; otherwise all words look alike for epochs.
            nn.init.normal_(self.always.weight, std=0.1 * topic_size**-0.5)
        self.lstm = nn.LSTM(embedding_size, hidden_size, batch_first=True)
        self.output = nn.Linear(hidden_size, vocabulary_size)
        self.dropout = nn.Dropout(dropout)

    def begin(self, topic: Tensor, tags: Mapping[str, Tensor]) -> State:
        """State before the first word, N sentences.

        Args:
            topic: ``[N, P]``.
            tags: what is known of the findings: "tags" ``[N, E]`` and "listed" ``[N, F]`` of
                ``embedding.project_tags``, "told" ``[N, F]`` by earlier sentences; any may miss.
        """
        topic = self.dropout(topic)
        parts = [tags["tags"]] if "tags" in tags else []
        if self.always is not None:
            parts.append(self.always(topic))
        fixed = {"added": sum(parts)} if parts else {}
        if "listed" in tags:
            fixed["listed"] = tags["listed"]
        if self.topic_as == "state":
            moving = {"h": self.initial_h(topic).tanh(), "c": self.initial_c(topic).tanh()}
        else:
            first = self.first(topic) + tags.get("tags", 0.0)
            _, (h, c) = self.lstm(first.unsqueeze(1))
            moving = {"h": h[0], "c": c[0]}
        if "told" in tags:
            moving["told"] = tags["told"]
        return State(fixed, moving)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """One word: ``tokens [N]`` -> log-probabilities of the next ``[N, K]``, new state."""
        hidden, (h, c), told = self._run(tokens.unsqueeze(1), state)
        return self.predict(hidden[:, 0]), state.advance(h=h[0], c=c[0], **told)

    def unroll(self, tokens: Tensor, state: State) -> Tensor:
        """Teacher forcing: ``tokens [N, W]``, begin mark first -> LSTM outputs ``[N, W, H]``."""
        return self._run(tokens, state)[0]

    def predict(self, hidden: Tensor) -> Tensor:
        """Log-probabilities ``[..., K]`` of LSTM outputs ``[..., H]``."""
        return self.output(self.dropout(hidden)).log_softmax(-1)

    def _run(
        self, tokens: Tensor, state: State
    ) -> tuple[Tensor, tuple[Tensor, Tensor], dict[str, Tensor]]:
        words, told = self.embedding.read(tokens, state, "added")
        memory = (state["h"].unsqueeze(0), state["c"].unsqueeze(0))
        return *self.lstm(self.dropout(words), memory), told


def short_and_long(lengths: Tensor) -> list[tuple[Tensor, int]]:
    """Cut rows of different lengths into at most two groups with little padding.

    Args:
        lengths: int ``[N]``; rows of length 0 belong to no group.

    Returns:
        Rows (int64) and the length of the longest of them, for each group. Of all cuts of the rows
        sorted by length, the one with the fewest positions, padding included.
    """
    order = lengths.argsort()
    order = order[lengths[order] > 0]
    if len(order) == 0:
        return []
    ends = lengths[order]
    first = torch.arange(1, len(order) + 1)
    cut = int((first * ends + (len(order) - first) * ends[-1]).argmin()) + 1
    groups = [order[:cut], order[cut:]]
    return [(rows, int(lengths[rows[-1]])) for rows in groups if len(rows)]


@dataclass
class Unrolled:
    """Teacher forcing over M sentences of at most W words.

    Attributes:
        words: the word level.
        tokens: ``[B, M, W]`` its inputs, begin mark first.
        begun: state of the word level before each of the ``B * M`` sentences.
        stop: ``[B, M]`` log-odds that the report ends after the sentence.
        traces: ``[B, M, ...]`` by name.
    """

    words: WordDecoder
    tokens: Tensor
    begun: State
    stop: Tensor
    traces: dict[str, Tensor]

    def log_probs(self) -> Tensor:
        """Of every word at every position ``[B, M, W, K]``."""
        hidden = self.words.unroll(self.tokens.flatten(0, 1), self.begun)
        return self.words.predict(hidden).unflatten(0, self.tokens.shape[:2])

    def outputs(self, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """LSTM outputs ``[R, H]``, targets ``[R]`` and weights ``[R]`` of the positions to learn.

        On the CPU these are the positions with a weight, in groups of sentences of similar length:
        two positions of three are padding. On an accelerator they are all positions, since the host
        would have to wait for the number that is left.

        Args:
            targets: ``[B, M, W]``.
            weights: ``[B, M, W]``, 0 on padding.
        """
        tokens, targets, weights = (x.flatten(0, 1) for x in (self.tokens, targets, weights))
        if tokens.device.type != "cpu":
            hidden = self.words.unroll(tokens, self.begun)
            return hidden.flatten(0, 1), targets.flatten(), weights.flatten()
        counted = weights > 0
        # One more than the last position that counts.
        lengths = (counted * torch.arange(1, counted.shape[1] + 1)).amax(1)
        found = []
        for rows, width in short_and_long(lengths):
            hidden = self.words.unroll(tokens[rows, :width], self.begun.reorder(rows))
            kept = counted[rows, :width]
            found.append((hidden[kept], targets[rows, :width][kept], weights[rows, :width][kept]))
        if not found:
            return self.begun["h"][:0], targets[counted], weights[counted]
        return tuple(torch.cat(parts) for parts in zip(*found))


class HierarchicalModel(ReportModel):
    """Base of the models that write sentence by sentence.

    A subclass defines ``Config``, ``encode``, ``plan`` and ``read`` (and ``sentence_vectors`` if it
    reads what it wrote), and sets ``self.words`` to its :class:`WordDecoder`. The state of the
    sentence level holds the projected tags under "word_tags" (see :meth:`word_tags`).
    """

    Config = HierarchicalConfig
    config: HierarchicalConfig
    words: WordDecoder

    def __init__(self, config: HierarchicalConfig, **sizes) -> None:
        super().__init__(config, **sizes)
        if self.full_stop is None:
            raise KitError(
                "a model that writes sentence by sentence needs the full stop in its vocabulary; "
                "use a text rule that keeps full stops (text.compat: default)."
            )

    # --- what a subclass writes -------------------------------------------------------------

    def encode(self, batch: Batch) -> State:
        """Look at the images once; the state before the first sentence."""
        raise NotImplementedError

    def plan(self, state: State) -> tuple[Tensor, State]:
        """The topic of the next sentence ``[N, P]`` and the new state, with its trace."""
        raise NotImplementedError

    def sentence_vectors(self, tokens: Tensor) -> Tensor | None:
        """What the model keeps of written sentences ``[N, E]``; None = nothing.

        Args:
            tokens: ``[N, W]`` words, then end mark and padding 0.
        """
        return None

    def read(self, vector: Tensor | None, state: State) -> tuple[Tensor, State]:
        """Take note of the sentence just written.

        Args:
            vector: ``[N, E]`` from :meth:`sentence_vectors`.
            state: from :meth:`plan`.

        Returns:
            Log-odds ``[N]`` that the report ends here, and the new state.
        """
        raise NotImplementedError

    # --- what every hierarchical model gets -------------------------------------------------

    @property
    def layout(self) -> SentenceLayout:
        """Reports are cut at full stops, to the sizes of the options."""
        return SentenceLayout(self.full_stop, self.config.sentences, self.config.words)

    def word_tags(self, batch: Batch) -> dict[str, Tensor]:
        """The word level's share of a state: "word_tags" ``[B, E]``, with a checklist also
        "word_listed" ``[B, F]``; nothing without tags.
        """
        projected = self.words.embedding.project_tags(self.required_tags(batch))
        return {f"word_{name}": value for name, value in projected.items()}

    def tell(self, words: Tensor, state: State) -> State:
        """Strike off what a sentence has told, where there is a checklist.

        Args:
            words: ``[N, W]`` of the sentence, then end mark and padding 0.
            state: of the sentence level.
        """
        checklist = self.words.embedding.checklist
        if checklist is None or "word_listed" not in state.fixed:
            return state
        return state.advance(word_told=self._told(state) + checklist.spent(words).sum(1))

    @staticmethod
    def _told(state: State) -> Tensor:
        """Sum of strikes ``[N, F]`` of the sentences before."""
        told = state.moving.get("word_told")
        return torch.zeros_like(state["word_listed"]) if told is None else told

    def _findings(self, state: State) -> dict[str, Tensor]:
        """What the word level is told of the findings before a sentence."""
        named = {"tags": "word_tags", "listed": "word_listed"}
        known = {name: state[own] for name, own in named.items() if own in state.fixed}
        return {**known, "told": self._told(state)} if "listed" in known else known

    def begin(self, topic: Tensor, state: State) -> State:
        """State of the word level before the first word of a sentence on ``topic [N, P]``."""
        return self.words.begin(topic, self._findings(state))

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """One word of a sentence; 0 is its begin and its end mark."""
        return self.words.step(tokens, state)

    def unroll(self, batch: Batch, *, trace: bool = False) -> Unrolled:
        """Teacher forcing on ``batch.sentences``."""
        given = batch.sentences[:, :, 1:]
        return self._unroll(batch, self._vectors(given), trace)

    def _vectors(self, words: Tensor) -> Tensor | None:
        """``sentence_vectors`` of ``[B, M, W]`` words, all at once: ``[B, M, E]``."""
        vectors = self.sentence_vectors(words.flatten(0, 1))
        return None if vectors is None else vectors.unflatten(0, words.shape[:2])

    def _unroll(self, batch: Batch, vectors: Tensor | None, trace: bool) -> Unrolled:
        state = self.encode(batch)
        state.tracing = trace
        topics, findings, stops, traces = [], [], [], []
        for place in range(batch.sentences.shape[1]):
            topic, state = self.plan(state)
            traces.append(state.trace)
            findings.append(self._findings(state))
            state = self.tell(batch.sentences[:, place, 1:], state)
            stop, state = self.read(None if vectors is None else vectors[:, place], state)
            topics.append(topic)
            stops.append(stop)
        begun = self.words.begin(
            torch.stack(topics, 1).flatten(0, 1),
            {
                name: torch.stack([f[name] for f in findings], 1).flatten(0, 1)
                for name in findings[0]
            },
        )
        return Unrolled(
            self.words,
            batch.sentences[:, :, :-1],
            begun,
            torch.stack(stops, 1),
            {name: torch.stack([t[name] for t in traces], 1) for name in traces[0]},
        )

    needs_trace_in_loss: bool = False

    def regularisers(self, batch: Batch, traces: dict[str, Tensor]) -> dict[str, Tensor]:
        """Further loss terms by name (scalars); none by default."""
        return {}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Training loss.

        Returns:
            "loss" (scalar, the sum of all other entries); "word_ce", the weighted mean over words
            and end marks of sentences; "stop_ce", ``stop_weight`` times the mean binary
            cross-entropy of the decisions to stop; and one entry per regulariser.
        """
        self._require_sentences(batch)
        unrolled = self.unroll(batch, trace=self.needs_trace_in_loss)
        weights = batch.sentence_weights
        if weights is None:
            weights = self._targets(batch).float()
        hidden, targets, weights = unrolled.outputs(batch.sentences[:, :, 1:], weights)
        word = token_cross_entropy(
            self.words.predict(hidden), targets, weights, smoothing=self.config.label_smoothing
        )
        decided = (batch.stops >= 0).float()
        each = nn.functional.binary_cross_entropy_with_logits(
            unrolled.stop, batch.stops.clamp_min(0).to(unrolled.stop.dtype), reduction="none"
        )
        stop = (each * decided).sum() / processes.total(decided).clamp_min(1.0)
        parts = {
            "word_ce": word,
            "stop_ce": self.config.stop_weight * stop,
            **self.regularisers(batch, unrolled.traces),
        }
        return {"loss": sum(parts.values()), **parts}

    def score(self, batch: Batch) -> Tensor:
        """Log-probability of each report ``[B]``: its words, its ends of sentences, its stop."""
        self._require_sentences(batch)
        unrolled = self._unroll(batch, self._vectors(batch.sentences[:, :, 1:]), False)
        targets = batch.sentences[:, :, 1:, None]
        words = unrolled.log_probs().gather(-1, targets).squeeze(-1) * self._targets(batch)
        sign = 2.0 * batch.stops - 1.0  # log sigmoid(odds) to stop, log sigmoid(-odds) to go on
        stops = nn.functional.logsigmoid(sign * unrolled.stop) * (batch.stops >= 0)
        return words.sum((1, 2)) + stops.sum(1)

    def write(self, batch: Batch, writer: Writer) -> Decoded:
        """One report per study (or several samples), sentence by sentence."""
        return writer.reports(self, batch)

    @staticmethod
    def _targets(batch: Batch) -> Tensor:
        """``[B, M, W]`` bool: True where ``sentences[:, :, 1:]`` is a word or an end mark."""
        flat = target_mask(batch.sentence_lengths.flatten(), batch.sentences.shape[-1])
        return flat.unflatten(0, batch.sentence_lengths.shape)

    @staticmethod
    def _require_sentences(batch: Batch) -> None:
        if batch.sentences is None or batch.stops is None or batch.sentence_lengths is None:
            raise KitError(
                "this minibatch has no sentences; load it with reports and layout=model.layout."
            )
