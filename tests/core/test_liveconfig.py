"""core/liveconfig.py: the schema, merging, digests."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zcluster.core.liveconfig import (
    MAX_EXTRA_BYTES,
    MAX_EXTRA_DEPTH,
    METRICS,
    NodeConfig,
    canonical,
    checked,
    checked_scope,
    digest,
    history_key,
    merged,
    record,
)
from zcluster.errors import ConfigError, UsageError


@pytest.mark.parametrize("scope", ["defaults", "group/web", "node/worker-1", "node/Büro 1", "agent/7001"])
def test_scopes(scope: str) -> None:
    assert checked_scope(scope) == scope


@pytest.mark.parametrize(
    "scope",
    [
        "",
        "default",
        "defaults/",
        "group/",
        "group/a/b",
        "group/../x",
        "group/.x",
        "node/",
        "node/a/b",
        "node/a\nb",
        "node/" + "x" * 65,
        "agent/",
        "agent/-x",
        "agent/a b",
        "web",
        "nodes/x",
    ],
)
def test_what_is_no_scope(scope: str) -> None:
    with pytest.raises(UsageError):
        checked_scope(scope)


def nested(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(levels - 1):
        found = {"a": found}
    return found


@pytest.mark.parametrize(
    "values",
    [
        {"interval": 2}, {"interval": 0.5}, {"interval": 3600}, {"metrics": []}, {"metrics": list(METRICS)},
        {"log_level": "debug"}, {"extra": {}}, {"extra": {"a": [1, -2.5, None, True, "x", {"b": []}]}}, {},
        {"extra": {"n": 2**53 - 1, "f": 1e-300}}, {"extra": nested(MAX_EXTRA_DEPTH)},
        {"extra": {"a": "x" * (MAX_EXTRA_BYTES - len('{"a":""}'))}},
    ],
)  # fmt: skip
def test_what_may_be_set(values: dict[str, Any]) -> None:
    assert checked(values) == values


@pytest.mark.parametrize(
    ("values", "what", "hint"),
    [
        ({"intervall": 2}, "unknown key 'intervall'", "did you mean 'interval'?"),
        ({"zzz": 2}, "unknown key 'zzz'", "the keys are interval, metrics, log_level, extra"),
        ({"interval": "2"}, "interval is a number of seconds, not '2'", ""),
        ({"interval": True}, "interval is a number of seconds, not True", ""),
        ({"interval": None}, "interval is a number of seconds, not None", ""),
        ({"interval": 0.4}, "interval 0.4 is not between", ""),
        ({"interval": 3600.5}, "interval 3600.5 is not between", ""),
        ({"interval": math.nan}, "interval nan is not between", ""),
        ({"interval": math.inf}, "interval inf is not between", ""),
        ({"metrics": "cpu"}, "metrics is a list, not 'cpu'", ""),
        ({"metrics": ["cpus"]}, "metrics: 'cpus' is not known", "did you mean 'cpu'?"),
        ({"metrics": [1]}, "metrics: 1 is not known", "one of cpu, memory"),
        ({"metrics": ["cpu", "cpu"]}, "metrics names something twice", ""),
        ({"log_level": "loud"}, "log_level: 'loud' is not known", ""),
        ({"log_level": ["info"]}, "log_level: ['info'] is not known", ""),
        ({"extra": []}, "extra is an object, not []", ""),
        ({"extra": {"a": {"b": math.nan}}}, "extra.a.b: the number nan", ""),
        ({"extra": {"a": [0, math.inf]}}, "extra.a[1]: the number inf", ""),
        ({"extra": {"a": 2**53}}, "extra.a: the number 9007199254740992", ""),
        ({"extra": {"a": -(10**100)}}, "extra.a: the number -1000", ""),
        ({"extra": {"a": 1e100}}, "extra.a: the number 1e+100", ""),
        ({"extra": {1: 2}}, "extra: the key 1 is no text", ""),
        ({"extra": {"a": b"x"}}, "extra.a: b'x' is nothing that JSON has", ""),
        ({"extra": {"a": "\ud800"}}, "extra cannot be written as JSON", ""),
        ({"extra": nested(MAX_EXTRA_DEPTH + 1)}, "is too deep", ""),
        ({"extra": {"a": "x" * (MAX_EXTRA_BYTES - 7)}}, "extra has 65537 bytes of JSON", "at most 65536"),
        ({"interval": 2, "nope": 1}, "unknown key 'nope'", ""),
    ],
)
def test_what_may_not_be_set(values: dict[str, Any], what: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(values)
    assert what in caught.value.message
    assert hint in caught.value.hint


def test_a_deep_or_wide_value_is_refused_without_harm() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ConfigError, match="too deep"):
        checked({"extra": {"a": deep}})


def test_later_scopes_win_and_objects_are_merged() -> None:
    found = merged(
        [
            ("defaults", {"interval": 10, "metrics": ["cpu"], "extra": {"a": {"x": 1, "y": [1, 2]}, "b": 1}}),
            ("group/web", {"metrics": ["memory"], "extra": {"a": {"y": [3]}, "b": {"c": 1}}}),
            ("agent/7", {"interval": 2}),
        ]
    )
    assert found.values == {"interval": 2, "metrics": ["memory"], "extra": {"a": {"x": 1, "y": [3]}, "b": {"c": 1}}}
    assert found.origin == {"interval": "agent/7", "metrics": "group/web", "extra": "group/web"}
    assert found.left_out == ()


def test_merging_changes_nothing_that_it_was_given() -> None:
    below: dict[str, Any] = {"extra": {"a": {"x": 1}}}
    merged([("defaults", below), ("node/n", {"extra": {"a": {"y": 2}}})])
    assert below == {"extra": {"a": {"x": 1}}}


def test_an_extra_that_is_too_large_together_is_left_out_and_named() -> None:
    half = "x" * (MAX_EXTRA_BYTES // 2)
    found = merged(
        [
            ("defaults", {"extra": {"a": half}}),
            ("group/g", {"interval": 3, "extra": {"b": half}}),
            ("agent/7", {"extra": {"c": 1}}),
        ]
    )
    assert found.left_out == ("group/g",)
    assert found.values == {"interval": 3, "extra": {"a": half, "c": 1}}


OBJECTS = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 3)),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner | st.integers(0, 3)), max_leaves=8,
)  # fmt: skip


@given(OBJECTS, OBJECTS, OBJECTS)
def test_merging_is_associative_and_the_last_word_holds(a: dict[str, Any], b: dict[str, Any], c: dict[str, Any]) -> None:
    def both(*extras: Any) -> Any:
        return merged((str(n), {"extra": each}) for n, each in enumerate(extras)).values["extra"]

    assert both(both(a, b), c) == both(a, b, c)
    assert both(a, a) == a
    assert both({}, a) == both(a, {}) == a


def test_digests_are_of_the_content() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert len(digest({})) == 32
    assert canonical({"b": [1, 2], "a": "ä"}) == '{"a":"ä","b":[1,2]}'.encode()


def test_what_a_node_goes_by() -> None:
    nothing = NodeConfig.of({})
    assert (nothing.interval, nothing.metrics, nothing.log_level, nothing.extra, nothing.digest) == (10.0, METRICS, "", {}, "")
    found = NodeConfig.of({"interval": 2, "metrics": ["cpu"], "log_level": "debug", "extra": {"a": 1}})
    assert (found.interval, found.metrics, found.log_level, found.extra) == (2.0, ("cpu",), "debug", {"a": 1})
    assert found.digest == digest({"interval": 2, "metrics": ["cpu"], "log_level": "debug", "extra": {"a": 1}})


def test_a_record_and_its_place_in_the_history() -> None:
    assert orjson.loads(record({"interval": 2}, 7, 1.23456, "admin")) == {
        "values": {"interval": 2}, "version": 7, "at_s": 1.235, "by": "admin",
    }  # fmt: skip
    assert history_key("node/w", 12) == "confighistory/node/w/000000012"
