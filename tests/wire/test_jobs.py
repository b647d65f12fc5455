"""The messages about durable jobs: each field at its bounds and one beyond, sizes, numbers, keys and marks."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from zcluster.errors import PeerError
from zcluster.wire import LATE_KINDS, Message, Work, WorkGroup, decode, encode
from zcluster.wire.frames import PREFIX, WireLimits
from zcluster.wire.jobs import (
    JOB_KINDS,
    Accepted,
    AcceptedGroup,
    Follow,
    JobFlag,
    JobGroup,
    JobRefusal,
    Jobs,
    KnownJob,
    LargeOutcome,
    OutcomeGroup,
    Outcomes,
)
from zcluster.wire.messages import MAX_ID, Mark

LIMITS = WireLimits()
WIDE = WireLimits(frame_bytes=1 << 24, header_bytes=1 << 24)
"""For fields that are large at their bounds: a frame holds fewer of them."""


def refused(data: bytes, limits: WireLimits = LIMITS) -> PeerError:
    with pytest.raises(PeerError) as caught:
        decode(data, limits)
    return caught.value


def jobs(*sizes: int, **fields: Any) -> Jobs:
    """One group of submissions; ``fields`` by name take the place of plain ones."""
    plain: dict[str, Any] = {
        "function": "f", "target": "any", "priority": 5, "flags": 0, "delay_ms": 0, "at_ms": 0, "expires_ms": 0, "retries": 3,
        "timeout_ms": 0, "retention_ms": 0, "sequence": "", "first_id": 1, "sizes": list(sizes) or [0],
    }  # fmt: skip
    return Jobs([JobGroup(**(plain | fields))])


def outcomes(*sizes: int, state: int = 3, first_number: int = 1, node: str = "n", attempt: int = 1) -> Outcomes:
    return Outcomes(store="5f0c11a9", groups=[OutcomeGroup(first_number, state, node, attempt, list(sizes) or [0])])


def work(*sizes: int, marks: list[Mark] | None) -> Work:
    return Work([WorkGroup("f", "c", "client", 1, 0, 0, 0, 1, list(sizes), marks)])


def accepted(**fields: Any) -> Accepted:
    return Accepted(store="5f0c11a9", **fields)


def array(kind: int, value: Any) -> bytes:
    header = msgspec.json.encode(value)
    return PREFIX.pack(0x5A, 1, kind, 0, len(header)) + header


# -- sizes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [jobs, outcomes])
@pytest.mark.parametrize(
    ("sizes", "present", "fits"), [([3, 2], 5, True), ([3, 2], 4, False), ([3, 2], 6, False), ([0], 0, True), ([0], 1, False)]
)
def test_sizes_have_to_add_up(make: Any, sizes: list[int], present: int, fits: bool) -> None:
    data = encode(make(*sizes), [bytes(present)])
    if fits:
        assert decode(data, LIMITS)[0] == make(*sizes)
    else:
        assert f"do not add up to the {present} bytes" in refused(data).message


@pytest.mark.parametrize("make", [jobs, outcomes])
def test_sizes_that_add_up_to_more_than_a_frame_can_hold(make: Any) -> None:
    assert "do not add up" in refused(encode(make(*[MAX_ID] * 4096))).message


@pytest.mark.parametrize("make", [jobs, outcomes])
def test_a_group_has_1_to_4096_members_and_so_has_a_message(make: Any) -> None:
    whole = make(*[0] * 4096)
    assert decode(encode(whole), LIMITS)[0] == whole
    refused(encode(make(*[0] * 4097)))
    empty = msgspec.to_builtins(make(0))
    groups = empty[0] if isinstance(empty, list) else empty["groups"]
    groups[0][groups[0].index([0])] = []
    refused(array(whole.kind, empty))
    twice = [*whole.groups, *make(0).groups]
    many = Jobs(twice) if make is jobs else Outcomes(store="5f0c11a9", groups=twice)
    assert "more than 4096 members" in refused(encode(many)).message


def test_several_groups_share_the_bytes_that_follow() -> None:
    both = Jobs([*jobs(1, 2).groups, *jobs(3, first_id=3).groups])
    assert decode(encode(both, [b"abcdef"]), LIMITS)[0] == both
    refused(encode(both, [b"abcde"]))


@pytest.mark.parametrize("message", [accepted(), Follow(store="", numbers=[1])])
def test_the_other_two_have_no_bodies(message: Message) -> None:
    assert decode(encode(message), LIMITS)[0] == message
    refused(encode(message, [b"x"]))


def test_those_with_bodies_are_bulk_and_the_others_overtake_them() -> None:
    assert {cls for cls in JOB_KINDS if cls.kind in LATE_KINDS} == {Jobs, Outcomes}


# -- ids and numbers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 4096])
def test_the_last_id_of_a_group_is_bounded_too(count: int) -> None:
    last = jobs(*[0] * count, first_id=MAX_ID - count + 1)
    assert decode(encode(last), LIMITS)[0] == last
    beyond = jobs(*[0] * (count + 1), first_id=MAX_ID - count + 1)
    refused(encode(beyond))
    if count < 4096:
        assert "go beyond" in refused(encode(beyond)).message


def test_an_id_is_at_least_1() -> None:
    refused(encode(jobs(0, first_id=0)))
    refused(encode(jobs(0, first_id=-1)))


# -- keys and marks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3, 4096])
def test_idempotency_keys_are_one_for_each_member_or_none(count: int) -> None:
    for good in (jobs(0, 0, keys=["a", ""]), jobs(0, 0, keys=None)):
        assert decode(encode(good), LIMITS)[0] == good
    assert f"has {count} marks or keys" in refused(encode(jobs(0, 0, keys=["k"] * count))).message


@pytest.mark.parametrize("count", [0, 1, 3, 4096])
def test_marks_are_one_for_each_member_or_none(count: int) -> None:
    mark = Mark("5f0c11a9-1", 1, "")
    for good in (work(0, 0, marks=[mark, Mark("5f0c11a9-2", 2, "k")]), work(0, 0, marks=None)):
        assert decode(encode(good), LIMITS)[0] == good
    assert f"has {count} marks or keys" in refused(encode(work(0, 0, marks=[mark] * count))).message


def test_marks_and_keys_may_be_left_out() -> None:
    assert decode(array(17, [[["f", "c", "client", 1, 0, 0, 0, 1, [0]]]]), LIMITS)[0] == work(0, marks=None)
    plain = msgspec.to_builtins(jobs(0))
    assert decode(array(65, [[plain[0][0][:-1]]]), LIMITS)[0] == jobs(0)
    refused(array(65, [[plain[0][0][:-2]]]))


def test_elements_behind_the_known_ones_are_ignored() -> None:
    plain = msgspec.to_builtins(jobs(0))
    assert decode(array(65, [[[*plain[0][0], "since version 2"]], 1]), LIMITS)[0] == jobs(0)
    marked = [["f", "c", "client", 1, 0, 0, 0, 1, [0], [["5f0c11a9-1", 1, "", "later"]]]]
    assert decode(array(17, [marked]), LIMITS)[0] == work(0, marks=[Mark("5f0c11a9-1", 1, "")])


@pytest.mark.parametrize("mark", [["j"], ["j", 1], ["j", 0, ""], ["j", 1.0, ""], ["j", None, ""], [1, 1, ""], {}, None, "j"])
def test_a_malformed_mark(mark: Any) -> None:
    refused(array(17, [[["f", "c", "client", 1, 0, 0, 0, 1, [0], [mark]]]]))


# -- the bounds of fields -----------------------------------------------------------------------------------------------


GOOD_AND_BAD: list[tuple[Message, Message]] = [
    (jobs(0, function="f" * 128), jobs(0, function="f" * 129)),
    (jobs(0, target="ß" * 8192), jobs(0, target="ß" * 8193)),
    (jobs(0, priority=9), jobs(0, priority=10)),
    (jobs(0, priority=0), jobs(0, priority=-1)),
    (jobs(0, flags=255), jobs(0, flags=256)),
    (jobs(0, flags=JobFlag.FAN_OUT), jobs(0, flags=-1)),
    *[(jobs(0, **{name: MAX_ID}), jobs(0, **{name: MAX_ID + 1}))
      for name in ("delay_ms", "at_ms", "expires_ms", "timeout_ms", "retention_ms")],
    *[(jobs(0, **{name: 0}), jobs(0, **{name: -1}))
      for name in ("delay_ms", "at_ms", "expires_ms", "timeout_ms", "retention_ms", "retries")],
    (jobs(0, retries=100), jobs(0, retries=101)),
    (jobs(0, sequence="s" * 128), jobs(0, sequence="s" * 129)),
    (jobs(0, first_id=MAX_ID), jobs(0, first_id=MAX_ID + 1)),
    (jobs(0, keys=["k" * 256]), jobs(0, keys=["k" * 257])),
    (jobs(*[0] * 4096, keys=[""] * 4096), jobs(0, keys=[""] * 4097)),
    (Jobs([]), Jobs(jobs(0).groups * 4097)),
    (Jobs(jobs(0).groups * 4096), jobs(-1)),
    (accepted(groups=[AcceptedGroup(1, 1, 1)] * 4096), accepted(groups=[AcceptedGroup(1, 1, 1)] * 4097)),
    (accepted(groups=[AcceptedGroup(MAX_ID, MAX_ID, MAX_ID)]), accepted(groups=[AcceptedGroup(MAX_ID + 1, 1, 1)])),
    (accepted(groups=[AcceptedGroup(1, 1, 1)]), accepted(groups=[AcceptedGroup(1, 1, 0)])),
    (accepted(groups=[AcceptedGroup(1, MAX_ID, 1)]), accepted(groups=[AcceptedGroup(1, MAX_ID + 1, 1)])),
    (accepted(known=[KnownJob(1, MAX_ID)] * 4096), accepted(known=[KnownJob(1, 1)] * 4097)),
    (accepted(known=[KnownJob(1, 1)]), accepted(known=[KnownJob(0, 1)])),
    (accepted(known=[KnownJob(1, 1)]), accepted(known=[KnownJob(1, 0)])),
    (accepted(refused=[JobRefusal(1, 1, "c" * 128, "m" * 4000, "h" * 4000, 1.5)]),
     accepted(refused=[JobRefusal(1, 1, "c" * 129, "", "", None)])),
    (accepted(refused=[JobRefusal(1, 1, "", "", "", 0)] * 4096), accepted(refused=[JobRefusal(1, 1, "", "", "", 0)] * 4097)),
    (accepted(refused=[JobRefusal(1, 1, "c", "m", "h", None)]), accepted(refused=[JobRefusal(1, 1, "c", "m" * 4001, "", None)])),
    (accepted(refused=[JobRefusal(1, 1, "c", "m", "h", None)]), accepted(refused=[JobRefusal(1, 1, "c", "", "h" * 4001, None)])),
    (accepted(), Accepted(store="123456789")),
    (Follow(store="12345678", numbers=[1] * 4096), Follow(store="12345678", numbers=[1] * 4097)),
    (Follow(store="", numbers=[MAX_ID], stop=True), Follow(store="", numbers=[MAX_ID + 1])),
    (Follow(store="", numbers=[1]), Follow(store="", numbers=[0])),
    (Follow(store="", numbers=[1]), Follow(store="", numbers=[])),
    (Follow(store="12345678", numbers=[1]), Follow(store="123456789", numbers=[1])),
    (outcomes(0, state=3), outcomes(0, state=2)),
    (outcomes(0, state=7), outcomes(0, state=8)),
    (outcomes(0, first_number=MAX_ID), outcomes(0, first_number=MAX_ID + 1)),
    (outcomes(0, first_number=1), outcomes(0, first_number=0)),
    (outcomes(0, node="n" * 128), outcomes(0, node="n" * 129)),
    (outcomes(0, attempt=MAX_ID), outcomes(0, attempt=-1)),
    (Outcomes(store="", large=[LargeOutcome(1, 3, "n", 1, MAX_ID)] * 4096),
     Outcomes(store="", large=[LargeOutcome(1, 3, "n", 1, 1)] * 4097)),
    (Outcomes(store="", large=[LargeOutcome(MAX_ID, 7, "", 0, 0)]), Outcomes(store="", large=[LargeOutcome(0, 7, "", 0, 0)])),
    (Outcomes(store="", large=[LargeOutcome(1, 3, "", 0, 0)]), Outcomes(store="", large=[LargeOutcome(1, 2, "", 0, 0)])),
    (Outcomes(store="", unknown=[MAX_ID] * 4096), Outcomes(store="", unknown=[1] * 4097)),
    (Outcomes(store="", unknown=[1]), Outcomes(store="", unknown=[0])),
    (work(0, marks=[Mark("j" * 128, MAX_ID, "k" * 256)]), work(0, marks=[Mark("j" * 129, 1, "")])),
    (work(0, marks=[Mark("", 1, "")]), work(0, marks=[Mark("", 0, "")])),
    (work(0, marks=[Mark("", 1, "")]), work(0, marks=[Mark("", MAX_ID + 1, "")])),
    (work(0, marks=[Mark("", 1, "")]), work(0, marks=[Mark("", 1, "k" * 257)])),
]  # fmt: skip


@pytest.mark.parametrize(("good", "bad"), GOOD_AND_BAD, ids=[f"{number}" for number in range(len(GOOD_AND_BAD))])
def test_a_field_at_its_bound_and_one_beyond(good: Message, bad: Message) -> None:
    assert decode(encode(good), WIDE)[0] == good
    assert refused(encode(bad), WIDE).message.startswith(f"malformed header of a {type(bad).__name__}: ")


@pytest.mark.parametrize("token", ['"1"', "1.0", "1e0", "null", "true", "[1]", "{}", "-1", "9" * 4300])
def test_what_is_no_number_is_refused(token: str) -> None:
    header = f'{{"store":"","numbers":[{token}]}}'.encode()
    refused(PREFIX.pack(0x5A, 1, Follow.kind, 0, len(header)) + header)
