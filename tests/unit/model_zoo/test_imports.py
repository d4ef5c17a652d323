"""What serving imports stays free of the heavy packages."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "torchvision", "timm", "onnxscript"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("model_zoo.card", HEAVY | {"onnx", "onnxruntime"}),
        ("model_zoo.store", HEAVY | {"onnx", "onnxruntime"}),
        ("model_zoo.preprocess", HEAVY | {"onnx", "onnxruntime"}),
        ("model_zoo.image_folder", HEAVY | {"onnx", "onnxruntime"}),
        ("model_zoo.flops", HEAVY | {"onnxruntime"}),
        ("model_zoo.onnx_classifier", HEAVY),
        ("cascade_serve.zoo", HEAVY | {"onnx", "onnxruntime", "scipy"}),
        ("cascade_serve.cli.zoo", HEAVY | {"onnx", "onnxruntime", "scipy"}),
    ],
)
def test_import_is_light(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(*({absent!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True, timeout=60)
    assert done.stdout.split() == []
