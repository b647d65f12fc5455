"""What holds for all tests.

The processes that tests start keep the modules that they compile. Images for containers often forbid that
(PYTHONDONTWRITEBYTECODE), and then each of the many hundred processes compiles five hundred modules anew: more than half of
its start, and two fifths of the whole run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator

import pytest

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A report that can be written: tests log and compare lone surrogates, on which pytest-xdist would end the whole run."""
    report = yield
    report.sections = [(name, written(text)) for name, text in report.sections]
    if report.failed and written(str(report.longrepr)) != str(report.longrepr):
        report.longrepr = written(str(report.longrepr))
    return report


def written(text: str) -> str:
    """``text`` with escapes in place of what UTF-8 has no bytes for."""
    return text.encode("utf-8", "backslashreplace").decode()
