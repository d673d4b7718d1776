"""Attention from one query over patch features, shared by the recurrent models.

Both forms split the work in two: ``keys(features)`` is computed once per study, ``forward`` once
per query, so that writing a report does not project the patches again for every word.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class AdditiveAttention(nn.Module):
    """Attention by a small network, as in Show, Attend and Tell (eq. 4-5) and MRNA.

    ``e_i = w^T tanh(W_a a_i + W_h h)``, ``alpha = softmax(e)``, ``z = sum_i alpha_i a_i``.

    Args:
        feature_dim: D, length of a patch feature ``a_i``.
        query_dim: length of the query ``h``.
        attention_size: A, width of the hidden layer.
    """

    def __init__(self, feature_dim: int, query_dim: int, attention_size: int) -> None:
        super().__init__()
        self.key = nn.Linear(feature_dim, attention_size)  # W_a
        self.query = nn.Linear(query_dim, attention_size, bias=False)  # W_h; its bias is W_a's
        self.score = nn.Parameter(torch.empty(attention_size))  # w
        nn.init.uniform_(self.score, -(attention_size**-0.5), attention_size**-0.5)

    def keys(self, features: Tensor) -> Tensor:
        """``W_a a_i``: ``[N, L, D] -> [N, L, A]``."""
        return self.key(features)

    def forward(
        self, query: Tensor, keys: Tensor, features: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Read the patches with one query per row.

        Args:
            query: ``[N, H]``.
            keys: ``[N, L, A]`` from :meth:`keys`.
            features: ``[N, L, D]``.
            mask: ``[N, L]`` bool, True where the patch may be read (at least one per row).

        Returns:
            Context ``[N, D]`` and weights ``[N, L]`` (rows sum to 1, 0 where masked).
        """
        # In place: the sum itself is not needed for the gradient, and at [N, L, A] per word it is
        # the largest tensor of the model.
        hidden = (keys + self.query(query).unsqueeze(1)).tanh_()  # [N, L, A]
        scores = (hidden @ self.score).masked_fill(~mask, -math.inf)
        weights = scores.softmax(-1)
        return torch.bmm(weights.unsqueeze(1), features).squeeze(1), weights


class DotAttention(nn.Module):
    """Scaled dot-product attention with one head: ``alpha = softmax(k_i . q / sqrt(A))``.

    Unlike the additive form it reads for T queries at the cost of two matrix products, without a
    tensor ``[N, T, L, A]``.

    Args:
        feature_dim: D, length of a patch feature.
        query_dim: length of the query.
        attention_size: A, length of keys and projected queries.
    """

    def __init__(self, feature_dim: int, query_dim: int, attention_size: int) -> None:
        super().__init__()
        self.key = nn.Linear(feature_dim, attention_size)
        self.query = nn.Linear(query_dim, attention_size)
        self.scale = attention_size**-0.5

    def keys(self, features: Tensor) -> Tensor:
        """Project the patches: ``[N, L, D] -> [N, L, A]``."""
        return self.key(features)

    def forward(
        self, query: Tensor, keys: Tensor, features: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Read the patches with T queries per row.

        Args:
            query: ``[N, T, H]``; the rest as in :class:`AdditiveAttention`.

        Returns:
            Context ``[N, T, D]`` and weights ``[N, T, L]``.
        """
        scores = torch.bmm(self.query(query) * self.scale, keys.transpose(1, 2))
        weights = scores.masked_fill(~mask.unsqueeze(1), -math.inf).softmax(-1)
        return torch.bmm(weights, features), weights
