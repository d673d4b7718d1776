"""Placement of coded findings: code, else the report's sentence, else a named draw."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r2genkit.corpora.mesh import FINDING_TYPES, parse_codes, split_code
from r2genkit.corpora.openi import read_archive, reports_archive
from r2genkit.phantom.placement import (
    PLACE_ORDER,
    RULES,
    from_sentences,
    mentions,
    place_findings,
)
from r2genkit.study import Study

SIDES = {"left", "right", "bilateral", "midline"}
SEVERITIES = {"borderline", "mild", "moderate", "large", "severe", None}


def study(*codes, text="", number=1):
    return Study(f"CXR{number}", (), text, "", findings=parse_codes(codes), codes=codes)


def only(*codes, text="", number=1, seed=0):
    (one,) = place_findings(study(*codes, text=text, number=number), seed)
    return one


@pytest.fixture(scope="module")
def openi():
    return read_archive(reports_archive())


@pytest.fixture(scope="module")
def placed(openi):
    return {one.id: place_findings(one, 0) for one in openi}


def test_every_type_has_a_rule():
    assert set(RULES) == set(FINDING_TYPES)
    for rule in RULES.values():
        assert set(rule.sides) <= SIDES
        assert {*rule.places, *rule.accepts} <= {*PLACE_ORDER, ""}
        assert sum(rule.sides.values()) == pytest.approx(1, abs=0.02)
        assert sum(rule.places.values()) == pytest.approx(1, abs=0.02)


def test_values_are_in_range(placed):
    for findings in placed.values():
        for one in findings:
            assert one.name in FINDING_TYPES
            assert one.side in SIDES
            assert one.place in {*PLACE_ORDER, ""}
            assert one.severity in SEVERITIES
            assert {one.side_from, one.place_from} <= {"code", "sentence", "random", "none"}
            assert not (one.place == "lingula" and one.side == "right")
            if one.place_from == "random":
                assert one.place != "middle lobe" or one.side == "right"
                assert one.place != "lingula" or one.side == "left"


def test_the_code_decides_where_it_can(openi, placed):
    """Every coded side of a type that has sides is the placed side (checked code by code)."""
    for one in openi:
        for finding in placed[one.id]:
            rule = RULES[finding.name]
            for raw in finding.raw.split("; "):
                said = set(split_code(raw)[1]) & {"left", "right", "bilateral"}
                if said and not rule.fixed_side and finding.side_from == "code":
                    expected = "bilateral" if len(said) == 2 else next(iter(said))
                    assert finding.side == expected, (one.id, raw)


def test_nothing_coded_is_lost_and_nothing_is_invented(openi, placed):
    for one in openi:
        coded = {finding.name for finding in one.findings} - {"other"}
        assert {finding.name for finding in placed[one.id]} == coded
        raws = {raw for finding in placed[one.id] for raw in finding.raw.split("; ")}
        assert raws == {f.raw for f in one.findings if f.name != "other"}
        keys = [(f.name, f.side, f.place) for f in placed[one.id]]
        assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        # (side, place, side_from, place_from)
        ("Nodule/lung/lower lobe/left", "", ("left", "lower lobe", "code", "code")),
        ("Nodule/lung/lingula", "", ("left", "lingula", "code", "code")),
        ("Opacity/lung/middle lobe", "", ("right", "middle lobe", "code", "code")),
        ("Pulmonary Atelectasis/base/bilateral", "", ("bilateral", "base", "code", "code")),
        ("Cardiomegaly/mild", "Left heart border large.", ("midline", "", "none", "none")),
        ("Lung/hypoinflation", "", ("bilateral", "", "none", "none")),
        (
            "Nodule/lung",
            "There is a nodule in the left upper lobe.",
            ("left", "upper lobe", "sentence", "sentence"),
        ),
        (
            "Nodule/lung",
            "No right nodule. Heart is big. A left apical nodule is seen.",
            ("left", "apex", "sentence", "sentence"),
        ),
        (
            "Nodule/lung/right",
            "Nodule in the left base. Nodule at the right apex.",
            ("right", "apex", "code", "sentence"),
        ),
        (
            "Nodule/lung/lower lobe",
            "Left lower lobe nodule.",
            ("left", "lower lobe", "sentence", "code"),
        ),
        (
            "Pulmonary Atelectasis",
            "Bibasilar atelectasis.",
            ("bilateral", "base", "sentence", "sentence"),
        ),
        ("Pleural Effusion", "Small right effusion.", ("right", "", "sentence", "none")),
        ("Scoliosis", "Mild dextroscoliosis.", ("right", "", "sentence", "none")),
        ("Scoliosis", "There is levoscoliosis.", ("left", "", "sentence", "none")),
        ("Pneumothorax/right/small", "", ("right", "apex", "code", "none")),
        ("Costophrenic Angle/left/blunted", "", ("left", "costophrenic angle", "code", "code")),
        ("Calcinosis/mediastinum/lymph nodes", "", ("midline", "", "code", "code")),
        ("Calcinosis/lung/hilum/lymph nodes/right", "", ("right", "hilum", "code", "code")),
        ("Calcified Granuloma/scattered/multiple", "", ("bilateral", "", "code", "code")),
    ],
)
def test_order_of_evidence(code, text, expected):
    one = only(code, text=text)
    assert (one.side, one.place, one.side_from, one.place_from) == expected


def test_severity_and_multiplicity():
    assert only("Pleural Effusion/left/small").severity == "mild"
    assert only("Pleural Effusion/left/large").severity == "large"
    assert only("Costophrenic Angle/left/blunted/mild").severity == "borderline"
    assert only("Cardiomegaly/borderline").severity == "borderline"
    assert only("Cardiomegaly").severity is None
    assert only("Mass/lung/right/upper lobe").severity == "large"
    assert only("Nodule/lung/bilateral/multiple").multiple
    assert only("Pneumonia/multilobar").multiple
    assert not only("Nodule/lung/bilateral").multiple


def test_negated_and_foreign_sentences_do_not_count():
    assert mentions("No pleural effusion, nodule or mass.", "nodule") == []
    assert mentions("Without evidence of a nodule.", "nodule") == []
    assert len(mentions("No effusion, but a nodule is seen.", "nodule")) == 1
    text = "Heart is normal in the left chest. Small nodule."
    assert from_sentences(text, "nodule", None, None) == (None, None)
    assert from_sentences("Nodule, lingula.", "nodule", "right", None) == ("right", None)


def test_nearest_word_decides():
    text = "Left lower lobe opacity and right apical nodule."
    assert from_sentences(text, "nodule", None, None) == ("right", "apex")
    assert from_sentences(text, "opacity", None, None) == ("left", "lower lobe")


def test_duplicates_merge():
    one = only("Cardiomegaly/mild", "Cardiac Shadow/enlarged/severe", "Cardiomegaly/mild")
    assert one.severity == "severe"
    assert one.raw == "Cardiomegaly/mild; Cardiac Shadow/enlarged/severe"
    two = place_findings(study("Nodule/lung/base/left", "Nodule/lung/base/right"))
    assert [f.side for f in two] == ["left", "right"]


def test_a_vague_code_joins_a_located_one_of_its_type():
    codes = ("Granulomatous Disease", "Calcified Granuloma/lung/upper lobe/left")
    one = only(*codes)
    assert (one.side, one.place, one.side_from) == ("left", "upper lobe", "code")
    assert set(one.raw.split("; ")) == set(codes) and one.multiple
    alone = only("Granulomatous Disease")
    assert alone.side_from == "random"


def test_an_effusion_fills_its_blunted_angle():
    codes = ["Costophrenic Angle/left/blunted", "Pleural Effusion/left/moderate"]
    for order in (codes, codes[::-1]):
        one = only(*order)
        assert (one.side, one.place, one.severity) == ("left", "", "moderate")
    other = place_findings(study("Costophrenic Angle/right/blunted", "Pleural Effusion/left"))
    assert {(f.side, f.place) for f in other} == {("right", "costophrenic angle"), ("left", "")}


CODES = [
    "Nodule/lung",
    "Opacity/lung",
    "Scoliosis/mild",
    "Catheters, Indwelling",
    "Implanted Medical Device",
    "Pneumothorax",
    "Pleural Effusion",
    "Cicatrix/lung",
    "Pulmonary Atelectasis",
    "Fractures, Bone/ribs",
]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from(CODES), min_size=1, max_size=6, unique=True),
    st.integers(0, 3999),
    st.integers(0, 9),
)
def test_draws_of_a_finding_do_not_depend_on_the_others(codes, number, seed):
    together = {f.raw: f for f in place_findings(study(*codes, number=number), seed)}
    backwards = place_findings(study(*codes[::-1], number=number), seed)
    assert {f.raw: f for f in backwards} == together
    for code in codes:
        assert only(code, number=number, seed=seed) == together[code]


def test_removing_one_type_moves_no_other(openi):
    """On the real reports: drop a type, everything else stays where it was."""
    several = [one for one in openi if len({f.name for f in one.findings}) >= 3][:150]
    assert len(several) == 150
    for one in several:
        whole = place_findings(one, 4)
        dropped = one.findings[0].name
        fewer = replace(one, findings=tuple(f for f in one.findings if f.name != dropped))
        assert place_findings(fewer, 4) == tuple(f for f in whole if f.name != dropped)


def test_draws_follow_the_weights_and_the_seed():
    """2,000 pacemakers and nodules: shares within four standard errors of the rule."""
    n = 2000
    pacers = Counter(only("Implanted Medical Device", number=k).side for k in range(n))
    weight = RULES["pacemaker"].sides["left"]
    assert abs(pacers["left"] / n - weight) < 4 * (weight * (1 - weight) / n) ** 0.5
    nodules = Counter(only("Nodule/lung", number=k).place for k in range(n))
    assert set(nodules) == set(RULES["nodule"].places)
    # The side comes first and rules places out: the lingula is left, the middle lobe right.
    rule = RULES["nodule"]
    expected = 0.0
    for side, share in rule.sides.items():
        barred = {"left": ["middle lobe"], "right": ["lingula"]}.get(
            side, ["middle lobe", "lingula"]
        )
        allowed = sum(w for place, w in rule.places.items() if place not in barred)
        expected += share * rule.places["upper lobe"] / allowed
    assert nodules["upper lobe"] / n == pytest.approx(expected, abs=0.042)
    assert any(only("Nodule/lung", seed=s) != only("Nodule/lung", seed=0) for s in range(1, 6))
    assert only("Nodule/lung", seed=3) == only("Nodule/lung", seed=3)


def test_drawn_retrocardiac_opacities_are_mostly_left():
    sides = Counter(only("Opacity/retrocardiac", number=k).side for k in range(500))
    assert sides["left"] > 380 and sides["right"] > 30


def test_most_sides_of_focal_findings_are_not_drawn(placed):
    """The report or its code gives the side of most lung findings: drawn sides stay a minority."""
    for name, share in (("opacity", 0.12), ("atelectasis", 0.1), ("effusion", 0.1)):
        origins = Counter(f.side_from for found in placed.values() for f in found if f.name == name)
        assert origins["random"] / origins.total() < share, name
        assert origins["code"] / origins.total() > 0.8, name
