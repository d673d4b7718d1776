"""CIDEr-D and sentence BLEU on token ids, fast enough to be a reward of every training step.

CIDEr-D (Vedantam, Zitnick and Parikh, CVPR 2015, section 6) as ``pycocoevalcap.cider`` computes it,
but with document frequencies given once, from training references, as self-critical training needs
them (Rennie et al., CVPR 2017). pycocoevalcap takes them from whatever is scored.

For n = 1..4, with h and r the counts of an n-gram g in hypothesis and reference,
``idf(g) = ln N - ln max(1, df(g))`` and lengths l in bigrams::

    CIDEr-D = 10/4 * exp(-(l_h - l_r)^2 / (2 sigma^2))
              * sum_n [ sum_g min(h, r) r idf(g)^2 / (|h idf|_n |r idf|_n) ]

No n-gram is ever put into a dictionary. Every place of a text is compared with every place of the
other, ``[N, T_h, T_r]``; the words that follow narrow equal words to equal n-grams; the pairs left
at a place are counted. A distinct n-gram that occurs h times stands at h places, so that a sum over
distinct n-grams is a sum over places divided by h. The frequencies lie in one open hash table of
packed n-grams, read for all places at once.

Texts are rows of token ids and end before their first 0. With ``end=True`` that 0, where there is
one, counts as a word, as in the released self-critical code: writing on to the largest length then
costs the n-grams that hold the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from torch import Tensor

from r2genkit.errors import KitError

ORDERS = 4
"""n-grams of 1 to 4 words, in CIDEr-D and in BLEU-4."""

Tokens = Sequence[Sequence[int]] | np.ndarray | Tensor

_PORTION = 8_000_000  # comparisons of places at a time, one byte each
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads keys over the table


@dataclass(frozen=True)
class Texts:
    """N texts as one array.

    Attributes:
        ids: ``[N, T]`` int32, -1 behind the end of a text.
        lengths: ``[N]`` tokens in use.
        norms: ``[N, 4]`` squared lengths of the tf-idf vectors, where :meth:`CiderD.prepare`
            computed them.
    """

    ids: np.ndarray
    lengths: np.ndarray
    norms: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: slice | np.ndarray) -> Texts:
        """Some of the texts, no wider than the longest of them."""
        lengths = self.lengths[rows]
        width = max(1, int(lengths.max(initial=0)))
        norms = None if self.norms is None else self.norms[rows]
        return Texts(self.ids[rows, :width], lengths, norms)


def pack(tokens: Tokens, *, end: bool = False) -> Texts:
    """Rows of token ids as one array.

    Args:
        tokens: N texts, or ``[N, T]``; a text ends before its first 0. No begin marks.
        end: the first 0 of a text, where there is one, is kept as a word.

    Raises:
        KitError: a negative id.
    """
    if isinstance(tokens, Tensor):
        tokens = tokens.cpu().numpy()
    if not isinstance(tokens, np.ndarray):
        sizes = np.fromiter(map(len, tokens), dtype=np.int64, count=len(tokens))
        flat = np.fromiter(chain.from_iterable(tokens), dtype=np.int64, count=sizes.sum())
        _check(flat)
        # 0 behind a list that has none would read as an end mark: -1 is neither.
        tokens = np.full((len(sizes), max(1, int(sizes.max(initial=0)))), -1, dtype=np.int64)
        tokens[np.arange(tokens.shape[1]) < sizes[:, None]] = flat
    else:
        _check(tokens)
    ends = tokens <= 0
    lengths = np.where(ends.any(1), ends.argmax(1), tokens.shape[1])
    if end:
        marked = np.take_along_axis(tokens, lengths.clip(max=tokens.shape[1] - 1)[:, None], 1)
        lengths = lengths + ((lengths < tokens.shape[1]) & (marked[:, 0] == 0))
    width = max(1, int(lengths.max(initial=0)))
    used = np.arange(width) < lengths[:, None]
    return Texts(np.where(used, tokens[:, :width], -1).astype(np.int32), lengths)


def _check(ids: np.ndarray) -> None:
    if ids.min(initial=0) < 0:
        raise KitError("a text holds a negative token id: pass ids of a vocabulary.")


def counts_at(texts: Texts, others: Texts) -> Iterator[np.ndarray]:
    """How often the n-gram that begins at each place of a text occurs in the other text.

    Args:
        texts: N texts of at most T tokens.
        others: N texts, row by row; may be ``texts``.

    Yields:
        For n = 1..4: ``[N, T]``; 0 where no n-gram begins.
    """
    places, theirs = _fenced(texts.ids, -1), _fenced(others.ids, -2)
    count, width, depth = *places.shape, theirs.shape[1]
    same = (places[:, :, None] == theirs[:, None, :]).reshape(-1)  # [N * (T + 1) * (T_o + 1)]
    # Few pairs of places hold the same word, and fewer the same n words: only these are followed.
    at = np.flatnonzero(same)
    cell = at // depth
    for order in range(1, ORDERS + 1):
        if order > 1:
            goes_on = same[at + (order - 1) * (depth + 1)]
            at, cell = at[goes_on], cell[goes_on]
        found = np.bincount(cell, minlength=count * width)
        yield found.reshape(count, width)[:, :-1]


def _fenced(ids: np.ndarray, pad: int) -> np.ndarray:
    """Ids with another padding and a last column of it: ``[N, T] -> [N, T + 1]``.

    With different paddings on both sides no n-gram reaches beyond a text, or into the next row.
    """
    kind = np.int16 if ids.max(initial=0) < 2**15 else np.int32
    fenced = np.full((ids.shape[0], ids.shape[1] + 1), pad, dtype=kind)
    np.copyto(fenced[:, :-1], ids, where=ids >= 0, casting="unsafe")
    return fenced


class _Table:
    """An open hash table from packed n-grams to numbers, read for many keys at once."""

    def __init__(self, keys: np.ndarray, values: np.ndarray, default: float) -> None:
        bits = max(4, int(4 * max(1, len(keys))).bit_length())
        self.shift, self.last = np.uint64(64 - bits), 2**bits - 1
        self.default, self.probes = default, 0
        self.keys = np.full(2**bits, -1, dtype=np.int64)
        self.values = np.full(2**bits, default)
        slots = self._slots(keys)
        while len(keys):
            self.probes += 1
            free = self.keys[slots] < 0
            # Of several keys at one free slot the first takes it; the others go one slot on.
            _, first = np.unique(slots, return_index=True)
            takes = np.zeros(len(keys), dtype=bool)
            takes[first] = True
            takes &= free
            self.keys[slots[takes]], self.values[slots[takes]] = keys[takes], values[takes]
            keys, values = keys[~takes], values[~takes]
            slots = (slots[~takes] + 1) & self.last

    def _slots(self, keys: np.ndarray) -> np.ndarray:
        return ((keys.view(np.uint64) * _FACTOR) >> self.shift).view(np.int64)

    def __call__(self, keys: np.ndarray) -> np.ndarray:
        """Numbers of ``keys [M]``; the default for those that were never put in."""
        slots = self._slots(keys)
        found = self.keys[slots]
        result = np.where(found == keys, self.values[slots], self.default)
        at = np.flatnonzero((found != keys) & (found >= 0))
        for probe in range(1, self.probes):
            if not len(at):
                break
            slots = (self._slots(keys[at]) + probe) & self.last
            found = self.keys[slots]
            hit = found == keys[at]
            result[at[hit]] = self.values[slots[hit]]
            at = at[~hit & (found >= 0)]
        return result


class CiderD:
    """CIDEr-D with the document frequencies of given references.

    Args:
        references: the texts that count as documents: training references, one per study. Texts
            that are scored need not be among them.
        sigma: of the Gaussian over the difference in length, in words; None = no penalty.
        end: the end mark counts as a word, in documents and in what is scored.

    Attributes:
        documents: N, number of references.

    Raises:
        KitError: no reference, a sigma that is not positive, or more different words than packed
            n-grams can hold (55,107).
    """

    def __init__(self, references: Tokens, *, sigma: float | None = 6.0, end: bool = False) -> None:
        if not len(references):
            raise KitError("CIDEr-D needs references to count documents in: give at least one.")
        if sigma is not None and not sigma > 0:
            raise KitError(f"sigma is {sigma}: give a positive number of words, or None.")
        self.sigma, self.end = sigma, end
        self.documents = len(references)
        packed = pack(references, end=end)
        words = np.unique(packed.ids[packed.ids >= 0])
        self._base = len(words) + 1
        if self._base**ORDERS >= 2**63:
            raise KitError(
                f"the references hold {len(words)} different words and 55,107 fit; "
                "build the vocabulary with a higher min_count."
            )
        # 0 = a word that no reference holds: an n-gram with it is in no document.
        self._ranks = np.zeros(int(words.max(initial=0)) + 2, dtype=np.int64)
        self._ranks[words] = np.arange(1, self._base)
        documents = np.arange(self.documents)[:, None]
        found = []
        for keys, begins in self._keys(packed):
            of = np.broadcast_to(documents, begins.shape)[begins]
            pairs = np.unique(np.stack([keys[begins], of]), axis=1)  # once per document
            found.append(np.unique(pairs[0], return_counts=True))
        keys, df = (np.concatenate(parts) for parts in zip(*found))
        self._unseen = float(np.log(self.documents))
        self._idf = _Table(keys, self._unseen - np.log(df), self._unseen)

    def _keys(self, texts: Texts) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For n = 1..4: packed n-grams ``[N, T]``, -1 if in no document; where n-grams begin.

        Ranks are digits from 1 up, so n-grams of different n never share a key.
        """
        ids = texts.ids
        ranks = np.where(
            (ids >= 0) & (ids < len(self._ranks)), self._ranks[ids.clip(0, len(self._ranks) - 1)], 0
        )
        keys, known = np.zeros_like(ranks), np.ones(ranks.shape, dtype=bool)
        width = ranks.shape[1]
        for order in range(1, ORDERS + 1):
            next_word = np.zeros_like(ranks)
            next_word[:, : max(0, width - order + 1)] = ranks[:, order - 1 :]
            keys = keys * self._base + next_word
            known &= next_word > 0
            begins = np.arange(width) <= texts.lengths[:, None] - order
            yield np.where(known, keys, -1), begins

    def _squared_idf(self, texts: Texts) -> np.ndarray:
        """``idf^2`` of the n-gram that begins at each place ``[4, N, T]``; 0 where none does."""
        keys, begins = (np.stack(parts) for parts in zip(*self._keys(texts)))
        result = np.zeros(keys.shape)
        wanted = keys[begins]
        idf = np.full(len(wanted), self._unseen)
        idf[wanted >= 0] = self._idf(wanted[wanted >= 0])
        result[begins] = idf * idf
        return result

    def _norms(self, texts: Texts, squared: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """``|h idf|_n^2 [N, 4]`` and the counts h at each place."""
        # The sum over distinct n-grams of (h idf)^2 is the sum over places of h idf^2.
        counts = [found.astype(np.float64) for found in counts_at(texts, texts)]
        norms = np.stack([(h * s).sum(1) for h, s in zip(counts, squared)], axis=1)
        return norms, counts

    def prepare(self, texts: Tokens) -> Texts:
        """Texts to be scored against more than once (every epoch): packed, with their norms."""
        packed = texts if isinstance(texts, Texts) else pack(texts, end=self.end)
        if packed.norms is not None:
            return packed
        norms = [
            self._norms(part, self._squared_idf(part))[0] for part in _portions(packed, packed)
        ]
        norms = np.concatenate(norms) if norms else np.zeros((0, ORDERS))
        return Texts(packed.ids, packed.lengths, norms)

    def score(self, hypotheses: Tokens | Texts, references: Tokens | Texts) -> np.ndarray:
        """CIDEr-D of each hypothesis against its one reference.

        Args:
            hypotheses: N texts; ids that no reference holds are words like others.
            references: N texts, row by row, or what :meth:`prepare` made of them.

        Returns:
            ``[N]`` float64 in 0..10.

        Raises:
            KitError: numbers differ.
        """
        wanted = self.prepare(references)
        found = hypotheses if isinstance(hypotheses, Texts) else pack(hypotheses, end=self.end)
        if len(found) != len(wanted):
            raise KitError(
                f"{len(found)} hypotheses and {len(wanted)} references: give one for each."
            )
        scores, start = [], 0
        for part in _portions(found, wanted):
            scores.append(self._score(part, wanted[start : start + len(part)]))
            start += len(part)
        return np.concatenate(scores) if scores else np.zeros(0)

    def _score(self, found: Texts, wanted: Texts) -> np.ndarray:
        squared = self._squared_idf(found)
        norms, counts = self._norms(found, squared)
        total = np.zeros(len(found))
        for n, there in enumerate(counts_at(found, wanted)):
            r, h = there.astype(np.float64), counts[n]
            clipped = (np.minimum(h, r) * r / np.maximum(h, 1.0) * squared[n]).sum(1)
            below = np.sqrt(norms[:, n] * wanted.norms[:, n])
            total += np.divide(clipped, below, out=np.zeros_like(total), where=below > 0)
        if self.sigma is not None:
            bigrams = [np.maximum(t.lengths - 1, 0) for t in (found, wanted)]
            total *= np.exp(-((bigrams[0] - bigrams[1]) ** 2) / (2 * self.sigma**2))
        return 10.0 / ORDERS * total


def sentence_bleu(hypotheses: Tokens | Texts, references: Tokens | Texts) -> np.ndarray:
    """BLEU-4 of single reports, smoothed by adding one (Lin and Och, COLING 2004, section 4).

    With m_n clipped matches among the t_n n-grams of a hypothesis of c words, r words in the
    reference: ``p_1 = m_1 / t_1``, ``p_n = (m_n + 1) / (max(t_n, 1) + 1)`` for n = 2..4, and
    ``BLEU = min(1, exp(1 - r / c)) * (p_1 p_2 p_3 p_4)^(1/4)``; 0 without a common word. Without
    smoothing a report earns 0 unless it shares four words in a row with its reference. A text of
    fewer than four words cannot reach 1.

    Args:
        hypotheses: N texts, see :func:`pack`.
        references: N texts, row by row.

    Returns:
        ``[N]`` float64 in 0..1.

    Raises:
        KitError: numbers differ.
    """
    found, wanted = (t if isinstance(t, Texts) else pack(t) for t in (hypotheses, references))
    if len(found) != len(wanted):
        raise KitError(f"{len(found)} hypotheses and {len(wanted)} references: give one for each.")
    scores, start = [], 0
    for part in _portions(found, wanted):
        scores.append(_bleu(part, wanted[start : start + len(part)]))
        start += len(part)
    return np.concatenate(scores) if scores else np.zeros(0)


def _bleu(found: Texts, wanted: Texts) -> np.ndarray:
    logs = np.zeros(len(found))
    pairs = zip(counts_at(found, found), counts_at(found, wanted))
    for order, (own, there) in enumerate(pairs, start=1):
        h, r = own.astype(np.float64), there.astype(np.float64)
        matches = (np.minimum(h, r) / np.maximum(h, 1.0)).sum(1)
        smooth = float(order > 1)
        possible = np.maximum(found.lengths - order + 1, 1)
        with np.errstate(divide="ignore"):
            logs += np.log((matches + smooth) / (possible + smooth))
    with np.errstate(divide="ignore", invalid="ignore"):
        brevity = np.minimum(0.0, 1.0 - wanted.lengths / found.lengths.astype(np.float64))
    return np.where(found.lengths > 0, np.exp(logs / ORDERS + brevity), 0.0)


def _portions(texts: Texts, others: Texts) -> Iterator[Texts]:
    """Texts in portions whose comparison with others of that width keeps to ``_PORTION`` bytes."""
    width = texts.ids.shape[1] * max(texts.ids.shape[1], others.ids.shape[1])
    size = max(1, _PORTION // max(1, width))
    for start in range(0, len(texts), size):
        yield texts[start : start + size]
