"""Minibatches: one record for every model, and loaders whose order can be rebuilt at any step.

A loader plans a whole epoch (which study goes into which minibatch) from the run's seed and the
epoch number alone, so a run resumed at step *k* of epoch *e* sees exactly the minibatches that the
uninterrupted run would have seen: ``loader.set_epoch(e); loader.skip(k)``.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from r2genkit.errors import KitError
from r2genkit.seeds import numpy_rng


@dataclasses.dataclass(frozen=True)
class SentenceLayout:
    """How a report is cut for models that write sentence by sentence.

    Attributes:
        full_stop: id of the full stop, which ends a sentence.
        sentences: most sentences of a report (M); further ones are left out.
        words: most words of a sentence; further ones are left out.
    """

    full_stop: int
    sentences: int = 8
    words: int = 50


@dataclasses.dataclass
class Batch:
    """A minibatch of B studies with V view slots, T token positions and F finding types.

    The fields on sentences are filled where a ``SentenceLayout`` was given. Of M sentences with at
    most W words each, absent ones have length 0. A sentence is begin mark 0, words without full
    stop, end mark 0; one that was cut off, or that has as many words as the layout allows, has no
    end mark (it ends by itself).

    Attributes:
        study_ids: B ids.
        images: normalised pixels ``[B, V, 3, H, W]``, or None; absent views are zero.
        features: patch features ``[B, V, S, D]``, or None; absent views are zero.
        view_mask: ``[B, V]`` bool, True where the view is present.
        tokens: ``[B, T]`` int64, begin mark 0 first, padded with 0.
        lengths: ``[B]`` int64, positions in use, begin mark and (when present) end mark included.
        token_weights: ``[B, T-1]`` loss weight of target ``tokens[:, 1:]``; 0 on padding.
        tags: ``[B, F]`` predicted finding probabilities that a decoder may read.
        labels: ``[B, F]`` true findings (0/1) that a finding classifier is trained on.
        neighbours: ``[B, K, L]`` int64, token ids of K retrieved reports per study, begin mark
            first, padded with 0; all zero where there is no k-th neighbour.
        sentences: ``[B, M, W+1]`` int64, the report's sentences.
        sentence_lengths: ``[B, M]`` int64, positions in use, marks included.
        sentence_weights: ``[B, M, W]`` loss weight of target ``sentences[:, :, 1:]``.
        stops: ``[B, M]`` int64: 1 where the report ends after the sentence, 0 where it goes on,
            -1 where nothing is to be decided (absent, last allowed, or cut off).
        spare: True where another process serves these studies: fewer were left in the last
            minibatch than there are processes, and this one takes part without weight.
    """

    study_ids: tuple[str, ...]
    images: Tensor | None
    features: Tensor | None
    view_mask: Tensor
    tokens: Tensor | None = None
    lengths: Tensor | None = None
    token_weights: Tensor | None = None
    tags: Tensor | None = None
    labels: Tensor | None = None
    neighbours: Tensor | None = None
    sentences: Tensor | None = None
    sentence_lengths: Tensor | None = None
    sentence_weights: Tensor | None = None
    stops: Tensor | None = None
    spare: bool = False

    def __len__(self) -> int:
        return len(self.study_ids)

    def _map(self, function: Callable[[Tensor], Tensor], study_ids: tuple[str, ...]) -> Batch:
        changed: dict = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            changed[field.name] = function(value) if isinstance(value, Tensor) else value
        changed["study_ids"] = study_ids
        return Batch(**changed)

    def to(self, device: str | torch.device, *, non_blocking: bool = False) -> Batch:
        """The same minibatch with every tensor on ``device``."""
        return self._map(lambda t: t.to(device, non_blocking=non_blocking), self.study_ids)

    def pin_memory(self) -> Batch:
        """The same minibatch in page-locked memory (called by torch's DataLoader)."""
        return self._map(lambda t: t.pin_memory(), self.study_ids)

    def repeat(self, n: int) -> Batch:
        """Each study n times in a row: ``[a, b] -> [a, a, b, b]`` for n = 2."""
        ids = tuple(study_id for study_id in self.study_ids for _ in range(n))
        return self._map(lambda t: t.repeat_interleave(n, dim=0), ids)

    def select(self, index: Sequence[int] | slice | Tensor) -> Batch:
        """The studies named by ``index``: positions, a slice, or a bool mask of length B."""
        if isinstance(index, slice):
            positions = list(range(len(self)))[index]
        else:
            plain = np.asarray(index.tolist() if isinstance(index, Tensor) else index)
            if plain.dtype == bool:
                plain = np.flatnonzero(plain)
            positions = [int(i) % len(self) for i in plain]
        ids = tuple(self.study_ids[i] for i in positions)

        def rows(tensor: Tensor) -> Tensor:
            at = torch.tensor(positions, dtype=torch.long, device=tensor.device)
            return tensor.index_select(0, at)

        return self._map(rows, ids)


def collate(
    study_ids: Sequence[str],
    view_mask: Tensor,
    *,
    images: Tensor | None = None,
    features: Tensor | None = None,
    tokens: Sequence[Sequence[int]] | None = None,
    token_weights: Sequence[np.ndarray] | None = None,
    tags: Tensor | None = None,
    labels: Tensor | None = None,
    neighbours: Tensor | None = None,
    layout: SentenceLayout | None = None,
) -> Batch:
    """Stack per-study data into a ``Batch``, padding token ids with 0 to the longest.

    Args:
        study_ids: B ids.
        view_mask: ``[B, V]`` bool.
        images: ``[B, V, 3, H, W]``; features: ``[B, V, S, D]``; both optional.
        tokens: B lists of ids, each starting with the begin mark 0.
        token_weights: B arrays with one weight per target token (``len(ids) - 1``); None = ones.
        tags: ``[B, F]``; labels: ``[B, F]``; neighbours: ``[B, K, L]``.
        layout: also fill the fields on sentences.

    Raises:
        KitError: a token list is shorter than 2, does not start with 0, or its weights do not
            fit it.
    """
    padded = lengths = weights = None
    cut: dict[str, Tensor] = {}
    if tokens is not None:
        for study_id, ids in zip(study_ids, tokens):
            if len(ids) < 2 or ids[0] != 0:
                raise KitError(
                    f"study {study_id}: token ids must be at least two and start with the begin "
                    "mark 0; encode the report with Vocabulary.encode."
                )
        longest = max(len(ids) for ids in tokens)
        padded = torch.zeros(len(tokens), longest, dtype=torch.long)
        weights = torch.zeros(len(tokens), longest - 1)
        for row, ids in enumerate(tokens):
            padded[row, : len(ids)] = torch.as_tensor(ids, dtype=torch.long)
            if token_weights is None:
                weights[row, : len(ids) - 1] = 1.0
                continue
            own = np.asarray(token_weights[row], dtype=np.float32)
            if own.shape != (len(ids) - 1,):
                raise KitError(
                    f"study {study_ids[row]}: {own.size} token weights for {len(ids) - 1} target "
                    "tokens; give one weight per token after the begin mark."
                )
            weights[row, : len(ids) - 1] = torch.from_numpy(own)
        lengths = torch.tensor([len(ids) for ids in tokens])
        if layout is not None:
            cut = cut_into_sentences(tokens, weights.numpy(), layout)
    return Batch(
        study_ids=tuple(study_ids),
        images=images,
        features=features,
        view_mask=view_mask,
        tokens=padded,
        lengths=lengths,
        token_weights=weights,
        tags=tags,
        labels=labels,
        neighbours=neighbours,
        **cut,
    )


def cut_into_sentences(
    tokens: Sequence[Sequence[int]], weights: np.ndarray, layout: SentenceLayout
) -> dict[str, Tensor]:
    """The fields on sentences of a ``Batch``.

    A full stop becomes the end mark of its sentence and keeps its weight; sentences without a word
    are left out.

    Args:
        tokens: B lists of ids, begin mark first; without end mark if cut off.
        weights: ``[B, T-1]`` loss weights of the targets.
        layout: see there.
    """
    reports = [_sentences(ids, row, layout.full_stop) for ids, row in zip(tokens, weights)]
    most, words = layout.sentences, layout.words
    kept = [[ids[: words + 1] for ids, _ in sentences[:most]] for sentences in reports]
    count = max(1, *map(len, kept))
    longest = max([2, *(len(ids) for sentences in kept for ids in sentences)])
    padded = torch.zeros(len(kept), count, longest, dtype=torch.long)
    own = torch.zeros(len(kept), count, longest - 1)
    lengths = torch.zeros(len(kept), count, dtype=torch.long)
    stops = torch.full((len(kept), count), -1)
    for row, (ids, sentences) in enumerate(zip(tokens, kept)):
        for place, sentence in enumerate(sentences):
            lengths[row, place] = len(sentence)
            padded[row, place, : len(sentence)] = torch.as_tensor(sentence)
            values = np.asarray(reports[row][place][1][: len(sentence) - 1])
            own[row, place, : len(sentence) - 1] = torch.from_numpy(values)
        stops[row, : len(sentences)] = 0
        last = len(sentences) - 1
        if last == most - 1 or (sentences and ids[-1] != 0):
            stops[row, last] = -1
        elif sentences:
            stops[row, last] = 1
    return {
        "sentences": padded,
        "sentence_lengths": lengths,
        "sentence_weights": own,
        "stops": stops,
    }


def _sentences(
    ids: Sequence[int], weights: np.ndarray, full_stop: int
) -> list[tuple[list[int], list[float]]]:
    """Ids (marks included) and target weights of each sentence that has a word."""
    sentences: list[tuple[list[int], list[float]]] = []
    words: list[int] = [0]
    own: list[float] = []
    for token, weight in zip(ids[1:], weights):
        ends = token in (0, full_stop)
        if ends and len(words) == 1:
            continue
        words.append(0 if ends else int(token))
        own.append(weight)
        if ends:
            sentences.append((words, own))
            words, own = [0], []
    return [*sentences, (words, own)] if len(words) > 1 else sentences


class ImageStore(Protocol):
    """What a data set needs of ``PackedImages`` and ``RawImages`` (see ``r2genkit.images``)."""

    study_ids: tuple[str, ...]
    view_mask: np.ndarray  # [N, V] bool

    def pixels(self, row: int) -> list[np.ndarray | None]:
        """One uint8 grey image ``[H, W]`` per view slot; None where the view is absent."""
        ...


class FeatureStore(Protocol):
    """What a data set needs of ``PackedFeatures`` (see ``r2genkit.encoders.features``)."""

    study_ids: tuple[str, ...]
    view_mask: np.ndarray  # [N, V] bool

    def gather(self, rows: np.ndarray) -> Tensor:
        """Float32 patch features ``[B, V, S, D]``."""
        ...


class ReportDataset:
    """Studies with pixels or patch features, and optionally reports, tags and labels.

    Args:
        study_ids: the N studies of this part, in order.
        images: image store holding at least these studies, or None.
        features: feature store holding at least these studies, or None.
        tokens: N lists of token ids (begin mark first), or None.
        token_weights: N arrays of target-token weights (see ``token_weights``), or None for ones.
        tags: ``[N, F]`` predicted probabilities for the decoder, or None.
        labels: ``[N, F]`` true findings, or None.
        neighbours: ``[N, K, L]`` token ids of retrieved reports (see ``Batch``), or None.
        transform: called as ``transform(pixels uint8 [H, W], rng) -> uint8 [S, S]`` for each view
            (``r2genkit.images.ImageTransform``); needed for raw images, optional for packed ones.
        preprocess: uint8 ``[N, H, W]`` -> float ``[N, 3, H, W]``, normally ``encoder.preprocess``;
            needed with ``images``.
        layout: how reports are cut into sentences, or None.

    Raises:
        KitError: no image source, a study without pixels or features, lengths that disagree.
    """

    def __init__(
        self,
        study_ids: Sequence[str],
        *,
        images: ImageStore | None = None,
        features: FeatureStore | None = None,
        tokens: Sequence[Sequence[int]] | None = None,
        token_weights: Sequence[np.ndarray] | None = None,
        tags: np.ndarray | Tensor | None = None,
        labels: np.ndarray | Tensor | None = None,
        neighbours: np.ndarray | Tensor | None = None,
        transform: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
        preprocess: Callable[[Tensor], Tensor] | None = None,
        layout: SentenceLayout | None = None,
    ) -> None:
        if images is None and features is None:
            raise KitError("a ReportDataset needs images, features or both; neither was given.")
        if images is not None and preprocess is None:
            raise KitError(
                "a ReportDataset with images needs preprocess= (normally encoder.preprocess)."
            )
        self.study_ids = tuple(study_ids)
        given = {
            "tokens": tokens,
            "token_weights": token_weights,
            "tags": tags,
            "labels": labels,
            "neighbours": neighbours,
        }
        for name, values in given.items():
            if values is not None and len(values) != len(self.study_ids):
                raise KitError(
                    f"{name} has {len(values)} rows for {len(self.study_ids)} studies; "
                    "give one row per study id, in the same order."
                )
        self.images, self.features = images, features
        self.tokens, self.token_weights = tokens, token_weights
        self.tags = None if tags is None else torch.as_tensor(tags).float()
        self.labels = None if labels is None else torch.as_tensor(labels).float()
        self.neighbours = None if neighbours is None else torch.as_tensor(neighbours).long()
        self.transform, self.preprocess, self.layout = transform, preprocess, layout
        self._image_rows = self._rows(images, "packed images")
        self._feature_rows = self._rows(features, "patch features")

    def _rows(self, store: ImageStore | FeatureStore | None, what: str) -> np.ndarray | None:
        if store is None:
            return None
        place = {study_id: row for row, study_id in enumerate(store.study_ids)}
        absent = [study_id for study_id in self.study_ids if study_id not in place]
        if absent:
            raise KitError(
                f"{len(absent)} of {len(self.study_ids)} studies have no {what} "
                f"(first: {absent[0]}); build the cache from all studies of the split."
            )
        return np.array([place[study_id] for study_id in self.study_ids], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.study_ids)

    @property
    def token_lengths(self) -> np.ndarray:
        """Token positions per study ``[N]`` (all zero without reports)."""
        if self.tokens is None:
            return np.zeros(len(self), dtype=np.int64)
        return np.array([len(ids) for ids in self.tokens], dtype=np.int64)

    def batch(
        self,
        index: Sequence[int] | np.ndarray,
        rng: np.random.Generator | Sequence[np.random.Generator],
    ) -> Batch:
        """The minibatch of the studies at ``index``.

        ``rng`` feeds the augmentation only: one for all studies, or one for each.
        """
        index = np.asarray(index, dtype=np.int64)
        features = pixels = None
        if self.features is not None:
            rows = self._feature_rows[index]
            features = self.features.gather(rows)
            mask = torch.from_numpy(np.ascontiguousarray(self.features.view_mask[rows]))
        if self.images is not None:
            pixels, mask = self._pixels(self._image_rows[index], rng)
        picked = torch.from_numpy(index)
        return collate(
            [self.study_ids[i] for i in index],
            mask,
            images=pixels,
            features=features,
            tokens=None if self.tokens is None else [self.tokens[i] for i in index],
            token_weights=(
                None if self.token_weights is None else [self.token_weights[i] for i in index]
            ),
            tags=None if self.tags is None else self.tags[picked],
            labels=None if self.labels is None else self.labels[picked],
            neighbours=None if self.neighbours is None else self.neighbours[picked],
            layout=self.layout,
        )

    def _pixels(
        self, rows: np.ndarray, rng: np.random.Generator | Sequence[np.random.Generator]
    ) -> tuple[Tensor, Tensor]:
        rngs = [rng] * len(rows) if isinstance(rng, np.random.Generator) else rng
        mask = torch.from_numpy(np.ascontiguousarray(self.images.view_mask[rows]))
        views = []
        for row, own in zip(rows, rngs):
            for image in self.images.pixels(int(row)):
                if image is not None and self.transform is not None:
                    image = self.transform(image, own)
                views.append(image)
        shapes = {image.shape for image in views if image is not None}
        if len(shapes) != 1:
            raise KitError(
                f"views of one minibatch have different sizes ({sorted(shapes)}); "
                "give the data set a transform that brings them to one size."
            )
        blank = np.zeros(shapes.pop(), dtype=np.uint8)
        stacked = np.stack([blank if image is None else image for image in views])
        pixels = self.preprocess(torch.from_numpy(stacked))  # [B * V, 3, H, W]
        pixels = pixels.view(*mask.shape, *pixels.shape[1:])
        return pixels * mask[:, :, None, None, None], mask


class _Epoch(torch.utils.data.Dataset):
    """The minibatches of one epoch as items, for torch's worker processes."""

    def __init__(self, loader: Loader, plan: list[tuple[int, np.ndarray]]) -> None:
        self.loader, self.plan = loader, plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, item: int) -> Batch:
        return self.loader.build(*self.plan[item])


class Loader:
    """Iterates over the minibatches of one epoch; made by ``make_loader``."""

    def __init__(
        self,
        dataset: ReportDataset,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        sample_weights: np.ndarray | None,
        bucket: int,
        drop_last: bool,
        num_workers: int,
        pin_memory: bool,
        epoch_studies: int | None = None,
    ) -> None:
        self.dataset, self.batch_size, self.shuffle, self.seed = dataset, batch_size, shuffle, seed
        self.epoch_studies = min(epoch_studies or len(dataset), len(dataset))
        self.sample_weights, self.bucket, self.drop_last = sample_weights, bucket, drop_last
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.epoch = 0
        self._rank, self._world, self._skip = 0, 1, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (0-based) that the next iteration plays."""
        self.epoch = epoch

    def skip(self, n: int) -> None:
        """Leave out the first ``n`` minibatches of the next iteration only."""
        if not 0 <= n <= len(self):
            raise KitError(f"cannot skip {n} minibatches of an epoch that has {len(self)}.")
        self._skip = n

    def shard(self, rank: int, world: int) -> Loader:
        """Serve every ``world``-th study of each minibatch from ``rank`` on.

        The processes together see the minibatches that one process would see. Where the last one
        has fewer studies than there are processes, those without one serve its first study again,
        marked as ``spare``.

        Raises:
            KitError: no such rank, or fewer studies in a minibatch than processes.
        """
        if not 0 <= rank < world:
            raise KitError(f"rank {rank} is not below the number of processes, {world}.")
        if world > self.batch_size:
            raise KitError(
                f"{world} processes cannot share minibatches of {self.batch_size} studies: raise "
                "sampling.batch_size or start fewer processes."
            )
        self._rank, self._world = rank, world
        return self

    def __len__(self) -> int:
        """Minibatches per epoch, whatever is skipped."""
        full, rest = divmod(self.epoch_studies, self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def order(self, epoch: int) -> np.ndarray:
        """The N study positions drawn for ``epoch``, before they are cut into minibatches.

        Without weights every study occurs once. With weights, study i is expected
        ``N w_i / sum(w)`` times and occurs that often rounded down or up (systematic resampling:
        less noise than independent draws at the same expectation). With ``epoch_studies``, only
        that many of them, by chance, others in every epoch.
        """
        n = len(self.dataset)
        if not self.shuffle:
            return np.arange(n)
        rng = numpy_rng(self.seed, f"loader/{epoch}")
        if self.sample_weights is None:
            return rng.permutation(n)[: self.epoch_studies]
        order = rng.permutation(n)  # so that which study is rounded up does not depend on position
        edges = np.cumsum(self.sample_weights[order])
        marks = (rng.random() + np.arange(n)) * (edges[-1] / n)
        drawn = order[np.minimum(np.searchsorted(edges, marks, side="right"), n - 1)]
        return rng.permutation(drawn)[: self.epoch_studies]

    def plan(self, epoch: int) -> list[np.ndarray]:
        """Study positions of every minibatch of ``epoch``, all processes together."""
        order = self.order(epoch)
        size = self.batch_size
        if not self.shuffle:
            groups = [order[i : i + size] for i in range(0, len(order), size)]
        else:
            # Sort by length inside windows of `bucket` minibatches: little padding, yet the
            # company that a study keeps still changes from epoch to epoch.
            rng = numpy_rng(self.seed, f"loader/{epoch}/minibatches")
            lengths, span, groups = self.dataset.token_lengths, size * self.bucket, []
            for start in range(0, len(order), span):
                window = order[start : start + span]
                if self.bucket > 1:
                    window = window[np.argsort(lengths[window], kind="stable")]
                groups += [window[i : i + size] for i in range(0, len(window), size)]
            groups = [groups[i] for i in rng.permutation(len(groups))]
        if self.drop_last:
            groups = [group for group in groups if len(group) == size]
        return groups

    def build(self, step: int, index: np.ndarray, epoch: int | None = None) -> Batch:
        """This process' share of the minibatch at ``step`` of the epoch.

        Augmentation draws depend on epoch, step and place in the minibatch, and on nothing else.
        """
        epoch = self.epoch if epoch is None else epoch
        places = range(len(index))[self._rank :: self._world]
        spare = not places
        places = places or range(1)
        rngs = [numpy_rng(self.seed, f"augment/{epoch}/{step}/{place}") for place in places]
        batch = self.dataset.batch(index[list(places)], rngs)
        return dataclasses.replace(batch, spare=spare)

    def __iter__(self) -> Iterator[Batch]:
        plan, self._skip = list(enumerate(self.plan(self.epoch)))[self._skip :], 0
        if self.num_workers == 0:
            epoch = self.epoch  # the caller may move on while this iterator is alive
            for step, index in plan:
                batch = self.build(step, index, epoch)
                yield batch.pin_memory() if self.pin_memory else batch
            return
        yield from torch.utils.data.DataLoader(
            _Epoch(self, plan),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
        )


def make_loader(
    dataset: ReportDataset,
    batch_size: int,
    *,
    shuffle: bool = True,
    seed: int = 0,
    sample_weights: np.ndarray | Sequence[float] | None = None,
    bucket: int = 25,
    drop_last: bool = False,
    num_workers: int = 0,
    pin_memory: bool = False,
    epoch_studies: int | None = None,
) -> Loader:
    """A loader over ``dataset``.

    Args:
        dataset: the studies.
        batch_size: studies per minibatch.
        shuffle: False keeps the order of the studies and ignores weights and buckets.
        seed: the run's seed; the streams "loader/<epoch>" and "augment/<epoch>/<step>/<place>"
            are used.
        sample_weights: ``[N]`` positive sampling weights, normally a product of
            ``balance_weights`` and ``duplicate_weights``; None plays every study once an epoch.
        bucket: minibatches per length-sorting window; 1 switches sorting off.
        drop_last: leave out minibatches that are not full.
        num_workers: worker processes; of use for raw images only, cached features need none.
        pin_memory: page-lock the minibatches (CUDA only).
        epoch_studies: end an epoch after so many studies; the next one draws others. None: after
            as many as there are. Without shuffling it is ignored.

    Raises:
        KitError: empty data set, sizes below 1, or weights of the wrong number or sign.
    """
    if len(dataset) == 0:
        raise KitError("cannot load from an empty set of studies; check the split.")
    if epoch_studies is not None and epoch_studies < batch_size:
        raise KitError(
            f"an epoch of {epoch_studies} studies does not fill one minibatch of {batch_size}."
        )
    if batch_size < 1 or bucket < 1:
        raise KitError(f"batch_size ({batch_size}) and bucket ({bucket}) must be 1 or more.")
    if drop_last and len(dataset) < batch_size:
        raise KitError(
            f"drop_last leaves nothing of {len(dataset)} studies at batch_size {batch_size}."
        )
    if sample_weights is not None:
        sample_weights = np.asarray(sample_weights, dtype=np.float64)
        if sample_weights.shape != (len(dataset),):
            raise KitError(f"{sample_weights.size} sample weights for {len(dataset)} studies.")
        if not (np.isfinite(sample_weights).all() and (sample_weights > 0).all()):
            raise KitError("sample weights must be positive finite numbers.")
    return Loader(
        dataset,
        batch_size,
        shuffle=shuffle,
        seed=seed,
        sample_weights=sample_weights,
        bucket=bucket,
        drop_last=drop_last,
        num_workers=num_workers,
        pin_memory=pin_memory,
        epoch_studies=epoch_studies if shuffle else None,
    )


def duplicate_weights(texts: Sequence[Hashable], power: float = 0.5) -> np.ndarray:
    """Sampling weights ``[N]`` that damp verbatim repeats: ``1 / count ** power``.

    With power 0.5, a report that occurs 100 times weighs as much as 10 different ones. Give
    normalised texts so that trivial differences do not hide a repeat.
    """
    counts = Counter(texts)
    return np.array([counts[text] ** -power for text in texts], dtype=np.float64)


def balance_weights(labels: np.ndarray, cap: float = 4.0) -> np.ndarray:
    """Sampling weights ``[N]`` that favour studies with rare findings.

    The weight is ``sqrt(N / n)``, n = number of studies that share the study's rarest finding,
    at most ``cap``; 1 for a study without findings.

    Args:
        labels: ``[N, F]`` bool, true findings of the training studies.
        cap: largest weight.
    """
    labels = np.asarray(labels).astype(bool)
    counts = labels.sum(axis=0)  # [F]
    rarest = np.where(labels, counts[None, :], len(labels)).min(axis=1, initial=len(labels))
    return np.minimum(np.sqrt(len(labels) / np.maximum(rarest, 1)), cap)


def token_weights(
    ids: Sequence[int], period_id: int | None, positive: Sequence[bool], weight: float
) -> np.ndarray:
    """Loss weights ``[len(ids) - 1]`` of the target tokens of one report.

    A sentence runs up to and includes its full stop. Tokens of a sentence that states a finding
    get ``weight``, all others and the end mark get 1.

    Args:
        ids: begin mark 0, token ids, and (unless cut off) the end mark 0.
        period_id: id of the full stop; None where the text has none (one sentence).
        positive: one flag per sentence; flags of sentences that were cut off are not used.
        weight: loss weight of tokens in flagged sentences.

    Raises:
        KitError: the ids hold more sentences than there are flags.
    """
    weights = np.ones(len(ids) - 1, dtype=np.float32)
    sentence = 0
    for position, token in enumerate(ids[1:]):
        if token == 0:
            break
        if sentence >= len(positive):
            raise KitError(
                f"the token ids hold more sentences than the {len(positive)} flags given; "
                "flag the sentences of the same cleaned text that was encoded."
            )
        if positive[sentence]:
            weights[position] = weight
        sentence += token == period_id
    return weights
