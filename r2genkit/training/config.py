"""Options of a training run."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class TrainingConfig(BaseModel):
    """How a model is trained; an unknown option is an error.

    Defaults are those of R2Gen on IU X-Ray where it has one (Adam with amsgrad, weight decay 5e-5,
    step schedule of 50 epochs), except that gradients are clipped by norm.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(ge=1)
    """Passes over the training loader."""
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: float = Field(1e-3, gt=0.0)
    """Peak learning rate of all parameters outside ``lr_groups``."""
    lr_groups: dict[str, float] = Field(default_factory=dict)
    """Peak learning rate by parameter-name prefix, e.g. ``{"encoder": 5e-5}``; the longest
    matching prefix decides, 0 freezes the group, and a prefix that matches nothing is an error."""
    frozen_epochs: dict[str, int] = Field(default_factory=dict)
    """Epochs at the start in which a group of ``lr_groups`` does not learn, by its prefix."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(1e-8, gt=0.0)
    weight_decay: float = Field(5e-5, ge=0.0)
    """L2 term ("adam") or decoupled decay ("adamw"), on all parameters."""
    amsgrad: bool = False

    schedule: Literal["constant", "step", "one_cycle", "cosine", "inverse_sqrt", "plateau"] = (
        "constant"
    )
    """Course of the learning rate, see ``optimizers.lr_factor``."""
    step_epochs: int = Field(50, ge=1)
    """Epochs between two drops ("step")."""
    gamma: float = Field(0.1, gt=0.0, le=1.0)
    """Factor of one drop ("step", "plateau")."""
    plateau_patience: int = Field(3, ge=0)
    """Validations without a better score that are tolerated before a drop ("plateau")."""
    warmup_steps: int = Field(0, ge=0)
    """Minibatches of linear warm-up (all but "one_cycle", which has its own)."""

    clip_norm: float | None = Field(None, gt=0.0)
    """Largest norm of the whole gradient."""
    clip_value: float | None = Field(None, gt=0.0)
    """Largest absolute value of any entry of the gradient (R2Gen: 0.1)."""

    select: str = "finding-F1"
    """Validation score by which the best epoch is chosen."""
    mode: Literal["max", "min"] = "max"
    """Whether a higher or a lower score is better. Ties go to the earlier epoch."""
    validate_every: int = Field(1, ge=1)
    """Epochs between validations; the last epoch is always validated."""
    patience: int | None = Field(None, ge=1)
    """Stop after this many validations without a better score; None = never."""

    validate_first: bool = False
    """Also score the weights that training starts from, as epoch 0; they are kept if no epoch
    beats them."""
    stop_below: dict[str, float] = Field(default_factory=dict)
    """Stop when a validation score falls below its floor, e.g. ``{"distinct %": 10}`` for reports
    that all become the same; the best weights so far are kept and the result says why."""

    log_every: int | None = Field(None, ge=1)
    """Write the loss parts of every so many minibatches to ``steps.jsonl``."""
    checkpoint_steps: int | None = Field(None, ge=1)
    """Also write a checkpoint every so many minibatches (one is written after each epoch)."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of forward and loss ("fp16" needs a GPU)."""
    device: Literal["auto", "cpu"] = "auto"
    """"auto" takes the accelerator that is there."""

    @model_validator(mode="after")
    def _agree(self) -> TrainingConfig:
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError("clip by norm or by value, not both")
        unknown = sorted(set(self.frozen_epochs) - set(self.lr_groups))
        if unknown:
            raise ValueError(
                f"frozen_epochs names {', '.join(unknown)}, which lr_groups does not: give the "
                "group a learning rate there"
            )
        if any(epochs < 0 for epochs in self.frozen_epochs.values()):
            raise ValueError("frozen_epochs must not be negative")
        if any(lr < 0 for lr in self.lr_groups.values()):
            raise ValueError("learning rates in lr_groups must not be negative")
        if self.schedule == "inverse_sqrt" and not self.warmup_steps:
            raise ValueError("schedule inverse_sqrt needs warmup_steps")
        if self.schedule == "one_cycle" and self.warmup_steps:
            raise ValueError("schedule one_cycle brings its own warm-up; set warmup_steps to 0")
        return self
