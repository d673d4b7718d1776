"""The three places that name dependencies agree, and pin nothing."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9_.-]+)(?P<bounds>.*)$")
# The same project under its conda-forge name.
CONDA_NAMES = {"pytorch": "torch"}


def _parse(requirement: str) -> tuple[str, str]:
    match = REQUIREMENT.match(requirement.replace(" ", ""))
    name = match["name"].lower().replace("_", "-")
    return CONDA_NAMES.get(name, name), match["bounds"]


def _pyproject() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return dict(map(_parse, project["dependencies"] + project["optional-dependencies"]["dev"]))


def _environment() -> dict[str, str]:
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    plain = [entry for entry in entries if isinstance(entry, str)]
    nested = [text for entry in entries if isinstance(entry, dict) for text in entry["pip"]]
    named = dict(map(_parse, plain + nested))
    named.pop("pip")
    return named


def test_environment_names_what_pyproject_names():
    environment = _environment()
    assert environment.pop("python") == ">=3.11"
    assert environment == _pyproject()


def test_only_lower_bounds_and_exclusions():
    for name, bounds in _pyproject().items():
        assert bounds, f"{name} has no lower bound"
        assert all(re.match(r"^(>=|!=)", part) for part in bounds.split(",")), (name, bounds)


def test_every_import_is_declared():
    """No module of the package relies on something that arrives only by accident."""
    import ast
    import sys

    import_names = {
        "ipython": "IPython",
        "pillow": "PIL",
        "pyyaml": "yaml",
        "scikit-learn": "sklearn",
    }
    declared = {import_names.get(name, name.replace("-", "_")) for name in _pyproject()}
    used = set()
    for path in (ROOT / "r2genkit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                used.add(node.module.split(".")[0])
    foreign = used - set(sys.stdlib_module_names) - {"r2genkit"}
    optional = {"faiss"}  # imported where it is asked for; a clear sentence where it is absent
    assert foreign <= declared | optional, f"undeclared: {sorted(foreign - declared - optional)}"
