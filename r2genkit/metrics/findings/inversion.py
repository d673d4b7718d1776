"""Reports that say the opposite: a test that every clinical score should pass.

:func:`invert_report` rewrites a report so that what it denied is affirmed and what it affirmed is
denied, with as few changed words as possible. Word overlap hardly notices; a score that reads
findings must fall to about 0. :func:`inversion_table` shows both.

It is a test instrument, no text generator: the result need not be good English, and doubted
findings ("possible pneumonia") stay as they are. The labeler steers the rewriting, so that the
kit's own scores fall to 0 is partly by construction; that substring matching stays at 1 is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from r2genkit.metrics.findings.attributes import (
    AttributeFinder,
    attribute_f1,
    default_attribute_finder,
    keyword_f1,
)
from r2genkit.metrics.findings.labeler import FindingLabeler, Mention, default_labeler, outermost
from r2genkit.metrics.findings.scores import Policy, finding_f1
from r2genkit.text.cleaning import clean_report
from r2genkit.text.sentences import split_sentences

# A negation trigger's words and what stands there once it is lifted.
_LIFTED = {
    "no": "",
    "not": "",
    "never": "",
    "without": "with",
    "neither": "",
    "nor": "or",
    "absent": "present",
    "absence": "presence",
    "lack": "presence",
    "free": "full",
    "negative": "positive",
    "denies": "reports",
    "excluded": "included",
}
_NORMAL_WORDS = ("normal", "unremarkable", "clear", "sharp", "maintained", "preserved")
_COPULAS = ("is", "are", "was", "were", "remains", "remain", "appears", "appear")
_OPENINGS = ("there is a", "there is an", "there is", "there are")


def _find(words: Sequence[str], part: Sequence[str], near: int) -> int | None:
    """Start of the occurrence of ``part`` nearest to a word position; None if there is none."""
    size = len(part)
    starts = [i for i in range(len(words) - size + 1) if list(words[i : i + size]) == list(part)]
    return min(starts, key=lambda start: abs(start - near)) if starts else None


def _affirmed(mention: Mention) -> str | None:
    """The sentence with one denied mention affirmed; None where the rule knows no way."""
    words = mention.sentence.split()
    trigger = mention.trigger.split()
    start = _find(words, trigger, mention.span[0])
    if start is None:
        return None
    for place in range(start, start + len(trigger)):
        if mention.rule.startswith("normal:") and words[place] in _NORMAL_WORDS:
            place -= words[place - 1 : place] == ["within"]  # "not within normal limits"
            return " ".join([*words[:place], "not", *words[place:]])
        if not mention.rule.startswith("normal:") and words[place] in _LIFTED:
            lifted = _LIFTED[words[place]]
            return " ".join([*words[:place], *([lifted] if lifted else []), *words[place + 1 :]])
    return None


def _denials(mention: Mention) -> Iterator[str]:
    """The sentence with one affirmed mention denied, in several ways, the most natural first."""
    words = mention.sentence.split()
    first, last = mention.span
    if "not" in words[max(0, first - 1) : last] and mention.rule.startswith("normal:"):
        place = words.index("not", max(0, first - 1))
        yield " ".join([*words[:place], *words[place + 1 :]])
    for opening in _OPENINGS:
        if mention.sentence.startswith(opening + " "):
            stem = " ".join(opening.split()[:2])
            yield f"{stem} no{mention.sentence[len(opening) :]}"
    for place in range(last - 1, -1, -1):
        if words[place] in _COPULAS:
            yield " ".join([*words[: place + 1], "not", *words[place + 1 :]])
    yield f"no {mention.sentence}"
    yield " ".join([*words[:first], "no", *words[first:]])
    yield " ".join([*words[:last], "not seen", *words[last:]])


def _inverted_sentence(sentence: str, labeler: FindingLabeler) -> str:
    def read(text: str) -> list[Mention]:
        return outermost(labeler.mentions_of_sentence(text))

    def named(mentions: list[Mention], polarity: str) -> set[str]:
        return {m.finding for m in mentions if m.polarity == polarity}

    start = read(sentence)
    affirmed, denied = named(start, "positive"), named(start, "negative") - named(start, "positive")
    text = sentence
    # Lift denials first: what is written then denies only what was affirmed.
    for _ in range(len(start)):
        left = [m for m in read(text) if m.polarity == "negative" and m.finding in denied]
        better = next(
            (
                new
                for mention in left
                if (new := _affirmed(mention)) is not None
                and len(named(read(new), "negative") & denied)
                < len(named(read(text), "negative") & denied)
            ),
            None,
        )
        if better is None:
            break
        text = better
    for _ in range(2 * len(start)):
        now = read(text)
        kept = named(now, "negative") & denied
        left = [m for m in now if m.polarity == "positive" and m.finding in affirmed]
        if not left:
            break

        def cost(new: str, kept: set[str] = kept) -> tuple[int, int]:
            """Affirmed findings still affirmed, then lifted denials lost again."""
            found = read(new)
            return (
                sum(m.polarity == "positive" and m.finding in affirmed for m in found),
                len((named(found, "negative") & denied) - kept),
            )

        best = min((new for mention in left for new in _denials(mention)), key=cost)
        if cost(best)[0] >= len(left):
            break
        text = best
    return text


def invert_report(text: str, *, labeler: FindingLabeler | None = None) -> str:
    """A report with denials turned into assertions and assertions into denials.

    "No effusion. The heart is enlarged." becomes "effusion . the heart is not enlarged ."; "heart
    size is normal" becomes "heart size is not normal". Sentence by sentence, so equal sentences
    become equal sentences; a change is kept only where the labeler reads it as meant. Doubted
    findings and sentences without a finding stay.

    Args:
        text: report, raw or cleaned.
        labeler: other rules than the kit's.

    Returns:
        Tokens joined by single spaces, sentences ended by " .".
    """
    labeler = labeler or default_labeler()
    sentences = (_inverted_sentence(s, labeler) for s in split_sentences(clean_report(text)))
    return " ".join(f"{sentence} ." for sentence in sentences if sentence)


def inversion_table(
    references: Mapping[str, str],
    *,
    policy: Policy = "negative",
    finder: AttributeFinder | None = None,
) -> pd.DataFrame:
    """What a report and its inversion earn, by substring matching and by reading findings.

    Args:
        references: report by study id, with full stops.
        policy: what a doubted finding counts as.
        finder: other words than the kit's.

    Returns:
        F1 (0 to 1; NaN where there is nothing to score). Rows: "substrings, no polarity" for each
        category and all (:func:`keyword_f1`), "words, finding and polarity" likewise
        (:func:`attribute_f1`), and "finding-F1". Columns: "itself", "inverted".
    """
    finder = finder or default_attribute_finder()
    memory: dict[str, str] = {}

    def inverted(report: str) -> str:
        result = []
        for sentence in split_sentences(clean_report(report)):
            if sentence not in memory:
                memory[sentence] = invert_report(sentence, labeler=finder.labeler)
            result.append(memory[sentence])
        return " ".join(result)

    candidates = {
        "itself": dict(references),
        "inverted": {study: inverted(text) for study, text in references.items()},
    }
    columns = {}
    for name, reports in candidates.items():
        plain = keyword_f1(reports, references, finder=finder).table["f1"]
        scoped = attribute_f1(reports, references, policy=policy, finder=finder).table["f1"]
        findings = finding_f1(reports, references, policy=policy, labeler=finder.labeler)
        columns[name] = {
            **{("substrings, no polarity", category): plain[category] for category in plain.index},
            **{("words, finding and polarity", c): scoped[c] for c in scoped.index},
            ("finding-F1", "all"): findings.micro["f1"],
        }
    table = pd.DataFrame(columns)
    table.index = pd.MultiIndex.from_tuples(table.index, names=["matching", "category"])
    return table
