"""The 2018 kit's four files: round trip, checks, and rebuilding them from the Open-i reports."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from r2genkit.corpora import load_corpus
from r2genkit.corpora.files import read_id_list
from r2genkit.corpora.kit2018 import (
    MARKS,
    Kit2018Files,
    as_text,
    build_kit2018,
    first_appearance,
    read_files,
    read_kit2018,
    write_files,
)
from r2genkit.corpora.openi import read_archive, reports_archive
from r2genkit.corpora.splits import Split, make_split
from r2genkit.errors import KitError
from r2genkit.text.cleaning import clean_report
from r2genkit.text.sentences import kit2018_sentences


def small():
    entries = {
        "CXR90001": ["no acute disease", "heart is normal", "lungs are clear", "no effusion"],
        "CXR90002": ["nodule is seen", "heart is big", "bones are intact", "no effusion"],
        "CXR90003": ["clear lungs", "we cannot see", "no pneumothorax", "no acute disease"],
    }
    vocabulary = first_appearance(entries.values())
    return Kit2018Files(entries, ("CXR90001", "CXR90003"), ("CXR90002",), vocabulary)


@pytest.fixture(scope="module")
def openi():
    return read_archive(reports_archive())


@pytest.fixture(scope="module")
def built(openi):
    return build_kit2018(openi, make_split("kit2018", openi, annotation=None))


def test_round_trip(tmp_path):
    write_files(tmp_path, small())
    assert read_files(tmp_path) == small()
    assert json.loads((tmp_path / "train_split.json").read_text()) == ["CXR90001", "CXR90003"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "data_entry.json",
        "test_split.json",
        "train_split.json",
        "vocabulary.json",
    ]


def test_vocabulary_in_order_of_first_appearance():
    words = small().vocabulary
    assert words[:3] == MARKS == ("<S>", "</S>", "<EOS>")
    assert words[3:8] == ("no", "acute", "disease", "heart", "is")
    assert "cannot" not in words and words.index("not") == words.index("can") + 1
    assert len(words) == len(set(words))


def test_rebuilt_files_have_the_published_sizes(built, tmp_path):
    assert (len(built.entries), len(built.train), len(built.test)) == (3631, 2811, 300)
    assert len(built.vocabulary) == 2068
    assert not set(built.train) & set(built.test)
    pattern = re.compile(r"[a-z]+(?: [a-z]+)+")
    for study, sentences in built.entries.items():
        assert len(sentences) >= 4, study
        assert all(pattern.fullmatch(sentence) for sentence in sentences), study
    write_files(tmp_path, built)
    assert read_files(tmp_path) == built


def test_impression_comes_first(openi, built):
    study = next(s for s in openi if s.id in built.entries and s.findings_text)
    impression = kit2018_sentences(study.impression_text, "")
    assert built.entries[study.id][: len(impression)] == impression


def test_a_split_of_other_studies_is_refused(openi, built):
    outside = next(study.id for study in openi if study.id not in built.entries)
    with pytest.raises(KitError, match=outside):
        build_kit2018(openi, Split("own", (outside,), ("CXR1",), ("CXR3",), ""))


def test_text_keeps_its_sentences(built):
    """As text with full stops, the kit's rule gives back the very sentences."""
    for sentences in list(built.entries.values())[:200]:
        assert kit2018_sentences("", as_text(sentences) + " ") == sentences
        assert clean_report(as_text(sentences), "kit2018") == " ".join(sentences)


def test_reading_with_images(tmp_path):
    write_files(tmp_path, small())
    (tmp_path / "images").mkdir()
    grey = Image.fromarray(np.zeros((70, 70), np.uint8))
    for name in ("CXR90001_IM-2-2001", "CXR90001_IM-2-1001", "CXR90001_IM-2-3001"):
        grey.save(tmp_path / "images" / f"{name}.png")
    grey.save(tmp_path / "CXR90002_1_IM-7-1001.png")
    first, second, third = load_corpus("kit2018", data_dir=tmp_path)
    assert [(view.id, view.projection) for view in first.views] == [
        ("CXR90001_IM-2-1001", "frontal"),
        ("CXR90001_IM-2-2001", "lateral"),
    ]
    assert all(view.image.is_file() for view in first.views)
    assert [view.projection for view in second.views] == ["unknown"]
    assert third.views == () and third.normal is None
    assert first.findings_text.startswith("no acute disease. heart is normal.")


def test_real_ids_bring_their_image_names_and_codes(tmp_path, built, openi):
    write_files(tmp_path, built)
    studies = read_kit2018(tmp_path)
    known = {study.id: study for study in openi}
    assert [study.id for study in studies] == list(built.entries)
    for study in studies:
        assert study.codes == known[study.id].codes
        assert [view.id for view in study.views] == sorted(v.id for v in known[study.id].views)[:2]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("data_entry.json", [], ["data_entry.json", "object"]),
        ("data_entry.json", {"CXR90001": "text"}, ["CXR90001", "list of sentences"]),
        ("data_entry.json", {"CXR90001": [" "]}, ["CXR90001", "empty report"]),
        ("train_split.json", {}, ["train_split.json", "array"]),
        ("train_split.json", ["CXR90001", "CXR90001"], ["CXR90001", "twice"]),
        ("test_split.json", ["CXR5"], ["CXR5", "no entry"]),
        ("test_split.json", ["CXR90001"], ["CXR90001", "also stands"]),
        ("vocabulary.json", ["the", "heart"], ["vocabulary.json", "<S>"]),
        ("vocabulary.json", [1, 2], ["vocabulary.json", "array of words"]),
    ],
)
def test_flawed_files(tmp_path, name, value, words):
    write_files(tmp_path, small())
    (tmp_path / name).write_text(json.dumps(value))
    with pytest.raises(KitError) as caught:
        read_files(tmp_path)
    assert all(word in str(caught.value) for word in words)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(KitError, match=r"train_split\.json: no such file"):
        read_id_list(tmp_path / "train_split.json")
