"""Skips are allowed only for reasons listed in QUARANTINE.md."""

import re
from pathlib import Path

import pytest

QUARANTINE = Path(__file__).with_name("QUARANTINE.md")
ALLOWED = re.findall(r"^\| `([^`]+)` \|", QUARANTINE.read_text(encoding="utf-8"), re.M)
_unlisted: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(allowed in reason for allowed in ALLOWED):
        _unlisted.append(f"{report.nodeid}: {reason}")


def pytest_terminal_summary(terminalreporter) -> None:
    for line in _unlisted:
        terminalreporter.write_line(f"skip not listed in QUARANTINE.md: {line}", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _unlisted and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
