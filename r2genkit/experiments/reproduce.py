"""Regenerate every table and figure: caches first, then the notebooks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from r2genkit.errors import KitError
from r2genkit.experiments.data import prepare_images
from r2genkit.experiments.many import failures, run_many
from r2genkit.experiments.notebooks import Execution, execute_all, find_notebooks
from r2genkit.experiments.recipe import PROFILES, load_recipe, recipe_names
from r2genkit.paths import project_root


def reproduce_all(
    *,
    profile: str,
    corpus: str,
    only: Sequence[str] = (),
    jobs: int = 1,
    seed: int = 0,
    seeds: Sequence[int] = (),
    data_dir: Path | None = None,
    in_place: bool = False,
    solutions: bool = False,
    echo: Callable[[str], None] = print,
) -> list[Execution]:
    """Fill the caches, train further seeds, execute the notebooks, report one line each.

    The images and patch features that recipes share are made first, in this process with all
    cores, so that notebooks running side by side find them instead of making them twice.

    Args:
        profile, corpus, data_dir: for every notebook.
        only: two-digit numbers of notebooks; none = all.
        jobs: notebooks, and runs of further seeds, at the same time.
        seed: the one that notebooks use.
        seeds: each model of these notebooks is trained with these, too: before the first
            notebook, so that every table shows mean and SD.
        in_place: write outputs back into ``notebooks/``.
        solutions: run the solution notebooks, too.
        echo: prints a line.

    Raises:
        KitError: a notebook or a run failed (all others have run all the same), or unknown names.
    """
    if profile not in PROFILES:
        raise KitError(f"unknown profile {profile!r}: choose one of {', '.join(PROFILES)}")
    start = time.perf_counter()
    notebooks = find_notebooks(only)
    numbers = {path.name[:2] for path in notebooks}
    prepared, models = set(), []
    for name in recipe_names():
        recipe = load_recipe(name, profile=profile, corpus=corpus)
        if recipe.notebook not in numbers or recipe.on_request:
            continue
        models += [name] if recipe.model is not None else []
        key = (recipe.data, recipe.text, recipe.encoder)
        if recipe.encoder and key not in prepared:
            prepared.add(key)
            prepare_images(*key, data_dir, True)
    echo(f"images and patch features ready after {time.perf_counter() - start:.0f} s")
    further = [other for other in seeds if other != seed]
    problems = []
    if further and models:
        runs = run_many(
            models,
            further,
            profile=profile,
            corpus=corpus,
            data_dir=data_dir,
            jobs=jobs,
            report=echo,
        )
        problems = [failures(runs)] if failures(runs) else []
        echo(f"further seeds ready after {time.perf_counter() - start:.0f} s")
    parameters = {
        "profile": profile,
        "corpus": corpus,
        "seed": seed,
        "data_dir": str(data_dir) if data_dir else None,
        "interactive": False,
    }

    def report(execution: Execution) -> None:
        outcome = f"FAILED: {execution.error}" if execution.error else "ok"
        name = execution.notebook.relative_to(project_root() / "notebooks").as_posix()
        echo(f"{name:40} {execution.seconds:6.0f} s  {outcome}")

    if solutions:
        notebooks += [path for path in find_notebooks(solutions=True) if path.name[:2] in numbers]
    done = execute_all(
        notebooks, parameters, profile=profile, jobs=jobs, in_place=in_place, report=report
    )
    echo(f"all done after {time.perf_counter() - start:.0f} s")
    failed = [execution for execution in done if execution.error]
    if failed:
        names = ", ".join(execution.notebook.name for execution in failed)
        problems.append(f"{len(failed)} notebook(s) failed: {names}; see runs/notebooks/{profile}")
    if problems:
        raise KitError("; ".join(problems))
    return done
