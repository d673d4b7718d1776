"""How far a trained encoder has moved: its patch features before and after.

Three answers to one question, because each is blind to something. The relative distance sees every
change, also one that the next linear layer undoes at once; the cosine does not see lengths; linear
CKA (Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019, section
3) sees neither a rotation nor a common factor, so it falls only when features stand in another
relation to each other than before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from r2genkit.errors import KitError


def relative_distance(before: Tensor, after: Tensor) -> float:
    """``mean_n |after_n - before_n| / mean_n |before_n|``; 0 = nothing moved, no upper end.

    Args:
        before: patch features ``[N, D]``.
        after: those of the same patches, ``[N, D]``.

    Raises:
        KitError: other shapes.
    """
    before, after = _pair(before, after)
    moved = (after - before).norm(dim=1).mean()
    return float(moved / before.norm(dim=1).mean().clamp_min(1e-12))


def mean_cosine(before: Tensor, after: Tensor) -> float:
    """Mean cosine between a patch's features before and after, -1 to 1.

    Args and errors as for :func:`relative_distance`.
    """
    before, after = _pair(before, after)
    return float(torch.nn.functional.cosine_similarity(before, after, dim=1).mean())


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of two sets of features of the same N patches, 0 to 1.

    ``|Y^T X|^2 / (|X^T X| |Y^T Y|)`` with columns centred and Frobenius norms (Kornblith et al.
    2019, equation for linear HSIC). The lengths of the features may differ: two encoders can be
    compared, too.

    Args:
        x: ``[N, D]``; y: ``[N, E]``.

    Raises:
        KitError: not the same number of patches.
    """
    if x.dim() != 2 or y.dim() != 2 or len(x) != len(y):
        raise KitError(
            f"CKA compares features [N, D] of the same patches, not {list(x.shape)} and "
            f"{list(y.shape)}."
        )
    x, y = (side.double() - side.double().mean(0) for side in (x, y))
    across = (y.T @ x).square().sum()
    within = (x.T @ x).norm() * (y.T @ y).norm()
    return float(across / within.clamp_min(1e-24))


def drift(before: Tensor, after: Tensor) -> dict[str, float]:
    """All three: "distance", "cosine", "cka" of patch features ``[N, D]``."""
    return {
        "distance": relative_distance(before, after),
        "cosine": mean_cosine(before, after),
        "cka": linear_cka(before, after),
    }


def _pair(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    if before.shape != after.shape or before.dim() != 2:
        raise KitError(
            f"drift compares features [N, D] of the same patches, not {list(before.shape)} and "
            f"{list(after.shape)}."
        )
    return before.float(), after.float()
