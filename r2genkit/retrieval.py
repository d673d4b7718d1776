"""Retrieval: the reports of the training studies that are most like a study.

A study becomes a vector, the training studies are the rows of an index, and likeness is the inner
product. Three queries:

* ``image``: mean patch feature of each view from a frozen encoder, standardised over the training
  studies, views side by side, length 1: the cosine that :class:`~r2genkit.metrics.baselines.
  NearestImage` takes. An absent view is the mean of that view (zero), not a black image.
* ``findings``: what the decoder is told of the findings, and the probability that there is none,
  at length 1. Index rows are the **true** findings of the training studies, which may be known:
  a report is wanted that states what the classifier sees, whatever the classifier would have said
  of the report's own images. Many rows are equal; then the more typical text comes first.
* ``both``: side by side, so that the likeness is a weighted mean of the two.

What a training study finds while a model learns must be as good as what a test study finds later,
or the model learns to trust its neighbours too much. Two things make it better and are kept out:
its own report (itself, another study of its patient, a study with the same text: each is left out)
and the classifier's memory of it (training studies are sought with out-of-fold tags).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor

from r2genkit.batches import Batch
from r2genkit.encoders.networks import Encoder, build_encoder
from r2genkit.errors import KitError
from r2genkit.files import replacing, write_json
from r2genkit.text.sentences import normalise

QUERIES_AT_A_TIME, ROWS_AT_A_TIME = 256, 2**16
_ENCODER_FILE = "encoder.safetensors"


class RetrievalConfig(BaseModel):
    """What a run retrieves (``retrieval:`` of a recipe); an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    k: int = Field(5, ge=0)
    """K, reports per study; 0 = none, the model without retrieval."""
    by: Literal["image", "findings", "both"] = "image"
    """What is compared; findings need a recipe with tags."""
    image_weight: float = Field(0.3, gt=0.0, lt=1.0)
    """Of ``both``: share of the image in the likeness."""
    words: int = Field(60, ge=1)
    """Words of a retrieved report that the model reads; the rest is cut."""
    crossfit: int = Field(3, ge=0)
    """Folds of the finding classifier with which training studies are sought; 0 = by the
    classifier that was trained on them."""
    leak: Literal["nothing", "same_text", "itself"] = "nothing"
    """What a training study may find of its own report, to show what that does: studies with the
    same text, or even the study itself."""
    backend: Literal["torch", "faiss"] = "torch"
    """Both search exactly; faiss has to be installed."""


# --- search ---------------------------------------------------------------------------------------


def _best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, largest first; of equal ones the first columns.

    ``torch.topk`` takes any of equal numbers; which ones must not depend on the device.
    """
    values, columns = scores.topk(k, 1)
    open_ended = (scores >= values[:, -1:]).sum(1) > k  # a tie at the border
    if open_ended.any():
        rows = open_ended.nonzero().squeeze(1)
        order = scores[rows].sort(dim=1, descending=True, stable=True)
        values[rows], columns[rows] = order.values[:, :k], order.indices[:, :k]
    # Equal scores inside the k: by column.
    columns, by_column = columns.sort(1)
    values, by_score = values.gather(1, by_column).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, by_score)


def _clash(query_groups: Tensor, row_groups: Tensor) -> Tensor:
    """``[Q, N]`` True where query and row share a group; negative numbers are no group."""
    clash = torch.zeros(
        len(query_groups), len(row_groups), dtype=torch.bool, device=row_groups.device
    )
    for own, others in zip(query_groups.unbind(1), row_groups.unbind(1)):
        clash |= (own[:, None] == others) & (own[:, None] >= 0)
    return clash


def search_rows(
    queries: Tensor,
    rows: Tensor,
    k: int,
    *,
    query_groups: Tensor | None = None,
    row_groups: Tensor | None = None,
    backend: Literal["torch", "faiss"] = "torch",
    queries_at_a_time: int = QUERIES_AT_A_TIME,
    rows_at_a_time: int = ROWS_AT_A_TIME,
) -> tuple[Tensor, Tensor]:
    """The k rows with the largest inner product with each query: exact, on the rows' device.

    Neither all scores ``[Q, N]`` nor a sorted list of them is ever held.

    Args:
        queries: ``[Q, E]``; rows: ``[N, E]``.
        k: rows per query.
        query_groups: ``[Q, G]`` int64; row_groups: ``[N, G]``. A row that shares one of its G
            groups with the query is not returned; negative numbers are no group.
        backend: "faiss" does the same with ``faiss.IndexFlatIP``, on the CPU.
        queries_at_a_time, rows_at_a_time: size of a portion of scores.

    Returns:
        Scores ``[Q, k]``, largest first, and row numbers ``[Q, k]`` int64; of equal scores the
        first rows (faiss: any). Where fewer than k rows may be returned, row -1 and score -inf.

    Raises:
        KitError: shapes do not fit, k is negative, or faiss is wanted and not installed.
    """
    if queries.dim() != 2 or rows.dim() != 2 or queries.shape[1] != rows.shape[1]:
        raise KitError(
            f"queries {list(queries.shape)} and index rows {list(rows.shape)} do not fit: both "
            "need one vector of the same length a line."
        )
    if k < 0 or (query_groups is None) != (row_groups is None):
        raise KitError("a search needs k >= 0, and groups of queries and rows both or neither.")
    queries = queries.to(rows.device, rows.dtype)
    if query_groups is not None:
        query_groups, row_groups = (g.to(rows.device) for g in (query_groups, row_groups))
    found = min(k, len(rows))
    scores = torch.full((len(queries), k), -torch.inf, device=rows.device, dtype=rows.dtype)
    numbers = torch.full((len(queries), k), -1, device=rows.device, dtype=torch.int64)
    if not found or not len(queries):
        return scores, numbers
    if backend == "faiss":
        values, columns = _faiss(queries, rows, found, query_groups, row_groups)
        scores[:, :found], numbers[:, :found] = values, columns
        return scores, numbers
    for start in range(0, len(queries), queries_at_a_time):
        some = slice(start, start + queries_at_a_time)
        best: tuple[Tensor, Tensor] | None = None
        for first in range(0, len(rows), rows_at_a_time):
            part = slice(first, first + rows_at_a_time)
            likeness = queries[some] @ rows[part].T
            if query_groups is not None:
                likeness.masked_fill_(_clash(query_groups[some], row_groups[part]), -torch.inf)
            values, columns = _best(likeness, min(k, likeness.shape[1]))
            columns = columns + first
            if best is not None:  # earlier rows stand first, so ties still go to them
                values, columns = (torch.cat(pair, 1) for pair in zip(best, (values, columns)))
                values, order = _best(values, min(k, values.shape[1]))
                columns = columns.gather(1, order)
            best = values, columns
        scores[some, :found], numbers[some, :found] = best[0][:, :found], best[1][:, :found]
    return scores, numbers.masked_fill(scores == -torch.inf, -1)


def _faiss(
    queries: Tensor, rows: Tensor, k: int, query_groups: Tensor | None, row_groups: Tensor | None
) -> tuple[Tensor, Tensor]:
    try:
        import faiss
    except ImportError as error:
        raise KitError(
            "retrieval.backend is faiss, which is not installed: install faiss-cpu, or leave the "
            "exact search to torch."
        ) from error
    clash = None if query_groups is None else _clash(query_groups, row_groups)
    # faiss knows no forbidden rows: ask for as many more as any query has, and leave them out.
    more = 0 if clash is None else int(clash.sum(1).max())
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(np.ascontiguousarray(rows.cpu().float().numpy()))
    asked = np.ascontiguousarray(queries.cpu().float().numpy())
    values, columns = map(torch.as_tensor, index.search(asked, min(k + more, len(rows))))
    values, columns = values.to(rows.device, rows.dtype), columns.to(rows.device, torch.int64)
    if clash is not None:
        values = values.masked_fill(clash.gather(1, columns), -torch.inf)
        values, order = values.sort(dim=1, descending=True, stable=True)
        columns = columns.gather(1, order)
    return values[:, :k], columns[:, :k].masked_fill(values[:, :k] == -torch.inf, -1)


# --- vectors --------------------------------------------------------------------------------------


def unit_length(x: Tensor) -> Tensor:
    """Rows of ``x [..., E]`` divided by their length; a zero row stays zero."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12)


@dataclasses.dataclass(frozen=True)
class ImageScale:
    """Mean and deviation of the pooled patch features of each view over the training studies.

    Attributes:
        mean, deviation: ``[V, D]``.
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def fit(cls, pooled: Tensor, view_mask: Tensor) -> Self:
        """From training studies: ``[N, V, D]`` and ``[N, V]`` bool."""
        kept = view_mask.unsqueeze(-1).float()
        count = kept.sum(0).clamp_min(1)
        mean = (pooled * kept).sum(0) / count
        deviation = (((pooled - mean) * kept).square().sum(0) / count).sqrt()
        return cls(mean, torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))

    def vectors(self, pooled: Tensor, view_mask: Tensor) -> Tensor:
        """``[N, V, D]`` and ``[N, V]`` -> ``[N, V * D]`` of length 1."""
        mean, deviation = self.mean.to(pooled.device), self.deviation.to(pooled.device)
        scaled = (pooled - mean) / deviation * view_mask.unsqueeze(-1)
        return unit_length(scaled.flatten(1))


def finding_vectors(probabilities: Tensor) -> Tensor:
    """Findings ``[N, F]`` in [0, 1] -> ``[N, F + 1]`` of length 1.

    The last number is the probability that there is none (as if findings were independent):
    without it a normal study would have no direction, and nothing would be like it.
    """
    none = (1 - probabilities).prod(-1, keepdim=True)
    return unit_length(torch.cat([probabilities, none], -1))


def query_vectors(
    config: RetrievalConfig, image: Tensor | None = None, findings: Tensor | None = None
) -> Tensor:
    """What is compared ``[N, E]``, from vectors of length 1.

    ``both`` puts ``sqrt(w)`` times the image and ``sqrt(1 - w)`` times the findings side by side:
    the inner product is ``w`` times one cosine plus ``1 - w`` times the other.

    Raises:
        KitError: a part that ``config.by`` needs is missing.
    """
    needed = {"image": [image], "findings": [findings], "both": [image, findings]}[config.by]
    if any(part is None for part in needed):
        raise KitError(
            f"retrieval by {config.by} lacks "
            f"{'patch features' if image is None and config.by != 'findings' else 'tags'}: "
            "give the minibatch what the index was built from."
        )
    if config.by != "both":
        return needed[0]
    weight = config.image_weight
    return torch.cat([image * weight**0.5, findings * (1 - weight) ** 0.5], -1)


# --- the index ------------------------------------------------------------------------------------


def _numbers(names: Sequence[object]) -> Tensor:
    """Equal names get equal numbers ``[N]``; None gets -1."""
    known: dict[object, int] = {}
    return torch.tensor([-1 if n is None else known.setdefault(n, len(known)) for n in names])


class ReportIndex:
    """The vectors of training studies, and who must not find whom.

    Args:
        study_ids: N training studies.
        rows: their vectors ``[N, E]``.
        train: ids of the training set.
        texts: target text by id, at least of the N studies.
        patients: patient by study id, where the corpus has one, of any studies. A study never
            finds another one of its patient.

    Raises:
        KitError: a study outside of the training set, one without text, twice the same, or another
            number of rows.
    """

    def __init__(
        self,
        study_ids: Sequence[str],
        rows: Tensor,
        *,
        train: Collection[str],
        texts: Mapping[str, str],
        patients: Mapping[str, str] | None = None,
    ) -> None:
        self.study_ids, self.patients = tuple(study_ids), dict(patients or {})
        allowed = frozenset(train)
        strangers = [study for study in self.study_ids if study not in allowed]
        if strangers:
            raise KitError(
                f"{len(strangers)} of {len(self.study_ids)} studies of the index are not of the "
                f"training set (first: {strangers[0]}); index training studies only."
            )
        if rows.dim() != 2 or len(rows) != len(self.study_ids):
            raise KitError(
                f"an index of {len(self.study_ids)} studies needs one vector each, not "
                f"{list(rows.shape)}."
            )
        if len(set(self.study_ids)) < len(self.study_ids):
            raise KitError("a study stands twice in the index; give every training study once.")
        absent = [study for study in self.study_ids if study not in texts]
        if absent:
            raise KitError(f"study {absent[0]} of the index has no report; give its text.")
        self.rows = rows
        self.texts = {study: texts[study] for study in self.study_ids}
        self._own = {study: number for number, study in enumerate(self.study_ids)}
        self._text = _numbers([normalise(self.texts[study]) for study in self.study_ids])
        self._patient_numbers = {p: n for n, p in enumerate(sorted(set(self.patients.values())))}

    def __len__(self) -> int:
        return len(self.study_ids)

    def groups(self, study_ids: Sequence[str], leak: str = "nothing") -> Tensor:
        """Groups ``[n, 3]`` int64 of any studies: themselves, their patient, their text.

        A text group has only a study of the index: that a test report stands word for word among
        the training reports is a property of the split, not a leak.
        """
        own = torch.tensor([self._own.get(study, -1) for study in study_ids], dtype=torch.int64)
        patient = [
            self._patient_numbers.get(self.patients.get(study, ""), -1) for study in study_ids
        ]
        text = [int(self._text[n]) if n >= 0 else -1 for n in own.tolist()]
        groups = torch.stack([own, torch.tensor(patient), torch.tensor(text)], 1).long()
        if leak == "itself":
            groups[:] = -1
        elif leak == "same_text":
            groups[:, 2] = -1
        return groups

    def search(
        self,
        queries: Tensor,
        k: int,
        study_ids: Sequence[str],
        *,
        leak: Literal["nothing", "same_text", "itself"] = "nothing",
        backend: Literal["torch", "faiss"] = "torch",
    ) -> tuple[Tensor, Tensor]:
        """The K training studies most like each query.

        Never the study itself, nor another one of its patient, nor, for a study of the index, one
        with the same text (equal after :func:`~r2genkit.text.sentences.normalise`).

        Args:
            queries: ``[Q, E]``.
            k: K.
            study_ids: whose queries they are; an id that is not in the index is a new study.
            leak: what a training study may find after all; for demonstrations.
            backend: see :func:`search_rows`.

        Returns:
            Scores ``[Q, K]`` and positions in ``study_ids`` of the index ``[Q, K]``; -inf and -1
            where too few are left.
        """
        return search_rows(
            queries,
            self.rows,
            k,
            query_groups=self.groups(study_ids, leak),
            row_groups=self.groups(self.study_ids),
            backend=backend,
        )

    def without(self, study_ids: Collection[str]) -> ReportIndex:
        """The index without some studies."""
        gone = frozenset(study_ids)
        keep = [number for number, study in enumerate(self.study_ids) if study not in gone]
        left = [self.study_ids[number] for number in keep]
        return ReportIndex(
            left, self.rows[keep], train=left, texts=self.texts, patients=self.patients
        )


def typical_first(texts: Sequence[str], rows: Tensor) -> list[int]:
    """An order of N studies in which, of those with equal ``rows``, typical texts come first.

    Typical is the cosine of words and word pairs (tf-idf) to the mean of the texts with the same
    row, as in :class:`~r2genkit.metrics.baselines.FindingOracle`; then the order given.
    """
    vectoriser = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), sublinear_tf=True)
    vectors = vectoriser.fit_transform(texts)
    _, group = np.unique(rows.numpy(), axis=0, return_inverse=True)
    typical = np.zeros(len(texts))
    for number in np.unique(group):
        members = np.flatnonzero(group == number)
        typical[members] = vectors[members] @ np.asarray(vectors[members].mean(axis=0)).ravel()
    return np.argsort(-typical.round(9), kind="stable").tolist()


# --- retriever ------------------------------------------------------------------------------------


class Retriever:
    """Index, queries and token ids: what a run needs to put reports beside a minibatch.

    Args:
        config: see there.
        index: of training studies.
        tokens: ``[N, L]`` int64 token ids of the index' reports, begin mark first, padded with 0.
        study_ids: M studies whose queries are known (all of the split).
        queries: their vectors ``[M, E]``; those of training studies from out-of-fold tags.
        scale: of pooled patch features; None if images are not compared.
        encoder: where the model's own encoder is trained, the frozen one that retrieval compares
            images with.
        figures: numbers for the result row.

    Raises:
        KitError: shapes do not fit.
    """

    def __init__(
        self,
        config: RetrievalConfig,
        index: ReportIndex,
        tokens: Tensor,
        study_ids: Sequence[str],
        queries: Tensor,
        *,
        scale: ImageScale | None = None,
        encoder: Encoder | None = None,
        figures: Mapping[str, float] | None = None,
    ) -> None:
        if len(tokens) != len(index) or len(queries) != len(study_ids):
            raise KitError(
                f"{len(tokens)} reports for {len(index)} studies of the index, {len(queries)} "
                f"queries for {len(study_ids)} studies: give one each."
            )
        self.config, self.index, self.tokens = config, index, tokens
        self.study_ids, self.queries = tuple(study_ids), queries
        self.scale, self.encoder = scale, encoder
        self._figures = dict(figures or {})
        self._place = {study: number for number, study in enumerate(self.study_ids)}

    # --- studies of the split -----------------------------------------------------------------

    def _queries_of(self, study_ids: Sequence[str]) -> Tensor:
        absent = [study for study in study_ids if study not in self._place]
        if absent:
            raise KitError(
                f"study {absent[0]} was not there when the index was built: give its minibatch to "
                "of_batch."
            )
        return self.queries[[self._place[study] for study in study_ids]]

    def search(self, study_ids: Sequence[str], k: int | None = None) -> tuple[Tensor, Tensor]:
        """Scores and positions in ``index.study_ids`` ``[n, K]`` for studies of the split.

        Raises:
            KitError: a study is not of the split.
        """
        study_ids = list(study_ids)
        return self.index.search(
            self._queries_of(study_ids),
            self.config.k if k is None else k,
            study_ids,
            leak=self.config.leak,
            backend=self.config.backend,
        )

    def found(self, study_ids: Sequence[str], k: int | None = None) -> list[list[str]]:
        """Ids of the K training studies most like each study, best first."""
        _, places = self.search(study_ids, k)
        names = self.index.study_ids
        return [[names[place] for place in row if place >= 0] for row in places.tolist()]

    def neighbours(self, study_ids: Sequence[str]) -> np.ndarray:
        """Token ids of their reports, int64 ``[n, K, L]``; zeros where there is none."""
        _, places = self.search(study_ids)
        return self._reports(places).numpy()

    def _reports(self, places: Tensor) -> Tensor:
        places = places.cpu()
        return self.tokens[places.clamp_min(0)] * (places >= 0).unsqueeze(-1)

    # --- new studies --------------------------------------------------------------------------

    def vectors_of(self, batch: Batch) -> Tensor:
        """Queries ``[B, E]`` of a minibatch that holds what the index was built from.

        Raises:
            KitError: patch features, images or tags are missing.
        """
        image = findings = None
        if self.config.by != "findings":
            features = batch.features
            if self.encoder is not None and batch.images is not None:
                self.encoder.to(batch.images.device)
                features = self.encoder.encode_views(batch.images, batch.view_mask)
            if features is not None:
                image = self.scale.vectors(features.mean(2), batch.view_mask)
        if self.config.by != "image" and batch.tags is not None:
            findings = finding_vectors(batch.tags)
        return query_vectors(self.config, image, findings)

    @torch.no_grad()
    def of_batch(self, batch: Batch) -> Tensor:
        """Token ids ``[B, K, L]`` for new studies, from patch features and tags of the minibatch.

        Studies of the training set belong to :meth:`neighbours`: the minibatch may hold their true
        findings, which no new study has.

        Raises:
            KitError: patch features, images or tags are missing.
        """
        _, places = self.index.search(
            self.vectors_of(batch),
            self.config.k,
            batch.study_ids,
            leak=self.config.leak,
            backend=self.config.backend,
        )
        return self._reports(places).to(batch.view_mask.device)

    # --- variants, figures, disk --------------------------------------------------------------

    def without(self, study_ids: Collection[str]) -> Retriever:
        """The same with fewer reports in the index: what is retrieved when the data base shifts."""
        gone = frozenset(study_ids)
        keep = [n for n, study in enumerate(self.index.study_ids) if study not in gone]
        return Retriever(
            self.config,
            self.index.without(gone),
            self.tokens[keep],
            self.study_ids,
            self.queries,
            scale=self.scale,
            encoder=self.encoder,
        )

    def with_figures(self, figures: Mapping[str, float]) -> Self:
        """The same with other numbers for the result row."""
        self._figures = dict(figures)
        return self

    def figures(self) -> dict[str, float]:
        """Numbers for the result row."""
        return dict(self._figures)

    def save(self, folder: Path) -> None:
        """Write ``retrieval.safetensors`` and ``retrieval.json`` (and the frozen encoder)."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"rows": self.index.rows, "tokens": self.tokens, "queries": self.queries}
        if self.scale is not None:
            tensors |= {"mean": self.scale.mean, "deviation": self.scale.deviation}
        with replacing(folder / "retrieval.safetensors") as temporary:
            safetensors.torch.save_file(
                {name: value.cpu().contiguous() for name, value in tensors.items()}, temporary
            )
        if self.encoder is not None:
            self.encoder.save(folder / _ENCODER_FILE)
        record = {
            "config": self.config.model_dump(mode="json"),
            "study_ids": self.study_ids,
            "index": self.index.study_ids,
            "texts": [self.index.texts[study] for study in self.index.study_ids],
            "patients": self.index.patients,
            "figures": self._figures,
            "encoder": None if self.encoder is None else self.encoder.name,
        }
        write_json(folder / "retrieval.json", record, indent=1)

    @classmethod
    def load(cls, folder: Path) -> Retriever:
        """Read what :meth:`save` wrote.

        Raises:
            KitError: files absent or damaged.
        """
        folder = Path(folder)
        try:
            record = json.loads((folder / "retrieval.json").read_text(encoding="utf-8"))
            tensors = safetensors.torch.load_file(folder / "retrieval.safetensors")
            names = record["index"]
            index = ReportIndex(
                names,
                tensors["rows"],
                train=names,
                texts=dict(zip(names, record["texts"], strict=True)),
                patients=record["patients"],
            )
            scale = ImageScale(tensors["mean"], tensors["deviation"]) if "mean" in tensors else None
            encoder = None
            if record["encoder"] is not None:
                encoder = build_encoder(record["encoder"], weights=folder / _ENCODER_FILE).eval()
            return cls(
                RetrievalConfig.model_validate(record["config"]),
                index,
                tensors["tokens"],
                record["study_ids"],
                tensors["queries"],
                scale=scale,
                encoder=encoder,
                figures=record["figures"],
            )
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise KitError(
                f"folder {folder} holds no retrieval index ({error}); train the run again."
            ) from error


# --- how good are neighbours? ---------------------------------------------------------------------


def overlap(
    found: Iterable[Sequence[str]],
    findings: Mapping[str, Collection[str]],
    studies: Sequence[str],
) -> dict[str, float]:
    """Agreement of what neighbours show with what the studies show.

    Args:
        found: neighbours of each study.
        findings: finding types by study id, of studies and neighbours.
        studies: ids of the studies, in the order of ``found``.

    Returns:
        Four numbers by name. Over all pairs of study and neighbour: "precision" (of the findings
        of the neighbours, share that the study has), "recall" (of the findings of the studies,
        share that a neighbour has) and "F1"; over studies: "any" (of the findings of the studies,
        share that at least one of the K neighbours has). 0 where there is nothing to divide by.
    """
    hits = shown = wanted = covered = once = 0
    for study, names in zip(studies, found, strict=True):
        own, union = set(findings[study]), set()
        for name in names:
            theirs = set(findings[name])
            hits += len(own & theirs)
            shown, wanted, union = shown + len(theirs), wanted + len(own), union | theirs
        covered, once = covered + len(own & union), once + len(own)
    return {
        "precision": hits / shown if shown else 0.0,
        "recall": hits / wanted if wanted else 0.0,
        "F1": 2 * hits / (shown + wanted) if shown + wanted else 0.0,
        "any": covered / once if once else 0.0,
    }
