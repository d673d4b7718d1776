"""A trained run as a system: radiographs in, report out.

A finished run's folder is self-contained: recipe, vocabulary, weights, projection of the patch
features and finding classifier are read from it, and so is an encoder that was pre-trained on
tags; only a frozen encoder's published weights come from where they always come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from r2genkit.batches import Batch
from r2genkit.corpora import CORPORA
from r2genkit.decoding import DecodingConfig, decode
from r2genkit.encoders import Encoder, build_encoder
from r2genkit.encoders.features import PCA
from r2genkit.encoders.tags import Tags
from r2genkit.errors import KitError
from r2genkit.experiments.recipe import Recipe
from r2genkit.experiments.tagging import sharpen
from r2genkit.files import replacing
from r2genkit.images import load_image, resize
from r2genkit.models import build_model
from r2genkit.models.base import ReportModel
from r2genkit.paths import runs_dir
from r2genkit.study import Hypothesis
from r2genkit.text.vocabulary import Vocabulary
from r2genkit.training.checkpoints import Checkpoints, load_weights
from r2genkit.viz.attention import attention_figure

ENCODER_FILE = "encoder.safetensors"
PCA_FILE = "pca.safetensors"
TAGS_FOLDER = "tags"
RETRIEVAL_FOLDER = "retrieval"


@dataclass
class TrainedSystem:
    """Everything that turns the radiographs of one study into a report.

    Attributes:
        recipe: what it was trained with.
        model: in evaluation mode.
        vocabulary: its words.
        encoder: frozen image encoder, or the trained one inside the model.
        pca: projection of the patch features, or None.
        tags: finding classifier, or None.
        retriever: finds similar training studies, or None.
    """

    recipe: Recipe
    model: ReportModel
    vocabulary: Vocabulary
    encoder: Encoder
    pca: PCA | None
    tags: Tags | None
    retriever: Any = None

    @property
    def synthetic(self) -> bool:
        """Whether it was trained on rendered images."""
        return CORPORA[self.recipe.data.corpus].synthetic

    @torch.no_grad()
    def batch(self, views: Sequence[np.ndarray]) -> Batch:
        """A minibatch of one study from one or two grey images uint8 ``[H, W]``.

        Raises:
            KitError: no view, or more than two.
        """
        if not 1 <= len(views) <= 2:
            raise KitError(f"{len(views)} views given: a study has one or two radiographs")
        size = self.recipe.encoder.image_size
        mask = torch.tensor([[slot < len(views) for slot in range(2)]])
        pixels = torch.zeros(2, size, size, dtype=torch.uint8)
        for slot, view in enumerate(views):
            pixels[slot] = torch.from_numpy(np.array(view))  # a copy: caches are read-only
        images = self.encoder.preprocess(pixels).unsqueeze(0) * mask[:, :, None, None, None]
        batch = Batch(study_ids=("study",), images=images, features=None, view_mask=mask)
        if self.model.encoder is not None:
            return self._retrieved(batch)
        features = self.encoder.encode_views(images, mask)
        if self.pca is not None:
            features = self.pca(features)
        # Cached features were stored in half precision, absent views as zeros.
        batch.features = features.half().float() * mask[:, :, None, None]
        batch.images = None
        if self.tags is not None:
            config = self.recipe.tags
            probabilities = self.tags.model.logits(batch).sigmoid().numpy()
            told = sharpen(probabilities, config.sharpness, config.called_at)
            batch.tags = torch.from_numpy(told)
        return self._retrieved(batch)

    def _retrieved(self, batch: Batch) -> Batch:
        if self.retriever is not None:
            batch.neighbours = self.retriever.of_batch(batch)
        return batch

    def read(self, frontal: Path, lateral: Path | None = None) -> list[np.ndarray]:
        """Decode one or two image files at the encoder's size.

        Raises:
            KitError: a file is missing or unreadable.
        """
        encoder = self.recipe.encoder
        size, packed = encoder.image_size, encoder.packed_size or encoder.image_size
        paths = (Path(path) for path in (frontal, lateral) if path is not None)
        # In two steps where training images were made in two.
        return [resize(load_image(path, packed), (size, size)) for path in paths]

    def report(
        self,
        frontal: Path,
        lateral: Path | None = None,
        *,
        method: str | None = None,
        trace: bool = False,
    ) -> Hypothesis:
        """Write the report of one study.

        Args:
            frontal: file of the frontal radiograph.
            lateral: file of the lateral one, if there is one.
            method: "greedy", "beam" or "sample"; default: as the recipe decodes.
            trace: also return what figures need.

        Raises:
            KitError: unreadable file or unknown method.
        """
        return self.report_of(self.read(frontal, lateral), method=method, trace=trace)

    def report_of(
        self, views: Sequence[np.ndarray], *, method: str | None = None, trace: bool = False
    ) -> Hypothesis:
        """As ``report``, from grey images uint8 ``[size, size]``."""
        config = self.recipe.decoding
        if method is not None:
            if method not in ("greedy", "beam", "sample"):
                raise KitError(f"unknown decoding method {method!r}: choose greedy, beam or sample")
            content = {**config.model_dump(), "method": method, "samples": 1}
            config = DecodingConfig.model_validate(content)
        ((hypothesis, *_),) = decode(
            self.model,
            self.batch(views),
            config,
            vocabulary=self.vocabulary,
            seed=0,
            trace=trace,
        )
        return hypothesis

    def save_attention(
        self, hypothesis: Hypothesis, frontal: Path, lateral: Path | None, path: Path
    ) -> None:
        """Save where the model looked for each word, or each sentence, over the views; atomic.

        Raises:
            KitError: the model has no attention.
        """
        if "attention" not in hypothesis.trace:
            raise KitError(f"{self.recipe.title} has no attention to draw: leave out --attention")
        views = np.stack(self.read(frontal, lateral))
        if "sentence" in hypothesis.trace:
            # Imported here: figures of sentences share code with those of result rows.
            from r2genkit.viz.sentences import sentence_attention_figure, sentence_rows

            sentences, rows = sentence_rows(hypothesis)
            figure = sentence_attention_figure(views, rows["attention"], sentences)
        else:
            seen = hypothesis.trace["attention"]
            figure = attention_figure(views, seen, hypothesis.text.split())
        with replacing(path) as temporary:
            figure.savefig(temporary, format=Path(path).suffix.lstrip(".") or "png", dpi=110)
        plt.close(figure)


def load_trained(folder: Path) -> TrainedSystem:
    """Read a trained system from its run's folder.

    Raises:
        KitError: the folder holds no finished training run.
    """
    folder = Path(folder)
    if not (folder / "row.json").is_file():
        raise KitError(f"{folder} holds no finished run: train one with r2genkit train")
    recipe = Recipe.model_validate_json((folder / "recipe.json").read_text(encoding="utf-8"))
    if recipe.model is None:
        raise KitError(f"{folder} holds the baseline {recipe.run}, which does not read images")
    vocabulary = Vocabulary.load(folder / "vocabulary.json")
    weights: str | Path = recipe.encoder.weights
    if recipe.encoder.trainable:
        weights = "none"  # they are part of the model's own
    elif recipe.encoder.pretraining is not None:
        weights = folder / ENCODER_FILE
    encoder = build_encoder(
        recipe.encoder.name, weights=weights, trainable=recipe.encoder.trainable
    )
    pca = PCA.load(folder / PCA_FILE) if (folder / PCA_FILE).is_file() else None
    tags = Tags.load(folder / TAGS_FOLDER) if recipe.tags else None
    model = build_model(
        recipe.model.name,
        recipe.model.settings,
        vocabulary_size=len(vocabulary),
        feature_dim=encoder.dim if pca is None else len(pca.components),
        tag_count=0 if tags is None else len(tags.types),
        encoder=encoder if recipe.encoder.trainable else None,
        full_stop=vocabulary.full_stop,
    )
    load_weights(model, Checkpoints(folder, {}, None).best())
    retriever = None
    if recipe.retrieval is not None:
        kind = import_module("r2genkit.experiments.retrieving").Retriever
        retriever = kind.load(folder / RETRIEVAL_FOLDER)
    return TrainedSystem(recipe, model.eval(), vocabulary, encoder.eval(), pca, tags, retriever)


def latest_run() -> Path:
    """Folder of the most recently finished training run of the lab or paper profile.

    Raises:
        KitError: nothing has been trained yet.
    """
    found = [
        path.parent
        for profile in ("paper", "lab")
        for path in (runs_dir() / profile).glob("*/*/row.json")
        if (path.parent / "checkpoints").is_dir()
    ]
    if not found:
        raise KitError(
            "no trained model yet: run r2genkit train 03_show_attend_tell, or name a run's folder "
            "with --run"
        )
    return max(found, key=lambda folder: (folder / "row.json").stat().st_mtime)
