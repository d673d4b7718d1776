"""Several recipes and several seeds in one command, side by side in processes of one thread each.

What runs share is made once before any of them starts: images and patch features in this process
with all cores, pre-trained encoders and tags by the processes themselves. A run that fails is
reported and stops no other.
"""

from __future__ import annotations

import queue
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pandas as pd

from r2genkit import processes
from r2genkit.errors import KitError
from r2genkit.experiments.data import prepare_images, prepare_text
from r2genkit.experiments.environment import torch_threads
from r2genkit.experiments.pretraining import pretrained
from r2genkit.experiments.recipe import Recipe, load_recipe, recipe_names
from r2genkit.experiments.results import ResultRow
from r2genkit.experiments.runner import run, run_folder
from r2genkit.experiments.tables import caption, group_rows, results_table
from r2genkit.experiments.tagging import prepare_tags
from r2genkit.images import start_worker

SEED_LISTS: dict[str, tuple[int, ...]] = {
    # The five runs on IU X-Ray as published by the authors of R2Gen (Chen et al. 2020); the first
    # is the default of their trainer.
    "r2gen": (9223, 3247671, 98726412, 12415108, 1248912),
}
"""Published lists of seeds by name."""
MAIN_METRICS = ("BLEU-1", "BLEU-4", "METEOR", "CIDEr", "finding-F1")
_MOST_SEEDS = 100


def parse_seeds(text: str, *, first: int = 0) -> tuple[int, ...]:
    """Seeds from what a user writes.

    Args:
        text: a number n ("3": the n seeds from ``first`` on), a list ("0,5,7"; "9223," is a list
            of one), or a name of ``SEED_LISTS`` ("r2gen").
        first: where counting starts.

    Raises:
        KitError: none of these, repeated seeds, or n outside of 1..100.
    """
    text = text.strip()
    if text in SEED_LISTS:
        return SEED_LISTS[text]
    if re.fullmatch(r"\d+", text):
        count = int(text)
        if not 1 <= count <= _MOST_SEEDS:
            raise KitError(
                f"--seeds {text} asks for {count} runs of 1 to {_MOST_SEEDS}: for this one seed "
                f"write --seed {text}"
            )
        return tuple(range(first, first + count))
    if re.fullmatch(r"\d+\s*(,\s*\d+\s*)*,?", text):
        seeds = tuple(int(part) for part in text.split(",") if part.strip())
        if len(set(seeds)) < len(seeds):
            raise KitError(f"--seeds {text} names a seed twice: name each once")
        return seeds
    raise KitError(
        f"cannot read --seeds {text}: write how many (3), which (0,5,7) or {', '.join(SEED_LISTS)}"
    )


def choose_recipes(names: Sequence[str]) -> list[str]:
    """Recipes in the order named, each once.

    Args:
        names: recipe names, YAML files, two-digit chapters ("03": every recipe of it), or "all"
            (every recipe with a model); recipes on request must be named.

    Raises:
        KitError: unknown recipe, or a chapter without any.
    """
    usual = [known for known in recipe_names() if not load_recipe(known).on_request]
    chosen: list[str] = []
    for name in names:
        if name == "all":
            chosen += [known for known in usual if load_recipe(known).model is not None]
        elif re.fullmatch(r"\d\d?", name):
            chapter = [known for known in usual if known[:2] == name.zfill(2)]
            if not chapter:
                have = ", ".join(sorted({known[:2] for known in usual}))
                raise KitError(f"no recipe of chapter {name}: there are {have}")
            chosen += chapter
        else:
            chosen.append(name)
    return list(dict.fromkeys(chosen))


@dataclass(frozen=True)
class Finished:
    """One run of several: what it was, how long it took, its row or what went wrong."""

    name: str
    seed: int
    seconds: float = 0.0
    row: ResultRow | None = None
    error: str = ""

    def __str__(self) -> str:
        label = f"{self.name} seed {self.seed}"
        if self.row is None:
            return f"{label:40} FAILED: {self.error}"
        score = self.row.metrics["finding-F1"].value
        shown = "" if score is None else f"  finding-F1 {score:.3f}"
        return f"{label:40} {self.seconds:6.0f} s  ok{shown}"


@dataclass(frozen=True)
class _Task:
    """A run to be done in whichever process is free; plain values, so that it can be sent."""

    name: str
    seed: int
    recipe: Recipe
    options: dict[str, Any]

    @property
    def finished(self) -> bool:
        folder = run_folder(self.recipe, self.options["profile"], self.seed)
        return (folder / "row.json").is_file() and not self.options["fresh"]


def run_many(
    names: Sequence[str],
    seeds: Sequence[int],
    *,
    profile: str = "lab",
    corpus: str | None = None,
    overrides: Sequence[str] = (),
    data_dir: str | Path | None = None,
    fresh: bool = False,
    tensorboard: bool = False,
    jobs: int = 1,
    progress: bool = False,
    report: Callable[[Finished], None] = lambda finished: None,
) -> list[Finished]:
    """Run every recipe with every seed, ``jobs`` at a time.

    Args:
        names: recipes, as :func:`choose_recipes` gives them.
        seeds: every recipe runs once with each.
        profile, corpus, overrides, data_dir, fresh, tensorboard: as for ``run``, for all of them.
        jobs: processes of one thread each; 1 works in this process.
        progress: show progress bars where one run goes on at a time.
        report: called as each run ends.

    Returns:
        One entry per run, recipes in order, then seeds; failures have an ``error`` and no row.

    Raises:
        KitError: a recipe that cannot be read: found before anything starts; several jobs in
            processes that train together.
    """
    if jobs > 1 and processes.launched():
        raise KitError(
            "--jobs runs models side by side and a launcher makes processes share one: use one "
            "of the two"
        )
    options = {
        "profile": profile,
        "corpus": corpus,
        "overrides": tuple(overrides),
        "data_dir": None if data_dir is None else Path(data_dir).expanduser(),
        "fresh": fresh,
        "tensorboard": tensorboard,
        "progress": progress and jobs == 1,
    }
    tasks = []
    for name in names:
        recipe = load_recipe(name, profile=profile, corpus=corpus, overrides=options["overrides"])
        tasks += [_Task(name, seed, recipe, options) for seed in seeds]
    with _Workers(min(jobs, len(tasks))) as workers:
        # Whatever goes wrong with a pre-training goes wrong again below, where it is reported.
        for _ in workers.map(_pretrain, _one_per_pretraining(tasks) if jobs > 1 else []):
            pass
        broken = _prepare_images(tasks, progress)
        done = [Finished(t.name, t.seed, error=broken[t.name]) for t in tasks if t.name in broken]
        for finished in done:
            report(finished)
        ready = [task for task in tasks if task.name not in broken]
        first = _one_per_tags(ready) if jobs > 1 else []
        # Whatever goes wrong with tags goes wrong in the run again, which then says so.
        for _ in workers.map(_make_tags, first):
            pass
        for task, outcome in workers.map(_run_one, ready):
            if isinstance(outcome, str):
                outcome = Finished(task.name, task.seed, error=outcome)
            report(outcome)
            done.append(outcome)
    order = [(task.name, task.seed) for task in tasks]
    return sorted(done, key=lambda finished: order.index((finished.name, finished.seed)))


def _one_per_pretraining(tasks: Iterable[_Task]) -> list[_Task]:
    """Of the runs that still need to be done, one for each encoder to be pre-trained."""
    found: dict[tuple, _Task] = {}
    for task in tasks:
        recipe = task.recipe
        if recipe.encoder is None or recipe.encoder.pretraining is None or task.finished:
            continue
        found.setdefault((recipe.data, recipe.text, recipe.encoder.pretraining), task)
    return list(found.values())


def _pretrain(task: _Task) -> None:
    recipe = task.recipe
    text = prepare_text(recipe.data, recipe.text, task.options["data_dir"])
    pretrained(recipe.encoder.pretraining, text, progress=False)


def _prepare_images(tasks: Sequence[_Task], progress: bool) -> dict[str, str]:
    """Fill the image and feature caches; the error by name of recipes that cannot have them."""
    errors: dict[tuple, str] = {}
    broken = {}
    for task in tasks:
        recipe = task.recipe
        key = (recipe.data, recipe.text, recipe.encoder)
        if recipe.encoder is None or task.finished:
            continue
        if key not in errors:
            errors[key] = ""
            try:
                prepare_images(*key, task.options["data_dir"], progress)
            except Exception as error:
                errors[key] = _sentence(error)
        if errors[key]:
            broken[task.name] = errors[key]
    return broken


def _one_per_tags(tasks: Iterable[_Task]) -> list[_Task]:
    """Of the runs that still need to be done, one for each set of tags."""
    found: dict[tuple, _Task] = {}
    for task in tasks:
        recipe = task.recipe
        if recipe.tags is not None and recipe.model is not None and not task.finished:
            key = (recipe.data, recipe.text, recipe.encoder, recipe.tags, task.seed)
            found.setdefault(key, task)
    return list(found.values())


def _make_tags(task: _Task) -> None:
    recipe, data_dir = task.recipe, task.options["data_dir"]
    with torch_threads(recipe.threads):
        text = prepare_text(recipe.data, recipe.text, data_dir)
        prepared = prepare_images(recipe.data, recipe.text, recipe.encoder, data_dir, False)
        prepare_tags(recipe.tags, text, prepared.features, task.seed, progress=False)


def _run_one(task: _Task) -> Finished:
    start = time.perf_counter()
    result = run(task.name, seed=task.seed, **task.options)
    return Finished(task.name, task.seed, time.perf_counter() - start, result.row)


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, KitError) else f"{type(error).__name__}: {text}"


def _guarded(work: Callable, task: _Task) -> object:
    """What ``work`` returns, or the sentence of what it raised."""
    try:
        return work(task)
    except Exception as error:
        if processes.count() > 1:
            raise  # the others wait for this process: there is no going on together
        return _sentence(error)


class _Workers:
    """``count`` processes, each of its own: one that dies takes no other task with it.

    With one worker everything happens in this process.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pools: list[ProcessPoolExecutor | None] = [None] * count
        self._stop = Event()

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for pool in filter(None, self._pools):
            pool.shutdown(wait=exception[0] is None, cancel_futures=True)

    def map(self, work: Callable, tasks: Sequence[_Task]) -> Iterable[tuple[_Task, object]]:
        """(task, what ``work(task)`` returned or the sentence of its error), as they end."""
        if self.count == 1:
            for task in tasks:
                yield task, _guarded(work, task)
            return
        waiting: queue.Queue[_Task] = queue.Queue()
        ended: queue.Queue[tuple[_Task, object]] = queue.Queue()
        for task in tasks:
            waiting.put(task)
        for place in range(self.count):
            Thread(target=self._serve, args=(place, work, waiting, ended), daemon=True).start()
        for _ in tasks:
            yield ended.get()

    def _serve(self, place: int, work: Callable, waiting: queue.Queue, ended: queue.Queue) -> None:
        while not self._stop.is_set():
            try:
                task = waiting.get_nowait()
            except queue.Empty:
                return
            pool = self._pools[place]
            if pool is None:
                pool = self._pools[place] = ProcessPoolExecutor(
                    1, get_context("spawn"), initializer=start_worker
                )
            try:
                outcome = pool.submit(_guarded, work, task).result()
            except BrokenProcessPool:
                self._pools[place] = None
                outcome = "its process died (out of memory?): run it again with fewer --jobs"
            except BaseException as error:  # the main thread waits for an answer to every task
                outcome = _sentence(error)
            ended.put((task, outcome))


def summary_tables(finished: Sequence[Finished]) -> list[tuple[str, pd.DataFrame]]:
    """(caption, table) per corpus and protocol: mean and SD over the seeds of each recipe."""
    rows = [one.row for one in finished if one.row is not None]
    columns = ["system", "seeds", *MAIN_METRICS, "distinct %", "in train %"]
    return [
        (caption(group), results_table(group, MAIN_METRICS)[columns])
        for group in group_rows(rows).values()
    ]


def failures(finished: Sequence[Finished]) -> str:
    """One sentence that names the runs that failed; "" where none did."""
    failed = [one for one in finished if one.row is None]
    if not failed:
        return ""
    listed = "; ".join(f"{one.name} seed {one.seed} ({one.error})" for one in failed)
    return f"{len(failed)} of {len(finished)} run(s) failed: {listed}"
