"""R2Gen's annotation.json: exact round trip, checked entries, the blank test key."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from r2genkit.corpora import load_corpus
from r2genkit.corpora.r2gen import (
    DataWarning,
    annotation_of,
    read_annotation,
    read_r2gen,
    write_annotation,
)
from r2genkit.errors import KitError
from r2genkit.study import Study, View


def entry(number, split="train", images=2, **more):
    return {
        "id": f"p{number}",
        "report": f"Text {number} is as written.",
        "image_path": [f"p{number}/{k}.png" for k in range(images)],
        "split": split,
    } | more


def content(**more):
    return {
        "train": [entry(1), entry(2)],
        "val": [entry(3, "val")],
        "test": [entry(4, "test", images=1)],
    } | more


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "annotation.json").write_text(json.dumps(content()))
    for number in (1, 2, 3):
        for k in range(2):
            path = tmp_path / "images" / f"p{number}" / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((70, 70), 40 * number + k, np.uint8)).save(path)
    return tmp_path


def test_reading(folder):
    studies = load_corpus("r2gen", data_dir=folder)
    assert [study.id for study in studies] == ["p1", "p2", "p3", "p4"]
    first, last = studies[0], studies[-1]
    assert first.findings_text == "Text 1 is as written." and first.impression_text == ""
    assert [view.id for view in first.views] == ["p1/0.png", "p1/1.png"]
    assert all(view.projection == "unknown" for view in first.views)
    assert first.views[1].image == folder / "images/p1/1.png" and first.views[1].image.is_file()
    assert len(last.views) == 1 and first.normal is None and first.corpus == "r2gen"


def test_round_trip_is_exact(folder):
    original = read_annotation(folder / "annotation.json")
    studies = read_r2gen(folder)
    parts = {"train": studies[:2], "validation": studies[2:3], "test": studies[3:]}
    write_annotation(folder / "copy.json", annotation_of(parts))
    assert (folder / "copy.json").read_text() == json.dumps(content())
    assert read_annotation(folder / "copy.json") == original
    assert not list(folder.glob(".*tmp"))


def test_extra_keys_survive(folder):
    rich = content(train=[entry(1, study_id=5, subject_id=6), entry(2)])
    write_annotation(folder / "mimic.json", rich)
    assert read_annotation(folder / "mimic.json") == rich
    assert [len(s.views) for s in read_r2gen(folder, "mimic.json")] == [2, 2, 2, 1]


def test_images_relative_to_the_folder_itself(folder):
    grey = np.zeros((70, 70), np.uint8)
    Image.fromarray(grey).save(folder / "loose.png")
    one = entry(9)
    one["image_path"] = ["loose.png"]
    write_annotation(folder / "annotation.json", content(test=[one]))
    assert read_r2gen(folder)[-1].views[0].image == folder / "loose.png"


def test_writing_makes_paths_relative(folder):
    studies = read_r2gen(folder)[:1]
    made = annotation_of({"train": studies}, image_root=folder / "images")
    assert made["train"][0]["image_path"] == ["p1/0.png", "p1/1.png"]
    assert made["val"] == made["test"] == []
    with pytest.raises(KitError, match="does not lie below"):
        annotation_of({"train": studies}, image_root=folder / "elsewhere")
    with pytest.raises(KitError, match="holdout"):
        annotation_of({"holdout": studies})
    with pytest.raises(KitError, match="p7 has no impression"):
        annotation_of(
            {"train": [Study("p7", (View("a", "unknown", None),), "x", "")]}, section="impression"
        )


def test_blank_test_key_is_read_with_a_warning(folder):
    blank = {("    " if key == "test" else key): value for key, value in content().items()}
    (folder / "annotation.json").write_text(json.dumps(blank))
    with pytest.warns(DataWarning, match="blank key"):
        read = read_annotation(folder / "annotation.json")
    assert read == content()


def test_a_sound_file_warns_of_nothing(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_annotation(folder / "annotation.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ["readable JSON"]),
        ("[]", ["train, val and test"]),
        (json.dumps({"train": [], "val": []}), ["'test'"]),
        (json.dumps(content(val=[{"id": "p3"}])), ["entry 0 of 'val'", "report"]),
        (json.dumps(content(val=[entry(1)])), ["p1", "twice", "train, val"]),
        (json.dumps(content(val=[entry(3) | {"report": " "}])), ["p3", "empty report"]),
        (json.dumps(content(val=[entry(3) | {"image_path": "a.png"}])), ["p3", "list of paths"]),
        (json.dumps(content(val=[entry(3, images=0)])), ["p3", "no image"]),
    ],
)
def test_flawed_files(tmp_path, text, words):
    (tmp_path / "annotation.json").write_text(text)
    with pytest.raises(KitError) as caught:
        read_annotation(tmp_path / "annotation.json")
    message = str(caught.value)
    assert all(word in message for word in ["annotation.json", *words]) and "\n" not in message


def test_missing_file(tmp_path):
    with pytest.raises(KitError, match=r"annotation\.json: no such file"):
        read_r2gen(tmp_path)


def test_open_i_codes_are_taken_over_only_for_the_same_text(tmp_path):
    from r2genkit.corpora.openi import read_archive, reports_archive

    twin = next(s for s in read_archive(reports_archive()) if s.normal and s.findings_text)
    same, other = entry(1), entry(2)
    same |= {"id": f"{twin.id}_IM-1", "report": twin.findings_text.upper()}
    other |= {"id": f"{twin.id}_IM-2"}
    write_annotation(tmp_path / "annotation.json", content(train=[same, other]))
    first, second = read_r2gen(tmp_path)[:2]
    assert first.normal is True and first.codes == ("normal",)
    assert second.normal is None and second.codes == ()


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("R2GENKIT_DATA"), reason="needs R2GENKIT_DATA")
def test_the_real_subset_with_its_radiographs():
    folder = Path(os.environ["R2GENKIT_DATA"])
    studies = load_corpus("r2gen", data_dir=folder, annotation="annotation_subset.json")
    assert len(studies) == 11
    for study in studies:
        assert len(study.views) == 2 and study.normal is not None and study.findings_text
        for view in study.views:
            with Image.open(view.image) as image:
                assert min(image.size) >= 200


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("R2GENKIT_DATA"), reason="needs R2GENKIT_DATA")
def test_the_real_file_round_trips(tmp_path):
    folder = Path(os.environ["R2GENKIT_DATA"])
    original = read_annotation(folder / "annotation.json")
    assert [len(entries) for entries in original.values()] == [2069, 296, 590]
    known = {study.id: study for study in read_r2gen(folder)}
    parts = {key: [known[e["id"]] for e in entries] for key, entries in original.items()}
    write_annotation(tmp_path / "annotation.json", annotation_of(parts))
    assert read_annotation(tmp_path / "annotation.json") == original
    # 2,955 of 2,955 are the FINDINGS of their Open-i study, so all carry its codes.
    assert sum(bool(study.codes) for study in known.values()) == 2955
