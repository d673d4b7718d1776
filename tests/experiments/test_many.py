"""Several recipes and seeds in one command."""

import os
import time

import pytest

from r2genkit.errors import KitError
from r2genkit.experiments import load_recipe, read_rows, recipe_names, reproduce, run
from r2genkit.experiments.many import (
    SEED_LISTS,
    Finished,
    _Workers,
    choose_recipes,
    failures,
    parse_seeds,
    run_many,
    summary_tables,
)
from tests.command import call

TINY = (
    "data.limit_train=40",
    "data.limit_validation=8",
    "data.limit_test=12",
    "encoder.image_size=96",
    "encoder.pca=16",
    "tags.epochs=1",
    "tags.min_positives=2",
    "training.epochs=1",
    "sampling.batch_size=8",
    "scoring.bootstrap=20",
    "scoring.meteor=false",
    "scoring.swap=0",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def folders(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("R2GENKIT_CACHE", str(cache))
    monkeypatch.setenv("R2GENKIT_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("R2GENKIT_RESULTS", str(tmp_path / "results"))


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("3", (0, 1, 2)),
        ("1", (0,)),
        ("0,5,7", (0, 5, 7)),
        (" 5 , 0 ", (5, 0)),
        ("9223,", (9223,)),
        ("r2gen", (9223, 3247671, 98726412, 12415108, 1248912)),
    ],
)
def test_seeds_are_a_number_a_list_or_a_name(text, seeds):
    assert parse_seeds(text) == seeds


def test_counting_starts_where_it_is_told():
    assert parse_seeds("3", first=4) == (4, 5, 6)
    assert parse_seeds("1,2", first=4) == (1, 2)


@pytest.mark.parametrize("text", ["0", "9223", "1,1", "a", "", "-1", "1;2", "1,,2", "2.5"])
def test_other_seeds_are_refused_in_one_sentence(text):
    with pytest.raises(KitError, match="--seeds") as error:
        parse_seeds(text)
    assert "\n" not in str(error.value)


def test_a_single_large_number_is_taken_for_a_seed():
    with pytest.raises(KitError, match="write --seed 9223"):
        parse_seeds("9223")


def test_names_chapters_and_all():
    known = {name: load_recipe(name) for name in recipe_names()}
    usual = [name for name, recipe in known.items() if recipe.model and not recipe.on_request]
    assert choose_recipes(["all"]) == usual
    assert "07_cmn_long" not in choose_recipes(["07"])
    assert choose_recipes(["07_cmn_long"]) == ["07_cmn_long"]
    chapter = choose_recipes(["03"])
    assert chapter == choose_recipes(["3"]) == [n for n in recipe_names() if n.startswith("03_")]
    assert len(chapter) > 1
    assert choose_recipes(["03_cascade", "03"])[0] == "03_cascade"
    assert sorted(choose_recipes(["03_cascade", "03"])) == chapter  # each once
    assert choose_recipes(["02"]) == [n for n in recipe_names() if n.startswith("02_")]
    with pytest.raises(KitError, match="no recipe of chapter 99"):
        choose_recipes(["99"])


@pytest.mark.slow
def test_recipes_and_seeds_side_by_side_equal_single_runs():
    """Two processes; one recipe cannot be built and stops no other."""
    told = []
    broken = "model.settings.hidden_size=8"  # the transformer knows no such option
    options = {"profile": "smoke", "overrides": (*TINY, broken)}
    names = ["06_base", "03_show_tell"]
    finished = run_many(names, (0, 3), jobs=2, report=told.append, **options)
    assert [(one.name, one.seed) for one in finished] == [(n, s) for n in names for s in (0, 3)]
    assert sorted(map(str, told)) == sorted(map(str, finished))
    assert [bool(one.error) for one in finished] == [True, True, False, False]
    assert "hidden_size" in finished[0].error and "\n" not in finished[0].error
    assert [row.seed for row in read_rows("smoke")] == [0, 3]
    (text, table), *rest = summary_tables(finished)
    assert rest == [] and "phantom" in text
    assert table["seeds"].tolist() == [2] and "(SD " in table["CIDEr"].item()
    sentence = failures(finished)
    assert sentence.startswith("2 of 4 run(s) failed: 06_base seed 0 (") and "seed 3" in sentence
    # A run says the same wherever it ran.
    alone = run("03_show_tell", seed=3, fresh=True, progress=False, **options)
    assert alone.row.numbers() == finished[3].row.numbers()


def test_one_process_goes_on_after_a_failure():
    names = ["03_show_tell", "02_most_frequent"]
    overrides = [text for text in TINY if text.startswith(("data.", "scoring."))]
    wrong = [*overrides, "encoder.name=nothing", "encoder.weights=none"]
    finished = run_many(names, (1,), profile="smoke", overrides=wrong)
    assert finished[0].error and finished[1].error  # now neither has an encoder to look with
    assert "nothing" in finished[0].error
    finished = run_many(["02_most_frequent", "02_constant"], (1,), profile="smoke",
                        overrides=overrides)  # fmt: skip
    assert [one.row.run for one in finished] == ["02_most_frequent", "02_constant"]
    assert failures(finished) == ""


def test_a_recipe_that_cannot_be_read_stops_everything_at_once(monkeypatch):
    monkeypatch.setattr("r2genkit.experiments.many.run", lambda *a, **o: pytest.fail("started"))
    with pytest.raises(KitError, match="no recipe 'nothing'"):
        run_many(["02_constant", "nothing"], (0,), profile="smoke")


def _work(task):
    if task == "dies":
        time.sleep(0.2)
        os._exit(1)
    if task == "fails":
        raise ValueError("two\nlines")
    return os.getpid()


def test_a_process_that_dies_takes_no_other_task_with_it():
    tasks = ["dies", "a", "fails", "b", "dies", "c"]
    with _Workers(2) as workers:
        ended = list(workers.map(_work, tasks))
    assert sorted(task for task, _ in ended) == sorted(tasks)
    for task, outcome in ended:
        if task == "dies":
            assert "its process died" in outcome
        elif task == "fails":
            assert outcome == "ValueError: two lines"
        else:
            assert isinstance(outcome, int) and outcome != os.getpid()


def test_the_command_line_prints_a_line_per_run_and_a_table(monkeypatch, capsys):
    words = ["train", "02_most_frequent", "02_random", "--seeds", "0,4", "--profile", "smoke"]
    for text in TINY:
        words += ["--set", text] if text.startswith(("data.", "scoring.")) else []
    code, out, err = call(monkeypatch, capsys, *words)
    assert code == 0 and err == ""
    lines = out.splitlines()
    for name in ("02_most_frequent", "02_random"):
        for seed in (0, 4):
            assert sum(line.startswith(f"{name} seed {seed} ") for line in lines) == 1
    assert sum("| 2 " in line for line in lines) == 2  # a row per recipe, of two seeds
    assert "(SD " in out
    code, out, err = call(monkeypatch, capsys, *words, "--set", "encoder.name=none")
    assert code == 2 and "4 of 4 run(s) failed" in err and out.count("FAILED") == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["02_constant", "--seed", "1", "--seeds", "2"], "exclude one another"),
        (["02_constant", "--seeds", "x"], "cannot read --seeds x"),
        (["77", "--seeds", "2"], "no recipe of chapter 77"),
        ([], "Missing argument"),
    ],
)
def test_wrong_words_are_told(monkeypatch, capsys, words, message):
    code, _, err = call(monkeypatch, capsys, "train", *words)
    assert code == 2 and message in err and err.count("\n") == 1


def test_reproduce_trains_further_seeds_of_the_notebooks_models(monkeypatch):
    """Before the notebooks, without the seed that they train themselves."""
    order, asked = [], {}
    monkeypatch.setattr(reproduce, "prepare_images", lambda *a: None)

    def many(names, seeds, **options):
        order.append("seeds")
        asked.update(names=list(names), seeds=list(seeds), jobs=options["jobs"])
        return [Finished(names[0], seeds[0], error="no luck")]

    monkeypatch.setattr(reproduce, "run_many", many)
    monkeypatch.setattr(reproduce, "execute_all", lambda *a, **o: order.append("notebooks") or [])
    options = {"profile": "smoke", "corpus": "phantom", "only": ["03", "14"], "jobs": 2}
    with pytest.raises(KitError, match=r"1 of 1 run\(s\) failed: 03_"):
        reproduce.reproduce_all(seeds=(0, 1, 2), seed=1, echo=lambda text: None, **options)
    assert order == ["seeds", "notebooks"]
    chapter = [name for name in recipe_names() if name.startswith("03_")]
    assert asked == {"names": chapter, "seeds": [0, 2], "jobs": 2}
    order.clear()
    reproduce.reproduce_all(seeds=(1,), seed=1, echo=lambda text: None, **options)
    assert order == ["notebooks"]


def test_published_seed_lists_hold_distinct_seeds():
    for seeds in SEED_LISTS.values():
        assert len(set(seeds)) == len(seeds)
