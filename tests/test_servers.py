"""The S3 servers that the tests start: they answer, and they refuse a second exclusive creation."""

from __future__ import annotations

import pytest
import s3fs

from servers import S3Server


@pytest.fixture(params=["ministack_server", "moto_server"])
def server(request: pytest.FixtureRequest) -> S3Server:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, S3Server)
    return found


def test_what_is_put_is_got(server: S3Server) -> None:
    files = s3fs.S3FileSystem(**server.storage_options)
    key = f"{server.place()}/a"
    files.pipe_file(key, b"bytes")
    assert files.cat_file(key) == b"bytes"


def test_only_the_first_exclusive_creation_wins(server: S3Server) -> None:
    files = s3fs.S3FileSystem(**server.storage_options)
    key = f"{server.place()}/a"
    files.pipe_file(key, b"first", mode="create")
    with pytest.raises(OSError):
        files.pipe_file(key, b"second", mode="create")
    assert files.cat_file(key) == b"first"


def test_every_place_is_new(server: S3Server) -> None:
    assert server.place() != server.place()
