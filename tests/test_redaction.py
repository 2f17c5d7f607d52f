"""What patterns find in texts and JSON, and what becomes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secrets_made_up import NOT_SECRET, SECRETS
from traceark.errors import InvalidValueError
from traceark.models import Json
from traceark.redaction import BUILT_IN, Pattern, Redactor, patterns_of
from traceark.redaction.patterns import read_patterns

ALL = patterns_of()
SAMPLES = [(name, text, secret) for name, samples in SECRETS.items() for text, secret in samples]


def redacted(value: Json) -> Any:
    return Redactor(ALL).value(value, "f")


def test_each_built_in_pattern_has_a_name_of_its_own_a_source_and_a_sample() -> None:
    assert [pattern.name for pattern in BUILT_IN] == list(SECRETS)
    assert all(pattern.what and pattern.source for pattern in BUILT_IN)


@pytest.mark.parametrize(("name", "text", "secret"), SAMPLES)
def test_a_secret_is_replaced_and_nothing_else(name: str, text: str, secret: str) -> None:
    redactor = Redactor(ALL)
    assert redactor.text(text, "f") == text.replace(secret, f"[redacted:{name}]")
    assert redactor.replaced == {(name, "f"): 1}


@pytest.mark.parametrize("text", NOT_SECRET)
def test_what_only_looks_like_a_secret_stays(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(("name", "text", "secret"), SAMPLES)
@pytest.mark.parametrize("levels", [1, 2, 3])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_in_strings_stays_json_and_holds_no_secret(
    name: str, text: str, secret: str, levels: int, ascii_only: bool
) -> None:
    value: Any = {"k": ["é\n", text], "n": 7}
    expected: Any = {"k": ["é\n", redacted(text)], "n": 7}
    for _ in range(levels):
        value, expected = json.dumps(value, ensure_ascii=ascii_only), json.dumps(expected, ensure_ascii=ascii_only)
    assert redacted(value) == expected


@pytest.mark.parametrize("levels", [0, 1, 2, 3])
def test_a_secret_whose_characters_are_escapes_is_found(levels: int) -> None:
    text = r'{"to":"ann\u0040example.org","url":"https:\/\/me:pa55w0rd\u0040host"}'
    for _ in range(levels):
        text = json.dumps(text)
    found = redacted(text)
    for _ in range(levels):
        found = json.loads(found)
    assert found == r'{"to":"[redacted:email]","url":"https:\/\/me:[redacted:url-password]\u0040host"}'


def test_text_that_was_cut_in_the_middle_of_its_json_is_looked_through_all_the_same() -> None:
    assert redacted(r'…x", "to": "ann\u0040example.org", "and') == r'…x", "to": "[redacted:email]", "and'


def test_keys_are_replaced_and_none_takes_the_place_of_another() -> None:
    found = redacted({"ann@example.org": 1, "bob@example.org": 2, "[redacted:email]": 3})
    assert found == {"[redacted:email] 2": 1, "[redacted:email] 3": 2, "[redacted:email]": 3}


def test_numbers_and_the_order_of_keys_stay() -> None:
    value: Any = {"b": 2**70, "a": [1.0, -0.0, None, True], "ann@example.org": 1e300}
    assert json.dumps(redacted(value)) == json.dumps(value).replace("ann@example.org", "[redacted:email]")


def test_values_as_deep_as_the_archive_keeps_them_are_looked_through() -> None:
    value: Any = "ann@example.org"
    for _ in range(500):
        value = [value]
    assert json.dumps(redacted(value)) == "[" * 500 + '"[redacted:email]"' + "]" * 500


def test_only_the_secret_of_a_pattern_of_ones_own_is_replaced() -> None:
    patterns = patterns_of(["none"], {"badge": "badge (?P<secret>[0-9]+)", "word": "(?i)acme"})
    assert Redactor(patterns).text("ACME badge 007, ann@example.org", "f") == (
        "[redacted:word] badge [redacted:badge], ann@example.org"
    )


@pytest.mark.parametrize(
    ("names", "own", "told"),
    [
        (["mail"], {}, "there is no pattern 'mail'"),
        (["none"], {}, "no pattern is left"),
        (["none", "email"], {}, "goes with no other"),
        ([], {"email": "x"}, "built-in"),
        ([], {"A b": "x"}, "no name"),
        ([], {"a": "("}, "no regular expression"),
        ([], {"a": "x*"}, "matches where there is nothing"),
    ],
)
def test_patterns_that_cannot_be_used_are_refused(names: list[str], own: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidValueError, match=told):
        patterns_of(names, own)


def test_a_file_of_patterns_holds_one_a_line() -> None:
    assert read_patterns("\n# ours\nbadge=B-[0-9]+=\r\n word =x\n", "f") == {"badge": "B-[0-9]+=", "word": "x"}
    for text in ("badge", "badge=", "a=x\na=y"):
        with pytest.raises(InvalidValueError, match="f, line"):
            read_patterns(text, "f")


def test_a_changed_expression_has_another_digest() -> None:
    assert Pattern("a", "x").digest == Pattern("b", "x").digest != Pattern("a", "xy").digest


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
PLANTS = st.sampled_from(SAMPLES)


@given(JSON_VALUES)
@settings(deadline=None)
def test_values_without_a_secret_stay_exactly_as_they_are(value: Json) -> None:
    patterns = patterns_of(["github-token", "jwt"])
    assert json.dumps(Redactor(patterns).value(value, "f")) == json.dumps(value)


@given(JSON_VALUES)
@settings(deadline=None)
def test_what_was_redacted_is_not_redacted_again(value: Json) -> None:
    once = redacted([value, *(text for _, text, _ in SAMPLES)])
    assert redacted(once) == once


@given(st.text(alphabet='ab\\"nu0041 {}:,', max_size=30), st.text(alphabet='ab\\"nu0041 {}:,', max_size=30))
@settings(deadline=None)
def test_wherever_a_token_stands_among_escapes_it_is_gone_and_the_rest_stays(before: str, after: str) -> None:
    """A token is set off by spaces, since letters that run into it may make it no token."""
    token = SECRETS["github-token"][0][1]
    assert redacted(f"{before} {token} {after}") == f"{before} [redacted:github-token] {after}"


def test_the_page_tells_the_patterns_of_the_code() -> None:
    page = (Path(__file__).parent.parent / "docs" / "redacting.md").read_text()
    rows = [f"| `{pattern.name}` | {pattern.what} | {pattern.source} |" for pattern in BUILT_IN]
    told = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 4]
    assert told == rows, "the table should be:\n" + "\n".join(rows)
