"""Another hospital: what changes, what must not, and which studies it may use."""

import numpy as np
import pytest

from r2genkit.corpora import CORPORA, load_corpus
from r2genkit.corpora.phantom_shifted import CAUSES, phrase, population, read_phantom_shifted, tell
from r2genkit.corpora.splits import make_split
from r2genkit.errors import KitError
from r2genkit.metrics.findings import OTHER, default_labeler
from r2genkit.phantom import RENDERED_TYPES
from r2genkit.study import Finding, by_id
from r2genkit.text.cleaning import clean_report
from r2genkit.text.sentences import normalise


@pytest.fixture(scope="module")
def phantom():
    return by_id(load_corpus("phantom"))


@pytest.fixture(scope="module")
def split(phantom):
    studies = [s for s in phantom.values() if len(clean_report(s.findings_text).split()) >= 4]
    return make_split("grouped", studies, seed=0, section="findings")


def test_only_test_studies_whose_text_no_training_holds(phantom, split):
    studies = read_phantom_shifted(studies=None, cause="none")
    assert {study.id for study in studies} == set(split.test)
    known = {normalise(phantom[i].findings_text) for i in (*split.train, *split.validation)}
    assert not known & {normalise(study.findings_text) for study in studies}


def test_every_cause_has_the_same_studies_and_smaller_sets_are_part_of_larger_ones():
    ids = [study.id for study in read_phantom_shifted(studies=30, cause="none")]
    assert len(set(ids)) == 30
    for cause in CAUSES:
        assert [study.id for study in read_phantom_shifted(studies=12, cause=cause)] == ids[:12]


def test_the_control_is_the_phantom_bit_for_bit(phantom):
    (study,) = read_phantom_shifted(studies=1, cause="none")
    source = phantom[study.id]
    for own, view in zip(study.views, source.views, strict=True):
        assert own.image.digest() == view.image.digest()
        assert np.array_equal(own.image.render(64), view.image.render(64))
    assert study.findings_text == source.findings_text and study.findings == source.findings


def test_a_cause_changes_its_own_side_only():
    by_cause = {cause: read_phantom_shifted(studies=3, cause=cause) for cause in CAUSES}
    digests = {
        cause: [view.image.digest() for study in studies for view in study.views]
        for cause, studies in by_cause.items()
    }
    assert digests["style"] == digests["none"]
    others = [digests[cause] for cause in ("none", "habitus", "film", "noise", "all")]
    assert len({digest for each in others for digest in each}) == 5 * 6
    for cause, studies in by_cause.items():
        told = [study.findings_text for study in studies]
        original = [study.findings_text for study in by_cause["none"]]
        assert (told == original) == (cause not in ("style", "all"))
        assert [study.findings for study in studies] == [s.findings for s in by_cause["none"]]
        assert {study.corpus for study in studies} == {"phantom_shifted"}
    pixels = {c: by_cause[c][0].views[0].image.render(96).astype(float) for c in CAUSES}
    for cause in ("habitus", "film", "noise", "all"):
        assert np.abs(pixels[cause] - pixels["none"]).mean() > 1
    assert population("all").noise == population("noise").noise


@pytest.mark.parametrize("name", RENDERED_TYPES)
def test_the_labeler_understands_every_phrase(name):
    labeler = default_labeler()
    for finding in (
        Finding(name),
        Finding(name, ("base",), ("left",), "mild"),
        Finding(name, ("hilum",), ("left", "right"), "borderline"),
        Finding(name, ("retrocardiac",), ("right",), "large"),
    ):
        said = labeler.label(f"Observed: {phrase(finding)}.")
        assert {n for n, label in said.items() if label == "positive"} - {OTHER} == {name}


def test_the_other_style_tells_exactly_the_coded_findings():
    labeler = default_labeler()
    for study in read_phantom_shifted(studies=None, cause="style"):
        said = labeler.label(study.findings_text)
        stated = {name for name, label in said.items() if label == "positive"} - {OTHER}
        assert stated == {finding.name for finding in study.findings}, study.findings_text
        assert study.findings_text == tell(study) and not study.impression_text


def test_registered_as_synthetic_and_for_testing_only():
    assert CORPORA["phantom_shifted"].synthetic
    assert len(load_corpus("phantom_shifted")) == 200


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cause": "weather"}, "unknown cause 'weather': choose one of none, habitus"),
        ({"studies": 0}, "0 cannot be taken"),
        ({"studies": 10_000}, "10000 cannot be taken"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(KitError, match=message):
        read_phantom_shifted(**options)


def test_a_finding_without_words_is_named():
    with pytest.raises(KitError, match="no words for 'osteopenia'"):
        phrase(Finding("osteopenia"))
