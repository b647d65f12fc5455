"""Golden conversations of file sync: what a source and a sink say to each other, as text to be read.

As tests/traces/test_traces.py; written again by::

    ZCLUSTER_WRITE_TRACES=1 pytest tests/traces && git diff tests/traces
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Talk = Callable[[str], Any]
Golden = Callable[[Any], None]


def small_tree(t: Any) -> None:
    """Three files, published."""
    for path, data in (("main.py", b"print(1)\n"), ("lib/a.py", b"a = 1\n"), ("lib/b.py", b"b = 1\n")):
        t.master.tree.put(path, t.node(data), -1.0)
    t.pump()


def test_trees_first_sync(tree_talk: Talk, golden: Golden) -> None:
    t = tree_talk("A worker without a copy: it walks the manifest from the root, fetches what is missing, and applies it.")
    small_tree(t)
    t.joins()
    golden(t)


def test_trees_change(tree_talk: Talk, golden: Golden) -> None:
    t = tree_talk("A change of a tree: the sink holds the version before, so it gets the changes, and asks for one file only.")
    small_tree(t)
    t.joins()
    t.wait(1.0)
    t.write("lib/a.py", b"a = 2\n")
    t.wait(1.0)
    t.remove("lib/b.py")
    golden(t)


def test_trees_large_file(tree_talk: Talk, golden: Golden) -> None:
    t = tree_talk("A large file changes in the middle: hashes of its chunks, of the blocks of those that differ, then one block.")
    data = bytes(range(256)) * 400
    t.master.tree.put("model.bin", t.node(data), -1.0)
    t.pump()
    t.joins()
    t.wait(1.0)
    t.write("model.bin", data[:50_000] + b"changed" + data[50_007:])
    golden(t)


def test_trees_source_moves_on(tree_talk: Talk, golden: Golden) -> None:
    t = tree_talk("The source moves on while it is pulled: what is gone is told, and the next pull brings what took its place.")
    small_tree(t)
    t.hold_fetches = True
    t.joins()
    t.wait(1.0)
    t.write("lib/a.py", b"a = 'newer'\n")
    t.release()
    golden(t)


def test_trees_guard(tree_talk: Talk, golden: Golden) -> None:
    t = tree_talk("All files are gone at the source: nothing of that is published before somebody confirms it.")
    small_tree(t)
    t.joins()
    t.wait(1.0)
    t.remove("main.py", "lib/a.py", "lib/b.py", "lib")
    t.wait(1.0)
    t.confirm()
    golden(t)


def test_trees_back_again(tree_talk: Talk, golden: Golden) -> None:
    t = tree_talk("A worker dies while it fetches and comes back: what it holds is on its disk, and it catches up from there.")
    small_tree(t)
    t.joins()
    t.wait(1.0)
    t.hold_fetches = True
    t.write("main.py", b"print(2)\n")
    t.leaves()
    t.hold_fetches = False
    t.wait(1.0)
    t.write("lib/c.py", b"c = 1\n")
    t.wait(1.0)
    t.joins()
    golden(t)
