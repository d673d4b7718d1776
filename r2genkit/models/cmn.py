"""R2GenCMN: a Transformer whose image and text sides read one memory.

Chen et al., "Cross-modal Memory Networks for Radiology Report Generation", ACL-IJCNLP 2021. A
trained matrix of 2,048 slots is queried by every patch and every word; the answer is added to the
query. The order of operations is that of the released code: patches read *before* their positions
are added, words read *after*.

How it is made cheap, with the same numbers:

* keys and values of the slots do not depend on the study: projected once per training step and
  once per decoding run (the released code projects them once per study and call);
* only the k best of all scores are kept, so neither ``[B, h, T, slots]`` scores nor gathered values
  ``[B, h, T, k, D/h]`` are ever stored; sums over the chosen slots are sparse matrix products;
* when writing, only the new word reads the memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from r2genkit.batches import Batch
from r2genkit.errors import KitError
from r2genkit.models.base import State
from r2genkit.models.transformer import Dropout, TransformerConfig, TransformerReporter

# Scores held at a time: on the CPU what fits its cache, elsewhere enough to keep the device busy.
CPU_SCORES, DEVICE_SCORES = 2**20, 2**26


class CMNConfig(TransformerConfig):
    """Options of :class:`CMN`; all heads, those of the memory too, are ``heads``."""

    slots: int = Field(2048, ge=1)
    """Rows of the memory matrix."""
    read_slots: int = Field(32, ge=1)
    """k, slots that one head of one query reads."""
    patch_positions: bool = True

    @model_validator(mode="after")
    def _enough_slots(self) -> CMNConfig:
        if self.read_slots > self.slots:
            raise ValueError(f"read_slots {self.read_slots} must not exceed slots {self.slots}")
        return self


def chosen_sum(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """``sum_j weights[h, r, j] * table[h, rows[h, r, j]]`` without gathering the rows.

    Args:
        table: ``[h, M, d]``; rows: ``[h, R, k]`` int64; weights: ``[h, R, k]``.

    Returns:
        ``[h, R, d]``, differentiable in ``table`` and ``weights``.
    """
    heads, size, width = table.shape
    first = torch.arange(heads, device=rows.device)[:, None, None] * size
    flat = F.embedding_bag(
        (rows + first).flatten(0, 1),
        table.reshape(-1, width),
        per_sample_weights=weights.flatten(0, 1),
        mode="sum",
    )
    return flat.unflatten(0, (heads, -1))


class TopScores(torch.autograd.Function):
    """The k largest of ``queries @ keys^T`` per query, never holding all scores at once.

    ``TopScores.apply(queries [h, R, d], keys [h, M, d], k)`` gives scores ``[h, R, k]``, largest
    first, and their columns ``[h, R, k]``. The gradient flows through the chosen scores only, as
    it does through ``torch.topk``; the backward pass is a sparse product over these.
    """

    @staticmethod
    def forward(ctx, queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Scores in portions of queries; see the class."""
        heads, slots = keys.shape[:2]
        budget = CPU_SCORES if queries.device.type == "cpu" else DEVICE_SCORES
        portion = max(1, budget // (heads * slots))
        columns = keys.transpose(1, 2)
        found = [torch.bmm(part, columns).topk(k) for part in queries.split(portion, 1)]
        scores, chosen = (torch.cat(parts, 1) for parts in zip(*found))
        ctx.save_for_backward(queries, keys, chosen)
        ctx.mark_non_differentiable(chosen)
        return scores, chosen

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None]:
        """``dq = sum_j g_j k_j`` and ``dk_j = sum over readers of g_j q``."""
        queries, keys, chosen = ctx.saved_tensors
        with torch.enable_grad():
            keys = keys.detach().requires_grad_()
            to_queries = chosen_sum(keys, chosen, grad)
        # The same product seen from the other side: its gradient in the table, given q, is dk.
        (to_keys,) = torch.autograd.grad(to_queries, keys, queries)
        return to_queries.detach(), to_keys, None


class CrossModalMemory(nn.Module):
    """Multi-head querying and responding (paper, "Memory Querying" and "Memory Responding").

    With q = W_q x, k_i = W_k m_i, v_i = W_v m_i per head: ``s_i = q . k_i / sqrt(D / h)``; the k
    largest s_i pass a softmax; the response is ``W_o [sum_i p_i v_i]`` over heads.

    Args:
        config: sizes.
    """

    left: Tensor | None  # slots that are there, ``[m]``; None: all of them

    def __init__(self, config: CMNConfig) -> None:
        super().__init__()
        size = config.size
        self.heads, self.read_slots = config.heads, config.read_slots
        self.matrix = nn.Parameter(torch.empty(config.slots, size))  # M
        nn.init.normal_(self.matrix, 0.0, 1.0 / size)
        self.query, self.key, self.value, self.output = (nn.Linear(size, size) for _ in range(4))
        self.dropout = Dropout(config.dropout)
        self.register_buffer("left", None, persistent=False)

    @contextmanager
    def without(self, slots: Iterable[int]) -> Iterator[None]:
        """While the block runs, these slots are not there: the k best of the others are read.

        The same as a score of minus infinity for each of them. What was projected before the block
        does not know of it.

        Args:
            slots: rows of the matrix.

        Raises:
            KitError: no such slot, or fewer than k would be left.
        """
        count, gone = len(self.matrix), sorted({int(slot) for slot in slots})
        if gone and not 0 <= gone[0] <= gone[-1] < count:
            raise KitError(f"slots {gone[0]} to {gone[-1]}: this memory has 0 to {count - 1}.")
        if count - len(gone) < self.read_slots:
            raise KitError(
                f"without {len(gone)} of {count} slots fewer than {self.read_slots} are left, and "
                "every query reads that many; take away fewer."
            )
        before, keep = self.left, torch.ones(count, dtype=torch.bool)
        keep[gone] = False
        self.left = keep.nonzero().squeeze(1).to(self.matrix.device)
        try:
            yield
        finally:
            self.left = before

    def project(self) -> dict[str, Tensor]:
        """Keys and values of all slots, each ``[h, slots, D/h]``: what a state shares."""
        matrix = self.matrix if self.left is None else self.matrix[self.left]
        return {
            f"slot_{name}": layer(matrix).unflatten(-1, (self.heads, -1)).transpose(0, 1)
            for name, layer in (("keys", self.key), ("values", self.value))
        }

    def forward(self, x: Tensor, projected: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The response to ``x [N, T, D]``; the caller adds it to x.

        Args:
            x: queries.
            projected: from :meth:`project`.

        Returns:
            ``[N, T, D]`` and traces: "slots" (int64, best first) and "slot_weights", each
            ``[N, T, h, k]``.
        """
        kind, shape = self.matrix.dtype, x.shape[:2]
        queries = self.query(x).unflatten(-1, (self.heads, -1)).flatten(0, 1).transpose(0, 1)
        with torch.autocast(x.device.type, enabled=False):
            # Which slots are best is decided in full precision, under autocast too.
            queries = queries.to(kind).contiguous() / math.sqrt(queries.shape[-1])  # [h, R, D/h]
            keys, values = (projected[f"slot_{n}"].to(kind) for n in ("keys", "values"))
            scores, slots = TopScores.apply(queries, keys, self.read_slots)
            weights = scores.softmax(-1)  # [h, R, k]
            heads = chosen_sum(values, slots, self.dropout(weights))  # [h, R, D/h]
        response = self.output(heads.transpose(0, 1).flatten(1)).unflatten(0, shape)
        named = slots if self.left is None else self.left[slots]  # rows of the whole matrix
        traces = {"slots": named, "slot_weights": weights.detach()}
        return response, {k: v.transpose(0, 1).unflatten(0, shape) for k, v in traces.items()}


class CMN(TransformerReporter):
    """R2GenCMN.

    Traces beside those of :class:`~r2genkit.models.transformer.TransformerReporter`: "slots" and
    "slot_weights" ``[N, h, k]``, what the word just read took from the memory; the same for patches
    from :meth:`patch_traces`.
    """

    Config = CMNConfig
    config: CMNConfig

    def __init__(self, config: CMNConfig, **sizes) -> None:
        super().__init__(config, **sizes)
        self.memory = CrossModalMemory(config)
        self.initialise(self.memory.query, self.memory.key, self.memory.value, self.memory.output)

    def encode_memory(self, count: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Keys and values of all slots."""
        return {}, self.memory.project()

    def embed_patches(self, x: Tensor, shared: dict[str, Tensor]) -> Tensor:
        """Read the memory, add the response, then positions."""
        return super().embed_patches(x + self.memory(x, shared)[0], shared)

    def embed_tokens(
        self, x: Tensor, state: State
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor], dict[str, Tensor]]:
        """Read the memory with tokens that have their positions, add the response."""
        x = self.dropout(x)
        response, trace = self.memory(x, state.shared)
        return x + response, None, {}, trace if state.tracing else {}

    @torch.no_grad()
    def patch_traces(self, batch: Batch) -> dict[str, Tensor]:
        """Also "slots" and "slot_weights" ``[B, V, S, h, k]``: what each patch read."""
        features = self.patch_features(batch)
        views, patches = features.shape[1:3]
        tokens, _ = self.visual_tokens(replace(batch, features=features))
        tokens = tokens[:, : views * patches]
        x = self.patch_dropout(self.patches(tokens).relu())
        _, trace = self.memory(x, self.memory.project())
        read = {name: value.unflatten(1, (views, -1)) for name, value in trace.items()}
        return {**super().patch_traces(batch), **read}
