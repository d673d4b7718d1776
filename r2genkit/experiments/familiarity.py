"""Does an image look like what a model was trained on? A warning, measured in patch features.

A report writer answers whatever it is shown: noise, a hand, a film upside down. So each view is
compared with the training set first. Its patch features are averaged to one vector f, and

    distance = sqrt((f - m)^T C^-1 (f - m))

(Mahalanobis) with mean m and covariance C of the training studies' vectors, one pair for the first
view and one for the second; so a lateral film in the place of the frontal one is far away, too. C
is shrunk towards a multiple of the identity as Ledoit and Wolf (J. Multivar. Anal. 88, 2004)
derive, since a small training set has more dimensions than its covariance can bear.

An image is called **unfamiliar** beyond a high quantile of the distances of *validation* studies,
which the model did not learn from; test studies only show how often that rule errs.

The measure knows the encoder's features and nothing else. What these do not carry (a mirrored
film) passes, and an unfamiliar image may well be a chest film: it is another one than the model
knows. Unfamiliar is not wrong and familiar is not right.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from filelock import FileLock
from sklearn.covariance import LedoitWolf
from torch import Tensor

from r2genkit.batches import Batch
from r2genkit.encoders import Encoder
from r2genkit.errors import KitError
from r2genkit.experiments.data import report_loader
from r2genkit.experiments.runner import RunResult
from r2genkit.experiments.trained import TrainedSystem
from r2genkit.files import replacing

FILE = "familiarity.safetensors"
"""Beside the other files of a run."""
QUANTILE = 0.99
"""Share of validation views that pass as familiar."""


@dataclass(frozen=True)
class Familiarity:
    """Training images of a run as two clouds of vectors (first views, second views).

    Attributes:
        mean: ``[V, D]``, m above.
        root: ``[V, D, D]``, triangular R with C^-1 = R R^T.
        limits: ``[V]``, largest familiar distance.
        held_out: distances of validation and test studies by part, ``[N, V]``; NaN where a study
            has no such view.
    """

    mean: np.ndarray
    root: np.ndarray
    limits: np.ndarray
    held_out: dict[str, np.ndarray]

    def distances(self, pooled: np.ndarray, view_mask: np.ndarray) -> np.ndarray:
        """Distances ``[B, V]`` of pooled features ``[B, V, D]``; NaN for absent views."""
        offset = pooled.astype(np.float64) - self.mean
        length = np.sqrt((np.einsum("bvd,vde->bve", offset, self.root) ** 2).sum(-1))
        return np.where(view_mask, length, np.nan)

    def unfamiliar(self, distances: np.ndarray) -> np.ndarray:
        """Which views ``[B, V]`` lie beyond their limit; absent ones never do."""
        with np.errstate(invalid="ignore"):
            return distances > self.limits

    def false_alarms(self, part: str = "test") -> float:
        """Share (0 to 1) of a part's studies with any view that is called unfamiliar.

        Test studies come from the hospital of the training set: whatever is called there is a
        false alarm.
        """
        return float(self.unfamiliar(self.held_out[part]).any(axis=1).mean())

    def save(self, path: Path) -> None:
        """Write as safetensors; atomic."""
        tensors = {"mean": self.mean, "root": self.root, "limits": self.limits}
        tensors |= {f"held_out/{part}": values for part, values in self.held_out.items()}
        content = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
        with replacing(path) as temporary:
            metadata = {"quantile": json.dumps(QUANTILE)}
            safetensors.numpy.save_file(content, temporary, metadata=metadata)

    @classmethod
    def load(cls, path: Path) -> Familiarity:
        """Read what ``save`` wrote.

        Raises:
            KitError: the file is absent or damaged.
        """
        try:
            content = safetensors.numpy.load_file(path)
            start = len("held_out/")
            held_out = {k[start:]: v for k, v in content.items() if k.startswith("held_out/")}
            return cls(content["mean"], content["root"], content["limits"], held_out)
        except (OSError, KeyError, safetensors.SafetensorError) as error:
            raise KitError(
                f"{path} does not tell familiar images ({error}): delete it, it is made again"
            ) from error


def fit_familiarity(
    train: tuple[np.ndarray, np.ndarray],
    held_out: dict[str, tuple[np.ndarray, np.ndarray]],
    quantile: float = QUANTILE,
) -> Familiarity:
    """Means, covariances and limits.

    Args:
        train: pooled features ``[N, V, D]`` and view mask ``[N, V]`` of the training studies.
        held_out: the same by part; "validation" sets the limits.
        quantile: share of validation views within the limit.

    Raises:
        KitError: fewer than two training images of a view, or no validation image of it.
    """
    pooled, mask = train
    means, roots = [], []
    for view in range(mask.shape[1]):
        rows = pooled[mask[:, view], view].astype(np.float64)
        if len(rows) < 2 or not held_out["validation"][1][:, view].any():
            raise KitError(
                f"view {view + 1}: {len(rows)} training images, too few to tell what is familiar"
            )
        fitted = LedoitWolf().fit(rows)
        means.append(fitted.location_)
        roots.append(np.linalg.cholesky(fitted.precision_))
    found = Familiarity(np.stack(means), np.stack(roots), np.zeros(len(means)), {})
    distances = {part: found.distances(*values) for part, values in held_out.items()}
    limits = np.nanquantile(distances["validation"], quantile, axis=0)
    return Familiarity(found.mean, found.root, limits, distances)


def pooled_features(encoder: Encoder, batch: Batch) -> np.ndarray:
    """Patch features of a minibatch averaged over patches, ``[B, V, D]``.

    Args:
        encoder: used where the minibatch has images instead of features (end-to-end models).
        batch: with features or images.
    """
    features = batch.features
    if features is None:
        with torch.no_grad():
            features = encoder.encode_views(batch.images, batch.view_mask)
    return features.float().mean(dim=2).numpy()


def distances_of(familiarity: Familiarity, encoder: Encoder, batch: Batch) -> np.ndarray:
    """Distances ``[B, V]`` of a minibatch's views."""
    return familiarity.distances(pooled_features(encoder, batch), _numpy(batch.view_mask))


def _numpy(mask: Tensor) -> np.ndarray:
    return mask.cpu().numpy()


def familiarity_of(
    result: RunResult,
    system: TrainedSystem | None = None,
    *,
    say: Callable[[str], None] | None = None,
) -> Familiarity:
    """The measure of a run, read from its folder or made once and kept there.

    Making it reads the training images of the run again (cached patch features where the encoder
    is frozen); later nothing but the run's folder is needed.

    Args:
        result: a finished training run.
        system: its trained system, if it is loaded already.
        say: told in one sentence when the measure has to be made.

    Raises:
        KitError: it has to be made and the run's corpus is not at hand.
    """
    path = result.folder / FILE
    if path.is_file():
        return Familiarity.load(path)
    with FileLock(f"{result.folder}.familiarity.lock"):
        if path.is_file():
            return Familiarity.load(path)
        if say is not None:
            say("reading the training images once, to tell later what is unlike them")
        system = system or result.system()
        text, prepared = result.text(), result.images()

        def pooled(part: str) -> tuple[np.ndarray, np.ndarray]:
            loader = report_loader(
                result.recipe, text, prepared, part, seed=result.row.seed, training=False
            )
            rows = [(pooled_features(system.encoder, one), _numpy(one.view_mask)) for one in loader]
            return tuple(np.concatenate(column) for column in zip(*rows))

        held_out = {part: pooled(part) for part in ("validation", "test")}
        made = fit_familiarity(pooled("train"), held_out)
        made.save(path)
        return made


def warning(familiarity: Familiarity, distances: np.ndarray, what: str) -> str:
    """One sentence about a study that is not familiar; "" if it is.

    Args:
        familiarity: of the run that reads the study.
        distances: ``[V]`` of its views.
        what: how the sentence names the study.
    """
    far = far_views(familiarity, distances)
    if not far:
        return ""
    views = " and ".join(("first view", "second view")[view] for view in far)
    ratio = max(distances[view] / familiarity.limits[view] for view in far)
    return (
        f"{what} is unlike the training images ({views}, {ratio:.1f} times the limit): no chest "
        "film, swapped or turned views, or another kind of machine; do not rely on its report"
    )


def far_views(familiarity: Familiarity, distances: np.ndarray) -> list[int]:
    """Numbers of the views beyond their limit."""
    return np.flatnonzero(familiarity.unfamiliar(np.asarray(distances)[None])[0]).tolist()
