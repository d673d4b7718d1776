"""The whole road on a handful of phantom studies."""

import json
from multiprocessing import get_context

import numpy as np
import pytest

from r2genkit.corpora.mesh import FINDING_TYPES
from r2genkit.errors import KitError
from r2genkit.experiments import load_recipe, read_rows, read_run, run
from r2genkit.experiments.recipe import RECIPES, recipe_names
from r2genkit.models import MODELS
from r2genkit.paths import runs_dir
from r2genkit.training.checkpoints import Checkpoints

TINY = (
    "data.limit_train=40",
    "data.limit_validation=8",
    "data.limit_test=12",
    "encoder.image_size=96",
    "encoder.pca=16",
    "tags.epochs=1",
    "tags.min_positives=2",
    "training.epochs=2",
    "training.checkpoint_steps=1",
    "sampling.batch_size=8",
    "scoring.bootstrap=40",
    "scoring.meteor=false",
)
TINY_BASELINE = tuple(text for text in TINY if text.startswith(("data.", "scoring.")))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def folders(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("R2GENKIT_CACHE", str(cache))
    monkeypatch.setenv("R2GENKIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("R2GENKIT_RESULTS", str(tmp_path / "results"))


def tiny_run(name="03_show_attend_tell", **options):
    overrides = TINY_BASELINE if name.startswith("02") else TINY
    return run(name, profile="smoke", overrides=overrides, progress=False, **options)


def test_one_run_leaves_a_complete_row_and_its_files():
    result = tiny_run()
    assert read_rows("smoke")[-1] == result.row
    assert result.row.synthetic and result.row.corpus == "phantom"
    assert set(result.hypotheses) == set(result.references) and len(result.hypotheses) == 12
    assert set(result.text().split.test) == set(result.hypotheses)
    names = {path.name for path in result.folder.iterdir()}
    assert {"recipe.json", "vocabulary.json", "predictions.json", "row.json"} <= names
    assert result.row.metrics["METEOR"].value is None and result.row.metrics["METEOR"].reason
    assert result.row.constant_difference and result.row.swap_difference
    assert result.row.swap["METEOR"].value is None and result.row.swap["BLEU-1"].value is not None
    subsets = result.row.subsets
    assert subsets["normal"].studies + subsets["abnormal"].studies == 12
    assert set(result.row.findings) == set(FINDING_TYPES)
    assert len(result.history) == 2


def test_the_same_seed_gives_the_same_row_and_another_seed_another():
    first = tiny_run()
    again = tiny_run(fresh=True)
    assert first.row.numbers() == again.row.numbers()
    assert first.hypotheses == again.hypotheses
    other = tiny_run(seed=1)
    assert [e["train"] for e in other.history] != [e["train"] for e in first.history]


def test_tensorboard_changes_no_number():
    plain = tiny_run()
    watched = tiny_run(fresh=True, tensorboard=True)
    assert list((watched.folder / "tensorboard").glob("events*"))
    assert watched.row.numbers() == plain.row.numbers()


def test_a_finished_run_is_read_not_repeated(monkeypatch):
    first = tiny_run()
    monkeypatch.setattr("r2genkit.experiments.runner._run", lambda *a: pytest.fail("ran again"))
    assert tiny_run().row == first.row


def _run_elsewhere(cache, runs, results):
    import os

    os.environ |= {
        "R2GENKIT_CACHE": cache,
        "R2GENKIT_RUNS": runs,
        "R2GENKIT_RESULTS": results,
    }
    return tiny_run("02_constant").row.measured.total_seconds


def test_two_processes_asking_for_one_run_do_it_once(cache, tmp_path):
    folders = [str(path) for path in (cache, tmp_path / "runs", tmp_path / "results")]
    with get_context("spawn").Pool(2) as pool:
        seconds = pool.starmap(_run_elsewhere, [folders, folders])
    assert seconds[0] == seconds[1]  # the very same row: one trained, the other read
    assert len(read_rows("smoke")) == 1


class Killed(Exception):
    """Stands for a power cut."""


@pytest.mark.parametrize("step", [3, 7])
def test_a_killed_run_resumes_to_the_same_row(monkeypatch, step, tmp_path):
    whole = tiny_run()
    monkeypatch.setenv("R2GENKIT_RUNS", str(tmp_path / f"other{step}"))
    original, calls = Checkpoints.save_last, []

    def failing(*arguments, **options):
        original(*arguments, **options)
        calls.append(1)
        if len(calls) == step:
            raise Killed

    monkeypatch.setattr(Checkpoints, "save_last", failing)
    with pytest.raises(Killed):
        tiny_run()
    monkeypatch.setattr(Checkpoints, "save_last", original)
    resumed = tiny_run()
    assert resumed.folder != whole.folder
    assert resumed.row.numbers() == whole.row.numbers()
    assert resumed.hypotheses == whole.hypotheses


@pytest.mark.parametrize("name", ["02_most_frequent", "02_constant", "02_nearest_image"])
def test_baselines_run_through_the_same_door(name):
    overrides = TINY if name == "02_nearest_image" else TINY_BASELINE
    overrides = [text for text in overrides if not text.startswith(("training.", "sampling."))]
    row = run(name, profile="smoke", overrides=overrides, progress=False).row
    assert row.kind == "baseline" and row.swap is None
    if name == "02_constant":
        assert row.distinct_percent == pytest.approx(100 / 12) and row.constant_difference is None


def test_the_oracle_row_is_marked_as_one():
    row = run("02_finding_oracle", profile="smoke", overrides=TINY_BASELINE, progress=False).row
    assert row.kind == "oracle" and row.selected_on == "true findings of the test studies"


def test_test_reports_never_reach_training_or_fitting(monkeypatch):
    """Changing every test report changes the scores and nothing that was written."""
    before = tiny_run("02_constant")
    from r2genkit.experiments import runner

    original = runner.prepare_text

    def changed(*arguments):
        import dataclasses

        text = original(*arguments)
        swapped = dict.fromkeys(text.split.test, "no such words .")
        return dataclasses.replace(text, references={**text.references, **swapped})

    monkeypatch.setattr(runner, "prepare_text", changed)
    after = tiny_run("02_constant", fresh=True)
    assert after.hypotheses == before.hypotheses
    assert after.row.metrics["BLEU-1"].value != before.row.metrics["BLEU-1"].value


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(KitError, match="holds no finished run"):
        read_run(tmp_path)


def test_intervals_contain_their_values():
    row = tiny_run().row
    for name, score in row.metrics.items():
        if score.value is not None and score.low is not None:
            assert score.low - 1e-9 <= score.value <= score.high + 1e-9 or name == "CIDEr", name


def test_predictions_file_can_be_scored_by_itself(tmp_path):
    from r2genkit.experiments.scoring import score_files

    result = tiny_run("02_most_frequent")
    paths = []
    for name, reports in (("h", result.hypotheses), ("r", result.references)):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(reports))
    evaluation = score_files(*paths, compat="none", bootstrap=0)
    assert np.isclose(evaluation.metrics["BLEU-4"], result.row.metrics["BLEU-4"].value)


def one_recipe_per_model():
    """The first recipe with tags of every model and variant: what the notebooks train."""
    found = {}
    for name in recipe_names():
        recipe = load_recipe(name)
        if recipe.model and recipe.tags and not recipe.on_request:
            found.setdefault((recipe.model.name, recipe.model.settings.get("variant")), name)
    return sorted(found.values())


@pytest.mark.parametrize("name", one_recipe_per_model())
def test_a_trained_run_writes_the_same_report_from_pixels_alone(name):
    """The run's folder is all that is needed: encoder, projection, tags, model, vocabulary."""
    result = tiny_run(name)
    system, images = result.system(), result.images().images
    for study_id in list(result.hypotheses)[:3]:
        hypothesis = system.report_of(list(images[study_id]), trace=True)
        # After two epochs on 40 studies the next word may hang on the last bit of a float, and
        # that on the size of the minibatch: the tail of such a text proves nothing.
        assert hypothesis.text.split()[:6] == result.hypotheses[study_id].split()[:6]
        if "attention" in hypothesis.trace:
            assert hypothesis.trace["attention"].shape[1] == 2
    one = system.report_of([images[study_id][0]])  # one view is enough
    assert one.text and one.text == system.report_of([images[study_id][0]]).text
    assert system.synthetic


def test_every_model_writes_from_pixels():
    models = {load_recipe(name).model.name for name in one_recipe_per_model()}
    assert models == set(MODELS)


@pytest.mark.parametrize("name", ["03_show_attend_tell", "04_co_attention"])
def test_generate_reads_files_and_draws_attention(tmp_path, monkeypatch, capsys, name):
    from PIL import Image

    from r2genkit import cli

    result = tiny_run(name)
    views = result.images().images[next(iter(result.hypotheses))]
    files = []
    for name, view in zip(("frontal", "lateral"), views):
        files.append(tmp_path / f"{name}.png")
        Image.fromarray(view).save(files[-1])
    figure = tmp_path / "attention.png"
    arguments = ["generate", "--run", result.folder, "--frontal", files[0], "--attention", figure]
    monkeypatch.setattr("sys.argv", ["r2genkit", *map(str, arguments)])
    cli.main()
    printed = capsys.readouterr()
    assert printed.out.strip() and "synthetic" in printed.err
    assert Image.open(figure).size[0] > 200
    monkeypatch.setattr(
        "sys.argv", [*map(str, ["r2genkit", *arguments[:3], "--frontal", "no.png"])]
    )
    with pytest.raises(SystemExit) as leave:
        cli.main()
    assert leave.value.code == 2 and "no.png" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["04_hier_rnn", "05_mrna_improved"])
def test_sentence_level_models_write_reports_of_one_view_and_of_two(name):
    result = tiny_run(name)
    losses = result.history[-1]["train"]
    assert losses["loss"] == pytest.approx(losses["word_ce"] + losses["stop_ce"], rel=1e-4)
    system, images = result.system(), result.images().images
    for study_id in list(result.hypotheses)[:3]:
        report = system.report_of(list(images[study_id])).text
        assert report == result.hypotheses[study_id]
        assert report.endswith(".")
    for method in ("greedy", "beam", "sample"):
        assert system.report_of([images[study_id][0]], method=method).text


def test_training_can_start_from_another_run(tmp_path):
    recipe = tmp_path / "03_further.yaml"
    text = (RECIPES / "03_show_tell.yaml").read_text(encoding="utf-8")
    text = text.replace("run: 03_show_tell", "run: 03_further", 1)
    recipe.write_text(text + "start_from: 03_show_tell\n", encoding="utf-8")
    further = tiny_run(str(recipe), seed=1)
    assert "training started from 03_show_tell" in further.row.notes
    (base,) = (runs_dir() / "smoke" / "phantom").glob("03_show_tell-seed1-*/row.json")
    start = read_run(base.parent)
    assert start.recipe.data == further.recipe.data and start.recipe.model == further.recipe.model
    assert start.recipe.start_from is None
    assert further.recipe.start_from.fingerprint == start.recipe.fingerprint()
    # Trained twice as long, it has moved on from where the other stopped.
    assert further.history[0]["train"]["loss"] < start.history[0]["train"]["loss"]
    text = text.replace("name: show_tell", "name: cascade", 1)
    recipe.write_text(text + "start_from: 03_show_tell\n", encoding="utf-8")
    with pytest.raises(KitError, match="trains the model show_tell and not cascade"):
        load_recipe(recipe, profile="smoke")
