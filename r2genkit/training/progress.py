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
        best_epoch: 1-based epoch with the best validation score; the last without validation.
        best_score: its score; None without validation.
        history: one entry per epoch: "epoch", "step", "lr" by group, "train" (mean loss parts),
            "validation" (scores, absent where not validated), "seconds" (since the start).
        seconds: wall time of training and validation, interrupted sessions included.
        device: where the model was trained and is now.
    """

    best_epoch: int
    best_score: float | None
    history: list[dict[str, Any]]
    seconds: float
    device: torch.device


@dataclass
class Progress:
    """Where a run is. Plain values only: it is part of every checkpoint."""

    epoch: int = 0  # epochs completed
    epoch_steps: int = 0  # minibatches done in the current epoch
    step: int = 0  # minibatches done in all
    sums: dict[str, float] = field(default_factory=dict)  # loss parts over the current epoch
    best_epoch: int = 0  # 1-based; 0 = none yet
    best_score: float | None = None
    waited: int = 0  # validations since the best one
    finished: bool = False
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


def write_history(path: Path, history: list[dict[str, Any]]) -> None:
    """One JSON line per epoch; the file appears whole or not at all."""
    write_text(path, "".join(json.dumps(row) + "\n" for row in history))


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
