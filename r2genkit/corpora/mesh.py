"""MeSH codes of the Open-i reports: one string in, findings of the kit out.

A code is ``head/qualifier/qualifier/...``. The head names what was seen; the qualifiers are an
unordered set that says where, on which side, how much and how it looks, e.g.
``Pulmonary Atelectasis/base/left/mild``. The mapping from heads to finding types is data:
``mesh_terms.tsv`` beside this module, one row per head and condition, first matching row wins.

Source of the codes: Demner-Fushman et al., "Preparing a collection of radiology examinations for
distribution and retrieval", JAMIA 2016, section "Manual coding". The grouping into finding types
is the kit's own.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path

from r2genkit.errors import KitError
from r2genkit.study import Finding

TERMS_FILE = Path(__file__).with_name("mesh_terms.tsv")

FINDING_TYPES: tuple[str, ...] = (
    "degen_spine",
    "cardiomegaly",
    "calc_granuloma",
    "opacity",
    "atelectasis",
    "hypoinflation",
    "hyperinflation",
    "interstitial",
    "tortuous_aorta",
    "aortic_calc",
    "nodule",
    "effusion",
    "consolidation",
    "scar",
    "calc_node",
    "catheter",
    "elev_diaphragm",
    "clips",
    "congestion",
    "scoliosis",
    "pacemaker",
    "rib_fracture",
    "wedge_fracture",
    "pleural_thick",
    "hiatal_hernia",
    "hilar_prominence",
    "osteopenia",
    "kyphosis",
    "tube",
    "wide_mediastinum",
    "pneumothorax",
    "sternotomy",
    "spinal_fusion",
    "leads",
    "bulla",
)
"""Finding types of the kit, most frequent first (studies of Open-i that carry them)."""

OTHER = "other"
"""Name of a coded abnormality that has no finding type of its own."""

SEVERITIES: tuple[str, ...] = ("borderline", "mild", "small", "moderate", "large", "severe")
"""Degrees that occur as qualifiers, from least to most ("small" ranks with "mild")."""

PLACES: frozenset[str] = frozenset(
    {
        # in and around the lung
        "apex",
        "upper lobe",
        "middle lobe",
        "lingula",
        "lower lobe",
        "base",
        "hilum",
        "retrocardiac",
        "costophrenic angle",
        "cardiophrenic angle",
        "azygos lobe",
        "pulmonary alveoli",
        "bronchi",
        "sulcus",
        "pleural sinus",
        "pleura",
        "diaphragm",
        "paratracheal",
        "lung",
        "thorax",
        # elsewhere
        "mediastinum",
        "lymph nodes",
        "aorta",
        "aorta, thoracic",
        "aortic valve",
        "mitral valve",
        "coronary vessels",
        "blood vessels",
        "pulmonary artery",
        "heart",
        "heart atria",
        "heart ventricles",
        "supracardiac",
        "trachea",
        "trachea, carina",
        "esophagus",
        "ribs",
        "clavicle",
        "sternum",
        "humerus",
        "shoulder",
        "spine",
        "cervical vertebrae",
        "neck",
        "thoracic vertebrae",
        "lumbar vertebrae",
        "abdomen",
        "breast",
        "breast implants",
        "adipose tissue",
        "anterior",
        "posterior",
    }
)
"""Qualifiers that name an anatomical place."""

NOT_CODED: frozenset[str] = frozenset({"no indexing", "technical quality of image unsatisfactory"})
"""Heads that say nothing about the chest itself."""


@lru_cache(maxsize=8192)
def split_code(raw: str) -> tuple[str, tuple[str, ...]]:
    """Head and qualifiers of a code, lower case, single spaces.

    The corpus spells a few heads with capitals or double spaces in one report only
    ("Thoracic vertebrae", "Subcutaneous  Emphysema"); both spellings are one head here.
    """
    head, *qualifiers = (" ".join(part.lower().split()) for part in raw.split("/"))
    return head, tuple(qualifier for qualifier in qualifiers if qualifier)


@cache
def _terms() -> dict[str, list[tuple[list[frozenset[str]], tuple[str, ...]]]]:
    """Per head: (alternatives, each a set of qualifiers that must all be there; finding types)."""
    terms: dict[str, list[tuple[list[frozenset[str]], tuple[str, ...]]]] = {}
    with TERMS_FILE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            alternatives = [
                frozenset(part.strip() for part in alternative.split("+"))
                for alternative in row["qualifiers"].split("|")
                if alternative.strip()
            ] or [frozenset()]
            names = row["findings"].strip()
            types = () if names == "-" else tuple(name.strip() for name in names.split(","))
            unknown = set(types) - set(FINDING_TYPES) - {OTHER}
            if unknown:
                raise KitError(
                    f"{TERMS_FILE.name}: row {row['head']!r} names the unknown finding type "
                    f"{sorted(unknown)[0]!r}; use one of FINDING_TYPES, 'other' or '-'."
                )
            terms.setdefault(row["head"], []).append((alternatives, types))
    return terms


@lru_cache(maxsize=8192)
def parse_code(raw: str) -> tuple[Finding, ...]:
    """Findings that one MeSH string stands for.

    Args:
        raw: a code as shipped, e.g. ``"Opacity/lung/base/bilateral/streaky/mild"``.

    Returns:
        One ``Finding`` per finding type (two for e.g. "Heart Failure"), with ``name="other"``
        where the kit has no type for it or does not know the head; an empty tuple for "normal",
        "No Indexing" and the code for unsatisfactory image quality.
    """
    head, qualifiers = split_code(raw)
    if not head:
        return ()
    present = frozenset(qualifiers)
    types: tuple[str, ...] = (OTHER,)
    for alternatives, names in _terms().get(head, ()):
        if any(needed <= present for needed in alternatives):
            types = names
            break
    sides = tuple(side for side in ("left", "right") if {side, "bilateral"} & present)
    severity = next((word for word in reversed(SEVERITIES) if word in present), None)
    locations = tuple(qualifier for qualifier in qualifiers if qualifier in PLACES)
    return tuple(Finding(name, locations, sides, severity, raw) for name in types)


def parse_codes(codes: Iterable[str]) -> tuple[Finding, ...]:
    """Findings of all codes of a study, in order."""
    return tuple(finding for raw in codes for finding in parse_code(raw))


def normal_from_codes(codes: Iterable[str]) -> bool | None:
    """Whether a study is coded normal.

    Returns:
        True where "normal" is among the codes, False where an abnormality is, None where the
        codes say nothing about the chest (no codes, "No Indexing", image quality only).
    """
    heads = {split_code(raw)[0] for raw in codes} - {""}
    if "normal" in heads:
        return True
    return False if heads - NOT_CODED else None
