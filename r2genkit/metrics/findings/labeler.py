"""Which findings a report states, denies or doubts.

Sentence by sentence: find the phrases of each finding type, decide the polarity of each mention
from the words around it, then settle one label per type and report. Phrases and trigger words are
data (``phrases.yaml``); this module is the rule that applies them. Nothing is learnt and nothing is
downloaded.

Polarity of a mention, first match wins:

1. a *normal* phrase ("heart size is normal") is negative, or positive when a "not" stands in it or
   right before it;
2. a negation trigger before it, in it, or after it, with no terminator in between: negative
   (NegEx, Chapman et al. 2001; terminators from ConText, Harkema et al. 2009);
3. a doubt trigger likewise, or a *doubtful* phrase: uncertain (CheXpert, Irvin et al. 2019);
4. else positive.

A phrase with a gap is found within one clause only: "calcified granuloma but no nodule" holds no
"calcified ... nodule" (``scope.breaks``). "No change" denies nothing; "no degenerative change"
does.

Sentences are those of :func:`r2genkit.text.clean_report`, so raw text, the default cleaning and the
R2Gen cleaning get the same labels (F1 1.0 and .996 between them on the Open-i findings). Text
without full stops, as the 2018 kit's, does not (.86): label the text that still has them.

Label of a type in a report (CheXpert's aggregation): any positive mention -> positive; else any
uncertain -> uncertain; else any negative -> negative; else the type is not mentioned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import yaml

from r2genkit.corpora.mesh import FINDING_TYPES
from r2genkit.errors import KitError
from r2genkit.metrics.findings.phrases import Phrase, compile_phrase
from r2genkit.text.cleaning import clean_report
from r2genkit.text.sentences import split_sentences

Polarity = Literal["positive", "negative", "uncertain"]

OTHER = "other"
POSITIVE, UNCERTAIN, NEGATIVE, ABSENT = 1, 2, 0, -1
"""Codes of a label in an integer matrix."""

_NAMES: dict[int, Polarity] = {POSITIVE: "positive", UNCERTAIN: "uncertain", NEGATIVE: "negative"}
# What wins within a report, weakest first. "Stated normal" and "denied" are both negative labels;
# they are kept apart because only a denial can lose its negation word.
_NORMAL, _DENIED, _DOUBTED, _AFFIRMED = 1, 2, 3, 4
_BY_STRENGTH = np.array([ABSENT, NEGATIVE, NEGATIVE, UNCERTAIN, POSITIVE], dtype=np.int8)

PHRASES_FILE = Path(__file__).with_name("phrases.yaml")

# How far to the left of a trigger that follows its finding the finding may stand, in words.
_AFTER_REACH = 9
_CACHE_SENTENCES = 200_000

_KINDS = ("mentions", "normal", "doubtful", "except")
_SCOPES = (
    "negative_before",
    "negative_after",
    "uncertain_before",
    "uncertain_after",
    "neutral",
    "terminators",
)
# Single words that a gap in a phrase does not run across; no triggers themselves.
_BREAKS = "breaks"


@dataclass(frozen=True)
class Mention:
    """One finding named in one sentence.

    Attributes:
        finding: finding type, or "other".
        polarity: as decided from the words around it.
        sentence: the sentence as the labeler saw it (lower case, hyphens opened).
        phrase: the words that matched.
        rule: the entry of ``phrases.yaml`` that matched, with its kind ("normal: ...").
        trigger: the words that made it negative or uncertain; "" for a positive mention.
        span: first and one-past-last word of the phrase in the sentence.
        sentence_index: position of the sentence in the report, from 0.
    """

    finding: str
    polarity: Polarity
    sentence: str
    phrase: str
    rule: str
    trigger: str
    span: tuple[int, int]
    sentence_index: int = 0

    def trigger_words(self) -> set[int]:
        """Positions of the trigger in the sentence: the occurrence nearest to the phrase.

        Empty without a trigger, and for a phrase that is its own trigger ("heart size is normal").
        """
        if not self.trigger or self.trigger == self.phrase:
            return set()
        words, trigger = self.sentence.split(), self.trigger.split()
        starts = [
            start
            for start in range(len(words) - len(trigger) + 1)
            if words[start : start + len(trigger)] == trigger
        ]
        if not starts:
            return set()
        nearest = min(starts, key=lambda start: abs(start - self.span[0]))
        return set(range(nearest, nearest + len(trigger)))


EXPLAIN_COLUMNS: tuple[str, ...] = (
    "finding",
    "title",
    "label",
    "polarity",
    "decides",
    "sentence",
    "phrase",
    "rule",
    "trigger",
)
"""Columns of :meth:`FindingLabeler.explain_table`."""


def outermost(mentions: Iterable[Mention]) -> list[Mention]:
    """Mentions of one sentence without those inside another of equal finding and polarity.

    "Degenerative changes of the spine" stays, "degenerative" inside it goes. In order of place.
    """
    kept: list[Mention] = []
    for mention in sorted(mentions, key=lambda m: m.span[0] - m.span[1]):
        if not any(
            (mention.finding, mention.polarity) == (other.finding, other.polarity)
            and other.span[0] <= mention.span[0]
            and mention.span[1] <= other.span[1]
            for other in kept
        ):
            kept.append(mention)
    return sorted(kept, key=lambda m: m.span)


@dataclass(frozen=True)
class _Match:
    owner: str  # finding type or scope name
    kind: str
    phrase: Phrase
    start: int  # character offsets into " word word "
    end: int


def _load(path: Path) -> tuple[dict[str, dict], dict[str, list[str]]]:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    scope = content.pop("scope", {})
    if unknown := set(content) - {*FINDING_TYPES, OTHER}:
        raise KitError(f"{path.name}: unknown finding type {sorted(unknown)[0]!r}.")
    if missing := {*FINDING_TYPES, OTHER} - set(content):
        raise KitError(f"{path.name}: no phrases for finding type {sorted(missing)[0]!r}.")
    for name, entry in content.items():
        if unknown := set(entry) - {"name", "chexpert", *_KINDS}:
            raise KitError(f"{path.name}: unknown key {sorted(unknown)[0]!r} in {name!r}.")
    if set(scope) != {*_SCOPES, _BREAKS}:
        keys = ", ".join((*_SCOPES, _BREAKS))
        raise KitError(f"{path.name}: scope must have exactly the keys {keys}.")
    if bad := [word for word in scope[_BREAKS] if not (isinstance(word, str) and word.isalpha())]:
        raise KitError(
            f"{path.name}: {bad[0]!r} in scope.{_BREAKS} is no single word: put words there "
            "one by one, in quotes where YAML reads them as true or false."
        )
    return content, scope


class FindingLabeler:
    """Labels reports with finding types; see the module for the rules.

    Args:
        path: another phrase file of the same form, for experiments.

    Attributes:
        findings: scored finding types, in the order of ``FINDING_TYPES``.
        titles: plain-language name per type.
        chexpert: nearest CheXpert observation per type, or None.
    """

    def __init__(self, path: Path = PHRASES_FILE) -> None:
        entries, scope = _load(Path(path))
        self.findings: tuple[str, ...] = FINDING_TYPES
        self.titles = {name: entries[name]["name"] for name in (*FINDING_TYPES, OTHER)}
        self.chexpert = {name: entries[name]["chexpert"] for name in (*FINDING_TYPES, OTHER)}
        self._columns = {name: i for i, name in enumerate((*FINDING_TYPES, OTHER))}
        # "The lungs are hyperinflated but clear": what is normal keeps its subject across a "but".
        breaks = {kind: () if kind == "normal" else tuple(scope[_BREAKS]) for kind in _KINDS}
        self._phrases: list[tuple[str, str, Phrase]] = [
            (name, kind, compile_phrase(text, breaks[kind]))
            for name, entry in entries.items()
            for kind in _KINDS
            for text in entry.get(kind) or ()
        ]
        self._phrases += [
            ("scope", kind, compile_phrase(text, tuple(scope[_BREAKS])))
            for kind in _SCOPES
            for text in scope[kind]
        ]
        self._by_word: dict[str, list[int]] = {}
        self._by_stem: dict[str, list[int]] = {}
        for index, (_, _, phrase) in enumerate(self._phrases):
            for anchor in phrase.anchors:
                table = self._by_stem if anchor.endswith("*") else self._by_word
                table.setdefault(anchor.removesuffix("*"), []).append(index)
        self._of_word: dict[str, tuple[int, ...]] = {}
        self._sentences: dict[str, tuple[tuple[int, int], ...]] = {}

    # -- one sentence ---------------------------------------------------------------------------

    def _phrases_of(self, word: str) -> tuple[int, ...]:
        """Phrases whose anchor this word satisfies (remembered per word)."""
        found = self._of_word.get(word)
        if found is None:
            indices = list(self._by_word.get(word, ()))
            for length in range(1, len(word) + 1):
                indices += self._by_stem.get(word[:length], ())
            found = self._of_word[word] = tuple(indices)
        return found

    def _matches(self, words: Sequence[str], padded: str) -> Iterator[_Match]:
        for index in sorted({i for word in words for i in self._phrases_of(word)}):
            owner, kind, phrase = self._phrases[index]
            for match in phrase.pattern.finditer(padded):
                yield _Match(owner, kind, phrase, match.start() + 1, match.end())

    @staticmethod
    def _longest(matches: list[_Match]) -> list[_Match]:
        """Triggers that overlap: the longest stays.

        The same words may act both ways ("versus"), but neutral words act in no other way.
        """
        kept: list[_Match] = []
        for match in sorted(matches, key=lambda m: (m.start - m.end, m.start, m.kind != "neutral")):
            if all(
                match.end <= other.start
                or match.start >= other.end
                or (
                    (match.start, match.end) == (other.start, other.end) and other.kind != "neutral"
                )
                for other in kept
            ):
                kept.append(match)
        return kept

    def _judged(self, sentence: str) -> tuple[str, list[tuple[_Match, Polarity, str]]]:
        """The sentence as matched, and its mentions with polarity and trigger words."""
        words = sentence.replace("-", " ").split()
        padded = f" {' '.join(words)} "
        found: list[_Match] = []
        triggers: list[_Match] = []
        exceptions: dict[str, list[_Match]] = {}
        for match in self._matches(words, padded):
            if match.owner == "scope":
                triggers.append(match)
            elif match.kind == "except":
                exceptions.setdefault(match.owner, []).append(match)
            else:
                found.append(match)
        if not found:
            return padded, []
        triggers = self._longest(triggers)
        result = []
        for match in found:
            if any(
                match.start < other.end and other.start < match.end
                for other in exceptions.get(match.owner, ())
            ):
                continue
            result.append((match, *self._polarity(match, triggers, padded)))
        return padded, result

    def mentions_of_sentence(self, sentence: str) -> list[Mention]:
        """Every mention in one cleaned sentence, in order of their place."""
        padded, judged = self._judged(sentence)
        result = []
        for match, polarity, trigger in judged:
            first = padded.count(" ", 0, match.start) - 1
            phrase = padded[match.start : match.end]
            result.append(
                Mention(
                    match.owner,
                    polarity,
                    padded.strip(),
                    phrase,
                    f"{match.kind}: {match.phrase.text}",
                    trigger,
                    (first, first + phrase.count(" ") + 1),
                )
            )
        return sorted(result, key=lambda mention: mention.span)

    def _polarity(
        self, mention: _Match, triggers: list[_Match], padded: str
    ) -> tuple[Polarity, str]:
        stops = [t for t in triggers if t.kind == "terminators"]

        def reaching(kind: str) -> str | None:
            for trigger in triggers:
                if trigger.kind != f"{kind}_before" or trigger.start >= mention.end:
                    continue
                if not any(trigger.end <= stop.start < mention.start for stop in stops):
                    return padded[trigger.start : trigger.end]
            for trigger in triggers:
                if trigger.kind != f"{kind}_after" or trigger.start < mention.end:
                    continue
                blocked = any(mention.end <= stop.start < trigger.start for stop in stops)
                between = padded.count(" ", mention.end, trigger.start) - 1
                if not blocked and between <= _AFTER_REACH:
                    return padded[trigger.start : trigger.end]
            return None

        if mention.kind == "normal":
            # Only a "not" at the phrase itself overturns it: in "no edema heart size normal" (full
            # stops lost) the "no" has nothing to do with the heart.
            words = padded[: mention.end].split()
            phrase = padded[mention.start : mention.end]
            if "not" in words[-phrase.count(" ") - 2 :]:
                return "positive", ""
            return "negative", phrase
        negation = reaching("negative")
        if negation is not None:
            return "negative", negation
        if mention.kind == "doubtful":
            return "uncertain", padded[mention.start : mention.end]
        doubt = reaching("uncertain")
        return ("positive", "") if doubt is None else ("uncertain", doubt)

    # -- reports --------------------------------------------------------------------------------

    def _sentence_labels(self, sentence: str) -> tuple[tuple[int, int], ...]:
        """(column, strength) of each type named in a sentence; remembered."""
        known = self._sentences.get(sentence)
        if known is None:
            strengths: dict[int, int] = {}
            for match, polarity, _ in self._judged(sentence)[1]:
                column = self._columns[match.owner]
                if polarity == "negative":
                    strength = _NORMAL if match.kind == "normal" else _DENIED
                else:
                    strength = _AFFIRMED if polarity == "positive" else _DOUBTED
                strengths[column] = max(strength, strengths.get(column, 0))
            if len(self._sentences) >= _CACHE_SENTENCES:
                self._sentences.clear()
            known = self._sentences[sentence] = tuple(strengths.items())
        return known

    def _strengths(self, texts: Iterable[str]) -> np.ndarray:
        texts = list(texts)
        strengths = np.zeros((len(texts), len(self._columns)), dtype=np.int8)
        for row, text in enumerate(texts):
            labels: dict[int, int] = {}
            for sentence in split_sentences(clean_report(text)):
                for column, strength in self._sentence_labels(sentence):
                    if strength > labels.get(column, 0):
                        labels[column] = strength
            for column, strength in labels.items():
                strengths[row, column] = strength
        return strengths

    def label_matrix(self, texts: Iterable[str], *, other: bool = False) -> np.ndarray:
        """Labels of many reports.

        Args:
            texts: N reports, raw or cleaned.
            other: append a column for abnormalities without a type of their own.

        Returns:
            int8 ``[N, F]`` (``[N, F + 1]``): 1 positive, 2 uncertain, 0 negative, -1 not mentioned;
            columns in the order of :attr:`findings`.
        """
        return self.label_matrix_and_denials(texts, other=other)[0]

    def label_matrix_and_denials(
        self, texts: Iterable[str], *, other: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels as in :meth:`label_matrix`, and where a negative label comes from a negation word.

        Returns:
            Labels int8 and denials bool, both ``[N, F]`` (``[N, F + 1]``). "No effusion" denies
            effusion; "heart size is normal" makes cardiomegaly negative without denying it.
        """
        strengths = self._strengths(texts)
        if not other:
            strengths = strengths[:, : len(self.findings)]
        return _BY_STRENGTH[strengths], strengths == _DENIED

    def label(self, text: str) -> dict[str, Polarity]:
        """Label of each finding type that the report mentions ("other" included)."""
        row = self.label_matrix([text], other=True)[0]
        return {name: _NAMES[int(code)] for name, code in zip(self._columns, row) if code != ABSENT}

    def explain(self, text: str) -> list[Mention]:
        """Every mention in a report with its sentence, words, rule and trigger.

        Of mentions of one finding that lie within one another, with equal polarity, the longest is
        given: "degenerative changes of the spine" and not "degenerative" besides.
        """
        return [
            replace(mention, sentence_index=index)
            for index, sentence in enumerate(split_sentences(clean_report(text)))
            for mention in outermost(self.mentions_of_sentence(sentence))
        ]

    def explain_table(self, text: str) -> pd.DataFrame:
        """Why each label is what it is, one row per mention, as :meth:`explain` gives them.

        Returns:
            Columns: "finding"; "title" (plain-language name); "label" of the finding in the whole
            report; "polarity" of this mention; "decides": whether the label follows from this
            mention (CheXpert's aggregation: the strongest polarity wins); "sentence"; "phrase";
            "rule" (entry of the phrase file); "trigger". Rows in the order of the text; no row for
            a report that mentions nothing.
        """
        labels = self.label(text)
        rows = [
            {
                "finding": mention.finding,
                "title": self.titles[mention.finding],
                "label": labels[mention.finding],
                "polarity": mention.polarity,
                "decides": mention.polarity == labels[mention.finding],
                "sentence": mention.sentence,
                "phrase": mention.phrase,
                "rule": mention.rule,
                "trigger": mention.trigger,
            }
            for mention in self.explain(text)
        ]
        return pd.DataFrame(rows, columns=EXPLAIN_COLUMNS)

    def abnormal(self, texts: Iterable[str], *, uncertain: bool = True) -> np.ndarray:
        """Whether each report states any abnormality.

        Args:
            texts: N reports.
            uncertain: whether a doubted abnormality counts.

        Returns:
            bool ``[N]``.
        """
        labels = self.label_matrix(texts, other=True)
        found = labels == POSITIVE
        return (found | (labels == UNCERTAIN) if uncertain else found).any(axis=1)


@cache
def default_labeler() -> FindingLabeler:
    """The labeler with the kit's own phrases; one per program, so its memory is shared."""
    return FindingLabeler()


def label_matrix(texts: Iterable[str]) -> np.ndarray:
    """int8 ``[N, F]`` of the default labeler; see :meth:`FindingLabeler.label_matrix`."""
    return default_labeler().label_matrix(texts)
