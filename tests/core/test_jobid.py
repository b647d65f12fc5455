"""The id of a job."""

from __future__ import annotations

import pytest

from zcluster.core.queue.jobid import job_id, split_job_id
from zcluster.errors import UsageError
from zcluster.wire.messages import MAX_ID


@pytest.mark.parametrize("number", [1, 42, MAX_ID])
def test_it_comes_back(number: int) -> None:
    assert split_job_id(job_id("1f3a5c7e", number)) == ("1f3a5c7e", number)


@pytest.mark.parametrize("text", [
    "", "-", "42", "1f3a5c7e", "1f3a5c7e-", "1f3a5c7e-0", "1f3a5c7e-01", "1f3a5c7e--1", "1f3a5c7e-+1", "1f3a5c7e- 1",
    "1f3a5c7e-1 ", "1F3A5C7E-1", "1f3a5c7-1", "1f3a5c7e0-1", "1f3a5c7g-1", f"1f3a5c7e-{MAX_ID + 1}", "1f3a5c7e-" + "9" * 5000,
    "1f3a5c7e-٣", "1f3a5c7e-1-1", "\n" * 100,
])  # fmt: skip
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        split_job_id(text)
    assert len(caught.value.message) < 500
