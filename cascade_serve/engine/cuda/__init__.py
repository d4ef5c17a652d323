"""The torch engine: rows stay on the device from admission to their exit; CUDA graphs there, plain calls on a CPU."""
