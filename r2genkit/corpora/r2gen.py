"""R2Gen's data format: ``annotation.json`` beside ``images/``; read and write.

The file is one object with the keys "train", "val" and "test", each a list of entries::

    {"id": "CXR2384_IM-0942", "report": "...", "image_path": ["CXR2384_IM-0942/0.png", ...],
     "split": "train"}

IU X-Ray has two images per entry; MIMIC-CXR one, and further keys (study_id, subject_id). Paths
are relative to ``images/``. For IU X-Ray the report is the FINDINGS section, letter for letter
(all 2,955); which image is frontal is not said and not guaranteed (a lateral comes first in about
60 of 590 test studies), so every projection is "unknown".

One circulating copy of the IU file has a blank third key (four spaces) where "test" belongs; it is
read with a warning. Another file in circulation (3,062/382/382 entries, findings and impression,
1 to 5 images) is NOT the R2Gen split but holds all its ids: mixing the two leaks test reports.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from r2genkit.corpora.files import load_json
from r2genkit.errors import KitError
from r2genkit.files import write_text
from r2genkit.study import Section, Study, View

KEYS: tuple[str, ...] = ("train", "val", "test")


class DataWarning(UserWarning):
    """The data have a flaw that the kit could mend."""


def entry_problems(content: Mapping[str, list]) -> Iterator[tuple[str, str]]:
    """(study id, what is wrong) for every flawed entry of an annotation object."""
    seen: dict[str, str] = {}
    for key in KEYS:
        for index, entry in enumerate(content[key]):
            if not isinstance(entry, dict) or not {"id", "report", "image_path"} <= entry.keys():
                yield "", f"entry {index} of {key!r} lacks id, report or image_path."
                continue
            study, images = str(entry["id"]), entry["image_path"]
            if study in seen:
                yield study, f"study {study} occurs twice ({seen[study]}, {key})."
            seen[study] = key
            if not isinstance(images, list) or not all(isinstance(one, str) for one in images):
                yield study, f"study {study} must give image_path as a list of paths."
            elif not images:
                yield study, f"study {study} names no image."
            if not isinstance(entry["report"], str) or not entry["report"].strip():
                yield study, f"study {study} has an empty report; remove the entry."


def load_annotation(path: Path) -> dict[str, list]:
    """Entries by part as the file has them, unchecked.

    Raises:
        KitError: missing or broken file, missing part.

    Warns:
        DataWarning: the test part stands under a blank key.
    """
    path = Path(path)
    content = load_json(path, "R2Gen's annotation.json")
    if not isinstance(content, dict):
        raise KitError(f"{path}: expected an object with the keys train, val and test.")
    blank = [key for key in content if not key.strip()]
    if "test" not in content and len(blank) == 1:
        warnings.warn(
            f"{path}: the test part stands under the blank key {blank[0]!r}; read as 'test'.",
            DataWarning,
            stacklevel=2,
        )
        content = {"test" if key == blank[0] else key: value for key, value in content.items()}
    missing = [key for key in KEYS if not isinstance(content.get(key), list)]
    if missing:
        raise KitError(f"{path}: has no list {missing[0]!r}; expected train, val and test.")
    return {key: content[key] for key in KEYS}


def read_annotation(path: Path) -> dict[str, list[dict]]:
    """Entries by part ("train", "val", "test"), checked, every key kept as it is.

    Raises:
        KitError: missing or broken file, missing part, incomplete entry, empty report, repeated id.

    Warns:
        DataWarning: the test part stands under a blank key.
    """
    content = load_annotation(path)
    for _, message in entry_problems(content):
        raise KitError(f"{path}: {message}")
    return content


def _find(image: str, roots: Sequence[Path]) -> Path:
    return next((root / image for root in roots if (root / image).is_file()), roots[0] / image)


def read_r2gen(data_dir: Path, annotation: str | Path = "annotation.json") -> list[Study]:
    """Studies of an annotation file, train first, then val, then test.

    Args:
        data_dir: folder with the annotation file and ``images/``; image paths may also be relative
            to ``data_dir`` itself.
        annotation: name of the file in ``data_dir``, or a path.

    Returns:
        Studies whose id is the entry's, whose ``findings_text`` is its report, and whose views keep
        the order of ``image_path``. A view's ``image`` is the expected path even if no file is
        there yet (``check_corpus`` lists what is missing), so reports can be read without images.
        An id that starts with an Open-i number carries that study's codes (``normal``, ``codes``,
        ``findings``) where the Open-i reports are installed and the report is its FINDINGS.
    """
    data_dir = Path(data_dir)
    path = Path(annotation)
    path = path if path.is_absolute() else data_dir / path
    roots = (data_dir / "images", data_dir)
    entries = read_annotation(path)
    coded = _openi_codes() if any(_openi_id(e["id"]) for e in entries["train"][:1]) else {}
    studies = []
    for key in KEYS:
        for entry in entries[key]:
            twin = coded.get(_openi_id(entry["id"]))
            if twin is not None and not _same_text(twin.findings_text, entry["report"]):
                twin = None
            studies.append(study_of(entry, roots, twin))
    return studies


def study_of(entry: Mapping, roots: Sequence[Path], twin: Study | None = None) -> Study:
    """One annotation entry as a study.

    Args:
        entry: with id, report and image_path.
        roots: folders that image paths may be relative to; the first one that has the file wins.
        twin: the Open-i study with the codes of this entry, if known.
    """
    return Study(
        id=str(entry["id"]),
        views=tuple(View(image, "unknown", _find(image, roots)) for image in entry["image_path"]),
        findings_text=str(entry["report"]),
        impression_text="",
        findings=twin.findings if twin else (),
        normal=twin.normal if twin else None,
        corpus="r2gen",
        codes=twin.codes if twin else (),
        automatic_codes=twin.automatic_codes if twin else (),
    )


def _openi_id(annotated: str) -> str:
    head = annotated.split("_", 1)[0]
    return head if head.startswith("CXR") and head[3:].isdigit() else ""


def _openi_codes() -> dict[str, Study]:
    from r2genkit.corpora.openi import REPORTS_NAME, read_archive, wheel_file

    archive = wheel_file(REPORTS_NAME)
    return {} if archive is None else {study.id: study for study in read_archive(archive)}


def _same_text(first: str, second: str) -> bool:
    from r2genkit.text.sentences import normalise

    return normalise(first) == normalise(second)


def annotation_of(
    parts: Mapping[str, Iterable[Study]],
    section: Section = "findings",
    image_root: Path | None = None,
) -> dict[str, list[dict]]:
    """Studies in R2Gen's format, ready to be written.

    Args:
        parts: studies by part; keys "train", "val" (or "validation") and "test".
        section: text that becomes the report.
        image_root: folder to which image paths are made relative; default: the view ids are
            written, which for studies read by ``read_r2gen`` are the paths of the original file.

    Raises:
        KitError: unknown part name, a study without text or view, an image outside ``image_root``.
    """
    result: dict[str, list[dict]] = {key: [] for key in KEYS}
    for part, studies in parts.items():
        key = "val" if part == "validation" else part
        if key not in result:
            raise KitError(f"Unknown part {part!r}: use train, val (or validation) and test.")
        for study in studies:
            text = study.text(section)
            if not text.strip() or not study.views:
                raise KitError(f"Study {study.id} has no {section} text or no view; leave it out.")
            images = [_image_path(study, view, image_root) for view in study.views]
            result[key].append({"id": study.id, "report": text, "image_path": images, "split": key})
    return result


def _image_path(study: Study, view: View, image_root: Path | None) -> str:
    if image_root is None:
        return view.id
    if not isinstance(view.image, Path) or not view.image.is_relative_to(image_root):
        raise KitError(f"Study {study.id}: image {view.id} does not lie below {image_root}.")
    return view.image.relative_to(image_root).as_posix()


def write_annotation(path: Path, content: Mapping[str, list[dict]]) -> None:
    """Write entries by part in the layout of the released file (one line, ASCII)."""
    write_text(Path(path), json.dumps(dict(content)))  # byte for byte as distributed
