"""The gRPC method that Ray Serve's ingress offers: bytes in, bytes out, in protobuf's own wrapper.

Ray pickles messages between its processes, so their classes must be importable by name everywhere.
"""

from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import BytesValue


def add_to_server(servicer: Any, server: grpc.Server) -> None:
    """Register the method, as generated code would."""
    method = grpc.unary_unary_rpc_method_handler(
        servicer.Classify,
        request_deserializer=BytesValue.FromString,
        response_serializer=BytesValue.SerializeToString,
    )
    handlers = {"Classify": method}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("peers.Ray", handlers),))
