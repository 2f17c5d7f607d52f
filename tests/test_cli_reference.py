"""`docs/cli.md` is what the command line says of itself.

Run as a program, this prints the page: ``python tests/test_cli_reference.py > docs/cli.md``.
"""

from __future__ import annotations

from pathlib import Path

import click

from traceark.cli import program

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"
HEAD = """# The command line

`traceark VERB ARCHIVE …`. Results go to standard output, as text or with `--json` as one JSON document; errors,
warnings and progress go to standard error, and of `ls --json` the cursor that `--after` goes on from, where there are
more. Text is fitted to the terminal, and in a pipe to nothing: there it has no colour, and what is one line is not cut,
but for the values of `sql`, and for what `show` without `--full` leaves out. `COLUMNS` and `NO_COLOR` are honoured.

Characters that a terminal would obey are shown as escapes, wherever they come from.
"""


def reference() -> str:
    """Return the page."""
    whole = click.Context(program, info_name="traceark", terminal_width=100, **program.context_settings)
    sections = [HEAD, _help(whole)]
    for name in program.list_commands(whole):
        verb = program.get_command(whole, name)
        assert verb is not None
        context = click.Context(verb, info_name=name, parent=whole)
        sections.append(f"## {name}\n\n{_help(context)}")
        for below, command in verb.commands.items() if isinstance(verb, click.Group) else ():
            sections.append(f"### {name} {below}\n\n{_help(click.Context(command, info_name=below, parent=context))}")
    return "\n".join(sections)


def _help(context: click.Context) -> str:
    return f"```text\n{context.command.get_help(context)}\n```\n"


def test_the_page_is_what_the_command_line_says() -> None:
    assert PAGE.read_text() == reference(), "run: python tests/test_cli_reference.py > docs/cli.md"


if __name__ == "__main__":
    click.echo(reference(), nl=False)
