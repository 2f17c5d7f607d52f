"""How long state machines run: some seconds in every test run, far longer with the profile ``thorough``."""

from __future__ import annotations

import os

from hypothesis import settings

THOROUGH = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"


def machine_settings(max_examples: int, steps: int) -> settings:
    """Return the settings of a state machine; a thorough run has fifty times the examples."""
    return settings(
        max_examples=max_examples * 50 if THOROUGH else max_examples, stateful_step_count=steps, deadline=None
    )
