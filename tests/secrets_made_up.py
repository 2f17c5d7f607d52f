"""Made-up secrets of every built-in pattern, put together here so that no scanner takes this file for a leak."""

from __future__ import annotations

_BODY = "a1B2c3D4e5F6g7H8i9J0"
_PEM, _PGP = "PRIVATE KEY-----", "PRIVATE KEY BLOCK-----"

# By pattern: texts that hold exactly one secret each, and the secret.
SECRETS: dict[str, list[tuple[str, str]]] = {
    "private-key": [
        (key := f"-----BEGIN RSA {_PEM}\nMIIEow{_BODY}\n{_BODY}==\n-----END RSA {_PEM}", key),
        (key := f"-----BEGIN OPENSSH {_PEM}\n{_BODY * 4}", key),
        (key := f"-----BEGIN PGP {_PGP}\nVersion: 1\n\n{_BODY}\n-----END PGP {_PGP}", key),
    ],
    "aws-access-key-id": [("id=AKIA" + "ABCDEFGHIJKLMNOP;", "AKIA" + "ABCDEFGHIJKLMNOP")],
    "aws-secret": [
        (f"aws_secret_access_key = {_BODY * 2}", _BODY * 2),
        (f'"SecretAccessKey": "{_BODY * 2}"', _BODY * 2),
    ],
    "aws-session-token": [(f'"SessionToken":"{_BODY * 6}=="', _BODY * 6 + "==")],
    "anthropic-key": [(f"key sk-ant-api03-{_BODY * 4}-AA.", f"sk-ant-api03-{_BODY * 4}-AA")],
    "openai-key": [
        (f"sk-proj-{_BODY}_{_BODY}", f"sk-proj-{_BODY}_{_BODY}"),
        (f"sk-{_BODY}T3BlbkFJ{_BODY}", f"sk-{_BODY}T3BlbkFJ{_BODY}"),
    ],
    "openrouter-key": [("sk-or-v1-" + "0123456789abcdef" * 4,) * 2],
    "google-key": [("?key=AIza" + (_BODY * 2)[:35] + "&x=1", "AIza" + (_BODY * 2)[:35])],
    "google-oauth": [(f"ya29.{_BODY}", f"ya29.{_BODY}"), ("GOCSPX-" + (_BODY * 2)[:28],) * 2],
    "github-token": [
        ("ghp_" + (_BODY * 2)[:36],) * 2,
        (f"https://github.com/?t=github_pat_{(_BODY * 2)[:22]}_{(_BODY * 3)[:59]}",
         f"github_pat_{(_BODY * 2)[:22]}_{(_BODY * 3)[:59]}"),
    ],
    "gitlab-token": [(f"glpat-{_BODY}", f"glpat-{_BODY}")],
    "slack-token": [("xoxb-" + "1234567890-abcdef", "xoxb-" + "1234567890-abcdef")],
    "slack-webhook": [(f"https://hooks.slack.com/services/T0/B0/{_BODY}", f"services/T0/B0/{_BODY}")],
    "stripe-key": [("sk_live_" + _BODY,) * 2, ("rk_test_" + _BODY,) * 2, (f"whsec_{_BODY * 2}",) * 2],
    "huggingface-token": [("hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH",) * 2],
    "npm-token": [("npm_" + (_BODY * 2)[:36],) * 2],
    "pypi-token": [(f"pypi-AgEIcHlwaS5vcmc{_BODY * 3}",) * 2],
    "jwt": [(f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0{_BODY}.{_BODY}",) * 2],
    "authorization": [
        (f"Authorization: Basic {_BODY}==", f"{_BODY}=="),
        (f"'X-API-Key': '{_BODY}'", _BODY),
        (f'{{"authorization": "Bearer {_BODY}"}}', _BODY),
    ],
    "bearer": [(f'["bearer {_BODY}"]', _BODY)],
    "url-password": [("postgres://me:pa55w0rd@db:5432/x", "pa55w0rd"), ("https://u:p%40ss@example.org", "p%40ss")],
    "email": [("write to ann.lee+x@mail.example.co.uk, now", "ann.lee+x@mail.example.co.uk")],
}  # fmt: skip

# Texts that look like a secret and are none.
NOT_SECRET = [
    "git@github.com:owner/name.git",
    "icon@2x.png and scope@latest.js",
    "noreply@anthropic.com",
    "npm i left-pad@1.3.0",
    "@pytest.mark.skip",
    "weights@hidden.mean(axis=0)",
    "https://github.com/@someone",
    "https://example.org:443/@x",
    "Authorization: Bearer <token>",
    "'Authorization': f'Bearer {token}'",
    "Authorization: AWS4-HMAC-SHA256 Credential=…",
    '"AWS::Redshift::EndpointAuthorization": "ab164694f53a3bf4"',
    "the bearer authentication-scheme-for-http",
    "task-notification risk-adjusted-performance-of-everything-there-is-to-know",
    "AKIA and sk- and ghp_ are prefixes",
    "-----BEGIN CERTIFICATE-----\nMIIE\n-----END CERTIFICATE-----",
    "eyJhbGciOiJIUzI1NiJ9.not.a.token",
    "aws_secret_access_key = os.environ['AWS_SECRET_ACCESS_KEY']",
]
