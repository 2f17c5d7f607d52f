"""The files of one trace as bytes, in a state that it really had, though somebody may be writing to it.

Knows storages and the layout of a trace, no format of exports.
"""

from __future__ import annotations

from collections.abc import Mapping

from traceark.errors import CorruptFileError, DamagedTraceError, TraceNotFoundError
from traceark.layout import GOAL_TREE, HEADER, MANIFEST, trace_key, trace_prefix
from traceark.manifest import decode_manifest, sha256
from traceark.reading import load, retrying
from traceark.storage.base import Storage
from traceark.storage.memory import MemoryStorage

_TRIES = 4


async def trace_files(storage: Storage, trace_id: str) -> dict[str, bytes]:
    """Return the files of a trace by their names, those that begin with a dot left out.

    Headers are read before the logs, which only grow, so that what is taken reaches as far as they
    say. It is read once more as somebody will who unpacks it.

    Raises
    ------
    TraceNotFoundError
    DamagedTraceError
        The files do not make a whole.
    """

    async def read() -> dict[str, bytes]:
        prefix = trace_prefix(trace_id)
        names = [name for name in await storage.list(prefix) if not name.rpartition("/")[2].startswith(".")]
        if HEADER not in names:
            raise TraceNotFoundError(f"no trace {trace_id!r} in {storage.url}")
        names.sort(key=lambda name: (name == MANIFEST, name not in (HEADER, GOAL_TREE), name))
        files = {name: await storage.read(f"{prefix}/{name}") for name in names}
        await _check(trace_id, files)
        return files

    for _ in range(_TRIES - 1):
        try:
            return await retrying(trace_id, read)
        except DamagedTraceError:
            continue  # perhaps a header that was published, or a seal, between two reads
    return await retrying(trace_id, read)


async def _check(trace_id: str, files: Mapping[str, bytes]) -> None:
    key = trace_key(trace_id)
    stored = await load(MemoryStorage.of({f"{key}/{name}": data for name, data in files.items()}), trace_id, key)
    assert stored is not None
    await stored.trace()
    await stored.models()
    await stored.log("events")
    await stored.tree()
    if MANIFEST in files:
        for name, expected in decode_manifest(files[MANIFEST], f"{key}/{MANIFEST}").items():
            if sha256(files.get(name, b"")) != expected:
                raise CorruptFileError(
                    f"{key}/{name} is not the file that the manifest tells of; restore it from a copy"
                )
