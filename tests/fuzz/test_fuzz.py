"""Whatever is read: a documented error comes out, or something that is written and read again as the same.

``make fuzz`` goes on for as long as it is told (see fuzz_run.py); what it finds is kept in tests/corpus, and replayed here.
"""

from __future__ import annotations

import os
import random

import pytest
from fuzz_decoders import DECODERS
from fuzz_mutations import BOMBS, CORPUS, corpus, mutated, seeds
from hypothesis import given, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("ZCLUSTER_FUZZ_EXAMPLES", "200"))
"""Of each decoder: 200 of all take some seconds."""
KEPT = [(name, each) for name in DECODERS for each in corpus(name)]


@pytest.mark.parametrize("name", DECODERS)
def test_mutations_of_what_is_valid(name: str) -> None:
    decoder, begin = DECODERS[name], seeds(name)

    @settings(derandomize=True, deadline=None, max_examples=EXAMPLES)
    @given(number=st.integers(0, 2**32 - 1))
    def run(number: int) -> None:
        dice = random.Random(number)
        decoder.run(mutated(dice.choice(begin), dice, decoder.dialect, begin))

    run()


@pytest.mark.parametrize("name", DECODERS)
def test_any_bytes(name: str) -> None:
    @settings(derandomize=True, deadline=None, max_examples=EXAMPLES // 4)
    @given(data=st.binary(max_size=300))
    def run(data: bytes) -> None:
        DECODERS[name].run(data)

    run()


@pytest.mark.parametrize(("name", "kept"), KEPT)
def test_what_is_kept(name: str, kept: str) -> None:
    DECODERS[name].run(corpus(name)[kept])


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("name", [name for name, each in DECODERS.items() if each.dialect in ("json", "frame")])
def test_what_is_large_on_purpose(name: str, bomb: str) -> None:
    DECODERS[name].run(BOMBS[bomb])


def test_every_decoder_has_seeds_and_nothing_else_has() -> None:
    assert {path.name for path in CORPUS.iterdir() if path.is_dir()} == set(DECODERS)
    assert [name for name in DECODERS if not corpus(name)] == []
