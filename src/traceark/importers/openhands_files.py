"""How OpenHands keeps runs on disk: which files are of one source, and what they hold.

A conversation is a directory: `base_state.json`, perhaps `meta.json`, and `events/` with a file for
each event, numbered from 0. Collections put the files of several conversations into one folder.
This module reads files and knows how to tell an event and a state; it knows nothing of traces.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from traceark.importers.base import ImportCounts, Problem
from traceark.importers.document import INEXACT, broken
from traceark.importers.jsonl import Whole, beginning_of, head_rows, rows_of, whole_value
from traceark.importers.torn import Place
from traceark.models import Json, JsonObject

Shape = Literal["event", "state", "document"]

STATE, _META = "base_state.json", "meta.json"
# The SDK's names, and those of older versions, which have `0.json`.
_EVENT_NAME = re.compile(r"event-(\d+)-.*\.json")
_OLD_EVENT_NAME = re.compile(r"(\d+)\.json")
# Older versions keep pages of events a second time.
_CACHE = "event_cache"
_HEAD_BYTES = 65_536
# What a file that is worth parsing has near its beginning.
_MARKS = (
    re.compile(rb'"source"\s*:'),
    re.compile(rb'"agent"\s*:\s*\{'),
    re.compile(rb'"(history|trajectory|events|items|instance_id)"\s*:'),
)
# The lists of events that documents have: results of an evaluation, exports, answers of a server.
# Where more follows the events, it tells the run's id; where nothing does, its first event does.
_RECORDS: tuple[Place, ...] = ((),)
LISTS = ("history", "trajectory", "events", "items")
_SPEAKERS = frozenset({"agent", "user", "environment"})


@dataclass(frozen=True, slots=True)
class EventFile:
    """A file that is named as an event: its number, and the event, or why it holds none, and on which line."""

    path: Path
    number: int
    event: JsonObject | None
    text: str
    reason: str = ""
    exact: bool = True
    line: int = 0


@dataclass(slots=True)
class Folder:
    """What is on disk of one or several conversations.

    Attributes
    ----------
    events : list of Path
        In the order of their numbers.
    states : list of Path
    meta : Path, optional
    repeats : list of Path
        Files that say the same again.
    is_conversation : bool
        Whether the directory is laid out as one conversation's; all its events are of it, then.
    conversation_id : str, optional
        The id that the conversation's directory is named with.
    place : Path
        The conversation's directory.
    """

    events: list[Path] = field(default_factory=list)
    states: list[Path] = field(default_factory=list)
    meta: Path | None = None
    repeats: list[Path] = field(default_factory=list)
    is_conversation: bool = False
    conversation_id: str | None = None
    place: Path = Path()

    def files(self) -> list[Path]:
        """Return all of them."""
        return [*self.states, *([self.meta] if self.meta is not None else []), *self.events, *self.repeats]


def is_event(value: Json) -> bool:
    """Say whether a value is an event, of the SDK or of an older version.

    Examples
    --------
    >>> is_event({"id": "e", "timestamp": "2026-01-02T03:04:05", "source": "user", "kind": "MessageEvent"})
    True
    >>> is_event({"id": 0, "source": "user", "action": "message", "args": {"content": "hi"}})
    True
    >>> is_event({"action": "ls", "observation": "a.py"})
    False
    """
    if not isinstance(value, dict) or not isinstance(value.get("source"), str):
        return False
    if isinstance(value.get("kind"), str):
        return isinstance(value.get("id"), str) and "timestamp" in value
    told = [isinstance(value.get(name), str) for name in ("action", "observation")]
    return sum(told) == 1 and value["source"] in _SPEAKERS and bool(value.keys() & {"args", "extras", "id"})


def is_state(value: Json) -> bool:
    """Say whether a value is the state of a conversation."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("id"), str)
        and isinstance(value.get("agent"), dict)
        and bool(value.keys() & {"execution_status", "agent_status"})
    )


def list_of(value: Mapping[str, Json]) -> str | None:
    """Return the name of the list of events that a document has, None where it has none."""
    return next((name for name in LISTS if _is_events(value.get(name))), None)


def shape_of(path: Path) -> Shape | None:
    """Say what a file holds; None where it is nothing of OpenHands."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head.startswith((b"{", b"[")) or not any(mark.search(head) for mark in _MARKS):
        return None
    first = next(head_rows(path), None) if head.startswith(b"{") else None
    value: Json = first.value if first is not None else None
    if value is None:
        data = path.read_bytes()
        whole = whole_value(data)
        value = whole.value if not whole.reason else beginning_of(data)
    elif is_event(value) and not _is_numbered(path) and _has_more_rows(path):
        return "document"
    if is_event(value):
        return "event"
    if is_state(value):
        return "state"
    return "document" if _is_events(value) or (isinstance(value, dict) and list_of(value)) else None


def folder_of(path: Path) -> Folder:
    """Return what belongs together with a file that holds an event or a state."""
    folder = path.parent
    inside = {"events": folder, _CACHE: _up(folder) / "events"}
    found = _conversation(inside.get(_name(folder), folder / "events"))
    if found is not None and path in found.files():
        return found
    # Not laid out as a conversation: whatever else lies in the same folder.
    loose = Folder(events=_numbered(folder), states=_states(folder))
    if path not in loose.files():
        return Folder(events=[path]) if shape_of(path) == "event" else Folder(states=[path])
    return loose


def conversation_in(place: Path) -> Folder | None:
    """Return the conversation that a directory is; None where it is none."""
    found = _conversation(place / "events")
    return found if found is not None and found.is_conversation else None


def is_page(path: Path) -> bool:
    """Say whether a file is a copy of events that lie beside it."""
    return _name(path.parent) == _CACHE and _conversation(_up(path.parent) / "events") is not None


def read_event(path: Path) -> EventFile:
    """Read a file that is named as an event."""
    data = path.read_bytes()
    whole: Whole = whole_value(data)
    text = data.decode("utf-8", "surrogateescape")
    number = number_of(path)
    if isinstance(whole.value, dict) and is_event(whole.value):
        return EventFile(path, number, whole.value, text, exact=whole.exact)
    return EventFile(path, number, None, text, whole.reason or "JSON, but no event", line=whole.line)


def read_documents(path: Path, counts: ImportCounts) -> list[Json]:
    """Return the documents in a file, one or one a line; what is none is named."""
    data = path.read_bytes()
    whole = whole_value(data)
    if not whole.reason:
        if not whole.exact:
            counts.problems.append(Problem(str(path), 0, INEXACT))
        return [whole.value]
    rows = list(rows_of(data))
    if not rows or rows[0].value is None:
        whole = broken(data, whole, _RECORDS, path, counts)
        return [whole.value] if whole.value is not None else []
    for row in rows:
        if row.value is None:
            counts.problems.append(Problem(str(path), row.line, f"{row.reason}; it was not taken"))
        elif not row.exact:
            counts.problems.append(Problem(str(path), row.line, INEXACT))
    return [row.value for row in rows if row.value is not None]


def number_of(path: Path) -> int:
    """Return the number that a file is named with; 0 where it has none."""
    match = _EVENT_NAME.fullmatch(path.name) or _OLD_EVENT_NAME.fullmatch(path.name)
    return int(match[1]) if match else 0


def _is_events(value: Json) -> bool:
    """Say whether a value is a list of events; the oldest versions have pairs of an action and its observation."""
    if not isinstance(value, list):
        return False
    first = next((each for each in value[:3] if is_event(each) or (isinstance(each, list) and each)), None)
    return is_event(first[0]) if isinstance(first, list) else first is not None


def _has_more_rows(path: Path) -> bool:
    return sum(1 for _ in zip(range(2), head_rows(path), strict=False)) == 2


def _is_numbered(path: Path) -> bool:
    return bool(_EVENT_NAME.fullmatch(path.name) or _OLD_EVENT_NAME.fullmatch(path.name))


def _conversation(events: Path) -> Folder | None:
    """Return the conversation whose events are in a directory; None where it is none's."""
    if not events.is_dir():
        return None
    parent = _up(events)
    found = Folder(events=_numbered(events), is_conversation=True, place=parent)
    if not found.events:
        return None
    beside = _files(parent)
    found.states = [path for path in beside if path.name == STATE]
    found.meta = next((path for path in beside if path.name == _META), None)
    found.repeats = _files(parent / _CACHE)
    found.conversation_id = id_of_name(_name(parent))
    # Without a state and without a name it is a folder like any other.
    found.is_conversation = bool(found.states) or found.conversation_id is not None
    return found


def _states(folder: Path) -> list[Path]:
    """Return the states in a folder but that of a conversation that is laid out as one."""
    found = [path for path in _files(folder) if path.name.endswith(STATE) and shape_of(path) == "state"]
    return [path for path in found if path.name != STATE or not _numbered(folder / "events")]


def _numbered(folder: Path) -> list[Path]:
    """Return the files that are named as events, in order; those of the SDK where it has any."""
    found = _files(folder)
    for pattern in (_EVENT_NAME, _OLD_EVENT_NAME):
        named = [path for path in found if pattern.fullmatch(path.name)]
        if any(shape_of(path) == "event" for path in named):
            return sorted(named, key=lambda path: (number_of(path), path.name))
    return []


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir() or folder.is_symlink():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())


def _up(folder: Path) -> Path:
    """Return the directory above one, in the same words where that is possible."""
    return folder.parent if folder.name not in ("", "..") else folder / ".."


def _name(folder: Path) -> str:
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def id_of_name(text: str) -> str | None:
    """Return the id that a conversation's directory is named with."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None
