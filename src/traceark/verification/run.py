"""One trace checked, or every trace of an archive."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Set
from contextlib import AbstractContextManager, aclosing, nullcontext
from pathlib import Path

from traceark.catalog import beside
from traceark.errors import CorruptFileError, InvalidValueError, TraceNotFoundError
from traceark.layout import MARKER, TRACES, trace_prefix
from traceark.reading import scan_readable
from traceark.rollups import beside as rollups_beside
from traceark.rollups.cache import FileCache
from traceark.storage.base import Entry, Storage
from traceark.tombstones import Buried, buried
from traceark.verification import burials
from traceark.verification.finding import HEADLESS, Finding, unreadable
from traceark.verification.links import broken_links
from traceark.verification.one import Checked, check
from traceark.verification.parallel import can_share, check_by_workers, check_together, sensible_workers
from traceark.verification.plain import strange_names
from traceark.verification.resuming import Progress

Listed = Mapping[str, Mapping[str, Entry]]


async def verify(
    storage: Storage,
    trace_id: str | None = None,
    *,
    deep: bool = False,
    workers: int | None = 1,
    resume: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    binding: Callable[[], Awaitable[str]],
    cache: FileCache,
) -> list[Finding]:
    """Check one trace, or every trace; see `ArchiveStore.verify`.

    `binding` returns that of the archive's catalog, and `cache` where files of its rollups are kept.
    """
    if workers is not None and workers > 1 and not can_share(storage):
        raise InvalidValueError(f"only an archive on a local disk is shared by processes, not {storage.url}", "workers")
    if trace_id is not None:
        if resume is not None:
            raise InvalidValueError("only a verify of all traces goes on where it was", "resume")
        entries = await storage.list(trace_prefix(trace_id))
        if not entries:
            raise TraceNotFoundError(f"no trace {trace_id!r} in {storage.url}")
        findings = (await check(storage, trace_id, entries, deep=deep)).findings
        return _with_burials(storage, findings, entries, await buried(storage))
    listed, strangers, refused = await scan_readable(storage)
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
    found += [unreadable(each, why, "verify") for each, why in sorted(refused.items())]
    found += await strange_names(storage)
    bound = None
    try:
        bound = await binding()
    except CorruptFileError as error:
        if resume is not None:
            raise  # which archive the file would be of cannot be told
        remedy = f"copy it again; or delete it: the next write to {storage.url} makes another"
        found.append(Finding("", MARKER, None, str(error).partition(";")[0], remedy))

    def tell(done: int) -> None:
        if progress is not None:
            progress(done, len(listed))

    with _progress(resume, storage, bound, deep=deep) as kept:
        checked = kept.checked(listed) if kept is not None else {}
        tell(len(checked))
        todo = {each: entries for each, entries in listed.items() if each not in checked}
        async with aclosing(_check_all(storage, todo, deep=deep, workers=workers)) as chunks:
            async for chunk in chunks:
                if kept is not None:
                    kept.add(chunk, listed)
                checked.update(chunk)
                tell(len(checked))
        tombstones = await buried(storage)
        for each in sorted(checked):
            found += _with_burials(storage, checked[each].findings, listed[each], tombstones)
        links = {each: of_it.links for each, of_it in checked.items() if of_it.links is not None}
        found += broken_links(links, listed.keys() | refused.keys())
        found += await burials.amiss(storage, listed)
        # Without a marker that tells whose they are, nobody uses a catalog or a rollup.
        for row in await beside.amiss(storage, bound, listed, deep=deep) if bound is not None else ():
            found.append(Finding(row.trace_id or "", row.file, None, row.meaning, f"traceark refresh {storage.url}"))
        for row in await rollups_beside.amiss(storage, bound, cache, listed) if bound is not None and deep else ():
            remedy = f"delete {row.file.rpartition('/')[0]}, then: traceark optimize {storage.url}"
            found.append(Finding(row.trace_id or "", row.file, None, row.meaning, remedy))
        if kept is not None:
            kept.finish()
    return found


def _progress(
    resume: str | Path | None, storage: Storage, bound: str | None, *, deep: bool
) -> AbstractContextManager[Progress | None]:
    if resume is None or bound is None:
        return nullcontext()
    return Progress(Path(resume), storage, bound, deep=deep)


def _check_all(
    storage: Storage, listed: Listed, *, deep: bool, workers: int | None
) -> AsyncGenerator[dict[str, Checked]]:
    """Yield what is found of some traces at a time, as it is."""
    if workers is None:
        workers = sensible_workers(storage, listed)
    if workers > 1:
        return check_by_workers(storage, listed, deep=deep, workers=workers)
    return check_together(storage, listed, deep=deep)


def _with_burials(
    storage: Storage, findings: list[Finding], entries: Mapping[str, Entry], tombstones: Set[Buried]
) -> list[Finding]:
    """Return findings where a header is missing since a deletion was interrupted, so told."""
    return [
        burials.with_burial(storage, each)
        if each.meaning == HEADLESS and burials.was_buried(each.trace_id, entries, tombstones)
        else each
        for each in findings
    ]
