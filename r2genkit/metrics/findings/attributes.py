"""Attributes of findings: do two reports agree on how much, where and what kind?

After FORTE (Li et al. 2025, BrainGPT): keywords in four categories, *degree*, *location* (there
"landmark"), *feature*, *impression*, compared by F1. FORTE's released code looks for keywords as
substrings of a text, whatever they describe. Here a keyword counts only for the finding it
describes, and only where that finding is affirmed: "no large effusion" holds no "large".
:func:`keyword_f1` is the plain substring matching, kept to show the difference
(:func:`r2genkit.metrics.findings.inversion.inversion_table`).

Words are data (``attributes.yaml``), mentions of findings are those of the labeler. **Which mention
does an attribute describe?**

1. Whole words only; of entries of one category that overlap the longest stays.
2. Clauses end at "and", "with", "without", "but", ... (``clauses``). The attribute belongs to the
   nearest mention of its clause, counted in words between them; of two equally near ones to the
   right-hand one ("small effusion": English puts the adjective first). Inside the words of a
   mention the distance is 0.
3. A clause without a mention leaves its attributes to the nearest mention of the sentence ("left
   and right basilar atelectasis"), unless "no" or "without" opens it: "cardiomegaly without acute
   disease" is no acute cardiomegaly.
4. Mentions that overlap, or that are joined as two names of one thing ("opacity may represent
   scarring or atelectasis"; ``same``), share their attributes.
5. The polarity is that of the mention described. An attribute that lies inside a mention that is
   itself denied or doubted counts for no other mention ("opacity, possibly pneumonia": no
   impression of pneumonia is affirmed).
6. What the finding's name says already is no attribute ("tortuous" of a tortuous aorta;
   ``implied``). Mentions of type "other" take attributes, so that no neighbour gets them, but are
   not scored.

A report is the *set* of its (finding, polarity, category, attribute) tuples with an affirmed
finding. Scores are micro precision, recall and F1 over these sets; the counts add over studies.

Not from the paper: finding and polarity in the tuples, whole words, micro counts over whole reports
(FORTE pairs sentences and averages), and the word lists. FORTE has "no" as a keyword of degree and
a "negation removal" that drops sentence pairs with it; neither is needed here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml

from r2genkit.errors import KitError
from r2genkit.metrics.findings.labeler import (
    OTHER,
    FindingLabeler,
    Mention,
    Polarity,
    default_labeler,
    outermost,
)
from r2genkit.metrics.findings.scores import POLICIES, Policy, f1_from_counts
from r2genkit.metrics.nlg import check_pairs
from r2genkit.text.cleaning import clean_report
from r2genkit.text.sentences import split_sentences

CATEGORIES: tuple[str, ...] = ("degree", "location", "feature", "impression")
"""Keyword categories after FORTE, in the order of the count arrays."""

ATTRIBUTES_FILE = Path(__file__).with_name("attributes.yaml")

_CACHE_SENTENCES = 200_000


class Attribute(NamedTuple):
    """One attribute of one finding, as compared between reports."""

    finding: str
    polarity: Polarity
    category: str
    attribute: str


@dataclass(frozen=True)
class AttributeMention:
    """Where an attribute was read.

    Attributes:
        finding: finding type described, or "other".
        polarity: of the mention described.
        category: one of ``CATEGORIES``.
        attribute: canonical name ("base" for "bibasilar").
        words: the words that said it.
        phrase: the words of the mention described.
        sentence: the sentence as the labeler saw it.
        span: first and one-past-last word of ``words`` in the sentence.
        sentence_index: position of the sentence in the report, from 0.
    """

    finding: str
    polarity: Polarity
    category: str
    attribute: str
    words: str
    phrase: str
    sentence: str
    span: tuple[int, int]
    sentence_index: int = 0


class _Word(NamedTuple):
    category: str
    attribute: str
    start: int  # word positions
    end: int


def _words_of(path: Path, content: object, where: str) -> list[str]:
    ok = isinstance(content, list) and all(isinstance(item, str) and item for item in content)
    if not ok:
        raise KitError(
            f"{path.name}: {where} must be a list of words: put words that YAML reads as true or "
            "false in quotes."
        )
    for item in content:
        if item != " ".join(item.lower().split()) or "-" in item:
            raise KitError(
                f"{path.name}: {item!r} in {where} must be lower case, with single spaces and "
                "without hyphens."
            )
    return content


def _load(path: Path, findings: Iterable[str]) -> dict:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or set(content) != {*CATEGORIES, "implied", "clauses", "same"}:
        keys = ", ".join((*CATEGORIES, "implied", "clauses", "same"))
        raise KitError(f"{path.name} must have exactly the keys {keys}.")
    known = set()
    for category in CATEGORIES:
        for attribute, words in content[category].items():
            _words_of(path, words, f"{category}: {attribute}")
            known.add(attribute)
    for finding, attributes in content["implied"].items():
        if finding not in findings:
            raise KitError(f"{path.name}: unknown finding type {finding!r} in implied.")
        for attribute in _words_of(path, attributes, f"implied: {finding}"):
            if attribute not in known:
                raise KitError(f"{path.name}: implied: {finding}: no attribute {attribute!r}.")
    _words_of(path, content["clauses"], "clauses")
    for name in ("link", "filler"):
        _words_of(path, content["same"].get(name), f"same: {name}")
    return content


def _distance(word: _Word, mention: Mention) -> int:
    start, end = mention.span
    return max(0, start - word.end, word.start - end)


class AttributeFinder:
    """Reads attributes of findings from reports; see the module for the rules.

    Args:
        path: another attribute file of the same form, for experiments.
        labeler: finding rules other than the kit's.

    Attributes:
        labeler: the finding rules in use.
        words: the words of each (category, attribute), as in the file.

    Raises:
        KitError: the file has an unknown or missing key, a finding type that does not exist, or an
            entry that is no list of words.
    """

    def __init__(self, path: Path = ATTRIBUTES_FILE, labeler: FindingLabeler | None = None) -> None:
        self.labeler = labeler or default_labeler()
        content = _load(Path(path), self.labeler.findings)
        # First word of an entry -> its entries, longest first.
        self._entries: dict[str, list[tuple[tuple[str, ...], str, str]]] = {}
        self.words: dict[tuple[str, str], tuple[str, ...]] = {}
        for category in CATEGORIES:
            for attribute, texts in content[category].items():
                self.words[category, attribute] = tuple(texts)
                for text in texts:
                    words = tuple(text.split())
                    self._entries.setdefault(words[0], []).append((words, category, attribute))
        self._substrings = {
            key: [f" {text}" for text in texts] for key, texts in self.words.items()
        }
        for entries in self._entries.values():
            entries.sort(key=lambda entry: -len(entry[0]))
        self._implied = {f: frozenset(names) for f, names in content["implied"].items()}
        self._clauses = frozenset(content["clauses"])
        self._denying = self._clauses & {"no", "without"}
        self._link = frozenset(content["same"]["link"])
        self._joint = self._link | frozenset(content["same"]["filler"])
        self._sentences: dict[str, tuple[frozenset[Attribute], frozenset[Attribute]]] = {}

    # -- one sentence ---------------------------------------------------------------------------

    def _find(self, words: Sequence[str]) -> list[_Word]:
        found: list[_Word] = []
        for start, word in enumerate(words):
            for entry, category, attribute in self._entries.get(word, ()):
                end = start + len(entry)
                if tuple(words[start:end]) != entry:
                    continue
                if any(
                    other.category == category
                    and other.start <= start
                    and end <= other.end
                    and other.end - other.start > end - start
                    for other in found
                ):
                    continue
                found.append(_Word(category, attribute, start, end))
        return found

    def _groups(
        self, mentions: list[Mention], words: Sequence[str], found: list[_Word]
    ) -> list[set[int]]:
        """Mentions (by index) that are names of one thing."""
        covered = {place for word in found for place in range(word.start, word.end)}
        groups: list[set[int]] = []
        for index, mention in enumerate(mentions):
            joined = {index}
            for other in range(index):
                first, second = sorted((mentions[other].span, mention.span))
                between = range(first[1], second[0])
                same = second[0] < first[1] or (
                    all(place in covered or words[place] in self._joint for place in between)
                    and any(words[place] in self._link for place in between)
                )
                if same:
                    joined.add(other)
            touched = [group for group in groups if group & joined]
            groups = [group for group in groups if not group & joined]
            groups.append(joined.union(*touched))
        return groups

    def attributes_of_sentence(self, sentence: str) -> list[AttributeMention]:
        """Attributes in one cleaned sentence with the mention that each describes."""
        mentions = outermost(self.labeler.mentions_of_sentence(sentence))
        if not mentions:
            return []
        text = mentions[0].sentence
        words = text.split()
        found = self._find(words)
        if not found:
            return []
        clause, clauses, opened = 0, [], [0]
        for place, word in enumerate(words):
            if word in self._clauses:
                clause += 1
                opened.append(place)
            clauses.append(clause)
        groups = self._groups(mentions, words, found)
        result = []
        for word in found:
            opens = opened[clauses[word.start]]
            opener = words[opens]
            near = [m for m in mentions if clauses[m.span[0]] == clauses[word.start]]
            # A mention that runs across a clause word lies in all its clauses.
            near += [
                m
                for m in mentions
                if m not in near
                and clauses[m.span[0]] <= clauses[word.start] <= clauses[m.span[1] - 1]
            ]
            if not near and opener in self._denying and not word.start <= opens < word.end:
                continue
            candidates = near or mentions
            least = min(_distance(word, mention) for mention in candidates)
            nearest = [m for m in candidates if _distance(word, m) == least]
            if least:
                right = [m for m in nearest if m.span[0] >= word.end]
                nearest = right or nearest
            chosen = {mentions.index(mention) for mention in nearest}
            for group in groups:
                if group & chosen:
                    chosen |= group
            inside = [m for m in mentions if m.span[0] <= word.start and word.end <= m.span[1]]
            said = set()
            for index in sorted(chosen):
                mention = mentions[index]
                if (mention.finding, mention.polarity) in said:
                    continue
                if word.attribute in self._implied.get(mention.finding, ()):
                    continue
                if mention not in inside and any(m.polarity != "positive" for m in inside):
                    continue
                said.add((mention.finding, mention.polarity))
                result.append(
                    AttributeMention(
                        mention.finding,
                        mention.polarity,
                        word.category,
                        word.attribute,
                        " ".join(words[word.start : word.end]),
                        mention.phrase,
                        text,
                        (word.start, word.end),
                    )
                )
        return result

    def _sentence_sets(self, sentence: str) -> tuple[frozenset[Attribute], frozenset[Attribute]]:
        """Attributes of affirmed, and of affirmed or doubted findings; remembered."""
        known = self._sentences.get(sentence)
        if known is None:
            affirmed, doubted = set(), set()
            for found in self.attributes_of_sentence(sentence):
                if found.finding == OTHER or found.polarity == "negative":
                    continue
                key = Attribute(found.finding, "positive", found.category, found.attribute)
                (affirmed if found.polarity == "positive" else doubted).add(key)
            if len(self._sentences) >= _CACHE_SENTENCES:
                self._sentences.clear()
            known = frozenset(affirmed), frozenset(affirmed | doubted)
            self._sentences[sentence] = known
        return known

    # -- reports --------------------------------------------------------------------------------

    def attributes(self, text: str, *, policy: Policy = "negative") -> frozenset[Attribute]:
        """Attributes of the findings that a report affirms.

        Args:
            text: report, raw or cleaned.
            policy: what a doubted finding counts as; with "positive" its attributes count, too.

        Raises:
            KitError: the policy is unknown.
        """
        if policy not in POLICIES:
            raise KitError(
                f"Unknown policy {policy!r} for uncertain findings: use negative, positive."
            )
        which = POLICIES.index(policy)
        return frozenset().union(
            *(self._sentence_sets(s)[which] for s in split_sentences(clean_report(text)))
        )

    def explain(self, text: str) -> list[AttributeMention]:
        """Every attribute in a report, with the finding it describes and the words that say it.

        Attributes of denied and doubted findings and of type "other" are listed as well; they are
        not scored.
        """
        result = []
        for index, sentence in enumerate(split_sentences(clean_report(text))):
            for found in self.attributes_of_sentence(sentence):
                result.append(AttributeMention(**{**found.__dict__, "sentence_index": index}))
        return result

    def keywords(self, text: str) -> frozenset[tuple[str, str]]:
        """(category, attribute) of every keyword that occurs anywhere in a report as a substring.

        As in FORTE's released code a match starts at a word but may end within one. No finding, no
        polarity: "no large effusion" holds "large".
        """
        text = f" {' '.join(clean_report(text).replace('-', ' ').split())} "
        return frozenset(
            key for key, parts in self._substrings.items() if any(part in text for part in parts)
        )


@cache
def default_attribute_finder() -> AttributeFinder:
    """The finder with the kit's own words; one per program, so its memory is shared."""
    return AttributeFinder()


@dataclass(frozen=True)
class AttributeScores:
    """Agreement of the attributes of N hypotheses with those of their references.

    Attributes:
        policy: what an uncertain finding counts as; None where polarity was not looked at.
        studies: study ids, in the order of the arrays.
        micro: precision, recall and F1 over all tuples of all categories, 0 to 1; NaN where there
            is nothing to divide by.
        table: one row per category and one "all": support (tuples in references), predicted, tp,
            fp, fn, precision, recall, f1.
        per_study_f1: ``[N]`` F1 of each study over all categories; NaN where neither report has an
            attribute.
        counts: int ``[N, 4, 3]``: true positive, false positive, false negative per study and
            category.
    """

    policy: Policy | None
    studies: tuple[str, ...]
    micro: dict[str, float]
    table: pd.DataFrame
    per_study_f1: np.ndarray
    counts: np.ndarray


def _scores(
    studies: tuple[str, ...],
    pairs: Iterable[tuple[frozenset, frozenset]],
    category: int,
    policy: Policy | None,
) -> AttributeScores:
    """Scores from (found, wanted) sets; ``category`` is its place in the tuples."""
    column = {name: i for i, name in enumerate(CATEGORIES)}
    counts = np.zeros((len(studies), len(CATEGORIES), 3), dtype=np.int64)
    for row, (found, wanted) in enumerate(pairs):
        for kind, keys in enumerate((found & wanted, found - wanted, wanted - found)):
            for key in keys:
                counts[row, column[key[category]], kind] += 1
    sums = np.concatenate([counts.sum(axis=0), counts.sum(axis=(0, 1))[None]])
    hit, false, missed = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        table = pd.DataFrame(
            {
                "support": hit + missed,
                "predicted": hit + false,
                "tp": hit,
                "fp": false,
                "fn": missed,
                "precision": hit / (hit + false),
                "recall": hit / (hit + missed),
                "f1": f1_from_counts(sums),
            },
            index=pd.Index([*CATEGORIES, "all"], name="category"),
        )
    return AttributeScores(
        policy=policy,
        studies=studies,
        micro={name: float(table.loc["all", name]) for name in ("precision", "recall", "f1")},
        table=table,
        per_study_f1=f1_from_counts(counts.sum(axis=1)) if studies else np.full(0, math.nan),
        counts=counts,
    )


def attribute_f1(
    hypotheses: Mapping[str, str],
    references: Mapping[str, str],
    *,
    policy: Policy = "negative",
    finder: AttributeFinder | None = None,
) -> AttributeScores:
    """Compare the attributes of affirmed findings in generated reports with those in references.

    Args:
        hypotheses: generated report by study id, with full stops (the scope is the sentence).
        references: reference report by study id; the same ids.
        policy: what a doubted finding counts as, on both sides.
        finder: other words than the kit's.

    Raises:
        KitError: ids differ, or the policy is unknown.
    """
    studies = check_pairs(hypotheses, references)
    finder = finder or default_attribute_finder()
    pairs = [
        (
            finder.attributes(hypotheses[study], policy=policy),
            finder.attributes(references[study], policy=policy),
        )
        for study in studies
    ]
    return _scores(studies, pairs, Attribute._fields.index("category"), policy)


def keyword_f1(
    hypotheses: Mapping[str, str],
    references: Mapping[str, str],
    *,
    finder: AttributeFinder | None = None,
) -> AttributeScores:
    """The same words matched as plain substrings, whatever they describe, affirmed or denied.

    FORTE's keyword matching (Li et al. 2025, released code), but with the kit's words, on whole
    reports and with micro counts, so that it can be set beside :func:`attribute_f1`. For
    demonstrations, not for results: it cannot tell a report from its inversion.

    Args:
        hypotheses: generated report by study id.
        references: reference report by study id; the same ids.
        finder: other words than the kit's.

    Raises:
        KitError: ids differ.
    """
    studies = check_pairs(hypotheses, references)
    finder = finder or default_attribute_finder()
    pairs = [(finder.keywords(hypotheses[s]), finder.keywords(references[s])) for s in studies]
    return _scores(studies, pairs, 0, None)
