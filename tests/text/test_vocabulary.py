"""Ids: order, marks, cutting, unknown words, files."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r2genkit.errors import KitError
from r2genkit.text import UNKNOWN, Vocabulary, clean_report

TEXTS = ["Lungs clear. Heart 2 cm.", "Lungs clear.", "Clear lungs; big heart."]


def test_order_is_by_code_point_with_unk_between_digits_and_letters():
    vocabulary = Vocabulary.build([*TEXTS, "2 <unk"], min_count=2, compat="r2gen")
    assert vocabulary.words == (".", "2", UNKNOWN, "clear", "heart", "lungs")
    assert len(vocabulary) == 7
    assert vocabulary.unk == 3
    assert (vocabulary.pad, vocabulary.bos, vocabulary.eos) == (0, 0, 0)


def test_encode_marks_cut_and_unknown():
    vocabulary = Vocabulary.build(TEXTS, min_count=2)
    clear, lungs, stop = (vocabulary.id(w) for w in ("clear", "lungs", "."))
    assert vocabulary.encode("Lungs CLEAR.") == [0, lungs, clear, stop, 0]
    assert vocabulary.encode("Lungs CLEAR.", 5)[-1] == 0
    assert vocabulary.encode("Lungs CLEAR.", 4) == [0, lungs, clear, stop]  # the end mark is lost
    assert vocabulary.encode("Odd lungs.") == [0, vocabulary.unk, lungs, stop, 0]
    assert vocabulary.truncated("Odd lungs clear clear.", 4) == "<unk> lungs clear"
    with pytest.raises(KitError, match="max_length"):
        vocabulary.encode("a", 1)


def test_decode_stops_at_the_first_zero_and_refuses_foreign_ids():
    vocabulary = Vocabulary.build(TEXTS, min_count=2)
    ids = vocabulary.encode("Lungs clear.")
    assert vocabulary.decode(ids) == ""
    assert vocabulary.decode([*ids[1:], 0, 1, 1]) == "lungs clear ."
    with pytest.raises(KitError, match="another vocabulary"):
        vocabulary.decode([len(vocabulary)])


@given(st.lists(st.sampled_from(["lungs", "clear", "heart", "odd", ".", "1.7"]), max_size=20))
@settings(max_examples=150, deadline=None)
def test_round_trip_of_known_text(words):
    vocabulary = Vocabulary.build([" ".join(words), "base"], min_count=1)
    cleaned = clean_report(" ".join(words))
    assert vocabulary.decode(vocabulary.encode(" ".join(words))[1:]) == cleaned


def test_file_round_trip_and_fingerprint(tmp_path):
    vocabulary = Vocabulary.build(TEXTS, min_count=1, compat="r2gen")
    path = tmp_path / "deep/vocabulary.json"
    vocabulary.save(path)
    again = Vocabulary.load(path)
    assert again == vocabulary and again.fingerprint == vocabulary.fingerprint
    assert [p.name for p in path.parent.iterdir()] == ["vocabulary.json"]
    other = Vocabulary(vocabulary.words, "default", 1)
    assert other.fingerprint != vocabulary.fingerprint


def test_bad_files_and_word_lists(tmp_path):
    with pytest.raises(KitError, match="Cannot read"):
        Vocabulary.load(tmp_path / "none.json")
    (tmp_path / "list.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(KitError, match="no vocabulary file"):
        Vocabulary.load(tmp_path / "list.json")
    with pytest.raises(KitError, match="lacks"):
        Vocabulary(("a", "b"))
    with pytest.raises(KitError, match="sorted"):
        Vocabulary(("b", UNKNOWN))
    with pytest.raises(KitError, match="No word occurs 3 times"):
        Vocabulary.build(["a b c"])


@pytest.mark.data
def test_measured_vocabulary_of_the_r2gen_split():
    folder = os.environ.get("R2GENKIT_DATA")
    if not folder:
        pytest.skip("needs R2GENKIT_DATA")
    content = json.loads((Path(folder) / "annotation.json").read_text(encoding="utf-8"))
    vocabulary = Vocabulary.build((e["report"] for e in content["train"]), compat="r2gen")
    assert len(vocabulary.words) == 760 and len(vocabulary) == 761
    for part, token_rate, report_rate in (
        ("train", 1.27, 23.9),
        ("val", 1.48, 25.7),
        ("test", 1.15, 19.0),
    ):
        tokens = [clean_report(e["report"], "r2gen").split() for e in content[part]]
        unknown = [sum(word not in vocabulary for word in report) for report in tokens]
        assert 100 * sum(unknown) / sum(map(len, tokens)) == pytest.approx(token_rate, abs=0.005)
        share = 100 * sum(count > 0 for count in unknown) / len(unknown)
        assert share == pytest.approx(report_rate, abs=0.05)
