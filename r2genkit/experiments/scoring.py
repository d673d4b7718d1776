"""Score predictions of any origin: two JSON files in, the kit's whole table out."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from r2genkit.errors import KitError
from r2genkit.metrics import Evaluation, evaluate_reports
from r2genkit.text.cleaning import clean_report


def read_reports(path: Path) -> dict[str, str]:
    """Reports by study id from JSON: ``{id: text}`` or ``[{"id": ..., "report": ...}, ...]``.

    Raises:
        KitError: missing file, no JSON, another shape, an id twice.
    """
    if not path.is_file():
        raise KitError(f"{path} does not exist: give a JSON file of {{study id: report}}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise KitError(f"{path.name} is not JSON ({error}): write {{study id: report}}") from error
    if isinstance(content, list):
        pairs = []
        for number, entry in enumerate(content, start=1):
            if not isinstance(entry, dict) or "id" not in entry or "report" not in entry:
                raise KitError(f'{path.name}, entry {number}: needs the keys "id" and "report"')
            pairs.append((str(entry["id"]), entry["report"]))
        content = dict(pairs)
        if len(content) < len(pairs):
            ids = [study_id for study_id, _ in pairs]
            twice = next(study_id for study_id in ids if ids.count(study_id) > 1)
            raise KitError(f"{path.name}: study {twice} stands there twice: keep one report of it")
    if not isinstance(content, dict) or not content:
        raise KitError(f"{path.name} holds no reports: write {{study id: report}}")
    for study_id, text in content.items():
        if not isinstance(text, str):
            kind = type(text).__name__
            raise KitError(f"{path.name}: the report of study {study_id} is a {kind}, not text")
    return content


def score_files(
    predictions: Path, references: Path, *, compat: str = "default", bootstrap: int = 1000
) -> Evaluation:
    """Score a predictions file against a references file on the studies they share by id.

    Args:
        predictions, references: see ``read_reports``.
        compat: text rule applied to both sides; "none" takes them as already tokenised.
        bootstrap: resamples of the studies for the intervals.

    Raises:
        KitError: unreadable files, or study ids that differ.
    """
    sides = []
    for path in (predictions, references):
        reports = read_reports(path)
        if compat != "none":
            reports = {key: clean_report(text, compat) for key, text in reports.items()}
        sides.append(reports)
    return evaluate_reports(sides[0], sides[1], bootstrap=bootstrap)


def evaluation_table(evaluation: Evaluation) -> pd.DataFrame:
    """Metric, value and interval as text, one line each; diversity below."""
    lines = []
    for name, value in evaluation.metrics.items():
        low, high = evaluation.intervals.get(name, (None, None))
        if value is None or value != value:
            shown, interval = "not run", evaluation.reasons.get(name, "")
        else:
            shown = f"{value:.4f}"
            interval = "" if low is None else f"[{low:.4f}, {high:.4f}]"
        lines.append({"metric": name, "value": shown, "95 % interval": interval})
    for name, value in evaluation.diversity.items():
        lines.append({"metric": name, "value": f"{value:.2f}", "95 % interval": ""})
    return pd.DataFrame(lines)
