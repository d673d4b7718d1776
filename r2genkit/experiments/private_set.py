"""A private test set: a trained system reads a folder of its own kind, and says how far it fell.

The scores of a system on new studies mean little by themselves. Beside them stand here

* their intervals, which a small set makes wide;
* trivial reports, found on the public training set, on the same private studies: where a constant
  falls as far as the model does, the reports are written differently and no image is read worse;
* the **generalisation gap**, private minus public test set of the same run. The sets are different
  studies, so both are resampled, independently of each other;
* which images are unlike the training set (``r2genkit.experiments.familiarity``).

``gap_by_cause`` takes the gap to "another hospital" (``r2genkit.corpora.phantom_shifted``) apart.
There the studies are the same for every cause, so that the bootstrap is paired.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from r2genkit.batches import Batch
from r2genkit.corpora.phantom_shifted import CAUSES, read_phantom_shifted
from r2genkit.corpora.private import read_private
from r2genkit.corpora.splits import Split, fingerprint
from r2genkit.decoding import DecodingConfig, decode_all
from r2genkit.errors import KitError
from r2genkit.experiments.data import PreparedText
from r2genkit.experiments.familiarity import Familiarity, distances_of, far_views
from r2genkit.experiments.familiarity import warning as unfamiliar_warning
from r2genkit.experiments.recipe import EncoderConfig, load_recipe
from r2genkit.experiments.runner import CONSTANT, RunResult, run
from r2genkit.experiments.trained import TrainedSystem
from r2genkit.experiments.verdict import evaluate_run
from r2genkit.files import write_json, write_text
from r2genkit.images import render_view, resize
from r2genkit.metrics import ALL_METRICS, Evaluation, Scores
from r2genkit.metrics.baselines import ConstantTemplate, MostFrequentReport
from r2genkit.metrics.uncertainty import (
    Difference,
    bootstrap,
    paired_difference,
    percentile_interval,
    resample_weights,
)
from r2genkit.seeds import integer, numpy_rng
from r2genkit.study import Hypothesis, Study, View, by_id
from r2genkit.text.cleaning import clean_report
from r2genkit.text.sentences import normalise
from r2genkit.viz.private import Card, gallery_html

_CHUNK = 16  # studies per minibatch
CONSTANT_TITLE, FREQUENT_TITLE = "constant template", "most frequent training report"
SHIFTED_FOLDER = "shifted"


# --- reading ------------------------------------------------------------------------------------


def views_of(study: Study) -> tuple[View, ...]:
    """The one or two views of a study that a system sees: a frontal first, then a lateral.

    Of three and more, the first that is not lateral and the first lateral one; without a known
    lateral, the first two.

    Raises:
        KitError: the study has no image.
    """
    usable = [view for view in study.views if view.image is not None]
    if not usable:
        raise KitError(f"study {study.id} has no image: leave it out, or give its file")
    lateral = next((view for view in usable if view.projection == "lateral"), None)
    front = next((view for view in usable if view.projection != "lateral"), None)
    if len(usable) <= 2 or lateral is None or front is None:
        return tuple(usable[:2])
    return (front, lateral)


def pixels_of(study: Study, encoder: EncoderConfig) -> list[np.ndarray]:
    """Grey images uint8 ``[size, size]`` of the views a system sees, at its encoder's size.

    Raises:
        KitError: an image is missing or unreadable; the study is named.
    """
    size, packed = encoder.image_size, encoder.packed_size or encoder.image_size
    try:
        # In two steps where training images were made in two.
        return [resize(render_view(view, packed), (size, size)) for view in views_of(study)]
    except KitError as error:
        raise KitError(f"study {study.id}: {error}") from error


@dataclass(frozen=True)
class Reading:
    """What a system makes of one study.

    Attributes:
        report: as written.
        distances: from the training images ``[V]``, NaN for an absent view; None if not measured.
    """

    report: str
    distances: np.ndarray | None = None


def read_studies(
    system: TrainedSystem,
    studies: Sequence[Study],
    *,
    familiarity: Familiarity | None = None,
    method: str | None = None,
) -> dict[str, Reading]:
    """Reports of many studies, and how unlike the training images theirs are.

    Args:
        system: a trained system.
        studies: with at least one image each.
        familiarity: of the system's run; None leaves the distances out.
        method: "greedy", "beam" or "sample"; default: as the recipe decodes.

    Raises:
        KitError: no studies, a repeated id, an unreadable image, or an unknown method.
    """
    if not studies:
        raise KitError("there are no studies to read: check the table of the folder")
    ids = [study.id for study in studies]
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise KitError(f"study {twice} occurs twice: ids must be unique")
    config = system.recipe.decoding
    if method is not None:
        if method not in ("greedy", "beam", "sample"):
            raise KitError(f"unknown decoding method {method!r}: choose greedy, beam or sample")
        content = {**config.model_dump(), "method": method, "samples": 1}
        config = DecodingConfig.model_validate(content)
    measured: dict[str, np.ndarray] = {}

    def minibatches() -> Iterator[Batch]:
        for start in range(0, len(studies), _CHUNK):
            batch = _minibatch(system, studies[start : start + _CHUNK])
            if familiarity is not None:
                found = distances_of(familiarity, system.encoder, batch)
                measured.update(zip(batch.study_ids, found))
            yield batch

    reports: dict[str, Hypothesis] = decode_all(
        system.model, minibatches(), config, vocabulary=system.vocabulary, seed=0
    )
    return {one: Reading(reports[one].text, measured.get(one)) for one in ids}


def _minibatch(system: TrainedSystem, studies: Sequence[Study]) -> Batch:
    """Minibatches of one study each, put together field by field."""
    single = [system.batch(pixels_of(study, system.recipe.encoder)) for study in studies]
    joined = {}
    for each in dataclasses.fields(Batch):
        values = [getattr(batch, each.name) for batch in single]
        if isinstance(values[0], Tensor):
            joined[each.name] = _joined(values)
    joined["study_ids"] = tuple(study.id for study in studies)
    return Batch(**{"images": None, "features": None, **joined})


def _joined(values: Sequence[Tensor]) -> Tensor:
    """Tensors ``[1, ...]`` as ``[B, ...]``; token ids of unequal length are padded with 0."""
    longest = max(value.shape[-1] for value in values)
    return torch.cat([F.pad(value, (0, longest - value.shape[-1])) for value in values])


# --- scoring ------------------------------------------------------------------------------------


def prepare_private(system: TrainedSystem, studies: Sequence[Study]) -> PreparedText:
    """The studies that have a reference report, as a test set by the rules of the system's run.

    Raises:
        KitError: none has one.
    """
    recipe, vocabulary = system.recipe, system.vocabulary
    section, compat = recipe.data.section, recipe.text.compat
    texts = {study.id: study.text(section) for study in studies}
    texts = {one: text for one, text in texts.items() if clean_report(text, compat)}
    if not texts:
        raise KitError(f"none of {len(studies)} studies has a {section} text to score against")
    if recipe.text.references == "truncated":
        length = recipe.text.max_length
        references = {one: vocabulary.truncated(text, length) for one, text in texts.items()}
    else:
        references = {one: clean_report(text, compat) for one, text in texts.items()}
    parts = {"train": (), "validation": (), "test": tuple(texts)}
    return PreparedText(
        recipe.data,
        recipe.text,
        {one: study for one, study in by_id(studies).items() if one in texts},
        Split("private", **parts, fingerprint=fingerprint(parts), note=""),
        texts,
        vocabulary,
        references,
    )


def unpaired_difference(
    private: Scores, public: Scores, *, seed: int = 0, resamples: int = 1000
) -> dict[str, Difference]:
    """Scores on one set of studies minus scores on another, with a 95 % interval.

    Different studies cannot be paired: each set is resampled by itself, and the interval is that
    of the difference of the two. The private set's own width dominates where it is small.

    Args:
        private, public: scores of one system on two sets.
        seed: names the resamples.
        resamples: number of them.
    """
    first = resample_weights(
        len(private.studies), resamples=resamples, seed=integer(seed, "gap/private")
    )
    second = resample_weights(len(public.studies), resamples=resamples, seed=seed)
    return paired_difference(
        bootstrap(list(private._additives), first),
        bootstrap(list(public._additives), second),
        private.metrics,
        public.metrics,
    )


def paired_change(
    changed: Scores, control: Scores, *, seed: int = 0, resamples: int = 1000
) -> dict[str, Difference]:
    """Scores of the same studies under two conditions, changed minus control; paired.

    ``Scores.compare`` insists on equal references, which "told in another style" cannot have.

    Raises:
        KitError: the studies differ.
    """
    if changed.studies != control.studies:
        raise KitError("a paired change needs the same studies under both conditions")
    weights = resample_weights(len(control.studies), resamples=resamples, seed=seed)
    return paired_difference(
        bootstrap(list(changed._additives), weights),
        bootstrap(list(control._additives), weights),
        changed.metrics,
        control.metrics,
    )


def widths_by_size(
    scores: Scores,
    metrics: Sequence[str],
    sizes: Iterable[int],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> pd.DataFrame:
    """How wide the 95 % interval of a test set of n studies would be.

    n studies are drawn with replacement from the given ones, again and again: the spread of the
    score over such draws is the interval that one private set of n studies would deserve.

    Args:
        scores: of a set that is large enough to draw from.
        metrics: which scores.
        sizes: numbers of studies n.
        seed: names the draws.
        resamples: draws per size.

    Returns:
        Half the width of the 95 % interval: index = number of studies, one column per metric (as
        ``r2genkit.viz.metrics.width_figure`` draws them).

    Raises:
        KitError: unknown metric.
    """
    halves = {}
    for size in sizes:
        rng = numpy_rng(seed, f"size/{size}")
        total = len(scores.studies)
        weights = rng.multinomial(size, np.full(total, 1 / total), size=resamples)
        values = bootstrap(list(scores._additives), weights.astype(np.float64))
        for metric in metrics:
            if metric not in values:
                raise KitError(f"no score is called {metric!r}: choose from {', '.join(values)}")
        intervals = {metric: percentile_interval(values[metric]) for metric in metrics}
        halves[size] = {metric: (high - low) / 2 for metric, (low, high) in intervals.items()}
    return pd.DataFrame(halves).T


# --- the private set ----------------------------------------------------------------------------


@dataclass
class PrivateResult:
    """Everything about one system on one private set.

    Attributes:
        title: the system's name in tables.
        studies: as read.
        readings: report and distances by study id.
        familiarity: what the distances are judged by; None if not asked for.
        text: the studies with a reference; None without any.
        scores: by name, the system first, then trivial reports; empty without references.
        public: the same names on the public test set of the run; empty where it is not at hand.
        gap: private minus public by name and metric.
        notes: what a reader must know, one sentence each.
        synthetic: whether the system was trained on rendered images.
        encoder: says at which size images were read.
    """

    title: str
    studies: tuple[Study, ...]
    readings: dict[str, Reading]
    familiarity: Familiarity | None
    text: PreparedText | None = None
    scores: dict[str, Evaluation] = field(default_factory=dict)
    public: dict[str, Evaluation] = field(default_factory=dict)
    gap: dict[str, dict[str, Difference]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    synthetic: bool = True
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    @property
    def hypotheses(self) -> dict[str, str]:
        """Reports by study id."""
        return {one: reading.report for one, reading in self.readings.items()}

    @property
    def references(self) -> dict[str, str]:
        """Reference reports by study id, of those that have one."""
        return {} if self.text is None else dict(self.text.references)

    def warning(self, study_id: str) -> str:
        """One sentence if the study's images are unlike the training images, else ""."""
        distances = self.readings[study_id].distances
        if self.familiarity is None or distances is None:
            return ""
        return unfamiliar_warning(self.familiarity, distances, f"study {study_id}")

    @property
    def unfamiliar(self) -> tuple[str, ...]:
        """Ids of the studies with a warning."""
        return tuple(one for one in self.readings if self.warning(one))

    def score_table(self, metrics: Sequence[str] = ALL_METRICS) -> pd.DataFrame:
        """One line per metric: system and trivial reports with intervals."""
        lines = []
        for metric in metrics:
            line = {"metric": metric}
            for name, scores in self.scores.items():
                line[name] = _with_interval(scores, metric)
            lines.append(line)
        return pd.DataFrame(lines)

    def gap_table(self, metrics: Sequence[str] = ALL_METRICS) -> pd.DataFrame:
        """One line per metric and name: public value, private value, gap with its interval."""
        lines = []
        for metric in metrics:
            for name, differences in self.gap.items():
                d = differences.get(metric)
                if d is None or not np.isfinite(d.value):
                    continue
                lines.append(
                    {
                        "metric": metric,
                        "report": name,
                        "public": f"{self.public[name].metrics[metric]:.3f}",
                        "private": f"{self.scores[name].metrics[metric]:.3f}",
                        "gap": f"{d.value:+.3f}",
                        "95 % interval": f"[{d.low:+.3f}, {d.high:+.3f}]",
                        "private set is": d.verdict,
                    }
                )
        return pd.DataFrame(lines)

    def cards(self, ids: Sequence[str] | None = None) -> list[Card]:
        """Studies side by side with their reports, for the gallery and its figure.

        Args:
            ids: which studies, in this order; default all.
        """
        known = by_id(self.studies)
        return [
            Card(
                one,
                [view.projection for view in views_of(known[one])],
                pixels_of(known[one], self.encoder),
                self.readings[one].report,
                self.references.get(one),
                self.warning(one),
            )
            for one in (ids if ids is not None else self.readings)
        ]


def _with_interval(scores: Scores, metric: str) -> str:
    value = scores.metrics.get(metric)
    if value is None or not np.isfinite(value):
        return "not run"
    low, high = scores.intervals.get(metric, (float("nan"), float("nan")))
    return f"{value:.3f} [{low:.3f}, {high:.3f}]" if np.isfinite(low) else f"{value:.3f}"


def trivial_reports(public: RunResult, text: PreparedText) -> dict[str, str]:
    """Reports that see no image, found on the public training and validation studies.

    The constant template is the one of the run's own table where that stands; else it is searched
    here, which takes about half a minute.
    """
    train = {one: text.references[one] for one in text.split.train}
    validation = {one: text.references[one] for one in text.split.validation}
    row, recipe = public.row, public.recipe
    where = {"profile": row.profile, "corpus": row.corpus}
    base = load_recipe(CONSTANT, **where)
    rules = ("compat", "references", "min_count", "drop_full_stops")
    same = base.data == recipe.data and all(
        getattr(base.text, name) == getattr(recipe.text, name) for name in rules
    )
    if same and recipe.text.references == "full":
        found = run(CONSTANT, seed=row.seed, data_dir=public.data_dir, progress=False, **where)
        constant = next(iter(found.hypotheses.values()))
    else:
        constant = ConstantTemplate().fit(train, validation).text
    frequent = MostFrequentReport().fit(train, validation).text
    return {CONSTANT_TITLE: constant, FREQUENT_TITLE: frequent}


def read_private_set(
    public: RunResult,
    source: Path | Sequence[Study],
    *,
    system: TrainedSystem | None = None,
    familiarity: Familiarity | None = None,
    table: str | None = None,
    method: str | None = None,
    meteor: bool | None = None,
) -> PrivateResult:
    """Let a trained run read a private set, and score it where references exist.

    Args:
        public: the finished training run; its test set is the public one.
        source: a folder as ``r2genkit.corpora.private`` reads it, or studies.
        system: the run's trained system, if it is loaded already.
        familiarity: of that run; None leaves warnings out.
        table: name of the folder's CSV file, if it is not studies.csv.
        method: decoding; default: as the recipe decodes. With another one, the public test set
            was decoded otherwise, so there is no gap.
        meteor: whether to score METEOR; default: as the recipe does.

    Raises:
        KitError: unusable folder, unreadable image, no finished training run.
    """
    is_folder = isinstance(source, str | Path)
    studies = read_private(Path(source), table) if is_folder else list(source)
    system = system or public.system()
    result = PrivateResult(
        title=public.row.title,
        studies=tuple(studies),
        readings=read_studies(system, studies, familiarity=familiarity, method=method),
        familiarity=familiarity,
        synthetic=system.synthetic,
        encoder=system.recipe.encoder,
    )
    notes = []
    if system.synthetic:
        notes.append(
            "The model was trained on synthetic phantom images: what it writes about a real "
            "radiograph means nothing."
        )
    crowded = [study.id for study in studies if len(study.views) > 2]
    if crowded:
        notes.append(
            f"{len(crowded)} studies have more than two images (first: {crowded[0]}): one frontal "
            "and one lateral view of each were read."
        )
    try:
        result.text = prepare_private(system, studies)
    except KitError as error:
        result.notes = (*notes, f"Not scored: {error}.")
        return result
    try:
        public_text = public.text()
    except KitError as error:
        public_text = None
        notes.append(f"Neither baselines nor a gap: the run's own corpus is not at hand ({error}).")
    _score(result, public, public_text, method, meteor)
    missing = len(studies) - len(result.references)
    if missing:
        notes.append(f"{missing} of {len(studies)} studies have no reference and are not scored.")
    result.notes = (*notes, *_size_note(result))
    return result


def _score(
    result: PrivateResult,
    public: RunResult,
    public_text: PreparedText | None,
    method: str | None,
    meteor: bool | None,
) -> None:
    """Fill in scores, public scores and gap."""
    recipe, seed = public.recipe, public.row.seed
    changes: dict = {"external": False, "train_texts": None}
    if meteor is not None:
        changes["meteor"] = meteor
    written = {result.title: result.hypotheses}
    if public_text is not None:
        for name, report in trivial_reports(public, public_text).items():
            written[name] = dict.fromkeys(result.readings, report)
        changes["train_texts"] = public_text.train_texts
    for name, reports in written.items():
        result.scores[name] = evaluate_run(recipe, result.text, reports, seed, **changes)
    if public_text is None or method not in (None, recipe.decoding.method):
        return
    for name, reports in written.items():
        same = (
            public.hypotheses
            if name == result.title
            else dict.fromkeys(public_text.split.test, next(iter(reports.values())))
        )
        result.public[name] = evaluate_run(recipe, public_text, same, seed, **changes)
        result.gap[name] = unpaired_difference(result.scores[name], result.public[name], seed=seed)


def _size_note(result: PrivateResult) -> list[str]:
    """What the number of reports means for the intervals, in one sentence."""
    scores = result.scores[result.title]
    low, high = scores.intervals.get("BLEU-4", (float("nan"), float("nan")))
    if not np.isfinite(low):
        return []
    note = (
        f"{len(scores.studies)} scored studies: the 95 % interval of BLEU-4 is {high - low:.3f} "
        "wide"
    )
    if result.public:
        low, high = result.public[result.title].intervals["BLEU-4"]
        count = len(result.public[result.title].studies)
        note += f", that of the {count} public test studies {high - low:.3f}"
    return [note + "."]


def save_private(result: PrivateResult, folder: Path) -> dict[str, Path]:
    """Write predictions.csv, predictions.json, scores.json (if scored) and gallery.html.

    Each file appears whole or not at all. ``predictions.json`` can be given to ``r2genkit score``
    and ``r2genkit compare``.

    Returns:
        Path by name of the file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    references = result.references
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    limits = result.familiarity
    writer.writerow(["study", "views", "unfamiliar views", "distance", "report", "reference"])
    known = by_id(result.studies)
    for one, reading in result.readings.items():
        far, ratio = "", ""
        if limits is not None and reading.distances is not None:
            far = "+".join(str(view + 1) for view in far_views(limits, reading.distances))
            ratio = f"{np.nanmax(reading.distances / limits.limits):.2f}"
        views = len(views_of(known[one]))
        writer.writerow([one, views, far, ratio, reading.report, references.get(one, "")])
    written = {name: folder / name for name in ("predictions.csv", "predictions.json")}
    write_text(written["predictions.csv"], table.getvalue())
    reports = result.hypotheses
    complete = set(references) == set(reports)
    write_json(
        written["predictions.json"],
        {one: {"hypothesis": text, "reference": references[one]} for one, text in reports.items()}
        if complete
        else reports,
        indent=1,
    )
    if result.scores:
        written["scores.json"] = folder / "scores.json"
        write_json(written["scores.json"], scores_dict(result), indent=1)
    written["gallery.html"] = folder / "gallery.html"
    lines = [*result.notes]
    if limits is not None:
        lines.append(
            f"{len(result.unfamiliar)} of {len(result.readings)} studies are unlike the training "
            f"images; of the {len(limits.held_out['test'])} public test studies "
            f"{100 * limits.false_alarms():.1f} % are (false alarms)."
        )
    tables = {}
    if result.scores:
        tables["Scores"] = result.score_table()
    if result.gap:
        tables["Gap to the public test set"] = result.gap_table(("BLEU-4", "CIDEr", "finding-F1"))
    page = gallery_html(result.cards(), title=result.title, notes=lines, tables=tables)
    write_text(written["gallery.html"], page)
    return written


def scores_dict(result: PrivateResult) -> dict:
    """Scores, trivial reports and gap as plain JSON values."""

    def plain(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    return {
        "system": result.title,
        "studies": len(result.scores[result.title].studies),
        "notes": list(result.notes),
        "unfamiliar": list(result.unfamiliar),
        "private": {name: scores.to_dict() for name, scores in result.scores.items()},
        "public": {
            name: {"studies": len(scores.studies), **_values(scores)}
            for name, scores in result.public.items()
        },
        "gap": {
            name: {
                metric: {"value": plain(d.value), "low": plain(d.low), "high": plain(d.high)}
                for metric, d in differences.items()
            }
            for name, differences in result.gap.items()
        },
    }


def _values(scores: Evaluation) -> dict:
    content = scores.to_dict()
    return {"metrics": content["metrics"], "intervals": content["intervals"]}


# --- another hospital ---------------------------------------------------------------------------


def check_untrained(text: PreparedText, studies: Sequence[Study]) -> None:
    """Stop if a run was trained or selected on any of these studies, or on any of their texts.

    Args:
        text: the run's studies and split.
        studies: of the shifted population, in the original style.

    Raises:
        KitError: a study or its normalised text is in the run's training or validation set.
    """
    section = text.data.section
    used = {*text.split.train, *text.split.validation}
    known = {normalise(text.texts[one]) for one in used}
    for study in studies:
        if study.id in used or normalise(study.text(section)) in known:
            raise KitError(
                f"study {study.id} or its text belongs to what the run was trained on: the run "
                "needs the phantom's grouped split with split_seed 0"
            )


@dataclass
class CauseGaps:
    """Scores of one system on the same studies under several changes.

    Attributes:
        studies: ids.
        scores: by cause; "none" is the control.
        constant: the same for the constant template.
        changes: cause minus "none", paired, by cause and metric.
        constant_changes: the same for the constant template.
        distances: from the training images ``[N, V]`` by cause.
    """

    studies: tuple[str, ...]
    scores: dict[str, Evaluation]
    constant: dict[str, Evaluation]
    changes: dict[str, dict[str, Difference]]
    constant_changes: dict[str, dict[str, Difference]]
    distances: dict[str, np.ndarray]

    def table(self, metrics: Sequence[str] = ("BLEU-4", "finding-F1")) -> pd.DataFrame:
        """One line per cause: values, changes with intervals and verdicts."""
        lines = []
        for cause, scores in self.scores.items():
            line = {"what differs": cause}
            for metric in metrics:
                line[metric] = f"{scores.metrics[metric]:.3f}"
                d = self.changes[cause].get(metric) if cause in self.changes else None
                line[f"change of {metric}"] = (
                    "-"
                    if d is None
                    else f"{d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}] {d.verdict}"
                )
            lines.append(line)
        return pd.DataFrame(lines)


def gap_by_cause(
    public: RunResult,
    *,
    system: TrainedSystem | None = None,
    familiarity: Familiarity | None = None,
    causes: Sequence[str] = CAUSES,
    studies: int = 200,
) -> CauseGaps:
    """Read "another hospital" with one trained run, each change by itself and all together.

    Reports are kept in the run's folder and read from there the next time.

    Args:
        public: a finished training run on the phantom.
        system: its trained system, if it is loaded already.
        familiarity: of that run; None leaves the distances out.
        causes: from ``r2genkit.corpora.phantom_shifted.CAUSES``; "none", the control, comes first
            whether named or not.
        studies: number of studies.

    Raises:
        KitError: the run was not trained on the phantom, or it has seen one of the studies.
    """
    recipe = public.recipe
    if recipe.data.corpus != "phantom":
        raise KitError(f"{public.row.title} was trained on {recipe.data.corpus}, not the phantom")
    causes = ("none", *(cause for cause in causes if cause != "none"))
    system = system or public.system()
    public_text = public.text()
    seed, corpus_seed = public.row.seed, recipe.data.split_seed
    sets = {
        cause: read_phantom_shifted(seed=corpus_seed, cause=cause, studies=studies)
        for cause in causes
    }
    check_untrained(public_text, sets["none"])
    constant = trivial_reports(public, public_text)[CONSTANT_TITLE]
    readings: dict[str, dict[str, Reading]] = {}
    scores, constants = {}, {}
    for cause, members in sets.items():
        # The other style leaves the pixels alone: the reports are those of the control.
        readings[cause] = (
            readings["none"]
            if cause == "style"
            else kept_readings(public, system, familiarity, cause, members)
        )
        text = prepare_private(system, members)
        options = {"external": False, "meteor": False, "train_texts": public_text.train_texts}
        reports = {one: reading.report for one, reading in readings[cause].items()}
        scores[cause] = evaluate_run(recipe, text, reports, seed, **options)
        fixed = dict.fromkeys(reports, constant)
        constants[cause] = evaluate_run(recipe, text, fixed, seed, **options)
    ids = tuple(study.id for study in sets["none"])
    return CauseGaps(
        studies=ids,
        scores=scores,
        constant=constants,
        changes={c: paired_change(scores[c], scores["none"], seed=seed) for c in causes[1:]},
        constant_changes={
            c: paired_change(constants[c], constants["none"], seed=seed) for c in causes[1:]
        },
        distances={}
        if familiarity is None
        else {c: np.stack([readings[c][one].distances for one in ids]) for c in causes},
    )


def kept_readings(
    public: RunResult,
    system: TrainedSystem,
    familiarity: Familiarity | None,
    cause: str,
    studies: Sequence[Study],
) -> dict[str, Reading]:
    """Readings of a shifted set, from the run's folder if its images are still the same ones."""
    images = [view.image.digest() for study in studies for view in study.views]
    digest = hashlib.sha256("\n".join(images).encode()).hexdigest()
    path = public.folder / SHIFTED_FOLDER / f"{cause}-{len(studies)}.json"
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["images"] == digest and (familiarity is None or kept["measured"]):
            return {
                one: Reading(
                    entry["report"],
                    None if entry["distances"] is None else _distances(entry["distances"]),
                )
                for one, entry in kept["readings"].items()
            }
    found = read_studies(system, studies, familiarity=familiarity)
    content: Mapping = {
        "images": digest,
        "measured": familiarity is not None,
        "readings": {
            one: {
                "report": reading.report,
                "distances": None
                if reading.distances is None
                else [None if np.isnan(d) else float(d) for d in reading.distances],
            }
            for one, reading in found.items()
        },
    }
    write_json(path, content)
    return found


def _distances(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values])
