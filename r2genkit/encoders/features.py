"""Patch features computed once, kept on disk in half precision, gathered in minibatches.

A cache is keyed by everything that decides its numbers: encoder and weights, pixels, resolution,
pooling, and for a projected cache the principal components and the studies they were fitted on.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pickle
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from r2genkit import paths
from r2genkit.encoders.networks import Encoder
from r2genkit.errors import KitError
from r2genkit.files import replacing
from r2genkit.images import (
    PackedImages,
    PartialArray,
    one_maker,
    run_chunks,
    start_worker,
)
from r2genkit.seeds import numpy_rng

_VERSION = 2  # raise when the stored numbers change for the same key
_CHUNK = 16  # studies per task
_MINIBATCH = 8  # images per forward pass: the activations of more do not fit a core's cache
_FEW = 48  # below this many studies, starting processes costs more than it saves
_PCA_STUDIES = 1000  # training studies whose tokens the components are fitted on, at most


class PCA(nn.Module):
    """Projection of patch features onto their principal components.

    ``z = s * (x - mean) W^T`` with one factor s for all components, chosen so that the variance of
    z averaged over components is 1 on the fitted studies; distances keep their proportions.

    Attributes:
        mean: ``[D]``.
        components: W ``[K, D]``, orthonormal rows, largest variance first.
        scale: s.
        explained: share of the total variance per component ``[K]``.
        fitted_on: fingerprint of the studies it was fitted on.
    """

    def __init__(
        self, mean: Tensor, components: Tensor, scale: Tensor, explained: Tensor, fitted_on: str
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("components", components)
        self.register_buffer("scale", scale)
        self.register_buffer("explained", explained)
        self.fitted_on = fitted_on

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the projection."""
        digest = hashlib.sha256()
        for tensor in (self.mean, self.components, self.scale):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def forward(self, features: Tensor) -> Tensor:
        """``[..., D] -> [..., K]``."""
        return ((features - self.mean) @ self.components.T) * self.scale

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        tensors = {name: value.contiguous() for name, value in self.state_dict().items()}
        with replacing(path) as temporary:
            safetensors.torch.save_file(tensors, temporary, metadata={"fitted_on": self.fitted_on})

    @classmethod
    def load(cls, path: Path) -> PCA:
        """Read what ``save`` wrote.

        Raises:
            KitError: the file is absent or damaged.
        """
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                fitted_on = (file.metadata() or {})["fitted_on"]
            return cls(**tensors, fitted_on=fitted_on)
        except (OSError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise KitError(
                f"{path} holds no principal components ({error}); delete its folder to fit again."
            ) from error


class PackedFeatures:
    """Patch features of N studies (see ``cache_features``).

    Attributes:
        folder: where the array and its index lie.
        study_ids: N ids in stored order.
        view_mask: ``[N, V]`` bool, True where the study has that view.
        digest: hash of everything that the numbers depend on.
        info: the index as written (encoder, weights, resolution, seconds, explained variance, ...).
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.info: dict = json.loads((folder / "index.json").read_text())
        except (OSError, ValueError) as error:
            raise KitError(
                f"patch features in {folder} have no readable index ({error}); delete the folder."
            ) from error
        self.folder = folder
        self.study_ids: tuple[str, ...] = tuple(self.info["study_ids"])
        self.view_mask = np.array(self.info["view_mask"], dtype=bool)
        self.digest: str = self.info["digest"]
        self._row = {study_id: row for row, study_id in enumerate(self.study_ids)}
        self._array: np.ndarray | None = None
        self._memory: Tensor | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_array": None, "_memory": None}

    def __len__(self) -> int:
        return len(self.study_ids)

    @property
    def array(self) -> np.ndarray:
        """All features, float16 ``[N, V, S, D]``, read-only memory map."""
        if self._array is None:
            self._array = np.load(self.folder / "features.npy", mmap_mode="r")
        return self._array

    @property
    def tokens(self) -> int:
        """S, patch features per view."""
        return self.array.shape[2]

    @property
    def dim(self) -> int:
        """D, length of a patch feature."""
        return self.array.shape[3]

    @property
    def pca(self) -> PCA | None:
        """The projection that was applied, or None."""
        file = self.folder / "pca.safetensors"
        return PCA.load(file) if file.is_file() else None

    def row(self, study_id: str) -> int:
        """Position of a study.

        Raises:
            KitError: the study has no features here.
        """
        if study_id not in self._row:
            raise KitError(f"study {study_id} is not among the {len(self)} with cached features.")
        return self._row[study_id]

    def __getitem__(self, study_id: str) -> np.ndarray:
        """Features of a study, float16 ``[V, S, D]``; absent views are zero."""
        return self.array[self.row(study_id)]

    def in_memory(self, dtype: torch.dtype = torch.float16) -> PackedFeatures:
        """Hold all features as one tensor from now on; returns itself.

        3,250 studies x 2 x 49 x 256 take 163 MB in float16, and minibatches come out of it faster
        than from disk.
        """
        self._memory = torch.from_numpy(np.array(self.array)).to(dtype)
        return self

    def gather(self, rows: np.ndarray) -> Tensor:
        """Features of the studies at ``rows``, float32 ``[B, V, S, D]``."""
        if self._memory is not None:
            return self._memory[torch.as_tensor(rows)].float()
        return torch.from_numpy(self.array[rows].astype(np.float32))

    def summary(self) -> str:
        """One line: how many, which encoder, how much disk."""
        megabytes = (self.folder / "features.npy").stat().st_size / 1e6
        line = (
            f"{len(self):,} studies, {self.array.shape[1]} x {self.tokens} patch features of "
            f"{self.dim} from {self.info['encoder']} at {self.info['size']} px, {megabytes:,.0f} MB"
        )
        if "explained" in self.info:
            line += f", {self.info['explained']:.1%} of the variance"
        return line


def _key(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def ids_fingerprint(study_ids: Sequence[str]) -> str:
    """SHA-256 of a set of study ids, order ignored."""
    return hashlib.sha256("\n".join(sorted(set(study_ids))).encode()).hexdigest()


class _Extractor:
    """Features of single images, ready to be sent to another process."""

    def __init__(self, encoder: Encoder, grid: int | None, device: torch.device) -> None:
        self.body = encoder.for_inference().to(device)
        self.normalisation, self.channels = encoder.normalisation, encoder.channels
        self.grid, self.device = grid, device

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 ``[N, H, W]`` -> float16 ``[N, S, D]``."""
        limit, parts = np.finfo(np.float16).max, []
        with torch.inference_mode():
            for start in range(0, len(pixels), _MINIBATCH):
                piece = torch.from_numpy(pixels[start : start + _MINIBATCH]).to(self.device)
                images = self.normalisation(piece)[:, : self.channels]
                maps = self.body(images.contiguous(memory_format=torch.channels_last))
                if self.grid is not None:
                    maps = F.adaptive_avg_pool2d(maps, self.grid)
                tokens = maps.flatten(2).transpose(1, 2).float()
                parts.append(tokens.clamp(-limit, limit).half().cpu().numpy())
        return np.concatenate(parts)


_worker_extractor: _Extractor | None = None  # set once per worker process


def _start_worker(pickled: bytes) -> None:
    global _worker_extractor
    start_worker()
    _worker_extractor = pickle.loads(pickled)  # written by our own parent process


def _extract_chunk(
    folder: Path,
    images: PackedImages,
    extractor: _Extractor | None,
    rows: list[tuple[int, int]],
) -> list[int]:
    """Features of studies: ``rows`` holds (row in the cache, row in the packed images)."""
    array = np.load(folder / "features.npy", mmap_mode="r+")
    places = [
        (row, slot, source)
        for row, source in rows
        for slot in np.flatnonzero(images.view_mask[source])
    ]
    pixels = np.stack([images.array[source, slot] for _, slot, source in places])
    features = (extractor or _worker_extractor)(pixels)
    for (row, slot, _), tokens in zip(places, features):
        array[row, slot] = tokens
    array.flush()
    return [row for row, _ in rows]


def cache_features(
    encoder: Encoder,
    images: PackedImages,
    study_ids: Sequence[str] | None = None,
    *,
    grid: int | None = None,
    pca: int | PCA | None = None,
    pca_ids: Sequence[str] | None = None,
    keep_raw: bool = True,
    cache_dir: Path | None = None,
    workers: int | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> PackedFeatures:
    """Patch features of packed images from a frozen encoder, computed once.

    Killed and run again, it computes only what is missing; a second process that asks for the same
    features waits and reads them. On CPU the work is split over processes with one thread each,
    which is faster than one process with several threads. They import the script that runs: a
    script of your own calls this below ``if __name__ == "__main__":``, a notebook needs nothing.

    Args:
        encoder: the network; the copy that runs has batch normalisation folded in.
        images: packed pixels; their size is the resolution.
        study_ids: studies, in the order to store; default all packed ones.
        grid: average-pool each view to grid x grid patch features (4: 16 instead of 49 for a
            224-pixel image); None keeps the network's own grid.
        pca: number of principal components to keep, or a fitted ``PCA`` to apply (for studies
            outside of the corpus, such as a private test set).
        pca_ids: the training studies the components are fitted on; required with a number.
        keep_raw: keep the unprojected features as well (3,955 studies of EfficientNet-Lite0 take
            992 MB); they make another projection a matter of seconds.
        cache_dir: root of the cache; default ``r2genkit.paths.cache_dir()``.
        workers: processes on CPU; default one per core.
        device: "cuda" runs in this process on the GPU.
        progress: show a progress bar.

    Returns:
        Features float16 ``[N, V, S, D]`` (D = number of components with ``pca``).

    Raises:
        KitError: a study is not packed, ``pca`` without training studies, more components than
            dimensions, too little disk space, or a dead worker.
    """
    ids = list(images.study_ids if study_ids is None else study_ids)
    if not ids:
        raise KitError("there are no studies to compute features of; check the split.")
    sources = [images.row(study_id) for study_id in ids]
    if isinstance(pca, int):
        if not pca_ids:
            raise KitError("pca needs pca_ids: the studies of the training set, and no others.")
        absent = sorted(set(pca_ids) - set(ids))
        if absent:
            raise KitError(
                f"{len(absent)} studies of pca_ids are not among the studies (first: {absent[0]})."
            )
        if not 0 < pca <= encoder.dim:
            raise KitError(f"pca must lie in 1..{encoder.dim} for {encoder.name}, not {pca}.")
    root = (cache_dir or paths.cache_dir()) / "features"
    content = {
        "version": _VERSION,
        "encoder": encoder.name,
        "weights": encoder.fingerprint,
        "images": images.digest,
        "size": images.size,
        "grid": grid,
        "study_ids": ids,
    }
    raw_folder = root / _key(content)[:24]
    if pca is None:
        return _raw(encoder, images, sources, content, raw_folder, workers, device, progress)
    fit = (
        {"pca": pca.fingerprint}
        if isinstance(pca, PCA)
        else {"components": pca, "fitted_on": ids_fingerprint(pca_ids), "limit": _PCA_STUDIES}
    )
    folder = root / _key(content | fit)[:24]
    if not (folder / "index.json").is_file():
        with one_maker(folder) as needed:
            if needed:
                raw = _raw(encoder, images, sources, content, raw_folder, workers, device, progress)
                _project(raw, folder, fit, pca, pca_ids, progress)
                if not keep_raw:
                    shutil.rmtree(raw_folder)
    return PackedFeatures(folder)


def _raw(
    encoder: Encoder,
    images: PackedImages,
    sources: list[int],
    content: dict,
    folder: Path,
    workers: int | None,
    device: str | torch.device,
    progress: bool,
) -> PackedFeatures:
    if not (folder / "index.json").is_file():
        with one_maker(folder) as needed:
            if needed:
                _extract(encoder, images, sources, content, folder, workers, device, progress)
    return PackedFeatures(folder)


def _extract(
    encoder: Encoder,
    images: PackedImages,
    sources: list[int],
    content: dict,
    folder: Path,
    workers: int | None,
    device: str | torch.device,
    progress: bool,
) -> None:
    started = time.perf_counter()
    device = torch.device(device)
    grid = content["grid"]
    tokens = grid * grid if grid else int(np.prod(encoder.grid(images.size)))
    shape = (len(sources), images.view_mask.shape[1], tokens, encoder.dim)
    store = PartialArray(folder, "features.npy", shape, np.float16)
    rows = [(row, sources[row]) for row in store.missing()]
    chunks = [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]
    extractor = _Extractor(encoder, grid, device)
    workers = 1 if device.type != "cpu" or len(rows) < _FEW else workers or os.cpu_count() or 1
    task = functools.partial(
        _extract_chunk, store.partial, images, extractor if workers == 1 else None
    )
    finished = run_chunks(
        task,
        chunks,
        workers,
        initializer=_start_worker,
        initargs=(pickle.dumps(extractor),) if workers > 1 else (),
    )
    store.fill(finished, f"features {encoder.name}", progress)
    store.finish(
        content
        | {
            "digest": _key(content),
            "view_mask": images.view_mask[sources].tolist(),
            "computed": len(rows),
            "seconds": round(time.perf_counter() - started, 1),
        }
    )


def fit_pca(features: PackedFeatures, components: int, train_ids: Sequence[str]) -> PCA:
    """Principal components of the patch features of training studies.

    All tokens of all present views of at most 1,000 training studies (drawn by a fixed stream)
    enter the covariance, which is exact for them.

    Args:
        features: unprojected features that hold ``train_ids``.
        components: K.
        train_ids: studies of the training set.
    """
    fitted_on = ids_fingerprint(train_ids)
    rows = np.array(sorted(features.row(study_id) for study_id in set(train_ids)))
    if len(rows) > _PCA_STUDIES:
        rows = np.sort(numpy_rng(0, "pca").choice(rows, _PCA_STUDIES, replace=False))
    dim = features.dim
    total, count = torch.zeros(dim, dtype=torch.float64), 0
    product = torch.zeros(dim, dim, dtype=torch.float64)
    shift: Tensor | None = None  # accumulate around a typical token: no cancellation in float32
    for start in range(0, len(rows), 64):
        part = rows[start : start + 64]
        tokens = features.gather(part)[torch.from_numpy(features.view_mask[part])].flatten(0, 1)
        shift = tokens.mean(0) if shift is None else shift
        tokens = tokens - shift
        total += tokens.sum(0).double()
        product += (tokens.T @ tokens).double()
        count += len(tokens)
    if count <= components:
        raise KitError(f"{count} patch features cannot determine {components} components.")
    mean = total / count
    covariance = product / count - torch.outer(mean, mean)
    variance, vectors = torch.linalg.eigh(covariance)  # ascending
    variance = variance.flip(0)[:components].clamp(min=0)
    vectors = vectors.flip(1)[:, :components].T
    # An eigenvector's sign is arbitrary: make the largest entry positive, so refits agree.
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    vectors = vectors * torch.where(largest < 0, -1.0, 1.0)
    return PCA(
        mean=(mean + shift.double()).float(),
        components=vectors.float().contiguous(),
        scale=(1.0 / variance.mean().clamp(min=1e-12).sqrt()).float(),
        explained=(variance / covariance.trace().clamp(min=1e-12)).float(),
        fitted_on=fitted_on,
    )


def _project(
    raw: PackedFeatures,
    folder: Path,
    fit: dict,
    pca: int | PCA,
    pca_ids: Sequence[str] | None,
    progress: bool,
) -> None:
    started = time.perf_counter()
    fitted = pca if isinstance(pca, PCA) else fit_pca(raw, pca, pca_ids)
    if fitted.mean.shape[0] != raw.dim:
        raise KitError(
            f"the principal components are for patch features of {fitted.mean.shape[0]} numbers "
            f"and {raw.info['encoder']} gives {raw.dim}; use the encoder they were fitted with."
        )
    shape = (*raw.array.shape[:3], fitted.components.shape[0])
    store = PartialArray(folder, "features.npy", shape, np.float16)
    fitted.save(store.partial / "pca.safetensors")
    # Fitted again from the same studies, the components may differ in the last digits: an
    # interrupted projection starts over, it takes seconds.
    chunks = [list(range(i, min(i + 64, len(raw)))) for i in range(0, len(raw), 64)]

    def project(rows: list[int]) -> list[int]:
        array = store.open()
        with torch.no_grad():
            values = fitted(raw.gather(np.array(rows)))
        values *= torch.from_numpy(raw.view_mask[rows])[:, :, None, None]
        array[rows] = values.half().numpy()
        array.flush()
        return rows

    store.done[:] = False
    store.fill(run_chunks(project, chunks, 1), "project", progress)
    explained = float(fitted.explained.sum())
    store.finish(
        raw.info
        | fit
        | {
            "digest": _key({"raw": raw.digest} | fit),
            "explained": explained,
            "project_seconds": round(time.perf_counter() - started, 1),
        }
    )
