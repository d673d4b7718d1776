"""Where studies come from: each module reads one format and yields ``Study`` records.

``load_corpus(name)`` is the one door; ``CORPORA`` says what each corpus is, under which licence
and how to get it.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from r2genkit import paths
from r2genkit.errors import KitError
from r2genkit.study import Study

_OPENI_CITATION = (
    "Demner-Fushman D, Kohli MD, Rosenman MB, et al. Preparing a collection of radiology "
    "examinations for distribution and retrieval. J Am Med Inform Assoc 2016;23(2):304-310."
)
_OPENI_LICENCE = "CC BY-NC-ND 4.0 (stated in every XML report)"


@dataclass(frozen=True, slots=True)
class CorpusInfo:
    """What a corpus is and how to get it.

    Attributes:
        name: as given to ``load_corpus``.
        summary: one sentence.
        synthetic: whether the images are rendered; synthetic and real never share a table.
        licence: of the data, not of the kit.
        how_to_get: one sentence.
        citation: the paper to cite, "" where there is none.
        reader: ``module:function`` below ``r2genkit.corpora``.
        needs_data_dir: whether the reader cannot work without a folder.
    """

    name: str
    summary: str
    synthetic: bool
    licence: str
    how_to_get: str
    citation: str
    reader: str
    needs_data_dir: bool = False

    def load_reader(self) -> Callable[..., list[Study]]:
        """The reader function (imported on demand)."""
        function = self.reader.partition(":")[2]
        return getattr(importlib.import_module(self.module), function)

    @property
    def module(self) -> str:
        """Dotted name of the module that reads it."""
        return f"r2genkit.corpora.{self.reader.partition(':')[0]}"


CORPORA: Mapping[str, CorpusInfo] = {
    info.name: info
    for info in (
        CorpusInfo(
            name="phantom",
            summary="3,955 real Open-i reports, each with a rendered frontal and lateral view.",
            synthetic=True,
            licence=f"reports: {_OPENI_LICENCE}; views are rendered on your machine",
            how_to_get="Nothing to do: reports come with the torchxrayvision wheel.",
            citation=_OPENI_CITATION,
            reader="phantom:read_phantom",
        ),
        CorpusInfo(
            name="phantom_shifted",
            summary='"Another hospital": 200 test studies of the phantom, bodies, films, noise and '
            "report style changed one by one or together; for testing only.",
            synthetic=True,
            licence=f"as phantom, i.e. {_OPENI_LICENCE}; the other style's words are the kit's own",
            how_to_get="Nothing to do: rendered like phantom; `r2genkit data export` writes it as "
            "a private folder.",
            citation=_OPENI_CITATION,
            reader="phantom_shifted:read_phantom_shifted",
        ),
        CorpusInfo(
            name="openi",
            summary="The Open-i collection: 3,955 reports, 7,470 radiographs (those you have).",
            synthetic=False,
            licence=_OPENI_LICENCE,
            how_to_get="Reports are there; `r2genkit data download openi` fetches the radiographs.",
            citation=_OPENI_CITATION,
            reader="openi:read_openi",
        ),
        CorpusInfo(
            name="r2gen",
            summary="R2Gen's annotation.json + images/ (IU X-Ray: 2,955 studies; MIMIC-CXR).",
            synthetic=False,
            licence=f"IU X-Ray: {_OPENI_LICENCE}; MIMIC-CXR: PhysioNet credentialed licence 1.5.0",
            how_to_get="Follow the download links in the R2Gen repository, then name the folder.",
            citation="Chen Z, Song Y, Chang T-H, Wan X. Generating Radiology Reports via "
            "Memory-driven Transformer. EMNLP 2020.",
            reader="r2gen:read_r2gen",
            needs_data_dir=True,
        ),
        CorpusInfo(
            name="kit2018",
            summary="Files of the 2018 TensorFlow kit: 3,631 reports as sentences, 2,811/300 ids.",
            synthetic=False,
            licence=_OPENI_LICENCE,
            how_to_get="Copy data_entry.json, train_split.json, test_split.json from that kit, or "
            "let r2genkit.corpora.kit2018.build_kit2018 rebuild the texts from Open-i.",
            citation="github.com/wangleihitcs/MedicalReportGeneration (2018).",
            reader="kit2018:read_kit2018",
            needs_data_dir=True,
        ),
        CorpusInfo(
            name="private",
            summary="Your own test set: a folder of images and a CSV of studies.",
            synthetic=False,
            licence="yours",
            how_to_get="Write studies.csv with the columns study, image, view, report.",
            citation="",
            reader="private:read_private",
            needs_data_dir=True,
        ),
    )
}
"""Every corpus by name, the embedded default first."""


def load_corpus(name: str, *, data_dir: Path | str | None = None, **options) -> list[Study]:
    """Studies of a corpus.

    Args:
        name: a key of ``CORPORA``.
        data_dir: folder of the corpus; default: ``R2GENKIT_DATA`` where the corpus needs one. The
            phantom corpora need none and ignore it.
        **options: passed to the reader, e.g. ``seed=0``, ``with_findings=False`` for "phantom".

    Raises:
        KitError: unknown name, missing folder, unknown option, or what the reader says.
    """
    if name not in CORPORA:
        raise KitError(f"Unknown corpus {name!r}: choose one of {', '.join(CORPORA)}.")
    info = CORPORA[name]
    reader = info.load_reader()
    if "data_dir" in inspect.signature(reader).parameters:
        options["data_dir"] = resolve_data_dir(name, data_dir)
    unknown = set(options) - set(inspect.signature(reader).parameters)
    if unknown:
        raise KitError(
            f"Corpus {name!r} has no option {sorted(unknown)[0]!r}: it takes "
            f"{', '.join(inspect.signature(reader).parameters)}."
        )
    return reader(**options)


def resolve_data_dir(name: str, data_dir: Path | str | None) -> Path | None:
    """The folder named, else ``R2GENKIT_DATA``, else None where the corpus can do without.

    Raises:
        KitError: the corpus needs a folder and none is named, or the folder does not exist.
    """
    if data_dir is None and CORPORA[name].needs_data_dir:
        data_dir = paths.data_dir()
        if data_dir is None:
            raise KitError(
                f"Corpus {name!r} needs a folder: give data_dir or set R2GENKIT_DATA. "
                f"{CORPORA[name].how_to_get}"
            )
    if data_dir is None:
        return None
    data_dir = Path(data_dir).expanduser()
    if not data_dir.is_dir():
        raise KitError(f"{data_dir}: no such folder for corpus {name!r}; check the path.")
    return data_dir
