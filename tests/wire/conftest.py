"""Frames to begin with: the golden ones, and hypothesis strategies of every message."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st

from zcluster.wire import (
    KINDS,
    Message,
    Replies,
    ReplyGroup,
    RequestGroup,
    Requests,
    ResultGroup,
    Results,
    Status,
    Work,
    WorkGroup,
)
from zcluster.wire.frames import TAKES_ALL
from zcluster.wire.jobs import JobGroup, Jobs, Outcomes
from zcluster.wire.messages import MAX_ID, Mark, RequestFlag

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
MAX_SIZE_BYTES = 300
"""Of a generated body: the frames stay small, the bounds have tests of their own."""

Framed = tuple[Message, list[bytes]]


def golden_frames() -> list[bytes]:
    """Every frame of tests/golden/."""
    frames = []
    for path in sorted(GOLDEN.glob("*.txt")):
        for block in path.read_text(encoding="utf-8").strip().split("\n\n"):
            frames.append(bytes.fromhex("".join(line for line in block.splitlines() if set(line) <= set("0123456789abcdef"))))
    return frames


@pytest.fixture(scope="session")
def frames() -> list[bytes]:
    """Every golden frame."""
    return golden_frames()


def values(annotation: Any, meta: msgspec.Meta | None = None) -> st.SearchStrategy[Any]:
    """Values that a field of this annotation may have, its bounds included."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return values(args[0], args[1])
    if origin is typing.Literal:
        return st.sampled_from(args)
    if annotation is Any:
        return st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.lists(st.booleans(), max_size=2))
    if origin is dict:
        return st.dictionaries(values(args[0]), values(args[1]), max_size=3)
    if origin is tuple:
        return st.tuples(*map(values, args))
    if origin is list:
        low = (meta.min_length if meta is not None else 0) or 0
        return st.lists(values(args[0]), min_size=low, max_size=max(low, 4))
    if args:
        return st.one_of([values(arg) for arg in args])
    if annotation is type(None):
        return st.none()
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return structs(annotation)
    if annotation is str:
        longest = (meta.max_length if meta is not None else None) or 40
        low = (meta.min_length if meta is not None else 0) or 0
        return st.text(st.characters(codec="utf-8"), min_size=low, max_size=min(longest, 40))
    if annotation is bool:
        return st.booleans()
    if annotation is float:
        return floats(meta)
    assert annotation is int
    if meta is None:
        return st.integers(min_value=-(2**63), max_value=2**64 - 1)
    return st.integers(min_value=typing.cast("int", meta.ge), max_value=typing.cast("int", meta.le))


def floats(meta: msgspec.Meta | None) -> st.SearchStrategy[float]:
    """Numbers within the bounds of ``meta``, those that are included among them."""
    low = None if meta is None else meta.ge if meta.ge is not None else meta.gt
    high = None if meta is None else meta.le
    open_below = meta is not None and meta.gt is not None
    return st.floats(
        min_value=typing.cast("float | None", low), max_value=typing.cast("float | None", high), exclude_min=open_below,
        allow_nan=False, allow_infinity=False, allow_subnormal=False,
    )  # fmt: skip


def structs(cls: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Objects of ``cls`` with any values that it allows."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return st.builds(cls, **{field.name: values(hints[field.name]) for field in msgspec.structs.fields(cls)})


@st.composite
def framed(draw: st.DrawFn) -> Framed:
    """A message of any kind and bodies that fit it."""
    message: Message = draw(structs(KINDS[draw(st.sampled_from(sorted(KINDS)))]))
    bodies: list[bytes] = []
    if isinstance(message, Requests | Work | Results | Replies | Jobs | Outcomes):
        for group in message.groups:
            if isinstance(group, RequestGroup | JobGroup):  # its last id is bounded too
                group.first_id = min(group.first_id, MAX_ID - len(group.sizes))
            if _is_large(group):
                group.sizes[:] = [max(1, group.sizes[0])]
            _one_for_each(draw, group)
            if _is_large(group):
                continue
            group.sizes[:] = [draw(st.integers(0, MAX_SIZE_BYTES)) for _ in group.sizes]
            bodies += [bytes(size) for size in group.sizes]
    elif message.kind in TAKES_ALL:
        bodies = [draw(st.binary(max_size=MAX_SIZE_BYTES))]
    return message, bodies


def _one_for_each(draw: st.DrawFn, group: Any) -> None:
    """Marks and idempotency keys: none, or one for each member."""
    if isinstance(group, WorkGroup) and group.marks is not None:
        group.marks = [draw(structs(Mark)) for _ in group.sizes]
    if isinstance(group, JobGroup) and group.keys is not None:
        group.keys = [draw(st.text(st.characters(codec="utf-8"), max_size=40)) for _ in group.sizes]


def _is_large(group: Any) -> bool:
    if isinstance(group, RequestGroup | WorkGroup):
        return bool(group.flags & RequestFlag.LARGE)
    return isinstance(group, ResultGroup | ReplyGroup) and group.status == Status.LARGE_VALUE


@pytest.fixture(scope="session")
def any_framed() -> st.SearchStrategy[Framed]:
    """Messages of every kind with their bodies."""
    return framed()
