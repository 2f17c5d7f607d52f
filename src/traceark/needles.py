"""What is searched for, in which texts of a message, and where it stands there.

Pure. Regular expressions are RE2's, whose time grows with the text and never explodes. DuckDB
first picks messages by their JSON text, loosely: it may pick too many, and never misses one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa

from traceark.codec import compute as pc
from traceark.errors import InvalidValueError
from traceark.models import Json

Step = str | int
_GROUP = "traceark_match"
_REPEAT = re.compile(r"\{\d+(,\d*)?\}")
_SURROGATE = re.compile("[\ud800-\udfff]")
# Values of `type` that say what a block is, and are nobody's words.
_BLOCKS = frozenset(
    {
        "text",
        "input_text",
        "output_text",
        "refusal",
        "thinking",
        "redacted_thinking",
        "reasoning",
        "reasoning_text",
        "summary_text",
        "tool_use",
        "server_tool_use",
        "mcp_tool_use",
        "tool_result",
        "web_search_tool_result",
        "mcp_tool_result",
        "tool_call",
        "function",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "image",
        "image_url",
        "input_image",
        "document",
        "file",
        "input_file",
        "audio",
        "input_audio",
        "base64",
        "ephemeral",
        "message",
        "tool_reference",
    }
)
_NO_WORDS = frozenset({"signature", "encrypted_content"})


@dataclass(frozen=True, slots=True)
class Found:
    """Where something stands: in which text of the content, and from where to where in it."""

    path: tuple[Step, ...]
    text: str
    start: int
    end: int


class Needle:
    """What is searched for.

    Parameters
    ----------
    text : str
        The text, or with `regex` a regular expression of RE2; ``^`` and ``$`` stand for ends of lines.
    regex, ignore_case : bool
        How `text` is meant.

    Raises
    ------
    InvalidValueError
        There is nothing to search for, or RE2 refuses the expression.

    Examples
    --------
    >>> [found] = Needle('say "hi"', regex=False, ignore_case=True).find([[(("text",), 'They Say "Hi".')]])
    >>> found.start, found.end
    (5, 13)
    """

    def __init__(self, text: str, *, regex: bool, ignore_case: bool) -> None:
        given: object = text
        if not isinstance(given, str) or not given:
            raise InvalidValueError("expected a text to search for", "text")
        if _SURROGATE.search(text):
            raise InvalidValueError("a lone surrogate cannot be searched for", "text")
        self._ignore_case = ignore_case
        self._plain = text if not regex and not ignore_case else None
        self._texts = required(text) if regex else [text]
        flags = f"(?m{'i' if ignore_case else ''})"
        inner = text if regex else re.escape(text)
        self._pattern = f"{flags}(?P<{_GROUP}>{_without_groups(inner)})"
        try:
            # On its own first: the group around it would mend a parenthesis that is missing or too many.
            pc.match_substring_regex(pa.array([""]), inner)
            pc.extract_regex_span(pa.array([""]), self._pattern)
        except pa.ArrowInvalid as error:
            reason = str(error).partition("Invalid regular expression: ")[2] or str(error)
            raise InvalidValueError(
                f"{text!r:.200} is no regular expression of RE2 ({reason}), which has no lookaround and no "
                "references back",
                "text",
            ) from None

    def condition(self) -> tuple[str, dict[str, Any]]:
        """Return SQL over the column `content` that every message with a match meets, and the values to bind."""
        if self._texts is None:
            return "content IS NOT NULL", {}
        spelled: dict[str, None] = {}
        for text in self._texts:
            once = _inside_json(text)
            # Arguments of tools may be JSON within JSON.
            spelled |= {once: None, _inside_json(once): None}
        if self._ignore_case:
            told = "regexp_matches(content, $needle)"
            bound = {"needle": f"(?i){'|'.join(map(re.escape, spelled))}"}
        else:
            bound = {f"needle_{index}": text for index, text in enumerate(spelled)}
            told = " OR ".join(f"contains(content, ${name})" for name in bound)
        if any(not (" " <= each <= "~" or each in "\n\r\t") for text in self._texts for each in text):
            # Somebody's JSON may have such characters escaped.
            told += " OR contains(content, '\\u')"
        return f"({told})", bound

    def find(self, messages: Sequence[Sequence[tuple[tuple[Step, ...], str]]]) -> list[Found | None]:
        """Return for each message, given as its texts, the first match."""
        if self._plain is not None:
            return [self._first_plain(texts, self._plain) for texts in messages]
        owners = [(index, path, text) for index, texts in enumerate(messages) for path, text in texts]
        # A lone surrogate, which Arrow cannot hold, matches nothing; one character stays one character.
        column = pa.array([_SURROGATE.sub("\ufffd", text) for _, _, text in owners], pa.large_string())
        spans = pc.extract_regex_span(column, self._pattern)
        found: list[Found | None] = [None] * len(messages)
        matches = pc.indices_nonzero(pc.is_valid(spans))
        # By position: a pattern may give other groups one name.
        whole = pc.struct_field(spans.take(matches), [0]).to_pylist()
        for at, (start, length) in reversed(list(zip(matches.to_pylist(), whole, strict=True))):
            index, path, text = owners[at]
            data = _SURROGATE.sub("\ufffd", text).encode()
            begin = len(data[:start].decode())
            found[index] = Found(path, text, begin, begin + len(data[start : start + length].decode()))
        return found

    @staticmethod
    def _first_plain(texts: Sequence[tuple[tuple[Step, ...], str]], plain: str) -> Found | None:
        for path, text in texts:
            start = text.find(plain)
            if start >= 0:
                return Found(path, text, start, start + len(plain))
        return None


def texts_of(content: Json) -> Iterator[tuple[tuple[Step, ...], str]]:
    """Yield every text of a message's content with the path to it, and numbers as JSON says them.

    Left out are what no one said: the words that say what a block is, signatures, encoded files.
    Arguments that are JSON within JSON are yielded decoded first, then as they are.

    Examples
    --------
    >>> list(texts_of([{"type": "tool_use", "name": "Bash", "input": {"command": "ls"}}]))
    [((0, 'name'), 'Bash'), ((0, 'input', 'command'), 'ls')]
    """
    pending: list[tuple[tuple[Step, ...], Json]] = [((), content)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, str):
            yield path, value
        elif isinstance(value, dict):
            pending += [((*path, key), child) for key, child in reversed(value.items()) if _is_said(key, child, value)]
            inner = _decoded(value.get("arguments"))
            if inner is not None:
                pending.append(((*path, "arguments"), inner))
        elif isinstance(value, list):
            pending += [((*path, index), child) for index, child in reversed(list(enumerate(value)))]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path, json.dumps(value)


def _is_said(key: str, value: Json, block: dict[str, Json]) -> bool:
    if not isinstance(value, str):
        return True
    if key == "type":
        return value not in _BLOCKS
    if key == "data":
        return block.get("type") != "base64"
    return key not in _NO_WORDS and not (key == "url" and value.startswith("data:"))


def _decoded(arguments: Json) -> Json:
    if not isinstance(arguments, str) or not arguments.lstrip().startswith(("{", "[")):
        return None
    try:
        return cast("Json", json.loads(arguments))
    except (ValueError, RecursionError):
        return None  # left unfinished by the model; it is searched as it is


def required(pattern: str) -> list[str] | None:
    """Return texts of which every match holds at least one, or None where that cannot be told.

    Examples
    --------
    >>> required(r"def \\w+_test"), required("fo+bar|baz"), required("a?b*")
    (['_test'], ['bar', 'baz'], None)
    """
    if "\\Q" in pattern:
        return None
    found: list[str] = []
    best = run = ""
    at = 0
    while at <= len(pattern):
        char = pattern[at : at + 1]
        literal = ""
        step = 1
        if char == "\\":
            step = 2
            literal = _escaped(pattern[at + 1 : at + 2])
            if not literal and pattern[at + 1 : at + 2] not in tuple("wWdDsSbBAz"):
                return None
        elif char == "[":
            step = _class_end(pattern, at) - at
        elif char == "(":
            if pattern.startswith("(?", at) and not pattern.startswith(("(?:", "(?P<", "(?<"), at):
                return None  # flags
            step = _group_end(pattern, at) - at
        elif char in ("*", "?", "{"):
            repeat = _REPEAT.match(pattern, at)
            step = len(repeat[0]) if repeat else 1
            run = run[:-1]
        elif char and char not in "+.^$|":
            literal = char
        run += literal
        if not literal:
            best, run = max(best, run, key=len), ""
        if char in ("", "|"):
            if len(best) < 2:
                return None
            found.append(best)
            best = ""
        at += step
    return found


def _without_groups(pattern: str) -> str:
    """Return a sound expression with groups that do not capture, since Arrow wants all that do to have names."""
    told: list[str] = []
    at = 0
    while at < len(pattern):
        end = at + 1
        if pattern.startswith("\\Q", at):
            close = pattern.find("\\E", at)
            end = close + 2 if close >= 0 else len(pattern)
        elif pattern[at] == "\\":
            end = at + 2
        elif pattern[at] == "[":
            end = _class_end(pattern, at)
        is_plain = pattern[at] == "(" and not pattern.startswith("(?", at)
        told.append("(?:" if is_plain else pattern[at:end])
        at = end
    return "".join(told)


def _escaped(char: str) -> str:
    if char in ("n", "r", "t"):
        return {"n": "\n", "r": "\r", "t": "\t"}[char]
    return char if char and char.isascii() and not (char.isalnum() or char == "_") else ""


def _class_end(pattern: str, at: int) -> int:
    at += 2 if pattern.startswith("[^", at) else 1
    at += pattern.startswith("]", at)
    while at < len(pattern) and pattern[at] != "]":
        if pattern.startswith("[:", at):
            end = pattern.find(":]", at)
            at = end + 2 if end >= 0 else at + 1
        else:
            at += 2 if pattern[at] == "\\" else 1
    return at + 1


def _group_end(pattern: str, at: int) -> int:
    depth = 0
    while at < len(pattern):
        char = pattern[at]
        if char == "[":
            at = _class_end(pattern, at)
            continue
        depth += (char == "(") - (char == ")")
        at += 2 if char == "\\" else 1
        if depth == 0:
            return at
    return at


def _inside_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
