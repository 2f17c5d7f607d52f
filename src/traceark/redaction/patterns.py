"""What is looked for: the built-in patterns of keys, tokens and addresses, and patterns of one's own.

A pattern is a regular expression over decoded text. It errs towards finding too little: what it
finds is replaced for good. Where a group is named ``secret``, that group is replaced and the rest stays.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from traceark.errors import InvalidValueError

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
# Stands for all of the built-in patterns, or for none of them.
ALL, NONE = "all", "none"


@dataclass(frozen=True, slots=True)
class Pattern:
    """One thing to look for.

    Attributes
    ----------
    name : str
        Stands in the text that replaces what was found, ``[redacted:NAME]``.
    regex : str
        In Python's syntax.
    what : str
        For people.
    source : str
        Where the format is described.
    needles : tuple of str
        A text with none of them holds no match, which is found out faster; none: always look.

    Examples
    --------
    >>> Pattern("badge", r"B-[0-9]{4}").replacement
    '[redacted:badge]'
    """

    name: str
    regex: str
    what: str = ""
    source: str = ""
    needles: tuple[str, ...] = ()
    compiled: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check it.

        Raises
        ------
        InvalidValueError
            The name is not one, or the regular expression is none or matches nothing at all.
        """
        if not _NAME.fullmatch(self.name):
            raise InvalidValueError(f"{self.name!r} is no name of a pattern: letters a-z, digits, dashes", "pattern")
        try:
            compiled = re.compile(self.regex)
        except re.error as error:
            raise InvalidValueError(f"{self.regex!r} is no regular expression: {error}", self.name) from None
        if compiled.search("") is not None:
            raise InvalidValueError(f"{self.regex!r} matches where there is nothing", self.name)
        object.__setattr__(self, "compiled", compiled)

    def may_be_in(self, text: str) -> bool:
        """Say whether it is worth looking for it in a text."""
        for needle in self.needles:
            if needle in text:
                return True
        return not self.needles

    @property
    def replacement(self) -> str:
        """The text that replaces what was found; nothing in it has to be escaped in JSON."""
        return f"[redacted:{self.name}]"

    @property
    def digest(self) -> str:
        """Eight digits of a hash of the regular expression, which tell it from a later one of the same name."""
        return hashlib.sha256(self.regex.encode()).hexdigest()[:8]


# Neither letter, digit, dash nor underscore before or after: a token ends where its alphabet does.
_BEGIN, _END = r"(?<![A-Za-z0-9_-])", r"(?![A-Za-z0-9_-])"
# What stands between a name and its value: `"name": "value"`, `name = value`, `name: value`.
_IS = r"[\"']?\s{0,3}(?::=|=>|[:=])\s{0,3}[\"']?"
# The endings of file names that look like an address: `icon@2x.png`, `scope@latest.js`.
_FILES = (
    "png|jpe?g|gif|svg|webp|ico|css|scss|html?|[cm]?[jt]sx?|json|ya?ml|toml|lock|md|txt|py|rs|go|rb|java|so|service"
)

BUILT_IN: tuple[Pattern, ...] = (
    Pattern(
        "private-key",
        r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
        r"(?:[A-Za-z0-9+/=\s:,.()-]{0,20000}?-----END (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
        r"|[A-Za-z0-9+/=\s]{40,20000})",
        "private keys in PEM, OpenSSH and PGP armour, also cut off",
        "RFC 7468; RFC 9580, 6.2; OpenSSH, PROTOCOL.key",
        ("PRIVATE KEY",),
    ),
    Pattern(
        "aws-access-key-id",
        _BEGIN + r"(?:AKIA|ASIA)[A-Z2-7]{16}" + _END,
        "ids of access keys of AWS, long-lived and temporary",
        "AWS IAM User Guide, IAM identifiers, unique ID prefixes",
        ("AKIA", "ASIA"),
    ),
    Pattern(
        "aws-secret",
        r"(?i:aws_?secret_?(?:access_?)?key|secret_?access_?key)"
        + _IS
        + r"(?P<secret>[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
        "secret access keys of AWS that are named as such",
        "AWS CLI User Guide, configuration and credential file settings",
        ("ecret", "ECRET"),
    ),
    Pattern(
        "aws-session-token",
        r"(?i:aws_?(?:session|security)_?token|session_?token)" + _IS + r"(?P<secret>[A-Za-z0-9/+=]{100,2048})",
        "session tokens of AWS that are named as such",
        "AWS STS API Reference, Credentials",
        ("oken", "OKEN"),
    ),
    Pattern(
        "anthropic-key",
        _BEGIN + r"sk-ant-[a-z]{2,10}[0-9]{2}-[A-Za-z0-9_-]{24,200}" + _END,
        "API keys, admin keys and OAuth tokens of Anthropic",
        "Claude API docs, Authentication: sk-ant-api03-…; GitHub secret scanning, supported patterns",
        ("sk-ant-",),
    ),
    Pattern(
        "openai-key",
        _BEGIN
        + r"sk-(?:(?:proj|svcacct|admin|None)-[A-Za-z0-9_-]{20,250}"
        + r"|[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}|[A-Za-z0-9]{48})"
        + _END,
        "API keys of OpenAI, of projects, service accounts, admins and users",
        "OpenAI API Reference, Authentication; GitHub secret scanning, supported patterns",
        ("sk-",),
    ),
    Pattern(
        "openrouter-key",
        _BEGIN + r"sk-or-v1-[0-9a-f]{64}" + _END,
        "API keys of OpenRouter",
        "OpenRouter docs, Authentication",
        ("sk-or-",),
    ),
    Pattern(
        "google-key",
        _BEGIN + r"AIza[A-Za-z0-9_-]{35}" + _END,
        "API keys of Google",
        "Google Cloud docs, Manage API keys: AIza and 35 characters",
        ("AIza",),
    ),
    Pattern(
        "google-oauth",
        _BEGIN + r"(?:ya29\.[A-Za-z0-9_-]{20,500}|GOCSPX-[A-Za-z0-9_-]{28})" + _END,
        "OAuth access tokens and client secrets of Google",
        "Google Identity docs, Using OAuth 2.0; GitHub secret scanning, supported patterns",
        ("ya29.", "GOCSPX-"),
    ),
    Pattern(
        "github-token",
        _BEGIN + r"(?:gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59})" + _END,
        "tokens of GitHub: personal, OAuth, of apps, refresh tokens",
        "GitHub docs, About authentication to GitHub, GitHub's token formats",
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
    ),
    Pattern(
        "gitlab-token",
        _BEGIN + r"gl(?:pat|oas|dt|rt|rtr|cbt|ptt|ft|imt|agent|soat|ffct)-[A-Za-z0-9_.-]{20,300}(?![A-Za-z0-9_-])",
        "tokens of GitLab, by their prefixes",
        "GitLab docs, Token overview, Token prefixes",
        ("gl",),
    ),
    Pattern(
        "slack-token",
        _BEGIN + r"(?:xox[abceoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,250}|xapp-[0-9]-[A-Za-z0-9-]{10,250})" + _END,
        "tokens of Slack, of bots, users, apps and sessions",
        "Slack API docs, Token types",
        ("xox", "xapp-"),
    ),
    Pattern(
        "slack-webhook",
        r"hooks\.slack\.com/(?P<secret>(?:services|workflows|triggers)/[A-Za-z0-9+/_-]{20,200})",
        "incoming webhooks of Slack",
        "Slack API docs, Sending messages using incoming webhooks",
        ("hooks.slack.com",),
    ),
    Pattern(
        "stripe-key",
        _BEGIN + r"(?:[sr]k_(?:live|test)_[A-Za-z0-9]{16,250}|whsec_[A-Za-z0-9+/=]{24,100})" + _END,
        "secret and restricted keys of Stripe, secrets of its webhooks",
        "Stripe docs, API keys; Webhooks",
        ("k_live_", "k_test_", "whsec_"),
    ),
    Pattern(
        "huggingface-token",
        _BEGIN + r"(?:hf_[A-Za-z]{34}|api_org_[A-Za-z]{34})" + _END,
        "tokens of Hugging Face, of users and organisations",
        "Hugging Face Hub docs, User access tokens; GitHub secret scanning, supported patterns",
        ("hf_", "api_org_"),
    ),
    Pattern(
        "npm-token",
        _BEGIN + r"npm_[A-Za-z0-9]{36}" + _END,
        "access tokens of npm",
        "GitHub blog, 2021-09-23, npm has a new access token format",
        ("npm_",),
    ),
    Pattern(
        "pypi-token",
        _BEGIN + r"pypi-AgE[A-Za-z0-9_-]{50,1000}" + _END,
        "API tokens of PyPI and TestPyPI",
        "PyPI help, How can I use API tokens; pypitoken: a macaroon's first bytes",
        ("pypi-AgE",),
    ),
    Pattern(
        "jwt",
        _BEGIN + r"eyJ[A-Za-z0-9_-]{10,2000}\.eyJ[A-Za-z0-9_-]{10,8000}\.[A-Za-z0-9_-]{10,2000}" + _END,
        "JSON Web Tokens that are signed",
        "RFC 7519; RFC 7515, 7.1",
        ("eyJ",),
    ),
    Pattern(
        "authorization",
        r"(?<![A-Za-z])(?i:authorization|x-api-key|api-key|private-token|x-auth-token)"
        + _IS
        + r"(?:(?i:bearer|basic|token|apikey)\s{1,3})?"
        + r"(?P<secret>(?!AWS4-)(?=[A-Za-z._~+/-]{0,400}[0-9])[A-Za-z0-9._~+/-]{16,4096}={0,3})(?![A-Za-z0-9\[{(])",
        "values of headers that carry credentials, such as Authorization and X-API-Key",
        "RFC 9110, 11.6.2; RFC 6750, 2.1; RFC 7617",
        ("uthorization", "UTHORIZATION", "pi-key", "PI-K", "PI-k", "pi-K", "oken", "OKEN"),
    ),
    Pattern(
        "bearer",
        r"(?<![A-Za-z])(?i:bearer)\s{1,3}(?P<secret>(?=[A-Za-z._~+/-]{0,400}[0-9])[A-Za-z0-9._~+/-]{20,4096}={0,3})"
        r"(?![A-Za-z0-9\[{(])",
        "bearer tokens outside of such a header",
        "RFC 6750, 2.1",
        ("earer", "EARER"),
    ),
    Pattern(
        "url-password",
        r"(?<![A-Za-z0-9])[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s/?#\"'<>@:\[\]{}$\\]{0,200}:"
        r"(?P<secret>[^\s/?#\"'<>@\[\]{}$*\\]{1,200})@[A-Za-z0-9_\[]",
        "passwords in URLs",
        "RFC 3986, 3.2.1",
        ("://",),
    ),
    Pattern(
        "email",
        r"(?<![A-Za-z0-9._%+@-])(?<!//)(?!git@|hg@|noreply@|no-reply@)[A-Za-z0-9](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_+-])?@"
        r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}"
        rf"(?!(?:{_FILES})(?![A-Za-z0-9-]))[A-Za-z]{{2,24}}(?![A-Za-z0-9-]|(?:\.[A-Za-z0-9]+)*\()",
        "e-mail addresses, but not noreply@ and names of files such as icon@2x.png",
        "RFC 5321, 4.1.2, as far as addresses are written without quotes",
        ("@",),
    ),
)


def patterns_of(names: Iterable[str] = (), own: Mapping[str, str] | None = None) -> tuple[Pattern, ...]:
    """Return the built-in patterns of some names, and behind them patterns of one's own.

    Parameters
    ----------
    names : iterable of str
        Of built-in patterns; ``all``, which is what no name means too, or ``none``.
    own : mapping of str to str, optional
        Regular expressions in Python's syntax, by name. Of one with a group named ``secret`` only that is replaced.

    Raises
    ------
    InvalidValueError
        A name or an expression cannot be used, or nothing is left to look for.

    Examples
    --------
    >>> [pattern.name for pattern in patterns_of(["email", "jwt"], {"badge": "B-[0-9]{4}"})]
    ['jwt', 'email', 'badge']
    """
    wanted, known = set(names) or {ALL}, {pattern.name for pattern in BUILT_IN}
    for name in sorted(wanted - known - {ALL, NONE}):
        raise InvalidValueError(f"there is no pattern {name!r}; there are {', '.join(sorted(known))}", "pattern")
    if NONE in wanted and len(wanted) > 1:
        raise InvalidValueError("'none' goes with no other pattern", "pattern")
    found = [pattern for pattern in BUILT_IN if ALL in wanted or pattern.name in wanted]
    for name, regex in (own or {}).items():
        if name in known | {ALL, NONE}:
            raise InvalidValueError(f"{name!r} is the name of built-in patterns; give yours another", "pattern")
        found.append(Pattern(name, regex, "one's own"))
    if not found:
        raise InvalidValueError("no pattern is left to look for", "pattern")
    return tuple(found)


def read_patterns(text: str, what: str) -> dict[str, str]:
    """Return the patterns of a file: lines ``NAME=REGEX``; empty ones and those that begin with ``#`` say nothing.

    Raises
    ------
    InvalidValueError
        A line is none.

    Examples
    --------
    >>> read_patterns("# people\\nbadge=B-[0-9]{4}\\n", "patterns.txt")
    {'badge': 'B-[0-9]{4}'}
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, regex = line.partition("=")
        if not equals or not regex:
            raise InvalidValueError(f"{what}, line {number}: {line!r} is not NAME=REGEX", "pattern")
        if name.strip() in found:
            raise InvalidValueError(f"{what}, line {number}: {name.strip()!r} comes twice", "pattern")
        found[name.strip()] = regex
    return found
