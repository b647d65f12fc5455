"""What each role may send and call: the whole table, written out."""

from __future__ import annotations

import itertools

import pytest

from zcluster.errors import InvalidKey
from zcluster.keys import FUNCTION_ROLES, KINDS, ROLES, check_role, may_call, may_send, may_send_at_door, may_subscribe

CALLER = {"hello", "beat", "bye", "rotated", "nextkey", "cancel", "credit", "chunk", "requests", "listen", "jobs", "follow"}
NODE = {"hello", "beat", "bye", "rotated", "nextkey", "credit", "chunk", "results"}
TREES = {"state", "pull", "go", "list", "listing", "fetch", "parcel", "blocks", "hashes", "report", "finish"}
WORKER = NODE | TREES | {"ask", "rows", "metrics", "carry", "events"}
AGENT = {"hello", "beat", "bye", "rotated", "nextkey", "keep", "grab"}
MAY_SEND = {"admin": CALLER, "client": CALLER, "worker": WORKER, "master": NODE, "agent": AGENT}
MAY_CALL = {"admin": {"client", "admin"}, "client": {"client"}, "worker": set(), "agent": set(), "master": {"client", "admin"}}


@pytest.mark.parametrize(("role", "kind"), list(itertools.product(ROLES, sorted(KINDS))))
def test_what_a_role_may_send(role: str, kind: str) -> None:
    assert may_send(role, kind) == (kind in MAY_SEND[role])


@pytest.mark.parametrize(("role", "kind"), list(itertools.product(ROLES, sorted(KINDS))))
def test_at_a_workers_door_only_agents_speak(role: str, kind: str) -> None:
    assert may_send_at_door(role, kind) == (role == "agent" and kind in AGENT)


@pytest.mark.parametrize(("role", "function_role"), list(itertools.product(ROLES, FUNCTION_ROLES)))
def test_what_a_role_may_call(role: str, function_role: str) -> None:
    assert may_call(role, function_role) == (function_role in MAY_CALL[role])


@pytest.mark.parametrize("odd", ["", "root", "ADMIN", "admin ", "nobody"])
def test_what_is_unknown_is_not_allowed(odd: str) -> None:
    assert not any(may_send(odd, kind) for kind in KINDS)
    assert not any(may_send(role, odd) for role in ROLES)
    assert not may_call(odd, "client")
    assert not may_call("client", odd)
    assert not may_call("worker", odd)


def test_only_a_master_sends_answers() -> None:
    for kind in ("welcome", "catalog", "work", "replies", "refusal", "trees", "order"):
        assert not any(may_send(role, kind) for role in ROLES)


def test_an_unknown_role_is_an_error_with_the_nearest() -> None:
    assert [check_role(role) for role in ROLES] == list(ROLES)
    assert check_role("deployer") == "deployer", "the configuration may define it; without it the role gets nothing"
    assert not any(may_send("deployer", kind) for kind in KINDS)
    with pytest.raises(InvalidKey, match="'-wroker'") as caught:
        check_role("-wroker")
    assert caught.value.hint == "did you mean 'worker'?"
    with pytest.raises(InvalidKey) as caught:
        check_role("joiner")
    assert "admin, client, worker, agent, master" in caught.value.hint


def test_agents_may_not_subscribe() -> None:
    assert {role for role in ROLES if may_subscribe(role)} == {"admin", "client", "worker", "master"}
    assert not may_subscribe("other")
