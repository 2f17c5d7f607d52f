"""The messages of an opencode session, made of messages and parts that are told again and again as they grow.

The last state of each counts: a message is made when it is finished, and the result of a tool when
the tool has ended. This module knows messages and parts, no rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from traceark.importers.document import object_of, objects_of, without
from traceark.importers.opencode_goals import ENDED, OpenCodeGoals
from traceark.importers.typed import Typed
from traceark.importers.usage import usage_of
from traceark.models import Json, JsonObject, Usage

_IDS = ("id", "sessionID", "messageID")
# Parts that are no content: where a step began and ended, and what it left behind in files.
_MARKS = ("step-start", "step-finish", "snapshot", "patch", "retry")


class SessionMessages:
    """The messages so far.

    Parameters
    ----------
    trace_id : str
    typed : Typed
        Makes typed fields of what the session says.
    made : list of dict
        Gets the fields of the messages, in order.
    """

    def __init__(self, trace_id: str, typed: Typed, made: list[dict[str, Any]]) -> None:
        self.goals = OpenCodeGoals(typed, trace_id)
        self._typed = typed
        self._trace_id = trace_id
        self._messages = made
        self._made: dict[str, dict[str, Any]] = {}
        # The last state of each message, and of its parts by their ids.
        self._infos: dict[str, JsonObject] = {}
        self._parts: dict[str, dict[str, JsonObject]] = {}
        # Messages that are not finished, each with the goal that was worked on when it began.
        self._open: dict[str, str | None] = {}
        self._answered: set[str] = set()

    def info(self, info: JsonObject) -> bool:
        """Take the state of a message; say whether it is a new one."""
        message_id = self._typed.identifier(info.get("id"))
        if message_id is None:
            return False
        is_new = message_id not in self._infos
        self._infos[message_id] = info
        if is_new:
            if info.get("role") == "assistant":
                # A session writes one answer at a time.
                self.close_all()
            self._open[message_id] = self.goals.current()
        if object_of(info.get("time")).get("completed") is not None:
            self._close([message_id])
        return is_new

    def part(self, part: JsonObject) -> None:
        """Take the state of a part."""
        message_id, part_id = (self._typed.identifier(part.get(name)) for name in ("messageID", "id"))
        if message_id is None or part_id is None:
            return
        self._parts.setdefault(message_id, {})[part_id] = part
        if part.get("type") == "tool":
            self.goals.call(part_id, part)
        if message_id in self._made:
            self._answer(message_id)

    def delta(self, told: Mapping[str, Json]) -> None:
        """Take what is new of a part."""
        parts, part_id = self._parts.get(str(told.get("messageID")), {}), str(told.get("partID"))
        name, delta = told.get("field"), told.get("delta")
        if part_id in parts and isinstance(name, str) and isinstance(delta, str):
            before = parts[part_id].get(name, "")
            if isinstance(before, str):
                parts[part_id] = {**parts[part_id], name: before + delta}

    def remove(self, message_id: Json, part_id: Json) -> None:
        """Take back a part, or a whole message; one that is made already stays."""
        if part_id is None:
            self._open.pop(str(message_id), None)
        else:
            self._parts.get(str(message_id), {}).pop(str(part_id), None)

    def close_all(self) -> None:
        """Finish all messages: the session does nothing more."""
        self._close(list(self._open))

    def close_asked(self) -> None:
        """Finish messages of the user: the session works on them."""
        self._close([each for each in self._open if self._infos[each].get("role") != "assistant"])

    def texts(self, role: str) -> list[str]:
        """Return the texts of all messages of a role, without those that the program put there itself."""
        return [
            "\n".join(
                block["text"]
                for block in fields["content"]
                if block.get("type") == "text" and not block.get("synthetic") and isinstance(block.get("text"), str)
            )
            for fields in self._made.values()
            if fields["role"] == role
        ]

    def spend(self) -> Iterator[str]:
        """Give every message what its steps used; yield where it states something else itself."""
        for message_id, fields in self._made.items():
            info = self._infos[message_id]
            parts = self._parts.get(message_id, {}).values()
            steps = [part for part in parts if part.get("type") == "step-finish"]
            usages = [self._usage(each) for each in steps or [info]]
            told = [each for each in usages if each is not None]
            if told:
                fields["usage"] = usage = _sum(told)
                fields["tokens"] = usage.total()
            costs = [self._typed.cost(each.get("cost")) for each in steps]
            stated, cost = self._typed.cost(info.get("cost")), sum(each or 0.0 for each in costs)
            fields["cost"] = stated if stated is not None else cost if steps else None
            # A message of several steps states the tokens of the last alone.
            if len(steps) == 1 and (own := self._usage(info)) is not None and own != usages[0]:
                yield f"message {message_id} and its step differ in their tokens"
            if steps and stated is not None and abs(stated - cost) > 1e-9:
                yield f"message {message_id} costs {stated}, its steps {cost}"

    def _usage(self, told: Mapping[str, Json]) -> Usage | None:
        tokens = object_of(told.get("tokens"))
        cache, thought = object_of(tokens.get("cache")), tokens.get("reasoning")
        parts = (tokens.get("input"), tokens.get("output"), cache.get("read"), cache.get("write"))
        # Cached tokens are never among the input's; whether those of reasoning are among the output's, the total tells.
        apart = sum(each for each in parts if isinstance(each, int))
        beside = isinstance(thought, int) and tokens.get("total") == apart + thought
        return usage_of(
            self._typed,
            input_tokens=parts[0],
            output_tokens=parts[1],
            cache_read=parts[2],
            cache_write=parts[3],
            reasoning=thought,
            total=tokens["total"] if beside else apart,
        )

    def _close(self, message_ids: Iterable[str]) -> None:
        """Make messages of those that are open; a user's that says nothing yet is not finished."""
        for message_id in message_ids:
            parts = self._parts.get(message_id)
            if message_id in self._open and (parts or self._infos[message_id].get("role") == "assistant"):
                self._make(message_id, list((parts or {}).values()), self._open.pop(message_id))

    def _make(self, message_id: str, parts: list[JsonObject], goal_id: str | None) -> None:
        info = self._infos[message_id]
        fields: dict[str, Any] = {
            "message_id": message_id,
            "trace_id": self._trace_id,
            "role": self._typed.text(info.get("role")) or "unknown",
            "content": [_block(part) for part in parts if part.get("type") not in _MARKS],
            "created_at": self._typed.milliseconds(object_of(info.get("time")).get("created")),
            "goal_id": goal_id or self.goals.current(),
            "source": without(info, "id", "sessionID", "role"),
        }
        if info.get("error") is not None:
            fields["status"], fields["error"] = failure_of(info["error"], self._typed)
        calls = [part for part in parts if part.get("type") == "tool"]
        if len(calls) == 1:
            fields |= self._called(calls[0])
        self._made[message_id] = fields
        self._messages.append(fields)
        self._answer(message_id)

    def _called(self, call: JsonObject) -> dict[str, Any]:
        """Return what a call and its answer have in common."""
        named = {
            "tool_call_id": self._typed.identifier(call.get("callID")),
            "tool_name": self._typed.text(call.get("tool")),
        }
        agent = self.goals.agent_goal(self._typed.identifier(call.get("id")))
        return named if agent is None else {**named, "goal_id": agent}

    def _answer(self, message_id: str) -> None:
        """Make messages of the results of a message's tools that have ended."""
        for part_id, part in self._parts.get(message_id, {}).items():
            state = object_of(part.get("state"))
            status = state.get("status")
            if part.get("type") != "tool" or status not in ENDED or part_id in self._answered:
                continue
            self._answered.add(part_id)
            failed = status == "error"
            content, files = state.get("error" if failed else "output"), objects_of(state.get("attachments"))
            times = object_of(state.get("time"))
            began, ended = times.get("start"), times.get("end")
            fields: dict[str, Any] = {
                "message_id": part_id,
                "trace_id": self._trace_id,
                "role": "tool",
                "content": [{"type": "text", "text": content}, *(without(each, *_IDS) for each in files)]
                if files
                else content,
                "created_at": self._typed.milliseconds(ended),
                "goal_id": self._made[message_id]["goal_id"],
                **self._called(part),
                "source": without(state, "output", "error", "attachments", "input", "metadata"),
            }
            if isinstance(began, int) and isinstance(ended, int):
                fields["duration_ms"] = self._typed.duration_ms(ended - began)
            if failed:
                fields["status"], fields["error"] = "failed", self._typed.summary(content)
            self._messages.append(fields)


def _block(part: JsonObject) -> JsonObject:
    kind, text = part.get("type"), part.get("text")
    if kind == "text" and isinstance(text, str):
        return {"type": "text", "text": text, **({"synthetic": True} if part.get("synthetic") is True else {})}
    if kind == "reasoning" and isinstance(text, str):
        return {"type": "thinking", "thinking": text}
    if kind == "tool":
        given = object_of(part.get("state")).get("input")
        return {"type": "tool_call", "id": part.get("callID"), "name": part.get("tool"), "arguments": given}
    return without(part, *_IDS)


def _sum(usages: list[Usage]) -> Usage:
    told = [each.model_dump(exclude_none=True) for each in usages]
    names = {name for each in told for name in each}
    return Usage.parse({name: sum(each.get(name, 0) for each in told) for name in names})


def failure_of(error: Json, typed: Typed) -> tuple[str, str | None]:
    """Return the status of what ended with an error, and the error's text."""
    told = object_of(error)
    status = "cancelled" if told.get("name") == "MessageAbortedError" else "failed"
    return status, typed.summary(object_of(told.get("data")).get("message") or told.get("name") or error, 1000)
