"""Programs that tests start: `traceark` as users call it, also where only the sources are, and files of the tests.

Run as a program, this file forks a process for each call, from one that has loaded the package: the tests call
hundreds, and to load it takes a second each time. Such a process is one of its own in all else: it has a pid, streams
and an end as a Python that was started. What is about the start itself starts a fresh Python.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import traceark

PIPE = subprocess.PIPE
# Tests that look into this put another one in its place.
_TEMPORARY = tempfile.gettempdir()
# What is no file is the command line.
TRACEARK = "traceark"
# What most of them need and the package loads when it is needed; and all of the package but these.
_LOADED = ("pyarrow.compute", "rich.progress", "rich.table", "rich.tree", "s3fs")
_NOT_LOADED = ("traceark.__main__", "traceark.capture", "traceark.testing")

# A call gives its three streams, and what a process is told: its arguments from its name on, directory, environment.
_CALL = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    told = json.dumps([["traceark", *sys.argv[1:]], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(told).to_bytes(8)], [0, 1, 2])
    server.sendall(told)
    answers = server.makefile()
    answers.readline()
    status = int(answers.readline() or 70)
sys.exit(status if status >= 0 else 128 - status)
"""


def loaded_program(directory: Path) -> Path:
    """Put the program, loaded already, into ``directory/bin`` and return that, for PATH."""
    place = directory / "bin"
    place.mkdir()
    (place / "traceark").write_text(_CALL.format(python=sys.executable, address=_server()))
    (place / "traceark").chmod(0o755)
    return place


class Program:
    """A process of its own that runs `traceark`, or a file of the tests as a program; started as `Popen` would.

    Parameters
    ----------
    command : object
        The file, or `-c` and the program's text, or `TRACEARK`; and its arguments.
    stdin, stdout, stderr : IO or int, optional
        A file, PIPE, or nothing for what this process has.
    env : mapping, optional
        Its environment, in place of this process's.
    """

    def __init__(
        self,
        *command: object,
        stdin: IO[str] | int | None = None,
        stdout: IO[str] | int | None = None,
        stderr: IO[str] | int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.returncode: int | None = None
        self._pipes: list[IO[str]] = []
        given = [self._given(way, stream) for stream, way in enumerate((stdin, stdout, stderr))]
        self.stdin, self.stdout, self.stderr = (piped for _, piped in given)
        told = json.dumps([[str(each) for each in command], str(Path.cwd()), dict(os.environ if env is None else env)])
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(_server())
        socket.send_fds(self._server, [len(told.encode()).to_bytes(8)], [stream for stream, _ in given])
        self._server.sendall(told.encode())
        for stream, piped in given:
            if piped is not None:
                os.close(stream)
        self._answers = self._server.makefile()
        self.pid = int(self._answers.readline())

    def _given(self, way: IO[str] | int | None, stream: int) -> tuple[int, IO[str] | None]:
        """Return the stream that the process gets, and this one's end of it where it is a pipe."""
        if way is None:
            return stream, None
        if way != PIPE:
            return way if isinstance(way, int) else way.fileno(), None
        read, write = os.pipe()
        piped = os.fdopen(read) if stream else os.fdopen(write, "w")
        self._pipes.append(piped)
        return (write, piped) if stream else (read, piped)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        for piped in self._pipes:
            piped.close()
        self.wait()

    def wait(self) -> int:
        """Wait until it has ended, and return how: as `Popen` does, below zero by which signal."""
        if self.returncode is None:
            self.returncode = int(self._answers.readline())
            self._answers.close()
            self._server.close()
        return self.returncode

    def poll(self) -> int | None:
        """Return how it ended; None where it has not."""
        if self.returncode is None and select.select([self._server], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as the kernel would."""
        self.send_signal(signal.SIGKILL)


def ran(
    *command: object, stdout: IO[str] | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run such a process to its end; return how it ended and what it wrote."""
    with (
        Path(os.devnull).open() as nothing,
        tempfile.TemporaryFile("w+") as written,
        tempfile.TemporaryFile("w+") as errors,
    ):
        code = Program(*command, stdin=nothing, stdout=stdout or written, stderr=errors, env=env).wait()
        written.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess([str(each) for each in command], code, written.read(), errors.read())


@functools.cache
def _server() -> str:
    """Return where the one is that forks, started for the first call; it ends with this process."""
    directory = tempfile.TemporaryDirectory(dir=_TEMPORARY)
    address = str(Path(directory.name) / "socket")
    process = subprocess.Popen([sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.read(1) == b"."

    @atexit.register
    def end() -> None:
        process.communicate()
        directory.cleanup()

    return address


def _serve(address: str) -> Callable[[], object]:
    """Fork a process for each call, in which this returns what that is to do; end with the process that began this."""
    from traceark.starting import leave_pandas_for_later

    leave_pandas_for_later()
    package = [module.name for module in pkgutil.walk_packages(traceark.__path__, "traceark.")]
    for name in (*_LOADED, *(each for each in package if not each.startswith(_NOT_LOADED))):
        importlib.import_module(name)
    children: dict[int, socket.socket] = {}

    def ended(*_: object) -> None:
        while children and (found := os.waitpid(-1, os.WNOHANG))[0]:
            with children.pop(found[0]) as connection:
                _answer(connection, os.waitstatus_to_exitcode(found[1]))

    signal.signal(signal.SIGCHLD, ended)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        sys.stdout.write(".")
        sys.stdout.flush()
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            streams, command, directory, environment = _asked(connection)
            # What follows `-c` is a program's text.
            begin = _beginning(*command[: 1 + (command[0] == "-c")])
            gc.freeze()
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
            if pid := os.fork():
                children[pid] = connection
                _answer(connection, pid)
                for stream in streams:
                    os.close(stream)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
                continue
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            for each in (*children.values(), connection):
                each.close()
            _become(streams, command, directory, environment)
            return begin
    sys.exit()


def _answer(connection: socket.socket, number: int) -> None:
    # Who does not wait for a process hears nothing of its end.
    with suppress(BrokenPipeError):
        connection.sendall(b"%d\n" % number)


def _asked(connection: socket.socket) -> tuple[list[int], list[str], str, dict[str, str]]:
    """Return what a process is asked for: its streams, arguments, directory and environment."""
    size, streams, _, _ = socket.recv_fds(connection, 8, 3)
    told = b""
    while len(told) < int.from_bytes(size):
        told += connection.recv(1 << 20)
    return (streams, *json.loads(told))


@functools.cache
def _beginning(name: str, text: str = "") -> Callable[[], object]:
    """Return what a process does; what a file imports is loaded here, for all that follow."""
    if name == TRACEARK:
        from traceark.cli import main

        return main
    if not text:
        runpy.run_path(name, run_name="loaded")
    code = compile(text or Path(name).read_text(), name, "exec")

    def begin() -> None:
        module = types.ModuleType("__main__")
        module.__file__ = name
        sys.modules["__main__"] = module
        exec(code, vars(module))

    return begin


def _become(streams: list[int], command: list[str], directory: str, environment: dict[str, str]) -> None:
    """Let this process have what it was given."""
    for stream, given in enumerate(streams):
        os.dup2(given, stream)
        os.close(given)
    # Those of the one that was loaded know what they were opened on.
    encoding = environment.get("PYTHONIOENCODING")
    sys.stdin = os.fdopen(0, encoding=encoding, closefd=False)
    sys.stdout = os.fdopen(1, "w", encoding=encoding, closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, encoding, "backslashreplace", closefd=False)
    sys.argv[:] = [command[0], *command[1 + (command[0] == "-c") :]]
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # it is looked for again, in the environment


def _be(begin: Callable[[], object]) -> None:
    """Be a program to its end, and say how it ended; what else would happen is seen to by Python itself."""
    try:
        begin()
        _STATUS.append(0)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            _STATUS.append(end.code or 0)
        raise


def _leave() -> None:
    """End, after all else: to take apart what was loaded would take longer than most programs."""
    if _STATUS:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_STATUS[0])


_STATUS: list[int] = []

if __name__ == "__main__":
    # What is registered first is called last.
    atexit.register(_leave)
    _be(_serve(sys.argv[1]))
