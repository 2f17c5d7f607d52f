"""Messages like those of coding agents, made from a seed: the same on every machine, of any number.

A run goes in rounds: the assistant says something and calls a tool, the tool answers with source
code, a listing, a test's output or a diff. Words are drawn from a skewed vocabulary, and what was
shown once is shown again, as agents read a file twice, so that it compresses like real runs.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache

from traceark.models import Json, JsonObject, Message, Usage

_BEGINNING = datetime(2026, 1, 2, 9, 30, tzinfo=UTC)
_SYLLABLES = re.findall(
    r"\w+",
    "ab ac al an ar at ba be ca ce co con cre da de den di do el en er ex fa fi fo ga ge gra ha he hi im in ing ion "
    "is it ive ja ka ke la le li lo ma me ment mi mo na ne ni no nu of on or ou pa pe per pi po pre pro qua ra re "
    "ri ro sa se si so sta ste su ta te ter ti tion to tra tu ty un ur us va ve ver vi vo wa we wi wo ya ze",
)
_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz0123456789"
_TOOLS = ("Bash", "Read", "Edit", "Grep", "Glob", "Write", "WebFetch")
_TOOL_WEIGHTS = (30, 28, 16, 12, 6, 5, 3)
# Lines of a tool's result: most are short, a few are whole files.
_MEDIAN_LINES = 24
_MOST_LINES = 400


class _Writer:
    """Draws text of several kinds from one random source."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._shown: list[list[str]] = []

    def word(self) -> str:
        """Return a word; the frequent ones come often."""
        words = _vocabulary()
        # Zipf's law: as many draws among the words 1 to 10 as among 10 to 100.
        return words[int(len(words) ** self.random.random()) - 1]

    def name(self) -> str:
        """Return an identifier."""
        return "_".join(self.word() for _ in range(self.random.choice((1, 2, 2, 3))))

    def path(self) -> str:
        """Return a source file's path."""
        return f"src/{self.word()}/{self.word()}/{self.name()}.py"

    def sentence(self) -> str:
        """Return a sentence that names a thing or two."""
        words = [self.word() for _ in range(self.random.randint(5, 22))]
        if self.random.random() < 0.4:
            words[self.random.randrange(len(words))] = f"`{self.name()}`"
        return " ".join(words).capitalize() + "."

    def prose(self, most: int) -> str:
        """Return some sentences."""
        return " ".join(self.sentence() for _ in range(self.random.randint(1, most)))

    def code_line(self) -> str:
        """Return one line that looks like Python."""
        indent = "    " * self.random.choice((0, 1, 1, 2, 2, 3))
        kind = self.random.randrange(8)
        if kind == 0:
            kind_of = self.random.choice(("int", "str", "Path"))
            return f"{indent}def {self.name()}(self, {self.name()}: {kind_of}) -> None:"
        if kind == 1:
            return f"{indent}if {self.name()} is not None and {self.name()} > {self.random.randint(0, 4096)}:"
        if kind == 2:
            return f"{indent}return self.{self.name()}({self.name()}, {self.name()})"
        if kind == 3:
            return f'{indent}raise ValueError(f"{self.sentence()}")'
        if kind == 4:
            return f"{indent}# {self.sentence()}"
        if kind == 5:
            return ""
        return f"{indent}self.{self.name()} = {self.word()}.{self.name()}({self.random.randint(0, 99)})"

    def lines(self) -> list[str]:
        """Return lines of code: new ones, or a stretch of those that were shown before."""
        count = min(max(int(self.random.lognormvariate(0, 1.1) * _MEDIAN_LINES), 1), _MOST_LINES)
        if self._shown and self.random.random() < 0.3:
            shown = self.random.choice(self._shown[-40:])
            start = self.random.randrange(len(shown))
            return shown[start : start + count]
        made = [self.code_line() for _ in range(count)]
        self._shown.append(made)
        return made

    @staticmethod
    def numbered(lines: list[str], first: int) -> str:
        """Return lines with their numbers, as `cat -n` shows them."""
        return "\n".join(f"{number:>6}→{line}" for number, line in enumerate(lines, first))

    def result(self, tool: str) -> str:
        """Return what a tool answers."""
        if tool == "Read":
            return self.numbered(self.lines(), self.random.randint(1, 900))
        if tool in ("Grep", "Glob"):
            hits = range(self.random.randint(1, 25))
            return "\n".join(f"{self.path()}:{self.random.randint(1, 900)}:{self.code_line()}" for _ in hits)
        if tool == "Edit":
            shown = self.numbered(self.lines()[:12], 40)
            return f"The file {self.path()} has been updated. Here's the result of running `cat -n`:\n{shown}"
        if tool == "Bash" and self.random.random() < 0.4:
            steps = range(0, 100, self.random.randint(5, 40))
            tests = [f"{self.path()}::test_{self.name()} PASSED [{percent:>3}%]" for percent in steps]
            return "\n".join([*tests, f"===== {len(tests)} passed in {self.random.random() * 30:.2f}s ====="])
        return "\n".join(self.lines())

    def arguments(self, tool: str) -> JsonObject:
        """Return what a tool is called with."""
        if tool == "Bash":
            return {"command": f"cd {self.word()} && python -m pytest {self.path()} -k {self.name()} 2>&1 | tail -20"}
        if tool == "Edit":
            return {
                "file_path": self.path(),
                "old_string": "\n".join(self.lines()[:6]),
                "new_string": "\n".join(self.lines()[:8]),
            }
        if tool == "Write":
            return {"file_path": self.path(), "content": "\n".join(self.lines())}
        if tool in ("Grep", "Glob"):
            return {"pattern": self.name(), "path": f"src/{self.word()}"}
        return {"file_path": self.path()}

    def token(self, prefix: str) -> str:
        """Return an id as providers make them."""
        return prefix + "".join(self.random.choices(_ALPHABET, k=22))


@cache
def _vocabulary() -> tuple[str, ...]:
    source = random.Random(7)
    words = {"".join(source.choices(_SYLLABLES, k=source.choice((1, 2, 2, 3, 3, 4)))) for _ in range(4000)}
    # In the order of the alphabet first: a set's own order differs from process to process.
    return tuple(sorted(sorted(words), key=lambda word: (source.random() * len(word), word)))


def messages(trace_id: str, count: int, seed: int = 0) -> Iterator[Message]:
    """Return a run's messages, with ids, sequences and times given, so that all contestants write the same.

    Parameters
    ----------
    trace_id : str
        The trace of all of them.
    count : int
        How many.
    seed : int
        Another seed gives another run.
    """
    write = _Writer(seed)
    source = write.random
    now = _BEGINNING + timedelta(days=seed)
    cached = 12_000
    pending: tuple[str, str] | None = None
    for sequence in range(1, count + 1):
        now += timedelta(microseconds=source.randint(200_000, 20_000_000))
        message_id = f"{trace_id}-{sequence:04d}"
        goal_id = str(sequence // 40 + 1)
        if pending is not None:
            tool, call_id = pending
            pending = None
            yield Message(
                message_id=message_id,
                trace_id=trace_id,
                role="tool",
                sequence=sequence,
                goal_id=goal_id,
                tool_call_id=call_id,
                tool_name=tool,
                content=write.result(tool),
                duration_ms=source.randint(3, 9000),
                status="error" if source.random() < 0.05 else None,
                created_at=now,
            )
            continue
        if sequence == 1 or source.random() < 0.03:
            yield Message(
                message_id=message_id,
                trace_id=trace_id,
                role="user",
                sequence=sequence,
                content=write.prose(6),
                created_at=now,
            )
            continue
        content: dict[str, Json] = {"text": write.prose(3 if source.random() < 0.8 else 20)}
        if source.random() < 0.85:
            tool = source.choices(_TOOLS, _TOOL_WEIGHTS)[0]
            pending = (tool, write.token("toolu_01"))
            content["tool_calls"] = [{"id": pending[1], "name": tool, "input": write.arguments(tool)}]
        written = source.randint(200, 4000)
        cached += written
        yield Message(
            message_id=message_id,
            trace_id=trace_id,
            role="assistant",
            sequence=sequence,
            goal_id=goal_id,
            content=content,
            usage=Usage(
                input_tokens=source.randint(1, 12),
                output_tokens=source.randint(20, 1500),
                cache_read_tokens=cached,
                cache_write_tokens=written,
            ),
            cost=round(cached * 3e-7 + written * 3.75e-6, 6),
            duration_ms=source.randint(900, 30_000),
            created_at=now,
        )
