"""Queue time over restarts and boots."""

from __future__ import annotations

import pytest

from zcluster.core.queue.clock import Mark, resume

MARK = Mark(queue=1000.0, boot_id="a", boot_s=50.0, wall_s=5000.0)


def test_a_new_queue_begins_at_one() -> None:
    assert resume(None, "a", 50.0, 5000.0) + 50.0 == 1.0


@pytest.mark.parametrize("wall_s", [5010.0, 0.0, 9999.0])
def test_over_a_restart_the_time_of_day_does_not_matter(wall_s: float) -> None:
    assert resume(MARK, "a", 60.0, wall_s) + 60.0 == 1010.0


@pytest.mark.parametrize(("wall_s", "now"), [(5010.0, 1010.0), (5000.0, 1000.0), (1000.0, 1000.0), (8600.0, 4600.0)])
def test_over_a_boot_it_goes_on_by_the_time_of_day_and_never_back(wall_s: float, now: float) -> None:
    assert resume(MARK, "b", 3.0, wall_s) + 3.0 == now
