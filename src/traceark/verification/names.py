"""What a file within a trace's directory is, by its name alone."""

from __future__ import annotations

from collections.abc import Iterable

from traceark.layout import GOAL_TREE, HEADER, LOCK, LOGS, MANIFEST, parse_log_name

_UNFINISHED = ".tmp-"


def is_unfinished(name: str) -> bool:
    """Say whether a file is a write that was cut short; nothing refers to it.

    Examples
    --------
    >>> is_unfinished("messages/.tmp-5f3a9c21"), is_unfinished("trace.json")
    (True, False)
    """
    return name.rpartition("/")[2].startswith(_UNFINISHED)


def is_foreign(name: str) -> bool:
    """Say whether a file is none of the format's, and no write that was cut short.

    Examples
    --------
    >>> is_foreign("notes.txt"), is_foreign("messages/1.jsonl"), is_foreign("trace.json")
    (True, True, False)
    """
    if name in (HEADER, GOAL_TREE, MANIFEST, LOCK) or is_unfinished(name):
        return False
    directory, _, rest = name.partition("/")
    return directory not in LOGS or parse_log_name(rest) is None


def incarnations(names: Iterable[str]) -> set[str]:
    """Return the incarnations that the names of a trace's log files say.

    Examples
    --------
    >>> incarnations(["trace.json", "messages/000000000001-5f3a9c21.jsonl"])
    {'5f3a9c21'}
    """
    parsed = (parse_log_name(name.partition("/")[2]) for name in names if name.partition("/")[0] in LOGS)
    return {each.incarnation for each in parsed if each is not None}
