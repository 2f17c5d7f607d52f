"""A run in Markdown, for people: header, goals, messages; calls, reasoning and long outputs folded.

What the messages say is shown as Markdown within quotes, and can neither end them nor bring HTML,
images or scripts of its own: code is code, and outside of it what could begin a tag is escaped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from traceark.exporters.base import Run
from traceark.exporters.content import Part, parts_of
from traceark.exporters.telling import (
    about_goal,
    agent_of,
    arguments_of,
    child_of,
    facts_of,
    is_mistake,
    says,
    sign_of,
    size_of,
    spent_of,
    time_of,
    tool_of,
)
from traceark.models import Goal, GoalTree, Message, Trace
from traceark.showing import one_line, visible

# Where one that is indented ends cannot be told without knowing its list; all behind it is escaped.
_INDENTED = re.compile(r" +(`{3}|~{3})")
# Behind the mark of a quote a tab is not as wide as it seems.
_INDENT = re.compile(r"[ \t]+")
_OPENING, _CLOSING = re.compile(r"`{3,}(?=[^`]*$)|~{3,}"), re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*")
_BACKTICKS = re.compile("`+")
# What may begin a tag, a comment or an address in brackets; and an image.
_TAG = re.compile(r"<(?=[A-Za-z/!?])|&(?=#|\w)")
_IMAGE = re.compile(r"!\[")
# What makes a script of a link's address, where a viewer lets it.
_SCRIPT = re.compile(r"(?i)(java|vb)(?=script\\?:\S)")
# An output of so many lines and characters is not folded.
_LINES, _CHARS = 8, 800


class Markdown:
    """Writes a page.

    Examples
    --------
    >>> told = Run(Trace(trace_id="run-7"), [Message(trace_id="run-7", role="user", content="Say <hi>")])
    >>> print(b"".join(Markdown().export(told, Counter())).decode().partition("## Messages")[2])
    <BLANKLINE>
    <BLANKLINE>
    **1 · user**
    <BLANKLINE>
    > Say &lt;hi>
    <BLANKLINE>
    """

    name = "markdown"
    suffix = ".md"
    joins = False

    def export(self, run: Run, left_out: Counter[str]) -> Iterator[bytes]:
        """Yield the page."""
        left_out["events"] += len(run.events)
        for block in _blocks(run):
            # Only where text holds a lone surrogate, which `visible` shows, could it not be encoded.
            yield f"{block}\n\n".encode()


def _blocks(run: Run) -> Iterator[str]:
    trace = run.trace
    yield f"# {_inline(one_line(trace.task or trace.trace_id, 120))}"
    yield f"`{_plain(trace.trace_id)}` · **{trace.status}**"
    facts = [f"- {name}: {_inline(one_line(text, 2000))}" for name, text in facts_of(trace)]
    if facts:
        yield "\n".join(facts)
    if run.goals is not None and run.goals.goals:
        yield "## Goals"
        yield "\n".join(_goals(run.goals, run))
    yield "## Messages"
    for number, message in enumerate(run.messages, start=1):
        yield _heading(message, trace, number)
        parts = parts_of(message)
        yield from filter(None, map(_piece, parts))
        if message.error and not any(says(part, message.error) for part in parts):
            yield f"*error:* {_inline(one_line(message.error, 2000))}"


def _goals(tree: GoalTree, run: Run) -> Iterator[str]:
    for depth, goal in tree.walk():
        indent = "  " * depth
        yield f"{indent}- {_goal(goal, tree)}"
        for child_id in goal.sub_trace_ids:
            child = run.children.get(child_id)
            told = " · ".join(child_of(child)) if child is not None else "not in this archive"
            yield f"{indent}  - ↳ `{_plain(child_id)}` {told}"


def _goal(goal: Goal, tree: GoalTree) -> str:
    told = _inline(" · ".join(about_goal(goal, tree)))
    return f"{sign_of(goal)} {_inline(one_line(goal.description or goal.id, 500))} ({told})"


def _heading(message: Message, trace: Trace, number: int) -> str:
    told = [
        str(message.sequence or number),
        message.role,
        agent_of(message),
        "mistake" if is_mistake(message) else "",
        tool_of(message),
        time_of(message, trace),
        *spent_of(message),
    ]
    if message.goal_id:
        told.append(f"goal {message.goal_id}")
    if message.status:
        told.append(message.status)
    return f"**{_inline(one_line(' · '.join(filter(None, told)), 400))}**"


def _piece(part: Part) -> str:
    if part.kind == "text":
        return _quoted(part.text)
    if part.kind == "thinking":
        return _folded("reasoning", _quoted(part.text)) if part.text.strip() else ""
    if part.kind == "call":
        text = arguments_of(part, full=True)
        told = one_line(f"→ {part.name} {arguments_of(part, full=False)}", 160)
        return _folded(told, _fenced(text)) if text.strip() else _inline(told)
    if part.kind == "attachment":
        return _inline(one_line(part.text))
    text = part.text.strip("\n")
    if not text.strip():
        return "*nothing*"
    lines = text.count("\n") + 1
    if lines <= _LINES and len(text) <= _CHARS:
        return _fenced(text)
    return _folded(f"← {size_of(text)}: {one_line(text, 100)}", _fenced(text))


def _quoted(text: str) -> str:
    """Return text as a quote, whose code is left as it is."""
    lines: list[str] = []
    fence, sure = "", True
    for line in visible(text).strip("\n").split("\n"):
        line = _INDENT.sub(lambda found: found[0].expandtabs(4), line, count=1) if line[:1] in " \t" else line
        if fence:
            ends = _CLOSING.fullmatch(line)
            fence = "" if ends is not None and ends[1].startswith(fence) else fence
        elif sure and (opens := _OPENING.match(line)) is not None:
            fence = opens[0]
        else:
            sure = sure and _INDENTED.match(line) is None
            line = _escaped(line)
        lines.append(f"> {line}".rstrip())
    return "\n".join(lines)


def _escaped(text: str) -> str:
    text = _TAG.sub(lambda found: "&lt;" if found[0] == "<" else "&amp;", text)
    return _SCRIPT.sub(r"\1\\", _IMAGE.sub(r"!\\[", text))


def _inline(text: str) -> str:
    """Return a text on one line in which nothing is Markdown."""
    return re.sub(r"([\\`*_\[\]#|~])", r"\\\1", _escaped(visible(text)))


def _plain(text: str) -> str:
    return visible(text).replace("`", "'").replace("\n", " ")


def _fenced(text: str) -> str:
    """Return a text as code, whatever it says."""
    longest = max((len(found) for found in _BACKTICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{visible(text).strip(chr(10))}\n{fence}"


def _folded(summary: str, body: str) -> str:
    told = visible(summary).replace("&", "&amp;").replace("<", "&lt;")
    return f"<details><summary>{told}</summary>\n\n{body}\n\n</details>"
