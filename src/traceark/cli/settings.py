"""What every verb is told: JSON or text, which S3 endpoint, whether to show tracebacks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, ParamSpec

import click

from traceark.cli.output import Output

Parameters = ParamSpec("Parameters")
FINE, FOUND_WRONG, USED_WRONG = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Settings:
    """The options that all verbs share."""

    as_json: bool
    endpoint_url: str | None
    debug: bool

    def output(self) -> Output:
        """Return the output that was asked for; the other one is not loaded."""
        if self.as_json:
            from traceark.cli.as_json import JsonOutput

            return JsonOutput()
        from traceark.cli.text import TextOutput

        return TextOutput()


def shared_options(
    verb: Callable[Concatenate[Settings, Parameters], int],
) -> Callable[Parameters, int]:
    """Give a verb ``--json``, ``--endpoint-url`` and ``--debug``; it gets them as `Settings` first."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
    @click.option("--endpoint-url", metavar="URL", help="The S3 server, where it is not Amazon's.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(verb)
    def told(
        as_json: bool, endpoint_url: str | None, debug: bool, *args: Parameters.args, **options: Parameters.kwargs
    ) -> int:
        # What a verb does not catch is shown outside of every verb.
        return verb(Settings(as_json, endpoint_url, debug), *args, **options)

    return told  # type: ignore[return-value]
