"""The shape of the package: imports point down, heavy libraries stay in their room, modules stay small."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

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
        "at_a_time",
        "going_on",
        "replacing",
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
    ("store", "following", "query", "questions", "asking", "deleting", "keeping", "retention"),
    ("archive", "loop_thread", "moving", "importers", "exporters", "sync", "spool", "redacting", "capture"),
    ("cli", "server", "__main__"),
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
    "aiobotocore": ("storage.s3_session",),
    "botocore": ("storage.s3_session",),
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


@cache
def tree(name: str) -> ast.Module:
    """Return a module's syntax tree."""
    return ast.parse(MODULES[name].read_text())


@cache
def imports(name: str) -> frozenset[str]:
    """Return the modules that a module imports when it runs, by full name; those for types only are left out."""
    found: set[str] = set()
    pending: list[ast.AST] = [tree(name)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{name} imports relatively"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full.removeprefix("traceark.") in MODULES else node.module)
        # Imports are statements, and no expression holds one.
        for block in ("body", "orelse", "handlers", "finalbody", "cases"):
            pending += getattr(node, block, ())
    return frozenset(found)


def own(name: str) -> set[str]:
    """Return the modules of this package that a module imports; the package itself is ''."""
    return {
        each.removeprefix("traceark").removeprefix(".") for each in imports(name) if each.split(".")[0] == "traceark"
    }


def room(name: str) -> str:
    """Return the part of the package that a module belongs to."""
    return name.split(".")[0]


def test_every_module_says_what_it_is_for() -> None:
    silent = [str(MODULES[name]) for name in MODULES if not ast.get_docstring(tree(name))]
    assert not silent, f"open without a docstring: {', '.join(silent)}"


def test_a_module_can_be_read_in_one_sitting() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    wrong = {name: count for name, count in lines.items() if (count > MAX_LINES) != (name in LONG)}
    assert not wrong, f"{MAX_LINES} lines are allowed without a reason: {wrong}"


def test_imports_point_down_only() -> None:
    modules = [name for name in MODULES if name and room(name) != "testing"]
    wrong = [each for name in modules for each in upward(name)]
    assert not wrong, "\n".join(wrong)


def upward(name: str) -> Iterator[str]:
    """Yield what is wrong with what a module imports of the package."""
    if room(name) not in LEVEL:
        yield f"give {room(name)!r} a level"
        return
    level = LEVEL[room(name)]
    for other in own(name):
        if other == "":
            if level != TOP:
                yield f"{name} imports the whole package"
        elif room(other) == "testing":
            yield f"{name} imports from the tests' part"
        elif LEVEL[room(other)] > level:
            yield f"{name} imports {other}, which is above it"
        elif not allowed(name, other):
            yield f"{name} imports {other}"


def allowed(name: str, other: str) -> bool:
    """Say whether a module may import another one that is not above it."""
    level = LEVEL[room(name)]
    if level == STORAGE:
        # Layout gives the names of files and traces; nothing else of them is known down here. A pack is a user's file.
        return (
            room(other) in ("errors", "storage", room(name))
            or other == "layout"
            or (room(name) == "packed" and other == "replacing")
        )
    if level == LOGS and room(other) == "storage":
        return other == "storage.base"
    if room(name) == "importers":
        # The importer of archives reads them as the package does.
        more = {
            "importers.archive": LEVELS[1] + LEVELS[2] + LEVELS[3],
            "importers.copies": ("codec",),
            "importers.parallel": ("processes", "computing"),
            "importers.run": ("computing",),
            "importers.take": ("computing",),
        }
        return room(other) in ("errors", "models", "plugins", "protocol", "importers", *more.get(name, ()))
    if room(name) == "exporters" and name != "exporters.run":
        return room(other) in ("errors", "models", "layout", "showing", "packed", "exporters")
    if room(name) == "cli":
        # Of what lies deep, only the words, models, names, findings, cursors, how to start, and how to replace a file.
        words = (
            "errors",
            "models",
            "layout",
            "verification",
            "filters",
            "showing",
            "starting",
            "at_a_time",
            "replacing",
        )
        return LEVEL[room(other)] >= STORE or other in words or other == "redaction.patterns"
    return True


def test_imports_make_no_circle() -> None:
    order = TopologicalSorter({name: own(name) - {"", name} for name in MODULES if name})
    assert list(order.static_order())


def test_heavy_libraries_stay_in_their_room() -> None:
    wrong = [each for name in MODULES for each in astray(name)]
    assert not wrong, "\n".join(wrong)


def astray(name: str) -> Iterator[str]:
    """Yield what is wrong with the libraries that a module imports."""
    for library in {full.split(".")[0] for full in imports(name)}:
        if library in ("traceark", "__future__") or library in sys.stdlib_module_names:
            continue
        if library not in ROOMS:
            yield f"{name} imports {library}, which is no dependency with a room"
        elif not any(name == each or name.startswith(f"{each}.") for each in ROOMS[library]):
            yield f"{name} imports {library}, whose room is {', '.join(ROOMS[library])}"


def test_public_names_are_these() -> None:
    assert traceark.__all__ == PUBLIC
    assert all(hasattr(traceark, name) for name in PUBLIC)
