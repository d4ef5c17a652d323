import logging
import pickle
from typing import NoReturn
from urllib.parse import quote

import grpc
import pytest

from cascade_serve import errors
from cascade_serve.errors import (
    BundleError,
    CascadeError,
    InvalidRequestError,
    LateError,
    MemberError,
    OverloadedError,
    RequestError,
)
from cascade_serve.rpc.remote import _ERRORS, RemoteError, RemoteInvalidError, remote_error
from cascade_serve.rpc.status import FATES, answering, fate_of, shorten


def subclasses(parent: type[CascadeError]) -> list[type[CascadeError]]:
    return [
        one
        for child in parent.__subclasses__()
        if child.__module__ == errors.__name__
        for one in (child, *subclasses(child))
    ]


@pytest.mark.parametrize("kind", subclasses(RequestError))
def test_every_request_error_has_a_status(kind: type[CascadeError]) -> None:
    assert kind in FATES


def test_reasons_and_statuses_tell_the_errors_apart() -> None:
    assert len({fate.reason for fate in FATES.values()}) == len(FATES)
    assert len({fate.code for fate in FATES.values()}) == len(FATES)
    assert grpc.StatusCode.UNKNOWN not in {fate.code for fate in FATES.values()}


def test_a_subclass_has_its_parents_status() -> None:
    assert fate_of(BundleError("broken")).code is grpc.StatusCode.FAILED_PRECONDITION
    assert fate_of(KeyError("x")).code is grpc.StatusCode.INTERNAL


def test_every_status_that_we_give_comes_back_as_an_error_of_its_own() -> None:
    for kind in subclasses(RequestError):
        assert FATES[kind].code in _ERRORS


class Context:
    """What grpc does at an abort: it raises a bare Exception."""

    code: grpc.StatusCode
    details: str

    def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        self.code, self.details = code, details
        raise Exception  # noqa: TRY002


class Servicer:
    @answering
    def method(self, request: Exception | None, context: grpc.ServicerContext) -> str:
        if request is not None:
            raise request
        return "answer"


def abort(error: Exception) -> Context:
    context = Context()
    with pytest.raises(Exception, match=r"^$"):
        Servicer().method(error, context)  # type: ignore[arg-type]
    return context


@pytest.mark.parametrize(
    ("error", "code", "details"),
    [
        (InvalidRequestError("a", 1, "2"), grpc.StatusCode.INVALID_ARGUMENT, "a: got 1; must be 2"),
        (LateError("late"), grpc.StatusCode.DEADLINE_EXCEEDED, "late"),
        (OverloadedError("full"), grpc.StatusCode.RESOURCE_EXHAUSTED, "full"),
        (MemberError("bad"), grpc.StatusCode.INTERNAL, "bad"),
    ],
)
def test_our_errors_become_their_status_with_their_message(
    error: CascadeError, code: grpc.StatusCode, details: str, caplog: pytest.LogCaptureFixture
) -> None:
    context = abort(error)
    assert (context.code, context.details) == (code, details)
    assert not caplog.records


def test_other_errors_are_logged_and_keep_their_details_to_themselves(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        context = abort(ZeroDivisionError("secret"))
    assert context.code is grpc.StatusCode.INTERNAL
    assert context.details == "internal error; the server's log has the details"
    assert "method failed" in caplog.text
    assert "ZeroDivisionError: secret" in caplog.text


def test_a_long_message_is_cut_to_what_trailers_carry() -> None:
    for character in "a\néあ😀":
        details = abort(InvalidRequestError("policy", character * 100_000, "short")).details
        assert len(quote(details)) < 8000
        assert details.startswith(f"policy: got {character}")
        assert "... (100027 characters) ..." in details
        assert details.endswith(f"{character}; must be short")
    assert shorten("short") == "short"


def test_a_remote_error_keeps_code_and_message() -> None:
    class Call(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.INVALID_ARGUMENT

        def details(self) -> str:
            return "images: got nothing"

    error = remote_error(Call())
    assert isinstance(error, RemoteInvalidError)
    assert (error.code, error.message) == ("INVALID_ARGUMENT", "images: got nothing")
    assert str(error) == "INVALID_ARGUMENT: images: got nothing"
    assert issubclass(RemoteError, CascadeError)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.code, copy.message) == (RemoteInvalidError, error.code, error.message)
