"""What the retrieval wall shows of a finished run: neighbours by every order, and reports.

See :mod:`r2genkit.viz.widgets.wall` for the wall itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import torch
from PIL import Image

from r2genkit.batches import Batch
from r2genkit.decoding import decode
from r2genkit.errors import KitError
from r2genkit.experiments.data import PreparedText
from r2genkit.experiments.minibatches import minibatches_of
from r2genkit.experiments.private_set import pixels_of
from r2genkit.experiments.retrieving import (
    Retriever,
    finding_sets,
    patients,
    prepare_retriever,
)
from r2genkit.experiments.runner import RunResult
from r2genkit.experiments.tagging import true_findings
from r2genkit.images import PackedImages
from r2genkit.metrics.findings import POSITIVE
from r2genkit.metrics.findings.scores import f1_from_counts
from r2genkit.metrics.nlg import bleu_counts, bleu_from_counts
from r2genkit.retrieval import ReportIndex, finding_vectors, typical_first
from r2genkit.seeds import numpy_rng
from r2genkit.study import Study
from r2genkit.text.sentences import normalise
from r2genkit.viz.widgets.parts import mark_findings
from r2genkit.viz.widgets.wall import (
    EMPTY,
    Hit,
    Order,
    WallData,
    WallQuery,
    WallReport,
    WallSentence,
    WallStudy,
    report_payload,
)

TRUTH = "truth"
_ORDERS = {
    "image": Order(
        "image",
        "by image",
        "Cosine of the mean patch features of both views, of a frozen encoder, standardised over "
        "the training studies.",
    ),
    "findings": Order(
        "findings",
        "by predicted findings",
        "Cosine between the finding probabilities of the run's classifier and the true findings of "
        "training studies; of equal ones, typical reports come first.",
    ),
    "both": Order(
        "both",
        "by image and predicted findings",
        "The weighted mean of the likeness by image and by predicted findings.",
    ),
    TRUTH: Order(
        TRUTH,
        "by true findings",
        "The upper bound: cosine between the true findings of both, which nobody knows of a new "
        "study; of equal ones, typical reports come first.",
    ),
}
_STRATA = ("no finding", "one finding", "two findings", "three or more findings")
_THUMBNAIL = 104  # pixels a side
_PORTION = 32  # reports written at a time


def stratum_of(findings: int) -> str:
    """Name of the stratum of a study with so many true findings."""
    return _STRATA[min(findings, len(_STRATA) - 1)]


def draw_queries(
    text: PreparedText, count: int, seed: int, part: str = "test"
) -> list[tuple[str, str]]:
    """Studies of a part, drawn in turn from strata by the number of true findings.

    Nobody chooses them: the stream "wall/queries" of the seed does.

    Args:
        text: studies and split.
        count: how many studies; strata take turns, most findings first, and one that has no study
            left is passed over.
        seed: of the draw.
        part: "train", "validation" or "test".

    Returns:
        Study id and stratum of each, fewest findings first.

    Raises:
        KitError: count is below one or the part has fewer studies.
    """
    ids = text.part(part)
    if not 1 <= count <= len(ids):
        raise KitError(f"cannot draw {count} queries from the {len(ids)} studies of part {part}.")
    rng = numpy_rng(seed, "wall/queries")
    found = finding_sets(text, ids)
    waiting: dict[str, list[str]] = {name: [] for name in reversed(_STRATA)}
    for study_id in rng.permutation(sorted(ids)).tolist():
        waiting[stratum_of(len(found[study_id]))].append(study_id)
    drawn: list[tuple[str, str]] = []
    while len(drawn) < count:
        for name, names in waiting.items():
            if names and len(drawn) < count:
                drawn.append((names.pop(0), name))
    return sorted(drawn, key=lambda pair: _STRATA.index(pair[1]))


class NeighbourWriter:
    """Writes reports of studies of one part with any neighbours, as a finished run's model does.

    Args:
        result: a finished run with retrieval.
        part: whose studies are queries.

    Raises:
        KitError: the run retrieves nothing.
    """

    def __init__(self, result: RunResult, part: str = "test") -> None:
        self.result, self.part = result, part
        self.system = result.system()
        retriever = self.system.retriever
        if retriever is None or not retriever.config.k:
            raise KitError(f"{result.recipe.run} retrieves no reports: name a run with retrieval")
        self.retriever: Retriever = retriever
        self.text = result.text()
        self.labeler = self.text.labeler
        self.places = {study: row for row, study in enumerate(retriever.index.study_ids)}
        self._batches: dict[str, Batch] = {}

    @property
    def seats(self) -> int:
        """Neighbours that the model is given."""
        return self.retriever.config.k

    @cached_property
    def training_sentences(self) -> Counter[str]:
        """Number of training reports that hold a sentence, by its normal form."""
        return Counter(
            sentence
            for study in self.text.split.train
            for sentence in _forms(self.text.references[study].split())
        )

    def read(self, study_ids: Sequence[str]) -> None:
        """Make the minibatches of studies ready, as the run decodes them.

        Raises:
            KitError: a study is not of the part.
        """
        wanted = [study for study in study_ids if study not in self._batches]
        if wanted:
            self._batches |= minibatches_of(self.result, self.system, self.part, wanted)

    def own(self, study_id: str) -> tuple[str, ...]:
        """The neighbours that the model is given by itself, one per seat."""
        (found,) = self.retriever.found([study_id])
        return (*found, *[EMPTY] * (self.seats - len(found)))

    @torch.no_grad()
    def write(self, study_id: str, many: Sequence[Sequence[str]]) -> list[str]:
        """Reports of a study, one for each choice of neighbours.

        Args:
            study_id: of the part.
            many: for each report the studies on the seats; ``EMPTY`` leaves a seat empty.

        Raises:
            KitError: an unknown study, one that is not indexed, or a wrong number of seats.
        """
        self.read([study_id])
        tokens = self.retriever.tokens
        given = torch.zeros(len(many), self.seats, tokens.shape[1], dtype=tokens.dtype)
        for row, studies in enumerate(many):
            if len(studies) != self.seats:
                raise KitError(
                    f"{len(studies)} neighbours given and the model has {self.seats} seats: fill "
                    "those left with nobody."
                )
            for seat, study in enumerate(studies):
                if study == EMPTY:
                    continue
                if study not in self.places:
                    raise KitError(
                        f"study {study} is not among the {len(self.places)} indexed training "
                        "studies: choose one from the wall."
                    )
                given[row, seat] = tokens[self.places[study]]
        reports: list[str] = []
        for start in range(0, len(many), _PORTION):
            some = given[start : start + _PORTION]
            batch = self._batches[study_id].repeat(len(some))
            batch.neighbours = some
            written = decode(
                self.system.model,
                batch,
                self.system.recipe.decoding,
                vocabulary=self.system.vocabulary,
                seed=self.result.row.seed,
            )
            reports += [group[0].text for group in written]
        return reports

    def report(self, study_id: str, text: str, pool: Sequence[str]) -> WallReport:
        """A text as the wall shows it, with who of the pool has its sentences word for word."""
        words = tuple(text.split())
        read = {study: self._read_sentences(study) for study in pool}
        sentences = []
        for first, end in _spans(words):
            form = normalise(" ".join(words[first:end]))
            holders = tuple(study for study, held in read.items() if form in held)
            sentences.append(WallSentence(first, end, holders, self.training_sentences[form]))
        f1, bleu = self.scores(text, study_id)
        return WallReport(words, mark_findings(words, self.labeler), f1, bleu, tuple(sentences))

    def _read_sentences(self, study_id: str) -> set[str]:
        """Sentences of a training report, as far as the model reads it."""
        words = self.text.references[study_id].split()
        return set(_forms(words[: self.retriever.config.words]))

    def scores(self, text: str, study_id: str) -> tuple[float | None, float]:
        """Finding-F1 (None where neither text states one) and BLEU-4 against the reference."""
        reference = self.text.references[study_id]
        found, wanted = self.labeler.label_matrix([text, reference]) == POSITIVE
        counts = np.array(
            [(found & wanted).sum(), (found & ~wanted).sum(), (~found & wanted).sum()]
        )
        f1 = float(f1_from_counts(counts))
        bleu = float(bleu_from_counts(bleu_counts(text, reference))[3])
        return None if np.isnan(f1) else f1, min(bleu, 1.0)

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The callback of the widget: write a report with the neighbours that the reader chose.

        Args:
            question: "query", a study id; "given", a study id or null per seat; "pool", the
                studies on the query's walls.

        Returns:
            "report", as the front end draws it.

        Raises:
            KitError: a question that names what there is not.
        """
        try:
            study, given = str(question["query"]), list(question["given"])
            pool = [str(one) for one in question["pool"]]
        except (KeyError, TypeError) as error:
            raise KitError(
                "the question lacks query, given or pool: ask as the wall does."
            ) from error
        unknown = [one for one in pool if one not in self.places]
        if unknown:
            raise KitError(f"study {unknown[0]} on the wall is no indexed training study.")
        seats = [EMPTY if one is None else str(one) for one in given]
        (text,) = self.write(study, [seats])
        return {"report": report_payload(self.report(study, text, pool))}


def _spans(words: Sequence[str]) -> list[tuple[int, int]]:
    """First and one-past-last word of each sentence; full stops end it, and belong to it."""
    spans, first = [], 0
    for place, word in enumerate(words):
        if word == "." or place == len(words) - 1:
            spans.append((first, place + 1))
            first = place + 1
    return spans


def _forms(words: Sequence[str]) -> set[str]:
    """Normal forms of the sentences, without empty ones."""
    return {normalise(" ".join(words[first:end])) for first, end in _spans(words)} - {""}


# --- the wall -------------------------------------------------------------------------------------


def wall_data(
    result: RunResult,
    *,
    count: int = 8,
    tiles: int = 10,
    part: str = "test",
    seed: int | None = None,
    writer: NeighbourWriter | None = None,
) -> WallData:
    """The wall of a finished run with retrieval.

    Written in advance for each query: the reports with every subset of the model's own neighbours
    (up to six seats; with more, with all, none, and each one taken away), and with the first ones
    of every other order.

    Args:
        result: a finished run, such as 09_retrieval.
        count: queries, drawn by :func:`draw_queries`.
        tiles: training studies per query and order, at least as many as the model has seats.
        part: whose studies are queries.
        seed: of the draw; default the run's.
        writer: of the same run and part, if there is one already.

    Raises:
        KitError: the run retrieves nothing, or too few tiles.
    """
    writer = writer or NeighbourWriter(result, part)
    if writer.part != part:
        raise KitError(f"the writer is of part {writer.part}, the wall of {part}: use one part.")
    if tiles < writer.seats:
        raise KitError(f"{tiles} tiles are fewer than the {writer.seats} seats of the model.")
    seed = result.row.seed if seed is None else seed
    text, titles = writer.text, writer.labeler.titles
    drawn = draw_queries(text, count, seed, part)
    ids = [study for study, _ in drawn]
    walls = search_walls(writer, ids, tiles)
    own = writer.retriever.config.by
    findings = finding_sets(text, tuple(text.studies))

    def named(study: str) -> tuple[str, ...]:
        return tuple(titles[one] for one in writer.labeler.findings if one in findings[study])

    writer.read(ids)
    queries, hung = [], {}
    for place, (study, stratum) in enumerate(drawn):
        found = {key: hits[place] for key, hits in walls.items()}
        pool = list(dict.fromkeys(hit.study for hits in found.values() for hit in hits))
        given = writer.own(study)
        many = _in_advance(given, found, writer.seats)
        texts = writer.write(study, many)
        different = list(dict.fromkeys(texts))
        hung |= dict.fromkeys(pool)
        views, names = views_of_study(result, text.studies[study])
        queries.append(
            WallQuery(
                id=study,
                stratum=stratum,
                views=views,
                view_names=names,
                words=tuple(text.references[study].split()),
                marks=mark_findings(text.references[study].split(), writer.labeler),
                findings=named(study),
                predicted=_predicted(writer, study),
                walls=found,
                copies={one: writer.scores(text.references[one], study) for one in pool},
                reports=tuple(writer.report(study, one, pool) for one in different),
                written={seats: different.index(one) for seats, one in zip(many, texts)},
                given=given,
            )
        )
    studies = {
        study: WallStudy(
            id=study,
            views=tuple(map(_small, views_of_study(result, text.studies[study])[0])),
            words=tuple(text.references[study].split()),
            marks=mark_findings(text.references[study].split(), writer.labeler),
            findings=named(study),
        )
        for study in hung
    }
    title = result.recipe.title
    return WallData(
        title="What is like this study, and what becomes of it",
        system=title,
        orders=tuple(_ORDERS[key] for key in walls),
        own=own,
        studies=studies,
        queries=tuple(queries),
        synthetic=text.synthetic,
        notes=(
            f"{count} {part} studies, drawn by seed {seed} in turn from those with none, one, two, "
            "and three or more findings; the wall holds training studies only. "
            f"{title} is given the first {writer.seats} {_ORDERS[own].name}.",
        ),
    )


def search_walls(
    writer: NeighbourWriter, study_ids: Sequence[str], k: int
) -> dict[str, list[tuple[Hit, ...]]]:
    """The k training studies most like each query, by every order that the run allows.

    Args:
        writer: of the run.
        study_ids: n queries.
        k: per query and order.

    Returns:
        By order, "image" first and ``TRUTH`` last, n lists, best first. Findings can be compared
        where the run has a finding classifier.
    """
    result, text, tags = writer.result, writer.text, writer.system.tags
    recipe, own = result.recipe, writer.retriever.config.by
    found = {}
    for by in ("image", "findings", "both"):
        if by == own:
            retriever = writer.retriever  # what the model has read, to the letter
        elif by != "image" and tags is None:
            continue
        else:
            # Queries of this part are sought with the classifier itself, so no fold is needed.
            settings = {**recipe.retrieval, "by": by, "crossfit": 0, "k": 0}
            changed = recipe.model_copy(update={"retrieval": settings})
            retriever = prepare_retriever(changed, text, result.images(), tags, result.row.seed)
        scores, places = retriever.search(study_ids, k)
        found[by] = _hits(retriever.index, scores, places)
    index = truth_index(text, writer.retriever.config.words)
    types = writer.labeler.findings
    queries = torch.from_numpy(true_findings(text, tuple(study_ids), types).astype(np.float32))
    scores, places = index.search(finding_vectors(queries), k, list(study_ids))
    found[TRUTH] = _hits(index, scores, places)
    return found


def truth_index(text: PreparedText, words: int) -> ReportIndex:
    """Training studies by their true findings, of equal ones typical reports first."""
    train, types = text.split.train, text.labeler.findings
    rows = finding_vectors(torch.from_numpy(true_findings(text, train, types).astype(np.float32)))
    order = typical_first([text.references[study] for study in train], rows)
    return ReportIndex(
        [train[place] for place in order],
        rows[order],
        train=train,
        texts={study: text.texts[study] for study in train},
        patients=patients(text),
    )


def _hits(index: ReportIndex, scores: torch.Tensor, places: torch.Tensor) -> list[tuple[Hit, ...]]:
    return [
        tuple(Hit(index.study_ids[place], score) for score, place in zip(some, row) if place >= 0)
        for some, row in zip(scores.tolist(), places.tolist())
    ]


def _in_advance(
    given: tuple[str, ...], walls: Mapping[str, Sequence[Hit]], seats: int
) -> list[tuple[str, ...]]:
    """Choices of neighbours whose reports are written for the page; each once."""
    if seats <= 6:
        chosen = list(product(*((study, EMPTY) for study in given)))
    else:
        chosen = [given, (EMPTY,) * seats]
        chosen += [
            tuple(EMPTY if place == gone else study for place, study in enumerate(given))
            for gone in range(seats)
        ]
    for hits in walls.values():
        first = [hit.study for hit in hits[:seats]]
        chosen.append((*first, *[EMPTY] * (seats - len(first))))
    return list(dict.fromkeys(chosen))


def _predicted(writer: NeighbourWriter, study_id: str) -> tuple[str, ...]:
    """Findings that the run's classifier calls, as its decoder is told."""
    tags, config = writer.system.tags, writer.system.recipe.tags
    if tags is None:
        return ()
    (probabilities,) = tags.of([study_id])
    return tuple(
        writer.labeler.titles[kind]
        for kind, value in zip(tags.types, probabilities)
        if value >= config.called_at
    )


def views_of_study(
    result: RunResult, study: Study
) -> tuple[tuple[np.ndarray, ...], tuple[str, ...]]:
    """The views of a study that the model sees, uint8 ``[H, W]`` each, and their names."""
    images = result.images().images
    if isinstance(images, PackedImages):
        seen = images.pixels(images.row(study.id))
        pixels = [np.array(view) for view in seen if view is not None]
    else:
        pixels = pixels_of(study, result.recipe.encoder)
    kinds = [view.projection for view in study.views if view.image is not None]
    return tuple(pixels), tuple(
        kind if kind != "unknown" else f"view {number}"
        for number, kind in enumerate(kinds[: len(pixels)], 1)
    )


def _small(view: np.ndarray) -> np.ndarray:
    if max(view.shape) <= _THUMBNAIL:
        return view
    return np.asarray(Image.fromarray(view).resize((_THUMBNAIL,) * 2, Image.Resampling.BOX))
