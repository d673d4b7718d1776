"""Every count that papers and kits state about the IU X-Ray data, computed from the studies.

Published counts disagree because each uses another definition ("7,470", "6,091" and "5,910
images" are all right). Each function here states its definition; ``claims`` puts the published
figure beside ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from r2genkit.corpora.mesh import split_code
from r2genkit.corpora.openi import FRONTAL_TAGS, LATERAL_TAGS, metadata_id, view_positions
from r2genkit.corpora.splits import KIT2018_LEFT_OUT
from r2genkit.study import Section, Study
from r2genkit.text.cleaning import clean_report
from r2genkit.text.sentences import in_kit2018, kit2018_sentences, split_sentences

PERCENTILES: tuple[int, ...] = (5, 25, 50, 75, 90, 95, 99)
THRESHOLDS: tuple[int, ...] = (1, 2, 3, 5, 10)


def _has_either(study: Study) -> bool:
    return bool(study.findings_text or study.impression_text)


def images_per_report(studies: Sequence[Study]) -> pd.Series:
    """Reports by number of images (index "images")."""
    counts = Counter(len(study.views) for study in studies)
    return pd.Series(dict(sorted(counts.items())), name="reports").rename_axis("images")


def sections(studies: Sequence[Study]) -> pd.DataFrame:
    """Reports with non-empty sections, by least number of images.

    Returns:
        Rows "any", ">=1", ">=2", "exactly 2" (images); columns reports, findings, impression,
        both, either, neither.
    """
    groups: dict[str, Callable[[int], bool]] = {
        "any": lambda n: True,
        ">=1": lambda n: n >= 1,
        ">=2": lambda n: n >= 2,
        "exactly 2": lambda n: n == 2,
    }
    rows = {}
    for name, wanted in groups.items():
        chosen = [study for study in studies if wanted(len(study.views))]
        findings = sum(bool(study.findings_text) for study in chosen)
        impression = sum(bool(study.impression_text) for study in chosen)
        either = sum(_has_either(study) for study in chosen)
        rows[name] = {
            "reports": len(chosen),
            "findings": findings,
            "impression": impression,
            "both": findings + impression - either,
            "either": either,
            "neither": len(chosen) - either,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("images")


def in_r2gen(study: Study) -> bool:
    """Whether R2Gen's IU X-Ray set holds the study: two images or more, FINDINGS not empty."""
    return len(study.views) >= 2 and bool(study.findings_text)


def in_kit2018_published(study: Study) -> bool:
    """Whether a study is one of the 2018 kit's 3,111: its rule, two images, not left out."""
    return (
        in_kit2018(study.impression_text, study.findings_text)
        and len(study.views) >= 2
        and study.id not in KIT2018_LEFT_OUT
    )


def funnel(studies: Sequence[Study]) -> pd.DataFrame:
    """From all reports down to the sets that models are trained on.

    Returns:
        One row per set, with its definition, reports, the images these own, and the images that a
        model sees (two per study in the two-view sets).
    """
    steps: tuple[tuple[str, str, Callable[[Study], bool], bool], ...] = (
        ("collection", "all XML reports", lambda s: True, False),
        ("with image", ">= 1 image", lambda s: bool(s.views), False),
        ("with text", "FINDINGS or IMPRESSION not empty", _has_either, False),
        (
            "image and text",
            ">= 1 image, FINDINGS or IMPRESSION not empty",
            lambda s: bool(s.views) and _has_either(s),
            False,
        ),
        ("two images", ">= 2 images", lambda s: len(s.views) >= 2, False),
        (
            "two images and text",
            ">= 2 images, FINDINGS or IMPRESSION not empty",
            lambda s: len(s.views) >= 2 and _has_either(s),
            False,
        ),
        ("R2Gen", ">= 2 images, FINDINGS not empty", in_r2gen, True),
        (
            "2018 kit, texts",
            "IMPRESSION not empty, >= 4 sentences under its rule",
            lambda s: in_kit2018(s.impression_text, s.findings_text),
            False,
        ),
        (
            "2018 kit, rule",
            "the former and >= 2 images",
            lambda s: len(s.views) >= 2 and in_kit2018(s.impression_text, s.findings_text),
            True,
        ),
        ("2018 kit, ids", "the former without 11 left out by hand", in_kit2018_published, True),
    )
    rows = []
    for name, definition, wanted, paired in steps:
        chosen = [study for study in studies if wanted(study)]
        owned = sum(len(study.views) for study in chosen)
        rows.append(
            {
                "set": name,
                "definition": definition,
                "reports": len(chosen),
                "images": owned,
                "images used": 2 * len(chosen) if paired else owned,
            }
        )
    return pd.DataFrame(rows).set_index("set")


def view_tags() -> pd.Series:
    """Images by DICOM View Position, "" where blank (the table that the wheel ships)."""
    counts = Counter(view_positions().values())
    return pd.Series(dict(counts.most_common()), name="images").rename_axis("tag")


def view_tag_agreement(studies: Sequence[Study]) -> pd.Series:
    """Can the tag tell the views of a study apart? Studies of two images or more, by tags.

    Returns:
        "frontal and lateral": both kinds of tag occur; "all the same": every image carries a tag of
        one kind; "undetermined": the rest (a blank or missing tag, no second kind).
    """
    tags = view_positions()
    counts = Counter({"frontal and lateral": 0, "all the same": 0, "undetermined": 0})
    for study in studies:
        if len(study.views) < 2:
            continue
        said = [tags.get(metadata_id(view.id), "") for view in study.views]
        kinds = {"F" if t in FRONTAL_TAGS else "L" if t in LATERAL_TAGS else "" for t in said}
        if {"F", "L"} <= kinds:
            counts["frontal and lateral"] += 1
        else:
            same = len(kinds) == 1 and kinds != {""}
            counts["all the same" if same else "undetermined"] += 1
    return pd.Series(counts, name="studies")


def normal_ratio(studies: Sequence[Study]) -> pd.DataFrame:
    """Coded normal : every other study, in several sets (index "set").

    "Every other" includes studies that were never coded, as in the counts in circulation; the
    column ``uncoded`` says how many.
    """
    sets: dict[str, Callable[[Study], bool]] = {
        "all reports": lambda s: True,
        "with image": lambda s: bool(s.views),
        "R2Gen (2,955)": in_r2gen,
        "2018 kit (3,111)": in_kit2018_published,
    }
    rows = {}
    for name, wanted in sets.items():
        chosen = [study for study in studies if wanted(study)]
        normal = sum(study.normal is True for study in chosen)
        rows[name] = {
            "normal": normal,
            "other": len(chosen) - normal,
            "uncoded": sum(study.normal is None for study in chosen),
            "ratio": normal / max(1, len(chosen) - normal),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("set")


def codes_summary(studies: Sequence[Study]) -> pd.Series:
    """How the studies are coded: normal, other, "No Indexing", without automatic terms."""
    return pd.Series(
        {
            "normal": sum(study.normal is True for study in studies),
            "other": sum(study.normal is not True for study in studies),
            "no indexing": sum(
                any(split_code(code)[0] == "no indexing" for code in study.codes)
                for study in studies
            ),
            "no automatic term": sum(not study.automatic_codes for study in studies),
        },
        name="studies",
    )


def findings_table(studies: Sequence[Study]) -> pd.DataFrame:
    """Studies and codes per finding type, most frequent first (index "finding")."""
    per_study: Counter[str] = Counter()
    per_code: Counter[str] = Counter()
    for study in studies:
        per_study.update({finding.name for finding in study.findings})
        per_code.update(finding.name for finding in study.findings)
    table = pd.DataFrame({"studies": per_study, "codes": per_code}).rename_axis("finding")
    return table.sort_values(["studies", "codes"], ascending=False)


def sentence_counts(
    studies: Sequence[Study], section: Section = "impression+findings", rule: str = "kit2018"
) -> list[int]:
    """Sentences per report, for reports whose section is not empty.

    Args:
        studies: any studies with report sections.
        section: text that is split. Under "kit2018" the two sections are split separately.
        rule: "kit2018" (that kit's rule) or a ``compat`` name of ``clean_report``.
    """
    counts = []
    for study in studies:
        if not study.text(section):
            continue
        if rule == "kit2018":
            parts = section.split("+")
            impression = study.impression_text if "impression" in parts else ""
            findings = study.findings_text if "findings" in parts else ""
            counts.append(len(kit2018_sentences(impression, findings)))
        else:
            counts.append(len(split_sentences(clean_report(study.text(section), rule))))
    return counts


def sentence_histogram(
    studies: Sequence[Study], section: Section = "impression+findings", rule: str = "kit2018"
) -> pd.Series:
    """Reports by number of sentences (index "sentences"); arguments as ``sentence_counts``."""
    counts = Counter(sentence_counts(studies, section, rule))
    return pd.Series(dict(sorted(counts.items())), name="reports").rename_axis("sentences")


def words_per_sentence(texts: Iterable[str], compat: str = "r2gen") -> np.ndarray:
    """Words of every sentence of every text, full stops not counted ``[sentences]``."""
    return np.array(
        [
            len(sentence.split())
            for text in texts
            for sentence in split_sentences(clean_report(text, compat))
        ]
    )


def token_lengths(texts: Iterable[str], compat: str = "r2gen") -> np.ndarray:
    """Tokens per report, full stops included ``[reports]``."""
    return np.array([len(clean_report(text, compat).split()) for text in texts])


def length_table(
    groups: dict[str, Iterable[str]], compat: str = "r2gen", limit: int = 58
) -> pd.DataFrame:
    """Token length per group of texts: percentiles, maximum, mean, share above a limit.

    Args:
        groups: texts by name of the group.
        compat: cleaning rule.
        limit: tokens that fit a sequence of ``limit + 2`` positions with both marks (58 for 60).
    """
    rows = {}
    for name, texts in groups.items():
        lengths = token_lengths(texts, compat)
        row = {f"p{p}": v for p, v in zip(PERCENTILES, np.percentile(lengths, PERCENTILES))}
        row |= {"max": lengths.max(), "mean": lengths.mean(), "sd": lengths.std()}
        row[f"> {limit} %"] = 100 * (lengths > limit).mean()
        rows[name] = row | {"reports": len(lengths), "tokens": lengths.sum()}
    return pd.DataFrame.from_dict(rows, orient="index")


def vocabulary_sizes(
    texts: Iterable[str], compat: str = "r2gen", thresholds: Sequence[int] = THRESHOLDS
) -> pd.Series:
    """Words that occur at least so often (index "threshold"); ``<unk>`` not counted."""
    words = Counter(word for text in texts for word in clean_report(text, compat).split())
    sizes = {t: sum(count >= t for count in words.values()) for t in thresholds}
    return pd.Series(sizes, name="words").rename_axis("threshold")


def redundancy(texts: Sequence[str], train: Iterable[str] = ()) -> dict[str, float]:
    """How often texts repeat, letter for letter.

    Returns:
        ``reports``; ``unique``; ``ten commonest %`` (share of reports with one of the ten commonest
        texts); ``in train`` (reports that also stand in ``train``).
    """
    counts = Counter(texts)
    known = set(train)
    return {
        "reports": len(texts),
        "unique": len(counts),
        "ten commonest %": 100 * sum(n for _, n in counts.most_common(10)) / max(1, len(texts)),
        "in train": sum(text in known for text in texts),
    }


def claims(studies: Sequence[Study], annotation: Path | None = None) -> pd.DataFrame:
    """Published counts beside ours.

    Args:
        studies: ``read_openi()``.
        annotation: R2Gen's annotation.json; adds the rows that need it.

    Returns:
        One row per claim: ``source``, ``claimed``, ``ours``, ``verdict`` ("exact", "count only",
        "not reproduced", "arithmetic"), ``definition``.
    """
    steps = funnel(studies)["reports"]
    images = funnel(studies)["images"]
    both = sentence_counts(studies)
    kit = [n for n, s in zip(both, filter(_has_either, studies)) if _in_kit(s)]
    ratio = normal_ratio(studies)["ratio"]
    kit_texts = [
        " ".join(kit2018_sentences(s.impression_text, s.findings_text))
        for s in studies
        if _in_kit(s)
    ]
    words = {w for text in kit_texts for w in text.split()}
    if "cannot" in words:  # that kit's tokenizer makes two words of it
        words = words - {"cannot"} | {"can", "not"}
    rows: list[tuple[str, str, str, str, str, str]] = []

    def add(claim: str, source: str, claimed, ours, verdict: str, definition: str) -> None:
        if verdict in ("exact", "count only") and claimed != ours:
            verdict = "not reproduced"
        shown = (f"{v:,}" if isinstance(v, int | np.integer) else str(v) for v in (claimed, ours))
        rows.append((claim, source, *shown, verdict, definition))

    exact = "exact"
    add("reports", "collection", 3955, steps["collection"], exact, "XML files")
    add("images", "collection", 7470, images["collection"], exact, "parentImage elements")
    add("raw reports", "2018 kit", 3927, steps["with text"], exact, "a section is not empty")
    add(
        "reports of >= 4 sentences",
        "2018 kit",
        3631,
        steps["2018 kit, texts"],
        exact,
        "IMPRESSION not empty; that kit's sentence rule on both sections",
    )
    add(
        "frontal+lateral pairs",
        "2018 kit",
        3391,
        steps["two images and text"],
        "count only",
        ">= 2 images and a section not empty; nothing says that one is lateral",
    )
    add(
        "reports used",
        "2018 kit",
        3111,
        steps["2018 kit, ids"],
        exact,
        f"the rule gives {steps['2018 kit, rule']:,}; 11 were left out by hand",
    )
    add(
        "4 to 8 sentences",
        "2018 kit",
        "90 %",
        f"{_share(kit, 4, 8):.1f} % of 3,631; {_share(both, 4, 8):.1f} % of 3,927",
        "only among the 3,631",
        "share of reports",
    )
    add(
        "vocabulary",
        "2018 kit",
        2068,
        len(words) + 3,
        exact,
        "no threshold, all 3,631 texts, 'cannot' as two words, 3 marks",
    )
    add(
        "normal : abnormal",
        "2018 kit",
        "2.5 : 1",
        f"{ratio['all reports']:.2f} : 1 (all), {ratio['2018 kit (3,111)']:.2f} : 1 (its own)",
        "not reproduced",
        "MeSH 'normal' against the rest; its rule is not stated",
    )
    add(
        "training / test images",
        "2025 course",
        "5,229 / 1,494",
        f"{round(0.7 * images['collection']):,} / {round(0.2 * images['collection']):,}",
        "arithmetic",
        "70 % and 20 % of 7,470; no list of ids",
    )
    add(
        "training / test reports",
        "2025 course",
        "2,768 / 791",
        f"{int(0.7 * steps['collection']):,} / {int(0.2 * steps['collection']):,}",
        "arithmetic",
        "70 % and 20 % of 3,955; no list of ids",
    )
    add(
        "studies",
        "R2Gen",
        2955,
        steps["R2Gen"],
        exact,
        ">= 2 images and FINDINGS not empty",
    )
    add("images in issue threads", "R2Gen", 6091, images["R2Gen"], exact, "owned by the 2,955")
    add("images used", "R2Gen", 5910, 2 * steps["R2Gen"], exact, "two of each study")
    if annotation is not None:
        _add_r2gen(add, annotation)
    columns = ["claim", "source", "claimed", "ours", "verdict", "definition"]
    return pd.DataFrame(rows, columns=columns).set_index("claim")


def _in_kit(study: Study) -> bool:
    return in_kit2018(study.impression_text, study.findings_text)


def _share(counts: Sequence[int], low: int, high: int) -> float:
    return 100 * sum(low <= n <= high for n in counts) / max(1, len(counts))


def _add_r2gen(add: Callable[..., None], annotation: Path) -> None:
    from r2genkit.corpora.r2gen import read_annotation

    parts = {
        key: [entry["report"] for entry in entries]
        for key, entries in read_annotation(annotation).items()
    }
    sizes = " / ".join(f"{len(texts):,}" for texts in parts.values())
    add("train / val / test", "R2Gen", "2,069 / 296 / 590", sizes, "exact", "entries of the file")
    words = vocabulary_sizes(parts["train"])
    add("vocabulary", "R2Gen", 760, words[3] + 1, "exact", "train, >= 3 times, with <unk>")
    repeats = redundancy(parts["test"], parts["train"])
    share = 100 * repeats["in train"] / repeats["reports"]
    add(
        "test reports seen in training",
        "R2Gen",
        "not stated",
        f"{repeats['in train']} of {repeats['reports']} ({share:.1f} %)",
        "not stated",
        "the same text, letter for letter",
    )
