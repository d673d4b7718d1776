"""What tests of runs share."""

import pytest


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One folder for the runs of a test module, which its tests share."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def folders(place, monkeypatch):
    """Cache, runs and results in that folder; modules ask for it with ``usefixtures``."""
    for name in ("cache", "runs", "results"):
        monkeypatch.setenv(f"R2GENKIT_{name.upper()}", str(place / name))
