"""Documents that break off: the records that are whole are taken, the rest is named, and all of the file adds it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

import test_import_langfuse as langfuse
import test_import_langsmith as langsmith
import test_import_openai_agents as openai_agents
import test_import_openhands as openhands
from profiles import some, tried
from test_import_documents import trajectory
from test_import_opencode import EXPORT
from test_import_otlp import document
from test_import_pieces import NESTED, said_of
from test_import_run import run, store
from traceark.importers.base import Problem
from traceark.importers.document import without
from traceark.importers.run import import_paths
from traceark.models import Json

SAID: list[Json] = [{"role": "user", "content": "hi", "turn_idx": 0}, {"role": "assistant", "content": "ho"}]
WHOLE: dict[str, Any] = {
    "atif": {"schema_version": "ATIF-v1.7", "trajectory_id": "s", **without(trajectory(), "schema_version")},
    "langfuse": {"trace": langfuse.TRACE, "observations": langfuse.OBSERVATIONS},
    "langsmith": {"runs": langsmith.RUNS},
    "openai-agents": {"data": [openai_agents.WORKFLOW, *openai_agents.SPANS]},
    "opencode": EXPORT,
    "openhands": [*openhands.EVENTS],
    "otlp": document(*NESTED),
    "tau-bench": [{"task_id": each, "reward": 1.0, "info": {}, "traj": SAID, "trial": 0} for each in range(3)],
    "tau2": {
        "info": {"agent_info": {"llm": "m"}},
        "simulations": [{"id": each, "task_id": "1", "trial": 0, "messages": SAID} for each in ("a", "b", "c")],
    },
}


def taken_of(problem: Problem) -> bool:
    return problem.reason.endswith("; the records before that are whole")


@pytest.mark.parametrize("name", WHOLE)
def test_a_document_that_breaks_off_in_a_record_gives_those_before_it(name: str, tmp_path: Path) -> None:
    text = json.dumps(WHOLE[name], indent=1)
    path = tmp_path / "run.json"
    path.write_text(text[: len(text) * 3 // 4])
    report = run(store(), path)
    [problem] = report.problems
    assert taken_of(problem)
    assert (problem.path, problem.line) == (str(path), path.read_text().rstrip().count("\n") + 1)
    assert report.totals()["new_messages"] > 0


@pytest.mark.parametrize("name", some(WHOLE, 3))
@settings(max_examples=tried(5, 100, 400), deadline=None)
@given(data=st.data())
def test_all_of_a_document_that_broke_off_anywhere_adds_what_was_missing(name: str, data: st.DataObject) -> None:
    text = json.dumps(WHOLE[name], indent=data.draw(st.sampled_from([None, 1])))
    # No shorter: its beginning has to tell the format.
    end = data.draw(st.integers(len(text) // 2, len(text) - 1))
    into, alone = store(), store()
    with TemporaryDirectory() as folder:
        path = Path(folder, "run.json")
        path.write_text(text[:end])
        report = run(into, path)
        [problem] = report.problems
        assert taken_of(problem) == bool(report.totals()["new_traces"])
        path.write_text(text)
        assert run(into, path).ok
        run(alone, path)
    assert said_of(into) == said_of(alone)


# Where something behind the records may tell the trace's id, to take them might make a second trace.
UNTOLD: dict[str, Json] = {
    "atif": trajectory(schema_version="ATIF-v1.7"),
    "who-and-when": {"history": [{"role": "A", "content": "5"}] * 4, "question": "2 + 2?", "mistake_step": "0"},
    "swe-agent": {"trajectory": [{"action": "ls"}] * 3, "history": SAID, "info": {}},
    "inspect": {"version": 2, "eval": {"task": "t"}, "samples": [{"id": 1, "messages": SAID}] * 3},
}


@pytest.mark.parametrize("name", UNTOLD)
def test_of_a_document_whose_end_may_tell_the_trace_nothing_is_taken(name: str, tmp_path: Path) -> None:
    text = json.dumps(UNTOLD[name])
    path = tmp_path / "run.json"
    path.write_text(text[: len(text) * 3 // 4])
    report = run(store(), path)
    assert [file.traces for file in report.files] == [[]]
    [problem] = report.problems
    assert problem.reason.endswith("; nothing was taken")


def test_a_strict_import_stops_before_a_document_that_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(WHOLE["tau2"])[:-30])
    into = store()
    assert asyncio.run(import_paths(into, [path], strict=True)).stopped_at == str(path)
    assert said_of(into) == {}


def test_what_stands_behind_the_records_is_added_where_a_document_broke_off_after_the_last_of_them(
    tmp_path: Path,
) -> None:
    path, text, into = tmp_path / "run.json", json.dumps(EXPORT, indent=1), store()
    path.write_text(text[: text.rindex("]", 0, text.rindex('"todos"'))])
    assert run(into, path).totals()["new_traces"]
    path.write_text(text)
    report = run(into, path)
    assert report.ok and report.totals()["new_messages"] == 0
    assert said_of(into)["ses_a"]["header"]["metadata"]["opencode"]["todos"] == []
