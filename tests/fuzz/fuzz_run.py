"""The long round of fuzzing: ``make fuzz [SECONDS=60] [DECODERS="frame token"]``.

Rules kept here:
- each decoder has its share of the time, in a process of its own that may have MEMORY_BYTES and, for one input, INPUT_S;
- with atheris (``pip install atheris``) the inputs are led by what they reach in the code; without it they are mutations;
- an input that fails is kept as tests/corpus/DECODER/failed-..., where the tests find it, and the round ends with 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import importlib
import importlib.util
import random
import resource
import secrets
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

MEMORY_BYTES = 4 << 30
INPUT_S = 20
STARTS_S = 60
SHOWN_LINES = 25


def main() -> int:
    """Fuzzes the decoders of the command line, or all."""
    from fuzz_decoders import DECODERS

    parser = argparse.ArgumentParser(description="Feed decoders with what they do not expect.")
    parser.add_argument("decoders", nargs="*", metavar="DECODER", help=f"of {', '.join(DECODERS)}; all when none is given")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long, all together (default: 60)")
    parser.add_argument("--child", metavar="FILE", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    unknown = [name for name in asked.decoders if name not in DECODERS]
    if unknown:
        parser.error(f"there is no decoder {unknown[0]}")
    if asked.child:
        return _child(asked.decoders[0], asked.seconds, Path(asked.child))
    names = asked.decoders or list(DECODERS)
    failed = [name for name in names if not _fuzzed(name, asked.seconds / len(names))]
    print(f"{len(names)} decoders, {', '.join(failed) or 'none'} failed")
    return 1 if failed else 0


def _fuzzed(name: str, seconds: float) -> bool:
    """Whether a decoder withstands for ``seconds``; what it does not withstand is kept."""
    from fuzz_mutations import CORPUS

    with tempfile.TemporaryDirectory(prefix="zcluster-fuzz-") as place:
        current = Path(place) / "current"
        command = [sys.executable, __file__, name, "--seconds", str(seconds), "--child", str(current)]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds + STARTS_S)
            code, said = ran.returncode, ran.stdout + ran.stderr
        except subprocess.TimeoutExpired as error:
            code, said = 1, f"no end after {error.timeout:g} s"
        if code == 0:
            told = [line for line in said.splitlines() if line.startswith(("stat::number_of_executed_units", "tried"))]
            print(f"{name}: {told[0].split()[-1] if told else 'no'} inputs")
            return True
        data = next((path.read_bytes() for path in [*sorted(Path(place).glob("crash-*")), current] if path.exists()), b"")
        kept = CORPUS / name / f"failed-{hashlib.sha256(data).hexdigest()[:12]}.bin"
        kept.write_bytes(data)
        print(f"{name}: failed with exit code {code}; the input is {kept}")
        print("\n".join(said.strip().splitlines()[-SHOWN_LINES:]))
        return False


def _child(name: str, seconds: float, current: Path) -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if importlib.util.find_spec("atheris") is not None:
        return _guided(name, seconds, current)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    return _mutations(name, seconds, current)


def _mutations(name: str, seconds: float, current: Path) -> int:
    """Mutations of the seeds, from dice that nobody has seen yet; ``current`` always holds the input that is tried."""
    from fuzz_decoders import DECODERS
    from fuzz_mutations import mutated, seeds

    decoder, begin, number = DECODERS[name], seeds(name), secrets.randbits(48)
    tried, until_s = 0, time.monotonic() + seconds
    with current.open("wb", buffering=0) as file:
        while time.monotonic() < until_s:
            number, tried = number + 1, tried + 1
            dice = random.Random(number)
            data = mutated(dice.choice(begin), dice, decoder.dialect, begin)
            file.seek(0)
            file.truncate()
            file.write(data)
            if not _withstands(decoder.run, data):
                return 1
    print(f"tried {tried}")
    return 0


def _withstands(run: Callable[[bytes], None], data: bytes) -> bool:
    faulthandler.dump_traceback_later(INPUT_S, exit=True)  # ends also what is stuck outside of Python
    try:
        run(data)
    except Exception:
        traceback.print_exc()
        return False
    finally:
        faulthandler.cancel_dump_traceback_later()
    return True


def _guided(name: str, seconds: float, current: Path) -> int:
    """atheris, that is libFuzzer; it writes what fails beside ``current``, and ends the process."""
    atheris = importlib.import_module("atheris")  # by name: it is not among what the project needs, nor are its types

    with atheris.instrument_imports(include=["zcluster"]):
        from fuzz_decoders import DECODERS
    from fuzz_mutations import MAX_BYTES, TOKENS, mutated, seeds

    place = current.parent
    begin, decoder = seeds(name), DECODERS[name]
    (place / "seeds").mkdir()
    for number, data in enumerate(begin):
        (place / "seeds" / str(number)).write_bytes(data[:MAX_BYTES])
    words = ["".join([f"\\x{byte:02x}" for byte in token]) for token in TOKENS[decoder.dialect] if len(token) < 64]
    (place / "words").write_text("".join([f'"{word}"\n' for word in words]))

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        dice = random.Random(seed)
        if dice.random() < 0.5:
            return bytes(atheris.Mutate(data, max_size))
        return mutated(data, dice, decoder.dialect, begin)[:max_size]

    options = [
        f"-max_total_time={max(int(seconds), 1)}", f"-timeout={INPUT_S}", f"-rss_limit_mb={MEMORY_BYTES >> 20}",
        f"-max_len={MAX_BYTES}", f"-artifact_prefix={place}/crash-", f"-dict={place}/words",
        "-print_final_stats=1", "-verbosity=0",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(place / "seeds")], decoder.run, custom_mutator=mutator)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
