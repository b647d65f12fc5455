"""``zcluster systemd``: the units, where they are written, and that nobody's change is lost."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zcluster.cli.systemd import next_steps
from zcluster.cli.systemd_unit import DEFAULT_HOME, ROLES, Unit, quoted, unchanged
from zcluster.errors import UsageError

PACKAGING = Path(__file__).resolve().parents[2] / "packaging" / "systemd"
PYTHON = Path("/opt/zcluster/bin/python")
SECTIONS = ("Unit", "Service", "Install")
MOST_EXPOSED = 20
"""Of systemd's 100: what `systemd-analyze security` may say at most."""


def settings_of(text: str) -> dict[str, str]:
    """The settings of a unit as ``Section.Name``, under a stricter syntax than systemd's own: none twice, no continuation."""
    found: dict[str, str] = {}
    section = ""
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            section = line.strip("[]")
            assert section in SECTIONS
            continue
        name, equals, value = line.partition("=")
        assert equals
        assert re.fullmatch(r"[A-Z][A-Za-z]+", name)
        assert not value.endswith("\\")
        assert f"{section}.{name}" not in found
        found[f"{section}.{name}"] = value
    return found


@pytest.mark.parametrize("role", ROLES)
def test_the_units_of_the_repository_are_what_the_command_writes(role: str) -> None:
    unit = Unit(role, PYTHON)
    if os.environ.get("ZCLUSTER_REWRITE_UNITS") == "1":
        (PACKAGING / unit.name).write_text(unit.text)
    assert (PACKAGING / unit.name).read_text() == unit.text
    assert {path.name for path in PACKAGING.glob("*.service")} == {Unit(each, PYTHON).name for each in ROLES}


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_says_what_matters(role: str) -> None:
    found = settings_of(Unit(role, PYTHON).text)
    assert found["Service.Type"] == "notify"
    assert found["Service.WatchdogSec"] == "30"
    assert found["Unit.StartLimitIntervalSec"] == "0", "five failures in ten seconds would end it for good"
    assert found["Service.User"] == "zcluster"
    assert found["Service.CapabilityBoundingSet"] == ""
    assert found["Service.ProtectHome"] == found["Service.PrivateTmp"] == found["Service.NoNewPrivileges"] == "yes"
    assert found["Service.StateDirectory"] == "zcluster"
    assert "Service.ReadWritePaths" not in found
    words = found["Service.ExecStart"].split()
    assert words[:6] == [str(PYTHON), "-m", "zcluster", role, "--home", str(DEFAULT_HOME)]
    assert words[6:] == (["--key", f"{DEFAULT_HOME}/keys/agent.key"] if role == "agent" else [])


@pytest.mark.parametrize("role", ROLES)
def test_systemd_finds_nothing_wrong(role: str, tmp_path: Path) -> None:
    """Where systemd is installed; else the parser above is what there is."""
    path = tmp_path / f"zcluster-{role}.service"
    path.write_text(Unit(role, Path(sys.executable), user="root").text)
    assert settings_of(path.read_text())
    if shutil.which("systemd-analyze") is None:
        return
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, timeout=30)
    assert (done.returncode, path.name in done.stderr) == (0, False), done.stderr
    command = ["systemd-analyze", "security", "--offline=yes", f"--threshold={MOST_EXPOSED}", str(PACKAGING / path.name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if "unrecognized option" not in done.stderr:  # of an old release
        assert done.returncode == 0, done.stdout


def test_a_home_elsewhere_is_what_it_may_write_to() -> None:
    found = settings_of(Unit("worker", PYTHON, Path("/srv/z c/$x/100%")).text)
    assert found["Service.ReadWritePaths"] == '"/srv/z c/$x/100%%"'
    assert found["Service.ExecStart"].endswith(' --home "/srv/z c/$$x/100%%"')
    assert "Service.StateDirectory" not in found


def test_what_it_needs_is_not_hidden_from_it() -> None:
    def of(*paths: str, home: str = "/srv/z") -> tuple[str, str]:
        found = settings_of(Unit("worker", Path(paths[0]), Path(home), code=tuple(map(Path, paths[1:]))).text)
        return found["Service.ProtectHome"], found["Service.PrivateTmp"]

    assert of("/usr/bin/python3") == ("yes", "yes")
    assert of("/home/joe/v/bin/python") == ("read-only", "yes")
    assert of("/opt/v/bin/python", f"{'/root'}/python/bin/python3") == ("read-only", "yes")
    assert of("/usr/bin/python3", home="/home/joe/z") == ("read-only", "yes")
    assert of("/var/tmp/venv/bin/python") == ("yes", "no")
    assert of("/homes/v/bin/python") == ("yes", "yes")


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("plain/a-b_c.d", "plain/a-b_c.d"),
        ("a b", '"a b"'),
        ('a"b\\', '"a\\"b\\\\"'),
        ("50%", '"50%%"'),
        ("", '""'),
        ("ä;", '"ä;"'),
    ],
)
def test_words_are_quoted(word: str, written: str) -> None:
    assert quoted(word) == written


@pytest.mark.parametrize(
    "wrong",
    [
        {"role": "boss"}, {"user": "a b"}, {"user": "root\nExecStart=/bin/sh"}, {"user": ""}, {"home": Path("relative")},
        {"home": Path("/srv/a\nExecStart=/bin/sh")}, {"python": Path("python3")}, {"home": Path("/var/lib/zcluster")},
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Unit(**{"role": "worker", "python": PYTHON, **wrong})


def test_who_names_no_user_or_no_unit_is_told_what_to_do(zcluster: Callable[..., Any], tmp_path: Path) -> None:
    words = ("--role", "worker", "--prefix", str(tmp_path))
    assert "(--user zcluster, for example)" in zcluster("systemd", "install", *words, "--user", "a b").err
    assert "--prefix say which" in zcluster("systemd", "uninstall", *words).err


def test_a_change_by_hand_shows() -> None:
    text = Unit("worker", PYTHON).text
    assert unchanged(text)
    assert not unchanged(text.replace("WatchdogSec=30", "WatchdogSec=3"))
    assert not unchanged(text + "\n")
    assert not unchanged("[Service]\n")
    assert not unchanged("")


def unit_file(root: Path) -> Path:
    return root / "etc/systemd/system/zcluster-worker.service"


def test_it_is_installed_once_and_again(zcluster: Callable[..., Any], tmp_path: Path) -> None:
    ran = zcluster("systemd", "install", "--role", "worker", "--prefix", str(tmp_path), "--home", "/srv/z")
    assert ran.code == 0
    first, *rest = ran.out.splitlines()
    assert first == f"written: {unit_file(tmp_path)}"
    assert rest[0] == "next:"
    assert "  systemctl enable --now zcluster-worker" in rest
    text = unit_file(tmp_path).read_text()
    assert settings_of(text)["Service.ExecStart"] == f"{quoted(sys.executable)} -m zcluster worker --home /srv/z"
    assert stat.S_IMODE(unit_file(tmp_path).stat().st_mode) == 0o644
    assert list(unit_file(tmp_path).parent.iterdir()) == [unit_file(tmp_path)]
    again = zcluster("systemd", "install", "--role", "worker", "--prefix", str(tmp_path), "--home", "/srv/z")
    assert again.out.splitlines()[0] == f"unchanged: {unit_file(tmp_path)}"
    other = zcluster("systemd", "install", "--role", "worker", "--prefix", str(tmp_path), "--home", "/srv/y", "--user", "joe")
    assert (other.code, settings_of(unit_file(tmp_path).read_text())["Service.User"]) == (0, "joe")


def test_a_dry_run_prints_it_and_writes_nothing(zcluster: Callable[..., Any], tmp_path: Path) -> None:
    ran = zcluster("systemd", "install", "--role", "master", "--dry-run", "--prefix", str(tmp_path))
    assert (ran.code, unchanged(ran.out), list(tmp_path.iterdir())) == (0, True, [])


def test_a_changed_unit_stays_without_force(zcluster: Callable[..., Any], tmp_path: Path) -> None:
    words = ("--role", "worker", "--prefix", str(tmp_path))
    zcluster("systemd", "install", *words)
    unit_file(tmp_path).write_text(mine := unit_file(tmp_path).read_text() + "# mine\n")
    for command in ("install", "uninstall"):
        ran = zcluster("systemd", command, *words)
        assert (ran.code, "changed by hand" in ran.err, unit_file(tmp_path).read_text()) == (1, True, mine)
    assert zcluster("systemd", "install", *words, "--force").code == 0
    assert unchanged(unit_file(tmp_path).read_text())
    unit_file(tmp_path).write_text(mine)
    assert zcluster("systemd", "uninstall", *words, "--force").code == 0
    assert not unit_file(tmp_path).exists()


def test_it_is_uninstalled(zcluster: Callable[..., Any], tmp_path: Path) -> None:
    words = ("--role", "worker", "--prefix", str(tmp_path))
    assert zcluster("systemd", "uninstall", *words).code == 5
    zcluster("systemd", "install", *words)
    ran = zcluster("systemd", "uninstall", *words)
    assert (ran.code, ran.out.splitlines()[0], unit_file(tmp_path).exists()) == (0, f"removed: {unit_file(tmp_path)}", False)


def test_a_masked_unit_is_no_unit(zcluster: Callable[..., Any], tmp_path: Path) -> None:
    unit_file(tmp_path).parent.mkdir(parents=True)
    unit_file(tmp_path).symlink_to("/dev/null")
    for command in ("install", "uninstall"):
        ran = zcluster("systemd", command, "--role", "worker", "--prefix", str(tmp_path), "--force")
        assert (ran.code, "unmask" in ran.err, unit_file(tmp_path).is_symlink()) == (1, True, True)


def test_a_place_that_cannot_be_written_is_an_error_in_a_line(zcluster: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("")
    ran = zcluster("systemd", "install", "--role", "worker", "--prefix", str(tmp_path))
    assert (ran.code, len(ran.err.splitlines()[-1:]), "cannot be written" in ran.err) == (2, 1, True)


def test_what_to_do_next_takes_nothing_away_from_others() -> None:
    steps = next_steps(Unit("worker", PYTHON), True)
    assert steps[0] == "install -d -o zcluster -m 0700 /var/lib/zcluster /var/lib/zcluster/home /var/lib/zcluster/home/keys"
    steps = next_steps(Unit("worker", PYTHON, Path("/srv/z"), "joe"), False)
    assert steps[:2] == [
        "useradd --system --no-create-home --shell /usr/sbin/nologin joe",
        "install -d -o joe -m 0700 /srv/z /srv/z/keys",
    ]
    assert [step for step in next_steps(Unit("master", PYTHON), True) if "token" in step or "join" in step] == []
