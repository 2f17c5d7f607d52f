"""Questions over all traces: pages of filtered traces, search, sums, SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from traceark import query, questions
from traceark.filters import NEWEST_FIRST, PAGE_SIZE, Filters, TraceFilter, TraceQuery, Wanted
from traceark.hits import SearchPage
from traceark.needles import Needle
from traceark.pages import TracePage
from traceark.pool import TracePool
from traceark.query import QueryResult
from traceark.questions import Grouping

_PAGE = 1000


class Asking:
    """The part of `ArchiveStore` that answers questions over all traces."""

    _pool: TracePool

    async def traces(
        self,
        *,
        order_by: str = NEWEST_FIRST,
        limit: int = PAGE_SIZE,
        after: str | None = None,
        **filters: Unpack[Filters],
    ) -> TracePage:
        """Return a page of the traces that match all filters.

        Parameters
        ----------
        order_by : str
            A column of that view, with ``-`` in front for descending. Ties are broken by trace id, and
            traces without a value come last.
        limit : int
            How many at most.
        after : str, optional
            The `next` of the page before. Traces that arrive meanwhile move nothing.
        status, agent_type, uid, mode, model, parent : str or iterable of str, optional
            The value, or one of several; None among several means traces that have none. `parent` is
            the parent's trace id.
        roots : bool
            Only traces without a parent.
        since, until : datetime, date or str, optional
            ``since <= created_at < until``; text is ISO 8601, and what has no zone is UTC.
        where : str, optional
            A condition in DuckDB's SQL over the columns of the view `traces`.

        Raises
        ------
        InvalidValueError
            A filter, the order or the cursor is not possible.
        QueryError
            DuckDB refused `where`.
        """
        wanted = TraceFilter(**filters)
        return await questions.traces(self._pool, TraceQuery(wanted, order_by, limit, after))

    async def trace_ids(self, **filters: Unpack[Filters]) -> list[str]:
        """Return the ids of all traces that match filters as of `traces`, the newest first; raises as it does."""
        found: list[str] = []
        after: str | None = None
        while True:
            page = await self.traces(limit=_PAGE, after=after, **filters)
            found += [trace.trace_id for trace in page]
            after = page.next
            if after is None:
                return found

    async def search(
        self,
        text: str,
        *,
        regex: bool = False,
        ignore_case: bool = True,
        role: Wanted = None,
        tool_name: Wanted = None,
        limit: int = PAGE_SIZE,
        after: str | None = None,
        **filters: Unpack[Filters],
    ) -> SearchPage:
        """Find text in the content of messages, those of the newest trace first.

        Text is sought where it stands in the content as people read it, in arguments and results of
        tools too; a hit is a message with its first match.

        Parameters
        ----------
        text : str
            The text, or with `regex` a regular expression of RE2, where ``^`` and ``$`` are ends of lines.
        regex, ignore_case : bool
            How `text` is meant.
        role, tool_name : str or iterable of str, optional
            Only messages of these.
        limit, after, status, agent_type, uid, mode, model, parent, roots, since, until, where
            As for `traces`; the filters are those of the message's trace.

        Raises
        ------
        InvalidValueError
            The expression is none, or a filter or the cursor is not possible.
        QueryError
            DuckDB refused `where`.
        """
        wanted = TraceFilter(**filters)
        needle = Needle(text, regex=regex, ignore_case=ignore_case)
        return await questions.search(
            self._pool, needle, wanted, role=role, tool_name=tool_name, limit=limit, after=after
        )

    async def stats(
        self,
        by: Grouping = "day",
        **filters: Unpack[Filters],
    ) -> QueryResult:
        """Sum up traces by day (UTC, of `created_at`), agent, model or status.

        The rows have the group, `runs`, `failed`, `messages`, `tokens`, `cost` and `duration_ms`; each
        trace counts on its own, sub-agents too (`roots` leaves them out).

        Parameters
        ----------
        by : {'day', 'agent', 'model', 'status'}
            Days come in order, then ``unknown`` for imports of which nothing tells a time; other groups
            with most runs first.
        status, agent_type, uid, mode, model, parent, roots, since, until, where
            As for `traces`.

        Raises
        ------
        InvalidValueError, QueryError
        """
        wanted = TraceFilter(**filters)
        return await questions.stats(self._pool, by, wanted)

    async def sql(
        self,
        query_text: str,
        parameters: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        sandbox: bool = False,
    ) -> QueryResult:
        """Answer SQL over the views `traces`, `goals`, `messages` and `events`; `docs/sql.md` has their columns.

        Cancelling the call interrupts the query.

        Parameters
        ----------
        query_text : str
            DuckDB's SQL.
        parameters : sequence or mapping, optional
            Bound to ``?`` or ``$name``.
        sandbox : bool
            For text that is not trusted: one statement that reads this archive and nothing else.

        Raises
        ------
        QueryError
            DuckDB or the sandbox refused the query.

        Warns
        -----
        DamagedTraceWarning
            A trace was left out.
        """
        return await query.run(self._pool, query_text, parameters, sandbox=sandbox)
