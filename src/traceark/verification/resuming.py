"""What a verify has checked so far, in a file that its user names, so that one that was killed goes on.

The file lies outside the archive, since verify writes nothing into it, and is gone when all is checked. A
trace whose files changed since is checked again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self, cast

from traceark.catalog.rows import fingerprint
from traceark.codec.lines import decode_line, encode_line, proves_itself
from traceark.errors import CorruptFileError, InvalidValueError
from traceark.models import Json, JsonObject
from traceark.replacing import told_unwritten
from traceark.storage.base import Entry, Storage
from traceark.verification.finding import Finding
from traceark.verification.links import Links
from traceark.verification.one import Checked

_FORMAT = 1


class Progress:
    """The traces that a verify has checked.

    Parameters
    ----------
    path : Path
        Of the file.
    storage, binding
        Of the archive, and of its catalog, which tells it from others and from copies of it.
    deep : bool
        How the traces are checked.

    Raises
    ------
    InvalidValueError
        The file is in the archive, or of another archive or kind of check, or something else.
    StorageError
        The file cannot be written.
    """

    def __init__(self, path: Path, storage: Storage, binding: str, *, deep: bool) -> None:
        root = storage.local_path("")
        if root is not None and path.resolve().is_relative_to(root.resolve()):
            raise InvalidValueError(f"{path} is in the archive, into which verify writes nothing", "resume")
        self._path = path
        self._about: JsonObject = {"traceark": "verify", "format": _FORMAT, "archive": binding, "deep": deep}
        with told_unwritten(str(path)):
            self._known = self._read()
            self._file = path.open("ab")
        if not self._file.tell():
            self._write(self._about)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _read(self) -> dict[str, tuple[str, Checked]]:
        data = self._path.read_bytes() if self._path.exists() else b""
        if not data:
            return {}
        first, *lines = data.split(b"\n")
        try:
            about = decode_line(first, str(self._path))
        except CorruptFileError:
            raise InvalidValueError(
                f"{self._path} is no file in which a verify keeps how far it is", "resume"
            ) from None
        if about != self._about:
            raise InvalidValueError(
                f"{self._path} is of a verify of another archive, or of another kind; name another file, or delete it",
                "resume",
            )
        found: dict[str, tuple[str, Checked]] = {}
        whole = len(first) + 1
        for line in lines:
            if not proves_itself(line):
                break  # it was killed while it wrote this
            told = cast("dict[str, Any]", decode_line(line, str(self._path)))
            links = told["links"]
            found[told["trace_id"]] = (
                told["files"],
                Checked([Finding(**each) for each in told["findings"]], None if links is None else _links(links)),
            )
            whole += len(line) + 1
        with self._path.open("r+b") as file:
            file.truncate(min(whole, len(data)))
        return found

    def checked(self, listed: Mapping[str, Mapping[str, Entry]]) -> dict[str, Checked]:
        """Return what was found of traces whose files are as they were then."""
        return {
            trace_id: self._known[trace_id][1]
            for trace_id, entries in listed.items()
            if trace_id in self._known and self._known[trace_id][0] == fingerprint(entries)
        }

    def add(self, found: Mapping[str, Checked], listed: Mapping[str, Mapping[str, Entry]]) -> None:
        """Note traces that were checked as they were listed."""
        for trace_id, checked in found.items():
            self._write(
                {
                    "trace_id": trace_id,
                    "files": fingerprint(listed[trace_id]),
                    "findings": [cast("JsonObject", asdict(each)) for each in checked.findings],
                    "links": None if checked.links is None else _links_json(checked.links),
                }
            )

    def _write(self, record: JsonObject) -> None:
        with told_unwritten(str(self._path)):
            self._file.write(encode_line(record))
            self._file.flush()

    def finish(self) -> None:
        """Forget all: the next verify begins anew."""
        self._path.unlink(missing_ok=True)


def _links_json(links: Links) -> JsonObject:
    return {
        "parent": links.parent,
        "parent_goal": links.parent_goal,
        "goals": cast("Json", sorted(links.goals)),
        "children": cast("Json", [list(pair) for pair in links.children]),
    }


def _links(told: dict[str, Any]) -> Links:
    children = tuple((goal_id, child) for goal_id, child in told["children"])
    return Links(told["parent"], told["parent_goal"], frozenset(told["goals"]), children)
