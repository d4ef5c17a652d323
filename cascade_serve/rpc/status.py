"""Errors as gRPC statuses, and back: one table each way, and the one boundary where a call's errors end."""

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

import grpc
import grpc.aio

from cascade_serve.errors import (
    AbandonedError,
    CascadeError,
    ConfigError,
    ExistsError,
    InvalidRequestError,
    LateError,
    MemberError,
    NotAllowedError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)

_LOG = logging.getLogger(__name__)
_Servicer = TypeVar("_Servicer")
_Message = TypeVar("_Message")
_Answer = TypeVar("_Answer")
_Context = TypeVar("_Context", bound="grpc.aio.ServicerContext[Any, Any]")

# A status message travels in HTTP/2 trailers, which clients cap at 8 KiB; percent-encoding makes three bytes of one,
# and a character may have four.
_MAX_ASCII_CHARACTERS = 2500
_MAX_CHARACTERS = 600
_INTERNAL_MESSAGE = "internal error; the server's log has the details"


class Fate(NamedTuple):
    """What becomes of a request that fails with an error.

    Attributes:
        code: the status that the caller gets.
        reason: the label under which metrics count it.
    """

    code: grpc.StatusCode
    reason: str


FATES: dict[type[CascadeError], Fate] = {
    InvalidRequestError: Fate(grpc.StatusCode.INVALID_ARGUMENT, "invalid"),
    NotFoundError: Fate(grpc.StatusCode.NOT_FOUND, "not_found"),
    ExistsError: Fate(grpc.StatusCode.ALREADY_EXISTS, "exists"),
    NotAllowedError: Fate(grpc.StatusCode.PERMISSION_DENIED, "not_allowed"),
    OverloadedError: Fate(grpc.StatusCode.RESOURCE_EXHAUSTED, "full"),
    LateError: Fate(grpc.StatusCode.DEADLINE_EXCEEDED, "late"),
    AbandonedError: Fate(grpc.StatusCode.CANCELLED, "abandoned"),
    UnavailableError: Fate(grpc.StatusCode.UNAVAILABLE, "unavailable"),
    MemberError: Fate(grpc.StatusCode.INTERNAL, "member"),
    # A bundle that can't be loaded on demand: the files must change first.
    ConfigError: Fate(grpc.StatusCode.FAILED_PRECONDITION, "config"),
}
_UNEXPECTED = Fate(grpc.StatusCode.INTERNAL, "unexpected")


def fate_of(error: BaseException) -> Fate:
    """Give an error's status and label; those of an unexpected error where the table does not have it."""
    for parent in type(error).__mro__:
        if parent in FATES:
            return FATES[parent]
    return _UNEXPECTED


def answering(
    method: Callable[[_Servicer, _Message, grpc.ServicerContext], _Answer],
) -> Callable[[_Servicer, _Message, grpc.ServicerContext], _Answer]:
    """Make a servicer's method end in an answer or a status: the boundary of a call on a thread."""

    @functools.wraps(method)
    def answer(servicer: _Servicer, request: _Message, context: grpc.ServicerContext) -> _Answer:
        try:
            _check_message(request)
            return method(servicer, request, context)
        except Exception as error:  # noqa: BLE001  # the boundary: the caller gets a status, the log the traceback
            status = _status_of(error, method.__name__)
        return context.abort(*status)

    return answer


def answering_soon(
    method: Callable[[_Servicer, _Message, _Context], Awaitable[_Answer]],
) -> Callable[[_Servicer, _Message, _Context], Awaitable[_Answer]]:
    """Make a servicer's coroutine end in an answer or a status: the boundary of a call on the loop."""

    @functools.wraps(method)
    async def answer(servicer: _Servicer, request: _Message, context: _Context) -> _Answer:
        try:
            _check_message(request)
            return await method(servicer, request, context)
        except Exception as error:  # noqa: BLE001  # the boundary: the caller gets a status, the log the traceback
            status = _status_of(error, method.__name__)
        aborting = context.abort(*status)
        # gRPC keeps what this raises with the call: with them in its traceback, message and call would keep each other.
        del request, context
        return await aborting

    return answer


def _check_message(request: object) -> None:
    """Raise what stands in the place of a message that can't be read; see :mod:`~cascade_serve.rpc.methods`."""
    if isinstance(request, InvalidRequestError):
        raise request


def _status_of(error: Exception, method: str) -> tuple[grpc.StatusCode, str]:
    if isinstance(error, CascadeError):
        return fate_of(error).code, shorten(str(error))
    _LOG.error("%s failed", method, exc_info=error)
    return _UNEXPECTED.code, _INTERNAL_MESSAGE


def shorten(message: str) -> str:
    """Cut a message to what a status can carry: in its middle, where a long value stands between field and limit."""
    limit = _MAX_ASCII_CHARACTERS if message.isascii() else _MAX_CHARACTERS
    if len(message) <= limit:
        return message
    return f"{message[: limit // 2]}... ({len(message)} characters) ...{message[-limit // 2 :]}"
