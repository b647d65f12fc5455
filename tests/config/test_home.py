"""Where files are, for a user and for root."""

from __future__ import annotations

from pathlib import Path

import pytest

from zcluster.config import Home, absolute, default_home
from zcluster.errors import ConfigError


def test_one_directory_holds_everything() -> None:
    home = Home(Path("/srv/z"))
    assert home.config_file == Path("/srv/z/zcluster.toml")
    assert home.keys_dir == Path("/srv/z/keys")
    assert home.ring_file == Path("/srv/z/keys/ring.json")
    assert home.master_key == Path("/srv/z/keys/master.key")
    assert home.admin_key == Path("/srv/z/keys/admin.key")
    assert home.key_file("worker-1") == Path("/srv/z/keys/worker-1.key")
    assert (home.data_dir, home.run_dir) == (Path("/srv/z/data"), Path("/srv/z/run"))


def test_the_system_home_has_its_configuration_in_etc_and_its_run_files_in_run() -> None:
    home = Home(default_home({}, root=True))
    assert home.path == Path("/var/lib/zcluster")
    assert home.config_file == Path("/etc/zcluster/zcluster.toml")
    assert home.run_dir == Path("/run/zcluster")
    assert home.keys_dir == Path("/var/lib/zcluster/keys")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/home/u"}, "/home/u/.local/share/zcluster"),
        ({"HOME": "/home/u", "XDG_DATA_HOME": "/data"}, "/data/zcluster"),
        ({"HOME": "/home/u", "XDG_DATA_HOME": "relative"}, "/home/u/.local/share/zcluster"),
        ({"HOME": "/home/u", "XDG_DATA_HOME": "/data", "ZCLUSTER_HOME": "/z"}, "/z"),
        ({"HOME": "/home/u", "ZCLUSTER_HOME": ""}, "/home/u/.local/share/zcluster"),
    ],
)
def test_the_home_of_a_user(environ: dict[str, str], expected: str) -> None:
    assert default_home(environ, root=False) == Path(expected)


def test_zcluster_home_wins_for_root_too() -> None:
    assert default_home({"ZCLUSTER_HOME": "/z"}, root=True) == Path("/z")


def test_paths_are_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/u")
    assert default_home({"ZCLUSTER_HOME": "rel/../z"}) == tmp_path / "z"
    assert absolute("~/x") == Path("/home/u/x")
    assert absolute("y", Path("/base")) == Path("/base/y")
    assert absolute("/y", Path("/base")) == Path("/y")
    assert Home.of("z") == Home(tmp_path / "z") == Home.of(Home.of(Path("z")))


def test_an_unknown_user_is_an_error_with_a_hint() -> None:
    with pytest.raises(ConfigError, match="no home directory") as caught:
        absolute("~no-such-user-of-zcluster/x")
    assert "--home" in caught.value.hint
