"""A pack taken apart into a directory of its own, so that all of it is looked at before anything is used."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from traceark.errors import PackError, StorageError
from traceark.layout import HEADER, TRACES
from traceark.packed.members import Limits, Member, Meter, Place, is_beside, place_of
from traceark.packed.tars import read_tar
from traceark.packed.zips import read_zip

# What a zip begins with, be it empty or not, and what a Zstandard frame does (APPNOTE 4.3.7 and .16, RFC 8878).
_ZIP, _EMPTY_ZIP, _ZSTD = b"PK\3\4", b"PK\5\6", b"\x28\xb5\x2f\xfd"
# Stands near the end of every header, which is one line.
_MARK = b'"_incarnation":"'


@dataclass(slots=True)
class Spool:
    """A pack, taken apart.

    Attributes
    ----------
    root : Path
        An archive's directory with the traces of the pack.
    keys : list of str
        Their keys.
    strangers : list of str
        Members that belong to no trace and to no archive; they were left where they are.
    """

    root: Path
    keys: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)


@contextmanager
def spooled(path: Path, limits: Limits | None = None) -> Iterator[Spool]:
    """Take a pack apart, for as long as the context lasts.

    Whatever the members are called, files are written only below the directory that is made here:
    their paths are made of a trace's key and of a file's name in it, and never of a member's name.

    Parameters
    ----------
    path : Path
        A zip or a tar compressed with Zstandard, as its first bytes tell.
    limits : Limits, optional

    Raises
    ------
    PackError
        It is no pack, is damaged, or holds what a pack must not hold; the message names the member.
    StorageError
        It cannot be read, or there is no room to take it apart.

    Examples
    --------
    >>> import zipfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with zipfile.ZipFile(f"{folder}/a.zip", "w") as file:
    ...         file.writestr("../../escape.txt", b"x")
    ...     with spooled(Path(folder, "a.zip")):
    ...         pass
    Traceback (most recent call last):
    traceark.errors.PackError: ...a.zip: the member '../../escape.txt' has a path that leaves its directory...
    """
    with tempfile.TemporaryDirectory(prefix="traceark-") as folder:
        spool = Spool(Path(folder))
        with _opened(path) as file, closing(_members(file, path, limits or Limits())) as members:
            for member in members:
                _take(member, spool, path)
        spool.keys.sort()
        yield spool


def is_pack(path: Path) -> bool:
    """Say whether a file is a zip that holds a trace, as far as its directory and the first whole header tell."""
    with _opened(path) as file:
        if file.read(4) != _ZIP:
            return False
        try:
            for member in read_zip(file, Meter(str(path), path.stat().st_size, Limits())):
                place = place_of(member.name)
                is_header = place is not None and place.file == HEADER and not is_beside(member.name)
                if is_header and _MARK in b"".join(member.chunks):
                    return True
        except PackError:
            return False
    return False


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(error.errno, f"{path} cannot be taken apart: {error.strerror or error}") from error


def _members(file: BinaryIO, path: Path, limits: Limits) -> Generator[Member, None, None]:
    meter = Meter(str(path), path.stat().st_size, limits)
    head = file.read(4)
    file.seek(0)
    if head in (_ZIP, _EMPTY_ZIP):
        yield from read_zip(file, meter)
    elif head == _ZSTD:
        yield from read_tar(file, meter)
    else:
        raise meter.refused("is neither a zip nor a tar compressed with Zstandard")


def _take(member: Member, spool: Spool, path: Path) -> None:
    if is_beside(member.name):
        return
    place = place_of(member.name)
    if place is None:
        spool.strangers.append(member.name)
        return
    target = _target(spool, place)
    try:
        with target.open("xb") as file:
            for chunk in member.chunks:
                file.write(chunk)
    except FileExistsError:
        raise PackError(
            f"{path}: the member {member.name!r} is {place.file} of the trace {place.key}, which another is too; "
            "nothing was taken from the pack"
        ) from None


def _target(spool: Spool, place: Place) -> Path:
    directory = spool.root / TRACES / place.key
    if not directory.is_dir():
        spool.keys.append(place.key)
    target = directory / place.file
    target.parent.mkdir(parents=True, exist_ok=True)
    return target
