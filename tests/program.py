"""The program `traceark` as users call it, also where only the sources are.

Run as a program, this file forks a process for each call, from one that has loaded the package: a page of
the documentation calls dozens, and to load it takes half a second each time.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A call gives its three streams, and what a process is told: arguments, directory, environment.
_CALL = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    told = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(told).to_bytes(8)], [0, 1, 2])
    server.sendall(told)
    status = server.recv(1)
sys.exit(status[0] if status else 70)
"""


def program(directory: Path) -> Path:
    """Put the program into ``directory/bin`` and return that, for PATH."""
    return _put(directory, f"#!{sys.executable}\nfrom traceark.cli import main\nmain()\n")


@contextmanager
def loaded_program(directory: Path) -> Iterator[Path]:
    """Do the same with a program that is loaded already, and is there as long as the block is."""
    address = directory / "traceark.sock"
    with subprocess.Popen([sys.executable, __file__, address], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.read(1) == b"."
            yield _put(directory, _CALL.format(python=sys.executable, address=str(address)))
        finally:
            process.kill()


def _put(directory: Path, text: str) -> Path:
    place = directory / "bin"
    place.mkdir()
    (place / "traceark").write_text(text)
    (place / "traceark").chmod(0o755)
    return place


def _serve(address: str) -> None:
    import traceark.cli.asking
    import traceark.importers.run
    import traceark.store  # noqa: F401
    from traceark.starting import leave_pandas_for_later

    leave_pandas_for_later()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        sys.stdout.write(".")
        sys.stdout.flush()
        while True:
            connection, _ = listener.accept()
            with connection:
                if not os.fork():
                    listener.close()
                    _answer(connection)


def _answer(connection: socket.socket) -> None:
    """Be the program for one call, and end."""
    size, streams, _, _ = socket.recv_fds(connection, 8, 3)
    for stream, given in enumerate(streams):
        os.dup2(given, stream)
        os.close(given)
    # Those of the one that was loaded know what they were opened on.
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    told = b""
    while len(told) < int.from_bytes(size):
        told += connection.recv(1 << 20)
    sys.argv[1:], directory, environment = json.loads(told)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status = 70
    try:
        from traceark.cli import main

        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        connection.sendall(bytes([status]))
        os._exit(status)


if __name__ == "__main__":
    _serve(sys.argv[1])
