"""JSON files that several corpora read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from r2genkit.errors import KitError


def load_json(path: Path, what: str) -> Any:
    """Parsed JSON file.

    Raises:
        KitError: the file is missing or is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KitError(f"{path}: no such file; it should be {what}.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise KitError(
            f"{path}: not a readable JSON file ({error}); it should be {what}."
        ) from error


def read_id_list(path: Path) -> list[str]:
    """Study ids of train_split.json or test_split.json.

    Raises:
        KitError: missing or broken file, not an array of strings, a repeated id.
    """
    ids = load_json(path, "an array of study ids, as in the 2018 kit")
    if not isinstance(ids, list) or not all(isinstance(one, str) for one in ids):
        raise KitError(f"{path}: expected an array of study ids (strings).")
    if len(set(ids)) < len(ids):
        repeated = next(one for one in ids if ids.count(one) > 1)
        raise KitError(f"{path}: study {repeated} occurs twice.")
    return ids
