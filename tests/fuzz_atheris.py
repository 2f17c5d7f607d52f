"""Fuzzes every parser by coverage: `python tests/fuzz_atheris.py SECONDS [TARGET…]`, each in a process of its own.

An input that fails is written to `fuzz-finds/` and named; it becomes a line of `FOUND` in `test_fuzz`.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random

FINDS = Path("fuzz-finds")
_TIMEOUT_SECONDS, _MEMORY_MB = 20, 2048


def fuzz(name: str, seconds: str, corpus: Path) -> None:
    """Feed one target until the time is over or something is found; does not return."""
    import atheris

    with atheris.instrument_imports(include=["traceark"]):
        from fuzzing import attempt, targets
    from fuzz_spoiling import spoiled

    target = targets()[name]
    for number, sample in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(sample)

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        random = Random(seed)
        if random.randrange(2):
            return bytes(atheris.Mutate(data, size))
        return spoiled(data, random, is_json=target.is_json)[:size]

    options = [
        f"-max_total_time={seconds}",
        f"-timeout={_TIMEOUT_SECONDS}",
        f"-rss_limit_mb={_MEMORY_MB}",
        "-max_len=65536",
        "-print_final_stats=1",
        f"-artifact_prefix={FINDS}/{name.replace(' ', '-').replace(',', '')}--",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: attempt(target, data), custom_mutator=mutate)
    atheris.Fuzz()


def main() -> int:
    """Fuzz the targets, say how many inputs each had; return how many failed."""
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed (pip install 'traceark[fuzz]'): nothing was fuzzed by coverage")
        return 0
    from fuzzing import targets

    seconds, *wanted = sys.argv[1:]
    FINDS.mkdir(exist_ok=True)
    failed = 0
    for name in wanted or targets():
        with tempfile.TemporaryDirectory() as corpus:
            command = [sys.executable, __file__, "--one", name, seconds, corpus]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        told = [line for line in done.stderr.splitlines() if "number_of_executed_units" in line]
        print(f"{name}: {told[-1].split()[-1] if told else 'unknown'} inputs", flush=True)
        if done.returncode:
            failed += 1
            print(done.stdout[-3000:], done.stderr[-1500:], flush=True)
    return failed


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        fuzz(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
    sys.exit(main())
