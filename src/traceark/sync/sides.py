"""One side of a sync: a trace's files as they are read, in the order that makes them one true state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from traceark.codec.lines import to_record
from traceark.codec.parquet import PartInfo, Run
from traceark.errors import CorruptFileError, IncompleteTraceError, StorageError
from traceark.headers import Header, TreeFile
from traceark.layout import GOAL_TREE, HEADER, LOGS, MANIFEST, LogName, PartName, parse_log_name, trace_prefix
from traceark.lifecycle import versions
from traceark.log import log_names
from traceark.manifest import decode_manifest, sha256
from traceark.reading import StoredTrace, is_still, why_unreadable
from traceark.storage.base import Entry, KeyMissingError, Storage
from traceark.sync.compare import Content, Copy

# Somebody who writes to a trace all the while does so between any two looks.
_LOOKS = 16


class UnreadableError(StorageError):
    """A side may not be read by this user, or its disk cannot read it: it says nothing of what is there."""


@contextmanager
def reading(storage: Storage) -> Iterator[None]:
    """Tell that a trace cannot be read from all that stops a sync.

    Raises
    ------
    UnreadableError
    """
    try:
        yield
    except StorageError as error:
        why = why_unreadable(error, storage)
        if why is None:
            raise
        raise UnreadableError(error.errno, f"{why}; make it readable, or restore it from a copy") from error


@dataclass(slots=True)
class Side:
    """One trace in one archive.

    The headers were read before the logs were listed, so that the logs hold all that they are as of.

    Attributes
    ----------
    header_data, tree_data, manifest : bytes
        As they are in the files; None for what is not there, or of another state.
    entries : mapping of str to Entry
        All files, by key relative to the trace; of the headers the versions that were read.
    hashes : mapping of str to str
        What the manifest says of the files, which holds of the logs of `above` too.
    is_of_one_moment : bool
        Whether the headers were still those that had been read when the files were listed.
    is_still : bool
        Whether nothing at all had changed when the files were listed once more, so that it was all this at one moment.
    kept : dict of str to bytes
        By key, what `copy` read of segments, until `read` wants it: what is compared is mostly copied then.
    """

    storage: Storage
    trace_id: str
    header_data: bytes
    header: Header
    tree_data: bytes | None
    tree: TreeFile | None
    manifest: bytes | None
    entries: Mapping[str, Entry]
    hashes: Mapping[str, str] = field(default_factory=dict)
    is_of_one_moment: bool = True
    is_still: bool = True
    parts: dict[str, PartInfo] = field(default_factory=dict)
    kept: dict[str, bytes] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """Where the trace lies."""
        return trace_prefix(self.trace_id)

    def above(self, revision: int) -> Side:
        """Return it with a header that is newer than a revision, and so not sealed any more.

        A copy that only brought its totals up to date, or was sealed, may have published its header
        more often than the later state; by its revision it would be taken for the newer one.
        """
        header = replace(self.header, revision=revision + 1)
        return replace(self, header=header, header_data=header.encode(), manifest=None)

    def log_files(self) -> list[str]:
        """Return the files that hold its logs, by key relative to the trace, in their order."""
        return [
            f"{log}/{name}"
            for log in LOGS
            for name in sorted(log_names(self.entries, log))
            if (parsed := parse_log_name(name)) is not None and parsed.incarnation == self.header.incarnation
        ]

    async def read(self, name: str) -> bytes:
        """Return a file of its logs, no more of it than was listed.

        Raises
        ------
        KeyMissingError, UnreadableError
        CorruptFileError
            It does not fit the manifest.
        """
        key = f"{self.prefix}/{name}"
        data = self.kept.pop(key, None)
        if data is None:
            with reading(self.storage):
                data = (await self.storage.read(key))[: self.entries[name].size]
        if name in self.hashes and sha256(data) != self.hashes[name]:
            raise CorruptFileError(
                f"{self.storage.url}/{key} is not the file that the manifest tells of; restore it from a copy"
            )
        return data

    async def copy(self) -> Copy:
        """Return what tells it from another copy.

        Raises
        ------
        DamagedTraceError, UnreadableError
        """
        with reading(self.storage):
            return Copy(self.header, self.tree, {log: await self._runs(log) for log in LOGS})

    def prove(self, copy: Copy) -> None:
        """Refuse it where its logs, as of its copy, lack what its headers tell of.

        Raises
        ------
        IncompleteTraceError
        """
        stated = dict(self.header.checkpoint.ends)
        if self.tree is not None:
            stated["messages"] = max(stated["messages"], self.tree.messages)
        for log, end in stated.items():
            found = copy.runs[log][-1].last if copy.runs[log] else 0
            if found < end:
                raise IncompleteTraceError(
                    f"{self.storage.url}/{self.prefix}: its headers are as of {log} offset {end}, but the {log} end at "
                    f"{found}; copy the {log} directory again from where the trace was written",
                    self.header.state,
                )

    async def content(self) -> Content:
        """Return what it says; raises as `copy` does."""
        stored = self.stored()
        with reading(self.storage):
            messages = [row.record for row in await stored.messages()]
            events = [row.record for row in (await stored.log("events")).records]
            tree = await stored.tree()
        return Content(messages, events, self.header.told(), to_record(tree) if tree is not None else None)

    async def _runs(self, log: LogName) -> list[Run]:
        # Of a part the footer tells who wrote it; only what follows the parts has to be read.
        # A part of another incarnation is left of a namesake, or of a redaction that is under way.
        parsed = [parse_log_name(name) for name in log_names(self.entries, log)]
        parts = [each for each in parsed if isinstance(each, PartName) and each.incarnation == self.header.incarnation]
        last = max((each.last for each in parts), default=0)
        stored = self.stored()
        read = await stored.read(log, after=last)
        if read.damaged:
            read = await stored.read(log)  # what a part that does not count held must lie elsewhere
        return read.runs

    def stored(self) -> StoredTrace:
        """Return it for reading."""
        return StoredTrace(
            self.storage,
            self.trace_id,
            self.prefix,
            self.entries,
            self.header,
            self.parts,
            as_listed=True,
            kept=self.kept,
        )


async def look(storage: Storage, trace_id: str, listed: Mapping[str, Entry] | None = None) -> Side | None:
    """Return a trace as it is now, or None where there is none.

    Where its files were `listed` a while ago and a manifest was among them, that manifest and its headers are read and
    the listing is believed, if they are of each other: then nothing else can be missing.

    Raises
    ------
    CorruptFileError, UnsupportedFormatError
        A header does not prove itself.
    UnreadableError
    """
    with reading(storage):
        if listed is not None and MANIFEST in listed:
            side = await _look(storage, trace_id, listed)
            if side is not None and side.manifest is not None:
                return side
        while True:
            side = await _look(storage, trace_id, None)
            if side is None or side.manifest is not None:
                return side  # what proves itself by its manifest is whole
            now = await storage.list(side.prefix)
            side.is_still = side.is_of_one_moment and versions(now) == versions(side.entries)
            # Of anything else the files must be the header's: the trace may have been replaced between the two.
            if side.is_still or await is_still(storage, side.prefix, side.header.incarnation):
                return side


async def look_at_once(storage: Storage, trace_id: str, listed: Mapping[str, Entry] | None = None) -> Side | None:
    """Return a trace as it is at one moment, unless it is written to all the while; parameters and errors as of `look`.

    Its files are read and listed one after another. Of two copies that are of no one moment each may have more than
    the other in one file, though nobody wrote to either.
    """
    side = await look(storage, trace_id, listed)
    for _ in range(_LOOKS):
        if side is None or side.is_still:
            break
        side = await look(storage, trace_id)
    return side


async def _look(storage: Storage, trace_id: str, listed: Mapping[str, Entry] | None) -> Side | None:
    prefix = trace_prefix(trace_id)
    read: dict[str, str] = {}
    header_data, read[HEADER] = await _versioned_if_there(storage, f"{prefix}/{HEADER}")
    if header_data is None:
        return None
    header = Header.decode(header_data, f"{prefix}/{HEADER}")
    if header.trace.trace_id != trace_id:
        raise CorruptFileError(
            f"{prefix}/{HEADER} is the header of trace {header.trace.trace_id!r}, whose directory has another name; "
            "rename it or restore it"
        )
    tree_data = None
    if listed is None or GOAL_TREE in listed:
        tree_data, read[GOAL_TREE] = await _versioned_if_there(storage, f"{prefix}/{GOAL_TREE}")
    tree = None if tree_data is None else TreeFile.decode(tree_data, f"{prefix}/{GOAL_TREE}")
    if tree is not None and not tree.is_of(header.incarnation):
        tree_data = tree = None
    entries = await storage.list(prefix) if listed is None else listed
    # What was replaced after it was read is newer than what is known of it here.
    known = {name: replace(entries[name], version=version) for name, version in read.items() if name in entries}
    is_of_one_moment = all(
        version == (entries[name].version if name in entries else "") for name, version in read.items()
    )
    entries = {**entries, **known}
    manifest = await _read_if_there(storage, f"{prefix}/{MANIFEST}") if MANIFEST in entries else None
    hashes: Mapping[str, str] = {}
    if manifest is not None and is_exact(header, entries):
        hashes = _hashes(manifest, prefix, header_data, tree_data, entries)
    manifest = manifest if hashes else None
    return Side(storage, trace_id, header_data, header, tree_data, tree, manifest, entries, hashes, is_of_one_moment)


def is_exact(header: Header, entries: Mapping[str, Entry]) -> bool:
    """Say whether nothing was written to the logs since a header; a manifest from before that seals nothing."""
    sizes = {name: entry.size for name, entry in entries.items()}
    return header.checkpoint.is_exact(sizes, header.incarnation)


def _hashes(
    manifest: bytes, prefix: str, header: bytes, tree: bytes | None, entries: Mapping[str, Entry]
) -> dict[str, str]:
    """Return what a manifest says, if it is that of these very headers, and all its files are there; else nothing."""
    try:
        hashes = decode_manifest(manifest, f"{prefix}/{MANIFEST}")
    except CorruptFileError:
        return {}
    told = {HEADER: sha256(header)} | ({GOAL_TREE: sha256(tree)} if tree is not None else {})
    headers = {name: digest for name, digest in hashes.items() if name in (HEADER, GOAL_TREE)}
    return hashes if headers == told and hashes.keys() <= entries.keys() else {}


async def _read_if_there(storage: Storage, key: str) -> bytes | None:
    try:
        return await storage.read(key)
    except KeyMissingError:
        return None


async def _versioned_if_there(storage: Storage, key: str) -> tuple[bytes | None, str]:
    try:
        return await storage.read_versioned(key)
    except KeyMissingError:
        return None, ""
