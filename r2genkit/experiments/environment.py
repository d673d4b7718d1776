"""What a number was made with: versions, code, device, memory."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from r2genkit import __version__
from r2genkit.paths import PACKAGE, project_root

_DECIDING_PACKAGES = ("torch", "torchvision", "numpy", "accelerate", "pycocoevalcap")
# Parts that draw, list, drive or look into finished models but cannot change a number.
_NOT_DECIDING = (
    "viz/",
    "cli.py",
    "experiments/tables.py",
    "experiments/notebooks.py",
    "experiments/many.py",
    "experiments/reproduce.py",
    "experiments/slots.py",
)


def versions() -> dict[str, str]:
    """Versions of Python, the kit and the packages that decide numbers."""
    found = {"python": platform.python_version(), "r2genkit": __version__}
    for name in _DECIDING_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


@cache
def code_hash() -> str:
    """Sixteen hexadecimal digits over the source that decides numbers.

    A finished run is reused only while this hash stands, so changed code never passes off old
    numbers as its own.
    """
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*")):
        name = path.relative_to(PACKAGE).as_posix()
        if path.suffix not in {".py", ".tsv"} and "findings/" not in name:
            continue
        if path.is_dir() or "__pycache__" in name or name.startswith(_NOT_DECIDING):
            continue
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@cache
def git_revision() -> str:
    """Short commit id, "+" appended when the checkout has local changes; "unknown" without git."""
    command = ["git", "-C", str(project_root()), "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return answer.stdout.strip() or "unknown"


def device_name(device: torch.device | str = "cpu") -> str:
    """Human-readable device: GPU model, or processor with its core count."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return f"{model}, {os.cpu_count()} cores"


@contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Torch threads while a recipe runs; a fixed number makes sums come out alike everywhere."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class PeakMemory:
    """Peak resident memory in MB while the block runs; on CUDA the allocator's peak is added.

    The process-wide high-water mark would carry over from one run to the next in a notebook,
    therefore the resident size is sampled.
    """

    def __init__(self, interval: float = 0.05) -> None:
        self._interval = interval
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._peak = 0

    def __enter__(self) -> PeakMemory:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(self._interval):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self._peak = max(self._peak, self._process.memory_info().rss)

    @property
    def megabytes(self) -> float:
        """Peak so far, rounded to 0.1 MB."""
        peak = self._peak
        if torch.cuda.is_available():
            peak += torch.cuda.max_memory_allocated()
        return round(peak / 2**20, 1)
