"""The attacks of docs/security.md: in small with every run of the tests, in full by ``make attack``.

Rules kept here:
- in small nothing is asked that a busy machine can spoil: nodes live, nothing is accepted that must not be, memory is bounded;
- in full every figure is asked, and written into the directory that ZCLUSTER_ATTACK_OUT names, also of what is not held.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ground import Shared
from measured import as_json, broken
from table import ATTACKS

OUT = "ZCLUSTER_ATTACK_OUT"


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    cluster = Shared()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.mark.parametrize("name", ATTACKS)
def test_in_small(shared: Shared, name: str) -> None:
    faults = broken(ATTACKS[name].run(shared), times=False)
    assert not faults, "\n".join(faults)


@pytest.mark.attack
@pytest.mark.parametrize("name", ATTACKS)
def test_in_full(name: str) -> None:
    began_s = time.monotonic()
    figures = ATTACKS[name].run(None)
    outcome = as_json(ATTACKS[name], figures, time.monotonic() - began_s)
    if os.environ.get(OUT):
        Path(os.environ[OUT]).mkdir(parents=True, exist_ok=True)
        (Path(os.environ[OUT]) / f"{name}.json").write_text(json.dumps(outcome, indent=1), encoding="utf-8")
    faults = broken(figures, times=True)
    assert not faults, "\n".join(faults)
