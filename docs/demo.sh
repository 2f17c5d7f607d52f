#!/bin/sh
# The main job once through: runs in, a look at them, a copy that verifies. `make demo` runs this.
set -eu

say() { printf '\n# %s\n' "$1"; }
run() { printf '$ %s\n' "$*"; "$@"; }
sql() { printf '$ traceark sql %s "%s"\n' "$1" "$2"; traceark sql "$1" "$2"; }

# Not a terminal's width, so that the output is the same in a log.
[ -t 1 ] || export COLUMNS=100

say "Sample runs of an agent into an archive; a second time adds nothing."
run traceark import --samples --to ./demo-archive

say "The runs, the newest first."
run traceark ls ./demo-archive

say "One run: its goals with what they took, the sub-agent it started, its messages."
run traceark show ./demo-archive c2b9a6f4

say "SQL over all runs: which tools took the most calls?"
sql ./demo-archive "SELECT tool_name, count(*) AS calls, count(DISTINCT trace_id) AS runs FROM messages WHERE role = 'tool' GROUP BY tool_name ORDER BY calls DESC, tool_name LIMIT 5"

say "An archive is a folder: a copy of it is one too, and proves itself."
rm -rf ./demo-copy
run cp -r ./demo-archive ./demo-copy
run traceark verify --deep ./demo-copy

say "Without traceark: every sealed run carries a list for sha256sum."
printf '$ cd demo-copy/traces/7d1f0c52-* && sha256sum -c manifest-sha256.txt\n'
(cd demo-copy/traces/7d1f0c52-* && sha256sum -c manifest-sha256.txt)

say "Done. Your own runs: $(command -v traceark) import ~/.claude/projects --to ./runs"
