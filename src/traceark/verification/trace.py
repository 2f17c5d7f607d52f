"""What is wrong with one trace: a careful look at every file, and at every record where it is to be deep."""

from __future__ import annotations

from collections.abc import Mapping

from traceark.codec.parquet import PartInfo, PartRecord
from traceark.errors import (
    CorruptFileError,
    DamagedTraceError,
    InvalidIdError,
    InvalidValueError,
    UnsupportedFormatError,
)
from traceark.headers import Header, TreeFile
from traceark.layout import GOAL_TREE, HEADER, LOCK, LOGS, MANIFEST, LogName, trace_prefix
from traceark.log import Files, LogRead, load_parts, read_log
from traceark.manifest import decode_manifest, sha256
from traceark.models import Event, Message
from traceark.plan import plan_log
from traceark.reading import fold_updates
from traceark.storage.base import Entry, KeyMissingError, Storage
from traceark.verification.finding import HEADLESS, RESTORE, Finding, under_way
from traceark.verification.links import Links
from traceark.verification.names import is_foreign, is_unfinished
from traceark.verification.plain import not_plain
from traceark.verification.recount import fold_to, tells_of, wrong_stats, wrong_totals
from traceark.verification.settling import is_kept, is_locked, is_under_way, may_outrun


class TraceCheck:
    """The check of one trace, file by file and record by record."""

    def __init__(self, storage: Storage, trace_id: str, entries: Mapping[str, Entry], deep: bool) -> None:
        self.storage = storage
        self.trace_id = trace_id
        self.entries = entries
        self.deep = deep
        try:
            self.prefix = trace_prefix(trace_id)
        except InvalidIdError:
            self.prefix = trace_id
        self.repair = f"traceark repair {storage.url} {trace_id}"
        self.found: list[Finding] = []
        self.parts: dict[str, PartInfo] = {}
        # What the trace says of others, once its header and its goal tree were read.
        self.links: Links | None = None

    def find(self, name: str, meaning: str, remedy: str, offset: int | None = None) -> None:
        self.found.append(Finding(self.trace_id, f"{self.prefix}/{name}", offset, meaning, remedy))

    async def run(self) -> list[Finding]:
        try:
            await self._run()
        except KeyMissingError as error:
            self.find("", f"a file vanished while it was checked ({error})", "run verify again when nobody writes")
        return self.found

    async def _run(self) -> None:
        if HEADER not in self.entries:
            if is_locked(self.storage, self.prefix, self.entries):
                self.found.append(under_way(self.trace_id, "verify"))
                return
            self.find(
                HEADER,
                HEADLESS,
                f"copy it again; rebuild what the logs tell: {self.repair}; or remove the folder: {self.prefix}",
            )
            return
        try:
            header = Header.decode(await self.storage.read(f"{self.prefix}/{HEADER}"), f"{self.prefix}/{HEADER}")
        except (CorruptFileError, UnsupportedFormatError) as error:
            self.find(HEADER, str(error), self._or_repair(error))
            return
        if header.trace.trace_id != self.trace_id:
            self.find(
                HEADER,
                f"it is the header of trace {header.trace.trace_id!r}",
                "rename the directory to the id's trace key",
            )
            return
        self._names()
        logs: dict[LogName, LogRead] = {}
        for log in LOGS:
            read = await self._log(log, header)
            if read is not None:
                logs[log] = read
        tree = await self._tree(header, logs.get("messages"))
        if tree is not None or GOAL_TREE not in self.entries:
            self.links = Links.of(header, tree)
        await self._manifest(header)
        if self.deep and "messages" in logs and "events" in logs:
            self._records(header, tree, logs["messages"].records, logs["events"].records)

    def _or_repair(self, error: Exception) -> str:
        """Return the remedy for a file that cannot be read: of a newer format it is another release."""
        return "upgrade traceark" if isinstance(error, UnsupportedFormatError) else f"{RESTORE}; or: {self.repair}"

    def _names(self) -> None:
        for name, entry in self.entries.items():
            if not entry.plain and (meaning := not_plain(self.storage, f"{self.prefix}/{name}")):
                self.find(name, meaning, RESTORE)
            elif is_unfinished(name):
                if not is_under_way(name, entry):
                    self.find(name, "a write was interrupted here; nothing refers to it", self.repair)
            elif is_foreign(name):
                self.find(name, "it is no file of the format", "move it out of the trace's directory")

    async def _log(self, log: LogName, header: Header) -> LogRead | None:
        names = [name.partition("/")[2] for name in self.entries if name.startswith(f"{log}/")]
        try:
            parts, damaged = await load_parts(
                Files(self.storage, f"{self.prefix}/{log}"),
                f"{self.prefix}/{log}",
                names,
                header.incarnation,
                self.parts,
            )
            for name, error in damaged.items():
                self.find(f"{log}/{name}", str(error), f"{RESTORE}; where its segments are still there: {self.repair}")
            plan = plan_log(f"{self.prefix}/{log}", names, header.incarnation, parts)
            for name in plan.leftovers:
                if not is_kept(self.storage, self.entries[f"{log}/{name}"]):
                    self.find(
                        f"{log}/{name}",
                        "it belongs to another incarnation of the trace and is not read",
                        self.repair,
                    )
            read = await read_log(
                self.storage,
                self.prefix,
                log,
                header.incarnation,
                self.entries,
                self.parts,
                after=0 if self.deep else header.checkpoint.ends[log],
            )
        except UnsupportedFormatError as error:
            self.find(log, str(error), "upgrade traceark")
            return None
        except DamagedTraceError as error:
            if not any(str(error) == finding.meaning for finding in self.found):
                self.find(log, str(error), RESTORE)
            return None
        stated = header.checkpoint.ends[log]
        if stated > read.end:
            self.find(
                log,
                f"offsets {read.end + 1} to {stated} are missing: the header is as of {stated}",
                "copy the directory again from where the trace was written",
                read.end + 1,
            )
            return None
        return read

    async def _tree(self, header: Header, messages: LogRead | None) -> TreeFile | None:
        if GOAL_TREE not in self.entries:
            return None
        try:
            tree = TreeFile.decode(await self.storage.read(f"{self.prefix}/{GOAL_TREE}"), f"{self.prefix}/{GOAL_TREE}")
            tree.tree.check()
        except (CorruptFileError, UnsupportedFormatError, InvalidValueError) as error:
            self.find(GOAL_TREE, str(error), self._or_repair(error))
            return None
        if not tree.is_of(header.incarnation):
            self.find(GOAL_TREE, "it belongs to another incarnation of the trace and is not read", self.repair)
            return None
        if messages is not None and tree.messages > messages.end:
            self.find(
                GOAL_TREE,
                f"its stats are as of messages offset {tree.messages}, but the messages end at {messages.end}",
                "copy the messages directory again",
                messages.end + 1,
            )
            return None
        return tree

    async def _manifest(self, header: Header) -> None:
        if MANIFEST not in self.entries:
            return
        try:
            hashes = decode_manifest(await self.storage.read(f"{self.prefix}/{MANIFEST}"), f"{self.prefix}/{MANIFEST}")
        except CorruptFileError as error:
            self.find(MANIFEST, str(error), self.repair)
            return
        sizes = {name: entry.size for name, entry in self.entries.items()}
        if not header.checkpoint.is_exact(sizes, header.incarnation):
            logs = [entry for name, entry in self.entries.items() if name.partition("/")[0] in LOGS]
            # Its writer had not heard of the seal, and takes the manifest away when it does.
            if not any(is_kept(self.storage, entry) for entry in logs):
                self.find(MANIFEST, "the trace was written to after it was sealed", self.repair)
            return
        accept = f"{RESTORE}; or take what is there: {self.repair} --accept"
        superseded = self._superseded(header)
        for name in sorted(set(hashes) - set(self.entries)):
            self.find(name, "the manifest lists it, and it is missing", accept)
        unlisted = set(self.entries) - set(hashes) - {MANIFEST, LOCK} - superseded
        late = {name for name in unlisted if self._may_outrun(name)}
        for name in sorted(unlisted - late):
            told = any(finding.file == f"{self.prefix}/{name}" for finding in self.found)
            if not told and not is_under_way(name, self.entries[name]):
                self.find(name, "the manifest does not list it", accept)
        if self.deep:
            # With what came late the headers changed; or they came late themselves.
            manifest, headers = self.entries[MANIFEST], {HEADER, GOAL_TREE} & self.entries.keys()
            changed = {name for name in headers if late or may_outrun(self.storage, self.entries[name], manifest)}
            for name in sorted(set(hashes) & set(self.entries) - changed):
                if sha256(await self.storage.read(f"{self.prefix}/{name}")) != hashes[name]:
                    self.find(name, "its SHA-256 is not the manifest's", accept)

    def _may_outrun(self, name: str) -> bool:
        """Say whether who wrote a file may not have heard of the seal yet, and takes the manifest away when it does."""
        is_written = name in (HEADER, GOAL_TREE) or name.partition("/")[0] in LOGS
        return is_written and is_kept(self.storage, self.entries[name])

    def _superseded(self, header: Header) -> set[str]:
        """Return files that a storage keeps for late writers though they hold nothing that counts."""
        found: set[str] = set()
        for log in LOGS:
            names = [name.partition("/")[2] for name in self.entries if name.startswith(f"{log}/")]
            parts = {key.rpartition("/")[2]: info for key, info in self.parts.items() if f"/{log}/" in key}
            try:
                plan = plan_log(log, names, header.incarnation, parts)
            except DamagedTraceError:
                continue  # found with the log
            found |= {f"{log}/{name}" for name in plan.superseded}
            leftovers = {f"{log}/{name}" for name in plan.leftovers}
            found |= {name for name in leftovers if is_kept(self.storage, self.entries[name])}
        return found

    def _records(
        self, header: Header, tree: TreeFile | None, messages: list[PartRecord], events: list[PartRecord]
    ) -> None:
        for row in messages:
            if not isinstance(row.record.get("message_id"), str):
                self.find("messages", "a record names no message", RESTORE, row.offset)
                return
            if row.op is None and not isinstance(row.record.get("sequence"), int):
                self.find("messages", "a message has no sequence", RESTORE, row.offset)
                return
        try:
            for row in fold_updates(messages):
                parsed = Message.parse(row.record)
                if parsed.trace_id != self.trace_id:
                    self.find("messages", f"a message of trace {parsed.trace_id!r}", RESTORE, row.offset)
        except (CorruptFileError, InvalidValueError) as error:
            self.find("messages", f"a record is no message ({error})", RESTORE)
            return
        for row in events:
            try:
                event = Event.parse({name: value for name, value in row.record.items() if name != "trace_id"})
            except InvalidValueError as error:
                self.find("events", f"a record is no event ({error})", RESTORE, row.offset)
                continue
            if event.event_id != row.offset:
                self.find("events", f"its event_id is {event.event_id}", RESTORE, row.offset)
        end = header.checkpoint.ends["messages"]
        for name, stated, counted in wrong_totals(header, fold_to(messages, end)) if tells_of(self.parts, end) else ():
            self.find(HEADER, f"{name} is {stated}, and a recount gives {counted}", self.repair)
        if tree is not None and tells_of(self.parts, tree.messages):
            try:
                wrong = list(wrong_stats(tree, fold_to(messages, tree.messages)))
            except InvalidValueError as error:
                self.find("messages", f"they add up to what no goal can hold ({error})", RESTORE)
                return
            for name, goal_id, was, is_now in wrong:
                meaning = f"{name} of goal {goal_id!r} are {was}, and a recount gives {is_now}"
                self.find(GOAL_TREE, meaning, self.repair)
