"""The finding classifier: which findings does a study show? Its probabilities are called tags.

Decoders read tags as extra input (Jing et al. 2018 embed the top ones; here every probability is
used), retrieval compares studies by them, and training the classifier end to end gives an encoder
weights that know radiographs when no published weights are at hand.

A classifier is surer about studies it was trained on, so a decoder trained with its raw training
set tags meets weaker tags at test time. ``fit_tags(..., crossfit=K)`` gives every training study
the tags of a classifier that has not seen it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from r2genkit.batches import Batch, ReportDataset, make_loader
from r2genkit.encoders.features import PackedFeatures, ids_fingerprint
from r2genkit.encoders.networks import Encoder
from r2genkit.errors import KitError
from r2genkit.files import replacing, write_json
from r2genkit.seeds import integer, numpy_rng, spawn
from r2genkit.study import Study


def finding_matrix(studies: Sequence[Study], types: Sequence[str]) -> np.ndarray:
    """Coded findings as bool ``[N, F]``, columns in the order of ``types``."""
    column = {name: i for i, name in enumerate(types)}
    matrix = np.zeros((len(studies), len(types)), dtype=bool)
    for row, study in enumerate(studies):
        for finding in study.findings:
            if finding.name in column:
                matrix[row, column[finding.name]] = True
    return matrix


@dataclasses.dataclass(frozen=True)
class TagConfig:
    """How a finding classifier is built and trained.

    Attributes:
        epochs: passes over the training set.
        batch_size: studies per minibatch.
        lr: peak learning rate of AdamW (one-cycle schedule).
        encoder_lr: peak learning rate of a trainable encoder.
        width: length of the adapted patch features.
        dropout: on the adapted patch features.
        weight_decay: of AdamW.
    """

    epochs: int = 10
    batch_size: int = 32
    lr: float = 1e-3
    encoder_lr: float = 1e-4
    width: int = 512
    dropout: float = 0.2
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.width) < 1:
            raise KitError("epochs, batch_size and width of a finding classifier must be >= 1.")
        if not 0 <= self.dropout < 1 or self.lr <= 0 or self.encoder_lr <= 0:
            raise KitError("dropout must lie in [0, 1) and learning rates must be positive.")


class TagClassifier(nn.Module):
    """Adapter, one attention map per finding type over the patches of all views, and a summary.

    ``h_s = dropout(relu(W x_s))``; for type f: ``alpha_fs = softmax_s(u_f . h_s + c_f)``,
    ``logit_f = v_f . sum_s(alpha_fs h_s) + b_f + w_f . [mean_s h_s; max_s h_s]``. Attention finds
    what is small, the summary what shows everywhere (hyperinflation, a large heart); since the
    maximum finds small things, too, the attention is only a part of the reason for an answer.

    Args:
        dim: D, length of a patch feature.
        types: the F finding types.
        width: length of h.
        dropout: see above.
        encoder: computes patch features from images; None for cached features.
    """

    def __init__(
        self,
        dim: int,
        types: Sequence[str],
        *,
        width: int = 512,
        dropout: float = 0.2,
        encoder: Encoder | None = None,
    ) -> None:
        super().__init__()
        self.types = tuple(types)
        self.dim, self.width = dim, width
        self.adapter = nn.Linear(dim, width)
        self.dropout = nn.Dropout(dropout)
        self.attention = nn.Linear(width, len(self.types))  # u, c
        self.evidence = nn.Linear(width, len(self.types))  # v, b
        self.summary = nn.Linear(2 * width, len(self.types), bias=False)  # w
        self.encoder = encoder

    def forward(
        self, features: Tensor, view_mask: Tensor, *, trace: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of every finding type.

        Args:
            features: ``[B, V, S, D]``.
            view_mask: ``[B, V]`` bool; every study needs at least one view.
            trace: also return the attention.

        Returns:
            Logits ``[B, F]``; with ``trace`` also attention ``[B, F, V, S]`` (sums to 1 over V, S).
        """
        batch, views, cells, _ = features.shape
        hidden = self.dropout(F.relu(self.adapter(features))).flatten(1, 2)  # [B, V*S, W]
        present = view_mask[:, :, None].expand(batch, views, cells).flatten(1)  # [B, V*S]
        scores = self.attention(hidden).transpose(1, 2)  # [B, F, V*S]
        alpha = scores.masked_fill(~present[:, None], -math.inf).softmax(-1)
        pooled = alpha @ hidden  # [B, F, W]
        logits = (pooled * self.evidence.weight).sum(-1) + self.evidence.bias
        kept = hidden * present[:, :, None]
        mean = kept.sum(1) / present.sum(1, keepdim=True)
        # Nothing is below zero after relu, so an absent patch (zero) never wins over a present one.
        logits = logits + self.summary(torch.cat([mean, kept.amax(1)], -1))
        if trace:
            return logits, alpha.unflatten(-1, (views, cells))
        return logits

    def logits(self, batch: Batch) -> Tensor:
        """Logits ``[B, F]`` from the patch features of a minibatch, else from its images."""
        features = batch.features
        if features is None:
            if self.encoder is None or batch.images is None:
                raise KitError(
                    "this minibatch has no patch features and the classifier no encoder; cache "
                    "features first or build the classifier with an encoder."
                )
            features = self.encoder.encode_views(batch.images, batch.view_mask)
        if features.shape[-1] != self.dim:
            raise KitError(
                f"patch features have {features.shape[-1]} numbers and the finding classifier "
                f"expects {self.dim}; use the encoder (and PCA) it was trained with."
            )
        return self(features, batch.view_mask)


def class_weights(labels: np.ndarray | Tensor) -> Tensor:
    """Loss weight of positives per type ``[F]``: square root of negatives per positive.

    The full ratio would balance the classes but makes rare types shout; its root is in between.
    """
    labels = torch.as_tensor(labels).float()
    positives = labels.sum(0)
    return ((len(labels) - positives) / positives.clamp(min=1)).clamp(min=1).sqrt()


def _labels_of(dataset: ReportDataset) -> Tensor:
    if dataset.labels is None:
        raise KitError("training a finding classifier needs labels; give ReportDataset labels=.")
    return dataset.labels


def train_tags(
    types: Sequence[str],
    train: ReportDataset,
    validation: ReportDataset | None = None,
    config: TagConfig | None = None,
    *,
    encoder: Encoder | None = None,
    select: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> tuple[TagClassifier, list[dict[str, float]]]:
    """Train a finding classifier on cached features, or end to end on images.

    Args:
        types: the F finding types, in the order of the label columns.
        train: training set with labels ``[N, F]``.
        validation: validation set with labels; its macro AUROC is recorded after every epoch.
        config: sizes and schedule.
        encoder: for data sets with images; a trainable one is trained in place (save it with
            ``encoder.save`` to use the weights elsewhere).
        select: keep the weights of the epoch with the highest validation AUROC (the first of
            equals) instead of the last; an encoder trained end to end may have passed its best.
        seed: the run's seed; streams "init", "dropout" and the loader's are used.
        device: where to train.
        progress: show a progress bar.

    Returns:
        The classifier of the last (``select``: best) epoch, on CPU and in evaluation mode, and the
        history per epoch.

    Raises:
        KitError: labels missing or of another number of types; ``select`` without a validation
            set.
    """
    config = config or TagConfig()
    labels = _labels_of(train)
    if labels.shape[1] != len(types):
        raise KitError(f"labels have {labels.shape[1]} columns for {len(types)} finding types.")
    if select and validation is None:
        raise KitError("choosing the best epoch needs a validation set; give one or select=False.")
    dim = encoder.dim if train.features is None and encoder is not None else _feature_dim(train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(integer(seed, "init"))
        model = TagClassifier(
            dim, types, width=config.width, dropout=config.dropout, encoder=encoder
        ).to(device)
        torch.manual_seed(integer(seed, "dropout"))
        history = _optimise(model, train, validation, config, select, seed, device, progress)
    return model.cpu().eval(), history


def _feature_dim(dataset: ReportDataset) -> int:
    if dataset.features is None:
        raise KitError("a data set of images needs an encoder; give train_tags encoder=.")
    return dataset.features.gather(np.zeros(1, dtype=np.int64)).shape[-1]


def _optimise(
    model: TagClassifier,
    train: ReportDataset,
    validation: ReportDataset | None,
    config: TagConfig,
    select: bool,
    seed: int,
    device: str | torch.device,
    progress: bool,
) -> list[dict[str, float]]:
    own = [p for name, p in model.named_parameters() if not name.startswith("encoder.")]
    groups, rates = [{"params": own, "lr": config.lr}], [config.lr]
    if model.encoder is not None and model.encoder.trainable:
        groups.append({"params": list(model.encoder.parameters()), "lr": config.encoder_lr})
        rates.append(config.encoder_lr)
    loader = make_loader(train, config.batch_size, seed=seed)
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=config.epochs * len(loader)
    )
    positive_weight = class_weights(train.labels).to(device)
    history: list[dict[str, float]] = []
    best, best_state = -math.inf, None
    bar = tqdm(total=config.epochs * len(loader), desc="finding tags", disable=not progress)
    with bar:
        for epoch in range(config.epochs):
            loader.set_epoch(epoch)
            model.train()
            total = torch.zeros((), device=device)
            for batch in loader:
                batch = batch.to(device)
                loss = F.binary_cross_entropy_with_logits(
                    model.logits(batch), batch.labels, pos_weight=positive_weight
                )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                total += loss.detach() * len(batch)
                bar.update()
            record = {"epoch": epoch + 1, "loss": float(total) / len(train)}
            if validation is not None:
                scores = auroc(predict_tags(model, validation, device=device), validation.labels)
                record["validation AUROC"] = float(np.nanmean(scores))
                if select and record["validation AUROC"] > best:
                    best = record["validation AUROC"]
                    best_state = copy.deepcopy(model.state_dict())
            history.append(record)
    if best_state is not None:
        model.load_state_dict(best_state)
    return history


@torch.no_grad()
def predict_tags(
    model: TagClassifier,
    dataset: ReportDataset,
    *,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """Finding probabilities ``[N, F]`` of all studies of ``dataset``, in its order."""
    training = model.training
    model.to(device).eval()
    parts = [
        model.logits(batch.to(device)).sigmoid().cpu()
        for batch in make_loader(dataset, batch_size, shuffle=False)
    ]
    model.train(training)
    return torch.cat(parts).numpy()


# --- evaluation -----------------------------------------------------------------------------------


def _ranked(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> tuple:
    """Positives and negatives per distinct score, highest first, for R resamples.

    Args:
        scores: ``[N]``; labels: ``[N]`` bool; counts: ``[R, N]`` how often each study was drawn.

    Returns:
        Two arrays ``[R, G]``, G distinct scores.
    """
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    drawn, truth = counts[:, order], labels[order]
    positives = np.add.reduceat(drawn * truth, starts, axis=1)
    return positives, np.add.reduceat(drawn * ~truth, starts, axis=1)


def _curves(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> tuple:
    """AUROC and average precision per resample ``[R]``; NaN where a class is absent."""
    positives, negatives = _ranked(scores, labels, counts)
    total_p, total_n = positives.sum(1), negatives.sum(1)
    found = positives.cumsum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        # A negative counts fully below every positive ranked above it and half in a tie.
        wins = (negatives * (found - 0.5 * positives)).sum(1)
        area = wins / (total_p * total_n)
        drawn = found + negatives.cumsum(1)
        precision = np.where(drawn > 0, found / np.maximum(drawn, 1), 0.0)
        average = (precision * positives).sum(1) / total_p
    return area, np.where(total_p > 0, average, np.nan)


def auroc(probabilities: np.ndarray, labels: np.ndarray | Tensor) -> np.ndarray:
    """Area under the ROC curve per type ``[F]``; NaN where a class is absent."""
    labels = np.asarray(labels).astype(bool)
    ones = np.ones((1, len(labels)))
    columns = range(labels.shape[1])
    return np.array([_curves(probabilities[:, f], labels[:, f], ones)[0][0] for f in columns])


def evaluate_tags(
    probabilities: np.ndarray,
    labels: np.ndarray,
    types: Sequence[str],
    *,
    thresholds: np.ndarray | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """AUROC and average precision per finding type with 95 % bootstrap intervals over studies.

    The last row, "macro", is the mean over types that have both classes. A resample that lacks a
    class leaves its type out. Intervals of types with fewer than about 20 positives are wide and
    should be read as such.

    Args:
        probabilities: ``[N, F]``.
        labels: ``[N, F]`` bool.
        types: F names.
        thresholds: ``[F]``; adds precision, recall and F1 at the thresholds.
        resamples: bootstrap resamples.
        seed: stream "bootstrap" is used.

    Returns:
        Columns ``positives, AUROC, AUROC low, AUROC high, AP, AP low, AP high`` (and ``precision,
        recall, F1``), indexed by type.
    """
    labels = np.asarray(labels).astype(bool)
    if probabilities.shape != labels.shape or labels.shape[1] != len(types):
        raise KitError(
            f"probabilities {list(probabilities.shape)}, labels {list(labels.shape)} and "
            f"{len(types)} finding types do not fit together."
        )
    n = len(labels)
    rng = numpy_rng(seed, "bootstrap")
    counts = np.concatenate([np.ones((1, n)), rng.multinomial(n, np.full(n, 1 / n), resamples)])
    both = [_curves(probabilities[:, f], labels[:, f], counts) for f in range(len(types))]
    values = np.array(both).transpose(1, 2, 0)  # [2, 1 + R, F]
    usable = np.isfinite(values[0, 0])  # types with both classes
    inside = values[:, :, usable]
    with np.errstate(invalid="ignore"):  # a resample may leave no type with both classes
        macro = np.nansum(inside, axis=2) / np.isfinite(inside).sum(axis=2)
    rows = []
    for column in range(len(types) + 1):
        series = macro if column == len(types) else values[:, :, column]
        row: dict[str, float] = {}
        row["positives"] = int(labels.sum() if column == len(types) else labels[:, column].sum())
        for name, own in zip(("AUROC", "AP"), series):
            drawn = own[1:][np.isfinite(own[1:])]
            low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (np.nan, np.nan)
            row |= {name: own[0], f"{name} low": low, f"{name} high": high}
        rows.append(row)
    table = pd.DataFrame(rows, index=pd.Index([*types, "macro"], name="finding"))
    if thresholds is not None:
        called = probabilities >= thresholds
        hits = (called & labels).sum(0).astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            parts = {
                "precision": hits / called.sum(0),
                "recall": hits / labels.sum(0),
                "F1": 2 * hits / (called.sum(0) + labels.sum(0)),
            }
        for name, column in parts.items():
            seen = column[np.isfinite(column)]
            table[name] = [*column, seen.mean() if len(seen) else np.nan]
    return table


def choose_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Threshold per type ``[F]`` with the best F1 on the given (validation) studies.

    It lies halfway between the two neighbouring probabilities; a type without positives gets a
    threshold just above its highest probability (at most 1), so that it is not called.
    """
    labels = np.asarray(labels).astype(bool)
    chosen = np.empty(labels.shape[1])
    for f in range(labels.shape[1]):
        scores = probabilities[:, f].astype(np.float64)
        ranked = _ranked(scores, labels[:, f], np.ones((1, len(labels))))
        positives, negatives = ranked[0][0], ranked[1][0]
        levels = np.unique(scores)[::-1]
        if not labels[:, f].any():
            chosen[f] = (levels[0] + 1) / 2
            continue
        hits, called = positives.cumsum(), (positives + negatives).cumsum()
        best = int(np.argmax(2 * hits / (called + labels[:, f].sum())))
        below = levels[best + 1] if best + 1 < len(levels) else 0.0
        chosen[f] = (levels[best] + below) / 2
    return chosen


# --- one object for a whole corpus ----------------------------------------------------------------


@dataclasses.dataclass
class Tags:
    """A trained classifier and the finding probabilities of all studies with features.

    Attributes:
        types: F finding types.
        study_ids: N studies.
        probabilities: ``[N, F]``; training studies out of fold if ``crossfit`` was used.
        thresholds: ``[F]``, chosen on the validation set.
        model: classifier trained on the whole training set.
        history: per epoch.
        info: fingerprints of the training studies and features, folds, seed, configuration.
    """

    types: tuple[str, ...]
    study_ids: tuple[str, ...]
    probabilities: np.ndarray
    thresholds: np.ndarray
    model: TagClassifier
    history: list[dict[str, float]]
    info: dict

    def __post_init__(self) -> None:
        self._row = {study_id: row for row, study_id in enumerate(self.study_ids)}

    def of(self, study_ids: Sequence[str]) -> np.ndarray:
        """Probabilities ``[n, F]`` of the named studies, in their order.

        Raises:
            KitError: a study has none.
        """
        absent = [study_id for study_id in study_ids if study_id not in self._row]
        if absent:
            raise KitError(f"study {absent[0]} has no finding tags; include it in the features.")
        return self.probabilities[[self._row[study_id] for study_id in study_ids]]

    def save(self, folder: Path) -> None:
        """Write ``tags.safetensors`` (weights, probabilities, thresholds) and ``tags.json``.

        The weights of an encoder are not among them; ``Encoder.save`` writes those.
        """
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"model.{name}": value.contiguous()
            for name, value in self.model.state_dict().items()
            if not name.startswith("encoder.")
        }
        tensors["probabilities"] = torch.from_numpy(np.ascontiguousarray(self.probabilities))
        tensors["thresholds"] = torch.from_numpy(np.ascontiguousarray(self.thresholds))
        record = {
            "types": self.types,
            "study_ids": self.study_ids,
            "dim": self.model.dim,
            "width": self.model.width,
            "dropout": self.model.dropout.p,
            "history": self.history,
            "info": self.info,
        }
        array, text = folder / "tags.safetensors", folder / "tags.json"
        with replacing(array) as temporary:
            safetensors.torch.save_file(tensors, temporary)
        write_json(text, record, indent=1)

    @classmethod
    def load(cls, folder: Path) -> Tags:
        """Read what ``save`` wrote.

        Raises:
            KitError: files absent or damaged.
        """
        try:
            tensors = safetensors.torch.load_file(folder / "tags.safetensors")
            record = json.loads((folder / "tags.json").read_text())
            model = TagClassifier(
                record["dim"], record["types"], width=record["width"], dropout=record["dropout"]
            )
            model.load_state_dict(
                {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
            )
            return cls(
                types=tuple(record["types"]),
                study_ids=tuple(record["study_ids"]),
                probabilities=tensors["probabilities"].numpy(),
                thresholds=tensors["thresholds"].numpy(),
                model=model.eval(),
                history=record["history"],
                info=record["info"],
            )
        except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
            raise KitError(
                f"folder {folder} holds no finding tags ({error}); delete it and train again."
            ) from error


def _folds(labels: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Fold of each study ``[N]``: random, with the studies of each rare finding spread evenly."""
    rng = numpy_rng(seed, "crossfit")
    counts = labels.sum(0)
    masked = np.where(labels, counts[None, :], len(labels) + 1)
    rarest = np.where(labels.any(1), masked.argmin(1), labels.shape[1])
    order = rng.permutation(len(labels))
    order = order[np.argsort(rarest[order], kind="stable")]
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return fold


def crossfit_tags(
    types: Sequence[str],
    features: PackedFeatures,
    study_ids: Sequence[str],
    labels: np.ndarray,
    folds: int,
    config: TagConfig | None = None,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> np.ndarray:
    """Out-of-fold finding probabilities ``[N, F]`` of training studies.

    Each study is judged by a classifier trained on the other K-1 folds, so its probabilities are
    as unsure as those of an unseen study.

    Raises:
        KitError: fewer than two folds, or more folds than studies.
    """
    if not 2 <= folds <= len(study_ids):
        raise KitError(f"crossfit needs 2..{len(study_ids)} folds, not {folds}.")
    ids, labels = np.array(study_ids), np.asarray(labels).astype(bool)
    fold = _folds(labels, folds, seed)
    out = np.empty(labels.shape, dtype=np.float32)
    for k in range(folds):
        held = fold == k
        training = ReportDataset(ids[~held], features=features, labels=labels[~held])
        own_seed = int(spawn(seed, f"crossfit/{k}").generate_state(1)[0])
        model, _ = train_tags(
            types, training, None, config, seed=own_seed, device=device, progress=progress
        )
        out[held] = predict_tags(model, ReportDataset(ids[held], features=features), device=device)
    return out


def fit_tags(
    types: Sequence[str],
    features: PackedFeatures,
    labels: np.ndarray,
    train_ids: Sequence[str],
    validation_ids: Sequence[str],
    config: TagConfig | None = None,
    *,
    crossfit: int = 0,
    seed: int = 0,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Tags:
    """Train on the training set, choose thresholds on the validation set, tag every study.

    Args:
        types: the F finding types.
        features: patch features of all N studies (training, validation and test set).
        labels: ``[N, F]`` bool, rows in the order of ``features.study_ids`` (``finding_matrix``);
            only rows of training and validation studies are read.
        train_ids: studies of the training set.
        validation_ids: studies of the validation set.
        config: sizes and schedule.
        crossfit: K folds for the probabilities of the training studies; 0 = the final classifier's
            own (over-confident) ones.
        seed: the run's seed.
        device: where to train.
        progress: show progress bars.
    """
    config = config or TagConfig()
    labels = np.asarray(labels).astype(bool)
    if labels.shape != (len(features), len(types)):
        raise KitError(
            f"labels are {list(labels.shape)} for {len(features)} studies with features and "
            f"{len(types)} finding types; build them with finding_matrix in the features' order."
        )

    def part(ids: Sequence[str]) -> ReportDataset:
        rows = [features.row(study_id) for study_id in ids]
        return ReportDataset(ids, features=features, labels=labels[rows])

    train, validation = part(train_ids), part(validation_ids)
    model, history = train_tags(
        types, train, validation, config, seed=seed, device=device, progress=progress
    )
    everyone = ReportDataset(features.study_ids, features=features)
    probabilities = predict_tags(model, everyone, device=device)
    model.cpu()
    if crossfit:
        rows = [features.row(study_id) for study_id in train_ids]
        probabilities[rows] = crossfit_tags(
            types, features, train_ids, labels[rows], crossfit, config,
            seed=seed, device=device, progress=progress,
        )  # fmt: skip
    rows = [features.row(study_id) for study_id in validation_ids]
    return Tags(
        types=tuple(types),
        study_ids=features.study_ids,
        probabilities=probabilities,
        thresholds=choose_thresholds(probabilities[rows], labels[rows]),
        model=model,
        history=history,
        info={
            "train": ids_fingerprint(train_ids),
            "features": features.digest,
            "crossfit": crossfit,
            "seed": seed,
            "config": dataclasses.asdict(config),
        },
    )
