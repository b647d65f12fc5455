"""AsyncClient before it connects: what it refuses by itself."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import zcluster.clients.async_client as async_client
from zcluster.clients import AsyncClient
from zcluster.errors import NotAllowed
from zcluster.keys import init_home, new_key

ADDRESS = ("tcp://127.0.0.1:7999",)


class Connected(Exception):
    """Stands in for a link: whoever makes one has connected."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A master's home, and no way to a master."""

    def connected(*_args: Any) -> None:
        raise Connected

    monkeypatch.setattr(async_client, "ClientLink", connected)
    init_home(tmp_path / "home", "lab", "", ADDRESS, ADDRESS)
    return tmp_path / "home"


def key_of(home: Path, role: str) -> Path:
    if role in ("master", "admin"):
        return home / "keys" / f"{role}.key"
    return new_key(home, f"{role}-1", role)[1]


@pytest.mark.parametrize(("role", "named"), [("worker", "a worker"), ("agent", "an agent"), ("master", "a master")])
def test_a_node_s_key_is_refused_before_it_ends_the_node_s_session(home: Path, role: str, named: str) -> None:
    path = key_of(home, role)
    client = AsyncClient(key=path)
    with pytest.raises(NotAllowed) as caught:
        asyncio.run(client.connect())
    assert caught.value.message == f"{path} is the key of {named}: a client needs a key of role client or admin"
    assert "zcluster keys new NAME --role client" in caught.value.hint
    assert client.key_file is None


@pytest.mark.parametrize("role", ["client", "admin"])
def test_a_caller_s_key_connects(home: Path, role: str) -> None:
    with pytest.raises(Connected):
        asyncio.run(AsyncClient(key=key_of(home, role)).connect())
