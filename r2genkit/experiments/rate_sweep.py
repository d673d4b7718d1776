"""What does the encoder's learning rate do? One recipe trained at several rates, on validation.

Every point trains the recipe's model end to end with one rate for the encoder and one for
everything else, and looks after each epoch at the *validation* studies alone: loss, finding-F1,
how far the encoder's patch features have moved, and whether the finding classifier that the encoder
was pre-trained under still recognises findings in them. The test set is not read: a rate is a
setting, and settings are chosen on validation studies.

Rows live in ``rates/<corpus>.jsonl`` beside the result rows, never among them; a row is complete or
refused, and a point whose row stands is not trained again while recipe and source code are
unchanged.
"""

from __future__ import annotations

import copy
import shlex
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from r2genkit.batches import Batch
from r2genkit.decoding import evaluating
from r2genkit.encoders.drift import drift
from r2genkit.encoders.tags import auroc
from r2genkit.errors import KitError
from r2genkit.experiments.data import (
    PreparedImages,
    PreparedText,
    prepare_images,
    prepare_text,
    report_loader,
)
from r2genkit.experiments.environment import (
    PeakMemory,
    code_hash,
    device_name,
    git_revision,
    torch_threads,
    versions,
)
from r2genkit.experiments.lines import read_complete
from r2genkit.experiments.recipe import Recipe, load_recipe
from r2genkit.experiments.results import Measured, replace_line
from r2genkit.experiments.runner import recipe_modules, validation_scores
from r2genkit.experiments.tagging import true_findings
from r2genkit.models import build_model
from r2genkit.models.base import FlatModel
from r2genkit.paths import results_dir
from r2genkit.training import fit

ENCODER = "encoder"
"""Prefix of the encoder's parameters: its group in ``training.lr_groups``."""
_FOR_GOOD = 10**6  # epochs
KEY = ("recipe", "corpus", "protocol", "profile", "seed", "encoder_lr", "decoder_lr", "frozen")
_ORDER = ("protocol", "profile", "recipe", "seed", "decoder_lr", "encoder_lr", "frozen")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Epoch(_Strict):
    """The validation studies after an epoch; epoch 0 is the model before its first step.

    Attributes:
        train_loss: mean loss of the epoch's minibatches; None at epoch 0.
        loss: mean cross-entropy per token of the validation reports, natural log.
        finding_F1: of greedily decoded reports.
        distinct_percent: distinct reports among them.
        distance, cosine, cka: patch features against those at epoch 0 (``encoders/drift.py``).
        recognised: macro AUROC of the finding classifier of the pre-training on these features;
            None where the encoder was not pre-trained on tags.
    """

    epoch: int = Field(ge=0)
    train_loss: float | None = Field(allow_inf_nan=False)
    loss: float = Field(allow_inf_nan=False)
    finding_F1: float = Field(ge=0, le=1)
    distinct_percent: float = Field(ge=0, le=100)
    distance: float = Field(ge=0, allow_inf_nan=False)
    cosine: float = Field(allow_inf_nan=False)
    cka: float = Field(allow_inf_nan=False)
    recognised: float | None = Field(allow_inf_nan=False)


class RateRow(_Strict):
    """One pair of learning rates and what it did, epoch by epoch.

    Attributes:
        frozen: epochs in which the encoder did not learn.
        best: epoch with the lowest validation loss, 0 = the start.
    """

    recipe: str
    corpus: str
    synthetic: bool
    protocol: str
    profile: Literal["smoke", "lab", "paper"]
    seed: int
    encoder: str
    encoder_lr: float = Field(ge=0)
    decoder_lr: float = Field(gt=0)
    frozen: int = Field(ge=0)
    recipe_hash: str = Field(pattern=r"^[0-9a-f]{16}$")
    code_hash: str = Field(pattern=r"^[0-9a-f]{16}$")
    split_fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    studies: dict[Literal["train", "validation"], int]
    minibatches: int = Field(ge=1)
    epochs: tuple[Epoch, ...] = Field(min_length=2)
    encoder_parameters: int = Field(ge=1)
    decoder_parameters: int = Field(ge=1)
    command: str
    measured: Measured

    @model_validator(mode="after")
    def _complete(self) -> RateRow:
        if [entry.epoch for entry in self.epochs] != list(range(len(self.epochs))):
            raise ValueError("epochs must be 0, 1, 2, ... without a gap")
        if any(entry.train_loss is None for entry in self.epochs[1:]):
            raise ValueError("every epoch but 0 needs its training loss")
        return self

    @property
    def best(self) -> Epoch:
        """The epoch with the lowest validation loss; the earlier one of equals."""
        return min(self.epochs, key=lambda entry: entry.loss)

    @property
    def last(self) -> Epoch:
        """The last epoch."""
        return self.epochs[-1]

    @property
    def label(self) -> str:
        """Rates in words."""
        frozen = f", frozen for {self.frozen}" if self.frozen else ""
        return f"encoder {rate(self.encoder_lr)}, rest {rate(self.decoder_lr)}{frozen}"

    def numbers(self) -> dict:
        """The row without what depends on machine and moment: equal for equal seed and CPU."""
        return self.model_dump(mode="json", exclude={"measured", "command"})


def rate(value: float) -> str:
    """A learning rate as people write it: 0, 1e-4, 3e-4."""
    if not value:
        return "0"
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def train_at(
    name: str | Path,
    encoder_lr: float,
    decoder_lr: float,
    *,
    frozen: int = 0,
    profile: str = "lab",
    corpus: str | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    data_dir: str | Path | None = None,
    fresh: bool = False,
    progress: bool = False,
) -> RateRow:
    """Train a recipe at one pair of rates, or read the row that says what that does; write it.

    Args:
        name: a recipe with a trainable encoder and a model that writes word by word.
        encoder_lr: peak rate of the encoder; 0 = it stays as it is.
        decoder_lr: peak rate of everything else.
        frozen: epochs before the encoder begins to learn.
        profile, corpus, seed, overrides, data_dir: as for ``run``.
        fresh: train again even where the row stands.
        progress: show progress bars.

    Raises:
        KitError: unusable recipe, or one whose encoder is frozen.
    """
    settings = [
        *overrides,
        f"training.lr={decoder_lr:g}",
        f"training.lr_groups.{ENCODER}={encoder_lr:g}",
        # At rate 0 it rests for good, so that no gradient is computed for it.
        f"training.frozen_epochs.{ENCODER}={frozen if encoder_lr else _FOR_GOOD}",
        "training.select=loss",
        "training.mode=min",
    ]
    recipe = load_recipe(name, profile=profile, corpus=corpus, overrides=settings)
    if recipe.model is None or not recipe.encoder.trainable:
        raise KitError(
            f"{recipe.run} has no encoder that learns: a sweep of its rate needs a recipe with "
            "encoder.trainable: true."
        )
    data_dir = None if data_dir is None else Path(data_dir).expanduser()
    text = prepare_text(recipe.data, recipe.text, data_dir)
    known = {
        "recipe": recipe.run,
        "corpus": recipe.data.corpus,
        "protocol": recipe.data.split,
        "profile": profile,
        "seed": seed,
        "encoder_lr": encoder_lr,
        "decoder_lr": decoder_lr,
        "frozen": frozen,
        "recipe_hash": recipe.fingerprint(),
        "code_hash": code_hash(__name__, *recipe_modules(recipe)),
        "split_fingerprint": text.split.fingerprint,
    }
    if not fresh:
        for row in read_rate_rows(profile, corpus=recipe.data.corpus):
            if all(getattr(row, key) == value for key, value in known.items()):
                return row
    words = ["r2genkit", "rates", str(name), "--encoder-lr", rate(encoder_lr)]
    words += ["--decoder-lr", rate(decoder_lr), "--frozen", str(frozen)]
    words += ["--profile", profile, "--seed", str(seed)]
    words += ["--corpus", corpus] if corpus else []
    words += [word for setting in overrides for word in ("--set", setting)]
    words += ["--data-dir", "DATA_DIR"] if data_dir else []
    with torch_threads(recipe.threads):
        row = _train(recipe, text, seed, data_dir, progress, known | {"command": shlex.join(words)})
    path = _file(row.profile, row.corpus)
    replace_line(path, row.model_dump(mode="json"), key=KEY, order=_ORDER)
    return row


def _train(
    recipe: Recipe,
    text: PreparedText,
    seed: int,
    data_dir: Path | None,
    progress: bool,
    content: dict,
) -> RateRow:
    start = time.perf_counter()
    with PeakMemory() as memory, tempfile.TemporaryDirectory() as folder:
        prepared = prepare_images(recipe.data, recipe.text, recipe.encoder, data_dir, progress)
        model = build_model(
            recipe.model.name,
            recipe.model.settings,
            vocabulary_size=len(text.vocabulary),
            feature_dim=prepared.encoder.dim,
            encoder=copy.deepcopy(prepared.encoder),  # every point starts from the same one
            full_stop=text.vocabulary.full_stop,
            seed=seed,
        )
        if not isinstance(model, FlatModel):
            raise KitError(f"{recipe.run} writes sentence by sentence: rates are swept for words.")
        own = sum(p.numel() for p in model.encoder.parameters())
        others = sum(p.numel() for p in model.parameters()) - own
        loader = report_loader(recipe, text, prepared, "train", seed=seed, training=True)
        validate = _validator(recipe, text, prepared, seed)
        with evaluating(model):
            first = validate(model)
        result = fit(
            model,
            loader,
            config=recipe.training,
            validate=validate,
            folder=Path(folder),
            seed=seed,
            resume=False,
            progress=progress,
        )
    epochs = [{"epoch": 0, "train_loss": None, **first}]
    epochs += [
        {"epoch": entry["epoch"], "train_loss": entry["train"]["loss"], **entry["validation"]}
        for entry in result.history
    ]
    for entry in epochs:
        told = entry["recognised"]
        entry["recognised"] = None if np.isnan(told) else told
    return RateRow.model_validate(
        {
            **content,
            "synthetic": text.synthetic,
            "encoder": recipe.encoder.name,
            "studies": {
                "train": len(text.split.train),
                "validation": len(text.split.validation),
            },
            "minibatches": len(loader),
            "epochs": epochs,
            "encoder_parameters": own,
            "decoder_parameters": others,
            "measured": Measured(
                train_seconds=round(result.seconds, 2),
                total_seconds=round(time.perf_counter() - start, 2),
                peak_memory_mb=memory.megabytes,
                device=device_name(result.device),
                versions=versions(),
                git_revision=git_revision(),
                date=datetime.now(UTC).date().isoformat(),
            ),
        }
    )


def _validator(
    recipe: Recipe, text: PreparedText, prepared: PreparedImages, seed: int
) -> Callable[[FlatModel], dict[str, float]]:
    """A function that scores the validation studies; its first call says where features start."""
    loader = report_loader(recipe, text, prepared, "validation", seed=seed, training=False)
    classifier = labels = None
    if prepared.pretraining is not None:
        classifier = prepared.pretraining.tags().model
        labels = true_findings(text, text.split.validation, classifier.types)
    before: list[Tensor] = []

    def validate(model: FlatModel) -> dict[str, float]:
        device = next(model.parameters()).device
        batches = []
        for batch in loader:
            batch = batch.to(device)
            # The encoder looks once; loss, reports, drift and findings all read what it gave.
            batches.append(replace(batch, features=model.patch_features(batch), images=None))
        patches = torch.cat([batch.features[batch.view_mask].flatten(0, 1) for batch in batches])
        before.extend([] if before else [patches.cpu()])
        scores = validation_scores(recipe, text, batches)(model)
        return {
            "loss": _loss(model, batches),
            "finding_F1": scores["finding-F1"],
            "distinct_percent": scores["distinct %"],
            **drift(before[0], patches.cpu()),
            "recognised": float("nan") if labels is None else _macro(classifier, batches, labels),
        }

    return validate


def _loss(model: FlatModel, batches: Iterable[Batch]) -> float:
    """Mean cross-entropy per token over all minibatches."""
    total = weight = 0.0
    for batch in batches:
        tokens = float(model.token_weights(batch).sum())
        total += float(model.loss(batch)["token_ce"]) * tokens
        weight += tokens
    return total / weight


def _macro(classifier: torch.nn.Module, batches: Iterable[Batch], labels: np.ndarray) -> float:
    classifier.to(next(iter(batches)).features.device)
    logits = torch.cat([classifier(batch.features, batch.view_mask) for batch in batches])
    return float(np.nanmean(auroc(logits.sigmoid().cpu().numpy(), labels)))


def sweep(
    name: str | Path,
    encoder_lrs: Sequence[float],
    decoder_lrs: Sequence[float],
    *,
    report: Callable[[RateRow], None] = lambda row: None,
    **options: object,
) -> list[RateRow]:
    """``train_at`` every pair of rates.

    Args:
        name: recipe.
        encoder_lrs, decoder_lrs: the grid.
        report: called as each point ends.
        options: further arguments of :func:`train_at`.
    """
    rows = []
    for decoder_lr in decoder_lrs:
        for encoder_lr in encoder_lrs:
            rows.append(train_at(name, encoder_lr, decoder_lr, **options))
            report(rows[-1])
    return rows


def choose(rows: Sequence[RateRow]) -> RateRow:
    """The row with the lowest validation loss; of equals the one with the lower encoder rate.

    Raises:
        KitError: no row, or rows that were not measured on the same studies.
    """
    if not rows:
        raise KitError("there is no row to choose from: run r2genkit rates first")
    _comparable(rows)
    return min(rows, key=lambda row: (row.best.loss, row.encoder_lr))


def _comparable(rows: Sequence[RateRow]) -> None:
    kinds = {(r.corpus, r.protocol, r.profile, r.split_fingerprint[:12], r.recipe) for r in rows}
    if len(kinds) > 1:
        listed = "; ".join(" / ".join(kind) for kind in sorted(kinds))
        raise KitError(f"these rates cannot be compared (corpus / protocol / ...): {listed}")


def _file(profile: str, corpus: str) -> Path:
    return results_dir(profile) / "rates" / f"{corpus}.jsonl"


def read_rate_rows(profile: str = "lab", *, corpus: str = "phantom") -> list[RateRow]:
    """All rows of a profile, by rate of the rest, then of the encoder.

    A row that is not complete is left out with a warning that names it.

    Raises:
        KitError: a line is not JSON.
    """
    rows = read_complete(
        _file(profile, corpus),
        RateRow,
        profile,
        again=lambda row: (
            f"{row.get('recipe')} is trained at rates {row.get('encoder_lr')} / "
            f"{row.get('decoder_lr')}"
        ),
    )
    return sorted(rows, key=lambda r: (r.recipe, r.seed, r.decoder_lr, r.encoder_lr, r.frozen))


def rate_table(rows: Sequence[RateRow]) -> pd.DataFrame:
    """One line per row: rates, and the validation studies at its best and at its last epoch.

    Raises:
        KitError: rows of different corpora, protocols, profiles, splits or recipes.
    """
    _comparable(rows)
    return pd.DataFrame(
        {
            "encoder rate": rate(row.encoder_lr),
            "other rates": rate(row.decoder_lr),
            "frozen epochs": row.frozen,
            "best epoch": row.best.epoch,
            "validation loss": f"{row.best.loss:.3f}",
            "last": f"{row.last.loss:.3f}",
            "finding-F1, last": f"{row.last.finding_F1:.3f}",
            "distance": f"{row.last.distance:.2f}",
            "cosine": f"{row.last.cosine:.2f}",
            "CKA": f"{row.last.cka:.2f}",
            "recognised (AUROC)": "-"
            if row.last.recognised is None
            else f"{row.last.recognised:.3f}",
            "train s": f"{row.measured.train_seconds:.0f}",
        }
        for row in rows
    )
