"""The phrase language of ``phrases.yaml``: words, alternatives, stems, gaps.

A phrase compiles to one regular expression over a sentence written as ``" word word word "``. Each
phrase also knows the words one of which must be present (its anchor), so that a sentence is tried
against a handful of phrases only.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from r2genkit.errors import KitError

_GAP = re.compile(r"~([1-9])")
_OPTIONAL = re.compile(r"\?([1-9]?)$")
_WORD = re.compile(r"[a-z0-9.'/]+\*?")


@dataclass(frozen=True)
class Phrase:
    """One compiled phrase.

    Attributes:
        text: as written in the data file.
        pattern: regular expression over ``" word word "``; it consumes the space before its first
            word and none after its last.
        anchors: words or stems (ending in ``*``), one of which every match contains.
    """

    text: str
    pattern: re.Pattern[str] = field(repr=False)
    anchors: tuple[str, ...] = field(repr=False)


def _alternatives(item: str, phrase: str) -> tuple[str, ...]:
    words = tuple(item.split("|"))
    for word in words:
        if not _WORD.fullmatch(word):
            raise KitError(f"Phrase {phrase!r}: {word!r} is neither a word, a stem* nor a gap ~N.")
    return words


def compile_phrase(text: str, breaks: Collection[str] = ()) -> Phrase:
    """Compile one phrase.

    Args:
        text: the phrase.
        breaks: words that no gap runs across: "calcified ~4 nodule" shall not be found in
            "calcified granuloma but no nodule". A phrase that names such a word itself matches it.

    Raises:
        KitError: the phrase is empty, starts or ends with a gap, has no word that must be there,
            or holds something that is no word.
    """
    items = text.lower().split()
    if not items or _GAP.fullmatch(items[0]) or _GAP.fullmatch(items[-1]):
        raise KitError(f"Phrase {text!r} must start and end with a word.")
    barrier = rf"(?!(?:{'|'.join(map(re.escape, breaks))}) )" if breaks else ""
    parts: list[str] = []
    required: list[tuple[str, ...]] = []
    for item in items:
        if gap := _GAP.fullmatch(item):
            parts.append(rf"(?: {barrier}\S+){{0,{gap[1]}}}?")
            continue
        optional = _OPTIONAL.search(item)
        words = _alternatives(_OPTIONAL.sub("", item), text)
        body = "|".join(
            re.escape(word.removesuffix("*")) + (r"\S*" if word.endswith("*") else "")
            for word in words
        )
        parts.append(f"(?: (?:{body})(?=[ ]))" + (f"{{0,{optional[1] or 1}}}" if optional else ""))
        if not optional:
            required.append(words)
    if not required:
        raise KitError(f"Phrase {text!r} has no word that must be present.")
    # The item with the fewest, longest words is the rarest in text.
    anchors = min(required, key=lambda words: (len(words), -min(map(len, words))))
    return Phrase(text, re.compile("".join(parts)), anchors)
