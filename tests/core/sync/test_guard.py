"""When a look is not believed, and what a confirmation is worth."""

from __future__ import annotations

from typing import Any

import pytest

from zcluster.core.sync.guard import MIN_DELETES, judge

GO = ""


def verdict(**other: Any) -> str:
    inputs: dict[str, Any] = {
        "known_before": True, "marker_ok": True, "files_before": 100, "files_after": 100,
        "deleted": 0, "share": 0.5, "confirmed": False,
    }  # fmt: skip
    return judge(**{**inputs, **other})


def test_an_ordinary_change_goes() -> None:
    assert verdict() == GO
    assert verdict(deleted=50, files_after=50) == GO
    assert verdict(known_before=False, marker_ok=False, files_before=0) == GO


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"marker_ok": False}, "not mounted"),
        ({"deleted": 100, "files_after": 0}, "suddenly empty"),
        ({"deleted": 1, "files_before": 1, "files_after": 0}, "suddenly empty"),
        ({"deleted": 51, "files_after": 49}, "51 of 100 files would go, more than 50%"),
        ({"known_before": False, "deleted": 51, "files_after": 60}, "51 of 100"),
        ({"deleted": MIN_DELETES, "share": 0.0, "files_after": 90}, "10 of 100"),
    ],
)
def test_what_is_not_believed_is_held_until_someone_confirms_it(inputs: dict[str, Any], words: str) -> None:
    held = verdict(**inputs)
    assert words in held
    assert "zcluster sync confirm" in held
    assert verdict(**inputs, confirmed=True) == GO


def test_a_few_files_may_go_whatever_their_share() -> None:
    few = {"files_before": MIN_DELETES + 1, "share": 0.5}
    assert verdict(**few, deleted=MIN_DELETES - 1, files_after=2) == GO
    assert verdict(**few, deleted=MIN_DELETES, files_after=1)


def test_a_share_of_one_lets_all_but_everything_go() -> None:
    assert verdict(share=1.0, deleted=99, files_after=1) == GO
    assert verdict(share=1.0, deleted=100, files_after=0)


def test_an_empty_tree_that_was_empty_is_nothing_special() -> None:
    assert verdict(files_before=0, files_after=0) == GO
