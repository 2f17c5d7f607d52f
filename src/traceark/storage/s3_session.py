"""The client of S3 where its own ways cost much: how it names itself, reads times, and asks before it sends.

It knows aiobotocore and botocore, and nothing of archives.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore import __version__ as botocore_version
from botocore.handlers import add_expect_header
from botocore.utils import determine_content_length, parse_timestamp

# What is no longer than this is sent without asking the server first whether it takes it.
_SHORT = 1024 * 1024


def session_with(options: Mapping[str, Any]) -> AioSession:
    """Return a session whose clients name themselves by one text, read times quickly, and ask before what is long.

    Examples
    --------
    >>> type(session_with({})).__name__
    'AioSession'
    """
    session = AioSession(**options)
    # botocore's own text is put together for each request. What `config_kwargs` say counts before this.
    session.set_default_client_config(AioConfig(user_agent=f"traceark Botocore/{botocore_version}"))
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=parse_time)
    # botocore asks before each write, however short, which takes a round trip more.
    session.unregister("before-call.s3", add_expect_header)
    session.register("before-call.s3", _ask_before_what_is_long)
    return session


def _ask_before_what_is_long(model: Any, params: dict[str, Any], **more: Any) -> None:
    if (determine_content_length(params.get("body")) or 0) > _SHORT:
        add_expect_header(model, params, **more)


def parse_time(text: Any) -> datetime:
    """Return a time in an answer; botocore's own way takes most of the time of a long listing.

    Examples
    --------
    >>> parse_time("2026-01-02T03:04:05.000Z").isoformat()
    '2026-01-02T03:04:05+00:00'
    >>> parse_time("Fri, 02 Jan 2026 03:04:05 GMT").isoformat()
    '2026-01-02T03:04:05+00:00'
    """
    if isinstance(text, str):
        for read in (datetime.fromisoformat, parsedate_to_datetime):  # in what it says, and in its headers
            try:
                moment = read(text)
            except ValueError:
                continue
            return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return cast("datetime", parse_timestamp(text))
