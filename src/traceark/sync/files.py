"""The files of one trace as bytes, in a state that it really had, though somebody may be writing to it."""

from __future__ import annotations

from collections.abc import Mapping

from traceark.errors import CorruptFileError, DamagedTraceError, TraceNotFoundError
from traceark.layout import GOAL_TREE, HEADER, MANIFEST, trace_key
from traceark.reading import load, retrying
from traceark.storage.base import Storage
from traceark.storage.memory import MemoryStorage
from traceark.sync.sides import Side, is_exact, look_at_once

_TRIES = 4


async def trace_files(storage: Storage, trace_id: str) -> dict[str, bytes]:
    """Return the files that make a trace, by their names.

    It is what was there at one moment, unless the trace is written to all the while. A sealed trace is checked against
    its manifest; another is read once more as somebody will who unpacks it.

    Raises
    ------
    TraceNotFoundError
    DamagedTraceError
        The files do not make a whole.
    """

    async def read() -> dict[str, bytes]:
        side = await look_at_once(storage, trace_id)
        if side is None:
            raise TraceNotFoundError(f"no trace {trace_id!r} in {storage.url}")
        names = side.log_files()
        if side.manifest is not None:
            # On an object store segments that its parts supersede stay for a while; they are none of the sealed trace.
            names = [name for name in names if name in side.hashes]
        files = {name: await side.read(name) for name in names}
        for name, data in ((GOAL_TREE, side.tree_data), (HEADER, side.header_data), (MANIFEST, side.manifest)):
            if data is not None:
                files[name] = data
        await _check(side, files)
        return files

    for _ in range(_TRIES - 1):
        try:
            return await retrying(trace_id, read)
        except DamagedTraceError:
            continue  # perhaps a header that was published, or a seal, between two reads
    return await retrying(trace_id, read)


async def _check(side: Side, files: Mapping[str, bytes]) -> None:
    key = trace_key(side.trace_id)
    if side.manifest is not None:
        # Each is the file that it tells of; none may be missing.
        for name in side.hashes.keys() - files.keys():
            raise CorruptFileError(f"{key}/{name}, of which the manifest tells, is no file of a trace; seal it again")
        return
    if MANIFEST in side.entries and is_exact(side.header, side.entries):
        raise CorruptFileError(f"{key}/{MANIFEST} is not the manifest of the headers beside it; seal the trace again")
    stored = await load(MemoryStorage.of({f"{key}/{name}": data for name, data in files.items()}), side.trace_id, key)
    assert stored is not None
    await stored.trace()
    await stored.models()
    await stored.log("events")
    await stored.tree()
