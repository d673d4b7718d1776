"""A tiny trained run explains a study of its corpus, and image files, as one page."""

import base64
import json
import re

import numpy as np
import pytest
from PIL import Image

from r2genkit import cli
from r2genkit.errors import KitError
from r2genkit.experiments import run
from r2genkit.experiments.explain import (
    explain_runs,
    explain_study,
    find_study,
    measured,
    report_numbers,
)
from r2genkit.experiments.faithfulness import FaithfulnessRow, patch_cover, sentence_of
from r2genkit.experiments.private_set import pixels_of
from r2genkit.metrics.findings import default_labeler
from r2genkit.paths import results_dir
from r2genkit.viz.transformer import drawn_masks
from r2genkit.viz.widgets.scrubber import ScrubberData, ScrubberReport

# Fewer studies than worker processes are started for.
TINY = (
    "data.limit_train=26",
    "data.limit_validation=9",
    "data.limit_test=12",
    "encoder.image_size=96",
    "encoder.pca=16",
    "tags.epochs=1",
    "tags.min_positives=2",
    "training.epochs=2",
    "sampling.batch_size=8",
    "scoring.bootstrap=40",
    "scoring.meteor=false",
    "scoring.swap=1",
    "decoding.max_length=12",
)


pytestmark = pytest.mark.usefixtures("folders")


_KEPT: dict = {}


@pytest.fixture
def finished(folders):
    if "run" not in _KEPT:
        _KEPT["run"] = run("06_base", profile="smoke", overrides=TINY, progress=False)
    return _KEPT["run"]


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["r2genkit", "explain", *map(str, arguments)])
    code = 0
    try:
        cli.main()
    except SystemExit as leave:
        code = leave.code or 0
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def content_of(page):
    (found,) = re.findall(r'<script id="data"[^>]*>(.*?)</script>', page, re.S)
    return json.loads(found)


def test_a_test_study_is_shown_as_the_run_reported_it(finished, monkeypatch, capsys, tmp_path):
    text, system = finished.text(), finished.system()
    # One whose films show something, if there is one, for the outlines.
    study = max((text.studies[one] for one in text.split.test), key=lambda s: len(s.findings))
    out = tmp_path / "new" / "report.html"
    code, printed, told = call(
        monkeypatch, capsys, "--study", study.id, "--run", finished.folder, "--out", out
    )
    assert code == 0, told
    report = finished.hypotheses[study.id]
    assert report in printed and str(out) in printed
    assert f"Study {study.id} is in the test set." in told
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]  # nothing half-written
    content = content_of(out.read_text(encoding="utf-8"))
    assert "synthetic" in content["synthetic"]
    (shown,) = content["reports"]
    assert " ".join(shown["words"]) == report
    assert [view["name"] for view in content["views"]] == ["frontal", "lateral"]

    hypothesis = system.report_of(pixels_of(study, system.recipe.encoder), trace=True)
    heads = hypothesis.trace["cross_attention"]
    assert len(shown["maps"]) == 1 + heads.shape[1] * heads.shape[2]
    chosen = next(entry for entry in shown["maps"] if entry["head"] == [1, 3])
    seen = heads[:, 0, 2].reshape(len(heads), -1)
    got = np.frombuffer(base64.b64decode(chosen["bytes"]), np.uint8).reshape(seen.shape)
    assert np.abs(got / 255 - seen / seen.max(1, keepdims=True)).max() <= 0.5 / 255 + 1e-6

    masks = drawn_masks(study, system.recipe.encoder.image_size)
    titles = default_labeler().titles
    assert masks and [mask["name"] for mask in content["masks"]] == [titles[one] for one in masks]
    for mask, drawn in zip(content["masks"], masks.values()):
        assert [bool(path) for path in mask["paths"]] == drawn.any((1, 2)).tolist()


def row_of(result, **changes):
    """What ``r2genkit faithfulness`` might have measured about a run."""
    score = {"value": 0.4, "low": 0.3, "high": 0.5}
    own = ("run", "title", "order", "corpus", "synthetic", "protocol", "profile", "seed")
    own += ("recipe_hash", "code_hash", "split_fingerprint")
    return FaithfulnessRow(
        **{name: getattr(result.row, name) for name in own}
        | {"map": "attention", "place": 0, "units": 31, "studies": 12, "digest": "0" * 16}
        | {"scores": dict.fromkeys(("pointing", "energy", "deletion", "insertion"), score)}
        | {"command": "r2genkit faithfulness 06_base", "git_revision": "", "date": ""}
        | changes
    )


def test_the_number_under_a_map_is_of_this_very_run(finished, monkeypatch, capsys, tmp_path):
    assert measured(finished) == {}
    path = results_dir("smoke") / "faithfulness" / "phantom.jsonl"
    rows = [
        row_of(finished, seed=7, units=1),
        row_of(finished, code_hash="0" * 16, units=2),
        row_of(finished, map="gradient", place=2, units=3),
    ]
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"{row.model_dump_json()}\n" for row in rows), encoding="utf-8")
    assert measured(finished) == {}
    own = row_of(finished)
    path.write_text(path.read_text() + f"{own.model_dump_json()}\n", encoding="utf-8")
    told = measured(finished)
    assert told == {"average": sentence_of(own)}
    assert "over 31 finding words of 12 test studies" in told["average"]
    study, out = finished.text().split.test[0], tmp_path / "number.html"
    code, *_ = call(monkeypatch, capsys, "--study", study, "--run", finished.folder, "--out", out)
    assert code == 0
    maps = content_of(out.read_text(encoding="utf-8"))["reports"][0]["maps"]
    assert maps[0]["number"].startswith(told["average"] + " In this report: ")
    assert all(entry["number"].startswith("In this report: ") for entry in maps[1:])
    path.unlink()


def test_every_map_of_a_report_has_its_own_number(finished):
    """Against the maps written out: the word sits on a finding, and looks at it or past it."""
    text = finished.text()
    hearts = {s.id: "cardiomegaly" in {f.name for f in s.findings} for s in text.studies.values()}
    study = text.studies[next(one for one, large in hearts.items() if large)]
    grid = 4
    cover = patch_cover(study, "cardiomegaly", grid)  # [2 * 16]
    best = int(cover.argmax())
    words = ("the", "heart", "is", "enlarged", ".")
    at = np.zeros((5, 2, grid, grid), np.float32)
    at.reshape(5, -1)[:, best] = 1
    past = np.zeros_like(at)
    past.reshape(5, -1)[:, int((cover == 0).argmax())] = 1
    maps = {"at": at, "past": past, "even": np.ones_like(at)}
    data = ScrubberData(
        title="x",
        views=(np.zeros((64, 64), np.uint8),) * 2,
        view_names=("frontal", "lateral"),
        reports=(ScrubberReport(title="x", words=words, maps=maps),),
    )
    told = report_numbers(data, study, [0, 1])
    chance = (cover >= 0.1).mean()
    assert f"1 drawn finding, pointing 1.00 (chance {chance:.2f})" in told["at"]
    assert f"energy {cover[best]:.2f} (an even map {cover.mean():.2f})" in told["at"]
    assert "pointing 0.00" in told["past"] and "energy 0.00" in told["past"]
    assert f"energy {cover.mean():.2f} (" in told["even"] and "entropy 1.00" in told["even"]
    assert "entropy 0.00" in told["at"]
    assert report_numbers(data)["at"] == "In this report: entropy 0.00 (1: an even look)."
    other = text.studies[next(one for one, large in hearts.items() if not large)]
    assert "no finding word that the phantom drew" in report_numbers(data, other, [0, 1])["at"]


def test_runs_of_one_corpus_on_one_study(finished):
    study = finished.text().split.test[0]
    data = explain_runs([finished, finished], study)
    assert [" ".join(one.words) for one in data.reports] == [finished.hypotheses[study]] * 2
    assert {one.title for one in data.reports} == {finished.row.title}
    with pytest.raises(KitError, match="give at least one"):
        explain_runs([], study)


def test_two_runs_stand_above_one_another(finished, monkeypatch, capsys, tmp_path):
    study, out = finished.text().split.train[0], tmp_path / "both.html"
    options = ["--study", study, "--run", finished.folder, "--compare", finished.folder]
    code, _, told = call(monkeypatch, capsys, *options, "--out", out, "--method", "beam")
    assert code == 0
    assert told.count("is in the training set") == 1 and "learnt from its report" in told
    first, second = content_of(out.read_text(encoding="utf-8"))["reports"]
    assert first["title"].startswith("A: ") and second["title"].startswith("B: ")
    assert first["words"] == second["words"]


def test_image_files_of_ones_own(finished, monkeypatch, capsys, tmp_path):
    study = finished.text().studies[finished.text().split.test[0]]
    pixels = pixels_of(study, finished.recipe.encoder)
    file = tmp_path / "a.png"
    Image.fromarray(pixels[0]).save(file)
    out = tmp_path / "own.html"
    options = ["--frontal", file, "--run", finished.folder, "--out", out, "--no-check"]
    code, _, told = call(monkeypatch, capsys, *options)
    assert code == 0 and "means nothing clinically" in told
    content = content_of(out.read_text(encoding="utf-8"))
    assert [view["name"] for view in content["views"]] == ["frontal"]
    assert content["masks"] == [] and content["synthetic"] == ""
    assert any("means nothing clinically" in note for note in content["notes"])


def test_mistakes_are_told_in_one_sentence(finished, monkeypatch, capsys, tmp_path):
    known, out = finished.text().split.test[0], tmp_path / "none.html"

    def told(*options):
        code, printed, error = call(
            monkeypatch, capsys, *options, "--run", finished.folder, "--out", out
        )
        assert code == 2 and printed == "" and error.count("\n") == 1 and not out.exists()
        return error

    wrong = told("--study", f"{known}x")
    assert f"has no study '{known}x'" in wrong and known in wrong
    assert "ids of its test set are" in told("--study", "%%%%")
    assert "either --study ID or --frontal FILE" in told()
    assert "either --study ID or --frontal FILE" in told("--study", known, "--frontal", "a.png")
    assert "--lateral goes with --frontal" in told("--study", known, "--lateral", "b.png")
    assert "does not exist" in told("--frontal", tmp_path / "missing.png", "--no-check")
    assert "unknown decoding method 'fast'" in told("--study", known, "--method", "fast")
    code, _, error = call(
        monkeypatch, capsys, "--study", known, "--run", tmp_path / "empty", "--out", out
    )
    assert code == 2 and "holds no finished run" in error


def test_any_study_of_the_corpus_is_found(finished):
    text = finished.text()
    for part, words in (
        ("train", "is in the training set; Transformer"),
        ("validation", "helped to choose the weights of Transformer"),
        ("test", "is in the test set."),
    ):
        study, told = find_study(finished, getattr(text.split, part)[0])
        assert study.id in told and words in told
    # Beyond the limits of the tiny split.
    other = next(one for one in ("CXR1", "CXR2", "CXR3", "CXR4") if one not in text.studies)
    study, told = find_study(finished, other)
    assert study.id == other and "is in no part of the split" in told


def test_a_model_that_does_not_attend_has_no_maps(finished, monkeypatch):
    system = finished.system()
    study = finished.text().studies[finished.text().split.test[0]]
    plain = system.report_of(pixels_of(study, system.recipe.encoder))
    monkeypatch.setattr(type(system), "report_of", lambda *_, **__: plain)
    with pytest.raises(cli.KitError, match="does not attend to patches"):
        explain_study(system, study, name="A")
