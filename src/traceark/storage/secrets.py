"""What must never be told: the secrets among the options and in the URL of a storage.

Libraries below tell what they were given, in errors and in their own logs. An error that names a
secret is told in this package's words, without what it was raised from; a log's record is changed.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from traceark.errors import InvalidValueError, StorageError, TracearkError

Answer = TypeVar("Answer")

_NAMES = re.compile(r"key|secret|token|pass|pwd|credential|signature|auth|account|connection_string|sas|cookie", re.I)
_HIDDEN = "***"
# What is shorter may stand in any text, and is hidden only where a URL has it.
_SHORTEST = 4
# Libraries whose loggers tell headers, and with them who asks.
_LIBRARIES = ("aiobotocore", "aiohttp", "asyncio", "boto3", "botocore", "fsspec", "s3fs", "urllib3")


class Secrets:
    """The secrets of one storage.

    Parameters
    ----------
    url : str
        The password in it is one, and what its query says under a name that tells of secrets.
    options : mapping
        What stands under such a name is one, however deep, and the password in any URL.

    Examples
    --------
    >>> secrets = Secrets("ftp://ann:hunter2@host/runs", {"token": "0123abcd"})
    >>> secrets.masked("ftp://ann:hunter2@host: 0123abcd is no good")
    'ftp://ann:***@host: *** is no good'
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        in_url = {*_in_url(url)}
        # What stands for each text that tells one.
        self._hidden = {each: _HIDDEN for each in in_url.union(_in_options(options)) if len(each) >= _SHORTEST}
        for each in in_url - self._hidden.keys():
            self._hidden |= {f":{each}@": f":{_HIDDEN}@", f"={each}": f"={_HIDDEN}"}
        _keep_from_logs(self._hidden)

    def masked(self, text: str) -> str:
        """Return a text without secrets."""
        return _masked(text, self._hidden)

    def are_in(self, error: BaseException) -> bool:
        """Say whether an error, or one that it came from, tells a secret in any way."""
        pending: list[BaseException | None] = [error]
        seen: set[int] = set()
        while pending:
            each = pending.pop()
            if each is None or id(each) in seen:
                continue
            seen.add(id(each))
            told = f"{each} {each!r} {vars(each)!r}"
            if self.masked(told) != told:
                return True
            pending += [each.__cause__, each.__context__]
        return False

    def safe(self, error: Exception) -> Exception:
        """Return an error as it is, or told anew if it tells a secret, without what it came from.

        It is to be raised outside of the handler, where nothing becomes its context.
        """
        return self._told(error) if self.are_in(error) else error

    def keep(self, work: Callable[[], Answer]) -> Answer:
        """Return what a call returns; an error that it raises tells no secret."""
        try:
            return work()
        except Exception as error:  # whatever it is, only what it says matters
            safe = self.safe(error)
        raise safe

    def _told(self, error: Exception) -> TracearkError:
        text = self.masked(str(error))
        if isinstance(error, StorageError):
            return type(error)(*(error.args[:1] if len(error.args) > 1 else ()), text)
        if isinstance(error, ValueError):
            return InvalidValueError(text)
        return StorageError(getattr(error, "errno", None) or 5, f"{type(error).__name__}: {text}")


def _in_url(url: str) -> Iterator[str]:
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        return
    if password:
        yield from {password, unquote(password)}
    for name, value in parse_qsl(parts.query):
        if _NAMES.search(name):
            yield value


def _in_options(options: Any, *, named: bool = False) -> Iterator[str]:
    if isinstance(options, Mapping):
        for name, value in options.items():
            yield from _in_options(value, named=named or bool(_NAMES.search(str(name))))
    elif isinstance(options, str | bytes):
        text = options if isinstance(options, str) else options.decode(errors="replace")
        if named:
            yield text
        yield from _in_url(text)
    elif isinstance(options, Iterable):
        for each in options:
            yield from _in_options(each, named=named)


class _Filter(logging.Filter):
    """Takes the secrets of all storages of this process out of records."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, str] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        told = record.getMessage()
        masked = _masked(told, self.known)
        if masked != told:
            record.msg, record.args = masked, ()
        if record.exc_info and record.exc_info[0] is not None:
            told = "".join(traceback.format_exception(*record.exc_info)).rstrip()
            masked = _masked(told, self.known)
            if masked != told:
                record.exc_info, record.exc_text = None, masked
        return True


_filter = _Filter()


def _masked(text: str, hidden: Mapping[str, str]) -> str:
    # The longest first: one may be a part of another.
    for secret in sorted(hidden, key=len, reverse=True):
        text = text.replace(secret, hidden[secret])
    return text


def _keep_from_logs(hidden: Mapping[str, str]) -> None:
    _filter.known.update(hidden)
    if not _filter.known:
        return
    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _LIBRARIES:
            # One that is there already is not added again.
            logging.getLogger(name).addFilter(_filter)
