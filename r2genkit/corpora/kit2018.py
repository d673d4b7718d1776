"""Files of the 2018 TensorFlow kit (wangleihitcs/MedicalReportGeneration): read, write, rebuild.

====================  =============================================================================
``data_entry.json``   object, 3,631 entries: study id -> sentences, impression first, then findings;
                      lower case, letters and single spaces, no full stop
``train_split.json``  array of 2,811 study ids
``test_split.json``   array of 300 study ids, disjoint from the former; there is no validation set
``vocabulary.json``   array of 2,068 words: ``<S>``, ``</S>``, ``<EOS>``, then words in order of
                      first appearance, no threshold; index = token id
====================  =============================================================================

Images: a folder of ``CXR<n>_IM-<a>-<b>.png``; of a study's file names the smaller string counts as
the frontal view, the larger as the lateral one. That is the kit's rule, not a fact about the film.

The files are not ours to ship. ``build_kit2018`` makes equivalent ones from the Open-i reports: the
3,631 ids come out exactly, 3,576 of the texts too (the others differ by hand edits). So does the
size of the vocabulary, if it is taken from all 3,631 entries (the published split has 3,111) and
"cannot" is split into "can" and "not", as the tokenizer of that kit does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from r2genkit.corpora.files import load_json, read_id_list
from r2genkit.corpora.openi import index_images
from r2genkit.corpora.r2gen import _openi_codes
from r2genkit.corpora.splits import Split
from r2genkit.errors import KitError
from r2genkit.files import write_text
from r2genkit.study import Study, View
from r2genkit.text.sentences import in_kit2018, kit2018_sentences

MARKS: tuple[str, ...] = ("<S>", "</S>", "<EOS>")
"""First three words of the vocabulary; ``<EOS>`` is also the padding."""

ENTRIES, TRAIN, TEST, VOCABULARY = (
    "data_entry.json",
    "train_split.json",
    "test_split.json",
    "vocabulary.json",
)
_IMAGE = re.compile(r"^(CXR\d+)_(?:\d+_)?IM-")


@dataclass(frozen=True)
class Kit2018Files:
    """Content of the four files.

    Attributes:
        entries: sentences by study id.
        train, test: study ids.
        vocabulary: words; the index is the token id.
    """

    entries: dict[str, list[str]]
    train: tuple[str, ...]
    test: tuple[str, ...]
    vocabulary: tuple[str, ...]


def file_problems(files: Kit2018Files) -> Iterator[tuple[str, str, str]]:
    """(file name, study id, what is wrong) for every flaw of the four files."""
    for study, sentences in files.entries.items():
        if not isinstance(sentences, list) or not all(isinstance(one, str) for one in sentences):
            yield ENTRIES, study, f"study {study} must give a list of sentences."
        elif not any(sentence.strip() for sentence in sentences):
            yield ENTRIES, study, f"study {study} has an empty report."
    for name, ids in ((TRAIN, files.train), (TEST, files.test)):
        for study in ids:
            if study not in files.entries:
                yield name, study, f"study {study} has no entry in {ENTRIES}."
    for study in sorted(set(files.train) & set(files.test)):
        yield TEST, study, f"study {study} also stands in {TRAIN}."
    if files.vocabulary[: len(MARKS)] != MARKS:
        yield VOCABULARY, "", f"the first words must be {', '.join(MARKS)}."


def load_files(folder: Path) -> Kit2018Files:
    """The four files of a folder, unchecked beyond their JSON types.

    Raises:
        KitError: a file is missing, broken, or of the wrong JSON type.
    """
    folder = Path(folder)
    entries = load_json(folder / ENTRIES, "an object: study id -> sentences")
    if not isinstance(entries, dict):
        raise KitError(f"{folder / ENTRIES}: expected an object: study id -> list of sentences.")
    vocabulary = load_json(folder / VOCABULARY, "an array of words")
    if not isinstance(vocabulary, list) or not all(isinstance(word, str) for word in vocabulary):
        raise KitError(f"{folder / VOCABULARY}: expected an array of words.")
    return Kit2018Files(
        entries,
        tuple(read_id_list(folder / TRAIN)),
        tuple(read_id_list(folder / TEST)),
        tuple(vocabulary),
    )


def read_files(folder: Path) -> Kit2018Files:
    """The four files of a folder, checked.

    Raises:
        KitError: a file is missing or broken; an id without entry, in both lists; wrong marks.
    """
    files = load_files(folder)
    for name, _, message in file_problems(files):
        raise KitError(f"{Path(folder) / name}: {message}")
    return files


def write_files(folder: Path, files: Kit2018Files) -> None:
    """Write the four files (each appears whole or not at all)."""
    folder = Path(folder)
    for name, content in (
        (ENTRIES, files.entries),
        (TRAIN, list(files.train)),
        (TEST, list(files.test)),
        (VOCABULARY, list(files.vocabulary)),
    ):
        write_text(folder / name, json.dumps(content))


def first_appearance(texts: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """The kit's vocabulary of some studies: marks, then words in order of first appearance.

    "cannot" is two words: the kit's tokenizer (nltk's Treebank rules) splits it, and among the
    words of these reports no other.
    """
    words: dict[str, None] = {}
    for sentences in texts:
        for sentence in sentences:
            for word in sentence.split():
                words |= dict.fromkeys(("can", "not") if word == "cannot" else (word,))
    return (*MARKS, *words)


def build_kit2018(studies: Sequence[Study], split: Split | None = None) -> Kit2018Files:
    """The four files from studies with report sections.

    A study belongs to it if its impression is not empty and four sentences remain under the kit's
    rule (``r2genkit.text.sentences.kit2018_sentences``).

    Args:
        studies: e.g. ``read_openi()``.
        split: the ids; its validation part counts as training (the kit had none). Default: the
            protocol "kit2018" of ``make_split``.

    Raises:
        KitError: the split names a study that does not fulfil the rule.
    """
    from r2genkit.corpora.splits import make_split

    entries = {
        study.id: kit2018_sentences(study.impression_text, study.findings_text)
        for study in studies
        if in_kit2018(study.impression_text, study.findings_text)
    }
    split = make_split("kit2018", studies) if split is None else split
    test = split.test
    wanted = {*split.train, *split.validation}
    train = tuple(study.id for study in studies if study.id in wanted)
    outside = next((one for one in (*train, *test) if one not in entries), None)
    if outside is not None:
        raise KitError(
            f"Split {split.name!r}: study {outside} has no impression or fewer than four "
            "sentences, so it has no place in the 2018 kit's files."
        )
    return Kit2018Files(entries, train, test, first_appearance(entries.values()))


def as_text(sentences: Sequence[str]) -> str:
    """Sentences as one text with full stops, so that the kit's rule splits it as before."""
    return " ".join(f"{sentence}." for sentence in sentences)


def read_kit2018(data_dir: Path) -> list[Study]:
    """Studies of the four files, in the order of ``data_entry.json``.

    Args:
        data_dir: folder with the four files and the images (in it or in ``images/``).

    Returns:
        One study per entry. ``findings_text`` holds all its sentences (impression first: the file
        does not say where one ends), each with a full stop. Views: the two smallest file names of
        the study, "frontal" and "lateral" by the kit's rule. Without image files the image ids of
        the Open-i reports stand in, with ``image=None``. ``normal`` and ``codes`` come from there.

    Raises:
        KitError: see ``read_files``.
    """
    files = read_files(data_dir)
    by_study: dict[str, list[str]] = {}
    images = index_images(Path(data_dir))
    for name in sorted(images):
        if match := _IMAGE.match(name):
            by_study.setdefault(match.group(1), []).append(name)
    coded = _openi_codes()
    studies = []
    for study_id, sentences in files.entries.items():
        twin = coded.get(study_id)
        names = by_study.get(study_id) or sorted(v.id for v in (twin.views if twin else ()))
        projections = ("frontal", "lateral") if len(names) > 1 else ("unknown",)
        studies.append(
            Study(
                id=study_id,
                views=tuple(
                    View(name, projection, images.get(name))
                    for name, projection in zip(names, projections, strict=False)
                ),
                findings_text=as_text(sentences),
                impression_text="",
                findings=twin.findings if twin else (),
                normal=twin.normal if twin else None,
                corpus="kit2018",
                codes=twin.codes if twin else (),
                automatic_codes=twin.automatic_codes if twin else (),
            )
        )
    return studies
