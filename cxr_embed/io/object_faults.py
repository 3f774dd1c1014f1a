"""What went wrong with an object, from the errors of four libraries: a kind, and words of our own.

Their texts are not repeated: a library may put the address that it called, with its signature, into them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cxr_embed.errors import RemoteError

# Of botocore, by name: it need not be installed.
_NO_CREDENTIALS = {
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"),
    *("TokenRetrievalError", "SSOTokenLoadError", "UnauthorizedSSOTokenError", "DefaultCredentialsError"),
}
_TIMED_OUT = {"ConnectTimeoutError", "ReadTimeoutError", "FSTimeoutError", "TimeoutError"}
_BROKEN_OFF = {"IncompleteReadError", "ResponseStreamingError", "ClientPayloadError", "ServerDisconnectedError"}
_NO_NAME = {"ParamValidationError", "InvalidURL", "InvalidBucketName"}
_LATER = {"SlowDown", "RequestTimeout", "ServiceUnavailable", "InternalError", "ThrottlingException", "ServerBusy"}
_DENIED = {
    *("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"),
    *("AllAccessDisabled", "AuthenticationFailed", "AuthorizationFailure"),
}
_UNCONNECTED = {
    *("ClientConnectorError", "EndpointConnectionError", "HTTPClientError", "ClientConnectionError"),
    *("ServiceRequestError", "ClientOSError", "ConnectionError"),
}
_NO_TRUST = {"SSLError", "ClientSSLError", "SSLCertVerificationError", "ClientConnectorCertificateError"}
_NO_RIGHTS = "the server refuses access to it (no rights, or it is not there)"


def fault_of(error: BaseException, seconds: float) -> RemoteError:
    """The fault that an error stands for.

    Args:
        error: of fsspec or of what it called.
        seconds: how long a server may be silent, for the words.
    """
    chain = list(_causes(error))
    if own := [each for each in chain if isinstance(each, RemoteError)]:
        return own[0]
    names = {base.__name__ for each in chain for base in type(each).__mro__}
    statuses = [status for each in chain if (status := _status(each))]
    codes = {code for each in chain if (code := _code(each))}
    return _answered(names, statuses, codes) or _unanswered(names, seconds) or _by_type(chain, names)


def _answered(names: set[str], statuses: list[int], codes: set[str]) -> RemoteError | None:
    """The fault that a server, or the library before it asked, has a word for."""
    busy = [status for status in statuses if status >= 500 or status in (408, 425, 429)]
    if names & _NO_CREDENTIALS:
        return RemoteError("no-credentials", "no credentials for it are found here")
    if names & _BROKEN_OFF:  # before any status: aiohttp gives a body that is cut off one, 400
        return RemoteError("unreachable", "the connection broke off")
    if codes & {"NoSuchBucket", "ContainerNotFound"}:
        return RemoteError("no-bucket", "there is no such bucket")
    if codes & _DENIED or set(statuses) & {401, 403}:
        return RemoteError("denied", _NO_RIGHTS)
    if names & _NO_NAME or codes & _NO_NAME:
        return RemoteError("missing", "no object can have such a name")
    if set(statuses) & {404, 410} or codes & {"NoSuchKey", "404"}:
        return RemoteError("missing", "the object does not exist")
    if busy or codes & _LATER:
        return RemoteError("unreachable", f"the server answers {busy[0]}" if busy else "the server is busy")
    return RemoteError("failed", f"the server answers {statuses[0]}") if statuses else None


def _unanswered(names: set[str], seconds: float) -> RemoteError | None:
    """The fault of a connection."""
    if names & _TIMED_OUT:
        return RemoteError("unreachable", f"the server does not answer within {seconds:g} s", timed_out=True)
    if "gaierror" in names:
        return RemoteError("unreachable", "no server of that name is known")
    if names & _NO_TRUST:
        return RemoteError("denied", "the server's certificate is not one that this machine trusts")
    return RemoteError("unreachable", "there is no connection to the server") if names & _UNCONNECTED else None


def _by_type(chain: list[BaseException], names: set[str]) -> RemoteError:
    if "PermissionError" in names:
        return RemoteError("denied", _NO_RIGHTS)
    if "FileNotFoundError" in names:
        return RemoteError("missing", "the object does not exist")
    return RemoteError("failed", f"it cannot be used ({type(chain[0]).__name__})")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from."""
    seen: set[int] = set()
    now: BaseException | None = error
    while now is not None and id(now) not in seen:
        seen.add(id(now))
        yield now
        now = now.__cause__ or now.__context__


def _response(error: BaseException) -> dict[str, Any]:
    found = getattr(error, "response", None)
    return found if isinstance(found, dict) else {}


def _status(error: BaseException) -> int:
    """The status of an answer, wherever a library puts it."""
    if answered := _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode"):
        return int(answered) if 400 <= int(answered) < 600 else 0
    for name in ("status", "status_code", "code"):
        value = getattr(error, name, None)
        if str(value).isdigit() and 400 <= int(str(value)) < 600:
            return int(str(value))
    return 0


def _code(error: BaseException) -> str:
    """The service's word for it."""
    word = _response(error).get("Error", {}).get("Code") or getattr(error, "error_code", None)
    return str(word) if word else ""
