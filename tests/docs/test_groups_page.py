"""The pages about groups and live configuration say the limits, keys and scopes that the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zcluster.brokers.groups_edits import CHUNK
from zcluster.brokers.liveconfig import HISTORY
from zcluster.clients.groups import AsyncGroups
from zcluster.clients.liveconfig import AsyncConfig
from zcluster.core import groups, liveconfig

DOCS = Path(__file__).resolve().parents[2] / "docs"
PROTOCOL = (DOCS / "protocol.md").read_text(encoding="utf-8")
REFERENCE = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
SECTION = PROTOCOL.partition("## Groups and live configuration\n")[2].partition("\n## ")[0]
GROUPS_PAGE = " ".join((DOCS / "how-to" / "groups.md").read_text(encoding="utf-8").split())
CONFIG_PAGE = " ".join((DOCS / "how-to" / "live-configuration.md").read_text(encoding="utf-8").split())


@pytest.mark.parametrize("key", [groups.NAME_KEY, groups.OF_KEY, groups.FILE_KEY, liveconfig.KEY])
def test_the_protocol_has_every_key_of_the_tables(key: str) -> None:
    assert re.search(rf"^\| `{key}[A-Z]+` \|", SECTION, re.M)


@pytest.mark.parametrize("key", liveconfig.SCHEMA)
def test_both_pages_have_every_key_of_the_schema(key: str) -> None:
    assert f"`{key}`" in SECTION
    assert f"| `{key}` |" in CONFIG_PAGE


@pytest.mark.parametrize("word", [*liveconfig.METRICS, *liveconfig.LOG_LEVELS])
def test_both_pages_have_every_word(word: str) -> None:
    assert f"`{word}`" in SECTION
    assert f"`{word}`" in CONFIG_PAGE


def test_the_limits_of_the_protocol() -> None:
    flat = " ".join(SECTION.split())
    for said in (
        f"at most {groups.MAX_FILE_BYTES} bytes",
        f"at most {groups.MAX_FILES} files",
        f"1 to {groups.MAX_OF_AGENT} different groups",
        f"at most {groups.MAX_FILE_NAME_BYTES} bytes of UTF-8",
        f"at most {groups.MAX_FILES_OF_AGENT}.",
        f"at most {liveconfig.MAX_EXTRA_BYTES} bytes of JSON, {liveconfig.MAX_EXTRA_DEPTH} levels deep",
        f"number, {liveconfig.INTERVAL_MIN_S:g} to {liveconfig.INTERVAL_MAX_S:g}",
    ):
        assert said in flat, said


def test_the_limits_of_the_how_to_pages() -> None:
    for said in (
        f"at most {groups.MAX_GROUPS:,} groups",
        f"at most {groups.MAX_OF_AGENT}.",
        f"at most {groups.MAX_FILE_BYTES // 1024} KiB",
        f"a group has at most {groups.MAX_FILES}, and all groups together at most {groups.MAX_FILES_TOTAL:,}",
        f"of {groups.MAX_FILES_TOTAL_BYTES // 2**20} MiB",
        f"commits of {CHUNK:,}",
        f"gets at most {groups.MAX_FILES_OF_AGENT} files",
    ):
        assert said in GROUPS_PAGE, said
    for said in (
        f"{liveconfig.INTERVAL_MIN_S:g} to {liveconfig.INTERVAL_MAX_S:g}; {liveconfig.DEFAULT_INTERVAL_S:g} when nothing is set",
        f"at most {liveconfig.MAX_EXTRA_BYTES // 1024} KiB of JSON and {liveconfig.MAX_EXTRA_DEPTH} levels deep",
        f"The last {HISTORY} are kept",
    ):
        assert said in CONFIG_PAGE, said


@pytest.mark.parametrize(
    ("title", "methods"), [("## Groups: `groups`", AsyncGroups), ("## Live configuration: `config`", AsyncConfig)]
)
def test_the_python_reference_has_every_method_and_no_other(title: str, methods: type) -> None:
    rows = REFERENCE.partition(title + "\n")[2].partition("\n## ")[0]
    told = set(re.findall(r"`(?:await )?(\w+)\([^`]*\)`", rows))
    assert told == {name for name in dir(methods) if name[0] != "_"}
