"""What every model costs at its lab recipe's settings: one table, ratios to Show and Tell.

    python benchmarks/bench_models.py [--only 07_cmn ...] [--json costs.json]
    python benchmarks/bench_models.py --runs runs/lab/phantom/03_show_tell-seed0-... [...]

Without ``--runs`` the input has the size of the lab's and is random: patch features of 2 views x 49
patches, 700 words, 20 findings; training texts of 20 to 60 tokens. Weights are random, too, so
every text is made to end after ``--words`` words: speeds at equal length, of models that on real
data write texts of different length. With ``--runs`` finished runs train on their own studies and
decode their own test set, each text as long as the model makes it.

Each model has a child process of its own, so that peaks do not add up. Memory is the peak resident
size (``ru_maxrss``) less that after importing everything (and with ``--runs`` after loading the
data): weights, gradients, optimiser and activations. Training is forward, backward, clipping and
update at the recipe's minibatch; decoding writes ``--studies`` studies at a time. Times are
medians, CPU times with ``--threads 1``, so that other work on the machine disturbs them less.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for benchmarks.bench_decoding, whoever starts this file
REFERENCE = "show_tell"
COLUMNS = {
    "train_studies_per_second": "training studies/s",
    "greedy_studies_per_second": "greedy studies/s",
    "beam3_studies_per_second": "beam-3 studies/s",
    "train_peak_mb": "peak MB, training",
    "peak_mb": "peak MB, with decoding",
    "parameters": "parameters",
}


def peak_mb() -> float:
    """Largest resident size of this process so far."""
    import resource

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)


def recipes() -> list[dict]:
    """One recipe for each model and its settings, in the order of tables.

    Recipes that train their encoder are left out: here models read cached features.
    """
    from r2genkit.experiments import load_recipe, recipe_names

    found, seen = [], set()
    loaded = [(name, load_recipe(name)) for name in recipe_names()]
    for name, recipe in sorted(loaded, key=lambda pair: pair[1].order):
        if recipe.model is None or recipe.encoder.trainable:
            continue
        key = json.dumps(recipe.model.model_dump(), sort_keys=True) + str(recipe.tags is None)
        if key not in seen:
            seen.add(key)
            found.append({"recipe": name, "model": recipe.model.name, "title": recipe.title})
    return found


def measure(options: argparse.Namespace) -> dict:
    """Figures of one model; runs in a child process."""
    import torch

    from benchmarks.bench_decoding import (
        PATCH,
        STOP,
        TAGS,
        WORDS,
        Ending,
        make_batch,
        median_seconds,
    )
    from r2genkit.decoding import DecodingConfig, search
    from r2genkit.experiments import load_recipe
    from r2genkit.models import build_model
    from r2genkit.training.optimizers import build_optimizer

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.run:
        recipe, model, minibatches, tests, vocabulary = finished_run(options.run, options.studies)
        writer, title = model, recipe.title
    else:
        recipe = load_recipe(options.recipe)
        vocabulary, title = None, recipe.title
        width = recipe.encoder.pca or PATCH
    base = peak_mb()
    if not options.run:
        model = build_model(
            recipe.model.name,
            recipe.model.settings,
            vocabulary_size=WORDS,
            feature_dim=width,
            tag_count=TAGS if recipe.tags else 0,
            full_stop=STOP,
            seed=0,
        )
        minibatches = [make_batch(recipe.sampling.batch_size, "cpu", model.layout, width)]
        tests = [make_batch(options.studies, "cpu", model.layout, width)]
        writer = Ending(model, torch.full((options.studies,), options.words))
    optimizer = build_optimizer(model, recipe.training)
    turn = iter(range(10**9))

    def train() -> None:
        batch = minibatches[next(turn) % len(minibatches)]
        optimizer.zero_grad(set_to_none=True)
        model(batch)["loss"].backward()
        if recipe.training.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.training.clip_norm)
        optimizer.step()

    # Weights of a finished run are put back: what is decoded is the model as it was chosen.
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    seconds = median_seconds(train, max(options.repeats, len(minibatches)), "cpu")
    trained_peak = peak_mb() - base
    model.load_state_dict(before)
    figures = {
        "recipe": options.recipe or recipe.run,
        "model": recipe.model.name,
        "title": title,
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_minibatch": recipe.sampling.batch_size,
        "train_studies_per_second": recipe.sampling.batch_size / seconds,
        "train_peak_mb": trained_peak,
    }
    writer.eval()
    rules = {**recipe.decoding.model_dump(), "samples": 1}
    if not options.run:
        rules |= {"forbid_unk": False, "max_length": max(60, options.words + 1)}
    studies = sum(len(batch) for batch in tests)
    for name, more in (("greedy", {"method": "greedy"}), ("beam3", {"method": "beam"})):
        config = DecodingConfig.model_validate({**rules, "beam_size": 3, **more})

        def write(config: DecodingConfig = config) -> list:
            return [search(writer, batch, config, vocabulary=vocabulary) for batch in tests]

        with torch.no_grad():
            seconds = median_seconds(write, options.repeats, "cpu")
            lengths = torch.cat([decoded.lengths for decoded in write()])
        figures[f"{name}_studies_per_second"] = studies / seconds
        figures[f"{name}_words"] = lengths.double().mean().item()
    return figures | {"peak_mb": peak_mb() - base}


def finished_run(folder: Path, studies: int) -> tuple:
    """(recipe, model, 20 training minibatches, test minibatches, vocabulary) of a run."""
    from itertools import islice

    from r2genkit.encoders.tags import Tags
    from r2genkit.experiments import read_run
    from r2genkit.experiments.data import report_loader
    from r2genkit.experiments.tagging import decoder_tags
    from r2genkit.experiments.trained import TAGS_FOLDER

    result = read_run(folder)
    recipe, text, prepared = result.recipe, result.text(), result.images()
    system = result.system()
    model, retriever = system.model, system.retriever
    tags = Tags.load(folder / TAGS_FOLDER) if recipe.tags else None

    def loader(part: str, training: bool) -> object:
        told = None if tags is None else decoder_tags(recipe.tags, tags, text, part)
        return report_loader(
            recipe, text, prepared, part, seed=result.row.seed, training=training, tags=told,
            layout=model.layout, batch_size=None if training else studies,
            neighbours=None if retriever is None else retriever.neighbours(text.part(part)),
        )  # fmt: skip

    minibatches = list(islice(loader("train", True), 20))
    return recipe, model, minibatches, list(loader("test", False)), text.vocabulary


def child(options: argparse.Namespace, *words: str) -> object:
    """What this file prints as JSON when it runs in a process of its own."""
    common = ["--threads", options.threads, "--repeats", options.repeats]
    common += ["--studies", options.studies, "--words", options.words]
    command = [sys.executable, str(Path(__file__).resolve()), *map(str, common), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[dict]) -> str:
    """Markdown: values, and in brackets their ratio to the first row of Show and Tell."""
    reference = next((row for row in rows if row["model"] == REFERENCE), rows[0])
    lines = [
        "| model | " + " | ".join(COLUMNS.values()) + " |",
        "| --- |" + " ---: |" * len(COLUMNS),
    ]
    for row in rows:
        cells = [
            f"{row[name]:,.0f} ({row[name] / reference[name]:.2f})"
            if reference[name]
            else f"{row[name]:,.0f}"
            for name in COLUMNS
        ]
        lines.append(f"| {row['title']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="recipes; default: each model and its settings")
    parser.add_argument("--runs", nargs="+", type=Path, help="folders of finished runs instead")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--studies", type=int, default=64, help="decoded at a time")
    parser.add_argument(
        "--words", type=int, default=32, help="of texts of random weights: sentences have 8"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    # What child processes are told.
    parser.add_argument("--list", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--recipe", help=argparse.SUPPRESS)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    if options.list or options.recipe or options.run:
        print(json.dumps(recipes() if options.list else measure(options)))
        return
    # This process stays small: on Linux ru_maxrss of a child begins with the size of its parent.
    if options.runs:
        wanted = [("--run", str(folder)) for folder in options.runs]
    else:
        names = options.only or [entry["recipe"] for entry in child(options, "--list")]
        wanted = [("--recipe", name) for name in names]
    rows = []
    for words in wanted:
        rows.append(child(options, *words))
        print(f"{rows[-1]['title']} measured", file=sys.stderr, flush=True)
    if options.runs:
        what = "finished runs, texts as long as the models make them"
    else:
        what = f"random weights, every text {options.words} words, features of lab size"
    print(
        f"\nCPU, {options.threads} thread(s); {what}; {options.studies} studies decoded at a time; "
        "in brackets: ratio to Show and Tell.\n"
    )
    print(table(rows))
    if options.json:
        content = {"threads": options.threads, "what": what, "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
