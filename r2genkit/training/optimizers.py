"""Optimizer with one learning rate per part of the model, and the course of these rates."""

from __future__ import annotations

import math

import torch
from torch import nn

from r2genkit.errors import KitError
from r2genkit.training.config import TrainingConfig

# One-cycle as in torch (Smith & Topin 2017): start at peak/25, peak after 30 % of the steps, end at
# start/10,000, cosine in between. Momentum is left alone.
ONE_CYCLE_RISE, ONE_CYCLE_START, ONE_CYCLE_END = 0.3, 1 / 25, 1 / 250_000


def parameter_groups(model: nn.Module, config: TrainingConfig) -> list[dict]:
    """Trainable parameters by learning rate: one group per prefix, and "rest".

    A prefix matches whole name parts: "encoder" matches "encoder.conv.weight" and not
    "encoder_norm.weight".

    Raises:
        KitError: a prefix matches no trainable parameter, or nothing is trainable.
    """
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in ("rest", *config.lr_groups)}
    prefixes = sorted(config.lr_groups, key=len, reverse=True)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            fits = (p for p in prefixes if f"{name}.".startswith(f"{p.rstrip('.')}."))
            groups[next(fits, "rest")].append(parameter)
    idle = [name for name in config.lr_groups if not groups[name]]
    if idle:
        raise KitError(
            f"lr_groups names {', '.join(idle)}, which no trainable parameter of this model "
            "starts with; correct or remove it (cached features leave no encoder to train)."
        )
    if not any(groups.values()):
        raise KitError("the model has no trainable parameter; unfreeze something to train it.")
    rates = {"rest": config.lr, **config.lr_groups}
    return [
        {"name": name, "params": parameters, "lr": rates[name], "peak_lr": rates[name]}
        for name, parameters in groups.items()
        if parameters
    ]


def build_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over :func:`parameter_groups`, all parameters in one pass."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return kind(
        parameter_groups(model, config),
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        amsgrad=config.amsgrad,
        fused=True,
    )


def freeze(optimizer: torch.optim.Optimizer, config: TrainingConfig, epoch: int | None) -> None:
    """Let the groups of ``config.frozen_epochs`` rest in their first epochs.

    What is frozen gets no gradient, so that no moments gather for it, and no backward pass runs
    through a part of the model that is frozen as a whole.

    Args:
        optimizer: with the groups of :func:`parameter_groups`.
        config: see ``frozen_epochs``.
        epoch: 0-based; None: nothing rests any more.
    """
    for group in optimizer.param_groups:
        if group["name"] in config.frozen_epochs:
            for parameter in group["params"]:
                parameter.requires_grad_(
                    epoch is None or epoch >= config.frozen_epochs[group["name"]]
                )


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * share)) / 2.0


def lr_factor(config: TrainingConfig, step: int, steps_per_epoch: int) -> float:
    """Factor on the peak learning rates for minibatch ``step`` (0-based) of the run.

    * constant, plateau: 1 (drops of "plateau" depend on scores, see :class:`Schedule`)
    * step: ``gamma ** (epoch // step_epochs)``
    * cosine: 1 down to 0 after the last minibatch
    * inverse_sqrt: rises to 1 at ``warmup_steps``, then ``sqrt(warmup_steps / step)`` (Vaswani et
      al. 2017, section 5.3, scaled so that its peak is the learning rate)
    * one_cycle: see the constants above

    The first three are multiplied by a linear warm-up over ``warmup_steps``.
    """
    total, warmup = config.epochs * steps_per_epoch, config.warmup_steps
    if config.schedule == "one_cycle":
        rise = ONE_CYCLE_RISE * total - 1.0
        if step <= rise:
            return _cosine(ONE_CYCLE_START, 1.0, step / rise)
        return _cosine(1.0, ONE_CYCLE_END, (step - rise) / max(total - 1.0 - rise, 1.0))
    if config.schedule == "inverse_sqrt":
        return min((step + 1) / warmup, math.sqrt(warmup / (step + 1)))
    warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
    if config.schedule == "step":
        return warm * config.gamma ** (step // steps_per_epoch // config.step_epochs)
    if config.schedule == "cosine":
        return warm * _cosine(1.0, 0.0, max(0, step - warmup) / max(total - warmup, 1))
    return warm


class Schedule:
    """Sets the learning rates of an optimizer before every minibatch.

    Apart from the drops of "plateau" it is a function of the step number alone.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, config: TrainingConfig, steps_per_epoch: int
    ) -> None:
        self.optimizer, self.config, self.steps_per_epoch = optimizer, config, steps_per_epoch
        self.dropped = 1.0
        self.waited = 0

    def before_step(self, step: int) -> None:
        """Set the rates for minibatch ``step`` (0-based) of the run."""
        factor = self.dropped * lr_factor(self.config, step, self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor

    def after_validation(self, improved: bool) -> None:
        """Lower the rates where "plateau" asks for it."""
        if self.config.schedule != "plateau":
            return
        self.waited = 0 if improved else self.waited + 1
        if self.waited > self.config.plateau_patience:
            self.dropped, self.waited = self.dropped * self.config.gamma, 0

    def state_dict(self) -> dict[str, float]:
        """What a resumed run needs."""
        return {"dropped": self.dropped, "waited": self.waited}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Take up what :meth:`state_dict` returned."""
        self.dropped, self.waited = float(state["dropped"]), int(state["waited"])
