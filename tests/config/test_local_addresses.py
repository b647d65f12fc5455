"""Addresses of Unix sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from zcluster.config import ipc_path, local_address, parse_address, reachable
from zcluster.config.addresses import MAX_IPC_PATH_BYTES
from zcluster.errors import ConfigError

LONGEST = "/" + "x" * (MAX_IPC_PATH_BYTES - 1)


def test_either_kind_of_address_can_be_reached() -> None:
    assert reachable("ipc:///run/zcluster/bus.sock") == "ipc:///run/zcluster/bus.sock"
    assert reachable("tcp://192.0.2.1:7570") == "tcp://192.0.2.1:7570"
    assert ipc_path("ipc:///run/zcluster/bus.sock") == "/run/zcluster/bus.sock"
    assert ipc_path("tcp://192.0.2.1:7570") == ""
    assert ipc_path(f"ipc://{LONGEST}") == LONGEST


@pytest.mark.parametrize(
    "text", ["ipc://", "ipc://relative", "ipc://@abstract", "ipc://*", f"ipc://{LONGEST}x", "ipc:///a\nb", "ipc:/a", "tcp://*:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        reachable(text)


def test_the_length_is_counted_in_bytes() -> None:
    with pytest.raises(ConfigError, match="107 bytes"):
        ipc_path("ipc:///" + "ä" * 54)


def test_nobody_binds_or_publishes_at_a_unix_socket() -> None:
    with pytest.raises(ConfigError):
        parse_address("ipc:///run/bus.sock", bind=True)


def test_a_path_that_cannot_be_one_has_no_address() -> None:
    assert local_address(Path(LONGEST)) == f"ipc://{LONGEST}"
    assert local_address(Path(LONGEST + "x")) == ""
