"""Errors as a client sees them.

RemoteError                    the server answered with an error, can't be reached, or answered nonsense
├── RemoteInvalidError         INVALID_ARGUMENT: a tensor, parameter or cap is refused
├── RemoteNotFoundError        NOT_FOUND: unknown cascade, version, policy or shared memory region
├── RemoteExistsError          ALREADY_EXISTS: a shared memory region of that name is registered already
├── RemoteNotAllowedError      PERMISSION_DENIED: the server was not started so
├── RemoteOverloadedError      RESOURCE_EXHAUSTED: the server is full, or a message too long
├── RemoteLateError            DEADLINE_EXCEEDED
├── RemoteCancelledError       CANCELLED
├── RemoteUnavailableError     UNAVAILABLE: loading, draining, or not there
└── RemoteInternalError        INTERNAL: a member, or the server itself, failed
"""

from typing import Any

import grpc

from cascade_serve.errors import CascadeError


class RemoteError(CascadeError):
    """A call failed.

    Args:
        code: name of the gRPC status, such as ``INVALID_ARGUMENT``.
        message: what the server, or gRPC, says.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type["RemoteError"], tuple[str, str]]:
        return type(self), (self.code, self.message)


class RemoteInvalidError(RemoteError):
    """A tensor, parameter or cap is refused."""


class RemoteNotFoundError(RemoteError):
    """Unknown cascade, version, policy or shared memory region."""


class RemoteExistsError(RemoteError):
    """A shared memory region of that name is registered already."""


class RemoteNotAllowedError(RemoteError):
    """The server was not started with the flag that allows this call."""


class RemoteOverloadedError(RemoteError):
    """The server is full, or a message is longer than it takes."""


class RemoteLateError(RemoteError):
    """The deadline passed."""


class RemoteCancelledError(RemoteError):
    """The call was cancelled."""


class RemoteUnavailableError(RemoteError):
    """The server is loading, draining, or not there."""


class RemoteInternalError(RemoteError):
    """A member, or the server itself, failed."""


_ERRORS: dict[grpc.StatusCode, type[RemoteError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: RemoteInvalidError,
    grpc.StatusCode.NOT_FOUND: RemoteNotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: RemoteExistsError,
    grpc.StatusCode.PERMISSION_DENIED: RemoteNotAllowedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RemoteOverloadedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: RemoteLateError,
    grpc.StatusCode.CANCELLED: RemoteCancelledError,
    grpc.StatusCode.UNAVAILABLE: RemoteUnavailableError,
    grpc.StatusCode.INTERNAL: RemoteInternalError,
}


def remote_error(error: grpc.RpcError) -> RemoteError:
    """Turn gRPC's error into ours."""
    # The errors that calls raise are calls themselves, which grpc's types can't say.
    call: Any = error
    code: grpc.StatusCode = call.code()
    return _ERRORS.get(code, RemoteError)(code.name, call.details() or "no details")
