"""One trace checked, or every trace of an archive."""

from __future__ import annotations

from collections.abc import Callable

from traceark.catalog.beside import amiss
from traceark.errors import InvalidValueError, TraceNotFoundError
from traceark.layout import TRACES, trace_prefix
from traceark.reading import scan
from traceark.storage.base import Storage
from traceark.verification.finding import Finding
from traceark.verification.links import broken_links
from traceark.verification.one import Checked, check
from traceark.verification.parallel import can_share, check_by_workers, sensible_workers


async def verify(
    storage: Storage,
    trace_id: str | None = None,
    *,
    deep: bool = False,
    workers: int | None = 1,
    progress: Callable[[int, int], None] | None = None,
    binding: str,
) -> list[Finding]:
    """Check one trace, or every trace; `binding` is that of the archive's catalog. See `ArchiveStore.verify`."""
    if workers is not None and workers > 1 and not can_share(storage):
        raise InvalidValueError(f"only an archive on a local disk is shared by processes, not {storage.url}", "workers")
    if trace_id is not None:
        entries = await storage.list(trace_prefix(trace_id))
        if not entries:
            raise TraceNotFoundError(f"no trace {trace_id!r} in {storage.url}")
        return (await check(storage, trace_id, entries, deep=deep)).findings
    listed, strangers = await scan(storage)
    found = [
        Finding(
            key,
            f"{TRACES}/{key}",
            None,
            "the directory's name is no trace key",
            "rename it, or move it out of the archive",
        )
        for key in strangers
    ]
    if workers is None:
        workers = sensible_workers(storage, listed)

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, len(listed))

    tell(0)
    checked: dict[str, Checked] = {}
    if workers > 1:
        checked = await check_by_workers(storage, listed, tell, deep=deep, workers=workers)
    else:
        for each, entries in listed.items():
            checked[each] = await check(storage, each, entries, deep=deep)
            tell(len(checked))
    for each in sorted(checked):
        found += checked[each].findings
    links = {each: of_it.links for each, of_it in checked.items() if of_it.links is not None}
    found += broken_links(links, listed.keys())
    for row in await amiss(storage, binding, listed, deep=deep):
        found.append(Finding(row.trace_id or "", row.file, None, row.meaning, f"traceark refresh {storage.url}"))
    return found
