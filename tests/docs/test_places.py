"""No file of the project names a package registry or a place on someone's machine: it works wherever it is cloned."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FORBIDDEN = {
    "a package registry": r"pypi\.org|pythonhosted\.org|npmjs\.(?:org|com)|deb\.debian\.org|index-url|find-links",
    "a path of one machine": r"/work/\w|/root/\w|/tmp/[a-z]/|\.pyenv/|/Users/\w",
}


def project_files() -> list[Path]:
    """Every file that is, or is about to be, in the repository."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
    ).stdout.decode()
    paths = [ROOT / name for name in names.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def findings(text: str) -> list[str]:
    return [f"{what}: {match}" for what, pattern in FORBIDDEN.items() for match in re.findall(pattern, text)]


def test_no_file_names_a_registry_or_a_machine() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git clone: which files belong to the project is not known")
    bad = {}
    for path in project_files():
        if path == Path(__file__).resolve():
            continue
        found = findings(path.read_bytes().decode("utf-8", "replace"))
        if found:
            bad[str(path.relative_to(ROOT))] = found
    assert bad == {}


def test_a_registry_or_a_machine_would_be_found() -> None:
    assert findings("see https://" + "pypi" + ".org/simple") != []
    assert findings("open('/root" + "/notes')") != []
    assert findings("open('/var/lib/zcluster')") == []


def test_constraints_are_exact_versions_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9A-Za-z.]*", line)] == []
    assert len({line.split("==")[0].lower() for line in pins}) == len(pins) > 10
