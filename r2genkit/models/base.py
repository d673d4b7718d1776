"""What every report model shares, and the contract of the flat ones.

A report model is used in three ways, and a test proves for every model that they agree:

* ``loss(batch)`` trains it on the reference text (teacher forcing);
* ``score(batch)`` gives the log-probability of a text that is given;
* ``write(batch, writer)`` writes a new text (:mod:`r2genkit.decoding`).

A flat model (:class:`FlatModel`) writes one token sequence per study: ``encode(batch)`` once, then
``step(tokens, state)`` per token. Models that write sentence by sentence are in
:mod:`r2genkit.models.hierarchical`.

Id 0 is begin mark, end mark and padding at once, as in the released R2Gen code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from r2genkit import processes
from r2genkit.batches import Batch, SentenceLayout
from r2genkit.errors import KitError

if TYPE_CHECKING:
    from r2genkit.decoding import Decoded, Writer


class ModelConfig(BaseModel):
    """Options of a model; an unknown option is an error. Subclassed by every model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0)
    """Share of the target probability spread evenly over the vocabulary (0 in all papers here)."""


class State:
    """What a model remembers between two tokens; N rows, one per text being written.

    Tensors live in two groups with leading dimension N. ``fixed`` holds what depends on the
    study only (patches, keys, tags), ``moving`` what changes with every token (LSTM states, cached
    keys of written tokens). Beam search exchanges rows within a study at every token; it then has
    to move the second group only.

    ``shared`` holds what depends on no row at all, such as the keys of a trained memory.

    Attributes:
        fixed: tensors by name, constant while a text is written.
        moving: tensors by name, replaced by every step.
        shared: tensors by name without the dimension N; never reordered or repeated.
        tracing: ask ``step`` to fill ``trace``.
        trace: what figures need of the last step, by name, leading dimension N
            (e.g. "attention": ``[N, V, S]``).
    """

    def __init__(
        self,
        fixed: dict[str, Tensor],
        moving: dict[str, Tensor] | None = None,
        *,
        shared: dict[str, Tensor] | None = None,
        tracing: bool = False,
        trace: dict[str, Tensor] | None = None,
    ) -> None:
        self.fixed = fixed
        self.moving = moving or {}
        self.shared = shared or {}
        self.tracing = tracing
        self.trace = trace or {}
        if not (self.fixed or self.moving):
            raise ValueError("a State needs at least one tensor to know its number of rows")

    def __getitem__(self, name: str) -> Tensor:
        return self.moving[name] if name in self.moving else self.fixed[name]

    def __len__(self) -> int:
        return next(iter((self.fixed or self.moving).values())).shape[0]

    @property
    def device(self) -> torch.device:
        """Device of the tensors."""
        return next(iter((self.fixed or self.moving).values())).device

    def _map(self, function: Callable[[Tensor], Tensor], fixed: bool = True) -> State:
        def each(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: function(tensor) for name, tensor in tensors.items()}

        return State(
            each(self.fixed) if fixed else self.fixed,
            each(self.moving),
            shared=self.shared,
            tracing=self.tracing,
        )

    def advance(self, trace: dict[str, Tensor] | None = None, **moving: Tensor) -> State:
        """The state after one more token: same study, new ``moving`` tensors."""
        return State(
            self.fixed,
            {**self.moving, **moving},
            shared=self.shared,
            tracing=self.tracing,
            trace=trace,
        )

    def reorder(self, index: Tensor) -> State:
        """Rows ``index [M]`` of every tensor, in that order; repeats are allowed."""
        return self._map(lambda tensor: tensor.index_select(0, index))

    def reorder_within_study(self, index: Tensor) -> State:
        """As ``reorder``, for an ``index [N]`` under which row i keeps its study.

        The fixed tensors of such rows are equal already and are not copied.
        """
        return self._map(lambda tensor: tensor.index_select(0, index), fixed=False)

    def repeat(self, n: int) -> State:
        """Each row n times in a row: ``[a, b] -> [a, a, b, b]`` for n = 2."""
        return self if n == 1 else self._map(lambda tensor: tensor.repeat_interleave(n, dim=0))


def flatten_views(features: Tensor, view_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Patches of all views in one row, as R2Gen lays them out (first view first).

    Args:
        features: patch features ``[B, V, S, D]``.
        view_mask: ``[B, V]`` bool, True = view present.

    Returns:
        Patches ``[B, V*S, D]``, zero where the view is absent, and their mask ``[B, V*S]`` bool.
    """
    mask = view_mask.unsqueeze(-1).expand(features.shape[:3])
    features = features * view_mask[:, :, None, None]
    return features.flatten(1, 2), mask.flatten(1, 2)


def pooled_views(features: Tensor, view_mask: Tensor, slots: int) -> Tensor:
    """The mean patch of each view, views side by side ``[B, slots * D]``; absent views are zero.

    Args:
        features: patch features ``[B, V, S, D]``.
        view_mask: ``[B, V]`` bool.
        slots: views that the model was built for, at least V.

    Raises:
        KitError: more views than slots.
    """
    views = features.shape[1]
    if views > slots:
        raise KitError(
            f"studies with {views} views do not fit a model built for {slots}; "
            f"set its option views to {views}."
        )
    pooled = features.mean(2) * view_mask.unsqueeze(-1)  # [B, V, D]
    return nn.functional.pad(pooled, (0, 0, 0, slots - views)).flatten(1)


def mean_patch(patches: Tensor, mask: Tensor) -> Tensor:
    """Mean over the present patches ``[B, D]`` of :func:`flatten_views`."""
    return patches.sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


def target_mask(lengths: Tensor, length: int) -> Tensor:
    """``[B, T-1]`` bool: True where target ``tokens[:, t+1]`` is a word or the end mark.

    Args:
        lengths: ``[B]`` positions in use, begin mark included.
        length: T.
    """
    return torch.arange(1, length, device=lengths.device) < lengths[:, None]


def token_cross_entropy(
    log_probs: Tensor, targets: Tensor, weights: Tensor, *, smoothing: float = 0.0
) -> Tensor:
    """Weighted mean negative log-likelihood: ``sum(-log p * weight) / sum(weight)``.

    The released R2Gen loss with weight 1 on words and end mark and 0 on padding; means over the
    tokens of the minibatch, not over studies.

    Args:
        log_probs: ``[..., K]``.
        targets: ``[...]`` int64.
        weights: ``[...]``.
        smoothing: label smoothing in [0, 1); the target becomes
            ``(1 - smoothing) * one-hot + smoothing / K``.
    """
    loss = -log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    if smoothing:
        loss = (1.0 - smoothing) * loss - smoothing * log_probs.mean(-1)
    # All weights zero (a minibatch of empty reports) gives loss 0 and no gradient, not NaN.
    return (loss * weights).sum() / processes.total(weights).clamp_min(1e-8)


class ReportModel(nn.Module):
    """Base of all report models; see :class:`FlatModel` and ``HierarchicalModel``.

    Args:
        config: options of the model.
        vocabulary_size: K, number of logits (``len(vocabulary)``).
        feature_dim: D, length of one patch feature.
        tag_count: F, number of finding probabilities read from ``batch.tags``; 0 = none read.
        encoder: image encoder trained with the model (end to end). Without it the model reads
            ``batch.features``; with it, ``batch.features`` when present, else ``batch.images``.
            Its parameters carry the prefix "encoder" (for their own learning rate).
        full_stop: id of the full stop (``vocabulary.full_stop``); models that write sentence by
            sentence need it.
    """

    Config: ClassVar[type[ModelConfig]] = ModelConfig

    def __init__(
        self,
        config: ModelConfig,
        *,
        vocabulary_size: int,
        feature_dim: int,
        tag_count: int = 0,
        encoder: nn.Module | None = None,
        full_stop: int | None = None,
    ) -> None:
        super().__init__()
        if vocabulary_size < 2:
            raise KitError(
                f"a vocabulary of {vocabulary_size} cannot hold one word beside the end mark; "
                "build it from more reports."
            )
        self.config = config
        self.vocabulary_size = vocabulary_size
        self.feature_dim = feature_dim
        self.tag_count = tag_count
        self.encoder = encoder
        self.full_stop = full_stop
        # What is minimised instead of ``loss``: called as objective(model, minibatch).
        self.objective: Callable[[ReportModel, Batch], dict[str, Tensor]] | None = None

    @property
    def layout(self) -> SentenceLayout | None:
        """How the loader has to cut target reports into sentences; None = not at all."""
        return None

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Training loss: "loss" (scalar, the sum of all other entries) and its parts.

        Sums are divided by ``processes.total(weights)``, so that processes that share a minibatch
        have its loss.
        """
        raise NotImplementedError

    def score(self, batch: Batch) -> Tensor:
        """Log-probability of the reports in ``batch`` ``[B]`` (natural log, teacher forcing)."""
        raise NotImplementedError

    def write(self, batch: Batch, writer: Writer) -> Decoded:
        """Write the reports of a minibatch by the rules of ``writer``."""
        raise NotImplementedError

    # --- what every model gets --------------------------------------------------------------

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``loss``, or what ``objective`` makes of the minibatch while training.

        The name that multi-process wrappers call.
        """
        if self.objective is not None and self.training:
            return self.objective(self, batch)
        return self.loss(batch)

    def patch_features(self, batch: Batch) -> Tensor:
        """``[B, V, S, D]`` from the minibatch, or from its pixels through the encoder.

        Raises:
            KitError: neither is usable, or the features have another length than the model's.
        """
        if batch.features is not None:
            features = batch.features
        elif self.encoder is None:
            raise KitError(
                "this minibatch has no patch features and the model has no image encoder; "
                "cache features first or build the model with an encoder."
            )
        elif batch.images is None:
            raise KitError("this minibatch has neither images nor patch features; give it one.")
        else:
            features = encode_views(self.encoder, batch.images, batch.view_mask)
        if features.shape[-1] != self.feature_dim:
            raise KitError(
                f"patch features have {features.shape[-1]} numbers and the model expects "
                f"{self.feature_dim}; use the encoder (and PCA) that the model was built for."
            )
        return features

    def required_tags(self, batch: Batch) -> Tensor | None:
        """``batch.tags [B, F]`` if this model reads tags, else None.

        Raises:
            KitError: the model reads tags and the minibatch has none, or another number.
        """
        if not self.tag_count:
            return None
        if batch.tags is None or batch.tags.shape[-1] != self.tag_count:
            got = "none" if batch.tags is None else str(batch.tags.shape[-1])
            raise KitError(
                f"the model reads {self.tag_count} finding probabilities per study and the "
                f"minibatch has {got}; run the finding classifier or build without tags."
            )
        return batch.tags


class FlatModel(ReportModel):
    """Base of the models that write one token sequence per study.

    A subclass defines ``Config``, ``encode`` and ``step``; it may replace ``unroll`` by something
    faster than stepping and ``regularisers`` by further loss terms.
    """

    # --- what a subclass writes -------------------------------------------------------------

    def encode(self, batch: Batch) -> State:
        """Look at the images once; the state from which the first ``step`` starts."""
        raise NotImplementedError

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one token per row and predict the next.

        Args:
            tokens: ``[N]`` int64, the begin mark 0 at first.
            state: from ``encode`` or from the step before.

        Returns:
            Log-probabilities of the next token ``[N, K]`` and the new state.
        """
        raise NotImplementedError

    def unroll(self, batch: Batch, *, trace: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """Teacher forcing: log-probabilities ``[B, T-1, K]`` and traces ``[B, T-1, ...]``.

        Here by stepping through ``batch.tokens``; models that can treat all positions at once
        replace it.
        """
        state = self.encode(batch)
        state.tracing = trace
        outputs, traces = [], []
        for tokens in batch.tokens[:, :-1].unbind(1):
            log_probs, state = self.step(tokens, state)
            outputs.append(log_probs)
            traces.append(state.trace)
        stacked = {name: torch.stack([t[name] for t in traces], 1) for name in traces[0]}
        return torch.stack(outputs, 1), stacked

    needs_trace_in_loss: ClassVar[bool] = False

    def regularisers(self, batch: Batch, trace: dict[str, Tensor]) -> dict[str, Tensor]:
        """Further loss terms by name (scalars), added to the cross-entropy; none by default.

        ``trace`` is filled if ``needs_trace_in_loss``.
        """
        return {}

    # --- what every flat model gets ---------------------------------------------------------

    def log_probs(self, batch: Batch) -> Tensor:
        """Teacher-forced log-probabilities ``[B, T-1, K]``; position t predicts token t+1."""
        self._require_tokens(batch)
        return self.unroll(batch)[0]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Training loss.

        Returns:
            "loss" (scalar, the sum of all other entries), "token_ce" (see
            :func:`token_cross_entropy`) and one entry per regulariser.
        """
        self._require_tokens(batch, lengths=True)
        log_probs, trace = self.unroll(batch, trace=self.needs_trace_in_loss)
        parts = {
            "token_ce": token_cross_entropy(
                log_probs,
                batch.tokens[:, 1:],
                self.token_weights(batch),
                smoothing=self.config.label_smoothing,
            ),
            **self.regularisers(batch, trace),
        }
        return {"loss": sum(parts.values()), **parts}

    def score(self, batch: Batch) -> Tensor:
        """Log-probability of each report ``[B]``: its words and, unless cut off, its end mark."""
        self._require_tokens(batch, lengths=True)
        chosen = self.unroll(batch)[0].gather(-1, batch.tokens[:, 1:, None]).squeeze(-1)
        return (chosen * target_mask(batch.lengths, batch.tokens.shape[1])).sum(1)

    def write(self, batch: Batch, writer: Writer) -> Decoded:
        """One text per study (or several samples), word by word."""
        return writer.texts(self.step, self.encode(batch), batch.study_ids)

    @staticmethod
    def token_weights(batch: Batch) -> Tensor:
        """``batch.token_weights``, else 1 on words and end mark and 0 on padding ``[B, T-1]``."""
        if batch.token_weights is not None:
            return batch.token_weights
        return target_mask(batch.lengths, batch.tokens.shape[1]).float()

    @staticmethod
    def _require_tokens(batch: Batch, *, lengths: bool = False) -> None:
        if batch.tokens is None or (lengths and batch.lengths is None):
            raise KitError("this minibatch has no token ids; load it with reports to score them.")


def encode_views(encoder: nn.Module, images: Tensor, view_mask: Tensor) -> Tensor:
    """Patch features ``[B, V, S, D]`` of pixels ``[B, V, 3, H, W]``.

    An encoder that offers ``encode_views(images, view_mask)`` does it itself; a plain one sees
    all views as one minibatch ``[B*V, 3, H, W]``. Absent views (zero pixels) come out as zero.
    """
    own: Any = getattr(encoder, "encode_views", None)
    if own is not None:
        return own(images, view_mask)
    features = encoder(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    return features * view_mask[:, :, None, None]
