"""The one tree of errors.

Every error that traceark raises on purpose derives from `TracearkError` and from the builtin
that fits, so that callers can catch by either. A message says what happened, to which trace and
file, and what to do next.
"""

from __future__ import annotations


class TracearkError(Exception):
    """Base of every error that traceark raises on purpose."""

    def __str__(self) -> str:
        # KeyError would print the repr of its argument; a message is meant to be read. OSError has
        # its number first.
        return str(self.args[-1]) if self.args else type(self).__name__


class InvalidValueError(TracearkError, ValueError):
    """A value that the archive cannot keep exactly, or that breaks a rule of the model.

    Parameters
    ----------
    message : str
        What is wrong and what is accepted instead.
    path : str, optional
        Where the value sits, for example ``content[0].text``.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


class InvalidIdError(InvalidValueError):
    """A trace id that cannot name a directory: empty, or longer than a key may be."""


class UnknownFieldError(TracearkError, TypeError):
    """An update names a field that the model does not have, or that must not change."""


class TraceNotFoundError(TracearkError, KeyError):
    """The archive holds no such trace."""


class MessageNotFoundError(TracearkError, KeyError):
    """The archive holds no such message."""


class GoalNotFoundError(TracearkError, KeyError):
    """The goal tree of the trace holds no such goal."""


class TraceExistsError(TracearkError, FileExistsError):
    """`create_trace` was given the id of a trace that is there already."""


class GoalExistsError(TracearkError, ValueError):
    """`add_goal` was given the id of a goal that is there already."""


class MessageConflictError(TracearkError, ValueError):
    """A message id is known already, with other content."""


class AmbiguousMessageId(TracearkError, LookupError):
    """The message id lives in several traces; pass ``trace_id=``."""


class StaleGoalTreeError(TracearkError, RuntimeError):
    """The goal tree was changed since it was read; read it again and repeat the change."""


class DamagedTraceError(TracearkError, ValueError):
    """Files of a trace do not make a whole; the subclass says how."""


class CorruptFileError(DamagedTraceError):
    """A file does not prove itself: changed bytes, a broken line, a wrong name."""


class IncompleteTraceError(DamagedTraceError):
    """Records that must exist are in no file that is here; the message names the range.

    Attributes
    ----------
    as_of : str
        Which header says that they must: it may be newer than the listing of the files.
    """

    def __init__(self, message: str, as_of: str = "") -> None:
        super().__init__(message)
        self.as_of = as_of


class DivergedTraceError(DamagedTraceError):
    """Two writers that knew nothing of each other wrote the same offsets of one trace."""


class UnsupportedFormatError(TracearkError, ValueError):
    """The files were written by a format version that this release does not know."""


class ArchiveNotFoundError(TracearkError, FileNotFoundError):
    """There is no archive at this location."""


class StorageError(TracearkError, OSError):
    """The storage refused or failed an operation."""


class UnsafeStorageError(StorageError):
    """The storage lacks what several writers need: exclusive creation and conditional replace."""


class BusyError(StorageError):
    """Another process does what only one may do at a time; try again when it is done."""


class SpoolError(TracearkError, ValueError):
    """A directory cannot be the spool of an archive: it is another one's, or no spool."""


class SpoolPendingError(TracearkError, TimeoutError):
    """What is in a spool was not shipped; nothing is lost, and the message says what waits."""


class StoreClosedError(TracearkError, RuntimeError):
    """The store was closed, or broke on a failed write, and must be opened again."""


class QueryError(TracearkError, ValueError):
    """DuckDB refused a query; the message is DuckDB's."""


class MissingLibraryError(TracearkError, ImportError):
    """What was asked for needs a library that is not installed; the message names it."""


class ImportFailedError(TracearkError, ValueError):
    """A source is in no known format or could not be read."""


class ExportFailedError(TracearkError, ValueError):
    """There is no such format, or the place named cannot take what is to be exported."""


class PackError(TracearkError, ValueError):
    """A packed file is damaged, or holds what a pack must not hold; nothing was taken from it."""


class NaiveTimeWarning(UserWarning):
    """A time without a zone was taken as UTC."""


class UnfoldedWarning(UserWarning):
    """Small objects of a live trace on an object store could not be folded into a part; nothing is lost."""


class SpoolPendingWarning(UserWarning):
    """A store was closed before all of its spool was shipped; the next one, or ``traceark spool ship``, goes on."""


class DamagedTraceWarning(UserWarning):
    """A listing or a query left out a trace that is damaged; `verify` tells more."""
