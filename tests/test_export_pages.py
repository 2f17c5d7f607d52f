"""Pages for people: everything is there, folded where it is long, and nothing of it is obeyed."""

from __future__ import annotations

import re
import time
from collections import Counter
from datetime import UTC, datetime
from html.parser import HTMLParser

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings
from markdown_it import MarkdownIt

from profiles import tried
from test_export_chat import CALLS, run_of
from traceark.exporters.base import Run
from traceark.exporters.html import Html
from traceark.exporters.markdown import Markdown
from traceark.models import Event, Goal, GoalStats, GoalTree, Message, Trace, utc_now
from traceark.showing import visible

HOSTILE = [
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<!--", "-->", "<![CDATA[", "&lt;b&gt; &#0;",
    "</pre></details></article></main><h1>gone</h1>", "\" onclick=\"x", "' style='", "red \x1b[31m \x9b31m", "a\0b",
    "x\ud800y\udfff", "\u202egnp.exe", "\u2066\u2069\u200b\ufeff", "\r\nline\u2028line\x85",
    "```\n</details>\n```", "~~~~\n~~~\n<b>", "> quote\n</summary>", "    <i>", "`<b>`", "\\`<img src=x>`",
    "``` a`b\n<b>", "![pixel](http://example.org/p.png)", "<http://example.org>", "[x]: <b>\n\n[x]", "- ```\n<b>\n",
    "1. a\n\n   ~~~\n<u>", "# heading\n---\n| a |\n|---|", "\t```\n<b>\n", "```\n" * 3 + "<b>", "&copy;",
    "[a](javascript:alert(1))", "[a](\nJavaScript:alert(1)\n)", "[a]: vbscript:x\n\n[a]",
    "[a](java&#115;cript:x)", "[a](javascript\\:x)", "[a](java\\script:x)",
]  # fmt: skip
TEXTS = st.sampled_from(HOSTILE) | st.text(st.characters()) | st.lists(st.sampled_from(HOSTILE)).map("\n".join)
TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "h1", "h2", "h3", "div", "span", "p",
    "code", "pre", "dl", "dt", "dd", "ul", "li", "a", "article", "b", "time", "details", "summary", "small",
}  # fmt: skip
ATTRIBUTES = {"class", "id", "title", "href", "charset", "lang", "name", "content", "http-equiv"}
EMPTY = {"meta"}


class Page(HTMLParser):
    """A page's texts by what they are in, its tags checked."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text = ""
        self.folded = ""
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        for name, value in attrs:
            assert name in ATTRIBUTES, name
            if name == "href":
                assert value is not None and re.fullmatch(r"#m\d+|\./[^/:]+\.html", value), value
                self.links.append(value)
            if name == "id":
                self.ids.append(str(value))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data
            if "details" in self.open and "summary" not in self.open:
                self.folded += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(data)


def html_of(run: Run) -> tuple[str, Page]:
    page = b"".join(Html().export(run, Counter())).decode()
    return page, Page(page)


def markdown_of(run: Run) -> str:
    return b"".join(Markdown().export(run, Counter())).decode()


def everywhere(text: str) -> Run:
    """Return a run that says a text wherever a run can say one."""
    sound = text.encode("utf-8", "replace").decode()
    goals = [
        Goal(id=sound, description=sound, reason=sound, summary=sound, status=sound, sub_trace_ids=["child", sound]),
        Goal(id="1", parent_id=sound, status="completed", self_stats=GoalStats(preview=sound)),
    ]
    fields = {"role": sound, "tool_name": sound, "goal_id": sound, "status": sound, "error": sound, "agent": sound}
    blocks = [
        {"type": "text", "text": text},
        {"type": "thinking", "thinking": text},
        {"type": "tool_use", "id": text, "name": text, "input": {text: text}},
        {"type": "image", "source": {"media_type": text}},
        {text: text},
    ]
    run = run_of({"content": text, **fields}, {"content": blocks}, {"role": "tool", "content": text, **fields})
    trace = Trace(trace_id="t", task=sound, agent_type=sound, model=sound, uid=sound, result_summary=sound)
    trace.error_message = trace.parent_trace_id = sound
    return Run(trace, run.messages, [], GoalTree(mission=sound, goals=goals), {"child": Trace(trace_id="child")})


@settings(max_examples=tried(60, 1000, 2000), deadline=None)
@given(TEXTS)
@example(" ".join(HOSTILE))
@example("\n".join(HOSTILE))
def test_nothing_that_a_run_says_is_more_than_text_on_a_page(text: str) -> None:
    page, parsed = html_of(everywhere(text))
    assert page.count("<script") == 0
    assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page)
    assert visible(text).strip("\r\n") in parsed.text


def test_a_text_that_is_not_escaped_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("html._text", "markdown._escaped", "markdown._SCRIPT"):
        with monkeypatch.context() as patch, pytest.raises(AssertionError):
            patch.setattr(f"traceark.exporters.{place}", re.compile("($^)") if place.endswith("T") else str)
            for text in HOSTILE:
                html_of(everywhere(text))
                refuse_markdown(everywhere(text))


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_known_to_be_hostile_is_text(text: str) -> None:
    html_of(everywhere(text))
    refuse_markdown(everywhere(text))


@settings(max_examples=tried(60, 700, 3000), deadline=None)
@given(TEXTS)
@example(" ".join(HOSTILE))
@example("\n".join(HOSTILE))
def test_nothing_that_a_run_says_is_more_than_markdown_in_its_quotes(text: str) -> None:
    refuse_markdown(everywhere(text))


def refuse_markdown(run: Run) -> None:
    page = markdown_of(run)
    assert not re.search("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    headings, depth = 0, 0
    parser = MarkdownIt("commonmark")
    parser.validateLink = lambda url: True  # type: ignore[method-assign]  # some viewers take any
    for token in parser.parse(page):
        depth += (token.type == "blockquote_open") - (token.type == "blockquote_close")
        headings += token.type == "heading_open" and depth == 0
        for inner in [token, *(token.children or [])]:
            assert inner.type != "image"
            assert not re.match(r"(?i)\s*(javascript|vbscript):", str(inner.attrs.get("href", "")))
            if inner.type in ("html_block", "html_inline"):
                assert depth == 0
                left = re.sub(r"</?(details|summary)>", "", inner.content)
                assert "<" not in left, inner.content
    assert headings == 3


def test_a_page_needs_nothing_beside_it() -> None:
    page, parsed = html_of(run_of(*CALLS["Claude Code"]))
    assert "default-src 'none'" in page
    assert not re.search(r"\b(src=|srcset|@import|url\()", page)
    assert parsed.links == ["#m1", "#m2", "#m3"]


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_folded_and_short_answers_are_not(name: str) -> None:
    _, parsed = html_of(run_of(*CALLS[name]))
    assert parsed.folded == "path: /"
    assert "I look." in parsed.text and "a b" in parsed.text
    page = markdown_of(run_of(*CALLS[name]))
    assert "<details><summary>→ ls path=/</summary>" in page and "\n```text\na b\n```\n" in page


def test_long_outputs_and_the_rest_of_long_texts_are_folded_and_whole() -> None:
    long = "\n".join(f"line {number}" for number in range(300))
    _, parsed = html_of(run_of({"content": long}, {"role": "tool", "content": long}))
    assert parsed.text.count("line 299") == 2 and parsed.folded.count("line 299") == 2
    assert parsed.text.count("line 0\n") == 2 and parsed.folded.count("line 0\n") == 1
    page = markdown_of(run_of({"role": "tool", "content": long}))
    assert "<details><summary>← 300 lines: line 0 line 1" in page and f"\n```text\n{long}\n```\n" in page


def test_an_attachment_is_described_by_where_it_is_or_how_large() -> None:
    data = "data:image/png;base64," + "A" * 1000
    for block, told in (
        ({"type": "image", "source": {"media_type": "image/png", "data": "A" * 1000}}, "image image/png, 1,000"),
        (
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
            "image_url https://example.org/a.png",
        ),
        ({"type": "image_url", "image_url": {"url": data}}, "image_url image/png;base64, 1,000 characters"),
        ({"type": "input_image", "image_url": data}, "input_image image/png;base64, 1,000 characters"),
        ({"type": "file", "file": {"filename": "a.pdf"}}, "file a.pdf"),
    ):
        _, parsed = html_of(run_of({"role": "user", "content": [block]}))
        assert told in parsed.text


def test_an_error_is_not_told_twice_and_one_long_line_is_told_in_characters() -> None:
    run = run_of(
        {"role": "tool", "content": "no such file", "error": "no such file"}, {"content": "x", "error": "late"}
    )
    assert markdown_of(run).count("no such file") == 1 and "*error:* late" in markdown_of(run)
    assert "← 2,000 characters: x" in markdown_of(run_of({"role": "tool", "content": "x" * 2000}))


def test_a_header_has_status_totals_and_what_is_wrong() -> None:
    trace = Trace(trace_id="Run/7", task="Sort it", status="failed", error_message="no mail", total_tokens=1234)
    page, parsed = html_of(Run(trace, events=[Event(event_id=1, event_type="e", created_at=utc_now())]))
    for told in ("Sort it", "failed", "Run/7", "1,234 tokens", "no mail", "1 event of this run"):
        assert told in parsed.text
    assert '<dd class="error">no mail</dd>' in page
    assert "# Sort it" in markdown_of(Run(trace)) and "1,234 tokens" in markdown_of(Run(trace))


def test_goals_are_a_tree_with_what_they_took_and_lead_to_their_messages_and_sub_agents() -> None:
    stats = GoalStats(message_count=2, total_tokens=1500, total_cost=0.25)
    goals = [
        Goal(id="1", description="All", status="in_progress", cumulative_stats=stats, sub_trace_ids=["Child/1", "no"]),
        Goal(id="2", description="Part", parent_id="1", status="completed", self_stats=stats, cumulative_stats=stats),
        Goal(id="3", description="Deep", parent_id="2"),
        Goal(id="4", description="Next", status="failed"),
    ]
    messages = [Message(trace_id="t", role="user", content="x", goal_id=goal_id) for goal_id in (None, "2", "2")]
    child = Trace(trace_id="Child/1", total_tokens=9)
    run = Run(Trace(trace_id="t"), messages, [], GoalTree(goals=goals, current_id="1"), {"Child/1": child})
    page, parsed = html_of(run)
    assert parsed.links[:2] == ["./child%252F1~1.html", "#m2"]
    assert [page.index(f">{name}<") for name in ("All", "Part", "Deep", "Next")] == sorted(
        page.index(f">{name}<") for name in ("All", "Part", "Deep", "Next")
    )
    for told in (
        "in_progress · 2 messages · 1.5k tokens · cost 0.25 · own: nothing · current",
        "no · not in this archive",
    ):
        assert told in parsed.text
    assert page.count('<ul class="goals">') == page.count("</ul>") == 3
    lines = markdown_of(run).partition("## Goals\n\n")[2].split("\n")
    assert [line.index("-") for line in lines[:6]] == [0, 2, 2, 2, 4, 0]


def test_a_run_of_1500_messages_and_a_text_of_megabytes_is_a_page_in_a_moment() -> None:
    messages = [
        Message(trace_id="t", role=("user", "assistant", "tool")[at % 3], content="x y\n" * 50) for at in range(1500)
    ]
    messages.append(Message(trace_id="t", role="tool", content="<b>\0" * tried(130_000, 650_000)))
    run = Run(Trace(trace_id="t"), messages)
    began = time.process_time()
    page, _ = html_of(run)
    assert time.process_time() - began < 20
    assert len(page) < 2 * sum(len(visible(message.content)) for message in messages) + 10**7
    assert page.count("<article") == 1501


def test_which_agent_said_what_and_the_mistake_are_told() -> None:
    run = run_of({"content": "5", "agent": "adder <b>", "mistake": True}, {"agent": ["none"], "mistake": "no"})
    page, parsed = html_of(run)
    assert '<b>assistant</b><span>adder &lt;b&gt;</span><span class="failed">mistake</span>' in page
    assert page.count("mistake") == 1 and "none" not in parsed.text
    assert "**1 · assistant · adder &lt;b> · mistake" in markdown_of(run) and markdown_of(run).count("mistake") == 1


def test_a_time_that_is_unknown_is_no_time() -> None:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    run = run_of({"content": "5", "created_at": epoch}, created_at=epoch, metadata={"times": "unknown"})
    page, _ = html_of(run)
    assert "<dt>time</dt><dd>unknown</dd>" in page and "- time: unknown" in markdown_of(run)
    assert not re.search("1970|00:00", page + markdown_of(run))


def test_an_empty_run_and_a_message_that_says_nothing_have_pages() -> None:
    _, parsed = html_of(Run(Trace(trace_id="t")))
    assert "0 messages" in parsed.text
    untold = {"type": "thinking", "thinking": "", "signature": "x"}
    _, parsed = html_of(run_of({"content": None}, {"content": [untold]}))
    assert "nothing" in parsed.text and "reasoning that was not told" in parsed.text
    assert markdown_of(Run(Trace(trace_id="t"))).startswith("# t\n")
