import csv

import pytest

from r2genkit.errors import KitError
from r2genkit.experiments.results import make_row
from r2genkit.experiments.tables import (
    caption,
    clinical_table,
    constant_table,
    group_rows,
    not_run,
    results_table,
    subset_table,
    write_all_tables,
)
from r2genkit.metrics import ALL_METRICS
from tests.rows import row_content


def make(value=0.5, **changes):
    score = {"value": value, "low": value - 0.1, "high": value + 0.1}
    return make_row(row_content(metrics={name: dict(score) for name in ALL_METRICS}, **changes))


def test_baselines_come_first_and_values_carry_their_interval():
    table = results_table(
        [make(0.2), make(0.3, run="02_constant", title="constant", kind="baseline", order=10)]
    )
    assert list(table["system"]) == ["constant", "Show and Tell"]
    assert table["BLEU-4"][1] == ".200 ± .100"


def test_seeds_are_averaged_with_their_standard_deviation():
    table = results_table([make(0.2, seed=0), make(0.4, seed=1)])
    assert len(table) == 1
    # ± is the study interval as with one seed; the sample SD of .2 and .4 stands behind it.
    assert table["CIDEr"][0] == ".300 ± .100 (SD .141)"


@pytest.mark.parametrize("change", ["recipe_hash", "code_hash", "split_fingerprint"])
def test_seeds_of_another_recipe_or_source_are_not_averaged(change):
    old = make(0.2, seed=1, **{change: "e" * (64 if change == "split_fingerprint" else 16)})
    new = make(0.4, seed=0)
    measured = new.measured.model_copy(update={"date": "2026-01-02T00:00:00+00:00"})
    new = new.model_copy(update={"measured": measured})
    with pytest.warns(UserWarning, match="seed 1 was run with another recipe or source code"):
        table = results_table([old, new])
    assert table["seeds"].tolist() == [1] and table["CIDEr"][0] == ".400 ± .100"


@pytest.mark.parametrize(
    "other", [{"corpus": "openi", "synthetic": False}, {"protocol": "r2gen"}, {"profile": "paper"}]
)
def test_what_cannot_be_compared_cannot_share_a_table(other):
    rows = [make(), make(run="03_other", **other)]
    with pytest.raises(KitError, match="cannot share a table"):
        results_table(rows)
    assert len(group_rows(rows)) == 2


def test_synthetic_rows_say_so():
    assert "synthetic" in caption([make()])
    assert "real images" in caption([make(corpus="openi", synthetic=False)])


def test_a_metric_that_did_not_run_is_named_not_zero():
    metrics = row_content()["metrics"]
    metrics["METEOR"] = {"value": None, "reason": "no Java"}
    assert results_table([make_row(row_content(metrics=metrics))])["METEOR"][0] == "not run"


def test_three_formats_agree(tmp_path):
    name, subsets, clinical, provenance = write_all_tables([make()], folder=tmp_path)
    assert subsets == f"{name}_subsets" and clinical == f"{name}_clinical"
    # no difference to a constant, no table of them
    markdown = (tmp_path / f"{name}.md").read_text()
    with (tmp_path / f"{name}.csv").open() as file:
        (line,) = list(csv.DictReader(file))
    latex = (tmp_path / f"{name}.tex").read_text()
    for text in (markdown, latex):
        assert "Show and Tell" in text
    assert line["BLEU-4"] == ".500 ± .100" and line["BLEU-4"] in markdown
    assert r".500 $\pm$ .100" in latex and r"distinct \%" in latex
    assert "r2genkit train" in (tmp_path / f"{provenance}.md").read_text()
    assert not list(tmp_path.glob("*.tmp"))


def test_subsets_stand_below_one_another_with_their_number_of_studies():
    table = subset_table([make(0.2, seed=0), make(0.4, seed=1)])
    assert list(table["subset"]) == ["normal", "abnormal"]
    assert list(table["studies"]) == [1, 2]
    assert set(ALL_METRICS) < set(table)


def test_the_constant_table_leaves_the_constant_out_and_gives_verdicts():
    difference = {"value": 0.1, "low": 0.05, "high": 0.15, "verdict": "above"}
    rows = [
        make(run="02_constant", title="constant", kind="baseline", order=10),
        make(constant_difference={"CIDEr": difference}),
    ]
    table = constant_table(rows)
    assert list(table["system"]) == ["Show and Tell"]
    assert table["CIDEr"][0] == ".100 [.050, .150] above" and table["BLEU-1"][0] == "-"


def test_what_other_projects_measure_is_not_run_with_its_reason():
    clinical = row_content()["clinical"]
    clinical["RadGraph-F1"] = {"value": None, "reason": "package radgraph is not installed."}
    row = make(clinical=clinical, extra={"hallucination": 0.25})
    table = clinical_table([row, make(seed=1)])
    assert table["RadGraph-F1"][0] == "not run"
    assert table["attribute-F1 degree"][0] == ".500 ± .100 (SD .000)"
    assert clinical_table([row])["hallucination"][0] == ".250"
    (reason,) = not_run([row, row])
    assert reason == "Not run: RadGraph-F1: package radgraph is not installed."
    assert not_run([make()]) == []
