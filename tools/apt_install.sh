#!/usr/bin/env bash
# Installs those of the named Debian packages that are missing: apt_install.sh PACKAGE...
# Without the right to do so it prints the command to type, and fails.
set -euo pipefail

missing=()
for package in "$@"; do
    if ! dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed'; then
        missing+=("$package")
    fi
done
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing: ${missing[*]}; install with: sudo apt-get update && sudo apt-get install -y ${missing[*]}" >&2
    exit 1
fi

export DEBIAN_FRONTEND=noninteractive
attempts=4
for attempt in $(seq "$attempts"); do
    if apt-get update -qq </dev/null >&2 && apt-get install -qq -y --no-install-recommends "${missing[@]}" </dev/null >&2; then
        exit 0
    fi
    echo "apt_install: attempt $attempt of $attempts failed" >&2
    if [ "$attempt" -lt "$attempts" ]; then
        sleep $((attempt * 5))
    fi
done
exit 1
