"""The trivial baselines by the name that recipes call them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from r2genkit.encoders.features import PackedFeatures
from r2genkit.errors import KitError
from r2genkit.metrics.baselines import (
    Baseline,
    BestSingleReport,
    ConstantTemplate,
    FindingOracle,
    MostFrequentReport,
    NearestImage,
    RandomReport,
    RetrievedReport,
)

BASELINES: dict[str, Callable[..., Baseline]] = {
    "most_frequent": MostFrequentReport,
    "random_report": RandomReport,
    "best_single": BestSingleReport,
    "constant": ConstantTemplate,
    "nearest_image": NearestImage,
    "retrieved_report": RetrievedReport,
    "finding_oracle": FindingOracle,
}
ORACLES = ("finding_oracle",)
"""Told what no system may know; their rows are ceilings and say so."""
# What each one looks at besides the training reports, for the result row.
SELECTED_ON = {
    "most_frequent": "train counts",
    "random_report": "nothing",
    "best_single": "validation BLEU-4",
    "constant": "train + validation BLEU-4",
    "nearest_image": "nothing",
    "retrieved_report": "nothing",
    "finding_oracle": "true findings of the test studies",
}


def needs_features(name: str) -> bool:
    """Whether the baseline looks at images."""
    return "features" in inspect.signature(_class(name)).parameters


def needs_findings(name: str) -> bool:
    """Whether the baseline is told the true findings."""
    return "findings" in inspect.signature(_class(name)).parameters


def needs_retriever(name: str) -> bool:
    """Whether the baseline copies what the recipe's ``retrieval`` finds."""
    return "retriever" in inspect.signature(_class(name)).parameters


def _class(name: str) -> Callable[..., Baseline]:
    if name not in BASELINES:
        raise KitError(f"unknown baseline {name!r}: choose one of {', '.join(BASELINES)}")
    return BASELINES[name]


def build_baseline(
    name: str,
    settings: Mapping[str, Any],
    *,
    seed: int,
    features: PackedFeatures | None = None,
    findings: Mapping[str, Iterable[str]] | None = None,
    retriever: Any = None,
) -> Baseline:
    """A baseline that is ready to be fitted.

    Args:
        name: key of ``BASELINES``.
        settings: its own options.
        seed: the run's seed, for those that draw.
        features: patch features of all studies, for those that look at images.
        findings: true findings of all studies, for the oracle.
        retriever: of the recipe (``r2genkit.retrieval.Retriever``), for what copies its reports.

    Raises:
        KitError: unknown name or option.
    """
    make = _class(name)
    known = inspect.signature(make).parameters
    given = {"seed", "features", "study_ids", "findings", "retriever"}
    unknown = sorted(set(settings) - (set(known) - given))
    if unknown:
        allowed = ", ".join(sorted(set(known) - given)) or "none"
        raise KitError(f"baseline {name} has no option {unknown[0]!r} (options: {allowed})")
    options = dict(settings)
    if "seed" in known:
        options["seed"] = seed
    if features is not None and "features" in known:
        options["features"] = pooled_features(features)
        options["study_ids"] = features.study_ids
    if "findings" in known:
        options["findings"] = findings or {}
    if "retriever" in known:
        options["retriever"] = retriever
    return make(**options)


def pooled_features(features: PackedFeatures) -> np.ndarray:
    """Mean patch feature of each view, views side by side: float32 ``[N, V * D]``."""
    rows = np.arange(len(features))
    return np.concatenate(
        [
            features.gather(rows[start : start + 256]).mean(dim=2).flatten(1).numpy()
            for start in range(0, len(rows), 256)
        ]
    )
