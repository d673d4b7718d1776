"""check_corpus lists all problems at once, for every corpus."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from r2genkit.corpora.check import Problem, check_corpus, image_problem
from r2genkit.corpora.kit2018 import Kit2018Files, first_appearance, write_files
from r2genkit.corpora.openi import read_archive, reports_archive
from r2genkit.errors import KitError


def grey(path: Path, size=(80, 70)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, size[::-1], dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def cut(path: Path, share=0.5):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def entry(study, *images, report="Clear."):
    return {"id": study, "report": report, "image_path": list(images)}


def test_image_problems(tmp_path):
    assert image_problem(grey(tmp_path / "good.png")) is None
    assert image_problem(grey(tmp_path / "good.jpg")) is None
    assert "no such" in image_problem(tmp_path / "gone.png")
    assert "damaged" in image_problem(cut(grey(tmp_path / "cut.png")))
    assert "damaged" in image_problem(cut(grey(tmp_path / "cut.jpg")))
    (tmp_path / "text.png").write_text("not a picture")
    assert "not an image" in image_problem(tmp_path / "text.png")
    assert "70 x 8" in image_problem(grey(tmp_path / "flat.png", (70, 8)))
    flipped = bytearray(grey(tmp_path / "bit.png").read_bytes())
    flipped[len(flipped) // 2] ^= 0xFF
    (tmp_path / "bit.png").write_bytes(flipped)
    assert "damaged" in image_problem(tmp_path / "bit.png")


def test_r2gen_lists_everything(tmp_path):
    grey(tmp_path / "images/a/0.png")
    cut(grey(tmp_path / "images/a/1.png"))
    content = {
        "train": [entry("a", "a/0.png", "a/1.png"), entry("b", "b/0.png", report="")],
        "val": [entry("a", "a/0.png"), {"id": "c"}],
        "   ": [entry("d")],
    }
    (tmp_path / "annotation.json").write_text(json.dumps(content))
    problems = check_corpus("r2gen", tmp_path)
    messages = "\n".join(map(str, problems))
    for expected in (
        "blank key",
        "study b has an empty report",
        "study a occurs twice",
        "entry 1 of 'val' lacks",
        "study d names no image",
        "a/1.png: study a: damaged image",
        "b/0.png: study b: no such image file",
        "belongs to 2 views",
    ):
        assert expected in messages, expected
    assert len(problems) == 8
    assert all("\n" not in str(problem) for problem in problems)


def test_a_sound_corpus_has_no_problem(tmp_path):
    for study in "abc":
        grey(tmp_path / f"images/{study}.png")
    parts = {k: [entry(s, f"{s}.png")] for k, s in zip(("train", "val", "test"), "abc")}
    (tmp_path / "annotation.json").write_text(json.dumps(parts))
    assert check_corpus("r2gen", tmp_path, workers=2) == []


def test_private(tmp_path):
    grey(tmp_path / "a.png")
    cut(grey(tmp_path / "b.jpg"))
    (tmp_path / "studies.csv").write_text(
        "study,image,view\na,a.png,front\nb,b.jpg,\nc,gone.png,\nd,a.png,\ne,a.png,top\n"
    )
    problems = check_corpus("private", tmp_path)
    assert [problem.study for problem in problems] == ["c", "d", "e", "e", "b"]
    assert problems[0].file.endswith("studies.csv, line 4")
    assert "damaged" in problems[-1].message and problems[-1].file.endswith("b.jpg")


def test_kit2018(tmp_path):
    entries = {"CXR90001": ["a b", "c d"], "CXR90002": ["  "]}
    files = Kit2018Files(entries, ("CXR90001", "CXR7"), ("CXR90001",), ("x",))
    write_files(tmp_path, files)
    found = [(Path(p.file).name, p.study) for p in check_corpus("kit2018", tmp_path)]
    assert found == [
        ("data_entry.json", "CXR90002"),
        ("train_split.json", "CXR7"),
        ("test_split.json", "CXR90001"),
        ("vocabulary.json", ""),
    ]
    entries = {"CXR90001": ["a b", "c d"], "CXR90002": ["e f"]}
    vocabulary = first_appearance(entries.values())
    write_files(tmp_path, Kit2018Files(entries, ("CXR90001",), ("CXR90002",), vocabulary))
    grey(tmp_path / "CXR90001_IM-1-1.png")
    grey(tmp_path / "CXR90001_IM-1-2.png")
    (problem,) = check_corpus("kit2018", tmp_path)
    assert "1 of 2 studies lack" in problem.message and problem.study == "CXR90002"
    grey(tmp_path / "CXR90002_IM-1-1.png")
    cut(grey(tmp_path / "CXR90002_IM-1-2.png"))
    (problem,) = check_corpus("kit2018", tmp_path)
    assert problem.study == "CXR90002" and "damaged" in problem.message


def test_openi_absent_images_are_one_problem(tmp_path):
    (problem,) = check_corpus("openi", tmp_path)
    assert "all 7470 radiographs are missing" in problem.message
    image = read_archive(reports_archive())[0].views[0].id
    cut(grey(tmp_path / "images" / f"{image}.png"))
    missing, damaged = check_corpus("openi", tmp_path)
    assert "7469 of 7470" in missing.message
    assert damaged.study == "CXR1" and "damaged" in damaged.message


def test_missing_things_are_problems_not_crashes(tmp_path, monkeypatch):
    monkeypatch.delenv("R2GENKIT_DATA", raising=False)
    for name in ("r2gen", "kit2018", "private"):
        (problem,) = check_corpus(name, tmp_path)
        assert str(tmp_path) in str(problem)
        assert str(problem).count(str(tmp_path)) == 1
        (problem,) = check_corpus(name)
        assert "R2GENKIT_DATA" in problem.message
        (problem,) = check_corpus(name, tmp_path / "nowhere")
        assert "no such folder" in problem.message
    with pytest.raises(KitError, match="Unknown corpus"):
        check_corpus("mimic")


def test_phantom_has_no_problem():
    assert check_corpus("phantom") == []


def test_problem_as_text():
    assert str(Problem("f.png", "s1", "damaged.")) == "f.png: study s1: damaged."
    assert str(Problem("f.png", "s1", "study s1 is odd.")) == "f.png: study s1 is odd."
    assert str(Problem("f.png", "", "odd.")) == "f.png: odd."
    assert str(Problem("f", "", "f: no such folder.")) == "f: no such folder."


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("R2GENKIT_DATA"), reason="needs R2GENKIT_DATA")
def test_the_real_radiographs_are_sound():
    folder = os.environ["R2GENKIT_DATA"]
    assert check_corpus("r2gen", folder, annotation="annotation_subset.json") == []
    (problem,) = check_corpus("openi", folder)
    assert "radiographs are missing" in problem.message
