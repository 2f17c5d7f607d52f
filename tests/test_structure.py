"""The shape of the package: imports point down, heavy libraries stay in their room, modules stay small."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import traceark

ROOT = Path(traceark.__file__).parent
MAX_LINES = 400

# From the bottom up. A module may import from its own level and those below; within a level without cycles.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    (
        "models",
        "layout",
        "protocol",
        "codec",
        "stats",
        "plan",
        "headers",
        "goals",
        "requests",
        "changes",
        "manifest",
        "filters",
        "pages",
        "needles",
        "hits",
        "notebook",
        "tracetree",
        "whole",
        "plugins",
        "showing",
        "redaction",
        "pending",
        "computing",
        "together",
    ),
    ("storage", "database", "packed"),
    (
        "log",
        "segments",
        "reading",
        "writing",
        "folding",
        "creating",
        "knowledge",
        "publishing",
        "live",
        "recording",
        "compact",
        "verification",
        "repair",
        "lifecycle",
        "tombstones",
        "marker",
        "pool",
        "processes",
        "starting",
        "catalog",
        "rollups",
    ),
    ("store", "following", "query", "questions", "asking", "keeping", "retention"),
    ("archive", "loop_thread", "moving", "importers", "exporters", "sync", "spool", "redacting", "capture"),
    ("cli", "server"),
)
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
PURE, STORAGE, LOGS, STORE, TOP = 1, 2, 3, 4, 6

# Which modules may import a library that is not Python's own.
ROOMS: dict[str, tuple[str, ...]] = {
    "pydantic": ("models",),
    "pydantic_core": ("codec", "importers.exact"),
    "pyarrow": (
        "codec",
        "query",
        "questions",
        "catalog",
        "rollups",
        "needles",
        "hits",
        "packed.tars",
        "starting",
        "importers.inspect_log",
    ),
    "duckdb": ("database", "query", "catalog", "rollups"),
    "fsspec": ("storage.objects",),
    "aiobotocore": ("storage.objects",),
    "botocore": ("storage.objects",),
    "s3fs": ("storage.objects",),
    "click": ("cli",),
    "rich": ("cli",),
    "opentelemetry": ("capture.otel",),
    "agents": ("capture.openai_agents",),
    "langchain_core": ("capture.langchain",),
    "pytest": ("testing",),
    "hypothesis": ("testing",),
}

# Longer modules, and why they are not cut.
LONG = {
    "catalog.catalog": "one state, kept in step with all other processes under one lock",
    "models": "all models and what coerces into them: one vocabulary, read together",
    "store": "the store's public methods and their docstrings; what they do lies below",
}

PUBLIC = [
    "Archive",
    "ArchiveStore",
    "Event",
    "Goal",
    "GoalStats",
    "GoalTree",
    "Message",
    "Trace",
    "TraceStore",
    "Usage",
    "open",
]


def modules() -> dict[str, Path]:
    """Return every module's name, without the package's, and its file."""
    found: dict[str, Path] = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """Yield the modules that a module imports when it runs, by full name; those for types only are left out."""
    pending: list[ast.AST] = [ast.parse(MODULES[name].read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{name} imports relatively"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full.removeprefix("traceark.") in MODULES else node.module
        pending += ast.iter_child_nodes(node)


def own(name: str) -> set[str]:
    """Return the modules of this package that a module imports; the package itself is ''."""
    return {
        each.removeprefix("traceark").removeprefix(".") for each in imports(name) if each.split(".")[0] == "traceark"
    }


def room(name: str) -> str:
    """Return the part of the package that a module belongs to."""
    return name.split(".")[0]


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is_for(name: str) -> None:
    assert ast.get_docstring(ast.parse(MODULES[name].read_text())), f"{MODULES[name]} opens without a docstring"


@pytest.mark.parametrize("name", MODULES)
def test_a_module_can_be_read_in_one_sitting(name: str) -> None:
    lines = len(MODULES[name].read_text().splitlines())
    assert (lines > MAX_LINES) == (name in LONG), f"{name} has {lines} lines; {MAX_LINES} are allowed without a reason"


@pytest.mark.parametrize("name", [name for name in MODULES if name and room(name) != "testing"])
def test_imports_point_down_only(name: str) -> None:
    assert room(name) in LEVEL, f"give {room(name)!r} a level"
    level = LEVEL[room(name)]
    for other in own(name):
        if other == "":
            assert level == TOP, f"{name} imports the whole package"
            continue
        assert room(other) != "testing", f"{name} imports from the tests' part"
        assert LEVEL[room(other)] <= level, f"{name} imports {other}, which is above it"
        if level == STORAGE:
            # Layout gives the names of files and traces; nothing else of them is known down here.
            assert room(other) in ("errors", "storage", room(name)) or other == "layout", f"{name} imports {other}"
        if level == LOGS and room(other) == "storage":
            assert other == "storage.base", f"{name} imports {other} and not the base"
        if room(name) == "importers":
            # The importer of archives reads them as the package does.
            more = {
                "importers.archive": LEVELS[1] + LEVELS[2] + LEVELS[3],
                "importers.copies": ("codec",),
                "importers.parallel": ("processes", "computing"),
                "importers.run": ("computing",),
                "importers.take": ("computing",),
            }
            allowed = room(other) in ("errors", "models", "plugins", "protocol", "importers", *more.get(name, ()))
            assert allowed, f"{name} imports {other}"
        if room(name) == "exporters" and name != "exporters.run":
            assert room(other) in ("errors", "models", "layout", "showing", "packed", "exporters"), (
                f"{name} imports {other}"
            )
        if room(name) == "cli":
            # Of what lies deep, only the words, models, names, findings, cursors, how to start, and some at a time.
            words = ("errors", "models", "layout", "verification", "filters", "showing", "starting", "together")
            allowed = LEVEL[room(other)] >= STORE or other in words or other == "redaction.patterns"
            assert allowed, f"{name} imports {other}"


def test_imports_make_no_circle() -> None:
    order = TopologicalSorter({name: own(name) - {"", name} for name in MODULES if name})
    assert list(order.static_order())


@pytest.mark.parametrize("name", MODULES)
def test_heavy_libraries_stay_in_their_room(name: str) -> None:
    for full in imports(name):
        library = full.split(".")[0]
        if library in ("traceark", "__future__") or library in sys.stdlib_module_names:
            continue
        assert library in ROOMS, f"{name} imports {library}, which is no dependency with a room"
        allowed = any(name == each or name.startswith(f"{each}.") for each in ROOMS[library])
        assert allowed, f"{name} imports {library}, whose room is {', '.join(ROOMS[library])}"


def test_public_names_are_these() -> None:
    assert traceark.__all__ == PUBLIC
    assert all(hasattr(traceark, name) for name in PUBLIC)
