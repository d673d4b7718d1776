"""Attribute agreement: scope by hand, the properties it must have, the inversion demonstration."""

import math

import numpy as np
import pytest

from r2genkit.corpora.openi import read_openi, study_number
from r2genkit.errors import KitError
from r2genkit.metrics.findings import (
    CATEGORIES,
    Attribute,
    AttributeFinder,
    attribute_f1,
    default_attribute_finder,
    finding_f1,
    inversion_table,
    invert_report,
    keyword_f1,
)
from r2genkit.metrics.findings.attributes import ATTRIBUTES_FILE
from r2genkit.metrics.uncertainty import (
    additives_of_attributes,
    bootstrap,
    point_values,
    resample_weights,
)


def said(text, policy="negative"):
    """As "finding: attribute", which is enough where categories do not clash."""
    found = default_attribute_finder().attributes(text, policy=policy)
    assert all(item.polarity == "positive" for item in found)
    return {f"{item.finding}: {item.attribute}" for item in found}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Small left pleural effusion.",
            {"effusion: small", "effusion: left"},
        ),
        ("No large pleural effusion.", set()),
        ("Cardiomegaly without acute disease.", set()),
        (
            "Stable cardiomegaly with a small right pleural effusion.",
            {"cardiomegaly: stable", "effusion: small", "effusion: right"},
        ),
        (
            "Calcified granuloma in the right lower lobe and cardiomegaly.",
            {"calc_granuloma: right", "calc_granuloma: lower lobe"},
        ),
        (
            "Left and right basilar atelectasis.",
            {"atelectasis: left", "atelectasis: right", "atelectasis: base"},
        ),
        (
            "Bi-basilar edema.",
            {"congestion: bilateral", "congestion: base", "congestion: edema"},
        ),
        (
            "Bibasilar atelectasis or scarring.",
            {
                "atelectasis: base",
                "atelectasis: bilateral",
                "atelectasis: scarring",
                "scar: base",
                "scar: bilateral",
                "scar: atelectasis",
            },
        ),
        (
            "Patchy opacity in the left base consistent with pneumonia.",
            {
                "opacity: patchy",
                "opacity: left",
                "opacity: base",
                "opacity: pneumonia",
                "consolidation: patchy",
                "consolidation: left",
                "consolidation: base",
                "consolidation: pneumonia",
            },
        ),
        # The doubted name takes nothing from the opacity, and gives it no impression.
        (
            "Patchy left opacity which may represent pneumonia.",
            {"opacity: patchy", "opacity: left"},
        ),
        ("The thoracic aorta is mildly tortuous.", {"tortuous_aorta: mild"}),
        ("No change in the small nodule.", {"nodule: stable", "nodule: small"}),
        # Another abnormality keeps its attributes from the neighbour.
        ("Scoliosis. Old left humerus fracture.", set()),
        ("Mild scoliosis and old left humerus fracture.", {"scoliosis: mild"}),
        # Whole words: "massive" is large, "apicoposterior" is not the apex.
        ("Massive apicoposterior effusion.", {"effusion: large"}),
        ("", set()),
    ],
)
def test_scope(text, expected):
    assert said(text) == expected


def test_doubt_follows_the_policy():
    text = "Possible small left effusion."
    assert said(text) == set()
    assert said(text, "positive") == {"effusion: small", "effusion: left"}
    with pytest.raises(KitError, match="policy"):
        said(text, "maybe")


def test_longest_entry_of_a_category_wins():
    finder = default_attribute_finder()
    words = {
        (m.category, m.attribute, m.words)
        for m in finder.explain("Interval increase in the small left effusion.")
    }
    assert words == {
        ("degree", "worse", "interval increase"),
        ("degree", "small", "small"),
        ("location", "left", "left"),
    }


def test_explanations_name_finding_polarity_and_place():
    finder = default_attribute_finder()
    first, second = finder.explain("Scoliosis. No large effusion. Mild cardiomegaly.")
    assert (first.finding, first.polarity, first.words, first.span) == (
        "effusion",
        "negative",
        "large",
        (1, 2),
    )
    assert (second.finding, second.polarity, second.attribute) == (
        "cardiomegaly",
        "positive",
        "mild",
    )
    assert (first.sentence_index, second.sentence_index) == (1, 2)


REFERENCES = {
    "a": "Mild cardiomegaly. Small left effusion.",
    "b": "No effusion. Calcified granuloma in the right upper lobe.",
    "c": "Lungs are clear.",
}


def test_counts_by_hand():
    hypotheses = {
        "a": "Severe cardiomegaly. Small right effusion.",  # tp small, fp severe + right
        "b": "Right upper lobe nodule.",  # another finding: both missed, both false
        "c": "No mild effusion.",
    }
    scores = attribute_f1(hypotheses, REFERENCES)
    table = scores.table[["tp", "fp", "fn"]]
    assert table.loc["degree"].tolist() == [1, 1, 1]
    assert table.loc["location"].tolist() == [0, 3, 3]
    assert table.loc["all"].tolist() == [1, 4, 4]
    assert scores.micro == {"precision": 0.2, "recall": 0.2, "f1": pytest.approx(0.2)}
    assert scores.per_study_f1[:2].tolist() == pytest.approx([1 / 3, 0])
    assert math.isnan(scores.per_study_f1[2])
    assert scores.counts.shape == (3, len(CATEGORIES), 3)
    assert scores.counts.sum(axis=(0, 1)).tolist() == [1, 4, 4]
    with pytest.raises(KitError, match="no hypothesis"):
        attribute_f1({}, REFERENCES)


def test_substrings_see_neither_finding_nor_polarity_nor_words():
    finder = default_attribute_finder()
    assert finder.keywords("No large effusion.") == {("degree", "large")}
    assert ("impression", "scarring") in finder.keywords("Scarce markings.")
    assert finder.keywords("Cleft.") == frozenset()  # but a match starts at a word
    inverted = {"a": "No mild cardiomegaly. No small left effusion."}
    reference = {"a": REFERENCES["a"]}
    assert keyword_f1(inverted, reference).micro["f1"] == 1
    assert attribute_f1(inverted, reference).micro["f1"] == 0
    with pytest.raises(KitError, match="no hypothesis"):
        keyword_f1({}, REFERENCES)


@pytest.fixture(scope="module")
def reports():
    """Findings of the studies whose number ends in 1: none was looked at for word lists."""
    return {
        s.id: s.findings_text
        for s in read_openi()
        if s.findings_text and study_number(s.id) % 10 == 1
    }


def shifted(reports, by):
    """Other studies' reports under the ids of these."""
    ids = list(reports)
    return {study: reports[ids[(i + by) % len(ids)]] for i, study in enumerate(ids)}


def test_a_report_against_itself(reports):
    for score in (attribute_f1, keyword_f1):
        table = score(reports, reports).table
        assert (table["support"] > 0).all()
        assert (table[["precision", "recall", "f1"]] == 1).all(axis=None)


def test_order_of_studies_changes_nothing(reports):
    hypotheses = shifted(reports, 7)
    rng = np.random.default_rng(0)
    order = [list(reports)[i] for i in rng.permutation(len(reports))]
    forward = attribute_f1(hypotheses, reports)
    mixed = attribute_f1({s: hypotheses[s] for s in order}, {s: reports[s] for s in order})
    assert 0 < forward.micro["f1"] < 1
    assert mixed.studies == tuple(order)
    assert mixed.table.equals(forward.table)


def test_counts_add_over_sets_of_studies(reports):
    hypotheses = shifted(reports, 7)
    ids = list(reports)
    whole = attribute_f1(hypotheses, reports)
    parts = [
        attribute_f1({s: hypotheses[s] for s in part}, {s: reports[s] for s in part})
        for part in (ids[:100], ids[100:])
    ]
    assert np.array_equal(np.concatenate([part.counts for part in parts]), whole.counts)
    columns = ["support", "predicted", "tp", "fp", "fn"]
    assert (parts[0].table[columns] + parts[1].table[columns]).equals(whole.table[columns])


def test_bootstrap_of_attributes_equals_scoring_the_drawn_studies(reports):
    hypotheses = shifted(reports, 7)
    scores = attribute_f1(hypotheses, reports)
    additives = additives_of_attributes(scores.counts, " (x)")
    values = point_values(additives)
    assert values["attribute-F1 (x)"] == pytest.approx(scores.micro["f1"])
    assert values["attribute-precision (x)"] == pytest.approx(scores.micro["precision"])
    assert values["attribute-recall (x)"] == pytest.approx(scores.micro["recall"])
    for category in CATEGORIES:
        name = f"attribute-F1 {category} (x)"
        assert values[name] == pytest.approx(scores.table.loc[category, "f1"])
    weights = resample_weights(len(reports), resamples=2, seed=5)
    drawn = [s for s, times in zip(reports, weights[1]) for _ in range(int(times))]
    again = attribute_f1(
        {str(i): hypotheses[s] for i, s in enumerate(drawn)},
        {str(i): reports[s] for i, s in enumerate(drawn)},
    )
    resampled = bootstrap(additives, weights)
    assert resampled["attribute-F1 (x)"][1] == pytest.approx(again.micro["f1"])
    name = "attribute-F1 location (x)"
    assert resampled[name][1] == pytest.approx(again.table.loc["location", "f1"])


@pytest.mark.parametrize(
    ("text", "inverted"),
    [
        ("No effusion.", "effusion ."),
        ("The heart is enlarged.", "the heart is not enlarged ."),
        ("Heart size is normal.", "heart size is not normal ."),
        ("Heart size is within normal limits.", "heart size is not within normal limits ."),
        ("Heart size is not normal.", "heart size is normal ."),
        ("There is a small effusion.", "there is no small effusion ."),
        ("Lungs are clear without effusion.", "lungs are not clear with effusion ."),
        ("Lungs are free of consolidation.", "lungs are full of consolidation ."),
        ("Possible pneumonia. XXXX compared.", "possible pneumonia . xxxx compared ."),
        ("", ""),
    ],
)
def test_inversion(text, inverted):
    assert invert_report(text) == inverted


def test_inverted_real_reports(reports):
    """Substring matching cannot tell a report from its opposite; reading findings can."""
    table = inversion_table(reports)
    assert (table["itself"] == 1).all()
    substrings = table.loc["substrings, no polarity", "inverted"]
    scoped = table.loc["words, finding and polarity", "inverted"]
    assert list(substrings.index) == [*CATEGORIES, "all"] == list(scoped.index)
    assert substrings.min() > 0.98
    assert scoped.max() < 0.05
    assert table.loc[("finding-F1", "all"), "inverted"] < 0.05
    inverted = {study: invert_report(text) for study, text in reports.items()}
    assert finding_f1(inverted, reports).negation_flip > 0.9


def test_attribute_file_is_checked(tmp_path):
    text = ATTRIBUTES_FILE.read_text(encoding="utf-8")
    broken = {
        "must have exactly the keys": text.replace("degree:", "degrees:", 1),
        "unknown finding type 'bulky'": text.replace("  bulla:", "  bulky:"),
        "no attribute 'tall'": text.replace("bulla: [bullous", "bulla: [tall"),
        "must be a list of words": text.replace('"no"]', "no]"),
        "lower case": text.replace("small: [small]", "small: [Small]"),
        "without hyphens": text.replace("left: [left]", "left: [left-sided]"),
        "same: link": text.replace("  link: ", "  links: "),
    }
    for message, content in broken.items():
        assert content != text
        path = tmp_path / "attributes.yaml"
        path.write_text(content, encoding="utf-8")
        with pytest.raises(KitError, match=message):
            AttributeFinder(path)


def test_every_entry_can_be_read():
    finder = default_attribute_finder()
    for (category, attribute), texts in finder.words.items():
        for text in texts:
            found = {
                (m.category, m.attribute)
                for m in finder.attributes_of_sentence(f"{text} scoliosis")
            }
            assert (category, attribute) in found, text
    assert Attribute._fields == ("finding", "polarity", "category", "attribute")
