"""Whatever bytes a parser is given, it reads them or refuses them by an error of this package, in time."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

import fuzzing
from fuzz_spoiling import spoiled
from fuzzing import Target, attempt, targets
from profiles import SEED, tried
from traceark.manifest import decode_manifest

TARGETS = targets()
DEEP = b"[" * 100_000 + b"]" * 100_000


def changed(name: str, old: bytes, new: bytes) -> tuple[str, bytes]:
    """Return a target and a sample of it in which one thing is another."""
    sample = next(each for each in TARGETS[name].seeds if old in each)
    return name, sample.replace(old, new, 1)


# Each was an error of another kind once.
FOUND = {
    "an offset beyond all numbers": changed("trace.json", b'"offset":4', b'"offset":1e999'),
    "a revision that is a text": changed("trace.json", b'"_revision":', b'"_revision":"x","_":'),
    "an incarnation that is a list": changed("trace.json", b'"_incarnation":"a0000001"', b'"_incarnation":[]'),
    "a tree's revision that is a text": changed("goal_tree.json", b'"_revision":', b'"_revision":"x","_":'),
    **{
        f"a total that was set to {value[:9]}": changed(
            "trace, header",
            b'"_revision":',
            b'"_set":{"total_tokens":{"adjustment":"%s","offset":1}},"_revision":' % value.encode(),
        )
        for value in ("NaN", "Infinity", "1e9999", "1e-9999", "1e999999999", "9" * 4000)
    },
    **{
        f"stats of a goal that were set to {told[:40]}": changed(
            "trace, goal tree",
            b'"_revision":',
            b'"_set":{"g":{"self_stats":{%s},"cumulative_stats":{}}},"_revision":' % told.encode(),
        )
        for told in (
            '"total_tokens":"NaN"',
            '"total_cost":"1e9999"',
            '"message_count":"1e999999999"',
            '"preview":{"value":5,"offset":5}',
        )
    },
    "a preview that was set to no number": changed(
        "goal_tree.json",
        b'"_revision":',
        b'"_set":{"1.1":{"self_stats":{"preview":{"value":NaN,"offset":5}},"cumulative_stats":{}}},"_revision":',
    ),
    "a message without a sequence": changed("trace, segment", b'"sequence"', b'"se2uence"'),
    "a message whose id is a number": changed("trace, segment", b'"message_id":"', b'"message_id":5,"_":"'),
    "a name that raises what is no letter": ("names", b"%0Buuur~9"),
    "tokens that are a text": changed("trace, segment", b'"tokens":4', b'"tokens":"4"'),
    "a goal that is a number": changed("trace, segment", b'"goal_id":"g"', b'"goal_id":7'),
    "a cost beyond all numbers": changed("trace, segment", b'"cost":0.1', b'"cost":1e999'),
    "a writer that is a number": changed("segment", b'"_writer":"a000001b-a000001d"', b'"_writer":5'),
    "openings that are numbers": changed("change file", b'"closes":["5f3a9c21-6553f100-1b2c3d4e"]', b'"closes":[5]'),
    "an opening without a time": changed("change file", b'"opening":"5f3a9c21-6553f100', b'"opening":"5f3a9c21-x'),
    "a note's incarnation that is a list": changed("change file", b'"_incarnation":"5f3a9c21"', b'"_incarnation":[]'),
    "rows of a rollup beyond all numbers": changed("rollup.json", b'"messages":1', b'"messages":1e999'),
    "a row of Codex whose type is an object": changed("import, codex", b'"type": "session_meta"', b'"type": {"a": []}'),
    "a chat with a number that is none": changed("import, chat", b'"weight": 0', b'"weight": NaN'),
    "ticks that are no list": changed("import, tau2", b'"ticks": [', b'"ticks": 5, "more": ['),
    "a marker that is deep": ("marker", DEEP),
    "a mark that is deep": ("mark of a spool", DEEP),
    "a mark with a size beyond all numbers": changed("mark of a spool", b"[1, ", b"[1e999, "),
    "a part whose metadata is deep": ("metadata of a part", DEEP),
    "a part whose cells are deep": ("cells of a part", DEEP),
    "a snapshot whose metadata is deep": ("metadata of a snapshot", DEEP),
    "a snapshot whose size is a text": changed("metadata of a snapshot", b'"size": 0', b'"size": "0"'),
    "a snapshot whose size is below none": changed(
        "metadata of a snapshot", b'"size": 0', b'"size": -9223372036854775809'
    ),
}
_MOST_CPU_SECONDS = 20


class TookTooLongError(BaseException):
    """A parser did not come back."""


@contextmanager
def in_time() -> Iterator[None]:
    """Fail where what is in the block computes for too long."""

    def stop(*_: object) -> None:
        raise TookTooLongError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, _MOST_CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_reads_its_samples(name: str) -> None:
    target = TARGETS[name]
    assert any(attempt(target, each) for each in target.seeds)


def fuzz(target: Target, examples: int) -> None:
    """Feed a target with spoiled samples."""

    @seed(SEED)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(sample=st.sampled_from(target.seeds), number=st.integers(0, 2**32))
    def run(sample: bytes, number: int) -> None:
        with in_time():
            attempt(target, spoiled(sample, Random(number), is_json=target.is_json))

    run()


@pytest.mark.parametrize("name", TARGETS)
def test_spoiled_samples_are_read_or_refused(name: str) -> None:
    slow = name.startswith(("import", "pack", "cells"))
    fuzz(TARGETS[name], tried(1 if slow else 6, 30 if slow else 450, 60 if slow else 1000))


@pytest.mark.parametrize("found", FOUND)
def test_what_was_found_once_is_read_or_refused(found: str) -> None:
    name, data = FOUND[found]
    with in_time():
        attempt(TARGETS[name], data)


def test_a_parser_that_fails_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = decode_manifest

    def decode(data: bytes, what: str) -> dict[str, str]:
        if b"\xff" in data:
            raise KeyError("trace.json")
        return sound(data, what)

    monkeypatch.setattr(fuzzing, "decode_manifest", decode)
    with pytest.raises(KeyError):
        fuzz(TARGETS["manifest"], 300)


def test_a_parser_that_does_not_come_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(data: bytes, what: str) -> object:
        while True:
            pass

    monkeypatch.setattr(fuzzing, "decode_manifest", decode)
    monkeypatch.setattr(f"{__name__}._MOST_CPU_SECONDS", 0.05)
    with pytest.raises(TookTooLongError), in_time():
        attempt(TARGETS["manifest"], b"")
