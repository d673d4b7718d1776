"""A tiny trained run reads folders of its own: reports, scores, gap, warnings, files."""

import csv
import dataclasses
import json
import os
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from r2genkit.corpora import load_corpus
from r2genkit.corpora.private import read_private, write_private
from r2genkit.errors import KitError
from r2genkit.experiments import run
from r2genkit.experiments.familiarity import FILE, familiarity_of
from r2genkit.experiments.private_set import (
    CONSTANT_TITLE,
    FREQUENT_TITLE,
    check_untrained,
    gap_by_cause,
    paired_change,
    pixels_of,
    prepare_private,
    read_private_set,
    read_studies,
    save_private,
    unpaired_difference,
    views_of,
    widths_by_size,
)
from r2genkit.experiments.runner import rescore
from r2genkit.metrics import evaluate_reports
from r2genkit.study import Study, View
from tests.command import call

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
)

WORDS = ("heart", "lungs", "clear", "normal", "size", "effusion", "no", "acute", "bones", "intact")


pytestmark = pytest.mark.usefixtures("folders")


_KEPT: dict = {}


@pytest.fixture
def public(folders):
    if "run" not in _KEPT:
        _KEPT["run"] = run("03_show_tell", profile="smoke", overrides=TINY, progress=False)
        _KEPT["system"] = _KEPT["run"].system()
        _KEPT["familiarity"] = familiarity_of(_KEPT["run"], _KEPT["system"])
    return _KEPT["run"]


@pytest.fixture
def system(public):
    return _KEPT["system"]


@pytest.fixture
def familiarity(public):
    return _KEPT["familiarity"]


@pytest.fixture(scope="module")
def folder(place):
    """Four studies: two views, one view, two views without a report, two views."""
    studies = load_corpus("phantom_shifted", cause="none", studies=4)
    studies[1] = dataclasses.replace(studies[1], views=studies[1].views[:1])
    studies[2] = dataclasses.replace(studies[2], findings_text="", impression_text="")
    write_private(studies, place / "folder", size=96)
    return place / "folder"


def evaluation(texts, wanted, **options):
    ids = [str(number) for number in range(len(texts))]
    return evaluate_reports(
        dict(zip(ids, texts)), dict(zip(ids, wanted)), meteor=False, bootstrap=200, **options
    )


# --- reading -------------------------------------------------------------------------------------


def test_reports_in_minibatches_are_those_of_single_studies(system, folder):
    studies = read_private(folder)
    readings = read_studies(system, studies)
    assert list(readings) == [study.id for study in studies]
    for study in studies:
        single = system.report_of(pixels_of(study, system.recipe.encoder))
        assert readings[study.id].report == single.text
        assert readings[study.id].distances is None


def test_which_views_are_read():
    def study(*projections):
        views = tuple(View(f"{i}{p}", p, Path("x.png")) for i, p in enumerate(projections))
        return Study("s", views, "", "")

    def chosen(*projections):
        return [view.id for view in views_of(study(*projections))]

    assert chosen("frontal") == ["0frontal"]
    assert chosen("frontal", "frontal", "lateral") == ["0frontal", "2lateral"]
    assert chosen("unknown", "unknown", "unknown") == ["0unknown", "1unknown"]
    assert chosen("lateral", "lateral", "lateral") == ["0lateral", "1lateral"]
    with pytest.raises(KitError, match="study s has no image"):
        views_of(study())


def test_bad_input_names_the_study(system, folder, tmp_path):
    studies = read_private(folder)
    with pytest.raises(KitError, match=f"study {studies[0].id} occurs twice"):
        read_studies(system, [studies[0], studies[0]])
    with pytest.raises(KitError, match="no studies"):
        read_studies(system, [])
    with pytest.raises(KitError, match="unknown decoding method 'fast'"):
        read_studies(system, studies, method="fast")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    bad = Study("p1", (View("broken.png", "frontal", broken),), "", "")
    with pytest.raises(KitError, match=r"study p1: image .*broken\.png cannot be read"):
        read_studies(system, [bad])


# --- scores and gap ------------------------------------------------------------------------------


def test_scores_and_gap_of_the_public_set_itself_are_the_runs_own(public, system):
    """A "private" set that is the public test set: same scores, no gap."""
    text = public.text()
    studies = [text.studies[one] for one in text.split.test]
    result = read_private_set(public, studies, system=system)
    assert result.hypotheses == public.hypotheses
    assert result.references == public.references
    own = rescore(public)
    for metric in ("BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr", "finding-F1"):
        assert result.scores[result.title].metrics[metric] == pytest.approx(own.metrics[metric])
        assert result.gap[result.title][metric].value == pytest.approx(0)
        gap = result.gap[CONSTANT_TITLE][metric]
        assert gap.low <= 0 <= gap.high
    assert set(result.scores) == {result.title, CONSTANT_TITLE, FREQUENT_TITLE}
    said = result.public[FREQUENT_TITLE]
    assert said.diversity["distinct_percent"] == pytest.approx(100 / 12)
    # It is a report of the training set, whatever the private studies are.
    assert said.diversity["verbatim_in_train_percent"] == pytest.approx(100)


def test_folder_without_any_reference_is_read_but_not_scored(public, system, folder, tmp_path):
    studies = [dataclasses.replace(s, findings_text="") for s in read_private(folder)]
    result = read_private_set(public, studies, system=system)
    assert result.scores == {} and result.gap == {} and result.references == {}
    assert any(note.startswith("Not scored: none of 4 studies") for note in result.notes)
    written = save_private(result, tmp_path / "out")
    assert "scores.json" not in written
    assert json.loads(written["predictions.json"].read_text()) == result.hypotheses


def test_files_are_whole_and_agree(public, system, familiarity, folder, tmp_path):
    result = read_private_set(public, folder, system=system, familiarity=familiarity)
    assert len(result.references) == 3
    assert any("1 of 4 studies have no reference" in note for note in result.notes)
    assert any("interval of BLEU-4" in note for note in result.notes)
    written = save_private(result, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(written)
    rows = list(csv.DictReader(written["predictions.csv"].open(newline="")))
    assert [row["study"] for row in rows] == list(result.hypotheses)
    assert [row["views"] for row in rows] == ["2", "1", "2", "2"]
    assert {row["study"]: row["report"] for row in rows} == result.hypotheses
    scores = json.loads(written["scores.json"].read_text())
    assert scores["studies"] == 3
    assert set(scores["gap"]) == set(scores["private"]) == set(scores["public"])
    page = written["gallery.html"].read_text()
    images = _Page.read(page).images
    assert len(images) == 7 and all(source.startswith("data:image/png") for source in images)


def test_another_decoding_method_has_no_gap(public, system, folder):
    result = read_private_set(public, folder, system=system, method="beam")
    assert result.scores and not result.gap


def test_unpaired_gap_is_wider_than_either_set_alone():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 9)) for _ in range(80)]
    wanted = [" ".join(rng.choice(WORDS, 9)) for _ in range(80)]
    small, large = evaluation(texts[:15], wanted[:15]), evaluation(texts[15:], wanted[15:])
    d = unpaired_difference(small, large)["BLEU-1"]
    assert d.value == pytest.approx(small.metrics["BLEU-1"] - large.metrics["BLEU-1"])
    assert d.low < d.value < d.high
    alone = [np.subtract(*one.intervals["BLEU-1"][::-1]) for one in (small, large)]
    assert d.high - d.low > max(alone) * 0.95
    assert d.high - d.low == pytest.approx(np.hypot(*alone), rel=0.25)


def test_paired_change_is_zero_for_equal_texts_even_with_other_references():
    texts = ["heart normal .", "lungs clear .", "small left effusion ."]
    same = evaluation(texts, texts)
    assert paired_change(same, same)["BLEU-1"].high == 0
    told = evaluation(texts, ["the heart is normal .", "clear lungs .", "effusion on the left ."])
    change = paired_change(told, same)
    assert change["BLEU-1"].value < 0 and change["finding-F1"].value == 0
    with pytest.raises(KitError, match="same studies"):
        paired_change(evaluation(texts[:2], texts[:2]), same)


def test_width_falls_with_the_root_of_the_number_of_studies():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 9)) for _ in range(200)]
    scores = evaluation(texts, [" ".join(rng.choice(WORDS, 9)) for _ in range(200)])
    table = widths_by_size(scores, ["BLEU-1"], [20, 80, 200])
    assert table.loc[20, "BLEU-1"] / table.loc[80, "BLEU-1"] == pytest.approx(2, rel=0.25)
    low, high = scores.intervals["BLEU-1"]
    assert table.loc[200, "BLEU-1"] == pytest.approx((high - low) / 2, rel=0.25)
    with pytest.raises(KitError, match="no score is called 'BLEU-9'"):
        widths_by_size(scores, ["BLEU-9"], [20])


# --- unlike images -------------------------------------------------------------------------------


def nonsense(size=96):
    """Images that are no chest film, by name, as arrays of the frontal and the lateral slot."""
    rng = np.random.default_rng(0)
    ramp = np.tile(np.linspace(0, 255, size), (size, 1))
    return {
        "noise": [rng.integers(0, 256, (size, size)).astype(np.uint8) for _ in range(2)],
        "black": [np.zeros((size, size), np.uint8)] * 2,
        "photo": [np.clip(ramp + 40 * (ramp.T > 120), 0, 255).astype(np.uint8)] * 2,
    }


def test_own_kind_is_familiar_and_nonsense_is_not(public, system, familiarity, tmp_path):
    text = public.text()
    studies = [text.studies[one] for one in text.split.validation[:6]]
    readings = read_studies(system, studies, familiarity=familiarity)
    known = np.stack([readings[study.id].distances for study in studies])
    # The same numbers as through the cached patch features of the run.
    assert known == pytest.approx(familiarity.held_out["validation"][:6], rel=0.02)
    turned = {study.id: pixels_of(study, system.recipe.encoder) for study in studies}
    cases = nonsense() | {
        "swapped": turned[studies[0].id][::-1],
        "upside down": [view[::-1] for view in turned[studies[0].id]],
    }
    for name, views in cases.items():
        files = []
        for number, view in enumerate(views):
            files.append(tmp_path / f"{name}{number}.png")
            Image.fromarray(np.ascontiguousarray(view)).save(files[-1])
        odd = Study(name, tuple(View(f.name, "unknown", f) for f in files), "", "")
        result = read_private_set(public, [odd], system=system, familiarity=familiarity)
        assert result.unfamiliar == (name,), name
        assert f"study {name} is unlike the training images" in result.warning(name)


def test_measure_is_kept_beside_the_run_and_needs_nothing_else(public, familiarity, monkeypatch):
    assert (public.folder / FILE).is_file()
    monkeypatch.setattr(type(public), "text", None)  # reading it again must not touch the corpus
    again = familiarity_of(public)
    assert np.array_equal(again.limits, familiarity.limits)


# --- another hospital ----------------------------------------------------------------------------


def test_gap_by_cause(public, system, familiarity):
    causes = ("noise", "style")
    found = gap_by_cause(public, system=system, familiarity=familiarity, causes=causes, studies=4)
    assert list(found.scores) == ["none", "noise", "style"]
    assert set(found.changes) == set(found.constant_changes) == set(causes)
    # Style leaves the images, noise the references, alone.
    assert np.array_equal(found.distances["style"], found.distances["none"])
    assert found.constant_changes["noise"]["BLEU-1"].value == 0
    assert found.constant_changes["style"]["BLEU-1"].value != 0
    assert found.changes["style"]["finding-F1 (coded)"].value == 0
    assert list(found.table()["what differs"]) == ["none", "noise", "style"]
    kept = sorted(path.name for path in (public.folder / "shifted").iterdir())
    assert kept == ["noise-4.json", "none-4.json"]
    stamps = [path.stat().st_mtime_ns for path in (public.folder / "shifted").iterdir()]
    again = gap_by_cause(public, system=system, familiarity=familiarity, causes=causes, studies=4)
    assert stamps == [path.stat().st_mtime_ns for path in (public.folder / "shifted").iterdir()]
    assert again.scores["noise"].metrics == found.scores["noise"].metrics


def test_a_study_of_the_training_set_stops_the_experiment(public):
    text = public.text()
    check_untrained(text, load_corpus("phantom_shifted", cause="none", studies=20))
    trained = text.studies[text.split.train[0]]
    with pytest.raises(KitError, match=f"study {trained.id} or its text"):
        check_untrained(text, [trained])
    copied = dataclasses.replace(trained, id="new")
    with pytest.raises(KitError, match="study new or its text"):
        check_untrained(text, [copied])


def test_private_references_follow_the_rules_of_the_run(system, folder):
    text = prepare_private(system, read_private(folder))
    assert text.split.train == () and len(text.split.test) == 3
    assert all(reference.islower() for reference in text.references.values())


# --- command line --------------------------------------------------------------------------------


def test_private_command(public, folder, monkeypatch, capsys, tmp_path):
    out = tmp_path / "out"
    code, printed, _ = call(
        monkeypatch, capsys, "private", folder, "--run", public.folder, "--out", out
    )
    assert code == 0
    assert "Private minus public test set" in printed and "finding-F1" in printed
    assert "means nothing" in printed and str(out / "gallery.html") in printed
    predictions = json.loads((out / "predictions.json").read_text())
    assert len(predictions) == 4
    code, _, told = call(monkeypatch, capsys, "private", tmp_path / "none", "--run", public.folder)
    assert code == 2 and "none" in told and told.count("\n") == 1


def test_generate_warns_once_and_can_be_told_not_to(public, monkeypatch, capsys, tmp_path):
    file = tmp_path / "black.png"
    Image.fromarray(nonsense()["black"][0]).save(file)
    arguments = ["generate", "--run", public.folder, "--frontal", file]
    code, _, told = call(monkeypatch, capsys, *arguments)
    lines = [line for line in told.splitlines() if line.startswith("warning:")]
    assert code == 0 and len(lines) == 1 and "unlike the training images" in lines[0]
    code, _, told = call(monkeypatch, capsys, *arguments, "--no-check")
    assert code == 0 and "warning" not in told


def test_export_command_writes_a_private_folder(monkeypatch, capsys, tmp_path):
    target = tmp_path / "hospital"
    code, printed, _ = call(monkeypatch, capsys, "data", "export", target, "--studies", "2")
    assert code == 0 and "synthetic" in printed
    studies = read_private(target)
    assert len(studies) == 2 and all(len(study.views) == 2 for study in studies)
    code, _, told = call(monkeypatch, capsys, "data", "export", target)
    assert code == 2 and "not empty" in told


# --- real radiographs ----------------------------------------------------------------------------


@pytest.mark.data
def test_real_radiographs_are_unlike_phantoms(public, system, familiarity, tmp_path):
    data = os.environ.get("R2GENKIT_DATA")
    if not data or not (Path(data) / "annotation_subset.json").is_file():
        pytest.skip("needs R2GENKIT_DATA with annotation_subset.json and images/")
    content = json.loads((Path(data) / "annotation_subset.json").read_text(encoding="utf-8"))
    lines = ["study,image,view,report"]
    entries = [entry for part in content.values() for entry in part]
    for entry in entries:
        for number, (image, view) in enumerate(zip(entry["image_path"], ("frontal", "lateral"))):
            source = Path(data) / image
            name = f"{entry['id']}_{number}{source.suffix}"
            (tmp_path / name).write_bytes(source.read_bytes())
            report = "" if number else '"' + entry["report"].replace('"', '""') + '"'
            lines.append(f"{entry['id']},{name},{view},{report}")
    (tmp_path / "studies.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = read_private_set(public, tmp_path, system=system, familiarity=familiarity)
    assert len(result.hypotheses) == len(result.references) == len(entries) >= 11
    assert len(result.unfamiliar) >= 0.9 * len(entries)  # trained on phantoms only
    written = save_private(result, tmp_path / "out")
    assert len(_Page.read(written["gallery.html"].read_text()).images) == 2 * len(entries)


class _Page(HTMLParser):
    """Sources of images and names of elements of a page."""

    def __init__(self):
        super().__init__()
        self.images, self.elements = [], []

    @classmethod
    def read(cls, text):
        page = cls()
        page.feed(text)
        return page

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        if tag == "img":
            self.images.append(dict(attributes)["src"])
