"""Tag pre-training: an encoder learns radiographs by telling which findings a study shows.

Shin et al. 2016 train a CNN on disease labels mined from the MeSH codes of Open-i before any words
are learnt, and Jing et al. 2018 a multi-label classifier of tags over the regions of a CNN. Here
the multi-label classifier of ``encoders/tags.py`` (one attention map per finding) is trained end
to end with the encoder below it, on the coded findings of the training studies. Differences: Shin
et al. use single labels and balance the classes by augmenting the abnormal ones, here positives
weigh the square root of their odds; Jing et al. train against the l1-normalised tag vector with a
softmax, here every finding is a binary decision of its own.

The epoch is chosen by macro AUROC on the validation set; the test set is read once, at the end. A
finished pre-training owns one folder below ``runs/pretraining/`` that appears whole or not at all,
and is read again while settings, split and source code are unchanged. Recipes use it through
``encoder: {weights: tags}``.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from r2genkit.batches import ReportDataset
from r2genkit.encoders import Encoder, build_encoder
from r2genkit.encoders.features import PackedFeatures, ids_fingerprint
from r2genkit.encoders.tags import (
    TagConfig,
    Tags,
    auroc,
    choose_thresholds,
    evaluate_tags,
    predict_tags,
    train_tags,
)
from r2genkit.errors import KitError
from r2genkit.experiments.data import PreparedText, prepare_images, prepare_text
from r2genkit.experiments.environment import (
    PeakMemory,
    code_hash,
    device_name,
    git_revision,
    torch_threads,
    versions,
)
from r2genkit.experiments.lines import read_complete
from r2genkit.experiments.recipe import (
    EncoderConfig,
    PretrainingConfig,
    TagsConfig,
    load_pretraining,
)
from r2genkit.experiments.results import Measured, Score, replace_line
from r2genkit.experiments.tagging import prepare_tags, trainable_types, true_findings
from r2genkit.files import write_json, write_text
from r2genkit.images import ImageTransform, pack_images
from r2genkit.paths import results_dir, runs_dir
from r2genkit.seeds import integer, numpy_rng

ENCODER_FILE = "encoder.safetensors"
KEY = ("name", "corpus", "protocol", "profile", "seed")
_ORDER = ("protocol", "profile", "order", "name", "seed")
SUMMARY_COLUMNS = [
    *("classifier", "px", "parameters", "training studies", "train s", "epoch"),
    *("validation AUROC", "AUROC", "AP"),
]
_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # C of the linear probe, chosen on the validation set


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FindingScores(_Strict):
    """One finding type, or "macro", their mean, over the test studies."""

    positives: int = Field(ge=0)
    AUROC: Score
    AP: Score


class PretrainingRow(_Strict):
    """What a finding classifier is, how it came about and what it scores on the test set.

    Attributes:
        kind: "baseline" (sees no image), "frozen" (classifier on a frozen encoder) or
            "pretraining" (trained end to end).
        validation: macro AUROC on the validation set, at the chosen epoch.
        findings: test scores per type; "macro" is their mean.
    """

    name: str
    title: str
    order: int
    kind: Literal["baseline", "frozen", "pretraining"]
    encoder: str
    weights: str
    image_size: int | None
    corpus: str
    synthetic: bool
    protocol: str
    profile: Literal["smoke", "lab", "paper"]
    seed: int
    settings_hash: str
    code_hash: str = Field(pattern=r"^[0-9a-f]{16}$")
    split_fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    studies: dict[Literal["train", "validation", "test"], int]
    selected_on: str
    best_epoch: int | None
    validation: float | None
    findings: dict[str, FindingScores]
    parameters: int = Field(ge=0)
    command: str
    measured: Measured

    def numbers(self) -> dict:
        """The row without what depends on machine and moment: equal for equal seed and CPU."""
        return self.model_dump(mode="json", exclude={"measured", "command"})


@dataclass(frozen=True)
class Pretraining:
    """A finished pre-training.

    Attributes:
        folder: ``encoder.safetensors``, ``settings.json``, ``history.json``, ``findings.csv``
            (with precision, recall and F1 at validation thresholds), ``tags/`` (the classifier
            and its probabilities for validation and test studies) and ``pretraining.json``.
        config: what it was trained with.
        row: its scores.
        history: loss and validation AUROC per epoch.
    """

    folder: Path
    config: PretrainingConfig
    row: PretrainingRow
    history: list[dict] = field(default_factory=list)

    @property
    def weights(self) -> Path:
        """File with the encoder's weights, as ``build_encoder(weights=...)`` reads them."""
        return self.folder / ENCODER_FILE

    @property
    def note(self) -> str:
        """One sentence for the rows of runs that use it."""
        macro = _short(self.row.findings["macro"].AUROC.value)
        return (
            f"encoder {self.config.encoder} pre-trained on the findings of "
            f"{self.row.studies['train']} training studies at {self.config.image_size} px "
            f"({self.config.name}, seed {self.config.seed}): test macro AUROC {macro}"
        )

    def encoder(self, *, trainable: bool = False) -> Encoder:
        """The pre-trained encoder."""
        return build_encoder(self.config.encoder, weights=self.weights, trainable=trainable)

    def tags(self) -> Tags:
        """The classifier on top of it and its probabilities for validation and test studies."""
        return Tags.load(self.folder / "tags")

    def findings(self) -> pd.DataFrame:
        """Test scores per finding type, "macro" last; columns as ``evaluate_tags`` gives them."""
        return pd.read_csv(self.folder / "findings.csv", index_col="finding")


def pretrain(
    name: str | Path,
    *,
    profile: str = "lab",
    corpus: str | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    data_dir: str | Path | None = None,
    fresh: bool = False,
    progress: bool = True,
) -> Pretraining:
    """Pre-train an encoder on finding tags, or read the finished pre-training; write its row.

    Args:
        name: a shipped pre-training ("resnet18") or a path to a YAML file.
        profile: "smoke", "lab" or "paper".
        corpus: default phantom.
        seed: every random draw comes from it.
        overrides: ``key=value`` settings, ``data.`` before those of the studies.
        data_dir: the user's folder for corpora that need one.
        fresh: train again even when a finished pre-training exists.
        progress: show progress bars.

    Raises:
        KitError: unusable settings, corpus or data, or no finding with enough studies.
    """
    config, data, rules = load_pretraining(
        name, profile=profile, corpus=corpus, seed=seed, overrides=tuple(overrides)
    )
    data_dir = None if data_dir is None else Path(data_dir).expanduser()
    words = ["r2genkit", "pretrain", str(name), *_options(profile, corpus, seed, overrides)]
    words += ["--data-dir", "DATA_DIR"] if data_dir else []
    text = prepare_text(data, rules, data_dir)
    command = shlex.join(words)
    done = pretrained(config, text, command=command, fresh=fresh, progress=progress)
    # One that a recipe asked for first does not know yet how to ask for it alone.
    done = replace(done, row=done.row.model_copy(update={"command": command}))
    _write_row(done.row)
    return done


def _options(profile: str, corpus: str | None, seed: int, overrides: Sequence[str]) -> list[str]:
    words = ["--profile", profile, "--seed", str(seed)]
    words += ["--corpus", corpus] if corpus else []
    return [*words, *(word for text in overrides for word in ("--set", text))]


def pretrained(
    config: PretrainingConfig,
    text: PreparedText,
    *,
    command: str = "",
    fresh: bool = False,
    progress: bool = True,
) -> Pretraining:
    """The finished pre-training of these settings on the training studies of ``text``.

    Trains where there is none yet; whoever asks at the same time waits and reads.

    Args:
        config: settings.
        text: studies and their split; nothing of a test study is read before the last epoch.
        command: what to type to get it again, for the row; empty when a recipe asks.
        fresh: train again even when a finished pre-training exists.
        progress: show progress bars.
    """
    folder = pretraining_folder(config, text)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if fresh or not (folder / "pretraining.json").is_file():
            partial = folder.with_name(f"{folder.name}.partial")
            for old in (partial, folder):
                shutil.rmtree(old, ignore_errors=True)
            partial.mkdir()
            with torch_threads(config.threads):
                _train(config, text, partial, command, progress)
            partial.replace(folder)
    return read_pretraining(folder)


def pretraining_folder(config: PretrainingConfig, text: PreparedText) -> Path:
    """Where the pre-training of these settings, studies and source code keeps its files."""
    content = {
        "settings": config.fingerprint(),
        "split": text.split.fingerprint,
        "labels": [text.data.section, text.rules.compat],  # where a corpus has no codes
        "code": code_hash(__name__),
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    name = f"{config.name}-seed{config.seed}-{digest}"
    return runs_dir() / "pretraining" / text.data.corpus / name


def read_pretraining(folder: Path) -> Pretraining:
    """Read a finished pre-training's folder.

    Raises:
        KitError: the folder holds none.
    """
    folder = Path(folder)
    try:
        contents = {
            name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            for name in ("settings", "pretraining", "history")
        }
        return Pretraining(
            folder=folder,
            config=PretrainingConfig.model_validate(contents["settings"]),
            row=PretrainingRow.model_validate(contents["pretraining"]),
            history=contents["history"],
        )
    except (OSError, ValueError) as error:
        raise KitError(
            f"{folder} holds no finished pre-training: make one with r2genkit pretrain"
        ) from error


def _train(
    config: PretrainingConfig, text: PreparedText, folder: Path, command: str, progress: bool
) -> None:
    start = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    types = trainable_types(text, config.min_positives)
    with PeakMemory() as memory:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(integer(config.seed, "encoder"))  # where weights start at random
            encoder = build_encoder(
                config.encoder, weights=config.weights, trainable=True, bn_eval=config.bn_eval
            )
        packed = pack_images(
            list(text.studies.values()), size=config.packed_size, progress=progress
        )
        ids = {part: text.part(part) for part in ("train", "validation", "test")}
        if config.studies is not None and config.studies < len(ids["train"]):
            rng = numpy_rng(config.seed, "pretraining/studies")
            ids["train"] = tuple(sorted(rng.permutation(ids["train"])[: config.studies].tolist()))

        def part(name: str) -> ReportDataset:
            cropped = config.augment == "crop" and name == "train"
            # Flips would exchange left and right, and with them the side of every finding.
            mode = "r2gen_train" if cropped else "resize"
            return ReportDataset(
                ids[name],
                images=packed,
                labels=true_findings(text, ids[name], types),
                transform=ImageTransform(mode, config.image_size, flip=False),
                preprocess=encoder.preprocess,
            )

        training = time.perf_counter()
        validation = part("validation")
        model, history = train_tags(
            types,
            part("train"),
            validation,
            TagConfig(
                epochs=config.epochs,
                batch_size=config.batch_size,
                lr=config.lr,
                encoder_lr=config.encoder_lr,
                width=config.width,
                dropout=config.dropout,
                weight_decay=config.weight_decay,
            ),
            encoder=encoder,
            select=True,
            seed=config.seed,
            device=device,
            progress=progress,
        )
        train_seconds = time.perf_counter() - training
        known = predict_tags(model, validation, device=device)
        thresholds = choose_thresholds(known, validation.labels.numpy())
        test = part("test")
        unseen = predict_tags(model, test, device=device)
        model.cpu()
    table = evaluate_tags(
        unseen,
        test.labels.numpy(),
        types,
        thresholds=thresholds,
        resamples=config.bootstrap,
        seed=config.seed,
    )
    scores = [record["validation AUROC"] for record in history]
    finite = [-np.inf if np.isnan(score) else score for score in scores]
    best = int(np.argmax(finite)) if np.isfinite(max(finite)) else len(scores) - 1
    encoder.save(folder / ENCODER_FILE)
    Tags(
        types=types,
        study_ids=(*ids["validation"], *ids["test"]),
        probabilities=np.concatenate([known, unseen]),
        thresholds=thresholds,
        model=model,
        history=history,
        info={"train": ids_fingerprint(ids["train"]), "seed": config.seed},
    ).save(folder / "tags")
    write_text(folder / "findings.csv", table.to_csv())
    write_json(folder / "settings.json", config.model_dump(mode="json"), indent=1)
    write_json(folder / "history.json", history, indent=1)
    weights = Path(config.weights).name  # the folder of a local file is the user's own
    named = {"none": "random initialisation", "default": "published weights"}
    row = _row(
        text,
        table,
        name=config.name,
        title=f"{config.encoder} trained end to end from {named.get(weights, weights)}",
        order=50,
        kind="pretraining",
        encoder=config.encoder,
        weights=weights,
        image_size=config.image_size,
        profile=config.profile,
        seed=config.seed,
        settings_hash=config.fingerprint(),
        train=len(ids["train"]),
        selected_on="validation macro AUROC",
        best_epoch=best + 1,
        validation=None if np.isnan(scores[best]) else scores[best],
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        command=command,
        train_seconds=train_seconds,
        total_seconds=time.perf_counter() - start,
        peak_memory_mb=memory.megabytes,
        device=device_name(device),
    )
    write_json(folder / "pretraining.json", row.model_dump(mode="json"), indent=1)


def _row(
    text: PreparedText,
    table: pd.DataFrame,
    *,
    train: int,
    train_seconds: float,
    total_seconds: float,
    peak_memory_mb: float,
    device: str,
    **content: object,
) -> PretrainingRow:
    """A row from the table of ``evaluate_tags``."""

    def score(line: Mapping[str, float], metric: str) -> Score:
        value, low, high = (line[f"{metric}{end}"] for end in ("", " low", " high"))
        if np.isnan(value):
            return Score(value=None, reason="the test set lacks studies with or without it")
        return Score(value=value, low=low, high=high)

    return PretrainingRow(
        **content,
        corpus=text.data.corpus,
        synthetic=text.synthetic,
        protocol=text.data.split,
        code_hash=code_hash(__name__),
        split_fingerprint=text.split.fingerprint,
        studies={
            "train": train,
            "validation": len(text.split.validation),
            "test": len(text.split.test),
        },
        findings={
            str(name): FindingScores(
                positives=int(line["positives"]), AUROC=score(line, "AUROC"), AP=score(line, "AP")
            )
            for name, line in table.iterrows()
        },
        measured=Measured(
            train_seconds=round(train_seconds, 2),
            total_seconds=round(total_seconds, 2),
            peak_memory_mb=peak_memory_mb,
            device=device,
            versions=versions(),
            git_revision=git_revision(),
            date=datetime.now(UTC).date().isoformat(),
        ),
    )


# --- what pre-training must beat ------------------------------------------------------------------


def pretraining_baselines(
    *,
    profile: str = "lab",
    corpus: str | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    data_dir: str | Path | None = None,
    image_size: int = 224,
    progress: bool = True,
) -> list[PretrainingRow]:
    """Rows of three classifiers that train no encoder, on the same studies; written as rows.

    "chance" gives every study the same probabilities: AUROC .5, and AP the share of positive
    studies. The two others read the frozen EfficientNet-Lite0 with its ImageNet weights that
    recipes use by default, projected onto 256 principal components: "linear_probe" is a logistic
    regression on their mean over places and views (strength of its L2 term by validation AUROC),
    "frozen_attention" the attention classifier whose probabilities recipes call tags.

    Args:
        profile: "smoke", "lab" or "paper".
        corpus: default phantom.
        seed: of the attention classifier and of the intervals.
        overrides: ``data.key=value`` settings of the studies, as given to ``pretrain``.
        data_dir: the user's folder for corpora that need one.
        image_size: of the images that the frozen encoder reads, pixels.
        progress: show progress bars.

    Raises:
        KitError: unusable corpus or data, or a setting that is not about the studies.
    """
    wrong = [override for override in overrides if not override.startswith("data.")]
    if wrong:
        raise KitError(f"baselines have no setting {wrong[0]!r}: only those of data can be changed")
    config, data, rules = load_pretraining(
        "resnet18", profile=profile, corpus=corpus, seed=seed, overrides=tuple(overrides)
    )
    data_dir = None if data_dir is None else Path(data_dir).expanduser()
    text = prepare_text(data, rules, data_dir)
    types = trainable_types(text, config.min_positives)
    labels = {part: true_findings(text, text.part(part), types) for part in ("train", "test")}
    # A handful of studies has fewer patch features than that.
    components = min(256, 4 * len(text.split.train))
    frozen = EncoderConfig(image_size=image_size, pca=components)
    options = _options(profile, corpus, seed, overrides)
    common = {
        "profile": profile,
        "seed": seed,
        "train": len(text.split.train),
        "command": shlex.join(["r2genkit", "pretrain", "--baselines", *options]),
        "device": device_name("cpu"),
    }
    rows = []

    def add(probabilities: np.ndarray, start: float, settings: dict, **content: object) -> None:
        table = evaluate_tags(
            probabilities, labels["test"], types, resamples=config.bootstrap, seed=seed
        )
        seconds = time.perf_counter() - start
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        common_now = {**common, "settings_hash": digest, "peak_memory_mb": memory.megabytes}
        rows.append(
            _row(
                text, table, train_seconds=seconds, total_seconds=seconds, **common_now, **content
            )
        )  # fmt: skip

    with PeakMemory() as memory, torch_threads(config.threads):
        start = time.perf_counter()
        prior = np.broadcast_to(labels["train"].mean(0), labels["test"].shape)
        add(
            prior, start, {}, name="chance", title="share of positive studies", order=0,
            kind="baseline", encoder="-", weights="-", image_size=None, parameters=0,
            selected_on="nothing", best_epoch=None, validation=None,
        )  # fmt: skip
        prepared = prepare_images(data, rules, frozen, data_dir, progress)
        network = {
            "kind": "frozen",
            "encoder": frozen.name,
            "weights": frozen.weights,
            "image_size": image_size,
            "best_epoch": None,
        }
        size = prepared.encoder.parameter_count
        start = time.perf_counter()
        probabilities, chosen = _linear_probe(prepared.features, text, types)
        add(
            probabilities, start, {"strengths": _STRENGTHS}, name="linear_probe",
            title="logistic regression on frozen EfficientNet-Lite0", order=10,
            selected_on="validation macro AUROC", validation=chosen,
            parameters=size + (prepared.features.dim + 1) * len(types), **network,
        )  # fmt: skip
        start = time.perf_counter()
        # The settings that the shipped recipes give their tags.
        settings = TagsConfig(epochs=10, dropout=0.5, min_positives=config.min_positives)
        tags = prepare_tags(settings, text, prepared.features, seed, progress=progress)
        known = true_findings(text, text.split.validation, types)
        add(
            tags.of(text.split.test), start, settings.model_dump(), name="frozen_attention",
            title="attention classifier on frozen EfficientNet-Lite0 (tags)", order=11,
            selected_on="nothing", validation=_macro(tags.of(text.split.validation), known),
            parameters=size + sum(p.numel() for p in tags.model.parameters()), **network,
        )  # fmt: skip
    for row in rows:
        _write_row(row)
    return rows


def _macro(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    scores = auroc(probabilities, labels)
    scores = scores[np.isfinite(scores)]
    return float(scores.mean()) if len(scores) else None


def _linear_probe(
    features: PackedFeatures, text: PreparedText, types: Sequence[str]
) -> tuple[np.ndarray, float | None]:
    """Test probabilities ``[N, F]`` and the validation macro AUROC of the chosen strength."""

    def pooled(part: str) -> np.ndarray:
        rows = np.array([features.row(study_id) for study_id in text.part(part)])
        mask = features.view_mask[rows]  # [N, V]; absent views are zero in the sum
        # In pieces: all patch features of a corpus at once would fill a laptop's memory.
        sums = [features.gather(piece).mean(2).sum(1) for piece in np.array_split(rows, 20)]
        return torch.cat(sums).numpy() / mask.sum(1, keepdims=True)

    scaler = StandardScaler()
    x = {"train": scaler.fit_transform(pooled("train"))}
    x |= {part: scaler.transform(pooled(part)) for part in ("validation", "test")}
    y = {part: true_findings(text, text.part(part), types) for part in ("train", "validation")}
    best: tuple[float, np.ndarray] | None = None
    for strength in _STRENGTHS:
        models = [
            LogisticRegression(C=strength, class_weight="balanced", max_iter=500).fit(
                x["train"], column
            )
            for column in y["train"].T
        ]
        known, unseen = (
            np.stack([model.predict_proba(x[part])[:, 1] for model in models], axis=1)
            for part in ("validation", "test")
        )
        score = _macro(known, y["validation"])
        if best is None or (score is not None and score > (best[0] or -np.inf)):
            best = (score, unseen)
    return best[1], best[0]


# --- rows and table -------------------------------------------------------------------------------


def _file(profile: str, corpus: str) -> Path:
    return results_dir(profile) / "pretraining" / f"{corpus}.jsonl"


def _write_row(row: PretrainingRow) -> None:
    path = _file(row.profile, row.corpus)
    replace_line(path, row.model_dump(mode="json"), key=KEY, order=_ORDER)


def read_pretraining_rows(profile: str = "lab", *, corpus: str = "phantom") -> list[PretrainingRow]:
    """Rows of all finished pre-trainings and their baselines, baselines first.

    A row that is not complete is left out with a warning that names it.

    Raises:
        KitError: a line is not JSON.
    """
    rows = read_complete(
        _file(profile, corpus),
        PretrainingRow,
        profile,
        again=lambda row: f"{row.get('name')} is pre-trained",
    )
    return sorted(rows, key=lambda row: (row.order, row.name, row.seed))


def pretraining_table(rows: Sequence[PretrainingRow]) -> pd.DataFrame:
    """One line per row, baselines first; the values are text, ready to print.

    Columns: ``SUMMARY_COLUMNS`` (image size, parameters, training studies, seconds of training,
    chosen epoch, macro AUROC on the validation set, macro AUROC and AP on the test set with their
    95 % intervals over test studies), then the test AUROC of each finding type.

    Raises:
        KitError: rows of different corpora, protocols, profiles or splits.
    """
    kinds = {(row.corpus, row.protocol, row.profile, row.split_fingerprint[:12]) for row in rows}
    if len(kinds) > 1:
        listed = "; ".join(" / ".join(kind) for kind in sorted(kinds))
        raise KitError(f"these rows cannot share a table (corpus / protocol / ...): {listed}")

    def interval(score: Score) -> str:
        if score.value is None:
            return "-"
        return f"{_short(score.value)} [{_short(score.low)}, {_short(score.high)}]"

    lines = []
    several = len({row.seed for row in rows}) > 1
    for row in sorted(rows, key=lambda row: (row.order, row.name, row.seed)):
        summary = (
            f"{row.title} (seed {row.seed})" if several else row.title,
            "-" if row.image_size is None else str(row.image_size),
            f"{row.parameters:,}",
            str(row.studies["train"]),
            f"{row.measured.train_seconds:.0f}",
            "-" if row.best_epoch is None else str(row.best_epoch),
            _short(row.validation),
            interval(row.findings["macro"].AUROC),
            interval(row.findings["macro"].AP),
        )
        named = {key: value for key, value in row.findings.items() if key != "macro"}
        lines.append(
            dict(zip(SUMMARY_COLUMNS, summary))
            | {
                f"{key} ({value.positives})": _short(value.AUROC.value)
                for key, value in named.items()
            }
        )
    return pd.DataFrame(lines).fillna("-")


def _short(value: float | None) -> str:
    if value is None:
        return "-"
    text = f"{value:.3f}"
    return text[1:] if text.startswith("0.") else text


def pretraining_caption(rows: Sequence[PretrainingRow]) -> str:
    """One sentence that says what was measured on what."""
    row = rows[0]
    images = "synthetic phantom radiographs" if row.synthetic else "real images"
    return (
        f"Corpus {row.corpus} ({images}); protocol {row.protocol}; profile {row.profile}; "
        f"{row.studies['validation']} validation and {row.studies['test']} test studies. Brackets: "
        "95 % bootstrap interval over test studies; in parentheses the positive test studies of a "
        "finding."
    )
