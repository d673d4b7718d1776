"""What becomes of a finding when no retrieved report can mention it any more?

The index is a data base: it can lose reports, and a new finding can come up before a report of it
is there. Here all training studies with a finding are taken out of the index *after* training; the
model stays as it is. If its reports still state the finding, it reads the image (or the tags); if
they no longer do, it has been copying.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from r2genkit.batches import Batch
from r2genkit.decoding import decode_all
from r2genkit.errors import KitError
from r2genkit.experiments.data import PreparedText
from r2genkit.experiments.retrieving import finding_sets
from r2genkit.experiments.trained import TrainedSystem
from r2genkit.metrics.findings import POSITIVE, FindingLabeler
from r2genkit.metrics.uncertainty import percentile_interval, resample_weights
from r2genkit.retrieval import Retriever

FULL, WITHOUT, EMPTY = "full index", "finding taken out", "empty index"
COPIED, WRITTEN = "copied", "written"


def studies_with(text: PreparedText, part: str, finding: str) -> list[str]:
    """Studies of a part whose reference states the finding."""
    column = text.labeler.findings.index(finding)
    return [study_id for study_id in text.part(part) if text.labels[study_id][column]]


def common_findings(text: PreparedText, part: str, count: int, least: int = 10) -> list[str]:
    """The ``count`` findings that most references of a part state, at least ``least`` of them."""
    stated = np.stack([text.labels[study_id] for study_id in text.part(part)]).sum(0)
    order = np.argsort(-stated, kind="stable")[:count]
    return [text.labeler.findings[f] for f in order if stated[f] >= least]


def holders(text: PreparedText, finding: str) -> set[str]:
    """Training studies that have the finding: coded, or stated by their report."""
    train = text.split.train
    coded = finding_sets(text, train)
    stated = studies_with(text, "train", finding)
    return {study_id for study_id in train if finding in coded[study_id]} | set(stated)


def with_reports(
    batches: Iterable[Batch], study_ids: Sequence[str], neighbours: np.ndarray
) -> Iterator[Batch]:
    """The named studies of the minibatches, with other retrieved reports.

    Args:
        batches: minibatches that hold them.
        study_ids: n studies.
        neighbours: ``[n, K, L]``.
    """
    place = {study_id: number for number, study_id in enumerate(study_ids)}
    for batch in batches:
        kept = [row for row, study_id in enumerate(batch.study_ids) if study_id in place]
        if kept:
            some = batch.select(kept)
            rows = [place[study_id] for study_id in some.study_ids]
            some.neighbours = torch.from_numpy(np.ascontiguousarray(neighbours[rows]))
            yield some


def base_shift(
    system: TrainedSystem,
    text: PreparedText,
    loader: Iterable[Batch],
    findings: Sequence[str],
    *,
    part: str = "validation",
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Recall of findings in written and copied reports with and without them in the index.

    Only studies whose reference states the finding are decoded. "empty index": the model is given
    no report at all.

    Args:
        system: trained with retrieval.
        text: studies and references of the same run.
        loader: minibatches of ``part`` in which the model can write (features, tags).
        findings: finding types.
        part: whose studies; the test set is decoded once, by the run itself.
        resamples: of the studies of a finding, for the intervals.
        seed: of the resamples.

    Returns:
        One line per finding, "copied" or "written" (``reports``) and ``index``: studies, recall
        with its 95 % interval (``low``, ``high``), and the difference to the full index with its
        paired interval (``difference``, ``difference low``, ``difference high``).

    Raises:
        KitError: the system retrieves nothing, or no study of the part has a finding.
    """
    retriever = system.retriever
    if retriever is None or not retriever.config.k:
        raise KitError(f"{system.recipe.run} retrieves no reports: name a run with retrieval")
    batches, lines = list(loader), []
    for finding in findings:
        ids = studies_with(text, part, finding)
        if not ids:
            raise KitError(f"no {part} study states {finding}: choose a more common finding")
        shifted = retriever.without(holders(text, finding))
        full = retriever.neighbours(ids)
        given = {FULL: full, WITHOUT: shifted.neighbours(ids), EMPTY: np.zeros_like(full)}
        weights = resample_weights(len(ids), resamples=resamples, seed=seed)

        copied = {
            FULL: _copies(retriever, text, ids),
            WITHOUT: _copies(shifted, text, ids),
        }
        written = {
            index: {
                study_id: hypothesis.text
                for study_id, hypothesis in decode_all(
                    system.model,
                    with_reports(batches, ids, neighbours),
                    system.recipe.decoding,
                    vocabulary=system.vocabulary,
                    seed=seed,
                ).items()
            }
            for index, neighbours in given.items()
        }
        for kind, reports in ((COPIED, copied), (WRITTEN, written)):
            stated = {
                index: states(text.labeler, [own[study_id] for study_id in ids], finding)
                for index, own in reports.items()
            }
            lines += [
                {"finding": finding, "reports": kind, "index": index, "studies": len(ids), **values}
                for index, values in recalls(stated, weights).items()
            ]
    return pd.DataFrame(lines)


def _copies(retriever: Retriever, text: PreparedText, ids: Sequence[str]) -> dict[str, str]:
    found = retriever.found(ids, 1)
    return {i: text.references[names[0]] if names else "" for i, names in zip(ids, found)}


def states(labeler: FindingLabeler, reports: Sequence[str], finding: str) -> np.ndarray:
    """Whether each report states the finding, bool ``[n]``."""
    matrix = labeler.label_matrix(list(reports))
    return matrix[:, labeler.findings.index(finding)] == POSITIVE


def recalls(stated: Mapping[str, np.ndarray], weights: np.ndarray) -> dict[str, dict[str, float]]:
    """Share of studies that state a finding, and its difference to the first entry, by name.

    Args:
        stated: bool ``[n]`` by name, the same n studies.
        weights: resamples ``[R, n]``.
    """
    first = next(iter(stated.values())).astype(float)
    result = {}
    for name, values in stated.items():
        drawn = weights @ values.astype(float) / weights.sum(1)
        moved = values.astype(float) - first
        low, high = percentile_interval(drawn)
        below, above = percentile_interval(weights @ moved / weights.sum(1))
        result[name] = {
            "recall": float(values.mean()),
            "low": low,
            "high": high,
            "difference": float(moved.mean()),
            "difference low": below,
            "difference high": above,
        }
    return result
