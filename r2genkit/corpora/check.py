"""Everything that is wrong with a corpus, in one list instead of one crash at a time."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from r2genkit.corpora import CORPORA, kit2018, load_corpus, openi, private, r2gen, resolve_data_dir
from r2genkit.errors import KitError
from r2genkit.study import Study

SMALLEST_SIDE = 64
"""Images with a shorter side in pixels than this cannot be radiographs."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One flaw of a corpus.

    Attributes:
        file: the file concerned.
        study: the study concerned, or "".
        message: one sentence: what is wrong and what to do.
    """

    file: str
    study: str
    message: str

    def __str__(self) -> str:
        """``file: message``, with the study named where the message does not."""
        if self.message.startswith(self.file):
            return self.message
        named = (
            ""
            if not self.study or f"study {self.study}" in self.message
            else f"study {self.study}: "
        )
        return f"{self.file}: {named}{self.message}"


def image_problem(path: Path) -> str | None:
    """What is wrong with an image file, or None.

    The file is verified (headers and checksums), then decoded: verification alone lets a
    truncated JPEG pass.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.verify()
            with Image.open(path) as image:
                image.load()
                size = image.size
    except FileNotFoundError:
        return "no such image file."
    except UnidentifiedImageError:
        return "not an image that can be read; expected PNG or JPEG."
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombWarning) as error:
        return f"damaged image ({error}); get a fresh copy."
    except Image.DecompressionBombError as error:
        return f"image too large to be a radiograph ({error})."
    if min(size) < SMALLEST_SIDE:
        return f"only {size[0]} x {size[1]} pixels; a radiograph has at least {SMALLEST_SIDE}."
    return None


def _images(studies: Sequence[Study], workers: int | None, progress: bool) -> Iterator[Problem]:
    wanted = [
        (study.id, view.image)
        for study in studies
        for view in study.views
        if isinstance(view.image, Path)
    ]
    workers = workers or min(16, (os.cpu_count() or 1) * 2)
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(image_problem, [path for _, path in wanted])
        found = tqdm(found, total=len(wanted), desc="images", disable=not progress or not wanted)
        for (study, path), message in zip(wanted, found, strict=True):
            if message is not None:
                yield Problem(str(path), study, message)
    for path, count in Counter(str(path) for _, path in wanted).items():
        if count > 1:
            owners = sorted({study for study, one in wanted if str(one) == path})
            yield Problem(path, owners[0], f"the image belongs to {count} views ({owners}).")


def _openi(folder: Path | None) -> tuple[list[Study], list[Problem]]:
    studies = openi.read_openi(folder)
    folder = folder or openi.default_data_dir()
    problems = []
    views = [(study.id, view) for study in studies for view in study.views]
    missing = [(study, view) for study, view in views if view.image is None]
    if len(missing) == len(views):
        where = "no folder is named" if folder is None else f"none is in {folder}"
        message = f"all {len(views)} radiographs are missing ({where}); reports can be used without"
        problems.append(Problem(str(folder or "openi"), "", f"{message} them."))
    elif missing:
        study, view = missing[0]
        message = f"{len(missing)} of {len(views)} radiographs are missing, the first is {view.id}."
        problems.append(Problem(str(folder), study, message))
    return studies, problems


def _r2gen(folder: Path, annotation: str | Path) -> tuple[list[Study], list[Problem]]:
    path = Path(annotation)
    path = path if path.is_absolute() else folder / path
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        content = r2gen.load_annotation(path)
        problems = [
            Problem(str(path), study, text) for study, text in r2gen.entry_problems(content)
        ]
    problems += [Problem(str(path), "", str(one.message)) for one in caught]
    roots = (folder / "images", folder)
    studies = []
    for key in r2gen.KEYS:
        for entry in content[key]:
            images = entry.get("image_path") if isinstance(entry, dict) else None
            if isinstance(images, list) and all(isinstance(image, str) for image in images):
                studies.append(r2gen.study_of(entry, roots))
    return studies, problems


def _kit2018(folder: Path) -> tuple[list[Study], list[Problem]]:
    files = kit2018.load_files(folder)
    problems = [
        Problem(str(folder / name), study, message)
        for name, study, message in kit2018.file_problems(files)
    ]
    if problems:
        return [], problems
    studies = kit2018.read_kit2018(folder)
    missing = [s.id for s in studies if sum(view.image is not None for view in s.views) < 2]
    if missing:
        message = f"{len(missing)} of {len(studies)} studies lack one of two images"
        problems.append(Problem(str(folder), missing[0], f"{message}, the first is {missing[0]}."))
    return studies, problems


def _private(folder: Path, table: str | Path | None) -> tuple[list[Study], list[Problem]]:
    path = private.find_table(folder, table)
    studies, flaws = private.read_table(path, folder)
    problems = [Problem(f"{path}, line {one.line}", one.study, one.message) for one in flaws]
    # Files that are not there are among the flaws already.
    present = [
        study
        for study in studies
        if all(v.image is not None and v.image.is_file() for v in study.views)
    ]
    return present, problems


def check_corpus(
    name: str,
    data_dir: Path | str | None = None,
    *,
    annotation: str | Path = "annotation.json",
    table: str | Path | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> list[Problem]:
    """All problems of a corpus.

    Args:
        name: a key of ``CORPORA``.
        data_dir: its folder; default: ``R2GENKIT_DATA`` where it needs one.
        annotation: "r2gen": name of the annotation file.
        table: "private": name of the CSV file.
        workers: decoding threads; default: two per core, at most 16.
        progress: show a bar while images are decoded.

    Returns:
        Problems: broken or missing files, repeated ids, empty reports, missing or unreadable
        images. Radiographs that an Open-i folder lacks are one problem, not 7,470. An empty list
        means that the corpus can be used.

    Raises:
        KitError: unknown corpus name. Everything else is a ``Problem``.
    """
    if name not in CORPORA:
        raise KitError(f"Unknown corpus {name!r}: choose one of {', '.join(CORPORA)}.")
    readers: dict[str, Callable[[Path | None], tuple[list[Study], list[Problem]]]] = {
        "openi": _openi,
        "phantom": lambda folder: (load_corpus("phantom"), []),
        "phantom_shifted": lambda folder: (load_corpus("phantom_shifted"), []),
        "r2gen": lambda folder: _r2gen(folder, annotation),
        "kit2018": _kit2018,
        "private": lambda folder: _private(folder, table),
    }
    try:
        folder = resolve_data_dir(name, data_dir)
        studies, problems = readers[name](folder)
    except KitError as error:
        return [Problem(str(data_dir or name), "", str(error))]
    repeated = [one for one, n in Counter(study.id for study in studies).items() if n > 1]
    known = {problem.study for problem in problems}
    problems += [
        Problem(str(data_dir or name), one, f"study {one} occurs twice.")
        for one in repeated
        if one not in known
    ]
    return problems + list(_images(studies, workers, progress))
