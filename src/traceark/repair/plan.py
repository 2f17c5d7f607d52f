"""What to do to one trace: read, decided and tried, and nothing written.

A plan holds if a deep check of the trace as it would be finds nothing wrong with it; where none does, the
trace is left wholly as it is, and what stands in the way is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from traceark.codec.parquet import PartInfo
from traceark.errors import CorruptFileError, DamagedTraceError, UnsupportedFormatError
from traceark.headers import Header, TreeFile
from traceark.layout import (
    GOAL_TREE,
    HEADER,
    LOCK,
    LOGS,
    MANIFEST,
    LogName,
    PartName,
    parse_log_name,
    trace_prefix,
)
from traceark.log import Files, LogRead, grown, load_parts, log_names, read_log
from traceark.manifest import decode_manifest, sha256
from traceark.plan import LogPlan, plan_log
from traceark.repair.rebuild import accepted_header, accepted_tree, rebuilt_header, recounted_header, recounted_tree
from traceark.repair.trial import after, tried
from traceark.storage.base import Entry, KeyMissingError, Storage
from traceark.tombstones import Buried
from traceark.verification.burials import was_buried
from traceark.verification.finding import Finding
from traceark.verification.names import incarnations, is_foreign, is_unfinished
from traceark.verification.recount import tells_of
from traceark.verification.sealed import sound_links
from traceark.verification.settling import is_fresh, is_kept, is_under_way, may_outrun

# What importers call the events that tell of changes of goals begins so.
_GOAL_EVENTS = "goal."
_OTHER_INCARNATION = (
    "it is of another incarnation than the header, which does not prove itself",
    f"copy {HEADER} from a copy of the archive",
)
_BY_HAND = "it was changed by hand, or a byte of it was"


@dataclass(frozen=True, slots=True)
class Step:
    """One file that goes, or is given other bytes: its name within the trace, and why."""

    name: str
    data: bytes | None
    meaning: str


@dataclass(slots=True)
class TracePlan:
    """What is to be done to a trace.

    Attributes
    ----------
    trace_id : str
    steps : list of Step
        In this order.
    seals : bool
        Whether it is to be sealed then.
    published : list of str
        Files that sealing then publishes again, though nothing is wrong with them.
    left : list of Finding
        What is not mended.
    """

    trace_id: str
    steps: list[Step] = field(default_factory=list)
    seals: bool = False
    published: list[str] = field(default_factory=list)
    left: list[Finding] = field(default_factory=list)


class _StuckError(Exception):
    """Nothing can be done without guessing; the plan says why."""


async def plan_trace(
    storage: Storage, trace_id: str, entries: Mapping[str, Entry], buried: Set[Buried], *, accept: bool
) -> TracePlan:
    """Return what to do to one trace.

    Parameters
    ----------
    storage, trace_id, entries
        The trace, and its files as they were listed.
    buried : set
        Which incarnations of which traces have a tombstone.
    accept : bool
        Take what was changed by hand for right.
    """
    if await sound_links(storage, trace_prefix(trace_id), trace_id, entries) is not None:
        return TracePlan(trace_id)
    planner = _Planner(storage, trace_id, entries, buried, accept)
    try:
        await planner.decide()
    except _StuckError:
        planner.tell_doubts("copy it from a copy of the archive")
        return TracePlan(trace_id, left=planner.left)
    except KeyMissingError as error:
        planner.leave("", f"a file vanished while it was looked at ({error})", "repair again when nobody writes")
        return TracePlan(trace_id, left=planner.left)
    return TracePlan(trace_id, planner.in_order(), planner.seals, planner.published, planner.left)


class _Planner:
    def __init__(
        self, storage: Storage, trace_id: str, entries: Mapping[str, Entry], buried: Set[Buried], accept: bool
    ) -> None:
        self.storage = storage
        self.trace_id = trace_id
        self.entries = entries
        self.buried = buried
        self.accept = accept
        self.prefix = trace_prefix(trace_id)
        self.steps: dict[str, Step] = {}
        # Those that were read of.
        self.parts: dict[str, PartInfo] = {}
        self.left: list[Finding] = []
        self.seals = False
        self.published: list[str] = []
        # What only the owner can say is right, by file.
        self.doubts: dict[str, str] = {}
        # Whether the header is not the one that was written, so that its incarnation is no proof.
        self.made_up = self.rebuilt = False

    def leave(self, name: str, meaning: str, remedy: str) -> None:
        self.left.append(Finding(self.trace_id, f"{self.prefix}/{name}".rstrip("/"), None, meaning, remedy))

    def stuck(self, name: str, meaning: str, remedy: str) -> _StuckError:
        self.leave(name, meaning, remedy)
        return _StuckError()

    def move(self, name: str, meaning: str) -> None:
        self.steps[name] = Step(name, None, meaning)

    def write(self, name: str, data: bytes, meaning: str) -> None:
        before = self.steps.get(name)
        self.steps[name] = Step(name, data, meaning if before is None else f"{before.meaning}; {meaning}")

    def in_order(self) -> list[Step]:
        """Return the steps: the manifest goes first, since it no longer holds, and the header comes last."""
        ranks = {MANIFEST: 0, GOAL_TREE: 2, HEADER: 3}
        return sorted(self.steps.values(), key=lambda step: (ranks.get(step.name, 1), step.name))

    def remaining(self) -> dict[str, Entry]:
        return after(self.entries, {name: step.data for name, step in self.steps.items()})

    async def decide(self) -> None:
        for name, entry in self.entries.items():
            if is_unfinished(name) and not is_under_way(name, entry):
                self.move(name, "a write was interrupted here; nothing refers to it")
        header = await self._header()
        logs = {log: await self._log(log, header) for log in LOGS}
        if header is None:
            header = self._rebuild_header(logs)
        tree = await self._tree(header, logs["events"])
        self._recount(header, tree, logs["messages"])
        await self._manifest(header)
        if self.seals:
            is_behind = tree is not None and tree.messages != logs["messages"].end
            names = (GOAL_TREE, HEADER) if is_behind else (HEADER,)
            self.published = [name for name in names if name not in self.steps]
        await self._try()
        if self.doubts and not self.accept:
            command = f"traceark repair {self.storage.url} {self.trace_id} --accept --yes"
            self.tell_doubts(f"copy it from a copy of the archive, or take it as it is: {command}")
            raise _StuckError

    def tell_doubts(self, remedy: str) -> None:
        for name, meaning in self.doubts.items():
            self.leave(name, meaning, remedy)
        self.doubts.clear()

    async def _header(self) -> Header | None:
        """Return the header; None where it is to be rebuilt."""
        if HEADER not in self.entries:
            if was_buried(self.trace_id, self.entries, self.buried):
                raise self.stuck(
                    HEADER,
                    "it is missing, and the trace has a tombstone: its deletion was interrupted",
                    f"traceark rm {self.storage.url} {self.trace_id}",
                )
            return None
        what = f"{self.prefix}/{HEADER}"
        data = await self.storage.read(what)
        try:
            header = Header.decode(data, what)
        except UnsupportedFormatError as error:
            raise self.stuck(HEADER, str(error), "upgrade traceark") from None
        except CorruptFileError:
            found = accepted_header(data, what)
            if found is None:
                return None
            self.doubts[HEADER] = f"it reads as a header, but does not prove itself: {_BY_HAND}"
            self.made_up = True
            header = found
            self.write(HEADER, header.encode(), "it does not prove itself, and is taken as it reads")
        if header.trace.trace_id != self.trace_id:
            raise self.stuck(
                HEADER,
                f"it is the header of trace {header.trace.trace_id!r}",
                "rename the directory to the id's trace key",
            )
        return header

    def _incarnation(self, header: Header | None) -> str:
        if header is not None:
            return header.incarnation
        found = incarnations(self.entries)
        if not found:
            raise self.stuck(
                HEADER,
                "it is missing or cannot be read, and no log is there to rebuild it from",
                f"copy the trace again, or remove the folder: {self.prefix}",
            )
        if len(found) > 1:
            told = ", ".join(sorted(found))
            raise self.stuck(
                HEADER,
                f"it is missing or cannot be read, and the logs are of several incarnations: {told}",
                f"copy {HEADER} from a copy of the archive, or move the files of all but one out",
            )
        return found.pop()

    def _rebuild_header(self, logs: Mapping[LogName, LogRead]) -> Header:
        header = rebuilt_header(self.trace_id, self._incarnation(None), logs["messages"], logs["events"].end)
        if header is None:
            raise self.stuck("messages", "its records cannot be counted", "verify --deep says more")
        self.made_up = self.rebuilt = True
        how = "cannot be read" if HEADER in self.entries else "is missing"
        lost = "what only it said (status, task, times, links, what was set) is lost here; a sync from a copy brings it"
        self.write(HEADER, header.encode(), f"it {how}; rebuilt from the logs, totals counted anew; {lost}")
        return header

    async def _log(self, log: LogName, header: Header | None) -> LogRead:
        """Plan what to do about a log's files, and return what is read of it without those that go."""
        incarnation, directory = self._incarnation(header), f"{self.prefix}/{log}"
        names = log_names(self.remaining(), log)
        files = Files(self.storage, directory)
        try:
            parts, damaged = await load_parts(files, directory, names, incarnation, {})
            plan = plan_log(directory, names, incarnation, parts)
            for name in plan.leftovers:
                if self.made_up:
                    raise self.stuck(f"{log}/{name}", *_OTHER_INCARNATION)
                if self._is_old(f"{log}/{name}"):
                    self.move(f"{log}/{name}", "it belongs to another incarnation of the trace and is not read")
            # Who made a part a moment ago is about to take away itself what is in it.
            if not any(is_fresh(self.entries[f"{log}/{name}"]) for name in parts):
                await self._drop_superseded(log, plan, files)
            for name in damaged:
                self.move(f"{log}/{name}", "it does not prove itself, and other files hold all its records")
            read = await read_log(self.storage, self.prefix, log, incarnation, self.remaining(), self.parts)
        except UnsupportedFormatError as error:
            raise self.stuck(log, str(error), "upgrade traceark") from None
        except DamagedTraceError as error:
            raise self.stuck(log, str(error), self._from_a_copy(log)) from None
        for name, problem in damaged.items():
            parsed = parse_log_name(name)
            assert isinstance(parsed, PartName)
            if parsed.last > read.end:
                raise self.stuck(f"{log}/{name}", str(problem), self._from_a_copy(f"{log}/{name}"))
        return read

    def _from_a_copy(self, name: str) -> str:
        return (
            f"copy {self.prefix}/{name} from a copy of the archive; "
            f"or move {self.prefix} away and run traceark sync COPY {self.storage.url}"
        )

    async def _drop_superseded(self, log: LogName, plan: LogPlan, files: Files) -> None:
        """Plan to move files whose every record is in a part: what a compaction that was cut short left."""
        # It may have grown on another machine.
        longer = await grown(files, plan)
        for name in plan.superseded:
            if name not in longer and self._is_old(f"{log}/{name}"):
                self.move(f"{log}/{name}", "parts hold all its records")

    def _is_old(self, name: str) -> bool:
        """Say whether no late writer can rely on a file."""
        return not is_kept(self.storage, self.entries[name])

    async def _tree(self, header: Header, events: LogRead) -> TreeFile | None:
        if GOAL_TREE not in self.entries:
            return None
        what = f"{self.prefix}/{GOAL_TREE}"
        data = await self.storage.read(what)
        try:
            tree = TreeFile.decode(data, what)
        except UnsupportedFormatError as error:
            raise self.stuck(GOAL_TREE, str(error), "upgrade traceark") from None
        except CorruptFileError:
            found = accepted_tree(data, what)
            if found is None:
                told = sum(str(row.record.get("event_type")).startswith(_GOAL_EVENTS) for row in events.records)
                left = f"; {told} events {_GOAL_EVENTS}* still tell of changes" if told else ""
                self.move(GOAL_TREE, f"it cannot be read, and the goals are in no log: they are lost here{left}")
                return None
            self.doubts[GOAL_TREE] = f"it reads as a goal tree, but does not prove itself: {_BY_HAND}"
            tree = found
            self.write(GOAL_TREE, tree.encode(), "it does not prove itself, and is taken as it reads")
        if tree.incarnation != header.incarnation:
            if self.made_up:
                raise self.stuck(GOAL_TREE, *_OTHER_INCARNATION)
            self.move(GOAL_TREE, "it belongs to another incarnation of the trace and is not read")
            return None
        return tree

    def _recount(self, header: Header, tree: TreeFile | None, messages: LogRead) -> None:
        """Plan to bring totals and stats to what the messages say, where they say something else."""
        end = header.checkpoint.ends["messages"]
        if tells_of(self.parts, end) and (data := recounted_header(header, messages)) is not None:
            self.write(HEADER, data, "its totals are counted anew")
        if tree is None or not tells_of(self.parts, tree.messages):
            return
        if (data := recounted_tree(tree, messages)) is not None:
            self.write(GOAL_TREE, data, "its stats are counted anew")

    async def _manifest(self, header: Header) -> None:
        if MANIFEST not in self.entries:
            return
        what = f"{self.prefix}/{MANIFEST}"
        try:
            hashes = decode_manifest(await self.storage.read(what), what)
        except CorruptFileError as error:
            self._unseal(str(error))
            return
        sizes = {name: entry.size for name, entry in self.remaining().items()}
        if header.checkpoint.is_exact(sizes, header.incarnation):
            await self._check_hashes(hashes)
        elif not any(is_kept(self.storage, self.entries[name]) for name in sizes if name.partition("/")[0] in LOGS):
            # A younger one is taken away by its writer, who had not heard of the seal.
            self._unseal("the trace is not as it was sealed")
        if any(name in hashes for name in self.steps) and MANIFEST not in self.steps:
            self._unseal("files that it lists are mended")
        # What a rebuilt header lacks is to be filled in, or brought by a sync, before that is sealed.
        self.seals = self.seals and not self.rebuilt

    def _unseal(self, meaning: str) -> None:
        self.move(MANIFEST, meaning)
        self.seals = True

    async def _check_hashes(self, hashes: Mapping[str, str]) -> None:
        """Look for files that are not what the manifest says, though they prove themselves."""
        wrong: dict[str, str] = {}
        for name in sorted((hashes.keys() | self.entries.keys()) - {MANIFEST, LOCK} - self.steps.keys()):
            if name not in self.entries:
                wrong[name] = "the manifest lists it, and it is missing"
            elif name not in hashes:
                if not is_foreign(name) and self._is_old(name):
                    wrong[name] = "the manifest does not list it"
            elif name in (HEADER, GOAL_TREE) and may_outrun(self.storage, self.entries[name], self.entries[MANIFEST]):
                pass  # its writer, or who seals, takes the manifest away
            elif sha256(await self.storage.read(f"{self.prefix}/{name}")) != hashes[name]:
                wrong[name] = "its SHA-256 is not the manifest's"
        if wrong:
            self.doubts |= wrong
            self._unseal(f"{', '.join(wrong)} is not as it says, and is taken as it is")

    async def _try(self) -> None:
        changes = {name: step.data for name, step in self.steps.items()}
        foreign = {f"{self.prefix}/{name}" for name in self.entries if is_foreign(name)}
        found = await tried(self.storage, self.prefix, self.trace_id, self.entries, changes)
        self.left += found
        if any(finding.file not in foreign for finding in found):
            raise _StuckError
