"""tau-bench and tau2-bench results: one JSON document of many simulations, or one simulation alone.

tau-bench's are a list of runs (https://github.com/sierra-research/tau-bench, `EnvRunResult`), which are
simulations by other names. A simulation is a trace. The user of a simulation is a model too: its tokens and cost stay
in its messages' `source`, and are in no total. Everything of a simulation but its messages is an event
``tau2.simulation``, and what the document says of all of them, with its task, one ``tau2.results``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from traceark.importers.base import ImportCounts, Problem, SourceTrace
from traceark.importers.document import DocumentTrace, documents_of, head_of, may_have, objects_of, without
from traceark.importers.torn import Place
from traceark.importers.typed import Typed
from traceark.models import Json, JsonObject, Trace, Usage

NAME = "tau2"
# One of these stands near the beginning of the document; `info` says what ran.
_RESULTS = re.compile(rb'"(agent_info|user_info)"\s*:')
_SIMULATION = re.compile(rb'"task_id"\s*:.*"(termination_reason|trial)"\s*:', re.DOTALL)
_KEYS = (
    frozenset({"simulations"}),
    frozenset({"task_id", "termination_reason"}),
    frozenset({"task_id", "trial"}),
    frozenset({"task_id", "traj"}),
)
# Both write what they say of all of them in front.
_RECORDS: tuple[Place, ...] = ((), ("simulations",))
_RUN = re.compile(rb'\A\[?\s*\{\s*"task_id"\s*:.*"traj"\s*:', re.DOTALL)


class Tau2:
    """Reads results or a simulation; the trace id is the simulation's ``id``, else its task's with a hash.

    Examples
    --------
    >>> import json, tempfile
    >>> spoken = {"role": "user", "content": "hi", "turn_idx": 0}
    >>> simulation = {"id": "s", "task_id": "1", "trial": 0, "messages": [spoken]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "results.json")
    ...     _ = path.write_text(json.dumps({"info": {"agent_info": {"llm": "m"}}, "simulations": [simulation]}))
    ...     [source] = Tau2().read(path, ImportCounts())
    >>> source.trace.trace_id, source.trace.model
    ('s', 'm')
    """

    name = NAME

    def detect(self, path: Path) -> bool:
        """Say whether the beginning of the file is that of results or of a simulation."""
        head = head_of(path, lists=True)
        marks = (_RUN, _RESULTS, _SIMULATION) if head.startswith(b"{") else (_RUN,)
        return any(each.search(head) is not None for each in marks) and may_have(path, *_KEYS)

    def read(self, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
        """Yield the trace of each simulation."""
        for line, document in documents_of(path, counts, _RECORDS):
            if isinstance(document, list):
                yield from _traces({"simulations": document}, path, counts)
            elif isinstance(document, dict):
                yield from _traces(document, path, counts)
            else:
                counts.problems.append(Problem(str(path), line, "JSON, but no results; nothing was taken"))


def _traces(document: JsonObject, path: Path, counts: ImportCounts) -> Iterator[SourceTrace]:
    """Yield the trace of each simulation of some results; a document without any is one."""
    simulations = document.get("simulations")
    if not isinstance(simulations, list):
        if not document.keys() & {"task_id", "messages", "traj"}:
            counts.problems.append(Problem(str(path), 0, f"no simulation, and not taken: {str(document)[:60]}"))
            return
        yield _trace(document, {}, path, counts)
        return
    tasks = {str(task.get("id")): task for task in objects_of(document.get("tasks"))}
    about = without(document, "simulations", *(("tasks",) if tasks else ()))
    simulated = {str(simulation.get("task_id")) for simulation in simulations if isinstance(simulation, dict)}
    if left_out := sorted(tasks.keys() - simulated):
        told = f"tasks without a simulation belong to no trace and were not taken: {', '.join(left_out)}"
        counts.problems.append(Problem(str(path), 0, told))
    for simulation in simulations:
        if isinstance(simulation, dict):
            task = tasks.get(str(simulation.get("task_id")))
            shared: JsonObject = {**about, "task": task} if task is not None else about
            yield _trace(simulation, shared, path, counts)
        else:
            counts.problems.append(Problem(str(path), 0, f"no simulation, and not taken: {str(simulation)[:60]}"))


def _trace(simulation: JsonObject, shared: JsonObject, path: Path, counts: ImportCounts) -> SourceTrace:
    typed = Typed(counts.repaired)
    # tau-bench has no ids, and other names for messages and the ids of calls; one that failed at once has no messages.
    messages_name = "traj" if "traj" in simulation else "messages"
    messages = simulation.get(messages_name)
    digest = hashlib.sha256(json.dumps(simulation, sort_keys=True).encode()).hexdigest()[:8]
    trace_id = typed.identifier(simulation.get("id")) or f"tau-{simulation.get('task_id')}-{digest}"
    info = shared.get("info")
    agent = info.get("agent_info") if isinstance(info, dict) else None
    trace = Trace(trace_id=trace_id, status="completed", agent_type="tau2")
    if isinstance(agent, dict):
        trace.agent_type, trace.model = typed.text(agent.get("implementation")), typed.text(agent.get("llm"))
    building = DocumentTrace(NAME, trace, counts)
    trace.metadata = {NAME: building.keep("simulation", without(simulation, messages_name, "ticks"))}
    building.keep("results", shared)
    ended = simulation.get("termination_reason")
    if isinstance(ended, str) and ("error" in ended or ended == "max_steps"):
        trace.status, trace.error_message = "failed", typed.text(ended)
    told = simulation.get("info")
    if isinstance(told, dict) and (error := typed.text(told.get("error"))) is not None:
        trace.status, trace.error_message = "failed", error
    building.time(simulation.get("start_time"))
    trace.task = typed.summary(f"task {simulation['task_id']}") if "task_id" in simulation else None
    for number, message in building.each("message", messages):
        _add_message(building, number, message)
    for _, tick in building.each("tick", simulation.get("ticks")):
        building.event("tick", tick)
    building.time(simulation.get("end_time"))
    _check_cost(building, simulation.get("agent_cost"), path, counts)
    return building.finish(path)


def _add_message(building: DocumentTrace, number: int, message: JsonObject) -> None:
    typed = building.typed
    building.time(message.get("timestamp"))
    added = building.spoken(number, message, lambda call: {"type": "tool_call", **call})
    if added.role == "tool":
        building.answers(added, message.get("id") or message.get("tool_call_id"))
        if message.get("error") is True:
            added.status, added.error = "failed", typed.summary(message.get("content"))
    elif added.role == "assistant":
        usage = message.get("usage")
        if isinstance(usage, dict):
            added.usage = _usage(usage, typed)
            added.tokens = added.usage.total()
        added.cost = typed.cost(message.get("cost"))


def _usage(usage: Mapping[str, Json], typed: Typed) -> Usage:
    return Usage(
        input_tokens=typed.count(usage.get("prompt_tokens")), output_tokens=typed.count(usage.get("completion_tokens"))
    )


def _check_cost(building: DocumentTrace, stated: Json, path: Path, counts: ImportCounts) -> None:
    """Say so where the agent's messages do not cost what the simulation states."""
    if not isinstance(stated, int | float):
        return
    cost = sum(message.cost or 0.0 for message in building.messages)
    if abs(cost - stated) > 1e-9 * max(1.0, abs(stated)):
        told = f"{building.trace.trace_id}: the agent's messages cost {cost:.6f}, the file states {stated:.6f}"
        counts.differences.append(Problem(str(path), 0, told))
