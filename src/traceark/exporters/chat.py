"""Chats as JSON Lines for fine-tuning: one run a line, in the shape of OpenAI's chat completions.

What a model must not learn is left out, by the rules of `docs/exporting.md`, and counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence

from traceark.exporters.base import Run
from traceark.exporters.content import Part, json_line, tools_of
from traceark.exporters.turns import Answers, Turn, is_copied, turns_of
from traceark.models import Json, JsonObject, Message

_NO_MODEL = "<synthetic>"


class Chat:
    """Writes a line.

    Examples
    --------
    >>> from traceark import Trace
    >>> messages = [Message(trace_id="t", role=role, content=role) for role in ("user", "assistant")]
    >>> print(b"".join(Chat().export(Run(Trace(trace_id="t"), messages), Counter())).decode(), end="")
    {"messages": [{"role": "user", "content": "user"}, {"role": "assistant", "content": "assistant"}]}
    """

    name = "chat"
    suffix = ".chat.jsonl"
    joins = True

    def export(self, run: Run, left_out: Counter[str]) -> Iterator[bytes]:
        """Yield the run's line; none where the model said nothing."""
        told = [message for message in run.messages if _is_learnt(message, run, left_out)]
        messages = _paired(turns_of(told), left_out)
        left_out["events"] += len(run.events)
        spoken = max((at for at, message in enumerate(messages, start=1) if message["role"] == "assistant"), default=0)
        if not spoken:
            left_out["runs in which the model says nothing"] += 1
            return
        # Nothing is learnt from what follows, and trainers refuse a chat that the model does not end.
        left_out["messages behind the model's last"] += len(messages) - spoken
        line: JsonObject = {"messages": list[Json](messages[:spoken])}
        if tools := _tools(run, left_out):
            line["tools"] = tools
        yield json_line(line)


def _is_learnt(message: Message, run: Run, left_out: Counter[str]) -> bool:
    source = (message.model_extra or {}).get("source")
    told = source if isinstance(source, dict) else {}
    inner = told.get("message")
    model = inner.get("model") if isinstance(inner, dict) else None
    if is_copied(message):
        reason = "messages copied from another run"
    elif told.get("isSidechain") is True and run.trace.parent_trace_id is None:
        reason = "messages of a sidechain"
    elif told.get("isApiErrorMessage") is True or model == _NO_MODEL:
        reason = "messages that no model wrote"
    else:
        return True
    left_out[reason] += 1
    return False


def _paired(turns: Sequence[Turn], left_out: Counter[str]) -> list[JsonObject]:
    """Return turns as messages, the answers of tools right behind the calls."""
    answers = Answers(turns)
    last = max((at for at, turn in enumerate(turns) if turn.role != "tool"), default=-1)
    found: list[JsonObject] = []
    for at, turn in enumerate(turns):
        _count(turn, left_out)
        texts = turn.texts()
        if turn.role == "assistant":
            pairs = _calls(turn, at, answers)
            replies = [reply for _, reply in pairs if reply is not None]
            # The last word of a run may be calls that ended it.
            if at != last or replies:
                left_out["calls without an answer"] += len(pairs) - len(replies)
                pairs = [pair for pair in pairs if pair[1] is not None]
            if texts or pairs:
                _add_answer(found, texts, [call for call, _ in pairs])
                found += replies
        elif texts:
            # What stands beside an answer of a tool is told by the user's side.
            found.append({"role": "user" if turn.role == "tool" else turn.role, "content": "\n".join(texts)})
    left_out["answers of tools without a call of the model"] += len(answers.left())
    return found


def _calls(turn: Turn, at: int, answers: Answers) -> list[tuple[JsonObject, JsonObject | None]]:
    """Return the calls of a turn, each with the answer to it, under ids that differ."""
    found: list[tuple[JsonObject, JsonObject | None]] = []
    taken: set[str] = set()
    for number, call in enumerate(part for part in turn.parts if part.kind == "call"):
        call_id = call.call_id or f"call_{at}_{number}"
        while call_id in taken:
            call_id += f"-{number}"
        taken.add(call_id)
        answer = answers.take(call, at)
        reply: JsonObject | None = None
        if answer is not None:
            reply = {"role": "tool", "tool_call_id": call_id, "content": answer[1].text}
        found.append((_call(call, call_id), reply))
    return found


def _add_answer(found: list[JsonObject], texts: Sequence[str], calls: list[JsonObject]) -> None:
    """Add what the model said; behind another answer of it, with nothing between, to that one."""
    text = "\n".join(texts)
    before = found[-1] if found and found[-1]["role"] == "assistant" and "tool_calls" not in found[-1] else None
    if before is None:
        before = {"role": "assistant", "content": text or None}
        found.append(before)
    elif text:
        before["content"] = f"{before['content']}\n\n{text}"
    if calls:
        before["tool_calls"] = list[Json](calls)


def _call(call: Part, call_id: str) -> JsonObject:
    told = call.arguments
    arguments = told if isinstance(told, dict) else {} if told is None else {"input": told}
    function: JsonObject = {"name": call.name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": call_id, "type": "function", "function": function}


def _tools(run: Run, left_out: Counter[str]) -> list[Json]:
    """Return the definitions of tools that are a function's, as OpenAI has them."""
    kept = tools_of(run.events)
    found = [tool for tool in kept if isinstance(tool, dict) and _names_a_function(tool)]
    left_out["definitions of tools in another shape"] += len(kept) - len(found)
    return list[Json](found)


def _names_a_function(tool: JsonObject) -> bool:
    function = tool.get("function")
    return tool.get("type") == "function" and isinstance(function, dict) and isinstance(function.get("name"), str)


def _count(turn: Turn, left_out: Counter[str]) -> None:
    kinds = Counter(part.kind for part in turn.parts)
    if kinds["thinking"]:
        left_out["pieces of reasoning"] += kinds["thinking"]
    if kinds["attachment"]:
        left_out["attachments"] += kinds["attachment"]
    if turn.role == "user" and kinds["call"]:
        left_out["calls that are not the model's"] += kinds["call"]
