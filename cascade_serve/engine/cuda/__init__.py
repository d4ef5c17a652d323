"""The torch engine: rows stay on the device from admission to their exit; CUDA graphs there, plain calls on a CPU."""

from cascade_serve.engine.cuda.network import TorchSession
from cascade_serve.engine.cuda.opening import fingerprint, open_torch_engine

__all__ = ["TorchSession", "fingerprint", "open_torch_engine"]
