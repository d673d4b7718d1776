"""Named split protocols: which studies train, select, and test.

A number means nothing without its split. Each protocol has one name, is deterministic, and has a
fingerprint; results of two protocols never share a column.

=============  =================================================================================
``grouped``    The kit's own and the default: studies with the same normalised text stay
               together, so no test report occurs verbatim in the training set; stratified on the
               code "normal"; 80/8/12 %.
``r2gen``      R2Gen's public IU X-Ray split (2,069/296/590) or any other annotation.json. Not a
               random split: 33 % of the training and 52 % of the test studies are coded normal, and
               46 % of the test reports occur verbatim in the training set.
``kit2018``    The 2018 TensorFlow kit: 2,811/300 studies, no validation set; one is cut from the
               training set here. The ids come with that kit's train_split.json and
               test_split.json; without them the 3,111 studies are rebuilt by rule and the 300 are
               drawn, which the split's note says.
``course2025`` A course report's 70/10/20 % of all 3,955 reports. It published the arithmetic
               (2,768 training and 791 test reports), no ids; so they are drawn with a seed.
=============  =================================================================================
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from r2genkit import paths
from r2genkit.errors import KitError
from r2genkit.seeds import numpy_rng
from r2genkit.study import Section, Study, by_id
from r2genkit.text.cleaning import clean_report
from r2genkit.text.sentences import in_kit2018, normalise

PARTS: tuple[str, ...] = ("train", "validation", "test")
GROUPED_FRACTIONS: tuple[float, float, float] = (0.80, 0.08, 0.12)
LARGEST_GROUP = 0.02
"""A text that alone would fill more of a part than this share belongs to the training set."""
SMALL_GROUP = 5
"""Texts of so many studies may go to any part, however small that is."""

KIT2018_VALIDATION = 0.10
"""Share of the 2018 kit's training ids that become the validation set it lacks."""

KIT2018_LEFT_OUT: frozenset[str] = frozenset(
    f"CXR{number}" for number in (767, 1232, 1268, 1339, 1348, 1699, 2118, 2499, 3036, 3245, 3929)
)
"""Studies that fulfil the 2018 kit's rule but are not among its published ids (apparently pairs
of two frontal or two lateral views, taken out by hand)."""


@dataclass(frozen=True)
class Split:
    """Ids of the three parts of a protocol.

    Attributes:
        name: protocol.
        train, validation, test: study ids, in the order of the studies given.
        fingerprint: sha256 (hex) of the sorted id lists; equal ids, equal fingerprint.
        note: what a reader of the results must know about how the ids came about, or "".
    """

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    fingerprint: str
    note: str = ""

    def parts(self) -> dict[str, tuple[str, ...]]:
        """Ids by part, in the order train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def fingerprint(parts: Mapping[str, Sequence[str]]) -> str:
    """sha256 (hex) of the sorted id lists of train, validation and test."""
    lines = [f"{part}:{','.join(sorted(parts[part]))}" for part in PARTS]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _build(
    name: str, studies: Sequence[Study], part_of: Mapping[str, str], note: str = ""
) -> Split:
    parts = {part: [] for part in PARTS}
    for study in studies:
        if study.id in part_of:
            parts[part_of[study.id]].append(study.id)
    for part, ids in parts.items():
        if not ids:
            raise KitError(
                f"Split {name!r}: the {part} part is empty ({len(studies)} studies given, "
                f"{len(part_of)} eligible); give more studies or other fractions."
            )
    return Split(name, *(tuple(parts[part]) for part in PARTS), fingerprint(parts), note)


def eligible(studies: Sequence[Study], section: Section) -> list[Study]:
    """Studies that a model can be trained on: at least one view and a non-empty text."""
    return [study for study in studies if study.views and normalise(study.text(section))]


def _check_fractions(fractions: Sequence[float]) -> None:
    if len(fractions) != 3 or any(f <= 0 for f in fractions) or abs(sum(fractions) - 1) > 1e-9:
        raise KitError(
            f"Split fractions {tuple(fractions)}: give three positive numbers that sum to 1."
        )


def _grouped(
    studies: Sequence[Study],
    seed: int,
    section: Section,
    fractions: Sequence[float] = GROUPED_FRACTIONS,
) -> tuple[dict[str, str], str]:
    """Random assignment of whole text groups, part chosen in proportion to its free capacity."""
    _check_fractions(fractions)
    usable = eligible(studies, section)
    groups: dict[str, list[Study]] = {}
    for study in usable:
        groups.setdefault(normalise(study.text(section)), []).append(study)
    # A group's stratum is what most of its studies are coded as (ties: abnormal).
    strata: dict[str, list[list[Study]]] = {}
    for _, members in sorted(groups.items()):
        codes = Counter(str(study.normal) for study in members)
        strata.setdefault(max(sorted(codes), key=codes.__getitem__), []).append(members)
    largest = [LARGEST_GROUP * fraction * len(usable) for fraction in fractions]
    part_of: dict[str, str] = {}
    for stratum, members_list in sorted(strata.items()):
        rng = numpy_rng(seed, f"split/grouped/{section}/{stratum}")
        size = sum(len(members) for members in members_list)
        free = np.array([fraction * size for fraction in fractions])
        order = sorted(rng.permutation(len(members_list)), key=lambda i: -len(members_list[i]))
        for index in order:
            members = members_list[index]
            fits = np.array(
                [
                    part == 0 or (len(members) <= max(SMALL_GROUP, largest[part]))
                    for part in range(len(PARTS))
                ]
            )
            weights = np.where(fits, np.maximum(free, 0), 0)
            if weights.sum() == 0:
                weights = np.array([1.0, 0.0, 0.0])
            part = int(rng.choice(len(PARTS), p=weights / weights.sum()))
            free[part] -= len(members)
            part_of |= {study.id: PARTS[part] for study in members}
    return part_of, ""


def _draw(ids: Sequence[str], sizes: Sequence[int], seed: int, stream: str) -> dict[str, str]:
    """``sizes[k]`` ids for part k, drawn without replacement; the first part takes what is left."""
    order = [ids[i] for i in numpy_rng(seed, stream).permutation(len(ids))]
    part_of = dict.fromkeys(order, "train")
    validation, test = sizes
    part_of |= dict.fromkeys(order[:test], "test")
    part_of |= dict.fromkeys(order[test : test + validation], "validation")
    return part_of


def _course2025(
    studies: Sequence[Study], seed: int, section: Section
) -> tuple[dict[str, str], str]:
    ids = sorted(study.id for study in studies)
    train, test = floor(0.7 * len(ids)), floor(0.2 * len(ids))
    part_of = _draw(ids, (len(ids) - train - test, test), seed, "split/course2025")
    return part_of, f"70/10/20 % drawn with seed {seed}; the course published no id list."


def _match_ids(wanted: Mapping[str, str], studies: Sequence[Study], source: str) -> dict[str, str]:
    """Annotation ids -> ids of the studies at hand ("CXR384_IM-0942" is study "CXR384")."""
    known = by_id(studies)
    part_of, missing = {}, []
    for annotated, part in wanted.items():
        own = annotated if annotated in known else annotated.split("_", 1)[0]
        if own in known:
            if part_of.setdefault(own, part) != part:
                raise KitError(f"{source}: study {own} stands in {part_of[own]} and in {part}.")
        else:
            missing.append(annotated)
    if missing:
        raise KitError(
            f"{source}: {len(missing)} of its {len(wanted)} ids (first: {missing[0]}) are not "
            f"among the {len(studies)} studies given; load the corpus that the file belongs to."
        )
    return part_of


def _r2gen(studies: Sequence[Study], annotation: Path | None) -> tuple[dict[str, str], str]:
    from r2genkit.corpora.r2gen import read_annotation

    if annotation is None:
        folder = paths.data_dir()
        if folder is None:
            raise KitError(
                "Split 'r2gen' needs R2Gen's annotation.json: give annotation=PATH or set "
                "R2GENKIT_DATA to the folder that holds it (the file is not ours to ship)."
            )
        annotation = folder / "annotation.json"
    annotation = Path(annotation)
    if annotation.is_dir():
        annotation /= "annotation.json"
    names = {"train": "train", "val": "validation", "test": "test"}
    entries = read_annotation(annotation)
    wanted = {e["id"]: part for key, part in names.items() for e in entries[key]}
    return _match_ids(wanted, studies, annotation.name), ""


def _kit2018(
    studies: Sequence[Study], seed: int, annotation: Path | None
) -> tuple[dict[str, str], str]:
    from r2genkit.corpora.files import read_id_list

    folder = Path(annotation) if annotation is not None else paths.data_dir()
    if folder is not None and folder.suffix == ".json":  # the file of another protocol
        folder = folder.parent
    train_file = None if folder is None else folder / "train_split.json"
    if train_file is not None and train_file.is_file():
        test_file = train_file.with_name("test_split.json")
        wanted = dict.fromkeys(read_id_list(train_file), "train")
        test = read_id_list(test_file)
        both = sorted(wanted.keys() & set(test))
        if both:
            raise KitError(f"{test_file}: study {both[0]} also stands in {train_file.name}.")
        part_of = _match_ids(wanted | dict.fromkeys(test, "test"), studies, train_file.name)
        note = "ids of the published files; "
    else:
        ids = sorted(
            study.id
            for study in studies
            if in_kit2018(study.impression_text, study.findings_text)
            and len(study.views) >= 2
            and study.id not in KIT2018_LEFT_OUT
        )
        test_size = round(len(ids) * 300 / 3111)
        part_of = _draw(ids, (0, test_size), seed, "split/kit2018/test")
        note = (
            f"rebuilt by rule ({len(ids)} studies), the test ids drawn with seed {seed}: not the "
            "300 published ones (give the folder of train_split.json and test_split.json for "
            "those); "
        )
    train = sorted(study for study, part in part_of.items() if part == "train")
    size = round(KIT2018_VALIDATION * len(train))
    cut = _draw(train, (size, 0), seed, "split/kit2018/validation")
    note += f"{size} validation ids cut from the training ids with seed {seed}."
    return part_of | cut, note


SPLITS: tuple[str, ...] = ("grouped", "r2gen", "kit2018", "course2025")
"""Names of the protocols."""


def make_split(
    name: str,
    studies: Sequence[Study],
    *,
    seed: int = 0,
    section: Section = "findings",
    annotation: Path | None = None,
    fractions: Sequence[float] = GROUPED_FRACTIONS,
) -> Split:
    """Split studies by a named protocol.

    Args:
        name: "grouped", "r2gen", "kit2018" or "course2025".
        studies: the corpus (any order; the result does not depend on it).
        seed: seed of what the protocol draws; "r2gen" draws nothing.
        section: text that "grouped" groups by.
        annotation: "r2gen": annotation.json or its folder; "kit2018": the folder of
            train_split.json and test_split.json. Default: ``R2GENKIT_DATA``.
        fractions: "grouped": shares of train, validation, test.

    Returns:
        The split; studies that the protocol does not use are in no part.

    Raises:
        KitError: unknown name, missing or wrong files, ids that are not among the studies,
            repeated study ids, an empty part.
    """
    repeated = [one for one, count in Counter(study.id for study in studies).items() if count > 1]
    if repeated:
        raise KitError(f"Split {name!r}: study id {repeated[0]} occurs twice; ids must be unique.")
    protocols: dict[str, Callable[[], tuple[dict[str, str], str]]] = {
        "grouped": lambda: _grouped(studies, seed, section, fractions),
        "r2gen": lambda: _r2gen(studies, annotation),
        "kit2018": lambda: _kit2018(studies, seed, annotation),
        "course2025": lambda: _course2025(studies, seed, section),
    }
    if name not in protocols:
        raise KitError(f"Unknown split {name!r}: choose one of {', '.join(SPLITS)}.")
    part_of, note = protocols[name]()
    return _build(name, studies, part_of, note)


def audit_split(
    split: Split,
    studies: Sequence[Study],
    *,
    section: Section = "findings",
    same: Callable[[str], str] = normalise,
) -> pd.DataFrame:
    """What a split hides: normal share, verbatim repeats, duplicates, lengths.

    Args:
        split: the split.
        studies: the corpus it was made from.
        section: text that is audited.
        same: two reports are the same when ``same(text)`` is; default: letters and digits agree.

    Returns:
        One row per part (index "part") with the columns ``studies``; ``normal %`` (coded normal,
        of all); ``verbatim-in-train %`` (text also in the training set; by definition 100 for
        train); ``duplicate %`` (text shared with another study of the same part);
        ``unique texts``; ``ten commonest %`` (studies with one of the part's ten commonest texts);
        ``median length`` (tokens under R2Gen's cleaning). Studies without text count in
        ``studies`` and ``normal %`` only.

    Raises:
        KitError: the split names a study that is not given.
    """
    known = by_id(studies)
    rows = []
    in_train: set[str] = set()
    for part, ids in split.parts().items():
        unknown = next((one for one in ids if one not in known), None)
        if unknown is not None:
            raise KitError(f"Split {split.name!r}: study {unknown} is not among those given.")
        members = [known[one] for one in ids]
        texts = [same(study.text(section)) for study in members]
        texts = [text for text in texts if text]
        if part == "train":
            in_train = set(texts)
        counts = Counter(texts)
        lengths = [
            len(clean_report(study.text(section), "r2gen").split())
            for study in members
            if normalise(study.text(section))
        ]
        share = 100 / max(1, len(texts))
        rows.append(
            {
                "part": part,
                "studies": len(members),
                "normal %": 100 * sum(study.normal is True for study in members) / len(members),
                "verbatim-in-train %": share * sum(text in in_train for text in texts),
                "duplicate %": share * sum(counts[text] > 1 for text in texts),
                "unique texts": len(counts),
                "ten commonest %": share * sum(n for _, n in counts.most_common(10)),
                "median length": median(lengths) if lengths else 0,
            }
        )
    return pd.DataFrame(rows).set_index("part")
