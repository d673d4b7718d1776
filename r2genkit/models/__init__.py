"""The reproduced systems, by name.

``build_model("show_attend_tell", {"hidden_size": 256}, vocabulary_size=..., feature_dim=...)``
"""

from r2genkit.models.base import FlatModel, ModelConfig, ReportModel, State
from r2genkit.models.build import build_model, seeded_init
from r2genkit.models.hierarchical import HierarchicalModel
from r2genkit.models.registry import MODELS, model_module

__all__ = [
    "MODELS",
    "FlatModel",
    "HierarchicalModel",
    "ModelConfig",
    "ReportModel",
    "State",
    "build_model",
    "model_module",
    "seeded_init",
]
