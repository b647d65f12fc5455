"""Contexts: clusters by name, and which of flags, environment and contexts says where a command goes."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zcluster.cli.connect import Reach, reach
from zcluster.cli.contextfile import MAX_BYTES, MAX_CONTEXTS, Contexts, Kept, change_contexts, contexts_file, read_contexts
from zcluster.cli.options import Connection, State
from zcluster.errors import ConfigError, InvalidKey, NoSuchContext, UsageError
from zcluster.keys import init_home, new_key


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for variable in ("ZCLUSTER_HOME", "ZCLUSTER_KEY", "ZCLUSTER_CONTEXT"):
        monkeypatch.delenv(variable, raising=False)
    return contexts_file()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    init_home(tmp_path / "lab", "lab", "master", ("tcp://127.0.0.1:7570",))
    return tmp_path / "lab"


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o600)


def test_a_current_context_that_is_gone_can_be_replaced(file: Path, home: Path, zcluster: Callable[..., Any]) -> None:
    assert zcluster("context", "add", "lab", "--home", str(home)).code == 0
    gone = file.read_text().replace('current = ""', 'current = "gone"')
    file.write_text(gone)
    assert zcluster("context", "ls").code == 2, "no other cluster is asked instead"
    assert zcluster("context", "use", "default").code == 0
    assert zcluster("context", "ls").code == 0
    file.write_text(gone)
    assert zcluster("context", "use", "lab").code == 0


def test_a_context_with_too_much_is_told_so(file: Path, home: Path, zcluster: Callable[..., Any]) -> None:
    ran = zcluster("context", "add", "lab", "--home", str(home), "--key", str(home / "keys" / "admin.key"))
    assert (ran.code, "has a home and a key file" in ran.err) == (2, True)


def test_an_empty_value_never_means_another_cluster(file: Path, zcluster: Callable[..., Any]) -> None:
    """A shell makes an empty word of a variable that is not set."""
    for option in ("--context", "--home", "--key"):
        ran = zcluster("nodes", option, "")
        assert (ran.code, "empty" in ran.err) == (2, True), option


def test_contexts_are_added_listed_used_shown_and_removed(zcluster: Callable[..., Any], file: Path, home: Path) -> None:
    zcluster_home = ("--home", str(home))
    assert zcluster("context", "add", "lab", *zcluster_home).code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    new_key(home, "alice", "client")
    key = home / "keys" / "alice.key"
    ran = zcluster("context", "add", "far", "--key", str(key), "--master", "tcp://10.0.0.1:7570", "--use", "-o", "json")
    assert json.loads(ran.out) == {
        "schema": 1, "name": "far", "current": True, "home": None, "key": str(key), "master": ["tcp://10.0.0.1:7570"],
    }  # fmt: skip
    assert zcluster("context", "ls", "-o", "name").out == "far\nlab\n"
    assert zcluster("context", "use", "lab").code == 0
    rows = json.loads(zcluster("context", "ls", "-o", "json").out)["items"]
    assert [(row["name"], row["current"]) for row in rows] == [("far", False), ("lab", True)]
    assert zcluster("context", "show", "far").out.splitlines()[0].split() == ["name", "far"]
    assert zcluster("context", "rm", "lab").code == 0
    assert read_contexts(file).current == ""
    assert zcluster("context", "use", "far").code == 0
    assert zcluster("context", "use", "default").code == 0
    assert read_contexts(file).current == ""


def test_what_a_context_cannot_be_is_said(zcluster: Callable[..., Any], file: Path, home: Path) -> None:
    add = ("context", "add")
    lab = ("--home", str(home))
    assert zcluster(*add, "lab", *lab).code == 0
    again = zcluster(*add, "lab", *lab)
    assert (again.code, "--replace" in again.err) == (1, True)
    assert zcluster(*add, "lab", *lab, "--replace").code == 0
    for words in (
        ("all", *lab), ("default", *lab), ("-x", *lab), ("nothing",), ("both", *lab, "--key", "k"),
        ("gone", "--key", "/gone.key"), ("odd", *lab, "--master", "nowhere"),
        ("worker", "--key", str(home / "keys" / "master.key")),
    ):  # fmt: skip
        ran = zcluster(*add, *words)
        assert ran.code in (2, 4), words
        assert ran.err.startswith("zcluster: error: "), words
    assert list(read_contexts(file).by_name) == ["lab"]
    for act in ("use", "rm", "show"):
        ran = zcluster("context", act, "lob")
        assert (ran.code, "did you mean 'lab'?" in ran.err) == (5, True)


def test_the_environment_goes_before_the_current_context_and_is_said(
    zcluster: Callable[..., Any], file: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zcluster("context", "add", "lab", "--home", str(home))
    monkeypatch.setenv("ZCLUSTER_HOME", "/else")
    assert "ZCLUSTER_HOME is set" in zcluster("context", "use", "lab").err
    assert "/else" in zcluster("context", "show").out


def test_where_a_command_goes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, far = Kept("lab", home=Path("/lab")), Kept("far", key=Path("/far.key"), masters=("tcp://10.0.0.1:1",))
    change_contexts(file, lambda _: Contexts({"lab": lab, "far": far}, "lab"))
    none, in_lab = Reach(None, None, ()), Reach(Path("/lab"), None, (), "lab")
    in_far = Reach(None, Path("/far.key"), ("tcp://10.0.0.1:1",), "far")

    def goes(state: State | None = None, **told: Any) -> Reach:
        return reach(state or State(), Connection(**told))

    assert goes() == in_lab
    assert goes(State(home=Path("/h"))) == Reach(Path("/h"), None, ())
    assert goes(key=Path("/k")) == Reach(None, Path("/k"), ())
    assert goes(masters=("tcp://a:1",)) == Reach(Path("/lab"), None, ("tcp://a:1",), "lab")
    state = State(context="far")
    assert goes(state) == in_far
    assert state.used_context == "far"
    assert goes(State(context="far"), key=Path("/k")) == Reach(None, Path("/k"), ("tcp://10.0.0.1:1",), "far")
    assert goes(State(context="lab"), key=Path("/k")) == Reach(None, Path("/k"), (), "lab")
    assert goes(State(context="default")) == none
    with pytest.raises(UsageError, match="both name a cluster"):
        goes(State(context="far", home=Path("/h")))
    with pytest.raises(NoSuchContext):
        goes(State(context="nowhere"))
    monkeypatch.setenv("ZCLUSTER_CONTEXT", "far")
    assert goes() == in_far
    assert goes(State(context="lab")) == in_lab
    monkeypatch.setenv("ZCLUSTER_HOME", "/else")
    assert goes() == none, "the client itself goes by ZCLUSTER_HOME and ZCLUSTER_KEY"
    assert goes(State(context="far")) == in_far
    monkeypatch.delenv("ZCLUSTER_HOME")
    monkeypatch.setenv("ZCLUSTER_KEY", "/else.key")
    assert goes() == none


def test_an_error_says_which_context_it_was(zcluster: Callable[..., Any], file: Path, tmp_path: Path) -> None:
    change_contexts(file, lambda _: Contexts({"gone": Kept("gone", home=tmp_path / "gone")}))
    ran = zcluster("nodes", "--context", "gone", "-o", "json")
    assert ran.code == 2
    assert json.loads(ran.err)["error"]["hint"].endswith("; context 'gone'")


@pytest.mark.parametrize("form", ["nagios", "prometheus", "text"])
def test_a_check_says_which_context_it_was(zcluster: Callable[..., Any], file: Path, tmp_path: Path, form: str) -> None:
    change_contexts(file, lambda _: Contexts({"gone": Kept("gone", home=tmp_path / "gone")}, "gone"))

    def fault(*words: str) -> str:
        ran = zcluster("check", "--format", form, *words)
        assert ran.code == {"nagios": 3, "prometheus": 0}.get(form, ran.code or -1)
        (line,) = (ran.out if form == "nagios" else ran.err).splitlines()
        assert line.startswith("ZCLUSTER UNKNOWN - " if form == "nagios" else "zcluster: error: ")
        return str(line)

    assert "there is no key file" in fault()
    assert fault().count("context 'gone'") == 1
    assert fault("--context", "nowhere").count("context 'nowhere'") == 1
    file.write_text("current = ")
    assert "; context 'gone'" in fault("--context", "gone")
    assert "context '" not in fault(), "which one would be current is not known"


@pytest.mark.parametrize(
    "text",
    [
        "current = 1", "current = 'x'", "[contexts.a]", "[contexts.a]\nhome = 1", "[contexts.a]\nhome = '/a'\nkey = '/b'",
        "[contexts.a]\nhome = '/a'\nother = 1", "other = 1", "contexts = 1", "[contexts]\na = 1", "[contexts.all]\nhome = '/a'",
        "[contexts.a]\nhome = '/a'\nmaster = 'tcp://a:1'", "[contexts.a]\nhome = '/a'\nmaster = ['nowhere']", "nothing",
    ],
)  # fmt: skip
def test_a_file_that_is_broken_is_an_error_that_names_it(file: Path, text: str) -> None:
    write(file, text)
    with pytest.raises(ConfigError, match=r"contexts\.toml"):
        read_contexts(file)


def test_a_file_that_others_may_write_or_that_is_too_large_is_not_read(file: Path) -> None:
    write(file, "current = ''\n")
    file.chmod(0o666)
    with pytest.raises(InvalidKey, match="open to other users"):
        read_contexts(file)
    write(file, "#" * (MAX_BYTES + 1))
    with pytest.raises(InvalidKey, match="larger"):
        read_contexts(file)


def test_there_are_so_many_contexts_and_no_more(file: Path) -> None:
    made = {f"c{number}": Kept(f"c{number}", home=Path("/h")) for number in range(MAX_CONTEXTS)}
    change_contexts(file, lambda _: Contexts(made))
    with pytest.raises(UsageError, match="more are not kept"):
        change_contexts(file, lambda _: Contexts({**made, "one-more": Kept("one-more", home=Path("/h"))}))
    assert len(read_contexts(file).by_name) == MAX_CONTEXTS


def test_names_of_contexts_are_completed(file: Path, tmp_path: Path) -> None:
    import click

    from zcluster.cli.completing import context_names

    context = click.Context(click.Command("x"))
    assert context_names(context, "") == []
    change_contexts(file, lambda _: Contexts({name: Kept(name, home=tmp_path) for name in ("lab", "far")}))
    assert [item.value for item in context_names(context, "")] == ["far", "lab"]
    assert [item.value for item in context_names(context, "l")] == ["lab"]
    write(file, "broken")
    assert context_names(context, "") == []
