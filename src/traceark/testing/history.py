"""Histories of what many processes asked of one trace at once, and whether they are linearizable.

A history is linearizable if every operation can be given one moment between its beginning and its
end so that, in the order of these moments, each answer is right [1]_. Two kinds of objects make up a
trace: *logs*, that are appended to and read from their beginning, and *registers*, that are set and
looked at. For these the question is decided exactly, and fast:

- A log's own order is known in the end, from a last reading of all of it. So every append and every
  reading has its place, and all that is left to see is that no operation that ended before another
  began stands behind it.
- What is written to a register is another value each time. Each value then reigns from the earliest
  end to the latest beginning of the operations on it, and no two reigns may overlap [2]_.

Objects are judged one by one, which suffices: a history is linearizable if it is so for each object.
What one call says of several at once (a message's place and its fields) is taken as one operation on each.

References
----------
.. [1] M. Herlihy, J. Wing, Linearizability: a correctness condition for concurrent objects,
   ACM TOPLAS 12(3), 1990.
.. [2] P. Gibbons, E. Korach, Testing shared memories, SIAM J. Comput. 26(4), 1997, section 4.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, TypeVar

Answer = TypeVar("Answer")
Kind = Literal["append", "read", "set", "look"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One call.

    Attributes
    ----------
    kind : {'append', 'read', 'set', 'look'}
        The first two are of a log, the others of a register.
    of : str
        Which log or register.
    value : object
        What was appended or set, as JSON: no value comes twice. Of a reading, the list of values that it
        found, or only how many; of a look the value that was found, None if none was set.
    begun, ended : float
        When, by a clock that all processes share; an operation that failed may have been done at any time
        after it began, and ended at infinity.
    """

    kind: Kind
    of: str
    value: Any
    begun: float
    ended: float

    def __str__(self) -> str:
        value = self.value
        if isinstance(value, list):
            value = len(value)
        return f"{self.kind} {self.of} {value!r} [{self.begun:.0f}, {self.ended:.0f}]"


class Recorder:
    """Writes down what one process does, as it does it: each call's beginning and its end are a line of a file.

    Examples
    --------
    >>> import asyncio, tempfile
    >>> async def append() -> int:
    ...     return 1
    >>> async def work(path):
    ...     recorder = Recorder(path)
    ...     await recorder.does("append", "messages", append(), "hello")
    ...     await recorder.finds("read", "messages", append(), lambda count: count)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     asyncio.run(work(Path(folder, "1.jsonl")))
    ...     faults(recorded(Path(folder)))
    ['messages was never read as a whole']
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._numbers = itertools.count()

    async def does(self, kind: Kind, of: str, call: Awaitable[Answer], value: object) -> Answer:
        """Wait for a call that appends or sets a value; where it raises, nothing is known of it."""
        number = next(self._numbers)
        self._write({"number": number, "kind": kind, "of": of, "value": value, "begun": time.monotonic_ns()})
        answer = await call
        self._write({"number": number, "ended": time.monotonic_ns()})
        return answer

    async def finds(self, kind: Kind, of: str, call: Awaitable[Answer], value: Callable[[Answer], object]) -> Answer:
        """Wait for a call that reads or looks; `value` takes what it found from its answer."""
        begun = time.monotonic_ns()
        answer = await call
        ended = time.monotonic_ns()
        self.found(kind, of, value(answer), begun, ended)
        return answer

    def found(self, kind: Kind, of: str, value: object, begun: int, ended: int) -> None:
        """Write down what was read or looked at between two times of `time.monotonic_ns`."""
        number = next(self._numbers)
        self._write({"number": number, "kind": kind, "of": of, "value": value, "begun": begun, "ended": ended})

    def _write(self, told: dict[str, object]) -> None:
        os.write(self._file, json.dumps(told).encode() + b"\n")


def recorded(folder: Path) -> list[Operation]:
    """Return what the recorders of a folder wrote down, one file each."""
    found: list[Operation] = []
    for path in sorted(folder.iterdir()):
        calls: dict[int, dict[str, Any]] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            told = json.loads(line)
            calls.setdefault(told.pop("number"), {"ended": math.inf}).update(told)
        found += [Operation(**call) for call in calls.values()]
    return found


def faults(history: Iterable[Operation]) -> list[str]:
    """Return why a history is not linearizable, or nothing if it is.

    Each log must have been read as a whole after all else; a value must have been appended, or set, once.
    """
    logs: dict[str, list[Operation]] = defaultdict(list)
    registers: dict[str, list[Operation]] = defaultdict(list)
    for operation in history:
        (logs if operation.kind in ("append", "read") else registers)[operation.of].append(operation)
    found = [fault for of, operations in logs.items() for fault in _log_faults(of, operations)]
    return found + [fault for of, operations in registers.items() for fault in _register_faults(of, operations)]


def _log_faults(of: str, operations: Sequence[Operation]) -> list[str]:
    readings = [each for each in operations if each.kind == "read" and isinstance(each.value, list)]
    if not readings:
        return [f"{of} was never read as a whole"]
    whole: list[Any] = max(readings, key=lambda each: each.begun).value
    keys = list(map(_key, whole))
    place = {key: at for at, key in enumerate(keys)}
    found = [f"{of} holds {key} {count} times" for key, count in Counter(keys).items() if count > 1]
    placed: list[tuple[float, Operation]] = []
    attempted: set[str] = set()
    for each in operations:
        if each.kind == "append":
            attempted.add(_key(each.value))
            if _key(each.value) in place:
                placed.append((place[_key(each.value)], each))
            elif each.ended < math.inf:
                found.append(f"acknowledged and not there in the end: {each}")
        elif isinstance(each.value, list) and list(map(_key, each.value)) != keys[: len(each.value)]:
            found.append(f"not how {of} begins: {each}")
        else:
            count = len(each.value) if isinstance(each.value, list) else each.value
            # Behind the last that it found, and before the first that it did not.
            placed.append((count - 0.5, each))
    found += [f"{of} holds what nobody appended: {key}" for key in keys if key not in attempted]
    return found + _out_of_order(placed)


def _out_of_order(placed: Iterable[tuple[float, Operation]]) -> list[str]:
    """Return the operations that ended before another began, and stand behind it."""
    found: list[str] = []
    latest: Operation | None = None
    for _, group in itertools.groupby(sorted(placed, key=itemgetter(0)), itemgetter(0)):
        here = [each for _, each in group]  # readings that found the same may be in any order
        found += [
            f"{each} ended before {latest} began, and stands behind it"
            for each in here
            if latest is not None and each.ended < latest.begun
        ]
        latest = max([*here, *([latest] if latest is not None else [])], key=lambda each: each.begun)
    return found


def _register_faults(of: str, operations: Sequence[Operation]) -> list[str]:
    values: dict[str, list[Operation]] = defaultdict(list)
    sets: dict[str, Operation] = {_key(None): Operation("set", of, None, -math.inf, -math.inf)}
    for each in operations:
        if each.kind == "set":
            if _key(each.value) in sets:
                return [f"{of} was set twice to {each.value!r}, so nothing can be said of it"]
            sets[_key(each.value)] = each
        values[_key(each.value)].append(each)
    reigns: list[tuple[float, float, str]] = []
    moments: list[tuple[float, float, str]] = []
    for key, group in values.items():
        if key not in sets:
            return [f"nobody set this: {group[0]}"]
        begun = sets[key]
        looks = [each for each in group if each.kind == "look"]
        if not looks and begun.ended == math.inf:
            continue  # it failed, and nobody saw it done
        early = [f"seen before it was set: {each}" for each in looks if each.ended < begun.begun]
        if early:
            return early
        first, last = min(each.ended for each in (begun, *looks)), max(each.begun for each in (begun, *looks))
        (reigns if first < last else moments).append((min(first, last), max(first, last), key))
    reigns.sort()
    return [
        f"{of} was {one} and {other} at the same time"
        for (_, end, one), (start, _, other) in itertools.pairwise(reigns)
        if start < end
    ] + [
        f"{of} was {inner} while it was {outer}"
        for inner_start, inner_end, inner in moments
        for start, end, outer in reigns
        if start < inner_start and inner_end < end
    ]


def _key(value: object) -> str:
    return json.dumps(value, sort_keys=True)
