"""[[sync.tree]]: what a tree may say, where its errors point to, and which trees exclude each other."""

from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError, asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.config import LIVE, SETTINGS, TREE_KEYS, Home, Loaded, Settings, TreeSettings, home_conflict, load, reload, rows
from zcluster.config.check import MAX_PATTERNS, MAX_WORDS, check_value
from zcluster.config.names import MAX_NAME_CHARS
from zcluster.config.patterns import MAX_PATTERN_CHARS, pattern_fault
from zcluster.config.sync import EXTRA, MAX_TEXT_BYTES, MAX_TREES
from zcluster.config.trees import read_trees
from zcluster.core.sync.blocks import CHUNK_BYTES
from zcluster.core.sync.serving import MAX_BLOCKS
from zcluster.errors import ConfigError
from zcluster.files.declare import declare, declare_all
from zcluster.wire import encode
from zcluster.wire.trees import Trees

HEAD = "[sync]\nscan_s = '1m'\n\n"


def load_text(home: Path, text: str, environ: dict[str, str] | None = None) -> Loaded:
    (home / "zcluster.toml").write_text(text)
    return load(home, {}, environ or {})


def error_of(home: Path, text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_text(home, text)
    return caught.value


def tree(name: str = "t", path: str = "files/t", rest: str = "") -> str:
    return f"[[sync.tree]]\nname = '{name}'\npath = '{path}'\n{rest}\n"


def test_a_tree_with_everything(tmp_path: Path) -> None:
    rest = """direction = "up"
worker_path = "logs"
workers = "web*, db-1"
include = ["*.log", "/var/**"]
exclude = ["!keep.log", "build/"]
extra_valid = ["local/"]
mode = "0640"
owner = "zc:adm"
delete = false
delete_share = 1
symlinks = "copy"
max_file_bytes = "1GiB"
max_files = 10
on_change = ["systemctl", "reload", "a b"]
on_change_timeout_s = "2m"
on_change_failure = "rollback"
keep = "merged"
"""
    settings = load_text(tmp_path, HEAD + tree("Logs.1", "/srv/logs", rest)).settings
    assert settings.sync.scan_s == 60.0
    assert settings.sync.tree == (
        TreeSettings(
            name="Logs.1",
            path="/srv/logs",
            worker_path="logs",
            direction="up",
            workers="web*, db-1",
            include=("*.log", "/var/**"),
            exclude=("!keep.log", "build/"),
            extra_valid=("local/",),
            mode="0640",
            owner="zc:adm",
            delete=False,
            delete_share=1.0,
            symlinks="copy",
            max_file_bytes=1 << 30,
            max_files=10,
            on_change=("systemctl", "reload", "a b"),
            on_change_timeout_s=120.0,
            on_change_failure="rollback",
            keep="merged",
        ),
    )
    assert settings.sync.tree[0].mode_bits == 0o640
    assert isinstance(settings.sync.tree[0].delete_share, float)


def test_name_and_path_are_enough_and_relative_means_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    loaded = load_text(tmp_path, tree("a", "files/a") + tree("b", "../b"))
    one, other = loaded.settings.sync.tree
    assert one == TreeSettings("a", str(tmp_path / "files/a"))
    assert other.path == str(tmp_path.parent / "b")
    assert (one.place, other.place) == ("zcluster.toml:1", "zcluster.toml:5")
    assert one.mode_bits == -1
    assert str(loaded.origins["sync.tree"]) == "file zcluster.toml:1"
    with pytest.raises(FrozenInstanceError):
        one.name = "x"  # type: ignore[misc]


def test_trees_may_be_inline(tmp_path: Path) -> None:
    text = "[sync]\ntree = [{name = 'a', path = 'a'}, {name = 'b', path = 'b'}]\n"
    assert [each.name for each in load_text(tmp_path, text).settings.sync.tree] == ["a", "b"]
    assert "zcluster.toml:2: unknown setting 'sync.tree.x'" in error_of(tmp_path, "[sync]\ntree = [{x = 1}]\n").message


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("exlude = []", "unknown setting 'sync.tree.exlude' (did you mean 'sync.tree.exclude'?)"),
        ("qqqqqqqqqqqq = 1", "[[sync.tree]] has name, path, worker_path, direction"),
        ("place = 'x'", "unknown setting 'sync.tree.place'"),
        ("[sync.tree.sub]", "unknown setting 'sync.tree.sub'"),
        ("direction = 'sideways'", "sync.tree.direction: expected down or up, got 'sideways'"),
        ("include = '*.log'", "sync.tree.include: expected a list"),
        ("include = [1]", "expected a list of texts, got 1"),
        ("include = ['']", "expected a pattern of 1 to"),
        ("include = ['# no']", "the pattern '# no' matches nothing"),
        ("exclude = ['a[']", "the pattern 'a[' matches nothing"),
        ("extra_valid = ['!']", "not a gitignore pattern: '!'"),
        ("extra_valid = ['[z-a]']", "not a gitignore pattern: '[z-a]'"),
        ('exclude = ["a\\nb"]', "without control characters"),
        ("mode = 640", "sync.tree.mode: expected text, got 640"),
        ("mode = '4755'", "permission bits such as '0640', got '4755'"),
        ("mode = '0789'", "permission bits"),
        ("mode = ''", "permission bits"),
        ("owner = 'a b'", "expected 'user' or 'user:group', got 'a b'"),
        ("owner = 'a:b:c'", "expected 'user' or 'user:group'"),
        ("owner = ':b'", "expected 'user' or 'user:group'"),
        (f"owner = '{'u' * 129}'", "expected 'user' or 'user:group'"),
        ("delete = 'yes'", "expected true or false, without quotes, got 'yes'"),
        ("delete = 1", "expected true or false"),
        ("delete_share = 1.01", "sync.tree.delete_share: expected 0 to 1"),
        ("delete_share = -0.01", "expected 0 to 1"),
        ("delete_share = nan", "expected 0 to 1"),
        ("delete_share = true", "expected a number from 0 to 1, got True"),
        ("delete_share = '50%'", "expected a number from 0 to 1, got '50%'"),
        ("symlinks = 'follow'", "expected refuse or copy"),
        ("max_file_bytes = 0", "sync.tree.max_file_bytes: expected 1 to"),
        ("max_files = 10000001", "sync.tree.max_files: expected 1 to 10000000"),
        ("on_change = 'systemctl reload x'", "sync.tree.on_change: expected a list"),
        ("on_change = ['', 'x']", "expected the program's name first"),
        ('on_change = ["a\\u0000b"]', "expected a list of texts"),
        ("on_change_timeout_s = 0", "expected 0.1 to 3600 seconds"),
        ("on_change_failure = 'rollback'", "on_change_failure needs an on_change"),
        ("keep = 'merged'", "sync.tree.keep is for trees with direction = 'up'"),
        ("workers = ''", "expected all, a name, a glob"),
        ("workers = 'a,,b'", "expected all, a name, a glob"),
        ("workers = 'a,master'", "expected workers, got 'master'"),
        ("workers = 'any'", "expected workers, got 'any'"),
        ("worker_path = 'a/../b'", "expected a path without '..'"),
        ("worker_path = 5", "sync.tree.worker_path: expected text, got 5"),
    ],
)
def test_an_error_names_the_line_of_the_key(tmp_path: Path, rest: str, expected: str) -> None:
    error = error_of(tmp_path, HEAD + tree() + "\n" + tree("u", "files/u", rest))
    assert f"{tmp_path}/zcluster.toml:12: " in error.message
    assert expected in str(error)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("[[sync.tree]]\npath = 'x'\n", "zcluster.toml:1: a [[sync.tree]] has no name"),
        ("[[sync.tree]]\nname = 'x'\n", "zcluster.toml:1: a [[sync.tree]] has no path"),
        ("[[sync.tree]]\nname = 'all'\npath = 'x'\n", "zcluster.toml:2: sync.tree.name: the name 'all' is reserved"),
        ("[[sync.tree]]\nname = ''\npath = 'x'\n", "zcluster.toml:2: sync.tree.name: expected a name"),
        ("[[sync.tree]]\nname = 'x/y'\npath = 'x'\n", "zcluster.toml:2: sync.tree.name: expected a name"),
        ("[[sync.tree]]\nname = 'x'\npath = ''\n", "zcluster.toml:3: sync.tree.path: expected a path, got nothing"),
        ("[[sync.tree]]\nname = 'x'\npath = ['x']\n", "zcluster.toml:3: sync.tree.path: expected text, got list"),
        ("[sync.tree]\nname = 'x'\npath = 'x'\n", "zcluster.toml:1: expected sync.tree to be tables"),
        ("[sync]\ntree = ['x']\n", "zcluster.toml:2: expected sync.tree to be tables"),
        ("[sync]\ntree = 'x'\n", "zcluster.toml:2: expected sync.tree to be tables"),
    ],
)
def test_what_is_missing_or_no_table_names_its_line(tmp_path: Path, table: str, expected: str) -> None:
    assert expected in error_of(tmp_path, table).message


def test_names_are_unique_whatever_their_case(tmp_path: Path) -> None:
    error = error_of(tmp_path, tree("rules", "a") + tree("Rules", "b"))
    assert "zcluster.toml:5: two trees are called 'Rules', the other one in line 1" in error.message


@pytest.mark.parametrize(
    ("one", "other"),
    [("a", "a"), ("a", "a/b"), ("a/b/c", "a"), ("a", "./a/"), ("a", "x/../a"), ("link/b", "real"), ("link", "real")],
)
def test_overlapping_trees_are_refused(tmp_path: Path, one: str, other: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    error = error_of(tmp_path, tree("one", one) + tree("other", other))
    assert "zcluster.toml:5: " in error.message
    assert "overlaps" in error.message
    assert "of tree 'one' in line 1" in error.message


@pytest.mark.parametrize(("one", "other"), [("a", "ab"), ("a/b", "a/c"), ("link", "other")])
def test_trees_side_by_side_are_fine(tmp_path: Path, one: str, other: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert len(load_text(tmp_path, tree("one", one) + tree("other", other)).settings.sync.tree) == 2


@pytest.mark.parametrize(
    ("path", "what"),
    [
        (".", "keys"),
        ("..", "keys"),
        ("/", "keys"),
        ("keys", "keys"),
        ("keys/sub", "keys"),
        ("data/x", "data"),
        ("run", "run files"),
        ("zcluster.toml", "configuration"),
        ("link", "data"),
    ],
)
def test_the_homes_own_files_are_in_no_tree(tmp_path: Path, path: str, what: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    error = error_of(tmp_path, tree("t", path))
    assert "zcluster.toml:1: " in error.message
    assert f"overlaps the home's {what} (" in error.message


def test_a_link_from_the_home_out_is_followed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (home / "keys").symlink_to(tmp_path / "elsewhere")
    assert "overlaps the home's keys" in error_of(home, tree("t", str(tmp_path / "elsewhere" / "x"))).message


def test_a_place_apart_from_the_home_has_no_conflict(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home_conflict(str(tmp_path / "trees" / "w" / "t"), home) == ""
    assert home_conflict(str(tmp_path / "keys" / "t"), home) == f"the home's keys ({tmp_path}/keys)"
    (tmp_path / "out").symlink_to("data")
    assert "the home's data" in home_conflict(str(tmp_path / "out" / "t"), home)


def test_worker_paths_of_the_same_workers_must_be_apart(tmp_path: Path) -> None:
    one = tree("one", "a", "worker_path = '/srv/x'")
    assert (
        "the worker_path of tree 'other', overlaps /srv/x"
        in error_of(tmp_path, one + tree("other", "b", "worker_path = '/srv/x/y'")).message
    )
    both = "worker_path = 'x'"
    assert "overlaps x" in error_of(tmp_path, tree("one", "a", both) + tree("other", "b", both)).message
    load_text(tmp_path, one + tree("other", "b", "worker_path = '/srv/xy'"))
    load_text(tmp_path, one + tree("other", "b", "worker_path = 'srv/x'"))
    load_text(tmp_path, one + tree("other", "b", "worker_path = '/srv/x'\nworkers = 'web*'"))


def test_the_message_fits_with_the_trees_that_extra_valid_implies(tmp_path: Path) -> None:
    names = [f"{index:02}{'n' * (MAX_NAME_CHARS - len(EXTRA) - 2)}" for index in range(MAX_TREES)]
    pattern = json.dumps(["\\\\" * 250 + "x"])
    text = "".join(tree(name, name, f"extra_valid = {pattern}\nworker_path = '{'w' * 400}/{name}'") for name in names)
    settings = load_text(tmp_path, text).settings
    declared = declare_all(map(asdict, settings.sync.tree), {"up_files": 1, "up_bytes": 1}, Path("extra"))
    infos = [each.info for each in declared.values()]
    assert len(infos) == 2 * MAX_TREES
    message = Trees(epoch=2**53 - 1, chunk_bytes=983040, window_bytes=1 << 30, trees=infos)
    assert 200_000 < len(encode(message)) < 400_000
    own = [tree("a", "a", f"extra_valid = {['y' * 1000 + str(number) for number in range(100)]}")]
    assert "bytes, at most" in error_of(tmp_path, own[0]).message


def test_names_of_trees_that_extra_valid_implies_are_reserved(tmp_path: Path) -> None:
    assert "reserved" in error_of(tmp_path, tree("rules.EXTRA")).message
    own = "extra_valid = ['local/']"
    longest = MAX_NAME_CHARS - len(EXTRA)
    assert f"at most {longest} characters" in error_of(tmp_path, tree("t" * (longest + 1), rest=own)).message
    load_text(tmp_path, tree("t" * longest, rest=own) + tree("u" * MAX_NAME_CHARS, "files/u"))


def test_the_number_of_trees_is_bounded(tmp_path: Path) -> None:
    at_the_limit = "".join(tree(f"t{index}", f"t{index}") for index in range(MAX_TREES))
    assert len(load_text(tmp_path, at_the_limit).settings.sync.tree) == MAX_TREES
    assert "65 trees, at most 64" in error_of(tmp_path, at_the_limit + tree("x", "x")).message


def test_what_a_worker_is_told_of_all_trees_is_bounded(tmp_path: Path) -> None:
    empty = len('[["",""],["",""]]')
    # In JSON each takes two quotes and a comma more, and an é two bytes.
    first = ["é" * 498 + "x"] * 100
    last = ["y" * 997] * 99 + ["z" * (1000 - empty - 3)]

    def text(more: str) -> str:
        return tree("a", "a", f"include = {first}") + tree("b", "b", f"exclude = {[*last[:-1], last[-1] + more]}")

    assert load_text(tmp_path, text(""))
    error = error_of(tmp_path, text("z"))
    assert f"take {MAX_TEXT_BYTES + 1} bytes, at most {MAX_TEXT_BYTES} are allowed" in error.message


def test_the_message_of_all_trees_fits_a_frame(tmp_path: Path) -> None:
    names = [f"{index:02}{'n' * 62}" for index in range(MAX_TREES)]
    pattern = json.dumps(["\\\\" * 500 + "x"])
    text = "".join(tree(name, name, f"include = {pattern}\nworker_path = '{'w' * 900}/{name}'") for name in names)
    settings = load_text(tmp_path, text).settings
    sync = {"up_files": 1, "up_bytes": 1}
    infos = [declare(asdict(each), sync).info for each in settings.sync.tree]
    message = Trees(epoch=2**53 - 1, chunk_bytes=983040, window_bytes=1 << 30, trees=infos)
    assert 200_000 < len(encode(message)) < 400_000


def test_a_file_of_a_tree_fits_one_question_for_its_blocks(tmp_path: Path) -> None:
    most = MAX_BLOCKS * CHUNK_BYTES
    assert load_text(tmp_path, tree(rest="max_file_bytes = '30GiB'")).settings.sync.tree[0].max_file_bytes == most
    assert "30GiB" in error_of(tmp_path, tree(rest=f"max_file_bytes = {most + 1}")).message


def test_trees_need_frames_of_a_mebibyte(tmp_path: Path) -> None:
    less = "[limits]\nframe_bytes = 1048575\n\n"
    assert load_text(tmp_path, less)
    assert load_text(tmp_path, less.replace("1048575", "1048576") + tree())
    error = error_of(tmp_path, less + tree())
    assert "limits.frame_bytes must be at least 1MiB where a [[sync.tree]] is declared" in error.message
    assert "sync.tree is 1 (" in error.message


def test_lists_and_patterns_are_bounded() -> None:
    assert check_value(TREE_KEYS["include"], ["a"] * MAX_PATTERNS, text=False)
    assert check_value(TREE_KEYS["on_change"], ["a"] * MAX_WORDS, text=False)
    for key, most in (("include", MAX_PATTERNS), ("on_change", MAX_WORDS)):
        with pytest.raises(ConfigError, match=f"at most {most} items, got {most + 1}"):
            check_value(TREE_KEYS[key], ["a"] * (most + 1), text=False)
    assert pattern_fault("a" * MAX_PATTERN_CHARS) == ""
    assert pattern_fault("a" * (MAX_PATTERN_CHARS + 1)) != ""


def test_neither_environment_nor_flag_declares_a_tree(tmp_path: Path) -> None:
    for variable in ("ZCLUSTER_SYNC__TREE", "ZCLUSTER_SYNC__TREE__NAME"):
        with pytest.raises(ConfigError, match=r"in zcluster\.toml only") as caught:
            load(tmp_path, {}, {variable: "x"})
        assert variable in caught.value.message
        assert "[[sync.tree]]" in caught.value.hint
    with pytest.raises(ConfigError, match=r"in zcluster\.toml only"):
        load(tmp_path, {"sync.tree": "x"}, {})
    assert load(tmp_path, {}, {"ZCLUSTER_SYNC__PULLS": "3"}).settings.sync.pulls == 3


def test_a_reload_applies_trees_and_a_moved_line_is_no_change(tmp_path: Path) -> None:
    running = load_text(tmp_path, tree()).settings
    moved = load_text(tmp_path, "\n" + tree()).settings
    assert reload(running, moved).applied == ()
    fresh = load_text(tmp_path, "[sync]\npulls = 2\n[worker]\non_change = 'allow'\n" + tree(rest="delete = false")).settings
    done = reload(running, fresh)
    assert set(done.applied) == {"sync.pulls", "sync.tree"}
    assert done.needs_restart == ("worker.on_change",)
    assert done.settings.sync == fresh.sync
    assert {name for name in SETTINGS if name.startswith("sync.")} <= LIVE
    assert all(declared.spec.live for declared in TREE_KEYS.values())


def test_rows_have_a_line_for_each_tree(tmp_path: Path) -> None:
    table = rows(load_text(tmp_path, tree("a", "a") + tree("b", "b", "mode = '600'")))
    trees = [row for row in table if row.name.startswith("sync.tree")]
    assert [(row.name, row.origin) for row in trees] == [
        ("sync.tree.a", "file zcluster.toml:1"),
        ("sync.tree.b", "file zcluster.toml:5"),
    ]
    value: Any = trees[1].value
    assert (value["path"], value["mode"], value["direction"]) == (str(tmp_path / "b"), "600", "down")
    assert list(value) == list(TREE_KEYS)


def test_the_settings_of_a_worker(tmp_path: Path) -> None:
    worker = load_text(tmp_path, "[worker]\ntree_roots = ['/srv/a', 'b']\non_change = 'allow'\n").settings.worker
    assert worker.tree_roots == ("/srv/a", str(tmp_path / "b"))
    assert worker.on_change == "allow"
    assert (Settings().worker.tree_roots, Settings().worker.on_change) == ((), "refuse")
    assert "expected a path, got nothing" in error_of(tmp_path, "[worker]\ntree_roots = ['']\n").message


def test_the_trees_of_the_how_to_are_valid(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/how-to/sync-files.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```toml\n(.*?)^```$", page, re.M | re.S)
    assert len(blocks) > 4
    for block in blocks:
        load_text(tmp_path, block)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(TREE_KEYS)), VALUES)
def test_whatever_a_key_says_is_read_or_is_a_configuration_error(key: str, value: object) -> None:
    raw = [{"name": "t", "path": "files/t", key: value}]
    home = Home(Path("/nowhere/home"))
    message = ""
    try:
        (found,) = read_trees(raw, home, home.config_file, {})
        assert getattr(found, key) == check_value(TREE_KEYS[key], value, text=False, base=home.path)
    except ConfigError as error:
        message = error.message
    assert not message or message.startswith("/nowhere/home/zcluster.toml:0: ")


@pytest.mark.parametrize("key", TREE_KEYS)
def test_every_key_is_documented_and_its_default_is_valid(key: str) -> None:
    declared = TREE_KEYS[key]
    assert declared.spec.doc.endswith(".")
    if declared.default is not None:
        assert check_value(declared, declared.default, text=False, base=Path("/")) == declared.default
