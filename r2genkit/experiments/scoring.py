"""Score and compare predictions of any origin: JSON files in, the kit's whole table out."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from r2genkit.errors import KitError
from r2genkit.experiments.runner import read_run
from r2genkit.experiments.verdict import evaluate_run
from r2genkit.metrics import Evaluation, evaluate_reports
from r2genkit.metrics.baselines import ConstantTemplate
from r2genkit.metrics.uncertainty import SAME
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


def read_predictions(path: Path) -> tuple[dict[str, str], dict[str, str] | None]:
    """Reports by study id, with their references where the file holds them.

    Args:
        path: a JSON file as ``read_reports`` takes, or the ``predictions.json`` of a finished run
            (``{id: {"hypothesis": ..., "reference": ...}}``).

    Raises:
        KitError: see ``read_reports``.
    """
    if path.is_file():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError):
            content = None  # read_reports says what is wrong
        pair = {"hypothesis", "reference"}
        entries = list(content.values()) if isinstance(content, dict) else []
        if entries and all(isinstance(entry, dict) and set(entry) == pair for entry in entries):
            return (
                {key: entry["hypothesis"] for key, entry in content.items()},
                {key: entry["reference"] for key, entry in content.items()},
            )
    return read_reports(path), None


def score_files(
    predictions: Path,
    references: Path | None = None,
    *,
    train: Path | None = None,
    compat: str = "default",
    bootstrap: int = 1000,
) -> Evaluation:
    """Score a predictions file against a references file on the studies they share by id.

    Args:
        predictions: see ``read_predictions``.
        references: see ``read_reports``; may be left out where the predictions hold them.
        train: training reports; adds seen and unseen studies, memorised reports, and the
            difference to the constant that is found on them.
        compat: text rule applied to every file; "none" takes them as already tokenised.
        bootstrap: resamples of the studies for the intervals.

    Raises:
        KitError: unreadable files, no references, or study ids that differ.
    """
    hypotheses, wanted = read_predictions(predictions)
    if references is not None:
        wanted = read_reports(references)
    if wanted is None:
        raise KitError(
            f"{predictions.name} holds no references: give the file with the reference reports, too"
        )
    known = None if train is None else list(_clean(read_reports(train), compat).values())
    hypotheses, wanted = _clean(hypotheses, compat), _clean(wanted, compat)
    constant = None
    if known is not None:
        by_number = {str(number): text for number, text in enumerate(known)}
        constant = ConstantTemplate().fit(by_number, {}).text
    return evaluate_reports(
        hypotheses, wanted, train_texts=known, constant=constant, bootstrap=bootstrap
    )


def _clean(reports: dict[str, str], compat: str) -> dict[str, str]:
    if compat == "none":
        return reports
    return {key: clean_report(text, compat) for key, text in reports.items()}


def compare_predictions(
    first: Path,
    second: Path,
    references: Path | None = None,
    *,
    compat: str = "default",
    bootstrap: int = 1000,
) -> tuple[Evaluation, Evaluation]:
    """Two systems on the same studies, scored by the same rules and ready to be compared.

    Args:
        first, second: the folder of a finished run, or a file as ``read_predictions`` takes.
            Where one is a run, its recipe's text rules and references hold for the other, too.
        references: needed only where neither is a run nor holds references.
        compat, bootstrap: as in ``score_files``; the text rule is for files, not for runs.

    Raises:
        KitError: unreadable files, no references, or study ids that differ.
    """
    runs = [read_run(path) if path.is_dir() else None for path in (first, second)]
    leader = next((run for run in runs if run is not None), None)
    if leader is not None and references is None:
        text = leader.text()
        sides = []
        for path, run in zip((first, second), runs):
            reports = run.hypotheses if run else _clean(read_predictions(path)[0], compat)
            if missing := sorted(set(text.split.test) - set(reports)):
                raise KitError(
                    f"{path.name} has no report for study {missing[0]} "
                    f"({len(missing)} missing): compare systems on the same studies"
                )
            sides.append(evaluate_run(leader.recipe, text, reports, leader.row.seed))
        return sides[0], sides[1]
    files = [path / "predictions.json" if path.is_dir() else path for path in (first, second)]
    held = [read_predictions(path)[1] for path in files]
    wanted = read_reports(references) if references else next((h for h in held if h), None)
    if wanted is None:
        raise KitError("neither file holds references: give the file with the reference reports")
    wanted = _clean(wanted, compat)
    sides = [
        evaluate_reports(_clean(read_predictions(path)[0], compat), wanted, bootstrap=bootstrap)
        for path in files
    ]
    return sides[0], sides[1]


def comparison_table(first: Evaluation, second: Evaluation, names: tuple[str, str]) -> pd.DataFrame:
    """Metric, both values, first minus second with its paired interval, verdict."""
    return pd.DataFrame(
        {
            "metric": name,
            names[0]: _number(first.metrics[name]),
            names[1]: _number(second.metrics[name]),
            "difference": _signed(difference.value),
            "95 % interval": f"[{_signed(difference.low)}, {_signed(difference.high)}]",
            "verdict": difference.verdict
            if difference.verdict == SAME
            else f"{names[0]} is {difference.verdict}",
        }
        for name, difference in first.compare(second).items()
        if difference.value == difference.value
    )


def evaluation_table(evaluation: Evaluation) -> pd.DataFrame:
    """One line per metric: value, interval, the same on subsets, difference to the constant."""
    lines = []
    for name, value in evaluation.metrics.items():
        missing = value is None or value != value
        low, high = evaluation.intervals.get(name, (None, None))
        line = {
            "metric": name,
            "value": "not run" if missing else _number(value),
            "95 % interval": evaluation.reasons.get(name, "") if missing else _interval(low, high),
        }
        for subset, content in evaluation.subsets.items():
            line[f"{subset} ({content['studies']})"] = _number(content["metrics"].get(name))
        if evaluation.versus_constant:
            difference = evaluation.versus_constant.get(name)
            known = difference is not None and difference.value == difference.value
            line["minus constant"] = (
                f"{_signed(difference.value)} [{_signed(difference.low)}, "
                f"{_signed(difference.high)}] {difference.verdict}"
                if known
                else "-"
            )
        lines.append(line)
    return pd.DataFrame(lines)


def rates_table(evaluation: Evaluation) -> pd.DataFrame:
    """Rates and shares that have no interval: diversity, negation flip, hallucination, ..."""
    named = {**evaluation.extra, **evaluation.diversity}
    return pd.DataFrame(
        {"measure": name, "value": f"{value:.2f}" if abs(value) > 1 else _number(value)}
        for name, value in named.items()
    )


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.4f}"


def _signed(value: float) -> str:
    return "-" if value != value else f"{value:+.4f}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or low != low else f"[{low:.4f}, {high:.4f}]"
