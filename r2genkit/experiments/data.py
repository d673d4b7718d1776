"""From a recipe's data settings to everything a run needs: studies, split, text, features, tags.

What is costly is cached on disk under a content hash by the step that makes it (images, patch
features, tags); what several recipes share within one process is kept in memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from r2genkit.batches import (
    Loader,
    ReportDataset,
    SentenceLayout,
    balance_weights,
    duplicate_weights,
    make_loader,
    token_weights,
)
from r2genkit.corpora import CORPORA, load_corpus
from r2genkit.corpora.splits import PARTS, Split, fingerprint, make_split
from r2genkit.encoders import Encoder, build_encoder
from r2genkit.encoders.features import PackedFeatures, cache_features
from r2genkit.errors import KitError
from r2genkit.experiments.recipe import (
    DataConfig,
    EncoderConfig,
    Recipe,
    SamplingConfig,
    TextConfig,
)
from r2genkit.images import ImageTransform, PackedImages, RawImages, pack_images, smaller_pack
from r2genkit.metrics.findings import OTHER, POSITIVE, FindingLabeler, default_labeler
from r2genkit.paths import data_dir as user_data_dir
from r2genkit.seeds import numpy_rng
from r2genkit.study import Study, by_id
from r2genkit.text.cleaning import clean_report
from r2genkit.text.sentences import normalise, split_sentences
from r2genkit.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from r2genkit.experiments.pretraining import Pretraining


@dataclass
class PreparedText:
    """Studies of one split with their targets; no pixel has been touched yet.

    Attributes:
        data, rules: the settings it was prepared from.
        studies: every study of the split by id.
        split: id lists as used, limits applied.
        texts: raw target text by id.
        vocabulary: built from the training texts only.
        references: what hypotheses are scored against, by id.
    """

    data: DataConfig
    rules: TextConfig
    studies: dict[str, Study]
    split: Split
    texts: dict[str, str]
    vocabulary: Vocabulary
    references: dict[str, str]
    labeler: FindingLabeler = field(default_factory=default_labeler)

    @property
    def synthetic(self) -> bool:
        """Whether the images are rendered."""
        return CORPORA[self.data.corpus].synthetic

    def part(self, name: str) -> tuple[str, ...]:
        """Study ids of "train", "validation" or "test"."""
        return getattr(self.split, name)

    @cached_property
    def cleaned(self) -> dict[str, str]:
        """Whole cleaned target text by id."""
        compat = self.rules.compat
        return {study_id: clean_report(text, compat) for study_id, text in self.texts.items()}

    @cached_property
    def train_texts(self) -> list[str]:
        """Reference form of the training reports, for memorisation measures."""
        return [self.references[study_id] for study_id in self.split.train]

    def normal(self, ids: Sequence[str]) -> dict[str, bool | None]:
        """Whether each study is normal, as coded by its corpus."""
        return {study_id: self.studies[study_id].normal for study_id in ids}

    def coded(self, ids: Sequence[str]) -> dict[str, list[str]] | None:
        """Coded finding types of each study; None where the corpus has no codes."""
        if not any(study.findings for study in self.studies.values()):
            return None
        return {i: [finding.name for finding in self.studies[i].findings] for i in ids}

    def true_findings(self) -> dict[str, set[str]]:
        """What each study shows, by id: "type" and "type/attribute", for oracles.

        Coded findings with their sides, places and degrees; where the corpus has no codes, the
        types that the target report states.
        """
        if self.coded(()) is None:
            names = self.labeler.findings
            return {i: {names[k] for k in np.flatnonzero(row)} for i, row in self.labels.items()}
        found = {}
        for study_id in self.texts:
            described: set[str] = set()
            for finding in self.studies[study_id].findings:
                if finding.name != OTHER:
                    attributes = {*finding.sides, *finding.locations, finding.severity} - {None}
                    described |= {finding.name, *(f"{finding.name}/{a}" for a in attributes)}
            found[study_id] = described
        return found

    @cached_property
    def labels(self) -> dict[str, np.ndarray]:
        """Text findings ``[F]`` (1 positive) of every target report, by id."""
        ids = list(self.texts)
        matrix = self.labeler.label_matrix([self.cleaned[study_id] for study_id in ids]) == POSITIVE
        return dict(zip(ids, matrix))

    def token_ids(self, ids: Sequence[str]) -> list[list[int]]:
        """Encoded target reports, begin mark first."""
        length = self.rules.max_length
        return [self.vocabulary.encode(self.texts[study_id], length) for study_id in ids]


def _limited(split: Split, data: DataConfig) -> Split:
    """The split with each part cut to its limit after a seeded shuffle."""
    limits = (data.limit_train, data.limit_validation, data.limit_test)
    if not any(limits):
        return split
    kept = {}
    for name, limit in zip(PARTS, limits):
        ids = sorted(getattr(split, name))
        if limit is not None and limit < len(ids):
            rng = numpy_rng(data.split_seed, f"limit/{name}")
            ids = sorted(rng.permutation(ids)[:limit].tolist())
        kept[name] = tuple(ids)
    return dataclasses.replace(split, **kept, fingerprint=fingerprint(kept))


@lru_cache(maxsize=4)
def prepare_text(data: DataConfig, text: TextConfig, data_dir: Path | None = None) -> PreparedText:
    """Load the corpus, split it, build the vocabulary and the references.

    Kept in memory for the next recipe with the same settings.

    Args:
        data: corpus, split and limits, nothing left at "auto".
        text: cleaning, vocabulary and reference rules, nothing left at "auto".
        data_dir: the user's folder for corpora that need one; default ``R2GENKIT_DATA``.

    Raises:
        KitError: no study is left after the recipe's filters, or the corpus is unusable.
    """
    data_dir = data_dir or (None if data.corpus == "phantom" else user_data_dir())
    options = {"seed": data.split_seed} if data.corpus == "phantom" else {}
    loaded = load_corpus(data.corpus, data_dir=data_dir, **options)
    studies = [
        study
        for study in loaded
        if len(clean_report(study.text(data.section), text.compat).split()) >= data.min_words
        and any(view.image is not None for view in study.views)
    ]
    if not studies:
        raise KitError(
            f"corpus {data.corpus}: none of {len(loaded)} studies has both an image and a "
            f"{data.section} text of {data.min_words} words; name the folder with --data-dir"
        )
    annotation = data_dir / "annotation.json" if data_dir is not None else None
    split = make_split(
        data.split, studies, seed=data.split_seed, section=data.section, annotation=annotation
    )
    split = _limited(split, data)
    for name in PARTS:
        if not getattr(split, name):
            raise KitError(
                f"split {data.split} of corpus {data.corpus} has an empty {name} part: "
                "choose another split or raise its limit"
            )
    used = by_id(studies)
    ids = [study_id for name in PARTS for study_id in getattr(split, name)]
    texts = {study_id: used[study_id].text(data.section) for study_id in ids}
    vocabulary = Vocabulary.build(
        (texts[study_id] for study_id in split.train), min_count=text.min_count, compat=text.compat
    )
    if text.references == "truncated":
        references = {
            study_id: vocabulary.truncated(texts[study_id], text.max_length) for study_id in ids
        }
    else:
        references = {study_id: clean_report(texts[study_id], text.compat) for study_id in ids}
    return PreparedText(
        data,
        text,
        {study_id: used[study_id] for study_id in ids},
        split,
        texts,
        vocabulary,
        references,
    )


@dataclass
class PreparedImages:
    """Packed images and, for a frozen encoder, its cached patch features.

    ``pretraining`` is the finished pre-training that the encoder's weights come from, if any.
    """

    encoder: Encoder
    images: PackedImages | RawImages
    features: PackedFeatures | None
    pretraining: Pretraining | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a result row must say about the encoder."""
        return () if self.pretraining is None else (self.pretraining.note,)


@lru_cache(maxsize=2)
def prepare_images(
    data: DataConfig,
    text: TextConfig,
    encoder: EncoderConfig,
    data_dir: Path | None = None,
    progress: bool = True,
) -> PreparedImages:
    """Pack the images of all studies of the split and cache the frozen encoder's features.

    Kept in memory for the next recipe with the same settings; on disk under content hashes.
    """
    prepared = prepare_text(data, text, data_dir)
    weights: str | Path = encoder.weights
    pretraining = None
    if encoder.pretraining is not None:
        # Imported here: pre-training itself builds on the texts and splits of this module.
        from r2genkit.experiments.pretraining import pretrained

        pretraining = pretrained(encoder.pretraining, prepared, progress=progress)
        weights = pretraining.weights
    network = build_encoder(encoder.name, weights=weights, trainable=encoder.trainable)
    studies = list(prepared.studies.values())
    if encoder.augment == "r2gen":
        # Random crops need more than the input size: files are read at their own, renderings at
        # the 256 / 224 of R2Gen.
        size = round(encoder.image_size * 256 / 224)
        images = (
            pack_images(studies, size=size, progress=progress)
            if CORPORA[data.corpus].synthetic
            else RawImages(studies)
        )
        return PreparedImages(network, images, None, pretraining)
    packed = pack_images(studies, size=encoder.packed_size or encoder.image_size, progress=progress)
    images = smaller_pack(packed, encoder.image_size)
    if encoder.trainable:
        return PreparedImages(network, images, None, pretraining)
    features = cache_features(
        network,
        images,
        list(prepared.studies),
        pca=encoder.pca,
        pca_ids=prepared.split.train,
        progress=progress,
    )
    if encoder.pca:
        features.in_memory()
    return PreparedImages(network, images, features, pretraining)


def report_loader(
    recipe: Recipe,
    text: PreparedText,
    prepared: PreparedImages,
    part: str,
    *,
    seed: int,
    training: bool,
    tags: np.ndarray | None = None,
    neighbours: np.ndarray | None = None,
    layout: SentenceLayout | None = None,
    batch_size: int | None = None,
) -> Loader:
    """Minibatches of one part: shuffled and weighted for training, in order for decoding.

    Args:
        recipe: its sampling and encoder settings.
        text: studies, split and vocabulary.
        prepared: images or patch features of the same studies.
        part: "train", "validation" or "test".
        seed: the run's seed.
        training: whether to shuffle, weight and augment.
        tags: ``[N, F]`` finding probabilities of the part's studies, in order.
        neighbours: ``[N, K, L]`` token ids of the reports retrieved for them.
        layout: how the model wants reports cut into sentences (``model.layout``).
        batch_size: studies per minibatch; default the recipe's (training) or 64 (decoding).
    """
    ids = text.part(part)
    if training:
        tokens, weights = training_reports(text, ids, recipe.sampling)
    else:
        tokens, weights = text.token_ids(ids), None
    end_to_end = prepared.features is None
    transform = None
    if recipe.encoder.augment == "r2gen":
        mode = "r2gen_train" if training else "r2gen_eval"
        transform = ImageTransform(mode, recipe.encoder.image_size)
    dataset = ReportDataset(
        ids,
        images=prepared.images if end_to_end else None,
        features=prepared.features,
        tokens=tokens,
        token_weights=weights,
        tags=tags,
        neighbours=neighbours,
        transform=transform,
        preprocess=prepared.encoder.preprocess if end_to_end else None,
        layout=layout,
    )
    if not training:
        return make_loader(dataset, batch_size or 64, shuffle=False, seed=seed)
    return make_loader(
        dataset,
        batch_size or recipe.sampling.batch_size,
        seed=seed,
        sample_weights=_study_weights(text, ids, recipe.sampling),
        epoch_studies=recipe.sampling.epoch_studies,
    )


def _study_weights(
    text: PreparedText, ids: Sequence[str], sampling: SamplingConfig
) -> np.ndarray | None:
    weights = np.ones(len(ids))
    if sampling.balance_cap:
        weights *= balance_weights(
            np.stack([text.labels[study_id] for study_id in ids]), cap=sampling.balance_cap
        )
    if sampling.duplicate_power:
        weights *= duplicate_weights(
            [normalise(text.texts[study_id]) for study_id in ids], power=sampling.duplicate_power
        )
    return None if (weights == 1).all() else weights


def training_reports(
    text: PreparedText, ids: Sequence[str], sampling: SamplingConfig
) -> tuple[list[list[int]], list[np.ndarray] | None]:
    """Token ids of the reports to learn from, and the weight of each of their target tokens.

    With ``sentence_order: findings_first``, sentences that state a finding come before all others,
    in the order of the labeler's finding types. Where in a report a finding is mentioned is the
    radiologist's habit, not in the image; a writer that must guess the place finds a sentence of
    normality more probable at every place, and never mentions the finding. References keep their
    order. None of the reproduced papers does this.

    Raises:
        KitError: sentences are to be ordered in texts without full stops.
    """
    period, length = text.vocabulary.full_stop, text.rules.max_length
    reorder = sampling.sentence_order == "findings_first"
    if reorder and period is None:
        raise KitError(
            f"sampling.sentence_order is findings_first, but the text rules {text.rules.compat} "
            "leave no full stops to cut sentences at: set it to written"
        )
    if not reorder and sampling.positive_weight == 1.0:
        return text.token_ids(ids), None
    tokens, weights = [], []
    for study_id in ids:
        report = text.cleaned[study_id]
        sentences = split_sentences(report)
        if period is None:
            sentences = [" ".join(sentences)]
        positive = text.labeler.label_matrix(sentences) == POSITIVE  # [sentences, F]
        stated = positive.any(axis=1)
        if reorder:
            # argmax: the first type that a sentence states.
            place = np.where(stated, positive.argmax(axis=1), positive.shape[1])
            order = np.argsort(place, kind="stable")
            report = " . ".join(sentences[i] for i in order) + " ."
            stated = stated[order]
        tokens.append(text.vocabulary.encode(report, length))
        weights.append(token_weights(tokens[-1], period, stated.tolist(), sampling.positive_weight))
    return tokens, weights
