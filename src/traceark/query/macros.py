"""The SQL of the macros that every query may use.

Text only: no connection, no archive. Content may hold what DuckDB's JSON refuses (lone surrogates),
so that it is always taken through TRY_CAST: no macro raises an error whatever a message holds. A
name that begins with an underscore is a step of another macro and may change.
"""

from __future__ import annotations

from dataclasses import dataclass

from traceark.codec.fields import USAGE

# Blocks that say something in words, and those that call a tool, as providers name them.
_TEXTS = "('text', 'input_text', 'output_text', 'refusal', 'message')"
_CALLS = "('tool_use', 'server_tool_use', 'mcp_tool_use', 'function_call', 'custom_tool_call', 'tool_call', 'function')"
# What is taken out of a block, in one pass over its JSON; every other function on JSON would be one more.
_BLOCK = """{"type": "VARCHAR", "role": "VARCHAR", "text": "VARCHAR", "refusal": "VARCHAR", "content": "JSON",
    "output": "JSON", "tool_calls": "JSON"}"""
_KNOWN = ("type", "role", "text", "refusal", "content", "tool_calls")
_CALL = """{"type": "VARCHAR", "id": "VARCHAR", "call_id": "VARCHAR", "name": "VARCHAR", "input": "JSON",
    "arguments": "VARCHAR", "function": {"name": "VARCHAR", "arguments": "VARCHAR"}"""

# No call is without one of these; looking for them is far cheaper than parsing. The archive's JSON escapes no letters.
_MAY_CALL = """(contains(text, 'tool_use"') OR contains(text, '_call"') OR contains(text, '"function"'))"""


@dataclass(frozen=True, slots=True)
class Macro:
    """One macro: how it is called, what it gives, and its SQL after ``AS``.

    `views` are the views that it reads, which a query that calls it needs.
    """

    signature: str
    body: str
    returns: str = ""
    doc: str = ""
    views: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name alone."""
        return self.signature.partition("(")[0]


_STEPS = (
    Macro("_elements(j)", "json_extract(j, '$[*]')::JSON[]"),
    # Text of one block a line; NULL only where there is no list.
    Macro("_joined(texts)", "array_to_string(list_filter(texts, lambda each: each IS NOT NULL), chr(10))"),
    # Content as a list whatever it is, so that no step needs two ways; NULL for numbers and what JSON refuses.
    Macro(
        "_as_list(content)",
        """
        TRY_CAST(
            CASE left(content, 1) WHEN '[' THEN content WHEN '{' THEN '[' || content || ']'
                WHEN '"' THEN '[' || content || ']' END
            AS JSON
        )
        """,
    ),
    # The text of what holds no further blocks.
    Macro(
        "_leaf_text(j)",
        f"""
        CASE left(j::VARCHAR, 1)
            WHEN '"' THEN json_extract_string(j, '$')
            WHEN 'n' THEN NULL
            WHEN '{{' THEN if(
                coalesce(json_extract_string(j, '$.type'), 'text') IN {_TEXTS}, json_extract_string(j, '$.text'), NULL
            )
            ELSE j::VARCHAR
        END
        """,
    ),
    Macro(
        "_inner_text(j)",
        """
        CASE left(j::VARCHAR, 1)
            WHEN '[' THEN _joined(list_transform(_elements(j), lambda each: _leaf_text(each)))
            ELSE _leaf_text(j)
        END
        """,
    ),
    Macro(
        "_block_text(block)",
        f"""
        CASE
            WHEN block.type IS NULL OR block.type IN {_TEXTS}
                THEN coalesce(block.text, block.refusal, _inner_text(block.content))
            WHEN suffix(block.type, 'tool_result') THEN _inner_text(block.content)
            WHEN suffix(block.type, 'call_output') THEN _inner_text(block.output)
        END
        """,
    ),
    Macro(
        "_is_known(block)",
        " OR ".join(
            f"block.{name} IS NOT NULL" for name in ("type", "role", "text", "refusal", "content", "tool_calls")
        ),
    ),
    # A list of one is how SQL gives a name to a value that is used several times.
    Macro(
        "_element_text(j)",
        f"""
        CASE left(j::VARCHAR, 1)
            WHEN '"' THEN json_extract_string(j, '$')
            WHEN 'n' THEN NULL
            WHEN '{{' THEN list_transform(
                [json_transform(j, '{_BLOCK}')],
                lambda block: if(_is_known(block), _block_text(block), j::VARCHAR)
            )[1]
            ELSE j::VARCHAR
        END
        """,
    ),
    Macro(
        "_calls(calls)",
        f"""
        list_transform(
            list_filter(calls, lambda call: coalesce(call.type IN {_CALLS}, false) OR call.function IS NOT NULL),
            lambda call: {{
                'id': coalesce(call.call_id, call.id),
                'name': coalesce(call.name, call.function.name),
                'arguments': coalesce(call.input::VARCHAR, call.arguments, call.function.arguments)
            }}
        )
        """,
    ),
    # A message as OpenAI has it nests them in `tool_calls`, one with Anthropic's blocks in `content`.
    Macro(
        "_nested_calls(blocks)",
        """
        list_concat(
            _calls(blocks),
            list_concat(
                _calls(flatten(list_transform(blocks, lambda block: coalesce(block.content, [])))),
                _calls(flatten(list_transform(blocks, lambda block: coalesce(block.tool_calls, []))))
            )
        )
    """,
    ),
    Macro(
        "_calls_in(text)",
        f"""
        CASE
            WHEN coalesce(NOT {_MAY_CALL}, true) THEN []
            WHEN left(text, 1) = '[' AND NOT contains(text, '"tool_calls"')
                THEN _calls(json_transform(TRY_CAST(text AS JSON), '[{_CALL}}}]'))
            ELSE list_transform(
                [json_transform(
                    _as_list(text),
                    '[{_CALL}, "content": [{_CALL}}}], "tool_calls": [{_CALL}}}]}}]'
                )],
                lambda blocks: _nested_calls(blocks)
            )[1]
        END
        """,
    ),
)

_KINDS = ", ".join(f"{{'kind': '{name.removesuffix('_tokens')}', 'tokens': usage.{name}}}" for _, name in USAGE)
_CALL_TYPE = "STRUCT(id VARCHAR, name VARCHAR, arguments VARCHAR)[]"

MACROS = (
    Macro(
        "message_text(content)",
        "coalesce(_joined(list_transform(_elements(_as_list(content)), lambda each: _element_text(each))), "
        "nullif(content, 'null'))",
        "VARCHAR",
        "the text of a message's content",
    ),
    Macro(
        "tool_calls(content, extra := NULL)",
        f"""
        list_concat(
            _calls_in(content),
            if(contains(extra, '"tool_calls"'), _calls_in(extra), [])
        )::{_CALL_TYPE}
        """,
        _CALL_TYPE,
        "the tool calls of a message, for `unnest`",
    ),
    Macro(
        "tokens_by_kind(usage)",
        f"list_filter([{_KINDS}], lambda each: each.tokens IS NOT NULL)",
        "STRUCT(kind VARCHAR, tokens BIGINT)[]",
        "the kinds of tokens that `usage` states, for `unnest`",
    ),
    Macro(
        "tool_call_rows()",
        """
        TABLE
        SELECT trace_id, message_id, sequence, call.id AS tool_call_id, call.name AS name, call.arguments AS arguments
        FROM (SELECT trace_id, message_id, sequence, unnest(tool_calls(content, extra)) AS call FROM messages)
        """,
        "TABLE(trace_id, message_id, sequence, tool_call_id, name, arguments)",
        "one row for each tool call of all messages",
        ("messages",),
    ),
)


def statements() -> list[str]:
    """Return the statements that create all macros."""
    return [f"CREATE TEMP MACRO {macro.signature} AS {macro.body}" for macro in (*_STEPS, *MACROS)]
