"""Every notebook keeps the form that readers and the runner rely on (read, not executed)."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks/solutions").glob("*.ipynb"))
PARAMETERS = {"profile", "corpus", "seed", "data_dir", "interactive"}
STAGE = {f"{n:02d}" for n in range(15)}

every_file = pytest.mark.parametrize("path", NOTEBOOKS + SOLUTIONS, ids=lambda path: path.stem)


def _code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_stage_is_complete():
    assert {path.name[:2] for path in NOTEBOOKS} >= STAGE


def test_every_exercise_has_a_solution():
    with_exercises = {
        path.name for path in NOTEBOOKS if "Difficulty" in path.read_text(encoding="utf-8")
    }
    assert {path.name for path in SOLUTIONS} == with_exercises


@every_file
def test_opening(path):
    """Title as a question, goals, needs, time -> parameters -> imports -> stamp."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    title = first.source.splitlines()[0]
    assert title.startswith("# ") and title.endswith("?"), title
    lowered = first.source.lower()
    for word in ("goals", "you need", "time and hardware"):
        assert word in lowered, word
    goals = lowered.split("goals", 1)[1].split("you need", 1)[0]
    assert len(re.findall(r"^\s*\d\.", goals, re.M)) == 3
    parameters, imports, stamp = _code(notebook)[:3]
    assert "parameters" in parameters.metadata.tags
    assert all(
        isinstance(node, ast.Import | ast.ImportFrom | ast.Expr)
        for node in ast.parse(re.sub(r"^\s*[%!].*$", "", imports.source, flags=re.M)).body
    )
    assert "environment_stamp(" in stamp.source


@every_file
def test_parameters_are_literals_with_comments_and_used(path):
    notebook = nbformat.read(path, as_version=4)
    cell, *others = _code(notebook)
    named = set()
    for node in ast.parse(cell.source).body:
        assert isinstance(node, ast.Assign | ast.AnnAssign)
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        ast.literal_eval(node.value)
        named.add(target.id)
        assert "#" in cell.source.splitlines()[node.lineno - 1], f"{target.id} has no comment"
    assert named == PARAMETERS
    later = "\n".join(other.source for other in others)
    unused = {name for name in named if not re.search(rf"\b{name}\b", later)}
    assert not unused


@every_file
def test_imports_stand_in_one_cell(path):
    for cell in _code(nbformat.read(path, as_version=4))[2:]:
        tree = ast.parse(re.sub(r"^\s*[%!].*$", "", cell.source, flags=re.M))
        assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree))


@every_file
def test_committed_outputs_are_clean(path):
    text = path.read_text(encoding="utf-8")
    raw = json.loads(text)
    for metadata in (raw["metadata"], *(cell["metadata"] for cell in raw["cells"])):
        assert not {"widgets", "papermill", "execution"} & set(metadata)
    assert not re.search(r"/(work|tmp|root|home)/", text)
    codes = [cell for cell in raw["cells"] if cell["cell_type"] == "code"]
    counts = [cell["execution_count"] for cell in codes]
    assert counts == list(range(1, len(codes) + 1)), "run all cells from a fresh kernel"
    for cell in codes:
        assert not any(output["output_type"] == "error" for output in cell["outputs"])
        lines = sum(len("".join(output.get("text", "")).splitlines()) for output in cell["outputs"])
        assert lines <= 100
    assert path.stat().st_size <= 2**20
