"""Skips what this machine can't run, and says why."""

import onnxruntime
import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device and onnxruntime-gpu")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
