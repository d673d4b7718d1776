import json

import pytest

from r2genkit.errors import KitError
from r2genkit.experiments.results import make_row, read_rows, write_row
from tests.rows import row_content


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("R2GENKIT_RESULTS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "key",
    sorted(
        set(row_content()) - {"extra", "notes", "swap", "swap_difference", "constant_difference"}
    ),
)
def test_a_row_without_a_key_is_refused(key):
    content = row_content()
    del content[key]
    with pytest.raises(KitError, match=f"refused: {key}"):
        make_row(content)


def test_unknown_keys_and_missing_metrics_are_refused():
    with pytest.raises(KitError, match="surprise"):
        make_row(row_content(surprise=1))
    metrics = row_content()["metrics"]
    del metrics["METEOR"]
    with pytest.raises(KitError, match="meteor"):
        make_row(row_content(metrics=metrics))


def test_a_missing_value_needs_a_reason():
    metrics = row_content()["metrics"]
    metrics["METEOR"] = {"value": None}
    with pytest.raises(KitError, match="reason"):
        make_row(row_content(metrics=metrics))
    metrics["METEOR"] = {"value": None, "reason": "no Java"}
    assert make_row(row_content(metrics=metrics)).metrics["METEOR"].value is None


def test_writing_replaces_the_same_key_only(folder):
    write_row(make_row(row_content()))
    write_row(make_row(row_content(seed=1)))
    write_row(make_row(row_content(title="again")))
    rows = read_rows("lab")
    assert [(row.seed, row.title) for row in rows] == [(0, "again"), (1, "Show and Tell")]


def test_one_file_per_corpus(folder):
    write_row(make_row(row_content()))
    write_row(make_row(row_content(corpus="openi", synthetic=False)))
    assert {path.name for path in folder.glob("*.jsonl")} == {"phantom.jsonl", "openi.jsonl"}
    for path in folder.glob("*.jsonl"):
        corpora = {json.loads(line)["corpus"] for line in path.read_text().splitlines()}
        assert corpora == {path.stem}


def test_smoke_rows_stay_out_of_the_committed_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("R2GENKIT_RESULTS", raising=False)
    monkeypatch.setenv("R2GENKIT_RUNS", str(tmp_path / "runs"))
    path = write_row(make_row(row_content(profile="smoke")))
    assert tmp_path in path.parents


def test_a_damaged_line_is_named(folder):
    path = write_row(make_row(row_content()))
    path.write_text(path.read_text() + "{half")
    with pytest.raises(KitError, match=r"phantom.jsonl line 2"):
        read_rows("lab")


def test_a_row_of_an_earlier_form_is_left_out_until_it_is_run_again(folder):
    path = write_row(make_row(row_content(seed=1)))
    old = {key: value for key, value in row_content().items() if key != "subsets"}
    path.write_text(json.dumps(old) + "\n" + path.read_text())
    with pytest.warns(UserWarning, match=r"line 1 refused: subsets: .* until 03_show_tell is run"):
        assert [row.seed for row in read_rows("lab")] == [1]
    write_row(make_row(row_content(run="02_constant", order=10)))  # does not touch it
    assert [json.loads(line)["seed"] for line in path.read_text().splitlines()] == [0, 0, 1]
    write_row(make_row(row_content()))
    assert [row.run for row in read_rows("lab")] == ["02_constant", "03_show_tell", "03_show_tell"]


def test_committed_rows_are_complete(monkeypatch, recwarn):
    monkeypatch.delenv("R2GENKIT_RESULTS", raising=False)
    assert read_rows("lab")
    assert not [w for w in recwarn if "refused" in str(w.message)]


def test_numbers_leave_out_machine_and_moment():
    first = make_row(row_content())
    measured = {**row_content()["measured"], "train_seconds": 99.0}
    assert make_row(row_content(measured=measured)).numbers() == first.numbers()
    assert make_row(row_content(best_epoch=4)).numbers() != first.numbers()
