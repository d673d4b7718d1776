"""Rows of further tables (pre-trainings, rates, private sets): read back, complete or left out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from r2genkit.experiments.results import read_lines

Row = TypeVar("Row", bound=BaseModel)


def read_complete(
    path: Path, kind: type[Row], profile: str, *, again: Callable[[dict[str, Any]], str]
) -> list[Row]:
    """All rows of a profile in a file of JSON lines, in the order of the file.

    A row that is not complete, for instance one written by an earlier version of the kit, is left
    out with a warning.

    Args:
        path: may be missing, then there are no rows.
        kind: what a row must be.
        profile: rows of other profiles are left out.
        again: from an incomplete row, what must be done again: "x is trained".

    Raises:
        KitError: a line is not JSON.
    """
    rows = []
    for where, content in read_lines(path) if path.is_file() else ():
        if content.get("profile") != profile:
            continue
        try:
            rows.append(kind.model_validate(content))
        except ValidationError:
            warnings.warn(
                f"{where} is not complete; left out until {again(content)} again", stacklevel=3
            )
    return rows
