"""Systems that do not look: rows 0 of every table.

On collections where most reports say "nothing acute" in a few wordings, one fixed text scores near
published models. Every table of the kit therefore opens with these rows, computed on the very split
in question; none of them sees a test report, except the oracle, which says so in its name.

One interface for all: ``fit(train, validation)`` on reference texts by study id (tokenised, as
they are scored), then ``predict(study_ids)``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, Self

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import MultiLabelBinarizer

from r2genkit.errors import KitError
from r2genkit.metrics.nlg import bleu_from_counts
from r2genkit.seeds import numpy_rng
from r2genkit.text.sentences import normalise, split_sentences


class Baseline(Protocol):
    """What every baseline offers."""

    name: str

    def fit(self, train: Mapping[str, str], validation: Mapping[str, str]) -> Self:
        """Learn from reference texts by study id."""
        ...

    def predict(self, study_ids: Iterable[str]) -> dict[str, str]:
        """One report per study."""
        ...


class _Finds(Protocol):
    """What a retriever offers to be copied from."""

    def found(self, study_ids: Sequence[str], k: int) -> list[list[str]]: ...


class CorpusBLEU:
    """Corpus BLEU of one fixed text against many references, in time linear in the text.

    For a constant hypothesis the clipped matches of an n-gram g used c times are the sum over
    references of min(c, count of g in the reference). These sums are tabulated once for every g
    and c; scoring a text is then a look-up per distinct n-gram, whatever the number of references.

    Args:
        references: N tokenised texts.
    """

    def __init__(self, references: Iterable[str]) -> None:
        weights = Counter(references)
        self.studies = weights.total()
        if not self.studies:
            raise KitError("There is no reference text to score against.")
        self.words = 0
        histogram: dict[tuple[str, ...], Counter[int]] = {}
        for text, weight in weights.items():
            tokens = text.split()
            self.words += weight * len(tokens)
            found = Counter(
                tuple(tokens[start : start + order])
                for order in range(1, 5)
                for start in range(len(tokens) - order + 1)
            )
            for gram, count in found.items():
                histogram.setdefault(gram, Counter())[count] += weight
        # matches[g][c - 1] = sum over references of min(c, count of g)
        self.matches: dict[tuple[str, ...], list[int]] = {}
        for gram, counts in histogram.items():
            at_least = 0
            steps = []
            for count in range(max(counts), 0, -1):
                at_least += counts.get(count, 0)
                steps.append(at_least)
            self.matches[gram] = np.cumsum(steps[::-1]).tolist()

    def counts(self, tokens: Sequence[str]) -> np.ndarray:
        """``[10]`` summed statistics as :func:`r2genkit.metrics.nlg.bleu_counts` has them."""
        length = len(tokens)
        correct = [0, 0, 0, 0]
        matches = self.matches
        seen: dict[tuple[str, ...], int] = {}
        for order in range(1, 5):
            for start in range(length - order + 1):
                gram = tuple(tokens[start : start + order])
                if (steps := matches.get(gram)) is not None:
                    used = seen.get(gram, 0)
                    seen[gram] = used + 1
                    if used < len(steps):
                        correct[order - 1] += steps[used] - (steps[used - 1] if used else 0)
        guesses = [max(0, length - order + 1) * self.studies for order in range(1, 5)]
        return np.array([length * self.studies, self.words, *guesses, *correct], dtype=np.int64)

    def bleu4(self, tokens: Sequence[str]) -> float:
        """Corpus BLEU-4 of the text as everyone's hypothesis."""
        length = len(tokens)
        if length < 4:
            return float(bleu_from_counts(self.counts(tokens))[3])
        # As bleu_from_counts, in scalars: this is the inner loop of the search below.
        correct = [0, 0, 0, 0]
        matches = self.matches
        seen: dict[tuple[str, ...], int] = {}
        for order in range(1, 5):
            total = 0
            for gram in zip(*(tokens[start:] for start in range(order))):
                steps = matches.get(gram)
                if steps is not None:
                    used = seen.get(gram, 0)
                    seen[gram] = used + 1
                    if used < len(steps):
                        total += steps[used] - (steps[used - 1] if used else 0)
            correct[order - 1] = total
        log = 0.0
        for order in range(4):
            log += math.log((correct[order] + 1e-15) / ((length - order) * self.studies + 1e-9))
        ratio = (length * self.studies + 1e-15) / (self.words + 1e-9)
        return math.exp(log / 4 + (1 - 1 / ratio if ratio < 1 else 0.0))


class _Fitted:
    """A baseline that answers every study with one text."""

    name = ""
    text: str | None = None

    def predict(self, study_ids: Iterable[str]) -> dict[str, str]:
        """The same report for every study.

        Raises:
            KitError: the baseline was not fitted.
        """
        if self.text is None:
            raise KitError(f"The baseline {self.name!r} was not fitted: call fit first.")
        return dict.fromkeys(study_ids, self.text)


def _texts(train: Mapping[str, str]) -> list[str]:
    if not train:
        raise KitError("A baseline needs at least one training report.")
    return list(train.values())


class MostFrequentReport(_Fitted):
    """The commonest training report; the first seen wins a tie."""

    name = "most frequent report"

    def fit(self, train: Mapping[str, str], validation: Mapping[str, str]) -> Self:
        """Count training reports; validation is not used."""
        del validation
        self.text = Counter(_texts(train)).most_common(1)[0][0]
        return self


class BestSingleReport(_Fitted):
    """The training report that scores best on validation, among the most frequent.

    Args:
        candidates: how many of the most frequent training reports are tried.
    """

    name = "best single report"

    def __init__(self, candidates: int = 300) -> None:
        self.candidates = candidates

    def fit(self, train: Mapping[str, str], validation: Mapping[str, str]) -> Self:
        """Choose by corpus BLEU-4 on validation (on train if there is no validation)."""
        texts = _texts(train)
        scorer = CorpusBLEU(validation.values() or texts)
        tried = [text for text, _ in Counter(texts).most_common(self.candidates)]
        self.text = max(tried, key=lambda text: scorer.bleu4(text.split()))
        return self


class ConstantTemplate(_Fitted):
    """One report put together from training sentences so as to score best: image-blind BLEU.

    Coordinate ascent: a report is a row of sentence slots; each step replaces, inserts, drops or
    moves one sentence, keeping the best change, until no change helps. Starts: the best single
    reports and random rows of frequent sentences. Objective: corpus BLEU-4 on train + validation.

    Args:
        seed: names the random starts.
        pool: how many of the most frequent training sentences may be used.
        starts: number of starts (half real reports, half random).
        slots: longest row of sentences.
        max_words: longest report, full stops included.
    """

    name = "constant template"

    def __init__(
        self,
        seed: int = 0,
        *,
        pool: int = 600,
        starts: int = 8,
        slots: int = 10,
        max_words: int = 59,
    ) -> None:
        self.seed, self.pool, self.starts, self.slots = seed, pool, starts, slots
        self.max_words = max_words
        self.score: float | None = None

    def fit(self, train: Mapping[str, str], validation: Mapping[str, str]) -> Self:
        """Search on train + validation."""
        texts = _texts(train)
        scorer = CorpusBLEU([*texts, *validation.values()])
        stops = sum(text.split().count(".") for text in texts) > 0
        counts = Counter(sentence for text in texts for sentence in self._sentences(text, stops))
        pool = [
            tuple(sentence.split()) + ((".",) if stops else ())
            for sentence, _ in counts.most_common(self.pool)
        ]
        if not pool:
            raise KitError("The training reports hold no sentence to build a constant from.")
        rng = numpy_rng(self.seed, "constant template")
        tried = [text for text, _ in Counter(texts).most_common(300)]
        tried.sort(key=lambda text: scorer.bleu4(text.split()), reverse=True)
        rows = [
            [tuple(s.split()) + ((".",) if stops else ()) for s in self._sentences(text, stops)]
            for text in tried[: max(1, self.starts // 2)]
        ]
        while len(rows) < self.starts:
            number = min(len(pool), int(rng.integers(3, 7)))
            chosen = rng.choice(min(len(pool), 60), size=min(number, 60, len(pool)), replace=False)
            rows.append([pool[i] for i in chosen])
        best: tuple[float, list[tuple[str, ...]]] = (-1.0, [])
        finished: dict[tuple, float] = {}
        for row in rows:
            row, score = self._ascend(scorer, row[: self.slots], pool, finished)
            if score > best[0]:
                best = (score, row)
        self.score = best[0]
        self.text = " ".join(word for sentence in best[1] for word in sentence)
        return self

    @staticmethod
    def _sentences(text: str, stops: bool) -> list[str]:
        return split_sentences(text) if stops else [text]

    def _ascend(
        self,
        scorer: CorpusBLEU,
        row: list[tuple[str, ...]],
        pool: Sequence[tuple[str, ...]],
        finished: dict[tuple, float],
    ) -> tuple[list[tuple[str, ...]], float]:
        def value(candidate: list[tuple[str, ...]]) -> float:
            tokens = [word for sentence in candidate for word in sentence]
            return scorer.bleu4(tokens) if 0 < len(tokens) <= self.max_words else -1.0

        score = value(row)
        while (key := tuple(row)) not in finished:
            before = score
            for slot in range(len(row) + 1):
                changes = []
                if slot < len(row):
                    rest = row[:slot] + row[slot + 1 :]
                    changes.append(rest)
                    changes += [[*rest[:to], row[slot], *rest[to:]] for to in range(len(row))]
                    changes += [[*row[:slot], new, *row[slot + 1 :]] for new in pool]
                if len(row) < self.slots:
                    changes += [[*row[:slot], new, *row[slot:]] for new in pool]
                if not changes:
                    continue
                values = [value(change) for change in changes]
                winner = int(np.argmax(values))
                if values[winner] > score + 1e-12:
                    row, score = changes[winner], values[winner]
                if slot >= len(row):
                    break
            if score <= before + 1e-12:
                finished[key] = score
        return row, score


class RandomReport:
    """A training report drawn at random for each study.

    Args:
        seed: names the draw; a study gets the same report whatever else is predicted.
    """

    name = "random report"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._texts: list[str] | None = None

    def fit(self, train: Mapping[str, str], validation: Mapping[str, str]) -> Self:
        """Remember the training reports; validation is not used."""
        del validation
        self._texts = _texts(train)
        return self

    def predict(self, study_ids: Iterable[str]) -> dict[str, str]:
        """One drawn report per study.

        Raises:
            KitError: the baseline was not fitted.
        """
        if self._texts is None:
            raise KitError(f"The baseline {self.name!r} was not fitted: call fit first.")
        number = len(self._texts)
        return {
            study: self._texts[int(numpy_rng(self.seed, f"random report/{study}").integers(number))]
            for study in study_ids
        }


class NearestImage:
    """The report of the training study whose image features are most alike.

    Cosine of features standardised with the training set's mean and deviation.

    Args:
        features: ``[N, D]`` one row per study (e.g. pooled patch features of both views).
        study_ids: N ids, training and test studies alike.

    Raises:
        KitError: rows and ids do not match.
    """

    name = "nearest image"

    def __init__(self, features: np.ndarray, study_ids: Sequence[str]) -> None:
        features = np.asarray(features, dtype=np.float64)
        if features.ndim != 2 or len(features) != len(study_ids):
            raise KitError(
                f"Nearest image needs one feature row per study: got an array of shape "
                f"{tuple(features.shape)} for {len(study_ids)} studies."
            )
        self._features = features
        self._rows = {study: row for row, study in enumerate(study_ids)}
        self._train: dict[str, str] | None = None

    def _rows_of(self, study_ids: Iterable[str]) -> np.ndarray:
        try:
            return np.array([self._rows[study] for study in study_ids], dtype=np.int64)
        except KeyError as error:
            raise KitError(f"Study {error.args[0]} has no image features: add its row.") from None

    def _unit(self, rows: np.ndarray) -> np.ndarray:
        values = (self._features[rows] - self._mean) / self._deviation
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        return values / np.where(lengths > 0, lengths, 1.0)

    def fit(self, train: Mapping[str, str], validation: Mapping[str, str]) -> Self:
        """Standardise on and index the training studies; validation is not used."""
        del validation
        _texts(train)
        rows = self._rows_of(train)
        self._mean = self._features[rows].mean(axis=0)
        deviation = self._features[rows].std(axis=0)
        self._deviation = np.where(deviation > 1e-12, deviation, 1.0)
        self._index = self._unit(rows)
        self._train = dict(train)
        return self

    def neighbours(self, study_ids: Iterable[str]) -> list[str]:
        """Training study nearest to each study (never the study itself).

        Raises:
            KitError: the baseline was not fitted, a study has no features, or no other training
                study is left.
        """
        if self._train is None:
            raise KitError(f"The baseline {self.name!r} was not fitted: call fit first.")
        asked = list(study_ids)
        likeness = self._unit(self._rows_of(asked)) @ self._index.T
        names = list(self._train)
        places = {study: column for column, study in enumerate(names)}
        for row, study in enumerate(asked):
            if study in places:
                if len(names) == 1:
                    raise KitError(f"Study {study} is the only training study: add others.")
                likeness[row, places[study]] = -np.inf
        return [names[column] for column in likeness.argmax(axis=1)]

    def predict(self, study_ids: Iterable[str]) -> dict[str, str]:
        """The report of the nearest training study, per study."""
        asked = list(study_ids)
        nearest = self.neighbours(asked)
        return {study: self._train[near] for study, near in zip(asked, nearest)}


class RetrievedReport:
    """The report that a retriever finds first: what copying is worth beside writing.

    Args:
        retriever: ``found(study_ids, k)`` gives the ids of the k training studies most like each
            study, best first (:class:`r2genkit.retrieval.Retriever`).
    """

    name = "retrieved report"

    def __init__(self, retriever: _Finds) -> None:
        self._retriever = retriever
        self._train: dict[str, str] | None = None

    def fit(self, train: Mapping[str, str], validation: Mapping[str, str]) -> Self:
        """Remember the training reports; validation is not used."""
        del validation
        _texts(train)
        self._train = dict(train)
        return self

    def predict(self, study_ids: Iterable[str]) -> dict[str, str]:
        """The report of the training study found first, per study.

        Raises:
            KitError: the baseline was not fitted, or nothing was found for a study.
        """
        if self._train is None:
            raise KitError(f"The baseline {self.name!r} was not fitted: call fit first.")
        asked = list(study_ids)
        found = self._retriever.found(asked, 1)
        for study, names in zip(asked, found):
            if not names:
                raise KitError(f"Nothing is retrieved for study {study}: index more studies.")
        return {study: self._train[names[0]] for study, names in zip(asked, found)}


class MemorisationOracle:
    """Copies the reference where training holds the same text, else says the constant.

    It reads test references and is no system: its score is what perfect memory of training alone
    is worth on this split.

    Args:
        references: references of the studies to predict.
        otherwise: baseline for the rest; :class:`ConstantTemplate` by default.
    """

    name = "memorisation oracle"

    def __init__(
        self, references: Mapping[str, str], otherwise: Baseline | None = None, *, seed: int = 0
    ) -> None:
        self.references = references
        self.otherwise = otherwise if otherwise is not None else ConstantTemplate(seed)
        self._seen: set[str] | None = None

    def fit(self, train: Mapping[str, str], validation: Mapping[str, str]) -> Self:
        """Remember the training texts (as words) and fit the other baseline."""
        self._seen = {normalise(text) for text in _texts(train)}
        self.otherwise.fit(train, validation)
        return self

    def predict(self, study_ids: Iterable[str]) -> dict[str, str]:
        """Reference or constant, per study.

        Raises:
            KitError: not fitted, or a study without reference.
        """
        if self._seen is None:
            raise KitError(f"The baseline {self.name!r} was not fitted: call fit first.")
        result = self.otherwise.predict(list(study_ids))
        for study in result:
            if study not in self.references:
                raise KitError(f"The oracle has no reference for study {study}: pass it.")
            if normalise(self.references[study]) in self._seen:
                result[study] = self.references[study]
        return result


class FindingOracle:
    """The training report whose findings are most like the true ones: a ceiling, no system.

    It is told the findings of the studies it writes about, as a perfect recogniser would know
    them, and may only copy. What it lacks to a perfect score is what findings do not decide:
    wording, order, and what the reader chose to mention.

    Likeness is F1 between the sets of finding types; ties go to the likeness of the full
    descriptions (sides, places, degrees), then to the most typical text (largest cosine of word
    and word-pair tf-idf to the mean of the tied reports), then to the first id.

    Args:
        findings: true findings of every study, training studies included, each as "type" or
            "type/attribute" (``effusion``, ``effusion/left``, ``effusion/mild``).

    Raises:
        KitError: no findings are given.
    """

    name = "finding oracle"

    def __init__(self, findings: Mapping[str, Iterable[str]]) -> None:
        if not findings:
            raise KitError("The finding oracle needs the true findings of every study.")
        self._findings = {study: frozenset(names) for study, names in findings.items()}
        self._texts: list[str] | None = None

    def _of(self, study_ids: Iterable[str]) -> list[frozenset[str]]:
        try:
            return [self._findings[study] for study in study_ids]
        except KeyError as error:
            raise KitError(f"The oracle has no findings for study {error.args[0]}.") from None

    def fit(self, train: Mapping[str, str], validation: Mapping[str, str]) -> Self:
        """Index the training reports by their findings; validation is not used."""
        del validation
        _texts(train)
        ids = sorted(train)
        known = self._of(ids)
        self._types, self._described = _NameSets([_types(k) for k in known]), _NameSets(known)
        self._texts = [train[study] for study in ids]
        vectoriser = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), sublinear_tf=True)
        self._vectors = vectoriser.fit_transform(self._texts)  # [N, terms], rows of length 1
        return self

    def predict(self, study_ids: Iterable[str]) -> dict[str, str]:
        """The chosen training report, per study.

        Raises:
            KitError: not fitted, or a study without findings.
        """
        if self._texts is None:
            raise KitError(f"The baseline {self.name!r} was not fitted: call fit first.")
        asked = list(study_ids)
        wanted = self._of(asked)
        chosen = {}
        for known in set(wanted):
            likeness, closer = self._types.f1(_types(known)), self._described.f1(known)
            best = likeness == likeness.max()
            tied = np.flatnonzero(best & (closer == closer[best].max()))
            centre = np.asarray(self._vectors[tied].mean(axis=0)).ravel()
            chosen[known] = self._texts[tied[int(np.argmax(self._vectors[tied] @ centre))]]
        return {study: chosen[known] for study, known in zip(asked, wanted)}


def _types(names: Iterable[str]) -> frozenset[str]:
    return frozenset(name for name in names if "/" not in name)


class _NameSets:
    """N sets of names, compared with one more set at a time."""

    def __init__(self, sets: Sequence[Iterable[str]]) -> None:
        self._binarizer = MultiLabelBinarizer(sparse_output=True)
        self._rows = self._binarizer.fit_transform(sets).astype(np.float64)  # [N, names]
        self._sizes = np.asarray(self._rows.sum(axis=1)).ravel()

    def f1(self, names: frozenset[str]) -> np.ndarray:
        """F1 ``[N]`` of each set with ``names``; two empty sets agree fully."""
        inside = np.isin(self._binarizer.classes_, list(names)).astype(np.float64)
        total = self._sizes + len(names)
        common = 2 * (self._rows @ inside)
        return np.divide(common, total, out=np.ones_like(total), where=total > 0)


def blind_baselines(seed: int = 0) -> list[Baseline]:
    """The baselines that need neither images nor references, in the order of the tables."""
    return [
        MostFrequentReport(),
        RandomReport(seed),
        BestSingleReport(),
        ConstantTemplate(seed),
    ]
