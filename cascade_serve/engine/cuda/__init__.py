"""The torch engine: rows stay on the device from admission to their exit; CUDA graphs there, plain calls on a CPU."""

from cascade_serve.engine.cuda.network import TorchSession
from cascade_serve.engine.cuda.opening import open_torch_engine

__all__ = ["TorchSession", "open_torch_engine"]
