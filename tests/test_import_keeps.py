"""Whatever stands wherever in a document, an import keeps it or names it."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from profiles import some, tried
from test_import_documents import CHAT, MARKED, SOLVED, STEPS, results, trajectory
from test_import_inspect import LOG, sample
from test_import_langfuse import OBSERVATIONS, STUBS, TRACE
from test_import_langsmith import OPERATIONS, RUNS
from test_import_openai_agents import SPANS, WORKFLOW
from test_import_opencode import EXPORT
from test_import_openhands import EVALUATED, EVENTS, STATE, lay_out
from test_import_otlp import DUMP, JAEGER, RUN, document
from traceark.codec.lines import to_record
from traceark.importers.atif import Atif
from traceark.importers.base import ImportCounts, Importer
from traceark.importers.chat import Chat
from traceark.importers.inspect_log import InspectLog
from traceark.importers.langfuse import Langfuse
from traceark.importers.langsmith import LangSmith
from traceark.importers.openai_agents import OpenAIAgents
from traceark.importers.opencode import OpenCode
from traceark.importers.openhands import OpenHands
from traceark.importers.otlp import Otlp
from traceark.importers.swe_agent import SweAgent
from traceark.importers.tau2 import Tau2
from traceark.importers.who_and_when import WhoAndWhen

MARK = "a mark that stands nowhere else"
DOCUMENTS: dict[str, tuple[Importer, Any]] = {
    "atif": (Atif(), trajectory(STEPS, subagent_trajectories=[trajectory(trajectory_id="inner")], notes="n")),
    "atif, several": (Atif(), {"parent": trajectory(STEPS), "child": trajectory(session_id="inner")}),
    "chat": (Chat(), CHAT),
    "inspect": (InspectLog(), {**LOG, "samples": [sample(transcript={"content": {}})]}),
    "langfuse": (Langfuse(), {"trace": {**TRACE, "observations": STUBS}, "observations": OBSERVATIONS, "more": 1}),
    "langfuse, a page": (Langfuse(), {"data": [{**TRACE, "observations": OBSERVATIONS}], "meta": {"page": 1}}),
    "langsmith": (LangSmith(), {"post": RUNS[:2], "patch": OPERATIONS[2:], "more": 1}),
    "openai-agents": (OpenAIAgents(), {"traces": [{**WORKFLOW, "spans": SPANS}], "count": 1}),
    "opencode": (OpenCode(), EXPORT),
    "otlp": (Otlp(), {**document(*RUN), "notes": "n"}),
    "otlp, a dump": (Otlp(), {"session_id": "s", "spans": DUMP}),
    "otlp, Jaeger's": (Otlp(), {"data": [JAEGER], "total": 0}),
    "openhands": (OpenHands(), EVALUATED),
    "openhands, events": (OpenHands(), EVENTS),
    "swe-agent": (SweAgent(), SOLVED),
    "tau2": (Tau2(), results(ticks=[{"tick_id": 0}])),
    "who-and-when": (WhoAndWhen(), MARKED),
}
STRANGE: tuple[Any, ...] = (MARK, [MARK], {"odd": MARK}, {"name": MARK, "type": MARK, "id": MARK}, [[MARK], 5, None])


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside another one."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(each, dict | list):
            yield from places(each, (*path, key))


def changed(document: Any, path: tuple[Any, ...], strange: Any, *, added: bool) -> Any:
    """Return a document with a strange value in the place of another one, or beside it."""
    document = copy.deepcopy(document)
    inside = document
    for key in path[:-1]:
        inside = inside[key]
    if not added:
        inside[path[-1]] = strange
    elif isinstance(inside, list):
        inside.insert(path[-1], strange)
    else:
        inside[f"{path[-1]} too"] = strange
    return document


def kept(importer: Importer, document: Any) -> str:
    """Return all that an import of a document gives, as text, with the mark where it names what it did not take."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "document.json")
        path.write_text(json.dumps(document))
        return told(importer, path)


def told(importer: Importer, path: Path) -> str:
    """Return all that an import of a file gives."""
    counts = ImportCounts()
    sources = list(importer.read(path, counts))
    given: list[Any] = [MARK for problem in counts.problems if "taken" in problem.reason]
    for source in sources:
        given += [to_record(source.trace), *map(to_record, source.messages), *(each.payload for each in source.events)]
        given.append(source.torn_tail)  # which the header keeps
    return json.dumps(given)


@pytest.mark.parametrize("name", some(DOCUMENTS, 6))
def test_a_strange_value_is_kept_wherever_it_stands(name: str) -> None:
    importer, document = DOCUMENTS[name]
    every = list(places(document))

    @settings(max_examples=tried(60, 300, 3000))
    @given(st.sampled_from(every), st.sampled_from(STRANGE), st.booleans())
    @example(every[0], STRANGE[0], False)
    def check(path: tuple[Any, ...], strange: Any, added: bool) -> None:
        assert MARK in kept(importer, changed(document, path, strange, added=added)), path

    check()


PARTS: dict[str, Any] = {"state": STATE, "events": EVENTS}


@settings(max_examples=tried(60, 300, 3000))
@given(
    st.sampled_from([(part, place) for part in PARTS for place in places(PARTS[part])]),
    st.sampled_from(STRANGE),
    st.booleans(),
)
@example(("state", ("stats",)), STRANGE[0], False)
def test_a_strange_value_is_kept_wherever_it_stands_in_a_directory(
    place: tuple[str, tuple[Any, ...]], strange: Any, added: bool
) -> None:
    part, inside = place
    parts = {**PARTS, part: changed(PARTS[part], inside, strange, added=added)}
    with TemporaryDirectory() as folder:
        conversation = lay_out(Path(folder), parts["events"], parts["state"])
        assert MARK in told(OpenHands(), conversation / "events" / "event-00006-e6.json")


def test_the_test_sees_what_is_lost() -> None:
    importer, document = DOCUMENTS["tau2"]
    assert MARK not in kept(importer, document)
