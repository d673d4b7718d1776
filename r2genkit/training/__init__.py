"""Training: the loop, optimizers and checkpoints."""

from r2genkit.training.checkpoints import load_config, load_vocabulary, load_weights
from r2genkit.training.config import TrainingConfig
from r2genkit.training.loop import FitResult, fit

__all__ = [
    "FitResult",
    "TrainingConfig",
    "fit",
    "load_config",
    "load_vocabulary",
    "load_weights",
]
