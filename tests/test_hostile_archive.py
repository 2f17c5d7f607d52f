"""An archive from a stranger: whatever stands where a file or a directory belongs, no verb hangs or leaves it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from profiles import SEED, tried
from shell import run
from traceark.errors import CorruptFileError, TracearkError
from traceark.models import Goal, Message, Trace
from traceark.storage.local import LocalStorage
from traceark.store import ArchiveStore

# All that a verb may take, on a busy machine.
SECONDS = 20
SECRET = "what sealed said"


async def fill(store: ArchiveStore, trace_id: str, content: str) -> None:
    await store.create_trace(Trace(trace_id=trace_id, task="sort"))
    await store.add_goal(trace_id, Goal(id="1"))
    for _ in range(3):
        await store.add_message(Message(trace_id=trace_id, role="user", content=content, goal_id="1", tokens=1))
        await store.append_event(trace_id, "step", "by")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive that has a file of each kind, and beside it one that may be synced with it."""
    folder = tmp_path_factory.mktemp("made")

    async def make() -> None:
        async with ArchiveStore(folder / "archive", durability="os") as store:
            for trace_id in ("sealed", "gone", "live"):
                await fill(store, trace_id, f"what {trace_id} said")
            await store.update_trace("sealed", status="completed")
            await store.seal("sealed")
            await store.pin("sealed")
            await store.delete_trace("gone")
            await store.refresh()
            await store.optimize()
        async with ArchiveStore(folder / "other", durability="os") as store:
            await fill(store, "other", "said")

    asyncio.run(make())
    (folder / "archive/lost+found/20260101T000000Z-00000000/traces/x").mkdir(parents=True)
    (folder / "archive/lost+found/20260101T000000Z-00000000/traces/x/trace.json").write_text("{}")
    return folder


Put = Callable[[Path, Path], None]


def link(place: Path, outside: Path) -> None:
    place.rename(outside / "there")
    place.symlink_to(outside / "there")


def link_to_nothing(place: Path, outside: Path) -> None:
    removed(place)
    place.symlink_to(outside / "made")


def hard_link(place: Path, outside: Path) -> None:
    place.unlink()
    (outside / "mine").write_text("mine\n" * 100)
    (outside / "mine").chmod(0o600)
    place.hardlink_to(outside / "mine")


def pipe(place: Path, outside: Path) -> None:
    removed(place)
    os.mkfifo(place)


def sock(place: Path, outside: Path) -> None:
    removed(place)
    before = Path.cwd()
    os.chdir(place.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(place.name)
    finally:
        os.chdir(before)


def device(place: Path, outside: Path) -> None:
    removed(place)
    os.mknod(place, 0o666 | stat.S_IFCHR, os.makedev(1, 3))


def directory(place: Path, outside: Path) -> None:
    place.unlink()
    place.mkdir()


def file(place: Path, outside: Path) -> None:
    shutil.rmtree(place)
    place.write_text("mine")


def removed(place: Path) -> None:
    shutil.rmtree(place) if place.is_dir() else place.unlink()


NOT_PLAIN: tuple[Put, ...] = (link, link_to_nothing, pipe, sock, device)


def can_make_devices(folder: Path) -> bool:
    try:
        os.mknod(folder / "device", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        (folder / "device").open("rb").close()
    except OSError:
        return False
    return True


def cases(archive: Path) -> Iterator[tuple[str, Put]]:
    for path in sorted(archive.rglob("*")):
        name = path.relative_to(archive).as_posix()
        yield from ((name, put) for put in (*NOT_PLAIN, *((file,) if path.is_dir() else (hard_link, directory))))


def state(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return all that somebody could change in a folder."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path)] = (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, content)
    return found


@contextmanager
def in_time(archive: Path) -> Iterator[None]:
    """Fail where something waits for a pipe, once it has been told to go on."""
    late = threading.Event()

    def release() -> None:
        late.set()
        for path in archive.rglob("*"):
            if path.is_fifo():
                os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))

    timer = threading.Timer(SECONDS, release)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    assert not late.is_set(), f"it took more than {SECONDS} seconds"


async def written_to(archive: Path) -> None:
    """Write to the archive as an agent does."""
    try:
        async with ArchiveStore(archive, access="group") as store:
            await store.create_trace(Trace(trace_id="new"))
            await store.add_message(Message(trace_id="new", role="user", content="hi"))
            await store.add_message(Message(trace_id="live", role="user", content="more"))
            await store.update_message("sealed-0001", content="less")
    except TracearkError:
        pass


def verbs(archive: Path, beside: Path) -> Iterator[tuple[object, ...]]:
    """Yield all verbs, those that only read first."""
    yield "ls", archive
    for trace_id in ("sealed", "live"):
        yield "show", archive, trace_id
        yield "tail", archive, trace_id
    yield "sql", archive, "SELECT m.content, t.task FROM messages m JOIN traces t USING (trace_id)"
    yield "sql", archive, "SELECT * FROM events JOIN goals USING (trace_id)"
    yield "search", archive, "said"
    yield "stats", archive
    yield "tree", archive, "sealed"
    yield "verify", archive, "sealed"
    yield "repair", archive, "--all"
    yield "export", archive, "sealed", "--format", "markdown", "-o", beside / "page.md"
    yield "pack", archive, "--all", "--to", beside / "all.zip"
    yield "sync", archive, beside / "synced"
    yield "import", archive, "--to", beside / "imported"
    yield "sync", beside.parent / "other", archive
    yield "compact", archive, "--all"
    yield "pin", archive, "live"
    yield "redact", archive, "--all", "--yes"
    yield "seal", archive, "--all"
    yield "refresh", archive
    yield "optimize", archive
    yield "repair", archive, "--all", "--yes"
    yield "repair", archive, "--all", "--yes", "--accept"
    yield "expire", archive, "--older-than", "0d", "--yes"
    yield "rm", archive, "live", "--purge"


def wrong_with(made: Path, place: Path, name: str, put: Put) -> list[str]:
    """Return what goes wrong where one entry of an archive is replaced."""
    archive, outside, beside = place / "archive", place / "outside", place / "beside"
    shutil.copytree(made / "archive", archive)
    shutil.copytree(made / "other", place / "other", dirs_exist_ok=True)
    outside.mkdir()
    beside.mkdir()
    put(archive / name, outside)
    was = state(outside)
    wrong: list[str] = []

    def note(arguments: tuple[object, ...]) -> str:
        began = time.monotonic()
        try:
            with in_time(archive):
                result = run(*arguments)
        except AssertionError as error:
            wrong.append(f"{arguments[0]}: {error}")
            return ""
        if "No such option" in result.stderr:
            wrong.append(f"{arguments[0]}: it was not run: {result.stderr}")
        if result.exit_code not in (0, 1, 2) or "--debug" in result.stderr or time.monotonic() - began > SECONDS:
            wrong.append(f"{arguments[0]}: {result.exit_code} {result.stderr}")
        if put is link and "traces/sealed/messages".startswith(name) and SECRET in result.stdout:
            wrong.append(f"{arguments[0]}: it followed the link: {result.stdout}")
        if state(outside) != was:
            wrong.append(f"{arguments[0]}: it changed what lies outside")
        return result.stdout + result.stderr

    for deep in ((), ("--deep",)):
        said = note(("verify", archive, *deep))
        if put in NOT_PLAIN and not any(line == name or f"/{name} is " in line for line in said.splitlines()):
            wrong.append(f"verify {deep}: does not name it: {said}")
    for arguments in verbs(archive, beside):
        note(arguments)
    with in_time(archive):
        asyncio.run(written_to(archive))
    if state(outside) != was:
        wrong.append("an agent that writes: it changed what lies outside")
    return [f"{name} {put.__name__}: {each}" for each in wrong]


def test_no_verb_hangs_or_leaves_an_archive_of_a_stranger(made: Path, tmp_path: Path) -> None:
    can = can_make_devices(tmp_path)
    chosen = [(name, put) for name, put in cases(made / "archive") if can or put is not device]
    step = tried(179, 23, 2)
    wrong: list[str] = []
    for at, (name, put) in enumerate(chosen[SEED % step :: step]):
        place = tmp_path / str(at)
        place.mkdir()
        wrong += wrong_with(made, place, name, put)
        shutil.rmtree(place)
    assert wrong == []


def test_a_check_that_is_left_out_is_found(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def followed(root: Path, key: str) -> Path:
        return root / key

    def opened(path: Path | str, flags: int, mode: int = 0o600) -> int:
        return os.open(path, flags, mode)

    monkeypatch.setattr("traceark.storage.local.path_to_open", followed)
    for module in ("storage.local", "sync.disk"):
        monkeypatch.setattr(f"traceark.{module}.plain_path", followed)
    for module in ("storage.local", "storage.local_plain"):
        monkeypatch.setattr(f"traceark.{module}.open_plain", opened)
    found = "\n".join(wrong_with(made, tmp_path, "traces", link))
    assert "it followed the link" in found
    assert "it changed what lies outside" in found
    assert "does not name it" in found


@pytest.mark.parametrize("put", NOT_PLAIN)
async def test_what_is_no_file_is_told_by_name_whoever_reads(made: Path, tmp_path: Path, put: Put) -> None:
    if put is device and not can_make_devices(tmp_path):
        pytest.skip("devices are made by root only")
    shutil.copytree(made / "archive", tmp_path / "archive")
    place = tmp_path / "archive/traces/sealed/trace.json"
    put(place, tmp_path)
    async with ArchiveStore(tmp_path / "archive") as store:
        with pytest.raises(CorruptFileError, match=r"trace\.json is a .*regular files only"):
            await store.get_trace("sealed")


@pytest.mark.parametrize("key", ["../mine", "traces/../../mine", "traces//mine", "/etc/passwd", "traces/./t"])
async def test_a_key_that_leads_out_is_no_key(tmp_path: Path, key: str) -> None:
    (tmp_path / "mine").write_text("mine")
    storage = LocalStorage(tmp_path / "archive")
    for call in (storage.read(key), storage.create(key, b""), storage.replace(key, b""), storage.delete([f"{key}/x"])):
        with pytest.raises(CorruptFileError, match="is no name of a file"):
            await call


async def test_the_root_itself_may_be_a_link(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "archive", tmp_path / "archive")
    (tmp_path / "link").symlink_to(tmp_path / "archive")
    async with ArchiveStore(tmp_path / "link") as store:
        await store.add_message(Message(trace_id="live", role="user", content="more"))
        assert len(await store.get_trace_messages("live")) == 4
        assert await store.verify() == []


async def test_a_copy_of_hard_links_is_written_on(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "archive", tmp_path / "copy", copy_function=os.link)
    was = state(made / "archive")
    async with ArchiveStore(tmp_path / "copy") as store:
        await store.add_message(Message(trace_id="live", role="user", content="more"))
        await store.update_message("sealed-0001", content="other")
        assert len(await store.get_trace_messages("live")) == 4
    changed = [name for name, found in state(made / "archive").items() if found != was[name]]
    assert all(name.endswith("/.lock") for name in changed)


@pytest.mark.parametrize("name", ["traceark.json", "traces/sealed/trace.json", "traces/sealed/messages"])
def test_an_import_waits_for_no_pipe_and_follows_no_link(made: Path, tmp_path: Path, name: str) -> None:
    for put in (pipe, link):
        place = tmp_path / put.__name__
        shutil.copytree(made / "archive", place / "archive")
        (place / "outside").mkdir()
        put(place / "archive" / name, place / "outside")
        with in_time(place / "archive"):
            run("import", place / "archive", "--to", place / "imported")
        said = run("sql", place / "imported", "SELECT content FROM messages").stdout
        assert ("what live said" in said, SECRET in said) == (True, name == "traceark.json")
