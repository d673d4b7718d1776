"""The training loop.

One loop for every model: a model is called with a minibatch and returns its loss parts. Device,
mixed precision and several processes are left to Hugging Face accelerate. Several processes share
each minibatch (:mod:`r2genkit.processes`); only the main one validates and writes.

Every random number is a function of the run's seed and of where the run is: minibatches and
augmentation come from the loader, dropout is reseeded at every minibatch. So an interrupted run
that is resumed from its last checkpoint gives, on the same CPU, exactly the numbers of a run that
was never interrupted.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from tqdm import tqdm

from r2genkit import processes, seeds
from r2genkit.batches import Batch
from r2genkit.decoding import evaluating
from r2genkit.errors import KitError
from r2genkit.text.vocabulary import Vocabulary
from r2genkit.training.checkpoints import Checkpoints, load_weights
from r2genkit.training.config import TrainingConfig
from r2genkit.training.optimizers import Schedule, build_optimizer, freeze
from r2genkit.training.progress import Board, FitResult, Progress, StepLog, write_history


class TrainingLoader(Protocol):
    """What the loop needs of a loader (see ``r2genkit.batches``)."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Batch]: ...
    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (0-based) that the next iteration plays."""

    def skip(self, n: int) -> None:
        """Leave out the first n minibatches of the next iteration."""


def fit(
    model: nn.Module,
    loader: TrainingLoader,
    *,
    config: TrainingConfig,
    validate: Callable[[nn.Module], Mapping[str, float]] | None,
    folder: Path,
    seed: int,
    resume: bool = True,
    vocabulary: Vocabulary | None = None,
    description: Mapping[str, Any] | None = None,
    progress: bool = True,
    tensorboard: bool = False,
) -> FitResult:
    """Train a model and give it the weights of its best epoch.

    Args:
        model: returns ``{"loss": scalar, part: scalar, ...}`` when called with a minibatch.
        loader: minibatches of the training set.
        config: see :class:`TrainingConfig`.
        validate: called with the model in evaluation mode, without gradients; returns scores of
            the *validation* set, among them ``config.select``. None: keep the last weights.
        folder: the run's folder; receives ``checkpoints/`` and ``history.jsonl``.
        seed: the run's seed; streams "dropout/<process>/<step>" and "validation/<epoch>" are used.
        resume: go on from the checkpoint in ``folder`` if there is one; False starts over.
        vocabulary, description: saved with every checkpoint (``description`` must fit JSON).
        progress: show a bar.
        tensorboard: also write loss, learning rates and scores to ``folder/tensorboard``.

    Raises:
        KitError: the checkpoint belongs to other settings, ``config.select`` is not among the
            scores, or the loss is not finite.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = _accelerator(config)
    rank, main = accelerator.process_index, accelerator.is_main_process
    if accelerator.num_processes > 1:
        loader.shard(rank, accelerator.num_processes)
    per_epoch = len(loader)
    model.to(accelerator.device)
    optimizer = build_optimizer(model, config)
    schedule = Schedule(optimizer, config, per_epoch)
    record = {
        "training": config.model_dump(mode="json"),
        "seed": seed,
        "minibatches": per_epoch,
        "description": dict(description or {}),
    }
    checkpoints = Checkpoints(folder, record, vocabulary)
    at = Progress()
    saved = checkpoints.load_last(model) if resume else None
    if saved is not None:
        at = Progress(**json.loads(saved["progress"]))
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
    elif main:
        checkpoints.clear()
    wrapped, prepared = accelerator.prepare(model, optimizer)
    if saved is not None and accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(saved["scaler"])
    board = Board(folder, at.step, enabled=tensorboard and main)
    steps = StepLog(folder / "steps.jsonl", at.step, every=config.log_every if main else None)
    clock = time.monotonic()

    def save() -> None:
        nonlocal clock
        at.seconds, clock = at.seconds + time.monotonic() - clock, time.monotonic()
        if main:
            scaler = accelerator.scaler
            trainer = {
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "scaler": {} if scaler is None else scaler.state_dict(),
                "progress": json.dumps(asdict(at)),
            }
            checkpoints.save_last(model, trainer, step=at.step, best=at.best_epoch)
            steps.write()
        accelerator.wait_for_everyone()

    def judge() -> dict[str, float]:
        """Validate, keep the weights if they are the best so far, stop below a floor."""
        scores = _scores(accelerator, model, validate, config, seed, at.epoch)
        score = scores[config.select]
        better = _better(score, at.best_score, config.mode)
        if better:
            at.best_epoch, at.best_score, at.waited = at.epoch, score, 0
            if main:
                checkpoints.save_best(model, at.epoch)
        else:
            at.waited += 1
        if at.epoch:
            schedule.after_validation(better)
            at.stopped = _fallen(scores, config, at.epoch)
        return scores

    try:
        if config.validate_first and validate is not None and not at.step:
            row: dict[str, Any] = {"epoch": 0, "step": 0, "lr": {}, "train": {}}
            at.history = [{**row, "validation": judge(), "seconds": time.monotonic() - clock}]
        while not at.finished:
            wrapped.train()
            freeze(optimizer, config, at.epoch)
            loader.set_epoch(at.epoch)
            loader.skip(at.epoch_steps)
            bar = tqdm(
                total=per_epoch,
                initial=at.epoch_steps,
                desc=f"epoch {at.epoch + 1}/{config.epochs}",
                disable=not (progress and main),
                leave=False,
            )
            for batch in loader:
                schedule.before_step(at.step)
                torch.manual_seed(seeds.integer(seed, f"dropout/{rank}/{at.step}"))
                parts = _train_step(accelerator, wrapped, prepared, batch, config)
                if not math.isfinite(parts["loss"]):
                    raise KitError(
                        f"the loss is {parts['loss']} at minibatch {at.step + 1} (epoch "
                        f"{at.epoch + 1}); lower lr, or set clip_norm or precision: no."
                    )
                at.step, at.epoch_steps = at.step + 1, at.epoch_steps + 1
                for name, value in parts.items():
                    at.sums[name] = at.sums.get(name, 0.0) + value
                bar.update()
                bar.set_postfix(loss=f"{at.sums['loss'] / at.epoch_steps:.3f}")
                board.scalars("train", parts, at.step)
                steps.add(at.step, parts)
                # After the last minibatch the checkpoint is written with the validation below.
                due = config.checkpoint_steps and at.step % config.checkpoint_steps == 0
                if due and at.epoch_steps < per_epoch:
                    save()
            bar.close()

            at.epoch += 1
            row = {
                "epoch": at.epoch,
                "step": at.step,
                "lr": {group["name"]: group["lr"] for group in optimizer.param_groups},
                "train": {name: value / at.epoch_steps for name, value in at.sums.items()},
            }
            at.epoch_steps, at.sums = 0, {}
            last = at.epoch == config.epochs
            if validate is not None and (last or at.epoch % config.validate_every == 0):
                row["validation"] = judge()
            stop = config.patience is not None and at.waited >= config.patience
            at.finished = last or stop or at.stopped is not None
            row["seconds"] = at.seconds + time.monotonic() - clock
            at.history.append(row)
            save()
            if main:
                write_history(folder / "history.jsonl", at.history)
            board.scalars("lr", row["lr"], at.step)
            board.scalars("validation", row.get("validation", {}), at.step)
    finally:
        board.close()
        freeze(optimizer, config, None)  # whoever trains on finds everything free
        # Take mixed precision off again: accelerate wraps ``forward`` of the model object itself.
        accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
        vars(model).pop("forward", None)
    if at.best_epoch is not None:
        load_weights(model, checkpoints.best())
    if at.stopped and main:
        tqdm.write(at.stopped)
    return FitResult(
        best_epoch=at.epoch if at.best_epoch is None else at.best_epoch,
        best_score=at.best_score,
        history=at.history,
        seconds=at.seconds,
        device=accelerator.device,
        stopped=at.stopped,
    )


def _train_step(
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    config: TrainingConfig,
) -> dict[str, float]:
    """One minibatch: forward, backward, clip, update. Returns the loss parts."""
    optimizer.zero_grad(set_to_none=True)
    # Without a study of its own a process goes through the motions and adds nothing.
    with processes.shared_minibatch(counted=not batch.spare):
        parts: dict[str, Tensor] = model(batch.to(accelerator.device))
    if batch.spare:
        parts = {name: value * 0.0 for name, value in parts.items()}
    accelerator.backward(parts["loss"])
    if config.clip_norm is not None:
        accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
    elif config.clip_value is not None:
        accelerator.clip_grad_value_(model.parameters(), config.clip_value)
    optimizer.step()
    values = torch.stack([value.detach().float() for value in parts.values()])
    values = accelerator.reduce(values, "mean")  # over processes
    return dict(zip(parts, values.tolist()))


def _accelerator(config: TrainingConfig) -> Accelerator:
    """An accelerator for this run's device and precision.

    accelerate remembers the first device and precision of a process; a notebook trains several
    models, so that memory is cleared first, all but the place among processes that train together.
    """
    cpu = config.device == "cpu"
    processes.join(cpu)
    together = torch.distributed.is_initialized()
    AcceleratorState._reset_state(reset_partial_state=not together)
    if config.precision == "fp16" and (cpu or not torch.cuda.is_available()):
        raise KitError("precision fp16 needs a CUDA device; use bf16 or no on this machine.")
    # Processes wait for the gradient of every parameter, unless told that some get none.
    frozen = DistributedDataParallelKwargs(find_unused_parameters=bool(config.frozen_epochs))
    return Accelerator(
        mixed_precision=config.precision,
        cpu=processes.on_cpu(cpu) if together else cpu,
        kwargs_handlers=[frozen],
    )


def _scores(
    accelerator: Accelerator,
    model: nn.Module,
    validate: Callable[[nn.Module], Mapping[str, float]],
    config: TrainingConfig,
    seed: int,
    epoch: int,
) -> dict[str, float]:
    """Validation scores, computed by the main process and known to all."""
    scores = None
    if accelerator.is_main_process:
        torch.manual_seed(seeds.integer(seed, f"validation/{epoch}"))
        with evaluating(model):
            scores = {name: float(value) for name, value in validate(model).items()}
    scores = processes.from_main(scores)
    if config.select not in scores:
        raise KitError(
            f"validation gives no score named {config.select!r}; choose select among "
            f"{', '.join(scores)}."
        )
    return scores


def _fallen(scores: Mapping[str, float], config: TrainingConfig, epoch: int) -> str | None:
    """One sentence on the first score below its floor in ``config.stop_below``; None if none is.

    Raises:
        KitError: a floor names no score.
    """
    for name, floor in config.stop_below.items():
        if name not in scores:
            raise KitError(
                f"stop_below names {name!r}, which validation does not give: choose among "
                f"{', '.join(scores)}."
            )
        if not scores[name] >= floor:
            return (
                f"training stopped after epoch {epoch}: validation {name} is {scores[name]:.4g}, "
                f"below the floor of {floor:g}; the best weights so far are kept."
            )
    return None


def _better(score: float, best: float | None, mode: str) -> bool:
    """Whether ``score`` beats ``best``; NaN never does, unless there is nothing yet."""
    if best is None or math.isnan(best):
        return best is None or not math.isnan(score)
    return score > best if mode == "max" else score < best
