"""Your own studies: a folder of images and one CSV file.

Long layout, one row per image (a study with two images has two rows)::

    study,image,view,report
    p01,p01_pa.png,frontal,"Heart size is normal."
    p01,p01_lat.png,lateral,
    p02,p02.png,,

Wide layout, one row per study; image columns are called image1, image2, ... or frontal, lateral::

    study,frontal,lateral,report
    p01,p01_pa.png,p01_lat.png,"Heart size is normal."

Only ``study`` and an image column are needed; without reports the studies can be read by a model
but not scored. In the long layout the report may stand in any one row of its study, or in all.
Commas, semicolons or tabs separate columns (the header decides); UTF-8, with or without a mark.
Image paths are relative to the folder, or to its ``images`` folder. Convert DICOM to PNG first.
``write_private`` writes studies of any corpus in the long layout.
"""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from r2genkit.corpora.openi import IMAGE_SUFFIXES
from r2genkit.errors import KitError
from r2genkit.files import replacing, write_text
from r2genkit.study import Projection, Renderable, Section, Study, View

TABLE = "studies.csv"

_STUDY = {"study", "study_id", "studyid", "id", "uid"}
_IMAGE = {"image", "image_file", "images", "file", "filename", "file_name", "path", "image_path"}
_WIDE = re.compile(r"^(?:image|view|file)[_ ]?(\d+)$")
_VIEW = {"view", "projection", "view_position"}
_REPORT = {"report", "findings", "text"}
_IMPRESSION = {"impression"}
_PROJECTIONS: dict[str, Projection] = {
    "": "unknown",
    "unknown": "unknown",
    "frontal": "frontal",
    "pa": "frontal",
    "ap": "frontal",
    "front": "frontal",
    "lateral": "lateral",
    "lat": "lateral",
    "ll": "lateral",
    "rl": "lateral",
}


@dataclass
class _Draft:
    """A study while its rows are collected."""

    images: list[tuple[str, Projection]] = field(default_factory=list)
    report: str = ""
    impression: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class TableProblem:
    """One flaw of the table: line (1 = header), study id or "", and what is wrong."""

    line: int
    study: str
    message: str


def find_table(folder: Path, table: str | Path | None = None) -> Path:
    """The CSV file of a folder: the one named, else studies.csv, else the only one there.

    Raises:
        KitError: there is none, or there are several and none is called studies.csv.
    """
    folder = Path(folder)
    if table is not None:
        path = folder / table
        if not path.is_file():
            raise KitError(f"{path}: no such file; name the CSV file that lists the studies.")
        return path
    if (folder / TABLE).is_file():
        return folder / TABLE
    found = sorted(folder.glob("*.csv"))
    if len(found) != 1:
        what = "no CSV file" if not found else f"{len(found)} CSV files and no {TABLE}"
        raise KitError(
            f"{folder}: holds {what}; write {TABLE} with the columns study, image, view, report."
        )
    return found[0]


def _rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise KitError(f"{path}: not UTF-8 text; save the table as CSV UTF-8.") from None
    except OSError as error:
        raise KitError(f"{path}: cannot be read ({error}).") from error
    header = text.partition("\n")[0]
    if not header.strip():
        raise KitError(f"{path}: is empty; its first line must name the columns.")
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter, restval="")
    columns = [(name or "").strip().lower() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    rows = []
    for row in reader:
        values = {k: (v or "").strip() for k, v in row.items() if isinstance(k, str)}
        if any(values.values()):
            rows.append((reader.line_num, values))
    return columns, rows


def _column(columns: Iterable[str], names: set[str]) -> str | None:
    return next((column for column in columns if column in names), None)


def read_table(path: Path, folder: Path | None = None) -> tuple[list[Study], list[TableProblem]]:
    """Studies of the table and everything that is wrong with it.

    Args:
        path: the CSV file.
        folder: folder that image paths are relative to; default: the table's own.

    Returns:
        (studies in order of first appearance, problems in order of lines). A study with a problem
        may be among the studies; callers that train or score must insist on no problems.

    Raises:
        KitError: the file cannot be read or lacks the needed columns.
    """
    folder = path.parent if folder is None else Path(folder)
    columns, rows = _rows(path)
    study_column = _column(columns, _STUDY)
    long_image = _column(columns, _IMAGE)
    wide = [c for c in columns if _WIDE.match(c) or c in ("frontal", "lateral")]
    wide = [c for c in wide if c != long_image]
    if study_column is None or (long_image is None and not wide):
        raise KitError(
            f"{path}: needs the column study and the column image (or image1, image2, or frontal, "
            f"lateral); it has {', '.join(columns)}."
        )
    view_column = _column(columns, _VIEW)
    report_column, impression_column = _column(columns, _REPORT), _column(columns, _IMPRESSION)
    problems: list[TableProblem] = []
    drafts: dict[str, _Draft] = {}
    owner: dict[str, str] = {}
    for line, row in rows:
        study = row[study_column]
        if not study:
            problems.append(TableProblem(line, "", "the study id is empty."))
            continue
        if study in drafts and wide and long_image is None:
            problems.append(
                TableProblem(line, study, f"study {study} already has line {drafts[study].line}.")
            )
            continue
        draft = drafts.setdefault(study, _Draft(line=line))
        for column in [long_image] if long_image is not None else wide:
            image = row[column]
            if not image:
                if long_image is not None:
                    problems.append(TableProblem(line, study, f"study {study} names no image."))
                continue
            said = column if column in ("frontal", "lateral") else row.get(view_column or "", "")
            projection = _PROJECTIONS.get(said.lower())
            if projection is None:
                problems.append(
                    TableProblem(
                        line,
                        study,
                        f"study {study}: unknown view {said!r}; write frontal, lateral or nothing.",
                    )
                )
                projection = "unknown"
            if image in owner:
                problems.append(
                    TableProblem(
                        line, study, f"image {image} already belongs to study {owner[image]}."
                    )
                )
                continue
            if Path(image).suffix.lower() not in IMAGE_SUFFIXES:
                problems.append(
                    TableProblem(
                        line,
                        study,
                        f"study {study}: {image} is neither PNG nor JPEG; convert it first.",
                    )
                )
            owner[image] = study
            draft.images.append((image, projection))
        for column, attribute in ((report_column, "report"), (impression_column, "impression")):
            said, before = row.get(column or "", ""), getattr(draft, attribute)
            if said and before and said != before:
                problems.append(
                    TableProblem(line, study, f"study {study} has two different {attribute}s.")
                )
            setattr(draft, attribute, before or said)
    studies = [_study(study, draft, folder) for study, draft in drafts.items()]
    for study in studies:
        if not study.views:
            line = drafts[study.id].line
            if not any(p.study == study.id for p in problems):
                problems.append(TableProblem(line, study.id, f"study {study.id} names no image."))
        for view in study.views:
            if not view.image.is_file():
                problems.append(
                    TableProblem(
                        drafts[study.id].line,
                        study.id,
                        f"study {study.id}: there is no image {view.id} in {folder}.",
                    )
                )
    if not studies and not problems:
        problems.append(TableProblem(1, "", "the table lists no study."))
    return studies, sorted(problems, key=lambda problem: problem.line)


def _study(study: str, draft: _Draft, folder: Path) -> Study:
    views = []
    for image, projection in draft.images:
        path = folder / image
        if not path.is_file() and (folder / "images" / image).is_file():
            path = folder / "images" / image
        views.append(View(image, projection, path))
    # Known frontals first; within one projection the table's own order (sorting is stable).
    rank = {"frontal": 0, "unknown": 1, "lateral": 2}
    views.sort(key=lambda view: rank[view.projection])
    return Study(
        id=study,
        views=tuple(views),
        findings_text=draft.report,
        impression_text=draft.impression,
        corpus="private",
    )


def read_private(data_dir: Path, table: str | Path | None = None) -> list[Study]:
    """Studies of a folder with images and one CSV file (layouts: module text).

    Args:
        data_dir: the folder.
        table: name of the CSV file; default: studies.csv, else the only one.

    Raises:
        KitError: no table, or anything wrong in it: up to ten problems, one a line, each with its
            line in the table.
    """
    path = find_table(data_dir, table)
    studies, problems = read_table(path, Path(data_dir))
    if problems:
        lines = [f"{path}, line {p.line}: {p.message}" for p in problems[:10]]
        if len(problems) > 10:
            lines.append(f"... and {len(problems) - 10} more problems.")
        raise KitError("\n".join(lines))
    return studies


def write_private(
    studies: Sequence[Study],
    folder: Path,
    *,
    section: Section = "findings",
    size: int = 224,
    views: int = 2,
) -> Path:
    """Write studies as a private folder: images and studies.csv, the table last.

    Args:
        studies: of any corpus; file images are copied, rendered ones are drawn as PNG.
        folder: new or empty.
        section: what becomes the column ``report``.
        size: side in pixels of rendered images.
        views: views per study, at most; further ones are left out.

    Returns:
        Path of the table.

    Raises:
        KitError: the folder is not empty, or a study has no image.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise KitError(f"{folder}: is not empty; name a new folder, nothing is overwritten.")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["study", "image", "view", "report"])
    used: set[str] = set()
    for study in studies:
        usable = [view for view in study.views if view.image is not None][:views]
        if not usable:
            raise KitError(f"study {study.id} has no image: leave it out of the private folder.")
        for number, view in enumerate(usable):
            suffix = ".png" if isinstance(view.image, Renderable) else Path(view.image).suffix
            name = f"{re.sub(r'[^A-Za-z0-9_-]', '_', study.id)}_{number}{suffix.lower()}"
            while name in used:  # ids that differ only in signs a file name cannot hold
                name = f"_{name}"
            used.add(name)
            with replacing(folder / "images" / name) as temporary:
                if isinstance(view.image, Renderable):
                    Image.fromarray(view.image.render(size)).save(temporary, format="PNG")
                else:
                    shutil.copyfile(view.image, temporary)
            projection = "" if view.projection == "unknown" else view.projection
            writer.writerow([study.id, name, projection, "" if number else study.text(section)])
    write_text(folder / TABLE, table.getvalue())
    return folder / TABLE
