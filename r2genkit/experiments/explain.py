"""One study of a trained run, word by word: what ``r2genkit explain`` shows."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from r2genkit.corpora import load_corpus
from r2genkit.errors import KitError
from r2genkit.experiments.data import PreparedText
from r2genkit.experiments.faithfulness import find_units, read_faithfulness_rows, sentence_of
from r2genkit.experiments.private_set import pixels_of, views_of
from r2genkit.experiments.runner import RunResult
from r2genkit.experiments.trained import TrainedSystem
from r2genkit.metrics.faithfulness import (
    energy,
    energy_chance,
    entropy,
    pointing,
    pointing_chance,
)
from r2genkit.metrics.findings import default_labeler
from r2genkit.study import Study, by_id
from r2genkit.viz.transformer import drawn_masks
from r2genkit.viz.widgets.scrubber import (
    AVERAGE,
    ScrubberData,
    scrubber_data,
    side_by_side,
    with_maps,
)

_PARTS = {"train": "training", "validation": "validation", "test": "test"}


def find_study(result: RunResult, study_id: str) -> tuple[Study, str]:
    """A study of a run's corpus, and one sentence that says to which part of the split it belongs.

    Args:
        result: a finished run.
        study_id: of a study in any part, or of one that the split leaves out.

    Raises:
        KitError: no such study; the nearest ids are named.
    """
    text = result.text()
    if study_id in text.studies:
        return text.studies[study_id], _part(text, study_id, result.recipe.title)
    data = result.recipe.data
    # As ``prepare_text`` reads it, before its filters.
    options = {"seed": data.split_seed} if data.corpus == "phantom" else {}
    every = by_id(load_corpus(data.corpus, data_dir=result.data_dir, **options))
    if study_id in every:
        told = f"Study {study_id} is in no part of the split of {result.recipe.title}."
        return every[study_id], told
    near = difflib.get_close_matches(study_id, every, n=3, cutoff=0.5)
    told = "the nearest ids are" if near else "ids of its test set are"
    raise KitError(
        f"corpus {data.corpus} has no study {study_id!r}: {told} "
        f"{', '.join(near or text.split.test[:3])}"
    )


def _part(text: PreparedText, study_id: str, system: str) -> str:
    part = next(name for name in _PARTS if study_id in getattr(text.split, name))
    seen = {
        "train": f"; {system} learnt from its report",
        "validation": f"; its report helped to choose the weights of {system}",
        "test": "",
    }
    return f"Study {study_id} is in the {_PARTS[part]} set{seen[part]}."


def measured(result: RunResult) -> dict[str, str]:
    """What has been measured about the attention of this very run, to stand under its map.

    By name of the map; empty where ``r2genkit faithfulness`` has not measured the run, or has
    measured it with another recipe, seed or code.
    """
    row = result.row
    own = ("run", "seed", "recipe_hash", "code_hash", "split_fingerprint")
    for found in read_faithfulness_rows(row.profile, corpus=row.corpus):
        if found.map == "attention" and all(getattr(found, k) == getattr(row, k) for k in own):
            return {AVERAGE: sentence_of(found)}
    return {}


def explain_study(
    system: TrainedSystem,
    study: Study,
    *,
    name: str,
    notes: Sequence[str] = (),
    numbers: Mapping[str, str] | None = None,
    method: str | None = None,
) -> ScrubberData:
    """The report that a system writes about a study, with its maps; of a phantom, with outlines.

    Args:
        system: a trained system that attends.
        study: with at least one image.
        name: heading of the report.
        notes: sentences below the title.
        numbers: measured over many studies, one sentence by name of a map (:func:`measured`);
            what this report says of each map (:func:`report_numbers`) stands behind it.
        method: "greedy", "beam" or "sample"; default: as the recipe decodes.

    Raises:
        KitError: no image, a model without attention, an empty report, or an unknown method.
    """
    seen = views_of(study)
    pixels = pixels_of(study, system.recipe.encoder)
    places = [study.views.index(view) for view in seen]
    titles = default_labeler().titles
    drawn = drawn_masks(study, system.recipe.encoder.image_size)
    data = _explained(
        system,
        pixels,
        title=f"Where the model looks: study {study.id}",
        name=name,
        view_names=[
            view.projection if view.projection != "unknown" else f"view {number}"
            for number, view in enumerate(seen, 1)
        ],
        masks={titles[found]: mask[places] for found, mask in drawn.items() if mask[places].any()},
        notes=notes,
        method=method,
        synthetic=system.synthetic,
    )
    return _with_numbers(data, numbers, study if drawn else None, places)


def explain_runs(results: Sequence[RunResult], study_id: str) -> ScrubberData:
    """What several finished runs write about one study, above one another, each with its numbers.

    Args:
        results: runs of systems that attend, on one corpus.
        study_id: of a study that the first one can find (:func:`find_study`).

    Raises:
        KitError: no run, no such study, or as :func:`explain_study`.
    """
    if not results:
        raise KitError("there is no run to explain: give at least one")
    study, _ = find_study(results[0], study_id)
    return side_by_side(
        *(
            explain_study(each.system(), study, name=each.row.title, numbers=measured(each))
            for each in results
        )
    )


def explain_images(
    system: TrainedSystem,
    frontal: Path,
    lateral: Path | None = None,
    *,
    name: str,
    notes: Sequence[str] = (),
    numbers: Mapping[str, str] | None = None,
    method: str | None = None,
) -> ScrubberData:
    """As :func:`explain_study`, of one or two image files.

    Raises:
        KitError: an unreadable file, or as ``explain_study``.
    """
    pixels = system.read(frontal, lateral)
    told = list(notes)
    if system.synthetic:
        told.append(
            f"{name} was trained on synthetic phantom images; what it writes about a real "
            "radiograph means nothing clinically."
        )
    data = _explained(
        system,
        pixels,
        title=f"Where the model looks: {Path(frontal).name}",
        name=name,
        view_names=["frontal", "lateral"][: len(pixels)],
        masks={},
        notes=told,
        method=method,
        synthetic=False,
    )
    return _with_numbers(data, numbers)


def _explained(
    system: TrainedSystem,
    pixels: Sequence[np.ndarray],
    *,
    name: str,
    method: str | None,
    **options,
) -> ScrubberData:
    hypothesis = system.report_of(pixels, method=method, trace=True)
    if "attention" not in hypothesis.trace:
        raise KitError(
            f"{system.recipe.title} does not attend to patches, so its words have no maps: take "
            "another run, such as one of 03_show_attend_tell or 06_r2gen"
        )
    if not hypothesis.text:
        raise KitError(f"{system.recipe.title} writes an empty report: there is no word to show")
    return scrubber_data(hypothesis, pixels, system=name, **options)


def _with_numbers(
    data: ScrubberData,
    measured: Mapping[str, str] | None,
    study: Study | None = None,
    places: Sequence[int] = (),
) -> ScrubberData:
    """The same with a number under every map: of many studies where there is one, of this report.

    Args:
        data: one report.
        measured: sentences about maps over many studies.
        study: of the phantom, if it is known what was drawn where.
        places: which of the study's two views are shown.
    """
    own = report_numbers(data, study, places)
    told = {name: f"{(measured or {}).get(name, '')} {text}".strip() for name, text in own.items()}
    return with_maps(data, numbers=told)


def report_numbers(
    data: ScrubberData, study: Study | None = None, places: Sequence[int] = ()
) -> dict[str, str]:
    """What can be said of the maps of one report, one sentence by map.

    On a study of the phantom: pointing game and energy of the words that name a finding which was
    drawn, beside what a patch drawn evenly and an even map would get. Everywhere: how even the
    words' maps are.

    Args:
        data: one report, its maps ``[T, V, h, w]``.
        study: of the phantom; None where nobody knows what is where.
        places: which of the study's two views the maps are over.
    """
    (report,) = data.reports
    words = " ".join(report.words)
    told = {}
    for name, values in report.maps.items():
        flat = values.reshape(len(values), -1)  # [T, V * h * w]
        with np.errstate(invalid="ignore"):
            even = entropy(flat)
        even = even[~np.isnan(even)]
        sentence = f"entropy {even.mean():.2f} (1: an even look)" if len(even) else "an empty map"
        units = []
        if study is not None and values.shape[2] == values.shape[3]:
            units = find_units({study.id: words}, {study.id: study}, grid=values.shape[2])
        pairs = []
        for unit in units:
            cover = unit.cover.reshape(2, -1)[list(places)].ravel()  # [V * h * w]
            looks = flat[list(unit.places)]  # [W, V * h * w]
            if cover.any() and looks.any(1).all():
                same = np.broadcast_to(cover, looks.shape)
                pairs.append(
                    (
                        pointing(looks, same).mean(),
                        pointing_chance(cover),
                        energy(looks, same).mean(),
                        energy_chance(cover),
                    )
                )
        if pairs:
            hit, chance, inside, even_map = np.mean(pairs, axis=0)
            sentence = (
                f"{len(pairs)} drawn finding{'s' if len(pairs) > 1 else ''}, pointing {hit:.2f} "
                f"(chance {chance:.2f}), energy {inside:.2f} (an even map {even_map:.2f}), "
                + sentence
            )
        elif study is not None:
            sentence = "no finding word that the phantom drew, " + sentence
        told[name] = f"In this report: {sentence}."
    return told
