"""Single studies as a finished run's model reads them, for whoever shows what it does with them."""

from __future__ import annotations

from collections.abc import Sequence

from r2genkit.batches import Batch
from r2genkit.errors import KitError
from r2genkit.experiments.data import report_loader
from r2genkit.experiments.runner import RunResult
from r2genkit.experiments.tagging import decoder_tags
from r2genkit.experiments.trained import TrainedSystem


def minibatches_of(
    result: RunResult, system: TrainedSystem, part: str, study_ids: Sequence[str]
) -> dict[str, Batch]:
    """A minibatch of one study each, with tags and neighbours, as the run decodes the part.

    Args:
        result: a finished run.
        system: its trained model.
        part: "train", "validation" or "test".
        study_ids: of the part.

    Raises:
        KitError: a study is not of the part.
    """
    text = result.text()
    unknown = sorted(set(study_ids) - set(text.part(part)))
    if unknown:
        raise KitError(
            f"study {unknown[0]} is not in the {part} part of the split: choose another study or "
            "part."
        )
    recipe, tags, retriever = system.recipe, system.tags, system.retriever
    loader = report_loader(
        recipe,
        text,
        result.images(),
        part,
        seed=result.row.seed,
        training=False,
        tags=None if tags is None else decoder_tags(recipe.tags, tags, text, part),
        neighbours=None if retriever is None else retriever.neighbours(text.part(part)),
        layout=system.model.layout,
    )
    wanted, found = set(study_ids), {}
    for batch in loader:
        for row, study in enumerate(batch.study_ids):
            if study in wanted:
                found[study] = batch.select([row])
        if len(found) == len(wanted):
            break
    return found
