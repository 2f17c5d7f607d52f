"""Attributes whose names are paths: lists and objects that were flattened come back as such.

``messages.0.role`` names the role of the first message. It knows no name of any convention.
"""

from __future__ import annotations

from collections.abc import Mapping

from traceark.models import Json, JsonObject

# A path with more steps is a name that merely has dots in it.
_MOST_STEPS = 40


def nested(attributes: Mapping[str, Json], prefix: str) -> Json:
    """Return what the attributes below a prefix say together; None where there are none.

    Objects whose keys are all whole numbers are lists, in the order of the numbers.

    Examples
    --------
    >>> nested({"m.0.role": "user", "m.1.role": "tool", "m.1.ids.0": "x", "n": 1}, "m")
    [{'role': 'user'}, {'role': 'tool', 'ids': ['x']}]
    """
    if prefix in attributes:
        return attributes[prefix]
    root: JsonObject = {}
    for name, value in attributes.items():
        if not name.startswith(f"{prefix}."):
            continue
        inside = root
        *steps, last = name[len(prefix) + 1 :].split(".")
        for step in steps if len(steps) < _MOST_STEPS else ():
            below = inside.setdefault(step, {})
            if not isinstance(below, dict):
                break
            inside = below
        else:
            inside.setdefault(last, value)
    return _listed(root) if root else None


def _listed(value: Json) -> Json:
    if not isinstance(value, dict):
        return value
    found = {key: _listed(each) for key, each in value.items()}
    if found and all(key.isascii() and key.isdigit() for key in found):
        return [found[key] for key in sorted(found, key=lambda key: (len(key), key))]
    return found
