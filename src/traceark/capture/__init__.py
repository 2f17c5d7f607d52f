"""Live capture: what other libraries tell of a run is written to an archive while the run goes on.

One module per library, and what they share: `recorder` (an archive for code that may not fail),
`live_trace` (one trace, written as it grows) and `plain` (objects as JSON).
"""
