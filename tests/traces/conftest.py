"""A conversation per behaviour, compared with the text beside this file."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
WRITE = "ZCLUSTER_WRITE_TRACES"


def _load(name: str) -> ModuleType:
    # Tests are not a package: a module beside this file is loaded by its path.
    spec = importlib.util.spec_from_file_location(f"trace_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_MODULE = _load("conversation")
_TREES = _load("tree_conversation")


@pytest.fixture
def talk() -> Callable[[str], Any]:
    """Begin a conversation with a title."""
    made: Callable[[str], Any] = _MODULE.Conversation
    return made


@pytest.fixture
def tree_talk() -> Callable[[str], Any]:
    """Begin a conversation about a tree with a title."""
    made: Callable[[str], Any] = _TREES.TreeConversation
    return made


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Any], None]:
    """Compare a conversation with ``<name of the test>.txt``, or write it when ZCLUSTER_WRITE_TRACES is set."""

    def compare(conversation: Any) -> None:
        path = HERE / f"{request.node.name.removeprefix('test_')}.txt"
        if os.environ.get(WRITE):
            path.write_text(conversation.text)
        assert path.exists(), f"no {path.name}: write it with {WRITE}=1 and read it"
        assert conversation.text == path.read_text(), f"it went differently; if that is right: {WRITE}=1, and read the diff"

    return compare
