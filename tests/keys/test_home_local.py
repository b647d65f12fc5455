"""The home's own admin key knows the master's Unix socket; no other key file does."""

from __future__ import annotations

from pathlib import Path

from zcluster.keys import KeyFile, init_home, new_key

TCP = ("tcp://192.0.2.1:7570",)
LOCAL = "ipc:///run/zcluster/bus.sock"


def test_only_the_admin_key_tries_it_and_tries_it_first(tmp_path: Path) -> None:
    home = init_home(tmp_path / "home", "c", addresses=TCP, local=LOCAL).home
    assert KeyFile.read(home.admin_key).addresses == (LOCAL, *TCP)
    assert KeyFile.read(home.master_key).addresses == TCP
    assert new_key(home, "w1", "worker")[0].addresses == TCP


def test_it_goes_when_the_master_has_it_no_more(tmp_path: Path) -> None:
    home = init_home(tmp_path / "home", "c", addresses=TCP, local=LOCAL).home
    assert init_home(home, "c", addresses=TCP, local=LOCAL).updated == ()
    assert init_home(home, "c", local=LOCAL).updated == ()
    assert init_home(home, "c").updated == (home.admin_key,)
    assert KeyFile.read(home.admin_key).addresses == TCP
