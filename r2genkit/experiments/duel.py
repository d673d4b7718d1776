"""Reports of a run, of trivial baselines and of the reference, ready to be judged side by side.

A :class:`Contest` holds what several systems wrote about the same test studies, scored by the rules
of one run. From it come a deck of studies for readers (``r2genkit duel``), and what metrics would
prefer if they had the vote.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from r2genkit.errors import KitError
from r2genkit.experiments.data import PreparedText
from r2genkit.experiments.private_set import views_of
from r2genkit.experiments.recipe import load_recipe
from r2genkit.experiments.runner import RunResult, run
from r2genkit.experiments.verdict import evaluate_run
from r2genkit.images import render_view
from r2genkit.metrics import Evaluation
from r2genkit.metrics.findings import OTHER
from r2genkit.metrics.nlg import bleu_counts
from r2genkit.metrics.uncertainty import percentile_interval, resample_weights
from r2genkit.seeds import numpy_rng
from r2genkit.study import Finding, Study
from r2genkit.viz.widgets.duel import (
    METRICS,
    DuelData,
    DuelReport,
    DuelSource,
    DuelStudy,
    FindingLine,
    favourites,
)
from r2genkit.viz.widgets.parts import mark_findings

REFERENCE = "reference"
AGAINST = ("02_constant", "02_nearest_image")
"""Baselines that a run is set beside: one text for all studies, and a copied report."""
VIEW_SIZE = 288
"""Side of the images that readers see, in pixels."""


@dataclass(frozen=True)
class Contest:
    """What several systems wrote about the same test studies.

    Attributes:
        result: the run whose rules hold for all.
        text: its studies and references.
        titles: name by source, a recipe's run or "reference"; the reference comes last.
        about: one sentence by source.
        reports: text by source and study.
        evaluations: scores by source, all by the rules of the run; the reference is scored against
            itself.
    """

    result: RunResult
    text: PreparedText
    titles: dict[str, str]
    about: dict[str, str]
    reports: dict[str, dict[str, str]]
    evaluations: dict[str, Evaluation]

    @property
    def systems(self) -> tuple[str, ...]:
        """All sources but the reference."""
        return tuple(key for key in self.titles if key != REFERENCE)

    @property
    def studies(self) -> tuple[str, ...]:
        """Ids of all test studies, sorted: the order of every array of the evaluations."""
        return next(iter(self.evaluations.values())).studies

    @property
    def abnormal(self) -> np.ndarray:
        """Bool ``[N]``: coded as abnormal, or where nothing is coded, by the reference text."""
        first = next(iter(self.evaluations.values()))
        return ~first.per_study["normal"].to_numpy(dtype=bool)


def run_beside(result: RunResult, name: str) -> RunResult:
    """The run of another recipe on the studies, texts and scoring of a run, trained or read.

    Args:
        result: a finished run.
        name: a shipped recipe, e.g. "02_constant".

    Raises:
        KitError: unknown recipe, or one that cannot be run on these studies.
    """
    row, recipe = result.row, result.recipe
    own = load_recipe(name, profile=row.profile, corpus=recipe.data.corpus)
    changes = []
    for block in ("data", "text", "scoring"):
        wanted = getattr(recipe, block).model_dump(mode="json")
        if block == "text" and own.baseline is not None and recipe.text.references == "full":
            # How far a model reads does not touch whole references: one run serves them all.
            wanted.pop("max_length")
        there = getattr(own, block).model_dump(mode="json")
        changes += [
            f"{block}.{key}={json.dumps(value)}"
            for key, value in wanted.items()
            if there[key] != value
        ]
    return run(
        name,
        profile=row.profile,
        corpus=recipe.data.corpus,
        seed=row.seed,
        overrides=changes,
        data_dir=result.data_dir,
        progress=False,
    )


def contest_of(
    result: RunResult,
    against: Sequence[str | RunResult] = AGAINST,
    *,
    bootstrap: int = 1000,
) -> Contest:
    """A run beside other systems and the reference, all scored by the rules of that run.

    Args:
        result: a finished run.
        against: recipes (trained here if they have not been, or read), or finished runs; what is
            the run itself is left out.
        bootstrap: resamples of the studies for the intervals of the whole test set; 0 for none.

    Raises:
        KitError: another system has no report for a test study, or nothing is left to compare.
    """
    text = result.text()
    ids = text.split.test
    entries = [(result.row.run, result)]
    for other in against:
        name = other if isinstance(other, str) else other.row.run
        if name != result.row.run:
            entries.append((name, run_beside(result, other) if isinstance(other, str) else other))
    if len({key for key, _ in entries}) < len(entries):
        raise KitError("a system stands in the duel twice: name each one once")
    if not 2 <= len(entries) <= 8:
        raise KitError(
            f"{len(entries)} systems cannot be judged side by side with a reference: name one to "
            "seven beside the run itself"
        )
    reports = {}
    for key, one in entries:
        if missing := sorted(set(ids) - set(one.hypotheses)):
            raise KitError(
                f"{one.row.title} has no report for study {missing[0]} ({len(missing)} missing): "
                "compare systems on the same studies"
            )
        reports[key] = {study: one.hypotheses[study] for study in ids}
    reports[REFERENCE] = {study: text.references[study] for study in ids}
    return Contest(
        result=result,
        text=text,
        titles={key: one.row.title for key, one in entries} | {REFERENCE: "human reference"},
        about={key: one.row.about for key, one in entries}
        | {REFERENCE: "What a radiologist wrote, and what metrics compare with."},
        reports=reports,
        evaluations={
            key: evaluate_run(
                result.recipe,
                text,
                written,
                result.row.seed,
                meteor=False,
                external=False,
                bootstrap=bootstrap,
            )
            for key, written in reports.items()
        },
    )


def draw_studies(contest: Contest, studies: int, seed: int = 0) -> tuple[str, ...]:
    """Test studies drawn by a named seed, half of them abnormal, in random order.

    Where one kind has too few studies, the other one fills up.

    Args:
        contest: gives the test studies.
        studies: how many.
        seed: names the draw.

    Raises:
        KitError: fewer test studies than asked for, or none asked for.
    """
    ids, abnormal = np.array(contest.studies), contest.abnormal
    if not 1 <= studies <= len(ids):
        raise KitError(f"{studies} studies cannot be drawn: the test set has {len(ids)}")
    rng = numpy_rng(seed, "duel/studies")
    one, other = (rng.permutation(ids[kind]) for kind in (abnormal, ~abnormal))
    wanted = max((studies + 1) // 2, studies - len(other))
    chosen = [*one[:wanted], *other[: studies - min(wanted, len(one))]]
    return tuple(str(study) for study in rng.permutation(chosen))


def describe(finding: Finding, titles: dict[str, str]) -> str:
    """A coded finding as a phrase: "pleural effusion, left, base, mild"."""
    sides = ("bilateral",) if set(finding.sides) == {"left", "right"} else finding.sides
    parts = [titles.get(finding.name, finding.name), *sides, *finding.locations, finding.severity]
    return ", ".join(filter(None, parts))


def duel_data(
    contest: Contest,
    studies: int = 12,
    *,
    seed: int = 0,
    size: int = VIEW_SIZE,
    title: str = "Which report is the best one?",
) -> DuelData:
    """A deck for readers: drawn studies with every report, its findings and its counts.

    Reports are shown in an order that is drawn for each study by itself.

    Args:
        contest: what was written.
        studies: how many are drawn (:func:`draw_studies`).
        seed: names both draws.
        size: side of the images that readers see, in pixels.
        title: heading.

    Raises:
        KitError: more studies than there are, or an image that is missing.
    """
    text, place = contest.text, {study: i for i, study in enumerate(contest.studies)}
    drawn = draw_studies(contest, studies, seed)
    sources = []
    for key, name in contest.titles.items():
        found = contest.evaluations[key]
        known = {metric: found.metrics[metric] for metric in METRICS}
        ends = {metric: found.intervals[metric] for metric in METRICS if found.intervals}
        sources.append(DuelSource(key, name, contest.about[key], known, ends))
    abnormal = int(contest.abnormal[[place[study] for study in drawn]].sum())
    notes = [
        f"{len(drawn)} of {len(contest.studies)} test studies, drawn by seed {seed}, {abnormal} of "
        "them abnormal."
    ]
    coded = text.coded(()) is not None
    return DuelData(
        title=title,
        sources=tuple(sources),
        reference=REFERENCE,
        studies=tuple(_study(contest, place[study], seed, size, coded) for study in drawn),
        whole_studies=len(contest.studies),
        told_by="In the images (drawn by the phantom)" if text.synthetic else "Coded by readers",
        synthetic=text.synthetic,
        notes=tuple(notes),
    )


def _study(contest: Contest, row: int, seed: int, size: int, coded: bool) -> DuelStudy:
    """Study number ``row`` of the evaluations, as readers see it."""
    study_id = contest.studies[row]
    study = contest.text.studies[study_id]
    labeler = contest.text.labeler
    written = {key: texts[study_id] for key, texts in contest.reports.items()}
    labels = {key: labeler.label(report) for key, report in written.items()}
    shown = {finding.name for finding in study.findings} - {OTHER}
    lines = []
    for name in labeler.findings:
        said = {key: label.get(name, "") for key, label in labels.items()}
        if name in shown or {"positive", "uncertain"} & set(said.values()):
            lines.append(FindingLine(labeler.titles[name], said, name in shown if coded else None))
    views = _images(study, size)
    order = numpy_rng(seed, f"duel/order/{study_id}").permutation(list(written))
    shows = [describe(one, labeler.titles) for one in study.findings if one.name != OTHER]
    return DuelStudy(
        id=study_id,
        views=tuple(views.values()),
        view_names=tuple(views),
        reports={key: _report(contest, key, row) for key in written},
        order=tuple(str(key) for key in order),
        lines=tuple(lines),
        shows=tuple(dict.fromkeys(shows)) if coded else None,
        abnormal=bool(contest.abnormal[row]),
    )


def _images(study: Study, size: int) -> dict[str, np.ndarray]:
    """Grey images of the views that systems see, by name."""
    found = {}
    for number, view in enumerate(views_of(study), 1):
        name = view.projection if view.projection != "unknown" else f"view {number}"
        try:
            found[name if name not in found else f"{name} {number}"] = render_view(view, size)
        except KitError as error:
            raise KitError(f"study {study.id}: {error}") from error
    return found


def _report(contest: Contest, key: str, row: int) -> DuelReport:
    """One report with what it is worth."""
    study_id = contest.studies[row]
    words = tuple(contest.reports[key][study_id].split())
    scored, wanted = (contest.reports[k][study_id] for k in (key, REFERENCE))
    if contest.result.recipe.text.drop_full_stops:
        scored, wanted = (" ".join(w for w in t.split() if w != ".") for t in (scored, wanted))
    found = contest.evaluations[key]
    return DuelReport(
        words=words,
        scores={name: float(found.per_study[name].iloc[row]) for name in METRICS},
        bleu=tuple(int(count) for count in bleu_counts(scored, wanted)),
        hits=tuple(int(count) for count in found.findings.counts[row].sum(0)),
        findings=mark_findings(words, contest.text.labeler),
    )


@dataclass(frozen=True)
class MetricVotes:
    """What metrics would vote for, over all test studies.

    Attributes:
        shares: one line per metric and source: "metric", "report of", "share" of the studies in
            which it has the highest score (ties shared), "low", "high".
        blind: one line per metric: of the abnormal studies whose reference states a finding, the
            "share" in which the favourite states none of these findings, with "low", "high".
        ties: by metric, the share of studies without a single favourite.
        studies, abnormal: numbers of studies behind ``shares`` and ``blind``.
    """

    shares: pd.DataFrame
    blind: pd.DataFrame
    ties: dict[str, float]
    studies: int
    abnormal: int


def metric_votes(contest: Contest, *, seed: int = 0, resamples: int = 1000) -> MetricVotes:
    """Each metric as a judge among the systems; the reference, its yardstick, does not stand.

    These are no readers. A metric votes for the report with the highest score of the single study;
    reports with the same score (of three decimals) share the vote. finding-F1 counts a report as
    fully right where neither it nor the reference states a finding. Intervals: bootstrap over
    studies, 95 %.

    Args:
        contest: what was written, scored.
        seed: names the resamples.
        resamples: how many.
    """
    keys = list(contest.systems)
    each = [contest.evaluations[key] for key in keys]
    hits = np.stack([one.findings.counts.sum(1) for one in each], axis=1)  # [N, K, 3]
    judged = contest.abnormal & (hits[:, 0, 0] + hits[:, 0, 2] > 0)  # [N]
    if not judged.any():
        raise KitError("no abnormal test study has a reference that states a finding: none to vote")
    weights = resample_weights(len(contest.studies), resamples=resamples, seed=seed)  # [R, N]
    shares, blind, ties = [], [], {}
    for metric in METRICS:
        scores = np.stack([one.per_study[metric].to_numpy(float) for one in each], axis=1)
        votes = np.array(
            [list(favourites(dict(zip(keys, row))).values()) for row in scores]
        )  # [N, K]
        ties[metric] = float((votes.max(1) < 1).mean())
        drawn = weights @ votes / weights.sum(1, keepdims=True)  # [R, K]
        for place, key in enumerate(keys):
            low, high = percentile_interval(drawn[:, place])
            shares.append(
                {
                    "metric": metric,
                    "report of": contest.titles[key],
                    "share": float(votes[:, place].mean()),
                    "low": low,
                    "high": high,
                }
            )
        silent = (votes * (hits[:, :, 0] == 0)).sum(1)  # [N]: votes for reports without a hit
        counted = weights[:, judged].sum(1)
        low, high = percentile_interval(
            (weights[:, judged] @ silent[judged])[counted > 0] / counted[counted > 0]
        )
        blind.append(
            {"metric": metric, "share": float(silent[judged].mean()), "low": low, "high": high}
        )
    return MetricVotes(
        shares=pd.DataFrame(shares),
        blind=pd.DataFrame(blind),
        ties=ties,
        studies=len(contest.studies),
        abnormal=int(judged.sum()),
    )


def metric_votes_table(votes: MetricVotes) -> pd.DataFrame:
    """One line per metric: share of its votes by system, and how often its favourite is blind."""
    lines = []
    for row in votes.blind.itertuples():
        line = {"judge": row.metric}
        for one in votes.shares[votes.shares["metric"] == row.metric].to_dict("records"):
            line[one["report of"]] = f"{one['share']:.2f} [{one['low']:.2f}, {one['high']:.2f}]"
        line["ties"] = f"{votes.ties[row.metric]:.2f}"
        line["abnormal: favourite states no finding"] = (
            f"{row.share:.2f} [{row.low:.2f}, {row.high:.2f}]"
        )
        lines.append(line)
    return pd.DataFrame(lines)
