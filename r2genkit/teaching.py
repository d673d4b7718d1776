"""What notebooks share: the stamp under the imports, figures on disk, checks for exercises."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from r2genkit.corpora import CORPORA
from r2genkit.corpora.splits import Split
from r2genkit.experiments.environment import device_name, versions
from r2genkit.files import replacing
from r2genkit.paths import figures_dir


def environment_stamp(profile: str, corpus: str, seed: int, split: Split | None = None) -> None:
    """Print what the numbers below were made with: versions, device, profile, split, seed."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = "SYNTHETIC phantom images" if CORPORA[corpus].synthetic else "real images"
    print(" | ".join(f"{name} {number}" for name, number in versions().items()))
    print(f"device: {device_name(device)} | profile: {profile} | seed: {seed}")
    print(f"corpus: {corpus} ({images}, real report text)")
    if split is not None:
        parts = " / ".join(str(len(ids)) for ids in (split.train, split.validation, split.test))
        print(f"split: {split.name}, {parts} studies, fingerprint {split.fingerprint[:16]}")


def save_figure(figure: Figure, name: str, profile: str, *, dpi: int = 110) -> Path:
    """Write ``figures/<name>.png`` (smoke figures go to the runs folder); atomic.

    Args:
        figure: what to save.
        name: "NN_what", NN being the number of the notebook.
        profile: budget of the run that drew it.
        dpi: dots per inch; fewer for a large figure with many radiographs.
    """
    path = figures_dir(profile) / f"{name}.png"
    # No date or version in the file: the same figure is the same bytes.
    options = {"format": "png", "dpi": dpi, "bbox_inches": "tight", "metadata": {"Software": None}}
    with replacing(path) as temporary:
        figure.savefig(temporary, **options)
    return path


def check_shape(value: Any, shape: Sequence[int]) -> None:
    """Stop a notebook where a tensor has another shape than the text says."""
    found = tuple(value.shape)
    assert found == tuple(shape), f"expected shape {tuple(shape)}, got {found}"


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor | np.ndarray):
        shape = f"{type(value).__name__} of shape {tuple(value.shape)}"
        numbers = np.asarray(value)
        if numbers.size > 8:
            return shape
        return f"{shape}: {np.array2string(numbers, precision=4, separator=', ')}"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _equal(got: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(expected, torch.Tensor | np.ndarray):
        got, expected = np.asarray(got, dtype=float), np.asarray(expected, dtype=float)
        return got.shape == expected.shape and np.allclose(got, expected, atol=tolerance)
    if isinstance(expected, float):
        return isinstance(got, int | float) and abs(got - expected) <= tolerance
    return type(got) is type(expected) and got == expected


def check_exercise(
    attempt: Callable,
    answer: Callable,
    inputs: Sequence[tuple],
    *,
    tolerance: float = 1e-6,
) -> bool:
    """Compare an exercise's function with the answer key on several inputs and print the outcome.

    Never raises, so that a batch run with unsolved exercises goes through.

    Args:
        attempt: the student's function.
        answer: the package's function (the answer key).
        inputs: argument tuples to try.
        tolerance: largest absolute difference of numbers.

    Returns:
        Whether every input gave the expected value.
    """
    name = getattr(attempt, "__name__", "exercise")
    for arguments in inputs:
        expected = answer(*arguments)
        try:
            got = attempt(*arguments)
        except Exception as error:  # a student's code may fail in any way
            print(f"✗ {name}: raised {type(error).__name__}: {error}")
            return False
        if not _equal(got, expected, tolerance):
            shown = ", ".join(_describe(argument) for argument in arguments)
            print(f"✗ {name}({shown}): expected {_describe(expected)}, got {_describe(got)}")
            return False
    print(f"✓ {name}: all {len(inputs)} checks passed")
    return True
