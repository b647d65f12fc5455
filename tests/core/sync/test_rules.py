"""What patterns cover. The tables were checked against ``git check-ignore`` 2.39."""

from __future__ import annotations

from typing import Any

import pytest

from zcluster.core.sync import rules as module
from zcluster.core.sync.rules import Rules
from zcluster.errors import ConfigError
from zcluster.wire.trees import TreeInfo


def covered(rules: Rules, *paths: str) -> list[bool]:
    """A path with a slash at its end is a directory's."""
    return [rules.covers(path.rstrip("/"), path.endswith("/")) for path in paths]


@pytest.mark.parametrize(
    ("patterns", "out", "kept"),
    [
        (["*.tmp"], ["a.tmp", "d/a.tmp", "x.tmp/"], ["a", "tmp", "d/"]),
        (["/a"], ["a", "a/", "a/b"], ["d/a", "d/a/b"]),
        (["a/"], ["a/", "a/b", "d/a/b"], ["a", "d/a"]),
        (["d/*"], ["d/a", "d/b/", "d/b/c"], ["d/", "e/d/a"]),
        (["d/*", "!d/a"], ["d/b", "d/b/c"], ["d/a", "d/a/", "d/a/b"]),
        (["d/", "!d/a"], ["d/", "d/a", "d/a/b"], ["d"]),
        (["*", "!*/", "!*.c"], ["a.o", "d/a.o", "a"], ["d/", "d/a.c", "a.c", "d/e/"]),
        (["a/**/b"], ["a/b", "a/x/b", "a/x/y/b/", "a/b/c"], ["b", "c/a/b", "a/x"]),
        (["a/**"], ["a/x", "a/x/", "a/x/y"], ["a/", "a"]),
        (["a/**/"], ["a/x/", "a/x/y"], ["a/", "a/f"]),
        (["**/b"], ["b", "a/b", "a/b/c"], ["a/"]),
        (["*/"], ["d/", "d/a", "e/f/"], ["a"]),
        (["x\\ y", "\\#z", "\\!w", "[ab].c"], ["x y", "#z", "!w", "a.c"], ["x", "z", "w", "c.c"]),
        (["foo", "!foo"], [], ["foo", "foo/", "foo/x"]),
        (["?"], ["a", "d/b"], ["ab"]),
    ],
)
def test_exclude_is_as_git_has_it(patterns: list[str], out: list[str], kept: list[str]) -> None:
    rules = Rules(exclude=tuple(patterns))
    assert covered(rules, *out) == [False] * len(out)
    assert covered(rules, *kept) == [True] * len(kept)


@pytest.mark.parametrize(
    ("patterns", "kept", "out"),
    [
        (["*.conf"], ["a.conf", "d/", "d/e/", "d/e/a.conf", "x.conf/", "x.conf/y"], ["a", "d/a"]),
        (["/etc/*.conf"], ["etc/", "etc/a.conf"], ["a.conf", "var/", "etc/b/", "etc/b/a.conf", "etc"]),
        (["etc/"], ["etc/", "etc/a", "etc/b/c", "d/", "d/etc/x"], ["a", "d/a", "etc"]),
        (["/etc/"], ["etc/", "etc/a", "etc/b/", "etc/b/c"], ["a", "var/", "var/etc/"]),
        (["/etc/", "!*.bak", "!/etc/secret/"], ["etc/a", "etc/b/c"], ["etc/a.bak", "etc/secret/", "etc/secret/x"]),
        (["a/**/z"], ["a/", "a/b/", "a/b/c/", "a/z", "a/b/z"], ["b/", "a/b", "z"]),
        (["a/b*/c/d"], ["a/", "a/b1/", "a/b1/c/", "a/b1/c/d"], ["a/x/", "a/b1/x/", "a/b1/d", "a/b1/c/e"]),
        (["a/**"], ["a/", "a/x", "a/b/", "a/b/c"], ["b/", "a"]),
    ],
)
def test_include_lists_what_is_covered(patterns: list[str], kept: list[str], out: list[str]) -> None:
    rules = Rules(include=tuple(patterns))
    assert covered(rules, *kept) == [True] * len(kept)
    assert covered(rules, *out) == [False] * len(out)


def test_what_holds_something_covered_is_covered() -> None:
    """Otherwise a walk would never come to it."""
    rules = Rules(include=("a/b*/c", "x/**/y.z", "/k/l/m/", "!a/bad"))
    for path in ("a/b1/c", "x/y.z", "x/1/2/3/y.z", "k/l/m/n/o"):
        assert rules.covers(path, False)
        while path := path.rpartition("/")[0]:
            assert rules.covers(path, True), path


def test_exclude_wins_over_include_and_extra_valid() -> None:
    rules = Rules(include=("*.c",), exclude=("secret.c", "x/"), extra_valid=("*.log",))
    assert covered(rules, "a.c", "secret.c", "x/", "x/a.c", "x/a.log", "a.log") == [True, False, False, False, False, True]


def test_extra_valid_is_covered_at_the_sink_and_not_at_the_source() -> None:
    sink = Rules(extra_valid=("*.log", "/cache/"))
    source = sink.for_source()
    paths = ("a", "a.log", "d/a.log", "cache/", "cache/x", "d/", "")
    assert covered(sink, *paths) == [True] * 7
    assert covered(source, *paths) == [True, False, False, False, False, True, True]
    assert [sink.is_extra_valid(path) for path in ("a.log", "cache/x", "cache", "a", "")] == [True, True, False, False, False]
    assert sink.is_extra_valid("cache", True)
    assert source.is_extra_valid("a.log")


def test_a_negation_of_extra_valid_does_not_bring_back_what_is_excluded() -> None:
    source = Rules(exclude=("*.log",), extra_valid=("*.tmp", "!a.log", "!k.tmp")).for_source()
    assert covered(source, "a.log", "b.tmp", "k.tmp") == [False, False, True]


def test_the_root_is_always_covered() -> None:
    assert Rules(exclude=("*",)).covers("", True)
    assert Rules(include=("/a",)).covers("", True)


def test_a_deep_path_needs_no_stack() -> None:
    rules = Rules(exclude=("*.tmp",))
    assert rules.covers("/".join("a" * 5000), False)
    assert not rules.covers("/".join("a" * 5000) + "/x.tmp", False)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REMEMBERED", 10)
    rules = Rules(exclude=("*7", "!x/*"))
    for number in range(100):
        assert rules.covers(f"d{number}/f", False) == (number % 10 != 7)
        assert len(rules._exclude._known) <= 10


@pytest.mark.parametrize("setting", ["include", "exclude", "extra_valid"])
@pytest.mark.parametrize("pattern", ["!", "a\\", "", "  ", "# note", "/", "["])
def test_a_pattern_that_cannot_match_is_an_error_that_names_it(setting: str, pattern: str) -> None:
    values: Any = {setting: ("fine", pattern)}
    with pytest.raises(ConfigError) as caught:
        Rules(**values)
    assert setting in caught.value.message
    assert repr(pattern) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    "values",
    [{"mode": 0o1000}, {"mode": -2}, {"delete_share": 1.1}, {"hash": "md5"}, {"symlinks": "follow"}, {"max_files": -1}],
)
def test_values_out_of_range_are_errors(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Rules(**values)


def test_modes_are_the_rules_or_their_own() -> None:
    own, ruled = Rules(), Rules(mode=0o640)
    assert [own.mode_of("f", 0o4755), own.mode_of("d", 0o1777), own.mode_of("l", 0o777)] == [0o755, 0o777, 0]
    assert [ruled.mode_of("f", 0o4755), ruled.mode_of("d", 0o700), ruled.mode_of("l", 0o777)] == [0o640, 0o750, 0]
    assert Rules(mode=0).mode_of("f", 0o644) == 0


def test_rules_of_a_declared_tree() -> None:
    info = TreeInfo(
        tree="t", include=["a"], exclude=["b"], extra_valid=["c"], mode=0o600, owner="u:g", delete=False, delete_share=0.1,
        symlinks="copy", max_file_bytes=1, max_files=2, max_bytes=3, hash="blake2b_256",
    )  # fmt: skip
    assert Rules.of(info) == Rules(("a",), ("b",), ("c",), 0o600, "u:g", False, 0.1, "copy", 1, 2, 3, "blake2b_256")
    assert hash(Rules.of(info)) == hash(Rules.of(info))
    assert Rules.of(info) != Rules.of(info).for_source()
