"""A run as one page, for people: header, goals, messages; calls, reasoning and long outputs folded.

The page needs nothing beside it and no script, and it can reach nothing: all that a run says is
escaped, control characters and marks that reorder text are shown, and the page's own policy forbids
whatever it would load.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from html import escape
from importlib.resources import files

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
from traceark.exporters.turns import role_of
from traceark.layout import trace_key
from traceark.models import Goal, GoalTree, Message
from traceark.showing import count_of, one_line, time_text, visible

# The statuses that have a colour.
_COLOURED = frozenset({"completed", "failed", "cancelled", "in_progress", "running"})
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
# An output of so many lines and characters is not folded, nor the beginning of a long text.
_LINES, _CHARS = 12, 1500
_TEXT_LINES, _FEW_LINES, _TEXT_CHARS = 60, 6, 6000


class Html:
    """Writes a page.

    Examples
    --------
    >>> from traceark.models import Trace
    >>> told = Run(Trace(trace_id="t"), [Message(trace_id="t", role="user", content="<script>")])
    >>> page = b"".join(Html().export(told, Counter())).decode()
    >>> "<script>" in page, "&lt;script&gt;" in page
    (False, True)
    """

    name = "html"
    suffix = ".html"
    joins = False

    def export(self, run: Run, left_out: Counter[str]) -> Iterator[bytes]:
        """Yield the page."""
        left_out["events"] += len(run.events)
        for piece in _page(run):
            yield piece.encode()


def _page(run: Run) -> Iterator[str]:
    trace = run.trace
    title = _text(one_line(trace.task or trace.trace_id, 300))
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>\n"
    )
    yield f'<div><span class="status {trace.status}">{trace.status}</span>'
    yield f'<code class="id">{_text(trace.trace_id)}</code></div>\n<dl>\n'
    for name, text in facts_of(trace):
        # A short task is the heading.
        if name != "task" or len(text) > 300:
            kind = ' class="error"' if name == "error" else ""
            yield f"<dt>{name}</dt><dd{kind}>{_text(text)}</dd>\n"
    yield "</dl>\n"
    if run.goals is not None and run.goals.goals:
        mission = f" <small>{_text(one_line(run.goals.mission, 200))}</small>" if _adds(run) else ""
        yield f"<h2>Goals{mission}</h2>\n"
        yield from _goals(run.goals, run)
    yield f"</header>\n<main>\n<h2>Messages <small>{count_of(len(run.messages), 'message')}</small></h2>\n"
    for number, message in enumerate(run.messages, start=1):
        yield from _message(message, run, number)
    told = f"{count_of(len(run.events), 'event')} of this run are not shown. " if run.events else ""
    yield f"</main>\n<footer>{told}Written by traceark; times are UTC.</footer>\n</body>\n</html>\n"


def _adds(run: Run) -> bool:
    return run.goals is not None and bool(run.goals.mission) and run.goals.mission != run.trace.task


@cache
def _style() -> str:
    return (files("traceark.exporters") / "page.css").read_text()


def _goals(tree: GoalTree, run: Run) -> Iterator[str]:
    """Yield the goals as lists in each other, each linked to the first of its messages."""
    first: dict[str, int] = {}
    for number, message in enumerate(run.messages, start=1):
        if message.goal_id is not None:
            first.setdefault(message.goal_id, number)
    open_lists = 0
    for depth, goal in tree.walk():
        if depth >= open_lists:
            yield '<ul class="goals">\n'
            open_lists += 1
        else:
            yield "</li>\n" + "</ul>\n</li>\n" * (open_lists - depth - 1)
            open_lists = depth + 1
        yield f"<li>{_goal(goal, tree, first.get(goal.id))}"
        for child_id in goal.sub_trace_ids:
            yield _child(child_id, run)
    yield "</li>\n</ul>\n" * open_lists


def _goal(goal: Goal, tree: GoalTree, first: int | None) -> str:
    sign = f'<span class="sign {_word(goal.status)}">{sign_of(goal)}</span>'
    name = _text(one_line(goal.description or goal.id, 500))
    linked = f'<a href="#m{first}">{name}</a>' if first is not None else name
    took = f'<span class="took">{_text(" · ".join(about_goal(goal, tree)))}</span>'
    notes = "".join(_note(note) for note in (goal.reason, goal.summary) if note)
    return f'<div class="goal">{sign}<span class="name">{linked}</span>{took}</div>{notes}'


def _note(text: str) -> str:
    """Return a note as one line, whole where a pointer rests on it."""
    return f'<span class="note" title="{_text(text)}">{_text(one_line(text, 300))}</span>'


def _child(child_id: str, run: Run) -> str:
    child = run.children.get(child_id)
    if child is None:
        return f'<span class="note">↳ {_text(child_id)} · not in this archive</span>'
    # Exported into the same directory, it is there under this name.
    name = f'<a href="{escape(_address(child_id))}">{_text(child_id)}</a>'
    return f'<span class="note">↳ {name} · {_text(" · ".join(child_of(child)))}</span>'


def _address(trace_id: str) -> str:
    return f"./{trace_key(trace_id).replace('%', '%25')}{Html.suffix}"


def _message(message: Message, run: Run, number: int) -> Iterator[str]:
    place, role = message.sequence or number, role_of(message)
    yield f'<article class="{role}" id="m{number}">\n<h3><a class="number" href="#m{number}">{place}</a>'
    yield f"<b>{_text(one_line(message.role, 60))}</b>"
    if agent := agent_of(message):
        yield f"<span>{_text(one_line(agent, 80))}</span>"
    if is_mistake(message):
        yield '<span class="failed">mistake</span>'
    if tool := tool_of(message):
        yield f"<span>{_text(one_line(tool, 80))}</span>"
    if moment := time_of(message, run.trace):
        yield f'<time title="{_text(time_text(message.created_at, seconds=True))}">{moment}</time>'
    if message.goal_id and run.goals is not None and (goal := run.goals.goal(message.goal_id)) is not None:
        yield f"<span>{_text(one_line(goal.description or goal.id, 60))}</span>"
    if message.status:
        yield f'<span class="{_word(message.status)}">{_text(one_line(message.status, 40))}</span>'
    if spent := spent_of(message):
        yield f'<span class="spent">{_text(" · ".join(spent))}</span>'
    yield "</h3>\n"
    parts = parts_of(message)
    if not any(part.text.strip() or part.kind == "call" for part in parts):
        untold = "reasoning that was not told" if any(part.kind == "thinking" for part in parts) else "nothing"
        yield f'<p class="nothing">{_text(message.description or untold)}</p>\n'
    for part in parts:
        # Instructions are long, and not what one opens a run for.
        yield _piece(part, _FEW_LINES if role == "system" else _TEXT_LINES)
    if message.error and not any(says(part, message.error) for part in parts):
        yield f'<div class="text error">{_text(message.error)}</div>\n'
    yield "</article>\n"


def _piece(part: Part, most_lines: int) -> str:
    if part.kind == "call":
        told = f"<b>{_text(one_line(part.name or '', 80))}</b> "
        told += f'<span class="what">{_text(one_line(arguments_of(part, full=False), 200))}</span>'
        text = arguments_of(part, full=True)
        return _folded(told, text) if text.strip() else f'<div class="text">{told}</div>\n'
    text = part.text.strip("\r\n")
    if not text.strip():
        return ""
    if part.kind == "thinking":
        return _folded(f'<span class="what">reasoning · {size_of(text)}</span>', text, "thinking")
    if part.kind == "text":
        return _long_text(text, most_lines)
    return _long_output(text)


def _long_text(text: str, most_lines: int) -> str:
    head, rest = _cut(text, most_lines, _TEXT_CHARS)
    shown = f'<div class="text">{_text(head)}</div>\n'
    return shown + (_folded(f'<span class="what">… {size_of(rest)} more</span>', rest, "text") if rest else "")


def _long_output(text: str) -> str:
    _, rest = _cut(text, _LINES, _CHARS)
    if not rest:
        return f"<pre>{_text(text)}</pre>\n"
    return _folded(f'<span class="what">{size_of(text)}: {_text(one_line(text, 120))}</span>', text)


def _cut(text: str, lines: int, chars: int) -> tuple[str, str]:
    """Return the beginning of a text and its rest, parted at the end of a line where there is one."""
    head = "\n".join(text[: chars + 1].split("\n")[: lines + 1])
    if len(head) <= chars and head.count("\n") < lines:
        return text, ""
    end = len("\n".join(text[:chars].split("\n")[:lines]))
    return text[:end], text[end:].removeprefix("\n")


def _folded(summary: str, body: str, kind: str = "") -> str:
    inner = f'<div class="text {kind}">{_text(body)}</div>' if kind else f"<pre>{_text(body)}</pre>"
    return f"<details><summary>{summary}</summary>{inner}</details>\n"


def _text(text: str) -> str:
    return escape(visible(text))


def _word(status: str) -> str:
    """Return a status as a class, if it is one that has a colour."""
    return status if status in _COLOURED else ""
