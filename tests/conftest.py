"""Skips what this machine can't run, and says why."""

import onnxruntime
import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device and onnxruntime-gpu")
    for item in items:
        # The marker, not the keyword: a parameter may be called gpu too.
        if item.get_closest_marker("gpu") is not None:
            item.add_marker(skip)
