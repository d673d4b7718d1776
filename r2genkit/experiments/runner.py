"""Run a recipe: prepare, train or fit, decode the test set once, score, write one result row.

A run owns one folder below ``runs/``. It is complete when ``row.json`` stands there, which is
written last; a complete run of the same recipe, seed and source code is read instead of repeated,
an incomplete one is resumed from its last checkpoint.
"""

from __future__ import annotations

import copy
import json
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from filelock import FileLock

from r2genkit import processes
from r2genkit.batches import Batch, Loader
from r2genkit.corpora import CORPORA
from r2genkit.decoding import DecodingConfig, decode_all
from r2genkit.encoders.tags import Tags
from r2genkit.errors import KitError
from r2genkit.experiments.baselines import (
    ORACLES,
    SELECTED_ON,
    build_baseline,
    needs_features,
    needs_findings,
    needs_retriever,
)
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
from r2genkit.experiments.recipe import Recipe, load_recipe, start_recipe
from r2genkit.experiments.results import ResultRow, make_row, write_row
from r2genkit.experiments.tagging import decoder_tags, mean_test_auroc, prepare_tags
from r2genkit.experiments.trained import (
    ENCODER_FILE,
    PCA_FILE,
    RETRIEVAL_FOLDER,
    TAGS_FOLDER,
    TrainedSystem,
    load_trained,
)
from r2genkit.experiments.verdict import (
    evaluate_run,
    row_clinical,
    row_differences,
    row_findings,
    row_scores,
    row_subsets,
    score_swapped,
)
from r2genkit.files import write_json
from r2genkit.metrics import ALL_METRICS, Evaluation, evaluate_reports
from r2genkit.models import build_model, model_module
from r2genkit.models.base import ReportModel
from r2genkit.paths import runs_dir
from r2genkit.training import FitResult, fit
from r2genkit.training.checkpoints import Checkpoints, load_weights

CONSTANT = "02_constant"


@dataclass
class RunResult:
    """A finished run.

    Attributes:
        folder: where its files are.
        row: its result row.
        recipe: the resolved recipe.
        hypotheses: test reports by study id.
        references: what they were scored against, same ids.
        history: one entry per epoch; empty for baselines.
    """

    folder: Path
    row: ResultRow
    recipe: Recipe
    hypotheses: dict[str, str]
    references: dict[str, str]
    history: list[dict] = field(default_factory=list)
    data_dir: Path | None = None

    def text(self) -> PreparedText:
        """Studies, split, vocabulary and references of the run."""
        return prepare_text(self.recipe.data, self.recipe.text, self.data_dir)

    def images(self) -> PreparedImages:
        """Packed images, encoder and patch features of the run."""
        recipe = self.recipe
        return prepare_images(recipe.data, recipe.text, recipe.encoder, self.data_dir, False)

    def system(self) -> TrainedSystem:
        """The trained model with all it needs to read new radiographs."""
        return load_trained(self.folder)


def rescore(result: RunResult) -> Evaluation:
    """The test scores of a finished run again, with everything per study."""
    return evaluate_run(result.recipe, result.text(), result.hypotheses, result.row.seed)


# Where the parts live that a recipe may ask for. They are imported by name, when they are asked
# for, so that they belong to the code of these runs and of no others.
_PRETRAINING = "r2genkit.experiments.pretraining"
_RETRIEVING = "r2genkit.experiments.retrieving"
_RETRIEVAL = "r2genkit.retrieval"
_OBJECTIVES = {"self_critical": "r2genkit.training.scst:SelfCritical"}


def recipe_modules(recipe: Recipe) -> tuple[str, ...]:
    """Dotted names of the modules from which the code of a recipe's run starts."""
    modules = [__name__, CORPORA[recipe.data.corpus].module]
    if recipe.model is not None:
        modules.append(model_module(recipe.model.name))
    if recipe.encoder is not None and recipe.encoder.pretraining is not None:
        modules.append(_PRETRAINING)
    if recipe.retrieval is not None:
        modules += [_RETRIEVING, _RETRIEVAL]
    if recipe.objective is not None:
        modules.append(_OBJECTIVES[recipe.objective.name].partition(":")[0])
    return tuple(modules)


def run_folder(recipe: Recipe, profile: str, seed: int) -> Path:
    """Where a run of this recipe, profile, seed and source code keeps its files."""
    code = code_hash(*recipe_modules(recipe))
    name = f"{recipe.run}-seed{seed}-{recipe.fingerprint()[:8]}{code[:8]}"
    return runs_dir() / profile / recipe.data.corpus / name


def run(
    name: str | Path,
    *,
    profile: str = "lab",
    corpus: str | None = None,
    seed: int = 0,
    overrides: Sequence[str] = (),
    data_dir: str | Path | None = None,
    fresh: bool = False,
    progress: bool = True,
    tensorboard: bool = False,
) -> RunResult:
    """Run a recipe, or read its finished run, and write its result row.

    Args:
        name: a shipped recipe or a path to one.
        profile: "smoke", "lab" or "paper".
        corpus: replaces the recipe's corpus.
        seed: every random draw of the run comes from it.
        overrides: ``key=value`` settings of the recipe.
        data_dir: the user's folder for corpora that need one.
        fresh: run again even when a finished run exists.
        progress: show progress bars.
        tensorboard: also log training to ``tensorboard/`` in the run's folder.

    Raises:
        KitError: unusable recipe, corpus or data.

    Processes that ``torchrun`` or ``accelerate launch --multi_gpu`` started train one model
    together; they need the same files below them. The main one alone tests and writes.
    """
    recipe = load_recipe(name, profile=profile, corpus=corpus, overrides=tuple(overrides))
    data_dir = None if data_dir is None else Path(data_dir).expanduser()
    command = _command(name, profile, corpus, seed, overrides, data_dir)
    processes.join(recipe.training is not None and recipe.training.device == "cpu")
    main = processes.is_main()
    job = _Job(recipe, profile, seed, data_dir, command, progress and main, tensorboard)
    if main:
        _complete(job, fresh=fresh, together=True)
    elif processes.from_main():
        _assist(job)
    processes.from_main()  # the main process has written everything
    result = read_run(job.folder, data_dir=data_dir)
    if main:
        # Also for a finished run: the results file may have been removed meanwhile.
        write_row(result.row)
    return result


@dataclass(frozen=True)
class _Job:
    """One run to be done: everything that decides its row, and what it shows while it works."""

    recipe: Recipe
    profile: str
    seed: int
    data_dir: Path | None
    command: str
    bars: bool = False
    tensorboard: bool = False

    @property
    def folder(self) -> Path:
        return run_folder(self.recipe, self.profile, self.seed)


def _complete(job: _Job, *, fresh: bool = False, together: bool = False) -> None:
    """See to it that the job's folder holds a finished run.

    Notebooks side by side may ask for the same run: the lock lets one work, the other then reads.
    ``together``: other processes wait to hear whether there is anything to train.
    """
    folder = job.folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        finished = (folder / "row.json").is_file() and not fresh
        if together and finished:
            processes.from_main(False)
        if finished:
            return
        if fresh and folder.is_dir():
            _empty(folder)
        folder.mkdir(exist_ok=True)
        if together:
            processes.from_main(True)
        with torch_threads(job.recipe.threads):
            _run(job)


def _assist(job: _Job) -> None:
    """What a process does that is not the main one: train its share."""
    if job.recipe.model is not None:
        with torch_threads(job.recipe.threads):
            _fit(job, prepare_text(job.recipe.data, job.recipe.text, job.data_dir))


def read_run(folder: Path, *, data_dir: Path | None = None) -> RunResult:
    """Read a finished run's folder.

    Raises:
        KitError: the folder holds no finished run.
    """
    if not (folder / "row.json").is_file():
        raise KitError(f"{folder} holds no finished run: train it first with r2genkit train")
    predictions = json.loads((folder / "predictions.json").read_text(encoding="utf-8"))
    history_file = folder / "history.jsonl"
    history = (
        [json.loads(line) for line in history_file.read_text(encoding="utf-8").splitlines()]
        if history_file.is_file()
        else []
    )
    return RunResult(
        folder=folder,
        row=make_row(json.loads((folder / "row.json").read_text(encoding="utf-8")), "row.json"),
        recipe=Recipe.model_validate_json((folder / "recipe.json").read_text(encoding="utf-8")),
        hypotheses={key: value["hypothesis"] for key, value in predictions.items()},
        references={key: value["reference"] for key, value in predictions.items()},
        history=history,
        data_dir=data_dir,
    )


def _empty(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()


def _command(name, profile, corpus, seed, overrides, data_dir) -> str:
    words = ["r2genkit", "train", str(name), "--profile", profile, "--seed", str(seed)]
    words += ["--corpus", corpus] if corpus else []
    for text in overrides:
        words += ["--set", text]
    # The folder's own path is the user's; the row says only that one was given.
    words += ["--data-dir", "DATA_DIR"] if data_dir else []
    return shlex.join(words)


@dataclass
class _Outcome:
    """What training or fitting gives: test reports and how they came about."""

    hypotheses: dict[str, str]
    selected_on: str
    best_epoch: int | None = None
    train_seconds: float = 0.0
    parameters: int = 0
    trainable_parameters: int = 0
    device: str = "cpu"
    extra: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _run(job: _Job) -> None:
    start = time.perf_counter()
    recipe, seed, folder = job.recipe, job.seed, job.folder
    with PeakMemory() as memory:
        text = prepare_text(recipe.data, recipe.text, job.data_dir)
        write_json(folder / "recipe.json", recipe.model_dump(mode="json"), indent=1)
        text.vocabulary.save(folder / "vocabulary.json")
        make = _baseline if recipe.baseline else _train
        outcome = make(job, text)
    references = {key: text.references[key] for key in text.split.test}
    evaluation = evaluate_run(recipe, text, outcome.hypotheses, seed)
    swap = swap_difference = versus_constant = None
    if recipe.scoring.swap and recipe.model is not None:
        swapped = score_swapped(recipe, text, outcome.hypotheses, seed)
        swap = row_scores(swapped)
        swap_difference = row_differences(evaluation, swapped, seed)
    constant = _constant(job)
    if constant is not None:
        versus_constant = row_differences(
            evaluation, evaluate_run(recipe, text, constant.hypotheses, seed), seed
        )
    row = make_row(
        {
            "run": recipe.run,
            "title": recipe.title,
            "about": recipe.about,
            "order": recipe.order,
            "kind": _kind(recipe),
            "corpus": recipe.data.corpus,
            "synthetic": text.synthetic,
            "protocol": recipe.data.split,
            "section": recipe.data.section,
            "references": recipe.text.references,
            "profile": job.profile,
            "seed": seed,
            "recipe_hash": recipe.fingerprint(),
            "code_hash": code_hash(*recipe_modules(recipe)),
            "split_fingerprint": text.split.fingerprint,
            "studies": {name: len(text.part(name)) for name in ("train", "validation", "test")},
            "selected_on": outcome.selected_on,
            "best_epoch": outcome.best_epoch,
            "metrics": row_scores(evaluation),
            "clinical": row_clinical(evaluation),
            "subsets": row_subsets(evaluation),
            "findings": row_findings(evaluation),
            "distinct_percent": evaluation.diversity["distinct_percent"],
            "verbatim_in_train_percent": evaluation.diversity["verbatim_in_train_percent"],
            "extra": {**evaluation.extra, **outcome.extra},
            "swap": swap,
            "swap_difference": swap_difference,
            "constant_difference": versus_constant,
            "parameters": outcome.parameters,
            "trainable_parameters": outcome.trainable_parameters,
            "signature": evaluation.signature,
            "notes": [*filter(None, [text.split.note]), *outcome.notes, *evaluation.notes],
            "command": job.command,
            "measured": {
                "train_seconds": round(outcome.train_seconds, 2),
                "total_seconds": round(time.perf_counter() - start, 2),
                "peak_memory_mb": memory.megabytes,
                "device": device_name(outcome.device),
                "versions": versions(),
                "git_revision": git_revision(),
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        },
        f"row of {recipe.run}",
    )
    predictions = {
        key: {"hypothesis": outcome.hypotheses[key], "reference": references[key]}
        for key in references
    }
    write_json(folder / "predictions.json", predictions, indent=1)
    write_json(folder / "row.json", row.model_dump(mode="json"), indent=1)


def _constant(job: _Job) -> RunResult | None:
    """The constant baseline on the same studies and text rules; None for that baseline itself."""
    recipe = job.recipe
    if recipe.run == CONSTANT:
        return None
    base = load_recipe(CONSTANT, profile=job.profile)
    text = recipe.text
    if text.references == "full":
        # How far a model reads does not touch the constant: one run serves them all.
        text = text.model_copy(update={"max_length": base.text.max_length})
    same = base.model_copy(update={"data": recipe.data, "text": text, "scoring": recipe.scoring})
    command = _command(CONSTANT, job.profile, recipe.data.corpus, job.seed, (), job.data_dir)
    constant = _Job(same, job.profile, job.seed, job.data_dir, command)
    _complete(constant)
    return read_run(constant.folder, data_dir=job.data_dir)


def _baseline(job: _Job, text: PreparedText) -> _Outcome:
    recipe, seed = job.recipe, job.seed
    name = recipe.baseline.name
    features, notes = None, ()
    if needs_features(name) or needs_retriever(name):
        prepared = prepare_images(recipe.data, recipe.text, recipe.encoder, job.data_dir, job.bars)
        features, notes = prepared.features, prepared.notes
    start = time.perf_counter()
    retriever = None
    if needs_retriever(name):
        tags = None
        if recipe.tags:
            tags = prepare_tags(recipe.tags, text, features, seed, progress=job.bars)
        retriever = import_module(_RETRIEVING).prepare_retriever(recipe, text, prepared, tags, seed)
    baseline = build_baseline(
        name,
        recipe.baseline.settings,
        seed=seed,
        features=features,
        findings=text.true_findings() if needs_findings(name) else None,
        retriever=retriever,
    )
    # The references of training and validation studies only: no test report reaches a baseline.
    baseline.fit(
        {key: text.references[key] for key in text.split.train},
        {key: text.references[key] for key in text.split.validation},
    )
    hypotheses = baseline.predict(text.split.test)
    return _Outcome(
        hypotheses=hypotheses,
        selected_on=SELECTED_ON[name],
        train_seconds=time.perf_counter() - start,
        notes=notes,
    )


def _kind(recipe: Recipe) -> str:
    if recipe.baseline is None:
        return "model"
    return "oracle" if recipe.baseline.name in ORACLES else "baseline"


@dataclass
class _Trained:
    """A trained model with what it was trained on."""

    model: ReportModel
    fitted: FitResult
    prepared: PreparedImages
    tags: Tags | None
    retriever: Any
    loader: Callable[[str, bool], Loader]


def _fit(job: _Job, text: PreparedText) -> _Trained:
    """Prepare everything and train; every process that shares the training calls it."""
    recipe, seed, folder, main = job.recipe, job.seed, job.folder, processes.is_main()
    prepared = prepare_images(recipe.data, recipe.text, recipe.encoder, job.data_dir, job.bars)
    tags = None
    if recipe.tags:
        tags = prepare_tags(recipe.tags, text, prepared.features, seed, progress=job.bars)
    if main and tags is not None:
        tags.save(folder / TAGS_FOLDER)
    if main and prepared.features is not None and prepared.features.pca is not None:
        prepared.features.pca.save(folder / PCA_FILE)
    if main and prepared.pretraining is not None and not recipe.encoder.trainable:
        prepared.encoder.save(folder / ENCODER_FILE)  # a run's folder needs nothing beside it
    retriever = None
    if recipe.retrieval is not None:
        prepare = import_module(_RETRIEVING).prepare_retriever
        retriever = prepare(recipe, text, prepared, tags, seed)
        if main:
            retriever.save(folder / RETRIEVAL_FOLDER)
    model = build_model(
        recipe.model.name,
        recipe.model.settings,
        vocabulary_size=len(text.vocabulary),
        feature_dim=_feature_dim(prepared),
        tag_count=0 if tags is None else len(tags.types),
        # A copy: what is prepared serves the next recipe of this process, which must not start
        # from an encoder that this one has trained.
        encoder=copy.deepcopy(prepared.encoder) if prepared.features is None else None,
        full_stop=text.vocabulary.full_stop,
        seed=seed,
    )

    def loader(part: str, training: bool) -> Loader:
        return report_loader(
            recipe,
            text,
            prepared,
            part,
            seed=seed,
            training=training,
            tags=None if tags is None else decoder_tags(recipe.tags, tags, text, part),
            neighbours=None if retriever is None else retriever.neighbours(text.part(part)),
            layout=model.layout,
        )

    if recipe.start_from is not None:
        load_weights(model, _start(job))
    if recipe.objective is not None:
        module, _, kind = _OBJECTIVES[recipe.objective.name].partition(":")
        model.objective = getattr(import_module(module), kind)(
            recipe.objective.settings,
            vocabulary=text.vocabulary,
            references={key: text.references[key] for key in text.split.train},
            seed=seed,
        )

    fitted = fit(
        model,
        loader("train", True),
        config=recipe.training,
        validate=validation_scores(recipe, text, loader("validation", False)),
        folder=folder,
        seed=seed,
        progress=job.bars,
        tensorboard=job.tensorboard,
        vocabulary=text.vocabulary,
    )
    model.objective = None
    return _Trained(model, fitted, prepared, tags, retriever, loader)


def _start(job: _Job) -> Path:
    """Checkpoint with the best weights of the run that this one starts from, trained if need be."""
    recipe = start_recipe(job.recipe)
    command = _command(recipe.run, job.profile, recipe.data.corpus, job.seed, (), job.data_dir)
    start = _Job(recipe, job.profile, job.seed, job.data_dir, command, job.bars)
    if processes.is_main():
        _complete(start, together=True)
    elif processes.from_main():
        _assist(start)
    processes.from_main()  # the weights are there
    return Checkpoints(start.folder, {}, None).best()


def _train(job: _Job, text: PreparedText) -> _Outcome:
    recipe, seed = job.recipe, job.seed
    trained = _fit(job, text)
    model, fitted, prepared, tags = trained.model, trained.fitted, trained.prepared, trained.tags
    reports = decode_all(
        model,
        trained.loader("test", False),
        recipe.decoding,
        vocabulary=text.vocabulary,
        seed=seed,
    )
    return _Outcome(
        hypotheses={key: hypothesis.text for key, hypothesis in reports.items()},
        selected_on=f"validation {recipe.training.select}",
        best_epoch=fitted.best_epoch,
        train_seconds=fitted.seconds,
        parameters=sum(p.numel() for p in model.parameters())
        + (sum(p.numel() for p in prepared.encoder.parameters()) if prepared.features else 0),
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        device=str(fitted.device),
        extra={
            **({} if tags is None else {"tag AUROC": mean_test_auroc(tags, text)}),
            **({} if trained.retriever is None else trained.retriever.figures()),
        },
        notes=(
            *prepared.notes,
            *([f"training started from {recipe.start_from.run}"] if recipe.start_from else []),
            *filter(None, [fitted.stopped]),
        ),
    )


def _feature_dim(prepared: PreparedImages) -> int:
    return prepared.encoder.dim if prepared.features is None else prepared.features.dim


def validation_scores(
    recipe: Recipe, text: PreparedText, loader: Iterable[Batch]
) -> Callable[[ReportModel], dict[str, float]]:
    """A function that decodes the validation set greedily and scores it (no METEOR, no interval).

    Greedy whatever the recipe decodes with at the end, by its other rules: beams every epoch would
    cost more than the training itself.
    """
    references = {key: text.references[key] for key in text.split.validation}
    rules = {**recipe.decoding.model_dump(), "method": "greedy", "samples": 1}
    greedy = DecodingConfig.model_validate(rules)

    def validate(model: ReportModel) -> dict[str, float]:
        reports = decode_all(model, loader, greedy, vocabulary=text.vocabulary)
        evaluation = evaluate_reports(
            {key: hypothesis.text for key, hypothesis in reports.items()},
            references,
            train_texts=text.train_texts,
            meteor=False,
            bootstrap=0,
        )
        wanted = {name: evaluation.metrics[name] for name in ALL_METRICS if name != "METEOR"}
        return {**wanted, "distinct %": evaluation.diversity["distinct_percent"]}

    return validate
