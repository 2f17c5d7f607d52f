"""Sub-agents of OpenHands: which conversation started which (``openhands.tools.task``, ``openhands.tools.delegate``).

A sub-agent's conversation lies below its parent's, in ``subagents/``, and its state says so too. The
parent tells a prompt, and no id; so the goal of a sub-agent is found by its prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath, PureWindowsPath

from traceark.importers.jsonl import whole_value
from traceark.importers.openhands_files import Folder, conversation_in, id_of_name, read_event
from traceark.importers.openhands_trace import text_of
from traceark.models import Json

_SUBAGENTS = "subagents"


def parent_of(folder: Folder, state: Mapping[str, Json] | None) -> str | None:
    """Return the id of the conversation that started one, by where it keeps or kept its files."""
    told = state.get("persistence_dir") if state is not None else None
    kept = told if isinstance(told, str) else ""
    places = [PureWindowsPath(kept) if "\\" in kept else PurePosixPath(kept)]
    if folder.is_conversation:
        places.append(PurePosixPath(folder.place.resolve().as_posix()))
    for place in places:
        if place.parent.name == _SUBAGENTS and (parent := id_of_name(place.parent.parent.name)) is not None:
            return parent
    return None


def children_of(folder: Folder) -> Iterator[tuple[str, str]]:
    """Yield the ids and first prompts of the conversations below one, the earliest first."""
    if not folder.is_conversation:
        return
    place, found = folder.place / _SUBAGENTS, []
    for each in place.iterdir() if place.is_dir() else ():
        child = conversation_in(each)
        asked = _first_prompt(child) if child is not None else None
        child_id = _id_of(child) if child is not None else None
        if asked is not None and child_id is not None:
            found.append((asked[1], child_id, asked[0]))
    yield from ((child_id, prompt) for _, child_id, prompt in sorted(found))


def _id_of(child: Folder) -> str | None:
    for path in child.states:
        state = whole_value(path.read_bytes()).value
        if isinstance(state, dict) and isinstance(state.get("id"), str):
            return str(state["id"])
    return child.conversation_id


def _first_prompt(child: Folder) -> tuple[str, str] | None:
    """Return the text of the first message to a sub-agent, and when it was sent."""
    for path in child.events:
        event = read_event(path).event
        if event is not None and event.get("kind") == "MessageEvent" and event.get("source") == "user":
            told = event.get("llm_message")
            return text_of(told.get("content") if isinstance(told, dict) else None), str(event.get("timestamp"))
    return None
