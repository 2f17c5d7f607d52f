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


class BrokenOffError(StorageError):
    """The answer ended before it was whole."""


class ConflictError(StorageError):
    """The server met another write of the key under way, and says nothing about conditions."""


class CredentialsError(StorageError):
    """The credentials are missing, or the server does not take them, or no longer."""


class UnsupportedRequestError(StorageError):
    """The server knows the request, but not with what it says."""


def _answer(error: Exception) -> Mapping[str, Any]:
    """Return what the server answered, or nothing."""
    cause: Any = error if hasattr(error, "response") else error.__cause__
    return getattr(cause, "response", None) or {}


def translated(error: Exception, what: str) -> StorageError:
    """Return our error for one that s3fs raised over an object; one that is ours is returned as it is."""
    if isinstance(error, StorageError):
        return error
    response = _answer(error)
    name = type(error).__name__
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = response.get("Error", {}).get("Code", "")
    refused = _CREDENTIALS.get(code) or _CREDENTIALS.get(name)
    if refused is not None:
        return CredentialsError(
            getattr(error, "errno", None) or errno.EACCES,
            f"{what}: the credentials {refused} ({code or name}: {error}); get valid ones from where yours come from, "
            "give them in `storage_options`, the environment or the AWS profile, and open the archive again",
        )
    if code == "PreconditionFailed" or status == 412:
        return VersionMismatchError(f"{what} was replaced meanwhile")
    if code == "NotImplemented" or status == 501:
        return UnsupportedRequestError(errno.EOPNOTSUPP, f"{what}: this server does not do that ({code}: {error})")
    if status == 409:
        return ConflictError(errno.EBUSY, f"{what}: other writers kept writing it ({code}); try again")
    if code in ("NoSuchKey", "404") or (isinstance(error, FileNotFoundError) and code != "NoSuchBucket"):
        return KeyMissingError(f"{what} is not there")
    if code == "InvalidRange":
        return KeyMissingError(f"{what} is shorter than it was")
    return StorageError(getattr(error, "errno", None) or errno.EIO, f"{what}: {code or name}: {error}")
