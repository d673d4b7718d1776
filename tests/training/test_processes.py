"""Two processes on the CPU, against one process with the same minibatches.

Both launchers are tried; ``accelerate launch --cpu`` is none: it starts one process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = """
import dataclasses, json, sys
from pathlib import Path

import numpy as np
import torch

from r2genkit import processes
from r2genkit.batches import ReportDataset, collate, make_loader
from r2genkit.models import build_model
from r2genkit.training import TrainingConfig, fit, loop

torch.set_num_threads(1)
folder = Path(sys.argv[1])


class Store:
    def __init__(self, batch):
        self.study_ids, self.features = batch.study_ids, batch.features
        self.view_mask = batch.view_mask.numpy()

    def gather(self, rows):
        return self.features[torch.from_numpy(rows)]


def studies(count):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 12, (count,), generator=generator).tolist()
    tokens = []
    for number, length in enumerate(lengths):
        words = torch.randint(2, 9, (length,), generator=generator)
        words[3::4] = 1  # full stops
        tokens.append([0, *words.tolist(), 0])
    features = torch.randn(count, 2, 4, 8, generator=generator)
    mask = torch.ones(count, 2, dtype=torch.bool)
    return collate([f"s{i}" for i in range(count)], mask, features=features, tokens=tokens), tokens


SIZES = {"embedding_size": 8, "hidden_size": 8, "dropout": 0.0}
# name: model, options, studies (minibatches of four: the last one has 3, 1, 3), weighted
CASES = {
    "flat": ("show_attend_tell", {**SIZES, "attention_size": 8, "doubly_stochastic": 0.5}, 11, 1),
    "one left": ("show_tell", SIZES, 9, 0),
    "sentences": ("hier_rnn", SIZES, 15, 1),
}
told = {}
for name, (model_name, options, count, weighted) in CASES.items():
    batch, tokens = studies(count)
    model = build_model(
        model_name, options, vocabulary_size=9, feature_dim=8, full_stop=1, seed=1
    )
    weights = [np.linspace(0.5, 3.0, len(row) - 1) for row in tokens]
    loader = make_loader(
        ReportDataset(batch.study_ids, features=Store(batch), tokens=tokens,
                      token_weights=weights, layout=model.layout),
        4,
        sample_weights=np.arange(1.0, count + 1) if weighted else None,
    )
    asked, losses, served, step = [], [], [], loop._train_step

    def watched(accelerator, wrapped, optimizer, batch, config):
        parts = step(accelerator, wrapped, optimizer, batch, config)
        losses.append(parts)
        served.append([] if batch.spare else list(batch.study_ids))
        return parts

    def validate(model):
        asked.append(1)
        return {"score": -losses[-1]["loss"]}

    loop._train_step = watched
    settings = TrainingConfig(
        epochs=2, lr=0.02, optimizer="adamw", clip_norm=1.0, select="score", schedule="one_cycle"
    )
    result = fit(model, loader, config=settings, validate=validate, folder=folder / name, seed=5,
                 progress=False)
    loop._train_step = step
    told[name] = {
        "asked": len(asked), "losses": losses, "served": served, "epoch": result.best_epoch,
        "device": str(result.device), "steps": result.history[-1]["step"],
        "train": result.history[-1]["train"],
        "weights": torch.cat([p.detach().flatten() for p in model.parameters()]).tolist(),
    }
rank = torch.distributed.get_rank() if processes.count() > 1 else 0
(folder / f"rank-{rank}.json").write_text(json.dumps({"of": processes.count(), **told}))
"""

ROOT = str(Path(__file__).resolve().parents[2])
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
ACCELERATE += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
ACCELERATE += ["--main_process_port", "0"]


def launch(words, **environment):
    # Without an accelerate configuration of the user, and without a group around pytest itself.
    own = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "RANK", "WORLD_SIZE")}
    own |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ROOT, **environment}
    done = subprocess.run(
        [sys.executable, *map(str, words)], env=own, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def told(folder, rank):
    return json.loads((folder / f"rank-{rank}.json").read_text())


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "train.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture(scope="module")
def alone(script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    launch([script, folder])
    return told(folder, 0)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_two_processes_have_the_losses_of_one(alone, script, tmp_path, launcher):
    launch([*launcher, script, tmp_path])
    first, second = told(tmp_path, 0), told(tmp_path, 1)
    assert alone.pop("of", 1) == 1 and (first.pop("of"), second.pop("of")) == (2, 2)
    for name, expected in alone.items():
        one, other = first[name], second[name]
        assert expected["asked"] == one["asked"] == 2 and other["asked"] == 0  # main validates
        assert expected["steps"] == one["steps"] == other["steps"]
        assert one["losses"] == other["losses"] and one["weights"] == other["weights"]
        # The same studies in every minibatch, each in one process.
        for whole, left, right in zip(
            expected["served"], one["served"], other["served"], strict=True
        ):
            assert (left, right) == (whole[0::2], whole[1::2])
        # Sums in float32 in another order; six to eight updates carry the difference on.
        for whole, shared in zip(expected["losses"], one["losses"], strict=True):
            assert shared.keys() == whole.keys()
            for part in whole:
                assert shared[part] == pytest.approx(whole[part], rel=2e-5, abs=2e-6), (name, part)
        np.testing.assert_allclose(one["weights"], expected["weights"], rtol=1e-3, atol=2e-4)
        assert one["epoch"] == expected["epoch"]
    assert alone["one left"]["served"][0] != alone["one left"]["served"][-1]
    assert [] in second["one left"]["served"]  # it had nothing of the last minibatch


TINY = (
    "data.limit_train=21",
    "data.limit_validation=6",
    "data.limit_test=8",
    "encoder.image_size=96",
    "encoder.pca=16",
    "tags.epochs=1",
    "tags.min_positives=2",
    "training.epochs=2",
    "sampling.batch_size=4",
    "model.settings.dropout=0.0",
    "model.settings.hidden_size=16",
    "model.settings.embedding_size=16",
    "scoring.bootstrap=20",
    "scoring.meteor=false",
    "scoring.swap=0",
)


@pytest.mark.slow
def test_the_command_line_gives_the_same_row_whoever_starts_it(tmp_path):
    """Weighted sampling, an incomplete last minibatch, caches made by two processes at once."""
    words = ["-m", "r2genkit", "train", "03_show_tell", "--profile", "smoke"]
    words += [word for text in TINY for word in ("--set", text)]

    def folders(name, cache):
        named = {"RUNS": f"{name}/runs", "RESULTS": f"{name}/results", "CACHE": cache}
        return {f"R2GENKIT_{key}": str(tmp_path / value) for key, value in named.items()}

    shared = launch([*ACCELERATE, *words], **folders("two", "cache"))
    launch(words, **folders("one", "cache"))
    assert shared.stdout.count("files: ") == 1  # one process speaks
    (one,) = (tmp_path / "one/runs/smoke/phantom").glob("03_show_tell-*[0-9a-f]")
    (two,) = (tmp_path / "two/runs/smoke/phantom").glob("03_show_tell-*[0-9a-f]")
    assert sorted(path.name for path in two.iterdir()) == sorted(p.name for p in one.iterdir())
    for own, other in zip(
        *(_lines(folder / "history.jsonl") for folder in (one, two)), strict=True
    ):
        assert other["step"] == own["step"]
        assert other["train"]["loss"] == pytest.approx(own["train"]["loss"], rel=1e-4)
    assert (two / "predictions.json").read_text() == (one / "predictions.json").read_text()
    assert len(_lines(tmp_path / "two/results/phantom.jsonl")) == 1
    # Asked for again, the finished run is read by both.
    launch([*TORCHRUN, *words], **folders("two", "cache"))


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_launcher_that_starts_one_process_of_several_is_reported():
    code = "from r2genkit import processes; processes.join(); print(processes.count())"
    settings = ["--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    settings += ["--dynamo_backend", "no", "--no_python"]
    words = ["-m", "accelerate.commands.launch", *settings, sys.executable, "-c", code]
    done = launch(words)
    assert done.stdout.strip() == "1"
    assert "add --multi_gpu" in done.stderr


def test_jobs_and_launchers_exclude_one_another(monkeypatch):
    from r2genkit.errors import KitError
    from r2genkit.experiments.many import run_many

    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(KitError, match="--jobs"):
        run_many(["02_constant"], (0, 1), jobs=2)


def test_totals_are_plain_sums_outside_of_a_shared_minibatch():
    import torch

    from r2genkit import processes

    weights = torch.tensor([0.5, 2.0])
    assert processes.total(weights).item() == 2.5
    with processes.shared_minibatch(counted=False):  # one process shares with nobody
        assert processes.total(weights).item() == 2.5
    assert processes.count() == 1 and processes.is_main() and processes.from_main(3) == 3
