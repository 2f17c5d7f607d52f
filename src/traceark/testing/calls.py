"""The calls that change a disk, seen one by one: recorded, or made to fail.

Inside `watched` every such call of this process below one directory goes through a `Watcher`, which
may do it, do half of it, fail, or let the process die there. It patches the module `os`, through
which `pathlib`, `shutil` and the storage work, and `syncfs`, which that has not; reading is not looked at.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traceark.storage import syncing

_BY_PATH = ("mkdir", "rmdir", "unlink", "remove")
_BY_TWO_PATHS = ("link", "rename", "replace")
_BY_DESCRIPTOR = ("write", "pwrite", "ftruncate", "fsync", "fdatasync", "close")


@dataclass(frozen=True, slots=True)
class Call:
    """One call that changes a disk, or makes a change lasting.

    Attributes
    ----------
    name : str
        As in the module `os`; ``create`` for an `os.open` that made a file; ``syncfs``.
    path : str
        Of what, relative to the directory that is watched.
    other : str
        The second path of a link or a rename.
    data : bytes
        What was written.
    at : int
        The position it was written to, or the new length.
    """

    name: str
    path: str
    other: str = ""
    data: bytes = b""
    at: int = 0


class Watcher:
    """Sees every call; this one lets all of them happen. To inject a fault, override `around`."""

    def around(self, call: Call, do: Callable[..., Any]) -> Any:
        """Return what `do`, which does the call, returns; or raise instead, before it or after.

        Of a write, ``do(size)`` writes only so many of its bytes.
        """
        return do()


class Recorder(Watcher):
    """Keeps the calls that succeeded, in order."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._mutex = threading.Lock()

    def around(self, call: Call, do: Callable[..., Any]) -> Any:
        with self._mutex:
            result = do()
            self.calls.append(call)
        return result


class _Patch:
    """The functions that stand in for those of `os`."""

    def __init__(self, root: Path, watcher: Watcher) -> None:
        self._root = root.resolve()
        self._watcher = watcher
        self._files: dict[int, str] = {}
        self._real = {name: getattr(os, name) for name in ("open", *_BY_PATH, *_BY_TWO_PATHS, *_BY_DESCRIPTOR)}
        self._real_syncfs = syncing.syncfs

    def install(self) -> None:
        os.open = self._open
        for names, make in (
            (_BY_PATH, self._by_path),
            (_BY_TWO_PATHS, self._by_two_paths),
            (_BY_DESCRIPTOR, self._by_descriptor),
        ):
            for name in names:
                setattr(os, name, make(name))
        syncing.syncfs = self._syncfs

    def remove(self) -> None:
        for name, real in self._real.items():
            setattr(os, name, real)
        syncing.syncfs = self._real_syncfs

    def _below(self, path: Any, dir_fd: int | None = None) -> str | None:
        """Return a path relative to the root, or None where it lies elsewhere."""
        given = Path(os.fsdecode(path))
        if dir_fd is not None:
            given = Path(f"/proc/self/fd/{dir_fd}").readlink() / given
        # The file itself may be a link, and is not followed.
        found = given.parent.resolve() / given.name
        if found == self._root:
            return ""
        return found.relative_to(self._root).as_posix() if found.is_relative_to(self._root) else None

    def _open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        below = self._below(path, dir_fd)

        def do() -> int:
            descriptor: int = self._real["open"](path, flags, mode, dir_fd=dir_fd)
            if below is not None:
                self._files[descriptor] = below
            return descriptor

        if below is None or not flags & os.O_CREAT or (self._root / below).exists():
            return do()
        return int(self._watcher.around(Call("create", below), do))

    def _by_path(self, name: str) -> Callable[..., Any]:
        def call(path: Any, *args: Any, dir_fd: int | None = None, **kwargs: Any) -> Any:
            below = self._below(path, dir_fd)
            if dir_fd is not None:
                kwargs["dir_fd"] = dir_fd
            if below is None:
                return self._real[name](path, *args, **kwargs)
            known = "unlink" if name == "remove" else name
            return self._watcher.around(Call(known, below), lambda: self._real[name](path, *args, **kwargs))

        return call

    def _by_two_paths(self, name: str) -> Callable[..., Any]:
        def call(source: Any, target: Any, **kwargs: Any) -> Any:
            below, other = self._below(source), self._below(target)
            if below is None or other is None:
                return self._real[name](source, target, **kwargs)
            known = "rename" if name == "replace" else name
            return self._watcher.around(Call(known, below, other), lambda: self._real[name](source, target, **kwargs))

        return call

    def _by_descriptor(self, name: str) -> Callable[..., Any]:
        def call(descriptor: Any, *args: Any) -> Any:
            below = self._files.get(descriptor)
            if below is None:
                return self._real[name](descriptor, *args)
            if name == "close":
                # Whatever becomes of it, the descriptor is gone.
                del self._files[descriptor]
            status = os.fstat(descriptor)
            if name == "close" and stat.S_ISDIR(status.st_mode):
                return self._real[name](descriptor)
            data = bytes(args[0]) if name in ("write", "pwrite") else b""
            at = {"write": status.st_size, "pwrite": args[-1] if args else 0, "ftruncate": args[0] if args else 0}.get(
                name, 0
            )

            def do(size: int | None = None) -> Any:
                if size is None:
                    return self._real[name](descriptor, *args)
                return self._real[name](descriptor, data[:size], *args[1:])

            return self._watcher.around(Call(name, below, "", data, int(at)), do)

        return call

    def _syncfs(self, descriptor: int) -> None:
        below = self._files.get(descriptor)
        if below is None:
            return self._real_syncfs(descriptor)
        self._watcher.around(Call("syncfs", below), lambda: self._real_syncfs(descriptor))
        return None


@contextmanager
def watched(root: Path, watcher: Watcher) -> Iterator[None]:
    """Have a watcher see all calls that change what lies below a directory, inside the block.

    Files that were opened before are not seen. `os.write` is taken to append, as it does to a file that was
    just made and to a segment.

    Examples
    --------
    >>> import tempfile
    >>> seen = Recorder()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with watched(Path(folder), seen):
    ...         Path(folder, "one").mkdir()
    >>> [(call.name, call.path) for call in seen.calls]
    [('mkdir', 'one')]
    """
    patch = _Patch(root, watcher)
    patch.install()
    try:
        yield
    finally:
        patch.remove()
