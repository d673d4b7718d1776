"""Several processes that train one model: who is who, and sums over a minibatch that they share.

``torchrun`` and ``accelerate launch --multi_gpu`` start the processes. Each serves its share of
every minibatch, so that the minibatch of a recipe is the same however many processes there are.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate.state import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor, distributed

# While the main process renders, decodes or scores, the others wait for it in a collective call.
_PATIENCE = timedelta(hours=24)
_Value = TypeVar("_Value")
_counted: bool | None = None  # inside `shared_minibatch`: whether this process' studies count


def on_cpu(asked: bool = False) -> bool:
    """Whether processes of this kind work on the CPU: where asked to, or without CUDA."""
    return asked or not torch.cuda.is_available()


def launched() -> bool:
    """Whether a launcher started this process as one of a group."""
    return "LOCAL_RANK" in os.environ


def join(cpu: bool = False) -> None:
    """Take this process' place among those that a launcher started; nothing without a launcher.

    accelerate joins processes on the CPU only when told that it is a CPU it works on: without
    ``cpu=True`` each would train alone and overwrite the files of the others.

    Args:
        cpu: work on the CPU even where there is a GPU.
    """
    if launched():
        if not distributed.is_initialized():
            PartialState._reset_state()
            PartialState(cpu=on_cpu(cpu), timeout=_PATIENCE)
    elif "MASTER_PORT" in os.environ and "ACCELERATE_MIXED_PRECISION" in os.environ:
        warnings.warn(
            "accelerate launch was asked for several processes and started one: add --multi_gpu, "
            "on the CPU, too, or use torchrun --nproc_per_node N -m r2genkit",
            stacklevel=2,
        )


def count() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that validates, tests and writes files."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def from_main(value: _Value | None = None) -> _Value:
    """The value that the main process gives, in every process; all of them must call."""
    box = [value]
    if count() > 1:
        broadcast_object_list(box)
    return box[0]


@contextmanager
def shared_minibatch(counted: bool = True) -> Iterator[None]:
    """Losses computed inside are of a minibatch that all processes share.

    Args:
        counted: False where this process holds none of its studies (see ``Batch.spare``).
    """
    global _counted
    before, _counted = _counted, counted if count() > 1 else None
    try:
        yield
    finally:
        _counted = before


def total(weights: Tensor) -> Tensor:
    """The number that a loss is divided by: ``weights.sum()``.

    Of a shared minibatch it is the *mean over processes* of that sum: gradients are averaged over
    processes, so that ``sum_p / mean_p(total)`` averages to ``sum / total`` of the whole
    minibatch. A mean of the processes' own means would weigh a study by the company it keeps.
    """
    own = weights.sum()
    if _counted is None:
        return own
    whole = own.detach().float() * float(_counted)
    distributed.all_reduce(whole)
    return whole / count()
