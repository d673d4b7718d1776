"""MeSH codes: the mapping table, its effect on all real codes, and single codes by hand."""

import csv
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r2genkit.corpora.mesh import (
    FINDING_TYPES,
    PLACES,
    SEVERITIES,
    TERMS_FILE,
    normal_from_codes,
    parse_code,
    parse_codes,
    split_code,
)
from r2genkit.corpora.openi import read_archive, reports_archive


@pytest.fixture(scope="module")
def studies():
    return read_archive(reports_archive())


@pytest.fixture(scope="module")
def rows():
    with TERMS_FILE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize(
    ("raw", "names"),
    [
        ("normal", []),
        ("No Indexing", []),
        ("Technical Quality of Image Unsatisfactory ", []),
        ("Cardiomegaly/mild", ["cardiomegaly"]),
        ("Opacity/lung/base/left", ["opacity"]),
        ("Opacity/lung/base/left/streaky", ["atelectasis"]),
        ("Opacity/lung/bilateral/interstitial/diffuse", ["interstitial"]),
        ("Opacity/lung/upper lobe/right/round/small", ["nodule"]),
        ("Opacity/ribs/anterior", ["other"]),
        ("Airspace Disease/lung/base/streaky", ["atelectasis"]),
        ("Infiltrate/lung/base/interstitial", ["interstitial"]),
        ("Infiltrate/lung/base", ["consolidation"]),
        ("Lung/hypoinflation/mild", ["hypoinflation"]),
        ("Lung/hyperdistention", ["hyperinflation"]),
        ("Lung/hilum/prominent", ["hilar_prominence"]),
        ("Lung/azygos lobe", ["other"]),
        ("Diaphragm/right/elevated", ["elev_diaphragm"]),
        ("Diaphragm/bilateral/flattened", ["hyperinflation"]),
        ("Calcinosis/aorta", ["aortic_calc"]),
        ("Calcinosis/aorta/lymph nodes", ["calc_node"]),
        ("Calcinosis/lung/hilum/lymph nodes/right", ["calc_node"]),
        ("Calcinosis/lung/upper lobe/right", ["calc_granuloma"]),
        ("Calcinosis/abdomen", ["other"]),
        ("Deformity/thoracic vertebrae/mild", ["wedge_fracture"]),
        ("Deformity/ribs/right/healed", ["rib_fracture"]),
        ("Deformity/clavicle/left", ["other"]),
        ("Heart Failure", ["cardiomegaly", "congestion"]),
        ("Hydropneumothorax/right", ["effusion", "pneumothorax"]),
        ("Implanted Medical Device/left", ["pacemaker"]),
        ("Implanted Medical Device/aortic valve", ["other"]),
        ("Surgical Instruments/mediastinum", ["sternotomy"]),
        ("Surgical Instruments/abdomen/right", ["clips"]),
        ("Thoracic vertebrae/degenerative/mild", ["degen_spine"]),
        ("Subcutaneous  Emphysema/right", ["other"]),
        ("Never Heard Of/left", ["other"]),
        ("", []),
    ],
)
def test_single_codes(raw, names):
    assert [finding.name for finding in parse_code(raw)] == names


def test_sides_places_severity():
    (one,) = parse_code("Pulmonary Atelectasis/base/left/mild")
    assert (one.sides, one.locations, one.severity) == (("left",), ("base",), "mild")
    assert one.raw == "Pulmonary Atelectasis/base/left/mild"
    (one,) = parse_code("Calcinosis/lung/hilum/lymph nodes/bilateral/multiple/large")
    assert one.sides == ("left", "right") and one.severity == "large"
    assert one.locations == ("lung", "hilum", "lymph nodes")
    (one,) = parse_code("Pulmonary Congestion")
    assert (one.sides, one.locations, one.severity) == ((), (), None)


@given(
    st.sampled_from(["Opacity", "Nodule", "Lung", "Calcinosis", "Deformity", "Cicatrix"]),
    st.lists(
        st.sampled_from(
            ["lung", "left", "right", "base", "round", "streaky", "interstitial", "mild", "ribs"]
        ),
        max_size=4,
        unique=True,
    ),
)
def test_qualifiers_are_a_set(head, qualifiers):
    """Order of qualifiers, letter case and stray spaces change nothing but the raw string."""
    facts = {
        tuple((f.name, f.sides, f.severity, frozenset(f.locations)) for f in parse_code(raw))
        for order in itertools.permutations(qualifiers)
        for raw in ("/".join((head, *order)), " / ".join((head.upper(), *order)))
    }
    assert len(facts) == 1


def test_table_is_well_formed(rows):
    heads = [row["head"] for row in rows]
    assert heads == [split_code(head)[0] for head in heads]
    assert [h for h, _ in itertools.groupby(heads)] == list(dict.fromkeys(heads)), "scattered head"
    named = {name.strip() for row in rows for name in row["findings"].split(",")}
    assert named == {*FINDING_TYPES, "other", "-"}
    for row in rows:
        assert row["comment"] is not None, f"{row['head']}: four columns needed"
    for _, group in itertools.groupby(rows, key=lambda row: row["head"]):
        conditions = [row["qualifiers"] for row in group]
        assert "" not in conditions[:-1], "a row after the unconditional one can never match"


def test_every_row_and_every_qualifier_occurs_in_the_corpus(studies, rows):
    codes = [split_code(code) for study in studies for code in study.codes]
    heads = {head for head, _ in codes}
    assert {row["head"] for row in rows} == heads, "the table knows exactly the corpus's heads"
    seen = {(head, qualifier) for head, qualifiers in codes for qualifier in qualifiers}
    for row in rows:
        for alternative in filter(None, row["qualifiers"].split("|")):
            for qualifier in alternative.split("+"):
                assert (row["head"], qualifier) in seen, f"{row['head']}: {qualifier} never occurs"
    qualifiers = {qualifier for _, qualifier in seen}
    assert qualifiers >= PLACES and set(SEVERITIES) <= qualifiers


def test_finding_types_are_ordered_by_frequency(studies):
    counts = dict.fromkeys(FINDING_TYPES, 0)
    for study in studies:
        for name in {finding.name for finding in study.findings} - {"other"}:
            counts[name] += 1
    assert len(FINDING_TYPES) == len(set(FINDING_TYPES)) == 35
    assert list(counts.values()) == sorted(counts.values(), reverse=True)


def test_coverage_of_the_abnormal_reports(studies):
    """122 heads; 2,463 abnormal reports with 6,726 codes; nearly all have a type of their own."""
    heads = {code.split("/")[0].strip() for study in studies for code in study.codes}
    assert len(heads) == 122
    abnormal = [study for study in studies if study.normal is False]
    strings = [code for study in abnormal for code in study.codes if parse_code(code)]
    assert len(abnormal) == 2463 and len(strings) == 6726
    typed = [any(f.name != "other" for f in study.findings) for study in abnormal]
    assert sum(typed) / len(abnormal) > 0.98
    own = sum(any(f.name != "other" for f in parse_code(code)) for code in strings)
    assert own / len(strings) > 0.95


@pytest.mark.parametrize(
    ("name", "reports"),
    # Heads whose mapping needs no condition: counted independently by head alone.
    [
        ("atelectasis", 367),
        ("hypoinflation", 291),
        ("hyperinflation", 282),
        ("effusion", 211),
        ("scar", 197),
        ("catheter", 125),
        ("elev_diaphragm", 118),
        ("scoliosis", 99),
        ("hiatal_hernia", 48),
        ("osteopenia", 34),
        ("kyphosis", 33),
        ("tube", 31),
        ("pneumothorax", 27),
        ("spinal_fusion", 23),
    ],
)
def test_reports_per_type(studies, name, reports):
    assert sum(any(f.name == name for f in study.findings) for study in studies) == reports


def test_normal_from_codes():
    assert normal_from_codes(["normal"]) is True
    assert normal_from_codes(["Cardiomegaly"]) is False
    assert normal_from_codes(["No Indexing"]) is None
    assert normal_from_codes(["Technical Quality of Image Unsatisfactory"]) is None
    assert normal_from_codes([]) is None
    assert normal_from_codes(["No Indexing", "Scoliosis/mild"]) is False


def test_parse_codes_keeps_the_order():
    found = parse_codes(["Heart Failure", "normal", "Scoliosis"])
    assert [f.name for f in found] == ["cardiomegaly", "congestion", "scoliosis"]
