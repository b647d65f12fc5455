"""Versions and other texts with numbers, in order."""

from __future__ import annotations

import pytest

from zcluster.core.agents.versions import natural_key, version_key

IN_ORDER = ["4.9-alpha1", "4.9-rc1", "4.9-rc2", "4.9-rc10", "4.9", "4.9.0.1", "4.9.1", "4.10", "4.10.1", "10.0", "2026.1"]


def test_versions_are_in_the_order_of_their_numbers() -> None:
    keys = [version_key(text) for text in IN_ORDER]
    assert keys == sorted(keys)
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("text", ["4.9", "4.9.0", "v4.9", "Wazuh v4.9.0", "4.9.0.0", "04.09", "4.9+git.7", "4-9", "4_9"])
def test_these_are_the_same_version(text: str) -> None:
    assert version_key(text) == version_key("4.9")


@pytest.mark.parametrize("text", ["", "...", "+1"])
def test_these_say_nothing(text: str) -> None:
    assert version_key(text) == ""


@pytest.mark.parametrize("text", ["0", "0.0.0", "x", "9" * 300, "١.٢"])
def test_anything_has_a_key(text: str) -> None:
    assert isinstance(version_key(text), str)
    assert isinstance(natural_key(text), str)


def test_other_texts_are_in_the_order_of_their_words_and_numbers() -> None:
    texts = ["", "db-2", "web", "web-9", "web-10", "web-10-a"]
    assert sorted(texts, key=natural_key) == texts
    assert version_key("0") < version_key("0.1") < version_key("1")
