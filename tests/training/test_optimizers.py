"""Schedules against torch's own, parameter groups, refusals."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from r2genkit.errors import KitError
from r2genkit.training.config import TrainingConfig
from r2genkit.training.optimizers import Schedule, build_optimizer, lr_factor, parameter_groups

EPOCHS, STEPS = 7, 11


def ours(**options):
    config = TrainingConfig(epochs=EPOCHS, **options)
    return [lr_factor(config, step, STEPS) for step in range(EPOCHS * STEPS)]


def theirs(make, per_epoch=False):
    """Factors that torch's scheduler gives, stepped per minibatch or per epoch."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler, factors = make(optimizer), []
    for step in range(EPOCHS * STEPS):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if not per_epoch or (step + 1) % STEPS == 0:
            scheduler.step()
    return factors


def test_one_cycle_is_torchs():
    want = theirs(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(
            o, max_lr=1.0, total_steps=EPOCHS * STEPS, cycle_momentum=False
        )
    )
    assert ours(schedule="one_cycle") == pytest.approx(want, rel=1e-6, abs=1e-9)


def test_step_is_torchs():
    want = theirs(lambda o: torch.optim.lr_scheduler.StepLR(o, 2, gamma=0.3), per_epoch=True)
    assert ours(schedule="step", step_epochs=2, gamma=0.3) == pytest.approx(want)


def test_cosine_is_torchs():
    want = theirs(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, EPOCHS * STEPS))
    assert ours(schedule="cosine") == pytest.approx(want, abs=1e-9)


def test_inverse_sqrt_is_the_papers_up_to_scale():
    """Vaswani et al., eq. 3: d^-0.5 min(step^-0.5, step warmup^-1.5)."""
    warmup = 20
    paper = [min(s**-0.5, s * warmup**-1.5) for s in range(1, EPOCHS * STEPS + 1)]
    factors = ours(schedule="inverse_sqrt", warmup_steps=warmup)
    assert factors == pytest.approx([value * warmup**0.5 for value in paper])
    assert max(factors) == pytest.approx(1.0)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "step", "plateau"])
def test_warm_up_rises_in_a_line(schedule):
    factors = ours(schedule=schedule, warmup_steps=10)
    assert factors[:10] == pytest.approx([0.1 * k for k in range(1, 11)])


def test_short_runs_have_rates_too():
    for schedule in ("one_cycle", "cosine", "step", "constant"):
        config = TrainingConfig(epochs=1, schedule=schedule)
        for steps in (1, 2, 3):
            factors = [lr_factor(config, step, steps) for step in range(steps)]
            assert all(0 < factor <= 1 for factor in factors), (schedule, steps)


def test_plateau_drops_after_patience():
    config = TrainingConfig(epochs=9, lr=1.0, schedule="plateau", plateau_patience=1, gamma=0.5)
    optimizer = build_optimizer(nn.Linear(2, 2), config)
    schedule, rates = Schedule(optimizer, config, STEPS), []
    for improved in (True, False, True, False, False, False, False):
        schedule.after_validation(improved)
        schedule.before_step(0)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25]
    resumed = Schedule(optimizer, config, STEPS)
    resumed.load_state_dict(schedule.state_dict())
    assert (resumed.dropped, resumed.waited) == (0.25, 0)


def parts():
    return nn.ModuleDict(
        {
            "encoder": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)),
            "encoder_norm": nn.LayerNorm(2),
            "head": nn.Linear(2, 2),
        }
    )


def test_the_longest_prefix_decides_and_names_match_whole_parts():
    model = parts()
    config = TrainingConfig(epochs=1, lr=1.0, lr_groups={"encoder": 0.1, "encoder.1": 0.2})
    groups = {group["name"]: group for group in parameter_groups(model, config)}
    names = {id(p): name for name, p in model.named_parameters()}
    members = {key: [names[id(p)] for p in group["params"]] for key, group in groups.items()}
    assert members == {
        "encoder": ["encoder.0.weight", "encoder.0.bias"],
        "encoder.1": ["encoder.1.weight", "encoder.1.bias"],
        "rest": ["encoder_norm.weight", "encoder_norm.bias", "head.weight", "head.bias"],
    }
    assert {key: group["lr"] for key, group in groups.items()} == {
        "rest": 1.0,
        "encoder": 0.1,
        "encoder.1": 0.2,
    }


def test_every_group_follows_the_schedule():
    config = TrainingConfig(
        epochs=4, lr=1.0, lr_groups={"encoder": 0.1}, schedule="step", step_epochs=2, gamma=0.5
    )
    optimizer = build_optimizer(parts(), config)
    Schedule(optimizer, config, STEPS).before_step(3 * STEPS)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({"rest": 0.5, "encoder": 0.05})


def test_frozen_parameters_are_left_out():
    model = parts()
    model["head"].requires_grad_(False)
    count = sum(len(g["params"]) for g in parameter_groups(model, TrainingConfig(epochs=1)))
    assert count == 6


def test_a_prefix_without_parameters_is_an_error():
    model = parts()
    with pytest.raises(KitError, match="visual"):
        parameter_groups(model, TrainingConfig(epochs=1, lr_groups={"visual": 0.1}))
    model["encoder"].requires_grad_(False)
    with pytest.raises(KitError, match="encoder"):
        parameter_groups(model, TrainingConfig(epochs=1, lr_groups={"encoder": 0.1}))
    model.requires_grad_(False)
    with pytest.raises(KitError, match="no trainable parameter"):
        parameter_groups(model, TrainingConfig(epochs=1))


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_options_reach_the_optimizer(kind):
    config = TrainingConfig(
        epochs=1, optimizer=kind, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.3, amsgrad=True
    )
    optimizer = build_optimizer(nn.Linear(2, 2), config)
    assert type(optimizer).__name__.lower() == kind
    (group,) = optimizer.param_groups
    assert (group["betas"], group["eps"]) == ((0.9, 0.98), 1e-9)
    assert (group["weight_decay"], group["amsgrad"]) == (0.3, True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 1.0},
        {"clip_norm": 1.0, "clip_value": 0.1},
        {"lr_groups": {"a": -1.0}},
        {"schedule": "inverse_sqrt"},
        {"schedule": "one_cycle", "warmup_steps": 3},
        {"epochs": 0},
    ],
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValidationError):
        TrainingConfig(**{"epochs": 1, **wrong})
