"""What a training run keeps count of, and where it writes it down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from r2genkit.files import write_text


@dataclass
class FitResult:
    """What training gives; the model itself holds the best weights.

    Attributes:
        best_epoch: 1-based epoch with the best validation score (0: the weights that training
            started from); the last without validation.
        best_score: its score; None without validation.
        history: one entry per epoch: "epoch", "step", "lr" by group, "train" (mean loss parts),
            "validation" (scores, absent where not validated), "seconds" (since the start).
        seconds: wall time of training and validation, interrupted sessions included.
        device: where the model was trained and is now.
        stopped: why training ended before its last epoch, one sentence; None if it did not, or
            only for lack of patience.
    """

    best_epoch: int
    best_score: float | None
    history: list[dict[str, Any]]
    seconds: float
    device: torch.device
    stopped: str | None = None


@dataclass
class Progress:
    """Where a run is. Plain values only: it is part of every checkpoint."""

    epoch: int = 0  # epochs completed
    epoch_steps: int = 0  # minibatches done in the current epoch
    step: int = 0  # minibatches done in all
    sums: dict[str, float] = field(default_factory=dict)  # loss parts over the current epoch
    best_epoch: int | None = None  # 1-based; 0 = the weights that training started from
    best_score: float | None = None
    waited: int = 0  # validations since the best one
    finished: bool = False
    stopped: str | None = None  # why, when a score fell below its floor
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """One JSON line per epoch; the file appears whole or not at all."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in history))


class StepLog:
    """Loss parts of single minibatches in a JSON-lines file that follows the checkpoints.

    An interrupted run goes on from its last checkpoint; what stood behind it is dropped.

    Args:
        path: the file.
        step: minibatches done so far.
        every: write one in so many minibatches; None does nothing at all.
    """

    def __init__(self, path: Path, step: int, *, every: int | None) -> None:
        self.path, self.every = path, every
        self.rows: list[dict[str, float]] = []
        if every is not None and step and path.is_file():
            kept = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
            self.rows = [row for row in kept if row["step"] <= step]

    def add(self, step: int, parts: Mapping[str, float]) -> None:
        """Remember the loss parts of minibatch ``step`` (1-based) if it is due."""
        if self.every is not None and step % self.every == 0:
            self.rows.append({"step": step, **parts})

    def write(self) -> None:
        """Write the file anew; it appears whole or not at all."""
        if self.every is not None:
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))


class Board:
    """TensorBoard event files in ``<folder>/tensorboard``, or nothing at all.

    Args:
        folder: the run's folder.
        step: minibatches done so far; later entries of an interrupted session are hidden.
        enabled: False makes every call do nothing.
    """

    def __init__(self, folder: Path, step: int, *, enabled: bool) -> None:
        self.writer = None
        if enabled:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, rarely used

            self.writer = SummaryWriter(
                str(folder / "tensorboard"), purge_step=step + 1 if step else None
            )

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Log ``values`` as ``group/name`` at ``step``."""
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Write out what is buffered."""
        if self.writer is not None:
            self.writer.close()
