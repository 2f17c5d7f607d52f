"""Search in messages: every text that people can read is found, and nothing else."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import traceark
from profiles import tried
from traceark import Archive, Message, Trace
from traceark.codec.lines import dumps
from traceark.errors import InvalidValueError, QueryError
from traceark.filters import cursor_behind
from traceark.models import Json
from traceark.needles import Needle, required, texts_of

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
CALL = {
    "type": "tool_use",
    "id": "toolu_1",
    "name": "Bash",
    "input": {"command": "grep 'né\t\"x\"' a.py\nls", "lines": 404},
}
RESULT = {
    "type": "tool_result",
    "tool_use_id": "toolu_1",
    "content": [{"type": "text", "text": "ENOENT: no such file"}],
}
ARGUMENTS = '{"code": "print(\\"\\u00e9\\")"}'
OPENAI = {"tool_calls": [{"type": "function", "function": {"name": "run", "arguments": ARGUMENTS}}]}
_numbers = itertools.count()


@pytest.fixture
def archive() -> Iterator[Archive]:
    with traceark.open(f"memory://search-{next(_numbers)}") as opened:
        for index, trace_id in enumerate(("old", "new")):
            opened.create_trace(
                Trace(
                    trace_id=trace_id, task=f"the {trace_id} one", created_at=BEGIN + timedelta(days=index), uid="rosa"
                )
            )
        opened.add_messages(
            [
                Message(trace_id="old", role="user", content="Where is the Straße?\nI need\tit."),
                Message(
                    trace_id="old",
                    role="assistant",
                    content=[{"type": "text", "text": "Look:"}, CALL],
                    tool_name="Bash",
                ),
                Message(trace_id="old", role="tool", content=[RESULT], tool_name="Bash"),
                Message(trace_id="old", role="assistant", content=OPENAI),
                Message(trace_id="old", role="user", content=["half \ud800 a pair, and né"]),
                Message(trace_id="old", role="user", content=None),
                Message(trace_id="new", role="user", content={"text": "is THE new one", "note": None, "ok": True}),
            ]
        )
        opened.seal("old")
        yield opened


def found(archive: Archive, text: str, **options: Any) -> list[tuple[str, int, str]]:
    """Return the trace, the sequence and the match of every hit."""
    return [(hit.trace_id, hit.sequence, hit.snippet[hit.start : hit.end]) for hit in archive.search(text, **options)]


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("the", {}, [("new", 1, "THE"), ("old", 1, "the")]),
        ("the", {"ignore_case": False}, [("old", 1, "the")]),
        ("straße?\ni NEED\tit", {}, [("old", 1, "Straße?\nI need\tit")]),
        ("\\n", {}, []),
        ('né\t"x"', {"ignore_case": False}, [("old", 2, 'né\t"x"')]),
        ("NÉ", {}, [("old", 2, "né"), ("old", 5, "né")]),
        ("né", {"ignore_case": False}, [("old", 2, "né"), ("old", 5, "né")]),
        ("404", {}, [("old", 2, "404")]),
        ("bash", {}, [("old", 2, "Bash")]),
        ("tool_use", {}, []),
        ("text", {}, []),
        ("toolu_1", {}, [("old", 2, "toolu_1"), ("old", 3, "toolu_1")]),
        ('print("é")', {}, [("old", 4, 'print("é")')]),
        ("true", {}, []),
        ("%", {}, []),
        ("n_w", {}, []),
        (".*", {}, []),
        (r"^I\s+need", {"regex": True}, [("old", 1, "I need")]),
        (r"(?-i)^i\s+need", {"regex": True}, []),
        (r"no such (file|folder)$", {"regex": True}, [("old", 3, "no such file")]),
        (r"enoent|THE n", {"regex": True}, [("new", 1, "THE n"), ("old", 3, "ENOENT")]),
        (r"\d{3}", {"regex": True}, [("old", 2, "404")]),
        (r"(n(o))( s)uch", {"regex": True}, [("old", 3, "no such")]),
        (r'"x"', {"regex": True}, [("old", 2, '"x"')]),
        ("the", {"role": "user", "limit": 1}, [("new", 1, "THE")]),
        ("eno", {"role": ["tool"]}, [("old", 3, "ENO")]),
        ("o", {"tool_name": "Bash", "role": "assistant"}, [("old", 2, "o")]),
        ("the", {"uid": "rosa", "until": "2026-03-02"}, [("old", 1, "the")]),
        ("the", {"where": "task LIKE '%new%'"}, [("new", 1, "THE")]),
        ("the", {"where": "false"}, []),
        ("the", {"uid": "nobody"}, []),
    ],
)
def test_finds_what_people_read(
    archive: Archive, text: str, options: dict[str, Any], expected: list[tuple[str, int, str]]
) -> None:
    assert found(archive, text, **options) == expected


def test_a_hit_says_where_it_is(archive: Archive) -> None:
    [hit] = archive.search("grep")
    assert (hit.message_id, hit.role, hit.tool_name, hit.task) == ("old-0002", "assistant", "Bash", "the old one")
    assert hit.path == "[1].input.command" and hit.created_at is not None
    assert hit.snippet.startswith("grep") and (hit.start, hit.end) == (0, 4)


def test_a_snippet_is_a_piece_of_a_long_text(archive: Archive) -> None:
    archive.add_message(Message(trace_id="new", role="tool", content=f"{'é' * 5000}needle{'x' * 5000}"))
    [hit] = archive.search("needle")
    assert hit.snippet[hit.start : hit.end] == "needle" and len(hit.snippet) < 200
    [hit] = archive.search("x{900,}", regex=True)
    assert len(hit.snippet) < 1000 and set(hit.snippet[hit.start : hit.end]) == {"x"}


def test_pages_of_hits_make_up_the_whole(archive: Archive) -> None:
    count = tried(16, 40)
    for index in range(count):
        archive.add_message(Message(trace_id=("old", "new")[index % 2], role="user", content=f"needle {index}"))
    whole = found(archive, "needle")
    assert len(whole) == count and whole[0][0] == "new" and archive.search("needle").next is None
    pages: list[tuple[str, int, str]] = []
    after = None
    for size in itertools.cycle((1, 7, 3)):
        page = archive.search("needle", limit=size, after=after)
        pages += [(hit.trace_id, hit.sequence, hit.snippet[hit.start : hit.end]) for hit in page]
        after = page.next
        if after is None:
            break
        archive.create_trace(Trace())
    assert pages == whole


def test_many_messages_that_only_look_alike_hide_nothing(archive: Archive) -> None:
    # Picked by their JSON text, which has the word as a key.
    archive.add_messages([Message(trace_id="new", role="user", content={"needle": 1}) for _ in range(700)])
    archive.add_message(Message(trace_id="new", role="user", content="the needle"))
    assert found(archive, "needle", limit=1) == [("new", 702, "needle")]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"text": ""}, "text"),
        ({"text": "\ud800"}, "text"),
        ({"text": "a(", "regex": True}, "text"),
        ({"text": "a)(b", "regex": True}, "text"),
        ({"text": "(?=a)", "regex": True}, "text"),
        ({"text": r"(a)\1", "regex": True}, "text"),
        ({"text": "a", "limit": 0}, "limit"),
        ({"text": "a", "role": 1}, "role"),
        ({"text": "a", "after": "x"}, "after"),
        ({"text": "a", "after": cursor_behind(Trace(trace_id="a"))}, "after"),
    ],
)
def test_what_cannot_be_searched_for_is_refused_by_name(archive: Archive, wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidValueError, match=rf"^{named}: "):
        archive.search(**wrong)


def test_a_condition_opens_no_file(archive: Archive) -> None:
    with pytest.raises(QueryError, match=r"^where: "):
        archive.search("a", where="EXISTS (FROM read_text('/etc/passwd'))")


def test_an_expression_that_would_explode_elsewhere_ends(archive: Archive) -> None:
    archive.add_message(Message(trace_id="new", role="user", content="a" * 50_000))
    assert found(archive, r"^(a+)+(a|aa)*$b", regex=True) == []


def test_hits_can_be_shown_in_a_notebook_and_obey_nothing(archive: Archive) -> None:
    archive.add_message(Message(trace_id="new", role="<b>", content="<script>needle</script>"))
    page = archive.search("needle")
    assert "&lt;script&gt;<mark>needle</mark>&lt;/script&gt;" in page._repr_html_() and "<b>" not in page._repr_html_()
    assert list(page.df()["sequence"]) == [2] and repr(page) == "SearchPage(1 hits)"


def test_files_and_signatures_are_no_text() -> None:
    content: Json = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0"}},
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0"}},
        {"type": "bug"},
    ]
    assert [text for _, text in texts_of(content)] == ["image/png", "Hm.", "bug"]


PIECES = st.sampled_from(
    ["a", "b", "ab", "É", "k", "\"", "\\", ".", "\\.", "\\n", "\\w", "a*",
    "b?", "a+", "b{2}", "a{0,1}", "[ab]", "[^]b]", "[[:alpha:]]", "(ab)", "(?:a|b)", "(?P<x>ab)?", "|", "^",
    "$", "\\b", "ab+?", "{", "\\\\", "]", "é?", "(a[)]b)*", "((a)|b(\\)))+", "\\Qa(b\\E", "(?i)k", "\n"]
)  # fmt: skip
TEXT = st.text(st.sampled_from('abABkKé\u212a\n\t"\\.{]}x\x1b\u00df'), max_size=12)


def matches(pattern: str, text: str, ignore_case: bool) -> bool:
    flags = f"(?m{'i' if ignore_case else ''})"
    return bool(pc.match_substring_regex(pa.array([text]), flags + pattern)[0].as_py())


@settings(max_examples=tried(50, 500))
@given(pieces=st.lists(PIECES, min_size=1, max_size=6), text=TEXT, nested=st.booleans(), ignore_case=st.booleans())
@example(pieces=["k", "k"], text="\u212ak", nested=False, ignore_case=True)
def test_what_duckdb_picks_misses_no_match(pieces: list[str], text: str, nested: bool, ignore_case: bool) -> None:
    pattern = "".join(pieces)
    try:
        needle = Needle(pattern, regex=True, ignore_case=ignore_case)
    except InvalidValueError:
        return
    content: Json = {"arguments": json.dumps({"x": [text]})} if nested else [text]
    told, bound = needle.condition()
    [[picked]] = duckdb.execute(
        f"SELECT {told} FROM (SELECT $content AS content)", {**bound, "content": dumps(content)}
    ).fetchall()
    [hit] = needle.find([list(texts_of(content))])
    texts = [text for _, text in texts_of(content)]
    assert (hit is not None) == any(matches(pattern, each, ignore_case) for each in texts)
    assert picked or hit is None
    if hit is not None and not ignore_case:
        wanted = required(pattern)
        assert wanted is None or any(each in hit.text for each in wanted)


@settings(max_examples=tried(50, 500))
@given(before=TEXT, text=TEXT.filter(bool), behind=TEXT, lone=st.booleans())
def test_every_text_is_found_where_it_stands(before: str, text: str, behind: str, lone: bool) -> None:
    content: Json = [f"{before}{text}{behind}", *(["\ud800"] if lone else [])]
    for ignore_case in (False, True):
        needle = Needle(text, regex=False, ignore_case=ignore_case)
        told, bound = needle.condition()
        query = f"SELECT {told} FROM (SELECT $content AS content)"
        assert duckdb.execute(query, {**bound, "content": dumps(content)}).fetchall() == [(True,)]
        [hit] = needle.find([list(texts_of(content))])
        assert hit is not None
        told_text = hit.text[hit.start : hit.end]
        assert told_text == text if not ignore_case else re.fullmatch(re.escape(text), told_text, re.IGNORECASE)
