"""What `pip install` puts into an environment: the package `zcluster`, its command, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """A wheel built from a copy of the project, root links included: building leaves traces where it happens."""
    place = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, place / "source", symlinks=True, ignore=ignored)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(place)]
    subprocess.run([*build, str(place / "source")], check=True, timeout=300)
    (path,) = place.glob("*.whl")
    return zipfile.ZipFile(path)


def test_only_zcluster_is_at_the_top_level(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"zcluster"}
    assert len(tops) == 2


def test_every_module_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "zcluster").rglob("*.py")}
    assert len(modules) > 10
    assert modules - set(wheel.namelist()) == set()
    assert "zcluster/py.typed" in wheel.namelist()


def test_it_brings_the_command_and_the_license(wheel: zipfile.ZipFile) -> None:
    (entry_points,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "zcluster = zcluster.cli.main:main" in wheel.read(entry_points).decode()
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_the_root_links_lead_into_the_package() -> None:
    for name in ("brokers", "workers", "keys", "bench"):
        link = ROOT / name
        assert link.is_symlink()
        assert link.resolve() == ROOT / "zcluster" / name
