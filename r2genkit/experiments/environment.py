"""What a number was made with: versions, code, device, memory."""

from __future__ import annotations

import ast
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
from r2genkit.errors import KitError
from r2genkit.paths import PACKAGE, project_root

_DECIDING_PACKAGES = ("torch", "torchvision", "numpy", "accelerate", "pycocoevalcap")
# Modules that draw, name or only drive others and so cannot change a number ...
_NOT_DECIDING = ("viz/", "cli.py", "models/registry.py")
# ... and those that decide numbers of the runs that ask for them and of no others.
_ON_REQUEST = (
    "experiments/pretraining.py",
    "experiments/retrieving.py",
    "retrieval.py",
    "training/scst.py",
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


def _file(module: str) -> Path | None:
    """Source file of a module of the kit; None where there is no such module."""
    base = PACKAGE.parent.joinpath(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


@cache
def _imports(path: Path) -> frozenset[Path]:
    """Files of the kit that a file imports, anywhere in it, but not for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                names.add(whole if _file(whole) else node.module)
    own = PACKAGE.name
    found = (_file(name) for name in names if name == own or name.startswith(f"{own}."))
    return frozenset(path for path in found if path is not None)


@cache
def deciding_files(*modules: str) -> tuple[Path, ...]:
    """Source files that decide what these modules compute: they, and all that they import.

    Args:
        modules: dotted names, "r2genkit.models.cmn".

    Raises:
        KitError: no such module.
    """
    files: set[Path] = set()
    waiting: list[Path] = []
    for module in modules:
        path = _file(module)
        if path is None:
            raise KitError(f"{module} is no module of this kit: correct the name")
        waiting.append(path)
    asked = set(waiting)
    while waiting:
        path = waiting.pop()
        name = path.relative_to(PACKAGE).as_posix()
        left_out = name.startswith(_NOT_DECIDING) or (name in _ON_REQUEST and path not in asked)
        if path not in files and not left_out:
            files.add(path)
            waiting.extend(_imports(path))
    return tuple(sorted(files))


@cache
def code_hash(*modules: str) -> str:
    """Sixteen hexadecimal digits over the source that decides what these modules compute.

    A finished run is reused only while this hash stands, so changed code never passes off old
    numbers as its own; code that the run does not need leaves it valid. Tables of the package
    (labels, axes of codes) belong to every hash.
    """
    tables = (
        path
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc", ".yaml"}
    )
    digest = hashlib.sha256()
    for path in [*deciding_files(*modules), *sorted(tables)]:
        name = path.relative_to(PACKAGE).as_posix()
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
