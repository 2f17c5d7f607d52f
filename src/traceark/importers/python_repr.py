"""Objects of Python that were dumped as the text which `repr` gives: ``Answer(text='hi', usage=Usage(n=3))``.

Dumps of responses are full of them, where a program wrote ``default=str``. Nothing is evaluated: the
text is parsed, and what is more than names, calls, displays and constants is no such text.
"""

from __future__ import annotations

import ast
import math
import re

from traceark.models import Json, JsonObject

_OBJECT = re.compile(r"[A-Za-z_][\w.]*(\[[\w., ]*\])?\(.*\)", re.DOTALL)
_MOST_CHARACTERS = 2**20
_MOST_LEVELS = 60


def object_of(text: Json) -> JsonObject | None:
    """Return the fields of an object that a text shows; None where it shows none.

    Examples
    --------
    >>> object_of("Answer(text='hi', usage=Usage(n=3), tags=['a', None])")
    {'text': 'hi', 'usage': {'n': 3}, 'tags': ['a', None]}
    >>> object_of("print('hi')"), object_of("f(x)")
    (None, None)
    """
    if not isinstance(text, str) or len(text) > _MOST_CHARACTERS or not _OBJECT.fullmatch(text.strip()):
        return None
    try:
        found = _value(ast.parse(text.strip(), mode="eval").body, _MOST_LEVELS)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return found if isinstance(found, dict) and found else None


def _value(node: ast.expr, levels: int) -> Json:
    if levels == 0:
        raise ValueError("too deep")
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | str | None):
        return node.value
    if isinstance(node, ast.Constant) and isinstance(node.value, float) and math.isfinite(node.value):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        number = _value(node.operand, levels - 1)
        if isinstance(number, int | float):
            return -number
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(each, levels - 1) for each in node.elts]
    if isinstance(node, ast.Dict):
        return {_name(key): _value(each, levels - 1) for key, each in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.Call) and not node.args:
        return {str(each.arg): _value(each.value, levels - 1) for each in node.keywords if each.arg is not None}
    raise ValueError("no object")


def _name(key: ast.expr | None) -> str:
    if isinstance(key, ast.Constant) and isinstance(key.value, str):
        return key.value
    raise ValueError("no name")
