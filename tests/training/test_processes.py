"""Two processes on the CPU, started as ``torchrun`` starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
from pathlib import Path

import torch

sys.path.insert(0, sys.argv[1])
from test_fit import VOCABULARY, ToyLoader, config, likelihood, small_model
from r2genkit.batches import ReportDataset, make_loader
from r2genkit.training import fit


class Store:
    def __init__(self, batch):
        self.study_ids, self.features = batch.study_ids, batch.features
        self.view_mask = batch.view_mask.numpy()

    def gather(self, rows):
        return self.features[torch.from_numpy(rows)]


batch, folder = ToyLoader().all, Path(sys.argv[2])
tokens = [row[:n].tolist() for row, n in zip(batch.tokens, batch.lengths.tolist())]
loader = make_loader(ReportDataset(batch.study_ids, features=Store(batch), tokens=tokens), 2)
rank = int(__import__("os").environ["RANK"])
asked = []


def validate(model):
    asked.append(1)
    return likelihood()(model)


model = small_model(seed=1)
result = fit(model, loader, config=config(epochs=2), validate=validate, folder=folder, seed=5,
             progress=False, vocabulary=VOCABULARY)
said = {"rank": rank, "asked": len(asked), "epoch": result.best_epoch, "score": result.best_score,
        "train": result.history[-1]["train"], "step": result.history[-1]["step"],
        "weights": [value.double().sum().item() for value in model.state_dict().values()]}
(folder / f"rank-{rank}.json").write_text(json.dumps(said))
"""


@pytest.mark.slow
def test_two_processes_agree(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", str(script), str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert (first.pop("rank"), second.pop("rank")) == (0, 1)
    assert (first.pop("asked"), second.pop("asked")) == (2, 0)  # the main process validates
    assert first == second
    assert first["step"] == 8  # seven minibatches shared by two, twice
