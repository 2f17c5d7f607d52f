"""A disk that loses power: what may lie on it afterwards.

What was not synced may be there or not, in any subset: names that came and went, and the sectors of what
was written, which may also be zeros where only the new length was kept. This is less than file systems
give (ext4 keeps the order of much of it), and all that POSIX promises. A rename is kept whole or not at all; one from
a directory to another may be kept in either of them, in both or in none.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from traceark.testing.calls import Call

SECTOR = 512
Fate = Literal["kept", "lost", "zeros"]


@dataclass(eq=False, slots=True)
class _Write:
    """Bytes at a position, or a new length."""

    at: int
    data: bytes | None


@dataclass(eq=False, slots=True)
class _File:
    synced: bytes = b""
    pending: list[_Write] = field(default_factory=list)

    def content(self, fate: Callable[[object], Fate]) -> bytes:
        """Return what is there, given what became of each change that was not synced."""
        found = bytearray(self.synced)
        for write in self.pending:
            what = fate(write)
            if what == "lost":
                continue
            if write.data is None:
                found[write.at :] = b"\0" * max(0, write.at - len(found))
                continue
            end = write.at + len(write.data)
            found += b"\0" * (end - len(found))
            found[write.at : end] = write.data if what == "kept" else b"\0" * len(write.data)
        return bytes(found)


@dataclass(eq=False, slots=True)
class _Naming:
    """A name that came (`node`) or went (None), and with a rename the name that it had before."""

    name: str
    node: _File | _Directory | None
    before: str = ""


@dataclass(eq=False, slots=True)
class _Directory:
    now: dict[str, _File | _Directory] = field(default_factory=dict)
    synced: dict[str, _File | _Directory] = field(default_factory=dict)
    pending: list[_Naming] = field(default_factory=list)

    def change(self, naming: _Naming) -> None:
        self.pending.append(naming)
        _name(self.now, naming)

    def names(self, fate: Callable[[object], Fate]) -> dict[str, _File | _Directory]:
        """Return what is there, given what became of each change that was not synced."""
        found = dict(self.synced)
        for naming in self.pending:
            if fate(naming) != "lost":
                _name(found, naming)
        return found


def _name(names: dict[str, _File | _Directory], naming: _Naming) -> None:
    if naming.before:
        names.pop(naming.before, None)
    if naming.node is None:
        names.pop(naming.name, None)
    else:
        names[naming.name] = naming.node


def _kept(change: object) -> Fate:
    return "kept"


class Disk:
    """A directory as the calls left it, and as a loss of power may leave it.

    Examples
    --------
    >>> disk = Disk()
    >>> for call in (Call("create", "a"), Call("write", "a", data=b"one")):
    ...     disk.take(call)
    >>> sorted(disk.states(samples=0), key=str)
    [{'a': b''}, {'a': b'\\x00\\x00\\x00'}, {'a': b'one'}, {}]
    """

    def __init__(self) -> None:
        self._root = _Directory()

    @classmethod
    def of(cls, root: Path) -> Disk:
        """Return one that holds what lies below a directory now, all of it synced."""
        disk = cls()
        disk._root = _directory(root)
        return disk

    def take(self, call: Call) -> None:
        """Take in a call that succeeded."""
        directory, _, name = call.path.rpartition("/")
        match call.name:
            case "create":
                self._at(directory).change(_Naming(name, _File()))
            case "mkdir":
                self._at(directory).change(_Naming(name, _Directory()))
            case "unlink" | "rmdir":
                self._at(directory).change(_Naming(name, None))
            case "link" | "rename":
                above, _, other = call.other.rpartition("/")
                node = self._at(directory).now[name]
                moves = call.name == "rename"
                self._at(above).change(_Naming(other, node, name if moves and above == directory else ""))
                if moves and above != directory:
                    self._at(directory).change(_Naming(name, None))
            case "write" | "pwrite":
                self._file(call.path).pending += _sectors(call.at, call.data)
            case "ftruncate":
                self._file(call.path).pending.append(_Write(call.at, None))
            case "fsync" | "fdatasync":
                if (synced := self._node(call.path)) is not None:
                    _sync(synced)
            case "syncfs":
                _sync_all(self._root)

    def _node(self, path: str) -> _File | _Directory | None:
        node: _File | _Directory | None = self._root
        for name in path.split("/") if path else ():
            node = node.now.get(name) if isinstance(node, _Directory) else None
        return node

    def _at(self, path: str) -> _Directory:
        node = self._node(path)
        assert isinstance(node, _Directory), path
        return node

    def _file(self, path: str) -> _File:
        node = self._node(path)
        # What is written to a file without a name is written to nothing that can be found again.
        return node if isinstance(node, _File) else _File()

    def states(self, samples: int, seed: int = 0, *, singly: bool = True) -> Iterator[dict[str, bytes]]:
        """Yield what may be there if the power goes now; each state once.

        That is the files by path, and of an empty directory its path with a slash at its end.

        All or none of what was not synced; zeros for all that was written; with `singly` what one file or
        directory did not sync alone, and alone missing; and so many random subsets of all changes.
        """
        groups = [group for group in self._groups(self._root, set()) if group]
        changes = [change for group in groups for change in group]
        fates: list[dict[int, Fate]] = [
            dict.fromkeys(map(id, changes), "lost"),
            dict.fromkeys(map(id, changes), "kept"),
            {id(change): "zeros" if isinstance(change, _Write) else "kept" for change in changes},
        ]
        for group in groups if singly and len(groups) > 1 else ():
            these = set(map(id, group))
            fates.append({id(change): "kept" if id(change) in these else "lost" for change in changes})
            fates.append({id(change): "lost" if id(change) in these else "kept" for change in changes})
        choose = random.Random(seed)
        for _ in range(samples if len(changes) > 1 else 0):
            fates.append({id(change): choose.choice(("kept", "kept", "lost", "zeros")) for change in changes})
        seen: set[frozenset[tuple[str, bytes]]] = set()
        for fate in fates:
            state = dict(self._files(self._root, "", lambda change, fate=fate: fate[id(change)]))  # type: ignore[misc]
            files = frozenset(state.items())
            if files not in seen:
                seen.add(files)
                yield state

    def _groups(self, node: _File | _Directory, known: set[int]) -> Iterator[Sequence[object]]:
        """Yield, of every file and directory that may be found, what was not synced."""
        if id(node) in known:
            return
        known.add(id(node))
        yield node.pending
        if isinstance(node, _Directory):
            named = [naming.node for naming in node.pending if naming.node is not None]
            for child in (*node.synced.values(), *node.now.values(), *named):
                yield from self._groups(child, known)

    def _files(self, node: _Directory, above: str, fate: Callable[[object], Fate]) -> Iterator[tuple[str, bytes]]:
        for name, child in node.names(fate).items():
            if isinstance(child, _File):
                yield f"{above}{name}", child.content(fate)
            elif files := list(self._files(child, f"{above}{name}/", fate)):
                yield from files
            else:
                yield f"{above}{name}/", b""


def _directory(path: Path) -> _Directory:
    names: dict[str, _File | _Directory] = {
        each.name: _directory(each) if each.is_dir() else _File(each.read_bytes()) for each in path.iterdir()
    }
    return _Directory(names, dict(names))


def _sync(node: _File | _Directory) -> None:
    if isinstance(node, _Directory):
        node.synced, node.pending = dict(node.now), []
    else:
        node.synced, node.pending = node.content(_kept), []


def _sync_all(directory: _Directory) -> None:
    _sync(directory)
    for child in directory.now.values():
        _sync_all(child) if isinstance(child, _Directory) else _sync(child)


def _sectors(at: int, data: bytes) -> Iterable[_Write]:
    """Cut what was written where the disk's sectors end."""
    position = 0
    while position < len(data):
        end = min(len(data), position + SECTOR - (at + position) % SECTOR)
        yield _Write(at + position, data[position:end])
        position = end


def lay_out(state: dict[str, bytes], root: Path) -> None:
    """Write the files and empty directories of a state below a directory."""
    for name, data in state.items():
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
