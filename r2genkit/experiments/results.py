"""Result rows: complete or refused, one JSON line each, the only source of every table.

A row is keyed by (run, corpus, protocol, profile, seed); a new row replaces the old one of the
same key. Rows of synthetic and of real images live in different files (one file per corpus).
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from r2genkit.errors import KitError
from r2genkit.files import write_text
from r2genkit.metrics import ALL_METRICS
from r2genkit.paths import results_dir

KEY = ("run", "corpus", "protocol", "profile", "seed")
_ORDER = ("profile", "protocol", "order", "run", "seed")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Score(_Strict):
    """A metric with its 95 % bootstrap interval; ``value=None`` only with a reason."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""

    @model_validator(mode="after")
    def _explained(self) -> Score:
        if (self.value is None or math.isnan(self.value)) and not self.reason:
            raise ValueError("a missing value needs a reason")
        return self

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


class Difference(_Strict):
    """Paired difference to another set of hypotheses on the same studies."""

    value: float
    low: float
    high: float
    verdict: Literal["above", "below", "not distinguishable"]


class Subset(_Strict):
    """Scores on the normal, abnormal, seen or unseen test studies alone."""

    studies: int = Field(ge=1)
    metrics: dict[str, Score]


class FindingCounts(_Strict):
    """One finding type over the test studies, by the labels of the texts.

    Attributes:
        support: studies whose reference states it.
        predicted: studies whose generated report states it.
        hit: studies where both do.
    """

    support: int = Field(ge=0)
    predicted: int = Field(ge=0)
    hit: int = Field(ge=0)


class Measured(_Strict):
    """What depends on the machine and the moment, not on the recipe."""

    train_seconds: float
    total_seconds: float
    peak_memory_mb: float
    device: str
    versions: dict[str, str]
    git_revision: str
    date: str


class ResultRow(_Strict):
    """Everything a reader needs to trust, repeat or refuse a number."""

    run: str
    title: str
    about: str
    order: int
    kind: Literal["baseline", "oracle", "model"]
    corpus: str
    synthetic: bool
    protocol: str
    section: str
    references: Literal["full", "truncated"]
    profile: Literal["smoke", "lab", "paper"]
    seed: int
    recipe_hash: str = Field(pattern=r"^[0-9a-f]{16}$")
    code_hash: str = Field(pattern=r"^[0-9a-f]{16}$")
    split_fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    studies: dict[Literal["train", "validation", "test"], int]
    selected_on: str
    best_epoch: int | None
    metrics: dict[str, Score]
    clinical: dict[str, Score]
    subsets: dict[Literal["normal", "abnormal", "seen", "unseen"], Subset]
    findings: dict[str, FindingCounts]
    distinct_percent: float = Field(ge=0, le=100)
    verbatim_in_train_percent: float = Field(ge=0, le=100)
    extra: dict[str, float] = Field(default_factory=dict)
    swap: dict[str, Score] | None = None
    swap_difference: dict[str, Difference] | None = None
    constant_difference: dict[str, Difference] | None = None
    parameters: int = Field(ge=0)
    trainable_parameters: int = Field(ge=0)
    signature: str
    notes: tuple[str, ...] = ()
    command: str
    measured: Measured

    @model_validator(mode="after")
    def _complete(self) -> ResultRow:
        missing = [name for name in ALL_METRICS if name not in self.metrics]
        if missing:
            raise ValueError(f"metrics missing: {', '.join(missing)}")
        return self

    @property
    def key(self) -> tuple:
        """Rows with equal keys replace one another."""
        return tuple(getattr(self, name) for name in KEY)

    def numbers(self) -> dict:
        """The row without what depends on machine and moment: equal for equal seed and CPU."""
        return self.model_dump(mode="json", exclude={"measured", "command"})


def make_row(content: dict, where: str = "result row") -> ResultRow:
    """Validate a row.

    Raises:
        KitError: a key is missing, unknown or out of range; names the first one.
    """
    try:
        return ResultRow.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "row"
        raise KitError(f"{where} refused: {key}: {first['msg'].lower()}") from error


def _file(row: ResultRow) -> Path:
    return results_dir(row.profile) / f"{row.corpus}.jsonl"


def read_lines(path: Path) -> list[tuple[str, dict]]:
    """Every line as (where it stands, content), not yet validated."""
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            content = json.loads(line)
        except json.JSONDecodeError as error:
            raise KitError(
                f"{where} is not JSON: delete the line and run its recipe again"
            ) from error
        lines.append((where, content))
    return lines


def read_rows(
    profile: str = "lab",
    *,
    corpus: str | None = None,
    runs: Iterable[str] | None = None,
    folder: Path | None = None,
) -> list[ResultRow]:
    """All rows of a profile, baselines first; optionally of one corpus or some runs.

    A row that is not complete, for instance one written by an earlier version of the kit, is left
    out with a warning that names it: running its recipe again replaces it.

    Raises:
        KitError: a line is not JSON.
    """
    folder = folder or results_dir(profile)
    wanted = None if runs is None else set(runs)
    rows = []
    for path in sorted(folder.glob("*.jsonl")):
        for where, content in read_lines(path):
            name = content.get("run")
            if (
                content.get("profile") != profile
                or (corpus is not None and content.get("corpus") != corpus)
                or (wanted is not None and name not in wanted)
            ):
                continue
            try:
                rows.append(make_row(content, where))
            except KitError as error:
                warnings.warn(f"{error}; left out until {name} is run again", stacklevel=2)
    return sorted(rows, key=lambda row: (row.corpus, row.protocol, row.order, row.run, row.seed))


def write_row(row: ResultRow) -> Path:
    """Add a row to its file, replacing the one with the same key; atomic, safe across processes."""
    path = _file(row)
    replace_line(path, row.model_dump(mode="json"), key=KEY, order=_ORDER)
    return path


def replace_line(path: Path, new: dict, *, key: Sequence[str], order: Sequence[str]) -> None:
    """Put one JSON line into a file in place of the one with equal ``key`` fields, sorted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(path) + ".lock"):
        old = [content for _, content in read_lines(path)] if path.is_file() else []
        kept = [content for content in old if _values(content, key) != _values(new, key)]
        ordered = sorted([*kept, new], key=lambda content: _values(content, order))
        write_text(path, "".join(json.dumps(line, sort_keys=True) + "\n" for line in ordered))


def _values(content: dict, names: Sequence[str]) -> list[str]:
    # Numbers are padded: as text they sort like numbers, and any line can be placed.
    return [
        f"{value:08d}" if isinstance(value, int) else str(value)
        for value in map(content.get, names)
    ]
