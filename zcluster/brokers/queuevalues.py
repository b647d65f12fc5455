"""Values of jobs as they are answered: JSON that is there already, and is not made anew.

Rules kept here:
- a large value is neither decoded nor encoded: that it is JSON is checked, and it goes into the answer as it is;
- what is large together is looked at in a thread, one value after the other;
- a value that is no JSON is an error of that job, and spoils no answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from zcluster.errors import PeerError, ZClusterError, error_from_dict

LARGE_BYTES = 65_536
"""Of one value: a larger one goes as it is. Of several together: more are looked at in a thread."""
_check = msgspec.json.Decoder(msgspec.Raw).decode


async def values_of(results: Sequence[bytes]) -> list[Any | PeerError]:
    """The value of each result, as it can be answered, or why it cannot be; None for one that is empty."""
    if sum(map(len, results)) <= LARGE_BYTES:
        return _values(results)
    return await asyncio.to_thread(_values, results)


async def error_of(result: bytes) -> ZClusterError:
    """The error that is the outcome of a job."""
    told = orjson.loads(result) if len(result) <= LARGE_BYTES else await asyncio.to_thread(orjson.loads, result)
    return error_from_dict(told if isinstance(told, dict) else {})


def _values(results: Sequence[bytes]) -> list[Any | PeerError]:
    return [_value(result) for result in results]


def _value(result: bytes) -> Any | PeerError:
    if not result:
        return None
    try:
        if len(result) <= LARGE_BYTES:
            return orjson.loads(result)
        _check(result)  # thirty times as fast as to decode it, but it does not look at UTF-8
        result.decode()
    except (ValueError, RecursionError) as error:
        return PeerError(f"the value is no JSON: {error}", hint="what ran the job sent it so; correct that node")
    return orjson.Fragment(result)
