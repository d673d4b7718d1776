"""The command line: one of three thin doors into the kit (the others are notebooks and tests).

Errors that the user can mend are printed as one sentence with exit code 2; ``--debug`` shows the
traceback instead. Imports of torch and friends happen inside the commands, so that ``--help``
answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from r2genkit.errors import KitError

app = typer.Typer(
    name="r2genkit",
    help="Teach and reproduce radiology report generation: chest X-rays in, report text out.\n\n"
    "Start with `r2genkit doctor`, then `r2genkit reproduce --profile smoke`. Without any data "
    "set of your own everything runs on real Open-i reports with rendered (synthetic) "
    "radiographs.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(
    help="List, check, download, render and audit the corpora.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")

TextRule = typer.Option(help="Text rule for every file: none, default, r2gen, kit2018.")
Resamples = typer.Option(min=0, help="Resamples for the intervals; 0 for none.")
Profile = Annotated[
    str,
    typer.Option(help="Budget: smoke (minutes, numbers mean nothing), lab (laptop CPU), paper."),
]
Corpus = Annotated[
    str | None,
    typer.Option(help="phantom, openi, r2gen, kit2018 or private; default: what the recipe names."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder of a corpus that you hold yourself (else R2GENKIT_DATA)."),
]
Seed = Annotated[int, typer.Option(help="Every random draw of the run comes from this number.")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option(help="Show tracebacks instead of one sentence.")] = False,
) -> None:
    """Options before the command."""
    _options.debug = debug


def _number(value: object) -> object:
    """Counts as counts, shares with one decimal."""
    if isinstance(value, float):
        return f"{value:.0f}" if value == int(value) else f"{value:.1f}"
    return value


def _echo_table(table) -> None:
    typer.echo(table.to_markdown(index=False, disable_numparse=True))


@app.command()
def doctor() -> None:
    """Check what this machine can run: versions, device, Java for METEOR, weights, caches."""
    from r2genkit.experiments.doctor import diagnose

    problems = 0
    for check in diagnose():
        typer.echo(f"[{'ok' if check.ok else '!!'}] {check.name}: {check.message}")
        problems += not check.ok and check.needed
    if problems:
        raise KitError(
            f"{problems} check(s) that every notebook needs failed: see the lines marked !!"
        )


@data_app.command("list")
def data_list() -> None:
    """Every corpus: what it is, whether its images are synthetic, licence, how to get it."""
    from r2genkit.corpora import CORPORA

    for name, info in CORPORA.items():
        images = "SYNTHETIC images" if info.synthetic else "real images"
        typer.echo(f"{name}  ({images})\n  {info.summary}\n  licence: {info.licence}")
        typer.echo(f"  how to get it: {info.how_to_get}\n")


@data_app.command("check")
def data_check(
    corpus: Annotated[str, typer.Argument(help="Which corpus.")],
    data_dir: DataDir = None,
    annotation: Annotated[
        str, typer.Option(help="Corpus r2gen: name of the annotation file.")
    ] = "annotation.json",
    table: Annotated[str | None, typer.Option(help="Corpus private: name of the CSV.")] = None,
) -> None:
    """List every problem of a corpus at once: missing files, duplicates, empty reports."""
    from r2genkit.corpora.check import check_corpus

    problems = check_corpus(
        corpus, data_dir, annotation=annotation, table=table, progress=sys.stderr.isatty()
    )
    for problem in problems:
        typer.echo(str(problem))
    if problems:
        raise KitError(f"{len(problems)} problem(s) in corpus {corpus}")
    typer.echo(f"corpus {corpus}: no problem found")


@data_app.command("download")
def data_download(
    corpus: Annotated[str, typer.Argument(help="Which corpus (openi).")] = "openi",
    target: Annotated[Path | None, typer.Option(help="Folder; default data/downloads.")] = None,
    part: Annotated[
        list[str] | None, typer.Option(help="reports or png; may be repeated; default: both.")
    ] = None,
) -> None:
    """Fetch a public corpus: resumes, verifies checksums, extracts safely."""
    from r2genkit.corpora.download import download
    from r2genkit.paths import downloads_dir

    folder = download(corpus, target or downloads_dir() / corpus, parts=part)
    typer.echo(f"{corpus} is in {folder}; use it with --data-dir {folder}")


@data_app.command("render")
def data_render(
    size: Annotated[int, typer.Option(help="Pixels per side.")] = 224,
    limit: Annotated[int | None, typer.Option(help="Only the first N studies.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; default one per core.")] = None,
    seed: Seed = 0,
) -> None:
    """Render the phantom radiographs of all Open-i reports into the packed cache (resumable)."""
    from r2genkit.corpora import load_corpus
    from r2genkit.images import pack_images

    packed = pack_images(load_corpus("phantom", seed=seed)[:limit], size=size, workers=workers)
    typer.echo(f"{len(packed.study_ids)} studies at {size} x {size}: cache {packed.digest[:16]}")


@data_app.command("export")
def data_export(
    folder: Annotated[Path, typer.Argument(help="New folder to write.")],
    cause: Annotated[
        str, typer.Option(help="What differs: none, habitus, film, noise, style or all.")
    ] = "all",
    studies: Annotated[int, typer.Option(help="How many.")] = 22,
    seed: Seed = 0,
) -> None:
    """Write "another hospital" (phantom_shifted) as a private folder: PNGs and studies.csv."""
    from r2genkit.corpora import load_corpus
    from r2genkit.corpora.private import write_private

    written = write_private(
        load_corpus("phantom_shifted", seed=seed, cause=cause, studies=studies), folder
    )
    typer.echo(f"{studies} studies (synthetic phantom images): {written}")


@data_app.command("audit")
def data_audit(
    corpus: Annotated[str, typer.Argument(help="Which corpus.")] = "phantom",
    split: Annotated[str, typer.Option(help="Protocol; auto = the corpus' own.")] = "auto",
    data_dir: DataDir = None,
) -> None:
    """Show a split's normal share, verbatim-in-train share and duplicates, with its fingerprint."""
    from r2genkit.corpora.splits import audit_split
    from r2genkit.experiments.data import prepare_text
    from r2genkit.experiments.recipe import DataConfig, TextConfig, settle

    text = prepare_text(*settle(DataConfig(corpus=corpus, split=split), TextConfig()), data_dir)
    audit = audit_split(text.split, list(text.studies.values()), section=text.data.section)
    _echo_table(audit.reset_index().map(_number))
    typer.echo(f"\nprotocol {text.split.name}, fingerprint {text.split.fingerprint}")


@app.command()
def train(
    recipes: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Shipped recipes, YAML files, chapters such as 03, or all (every model).",
        ),
    ],
    profile: Profile = "lab",
    corpus: Corpus = None,
    seed: Annotated[
        int | None, typer.Option(help="Every random draw of the run comes from it; default 0.")
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(help="Several: 3 (that is 0,1,2), 0,5,7 or r2gen (its five published ones)."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time, one thread each.")] = 1,
    data_dir: DataDir = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting: training.epochs=3.")
    ] = None,
    fresh: Annotated[bool, typer.Option(help="Repeat a finished run.")] = False,
    tensorboard: Annotated[
        bool, typer.Option(help="Also log training for TensorBoard, in the run's folder.")
    ] = False,
) -> None:
    """Run recipes: train (or fit a baseline), test once, write one result row per run."""
    from r2genkit import processes
    from r2genkit.experiments.many import (
        choose_recipes,
        failures,
        parse_seeds,
        run_many,
        summary_tables,
    )

    if seed is not None and seeds is not None:
        raise KitError("--seed and --seeds exclude one another: give one of them")
    chosen = choose_recipes(recipes)
    numbers = (seed or 0,) if seeds is None else parse_seeds(seeds)
    options = {
        "profile": profile,
        "corpus": corpus,
        "overrides": set_ or (),
        "data_dir": data_dir,
        "fresh": fresh,
        "tensorboard": tensorboard,
    }
    if len(chosen) * len(numbers) == 1:
        _train_one(chosen[0], numbers[0], options)
        return
    finished = run_many(
        chosen,
        numbers,
        jobs=jobs,
        progress=sys.stderr.isatty(),
        report=lambda one: typer.echo(one) if processes.is_main() else None,
        **options,
    )
    for text, table in summary_tables(finished) if processes.is_main() else ():
        typer.echo(f"\n{text}\n")
        _echo_table(table)
    failed = failures(finished)
    if failed:
        raise KitError(failed)


def _train_one(recipe: str, seed: int, options: dict) -> None:
    from r2genkit import processes
    from r2genkit.experiments import run
    from r2genkit.experiments.tables import caption, results_table

    result = run(recipe, seed=seed, **options)
    if not processes.is_main():
        return  # of processes that train together one speaks
    _echo_table(results_table([result.row]).T.reset_index())
    typer.echo(f"\n{caption([result.row])}\nfiles: {result.folder}")


@app.command()
def pretrain(
    name: Annotated[
        str | None,
        typer.Argument(
            help="resnet18, densenet121, resnet101, efficientnet_lite0 or a YAML file; may be "
            "left out with --baselines."
        ),
    ] = None,
    profile: Profile = "lab",
    corpus: Corpus = None,
    seed: Seed = 0,
    data_dir: DataDir = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting: epochs=3.")
    ] = None,
    fresh: Annotated[bool, typer.Option(help="Repeat a finished pre-training.")] = False,
    baselines: Annotated[
        bool, typer.Option(help="Also score chance and classifiers on a frozen encoder.")
    ] = False,
) -> None:
    """Train an encoder end to end to tell which findings a study shows (weights: tags)."""
    from r2genkit.experiments import pretraining
    from r2genkit.experiments.recipe import pretraining_names

    if name is None and not baselines:
        raise KitError(f"name a pre-training ({', '.join(pretraining_names())}) or --baselines")
    where = {"profile": profile, "corpus": corpus, "seed": seed, "data_dir": data_dir}
    settings, rows = set_ or [], []
    if baselines:
        studies = [text for text in settings if text.startswith("data.")]
        rows = pretraining.pretraining_baselines(overrides=studies, **where)
    folder = None
    if name is not None:
        done = pretraining.pretrain(name, overrides=settings, fresh=fresh, **where)
        rows, folder = [*rows, done.row], done.folder
    known = pretraining.read_pretraining_rows(profile, corpus=rows[-1].corpus)
    split = rows[-1].split_fingerprint
    rows = [row for row in known if row.split_fingerprint == split]
    table = pretraining.pretraining_table(rows)
    columns = pretraining.SUMMARY_COLUMNS
    _echo_table(table[columns])
    typer.echo("\nAUROC per finding (positive test studies):\n")
    _echo_table(table.set_index("classifier").drop(columns=columns[1:]).T.reset_index(names=""))
    typer.echo(f"\n{pretraining.pretraining_caption(rows)}")
    if folder is not None:
        typer.echo(f"files: {folder}")


@app.command()
def rates(
    name: Annotated[
        str, typer.Argument(help="A recipe whose encoder learns: 08_differential_rates.")
    ],
    encoder_lr: Annotated[list[float], typer.Option(help="Rate of the encoder; repeatable.")],
    decoder_lr: Annotated[list[float], typer.Option(help="Rate of the rest; repeatable.")],
    frozen: Annotated[int, typer.Option(help="Epochs before the encoder learns.")] = 0,
    profile: Profile = "lab",
    corpus: Corpus = None,
    seed: Seed = 0,
    data_dir: DataDir = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting: training.epochs=3.")
    ] = None,
    fresh: Annotated[bool, typer.Option(help="Train again where a row stands.")] = False,
) -> None:
    """Train a recipe at several learning rates and say what they do, on validation studies."""
    from r2genkit.experiments import rate_sweep

    rows = rate_sweep.sweep(
        name,
        encoder_lr,
        decoder_lr,
        frozen=frozen,
        profile=profile,
        corpus=corpus,
        seed=seed,
        data_dir=data_dir,
        overrides=set_ or [],
        fresh=fresh,
        progress=True,
        report=lambda row: typer.echo(f"{row.label}: validation loss {row.best.loss:.3f}"),
    )
    _echo_table(rate_sweep.rate_table(rows))
    typer.echo(f"\nlowest validation loss: {rate_sweep.choose(rows).label}")


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
) -> None:
    """Score the stored test reports of a finished run again and print them beside its row."""
    from r2genkit.experiments import read_run
    from r2genkit.experiments.runner import rescore

    result = read_run(folder)
    _print_evaluation(rescore(result))


@app.command()
def generate(
    frontal: Annotated[Path, typer.Option(help="Frontal radiograph (PNG or JPEG).")],
    lateral: Annotated[Path | None, typer.Option(help="Lateral radiograph, optional.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Folder of a trained run; default: the latest one.")
    ] = None,
    attention: Annotated[
        Path | None, typer.Option(help="Save the attention figure to this file.")
    ] = None,
    method: Annotated[str, typer.Option(help="greedy, beam or sample.")] = "greedy",
    check: Annotated[
        bool, typer.Option(help="Warn where the images are unlike the training images.")
    ] = True,
    data_dir: DataDir = None,
) -> None:
    """Write a report for one study of one or two radiographs."""
    from r2genkit.experiments.trained import latest_run, load_trained

    folder = run or latest_run()
    system = load_trained(folder)
    report = system.report(frontal, lateral, method=method, trace=attention is not None)
    if check:
        _warn_unfamiliar(folder, system, system.read(frontal, lateral), data_dir)
    if system.synthetic:
        typer.echo(
            "note: this model was trained on synthetic phantom images; what it writes about a "
            "real radiograph means nothing clinically",
            err=True,
        )
    typer.echo(report.text)
    if attention is not None:
        system.save_attention(report, frontal, lateral, attention)
        typer.echo(f"attention figure: {attention}", err=True)


@app.command()
def explain(
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
    study: Annotated[
        str | None, typer.Option(help="Id of a study of the run's own corpus, any part of it.")
    ] = None,
    frontal: Annotated[
        Path | None, typer.Option(help="Instead of --study: frontal radiograph (PNG or JPEG).")
    ] = None,
    lateral: Annotated[Path | None, typer.Option(help="Lateral radiograph, optional.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Folder of a trained run; default: the latest one.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Folder of a second run, to be shown below the first.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="greedy, beam or sample; default: as the recipe decodes.")
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Warn where given images are unlike the training images.")
    ] = True,
    data_dir: DataDir = None,
) -> None:
    """Write a page in which each word of a report lights up where the model looked."""
    from r2genkit.experiments import read_run
    from r2genkit.experiments.explain import explain_images, explain_study, find_study, measured
    from r2genkit.experiments.trained import latest_run, load_trained
    from r2genkit.files import write_text
    from r2genkit.viz.widgets.scrubber import scrubber_html, side_by_side

    if (study is None) == (frontal is None):
        raise KitError("give either --study ID or --frontal FILE, so that there is one study")
    if lateral is not None and frontal is None:
        raise KitError("--lateral goes with --frontal: a study of the corpus has its own views")
    folders = [run or latest_run(), *([compare] if compare is not None else [])]
    parts = []
    for number, folder in enumerate(folders):
        system = load_trained(folder)
        result = read_run(folder, data_dir=data_dir)
        letter = "" if len(folders) == 1 else f"{'AB'[number]}: "
        options = {
            "name": letter + system.recipe.title,
            "numbers": measured(result),
            "method": method,
        }
        if study is None:
            if check:
                _warn_unfamiliar(folder, system, system.read(frontal, lateral), data_dir)
            parts.append(explain_images(system, frontal, lateral, **options))
        else:
            found, note = find_study(result, study)
            parts.append(explain_study(system, found, notes=[note], **options))
    data = side_by_side(*parts)
    write_text(out, scrubber_html(data))
    for note in data.notes:
        typer.echo(f"note: {note}", err=True)
    for report in data.reports:
        typer.echo(f"{report.title}: {' '.join(report.words)}")
    typer.echo(f"written: {out}")


@app.command()
def duel(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
    studies: Annotated[
        int, typer.Option(min=1, help="Test studies to judge; half of them abnormal.")
    ] = 12,
    seed: Annotated[int, typer.Option(help="Names the draw of studies and of their order.")] = 0,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Recipe to set beside the run; may be repeated; default: 02_constant and "
            "02_nearest_image. One that has not been run is run first."
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Write a page for readers: which of several reports is best, before they see who wrote it."""
    from r2genkit.experiments import read_run
    from r2genkit.experiments.duel import AGAINST, contest_of, duel_data
    from r2genkit.files import write_text
    from r2genkit.viz.widgets.duel import duel_html

    result = read_run(run, data_dir=data_dir)
    contest = contest_of(result, against or AGAINST, bootstrap=0)
    data = duel_data(contest, studies, seed=seed)
    write_text(out, duel_html(data))
    for note in data.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo("reports of: " + "; ".join(source.title for source in data.sources))
    typer.echo(f"written: {out} (deck {data.deck})")


@app.command("duel-votes")
def duel_votes(
    files: Annotated[
        list[Path], typer.Argument(help="Votes that readers exported, one file each.")
    ],
) -> None:
    """Count the votes of one or several readers of a duel: shares, intervals, agreement."""
    from r2genkit.viz.widgets.duel_votes import read_votes, votes_sentence, votes_table

    ballots = read_votes(files)
    _echo_table(votes_table(ballots))
    typer.echo(f"\n{votes_sentence(ballots)}")


def _warn_unfamiliar(folder: Path, system, views: list, data_dir: Path | None) -> None:
    """One sentence on stderr where the views of a study are unlike the training images."""
    from r2genkit.experiments.familiarity import distances_of, warning

    familiarity = _familiarity(folder, system, data_dir)
    if familiarity is None:
        return
    (distances,) = distances_of(familiarity, system.encoder, system.batch(views))
    told = warning(familiarity, distances, "this study")
    if told:
        typer.echo(f"warning: {told}", err=True)


def _familiarity(folder: Path, system, data_dir: Path | None):
    """The run's measure of unlike images; None, said in one sentence, where it cannot be made."""
    from r2genkit.experiments import read_run
    from r2genkit.experiments.familiarity import familiarity_of

    try:
        return familiarity_of(
            read_run(folder, data_dir=data_dir),
            system,
            say=lambda told: typer.echo(f"note: {told} (--no-check leaves it out)", err=True),
        )
    except KitError as error:
        typer.echo(f"note: not checked for unlike images ({error})", err=True)
        return None


@app.command("private")
def private_set(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder with images and studies.csv (r2genkit data check private)."),
    ],
    run: Annotated[
        Path | None, typer.Option(help="Folder of a trained run; default: the latest one.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where files go; default: private/ in the runs folder.")
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="Name of the CSV file if it is not studies.csv.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="greedy, beam or sample; default: as the recipe, else there is no gap."),
    ] = None,
    check: Annotated[
        bool, typer.Option(help="Warn where images are unlike the training images.")
    ] = True,
    data_dir: DataDir = None,
) -> None:
    """Read a folder of your own: reports, a gallery, and with references scores and the gap."""
    from r2genkit.experiments import read_run
    from r2genkit.experiments.private_set import read_private_set, save_private
    from r2genkit.experiments.trained import latest_run, load_trained
    from r2genkit.paths import runs_dir

    chosen = run or latest_run()
    system = load_trained(chosen)
    familiarity = _familiarity(chosen, system, data_dir) if check else None
    result = read_private_set(
        read_run(chosen, data_dir=data_dir),
        folder,
        system=system,
        familiarity=familiarity,
        table=table,
        method=method,
    )
    for study_id in result.unfamiliar:
        typer.echo(f"warning: {result.warning(study_id)}", err=True)
    if result.scores:
        _echo_table(result.score_table())
    if result.gap:
        typer.echo("\nPrivate minus public test set of the run (each resampled by itself):\n")
        _echo_table(result.gap_table())
    for note in result.notes:
        typer.echo(f"note: {note}")
    place = out or runs_dir() / "private" / f"{folder.resolve().name}-{chosen.resolve().name}"
    for path in save_private(result, place).values():
        typer.echo(f"written: {path}")


@app.command()
def ablation(
    profile: Profile = "lab",
    corpus: Corpus = None,
    seed: Seed = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, counted up from --seed.")] = 1,
    private: Annotated[
        Path | None,
        typer.Option(help="Folder of a private set; the phantom has another hospital instead."),
    ] = None,
    studies: Annotated[int, typer.Option(min=1, help="Studies of the other hospital.")] = 200,
    author_weights: Annotated[
        Path | None, typer.Option(help="Checkpoint of R2GenCMN as its authors released it.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """The chain from R2GenCMN to retrieval and SCST, on a public and on a private set."""
    from r2genkit.experiments import ablation as chain
    from r2genkit.experiments.tables import published_table
    from r2genkit.metrics import METRICS
    from r2genkit.paths import results_dir

    for number in range(seed, seed + seeds):
        chain.measure_chain(
            profile,
            corpus=corpus,
            seed=number,
            data_dir=data_dir,
            private=private,
            studies=studies,
            author_weights=author_weights,
            progress=True,
        )
    rows = chain.read_ablation_rows(profile, corpus=corpus or "phantom")
    typer.echo(f"\n{chain.caption(rows)}\n")
    _echo_table(chain.ablation_table(rows))
    typer.echo("\nPaired differences to the baseline of the same seed:\n")
    _echo_table(chain.steps_table(rows))
    typer.echo("\nPublished, on real radiographs, other split and text (not comparable):\n")
    _echo_table(published_table(chain.PROTOCOL)[["system", "subset", *METRICS, "source"]])
    folder = results_dir(profile) / "tables"
    written = chain.write_ablation_tables(rows, folder)
    typer.echo("\nwritten: " + ", ".join(written))


@app.command()
def faithfulness(
    names: Annotated[list[str], typer.Argument(help="Recipes of models with attention.")],
    profile: Profile = "lab",
    seed: Seed = 0,
    limit: Annotated[
        int, typer.Option(min=1, help="Test studies whose finding words are measured.")
    ] = 120,
    fresh: Annotated[bool, typer.Option(help="Measure again what has been measured.")] = False,
) -> None:
    """Whether the maps of trained models mean something, measured on the phantom's test studies."""
    from r2genkit.experiments import faithfulness as measured
    from r2genkit.experiments import run

    for name in names:
        measured.measure_run(run(name, profile=profile, seed=seed), limit=limit, fresh=fresh)
    rows = [
        row
        for row in measured.read_faithfulness_rows(profile)
        if row.run in names and row.seed == seed
    ]
    _echo_table(measured.maps_table(rows))
    typer.echo("\nProbability of the words, and what is left of it:\n")
    _echo_table(measured.models_table(rows))


@app.command()
def score(
    predictions: Annotated[
        Path, typer.Argument(help="JSON: {study id: report}, or a run's predictions.json.")
    ],
    references: Annotated[
        Path | None, typer.Argument(help="JSON: {study id: report}; a run's file holds them.")
    ] = None,
    train: Annotated[
        Path | None,
        typer.Option(
            help="JSON with training reports: adds seen / unseen studies and the difference to "
            "the constant report found on them (about half a minute)."
        ),
    ] = None,
    compat: Annotated[str, TextRule] = "default",
    bootstrap: Annotated[int, Resamples] = 1000,
) -> None:
    """Score any predictions file: n-gram metrics and findings, by normality, with intervals."""
    from r2genkit.experiments.scoring import score_files

    _print_evaluation(
        score_files(predictions, references, train=train, compat=compat, bootstrap=bootstrap)
    )


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Folder of a finished run, or a predictions file.")],
    second: Annotated[Path, typer.Argument(help="The same, for the other system.")],
    references: Annotated[
        Path | None, typer.Argument(help="JSON: {study id: report}, where no run gives them.")
    ] = None,
    compat: Annotated[str, TextRule] = "default",
    bootstrap: Annotated[int, Resamples] = 1000,
) -> None:
    """Compare two systems on the same studies: paired differences with 95 % intervals."""
    from r2genkit.experiments.scoring import compare_predictions, comparison_table

    sides = compare_predictions(first, second, references, compat=compat, bootstrap=bootstrap)
    names = _short_names(first, second)
    _echo_table(comparison_table(*sides, names))
    typer.echo(f"\n{len(sides[0].studies)} studies; {names[0]} = {first}, {names[1]} = {second}")
    typer.echo(sides[0].signature)


def _short_names(first: Path, second: Path) -> tuple[str, str]:
    names = (first.resolve().name, second.resolve().name)
    return names if names[0] != names[1] else ("A", "B")


def _print_evaluation(evaluation) -> None:
    from r2genkit.experiments.scoring import evaluation_table, rates_table

    _echo_table(evaluation_table(evaluation))
    typer.echo()
    _echo_table(rates_table(evaluation))
    typer.echo(f"\n{evaluation.signature}")
    for note in evaluation.notes:
        typer.echo(f"note: {note}")


@app.command()
def reproduce(
    profile: Profile = "lab",
    corpus: Annotated[str, typer.Option(help="Corpus that every notebook uses.")] = "phantom",
    only: Annotated[
        list[str] | None, typer.Option(help="Two-digit number of a notebook; may be repeated.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Notebooks at the same time.")] = 1,
    seed: Seed = 0,
    seeds: Annotated[
        str,
        typer.Option(help="How many seeds each model is trained with, from --seed on, or which."),
    ] = "1",
    data_dir: DataDir = None,
    in_place: Annotated[
        bool, typer.Option(help="Write outputs back into notebooks/, scrubbed.")
    ] = False,
    solutions: Annotated[bool, typer.Option(help="Run the solution notebooks, too.")] = False,
) -> None:
    """Execute the notebooks with papermill: regenerates every table and figure."""
    from r2genkit.experiments.many import parse_seeds
    from r2genkit.experiments.reproduce import reproduce_all

    reproduce_all(
        profile=profile,
        corpus=corpus,
        only=only or (),
        jobs=jobs,
        seed=seed,
        seeds=parse_seeds(seeds, first=seed),
        data_dir=data_dir,
        in_place=in_place,
        solutions=solutions,
        echo=typer.echo,
    )


@app.command()
def table(
    profile: Profile = "lab",
    corpus: Corpus = None,
    write: Annotated[
        bool, typer.Option(help="Also write Markdown, CSV and LaTeX below data/results/tables.")
    ] = False,
    readme: Annotated[
        bool, typer.Option(help="Also put the phantom's table into README.md.")
    ] = False,
) -> None:
    """Print the result tables, one per corpus and protocol, and the published numbers."""
    from r2genkit.experiments.results import read_rows
    from r2genkit.experiments.tables import (
        caption,
        group_rows,
        published_table,
        results_table,
        update_readme,
        write_all_tables,
    )
    from r2genkit.paths import project_root, results_dir

    rows = read_rows(profile, corpus=corpus)
    if not rows:
        raise KitError(f"no result rows for profile {profile}: run r2genkit reproduce first")
    for group in group_rows(rows).values():
        typer.echo(f"\n{caption(group)}\n")
        _echo_table(results_table(group))
    typer.echo("\nPublished numbers, each under its own protocol (not comparable across):\n")
    _echo_table(published_table())
    if write:
        folder = results_dir(profile) / "tables"
        typer.echo("\nwritten: " + ", ".join(write_all_tables(rows, folder=folder)))
    if readme:
        phantom = [row for row in rows if row.corpus == "phantom" and row.protocol == "grouped"]
        update_readme(project_root() / "README.md", phantom)


def main() -> None:
    """Entry point: one sentence and exit code 2 for what the user can mend."""
    try:
        app(standalone_mode=False)
    except KitError as error:
        if getattr(_options, "debug", False):
            raise
        typer.echo(f"r2genkit: {error}", err=True)
        sys.exit(2)
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        typer.echo(
            "r2genkit: stopped; a started run resumes when the command is repeated", err=True
        )
        sys.exit(130)
    except Exception as error:
        usage = getattr(error, "format_message", None)
        if usage is None or getattr(_options, "debug", False):
            raise
        typer.echo(f"r2genkit: {usage()} (see --help)", err=True)
        sys.exit(2)
