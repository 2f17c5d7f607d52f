"""What the errors of s3fs say: told apart by the server's answer, which it wraps in various plain `OSError`."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from traceark.errors import StorageError
from traceark.storage.base import KeyMissingError, VersionMismatchError

# By the server's code, or the name of botocore's error.
_CREDENTIALS = {
    "ExpiredToken": "have expired",
    "ExpiredTokenException": "have expired",
    "RequestExpired": "have expired",
    "TokenRefreshRequired": "have expired",
    "InvalidToken": "are not accepted",
    "InvalidAccessKeyId": "are not accepted",
    "SignatureDoesNotMatch": "are not accepted",
    "NoCredentialsError": "are missing",
    "PartialCredentialsError": "are incomplete",
    "CredentialRetrievalError": "could not be had",
    "UnauthorizedSSOTokenError": "have expired",
    "SSOTokenLoadError": "have expired",
    "TokenRetrievalError": "have expired",
}


class ConflictError(StorageError):
    """The server met another write of the key under way, and says nothing about conditions."""


def _answer(error: Exception) -> Mapping[str, Any]:
    """Return what the server answered, or nothing."""
    cause: Any = error if hasattr(error, "response") else error.__cause__
    return getattr(cause, "response", None) or {}


def refused_credentials(error: Exception) -> str | None:
    """Say what is wrong with the credentials, if that is what an error tells."""
    code = _answer(error).get("Error", {}).get("Code", "")
    return _CREDENTIALS.get(code) or _CREDENTIALS.get(type(error).__name__)


def translated(error: Exception, what: str) -> StorageError:
    """Return our error for one that s3fs raised over an object."""
    response = _answer(error)
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = response.get("Error", {}).get("Code", "")
    if code == "PreconditionFailed" or status == 412:
        return VersionMismatchError(f"{what} was replaced meanwhile")
    if status == 409:
        return ConflictError(errno.EBUSY, f"{what}: other writers kept writing it ({code}); try again")
    if code in ("NoSuchKey", "404") or (isinstance(error, FileNotFoundError) and code != "NoSuchBucket"):
        return KeyMissingError(f"{what} is not there")
    if code == "InvalidRange":
        return KeyMissingError(f"{what} is shorter than it was")
    return StorageError(getattr(error, "errno", None) or errno.EIO, f"{what}: {code or type(error).__name__}: {error}")
