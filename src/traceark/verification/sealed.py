"""The quick way to find nothing wrong with a sealed trace: each file is read and hashed once, each part decoded once.

What is wrong, if anything is, the careful look tells: `verification.trace`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

from traceark.codec.checked import SoundPart, sound_part
from traceark.codec.counted import Counted
from traceark.errors import CorruptFileError, InvalidValueError, UnsupportedFormatError
from traceark.headers import Header, TreeFile
from traceark.layout import GOAL_TREE, HEADER, LOCK, LOGS, MANIFEST, LogName, PartName, parse_log_name
from traceark.manifest import decode_manifest, sha256
from traceark.stats import Sums
from traceark.storage.base import Entry, KeyMissingError, Storage
from traceark.verification.links import Links
from traceark.verification.recount import wrong_stats, wrong_totals


async def sound_links(storage: Storage, prefix: str, trace_id: str, entries: Mapping[str, Entry]) -> Links | None:
    """Return what a trace says of others if it is sealed and a careful, deep look at it would find nothing.

    None means that the careful look is to be taken, and not that it will find something.
    """
    if HEADER not in entries or MANIFEST not in entries:
        return None
    try:
        return await _Quick(storage, prefix, trace_id, entries).look()
    except (CorruptFileError, UnsupportedFormatError, InvalidValueError, KeyMissingError):
        return None


class _Quick:
    def __init__(self, storage: Storage, prefix: str, trace_id: str, entries: Mapping[str, Entry]) -> None:
        self.storage = storage
        self.prefix = prefix
        self.trace_id = trace_id
        self.entries = entries
        self.hashes: dict[str, str] = {}

    async def look(self) -> Links | None:
        what = f"{self.prefix}/{MANIFEST}"
        self.hashes = decode_manifest(await self.storage.read(what), what)
        if self.hashes.keys() != self.entries.keys() - {MANIFEST, LOCK}:
            return None
        data = await self._read(HEADER)
        if data is None:
            return None
        header = Header.decode(data, self.prefix)
        sizes = {name: entry.size for name, entry in self.entries.items()}
        if header.trace.trace_id != self.trace_id or not header.checkpoint.is_exact(sizes, header.incarnation):
            return None
        names = self._parts(header)
        if names is None:
            return None
        sums = Counted(Sums(), {}, 0)
        for log, (name, parsed) in names.items():
            part = await self._part(log, name, parsed)
            if part is None:
                return None
            sums = part.sums or sums
        if any(wrong_totals(header, sums)):
            return None
        if GOAL_TREE not in self.entries:
            return Links.of(header, None)
        tree = await self._tree(header)
        return None if tree is None or any(wrong_stats(tree, sums)) else Links.of(header, tree)

    def _parts(self, header: Header) -> dict[LogName, tuple[str, PartName]] | None:
        """Return the one part of each log that has any, if they and the headers are all that is there."""
        found: dict[LogName, tuple[str, PartName]] = {}
        for log in LOGS:
            names = [name for name in self.entries if name.startswith(f"{log}/")]
            if len(names) > 1:
                return None
            end = header.checkpoint.ends[log]
            for name in names:
                parsed = parse_log_name(name.partition("/")[2])
                if not isinstance(parsed, PartName) or parsed.incarnation != header.incarnation or parsed.last != end:
                    return None
                found[log] = name, parsed
            if not names and end != 0:
                return None
        others = self.entries.keys() - {name for name, _ in found.values()}
        return found if others <= {HEADER, GOAL_TREE, MANIFEST, LOCK} else None

    async def _part(self, log: LogName, name: str, parsed: PartName) -> SoundPart | None:
        data = await self._read(name)
        if data is None or f"{zlib.crc32(data):08x}" != parsed.crc:
            return None
        part = sound_part(data, log, self.trace_id)
        if part is None or (part.info.first, part.info.last) != (parsed.first, parsed.last):
            return None
        return part if part.info.incarnation == parsed.incarnation else None

    async def _tree(self, header: Header) -> TreeFile | None:
        data = await self._read(GOAL_TREE)
        if data is None:
            return None
        tree = TreeFile.decode(data, self.prefix)
        tree.tree.check()
        as_of = header.incarnation, header.checkpoint.ends["messages"]
        return tree if (tree.incarnation, tree.messages) == as_of else None

    async def _read(self, name: str) -> bytes | None:
        """Return a file's bytes if they are those that the manifest tells."""
        data = await self.storage.read(f"{self.prefix}/{name}")
        return data if sha256(data) == self.hashes[name] else None
