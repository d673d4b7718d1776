"""The chain of a 2025 course report, stage by stage, on a public and on a private set.

The report starts from R2GenCMN with its authors' weights, trains it again, swaps the encoder,
changes the learning rates, adds retrieval, then SCST. Here every stage is a recipe on top of the
same R2GenCMN:

==================================  ===========================================================
authors' weights                    a released checkpoint, for whoever holds the file
re-trained baseline                 ``07_cmn``
DenseNet                            ``08_densenet``
DenseNet + changed learning rates   ``08_differential_rates``
retrieval                           ``09_retrieval``
retrieval + SCST                    ``10_scst_retrieval``
==================================  ===========================================================

Differences from the report, which gives no code: its later stages keep the DenseNet, ours keep the
encoder of ``07_cmn``, so that a stage differs from the baseline in what it is named after; on the
phantom the private set is ``phantom_shifted`` with everything different at once.

Each stage stands beside a constant report, with intervals, and with its paired difference to the
baseline of the same seed: a claim of improvement is that difference, also where it fails.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from r2genkit.corpora.phantom_shifted import read_phantom_shifted
from r2genkit.corpora.private import read_private
from r2genkit.errors import KitError
from r2genkit.experiments.data import PreparedText
from r2genkit.experiments.environment import git_revision
from r2genkit.experiments.lines import read_complete
from r2genkit.experiments.private_set import (
    CONSTANT_TITLE,
    check_untrained,
    kept_readings,
    prepare_private,
    read_studies,
    trivial_reports,
)
from r2genkit.experiments.recipe import EncoderConfig, Recipe, load_recipe
from r2genkit.experiments.results import Difference, ResultRow, Score, replace_line
from r2genkit.experiments.runner import RunResult, run
from r2genkit.experiments.tables import cell, number, same_source, write_table
from r2genkit.experiments.trained import TrainedSystem
from r2genkit.experiments.verdict import evaluate_run, row_differences, row_scores
from r2genkit.metrics import ALL_METRICS, Evaluation
from r2genkit.metrics.uncertainty import SAME
from r2genkit.models.released import load_released
from r2genkit.paths import results_dir
from r2genkit.study import Study

PROTOCOL = "course2025"
"""Protocol of the published numbers in ``data/published.csv``."""
SUBSETS = ("public", "private")


@dataclass(frozen=True)
class Stage:
    """One stage of the chain.

    Attributes:
        name: as in the published table.
        run: its recipe; None for the authors' weights.
    """

    name: str
    run: str | None


AUTHORS = Stage("author weights", None)
BASELINE = Stage("baseline (CMN re-trained)", "07_cmn")
STAGES: tuple[Stage, ...] = (
    AUTHORS,
    BASELINE,
    Stage("DenseNet", "08_densenet"),
    Stage("DenseNet + changed learning rates", "08_differential_rates"),
    Stage("retrieval", "09_retrieval"),
    Stage("retrieval + SCST", "10_scst_retrieval"),
)
NO_WEIGHTS = (
    f"{AUTHORS.name}: not run: the authors' file is not part of the kit and reads real radiographs "
    "only (r2genkit ablation --corpus r2gen --author-weights FILE)"
)

KEY = ("stage", "subset", "source", "corpus", "protocol", "profile", "seed")
_ORDER = ("profile", "protocol", "source", "subset", "order", "seed")


class AblationRow(BaseModel):
    """One stage with one seed on one of the two sets.

    Attributes:
        stage: name in the published table, or that of the constant report.
        source: where the studies come from.
        digest: of study ids and references; rows of another digest are of other studies.
        difference: to the baseline of the same seed on the same studies, paired; None for itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: str
    order: int
    run: str
    corpus: str
    synthetic: bool
    protocol: str
    profile: Literal["smoke", "lab", "paper"]
    seed: int
    subset: Literal["public", "private"]
    source: str
    studies: int = Field(ge=1)
    digest: str = Field(pattern=r"^[0-9a-f]{16}$")
    recipe_hash: str
    code_hash: str
    split_fingerprint: str
    metrics: dict[str, Score]
    distinct_percent: float = Field(ge=0, le=100)
    difference: dict[str, Difference] | None = None
    command: str
    git_revision: str
    date: str


def released_system(path: Path, recipe: Recipe, text: PreparedText) -> TrainedSystem:
    """R2GenCMN with its authors' weights, ready to read studies.

    Args:
        path: a released checkpoint.
        recipe: gives data and text rules; encoder and decoding are the released ones.
        text: prepared by these rules; its vocabulary must be the one of the file.

    Raises:
        KitError: unusable file, or a vocabulary of another size.
    """
    model = load_released(path, "r2gencmn", text.vocabulary)
    as_released = load_recipe("07_cmn", profile="paper", corpus=recipe.data.corpus)
    changes = {
        "encoder": EncoderConfig(name="resnet101", weights="none", trainable=True, pca=None),
        "tags": None,
        "decoding": as_released.decoding,
    }
    return TrainedSystem(
        recipe.model_copy(update=changes), model, text.vocabulary, model.encoder, None, None
    )


@dataclass
class _Set:
    """The studies of one subset and what was written about them."""

    name: str
    source: str
    studies: Sequence[Study]
    text: PreparedText
    reports: dict[str, dict[str, str]]  # by stage, then by study


def measure_chain(
    profile: str = "lab",
    *,
    corpus: str | None = None,
    seed: int = 0,
    data_dir: Path | None = None,
    private: Path | None = None,
    studies: int | None = 200,
    author_weights: Path | None = None,
    meteor: bool = True,
    stages: Iterable[Stage] = STAGES,
    overrides: Sequence[str] = (),
    progress: bool = False,
) -> list[AblationRow]:
    """Run what is not there yet, let every stage read both sets, score and keep the rows.

    Args:
        profile: budget of the recipes.
        corpus: default: the phantom.
        seed: of every run.
        data_dir: folder of a corpus that is not embedded.
        private: folder of a private set; default: another hospital where the corpus is the
            phantom, and no private set elsewhere.
        studies: of the other hospital; None = all test studies.
        author_weights: a released checkpoint of R2GenCMN.
        meteor: whether to score METEOR (slow).
        stages: which; the baseline is always among them.
        overrides: settings of every recipe to change: ``training.epochs=3``.
        progress: show progress bars.

    Raises:
        KitError: an unusable private folder, a private study that a stage was trained on, or
            weights that do not fit.
    """
    options = {"profile": profile, "corpus": corpus, "seed": seed, "data_dir": data_dir}
    changed = {"overrides": tuple(overrides), "progress": progress}
    wanted = [stage for stage in stages if stage not in (AUTHORS, BASELINE) and stage.run]
    results = {stage: run(str(stage.run), **options, **changed) for stage in (BASELINE, *wanted)}
    baseline = results[BASELINE]
    text, system = baseline.text(), baseline.system()
    sets = [_Set("public", "test studies", (), text, {})]
    hospital = private is None and baseline.recipe.data.corpus == "phantom"
    if hospital:
        elsewhere = _hospital(baseline, text, studies)
        told = f"phantom_shifted, all, {len(elsewhere)} studies"
        sets.append(_Set("private", told, elsewhere, prepare_private(system, elsewhere), {}))
    elif private is not None:
        folder = read_private(Path(private))
        told = f"private folder, {len(folder)} studies"
        sets.append(_Set("private", told, folder, prepare_private(system, folder), {}))
    constant = trivial_reports(baseline, text)[CONSTANT_TITLE]
    for one in sets:
        one.reports[CONSTANT_TITLE] = dict.fromkeys(one.text.split.test, constant)
    authors = None
    if author_weights is not None:
        authors = released_system(Path(author_weights), baseline.recipe, text)
        for one in sets:
            members = one.studies or [text.studies[i] for i in text.split.test]
            readings = read_studies(authors, members)
            one.reports[AUTHORS.name] = {i: reading.report for i, reading in readings.items()}
    for stage, result in results.items():
        sets[0].reports[stage.name] = result.hypotheses
        for one in sets[1:]:
            reader = system if stage == BASELINE else result.system()
            readings = (
                kept_readings(result, reader, None, "all", one.studies)
                if hospital
                else read_studies(reader, one.studies)
            )
            one.reports[stage.name] = {i: reading.report for i, reading in readings.items()}
    rows = []
    for one in sets:
        rows += _scored(one, results, baseline, meteor, _command(options, private, studies))
    path = _file(profile, baseline.row.corpus)
    for row in rows:
        replace_line(path, row.model_dump(mode="json"), key=KEY, order=_ORDER)
    return rows


def _hospital(baseline: RunResult, text: PreparedText, studies: int | None) -> list[Study]:
    seed = baseline.recipe.data.split_seed
    available = len(read_phantom_shifted(seed=seed, studies=None))
    count = None if studies is None else min(studies, available)
    check_untrained(text, read_phantom_shifted(seed=seed, cause="none", studies=count))
    return read_phantom_shifted(seed=seed, cause="all", studies=count)


def _command(options: dict, private: Path | None, studies: int | None) -> str:
    words = ["r2genkit", "ablation", "--profile", options["profile"]]
    words += ["--seed", str(options["seed"])]
    words += ["--studies", str(studies)] if studies is not None else []
    words += ["--corpus", options["corpus"]] if options["corpus"] else []
    words += ["--private", "FOLDER"] if private else []
    words += ["--data-dir", "DATA_DIR"] if options["data_dir"] else []
    return shlex.join(words)


def _scored(
    one: _Set,
    results: dict[Stage, RunResult],
    baseline: RunResult,
    meteor: bool,
    command: str,
) -> list[AblationRow]:
    """Rows of one set."""
    seed, recipe = baseline.row.seed, baseline.recipe
    train_texts = baseline.text().train_texts
    scores: dict[str, Evaluation] = {
        name: evaluate_run(
            recipe, one.text, reports, seed, external=False, meteor=meteor, train_texts=train_texts
        )
        for name, reports in one.reports.items()
    }
    ids = one.text.split.test
    content = json.dumps([[i, one.text.references[i]] for i in ids])
    shared = {
        "corpus": baseline.row.corpus,
        "synthetic": baseline.row.synthetic,
        "protocol": baseline.row.protocol,
        "profile": baseline.row.profile,
        "seed": seed,
        "subset": one.name,
        "source": one.source,
        "studies": len(ids),
        "digest": hashlib.sha256(content.encode()).hexdigest()[:16],
        "split_fingerprint": baseline.row.split_fingerprint,
        "command": command,
        "git_revision": git_revision(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    rows_of: dict[str, ResultRow] = {stage.name: result.row for stage, result in results.items()}
    order = {CONSTANT_TITLE: 0} | {stage.name: i for i, stage in enumerate(STAGES, start=1)}
    rows = []
    for name in sorted(scores, key=order.__getitem__):
        # The constant and the authors' weights come from no run of this chain.
        row = rows_of.get(name, baseline.row)
        own = name in rows_of
        rows.append(
            AblationRow(
                stage=name,
                order=order[name],
                run=row.run if own else "-",
                recipe_hash=row.recipe_hash if own else "-",
                code_hash=row.code_hash if own else "-",
                metrics=row_scores(scores[name]),
                distinct_percent=scores[name].diversity["distinct_percent"],
                difference=None
                if name == BASELINE.name
                else row_differences(scores[name], scores[BASELINE.name], seed),
                **shared,
            )
        )
    return rows


def _file(profile: str, corpus: str) -> Path:
    return results_dir(profile) / "ablation" / f"{corpus}.jsonl"


def read_ablation_rows(profile: str = "lab", *, corpus: str = "phantom") -> list[AblationRow]:
    """All rows of a profile: public set first, then by stage and seed.

    A row that is not complete is left out with a warning that names it.

    Raises:
        KitError: a line is not JSON.
    """
    rows = read_complete(
        _file(profile, corpus),
        AblationRow,
        profile,
        again=lambda row: f"the chain with seed {row.get('seed')} is run",
    )
    return sorted(
        rows, key=lambda row: (SUBSETS.index(row.subset), row.source, row.order, row.seed)
    )


Group = tuple[str, str, str]  # subset, source, stage


def by_stage(rows: Sequence[AblationRow]) -> dict[Group, list[AblationRow]]:
    """Rows of each stage on each set, by seed; of other recipes or code, the newest only.

    Raises:
        KitError: rows of different corpora, protocols or profiles.
    """
    kinds = {(row.corpus, row.protocol, row.profile) for row in rows}
    if len(kinds) > 1:
        listed = "; ".join(" / ".join(kind) for kind in sorted(kinds))
        raise KitError(f"these rows cannot share a table (corpus / protocol / profile): {listed}")
    groups: dict[Group, list[AblationRow]] = {}
    for row in rows:
        groups.setdefault((row.subset, row.source, row.stage), []).append(row)
    return {
        key: same_source(
            key[-1],
            group,
            lambda row: (row.recipe_hash, row.code_hash, row.split_fingerprint, row.digest),
            lambda row: row.date,
        )
        for key, group in groups.items()
    }


def ablation_table(
    rows: Sequence[AblationRow], metrics: Sequence[str] = ALL_METRICS
) -> pd.DataFrame:
    """One line per set and stage, the constant first; values as in ``tables.results_table``.

    A stage without a row has a line that says "not run".

    Raises:
        KitError: rows of different corpora, protocols or profiles.
    """
    groups = by_stage(rows)
    lines = []
    for subset, source in dict.fromkeys(key[:2] for key in groups):
        for name in (CONSTANT_TITLE, *(stage.name for stage in STAGES)):
            group = groups.get((subset, source, name), [])
            line = {"set": subset, "stage": name, "run": group[0].run if group else "-"}
            line["seeds"] = str(len(group)) if group else "-"
            line["studies"] = str(group[0].studies) if group else "-"
            for metric in metrics:
                line[metric] = cell([row.metrics[metric] for row in group]) if group else "not run"
            shown = f"{np.mean([row.distinct_percent for row in group]):.1f}" if group else "-"
            lines.append({**line, "distinct %": shown})
    return pd.DataFrame(lines)


def steps_table(
    rows: Sequence[AblationRow], metrics: Sequence[str] = ("BLEU-4", "CIDEr", "finding-F1")
) -> pd.DataFrame:
    """One line per set and stage: paired differences to the baseline of the same seed.

    A cell holds the mean difference over seeds, half the mean width of its 95 % intervals, and how
    many seeds stand above, below, or cannot be told from the baseline ("=").

    Raises:
        KitError: rows of different corpora, protocols or profiles.
    """
    lines = []
    for (subset, _, name), group in by_stage(rows).items():
        if name == BASELINE.name:
            continue
        line = {"set": subset, "stage minus baseline": name, "seeds": str(len(group))}
        for metric in metrics:
            found = [(row.difference or {}).get(metric) for row in group]
            line[metric] = _step([d for d in found if d is not None])
        lines.append(line)
    return pd.DataFrame(lines)


def _step(differences: Sequence[Difference]) -> str:
    if not differences:
        return "-"
    mean = float(np.mean([d.value for d in differences]))
    half = float(np.mean([(d.high - d.low) / 2 for d in differences]))
    verdicts = [d.verdict for d in differences]
    told = [f"{verdicts.count(v)} {v}" for v in ("above", "below") if v in verdicts]
    told += [f"{verdicts.count(SAME)} ="] if SAME in verdicts else []
    sign = "+" if mean >= 0 else ""
    return f"{sign}{number(mean)} ± {number(half)} ({', '.join(told)})"


def caption(rows: Sequence[AblationRow]) -> str:
    """One paragraph: what was run on what, and what was not.

    Raises:
        KitError: there are no rows, or rows that cannot share a table.
    """
    if not rows:
        raise KitError("the chain was not run: r2genkit ablation runs it")
    groups = by_stage(rows)
    first = rows[0]
    images = "synthetic phantom radiographs" if first.synthetic else "real images"
    sources = dict.fromkeys((subset, source) for subset, source, _ in groups)
    told = "; ".join(f"{subset} set: {source}" for subset, source in sources)
    sentence = (
        f"Corpus {first.corpus} ({images}); protocol {first.protocol}; profile {first.profile}; "
        f"{told}. ± is half the 95 % bootstrap interval over studies; with several seeds, value "
        "and ± are means over them and SD is their standard deviation."
    )
    missing = [stage for stage in STAGES if all(key[-1] != stage.name for key in groups)]
    if AUTHORS in missing:
        sentence += f" {NO_WEIGHTS}."
    others = [stage.name for stage in missing if stage != AUTHORS]
    return sentence + (f" Not run: {', '.join(others)}." if others else "")


def intervals(
    rows: Sequence[AblationRow], metrics: Sequence[str]
) -> dict[str, dict[str, list[tuple[float, float, float]]]]:
    """Value and interval of each seed by ``"set|stage"`` and metric, for ``chain_figure``.

    Raises:
        KitError: rows of different corpora, protocols or profiles.
    """
    found: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for (subset, _, stage), group in by_stage(rows).items():
        found[f"{subset}|{stage}"] = {
            metric: [
                (score.value, score.low, score.high)
                for score in (row.metrics[metric] for row in group)
                if score.value is not None and score.low is not None and score.high is not None
            ]
            for metric in metrics
        }
    return found


def write_ablation_tables(rows: Sequence[AblationRow], folder: Path | None = None) -> list[str]:
    """Write ``CORPUS_PROTOCOL_ablation`` and ``..._ablation_steps`` as the other tables are.

    Returns:
        The names of the tables written.
    """
    about, first = caption(rows), rows[0]
    name = f"{first.corpus}_{first.protocol}_ablation"
    name += "" if first.profile == "lab" else f"_{first.profile}"
    told = (
        f"{about} Paired differences to the baseline of the same seed; in brackets, how many seeds "
        "stand above it, below it, or cannot be told from it (=)."
    )
    write_table(ablation_table(rows), name, text=about, folder=folder)
    write_table(steps_table(rows), f"{name}_steps", text=told, folder=folder)
    return [name, f"{name}_steps"]
