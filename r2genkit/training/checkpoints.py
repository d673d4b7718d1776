"""Checkpoints that are whole or absent, and hold all that is needed to go on or to decode.

Below ``<run folder>/checkpoints``:

* ``step-<number>``: the newest state of training: weights, optimizer, schedule, progress;
* ``best-epoch-<number>``: the weights of the best epoch so far.

Each also holds ``config.json`` and, where there is one, ``vocabulary.json``. A checkpoint is
written under another name and renamed when complete, so a folder with a proper name is whole.
Weights are safetensors and the rest is loaded with ``weights_only=True``: nothing in a checkpoint
can run code.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from r2genkit.errors import KitError
from r2genkit.files import write_json
from r2genkit.text.vocabulary import Vocabulary

WEIGHTS, TRAINER, CONFIG, VOCABULARY = (
    "model.safetensors",
    "trainer.pt",
    "config.json",
    "vocabulary.json",
)


def load_weights(model: nn.Module, checkpoint: Path) -> None:
    """Load the weights of a checkpoint folder into a model of the same shape, where it is.

    Raises:
        KitError: no such file, or the weights belong to another model.
    """
    file = Path(checkpoint) / WEIGHTS
    if not file.is_file():
        raise KitError(f"{file} does not exist; name a checkpoint folder of a training run.")
    try:
        # Read to the CPU: safetensors knows fewer devices than torch, and copies go both ways.
        load_model(model, file, strict=True, device="cpu")
    except (RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        raise KitError(
            f"{file} does not fit this model ({first}); build it with the options in the "
            f"{CONFIG} beside it."
        ) from error


def load_vocabulary(checkpoint: Path) -> Vocabulary:
    """The vocabulary saved with a checkpoint."""
    return Vocabulary.load(Path(checkpoint) / VOCABULARY)


def load_config(checkpoint: Path) -> dict[str, Any]:
    """What the run wrote about itself: "training", "seed", "minibatches" and "description"."""
    file = Path(checkpoint) / CONFIG
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KitError(f"cannot read {file}; name a checkpoint folder of a run.") from error


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: the run's folder.
        config: what decides the numbers of the run; written to each checkpoint and compared when
            one is resumed.
        vocabulary: saved with each checkpoint if given.
    """

    def __init__(self, folder: Path, config: dict[str, Any], vocabulary: Vocabulary | None) -> None:
        self.folder = Path(folder) / "checkpoints"
        # Through JSON, so that it compares equal to what is read back (tuples become lists).
        self.config = json.loads(json.dumps(config))
        self.vocabulary = vocabulary

    def last(self) -> Path | None:
        """The newest training state, if any."""
        return max(self.folder.glob("step-*"), default=None)

    def best(self) -> Path | None:
        """The weights of the best epoch, if any."""
        return max(self.folder.glob("best-epoch-*"), default=None)

    def clear(self) -> None:
        """Delete the run's checkpoints."""
        self._remove(lambda path: True)

    def save_best(self, model: nn.Module, epoch: int) -> None:
        """Keep these weights as the best; older ones go with the next :meth:`save_last`."""
        self._write(f"best-epoch-{epoch:06d}", model, None)

    def save_last(
        self, model: nn.Module, trainer: dict[str, Any], *, step: int, best: int | None
    ) -> None:
        """Write the training state, then delete states and best weights that it supersedes.

        Args:
            model: weights to keep.
            trainer: plain values and tensors.
            step: minibatches done in all.
            best: best epoch so far, if any.
        """
        name = f"step-{step:09d}"
        self._write(name, model, trainer)
        kept = {name} if best is None else {name, f"best-epoch-{best:06d}"}
        self._remove(lambda path: path.name not in kept)

    def load_last(self, model: nn.Module) -> dict[str, Any] | None:
        """Load the newest training state; None if there is none.

        Raises:
            KitError: it belongs to a run with other settings.
        """
        checkpoint = self.last()
        if checkpoint is None:
            return None
        self._compare(checkpoint)
        load_weights(model, checkpoint)
        return torch.load(checkpoint / TRAINER, map_location="cpu", weights_only=True)

    def _compare(self, checkpoint: Path) -> None:
        there, here = _flat(load_config(checkpoint)), _flat(self.config)
        different = sorted(
            key
            for key in {*there, *here}
            if there.get(key) != here.get(key) and key != "training.checkpoint_steps"
        )
        if different:
            shown = "; ".join(
                f"{key}: {there.get(key)} there, {here.get(key)} here" for key in different[:5]
            )
            raise KitError(
                f"{checkpoint.parent.parent} holds a run with other settings ({shown}); "
                "use another folder, or start over with resume=False."
            )
        own = self.vocabulary
        if own is not None and load_vocabulary(checkpoint).fingerprint != own.fingerprint:
            raise KitError(
                f"{checkpoint.parent.parent} holds a run with another vocabulary; "
                "use another folder, or start over with resume=False."
            )

    def _write(self, name: str, model: nn.Module, trainer: dict[str, Any] | None) -> None:
        final, temporary = self.folder / name, self.folder / f".{name}.{os.getpid()}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_model(model, str(temporary / WEIGHTS))
        if trainer is not None:
            torch.save(trainer, temporary / TRAINER)
        write_json(temporary / CONFIG, self.config, indent=1)
        if self.vocabulary is not None:
            self.vocabulary.save(temporary / VOCABULARY)
        if final.exists():  # an interrupted run got this far before
            shutil.rmtree(final)
        temporary.replace(final)

    def _remove(self, unwanted: Callable[[Path], bool]) -> None:
        for path in [*self.folder.glob("step-*"), *self.folder.glob("best-epoch-*")]:
            if unwanted(path):
                shutil.rmtree(path)
        for path in self.folder.glob(".*.tmp"):
            shutil.rmtree(path, ignore_errors=True)


def _flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> ``{"a.b": value}``."""
    if not isinstance(content, dict):
        return {prefix: content}
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
