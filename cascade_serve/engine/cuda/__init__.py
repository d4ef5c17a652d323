"""The torch engine: rows stay on the device from admission to their exit; CUDA graphs there, plain calls on a CPU."""

from cascade_serve.engine.cuda.network import TorchSession
from cascade_serve.engine.cuda.opening import open_torch_engine
from cascade_serve.engine.cuda.solo import SoloDevice

__all__ = ["SoloDevice", "TorchSession", "open_torch_engine"]
