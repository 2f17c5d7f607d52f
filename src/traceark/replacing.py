"""A user's file that is written whole or not at all: beside its place, whose name it takes when all went well.

It knows nothing of what is written.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from traceark.errors import StorageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield where to write what is to replace a file; where that fails, the file stays as it is.

    A device or a pipe is yielded itself: its name is not ours to give away.

    Raises
    ------
    StorageError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder, "rows.csv")) as beside:
    ...         _ = beside.write_text("n\\n1\\n")
    ...     [found.name for found in Path(folder).iterdir()]
    ['rows.csv']
    """
    with told_unwritten(str(path)):
        if path.exists() and not path.is_file():
            yield path
            return
        temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
        try:
            yield temporary
            if path.exists():
                shutil.copymode(path, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def told_unwritten(what: str) -> Iterator[None]:
    """Turn the system's errors into one that says what cannot be written, and why."""
    try:
        yield
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        # Arrow's errors have the number too, and a text of their own.
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise StorageError(error.errno, f"{what} cannot be written: {reason}") from error
