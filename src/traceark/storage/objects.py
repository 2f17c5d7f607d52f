"""Object stores through fsspec: S3 with conditional writes, any other file system of fsspec without.

s3fs's own calls are made on fsspec's I/O loop, so that a store works from any event loop. Its
listing cache is never used, and its errors are told apart by the server's answer, since a failed
condition reaches us as a plain `OSError`. The S3 traps that this handles are: an empty exclusive
write carries no condition (no object here is empty); a write whose answer was lost, and that the client sent
again, conflicts with itself, so every object bears the mark of the call that wrote it; a 409, to a reader too, does not
say that a condition failed but that it is to be tried again; and an answer that breaks off is retried by nobody else.
"""

from __future__ import annotations

import asyncio
import errno
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
import fsspec.asyn

from traceark.errors import InvalidValueError, MissingLibraryError, StorageError, UnsafeStorageError
from traceark.storage.base import Entry, KeyExistsError, KeyMissingError, Storage, VersionMismatchError
from traceark.storage.s3_errors import (
    BrokenOffError,
    ConflictError,
    CredentialsError,
    UnsupportedRequestError,
    translated,
)
from traceark.storage.secrets import Secrets

Answer = TypeVar("Answer")
_PARALLEL = 32
# What broke off, or met another write of its key, is tried again after so many seconds.
_WAITS = (0.05, 0.1, 0.2, 0.4, 0.8)
# In an object's metadata: which call wrote it.
_MARK = "attempt"
# Trace keys begin with one of these.
_RANGES = "0123456789abcdefghijklmnopqrstuvwxyz"
# Clients, and the buckets where conditional writes were seen to hold; equal options share a client.
_proven: set[tuple[fsspec.AbstractFileSystem, str]] = set()


class FsspecStorage(Storage):
    """An archive on any file system of fsspec: readable, and writable by one writer at a time.

    fsspec has no conditional replacement, so writing wants ``allow_unsafe_writes``.
    """

    grace_seconds = 15 * 60.0

    def __init__(self, url: str, storage_options: Mapping[str, Any]) -> None:
        self._secrets = Secrets(url, storage_options)
        self.url = self._secrets.masked(url.rstrip("/"))
        self._fs, self._root = _made(
            self._secrets, self.url, lambda: fsspec.core.url_to_fs(url.rstrip("/"), **dict(storage_options))
        )

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}"

    async def _call(self, what: str, work: Callable[[], Answer]) -> Answer:
        def named() -> Answer:
            try:
                return work()
            except FileNotFoundError:
                raise KeyMissingError(f"{what} is not there") from None
            except FileExistsError:
                raise KeyExistsError(f"{what} is there already") from None
            except Exception as error:  # each file system raises what the libraries below it do
                raise StorageError(getattr(error, "errno", None) or 5, f"{what}: {error}") from error

        return await asyncio.to_thread(self._secrets.keep, named)

    async def read(self, key: str, start: int = 0) -> bytes:
        path = self._path(key)
        return await self._call(f"{self.url}/{key}", lambda: bytes(self._fs.cat_file(path, start=start or None)))

    async def read_versioned(self, key: str) -> tuple[bytes, str]:
        version = await self._call(f"{self.url}/{key}", lambda: self._version(self._path(key)))
        return await self.read(key), version

    def _version(self, path: str) -> str:
        """Return the version of an object as listings tell it."""
        self._fs.invalidate_cache(path.rpartition("/")[0])
        return _version_of(self._fs.info(path))

    async def list(self, prefix: str) -> dict[str, Entry]:
        path = self._path(prefix)
        self._fs.invalidate_cache(path)
        try:
            found = await self._call(f"{self.url}/{prefix}", lambda: self._fs.find(path, detail=True))
        except KeyMissingError:
            return {}
        start = len(self._fs._strip_protocol(path)) + 1
        return {
            name[start:]: Entry(int(info["size"] or 0), _version_of(info), _modified_of(info))
            for name, info in found.items()
            if info["type"] == "file"
        }

    async def children(self, prefix: str) -> Sequence[str]:
        path = self._path(prefix)
        self._fs.invalidate_cache(path)
        try:
            found = await self._call(f"{self.url}/{prefix}", lambda: self._fs.ls(path, detail=True))
        except KeyMissingError:
            return []
        return sorted(info["name"].rstrip("/").rpartition("/")[2] for info in found if info["type"] == "directory")

    async def create(self, key: str, data: bytes) -> str:
        return await self._put(key, data, is_new=True)

    async def replace(self, key: str, data: bytes, version: str | None = None) -> str:
        return await self._put(key, data, is_new=False)

    async def _put(self, key: str, data: bytes, *, is_new: bool) -> str:
        def work() -> str:
            path = self._path(key)
            if is_new and self._fs.exists(path):
                raise FileExistsError
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._fs.pipe_file(path, data)
            return self._version(path)

        return await self._call(f"{self.url}/{key}", work)

    async def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            try:
                await self._call(f"{self.url}/{key}", lambda key=key: self._fs.rm_file(self._path(key)))  # type: ignore[misc]
            except KeyMissingError:
                continue

    async def check_writable(self) -> None:
        raise UnsafeStorageError(
            f"{self.url}: this file system has no conditional writes, so two writers could overwrite each other; "
            "with a single writer, open it with allow_unsafe_writes=True"
        )


def _made(secrets: Secrets, url: str, make: Callable[[], Answer]) -> Answer:
    """Return a file system, which other packages make.

    Raises
    ------
    MissingLibraryError, InvalidValueError, StorageError
    """
    try:
        return secrets.keep(make)
    except ImportError as error:
        raise MissingLibraryError(f"{url} wants a package that is not installed: {error}") from error
    except OSError as error:
        raise StorageError(error.errno or errno.EIO, f"{url}: {error}") from error
    except Exception as error:  # whatever a constructor raises that does not take what it is given
        raise InvalidValueError(
            f"{url} cannot be opened by fsspec: {type(error).__name__}: {error}", "url or options"
        ) from error


def _version_of(info: Mapping[str, Any]) -> str:
    for name in ("ETag", "etag", "mtime", "LastModified", "created"):
        if info.get(name) is not None:
            return f"{info[name]}-{info['size']}"
    return str(info["size"])


def _modified_of(info: Mapping[str, Any]) -> float:
    moment = info.get("LastModified") or info.get("mtime") or info.get("created")
    if moment is None:
        return 0.0
    return float(moment) if isinstance(moment, int | float) else float(moment.timestamp())


class S3Storage(Storage):
    """An archive on S3 or a server that speaks it; one request per call, but for listings by the thousand.

    Parameters
    ----------
    url : str
        ``s3://bucket/prefix``.
    storage_options : mapping
        Given to `s3fs.S3FileSystem`; credentials come from there or from the usual AWS chain.
    """

    grace_seconds = 15 * 60.0

    def __init__(self, url: str, storage_options: Mapping[str, Any]) -> None:
        try:
            import s3fs

            from traceark.storage.s3_session import session_with
        except ImportError:
            raise StorageError("archives on S3 need s3fs: pip install 'traceark[s3]'") from None
        if "@" in urlsplit(url).netloc:
            raise InvalidValueError("an S3 URL holds no credentials; give them as storage_options", "url")
        self._secrets = Secrets(url, storage_options)
        self.url = url.rstrip("/")
        self._bucket, _, root = self.url.partition("://")[2].partition("/")
        self._root = f"{root}/" if root else ""
        if not self._bucket:
            raise InvalidValueError("it names no bucket; an archive on S3 is s3://bucket/prefix", "url")

        def make() -> s3fs.S3FileSystem:
            found = s3fs.S3FileSystem(**dict(storage_options))
            if found.session is None:
                found.session = session_with(found.kwargs)
            return found

        self._fs = _made(self._secrets, self.url, make)

    async def _run(self, work: Coroutine[Any, Any, Answer], what: str) -> Answer:
        """Run a coroutine of s3fs on fsspec's own loop, and turn its errors into ours."""
        future = asyncio.run_coroutine_threadsafe(work, fsspec.asyn.get_loop())
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # s3fs raises what botocore, aiohttp and the sockets below raise
            failure = translated(error, what)
            if failure is not error:
                failure.__cause__ = error
            if isinstance(failure, CredentialsError):
                # Who opens the archive again is not to get the client that holds them.
                self._fs.clear_instance_cache()
            safe = self._secrets.safe(failure)
        raise safe

    async def _retried(self, work: Callable[[], Coroutine[Any, Any, Answer]], what: str) -> Answer:
        """Run what no client below tries again until it is done, for a while."""
        for wait in (*_WAITS, None):
            try:
                return await self._run(work(), what)
            except (BrokenOffError, ConflictError):
                if wait is None:
                    raise
            await asyncio.sleep(wait)
        raise AssertionError  # the last try returns or raises

    async def _ask(self, name: str, what: str, **arguments: Any) -> Any:
        """Return the answer to a request of botocore's."""
        return await self._retried(lambda: self._fs._call_s3(name, Bucket=self._bucket, **arguments), what)

    async def _on(self, name: str, key: str, **arguments: Any) -> Any:
        """Return the answer to a request for an object."""
        return await self._ask(name, f"{self.url}/{key}", Key=self._root + key, **arguments)

    async def read(self, key: str, start: int = 0) -> bytes:
        return (await self._get(key, start))[0]

    async def read_versioned(self, key: str) -> tuple[bytes, str]:
        return await self._get(key)

    async def _get(self, key: str, start: int = 0) -> tuple[bytes, str]:
        ranged = {"Range": f"bytes={start}-"} if start else {}

        async def work() -> tuple[bytes, str]:
            answer = await self._fs._call_s3("get_object", Bucket=self._bucket, Key=self._root + key, **ranged)
            try:
                async with answer["Body"] as body:
                    return await body.read(), answer["ETag"]
            except Exception as error:  # aiohttp, aiobotocore and the sockets below each have their own
                raise BrokenOffError(errno.EIO, f"{self.url}/{key}: the answer broke off: {error!r}") from error

        return await self._retried(work, f"{self.url}/{key}")

    async def list(self, prefix: str) -> dict[str, Entry]:
        full = f"{self._root}{prefix}/"
        first, more = await self._page(full, "")
        found = [first]
        if more:
            # A page gives where the next one begins, so a long listing is cut into ranges that go side by side.
            last = first[-1]["Key"]
            starts = [last, *(full + each for each in _RANGES if full + each > last)]
            found += await asyncio.gather(
                *(self._range(full, start, end) for start, end in zip(starts, [*starts[1:], None], strict=True))
            )
        return {
            item["Key"][len(full) :]: Entry(item["Size"], item["ETag"], item["LastModified"].timestamp())
            for items in found
            for item in items
        }

    async def _page(self, full: str, after: str) -> tuple[Sequence[dict[str, Any]], bool]:
        """Return a page of a listing behind a key, and whether there is more."""
        start = {"StartAfter": after} if after else {}
        page = await self._ask("list_objects_v2", self.url, Prefix=full, **start)
        return page.get("Contents", []), bool(page.get("IsTruncated"))

    async def _range(self, full: str, after: str, end: str | None) -> Sequence[dict[str, Any]]:
        """Return what lies behind one key and up to another."""
        found: list[dict[str, Any]] = []
        more = True
        while more:
            items, more = await self._page(full, after)
            found += [item for item in items if end is None or item["Key"] <= end]
            if not items or (end is not None and items[-1]["Key"] > end):
                break
            after = items[-1]["Key"]
        return found

    async def children(self, prefix: str) -> Sequence[str]:
        full = f"{self._root}{prefix}/"
        names: list[str] = []
        async for page in self._pages(Prefix=full, Delimiter="/"):
            names += [item["Prefix"][len(full) : -1] for item in page.get("CommonPrefixes", ())]
        return sorted(names)

    async def _pages(self, **arguments: str) -> AsyncIterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            page = await self._ask("list_objects_v2", self.url, **arguments, **token)
            yield page
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    async def _put(self, key: str, data: bytes, **condition: str) -> str:
        mark = secrets.token_hex(8)
        try:
            answer = await self._on("put_object", key, Body=data, Metadata={_MARK: mark}, **condition)
        except VersionMismatchError:
            # The client may have sent it twice.
            version = await self._version_if_written(key, mark)
            if version is None:
                raise
            return version
        return str(answer["ETag"])

    async def _version_if_written(self, key: str, mark: str) -> str | None:
        """Return an object's version if the call with this mark wrote it."""
        # The answer to HEAD would not say what is wrong.
        try:
            found = await self._on("get_object", key, Range="bytes=0-0")
        except KeyMissingError:
            return None
        found["Body"].close()
        return str(found["ETag"]) if found["Metadata"].get(_MARK) == mark else None

    async def create(self, key: str, data: bytes) -> str:
        try:
            return await self._put(key, data, IfNoneMatch="*")
        except VersionMismatchError:
            raise KeyExistsError(f"{self.url}/{key} is there already") from None

    async def replace(self, key: str, data: bytes, version: str | None = None) -> str:
        if version is None:
            return await self._put(key, data)
        try:
            return await self._put(key, data, IfMatch=version)
        except KeyMissingError:
            raise VersionMismatchError(f"{self.url}/{key} was deleted since it was read") from None

    async def delete(self, keys: Iterable[str]) -> None:
        # One by one: the order matters, and not every server answers DeleteObjects alike.
        for key in keys:
            await self._on("delete_object", key)

    async def delete_unchanged(self, versions: Mapping[str, str]) -> Sequence[str]:
        replaced = []
        for key, version in versions.items():
            try:
                await self._on("delete_object", key, IfMatch=version)
            except KeyMissingError:
                continue
            except VersionMismatchError:
                replaced.append(key)
            except UnsupportedRequestError:
                await self.delete([key])
        return replaced

    async def check_writable(self) -> None:
        """Try on an object of its own that both conditions hold; once in a process for each bucket."""
        if (self._fs, self._bucket) in _proven:
            return
        key = f".traceark-probe-{secrets.token_hex(8)}"
        weak = UnsafeStorageError(
            f"{self.url}: this server ignores conditional writes (If-None-Match, If-Match), so two writers could "
            "overwrite each other; with a single writer, open it with allow_unsafe_writes=True"
        )
        version = await self.create(key, b"1")
        try:
            try:
                await self.create(key, b"2")
            except KeyExistsError:
                pass
            else:
                raise weak
            version = await self.replace(key, b"3", version)
            try:
                await self.replace(key, b"4", '"00000000000000000000000000000000"')
            except VersionMismatchError:
                pass
            else:
                raise weak
        finally:
            await self.delete([key])
        _proven.add((self._fs, self._bucket))
