"""Modules are found, their functions collected, and whatever is wrong is told before the node joins."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from zcluster.dapi import ENTRY_POINT_GROUP, is_reserved, load_functions
from zcluster.dapi.loader import absolute_modules
from zcluster.errors import ConfigError

ADD = """
import zcluster.dapi as zcluster

@zcluster.function("math.add")
def add(a: int, b: int) -> int:
    return a + b
"""


@pytest.fixture(autouse=True)
def clean_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test in a directory of its own, and no module left behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def refused(*modules: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_functions(modules, entry_points=False)
    assert caught.value.hint
    return caught.value


def test_a_dotted_name_in_the_current_directory(tmp_path: Path) -> None:
    write(tmp_path / "zc_pack" / "__init__.py", "")
    write(tmp_path / "zc_pack" / "maths.py", ADD)
    found = load_functions(["zc_pack.maths"], entry_points=False)
    assert list(found) == ["math.add"]
    assert found["math.add"].run(b'{"a":1,"b":2}') == b"3"
    assert found["math.add"].place().endswith("maths.py:4")


def test_a_path_and_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path / "far" / "zc_neighbour.py", "VALUE = 7\n")
    path = write(
        tmp_path / "far" / "mine.py",
        "import zcluster.dapi as z\nimport zc_neighbour\n@z.function()\ndef seven() -> int:\n    return zc_neighbour.VALUE\n",
    )
    assert load_functions([path], entry_points=False)["seven"].run(b"") == b"7"


def test_loading_twice_gives_the_same_functions(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", ADD)
    first = load_functions([path, "mine.py"], entry_points=False)
    second = load_functions([path], entry_points=False)
    assert first["math.add"].target is second["math.add"].target


def test_two_files_of_the_same_name_are_two_modules(tmp_path: Path) -> None:
    one = write(tmp_path / "one" / "mine.py", ADD)
    two = write(tmp_path / "two" / "mine.py", ADD.replace("math.add", "math.plus"))
    assert sorted(load_functions([one, two], entry_points=False)) == ["math.add", "math.plus"]


def test_a_function_that_is_imported_elsewhere_is_no_duplicate(tmp_path: Path) -> None:
    write(tmp_path / "zc_first.py", ADD)
    write(tmp_path / "zc_second.py", "from zc_first import add\nagain = add\n")
    assert list(load_functions(["zc_first", "zc_second"], entry_points=False)) == ["math.add"]


def test_a_name_taken_twice_names_both_places(tmp_path: Path) -> None:
    one = write(tmp_path / "one.py", ADD)
    two = write(tmp_path / "two.py", "\n" + ADD)
    message = refused(one, two).message
    assert message.startswith("two functions are called math.add: ")
    assert "one.py:4" in message
    assert "two.py:5" in message


@pytest.mark.parametrize("name", ["echo", "node.info", "node.mine", "cluster.nodes"])
def test_built_in_names_cannot_be_taken(tmp_path: Path, name: str) -> None:
    assert is_reserved(name)
    path = write(tmp_path / "mine.py", ADD.replace("math.add", name))
    assert "has the name of a built-in one" in refused(path).message


def test_names_that_only_look_built_in_can_be_taken(tmp_path: Path) -> None:
    for number, name in enumerate(["echoes", "nodes.list", "my.echo", "node"]):
        path = write(tmp_path / f"m{number}.py", ADD.replace("math.add", name))
        assert list(load_functions([path], entry_points=False)) == [name]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", "declares no function"),
        ("import zc_not_there\n", "failed to load: ModuleNotFoundError: No module named 'zc_not_there'"),
        ("1 / 0\n", "failed to load: ZeroDivisionError: division by zero at "),
        ("def f(:\n", "failed to load: SyntaxError"),
        ("import sys\nsys.exit(3)\n", "failed to load: SystemExit: 3"),
        (ADD.replace("b: int", "*b: int"), "parameter 'b' is *args"),
        (ADD.replace("b: int", "b: object()"), "math.add"),
    ],
)
@pytest.mark.parametrize("module", ["zc_bad", "zc_bad.py"])
def test_a_module_that_is_no_good_is_told_with_the_reason(tmp_path: Path, text: str, words: str, module: str) -> None:
    write(tmp_path / "zc_bad.py", text)
    error = refused(module)
    assert words in error.message
    assert "zc_bad" in error.message or "math.add" in error.message


@pytest.mark.parametrize("module", ["zc_nowhere", "zc_nowhere.deep", "zc_nowhere.py", "./zc_nowhere.py", "a b", "", "a..b", "-x"])
def test_a_module_that_is_not_there(module: str) -> None:
    assert refused(module).message.startswith(("there is no", f"'{module}' is no module name"))


def test_a_file_here_does_not_take_the_place_of_an_installed_module(tmp_path: Path) -> None:
    write(tmp_path / "msgspec.py", ADD)
    assert "declares no function" in refused("msgspec").message


def test_paths_become_absolute_for_other_processes(tmp_path: Path) -> None:
    assert absolute_modules(["a.b", "x.py", "d/y.py"]) == ("a.b", str(tmp_path / "x.py"), str(tmp_path / "d/y.py"))


def points(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    made = [metadata.EntryPoint(f"p{number}", value, ENTRY_POINT_GROUP) for number, value in enumerate(values)]

    def entry_points(*, group: str) -> list[metadata.EntryPoint]:
        assert group == ENTRY_POINT_GROUP
        return made

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    monkeypatch.syspath_prepend(".")


def test_entry_points_name_a_module_or_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "zc_one.py", ADD)
    write(tmp_path / "zc_two.py", ADD.replace("math.add", "math.plus"))
    points(monkeypatch, "zc_one", "zc_two:add")
    assert sorted(load_functions([], entry_points=True)) == ["math.add", "math.plus"]
    assert load_functions([], entry_points=False) == {}


def test_an_entry_point_that_is_no_good_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "zc_one.py", "x = 1\n")
    for value, words in [("zc_one", "declares no function"), ("zc_one:x", "declares no function"), ("zc_gone", "zc_gone")]:
        points(monkeypatch, value)
        with pytest.raises(ConfigError, match=words) as caught:
            load_functions([])
        assert "p0" in caught.value.message
