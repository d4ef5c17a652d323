"""What of gRPC's own log reaches the operator."""

import logging

import pytest
from grpc._cython import cygrpc

from cascade_serve.rpc.methods import hush_broken_calls

GRPC_LOG = logging.getLogger(cygrpc.__name__)


def log(error: Exception) -> None:
    try:
        raise error
    except type(error):
        GRPC_LOG.exception("raised in core")


def test_a_caller_that_goes_at_the_last_moment_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    hush_broken_calls()
    hush_broken_calls()
    log(cygrpc.ExecuteBatchError("Failed"))
    assert not caplog.records
    log(ZeroDivisionError())
    GRPC_LOG.error("without a traceback")
    assert len(caplog.records) == 2
