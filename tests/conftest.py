"""Skips what this machine can't run, and says why."""

from ctypes.util import find_library

import pytest

_NEEDS = {
    "torch": "needs a CUDA device that torch can use",
    "onnxruntime": "needs a CUDA device and onnxruntime-gpu",
    "tensorrt": "needs a CUDA device, onnxruntime-gpu and TensorRT",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    has_cuda: dict[str, bool] = {}
    for item in items:
        # The marker, not the keyword: a parameter may be called gpu too.
        marker = item.get_closest_marker("gpu")
        if marker is None:
            continue
        library = str(marker.kwargs.get("library", "torch"))
        if library not in has_cuda:
            has_cuda[library] = _has_cuda(library)
        if not has_cuda[library]:
            item.add_marker(pytest.mark.skip(reason=_NEEDS[library]))


def _has_cuda(library: str) -> bool:
    if library in {"onnxruntime", "tensorrt"}:
        import onnxruntime

        # onnxruntime-gpu names both, whether or not their libraries are there; the CPU's build names neither.
        has_provider = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
        return has_provider and (library == "onnxruntime" or find_library("nvinfer") is not None)
    import torch

    return torch.cuda.is_available()
