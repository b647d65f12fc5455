"""docs/how-to/events.md names every event that the code can tell of, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from zcluster.core.agents.turning import NAMES
from zcluster.core.eventflood import REPEATED
from zcluster.core.eventflow import DROPPED
from zcluster.core.eventnames import MISSED, STATES, UNTOLD

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "events.md"
SAYS = re.compile(r"(?:Event\(|effects\.tell\(|self\._keep\(log, )f?\"([a-z_]+)")
"""Where an event gets its name; one that is put together counts as its beginning."""


def names_in_code() -> set[str]:
    found = {name for path in (ROOT / "zcluster").rglob("*.py") for name in SAYS.findall(path.read_text(encoding="utf-8"))}
    named = {"join", "back", MISSED, REPEATED, DROPPED, *STATES.values(), *(name for pair in NAMES.values() for name in pair)}
    return (found - UNTOLD - set(STATES) - {"node_"}) | named


def names_on_page() -> set[str]:
    (table,) = re.findall(r"^\| event \|.*?\n((?:^\|.*\n)+)", PAGE.read_text(encoding="utf-8"), re.M)
    return {name for row in table.splitlines() for name in re.findall(r"`([a-z_]+…?)`", row.split("|")[1])}


def test_every_event_is_on_the_page() -> None:
    page = names_on_page()
    beginnings = tuple(name.removesuffix("…") for name in page if name.endswith("…"))
    assert len(names_in_code()) > 30
    assert sorted(name for name in names_in_code() if name not in page and not name.startswith(beginnings)) == []


def test_the_page_names_no_event_that_does_not_exist() -> None:
    code = names_in_code()
    assert sorted(name for name in names_on_page() if not name.endswith("…") and name not in code) == []
    assert [name for name in names_on_page() if name.endswith("…") and not any(c.startswith(name[:-1]) for c in code)] == []
