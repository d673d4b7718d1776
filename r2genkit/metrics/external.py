"""Clinical metrics of other projects, as optional columns.

The kit depends on none of them. Where a package is installed and its weights lie on this machine,
its columns get values; else the column is NaN with one sentence that says why and what to do.

======================  ============  ===========================================================
name                    columns       what it is
======================  ============  ===========================================================
``radgraph``            RadGraph-F1   entities and relations of RadGraph (Jain et al. 2021), matched
                                      as in Delbrouck et al. 2022 (reward level "partial"); mean
                                      over studies. Package ``radgraph``, class ``F1RadGraph``.
``f1chexbert``          CheXbert-F1   labels of CheXbert (Smit et al. 2020), micro and macro F1 over
                        (4 of them)   14 and over 5 observations; positive and uncertain both count
                                      as stated. Package ``f1chexbert``, class ``F1CheXbert``.
``radeval``             RaTEScore     entity-aware similarity (Zhao et al. 2024) through the package
                                      ``RadEval`` (Xu et al. 2025); mean over studies.
======================  ============  ===========================================================

**Weights.** These packages fetch weights on first use. The kit never lets them: while they run, the
hub clients are set offline and connections to other machines are refused. Get the weights once,
yourself, under their own terms, by using the package outside the kit with a network:

* radgraph: ``python -c "from radgraph import F1RadGraph; F1RadGraph(reward_level='partial',
  model_type='radgraph')"``; the archive ``radgraph.tar.gz`` goes to the package's cache folder
  (``radgraph.radgraph.CACHE_DIR``: user cache / radgraph / version), the text encoder that it
  names to the Hugging Face cache.
* f1chexbert: ``python -c "from f1chexbert import F1CheXbert; F1CheXbert(device='cpu')"``;
  ``chexbert.pth`` goes to the user cache folder ``chexbert``, ``bert-base-uncased`` to the Hugging
  Face cache.
* RadEval: ``python -c "from radeval import RadEval; RadEval(metrics=['ratescore'])"``; both models
  of RaTEScore go to the Hugging Face cache.

Scores read the text as the kit tokenises it (lower case), which is not what these models were
trained on: compare systems with each other, not with numbers of papers. A normal template earns
much under the first and the third, too; set the constant baseline beside them.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import io
import math
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from r2genkit.errors import KitError
from r2genkit.metrics.nlg import check_pairs

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")

_RATESCORE_MODELS = ("Angelakeke/RaTE-NER-Deberta", "FremyCompany/BioLORD-2023-C")


@dataclass(frozen=True)
class ExternalScore:
    """One column from another project's metric.

    Attributes:
        value: score over all studies, 0 to 1; NaN where there is none.
        per_study: float64 ``[N]`` in the order of the references, where the metric has such values
            and ``value`` is their mean; else None.
        reason: one sentence why the value is NaN; "" otherwise.
    """

    value: float
    per_study: np.ndarray | None
    reason: str


class _Unavailable(Exception):
    """A reason, said to the user, why a metric cannot run."""


@contextlib.contextmanager
def _no_downloads() -> Iterator[None]:
    """Hub clients offline, connections to other machines refused, printing swallowed.

    Holds for this process, while the block runs.
    """

    def refuse(self: socket.socket, address: object) -> object:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = address[0] if isinstance(address, tuple) else address
            if host not in ("127.0.0.1", "::1", "localhost"):
                raise OSError(f"it wanted to connect to {host}, but the kit starts no download")
        return plain(self, address)

    plain = socket.socket.connect
    own = socket.socket.__dict__.get("connect")  # None: inherited from the C class
    before = {name: os.environ.get(name) for name in _OFFLINE}
    constants = sys.modules.get("huggingface_hub.constants")
    flag = getattr(constants, "HF_HUB_OFFLINE", None)
    os.environ |= dict.fromkeys(_OFFLINE, "1")
    if constants is not None:  # it has read the environment already
        constants.HF_HUB_OFFLINE = True
    socket.socket.connect = refuse
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        if own is None:
            del socket.socket.connect
        else:
            socket.socket.connect = own
        if constants is not None:
            constants.HF_HUB_OFFLINE = flag
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _said(error: BaseException) -> str:
    """First line of an error as the end of a sentence."""
    text = str(error).strip().splitlines()
    line = text[0].strip() if text else ""
    line = line if len(line) <= 200 else line[:197] + "..."
    return f"{type(error).__name__}: {line}" if line else type(error).__name__


def _import(*names: str, package: str) -> object:
    """The first of the modules that is installed."""
    for name in names:
        try:
            missing = name not in sys.modules and importlib.util.find_spec(name) is None
        except (ImportError, ValueError):
            missing = True
        if missing:
            continue
        try:
            return importlib.import_module(name)
        except Exception as error:
            raise _Unavailable(
                f"package {package} is installed but does not import ({_said(error)})"
            ) from error
    raise _Unavailable(f"package {package} is not installed: pip install {package}")


def _user_cache(*parts: str) -> Path:
    """Folder that ``appdirs.user_cache_dir`` names, without needing that package."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", str(Path.home() / "AppData/Local")))
        return base.joinpath(parts[0], parts[0], "Cache", *parts[1:])
    if sys.platform == "darwin":
        return (Path.home() / "Library/Caches").joinpath(*parts)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").joinpath(*parts)


def _cache_of(module: object, submodule: str, *default: str) -> Path:
    """The cache folder that a package states itself, else where it is known to put it."""
    name = f"{module.__name__}.{submodule}"
    stated = getattr(sys.modules.get(name), "CACHE_DIR", None) or getattr(module, "CACHE_DIR", None)
    return Path(stated) if stated else _user_cache(*default)


def _hub_folder() -> Path:
    """Cache of the Hugging Face hub, by its own environment variables."""
    if cache := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(cache).expanduser()
    home = os.environ.get("HF_HOME")
    xdg = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home or f"{xdg}/huggingface").expanduser() / "hub"


def _no_weights(package: str, path: Path) -> _Unavailable:
    # Reasons go into result rows: they name no home folder.
    if path.is_relative_to(Path.home()):
        path = Path("~") / path.relative_to(Path.home())
    return _Unavailable(
        f"weights of {package} are not on this machine ({path} is missing): use the package once "
        "outside the kit, see r2genkit.metrics.external"
    )


# -- RadGraph -----------------------------------------------------------------------------------


def _radgraph_ready() -> type:
    module = _import("radgraph", package="radgraph")
    try:
        version = importlib.metadata.version("radgraph")
    except importlib.metadata.PackageNotFoundError:
        version = ""
    folder = _cache_of(module, "radgraph", "radgraph", version)
    archive = folder / "radgraph.tar.gz"
    if not archive.is_file():
        raise _no_weights("radgraph", archive)
    return module.F1RadGraph


def _radgraph(hypotheses: list[str], references: list[str]) -> dict[str, tuple[float, object]]:
    scorer = _radgraph_ready()(reward_level="partial", model_type="radgraph")
    _, rewards, *_ = scorer(hyps=hypotheses, refs=references)
    # One number per report; some releases give (precision, recall, F1).
    values = [reward[-1] if isinstance(reward, (tuple, list)) else reward for reward in rewards]
    values = np.asarray(values, dtype=np.float64)
    return {"RadGraph-F1": (float(values.mean()), values)}


# -- CheXbert -----------------------------------------------------------------------------------


def _chexbert_ready() -> type:
    module = _import("f1chexbert", package="f1chexbert")
    weights = _cache_of(module, "f1chexbert", "chexbert") / "chexbert.pth"
    if not weights.is_file():
        raise _no_weights("f1chexbert", weights)
    return module.F1CheXbert


def _chexbert(hypotheses: list[str], references: list[str]) -> dict[str, tuple[float, object]]:
    # Returned: accuracy, accuracy per report, classification report of 14 and of 5 observations.
    _, _, all14, top5, *_ = _chexbert_ready()()(hyps=hypotheses, refs=references)
    return {
        f"CheXbert-F1 {kind} {number}": (float(report[f"{kind} avg"]["f1-score"]), None)
        for number, report in ((14, all14), (5, top5))
        for kind in ("micro", "macro")
    }


# -- RadEval ------------------------------------------------------------------------------------


def _radeval_ready() -> type:
    module = _import("radeval", "RadEval", package="RadEval")  # renamed in release 2
    for model in _RATESCORE_MODELS:
        folder = _hub_folder() / f"models--{model.replace('/', '--')}"
        if not folder.is_dir():
            raise _no_weights("RadEval", folder)
    return module.RadEval


def _radeval(hypotheses: list[str], references: list[str]) -> dict[str, tuple[float, object]]:
    scorer = _radeval_ready()
    known = inspect.signature(scorer).parameters
    if "metrics" in known:
        options = {"metrics": ["ratescore"], "per_sample": True}
    else:  # before release 2: one switch per metric
        options = {"do_ratescore": True, "do_per_sample": True}
    options = {name: value for name, value in options.items() if name in known}
    if "show_progress" in known:
        options["show_progress"] = False
    value = scorer(**options)(refs=references, hyps=hypotheses)["ratescore"]
    if np.ndim(value) == 0:  # a release without values per report
        return {"RaTEScore": (float(value), None)}
    values = np.asarray(value, dtype=np.float64)
    return {"RaTEScore": (float(values.mean()), values)}


@dataclass(frozen=True)
class _Metric:
    columns: tuple[str, ...]
    ready: Callable[[], type]
    score: Callable[[list[str], list[str]], dict[str, tuple[float, object]]]


_METRICS: dict[str, _Metric] = {
    "radgraph": _Metric(("RadGraph-F1",), _radgraph_ready, _radgraph),
    "f1chexbert": _Metric(
        (
            "CheXbert-F1 micro 14",
            "CheXbert-F1 macro 14",
            "CheXbert-F1 micro 5",
            "CheXbert-F1 macro 5",
        ),
        _chexbert_ready,
        _chexbert,
    ),
    "radeval": _Metric(("RaTEScore",), _radeval_ready, _radeval),
}

EXTERNAL_METRICS: tuple[str, ...] = tuple(_METRICS)
"""Names that :func:`score_external` knows."""

EXTERNAL_COLUMNS: tuple[str, ...] = tuple(c for m in _METRICS.values() for c in m.columns)
"""Columns that they give together."""


def available() -> dict[str, str]:
    """Which external metrics can run here: by name "", or one sentence why not.

    Imports installed packages, loads no model, starts no download.
    """
    reasons = {}
    for name, metric in _METRICS.items():
        try:
            with _no_downloads():
                metric.ready()
            reasons[name] = ""
        except _Unavailable as reason:
            reasons[name] = f"{reason}."
        except Exception as error:
            reasons[name] = f"{name} cannot be used ({_said(error)})."
    return reasons


def score_external(
    hypotheses: Mapping[str, str],
    references: Mapping[str, str],
    names: Sequence[str] | None = None,
) -> dict[str, ExternalScore]:
    """Score reports with those metrics of other projects that can run here.

    Args:
        hypotheses: generated report by study id.
        references: reference report by study id; the same ids.
        names: some of :data:`EXTERNAL_METRICS`; default: all.

    Returns:
        By column. A metric that is not installed, has no weights, or fails, gives NaN and its
        reason; it never raises.

    Raises:
        KitError: ids differ, there is no study, a value is no text, or a name is unknown.
    """
    wanted = EXTERNAL_METRICS if names is None else tuple(names)
    if unknown := [name for name in wanted if name not in _METRICS]:
        raise KitError(
            f"Unknown external metric {unknown[0]!r}: choose from {', '.join(EXTERNAL_METRICS)}."
        )
    studies = check_pairs(hypotheses, references)
    found = [hypotheses[study] for study in studies]
    true = [references[study] for study in studies]
    result: dict[str, ExternalScore] = {}
    for name in wanted:
        metric = _METRICS[name]
        try:
            with _no_downloads():
                scores = metric.score(list(found), list(true))
            for value, values in scores.values():
                if values is not None and values.shape != (len(studies),):
                    raise ValueError(f"{values.shape} values for {len(studies)} studies")
                if not math.isfinite(value):
                    raise ValueError(f"a score of {value}")
            result |= {c: ExternalScore(*scores[c], reason="") for c in metric.columns}
        except _Unavailable as reason:
            result |= dict.fromkeys(metric.columns, ExternalScore(math.nan, None, f"{reason}."))
        # Whatever goes wrong in a foreign package is a reason, not a crash.
        except Exception as error:
            reason = f"{name} failed ({_said(error)})."
            result |= dict.fromkeys(metric.columns, ExternalScore(math.nan, None, reason))
    return result
