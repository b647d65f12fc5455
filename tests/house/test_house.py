"""The house rules that a machine can hold: sizes, names, docstrings, documented settings.

A failure names each offender as file:line.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from zcluster.config import SETTINGS, TABLES

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "zcluster"
MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400
FORBIDDEN_NAMES = frozenset({"utils", "util", "common", "helpers", "helper", "misc"})

FILES = sorted(PACKAGE.rglob("*.py"))


def long_functions(source: str, limit: int = MAX_FUNCTION_LINES) -> Iterator[str]:
    """Each function of ``source`` that is longer than ``limit`` lines, from its def line to its last."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > limit:
                yield f"{node.lineno}: {node.name} has {lines} lines (at most {limit})"


def docstring_fault(source: str) -> str:
    """What is wrong with the docstring of a module, or empty."""
    return "" if (ast.get_docstring(ast.parse(source)) or "").strip() else "1: the module has no docstring"


def name_fault(path: Path) -> str:
    """What is wrong with the name of a module or one of its folders, or empty."""
    bad = [part for part in path.with_suffix("").parts if part in FORBIDDEN_NAMES]
    return f"1: a module called {bad[0]!r} says nothing about what it is" if bad else ""


def size_fault(source: str, limit: int = MAX_FILE_LINES) -> str:
    """What is wrong with the length of a file, or empty."""
    lines = len(source.splitlines())
    return f"{limit + 1}: {lines} lines (at most {limit})" if lines > limit else ""


def located(path: Path, fault: str) -> list[str]:
    return [f"{path.relative_to(ROOT)}:{fault}"] if fault else []


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 20


def test_functions_are_short() -> None:
    offenders = [place for path in FILES for fault in long_functions(path.read_text()) for place in located(path, fault)]
    assert not offenders, "\n".join(offenders)


def test_files_are_short() -> None:
    offenders = [place for path in FILES for place in located(path, size_fault(path.read_text()))]
    assert not offenders, "\n".join(offenders)


def test_modules_are_named_after_what_they_are() -> None:
    offenders = [place for path in FILES for place in located(path, name_fault(path.relative_to(PACKAGE)))]
    assert not offenders, "\n".join(offenders)


def test_every_module_says_what_it_is() -> None:
    offenders = [place for path in FILES for place in located(path, docstring_fault(path.read_text()))]
    assert not offenders, "\n".join(offenders)


def test_every_setting_is_documented() -> None:
    offenders = [name for name, declared in SETTINGS.items() if len(declared.spec.doc.split()) < 3]
    assert not offenders, f"settings without a doc: {', '.join(offenders)}"
    offenders = [table for table, kind in TABLES.items() if len((kind.__doc__ or "").split()) < 2]
    assert not offenders, f"tables without a docstring: {', '.join(offenders)}"


@pytest.mark.parametrize(
    ("lines", "found"), [(MAX_FUNCTION_LINES, []), (MAX_FUNCTION_LINES + 1, ["2: f has 61 lines (at most 60)"])]
)
def test_the_check_of_functions_works(lines: int, found: list[str]) -> None:
    body = "        x = 1\n" * (lines - 1)
    assert list(long_functions(f"class A:\n    async def f(self):\n{body}")) == found


def test_the_checks_of_files_work() -> None:
    assert size_fault("\n" * MAX_FILE_LINES) == ""
    assert size_fault("\n" * (MAX_FILE_LINES + 1)) == "401: 401 lines (at most 400)"
    assert docstring_fault('"""Says it."""\n') == ""
    assert docstring_fault("x = 1\n") != ""
    assert docstring_fault('"""  """\n') != ""
    assert name_fault(Path("net/loop.py")) == ""
    assert "'utils'" in name_fault(Path("net/utils.py"))
    assert "'common'" in name_fault(Path("common/loop.py"))
