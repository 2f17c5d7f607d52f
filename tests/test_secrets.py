"""Secrets in storage options and URLs reach no error, log, warning, repr or file, whatever fails."""

from __future__ import annotations

import logging
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import traceark
from program import TRACEARK, ran
from servers import REGION, S3Server
from traceark.errors import InvalidValueError, TracearkError
from traceark.models import Message, Trace
from traceark.storage.secrets import Secrets

KEY, SECRET, TOKEN, PASSWORD = "PLANTED-KEY-1a2b", "PLANTED-SECRET-3c4d", "PLANTED-TOKEN-5e6f", "PLANTED-PASSWORD-7a8b"
PLANTED = (KEY, SECRET, TOKEN, PASSWORD)
NOWHERE = "http://127.0.0.1:9"


def options(endpoint: str) -> dict[str, Any]:
    return {
        "key": KEY,
        "secret": SECRET,
        "token": TOKEN,
        "endpoint_url": endpoint,
        "client_kwargs": {"region_name": REGION},
        "config_kwargs": {"retries": {"max_attempts": 1}, "connect_timeout": 2},
    }


class Heard(logging.Handler):
    """Keeps all that is logged, as a program would write it down."""

    def __init__(self) -> None:
        super().__init__(level=1)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{self.format(record)} {record.args!r} {record.exc_info!r}")


@contextmanager
def hearing() -> Iterator[list[str]]:
    """Listen to every logger at its most talkative, and to warnings."""
    root, heard = logging.getLogger(), Heard()
    before = root.level
    root.addHandler(heard)
    root.setLevel(1)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield heard.said
            heard.said += [str(each.message) for each in warned]
    finally:
        root.setLevel(before)
        root.removeHandler(heard)


def told_by(error: BaseException) -> str:
    """Return all that an error tells, and every error that it came from."""
    told = ["".join(traceback.format_exception(error))]
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        told.append(f"{each} {each!r} {vars(each)!r}")
        pending += [each.__cause__, each.__context__]
    return "\n".join(told)


def leaks(text: str) -> list[str]:
    return [text[max(text.index(each) - 60, 0) :][:160] for each in PLANTED if each in text]


class Echo(BaseHTTPRequestHandler):
    """A server that refuses everything and tells with what it was asked, as some do."""

    protocol_version = "HTTP/1.1"
    code, status = "ExpiredToken", 400

    def answer(self) -> None:
        body = (
            f"<Error><Code>{self.code}</Code><Message>The token {TOKEN} of {KEY} is no good</Message>"
            f"<Token-0>{TOKEN}</Token-0><AWSAccessKeyId>{KEY}</AWSAccessKeyId></Error>"
        ).encode()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

    def log_message(self, format: str, *args: object) -> None:
        pass


class Refused(Echo):
    code, status = "InvalidAccessKeyId", 403


class Broken(Echo):
    code, status = "InternalError", 500


@contextmanager
def serving(handler: type[Echo]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def use(archive: traceark.Archive) -> None:
    with archive:
        assert leaks(f"{archive!r} {archive.url} {archive.store!r} {archive.store.storage!r}") == []
        archive.create_trace(Trace(trace_id="run-7"))


def failing(url: str, given: dict[str, Any], work: Callable[[traceark.Archive], object] = use) -> Exception:
    """Return the error that comes of using an archive, having heard nothing of secrets meanwhile."""
    with hearing() as said, pytest.raises(Exception) as caught:
        work(traceark.open(url, storage_options=given))
    assert leaks("\n".join(said)) == []
    assert leaks(told_by(caught.value)) == []
    assert not isinstance(caught.value, AssertionError), "it does not fail, or what there is before it does tells"
    return caught.value


@pytest.mark.parametrize("handler", [Echo, Refused, Broken], ids=lambda each: each.code)
def test_a_server_that_tells_what_it_was_given_is_not_repeated(handler: type[Echo]) -> None:
    with serving(handler) as endpoint:
        error = failing("s3://bucket/archive", options(endpoint))
        assert isinstance(error, TracearkError)
        assert "s3://bucket/archive" in str(error) and handler.code in str(error)
        failing("s3://bucket/archive", options(endpoint), lambda archive: archive.get_trace("run-7"))
        failing("s3://bucket/archive", options(endpoint), lambda archive: archive.sql("SELECT 1 FROM traces"))


@pytest.mark.parametrize(
    "endpoint",
    [NOWHERE, f"http://ann:{PASSWORD}@127.0.0.1:9", f"not-a-url-{SECRET}", f"http://{TOKEN}.invalid"],
    ids=["refused", "userinfo", "malformed", "unresolvable"],
)
def test_an_endpoint_that_does_not_answer_tells_nothing(endpoint: str) -> None:
    assert isinstance(failing("s3://bucket/archive", options(endpoint)), TracearkError)


def test_an_s3_url_with_credentials_is_refused_without_repeating_them() -> None:
    error = failing(f"s3://ann:{PASSWORD}@bucket/archive", {})
    assert isinstance(error, InvalidValueError) and "storage_options" in str(error)


@pytest.mark.parametrize(
    ("url", "given", "why"),
    [
        (f"http://ann:{PASSWORD}@127.0.0.1:9/archive?token={TOKEN}", {}, "ann:***@127.0.0.1:9/archive?token=***"),
        (f"ftp://ann:{PASSWORD}@127.0.0.1:9/archive", {}, "Connection refused"),
        (f"ftp://ann:{PASSWORD}@127.0.0.1:9/archive", {"password": SECRET}, "multiple values"),
        (f"unheard-of://ann:{PASSWORD}@host/archive", {"token": TOKEN}, "Protocol not known"),
        ("s3://bucket/archive", {"password": SECRET, "secret": SECRET}, "not both"),
        (
            "s3://bucket/archive",
            {"key": KEY, "secret": SECRET, "config_kwargs": {TOKEN: TOKEN}},
            "unexpected keyword argument '***'",
        ),
        ("github://archive", {"username": "ann", "token": TOKEN}, "missing 2 required"),
    ],
    ids=["http", "ftp", "ftp twice", "unknown", "twice", "wrong option", "missing option"],
)
def test_what_cannot_be_opened_tells_nothing(url: str, given: dict[str, Any], why: str) -> None:
    assert why in str(failing(url, given))


def test_work_that_succeeds_leaves_secrets_in_no_file_and_no_log(
    ministack_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url = ministack_server.place()
    with hearing() as said, traceark.open(url, storage_options=options(ministack_server.endpoint)) as archive:
        archive.create_trace(Trace(trace_id="run-7"))
        archive.add_message(Message(trace_id="run-7", role="user", content="hi"))
        archive.update_trace("run-7", status="completed")
        archive.seal("run-7")
        archive.refresh()
        archive.optimize()
        assert archive.sql("SELECT content FROM messages").rows()
        archive.sync_to(tmp_path / "copy")
        storage = archive.store.storage
        for prefix in ("traces", "catalog"):
            for key in archive.run(storage.list(prefix)):
                assert leaks(archive.run(storage.read(f"{prefix}/{key}")).decode(errors="replace")) == []
    assert any("botocore" in each or "Sending http request" in each for each in said)
    assert leaks("\n".join(said)) == []
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert leaks(f"{path} {path.read_bytes().decode(errors='replace')}") == []


@pytest.mark.parametrize("verb", [["ls"], ["verify"], ["sync", "somewhere"]], ids=lambda each: each[0])
@pytest.mark.parametrize(
    "url", [f"http://ann:{PASSWORD}@127.0.0.1:9/archive?token={TOKEN}", f"unheard-of://ann:{PASSWORD}@host/archive"]
)
def test_the_command_line_shows_no_password_of_a_url(
    verb: list[str], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = ran(TRACEARK, verb[0], url, *verb[1:], "--debug")
    # It came as far as to the storage, whose address it tells, without what is secret of it.
    assert done.returncode and "Traceback" in done.stderr and "ann:***@" in done.stderr, done.stderr
    assert leaks(done.stdout + done.stderr) == []


def test_a_secret_of_a_few_letters_is_hidden_where_a_url_has_it() -> None:
    secrets = Secrets("http://ann:pw@host/archive?token=t1&page=2", {})
    told = "http://ann:pw@host/archive?token=t1&page=2/traceark.json: no pw at t1"
    assert secrets.masked(told) == "http://ann:***@host/archive?token=***&page=2/traceark.json: no pw at t1"
    assert Secrets("abfs://host", {"account_name": "dev"}).masked("profile=dev") == "profile=dev"


def test_secrets_are_found_however_deep_they_stand() -> None:
    given = {"client_kwargs": {"aws_secret_access_key": SECRET, "proxies": [f"http://ann:{PASSWORD}@proxy"]}}
    given["headers"] = {"Authorization": f"Bearer {TOKEN}"}
    secrets = Secrets("ftp://host/archive", given)
    for each in (SECRET, PASSWORD, f"Bearer {TOKEN}"):
        assert secrets.masked(f"a {each} b") == "a *** b"
    assert secrets.masked("http://proxy of ann") == "http://proxy of ann"
