"""Where the kit reads and writes.

A checkout keeps everything below its own root; an installed wheel falls back to the working
directory for results and to the user's cache folder for what can be recomputed.
"""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def project_root() -> Path:
    """Root of the checkout that holds this package, else the current directory."""
    root = PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() else Path.cwd()


def _folder(variable: str, default: Path) -> Path:
    return Path(os.environ[variable]).expanduser() if os.environ.get(variable) else default


def cache_dir() -> Path:
    """Recomputable artefacts (packed images, patch features); ``R2GENKIT_CACHE`` overrides."""
    in_checkout = (PACKAGE.parent / "pyproject.toml").is_file()
    default = project_root() / "data/cache" if in_checkout else Path.home() / ".cache/r2genkit"
    return _folder("R2GENKIT_CACHE", default)


def downloads_dir() -> Path:
    """Downloaded archives and the collections extracted from them."""
    return _folder("R2GENKIT_DOWNLOADS", project_root() / "data/downloads")


def data_dir() -> Path | None:
    """The user's own data folder named by ``R2GENKIT_DATA``, or None."""
    return (
        Path(os.environ["R2GENKIT_DATA"]).expanduser() if os.environ.get("R2GENKIT_DATA") else None
    )


def runs_dir() -> Path:
    """One folder per training run (checkpoints, history, predictions)."""
    return _folder("R2GENKIT_RUNS", project_root() / "runs")


def _outputs(variable: str, profile: str, committed: str) -> Path:
    # A smoke run proves that everything works; its numbers must never replace reported ones.
    default = project_root() / committed if profile != "smoke" else runs_dir() / "smoke" / committed
    return _folder(variable, default)


def results_dir(profile: str = "lab") -> Path:
    """Result rows (JSON lines), the only source of tables and figures."""
    return _outputs("R2GENKIT_RESULTS", profile, "data/results")


def figures_dir(profile: str = "lab") -> Path:
    """Figures written by notebooks and tables."""
    return _outputs("R2GENKIT_FIGURES", profile, "figures")


def published_csv() -> Path:
    """Numbers from the literature, each with its source (``data/published.csv``)."""
    return project_root() / "data/published.csv"
