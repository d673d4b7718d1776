"""Execute the numbered notebooks with papermill, strictly.

papermill only warns about a parameter that a notebook does not have; here it is an error. The
executed copies go to ``runs/notebooks/<profile>/``; ``in_place`` writes them back to
``notebooks/``, scrubbed of everything that is not content (widget state, timings, paths).
"""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import nbformat
import papermill
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from PIL import Image

from r2genkit.errors import KitError
from r2genkit.files import write_text
from r2genkit.paths import project_root, runs_dir

# These notebooks read what the others wrote.
_LAST = ("11", "12", "14")
_CELL_METADATA = ("papermill", "jupyter", "execution", "ExecuteTime", "collapsed", "scrolled")
_NOTEBOOK_METADATA = ("papermill", "widgets")


@dataclass(frozen=True)
class Execution:
    """One executed notebook: its copy, how long it took, what went wrong ("" = nothing)."""

    notebook: Path
    output: Path
    seconds: float
    error: str = ""


def find_notebooks(only: Iterable[str] = (), *, solutions: bool = False) -> list[Path]:
    """The numbered notebooks in order, or those whose two-digit numbers are named.

    Raises:
        KitError: a number names no notebook, or the checkout holds none.
    """
    folder = project_root() / "notebooks" / ("solutions" if solutions else "")
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise KitError(f"no notebooks in {folder}: run this command inside a clone of the project")
    wanted = [str(number).zfill(2)[:2] for number in only]
    unknown = [number for number in wanted if not any(p.name.startswith(number) for p in found)]
    if unknown:
        have = ", ".join(path.name[:2] for path in found)
        raise KitError(f"no notebook numbered {', '.join(unknown)}: there are {have}")
    return [path for path in found if not wanted or path.name[:2] in wanted]


def accepted_parameters(path: Path) -> set[str]:
    """Names assigned in the cell tagged ``parameters``."""
    return set(papermill.inspect_notebook(str(path)))


def execute(path: Path, output: Path, parameters: dict, *, timeout: int | None = None) -> Execution:
    """Run one notebook in a fresh kernel; the copy is written even when a cell fails.

    Args:
        path: the notebook.
        output: where the executed copy goes.
        parameters: values for its ``parameters`` cell.
        timeout: seconds a single cell may take, None = unlimited.

    Raises:
        KitError: a parameter that the notebook does not have.
    """
    unknown = set(parameters) - accepted_parameters(path)
    if unknown:
        raise KitError(f"{path.name} has no parameter {', '.join(sorted(unknown))}")
    output.parent.mkdir(parents=True, exist_ok=True)
    start, error = time.perf_counter(), ""
    try:
        papermill.execute_notebook(
            str(path),
            str(output),
            parameters=parameters,
            cwd=str(path.parent),
            kernel_name="python3",
            progress_bar=False,
            execution_timeout=timeout,
            # Kernels talk about their transport and their end; what a cell raises still comes here.
            extra_arguments=["--Application.log_level=50"],
        )
    except PapermillExecutionError as failure:
        error = f"cell {failure.exec_count}: {failure.ename}: {failure.evalue}"
    return Execution(path, output, time.perf_counter() - start, error)


def scrub(notebook: NotebookNode) -> NotebookNode:
    """Remove what is not content: widget state, timings, machine paths, injected parameters.

    Args:
        notebook: an executed notebook; changed in place and returned.
    """
    notebook.cells = [
        cell
        for cell in notebook.cells
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    for key in _NOTEBOOK_METADATA:
        notebook.metadata.pop(key, None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:  # text cells carry timings, too
        for key in _CELL_METADATA:
            cell.metadata.pop(key, None)
    root = re.escape(str(project_root()))
    for number, cell in enumerate(
        (cell for cell in notebook.cells if cell.cell_type == "code"), start=1
    ):
        cell.execution_count = number
        kept = []
        for out in cell.outputs:
            # Progress bars and library chatter are no results.
            if out.output_type == "stream" and out.name == "stderr":
                continue
            if "execution_count" in out:
                out.execution_count = number
            if "application/vnd.jupyter.widget-view+json" in out.get("data", {}):
                continue
            kept.append(_without_paths(out, root))
        cell.outputs = kept
    return notebook


def _without_paths(output: NotebookNode, root: str) -> NotebookNode:
    """The checkout's absolute path becomes ``.`` wherever an output's text names it."""
    if output.output_type == "stream":
        output.text = re.sub(root, ".", output.text)
    for kind, value in output.get("data", {}).items():
        if kind.startswith("text/"):
            text = value if isinstance(value, str) else "".join(value)
            output.data[kind] = re.sub(root, ".", text)
    return output


def fewer_colours(image: bytes, least: int = 1 << 16) -> bytes:
    """A PNG with 256 colours, which takes a third of the room; small and transparent ones stay.

    Films with heat over them have many thousand colours. The nearest of 256 chosen ones are off by
    a few of 255 steps, which nobody sees; the files in ``figures/`` keep all colours.

    Args:
        image: a PNG.
        least: bytes from which on it is worth while.
    """
    if len(image) < least:
        return image
    with Image.open(io.BytesIO(image)) as opened:
        if opened.mode == "P" or (
            opened.mode == "RGBA" and opened.getchannel("A").getextrema() != (255, 255)
        ):
            return image
        whole = opened.convert("RGB")
    # Which covers rare colours, the heat's peaks, as well as common ones, the greys of films.
    few = whole.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=2)
    buffer = io.BytesIO()
    few.save(buffer, format="PNG", optimize=True)
    return min(image, buffer.getvalue(), key=len)


def save_in_place(execution: Execution) -> None:
    """Write an executed copy back over its notebook, scrubbed, its images smaller; atomic."""
    notebook = scrub(nbformat.read(execution.output, as_version=4))
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                smaller = fewer_colours(base64.b64decode(png))
                output["data"]["image/png"] = base64.b64encode(smaller).decode("ascii")
    nbformat.validate(notebook)
    content = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    write_text(execution.notebook, content + "\n")


def execute_all(
    notebooks: Sequence[Path],
    parameters: dict,
    *,
    profile: str,
    jobs: int = 1,
    in_place: bool = False,
    report: Callable[[Execution], None] = lambda execution: None,
) -> list[Execution]:
    """Run notebooks, ``jobs`` at a time; those that read what others wrote come last.

    A notebook that has no parameter of some name of ``parameters`` is an error, too: all of them
    take the same ones. Failures do not stop the others; the caller reads ``Execution.error``.
    """
    for path in notebooks:
        missing = set(parameters) - accepted_parameters(path)
        if missing:
            raise KitError(f"{path.name} has no parameter {', '.join(sorted(missing))}")
    folder, home = runs_dir() / "notebooks" / profile, project_root() / "notebooks"

    def output(path: Path) -> Path:
        inside = path.is_relative_to(home)
        return folder / (path.relative_to(home) if inside else path.name)

    done: list[Execution] = []

    def finish(execution: Execution) -> None:
        if in_place and not execution.error:
            save_in_place(execution)
        done.append(execution)
        report(execution)

    first = [path for path in notebooks if not path.name.startswith(_LAST)]
    last = [path for path in notebooks if path.name.startswith(_LAST)]
    for group in (first, last):
        if jobs == 1 or len(group) < 2:
            for path in group:
                finish(execute(path, output(path), parameters))
            continue
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            tasks = [pool.submit(execute, path, output(path), parameters) for path in group]
            for task in as_completed(tasks):
                finish(task.result())
    return sorted(done, key=lambda execution: execution.notebook.name)
