"""Scores and comparisons of files and finished runs."""

import json

import pytest

from r2genkit.errors import KitError
from r2genkit.experiments.runner import run
from r2genkit.experiments.scoring import (
    compare_predictions,
    comparison_table,
    evaluation_table,
    rates_table,
    read_predictions,
    score_files,
)

REFERENCES = {
    f"s{i}": text
    for i, text in enumerate(
        [
            "The heart is enlarged. Small left pleural effusion.",
            "The lungs are clear. No pleural effusion.",
            "Heart size is normal. The lungs are clear.",
            "There is a right lower lobe opacity. Heart size is normal.",
        ]
        * 4
    )
}


@pytest.fixture
def write(tmp_path):
    def to_file(name, content):
        path = tmp_path / name
        path.write_text(json.dumps(content))
        return path

    return to_file


def test_a_file_is_scored_by_normality_and_against_the_constant_of_its_training(write):
    constant = dict.fromkeys(REFERENCES, "The lungs are clear. No pleural effusion.")
    train = {f"t{i}": "The lungs are clear. No pleural effusion." for i in range(9)}
    paths = [write("p.json", REFERENCES), write("r.json", REFERENCES)]
    scored = score_files(*paths, train=write("t.json", train), bootstrap=50)
    assert scored.subsets["normal"]["studies"] == scored.subsets["abnormal"]["studies"] == 8
    assert scored.subsets["seen"]["studies"] == 4
    assert scored.versus_constant["finding-F1"].verdict == "above"
    table = evaluation_table(scored).set_index("metric")
    assert table.loc["finding-F1", "value"] == "1.0000"
    assert table.loc["finding-F1", "abnormal (8)"] == "1.0000"
    assert table.loc["finding-F1", "normal (8)"] == "-"  # nothing positive to find
    assert table.loc["BLEU-4", "minus constant"].endswith("above")
    assert {"hallucination", "distinct_percent"} <= set(rates_table(scored)["measure"])
    again = score_files(write("c.json", constant), paths[1], bootstrap=0)
    assert "minus constant" not in evaluation_table(again)


def test_a_runs_file_holds_its_references(write):
    pairs = {k: {"hypothesis": "x .", "reference": v} for k, v in REFERENCES.items()}
    path = write("predictions.json", pairs)
    assert read_predictions(path) == (dict.fromkeys(REFERENCES, "x ."), REFERENCES)
    assert score_files(path, bootstrap=0).metrics["BLEU-1"] < 0.5
    with pytest.raises(KitError, match="holds no references"):
        score_files(write("plain.json", REFERENCES))


def test_two_files_are_compared_on_shared_resamples(write):
    worse = dict.fromkeys(REFERENCES, "The lungs are clear.")
    paths = [write("good.json", REFERENCES), write("bad.json", worse), write("r.json", REFERENCES)]
    table = comparison_table(*compare_predictions(*paths, bootstrap=100), ("good", "bad"))
    line = table.set_index("metric").loc["finding-F1"]
    assert line["good"] == "1.0000" and line["verdict"] == "good is above"
    same = comparison_table(
        *compare_predictions(paths[0], paths[0], paths[2], bootstrap=100), ("A", "B")
    )
    assert set(same["verdict"]) == {"not distinguishable"}
    with pytest.raises(KitError, match="neither file holds references"):
        compare_predictions(*paths[:2])


def test_runs_are_compared_by_their_own_rules_and_a_file_joins_them(write, tmp_path, monkeypatch):
    for name in ("CACHE", "RUNS", "RESULTS"):
        monkeypatch.setenv(f"R2GENKIT_{name}", str(tmp_path / name.lower()))
    limits = ["data.limit_train=40", "data.limit_validation=8", "data.limit_test=10"]
    finished = [
        run(name, profile="smoke", overrides=limits, progress=False)
        for name in ("02_most_frequent", "02_random")
    ]
    first, second = compare_predictions(*(result.folder for result in finished))
    assert first.metrics["BLEU-1"] == pytest.approx(finished[0].row.metrics["BLEU-1"].value)
    assert second.metrics["CIDEr"] == pytest.approx(finished[1].row.metrics["CIDEr"].value)
    perfect = write("perfect.json", finished[0].references)
    ours, _ = compare_predictions(perfect, finished[0].folder)
    assert ours.metrics["BLEU-4"] == pytest.approx(1)
    few = write("few.json", dict(list(finished[0].references.items())[:4]))
    with pytest.raises(KitError, match=r"few.json has no report for study .* \(6 missing\)"):
        compare_predictions(finished[0].folder, few)
