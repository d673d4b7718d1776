"""From a report as written to a string of lower-case tokens.

Four rules, chosen by name. ``"r2gen"`` and ``"r2gen_mimic"`` repeat the released cleaners of R2Gen
and R2GenCMN token by token, flaws included, because their vocabularies and scores depend on
them; ``"kit2018"`` is the text rule of the 2018 TensorFlow kit; ``"default"`` is ours and mends
what the released cleaners damage.

=================  =========================  ==========================  ==================
text as written    "r2gen"                    "default"                   "kit2018"
=================  =========================  ==========================  ==================
1.7 cm nodule.     17 cm nodule .             1.7 cm nodule .             cm nodule
1. Clear. 2. Big   clear . big .              clear . big .               (one-word: gone)
at T1. No mass     at tno mass .              at t1 . no mass .           at t no mass
hilar/perihilar    hilarperihilar             hilar perihilar             hilarperihilar
XXXX XXXX film     xxxx xxxx film .           xxxx film .                 xxxx xxxx film
normal.. . Clear   normal . . clear .         normal . clear .            (one-word: gone)
(empty)            .                          (empty)                     (empty)
=================  =========================  ==========================  ==================
"""

from __future__ import annotations

import re
from collections.abc import Callable

from r2genkit.errors import KitError
from r2genkit.text.sentences import kit2018_sentences

# The released cleaners write their class as [.,?;*!%^&_+():-\[\]{}]. The hyphen in ":-\[" makes a
# RANGE from ":" (0x3A) to "[" (0x5B): it takes < = > @ (and capitals, gone by then) as well, and
# the hyphen itself is not a member, so it stays. Spelled out here so that nothing is hidden.
_R2GEN_DELETED = '"/\\' + "'"
_R2GEN_CLASS = ".,?;*!%^&_+()" + "".join(map(chr, range(0x3A, 0x5B + 1))) + "]{}"
_R2GEN_TABLE = str.maketrans("", "", _R2GEN_CLASS)
_R2GEN_MARKS = str.maketrans("", "", _R2GEN_DELETED)

# Order matters: later patterns see what earlier ones left.
_LIST_MARKERS = (
    ("1. ", ""),  # anywhere: also the end of "T1. " or "11. "
    *((f". {number}. ", ". ") for number in range(2, 6)),
    *((f" {number}. ", ". ") for number in range(2, 6)),
)


def _replace_each(text: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        text = text.replace(old, new)
    return text


def _r2gen_sentence(sentence: str) -> str:
    # Strip and lower come BEFORE the class is deleted, so "a ," keeps its trailing space; the
    # final join on white space makes that invisible, as the released ``split()`` does.
    return sentence.translate(_R2GEN_MARKS).strip().lower().translate(_R2GEN_TABLE)


def _clean_r2gen(text: str) -> str:
    for _ in range(3):
        text = text.replace("..", ".")
    pieces = _replace_each(text, _LIST_MARKERS).strip().lower().split(". ")
    # The released code means to drop empty sentences but compares a string with a list, which is
    # never equal: empty sentences stay and leave ". ." behind.
    joined = " . ".join(_r2gen_sentence(piece) for piece in pieces) + " ."
    return " ".join(joined.split())


def _clean_r2gen_mimic(text: str) -> str:
    text = text.replace("\n", " ")
    for old, new, times in (("__", "_", 7), ("  ", " ", 6), ("..", ".", 8)):
        for _ in range(times):
            text = text.replace(old, new)
    pieces = _replace_each(text, _LIST_MARKERS).strip().lower().split(". ")
    return " ".join((" . ".join(_r2gen_sentence(piece) for piece in pieces) + " .").split())


def _clean_kit2018(text: str) -> str:
    return " ".join(kit2018_sentences("", text))


# "a.m.", "e.g.": single letters with points are one word.
_ABBREVIATION = re.compile(r"\b([a-z])\.(?=[a-z]\b)")
_TITLE = re.compile(r"\b(dr|mr|mrs|ms|vs)\.(?=\s)")
# A sentence ends at . ? ! or at a line break that follows one, but not inside a number (1.7).
_SENTENCE_END = re.compile(r"(?<!\d)[.?!]+|[.?!]+(?!\d)")
# "1)" or "(1)" at the start; "1." is split off by the sentence end and falls as a lone number.
_LIST_START = re.compile(r"^\s*\(?\d{1,2}\)\s*")
_LONE_NUMBER = re.compile(r"\d{1,2}")
# Words: letters and digits, inner hyphens, inner decimal points; or a percent sign on a number.
_WORD = re.compile(r"[a-z0-9]+(?:(?:-|(?<=\d)\.(?=\d))[a-z0-9]+)*")
_MASK = re.compile(r"x{3,}")


def _clean_default(text: str) -> str:
    text = text.lower().replace("'", "").replace("\u2019", "")
    text = _TITLE.sub(r"\1", _ABBREVIATION.sub(r"\1", text))
    sentences = []
    for piece in _SENTENCE_END.split(text):
        while (stripped := _LIST_START.sub("", piece)) != piece:
            piece = stripped
        words: list[str] = []
        for word in _WORD.findall(piece):
            word = "xxxx" if _MASK.fullmatch(word.replace("-", "")) else word
            if word != "xxxx" or words[-1:] != ["xxxx"]:
                words.append(word)
        if not words or (len(words) == 1 and _LONE_NUMBER.fullmatch(words[0])):
            continue
        sentences.append(" ".join(words) + " .")
    return " ".join(sentences)


_CLEANERS: dict[str, Callable[[str], str]] = {
    "default": _clean_default,
    "r2gen": _clean_r2gen,
    "r2gen_mimic": _clean_r2gen_mimic,
    "kit2018": _clean_kit2018,
}

COMPAT_NAMES: tuple[str, ...] = tuple(_CLEANERS)


def clean_report(text: str, compat: str = "default") -> str:
    """Lower-case tokens of a report, joined by single spaces.

    Rules of ``"default"``: case folded; apostrophes deleted; sentences end at ``.``, ``?``, ``!``
    except inside a number, so ``1.7`` stays one token; a list number counts as one only where a
    sentence starts (``1.``, ``2)``, ``(3)``) and goes; words keep inner hyphens, every other mark
    separates words; the de-identification mask, however often repeated in a row, is ONE token
    ``xxxx`` (how many words were masked is no property of the image); sentences without a word
    are dropped; each sentence ends in " .". Cleaning a cleaned report changes nothing.

    Args:
        text: the report as written.
        compat: ``"default"``, ``"r2gen"`` (R2Gen and R2GenCMN on IU X-Ray), ``"r2gen_mimic"`` (the
            same on MIMIC-CXR) or ``"kit2018"`` (no full stops; sentences of one word dropped).

    Returns:
        Tokens joined by single spaces; under the R2Gen rules an empty report is ".", as released.

    Raises:
        KitError: ``compat`` is none of the four names, or ``text`` is no string.
    """
    try:
        cleaner = _CLEANERS[compat]
    except (KeyError, TypeError):
        raise KitError(
            f"Unknown text rule {compat!r}: choose one of {', '.join(COMPAT_NAMES)}."
        ) from None
    if not isinstance(text, str):
        raise KitError(f"A report must be text but is {type(text).__name__}: pass a string.")
    return cleaner(text)
