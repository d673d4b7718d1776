"""Recipes, runs, result rows and tables: how a number comes about."""

from r2genkit.experiments.recipe import Recipe, load_recipe, recipe_names
from r2genkit.experiments.results import ResultRow, read_rows
from r2genkit.experiments.runner import RunResult, read_run, run

__all__ = [
    "Recipe",
    "ResultRow",
    "RunResult",
    "load_recipe",
    "read_rows",
    "read_run",
    "recipe_names",
    "run",
]
