"""Names and paths that a tree may have, and those that it may not."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.core.sync.paths import MAX_DEPTH, MAX_PATH_BYTES, _name_fault, case_twins, fold, link_fault, name_fault, path_fault

FINE = [
    "a", "a.txt", ".hidden", "..a", "a b", "ä", "日本語", "😀", "con1", "console", "com", "com10", "lpt", "auxiliary", "nul_",
    ".zclusters", "zcluster", "a" * 255, "ä" * 127, "~x", "a:b", "a\\b", "*", "icon", "x.con",
]  # fmt: skip

REFUSED = {
    "": "empty",
    ".": "component",
    "..": "component",
    "a/b": "'/'",
    "/": "'/'",
    "a\0": "control",
    "a\nb": "control",
    "\x1b[2J": "control",
    "a\x7f": "control",
    "a\x85": "control",
    "a\u202etxt.exe": "direction",
    "a\u2066": "direction",
    "a\u200f": "direction",
    "a\u2028b": "direction",
    "a\u2029b": "direction",
    "a\u0308": "NFC",
    "\u212b": "NFC",
    "\udc80": "UTF-8",
    "a\ud800b": "UTF-8",
    "a" * 256: "255",
    "ä" * 128: "255",
    "a.": "dot or a space",
    "...": "dot or a space",
    "a ": "dot or a space",
    "ä ": "dot or a space",
    ".zcluster": "own",
    ".ZCluster": "own",
    ".zclu\u017fter": "own",
    ".zclu\u200cster": "own",
    "\ufeff.zcluster": "own",
    "con": "Windows",
    "CON": "Windows",
    "Nul.txt": "Windows",
    "aux.tar.gz": "Windows",
    "prn .txt": "Windows",
    "com1": "Windows",
    "COM9.log": "Windows",
    "lpt0": "Windows",
    "com\u00b9": "Windows",
    "com\u00b3.ä": "Windows",
    "CONIN$": "Windows",
    "conout$": "Windows",
}


@pytest.mark.parametrize("name", FINE)
def test_a_fine_name_is_fine_alone_and_in_a_path(name: str) -> None:
    assert name_fault(name) == ""
    assert path_fault(f"a/{name}/b") == ""
    assert path_fault(name) == ""


@pytest.mark.parametrize("name", REFUSED, ids=ascii)
def test_a_bad_name_is_refused_with_its_reason(name: str) -> None:
    assert REFUSED[name] in name_fault(name)


@pytest.mark.parametrize("name", [name for name in REFUSED if "/" not in name], ids=ascii)
def test_a_bad_name_is_refused_wherever_in_a_path(name: str) -> None:
    assert path_fault(f"a/{name}/b")
    assert path_fault(f"{name}/b")
    assert path_fault(f"a/{name}")


@pytest.mark.parametrize("path", ["", "/", "/a", "a/", "a//b", "./a", "a/..", "../a", "a/./b", "a/../../b", "/etc/passwd"])
def test_a_path_is_relative_and_normal(path: str) -> None:
    assert path_fault(path)


def test_a_path_is_bounded_in_bytes_and_depth() -> None:
    assert path_fault("/".join("a" * MAX_DEPTH)) == ""
    assert "deep" in path_fault("/".join("a" * (MAX_DEPTH + 1)))
    for char in ("a", "\xe4"):
        piece = char * (200 // len(char.encode()))
        longest = "/".join([piece] * 20)
        fill = MAX_PATH_BYTES - len(longest.encode()) - 1
        assert path_fault(f"{longest}/{'b' * fill}") == ""
        assert "bytes" in path_fault(f"{longest}/{'b' * (fill + 1)}")


@given(st.text(st.characters(exclude_characters="/"), max_size=12))
def test_the_fast_way_and_the_slow_way_agree(name: str) -> None:
    fault = name_fault(name)
    assert bool(path_fault(f"ä/{name}")) == bool(fault)
    if not fault:
        assert name.encode().decode() == unicodedata.normalize("NFC", name) == name


@given(st.text(st.sampled_from("cCoOnNaAuUxXlLpPtTmM19. $zstre/"), max_size=12))
def test_names_like_devices_are_judged_as_if_they_were_not_ascii(name: str) -> None:
    """The regular expression of the fast way says the same as the careful one."""
    assert name_fault(name) == _name_fault(name)


def test_case_twins_are_found() -> None:
    assert case_twins(["a", "b", "c"]) == set()
    assert case_twins(["README", "readme", "x"]) == {"README", "readme"}
    assert case_twins(["Ä", "ä", "Readme", "README", "o"]) == {"Ä", "ä", "Readme", "README"}
    assert case_twins(["straße", "STRASSE"]) == {"straße", "STRASSE"}
    assert case_twins(["x", "x"]) == {"x"}
    assert case_twins([]) == set()


@given(st.lists(st.text(max_size=4), unique=True, max_size=12))
def test_case_twins_are_those_that_share_a_fold(names: list[str]) -> None:
    assert case_twins(iter(names)) == {name for name in names if any(fold(name) == fold(o) for o in names if o != name)}


@pytest.mark.parametrize(
    ("path", "target"),
    [("a", "b"), ("a", "b/c"), ("d/a", "../b"), ("d/e/a", "../.."), ("d/a", ".."), ("a", "."), ("d/a", "./../x"), ("a", "b//c/")],
)
def test_a_link_may_point_into_its_tree(path: str, target: str) -> None:
    assert link_fault(path, target) == ""


@pytest.mark.parametrize(
    ("path", "target", "why"),
    [
        ("a", "", "empty"),
        ("a", "/etc/passwd", "absolute"),
        ("a", "..", "outside"),
        ("d/a", "../..", "outside"),
        ("d/a", "../../d", "outside"),
        ("d/a", "x/..", "behind a name"),
        ("d/a", "../d/../../etc", "behind a name"),
        ("a", "b\0", "control"),
        ("a", ".zcluster/stage", "own"),
        ("a", "b\udc80", "UTF-8"),
        ("a", "b/" * 2049, "bytes"),
    ],
)
def test_a_link_that_could_lead_out_is_refused(path: str, target: str, why: str) -> None:
    assert why in link_fault(path, target)
