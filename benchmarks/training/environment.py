"""What a training figure was measured on: hardware and versions, in one line."""

import platform
from importlib.metadata import version

import torch

from benchmarks.environment import processor

_PACKAGES = ("torch", "torchvision", "timm", "numpy")


def describe() -> str:
    """Give processor, threads, GPU if there is one, Python and the versions that matter to training."""
    versions = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{processor()}, {torch.get_num_threads()} threads{gpu}; Python {platform.python_version()}, {versions}"
