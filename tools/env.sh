#!/usr/bin/env bash
# Makes .venv and installs zcluster into it (editable, with what tests and benches need), at the versions of
# constraints.txt. `make env` runs it when pyproject.toml or constraints.txt changed. PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"

if ! command -v "$python" >/dev/null; then
    echo "env: no '$python' found; install Python 3.11 or newer, or name one: make env PYTHON=/path/to/python3" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "env: '$python' is $("$python" --version 2>&1), but zcluster needs 3.11 or newer; try: make env PYTHON=python3.12" >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    # Debian ships these two modules in a package of their own.
    tools/apt_install.sh python3-venv
fi
# An environment whose interpreter went away (an upgrade, another machine) is made anew.
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    "$python" -m venv --clear .venv
fi

pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt)
# The build runs in this environment, not in an isolated one: setuptools is pinned as well, and downloaded once.
"${pip[@]}" setuptools
"${pip[@]}" --no-build-isolation --editable '.[test,bench]'
