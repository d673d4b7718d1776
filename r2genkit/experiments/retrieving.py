"""Retrieval of a run: vectors of all studies, the index of the training studies, token ids.

See :mod:`r2genkit.retrieval` for what is compared with what.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields

import numpy as np
import torch
from filelock import FileLock
from pydantic import ValidationError
from torch import Tensor

from r2genkit.encoders.features import PackedFeatures, cache_features
from r2genkit.encoders.networks import Encoder, build_encoder
from r2genkit.encoders.tags import TagConfig, Tags, crossfit_tags
from r2genkit.errors import KitError
from r2genkit.experiments.data import PreparedImages, PreparedText
from r2genkit.experiments.environment import code_hash
from r2genkit.experiments.recipe import Recipe
from r2genkit.experiments.tagging import sharpen, true_findings
from r2genkit.files import replacing
from r2genkit.images import pack_images
from r2genkit.paths import cache_dir
from r2genkit.retrieval import (
    ImageScale,
    ReportIndex,
    RetrievalConfig,
    Retriever,
    finding_vectors,
    overlap,
    query_vectors,
    typical_first,
)

__all__ = ["Retriever", "finding_sets", "patients", "prepare_retriever", "retrieval_config"]

_PORTION = 256  # studies whose patch features are pooled at a time


def retrieval_config(recipe: Recipe) -> RetrievalConfig:
    """The checked ``retrieval`` block of a recipe.

    Raises:
        KitError: there is none, or a key or value of it is wrong.
    """
    if recipe.retrieval is None:
        raise KitError(f"{recipe.run} has no retrieval block: add one, for example retrieval: {{}}")
    try:
        config = RetrievalConfig.model_validate(recipe.retrieval)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(("retrieval", *map(str, first["loc"])))
        raise KitError(f"{recipe.run}: {key}: {first['msg'].lower()}") from error
    if config.by != "image" and recipe.tags is None:
        raise KitError(
            f"{recipe.run}: retrieval by {config.by} needs finding tags: add a tags block or set "
            "retrieval.by: image"
        )
    return config


def patients(text: PreparedText) -> dict[str, str]:
    """Patient by study id, for the studies of which the corpus says so.

    No corpus of this kit has a patient number beyond the study's own so far; a ``Study`` that
    carries an attribute ``patient`` is understood.
    """
    named = {i: getattr(study, "patient", None) for i, study in text.studies.items()}
    return {study_id: str(patient) for study_id, patient in named.items() if patient}


def prepare_retriever(
    recipe: Recipe,
    text: PreparedText,
    prepared: PreparedImages,
    tags: Tags | None,
    seed: int,
) -> Retriever:
    """The retriever of a run.

    Args:
        recipe: its ``retrieval`` block, encoder and tag settings.
        text: studies, split and vocabulary.
        prepared: patch features of the same studies; images where the encoder is trained.
        tags: finding classifier of the run; needed to compare findings.
        seed: the run's seed.

    Raises:
        KitError: the block is wrong, or findings are to be compared and there are no tags.
    """
    config = retrieval_config(recipe)
    ids, train = tuple(text.studies), text.split.train
    place = {study_id: number for number, study_id in enumerate(ids)}
    training = torch.tensor([place[study_id] for study_id in train])
    image = told = rows_told = scale = encoder = None
    if config.by != "findings":
        features, encoder = _compared_features(recipe, text, prepared)
        pooled, mask = pooled_views(features, ids)
        scale = ImageScale.fit(pooled[training], mask[training])
        image = scale.vectors(pooled, mask)
    if config.by != "image":
        if tags is None:
            raise KitError(f"{recipe.run}: retrieval by {config.by} was given no finding tags")
        probabilities = tags.of(ids).copy()
        if config.crossfit and not tags.info.get("crossfit"):
            probabilities[training.numpy()] = unseen_tags(
                recipe, text, prepared, tags, config, seed
            )
        sharp = sharpen(probabilities, recipe.tags.sharpness, recipe.tags.called_at)
        told = finding_vectors(torch.from_numpy(sharp))
        truth = true_findings(text, train, tags.types).astype(np.float32)
        rows_told = finding_vectors(torch.from_numpy(truth))
    rows = query_vectors(config, None if image is None else image[training], rows_told)
    texts = {study_id: text.texts[study_id] for study_id in train}
    order = list(range(len(train)))
    if rows_told is not None:
        order = typical_first([text.references[study_id] for study_id in train], rows_told)
    indexed = [train[number] for number in order]
    retriever = Retriever(
        config,
        ReportIndex(indexed, rows[order], train=train, texts=texts, patients=patients(text)),
        report_tokens(text, indexed, config.words),
        ids,
        query_vectors(config, image, told),
        scale=scale,
        encoder=encoder,
    )
    return retriever.with_figures(quality(retriever, text)) if config.k else retriever


def report_tokens(text: PreparedText, study_ids: Sequence[str], words: int) -> Tensor:
    """Token ids ``[n, L]`` of target reports, begin mark first, cut to ``words`` words."""
    encoded = [text.vocabulary.encode(text.texts[i], words + 2)[: words + 1] for i in study_ids]
    tokens = torch.zeros(len(encoded), max(map(len, encoded)), dtype=torch.int64)
    for row, token_ids in zip(tokens, encoded):
        row[: len(token_ids)] = torch.tensor(token_ids)
    return tokens


def pooled_views(features: PackedFeatures, study_ids: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Mean patch feature of each view ``[n, V, D]`` and which views there are ``[n, V]``."""
    rows = np.array([features.row(study_id) for study_id in study_ids])
    parts = [
        features.gather(rows[start : start + _PORTION]).mean(2)
        for start in range(0, len(rows), _PORTION)
    ]
    return torch.cat(parts), torch.from_numpy(np.ascontiguousarray(features.view_mask[rows]))


def _compared_features(
    recipe: Recipe, text: PreparedText, prepared: PreparedImages
) -> tuple[PackedFeatures, Encoder | None]:
    """Patch features to compare, and the encoder they come from if it is not the run's own.

    Where the run trains its encoder, images are compared by the weights that training starts from:
    they stay what they are while the model learns.
    """
    if prepared.features is not None:
        return prepared.features, None
    weights = recipe.encoder.weights
    if prepared.pretraining is not None:
        weights = prepared.pretraining.weights
    frozen = build_encoder(recipe.encoder.name, weights=weights)
    images = pack_images(
        list(text.studies.values()), size=recipe.encoder.image_size, progress=False
    )
    return cache_features(frozen, images, list(text.studies), progress=False), frozen


def unseen_tags(
    recipe: Recipe,
    text: PreparedText,
    prepared: PreparedImages,
    tags: Tags,
    config: RetrievalConfig,
    seed: int,
) -> np.ndarray:
    """Out-of-fold finding probabilities of the training studies ``[N, F]``, cached on disk.

    The decoder may be told true findings of training studies (``teacher_forcing``), and the
    classifier knows these studies nearly by heart; no new study is sought by either.
    """
    train = text.split.train
    settings = recipe.tags.model_dump(include={field.name for field in fields(TagConfig)})
    content = {
        "config": settings,
        "folds": config.crossfit,
        "features": prepared.features.digest,
        "train": train,
        "types": tags.types,
        "seed": seed,
        "code": code_hash("r2genkit.encoders.tags", "r2genkit.experiments.tagging"),
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
    path = cache_dir() / "tags" / f"unseen-{key}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.is_file():
            found = crossfit_tags(
                tags.types,
                prepared.features,
                train,
                true_findings(text, train, tags.types),
                config.crossfit,
                TagConfig(**settings),
                seed=seed,
                progress=False,
            )
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, found)
    return np.load(path)


# --- how good are the neighbours? -----------------------------------------------------------------


def finding_sets(text: PreparedText, study_ids: Sequence[str]) -> dict[str, frozenset[str]]:
    """True finding types of studies: coded, or stated by the report where there are no codes."""
    types = text.labeler.findings
    matrix = true_findings(text, tuple(study_ids), types)
    return {
        study_id: frozenset(types[column] for column in np.flatnonzero(row))
        for study_id, row in zip(study_ids, matrix)
    }


def neighbour_overlap(
    retriever: Retriever,
    text: PreparedText,
    part: str,
    k: int | None = None,
    findings: Mapping[str, Collection[str]] | None = None,
) -> dict[str, float]:
    """Agreement of the K neighbours of one part's studies with their true findings.

    See :func:`r2genkit.retrieval.overlap`.

    Args:
        retriever: of the same split.
        text: studies and split.
        part: "train", "validation" or "test".
        k: K; default that of the retriever.
        findings: :func:`finding_sets` of all studies, where they are at hand.
    """
    ids = text.part(part)
    if findings is None:
        findings = finding_sets(text, tuple(text.studies))
    return overlap(retriever.found(ids, k), findings, ids)


def quality(retriever: Retriever, text: PreparedText) -> dict[str, float]:
    """Finding-F1 of the neighbours of training and of test studies, for the result row.

    If the first is clearly higher than the second, a model learns to trust what it will not get.
    """
    findings = finding_sets(text, tuple(text.studies))
    return {
        f"neighbours finding-F1, {part}": neighbour_overlap(
            retriever, text, part, findings=findings
        )["F1"]
        for part in ("train", "test")
    }
