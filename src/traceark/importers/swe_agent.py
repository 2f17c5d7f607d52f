"""SWE-agent and mini-swe-agent: the ``.traj`` files, one JSON document per run.

They have no run's id. The history is the messages; the steps of ``trajectory`` tell the same with the
environment's state, and are events. SWE-agent has no times and states what was used for the whole run
alone: that stands at the model's last message, its usage marked `whole_run`, so that totals are right.
mini-swe-agent (https://mini-swe-agent.com) has the model's response, its cost and the time in a message's
``extra``; with the responses API the message is the response itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from traceark.importers.base import ImportCounts, Problem, SourceTrace
from traceark.importers.document import (
    DocumentTrace,
    document_of,
    head_of,
    may_have,
    object_of,
    objects_of,
    up_to_answer,
    without,
)
from traceark.importers.model_calls import usage_in
from traceark.importers.usage import spend_in_all
from traceark.models import Json, JsonObject, Trace, Usage

NAME = "swe-agent"
_TRAJECTORY = re.compile(
    rb'"trajectory"\s*:\s*\[\s*\{\s*"(action|response|observation|thought)"'
    rb'|"trajectory_format"\s*:\s*"mini-swe-agent|"mini_version"\s*:'
)
_KEYS = tuple(map(frozenset, ({"trajectory"}, {"history"}, {"trajectory_format"}, {"info", "messages"})))


class SweAgent:
    """Reads a run; the trace id is the file's name and a hash of how it begins, up to the model's first answer.

    Examples
    --------
    >>> import tempfile
    >>> run = {"trajectory": [{"action": "ls"}], "history": [{"role": "user", "content": "Fix it."}]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "bug-1.traj")
    ...     _ = path.write_text(json.dumps(run))
    ...     [source] = SweAgent().read(path, ImportCounts())
    >>> source.trace.trace_id, len(source.messages), len(source.events)
    ('bug-1-81b0d58c', 1, 1)
    """

    name = NAME

    def detect(self, path: Path) -> bool:
        """Say whether steps, or messages of their kind, stand in the file's beginning."""
        head = head_of(path)
        marked = _TRAJECTORY.search(head) is not None or (b'"history"' in head and b'"message_type"' in head)
        return marked and may_have(path, *_KEYS)

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        """Yield the run's trace."""
        document = document_of(path, counts)
        if document is None:
            return
        name = "history" if "history" in document else "messages"
        if not isinstance(document.get(name), list):
            counts.problems.append(Problem(str(path), 0, "the run has neither history nor messages; nothing was taken"))
            return
        yield _trace(document, name, path, counts)


def _trace(document: JsonObject, name: str, path: Path, counts: ImportCounts) -> SourceTrace:
    info, steps = document.get("info"), document.get("trajectory")
    about = object_of(info)
    steps = steps if isinstance(steps, list) else [steps] if steps is not None else []
    trace = Trace(trace_id=f"{path.stem}-{_digest(document, name, steps)}", agent_type=NAME, status="completed")
    building = DocumentTrace(NAME, trace, counts)
    rest = without(document, name, "trajectory", "info")
    if "config" in about or (info is not None and not isinstance(info, dict)):
        rest["info"] = {"config": about["config"]} if about else info
    short = building.keep("run", rest)
    # It changes as the run goes on, which no event does.
    trace.metadata = {"swe_agent": {**short, "info": without(about, "config")} if isinstance(info, dict) else short}
    typed = building.typed
    trace.model = _model(about)
    ended = typed.text(about.get("exit_status"))
    if ended is not None and "submitted" not in ended.lower():
        trace.status, trace.error_message = "failed", ended
    told = iter(steps)
    for number, message in building.each("message", document[name]):
        _add_message(building, number, message)
        if _is_answer(message):
            # Each behind the answer that it tells of, so that all of a run begins as a part of it does.
            _add_steps(building, islice(told, 1))
    _add_steps(building, told)
    _take_usage(building, about.get("model_stats"), path, counts)
    return building.finish(path)


def _digest(document: JsonObject, name: str, steps: Sequence[Json]) -> str:
    """Return a hash of what tells a run from others, and stays as it is while the run goes on.

    Runs of one task often begin alike. What tells them apart is how they were configured, and of the first step
    how long it took; mini-swe-agent's first answer has a time.
    """
    about = object_of(document.get("info"))
    fixed = [document.get("environment"), document.get("replay_config"), about.get("config"), *steps[:1]]
    told = [up_to_answer(document[name], _is_answer), *fixed]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]


def _is_answer(message: JsonObject) -> bool:
    """Say whether a message is what the model of this run said, and no demonstration."""
    return _with_role(message).get("role") == "assistant" and message.get("is_demo") is not True


def _add_steps(building: DocumentTrace, steps: Iterable[Json]) -> None:
    for step in steps:
        building.row("step", step)
        building.event("step", step)


def _model(about: JsonObject) -> str | None:
    """Return the model that a run of mini-swe-agent was configured for."""
    told: Json = about
    for name in ("config", "model", "model_name"):
        told = told.get(name) if isinstance(told, dict) else None
    return told if isinstance(told, str) and told else None


def _add_message(building: DocumentTrace, number: int, message: JsonObject) -> None:
    typed = building.typed
    told = message.get("extra")
    extra: JsonObject = told if isinstance(told, dict) else {}
    building.time(extra.get("timestamp", message.get("timestamp")))
    added = building.spoken(number, _with_role(message))
    if message.get("object") == "response":
        building.calls(added, [{**each, "id": each.get("call_id")} for each in _calls(message)])
    answered = message.get("tool_call_ids")
    if isinstance(answered, list) and len(answered) == 1:
        building.answers(added, answered[0])
    elif added.role == "tool":
        building.answers(added, message.get("tool_call_id") or message.get("call_id"))
    demonstrates = message.get("is_demo") is True
    if added.role == "user" and building.trace.task is None and not demonstrates:
        building.trace.task = typed.summary(message.get("content"))
    elif added.role == "assistant":
        if not demonstrates:
            building.trace.result_summary = typed.summary(message.get("content"), 500) or building.trace.result_summary
        added.usage = usage_in(extra.get("response", message), typed)
        added.tokens = added.usage.total() if added.usage is not None else None
        added.cost = typed.cost(extra.get("cost"))


def _with_role(message: JsonObject) -> JsonObject:
    """Return a message of the responses API as one with a role and content."""
    if "role" in message or "output" not in message:
        return message
    role = "tool" if message.get("type") == "function_call_output" else "assistant"
    return {"role": role, "content": message["output"], **without(message, "output")}


def _calls(response: JsonObject) -> list[JsonObject]:
    return [each for each in objects_of(response.get("output")) if each.get("type") == "function_call"]


def _take_usage(building: DocumentTrace, stats: Json, path: Path, counts: ImportCounts) -> None:
    """Take what is stated of the whole run, where no message tells it; else compare."""
    spoken = [each for each in building.messages if each.role == "assistant"]
    if not isinstance(stats, dict) or not spoken:
        return
    typed, last = building.typed, spoken[-1]
    usage = Usage(
        input_tokens=typed.count(stats.get("tokens_sent")), output_tokens=typed.count(stats.get("tokens_received"))
    )
    stated = typed.cost(stats.get("instance_cost"))
    if all(each.usage is None for each in spoken) and usage.total():
        spend_in_all(last, usage)
    cost = sum(each.cost or 0.0 for each in spoken)
    if not cost and stated:
        spend_in_all(last, cost=stated)
    elif stated is not None and abs(cost - stated) > 1e-9 * max(1.0, stated):
        told = f"{building.trace.trace_id}: the messages cost {cost:.6f}, the file states {stated:.6f}"
        counts.differences.append(Problem(str(path), 0, told))
