"""README agrees with what the code does today."""

import re
from pathlib import Path

from typer.main import get_command

from r2genkit.cli import app
from r2genkit.experiments import read_rows
from r2genkit.experiments.tables import README_BEGIN, README_END, readme_block

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_results_are_those_of_the_committed_rows(monkeypatch):
    monkeypatch.delenv("R2GENKIT_RESULTS", raising=False)
    rows = [row for row in read_rows("lab", corpus="phantom") if row.protocol == "grouped"]
    assert rows, "no committed lab rows"
    shown = README.split(README_BEGIN, 1)[1].split(README_END, 1)[0]
    assert shown.strip() == readme_block(rows).strip()


def test_every_notebook_is_in_the_map():
    names = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert names <= set(re.findall(r"\d\d_[a-z0-9_]+", README))


def test_named_commands_and_options_exist():
    command = get_command(app)
    for line in re.findall(r"^r2genkit .*$", README, re.M):
        words = line.split("#")[0].split()[1:]
        current = command
        while words and hasattr(current, "commands") and words[0] in current.commands:
            current = current.commands[words.pop(0)]
        assert not hasattr(current, "commands"), line
        known = {name for parameter in current.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_named_files_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.M), target
