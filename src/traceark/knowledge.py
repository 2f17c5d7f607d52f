"""A trace as this process knows it: what its files said when they were last looked at, folded, in memory.

How it comes to know more is here, and what that says; that it writes itself, is in `live`.
"""

from __future__ import annotations

from collections.abc import Mapping

from traceark.codec.parquet import PartInfo
from traceark.errors import DamagedTraceError, IncompleteTraceError, TraceNotFoundError
from traceark.headers import Checkpoint, Header, TreeFile, as_read
from traceark.layout import GOAL_TREE, HEADER, LOGS, MANIFEST, LogName, PartName, parse_log_name, trace_prefix
from traceark.log import LogRead, Tail, read_log
from traceark.models import GoalTree, Trace
from traceark.reading import StoredTrace, retrying
from traceark.requests import fold_record
from traceark.segments import Places
from traceark.stats import MessageFold, totals_of, with_stats
from traceark.storage.base import Entry, Storage


def _version(entries: Mapping[str, Entry], name: str) -> str | None:
    return entries[name].version if name in entries else None


class KnownTrace:
    """One trace, as it is known here.

    Attributes
    ----------
    header : Header
        As last read or published; its totals are as of its checkpoint, `view` gives current ones.
    tree : TreeFile or None
        The same for the goal tree.
    fold : MessageFold
        Over all durable messages.
    ends : dict
        The last durable offset of each log.
    tails, crcs : dict
        The last segment of each log, and the ``_crc`` of its last record, where they are known.
    """

    def __init__(self, storage: Storage, trace_id: str) -> None:
        self.storage = storage
        self.trace_id = trace_id
        self.prefix = trace_prefix(trace_id)
        self.header = Header(Trace(trace_id=trace_id), "")
        self.tree: TreeFile | None = None
        self.fold = MessageFold()
        self.ends: dict[LogName, int] = {"messages": 0, "events": 0}
        self.tails: dict[LogName, Tail | None] = {"messages": None, "events": None}
        self.crcs: dict[LogName, str | None] = {"messages": None, "events": None}
        self.entries: dict[str, Entry] = {}
        self.parts: dict[str, PartInfo] = {}
        self.places = Places()

    @property
    def sealed(self) -> bool:
        """Whether the manifest was there when the trace was last listed."""
        return MANIFEST in self.entries

    async def refresh(self) -> None:
        """Take in what others wrote since.

        Raises
        ------
        TraceNotFoundError
            It is gone.
        DamagedTraceError
            Its files do not make a whole.
        """

        async def look() -> None:
            await self._refresh(await self.storage.list(self.prefix))

        await retrying(self.trace_id, look)

    async def _refresh(self, entries: dict[str, Entry]) -> None:
        header = entries.get(HEADER)
        if header is None:
            raise TraceNotFoundError(f"no trace {self.trace_id!r} in {self.storage.url}")
        if _version(entries, HEADER) != _version(self.entries, HEADER):
            await self._read_header()
        if _version(entries, GOAL_TREE) != _version(self.entries, GOAL_TREE):
            await self._read_tree(GOAL_TREE in entries)
        news = {log: await self._news(log, entries) for log in LOGS}
        # From here on nothing is waited for: whoever is cancelled knows what it knew, of all files.
        for log, (read, is_all) in news.items():
            if is_all:
                self.fold = MessageFold()
            if read is not None:
                self.take(log, read)
        self.entries = entries
        for log in LOGS:
            stated = self.header.checkpoint.ends[log]
            if log == "messages" and self.tree is not None:
                stated = max(stated, self.tree.messages)
            if stated > self.ends[log]:
                raise IncompleteTraceError(
                    f"trace {self.trace_id!r}: its headers are as of {log} offset {stated}, but the {log} end at "
                    f"{self.ends[log]}; offsets {self.ends[log] + 1} to {stated} are missing: "
                    f"copy the {log} directory again",
                    self.header.state,
                )

    async def _read_header(self) -> None:
        data, _ = await self.storage.read_versioned(f"{self.prefix}/{HEADER}")
        header = Header.decode(data, f"{self.prefix}/{HEADER}")
        if header.trace.trace_id != self.trace_id:
            raise DamagedTraceError(
                f"{self.prefix}/{HEADER} is the header of trace {header.trace.trace_id!r}; "
                "rename the directory to its key"
            )
        if self.header.incarnation not in ("", header.incarnation):
            self._forget()
        self.header = header

    def _forget(self) -> None:
        """Drop what was known of a trace that was deleted and made anew."""
        self.tree = None
        self.fold = MessageFold()
        self.ends = {"messages": 0, "events": 0}
        self.tails = {"messages": None, "events": None}
        self.crcs = {"messages": None, "events": None}
        self.entries = {}
        self.parts = {}
        self.places = Places()

    async def _read_tree(self, exists: bool) -> None:
        if not exists:
            self.tree = None
            return
        data, _ = await self.storage.read_versioned(f"{self.prefix}/{GOAL_TREE}")
        tree = TreeFile.decode(data, f"{self.prefix}/{GOAL_TREE}")
        self.tree = tree if tree.is_of(self.header.incarnation) else None

    async def _news(self, log: LogName, entries: Mapping[str, Entry]) -> tuple[LogRead | None, bool]:
        """Return what a log holds past its known end, None where it is as it was, and whether it is read anew."""
        ours = {name: entry.size for name, entry in self.entries.items() if name.startswith(f"{log}/")}
        theirs = {name: entry.size for name, entry in entries.items() if name.startswith(f"{log}/")}
        tail = self.tails[log]
        if tail is not None and f"{log}/{tail.name}" in ours:
            ours[f"{log}/{tail.name}"] = tail.size
        if ours == theirs:
            return None, False
        known, where = self.ends[log], (self.storage, self.prefix, log, self.header.incarnation, entries, self.parts)
        read = await read_log(*where, after=known, places=self.places)
        if known and len(read.records) < read.end - known:
            # A seal folded updates past the known end into messages before it.
            return await read_log(*where), True
        return read, False

    def take(self, log: LogName, read: LogRead) -> None:
        """Fold in what was read of a log past its known end."""
        if read.end < self.ends[log]:
            raise IncompleteTraceError(
                f"trace {self.trace_id!r}: the {log} ended at offset {self.ends[log]} and now end at {read.end}; "
                "files were removed or replaced while it was open",
                self.header.state,
            )
        if log == "messages":
            for row in read.records:
                fold_record(self.fold, row.op, row.record, row.offset)
        self.ends[log] = read.end
        self.tails[log] = read.tail
        if read.crc is not None:
            self.crcs[log] = read.crc

    def stored(self) -> StoredTrace:
        """Return its files as they are known here, bounded by what is durable."""
        entries, parts, ends = dict(self.entries), self.parts, dict(self.ends)
        return StoredTrace(
            self.storage, self.trace_id, self.prefix, entries, self.header, parts=parts, ends=ends, places=self.places
        )

    def view(self) -> Trace:
        """Return the header with its totals as the messages are now."""
        header = self.header
        trace = header.trace.model_copy(deep=True)
        values = trace.__dict__
        values.update(totals_of(self.fold.total, header.adjustments))
        values["last_sequence"] = max(self.fold.last_sequence, header.floor)
        values["last_event_id"] = self.ends["events"]
        return trace

    def tree_view(self) -> GoalTree | None:
        """Return the goal tree with its stats as the messages are now, marked with its revision."""
        if self.tree is None:
            return None
        tree = with_stats(self.tree.tree.model_copy(deep=True), self.fold.by_goal, self.tree.was_set)
        return as_read(tree, self.tree)

    def checkpoint(self) -> Checkpoint:
        """Return a checkpoint of the logs as they are now."""
        found = Checkpoint(dict(self.ends))
        for log in LOGS:
            tail = self.tails[log]
            if tail is not None and self.ends[log]:
                found.files[log] = (tail.name, tail.size)
            elif self.ends[log]:
                parts = [
                    name
                    for name in self.parts
                    if f"{log}/{name.rpartition('/')[2]}" in self.entries and f"/{log}/" in name
                ]
                last = max(parts, key=lambda name: self.parts[name].last)
                key = last.removeprefix(f"{self.prefix}/")
                found.files[log] = (key.rpartition("/")[2], self.entries[key].size)
            last_name = found.files.get(log, ("", 0))[0]
            found.others[log] = {
                name: entry.size
                for key, entry in self.entries.items()
                if key.startswith(f"{log}/")
                and (name := key.rpartition("/")[2]) != last_name
                and (parsed := parse_log_name(name)) is not None
                and (isinstance(parsed, PartName) or parsed.writer)
                and parsed.incarnation == self.header.incarnation
            }
        return found
