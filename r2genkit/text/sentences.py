"""Reports as sentences, and the form under which two reports count as the same."""

from __future__ import annotations

import re

# The 2018 kit's rule, found by matching its 3,631 published ids: a full stop ends a sentence when
# neither a digit nor another full stop stands before it and white space follows.
_KIT2018_END = re.compile(r"(?<![0-9.])\.(?=\s)")
_NOT_LETTER_OR_SPACE = re.compile(r"[^a-z ]")
_NOT_WORD = re.compile(r"[^a-z0-9]+")


def split_sentences(cleaned: str) -> list[str]:
    """Sentences of a cleaned report, without their full stops and without empty ones.

    Args:
        cleaned: tokens joined by single spaces, sentences ended by the token " ." (the last one
            may lack it, as cut references do).

    Returns:
        The sentences in order. ``" . ".join(result) + " ."`` gives the report back when it ended
        in a full stop and held no empty sentence.
    """
    sentences: list[list[str]] = [[]]
    for word in cleaned.split():
        if word == ".":
            sentences.append([])
        else:
            sentences[-1].append(word)
    return [" ".join(words) for words in sentences if words]


def _kit2018_section(section: str) -> list[str]:
    sentences = []
    for piece in _KIT2018_END.split(section):
        letters = _NOT_LETTER_OR_SPACE.sub("", " ".join(piece.split()).lower())
        words = letters.split()
        if len(words) >= 2:
            sentences.append(" ".join(words))
    return sentences


def kit2018_sentences(impression: str, findings: str) -> list[str]:
    """Sentences of a study under the text rule of the 2018 TensorFlow kit.

    Impression first, then findings, split separately at a full stop that follows neither a digit
    nor a full stop and precedes white space; lower case; everything but letters and spaces
    deleted (so "x-ray" becomes "xray"); sentences of fewer than two words dropped. A study
    belongs to that kit's collection when its impression is not empty and four sentences remain
    (:func:`in_kit2018`).
    """
    return _kit2018_section(impression) + _kit2018_section(findings)


def in_kit2018(impression: str, findings: str) -> bool:
    """Whether a study is one of the 3,631 of the 2018 kit (impression given, >= 4 sentences)."""
    return bool(impression.strip()) and len(kit2018_sentences(impression, findings)) >= 4


def normalise(text: str) -> str:
    """The form under which two reports count as the same: lower-case letters and digits only.

    Case, punctuation and spacing vanish, so "No effusion." and "no  effusion" are duplicates;
    words and their order stay.
    """
    return _NOT_WORD.sub(" ", text.lower()).strip()
