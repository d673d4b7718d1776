"""Where in the chest a coded finding sits: from the code, the report's sentence, or the dice.

MeSH codes often leave out the side or the place ("Pulmonary Atelectasis", "Nodule/lung"). A
renderer must put the object somewhere, and the report may say where, so the order is: the code,
else the sentence of the same report that mentions the finding, else a draw. Every placed finding
records which of the three decided, because a drawn side must never count for or against a model
that writes "left".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from r2genkit.corpora.mesh import OTHER, SEVERITIES, split_code
from r2genkit.seeds import numpy_rng
from r2genkit.study import Finding, Study


@dataclass(frozen=True, slots=True)
class PlacedFinding:
    """One finding, ready to be drawn.

    Attributes:
        name: finding type, one of ``r2genkit.corpora.mesh.FINDING_TYPES``.
        side: "left", "right" (the patient's), "bilateral" or "midline".
        place: "apex", "upper lobe", "middle lobe", "lingula", "lower lobe", "base", "hilum",
            "retrocardiac", "costophrenic angle", or "" where the type needs no place.
        severity: "borderline", "mild", "moderate", "large", "severe", or None.
        multiple: several objects instead of one.
        raw: the code(s) it came from, joined by "; ".
        side_from: what decided the side: "code", "sentence", "random", or "none" where the type
            leaves nothing to choose.
        place_from: what decided the place, same values.
    """

    name: str
    side: str
    place: str
    severity: str | None
    multiple: bool
    raw: str
    side_from: str
    place_from: str


@dataclass(frozen=True, slots=True)
class Rule:
    """How findings of one type are placed.

    Attributes:
        sides: weights of the draw; a single entry leaves nothing to choose.
        places: weights of the draw; ``{"": 1}`` for types that need no place.
        accepts: further places that a code or a sentence may name.
        fixed_side: ignore a side given by code or sentence (the heart has none).
        reads_text: look into the sentences; off for diffuse findings, whose sentences name sides
            and places of their neighbours more often than their own.
        phrases: regular expression of the words that mention the finding in a report.
    """

    sides: Mapping[str, float]
    phrases: str
    places: Mapping[str, float] = field(default_factory=lambda: {"": 1.0})
    accepts: tuple[str, ...] = ()
    fixed_side: bool = False
    reads_text: bool = True


PLACE_ORDER: tuple[str, ...] = (
    "apex",
    "upper lobe",
    "middle lobe",
    "lingula",
    "lower lobe",
    "base",
    "hilum",
    "retrocardiac",
    "costophrenic angle",
)
"""Places in order of precedence where a code names two."""

MULTIPLE_WORDS = frozenset({"multiple", "diffuse", "multilobar", "scattered"})
EVERYWHERE_WORDS = frozenset({"scattered", "diffuse"})
ANGLE_HEADS = frozenset({"costophrenic angle", "sulcus", "pleura"})

MEDIASTINAL = frozenset({"mediastinum", "paratracheal", "trachea, carina"})

_MIDLINE = {"midline": 1.0}
_BOTH = {"bilateral": 1.0}
_FOCAL = {"right": 0.57, "left": 0.43}

# Weights: relative frequencies among the Open-i codes that do give side or place, rounded.
RULES: Mapping[str, Rule] = {
    "degen_spine": Rule(_MIDLINE, r"degenerat|osteophyt|spondyl|arthrit", fixed_side=True),
    "cardiomegaly": Rule(_MIDLINE, r"cardiomegaly|heart|cardiac", fixed_side=True),
    "calc_granuloma": Rule(
        {"right": 0.52, "left": 0.36, "bilateral": 0.12},
        r"granuloma|calcified (?:\w+ )?nodul|calcifi",
        {"upper lobe": 0.24, "lower lobe": 0.25, "base": 0.2, "middle lobe": 0.11, "lingula": 0.11}
        | {"apex": 0.04, "hilum": 0.05},
        ("retrocardiac", "costophrenic angle"),
    ),
    "opacity": Rule(
        {"right": 0.42, "left": 0.38, "bilateral": 0.2},
        r"opaci|densit|shadow|infiltrat|airspace|air space",
        {"base": 0.45, "lower lobe": 0.15, "middle lobe": 0.1, "upper lobe": 0.09}
        | {"lingula": 0.07, "apex": 0.06, "hilum": 0.05, "retrocardiac": 0.03},
        ("costophrenic angle",),
    ),
    "atelectasis": Rule(
        {"left": 0.38, "right": 0.31, "bilateral": 0.31},
        r"atelecta|volume loss|collaps|streak|linear|bandlike|band-like",
        {"base": 0.72, "lower lobe": 0.1, "lingula": 0.06, "middle lobe": 0.06, "upper lobe": 0.06},
        ("apex", "hilum", "retrocardiac", "costophrenic angle"),
    ),
    "hypoinflation": Rule(_BOTH, r"volume|hypoinflat|inspirat|hypoventilat", fixed_side=True),
    "hyperinflation": Rule(
        _BOTH, r"hyperinflat|hyperexpan|emphysem|copd|flatten|hyperlucen", fixed_side=True
    ),
    "interstitial": Rule(
        _BOTH,
        r"interstiti|marking|fibro|bronchovascular|reticul|bronchiect",
        accepts=("apex", "upper lobe", "middle lobe", "lower lobe", "base", "hilum"),
        reads_text=False,
    ),
    "tortuous_aorta": Rule(_MIDLINE, r"aort", fixed_side=True),
    "aortic_calc": Rule(_MIDLINE, r"aort|atheroscl|calcif", fixed_side=True),
    "nodule": Rule(
        {"right": 0.52, "left": 0.31, "bilateral": 0.17},
        r"nodul|mass|granuloma(?!t)|round|cavit|nipple",
        {"upper lobe": 0.32, "lower lobe": 0.23, "base": 0.11, "middle lobe": 0.11}
        | {"lingula": 0.11, "apex": 0.06, "hilum": 0.06},
        ("retrocardiac", "costophrenic angle"),
    ),
    "effusion": Rule(
        {"bilateral": 0.4, "right": 0.32, "left": 0.28},
        r"effusion|blunt|pleural fluid|costophrenic|hydropneumo|hemothorax",
    ),
    "consolidation": Rule(
        {"right": 0.46, "left": 0.33, "bilateral": 0.21},
        r"consolidat|infiltrat|airspace|air space|pneumonia|opaci",
        {"base": 0.43, "lower lobe": 0.3, "upper lobe": 0.13, "middle lobe": 0.1, "lingula": 0.04},
        ("apex", "hilum", "retrocardiac", "costophrenic angle"),
    ),
    "scar": Rule(
        {"left": 0.44, "bilateral": 0.28, "right": 0.28},
        r"scar|fibro|cicatri",
        {"base": 0.38, "apex": 0.25, "lingula": 0.11, "upper lobe": 0.11, "middle lobe": 0.07}
        | {"lower lobe": 0.08},
        ("hilum", "costophrenic angle"),
    ),
    "calc_node": Rule(
        {"right": 0.52, "left": 0.35, "bilateral": 0.13},
        r"node|hilar|hilum|mediastin|calcif|granulomat",
        {"hilum": 1.0},
    ),
    "catheter": Rule(
        {"right": 0.6, "left": 0.4},
        r"catheter|picc|port\b|port-|mediport|central (?:venous )?line|subclavian|jugular|\bline\b",
    ),
    "elev_diaphragm": Rule({"right": 0.68, "left": 0.32}, r"diaphragm|eventrat"),
    "clips": Rule({"right": 0.58, "left": 0.42}, r"clip|staple|suture|surg|metal|foreign"),
    "congestion": Rule(_BOTH, r"congest|edema|vascular", fixed_side=True),
    "scoliosis": Rule({"right": 0.7, "left": 0.3}, r"scolio|curvature|convex"),
    "pacemaker": Rule({"left": 0.88, "right": 0.12}, r"pacemaker|pacer|aicd|icd\b|lead|generator"),
    "rib_fracture": Rule({"right": 0.53, "left": 0.47}, r"\brib|fractur|deform"),
    "wedge_fracture": Rule(_MIDLINE, r"vertebra|compress|wedg", fixed_side=True),
    "pleural_thick": Rule(
        {"bilateral": 0.4, "right": 0.34, "left": 0.26},
        r"thicken|pleura|plaque|cap\b|capping",
        {"apex": 0.85, "base": 0.15},
        ("upper lobe", "middle lobe"),
    ),
    "hiatal_hernia": Rule(_MIDLINE, r"hiatal|hernia", fixed_side=True),
    "hilar_prominence": Rule(
        {"bilateral": 0.56, "left": 0.3, "right": 0.14},
        r"hilar|hilum|hila\b|pulmonary arter|node|adenopathy",
        {"hilum": 1.0},
    ),
    "osteopenia": Rule(_MIDLINE, r"osteop|demineral", fixed_side=True),
    "kyphosis": Rule(_MIDLINE, r"kypho", fixed_side=True),
    "tube": Rule(_MIDLINE, r"\btube"),
    "wide_mediastinum": Rule(_MIDLINE, r"mediastin|paratracheal", reads_text=False),
    "pneumothorax": Rule(_FOCAL, r"pneumothora", {"apex": 1.0}),
    "sternotomy": Rule(_MIDLINE, r"sternotomy|sternal", fixed_side=True),
    "spinal_fusion": Rule(_MIDLINE, r"fusion|hardware", fixed_side=True),
    "leads": Rule(_MIDLINE, r"lead|electrode|monitor", reads_text=False),
    "bulla": Rule(
        {"bilateral": 0.5, "right": 0.3, "left": 0.2},
        r"bulla|bleb|cyst|lucen|emphysem",
        {"upper lobe": 0.6, "apex": 0.4},
        ("middle lobe", "base"),
    ),
}
"""One rule per finding type."""

_SIDE_WORDS = re.compile(
    r"\b(?:(?P<bilateral>bilateral(?:ly)?|both|biapical|bibasilar|bibasal|(?:lung )?bases|apices)"
    r"|(?P<left>left|levo\w*|lingula\w*)|(?P<right>right|dextro\w*|(?:right )?middle lobe))"
)
_PLACE_WORDS = re.compile(
    r"\b(?:(?P<apex>ap(?:ex|ical|ices)|biapical)|(?P<upper_lobe>upper (?:lobe|lung|zone)\w*)"
    r"|(?P<middle_lobe>(?:mid|middle) (?:lobe|lung|zone)\w*)|(?P<lingula>lingula\w*)"
    r"|(?P<lower_lobe>lower (?:lobe|lung|zone)\w*)"
    r"|(?P<base>bas(?:e|es|al|ilar)\b|bibasilar|bibasal)"
    r"|(?P<hilum>(?:peri|supra|infra)?-?hil(?:um|ar|a)\b)"
    r"|(?P<retrocardiac>retrocardiac|behind the heart)"
    r"|(?P<costophrenic_angle>costophrenic))"
)
_NEGATION = re.compile(
    r"\b(?:no|not|without|negative for|free of|absence of|ruled out|resolved)\b"
    r"(?:(?!\b(?:but|however|although|except|aside from)\b).)*$"
)
_CONJUNCTION = re.compile(r"\b(?:and|or|with)\b|[,;]")
BREAK = 60
_SENTENCE_END = re.compile(r"(?<=[.;!?])\s+|\n+")


@cache
def _phrases(name: str) -> re.Pattern[str]:
    return re.compile(RULES[name].phrases)


def mentions(text: str, name: str) -> list[tuple[str, int]]:
    """Sentences (lower case) that mention a finding without negating it, with the position."""
    found = []
    for sentence in _SENTENCE_END.split(text.lower()):
        for match in _phrases(name).finditer(sentence):
            if not _NEGATION.search(sentence[: match.start()]):
                found.append((sentence, match.start()))
    return found


def _nearest(pattern: re.Pattern[str], sentence: str, position: int) -> str | None:
    """Name of the group whose match lies closest to ``position``; None without a match.

    A conjunction or comma in between counts as ``BREAK`` letters: in "left opacity and right
    nodule" the opacity is on the left, although "right" is nearer.
    """

    def distance(match: re.Match[str]) -> int:
        between = sentence[match.end() : position] or sentence[position : match.start()]
        return len(between) + BREAK * len(_CONJUNCTION.findall(between))

    matches = list(pattern.finditer(sentence))
    if not matches:
        return None
    return min(matches, key=distance).lastgroup.replace("_", " ")


def from_sentences(
    text: str, name: str, side: str | None, place: str | None
) -> tuple[str | None, str | None]:
    """Side and place that the report's own sentences give for a finding.

    Only sentences that do not contradict what is already known are read: with ``side="left"``
    a sentence about the right lung says nothing about this finding's place.

    Args:
        text: the report.
        name: finding type.
        side, place: what the code gave, or None.

    Returns:
        (side, place), each the given value, or what the first fitting sentence says, or None.
    """
    rule = RULES[name]
    allowed = {*rule.places, *rule.accepts} - {""}
    for sentence, position in mentions(text, name):
        if side is not None and place is not None:
            break
        said_side = _nearest(_SIDE_WORDS, sentence, position)
        said_place = _nearest(_PLACE_WORDS, sentence, position)
        if side is not None and said_side is not None and said_side != side:
            continue
        if place is not None and said_place is not None and said_place != place:
            continue
        if side is None and not rule.fixed_side:
            side = said_side
        if place is None and said_place in allowed and _compatible(side, said_place):
            place = said_place
    return side, place


def _compatible(side: str | None, place: str) -> bool:
    """Whether a side has such a place: the middle lobe is right, the lingula left."""
    return not (
        (place == "middle lobe" and side not in ("right", None))
        or (place == "lingula" and side not in ("left", None))
    )


def _from_code(finding: Finding, rule: Rule) -> tuple[str | None, str | None]:
    """(side, place) that the code gives, each None where it does not."""
    _, qualifiers = split_code(finding.raw)
    present = set(qualifiers)
    allowed = {*rule.places, *rule.accepts} - {""}
    place = next((p for p in PLACE_ORDER if p in present and p in allowed), None)
    side = None
    if not rule.fixed_side:
        side = "bilateral" if len(finding.sides) == 2 else next(iter(finding.sides), None)
        if side is None and place in ("middle lobe", "lingula"):
            side = "right" if place == "middle lobe" else "left"
        if side is None and place is None and present & EVERYWHERE_WORDS and "" not in rule.places:
            side, place = "bilateral", ""
    return side, place


def _draw(weights: Mapping[str, float], rng) -> str:
    names = list(weights)
    total = sum(weights.values())
    return names[int(rng.choice(len(names), p=[weights[n] / total for n in names]))]


def _severity(finding: Finding, head: str) -> str | None:
    if finding.name == "effusion" and head in ANGLE_HEADS:
        return "borderline"  # a blunted angle, whatever its degree, is the smallest effusion
    if finding.severity is None and head == "mass":
        return "large"
    return "mild" if finding.severity == "small" else finding.severity


def _place_one(study: Study, finding: Finding, text: str, seed: int) -> tuple[PlacedFinding, bool]:
    """A placed finding and whether anything but the dice located it."""
    rule = RULES[finding.name]
    head, qualifiers = split_code(finding.raw)
    side, place = _from_code(finding, rule)
    side_from = "code" if side is not None else ""
    place_from = "code" if place is not None else ""
    if finding.name == "effusion" and head in ANGLE_HEADS:
        place, place_from = "costophrenic angle", "code"
    if finding.name == "calc_node" and place is None and MEDIASTINAL & set(qualifiers):
        place, place_from = "", "code"  # beside the windpipe, not in the hilum
        if side is None:
            side, side_from = "midline", "code"
    if rule.reads_text and (side is None or place is None):
        said_side, said_place = from_sentences(text, finding.name, side, place)
        if side is None and said_side is not None:
            side, side_from = said_side, "sentence"
        if place is None and said_place is not None:
            place, place_from = said_place, "sentence"
    located = bool(side_from or place_from)
    # The stream is named by the study, the type and the code, so no other finding shifts it.
    rng = numpy_rng(seed, f"placement/{study.id}/{finding.name}/{finding.raw}")
    drawn_side = _draw(_sides_for(rule, place), rng)
    if side is None:
        side, side_from = drawn_side, "none" if len(rule.sides) == 1 else "random"
    places = {p: weight for p, weight in rule.places.items() if _compatible(side, p)}
    drawn_place = _draw(places, rng)
    if place is None:
        place, place_from = drawn_place, "none" if len(rule.places) == 1 else "random"
    placed = PlacedFinding(
        name=finding.name,
        side=side,
        place=place,
        severity=_severity(finding, head),
        multiple=bool(MULTIPLE_WORDS & set(qualifiers)) or head == "granulomatous disease",
        raw=finding.raw,
        side_from=side_from,
        place_from=place_from,
    )
    return placed, located


def _sides_for(rule: Rule, place: str | None) -> Mapping[str, float]:
    """Side weights once the place is known."""
    if len(rule.sides) == 1:
        return rule.sides
    if place == "retrocardiac":
        return {"left": 0.85, "right": 0.15}  # the heart hides mostly left lung
    if place in ("middle lobe", "lingula"):
        return {"right": 1.0} if place == "middle lobe" else {"left": 1.0}
    return rule.sides


_RANK = {None: -1} | {word: SEVERITIES.index(word) for word in SEVERITIES}


def _merge(first: PlacedFinding, second: PlacedFinding) -> PlacedFinding:
    """Two codes for one object: the firmer origin, the higher severity, both raw codes."""
    order = ("code", "sentence", "random", "none")
    return replace(
        first,
        severity=max((first.severity, second.severity), key=_RANK.__getitem__),
        multiple=first.multiple or second.multiple,
        raw=first.raw if second.raw in first.raw.split("; ") else f"{first.raw}; {second.raw}",
        side_from=min((first.side_from, second.side_from), key=order.index),
        place_from=min((first.place_from, second.place_from), key=order.index),
    )


def place_findings(study: Study, seed: int = 0) -> tuple[PlacedFinding, ...]:
    """Findings of a study with a side and a place each.

    Codes of the same type at the same side and place become one finding. A code that neither says
    where, nor is located by a sentence, adds nothing to a located one of its type ("Granulomatous
    Disease" beside "Calcified Granuloma/lung/upper lobe/left") and is merged into it. Findings
    without a type of their own ("other") are left out.

    Draws use the stream ``placement/<study id>/<type>/<code>`` of ``seed``: removing a finding
    leaves those of other types where they were.

    Args:
        study: a study whose ``findings`` come from MeSH codes.
        seed: seed of the draws.

    Returns:
        Placed findings in order of the codes.
    """
    text = f"{study.findings_text}\n{study.impression_text}"
    placed: dict[tuple[str, str, str], PlacedFinding] = {}
    vague: list[PlacedFinding] = []
    for finding in study.findings:
        if finding.name == OTHER:
            continue
        one, located = _place_one(study, finding, text, seed)
        if located or len(RULES[one.name].sides) == 1:
            _add(placed, one)
        else:
            vague.append(one)
    for one in vague:
        same = next((key for key in placed if key[0] == one.name), None)
        if same is None:
            _add(placed, one)
        else:
            placed[same] = _merge(placed[same], one)
    return _in_order(placed.values(), [finding.raw for finding in study.findings])


def _add(placed: dict[tuple[str, str, str], PlacedFinding], one: PlacedFinding) -> None:
    key = (one.name, one.side, one.place)
    if one.name == "effusion":  # an effusion fills the blunted angle of its own side
        angle, whole = (*key[:2], "costophrenic angle"), (*key[:2], "")
        if key == angle and whole in placed:
            key, one = whole, replace(one, place="")
        elif key == whole and angle in placed:
            one = _merge(one, placed.pop(angle))
    placed[key] = _merge(placed[key], one) if key in placed else one


def _in_order(found, raws: Sequence[str]) -> tuple[PlacedFinding, ...]:
    return tuple(sorted(found, key=lambda one: raws.index(one.raw.split("; ")[0])))
