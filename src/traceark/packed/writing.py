"""Writing a pack: its kind is told by its name, and it has that name only when it is whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from traceark.errors import InvalidValueError
from traceark.packed.tars import TarWriter
from traceark.packed.zips import ZipWriter
from traceark.replacing import replacing, told_unwritten
from traceark.storage.syncing import sync_directory


class PackWriter(Protocol):
    """Writes the members of a pack."""

    def add(self, name: str, data: bytes) -> None:
        """Add a member."""
        ...

    def close(self) -> None:
        """Write what comes last."""
        ...


_KINDS: dict[str, Callable[[BinaryIO], PackWriter]] = {".zip": ZipWriter, ".tar.zst": TarWriter}


@contextmanager
def writing(path: Path, *, force: bool = False) -> Iterator[PackWriter]:
    """Write a pack; where that fails, or is killed, nothing of this name is there.

    Parameters
    ----------
    path : Path
        Ends in ``.zip`` or ``.tar.zst``.
    force : bool
        Replace a file that is there.

    Raises
    ------
    InvalidValueError
        The name has another ending, or is that of a file that is there.
    StorageError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with writing(Path(folder, "runs.zip")) as writer:
    ...         writer.add("traces/run-7/trace.json", b"{}")
    ...     [path.name for path in Path(folder).iterdir()]
    ['runs.zip']
    """
    kind = next((kind for ending, kind in _KINDS.items() if path.name.endswith(ending)), None)
    if kind is None:
        raise InvalidValueError(f"{path} ends in neither {' nor '.join(_KINDS)}")
    _check_free(path, force=force)
    with told_unwritten(str(path)):
        with replacing(path) as temporary:
            with temporary.open("xb") as file:
                writer = kind(file)
                try:
                    yield writer
                finally:
                    writer.close()
                file.flush()
                os.fsync(file.fileno())
            _check_free(path, force=force)
        sync_directory(path.parent)


def _check_free(path: Path, *, force: bool) -> None:
    if path.exists() and not (force and path.is_file()):
        raise InvalidValueError(f"{path} is there already" + ("; --force replaces it" if path.is_file() else ""))
