"""Words and their numbers.

As in R2Gen and R2GenCMN, one id (0) is begin mark, end mark and padding at once, and words seen
fewer than ``min_count`` times in training become ``<unk>``. ``<unk>`` is sorted among the words
(by code point it falls between the digits and the letters), so ids agree with released weights.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from r2genkit.errors import KitError
from r2genkit.files import write_json
from r2genkit.text.cleaning import COMPAT_NAMES, clean_report

UNKNOWN = "<unk>"


@dataclass(frozen=True)
class Vocabulary:
    """Two-way map between words and ids 1..len(words).

    Attributes:
        words: every word including ``<unk>``, sorted by code point; word ``i`` has id ``i + 1``.
        compat: text rule under which reports are cleaned before they are encoded.
        min_count: threshold with which it was built (for the record).
    """

    words: tuple[str, ...]
    compat: str = "default"
    min_count: int = 3
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    pad: ClassVar[int] = 0
    bos: ClassVar[int] = 0
    eos: ClassVar[int] = 0

    def __post_init__(self) -> None:
        if UNKNOWN not in self.words:
            raise KitError(f"The vocabulary lacks the word {UNKNOWN}: add it to the word list.")
        if list(self.words) != sorted(set(self.words)):
            raise KitError("The words of a vocabulary must be unique and sorted by code point.")
        if self.compat not in COMPAT_NAMES:
            raise KitError(
                f"Unknown text rule {self.compat!r} in a vocabulary: "
                f"choose one of {', '.join(COMPAT_NAMES)}."
            )
        object.__setattr__(self, "_ids", {word: i for i, word in enumerate(self.words, start=1)})

    @classmethod
    def build(
        cls, texts: Iterable[str], *, min_count: int = 3, compat: str = "default"
    ) -> Vocabulary:
        """Vocabulary of raw report texts (pass the training set only).

        Args:
            texts: reports as written.
            min_count: a word seen fewer times becomes ``<unk>``; R2Gen uses 3 (IU), 10 (MIMIC).
            compat: text rule, see :func:`r2genkit.text.cleaning.clean_report`.

        Raises:
            KitError: no word is frequent enough.
        """
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(clean_report(text, compat).split())
        words = {word for word, count in counts.items() if count >= min_count}
        if not words:
            raise KitError(
                f"No word occurs {min_count} times in the texts given: "
                "pass more reports or lower min_count."
            )
        return cls(tuple(sorted(words | {UNKNOWN})), compat, min_count)

    @property
    def unk(self) -> int:
        """Id of ``<unk>``."""
        return self._ids[UNKNOWN]

    @property
    def full_stop(self) -> int | None:
        """Id of the full stop; None where the text rule drops full stops."""
        return self._ids.get(".")

    def __len__(self) -> int:
        """Number of logits: the words and id 0."""
        return len(self.words) + 1

    def __contains__(self, word: str) -> bool:
        return word in self._ids

    def id(self, word: str) -> int:
        """Id of one word, that of ``<unk>`` if it is not known."""
        return self._ids.get(word, self.unk)

    def word(self, token_id: int) -> str:
        """Word of one id in 1..len(words)."""
        if not 1 <= token_id <= len(self.words):
            raise KitError(
                f"Token id {token_id} is outside 1..{len(self.words)}: "
                "the ids belong to another vocabulary."
            )
        return self.words[token_id - 1]

    def encode(self, text: str, max_length: int = 60) -> list[int]:
        """Ids of a raw report: ``[0] + words + [0]``, cut to ``max_length`` positions.

        As released, a report of more than ``max_length - 2`` words loses its end mark along with
        its tail, so a model is never taught to stop there.

        Raises:
            KitError: ``max_length`` is below 2.
        """
        if max_length < 2:
            raise KitError(f"max_length is {max_length}: it must leave room for two marks (>= 2).")
        words = clean_report(text, self.compat).split()
        ids = [self.bos, *(self.id(word) for word in words), self.eos]
        return ids[:max_length]

    def decode(self, ids: Iterable[int]) -> str:
        """Text up to the first 0. Callers drop a leading begin mark themselves: ``ids[1:]``."""
        words = []
        for token_id in ids:
            if int(token_id) == self.eos:
                break
            words.append(self.word(int(token_id)))
        return " ".join(words)

    def truncated(self, text: str, max_length: int = 60) -> str:
        """The report as R2Gen scores it: cleaned, cut to ``max_length - 1`` words, ``<unk>``."""
        return self.decode(self.encode(text, max_length)[1:])

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the text rule and the words in order."""
        content = "\n".join((self.compat, *self.words))
        return hashlib.sha256(content.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write as JSON; the file appears whole or not at all."""
        content = {"compat": self.compat, "min_count": self.min_count, "words": list(self.words)}
        write_json(path, content, indent=0)

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read what :meth:`save` wrote.

        Raises:
            KitError: the file is missing or is no vocabulary.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            words, compat = tuple(content["words"]), content["compat"]
            min_count = int(content.get("min_count", 3))
        except OSError as error:
            raise KitError(f"Cannot read the vocabulary {path}: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError) as error:
            raise KitError(
                f"{path} is no vocabulary file: expected JSON with the keys words and compat."
            ) from error
        return cls(words, compat, min_count)
