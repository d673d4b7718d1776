"""The phantom corpus: real reports, rendered views, findings that are what is drawn."""

import numpy as np
import pytest

from r2genkit.corpora import load_corpus
from r2genkit.corpora.openi import read_archive, reports_archive
from r2genkit.corpora.phantom import drawn_findings, finding_record, read_phantom
from r2genkit.errors import KitError
from r2genkit.phantom import RENDERED_TYPES, Population
from r2genkit.phantom.placement import PlacedFinding
from r2genkit.study import Renderable


@pytest.fixture(scope="module")
def openi():
    return read_archive(reports_archive())


@pytest.fixture(scope="module")
def few(openi):
    return [study for study in openi if len(study.findings) >= 2][:6]


def test_every_report_becomes_a_patient(openi):
    studies = load_corpus("phantom")
    assert [study.id for study in studies] == [study.id for study in openi]
    for study, source in zip(studies, openi, strict=True):
        assert [view.projection for view in study.views] == ["frontal", "lateral"]
        assert all(isinstance(view.image, Renderable) for view in study.views)
        assert study.text("findings+impression") == source.text("findings+impression")
        assert (study.normal, study.codes, study.corpus) == (source.normal, source.codes, "phantom")
        drawn = {finding.name for finding in study.findings}
        assert drawn == {f.name for f in source.findings} & set(RENDERED_TYPES)
    assert len({view.id for study in studies for view in study.views}) == 2 * len(studies)


def test_null_control_differs_in_the_findings_only(few):
    with_them, without = read_phantom(studies=few), read_phantom(studies=few, with_findings=False)
    for study, null in zip(with_them, without, strict=True):
        assert study.findings and not null.findings
        assert (study.id, study.codes, study.findings_text) == (
            null.id,
            null.codes,
            null.findings_text,
        )
        assert study.views[0].image.digest() != null.views[0].image.digest()


def test_a_normal_study_equals_its_null_control(openi):
    normal = [study for study in openi if study.normal][:1]
    (plain,), (null,) = read_phantom(studies=normal), read_phantom(0, False, studies=normal)
    for first, second in zip(plain.views, null.views, strict=True):
        assert first.image.digest() == second.image.digest()
        np.testing.assert_array_equal(first.image.render(64), second.image.render(64))


def test_rendering_follows_id_seed_and_population(few):
    (study,), (again,) = read_phantom(studies=few[:1]), read_phantom(studies=few[:1])
    pixels = study.views[0].image.render(64)
    assert pixels.shape == (64, 64) and pixels.dtype == np.uint8 and pixels.std() > 10
    np.testing.assert_array_equal(pixels, again.views[0].image.render(64))
    digests = {study.views[0].image.digest(), study.views[1].image.digest()}
    digests.add(read_phantom(1, studies=few[:1])[0].views[0].image.digest())
    other = Population(name="other", zoom=0.2)
    digests.add(read_phantom(population=other, studies=few[:1])[0].views[0].image.digest())
    assert len(digests) == 4


def test_types_can_be_restricted(few):
    study = few[0]
    name = study.findings[0].name
    assert {f.name for f in drawn_findings(study, types=[name])} == {name}
    assert drawn_findings(study, types=[]) == ()


def test_records_say_what_is_drawn():
    placed = PlacedFinding("nodule", "bilateral", "base", "mild", True, "Nodule", "random", "code")
    record = finding_record(placed)
    assert (record.name, record.locations, record.sides, record.severity, record.raw) == (
        "nodule",
        ("base",),
        ("left", "right"),
        "mild",
        "Nodule",
    )
    midline = PlacedFinding("kyphosis", "midline", "", None, False, "Kyphosis", "none", "none")
    assert finding_record(midline).sides == () and finding_record(midline).locations == ()


def test_repeated_ids_are_refused(few):
    with pytest.raises(KitError, match=few[0].id):
        read_phantom(studies=[few[0], few[0]])
