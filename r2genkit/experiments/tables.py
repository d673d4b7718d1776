"""Tables of result rows, in Markdown, CSV and LaTeX, beside the published numbers.

One table holds one corpus under one protocol and one profile: synthetic and real images never
share one. Published numbers stand below a rule of their own, with their protocol and source,
since no published row was measured on the phantom.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from r2genkit.corpora.splits import PARTS
from r2genkit.errors import KitError
from r2genkit.experiments.results import Difference, ResultRow, Score
from r2genkit.files import write_text
from r2genkit.metrics import ALL_METRICS, CLINICAL_METRICS, METRICS
from r2genkit.paths import published_csv, results_dir

SUBSETS = ("normal", "abnormal", "seen", "unseen")


def number(value: float | None, digits: int = 3) -> str:
    """``.123`` style, as the field prints it."""
    if value is None or np.isnan(value):
        return "-"
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def _score(score: Score) -> str:
    if score.value is None or np.isnan(score.value):
        return "not run"
    if score.half_width is None:
        return number(score.value)
    return f"{number(score.value)} ± {number(score.half_width)}"


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return "-"
    low, high = number(difference.low), number(difference.high)
    return f"{number(difference.value)} [{low}, {high}] {difference.verdict}"


def _one_table(rows: Sequence[ResultRow]) -> None:
    kinds = {(row.corpus, row.protocol, row.section, row.references, row.profile) for row in rows}
    if len(kinds) > 1:
        listed = "; ".join(" / ".join(kind) for kind in sorted(kinds))
        raise KitError(f"these rows cannot share a table (corpus / protocol / ...): {listed}")


def by_run(rows: Sequence[ResultRow]) -> list[tuple[str, list[ResultRow]]]:
    """Rows of each run, by seed.

    A mean over seeds is one over the same recipe, split and source code: rows that differ in one
    of them from the run's newest row are left out, with a warning.
    """
    groups: dict[str, list[ResultRow]] = {}
    for row in sorted(rows, key=lambda row: (row.order, row.run, row.seed)):
        groups.setdefault(row.run, []).append(row)
    for run, group in groups.items():
        groups[run] = same_source(run, group, _source, lambda row: row.measured.date)
    return list(groups.items())


Row = TypeVar("Row")


def same_source(
    name: str, group: Sequence[Row], source: Callable[[Row], tuple], date: Callable[[Row], str]
) -> list[Row]:
    """The rows of one system that were made as its newest row was; warns of the others.

    Args:
        name: of the system, for the warning.
        group: rows with a ``seed``.
        source: what must be equal.
        date: when a row was made, as sortable text.
    """
    newest = max(group, key=date)
    same = [row for row in group if source(row) == source(newest)]
    if len(same) < len(group):
        seeds = ", ".join(str(row.seed) for row in group if row not in same)
        warnings.warn(
            f"{name}: seed {seeds} was run with another recipe or source code than seed "
            f"{newest.seed}; left out until it is run again",
            stacklevel=4,
        )
    return same


def _source(row: ResultRow) -> tuple[str, str, str]:
    return row.recipe_hash, row.code_hash, row.split_fingerprint


def cell(scores: Sequence[Score]) -> str:
    """Value ± half-width of the study interval; several seeds: means of both, and the SD."""
    if len(scores) == 1:
        return _score(scores[0])
    values = [score.value for score in scores]
    if any(value is None for value in values):
        return "not run"
    widths = [score.half_width for score in scores]
    text = number(float(np.mean(values)))
    if None not in widths:
        text += f" ± {number(float(np.mean(widths)))}"
    return f"{text} (SD {number(float(np.std(values, ddof=1)))})"


def results_table(rows: Sequence[ResultRow], metrics: Sequence[str] = ALL_METRICS) -> pd.DataFrame:
    """One line per run, baselines first; the values are text, ready to print.

    Columns: system, seeds, the metrics with the half-width of their 95 % interval over studies
    (several seeds: means of both, and the standard deviation over seeds), distinct reports %,
    reports verbatim in training %, finding-F1 of the reports of swapped studies, and the paired
    difference of finding-F1 to the constant with its verdict (first seed).

    Raises:
        KitError: rows of different corpora, protocols, sections, references or profiles.
    """
    _one_table(rows)
    lines = []
    for _, group in by_run(rows):
        first = group[0]
        swapped = [row.swap["finding-F1"] for row in group if row.swap]
        versus = (first.constant_difference or {}).get("finding-F1")
        lines.append(
            {
                "system": first.title,
                "seeds": len(group),
                **{metric: cell([row.metrics[metric] for row in group]) for metric in metrics},
                "distinct %": f"{np.mean([row.distinct_percent for row in group]):.1f}",
                "in train %": f"{np.mean([row.verbatim_in_train_percent for row in group]):.1f}",
                "finding-F1, images swapped": cell(swapped) if swapped else "-",
                "finding-F1 minus constant": _difference(versus),
            }
        )
    return pd.DataFrame(lines)


def subset_table(rows: Sequence[ResultRow], metrics: Sequence[str] = ALL_METRICS) -> pd.DataFrame:
    """One line per run and subset: normal and abnormal, seen and unseen studies.

    A study is normal by its code, else by its reference text; its text is seen when it stands
    verbatim in training. Columns: system, seeds, subset, studies, then as in ``results_table``.

    Raises:
        KitError: rows of different corpora, protocols, sections, references or profiles.
    """
    _one_table(rows)
    lines = []
    for _, group in by_run(rows):
        for subset in SUBSETS:
            if not all(subset in row.subsets for row in group):
                continue
            parts = [row.subsets[subset] for row in group]
            lines.append(
                {
                    "system": group[0].title,
                    "seeds": len(group),
                    "subset": subset,
                    "studies": parts[0].studies,
                    **{
                        metric: cell([part.metrics[metric] for part in parts]) for metric in metrics
                    },
                }
            )
    return pd.DataFrame(lines)


def constant_table(rows: Sequence[ResultRow], metrics: Sequence[str] = ALL_METRICS) -> pd.DataFrame:
    """One line per run: its difference to the constant in every metric, with verdict.

    Paired differences with their 95 % interval over test studies, first seed of each run; the
    constant itself has no line.

    Raises:
        KitError: rows of different corpora, protocols, sections, references or profiles.
    """
    _one_table(rows)
    lines = []
    for _, group in by_run(rows):
        differences = group[0].constant_difference
        if differences is not None:
            shown = {metric: _difference(differences.get(metric)) for metric in metrics}
            lines.append({"system": group[0].title, **shown})
    return pd.DataFrame(lines)


RATES = {
    "hallucination": "stated findings that the reference lacks",
    "omission": "findings of the reference that are not stated",
    "negation flip": "denied findings that are stated",
    "abnormal sensitivity": "abnormal studies reported abnormal",
    "abnormal specificity": "normal studies reported normal",
}
"""Rates of the clinical table with their meaning."""


def clinical_table(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """One line per run: further clinical scores, then rates.

    Scores against codes, attribute agreement, and metrics of other projects ("not run" where they
    are not installed: :func:`not_run` says why); several seeds are averaged as in
    ``results_table``, rates plainly.

    Raises:
        KitError: rows of different corpora, protocols, sections, references or profiles.
    """
    _one_table(rows)
    lines = []
    for _, group in by_run(rows):
        line = {"system": group[0].title, "seeds": len(group)}
        line |= {
            name: cell([row.clinical[name] for row in group])
            for name in CLINICAL_METRICS
            if all(name in row.clinical for row in group)
        }
        for rate in RATES:
            values = [row.extra.get(rate, np.nan) for row in group]
            line[rate] = number(float(np.mean(values)))
        lines.append(line)
    return pd.DataFrame(lines)


def not_run(rows: Sequence[ResultRow]) -> list[str]:
    """One sentence per score that some row lacks: which, and why."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        for name, score in {**row.metrics, **row.clinical}.items():
            if score.value is None and name not in reasons.setdefault(score.reason, []):
                reasons[score.reason].append(name)
    return [f"Not run: {', '.join(names)}: {reason}" for reason, names in reasons.items()]


def provenance_table(rows: Sequence[ResultRow]) -> pd.DataFrame:
    """One line per row: what was run on what, for how long, and the command that repeats it."""
    return pd.DataFrame(
        {
            "run": row.run,
            "seed": row.seed,
            "corpus": row.corpus,
            "protocol": row.protocol,
            "studies": "/".join(str(row.studies[part]) for part in PARTS),
            "selected on": row.selected_on,
            "epoch": "-" if row.best_epoch is None else row.best_epoch,
            "parameters": f"{row.parameters:,}",
            "train s": f"{row.measured.train_seconds:.0f}",
            "total s": f"{row.measured.total_seconds:.0f}",
            "peak MB": f"{row.measured.peak_memory_mb:.0f}",
            "device": row.measured.device,
            "recipe": row.recipe_hash,
            "split": row.split_fingerprint[:12],
            "command": row.command,
        }
        for row in rows
    )


def read_published(path: Path | None = None) -> pd.DataFrame:
    """Numbers from the literature (``data/published.csv``); metric columns are floats or NaN."""
    path = path or published_csv()
    if not path.is_file():
        raise KitError(f"the published numbers are missing: {path.name} is not in {path.parent}")
    return pd.read_csv(path)


def published_table(protocol: str | None = None, path: Path | None = None) -> pd.DataFrame:
    """Published rows as text, optionally of one protocol, with subset and source."""
    table = read_published(path)
    if protocol is not None:
        table = table[table["protocol"] == protocol]
    shown = table.copy()
    for metric in METRICS:
        shown[metric] = [number(value) if pd.notna(value) else "-" for value in table[metric]]
    return shown.reset_index(drop=True)


def caption(rows: Sequence[ResultRow]) -> str:
    """One sentence that says what was run on what."""
    _one_table(rows)
    row = rows[0]
    images = "synthetic phantom radiographs, real report text" if row.synthetic else "real images"
    counts = ", ".join(f"{row.studies[part]} {part}" for part in PARTS)
    return (
        f"Corpus {row.corpus} ({images}); protocol {row.protocol}; target {row.section}; "
        f"{row.references} references; profile {row.profile}; studies: {counts}. "
        "± is half the 95 % bootstrap interval over test studies; with several seeds, value and ± "
        "are means over them and SD is their standard deviation."
    )


def write_table(
    table: pd.DataFrame, name: str, *, text: str = "", folder: Path | None = None
) -> None:
    """Write ``name.md``, ``name.csv`` and ``name.tex``; each file is replaced atomically.

    Args:
        table: values as printed.
        name: file name without ending.
        text: caption, put above the Markdown table and into the LaTeX caption.
        folder: default ``data/results/tables``.
    """
    folder = folder or results_dir() / "tables"
    above = f"{text}\n\n" if text else ""
    latex = table.map(_latex).rename(columns=_latex)
    body = latex.to_latex(
        index=False, escape=False, caption=_latex(text) if text else None, label=f"tab:{name}"
    )
    contents = {
        "md": above + table.to_markdown(index=False, disable_numparse=True) + "\n",
        "csv": table.to_csv(index=False),
        "tex": body,
    }
    for ending, content in contents.items():
        write_text(folder / f"{name}.{ending}", content)


_LATEX = {"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "±": r"$\pm$", "$": r"\$"}


def _latex(value: object) -> str:
    return "".join(_LATEX.get(character, character) for character in str(value))


def group_rows(rows: Sequence[ResultRow]) -> dict[str, list[ResultRow]]:
    """Rows that may share a table, keyed by the table's name."""
    groups: dict[str, list[ResultRow]] = {}
    for row in rows:
        section = row.section.replace("+", "_")
        name = f"{row.corpus}_{row.protocol}_{section}_{row.references}"
        # Lab rows are the committed ones; any other budget says so in the name.
        name += "" if row.profile == "lab" else f"_{row.profile}"
        groups.setdefault(name, []).append(row)
    return groups


def write_all_tables(rows: Sequence[ResultRow], folder: Path | None = None) -> list[str]:
    """All tables of each corpus, protocol, section and references.

    ``NAME`` holds the results, ``NAME_subsets`` the scores by normality and by seen text,
    ``NAME_constant`` the differences to the constant, ``NAME_clinical`` further clinical scores,
    ``NAME_provenance`` what was run and how.

    Returns:
        The names of the tables written.
    """
    names = []
    for name, group in group_rows(rows).items():
        about = caption(group)
        tables = {
            name: (results_table(group), about),
            f"{name}_subsets": (subset_table(group), about),
            f"{name}_constant": (constant_table(group), about),
            f"{name}_clinical": (clinical_table(group), " ".join([about, *not_run(group)])),
            f"{name}_provenance": (provenance_table(group), ""),
        }
        for key, (table, text) in tables.items():
            if len(table):
                write_table(table, key, text=text, folder=folder)
                names.append(key)
    return names


README_BEGIN, README_END = "<!-- results: begin -->", "<!-- results: end -->"


def readme_block(rows: Sequence[ResultRow]) -> str:
    """The results section of README.md: caption and main columns of one table."""
    table = results_table(rows, metrics=("BLEU-1", "BLEU-4", "METEOR", "CIDEr", "finding-F1"))
    columns = [name for name in table if name not in ("seeds", "finding-F1 minus constant")]
    return f"{caption(rows)}\n\n{table[columns].to_markdown(index=False, disable_numparse=True)}\n"


def update_readme(path: Path, rows: Sequence[ResultRow]) -> None:
    """Replace what stands between the two marks in README.md; atomic.

    Raises:
        KitError: the file lacks the marks.
    """
    text = path.read_text(encoding="utf-8")
    if README_BEGIN not in text or README_END not in text:
        raise KitError(f"{path.name} has no place for results: add {README_BEGIN} and {README_END}")
    head, rest = text.split(README_BEGIN, 1)
    tail = rest.split(README_END, 1)[1]
    write_text(path, f"{head}{README_BEGIN}\n{readme_block(rows)}{README_END}{tail}")
