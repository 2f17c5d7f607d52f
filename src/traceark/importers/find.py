"""Which files there are to import, and which formats."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from traceark.errors import ImportFailedError
from traceark.importers.archive import TracearkArchive
from traceark.importers.atif import Atif
from traceark.importers.base import Importer
from traceark.importers.chat import Chat
from traceark.importers.claude_code import ClaudeCode
from traceark.importers.codex import Codex
from traceark.importers.inspect_log import InspectLog
from traceark.importers.langfuse import Langfuse
from traceark.importers.langsmith import LangSmith
from traceark.importers.openai_agents import OpenAIAgents
from traceark.importers.opencode import OpenCode
from traceark.importers.openhands import OpenHands
from traceark.importers.otlp import Otlp
from traceark.importers.report import ImportReport
from traceark.importers.swe_agent import SweAgent
from traceark.importers.tau2 import Tau2
from traceark.importers.who_and_when import WhoAndWhen
from traceark.plugins import installed

GROUP = "traceark.importers"
# What files of these formats begin with: RFC 1952, RFC 8878, and the xz and bzip2 formats' own descriptions.
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2"}
_OWN: tuple[type[Importer], ...] = (
    # A file of an archive holds whatever other formats say, and may look like one of theirs.
    TracearkArchive,
    Atif,
    ClaudeCode,
    Codex,
    InspectLog,
    Langfuse,
    LangSmith,
    OpenAIAgents,
    OpenCode,
    OpenHands,
    Otlp,
    SweAgent,
    Tau2,
    WhoAndWhen,
    Chat,
)
# Whatever has messages is a chat, so it is asked last, behind formats of other packages too. All others ask for marks
# of their own, and may come in any order.
_MOST_GENERAL = Chat.name


def importers() -> list[Importer]:
    """Return one importer of each installed format, in the order in which they are asked whether a file is theirs.

    Examples
    --------
    >>> "claude-code" in [importer.name for importer in importers()]
    True
    """
    return sorted(installed(GROUP, _OWN, ImportFailedError), key=lambda each: each.name == _MOST_GENERAL)


def files_in(paths: Sequence[Path], report: ImportReport) -> Iterator[Path]:
    """Yield files, and those in trees; what is not looked at is told in the report.

    Raises
    ------
    ImportFailedError
        A path does not exist.
    """
    for path in [each for each in paths if _can_be_seen(each, report)]:
        if path.is_file():
            yield path
            continue
        if not path.is_dir():
            # To open a pipe would wait for whoever writes into it.
            report.unreadable(str(path), OSError(errno.EINVAL, "it is neither a file nor a directory"))
            continue
        found: list[Path] = []
        for folder, folders, names in os.walk(
            path, onerror=lambda error: report.unreadable(str(error.filename), error)
        ):
            for name in (*folders, *names):
                entry = Path(folder, name)
                if entry.is_file() and not entry.is_symlink():
                    found.append(entry)
                elif entry.is_symlink() or not entry.is_dir():
                    report.skipped.append(str(entry))
        yield from sorted(found, key=_place)


def _place(path: Path) -> tuple[tuple[str, ...], str]:
    """Return by what files are in order: one before the directory of its name.

    There sub-agents are, and whose they are is known when they are written.
    """
    return path.with_suffix("").parts, path.name


def _can_be_seen(path: Path, report: ImportReport) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ImportFailedError(f"{path} does not exist") from None
    except OSError as error:
        report.unreadable(str(path), error)
        return False
    return True


def compression_of(path: Path) -> str | None:
    """Return what a file is compressed with, as its first bytes tell; None where it is not."""
    with path.open("rb") as file:
        head = file.read(max(map(len, _COMPRESSED)))
    return next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), None)


def size_of(path: Path) -> int:
    """Return a file's size in bytes, 0 where it cannot be told."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
