"""The Open-i collection of Indiana University: 3,955 reports, 7,470 radiographs.

The reports come from the ``torchxrayvision`` wheel, which ships the collection's XML archive
(``NLMCXR_reports.tgz``) and a table of DICOM headers; both are read where they lie, nothing is
extracted. The radiographs are optional: with a folder of PNG or JPEG files named by image id, each
view gets its path.

Known flaws of the collection: de-identification replaced words by ``XXXX`` (in about 40 % of the
reports); 104 reports have no image; 530 have no FINDINGS; the codes were made by readers from the
report texts; there is no patient id, so two studies of one person cannot be told apart from two
persons'.

Which view is frontal? The DICOM tag *View Position* is no answer: of the 3,405 studies with several
images 1,318 carry one value for all of them (mostly "PA", laterals included) and 1,280 leave it
blank on some. A tag is therefore believed only where it discriminates:

* "LL", "RL", "LATERAL", "LARGE LATERAL" -> lateral (nobody labels a frontal film so);
* "PA" or "AP" -> frontal if it is the only one of its study so labelled and every other image of
  the study is labelled lateral;
* everything else -> "unknown".

Order of ``Study.views``: known frontals, then unknown, then known laterals; within each, image ids
in string order (the 2018 TensorFlow kit calls the smaller of two ids the frontal one, a guess that
is right more often than wrong).

Citation: Demner-Fushman et al., "Preparing a collection of radiology examinations for distribution
and retrieval", JAMIA 2016. Licence of the reports as stated in each XML file: CC BY-NC-ND 4.0.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from xml.etree.ElementTree import ParseError

from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from r2genkit import paths
from r2genkit.corpora.mesh import normal_from_codes, parse_codes
from r2genkit.errors import KitError
from r2genkit.study import Projection, Study, View

IMAGE_SUFFIXES: tuple[str, ...] = (".png", ".jpg", ".jpeg")
FRONTAL_TAGS: frozenset[str] = frozenset({"PA", "AP"})
LATERAL_TAGS: frozenset[str] = frozenset({"LL", "RL", "LATERAL", "LARGE LATERAL"})
REPORTS_NAME = "NLMCXR_reports.tgz"
METADATA_NAME = "nlmcxr_dicom_metadata.csv.gz"

_SERIAL = re.compile(r"^(CXR\d+)_\d+_IM")


def wheel_file(name: str) -> Path | None:
    """Path of a data file shipped with ``torchxrayvision``, found without importing it."""
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "data" / name
    return path if path.is_file() else None


def study_number(study_id: str) -> int:
    """The number in an Open-i id: 384 for "CXR384" and for "CXR384_IM-0942"."""
    match = re.match(r"CXR(\d+)", study_id)
    if match is None:
        raise KitError(f"{study_id!r} is no Open-i id; expected CXR followed by a number.")
    return int(match.group(1))


def metadata_id(image_id: str) -> str:
    """Key of an image in the DICOM table: ``CXR1_1_IM-0001-3001`` -> ``CXR1_IM-0001-3001``."""
    return _SERIAL.sub(r"\1_IM", image_id)


@lru_cache(maxsize=4)
def view_positions(path: Path | None = None) -> Mapping[str, str]:
    """View Position tag per DICOM-table key ("" where blank); empty without the table.

    Args:
        path: ``nlmcxr_dicom_metadata.csv.gz``; default: the one in the torchxrayvision wheel.
    """
    path = path or wheel_file(METADATA_NAME)
    if path is None:
        return {}
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        return {row["imageid"]: row["View Position"].strip() for row in csv.DictReader(file)}


def projections(tags: Mapping[str, str]) -> dict[str, Projection]:
    """Projection of each image of one study from the tags of all of them (rule: module text)."""
    frontal = [image for image, tag in tags.items() if tag in FRONTAL_TAGS]
    lateral = {image for image, tag in tags.items() if tag in LATERAL_TAGS}
    decided: dict[str, Projection] = dict.fromkeys(tags, "unknown")
    decided |= dict.fromkeys(lateral, "lateral")
    if len(frontal) == 1 and lateral and len(lateral) == len(tags) - 1:
        decided[frontal[0]] = "frontal"
    return decided


def order_views(views: tuple[View, ...]) -> tuple[View, ...]:
    """Known frontals first, then unknown, then known laterals; ids in string order within each."""
    rank = {"frontal": 0, "unknown": 1, "lateral": 2}
    return tuple(sorted(views, key=lambda view: (rank[view.projection], view.id)))


def _xml_members(archive: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                if member.isfile() and member.name.endswith(".xml"):
                    yield member.name, tar.extractfile(member).read()
    except FileNotFoundError:
        raise KitError(
            f"{archive}: no such file; it should be the Open-i report archive."
        ) from None
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, OSError) as error:
        raise KitError(
            f"{archive}: not a readable tar archive ({error}); download it again or reinstall "
            "torchxrayvision."
        ) from error


def parse_report(xml: bytes, source: str, tags: Mapping[str, str] | None = None) -> Study:
    """One XML report as a study; images are named but not looked for.

    Args:
        xml: the file's bytes.
        source: its name, for error messages.
        tags: View Position per DICOM-table key (``view_positions``).

    Raises:
        KitError: broken XML, forbidden XML (entities), or no study id.
    """
    try:
        root = ElementTree.parse(io.BytesIO(xml)).getroot()
    except (ParseError, DefusedXmlException) as error:
        raise KitError(
            f"{source}: not a readable XML report ({error}); get a fresh copy of the archive."
        ) from error
    uid = root.find("uId")
    study_id = uid.get("id", "").strip() if uid is not None else ""
    if not study_id:
        raise KitError(f"{source}: the report has no study id (uId); get a fresh copy of it.")
    sections = {
        node.get("Label", "").upper(): (node.text or "").strip()
        for node in root.iter("AbstractText")
    }
    major = tuple((node.text or "").strip() for node in root.iter("major"))
    automatic = tuple((node.text or "").strip() for node in root.iter("automatic"))
    images = [node.get("id", "").strip() for node in root.iter("parentImage")]
    repeated = sorted({image for image in images if images.count(image) > 1})
    if repeated:
        raise KitError(f"{source}: study {study_id} names image {repeated[0]} twice.")
    tags = tags or {}
    decided = projections({image: tags.get(metadata_id(image), "") for image in images})
    return Study(
        id=study_id,
        views=order_views(tuple(View(image, decided[image], None) for image in images)),
        findings_text=sections.get("FINDINGS", ""),
        impression_text=sections.get("IMPRESSION", ""),
        indication_text=sections.get("INDICATION", ""),
        findings=parse_codes(major),
        normal=normal_from_codes(major),
        corpus="openi",
        codes=major,
        automatic_codes=automatic,
    )


@lru_cache(maxsize=2)
def read_archive(archive: Path, metadata: Path | None = None) -> tuple[Study, ...]:
    """All reports of an archive in numeric order of their ids, without images (cached).

    Raises:
        KitError: unreadable archive, broken report, two reports with one id, no report at all.
    """
    tags = view_positions(metadata)
    studies: dict[str, Study] = {}
    for name, xml in _xml_members(archive):
        study = parse_report(xml, f"{archive.name}:{name}", tags)
        if study.id in studies:
            raise KitError(f"{archive.name}:{name}: a second report with the id {study.id}.")
        studies[study.id] = study
    if not studies:
        raise KitError(f"{archive}: holds no XML report; expected the Open-i report archive.")
    return tuple(sorted(studies.values(), key=lambda study: study_number(study.id)))


def reports_archive(data_dir: Path | None = None) -> Path:
    """Where the report archive lies: the torchxrayvision wheel, else ``data_dir``.

    Raises:
        KitError: it is in neither place.
    """
    path = wheel_file(REPORTS_NAME)
    if path is None and data_dir is not None and (data_dir / REPORTS_NAME).is_file():
        path = data_dir / REPORTS_NAME
    if path is None:
        raise KitError(
            f"{REPORTS_NAME}: not found; `pip install torchxrayvision` ships it, or run "
            "`r2genkit data download openi`."
        )
    return path


def index_images(data_dir: Path) -> dict[str, Path]:
    """Image files by name without suffix, from ``data_dir`` and ``data_dir/images``.

    PNG wins over JPEG where both exist.
    """
    found: dict[str, Path] = {}
    for folder in (data_dir, data_dir / "images"):
        if not folder.is_dir():
            continue
        files = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
        for path in sorted(files, key=lambda p: (IMAGE_SUFFIXES.index(p.suffix.lower()), p.name)):
            found.setdefault(path.stem, path)
    return found


def default_data_dir() -> Path | None:
    """``R2GENKIT_DATA``, else the folder of a finished download, else None."""
    if (folder := paths.data_dir()) is not None:
        return folder
    downloaded = paths.downloads_dir() / "openi"
    return downloaded if downloaded.is_dir() else None


def read_openi(data_dir: Path | None = None) -> list[Study]:
    """The 3,955 Open-i studies in numeric order of their ids ("CXR1" first).

    Args:
        data_dir: folder with radiographs named by image id (``CXR1_1_IM-0001-3001.png``), in it or
            in its ``images`` folder; default: ``R2GENKIT_DATA``, else the download folder. Views
            whose file is not there keep ``image=None``.

    Raises:
        KitError: the reports are not installed, or ``data_dir`` does not exist.
    """
    if data_dir is None:
        data_dir = default_data_dir()
    elif not Path(data_dir).is_dir():
        raise KitError(f"{data_dir}: no such folder; name the folder that holds the radiographs.")
    data_dir = None if data_dir is None else Path(data_dir)
    studies = read_archive(reports_archive(data_dir))
    files = {} if data_dir is None else index_images(data_dir)
    if not files:
        return list(studies)
    return [
        replace(study, views=tuple(replace(v, image=files.get(v.id)) for v in study.views))
        for study in studies
    ]
