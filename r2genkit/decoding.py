"""Writing reports: greedy, sampling and beam search, once for every model.

A flat model is searched word by word over the whole report; a model that writes sentence by
sentence is searched within each sentence, and decides after each whether the report ends there.
All studies (and all their beams or samples) advance together; nothing here loops over studies
while texts are being written. Log-probabilities that are returned are always the model's own,
whatever a search rule (blocking, temperature, bias) did to the choice of words.

Released R2Gen and R2GenCMN, and how to get the same search here:

* beam 3, best = highest *unnormalised* sum: ``method="beam", beam_size=3, length_penalty=0``,
  the defaults. It favours short texts; ``length_penalty`` 0.5 to 1 counters that.
* as there, a finished text takes one of the K places of the step in which it finishes and frees
  it at the next; texts open at ``max_length`` compete as they are.
* they run all ``max_length`` steps; here a study stops when nothing open can win any more, which
  gives the same texts (tested).
* their n-gram blocking acts only outside beam search and only lowers the probability of a
  repeated trigram; ``no_repeat_ngram`` forbids it, in every method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from r2genkit import seeds
from r2genkit.batches import Batch
from r2genkit.errors import KitError
from r2genkit.models.base import ReportModel, State
from r2genkit.study import Hypothesis
from r2genkit.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from r2genkit.models.hierarchical import HierarchicalModel

Step = Callable[[Tensor, State], tuple[Tensor, State]]

END = 0  # begin mark, end mark and padding
# The minibatch shrinks when this share of its rows, or less, is still open: copying the state costs
# about one step, so it should not happen for every text that ends.
SHRINK_AT = 0.75


class DecodingConfig(BaseModel):
    """How texts are written; an unknown option is an error.

    Length counts written tokens (words and full stops) with the end mark, without the begin mark.
    Where a model writes sentence by sentence, ``beam_size`` and ``length_penalty`` hold within a
    sentence, everything else for the report; its own decision to stop is what ``min_length`` and
    ``end_bias`` act on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["greedy", "sample", "beam"] = "greedy"
    max_length: int = Field(60, ge=1)
    """Largest length; a text that has no end mark by then is cut."""
    min_length: int = Field(0, ge=0)
    """Words that must be written before the end mark is allowed."""
    beam_size: int = Field(3, ge=1)
    """K, open texts per study ("beam")."""
    length_penalty: float = 0.0
    """Finished texts are ranked by ``sum of log-probabilities / length ** length_penalty``
    ("beam"); 0 = the plain sum, as released by R2Gen."""
    no_repeat_ngram: int = Field(0, ge=0)
    """n > 0: no sequence of n words occurs twice in a text (marks are exempt)."""
    end_bias: float = 0.0
    """Added to the log-probability of the end mark when words are chosen; below 0 = longer."""
    forbid_unk: bool = False
    """Never write ``<unk>``; needs the vocabulary."""
    temperature: float = Field(1.0, gt=0.0)
    """Divides the logits ("sample")."""
    top_k: int = Field(0, ge=0)
    """Draw among the k most probable words only; 0 = all ("sample")."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Draw among the fewest words whose probabilities reach p ("sample")."""
    samples: int = Field(1, ge=1)
    """Texts per study: draws ("sample") or the best n of the beam ("beam")."""
    early_stop: bool = True
    """Drop finished texts from the computation. False runs every step without ever waiting for
    the device; the texts are the same."""

    @model_validator(mode="after")
    def _agree(self) -> DecodingConfig:
        if self.method == "greedy" and self.samples != 1:
            raise ValueError("greedy writes one text per study; set samples to 1 or sample")
        if self.method == "beam" and self.samples > self.beam_size:
            raise ValueError("a beam cannot return more texts (samples) than its beam_size")
        if self.min_length >= self.max_length:
            raise ValueError("min_length must stay below max_length")
        return self


@dataclass
class Decoded:
    """Texts of B studies, n per study (best first for beams), T = longest.

    Attributes:
        tokens: ``[B, n, T]`` int64 words, then the end mark 0 and padding 0.
        lengths: ``[B, n]`` words, end mark not counted.
        log_probs: ``[B, n]`` sum over words and end mark, natural log; -inf where a beam found
            fewer than n texts.
        scores: ``[B, n]`` what texts were ranked by (beams), else ``log_probs``.
        token_log_probs: ``[B, n, T]`` per word, 0 after the end mark. With autograd switched on
            it carries the gradient (greedy, sample).
        traces: ``[B, n, T, ...]`` by name, if asked for.
    """

    tokens: Tensor
    lengths: Tensor
    log_probs: Tensor
    scores: Tensor
    token_log_probs: Tensor
    traces: dict[str, Tensor] = field(default_factory=dict)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module has its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def decode(
    model: nn.Module,
    batch: Batch,
    config: DecodingConfig | None = None,
    vocabulary: Vocabulary | None = None,
    *,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    trace: bool = False,
) -> list[list[Hypothesis]]:
    """Reports for every study of a minibatch, in evaluation mode and without gradients.

    Args:
        model: a report model.
        batch: images or features (and tags); its tokens are not looked at.
        config: default: greedy.
        vocabulary: for ``Hypothesis.text`` (else "") and for ``forbid_unk``.
        generator: random numbers for sampling, on the model's device.
        seed: instead of a generator: one stream per study, so that a study's samples do not
            depend on the minibatch it is in.
        trace: fill ``Hypothesis.trace`` with one numpy row per word.

    Returns:
        One list per study: one hypothesis, or up to ``config.samples``.

    Raises:
        KitError: ``forbid_unk`` without a vocabulary, or a vocabulary of another size.
    """
    config = config or DecodingConfig()
    with evaluating(model):
        decoded = search(
            model,
            batch,
            config,
            vocabulary=vocabulary,
            generator=generator,
            seed=seed,
            trace=trace,
        )
    traces = {name: value.float().cpu().numpy() for name, value in decoded.traces.items()}
    tokens, lengths = decoded.tokens.tolist(), decoded.lengths.tolist()
    log_probs = decoded.log_probs.tolist()
    result: list[list[Hypothesis]] = []
    for row, study_id in enumerate(batch.study_ids):
        texts = []
        for place, length in enumerate(lengths[row]):
            if log_probs[row][place] == -math.inf:
                continue
            words = tuple(tokens[row][place][:length])
            texts.append(
                Hypothesis(
                    study_id=study_id,
                    text="" if vocabulary is None else vocabulary.decode(words),
                    tokens=words,
                    log_prob=log_probs[row][place],
                    trace={name: value[row, place, :length] for name, value in traces.items()},
                )
            )
        result.append(texts)
    return result


def decode_all(
    model: nn.Module,
    loader: Iterable[Batch],
    config: DecodingConfig | None = None,
    *,
    vocabulary: Vocabulary,
    device: str | torch.device | None = None,
    seed: int | None = None,
) -> dict[str, Hypothesis]:
    """The first hypothesis of every study that ``loader`` yields, by study id.

    Args:
        device: where the model is; default: the device of its parameters.
        seed: for sampling, see :func:`decode`.
    """
    device = device or next(model.parameters()).device
    found: dict[str, Hypothesis] = {}
    for batch in loader:
        texts = decode(model, batch.to(device), config, vocabulary=vocabulary, seed=seed)
        found.update({group[0].study_id: group[0] for group in texts})
    return found


def search(
    model: ReportModel,
    batch: Batch,
    config: DecodingConfig,
    *,
    vocabulary: Vocabulary | None = None,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    trace: bool = False,
) -> Decoded:
    """The tensors behind :func:`decode`; leaves training mode and autograd as they are.

    Sampling with autograd on gives log-probabilities that can be trained on (self-critical
    training). The arguments are those of :func:`decode`.
    """
    unk = _unk(model, config, vocabulary)
    writer = Writer(config, () if unk is None else (unk,), generator, seed, trace)
    return model.write(batch, writer)


def _unk(model: ReportModel, config: DecodingConfig, vocabulary: Vocabulary | None) -> int | None:
    if vocabulary is not None and len(vocabulary) != model.vocabulary_size:
        raise KitError(
            f"the vocabulary has {len(vocabulary)} ids and the model {model.vocabulary_size}; "
            "use the vocabulary saved with the checkpoint."
        )
    if not config.forbid_unk:
        return None
    if vocabulary is None:
        raise KitError("forbid_unk needs the vocabulary to know which id is <unk>; pass it.")
    return vocabulary.unk


@dataclass(frozen=True)
class Writer:
    """The search that :meth:`ReportModel.write` is handed.

    Attributes:
        config: the rules.
        never: ids that are never written.
        generator, seed: see :func:`decode`.
        trace: whether traces are wanted.
    """

    config: DecodingConfig
    never: tuple[int, ...] = ()
    generator: torch.Generator | None = None
    seed: int | None = None
    trace: bool = False

    def texts(self, step: Step, state: State, study_ids: tuple[str, ...]) -> Decoded:
        """Whole texts, word by word.

        Args:
            step: reads tokens ``[N]`` and a state, gives log-probabilities ``[N, K]`` and a state.
            state: one row per study.
            study_ids: B ids.
        """
        state.tracing = self.trace
        config = self.config
        if config.method == "beam":
            return _beam(step, state, config, self.never)
        uniform = self.uniform(study_ids, config.max_length, state.device)
        return _write(step, state.repeat(config.samples), config, self.never, uniform)

    def uniform(
        self, study_ids: tuple[str, ...], count: int, device: torch.device
    ) -> Tensor | None:
        """``count`` numbers in [0, 1) per study and sample ``[B * samples, count]``, if sampling.

        All drawn beforehand: what a text gets does not depend on when its neighbours end.
        """
        if self.config.method != "sample":
            return None
        shape = (self.config.samples, count)
        # Double precision where there is any: the cumulated probabilities are compared with it.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        if self.seed is None:
            numbers = torch.rand(
                len(study_ids), *shape, generator=self.generator, dtype=dtype, device=device
            )
        else:
            rows = [
                seeds.numpy_rng(self.seed, f"sampling/{name}").random(shape) for name in study_ids
            ]
            numbers = torch.stack([torch.from_numpy(row) for row in rows]).to(device, dtype)
        return numbers.flatten(0, 1)

    def reports(self, model: HierarchicalModel, batch: Batch) -> Decoded:
        """Reports sentence by sentence; all studies write the same sentence number together.

        The log-probability of a report is that of its words, of each decision to go on (it counts
        with the first word of the next sentence) and of the decision to stop (the end mark's). A
        sentence or report at its largest length ends without a decision.

        Traces have one row per token: those of the sentence's plan, repeated, and "sentence", the
        number of the sentence (0-based; -1 behind the report's end).

        Raises:
            KitError: several texts per study are asked of a beam.
        """
        config, layout = self.config, model.layout
        if config.method == "beam" and config.samples > 1:
            raise KitError(
                "the beam works within a sentence here and gives one report per study; "
                "set samples to 1, or method to sample."
            )
        state = model.encode(batch)
        state.tracing = self.trace
        state = state.repeat(config.samples)
        count, device = len(state), state.device
        width = layout.words + 1  # words and full stop
        numbers = self.uniform(batch.study_ids, layout.sentences * width, device)
        within = config.model_copy(
            update={"max_length": layout.words, "min_length": 1, "end_bias": 0.0, "samples": 1}
        )
        page = _Page(count, config.max_length, width, device)
        earlier = torch.zeros(count, 0, dtype=torch.long, device=device)
        rows = torch.arange(count, device=device)  # the texts that the state's rows belong to
        going_on = torch.zeros(count, device=device)  # log-probability of this decision, last time
        open_rows = torch.ones(count, dtype=torch.bool, device=device)
        for place in range(layout.sentences):
            topic, state = model.plan(state)
            number = torch.full_like(rows, place)
            trace = {**state.trace, "sentence": number} if self.trace else {}
            begun = model.begin(topic, state)
            drawn = None if numbers is None else numbers[rows, place * width : (place + 1) * width]
            never = (*self.never, layout.full_stop)
            before = earlier[rows] if earlier.shape[1] else None
            if config.method == "beam":
                sentence = _beam(model.step, begun, within, never, before)
            else:
                uniform = None if drawn is None else drawn[:, :-1]
                sentence = _write(model.step, begun, within, never, uniform, before)
            words = sentence.tokens[:, 0]  # [R, words]
            page.add(rows, open_rows, sentence, going_on, layout.full_stop, trace)
            state = model.tell(words, state)
            odds, state = model.read(model.sentence_vectors(words), state)
            stop, go = (nn.functional.logsigmoid(sign * odds.float()) for sign in (1, -1))
            wish = (stop.detach() + config.end_bias - go.detach()) / config.temperature
            if drawn is None:
                ends = wish > 0
            else:
                ends = drawn[:, -1] < wish.to(drawn.dtype).sigmoid()
            ends = ends & (page.used[rows] >= config.min_length)
            if place == layout.sentences - 1:
                ends, stop = torch.ones_like(ends), torch.zeros_like(stop)
            page.close(rows, open_rows & ends, stop)
            going_on = go
            open_rows = open_rows & ~ends & (page.used[rows] < config.max_length)
            if config.no_repeat_ngram:
                full = torch.zeros(count, width, dtype=torch.long, device=device)
                full[rows, :-1] = words
                earlier = torch.cat([earlier, full], 1)
            if config.early_stop:
                keep = open_rows.nonzero().squeeze(1)
                if len(keep) == 0:
                    break
                if len(keep) < len(rows):
                    rows, going_on, open_rows = rows[keep], going_on[keep], open_rows[keep]
                    state = state.reorder(keep)
        return page.decoded(config.samples)


class _Page:
    """Reports being put together from sentences, N rows of at most T tokens.

    Every array has room for one more sentence and a last column for what belongs nowhere.
    """

    def __init__(self, count: int, longest: int, width: int, device: torch.device) -> None:
        self.longest, self.width = longest, width
        self.columns = longest + width + 1
        shape = (count, self.columns)
        self.tokens = torch.zeros(shape, dtype=torch.long, device=device)
        self.log_probs = torch.zeros(shape, device=device)
        self.used = torch.zeros(count, dtype=torch.long, device=device)
        self.traces: dict[str, Tensor] = {}

    def add(
        self,
        rows: Tensor,
        open_rows: Tensor,
        sentence: Decoded,
        going_on: Tensor,
        full_stop: int,
        trace: dict[str, Tensor],
    ) -> None:
        """Append a sentence and its full stop to the rows that are open."""
        lengths = sentence.lengths[:, 0]  # [R]
        at = torch.arange(self.width, device=rows.device).expand(len(rows), -1)
        pad = (0, self.width - sentence.tokens.shape[-1])
        tokens = nn.functional.pad(sentence.tokens[:, 0], pad)
        log_probs = nn.functional.pad(sentence.token_log_probs[:, 0], pad)
        log_probs = torch.where(at == 0, log_probs + going_on.unsqueeze(1), log_probs)
        tokens = torch.where(at == lengths.unsqueeze(1), full_stop, tokens)
        belongs = (at <= lengths.unsqueeze(1)) & open_rows.unsqueeze(1)
        column = torch.where(belongs, self.used[rows].unsqueeze(1) + at, self.columns - 1)
        index = (rows.unsqueeze(1), column)
        self.tokens[index] = tokens
        self.log_probs[index] = log_probs
        for name, value in trace.items():
            if name not in self.traces:
                # Whole numbers count something, and 0 would be a count: -1 says "nothing here".
                blank = 0 if value.is_floating_point() else -1
                shape = (*self.tokens.shape, *value.shape[1:])
                self.traces[name] = value.new_full(shape, blank)
            self.traces[name][index] = value.unsqueeze(1).expand(*at.shape, *value.shape[1:])
        self.used[rows] += torch.where(open_rows, lengths + 1, 0)

    def close(self, rows: Tensor, ended: Tensor, log_prob: Tensor) -> None:
        """Give the rows that have ended their end mark, if there is room for it."""
        column = torch.where(ended, self.used[rows].clamp_max(self.longest), self.columns - 1)
        self.log_probs[rows, column] = log_prob

    def decoded(self, samples: int) -> Decoded:
        """The reports, cut at T tokens."""
        tokens = self.tokens[:, : self.longest]
        log_probs = self.log_probs[:, : self.longest]
        traces = {name: value[:, : self.longest] for name, value in self.traces.items()}
        return _grouped(tokens, log_probs, log_probs.detach().sum(-1), traces, samples)


def constrain(
    log_probs: Tensor,
    written: Tensor,
    config: DecodingConfig,
    never: Sequence[int] = (),
    earlier: Tensor | None = None,
) -> Tensor:
    """Log-probabilities as the search sees them: forbidden words -inf, end mark biased.

    Args:
        log_probs: ``[N, K]`` of the next word.
        written: ``[N, t]`` words so far, without begin mark.
        config: the rules.
        never: ids that are forbidden everywhere.
        earlier: ``[N, P]`` sentences written before, an end mark between any two: their n-grams
            count as well.

    Returns:
        ``[N, K]``. Where the rules leave nothing, the text may end.
    """
    length, n = written.shape[1], config.no_repeat_ngram
    scores = log_probs.clone()
    scores[:, END] += config.end_bias
    if never:
        scores[:, list(never)] = -math.inf
    if length < config.min_length:
        scores[:, END] = -math.inf
    if n and length >= n - 1:
        begun = written[:, length - n + 1 :]  # [N, n-1], the n-gram that the next word completes
        for text in (written, earlier):
            if text is None or text.shape[1] < n:
                continue
            windows = text.unfold(1, n, 1)  # [N, P, n], every n-gram
            same = (windows[..., :-1] == begun.unsqueeze(1)).all(-1) & (windows[..., -1] != END)
            hits = torch.zeros_like(scores).scatter_add_(1, windows[..., -1], same.to(scores.dtype))
            scores = scores.masked_fill(hits > 0, -math.inf)
    stuck = (scores == -math.inf).all(-1)
    scores[:, END] = torch.where(stuck, log_probs[:, END], scores[:, END])
    return scores


def draw(scores: Tensor, config: DecodingConfig, uniform: Tensor) -> Tensor:
    """Draw one word per row, ``[N]``: temperature, then top-k, then top-p, then one uniform number.

    Args:
        scores: ``[N, K]`` log-probabilities (need not be normalised).
        config: temperature, top_k, top_p.
        uniform: ``[N]`` in [0, 1).
    """
    logits = scores.to(uniform.dtype) / config.temperature
    if config.top_k and config.top_k < logits.shape[-1]:
        least = logits.topk(config.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    probs = logits.softmax(-1)
    if config.top_p < 1.0:
        ordered, order = probs.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered  # probability of all better words
        keep = torch.zeros_like(probs).scatter_(1, order, (before < config.top_p).to(probs.dtype))
        probs = probs * keep
    edges = probs.cumsum(-1)
    # A hair below the last edge, so that rounding never points behind the last possible word.
    mark = uniform * edges[:, -1] * (1.0 - 4.0 * torch.finfo(edges.dtype).eps)
    return torch.searchsorted(edges, mark.unsqueeze(1), right=True).squeeze(1)


def _write(
    step: Step,
    state: State,
    config: DecodingConfig,
    never: Sequence[int],
    uniform: Tensor | None,
    earlier: Tensor | None = None,
) -> Decoded:
    """Greedy (no ``uniform``) or sampling: N = B * samples texts, one word each per step."""
    count, device = len(state), state.device
    tokens = torch.zeros(count, config.max_length, dtype=torch.long, device=device)
    token_log_probs = torch.zeros(count, config.max_length, device=device)
    traces: dict[str, Tensor] = {}
    rows = torch.arange(count, device=device)  # the texts that the state's rows belong to
    unfinished = torch.ones(count, dtype=torch.bool, device=device)  # of these rows
    last = torch.zeros(count, dtype=torch.long, device=device)
    for t in range(config.max_length):
        log_probs, state = step(last, state)
        log_probs = log_probs.float()
        before = None if earlier is None else earlier[rows]
        scores = constrain(log_probs.detach(), tokens[rows, :t], config, never, before)
        chosen = scores.argmax(-1) if uniform is None else draw(scores, config, uniform[rows, t])
        last = torch.where(unfinished, chosen, END)
        own = log_probs.gather(1, chosen.unsqueeze(1)).squeeze(1)
        tokens[rows, t] = last
        token_log_probs[rows, t] = torch.where(unfinished, own, 0.0)
        for name, value in state.trace.items():
            if name not in traces:
                traces[name] = value.new_zeros(count, config.max_length, *value.shape[1:])
            traces[name][rows, t] = value
        unfinished = unfinished & (last != END)
        if config.early_stop:
            left = int(unfinished.sum())
            if left == 0:
                break
            if left <= SHRINK_AT * len(rows):
                keep = unfinished.nonzero().squeeze(1)
                rows, last, unfinished = rows[keep], last[keep], unfinished[keep]
                state = state.reorder(keep)
    log_probs = token_log_probs.sum(-1)
    return _grouped(tokens, token_log_probs, log_probs.detach(), traces, config.samples)


def _grouped(
    tokens: Tensor, token_log_probs: Tensor, scores: Tensor, traces: dict[str, Tensor], n: int
) -> Decoded:
    """Rows ``[B * n, ...]`` as studies ``[B, n, ...]``."""
    tokens, token_log_probs, scores = (
        tensor.unflatten(0, (-1, n)) for tensor in (tokens, token_log_probs, scores)
    )
    return Decoded(
        tokens=tokens,
        lengths=(tokens != END).sum(-1),
        log_probs=token_log_probs.sum(-1),
        scores=scores,
        token_log_probs=token_log_probs,
        traces={name: value.unflatten(0, (-1, n)) for name, value in traces.items()},
    )


def _pick(tensor: Tensor, index: Tensor) -> Tensor:
    """``tensor[b, index[b, j]]``: ``[B, K, ...]`` and ``[B, J]`` -> ``[B, J, ...]``."""
    return tensor[torch.arange(len(index), device=index.device).unsqueeze(1), index]


def _beam(
    step: Step,
    state: State,
    config: DecodingConfig,
    never: Sequence[int],
    earlier: Tensor | None = None,
) -> Decoded:
    """Beam search; per study K open texts and the n best finished ones.

    ``texts`` and ``finished`` hold the same columns: tokens, token log-probabilities and traces,
    each ``[b, K, T, ...]`` and ``[B, n, T, ...]``; they are cut, reordered and merged alike.
    """
    count, width, kept, steps = len(state), config.beam_size, config.samples, config.max_length
    device = state.device
    state = state.repeat(width)
    # Only the first of the K equal begin marks is real; the others must not win a place.
    scores = torch.full((count, width), -math.inf, device=device)
    scores[:, 0] = 0.0
    texts = {
        "tokens": torch.zeros(count, width, steps, dtype=torch.long, device=device),
        "token_log_probs": torch.zeros(count, width, steps, device=device),
    }
    finished = {name: value.new_zeros(count, kept, steps) for name, value in texts.items()}
    ranks = torch.full((count, kept), -math.inf, device=device)
    studies = torch.arange(count, device=device)  # studies of the result still searched
    last = torch.zeros(count * width, dtype=torch.long, device=device)
    for t in range(steps):
        log_probs, state = step(last, state)
        log_probs = log_probs.float()
        written = texts["tokens"].flatten(0, 1)[:, :t]
        before = None if earlier is None else earlier[studies].repeat_interleave(width, 0)
        allowed = constrain(log_probs, written, config, never, before)
        totals = scores.unsqueeze(-1) + allowed.unflatten(0, (-1, width))  # [b, K, vocabulary]
        scores, place = totals.flatten(1).topk(width)
        parent, token = place // totals.shape[-1], place % totals.shape[-1]  # [b, K]
        first = torch.arange(0, len(last), width, device=device).unsqueeze(1)
        index = (first + parent).flatten()
        new = {
            "tokens": token.flatten(),
            "token_log_probs": log_probs.flatten()[index * totals.shape[-1] + token.flatten()],
            **{name: value[index] for name, value in state.trace.items()},
        }
        for name, value in new.items():
            value = value.unflatten(0, (-1, width))  # [b, K, ...]
            if name not in texts:  # a trace, seen for the first time
                shape = value.shape[2:]
                texts[name] = value.new_zeros(len(studies), width, steps, *shape)
                finished[name] = value.new_zeros(count, kept, steps, *shape)
            else:
                texts[name] = _pick(texts[name], parent)
            texts[name][:, :, t] = value
        state = state.reorder_within_study(index)
        last = token.flatten()

        done = (token == END) | (t == steps - 1)
        offered = (scores / (t + 1) ** config.length_penalty).masked_fill(~done, -math.inf)
        best, winner = torch.cat([ranks[studies], offered], 1).topk(kept)
        ranks[studies] = best
        for name, value in finished.items():
            value[studies] = _pick(torch.cat([value[studies], texts[name]], 1), winner)
        scores = scores.masked_fill(done, -math.inf)

        if config.early_stop:
            hopeful = _bound(scores.max(1).values, t, config) > best[:, -1]
            left = int(hopeful.sum())
            if left == 0:
                break
            if left <= SHRINK_AT * len(studies):
                keep = hopeful.nonzero().squeeze(1)
                beams = (keep.unsqueeze(1) * width + torch.arange(width, device=device)).flatten()
                studies, scores, last = studies[keep], scores[keep], last[beams]
                texts = {name: value[keep] for name, value in texts.items()}
                state = state.reorder(beams)
    decoded = _grouped(
        finished.pop("tokens").flatten(0, 1),
        finished.pop("token_log_probs").flatten(0, 1),
        ranks.flatten(),
        {name: value.flatten(0, 1) for name, value in finished.items()},
        kept,
    )
    decoded.log_probs = decoded.log_probs.masked_fill(ranks == -math.inf, -math.inf)
    return decoded


def _bound(scores: Tensor, t: int, config: DecodingConfig) -> Tensor:
    """Best rank that a text open after step ``t`` with this score can still reach.

    Log-probabilities only lower the sum (a positive end bias raises it once); the length divisor
    is monotonic, so the shortest or the longest ending is the most favourable.
    """
    hope = scores + max(config.end_bias, 0.0)
    soonest, latest = (
        hope / length**config.length_penalty for length in (t + 2, config.max_length)
    )
    return torch.maximum(soonest, latest)
