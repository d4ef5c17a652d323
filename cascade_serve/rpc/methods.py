"""Generated services on an asyncio server: their methods are found by name, and take what is no message as an error."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from cascade_serve.errors import InvalidRequestError

_GRPC_LOG = logging.getLogger("grpc._cython.cygrpc")
_BROKEN_CALL = "ExecuteBatchError"


class MethodsByName:
    """An asyncio server as generated code fills it.

    Generated code registers each method apart, and gRPC then waits anew for all of them whenever one is called. A
    message that can't be parsed it answers by UNKNOWN, with a traceback in the log: here the method gets the error in
    the message's place.

    Args:
        server: not yet started.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Do nothing: the same methods come by :meth:`add_registered_method_handlers`, which can be looked into."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Take a service's methods: name → a handler as gRPC makes them."""
        careful = {name: _careful(handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, careful),))


def _careful(handler: Any) -> Any:
    if handler.unary_unary is None:
        return handler
    parse = _parser(handler.request_deserializer)
    return grpc.unary_unary_rpc_method_handler(handler.unary_unary, parse, handler.response_serializer)


def _parser(parse: Callable[[bytes], object]) -> Callable[[bytes], object]:
    def parse_carefully(data: bytes) -> object:
        try:
            return parse(data)
        except DecodeError:
            return InvalidRequestError("message", f"{len(data)} bytes", "a protobuf message of the method's type")

    return parse_carefully


def hush_broken_calls() -> None:
    """Keep gRPC from logging an error, with a traceback, where a caller goes while the answer is being handed over."""
    _GRPC_LOG.addFilter(_is_worth_a_line)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    kind = record.exc_info[0] if record.exc_info else None
    return kind is None or kind.__name__ != _BROKEN_CALL
