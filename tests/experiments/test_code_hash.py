"""The hash of the code that a run depends on."""

import pytest

from r2genkit.errors import KitError
from r2genkit.experiments import environment, load_recipe, recipe_names
from r2genkit.experiments.environment import code_hash, deciding_files
from r2genkit.experiments.runner import recipe_modules
from r2genkit.models import MODELS


def test_a_run_depends_on_the_code_of_its_own_parts_alone():
    def names(*modules):
        return {path.name for path in deciding_files("r2genkit.experiments.runner", *modules)}

    cmn, mrna = names("r2genkit.models.cmn"), names("r2genkit.models.mrna")
    assert {"runner.py", "loop.py", "batches.py", "base.py", "nlg.py", "labeler.py"} <= cmn & mrna
    assert "cmn.py" in cmn - mrna and "mrna.py" in mrna - cmn
    assert not {"cli.py", "registry.py", "pretraining.py", "attention_figure.py"} & (cmn | mrna)
    assert "pretraining.py" in names("r2genkit.experiments.pretraining")
    assert "anatomy.py" in names("r2genkit.corpora.phantom") - cmn


def test_every_recipe_names_the_modules_it_runs():
    for name in recipe_names():
        recipe = load_recipe(name)
        modules = recipe_modules(recipe)
        assert "r2genkit.corpora.phantom" in modules
        if recipe.model is not None:
            assert f"r2genkit.models.{MODELS[recipe.model.name].__module__.split('.')[-1]}" in (
                modules
            )
        assert len(code_hash(*modules)) == 16


def test_code_hash_follows_the_files(tmp_path, monkeypatch):
    package = tmp_path / "r2genkit"
    package.mkdir()
    for name, text in (
        ("__init__", ""),
        ("one", "from r2genkit import two\n"),
        ("two", "x = 1\n"),
        ("other", "y = 1\n"),
    ):
        (package / f"{name}.py").write_text(text)
    monkeypatch.setattr(environment, "PACKAGE", package)

    def fresh():
        for function in (code_hash, deciding_files, environment._imports):
            function.cache_clear()
        return code_hash("r2genkit.one")

    try:
        before = fresh()
        (package / "other.py").write_text("y = 2\n")
        assert fresh() == before
        (package / "two.py").write_text("x = 2\n")
        assert fresh() != before
        with pytest.raises(KitError, match=r"r2genkit\.absent is no module"):
            code_hash("r2genkit.absent")
    finally:
        for function in (code_hash, deciding_files, environment._imports):
            function.cache_clear()
