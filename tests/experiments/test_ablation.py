"""The chain of the course report: every stage on both sets, beside constant and baseline."""

import numpy as np
import pytest

from r2genkit import cli
from r2genkit.corpora.private import write_private
from r2genkit.encoders import build_encoder
from r2genkit.errors import KitError
from r2genkit.experiments import ablation, run
from r2genkit.experiments.ablation import (
    AUTHORS,
    BASELINE,
    STAGES,
    AblationRow,
    Stage,
    ablation_table,
    by_stage,
    caption,
    intervals,
    measure_chain,
    read_ablation_rows,
    steps_table,
    write_ablation_tables,
)
from r2genkit.experiments.private_set import CONSTANT_TITLE
from r2genkit.experiments.recipe import load_recipe
from r2genkit.experiments.runner import rescore
from r2genkit.experiments.tables import published_table
from r2genkit.models import build_model
from r2genkit.models.released import export_released
from r2genkit.viz.private import chain_figure

# Fewer studies than worker processes are started for.
TINY = (
    "data.limit_train=26",
    "data.limit_validation=9",
    "data.limit_test=12",
    "encoder.image_size=96",
    "encoder.pca=16",
    "training.epochs=1",
    "tags.epochs=1",
    "tags.min_positives=2",
    "scoring.bootstrap=40",
    "scoring.meteor=false",
    "scoring.swap=1",
)
OTHER = Stage("retrieval", "06_base")  # any second system will do
SHORT = {"profile": "smoke", "studies": 4, "meteor": False, "overrides": TINY}


pytestmark = pytest.mark.usefixtures("folders")


_KEPT: dict = {}


@pytest.fixture
def rows(folders):
    if "rows" not in _KEPT:
        _KEPT["rows"] = measure_chain(**SHORT, stages=(OTHER,))
    return _KEPT["rows"]


def made(stage, order, value, *, subset="public", seed=0, difference=None, **changes):
    """A row with one score."""
    score = {"value": value, "low": value - 0.1, "high": value + 0.1}
    content = {
        "stage": stage,
        "order": order,
        "run": "-",
        "corpus": "phantom",
        "synthetic": True,
        "protocol": "grouped",
        "profile": "lab",
        "seed": seed,
        "subset": subset,
        "source": "somewhere",
        "studies": 3,
        "digest": "0" * 16,
        "recipe_hash": "-",
        "code_hash": "-",
        "split_fingerprint": "f",
        "metrics": dict.fromkeys(ablation.ALL_METRICS, score),
        "distinct_percent": 50.0,
        "difference": difference and {"BLEU-4": difference},
        "command": "r2genkit ablation",
        "git_revision": "-",
        "date": "2026-01-01",
    }
    return AblationRow.model_validate(content | changes)


def test_every_stage_is_one_of_the_published_chain():
    published = published_table(ablation.PROTOCOL)["system"]
    assert [stage.name for stage in STAGES] == list(dict.fromkeys(published))
    for stage in STAGES:
        assert stage == AUTHORS or load_recipe(stage.run).model is not None


def test_each_system_stands_on_both_sets_beside_the_constant(rows):
    assert [(row.subset, row.stage) for row in rows] == [
        (subset, name)
        for subset in ("public", "private")
        for name in (CONSTANT_TITLE, BASELINE.name, OTHER.name)
    ]
    sizes = {row.subset: row.studies for row in rows}
    assert sizes == {"public": 12, "private": 4}
    assert len({row.digest for row in rows}) == 2


def test_public_scores_are_those_of_the_runs(rows):
    for stage in (BASELINE, OTHER):
        result = run(stage.run, profile="smoke", overrides=TINY, progress=False)
        (row,) = [row for row in rows if (row.subset, row.stage) == ("public", stage.name)]
        for name in ("BLEU-4", "CIDEr", "finding-F1"):
            assert row.metrics[name].value == result.row.metrics[name].value
        assert row.code_hash == result.row.code_hash


def test_a_difference_is_to_the_baseline_on_the_same_studies(rows):
    for subset in ("public", "private"):
        known = {row.stage: row for row in rows if row.subset == subset}
        assert known[BASELINE.name].difference is None
        for name in (CONSTANT_TITLE, OTHER.name):
            for metric, d in known[name].difference.items():
                first, second = (known[one].metrics[metric].value for one in (name, BASELINE.name))
                assert d.value == pytest.approx(first - second, abs=1e-12)
                assert (d.low > 0) == (d.verdict == "above")
    results = {
        stage: run(stage.run, profile="smoke", overrides=TINY, progress=False)
        for stage in (BASELINE, OTHER)
    }
    paired = rescore(results[OTHER]).compare(rescore(results[BASELINE]), seed=0)["BLEU-4"]
    d = next(row for row in rows if row.stage == OTHER.name).difference["BLEU-4"]
    assert (d.low, d.high) == pytest.approx((paired.low, paired.high))


def test_reports_are_read_once_and_rows_replaced(rows, monkeypatch):
    def never(*_, **__):
        raise AssertionError("read again")

    monkeypatch.setattr("r2genkit.experiments.private_set.read_studies", never)
    again = measure_chain(**SHORT, stages=(OTHER,))
    assert [row.metrics for row in again] == [row.metrics for row in rows]
    kept = read_ablation_rows("smoke")
    assert len(kept) == len(rows)


def test_a_private_folder_takes_the_place_of_the_other_hospital(rows, place):
    studies = ablation.read_phantom_shifted(cause="none", studies=3)
    table = write_private(studies, place / "own", section="findings")
    found = measure_chain(**SHORT, stages=(), private=table.parent)
    private = [row for row in found if row.subset == "private"]
    assert {row.source for row in private} == {"private folder, 3 studies"}
    assert [row.stage for row in private] == [CONSTANT_TITLE, BASELINE.name]
    # Two private sets never share a line.
    assert len(by_stage([*rows, *found])) == 8


def test_the_authors_file_becomes_a_stage(rows, tmp_path):
    baseline = run(BASELINE.run, profile="smoke", overrides=TINY, progress=False)
    text = baseline.text()
    sizes = {"size": 16, "feed_forward_size": 16, "heads": 8, "slots": 40}
    sizes |= {"encoder_layers": 3, "decoder_layers": 3}
    encoder = build_encoder("resnet101", weights="none", trainable=True)

    def released(words):
        model = build_model(
            "cmn", sizes, vocabulary_size=words, feature_dim=2048, encoder=encoder, seed=0
        )
        path = tmp_path / f"{words}.pth"
        export_released(model, path)
        return path

    few = {**SHORT, "stages": (), "studies": 1}
    found = measure_chain(**few, author_weights=released(len(text.vocabulary)))
    mine = [row for row in found if row.stage == AUTHORS.name]
    assert [row.subset for row in mine] == ["public", "private"]
    assert all(np.isfinite(row.metrics["BLEU-4"].value) for row in mine)
    assert mine[0].run == "-" and mine[0].difference is not None
    with pytest.raises(KitError, match="vocabulary"):
        measure_chain(**few, author_weights=released(len(text.vocabulary) + 1))


def test_tables_say_what_was_not_run():
    up = {"value": 0.2, "low": 0.1, "high": 0.3, "verdict": "above"}
    same = {"value": -0.1, "low": -0.3, "high": 0.1, "verdict": "not distinguishable"}
    given = [
        made(BASELINE.name, 2, 0.3),
        made(BASELINE.name, 2, 0.5, seed=1),
        made("retrieval", 5, 0.5, difference=up),
        made("retrieval", 5, 0.4, seed=1, difference=same),
    ]
    table = ablation_table(given, ["BLEU-4"]).set_index("stage")
    assert list(table.index) == [CONSTANT_TITLE, *(stage.name for stage in STAGES)]
    assert table.loc[BASELINE.name, "BLEU-4"] == ".400 ± .100 (SD .141)"
    assert table.loc["DenseNet", "BLEU-4"] == "not run"
    steps = steps_table(given, ["BLEU-4"])
    assert list(steps["BLEU-4"]) == ["+.050 ± .150 (1 above, 1 =)"]
    told = caption(given)
    assert "the authors' file is not part of the kit" in told
    assert "Not run: DenseNet, DenseNet + changed learning rates, retrieval + SCST." in told
    with pytest.raises(KitError, match="was not run"):
        caption([])


def test_rows_of_other_code_or_other_budgets_never_mix():
    older = made("retrieval", 5, 0.1, code_hash="old", date="2025-01-01")
    newer = made("retrieval", 5, 0.4, seed=1)
    with pytest.warns(UserWarning, match="seed 0 was run with another recipe"):
        groups = by_stage([older, newer])
    assert list(groups.values()) == [[newer]]
    with pytest.raises(KitError, match="cannot share a table"):
        by_stage([older, made("retrieval", 5, 0.4, profile="smoke")])


def test_tables_are_written_for_latex_and_all(tmp_path):
    given = [made(CONSTANT_TITLE, 0, 0.2), made(BASELINE.name, 2, 0.3)]
    names = write_ablation_tables(given, tmp_path)
    assert names == ["phantom_grouped_ablation", "phantom_grouped_ablation_steps"]
    for name in names:
        for ending in ("md", "csv", "tex"):
            assert (tmp_path / f"{name}.{ending}").stat().st_size > 0


def test_the_figure_shows_means_seeds_and_the_constant():
    given = [
        made(CONSTANT_TITLE, 0, 0.2),
        made(BASELINE.name, 2, 0.3),
        made(BASELINE.name, 2, 0.5, seed=1),
        made(BASELINE.name, 2, 0.25, subset="private"),
    ]
    figure = chain_figure(
        intervals(given, ["BLEU-4"]), metrics=["BLEU-4"], constant=CONSTANT_TITLE, synthetic=True
    )
    lines = [np.asarray(line.get_xdata(), float) for line in figure.axes[0].lines]
    assert any(np.allclose(x, [0.2, 0.2]) for x in lines)  # constant
    assert any(np.allclose(x, [0.3, 0.5]) for x in lines)  # seeds
    assert any(x.shape == (1,) and np.isclose(x[0], 0.4) for x in lines)  # their mean
    assert any(x.shape == (2,) and np.allclose(x, [0.3, 0.5]) for x in lines)  # its interval
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [BASELINE.name]
    with pytest.raises(KitError, match="no stage to draw"):
        chain_figure({}, metrics=["BLEU-4"], constant=CONSTANT_TITLE, synthetic=True)


def test_the_command_prints_and_writes(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("R2GENKIT_RESULTS", str(tmp_path))
    asked = []

    def measured(profile, *, seed, **_):
        asked.append(seed)
        row = made(BASELINE.name, 2, 0.3, seed=seed, profile=profile)
        content = row.model_dump(mode="json")
        ablation.replace_line(
            ablation._file(profile, "phantom"), content, key=ablation.KEY, order=ablation._ORDER
        )

    monkeypatch.setattr(ablation, "measure_chain", measured)
    with pytest.raises(SystemExit) as stopped:
        cli.app(["ablation", "--profile", "smoke", "--seeds", "2"])
    assert not stopped.value.code
    out = capsys.readouterr().out
    assert asked == [0, 1]
    assert "baseline (CMN re-trained)" in out and "author weights" in out
    assert list(tmp_path.rglob("phantom_grouped_ablation_smoke.md"))
