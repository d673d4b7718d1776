"""Adapters to other projects' metrics, against stand-ins with the signatures of the real classes.

None of the packages is a dependency, and none is needed here.
"""

import math
import os
import re
import socket
import subprocess
import sys
import types

import numpy as np
import pytest

from r2genkit.errors import KitError
from r2genkit.metrics import external
from r2genkit.metrics.external import EXTERNAL_METRICS, available, score_external

HYPOTHESES = {"a": "small effusion .", "b": "clear lungs ."}
REFERENCES = {"a": "small effusion .", "b": "large nodule ."}
MODULES = ("radgraph", "radgraph.radgraph", "f1chexbert", "f1chexbert.f1chexbert", "radeval")


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch, tmp_path):
    """No package, and empty cache folders, whatever this machine has."""
    for name in (*MODULES, "RadEval"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    real = external.importlib.util.find_spec
    hidden = {name.split(".")[0] for name in (*MODULES, "RadEval")}
    monkeypatch.setattr(
        external.importlib.util, "find_spec", lambda n: None if n in hidden else real(n)
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)


def install(monkeypatch, name, **members):
    module = types.ModuleType(name)
    module.__dict__.update(members)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def radgraph(monkeypatch, tmp_path, *, weights=True, reward=float):
    """``F1RadGraph(reward_level, model_type=None, **kwargs)``; call (refs, hyps) -> 4 values."""

    class F1RadGraph:
        def __init__(self, reward_level, model_type=None, **kwargs):
            assert reward_level in ("simple", "partial", "complete", "all")
            assert model_type in ("radgraph", "radgraph-xl")
            print("RadGraph initialized with device: cpu")

        def __call__(self, refs, hyps):
            assert isinstance(refs, list) and isinstance(hyps, list)
            rewards = [reward(hyp == ref) for hyp, ref in zip(hyps, refs)]
            return 0.123, rewards, [], []

    folder = tmp_path / "radgraph-cache"
    install(monkeypatch, "radgraph", F1RadGraph=F1RadGraph)
    install(monkeypatch, "radgraph.radgraph", CACHE_DIR=str(folder))
    if weights:
        folder.mkdir()
        (folder / "radgraph.tar.gz").touch()
    return folder


def chexbert(monkeypatch, tmp_path, forward=None):
    """``F1CheXbert(refs_filename, hyps_filename, device)``; call (hyps, refs) -> 4 values."""

    class F1CheXbert:
        def __init__(self, refs_filename=None, hyps_filename=None, device=None, **kwargs):
            self.device = device

        def __call__(self, hyps, refs):
            if forward is not None:
                return forward(hyps, refs)
            report = {"micro avg": {"f1-score": 0.5}, "macro avg": {"f1-score": 0.25}}
            five = {"micro avg": {"f1-score": 0.75}, "macro avg": {"f1-score": 0.125}}
            return 0.9, np.array([1.0, 0.0]), report, five

    install(monkeypatch, "f1chexbert", F1CheXbert=F1CheXbert)
    folder = tmp_path / "cache/chexbert"
    folder.mkdir(parents=True)
    (folder / "chexbert.pth").touch()


def ratescore_weights(root):
    for model in external._RATESCORE_MODELS:
        (root / f"models--{model.replace('/', '--')}").mkdir(parents=True)


def test_nothing_is_installed():
    reasons = available()
    assert tuple(reasons) == EXTERNAL_METRICS
    assert reasons["radgraph"] == "package radgraph is not installed: pip install radgraph."
    scores = score_external(HYPOTHESES, REFERENCES)
    assert len(scores) == 6
    for score in scores.values():
        assert math.isnan(score.value) and score.per_study is None
        assert "is not installed: pip install" in score.reason


def test_importing_the_adapters_imports_none_of_the_packages():
    code = (
        "import sys, r2genkit.metrics.external; "
        "assert not {'radgraph', 'f1chexbert', 'RadEval', 'radeval', 'transformers'} & "
        "set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("reward", [float, lambda same: (0.0, 0.0, float(same))])
def test_radgraph(monkeypatch, tmp_path, capsys, reward):
    radgraph(monkeypatch, tmp_path, reward=reward)
    assert available()["radgraph"] == ""
    (column, score), *rest = score_external(HYPOTHESES, REFERENCES, ["radgraph"]).items()
    assert not rest and column == "RadGraph-F1"
    assert score.value == 0.5 and score.reason == ""
    assert score.per_study.tolist() == [1, 0]
    assert capsys.readouterr().out == ""


def test_order_is_that_of_the_references(monkeypatch, tmp_path):
    radgraph(monkeypatch, tmp_path)
    backward = dict(reversed(REFERENCES.items()))
    score = score_external(HYPOTHESES, backward, ["radgraph"])["RadGraph-F1"]
    assert score.per_study.tolist() == [0, 1]


def test_weights_are_not_fetched(monkeypatch, tmp_path):
    folder = radgraph(monkeypatch, tmp_path, weights=False)
    score = score_external(HYPOTHESES, REFERENCES, ["radgraph"])["RadGraph-F1"]
    assert math.isnan(score.value)
    assert str(folder / "radgraph.tar.gz") in score.reason
    assert "weights of radgraph are not on this machine" in available()["radgraph"]


def test_chexbert(monkeypatch, tmp_path):
    chexbert(monkeypatch, tmp_path)
    scores = score_external(HYPOTHESES, REFERENCES, ["f1chexbert"])
    assert {column: score.value for column, score in scores.items()} == {
        "CheXbert-F1 micro 14": 0.5,
        "CheXbert-F1 macro 14": 0.25,
        "CheXbert-F1 micro 5": 0.75,
        "CheXbert-F1 macro 5": 0.125,
    }
    assert all(score.per_study is None and score.reason == "" for score in scores.values())


class RadEval2:
    """Release 2: a list of metrics; per-sample lists on request."""

    def __init__(self, metrics=None, *, per_sample=False, detailed=False, show_progress=True):
        assert metrics == ["ratescore"] and per_sample and not show_progress

    def __call__(self, refs, hyps):
        return {"ratescore": [float(hyp == ref) for hyp, ref in zip(hyps, refs)]}


class RadEval01:
    """Release 0.1: one switch per metric; a rounded mean."""

    def __init__(self, do_radgraph=False, do_ratescore=False, do_details=False):
        assert do_ratescore and not do_radgraph

    def __call__(self, refs, hyps):
        return {"ratescore": 0.5}


@pytest.mark.parametrize(
    ("name", "cls", "per_study"), [("radeval", RadEval2, [1, 0]), ("RadEval", RadEval01, None)]
)
def test_radeval_of_both_releases(monkeypatch, tmp_path, name, cls, per_study):
    install(monkeypatch, name, RadEval=cls)
    assert "models--Angelakeke--RaTE-NER-Deberta is missing" in available()["radeval"]
    ratescore_weights(tmp_path / "cache/huggingface/hub")
    assert available()["radeval"] == ""
    score = score_external(HYPOTHESES, REFERENCES, ["radeval"])["RaTEScore"]
    assert score.value == 0.5
    assert (score.per_study is None) == (per_study is None)
    assert per_study is None or score.per_study.tolist() == per_study


def test_hub_folder_follows_the_environment(monkeypatch, tmp_path):
    install(monkeypatch, "radeval", RadEval=RadEval2)
    ratescore_weights(tmp_path / "home/hub")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    assert available()["radeval"] == ""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert "elsewhere" in available()["radeval"]


def refuse_report(hyps, refs):
    raise RuntimeError("out of memory\nsecond line")


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (refuse_report, r"^f1chexbert failed \(RuntimeError: out of memory\)\.$"),
        (lambda hyps, refs: (1, 2), r"^f1chexbert failed \(ValueError: not enough values"),
        (lambda hyps, refs: (1, 2, {}, {}), r"^f1chexbert failed \(KeyError: 'micro avg'\)\.$"),
        (
            lambda hyps, refs: (
                0,
                0,
                *[{f"{k} avg": {"f1-score": math.nan} for k in ("micro", "macro")}] * 2,
            ),
            "a score of nan",
        ),
    ],
)
def test_a_failing_metric_gives_its_reason_and_spares_the_others(
    monkeypatch, tmp_path, forward, reason
):
    chexbert(monkeypatch, tmp_path, forward)
    radgraph(monkeypatch, tmp_path)
    scores = score_external(HYPOTHESES, REFERENCES)
    assert scores["RadGraph-F1"].value == 0.5
    failed = scores["CheXbert-F1 macro 5"]
    assert math.isnan(failed.value)
    assert re.search(reason, failed.reason)


def test_wrong_number_of_values_is_refused(monkeypatch, tmp_path):
    radgraph(monkeypatch, tmp_path)
    monkeypatch.setattr(
        sys.modules["radgraph"].F1RadGraph, "__call__", lambda s, refs, hyps: (1, [1.0], [], [])
    )
    score = score_external(HYPOTHESES, REFERENCES, ["radgraph"])["RadGraph-F1"]
    assert "(1,) values for 2 studies" in score.reason


def test_a_package_that_does_not_import(monkeypatch):
    monkeypatch.setattr(external.importlib.util, "find_spec", lambda name: object())
    real = external.importlib.import_module

    def broken(name):
        if name == "radgraph":
            raise ImportError("cannot import name 'AdamW' from 'transformers'")
        return real(name)

    monkeypatch.setattr(external.importlib, "import_module", broken)
    assert "is installed but does not import (ImportError: cannot" in available()["radgraph"]


def test_connections_are_refused_while_a_metric_runs_and_allowed_again(monkeypatch, tmp_path):
    seen = {}

    def forward(hyps, refs):
        seen["offline"] = os.environ["HF_HUB_OFFLINE"]
        with socket.socket() as server, socket.socket() as client:
            server.bind(("127.0.0.1", 0))
            server.listen()
            client.connect(server.getsockname())  # this machine is allowed
            seen["local"] = True
        with socket.socket() as other:
            other.connect(("192.0.2.1", 443))  # reserved for documentation (RFC 5737)

    chexbert(monkeypatch, tmp_path, forward)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    before = socket.socket.connect
    score = score_external(HYPOTHESES, REFERENCES, ["f1chexbert"])["CheXbert-F1 micro 14"]
    assert "wanted to connect to 192.0.2.1, but the kit starts no download" in score.reason
    assert seen == {"offline": "1", "local": True}
    assert os.environ["HF_HUB_OFFLINE"] == "0"
    assert socket.socket.connect == before and "connect" not in socket.socket.__dict__


def test_wrong_input_is_said_at_once():
    with pytest.raises(KitError, match="Unknown external metric 'bleurt'"):
        score_external(HYPOTHESES, REFERENCES, ["bleurt"])
    with pytest.raises(KitError, match="no hypothesis"):
        score_external({}, REFERENCES)
    with pytest.raises(KitError, match="nothing to score"):
        score_external({}, {})
