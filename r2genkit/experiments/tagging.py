"""Tags of a run: train the finding classifier once per features and split, reuse it from disk."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields

import numpy as np
from filelock import FileLock

from r2genkit.corpora.mesh import FINDING_TYPES
from r2genkit.encoders.features import PackedFeatures, ids_fingerprint
from r2genkit.encoders.tags import TagConfig, Tags, auroc, finding_matrix, fit_tags
from r2genkit.errors import KitError
from r2genkit.experiments.data import PreparedText
from r2genkit.experiments.environment import code_hash
from r2genkit.experiments.recipe import TagsConfig
from r2genkit.metrics.findings import POSITIVE
from r2genkit.paths import cache_dir


def true_findings(
    text: PreparedText, study_ids: tuple[str, ...], types: tuple[str, ...]
) -> np.ndarray:
    """True findings bool ``[N, F]``: the corpus' codes where it has any, else the report's text."""
    studies = [text.studies[study_id] for study_id in study_ids]
    if any(study.findings for study in studies):
        return finding_matrix(studies, types)
    columns = [text.labeler.findings.index(name) for name in types]
    labels = text.labeler.label_matrix([text.cleaned[study_id] for study_id in study_ids])
    return labels[:, columns] == POSITIVE


def trainable_types(text: PreparedText, min_positives: int) -> tuple[str, ...]:
    """Finding types with enough positives in the training set to learn anything from.

    Raises:
        KitError: no finding type has enough.
    """
    known = tuple(name for name in FINDING_TYPES if name in text.labeler.findings)
    counts = true_findings(text, text.split.train, known).sum(0)
    types = tuple(name for name, count in zip(known, counts) if count >= min_positives)
    if not types:
        raise KitError(
            f"no finding has {min_positives} positive studies in the training set of corpus "
            f"{text.data.corpus}: use a recipe without tags or more studies"
        )
    return types


def prepare_tags(
    config: TagsConfig,
    text: PreparedText,
    features: PackedFeatures,
    seed: int,
    *,
    progress: bool = True,
) -> Tags:
    """Finding probabilities of all studies, from the cache where they were computed before.

    The key holds everything that decides them: features, split, types, settings, seed and source
    code. Labels of test studies are not read.
    """
    types = trainable_types(text, config.min_positives)
    settings = config.model_dump(include={field.name for field in fields(TagConfig)})
    content = {
        "config": settings,
        "crossfit": config.crossfit,
        "features": features.digest,
        "train": ids_fingerprint(text.split.train),
        "validation": ids_fingerprint(text.split.validation),
        "types": types,
        "seed": seed,
        "code": code_hash("r2genkit.encoders.tags", __name__),
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
    folder = cache_dir() / "tags" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "tags.json").is_file():
            fit_tags(
                types,
                features,
                true_findings(text, features.study_ids, types),
                text.split.train,
                text.split.validation,
                TagConfig(**settings),
                crossfit=config.crossfit,
                seed=seed,
                progress=progress,
            ).save(folder)
    return Tags.load(folder)


def sharpen(probabilities: np.ndarray, sharpness: float, called_at: float = 0.5) -> np.ndarray:
    """``sigmoid(sharpness * (logit(p) - logit(called_at)))``: clearer answers, moved threshold.

    Args:
        probabilities: any shape, in [0, 1].
        sharpness: above 0; 1 leaves differences of log-odds as they are.
        called_at: the probability that becomes one half.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    # The same function without a logit, which has no value at 0 and 1.
    yes, no = (p * (1.0 - called_at)) ** sharpness, ((1.0 - p) * called_at) ** sharpness
    return (yes / (yes + no)).astype(np.float32)


def decoder_tags(config: TagsConfig, tags: Tags, text: PreparedText, part: str) -> np.ndarray:
    """What the decoder is told of the findings of one part's studies ``[N, F]``, in order.

    True findings are told of training studies only, and only with ``teacher_forcing``.
    """
    ids = text.part(part)
    if config.teacher_forcing and part == "train":
        return true_findings(text, ids, tags.types).astype(np.float32)
    return sharpen(tags.of(ids), config.sharpness, config.called_at)


def mean_test_auroc(tags: Tags, text: PreparedText) -> float:
    """Mean AUROC over the finding types that occur in the test set."""
    labels = true_findings(text, text.split.test, tags.types)
    return float(np.nanmean(auroc(tags.of(text.split.test), labels)))
