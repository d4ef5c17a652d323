"""A plain gRPC server: threads whose handlers call the engine; with ``--echo SECONDS`` it only answers, so late."""
# Shapes: B images of a request, HWC image.

import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
from hand_written import Cascade, Settings, pack, read_settings

_THREADS = 8


class Handler:
    """Bytes in (the pixels of one or more images), bytes out; see ``hand_written.pack``."""

    def __init__(self, settings: Settings) -> None:
        self._cascade = Cascade(settings)

    def __call__(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Answer one request."""
        del context
        images_BHWC = np.frombuffer(request, np.uint8).reshape(-1, *self._cascade.image_shape)
        return pack(self._cascade.answer(images_BHWC))


class Echo:
    """Answers with as many bytes as for one image, at once or after some seconds of keeping its core busy."""

    def __init__(self, busy_s: float) -> None:
        self._answer = bytes(12)
        self._busy_s = busy_s

    def __call__(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Answer one request."""
        del request, context
        end_s = time.perf_counter() + self._busy_s
        while time.perf_counter() < end_s:
            pass
        return self._answer


def main() -> None:
    """Serve until SIGTERM."""
    settings = read_settings()
    handler = Echo(float(sys.argv[2])) if sys.argv[1:2] == ["--echo"] else Handler(settings)
    server = grpc.server(ThreadPoolExecutor(_THREADS))
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(handler)
    server.add_registered_method_handlers("peers.Plain", {"Classify": method})
    if server.add_insecure_port(f"127.0.0.1:{settings.port}") == 0:
        sys.exit(f"port {settings.port} is taken")
    server.start()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    stop.wait()
    server.stop(None)


if __name__ == "__main__":
    main()
