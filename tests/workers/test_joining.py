"""A joiner's side, without a master."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zcluster.errors import NotAllowed, Unreachable
from zcluster.keys import generate
from zcluster.keys.tokens import TokenText
from zcluster.workers import joining as module
from zcluster.workers.joining import Joining, joined

MASTER = generate().public


def token(address: str) -> TokenText:
    return TokenText(generate(), MASTER, "prod", (address,), "worker")


def test_a_new_tokens_addresses_are_tried_before_those_of_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def ask(_context: Any, address: str, *_rest: Any, **_more: Any) -> None:
        asked.append(address)
        raise NotAllowed("denied")

    monkeypatch.setattr(module, "ask", ask)
    path = tmp_path / "w.key"
    for address in ("tcp://wrong:7570", "tcp://right:7570"):
        with pytest.raises(NotAllowed, match="refuses the token"):
            joined(Joining(path, token(address)))
    assert asked == ["tcp://wrong:7570", "tcp://right:7570", "tcp://right:7570"]
    asked.clear()
    with pytest.raises(NotAllowed):
        joined(Joining(path, token("tcp://right:7570"), addresses=["tcp://said:7570"]))
    assert set(asked) == {"tcp://said:7570"}, "what the command line says comes first"


def test_who_waits_is_told_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []

    async def ask(*_rest: Any, **_more: Any) -> None:
        if any("tried again" in line for line in lines):
            raise NotAllowed("denied")
        raise Unreachable("tcp://m:7570 ended the connection during the handshake", hint="is it the master of this cluster?")

    monkeypatch.setattr(module, "ask", ask)
    with pytest.raises(NotAllowed):
        joined(Joining(tmp_path / "w.key", token("tcp://m:7570"), say=lines.append))
    assert any("when the token was made" in line and line.endswith("it is tried again") for line in lines), lines


def test_who_gives_up_is_told_that_the_master_may_have_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(*_rest: Any, **_more: Any) -> None:
        raise Unreachable("tcp://m:7570 ended the connection during the handshake", hint="is it the master of this cluster?")

    monkeypatch.setattr(module, "ask", ask)
    monkeypatch.setattr(module, "GIVE_UP_S", 0.0)
    with pytest.raises(Unreachable, match="during the handshake") as caught:
        joined(Joining(tmp_path / "w.key", token("tcp://m:7570")))
    assert "when the token was made" in caught.value.hint
