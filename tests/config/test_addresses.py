"""Addresses: their form, and what is advertised."""

from __future__ import annotations

import pytest

from zcluster.config import Address, advertised, advertised_door, parse_address
from zcluster.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("tcp://127.0.0.1:7570", "127.0.0.1", 7570),
        ("tcp://[::1]:1", "[::1]", 1),
        ("tcp://[fe80::1%eth0]:7570", "[fe80::1%eth0]", 7570),
        ("tcp://host.example:65535", "host.example", 65535),
        ("tcp://my_host-1:80", "my_host-1", 80),
    ],
)
def test_an_address_is_taken_apart_and_kept(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host, port)
    assert parse_address(text, bind=True).text == text


@pytest.mark.parametrize("text", ["tcp://*:7570", "tcp://0.0.0.0:7570", "tcp://[::]:7570", "tcp://127.0.0.1:*"])
def test_a_wildcard_is_only_for_binding(text: str) -> None:
    assert parse_address(text, bind=True).text == text
    with pytest.raises(ConfigError, match="wildcard"):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("127.0.0.1:7570", "tcp://HOST:PORT"),
        ("ipc:///tmp/x", "tcp://HOST:PORT"),
        ("tcp://127.0.0.1", "tcp://HOST:PORT"),
        ("tcp://:7570", "tcp://HOST:PORT"),
        ("tcp://::1:7570", "tcp://HOST:PORT"),
        ("tcp://host:7570 ", "tcp://HOST:PORT"),
        ("tcp://host:7570/x", "tcp://HOST:PORT"),
        ("tcp://host:７５７０", "tcp://HOST:PORT"),
        ("tcp://host:0", "port from 1 to 65535"),
        ("tcp://host:65536", "port from 1 to 65535"),
        ("tcp://256.0.0.1:1", "not an IP address"),
        ("tcp://1.2.3:1", "not an IP address"),
        ("tcp://[::g]:1", "not an IP address"),
        ("tcp://[1.2.3.4]:1", "not an IP address"),
        ("tcp://-host:1", "not a host name"),
        ("tcp://a..b:1", "not a host name"),
        ("tcp://" + "a" * 64 + ":1", "not a host name"),
        ("tcp://" + ".".join(["a" * 60] * 5) + ":1", "not a host name"),
        ("tcp://eth0;1.2.3.4:1", "not a host name"),
    ],
)
def test_a_bad_address_says_what_is_wrong(text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        parse_address(text)
    assert "tcp://192.0.2.1:7570" in caught.value.hint


def test_a_wildcard_is_advertised_as_the_host_name_then_loopback() -> None:
    found = advertised("tcp://0.0.0.0:7570", "tcp://*:7571", (), "alpha")
    assert found.addresses == ("tcp://alpha:7570", "tcp://127.0.0.1:7570")
    assert found.publish == ("tcp://alpha:7571", "tcp://127.0.0.1:7571")


@pytest.mark.parametrize("hostname", ["", "localhost", "no good name"])
def test_without_a_usable_host_name_loopback_is_all(hostname: str) -> None:
    assert advertised("tcp://*:1", "tcp://*:2", (), hostname) == (("tcp://127.0.0.1:1",), ("tcp://127.0.0.1:2",))
    assert advertised("tcp://[::]:1", "tcp://[::]:2", (), hostname) == (("tcp://[::1]:1",), ("tcp://[::1]:2",))


def test_a_bound_address_is_advertised_as_it_is() -> None:
    found = advertised("tcp://10.0.0.1:7570", "tcp://10.0.0.2:7571", (), "alpha")
    assert found == (("tcp://10.0.0.1:7570",), ("tcp://10.0.0.2:7571",))


def test_configured_addresses_win_and_publish_takes_their_hosts() -> None:
    found = advertised(
        "tcp://0.0.0.0:7570", "tcp://0.0.0.0:7571", ["tcp://public.example:9000", "tcp://[2001:db8::1]:9000"], "alpha"
    )
    assert found.addresses == ("tcp://public.example:9000", "tcp://[2001:db8::1]:9000")
    assert found.publish == ("tcp://public.example:7571", "tcp://[2001:db8::1]:7571")


def test_a_port_that_is_not_chosen_cannot_be_advertised() -> None:
    with pytest.raises(ConfigError, match="not chosen"):
        advertised("tcp://0.0.0.0:*", "tcp://0.0.0.0:7571", (), "alpha")


@pytest.mark.parametrize(("bind", "port", "advertise", "told"), [
    ("tcp://10.0.0.7:*", 7580, (), ("tcp://10.0.0.7:7580",)),
    ("tcp://0.0.0.0:7580", 7580, (), ("tcp://here.example:7580", "tcp://127.0.0.1:7580")),
    ("tcp://[::]:*", 1, (), ("tcp://here.example:1", "tcp://[::1]:1")),
    ("tcp://0.0.0.0:7580", 7580, ("tcp://a:1", "tcp://b:2", "tcp://a:1"), ("tcp://a:1", "tcp://b:2")),
])  # fmt: skip
def test_what_others_are_told_of_a_door(bind: str, port: int, advertise: tuple[str, ...], told: tuple[str, ...]) -> None:
    assert advertised_door(bind, port, advertise, "here.example") == told


def test_a_door_is_not_told_as_a_wildcard() -> None:
    with pytest.raises(ConfigError, match="wildcard"):
        advertised_door("tcp://0.0.0.0:1", 1, ("tcp://*:1",), "here")
