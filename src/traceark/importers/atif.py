"""ATIF, Harbor's Agent Trajectory Interchange Format: one JSON document per trajectory, versions 1.2 to 1.7.

The format is told by ``schema_version`` (https://www.harborframework.com/docs/trajectory-format). A
step is one message, its calls of tools blocks of it; each result of an observation is a message of
the role ``tool``. Everything of the document but its steps is in the trace's metadata, under ``atif``;
the agent, whose definitions of tools may be long, is an event ``atif.agent``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast, get_args

from traceark.importers.base import ImportCounts, Problem, SourceTrace
from traceark.importers.document import DocumentTrace, document_of, head_of, object_of, objects_of, with_calls, without
from traceark.importers.torn import Place
from traceark.importers.typed import Typed
from traceark.importers.usage import spend_in_all
from traceark.models import Json, JsonObject, Trace, TraceStatus, Usage

_VERSION = re.compile(rb'"schema_version"\s*:\s*"ATIF-')
# What traceark's own export tells of a header, be it null, beside status and mode.
_HEADER = ("task", "agent_type", "uid", "parent_trace_id", "parent_goal_id", "result_summary", "error_message")
_RECORDS: tuple[Place, ...] = (("steps",),)
# These versions have no other id.
_BY_SESSION = re.compile(r"ATIF-v1\.[0-6]")
_ROLES = {"user": "user", "agent": "assistant", "system": "system"}


class Atif:
    """Reads a trajectory; the trace id is its ``trajectory_id``, else its ``session_id``.

    Examples
    --------
    >>> import json, tempfile
    >>> step = {"step_id": 1, "source": "user", "message": "hi"}
    >>> trajectory = {"schema_version": "ATIF-v1.6", "session_id": "s", "agent": {"name": "a"}, "steps": [step]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "trajectory.json")
    ...     _ = path.write_text(json.dumps(trajectory))
    ...     [source] = Atif().read(path, ImportCounts())
    >>> source.trace.trace_id, source.messages[0].content
    ('s', 'hi')
    """

    name = "atif"

    def detect(self, path: Path) -> bool:
        """Say whether the beginning of the file states the schema."""
        return _VERSION.search(head_of(path)) is not None

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        """Yield the trajectory's trace, then those of sub-agents that are in the same document."""
        document = document_of(path, counts, _RECORDS, _tells_id)
        if document is None:
            return
        if "schema_version" in document or not any(map(_is_trajectory, document.values())):
            yield from _traces(document, None, path, counts)
            return
        # Several by their names, as a run and its sub-agents may be put together.
        for name, each in document.items():
            if not isinstance(each, dict) or not _is_trajectory(each):
                counts.problems.append(Problem(str(path), 0, f"{name!r} is no trajectory; it was not taken"))
                continue
            for source in _traces(each, None, path, counts):
                source.trace.metadata["atif_name"] = name
                yield source


def _tells_id(beginning: JsonObject) -> bool:
    """Say whether what precedes the steps tells the trace's id, the same as all of the document would."""
    by_session = "session_id" in beginning and _BY_SESSION.fullmatch(str(beginning.get("schema_version"))) is not None
    return "trajectory_id" in beginning or by_session


def _is_trajectory(value: Json) -> bool:
    version = value.get("schema_version") if isinstance(value, dict) else None
    return isinstance(version, str) and version.startswith("ATIF-")


def _traces(document: JsonObject, parent: str | None, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
    typed = Typed(counts.repaired)
    trace_id = typed.identifier(document.get("trajectory_id")) or typed.identifier(document.get("session_id"))
    if trace_id is None:
        counts.problems.append(Problem(str(path), 0, "the trajectory has no session_id; nothing was taken"))
        return
    agent = document.get("agent")
    told = agent if isinstance(agent, dict) else {}
    trace = Trace(trace_id=trace_id, status="completed", parent_trace_id=parent)
    trace.agent_type, trace.model = typed.text(told.get("name")), typed.text(told.get("model_name"))
    children = objects_of(document.get("subagent_trajectories"))
    building = DocumentTrace(Atif.name, trace, counts)
    # The agent's tools may be many; all else may change as the trajectory grows, which no event does.
    rest = without(document, "steps", "agent", *(("subagent_trajectories",) if children else ()))
    if isinstance(agent, dict):
        rest["agent"] = building.keep("agent", agent)
    elif agent is not None:
        rest["agent"] = agent
    trace.metadata = {"atif": rest}
    for number, step in building.each("step", document.get("steps")):
        _add_step(building, number, step)
    copied = sum(1 for message in building.messages if (message.__pydantic_extra__ or {}).get("copied"))
    if copied:
        trace.metadata["copied_messages"] = copied
    final = object_of(document.get("final_metrics"))
    _take_totals(building, final)
    _take_header(trace, building.typed, _more(document).get("traceark"))
    source = _finish(building, final, path)
    source.parent_untold = True
    yield source
    for child in children:
        yield from _traces(child, trace_id, path, counts)


def _add_step(building: DocumentTrace, number: int, step: JsonObject) -> None:
    typed = building.typed
    building.time(step.get("timestamp"))
    building.model(step.get("model_name"))
    source = step.get("source")
    role = _ROLES.get(source if isinstance(source, str) else "") or typed.text(source) or "assistant"
    copied = {"copied": True} if step.get("is_copied_context") is True else {}
    calls = objects_of(step.get("tool_calls"))
    content, taken = _content(step, calls)
    observation = step.get("observation")
    results = objects_of(observation.get("results")) if isinstance(observation, dict) else []
    kept = without(step, *taken, *(("observation",) if results else ()))
    if results and isinstance(observation, dict) and (beside := without(observation, "results")):
        kept["observation"] = beside
    message = building.message(f"step-{number}", role, content, kept, **copied)
    building.calls(message, calls)
    text = step.get("message")
    if role == "user" and building.trace.task is None:
        building.trace.task = typed.summary(text)
    elif role == "assistant" and isinstance(text, str) and text.strip():
        building.trace.result_summary = typed.summary(text, 500)
    metrics = step.get("metrics")
    if isinstance(metrics, dict) and not copied:
        message.usage, message.cost = _usage(metrics, typed), typed.cost(metrics.get("cost_usd"))
        message.tokens = message.usage.total()
        message.duration_ms = typed.duration_ms(metrics.get("latency_ms", _more(metrics).get("latency_ms")))
    for at, result in enumerate(results, start=1):
        more = _more(result)
        call_id = typed.identifier(result.get("source_call_id")) or typed.identifier(more.get("tool_call_id"))
        answer = building.message(
            f"step-{number}-result-{at}", "tool", result.get("content"), without(result, "content"), **copied
        )
        building.answers(answer, call_id)
        answer.duration_ms = typed.duration_ms(more.get("duration_ms"))
        answer.status = "failed" if more.get("status") == "failed" else None
        for child in objects_of(result.get("subagent_trajectory_ref")):
            child_id = typed.identifier(child.get("trajectory_id")) or typed.identifier(child.get("session_id"))
            if child_id is not None and child_id != building.trace.trace_id:
                goal_id = call_id or f"step-{number}"
                building.goal(goal_id, typed.summary(result.get("content")) or answer.tool_name or child_id, child_id)
                answer.goal_id = goal_id


def _content(step: Mapping[str, Json], calls: list[JsonObject]) -> tuple[Json, list[str]]:
    """Return the content of a step's message, and which fields of the step it says all of."""
    text, thought = step.get("message"), step.get("reasoning_content")
    blocks = [block for block in map(_block, calls) if block is not None]
    called = bool(calls) and len(blocks) == len(calls)
    if not called and not thought:
        return text, ["message"]
    taken = ["tool_calls"] if called else []
    content: list[Json] = []
    if isinstance(thought, str) and thought:
        content.append({"type": "thinking", "thinking": thought})
        taken.append("reasoning_content")
    if isinstance(text, list) or (isinstance(text, str) and text):
        taken.append("message")
    return content + with_calls(text, blocks if called else []), taken


def _block(call: JsonObject) -> JsonObject | None:
    """Return a call as a block; None where the names of its fields do not allow that."""
    rest = without(call, "tool_call_id", "function_name", "arguments")
    if rest.keys() & {"type", "id", "name", "input"}:
        return None
    told: JsonObject = {"type": "tool_use", "id": call.get("tool_call_id"), "name": call.get("function_name")}
    return {**told, "input": call.get("arguments"), **rest}


def _usage(metrics: Mapping[str, Json], typed: Typed) -> Usage:
    """Return a step's usage; cached tokens are among the prompt's."""
    prompt, cached = typed.count(metrics.get("prompt_tokens")), typed.count(metrics.get("cached_tokens"))
    more = _more(metrics)
    written = typed.count(more.get("cache_write_tokens"))
    fresh = None if prompt is None else prompt - min(cached or 0, prompt)
    if written is not None and (fresh is None or written > fresh):
        written = None
    return Usage(
        input_tokens=None if fresh is None else fresh - (written or 0),
        output_tokens=typed.count(metrics.get("completion_tokens")),
        cache_read_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=typed.count(more.get("reasoning_tokens")),
    )


def _more(told: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return what is told beyond the format's own fields, by traceark's export among others."""
    more = told.get("extra")
    return more if isinstance(more, dict) else {}


def _take_header(trace: Trace, typed: Typed, told: Json) -> None:
    """Take what traceark's own export tells of the header; all of it stays in the metadata."""
    if not isinstance(told, dict):
        return
    for name in _HEADER:
        if name in told and isinstance(told[name], str | None):
            setattr(trace, name, typed.text(told[name]))
    trace.mode = typed.text(told.get("mode")) or trace.mode
    if told.get("status") in get_args(TraceStatus):
        trace.status = cast("TraceStatus", told["status"])


def _take_totals(building: DocumentTrace, final: Mapping[str, Json]) -> None:
    """Put tokens and cost of the whole run, each where no step tells any, at the agent's last message."""
    told = {name: final.get(f"total_{name}") for name in ("prompt_tokens", "completion_tokens", "cached_tokens")}
    usage, cost = _usage(told, building.typed), building.typed.cost(final.get("total_cost_usd"))
    last = next((each for each in reversed(building.messages) if each.role == "assistant"), None)
    if last is None:
        return
    if usage.total() and not any(each.usage is not None and each.usage.total() for each in building.messages):
        spend_in_all(last, usage)
    if cost and not any(each.cost for each in building.messages):
        spend_in_all(last, cost=cost)


def _finish(building: DocumentTrace, final: Mapping[str, Json], path: Path) -> SourceTrace:
    """Return the trace, checked against what the document states of the whole run."""
    prompt, written, cached = (
        building.typed.count(final.get(f"total_{name}_tokens")) for name in ("prompt", "completion", "cached")
    )
    stated = prompt + (written or 0) if prompt is not None else None
    cost = building.typed.cost(final.get("total_cost_usd"))
    return building.finish(path, stated, stated_cached=cached, stated_cost=cost)
