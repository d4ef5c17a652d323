"""What a figure was measured on: hardware and versions, in one line."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("onnxruntime", "grpcio", "numpy")


def describe() -> str:
    """Give processor, cores, Python and the versions that matter to speed."""
    versions = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    return f"{processor()}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}"


def processor() -> str:
    """Name the processor, as the system does."""
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
