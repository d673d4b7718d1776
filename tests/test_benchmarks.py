"""The benchmark that compares all models: its choice of recipes, its figures, its table."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import bench_cider_d, bench_models, bench_retrieval, bench_transformer
from r2genkit.experiments import load_recipe
from r2genkit.models import MODELS


def test_every_registered_model_is_measured():
    entries = bench_models.recipes()
    assert {entry["model"] for entry in entries} == set(MODELS)
    assert len({entry["recipe"] for entry in entries}) == len(entries)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["03_show_tell", "04_hier_rnn", "07_cmn"])
def test_a_child_process_measures_one_model(name):
    words = ["--recipe", name, "--repeats", "1", "--studies", "4", "--words", "16"]
    done = subprocess.run(
        [sys.executable, bench_models.__file__, *words], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["model"] == load_recipe(name).model.name
    assert all(figures[column] > 0 for column in bench_models.COLUMNS if "mb" not in column)
    assert figures["greedy_words"] == figures["beam3_words"] == 16  # sentences of eight
    assert figures["peak_mb"] >= figures["train_peak_mb"] >= 0


def test_the_table_gives_ratios_to_show_and_tell():
    row = dict.fromkeys(bench_models.COLUMNS, 10.0) | {"title": "Show and Tell"}
    other = dict.fromkeys(bench_models.COLUMNS, 5.0) | {"title": "Other", "model": "cmn"}
    lines = bench_models.table([other, row | {"model": "show_tell"}]).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert lines[2].count("5 (0.50)") == lines[3].count("10 (1.00)") == len(bench_models.COLUMNS)


def test_both_references_of_the_cider_benchmark_agree():
    """Frequencies handed in, or counted on everything that is scored: the same numbers."""
    texts = [
        "the heart is normal .",
        "no effusion .",
        "the lungs are clear .",
        "no effusion seen .",
    ]
    counter = bench_cider_d.CiderScorer()
    for text in texts:
        counter += (text, [text])
    counter.compute_doc_freq()
    found = ["the heart is clear .", "effusion ."]
    given = bench_cider_d.coco_with_frequencies(
        found, texts[:2], counter.document_frequency, len(texts)
    )
    assert given == pytest.approx(bench_cider_d.coco_whole(found, texts[:2], texts[2:]))
    assert given.min() > 0


def test_growth_is_drawn_in_four_labelled_panels(tmp_path):
    base = {name: values[1] for name, values in bench_transformer.GROWTH.items()} | {"size": 128}
    figures = {"seconds": 0.1, "peak_bytes": 2**24}
    rows = [
        {"varied": name, "value": value, "kit": figures, "textbook": figures}
        for name, values in bench_transformer.GROWTH.items()
        for value in values
    ]
    bench_transformer.plot(rows, base, tmp_path / "growth.png")
    assert Path(tmp_path / "growth.png").stat().st_size > 20_000


def test_both_ways_of_searching_are_measured_on_the_same_answers():
    found = bench_retrieval.compare(300, 12, queries=4, k=3, repeats=1)
    assert all(found[way]["seconds"] > 0 for way in ("kit", "kit with exclusions", "full sort"))
    lines = bench_retrieval.table([found]).splitlines()
    assert len(lines) == 3 and len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| 300 | 12 | 0 |")
