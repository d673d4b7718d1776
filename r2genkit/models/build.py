"""Building a model by its name, with seeded initial weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from r2genkit import seeds
from r2genkit.errors import KitError
from r2genkit.models.registry import MODELS, model_module


@contextmanager
def seeded_init(seed: int) -> Iterator[None]:
    """Draw initial weights from the run's stream "init"; the caller's own stream is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seeds.integer(seed, "init"))
        yield


def build_model(
    name: str,
    config: Mapping[str, Any] | None = None,
    *,
    vocabulary_size: int,
    feature_dim: int,
    tag_count: int = 0,
    encoder: nn.Module | None = None,
    full_stop: int | None = None,
    seed: int | None = None,
) -> Any:
    """A freshly initialised model.

    Args:
        name: one of ``MODELS``.
        config: options of that model (its ``Config``).
        vocabulary_size: number of logits, ``len(vocabulary)``.
        feature_dim: length of one patch feature.
        tag_count: number of finding probabilities fed to the decoder; 0 = none.
        encoder: image encoder to train with the model; None = cached features.
        full_stop: id of the full stop (``vocabulary.full_stop``), for models that write sentence
            by sentence.
        seed: the run's seed (stream "init"); None = torch's current random state.

    Raises:
        KitError: unknown name, unknown option or a value out of range.
    """
    model_module(name)  # says which names there are
    kind = MODELS[name]
    try:
        checked = kind.Config.model_validate(dict(config or {}))
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'options'}: {e['msg']}" for e in error.errors()
        )
        raise KitError(f"options of model {name!r} are wrong: {problems}.") from error
    arguments = {
        "vocabulary_size": vocabulary_size,
        "feature_dim": feature_dim,
        "tag_count": tag_count,
        "encoder": encoder,
        "full_stop": full_stop,
    }
    if seed is None:
        return kind(checked, **arguments)
    with seeded_init(seed):
        return kind(checked, **arguments)
