"""Text: cleaning, vocabulary, sentences."""

from r2genkit.text.cleaning import COMPAT_NAMES, clean_report
from r2genkit.text.sentences import in_kit2018, kit2018_sentences, normalise, split_sentences
from r2genkit.text.vocabulary import UNKNOWN, Vocabulary

__all__ = [
    "COMPAT_NAMES",
    "UNKNOWN",
    "Vocabulary",
    "clean_report",
    "in_kit2018",
    "kit2018_sentences",
    "normalise",
    "split_sentences",
]
