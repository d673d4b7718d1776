"""Ballots of the duel: what is read, counted and refused; intervals and agreement."""

import json
import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from r2genkit import cli
from r2genkit.errors import KitError
from r2genkit.intervals import wilson
from r2genkit.viz.widgets.duel_votes import (
    FORMAT,
    agreement,
    count_votes,
    fleiss_kappa,
    read_votes,
    votes_sentence,
    votes_table,
)

SOURCES = [{"key": key, "title": f"title of {key}"} for key in ("model", "constant", "reference")]


def ballot(choices, reader="", **changes):
    """``choices``: the best one of s0, s1, ...: a key, keys joined by +, or "" for cannot tell."""
    votes = [
        {"study": f"s{number}", "best": choice.split("+") if choice else [], "dangerous": []}
        for number, choice in enumerate(choices)
    ]
    return {
        "format": FORMAT,
        "deck": "0123456789abcdef",
        "title": "Which one?",
        "reader": reader,
        "sources": SOURCES,
        "reference": "reference",
        "votes": votes,
    } | changes


def test_one_reader_has_intervals_and_shared_votes():
    content = ballot(["reference", "model+constant", "", "reference", "model"])
    content["votes"][1]["dangerous"] = ["reference"]
    (read,) = read_votes([content])
    counts = count_votes(read)
    assert counts == {"model": 1.5, "constant": 0.5, "reference": 2, "cannot tell": 1}
    table = votes_table([read]).set_index("report of")
    assert list(table.index) == [
        "title of model",
        "title of constant",
        "title of reference (reference)",
        "cannot tell",
    ]
    line = table.loc["title of reference (reference)"]
    assert (line["votes"], line["of"], line["share"]) == ("2", 5, "0.40")
    low, high = wilson(2, 5)
    assert line["95 % interval"] == f"[{low:.2f}, {high:.2f}]"
    assert line["called dangerous"] == 1 and table.loc["title of model", "votes"] == "1.50"
    told = votes_sentence([read])
    assert "called best in 2 of 5 (40%, Wilson 95 % interval" in told and "1 reader" in told
    assert agreement([read]) is None


def test_two_readers_agree_as_cohen_counts():
    one = ["reference", "model", "", "constant", "model", "reference"]
    two = ["reference", "model", "model", "constant", "reference"]  # did not judge s5
    both = read_votes([ballot(one, "a"), ballot(two, "b")])
    found = agreement(both)
    assert (found["name"], found["readers"], found["studies"]) == ("Cohen's kappa", 2, 5)
    assert found["value"] == pytest.approx(cohen_kappa_score(one[:5], two))
    table = votes_table(both).set_index("report of")
    line = table.loc["title of model"]
    assert line["votes"] == "4" and line["of"] == 11 and "95 % interval" not in table
    assert (line["lowest reader"], line["highest reader"]) == (f"{2 / 6:.2f}", f"{2 / 5:.2f}")
    assert "Cohen's kappa over the 5 studies" in votes_sentence(both)


def test_fleiss_kappa_is_that_of_the_textbook():
    """Fleiss (1971), ten subjects and fourteen readers: .210."""
    counts = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    assert fleiss_kappa(counts) == pytest.approx(0.210, abs=5e-4)
    assert fleiss_kappa([[3, 0], [0, 3]]) == 1
    assert math.isnan(fleiss_kappa([[3, 0], [3, 0]]))
    for bad in ([], [[1, 0]], [[2, 0], [1, 2]]):
        with pytest.raises(KitError, match="the same two or more readers"):
            fleiss_kappa(np.array(bad))


def test_three_readers_agree_as_fleiss_counts():
    choices = (["model", "reference", ""], ["model", "reference", "model"], ["model", "model", ""])
    found = agreement(read_votes([ballot(each, str(n)) for n, each in enumerate(choices)]))
    counts = [[3, 0, 0], [1, 2, 0], [1, 0, 2]]  # model, reference, cannot tell
    assert found["name"] == "Fleiss' kappa" and found["studies"] == 3
    assert found["value"] == pytest.approx(fleiss_kappa(counts))


def test_kappa_that_is_not_defined_is_said_to_be_so():
    apart = [ballot(["model"], "a"), ballot(["model"], "b")]
    told = votes_sentence(read_votes(apart))
    assert "Kappa is not defined" in told and "nan" not in told
    apart[1]["votes"][0]["study"] = "other"
    assert agreement(read_votes(apart)) is None


def test_what_is_no_ballot_is_refused(tmp_path):
    good = ballot(["model"])
    cases = {
        "ballot 1 holds no vote yet": ballot([]),
        "1 holds no vote yet: judge": {},
        "votes.0: Value error|names 'nobody', which is no source": ballot(["nobody"]),
        "format is 'x'": good | {"format": "x"},
        "deck": good | {"deck": "../../etc"},
        "the reference 'x' is no source": good | {"reference": "x"},
        "two sources share a key": good | {"sources": [*SOURCES, SOURCES[0]]},
        "names a source twice": ballot(["model+model"]),
        "extra": good | {"extra": 1},
        "votes": good | {"votes": 3},
        "a study is judged twice": good | {"votes": good["votes"] * 2},
    }
    for message, content in cases.items():
        with pytest.raises(KitError, match=message) as told:
            read_votes([content])
        assert "\n" not in str(told.value)
    with pytest.raises(KitError, match="there are no votes to read"):
        read_votes([])
    with pytest.raises(KitError, match="does not exist"):
        read_votes([tmp_path / "none.json"])
    broken = tmp_path / "broken.json"
    broken.write_text("{", encoding="utf-8")
    with pytest.raises(KitError, match=r"broken\.json is no JSON"):
        read_votes([broken])
    broken.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(KitError, match=r"broken\.json is no JSON"):
        read_votes([broken])
    broken.write_text("[1]", encoding="utf-8")
    with pytest.raises(KitError, match=r"broken\.json is no ballot"):
        read_votes([broken])
    with pytest.raises(KitError, match="there are no votes to count"):
        votes_table([])


def test_ballots_of_different_decks_or_of_one_reader_are_not_added():
    one = ballot(["model"], "a")
    with pytest.raises(KitError, match="ballot 2 is about another deck than ballot 1"):
        read_votes([one, ballot(["model"], "b", deck="f" * 16)])
    with pytest.raises(KitError, match="another deck"):
        read_votes([one, ballot(["model"], "b", sources=SOURCES[::-1])])
    with pytest.raises(KitError, match="ballot 1 and ballot 2 are both by reader 'a'"):
        read_votes([one, one])
    readers = [read.reader for read in read_votes([ballot(["model"]), ballot(["model"])])]
    assert readers == ["reader 1", "reader 2"]  # of widgets, without a code


def test_names_from_files_are_harmless_in_tables():
    sources = [SOURCES[0] | {"title": "a\x1b[31m | b\n"}, *SOURCES[1:]]
    (read,) = read_votes([ballot(["model"], "x\x1b]|\n", sources=sources)])
    printed = votes_table([read]).to_markdown(index=False) + read.reader
    assert "\x1b" not in printed and "a [31m   b" in printed and "|" not in read.reader


def call(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["r2genkit", "duel-votes", *map(str, arguments)])
    code = 0
    try:
        cli.main()
    except SystemExit as leave:
        code = leave.code or 0
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_command_counts_the_votes_of_a_class(monkeypatch, capsys, tmp_path):
    files = []
    for name, choices in {"ada": ["model", "reference"], "bo": ["model", ""]}.items():
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(ballot(choices)), encoding="utf-8")
    assert [read.reader for read in read_votes(files)] == ["ada", "bo"]  # by the files' names
    code, printed, error = call(monkeypatch, capsys, *files)
    assert code == 0, error
    assert "title of model" in printed and "2 readers, 4 votes" in printed
    assert "Cohen's kappa over the 2 studies" in printed
    code, printed, error = call(monkeypatch, capsys, files[0], tmp_path / "none.json")
    assert code == 2 and printed == "" and error.count("\n") == 1 and "does not exist" in error
