"""What each way of capturing needs beside this package: an extra, named where it is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from traceark.errors import MissingLibraryError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Run imports that an extra of this package installs.

    Raises
    ------
    MissingLibraryError
        It is not installed.

    Examples
    --------
    >>> with needs("otel"):
    ...     import a_library_that_is_nowhere
    Traceback (most recent call last):
    traceark.errors.MissingLibraryError: a_library_that_is_nowhere is not installed; run: pip install 'traceark[otel]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingLibraryError(f"{error.name} is not installed; run: pip install 'traceark[{extra}]'") from None
