"""Opening the archive that a verb names, and finding the traces that it names by a piece of their id."""

from __future__ import annotations

import difflib
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING

import click

from traceark.errors import ArchiveNotFoundError, DamagedTraceError, InvalidIdError, TraceNotFoundError
from traceark.showing import without_password

if TYPE_CHECKING:
    from traceark import Archive
    from traceark.cli.settings import Settings

_SHORTEST, _LONGEST_PREFIX, _SHORTEST_ENDING = 8, 14, 6
_SHOWN_CANDIDATES = 5
_PLAIN = re.compile(r"[^\s,;?'\"\x00-\x1f\x7f-\x9f]+")


class AmbiguousNameError(click.ClickException):
    """A name that fits several traces."""


@contextmanager
def opened(settings: Settings, url: str, other: str = "") -> Iterator[Archive]:
    """Open an archive, which need not be there yet; `other` is what the verb takes beside it.

    Raises
    ------
    InvalidValueError, MissingLibraryError, StorageError
        The URL names no storage that can be opened.
    """
    import traceark
    from traceark.starting import leave_pandas_for_later

    leave_pandas_for_later()
    archive = traceark.open(url, storage_options=storage_options(settings, url, other))
    with archive:
        yield archive


def storage_options(settings: Settings, url: str, other: str = "") -> dict[str, str]:
    """Return how to open a URL, of a verb that may take another one."""
    if settings.endpoint_url is None:
        return {}
    if not _is_on_s3(url) and not _is_on_s3(other):
        raise click.UsageError(f"--endpoint-url is for S3, and {without_password(url)} is not on S3")
    return {"endpoint_url": settings.endpoint_url} if _is_on_s3(url) else {}


def _is_on_s3(url: str) -> bool:
    return url.startswith(("s3://", "s3a://"))


@contextmanager
def opened_existing(settings: Settings, url: str, other: str = "") -> Iterator[Archive]:
    """Open an archive that is there; see `opened`.

    Raises
    ------
    ArchiveNotFoundError
    """
    with opened(settings, url, other) as archive:
        # Trace directories copied into an empty folder are an archive too; the marker comes with the first write.
        if not archive.exists() and not archive.run(archive.store.storage.children("traces")):
            raise ArchiveNotFoundError(
                f"there is no archive at {archive.url}; traceark import SOURCE --to {archive.url} makes one"
            )
        yield archive


def trace_ids(archive: Archive) -> list[str]:
    """Return the ids of all traces, damaged ones too, sorted."""
    from traceark.layout import TRACES, trace_id_of

    keys = archive.run(archive.store.storage.children(TRACES))
    return sorted(trace_id for key in keys if (trace_id := trace_id_of(key)) is not None)


def find_all(archive: Archive, names: Sequence[str]) -> list[str]:
    """Return the ids that names stand for, each once; see `find`."""
    return list(dict.fromkeys(find(archive, name) for name in names))


def find(archive: Archive, name: str) -> str:
    """Return the trace id that a name stands for.

    A name is the id, a beginning that no other id has, or ``beginning…ending``. Where one
    candidate is the beginning of all others, as a run's id is of its sub-agents', it is meant.

    Raises
    ------
    TraceNotFoundError
    AmbiguousNameError
        Several ids fit.
    """
    if not name:
        raise click.UsageError("the id is empty; name a trace")
    if _is_there(archive, name):
        return name
    ids = trace_ids(archive)
    fitting = meant(ids, name)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise _ambiguous(name, fitting)
    near = difflib.get_close_matches(name, ids, _SHOWN_CANDIDATES, cutoff=0.5)
    hint = f"; did you mean {', '.join(map(shown_id, near))}?" if near else f"; traceark ls {archive.url} lists them"
    raise TraceNotFoundError(f"no trace {name!r} in {archive.url}{hint}")


def find_exactly(archive: Archive, name: str) -> str:
    """Return the trace id that a name stands for, refusing one that also begins other ids.

    Raises
    ------
    TraceNotFoundError, AmbiguousNameError
    """
    found = find(archive, name)
    others = candidates(trace_ids(archive), name) if found != name else []
    if len(others) > 1:
        raise _ambiguous(name, others)
    return found


def _ambiguous(name: str, fitting: Sequence[str]) -> AmbiguousNameError:
    shown = ", ".join(map(shown_id, fitting[:_SHOWN_CANDIDATES]))
    more = f" and {len(fitting) - _SHOWN_CANDIDATES} more" if len(fitting) > _SHOWN_CANDIDATES else ""
    return AmbiguousNameError(f"{name!r} fits {len(fitting)} traces; give more of the id: {shown}{more}")


def shown_id(trace_id: str) -> str:
    """Return an id as part of a sentence: as it is, or quoted where it would not be told from that.

    Examples
    --------
    >>> shown_id("run-7"), shown_id("x, y\\n")
    ('run-7', "'x, y\\\\n'")
    """
    return trace_id if _PLAIN.fullmatch(trace_id) else repr(trace_id)


def _is_there(archive: Archive, trace_id: str) -> bool:
    try:
        return archive.get_trace(trace_id) is not None
    except InvalidIdError:
        return False
    except DamagedTraceError:
        return True


def meant(ids: Sequence[str], name: str) -> list[str]:
    """Return the one id that a name stands for, or all that it may stand for.

    Parameters
    ----------
    ids : sequence of str
        All ids of an archive, sorted.
    name : str
        See `find`.

    Examples
    --------
    >>> meant(["run-1", "run-1-agent-a", "run-2"], "run-1"), meant(["run-1", "run-2"], "run")
    (['run-1'], ['run-1', 'run-2'])
    """
    if name in ids:
        return [name]
    fitting = candidates(ids, name)
    return fitting[:1] if fitting and all(other.startswith(fitting[0]) for other in fitting) else fitting


def candidates(ids: Sequence[str], name: str) -> list[str]:
    """Return the ids that a beginning, or ``beginning…ending``, fits.

    Examples
    --------
    >>> candidates(["run-1", "run-12", "walk-1"], "run…2")
    ['run-12']
    """
    beginning, dots, ending = name.partition("…")
    if not dots:
        beginning, dots, ending = name.partition("...")
    fitting = [each for each in ids if each.startswith(name)]
    if dots and not fitting:
        fits = len(beginning) + len(ending)
        fitting = [each for each in ids if each.startswith(beginning) and each.endswith(ending) and len(each) >= fits]
    return fitting


def short_ids(ids: Sequence[str]) -> dict[str, str]:
    """Return for each id the shortest name, of eight characters or more, by which `find` knows it.

    Parameters
    ----------
    ids : sequence of str
        All ids of an archive, sorted.

    Examples
    --------
    >>> list(short_ids(["5f3a9c21-aaaa-bbbb", "5f3a9c21-aaaa-bbbb-agent-7c", "7d1f0c52-64a5"]).values())
    ['5f3a9c21', '5f3a9c21…ent-7c', '7d1f0c52']
    """
    return {each: _short(ids, index) for index, each in enumerate(ids)}


def _short(ids: Sequence[str], index: int) -> str:
    own = ids[index]
    # Ids that go on where this one ends sort right behind it, and do not make its beginning ambiguous.
    behind = bisect_left(ids, own + "\U0010ffff", index)
    neighbours = [*ids[max(index - 1, 0) : index], *ids[behind : behind + 1]]
    needed = max((_shared(own, other) for other in neighbours), default=0) + 1
    if needed <= _LONGEST_PREFIX:
        return own[: max(needed, _SHORTEST)]
    beginning = own[:_SHORTEST]
    family = ids[bisect_left(ids, beginning) : bisect_left(ids, beginning + "\U0010ffff")]
    for length in range(_SHORTEST_ENDING, len(own) - _SHORTEST):
        ending = own[-length:]
        if sum(each.endswith(ending) for each in family) == 1:
            return f"{beginning}…{ending}"
    return own


def _shared(one: str, other: str) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
