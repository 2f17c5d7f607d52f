"""Text for people, in a terminal or on a page: what came from an archive is shown, never obeyed.

Control characters, escape sequences and marks that reorder text become visible escapes; long text
is shortened; numbers, times and costs get a form that fits a column. It knows nothing of archives.
"""

from __future__ import annotations

import re
from datetime import datetime

# C0 and C1 controls but tab and newline, and DEL; marks that reorder or hide text; line separators
# that are no newline; surrogates, which no terminal's encoding can say.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_DATE_SUFFIX = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2})$")
NOTHING = "–"


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def visible(text: str) -> str:
    """Return text with everything a terminal would obey as a visible escape; lines stay lines.

    Examples
    --------
    >>> print(visible("red: \\x1b[31m"))
    red: \\x1b[31m
    """
    return _UNSAFE.sub(_escape, text.replace("\r\n", "\n"))


def one_line(text: str, limit: int = 1000) -> str:
    """Return text as one visible line of at most `limit` characters.

    Examples
    --------
    >>> one_line("a\\n  b", 10), one_line("x" * 20, 10)
    ('a b', 'xxxxxxxxx…')
    """
    # Enough of a text of megabytes to fill the line, were most of it white space.
    joined = " ".join(visible(text[: limit * 20]).split())
    return joined if len(joined) <= limit and len(text) <= limit * 20 else f"{joined[: limit - 1]}…"


def without_password(url: str) -> str:
    """Return a URL that may be shown.

    Examples
    --------
    >>> without_password("ftp://ann:hunter2@host/runs?token=0123abcd"), without_password("runs")
    ('ftp://ann:***@host/runs?***', 'runs')
    """
    if "://" not in url:
        return url
    return re.sub(r"\?.*", "?***", re.sub(r"(://[^/@:]*:)[^/@]*@", r"\1***@", url))


def bytes_text(size: int) -> str:
    """Return a number of bytes for people.

    Examples
    --------
    >>> bytes_text(17), bytes_text(1_234), bytes_text(52_400_000)
    ('17 B', '1.2 kB', '52.4 MB')
    """
    for unit, least in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= least:
            return f"{size / least:,.1f} {unit}"
    return f"{size} B"


def count_of(number: int, what: str, several: str = "") -> str:
    """Return a number with its noun, whose plural is told where it takes more than an s.

    Examples
    --------
    >>> count_of(1, "message"), count_of(1200, "message")
    ('1 message', '1,200 messages')
    """
    return f"{number:,} {what if number == 1 else several or f'{what}s'}"


def short_number(number: int) -> str:
    """Return a number in at most six characters.

    Examples
    --------
    >>> [short_number(number) for number in (0, 999, 33_321, 1_802_132, 91_625_878, 10**12)]
    ['0', '999', '33.3k', '1.8M', '91.6M', '1e+12']
    """
    if abs(number) < 1000:
        return str(number)
    for unit, size in (("k", 10**3), ("M", 10**6), ("G", 10**9)):
        if abs(number) < 999.95 * size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0e}"


def cost_text(cost: float) -> str:
    """Return a cost with two decimals, or two digits where it is smaller than a cent.

    Examples
    --------
    >>> cost_text(0.0), cost_text(12.345), cost_text(0.00042)
    ('–', '12.35', '0.00042')
    """
    if cost == 0:
        return NOTHING
    return f"{cost:,.2f}" if abs(cost) >= 0.01 else f"{cost:.2g}"


def duration_text(duration_ms: float) -> str:
    """Return milliseconds in a unit that fits.

    Examples
    --------
    >>> duration_text(84), duration_text(19_400), duration_text(4_000_000)
    ('84 ms', '19.4 s', '1 h 07 min')
    """
    if duration_ms < 1000:
        return f"{duration_ms:.0f} ms"
    seconds = duration_ms / 1000
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24:02d} h"


def time_text(moment: datetime | None, seconds: bool = False) -> str:
    """Return a time in UTC, to the minute or the second."""
    if moment is None:
        return NOTHING
    return moment.isoformat(" ", "seconds" if seconds else "minutes").partition("+")[0]


def model_text(model: str) -> str:
    """Return a model's name without its vendor and date.

    Examples
    --------
    >>> model_text("claude-sonnet-4-5-20250929"), model_text("openai/gpt-5.1")
    ('sonnet-4-5', 'gpt-5.1')
    """
    return _DATE_SUFFIX.sub("", model.rpartition("/")[2]).removeprefix("claude-")
